"""What must hold of every registered metric of maps, whatever it measures."""

import pytest
import torch

from densedistill.metrics import METRICS, create_metric, metric_info
from densedistill.tasks import get_task, list_tasks

NUMBERS = {"bad": "bad2", "a": "a90", "iou": "iou3"}
NAMES = [
    NUMBERS.get(name, name) for name in METRICS if "boxes" not in metric_info(NUMBERS.get(name, name)).of
]
IMAGES, CLASSES = 5, 4


def _maps(name):
    """Return the metric's task, and outputs, ground truth and masks of a few images, the first all valid."""
    keys = metric_info(name).of
    task = next(t for t in map(get_task, list_tasks()) if set(keys) <= set(t.outputs))
    generator = torch.Generator().manual_seed(0)
    outputs, truth = {}, {}
    for key in keys:
        target = task.targets[key]
        if key == "logits":
            outputs[key] = torch.randn(IMAGES, CLASSES, 7, 9, generator=generator)
            truth[target] = torch.randint(0, CLASSES, (IMAGES, 7, 9), generator=generator)
        else:
            values = 1 + 60 * torch.rand(IMAGES, 2 if key == "flow" else 1, 7, 9, generator=generator)
            truth[target] = values
            outputs[key] = values + 4 * torch.rand(values.shape, generator=generator)
        shares = torch.linspace(1, 0.2, IMAGES).view(-1, *[1] * (truth[target].ndim - 1))
        mask = truth[target][:, :1] if truth[target].ndim == 4 else truth[target]
        truth[f"{target}_valid"] = torch.rand(mask.shape, generator=generator) < shares
    return task, outputs, truth


def _figure(name, task, outputs, truth, batches, per_image, metric=None):
    metric = metric or create_metric(name, per_image=per_image)
    for batch in batches:
        parts = ({key: value[batch] for key, value in maps.items()} for maps in (outputs, truth))
        metric.update(*metric_info(name).arguments(*parts, task))
    return metric.compute()


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_neither_the_order_of_images_nor_their_batches_nor_what_was_before_a_reset_matters(name, per_image):
    task, outputs, truth = _maps(name)
    whole = _figure(name, task, outputs, truth, [[0, 1, 2, 3, 4]], per_image)
    metric = create_metric(name, per_image=per_image)
    _figure(name, task, outputs, truth, [[1], [4]], per_image, metric)
    metric.reset()
    for batches in ([[i] for i in range(IMAGES)], [[3, 1], [4], [2, 0]]):
        torch.testing.assert_close(_figure(name, task, outputs, truth, batches, per_image), whole)
    torch.testing.assert_close(
        _figure(name, task, outputs, truth, [[4, 2, 0, 1, 3]], per_image, metric), whole
    )


@pytest.mark.parametrize("rubbish", [1e9, float("inf"), float("nan")])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_predicted_or_written_where_nothing_is_known_does_not_matter(name, per_image, rubbish):
    task, outputs, truth = _maps(name)
    order = [list(range(IMAGES))]
    whole = _figure(name, task, outputs, truth, order, per_image)
    spoilt_outputs, spoilt_truth = dict(outputs), dict(truth)
    for key in outputs:
        target = task.targets[key]
        known = truth[f"{target}_valid"]
        spoilt_outputs[key] = outputs[key].where(known if known.ndim == 4 else known[:, None], rubbish)
        spoilt_truth[target] = truth[target].where(known, 255 if key == "logits" else rubbish)
    torch.testing.assert_close(_figure(name, task, spoilt_outputs, spoilt_truth, order, per_image), whole)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_prediction_is_best_and_an_image_without_truth_adds_nothing(name, per_image):
    task, outputs, truth = _maps(name)
    perfect = {key: truth[task.targets[key]] for key in outputs}
    if "logits" in perfect:
        perfect["logits"] = torch.nn.functional.one_hot(perfect["logits"], CLASSES).movedim(-1, 1).float()
    best = 1.0 if metric_info(name).larger_is_better else 0.0
    assert _figure(name, task, perfect, truth, [[0, 1], [2, 3, 4]], per_image).item() == pytest.approx(best)
    for key in [key for key in truth if key.endswith("_valid")]:
        truth[key][2] = False
    without = _figure(name, task, outputs, truth, [[0, 1, 3, 4]], per_image)
    for batches in ([[0, 1, 2, 3, 4]], [[0, 1], [2], [3, 4]]):
        torch.testing.assert_close(_figure(name, task, outputs, truth, batches, per_image), without)
    assert _figure(name, task, outputs, truth, [[2]], per_image).isnan()
