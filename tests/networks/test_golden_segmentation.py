"""Networks of segmentation and detection against vectors recorded from their published implementations."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import densedistill as dd
import golden
from densedistill.networks.discriminator import Discriminator

GOLDEN = Path(__file__).parent.parent / "golden"

# Recorded tensor to the module whose output it is.
INNER = {
    "logits": lambda net: net.taps["scores"][0],
    "logits_image64": lambda net: net.taps["scores"][0],
    "logits_aux": lambda net: "auxiliary",
    "logits_encoder": lambda net: "encoder.classifier",
    "feature_encoder": lambda net: "encoder.b3",
    "feature_psp": lambda net: "pyramid",
    "feature": lambda net: "layer4",
    **{f"layer{i}": lambda net, i=i: f"layer{i}" for i in (1, 2, 3, 4)},
}
NAMES = [
    "espnet",
    "espnet_c",
    "espnet_c_upstream",
    "espnet_upstream",
    "espnet_upstream_city",
    "pspnet_r18",
    "resnet18_cvpr19",
    pytest.param("pspnet_r101", marks=pytest.mark.full),
]
DISCRIMINATORS = ["discriminator", "discriminator_tanh", "discriminator_cvpr19"]


class Case:
    """A network with its golden weights, loaded from a file in the published layout."""

    def __init__(self, name, folder, rename=lambda key: key):
        self.name = name
        self.manifest = json.loads((GOLDEN / f"{name}.json").read_text())
        self.arrays = np.load(GOLDEN / f"{name}.npz")
        entries = golden.golden_state_dict(self.manifest["entries"])
        path = folder / "published.pth"
        torch.save({rename(key): torch.from_numpy(value) for key, value in entries.items()}, path)
        self.network = dd.create_model(name, weights=path, classes=self.manifest["classes"])

    def inputs(self, name="image"):
        what = self.manifest["inputs"][name]
        return torch.from_numpy(golden.golden_input(name, what["shape"], what["kind"]))

    def inner(self, image):
        """Return what every module gives for `image`, the auxiliary head's included, by path."""
        seen = {}
        hooks = [
            module.register_forward_hook(lambda m, i, o, path=path: seen.setdefault(path, []).append(o))
            for path, module in self.network.named_modules()
        ]
        training_heads(self.network)
        with torch.no_grad():
            seen["outputs"] = self.network(image)
        for hook in hooks:
            hook.remove()
        self.network.eval()
        return seen


def training_heads(network):
    """Put the network itself into training mode, so that all heads answer, and its layers into evaluation."""
    network.eval()
    network.training = True


def error(actual, expected):
    actual = np.asarray(actual, np.float64).reshape(expected.shape)
    return np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-30)


def stored(tensor, what):
    return tensor[:, :: int(what["slice"].split("::")[1][:-1])] if "slice" in what else tensor


@pytest.fixture(scope="module", params=NAMES)
def case(request, tmp_path_factory):
    return Case(request.param, tmp_path_factory.mktemp("golden"))


def test_has_the_published_number_of_parameters(case):
    assert sum(p.numel() for p in case.network.parameters()) == case.manifest["params"]


def test_every_recorded_tensor_equals_the_published_one(case):
    seen = {None: case.inner(case.inputs())}
    if "image64" in case.manifest["inputs"]:
        seen["image64"] = case.inner(case.inputs("image64"))
    for name, what in case.manifest["outputs"].items():
        inner = seen["image64" if name.endswith("image64") else None]
        (tensor,) = inner[INNER[name](case.network)]
        assert error(stored(tensor, what), case.arrays[name]) < what["tolerance"], name


def test_training_and_evaluation_give_the_recorded_logits_at_the_size_of_the_image(case):
    image = case.inputs()
    inner = case.inner(image)
    with torch.no_grad():
        logits = case.network(image)["logits"]
    assert logits.shape == (1, case.manifest["classes"], *image.shape[-2:])
    (scores,) = inner[case.network.taps["scores"][0]]
    enlarged = nn.functional.interpolate(scores, image.shape[-2:], mode="bilinear", align_corners=True)
    torch.testing.assert_close(logits, enlarged)
    trained = inner["outputs"]
    torch.testing.assert_close(trained["logits"], logits)
    assert trained["intermediate"][-1]["logits"] is trained["logits"]


def test_the_teachers_other_layout_and_a_prefixed_file_load_too(tmp_path):
    layouts = {
        "teacher": lambda key: (
            key.replace("pspmodule.", "head.0.")
            if "pspmodule" in key
            else key.replace("head.", "head.1.", 1)
            if key.startswith("head.")
            else key
        ),
        "prefixed": lambda key: f"module.{key}",
    }
    for name, rename in layouts.items():
        (tmp_path / name).mkdir()
        case = Case("pspnet_r18", tmp_path / name, rename)
        (logits,) = case.inner(case.inputs())["head"]
        assert error(logits, case.arrays["logits"]) < 1e-4


def test_negative_weights_of_an_activated_normalisation_count_by_their_size(tmp_path):
    case = Case("pspnet_r18", tmp_path)
    for module in case.network.modules():
        if type(module).__name__ == "ActivatedNorm":
            module.weight.data[::2] *= -1
    (logits,) = case.inner(case.inputs())["head"]
    assert error(logits, case.arrays["logits"]) < 1e-4


def test_a_checkpoint_of_other_classes_is_refused_in_one_line(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(dd.create_model("espnet_c", classes=19).state_dict(), path)
    with pytest.raises(dd.UserError, match="of another shape") as refused:
        dd.create_model("espnet_c", weights=path, classes=11)
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return Case("fcos_mnv2_c128", tmp_path_factory.mktemp("golden"))


def test_fcos_equals_the_published_network_on_every_level(detector):
    seen = detector.inner(detector.inputs())
    assert sum(p.numel() for p in detector.network.parameters()) == detector.manifest["params"]
    for i, level in enumerate(seen["outputs"]["intermediate"]):
        found = {
            f"cls{i + 3}": level["class_logits"],
            f"box{i + 3}": level["distances"],
            f"centerness{i + 3}": level["centerness"],
            f"p{i + 3}": seen[f"pyramid.outer.{i}"][0],
        }
        for name, tensor in found.items():
            what = detector.manifest["outputs"][name]
            assert error(stored(tensor, what), detector.arrays[name]) < what["tolerance"], name


def test_fcos_taps_hold_five_levels_and_the_joint_predictions(detector):
    with dd.Taps(detector.network, ["pyramid", "classification", "predictions"]) as taps:
        detector.network(detector.inputs())
        assert [tuple(t.shape[-2:]) for t in taps["pyramid"]] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
        assert len(taps["classification"]) == 5
        assert taps["predictions"][0].shape == (1, 16 * 24 + 8 * 12 + 4 * 6 + 2 * 3 + 2, 85)


def test_the_wide_fcos_has_the_published_number_of_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in dd.create_model("fcos_mnv2").parameters()) == 9_798_234


def judge(name, folder):
    manifest = json.loads((GOLDEN / f"{name}.json").read_text())
    entries = golden.golden_state_dict(manifest["entries"])
    torch.save({key: torch.from_numpy(value) for key, value in entries.items()}, folder / "published.pth")
    network = dd.create_model(name, weights=folder / "published.pth")
    inputs = {
        key: torch.from_numpy(golden.golden_input(key, what["shape"], what["kind"]))
        for key, what in manifest["inputs"].items()
    }
    return network, list(inputs.values()), np.load(GOLDEN / f"{name}.npz"), manifest


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_discriminators_equal_the_published_ones_and_iterate_in_every_pass(name, tmp_path):
    network, inputs, arrays, manifest = judge(name, tmp_path)
    with torch.no_grad():
        first = network(*inputs)
        assert error(first.score, arrays["score"]) < 1e-4
        for i, attention in enumerate(first.attention, start=1):
            if f"attention{i}" in arrays:
                assert error(attention, arrays[f"attention{i}"]) < 1e-4
        for i in (1, 2, 3, 4):
            for vector in "uv":
                if f"l{i}_{vector}" in arrays:
                    held = getattr(getattr(network, f"l{i}")[0].module, f"weight_{vector}")
                    assert error(held, arrays[f"l{i}_{vector}"]) < 1e-4
        assert error(network(*inputs).score, arrays["score_second_call"]) < 1e-4
    assert sum(p.numel() for p in network.parameters()) == manifest["trainable"]


def test_a_discriminator_has_a_name_and_no_task():
    assert not dd.list_models("discriminator*")
    with pytest.raises(dd.UserError, match="predicts nothing by itself"):
        dd.evaluate("discriminator", "samples")


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        ("tanh", lambda scores: scores.tanh()),
        ("scale", lambda scores: scores / 127.5 - 1),
        ("softmax", lambda scores: scores.softmax(1)),
    ],
)
def test_a_discriminator_prepares_scores_as_it_is_told(prepare, expected):
    scores, seen = 100 * torch.randn(1, 3, 64, 64), []
    network = Discriminator(3, prepare, width=8)
    network.l1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(scores)
    torch.testing.assert_close(seen[0], expected(scores))


def test_a_discriminator_takes_maps_of_any_size():
    network = Discriminator(4, width=8)
    assert network(torch.randn(2, 4, 22, 30)).score.shape == (2, 1, 1, 1)
    assert network(torch.randn(2, 4, 130, 70)).score.shape[-2:] == (5, 1)


@pytest.mark.parametrize(
    ("options", "scores", "says"),
    [
        ({}, (1, 3, 65, 65), r"takes \(B, 4, h, w\), got \(1, 3, 65, 65\)"),
        ({"image": True}, (1, 4, 65, 65), "conditioned on the image"),
    ],
)
def test_a_discriminator_refuses_what_it_cannot_judge(options, scores, says):
    with pytest.raises(dd.UserError, match=says):
        Discriminator(4, width=8, **options)(torch.zeros(scores))


def test_espnet_says_how_few_classes_its_last_unit_can_split():
    assert dd.create_model("espnet", classes=5).classes == 5
    with pytest.raises(
        dd.UserError, match="classes is 5 or more, got 2; espnet_c, its encoder alone, takes any"
    ):
        dd.create_model("espnet", classes=2)
    assert dd.create_model("espnet_c", classes=2).classes == 2
