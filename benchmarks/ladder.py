"""Which points of distillation earn their time? A ladder of terms at CPU size, over three seeds.

    python benchmarks/ladder.py --run runs/ladder --json benchmarks/results/ladder.json
    python benchmarks/ladder.py study/depth --run runs/depth-study --json benchmarks/results/depth.json

One run per rung and seed (the recipe `study/ladder`: Table IV of DSNet; `study/depth`: Spatial-KD); both
comparisons are read off its time-stamped validation curve: at equal steps, and at equal wall-clock, which is
the time that the cheapest rung needed for all its steps. An interrupted study goes on where it stopped.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from study import rungs_of, study_parser, train_or_resume, write_study

from densedistill.recipes import load_recipe
from densedistill.training import Run

FIGURES = {
    "stereo": {"epe": "EPE px", "bad2": "bad-2.0 %"},
    "depth": {"abs_rel": "AbsRel", "silog": "SILog", "a1": "a1 %"},
}
PERCENT = ("bad2", "a1")


def curve(run: Run, figure: str) -> list[tuple[int, float, float]]:
    """Return (step, seconds, value) of each validation in `run`."""
    key = f"validate/{figure}"
    return [(line["step"], line["time"], line[key]) for line in run.history if key in line]


def value_at(points: list[tuple[int, float, float]], seconds: float) -> float:
    """Return the value after `seconds`, linear between validations, the last one after the end."""
    before = points[0]
    for point in points:
        if point[1] >= seconds:
            share = (seconds - before[1]) / (point[1] - before[1]) if point[1] > before[1] else 1.0
            return before[2] + share * (point[2] - before[2])
        before = point
    return before[2]


def read(folder: Path) -> dict[str, Any]:
    """Return the study's figures: rung to mean and deviation over seeds, at equal steps and equal time."""
    rungs = rungs_of(folder)
    task = load_recipe(folder / "recipe.yaml").task
    figures = FIGURES[task]
    last = {rung: [curve(run, next(iter(figures)))[-1] for run in runs] for rung, runs in rungs.items()}
    seconds = min(statistics.mean(point[1] for point in points) for points in last.values())
    rows = []
    for rung, runs in rungs.items():
        row: dict[str, Any] = {"rung": rung, "seeds": len(runs), "steps": last[rung][0][0]}
        row["seconds"] = statistics.mean(point[1] for point in last[rung])
        for figure in figures:
            points = [curve(run, figure) for run in runs]
            for label, values in (
                ("equal_steps", [p[-1][2] for p in points]),
                ("equal_time", [value_at(p, seconds) for p in points]),
            ):
                deviation = statistics.stdev(values) if len(values) > 1 else 0.0
                row[f"{figure}_{label}"] = (statistics.mean(values), deviation)
        rows.append(row)
    return {"task": task, "rows": rows, "equal_time_seconds": seconds}


def show(study: dict[str, Any]) -> None:
    """Print the study as a table."""
    figures = FIGURES[study["task"]]
    table = Table(title=f"equal time is {study['equal_time_seconds']:.0f} s")
    table.add_column("terms, cumulative")
    table.add_column("s", justify="right")
    for title in figures.values():
        for label in ("equal steps", "equal time"):
            table.add_column(f"{title}\n{label}", justify="right")
    for row in study["rows"]:
        cells = []
        for figure in figures:
            scale = 100 if figure in PERCENT else 1
            for label in ("equal_steps", "equal_time"):
                mean, deviation = row[f"{figure}_{label}"]
                cells.append(f"{mean * scale:.3g} ± {deviation * scale:.2g}")
        table.add_row(row["rung"], f"{row['seconds']:.0f}", *cells)
    Console().print(table)


def main() -> None:
    parser = study_parser(__doc__, "runs/ladder")
    parser.add_argument("recipe", nargs="?", default="study/ladder", help="a ladder (default study/ladder)")
    parser.add_argument("--steps", type=int, help="steps of each run (default: the recipe's)")
    arguments = parser.parse_args()
    overrides = {"schedule.steps": arguments.steps} if arguments.steps else None
    train_or_resume(arguments.recipe, arguments, overrides)
    study = read(arguments.run)
    show(study)
    write_study(study, arguments.json)


if __name__ == "__main__":
    main()
