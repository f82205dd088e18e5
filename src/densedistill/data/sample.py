"""Samples: what a data set gives, and how they become a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError

Sample = dict[str, Any]

IMAGES = ("left", "right", "left_next", "right_next", "image")
DISPARITIES = ("disparity", "disparity_right", "disparity_next")
IGNORE_LABEL = 255

# Boxes and their classes: what is to be found, and what counts neither for nor against when it is.
BOXES = {"boxes": "classes", "ignored_boxes": "ignored_classes"}

# What each key of a sample is, which says how it is cropped, scaled and mirrored (`geometry.apply`): an
# `image`; a `disparity` or a `flow`, px, which scale with their axes; a `measure` that does not, such as
# metres; `boxes` and their `classes`. All else, masks and labels, takes the nearest pixel. A task with a key
# of a new kind adds a line.
KINDS = {
    **dict.fromkeys(IMAGES, "image"),
    **dict.fromkeys(DISPARITIES, "disparity"),
    "flow": "flow",
    "depth": "measure",
    **dict.fromkeys(BOXES, "boxes"),
    **dict.fromkeys(BOXES.values(), "classes"),
}

# Kinds of maps that a mask of their own, `KEY_valid`, says of where they were measured.
_MEASURED = ("disparity", "flow", "measure")

# What stands for ground truth that a sample of the batch does not have; other keys are filled with zero.
_FILL = {"labels": IGNORE_LABEL, **dict.fromkeys(BOXES.values(), -1)}


def full_view(height: int, width: int) -> dict[str, Any]:
    """Return the `view` of a sample that is its whole source.

    A source pixel (x, y) lies in the sample at: times `scale` (y, x), about half-pixel centres, then mirrored
    over the scaled image by `flip` ("", "h", "v" or "hv"), then less the top left corner of `crop` (top,
    left, height, width).
    """
    return {"scale": (1.0, 1.0), "flip": "", "crop": (0, 0, height, width)}


def image_tensor(image: NDArray[np.uint8]) -> Tensor:
    """Return an (H, W, 3) array as a (3, H, W) tensor over the same memory."""
    return torch.from_numpy(image).permute(2, 0, 1)


def as_bytes(image: Tensor) -> Tensor:
    """Return `image`, uint8 or float in [0, 1], as uint8."""
    return image if image.dtype == torch.uint8 else (image.clamp(0, 1) * 255).round().byte()


def disparity_tensors(values: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Return disparity and valid, (1, H, W), of an (H, W) map in which 0, less, inf and nan are unknown."""
    valid = np.isfinite(values) & (values > 0)
    return torch.from_numpy(np.where(valid, values, np.float32(0)))[None], torch.from_numpy(valid)[None]


def require_sample(sample: Any, data: str) -> None:
    """Raise UserError unless `sample`, of `data`, is a mapping of tensors, beside its `meta`: a data set of
    one's own may give anything."""
    if not isinstance(sample, Mapping):
        raise UserError(f"{data}: a sample is a mapping of tensors by name, got {type(sample).__name__}")
    for key, value in sample.items():
        if key == "meta":
            continue
        if not isinstance(value, Tensor):
            raise UserError(
                f"{data}: a sample's '{key}' is a tensor, got {type(value).__name__}; what is none stands in "
                "its 'meta'"
            )
        if key.endswith("_valid") and value.dtype != torch.bool:
            raise UserError(f"{data}: a sample's '{key}' is a bool tensor, got {value.dtype}")
        if KINDS.get(key) in ("image", *_MEASURED) and value.ndim < 3:
            raise UserError(f"{data}: a sample's '{key}' has the shape (C, H, W), got {tuple(value.shape)}")


def collate(samples: Sequence[Mapping[str, Any]]) -> Sample:
    """Return the batch of `samples`: tensors stacked, `meta` as a list, boxes padded to the largest number.

    A key that some samples lack is filled: masks with False, labels with 255, classes with -1, the rest with
    zero. A value such as `disparity` is masked by its `_valid`, which is made for a sample without holes that
    has none where another sample has a mask or lacks the value. Where some samples lack boxes, which is not
    to have none, `boxes_valid` (B, 1) says which have them.

    Raises:
        UserError: the samples differ in size.
    """
    samples = _with_masks(samples)
    batch: Sample = {"meta": [dict(sample.get("meta", {})) for sample in samples]}
    for key in dict.fromkeys(key for sample in samples for key in sample if key != "meta"):
        values = [sample.get(key) for sample in samples]
        if KINDS.get(key) in ("boxes", "classes"):
            batch[key] = _stack_padded(key, values)
            if key == "boxes" and any(value is None for value in values):
                batch["boxes_valid"] = torch.tensor([[value is not None] for value in values])
        else:
            batch[key] = _stack(key, values, batch["meta"])
    return batch


def _with_masks(samples: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    made = [dict(sample) for sample in samples]
    for key in (key for key, kind in KINDS.items() if kind in _MEASURED):
        mask = f"{key}_valid"
        there = [sample for sample in made if key in sample]
        if len(there) == len(made) and not any(mask in sample for sample in there):
            continue
        for sample in there:
            if mask not in sample:
                sample[mask] = torch.ones_like(sample[key][..., :1, :, :], dtype=torch.bool)
    return made


def _stack(key: str, values: list[Tensor | None], meta: list[dict[str, Any]]) -> Tensor:
    there = [(value, info) for value, info in zip(values, meta, strict=True) if value is not None]
    like = there[0][0]
    for value, info in there:
        if value.shape != like.shape:
            sizes = " and ".join(
                f"{v.shape[-1]}x{v.shape[-2]} px ({i.get('name', '?')})" for v, i in (there[0], (value, info))
            )
            raise UserError(
                f"a batch needs samples of one size, `{key}` has {sizes}; give a crop or batch_size 1"
            )
    missing = torch.full_like(like, _FILL.get(key, 0)) if len(there) < len(values) else like
    return torch.stack([missing if value is None else value for value in values])


def _stack_padded(key: str, values: list[Tensor | None]) -> Tensor:
    like = next(value for value in values if value is not None)
    longest = max(len(value) for value in values if value is not None)
    batch = like.new_full((len(values), longest, *like.shape[1:]), _FILL.get(key, 0))
    for row, value in zip(batch, values, strict=True):
        if value is not None:
            row[: len(value)] = value
    return batch


def sample_name(sample: Mapping[str, Any], label: str, index: int) -> str:
    """Return what a sample is called, or where somebody's own data set does not say it, LABEL[INDEX]."""
    return str(sample.get("meta", {}).get("name", f"{label}[{index}]"))
