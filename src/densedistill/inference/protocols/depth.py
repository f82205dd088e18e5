"""The protocols of monocular depth: caps, crops, and how a network is asked.

A name may go on with `+flip` (the mean over the image and its mirror image), `+median` (each image's median
made that of its ground truth) and `+aligned` or `+aligned_inverse` (scale and shift of least squares, of
depth or of its inverse, for networks that know depth up to these), in this order:
`kitti+flip`, `images+aligned`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..images import to_batches
from .procedures import clamped, flip_average, median_scaling, scale_and_shift
from .protocol import Outputs, Predicts, Protocol

LEAST = 1e-3
METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "a1", "a2", "a3")

# Shares of height (top, bottom) and width (left, right); Garg et al. (ECCV 2016), Eigen et al. (NIPS 2014).
GARG = (0.40810811, 0.99189189, 0.03594771, 0.96405229)
EIGEN = (0.3324324, 0.91351351, 0.0359477, 0.96405229)

# The part of a 640x480 NYU image that the published networks see: rows and columns, from and to.
NYU_SEEN = {"spatialkd": (24, 472, 40, 616), "lapdepth": (42, 474, 40, 616)}
NYU_COUNTED = (45, 471, 41, 601)


def share_of(size: tuple[int, int], shares: tuple[float, float, float, float]) -> Tensor:
    """Return the mask (H, W) of an image's part between `shares` of its height and width."""
    height, width = size
    top, bottom, left, right = shares
    mask = torch.zeros(size, dtype=torch.bool)
    mask[int(top * height) : int(bottom * height), int(left * width) : int(right * width)] = True
    return mask


def garg_crop(size: tuple[int, int]) -> Tensor:
    """Return the pixels (H, W) that count by Garg et al.: rows 143:349, columns 43:1172 of 352x1216."""
    return share_of(size, GARG)


def eigen_crop(size: tuple[int, int]) -> Tensor:
    """Return the pixels (H, W) that count by Eigen et al. on KITTI."""
    return share_of(size, EIGEN)


def nyu_crop(size: tuple[int, int]) -> Tensor:
    """Return the pixels (H, W) that count on NYU by Eigen et al.; all where the image is not 480x640."""
    if size != (480, 640):
        return torch.ones(size, dtype=torch.bool)
    mask = torch.zeros(size, dtype=torch.bool)
    top, bottom, left, right = NYU_COUNTED
    mask[top:bottom, left:right] = True
    return mask


def nyu_placement(seen: tuple[int, int, int, int]) -> Any:
    """Return the procedure that shows a network the part `seen` of a 480x640 image and pads with zeros."""
    top, bottom, left, right = seen

    def procedure(predict: Predicts) -> Predicts:
        def placed(*images: Any) -> Outputs:
            batches = to_batches(*images)
            if tuple(batches[0].shape[-2:]) != (480, 640):
                return predict(*batches)
            depth = predict(*(batch[..., top:bottom, left:right] for batch in batches))["depth"]
            whole = depth.new_zeros(*depth.shape[:-2], 480, 640)
            whole[..., top:bottom, left:right] = depth
            return {"depth": whole}

        return placed

    return procedure


def inverse_scale_and_shift(outputs: Outputs, batch: Mapping[str, Any]) -> Outputs:
    """Return depth with the scale and shift of least squares applied to its inverse, image by image."""
    inverse = {"depth": 1 / outputs["depth"].clamp(min=LEAST)}
    truth = {"depth": 1 / batch["depth"].clamp(min=LEAST), "depth_valid": batch["depth_valid"]}
    return {**outputs, "depth": 1 / scale_and_shift(inverse, truth)["depth"].clamp(min=LEAST)}


_PLAIN = Protocol("images", "whole images")
_KITTI = Protocol(
    "kitti",
    "KITTI, Eigen split: Garg's crop, up to 80 m",
    limits={"depth": (LEAST, 80.0)},
    region=garg_crop,
    alignments=(clamped(LEAST, 80.0),),
)
_NYU = Protocol(
    "nyu",
    "NYU Depth V2: Eigen's crop, up to 10 m, seen as Spatial-KD does",
    limits={"depth": (LEAST, 10.0)},
    region=nyu_crop,
    procedures=(nyu_placement(NYU_SEEN["spatialkd"]),),
    alignments=(clamped(LEAST, 10.0),),
)
_BASES = (
    _PLAIN,
    _KITTI,
    dataclasses.replace(
        _KITTI,
        name="kitti50",
        says="KITTI, Eigen split: Garg's crop, up to 50 m",
        limits={"depth": (LEAST, 50.0)},
        alignments=(clamped(LEAST, 50.0),),
    ),
    dataclasses.replace(
        _KITTI, name="kitti_eigen", says="KITTI, Eigen split: Eigen's crop, up to 80 m", region=eigen_crop
    ),
    _NYU,
    dataclasses.replace(
        _NYU,
        name="nyu_lapdepth",
        says="NYU Depth V2: Eigen's crop, up to 10 m, seen as LapDepth does",
        procedures=(nyu_placement(NYU_SEEN["lapdepth"]),),
    ),
    dataclasses.replace(
        _NYU,
        name="nyu_whole",
        says="NYU Depth V2: Eigen's crop, up to 10 m, whole images seen",
        procedures=(),
    ),
)
_ALIGNMENTS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "": ("", ()),
    "+median": ("medians made equal", (median_scaling,)),
    "+aligned": ("scale and shift of depth by least squares", (scale_and_shift,)),
    "+aligned_inverse": ("scale and shift of inverse depth by least squares", (inverse_scale_and_shift,)),
}


def _variants(base: Protocol) -> list[Protocol]:
    found = []
    for flip in ("", "+flip"):
        # The mirror image goes through the placement, too, so that the part seen is mirrored with it.
        asked = (flip_average, *base.procedures) if flip else base.procedures
        for alignment, (says, functions) in _ALIGNMENTS.items():
            words = [base.says, *(["mean with the mirror image"] if flip else []), *([says] if says else [])]
            found.append(
                dataclasses.replace(
                    base,
                    name=base.name + flip + alignment,
                    says="; ".join(words),
                    procedures=asked,
                    alignments=(*functions, *base.alignments),
                )
            )
    return found


PROTOCOLS = tuple(
    dataclasses.replace(protocol, task="depth", metrics=METRICS, masks=("all",), average="images")
    for base in _BASES
    for protocol in _variants(base)
)
