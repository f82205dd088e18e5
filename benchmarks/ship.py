"""Make a run's student the weights that ship, with their provenance.

    python benchmarks/ship.py runs/shipped-teacher

Evaluates the student on the real pairs that ship and on procedural scenes that no training uses, beside
OpenCV's SGBM, and writes src/densedistill/weights/NAME.safetensors (half precision) and NAME.json. Does
nothing when the weights that ship are better on the real pairs, unless --force.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from densedistill import __version__
from densedistill.data.datasets import create_dataset
from densedistill.files import write_bytes
from densedistill.inference.evaluate import evaluate
from densedistill.networks.published import SHIPPED, save_weights
from densedistill.networks.registry import create_model
from densedistill.training import open_run

FIGURES = ("epe", "d1", "bad1", "bad2")
REACH = 64  # px, more than any pair here has


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("--force", action="store_true", help="replace better weights, too")
    arguments = parser.parse_args()

    run = open_run(arguments.run)
    recipe, name = run.recipe, run.recipe.student.name
    network = create_model(name, weights=str(run.student), **recipe.student.options)
    with tempfile.TemporaryDirectory() as folder:
        # What is measured is what ships: in half precision.
        half = save_weights(network, Path(folder) / f"{name}.safetensors", half=True)
        network = create_model(name, weights=str(half), **recipe.student.options)
    world = create_dataset("world", length=24, seed=900, size=(256, 512), max_disparity=REACH)
    rows = [
        row
        for data in ("samples", {"world": world})
        for row in evaluate({name: network, "sgbm": "sgbm"}, data, max_disparity=REACH).rows
    ]
    figures: dict[str, Any] = {}
    for row in rows:
        figures.setdefault(row["name"], {})[row["data"]] = {k: round(row[k], 5) for k in FIGURES if k in row}
    print(json.dumps(figures, indent=1))

    sheet = SHIPPED / f"{name}.json"
    if sheet.is_file() and not arguments.force:
        before, now = (real_bad2(each[name]) for each in (json.loads(sheet.read_text())["figures"], figures))
        if before <= now:
            raise SystemExit(
                f"{name}: what ships has bad-2 {before:.4f} on the real pairs, this {now:.4f}; kept"
            )
    last = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])
    provenance = {
        "network": name,
        "options": network.options,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "steps": last["step"],
        "batch_size": recipe.data.batch_size,
        "hours": round(last["time"] / 3600, 2),
        "environment": json.loads((run.path / "environment.json").read_text()),
        "data": "the procedural world alone; no real image was trained on",
        "figures": figures,
        "command": f"densedistill train {recipe.name}"
        if not recipe.teachers
        else f"densedistill distill {recipe.name}",
        "densedistill": __version__,
        "date": date.today().isoformat(),
    }
    SHIPPED.mkdir(exist_ok=True)
    tags = {key: str(provenance[key]) for key in ("recipe", "seed", "steps", "date")}
    save_weights(network, SHIPPED / f"{name}.safetensors", tags, half=True)
    write_bytes(sheet, (json.dumps(provenance, indent=1) + "\n").encode())
    print(f"wrote {SHIPPED / name}.safetensors and .json")


def real_bad2(figures: dict[str, dict[str, float]]) -> float:
    """Return the mean share of bad pixels over the real pairs."""
    real = [values["bad2"] for data, values in figures.items() if data != "world"]
    return sum(real) / len(real)


if __name__ == "__main__":
    main()
