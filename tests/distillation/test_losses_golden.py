"""Losses and the whole published distillation step, against what DSNet's code computed (tests/golden)."""

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
from densedistill.distillation.losses import LOSSES
from densedistill.networks.published import fit_entries
from densedistill.recipes.load import load_recipe

GOLDEN = Path(__file__).parent.parent / "golden"

RECORD = json.loads((GOLDEN / "dsnet_losses.json").read_text())["losses"]
ARRAYS = np.load(GOLDEN / "dsnet_losses.npz")

OURS = {
    "SmoothL1": "smooth_l1",
    "SmoothL1.close": "smooth_l1",
    "LogL1": "log_ratio",
    "LogL1_v2": "log_l1_published",
    "LogL1_v2.close": "log_l1_published",
    "StereoSimilarity.4d": "cosine",
    "StereoSimilarity.5d": "cosine",
    "StereoKLD": "stereo_kld",
    "Focal": "focal",
    "soft_kl": "soft_kl",
    "soft_kl4D": "soft_kl4d",
    "soft_kl4D_v2": "soft_kl4d_v2",
    "KLDLoss": "kld",
    "hint": "hint",
    "hint_smooth": "hint_smooth",
    "hint_huber": "hint_huber",
    "mf_main": "pairwise",
    "mf_4D": "pairwise_4d",
    "mf_old": "mf_old",
    "rkd": "rkd",
    "PKT": "pkt",
    "KR_HLC": "hcl",
}


def _input(name, shape, kind="normal"):
    return torch.from_numpy(golden.golden_input(name, shape, kind))


def _recorded_input(what):
    _, factor, _, offset = what["then"].split()
    return _input(what["name"], what["shape"], what["kind"]) * float(factor) + float(offset)


@pytest.mark.parametrize("published", OURS)
def test_value_and_gradient_of_every_published_loss(published):
    record = RECORD[published]
    student, teacher = (_recorded_input(record["inputs"][side]) for side in ("student", "teacher"))
    student.requires_grad_()
    loss = LOSSES[OURS[published]](student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(record["value"], rel=1e-5)
    expected = ARRAYS[f"{published}.grad"].ravel()
    gradient = student.grad.numpy().ravel()
    assert np.linalg.norm(gradient) == pytest.approx(record["gradient_norm"], rel=1e-5)
    difference = np.linalg.norm(gradient[: expected.size] - expected)
    assert difference < 1e-5 * np.linalg.norm(expected)


def test_every_recorded_loss_is_compared():
    assert {key for key in RECORD if "gradient" in RECORD[key]} == OURS.keys()


def test_paper_and_code_differ_in_the_offset_of_log_l1():
    student, teacher = torch.rand(2, 50)
    torch.testing.assert_close(
        dd.losses.log_l1(student, teacher, epsilon=0.5), dd.losses.log_l1_published(student, teacher)
    )
    assert dd.losses.log_l1(student, student) == 0


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("published", ["SmoothL1", "LogL1_v2"])
def test_levels_are_weighted_as_published(count, published):
    weights = {1: [0.5], 2: [0.5, 1.0], 3: [0.5, 0.7, 1.0], 4: [0.5, 0.5, 0.7, 1.0]}[count]
    estimates = [_input(f"loss.est{i}", (2, 16, 24), "uniform")[:, None] * 192 for i in range(count)]
    truth = _input("loss.gt", (2, 16, 24), "uniform")[:, None] * 200 - 4
    images = torch.zeros(2, 3, 16, 24)
    term = {"loss": OURS[published], "of": "disparity", "to": "ground_truth", "levels": weights}
    total, parts = dd.Objective({"truth": term}, Replay(estimates))(
        {"left": images, "right": images, "disparity": truth}
    )
    assert total.item() == pytest.approx(RECORD[f"model_loss.{count}.{published}"]["value"], rel=1e-5)
    assert parts.keys() == {"truth"}


def test_pairs_of_taps_are_weighted_as_published():
    features = [[_input(f"loss.f{side}{i}", (2, 8, 12, 16)) for i in range(3)] for side in "st"]
    student, teacher = (Replay([torch.ones(2, 1, 48, 64)], feature) for feature in features)
    term = {"loss": "cosine", "of": "features", "to": "teacher", "levels": [1.0, 0.5, 5.0]}
    images = torch.zeros(2, 3, 48, 64)
    total, _ = dd.Objective({"features": term}, student, {"teacher": teacher})(
        {"left": images, "right": images}
    )
    assert total.item() == pytest.approx(RECORD["kd_model_loss.pairs"]["value"], rel=1e-5)


STEP = RECORD["kd_step"]


def _golden_network(name, factors):
    """The network with golden weights, for images that are normalised already."""
    manifest = json.loads((GOLDEN / f"{name}.json").read_text())
    entries = {k: torch.from_numpy(v) for k, v in golden.golden_state_dict(manifest["entries"]).items()}
    for key, factor in factors.items():
        entries[key] = entries[key] * factor
    network = dd.create_model(name)
    network.load_state_dict(fit_entries(network, entries).entries)
    network.input_spec = replace(network.input_spec, mean=(0.0,) * 3, std=(1.0,) * 3)
    return network


@pytest.fixture(scope="module")
def published_step():
    student = _golden_network("dsnet_bb21_ed2_n16", STEP["factors"]["student"])
    teacher = _golden_network("acvnet_dsnet_teacher", STEP["factors"]["teacher"])
    terms = load_recipe("dsnet/sceneflow").objective
    objective = dd.Objective(terms, student.train(), {"teacher": teacher})
    for module in student.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    batch = {
        "left": _input("stereo.left", (1, 3, 64, 128)),
        "right": _input("stereo.right", (1, 3, 64, 128)),
        "disparity": _input("stereo.disparity", (1, 1, 64, 128), "uniform") * 200 - 4,
    }
    total, parts = objective(batch)
    total.backward()
    weighted = {term.name: term.weight * parts[term.name] for term in objective.terms}
    return student, total, weighted


def test_parts_and_total_of_the_published_step(published_step):
    _, total, parts = published_step
    values = STEP["values"]
    assert parts["ground_truth"].item() == pytest.approx(values["gt"], rel=1e-4)
    assert (parts["features"] + parts["volume"]).item() == pytest.approx(values["feat"], rel=1e-4)
    assert parts["aggregation"].item() == pytest.approx(0.2 * values["soft"], rel=1e-4)
    # Golden weights give logits of 10^5: rounding in single precision moves the disparities' fourth digit.
    assert parts["output"].item() == pytest.approx(0.1 * values["pixel"], rel=3e-4)
    assert total.item() == pytest.approx(values["total"], rel=1e-4)


def test_gradient_norm_of_every_parameter_in_the_published_step(published_step):
    student, _, _ = published_step
    norms = {name: parameter.grad.norm().item() for name, parameter in student.named_parameters()}
    expected = {
        student.published.rename(key): norm
        for key, norm in STEP["gradient_norms_of_total"].items()
        if norm is not None
    }
    assert norms == pytest.approx(expected, rel=0.01)
