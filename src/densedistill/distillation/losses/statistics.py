"""Losses between distributions that came after structured distillation: over positions, classes and
images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from ._shared import fill_masked, masked_mean, register_loss

_LEAST = 1e-8


@register_loss("cwd", dims=(4,), above_zero=("temperature",))
def channel_wise(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, temperature: float = 4.0
) -> Tensor:
    """Return the KL between channels, each a distribution over positions (CWD, Shu et al., ICCV 2021).

    Args:
        student, teacher: logits or features (B, C, H, W).
        mask: bool (B, 1, H, W), True where a position takes part; a sample without any is left out.
        temperature: divides both; the result is multiplied by its square.

    Returns:
        Scalar, the mean over channels and samples, at least 0; 0 for equal inputs. A constant added to a
        channel changes nothing.
    """
    lowest = torch.finfo(student.dtype).min / 1e4
    student, teacher = fill_masked(mask, student, teacher, value=lowest)
    log_s = (student / temperature).flatten(2).log_softmax(-1)
    log_t = (teacher / temperature).flatten(2).log_softmax(-1)
    divergence = (log_t.exp() * (log_t - log_s)).sum(-1)
    known = None if mask is None else mask.flatten(1).any(1, keepdim=True)
    return masked_mean(divergence, known) * temperature**2


@register_loss(dims=(4,), above_zero=("temperature",))
def dist(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    inter: float = 1.0,
    intra: float = 1.0,
) -> Tensor:
    """Return how far class probabilities are from correlating (DIST, Huang et al., NeurIPS 2022).

    `inter`: 1 less Pearson's correlation over classes, mean over pixels. `intra`: over the pixels of a
    sample, mean over classes and samples.

    Args:
        student, teacher: logits (B, C, H, W).
        mask: bool (B, 1, H, W), True where a pixel counts.
        temperature: divides both; the result is multiplied by its square.
        inter, intra: weights of the two.

    Returns:
        Scalar, at least 0; 0 for equal inputs, but for classes that are nowhere likely in a sample (below
        about 1e-8), which correlate with nothing and count 1 in `intra`, without gradient.
    """
    student, teacher = fill_masked(mask, student, teacher)
    own, wanted = ((x / temperature).softmax(1).flatten(2) for x in (student, teacher))
    counts = torch.ones_like(own[:, :1])
    if mask is not None:
        counts = counts * mask[:, :1].expand(-1, 1, *student.shape[2:]).flatten(2)
    between = 1 - _correlation(own, wanted, torch.ones_like(own), 1)
    within = 1 - _correlation(own, wanted, counts.expand_as(own), 2)
    known = counts.sum((1, 2)) > 0
    within = torch.where(known[:, None], within, 0.0).sum() / (known.sum().clamp(min=1) * student.shape[1])
    between = (between * counts[:, 0]).sum() / counts.sum().clamp(min=1)
    return temperature**2 * (inter * between + intra * within)


@register_loss(same_shape=False, dims=(4,), above_zero=("temperature",))
def cross_image(student: Tensor, teacher: Tensor, temperature: float = 0.1, positions: int = 64) -> Tensor:
    """Return the KL between rows of similarities of pixels across images (CIRKD, Yang et al., CVPR 2022).

    The mini-batch pixel relation: for each pair of images of the batch, the cosines of all pixels of one with
    all of the other, as distributions over the latter. The batch is that of one call: of several processes,
    or parts whose gradients are accumulated, each compares its own images.

    Args:
        student, teacher: features (B, C, H, W); channels may differ. They are pooled to at most `positions`
            rows and columns, the teacher's to the student's.
        temperature: divides the cosines.
        positions: most rows and columns.

    Returns:
        Scalar, the mean over rows and pairs of images, at least 0; 0 for equal inputs. Rotating either
        feature space changes nothing.

    Raises:
        UserError: another number of samples.
    """
    if len(student) != len(teacher):
        raise UserError(
            f"loss 'cross_image': the student has {len(student)} samples, the teacher {len(teacher)}"
        )
    size = (min(student.shape[-2], positions), min(student.shape[-1], positions))
    of_student, of_teacher = (
        F.normalize(x if tuple(x.shape[-2:]) == size else F.adaptive_avg_pool2d(x, size), dim=1).flatten(2)
        for x in (student, teacher)
    )
    total = student.new_zeros(())
    for i in range(len(student)):
        # One image against all: the matrix of all pairs would grow with the square of the batch.
        log_s, log_t = (
            (torch.einsum("cm,bcn->bmn", x[i], x) / temperature).log_softmax(-1)
            for x in (of_student, of_teacher)
        )
        total = total + (log_t.exp() * (log_t - log_s)).sum(-1).mean()
    return total / len(student)


def _correlation(a: Tensor, b: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Return Pearson's correlation of `a` and `b` along `axis`, of what `weights` (0 or 1) count."""
    count = weights.sum(axis, keepdim=True).clamp(min=1)
    a, b = ((x - (x * weights).sum(axis, keepdim=True) / count) * weights for x in (a, b))
    squares = a.square().sum(axis) * b.square().sum(axis)
    return (a * b).sum(axis) / (squares + _LEAST**2).sqrt()
