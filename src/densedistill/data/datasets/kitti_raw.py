"""KITTI raw with the Eigen split and the official depth, as monocular depth networks are trained on it.

D. Eigen et al., Depth map prediction from a single image, NIPS 2014; J. Uhrig et al., Sparsity invariant
CNNs, 3DV 2017, https://www.cvlibs.net/datasets/kitti/.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ...errors import UserError
from ..calibration import Calibration, read_calibration
from . import DATASETS
from ._base import Frame, listed_frames
from ._depth import DepthFiles

_LISTS = ("eigen_{}_files_with_gt.txt", "kitti_eigen_{}.txt", "eigen_{}.txt", "{}.txt", "eigen_{}_files.txt")


@DATASETS.register("kitti_eigen")
class KITTIEigen(DepthFiles):
    """KITTI raw images by a list of the Eigen split: image, depth or `None`, and maybe the focal length.

    Frames without depth are left out: 652 of the 697 test frames remain. The official depth (16-bit PNG,
    256ths of a metre) is looked for below `<root>/<date>`, `<root>/data_depth_annotated` and `<root>`, with
    the archive's `train/` and `val/` levels or without them.

    Args:
        root: the folder with the dates (`2011_09_26/…`).
        split: `train` or `test`.
        list: the list file; default one of the usual names in `root`.
        depth: a folder of the depth, where it is none of the above.
        part: `kitti` (default) reads the 1216x352 px that published networks see, `whole` all. Train with
            `whole`, and with the augmentation's `frame: kitti`, to rotate before the crop, as published.
        **options: as every data set of depth.
    """

    name = "kitti_eigen"
    layout = (
        "2011_09_26/DRIVE/image_02/data/N.png, data_depth_annotated/, and lines of image, depth and focal "
        "length in eigen_train_files_with_gt.txt and eigen_test_files_with_gt.txt, or a list that is given"
    )
    splits = ("train", "test")
    counts: ClassVar[dict[str, int]] = {"train": 23158, "test": 652}
    scale = 256.0
    default_part = "kitti"
    expected = (2.0, 100.0)

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        list: str | os.PathLike[str] | None = None,
        depth: str | os.PathLike[str] | None = None,
        **options: Any,
    ):
        self.list, self.depth = list, depth
        super().__init__(root, split, **options)

    def whole(self) -> int | None:
        return super().whole() if self.list is None else None  # a list may be any

    def list_frames(self) -> list[Frame]:
        path = self._list_file()
        frames = []
        for words in listed_frames(path, (2, 3)) if path is not None else []:
            image, depth = words[0].lstrip("/"), words[1].lstrip("/")
            if not Path(image).suffix:
                raise UserError(f"{path}: a line names an image and its depth, got '{' '.join(words)}'")
            if depth != "None":
                files = {"image": self._image(image), "depth": self._depth(image, depth)}
                frames.append(Frame(Path(image).with_suffix("").as_posix(), files))
        return frames

    def _list_file(self) -> Path | None:
        usual = [self.root / name.format(self.split) for name in _LISTS]
        given = [Path(self.list).expanduser(), self.root / self.list] if self.list else usual
        for path in given:
            if path.is_file():
                return path
        if self.list:
            raise UserError(f"data set '{self.name}': there is no list {self.list}")
        return None

    def _image(self, image: str) -> Path:
        plain = self.root / image
        return self.index.first(plain, plain.with_suffix(".jpg"))  # many keep KITTI raw as JPEG

    @cached_property
    def _bases(self) -> list[Path]:
        given = [Path(self.depth).expanduser()] if self.depth else []
        annotated = [self.root / "data_depth_annotated", self.root / "data_depth", self.root]
        return [folder / level for folder in (*given, *annotated) for level in ("", "train", "val")]

    def _depth(self, image: str, depth: str) -> Path:
        date = image.split("/")[0]
        places = [self.root / date / depth, *(base / depth for base in self._bases)]
        return self.index.first(*places)

    def read_calibration(self, frame: Frame, size: tuple[int, ...]) -> Calibration | None:
        parts = frame.files["image"].relative_to(self.root).parts
        path = self.root / parts[0] / "calib_cam_to_cam.txt"
        return read_calibration(path, cameras=(2, 3)) if path.is_file() else None
