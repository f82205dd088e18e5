"""`densedistill label`: how a teacher is named."""

import pytest

from densedistill.cli.label import _teacher
from densedistill.errors import UserError


def test_a_teachers_file_is_read_as_a_recipe_is(tmp_path):
    file = tmp_path / "teacher.yaml"
    file.write_text("name: ensemble\nthreshold: 1e-1\nreduce: on\n")
    assert _teacher(str(file), {"reduce": "mean"}) == {"name": "ensemble", "threshold": 0.1, "reduce": "mean"}
    assert _teacher(str(file), {})["reduce"] == "on"
    for text, message in (
        ("name: [", "not YAML"),
        ("reduce: mean", "describes no teacher"),
        (None, "cannot read"),
    ):
        file.unlink() if text is None else file.write_text(text)
        with pytest.raises(UserError, match=message):
            _teacher(str(file), {})


def test_a_network_answers_with_the_weights_that_ship_where_none_are_named():
    assert _teacher("gwcnet_slim", {}) == {"name": "gwcnet_slim", "weights": "shipped"}
    assert _teacher("gwcnet_slim=a.ckpt", {}) == {"name": "gwcnet_slim", "weights": "a.ckpt"}
    assert _teacher("lr=0.1/student.onnx", {}) == {"name": "lr=0.1/student.onnx"}
    assert _teacher("sgbm", {"max_disparity": 64}) == {"name": "sgbm", "max_disparity": 64}
    with pytest.raises(UserError, match="no weights ship for network 'gwcnet_g', so name a file"):
        _teacher("gwcnet_g", {})
