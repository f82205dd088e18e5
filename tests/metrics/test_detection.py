"""COCO's average precision on cases that are known."""

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

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


def test_answers_in_a_crowd_count_neither_for_nor_against():
    boxes = torch.tensor([[[0.0, 0, 50, 50], [60, 60, 70, 70], [70, 70, 80, 80], [95, 95, 100, 100]]])
    outputs = {
        "boxes": boxes,
        "scores": torch.tensor([[0.5, 0.9, 0.8, 0.4]]),
        "classes": torch.zeros(1, 4, dtype=torch.int64),
    }
    truth = {"boxes": boxes[:, :1], "classes": torch.zeros(1, 1, dtype=torch.int64)}
    crowd = {"ignored_boxes": torch.tensor([[[55.0, 55, 90, 90]]]), "ignored_classes": torch.tensor([[0]])}
    assert mean_average_precision(outputs, truth).item() < 0.4
    assert mean_average_precision(outputs, truth | crowd).item() == pytest.approx(1)
    crowd["ignored_classes"][:] = 1  # of another class, or padding
    assert mean_average_precision(outputs, truth | crowd).item() < 0.4
    crowd["ignored_classes"][:] = -1
    assert mean_average_precision(outputs, truth | crowd).item() < 0.4


def random_image(rng):
    """Some true boxes, and answers that miss, repeat and invent, often with equal scores."""
    count = int(rng.integers(0, 9))
    corner = rng.integers(0, 300, (count, 2))
    known = np.concatenate((corner, corner + rng.choice([0, 1, 8, 60], (count, 2))), 1)
    classes, repeats = rng.integers(0, 4, count), rng.integers(0, 3, count)
    moved = np.repeat(known, repeats, 0) + rng.integers(-3, 4, (repeats.sum(), 4))
    answers = np.concatenate((moved, rng.integers(0, 300, (2, 4))))
    answers[:, 2:] = np.maximum(answers[:, :2], answers[:, 2:])
    of_answers = np.concatenate((np.repeat(classes, repeats), rng.integers(0, 6, 2)))
    return known, classes, answers, of_answers, rng.choice([0.25, 0.5, 0.75], len(answers))


def coco_format(boxes, classes, image, scores=None, crowds=None):
    for i, (box, label) in enumerate(zip(boxes.tolist(), classes.tolist(), strict=True)):
        sides = [*box[:2], box[2] - box[0], box[3] - box[1]]
        one = {"image_id": image, "category_id": label + 1, "bbox": sides, "area": sides[2] * sides[3]}
        yield {**one, "iscrowd": int(crowds[i])} if scores is None else {**one, "score": float(scores[i])}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0], ids=["no crowds", "crowds", "crowds alone"])
@pytest.mark.parametrize("seed", [0, 1, 9])
def test_figures_are_those_of_pycocotools(seed, share):
    """Ties, boxes without size, images without boxes or answers, classes that never occur, several answers in
    a crowd."""
    rng = np.random.default_rng(seed)
    images = [random_image(rng) for _ in range(6)]
    images.append((np.zeros((0, 4)), np.zeros(0, int), *images[0][2:]))
    images.append((*images[1][:2], np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)))
    truth, answers = COCO(), []
    metrics = create_metric("map"), create_metric("map50")
    known = []
    for number, (boxes, classes, found, labels, scores) in enumerate(images, start=1):
        crowd = rng.random(len(boxes)) < share
        known += coco_format(boxes, classes, number, crowds=crowd)
        answers += coco_format(found, labels, number, scores)
        outputs = {"boxes": found, "scores": scores, "classes": labels}
        targets = {"boxes": boxes[~crowd], "classes": classes[~crowd]}
        if crowd.any():
            targets |= {"ignored_boxes": boxes[crowd], "ignored_classes": classes[crowd]}
        batch, target = (
            {key: torch.from_numpy(value)[None] for key, value in part.items()} for part in (outputs, targets)
        )
        for metric in metrics:
            metric.update(batch, target)
    truth.dataset = {
        "info": {},
        "images": [{"id": number, "height": 400, "width": 400} for number in range(1, len(images) + 1)],
        "annotations": [{**one, "id": number} for number, one in enumerate(known, start=1)],
        "categories": [{"id": number, "name": str(number)} for number in range(1, 7)],
    }
    truth.createIndex()
    official = COCOeval(truth, truth.loadRes(answers), "bbox")
    official.evaluate()
    official.accumulate()
    official.summarize()
    for metric, expected in zip(metrics, official.stats, strict=False):
        expected = np.nan if expected < 0 else expected
        assert metric.compute().item() == pytest.approx(expected, abs=1e-6, nan_ok=True)
