"""Losses between feature maps or cost volumes, position by position."""

from __future__ import annotations

from torch import Tensor

from ...errors import UserError
from ._cosine import cosine_similarity
from ._shared import fill_masked, masked_mean, register_loss


@register_loss(dims=(2, 3, 4, 5), casts=True)
def cosine(student: Tensor, teacher: Tensor, mask: Tensor | None = None, dim: int = 1) -> Tensor:
    """Return the mean over positions of 1 - cosine similarity over channels (DSNet, "StereoSimilarity").

    Where both vectors are zero, as in a volume where `x < d`, the loss is 1 without gradient: a constant
    floor, 18 % of the positions at 48 levels and a width of 512 px.

    Args:
        student, teacher: (B, C, …): feature maps (B, C, H, W) or volumes (B, C, D, H, W).
        mask: bool, (B, 1, …) broadcastable to the positions, or (B, 1, H, W) for a volume; True where one
            counts.
        dim: the axis of the vectors: 1, the channels, or 2, the disparities of an attention (B, 1, D, H, W),
            whose single channel has no direction: along one element the loss is 0 or 2, without gradient.

    Returns:
        Scalar in [0, 2]; 0 for equal inputs without zero vectors. Scaling either input changes nothing.
    """
    if dim not in range(1, min(3, student.ndim)):
        raise UserError(f"loss 'cosine': dim is 1, the channels, or 2, a volume's disparities, got {dim}")
    student, teacher = fill_masked(mask, student, teacher)
    distance = 1 - cosine_similarity(student.movedim(dim, 1), teacher.movedim(dim, 1))
    return masked_mean(distance.unsqueeze(dim), None if mask is None else mask.narrow(dim, 0, 1))
