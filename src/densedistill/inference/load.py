"""Whatever a caller names as a network, as something that predicts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError, unknown
from ..networks.published import shipped_weights
from ..networks.registry import MODELS, create_model, list_models
from ..networks.registry import task_of as task_of_name
from ..tasks import Task, get_task, task_of
from .classical import SGBM
from .predictor import Predictor

Predicts = Callable[..., dict[str, torch.Tensor]]


def load_predictor(
    network: Any,
    max_disparity: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
) -> Predicts:
    """Return a `Predictor` for `network`.

    Args:
        network: a network, a name (its shipped weights are loaded), `name=weights`, `sgbm`, the directory of
            a run, or something that already predicts, which is returned as it is.
        max_disparity: search range of a network given by name that takes one; None for its own.
        device, precision: of the predictor.

    Raises:
        UserError: no such network, or weights that do not fit.
    """
    if isinstance(network, nn.Module):
        return Predictor(network, device, precision)
    if isinstance(network, Path) or (isinstance(network, str) and _is_run(network)):
        return Predictor(_load_run(Path(network)), device, precision)
    if isinstance(network, str):
        name, _, weights = network.partition("=")
        if name == SGBM.name:
            if weights:
                raise UserError(f"sgbm has no weights; got '{network}'")
            return SGBM() if max_disparity is None else SGBM(max_disparity)
        return Predictor(_create(name, weights or None, max_disparity), device, precision)
    if callable(network):
        return network
    raise UserError(f"a network is a module, a name, 'sgbm' or a predictor, got {type(network).__name__}")


def task_of_network(network: Any) -> Task:
    """Return the task of what `load_predictor` takes, without loading it; stereo where nothing says it.

    Raises:
        UserError: no such network.
    """
    if isinstance(network, str) and not _is_run(network):
        name = network.partition("=")[0]
        if name == SGBM.name or ":" in name:
            return task_of(SGBM if name == SGBM.name else MODELS[name])
        _check_known(name)
        return get_task(task_of_name(name))
    if isinstance(network, (str, Path)):
        return get_task(_recipe_of_run(Path(network)).task)
    return task_of(network)


def _is_run(network: str | Path) -> bool:
    return (Path(network) / "recipe.yaml").is_file()


def _check_known(name: str) -> None:
    if ":" not in name and name not in MODELS:
        raise unknown("network", name, [*list_models(), SGBM.name])


def _create(name: str, weights: str | None, max_disparity: int | None) -> nn.Module:
    _check_known(name)
    if weights is None and "shipped" not in shipped_weights(name):
        raise UserError(f"no weights ship for network '{name}'; name a file: {name}=FILE")
    options: dict[str, Any] = {}
    if max_disparity is not None and "max_disparity" in inspect.signature(MODELS[name]).parameters:
        options["max_disparity"] = max_disparity
    return create_model(name, weights=weights or "shipped", **options)


def _recipe_of_run(run: Path) -> Any:
    """Return the recipe of the student that the directory of a run holds."""
    from ..recipes import Recipe, load_recipe

    recipe_file = run / "recipe.yaml"
    if not recipe_file.is_file():
        raise UserError(f"{run} is no run: there is no {recipe_file.name} in it")
    recipe = load_recipe(recipe_file)
    if not isinstance(recipe, Recipe):
        if recipe.kind != "chain":
            raise UserError(f"{run} is a {recipe.kind} of several trainings; name the folder of one of them")
        recipe = list(recipe.recipes.values())[-1]  # whose student is the chain's
    return recipe


def _load_run(run: Path) -> nn.Module:
    """Return the student that the directory of a run holds, made as its recipe says."""
    recipe, weights = _recipe_of_run(run), run / "student.safetensors"
    if not weights.is_file():
        raise UserError(f"{run} is not finished: there is no {weights.name} in it; resume it first")
    return create_model(recipe.student.name, weights=str(weights), **recipe.student.options)


def best_device() -> torch.device:
    """Return the accelerator when there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
