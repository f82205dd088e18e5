"""Number and memory formats in which a network runs fastest."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from ..machine import cpu_flags, cpu_model
from ..threads import held
from .layers.packed import PackedConv2d, activation_of

Network = TypeVar("Network", bound=nn.Module)

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WIDE = 128  # input channels up to which AVX2 has a fast gradient of 3x3 convolutions, channels-last


def fastest_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """Return the number format that convolutions on `device` are fastest in: bfloat16 or float32.

    A CPU needs AMX for it, or AVX-512's bfloat16 instructions by AMD (twice float32's speed from Zen 4 on;
    Intel's without AMX are slower than float32); a GPU needs tensor cores (compute capability 8 or more).
    """
    device = torch.device(device)
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu":
        amd = "AMD" in cpu_model() and "avx512_bf16" in cpu_flags()
        fast = torch.cpu._is_amx_tile_supported() or amd
    else:
        fast = False
    return torch.bfloat16 if fast else torch.float32


def weights_dtype(network: nn.Module) -> torch.dtype | None:
    """Return the dtype of `network`'s weights; None where it has none of floating point."""
    return next((tensor.dtype for tensor in network.parameters() if tensor.is_floating_point()), None)


def without_tf32() -> contextlib.AbstractContextManager[None]:
    """Compute in float32 on CUDA, too, where convolutions are in TF32 by default."""
    return held("TF32", _forbid_tf32)


def _forbid_tf32() -> Callable[[], None]:
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def end() -> None:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products

    return end


def channels_last(network: Network) -> Network:
    """Lay out the weights of `network`'s 2D and 3D convolutions channels-last, in place, and return it.

    Convolutions then give channels-last results whatever their input, so the format spreads by itself. The
    weights of one pixel or one channel lie alike in both formats: their strides have to tell.
    """
    for module in network.modules():
        if isinstance(module, _CONVOLUTIONS):
            weight = module.weight.data
            form = torch.channels_last if weight.ndim == 4 else torch.channels_last_3d
            module.weight.data = torch.empty_like(weight, memory_format=form).copy_(weight)
    return network


def trains_channels_last(network: nn.Module, dtype: torch.dtype, device: torch.device | str = "cpu") -> bool:
    """Return whether a training step of `network` in `dtype` is faster with its weights channels-last.

    It is, but in float32 on a processor without AVX-512, which takes twice as long for the gradients of 3x3
    convolutions of more than 128 channels, where a network consists of these for the most part: DWARF, a
    PSPNet or ResNet on ResNet-18 (measured in docs/log.md, "Steps of all systems").
    """
    if torch.device(device).type != "cpu" or dtype is not torch.float32 or "avx2" not in cpu_flags():
        return True
    if "avx512f" in cpu_flags():
        return True
    weights = [module.weight for module in network.modules() if isinstance(module, _CONVOLUTIONS)]
    wide = [w for w in weights if w.ndim == 4 and w.shape[1] > _WIDE and w.shape[2:].numel() > 1]
    return 2 * sum(w.numel() for w in wide) < sum(w.numel() for w in weights)


def pack_weights(network: Network) -> Network:
    """Keep weights as its layers compute with them, from the next run of `network` on; return it.

    Autocast casts weights that want no gradient at every call, and oneDNN lays them out anew. Those of frozen
    2D convolutions are packed when they are called on a CPU (`PackedConv2d`); those of all other convolutions
    and linear layers that run under autocast, and only under it, are cast for good after that run; an
    activation behind a packed convolution in an `nn.Sequential` is computed with it. Layers whose weights a
    hook computes at every call, as `spectral_norm` does, stay as they are. The same results from the first to
    the last run, and half the memory. From then on `network` must run as it did then, under autocast or not;
    other sizes are fine. What a hook reads stays. Other threads wait for the first run's end.

    Packed weights cannot be changed or saved any more: this is for a network that nobody else uses.
    """
    dtypes: dict[nn.Module, torch.dtype | None] = {}
    calls: Counter[nn.Module] = Counter()
    first = threading.RLock()  # a run that began before the layers change and ended after would be wrong

    def begin(*_: Any) -> None:
        first.acquire()
        if not hooks:  # another thread's run was the first
            first.release()

    def note(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls[layer] += 1
        if not isinstance(layer, nn.Sequential):
            device = inputs[0].device.type
            dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
            dtypes[layer] = dtype if dtypes.get(layer, dtype) == dtype else None

    def settle(_: nn.Module, __: Any, result: Any) -> None:
        if not hooks:
            return
        if result is not None:  # else the run failed
            while hooks:
                hooks.pop().remove()
            for layer, dtype in dtypes.items():
                packed = isinstance(layer, PackedConv2d) and layer.packed is not None
                for parameter in layer.parameters(recurse=False) if dtype and not packed else ():
                    parameter.data = parameter.data.to(dtype)
            for module in list(calls):
                if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
                    _join_activations(module, calls)
        first.release()

    kinds = (*_CONVOLUTIONS, nn.Linear, nn.Sequential)
    layers = [m for m in network.modules() if isinstance(m, kinds) and not m._forward_pre_hooks]
    for layer in layers:
        PackedConv2d.take(layer)
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    hooks.append(network.register_forward_pre_hook(begin, prepend=True))
    hooks.append(network.register_forward_hook(settle, always_call=True))
    return network


def _join_activations(sequence: nn.Sequential, calls: Counter[nn.Module]) -> None:
    """Let packed convolutions, which nothing but `sequence` called, compute the activation behind them."""
    conv: PackedConv2d | None = None
    for name, child in sequence.named_children():
        activation = activation_of(child)
        if conv is not None and activation is not None and not child._forward_hooks:
            conv.activation = activation
            sequence._modules[name] = nn.Identity()
        if type(child) is nn.Identity and not child._forward_hooks:
            continue
        conv = None
        if isinstance(child, PackedConv2d) and calls[child] == calls[sequence] and not child._forward_hooks:
            conv = child
