"""`densedistill export`: what of its flags reaches `export` and `quantise`."""

import importlib
import types
from pathlib import Path

import pytest

from densedistill.cli import main


@pytest.mark.parametrize("verb", ["export", "quantise"])
@pytest.mark.parametrize("tolerance", [None, 0.5])
def test_a_tolerance_is_passed_on_where_one_is_given(verb, tolerance, tmp_path, monkeypatch, capsys):
    asked = {}

    def write(network, path, *images, on_progress, **options):
        Path(path).write_bytes(bytes(1_230_000))
        asked.update(options)
        return types.SimpleNamespace(difference=0.0, kept=("a", "b"), evaluation=None)

    monkeypatch.setattr(importlib.import_module(f"densedistill.deployment.{verb}"), verb, write)
    command = ["export", "dsnet_slim", "--out", str(tmp_path / "a.onnx"), "--batch", "2"]
    command += ["--int8", "frames"] if verb == "quantise" else ["--weights", "float16"]
    command += [] if tolerance is None else ["--tolerance", str(tolerance)]
    assert main(command) == 0
    assert (asked["batch"], asked.get("limit")) == (2, tolerance)
    assert asked.get("weights") == ("float16" if verb == "export" else None)
    said = capsys.readouterr().out
    assert f"wrote {tmp_path}/a.onnx (1.23 MB)" in said
    assert ("in float32 as before: 2 operations" in said) == (verb == "quantise")
