"""Detectors measured on samples with boxes."""

import json
import warnings

import cv2
import numpy as np
import pytest
import torch

import densedistill as dd
from densedistill.errors import DataWarning
from densedistill.inference.predict import predict

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


def test_what_is_found_is_written_by_the_names_that_the_network_knows(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((48, 64, 3), np.uint8))
    network = dd.wrap(
        torch.nn.Identity(),
        task="detection",
        outputs=lambda _: {"boxes": FOUND, "scores": torch.ones(1, 3), "classes": torch.tensor([[0, 1, 7]])},
    )
    network.classes = ("RBC", "WBC")
    predict(network, [tmp_path / "a.png"], tmp_path / "out", write=["json"])
    found = json.loads((tmp_path / "out" / "a.json").read_text())
    assert (found["width"], found["height"]) == (64, 48)
    assert [box["box"] for box in found["boxes"]] == FOUND[0].tolist()
    told = [(box["class"], box.get("name")) for box in found["boxes"]]
    assert told == [(0, "RBC"), (1, "WBC"), (7, None)]


class Samples(list):
    """Samples with a data set's classes."""

    name = "cells"
    classes = ("RBC", "WBC", "Platelets")


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_network_with_another_number_of_classes_is_doubted_in_one_line(count):
    detector = dd.create_model("fcos_mnv2_c128", classes=count)
    labels = torch.zeros(48, 64, dtype=torch.int64)
    segments = dd.wrap(torch.nn.Conv2d(3, count, 1), task="segmentation", outputs=lambda y: {"logits": y})
    image = torch.zeros(3, 48, 64, dtype=torch.uint8)
    sets = {
        "fcos": (detector, Samples([sample(), sample()])),
        "net": (segments, Samples([{"image": image, "labels": labels}] * 2)),
    }
    for label, (network, samples) in sets.items():
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            dd.evaluate({label: network}, samples)
        doubts = [str(one.message) for one in said if one.category is DataWarning]
        expected = f"{label} tells {count} classes apart, cells has 3: "
        assert [doubt[: len(expected)] for doubt in doubts] == ([] if count == 3 else [expected])
