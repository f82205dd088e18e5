"""Depth's losses, and the whole published step of Spatial-KD, against what the published code computed."""

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import densedistill as dd
import golden
from densedistill.distillation import losses
from densedistill.distillation.losses.decomposition import decompose
from densedistill.distillation.losses.depth import _spread, _triples, depth_bins
from densedistill.distillation.replacement import ReplaceBlock, block_region, replace_features
from densedistill.errors import UserError
from densedistill.networks.spatialkd import Decoder
from densedistill.networks.vnl import BinnedDepth

GOLDEN = Path(__file__).parent.parent / "golden"

RECORD = json.loads((GOLDEN / "spatial_kd_losses.json").read_text())
VALUES, ARRAYS = RECORD["values"], np.load(GOLDEN / "spatial_kd_losses.npz")
STRUCTURED = json.loads((GOLDEN / "structured_kd_losses.json").read_text())["cases"]
STRUCTURED_ARRAYS = np.load(GOLDEN / "structured_kd_losses.npz")


def recorded(name, inputs=None):
    what = (inputs or RECORD["inputs"])[name]
    return torch.from_numpy(golden.golden_input(name, what["shape"], what["kind"]))


def near(actual, expected, tolerance=1e-5):
    actual = np.asarray(actual.detach() if isinstance(actual, torch.Tensor) else actual, np.float64)
    expected = np.asarray(expected, np.float64)
    return np.linalg.norm(actual - expected) <= tolerance * max(np.linalg.norm(expected), 1e-30)


# SILog


def silog_case(divide=1.0):
    prediction = (0.5 + 79 * recorded("silog_pred")) / divide
    truth = torch.where(recorded("silog_hole") < 0.4, 0, 80 * recorded("silog_gt")) / divide
    return prediction.requires_grad_(), truth


@pytest.mark.parametrize(
    ("name", "divide", "minimum"), [("kitti", 1, 1.0), ("nyu", 8, 0.1), ("lapdepth", 1, 1e-3)]
)
def test_silog_equals_published_code(name, divide, minimum):
    prediction, truth = silog_case(divide)
    loss = losses.silog(prediction, truth, truth > 0, minimum=minimum)
    assert near(loss, VALUES[f"silog_{name}"])
    if name != "lapdepth":
        assert int((truth > minimum).sum()) == VALUES[f"silog_{name}_pixels"]
        loss.backward()
        assert near(prediction.grad / divide, ARRAYS[f"silog_{name}_grad"])  # recorded before the division


def test_silog_has_a_gradient_of_zero_at_a_perfect_fit_and_without_pixels():
    truth = torch.rand(1, 1, 4, 4) + 1
    for mask in (None, torch.zeros(1, 1, 4, 4, dtype=torch.bool)):
        prediction = truth.clone().requires_grad_()
        loss = losses.silog(prediction, truth, mask)
        loss.backward()
        assert loss == 0
        assert prediction.grad.abs().max() == 0


def test_silog_ignores_part_of_a_common_factor():
    truth = torch.rand(1, 1, 8, 8) + 1
    off = torch.log(torch.tensor(1.5))
    assert losses.silog(1.5 * truth, truth) == pytest.approx(10 * (0.15**0.5) * off.item(), rel=1e-4)


def test_lapdepths_gradient_loss_equals_published_code():
    prediction, truth = silog_case()
    dense = 80 * recorded("gradient_gt")
    assert near(losses.depth_gradient(prediction, dense), VALUES["lapdepth_gradient_loss"])
    masked = losses.depth_gradient(prediction, dense, truth > 1e-3)
    assert near(masked, VALUES["lapdepth_gradient_loss_masked"])


# Laplacian decomposition


def test_decomposition_of_an_odd_feature_equals_published_code():
    bands = decompose(recorded("lap_feature"))
    for band, name in zip(bands, ("fine", "middle", "low"), strict=True):
        assert near(band, ARRAYS[f"lap_{name}"])


def test_decomposition_terms_equal_published_code_at_every_stage():
    a, b = (1, 2, 2, 5, 5), (2, 2, 2, 5, 5)
    total = 0.0
    for i in range(5):
        student, teacher = recorded(f"dec_s{i}"), recorded(f"dec_t{i}")
        terms = {
            "feature": (losses.mse, a, 0.3),
            "fine": (losses.laplacian_fine, b, 0.1),
            "middle": (losses.laplacian_middle, b, 0.1),
            "low": (losses.laplacian_low, b, 0.1),
        }
        for name, (loss, weights, weight) in terms.items():
            value = weights[i] * loss(student, teacher)
            assert near(value, VALUES[f"decomposition_{name}"][i]), (name, i)
            total = total + weight * value
    assert near(total, VALUES["decomposition_weighted"])


def test_bands_add_up_to_the_feature():
    feature = torch.randn(2, 3, 12, 16)
    bands = decompose(feature)
    up = [F.interpolate(bands.low, bands.middle.shape[-2:], mode="bilinear", align_corners=False)]
    up.append(F.interpolate(bands.middle + up[0], feature.shape[-2:], mode="bilinear", align_corners=False))
    torch.testing.assert_close(bands.fine + up[1], feature)


def test_features_below_four_by_four_are_refused():
    with pytest.raises(dd.UserError, match="at least 4x4, got 3x9"):
        losses.laplacian_fine(torch.zeros(1, 1, 3, 9), torch.zeros(1, 1, 3, 9))


# ReplaceBlock


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("block", [2, 7])
def test_replacement_equals_published_code(block, published):
    name = f"replace_b{block}"
    student = recorded(f"{name}_s").requires_grad_()
    teacher = recorded(f"{name}_t")
    seeds, region = block_region(recorded(f"{name}_u"), 0.2, block)
    assert np.array_equal(seeds, ARRAYS[f"{name}_seeds"])
    assert np.array_equal(region, ARRAYS[f"{name}_region"])
    assert region.sum() * student.shape[1] == VALUES[f"{name}_selected"]
    out, loss = replace_features(student, teacher, region, published)
    assert int((out != student).sum()) == VALUES[f"{name}_replaced"]
    assert near(out, ARRAYS[f"{name}_out"])
    assert near(loss, VALUES[f"{name}_loss"])
    (out * recorded(f"{name}_w")).sum().backward()
    assert near(student.grad, ARRAYS[f"{name}_grad"])


def test_the_safe_form_stays_finite_where_the_published_one_does_not():
    region = torch.ones(1, 2, 2, dtype=torch.bool)
    teacher = torch.ones(1, 1, 2, 2, dtype=torch.float16)
    for published in (False, True):
        student = torch.full((1, 1, 2, 2), 1e-3, dtype=torch.float16, requires_grad=True)
        out, _ = replace_features(student, teacher, region, published)
        out.sum().backward()
        assert bool(student.grad.isfinite().all()) is not published
    assert replace_features(teacher, teacher, ~region)[1] == 0


def test_the_probability_rises_as_published():
    block = ReplaceBlock(ramp_steps=10, blocks=[2])
    seen = []
    for _ in range(14):
        seen.append(block.probability)
        block.begin([torch.zeros(1, 1, 4, 4)])
        block.end()
    expected = [0.0] + [0.2 * min(n - 1, 10) / 10 for n in range(1, 14)]
    assert seen == pytest.approx(expected)
    resumed = ReplaceBlock(ramp_steps=10, blocks=[2])
    resumed.load_state_dict(block.state_dict())
    assert resumed.probability == 0.2
    assert int(resumed.steps) == 14
    resumed.parts = 2  # of accumulated gradients: 7 steps were done
    assert resumed.probability == pytest.approx(0.2 * 6 / 10)


@pytest.mark.parametrize("options", [{"probability": 1.5}, {"blocks": [0]}, {"ramp_steps": 0}])
def test_a_replacement_that_means_nothing_is_refused(options):
    with pytest.raises(dd.UserError, match=r"replaced block|at least 1"):
        ReplaceBlock(**options)


class Given(nn.Module):
    """A student or teacher of given features in front of the golden decoder."""

    task, input_spec = "depth", dd.InputSpec(mean=(0, 0, 0), std=(1, 1, 1), scale=0.5, antialias=False)
    taps: ClassVar = {
        "decoder": tuple(f"decoder.up.{i}" for i in range(5)),
        "replaceable": ("features.4", "decoder.up.0", "decoder.up.1", "decoder.up.2"),
    }

    def __init__(self, kind):
        super().__init__()
        self.inputs = nn.ParameterList([recorded(f"step_{kind}{i}") for i in range(1, 6)])
        self.features = nn.ModuleList(nn.Identity() for _ in range(5))
        self.decoder = Decoder(80.0)
        entries = json.loads((GOLDEN / "spatialkd_mobilenetv2.json").read_text())["entries"]
        state = {k: v for k, v in entries.items() if k.startswith("module.decoder_")}
        layout = dd.create_model("spatialkd_resnet18").published
        weights = {
            layout.rename(key.removeprefix("module.")).removeprefix("decoder."): torch.from_numpy(value)
            for key, value in golden.golden_state_dict(state).items()
        }
        self.decoder.load_state_dict(weights)
        self.decoder.requires_grad_(False)

    def forward(self, image):
        features = [module(x) for module, x in zip(self.features, self.inputs, strict=True)]
        return {"depth": self.decoder(features, image.shape[-2:])}


TERMS = {
    "ground_truth": {"loss": "silog", "of": "depth", "to": "ground_truth", "minimum": 1.0},
    "replaced": {
        "loss": "replace_block",
        "of": "replaceable",
        "to": "teacher",
        "weight": 0.2,
        "probability": 0.6,
    },
    "feature": {"loss": "mse", "of": "decoder", "to": "teacher", "levels": [1, 2, 2, 5, 5], "weight": 0.3},
    **{
        band: {
            "loss": f"laplacian_{band}",
            "of": "decoder",
            "to": "teacher",
            "levels": [2, 2, 2, 5, 5],
            "weight": 0.1,
        }
        for band in ("fine", "middle", "low")
    },
}


@pytest.mark.parametrize("published", [False, True])
def test_a_whole_step_through_the_objective_equals_published_code(published, monkeypatch):
    terms = {**TERMS, "replaced": {**TERMS["replaced"], "published": published, "ramp_steps": 1}}
    student, teacher = Given("s").train(), Given("t")
    objective = dd.Objective(terms, student, {"teacher": teacher})
    objective.own_losses["replaced"].steps += 2
    fields = iter([recorded(f"step_u{i}") for i in range(4)])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(fields))
    truth = 80 * recorded("step_gt")
    batch = {"image": torch.zeros(1, 3, 128, 160), "depth": truth, "depth_valid": truth > 0}
    seen = {}
    for i in range(5):
        student.decoder.up[i].register_forward_hook(lambda m, x, y, i=i: seen.update({i: y}))
    total, parts = objective(batch)
    total.backward()
    expected = VALUES["step"]
    assert near(parts["ground_truth"], expected["silog"])
    assert near(parts["replaced"], sum(expected["replace"]))
    for name in ("feature", "fine", "middle", "low"):
        assert near(parts[name], expected[name]), name
    assert near(total, expected["total"])
    for i in range(5):
        assert near(seen[i], ARRAYS[f"step_dec{i}"])
        assert near(student.inputs[i].grad, ARRAYS[f"step_grad_s{i + 1}"], 1e-4), i


def test_replacement_is_for_taps():
    terms = {"replaced": {"loss": "replace_block", "of": "depth", "to": "teacher", "mask": "none"}}
    with pytest.raises(dd.UserError, match=r"objective.replaced: loss 'replace_block' is for taps"):
        dd.Objective(terms, Given("s"), {"teacher": Given("t")})


def test_replacement_wants_a_block_for_each_place():
    terms = {"replaced": {**TERMS["replaced"], "blocks": [2, 2]}}
    objective = dd.Objective(terms, Given("s").train(), {"teacher": Given("t")})
    with pytest.raises(dd.UserError, match="2 sides for a tap of 4 tensors"):
        objective({"image": torch.zeros(1, 3, 128, 160)})


# VNL


def vnl_bins():
    case = STRUCTURED["weighted_ce"]
    logits = recorded("bin_logits", case["inputs"])
    u = recorded("wce_depth_u", case["inputs"])
    return logits, torch.where(u < 0.1, -1.0, 2 * u - 0.195), u >= 0.1


def test_weighted_bin_cross_entropy_equals_published_code():
    logits, depth, valid = vnl_bins()
    logits.requires_grad_()
    arrays = {key: STRUCTURED_ARRAYS[f"weighted_ce/{key}"] for key in STRUCTURED["weighted_ce"]["outputs"]}
    bins = depth_bins(depth, 60, 0.01, 1.7)
    assert np.array_equal(torch.where(valid, bins, 61), arrays["bins"])
    # Ours counts metres, the published code tenths of the 10 m of NYU.
    loss = losses.bin_cross_entropy(logits, 10 * depth, valid, low=0.1, high=17.0)
    assert near(loss, arrays["loss"])
    loss.backward()
    stored = json.loads((GOLDEN / "structured_kd_losses.json").read_text())["outputs"]
    part = eval("logits.grad" + stored["weighted_ce/grad_logits"].get("slice", "[:1, ::6]"))
    assert near(part, arrays["grad_logits"])
    assert near(BinnedDepth(60, 0.1, 17.0)(logits) / 10, arrays["depth_from_softmax"])


@pytest.mark.parametrize("focal", [60, 519])
def test_virtual_normal_equals_published_code(focal):
    case = STRUCTURED[f"virtual_normal_{focal}"]
    u = recorded("vnl_gt_u", case["inputs"])
    truth = torch.where(u < 0.05, -1.0, 0.1 + u)
    prediction = (0.1 + u / 2 + recorded("vnl_pred_u", case["inputs"]) / 2).requires_grad_()
    points = torch.stack(
        [(recorded(f"vnl_p{i}_u", case["inputs"]) * 48 * 64).floor().long() for i in (1, 2, 3)]
    )
    arrays = {key: STRUCTURED_ARRAYS[f"virtual_normal_{focal}/{key}"] for key in case["outputs"]}
    assert np.array_equal(_spread(_triples(truth, points, focal)), arrays["mask"].astype(bool))
    mask = truth > 0
    whole = losses.virtual_normal(prediction, truth, mask, focal=focal, points=points, trim=0)
    assert near(whole, arrays["loss_all"])
    trimmed = losses.virtual_normal(10 * prediction, 10 * truth, mask, focal=focal, scale=10, points=points)
    assert near(trimmed, arrays["loss_trimmed"])
    trimmed.backward()
    assert near(prediction.grad, arrays["grad_pred"], 1e-4)


def test_virtual_normal_without_a_triple_is_zero_with_a_gradient():
    prediction = torch.ones(1, 1, 8, 8, requires_grad=True)
    loss = losses.virtual_normal(
        prediction, torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    )
    loss.backward()
    assert loss == 0
    assert prediction.grad.abs().max() == 0


def test_virtual_normal_of_parallel_planes_is_zero():
    truth = torch.full((1, 1, 48, 64), 2.0)
    torch.manual_seed(0)
    assert losses.virtual_normal(truth * 1.5, truth, focal=60.0) < 1e-5
    slanted = truth + torch.linspace(0, 1, 64)
    assert losses.virtual_normal(slanted, truth, focal=60.0) > 0.05


# Scale and shift


@pytest.mark.parametrize("align", ["robust", "least_squares"])
@pytest.mark.parametrize("inverse", [False, True])
def test_scale_and_shift_do_not_matter_to_the_invariant_loss(inverse, align):
    torch.manual_seed(0)
    base = torch.rand(2, 1, 16, 24) + 0.5
    mask = torch.rand(2, 1, 16, 24) > 0.3
    other = torch.tensor([2.0, 5.0]).view(2, 1, 1, 1) * base + 3
    student, teacher = (1 / base, 1 / other) if inverse else (base, other)
    assert losses.scale_and_shift_invariant(student, teacher, mask, inverse=inverse, align=align) < 1e-4
    flipped = losses.scale_and_shift_invariant(student.flip(3), teacher, mask, inverse=inverse, align=align)
    assert flipped > 0.3


def test_the_invariant_loss_by_least_squares_is_the_formula_written_out():
    torch.manual_seed(0)
    student, teacher = torch.rand(2, 1, 6, 7).requires_grad_(), torch.rand(2, 1, 6, 7)
    mask = torch.rand(2, 1, 6, 7) > 0.3
    apart = []
    for x, y, inside in zip(student.detach(), teacher, mask, strict=True):
        line = torch.stack([x[inside], torch.ones_like(x[inside])], 1)
        apart.append(line @ torch.linalg.lstsq(line, y[inside, None]).solution - y[inside, None])
    options = {"inverse": False, "gradient": 0, "align": "least_squares"}
    value = losses.scale_and_shift_invariant(student, teacher, mask, **options)
    torch.testing.assert_close(value, torch.cat(apart).abs().mean())
    value.backward()
    assert student.grad[~mask].abs().max() == 0 < student.grad[mask].abs().max()
    flat = losses.scale_and_shift_invariant(torch.ones(2, 1, 6, 7), teacher, mask, **options)
    spread = torch.cat([y[inside] - y[inside].mean() for y, inside in zip(teacher, mask, strict=True)])
    torch.testing.assert_close(flat, spread.abs().mean())
    with pytest.raises(UserError, match="alignment 'median'"):
        losses.scale_and_shift_invariant(student, teacher, align="median")


def test_the_invariant_loss_is_the_formula_written_out():
    student, teacher = torch.rand(1, 1, 5, 5), torch.rand(1, 1, 5, 5)

    def standard(x):
        x = x - x.median()
        return x / x.abs().mean()

    apart = standard(student) - standard(teacher)
    value = losses.scale_and_shift_invariant(student, teacher, inverse=False, gradient=0)
    torch.testing.assert_close(value, apart.abs().mean())
    slopes = apart.diff(dim=-1).abs().mean() + apart.diff(dim=-2).abs().mean()
    value = losses.scale_and_shift_invariant(student, teacher, inverse=False, gradient=0.5, scales=1)
    torch.testing.assert_close(value, apart.abs().mean() + 0.5 * slopes)
