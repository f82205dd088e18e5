"""Batch normalisation folded into the convolutions before it."""

from __future__ import annotations

import copy
import functools
import itertools
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from .layers.activated_norm import ActivatedNorm
from .layers.convolution import Conv3d, DepthwiseConv2d, JoiningConv2d, TransposedConv3d
from .layers.volume_compared import PairConvolution

Network = TypeVar("Network", bound=nn.Module)
Trace = Callable[[nn.Module], tuple[list[Any], bool]]

# Those that compute by `weight` and `bias` as they are.
_FOLDABLE = (
    *(nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(Conv3d, DepthwiseConv2d, JoiningConv2d, PairConvolution, TransposedConv3d),
)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
_tracing = threading.Lock()  # what torch.fx changes while it traces, another trace must not find changed


def fold_batch_norm(network: Network, in_place: bool = False) -> Network:
    """Return `network` for inference, its batch normalisation folded into the convolutions before.

    A normalisation is folded where it follows a 2D, 3D or transposed convolution in an `nn.Sequential`, or in
    the `forward` of a module that torch.fx can trace, as timm's and torchvision's blocks, and takes all of
    its output. What it computes beyond that, an activation, is left in its place, otherwise the identity, so
    that module paths, hence taps, stay. What the network computes stays, too, up to rounding; only the output
    of such a convolution itself, before its normalisation, is another. Where a hook reads one of the two, as
    a tap does, both stay, and so does a convolution whose weights are computed at every call or read by the
    module around it.

    Both stay, too, where a module steps through a sequence by itself and takes more from it than the sequence
    would: found as far as torch.fx can trace that module. One that it cannot trace up to there, as it decides
    by sizes or values before, must call its sequences as a whole, or not be folded.

    Args:
        network: any network.
        in_place: fold `network` itself, rather than a copy.

    Returns:
        The folded network in evaluation mode, without gradients.
    """
    network = (network if in_place else copy.deepcopy(network)).eval().requires_grad_(False)
    uses = Counter(id(child) for parent in network.modules() for child in parent._modules.values())
    trace = functools.cache(_trace)
    pairs = list(_pairs(network, trace))
    parted = _parted(network, {conv: norm for *_, conv, norm in pairs}, trace)
    for parent, name, conv, norm in pairs:
        whole = uses[id(conv)] == uses[id(norm)] == 1 and conv not in parted
        if whole and not _hooked(conv) and not _hooked(norm):
            plain, rest = _split(norm)
            _fold(conv, plain)
            parent._modules[name] = rest
    return network


def _hooked(module: nn.Module) -> bool:
    """Return whether somebody reads what `module` gives, or computes its weights when it is called."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _pairs(network: nn.Module, trace: Trace) -> Iterator[tuple[nn.Module, str, Any, Any]]:
    """Yield each module with a normalisation behind a convolution, the former's name, and both."""
    holders = [module for module in network.modules() if any(map(_folds, module.children()))]
    for parent in holders:
        if isinstance(parent, nn.Sequential) and type(parent).forward is nn.Sequential.forward:
            for (_, conv), (name, norm) in itertools.pairwise(parent.named_children()):
                if type(conv) in _FOLDABLE and _folds(norm):
                    yield parent, name, conv, norm
        elif _is_block(parent):
            yield from _traced_pairs(parent, trace)


def _is_block(module: nn.Module) -> bool:
    """Return whether no part of `module` holds normalisations but in sequences.

    Networks around an encoder call its parts one by one, and read between them; those of a block they do not.
    """
    parts = (part for part in module.modules() if part is not module and not isinstance(part, nn.Sequential))
    return not any(_folds(child) for part in parts for child in part.children())


def _traced_pairs(parent: nn.Module, trace: Trace) -> Iterator[tuple[nn.Module, str, Any, Any]]:
    """Yield the pairs among `parent`'s children, as `_pairs` does, by the order in which it calls them."""
    nodes, whole = trace(parent)
    if not whole:
        return
    calls = [node for node in nodes if node.op == "call_module"]
    times = Counter(call.target for call in calls)
    for call in calls:
        behind = [use for use in call.users if use.op == "call_module"]
        if len(call.users) == len(behind) == times[call.target] == 1 and times[behind[0].target] == 1:
            path, _, name = str(behind[0].target).rpartition(".")
            conv, norm = parent.get_submodule(str(call.target)), parent.get_submodule(str(behind[0].target))
            if type(conv) in _FOLDABLE and _folds(norm):
                yield parent.get_submodule(path), name, conv, norm


def _parted(network: nn.Module, norms: Mapping[Any, Any], trace: Trace) -> set[Any]:
    """Return the convolutions among those of `norms`, which follow them, that somebody computes with
    otherwise than with both in turn."""
    # A `PairConvolution` is no layer of a sequence; what is around it knows how it is normalised.
    norms = {conv: norm for conv, norm in norms.items() if type(conv) is not PairConvolution}
    convs = {norm: conv for conv, norm in norms.items()}
    paired, found = {*norms, *convs}, set()
    for parent in network.modules():
        if _is_container(parent) or parent in paired or paired.isdisjoint(parent.modules()):
            continue
        nodes, whole = trace(parent)
        modules = {node: parent.get_submodule(str(node.target)) for node in nodes if node.op == "call_module"}
        for node, module in modules.items():
            behind = [modules.get(use) for use in node.users]
            before = [modules.get(given) for given in node.all_input_nodes]
            if module in norms and not (whole and behind == [norms[module]]):
                found.add(module)
            if module in convs and not (whole and before == [convs[module]]):
                found.add(convs[module])
        read = [str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr"]
        found.update(module for module in map(parent.get_submodule, read) if module in norms)
    return found


def _is_container(module: nn.Module) -> bool:
    """Return whether `module` calls nothing but, as a plain sequence, its parts one after the other."""
    forward = type(module).forward
    return forward is nn.Sequential.forward or forward is nn.Module.forward


def _trace(parent: nn.Module) -> tuple[list[Any], bool]:
    """Return what `parent` does in `forward`, in which its parts are one node each, and whether that is all:
    a trace ends where `forward` does something with a size or a value, that it has not got."""
    from torch import fx

    thread = threading.get_ident()

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

        def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
            if threading.get_ident() != thread:  # fx looks at the calls of all modules, wherever
                return forward(*args, **kwargs)
            return super().call_module(m, forward, args, kwargs)

    tracer, whole = Tracer(), True
    with _tracing:
        try:
            # A copy: what `forward` notes in its module is no part of the network.
            tracer.trace(copy.copy(parent))
        except Exception:
            whole = False
    graph = getattr(tracer, "graph", None)
    return list(graph.nodes) if graph else [], whole


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
