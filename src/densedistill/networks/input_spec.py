"""What a network expects of its input images, and how to get there and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError, as_count, unknown

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_CHANNELS = ("rgb", "bgr")
_PADS = ("bottom-right", "top-right", "centre")
_PAD_MODES = {"zeros-after-normalising": "constant", "reflect": "reflect", "replicate": "replicate"}
_LARGEST_SCALE = 16


class Placement(NamedTuple):
    """Where an image of `size` lies inside the network's input: `padding` is (left, right, top, bottom)."""

    size: tuple[int, int]
    scaled_size: tuple[int, int]
    padding: tuple[int, int, int, int]

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        left, right, top, bottom = self.padding
        return top + self.scaled_size[0] + bottom, left + self.scaled_size[1] + right


@dataclass(frozen=True)
class InputSpec:
    """The preparation of images that a network was made for.

    Args:
        mean, std: per channel, of values in `[0, range]`.
        channels: order the network reads.
        range: largest value of an image before normalising.
        scale: factor on height and width before the network sees the image.
        shorter_side: px that the shorter side is scaled to, in place of `scale`.
        antialias: filter before scaling down; without it, halving is the mean of 2x2 pixels.
        multiple: height and width must be divisible by this.
        min_size: least (height, width); smaller images are padded.
        refuses_smaller: refuse them instead.
        pad: where padding goes.
        pad_mode: what it consists of.

    Raises:
        UserError: a field that makes no sense.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    channels: Literal["rgb", "bgr"] = "rgb"
    range: float = 1.0
    scale: float = 1.0
    shorter_side: int | None = None
    antialias: bool = True
    multiple: int = 16
    min_size: tuple[int, int] = (0, 0)
    refuses_smaller: bool = False
    pad: Literal["bottom-right", "top-right", "centre"] = "bottom-right"
    pad_mode: Literal["zeros-after-normalising", "reflect", "replicate"] = "zeros-after-normalising"

    def __post_init__(self) -> None:
        for name, choices in (("channels", _CHANNELS), ("pad", _PADS), ("pad_mode", _PAD_MODES)):
            if str(getattr(self, name)) not in choices:
                raise unknown(name, str(getattr(self, name)), choices, of="an input specification")
        self._require(_are_numbers(self.mean, 3), "mean", "three numbers")
        self._require(_are_numbers(self.std, 3) and min(self.std) > 0, "std", "three numbers above 0")
        self._require(self.range in (1.0, 255.0), "range", "1.0 or 255.0")
        usable = _are_numbers([self.scale], 1) and 0 < self.scale <= _LARGEST_SCALE
        self._require(usable, "scale", f"a number above 0 and at most {_LARGEST_SCALE}")
        as_count("multiple of an input specification", self.multiple)
        if self.shorter_side is not None:
            as_count("shorter_side of an input specification", self.shorter_side)
        least = self.min_size
        whole = _are_numbers(least, 2) and all(length >= 0 and length == int(length) for length in least)
        self._require(whole, "min_size", "height and width, whole numbers of px, 0 or more")

    def _require(self, holds: bool, name: str, wanted: str) -> None:
        if not holds:
            raise UserError(f"{name} of an input specification is {wanted}, got {getattr(self, name)!r}")

    def scaled(self, factor: float) -> InputSpec:
        """Return this preparation of images that are seen `factor` times as large.

        Raises:
            UserError: `factor` is not a number above 0.
        """
        if isinstance(factor, bool) or not isinstance(factor, Real) or not 0 < factor < math.inf:
            raise UserError(f"scale of a network's images is a number above 0, got {factor!r}")
        side = self.shorter_side and max(1, round(self.shorter_side * factor))
        return replace(self, scale=self.scale * float(factor), shorter_side=side)

    def normalise(self, image: Tensor) -> Tensor:
        """Return `image` (B, 3, H, W; uint8, or float in [0, 1]) in the network's channel order and range."""
        if image.ndim != 4 or image.shape[1] != 3:
            raise UserError(f"an image batch has shape (B, 3, H, W), got {tuple(image.shape)}")
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        if self.channels == "bgr":
            image = image.flip(1)
        mean = image.new_tensor(self.mean).view(1, 3, 1, 1)
        std = image.new_tensor(self.std).view(1, 3, 1, 1)
        return (image * self.range - mean) / std

    def place(self, height: int, width: int) -> Placement:
        """Return where an image of `height` x `width` goes: its scaled size and the padding.

        Raises:
            UserError: the image is smaller than the network takes.
        """
        scale = self.shorter_side / min(height, width) if self.shorter_side else self.scale
        scaled = (max(1, round(height * scale)), max(1, round(width * scale)))
        if self.refuses_smaller and (scaled[0] < self.min_size[0] or scaled[1] < self.min_size[1]):
            least = "x".join(str(math.ceil(length / scale)) for length in reversed(self.min_size))
            raise UserError(
                f"an image of {width}x{height} px is smaller than the network's least size of {least} px; "
                "scale it up, or take another network"
            )
        total_y, total_x = (
            -max(length, least) % self.multiple + max(0, least - length)
            for length, least in zip(scaled, self.min_size, strict=True)
        )
        if self.pad == "centre":
            padding = (total_x // 2, total_x - total_x // 2, total_y // 2, total_y - total_y // 2)
        elif self.pad == "top-right":
            padding = (0, total_x, total_y, 0)
        else:
            padding = (0, total_x, 0, total_y)
        return Placement((height, width), scaled, padding)

    def prepare(self, *images: Tensor) -> tuple[list[Tensor], Placement]:
        """Scale, normalise and pad `images` (each B, 3, H, W; uint8, or float in [0, 1], of one size).

        Returns:
            The network's inputs and the placement that `restore` needs.
        """
        if len({image.shape[-2:] for image in images}) != 1:
            sizes = ", ".join(f"{i.shape[-1]}x{i.shape[-2]}" for i in images)
            raise UserError(f"the views differ in size ({sizes} px); rectified views have one size")
        placement = self.place(*images[0].shape[-2:])
        return [self._prepare_one(image, placement) for image in images], placement

    def _prepare_one(self, image: Tensor, placement: Placement) -> Tensor:
        image = self.normalise(image)
        if placement.scaled_size != placement.size:
            image = F.interpolate(
                image,
                placement.scaled_size,
                mode="bilinear",
                align_corners=False,
                antialias=self.antialias,
            )
        return self.pad_image(image, placement.padding) if any(placement.padding) else image

    def pad_image(self, image: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
        """Return `image` (B, 3, H, W) with `padding` (left, right, top, bottom) as `pad_mode` says."""
        mode = _PAD_MODES[self.pad_mode]
        if mode == "reflect" and (max(padding[:2]) >= image.shape[-1] or max(padding[2:]) >= image.shape[-2]):
            mode = "replicate"  # reflection cannot fill more than the image is wide
        return F.pad(image, padding, mode=mode)

    def restore(self, prediction: Tensor, placement: Placement, mode: str = "bilinear") -> Tensor:
        """Crop the padding from `prediction` (B, C, H', W') and resize it to the source's size.

        Values are left as they are; what is measured in pixels is divided by `scale` by the caller's task.
        """
        left, right, top, bottom = placement.padding
        height, width = prediction.shape[-2:]
        prediction = prediction[..., top : height - bottom, left : width - right]
        if prediction.shape[-2:] != placement.size:
            align = {} if mode == "nearest" else {"align_corners": False}
            prediction = F.interpolate(prediction, placement.size, mode=mode, **align)
        return prediction


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, (tuple, list))
        and len(values) == count
        and all(isinstance(value, Real) and math.isfinite(value) for value in values)
    )


def search_range(network: Any) -> int | None:
    """Return the disparities that `network` can tell, in px of the image: its `max_disparity` over the scale
    at which it sees images; None for a network without one."""
    reach, spec = getattr(network, "max_disparity", None), getattr(network, "input_spec", None)
    return reach if reach is None or spec is None else int(reach / spec.scale)
