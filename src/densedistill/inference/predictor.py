"""From images of any size to predictions of that size: scale, normalise, pad, forward, crop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError, unknown
from ..networks.device import find_device
from ..networks.folding import fold_batch_norm
from ..networks.input_spec import InputSpec
from ..networks.precision import fastest_dtype, pack_weights, weights_dtype, without_tf32
from ..networks.registry import class_names, name_of
from ..networks.restore import restore_output
from ..runtimes import Runtime
from ..tasks import Task, task_of
from ..threads import held
from .images import to_batches

PRECISIONS = ("float32", "bfloat16", "auto")


class Predictor:
    """A network that answers for images as they come.

    Several threads may call it at a time, and it may go to another process, which folds the network again.

    Args:
        net: a network: takes prepared tensors, returns a dict of its task's outputs; has `input_spec`.
        device: where to run, the network is moved there; None for where it is.
        precision: "float32" (on CUDA without TF32), "bfloat16" (autocast), or "auto" for the faster of the
            two here, whatever autocast is on around a call. A file loaded by `load_runtime` stays in the one
            it was loaded with.
        channels_last: lay the images out channels-last, which convolutions are faster with.
        input_spec: in place of the network's own.
        fold: compute with a copy of the network whose batch normalisation is folded into its convolutions and
            whose weights lie as a CPU wants them, up to twice as fast there ("Weights laid out once" in
            docs/log.md); what is changed in `net` afterwards does not count.

    Raises:
        UserError: something else than a network, or an unknown precision or device.

    >>> predict = Predictor(net)                                                # doctest: +SKIP
    >>> disparity = predict(left, right)["disparity"]                           # doctest: +SKIP
    """

    def __init__(
        self,
        net: nn.Module,
        device: str | torch.device | None = None,
        precision: str = "float32",
        channels_last: bool = True,
        input_spec: InputSpec | None = None,
        fold: bool = False,
    ):
        if not isinstance(net, nn.Module):
            raise UserError(
                f"a predictor is made of a network (nn.Module), which create_model returns, got {net!r}"
            )
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
        computes = fold_batch_norm(net) if fold else net  # in float64, which not every device has
        if device is not None:
            device = find_device(device)
            net, computes = net.to(device), computes.to(device)
        self.net = net
        self._computes = computes
        self.name: str = name_of(net)
        self.task: Task = task_of(net)
        own: InputSpec = getattr(net, "input_spec", None) or InputSpec()
        self.input_spec = input_spec or own
        self.channels_last = channels_last
        # A file has chosen when it was loaded, and autocast would reach into a package of torch's.
        self.dtype = torch.float32 if isinstance(net, Runtime) else _dtype(precision, self.device)
        if fold:
            pack_weights(computes)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        if isinstance(self.net, Runtime):
            return self.net.device
        tensor = next(iter(self.net.parameters()), next(iter(self.net.buffers()), None))
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def _weights_dtype(self) -> torch.dtype:
        return weights_dtype(self.net) or torch.float32

    @property
    def precision(self) -> str:
        """The arithmetic it runs in, "auto" resolved; that of the weights where these are not float32."""
        if isinstance(self.net, Runtime):
            return self.net.precision
        dtype = self.dtype if self._weights_dtype is torch.float32 else self._weights_dtype
        return _name(dtype)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, where the network knows them and not only how many there are."""
        return class_names(self.net)

    def with_input_spec(self, input_spec: InputSpec) -> Predictor:
        """Return a predictor of the same network and arithmetic that prepares images by `input_spec`."""
        if isinstance(self.net, Runtime):  # which pads by itself
            runtime = self.net.with_input_spec(input_spec)
            return Predictor(runtime, channels_last=self.channels_last, input_spec=self.input_spec)
        other = Predictor(self.net, None, _name(self.dtype), self.channels_last, input_spec)
        other._computes = self._computes
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        # As what makes it: packed weights wait in hooks for the first run, and stay where they are.
        folds = self._computes is not self.net
        return Predictor, (self.net, None, _name(self.dtype), self.channels_last, self.input_spec, folds)

    @torch.inference_mode()
    def __call__(self, *images: Any) -> dict[str, Tensor]:
        """Return the task's outputs on the network's device for images of any size: maps (B, C, H, W) float32
        of that size, boxes (B, N, 4) in its pixels.

        Args:
            *images: the task's inputs in its order (stereo: left, right; depth: image), as `to_batch` takes
                them.

        Raises:
            UserError: the number of images is wrong, their sizes differ, or they are not images.
        """
        if len(images) != len(self.task.inputs):
            wanted = ", ".join(self.task.inputs)
            raise UserError(
                f"{self.task.name} takes {len(self.task.inputs)} images ({wanted}), got {len(images)}"
            )
        batches = [batch.to(self.device) for batch in to_batches(*images)]
        prepared, placement = self.input_spec.prepare(*batches)
        prepared = [image.to(self._weights_dtype) for image in prepared]
        if self.channels_last:
            prepared = [image.contiguous(memory_format=torch.channels_last) for image in prepared]
        with _evaluating(self._computes), self._arithmetic():
            outputs = self._computes(*prepared)
        if isinstance(outputs, Tensor):
            outputs = {self.task.outputs[0]: outputs}
        return {
            key: restore_output(self.task, key, _float(outputs[key]), self.input_spec, placement)
            for key in (*self.task.outputs, *self.task.raw)
            if key in outputs
        }

    @contextlib.contextmanager
    def _arithmetic(self) -> Iterator[None]:
        half = self.dtype is torch.bfloat16
        on_cuda = self.device.type == "cuda"
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=half),
            without_tf32() if on_cuda and not half else contextlib.nullcontext(),
        ):
            yield


def _float(output: Tensor) -> Tensor:
    return output.float() if output.is_floating_point() else output


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision == "auto":
        return fastest_dtype(device)
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _evaluating(net: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Put `net` in evaluation mode, and every module of it back to the mode it was in."""
    return held(net, lambda: _begin_evaluation(net))


def _begin_evaluation(net: nn.Module) -> Callable[[], None]:
    training = [module for module in net.modules() if module.training]
    for module in training:
        module.training = False

    def end() -> None:
        for module in training:
            module.training = True

    return end
