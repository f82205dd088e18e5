"""Number and memory formats in which a network runs fastest, and batch normalisation folded away."""

from __future__ import annotations

import contextlib
import copy
import itertools
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..machine import cpu_flags, cpu_model
from ..threads import held
from .layers.activated_norm import ActivatedNorm
from .layers.convolution import Conv3d, DepthwiseConv2d, JoiningConv2d, TransposedConv3d
from .layers.packed import PackedConv2d, activation_of
from .layers.volume_compared import PairConvolution

Network = TypeVar("Network", bound=nn.Module)

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Those that compute by `weight` and `bias` as they are.
_FOLDABLE = (*_CONVOLUTIONS, Conv3d, DepthwiseConv2d, JoiningConv2d, PairConvolution, TransposedConv3d)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
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


def fold_batch_norm(network: Network, in_place: bool = False) -> Network:
    """Return `network` for inference, its batch normalisation folded into the convolutions before.

    A normalisation is folded where it follows a 2D, 3D or transposed convolution in an `nn.Sequential`, or in
    the `forward` of a module that torch.fx can trace, as timm's and torchvision's blocks, and takes all of
    its output. What it computes beyond that, an activation, is left in its place, otherwise the identity, so
    that module paths, hence taps, stay. What the network computes stays, too, up to rounding; only the output
    of such a convolution itself, before its normalisation, is another. Where a hook reads one of the two, as
    a tap does, both stay, and so does a convolution whose weights are computed at every call or read by the
    module around it.

    Args:
        network: any network.
        in_place: fold `network` itself, rather than a copy.

    Returns:
        The folded network in evaluation mode, without gradients.
    """
    network = (network if in_place else copy.deepcopy(network)).eval().requires_grad_(False)
    uses = Counter(id(child) for parent in network.modules() for child in parent._modules.values())
    for parent, name, conv, norm in list(_pairs(network)):
        if uses[id(conv)] == uses[id(norm)] == 1 and not _hooked(conv) and not _hooked(norm):
            plain, rest = _split(norm)
            _fold(conv, plain)
            parent._modules[name] = rest
    return network


def _hooked(module: nn.Module) -> bool:
    """Return whether somebody reads what `module` gives, or computes its weights when it is called."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


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


def _pairs(network: nn.Module) -> Iterator[tuple[nn.Module, str, Any, Any]]:
    """Yield each module with a normalisation behind a convolution, the former's name, and both."""
    holders = [module for module in network.modules() if any(map(_folds, module.children()))]
    for parent in holders:
        if isinstance(parent, nn.Sequential) and type(parent).forward is nn.Sequential.forward:
            for (_, conv), (name, norm) in itertools.pairwise(parent.named_children()):
                if type(conv) in _FOLDABLE and _folds(norm):
                    yield parent, name, conv, norm
        elif _is_block(parent):
            yield from _traced_pairs(parent)


def _is_block(module: nn.Module) -> bool:
    """Return whether no part of `module` holds normalisations but in sequences.

    Networks around an encoder call its parts one by one, and read between them; those of a block they do not.
    """
    parts = (part for part in module.modules() if part is not module and not isinstance(part, nn.Sequential))
    return not any(_folds(child) for part in parts for child in part.children())


def _traced_pairs(parent: nn.Module) -> Iterator[tuple[nn.Module, str, Any, Any]]:
    """Yield the pairs among `parent`'s children, as `_pairs` does, by the order in which it calls them."""
    from torch import fx  # takes a while, which networks made of sequences do not need

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    try:
        nodes = list(Tracer().trace(parent).nodes)
    except Exception:  # whatever a `forward` does with a size or a value that it has not got
        return
    calls = [node for node in nodes if node.op == "call_module"]
    read = {str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr"}
    times = Counter(call.target for call in calls)
    for call in calls:
        behind = [use for use in call.users if use.op == "call_module"]
        if len(call.users) == len(behind) == times[call.target] == 1 and times[behind[0].target] == 1:
            path, _, name = str(behind[0].target).rpartition(".")
            conv, norm = parent.get_submodule(str(call.target)), parent.get_submodule(str(behind[0].target))
            if type(conv) in _FOLDABLE and _folds(norm) and str(call.target) not in read:
                yield parent.get_submodule(path), name, conv, norm


def _folds(norm: nn.Module) -> bool:
    """Return whether `norm` is a batch normalisation that `_split` knows and that has statistics."""
    known = type(norm) in _NORMS or isinstance(norm, ActivatedNorm) or _is_of_timm(norm)
    return known and getattr(norm, "running_mean", None) is not None


def _is_of_timm(norm: nn.Module) -> bool:
    return isinstance(norm, _NORMS) and type(norm).__name__ == "BatchNormAct2d"


def _split(norm: Any) -> tuple[Any, nn.Module]:
    """Return `norm` as a plain normalisation, and what it computes after that."""
    if isinstance(norm, ActivatedNorm):
        return norm.split()
    if _is_of_timm(norm):
        return norm, nn.Sequential(OrderedDict(norm.named_children()))  # dropout and activation
    return norm, nn.Identity()


def _fold(conv: Any, norm: Any) -> None:
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -mean if conv.bias is None else conv.bias.double() - mean
    bias = shift * scale if norm.bias is None else shift * scale + norm.bias.double()
    weight = conv.weight
    conv.weight = nn.Parameter(_scaled(conv, scale).to(weight), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(weight), requires_grad=False)


def _scaled(conv: Any, scale: Tensor) -> Tensor:
    """Return the weight of `conv` with each output channel multiplied by its entry of `scale`, float64."""
    weight = conv.weight.double()
    ones = [1] * (weight.ndim - 2)
    if not conv.transposed:
        return weight * scale.view(-1, 1, *ones)
    # Transposed: (in, out / groups, ...), the inputs of one group after the other.
    grouped = weight.unflatten(0, (conv.groups, -1)) * scale.view(conv.groups, 1, -1, *ones)
    return grouped.flatten(0, 1)
