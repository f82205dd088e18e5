"""DWARF against what its TensorFlow original returned (tests/golden/dwarf.*)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import densedistill as dd
import golden
from densedistill.networks import dwarf
from densedistill.networks.dwarf import _sample_row
from densedistill.networks.layers.correlation import correlation_1d, correlation_2d, correlation_3d
from densedistill.networks.layers.warp import resize_area, resize_legacy, warp

GOLDEN = Path(__file__).parent.parent / "golden"

MANIFEST = json.loads((GOLDEN / "dwarf.json").read_text())
ARRAYS = np.load(GOLDEN / "dwarf.npz")
NAMES = {"disparity": "disparity", "disparity_next": "disparity_change", "flow": "forward_flow"}
SIGN = {"disparity": -1, "disparity_next": -1, "flow": 1}
IMAGES = ("left_t0", "right_t0", "left_t1", "right_t1")


def nchw(array):
    return torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2)


def given(name, shape, kind="uniform"):
    return nchw(golden.golden_input(f"dwarf.{name}", shape, kind))


def error(tensor, name):
    expected = ARRAYS[name]
    actual = tensor.detach().permute(0, 2, 3, 1).double().numpy().reshape(expected.shape)
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def variables():
    kernels = MANIFEST["transposed_kernels"]
    return {k: golden.golden_tensor_tf(k, s, k in kernels) for k, s in MANIFEST["entries"].items()}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The network from an .npz as a training leaves it, with the optimiser's slots."""
    path = tmp_path_factory.mktemp("dwarf") / "variables.npz"
    slots = {f"{k}/{slot}": v for k, v in variables().items() for slot in ("Adam", "Adam_1")}
    np.savez(path, **variables(), **slots, beta1_power=np.float32(0.9), Variable=np.int64(3))
    return dd.create_model("dwarf", weights=path)


@pytest.fixture(scope="module")
def inference(network):
    """The outputs at 128x192, and every tensor that a module gave."""
    seen = {}

    def record(path):
        def hook(module, inputs, output):
            seen[path] = (inputs, output)

        return hook

    handles = [module.register_forward_hook(record(path)) for path, module in network.named_modules()]
    calls = []
    handles.append(network.volume.register_forward_hook(lambda _, inputs, out: calls.append((inputs, out))))
    with torch.no_grad():
        outputs = network(*(given(name, (1, 128, 192, 3)) for name in IMAGES))
    for handle in handles:
        handle.remove()
    return outputs, seen, calls


def test_has_the_published_parameters(network):
    assert sum(p.numel() for p in network.parameters()) == MANIFEST["params"]
    assert len(list(network.parameters())) == len(MANIFEST["entries"])


def test_final_motion_equals_published(inference):
    outputs, _, _ = inference
    for key, name in NAMES.items():
        assert error(SIGN[key] * outputs[key], f"infer.{name}") < 1e-4


def test_every_recorded_tensor_of_every_level_equals_published(network, inference):
    _, seen, calls = inference
    for level in (6, 5, 4, 3):
        motions, _ = seen[f"estimators.{level}"][1]
        assert (
            error(torch.cat([motions[key] for key in dwarf.MOTIONS], 1), f"infer.level_{level}.sceneflow")
            < 1e-4
        )
        for ours, theirs in (("upsample_motion", "up_sceneflow"), ("upsample_features", "up_features")):
            if f"infer.level_{level}.{theirs}" in ARRAYS:
                parts = [seen[f"estimators.{level}.{ours}.{key}"][1] for key in dwarf.MOTIONS]
                assert error(torch.cat(parts, 1), f"infer.level_{level}.{theirs}") < 1e-4
    for level, (inputs, volume) in zip((6, 5), calls, strict=False):
        assert error(volume, f"infer.level_{level}.volume") < 1e-4
        if level == 5:
            for name, view in zip(("right_t0", "left_t1", "right_t1"), inputs[1:], strict=True):
                assert error(view, f"infer.level_5.warped.{name}") < 1e-4
    for key, name in NAMES.items():
        motion = seen["estimators.2"][1][0][key] + seen[f"context.{key}"][1]
        assert error(motion, f"infer.level_2.{name}") < 1e-4


def test_cropping_and_final_resizing_equal_published(network, inference):
    outputs, _, _ = inference
    placement = network.input_spec.place(121, 186)
    resized = dwarf.resize_motion(outputs, (100, 240))
    for key, name in NAMES.items():
        cropped = network.input_spec.restore(outputs[key], placement)
        assert error(SIGN[key] * cropped, f"infer_crop.{name}") < 1e-4
        assert error(SIGN[key] * resized[key], f"infer_resize.{name}") < 1e-4


def test_padding_equals_published():
    image = given("resize.img", (1, 20, 30, 3), "normal")
    padded = torch.nn.functional.pad(image, (8, 9, 6, 7), mode="reflect")
    assert error(padded, "pad.reflect_33x47") == 0
    spec = dd.create_model("dwarf").input_spec
    assert spec.place(375, 1242) == ((375, 1242), (375, 1242), (19, 19, 4, 5))
    assert spec.pad_mode == "reflect"


@pytest.fixture(scope="module")
def training(network):
    network.train()
    outputs = network(*(given(f"train.{name}", (2, 128, 192, 3)) for name in IMAGES))
    network.eval()
    return outputs


def test_training_levels_equal_published(training):
    assert len(training["intermediate"]) == 6
    for level, motions in zip((6, 5, 4, 3, 2), training["intermediate"], strict=False):
        for key, name in NAMES.items():
            assert error(SIGN[key] * motions[key] / 20, f"train.level_{level}.{name}") < 1e-4


def truth():
    shape = (2, 128, 192, 1)
    disparities = {
        "disparity": 40 * given("gt.disparity", shape),
        "disparity_next": 40 * given("gt.disparity_change", shape),
    }
    return {**disparities, "flow": 10 * given("gt.flow", (2, 128, 192, 2), "normal")}


def gradients(network, total):
    total = total + 0.0004 * sum(p.square().sum() for p in network.parameters())
    found = torch.autograd.grad(total, list(network.parameters()), retain_graph=True)
    return float(total), {
        name: float(g.norm()) for (name, _), g in zip(network.named_parameters(), found, strict=True)
    }


def compare_gradients(network, norms, expected):
    renamed = {
        network.published.rename(
            key.replace("/", ".").replace(".weights", ".weight").replace(".biases", ".bias")
        ): value
        for key, value in expected.items()
    }
    assert norms.keys() == renamed.keys()
    for name, value in renamed.items():
        # The gradient of L1 is a sign: at a pixel that is nearly right, rounding decides it.
        assert norms[name] == pytest.approx(value, rel=1e-2), name


def test_synthetic_loss_and_every_gradient_equal_published(network, training):
    expected = MANIFEST["synthetic_loss"]
    targets = truth()
    known = torch.ones(2, 1, 128, 192, dtype=torch.bool)
    known[1, :, 3:9, 5:40] = False
    total = 0
    for level, alpha in zip((6, 5, 4, 3, 2), (0.32, 0.08, 0.02, 0.01, 0.005), strict=True):
        motions = training["intermediate"][6 - level]
        parts = {
            key: (0.5 if key == "flow" else 1)
            * dd.losses.pooled_l1(motions[key], targets[key], known if key == "disparity" else None)
            for key in NAMES
        }
        if level == 2:
            for key, name in (("disparity", "disparity"), ("disparity_next", "disparity_change")):
                assert float(alpha * parts[key]) == pytest.approx(expected[f"level_2_{name}"], rel=1e-5)
        loss = alpha * sum(parts.values())
        assert float(loss) == pytest.approx(expected["levels"][str(level)], rel=1e-5)
        total = total + loss
    total, norms = gradients(network, total)
    assert total == pytest.approx(expected["total"], rel=1e-5)
    compare_gradients(network, norms, expected["gradient_norms"])


def test_kitti_loss_and_every_gradient_equal_published(network, training):
    expected = MANIFEST["kitti_loss"]
    shape = (2, 128, 192, 1)
    known = {
        "disparity": given("gt.hole.disparity", shape) >= 0.6,
        "disparity_next": given("gt.hole.disparity_change", shape) >= 0.6,
        "flow": given("gt.valid.flow", shape) >= 0.6,
    }
    parts = {
        key: (0.5 if key == "flow" else 1) * dd.losses.summed_l1(training[key], target, mask=known[key])
        for key, target in truth().items()
    }
    loss = 0.001 * sum(parts.values())
    assert float(loss) == pytest.approx(expected["levels"]["2"], rel=1e-5)
    total, norms = gradients(network, loss)
    assert total == pytest.approx(expected["total"], rel=1e-5)
    compare_gradients(network, norms, expected["gradient_norms"])


def test_pooled_targets_equal_published():
    for level in (4, 5, 6):
        target = truth()["flow"] / 20
        assert (
            error(torch.nn.functional.avg_pool2d(target, 2**level), f"train.gt.level_{level}.forward_flow")
            < 1e-4
        )


def test_recorded_scalars_of_the_losses():
    shape = (2, 8, 10, 2)
    prediction, target = given("loss.prediction", shape, "normal"), given("loss.gt", shape, "normal")
    mask = given("loss.mask", (2, 8, 10, 1)) > 0.4
    assert float(dd.losses.summed_l1(prediction, target, unit=2)) == pytest.approx(
        ARRAYS["loss.l1"], rel=1e-5
    )
    masked = dd.losses.summed_l1(prediction, target, mask=mask, unit=2)
    assert float(masked) == pytest.approx(ARRAYS["loss.masked_l1"], rel=1e-5)


@pytest.mark.parametrize("reach", [3, 4])
def test_correlations_equal_published(reach):
    x, y = given("corr.x", (2, 12, 16, 9)), given("corr.y", (2, 12, 16, 9))
    assert error(correlation_1d(x, y, reach), f"corr1d.md{reach}") < 1e-5
    assert error(correlation_2d(x, y, reach), f"corr2d.md{reach}") < 1e-5


@pytest.mark.parametrize(("reach", "depth"), [(3, 0), (4, 1), (2, 2)])
def test_correlation_over_depth_equals_published(reach, depth):
    x, y = given("corr.x", (2, 12, 16, 9)), given("corr.y", (2, 12, 16, 9))
    assert error(correlation_3d(x, y, reach, depth), f"corr3d.md{reach}.mdd{depth}") < 1e-5


def test_warps_equal_published():
    image = given("warp.img", (2, 10, 14, 5), "normal")
    flow = 4 * golden.golden_input("dwarf.warp.flow", (2, 10, 14, 2), "normal")
    disparity = 4 * golden.golden_input("dwarf.warp.disp", (2, 10, 14, 1), "normal")
    for motion in (flow, disparity):
        motion[0, :, :3] = np.round(motion[0, :, :3])
    disparity[1, 4] = 0
    assert error(warp(image, nchw(flow)), "warp.flow") < 1e-4
    sampled = _sample_row(image, nchw(disparity))
    assert error(sampled, "warp.disparity") < 1e-4
    assert not sampled[:, :, -1].any(), "the published sampler loses the last row"


def test_resizing_equals_tensorflow():
    image = given("resize.img", (1, 20, 30, 3), "normal")
    assert error(resize_legacy(image, (80, 120)), "resize.bilinear_x4") < 1e-5
    assert error(resize_legacy(image, (33, 47)), "resize.bilinear_33x47") < 1e-5
    assert error(resize_area(image, (5, 15)), "resize.area_5x15") < 1e-5
    enlarged = resize_area(image, (27, 41))
    assert error(enlarged, "resize.area_27x41") < 1e-5
    top, left = (27 - 20) // 2, (41 - 30) // 2
    assert error(enlarged[..., top : top + 20, left : left + 30], "zoom.area_27x41_centre_crop") < 1e-5


def test_a_torch_file_of_the_variables_loads_too(network, tmp_path):
    path = tmp_path / "variables.pth"
    torch.save({name: torch.from_numpy(value) for name, value in variables().items()}, path)
    loaded = dd.create_model("dwarf", weights=path)
    assert all(map(torch.equal, loaded.parameters(), network.parameters()))


def test_a_tensorflow_checkpoint_is_read_by_tensorflow_or_the_way_out_is_named(tmp_path, monkeypatch):
    (tmp_path / "model-5000.index").write_bytes(b"index")
    monkeypatch.setitem(__import__("sys").modules, "tensorflow", None)
    with pytest.raises(dd.UserError, match=r"TensorFlow is not installed.*weights\.npz"):
        dd.create_model("dwarf", weights=str(tmp_path / "model-5000"))


def test_a_damaged_npz_is_one_line(tmp_path):
    path = tmp_path / "variables.npz"
    np.savez(path, **{"dwarf/x/weights": np.zeros((3, 3, 2, 2), np.float32)})
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(dd.UserError, match=r"no whole \.npz") as caught:
        dd.create_model("dwarf", weights=path)
    assert "\n" not in str(caught.value)
