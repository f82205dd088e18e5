import torch

from densedistill.distillation.masks import measured, place_mask, resize_mask
from densedistill.networks import InputSpec


def test_a_mask_follows_its_image_into_a_networks_input_where_padding_does_not_count():
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2] = True
    placed = place_mask(mask, InputSpec(scale=0.5, multiple=4, pad="top-right").place(4, 4))
    expected = torch.zeros_like(mask)
    expected[..., 2:, :1] = True
    assert torch.equal(placed, expected)


def test_a_position_of_a_tap_counts_where_any_of_its_pixels_does_and_in_the_left_view_alone():
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., 1, 2] = True
    small = torch.tensor([[[[False, True], [False, False]]]])
    assert torch.equal(resize_mask(mask, torch.rand(1, 3, 2, 2)), small)
    assert torch.equal(resize_mask(mask, torch.rand(2, 3, 2, 2)), torch.cat((small, torch.zeros_like(small))))


def test_labels_without_a_mask_count_where_they_are_known():
    labels, like = torch.tensor([[[0, 255, 3]]]), torch.zeros(1, 4, 1, 3)
    known = measured({"labels": labels}, "labels", like, None, ignore=255)
    assert known.tolist() == [[[[True, False, True]]]]


def test_without_ground_truth_no_pixel_of_a_map_and_no_sample_of_boxes_counts():
    for like, shape in ((torch.zeros(2, 3, 4, 5), (2, 1, 4, 5)), (torch.zeros(2, 5, 4), (2, 1))):
        nothing = measured({}, "boxes", like, None)
        assert nothing.shape == shape
        assert nothing.dtype == torch.bool
        assert not nothing.any()
