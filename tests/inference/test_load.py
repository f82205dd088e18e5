"""What a caller names as a network is found, or one line says what it is instead."""

from __future__ import annotations

import pytest

import densedistill as dd
from densedistill.deployment.benchmark import benchmark
from densedistill.errors import UserError
from densedistill.inference.load import load_predictor, load_predictors, run_label, task_of_network
from densedistill.networks.published import save_weights


@pytest.mark.parametrize("call", [load_predictor, task_of_network])
def test_a_path_that_is_neither_run_nor_exported_file_is_told_what_it_is(tmp_path, call):
    weights = tmp_path / "student.safetensors"
    weights.write_bytes(b"")
    for name, words in (
        (str(tmp_path), rf"{tmp_path} is no run: there is no recipe\.yaml in it"),
        (str(weights), rf"weights are named after their network: NETWORK={weights}"),
        (str(tmp_path / "missing"), "there is no network '.*missing'"),
        ("", "there is no network ''"),
    ):
        with pytest.raises(UserError, match=words):
            call(name)


def test_networks_of_one_name_are_told_apart_by_where_they_come_from(tmp_path):
    given = []
    for run in ("first", "second"):
        path = tmp_path / run / "student.safetensors"
        path.parent.mkdir()
        save_weights(dd.create_model("dsnet_slim", max_disparity=64), path)
        given.append(f"dsnet_slim={path}")
    assert list(load_predictors(given)) == ["first/student.safetensors", "second/student.safetensors"]
    assert list(load_predictors([*given[:1], "sgbm"])) == ["dsnet_slim", "sgbm"]
    assert list(load_predictors(["coex_slim=fine", "coex_slim@2=fine"])) == [
        "coex_slim=fine",
        "coex_slim@2=fine",
    ]
    twice = load_predictors([given[0], given[0]])
    assert list(twice) == ["first/student.safetensors", "first/student.safetensors #2"]


def test_a_search_range_of_nothing_is_not_the_networks_own():
    with pytest.raises(UserError, match="max_disparity of this network is a multiple of 16, got 0"):
        load_predictor("coex_slim", max_disparity=0)


@pytest.fixture
def runs(tmp_path):
    """The directory that holds two finished runs, `first` and `second`, of one network."""
    for name in ("first", "second"):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        save_weights(dd.create_model("dsnet_slim", max_disparity=64), run / "student.safetensors")
        (run / "recipe.yaml").write_text(
            "task: stereo\nstudent: {name: dsnet_slim, max_disparity: 64}\n"
            "data: {train: {name: world, length: 2}, batch_size: 2}\n"
            "objective: {g: {loss: smooth_l1, of: disparity, to: ground_truth}}\nschedule: {steps: 1}\n"
        )
    return tmp_path / "runs"


def test_a_run_is_called_by_its_directory(runs):
    """Not by its network's name, which the weights that ship bear, too."""
    assert list(load_predictors(runs / "first")) == ["runs/first"]
    given = [f"{runs}/first@2", str(runs / "second"), "dsnet_slim"]
    assert list(load_predictors(given)) == ["runs/first@2", "runs/second", "dsnet_slim"]
    assert list(load_predictors({"mine": runs / "first"})) == ["mine"]
    rows = benchmark([*given, "dsnet_slim@2"], size=(32, 64), rounds=1, memory=False, max_disparity=64).rows
    assert [row.name for row in rows] == [*list(load_predictors(given)), "dsnet_slim@2"]


def test_an_exported_file_with_an_at_in_its_name_is_no_run():
    assert run_label("runs/student@2.onnx") is None


def test_a_search_range_of_what_predicts_no_disparity_is_refused():
    for call in (load_predictor, load_predictors):
        with pytest.raises(UserError, match="task depth predicts no disparity; leave max_disparity out"):
            call("depth_slim", max_disparity=64)
    with pytest.raises(UserError, match="task depth predicts no disparity; leave max_disparity out"):
        benchmark("depth_slim", size=(32, 64), max_disparity=64)
