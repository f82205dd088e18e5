"""An ONNX model to a TensorRT engine (TensorRT 10 or newer, on the GPU it is built for)."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import UserError
from ..runtimes.card import Card
from ..runtimes.runtime import require_runtime
from .graph import least_size

LARGEST = (1088, 1920)  # px; height and width that a dynamic engine goes up to
USUAL = (384, 1248)  # px; what it is tuned for
LARGEST_BATCH = 4


def build(model: Any, card: Card) -> bytes:
    """Return the serialised engine of an ONNX `model`.

    Half precision is allowed where the card's weights are stored so; a dynamic engine takes images up to
    `LARGEST`, and is tuned for `USUAL`.

    Raises:
        UserError: TensorRT or a GPU is missing, or it cannot build the network.
    """
    require_runtime("tensorrt")
    import tensorrt

    if not torch.cuda.is_available():
        raise UserError("TensorRT builds an engine on the GPU that will run it, and torch sees none")
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network()
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        raise UserError(f"TensorRT cannot read {card.name}: {parser.get_error(0)}")
    config = builder.create_builder_config()
    flags = {"float16": tensorrt.BuilderFlag.FP16, "bfloat16": tensorrt.BuilderFlag.BF16}
    if card.weights in flags:
        config.set_flag(flags[card.weights])
    else:
        config.clear_flag(tensorrt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    for name in card.inputs:
        profile.set_shape(name, *_shapes(card))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise UserError(f"TensorRT cannot build {card.name}; its log above says why")
    return bytes(engine)


def _shapes(card: Card) -> tuple[tuple[int, ...], ...]:
    """Return the least, the usual and the largest shape of an image batch."""
    if card.size is not None:
        batches = (card.batch or 1,) * 3
        return tuple((batch, 3, *card.size) for batch in batches)
    batches = (card.batch,) * 3 if card.batch else (1, 1, LARGEST_BATCH)
    spec = card.input_spec
    sizes = [least_size(spec), *(spec.place(*size).input_size for size in (USUAL, LARGEST))]
    return tuple((batch, 3, *size) for batch, size in zip(batches, sizes, strict=True))
