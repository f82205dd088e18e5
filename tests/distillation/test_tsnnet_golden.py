"""TSNnet's losses, adapters and whole distillation steps against what its code computed (tests/golden)."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_stereo import Replay
from torch import nn

import densedistill as dd
import golden
from densedistill.networks.published import fit_entries
from densedistill.recipes import load_recipe

GOLDEN = Path(__file__).parent.parent / "golden"

RECORD = json.loads((GOLDEN / "tsnnet_losses.json").read_text())
ARRAYS = np.load(GOLDEN / "tsnnet_losses.npz")
STAGES = load_recipe("tsnnet/cascade-sceneflow").recipes


def given(name):
    what = RECORD["inputs"][name]
    return torch.from_numpy(golden.golden_input(what["name"], what["shape"], what["kind"]))


def value(name):
    return ARRAYS[name].item()


@pytest.fixture
def predictions():
    truth = 220 * given("tsnnet_loss_gt") - 10
    made = [truth + 2 ** (3 - i) * given(f"tsnnet_loss_pred{i}") for i in range(4)]
    return truth[:, None], [one[:, None] for one in made]


@pytest.mark.parametrize(
    ("stage", "count", "key"), [("teacher", 4, "disp.list"), ("student", 1, "disp.single")]
)
def test_supervision_equals_the_published_code(stage, count, key, predictions):
    truth, made = predictions
    images = torch.zeros(2, 3, 16, 24)
    term = STAGES[stage].objective["ground_truth"]
    total, _ = dd.Objective({"truth": term}, Replay(made[-count:]))(
        {"left": images, "right": images, "disparity": truth}
    )
    assert total.item() == pytest.approx(value(key), rel=1e-5)


def test_metrics_equal_the_published_code(predictions):
    truth, made = predictions
    valid = (truth > 0) & (truth < 192)
    assert valid.sum() == value("mask_count")
    assert dd.metrics.epe(made[0], truth, valid).item() == pytest.approx(value("epe"), rel=1e-5)
    assert dd.metrics.d1(made[0], truth, valid).item() == pytest.approx(value("d1"), rel=1e-5)


class Said(Replay):
    """A network that gives recorded tensors at the taps of the published distillation."""

    def __init__(self, side):
        super().__init__([torch.ones(1, 1, 16, 24)])
        names = {"volume": "volume", "detector": "head", "weighted": "weighted"}
        for tap, name in names.items():
            tensor = given(f"tsnnet_kd_{side}_{name}")
            self.add_module(tap, Give([tensor if tap == "detector" else tensor[:, None]]))
        maps = range(2 if side == "naive" else 4)
        views = [[given(f"tsnnet_kd_{side}_{view}_{i}") for i in maps] for view in ("left", "right")]
        joined = [torch.cat(pair) for pair in zip(*views, strict=True)]
        if side == "naive":
            slices = dd.create_model("tsnnet_naive", max_disparity=64).features.slices
            joined = [joined[0], *(part(joined[1]) for part in slices)]
        self.features = Give(joined)
        self.taps = {**{tap: (tap,) for tap in names}, "features.stages": ("features",)}

    def forward(self, left, right):
        for module in (self.volume, self.detector, self.weighted):
            module(left)
        return super().forward(left, right)


class Give(nn.Module):
    def __init__(self, tensors):
        super().__init__()
        self.tensors = tensors

    def forward(self, _):
        return list(self.tensors)


PUBLISHED = {key: STAGES["naive"].objective[key] for key in ("volume", "detector", "weighted")}
IMAGES = {"left": torch.zeros(1, 3, 16, 24), "right": torch.zeros(1, 3, 16, 24)}


@pytest.mark.parametrize(("teacher", "student"), [("teacher", "student"), ("student", "naive")])
def test_the_published_terms_equal_the_published_code(teacher, student):
    total, parts = dd.Objective(PUBLISHED, Said(student), {"teacher": Said(teacher)})(IMAGES)
    key = f"kd.{teacher}_{student}"
    assert total.item() == pytest.approx(value(key), rel=1e-5)
    for term, name in (("volume", "volume"), ("detector", "head"), ("weighted", "weighted")):
        assert parts[term].item() == pytest.approx(value(f"{key}.{name}"), rel=1e-5)


def test_the_published_feature_term_with_its_adapters_equals_the_published_code():
    feature = {
        "loss": "smooth_l1",
        "of": "features.stages",
        "to": "teacher",
        "adapter": {"kind": "tsnnet", "on": "teacher"},
        "levels": [2.0, 2.0, 2.0, 2.0],  # published: a mean for each view; here one over both
    }
    objective = dd.Objective({**PUBLISHED, "features": feature}, Said("naive"), {"teacher": Said("student")})
    state = {}
    for i in range(4):
        for key in ("weight", "bias"):
            name = f"ah{i + 1}.1.{key}"
            entry = golden.golden_tensor(name, RECORD["adapters"][name])
            state[f"adapters.features_{i}.layers.1.{key}"] = torch.from_numpy(entry)
    objective.load_state_dict(state)
    total, _ = objective(IMAGES)
    assert total.item() == pytest.approx(value("kd.student_naive.adapted"), rel=1e-5)
    total.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in objective.parameters())


def golden_network(name):
    manifest = json.loads((GOLDEN / f"{name}.json").read_text())
    entries = {k: torch.from_numpy(v) for k, v in golden.golden_state_dict(manifest["entries"]).items()}
    network = dd.create_model(name)
    network.load_state_dict(fit_entries(network, entries).entries)
    network.input_spec = replace(network.input_spec, mean=(0.0,) * 3, std=(1.0,) * 3)
    return network.double()


@pytest.mark.parametrize(
    ("stage", "key"),
    [
        pytest.param("student", "teacher_student", marks=pytest.mark.full),
        ("naive", "student_naive"),
    ],
)
def test_a_whole_step_of_the_cascade_equals_the_published_code(stage, key):
    recipe = STAGES[stage]
    student = golden_network(recipe.student.name).train()
    teacher = golden_network(recipe.teachers["teacher"].name)
    objective = dd.Objective(recipe.objective, student, {"teacher": teacher})
    for module in student.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    truth = (220 * given("tsnnet_step_gt") - 10)[:, None].double()
    batch = {"left": given("left").double(), "right": given("right").double(), "disparity": truth}
    total, parts = objective(batch)
    distilled = sum(parts[name] for name in PUBLISHED)
    assert parts["ground_truth"].item() == pytest.approx(value(f"step.{key}.disp.f64"), rel=1e-6)
    assert distilled.item() == pytest.approx(value(f"step.{key}.kd.f64"), rel=1e-6)
    total.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    unreached = [name for name, parameter in student.named_parameters() if parameter.grad is None]
    assert not unreached
    valid = (truth > 0) & (truth < 192)
    with torch.no_grad():
        disparity = student.eval()(batch["left"], batch["right"])["disparity"]
    assert dd.metrics.epe(disparity, truth, valid).item() == pytest.approx(
        value(f"step.{key}.epe.f64"), rel=1e-5
    )
    assert dd.metrics.d1(disparity, truth, valid).item() == pytest.approx(
        value(f"step.{key}.d1.f64"), rel=1e-5
    )


@pytest.mark.full
def test_a_supervised_step_of_the_teacher_equals_the_published_code():
    student = golden_network("tsnnet_teacher").train()
    for module in student.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    truth = (220 * given("tsnnet_step_gt") - 10)[:, None].double()
    batch = {"left": given("left").double(), "right": given("right").double(), "disparity": truth}
    with torch.no_grad():
        total, _ = dd.Objective(STAGES["teacher"].objective, student)(batch)
    assert total.item() == pytest.approx(value("step.teacher.disp.f64"), rel=1e-6)
