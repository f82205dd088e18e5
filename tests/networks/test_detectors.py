"""FCOS and other libraries' detectors: what they answer, and how they learn."""

import pytest
import torch

import densedistill as dd
from densedistill.distillation.teachers import create_teacher
from densedistill.networks.counting import count_model
from densedistill.networks.fcos import Head
from densedistill.networks.layers.boxes import Decoding, locations
from densedistill.networks.published import save_weights

DETECTORS = dd.list_models(task="detection")


def small(name):
    options = {"channels": 64} if name == "fcos" else {}
    return dd.create_model(name, classes=3, **options)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_answers_in_boxes_and_learns_every_parameter(name, tmp_path):
    torch.manual_seed(0)
    network = small(name)
    image = torch.randn(2, 3, 64, 96)
    objective = dd.Objective(
        {"boxes": {"loss": "fcos", "of": "predictions", "to": "ground_truth", "improved": network.improved}},
        network,
    )
    batch = {
        "image": torch.randint(0, 255, (2, 3, 64, 96), dtype=torch.uint8),
        "boxes": torch.tensor([[[4.0, 4, 60, 60], [0, 0, 0, 0]], [[10, 10, 40, 30], [30, 5, 90, 60]]]),
        "classes": torch.tensor([[0, -1], [2, 1]]),
    }
    total, _ = objective(batch)
    total.backward()
    # A scale is learned where a level has a box.
    silent = [n for n, p in network.named_parameters() if p.grad is None and not n.endswith(".scale")]
    assert not silent
    network.eval()
    with torch.no_grad():
        found = network(image)
    assert found["boxes"].shape[:2] == found["scores"].shape == found["classes"].shape
    assert found["boxes"].shape[1] <= 100
    path = save_weights(network, tmp_path / "weights.safetensors")
    again = dd.create_model(name, weights=path)
    with torch.no_grad():
        assert torch.equal(again(image)["scores"], found["scores"])


def test_a_size_that_does_not_fit_is_refused_in_one_line():
    with pytest.raises(dd.UserError, match=r"multiples of 32, got 64x65"):
        small("fcos")(torch.zeros(1, 3, 64, 65))


def test_detections_are_decoded_suppressed_and_padded():
    decode = Decoding(strides=(8, 16))
    raw = {
        "class_logits": torch.full((2, 20, 2), -20.0),
        "distances": torch.full((2, 20, 4), 4.0),
        "centerness": torch.full((2, 20, 1), -20.0),
    }
    for position, label, logit in ((5, 0, 4.0), (6, 0, 3.0), (16, 1, 5.0)):  # 5 and 6 hardly meet
        raw["class_logits"][0, position, label] = raw["centerness"][0, position] = logit
    found = decode(raw, (32, 32))
    assert found["classes"].tolist() == [[1, 0, 0], [-1, -1, -1]]
    assert found["boxes"][0, 1].tolist() == [8, 8, 16, 16]
    assert not found["boxes"][1].any()
    assert not found["scores"][1].any()
    expected = (torch.tensor(4.0).sigmoid() ** 2).sqrt()
    torch.testing.assert_close(found["scores"][0, 1], expected)
    raw["distances"][:] = 30.0  # now they all but cover each other
    found = decode(raw, (32, 32))
    assert found["classes"][0].tolist() == [1, 0]
    best = Decoding(strides=(8, 16), detections=1)(raw, (32, 32))
    assert best["scores"].tolist() == found["scores"][:, :1].tolist()


def test_boxes_end_at_the_borders_of_the_image():
    positions = 4 * 8 + 2 * 4
    raw = {
        "class_logits": torch.full((1, positions, 1), -20.0),
        "distances": torch.full((1, positions, 4), 100.0),
        "centerness": torch.zeros(1, positions, 1),
    }
    raw["class_logits"][0, 7] = 4.0
    assert Decoding(strides=(8, 16))(raw, (32, 64))["boxes"].tolist() == [[[0, 0, 64, 32]]]


@pytest.mark.parametrize("improved", [False, True])
def test_the_improved_head_reads_centerness_beside_the_box_and_rectifies_distances(improved):
    torch.manual_seed(0)
    head = Head(32, 3, improved).eval()
    level = torch.randn(1, 32, 4, 5)
    logits, distances, centerness = head(level, 2)
    torch.testing.assert_close(logits, head.classification(head.class_tower(level)))
    raw = head.regression(head.box_tower(level))
    torch.testing.assert_close(distances, raw.relu() if improved else raw.exp())
    tower = head.box_tower if improved else head.class_tower
    torch.testing.assert_close(centerness, head.centerness(tower(level)))
    torch.testing.assert_close(logits.sigmoid().mean(), torch.tensor(0.01), rtol=0.2, atol=0)


def test_distances_in_strides_come_out_in_pixels():
    network = small("fcos").eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        network.raw = True
        raw = network(image)["distances"]
        levels = [network.head(level, i)[1] for i, level in enumerate(network.pyramid(network.body(image)))]
    strides = (8, 16, 32, 64, 128)
    expected = [
        (level * stride).flatten(2).transpose(1, 2) for level, stride in zip(levels, strides, strict=True)
    ]
    torch.testing.assert_close(raw, torch.cat(expected, 1))


def test_locations_lie_half_a_stride_in():
    assert locations([(1, 2)], (8,)).tolist() == [[4, 4], [12, 4]]


def test_costs_of_a_detector_are_counted_without_computing():
    assert count_model("fcos_mnv2_c128", (128, 128)).macs > 1e8


def test_a_detector_of_torchvision_teaches():
    teacher = create_teacher(
        "torchvision", detector="ssdlite320_mobilenet_v3_large", classes=4, numbers=[1, 2], score_thresh=0.0
    )
    image = torch.randint(0, 255, (2, 3, 64, 96), dtype=torch.uint8)
    found = teacher({"image": image})
    assert found["boxes"].shape[-1] == 4
    assert {0, 1} <= set(found["classes"].unique().tolist()) <= {-1, 0, 1}
    with pytest.raises(dd.UserError, match="torchvision has no detector 'fcos_resnet5'"):
        create_teacher("torchvision", detector="fcos_resnet5")


def test_other_libraries_networks_are_refused_by_name_in_one_line():
    with pytest.raises(dd.UserError, match="timm has no network 'resnet81'"):
        dd.create_model("timm_pyramid", encoder="resnet81")
    with pytest.raises(dd.UserError, match="makes no 'unnet'"):
        dd.create_model("smp", architecture="unnet")


def test_pairs_of_all_pyramid_levels_and_class_logits_are_distilled():
    torch.manual_seed(0)
    student, teacher = dd.create_model("fcos_mnv2_c128", classes=3), small("fcos")
    objective = dd.Objective(
        {
            "pair": {"loss": "pairwise_cvpr19", "of": "pyramid", "to": "teacher", "pool": 2},
            "logits": {"loss": "class_kl", "of": "classification", "to": "teacher"},
        },
        student,
        {"teacher": teacher},
    )
    total, parts = objective({"image": torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)})
    assert set(parts) == {"pair", "logits"}
    assert total.isfinite()
    assert total > 0


def test_teacher_and_student_of_other_class_counts_are_refused_before_training():
    student, teacher = dd.create_model("fcos_mnv2_c128", classes=3), dd.create_model("fcos", classes=4)
    terms = {"logits": {"loss": "class_kl", "of": "classification", "to": "teacher"}}
    with pytest.raises(dd.UserError, match=r"objective.logits: .*adapter"):
        dd.Objective(terms, student, {"teacher": teacher}).check()
