"""The last evaluation of a run."""

import pytest
import toy
import yaml

import densedistill as dd
from densedistill import cli
from densedistill.training import train
from densedistill.training.final import finish
from densedistill.training.run import Run


def names(run):
    return [row["name"] for row in run.metrics["rows"]]


def test_what_is_trained_is_evaluated_as_its_last_validation_did_without_its_teachers(tmp_path):
    run = dd.train(toy.recipe(), run=tmp_path / "run")
    said = [line["validate/epe"] for line in run.history if "validate/epe" in line][-1]
    assert names(run) == ["student"]
    assert run.metrics["rows"][0]["epe"] == pytest.approx(said, rel=1e-4)
    assert names(dd.distill(resume=run.path)) == ["student", "teacher"]


def test_a_teacher_that_no_term_learns_from_is_neither_wanted_nor_evaluated(tmp_path, capsys):
    unused = {"name": "dsnet_slim", "weights": "gone.safetensors"}
    fields = toy.recipe(schedule__steps=1, teachers__unused=unused)
    fields["objective"]["volume"] = {"loss": "cosine", "of": "features", "to": "unused", "weight": 0}
    assert names(dd.distill(fields, run=tmp_path / "run")) == ["student", "teacher"]
    fields["teachers"]["unused"] = {"name": "dsnet_slim"}
    dd.train(fields, run=tmp_path / "other")
    assert "at random" not in capsys.readouterr().err


def test_figures_that_cannot_be_written_are_told_before_the_evaluation(tmp_path, monkeypatch):
    run = train(toy.recipe(schedule__steps=1), run=tmp_path / "run")
    monkeypatch.setattr("densedistill.training.final.evaluate", lambda *_, **__: pytest.fail("evaluated"))
    (run.path / "metrics.json").mkdir()
    with pytest.raises(dd.UserError, match=r"cannot write .*metrics\.json: Is a directory"):
        dd.train(resume=run.path)


def test_images_in_floats_are_lit_anew_logged_and_shown_as_in_bytes(tmp_path):
    """Of a data set of one's own: the page that was to end a training ended it in a traceback."""
    fields = toy.recipe(schedule__steps=1, data__augment={"noise": 5.0, "brightness": [0.8, 1.2]})
    told = []
    for name in ("toy:Dots", "toy:Floats"):
        fields["data"]["train"]["name"] = fields["data"]["validate"]["name"] = name
        run = dd.distill(fields, run=tmp_path / name)
        assert "<img" in (run.path / "report.html").read_text()
        told.append(run.history[0]["loss/ground_truth"])
    assert told[0] == told[1]


def test_figures_stay_until_the_recipe_changes(tmp_path):
    run = dd.distill(toy.recipe(schedule__steps=2), run=tmp_path / "run")
    before = run.metrics
    assert dd.train(resume=run.path).metrics == before
    assert dd.train(resume=run.path, overrides={"data.validate.length": 1}).metrics["rows"][0]["images"] == 1


def test_figures_of_a_run_that_goes_on_are_not_those_of_before(tmp_path):
    run = dd.train(toy.recipe(schedule__steps=2), run=tmp_path / "run")
    before = run.metrics
    assert train(resume=run.path, overrides={"schedule.steps": 4}).metrics == {}
    assert dd.train(resume=run.path).metrics != before


def test_a_chain_that_is_trained_has_a_row_for_each_stage_alone(tmp_path):
    alone = {"objective": {"features": None}, "teachers": {"teacher": None}}
    fields = {**toy.recipe(schedule__steps=2), "chain": [{"as": "first", **alone}, {"as": "second"}]}
    assert names(dd.train(fields, run=tmp_path / "run")) == ["first", "second"]


def test_without_validation_data_there_are_no_figures(tmp_path):
    fields = toy.recipe(schedule__steps=1)
    del fields["data"]["validate"]
    run = dd.train(fields, run=tmp_path / "run")
    assert finish(run) is None
    assert run.metrics == {}


def test_a_report_has_a_row_for_each_run_that_train_made(tmp_path, capsys):
    for seed in "12":
        assert cli.main(["train", recipe_file(tmp_path), "--run", str(tmp_path / seed), "--seed", seed]) == 0
        said = capsys.readouterr().out
        assert "student" in said
        assert f"wrote {tmp_path / seed / 'metrics.json'}" in said
    page = str(tmp_path / "page.html")
    assert cli.main(["report", str(tmp_path / "1"), str(tmp_path / "2"), "--out", page]) == 0
    text = (tmp_path / "page.html").read_text()
    for seed in "12":
        assert f"{Run(tmp_path / seed).metrics['rows'][0]['epe']:.3f}</td>" in text


def recipe_file(folder):
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(toy.recipe(schedule__steps=1)))
    return str(path)
