"""MPI-Sintel: optical flow, and its stereo archive where it is unpacked beside.

D. Butler et al., A naturalistic open source movie for optical flow evaluation, ECCV 2012, http://sintel.is.tue.mpg.de.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError, unknown
from .. import formats
from . import DATASETS
from ._base import Frame
from ._sequence import SequenceFiles

_FRAME = re.compile(r"frame_(\d+)")


@DATASETS.register("sintel")
class Sintel(SequenceFiles):
    """MPI-Sintel: 1,041 training and 552 test pairs of consecutive frames of the left camera.

    With the stereo archive (`clean_left`, `clean_right`, `disparities`) in the same folder, pairs and
    disparity, too. All images are then of that archive, for its final pass has no fog. It has `occlusions`
    of its own, of the disparity, that replace the flow's: beside its `outofframe` they say with it
    `disparity_nonoccluded`, and `flow_nonoccluded` is unknown.

    Args:
        root: the folder that holds `training/` and `test/`, or one of these.
        split: `train` or `test`.
        rendering: `clean` or `final` (with motion blur and fog); default clean.
        **options: as every data set of files.
    """

    name = "sintel"
    layout = "training/{clean,final,flow,occlusions,invalid}/SCENE/frame_NNNN.png"
    splits = ("train", "test")
    counts: ClassVar[dict[str, int]] = {"train": 1041, "test": 552}

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        rendering: str = "clean",
        **options: Any,
    ):
        if rendering not in ("clean", "final"):
            raise unknown("rendering", rendering, ("clean", "final"), of=f"data set '{self.name}'")
        self.rendering = rendering
        super().__init__(root, split, **options)

    def list_frames(self) -> list[Frame]:
        folder = "training" if self.split == "train" else "test"
        bases = [base / folder for base in self.index.bases(self.root, folder)] or [self.root]
        frames = []
        for base in bases:
            left = next((n for n in (f"{self.rendering}_left", self.rendering) if (base / n).is_dir()), None)
            for scene in self.index.folders(base / left) if left else ():
                frames += self._scene(base, base / str(left), scene.name)
        return frames

    def _scene(self, base: Path, images: Path, scene: str) -> list[Frame]:
        left = self.index.stems(images / scene)
        right = self.index.stems(base / f"{self.rendering}_right" / scene)
        frames = []
        for stem in sorted(left):
            number = _FRAME.fullmatch(stem)
            after = f"frame_{int(number[1]) + 1:04d}" if number else ""
            if after not in left:
                continue
            files = {"left": left[stem], "left_next": left[after]}
            if stem in right and after in right:
                files |= {"right": right[stem], "right_next": right[after]}
            optional = {
                "flow": base / "flow" / scene / f"{stem}.flo",
                "invalid": base / "invalid" / scene / f"{stem}.png",
                "disparity": base / "disparities" / scene / f"{stem}.png",
            }
            hidden, outside = (base / name / scene / f"{stem}.png" for name in ("occlusions", "outofframe"))
            if not (base / "outofframe").is_dir():
                optional["nonoccluded_flow"] = hidden
            elif self.index.has(outside):
                optional |= {"nonoccluded": hidden, "outofframe": outside}
            if self.split == "train":
                files["flow"] = optional["flow"]
                files |= {role: path for role, path in optional.items() if self.index.has(path)}
            frames.append(Frame(f"{scene}/{stem}", files))
        return frames

    def read_disparities(self, frame: Frame, size: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
        path = frame.files["disparity"]
        raster = formats.read_raster(path)
        if raster.ndim != 3 or raster.dtype != np.uint8:
            raise UserError(f"{path} is no 8-bit colour PNG (it is {raster.dtype}, {raster.shape})")
        red, green, blue = np.moveaxis(raster[..., :3].astype(np.float32), -1, 0)
        return {"disparity": red * 4 + green / 64 + blue / 16384}  # as the benchmark's own reader decodes it

    def read_flow(self, frame: Frame) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        flow = formats.read_flo(frame.files["flow"])
        valid = np.abs(flow).max(-1) < 1e9
        if "invalid" in frame.files:
            invalid = formats.read_grey(frame.files["invalid"])
            formats.check_size(frame.files["invalid"], invalid, valid.shape)
            valid &= invalid == 0
        return np.where(valid[..., None], flow, np.float32(0)), valid

    def read_masks(self, frame: Frame) -> dict[str, NDArray[np.bool_]]:
        masks = super().read_masks(frame)
        if "disparity" in masks:  # the stereo archive tells apart what is hidden and what lies outside
            outside = formats.read_grey(frame.files["outofframe"])
            formats.check_size(frame.files["outofframe"], outside, masks["disparity"].shape)
            masks["disparity"] &= outside == 0
        return masks
