"""Middlebury 2001, 2003, 2005 and 2006: image pairs with 8-bit disparity.

D. Scharstein and R. Szeliski, High-accuracy stereo depth maps using structured light, CVPR 2003,
https://vision.middlebury.edu/stereo/data/scenes2003/; D. Scharstein and C. Pal, Learning conditional random
fields for stereo, CVPR 2007, scenes2005 and scenes2006.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import formats
from . import DATASETS
from ._base import SAMPLES, Frame
from .middlebury2014 import Scenes

# Image height to the factor between a stored value and px, as the sets' pages say for full, half, third and
# quarter size; the factor keeps 8-bit values meaning the same scene at each size. 2001's scenes, of 380 to
# 383 rows, have one of their own.
_SCALES_2003 = {1500: 1.0, 750: 2.0, 375: 4.0, **dict.fromkeys(range(380, 384), 8.0)}
_SCALES_2006 = {1110: 1.0, 555: 2.0, 370: 3.0}


@DATASETS.register("middlebury2003")
class Middlebury2003(Scenes):
    """Middlebury 2001 and 2003 (im2, im6), 2005 and 2006 (view1, view5) below `root`; without a root the
    Cones pair that ships.

    Non-occluded pixels are those whose disparity agrees with the right view's.

    Args:
        disparity_scale: what a stored value is divided by; default by the image's height: 4, 2, 1 for 2003's
            quarter, half and full size, 8 for 2001, 3, 2, 1 for the third, half and full size of 2005 and
            2006 (at other heights 4 and 3).
        **options: as every data set of files.
    """

    name = "middlebury2003"
    layout = "SCENE/{im2,im6,disp2,disp6}.png or SCENE/{view1,view5,disp1,disp5}.png"
    views = frozenset({"im2", "im6", "view1", "view5"})

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        disparity_scale: float | None = None,
        **options: Any,
    ):
        self.disparity_scale = disparity_scale
        super().__init__(SAMPLES / "middlebury2003" if root is None else root, split, **options)

    def list_frames(self) -> list[Frame]:
        return [self._frame(scene) for scene in self.scenes(self.root)]

    def _frame(self, scene: Path) -> Frame:
        of_2003 = {"im2", "im6"} & self.index.stems(scene).keys()
        left, right = ("im2", "im6") if of_2003 else ("view1", "view5")
        files = {
            "left": self._image(scene, left),
            "right": self._image(scene, right),
            "disparity": self._image(scene, f"disp{left[-1]}"),
        }
        truth = self._image(scene, f"disp{right[-1]}")
        if self.index.has(truth):
            files["disparity_right"] = truth
        return Frame(self.name_of(scene, self.root), files)

    def _image(self, scene: Path, stem: str) -> Path:
        return self.index.first(*(scene / f"{stem}{suffix}" for suffix in (".png", ".ppm", ".pgm")))

    def read_disparity(self, path: Path) -> NDArray[np.float32]:
        values = formats.read_disparity(path, scale=1)
        scale = self.disparity_scale
        if scale is None:
            of_2003 = path.stem in ("disp2", "disp6")
            scale = (_SCALES_2003 if of_2003 else _SCALES_2006).get(len(values), 4.0 if of_2003 else 3.0)
        return values / np.float32(scale)
