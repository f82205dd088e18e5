import importlib
import re

import pytest
import torch
import toy
from safetensors.torch import load_file

from densedistill.errors import UserError
from densedistill.training import train
from densedistill.training.stages import stage_runs
from densedistill.verbs import distill, report

MODULE = importlib.import_module("densedistill.training.train")  # the package has a function of that name


def chain(**student):
    fields = toy.recipe()
    teacher = {"objective": {"features": None}, "teachers": {"teacher": None}, "schedule": {"steps": 5}}
    learner = {"teachers": {"teacher": {"weights": "stage:teacher"}}, "student": student}
    return {**fields, "chain": [{"as": "teacher", **teacher}, {"as": "student", **learner}]}


def test_a_chain_teaches_its_student_by_what_it_trained_before(tmp_path):
    run = distill(chain(), run=tmp_path / "run")
    teacher, student = stage_runs(run.recipe, run).values()
    assert load_file(run.student).keys() == load_file(student.student).keys()
    assert all(torch.equal(v, load_file(student.student)[k]) for k, v in load_file(run.student).items())
    assert "loss/features" not in teacher.history[-2] | teacher.history[-1]
    assert any("loss/features" in line for line in student.history)
    # The teacher in the table is the trained one: it does what its own last validation said.
    rows = {row["name"]: row for row in run.metrics["rows"]}
    said = [line["validate/epe"] for line in teacher.history if "validate/epe" in line][-1]
    assert rows["teacher"]["epe"] == pytest.approx(said, rel=1e-4)
    # One table with a row a stage, and what each of them took.
    assert list(rows) == ["teacher", "student"]
    page = (run.path / "report.html").read_text()
    assert "<img" in page
    assert re.search(r"<li>teacher: \S+, 5 steps in \d+\.\d minutes</li>", page)
    assert re.search(r"<li>student: \S+ taught by teacher, \d+ steps in", page)
    assert "Loss terms of 1-teacher" in page
    # Asked for again, it is the same page; nothing of it is lost.
    assert report([run.path]).read_text() == page


def test_a_rung_is_said_to_be_taught_by_the_teachers_that_its_terms_name(tmp_path):
    alone = {"objective": {"features": {"weight": 0}}, "teachers": {"teacher": {"weights": None}}}
    stages = {**chain(), "chain": None, "ladder": {"rungs": {"alone": alone, "helped": {}}}}
    run = distill({**stages, "schedule": {"steps": 1}}, run=tmp_path / "run")
    page = (run.path / "report.html").read_text()
    assert "<li>alone: toy:Tiny, 1 steps in" in page
    assert "<li>helped: toy:Tiny taught by toy:Tiny, 1 steps in" in page


def test_a_finished_stage_is_not_repeated(tmp_path, monkeypatch):
    fields = chain(dropout=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(MODULE, "_hand_over", _fail_on_second())
        with pytest.raises(RuntimeError):
            train(fields, run=tmp_path / "run")
    (tmp_path / "run" / "1-teacher" / "checkpoints" / "last.ckpt").unlink()  # would be needed to repeat it
    resumed = train(resume=tmp_path / "run")
    whole = train(fields, run=tmp_path / "whole")
    first, second = load_file(resumed.student), load_file(whole.student)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_finished_stage_stays_what_it_was_trained_by_when_a_chain_is_changed(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(MODULE, "_hand_over", _fail_on_second())
        with pytest.raises(RuntimeError):
            train(chain(), run=tmp_path / "run")
    changes = {"optimizer.weight_decay": 0.1, "data.validate.length": 1}
    capsys.readouterr()
    run = train(resume=tmp_path / "run", overrides=changes)
    assert re.findall(r"stage '(\w+)' is finished, and stays", capsys.readouterr().err) == ["teacher"]
    for said in (
        run.recipe.recipes,
        {name: stage.recipe for name, stage in stage_runs(run.recipe, run).items()},
    ):
        assert [stage.optimizer.weight_decay for stage in said.values()] == [0.0, 0.1]
    assert [stage.data.validate[0].options["length"] for stage in run.recipe.recipes.values()] == [1, 1]


def test_a_stage_alone_does_not_know_the_weights_of_another(tmp_path):
    run = train(chain(), run=tmp_path / "run")
    with pytest.raises(UserError, match=r"weights: 'stage:teacher' is another stage .*its whole run"):
        train(resume=stage_runs(run.recipe, run)["student"].path, overrides={"schedule.steps": 9})
    with pytest.raises(UserError, match="this is one stage alone"):
        train(toy.recipe(student__weights="stage:teacher"), run=tmp_path / "single")
    assert not (tmp_path / "single").exists()


def _fail_on_second():
    calls, real = [], MODULE._hand_over

    def hand_over(module, run):
        calls.append(run)
        if len(calls) == 2:
            raise RuntimeError("power cut")
        real(module, run)

    return hand_over


def test_a_stage_starts_from_the_weights_of_an_earlier_one(tmp_path):
    fields = toy.recipe(objective={"ground_truth": toy.recipe()["objective"]["ground_truth"]})
    fields["chain"] = [
        {"as": "first", "schedule": {"steps": 5}},
        {"as": "second", "student": {"weights": "stage:first"}, "optimizer": {"lr": 0.0}},
    ]
    run = train(fields, run=tmp_path / "run")
    first, second = (load_file(stage.student) for stage in stage_runs(run.recipe, run).values())
    assert torch.equal(first["head.weight"], second["head.weight"])


def test_stages_that_cannot_be_compared_are_refused_before_the_first_is_trained(tmp_path):
    truth = {"truth": {"loss": "l1", "of": "disparity", "to": "ground_truth"}}
    volume = {"volume": {"loss": "mse", "of": "volume", "to": "teacher"}}
    teacher = {"name": "dsnet_slim", "max_disparity": 16}
    fields = {
        "student": teacher,
        "data": {"train": {"name": "world", "length": 2, "size": [32, 64]}},
        "objective": truth,
        "schedule": {"steps": 1},
        "chain": [
            {"as": "first"},
            {
                "as": "second",
                "student": {"name": "tsnnet_naive", "max_disparity": 16},
                "teachers": {"teacher": {**teacher, "weights": "stage:first"}},
                "objective": volume,
            },
        ],
    }
    with pytest.raises(
        UserError, match=r"stage 'second': objective.volume: .* give the term an adapter"
    ) as error:
        train(fields, run=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_ladder_trains_each_rung_for_each_seed_and_compares_them(tmp_path):
    fields = toy.recipe(schedule__steps=3)
    rungs = {"alone": {"objective": {"features": None}}, "taught": {}}
    run = distill({**fields, "ladder": {"rungs": rungs, "seeds": [1, 2]}}, run=tmp_path / "run")
    names = [row["name"] for row in run.metrics["rows"]]
    assert names == ["alone-seed1", "alone-seed2", "taught-seed1", "taught-seed2", "teacher"]
    assert [stage.seed for stage in run.recipe.recipes.values()] == [1, 2, 1, 2]


def test_a_stage_that_does_not_come_before_is_refused(tmp_path):
    fields = toy.recipe()
    fields["chain"] = [{"as": "student", "student": {"weights": "stage:techer"}}, {"as": "teacher"}]
    with pytest.raises(UserError, match="there is no earlier stage 'techer'"):
        train(fields, run=tmp_path / "run")
