"""Every twin trains, evaluates and reports."""

import math

import pytest

from densedistill.recipes import Recipe, list_recipes, load_recipe
from densedistill.recipes.load import read_document
from densedistill.tasks import get_task
from densedistill.verbs import distill


def has_twin(name):
    document = read_document(name)
    return "twin" in document or ("recipe" in document and has_twin(document["recipe"]))


TWINS = [name for name in list_recipes() if has_twin(name)]


@pytest.mark.full
@pytest.mark.parametrize("name", TWINS)
def test_a_twin_runs_twenty_steps(name, tmp_path):
    depth = load_recipe(name, twin=True).task == "depth"
    size = [128, 128] if depth else [32, 64]  # a decomposition of features needs more
    recipe = load_recipe(
        name,
        twin=True,
        overrides={
            "schedule.steps": 20,
            "data.batch_size": 1,
            "data.train.*.size": size,
            "data.validate.size": size,
            "data.validate.length": 2,
            "trainer.validate_every": 20,
            "trainer.pictures": 1,
        },
    )
    run = distill(recipe, run=tmp_path / "run")
    figure = get_task(
        recipe.task if isinstance(recipe, Recipe) else next(iter(recipe.recipes.values())).task
    ).metrics[0]
    assert all(math.isfinite(row[figure]) for row in run.metrics["rows"])
    assert (run.path / "report.html").stat().st_size > 1000
