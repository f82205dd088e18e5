"""mIoU against Cityscapes' own scripts and torchmetrics."""

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as scripts
from PIL import Image
from torchmetrics.functional.segmentation import mean_iou as torchmetrics_mean_iou

import densedistill as dd
from densedistill.data.datasets.cityscapes import LABEL_IDS, TRAIN_IDS
from densedistill.metrics import MeanIoU, confusion_matrix, create_metric, metric_info
from densedistill.metrics.segmentation import published_mean_iou


def maps(seed=0, classes=19, size=(32, 64)):
    rng = np.random.default_rng(seed)
    truth = rng.choice(list(range(34)), (2, *size)).astype(np.uint8)  # stored label ids, void ones among them
    right = np.array([TRAIN_IDS.get(label, 0) for label in range(34)])[truth]
    guess = np.where(rng.random(truth.shape) < 0.6, right, rng.integers(0, classes - 2, truth.shape))
    return truth, guess


def test_miou_equals_that_of_the_cityscapes_scripts(tmp_path):
    truth, guess = maps()
    theirs, ours = [], []
    for i in range(2):
        for name, values in (
            ("gt", truth[i]),
            ("pred", np.vectorize(LABEL_IDS.get)(guess[i]).astype(np.uint8)),
        ):
            Image.fromarray(values).save(tmp_path / f"{name}{i}.png")
        theirs.append(str(tmp_path / f"gt{i}.png"))
        ours.append(str(tmp_path / f"pred{i}.png"))
    args = scripts.args
    args.evalInstLevelScore = args.evalPixelAccuracy = False
    args.quiet, args.JSONOutput = True, False
    found = scripts.evaluateImgLists(ours, theirs, args)
    labels = np.array([TRAIN_IDS.get(label, 255) for label in range(34)])[truth]
    metric = MeanIoU()
    for i in range(2):
        metric.update(torch.from_numpy(guess[i : i + 1]), torch.from_numpy(labels[i : i + 1]))
    assert metric.compute().item() == pytest.approx(found["averageScoreClasses"], abs=1e-6)
    names = scripts.id2label
    for train, stored in LABEL_IDS.items():
        single = create_metric(f"iou{train}")
        single.update(torch.from_numpy(guess), torch.from_numpy(labels))
        expected = found["classScores"][names[stored].name]
        assert single.compute().item() == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_void_that_is_predicted_is_a_miss_and_no_class():
    truth, guess = torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 0, 1, 255]]])
    assert dd.metrics.mean_iou(guess, truth).item() == pytest.approx((1 + 1 / 2) / 2)


def test_miou_equals_torchmetrics_where_every_class_occurs():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 5, (1, 40, 40), generator=generator)
    guess = torch.where(torch.rand(truth.shape, generator=generator) < 0.5, truth, 4 - truth)
    expected = torchmetrics_mean_iou(guess, truth, num_classes=5, input_format="index").mean()
    torch.testing.assert_close(dd.metrics.mean_iou(guess, truth), expected)


def test_absent_classes_are_left_out_and_count_zero_as_published():
    truth, guess = torch.tensor([[[0, 0, 1, 255]]]), torch.tensor([[[0, 1, 1, 1]]])
    assert dd.metrics.mean_iou(guess, truth).item() == pytest.approx(0.5)
    assert published_mean_iou(confusion_matrix(guess, truth), 4).item() == pytest.approx(0.25)


def test_iou_of_a_class_and_accuracy_are_metrics_by_name():
    truth, guess = torch.tensor([[[0, 0, 1, 255]]]), torch.tensor([[[0, 1, 1, 1]]])
    for name, value in (("iou0", 0.5), ("iou1", 0.5), ("accuracy", 2 / 3)):
        metric = create_metric(name)
        metric.update(guess, truth)
        assert metric.compute().item() == pytest.approx(value)
    assert metric_info("iou7").heading == "IoU7"


@pytest.mark.parametrize(
    ("guess", "truth", "valid", "says"),
    [
        ([[[0, 300]]], [[[0, 1]]], None, "predicted labels are from 0 to 255, got 0 to 300"),
        ([[[0, 1]]], [[[0, -1]]], None, "true labels are from 0 to 255, got -1 to 0"),
        ([[[0, 1]]], [[[0, 1]]], [[[[True, True]]]], "valid has the shape of the labels"),
    ],
)
def test_labels_that_are_none_are_named(guess, truth, valid, says):
    valid = None if valid is None else torch.tensor(valid)
    with pytest.raises(dd.UserError, match=says):
        dd.metrics.mean_iou(torch.tensor(guess), torch.tensor(truth), valid)


@pytest.mark.parametrize("name", ["iou300", "iou1.5", "a101", "a0"])
def test_a_number_that_a_metric_does_not_take_is_refused(name):
    with pytest.raises(dd.UserError, match=f"metric '{name}': a "):
        create_metric(name)
