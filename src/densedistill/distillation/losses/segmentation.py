"""Losses of class maps: cross-entropy with the labels, and pixel-wise distillation.

Pixel-wise distillation is that of Structured Knowledge Distillation (https://arxiv.org/abs/1903.04197,
section 3.1) in three forms: the paper's (`pixel_wise`, the default), that of the published code, and that of
the CVPR version's code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from ._shared import fill_masked, fit_mask, masked_mean, register_loss

IGNORE = 255
OHEM_FACTOR = 8


@register_loss("ce", same_shape=False, dims=(3, 4), takes_truth=True)
def cross_entropy(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    class_weights: Sequence[float] | None = None,
) -> Tensor:
    """Return the mean cross-entropy of class logits over the labelled pixels.

    Args:
        student: logits (B, C, h, w), resized to the labels (bilinear, aligned corners).
        teacher: labels (B, H, W); 255 is void.
        mask: bool (B, H, W) or (B, 1, H, W), True where a pixel counts.
        class_weights: a factor for each class; the mean is then a weighted one.

    Returns:
        Scalar, at least 0; 0 where nothing counts.

    Raises:
        UserError: labels beyond the classes.
    """
    logits, labels = _fit(student, teacher, mask)
    weight = None if class_weights is None else _weights(class_weights, logits)
    losses = F.cross_entropy(logits, labels, weight, ignore_index=IGNORE, reduction="none")
    if weight is None:
        return losses.sum() / (labels != IGNORE).sum().clamp(min=1)
    counted = torch.where(labels == IGNORE, 0.0, weight[labels.clamp(max=len(weight) - 1)])
    return losses.sum() / counted.sum().clamp(min=torch.finfo(losses.dtype).tiny)


@register_loss("ohem", same_shape=False, dims=(3, 4), takes_truth=True)
def ohem_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    threshold: float = 0.7,
    min_kept: int = 100_000,
) -> Tensor:
    """Return the mean cross-entropy over the hard pixels (online hard example mining, as published).

    A pixel is hard when its true class's probability is at most the limit: `threshold`, or more, so that
    about `min_kept` pixels of the batch stay. The limit is found on maps of an eighth of the size.

    The batch is what one call sees: of several processes, or of parts whose gradients are accumulated, each
    finds its own limit on its own pixels, so that about `min_kept` stay in each; divide it by their number to
    keep as many in a step.

    Args:
        student: logits (B, C, h, w), resized to the labels (bilinear, aligned corners).
        teacher: labels (B, H, W); 255 is void.
        mask: bool (B, H, W) or (B, 1, H, W), True where a pixel counts.
        threshold: probability up to which a pixel is hard.
        min_kept: pixels of the batch that stay at least, over all its images.

    Returns:
        Scalar, at least 0; 0 where nothing counts.
    """
    logits, labels = _fit(student, teacher, mask)
    probabilities = logits.detach().softmax(1)
    limit = _hardness_limit(probabilities, labels, threshold, min_kept)
    confidence = probabilities.gather(1, labels.clamp(max=logits.shape[1] - 1)[:, None])[:, 0]
    labels = torch.where(confidence <= limit, labels, IGNORE)
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    return losses.sum() / (labels != IGNORE).sum().clamp(min=1)


@register_loss("logit_kl", same_shape=False, dims=(4,), above_zero=("temperature",))
def pixel_wise(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    standardise: bool = False,
) -> Tensor:
    """Return the mean over pixels of KL(teacher || student) over classes, times the squared temperature.

    Args:
        student, teacher: logits (B, C, h, w); a teacher of another resolution is resized to the student's.
        mask: bool (B, 1, H, W), True where a pixel counts.
        temperature: divides both logits.
        standardise: first give each pixel's logits mean 0 and deviation 1 (logit standardisation, Sun et al.,
            CVPR 2024), so that only their ranking and relative distances count.

    Returns:
        Scalar, at least 0; 0 for equal inputs. A constant added to a pixel's logits changes nothing; with
        `standardise` a positive factor does not, either.
    """
    student, teacher = _same_size("pixel_wise", student, teacher)
    mask = None if mask is None else fit_mask("pixel_wise", mask, student)
    student, teacher = fill_masked(mask, student, teacher)
    if standardise:
        student, teacher = _standardised(student), _standardised(teacher)
    log_s = (student / temperature).log_softmax(1)
    log_t = (teacher / temperature).log_softmax(1)
    divergence = (log_t.exp() * (log_t - log_s)).sum(1, keepdim=True)
    return masked_mean(divergence, None if mask is None else mask[:, :1]) * temperature**2


@register_loss(same_shape=False, dims=(4,), above_zero=("temperature",))
def standardised_kl(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, temperature: float = 2.0
) -> Tensor:
    """Return `pixel_wise` of standardised logits (Sun et al., CVPR 2024)."""
    return pixel_wise(student, teacher, mask, temperature=temperature, standardise=True)


@register_loss(dims=(4,), grows=True)
def pixel_wise_published(student: Tensor, teacher: Tensor) -> Tensor:
    """Return `-sum(p_T ln p_S) / (h w)`, summed over the batch, as the published code computes it.

    It contains the teacher's entropy, grows with the batch, and counts void pixels.

    Args:
        student, teacher: logits (B, C, h, w).

    Returns:
        Scalar; lowest, but not 0, for equal inputs.
    """
    entropy = -(teacher.softmax(1) * student.log_softmax(1)).sum()
    return entropy / (student.shape[-2] * student.shape[-1])


@register_loss(dims=(4,), above_zero=("temperature",))
def pixel_wise_cvpr19(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher || student) at eight times the size, averaged over every element, classes included.

    The form of the CVPR version's code, without the factor of the squared temperature.

    Args:
        student, teacher: logits (B, C, h, w).
        temperature: divides both.

    Returns:
        Scalar, at least 0; 0 for equal inputs.
    """
    size = (8 * student.shape[-2], 8 * student.shape[-1])
    log_s, log_t = (_resized(x / temperature, size).log_softmax(1) for x in (student, teacher))
    return (log_t.exp() * (log_t - log_s)).mean()


def _fit(student: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return logits and labels (B, H, W) int64 of one size; what does not count is void."""
    if labels.ndim == 4:
        labels = labels[:, 0]
    labels = labels.long()
    if len(labels) != len(student):
        raise UserError(
            f"class logits {tuple(student.shape)} and labels {tuple(labels.shape)} differ in the batch"
        )
    if mask is not None:
        labels = torch.where(mask[:, 0] if mask.ndim == 4 else mask, labels, IGNORE)
    # One look costs a synchronisation on a GPU, so it is kept off there: the data sets check, too.
    if labels.device.type == "cpu":
        worst = torch.where(labels == IGNORE, 0, labels)
        if worst.numel() and (worst.max() >= student.shape[1] or worst.min() < 0):
            wrong = int(worst.max() if worst.max() >= student.shape[1] else worst.min())
            raise UserError(
                f"the labels hold class {wrong}, the network tells {student.shape[1]} apart (0 to "
                f"{student.shape[1] - 1}; 255 is void); set the student's `classes` or map the labels"
            )
    return _resized(student, (labels.shape[-2], labels.shape[-1])), labels


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def _same_size(name: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.shape[:2] != teacher.shape[:2]:
        raise UserError(
            f"loss '{name}' wants as many classes of both, the student has {student.shape[1]}, the teacher "
            f"{teacher.shape[1]}; train both on the same classes"
        )
    return student, _resized(teacher, (student.shape[-2], student.shape[-1]))


def _standardised(logits: Tensor) -> Tensor:
    centred = logits - logits.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-12).sqrt()


def _weights(class_weights: Sequence[float], logits: Tensor) -> Tensor:
    if len(class_weights) != logits.shape[1]:
        raise UserError(f"class_weights has {len(class_weights)} entries for {logits.shape[1]} classes")
    return logits.new_tensor(list(class_weights))


def _hardness_limit(probabilities: Tensor, labels: Tensor, threshold: float, min_kept: int) -> Tensor | float:
    height, width = (max(1, round(side / OHEM_FACTOR)) for side in labels.shape[-2:])
    small = _resized(probabilities, (height, width))
    rows, columns = (
        (torch.arange(n, device=labels.device) * ((full - 1) / max(n - 1, 1)) + 0.5).long()
        for n, full in zip((height, width), labels.shape[-2:], strict=True)
    )
    small_labels = labels[:, rows][:, :, columns]
    counted = small_labels != IGNORE
    kept = min_kept // OHEM_FACTOR**2
    confidence = small.gather(1, small_labels.clamp(max=small.shape[1] - 1)[:, None])[:, 0][counted]
    if kept >= len(confidence):
        return 1.0
    if kept < 1:
        return threshold
    return confidence.kthvalue(kept).values.clamp(min=threshold)
