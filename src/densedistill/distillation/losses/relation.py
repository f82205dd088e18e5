"""Losses between relations of samples within a batch, and between pooled features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from ._shared import fill_masked, masked_mean, register_loss


@register_loss(dims=(4,))
def mf_old(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of two mean-absolute-value maps, as coded in DSNet ("mf_old").

    Meant as attention transfer (ICLR 2017); but the code reads the second sample alone, and averages over its
    height where the channels were meant. It takes no mask, since it compares no positions.

    Args:
        student, teacher: features (B, C, H, W), B at least 2.

    Returns:
        Scalar, at least 0; 0 for equal inputs.

    Raises:
        UserError: a single sample.
    """
    _check_samples("mf_old", student, 2)
    return F.mse_loss(student[1].abs().mean(1), teacher[1].abs().mean(1))


@register_loss(dims=(2, 3, 4, 5))
def rkd(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Tensor:
    """Return the difference of the distances and angles between samples (RKD, CVPR 2019, eq. 4 to 8).

    Distances are divided by the mean of the positive ones; both are compared by `smooth_l1`. Samples are
    those of one call: of several processes, or parts whose gradients are accumulated, each compares its own.

    Args:
        student, teacher: (B, …), a vector per sample; they may differ in all axes but the first when `mask`
            is None.
        mask: bool, broadcastable to the shape; what does not count is 0 in both.
        distance_weight, angle_weight: of the two parts.

    Returns:
        Scalar, at least 0; 0 for equal inputs. Rotating or scaling either side's vectors changes nothing.

    Raises:
        UserError: a single sample.
    """
    _check_samples("rkd", student, 2)
    student, teacher = (x.flatten(1) for x in fill_masked(mask, student, teacher))
    distance = F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))
    angle = F.smooth_l1_loss(_angles(student), _angles(teacher))
    return distance_weight * distance + angle_weight * angle


@register_loss(dims=(2, 3, 4, 5))
def pkt(student: Tensor, teacher: Tensor, mask: Tensor | None = None, epsilon: float = 1e-7) -> Tensor:
    """Return the divergence of the probabilities that samples are neighbours (PKT, ECCV 2018, eq. 5 with
    cosines).

    Samples are those of one call: of several processes, or parts whose gradients are accumulated, each
    compares its own.

    Args:
        student, teacher: (B, …), a vector per sample.
        mask: bool, broadcastable to the shape; what does not count is 0 in both.
        epsilon: guards norms and logarithms.

    Returns:
        Scalar, the mean over pairs of samples; 0 for equal inputs.

    Raises:
        UserError: a single sample.
    """
    _check_samples("pkt", student, 2)
    student, teacher = (x.flatten(1) for x in fill_masked(mask, student, teacher))
    near_s, near_t = _neighbourhood(student, epsilon), _neighbourhood(teacher, epsilon)
    return (near_t * ((near_t + epsilon) / (near_s + epsilon)).log()).mean()


@register_loss(dims=(4, 5))
def hcl(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return squared differences at full size and pooled to 16, 8 and 4 (Knowledge Review, CVPR 2021, "HCL").

    The pooled sizes below the height count ½, ¼, ⅛ in turn, and the sum is divided by all factors used. A
    volume is pooled along all three axes (DSNet's "KR_HLC").

    Args:
        student, teacher: features (B, C, H, W) or volumes (B, C, D, H, W).
        mask: bool, broadcastable to (B, 1, …), or (B, 1, H, W); pooling averages what counts.

    Returns:
        Scalar, at least 0; 0 for equal inputs.
    """
    if mask is not None:
        mask = mask[:, :1].expand(-1, 1, *student.shape[2:])
    student, teacher = fill_masked(mask, student, teacher)
    share = None if mask is None else mask.to(student.dtype)
    loss = masked_mean((student - teacher).square(), mask)
    total, factor = 1.0, 1.0
    for length in (16, 8, 4):
        if length >= student.shape[-2]:
            continue
        difference, counts = _shrink(student - teacher, length), None
        if share is not None:
            covered = _shrink(share, length)
            counts = covered > 0
            difference = difference / torch.where(counts, covered, 1)
        factor /= 2
        loss = loss + factor * masked_mean(difference.square(), counts)
        total += factor
    return loss / total


def _shrink(features: Tensor, length: int) -> Tensor:
    """Return `features` averaged to `length` along each axis but batch and channels."""
    if features.ndim == 4:
        return F.adaptive_avg_pool2d(features, (length, length))
    return F.adaptive_avg_pool3d(features, (length, length, length))


def _relative_distances(vectors: Tensor) -> Tensor:
    squares = vectors.square().sum(1)
    distances = (squares[:, None] + squares[None] - 2 * vectors @ vectors.T).clamp(min=1e-12).sqrt()
    distances = distances * (1 - torch.eye(len(vectors), dtype=vectors.dtype, device=vectors.device))
    return distances / distances[distances > 0].mean()


def _angles(vectors: Tensor) -> Tensor:
    """Return, for every triple of samples, the cosine of the angle at the first."""
    directions = F.normalize(vectors[None] - vectors[:, None], dim=2)
    return directions @ directions.transpose(1, 2)


def _neighbourhood(vectors: Tensor, epsilon: float) -> Tensor:
    vectors = vectors / (vectors.norm(dim=1, keepdim=True) + epsilon)
    nearness = (vectors @ vectors.T + 1) / 2
    return nearness / nearness.sum(1, keepdim=True)


def _check_samples(name: str, tensor: Tensor, least: int) -> None:
    if len(tensor) < least:
        raise UserError(
            f"loss '{name}' compares samples of a batch and wants at least {least}, got {len(tensor)}"
        )
