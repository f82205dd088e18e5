"""Recipe fields among a verb's own arguments."""

from densedistill.cli import parse, train
from densedistill.cli._recipe import read_flags
from densedistill.recipes import load_recipe


def test_a_fields_value_is_not_taken_for_the_recipe():
    args, fields = parse(train, ["--resume", "runs/a", "--schedule.minutes", "36"])
    assert args.recipe is None
    assert args.resume == "runs/a"
    assert fields == ["--schedule.minutes", "36"]


def test_fields_may_stand_before_the_recipe_and_beside_switches():
    args, fields = parse(train, ["--optimizer.lr=1e-4", "dsnet/sceneflow", "--seed", "-1", "--twin"])
    assert args.recipe == "dsnet/sceneflow"
    assert args.twin
    assert fields == ["--optimizer.lr=1e-4", "--seed", "-1"]


def test_flags_may_have_dashes_for_underscores_and_minus_signs_in_values():
    flags = ["--data.batch-size", "4", "--student.max_disparity=-96", "--trainer.clip", "null"]
    assert read_flags(flags) == {"data.batch-size": 4, "student.max_disparity": -96, "trainer.clip": None}
    recipe = load_recipe(
        "dsnet/sceneflow", overrides={"objective.ground-truth.weight": 3, **read_flags(flags)}
    )
    assert (recipe.data.batch_size, recipe.objective["ground_truth"]["weight"]) == (4, 3)


def test_a_stage_a_term_or_a_teacher_whose_name_has_a_dash_is_reached_by_its_flag():
    stages = load_recipe("dsnet/table4", twin=True, overrides={"ground-truth.schedule.steps": 3}).recipes
    assert [stage.schedule.steps == 3 for stage in stages.values()].count(True) == 1
    assert stages["ground-truth"].schedule.steps == 3
    term = {"loss": "l1", "of": "disparity", "to": "ground_truth"}
    recipe = load_recipe("dsnet/sceneflow").to_dict() | {"objective": {"deep-levels": term}}
    overrides = {"objective.deep-levels.max-disparity": 96, "data.train.-1.root": "/data"}
    changed = load_recipe(recipe, overrides=overrides)
    assert changed.objective["deep-levels"]["max_disparity"] == 96
    assert changed.data.train[0].root == "/data"
