import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from densedistill.errors import UserError
from densedistill.recipes import Stages, describe, list_recipes, load_recipe, parse_value
from densedistill.recipes.load import merge

PUBLISHED = [
    "acvnet/sceneflow",
    "cascade/acvnet-naive",
    "cascade/dsnet-naive",
    "dsnet/kitti",
    "dsnet/sceneflow",
    "dsnet/sceneflow-attention",
    "dsnet/sceneflow-paper",
    "dsnet/sceneflow-teacher-gwcnet",
    "dsnet/sceneflow-teacher-lac",
    "dsnet/sceneflow-two-teachers",
    "dsnet/table3",
    "dsnet/table4",
    "gwcnet/sceneflow",
    "lacgwcnet/sceneflow",
    "tsnnet/cascade-drivingstereo",
    "tsnnet/cascade-kitti",
    "tsnnet/cascade-sceneflow",
]


def stages_of(recipe):
    return list(recipe.recipes.values()) if isinstance(recipe, Stages) else [recipe]


@pytest.mark.parametrize("twin", [False, True])
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_recipe_resolves_and_reads_back(name, twin, tmp_path):
    recipe = load_recipe(name, twin=twin)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False))
    assert load_recipe(path) == recipe
    assert describe(name).strip()
    assert "\n" not in describe(name)
    for stage in stages_of(recipe):
        sets = stage.data.train + stage.data.validate
        assert all((dataset.name == "world") is twin for dataset in sets)


def test_the_published_recipes_are_listed():
    assert set(PUBLISHED) <= set(list_recipes())
    assert list_recipes("gwcnet/*") == ["gwcnet/sceneflow"]


def test_dsnet_on_sceneflow_has_the_schedule_of_the_paper():
    recipe = load_recipe("dsnet/sceneflow-paper")
    assert (recipe.optimizer.name, recipe.optimizer.lr, recipe.data.batch_size) == ("adam", 1e-4, 8)
    assert recipe.schedule.epochs == 64
    assert recipe.schedule.milestones == [20, 32, 40, 48, 56]
    assert {name: term.get("weight", 1.0) for name, term in recipe.objective.items()} == {
        "ground_truth": 0.4,
        "output": 0.4,
        "features": 0.1,
        "volume": 0.1,
        "aggregation": 0.1,
    }


def test_the_objective_of_the_code_differs_from_that_of_the_paper():
    code = load_recipe("dsnet/sceneflow").objective
    weights = {name: term.get("weight", 1.0) for name, term in code.items()}
    # One tensor holds the early features of both views, each of which counts once as published.
    assert weights == {"ground_truth": 1, "output": 0.1, "features": 2, "volume": 5, "aggregation": 0.2}
    assert code["aggregation"]["levels"] == [0, 0.5, 1.0]


def test_table4_adds_one_point_at_a_time():
    rungs = load_recipe("dsnet/table4").recipes
    assert [len(recipe.objective) for recipe in rungs.values()] == [1, 2, 3, 4, 5]
    assert set(rungs["output"].objective) == {"ground_truth", "volume", "features", "output"}


def test_acvnet_is_a_chain_of_three_stages_with_freezing():
    stages = load_recipe("acvnet/sceneflow").recipes
    assert list(stages) == ["attention", "aggregation", "all"]
    assert stages["attention"].student.options["attention_only"]
    assert stages["aggregation"].student.options["freeze_attention"]
    assert [s.objective["ground_truth"]["levels"] for s in stages.values()] == [
        [1.0],
        [0.5, 0.7, 1.0],
        [0.5, 0.5, 0.7, 1.0],
    ]
    assert stages["all"].student.weights == "stage:aggregation"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optimzer.lr", 1, "no field 'optimzer'; did you mean 'optimizer'"),
        ("optimizer.learning_rate", 1, "no field 'optimizer.learning_rate'"),
        ("data.train.rot", "x", "no field 'data.train.rot'; did you mean 'data.train.root'"),
        ("data.batchsize", 1, "no field 'data.batchsize'; did you mean 'data.batch_size'"),
        ("student.wieghts", "x", "no field 'student.wieghts'; did you mean 'student.weights'"),
        ("objective.volum.weight", 0, "objective.volum: this term has no 'loss'; did you mean 'volume'"),
        ("objective.volume.to", "techer", "there is no teacher 'techer'; did you mean 'teacher'"),
        (
            "teachers.techer.weights",
            "x",
            "teachers.techer: this teacher has no 'name'; did you mean 'teacher'",
        ),
        ("data.batch_size", "many", "data.batch_size: a whole number is wanted, not 'many'"),
        ("trainer.precision", "bf17", "trainer.precision: there is no 'bf17'; did you mean 'bf16'"),
        ("schedule.milestones", 3, "schedule.milestones: a list is wanted, not 3"),
        ("trainer.compile", "perhaps", "trainer.compile: true or false is wanted, not 'perhaps'"),
        ("seed.x", 1, "seed"),
        ("seed", -1, r"seed: must be at least 0 and below 2\^63, not -1"),
        ("seed", 2**63, r"seed: must be at least 0 and below 2\^63, not 9223372036854775808"),
        ("data.batch_size", -2, "data.batch_size: must be at least 1, not -2"),
        ("data.workers", -1, "data.workers: must be at least 0, not -1"),
        ("data.workers", 1e30, "data.workers: must be at most 256, not 1000"),
        ("data.batch_size", 1e9, "data.batch_size: must be at most 65536, not 1000000000"),
        ("trainer.devices", 10**6, "trainer.devices: must be at most 1024, not 1000000"),
        ("trainer.threads", 10**9, "trainer.threads: must be at most 1024, not 1000000000"),
        ("data.train.weight", -1, "data.train.weight: must be at least 0, not -1"),
        ("data.train.weight", 0, "data.train: every data set has the weight 0"),
        ("data.train.weight", "inf", "data.train.weight: a number is wanted, not 'inf'"),
        ("optimizer.weight_decay", float("inf"), "optimizer.weight_decay: a number is wanted, not inf"),
        ("optimizer.lr", 10**400, "optimizer.lr: a number is wanted, not 1000"),
        ("schedule.gamma", -1, "schedule.gamma: must be at least 0, not -1"),
        (
            "schedule",
            {"steps": 9, "gamma": 1e308, "milestones": [0, 0]},
            "1e.308 at 2 milestones has no",
        ),
        ("data.train", [{"name": "world", "weight": 1e308}] * 2, "data.train: the weights .* no finite sum"),
        ("schedule.power", -1, "schedule.power: must be at least 0, not -1"),
        ("schedule.final", -1, "schedule.final: a share of the largest rate, from 0 to 1, not -1"),
        ("schedule.milestones", [-1, 2], r"schedule.milestones: must be at least 0, not \[-1"),
        ("schedule.milestones", ["nan"], "schedule.milestones.0: a number is wanted, not 'nan'"),
        ("teachers", "acvnet_small", "teachers: fields are wanted here, not 'acvnet_small'"),
        ("data.validate.truth", False, "data.validate: nothing is measured without ground truth"),
        ("optimizer.lr", "nan", "optimizer.lr: a number is wanted, not 'nan'"),
        ("optimizer.betas", [0.9], r"optimizer.betas: two numbers from 0 to below 1, not \[0.9\]"),
        ("trainer.log_every", 0, "trainer.log_every: must be at least 1, not 0"),
        ("trainer.clip", 0, "trainer.clip: must be above 0, not 0"),
        ("trainer.ema", 2, "trainer.ema: a decay from 0 to below 1, not 2"),
        ("data.batch_size", True, "data.batch_size: a whole number is wanted, not True"),
        ("optimizer.lr", True, "optimizer.lr: a number is wanted, not True"),
        ("student.weights", True, "student.weights: text is wanted, not True"),
        ("optimizer", {"name": "sgd", "nesterov": True, "momentum": 0}, "nesterov: needs a momentum above 0"),
        (
            "objective",
            {"one": {"loss": "l1", "of": "disparity", "to": "ground_truth", "weight": 0.0}},
            "objective: every term has weight 0: there is nothing to learn from",
        ),
    ],
)
def test_a_wrong_field_is_named_with_the_nearest_valid_one(path, value, message):
    with pytest.raises(UserError, match=message):
        load_recipe("dsnet/sceneflow", overrides={path: value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"twin": "small"}, "the recipe 'toy': twin is a mapping of fields, not 'small'"),
        (
            {"schedule": {"epochs": 0, "milestones": [20]}, "twin": {"schedule": {"steps": 0}}},
            "schedule.steps: must be above 0, not 0",
        ),
        ({"schedule": {"epochs": 9, "milestones": 3}}, "schedule.milestones: a list is wanted, not 3"),
        (
            {"schedule": {"epochs": 9, "milestones": ["x"]}},
            "schedule.milestones.0: a number is wanted, not 'x'",
        ),
        (
            {"ladder": {"rungs": {"a": {}}, "seeds": 3}},
            "the recipe 'toy': ladder.seeds is a list of seeds, not 3",
        ),
        ({"chain": [{"teachers": 5}]}, "stage 'stage1': teachers: fields are wanted here, not 5"),
    ],
)
def test_a_wrong_kind_is_one_line_where_twins_and_stages_are_laid_over_each_other(fields, message):
    base = {**load_recipe("dsnet/sceneflow").to_dict(), "name": "toy", "twin": {"schedule": {"steps": 5}}}
    with pytest.raises(UserError, match=re.escape(message)):
        load_recipe({**base, **fields}, twin=True)


def test_dotted_fields_override_and_lists_are_counted():
    recipe = load_recipe(
        "dsnet/kitti",
        overrides={
            "data.train.1.root": "/kitti",
            "data.validate.root": "/val",
            "objective.volume.weight": 0,
            "optimizer.lr": "1e-4",
            "student.max_disparity": 256,
        },
    )
    assert [dataset.root for dataset in recipe.data.train] == ["data/KITTI2012", "/kitti"]
    assert recipe.data.validate[0].root == "/val"
    assert recipe.objective["volume"]["weight"] == 0
    assert recipe.optimizer.lr == 1e-4
    assert recipe.student.options == {"max_disparity": 256}
    with pytest.raises(
        UserError, match=r"there are 2 entries; say which, for example 'data\.train\.0\.root'"
    ):
        load_recipe("dsnet/kitti", overrides={"data.train.root": "/kitti"})
    recipe = load_recipe("dsnet/kitti", overrides={"data.train.-1.root": "/last"})
    assert [dataset.root for dataset in recipe.data.train] == ["data/KITTI2012", "/last"]
    for number in (2, -3):
        with pytest.raises(UserError, match=rf"data\.train\.{number}: there are 2 entries, counted from 0"):
            load_recipe("dsnet/kitti", overrides={f"data.train.{number}.root": "/kitti"})
    recipe = load_recipe(
        "dsnet/kitti", overrides={"data.train.*.root": "/kitti", "data.validate.*.root": "/val"}
    )
    assert [dataset.root for dataset in recipe.data.train] == ["/kitti", "/kitti"]
    assert recipe.data.validate[0].root == "/val"


def test_overrides_of_a_chain_go_to_every_stage_or_to_the_one_named():
    recipes = load_recipe("acvnet/sceneflow", overrides={"seed": 7, "all.schedule.epochs": 3}).recipes
    assert [recipe.seed for recipe in recipes.values()] == [7, 7, 7]
    assert [recipe.schedule.epochs for recipe in recipes.values()] == [64, 64, 3]


def test_a_stage_called_student_leaves_the_flags_of_the_student_what_they_are():
    overrides = {"student.name": "dsnet_bb21_ed2_n8", "student.max_disparity": 48}
    overrides["student.schedule.steps"] = 5  # of the stage
    teacher, student = load_recipe("dsnet/sceneflow", twin=True, overrides=overrides).recipes.values()
    assert (student.student.name, student.student.options) == ("dsnet_bb21_ed2_n8", {"max_disparity": 48})
    assert student.name == "dsnet/sceneflow:student"
    assert (student.schedule.steps, teacher.schedule.steps) == (5, 300)
    assert teacher.student.name == "acvnet_slim"
    with pytest.raises(UserError, match=r"no field 'student.wieghts'; did you mean 'student.weights'"):
        load_recipe("dsnet/sceneflow", twin=True, overrides={"student.wieghts": "x.pt"})


def test_a_length_in_another_unit_keeps_the_shape_of_the_schedule():
    schedule = load_recipe("dsnet/sceneflow", overrides={"schedule.steps": 640}).schedule
    assert (schedule.epochs, schedule.steps) == (None, 640)
    assert schedule.milestones == [200, 320, 400, 480, 560]


def test_merging_replaces_what_has_another_name_and_keeps_the_rest():
    base = {"train": {"name": "sceneflow", "root": "x"}, "batch_size": 8}
    assert merge(base, {"train": {"name": "world"}}) == {"train": {"name": "world"}, "batch_size": 8}
    assert merge(base, {"train": {"crop": [1, 2]}})["train"] == {
        "name": "sceneflow",
        "root": "x",
        "crop": [1, 2],
    }

    volume = {"loss": "cosine", "of": "volume", "kind": "mean"}
    assert merge(volume, {"of": "aggregation"}) == {**volume, "of": "aggregation"}
    assert merge(volume, {"loss": "kl", "of": "aggregation"}) == {"loss": "kl", "of": "aggregation"}


SMALL = {
    "student": {"name": "dsnet_slim"},
    "data": {"train": {"name": "world"}},
    "objective": {"truth": {"loss": "l1", "of": "disparity", "to": "ground_truth"}},
    "schedule": {"steps": 1},
}


def test_a_term_that_is_null_is_taken_away():
    recipe = load_recipe("dsnet/sceneflow", overrides={"objective.volume": None})
    assert recipe.objective.keys() == load_recipe("dsnet/sceneflow").objective.keys() - {"volume"}


def test_a_field_of_a_term_is_set_in_the_stages_that_have_the_term():
    stages = load_recipe("dsnet/table4", overrides={"objective.volume.weight": 7}).recipes
    weights = {name: stage.objective.get("volume", {}).get("weight") for name, stage in stages.items()}
    assert weights == {"ground-truth": None, "volume": 7, "features": 7, "output": 7, "aggregation": 7}


@pytest.mark.parametrize("cumulative", [True, False])
def test_a_rung_is_laid_over_the_rung_before_or_over_what_all_share(cumulative):
    rungs = {"a": {"seed": 5}, "b": {"trainer": {"accumulate": 2}}, "c": {"seed": 6, "twin": {"seed": 7}}}
    fields = {**SMALL, "ladder": {"cumulative": cumulative, "rungs": rungs}, "twin": {}}
    found = load_recipe(fields).recipes
    assert [recipe.seed for recipe in found.values()] == [5, 5 if cumulative else 1, 6]
    assert [recipe.trainer.accumulate for recipe in found.values()] == [1, 2, 2 if cumulative else 1]
    assert load_recipe(fields, twin=True).recipes["c"].seed == 7


def test_a_recipe_over_another_keeps_neither_its_name_nor_its_description(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: gwcnet/sceneflow\nseed: 3\n")
    recipe = load_recipe(path)
    assert (recipe.name, recipe.description, recipe.seed) == ("mine", "", 3)


def test_one_word_is_a_network_a_preset_or_a_name():
    recipe = load_recipe(
        {**SMALL, "student": "dsnet_slim"}, overrides={"student.max_disparity": 64, "data.augment": "plain"}
    )
    assert (recipe.student.name, recipe.student.options) == ("dsnet_slim", {"max_disparity": 64})
    assert recipe.data.augment == "plain"
    assert load_recipe(SMALL, overrides={"data.augment": {"crop": [8, 8]}}).data.augment == {"crop": [8, 8]}


def test_flags_are_read_as_yaml_and_numbers_need_no_point():
    values = [parse_value(text) for text in ("1e-4", "2.5E+3", "3", "[256, 512]", "null", "true", "a: b: c")]
    assert values == [1e-4, 2500.0, 3, [256, 512], None, True, "a: b: c"]
    assert parse_value("[1e-1, 2]") == [0.1, 2]


def test_numbers_of_a_file_need_no_point(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "recipe: dsnet/sceneflow\nobjective: {volume: {weight: 1e-1}, output: {levels: [-2E+3, 1.5e0]}}"
    )
    objective = load_recipe(path).objective
    assert objective["volume"]["weight"] == 0.1
    assert objective["output"]["levels"] == [-2000.0, 1.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: [", "line 2: not YAML"),
        ("- a", "a recipe is a mapping"),
        ("seed: 1\nobjective:\n  a: {}\n  a: {}", "line 4: not YAML: 'a' stands there twice"),
        ("recipe: dsnet/scenflow", "there is no recipe 'dsnet/scenflow'; did you mean 'dsnet/sceneflow'"),
        ("recipe: dsnet/sceneflow\nladder: {rugs: {}}", "ladder has the field rungs"),
        ("task: stereo", "the recipe lacks the field 'student'"),
        ("chain: 3", "chain is a list of stages"),
    ],
)
def test_a_broken_file_has_one_line(tmp_path, text, message):
    path = tmp_path / "broken.yaml"
    path.write_text(text + "\n")
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_a_recipe_comes_through_a_pipe():
    read, write = os.pipe()
    os.write(write, b"{recipe: dsnet/sceneflow, seed: 5}")
    os.close(write)
    try:
        assert load_recipe(f"/dev/fd/{read}").seed == 5
    finally:
        os.close(read)


def test_a_recipe_that_leads_back_to_itself_is_refused(tmp_path):
    path = tmp_path / "circle.yaml"
    path.write_text(f"recipe: {path}\n")
    with pytest.raises(UserError, match="leads back to itself"):
        load_recipe(path)


def test_a_recipe_without_twin_says_so(tmp_path):
    path = tmp_path / "plain.yaml"
    path.write_text("student: {name: x}\n")
    with pytest.raises(UserError, match="has no twin"):
        load_recipe(path, twin=True)


def test_recipes_load_without_torch():
    code = (
        "import sys; from densedistill.recipes import load_recipe; load_recipe('dsnet/sceneflow', twin=True);"
        "sys.exit('torch' in sys.modules)"
    )
    source = str(Path(__file__).parents[2] / "src")
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": source}).returncode == 0
