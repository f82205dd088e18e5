"""What studies share: their arguments, training or resuming a recipe, the file of figures."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch

from densedistill.files import write_text
from densedistill.machine import cpu_model
from densedistill.recipes import load_recipe
from densedistill.training import Run, train
from densedistill.training.stages import stage_runs


def study_parser(description: str | None, run: str) -> argparse.ArgumentParser:
    """Return a parser of the arguments of a study whose runs lie in `run` unless told otherwise."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=Path(run), help=f"folder of the runs (default {run})")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--read", action="store_true", help="only read runs that are there")
    return parser


def train_or_resume(
    recipe: str, arguments: argparse.Namespace, overrides: Mapping[str, Any] | None = None
) -> None:
    """Train `recipe` in `arguments.run`, going on where an earlier call stopped, unless it is only read."""
    if arguments.read:
        return
    if arguments.run.is_dir():
        train(resume=arguments.run)
    else:
        train(recipe, run=arguments.run, overrides=overrides)


def rungs_of(folder: Path) -> dict[str, list[Run]]:
    """Return the finished runs of each rung of the study in `folder`, seed by seed; a run whose weights
    others begin with is no rung."""
    written = (folder / "recipe.yaml").read_text()
    rungs: dict[str, list[Run]] = {}
    for name, run in stage_runs(load_recipe(folder / "recipe.yaml"), Run(folder)).items():  # type: ignore[arg-type]
        if run.finished and not re.search(rf"stage:{re.escape(name)}\b(?!-)", written):
            rungs.setdefault(re.sub(r"-seed\d+$", "", name), []).append(run)
    return rungs


def write_study(figures: Mapping[str, Any], path: Path | None) -> None:
    """Write `figures` and what they were measured on to `path`, if there is one."""
    if path is None:
        return
    facts = {"machine": cpu_model(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    study = {**figures, **facts, "date": date.today().isoformat()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(study, indent=1) + "\n")
    print(f"wrote {path}")
