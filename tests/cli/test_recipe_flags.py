"""Recipe fields among a verb's own arguments."""

from densedistill.cli import parse, train


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
