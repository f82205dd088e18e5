"""Batch normalisation folded into the convolutions before it."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
import torchvision
from torch import nn

from densedistill.networks import create_model
from densedistill.networks.folding import fold_batch_norm
from densedistill.networks.layers.activated_norm import ActivatedNorm


def settle(network):
    """Give every normalisation statistics, scales and shifts that matter."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return network.eval()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kind", ["Conv2d", "Conv3d", "ConvTranspose2d", "ConvTranspose3d"])
def test_folding_keeps_what_a_convolution_and_its_normalisation_compute(kind, groups, affine, bias):
    dims = int(kind[-2])
    norm = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims](9, affine=affine)
    network = nn.Sequential(
        getattr(nn, kind)(6, 9, 3, 2, 1, groups=groups, bias=bias), norm, nn.ReLU()
    ).eval()
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    if affine:
        nn.init.uniform_(norm.weight, -1, 1)
        nn.init.uniform_(norm.bias, -1, 1)
    image = torch.randn(2, 6, *[7] * dims)
    folded = fold_batch_norm(network)
    assert isinstance(folded[1], nn.Identity)
    torch.testing.assert_close(folded(image), network(image))


@pytest.mark.parametrize("name", ["dsnet_slim", "acvnet_slim", "tsnnet_student"])
def test_folding_leaves_a_stereo_network_its_disparity_its_paths_and_itself(name):
    network = settle(create_model(name, max_disparity=64)).double()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold_batch_norm(network)
    assert not any(isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d) for m in folded.modules())
    assert [path for path, _ in folded.named_modules()] == [path for path, _ in network.named_modules()]
    left, right = torch.randn(2, 1, 3, 32, 64, dtype=torch.float64).unbind()
    with torch.no_grad():
        torch.testing.assert_close(folded(left, right)["disparity"], network(left, right)["disparity"])
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


NORMS = (nn.BatchNorm2d, ActivatedNorm)  # timm's is one of the former


def norms(network):
    return [path for path, module in network.named_modules() if isinstance(module, NORMS)]


@pytest.mark.parametrize(
    ("build", "left"),
    [
        (lambda: timm.create_model("resnet18", num_classes=4), ["bn1"]),
        (lambda: timm.create_model("seresnet18", num_classes=4), ["bn1"]),
        (lambda: timm.create_model("efficientnet_b0", num_classes=4), ["bn1", "bn2"]),
        (lambda: timm.create_model("mobilenetv2_100", features_only=True), ["bn1"]),
        (lambda: torchvision.models.resnet18(num_classes=4), ["bn1"]),
        (lambda: torchvision.models.mobilenet_v2(num_classes=4), []),
        # Normalises before its convolutions, and what it has joined: nothing of it may be folded away.
        (lambda: torchvision.models.densenet121(num_classes=4).features.denseblock1.denselayer1, ["norm1"]),
        (lambda: create_model("pspnet_r18"), ["bn1", "bn2", "bn3"]),
    ],
)
def test_blocks_of_other_libraries_are_folded_where_they_call_one_after_the_other(build, left):
    network = settle(build()).double()
    folded = fold_batch_norm(network)
    assert norms(folded) == left
    assert [path for path, _ in folded.named_modules()] == [path for path, _ in network.named_modules()]
    image = torch.randn(2, 64 if left == ["norm1"] else 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(folded(image), network(image))


class Block(nn.Module):
    """A convolution and its normalisation, called as `order` says."""

    def __init__(self, order, conv=nn.Conv2d):
        super().__init__()
        self.conv, self.norm, self.order = conv(4, 4, 3, padding=1), nn.BatchNorm2d(4), order

    def forward(self, image):
        return self.order(self, image)


class ScaledConv2d(nn.Conv2d):
    """Whose weight is made anew at every call, as where weights are standardised."""

    def forward(self, image):
        return nn.functional.conv2d(image, self.weight / self.weight.std(), self.bias, padding=1)


def also_read(block, image):
    raw = block.conv(image)
    return raw + block.norm(raw)


def twice(block, image):
    return block.norm(block.conv(block.conv(image)))


def with_its_weight(block, image):
    return block.norm(block.conv(image)) + nn.functional.conv2d(image, block.conv.weight, padding=1)


class Residual(nn.Sequential):
    """A sequence that reads between its parts."""

    def forward(self, image):
        raw = self[0](image)
        return raw + self[1](raw)


def chosen_by_value(block, image):
    return block.norm(block.conv(image)) if image.sum() > 0 else image


@pytest.mark.parametrize(
    ("block", "folds"),
    [
        (Block(lambda block, image: block.norm(block.conv(image))), True),
        (Block(lambda block, image: block.conv(block.norm(image))), False),
        (Block(lambda block, image: block.norm(block.conv(image).relu())), False),
        (Block(lambda block, image: block.norm(block.conv(image)), ScaledConv2d), False),
        (nn.Sequential(ScaledConv2d(4, 4, 3), nn.BatchNorm2d(4)), False),
        (Block(also_read), False),
        (Block(twice), False),
        (Block(with_its_weight), False),
        (Residual(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)), False),
        (nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4)), False),
        (Block(chosen_by_value), False),
    ],
)
def test_a_normalisation_is_folded_only_where_it_takes_all_that_its_convolution_gives(block, folds):
    network = settle(nn.Sequential(block)).double()
    folded = fold_batch_norm(network)
    assert (norms(folded) == []) is folds
    image = torch.randn(2, 4, 5, 6, dtype=torch.float64).abs()
    torch.testing.assert_close(folded(image), network(image))


def test_parts_of_an_encoder_that_somebody_calls_one_by_one_are_not_folded():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = timm.create_model("resnet18", num_classes=0)

        def forward(self, image):
            raw = self.encoder.conv1(image)
            return raw, self.encoder.layer1(self.encoder.act1(self.encoder.bn1(raw)))

    network = settle(Around()).double()
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    folded = fold_batch_norm(network)
    assert norms(folded) == ["encoder.bn1"]
    torch.testing.assert_close(folded(image), network(image))


class Stepping(nn.Module):
    """A network that calls the parts of its sequences one by one, as `order` says."""

    def __init__(self, order):
        super().__init__()
        layers = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.body, self.others, self.order = layers, nn.ModuleList([copy.deepcopy(layers)]), order

    def forward(self, image):
        return self.order(self, image)


def keeping(network, image):
    kept = []
    for layer in network.body:
        image = layer(image)
        kept.append(image)
    return sum(kept)


def keeping_of_a_list(network, image):
    kept = []
    for block in network.others:
        for layer in block:
            image = layer(image)
            kept.append(image)
    return network.body(sum(kept))


def stepping_past_what_a_trace_sees(network, image):
    raw = network.body[0](image)
    if raw.sum() > 0:
        return network.body[1](raw) + raw
    return raw


def with_the_norm_alone(network, image):
    return network.body(image) + network.body[1](image)


def with_the_weight_of_a_part(network, image):
    return network.body(image) + nn.functional.conv2d(image, network.body[0].weight, padding=1)


def keeping_nothing(network, image):
    for layer in network.body:
        image = layer(image)
    return network.others[0](image)


@pytest.mark.parametrize(
    ("order", "left"),
    [
        (keeping, ["body.1"]),
        (keeping_of_a_list, ["others.0.1"]),
        (stepping_past_what_a_trace_sees, ["body.1"]),
        (with_the_norm_alone, ["body.1"]),
        (with_the_weight_of_a_part, ["body.1"]),
        (keeping_nothing, []),
    ],
)
def test_a_sequence_that_somebody_steps_through_is_folded_where_nobody_reads_in_between(order, left):
    network = settle(Stepping(order)).double()
    folded = fold_batch_norm(nn.Sequential(network, nn.Identity()))
    assert [path.removeprefix("0.") for path in norms(folded)] == left
    image = torch.randn(2, 4, 5, 6, dtype=torch.float64).abs()
    torch.testing.assert_close(folded(image), network(image))


def test_tracing_leaves_the_network_as_it_was_and_other_threads_alone():
    class Noting(Stepping):
        def forward(self, image):
            self.noted = image
            found.append(other.submit(nn.Identity(), 3).result())
            return self.body(image)

    found, network = [], Noting(None)
    with ThreadPoolExecutor(1) as other:
        folded = fold_batch_norm(network)
    assert found == [3]
    assert not hasattr(folded, "noted")


@pytest.mark.parametrize("slope", [None, 0.01])
def test_an_activated_normalisation_is_folded_with_its_sign_and_its_activation(slope):
    norm = ActivatedNorm(4, slope)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), norm)
    settle(network)
    norm.weight.data[:2] *= -1
    folded = fold_batch_norm(network.double())
    assert norms(folded) == []
    image = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(folded(image), network(image))


def test_a_convolution_that_two_normalisations_share_is_not_folded():
    conv = nn.Conv2d(3, 4, 1)
    network = nn.Sequential(
        nn.Sequential(conv, nn.BatchNorm2d(4)), nn.Conv2d(4, 3, 1), nn.Sequential(conv)
    ).eval()
    assert isinstance(fold_batch_norm(network)[0][1], nn.BatchNorm2d)


@pytest.mark.parametrize("hooked", [0, 1])
def test_what_a_hook_reads_is_not_folded(hooked):
    network = settle(
        nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
        )
    )
    read = []
    network[0][hooked].register_forward_hook(lambda module, given, output: read.append(output))
    image = torch.randn(1, 3, 4, 5)
    expected = network(image)
    assert fold_batch_norm(network, in_place=True) is network
    assert [type(part[1]) for part in network] == [nn.BatchNorm2d, nn.Identity]
    torch.testing.assert_close(network(image), expected)
    assert torch.equal(read[0], read[1])
