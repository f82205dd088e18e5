"""NYU Depth V2's labelled file, read without Matlab, and its official split as folders of images."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from . import formats


class LabelledFile:
    """`nyu_depth_v2_labeled.mat`: 1449 images with depth, and `splits.mat` beside it.

    Args:
        path: of the labelled file.
        splits: of the file with the official split; default beside it.

    Raises:
        UserError: no such file, one that holds something else, or h5py is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], splits: str | os.PathLike[str] | None = None):
        self.path = Path(path).expanduser()
        self.splits = Path(splits).expanduser() if splits else self.path.parent / "splits.mat"
        self._file: Any = None
        if not self.path.is_file():
            raise UserError(f"there is no labelled file {self.path}")
        for key in ("images", "depths", "rawDepths"):
            if key not in self.content:
                raise UserError(f"{self.path} has no '{key}'; it is not NYU Depth V2's labelled file")

    @property
    def content(self) -> Any:
        """The open HDF5 file; each process opens its own."""
        if self._file is None:
            try:
                import h5py
            except ImportError:
                raise UserError("NYU's labelled file needs h5py: pip install 'densedistill[data]'") from None
            try:
                self._file = h5py.File(self.path, "r")
            except OSError as error:
                reason = " ".join(str(error).split())[:120]
                raise UserError(f"cannot read {self.path} as a MATLAB 7.3 (HDF5) file: {reason}") from None
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}  # an open file does not travel to another process

    def __len__(self) -> int:
        return int(self.content["images"].shape[0])

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return image `index`, from 0, as RGB (480, 640, 3); it is stored (3, 640, 480)."""
        return np.ascontiguousarray(self.content["images"][index].transpose(2, 1, 0))

    def depth(self, index: int, raw: bool = True) -> NDArray[np.float32]:
        """Return depth `index` (480, 640), metres: as measured, with holes of 0, or filled."""
        key = "rawDepths" if raw else "depths"
        return np.ascontiguousarray(self.content[key][index].T.astype(np.float32))

    def scene(self, index: int) -> str:
        """Return the kind of scene that image `index` shows, `kitchen` for example."""
        if "sceneTypes" not in self.content:
            return "scenes"
        letters = self.content[self.content["sceneTypes"][0, index]]
        return "".join(chr(int(letter)) for letter in np.asarray(letters).ravel())

    def split(self, name: str) -> list[int]:
        """Return the indices, from 0, of the images of split `train` or `test`."""
        from scipy.io import loadmat

        if not self.splits.is_file():
            raise UserError(f"there is no {self.splits}, which says the official split")
        # scipy raises the third of these for the newer .mat format, which is HDF5.
        try:
            indices = loadmat(self.splits)[f"{name}Ndxs"].ravel()
        except (KeyError, ValueError, NotImplementedError, OSError):
            raise UserError(f"{self.splits} has no '{name}Ndxs'; it is not NYU's file of splits") from None
        chosen = [int(index) - 1 for index in indices]
        if any(not 0 <= index < len(self) for index in chosen):
            raise UserError(f"{self.splits} names images that {self.path} does not have")
        return chosen


def write_official(
    labelled: LabelledFile,
    out: str | os.PathLike[str],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write the official split as `OUT/{train,test}/SCENE/rgb_N.png` and more, and return images a split.

    Beside the image lie `sync_depth_N.png`, as measured, and `dense/sync_depth_dense_N.png`, filled, 16-bit
    in millimetres. What lies outside the calibrated part of the image is black, as in the published folders;
    images are PNG rather than JPEG, which loses nothing.

    Args:
        labelled: the source.
        out: the folder.
        progress: called with images done and all images.
    """
    out = Path(out)
    chosen = {name: labelled.split(name) for name in ("train", "test")}
    total, done = sum(map(len, chosen.values())), 0
    for name, indices in chosen.items():
        for index in indices:
            scene = out / name / labelled.scene(index)
            (scene / "dense").mkdir(parents=True, exist_ok=True)
            image = labelled.image(index)
            framed = np.zeros_like(image)
            framed[7:474, 7:632] = image[7:474, 7:632]
            formats.write_image(scene / f"rgb_{index:05d}.png", framed)
            for raw, path in ((True, "sync_depth"), (False, "dense/sync_depth_dense")):
                formats.write_depth_png(scene / f"{path}_{index:05d}.png", labelled.depth(index, raw), 1000.0)
            done += 1
            if progress:
                progress(done, total)
    return {name: len(indices) for name, indices in chosen.items()}
