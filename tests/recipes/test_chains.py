"""Chains of stages: what a stage may use, and what stands in their recipes."""

import pytest
import yaml

from densedistill.errors import UserError
from densedistill.recipes import load_recipe

CASCADES = ["tsnnet/cascade-sceneflow", "tsnnet/cascade-kitti", "tsnnet/cascade-drivingstereo"]


def stage(name, weights=None, teacher=None):
    fields = {"as": name, "student": {"name": "dsnet_slim", "weights": weights}}
    if teacher is not None:
        fields["teachers"] = {"teacher": {"name": "dsnet_slim", "weights": teacher}}
    return fields


def chain(*stages):
    return {
        "name": "mine",
        "data": {"train": {"name": "world"}},
        "objective": {"truth": {"loss": "l1", "of": "disparity", "to": "ground_truth"}},
        "schedule": {"steps": 1},
        "chain": list(stages),
    }


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            [stage("a"), stage("b", teacher="stage:c"), stage("c")],
            "stage 'b' uses the weights of stage 'c', which comes after it",
        ),
        (
            [stage("teacher"), stage("b", teacher="stage:techer")],
            "stage 'b' uses the weights of stage 'techer', but there is no earlier stage 'techer'; "
            "did you mean 'teacher'",
        ),
        ([stage("a", weights="stage:a")], "stage 'a' uses the weights of itself"),
        ([stage("a"), stage("a")], "two stages are called 'a'"),
    ],
)
def test_a_stage_uses_earlier_stages_alone(stages, message):
    with pytest.raises(UserError, match=message) as error:
        load_recipe(chain(*stages))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("twin", [False, True])
@pytest.mark.parametrize("name", CASCADES)
def test_every_cascade_hands_down_from_teacher_to_student_to_naive(name, twin):
    stages = load_recipe(name, twin=twin).recipes
    teacher, student, naive = list(stages)[-3:]
    assert (teacher, student, naive) == ("teacher", "student", "naive")
    names = [stages[key].student.name for key in (teacher, student, naive)]
    assert names == ["tsnnet_teacher", "tsnnet_student", "tsnnet_naive"]
    assert not stages[teacher].teachers
    for own, other in ((student, teacher), (naive, student)):
        taught = stages[own].teachers["teacher"]
        assert taught.weights == f"stage:{other}"
        assert taught.name == stages[other].student.name
        assert taught.options == stages[other].student.options
    published = {"volume": "mse", "detector": "mse", "weighted": "mse"}
    for own in (student, naive):
        terms = dict(stages[own].objective)
        assert terms.pop("ground_truth")["loss"] == "smooth_l1"
        assert {term: fields["loss"] for term, fields in terms.items()} == published
        assert all(fields.get("weight", 1) == 1 for fields in terms.values())
    assert stages[teacher].objective["ground_truth"]["levels"] == [0.5, 0.5, 0.7, 1.0]


def test_the_cascades_have_the_published_schedules():
    sceneflow, kitti = (load_recipe(name).recipes for name in CASCADES[:2])
    for stages, first, step, last in ((sceneflow, 130, 30, 600), (kitti, 1400, 400, 6000)):
        for recipe in stages.values():
            assert recipe.schedule.epochs == last
            assert recipe.schedule.milestones == list(range(first, last, step))
            assert (recipe.optimizer.name, recipe.optimizer.lr, recipe.optimizer.weight_decay) == (
                "adamw",
                1e-3,
                0.01,
            )
        assert [recipe.data.batch_size for recipe in stages.values()] == [30, 52, 52]
    starts = [recipe.student.weights for recipe in kitti.values()]
    assert all(start.startswith("runs/tsnnet-cascade-sceneflow/") for start in starts)


def test_the_twin_of_kitti_trains_on_scenes_and_then_on_others():
    stages = load_recipe("tsnnet/cascade-kitti", twin=True).recipes
    assert len(stages) == 6
    assert [recipe.student.weights for recipe in list(stages.values())[3:]] == [
        "stage:sceneflow-teacher",
        "stage:sceneflow-student",
        "stage:sceneflow-naive",
    ]


def test_a_rung_uses_the_rung_of_its_own_seed():
    stages = load_recipe("study/cascade").recipes
    for seed in (1, 2, 3):
        assert stages[f"cascade-seed{seed}"].teachers["teacher"].weights == f"stage:student-seed{seed}"
        assert stages[f"direct-seed{seed}"].teachers["teacher"].weights == "stage:teacher"
    fields = chain(stage("a"))
    fields["ladder"] = {
        "seeds": [1, 2],
        "rungs": {"b": {"student": {"name": "dsnet_slim", "weights": "stage:c"}}},
    }
    with pytest.raises(UserError, match="stage 'b-seed1' uses the weights of stage 'c'"):
        load_recipe(fields)


def test_on_is_a_word_in_a_recipe(tmp_path):
    path = tmp_path / "mine.yaml"
    fields = chain(stage("a"))
    fields["objective"]["truth"]["adapter"] = {"kind": "mean"}
    text = yaml.safe_dump(fields).replace("kind: mean", "on: teacher\n      kind: mean")
    path.write_text(text + "trainer: {compile: true}\n")
    recipe = load_recipe(path).recipes["a"]
    assert recipe.objective["truth"]["adapter"] == {"on": "teacher", "kind": "mean"}
    assert recipe.trainer.compile is True
