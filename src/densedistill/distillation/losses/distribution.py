"""Losses between distributions over disparities (or channels)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import UserError
from ...networks.layers.regression import disparity_cross_entropy, disparity_kl, upsample_logits
from ._shared import fill_masked, masked_mean, register_loss


@register_loss(same_shape=False, dims=(4, 5), above_zero=("temperature",))
def kl(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    *,
    max_disparity: int | None = None,
    size: tuple[int, int] | None = None,
    align_corners: bool = False,
    teacher_max_disparity: int | None = None,
    teacher_align_corners: bool | None = None,
) -> Tensor:
    """Return the mean over pixels of KL(teacher || student) over disparities (Hinton et al., 2015; DSNet's
    paper).

    Both logits are upsampled to (max_disparity, H, W) as their networks upsample them, then normalised.
    DSNet's code computes another form: `soft_kl`.

    Args:
        student, teacher: logits (B, 1, D, h, w) or (B, D, h, w); D, h and w may differ between the two.
        mask: bool (B, 1, H, W), True where a pixel counts.
        temperature: divides both logits; the result is multiplied by its square, which keeps the gradient's
            scale.
        max_disparity: the student's number of disparities M in px; default D.
        size: (H, W) of the comparison; default (h, w).
        align_corners, teacher_align_corners: of each network's upsampling; the teacher's default is the
            student's.
        teacher_max_disparity: where it differs, both distributions are cut to the levels they share and
            normalised over them again.

    Returns:
        Scalar, at least 0; 0 for equal inputs. Adding a constant to a pixel's logits changes nothing.
    """
    student, teacher, options = _common_levels(
        student, teacher, max_disparity, size, align_corners, teacher_max_disparity, teacher_align_corners
    )
    _check_mask("kl", mask, student, options["size"])
    return disparity_kl(student, teacher, mask=mask, temperature=temperature, **options) * temperature**2


@register_loss(same_shape=False, dims=(4, 5), grows=True)
def soft_kl(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    max_disparity: int | None = None,
    size: tuple[int, int] | None = None,
    align_corners: bool = False,
    teacher_max_disparity: int | None = None,
    teacher_align_corners: bool | None = None,
) -> Tensor:
    """Return DSNet's published "KLD": `-sum(p_T ln p_S) / (H W)`, summed over the batch.

    It differs from the paper's divergence (`kl`) by the teacher's entropy, which has no gradient, and grows
    with the batch, since the sum is not divided by B.

    Args:
        student, teacher: logits (B, 1, D, h, w) or (B, D, h, w).
        mask: bool (B, 1, H, W), True where a pixel counts; the mean over these replaces the one over pixels.
        max_disparity, size, align_corners, teacher_max_disparity, teacher_align_corners: see `kl`.

    Returns:
        Scalar, at least B times the teacher's mean entropy, which is its value for equal inputs.
    """
    student, teacher, options = _common_levels(
        student, teacher, max_disparity, size, align_corners, teacher_max_disparity, teacher_align_corners
    )
    _check_mask("soft_kl", mask, student, options["size"])
    return disparity_cross_entropy(student, teacher, mask=mask, reduction="published", **options)


@register_loss(dims=(5,), grows=True)
def soft_kl4d(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return `soft_kl` over the channels of a volume, summed over batch and disparities (DSNet's
    "soft_kl4D").

    Args:
        student, teacher: (B, C, D, H, W); softmax over C.
        mask: bool (B, 1, H, W) or broadcastable to (B, 1, D, H, W), True where a position counts.

    Returns:
        Scalar, B * D times a mean cross-entropy; lowest, but not 0, for equal inputs.
    """
    batch, _, levels = student.shape[:3]
    return _channel_cross_entropy(student, teacher, mask) * (batch * levels)


@register_loss(dims=(5,), grows=True)
def soft_kl4d_v2(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return `soft_kl` over the channels of a volume, averaged over disparities (DSNet's "soft_kl4D_v2").

    Args:
        student, teacher: (B, C, D, H, W); softmax over C.
        mask: bool (B, 1, H, W) or broadcastable to (B, 1, D, H, W), True where a position counts.

    Returns:
        Scalar, B times a mean cross-entropy; lowest, but not 0, for equal inputs.
    """
    return _channel_cross_entropy(student, teacher, mask) * student.shape[0]


@register_loss(dims=(3, 4, 5), grows=True)
def kld(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return `-sum(teacher ln student) / (H W)` of probabilities, summed over the batch (DSNet's "KLDLoss").

    Args:
        student, teacher: probabilities (B, C, …) above 0, which need not sum to 1.
        mask: bool (B, 1, …), True where a position counts.

    Returns:
        Scalar, B times a mean cross-entropy; lowest, but not 0, for equal distributions.
    """
    student, teacher = fill_masked(mask, student, teacher, value=1.0)
    entropy = -(teacher * student.log()).sum(1, keepdim=True)
    return masked_mean(entropy, _position_mask(mask)) * student.shape[0]


@register_loss(dims=(5,))
def stereo_kld(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the KL over disparities of two channel-averaged volumes, summed over pixels (DSNet's
    "StereoKLD").

    Args:
        student, teacher: (B, C, D, H, W); their means over C are logits over D.
        mask: bool (B, 1, H, W), True where a pixel counts; the mean over these, times H * W, replaces the
            sum.

    Returns:
        Scalar, the mean over the batch, at least 0; 0 for equal inputs.
    """
    log_s, log_t, mask = _disparity_log_probabilities(student, teacher, mask)
    divergence = (log_t.exp() * (log_t - log_s)).sum(1, keepdim=True)
    return masked_mean(divergence, mask) * (student.shape[-2] * student.shape[-1])


@register_loss(dims=(5,))
def focal(student: Tensor, teacher: Tensor, mask: Tensor | None = None, exponent: float = -5.0) -> Tensor:
    """Return a focal cross-entropy over disparities of two channel-averaged volumes (DSNet's "Focal").

    `-sum over D of p_T ln p_S (1 - p_T)^exponent`, mean over pixels. With the published -5 confident teachers
    weigh more, the opposite of the focal loss (ICCV 2017), and without bound as p_T nears 1.

    Args:
        student, teacher: (B, C, D, H, W); their means over C are logits over D.
        mask: bool (B, 1, H, W), True where a pixel counts.
        exponent: of 1 - p_T.

    Returns:
        Scalar, at least 0; not 0 for equal inputs.
    """
    log_s, log_t, mask = _disparity_log_probabilities(student, teacher, mask)
    target = log_t.exp()
    return masked_mean(-(target * (1 - target) ** exponent * log_s).sum(1, keepdim=True), mask)


def _common_levels(
    student: Tensor,
    teacher: Tensor,
    max_disparity: int | None,
    size: tuple[int, int] | None,
    align_corners: bool,
    teacher_max_disparity: int | None,
    teacher_align_corners: bool | None,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Return both logits, cut where their disparities differ, and the options of `disparity_kl`."""
    max_disparity = max_disparity or student.shape[-3]
    size = size or (student.shape[-2], student.shape[-1])
    teacher_max_disparity = teacher_max_disparity or max_disparity
    if teacher_align_corners is None:
        teacher_align_corners = align_corners
    levels = min(max_disparity, teacher_max_disparity)
    if max_disparity != teacher_max_disparity:
        student = upsample_logits(student, max_disparity, size, align_corners)[:, :levels]
        teacher = upsample_logits(teacher, teacher_max_disparity, size, teacher_align_corners)[:, :levels]
    return (
        student,
        teacher,
        {
            "max_disparity": levels,
            "size": size,
            "align_corners": align_corners,
            "teacher_align_corners": teacher_align_corners,
        },
    )


def _check_mask(name: str, mask: Tensor | None, logits: Tensor, size: tuple[int, int]) -> None:
    wanted = (logits.shape[0], 1, *size)
    if mask is not None and (tuple(mask.shape) != wanted or mask.dtype != torch.bool):
        kind = str(mask.dtype).removeprefix("torch.")
        raise UserError(f"loss '{name}' wants a bool mask {wanted}, got {kind} {tuple(mask.shape)}")


def _position_mask(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[:, :1]


def _channel_cross_entropy(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    student, teacher = fill_masked(mask, student, teacher)
    entropy = -(teacher.softmax(1) * student.log_softmax(1)).sum(1, keepdim=True)
    return masked_mean(entropy, _position_mask(mask))


def _disparity_log_probabilities(
    student: Tensor, teacher: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    if mask is not None and mask.shape[2] != 1:
        raise UserError(f"a mask of pixels is (B, 1, H, W), got {tuple(mask.shape)}")
    student, teacher = fill_masked(mask, student, teacher)
    pixels = None if mask is None else mask[:, :1, 0]
    return student.mean(1).log_softmax(1), teacher.mean(1).log_softmax(1), pixels
