"""Kinds of exported files: each is made from an exported program once, and saved with its card."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import logging
import operator
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.export import ExportedProgram

from ..errors import UserError
from ..files import write_buffer, write_bytes
from ..runtimes.card import KEY, Card, checksum, join_engine

WEIGHTS = ("float32", "float16", "bfloat16")
_LEAST_COMPRESSED = 256  # numbers; smaller tensors are norms and biases, which cost nothing


class Artifact(Protocol):
    """An exported network before it has a card."""

    def save(self, path: Path, card: Card) -> None:
        """Write it, atomically."""
        ...


class OnnxArtifact:
    """An ONNX model."""

    def __init__(self, model: Any):
        self.model = model

    def save(self, path: Path, card: Card) -> None:
        import onnx

        card = dataclasses.replace(card, checksum=_sha256(self.model.graph.SerializeToString()))
        entries = {entry.key: entry.value for entry in self.model.metadata_props}
        onnx.helper.set_model_props(self.model, {**entries, KEY: card.to_json()})
        self.model.doc_string = _in_words(card)  # what viewers and runtimes show of a file
        write_bytes(path, self.model.SerializeToString())


class OpenvinoArtifact:
    """An OpenVINO model; its weights go to a .bin beside the .xml."""

    def __init__(self, model: Any):
        self.model = model

    def save(self, path: Path, card: Card) -> None:
        import openvino

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
                draft = Path(folder) / path.name
                openvino.save_model(self.model, draft, compress_to_fp16=False)
                # Again, for the card in the .xml knows the .bin.
                card = dataclasses.replace(card, checksum=checksum(draft))
                self.model.set_rt_info(card.to_json(), [KEY])
                openvino.save_model(self.model, draft, compress_to_fp16=False)
                weights = path.with_suffix(".bin")
                # The .xml last: where it is, its weights are.
                os.replace(Path(folder) / weights.name, weights)
                os.replace(draft, path)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from None
        except RuntimeError as error:  # OpenVINO's, which has no reason in it
            raise UserError(f"cannot write {path}: is the disk full? OpenVINO says '{error}'") from None


class PackageArtifact:
    """A `torch.export` package."""

    def __init__(self, program: ExportedProgram):
        self.program = program

    def save(self, path: Path, card: Card) -> None:
        content = io.BytesIO()  # a path's stem would go into the archive
        try:
            torch.export.save(self.program, content, extra_files={KEY: card.to_json()})
        except RuntimeError as error:  # operators that packages do not have
            reason = f"cannot be written as a .pt2 package: {_first_cause(error)}"
            raise UserError(f"{card.name} {reason}") from error
        write_buffer(path, content)


class EngineArtifact:
    """A TensorRT engine, which is built for this GPU."""

    def __init__(self, engine: bytes):
        self.engine = engine

    def save(self, path: Path, card: Card) -> None:
        card = dataclasses.replace(card, checksum=_sha256(self.engine))
        write_bytes(path, join_engine(self.engine, card.to_json()))


def _first_cause(error: BaseException) -> str:
    """Return the first line of what led to `error`, which speaks of steps and of what to report."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _in_words(card: Card) -> str:
    """Return what a file takes, in a sentence."""
    images = f"{' and '.join(card.inputs)}: RGB in [0, 1], float32; normalising is inside the file"
    if card.size is not None:
        height, width = card.size
        return f"{images}, and so are scaling and padding: images are {width}x{height} px."
    return (
        f"{images}, scaling and padding are not: its sides are multiples of {card.input_spec.multiple}; "
        f"see the entry '{KEY}' of the metadata."
    )


def to_onnx(program: ExportedProgram, card: Card) -> OnnxArtifact:
    """Return the program as ONNX, its weights stored as the card says."""
    # The exporter reports its progress on stdout, and its own deprecations.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(card.inputs),
                output_names=list(card.outputs),
                custom_translation_table={operator.floordiv: _floor_divided},
                verbose=False,
            )
    except Exception as error:  # operators that ONNX does not have
        raise UserError(f"{card.name} cannot be written as ONNX: {_first_cause(error)}") from error
    finally:
        logger.setLevel(level)
    assert found is not None
    model = found.model_proto
    _name_dimensions(model)
    if card.weights in ("float16", "bfloat16"):
        compress(model, card.weights)
    return OnnxArtifact(model)


def _floor_divided(number: Any, divisor: Any) -> Any:
    """Return floor(number / divisor) of whole numbers in ONNX, whose own division rounds towards zero: of
    -(-height // 2) that is another number."""
    from onnxscript import opset18 as op

    return op.Div(op.Sub(number, op.Mod(number, divisor)), divisor)


def to_openvino(program: ExportedProgram, card: Card) -> OpenvinoArtifact:
    """Return the program as an OpenVINO model; it is converted through ONNX."""
    import openvino

    model = to_onnx(program, card).model
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(model.SerializeToString())
        # Not `openvino.convert_model`, which reports to its makers.
        found = openvino.Core().read_model(file)
        # The weights are mapped from the file, which goes.
        whole = Path(folder) / "whole.xml"
        openvino.save_model(found, whole, compress_to_fp16=False)
        found = openvino.Core().read_model(
            whole.read_bytes(), openvino.Tensor(np.fromfile(whole.with_suffix(".bin"), np.uint8))
        )
    return OpenvinoArtifact(found)


def to_package(program: ExportedProgram, card: Card) -> PackageArtifact:
    """Return the program as a `torch.export` package."""
    if card.weights != "float32":
        raise UserError("weights of a .pt2 package are float32; .onnx and .xml store them in half precision")
    # Sample inputs would be pickled, and the program needs none.
    program._example_inputs = None
    return PackageArtifact(program)


def to_tensorrt(program: ExportedProgram, card: Card) -> EngineArtifact:
    """Return the program as a TensorRT engine; float16 or bfloat16 weights allow it that arithmetic."""
    from .tensorrt import build

    return EngineArtifact(build(to_onnx(program, dataclasses.replace(card, weights="float32")).model, card))


# Suffix -> how it is made; the usual runtime of the suffix checks it.
FORMATS: dict[str, Callable[[ExportedProgram, Card], Artifact]] = {
    ".onnx": to_onnx,
    ".xml": to_openvino,
    ".pt2": to_package,
    ".engine": to_tensorrt,
}


def compress(model: Any, weights: str) -> None:
    """Store the large float32 constants of an ONNX `model` as `weights`, in place; it computes in float32.

    Each gets a cast before it, which runtimes fold when they load.
    """
    import onnx
    from onnx import numpy_helper

    kind = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}[weights]
    casts = []
    for initializer in model.graph.initializer:
        array = numpy_helper.to_array(initializer)
        if initializer.data_type != onnx.TensorProto.FLOAT or array.size < _LEAST_COMPRESSED:
            continue
        name = initializer.name
        half = torch.tensor(array).to(getattr(torch, weights))
        initializer.Clear()
        initializer.name, initializer.data_type = f"{name}.{weights}", kind
        initializer.dims.extend(array.shape)
        initializer.raw_data = half.view(torch.int16).numpy().tobytes()
        casts.append(
            onnx.helper.make_node(
                "Cast", [initializer.name], [name], f"{name}.cast", to=onnx.TensorProto.FLOAT
            )
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _name_dimensions(model: Any) -> None:
    """Call the dynamic dimensions batch, height and width, where an input has them."""
    names = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, name in zip(dims, ("batch", None, "height", "width"), strict=True):
            if dim.dim_param and name:
                names[dim.dim_param] = name
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]
    del model.graph.value_info[:]  # which runtimes infer again


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
