"""`predict`: images in, files of predictions out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..data import formats
from ..data.calibration import Calibration, RawRig, read_calibration, rectify, write_calibration
from ..data.datasets.folder import CALIBRATIONS
from ..data.views import doubt_views
from ..errors import UserError, unknown
from ..tasks import Task
from ..tasks.files import Predicted, Writer, unbatch
from .inputs import Input, inputs_from
from .load import Predicts, load_predictor, size_of_network, task_of_network
from .pairs import PathLike
from .progress import progress_bar

NAMED = 4  # files of a wrong size
DOUBTED = 8  # pairs; a rig does not change in the middle of a folder


@dataclass
class Predictions:
    """The files that `predict` wrote, how many inputs were there already, and what looked wrong."""

    written: list[Path] = field(default_factory=list)
    skipped: int = 0
    warnings: list[str] = field(default_factory=list)


def predict(
    network: Any,
    source: Any,
    out: PathLike,
    *,
    write: Sequence[str] | None = None,
    calibration: PathLike | Sequence[PathLike] | Calibration | None = None,
    rectify_by: PathLike | Sequence[PathLike] | Calibration | None = None,
    max_disparity: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    runtime: str | None = None,
    overwrite: bool = False,
    colour_max: float | None = None,
    progress: bool = False,
    on_warning: Callable[[str], None] | None = None,
) -> Predictions:
    """Predict for images what the network's task says and write it as files, in float32 by default.

    Images may be of any size, grey, 16 bits deep or with alpha. An input whose outputs are all there is
    skipped, so a run that was stopped goes on where it was; each file is whole or not there. Views that look
    swapped are reported, never swapped. Single images are seen, and answered for, as their files say that
    they are to be shown (EXIF's orientation); views of a rig as they are stored.

    Args:
        network: as `load_predictor` takes it: a network, a name, `name=weights`, `sgbm`, a run, a predictor.
        source: for stereo a folder, a list file, pairs of paths (see `pairs_from`), or a video or a camera's
            number, with both views side by side; for tasks with a single image a file, a folder, a list, a
            video or a camera's number (see `inputs_from`).
        out: folder of the outputs, called by the input's name.
        write: kinds of output, of the task's writers; None for its usual ones.
        calibration: file (KITTI, Middlebury, OpenCV; OpenCV's may be two) for `depth` and `ply`; None to look
            for `calib.txt` (and the like) beside the images or their folder and KITTI's `calib/NNNNNN.txt`.
        rectify_by: OpenCV calibration of a raw rig: the pairs are rectified first, and the rectified views
            written to `left/` and `right/` in `out`, with their `calib.txt`: a folder to train on.
        max_disparity: search range of a network given by name, or of a run's, px.
        device, precision: where and in which arithmetic the network runs.
        runtime: of an exported file; None for the usual one of its suffix.
        overwrite: predict again what is there.
        colour_max: value at which the colours of pictures end: disparity (px) that is red, depth (metres)
            that is blue, length of flow (px) in full colour; None for each picture's own.
        progress: draw a bar on stderr.
        on_warning: gets each warning; None for `warnings.warn`.

    Raises:
        UserError: an unknown kind of output, `colour_max` for kinds whose colours have no range, an output in
            the place of an image or of another output, a missing or damaged file, views of different size, or
            of another than an exported file takes, no calibration where one is needed.
    """
    task = task_of_network(network)
    kinds = task.writes if write is None else tuple(dict.fromkeys(write))
    for kind in kinds:
        if kind not in task.writers:
            raise unknown("kind of output", kind, task.writers)
    if colour_max is not None and not any(task.writers[kind].ranged for kind in kinds):
        raise UserError(
            f"{', '.join(kinds)} of {task.name}: no colours that end at a value; leave color-max out"
        )
    work = _Work(task, Path(out), kinds, on_warning or _warn, colour_max)
    work.rig = _read(rectify_by)
    if work.rig is not None and (work.rig.raw is None or "right" not in task.inputs):
        raise UserError(
            "to rectify takes a calibration with both cameras, K1, D1, K2, D2, R and T (OpenCV's)"
        )
    work.calibration = _read(calibration, single=task.takes == "image")
    inputs = inputs_from(task, source, out)
    if isinstance(inputs, list):
        if not inputs:
            raise UserError(f"there is no {task.takes} to predict")
        work.refuse_clashes(inputs)
        wanting = [one for one in inputs if overwrite or not work.is_done(one)]
        for one in wanting:
            work.geometry(one, size=None)  # a missing calibration is said before hours of work
        work.refuse_misfits(wanting, size_of_network(network))
    total = len(inputs) if isinstance(inputs, list) else None
    run: Predicts | None = None
    with progress_bar(progress) as advance:
        for one in inputs:
            if not overwrite and work.is_done(one):
                work.result.skipped += 1
                continue
            run = run or load_predictor(network, max_disparity, device, precision, runtime)
            work.one(run, one)
            advance("predict", one.name, total)
    return work.result


@dataclass
class _Work:
    """What is the same for every input."""

    task: Task
    out: Path
    kinds: tuple[str, ...]
    on_warning: Callable[[str], None]
    colour_max: float | None
    rig: Calibration | None = None
    calibration: Calibration | None = None
    doubted: int = 0
    result: Predictions = field(default_factory=Predictions)

    @property
    def writers(self) -> dict[str, Writer]:
        return {kind: self.task.writers[kind] for kind in self.kinds}

    def is_done(self, one: Input) -> bool:
        return all(path.is_file() for path in (*self.paths(one).values(), *self.views(one)))

    def paths(self, one: Input) -> dict[str, Path]:
        return {kind: self.out / writer.file.format(one.name) for kind, writer in self.writers.items()}

    def views(self, one: Input) -> list[Path]:
        """Return where the rectified views go; none where nothing is rectified."""
        return [] if self.rig is None else [self.out / key / f"{one.name}.png" for key in self.task.inputs]

    def refuse_clashes(self, inputs: Sequence[Input]) -> None:
        """Refuse an output that would replace an image it is made of, or the output of another input."""
        given = {file.resolve() for one in inputs for file in one.files}
        taken: dict[Path, Input] = {}
        for one in inputs:
            for path in (*self.paths(one).values(), *self.views(one)):
                if path.resolve() in given:
                    raise UserError(f"{path} is an image to predict for; name another folder for the outputs")
                other = taken.setdefault(path, one)
                if other is not one:
                    raise UserError(
                        f"{other.files[0]} and {one.files[0]} would both become {path}; rename one"
                    )

    def refuse_misfits(self, inputs: Sequence[Input], size: tuple[int, int] | None) -> None:
        """Refuse images of another size (height, width) than the one that an exported file takes."""
        if size is None or self.rig is not None:  # rectified views have the size of their calibration
            return
        sizes = {
            one.files[0]: formats.size_in_header(one.files[0], photograph=self.task.takes == "image")
            for one in inputs
        }
        misfits = [(path, found) for path, found in sizes.items() if found not in (None, size)]
        if not misfits:
            return
        named = ", ".join(f"{path} is {found[0]}x{found[1]}" for path, found in misfits[:NAMED] if found)
        more = f", and so on: {len(misfits)} of {len(sizes)}" if len(misfits) > NAMED else ""
        raise UserError(
            f"the network was exported for images of {size[0]}x{size[1]} (height x width), {named}{more}; "
            "leave these out, or export without a size, which takes any"
        )

    def one(self, run: Predicts, one: Input) -> None:
        images = one.read(photographs=self.task.takes == "image")
        geometry = self.geometry(one, images[0].shape[:2])
        if self.rig is not None:
            rig = self.fitted(self.rig, one, images[0].shape[:2]).raw
            assert rig is not None  # as `predict` has seen to
            images, geometry = self.rectified(one, images, rig)
        if "right" in self.task.inputs:
            self.doubt(one, *images[:2])
        outputs = unbatch(run(*images))
        predicted = Predicted(outputs, images[0], geometry, self.colour_max, getattr(run, "classes", ()))
        for kind, path in self.paths(one).items():
            self.writers[kind].write(path, predicted)
            self.result.written.append(path)

    def rectified(self, one: Input, images: list[Any], rig: RawRig) -> tuple[list[Any], Calibration]:
        """Return the views, two by two, as a rectified rig sees them, and write them with its calibration."""
        found: list[Any] = []
        for first in range(0, len(images), 2):
            left, right, geometry = rectify(rig, *images[first : first + 2])
            found += [left, right]
        for path, view in zip(self.views(one), found, strict=True):
            formats.write_image(path, view)
            self.result.written.append(path)
        write_calibration(self.out / CALIBRATIONS[0], geometry)
        return found, geometry

    def doubt(self, one: Input, left: Any, right: Any) -> None:
        self.doubted += 1
        if self.doubted <= DOUBTED and (doubt := doubt_views(left, right)):
            self.warn(f"{doubt} ('{one.name}', its left view from {one.files[0]})")

    def geometry(self, one: Input, size: tuple[int, ...] | None) -> Calibration | None:
        """Return the calibration for images of `size`; None where no output needs it."""
        if self.rig is not None or not any(writer.metric for writer in self.writers.values()):
            return None
        first = one.files[0]
        found = self.calibration or _beside(first, one.name)
        if found is None:
            kinds = [kind for kind, writer in self.task.writers.items() if writer.metric]
            need = f"{' and '.join(kinds)} need{'s' if len(kinds) == 1 else ''}"
            raise UserError(f"{need} a calibration; there is none beside {first}, so name its file")
        return found if size is None else self.fitted(found, one, size)

    def fitted(self, found: Calibration, one: Input, size: tuple[int, ...]) -> Calibration:
        """Return the calibration for images of `size`; UserError where that is of another shape than its
        own."""
        if found.size is None or found.size == tuple(size):
            return found
        (height, width), (calibrated_height, calibrated_width) = size, found.size
        calibrated = f"the calibration is for {calibrated_width}x{calibrated_height} px"
        if abs(calibrated_height * width - calibrated_width * height) > max(
            calibrated_height, calibrated_width
        ):
            raise UserError(f"{calibrated}, {one.files[0]} is {width}x{height}, of another shape")
        self.warn(f"{calibrated} and scaled to {width}x{height}")
        return found.resized(height, width)

    def warn(self, message: str) -> None:
        if message not in self.result.warnings:
            self.result.warnings.append(message)
            self.on_warning(message)


def _read(
    given: PathLike | Sequence[PathLike] | Calibration | None, single: bool = False
) -> Calibration | None:
    if given is None or isinstance(given, Calibration):
        return given
    paths = [given] if isinstance(given, (str, os.PathLike)) else list(given)
    return read_calibration(*paths, single=single)


def _beside(left: Path, name: str) -> Calibration | None:
    """Return the calibration where rigs and benchmarks keep it, or None; `name` may begin with folders."""
    frame = left.stem.partition("_")[0]
    cameras = (0, 1) if left.parent.name == "image_0" else None  # KITTI's grey cameras
    folders = left.absolute().parents[: name.count("/") + 2]
    for place in (
        *(folder / file for folder in folders for file in CALIBRATIONS),
        left.parent.parent / "calib" / f"{frame}.txt",
        left.parent.parent / "calib_cam_to_cam" / f"{frame}.txt",
    ):
        if place.is_file():
            return read_calibration(place, cameras=cameras)
    return None


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)
