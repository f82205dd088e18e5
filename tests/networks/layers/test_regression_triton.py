"""The Triton kernels equal the plain formulation, on a GPU or, without one, in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from densedistill.networks.layers.regression import (
    disparity_cross_entropy_reference,
    disparity_kl_reference,
    regress_disparity_reference,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [((3, 2, 3), 8, (3, 5)), ((4, 3, 3), 3, (2, 2))]


def draw(shape, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(2, *shape, generator=generator) * scale).to(DEVICE)


def check_regression(kernels, coarse, levels, size, align_corners, window):
    logits = draw(coarse).requires_grad_()
    truth = regress_disparity_reference(logits, levels, size, align_corners, window)
    gradient = draw((1, *size), seed=1)
    (truth_gradient,) = torch.autograd.grad(truth, logits, gradient)
    options = (levels, *size, align_corners, window)
    value = kernels.expected_disparity(logits.detach(), *options)
    back = kernels.expected_disparity_backward(gradient, logits.detach(), *options)
    torch.testing.assert_close(value, truth.detach(), atol=1e-4, rtol=0)
    torch.testing.assert_close(back, truth_gradient, atol=1e-4, rtol=1e-3)


def check_divergence(kernels, coarse, levels, size, entropy, masked):
    student, teacher = draw(coarse).requires_grad_(), draw((coarse[0] + 1, 2, 5), seed=1)
    mask = torch.rand(2, 1, *size, device=DEVICE) > 0.4 if masked else None
    reference = disparity_kl_reference if entropy else disparity_cross_entropy_reference
    truth = reference(
        student, teacher, levels, size, mask, reduction="sum", align_corners=False, teacher_align_corners=True
    )
    (truth_gradient,) = torch.autograd.grad(truth, student)
    value, gradient = kernels.divergence(
        student.detach(), teacher, mask, levels, *size, False, True, entropy, True
    )
    torch.testing.assert_close(value.float(), truth.detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradient, truth_gradient, atol=1e-4, rtol=1e-3)


def check_huge_logits(kernels):
    logits = draw((4, 2, 2), scale=1e5)
    assert kernels.expected_disparity(logits, 16, 4, 4, False).isfinite().all()
    ones = torch.ones(2, 1, 4, 4, device=DEVICE)
    assert kernels.expected_disparity_backward(ones, logits, 16, 4, 4, False).isfinite().all()


def main():
    from densedistill.networks.layers import regression_triton as kernels

    cases = 0
    for shape in SHAPES:
        for one in (False, True):
            for window in (None, 1):
                check_regression(kernels, *shape, one, window)
                cases += 1
            for other in (False, True):
                check_divergence(kernels, *shape, one, other)
                cases += 1
    check_huge_logits(kernels)
    print(f"{cases + 1} cases passed")


@pytest.mark.full
def test_kernels_equal_the_reference_and_stay_finite():
    if importlib.util.find_spec("triton") is None:
        assert sys.platform not in ("linux", "win32")  # elsewhere there is no Triton, and nothing to test
        return
    # Triton decides at its import whether it interprets, and this process may have imported it.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if DEVICE == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, str(Path(__file__))], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("17 cases passed")


if __name__ == "__main__":
    main()
