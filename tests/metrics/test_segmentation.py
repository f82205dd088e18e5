"""Mean intersection over union against torchmetrics', pooled over pixels, and what does not count."""

import pytest
import torch
from torchmetrics.functional.classification import multiclass_jaccard_index

from densedistill.metrics import MeanIoU, create_metric, mean_iou


def test_equals_the_mean_of_torchmetrics_over_batches_of_any_size():
    generator = torch.Generator().manual_seed(0)
    metric = create_metric("miou")
    assert isinstance(metric, MeanIoU)
    logits = torch.randn(5, 4, 8, 9, generator=generator)
    labels = torch.randint(0, 4, (5, 8, 9), generator=generator)
    labels[:, 0] = 255
    metric.update(logits[:1], labels[:1])
    metric.update(logits[1:], labels[1:])
    expected = multiclass_jaccard_index(logits, labels, num_classes=4, average="macro", ignore_index=255)
    assert metric.compute().item() == pytest.approx(expected.item(), abs=1e-6)
    assert mean_iou(logits, labels).item() == pytest.approx(expected.item(), abs=1e-6)


def test_classes_that_nowhere_occur_do_not_count():
    labels = torch.tensor([[[0, 0, 7]]])
    assert mean_iou(labels, labels).item() == 1.0
    valid = torch.tensor([[[True, False, True]]])
    assert mean_iou(torch.tensor([[[0, 3, 7]]]), labels, valid).item() == 1.0
