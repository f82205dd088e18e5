"""The whole way of a task with a single image: train, resume, validate, evaluate, predict, report."""

import json

import cv2
import numpy as np
import pytest
import small
import torch

import densedistill as dd
from densedistill import cli
from densedistill.data import formats
from densedistill.errors import DataWarning
from densedistill.inference.evaluate import evaluate
from densedistill.inference.load import load_predictor
from densedistill.inference.predict import predict
from densedistill.metrics import metric_info
from densedistill.networks.registry import class_names
from densedistill.report import write_report
from densedistill.tasks import get_task
from densedistill.training import train


@pytest.fixture(params=["segmentation", "depth"])
def task(request):
    return get_task(request.param)


@pytest.fixture
def run(task, tmp_path):
    return dd.distill(small.recipe(task.name), run=tmp_path / "run")


def test_a_run_is_trained_validated_evaluated_and_reported(task, run):
    first = task.metrics[0]
    figures = [line[f"validate/{first}"] for line in run.history if f"validate/{first}" in line]
    assert len(figures) == 3
    row = run.metrics["rows"][0]
    better = max if metric_info(first).larger_is_better else min
    assert row[first] == pytest.approx(better(figures), rel=1e-4)  # select: best
    assert run.metrics["task"] == task.name
    page = (run.path / "report.html").read_text()
    assert metric_info(first).title in page
    assert "disparity" not in page
    assert "world, sample 1" in page
    assert "<img" in page
    assert cli.main(["report", str(run.path)]) == 0
    assert (run.path / "report.html").read_text() == page
    run.student.unlink()  # what pictures need
    with pytest.warns(DataWarning, match="the report has no pictures"):
        assert cli.main(["report", str(run.path)]) == 0
    assert metric_info(first).title in (run.path / "report.html").read_text()


def test_a_student_keeps_the_names_of_the_classes_it_was_taught(task, run):
    names = dd.create_dataset("world", task="segmentation").classes if task.name == "segmentation" else ()
    assert load_predictor(run.path).classes == names


@pytest.mark.parametrize(("classes", "kept"), [(10, True), (19, False)])
def test_names_are_kept_by_a_network_that_tells_as_many_classes_apart(tmp_path, classes, kept):
    changes = {
        "student__name": "espnet_c",
        "student__options": {"classes": classes},
        "data__train__crop": None,
    }
    fields = small.recipe("segmentation", **changes, schedule__steps=1, trainer__select="last")
    fields["data"]["train"] |= {"size": [64, 96], "augment": "none", "scale": [0, 0]}
    fields["objective"]["ground_truth"] |= {"loss": "cross_entropy"}
    del fields["data"]["validate"]
    run = train(fields, run=tmp_path / "run")
    network = dd.create_model("espnet_c", weights=str(run.student))
    assert bool(class_names(network)) == kept
    dd.export(network, tmp_path / "net.onnx", size=(64, 96))
    assert dd.load_runtime(tmp_path / "net.onnx").classes == class_names(network)


def test_a_resumed_run_ends_with_the_same_weights(task, run, tmp_path):
    short = train(small.recipe(task.name, schedule__steps=2), run=tmp_path / "short")
    short.student.unlink()
    resumed = train(resume=short.path, overrides={"schedule.steps": 3})
    from safetensors.torch import load_file

    expected, found = load_file(run.student), load_file(resumed.student)
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_files_are_written_for_images_and_for_a_video(task, run, tmp_path):
    images = [dd.create_dataset("world", size=[30, 44], seed=s)[0]["left"] for s in (0, 1)]
    (tmp_path / "in").mkdir()
    for number, image in enumerate(images):
        formats.write_image(tmp_path / "in" / f"{number}.png", image.permute(1, 2, 0).numpy())
    calibration = dd.create_dataset("world", size=[30, 44])[0]["meta"]["calibration"]
    kinds = list(task.writers)
    found = predict(run.path, tmp_path / "in", tmp_path / "out", write=kinds, calibration=calibration)
    assert len(found.written) == 2 * len(kinds)
    assert (
        predict(run.path, tmp_path / "in", tmp_path / "out", write=kinds, calibration=calibration).skipped
        == 2
    )
    stored = np.load(tmp_path / "out" / "0.npy")
    assert stored.shape[-2:] == (30, 44)
    video = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (44, 30))
    for image in images:
        video.write(np.ascontiguousarray(image.permute(1, 2, 0).numpy()[..., ::-1]))
    video.release()
    found = predict(run.path, tmp_path / "film.avi", tmp_path / "frames", write=["npy"])
    assert [path.name for path in found.written] == ["film_000000.npy", "film_000001.npy"]


def test_two_runs_stand_in_one_report_the_larger_figure_being_best_where_larger_is_better(
    task, run, tmp_path
):
    world = dd.create_dataset("world", size=[30, 44], length=2, task=task.name)
    net = dd.create_model(f"small:{type(dd.Predictor(_network(run)).net).__name__}")
    found = evaluate({"a": net, "b": run.path}, world)
    first = task.metrics[0]
    best = (max if metric_info(first).larger_is_better else min)(found.rows, key=lambda row: row[first])
    page = write_report([run.path], tmp_path / "page.html", rows=found.rows).read_text()
    assert f"{best['name']} has" in page
    assert json.loads(found.write_json(tmp_path / "out.json").read_text())["task"] == task.name


def _network(run):
    return dd.create_model(run.recipe.student.name, weights=str(run.student))
