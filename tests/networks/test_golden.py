"""Every network against the vectors recorded from its published implementation (tests/golden)."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import densedistill as dd
import golden
from densedistill.networks.layers.regression import upsample_logits

GOLDEN = Path(__file__).parent.parent / "golden"

FAMILIES = ("dsnet_bb", "acvnet", "gwcnet", "lacgwcnet")  # others have tests of their own
NAMES = [name for name in dd.list_models(task="stereo") if (GOLDEN / f"{name}.json").is_file()]
NAMES = [name for name in NAMES if name.startswith(FAMILIES)]

# Recorded inner tensor -> (module, its "output" or "input", which view). {0} is the number in the name.
INNER = {
    r"(?:eval\.feature|kd\.feat)\.gwc_feature\.(left|right)": ("features", "output"),
    r"kd\.feat\.early1\.(left|right)": ("features.stem", "output"),
    r"kd\.feat\.early2\.(left|right)": ("features.stage1", "output"),
    r"eval\.(?:feature\.)?(?:concat_)?feature\.(left|right)": ("compress", "output"),
    r"eval\.lsp_l2\.features\.(left)": ("similarity.0", "output"),
    r"(?:eval|kd\.feat)\.gwc_volume": ("volume", "output"),
    r"eval\.patch|kd\.feat\.gwc_patch_volume": ("attention_branch.patch", "output"),
    r"(?:eval|tap)\.patch_volume": ("attention_branch.reduce", "input"),
    r"(?:eval|tap)\.attention_logits": ("attention_branch", "output"),
    r"kd\.feat\.attention_weights": ("attention", "output"),
    r"kd\.feat\.attention_parameter": ("learned_map", "output"),
    r"(?:eval|tap)\.(?:ac_)?volume": ("aggregation", "input"),
    r"(?:eval|tap|kd\.feat)\.out0": ("aggregation.residual", "output"),
    r"(?:eval|tap|kd\.feat)\.out([123])": ("aggregation.encoders.{0}-1", "output"),
    r"kd\.feat\.out([012])\.adapted": ("aggregation.adapters.{0}", "output"),
    r"(?:eval|kd\.feat)\.logits([0123])": ("head {0}", "output"),
    r"kd\.soft\.cost([012])(?:\.all_tea_costs)?": ("head {0}", "upsampled"),
    r"eval\.guidance": ("refinement.guidance", "output"),
    r"eval\.offset": ("refinement.offset", "output"),
    r"eval\.refined_cost": ("refinement", "output"),
}
# Recorded, and checked by a test of its own below.
ELSEWHERE = r"(eval\.disparity|train\.|eval\.lsp_l2\.affinity|eval\.modulation)"


class Case:
    """A network with its golden weights, and everything it computes in training mode."""

    def __init__(self, name, calibrated, folder):
        self.name, self.prefix = name, "calibrated." * calibrated
        self.manifest = json.loads((GOLDEN / f"{name}.json").read_text())
        arrays = np.load(GOLDEN / f"{name}.npz")
        stored = [key for key in arrays.files if key.startswith("calibrated.") == calibrated]
        self.arrays = {key.removeprefix("calibrated."): arrays[key] for key in stored}
        entries = {
            k: torch.from_numpy(v) for k, v in golden.golden_state_dict(self.manifest["entries"]).items()
        }
        for key, factor in self.manifest["calibrated"]["factors"].items() if calibrated else ():
            entries[key] = entries[key] * factor
        path = folder / "published.pth"
        torch.save({"epoch": 1, "model": {f"module.{k}": v for k, v in entries.items()}}, path)
        self.network = dd.create_model(name, weights=path, max_disparity=self.manifest["maxdisp"])
        self.tensors, self.exact = {}, False
        self._train()

    def inputs(self, size=None):
        return [
            torch.from_numpy(
                golden.golden_input(name, (1, 3, *size) if size else what["shape"], what["kind"])
            )
            for name, what in self.manifest["inputs"].items()
        ]

    def exactly(self):
        """Record the inner tensors in float64 instead: see `assert_equal` for when float32 cannot say."""
        if not self.exact:
            self.network.double()
            try:
                self._train(*[image.double() for image in self.inputs()])
            finally:
                self.network.float()
            self.exact = True
        return self

    def _train(self, *inputs):
        def record(path):
            def hook(module, inputs, output):
                self.tensors[path, "output"] = output
                if inputs:
                    self.tensors[path, "input"] = inputs[0]

            return hook

        self.network.train()
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        handles = [m.register_forward_hook(record(path)) for path, m in self.network.named_modules()]
        with torch.no_grad():
            self.outputs = self.network(*(inputs or self.inputs()))
        for handle in handles:
            handle.remove()
        self.network.eval()

    def assert_equal(self, disparity, expected, key, choose, size=None):
        """Hold `disparity` to what was recorded; where float32 breaks a tie, the network in float64.

        Attention logits reach 1e14 with golden weights. How ties between these break depends on the order of
        additions, and so on the machine; a window then changes a little in float32, and nothing in float64.
        """
        if _error(disparity, expected) < 1e-4:
            return
        apart = (disparity.flatten().double() - torch.from_numpy(expected).flatten()).abs()
        assert apart.mean() < 4, key
        self.network.double().train("train." in key)
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        try:
            with torch.no_grad():
                exact = choose(self.network(*[image.double() for image in self.inputs(size)]))
        finally:
            self.network.float().eval()
        assert _error(exact, expected) < 1e-4, key

    def inner(self, name):
        """Return our tensor for the recorded inner tensor `name`."""
        pattern = next(pattern for pattern in INNER if re.fullmatch(pattern, name))
        match, (path, kind) = re.fullmatch(pattern, name), INNER[pattern]
        group = match.group(1) if match.groups() else None
        if path.startswith("head"):
            heads = self.network.taps["aggregation"]
            numbers = range(4 - len(heads), 4) if self.name == "lacgwcnet" else range(len(heads))
            path = heads[-1] if group == "3" else heads[numbers.index(int(group))]
        elif "{0}-1" in path:
            path = path.replace("{0}-1", str(int(group) - 1))
        else:
            path = path.format(group)
        if kind == "upsampled":
            size = self.inputs()[0].shape[-2:]
            return upsample_logits(self.tensors[path, "output"], self.manifest["maxdisp"], size)
        tensor = self.tensors[path, kind]
        return tensor[:1] if group == "left" else tensor[1:] if group == "right" else tensor


@pytest.fixture(
    scope="module", params=[(n, c) for n in NAMES for c in (False, True)], ids=lambda p: f"{p[0]}-{p[1]}"
)
def case(request, tmp_path_factory):
    return Case(*request.param, tmp_path_factory.mktemp("golden"))


def _error(actual, expected):
    actual = np.asarray(actual, np.float64).reshape(expected.shape)
    return np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-30)


def _digest(tensor, kind):
    if kind == "first4":
        return tensor[:, :4]
    if kind == "channel_mean":
        return tensor.double().mean([axis for axis in range(tensor.ndim) if axis != 1])
    if kind == "mean_std":
        return torch.stack((tensor.double().mean(), tensor.double().std(correction=0)))
    return tensor


def test_every_golden_file_of_a_stereo_network_is_tested():
    files = {path.stem for path in GOLDEN.glob("*.npz")}
    assert {name for name in files if name.startswith(FAMILIES)} == set(NAMES)
    assert len(NAMES) == 19


def test_parameters_equal_published_network(case):
    kept = sum(parameter.numel() for parameter in case.network.parameters())
    assert kept + case.network.published.unused_parameters == case.manifest["params"]


def test_evaluation_equals_published_network(case):
    for key, expected in case.arrays.items():
        if key.split("@")[0] == "eval.disparity":
            size = tuple(map(int, key.split("@")[1].split("x"))) if "@" in key else None
            with torch.no_grad():
                disparity = case.network(*case.inputs(size))
            assert set(disparity) == {"disparity"}
            case.assert_equal(disparity["disparity"], expected, key, lambda out: out["disparity"], size)


def test_training_outputs_equal_published_network(case):
    names = [key[11:] for key in case.manifest["outputs"] if key.startswith("calibrated.train.")]
    disparities = case.outputs["intermediate"]
    assert case.outputs["disparity"] is disparities[-1]
    if case.name == "lacgwcnet":  # the recorded copy returns the refined disparity alone
        assert len(disparities) == 4
        disparities = disparities[-1:]
    assert len(disparities) == len(names)
    for i, (name, disparity) in enumerate(zip(names, disparities, strict=True)):
        if name in case.arrays:
            case.assert_equal(disparity, case.arrays[name], name, lambda out, i=i: out["intermediate"][i])


def test_inner_tensors_equal_published_network(case):
    for key, expected in case.arrays.items():
        if not re.match(ELSEWHERE, key):
            name, _, kind = key.rpartition(".")
            if kind not in ("first4", "channel_mean", "mean_std"):
                name, kind = key, "whole"
            if _error(_digest(case.inner(name), kind), expected) >= 1e-4:
                assert _error(_digest(case.exactly().inner(name), kind), expected) < 1e-4, key


def test_taps_name_modules_that_fire_in_training(case):
    fired = {path for path, _ in case.tensors}
    named = {path for paths in case.network.taps.values() for path in paths}
    if case.name == "acvnet_stage1":  # the attention alone
        named = {path for path in named if path.startswith(("features", "volume", "attention_branch"))}
    assert named <= fired


@pytest.mark.parametrize("calibrated", [False, True])
def test_lacgwcnet_parts_without_a_module_equal_published_network(calibrated, tmp_path):
    case = Case("lacgwcnet", calibrated, tmp_path).exactly()  # the window lies around the largest logit
    logits = upsample_logits(
        case.tensors["aggregation.heads.2", "output"], 192, (64, 128), align_corners=True
    )
    assert _error(case.network.regress(logits), case.arrays["eval.disparity_unrefined"]) < 1e-4
    if not calibrated:
        affinity = torch.cat([case.tensors[f"similarity.0.reduce.{i}", "input"][:1] for i in range(4)], 1)
        assert _error(affinity, case.arrays["eval.lsp_l2.affinity.left"]) < 1e-4
        modulation = case.tensors["refinement.modulation", "output"].sigmoid().permute(0, 2, 3, 1)[:, None]
        assert _error(modulation, case.arrays["eval.modulation"]) < 1e-4
