"""What every registered network must do, at its least size. A new network is tested by being registered."""

import copy
import inspect
import math
from fnmatch import fnmatch

import pytest
import torch
from torch import nn

import densedistill as dd
from densedistill.errors import UserError
from densedistill.networks.folding import fold_batch_norm
from densedistill.networks.precision import channels_last, pack_weights
from densedistill.networks.published import save_weights
from densedistill.networks.registry import MODELS, task_of
from densedistill.tasks import get_task

# Of 70 million parameters and more: too slow for the short suite.
HEAVY = (
    "lapdepth_resnext101",
    "lapdepth_resnext101_gn",
    "pspnet_r101",
    "spatialkd_resnext101",
    "vnl_resnext101",
    "vnl_resnext50",
)

# Parameters that the training outputs do not depend on: they are frozen, or only losses read them.
WITHOUT_GRADIENT = {
    "acvnet_stage1": ("compress", "aggregation"),
    "acvnet_stage2": ("features", "attention_branch"),
    "dsnet_bb21_ed2_n16_adapted": ("aggregation.adapters",),
    "dsnet_bb21_ed2_n16_learned_map": ("learned_map",),
}


def create(name, **options):
    if "max_disparity" in inspect.signature(MODELS[name]).parameters:
        options["max_disparity"] = 64
    return dd.create_model(name, **options)


def images(network, dtype=torch.float32, add=0):
    spec = network.input_spec
    height, width = (
        max(least, spec.multiple * math.ceil(n / spec.multiple))
        for least, n in zip(spec.min_size, (32, 64), strict=True)
    )
    shape = (2, 3, height + add, width)
    generator = torch.Generator().manual_seed(0)
    # Of unlike contrast: a normalisation over pooled features would else divide by next to nothing.
    contrast = torch.tensor([0.5, 2.0]).view(2, 1, 1, 1)
    return [
        (contrast * torch.randn(shape, generator=generator)).to(dtype) for _ in get_task(network.task).inputs
    ]


def by_weight(name):
    return pytest.param(name, marks=pytest.mark.full) if name in HEAVY else name


# Whose input is something else: a slice of a wider map, a part of a volume, the coarsest one, a constant.
COPIES = (
    "similarity.*.embedding.conv.conv",
    "attention_branch.patches.*",
    "*.attention.project",
    "estimators.*.trunk.convs.0",
    "top.0",
)


@pytest.mark.parametrize("name", [by_weight(name) for name in dd.list_models()])
def test_channels_last_weights_make_all_maps_channels_last(name):
    """Else every convolution copies its input, which made a step of DWARF or TSNnet a third longer."""
    network = channels_last(create(name)).train()
    copied = []

    def look(path, inputs):
        form = torch.channels_last if inputs.ndim == 4 else torch.channels_last_3d
        if inputs.shape[1] > 3 and not inputs.is_contiguous(memory_format=form):
            copied.append(path)

    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and not any(fnmatch(path, known) for known in COPIES):
            module.register_forward_pre_hook(lambda _, inputs, path=path: look(path, inputs[0]))
    network(*images(network))
    assert copied == []


# Detectors answer with boxes, and have tests of their own.
MAPS = [name for name in dd.list_models() if get_task(task_of(name)).maps]


@pytest.fixture(scope="module", params=[by_weight(name) for name in MAPS])
def network(request):
    torch.manual_seed(0)
    network = create(request.param)
    settle(network)
    return network.eval()


def settle(network):
    """Let the normalisations follow the images, as in training, so that no distribution is one-hot."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network(*images(network))
    for norm in norms:
        norm.momentum = 0.1


def predict(network, *inputs):
    with torch.no_grad():
        outputs = network(*inputs)
    return [outputs[key] for key in get_task(network.task).outputs]


def close(actual, expected, tolerance):
    scale = max(value.abs().max() for value in expected)
    return all((a - e).abs().max() <= tolerance * scale for a, e in zip(actual, expected, strict=True))


def test_folded_normalisation_leaves_its_answers_and_its_paths(network):
    plain = copy.deepcopy(network).double()
    folded = fold_batch_norm(plain)
    assert [path for path, _ in folded.named_modules()] == [path for path, _ in plain.named_modules()]
    inputs = images(network, torch.float64)
    assert close(predict(folded, *inputs), predict(plain, *inputs), 1e-6)


def test_packed_weights_leave_its_answers(network):
    inputs = images(network)
    packed = pack_weights(copy.deepcopy(network).requires_grad_(False))
    first = predict(packed, *inputs)
    assert close(first, predict(network, *inputs), 1e-3)
    assert all(map(torch.equal, predict(packed, *inputs), first))


def test_knows_its_name_task_and_input(network):
    assert network.name in dd.list_models(task=network.task)
    assert isinstance(network.input_spec, dd.InputSpec)
    paths = dict(network.named_modules())
    assert all(path in paths for tap in network.taps.values() for path in tap)


def test_output_is_finite_and_of_the_size_of_the_input(network):
    inputs = images(network)
    for output in predict(network, *inputs):
        assert output.shape[0] == 2
        assert output.shape[-2:] == inputs[0].shape[-2:]
        assert output.isfinite().all()


@pytest.mark.parametrize("name", dd.list_models(task="stereo"))
def test_disparity_lies_within_the_range(name):
    network = create(name).eval()
    (disparity,) = predict(network, *images(network))
    assert disparity.shape[1] == 1
    assert disparity.min() >= 0
    assert disparity.max() <= network.max_disparity - 1 + 1e-4  # a sum of rounded probabilities


def test_samples_of_a_batch_do_not_mix(network):
    inputs = images(network)
    together, alone = predict(network, *inputs), predict(network, *(image[1:] for image in inputs))
    assert close([value[1:] for value in together], alone, 1e-3)


def test_every_parameter_learns_from_the_training_outputs(network):
    trained = create(network.name).train()
    outputs = trained(*images(trained))
    levels = outputs["intermediate"]
    final = levels[-1] if isinstance(levels[-1], dict) else {get_task(network.task).outputs[0]: levels[-1]}
    assert all(final[key] is outputs[key] for key in final)
    values = [v for level in levels for v in (level.values() if isinstance(level, dict) else [level])]
    sum(value.float().mean() for value in values).backward()
    excepted = WITHOUT_GRADIENT.get(network.name, ())
    for name, parameter in trained.named_parameters():
        assert (parameter.grad is None) == name.startswith(excepted or ("-",)), name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_weights_survive_saving_and_loading(network, tmp_path):
    path = save_weights(network, tmp_path / "weights.safetensors")
    torch.manual_seed(1)
    loaded = create(network.name, weights=path)
    assert not loaded.training
    expected = network.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())


def test_initialisation_follows_the_seed(network):
    torch.manual_seed(0)
    again = create(network.name)
    assert all(map(torch.equal, again.parameters(), network.parameters()))
    other = create(network.name)
    assert not all(map(torch.equal, other.parameters(), network.parameters()))


def test_autocast_to_bfloat16_gives_float32_outputs_near_those_of_float32(network):
    inputs = images(network)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = predict(network, *inputs)
    assert all(output.dtype == torch.float32 and output.isfinite().all() for output in outputs)
    expected = predict(network, *inputs)
    rounded = copy.deepcopy(network)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.bfloat16().float()

    def error(values):
        return sum((a - e).abs().mean() for a, e in zip(values, expected, strict=True))

    # What rounding the weights alone does to a hundred layers at random is beyond a fifth.
    allowed = max(0.2 * sum(e.abs().mean() for e in expected), 2 * error(predict(rounded, *inputs)))
    assert error(outputs) < allowed


def test_channels_last_gives_the_same(network):
    inputs = images(network)
    expected = predict(network, *inputs)
    last = create(network.name).eval()
    last.load_state_dict(network.state_dict())
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in last.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])
    last_inputs = [image.contiguous(memory_format=torch.channels_last) for image in inputs]
    assert close(predict(last, *last_inputs), expected, 1e-3)


def test_float64_gives_float64_near_float32(network):
    double = create(network.name).eval().double()
    double.load_state_dict(network.state_dict())
    outputs = predict(double, *images(network, torch.float64))
    assert all(output.dtype == torch.float64 for output in outputs)
    assert close(predict(network, *images(network)), outputs, 1e-2)


def test_a_size_that_does_not_fit_is_refused_in_one_line(network):
    if network.input_spec.multiple == 1:
        return
    with pytest.raises(dd.UserError, match=r"multiples of \d+, got \d+x\d+") as error:
        network(*images(network, add=1))
    assert "\n" not in str(error.value)


def test_views_of_different_size_are_refused():
    network = create("dsnet_slim")
    with pytest.raises(dd.UserError, match="two image batches of one shape"):
        network(torch.zeros(1, 3, 32, 64), torch.zeros(1, 3, 32, 48))


@pytest.mark.parametrize(("name", "wrong", "right"), [("dsnet_slim", 100, 112), ("acvnet_slim", 96, 128)])
def test_a_maximum_disparity_that_does_not_fit_is_refused_with_the_next_that_does(name, wrong, right):
    with pytest.raises(dd.UserError, match=f"got {wrong}; use {right}"):
        dd.create_model(name, max_disparity=wrong)


def test_an_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(dd.UserError, match="did you mean 'max_disparity'"):
        dd.create_model("dsnet_bb21_ed2_n16", max_disparty=64)


@pytest.mark.parametrize("name", ["acvnet_small", "pspnet_r18", "espnet_c"])
def test_weights_are_drawn_as_published(name):
    torch.manual_seed(0)
    network = dd.create_model(name)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)) and module.weight.numel() > 5000:
            n = math.prod(module.kernel_size) * module.out_channels
            assert abs(module.weight.std() / math.sqrt(2 / n) - 1) < 0.05
        elif isinstance(module, nn.Linear):
            assert not module.bias.any()
            assert module.weight.abs().max() <= 1 / math.sqrt(module.in_features)


def test_only_the_last_head_runs_in_evaluation_unless_all_are_wanted():
    network = create("dsnet_bb21_ed2_n8").eval()
    ran = []
    for head in network.aggregation.heads:
        head.register_forward_hook(lambda module, *_: ran.append(module))
    predict(network, *images(network))
    assert ran == [network.aggregation.heads[-1]]
    network.all_heads = True
    ran.clear()
    predict(network, *images(network))
    assert ran == list(network.aggregation.heads)


def test_a_window_counts_in_evaluation_alone():
    torch.manual_seed(0)
    networks = [create("dsnet_slim", window=window) for window in (4, None)]
    networks[1].load_state_dict(networks[0].state_dict())
    settle(networks[0])
    networks[1].load_state_dict(networks[0].state_dict())
    windowed, whole = (network.train()(*images(network))["disparity"] for network in networks)
    assert torch.equal(windowed, whole)
    windowed, whole = (predict(network.eval(), *images(network))[0] for network in networks)
    assert not torch.allclose(windowed, whole, atol=0.1)


def test_lacgwcnets_patterns_shape_no_feature_and_its_offsets_learn_a_hundredth():
    network = create("lacgwcnet").train()
    slow, features = network.refinement.offset, []
    plain = nn.Conv2d(slow.in_channels, slow.out_channels, 1)
    plain.load_state_dict(slow.state_dict())
    guidance = torch.rand(1, slow.in_channels, 3, 4)
    for conv in (slow, plain):
        conv(guidance).square().sum().backward()
    torch.testing.assert_close(slow(guidance), plain(guidance))
    for ours, whole in zip(slow.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, whole.grad / 100)
    for pattern in network.similarity:
        pattern.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    network(*images(network))
    assert [feature.requires_grad for feature in features] == [False] * 3


def test_frozen_attention_of_acvnet_still_follows_the_statistics():
    network = dd.create_model("acvnet_slim", max_disparity=64, freeze_attention=True)
    norm = network.features.stem[0].norm
    before = norm.running_mean.clone()
    network(*images(network))["disparity"].mean().backward()
    assert not torch.equal(norm.running_mean, before)
    assert network.features.stem[0].conv.weight.grad is None
    assert network.compress.project.weight.grad is not None


@pytest.mark.full
@pytest.mark.parametrize("name", ["acvnet_slim", "dsnet_slim", "gwcnet_gc", "lacgwcnet"])
def test_exports_with_any_batch_size_and_computes_as_before_afterwards(name):
    network = create(name)
    settle(network)
    network.eval()
    inputs = images(network)
    expected = predict(network, *inputs)
    batch = {0: torch.export.Dim("batch", min=1, max=8)}
    with torch.no_grad():
        exported = torch.export.export(network, tuple(inputs), dynamic_shapes=(batch, batch)).module()
    assert close(predict(network, *inputs), expected, 1e-6)
    double = [torch.cat((image, image)) for image in inputs]
    with torch.no_grad():
        assert close([exported(*double)["disparity"][2:]], expected, 1e-3)


def test_an_option_of_the_wrong_kind_is_named():
    with pytest.raises(dd.UserError, match="network 'dsnet_slim' cannot be made with width='wide': "):
        dd.create_model("dsnet_slim", width="wide")
    with pytest.raises(dd.UserError, match=r"max_disparity is a whole number of pixels, got 32\.0"):
        dd.create_model("dsnet_slim", max_disparity=32.0)
    with pytest.raises(dd.UserError, match="window is 0 px or more, or None for all disparities, got -1"):
        dd.create_model("dsnet_slim", window=-1)
    with pytest.raises(dd.UserError, match="network 'depth_slim' cannot be made with encoder='resnet19': "):
        dd.create_model("depth_slim", encoder="resnet19")


def test_networks_of_a_task_that_there_is_not_are_refused():
    with pytest.raises(UserError, match=r"there is no task 'steroe'; did you mean 'stereo'\?"):
        dd.list_models(task="steroe")
