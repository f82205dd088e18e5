"""What a caller names as a network is found, or one line says what it is instead."""

from __future__ import annotations

import pytest
import torch
import yaml

import densedistill as dd
from densedistill.data import collate
from densedistill.deployment.benchmark import benchmark
from densedistill.distillation.teachers import create_teacher
from densedistill.errors import UserError
from densedistill.inference import load
from densedistill.inference.load import load_predictor, load_predictors, run_label, task_of_network
from densedistill.networks import InputSpec
from densedistill.networks.published import count_classes, save_weights
from densedistill.runtimes import Card


@pytest.mark.parametrize("call", [load_predictor, task_of_network])
def test_a_path_that_is_neither_run_nor_exported_file_is_told_what_it_is(tmp_path, call):
    weights = tmp_path / "student.safetensors"
    weights.write_bytes(b"")
    for name, words in (
        (str(tmp_path), rf"{tmp_path} is no run: there is no recipe\.yaml in it"),
        (str(weights), rf"weights are named after their network: NETWORK={weights}"),
        (f"{weights}.onnx=w", r"safetensors\.onnx has its weights inside; name it alone"),
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


def test_a_run_teaches_what_it_predicts(runs):
    teacher = create_teacher(str(runs / "first"))
    pair = collate([dd.create_dataset("world", length=1, size=[32, 64], max_disparity=32)[0]])
    predicted = load_predictor(runs / "first")(pair["left"], pair["right"])
    torch.testing.assert_close(teacher(pair)["disparity"], predicted["disparity"], atol=1e-3, rtol=1e-3)
    assert create_teacher(str(runs / "first"), max_disparity=96).max_disparity == 96
    (runs / "first" / "student.safetensors").unlink()
    with pytest.raises(UserError, match="first is not finished"):
        create_teacher(str(runs / "first"))


def test_of_a_chain_the_last_student_is_meant(runs):
    file = runs / "first" / "recipe.yaml"
    stage = yaml.safe_load(file.read_text())
    stages = [
        {"as": f"r{reach}", **stage, "student": {"name": "dsnet_slim", "max_disparity": reach}}
        for reach in (96, 64)
    ]
    file.write_text(yaml.safe_dump({"chain": stages}))
    assert load_predictor(runs / "first").net.max_disparity == 64
    file.write_text(yaml.safe_dump({"ladder": {"rungs": {"a": stage, "b": stage}}}))
    with pytest.raises(UserError, match="first is a ladder of several trainings; name the folder of one"):
        load_predictor(runs / "first")


def test_a_run_searches_as_far_as_is_asked_in_pixels_of_the_image(runs):
    assert load_predictor(runs / "first").net.max_disparity == 64
    assert load_predictor(runs / "first", max_disparity=128).net.max_disparity == 128
    assert load_predictor(f"{runs}/first@2", max_disparity=128).net.max_disparity == 256


def test_the_scale_that_a_runs_weights_were_made_with_is_kept(runs):
    student = dd.create_model("dsnet_slim", max_disparity=32, scale=0.5)
    save_weights(student, runs / "first" / "student.safetensors")
    assert load_predictor(runs / "first").input_spec.scale == 0.5
    assert load_predictor(f"{runs}/first@3").input_spec.scale == 1.5


def test_the_directory_of_a_run_may_have_any_letters_in_its_name(runs):
    run = (runs / "first").rename(runs / "lr=0.1@a")
    assert load_predictor(f"{run}@3").input_spec.scale == 3
    assert load_predictor(f"dsnet_slim@3={run}/student.safetensors").input_spec.scale == 3


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """A file that stands for one exported to search 96 px."""
    card = Card("net", "stereo", ("left", "right"), ("disparity",), InputSpec(), max_disparity=96)
    monkeypatch.setattr(load, "read_card", lambda path: card)
    monkeypatch.setattr(load, "load_runtime", lambda *given, **options: torch.nn.Identity())
    (tmp_path / "net.onnx").touch()
    return tmp_path / "net.onnx"


def test_an_exported_file_that_is_asked_to_search_farther_than_it_can_refuses(exported):
    load_predictor(exported, max_disparity=96)
    with pytest.raises(UserError, match=r"net\.onnx was exported to search 96 px, not 128; export .* again"):
        load_predictor(exported, max_disparity=128)
    assert load_predictors([exported, "sgbm"], max_disparity=128)["sgbm"].max_disparity == 128


@pytest.mark.parametrize("name", ["espnet_c", "fcos_mnv2_c128"])
def test_the_number_of_classes_is_read_off_a_file_that_does_not_say_it(name, tmp_path):
    entries = dd.create_model(name, classes=7).state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in entries.items()}}, tmp_path / "a.pth")
    assert load_predictor(f"{name}={tmp_path / 'a.pth'}").net.classes == 7
    torch.save({"other": torch.zeros(7)}, tmp_path / "b.pth")
    assert count_classes(name, tmp_path / "b.pth", {}) is None


def test_an_exported_file_with_an_at_in_its_name_is_no_run():
    assert run_label("runs/student@2.onnx") is None


def test_a_search_range_of_what_predicts_no_disparity_is_refused():
    for call in (load_predictor, load_predictors):
        with pytest.raises(UserError, match="task depth predicts no disparity; leave max_disparity out"):
            call("depth_slim", max_disparity=64)
    with pytest.raises(UserError, match="task depth predicts no disparity; leave max_disparity out"):
        benchmark("depth_slim", size=(32, 64), max_disparity=64)
