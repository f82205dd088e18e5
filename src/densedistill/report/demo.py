"""The whole way at CPU size: distil, train the baseline, evaluate both beside their teacher and SGBM, report.

Few pairs have ground truth. The distilled student learns from them and from the teacher's answers to all
others; the baseline has those few alone. Nothing here is special to the demo but its two recipes: it trains,
evaluates and reports as anybody would.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from ..data.datasets import create_dataset
from ..data.loader import open_dataset
from ..errors import UserError, counted
from ..inference.classical import SGBM
from ..inference.evaluate import Evaluation, evaluate
from ..inference.load import load_predictor
from ..inference.predictor import Predictor
from ..machine import cpu_model
from ..networks.published import shipped_weights
from ..networks.registry import create_model
from ..recipes import Recipe, load_recipe
from ..training import train
from ..training.run import Run, open_run
from .costs import measure_cost
from .montage import write_montage
from .page import write_report
from .pictures import Picture
from .runs import read_run
from .tables import Column, Cost, cost_columns, metric_columns

HELD_OUT: dict[str, Any] = {
    "seed": 22000000,
    "length": 12,
    "size": (256, 512),
}  # scenes that no recipe of ours trains on
REAL = {"Motorcycle": "middlebury2014", "Cones": "middlebury2003"}
COST_SIZE = (256, 512)
LARGER = "shipped =fine"  # the shipped student with weights for images 1.5 times as large
MINUTES = 8.0
_TRIAL_STEPS = 8
_SHARE_OF_TRAINING = 0.7  # of the minutes; the rest is for the trial and the evaluation


def run_demo(
    out: str | Path = "demo",
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Path:
    """Do the whole way in the folder `out`, or what is left of it, and return the report's path.

    Args:
        out: holds the runs `distilled` and `baseline`, `report.html`, `metrics.json` and `picture.webp`.
        minutes: about how long all of it takes here; the steps that fit are found by a short trial.
        steps: of both trainings, in place of `minutes`.
        seed: of the student's first weights and of the order of the pairs; default 1.
        overrides: fields of both recipes, by dotted names.
        console: where to print.

    Raises:
        UserError: `out` holds a demo of other settings.
        KeyboardInterrupt: stopped; the same call goes on from there.
    """
    for flag, given in (("minutes", minutes), ("steps", steps)):
        if given is not None and not 0 < given < float("inf"):
            raise UserError(f"--{flag}: must be above 0, not {given:g}")
    out, console = Path(out), console or Console()
    try:
        recipes = _recipes(out, minutes, steps, seed, dict(overrides or {}), console)
        console.print(f"report, runs and pairs go to {out}/", highlight=False, markup=False)
        runs = {name: _train(name, recipe, out / name, console) for name, recipe in recipes.items()}
        return _compare(out, recipes["distilled"], runs, console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; `densedistill demo --out {out}` goes on from here") from None


def _recipes(
    out: Path,
    minutes: float | None,
    steps: int | None,
    seed: int | None,
    overrides: dict[str, Any],
    console: Console,
) -> dict[str, Recipe]:
    """Return the two recipes of equal steps and seed; those that `out` was begun with, if it was."""
    begun = out / "distilled" / "recipe.yaml"
    if begun.is_file():
        recipe = _one(load_recipe(begun))
        for flag, wanted, has in (("steps", steps, recipe.schedule.steps), ("seed", seed, recipe.seed)):
            if wanted not in (None, has):
                raise UserError(
                    f"{out} holds a demo with --{flag} {has}, not {wanted}; name another folder with --out, "
                    f"or remove {out}"
                )
        steps, seed = recipe.schedule.steps, recipe.seed
    fields = {**overrides, "seed": 1 if seed is None else seed}
    for part in ("train", "validate"):
        # Rendered once, so that both trainings read the same pairs at the same cost.
        fields[f"data.{part}.*.cache"] = str(out / "pairs")
    if not begun.is_file():
        _make_pairs(_load(fields)["distilled"], console)
    if steps is None:
        steps = _steps_in(MINUTES if minutes is None else minutes, out, fields, console)
    fields["schedule.steps"] = steps
    fields["trainer.validate_every"] = max(1, steps // 10)
    return _load(fields)


def _load(fields: Mapping[str, Any]) -> dict[str, Recipe]:
    """Return the two recipes with `fields` set; the baseline has no teacher, and no field of one."""
    plain = {key: value for key, value in fields.items() if not key.startswith("teachers.")}
    return {
        "distilled": _one(load_recipe("demo/distilled", overrides=fields)),
        "baseline": _one(load_recipe("demo/baseline", overrides=plain)),
    }


def _make_pairs(recipe: Recipe, console: Console) -> None:
    datasets: list[Any] = [
        open_dataset(entry, recipe.task) for entry in (*recipe.data.train, *recipe.data.validate)
    ]
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("making pairs", total=sum(map(len, datasets)))
        for dataset in datasets:
            for index in range(len(dataset)):
                dataset[index]
                bar.advance(task)
    console.print(f"[bold]pairs[/bold]: {sum(map(len, datasets))} procedural scenes")


def _one(recipe: Any) -> Recipe:
    assert isinstance(recipe, Recipe)
    return recipe


def _steps_in(minutes: float, out: Path, fields: dict[str, Any], console: Console) -> int:
    """Return how many steps both trainings can take, by the time that a few of each take here."""
    console.print(f"[bold]trial[/bold]: how many steps fit into {minutes:g} minutes here?")
    few = {"schedule.steps": _TRIAL_STEPS, "trainer.log_every": 1, "data.validate": []}
    given = {key: value for key, value in fields.items() if not key.startswith("data.validate.")}
    seconds = [_time_a_step(recipe, out / "trial") for recipe in _load({**given, **few}).values()]
    steps = max(20, int(minutes * 60 * _SHARE_OF_TRAINING / sum(seconds)) // 10 * 10)
    console.print(
        f"{seconds[0]:.2f} s a step with the teacher, {seconds[1]:.2f} s without: {steps} steps each"
    )
    return steps


def _time_a_step(recipe: Recipe, trial: Path) -> float:
    """Return the seconds that a step of `recipe` takes; `trial` is gone afterwards."""
    shutil.rmtree(trial, ignore_errors=True)
    try:
        log = train(recipe, run=trial).history
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    later = log[2:]  # the first steps also allocate and choose algorithms
    return float((later[-1]["time"] - later[0]["time"]) / (later[-1]["step"] - later[0]["step"]))


def _train(name: str, recipe: Recipe, path: Path, console: Console) -> Run:
    """Train, go on, or take what is finished."""
    if (path / "recipe.yaml").is_file():
        run = open_run(path)
        if run.finished:
            console.print(f"[bold]{name}[/bold]: finished before")
            return run
        console.print(f"[bold]{name}[/bold]: going on")
        return train(resume=path)
    labelled, unlabelled = _lengths(recipe)
    teacher = f", {unlabelled} answered by {recipe.teachers['teacher'].name}" if recipe.teachers else ""
    console.print(
        f"[bold]{name}[/bold]: {recipe.student.name}, {labelled} pairs with ground truth{teacher}, "
        f"{recipe.schedule.steps} steps"
    )
    return train(recipe, run=path)


def _lengths(recipe: Recipe) -> tuple[int, int]:
    """Return how many pairs of the training have ground truth, and how many have none."""
    lengths = [(entry.truth, int(entry.options["length"])) for entry in recipe.data.train]
    return sum(n for truth, n in lengths if truth), sum(n for truth, n in lengths if not truth)


def _compare(out: Path, recipe: Recipe, runs: Mapping[str, Run], console: Console) -> Path:
    """Evaluate everybody, print the table, write figures and report."""
    console.print("[bold]evaluation[/bold]: on data that none of the networks was trained on")
    reach = int(recipe.student.options["max_disparity"])
    matchers = _matchers(recipe, runs, reach)
    data = {
        "held-out": create_dataset("world", max_disparity=reach, **HELD_OUT),
        **{label: create_dataset(name) for label, name in REAL.items()},
    }
    found = evaluate(
        matchers, data, metrics=["epe", "bad2", "d1"], max_disparity=reach, progress=console.is_terminal
    )
    costs = [measure_cost(name, predict, COST_SIZE) for name, predict in matchers.items()]
    pictures = [
        *(_picture(label, data[label], 0, label, matchers, found) for label in REAL),
        *(
            _picture(f"held-out scene {i + 1}", data["held-out"], i, "held-out", matchers, found)
            for i in range(2)
        ),
    ]
    found.write_json(out / "metrics.json")
    write_montage(pictures[0], out / "picture.webp")
    summary = summarise(found.rows, costs, recipe, runs["distilled"])
    path = write_report(
        [read_run(run.path, name) for name, run in runs.items()],
        out / "report.html",
        rows=found.rows,
        costs=costs,
        pictures=pictures,
        title="A stereo network, distilled on a CPU",
        summary=summary,
        notes=_notes(recipe),
    )
    console.print(_table(list(matchers), [*metric_columns(found.rows), *cost_columns(costs)]))
    console.print(summary, highlight=False)
    console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    return path


def _matchers(recipe: Recipe, runs: Mapping[str, Run], reach: int) -> dict[str, Any]:
    student, teacher = recipe.student, recipe.teachers["teacher"]

    def predictor(name: str, weights: str | None, options: Mapping[str, Any]) -> Predictor:
        return Predictor(create_model(name, weights=weights, **options))

    return {
        "teacher": predictor(teacher.name, teacher.weights, teacher.options),
        **{name: predictor(student.name, str(run.student), student.options) for name, run in runs.items()},
        "shipped student": predictor(student.name, "shipped", student.options),
        LARGER: load_predictor(f"{student.name}=fine", reach),
        "SGBM": SGBM(reach),
    }


def _picture(
    name: str, samples: Any, index: int, data: str, matchers: Mapping[str, Any], found: Evaluation
) -> Picture:
    sample = samples[index]
    key = str(sample["meta"]["name"])
    captions = {
        row["name"]: f"EPE {row['epe']:.2f} px, bad-2 {100 * row['bad2']:.1f} %"
        for row in found.samples
        if row["data"] == data and row["sample"] == key
    }
    predictions = {
        label: _plane(predict(sample["left"], sample["right"])["disparity"][0])
        for label, predict in matchers.items()
    }
    return Picture(
        name,
        np.ascontiguousarray(sample["left"].permute(1, 2, 0).numpy()),
        _plane(sample["disparity"]),
        sample["disparity_valid"][0].numpy(),
        predictions,
        captions,
    )


def _plane(disparity: Tensor) -> np.ndarray:
    return disparity[0].cpu().numpy().astype(np.float32)


def summarise(rows: Sequence[Mapping[str, Any]], costs: Sequence[Cost], recipe: Recipe, run: Run) -> str:
    """Return what came out in a few sentences, whichever way it came out."""

    def bad(name: str, data: Collection[str] = REAL) -> str:
        shares = [row["bad2"] for row in rows if row["name"] == name and row["data"] in data]
        return f"{100 * sum(shares) / len(shares):.1f} %"

    by_name = {cost.name: cost for cost in costs}
    teacher, student = by_name["teacher"], by_name["distilled"]
    larger = (teacher.parameters or 0) / (student.parameters or 1)
    slower = (teacher.latency or 0) / (student.latency or 1)
    minutes = run.history[-1]["time"] / 60
    labelled, unlabelled = _lengths(recipe)
    held_out = ("held-out",)
    return (
        f"Of {labelled + unlabelled} procedural scenes {labelled} have ground truth; for the others the "
        f"teacher answers. After {minutes:.1f} minutes of training the distilled student is off by more than "
        f"2 px in {bad('distilled', held_out)} of the pixels of held-out scenes and in {bad('distilled')} of "
        f"two photographed ones; the same network without the teacher, which has those {labelled} alone, "
        f"after the same {recipe.schedule.steps} steps, in {bad('baseline', held_out)} and "
        f"{bad('baseline')}. On the photographs its teacher, with {larger:.1f} times the parameters and "
        f"{slower:.1f} times the latency, is in {bad('teacher')}; the student that ships, "
        f"{_trained_for(recipe.student.name)}, in {bad('shipped student')}, in {bad(LARGER)} with "
        f"weights for images 1.5 times as large; OpenCV's SGBM in {bad('SGBM')}."
    )


def _trained_for(name: str) -> str:
    """Return how long the weights that ship for the network `name` were trained, as their provenance says."""
    weights = shipped_weights(name).get("shipped")
    provenance = weights.with_suffix(".json") if weights else None
    if provenance is None or not provenance.is_file():
        return "trained longer"
    hours = float(json.loads(provenance.read_text()).get("hours", 0))
    return f"trained for {hours:.1f} hours" if hours >= 2 else f"trained for {60 * hours:.0f} minutes"


def _notes(recipe: Recipe) -> list[str]:
    first = recipe.data.train[0]
    height, width = first.crop or first.options["size"]
    labelled, unlabelled = _lengths(recipe)
    threads = torch.get_num_threads()
    return [
        f"{recipe.schedule.steps} steps of {recipe.data.batch_size} crops of {width}×{height} px",
        f"disparities below {recipe.student.options['max_disparity']} px",
        f"{labelled} pairs with ground truth for both, {unlabelled} without for the distilled student",
        "no photograph in this training",
        f"seed {recipe.seed}",
        f"{counted(threads, 'thread')} of {cpu_model()}",
    ]


def _table(names: Sequence[str], columns: Sequence[Column]) -> Table:
    """Return a column a matcher, which fits a narrow terminal; the best of each line is bold."""
    height, width = COST_SIZE
    caption = f"Less is better in every line. Cost is of one pair of {width}x{height} px, p50 the median."
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left"
    )
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    for name in names:
        table.add_column(name.replace(" ", "\n"), justify="right")
    for group, lines in groupby(columns, lambda column: column.group):
        for number, line in enumerate(lines):
            cells = [_cell(line, name) for name in names]
            table.add_row("" if number else group, f"{line.label}, {line.unit}", *cells)
        table.add_section()
    return table


def _cell(column: Column, name: str) -> str:
    value = column.values.get(name)
    if value is None:
        return "–"
    text = f"{value:.{column.digits}f}"
    return f"[bold]{text}[/bold]" if value == column.best else text
