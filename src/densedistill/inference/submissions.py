"""What the benchmarks' servers want: predictions of a test set under the right names, checked, in one zip."""

from __future__ import annotations

import os
import re
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data import formats
from ..data.datasets import create_dataset
from ..errors import UserError, unknown
from ..files import atomic_write, write_text
from .load import load_predictor
from .progress import progress_bar

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Submission:
    """The form of one benchmark's submission.

    Args:
        name: of the benchmark, as `evaluate --protocol` says it.
        data: the data set whose frames are predicted.
        folder: inside the zip; `{size}` and `{part}` stand for Middlebury's F, H or Q and training or test.
        disparity, seconds: files of a frame below it; `{name}` and `{method}` are filled in.
        says: the line that tells the seconds, "" for a benchmark that does not ask.
    """

    name: str
    data: str
    folder: str
    disparity: str
    seconds: str = ""
    says: str = "{:.3f}"


SUBMISSIONS = {
    one.name: one
    for one in (
        Submission("kitti2012", "kitti2012", "", "{name}.png"),
        Submission("kitti2015", "kitti2015", "disp_0", "{name}.png"),
        Submission(
            "middlebury",
            "middleburyeval3",
            "{part}{size}",
            "{name}/disp0{method}.pfm",
            "{name}/time{method}.txt",
        ),
        Submission("eth3d", "eth3d", "low_res_two_view", "{name}.pfm", "{name}.txt", "runtime {:.3f}"),
    )
}
_METHOD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Expected:
    """One frame of a submission: its files below the submission's folder, and the size of its image."""

    name: str
    disparity: str
    seconds: str
    size: tuple[int, int]


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
        max_disparity: search range of a network given by name, px.
        device, precision: where and in which arithmetic the network runs.
        overwrite: predict again what is there.
        progress: draw a bar on stderr.

    Raises:
        UserError: no such benchmark or data, or a submission that is not complete and right.
    """
    form = get_submission(benchmark)
    if not _METHOD.fullmatch(method):
        raise UserError(f"a method's name is of letters, digits, - and _, got '{method}'")
    folder = Path(out)
    predict = load_predictor(network, max_disparity, device, precision)
    expected = []
    with progress_bar(progress) as advance:
        for dataset, index in _frames(form, root, split, options):
            sample = dataset[index]
            frame = _expect(form, dataset, index, sample, method)
            expected.append(frame)
            paths = [folder / frame.disparity, *([folder / frame.seconds] if frame.seconds else [])]
            if overwrite or not all(path.is_file() for path in paths):
                start = time.perf_counter()
                disparity = predict(sample["left"], sample["right"])["disparity"]
                if disparity.device.type != "cpu":
                    torch.accelerator.synchronize(disparity.device)
                seconds = time.perf_counter() - start
                _write(form, paths, disparity[0, 0].float().cpu().numpy(), seconds)
            advance(benchmark, frame.name, None)
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
    wanted = {file for one in expected for file in (one.disparity, one.seconds) if file}
    problems = [f"{file} is missing" for file in sorted(wanted - there)]
    problems += [f"{file} does not belong there" for file in sorted(there - wanted)]
    for frame in expected:
        for file, check in ((frame.disparity, _disparity_problem), (frame.seconds, _seconds_problem)):
            if file in there and (problem := check(read(file), file, frame, form)):
                problems.append(problem)
    if problems:
        others = f" (and {len(problems) - 1} more files are wrong)" if len(problems) > 1 else ""
        raise UserError(f"submission {source}: {problems[0]}{others}")


def _frames(
    form: Submission, root: PathLike, split: str, options: Mapping[str, Any] | None
) -> Iterator[tuple[Any, int]]:
    for part in split.split(","):
        dataset: Any = create_dataset(form.data, root=root, split=part.strip(), want=(), **(options or {}))
        whole = type(dataset).counts.get(dataset.split)
        if whole is not None and len(dataset) != whole:
            raise UserError(
                f"{form.name}: split '{dataset.split}' in {root} has {len(dataset)} of its {whole} frames; "
                f"`densedistill data check {form.data} {root}` says which are missing"
            )
        yield from ((dataset, index) for index in range(len(dataset)))


def _expect(form: Submission, dataset: Any, index: int, sample: Any, method: str) -> Expected:
    name = dataset.names[index]
    part = {"train": "training"}.get(dataset.split, dataset.split)
    folder = form.folder.format(part=part, size=getattr(dataset, "resolution", ""))
    disparity, seconds = (
        f"{folder}/{file.format(name=name, method=method)}".lstrip("/") if file else ""
        for file in (form.disparity, form.seconds)
    )
    height, width = sample["left"].shape[-2:]
    return Expected(name, disparity, seconds, (height, width))


def _write(form: Submission, paths: list[Path], disparity: NDArray[np.float32], seconds: float) -> None:
    if paths[0].suffix == ".png":
        known = np.isfinite(disparity) & (disparity > 0)  # the rest is missing, which the server fills
        formats.write_disparity_png(paths[0], disparity, known)
    else:
        formats.write_pfm(paths[0], disparity)
    if len(paths) > 1:
        write_text(paths[1], form.says.format(max(seconds, 1e-3)) + "\n")


def _reader(source: Path) -> tuple[Callable[[str], Path], set[str]]:
    """Return what gives a file of the folder or zip `source` as a path, and the names of all files."""
    if source.is_dir():
        files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
        return (lambda name: source / name), files
    try:
        archive = zipfile.ZipFile(source)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"submission {source}: neither a folder nor a zip ({error})") from None
    import tempfile

    scratch = tempfile.TemporaryDirectory()
    names = {name for name in archive.namelist() if not name.endswith("/")}

    def extract(name: str) -> Path:
        path = Path(scratch.name) / "one" / Path(name).name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(archive.read(name))
        return path

    return extract, names


def _disparity_problem(path: Path, file: str, frame: Expected, form: Submission) -> str:
    try:
        if file.endswith(".png"):
            disparity = formats.read_disparity_png(path)
            if not (disparity > 0).any():
                return f"{file} has no disparity at all"
        else:
            disparity = formats.read_pfm(path)
            if not np.isfinite(disparity).all():
                return f"{file} holds values that are not finite"
    except UserError as error:
        return f"{file} cannot be read: {error}"
    if disparity.shape != frame.size:
        found = "x".join(map(str, disparity.shape[1::-1]))
        return f"{file} is {found} px, its image {frame.size[1]}x{frame.size[0]}"
    return ""


def _seconds_problem(path: Path, file: str, frame: Expected, form: Submission) -> str:
    wanted = re.escape(form.says.partition("{")[0]) + r"(\d+(?:\.\d+)?)\s*"
    found = re.fullmatch(wanted, path.read_text(errors="replace"))
    return (
        "" if found and float(found[1]) > 0 else f"{file} does not tell seconds, as '{form.says.format(1)}'"
    )


def _pack(folder: Path, expected: list[Expected]) -> Path:
    target = folder.with_name(f"{folder.name}.zip")
    with atomic_write(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for frame in expected:
            for file in (frame.disparity, frame.seconds):
                if file:
                    archive.write(folder / file, file)
    return target
