"""A loss between the logits over disparities and the ground truth itself."""

from __future__ import annotations

import torch
from torch import Tensor

from ...networks.layers.regression import upsample_logits
from ._shared import fill_masked, masked_mean, register_loss


@register_loss(same_shape=False, takes_truth=True, above_zero=("scale",))
def laplacian_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    scale: float = 2.0,
    *,
    max_disparity: int | None = None,
    size: tuple[int, int] | None = None,
    align_corners: bool = False,
) -> Tensor:
    """Return the mean over pixels of the cross-entropy to a Laplacian about the true disparity (Lac-GwcNet).

    The target at level d is exp(-|d - truth| / scale), normalised over the levels with 1e-8 added to the sum,
    and 1e-8 is added to the student's probability inside the logarithm, as in the published code.

    Args:
        student: logits (B, 1, D, h, w), or (B, M, H, W) at full size.
        teacher: the true disparity (B, 1, H, W), px.
        mask: bool (B, 1, H, W), True where a pixel counts.
        scale: of the Laplacian, px.
        max_disparity: number of disparities M in px; default the logits' own.
        size: (H, W) of the comparison; default the truth's.
        align_corners: how the network upsamples its logits.
    """
    (teacher,) = fill_masked(mask, teacher)
    levels = max_disparity or student.shape[-3]
    logits = upsample_logits(student, levels, size or (teacher.shape[-2], teacher.shape[-1]), align_corners)
    disparity = torch.arange(levels, dtype=logits.dtype, device=logits.device).view(1, -1, 1, 1)
    target = torch.exp(-(disparity - teacher).abs() / scale)
    target = target / (target.sum(1, keepdim=True) + 1e-8)
    entropy = -(target * (logits.softmax(1) + 1e-8).log()).sum(1, keepdim=True)
    return masked_mean(entropy, mask)
