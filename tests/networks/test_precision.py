"""Number formats, memory formats and folded batch normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from densedistill.networks import create_model, precision
from densedistill.networks.precision import (
    cast_weights_once,
    channels_last,
    fastest_dtype,
    fold_batch_norm,
    trains_channels_last,
)


def settle(network):
    """Give every normalisation statistics, scales and shifts that matter."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
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


@pytest.mark.parametrize("name", ["dsnet_slim", "acvnet_slim"])
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


def test_channels_last_lays_out_weights_and_hence_results():
    network = channels_last(nn.Sequential(nn.Conv3d(4, 8, 3), nn.ConvTranspose3d(8, 4, 3)))
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last_3d) for m in network)
    assert network(torch.randn(2, 4, 5, 6, 7)).is_contiguous(memory_format=torch.channels_last_3d)
    for flat in (nn.Conv2d(4, 8, 3), nn.Conv2d(4, 8, 1), nn.Conv2d(4, 4, 3, groups=4)):
        assert channels_last(flat)(torch.randn(1, 4, 5, 6)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("name", "flags", "dtype", "device", "last"),
    [
        ("dwarf_slim", ["avx2"], torch.float32, "cpu", False),
        ("pspnet_r18", ["avx2"], torch.float32, "cpu", False),
        ("depth_slim", ["avx2"], torch.float32, "cpu", True),
        ("gwcnet_slim", ["avx2"], torch.float32, "cpu", True),
        ("dwarf_slim", ["avx2", "avx512f"], torch.float32, "cpu", True),
        ("dwarf_slim", ["avx2"], torch.bfloat16, "cpu", True),
        ("dwarf_slim", ["avx2"], torch.float32, "cuda", True),
    ],
)
def test_wide_convolutions_stay_contiguous_where_their_gradients_are_slow(
    name, flags, dtype, device, last, monkeypatch
):
    monkeypatch.setattr(precision, "cpu_flags", lambda: flags)
    assert trains_channels_last(create_model(name), dtype, device) is last


@pytest.mark.parametrize(
    ("amx", "model", "flags", "fastest"),
    [
        (True, "Intel(R) Xeon(R)", ["avx512f", "avx512_bf16", "amx_bf16"], torch.bfloat16),
        (False, "AMD EPYC", ["avx512f", "avx512_bf16"], torch.bfloat16),
        (False, "Intel(R) Xeon(R)", ["avx512f", "avx512_bf16"], torch.float32),
        (False, "AMD EPYC", ["avx2"], torch.float32),
    ],
)
def test_a_cpu_is_fastest_in_bfloat16_only_with_units_for_it(monkeypatch, amx, model, flags, fastest):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(precision, "cpu_model", lambda: model)
    monkeypatch.setattr(precision, "cpu_flags", lambda: flags)
    assert fastest_dtype("cpu") is fastest


def test_weights_are_cast_once_where_autocast_would_cast_them_each_time():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.single = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

        def forward(self, image):
            features = self.norm(self.first(image))
            with torch.autocast("cpu", enabled=False):
                return self.single(features.float())

    network, image = Mixed().eval().requires_grad_(False), torch.randn(1, 3, 8, 8)
    outside = network(image)
    assert torch.equal(cast_weights_once(network)(image), outside)
    assert network.first.weight.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        before = network(image)
        assert torch.equal(cast_weights_once(network)(image), before)
        assert torch.equal(network(image), before)
    assert network.first.weight.dtype == network.first.bias.dtype == torch.bfloat16
    assert network.norm.weight.dtype == network.single.weight.dtype == torch.float32
