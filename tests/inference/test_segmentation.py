"""How segmentation networks are asked, and what is written."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import densedistill as dd
from densedistill.inference.evaluation import Evaluation
from densedistill.inference.protocols import get_protocol, list_protocols
from densedistill.inference.protocols.segmentation import multi_scale, sliding
from densedistill.tasks import get_task
from densedistill.tasks.files import Predicted


def brightness(image):
    """A network whose logits are the image's channels: what tiles and scales must leave as they are."""
    image = image.float() / 255 if image.dtype == torch.uint8 else image
    return {"logits": image if image.ndim == 4 else image[None]}


def test_tiles_and_scales_of_a_pixelwise_answer_leave_it():
    image = torch.rand(1, 3, 50, 70)
    tiled = sliding(24, 32)(brightness)(image)["logits"]
    torch.testing.assert_close(tiled, image)
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4), (64, 64), mode="bilinear")
    scaled = multi_scale((0.5, 1.0, 2.0))(brightness)(smooth)["logits"]
    assert (scaled - smooth).abs().mean() < 0.02
    stored = multi_scale((0.5, 1.0, 2.0))(brightness)((255 * smooth).round().byte())["logits"]
    assert (stored - scaled).abs().max() < 0.01


def test_logits_of_another_scale_come_back_corner_to_corner():
    seen = []

    def record(image):
        seen.append(image)
        return brightness(image)

    found = multi_scale((0.5,))(record)(torch.rand(1, 3, 20, 30))["logits"]
    corners = (..., [0, 0, -1, -1], [0, -1, 0, -1])
    torch.testing.assert_close(found[corners], seen[0][corners])


def test_tiles_overlap_by_a_third_and_reach_the_edges():
    seen = []

    def record(image):
        seen.append(tuple(image.shape[-2:]))
        return brightness(image)

    sliding(30, 30)(record)(torch.rand(1, 3, 30, 90))
    assert seen == [(30, 30)] * 4
    seen.clear()
    sliding(30, 30)(record)(torch.rand(1, 3, 20, 25))
    assert seen == [(20, 25)]


def test_protocols_have_mirrored_variants():
    names = list_protocols("segmentation")
    assert {"images", "images+flip", "multiscale", "multiscale+flip", "sliding", "sliding+flip"} <= set(names)
    assert len(get_protocol("multiscale+flip", get_task("segmentation")).procedures) == 2


def test_evaluation_by_any_protocol_of_a_network(tmp_path):
    torch.manual_seed(0)
    network = dd.create_model("espnet_c", classes=3).eval()
    labels = torch.randint(0, 3, (24, 32))
    sample = {"image": torch.randint(0, 255, (3, 24, 32), dtype=torch.uint8), "labels": labels, "meta": {}}
    for protocol in ("plain", "images+flip", "sliding"):
        (row,) = dd.evaluate(network, [sample], protocol=protocol, metrics=["miou", "iou0", "accuracy"]).rows
        assert 0 <= row["miou"] <= 1
        assert 0 <= row["accuracy"] <= 1


def test_a_class_that_never_occurs_is_shown_as_not_measured_where_it_was_asked_for(tmp_path):
    sample = {
        "image": torch.zeros(3, 8, 8, dtype=torch.uint8),
        "labels": torch.zeros(8, 8, dtype=torch.int64),
    }

    def predict(image):
        return {"logits": torch.stack((torch.ones(1, 8, 8), torch.zeros(1, 8, 8)), 1)}

    predict.task = "segmentation"
    found = dd.evaluate(predict, [sample], metrics=["iou0", "iou1", "miou"])
    assert "iou1" not in found.rows[0]  # null in a file is what is infinite
    shown = {column.header: list(column.cells) for column in found.table().columns[3:-1]}
    assert shown == {"IoU0": ["100.00"], "IoU1": ["–"], "mIoU": ["100.00"]}
    written = json.loads(found.write_json(tmp_path / "found.json").read_text())
    assert str(Evaluation.from_dict(written)) == str(found)
    assert "–" in str(dd.evaluate(predict, [sample], metrics=["iou1"]))
    assert "IoU" not in str(dd.evaluate(predict, [sample], metrics=["accuracy"]))


def test_label_ids_are_written_from_train_ids(tmp_path):
    logits = np.zeros((19, 2, 3), np.float32)
    logits[13, 0] = logits[0, 1] = 1
    writer = get_task("segmentation").writers["labelids"]
    image = np.zeros((2, 3, 3), np.uint8)
    writer.write(tmp_path / "x.png", Predicted({"logits": logits}, image))
    assert np.asarray(Image.open(tmp_path / "x.png")).tolist() == [[26] * 3, [7] * 3]
    other = np.zeros((21, 2, 3), np.float32)
    other[20] = 1
    with pytest.raises(dd.UserError, match="19 classes; the network predicts class 20"):
        writer.write(tmp_path / "y.png", Predicted({"logits": other}, image))
    assert not (tmp_path / "y.png").exists()


def test_classes_that_8_bits_cannot_tell_from_unknown_are_refused(tmp_path):
    image, writer = np.zeros((1, 1, 3), np.uint8), get_task("segmentation").writers["png"]
    for number in (254, 255, 299):
        logits = np.eye(300, dtype=np.float32)[number].reshape(300, 1, 1)
        if number == 254:
            writer.write(tmp_path / "254.png", Predicted({"logits": logits}, image))
            assert np.asarray(Image.open(tmp_path / "254.png")).tolist() == [[254]]
        else:
            with pytest.raises(dd.UserError, match=f"255 is unknown; the map has {number}"):
                writer.write(tmp_path / "x.png", Predicted({"logits": logits}, image))
