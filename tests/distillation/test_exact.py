"""Gradients of convolutions that bfloat16 gets wrong on a CPU."""

import pytest
import torch
from tiny_stereo import TinyStereo
from torch import nn

from densedistill.distillation import Objective, exact
from densedistill.distillation.exact import exact_gradients

WRONG = {
    "one pixel, stride": (nn.Conv2d(32, 32, 3, 2, 1), (1, 32, 1, 1)),
    "one column, stride": (nn.Conv2d(32, 32, 3, 2, 1), (2, 32, 4, 1)),
    "one row, 5x5": (nn.Conv2d(128, 128, 5, 1, 2), (1, 128, 1, 4)),
    "few channels, dilated": (nn.Conv2d(25, 25, 3, 1, 2, 2), (2, 25, 22, 30)),
    "depth of two": (nn.Conv3d(16, 16, 3, 1, 1, bias=False), (1, 16, 2, 8, 16)),
    "depth of two, stride": (nn.Conv3d(16, 16, 3, 2, 1), (1, 16, 2, 1, 1)),
    "named padding": (nn.Conv2d(25, 25, 3, padding="same", dilation=4), (2, 25, 22, 30)),
}
RIGHT = {
    "usual": (nn.Conv2d(32, 32, 3, 1, 1), (1, 32, 8, 8)),
    "usual, stride": (nn.Conv2d(3, 32, 3, 2, 1), (1, 3, 8, 8)),
    "two pixels, named padding": (nn.Conv2d(32, 32, 3, padding="same"), (1, 32, 2, 2)),
    "one pixel, 1x1": (nn.Conv2d(32, 32, 1), (1, 32, 1, 1)),
    "dilated": (nn.Conv2d(32, 32, 3, 1, 4, 4), (1, 32, 16, 16)),
    "volume": (nn.Conv3d(16, 16, 3, 1, 1), (1, 16, 4, 8, 8)),
    "slices": (nn.Conv3d(16, 16, (1, 3, 3), 1, (0, 1, 1)), (1, 16, 2, 8, 8)),
}


def gradients(conv, image):
    for _ in range(3):  # what an unwritten gradient would hold
        del [torch.full((1 << size,), float("nan")) for size in range(8, 20)][:]
    image = image.clone().requires_grad_()
    output = conv(image)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((output * weights.to(output.dtype)).sum(), [image, *conv.parameters()])
    return [output, *found]


def prepared(conv, shape):
    torch.manual_seed(0)
    form = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    return conv.to(memory_format=form), torch.randn(shape).contiguous(memory_format=form)


@pytest.mark.parametrize(("conv", "shape"), WRONG.values(), ids=WRONG)
def test_gradients_that_bfloat16_gets_wrong_are_those_of_float32(conv, shape):
    conv, image = prepared(conv, shape)
    truth = gradients(conv, image)
    for _ in range(4):
        with torch.autocast("cpu", torch.bfloat16), exact_gradients():
            found = gradients(conv, image)
        assert found[0].dtype is torch.bfloat16
        for ours, right in zip(found, truth, strict=True):
            assert (ours - right).norm() <= 1e-2 * right.norm()


def test_an_objective_under_autocast_has_exact_gradients(monkeypatch):
    seen = []

    def look(*args, **kwargs):
        seen.append(args)
        return False

    monkeypatch.setattr(exact, "_goes_wrong", look)
    batch = {"left": torch.rand(1, 3, 16, 32), "right": torch.rand(1, 3, 16, 32)}
    objective = Objective(
        {"t": {"loss": "l1", "of": "disparity", "to": "t"}}, TinyStereo(), {"t": TinyStereo()}
    )
    objective(batch)
    assert not seen
    with torch.autocast("cpu", torch.bfloat16):
        objective(batch)
        assert seen
        seen.clear()
        objective.student.compile(backend="eager")
        objective(batch)
        assert not seen


@pytest.mark.parametrize(("conv", "shape"), RIGHT.values(), ids=RIGHT)
def test_other_gradients_stay_in_bfloat16_to_the_bit(conv, shape):
    conv, image = prepared(conv, shape)
    with torch.autocast("cpu", torch.bfloat16):
        plain = gradients(conv, image)
        with exact_gradients():
            found = gradients(conv, image)
    assert all(map(torch.equal, found, plain))


@pytest.mark.parametrize(("conv", "shape"), WRONG.values(), ids=WRONG)
def test_without_bfloat16_or_a_gradient_nothing_changes(conv, shape):
    conv, image = prepared(conv, shape)
    plain = conv(image)
    with exact_gradients():
        assert torch.equal(conv(image), plain)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        plain = conv(image)
        with exact_gradients():
            assert torch.equal(conv(image), plain)
