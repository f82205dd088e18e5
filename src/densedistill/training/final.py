"""The last evaluation of a run: its student, and its teachers beside it where they are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..distillation.teachers import NetworkTeacher, create_teacher
from ..inference.evaluate import Evaluation, evaluate
from ..inference.predictor import Predictor
from ..networks.input_spec import search_range
from ..networks.registry import create_model
from ..recipes import Recipe
from .run import Run
from .stages import stage_of, stage_runs, with_earlier
from .train import on_gpu
from .validation import open_validation


@dataclass(frozen=True)
class Final:
    """What a finished run is judged by.

    Args:
        predictors: the students, and their teachers where these are wanted, by name.
        datasets: validation data by label.
        protocol: of the evaluation; None for the task's plain one.
        max_disparity: of the students, where they have one, px of the image.
    """

    predictors: dict[str, Predictor]
    datasets: dict[str, Any]
    protocol: str | None
    max_disparity: int | None

    def evaluate(self) -> Evaluation:
        """Return the figures of all on all data, with a bar where stderr is a terminal."""
        reach = self.max_disparity
        return evaluate(self.predictors, self.datasets, self.protocol, max_disparity=reach, progress=True)


def finish(run: Run, teachers: bool = True) -> Final | None:
    """Return students, the `teachers` that their terms learn from, and validation data of a finished run;
    None when the recipe has no such data.

    A chain is evaluated stage by stage on the data of its last, a ladder rung by rung: the rows are named
    after the stages, beside those teachers that come from outside.
    """
    recipe = run.recipe
    if isinstance(recipe, Recipe):
        return _final(recipe, {"student": (recipe, run)}, teachers)
    runs = stage_runs(recipe, run)
    resolved = {name: with_earlier(stage, runs) for name, stage in recipe.recipes.items()}
    students = {name: (resolved[name], runs[name]) for name in runs}
    if recipe.kind == "chain":
        for name, stage in recipe.recipes.items():
            for key, teacher in stage.teachers.items():
                if stage_of(teacher):
                    del resolved[name].teachers[key]  # it has a row of its own
        return _final(list(resolved.values())[-1], students, teachers)
    return _final(next(iter(resolved.values())), students, teachers)


def _final(recipe: Recipe, students: dict[str, tuple[Recipe, Run]], teachers: bool) -> Final | None:
    datasets = open_validation(recipe)
    if not datasets:
        return None
    device = "cuda" if on_gpu(recipe.trainer.accelerator) else "cpu"  # where it was trained
    predictors: dict[str, Predictor] = {}
    reach: int | None = None
    for label, (own, run) in students.items():
        student = create_model(own.student.name, weights=str(run.student), **own.student.options).eval()
        own_reach = search_range(student)
        reach = reach if own_reach is None else own_reach
        predictors[label] = Predictor(student, device)
    for own, _ in students.values() if teachers else ():
        for name, config in own.taught_by.items():
            if name not in predictors:
                teacher = create_teacher(config.name, weights=config.weights, **config.options)
                if isinstance(teacher, NetworkTeacher):
                    predictors[name] = Predictor(teacher.network, device)
    return Final(predictors, datasets, recipe.data.protocol, reach)
