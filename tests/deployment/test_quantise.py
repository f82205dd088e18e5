"""8-bit files: calibrated on the user's images, with figures before and after."""

from __future__ import annotations

import contextlib
import copy
import importlib
import weakref

import numpy as np
import openvino
import pytest
import torch
from PIL import Image
from tiny import Tiny

import densedistill as dd
from densedistill import cli
from densedistill.data.formats import write_image
from densedistill.deployment.check import Difference, Row
from densedistill.deployment.quantise import _as_tensors, _kept, _spread, quantise
from densedistill.errors import DataWarning, UserError
from densedistill.runtimes import load_runtime, read_card


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A folder of rectified pairs without ground truth: windows of Cones."""
    folder = tmp_path_factory.mktemp("pairs")
    sample = dd.create_dataset("middlebury2003")[0]
    for number in range(3):
        for view in ("left", "right"):
            window = sample[view][:, 60 * number : 60 * number + 50, 40:120].permute(1, 2, 0)
            write_image(folder / view / f"{number}.png", np.ascontiguousarray(window.numpy()))
    return folder


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_quantised_file_says_what_it_cost(tmp_path, pairs, suffix):
    network = Tiny(dd.InputSpec(multiple=8), "stereo", width=32).eval()
    file = tmp_path / f"student{suffix}"
    sample = dd.create_dataset("middlebury2003")[0]
    small = {k: v[..., :60, :90] if hasattr(v, "ndim") else v for k, v in sample.items()}
    result = quantise(network, file, pairs, data=[small])
    assert 0 < result.difference < 1
    assert result.kept
    assert read_card(file).weights == "int8"
    rows = result.evaluation.rows
    assert [row["name"] for row in rows] == ["float32, torch", f"int8, student{suffix}"]
    assert rows[1]["epe"] == pytest.approx(rows[0]["epe"], rel=0.05)
    assert rows[1]["epe"] != rows[0]["epe"]
    assert load_runtime(file)(*[small[v][None] for v in ("left", "right")])["disparity"].shape[-2:] == (
        60,
        90,
    )


def test_a_residual_sum_stays_in_float(tmp_path, pairs):
    class Residual(Tiny):
        def forward(self, *images):
            features = self.body[0](sum(images))
            found = self.head(features + self.body[3](features.relu()))
            return {
                "disparity": torch.nn.functional.interpolate(found, images[0].shape[-2:], mode="bilinear")
            }

    file = tmp_path / "student.xml"
    result = quantise(Residual(dd.InputSpec(multiple=8), "stereo", width=32).eval(), file, pairs)
    operations = openvino.Core().read_model(file).get_ordered_ops()
    reads = {
        (op.get_type_name(), source.get_source_output().get_node().get_type_name())
        for op in operations
        for source in op.inputs()
    }
    assert ("Convolution", "FakeQuantize") in reads
    assert ("Add", "FakeQuantize") not in reads
    # The sum of the two features and the head with its bias; not the biases of the convolutions before.
    inside = [name for name in result.kept if name.startswith("node_") and "conv" in name.lower()]
    assert len(inside) == 2


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_convolution_without_a_bias_that_two_operations_read_is_right_in_openvino(tmp_path, pairs, suffix):
    class Shared(Tiny):
        def forward(self, *images):
            features = self.body[:3](sum(images))
            shared = torch.nn.functional.conv2d(features, self.body[3].weight, padding=1)
            found = self.head(torch.cat([shared.sigmoid(), shared.relu()], 1)[:, 16:48])
            return {
                "disparity": torch.nn.functional.interpolate(found, images[0].shape[-2:], mode="bilinear")
            }

    network = Shared(dd.InputSpec(multiple=8), "stereo", width=32).eval()
    quantise(network, tmp_path / f"student{suffix}", pairs)
    sample = dd.create_dataset("middlebury2003")[0]
    images = [sample[view][None, :, 60:110, 40:120] for view in ("left", "right")]
    wanted = dd.Predictor(network)(*images)["disparity"]
    found = load_runtime(tmp_path / f"student{suffix}", "openvino")(*images)["disparity"]
    assert (found - wanted).abs().mean() < 0.05 * wanted.abs().mean()


def test_too_large_a_difference_writes_nothing(tmp_path, pairs):
    network = Tiny(dd.InputSpec(multiple=8), "stereo", width=32).eval()
    with pytest.raises(UserError, match="nothing was written"):
        quantise(network, tmp_path / "student.onnx", pairs, limit=1e-9)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("row", "far"),
    [
        (Row((50, 80), "disparity", 0.5, 9.0), False),
        (Row((50, 80), "disparity", 3.0, 9.0), True),
        (Row((50, 80), "depth", 4.0, 9.0, "% of the mean magnitude"), False),
        (Row((50, 80), "depth", 51.0, 90.0, "% of the mean magnitude"), True),
    ],
)
def test_a_file_that_is_far_off_is_warned_of_unless_somebody_said_how_far_it_may_be(
    tmp_path, pairs, monkeypatch, row, far
):
    module = importlib.import_module("densedistill.deployment.quantise")
    monkeypatch.setattr(module, "measure_difference", lambda *_: Difference([row]))
    monkeypatch.setattr(module, "_quantised", lambda model, *_: model)
    network = Tiny(dd.InputSpec(multiple=8), "stereo").eval()
    words = f"student.onnx is far from the network: {row.output} differs by {row.mean:.3g} {row.unit}"
    with pytest.warns(DataWarning, match=words) if far else contextlib.nullcontext():
        quantise(network, tmp_path / "student.onnx", pairs, (40, 64))
    quantise(network, tmp_path / "student.onnx", pairs, (40, 64), limit=100)


def test_mistakes_are_one_line(tmp_path):
    network = Tiny(task="stereo").eval()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pairs in"):
        quantise(network, tmp_path / "student.onnx", tmp_path / "empty")
    with pytest.raises(UserError, match="no image in"):
        quantise(Tiny().eval(), tmp_path / "student.onnx", tmp_path / "empty")
    with pytest.raises(UserError, match=r"8-bit files end in \.onnx or \.xml"):
        quantise(network, tmp_path / "student.pt2", tmp_path / "empty")


def test_calibration_that_cannot_be_read_is_one_line_before_the_work(tmp_path):
    network, said = Tiny().eval(), []
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "a.png").write_bytes(b"")
    (tmp_path / "drive.mp4").write_bytes(b"")
    for images, words in (("frames", r"a\.png is empty"), ("drive.mp4", "is a video; write frames of it")):
        with pytest.raises(UserError, match=words):
            quantise(network, tmp_path / "a.onnx", tmp_path / images, on_progress=said.append)
    assert not said
    with pytest.raises(UserError, match="samples is a whole number, 1 or more, got 0"):
        quantise(network, tmp_path / "a.onnx", tmp_path / "frames", samples=0)
    with pytest.raises(UserError, match=r"got str; `create_model` makes one"):
        quantise("dsnet_slim", tmp_path / "a.onnx", tmp_path / "frames")


def test_labelled_data_that_is_refused_is_said_before_the_work(tmp_path, pairs):
    network = Tiny(dd.InputSpec(multiple=8), "stereo").eval()
    for options, words in (
        ({"data": "kitti"}, "no data set 'kitti'; did you mean 'kitti2015'"),
        ({"data": "samples", "metrics": ["epee"]}, "did you mean 'epe'"),
    ):
        with pytest.raises(UserError, match=words):
            quantise(network, tmp_path / "student.onnx", pairs, **options)
    assert not list(tmp_path.iterdir())


def test_a_file_that_labelled_data_does_not_fit_is_said_to_be_there(tmp_path, pairs):
    file = tmp_path / "student.onnx"
    sample = dd.create_dataset("middlebury2003")[0]
    with pytest.raises(UserError, match=r"student\.onnx is written, but .* for images of 40x64"):
        quantise(Tiny(dd.InputSpec(multiple=8), "stereo").eval(), file, pairs, (40, 64), data=[sample])
    assert load_runtime(file).card.size == (40, 64)


def test_an_operation_to_keep_that_is_not_there_is_one_line(tmp_path, pairs):
    network = Tiny(dd.InputSpec(multiple=8), "stereo").eval()
    with pytest.raises(UserError, match=r"no operation 'node_conv2d_9'; did you mean 'node_conv2d"):
        quantise(network, tmp_path / "student.onnx", pairs, keep=["node_conv2d_9"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("suffix", "size"), [(".onnx", (40, 64)), (".xml", None)])
def test_a_fixed_batch_is_calibrated_and_answers(tmp_path, pairs, suffix, size):
    network = Tiny(dd.InputSpec(multiple=8), "stereo", width=32).eval()
    file = tmp_path / f"student{suffix}"
    assert 0 < quantise(network, file, pairs, size, batch=2).difference < 1
    runtime = load_runtime(file)
    assert runtime.card.batch == 2
    images = [torch.rand(3, 3, 40, 64) for _ in range(2)]
    torch.testing.assert_close(
        runtime(*images)["disparity"], dd.Predictor(network)(*images)["disparity"], atol=0.1, rtol=0
    )


def test_a_network_in_half_precision_is_compared_in_float32(tmp_path, pairs):
    def difference(network):
        return float(quantise(network, tmp_path / "student.onnx", pairs).difference)

    network = Tiny(dd.InputSpec(multiple=8), "stereo", width=32).eval().bfloat16()
    assert difference(network) == pytest.approx(difference(copy.deepcopy(network).float()), rel=1e-6)


def test_flags_that_contradict_each_other_are_refused(tmp_path, capsys):
    base = ["export", "dsnet_slim", "--out", str(tmp_path / "a.onnx")]
    for flags, words in (
        (["--int8", "x", "--weights", "float16"], "--int8 says how weights are stored"),
        (["--data", "samples"], "--data is for --int8 alone"),
        (["--size", "12"], "--size is height x width"),
    ):
        assert cli.main([*base, *flags]) == 2
        assert words in capsys.readouterr().err
    assert cli.main(["export", "sgbm", "--out", str(tmp_path / "a.onnx")]) == 2
    assert "sgbm is no network that could be exported" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_last_convolutions_stay_in_float_behind_a_product_of_activations_too():
    nodes = {
        "image": ("Parameter", []),
        "features": ("Conv", ["image", None, None]),
        "logits": ("Conv", ["features", None]),
        "weights": ("Conv", ["features", None]),
        "shares": ("Softmax", ["weights"]),
        "mean": ("Mul", ["shares", "logits"]),
        "result": ("Result", ["mean"]),
    }
    assert _kept(nodes) == {"logits", "weights", "shares", "mean"}


def test_a_convolution_without_a_bias_that_several_read_stays_in_float():
    nodes = {
        "image": ("Parameter", []),
        "shape": ("Constant", ["shared"]),
        "plain": ("Conv", ["image", None]),
        "shared": ("Conv", ["plain", None]),
        "biased": ("Conv", ["shared", None, None]),
        "sum": ("Add", ["shared", "biased"]),
        "size": ("Constant", ["plain"]),
        "left": ("Slice", ["plain", None]),
        "other": ("Mul", ["biased", None]),
        "logits": ("Conv", ["sum", None]),
        "result": ("Result", ["logits"]),
    }
    assert _kept(nodes) == {"shared", "sum", "logits"}


def test_calibration_samples_are_spread_over_all_and_have_the_files_size():
    assert _spread(list(range(10)), 4) == [0, 2, 5, 7]
    assert _spread([1, 2, 3], 3) == [1, 2, 3]
    image = np.full((20, 30, 3), 51, np.uint8)
    for size in (None, (20, 30), (8, 16)):
        (view,) = _as_tensors([image], size)
        assert view.shape == (1, 3, *(size or (20, 30)))
        torch.testing.assert_close(view, torch.full_like(view, 0.2))


def test_photographs_are_calibrated_on_as_they_are_to_be_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright
    (tmp_path / "frames").mkdir()
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(tmp_path / "frames" / "1.jpg", exif=exif)
    result = quantise(Tiny(task="depth").eval(), tmp_path / "student.onnx", tmp_path / "frames")
    assert [row.size for row in result.difference.rows] == [(64, 48)]


def test_calibration_images_are_not_all_in_memory_at_a_time(tmp_path, monkeypatch):
    sample = dd.create_dataset("middlebury2003")[0]
    for number in range(8):
        image = np.ascontiguousarray(sample["left"][:, :48, :64].permute(1, 2, 0))
        write_image(tmp_path / "frames" / f"{number}.png", image)
    module = importlib.import_module("densedistill.deployment.quantise")
    held, most, make = weakref.WeakSet(), [], module._as_tensors

    def counted(*arguments):
        views = make(*arguments)
        held.update(views)
        most.append(len(held))
        return views

    monkeypatch.setattr(module, "_as_tensors", counted)
    quantise(Tiny(dd.InputSpec(multiple=8), "depth").eval(), tmp_path / "student.onnx", tmp_path / "frames")
    assert max(most) <= 3


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_calibrating_says_how_far_it_is(tmp_path, pairs, suffix, monkeypatch):
    seen = []

    @contextlib.contextmanager
    def bar(shown):
        yield lambda *step: seen.append((shown, *step))

    monkeypatch.setattr(importlib.import_module("densedistill.deployment.quantise"), "progress_bar", bar)
    quantise(Tiny(dd.InputSpec(multiple=8), "stereo").eval(), tmp_path / f"a{suffix}", pairs, progress=True)
    assert seen == [(True, "calibrate", name, 3) for name in "012"]
