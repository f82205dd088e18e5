"""`predict`: pairs of files in, files of disparity, depth and points out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..data import formats
from ..data.calibration import Calibration, read_calibration, rectify
from ..errors import UserError, unknown
from .load import Predicts, load_predictor
from .order import looks_swapped
from .pairs import Pair, PathLike, pairs_from
from .progress import progress_bar
from .writers import WRITERS, Predicted

ORDER_CHECKED = 8  # pairs; a rig does not change sides in the middle of a folder


@dataclass
class Predictions:
    """The files that `predict` wrote, how many pairs were there already, and what looked wrong."""

    written: list[Path] = field(default_factory=list)
    skipped: int = 0
    warnings: list[str] = field(default_factory=list)


def predict(
    network: Any,
    pairs: PathLike | Iterable[Pair | tuple[PathLike, PathLike]],
    out: PathLike,
    *,
    write: Sequence[str] = ("png", "color"),
    calibration: PathLike | Sequence[PathLike] | Calibration | None = None,
    rectify_by: PathLike | Sequence[PathLike] | Calibration | None = None,
    max_disparity: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    overwrite: bool = False,
    colour_max: float | None = None,
    progress: bool = False,
    on_warning: Callable[[str], None] | None = None,
) -> Predictions:
    """Predict the disparity of pairs of images and write it as files, in float32 unless told otherwise.

    Images may be of any size, grey, 16 bits deep or with alpha. A pair whose outputs are all there is
    skipped, so a run that was stopped goes on where it was; each file is whole or not there. Views that look
    swapped are reported, never swapped.

    Args:
        network: as `load_predictor` takes it: a network, a name, `name=weights`, `sgbm`, a run, a predictor.
        pairs: a folder, a list file, or pairs of paths (see `pairs_from`).
        out: folder of the outputs, called by the pair's name.
        write: kinds of output, of `WRITERS`.
        calibration: file (KITTI, Middlebury, OpenCV; OpenCV's may be two) for `depth` and `ply`; None to look
            for `calib.txt` beside the images and KITTI's `calib/NNNNNN.txt`.
        rectify_by: OpenCV calibration of a raw rig: the pairs are rectified first, and the rectified views
            written.
        max_disparity: search range of a network given by name, px.
        device, precision: where and in which arithmetic the network runs.
        overwrite: predict again what is there.
        colour_max: disparity that is red in pictures; None for each picture's own largest.
        progress: draw a bar on stderr.
        on_warning: gets each warning; None for `warnings.warn`.

    Raises:
        UserError: an unknown kind of output, a missing or damaged file, views of different size, no
            calibration where one is needed.
    """
    for kind in write:
        if kind not in WRITERS:
            raise unknown("kind of output", kind, WRITERS)
    found = pairs_from(pairs)
    if not found:
        raise UserError("there is no pair to predict")
    work = _Work(Path(out), tuple(dict.fromkeys(write)), on_warning or _warn, colour_max)
    work.rig = _read(rectify_by)
    if work.rig is not None and work.rig.raw is None:
        raise UserError(
            "to rectify takes a calibration with both cameras, K1, D1, K2, D2, R and T (OpenCV's)"
        )
    work.calibration = _read(calibration)
    waiting = [pair for pair in found if overwrite or not work.is_done(pair)]
    work.result.skipped = len(found) - len(waiting)
    for pair in waiting:
        work.geometry(pair, size=None)  # a missing calibration is said before hours of work
    if waiting:
        run = load_predictor(network, max_disparity, device, precision)
        with progress_bar(progress) as advance:
            for number, pair in enumerate(waiting):
                work.one(run, pair, check_order=number < ORDER_CHECKED)
                advance("predict", pair.name, len(waiting))
    return work.result


@dataclass
class _Work:
    """What is the same for every pair."""

    out: Path
    kinds: tuple[str, ...]
    on_warning: Callable[[str], None]
    colour_max: float | None
    rig: Calibration | None = None
    calibration: Calibration | None = None
    result: Predictions = field(default_factory=Predictions)

    def is_done(self, pair: Pair) -> bool:
        return all(path.is_file() for path in self.paths(pair).values())

    def paths(self, pair: Pair) -> dict[str, Path]:
        return {kind: self.out / f"{pair.name}{WRITERS[kind].suffix}" for kind in self.kinds}

    def one(self, run: Predicts, pair: Pair, check_order: bool) -> None:
        left, right = formats.read_images(pair.left, pair.right)
        if left.shape != right.shape:
            raise UserError(
                f"the views differ in size: {pair.left} is {left.shape[1]}x{left.shape[0]} px, "
                f"{pair.right} {right.shape[1]}x{right.shape[0]}; a rectified pair has one size"
            )
        geometry = self.geometry(pair, left.shape[:2])
        if self.rig is not None and self.rig.raw is not None:
            left, right, geometry = rectify(self.rig.raw, left, right)
            for side, view in (("left", left), ("right", right)):
                path = self.out / f"{pair.name}.{side}.png"
                formats.write_image(path, view)
                self.result.written.append(path)
        if check_order and looks_swapped(left, right):
            self.warn(f"left and right look swapped in '{pair.name}' ({pair.left} should be the left view)")
        disparity = run(left, right)["disparity"][0, 0].cpu().numpy()
        predicted = Predicted(disparity, left, geometry, self.colour_max)
        for kind, path in self.paths(pair).items():
            WRITERS[kind].write(path, predicted)
            self.result.written.append(path)

    def geometry(self, pair: Pair, size: tuple[int, ...] | None) -> Calibration | None:
        """Return the calibration for images of `size`; None where no output needs it."""
        if self.rig is not None or not any(WRITERS[kind].metric for kind in self.kinds):
            return None
        found = self.calibration or _beside(pair.left)
        if found is None:
            raise UserError(
                f"depth and ply need a calibration; there is none beside {pair.left}, so name its file"
            )
        if size is None or found.size is None or found.size == tuple(size):
            return found
        (height, width), (calibrated_height, calibrated_width) = size, found.size
        calibrated = f"the calibration is for {calibrated_width}x{calibrated_height} px"
        if abs(calibrated_height * width - calibrated_width * height) > max(
            calibrated_height, calibrated_width
        ):
            raise UserError(f"{calibrated}, {pair.left} is {width}x{height}, of another shape")
        self.warn(f"{calibrated} and scaled to {width}x{height}")
        return found.resized(height, width)

    def warn(self, message: str) -> None:
        if message not in self.result.warnings:
            self.result.warnings.append(message)
            self.on_warning(message)


def _read(given: PathLike | Sequence[PathLike] | Calibration | None) -> Calibration | None:
    if given is None or isinstance(given, Calibration):
        return given
    paths = [given] if isinstance(given, (str, os.PathLike)) else list(given)
    return read_calibration(*paths)


def _beside(left: Path) -> Calibration | None:
    """Return the calibration where benchmarks keep it, or None."""
    frame = left.stem.partition("_")[0]
    cameras = (0, 1) if left.parent.name == "image_0" else None  # KITTI's grey cameras
    for place in (
        left.parent / "calib.txt",
        left.parent.parent / "calib" / f"{frame}.txt",
        left.parent.parent / "calib_cam_to_cam" / f"{frame}.txt",
    ):
        if place.is_file():
            return read_calibration(place, cameras=cameras)
    return None


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)
