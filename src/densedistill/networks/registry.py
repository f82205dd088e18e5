"""Networks by name: `register_model`, `create_model`, `list_models`."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable
from typing import Any, cast

from torch import nn

from ..errors import UserError, nearest, unknown
from ..registry import Registry, construct
from ..tasks import get_task
from .input_spec import InputSpec

MODELS = Registry("network")
_TASKS: dict[str, str] = {}


def register_model(task: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Decorate a constructor to register it under its own name as a network of `task`.

    The constructor takes keyword arguments only and returns an `nn.Module` whose attributes
    `input_spec` and `taps` say what the outside must know.
    """

    def add(constructor: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        name = constructor.__name__
        _TASKS[name] = task
        return MODELS.register(name)(constructor)

    return add


def list_models(pattern: str = "*", task: str | None = None) -> list[str]:
    """Return the registered networks that match a shell-style `pattern`, sorted; only of `task` if given.

    What has a name and no task, as a discriminator has none, is made by `create_model` and not listed.

    Raises:
        UserError: there is no such task.
    """
    if task is not None:
        get_task(task)
    names = [name for name in fnmatch.filter(MODELS, pattern) if name in _TASKS]
    return names if task is None else [name for name in names if _TASKS[name] == task]


def task_of(name: str) -> str:
    """Return the task of the registered network `name`; UserError when there is none, or it has no task."""
    if name not in MODELS:
        raise unknown("network", name, MODELS)
    if name not in _TASKS:
        raise UserError(f"'{name}' predicts nothing by itself; it serves in training")
    return _TASKS[name]


def create_model(
    name: str, weights: str | None = None, scale: float | None = None, **options: Any
) -> nn.Module:
    """Return the network `name`, in evaluation mode when it has weights, else in training mode.

    Args:
        name: a registered name, or `package.module:Name` for a class or function of your own.
        weights: None for random initialisation, `"shipped"` or another shipped tag, the path of a file, or
            `hf://owner/repository/file` (ours or a published layout).
        scale: factor on height and width of images before the network sees them, beside that of its own
            `input_spec`; its answers are brought back to the image's size and pixels.
            A stereo network's `max_disparity` counts the pixels that it sees.
        **options: passed to the constructor, for example `max_disparity=192`. Those that are not given are
            what the weights were trained with, where our own file says so; the number of classes any file's
            shapes tell.

    Raises:
        UserError: no such network, an option it does not take, a scale that is not above 0, or weights that
            do not fit.
    """
    from .published import count_classes, load_weights, stored_options

    constructor = MODELS[name]
    accepted = inspect.signature(constructor).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        for option in options:
            if option not in accepted:
                raise UserError(f"network '{name}' takes no option '{option}'{nearest(option, accepted)}")
    if weights is not None:
        stored = stored_options(name, weights)
        if not stored and "classes" in accepted and "classes" not in options:
            found = count_classes(name, weights, options)
            stored = {} if found is None else {"classes": found}
        options = {**stored, **options}
        stored_scale = options.pop("scale", None)
        scale = stored_scale if scale is None else scale
    network = construct("network", name, constructor, options)
    if not isinstance(network, nn.Module):
        raise UserError(f"network '{name}' gives a {type(network).__name__}; a torch.nn.Module is wanted")
    network = cast(Any, network)  # whose attributes are its own
    if scale is not None:
        network.input_spec = (getattr(network, "input_spec", None) or InputSpec()).scaled(scale)
        options = {**options, "scale": scale}
    note_making(network, name, options)
    if name in _TASKS:
        network.task = _TASKS[name]
    if weights is not None:
        load_weights(network, weights)
        network.eval()
    return network


def note_making(network: Any, name: str, options: dict[str, Any]) -> None:
    """Note what `network` was made by, and say so in its `name` and `options`, unless it is somebody else's
    module, whose attributes of these names are its own."""
    network.__dict__["_made_by"] = (name, options)
    if ":" not in name:
        network.name, network.options = name, options


def given_name(network: Any) -> str | None:
    """Return the name that `network` was made by or has; None where it has none."""
    made_by = getattr(network, "_made_by", ("", {}))[0]
    name = made_by if ":" in made_by else getattr(network, "name", None)
    return name if isinstance(name, str) and name else None


def name_of(network: Any) -> str:
    """Return what `network` is called: its `given_name`, or else its class's."""
    return given_name(network) or type(network).__name__


def options_of(network: Any) -> dict[str, Any]:
    """Return the options that `create_model` made `network` with; none where it did not make it."""
    return getattr(network, "_made_by", ("", {}))[1]


def class_names(network: Any) -> tuple[str, ...]:
    """Return the names of the classes that `network` tells apart, by its `class_names` or its `classes`; none
    where it knows at most how many there are."""
    for known in (getattr(network, "class_names", ()), getattr(network, "classes", ())):
        if isinstance(known, list | tuple) and known:
            return tuple(known)
    return ()
