import pytest
import toy

from densedistill.errors import UserError
from densedistill.recipes import load_recipe
from densedistill.training.run import Run, choose_directory


def test_a_line_that_a_killed_run_wrote_half_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    run = Run(tmp_path)
    assert [line["step"] for line in run.history] == [1, 2]
    run.forget_after(1)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


@pytest.mark.parametrize(
    ("file", "begun"),
    [
        ("metrics.jsonl", True),
        ("checkpoints/last.ckpt", True),
        ("1-teacher/student.safetensors", True),
        ("environment.json", False),
    ],
)
def test_a_run_is_begun_when_it_holds_what_another_would_overwrite(tmp_path, file, begun):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert Run(tmp_path).begun == begun


def test_processes_that_were_started_together_are_told_their_directory(monkeypatch):
    recipe = load_recipe(toy.recipe())
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match="several processes need one directory: name it with --run"):
        choose_directory(recipe, twin=False)
    monkeypatch.setenv("DENSEDISTILL_RUN", "elsewhere")
    assert str(choose_directory(recipe, twin=False)) == "elsewhere"
