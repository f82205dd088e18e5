"""Convolutions whose gradient a CPU gets wrong in bfloat16, computed in float32.

oneDNN, as torch 2.15 has it, leaves parts of the gradient of a weight unwritten, so that they are whatever
was in the memory: where a tap of the kernel never touches the image, as with a 3x3 kernel and a stride of two
on a single column; for volumes of depth two; and with dilation, for channels that are no multiple of 16.
Results and the gradients of images are right. See "Gradients that nobody wrote" in docs/log.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LANES = 16


@contextlib.contextmanager
def exact_gradients(enabled: bool = True) -> Iterator[None]:
    """Within it, convolutions on a CPU whose gradient would be wrong in bfloat16 are computed in float32.

    It goes around the forward pass, within autocast; the backward pass may come later. Nothing else changes.

    Args:
        enabled: False for a context that does nothing, as a compiled network wants it.
    """
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    with _Exact() if enabled and half else contextlib.nullcontext():
        yield


class _Exact(TorchFunctionMode):
    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function not in (torch.conv2d, torch.conv3d) or not _goes_wrong(*args, **kwargs):
            return function(*args, **kwargs)
        args = tuple(_single(arg) for arg in args)
        kwargs = {key: _single(value) for key, value in kwargs.items()}
        with torch.autocast("cpu", enabled=False):
            return function(*args, **kwargs).to(torch.bfloat16)


def _single(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value


def _goes_wrong(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    if input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    if not weight.requires_grad or not torch.is_grad_enabled():
        return False
    kernel, size = tuple(weight.shape[2:]), tuple(input.shape[2:])
    steps, holes = _each(stride, len(kernel)), _each(dilation, len(kernel))
    if isinstance(padding, str):
        same = tuple(hole * (taps - 1) // 2 for hole, taps in zip(holes, kernel, strict=True))
        margins = same if padding == "same" else (0,) * len(kernel)
    else:
        margins = _each(padding, len(kernel))
    return _is_wrong(kernel, size, steps, margins, holes, tuple(weight.shape[:2]))


def _each(value: Any, count: int) -> tuple[int, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value)


@lru_cache(maxsize=4096)
def _is_wrong(
    kernel: tuple[int, ...],
    size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    channels: tuple[int, ...],
) -> bool:
    axes = list(zip(kernel, size, stride, padding, dilation, strict=True))
    if len(axes) == 3 and kernel[0] > 1 and size[0] <= 2:
        return True
    if any(taps > 1 and hole > 1 for taps, _, _, _, hole in axes) and any(n % _LANES for n in channels):
        return True
    return any(_has_idle_tap(*axis) for axis in axes)


def _has_idle_tap(taps: int, size: int, stride: int, padding: int, dilation: int) -> bool:
    """Return whether a tap of the kernel lies outside the image wherever the kernel is put."""
    places = range(-padding, size + padding - dilation * (taps - 1), stride)
    return any(all(not 0 <= at + tap * dilation < size for at in places) for tap in range(taps))
