"""COCO's average precision on cases that are known."""

import pytest
import torch

from densedistill.errors import UserError
from densedistill.metrics import create_metric
from densedistill.metrics.detection import mean_average_precision

TRUTH = {
    "boxes": torch.tensor([[[0.0, 0, 50, 50], [60, 60, 90, 90]], [[10, 10, 40, 40], [0, 0, 0, 0]]]),
    "classes": torch.tensor([[0, 1], [0, -1]]),
}


def found(**changes):
    outputs = {"boxes": TRUTH["boxes"].clone(), "classes": TRUTH["classes"].clone()}
    outputs["scores"] = torch.tensor([[0.9, 0.8], [0.7, 0.0]])
    return {**outputs, **changes}


def test_right_answers_are_one_and_padding_counts_for_nothing():
    assert mean_average_precision(found(), TRUTH).item() == pytest.approx(1)
    assert mean_average_precision(found(), TRUTH, overlap=0.5).item() == pytest.approx(1)


def test_a_wrong_class_and_a_loose_box_cost():
    wrong = found(classes=torch.tensor([[0, 0], [0, -1]]))
    assert mean_average_precision(wrong, TRUTH).item() < 0.6
    loose = found(boxes=TRUTH["boxes"] + torch.tensor([0.0, 0, 8, 8]))
    assert mean_average_precision(loose, TRUTH, overlap=0.5).item() == pytest.approx(1)
    assert mean_average_precision(loose, TRUTH).item() < 0.7


def test_nothing_true_is_no_figure():
    empty = {"boxes": torch.zeros(1, 0, 4), "classes": torch.zeros(1, 0, dtype=torch.int64)}
    outputs = {**empty, "scores": torch.zeros(1, 0)}
    assert mean_average_precision(outputs, empty).isnan()
    with pytest.raises(UserError, match=r"at an overlap of 0\.5"):
        mean_average_precision(outputs, empty, overlap=0.3)


def test_batches_are_pooled():
    metric = create_metric("map")
    for i in range(2):
        one = [{key: value[i : i + 1] for key, value in part.items()} for part in (found(), TRUTH)]
        metric.update(*one)
    assert metric.compute().item() == pytest.approx(1)
