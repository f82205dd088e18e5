"""What every stereo network does at its two ends: refuse what it cannot take, give what is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ...errors import UserError
from .aggregation import Aggregation
from .image import check_multiple


def check_max_disparity(max_disparity: int, multiple: int) -> None:
    """Raise UserError unless `max_disparity` is a positive multiple of `multiple`."""
    if not isinstance(max_disparity, int):
        raise UserError(f"max_disparity is a whole number of pixels, got {max_disparity!r}")
    if max_disparity <= 0 or max_disparity % multiple:
        better = max(multiple, -(-max_disparity // multiple) * multiple)
        raise UserError(
            f"max_disparity of this network is a multiple of {multiple}, got {max_disparity}; use {better}"
        )


def check_window(window: int | None) -> None:
    """Raise UserError when `window`, px on each side of the likeliest disparity that count, is below 0."""
    if window is not None and window < 0:
        raise UserError(f"window is 0 px or more, or None for all disparities, got {window}")


def check_pair(left: Tensor, right: Tensor) -> tuple[int, tuple[int, int]]:
    """Return B and (H, W) of two views (B, 3, H, W).

    Raises:
        UserError: they are not of one such shape, or H or W is no multiple of 16.
    """
    if left.ndim != 4 or left.shape[1] != 3 or left.shape != right.shape:
        raise UserError(
            "a stereo network takes two image batches of one shape (B, 3, H, W), "
            f"got {tuple(left.shape)} and {tuple(right.shape)}"
        )
    return left.shape[0], check_multiple(left.shape[-2:], 16)


def disparity_outputs(
    logits: Sequence[Tensor], regress: Callable[[Tensor], Tensor], training: bool
) -> dict[str, Any]:
    """Return a stereo network's outputs from the logits of its heads, coarse to final.

    Args:
        logits: of the heads that ran, (B, 1, D, h, w) each.
        regress: from logits to disparity (B, 1, H, W).
        training: regress every head, not the last alone.
    """
    if not training:
        return {"disparity": regress(logits[-1])}
    disparities = [regress(one) for one in logits]
    return {"disparity": disparities[-1], "intermediate": disparities}


def stereo_taps(aggregation: Aggregation) -> dict[str, tuple[str, ...]]:
    """Return the taps of a network that has `features`, a `volume` and this `aggregation`.

    `features.early` is the stem and the first stage, `aggregation` the logits of all heads, `encoders` the
    aggregated volumes (behind their adapters where there are any); both coarse to final.
    """
    encoders = range(len(aggregation.encoders))
    aggregated = ["aggregation.residual", *(f"aggregation.encoders.{i}" for i in encoders)]
    adapted = [f"aggregation.adapters.{i}" for i in range(len(aggregation.adapters))]
    return {
        "features.early": ("features.stem", "features.stage1"),
        "features": ("features",),
        "volume": ("volume",),
        "aggregation": tuple(f"aggregation.heads.{i}" for i in range(len(aggregation.heads))),
        "encoders": tuple(adapted or aggregated),
    }
