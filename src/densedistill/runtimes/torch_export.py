"""Packages of `torch.export`, through torch."""

from __future__ import annotations

import io
import json
import logging
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from ..errors import UserError
from .card import Card


class TorchSession:
    """An exported program over torch tensors."""

    def __init__(self, module: torch.nn.Module, card: Card, device: torch.device):
        self._module, self._outputs, self.device = module, card.outputs, device
        self.precision = "float32"

    @torch.no_grad()  # not `inference_mode`, whose tensors no loss may save
    def run(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        try:
            with torch.autocast(self.device.type, enabled=False):  # whose casts the graph was not traced with
                found = self._module(*images.values())
        except (AssertionError, RuntimeError) as error:  # what tracing took for granted
            if isinstance(error, RuntimeError) and not str(error).startswith("Expected input at"):
                raise
            raise UserError(f"the package was traced for other sizes: {error}") from None
        return dict(zip(self._outputs, found, strict=True))


def open_session(path: Path, card: Card, device: Any, precision: str, threads: int) -> TorchSession:
    """Return a session for `path`; UserError when it is damaged, or holds more than tensors and a graph."""
    if precision == "bfloat16":
        raise UserError("a torch.export package computes in what it holds; OpenVINO runs a file in bfloat16")
    where = torch.device(device or "cpu")
    try:
        _refuse_damage_and_pickles(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = _load(path)
        module = program.module()
        if where.type == "cpu" and torch.backends.mkldnn.is_available():
            _take_onednn(module)
    except UserError:
        raise
    except Exception as error:  # torch names no classes for what may be wrong with a package
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"torch cannot load {path}, which may be damaged or of another version of torch: {reason[0]}"
        ) from None
    return TorchSession(module.to(where), card, where)


def _take_onednn(module: GraphModule) -> None:
    """Let oneDNN compute the 3D convolutions of `module`, in place.

    torch gives those of one small volume to something up to ten times slower, which networks get round when
    they are not traced (`networks.layers.convolution`).
    """
    for node in module.graph.nodes:
        if node.target is torch.ops.aten.conv3d.default:
            node.target = _conv3d
    module.recompile()


def _conv3d(
    volume: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] = (0, 0, 0),
    dilation: Sequence[int] = (1, 1, 1),
    groups: int = 1,
) -> Tensor:
    return torch.mkldnn_convolution(volume, weight, bias, padding, stride, dilation, groups)


def _load(path: Path) -> torch.export.ExportedProgram:
    logger = logging.getLogger("torch.export")
    logged: list[BaseException] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            logged.append(record.exc_info[1])
        return False

    logger.addFilter(keep)
    try:
        return torch.export.load(path)
    except Exception:
        if logged:  # what is raised then says no more than that it was logged
            raise logged[0] from None
        raise
    finally:
        logger.removeFilter(keep)


def _refuse_damage_and_pickles(path: Path) -> None:
    """Raise UserError when an entry of `path` does not fit its checksum, which torch does not look at, or
    loading would unpickle more than tensors, which can run any code."""
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            raise UserError(f"{path} is damaged: its checksums do not fit; export it again")
        for name in archive.namelist():
            folder = Path(name).parent.name
            if folder in ("weights", "constants"):
                legacy = name.endswith(".pt") or Path(name).name.startswith("custom_obj")
                if legacy or (name.endswith("_config.json") and _pickled(json.loads(archive.read(name)))):
                    raise UserError(f"{path} holds pickled objects, which can run code; export it again")
            elif folder == "sample_inputs" and (content := archive.read(name)):
                torch.load(io.BytesIO(content), weights_only=True)


def _pickled(found: Any) -> bool:
    if isinstance(found, dict):
        return found.get("use_pickle") is True or any(map(_pickled, found.values()))
    return isinstance(found, list) and any(map(_pickled, found))
