"""Depth's measures against those of the published evaluation (tests/golden), and pooled."""

import json
import math
from pathlib import Path

import pytest
import torch

import densedistill as dd
import golden
from densedistill.inference.protocols import get_protocol
from densedistill.metrics import create_metric, metric_info
from densedistill.metrics.depth import MEASURES, depth_measure
from densedistill.tasks import get_task

GOLDEN = Path(__file__).parent.parent / "golden"
RECORD = json.loads((GOLDEN / "spatial_kd_losses.json").read_text())
DEPTH = get_task("depth")


def recorded(name):
    what = RECORD["inputs"][name]
    return torch.from_numpy(golden.golden_input(name, what["shape"], what["kind"]))


def kitti():
    truth = (90 * recorded("kitti_gt")).clamp(0, 80)
    prediction = 90 * recorded("kitti_gt") * (0.6 + 0.8 * recorded("kitti_factor"))
    return prediction, torch.where(recorded("kitti_hole") < 0.5, 0, truth)


def nyu():
    truth = (10.5 * recorded("nyu_gt")).clamp(0, 10)
    prediction = 10.5 * recorded("nyu_gt") * (0.6 + 0.8 * recorded("nyu_factor"))
    return prediction, torch.where(recorded("nyu_hole") < 0.3, 0, truth)


def measured(prediction, truth, protocol):
    """Return every measure as `evaluate` takes it, image by image."""
    protocol = get_protocol(protocol, DEPTH)
    metrics = {name: create_metric(name, per_image=protocol.average == "images") for name in MEASURES}
    for p, g in zip(prediction, truth, strict=True):
        sample = {"depth": g, "depth_valid": g > 0}
        valid = protocol.counted(sample, DEPTH, "depth", "all", None)
        outputs = {"depth": p[None]}
        for align in protocol.alignments:
            outputs = align(outputs, {"depth": g[None], "depth_valid": valid[None]})
        for metric in metrics.values():
            metric.update(outputs["depth"], g[None], valid[None])
    return {name: metric.compute().item() for name, metric in metrics.items()}


@pytest.mark.parametrize(
    ("case", "data", "protocol"),
    [
        ("kitti_cap80", kitti, "kitti"),
        ("kitti_cap50", kitti, "kitti50"),
        ("nyu", nyu, "nyu"),
        ("nyu_lapdepth", nyu, "nyu"),
    ],
)
def test_measures_equal_the_published_evaluation(case, data, protocol):
    found = measured(*data(), protocol)
    for name, value in RECORD["values"][f"measures_{case}"].items():
        assert found[name] == pytest.approx(value, rel=2e-5), name


def test_measures_without_a_crop_equal_the_published_evaluation():
    prediction, truth = kitti()
    valid = (truth > 1e-3) & (truth < 80)
    for name, value in RECORD["values"]["measures_kitti_cap80_nocrop"].items():
        found = depth_measure(name, prediction.clamp(1e-3, 80), truth.clamp(1e-3, 80), valid)
        assert found.item() == pytest.approx(value, rel=2e-5), name


@pytest.mark.parametrize("name", list(MEASURES))
def test_pooling_weighs_pixels_and_averaging_images(name):
    torch.manual_seed(0)
    prediction, target = torch.rand(2, 2, 1, 6, 8) + 0.5
    valid = torch.rand(2, 1, 6, 8) > 0.3
    valid[0, :, :4] = False
    alone = [depth_measure(name, prediction[i], target[i], valid[i]) for i in (0, 1)]
    assert depth_measure(name, prediction, target, valid).item() == pytest.approx(sum(alone).item() / 2)
    together = depth_measure(name, prediction[valid][None], target[valid][None])
    pooled = depth_measure(name, prediction, target, valid, per_image=False)
    assert pooled.item() == pytest.approx(together.item(), rel=1e-6)
    for per_image in (False, True):
        metric = create_metric(name, per_image=per_image)
        metric.update(prediction[:1], target[:1], valid[:1])
        metric.update(prediction[1:], target[1:], valid[1:])
        whole = depth_measure(name, prediction, target, valid, per_image=per_image)
        assert metric.compute().item() == pytest.approx(whole.item(), rel=1e-6)


def test_an_image_without_ground_truth_is_left_out():
    prediction, target = torch.full((2, 1, 2, 2), 2.0), torch.ones(2, 1, 2, 2)
    valid = torch.ones(2, 1, 2, 2, dtype=torch.bool)
    valid[0] = False
    assert depth_measure("abs_rel", prediction, target, valid) == 1.0
    assert math.isnan(depth_measure("abs_rel", prediction, target, torch.zeros_like(valid)))


def test_a_prediction_that_is_no_number_is_never_within_a_threshold():
    prediction = torch.tensor([[math.nan, 1.0], [0.0, -3.0]])
    assert depth_measure("a1", prediction, torch.ones(2, 2)) == 0.25
    assert not depth_measure("abs_rel", prediction, torch.ones(2, 2)).isfinite()


def test_silog_does_not_see_a_common_factor():
    target = torch.rand(1, 8, 8) + 1
    assert depth_measure("silog", 3 * target, target).item() == pytest.approx(0, abs=1e-4)
    assert depth_measure("silog", target.flip(1), target) > 1


def test_larger_is_better_for_thresholds_alone():
    assert metric_info("a1").larger_is_better
    assert not metric_info("abs_rel").larger_is_better


def test_shapes_that_differ_are_refused():
    with pytest.raises(dd.UserError, match="one shape"):
        depth_measure("rmse", torch.ones(1, 2, 2), torch.ones(1, 3, 2))


@pytest.mark.parametrize("name", sorted(MEASURES.keys() - {"a1", "a2", "a3"}))
def test_each_measure_is_a_public_function_and_a_class_over_it(name):
    prediction, truth = kitti()
    function, kind = getattr(dd.metrics, name), type(create_metric(name))
    assert getattr(dd.metrics, kind.__name__) is kind
    metric = kind(per_image=True)
    metric.update(prediction, truth, truth > 0)
    torch.testing.assert_close(metric.compute().float(), function(prediction, truth, truth > 0).float())
