"""Number formats, memory formats and packed weights."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn

from densedistill.networks import create_model, precision
from densedistill.networks.layers import packed
from densedistill.networks.layers.convolution import DepthwiseConv2d
from densedistill.networks.layers.packed import PackedConv2d
from densedistill.networks.precision import (
    channels_last,
    fastest_dtype,
    pack_weights,
    trains_channels_last,
    without_tf32,
)


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
    single, outside = copy.deepcopy(network), network(image)
    torch.testing.assert_close(pack_weights(single)(image), outside)
    assert single.first.weight.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        before = network(image)
        first = pack_weights(network)(image)
        torch.testing.assert_close(first, before, rtol=1e-2, atol=1e-2)
        assert torch.equal(network(image), first)
    assert network.first.weight.dtype == network.first.bias.dtype == torch.bfloat16
    assert network.norm.weight.dtype == network.single.weight.dtype == torch.float32


def test_weights_that_run_under_autocast_and_outside_are_not_cast():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, image):
            with torch.autocast("cpu", enabled=False):
                image = self.layer(image)
            return self.layer(image)

    network, image = Both().eval().requires_grad_(False), torch.randn(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        expected = network(image)
        pack_weights(network)(image)
        torch.testing.assert_close(network(image), expected)
    assert network.layer.weight.dtype == torch.float32


@pytest.mark.parametrize("allowed", [False, True])
def test_tf32_is_forbidden_for_a_while_and_then_as_before(allowed):
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, products.allow_tf32
    try:
        cudnn.allow_tf32, products.allow_tf32 = allowed, not allowed
        with without_tf32():
            assert (cudnn.allow_tf32, products.allow_tf32) == (False, False)
        assert (cudnn.allow_tf32, products.allow_tf32) == (allowed, not allowed)
    finally:
        cudnn.allow_tf32, products.allow_tf32 = before


class Layers(nn.Module):
    """Convolutions of all kinds, in a sequence with their activations."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 2, 2, groups=4), nn.Identity(),
            nn.ReLU6(), DepthwiseConv2d(8, dilation=2), nn.LeakyReLU(0.2), nn.Conv2d(8, 4, 1, bias=False),
            nn.Sigmoid(), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU(),
        )  # fmt: skip

    def forward(self, image):
        return self.layers(image)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_convolutions_compute_the_same_for_every_size(dtype):
    plain = Layers().eval().requires_grad_(False)
    network = pack_weights(copy.deepcopy(plain))
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        for size in ((2, 3, 16, 24), (1, 3, 9, 8), (0, 3, 8, 8)):
            image = torch.randn(size)
            first = network(image)
            torch.testing.assert_close(first, plain(image))
            assert torch.equal(network(image), first)
    wanted = dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    kinds = [type(layer) for layer in network.layers]
    assert kinds.count(PackedConv2d) == 4
    for ours, theirs in zip(network.layers, plain.layers, strict=True):
        if isinstance(ours, PackedConv2d):
            assert (ours.packed is not None) is wanted
            assert torch.equal(ours.weight, theirs.weight.to(ours.weight.dtype))
    assert kinds.count(nn.Identity) == 3  # two activations went into convolutions
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in plain.parameters())


def test_where_nothing_is_packed_weights_are_cast_for_good(monkeypatch):
    monkeypatch.setattr(packed, "_packs", lambda image, dtype: False)  # as on a GPU
    plain, image = Layers().eval().requires_grad_(False), torch.randn(2, 3, 16, 24)
    network = pack_weights(copy.deepcopy(plain))
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            torch.testing.assert_close(network(image), plain(image))
    convolutions = [layer for layer in network.layers if isinstance(layer, nn.Conv2d)]
    assert all(layer.weight.dtype == torch.bfloat16 for layer in convolutions)


def test_a_gradient_passes_packed_convolutions():
    plain = Layers().eval().requires_grad_(False)
    network, gradients = pack_weights(copy.deepcopy(plain)), []
    network(torch.randn(1, 3, 16, 16))
    image = torch.randn(1, 3, 16, 16)
    for each in (network, plain):
        leaf = image.clone().requires_grad_()
        each(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    "move",
    [lambda network: network.cpu(), lambda network: network.double(), lambda network: copy.deepcopy(network)],
)
def test_packed_convolutions_can_be_moved_and_copied(move):
    plain, image = Layers().eval().requires_grad_(False), torch.randn(1, 3, 16, 16)
    network = pack_weights(copy.deepcopy(plain))
    network(image)
    network, plain = move(network), move(plain)
    image = image.to(plain.layers[0].weight.dtype)
    torch.testing.assert_close(network(image), plain(image))


def test_what_learns_is_not_packed():
    network = Layers().eval()
    network.layers[5].requires_grad_(False)
    pack_weights(network)(torch.randn(1, 3, 16, 16))
    assert [i for i, layer in enumerate(network.layers) if isinstance(layer, PackedConv2d)] == [5]


@pytest.mark.parametrize("hooked", [0, 1])
def test_an_activation_stays_where_a_hook_reads_it_or_the_convolution_before(hooked):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval().requires_grad_(False)
    read = []
    network[hooked].register_forward_hook(lambda module, given, output: read.append(output))
    image = torch.randn(1, 3, 8, 8)
    pack_weights(network)(image)
    assert isinstance(network[1], nn.ReLU)
    network(image)
    torch.testing.assert_close(read[1], read[0])


def test_an_activation_stays_where_somebody_calls_a_sequence_layer_by_layer():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())

        def forward(self, image):
            raw = self.layers[0](image)
            return raw, self.layers[1](raw), self.layers(image)

    network, image = Around().eval().requires_grad_(False), torch.randn(1, 3, 8, 8)
    expected = network(image)
    pack_weights(network)(image)
    assert isinstance(network.layers[0], PackedConv2d)
    torch.testing.assert_close(network(image), expected)


def test_weights_that_a_hook_computes_are_not_packed():
    network = nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(3, 4, 3))).eval().requires_grad_(False)
    image = torch.randn(1, 3, 6, 7)
    expected = network(image)
    pack_weights(network)
    for _ in range(2):
        assert torch.equal(network(image), expected)


def test_a_run_of_another_thread_waits_for_the_first_to_end(monkeypatch):
    """Else its activation would go between its convolution and itself."""
    image, compute = torch.randn(1, 3, 16, 16), PackedConv2d.forward
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()).eval().requires_grad_(False)
    wanted, found = network(image), []
    begun, ended = threading.Event(), threading.Event()
    other = threading.Thread(target=lambda: found.append(network(image)))

    def slowly(conv, image):
        result = compute(conv, image)
        if threading.current_thread() is other:
            begun.set()
            ended.wait(5)
        elif not begun.is_set():
            other.start()
            begun.wait(0.3)
        return result

    monkeypatch.setattr(PackedConv2d, "forward", slowly)
    found.append(pack_weights(network)(image))
    ended.set()
    other.join()
    for answer in found:
        torch.testing.assert_close(answer, wanted)


def test_a_first_run_that_fails_leaves_the_next_to_be_the_first():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()).eval().requires_grad_(False)
    image, found = torch.randn(1, 3, 16, 16), []
    wanted = network(image)
    pack_weights(network)
    with pytest.raises(RuntimeError):
        network(image[:, :2])
    other = threading.Thread(target=lambda: found.append(network(image)), daemon=True)
    other.start()
    other.join(10)
    torch.testing.assert_close(*found, wanted)
    assert not network._forward_hooks
