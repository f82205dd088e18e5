"""Which labels teach DWARF best, and what do the accidents of its published code cost? Three seeds, CPU size.

    python benchmarks/dwarf_study.py --run runs/dwarf-labels --json benchmarks/results/dwarf_labels.json
    python benchmarks/dwarf_study.py --recipe study/dwarf-clean --run runs/dwarf-clean

One run a rung and seed, for the same steps (the recipes `study/dwarf-labels` and `study/dwarf-clean`); the
figures are of the last validation. An interrupted study goes on where it stopped.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from study import rungs_of, study_parser, train_or_resume, write_study

from densedistill.metrics import metric_info

FIGURES = ("epe", "epe_next", "epe_flow", "d1", "d2", "fl", "sf")


def read(folder: Path) -> list[dict[str, Any]]:
    """Return a row a rung: mean and deviation over seeds of each figure, steps, and seconds."""
    rows = []
    for rung, runs in rungs_of(folder).items():
        ends = [[line for line in run.history if f"validate/{FIGURES[0]}" in line][-1] for run in runs]
        row: dict[str, Any] = {"rung": rung, "seeds": len(ends), "steps": ends[0]["step"]}
        row["seconds"] = statistics.mean(end["time"] for end in ends)
        for figure in FIGURES:
            values = [end[f"validate/{figure}"] for end in ends]
            row[figure] = (statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]], title: str) -> None:
    """Print the rows as a table."""
    table = Table(title=title)
    table.add_column("trained by")
    table.add_column("s", justify="right")
    for figure in FIGURES:
        table.add_column(f"{metric_info(figure).heading} {metric_info(figure).unit}", justify="right")
    for row in rows:
        cells = [f"{metric_info(f).write(row[f][0])} ± {metric_info(f).write(row[f][1])}" for f in FIGURES]
        table.add_row(row["rung"], f"{row['seconds']:.0f}", *cells)
    Console(width=140).print(table)


def main() -> None:
    parser = study_parser(__doc__, "runs/dwarf-labels")
    parser.add_argument(
        "--recipe", default="study/dwarf-labels", help="study/dwarf-labels (default) or -clean"
    )
    arguments = parser.parse_args()
    train_or_resume(arguments.recipe, arguments)
    rows = read(arguments.run)
    show(rows, f"{arguments.recipe}, mean ± deviation over seeds")
    write_study({"rows": rows}, arguments.json)


if __name__ == "__main__":
    main()
