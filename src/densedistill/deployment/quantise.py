"""`quantise`: a network as a file in 8-bit integers, calibrated on the user's images."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import DataWarning, UserError, as_count, counted, unknown
from ..inference.inputs import Input, inputs_from
from ..inference.predictor import Predictor
from ..inference.progress import progress_bar
from ..runtimes import Runtime, load_runtime
from ..tasks import task_of
from .check import LIMIT, Difference, measure_difference
from .export import as_size, check_format, check_network, finish, in_float32, make_artifact
from .formats import OnnxArtifact, OpenvinoArtifact

if TYPE_CHECKING:
    from ..inference.evaluate import Evaluation

SAMPLES = 300  # of NNCF's own default
COMPARED = 4  # calibration samples on which the result is compared with torch
# Mean difference to torch of which a file is warned; 8 bits usually cost tenths of that.
FAR_IN_PX = 20 * LIMIT  # 1 px
FAR = 200 * LIMIT  # 10 hundredths of an output's mean magnitude, or % of places
_CONVOLUTIONS = frozenset(
    {"Conv", "ConvTranspose", "Convolution", "GroupConvolution", "ConvolutionBackpropData"}
)
_CONSTANTS = frozenset({"Constant", "Parameter"})


@dataclass(frozen=True)
class Quantised:
    """What `quantise` wrote, and what it cost.

    Args:
        path: of the file.
        difference: to torch in float32, on calibration images.
        kept: operations that were left in float.
        evaluation: of the network before and after on labelled data; None without data.
    """

    path: Path
    difference: Difference
    kept: tuple[str, ...]
    evaluation: Evaluation | None


def quantise(
    network: nn.Module,
    path: str | os.PathLike[str],
    calibration: Any,
    size: tuple[int, int] | None = None,
    *,
    batch: int | None = None,
    samples: int = SAMPLES,
    keep: Sequence[str] = (),
    data: Any = None,
    limit: float = float("inf"),
    on_progress: Callable[[str], None] | None = None,
    progress: bool = False,
    **evaluating: Any,
) -> Quantised:
    """Write `network` with 8-bit weights and activations (NNCF's post-training quantisation).

    Every output's last convolution and what follows it, products of two activations (cost volumes, attention)
    and their sums (residual connections) are left in float: their error goes straight to the output. So are
    convolutions without a bias that several operations read, which OpenVINO gets wrong.

    Args:
        network: in float32; it stays as it is.
        path: .onnx or .xml.
        calibration: images as `predict` takes them: a folder, a list, paths; without labels.
        size, batch: as `export` takes them; calibration images are resized to a fixed size.
        samples: at most so many calibration samples, evenly spread.
        keep: names of further operations to leave in float, as `Quantised.kept` names them.
        data: labelled data, as `evaluate` takes it, for the figures before and after.
        limit: largest mean difference to torch, as in `export`, for which the file is written.
        on_progress: gets a word on each stage.
        progress: draw bars of calibrating and evaluating on stderr.
        **evaluating: further arguments of `evaluate`, for example `max_disparity=192`.

    Raises:
        UserError: NNCF is missing (says what to install), there are no calibration images or they are
            damaged, `keep` names no operation, or the result differs by more than `limit`; then nothing is
            written.

    Warns:
        DataWarning: no `limit` was given, and the result differs by more than 1 px, or 10 % of an output's
            mean magnitude.
    """
    path = Path(path)
    say = on_progress or (lambda message: None)
    if path.suffix not in (".onnx", ".xml"):
        raise UserError(f"8-bit files end in .onnx or .xml, got {path}")
    check_format(path)
    if importlib.util.find_spec("nncf") is None:
        raise UserError("nncf is not installed: pip install 'densedistill[export]'")
    check_network(network)
    size = None if size is None else as_size(size)
    samples = as_count("samples", samples)
    task = task_of(network)
    given = inputs_from(task, calibration)
    if not isinstance(given, list):  # whose frames are read in order, and once
        raise UserError(f"{calibration} is a video; write frames of it as images to calibrate on")
    if not given:
        raise UserError(f"there is no image to calibrate on in {calibration}")
    images = _Images(_spread(given, samples), size, photographs=task.takes == "image")
    for number in range(len(images)):
        images.read(number)  # what is damaged is said before the work
    reference = in_float32(network)
    if data is not None:
        from ..inference.evaluate import evaluate  # imports torchmetrics, which takes seconds

        # One sample, before the work: the data may be refused.
        evaluate({"float32, torch": Predictor(reference)}, data, **{**evaluating, "limit": 1})
    artifact, card, _ = make_artifact(network, path.suffix, size, batch, "int8", say)
    assert isinstance(artifact, OnnxArtifact | OpenvinoArtifact)
    nodes = _nodes(artifact)
    for name in keep:
        if name not in nodes:
            raise unknown("operation", name, nodes)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        artifact.save(draft, card)
        runtime = load_runtime(draft)
        say(f"calibrating on {counted(len(images), 'sample')}")
        kept = tuple(sorted({*keep, *_kept(nodes)}))
        artifact.model = _quantised(artifact.model, runtime, images, kept, progress)
        del runtime

    def measure(other: Runtime) -> Difference:
        return measure_difference(reference, other, itertools.islice(images, COMPARED))

    difference = finish(artifact, card, path, measure, limit, say)
    if limit == float("inf"):  # else somebody has said what is too far
        _warn_if_far(path, difference)
    figures = None
    if data is not None:
        say("evaluating before and after")
        pair = {"float32, torch": Predictor(reference), f"int8, {path.name}": load_runtime(path)}
        try:
            figures = evaluate(pair, data, progress=progress, **evaluating)
        except UserError as error:
            raise UserError(f"{path} is written, but was not evaluated: {error}") from None
    return Quantised(path, difference, kept, figures)


def _warn_if_far(path: Path, difference: Difference) -> None:
    """Warn of the output that is farthest beyond what 8 bits usually cost, where one is."""
    row, share = max(
        ((row, row.mean / (FAR_IN_PX if row.unit == "px" else FAR)) for row in difference.rows),
        key=lambda one: one[1],
    )
    if share > 1:
        height, width = row.size
        warnings.warn(
            f"{path} is far from the network: {row.output} differs by {row.mean:.3g} {row.unit} on average "
            f"(at {height}x{width}); look at what it answers, or calibrate on more images like those to come",
            DataWarning,
            stacklevel=3,
        )


class _Images(Sequence[list[Tensor]]):
    """Calibration samples as tensors, read whenever they are asked for: hundreds would fill the memory."""

    def __init__(self, given: Sequence[Input], size: tuple[int, int] | None, photographs: bool = False):
        self.given, self.size, self.photographs = given, size, photographs

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, index: Any) -> Any:
        return _as_tensors(self.read(index), self.size)

    def read(self, index: int) -> Sequence[Any]:
        """Return the images of a sample as `predict` sees them."""
        return self.given[index].read(self.photographs)


def _quantised(model: Any, runtime: Runtime, images: _Images, kept: Sequence[str], progress: bool) -> Any:
    with progress_bar(progress) as advance, _quiet():
        import nncf

        def prepare(number: int) -> dict[str, Any]:
            advance("calibrate", images.given[number].name, len(images))
            count = runtime.card.batch or 1
            prepared = runtime.prepare(*images[number])[0]
            return {key: image.repeat(count, 1, 1, 1).numpy() for key, image in prepared.items()}

        return nncf.quantize(
            model,
            nncf.Dataset(range(len(images)), prepare),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=list(kept), validate=False) if kept else None,
        )


def _as_tensors(images: Sequence[Any], size: tuple[int, int] | None) -> list[Tensor]:
    views = [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in images]
    if size is None or views[0].shape[-2:] == tuple(size):
        return views
    resize = nn.functional.interpolate
    return [resize(v, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1) for v in views]


def _spread(given: list[Any], limit: int) -> list[Any]:
    count = len(given)
    return given if count <= limit else [given[number * count // limit] for number in range(limit)]


def _kept(nodes: _Nodes) -> set[str]:
    """Return the operations that `quantise` leaves in float."""
    of_activations = {
        name
        for name, (kind, sources) in nodes.items()
        if kind in ("MatMul", "Mul", "Multiply", "Add")
        and not any(source is None or nodes[source][0] in _CONSTANTS for source in sources)
    }
    readers = Counter(
        source
        for kind, sources in nodes.values()
        if kind not in ("Constant", "Slice", "StridedSlice")
        for source in sources
    )
    # OpenVINO's CPU plugin (2026.4) gives zeros to one of the readers of such a convolution in 8 bits, in
    # files for any size; slices are right. A bias is a third input in ONNX, and in OpenVINO the one reader.
    shared = {
        name
        for name, (kind, sources) in nodes.items()
        if kind in _CONVOLUTIONS and len(sources) == 2 and readers[name] > 1
    }
    last: set[str] = set()
    waiting = [source for kind, sources in nodes.values() if kind == "Result" for source in sources]
    while waiting:
        name = waiting.pop()
        if name is None or name in last or nodes[name][0] in _CONSTANTS:
            continue
        last.add(name)
        if nodes[name][0] not in _CONVOLUTIONS:
            waiting += nodes[name][1]
    return of_activations | shared | last


_Nodes = dict[str, tuple[str, list[str | None]]]  # name -> kind, names of what its inputs come from


def _nodes(artifact: OnnxArtifact | OpenvinoArtifact) -> _Nodes:
    nodes = (
        _onnx_nodes(artifact.model) if isinstance(artifact, OnnxArtifact) else _openvino_nodes(artifact.model)
    )
    # What is made of constants and shapes alone is constant: a bias may stand behind a reshape.
    for name, (kind, sources) in nodes.items():
        made = sources and all(source is None or nodes[source][0] == "Constant" for source in sources)
        if made or kind in ("Shape", "ShapeOf"):
            nodes[name] = ("Constant", sources)
    return nodes


def _onnx_nodes(model: Any) -> _Nodes:
    made = {output: node.name for node in model.graph.node for output in node.output}
    nodes: _Nodes = {image.name: ("Parameter", []) for image in model.graph.input}
    made |= {image: image for image in nodes}
    for node in model.graph.node:
        nodes[node.name] = (node.op_type, [made.get(name) for name in node.input])
    for output in model.graph.output:
        nodes[f"result {output.name}"] = ("Result", [made.get(output.name)])
    return nodes


def _openvino_nodes(model: Any) -> _Nodes:
    return {
        op.get_friendly_name(): (
            op.get_type_name(),
            [source.get_source_output().get_node().get_friendly_name() for source in op.inputs()],
        )
        for op in model.get_ordered_ops()
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's progress off the screen, and what it would report to its makers off the network."""
    os.environ.setdefault("NNCF_CI", "1")
    import logging

    import nncf

    nncf.set_log_level(logging.ERROR)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
