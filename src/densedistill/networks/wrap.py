"""Anybody's network, made to answer like ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import UserError, nearest
from ..tasks import get_task
from .input_spec import InputSpec


class Wrapped(nn.Module):
    """What `wrap` returns; the network itself is `module`."""

    def __init__(
        self,
        module: nn.Module,
        task: str,
        input_spec: InputSpec,
        outputs: Callable[[Any], Any],
        inputs: Callable[..., Any] | None,
        taps: Mapping[str, Sequence[str]],
    ):
        super().__init__()
        self.module = module
        self.task = task
        self.name = type(module).__name__
        self.input_spec = input_spec
        self.taps = {name: tuple(f"module.{path}" for path in paths) for name, paths in taps.items()}
        self._outputs, self._inputs = outputs, inputs

    def forward(self, *images: Tensor) -> dict[str, Any]:
        """Return the task's outputs for images (B, 3, H, W) that `input_spec` has prepared.

        Raises:
            UserError: `outputs` gives no mapping, not the task's keys, or maps of another size.
        """
        result = self.module(*images) if self._inputs is None else self.module(self._inputs(*images))
        outputs = self._outputs(result)
        if not isinstance(outputs, Mapping):
            raise UserError(
                f"`outputs` of the wrapped {self.name} gave {type(outputs).__name__}, a mapping is wanted: "
                f'for example lambda y: {{"{get_task(self.task).outputs[0]}": y}}'
            )
        for key in get_task(self.task).outputs:
            if key not in outputs:
                given = ", ".join(map(str, outputs)) or "nothing"
                raise UserError(f"`outputs` of the wrapped {self.name} gave {given}, but not '{key}'")
        return {key: self._checked(key, value, images[0]) for key, value in outputs.items()}

    def _checked(self, key: str, value: Any, image: Tensor) -> Any:
        if key not in get_task(self.task).maps:
            return value
        if isinstance(value, Tensor) and value.ndim == 3:
            value = value[:, None]
        if not isinstance(value, Tensor) or value.ndim != 4 or value.shape[-2:] != image.shape[-2:]:
            came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            height, width = image.shape[-2:]
            raise UserError(f"'{key}' of the wrapped {self.name} is {came}, wanted (B, C, {height}, {width})")
        return value


def wrap(
    module: nn.Module,
    task: str = "stereo",
    input_spec: InputSpec | None = None,
    outputs: Callable[[Any], Any] | None = None,
    inputs: Callable[..., Any] | None = None,
    taps: Mapping[str, Sequence[str] | str] | None = None,
) -> Wrapped:
    """Return `module` as a network of `task` that predictor, objective, evaluation and export take.

    Args:
        module: any network; it stays as it is and is reached as `.module`.
        task: what it predicts.
        input_spec: the preparation it was trained with; by default ImageNet's mean and deviation, no padding.
        outputs: from what it returns to the task's outputs, for example
            `lambda y: {"disparity": y[-1]}`; a missing channel axis is added. Default: what it returns.
        inputs: from the task's prepared images to the one argument it takes, for example
            `lambda left, right: torch.cat((left, right), 1)`. Default: the images are its arguments.
        taps: names to paths of its submodules.

    Raises:
        UserError: no such task, or a tap names no submodule.
    """
    get_task(task)
    paths = {
        name: (value,) if isinstance(value, str) else tuple(value) for name, value in (taps or {}).items()
    }
    modules = dict(module.named_modules())
    for name, named in paths.items():
        for path in named:
            if path not in modules:
                raise UserError(
                    f"tap '{name}': {type(module).__name__} has no submodule '{path}'{nearest(path, modules)}"
                )
    spec = InputSpec(multiple=1) if input_spec is None else input_spec
    return Wrapped(module, task, spec, outputs or (lambda result: result), inputs, paths)
