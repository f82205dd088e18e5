"""A network with what surrounds it, as the one module that exporters trace."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from ..errors import UserError
from ..networks.folding import fold_batch_norm
from ..networks.input_spec import InputSpec
from ..networks.registry import name_of
from ..networks.restore import restore_output
from ..tasks import Task, task_of
from .check import undecoded

TRACED = 2  # samples in a traced batch: one would be taken for a constant


class Graph(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to a tuple of the task's outputs, or of its `raw` ones.

    Normalising is inside. With a fixed `size`, scaling, padding, cropping and scaling back are, too, and
    outputs have the images' size; without, images must have a size that the network takes.

    Args:
        network: in evaluation mode; one that has `raw` gives that.
        size: (height, width) of the images, None for any.

    Attributes:
        keys: the outputs that the network may give, in the graph's order.
    """

    def __init__(self, network: nn.Module, size: tuple[int, int] | None = None):
        super().__init__()
        self.network = network
        self.task: Task = task_of(network)
        self.keys = self.task.raw if hasattr(network, "raw") else self.task.outputs
        self.spec: InputSpec = getattr(network, "input_spec", None) or InputSpec()
        self.placement = None if size is None else self.spec.place(*size)
        std = torch.tensor(self.spec.std).view(1, 3, 1, 1)
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", self.spec.range / std)
        self.register_buffer("shift", torch.tensor(self.spec.mean).view(1, 3, 1, 1) / std)
        self.rows: Tensor | None
        self.columns: Tensor | None
        for axis, name in enumerate(("rows", "columns")):
            matrix = None
            if self.placement is not None and self.placement.scaled_size != self.placement.size:
                source, target = self.placement.size[axis], self.placement.scaled_size[axis]
                matrix = _resizing(source, target, self.spec.antialias)
            self.register_buffer(name, matrix)

    def forward(
        self,
        image: Tensor,
        second: Tensor | None = None,
        third: Tensor | None = None,
        fourth: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        # One argument for each image: torch 2.9 writes guards of `*images` that it cannot run.
        images = [given for given in (image, second, third, fourth) if given is not None]
        outputs = self.network(*map(self._prepare, images))
        if isinstance(outputs, Tensor):
            outputs = {self.keys[0]: outputs}
        return tuple(self._restore(key, outputs[key]) for key in self.keys if key in outputs)

    def _prepare(self, image: Tensor) -> Tensor:
        if self.spec.channels == "bgr":
            image = image[:, [2, 1, 0]]
        image = image * self.scale - self.shift
        if self.rows is not None and self.columns is not None:
            image = self.rows @ image @ self.columns.T
        if self.placement is not None and any(self.placement.padding):
            if self.spec.pad_mode == "zeros-after-normalising":
                return _with_zeros(image, self.placement.padding)
            image = self.spec.pad_image(image, self.placement.padding)
        return image

    def _restore(self, key: str, output: Tensor) -> Tensor:
        if output.is_floating_point():
            output = output.float()
        if self.placement is None:
            return output
        return restore_output(self.task, key, output, self.spec, self.placement)


def _with_zeros(image: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Return `image` (B, 3, H, W) with zeros around it.

    Joined, not padded: onnxruntime merges padding into the pooling that follows, and then refuses the file,
    for the padding is wider than the pooling's kernel.
    """
    left, right, top, bottom = padding
    for dim, before, after in ((3, left, right), (2, top, bottom)):
        sizes = [list(image.shape), list(image.shape)]
        sizes[0][dim], sizes[1][dim] = before, after
        zeros = [image.new_zeros(size) for size in sizes]
        image = torch.cat([part for part in (zeros[0], image, zeros[1]) if part.shape[dim]], dim)
    return image


def _resizing(source: int, target: int, antialias: bool) -> Tensor:
    """Return the matrix (target, source) of linear resizing along one axis.

    As matrix products, the resizing of a fixed size is in every runtime what it is in torch.
    """
    size = (target, source)
    eye = torch.eye(source)[None, None]
    return F.interpolate(eye, size, mode="bilinear", align_corners=False, antialias=antialias)[0, 0]


def deployable(network: nn.Module) -> nn.Module:
    """Return a copy of `network` on the CPU: float32, evaluation mode, batch normalisation folded."""
    plain = getattr(network, "_orig_mod", network)  # of what torch.compile wrapped
    return undecoded(fold_batch_norm(copy.deepcopy(plain).cpu().float(), in_place=True))


def output_names(graph: Graph) -> tuple[str, ...]:
    """Return the outputs that the network gives, in the graph's order; it is run once.

    Raises:
        UserError: it cannot be run, or gives none of the task's outputs.
    """
    images = [torch.rand(1, 3, *traced_size(graph)) for _ in graph.task.inputs]
    name = name_of(graph.network)
    try:
        with torch.inference_mode():
            given = graph.network(*map(graph._prepare, images))
    except UserError:
        raise
    except Exception as error:  # whatever stands in a network that is not ours
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"{name} does not run on {' and '.join(graph.task.inputs)}: {line}; `wrap` fits any network to a "
            "task"
        ) from error
    if isinstance(given, Tensor):
        return graph.keys[:1]
    found = tuple(key for key in graph.keys if isinstance(given, Mapping) and key in given)
    if not found:
        raise UserError(f"{name} gives no {' or '.join(graph.keys)}; `wrap` fits any network to a task")
    return found


def least_size(spec: InputSpec) -> tuple[int, int]:
    """Return a small size that any network with this `spec` takes: 5 x 7 multiples, at least 80 x 112.

    Odd counts, since tracing takes two lengths that are equal by chance to be equal at any size, and those
    that are written in networks are powers of two.
    """
    height, width = (
        -(-max(count * spec.multiple, least, own) // spec.multiple) * spec.multiple
        for count, least, own in zip((5, 7), (80, 112), spec.min_size, strict=True)
    )
    return height, width


def traced_size(graph: Graph) -> tuple[int, int]:
    """Return the size at which `graph` is traced: small, but wider than the largest disparity.

    Tracing takes what happens once to happen once at any size, and a row of a volume is worked on in as many
    blocks as disparities fit into it. Nor may a level of a detector be a single row.
    """
    if graph.placement is not None:
        return graph.placement.size
    decoding = getattr(graph.network, "decoding", None)
    least = 0 if decoding is None else 2 * max(decoding.strides) + graph.spec.multiple
    widest = getattr(graph.network, "max_disparity", None) or 0
    height, width = least_size(graph.spec)
    return max(height, least), max(width, least, (widest // graph.spec.multiple + 1) * graph.spec.multiple)


def trace(graph: Graph, batch: int | None = None) -> ExportedProgram:
    """Return `graph` as an exported program; batch, height and width are dynamic where nothing fixes them.

    Raises:
        UserError: the network cannot be traced; the message ends with torch's reason.
    """
    size = traced_size(graph)
    images = tuple(torch.rand(batch or TRACED, 3, *size) for _ in graph.task.inputs)
    dims: dict[int, Any] = {} if batch else {0: Dim.DYNAMIC}
    shapes = [dims]
    if graph.placement is None:
        # Where all sizes are known to be multiples, those inside stay products, not roundings of roundings.
        # A network that asks for other sizes than these refuses, and is traced without that knowledge.
        rows, columns = (graph.spec.multiple * Dim(name, min=1) for name in ("rows", "columns"))
        shapes = [dims | {2: rows, 3: columns}, dims | {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}]
    for shape in shapes:
        try:
            with torch.no_grad(), _quiet():
                return _without_accidents(
                    torch.export.export(graph, images, dynamic_shapes=(shape,) * len(images), strict=False)
                )
        except UserError:
            raise
        except Exception as error:  # whatever stands in a network that is not ours
            reason = error
    raise UserError(f"torch.export cannot trace {name_of(graph.network)}: {_in_a_line(reason)}") from reason


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep off the screen what torch traced until it failed, pages of it."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _in_a_line(error: Exception) -> str:
    """Return why tracing failed, and at which line of the network."""
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode  # takes a second

    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if isinstance(error, GuardOnDataDependentSymNode):
        line = "what it does next depends on values in the images, and a file does the same for all"
    others = (str(Path(torch.__file__).parent), __file__, "<")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(others)]
    return f"{line} ({frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line})" if frames else line


def _without_accidents(program: ExportedProgram) -> ExportedProgram:
    """Remove the lines of source that each operation came from, since files would tell where it lies on this
    machine, and order the ranges of sizes, which come out of a set: equal networks are equal files."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)
    program._range_constraints = dict(sorted(program.range_constraints.items(), key=str))
    return program


def doubtful_sizes(
    program: ExportedProgram, graph: Graph, batch: int | None = None, count: int = 3
) -> list[tuple[int, int]]:
    """Return up to `count` sizes (height, width) of which tracing took for granted that they do not occur.

    Other runtimes know nothing of such assumptions, and may answer wrongly; so these sizes must be tried.
    """
    guards = getattr(program.module(), "_guards_fn", None)
    if guards is None or graph.placement is not None:
        return []
    multiple = graph.spec.multiple
    first = [side // multiple for side in traced_size(graph)]
    found: list[tuple[int, int]] = []
    for more in range(1, 9):
        for taller, wider in ((0, more), (more, 0), (more, more)):
            size = ((first[0] + taller) * multiple, (first[1] + wider) * multiple)
            images = [torch.empty(batch or TRACED, 3, *size, device="meta") for _ in graph.task.inputs]
            try:
                guards(*images)
            except (AssertionError, RuntimeError):
                found.append(size)
    return found[:count]
