"""Fused regression and losses over disparity distributions equal the plain formulation."""

from __future__ import annotations

import pytest
import torch

from densedistill.networks.layers import regression_chunked as chunked
from densedistill.networks.layers.regression import (
    disparity_cross_entropy,
    disparity_cross_entropy_reference,
    disparity_kl,
    disparity_kl_reference,
    regress_disparity,
    regress_disparity_reference,
)

# (coarse levels, height, width), fine levels, (height, width)
SHAPES = [
    ((12, 8, 16), 48, (32, 64)),
    ((48, 8, 16), 192, (32, 64)),
    ((24, 5, 7), 192, (40, 56)),
    ((12, 8, 16), 50, (29, 61)),
    ((12, 8, 16), 12, (8, 16)),
    ((5, 9, 3), 3, (4, 5)),
    ((9, 4, 4), 3, (4, 4)),
    ((1, 4, 4), 4, (8, 8)),
]


def draw(shape, batch=2, scale=4.0, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 1, *shape, generator=generator, dtype=torch.float64).mul(scale).to(dtype)


def value_and_gradient(function, logits, *args, **options):
    logits = logits.clone().requires_grad_()
    value = function(logits, *args, **options)
    weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (value * weight.to(value.dtype)).sum().backward()
    return value.detach(), logits.grad


@pytest.mark.parametrize("window", [None, 0, 1, 4])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("coarse", "levels", "size"), SHAPES)
def test_regression_equals_the_reference_in_value_and_gradient(coarse, levels, size, align_corners, window):
    logits = draw(coarse, scale=1.0)
    value, gradient = value_and_gradient(regress_disparity, logits, levels, size, align_corners, window)
    truth, truth_gradient = value_and_gradient(
        regress_disparity_reference, logits.double(), levels, size, align_corners, window
    )
    assert value.dtype == torch.float32
    assert value.shape == (2, 1, *size)
    torch.testing.assert_close(value, truth.float(), atol=1e-4, rtol=0)
    assert (gradient - truth_gradient).norm() <= 1e-3 * truth_gradient.norm() + 1e-9


@pytest.mark.parametrize("scale", [3.0, 12.0, 30.0, 300.0])
def test_large_logits_are_regressed_as_exactly_as_small_ones(scale):
    logits = draw((12, 8, 16), scale=scale)
    value, gradient = value_and_gradient(regress_disparity, logits, 48, (32, 64))
    truth, truth_gradient = value_and_gradient(regress_disparity_reference, logits.double(), 48, (32, 64))
    torch.testing.assert_close(value, truth.float(), atol=1e-6 * max(100, scale), rtol=0)
    assert (gradient - truth_gradient).norm() <= 1e-3 * truth_gradient.norm()


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("align_corners", [False, True])
def test_images_are_computed_in_pieces_of_any_height(monkeypatch, align_corners, window):
    student, teacher = draw((6, 5, 7)), draw((6, 5, 7), seed=1)
    mask = torch.rand(2, 1, 23, 9, generator=torch.Generator().manual_seed(2)) > 0.4
    answers = []
    for numbers in (chunked._BLOCK_NUMBERS, 4 * 24 * 9, 1):  # whole images, four to eight rows, one row
        monkeypatch.setattr(chunked, "_BLOCK_NUMBERS", numbers)
        options = {"align_corners": align_corners}
        answers.append(
            value_and_gradient(regress_disparity, student, 24, (23, 9), window=window, **options)
            + value_and_gradient(disparity_kl, student, teacher, 24, (23, 9), mask, **options)
        )
    for pieces in answers[1:]:
        for got, whole in zip(pieces, answers[0], strict=True):
            torch.testing.assert_close(got, whole, rtol=1e-4, atol=1e-4)


def test_a_window_answers_with_one_surface_where_the_expectation_lies_between_two():
    logits = torch.full((1, 16, 3, 3), -9.0)
    logits[:, 3], logits[:, 12] = 4.0, 3.5  # levels 3 and 12 of a quarter: 13.5 and 49.5 px
    assert 20 < regress_disparity(logits, 64, (12, 12)).mean() < 40
    near = regress_disparity(logits, 64, (12, 12), window=4)
    torch.testing.assert_close(near, torch.full_like(near, 13.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("window", [None, 2])
def test_exported_regression_equals_the_reference(monkeypatch, window):
    logits = draw((6, 4, 5), scale=1.0)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    value = regress_disparity(logits, 24, (16, 20), window=window)
    truth = regress_disparity_reference(logits, 24, (16, 20), window=window)
    torch.testing.assert_close(value, truth, atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [4.0, 16.0])
def test_regression_rounds_less_than_the_plain_formulation(scale, seed):
    logits = draw((24, 5, 7), scale=scale, seed=seed)
    truth = regress_disparity_reference(logits.double(), 192, (40, 56))
    fused, plain = (f(logits, 192, (40, 56)) for f in (regress_disparity, regress_disparity_reference))
    assert (fused - truth).norm() <= (plain - truth).norm()


@pytest.mark.parametrize("scale", [0.0, 100.0, 1e5])
def test_regression_stays_right_for_flat_and_for_huge_logits(scale):
    logits = draw((12, 4, 8), scale=scale, dtype=torch.float64)
    value, gradient = value_and_gradient(regress_disparity, logits, 48, (16, 32))
    truth, truth_gradient = value_and_gradient(regress_disparity_reference, logits, 48, (16, 32))
    torch.testing.assert_close(value, truth)
    torch.testing.assert_close(gradient, truth_gradient)


def test_huge_logits_are_finite_in_single_precision():
    logits = draw((12, 4, 8), scale=1e5)
    value, gradient = value_and_gradient(regress_disparity, logits, 48, (16, 32))
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert disparity_kl(logits, draw((12, 4, 8), scale=1e5, seed=1), 48, (16, 32)).isfinite()


def test_a_coarse_level_far_above_every_fine_one_leaves_small_differences_as_they_are():
    # Fine levels lie beside coarse ones: a high one between very low neighbours makes no fine level high.
    logits = draw((12, 4, 8))
    logits[:, :, :4] = torch.tensor([-1e12, -4e13, 3e12, -1e14])[None, None, :, None, None]
    value, gradient = value_and_gradient(regress_disparity, logits, 48, (16, 32))
    truth, truth_gradient = value_and_gradient(regress_disparity_reference, logits, 48, (16, 32))
    torch.testing.assert_close(value, truth, atol=1e-4, rtol=0)
    torch.testing.assert_close(gradient, truth_gradient, atol=1e-4, rtol=1e-3)
    student = draw((12, 4, 8), seed=1)
    torch.testing.assert_close(
        disparity_kl(student, logits, 48, (16, 32)), disparity_kl_reference(student, logits, 48, (16, 32))
    )


def test_regression_passes_gradcheck_in_double_precision():
    logits = draw((3, 2, 3), batch=1, scale=1.0, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: regress_disparity(x, 7, (5, 6)), logits)


def test_regression_reads_logits_without_channel_axis_and_of_any_strides():
    logits = draw((12, 8, 16))
    expected = regress_disparity(logits, 48, (32, 64))
    torch.testing.assert_close(regress_disparity(logits[:, 0], 48, (32, 64)), expected)
    transposed = logits.permute(0, 3, 4, 2, 1).contiguous().permute(0, 4, 3, 1, 2)
    torch.testing.assert_close(regress_disparity(transposed, 48, (32, 64)), expected)


def test_regression_computes_in_float32_under_autocast():
    logits = draw((12, 8, 16)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = value_and_gradient(regress_disparity, logits, 48, (32, 64))
    truth = regress_disparity_reference(logits.double(), 48, (32, 64))
    assert value.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(value, truth.float(), atol=1e-4, rtol=0)


def test_regression_refuses_logits_of_another_shape():
    with pytest.raises(ValueError, match=r"got \(2, 3, 4, 8, 8\)"):
        regress_disparity(torch.zeros(2, 3, 4, 8, 8), 16, (32, 32))


LOSSES = [
    (disparity_kl, disparity_kl_reference),
    (disparity_cross_entropy, disparity_cross_entropy_reference),
]


@pytest.mark.parametrize("reduction", ["mean", "published", "sum"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("loss", "reference"), LOSSES)
@pytest.mark.parametrize(("coarse", "levels", "size"), SHAPES)
def test_losses_equal_their_reference_in_value_and_gradient(
    coarse, levels, size, loss, reference, masked, reduction
):
    student, teacher = draw(coarse), draw(coarse, seed=1)
    mask = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(2)) > 0.4 if masked else None
    options = {"mask": mask, "temperature": 1.7, "reduction": reduction}
    value, gradient = value_and_gradient(loss, student, teacher, levels, size, **options)
    truth, truth_gradient = value_and_gradient(
        reference, student.double(), teacher.double(), levels, size, **options
    )
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, truth.float(), rtol=1e-4, atol=1e-5)
    assert (gradient - truth_gradient).norm() <= 1e-3 * truth_gradient.norm() + 1e-9


@pytest.mark.parametrize(("loss", "reference"), LOSSES)
def test_losses_compare_networks_whose_grids_differ(loss, reference):
    student, teacher = draw((12, 8, 16)), draw((24, 16, 32), seed=1)
    options = {"align_corners": False, "teacher_align_corners": True}
    value, gradient = value_and_gradient(loss, student, teacher, 48, (32, 64), **options)
    truth, truth_gradient = value_and_gradient(reference, student, teacher, 48, (32, 64), **options)
    torch.testing.assert_close(value, truth, rtol=1e-4, atol=1e-5)
    assert (gradient - truth_gradient).norm() <= 1e-3 * truth_gradient.norm() + 1e-9


def test_divergence_of_a_distribution_from_itself_is_zero_with_zero_gradient():
    logits = draw((12, 8, 16))
    value, gradient = value_and_gradient(disparity_kl, logits, logits, 48, (32, 64))
    assert value.abs() < 1e-5
    assert gradient.abs().max() < 1e-6


def test_losses_give_the_teacher_no_gradient_and_are_zero_without_pixels():
    student, teacher = draw((6, 4, 4)).requires_grad_(), draw((6, 4, 4), seed=1).requires_grad_()
    loss = disparity_kl(student, teacher, 24, (16, 16), torch.zeros(2, 1, 16, 16, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert teacher.grad is None
    assert not student.grad.any()


@pytest.mark.parametrize("loss", [disparity_kl, disparity_cross_entropy])
def test_losses_pass_gradcheck_in_double_precision(loss):
    student = draw((3, 2, 3), batch=1, scale=1.0, dtype=torch.float64).requires_grad_()
    teacher = draw((3, 2, 3), batch=1, scale=1.0, seed=1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, 7, (5, 6)), student)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: regress_disparity(x, 16, (6, 10)),
        lambda x: disparity_kl(x, torch.ones(1, 1, 4, 3, 5), 16, (6, 10)),
    ],
)
def test_a_gradient_of_the_gradient_is_refused(function):
    logits = draw((4, 3, 5), batch=1).requires_grad_()
    for loss in (function(logits).sum(), function(logits).square().sum()):
        (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
        with pytest.raises(RuntimeError, match=r"twice|does not require grad"):
            gradient.sum().backward()
