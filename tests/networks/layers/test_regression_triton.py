"""The Triton kernels equal the plain formulation, on a GPU or, without one, in Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch

from densedistill.networks.layers.regression import (
    disparity_cross_entropy_reference,
    disparity_kl_reference,
    regress_disparity_reference,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="Triton exists for Linux and Windows only")

from densedistill.networks.layers import regression_triton as kernels  # noqa: E402

SHAPES = [((3, 2, 3), 8, (3, 5)), ((4, 3, 3), 3, (2, 2))]

# Triton must be imported in a process of its own to be interpreted, and is slow then.
pytestmark = pytest.mark.verify


def draw(shape, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(2, *shape, generator=generator) * scale).to(DEVICE)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("coarse", "levels", "size"), SHAPES)
def test_regression_kernel_equals_the_reference(coarse, levels, size, align_corners):
    logits = draw(coarse).requires_grad_()
    truth = regress_disparity_reference(logits, levels, size, align_corners)
    gradient = draw((1, *size), seed=1)
    (truth_gradient,) = torch.autograd.grad(truth, logits, gradient)
    value = kernels.expected_disparity(logits.detach(), levels, *size, align_corners)
    back = kernels.expected_disparity_backward(gradient, logits.detach(), levels, *size, align_corners)
    torch.testing.assert_close(value, truth.detach(), atol=1e-4, rtol=0)
    torch.testing.assert_close(back, truth_gradient, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize(("coarse", "levels", "size"), SHAPES)
def test_divergence_kernel_equals_the_reference(coarse, levels, size, entropy, masked):
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


def test_kernels_stay_finite_for_huge_logits():
    logits = draw((4, 2, 2), scale=1e5)
    assert kernels.expected_disparity(logits, 16, 4, 4, False).isfinite().all()
    ones = torch.ones(2, 1, 4, 4, device=DEVICE)
    assert kernels.expected_disparity_backward(ones, logits, 16, 4, 4, False).isfinite().all()
