import dataclasses
import io
import json
import shutil
import types

import pytest
import torch
from rich.console import Console

from densedistill.cli import main
from densedistill.errors import UserError
from densedistill.networks import create_model, published
from densedistill.recipes import load_recipe
from densedistill.report import Cost, demo
from densedistill.report.tables import cost_columns, metric_columns

TINY = {
    "data.train.*.length": 4,
    "data.train.*.size": [64, 128],
    "data.train.*.crop": [64, 96],
    "data.validate.length": 1,
    "data.validate.size": [64, 128],
    "data.batch_size": 1,
}


@pytest.fixture
def small(tmp_path_factory, monkeypatch):
    """Random weights in place of those that ship, two small scenes and one photograph to evaluate on."""
    weights = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name in ("coex_slim", "gwcnet_slim"):
        published.save_weights(create_model(name), weights / f"{name}.safetensors", half=True)
    shutil.copy(weights / "coex_slim.safetensors", weights / "coex_slim.fine.safetensors")
    monkeypatch.setattr(published, "SHIPPED", weights)
    monkeypatch.setattr(demo, "HELD_OUT", {"seed": 22000000, "length": 2, "size": (64, 128)})
    monkeypatch.setattr(demo, "REAL", {"Cones": "middlebury2003"})
    monkeypatch.setattr(demo, "COST_SIZE", (64, 128))


def run(out, **options):
    console = Console(file=io.StringIO(), width=80, record=True)
    path = demo.run_demo(out, overrides=TINY, console=console, **options)
    return path, console.export_text()


def test_the_whole_way_leaves_table_report_figures_and_picture_and_repeats_nothing(
    small, tmp_path, monkeypatch
):
    out = tmp_path / "demo"
    report, said = run(out, steps=2)
    names = ["teacher", "distilled", "baseline", "shipped student", demo.LARGER, "SGBM"]
    rows = json.loads((out / "metrics.json").read_text())["rows"]
    assert [(row["data"], row["name"]) for row in rows] == [
        (d, n) for d in ("held-out", "Cones") for n in names
    ]
    assert all({"epe", "bad2", "d1"} <= row.keys() for row in rows)
    assert (out / "picture.webp").stat().st_size < 300_000
    text = report.read_text()
    assert report == out / "report.html"
    for part in (
        "Cones",
        "held-out scene 2",
        "Validation EPE against wall-clock",
        "Loss terms of distilled",
        "seed 1",
    ):
        assert part in text
    assert f"wrote {out}/report.html" in said.replace("\n", "")
    assert max(map(len, said.splitlines())) <= 80 or str(out) in said
    assert "4 pairs with ground truth, 4 answered by gwcnet_slim, 2 steps" in " ".join(said.split())
    recipes = {name: load_recipe(out / name / "recipe.yaml") for name in ("distilled", "baseline")}
    labelled = recipes["distilled"].data.train[:1]
    assert dataclasses.replace(recipes["distilled"].data, train=labelled) == recipes["baseline"].data
    assert recipes["distilled"].schedule == recipes["baseline"].schedule

    trained = {path: path.stat().st_mtime_ns for path in out.glob("*/student.safetensors")}
    assert len(trained) == 2
    monkeypatch.setattr(demo, "_compare", lambda *_: None)
    _, said = run(out)
    assert said.count("finished before") == 2
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    with pytest.raises(UserError, match=r"holds a demo with --steps 2, not 3; name another folder"):
        run(out, steps=3)
    with pytest.raises(UserError, match=r"holds a demo with --seed 1, not 2"):
        run(out, seed=2)


def test_the_two_recipes_differ_in_the_teacher_and_the_pairs_that_it_alone_can_answer_for():
    distilled, baseline = (load_recipe(f"demo/{name}") for name in ("distilled", "baseline"))
    for part in ("task", "student", "optimizer", "schedule", "seed", "trainer"):
        assert getattr(distilled, part) == getattr(baseline, part)
    labelled, unlabelled = distilled.data.train
    assert dataclasses.replace(distilled.data, train=[labelled]) == baseline.data
    assert labelled.truth
    assert not unlabelled.truth
    seeds = [
        range(e.options["seed"], e.options["seed"] + e.options["length"]) for e in (labelled, unlabelled)
    ]
    assert not set(seeds[0]) & set(seeds[1])
    assert distilled.objective["ground_truth"] == baseline.objective["ground_truth"]
    assert set(baseline.objective) == {"ground_truth"}
    assert {term["to"] for name, term in distilled.objective.items() if name != "ground_truth"} == {"teacher"}


def test_evaluation_scenes_are_none_of_those_trained_on():
    ranges = [range(demo.HELD_OUT["seed"], demo.HELD_OUT["seed"] + demo.HELD_OUT["length"])]
    for name in ("demo/distilled", "shipped/teacher", "shipped/student", "shipped/fast"):
        recipe = load_recipe(name)
        for entry in (*recipe.data.train, *recipe.data.validate):
            seed, length = entry.options["seed"], entry.options["length"]
            assert not set(ranges[0]) & set(range(seed, seed + length)), name


def test_ctrl_c_says_how_to_go_on(small, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt("stopped at step 1; go on with: --resume somewhere")

    monkeypatch.setattr(demo, "train", interrupted)
    monkeypatch.setattr(demo, "_make_pairs", lambda *_: None)
    assert main(["demo", "--out", str(tmp_path / "x"), "--steps", "5"]) == 130
    assert f"`densedistill demo --out {tmp_path}/x` goes on from here" in capsys.readouterr().err


def test_a_stopped_training_is_gone_on_with(small, tmp_path, monkeypatch):
    asked = []
    (tmp_path / "recipe.yaml").write_text("task: stereo\n")

    def train(recipe=None, run=None, resume=None):
        asked.append(resume)
        return demo.Run(resume)

    monkeypatch.setattr(demo, "train", train)
    demo._train("distilled", load_recipe("demo/distilled"), tmp_path, Console(quiet=True))
    assert asked == [tmp_path]


@pytest.mark.parametrize("wrong", [{"minutes": 0}, {"minutes": float("nan")}, {"steps": -3}])
def test_a_length_that_is_none_is_refused_before_pairs_are_made(wrong, tmp_path):
    with pytest.raises(UserError, match=f"--{next(iter(wrong))}: must be above 0, not"):
        demo.run_demo(tmp_path / "demo", **wrong)
    assert not (tmp_path / "demo").exists()


def test_minutes_become_steps_by_a_short_trial_that_leaves_nothing(tmp_path, monkeypatch):
    def train(recipe, run):
        run.mkdir(parents=True)
        assert recipe.data.validate == []
        slow = 2 if recipe.teachers else 1
        seconds = [slow * s for s in (5.0, 9.0, 9.5, 10.0, 10.5, 11.0, 11.5, 12.0)]  # slower at first
        history = [{"step": i + 1, "time": second} for i, second in enumerate(seconds)]
        return types.SimpleNamespace(history=history)

    monkeypatch.setattr(demo, "train", train)
    steps = demo._steps_in(10, tmp_path, {}, Console(quiet=True))
    assert steps == 280  # 600 s, 70 % of them for two trainings of 1 and 0.5 s a step
    assert list(tmp_path.iterdir()) == []
    assert demo._steps_in(0.01, tmp_path, {}, Console(quiet=True)) == 20


def test_the_summary_says_what_came_out_whichever_way():
    shares = {
        "teacher": 0.1,
        "distilled": 0.3,
        "baseline": 0.2,
        "shipped student": 0.15,
        demo.LARGER: 0.12,
        "SGBM": 0.09,
    }
    rows = [{"name": n, "data": d, "bad2": s} for n, s in shares.items() for d in demo.REAL]
    rows += [{"name": n, "data": "held-out", "bad2": s} for n, s in (("distilled", 0.4), ("baseline", 0.5))]
    costs = [Cost("teacher", 300, 1, 0.4), Cost("distilled", 100, 1, 0.1)]
    history = types.SimpleNamespace(history=[{"time": 126.0}])
    recipe = load_recipe("demo/distilled", overrides={"schedule.steps": 300})
    said = demo.summarise(rows, costs, recipe, history)
    assert said.startswith("Of 384 procedural scenes 16 have ground truth")
    assert "After 2.1 minutes of training the distilled student" in said
    assert "in 40.0 % of the pixels of held-out scenes and in 30.0 % of two photographed ones" in said
    assert "those 16 alone, after the same 300 steps, in 50.0 % and 20.0 %" in said
    assert "with 3.0 times the parameters and 4.0 times the latency, is in 10.0 %" in said
    assert "in 15.0 %, in 12.0 % with weights for images 1.5 times as large; OpenCV's SGBM in 9.0 %" in said


@pytest.mark.parametrize(
    ("provenance", "said"),
    [
        ('{"hours": 3.25}', "trained for 3.2 hours"),
        ('{"hours": 0.37}', "trained for 22 minutes"),
        (None, "trained longer"),
    ],
)
def test_how_long_the_shipped_student_was_trained_is_read_from_its_provenance(
    tmp_path, monkeypatch, provenance, said
):
    monkeypatch.setattr(published, "SHIPPED", tmp_path)
    (tmp_path / "dsnet_slim.safetensors").touch()
    if provenance:
        (tmp_path / "dsnet_slim.json").write_text(provenance)
    assert demo._trained_for("dsnet_slim") == said


def test_the_table_fits_a_narrow_terminal_and_marks_the_best():
    rows = [
        {"name": name, "data": data, "epe": 12.345 + i, "bad2": 0.5, "d1": 0.25}
        for i, name in enumerate(["teacher", "distilled", "baseline", "shipped student", demo.LARGER, "SGBM"])
        for data in ("held-out", "Motorcycle", "Cones")
    ]
    costs = [Cost(row["name"], 1312000, 21.97e9, 5.3399) for row in rows[::3]]
    console = Console(file=io.StringIO(), width=80, record=True, force_terminal=True)
    console.print(demo._table([row["name"] for row in rows[::3]], metric_columns(rows) + cost_columns(costs)))
    text = console.export_text(styles=True)
    assert "…" not in text
    assert text.count("\x1b[1m12.345") == 3
