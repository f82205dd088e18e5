"""Every depth network against the vectors recorded from its published implementation (tests/golden)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import densedistill as dd
import golden
from densedistill.networks.counting import count
from densedistill.networks.depth_slim import Block

GOLDEN = Path(__file__).parent.parent / "golden"

LIGHT = ("spatialkd_mobilenetv2", "spatialkd_resnet18", "vnl_mobilenetv2")
HEAVY = ("spatialkd_resnext101", "lapdepth_resnext101", "lapdepth_resnext101_gn", "vnl_resnext101")
NAMES = [*LIGHT, *(pytest.param(name, marks=pytest.mark.full) for name in HEAVY)]


def published_files(name, folder):
    """Write the golden weights as they are released, and return what `weights` says to load them."""
    entries = json.loads((GOLDEN / f"{name}.json").read_text())["entries"]
    state = {key: torch.from_numpy(value) for key, value in golden.golden_state_dict(entries).items()}
    if name.startswith("spatialkd"):
        parts = {
            part: {key: value for key, value in state.items() if key.startswith(f"module.{part}")}
            for part in ("encoder", "decoder")
        }
        for part, kept in parts.items():
            torch.save(kept, folder / f"{part}.pkl")
        return f"{folder / 'encoder.pkl'}+{folder / 'decoder.pkl'}"
    if name.startswith("vnl"):
        prefixed = {f"depth_model.{key}": value for key, value in state.items()}
        state = {"step": 1, "epoch": 1, "model_state_dict": prefixed, "optimizer": {}, "scheduler": {}}
    torch.save(state, folder / "weights.pth")
    return str(folder / "weights.pth")


class Case:
    """A network with its golden weights, what was recorded, and what it computes for the same image."""

    def __init__(self, name, folder, training=False):
        self.name = name
        self.manifest = json.loads((GOLDEN / f"{name}.json").read_text())
        self.arrays = dict(np.load(GOLDEN / f"{name}.npz"))
        options = {"freeze": True} if name.startswith("lapdepth") else {}
        self.network = dd.create_model(name, weights=published_files(name, folder), **options)
        self.network.train(training)
        self.tensors = {}
        for path, module in self.network.named_modules():
            module.register_forward_hook(self._record(path))
        self.depth = self.predict("image")

    def _record(self, path):
        def hook(module, inputs, output):
            self.tensors[path] = output

        return hook

    def predict(self, name):
        what = self.manifest["inputs"][name]
        image = torch.from_numpy(golden.golden_input(name, what["shape"], what["kind"]))
        with torch.no_grad():
            return self.network(image)["depth"]

    def assert_equal(self, path, key, tolerance=1e-4, factor=1.0):
        actual = self.tensors[path]
        actual = actual[1] if isinstance(actual, tuple) else actual
        what = self.manifest["outputs"][key]
        if "slice" in what:
            actual = actual[:, :: int(what["slice"].split("::")[1].rstrip("]"))]
        assert_near(actual * factor, self.arrays[key], max(tolerance, what.get("tolerance", 0)), key)


def assert_near(actual, expected, tolerance, key=""):
    actual = actual.double().numpy().reshape(expected.shape)
    error = np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-30)
    assert error < tolerance, (key, error)


@pytest.fixture(scope="module", params=NAMES)
def case(request, tmp_path_factory):
    return Case(request.param, tmp_path_factory.mktemp("golden"))


def test_every_golden_file_of_a_depth_network_is_tested():
    files = {path.stem for path in GOLDEN.glob("*.npz")}
    assert {f for f in files if f.startswith(("spatialkd_", "lapdepth_", "vnl_"))} == {*LIGHT, *HEAVY}


def test_parameters_equal_published_network(case):
    assert sum(p.numel() for p in case.network.parameters()) == case.manifest["params"]
    parts = case.manifest.get("params_parts", {})
    if "decoder" in parts and case.name.startswith("spatialkd"):
        assert sum(p.numel() for p in case.network.decoder.parameters()) == parts["decoder"]
        assert sum(p.numel() for p in case.network.encoder.adapters.parameters()) == parts["adaptation"]


def test_depth_equals_published_network(case):
    # VNL counts depth in tenths of a metre for NYU.
    factor = 0.1 if case.name.startswith("vnl") else 1.0
    tolerance = case.manifest["outputs"]["depth"].get("tolerance", 2e-5)
    assert_near(case.depth * factor, case.arrays["depth"], tolerance)
    if "depth_large" in case.arrays:
        assert_near(case.predict("image_large"), case.arrays["depth_large"], 2e-5)


def test_inner_tensors_equal_published_network(case):
    if case.name.startswith("spatialkd"):
        case.predict("image")
        for i in range(5):
            case.assert_equal(f"encoder.adapters.{i}", f"feat{i + 1}", 2e-5)
            case.assert_equal(f"decoder.up.{i}", f"dec{i}", 2e-5)
    elif case.name.startswith("vnl"):
        case.assert_equal("predict", "bin_logits")
        case.assert_equal("top", "top")
        for i in range(4):
            case.assert_equal(f"stages.{i}", f"topdown_fcn{i + 1}")
    else:
        for i in range(4):
            case.assert_equal(f"levels.{i}", f"residual_lv{4 - i}", 1e-3, factor=80)
        if "aspp" in case.arrays:
            case.assert_equal("context", "aspp", 1e-3)
            case.assert_equal("coarsest.4", "conv_lv5", 1e-3)


@pytest.mark.full
def test_lapdepth_in_training_equals_published_network(tmp_path):
    case = Case("lapdepth_resnext101", tmp_path, training=True)
    assert_near(case.depth, case.arrays["train_depth"], 1e-3)
    case.assert_equal("context", "train_aspp", 1e-3)
    case.assert_equal("coarsest.4", "train_conv_lv5", 1e-3)
    for i in range(4):
        case.assert_equal(f"levels.{i}", f"train_residual_lv{4 - i}", 1e-3, factor=80)
        case.assert_equal(
            f"levels.{i}.convs.{len(case.network.levels[i].convs) - 1}", f"train_conv_lv{4 - i}"
        )
    trained = sum(p.numel() for p in case.network.parameters() if p.requires_grad)
    assert trained == 73_135_104


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("spatialkd_resnet50", 31_748_720),
        ("spatialkd_efficientnet_b0", 10_836_396),
        ("spatialkd_efficientnet_b1", 13_342_032),
        ("vnl_resnext50", 71_287_254),
    ],
)
def test_networks_without_vectors_have_the_published_size(name, parameters):
    with torch.device("meta"):
        network = dd.create_model(name)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_the_student_costs_what_the_reference_counts():
    network = dd.create_model("spatialkd_mobilenetv2").eval()
    assert count(network, (352, 1216)).macs / 1e9 == pytest.approx(5.50, abs=0.01)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    published_files("spatialkd_resnet18", folder)
    return folder


def test_an_encoder_alone_is_refused_with_what_lacks(files):
    with pytest.raises(
        dd.UserError, match=r"encoder\.pkl holds the encoder .* alone; name the file of the decoder"
    ):
        dd.create_model("spatialkd_resnet18", weights=str(files / "encoder.pkl"))


def test_an_encoder_given_as_decoder_is_refused(files):
    twice = f"{files / 'encoder.pkl'}+{files / 'encoder.pkl'}"
    with pytest.raises(dd.UserError, match="both hold the encoder of network 'spatialkd_resnet18'"):
        dd.create_model("spatialkd_resnet18", weights=twice)


def test_the_encoder_of_another_student_is_refused(files):
    weights = f"{files / 'encoder.pkl'}+{files / 'decoder.pkl'}"
    with pytest.raises(
        dd.UserError, match=r"does not fit network 'spatialkd_mobilenetv2'.*it fits .*spatialkd_resnet18"
    ) as e:
        dd.create_model("spatialkd_mobilenetv2", weights=weights)
    assert "\n" not in str(e.value)


def test_halving_is_the_mean_of_two_by_two_pixels():
    image = torch.rand(1, 3, 128, 192)
    spec = dd.create_model("spatialkd_resnet18").input_spec
    (prepared,), _ = spec.prepare(image)
    expected = torch.nn.functional.avg_pool2d(spec.normalise(image), 2)
    assert torch.allclose(prepared, expected, atol=1e-6)


def test_imagenet_weights_that_cannot_be_fetched_are_one_line(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(dd.UserError, match=r"cannot fetch the ImageNet weights of 'resnet18.tv_in1k'"):
        dd.create_model("spatialkd_resnet18", pretrained=True)


def test_torchvisions_mobilenet_weights_go_where_the_published_layout_says(monkeypatch):
    from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

    entries = mobilenet_v2().state_dict()
    monkeypatch.setattr(
        type(MobileNet_V2_Weights.IMAGENET1K_V1), "get_state_dict", lambda *_, **__: entries, raising=False
    )
    network = dd.create_model("spatialkd_mobilenetv2", pretrained=True)
    own = network.encoder.state_dict()
    for key, value in entries.items():
        if not key.startswith("classifier"):
            ours = network.published.rename(f"encoder.encoder.{key}").removeprefix("encoder.")
            assert torch.equal(own[ours], value), key


@pytest.mark.parametrize(
    ("name", "size", "least"),
    [("spatialkd_resnet18", (120, 200), "128x128"), ("vnl_mobilenetv2", (64, 20), "32x32")],
)
def test_an_image_below_the_least_size_is_refused(name, size, least):
    predict = dd.Predictor(dd.create_model(name))
    with pytest.raises(
        dd.UserError, match=f"is smaller than the network's least size of {least} px"
    ) as error:
        predict(torch.zeros(3, *size))
    assert "\n" not in str(error.value)


def test_statistics_follow_as_fast_as_published():
    def momenta(part):
        return {m.momentum for m in part.modules() if isinstance(m, torch.nn.BatchNorm2d)}

    with torch.device("meta"):
        vnl, slow = dd.create_model("vnl_mobilenetv2"), dd.create_model("spatialkd_resnet18")
        teacher = dd.create_model("vnl_resnext50")
    assert momenta(vnl.laterals) == momenta(vnl.stages) == momenta(vnl.finest) == {0.5}
    assert momenta(vnl.context) == {0.9}
    assert momenta(teacher.context) == {0.5}
    assert momenta(slow.encoder.adapters) == {0.01}


def test_an_untrained_slim_network_says_a_tenth_of_the_largest_depth_about_everywhere():
    torch.manual_seed(0)
    depth = dd.create_model("depth_slim", max_depth=50.0)(torch.randn(2, 3, 96, 96))["depth"]
    assert depth.mean().item() == pytest.approx(5, rel=0.2)
    block = Block(3, 4, 2)
    image = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(block(image), block.shortcut(image).relu())


def test_a_slim_network_sees_images_of_any_size_at_one_scale():
    spec = dd.create_model("depth_slim").input_spec
    for size in ((480, 640), (60, 80), (375, 1242)):
        placement = spec.place(*size)
        assert placement.scaled_size[0] == 96
        assert placement.scaled_size[1] == round(96 * size[1] / size[0])
