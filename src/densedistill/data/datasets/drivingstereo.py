"""DrivingStereo: 182,188 driving pairs with filtered laser ground truth.

G. Yang et al., DrivingStereo: A large-scale dataset for stereo matching in autonomous driving scenarios, CVPR
2019, https://drivingstereo-dataset.github.io.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from ...errors import unknown
from . import DATASETS
from ._base import Frame, StereoFiles

_WEATHERS = ("sunny", "cloudy", "foggy", "rainy")


@DATASETS.register("drivingstereo")
class DrivingStereo(StereoFiles):
    """DrivingStereo's training and test pairs, and the 500 pairs each of its four weathers.

    Args:
        resolution: "half" (881x400, as the archives of training pairs have it) or "full"; stored disparity is
            256ths of a pixel at half and 128ths at full size.
        **options: as every data set of files.
    """

    name = "drivingstereo"
    layout = (
        "train-left-image/DATE/FILE.jpg, train-right-image/…, train-disparity-map/DATE/FILE.png (or test-…)"
    )
    splits = ("train", "test", *_WEATHERS)
    counts: ClassVar[dict[str, int]] = {"train": 174437, "test": 7751, **dict.fromkeys(_WEATHERS, 500)}

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        resolution: str = "half",
        **options: Any,
    ):
        if resolution not in ("half", "full"):
            raise unknown("resolution", resolution, ("half", "full"), of=f"data set '{self.name}'")
        self.resolution = resolution
        self.disparity_scale = 256.0 if resolution == "half" else 128.0
        super().__init__(root, split, **options)

    def list_frames(self) -> list[Frame]:
        for base in (self.root, *self.index.folders(self.root)):
            left, right = (self._folder(base, f"{side}-image") for side in ("left", "right"))
            if left is None and right is None:
                continue
            truth = self._folder(base, "disparity-map") or self._folder(base, "disparity")
            return self._frames(*(folder or base / "missing" for folder in (left, right, truth)))
        return []

    def _folder(self, base: Path, kind: str) -> Path | None:
        """Return the folder of `kind` under one of the names it has had, or None."""
        size = f"{kind}-{self.resolution}-size"
        if self.split in _WEATHERS:
            names = [f"{self.split}/{size}"] + [f"{self.split}/{kind}"] * (self.resolution == "half")
        else:
            outer = f"{self.split}-{kind}"
            names = [f"{outer}/{size}", f"{outer}-{self.resolution}-size", f"{self.split}/{size}"]
            names += [outer] * (self.resolution == "half")
        return next((base / name for name in names if (base / name).is_dir()), None)

    def _frames(self, left: Path, right: Path, truth: Path) -> list[Frame]:
        views = self.index.tree(left), self.index.tree(right)
        return [
            Frame(
                name,
                {
                    "left": views[0].get(name, left / f"{name}.jpg"),
                    "right": views[1].get(name, right / f"{name}.jpg"),
                    "disparity": truth / f"{name}.png",
                },
            )
            for name in sorted(views[0].keys() | views[1].keys())
        ]
