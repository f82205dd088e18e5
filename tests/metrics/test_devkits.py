"""Stereo figures to the last digit: KITTI's kit as recorded, Middlebury's by a second implementation."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import densedistill as dd
from densedistill.data import formats
from densedistill.metrics import as_kitti_flow_png, as_kitti_png, error_quantile, fill_missing, kitti_errors
from densedistill.tasks.files import Predicted

GOLDEN = Path(__file__).parent.parent / "golden"
RECORD = json.loads((GOLDEN / "kitti_sceneflow_metrics.json").read_text())
ARRAYS = np.load(GOLDEN / "kitti_sceneflow_metrics.npz")


def maps(key):
    values = torch.from_numpy(ARRAYS[key].astype(np.float32)) / 256
    return values, values > 0


@pytest.mark.parametrize("seen", ["noc", "occ"])
@pytest.mark.parametrize("time", [0, 1])
def test_the_seven_figures_equal_the_kit(time, seen):
    target, valid = maps(f"gt_disp_{time}_{seen}")
    prediction = as_kitti_png(maps(f"pred_disp_{time}")[0])
    objects = torch.from_numpy(ARRAYS["obj_map"])
    key = f"D{time + 1}_{seen}"
    found = kitti_errors(prediction, target, valid, objects)
    assert found == pytest.approx(RECORD["full_000000_000199"][key], abs=6e-7)
    partial = kitti_errors(prediction[160:], target[160:], valid[160:], objects[160:])
    assert partial == pytest.approx(RECORD["partial_000160_000199"][key], abs=6e-7)
    for image, printed in enumerate(RECORD["per_image_000000_000019"][key]):
        one = slice(image, image + 1)
        found = kitti_errors(prediction[one], target[one], valid[one], objects[one])
        assert found == pytest.approx(printed, abs=6e-7), image


class Recorded:
    """Answers with the recorded predictions, one after the other."""

    name = "recorded"
    precision = "16-bit"

    def __init__(self):
        self.task = dd.tasks.get_task("stereo")
        self.answers = iter(maps("pred_disp_0")[0])

    def __call__(self, left, right):
        return {"disparity": next(self.answers)[None, None]}


def kitti_samples():
    occ, noc = maps("gt_disp_0_occ"), maps("gt_disp_0_noc")[1]
    for i in range(200):
        if occ[1][i].any():
            yield {
                "left": torch.zeros(3, 16, 24),
                "right": torch.zeros(3, 16, 24),
                "disparity": occ[0][i][None],
                "disparity_valid": occ[1][i][None],
                "disparity_nonoccluded": noc[i][None],
                "objects": torch.from_numpy(ARRAYS["obj_map"][i].astype(np.int64)),
                "meta": {"name": f"{i:06d}_10"},
            }


def test_the_protocol_kitti2015_prints_what_the_kit_prints():
    samples = list(kitti_samples())
    assert len(samples) == 200
    (row,) = dd.evaluate(Recorded(), samples, protocol="kitti2015").rows
    for seen, suffixes in (("occ", ("_bg", "_fg", "")), ("noc", ("_noc-bg", "_noc-fg", "_noc"))):
        printed = RECORD["full_000000_000199"][f"D1_{seen}"]
        found = [row[f"d1{suffix}"] for suffix in suffixes]
        assert found == pytest.approx([printed[0], printed[2], printed[4]], abs=6e-7)


def looped_fill(disparity):
    """KITTI's rule, pixel by pixel."""
    out = [[None if math.isnan(v) else v for v in row] for row in disparity.tolist()]
    height, width = len(out), len(out[0])
    for row in out:
        there = [x for x in range(width) if row[x] is not None]
        for a, b in itertools.pairwise(there):
            for x in range(a + 1, b):
                row[x] = min(row[a], row[b])
        if there:
            row[: there[0]] = [row[there[0]]] * there[0]
            row[there[-1] :] = [row[there[-1]]] * (width - there[-1])
    for x in range(width):
        there = [y for y in range(height) if out[y][x] is not None]
        for y in range(height):
            if there and y < there[0]:
                out[y][x] = out[there[0]][x]
            elif there and y > there[-1]:
                out[y][x] = out[there[-1]][x]
    return torch.tensor([[-1.0 if v is None else v for v in row] for row in out])


@pytest.mark.parametrize("share", [0.1, 0.6, 0.95, 1.0])
def test_filling_equals_the_rule_pixel_by_pixel(share):
    generator = torch.Generator().manual_seed(int(100 * share))
    disparity = 50 * torch.rand(4, 9, 11, generator=generator)
    disparity[torch.rand(4, 9, 11, generator=generator) < share] = torch.nan
    disparity[:, 0] = disparity[:, 4:6] = torch.nan  # rows without any value, outside and between
    for one, filled in zip(disparity, fill_missing(disparity), strict=True):
        torch.testing.assert_close(filled, looped_fill(one))


def test_a_prediction_is_read_as_its_png_holds_it():
    given = torch.tensor([[0.001, 1.0, 3.3, 300.0, 0.0, -1.0, math.nan, math.inf]])
    expected = torch.tensor([[1 / 256, 1.0, 845 / 256, 65535 / 256, *[math.nan] * 4]])
    torch.testing.assert_close(as_kitti_png(given), expected, equal_nan=True)


def test_the_protocol_takes_a_prediction_as_the_file_that_is_sent(tmp_path):
    given = torch.tensor([[[[0.001, 1.0, 3.3, 0.0, -1.0, 255.9]]]])
    task = dd.tasks.get_task("stereo")
    predicted = Predicted({"disparity": given[0, 0].numpy()}, image=np.empty((1, 6, 3), np.uint8))
    task.writers["png"].write(tmp_path / "a.png", predicted)
    sent = torch.from_numpy(formats.read_disparity_png(tmp_path / "a.png"))
    torch.testing.assert_close(as_kitti_png(given)[0, 0].nan_to_num(0.0), sent)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_predictions_of_half_precision_are_read_in_single(dtype):
    given = torch.tensor([0.001, 1.0, 3.3, 100.3, 300.0, 0.0, math.nan], dtype=dtype)
    torch.testing.assert_close(as_kitti_png(given), as_kitti_png(given.double()).float(), equal_nan=True)
    flow = torch.tensor([0.3, -100.3, 600.0, -600.0], dtype=dtype)
    torch.testing.assert_close(as_kitti_flow_png(flow), as_kitti_flow_png(flow.double()).float())


@pytest.mark.parametrize("truth", [20.0, 61.25, 100.0, 180.0])
def test_an_error_of_exactly_three_px_or_five_percent_is_none(truth):
    target, valid = torch.full((1, 1, 4), truth), torch.ones(1, 1, 4, dtype=torch.bool)
    allowed = max(3.0, math.floor(0.05 * truth * 256) / 256)
    for error, wrong in ((allowed, 0.0), (allowed + 1 / 256, 1.0)):
        found = kitti_errors(target + error, target, valid, torch.zeros(1, 1, 4))
        assert found.all == wrong
        assert dd.metrics.d1(target + error, target, valid).item() == wrong


def middlebury_by_hand(prediction, target, mask, thresholds=(0.5, 1, 2, 4), reach=None):
    """Middlebury's evaldisp in NumPy: the map at the ground truth's size repeated, scaled and clipped."""
    factor = round(target.shape[1] / prediction.shape[1])
    rows = np.minimum(np.arange(target.shape[0]) // factor, prediction.shape[0] - 1)
    columns = np.minimum(np.arange(target.shape[1]) // factor, prediction.shape[1] - 1)
    scaled = prediction[rows][:, columns] * factor
    errors = np.abs(np.clip(scaled, 0, reach) - target)[mask].astype(np.float64)
    found = {f"bad{t:g}": (errors > t).mean() for t in thresholds}
    found["avgerr"], found["rms"] = errors.mean(), np.sqrt((errors**2).mean())
    ordered = np.sort(errors)
    found |= {f"a{q}": ordered[math.ceil(q / 100 * len(ordered)) - 1] for q in (50, 90, 95, 99)}
    return found


class Fixed:
    """Answers a pair with the map that is stored for its width."""

    name, precision = "fixed", "float32"

    def __init__(self, answers):
        self.task, self.answers = dd.tasks.get_task("stereo"), answers

    def __call__(self, left, right):
        return {"disparity": self.answers[int(left[0, 0, 0])][None, None]}


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("protocol", ["middlebury", "eth3d"])
def test_middlebury_and_eth3d_equal_a_second_implementation(protocol, factor):
    if protocol == "eth3d" and factor > 1:
        return  # which has one size
    generator = torch.Generator().manual_seed(factor)
    samples, answers, expected = [], [], []
    for number, scene in enumerate(("Adirondack", "PianoL")):
        target = 60 * torch.rand(1, 41, 53, generator=generator)
        small = -(-41 // factor) if protocol == "eth3d" else 41 // factor, 53 // factor
        answers.append((20 * torch.randn(small, generator=generator) + 30) / factor)
        nonoccluded = torch.rand(1, 41, 53, generator=generator) > 0.3
        image = torch.full((3, *small), number, dtype=torch.uint8)
        meta = {"name": scene, "ndisp": 64} if protocol == "middlebury" else {"name": scene}
        samples.append(
            {
                **{"left": image, "right": image, "disparity": target, "meta": meta},
                "disparity_valid": torch.ones_like(target, dtype=torch.bool),
                "disparity_nonoccluded": nonoccluded,
            }
        )
        reach = 64 if protocol == "middlebury" else None
        low = answers[-1].numpy()
        if reach is None:
            answers[-1] = answers[-1].clamp(min=0)
            low = answers[-1].numpy()
        expected.append(middlebury_by_hand(low, target[0].numpy(), nonoccluded[0].numpy(), reach=reach))
    (row,) = dd.evaluate(Fixed(answers), samples, protocol=protocol).rows
    weights = (1, 0.5) if protocol == "middlebury" else (1, 1)
    for key in expected[0]:
        mean = sum(w * e[key] for w, e in zip(weights, expected, strict=True)) / sum(weights)
        assert row[f"{key}_noc"] == pytest.approx(mean, rel=1e-5), key


@pytest.mark.parametrize(("percent", "rank"), [(7, 7), (7.1, 8), (50, 50), (99.5, 100), (100, 100)])
def test_an_error_quantile_is_the_error_of_its_rank(percent, rank):
    errors = torch.arange(1.0, 101.0).flip(0)[None]
    assert error_quantile(errors, torch.zeros(1, 100), percent=percent) == rank


def test_an_error_quantile_counts_what_is_not_finite_as_wrong():
    prediction = torch.tensor([[1.0, 2.0, math.nan, 4.0]])
    assert error_quantile(prediction, torch.zeros(1, 4), percent=50) == 2
    assert error_quantile(prediction, torch.zeros(1, 4), percent=99).isinf()
    assert error_quantile(prediction, torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.bool)).isnan()
