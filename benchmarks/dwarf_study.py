"""Which labels teach DWARF best, and what do the accidents of its published code cost? Three seeds, CPU size.

    python benchmarks/dwarf_study.py --run runs/dwarf-labels --json benchmarks/results/dwarf_labels.json
    python benchmarks/dwarf_study.py --recipe study/dwarf-clean --run runs/dwarf-clean

One run a rung and seed, for the same steps (the recipes `study/dwarf-labels` and `study/dwarf-clean`); the
figures are
of the last validation. An interrupted study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from densedistill.files import write_text
from densedistill.metrics import metric_info
from densedistill.training import open_run, train

FIGURES = ("epe", "epe_next", "epe_flow", "d1", "d2", "fl", "sf")


def read(folder: Path) -> list[dict[str, Any]]:
    """Return a row a rung: mean and deviation over seeds of each figure, steps, and seconds."""
    rungs: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*-seed*")):
        lines = (open_run(path).path / "metrics.jsonl").read_text().splitlines()
        last = [line for line in map(json.loads, lines) if f"validate/{FIGURES[0]}" in line][-1]
        rungs.setdefault(path.name.split("-", 1)[1].rsplit("-seed", 1)[0], []).append(last)
    rows = []
    for rung, ends in rungs.items():
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
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--recipe", default="study/dwarf-labels", help="study/dwarf-labels (default) or -clean"
    )
    parser.add_argument("--run", type=Path, default=Path("runs/dwarf-labels"), help="folder of the runs")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--read", action="store_true", help="only read runs that are there")
    arguments = parser.parse_args()
    if not arguments.read:
        if arguments.run.is_dir():
            train(resume=arguments.run)
        else:
            train(arguments.recipe, run=arguments.run)
    rows = read(arguments.run)
    show(rows, f"{arguments.recipe}, mean ± deviation over seeds")
    if arguments.json:
        facts = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
        study = {"rows": rows, "date": date.today().isoformat(), "cores": torch.get_num_threads(), **facts}
        write_text(arguments.json, json.dumps(study, indent=1) + "\n")


if __name__ == "__main__":
    main()
