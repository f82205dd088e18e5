"""The table and the legends."""

import pytest

from densedistill.app.panel import Panel
from densedistill.app.words import legend, table


def test_the_table_names_networks_safely_and_marks_the_best(fake):
    panel = Panel({"<i>": fake("stereo", 30), "worse": fake("stereo", 0.5)})
    cones = next(one for one in panel.examples if one.name == "Cones")
    html = table(panel, panel.answer(cones.files))
    assert "&lt;i&gt;" in html
    assert "<i>" not in html
    first, second = html.split("<tr>")[2:]
    assert "<b>" in first
    assert "<b>" not in second
    assert "no limit on disparity" in html


@pytest.mark.parametrize(
    ("task", "key", "words"),
    [
        ("stereo", "disparity", ["8.0 px", "9.0 px", "linear-gradient"]),
        ("depth", "depth", ["2.0 m", "3.0 m"]),
        ("sceneflow", "flow", ["data:image/png;base64,", "5 px at the rim"]),
        ("segmentation", "logits", ["road", "car", "rgb("]),
        ("detection", "boxes", ["score of 0.3"]),
    ],
)
def test_a_legend_says_what_colours_mean(task, key, words, fake, images):
    panel = Panel({"net": fake(task)})
    html = legend(panel.task, key, panel.answer(images(task)))
    assert all(word in html for word in words), html
    assert "error" not in html


def test_with_a_calibration_a_disparity_is_a_distance(fake, images):
    panel = Panel({"net": fake("stereo", 8)})
    found = panel.answer(images("stereo"), focal=100, baseline=0.4)
    assert "8.0 px (5.00 m)" in legend(panel.task, "disparity", found)
