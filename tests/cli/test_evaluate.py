"""`densedistill evaluate`, `benchmark` and `export`: what is told before anything is measured."""

import numpy as np
import pytest

from densedistill.cli import main
from densedistill.cli.evaluate import _roots
from densedistill.data import formats


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


@pytest.mark.parametrize("verb", [["evaluate"], ["benchmark", "--no-memory"], ["export", "--int8", "pairs"]])
def test_labelled_data_takes_its_options_in_every_verb(verb, tmp_path, monkeypatch, capsys):
    for side in ("left", "right"):
        formats.write_image(tmp_path / "pairs" / side / "a.png", np.zeros((32, 32, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    out = ["--out", "a.onnx"] if verb[0] == "export" else []
    data = ["--data", "folder", "--root", "pairs", "--data-option", "disparity=gone"]
    assert main([*verb, "coex_slim", *out, *data]) == 2
    assert "there is no folder pairs/gone" in capsys.readouterr().err
