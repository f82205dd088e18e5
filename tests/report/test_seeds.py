"""Runs that differ by the seed alone are taken together."""

import statistics

from densedistill.report import RunRecord, write_report
from densedistill.report.seeds import groups_of, over_seeds


def run(name, recipe, *figures):
    return RunRecord(name, recipe, rows=[{"name": n, "data": "val", "miou": v} for n, v in figures])


RUNS = [
    run("kl-1", "task: segmentation\nseed: 1\nname: kl-1\n", ("student", 0.40), ("teacher", 0.6)),
    run("kl-10", "task: segmentation\nseed: 10\nname: kl-10\n", ("student", 0.44), ("teacher", 0.6)),
    run("alone", "task: segmentation\ntruth: true\nseed: 1\n", ("student", 0.30), ("teacher", 0.6)),
]


def test_recipes_that_differ_by_the_seed_alone_belong_together():
    names = ["kl-1", "kl-1: teacher", "kl-10", "kl-10: teacher", "alone", "alone: teacher"]
    assert groups_of(RUNS, names) == {"kl": ["kl-1", "kl-10"]}


def test_runs_of_other_recipes_with_names_alike_are_not_taken_for_the_same():
    runs = [run(f"a-{i}", f"steps: {i // 3}\nseed: {i}\n") for i in range(1, 5)]
    assert groups_of(runs, ["a-1", "a-2", "a-3", "a-4"]) == {"a": ["a-1", "a-2"], "a-3": ["a-3", "a-4"]}


def test_the_rungs_of_a_ladder_are_taken_together_by_their_names():
    ladder = [RunRecord("study", "task: stereo\nladder:\n  seeds: [1, 2]\n")]
    names = ["none-seed1", "none-seed2", "all-seed1", "all-seed2", "teacher"]
    expected = {"none": ["none-seed1", "none-seed2"], "all": ["all-seed1", "all-seed2"]}
    assert groups_of(ladder, names) == expected


def test_a_report_of_several_seeds_has_mean_and_deviation(tmp_path):
    page = write_report(RUNS, tmp_path / "page.html").read_text()
    deviation = statistics.stdev((40.0, 44.0))
    assert f"<td>kl</td><td>2</td><td>42.00 ± {deviation:.2f}</td>" in page
    assert "<td>alone</td>" not in page


def test_a_report_of_one_seed_each_says_nothing_of_it():
    rows = [{"name": "alone", "data": "val", "miou": 0.3}]
    assert over_seeds(RUNS[2:], rows) is None
