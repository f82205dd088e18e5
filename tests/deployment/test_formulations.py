"""The published steps that the benchmarks measure against compute what this toolkit computes."""

import argparse
import contextlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import distillation_step
from formulations import NAMES
from no_convolutions import no_convolutions


@pytest.mark.parametrize("system", NAMES)
def test_both_sides_of_a_step_give_one_loss(system):
    options = argparse.Namespace(
        system=system, height=128, width=128, max_disparity=64, batch=1, precision="float32"
    )
    losses = distillation_step.check(options)
    assert losses["ours"] == pytest.approx(losses["plain"], rel=1e-3)  # folding rounds


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", ["Conv2d", "Conv3d", "ConvTranspose2d", "ConvTranspose3d"])
def test_a_convolution_of_nothing_gives_what_a_real_one_would_but_for_numbers(kind, last, bfloat16):
    dims = int(kind[-2])
    memory_format = {2: torch.channels_last, 3: torch.channels_last_3d}[dims] if last else None
    conv = getattr(nn, kind)(4, 6, 3, 2, 1).to(memory_format=memory_format or torch.contiguous_format)
    image = torch.randn(2, 4, *[9] * dims).contiguous(memory_format=memory_format or torch.contiguous_format)
    image.requires_grad_()
    results = []
    for context in (contextlib.nullcontext(), no_convolutions()):
        with context, torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            result = conv(image)
        gradients = torch.autograd.grad(result.float().sum(), [image, *conv.parameters()])
        # Without units for bfloat16, a processor computes 3D convolutions contiguously.
        results.append([(x.shape, x.dtype, not bfloat16 and x.stride()) for x in (result, *gradients)])
        value = result.detach().unique().numel()
    assert results[0] == results[1]
    assert value == 1  # nothing was computed
