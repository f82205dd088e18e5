"""Arguments that say something only beside another one."""

import pytest

from densedistill.cli import main

OF_OWN = ["predict", "sgbm", "--left", "l.png", "--right", "r.png", "--out", "out"]
SUBMISSION = ["predict", "sgbm", "--submission", "kitti2015", "--root", "data", "--out", "out"]


@pytest.mark.parametrize(
    ("line", "argument", "companion"),
    [
        (["benchmark", "sgbm"], ["--root", "data"], "--data"),
        (["benchmark", "sgbm"], ["--limit", "3"], "--data"),
        (["benchmark", "sgbm"], ["--limit", "0"], "--data"),
        (["export", "coex_slim", "--out", "a.onnx"], ["--data", "samples"], "--int8"),
        (["export", "coex_slim", "--out", "a.onnx", "--int8", "images"], ["--split", "test"], "--data"),
        (["label", "sgbm", "--frames", "frames", "--out", "out"], ["--option", "length=3"], "--data"),
        (["label", "sgbm", "--frames", "frames", "--out", "out"], ["--total", "3"], "--dry-run"),
        (OF_OWN, ["--data-option", "resolution=H"], "--submission"),
        (OF_OWN, ["--split", "test"], "--submission"),
        (SUBMISSION, ["--write", "png"], "images of your own"),
        (SUBMISSION, ["--right-next", "r.png"], "images of your own"),
    ],
)
def test_an_argument_without_what_it_is_for_is_not_ignored(line, argument, companion, capsys):
    assert main([*line, *argument]) == 2
    assert f"{argument[0]} is for {companion} alone" in capsys.readouterr().err
