"""Folders of RGB-D cameras, as ICL-NUIM and TUM lay them out.

A. Handa et al., A benchmark for RGB-D visual odometry, 3D reconstruction and SLAM, ICRA 2014,
https://www.doc.ic.ac.uk/~ahanda/VaFRIC/iclnuim.html; J. Sturm et al., A benchmark for the evaluation of RGB-D
SLAM systems, IROS 2012, https://cvg.cit.tum.de/data/datasets/rgbd-dataset.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from pathlib import Path
from typing import Any, ClassVar

from ...errors import UserError
from ..calibration import Calibration
from . import DATASETS
from ._base import SAMPLES, Frame, listed_frames
from ._depth import DepthFiles


class _RGBD(DepthFiles):
    """What both have in common: depth in 5000ths of a metre, and a `camera`, which is that of 640x480 px."""

    scale = 5000.0
    expected = (0.2, 10.0)
    camera: ClassVar[Calibration]

    def inside(self, base: Path) -> str:
        """Return what the names of the frames in sequence `base` begin with."""
        return "" if base == self.root else f"{base.relative_to(self.root).as_posix()}/"

    def read_calibration(self, frame: Frame, size: tuple[int, ...]) -> Calibration | None:
        return self.camera.resized(size[0], size[1])


@DATASETS.register("icl_nuim")
class ICLNUIM(_RGBD):
    """ICL-NUIM sequences below `root`: `color/N.png` (or `rgb/`) with `depth/N.png`, 5000ths of a metre.

    Without a root the five frames of the living room that ship.

    Args:
        root: the folder of one sequence, or of several.
        **options: as every data set of depth.
    """

    name = "icl_nuim"
    layout = "color/N.png (or rgb/N.png) and depth/N.png, in one sequence or one folder a sequence"
    # The renderer's y axis points up, so its focal length is negative there.
    camera = Calibration(481.2, 480.0, 319.5, 239.5, baseline_m=0.0, size=(480, 640))

    def __init__(self, root: str | os.PathLike[str] | None = None, split: str | None = None, **options: Any):
        super().__init__(SAMPLES / "icl_nuim" if root is None else root, split, **options)

    def list_frames(self) -> list[Frame]:
        return [
            frame for base in self.index.bases(self.root, "color", "rgb") for frame in self._sequence(base)
        ]

    def _sequence(self, base: Path) -> list[Frame]:
        images = self.index.stems(base / "color") or self.index.stems(base / "rgb")
        inside = self.inside(base)
        ordered = sorted(images, key=lambda stem: (len(stem), stem))  # 2 before 10
        return [
            Frame(f"{inside}{stem}", {"image": images[stem], "depth": base / "depth" / f"{stem}.png"})
            for stem in ordered
        ]


@DATASETS.register("tum")
class TUM(_RGBD):
    """TUM RGB-D sequences below `root`: `rgb.txt` and `depth.txt`, whose frames are joined by their times.

    An image goes with the depth nearest in time; one farther than `tolerance` from any is left out.

    Args:
        root: the folder of one sequence, or of several.
        tolerance: seconds.
        **options: as every data set of depth.
    """

    name = "tum"
    layout = "rgb.txt, depth.txt, rgb/TIME.png and depth/TIME.png, in one sequence or one folder a sequence"
    camera = Calibration(525.0, 525.0, 319.5, 239.5, baseline_m=0.0, size=(480, 640))

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        tolerance: float = 0.02,
        **options: Any,
    ):
        self.tolerance = tolerance
        super().__init__(root, split, **options)

    def list_frames(self) -> list[Frame]:
        return [
            frame
            for base in (self.root, *self.index.folders(self.root))
            if self.index.has(base / "rgb.txt") and self.index.has(base / "depth.txt")
            for frame in self._sequence(base)
        ]

    def _sequence(self, base: Path) -> list[Frame]:
        images, depths = (self._times(base / name) for name in ("rgb.txt", "depth.txt"))
        times = [time for time, _ in depths]
        frames = []
        for time, image in images:
            at = bisect_left(times, time)
            near = min(depths[max(0, at - 1) : at + 1], key=lambda one: abs(one[0] - time), default=None)
            if near is not None and abs(near[0] - time) <= self.tolerance:
                files = {"image": base / image, "depth": base / near[1]}
                frames.append(Frame(f"{self.inside(base)}{Path(image).stem}", files))
        return frames

    def _times(self, path: Path) -> list[tuple[float, str]]:
        try:
            return sorted((float(time), file) for time, file in listed_frames(path, (2,)))
        except ValueError:
            raise UserError(f"{path}: a line begins with a time in seconds, then the file") from None
