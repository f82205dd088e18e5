"""DWARF's parts, and what the clean variant mends."""

import pytest
import torch

import densedistill as dd
from densedistill.networks import dwarf
from densedistill.networks.layers.correlation import correlation_1d, correlation_2d, correlation_3d
from densedistill.networks.layers.warp import inside, warp


def direct(fixed, searched, reach, rows):
    height, width = fixed.shape[-2:]
    padded = torch.nn.functional.pad(searched, (reach, reach, rows, rows))
    shifts = [(y, x) for y in range(2 * rows + 1) for x in range(2 * reach + 1)]
    return torch.stack([(fixed * padded[..., y : y + height, x : x + width]).mean(1) for y, x in shifts], 1)


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 5, 4, 7), (3, 2, 3, 8), (1, 4, 6, 17), (2, 1, 5, 33)])
@pytest.mark.parametrize("reach", [1, 4, 9])
def test_correlations_equal_the_direct_formulation_with_its_gradient(shape, reach):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    for ours, rows in ((correlation_1d, 0), (correlation_2d, reach)):
        found, expected = ours(x, y, reach), direct(x, y, reach, rows)
        torch.testing.assert_close(found, expected)
        weights = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
        gradients = [torch.autograd.grad((value * weights).sum(), (x, y)) for value in (found, expected)]
        torch.testing.assert_close(gradients[0], gradients[1])


def test_large_maps_of_few_channels_are_correlated_alike_with_and_without_a_gradient():
    x, y = torch.randn(2, 1, 3, 64, 66)
    for correlate in (correlation_1d, correlation_2d):
        learned = correlate(x.clone().requires_grad_(), y, 2)
        torch.testing.assert_close(correlate(x, y, 2), learned.detach(), rtol=1e-4, atol=1e-5)


def test_the_3d_correlation_shifts_channels():
    x, y = torch.randn(2, 4, 5, 6), torch.randn(2, 4, 5, 6)
    found = correlation_3d(x, y, 1, depth=1)
    up = torch.cat((y[:, 1:], torch.zeros(2, 1, 5, 6)), 1)
    torch.testing.assert_close(found[:, 18:], direct(x, up, 1, 1))


@pytest.mark.parametrize("correlate", [correlation_1d, correlation_2d, correlation_3d])
def test_maps_of_two_shapes_are_refused(correlate):
    with pytest.raises(dd.UserError, match=r"two maps of one shape .*\(1, 2, 3, 4\)"):
        correlate(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 5))


@pytest.mark.full
def test_correlations_export_and_compute_as_before():
    class Both(torch.nn.Module):
        def forward(self, x, y):
            return correlation_2d(x, y), correlation_3d(x, y, depth=1)

    x, y = torch.randn(1, 4, 6, 10), torch.randn(1, 4, 6, 10)
    exported = torch.export.export(Both(), (x, y)).module()
    for found, expected in zip(exported(x, y), Both()(x, y), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_warp_by_whole_pixels_takes_them_and_repeats_the_border():
    image = torch.arange(12.0).view(1, 1, 3, 4)
    motion = torch.zeros(1, 2, 3, 4)
    motion[:, 0] = 1
    torch.testing.assert_close(warp(image, motion), image[..., [1, 2, 3, 3]])
    assert inside(motion)[0, 0].all(0).tolist() == [True, True, True, False]
    assert inside(-motion)[0, 0].all(0).tolist() == [False, True, True, True]
    assert inside(motion.flip(1))[0, 0].all(1).tolist() == [True, True, False]
    assert inside(-motion.flip(1))[0, 0].all(1).tolist() == [False, True, True]


def test_the_clean_variant_keeps_the_last_row_and_positive_disparities():
    torch.manual_seed(0)
    faithful, clean = dd.create_model("dwarf_slim_faithful"), dd.create_model("dwarf_slim")
    clean.load_state_dict(faithful.state_dict())
    views = list(torch.rand(4, 1, 8, 6, 10))
    still = torch.zeros(1, 4, 6, 10)
    assert not faithful._warped(views, still)[1][:, :, -1].any()
    torch.testing.assert_close(clean._warped(views, still)[1], views[1])
    # A match 2 px to the left: x - 2 in the clean network's sign, x + (-2) in the published one's.
    moved = still.clone()
    moved[:, 0] = 2
    torch.testing.assert_close(clean._warped(views, moved)[1][..., 2:], views[1][..., :-2])
    torch.testing.assert_close(faithful._warped(views, -moved)[1][..., :-1, 2:], views[1][..., :-1, :-2])
    # At t1 the right view is found by flow and disparity together; what lies outside is 0 in all three.
    moved[:, 1], moved[:, 3] = 3, 1
    for found, view, right, down in zip(
        clean._warped(views, moved)[1:], views[1:], (2, 0, 3), (0, 1, 1), strict=True
    ):
        expected = torch.nn.functional.pad(view[..., down:, : 10 - right], (right, 0, 0, down))
        torch.testing.assert_close(found, expected)


def test_the_clean_variant_enlarges_about_the_centres_of_pixels():
    motion = torch.rand(1, 2, 4, 6)
    mirrored = [
        dd.create_model(name)._full_size(motion.flip(2, 3), (16, 24)).flip(2, 3)
        for name in ("dwarf_slim", "dwarf_slim_faithful")
    ]
    expected = dd.create_model("dwarf_slim")._full_size(motion, (16, 24))
    torch.testing.assert_close(mirrored[0], expected)
    assert not torch.allclose(mirrored[1], expected)


def test_normalised_features_are_compared_whatever_their_scale_and_offset():
    volume, views = dwarf.CostVolume(normalized=True), torch.randn(4, 2, 8, 5, 6)
    torch.testing.assert_close(volume(*(0.1 * views + 3)), volume(*views), rtol=0, atol=2e-3)
    assert volume(*views)[:, dwarf.REACH].abs().mean() > 0.05


def test_an_untrained_slim_network_says_that_nothing_moves_and_keeps_the_size_of_its_features():
    torch.manual_seed(0)
    network = dd.create_model("dwarf_slim")
    images = torch.rand(4, 1, 3, 64, 64)
    assert all(motion.abs().max() < 4 for motion in network.eval()(*images).values())
    fine, *_, coarse = network.features(images[0] - 0.5)
    assert 0.05 < coarse.std() / fine.std() < 2


def test_disparities_come_out_positive_whatever_the_sign_inside():
    torch.manual_seed(0)
    for name, sign in (("dwarf_slim", 1), ("dwarf_slim_faithful", -1)):
        network = dd.create_model(name).eval()
        with torch.no_grad():
            for estimator in network.estimators.values():
                for key in ("disparity", "disparity_next"):
                    estimator.heads[key].motion.weight.zero_()
                    estimator.heads[key].motion.bias.fill_(sign * 0.25)
            for context in network.context.values():
                context[-1].weight.zero_()
        out = network(*torch.rand(4, 1, 3, 32, 64))
        torch.testing.assert_close(out["disparity"], torch.full((1, 1, 32, 64), 0.25 * dwarf.UNIT))
        torch.testing.assert_close(out["disparity_next"], out["disparity"])


def test_four_images_of_one_size_are_wanted():
    network = dd.create_model("dwarf_slim").eval()
    images = list(torch.rand(4, 1, 3, 32, 64))
    with pytest.raises(dd.UserError, match="four image batches of one shape"):
        network(*images[:3], images[3][..., :32])
    with pytest.raises(dd.UserError, match="multiples of 32, got 33x64"):
        network(*torch.rand(4, 1, 3, 33, 64))
