"""Several recipes as one run: chains, whose stages use earlier ones' students, and ladders of variants."""

from __future__ import annotations

import copy
import os
import sys
from dataclasses import replace

from ..errors import UserError
from ..files import write_bytes
from ..recipes import Recipe, Stages, Student, Teacher
from .launch import is_first_process
from .run import Run


def stage_runs(stages: Stages, run: Run) -> dict[str, Run]:
    """Return the run of each stage, in folders of `run` numbered in their order."""
    digits = len(str(len(stages.recipes)))
    return {
        name: Run(run.path / f"{number:0{digits}}-{name}") for number, name in enumerate(stages.recipes, 1)
    }


def train_stages(stages: Stages, run: Run, changed: bool) -> Run:
    """Train every stage that is not finished yet, in order; a chain's student is its last stage's.

    Where recipes were `changed` since the run was begun, their files are written anew; what a finished stage
    was trained by stays.
    """
    from .train import train_one

    runs = stage_runs(stages, run)
    if changed:
        kept = {name: _as_trained(recipe, runs[name]) for name, recipe in stages.recipes.items()}
        for name in [name for name in kept if kept[name] != stages.recipes[name] and is_first_process()]:
            print(f"warning: stage '{name}' is finished, and stays what it was trained by", file=sys.stderr)
        stages = replace(stages, recipes=kept)
    if changed and is_first_process() and all(stage.finished for stage in runs.values()):
        run.write_recipe(stages)
    for number, (name, recipe) in enumerate(stages.recipes.items(), 1):
        stage = runs[name]
        if stage.finished:
            continue
        if is_first_process():
            print(f"{stages.kind} {number}/{len(runs)}: {name}", file=sys.stderr)
            if not stage.begun:
                stage.create(recipe)
        said: list[tuple[Run, Recipe | Stages]] = [(run, stages), (stage, recipe)]
        train_one(with_earlier(recipe, runs), stage, said if changed else [])
    if stages.kind == "chain" and is_first_process():
        write_bytes(run.student, list(runs.values())[-1].student.read_bytes())
    return run


def stage_of(user: Student | Teacher) -> str | None:
    """Return the stage whose student `user` begins as, or is, by its `weights: stage:NAME`."""
    weights = user.weights or ""
    return weights.removeprefix("stage:") if weights.startswith("stage:") else None


def refuse_stage(recipe: Recipe | Stages) -> None:
    """Raise UserError for a single recipe that names another stage's weights: alone it does not know them."""
    if isinstance(recipe, Stages):
        return
    users: list[Student | Teacher] = [recipe.student, *recipe.teachers.values()]
    for stage in filter(None, map(stage_of, users)):
        raise UserError(
            f"weights: 'stage:{stage}' is another stage of a chain, and this is one stage alone; train the "
            "chain, or --resume the folder of its whole run"
        )


def with_earlier(recipe: Recipe, runs: dict[str, Run]) -> Recipe:
    """Return `recipe` with `stage:NAME` replaced by the student of that stage."""
    recipe = copy.deepcopy(recipe)
    users: list[Student | Teacher] = [recipe.student, *recipe.teachers.values()]
    for user in users:
        if stage := stage_of(user):
            user.weights = os.fspath(runs[stage].student)
    return recipe


def _as_trained(recipe: Recipe, stage: Run) -> Recipe:
    """Return what a finished `stage` was trained by, evaluated as `recipe` says, which it may be at any
    time."""
    trained = stage.recipe if stage.finished else recipe
    assert isinstance(trained, Recipe)
    data = replace(trained.data, validate=recipe.data.validate, protocol=recipe.data.protocol)
    return replace(trained, data=data)
