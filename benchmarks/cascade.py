"""Is Teacher to Student to Naive better than Teacher to Naive in the same time? TSNnet's chain, three seeds.

    python benchmarks/cascade.py --run runs/cascade-study --json benchmarks/results/cascade.json

Trains the recipe `study/cascade`, an interrupted study going on where it stopped, and reads the last
validation of every run. The time of the cascade is that of its student and its Naive together; the teacher
is the same for all and not counted. Seconds are of training alone, as logged.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from study import study_parser, train_or_resume, write_study

from densedistill.training import open_run

FIGURES = {"epe": "EPE px", "bad2": "bad-2.0 %", "d1": "D1 %"}
ROWS = {
    "cascade": "Teacher, Student, Naive",
    "direct": "Teacher, Naive",
    "alone": "Naive alone",
    "student": "(the Student between)",
}


def read(folder: Path) -> dict[str, Any]:
    """Return each way's seconds, steps and figures, per seed and as mean and deviation."""
    runs: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*-seed*")):
        way, _, seed = path.name.split("-", 1)[1].rpartition("-seed")
        runs.setdefault(way, {})[seed] = open_run(path).history[-1]
    rows = []
    for way, title in ROWS.items():
        seconds = [last["time"] for last in runs[way].values()]
        if way == "cascade":
            seconds = [
                own + runs["student"][seed]["time"] for own, seed in zip(seconds, runs[way], strict=True)
            ]
        row: dict[str, Any] = {"way": way, "title": title, "seeds": list(runs[way])}
        row["seconds"] = statistics.mean(seconds)
        row["steps"] = next(iter(runs[way].values()))["step"]
        for figure in FIGURES:
            values = [last[f"validate/{figure}"] for last in runs[way].values()]
            row[figure] = values
            row[f"{figure}_mean"] = statistics.mean(values)
            row[f"{figure}_deviation"] = statistics.stdev(values) if len(values) > 1 else 0.0
        rows.append(row)
    return {"rows": rows, "differences": compare(rows)}


def compare(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return, for each figure, the cascade less each other way seed by seed, and its t over the seeds."""
    by_way = {row["way"]: row for row in rows}
    found: dict[str, dict[str, Any]] = {}
    for other in ("direct", "alone"):
        for figure in FIGURES:
            pairs = zip(by_way["cascade"][figure], by_way[other][figure], strict=True)
            gaps = [own - others for own, others in pairs]
            spread = statistics.stdev(gaps) if len(gaps) > 1 else 0.0
            t = statistics.mean(gaps) / (spread / len(gaps) ** 0.5) if spread else None
            found.setdefault(figure, {})[other] = {"gaps": gaps, "mean": statistics.mean(gaps), "t": t}
    return found


def show(study: dict[str, Any]) -> None:
    """Print the study as a table."""
    table = Table(title="TSNnet's cascade, mean and deviation over seeds")
    for heading in ("trained", "steps", "s", *FIGURES.values()):
        table.add_column(heading, justify="left" if heading == "trained" else "right")
    for row in study["rows"]:
        cells = []
        for figure in FIGURES:
            scale = 1 if figure == "epe" else 100
            mean, deviation = (row[f"{figure}_{key}"] * scale for key in ("mean", "deviation"))
            cells.append(f"{mean:.2f} ± {deviation:.2f}")
        table.add_row(row["title"], str(row["steps"]), f"{row['seconds']:.0f}", *cells)
    Console().print(table)
    for figure, others in study["differences"].items():
        for other, found in others.items():
            gaps = ", ".join(f"{gap:+.3f}" for gap in found["gaps"])
            said = "" if found["t"] is None else f", t = {found['t']:.1f}"
            print(f"{figure}: cascade less {other}, seed by seed: {gaps}{said}")


def main() -> None:
    arguments = study_parser(__doc__, "runs/cascade-study").parse_args()
    train_or_resume("study/cascade", arguments)
    study = read(arguments.run)
    show(study)
    write_study(study, arguments.json)


if __name__ == "__main__":
    main()
