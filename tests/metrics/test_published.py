"""DSNet's own averaging against figures recorded from its code."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import golden
from densedistill.metrics import DSNetMean, bad, create_metric, d1, dsnet_mean, epe

GOLDEN = Path(__file__).parents[1] / "golden"

METRICS = {
    "EPE": epe,
    "D1": d1,
    "Thres1": functools.partial(bad, threshold=1),
    "Thres2": functools.partial(bad, threshold=2),
    "Thres3": functools.partial(bad, threshold=3),
}


def maps(case):
    """Prediction and ground truth (2, 16, 24) as the golden file describes them."""
    gt = golden.golden_input("loss.gt", (2, 16, 24), "uniform") * 200 - 4
    estimate = gt + (golden.golden_input("loss.est0", (2, 16, 24), "uniform") * 192 - 96) / 12
    if case == "second_skipped":
        gt = gt.copy()
        gt[1] = 300
        gt[1, 0, :2] = 20
    return torch.from_numpy(estimate), torch.from_numpy(gt)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("case", ["both", "second_skipped"])
def test_published_metrics(case, name):
    recorded = np.load(GOLDEN / "dsnet_losses.npz")[f"metric.{case}.{name}"]
    assert dsnet_mean(METRICS[name], *maps(case)).item() == pytest.approx(recorded.item(), rel=1e-5)


def test_golden_inputs_are_those_that_were_recorded():
    described = json.loads((GOLDEN / "dsnet_losses.json").read_text())["losses"]["metric.inputs"]
    assert described.startswith("est = gt + (loss.est0 * 192 - 96) / 12; gt as in model_loss; second_skipped")


def test_batches_count_alike_whatever_their_size_and_one_left_out_counts_zero():
    target = torch.full((3, 1, 4, 4), 10.0)
    prediction = target + torch.tensor([1.0, 3.0, 5.0]).view(3, 1, 1, 1)
    metric = DSNetMean(epe, max_disparity=192)
    metric.update(prediction[:2], target[:2])
    metric.update(prediction[2:], target[2:])
    assert metric.compute().item() == pytest.approx((2.0 + 5.0) / 2)
    metric.update(prediction[:1], target[:1] + 500)
    assert metric.compute().item() == pytest.approx((2.0 + 5.0 + 0.0) / 3)


def test_an_image_without_ground_truth_makes_the_published_mean_nan():
    assert dsnet_mean(epe, torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)).isnan()


def test_by_name():
    metric = create_metric("bad2", published=True, max_disparity=100)
    metric.update(torch.tensor([[[[50.0, 95.0, 200.0]]]]), torch.tensor([[[[50.0, 98.0, 110.0]]]]))
    assert metric.compute().item() == pytest.approx(0.5)
