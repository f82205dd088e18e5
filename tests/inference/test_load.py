"""What a caller names as a network is found, or one line says what it is instead."""

from __future__ import annotations

import pytest

from densedistill.errors import UserError
from densedistill.inference.load import load_predictor, task_of_network


@pytest.mark.parametrize("call", [load_predictor, task_of_network])
def test_a_path_that_is_neither_run_nor_exported_file_is_told_what_it_is(tmp_path, call):
    weights = tmp_path / "student.safetensors"
    weights.write_bytes(b"")
    for name, words in (
        (str(tmp_path), rf"{tmp_path} is no run: there is no recipe\.yaml in it"),
        (str(weights), rf"weights are named after their network: NETWORK={weights}"),
        (str(tmp_path / "missing"), "there is no network '.*missing'"),
        ("", "there is no network ''"),
    ):
        with pytest.raises(UserError, match=words):
            call(name)
