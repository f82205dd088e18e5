"""What every loss does before it computes: check shapes, go to float32, leave the teacher alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...errors import UserError
from ...networks.layers.image import at_least_float32
from ...registry import Registry

LOSSES = Registry("loss", ("densedistill.distillation.losses", "densedistill.distillation.replacement"))

Loss = TypeVar("Loss", bound=Callable[..., Tensor])


def register_loss(
    *aliases: str,
    same_shape: bool = True,
    dims: tuple[int, ...] = (),
    takes_truth: bool = False,
    sums: bool = False,
    grows: bool = False,
    casts: bool = False,
    above_zero: tuple[str, ...] = (),
) -> Callable[[Loss], Loss]:
    """Decorate `f(student, teacher, [mask,] **options)` to be a loss under its own name and `aliases`.

    The decorated function gets tensors of at least float32 outside autocast, a teacher without gradient,
    shapes that fit, and a mask of the student's number of dimensions, or raises `UserError`.

    Args:
        same_shape: both tensors must have one shape.
        dims: the numbers of dimensions that are taken; any when empty.
        takes_truth: compares a tap, such as the logits of a head, with the ground truth itself.
        sums: over pixels, so that among processes it weighs by samples, not by the pixels that count.
        grows: sums over the samples of the batch, so that a batch in parts takes the parts' sum.
        casts: computes in float32 itself, from tensors of whatever type, without a copy of them.
        above_zero: options that must be.
    """

    def decorate(function: Loss) -> Loss:
        name = function.__name__

        @functools.wraps(function)
        def loss(student: Tensor, teacher: Tensor, *args: Any, **options: Any) -> Tensor:
            mask = options.pop("mask", None) if not args else args[0]
            _check(name, student, teacher, same_shape, dims)
            for option in above_zero:
                if not options.get(option, 1) > 0:
                    raise UserError(f"loss '{name}': {option} must be above 0, got {options[option]}")
            if mask is not None:
                options["mask"] = fit_mask(name, mask, student) if same_shape else mask
            teacher = teacher.detach()
            if not casts:
                student, teacher = at_least_float32(student), at_least_float32(teacher)
            with torch.autocast(student.device.type, enabled=False):
                return function(student, teacher, *args[1:], **options)

        loss.same_shape, loss.dims = same_shape, dims  # type: ignore[attr-defined]
        loss.takes_truth, loss.sums, loss.grows = takes_truth, sums, grows  # type: ignore[attr-defined]
        for key in (name, *aliases):
            LOSSES.register(key)(loss)
        return loss  # type: ignore[return-value]

    return decorate


def fill_masked(mask: Tensor | None, *tensors: Tensor, value: float = 0.0) -> tuple[Tensor, ...]:
    """Return `tensors` with `value` where `mask` is False, so that nothing there takes part."""
    if mask is None:
        return tensors
    return tuple(torch.where(mask, tensor, tensor.new_tensor(value)) for tensor in tensors)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of `values` where `mask` (broadcast) is True; 0 when it is nowhere."""
    if mask is None:
        return values.mean()
    mask = mask.expand_as(values)
    return torch.where(mask, values, values.new_zeros(())).sum() / mask.sum().clamp(min=1)


def _check(name: str, student: Tensor, teacher: Tensor, same_shape: bool, dims: tuple[int, ...]) -> None:
    for side, tensor in (("student", student), ("teacher", teacher)):
        if dims and tensor.ndim not in dims:
            wanted = " or ".join(f"{d}" for d in dims)
            raise UserError(f"loss '{name}' wants {wanted} dimensions, the {side} has {_shape(tensor)}")
    if same_shape and student.shape != teacher.shape:
        raise UserError(
            f"loss '{name}' wants tensors of one shape, "
            f"got student {_shape(student)} and teacher {_shape(teacher)}"
        )


def fit_mask(name: str, mask: Tensor, student: Tensor) -> Tensor:
    """Return `mask` with the student's number of dimensions; UserError when it is no mask of its
    positions."""
    if mask.dtype != torch.bool:
        raise UserError(f"loss '{name}' wants a bool mask, got {str(mask.dtype).removeprefix('torch.')}")
    given = mask
    if mask.ndim == 4 and student.ndim == 5:
        mask = mask[:, :, None]  # a mask of pixels holds for every disparity of a volume
    fits = mask.ndim == student.ndim and all(
        m in (1, s) for m, s in zip(mask.shape, student.shape, strict=True)
    )
    if not fits:
        raise UserError(
            f"loss '{name}': the mask {_shape(given)} does not fit the student's {_shape(student)}"
        )
    return mask


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
