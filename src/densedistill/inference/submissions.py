"""What the benchmarks' servers want: predictions of a test set under the right names, checked, in one zip."""

from __future__ import annotations

import os
import re
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data import formats
from ..data.datasets import create_dataset
from ..data.datasets._labelled import read_indices
from ..errors import UserError, unknown
from ..files import atomic_write, write_text
from ..tasks import get_task
from ..tasks.files import Predicted, unbatch
from .load import load_predictor, task_of_network
from .progress import progress_bar

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Submission:
    """The form of one benchmark's submission.

    Args:
        name: of the benchmark, as `evaluate --protocol` says it.
        data: the data set whose frames are predicted.
        files: kinds of output, of the task's writers, to the files of a frame. `{name}` and `{method}` are
            filled in, `{part}` and `{size}` stand for Middlebury's training or test and F, H or Q.
        task: of the network.
        seconds: the file that tells the seconds, "" for a benchmark that does not ask.
        says: what stands in it.
        options: of the data set.
        dense: every pixel is given, a disparity that the format cannot tell as the nearest that it can.
    """

    name: str
    data: str
    files: Mapping[str, str]
    task: str = "stereo"
    seconds: str = ""
    says: str = "{:.3f}"
    options: Mapping[str, Any] = field(default_factory=lambda: {"want": ()})
    dense: bool = False


# KITTI: the development kits; Middlebury: stereo/submit3/upload-format.html; ETH3D: its documentation's
# "Result submission"; Cityscapes: the README of its scripts.
SUBMISSIONS = {
    one.name: one
    for one in (
        Submission("kitti2012", "kitti2012", {"png": "{name}.png"}),
        Submission("kitti2015", "kitti2015", {"png": "disp_0/{name}.png"}),
        Submission(
            "kitti2015_sceneflow",
            "kitti2015_sceneflow",
            {"disp_0": "disp_0/{name}.png", "disp_1": "disp_1/{name}.png", "flow": "flow/{name}.png"},
            task="sceneflow",
            dense=True,
        ),
        Submission(
            "middlebury",
            "middleburyeval3",
            {"pfm": "{part}{size}/{name}/disp0{method}.pfm"},
            seconds="{part}{size}/{name}/time{method}.txt",
        ),
        Submission(
            "eth3d",
            "eth3d",
            {"pfm": "low_res_two_view/{name}.pfm"},
            seconds="low_res_two_view/{name}.txt",
            says="runtime {:.3f}",
        ),
        Submission(
            "cityscapes",
            "cityscapes",
            {"labelids": "{name}_pred_labelIds.png"},
            task="segmentation",
            options={"labelled": False},
        ),
    )
}
FARTHEST = 255.9  # px that KITTI's 16-bit PNG tells
_METHOD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Expected:
    """One frame of a submission: its files by kind, the file of its seconds, and the size of its image."""

    name: str
    files: Mapping[str, str]
    seconds: str
    size: tuple[int, int]

    @property
    def all_files(self) -> list[str]:
        """The names of all files."""
        return [*self.files.values(), *([self.seconds] if self.seconds else [])]


def write_submission(
    network: Any,
    benchmark: str,
    root: PathLike,
    out: PathLike,
    *,
    split: str = "test",
    method: str = "densedistill",
    options: Mapping[str, Any] | None = None,
    max_disparity: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    runtime: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Predict the frames of `benchmark` and return the checked zip that its server takes.

    A frame whose files are there is not predicted again. The zip is written when every file is there and
    right, and only then.

    Args:
        network: as `load_predictor` takes it.
        benchmark: of `SUBMISSIONS`.
        root: where its data set lies.
        out: a folder, for the files; the zip lies beside it under its name.
        split: of the data set; several joined by commas, where the server takes training results, too.
        method: the name under which Middlebury's files are filed.
        options: of the data set, for example `{"resolution": "H"}`.
        max_disparity: search range of a network given by name, or of a run's, px.
        device, precision: where and in which arithmetic the network runs.
        runtime: of an exported file; None for the usual one of its suffix.
        overwrite: predict again what is there.
        progress: draw a bar on stderr.

    Raises:
        UserError: no such benchmark or data, a network of another task, or a submission that is not complete
            and right.
    """
    form = get_submission(benchmark)
    if not _METHOD.fullmatch(method):
        raise UserError(f"a method's name is of letters, digits, - and _, got '{method}'")
    task, folder = task_of_network(network), Path(out)
    if task.name != form.task:
        raise UserError(f"{benchmark} takes predictions of {form.task}, this network is of task {task.name}")
    frames = list(_frames(form, root, split, options))
    predict = load_predictor(network, max_disparity, device, precision, runtime)
    expected = []
    with progress_bar(progress) as advance:
        for dataset, index in frames:
            sample = dataset[index]
            frame = _expect(form, dataset, index, sample, method)
            expected.append(frame)
            if overwrite or not all((folder / file).is_file() for file in frame.all_files):
                start = time.perf_counter()
                outputs = predict(*(sample[key] for key in task.inputs))
                first = outputs[task.outputs[0]]
                if first.device.type != "cpu":
                    torch.accelerator.synchronize(first.device)
                _write(form, folder, frame, unbatch(outputs), time.perf_counter() - start)
            advance(benchmark, frame.name, len(frames))
    check_submission(folder, expected, form)
    return _pack(folder, expected)


def get_submission(benchmark: str) -> Submission:
    """Return the form of `benchmark`; UserError when there is none."""
    if benchmark not in SUBMISSIONS:
        raise unknown("submission", benchmark, SUBMISSIONS)
    return SUBMISSIONS[benchmark]


def expect(
    benchmark: str,
    root: PathLike,
    split: str = "test",
    method: str = "densedistill",
    options: Mapping[str, Any] | None = None,
) -> list[Expected]:
    """Return what a submission to `benchmark` must hold, by the images below `root`."""
    form = get_submission(benchmark)
    return [
        _expect(form, dataset, index, dataset[index], method)
        for dataset, index in _frames(form, root, split, options)
    ]


def check_submission(source: PathLike, expected: list[Expected], form: Submission) -> None:
    """Refuse a submission, a folder or a zip, that the server would refuse or misread.

    Raises:
        UserError: naming the first file that is missing, of another size or kind, not finite or too many,
            and how many others are wrong.
    """
    read, there = _reader(Path(source))
    wanted = {file for one in expected for file in one.all_files}
    problems = [f"{file} is missing" for file in sorted(wanted - there)]
    problems += [f"{file} does not belong there" for file in sorted(there - wanted)]
    for frame in expected:
        for kind, file in frame.files.items():
            if file in there and (problem := _problem(kind, read(file), frame.size)):
                problems.append(f"{file} {problem}")
        if frame.seconds in there and not _tells_seconds(read(frame.seconds), form):
            problems.append(f"{frame.seconds} does not tell seconds, as '{form.says.format(1)}'")
    if problems:
        others = f" (and {len(problems) - 1} more files are wrong)" if len(problems) > 1 else ""
        raise UserError(f"submission {source}: {problems[0]}{others}")


def _frames(
    form: Submission, root: PathLike, split: str, options: Mapping[str, Any] | None
) -> Iterator[tuple[Any, int]]:
    for part in split.split(","):
        given = {**form.options, **(options or {})}
        dataset: Any = create_dataset(form.data, root=root, split=part.strip(), **given)
        whole = dataset.whole()
        if whole is not None and len(dataset) != whole:
            first = _first_left_out(dataset.names, whole)
            raise UserError(
                f"{form.name}: split '{dataset.split}' in {root} has {len(dataset)} of its {whole} frames"
                + (f", without {first}" if first else "")
                + "; unpack the benchmark's images again"
            )
        yield from ((dataset, index) for index in range(len(dataset)))


def _first_left_out(names: Sequence[str], whole: int) -> str:
    """Return the beginning of the first name that is left out of `names`, by the numbers of six digits in
    them, which count from 0; "" where these do not tell it."""
    numbered: dict[str, set[int]] = {}
    for name in names:
        if found := re.search(r"\d{6}", name):
            numbered.setdefault(name[: found.start()], set()).add(int(found[0]))
    for stem, numbers in sorted(numbered.items()):
        end = whole if len(numbered) == 1 else max(numbers)  # of several cities nobody says how many each has
        if gaps := set(range(end)) - numbers:
            return f"{stem}{min(gaps):06d}"
    return ""


def _expect(form: Submission, dataset: Any, index: int, sample: Any, method: str) -> Expected:
    fields = {
        "name": dataset.names[index],
        "method": method,
        "part": {"train": "training"}.get(dataset.split, dataset.split),
        "size": getattr(dataset, "resolution", ""),
    }
    files = {kind: file.format(**fields) for kind, file in form.files.items()}
    height, width = sample[get_task(form.task).inputs[0]].shape[-2:]
    return Expected(fields["name"], files, form.seconds.format(**fields), (height, width))


def _write(
    form: Submission, folder: Path, frame: Expected, outputs: Mapping[str, NDArray[Any]], seconds: float
) -> None:
    if form.dense:
        outputs = {
            key: values if key == "flow" else np.nan_to_num(values).clip(0, FARTHEST)
            for key, values in outputs.items()
        }
    predicted = Predicted(outputs, image=np.empty((*frame.size, 3), np.uint8))
    for kind, file in frame.files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        get_task(form.task).writers[kind].write(folder / file, predicted)
    if frame.seconds:
        write_text(folder / frame.seconds, form.says.format(max(seconds, 1e-3)) + "\n")


def _reader(source: Path) -> tuple[Callable[[str], Path], set[str]]:
    """Return what gives a file of the folder or zip `source` as a path, and the names of all files."""
    if source.is_dir():
        files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
        return (lambda name: source / name), files
    try:
        archive = zipfile.ZipFile(source)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"submission {source}: neither a folder nor a zip ({error})") from None
    scratch = tempfile.TemporaryDirectory()
    names = {name for name in archive.namelist() if not name.endswith("/")}

    def extract(name: str) -> Path:
        path = Path(scratch.name) / Path(name).name
        path.write_bytes(archive.read(name))
        return path

    return extract, names


def _problem(kind: str, path: Path, size: tuple[int, int]) -> str:
    """Return what is wrong with the file at `path`, "" for nothing."""
    try:
        values = _READERS[kind](path)
    except UserError as error:
        return f"cannot be read: {error}"
    if values.shape[:2] != size:
        return f"is {values.shape[1]}x{values.shape[0]} px, its image {size[1]}x{size[0]}"
    if kind == "pfm" and not np.isfinite(values).all():
        return "holds values that are not finite"
    if kind in ("png", "disp_0", "disp_1") and not (values > 0).any():
        return "has no disparity at all"
    if kind == "flow" and not values[..., 2].all():
        return "does not give every pixel"
    if kind == "labelids":
        from ..data.datasets.cityscapes import LABEL_IDS

        wrong = np.setdiff1d(values, list(LABEL_IDS.values()))
        if wrong.size:
            return f"holds label id {wrong[0]}, which is not evaluated; are these train ids?"
    return ""


def _read_flow(path: Path) -> NDArray[Any]:
    flow, valid = formats.read_flow_png(path)
    return np.dstack((flow, valid))


# From a file to its values (H, W, …), by kind.
_READERS: dict[str, Callable[[Path], NDArray[Any]]] = {
    "png": formats.read_disparity_png,
    "disp_0": formats.read_disparity_png,
    "disp_1": formats.read_disparity_png,
    "flow": _read_flow,
    "pfm": formats.read_pfm,
    "labelids": read_indices,
}


def _tells_seconds(path: Path, form: Submission) -> bool:
    wanted = re.escape(form.says.partition("{")[0]) + r"(\d+(?:\.\d+)?)\s*"
    found = re.fullmatch(wanted, path.read_text(errors="replace"))
    return found is not None and float(found[1]) > 0


def _pack(folder: Path, expected: list[Expected]) -> Path:
    target = folder.with_name(f"{folder.name}.zip")
    with atomic_write(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for frame in expected:
            for file in frame.all_files:
                archive.write(folder / file, file)
    return target
