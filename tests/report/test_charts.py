import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from densedistill.report.charts import (
    Series,
    dot_chart,
    line_chart,
    linear_ticks,
    log_ticks,
    number,
    standalone,
    thin,
)

values = st.floats(-1e6, 1e6, allow_nan=False).map(lambda v: round(v, 4))


@given(values, st.floats(1e-3, 1e6))
def test_linear_ticks_are_round_numbers_inside_the_range(low, span):
    ticks = linear_ticks(low, low + span)
    assert 2 <= len(ticks) <= 11
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    steps = {round((b - a) / 10 ** math.floor(math.log10(b - a) + 1e-6), 3) for a, b in pairwise(ticks)}
    assert steps <= {1.0, 2.0, 5.0}


def test_log_ticks_are_one_two_five_and_powers_alone_when_many():
    assert log_ticks(0.9, 60) == [1, 2, 5, 10, 20, 50]
    assert log_ticks(1e-4, 1e4) == [10.0**e for e in range(-4, 5)]


@pytest.mark.parametrize(
    ("value", "text"), [(0.00012, "0.00012"), (1234, "1234"), (12345, "12.3k"), (2.5e6, "2.5M"), (3e9, "3G")]
)
def test_numbers_are_written_briefly(value, text):
    assert number(value) == text


@given(st.lists(st.floats(0, 1e3), min_size=161, max_size=900))
@example([1.0] * 320)
def test_thinning_keeps_order_range_and_the_mean(ys):
    xs, thinned = thin(range(len(ys)), ys)
    assert len(xs) == len(thinned) == 160
    assert xs == sorted(xs)
    assert min(ys) - 1e-9 <= min(thinned)
    assert max(thinned) <= max(ys) + 1e-9
    if len(ys) == 320:
        assert xs[:2] == [0.5, 2.5]
    if len(ys) % 160 == 0:
        assert sum(thinned) / 160 == pytest.approx(sum(ys) / len(ys))


@given(st.lists(st.tuples(values, values), min_size=1, max_size=30))
def test_lines_stay_inside_the_drawing(points):
    chart = line_chart(
        [Series("run", [x for x, _ in points], [y for _, y in points])], "title", "steps", "px"
    )
    drawn = re.search(r'points="([^"]*)"', chart)[1].split()
    for x, y in (map(float, point.split(",")) for point in drawn):
        assert 52 <= x <= 560
        assert 12 <= y <= 262


def test_what_is_later_stands_further_right_and_what_is_more_higher():
    chart = line_chart([Series("run", [0, 1, 4], [1.0, 2.0, 3.0])], "t", "x", "y")
    drawn = re.search(r'points="([^"]*)"', chart)[1].split()
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in drawn)
    assert x2 - x0 == pytest.approx(4 * (x1 - x0), abs=0.5)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.5)
    assert y0 > y1


def test_dots_stand_over_zero_and_a_decade_is_a_decade_anywhere():
    dots = [Series("a", [1.0], [1.0]), Series("b", [10.0], [4.0]), Series("c", [100.0], [2.0])]
    chart = dot_chart(dots, "t", "x", "y")
    xs, ys = ([float(v) for v in re.findall(rf'c{axis}="([\d.]+)"', chart)] for axis in "xy")
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.5)
    a, b, c = (300 - 38 - y for y in ys)
    assert b == pytest.approx(4 * a, abs=0.5)
    assert c == pytest.approx(2 * a, abs=0.5)


def test_dots_that_are_all_far_from_zero_fill_the_height():
    dots = [Series("a", [1.0], [1.2]), Series("b", [10.0], [2.1])]
    chart = dot_chart(dots, "t", "x", "y")
    low, high = sorted(float(y) for y in re.findall(r'cy="([\d.]+)"', chart))
    assert low < 0.15 * 300 < 0.7 * 300 < high < 300 - 38
    assert min(ticks(chart, "end")) > 1
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', dot_chart(dots[:1], "t", "x", "y"))]
    assert 12 < heights[0] < 300 - 38


def test_only_names_at_the_right_take_room_there():
    def places(*names):
        dots = [Series(n, [10.0**i], [1.0]) for i, n in enumerate(names)]
        return [float(x) for x in re.findall(r'cx="([\d.]+)"', dot_chart(dots, "t", "x", "y"))]

    long = "a name of some thirty characters"
    assert places(long, "b")[1] > 500
    assert places("b", long)[1] < 560 - 7 * len(long)


def test_what_cannot_be_drawn_is_left_out():
    chart = line_chart([Series("a", [1, 2, 3], [math.nan, 2.0, math.inf])], "t", "x", "y")
    assert len(re.search(r'points="([^"]*)"', chart)[1].split()) == 1
    assert line_chart([Series("a", [1], [-1.0])], "t", "x", "y", log_y=True) is None
    assert dot_chart([Series("a", [0.0], [1.0])], "t", "x", "y") is None
    assert line_chart([], "t", "x", "y") is None


def ticks(chart, anchor):
    return [float(text) for text in re.findall(rf'text-anchor="{anchor}">([\d.]+)<', chart)]


def test_a_single_step_stands_in_the_middle_over_its_own_number():
    chart = line_chart([Series("loss", [7], [0.3])], "t", "x", "y", log_y=True)
    assert ticks(chart, "middle") == [7]
    (x,) = re.findall(r'<circle cx="([\d.]+)"', chart)
    assert f'x="{x}"' in chart
    assert len(ticks(chart, "end")) >= 2


def test_steps_have_no_halves():
    assert ticks(line_chart([Series("loss", [1, 2, 3], [1, 2, 3])], "t", "x", "y"), "middle") == [1, 2, 3]
    assert 1.5 in ticks(line_chart([Series("loss", [1, 1.5, 3], [1, 2, 3])], "t", "x", "y"), "middle")


def test_names_at_the_ends_of_lines_do_not_overlap():
    chart = line_chart([Series(f"run {i}", [0, 1], [0, 1]) for i in range(6)], "t", "x", "y")
    heights = sorted(float(y) for y in re.findall(r'class="name" x="[\d.]+" y="([\d.]+)"', chart))
    assert len(heights) == 6
    assert all(b - a >= 13.9 for a, b in pairwise(heights))


def test_a_name_moves_only_where_another_or_a_dot_is_in_its_way():
    near = [Series("a", [1.0], [10.0]), Series("b", [1.0], [10.1]), Series("c", [100.0], [10.05])]
    near += [Series("far left of a dot", [40.0], [10.05])]
    chart = dot_chart(near, "t", "x", "y")
    dots = dict(zip("abcf", (float(y) for y in re.findall(r'cy="([\d.]+)"', chart)), strict=True))
    found = re.findall(r'class="name" x="[\d.]+" y="([\d.]+)"[^>]*>(.)', chart)
    names = {name: float(y) - 4 for y, name in found}
    assert abs(names["a"] - names["b"]) >= 13
    assert names["c"] == pytest.approx(dots["c"], abs=0.11)
    assert abs(names["f"] - dots["c"]) >= 11
    far = dot_chart([Series("name", [1.0], [10.0], 3) for _ in range(5)], "t", "x", "y")
    assert '<line style="stroke:var(--series-3)"' in far, "a line leads to the dot, in its colour"


def test_a_chart_of_its_own_is_a_whole_svg_file_with_its_colours():
    chart = line_chart([Series("a & b", [0, 1], [2, 3], 1)], "mIoU", "minutes", "%")
    root = ElementTree.fromstring(standalone(chart))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    style = root.find("{http://www.w3.org/2000/svg}style").text
    assert "--series-1:" in style
    assert ".line {" in style
    assert any(text.text == "a & b" for text in root.iter("{http://www.w3.org/2000/svg}text"))
