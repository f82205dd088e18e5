"""`export`: a network as a file for another runtime, checked against torch."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..errors import UserError, as_count, unknown
from ..files import require_writable
from ..networks.input_spec import search_range
from ..networks.registry import class_names, name_of
from ..runtimes import Card, Runtime, load_runtime
from ..runtimes.runtime import SUFFIXES, require_runtime
from ..tasks import task_of
from .check import LIMIT, SIZES, Difference, measure_difference, real_images
from .formats import FORMATS, WEIGHTS, Artifact
from .graph import Graph, deployable, doubtful_sizes, output_names, trace

LONG = 10.0  # s of tracing, from which an estimate of the rest is worth a word


def export(
    network: nn.Module,
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    *,
    batch: int | None = None,
    weights: str = "float32",
    check_sizes: Sequence[tuple[int, int]] = SIZES,
    limit: float = LIMIT,
    on_progress: Callable[[str], None] | None = None,
) -> Difference:
    """Write `network` for another runtime, and return how far the file is from torch on real images.

    The file takes images in [0, 1]; normalising is inside. With a fixed `size`, scaling, padding and cropping
    are, too; without, height and width are multiples of `input_spec.multiple`, which `load_runtime` pads to.
    The metadata says all of that, and holds the measured difference (`Card`).

    Args:
        network: in float32; it stays as it is.
        path: .onnx, .xml (OpenVINO, with a .bin beside it), .pt2 (`torch.export`) or .engine (TensorRT, which
            must be installed, with a GPU).
        size: (height, width) of all images; None for any.
        batch: number of samples of a call; None for any where `size` is None, and 1 with a size.
        weights: how they are stored: "float32", "float16" or "bfloat16".
        check_sizes: (height, width) of the images that file and network are compared on; with a fixed size,
            that size alone.
        limit: largest mean difference, in px (see `Difference`) for which the file is written.
        on_progress: gets a word on each stage.

    Raises:
        UserError: an unknown kind of file, a missing package (says what to install), a network that cannot be
            exported, or a file whose answers differ by more than `limit`; then nothing is written.
    """
    path = Path(path)
    say = on_progress or (lambda message: None)
    check_format(path)
    tempfile.gettempdir()  # an error where there is none, of which torch's tracing would say something else
    if weights not in WEIGHTS:
        raise unknown("number format for weights", weights, WEIGHTS)
    if size is None and not check_sizes:
        raise UserError("check_sizes is empty; the file is compared with torch at one size at least")
    for one in check_sizes:
        as_size(one)
    artifact, card, doubtful = make_artifact(network, path.suffix, size, batch, weights, say)
    sizes = [*check_sizes, *doubtful] if size is None else [size]

    def measure(runtime: Runtime) -> Difference:
        images = (real_images(task_of(network), one) for one in sizes)
        return measure_difference(in_float32(network), runtime, images)

    return finish(artifact, card, path, measure, limit, say)


def make_artifact(
    network: nn.Module,
    suffix: str,
    size: tuple[int, int] | None,
    batch: int | None,
    weights: str,
    say: Callable[[str], None],
) -> tuple[Artifact, Card, list[tuple[int, int]]]:
    """Return `network` in the format of `suffix`, its card, and sizes that must be tried."""
    check_network(network)
    size = None if size is None else as_size(size)
    if batch is not None:
        batch = as_count("batch", batch)
    elif size is not None:
        batch = 1
    name = name_of(network)
    decoding = getattr(network, "decoding", None)
    if not task_of(network).maps and decoding is None:
        raise UserError(
            f"{name} answers with a list of unknown length, which no exporter here traces, and has no "
            "`decoding` to make it of maps; `predict` and `benchmark` run it in torch"
        )
    graph = Graph(deployable(network), size)
    card = Card(
        name=name,
        task=graph.task.name,
        inputs=graph.task.inputs,
        outputs=output_names(graph),
        input_spec=graph.spec,
        size=size,
        batch=batch,
        max_disparity=search_range(network),
        classes=class_names(network),
        decoding={} if decoding is None else dataclasses.asdict(decoding),
        weights=weights,
        version=__version__,
    )
    say(f"tracing {name}")
    begun = time.monotonic()
    program = trace(graph, batch)
    say(writing_in_words(suffix, time.monotonic() - begun))
    doubtful = doubtful_sizes(program, graph, batch)
    return FORMATS[suffix](program, card), card, doubtful


def writing_in_words(suffix: str, traced: float) -> str:
    """Return what is said of writing a file, with an estimate where tracing took long (`traced` seconds): on
    the way to ONNX torch traces again and rewrites what it finds ("Where an export's time goes" in
    docs/log.md)."""
    if traced < LONG or suffix not in (".onnx", ".xml"):
        return f"writing {suffix}"
    return f"writing {suffix}: tracing took {traced:.0f} s, this takes about {2 * traced:.0f} s"


def finish(
    artifact: Artifact,
    card: Card,
    path: Path,
    measure: Callable[[Runtime], Difference],
    limit: float,
    say: Callable[[str], None],
) -> Difference:
    """Write `artifact` to `path` with what `measure` says of it; UserError when that is beyond `limit`."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        artifact.save(draft, card)
        runtime = load_runtime(draft)
        say(f"comparing {runtime.runtime} with torch")
        difference = measure(runtime)
    # What is no number, or of another shape, is beyond any limit.
    if not difference <= limit or difference == math.inf:
        worst = max(difference.rows, key=lambda row: row.mean)
        raise UserError(
            f"{card.name} in {runtime.runtime} differs from torch by {worst.mean:.3g} {worst.unit} on "
            f"average ({worst.output} at {worst.size[0]}x{worst.size[1]}), more than {limit:g}; nothing was "
            "written"
        )
    artifact.save(path, dataclasses.replace(card, difference=difference.to_dict()))
    return difference


def check_network(network: Any) -> None:
    """Raise UserError unless `network` is one that could be exported."""
    if isinstance(network, Runtime):
        raise UserError(f"{network.name} is exported already; export the network that it was made of")
    if not isinstance(network, nn.Module):
        hint = "; `create_model` makes one of a name" if isinstance(network, str) else ""
        raise UserError(f"what is exported is a network (nn.Module), got {type(network).__name__}{hint}")


def as_size(size: Any) -> tuple[int, int]:
    """Return `size` as (height, width); UserError unless it is two positive whole numbers."""
    sides = tuple(size) if isinstance(size, Sequence) else ()
    if len(sides) != 2 or not all(isinstance(side, Integral) and int(side) >= 1 for side in sides):
        raise UserError(f"size is (height, width) in px, got {size}")
    return int(sides[0]), int(sides[1])


def check_format(path: Path) -> None:
    """Raise UserError unless `path` ends as an exported file does, a file can be written there, and what
    writes and checks it is installed."""
    if path.suffix not in FORMATS:
        raise UserError(f"{path} does not say what to write; end it in {', '.join(FORMATS)}")
    require_writable(path, path.with_suffix(".bin") if path.suffix == ".xml" else None)
    require_runtime(SUFFIXES[path.suffix][0])
    if path.suffix != ".pt2":
        for package in ("onnx", "onnxscript"):
            if importlib.util.find_spec(package) is None:
                raise UserError(f"{package} is not installed: pip install 'densedistill[export]'")


def in_float32(network: nn.Module) -> nn.Module:
    """Return `network` on the CPU in float32: itself, or a copy."""
    tensors = [*network.parameters(), *network.buffers()]
    if all(t.device.type == "cpu" and t.dtype in (torch.float32, torch.int64, torch.bool) for t in tensors):
        return network
    return copy.deepcopy(network).cpu().float()
