"""A plain folder of your own images, with depth or without."""

from __future__ import annotations

import os
from typing import Any

from ...errors import UserError
from . import DATASETS
from ._base import Frame, doubt_strangers
from ._depth import DepthFiles

IMAGES = ("image", "images", "rgb", "color", "colour")
DEPTHS = ("depth", "depths", "gt")
_SUFFIXES = (".png", ".pfm", ".npy")


@DATASETS.register("depth_folder")
class DepthFolder(DepthFiles):
    """Images of a folder: `image/NAME.png` (or `rgb/`, `color/`), and `depth/NAME.png` where it is known.

    Depth is 16-bit PNG (millimetres, or `depth_scale` to the metre: 256 for KITTI's and for what `label` and
    `predict` write), PFM or NPY (metres). Folders inside are read too. Images may lack it, as those of a
    folder without any depth do.

    Args:
        root: the folder.
        image, depth: names of the folders inside `root`, when they have others.
        **options: as every data set of depth.
    """

    name = "depth_folder"
    layout = "image/NAME.png, and depth/NAME.png (millimetres), NAME.pfm or NAME.npy (metres) where known"
    required = ("image",)

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        image: str | None = None,
        depth: str | None = None,
        **options: Any,
    ):
        self.inside = {"image": image, "depth": depth}
        super().__init__(root, split, **options)

    def list_frames(self) -> list[Frame]:
        folders = {}
        for role, usual in (("image", IMAGES), ("depth", DEPTHS)):
            given = self.inside[role]
            if given is not None and not (self.root / given).is_dir():
                raise UserError(f"data set 'depth_folder': there is no folder {self.root / given}")
            names = [given] if given is not None else usual
            folders[role] = next((self.root / n for n in names if (self.root / n).is_dir()), None)
        if folders["image"] is None:
            return []
        frames = []
        for stem, path in sorted(self.index.tree(folders["image"]).items()):
            files = {"image": path}
            if folders["depth"] is not None:
                truth = self.index.first(*(folders["depth"] / f"{stem}{s}" for s in _SUFFIXES))
                if self.index.has(truth):
                    files["depth"] = truth
            frames.append(Frame(stem, files))
        doubt_strangers(frames, "depth", folders["depth"], _SUFFIXES)
        return frames
