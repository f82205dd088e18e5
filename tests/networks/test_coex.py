"""CoEx: where its levels lie, and what its upsampling makes of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import densedistill as dd
from densedistill.networks.coex import CoEx, Join, Upsampling
from densedistill.networks.folding import fold_batch_norm


def upsampling(favoured):
    """Return an upsampling whose weight lies on one of the nine neighbours, whatever the image shows."""
    up = Upsampling(2, 4).eval()
    with torch.no_grad():
        up.weigh.weight.zero_()
        up.weigh.bias.copy_(F.one_hot(torch.tensor(favoured), 9).repeat_interleave(16) * 100.0)
    return up


def test_upsampling_takes_the_neighbour_that_its_weights_favour():
    coarse = torch.rand(2, 1, 5, 7)
    enlarged = F.interpolate(coarse, scale_factor=4, mode="nearest")
    features = torch.rand(2, 2, 10, 14), torch.rand(2, 4, 5, 7)
    assert torch.allclose(upsampling(4)(coarse, *features), enlarged)
    # The first of nine is up and to the left; beyond the border is what lies at it.
    shifted = F.pad(enlarged, (4, 0, 4, 0), mode="replicate")[..., :20, :28]
    assert torch.allclose(upsampling(0)(coarse, *features), shifted)


def test_upsampling_invents_no_disparity():
    torch.manual_seed(0)
    coarse = torch.tensor([[[[3.0, 50.0], [3.0, 50.0]]]])
    fine = Upsampling(2, 4)(coarse, torch.randn(1, 2, 4, 4), torch.randn(1, 4, 2, 2))
    assert fine.shape == (1, 1, 8, 8)
    assert fine.min() >= 3 - 1e-5
    assert fine.max() <= 50 + 1e-5


@pytest.mark.parametrize("folded", [False, True])
def test_joining_is_a_convolution_of_folded_features(folded):
    torch.manual_seed(0)
    join = Join(3, 5, 7).eval()
    join.norm.running_mean.uniform_(-1, 1)
    half, quarter = torch.randn(2, 3, 8, 6), torch.randn(2, 5, 4, 3)
    together = torch.cat((F.pixel_unshuffle(half, 2), quarter), 1)
    plain = join.norm(F.conv2d(together, join.conv.weight)).relu()
    join = fold_batch_norm(join) if folded else join
    torch.testing.assert_close(join(half, quarter), plain, rtol=1e-5, atol=1e-5)
    assert isinstance(join.norm, nn.Identity) == folded


def test_the_left_views_features_excite_the_volume_at_each_of_its_sizes():
    net, seen = CoEx(max_disparity=64).eval(), {}
    for path in ("features", "excite", "hourglass.excite1", "hourglass.excite2"):
        net.get_submodule(path).register_forward_hook(
            lambda _, inputs, output, path=path: seen.update({path: (inputs, output)})
        )
    net(*torch.rand(2, 1, 3, 32, 64))
    _, *features = seen.pop("features")[1]
    for feature, ((_, given), _) in zip(features, seen.values(), strict=True):
        assert torch.equal(given, feature[:1])


@pytest.mark.parametrize("level", [0, 1, 15])
def test_a_level_stands_for_four_pixels(level):
    net = CoEx(max_disparity=64).eval()
    logits = torch.zeros(1, 1, 16, 4, 4)
    logits[:, :, level] = 50
    net.head.register_forward_hook(lambda *_: logits)
    image = torch.rand(1, 3, 16, 16)
    assert torch.allclose(net(image, image)["disparity"], torch.tensor(4.0 * level))
    both = net.train()(image, image)["intermediate"]
    assert all(torch.allclose(one, torch.tensor(4.0 * level)) for one in both)


@pytest.mark.parametrize(("window", "expected"), [(0, 16.0), (2, 18.0), (4, 18.0), (None, 18.0)])
def test_a_window_counts_whole_levels(window, expected):
    net = CoEx(max_disparity=64, window=window).eval()
    logits = torch.full((1, 1, 16, 4, 4), -50.0)
    logits[:, :, 4:6] = 50
    net.head.register_forward_hook(lambda *_: logits)
    image = torch.rand(1, 3, 16, 16)
    assert torch.allclose(net(image, image)["disparity"], torch.tensor(expected))


def test_what_ships_finds_how_far_a_picture_was_moved():
    left = dd.create_dataset("middlebury2003")[0]["left"][:, 100:196, 100:292]
    predict = dd.Predictor(dd.create_model("coex_slim", weights="shipped", max_disparity=64))
    for shift in (6, 13, 29):
        right = left.roll(-shift, 2)
        found = predict(left, right)["disparity"][..., 64:-16]
        assert found.median() == pytest.approx(shift, abs=0.5)
