"""Make a run's student the weights that ship, with their provenance.

    python benchmarks/ship.py runs/shipped-teacher
    python benchmarks/ship.py runs/shipped-fine --tag fine   # as NETWORK=fine, beside what ships
    python benchmarks/ship.py runs/first runs/second         # the second goes on from the first

Evaluates the student on the real images that ship and on procedural scenes that no training uses, beside
OpenCV's SGBM or, for depth, a constant plane, and writes src/densedistill/weights/NAME.safetensors (half
precision) and NAME.json. Does nothing when the weights that ship are better on the real images, unless
--force.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from depth import Plane

from densedistill import __version__
from densedistill.data.datasets import create_dataset
from densedistill.files import write_bytes
from densedistill.inference.evaluate import evaluate
from densedistill.networks.published import SHIPPED, save_weights, shipped_weights
from densedistill.networks.registry import create_model
from densedistill.recipes import Recipe
from densedistill.training import Run, open_run
from densedistill.training.stages import stage_runs


@dataclass(frozen=True)
class Sheet:
    """How the weights of a task are judged.

    Args:
        real: the images that ship.
        world: options of the procedural scenes.
        reach: largest disparity of the scenes in px; of stereo, also of what is evaluated.
        rivals: what stands beside the network, by name.
        figures: what is told; the first decides, less being better.
        protocol: of the evaluation.
    """

    real: str
    world: Mapping[str, Any]
    reach: int
    rivals: Mapping[str, Any]
    figures: tuple[str, ...]
    protocol: str


SHEETS = {
    "stereo": Sheet(
        "samples", {"size": (256, 512)}, 64, {"sgbm": "sgbm"}, ("bad2", "epe", "d1", "bad1"), "plain"
    ),
    "depth": Sheet(
        "icl_nuim",
        {"size": (240, 320), "style": "interior", "focal": 260},
        48,
        {"constant plane": Plane()},
        ("abs_rel", "silog", "rmse", "a1"),
        "images+aligned_inverse",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="finished runs, each going on from the one before")
    parser.add_argument("--force", action="store_true", help="replace better weights, too")
    parser.add_argument(
        "--data",
        default="the procedural world alone; no real image was trained on",
        help="what it was trained on",
    )
    parser.add_argument("--tag", help="of weights beside the shipped ones: NAME.TAG.safetensors")
    arguments = parser.parse_args()

    runs = [open_run(path) for path in arguments.runs]
    run, whole = runs[-1], runs[-1].recipe
    parts = [part for one in runs for part in parts_of(one)]
    recipe = whole if isinstance(whole, Recipe) else list(whole.recipes.values())[-1]
    name = recipe.student.name
    sheet = SHEETS[recipe.task]
    network = create_model(name, weights=str(run.student), **recipe.student.options)
    with tempfile.TemporaryDirectory() as folder:
        # What is measured is what ships: in half precision.
        half = save_weights(network, Path(folder) / f"{name}.safetensors", half=True)
        network = create_model(name, weights=str(half), **recipe.student.options)
    world = create_dataset(
        "world", length=24, seed=900, max_disparity=sheet.reach, task=recipe.task, **sheet.world
    )
    limit = sheet.reach if recipe.task == "stereo" else None
    rows = [
        row
        for data in (sheet.real, {"world": world})
        for row in evaluate(
            {name: network, **sheet.rivals}, data, protocol=sheet.protocol, max_disparity=limit
        ).rows
    ]
    figures: dict[str, Any] = {}
    for row in rows:
        told = {key: round(row[key], 5) for key in sheet.figures if key in row}
        figures.setdefault(row["name"], {})[row["data"]] = told
    print(json.dumps(figures, indent=1))

    stem = f"{name}.{arguments.tag}" if arguments.tag else name
    provenance_file = SHIPPED / f"{stem}.json"
    if provenance_file.is_file() and not arguments.force:
        decides = sheet.figures[0]
        before, now = (
            on_real_images(each[name], decides)
            for each in (json.loads(provenance_file.read_text())["figures"], figures)
        )
        if before <= now:
            raise SystemExit(
                f"{name}: what ships has {decides} {before:.4f} on the real images, this {now:.4f}; kept"
            )
    ends = [part.history[-1] for part in parts] + begun_with(runs[0])
    provenance = {
        "network": name,
        "options": network.options,
        "recipe": whole.name,
        "seed": recipe.seed,
        "steps": sum(end["step"] for end in ends),
        "batch_size": recipe.data.batch_size,
        "hours": round(sum(end["time"] for end in ends) / 3600, 2),
        "environment": json.loads((run.path / "environment.json").read_text()),
        "data": arguments.data,
        "figures": figures,
        "command": f"densedistill {'distill' if recipe.teachers else 'train'} {whole.name}",
        "densedistill": __version__,
        "date": date.today().isoformat(),
    }
    SHIPPED.mkdir(exist_ok=True)
    tags = {key: str(provenance[key]) for key in ("recipe", "seed", "steps", "date")}
    save_weights(network, SHIPPED / f"{stem}.safetensors", tags, half=True)
    write_bytes(provenance_file, (json.dumps(provenance, indent=1) + "\n").encode())
    print(f"wrote {SHIPPED / stem}.safetensors and .json")


def parts_of(run: Run) -> list[Run]:
    """Return the runs of a chain's stages, or the run itself."""
    return [run] if isinstance(run.recipe, Recipe) else list(stage_runs(run.recipe, run).values())


def begun_with(run: Run) -> list[dict[str, float]]:
    """Return step and time of the training whose shipped weights `run` began with, if it did."""
    student = run.recipe.student if isinstance(run.recipe, Recipe) else None
    weights = student and shipped_weights(student.name).get(str(student.weights))
    if not weights:
        return []
    earlier = json.loads(weights.with_suffix(".json").read_text())
    return [{"step": earlier["steps"], "time": 3600 * earlier["hours"]}]


def on_real_images(figures: Mapping[str, Mapping[str, float]], figure: str) -> float:
    """Return the mean of `figure` over the real data."""
    real = [values[figure] for data, values in figures.items() if data != "world"]
    return sum(real) / len(real)


if __name__ == "__main__":
    main()
