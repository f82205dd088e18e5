"""Procedural scenes as files, in the layout of SceneFlow: any tool that reads SceneFlow reads them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from ...errors import UserError, counted, unknown
from ...files import write_text
from ...processes import WHY_DEAD, WorkerPool
from .. import formats
from .cache import VERSION
from .render import check_options, check_seed, render

LAYOUTS = ("sceneflow",)
_PER_SCENE = 100
_RECORD = "world.json"


def write_dataset(
    out: str | os.PathLike[str],
    layout: str = "sceneflow",
    length: int = 200,
    seed: int = 0,
    size: Sequence[int] = (256, 512),
    split: str = "train",
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Path:
    """Write scenes `seed` to `seed` + `length` - 1: both pictures as PNG, both disparities as PFM.

    Every file is whole or not there, and what is there already is kept: a stopped run goes on where it
    was. The options stand in `world.json`; a folder made with others is refused.

    Args:
        out: the folder.
        layout: "sceneflow": `frames_finalpass/TRAIN/A/0000/left/0000.png`, `disparity/TRAIN/…/0000.pfm`.
        split: "train" or "test".
        workers: processes; 0: this one.
        progress: called with (done, all) after each pair.
        **options: of `render`, for example `max_disparity=96`.

    Returns:
        The folder.

    Raises:
        UserError: an unknown layout, split or option, a folder of other options, a full disk,
            a process that died.
    """
    if layout not in LAYOUTS:
        raise unknown("layout to write", layout, LAYOUTS)
    if split not in ("train", "test"):
        raise unknown("split to write", split, ("train", "test"))
    if length < 1:
        raise UserError(f"length is the number of pairs, 1 or more, got {length}")
    check_seed(seed)
    height, width = (int(side) for side in size)
    check_options(height, width, **options)
    root = Path(out).expanduser()
    _record(root, split, {"version": VERSION, "seed": seed, "size": [height, width], **options})
    jobs = [
        (root, split.upper(), number, seed + number, height, width, options)
        for number in range(length)
        if not all(path.is_file() for path in _paths(root, split.upper(), number).values())
    ]
    done = length - len(jobs)
    try:
        for _ in _run(jobs, workers):
            done += 1
            if progress is not None:
                progress(done, length)
    except BrokenProcessPool:
        raise UserError(
            f"a process that renders has died ({WHY_DEAD}); the same again goes on, "
            f"{counted(length - done, 'pair')} left"
        ) from None
    return root


def _record(root: Path, split: str, options: dict[str, Any]) -> None:
    """Write down how the split is made, or refuse where it was made otherwise."""
    path = root / _RECORD
    try:
        records = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError:
        raise UserError(f"{path} is damaged; choose another folder") from None
    mine = json.loads(json.dumps(options))
    if records.get(split, mine) != mine:
        differ = [key for key in {**mine, **records[split]} if mine.get(key) != records[split].get(key)]
        raise UserError(
            f"{root} holds {split} scenes made with another {', '.join(differ)}; choose another folder"
        )
    if records.get(split) is None:
        write_text(path, json.dumps({**records, split: mine}, indent=2) + "\n")


def _paths(root: Path, split: str, number: int) -> dict[str, Path]:
    scene, stem = Path(split, "A", f"{number // _PER_SCENE:04d}"), f"{number % _PER_SCENE:04d}"
    images, truth = root / "frames_finalpass" / scene, root / "disparity" / scene
    return {
        "left": images / "left" / f"{stem}.png",
        "right": images / "right" / f"{stem}.png",
        "disparity": truth / "left" / f"{stem}.pfm",
        "disparity_right": truth / "right" / f"{stem}.pfm",
    }


def _write(
    root: Path, split: str, number: int, seed: int, height: int, width: int, options: dict[str, Any]
) -> None:
    sample = render(seed, height, width, ("disparity", "disparity_right"), **options)
    for key, path in _paths(root, split, number).items():
        if path.suffix == ".png":
            formats.write_image(path, sample[key].permute(1, 2, 0).numpy())
        else:
            formats.write_pfm(path, sample[key][0].numpy())


def _run(jobs: list[tuple[Any, ...]], workers: int) -> Iterator[None]:
    """Do the jobs, yielding after each; with several processes in any order."""
    if workers < 1:
        for job in jobs:
            _write(*job)
            yield
        return
    with WorkerPool(workers, torch.set_num_threads, 1) as pool:
        # A few jobs ahead only, so that Ctrl-C does not wait for thousands.
        waiting, queue = set(), iter(jobs)
        for job in queue:
            waiting.add(pool.submit(_write, *job))
            if len(waiting) >= 2 * workers:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        for future in waiting:
            yield future.result()
