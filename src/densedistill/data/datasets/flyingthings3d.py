"""FlyingThings3D for scene flow, in its full and its subset layout.

N. Mayer et al., A large dataset to train convolutional networks for disparity, optical flow, and scene flow
estimation, CVPR 2016.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError, unknown
from .. import formats
from . import DATASETS
from ._base import Frame
from ._sequence import SequenceFiles

CLIP = 10  # frames of a clip; the subset numbers all clips through
# Left into the future, whose flow is broken in the subset (as OpenMMLab's loader lists them).
BROKEN = frozenset(
    (
        *(119, 879, 1717, 3147, 3149, 4117, 4118, 4154, 4304, 4573),
        *(6336, 6337, 6922, 11530, 14658, 15148, 15748, 16948, 17578),
    )
)
_PASSES = ("clean", "final")


@DATASETS.register("flyingthings3d")
class FlyingThings3D(SequenceFiles):
    """FlyingThings3D, left camera, into the future.

    The full release stores positive disparities, the subset negative ones; the sign is read off the first
    file, and the disparity at t1 is the sum of disparity and its change, negated in the subset.

    Args:
        root: the folder of `frames_cleanpass/` or `frames_cleanpass_webp/` … (full) or of `train/` and `val/`
            (subset).
        split: `train` or `test` (the subset's `val`).
        rendering: `clean` or `final`; default clean, DWARF's.
        skip_broken: leave out frames of the subset whose flow is known to be broken.
        **options: as every data set of files.
    """

    name = "flyingthings3d"
    layout = (
        "frames_cleanpass/TRAIN/A/0000/left/0006.png with disparity/, disparity_change/, optical_flow/; or "
        "train/image_clean/left/0000000.png with disparity/, disparity_change/, flow/"
    )
    splits = ("train", "test")
    required = ("left", "right", "left_next", "right_next", "disparity", "disparity_next", "flow")

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        rendering: str = "clean",
        skip_broken: bool = True,
        **options: Any,
    ):
        if rendering not in _PASSES:
            raise unknown("rendering", rendering, _PASSES, of=f"data set '{self.name}'")
        self.rendering, self.skip_broken = rendering, skip_broken
        self.sign = 1.0
        super().__init__(root, split, **options)
        first = next((frame for frame in self.frames if "disparity" in frame.files), None)
        if first is not None:
            self.sign = _sign(first.files["disparity"])

    def list_frames(self) -> list[Frame]:
        full, subset = f"frames_{self.rendering}pass", f"image_{self.rendering}"
        frames = []
        for base in self.index.bases(self.root, full, f"{full}_webp"):
            images = next(base / name for name in (full, f"{full}_webp") if (base / name).is_dir())
            top = images / ("TRAIN" if self.split == "train" else "TEST")
            for scene in (s for letter in self.index.folders(top) for s in self.index.folders(letter)):
                frames += self._full(base, scene, scene.relative_to(images))
        folder = "train" if self.split == "train" else "val"
        for base in self.index.bases(self.root, folder):
            if (base / folder / subset).is_dir():
                frames += self._subset(base / folder, base / folder / subset)
        return frames

    def _full(self, base: Path, scene: Path, inside: Path) -> list[Frame]:
        views = {view: self.index.stems(scene / view) for view in ("left", "right")}
        frames = []
        for stem in filter(str.isdecimal, sorted(views["left"])):
            after = f"{int(stem) + 1:0{len(stem)}d}"
            if after not in views["left"]:
                continue
            files = self._views(views, scene, stem, after)
            files["disparity"] = base / "disparity" / inside / "left" / f"{stem}.pfm"
            files["disparity_next"] = (
                base / "disparity_change" / inside / "into_future" / "left" / f"{stem}.pfm"
            )
            motion = base / "optical_flow" / inside / "into_future" / "left"
            files["flow"] = motion / f"OpticalFlowIntoFuture_{stem}_L.pfm"
            frames.append(Frame((inside / stem).as_posix(), files))
        return frames

    def _subset(self, base: Path, images: Path) -> list[Frame]:
        views = {view: self.index.stems(images / view) for view in ("left", "right")}
        frames = []
        for stem in filter(str.isdecimal, sorted(views["left"])):
            after = f"{int(stem) + 1:0{len(stem)}d}"
            ends = int(stem) % CLIP == CLIP - 1  # the next number is another clip's first
            if ends or after not in views["left"] or (self.skip_broken and int(stem) in BROKEN):
                continue
            files = self._views(views, images, stem, after)
            files["disparity"] = base / "disparity" / "left" / f"{stem}.pfm"
            files["disparity_next"] = base / "disparity_change" / "left" / "into_future" / f"{stem}.pfm"
            files["flow"] = base / "flow" / "left" / "into_future" / f"{stem}.flo"
            masks = {
                "nonoccluded": base / "disparity_occlusions" / "left" / f"{stem}.png",
                "nonoccluded_flow": base / "flow_occlusions" / "left" / "into_future" / f"{stem}.png",
            }
            files |= {role: path for role, path in masks.items() if self.index.has(path)}
            frames.append(Frame(f"{base.name}/{stem}", files))  # both parts number from 0
        return frames

    def _views(
        self, views: dict[str, dict[str, Path]], folder: Path, stem: str, after: str
    ) -> dict[str, Path]:
        roles = (
            ("left", "left", stem),
            ("right", "right", stem),
            ("left_next", "left", after),
            ("right_next", "right", after),
        )
        return {role: views[view].get(name, folder / view / f"{name}.png") for role, view, name in roles}

    def read_disparities(self, frame: Frame, size: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
        disparity = _map(frame.files["disparity"], size)
        found = {"disparity": self.sign * disparity}
        if "disparity_next" in self.want and "disparity_next" in frame.files:
            found["disparity_next"] = self.sign * (disparity + _map(frame.files["disparity_next"], size))
        return {key: np.asarray(values, np.float32) for key, values in found.items()}

    def read_flow(self, frame: Frame) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        path = frame.files["flow"]
        flow = formats.read_flo(path) if path.suffix == ".flo" else formats.read_pfm(path)
        if flow.ndim != 3:
            raise UserError(f"{path} has one channel; flow has x and y")
        flow = flow[..., :2]
        valid = np.asarray(np.isfinite(flow).all(-1), np.bool_)
        return np.where(valid[..., None], flow, np.float32(0)), valid


def _map(path: Path, size: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the disparity or its change in `path`; UserError where it has not the `size` of its image."""
    values = formats.read_disparity(path)
    formats.check_size(path, values, size)
    return values


def _sign(path: Path) -> float:
    """Return the sign that makes the disparities in `path` positive; UserError when they have both."""
    values = formats.read_pfm(path)
    known = values[np.isfinite(values) & (values != 0)]
    share = float((known > 0).mean()) if known.size else 1.0
    if 0.01 < share < 0.99:
        raise UserError(
            f"{path} has disparities of both signs ({share:.0%} positive); the full release of "
            "FlyingThings3D has positive ones, the subset negative ones"
        )
    return 1.0 if share > 0.5 else -1.0
