"""Augmentation: geometry and colour that keep ground truth true."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from ..errors import UserError, unknown
from . import colour as light
from . import geometry
from .augment_depth import cut, rotate
from .augment_depth import relight as light_by_channel
from .datasets._depth import FRAMES
from .sample import IMAGES, Sample, as_bytes
from .warp import warp_right

PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "published": {"colour": "published", "occlusion": "published"},
    "strong": {
        "colour": "strong",
        "occlusion": "strong",
        "scale": (-0.2, 0.4),
        "stretch": 0.2,
        "flip_vertical": 0.1,
    },
    # Spatial-KD's and LapDepth's, for monocular depth.
    "kitti_depth": {
        "rotate": 1.0,
        "gamma": (0.9, 1.1),
        "brightness": (0.9, 1.1),
        "tint": (0.9, 1.1),
        "permute": 0.5,
        "flip_horizontal": 0.5,
    },
    "nyu_depth": {
        "rotate": 3.0,
        "gamma": (0.8, 1.2),
        "brightness": (0.75, 1.25),
        "tint": (0.8, 1.2),
        "permute": 0.5,
        "flip_horizontal": 0.5,
    },
}
_KINDS = ("none", "published", "strong")
_POSITIONS = ("random", "lower", "centre", "bottom-right")


@dataclass(frozen=True)
class Options:
    """What a training sample goes through; every field is a key of a recipe's data set.

    Args:
        augment: a preset for all of the following: `none`, `published` (the Middlebury loaders of ACVNet and
            DSNet), `strong` (as RAFT-Stereo and later networks train), `kitti_depth` or `nyu_depth` (as
            monocular depth networks do). Single fields override it.
        crop: (height, width), the same window in every view; None keeps the size.
        position: where the crop lies: `random`; `lower`, ACVNet's for KITTI, which mostly begins below three
            tenths of the height, where the laser measures; `centre`; `bottom-right`, the published
            evaluation's.
        colour: `published` lights each view by itself; `strong` lights both alike but for the share
            `asymmetric`.
        asymmetric: probability that `strong` lights each view by itself.
        occlusion: rectangles of mean colour in the right image; None: as `colour`.
        scale: (least, largest) exponent of two of a random scale; (-0.2, 0.4) is usual.
        stretch: largest exponent of two, up or down, by which width and height scale apart, half of it each.
        keep_focal: divide depth by the random scale, as if the camera had come nearer: a network that knows
            one focal length alone learns from scaled images by this.
        flip_vertical: probability of turning all views upside down.
        flip_horizontal: probability of mirroring and swapping the views, where the right view's truth is
            known, or neither's.
        decalibrate: (px, degrees) by which the right image may be off vertically; None: perfectly rectified.
        noise: largest standard deviation of Gaussian noise, levels of 255; every second view has some.
        blur: largest standard deviation of a Gaussian blur, px; every second view is blurred.
        rotate: largest roll of a single camera, degrees, drawn evenly up and down; depth and labels stay
            true, other ground truth is refused. Pairs are not turned.
        frame: part of the image that is kept after that, before the crop: `whole`, `kitti` (1216x352 px) or
            `nyu` (without its white border).
        gamma: (least, largest) exponent of the image.
        brightness: (least, largest) factor of the image.
        tint: (least, largest) factor of each channel.
        permute: probability that the channels change places.
        jpeg: lowest JPEG quality, 1-95; 0: none; every second view is compressed.
        snap: crop offsets are multiples of this, px, as stored taps of a teacher need.
        warp_right: (least, most) px; the right view is drawn anew from the left one and a dense disparity
            (`warp.warp_right`), whose largest is drawn between these; None keeps the pair as it is.
    """

    augment: str = "none"
    crop: tuple[int, int] | None = None
    position: str = "random"
    colour: str = "none"
    asymmetric: float = 0.2
    occlusion: str | None = None
    scale: tuple[float, float] | None = None
    stretch: float = 0.0
    keep_focal: bool = False
    flip_vertical: float = 0.0
    flip_horizontal: float = 0.0
    decalibrate: tuple[float, float] | None = None
    noise: float = 0.0
    blur: float = 0.0
    jpeg: int = 0
    rotate: float = 0.0
    frame: str = "whole"
    gamma: tuple[float, float] | None = None
    brightness: tuple[float, float] | None = None
    tint: tuple[float, float] | None = None
    permute: float = 0.0
    snap: int = 1
    warp_right: tuple[float, float] | None = None

    def snapped(self, stride: int) -> Options:
        """Return these options with crop offsets that are multiples of `stride`, too."""
        return replace(self, snap=math.lcm(self.snap, stride))


OPTIONS = tuple(field.name for field in fields(Options))


def build_augmentation(
    config: Mapping[str, Any], task: str = "stereo"
) -> Callable[[Sample, Generator], Sample]:
    """Return the augmentation that `config` describes.

    The result takes a sample and a generator, and gives a new sample; it is a pure function of both.
    `meta["view"]` says which part of the source the new sample shows.

    Args:
        config: fields of `Options`.
        task: its name; horizontal flips of other tasks than stereo need no second view.

    Raises:
        UserError: an unknown field or a value out of range; when called, a sample smaller than its crop.
    """
    for key in config:
        if key not in OPTIONS:
            raise unknown("augmentation option", key, OPTIONS)
    preset = str(config.get("augment", "none"))
    if preset not in PRESETS:
        raise unknown("augmentation", preset, PRESETS)
    options = _checked(replace(Options(**PRESETS[preset]), **config))
    if options.warp_right is not None and task != "stereo":
        raise UserError(f"augmentation warp_right draws stereo pairs, not samples of {task}; leave it out")
    return Augmentation(options, task)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value))


_PAIRS = ("crop", "scale", "decalibrate", "gamma", "brightness", "tint", "warp_right")
# Options, what they are, and whether a value is that; None does for a pair.
_RULES: tuple[tuple[tuple[str, ...], str, Callable[[Any], bool]], ...] = (
    (_PAIRS, "two numbers", _is_pair),
    (("crop",), "[height, width] in px", lambda v: all(isinstance(side, int) and side > 0 for side in v)),
    (("scale",), "[least, largest] exponent of two, -8 to 8", lambda v: -8 <= v[0] <= v[1] <= 8),
    (("decalibrate",), "[px, degrees], 0 or more", lambda v: min(v) >= 0),
    (
        ("gamma", "brightness", "tint", "warp_right"),
        "[least, largest], above 0",
        lambda v: 0 < v[0] <= v[1],
    ),
    (
        ("asymmetric", "flip_vertical", "flip_horizontal", "permute"),
        "a probability from 0 to 1",
        lambda v: _is_number(v) and 0 <= v <= 1,
    ),
    (("stretch",), "an exponent of two, 0 to 8", lambda v: _is_number(v) and 0 <= v <= 8),
    (("noise", "blur", "rotate"), "0 or more", lambda v: _is_number(v) and v >= 0),
    (("snap",), "a number of px, 1 or more", lambda v: isinstance(v, int) and v >= 1),
    (("jpeg",), "a quality from 1 to 95 or 0 for none", lambda v: isinstance(v, int) and 0 <= v <= 95),
)


def _checked(options: Options) -> Options:
    kinds = {"colour": _KINDS, "position": _POSITIONS, "occlusion": (*_KINDS, None), "frame": tuple(FRAMES)}
    for name, known in kinds.items():
        if getattr(options, name) not in known:
            raise unknown(name, str(getattr(options, name)), [kind for kind in known if kind])
    for names, what, holds in _RULES:
        for name in names:
            value = getattr(options, name)
            if not ((value is None and name in _PAIRS) or holds(value)):
                raise UserError(f"augmentation: {name} is {what}, got {value}")
    given = ((name, getattr(options, name)) for name in _PAIRS)
    pairs: dict[str, Any] = {name: pair and tuple(pair) for name, pair in given}
    return replace(options, **pairs)


class Augmentation:
    """The augmentation of `options`; see `build_augmentation`."""

    def __init__(self, options: Options, task: str = "stereo"):
        self.options = options
        self.task = task

    def __call__(self, sample: Sample, rng: Generator) -> Sample:
        """Return the sample augmented; UserError if it is smaller than the crop and may not be scaled."""
        if self.options.warp_right is not None:
            sample = warp_right(sample, self.options.warp_right, rng)
        if self.options.rotate and "right" not in sample:
            sample = rotate(sample, rng.uniform(-self.options.rotate, self.options.rotate))
        if self.options.frame != "whole":
            sample = cut(sample, self.options.frame)
        flip = self._flip(sample, rng)
        if "h" in flip and "right" in sample:
            sample = geometry.swap_views(sample)
        window = self._window(sample, rng, flip)
        tilt = (0.0, 0.0)
        if self.options.decalibrate is not None:
            shift, degrees = self.options.decalibrate
            tilt = (rng.uniform(-shift, shift), float(np.tan(np.radians(rng.uniform(-degrees, degrees)))))
        result = geometry.apply(window, sample, tilt)
        if self.options.keep_focal and "depth" in result:
            result["depth"] = result["depth"] / math.sqrt(math.prod(window.scale))
        self._relight(result, rng)
        return {
            key: value.contiguous() if isinstance(value, Tensor) else value for key, value in result.items()
        }

    def _flip(self, sample: Sample, rng: Generator) -> str:
        # Both are drawn always, so that one option does not change what the generator gives to the next.
        horizontal = rng.random() < self.options.flip_horizontal
        vertical = rng.random() < self.options.flip_vertical
        # A pair is mirrored by swapping its views: then the right one's truth counts, where there is any.
        truths = {"disparity", "disparity_right"} & sample.keys()
        swappable = len(truths) != 1 and "left_next" not in sample
        may_mirror = swappable if "right" in sample else self.task != "stereo"
        return ("h" if horizontal and may_mirror else "") + ("v" if vertical else "")

    def _window(self, sample: Sample, rng: Generator, flip: str) -> geometry.Window:
        source = _size(sample)
        scaled = self._scaled(source, rng)
        height, width = self.options.crop or scaled
        if height > scaled[0] or width > scaled[1]:
            raise UserError(
                f"sample {sample.get('meta', {}).get('name', '?')} is {source[1]}x{source[0]} px, smaller "
                f"than the crop of {width}x{height}; give a smaller crop, or scale, which enlarges as needed"
            )
        snap = self.options.snap
        top, left = (at - at % snap for at in self._corner(scaled, (height, width), rng))
        return geometry.Window(source, scaled, (top, left, height, width), flip)

    def _scaled(self, source: tuple[int, int], rng: Generator) -> tuple[int, int]:
        options = self.options
        if options.scale is None and options.stretch == 0:
            return source
        exponent = rng.uniform(*options.scale) if options.scale else 0.0
        stretch = rng.uniform(-options.stretch, options.stretch) / 2
        least = options.crop or (1, 1)
        height = max(round(source[0] * 2 ** (exponent - stretch)), least[0])
        width = max(round(source[1] * 2 ** (exponent + stretch)), least[1])
        return height, width

    def _corner(self, scaled: tuple[int, int], crop: tuple[int, int], rng: Generator) -> tuple[int, int]:
        room = scaled[0] - crop[0], scaled[1] - crop[1]
        if self.options.position == "centre":
            return room[0] // 2, room[1] // 2
        if self.options.position == "bottom-right":
            return room
        lowest = 0
        if self.options.position == "lower" and rng.random() >= 3 / 11:
            lowest = min(int(0.3 * scaled[0]), room[0])
        return int(rng.integers(lowest, room[0] + 1)), int(rng.integers(0, room[1] + 1))

    def _relight(self, sample: Sample, rng: Generator) -> None:
        options = self.options
        occlusion = options.colour if options.occlusion is None else options.occlusion
        # Frames of one camera are lit alike: `left` and `left_next` share what is drawn for the left view.
        views: dict[str, list[str]] = {}
        for key in IMAGES:
            if key in sample:
                views.setdefault(key.partition("_")[0], []).append(key)
        lights = self._lights(list(views), rng)
        for view, keys in views.items():
            for key in keys:
                frames = sample[key] if sample[key].ndim == 4 else sample[key][None]
                occluded = occlusion if view == "right" else "none"
                lamp = None if lights is None else lights[view]
                lit = [self._spoil(frame, lamp, occluded, rng) for frame in frames]
                sample[key] = torch.stack(lit) if sample[key].ndim == 4 else lit[0]

    def _spoil(self, image: Tensor, lamp: light.Light | None, occlusion: str, rng: Generator) -> Tensor:
        """Return one image (3, H, W) as another light and a worse camera show it."""
        options = self.options
        pixels = np.ascontiguousarray(as_bytes(image).permute(1, 2, 0).numpy())
        if lamp is not None:
            pixels = light.relight(pixels, lamp)
        if options.gamma or options.brightness or options.tint or options.permute:
            channels = (options.gamma, options.brightness, options.tint, options.permute)
            pixels = light_by_channel(pixels, rng, *channels)
        if occlusion != "none":
            pixels = light.occlude(pixels, rng, occlusion)
        if options.blur and rng.random() < 0.5:
            pixels = light.blur(pixels, rng, options.blur)
        if options.noise and rng.random() < 0.5:
            pixels = light.add_noise(pixels, rng, options.noise)
        if options.jpeg and rng.random() < 0.5:
            pixels = light.compress(pixels, rng, options.jpeg)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _lights(self, views: list[str], rng: Generator) -> dict[str, light.Light] | None:
        if self.options.colour == "none":
            return None
        if self.options.colour == "published":
            return {view: light.draw_published(rng) for view in views}
        if rng.random() < self.options.asymmetric:
            return {view: light.draw_strong(rng) for view in views}
        return dict.fromkeys(views, light.draw_strong(rng))


def _size(sample: Sample) -> tuple[int, int]:
    image = next(sample[key] for key in IMAGES if key in sample)
    return int(image.shape[-2]), int(image.shape[-1])
