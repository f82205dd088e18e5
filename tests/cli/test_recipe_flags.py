"""Recipe fields among a verb's own arguments."""

from densedistill.cli import parse, train
from densedistill.cli._recipe import read_flags


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
    assert read_flags(flags) == {"data.batch_size": 4, "student.max_disparity": -96, "trainer.clip": None}
