"""The table and the legends."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from densedistill.app.panel import Answer, Comparison, Panel
from densedistill.app.words import legend, table
from densedistill.tasks import get_task


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


def test_the_table_has_milliseconds_and_millions_and_the_most_is_best_where_more_is_better(fake):
    panel = Panel({"net": fake("segmentation")})
    answers = {
        name: Answer(0.1234, "float32", 2_500_000, {}, figures={"miou": share})
        for name, share in (("a", 0.5), ("b", 0.75))
    }
    html = table(panel, Comparison((40, 64), answers))
    assert html.count("<td>123</td><td>2.50</td>") == 2
    assert re.findall("<b>([^<]*)</b>", html) == ["75.00"]
    del answers["b"]
    assert "<b>" not in table(panel, Comparison((40, 64), answers))


def test_classes_have_the_colours_of_the_pictures(fake, images):
    task = get_task("segmentation")
    found = Panel({"net": fake("segmentation")}).answer(images("segmentation"))
    picture = task.colours["logits"](found.answers["net"].outputs["logits"], None, 0, 1)
    colours = re.findall(r"rgb\((\d+),(\d+),(\d+)\)", legend(task, "logits", found))
    assert [tuple(map(int, colour)) for colour in colours] == [tuple(picture[0, x].tolist()) for x in (0, -1)]


def test_a_wheel_has_at_its_rim_the_colours_of_the_pictures(fake, images):
    task = get_task("sceneflow")
    found = Panel({"net": fake("sceneflow")}).answer(images("sceneflow"))
    source = re.search('base64,([^"]*)', legend(task, "flow", found))[1]
    wheel = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))
    for x, y in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        high = found.ranges["flow"][1]
        flow = np.array([x * high, y * high]).reshape(2, 1, 1)
        colour = task.colours["flow"](flow, np.ones((1, 1), bool), 0.0, high)[0, 0]
        assert wheel[33 + 33 * y, 33 + 33 * x].tolist() == [*colour, 255]
    assert wheel[0, 0, 3] == 0


def test_errors_are_explained_where_there_are_some(fake):
    panel = Panel({"net": fake("stereo")})
    found = panel.answer(next(one for one in panel.examples if one.name == "Cones").files)
    assert "error below: blue is right" in legend(panel.task, "disparity", found)


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
