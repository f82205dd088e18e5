import argparse
import dataclasses
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from densedistill.cli import report as verb
from densedistill.errors import UserError
from densedistill.report import Cost, Picture, RunRecord, write_report
from densedistill.report.markup import Markup, join, tag
from densedistill.report.page import figures_of, summarise
from densedistill.report.sections import accuracy_against_cost, environments, training_curves
from densedistill.report.tables import metric_columns

LOG = [
    {"step": s, "time": 2.0 * s, "loss/total": 3.0 / s, "loss/volume": 1.0 / s, "validate/epe": 9.0 / s}
    for s in range(1, 6)
]
ROWS = [
    {"name": "teacher", "data": "cones", "images": 1, "epe": 0.5, "bad2": 0.101, "d1": 0.09},
    {"name": "student", "data": "cones", "images": 1, "epe": 0.8, "bad2": 0.152, "d1": 0.12},
]
COSTS = [
    Cost("teacher", 2_000_000, 50e9, 1.5, (256, 512)),
    Cost("student", 200_000, 5e9, 0.15, (256, 512)),
]


@pytest.fixture
def picture():
    truth = np.tile(np.linspace(4, 40, 48, dtype=np.float32), (32, 1))
    left = np.full((32, 48, 3), 90, np.uint8)
    return Picture(
        "cones", left, truth, truth > 8, {"teacher": truth, "student": truth + 3}, {"student": "EPE 3"}
    )


@pytest.fixture
def page(tmp_path, picture):
    runs = [RunRecord("student", "task: stereo\n", LOG, [], {"cpu": {"model": "some CPU"}})]
    path = write_report(
        runs, tmp_path / "report.html", rows=ROWS, costs=COSTS, pictures=[picture], notes=["seed 1"]
    )
    return path.read_text()


class Balanced(HTMLParser):
    """Fails where an element is closed that is not the innermost open one."""

    def __init__(self):
        super().__init__()
        self.open, self.references = [], []

    def handle_starttag(self, name, attributes):
        self.references += [
            v for k, v in attributes if k in ("src", "href", "srcset", "poster", "data", "action")
        ]
        if name not in ("meta", "img", "br"):
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        pass

    def handle_endtag(self, name):
        assert self.open.pop() == name


def test_the_page_is_well_formed_and_refers_to_nothing_outside(page):
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.references) == 6  # two views of the scene, and two maps for each of two matchers
    assert all(reference.startswith("data:image/") for reference in parser.references)
    assert not re.search(r"https?://|@import|url\(", page)


def test_the_page_has_table_trade_off_maps_curves_recipe_and_environment(page):
    for heading in (
        "Results",
        "Accuracy against cost",
        "Disparity and error",
        "Training",
        "Recipes",
        "Environment",
    ):
        assert f"<h2>{heading}</h2>" in page
    for chart in (
        "Validation EPE against steps",
        "Validation EPE against wall-clock",
        "Loss terms of student",
    ):
        assert f"<figcaption>{chart}</figcaption>" in page
    assert "<pre>task: stereo\n</pre>" in page
    assert "some CPU" in page
    assert "<li>seed 1</li>" in page


def test_shares_are_shown_in_per_cent_cost_in_millions_and_milliseconds_and_the_best_is_marked(page):
    cells = re.findall(r'<td class="number([^"]*)" data-value="([^"]*)">([^<]*)</td>', page)
    shown = {text: "best" in classes for classes, _, text in cells}
    assert shown == {
        **{"0.500": True, "10.10": True, "9.00": True, "2.000": False, "50.00": False, "1500.0": False},
        **{"0.800": False, "15.20": False, "12.00": False, "0.200": True, "5.00": True, "150.0": True},
    }


def test_accuracy_stands_against_milliseconds_and_billions_of_macs(page):
    for dot in ("teacher, 1500, 10.1", "student, 150, 15.2", "teacher, 50, 10.1", "student, 5, 15.2"):
        assert f"<title>{dot}</title>" in page


def test_accuracy_is_a_mean_over_all_data_sets_or_none():
    rows = [*ROWS, {"name": "teacher", "data": "world", "bad2": 0.3}]
    rows += [{**row, "name": "other", "data": data} for row in ROWS[:1] for data in ("cones", "world")]
    costs = [*COSTS, dataclasses.replace(COSTS[0], name="other")]
    chart = accuracy_against_cost(rows, costs, {"teacher": 0, "student": 1, "other": 2})
    dots = set(re.findall("<title>([^<]*)</title>", chart))
    assert dots == {
        f"{name}, {cost}, {y}" for name, y in (("teacher", 20.05), ("other", 10.1)) for cost in (1500, 50)
    }


def test_validation_is_drawn_against_steps_and_minutes_in_the_units_of_tables():
    metrics = {"validate/bad1": 0.9, "validate/d1": 0.2, "validate/bad2": 0.3, "validate/epe": 1.5}
    run = RunRecord("run", log=[{"step": s, "time": 90.0 * s, **metrics} for s in (1, 2)])
    charts = training_curves([run], {"run": 0})
    assert re.findall("<figcaption>([^<]*)</figcaption>", charts) == [
        f"Validation {metric} against {what}"
        for metric in ("EPE", "bad-2")
        for what in ("steps", "wall-clock")
    ]
    dots = re.findall("<title>run, ([^<]*)</title>", charts)
    assert dots == ["1: 1.5", "2: 1.5", "1.5: 1.5", "3: 1.5", "1: 30", "2: 30", "1.5: 30", "3: 30"]


def test_losses_are_drawn_term_by_term_those_below_zero_too():
    log = [{"step": s, "time": 1.0, "loss/total": -1.0 * s, "loss/only": -1.0 * s} for s in (1, 2)]
    assert set(re.findall("<title>([^,]*), ", training_curves([RunRecord("run", log=log)], {}))) == {"only"}
    for entry in log:
        entry["loss/other"] = 1.0
    charts = training_curves([RunRecord("run", log=log)], {})
    assert set(re.findall("<title>([^,]*), ", charts)) == {"total", "only", "other"}


def test_runs_of_one_machine_share_its_description():
    machines = [{"cpu": {"model": model}} for model in ("Abacus", "Abacus", "Slide rule")]
    found = environments([RunRecord(name, environment=e) for name, e in zip("abc", machines, strict=True)])
    assert re.findall("<summary>([^<]*)</summary>", found) == ["a, b", "c"]
    assert found.count("Abacus") == 1


def test_the_best_is_the_most_where_that_is_better_and_has_a_rival():
    rows = [{"name": name, "data": "street", "miou": share} for name, share in (("a", 0.5), ("b", 0.7))]
    (column,) = metric_columns(rows)
    assert column.best == column.values["b"]
    assert metric_columns(rows[:1])[0].best is None
    assert summarise(rows) == "Best: b has an mIoU of 70.00 % on street."
    assert summarise(rows[:1]) == "a has an mIoU of 50.00 % on street."


def test_the_table_says_what_cost_is_of_and_what_is_better(page, tmp_path):
    assert "Cost is of one pair of 512×256 px. Less is better in every column;" in page
    rows = [{"name": "a", "data": "street", "miou": 0.5, "pixel_accuracy": 0.9}]
    text = write_report([], tmp_path / "r.html", rows=rows).read_text()
    assert "More is better in mIoU, " in text
    assert "Cost is" not in text


def test_the_same_input_gives_the_same_bytes(tmp_path, picture):
    run = RunRecord("a", "task: stereo\n", LOG, ROWS)
    first, second = (
        write_report([run], tmp_path / name, costs=COSTS, pictures=[picture]).read_bytes() for name in "ab"
    )
    assert first == second


def test_nothing_from_a_run_can_become_markup(tmp_path):
    evil = "<script>alert('1')</script>\"&"
    run = RunRecord(evil, evil, [{"step": 1, "time": 1.0, f"loss/{evil}": 1.0}], [], {evil: evil})
    rows = [{"name": evil, "data": evil, "epe": 1.0}]
    costs = [Cost(evil, 1, 1.0, 1.0), Cost("b", 1, 1.0, 1.0)]
    text = write_report(
        [run], tmp_path / "r.html", rows=rows, costs=costs, title=evil, summary=evil
    ).read_text()
    assert text.count("<script>") == 1  # our own
    assert "alert('1')<" not in text
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []


def test_a_failed_page_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match="at least one run"):
        write_report([], tmp_path / "r.html")
    with pytest.raises(UserError, match="there is no run directory"):
        write_report([tmp_path / "nowhere"], tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_the_student_of_a_run_bears_the_runs_name():
    runs = [
        RunRecord("a", rows=[{"name": "student", "data": "x", "epe": 1.0}, {"name": "teacher", "epe": 0.5}])
    ]
    assert [row["name"] for row in figures_of(runs)] == ["a", "teacher"]
    assert [row["name"] for row in figures_of([*runs, RunRecord("b")])] == ["a", "a: teacher"]
    for kind in ("chain", "ladder"):
        stages = dataclasses.replace(runs[0], recipe=f"name: a\n{kind}:\n")
        assert [row["name"] for row in figures_of([stages])] == ["student", "teacher"]


def test_a_teacher_of_whom_several_runs_say_the_same_stands_in_a_report_once():
    def run(name, figure, teacher):
        rows = [("student", figure), ("teacher", teacher)]
        return RunRecord(
            name,
            rows=[
                {"name": n, "data": d, "epe": f, "seconds_per_image": figure} for n, f in rows for d in "xy"
            ],
        )

    runs = [run("a", 1.0, 0.5), run("b", 2.0, 0.5), RunRecord("c", rows=run("c", 3.0, 0.5).rows[:2])]
    names = [row["name"] for row in figures_of(runs)]
    assert names == ["a", "a", "teacher", "teacher", "b", "b", "c", "c"]
    names = [row["name"] for row in figures_of([*runs, run("d", 4.0, 0.6)])]
    assert names[2] == "a, b: teacher"
    assert names[-2:] == ["d: teacher"] * 2


def test_the_summary_names_the_best_on_every_data_set():
    rows = [
        *ROWS,
        {"name": "student", "data": "world", "epe": 0.3},
        {"name": "teacher", "data": "world", "epe": 0.4},
    ]
    assert summarise(rows) == (
        "Least errors: teacher has an EPE of 0.50 px on cones; student has an EPE of 0.30 px on world."
    )
    assert summarise([]) == ""


def test_text_is_escaped_once_and_markup_never():
    assert tag("p", "a < b", Markup("<br>"), None, ["c"], class_="x", hidden=True, id=None) == (
        '<p class="x" hidden>a &lt; b<br>c</p>'
    )
    assert join(tag("b", "&"), "&") == "<b>&amp;</b>&amp;"


def test_report_imports_no_torch():
    code = "import sys, densedistill.report, densedistill.cli.report; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


@pytest.fixture
def run_directories(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(f"seed: {name}\n")
    return [str(tmp_path / name) for name in "ab"]


def test_the_verb_writes_into_the_run_or_where_it_is_told(run_directories, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    assert verb.run(parser.parse_args(run_directories[:1])) == 0
    assert "seed: a" in (tmp_path / "a" / "report.html").read_text()
    out = str(tmp_path / "both.html")
    assert verb.run(parser.parse_args([*run_directories, "--out", out, "--title", "Two"])) == 0
    assert "<h1>Two</h1>" in (tmp_path / "both.html").read_text()
    assert f"wrote {out}" in capsys.readouterr().out
