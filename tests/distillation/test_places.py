import pytest
import torch

from densedistill.distillation.places import pad_alike, share_levels
from densedistill.networks import InputSpec


def test_all_pad_as_the_first_does_to_a_size_that_each_takes():
    first, second = pad_alike(
        [
            InputSpec(multiple=4, min_size=(32, 16), pad="top-right", pad_mode="reflect"),
            InputSpec(multiple=6, min_size=(16, 64), pad_mode="replicate"),
        ]
    )
    for spec in (first, second):
        assert (spec.pad, spec.multiple, spec.min_size) == ("top-right", 12, (32, 64))
    assert (first.pad_mode, second.pad_mode) == ("reflect", "replicate")


@pytest.mark.parametrize("other", [{"scale": 0.5}, {"shorter_side": 64}])
def test_networks_that_see_images_at_different_scales_keep_their_padding(other):
    specs = [InputSpec(multiple=4), InputSpec(multiple=6, **other)]
    assert pad_alike(specs) == specs


@pytest.mark.parametrize("levels", [4, 8])
def test_volumes_of_one_range_are_left_to_an_adapter_whatever_their_levels(levels):
    volumes = torch.rand(1, 2, 8, 3, 4), torch.rand(1, 2, levels, 3, 4)
    for shared, volume in zip(share_levels(*volumes, 32, 32), volumes, strict=True):
        assert shared is volume


def test_volumes_of_another_range_share_their_first_levels():
    student, teacher = torch.rand(1, 2, 8, 3, 4), torch.rand(1, 2, 6, 3, 4)
    cut, whole = share_levels(student, teacher, 32, 24)
    assert torch.equal(cut, student[:, :, :6])
    assert whole.shape == teacher.shape
