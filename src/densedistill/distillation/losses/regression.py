"""Losses between predicted values, and between features value by value."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._shared import fill_masked, masked_mean, register_loss


@register_loss("hint_smooth")
def smooth_l1(student: Tensor, teacher: Tensor, mask: Tensor | None = None, beta: float = 1.0) -> Tensor:
    """Return the mean of `0.5 e² / beta` where `|e| < beta`, else `|e| - 0.5 beta` (Fast R-CNN, ICCV 2015,
    eq. 3).

    PSMNet, GwcNet and ACVNet train on it; DSNet compares the final disparities of student and teacher by it.

    Args:
        student, teacher: any one shape, any unit.
        mask: bool, broadcastable to the shape, True where an element counts.
        beta: where the quadratic part ends, in the unit of the tensors.

    Returns:
        Scalar, at least 0; 0 for equal inputs.
    """
    student, teacher = fill_masked(mask, student, teacher)
    return masked_mean(F.smooth_l1_loss(student, teacher, reduction="none", beta=beta), mask)


@register_loss()
def l1(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean absolute difference.

    Args:
        student, teacher: any one shape, any unit.
        mask: bool, broadcastable to the shape, True where an element counts.

    Returns:
        Scalar, at least 0; 0 for equal inputs.
    """
    student, teacher = fill_masked(mask, student, teacher)
    return masked_mean((student - teacher).abs(), mask)


@register_loss("hint_huber")
def huber(student: Tensor, teacher: Tensor, mask: Tensor | None = None, delta: float = 1.0) -> Tensor:
    """Return the mean of `0.5 e²` where `|e| < delta`, else `delta (|e| - 0.5 delta)` (Huber, 1964).

    Args:
        student, teacher: any one shape, any unit.
        mask: bool, broadcastable to the shape, True where an element counts.
        delta: where the quadratic part ends, in the unit of the tensors.

    Returns:
        Scalar, at least 0; 0 for equal inputs.
    """
    student, teacher = fill_masked(mask, student, teacher)
    return masked_mean(F.huber_loss(student, teacher, reduction="none", delta=delta), mask)


@register_loss("hint")
def mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean squared difference; between features it is the hint loss (FitNets, ICLR 2015, eq. 3).

    FitNets halves it and sums over elements; DSNet's code takes the mean, as here.

    Args:
        student, teacher: any one shape.
        mask: bool, broadcastable to the shape, True where an element counts.

    Returns:
        Scalar, at least 0; 0 for equal inputs.
    """
    student, teacher = fill_masked(mask, student, teacher)
    return masked_mean((student - teacher).square(), mask)


@register_loss(above_zero=("epsilon",))
def log_l1(student: Tensor, teacher: Tensor, mask: Tensor | None = None, epsilon: float = 1.0) -> Tensor:
    """Return the mean of `ln(|student - teacher| + epsilon)` (DSNet, IJCNN 2023, "LogL1").

    The paper asks for `epsilon >= 1`, which keeps the loss positive. The authors' code trains with 0.5:
    `log_l1_published`. Their code's own "LogL1" is another loss: `log_ratio`.

    Args:
        student, teacher: any one shape, px.
        mask: bool, broadcastable to the shape, True where an element counts.
        epsilon: px, above 0; bounds the slope by its inverse.

    Returns:
        Scalar, at least `ln(epsilon)`, which is its value for equal inputs.
    """
    student, teacher = fill_masked(mask, student, teacher)
    return masked_mean(((student - teacher).abs() + epsilon).log(), mask)


@register_loss("log_l1_v2")
def log_l1_published(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return `log_l1` with the 0.5 px of DSNet's code ("LogL1_v2"); at least -0.693, the value for equal
    inputs.

    Args:
        student, teacher: any one shape, px.
        mask: bool, broadcastable to the shape, True where an element counts.
    """
    return log_l1(student, teacher, mask, epsilon=0.5)


@register_loss()
def log_ratio(student: Tensor, teacher: Tensor, mask: Tensor | None = None, offset: float = 0.5) -> Tensor:
    """Return the mean of `|ln(student + offset) - ln(teacher + offset)|` ("LogL1" in DSNet's code, not in its
    paper).

    Args:
        student, teacher: any one shape, px, above `-offset`.
        mask: bool, broadcastable to the shape, True where an element counts.
        offset: px.

    Returns:
        Scalar, at least 0; 0 for equal inputs.
    """
    student, teacher = fill_masked(mask, student, teacher)
    return masked_mean(((student + offset).log() - torch.log(teacher + offset)).abs(), mask)
