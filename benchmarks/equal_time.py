"""A teacher, then students that all get the same processor time, whatever their terms cost; for the studies.

The cost of a rung's step, the adversary's included, is measured first, and the number of steps follows; the
time that the teacher needs to answer for the training images is taken off the rungs that ask it. Processor
time rather than the clock's, because other work on the machine changes the latter. Stopped, a study goes on
where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from study_figures import write_curves, write_pictures

from densedistill.data.loader import make_loader, open_mixture
from densedistill.files import write_text
from densedistill.machine import cpu_model
from densedistill.networks.precision import fastest_dtype
from densedistill.recipes import load_recipe
from densedistill.training import Run, make_objective, open_run
from densedistill.verbs import train

MEASURED_ROUNDS = 8
CURVE_POINTS = 5


@dataclass(frozen=True)
class Study:
    """What is compared.

    Args:
        title: of the table.
        teacher, student: recipes.
        truth: the student's term that every rung has.
        rungs: name to the terms beside it, with their weights, the most telling first.
        figures: metrics of the table and their headings, in %.
        views: times that the teacher answers for a training image: 2 with mirror images.
        kept: rungs that find the teacher's answers in files, as a second student does, and pay nothing for
            them.
        photographs: whether the data's licence lets its images be shown.
    """

    title: str
    teacher: str
    student: str
    truth: str
    rungs: Mapping[str, Mapping[str, float]]
    figures: Mapping[str, str]
    views: int = 2
    kept: tuple[str, ...] = ()
    photographs: bool = True


def run_study(study: Study, description: str, data: str, minutes: float, teacher_steps: int) -> None:
    """Read the command line and train, or read, what it says; the rest are defaults of its flags."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the data")
    parser.add_argument("--run", type=Path, default=Path("runs") / study.teacher.partition("/")[0])
    parser.add_argument("--minutes", type=float, default=minutes, help="processor minutes of each student")
    parser.add_argument("--teacher-steps", type=int, default=teacher_steps)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path, help="where to write the figures, after each run")
    parser.add_argument("--figures", type=Path, help="folder to write the curves and pictures to, at the end")
    parser.add_argument("--read", action="store_true", help="only read runs that are there")
    arguments = parser.parse_args()
    arguments.run.mkdir(parents=True, exist_ok=True)
    if not arguments.read:
        _train(study, arguments)
    show(study, _write(study, arguments))
    if arguments.figures:
        _draw(study, arguments)


def _train(study: Study, arguments: argparse.Namespace) -> None:
    changed = _overrides(study, arguments, None) | {"schedule.steps": arguments.teacher_steps}
    go(arguments.run / "teacher", study.teacher, changed)
    costs = _measure(study, arguments)
    for seed in arguments.seeds:
        for rung, terms in study.rungs.items():
            changed = _overrides(study, arguments, terms)
            changed |= {"schedule.steps": costs[rung]["steps"], "seed": seed}
            changed["trainer.validate_every"] = max(1, round(costs[rung]["steps"] / CURVE_POINTS))
            changed["teachers.teacher.folder"] = str(arguments.run / "answers")
            go(arguments.run / name_of(rung, seed), study.student, changed)
            show(study, _write(study, arguments))


def _overrides(
    study: Study, arguments: argparse.Namespace, terms: Mapping[str, float] | None
) -> dict[str, Any]:
    """Return what a run changes in its recipe; `terms` None for the teacher."""
    changed: dict[str, Any] = {
        "data.train.root": str(arguments.data),
        "data.validate.root": str(arguments.data),
    }
    if terms is not None:
        changed["teachers.teacher.weights"] = str(arguments.run / "teacher" / "student.safetensors")
        for name in load_recipe(study.student).objective:
            if name != study.truth:
                changed[f"objective.{name}.weight"] = terms.get(name, 0.0)
    return changed


class Rung:
    """A training step of a recipe, to be timed."""

    def __init__(self, recipe: Any):
        self.objective = make_objective(recipe)
        mixture = open_mixture(recipe.data.train, recipe.data.augment, recipe.task, recipe.seed)
        loader, _ = make_loader(mixture, recipe.data.batch_size, recipe.seed)
        self.batch, self.batches = next(iter(loader)), len(mixture) / recipe.data.batch_size
        rivals = [term.adversary for term in self.objective.adversaries.values()]
        theirs = {id(p) for rival in rivals for p in rival.parameters()}
        own = [p for m in (self.objective.student, self.objective) for p in m.parameters()]
        self.optimizers: list[Any] = [torch.optim.AdamW([p for p in own if id(p) not in theirs])]
        self.optimizers += [torch.optim.SGD(rival.parameters(), 1e-4) for rival in rivals]
        self.objective.student.train()
        self.half = recipe.trainer.precision == "bf16" or (
            recipe.trainer.precision == "auto" and fastest_dtype("cpu") is torch.bfloat16
        )

    def answer(self) -> float:
        """Return processor seconds of the teacher's first answer to a batch."""
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            self.objective.teachers["teacher"](self.batch)
        return time.process_time() - start

    def step(self) -> float:
        """Return processor seconds of a step of student and adversary."""
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            total, _ = self.objective(self.batch)
        total.backward()
        for term in self.objective.adversaries.values():
            term.adversary_loss().backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return time.process_time() - start


def _measure(study: Study, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return each rung's costs, measured once for a folder of runs: the rungs take turns, and the least time
    of each counts, since what else runs on the machine only adds. The teacher's answer costs all the same."""
    path = arguments.run / "costs.json"
    if path.is_file():
        return json.loads(path.read_text())
    torch.set_num_threads(1)
    rungs = {
        name: Rung(load_recipe(study.student, overrides=_overrides(study, arguments, terms)))
        for name, terms in study.rungs.items()
    }
    taught = {name: rung for name, rung in rungs.items() if study.rungs[name]}
    answer = min(rung.answer() for rung in taught.values())
    seconds = [{name: rung.step() for name, rung in rungs.items()} for _ in range(MEASURED_ROUNDS + 1)]
    costs: dict[str, dict[str, float]] = {}
    for name, rung in rungs.items():
        step = min(one[name] for one in seconds[1:])
        pays = name in taught and name not in study.kept
        asked = answer * study.views * rung.batches if pays else 0.0
        steps = max(10, round((60 * arguments.minutes - asked) / step))
        costs[name] = {"step": step, "answers": asked, "steps": steps}
        print(f"{name}: {step:.3f} s a step, {asked:.0f} s of answers, {steps} steps", flush=True)
    write_text(path, json.dumps(costs, indent=1) + "\n")
    return costs


def go(path: Path, recipe: str, changed: Mapping[str, Any]) -> Run:
    """Return the finished run in `path`, trained or gone on with."""
    if (path / "recipe.yaml").exists():
        return train(resume=path)
    return train(recipe, run=path, overrides=changed)


def name_of(rung: str, seed: int) -> str:
    """Return the folder of a run."""
    return f"{rung.replace(' + ', '-').replace(', ', '-')}-seed{seed}"


def read(study: Study, folder: Path) -> dict[str, Any]:
    """Return the figures of the runs that are finished."""
    costs = json.loads((folder / "costs.json").read_text()) if (folder / "costs.json").is_file() else {}
    rows = []
    for rung in ("teacher", *study.rungs):
        found = [_student(run) for run in _finished(folder, rung)]
        if not found:
            continue
        row: dict[str, Any] = {"rung": rung, "seeds": len(found), **costs.get(rung, {})}
        for figure in study.figures:
            values = [one[figure] for one in found]
            row[figure] = statistics.mean(values)
            row[f"{figure}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
            row[f"{figure}_each"] = values
        rows.append(row)
    return {
        "rows": rows,
        "machine": cpu_model(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }


def _finished(folder: Path, rung: str) -> list[Run]:
    """Return the runs of a rung, seed by seed, that are finished and evaluated."""
    pattern = "teacher" if rung == "teacher" else name_of(rung, 0).replace("seed0", "seed[0-9]")
    return [open_run(path) for path in sorted(folder.glob(pattern)) if (path / "metrics.json").is_file()]


def _student(run: Run) -> dict[str, float]:
    return next(row for row in run.metrics["rows"] if row["name"] == "student")


def _draw(study: Study, arguments: argparse.Namespace) -> None:
    """Write `NAME-FIGURE.svg`, learning curves, and `NAME.webp`, what networks of the first seed answer."""
    arguments.figures.mkdir(parents=True, exist_ok=True)
    name, (figure, heading) = study.teacher.partition("/")[0], next(iter(study.figures.items()))
    costs = json.loads((arguments.run / "costs.json").read_text())
    rungs = {rung: runs for rung in study.rungs if (runs := _finished(arguments.run, rung))}
    write_curves(rungs, costs, figure, heading, arguments.figures / f"{name}-{figure}.svg")
    networks = {rung: runs[0].path for rung, runs in rungs.items()}
    networks = {"teacher": arguments.run / "teacher", **networks}
    write_pictures(networks, 3, study.photographs, arguments.figures / f"{name}.webp")


def show(study: Study, found: Mapping[str, Any]) -> None:
    """Print the figures as a table."""
    table = Table(title=study.title)
    table.add_column("terms")
    for heading in ("seeds", "steps", "s/step", *study.figures.values(), "over baseline"):
        table.add_column(heading, justify="right")
    first = next(iter(study.figures))
    base = next((row[first] for row in found["rows"] if row["rung"] == "baseline"), None)
    for row in found["rows"]:
        cells = []
        for figure in study.figures:
            deviation = row[f"{figure}_deviation"]
            cells.append(
                f"{100 * row[figure]:.2f}" + ("" if deviation is None else f" ± {100 * deviation:.2f}")
            )
        gain = "" if base is None or row["rung"] == "teacher" else f"{100 * (row[first] - base):+.2f}"
        step = f"{row['step']:.3f}" if "step" in row else ""
        table.add_row(row["rung"], str(row["seeds"]), str(row.get("steps", "")), step, *cells, gain)
    Console(width=110).print(table)


def _write(study: Study, arguments: argparse.Namespace) -> dict[str, Any]:
    found = read(study, arguments.run)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        write_text(arguments.json, json.dumps(found, indent=1) + "\n")
    return found
