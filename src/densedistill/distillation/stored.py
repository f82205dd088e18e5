"""Stored answers as a teacher: what `densedistill label` wrote, cut as each sample was cut.

Stored answers are of the full, un-augmented frame, so not every augmentation can be honoured. A crop is cut
out of the answer; with stored taps its offset must be a multiple of the tap's stride, which training sees to.
A horizontal flip needs the answer to the mirrored frame, a vertical one and a rotation are refused. Random
scaling scales outputs; taps it cannot. What cannot be honoured is refused before training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data import geometry
from ..data.augment import Options
from ..data.sample import full_view
from ..data.store import Store
from ..errors import UserError, nearest
from ..networks.input_spec import Placement
from ..tasks import get_task
from .taps import Spec, tap_key
from .teachers import TEACHERS, Teacher

MIRRORED = "mirrored."
TAP = "tap/"


class StoreTeacher(Teacher):
    """The answers in the store at `path`, by the name of each sample.

    Args:
        path: of the store.

    Raises:
        UserError: no complete store there.
    """

    def __init__(self, path: str):
        super().__init__()
        self.store = Store(path)
        self.name = f"store {path}"
        manifest = self.store.manifest
        self.task = get_task(manifest["task"])
        self.outputs: list[str] = manifest["outputs"]
        self.stored_taps: dict[str, dict[str, Any]] = manifest.get("taps", {})
        self.max_disparity = manifest["teacher"].get("max_disparity")
        self.align_corners = bool(manifest["teacher"].get("align_corners", False))
        self.watched: list[str] = []

    def watch(self, taps: Iterable[Spec]) -> None:
        """Read `taps` from now on; UserError for one that was not stored."""
        watched = []
        for spec in taps:
            key = tap_key(spec)
            if key not in self.stored_taps:
                stored = ", ".join(self.stored_taps) or "none"
                raise UserError(
                    f"tap '{key}' was not stored in {self.store.root} (stored: {stored})"
                    f"{nearest(key, self.stored_taps)}; label again with --taps {key}"
                )
            watched.append(key)
        self.watched = watched

    @property
    def stride(self) -> int:
        """What crop offsets must be a multiple of, px."""
        return math.lcm(1, *(s for key in self.watched for s in self.stored_taps[key]["strides"]))

    def suit(self, augmentation: Options, names: Sequence[str] | None = None) -> Options:
        """Return `augmentation` with crops that this teacher can follow.

        Args:
            augmentation: of a training data set.
            names: of its samples, where it knows them.

        Raises:
            UserError: an augmentation or a sample for which there is no stored answer.
        """
        where = f"the stored answers in {self.store.root}"
        if augmentation.flip_vertical or augmentation.rotate:
            option = "flip_vertical" if augmentation.flip_vertical else "rotate"
            raise UserError(f"{where} are of upright frames: set augment.{option} 0")
        if augmentation.frame != "whole":
            raise UserError(
                f"{where} are of frames as they are read: set augment.frame whole, and read the part that "
                f"was labelled (part: {augmentation.frame})"
            )
        if augmentation.warp_right is not None:
            raise UserError(f"{where} are of the pairs themselves: set augment.warp_right null")
        if augmentation.keep_focal:
            raise UserError(f"{where} are of the frames' own depth: set augment.keep_focal false")
        if augmentation.flip_horizontal and (self.watched or not self.store.manifest.get("mirrored")):
            what = "taps of mirrored frames are not stored" if self.watched else "label again with --mirrored"
            raise UserError(f"{where} know no mirrored frame: set augment.flip_horizontal 0 ({what})")
        if self.watched:
            if augmentation.scale is not None or augmentation.stretch:
                raise UserError(
                    f"{where} have taps of unscaled frames: set augment.scale null and augment.stretch 0, or "
                    "learn from outputs alone"
                )
            stride = self.stride
            if augmentation.crop is None or any(side % stride for side in augmentation.crop):
                raise UserError(
                    f"{where} have taps of stride {stride}: give a crop whose sides are multiples of "
                    f"{stride}, not {augmentation.crop}"
                )
            augmentation = augmentation.snapped(stride)
        unknown = [name for name in names or () if name not in self.store]
        if unknown:
            raise UserError(
                f"{where} have none for {len(unknown)} of {len(names or ())} training samples, the first is "
                f"'{unknown[0]}'; stored are '{next(iter(self.store.names))}' and the like"
            )
        return augmentation

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the stored outputs, their `KEY_valid` and `KEY_confidence`, and the watched taps."""
        device = next(value.device for value in batch.values() if isinstance(value, Tensor))
        answer = self._stored(batch, device) if "meta" in batch else self._blank(batch, device)
        height, width = answer[self.outputs[0]].shape[-2:]
        answer["placement"] = Placement((height, width), (height, width), (0, 0, 0, 0))
        return answer

    def _stored(self, batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
        samples = [self._sample(meta, meta.get("view") or full_view(*meta["size"])) for meta in batch["meta"]]
        answer: dict[str, Any] = {
            key: torch.stack([sample[key] for sample in samples]).to(device)
            for key in samples[0]
            if not key.startswith(TAP)
        }
        if self.watched:
            answer["taps"] = {key: self._joined(key, samples, device) for key in self.watched}
        return answer

    def _sample(self, meta: Mapping[str, Any], view: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return what is stored of one frame, cut as `view` says."""
        name, flip = str(meta["name"]), view["flip"]
        if "v" in flip or ("h" in flip and self.watched):
            raise UserError(f"there is no stored answer for frame '{name}' flipped by '{flip}'")
        prefix = MIRRORED if "h" in flip else ""
        taps = [f"{TAP}{key}/{i}" for key in self.watched for i in range(self.stored_taps[key]["count"])]
        there = self.store.keys(name)
        wanted = [
            prefix + key
            for output in self.outputs
            for key in (output, f"{output}_valid", f"{output}_confidence")
            if prefix + key in there
        ]
        if not wanted:
            raise UserError(f"{self.store.root} has no answer for frame '{name}' mirrored")
        stored = self.store.read(name, [*wanted, *taps])
        maps: dict[str, Any] = {key.removeprefix(prefix): stored[key] for key in wanted}
        size = tuple(next(iter(maps.values())).shape[-2:])
        if size != tuple(meta.get("size", size)):
            raise UserError(
                f"{self.store.root} has an answer of {size[1]}x{size[0]} px for frame '{name}', which is "
                f"{meta['size'][1]}x{meta['size'][0]} px; label the frames as they are read in training"
            )
        scaled = tuple(round(side * factor) for side, factor in zip(size, view["scale"], strict=True))
        window = geometry.Window(
            (size[0], size[1]), (scaled[0], scaled[1]), tuple(view["crop"]), flip.replace("h", "")
        )
        cut = geometry.apply(window, maps)
        return cut | {key: self._cut_tap(stored[key], key, view["crop"], name) for key in taps}

    def _cut_tap(self, tap: Tensor, key: str, crop: Sequence[int], name: str) -> Tensor:
        about, _, index = key.removeprefix(TAP).rpartition("/")
        stride = self.stored_taps[about]["strides"][int(index)]
        if any(side % stride for side in crop):
            raise UserError(
                f"the crop {tuple(crop)} (top, left, height, width) of frame '{name}' does not lie on the "
                f"stride {stride} of its stored tap '{about}'"
            )
        top, left, height, width = (side // stride for side in crop)
        return tap[..., top : top + height, left : left + width]

    def _joined(self, key: str, samples: list[dict[str, Tensor]], device: torch.device) -> tuple[Tensor, ...]:
        """Return a tap's tensors for the batch: all first views, then all second ones, as networks give
        them."""
        return tuple(
            torch.stack([sample[f"{TAP}{key}/{i}"] for sample in samples], 1).flatten(0, 1).to(device)
            for i in range(self.stored_taps[key]["count"])
        )

    def _blank(self, batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
        """Return zeros of the shapes that an answer has, for a rehearsal on noise."""
        image = batch[self.task.inputs[0]]
        count, (height, width) = len(image), image.shape[-2:]
        manifest = self.store.manifest
        answer: dict[str, Any] = {}
        for key in self.outputs:
            answer[key] = torch.zeros(count, manifest["channels"][key], height, width, device=device)
            answer[f"{key}_valid"] = torch.ones(count, 1, height, width, dtype=torch.bool, device=device)
        answer["taps"] = {
            key: tuple(
                torch.zeros(shape[0] * count, *shape[1:-2], height // stride, width // stride, device=device)
                for shape, stride in zip(tap["shapes"], tap["strides"], strict=True)
            )
            for key, tap in self.stored_taps.items()
            if key in self.watched
        }
        return answer


@TEACHERS.register("store")
def _store(path: str) -> Teacher:
    return StoreTeacher(path)
