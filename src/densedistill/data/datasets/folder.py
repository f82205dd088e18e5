"""A plain folder of stereo pairs of your own, with or without ground truth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ...errors import UserError
from . import DATASETS
from ._base import Frame, StereoFiles, doubt_strangers, listed_frames

# Names under which rigs and benchmarks keep a pair's views, left and right.
VIEWS = (
    ("left", "right"),
    ("image_0", "image_1"),
    ("image_2", "image_3"),
    ("image_02", "image_03"),
    ("colored_0", "colored_1"),
    ("cam0", "cam1"),
    ("im0", "im1"),
    ("image_left", "image_right"),
    ("left_images", "right_images"),
)
# Names of the two files where every pair has a folder of its own.
FILES = (("im0", "im1"), ("left", "right"), ("im2", "im6"), ("view1", "view5"))
TRUTHS = ("disparity", "disparities", "disp", "disp_occ_0", "disp_occ", "disp_0", "disp0", "gt")
_SUFFIXES = (".pfm", ".npy", ".png")
CALIBRATIONS = (
    "calib.txt",
    "calibration.txt",
    "calib.yml",
    "calib.yaml",
    "calibration.yml",
    "calibration.yaml",
)


@DATASETS.register("folder")
class Folder(StereoFiles):
    """Pairs of a folder: `left/NAME.png` with `right/NAME.png`, or `image_0/` with `image_1/`, and the like;
    or a folder a pair, `NAME/im0.png` with `NAME/im1.png`.

    Folders inside those are read too. Ground truth lies in `disparity/` (`disparity/left/`) under the
    same name as PFM, NPY (px) or 16-bit PNG (256ths of a pixel); right disparity in `disparity_right/`
    (`disparity/right/`). Pairs may lack it. A calibration file in the folder (`calib.txt` or OpenCV's
    `calibration.yml`) holds for all pairs, one beside the views for these.

    Args:
        root: the folder.
        left, right, disparity: names of the folders inside `root`, when they have others.
        pairs: a text file of one pair a line, white space between: left, right and, if known, disparity,
            relative to `root` (the list files of published stereo networks).
        disparity_scale: what a stored value is divided by; default 256 for 16-bit PNG, 1 for PFM and NPY.
        **options: as every data set of files.
    """

    name = "folder"
    layout = "left/NAME.png and right/NAME.png (or image_0/ and image_1/), disparity/NAME.pfm if known"
    required = ("left", "right")

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        left: str | None = None,
        right: str | None = None,
        disparity: str | None = None,
        pairs: str | os.PathLike[str] | None = None,
        disparity_scale: float | None = None,
        **options: Any,
    ):
        if (left is None) != (right is None):
            raise UserError("data set 'folder' needs both left and right, or neither")
        self.views = None if left is None or right is None else (left, right)
        self.truth = disparity
        self.pairs = None if pairs is None else Path(pairs).expanduser()
        self.disparity_scale = disparity_scale
        super().__init__(root, split, **options)

    def list_frames(self) -> list[Frame]:
        return self._listed() if self.pairs is not None else self._scanned()

    def _listed(self) -> list[Frame]:
        assert self.pairs is not None
        path = self.pairs if self.pairs.is_file() else self.root / self.pairs
        frames = []
        for columns in listed_frames(path, (2, 3)):
            roles = zip(("left", "right", "disparity"), columns, strict=False)
            name = Path(columns[0]).with_suffix("").as_posix()
            frames.append(Frame(name, {role: self.root / column for role, column in roles}))
        return frames

    def _scanned(self) -> list[Frame]:
        choices = VIEWS if self.views is None else (self.views,)
        views = next((v for v in choices if any((self.root / name).is_dir() for name in v)), None)
        if views is None and self.views is not None:
            return []
        pairs = self._scenes() if views is None else self._side_by_side(*views)
        truths = {
            "disparity": self._truth_folder("left", TRUTHS if self.truth is None else (self.truth,)),
            "disparity_right": self._truth_folder("right", ("disparity_right", "disparity")),
        }
        frames = []
        for stem, files in pairs:
            for role, folder in truths.items():
                if folder is not None:
                    path = self.index.first(*(folder / f"{stem}{suffix}" for suffix in _SUFFIXES))
                    if self.index.has(path):
                        files[role] = path
            for folder in (files["left"].parent, self.root):
                found = [folder / name for name in CALIBRATIONS if self.index.has(folder / name)]
                if found:
                    files["calibration"] = found[0]
                    break
            frames.append(Frame(stem, files))
        for role, folder in truths.items():
            doubt_strangers(frames, role, folder, _SUFFIXES)
        return frames

    def _side_by_side(self, left_folder: str, right_folder: str) -> list[tuple[str, dict[str, Path]]]:
        """Return the pairs of two folders: name and views."""
        left, right = (self.index.tree(self.root / view) for view in (left_folder, right_folder))
        # A left without its right is listed with the file that should be there, so that the lack is told.
        return [
            (
                stem,
                {
                    "left": left.get(stem, self.root / left_folder / f"{stem}.png"),
                    "right": right.get(stem, self.root / right_folder / f"{stem}.png"),
                },
            )
            for stem in sorted(left.keys() | right.keys())
        ]

    def _scenes(self) -> list[tuple[str, dict[str, Path]]]:
        """Return the pairs that have a folder each: name and views."""
        found = []
        for scene in self.index.walk(self.root):
            images = {stem.lower(): path for stem, path in self.index.stems(scene).items()}
            names = next((names for names in FILES if images.keys() >= set(names)), None)
            if names is not None:
                found.append({"left": images[names[0]], "right": images[names[1]]})
        return list(zip(short_names([views["left"] for views in found]), found, strict=True))

    def _truth_folder(self, side: str, names: tuple[str, ...]) -> Path | None:
        for name in names:
            inside = self.root / name / side
            if inside.is_dir():
                return inside
            if (side == "left" or name.endswith(side)) and (self.root / name).is_dir():
                return self.root / name
        if self.truth is not None and side == "left":
            raise UserError(f"data set 'folder': there is no folder {self.root / self.truth}")
        return None


def short_names(paths: list[Path]) -> list[str]:
    """Return each path's stem, with as many parent folders before it as it takes to tell them apart."""
    usual = {left for left, _ in FILES}
    names = [p.parent.name if p.stem.lower() in usual and p.parent.name else p.stem for p in paths]
    for depth in range(2, max((len(path.parts) for path in paths), default=0) + 1):
        if len(set(names)) == len(names):
            break
        names = ["_".join([*path.parts[-depth:-1], path.stem]).strip("/") for path in paths]
    return names
