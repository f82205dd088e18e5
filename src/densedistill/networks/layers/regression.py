"""From matching logits at low resolution to disparity at full resolution, and losses between distributions.

Published networks upsample logits to (M, H, W), take a softmax over M and an expectation; DSNet's loss
compares two such volumes. Nothing of that size is stored here, forward or backward: chunks in torch on the
CPU, Triton kernels on CUDA. Each computation is an operator of torch's dispatcher, so `torch.compile` keeps
it whole. Exports, which must consist of standard operators, trace plain torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import regression_chunked as chunked
from .exporting import is_exporting
from .image import at_least_float32
from .level_sums import interpolation_matrix
from .regression_plain import (
    Reduction,
    disparity_cross_entropy_reference,
    disparity_kl_reference,
    reduce_over_pixels,
    regress_disparity_reference,
    upsample_logits,
)

__all__ = [
    "Reduction",
    "disparity_cross_entropy",
    "disparity_cross_entropy_reference",
    "disparity_kl",
    "disparity_kl_reference",
    "regress_disparity",
    "regress_disparity_reference",
    "upsample_logits",
]


def regress_disparity(
    logits: Tensor,
    max_disparity: int,
    size: tuple[int, int],
    align_corners: bool = False,
    window: int | None = None,
) -> Tensor:
    """Return the expected disparity under the softmax of the upsampled `logits` (GC-Net, ICCV 2017, eq. 1).

    At the edge of an object the expectation lies between its disparity and the background's, where there is
    nothing. With a `window` only the likeliest level and its neighbours count (Chen et al., ICCV 2019, "On
    the over-smoothing problem of CNN based disparity estimation").

    Args:
        logits: matching logits (B, 1, D, h, w) or (B, D, h, w), larger is likelier.
        max_disparity: number M of disparities 0 … M-1 in pixels of the output.
        size: (H, W) of the output.
        align_corners: how the trilinear upsampling to (M, H, W) places its samples.
        window: px on each side of the likeliest disparity that count; None for all.

    Returns:
        Disparity (B, 1, H, W), float32 (float64 for float64 logits), in [0, M - 1] px.

    Raises:
        ValueError: `logits` is of another shape.
    """
    logits = _levels_first(logits)
    height, width = size
    if is_exporting():
        return _regress_by_standard_operators(logits, max_disparity, size, align_corners, window)
    return torch.ops.densedistill.regress_disparity(
        logits, max_disparity, height, width, align_corners, window
    )


def disparity_kl(
    student: Tensor,
    teacher: Tensor,
    max_disparity: int,
    size: tuple[int, int],
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    align_corners: bool = False,
    teacher_align_corners: bool | None = None,
) -> Tensor:
    """Return the divergence KL(teacher || student) of the upsampled distributions over disparity.

    Both logits are upsampled trilinearly to (M, H, W), divided by `temperature` and put through a softmax
    over M. The gradient goes to the student only. The value is not multiplied by the squared temperature.

    Args:
        student: logits (B, 1, D, h, w) or (B, D, h, w).
        teacher: logits, likewise; D, h and w may differ from the student's.
        max_disparity: number M of disparities 0 … M-1.
        size: (H, W), the size at which distributions are compared.
        mask: (B, 1, H, W) bool, True where a pixel counts; all pixels without it.
        temperature: divides both logits.
        reduction: "mean" over counted pixels; "published", that mean times B, which is DSNet's sum / (H * W);
            "sum" over counted pixels.
        align_corners: of the upsampling.
        teacher_align_corners: of the teacher's upsampling where it differs.

    Returns:
        Scalar, float32 (float64 for float64 logits), 0 when no pixel counts.

    Raises:
        ValueError: the logits or the mask are of another shape.
    """
    return _divergence(
        student,
        teacher,
        max_disparity,
        size,
        mask,
        temperature,
        reduction,
        align_corners,
        teacher_align_corners,
        True,
    )


def disparity_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    max_disparity: int,
    size: tuple[int, int],
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    align_corners: bool = False,
    teacher_align_corners: bool | None = None,
) -> Tensor:
    """Return the cross entropy of the upsampled student distribution under the upsampled teacher's.

    Arguments and result are those of `disparity_kl`, from which it differs by the teacher's entropy; the
    gradient is the same. With `reduction="published"` it is the loss of DSNet's authors (`soft_kl`).
    """
    return _divergence(
        student,
        teacher,
        max_disparity,
        size,
        mask,
        temperature,
        reduction,
        align_corners,
        teacher_align_corners,
        False,
    )


def _divergence(
    student: Tensor,
    teacher: Tensor,
    max_disparity: int,
    size: tuple[int, int],
    mask: Tensor | None,
    temperature: float,
    reduction: Reduction,
    align_corners: bool,
    teacher_align_corners: bool | None,
    entropy: bool,
) -> Tensor:
    student, teacher = _levels_first(student), _levels_first(teacher.detach())
    shape = (len(student), 1, *size)
    if len(teacher) != len(student):
        raise ValueError(
            f"{len(student)} student images cannot be compared with {len(teacher)} teacher images"
        )
    if mask is not None:
        mask = mask.bool().expand(shape)
    dtype = torch.promote_types(student.dtype, teacher.dtype)
    if teacher_align_corners is None:
        teacher_align_corners = align_corners
    total, _ = torch.ops.densedistill.disparity_divergence(
        student.to(dtype) / temperature,
        teacher.to(dtype) / temperature,
        mask,
        max_disparity,
        *size,
        align_corners,
        teacher_align_corners,
        entropy,
        student.requires_grad and torch.is_grad_enabled(),
    )
    return reduce_over_pixels(total, shape, mask, reduction).to(dtype)


def _levels_first(logits: Tensor) -> Tensor:
    """Return `logits` as (B, D, h, w), at least float32."""
    if logits.ndim == 5 and logits.shape[1] == 1:
        logits = logits[:, 0]
    if logits.ndim != 4:
        raise ValueError(f"logits have shape (B, 1, D, h, w) or (B, D, h, w), got {tuple(logits.shape)}")
    return at_least_float32(logits)


def _regress_by_standard_operators(
    logits: Tensor, max_disparity: int, size: tuple[int, int], align_corners: bool, window: int | None
) -> Tensor:
    # Runtimes are slow at trilinear resizing and at a softmax over channels; over the last axis, fast.
    wide = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners).permute(0, 2, 3, 1)
    # Not from the cache: a tensor made while tracing must not stay in it.
    matrix = interpolation_matrix.__wrapped__(
        logits.shape[1], max_disparity, align_corners, logits.dtype, logits.device
    )
    fine = torch.matmul(wide, matrix.T)
    levels = torch.arange(max_disparity, dtype=logits.dtype, device=logits.device)
    if window is not None:
        near = (levels - fine.argmax(-1, keepdim=True)).abs() <= window
        fine = fine.where(near, float("-inf"))
    return torch.matmul(fine.softmax(-1), levels[:, None]).permute(0, 3, 1, 2)


# `torch.library.custom_op` would be shorter, but imports dynamo, which takes seconds, on first use.
_LIBRARY = torch.library.Library("densedistill", "FRAGMENT")
_OPTIONS = "int max_disparity, int height, int width, bool align_corners"
_LIBRARY.define(f"regress_disparity(Tensor logits, {_OPTIONS}, int? window) -> Tensor")
_LIBRARY.define(
    f"regress_disparity_backward(Tensor gradient, Tensor logits, {_OPTIONS}, int? window) -> Tensor"
)
_LIBRARY.define(
    f"disparity_divergence(Tensor student, Tensor teacher, Tensor? mask, {_OPTIONS}, "
    "bool teacher_align_corners, bool entropy, bool backward) -> (Tensor, Tensor)"
)


def _without_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(first: Tensor, *rest: Any) -> Any:
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *rest)

    return run


def _kernels(logits: Tensor) -> ModuleType:
    """Return the module that computes for these logits, which are on a GPU."""
    if logits.dtype == torch.float32 and not torch.are_deterministic_algorithms_enabled():
        with contextlib.suppress(ImportError):  # no Triton for this platform
            from . import regression_triton

            if regression_triton.runs_here():
                return regression_triton
    return chunked


def _implement(operator: str, name: str) -> None:
    def on_gpu(first: Tensor, *rest: Any) -> Any:
        logits = rest[0] if operator.endswith("backward") else first
        return getattr(_kernels(logits), name)(first, *rest)

    _LIBRARY.impl(operator, _without_autocast(getattr(chunked, name)), "CompositeExplicitAutograd")
    _LIBRARY.impl(operator, _without_autocast(on_gpu), "CUDA")


_implement("regress_disparity", "expected_disparity")
_implement("regress_disparity_backward", "expected_disparity_backward")
_implement("disparity_divergence", "divergence")


@torch.library.register_fake("densedistill::regress_disparity", lib=_LIBRARY)
def _(logits: Tensor, max_disparity: int, height: int, width: int, *options: Any) -> Tensor:
    return logits.new_empty(logits.shape[0], 1, height, width)


@torch.library.register_fake("densedistill::regress_disparity_backward", lib=_LIBRARY)
def _(gradient: Tensor, logits: Tensor, *options: Any) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@torch.library.register_fake("densedistill::disparity_divergence", lib=_LIBRARY)
def _(student: Tensor, teacher: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    shape = student.shape if options[-1] else (0,)
    return student.new_empty((), dtype=torch.float64), student.new_empty(shape)


def _save_logits(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, *ctx.options = inputs
    ctx.save_for_backward(logits)


@once_differentiable
def _differentiate_regression(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    (logits,) = ctx.saved_tensors
    backward = torch.ops.densedistill.regress_disparity_backward
    return backward(gradient, logits, *ctx.options), *[None] * len(ctx.options)


def _save_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    # The loss is a scalar: its gradient is known up to a factor in the forward pass and costs no second one.
    ctx.save_for_backward(output[1])


@once_differentiable
def _differentiate_divergence(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Any, ...]:
    (student_gradient,) = ctx.saved_tensors
    return (student_gradient * gradient.to(student_gradient.dtype), *[None] * 9)


torch.library.register_autograd(
    "densedistill::regress_disparity", _differentiate_regression, setup_context=_save_logits, lib=_LIBRARY
)
torch.library.register_autograd(
    "densedistill::disparity_divergence",
    _differentiate_divergence,
    setup_context=_save_gradient,
    lib=_LIBRARY,
)
