"""`render`: a seed to a sample."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError, unknown
from ..calibration import Calibration
from ..sample import Sample, full_view
from .bank import get_bank
from .compose import STYLES, compose
from .motion import camera_at, draw_motion, primitives_at
from .raycast import Caster
from .scene import Scene
from .sensor import Sensor, draw_sensors, expose
from .truth import boxes_of, labels_of, motion_of, objects_of, visible
from .view import draw

WANTS = (
    "disparity",
    "disparity_right",
    "disparity_nonoccluded",
    "disparity_next",
    "depth",
    "flow",
    "flow_nonoccluded",
    "labels",
    "objects",
    "boxes",
    "left_next",
    "right_next",
)
_MOVING = frozenset({"disparity_next", "flow", "flow_nonoccluded", "left_next", "right_next"})
MIN_SIZE = 16


def check_options(height: int, width: int, want: Sequence[str] = ("disparity",), **options: Any) -> None:
    """Raise UserError where `render` could not work with these arguments."""
    if min(height, width) < MIN_SIZE:
        raise UserError(
            f"the world needs pictures of at least {MIN_SIZE}x{MIN_SIZE} px, got {width}x{height}"
        )
    for key in want:
        if key not in WANTS:
            raise unknown("ground truth", key, WANTS, of="the world")
    known = [p.name for p in inspect.signature(render).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for key in options:
        if key not in (*known, "device"):
            raise unknown("option", key, known, of="the world")
    style = options.get("style")
    if style is not None and style not in STYLES:
        raise unknown("style", style, STYLES, of="the world")
    for key in ("haze", "mirrors", "jpeg"):
        if not 0 <= options.get(key, 0) <= 1:
            raise UserError(f"{key} of the world is a chance from 0 to 1, got {options[key]}")
    if options.get("clutter", 0) < 0:
        raise UserError(f"clutter of the world must be at least 0, got {options['clutter']}")
    for key in ("max_disparity", "focal", "frames"):
        value = options.get(key)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{key} of the world must be above 0, got {value}")
    if options.get("frames") and "boxes" in want:
        raise UserError(
            "a sequence of the world has no boxes, their number changes; leave out frames or boxes"
        )


def check_seed(seed: int) -> None:
    """Raise UserError where `seed` is no number of a scene."""
    if seed < 0:
        raise UserError(f"seed of the world is the number of a scene, 0 or more, got {seed}")


@torch.no_grad()
def render(
    seed: int,
    height: int,
    width: int,
    want: Sequence[str] = ("disparity",),
    device: str | torch.device = "cpu",
    *,
    max_disparity: float = 96,
    style: str | None = None,
    focal: float | None = None,
    haze: float = 0.12,
    mirrors: float = 0.25,
    clutter: float = 1.0,
    sensor_difference: float = 1.0,
    jpeg: float = 0.0,
    motion: float = 1.0,
    frames: int | None = None,
    antialias: bool = True,
    right: bool = True,
) -> Sample:
    """Return the sample number `seed` of the procedural world: `left` and `right`, and what is wanted.

    Everything is a function of the arguments; no global random state is read or changed. The same scene
    has the same geometry whatever is wanted and on any device; colours agree between devices to about one
    grey level.

    Args:
        seed: number of the scene.
        height, width: size of the pictures, px.
        want: any of `disparity`, `disparity_right`, `disparity_nonoccluded`, `disparity_next` (at the
            next time, in this frame), `depth`, `flow` (to the next time), `flow_nonoccluded`, `labels`,
            `objects`, `boxes` (brings `classes`), `left_next`, `right_next`.
        device: where the rays are cast and the sample lies.
        max_disparity: px; no disparity at the first time exceeds it, and most scenes come near it.
        style: one of `STYLES`; default drawn by seed.
        focal: focal length, px; default drawn by seed between 0.8 and 1.5 widths.
        haze: chance that the air is not clear.
        mirrors: chance that a quarter of the surfaces mirror their surroundings, so that they look different
            from the other camera.
        clutter: factor on the number of things, most of which hang in the air; below 1 more is seen of the
            surroundings.
        sensor_difference: how much the two cameras differ in exposure, colour and sharpness; 0: not at all.
        jpeg: chance that the pictures went through JPEG, of quality 50 to 95.
        motion: factor on all speeds.
        frames: a sequence of so many times; every tensor has a leading axis of them.
        antialias: four rays a pixel where surfaces meet. Ground truth is always that of the pixel's centre.
        right: draw the right view too; without it a single image takes half the time.

    Raises:
        UserError: an unknown option, style or ground truth, a seed below 0, or a size below 16 px.
    """
    check_seed(seed)
    given = {"max_disparity": max_disparity, "style": style, "focal": focal, "frames": frames}
    check_options(height, width, want, **given, haze=haze, mirrors=mirrors, jpeg=jpeg, clutter=clutter)
    scene = compose(seed, height, width, max_disparity, style, focal, haze, mirrors, clutter)
    if frames is not None or _MOVING.intersection(want):
        draw_motion(scene, seed, motion)
    renderer = _Renderer(
        scene, str(device), draw_sensors(scene.sensor_seed, 2, sensor_difference, jpeg), antialias
    )
    if frames is None:
        sample = renderer.sample(0, frozenset(want), right)
    else:
        steps = [renderer.sample(time, frozenset(want), right) for time in range(frames)]
        sample = {key: torch.stack([step[key] for step in steps]) for key in steps[0]}
    sample["meta"] = describe(seed, height, width, scene.focal, scene.baseline, scene.style)
    return sample


def describe(seed: int, height: int, width: int, focal: float, baseline: float, style: str) -> dict[str, Any]:
    """Return the `meta` of a sample."""
    size = (height, width)
    middle = (width - 1) / 2, (height - 1) / 2
    return {
        "name": f"{seed:06d}",
        "dataset": "world",
        "size": size,
        "calibration": Calibration(focal, focal, *middle, baseline, size=size),
        "view": full_view(*size),
        "style": style,
    }


class _Renderer:
    """Draws one scene at any time; keeps what its pictures share."""

    def __init__(self, scene: Scene, device: str, sensors: list[Sensor], antialias: bool):
        self.scene, self.sensors, self.antialias = scene, sensors, antialias
        self.bank = get_bank(device)
        self.exposure: float | None = None

    def caster(self, time: int, right: bool) -> Caster:
        moved = primitives_at(self.scene, time) if time else None
        return Caster(self.scene, camera_at(self.scene, time, right), self.bank, moved)

    def expose(self, colours: Tensor, time: int, right: bool) -> Tensor:
        if self.exposure is None:
            self.exposure = _meter(colours)
        return expose(colours * self.exposure, _later(self.sensors[right], time))

    def sample(self, time: int, want: frozenset[str], both: bool) -> Sample:
        """Return the sample of the time and what is wanted of the next."""
        scene = self.scene
        right_caster = self.caster(time, True)
        left = draw(self.caster(time, False), self.antialias)
        sample: Sample = {"left": self.expose(left.colours, time, False)}
        if both or "disparity_right" in want:
            right = draw(right_caster, self.antialias)
            sample["right"] = self.expose(right.colours, time, True)
        scale = scene.focal * scene.baseline

        def know(key: str, values: Tensor) -> None:
            """Put in what is known at every pixel."""
            sample[key] = values[None]
            sample[f"{key}_valid"] = torch.ones_like(sample[key], dtype=torch.bool)

        if "disparity" in want:
            know("disparity", scale / left.depth)
        if "disparity_right" in want:
            know("disparity_right", scale / right.depth)
        if "depth" in want:
            know("depth", left.depth)
        x = torch.arange(scene.width, device=left.depth.device, dtype=torch.float32).expand_as(left.depth)
        y = torch.arange(scene.height, device=left.depth.device, dtype=torch.float32)[:, None].expand_as(
            left.depth
        )
        if "disparity_nonoccluded" in want:
            seen = visible(right_caster, x - scale / left.depth, y, left.depth)
            sample["disparity_nonoccluded"] = seen[None]
        if "labels" in want:
            sample["labels"] = labels_of(scene, left.face)
        if want & {"objects", "boxes"}:
            objects = objects_of(scene, left.face)
            if "objects" in want:
                sample["objects"] = objects
            if "boxes" in want:
                sample["boxes"], sample["classes"] = boxes_of(scene, objects)
        if want & {"flow", "flow_nonoccluded", "disparity_next"}:
            flow, depth_next = motion_of(scene, time, time + 1, left.depth, left.face)
            valid = (depth_next > 0.01 * left.depth)[None]
            if "flow" in want:
                sample["flow"], sample["flow_valid"] = torch.where(valid, flow, 0), valid
            if "disparity_next" in want:
                sample["disparity_next"] = torch.where(valid, scale / depth_next, 0)
                sample["disparity_next_valid"] = valid.clone()
            if "flow_nonoccluded" in want:
                seen = visible(self.caster(time + 1, False), x + flow[0], y + flow[1], depth_next)
                sample["flow_nonoccluded"] = seen[None] & valid
        for name, is_right in (("left_next", False), ("right_next", True)):
            if name in want:
                colours = draw(self.caster(time + 1, is_right), self.antialias).colours
                sample[name] = self.expose(colours, time + 1, is_right)
        return sample


def _later(sensor: Sensor, time: int) -> Sensor:
    """Return the same camera with the noise of another moment."""
    return dataclasses.replace(sensor, noise_start=(sensor.noise_start + time * 104729) % (1 << 20))


def _meter(colours: Tensor) -> float:
    """Return the exposure of both cameras, by the left picture: middle grey, but few pixels saturated."""
    grey = colours[:, ::4, ::4].mean(0).reshape(-1)
    bright = float(grey.kthvalue(int(0.95 * len(grey)) + 1).values)
    return min(0.42 / max(float(grey.mean()), 0.05), 0.9 / max(bright, 0.05))
