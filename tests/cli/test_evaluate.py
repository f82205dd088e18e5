"""`densedistill evaluate` and `benchmark`: what is told before anything is measured."""

import pytest

from densedistill.cli import main
from densedistill.cli.evaluate import _roots


@pytest.mark.parametrize(
    "verb", [["evaluate", "--data", "samples", "--json"], ["benchmark", "--json"], ["benchmark", "--html"]]
)
def test_a_file_that_cannot_be_written_is_told_before_the_measuring(verb, tmp_path, monkeypatch, capsys):
    for module in ("inference.evaluate", "deployment.benchmark"):
        monkeypatch.setattr(f"densedistill.{module}.{module.rpartition('.')[2]}", pytest.fail)
    assert main([*verb, str(tmp_path), "sgbm"]) == 2
    assert f"cannot write {tmp_path}: Is a directory" in capsys.readouterr().err


def test_a_root_may_have_an_equals_sign_in_its_name(tmp_path):
    (tmp_path / "size=half").mkdir()
    root = f"{tmp_path}/size=half"
    assert _roots([root]) == root
    assert _roots([f"eth3d={root}"]) == {"eth3d": root}
