import json

import pytest

from densedistill.errors import UserError
from densedistill.report import read_run, read_runs


def write_run(root, log=(), rows=(), recipe="task: stereo\n"):
    root.mkdir(parents=True)
    (root / "recipe.yaml").write_text(recipe)
    (root / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    (root / "metrics.json").write_text(json.dumps({"rows": list(rows)}))
    (root / "environment.json").write_text(json.dumps({"cpu": {"cores": 2}}))
    return root


def test_curves_are_read_where_both_axes_were_logged(tmp_path):
    log = [
        {"step": 1, "time": 0.5, "loss/total": 3.0},
        {"step": 2, "time": 1.5, "loss/total": 2.0, "validate/epe": 1.5},
        {"step": 3, "time": 2.5, "validate/epe": None},
    ]
    run = read_run(write_run(tmp_path / "a", log))
    assert run.name == "a"
    assert run.curve("loss/total") == ([1, 2], [3, 2])
    assert run.curve("validate/epe", against="time") == ([1.5], [1.5])
    assert run.keys("loss/") == ["loss/total"]
    assert run.environment == {"cpu": {"cores": 2}}


def test_the_half_written_last_line_of_a_killed_run_is_dropped(tmp_path):
    root = write_run(tmp_path / "a", [{"step": 1}])
    with open(root / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    assert read_run(root).log == [{"step": 1}]


def test_a_broken_line_is_named(tmp_path):
    root = write_run(tmp_path / "a")
    (root / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl', line 2: not JSON"):
        read_run(root)


@pytest.mark.parametrize("content", ['{"rows": 3}', '{"rows": [1]}', "[]", "{"])
def test_figures_of_another_form_are_refused_by_name(tmp_path, content):
    root = write_run(tmp_path / "a")
    (root / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=r"metrics\.json"):
        read_run(root)


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(UserError, match="there is no run directory"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a run directory"):
        read_run(tmp_path)


def test_a_run_that_was_stopped_early_can_be_read(tmp_path):
    (tmp_path / "recipe.yaml").write_text("task: stereo\n")
    run = read_run(tmp_path)
    assert (run.log, run.rows, run.environment) == ([], [], {})


def test_runs_of_one_name_are_told_apart_by_their_parents(tmp_path):
    roots = [write_run(tmp_path / parent / "student") for parent in ("first", "second")]
    other = write_run(tmp_path / "third")
    assert [run.name for run in read_runs([*roots, other])] == ["first/student", "second/student", "third"]
