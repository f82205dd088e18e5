"""`densedistill evaluate` and `benchmark`: what is told before anything is measured."""

import pytest

from densedistill.cli import main


@pytest.mark.parametrize(
    "verb", [["evaluate", "--data", "samples", "--json"], ["benchmark", "--json"], ["benchmark", "--html"]]
)
def test_a_file_that_cannot_be_written_is_told_before_the_measuring(verb, tmp_path, monkeypatch, capsys):
    for module in ("inference.evaluate", "deployment.benchmark"):
        monkeypatch.setattr(f"densedistill.{module}.{module.rpartition('.')[2]}", pytest.fail)
    assert main([*verb, str(tmp_path), "sgbm"]) == 2
    assert f"cannot write {tmp_path}: Is a directory" in capsys.readouterr().err
