"""TSNnet's networks against the vectors recorded from the published code (tests/golden)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import densedistill as dd
import golden
from densedistill.networks.counting import count_model
from densedistill.networks.published import fit_entries
from densedistill.networks.tsnnet import Attention

GOLDEN = Path(__file__).parent.parent / "golden"

NAMES = ("tsnnet_teacher", "tsnnet_student", "tsnnet_naive")
TAPS = ("features.stages", "volume", "detector", "attention", "weighted", "aggregation")
KNOWLEDGE = {"volume": "volume", "detector": "head", "weighted": "weighted"}


class Case:
    """A network with its golden weights, and what it computed: the Teacher in float64, as its file asks."""

    def __init__(self, name):
        self.name = name
        self.manifest = json.loads((GOLDEN / f"{name}.json").read_text())
        self.arrays = np.load(GOLDEN / f"{name}.npz")
        self.dtype = torch.float64 if name == "tsnnet_teacher" else torch.float32
        self.network = golden_network(name).to(self.dtype).eval()
        self.taps = {}
        with torch.no_grad(), dd.Taps(self.network, TAPS) as taps:
            self.evaluated = self.network(*self.inputs("left", "right"))
            self.taps["eval"] = {key: taps[key] for key in TAPS}
            taps.clear()
            self.network.train()
            rest(self.network)
            self.trained = self.network(*self.inputs("left", "right"))
            self.taps["train"] = {key: taps[key] for key in TAPS}
        self.network.eval()

    def inputs(self, *names):
        facts = [self.manifest["inputs"][name] for name in names]
        arrays = [golden.golden_input(f["name"], f["shape"], f["kind"]) for f in facts]
        return [torch.from_numpy(array).to(self.dtype) for array in arrays]

    def recorded(self, key):
        """Return the array `key`, the float64 one where this network is compared in float64."""
        exact = f"{key}.f64"
        return self.arrays[exact if self.dtype is torch.float64 and exact in self.arrays else key]


def golden_network(name, **options):
    manifest = json.loads((GOLDEN / f"{name}.json").read_text())
    network = dd.create_model(name, **options)
    entries = {k: torch.from_numpy(v) for k, v in golden.golden_state_dict(manifest["entries"]).items()}
    fit = fit_entries(network, entries)
    assert fit.complete
    network.load_state_dict(fit.entries)
    return network


def rest(network):
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def error(actual, expected):
    actual = np.asarray(actual, np.float64).reshape(expected.shape)
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    return Case(request.param)


def test_parameters_equal_the_published_network(case):
    assert sum(p.numel() for p in case.network.parameters()) == case.manifest["params"]


def test_evaluation_equals_the_published_network(case):
    assert set(case.evaluated) == {"disparity"}
    limit = 1e-6 if case.dtype is torch.float64 else 1e-5
    assert error(case.evaluated["disparity"], case.recorded("eval.disparity")) < limit


def test_training_outputs_equal_the_published_network(case):
    levels = case.trained["intermediate"]
    keys = [f"train.disparity{i}" for i in range(4)] if case.name == "tsnnet_teacher" else ["train.disparity"]
    assert len(levels) == len(keys)
    assert case.trained["disparity"] is levels[-1]
    for level, key in zip(levels, keys, strict=True):
        assert error(level, case.recorded(key)) < 1e-5
    # In float32 the Teacher's recorded head drifts by 1e-4.
    assert error(case.taps["train"]["detector"][0], case.arrays["train.head"]) < 2e-4


def test_what_is_distilled_equals_the_published_network(case):
    taps = case.taps["eval"]
    for tap, key in KNOWLEDGE.items():
        assert error(taps[tap][0], case.recorded(f"knowledge.{key}")) < 1e-5, tap
    # A softmax over classes of 10^2, recorded of the Teacher in float32 alone.
    limit = 1e-3 if case.name == "tsnnet_teacher" else 1e-4
    assert error(taps["attention"][0][0, :, :, ::2, ::2], case.arrays["attention"]) < limit
    logits = nn.functional.interpolate(taps["aggregation"][-1][:, None], (192, 64, 192), mode="trilinear")
    probability = logits[:, 0].softmax(1)[:, ::8, ::4, ::4]
    assert error(probability, case.recorded("knowledge.probability")) < 1e-5


def test_features_equal_the_published_network(case):
    maps = case.taps["eval"]["features.stages"]
    if case.name == "tsnnet_naive":  # whose one map at a quarter of the size is cut into three
        maps = (maps[0], torch.cat(maps[1:], 1))
    for view, side in enumerate(("left", "right")):
        for name, one in zip(("x", "l2", "l3", "l4"), maps, strict=False):
            recorded = case.arrays[f"knowledge.{side}.{name}"]
            assert error(one[view : view + 1, ::4], recorded) < 1e-4, (side, name)


def test_each_stage_by_itself_equals_the_published_network(case):
    network, wide = case.network.float(), "80" if case.name == "tsnnet_naive" else "320"
    left, right, volume, head = (
        t.float() for t in case.inputs(f"left{wide}", f"right{wide}", "volume", "head")
    )
    with torch.no_grad(), dd.Taps(network, ["weighted"]) as taps:
        assert error(network.volume(torch.cat((left, right)), 1), case.arrays["stage.volume"]) < 1e-4
        assert error(network.detector(volume), case.arrays["stage.head"]) < 1e-4
        logits = network.aggregation(volume, network.attention(head), all_heads=False)[-1]
        disparity = dd.networks.layers.regression.regress_disparity(logits, 192, (64, 192))
        assert error(taps["weighted"][0], case.arrays["stage.weighted"]) < 1e-4
    assert error(disparity, case.arrays["stage.disparity"]) < 1e-4
    network.to(case.dtype)


def test_padding_equals_the_published_network(case):
    images = case.inputs("odd_left", "odd_right")
    padded = [nn.functional.pad(image, (0, 24, 0, 14)) for image in images]
    spec = case.network.input_spec
    assert spec.place(50, 200).padding == (0, 24, 0, 14)
    with torch.no_grad():
        disparity = spec.restore(case.network(*padded)["disparity"], spec.place(50, 200))
    # The Teacher was recorded in float32 alone.
    assert error(disparity, case.arrays["eval.padded"]) < (1e-3 if case.dtype is torch.float64 else 1e-4)


def test_widening_equals_the_published_code():
    classes = torch.from_numpy(golden.golden_input("tsnnet_head", (1, 16, 3, 4)))
    recorded = np.load(GOLDEN / "tsnnet_losses.npz")["widen"]
    attention = dd.create_model("tsnnet_naive").attention(classes)
    assert error(attention, recorded) < 1e-6


@pytest.mark.parametrize(("levels", "expected"), [(48, [2, *[3] * 14, 4]), (16, [2, 3, 3, 3, 5])])
def test_the_first_class_covers_two_levels_and_the_last_one_the_rest(levels, expected):
    classes = torch.arange(levels // 3.0).view(1, -1, 1, 1)
    attention = Attention(levels)(classes)[0, 0, :, 0, 0]
    assert attention.unique_consecutive(return_counts=True)[1].tolist() == expected


def test_statistics_in_training_are_those_of_the_pairs_that_exist():
    torch.manual_seed(0)
    volume = dd.create_model("tsnnet_student_compact", max_disparity=64).volume.train()
    features = torch.randn(2, 320, 4, 20)
    norm = volume.compare[0].norm
    norm.momentum = 1.0
    left, right = volume.compare[0].conv(*volume.reduce(features).split(1))
    volume(features, 1)
    pairs = [left[..., d:] + right[..., : 20 - d] for d in range(16)]
    torch.testing.assert_close(norm.running_mean, torch.cat(pairs, 3).mean((0, 2, 3)))


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("tsnnet_naive", 663_136, 2.34e9),
        ("tsnnet_student_compact", 841_810, 5.6e9),
        ("tsnnet_teacher", 2_338_114, 12.3e9),
    ],
)
def test_costs(name, parameters, macs):
    counts = count_model(name, (256, 512))
    assert counts.parameters == parameters
    assert counts.macs == pytest.approx(macs, rel=0.01)


def test_the_comparison_costs_less_than_published_by_the_joint_convolution_alone():
    # Published: the first comparison runs on 64 joint channels at each of 48 disparities.
    pairs = 64 * (48 * 128 - 48 * 47 // 2)  # rows times columns with a partner
    published = 64 * 32 * pairs
    ours = 2 * 32 * 32 * 64 * 128
    with_all_columns = 12.96e9 - (64 * 32 + 32 * 16 + 16) * (64 * 48 * 128 - pairs)
    assert published > 20 * ours
    assert count_model("tsnnet_teacher", (256, 512)).macs < with_all_columns


@pytest.mark.parametrize("prefix", ["module.model.", "model."])
def test_a_published_checkpoint_loads(prefix, tmp_path):
    manifest = json.loads((GOLDEN / "tsnnet_naive.json").read_text())
    entries = {k: torch.from_numpy(v) for k, v in golden.golden_state_dict(manifest["entries"]).items()}
    state = {f"{prefix}{key}": value for key, value in entries.items()}
    torch.save({"state_dict": state, "optimizer": {}, "test_loss": 0.6}, tmp_path / "supervised.tar")
    network = dd.create_model("tsnnet_naive", weights=tmp_path / "supervised.tar")
    key = "Volume_construct.preconv11.2.weight"
    assert torch.equal(network.volume.reduce[2].weight, entries[key])


@pytest.mark.parametrize("parallel", ["module.", ""])
def test_a_published_checkpoint_of_a_distillation_loads_as_its_student(parallel, tmp_path):
    both = {}
    for side, name in (("T_model", "tsnnet_student"), ("model", "tsnnet_naive")):
        manifest = json.loads((GOLDEN / f"{name}.json").read_text())
        both |= {
            f"{parallel}{side}.{key}": torch.from_numpy(value)
            for key, value in golden.golden_state_dict(manifest["entries"]).items()
        }
    both |= {f"{parallel}ah1.1.weight": torch.zeros(16, 32, 1, 1), f"{parallel}ah1.1.bias": torch.zeros(16)}
    torch.save({"state_dict": both}, tmp_path / "distilled.tar")
    network = dd.create_model("tsnnet_naive", weights=tmp_path / "distilled.tar")
    expected = both[f"{parallel}model.Volume_construct.preconv11.2.weight"]
    assert torch.equal(network.volume.reduce[2].weight, expected)
