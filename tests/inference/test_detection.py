"""Detectors measured on samples with boxes."""

import pytest
import torch

import densedistill as dd

FOUND = torch.tensor([[[0.0, 0, 20, 20], [30, 30, 36, 36], [36, 36, 44, 44]]])


def detector():
    """A network that answers with the same boxes of class 0 for any image, best those in the crowd."""
    outputs = {"boxes": FOUND, "scores": torch.tensor([[0.3, 0.9, 0.8]]), "classes": torch.zeros(1, 3).long()}
    return dd.wrap(torch.nn.Identity(), task="detection", outputs=lambda _: outputs)


def sample(**more):
    image = torch.zeros(3, 48, 64, dtype=torch.uint8)
    return {"image": image, "boxes": FOUND[0, :1], "classes": torch.zeros(1).long(), **more}


def test_what_is_found_in_a_crowd_is_overlooked():
    crowd = {"ignored_boxes": torch.tensor([[25.0, 25, 48, 48]]), "ignored_classes": torch.zeros(1).long()}
    rows = dd.evaluate(detector(), {"plain": [sample()], "crowd": [sample(**crowd)]}).rows
    assert rows[0]["map"] == pytest.approx(1 / 3, abs=0.01)
    assert rows[1]["map"] == pytest.approx(1)
