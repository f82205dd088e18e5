"""Activations that are computed again in the backward pass rather than kept for it.

Autograd keeps what every operation reads. Normalisation keeps the result of the convolution before it, and
the next convolution the same, normalised and activated: two maps where one would do. The second is cheap to
compute again, unlike a convolution; so are sums, concatenations, enlarged features and cost volumes.

In-place activated batch normalisation (Rota Bulò et al., CVPR 2018) has the same aim, for invertible
activations and networks written for it. Here nothing is inverted, so that gradients stay the same to the bit,
and a network need not know.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..networks.layers import volume  # noqa: F401  (defines the operators of cost volumes)

# Tensors of fewer elements are not worth the time.
_SMALL = 1 << 12
# As often may sums and the like follow upon each other; each is computed from those before it.
_DEPTH = 2


@contextlib.contextmanager
def recomputed_activations(enabled: bool = True) -> Iterator[None]:
    """Within it, cheap activations are not kept for the backward pass, which computes them again.

    It goes around the forward pass and the losses; the backward pass may come later. An activation is
    computed again from what is kept anyway, or is less than half its size; all else is kept as ever.

    Args:
        enabled: False for a context that does nothing. A compiled network wants none: its compiler decides
            what is kept.
    """
    if not enabled:
        yield
        return
    ledger = _Ledger()
    try:
        with torch.autograd.graph.saved_tensors_hooks(ledger.keep, _Kept.get), _Watch(ledger):
            yield
    finally:
        ledger.close()


class _Recipe:
    """How to compute a tensor that has its memory to itself.

    An operation that keeps its own result, as a ReLU does, is the last to ask for it in a backward pass;
    until then the tensor is held, so that it is computed once.
    """

    def __init__(self, parts: list[Any], again: Callable[..., Tensor], result: Tensor, joins: bool):
        self.awaited = False
        self.depth = joins + max((part.recipe.depth for part in parts if _is_recipe(part)), default=0)
        self._parts, self._again, self._stride = parts, again, result.stride()
        self._value: Tensor | None = None

    def make(self, last: bool) -> Tensor:
        """Return the tensor; hold it if it is awaited and this is not the `last` to ask."""
        value = self._value
        if value is None:
            with torch.no_grad():
                value = self._again(
                    *[part.get() if isinstance(part, _Kept) else part for part in self._parts]
                )
                if value.stride() != self._stride:
                    value = value.new_empty_strided(value.shape, self._stride).copy_(value)
        self._value = value if self.awaited and not last else None
        return value


class _Kept:
    """What stands for a tensor: itself, or a recipe for its memory and where in that it lies."""

    def __init__(self, tensor: Tensor, recipe: _Recipe | None):
        self.tensor: Tensor | None = tensor
        self.recipe: _Recipe | None = None
        self._version, self._last = tensor._version, False
        if recipe:
            self.leave(recipe)

    def leave(self, recipe: _Recipe, last: bool = False) -> None:
        """Give the tensor up for its recipe; `last`: as the last one to ask for it."""
        assert self.tensor is not None
        self._view = (self.tensor.shape, self.tensor.stride(), self.tensor.storage_offset())
        self.tensor, self.recipe, self._last = None, recipe, last

    def get(self) -> Tensor:
        """Return the tensor.

        Raises:
            RuntimeError: it was changed in place, as autograd itself would say.
        """
        if self.recipe is not None:
            return self.recipe.make(self._last).as_strided(*self._view)
        assert self.tensor is not None
        if self.tensor._version != self._version:
            raise RuntimeError(
                f"a tensor {tuple(self.tensor.shape)} that its gradient needs was changed in place; "
                "with trainer.recompute off, torch.autograd.set_detect_anomaly(True) says which"
            )
        return self.tensor


class _Ledger:
    """What autograd keeps, and what can be computed again, by the address of the memory."""

    def __init__(self) -> None:
        self.fresh: list[_Kept] = []  # by the operation under way
        self._kept: dict[int, weakref.ref[_Kept]] = {}
        self._made: dict[int, tuple[weakref.ref[Tensor], int, _Recipe]] = {}

    def close(self) -> None:
        """Forget all: the graph, which lives on, holds this object."""
        self.fresh.clear()
        self._kept.clear()
        self._made.clear()

    def keep(self, tensor: Tensor) -> _Kept:
        """Return what autograd is to keep in place of `tensor`."""
        kept = self.stand_in(tensor)
        if kept.tensor is not None:
            self.fresh.append(kept)
            self._kept[_address(tensor)] = weakref.ref(kept)
        return kept

    def stand_in(self, tensor: Tensor) -> _Kept:
        """Return what stands for `tensor`: a recipe, if one is known."""
        result, version, recipe = self._made.get(_address(tensor), (None, 0, None))
        origin = result() if result is not None else None
        known = origin is not None and tensor._version == version and tensor.dtype == origin.dtype
        return _Kept(tensor, recipe if known else None)

    def statistics(self, normalised: Tensor) -> list[_Kept]:
        """Return what the batch normalisation under way keeps last on a CPU: mean and inverse deviation."""
        last = self.fresh[-2:] if normalised.device.type == "cpu" else []
        shapes = [kept.tensor.shape for kept in last if kept.tensor is not None]
        return last if shapes == [normalised.shape[1:2]] * 2 else []

    def note(self, parts: list[Any], again: Callable[..., Tensor], result: Tensor, joins: bool) -> None:
        """Note that `result` is `again(*parts)`, unless that is of no use.

        Args:
            parts: what stands for the tensors, and what else `again` takes.
            again: computes the result anew, not in place.
            result: what was computed.
            joins: whether it is of more than one map.
        """
        tensors = [part.tensor for part in parts if isinstance(part, _Kept) and part.tensor is not None]
        overwritten = any(_address(tensor) == _address(result) for tensor in tensors)
        extra = sum(_bytes(tensor) for tensor in tensors if not self._is_kept(tensor))
        whole = result.untyped_storage().nbytes() == _bytes(result)
        if overwritten or 2 * extra > _bytes(result) or not whole:
            return
        recipe = _Recipe(parts, again, result, joins)
        if recipe.depth > _DEPTH:
            return
        for kept in self.fresh:
            if kept.tensor is not None and _address(kept.tensor) == _address(result):
                kept.leave(recipe, last=True)
                recipe.awaited = True
        self._made[_address(result)] = weakref.ref(result), result._version, recipe

    def _is_kept(self, tensor: Tensor) -> bool:
        reference = self._kept.get(_address(tensor))
        kept = reference() if reference is not None else None
        return isinstance(tensor, nn.Parameter) or (kept is not None and kept.tensor is not None)


class _Watch(TorchFunctionMode):
    """Notes the operations that are cheap to compute again."""

    def __init__(self, ledger: _Ledger):
        super().__init__()
        self._ledger = ledger

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        describe = _CHEAP.get(function)
        described = describe(*args, **kwargs) if describe and torch.is_grad_enabled() else None
        if described is None:
            return function(*args, **kwargs)
        tensors, again = described
        # Before the call, which may overwrite its input.
        parts = [self._ledger.stand_in(x) if isinstance(x, Tensor) else x for x in tensors]
        self._ledger.fresh.clear()
        result = function(*args, **kwargs)
        if isinstance(again, _Standardised):
            parts += self._ledger.statistics(result)
        if result.numel() >= _SMALL and not result.is_inference():
            joins = len([x for x in tensors if isinstance(x, Tensor) and x.ndim > 3]) > 1
            self._ledger.note(parts, again, result, joins)
        return result


def _is_recipe(part: Any) -> bool:
    return isinstance(part, _Kept) and part.recipe is not None


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


# What is cheap: from the arguments of a call to its tensors and what computes the result of these.

Again = tuple[list[Any], Callable[..., Tensor]]


def _normalised(
    input: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Again:
    if training:
        return [input, weight, bias], _Standardised(eps)
    return [input, mean, variance, weight, bias], lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b, eps=eps)


class _Standardised:
    """Normalises by an input's own statistics; the running ones have had their update."""

    def __init__(self, eps: float):
        self._eps = eps

    def __call__(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, *statistics: Tensor) -> Tensor:
        if not statistics:
            return F.batch_norm(x, None, None, weight, bias, True, 0.0, self._eps)
        mean, scale = statistics  # the latter is the inverse of the deviation
        scale = scale if weight is None else scale * weight  # as the first time: the same to the bit
        # Not by `F.batch_norm`, which takes no eps of 0 in torch 2.11.
        return torch.batch_norm(x, scale, bias, mean, torch.ones_like(mean), False, 0.0, 0.0, True)


def _activated(function: Callable[..., Tensor]) -> Callable[..., Again]:
    def describe(input: Tensor, *options: Any, inplace: bool = False, **named: Any) -> Again:
        numbers = [option for option in options if not isinstance(option, bool)]  # not `inplace`
        return [input], lambda x: function(x, *numbers, **named)

    return describe


def _combined(function: Callable[..., Tensor]) -> Callable[..., Again | None]:
    def describe(*operands: Any, **named: Any) -> Again | None:
        plain = not named and all(isinstance(operand, Tensor) for operand in operands)
        return (list(operands), function) if plain else None

    return describe


def _concatenated(tensors: Any, dim: int = 0, **named: Any) -> Again | None:
    return None if named else (list(tensors), lambda *parts: torch.cat(parts, dim))


def _resized(input: Tensor, *options: Any, **named: Any) -> Again:
    return [input], lambda x: F.interpolate(x, *options, **named)


def _volume(operator: Callable[..., Tensor]) -> Callable[..., Again]:
    def describe(left: Tensor, right: Tensor, *options: Any) -> Again:
        return [left, right], lambda x, y: operator(x, y, *options)

    return describe


_ACTIVATIONS: dict[Callable[..., Tensor], tuple[Any, ...]] = {
    F.relu: (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_),
    F.hardtanh: (F.hardtanh, F.hardtanh_),
    F.relu6: (F.relu6,),
    F.leaky_relu: (F.leaky_relu, F.leaky_relu_),
}
_VOLUMES = (torch.ops.densedistill.groupwise_correlation, torch.ops.densedistill.concatenation)
_CHEAP: dict[Any, Callable[..., Again | None]] = {
    F.batch_norm: _normalised,
    F.interpolate: _resized,
    torch.cat: _concatenated,
    **{call: _activated(function) for function, calls in _ACTIVATIONS.items() for call in calls},
    **{call: _combined(torch.add) for call in (torch.add, Tensor.add, Tensor.__add__)},
    **{call: _combined(torch.mul) for call in (torch.mul, Tensor.mul, Tensor.__mul__)},
    **{operator: _volume(operator) for operator in _VOLUMES},
}
