"""Scene-flow figures against what the KITTI development kit printed, and their edges."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import densedistill as dd
from densedistill.metrics.kitti import fill_unknown
from densedistill.metrics.sceneflow import SceneFlowOutliers, flow_epe, outliers

GOLDEN = Path(__file__).parent.parent / "golden"
PRINTED = json.loads((GOLDEN / "kitti_sceneflow_metrics.json").read_text())
RAW = dict(np.load(GOLDEN / "kitti_sceneflow_metrics.npz"))
COLUMNS = ("bg", "bg_estimated", "fg", "fg_estimated", "all", "all_estimated", "density")


def disparity(raw):
    values = torch.from_numpy(raw.astype(np.float32)) / 256
    return values[None], torch.from_numpy(raw > 0)[None]


def flow(raw):
    raw = torch.from_numpy(raw.astype(np.int32)).permute(2, 0, 1)
    valid = raw[2:] > 0
    return torch.where(valid, (raw[:2].float() - 2**15) / 64, 0.0), valid


def image(number, mask):
    prediction, target = {}, {}
    for key, name, decode in (
        ("disparity", "disp_0", disparity),
        ("disparity_next", "disp_1", disparity),
        ("flow", "flow", flow),
    ):
        prediction[key], prediction[f"{key}_valid"] = decode(RAW[f"pred_{name}"][number])
        target[key], target[f"{key}_valid"] = decode(RAW[f"gt_{name}_{mask}"][number])
    return prediction, target, torch.from_numpy(RAW["obj_map"][number].astype(np.int32))


def figures(numbers, mask):
    metric = SceneFlowOutliers()
    for number in numbers:
        metric.update(*image(number, mask))
    found = metric.compute()
    return {
        part: [round(float(found[f"{part}_{c}"]), 6) for c in COLUMNS] for part in ("D1", "D2", "Fl", "SF")
    }


@pytest.mark.parametrize("mask", ["noc", "occ"])
@pytest.mark.parametrize(
    ("printed", "numbers"), [("full_000000_000199", range(200)), ("partial_000160_000199", range(160, 200))]
)
def test_figures_equal_the_devkit_to_the_printed_digits(printed, numbers, mask):
    found = figures(numbers, mask)
    for part, values in found.items():
        assert values == PRINTED[printed][f"{part}_{mask}"], part


@pytest.mark.parametrize("mask", ["noc", "occ"])
def test_each_image_equals_the_devkit(mask):
    for number in range(20):
        for part, values in figures([number], mask).items():
            expected = PRINTED["per_image_000000_000019"][f"{part}_{mask}"][number]
            assert values == pytest.approx(expected, abs=1.1e-6), (number, part)


class Recorded:
    """Answers with the recorded predictions, filled as the kit fills them, one after the other."""

    name, task, precision = "recorded", dd.tasks.get_task("sceneflow"), "16-bit"

    def __init__(self, numbers):
        self.predictions = (image(number, "occ")[0] for number in numbers)

    def __call__(self, *views):
        found = next(self.predictions)
        return {
            key: fill_unknown(found[key], found[f"{key}_valid"][0], 0.0 if key == "flow" else -1.0)[None]
            for key in self.task.outputs
        }


def annotated(number):
    _, sample, objects = image(number, "occ")
    for key in ("disparity", "disparity_next", "flow"):
        sample[f"{key}_nonoccluded"] = image(number, "noc")[1][f"{key}_valid"]
    return sample | {view: torch.zeros(3, 16, 24) for view in Recorded.task.inputs} | {"objects": objects}


def test_the_protocol_kitti2015_sceneflow_prints_what_the_kit_prints():
    numbers = range(160, 200)
    samples = [annotated(number) for number in numbers]
    (row,) = dd.evaluate(Recorded(numbers), samples, protocol="kitti2015_sceneflow").rows
    for part in ("D1", "D2", "Fl", "SF"):
        occ, noc = (PRINTED["partial_000160_000199"][f"{part}_{mask}"] for mask in ("occ", "noc"))
        found = [row[f"{part.lower()}{mask}"] for mask in ("_bg", "_fg", "", "_noc")]
        assert found == pytest.approx([occ[0], occ[2], occ[4], noc[4]], abs=6e-7), part


def test_flow_is_evaluated_where_nothing_else_is_known():
    sample = {key: value for key, value in annotated(0).items() if not key.startswith("disparity")}
    (row,) = dd.evaluate(Recorded([0]), [sample], protocol="sintel").rows
    found = Recorded([0])()["flow"]
    expected = dd.metrics.flow_epe(found[0], sample["flow"], sample["flow_valid"])
    assert row["epe_flow"] == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(dd.UserError, match="has no 'disparity' to evaluate sceneflow on"):
        dd.evaluate(Recorded([0]), [sample], metrics=["d1"])


def test_an_error_of_exactly_three_pixels_or_five_percent_is_none():
    target = torch.tensor([[[10.0, 100.0, 10.0, 100.0]]])
    prediction = torch.tensor([[[13.0, 105.0, 13.1, 105.1]]])
    assert outliers(prediction, target).tolist() == [[False, False, True, True]]


def test_without_true_motion_three_pixels_alone_count():
    assert outliers(torch.full((2, 1, 1), 2.5), torch.zeros(2, 1, 1)).item()
    assert not outliers(torch.full((2, 1, 1), 2.0), torch.zeros(2, 1, 1)).item()


def test_a_prediction_that_is_no_number_is_wrong():
    assert outliers(torch.full((1, 1, 1), torch.nan), torch.ones(1, 1, 1)).item()


def test_a_gap_gets_the_smaller_end_and_borders_go_on():
    values = torch.tensor([[[0.0, 0, 0, 0], [0, 5, 0, 3], [0, 0, 0, 0], [0, 0, 7, 0], [0, 0, 0, 0]]])
    known = values[0] > 0
    filled = fill_unknown(values, known)[0]
    assert filled.tolist() == [[5, 5, 3, 3], [5, 5, 3, 3], [-1] * 4, [7] * 4, [7] * 4]
    assert (fill_unknown(values, torch.zeros_like(known)) == -1).all()
    assert (fill_unknown(torch.ones(2, 3, 3), torch.zeros(3, 3, dtype=torch.bool), 0.0) == 0).all()


def test_counts_add_up_over_processes():
    parts, whole = [SceneFlowOutliers(), SceneFlowOutliers()], SceneFlowOutliers()
    for number in range(10):
        parts[number % 2].update(*image(number, "occ"))
        whole.update(*image(number, "occ"))
    parts[0].counts += parts[1].counts
    assert parts[0].compute() == whole.compute()


def test_a_batch_counts_as_its_images_do():
    whole, alone = SceneFlowOutliers(), SceneFlowOutliers()
    images = [image(number, "occ") for number in range(3)]
    prediction, target = (
        {key: torch.stack([i[side][key] for i in images]) for key in images[0][side]} for side in (0, 1)
    )
    whole.update(prediction, {**target, "meta": [{}] * 3}, torch.stack([i[2] for i in images]))
    for one in images:
        alone.update(*one)
    assert whole.compute() == alone.compute()
    with pytest.raises(dd.UserError, match=r"'disparity' is wanted of one image, \(C, H, W\), got \(3, 1"):
        dd.metrics.sceneflow_counts(prediction, target)


def test_a_part_without_ground_truth_is_left_out():
    metric = SceneFlowOutliers()
    prediction, target, objects = image(0, "occ")
    metric.update(prediction, {k: v for k, v in target.items() if k.startswith("flow")}, objects)
    assert metric.compute()["Fl_all"] > 0
    assert not metric.counts[[0, 1, 3]].any()


def test_what_is_missing_or_of_another_size_is_named():
    prediction, target, objects = image(0, "occ")
    with pytest.raises(dd.UserError, match="prediction has no 'flow'"):
        SceneFlowOutliers().update({k: v for k, v in prediction.items() if k != "flow"}, target, objects)
    with pytest.raises(dd.UserError, match=r"\(1, 16, 20\)"):
        SceneFlowOutliers().update(
            {**prediction, "disparity": prediction["disparity"][..., :20]}, target, objects
        )


def test_flow_epe_is_the_mean_length_of_the_error():
    target = torch.zeros(2, 2, 1, 2)
    prediction = target.clone()
    prediction[0, :, 0, 0] = torch.tensor([3.0, 4.0])
    valid = torch.tensor([[[[True, False]]], [[[True, True]]]])
    assert float(flow_epe(prediction, target, valid)) == pytest.approx(5 / 3)
    assert float(flow_epe(prediction, target, valid, per_image=True)) == pytest.approx(2.5)
    with pytest.raises(dd.UserError, match="2, H, W"):
        flow_epe(prediction[:, :1], target[:, :1])


@pytest.mark.parametrize("name", ["fl", "sf", "epe_flow"])
def test_a_batch_of_no_image_adds_nothing(name):
    metric = dd.metrics.create_metric(name)
    keys = {"disparity": 1, "disparity_next": 1, "flow": 2}
    for count in (0, 2, 0):
        outputs = {key: torch.full((count, channels, 3, 4), 9.0) for key, channels in keys.items()}
        truth = {key: torch.full_like(value, 1.0) for key, value in outputs.items()}
        truth |= {f"{key}_valid": torch.ones(count, 1, 3, 4, dtype=torch.bool) for key in keys}
        flow = outputs["flow"], truth["flow"], truth["flow_valid"]
        metric.update(*((outputs, truth) if name == "sf" else flow))
    assert metric.compute().item() == pytest.approx(8 * 2**0.5 if name == "epe_flow" else 1)


def test_the_protocol_prints_what_the_kit_prints_seen_and_occluded():
    samples, answers, expected = [], [], {"noc": SceneFlowOutliers(), "occ": SceneFlowOutliers()}
    for number in range(200):
        prediction, target, objects = image(number, "occ")
        if not target["disparity_valid"].any():
            continue  # no sample to evaluate
        for mask, metric in expected.items():
            metric.update(*image(number, mask))
        maps = ("disparity", "disparity_next", "flow")
        for key in maps:
            unknown = 0.0 if key == "flow" else -1.0
            prediction[key] = fill_unknown(prediction[key], prediction[f"{key}_valid"], unknown)
            target[f"{key}_nonoccluded"] = image(number, "noc")[1][f"{key}_valid"]
        answers.append({key: prediction[key][None] for key in maps})
        views = dict.fromkeys(("left", "right", "left_next", "right_next"), torch.zeros(3, 16, 24))
        samples.append({**views, **target, "objects": objects.long(), "meta": {"name": str(number)}})

    class Recorded:
        name, precision, task = "recorded", "16-bit", dd.tasks.get_task("sceneflow")

        def __call__(self, *images):
            return answers.pop(0)

    (row,) = dd.evaluate(Recorded(), samples, protocol="kitti2015_sceneflow").rows
    for part in ("D1", "D2", "Fl", "SF"):
        for column, mask, region in (("", "occ", "all"), ("_bg", "occ", "bg"), ("_noc", "noc", "all")):
            printed = expected[mask].compute()[f"{part}_{region}"]
            assert row[f"{part.lower()}{column}"] == pytest.approx(float(printed), abs=6e-7), (part, column)


def test_the_protocol_reads_predictions_as_a_submission_holds_them():
    shape = (1, 2, 4)
    truth = {"disparity": torch.full(shape, 3.01), "disparity_next": torch.full(shape, 30.0)}
    truth |= {"flow": torch.full((2, 2, 4), 600.0)}
    truth |= {f"{key}_valid": torch.ones(shape, dtype=torch.bool) for key in tuple(truth)}
    image = torch.zeros(3, 2, 4, dtype=torch.uint8)
    sample = dict.fromkeys(("left", "right", "left_next", "right_next"), image) | truth

    class Answer:
        name, precision, task = "answer", "float32", dd.tasks.get_task("sceneflow")

        def __call__(self, *images):
            # Below 0 reads as 1/256; an error of 3.001 px rounds to one of 3; flow ends at 511.98 px.
            return {
                "disparity": torch.full((1, *shape), -2.0),
                "disparity_next": torch.full((1, *shape), 33.001),
                "flow": torch.full((1, 2, 2, 4), 700.0),
            }

    (row,) = dd.evaluate(Answer(), [sample], protocol="kitti2015_sceneflow").rows
    assert (row["d1"], row["d2"], row["fl"], row["sf"]) == (1, 0, 1, 1)
    truth["disparity"].fill_(3.0)
    truth["flow"].fill_(530.0)
    (row,) = dd.evaluate(Answer(), [sample], protocol="kitti2015_sceneflow").rows
    assert (row["d1"], row["d2"], row["fl"], row["sf"]) == (0, 0, 0, 0)
