"""Any network in any runtime: what is no exported file is exported for the occasion."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError, unknown
from ..inference.load import create_named, load_predictor, require_disparity, split_scale
from ..inference.predictor import Predictor
from ..networks.published import shipped_weights
from ..networks.registry import MODELS, name_of
from ..runtimes import RUNTIMES, is_exported, load_runtime
from ..runtimes.runtime import SUFFIXES
from .export import export


def resolve(
    network: Any,
    runtime: str | None,
    precision: str = "float32",
    max_disparity: int | None = None,
    device: str | torch.device | None = None,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    folder: str | os.PathLike[str] = ".",
    on_progress: Callable[[str], None] | None = None,
) -> tuple[Any, dict[str, Any] | None]:
    """Return `network` in `runtime` as a predictor, and how another process makes the same.

    Args:
        network: as `load_predictor` takes it; a name without shipped weights gets random ones.
        runtime: of `RUNTIMES`; None for torch, or the usual one of an exported file.
        precision, max_disparity, device: of the predictor.
        size, batch: what the network is exported for, where it has to be.
        folder: where that file goes; of this network alone.
        on_progress: gets a word on each stage of that.

    Returns:
        The predictor, and keyword arguments of `densedistill.deployment.memory`; None for what was given as
        an object and runs in torch.

    Raises:
        UserError: no such network or runtime, or a runtime that is not installed.
    """
    if runtime is not None and runtime not in RUNTIMES:
        raise unknown("runtime", runtime, RUNTIMES)
    require_disparity(network, max_disparity)
    if is_exported(network):
        return _open(network, runtime, precision, device)
    if runtime in (None, "torch"):
        made = _make(network, max_disparity)
        if not isinstance(made, nn.Module):
            return made, None
        source = None
        if isinstance(network, (str, Path)):
            source = {"network": str(network), "max_disparity": max_disparity, "precision": precision}
        return Predictor(made, device, precision, fold=source is not None), source
    made = _make(network, max_disparity)
    if not isinstance(made, nn.Module):
        raise UserError(f"{network} is no network that could be exported for {runtime}")
    suffix = next(suffix for suffix, takers in SUFFIXES.items() if takers[0] == runtime)
    file = Path(folder) / f"{name_of(made)}-{runtime}{suffix}"
    if not file.is_file():
        export(made, file, size, batch=batch, on_progress=on_progress)
    predict, source = _open(file, runtime, precision, device)
    predict.name, predict.counted = name_of(made), made  # type: ignore[attr-defined]
    return predict, source


def _open(
    file: Any, runtime: str | None, precision: str, device: str | torch.device | None
) -> tuple[Predictor, dict[str, Any]]:
    predict = Predictor(load_runtime(file, runtime, device=device, precision=precision))
    return predict, {"network": str(file), "runtime": runtime, "precision": precision}


def _make(network: Any, max_disparity: int | None) -> Any:
    """Return the network that is meant, or what predicts in its place (`sgbm`)."""
    if isinstance(network, str):
        found, scale = split_scale(network)
        name = str(found)
        if name in MODELS and "shipped" not in shipped_weights(name):
            return create_named(name, None, max_disparity, scale).eval()
    predict = load_predictor(network, max_disparity)
    return predict.net if isinstance(predict, Predictor) else predict
