"""SceneFlow: FlyingThings3D, Monkaa and Driving.

N. Mayer et al., A large dataset to train convolutional networks for disparity, optical flow, and scene flow
estimation, CVPR 2016, https://lmb.informatik.uni-freiburg.de/resources/datasets/SceneFlowDatasets.en.html.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import unknown
from .. import formats
from ..sample import Sample
from . import DATASETS
from ._base import Frame, StereoFiles

# The folder of a rendering as the archives (frames_), the sampler (RGB_) and FlyingThings3D's subset (image_)
# name it; many unpack the three archives side by side under a prefix: monkaa_frames_cleanpass with
# monkaa_disparity.
_RENDERING = re.compile(r"(?P<prefix>.*?)(frames|RGB|image)_(?P<pass>final|clean)(pass)?(_webp)?")
_TRUTH = ("{prefix}disparity", "frames_disparity", "disparity")
_OCCLUSION = ("{prefix}disparity_occlusions", "disparity_occlusions", "occlusion")


@DATASETS.register("sceneflow")
class SceneFlow(StereoFiles):
    """SceneFlow's three sets in one root, merged or side by side, or any one of them.

    `test` is FlyingThings3D's TEST (4,370 pairs); `train` its TRAIN, all of Monkaa and all of Driving
    (35,454): the usual division, DSNet's too. `train-flyingthings3d` is its TRAIN alone (22,390), on whose
    final pass TSNnet trains. A sampler pack, which has no such folders, counts in every other split.

    Args:
        rendering: "final" (with motion blur, depth of field and haze) or "clean"; default final where it is
            there.
        **options: as every data set of files.
    """

    name = "sceneflow"
    layout = (
        "frames_finalpass/{TRAIN,TEST}/{A,B,C}/SCENE/{left,right}/NNNN.png and the same in disparity/ with "
        ".pfm; Monkaa and Driving without TRAIN"
    )
    splits = ("all", "train", "test", "train-flyingthings3d")
    partitions = ("all", "train-flyingthings3d")
    counts: ClassVar[dict[str, int]] = {
        "all": 39824,
        "train": 35454,
        "test": 4370,
        "train-flyingthings3d": 22390,
    }

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        rendering: str | None = None,
        **options: Any,
    ):
        if rendering not in (None, "final", "clean"):
            raise unknown("rendering", str(rendering), ("final", "clean"), of=f"data set '{self.name}'")
        self.rendering = rendering
        super().__init__(root, split, **options)

    def list_frames(self) -> list[Frame]:
        renderings = list(self._renderings(self.root, depth=3))
        wanted = self.rendering or ("final" if any(kind == "final" for _, kind in renderings) else "clean")
        frames = [frame for folder, kind in renderings if kind == wanted for frame in self._frames(folder)]
        return sorted(frames, key=lambda frame: frame.name)

    def _renderings(self, folder: Path, depth: int) -> Iterator[tuple[Path, str]]:
        for inside in self.index.folders(folder):
            match = _RENDERING.fullmatch(inside.name)
            if match:
                yield inside, match["pass"]
            elif depth > 1 and inside.name not in ("disparity", "left", "right"):
                yield from self._renderings(inside, depth - 1)

    def _frames(self, images: Path) -> Iterator[Frame]:
        match = _RENDERING.fullmatch(images.name)
        prefix = match["prefix"] if match else ""
        truth, occlusion = (self._beside(images, prefix, names) for names in (_TRUTH, _OCCLUSION))
        base = images.parent.relative_to(self.root)
        for scene in self._scenes(images):
            inside = scene.relative_to(images)
            if not self._in_split((*base.parts, *inside.parts), sampler=inside == Path()):
                continue
            views = [self.index.stems(scene / view) for view in ("left", "right")]
            for stem in sorted(views[0].keys() | views[1].keys()):
                files = {
                    "left": views[0].get(stem, scene / "left" / f"{stem}.png"),
                    "right": views[1].get(stem, scene / "right" / f"{stem}.png"),
                    "disparity": truth / inside / "left" / f"{stem}.pfm",
                    "disparity_right": truth / inside / "right" / f"{stem}.pfm",
                }
                mask = occlusion / inside / "left" / f"{stem}.png"
                if self.index.has(mask):
                    files["nonoccluded"] = mask
                yield Frame((base / prefix.strip("_") / inside / stem).as_posix(), files)

    def _scenes(self, folder: Path) -> Iterator[Path]:
        inside = self.index.folders(folder)
        if any(view.name in ("left", "right") for view in inside):
            yield folder
            return
        for deeper in inside:
            yield from self._scenes(deeper)

    def _beside(self, images: Path, prefix: str, names: tuple[str, ...]) -> Path:
        folders = [images.parent / name.format(prefix=prefix) for name in names]
        return next((folder for folder in folders if folder.is_dir()), folders[0])

    def _in_split(self, parts: tuple[str, ...], sampler: bool) -> bool:
        if self.split == "all":
            return True
        subset = {"train": "train", "val": "test"}  # FlyingThings3D's subset calls its TEST val
        named = next(
            (subset.get(part, part.lower()) for part in parts if part in ("TRAIN", "TEST", *subset)), None
        )
        if self.split == "train-flyingthings3d":
            return named == "train"
        return (sampler and named is None) or self.split == (named or "train")

    def read_disparity(self, path: Path) -> NDArray[np.float32]:
        # FlyingThings3D's subset stores the left view's disparity with a minus sign.
        return np.abs(formats.read_disparity(path))

    def read_nonoccluded(self, frame: Frame, sample: Sample) -> NDArray[np.bool_] | None:
        path = frame.files.get("nonoccluded")
        return None if path is None else formats.read_grey(path) == 0
