"""Predictions on their way to files: what a writer gets, and the kinds that several tasks share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import formats
from ..data.calibration import Calibration
from ..errors import UserError


@dataclass(frozen=True)
class Predicted:
    """What a network answered for one input, and what some writers need beside it.

    Args:
        outputs: by key: a map (H, W), or (C, H, W) of several channels; boxes (N, 4), scores, classes (N,).
        image: the first input, RGB (H, W, 3) uint8.
        calibration: of the camera or rig.
        colour_max: value at which the colours of a writer that is `ranged` end; None for the picture's own.
        classes: names of the classes, where the network knows them.
    """

    outputs: Mapping[str, NDArray[Any]]
    image: NDArray[np.uint8]
    calibration: Calibration | None = None
    colour_max: float | None = None
    classes: Sequence[str] = field(default_factory=tuple)

    @property
    def geometry(self) -> Calibration:
        """The calibration; UserError when there is none."""
        if self.calibration is None:
            raise UserError("metric depth and point clouds need a calibration file")
        return self.calibration


@dataclass(frozen=True)
class Writer:
    """A kind of output.

    Args:
        file: the file's name; `{}` is the input's.
        says: what it is.
        write: writes it, atomically.
        metric: it needs a calibration.
        ranged: its colours end at `Predicted.colour_max`.
    """

    file: str
    says: str
    write: Callable[[Path, Predicted], None]
    metric: bool = False
    ranged: bool = False


def unbatch(outputs: Mapping[str, Any], index: int = 0) -> dict[str, NDArray[Any]]:
    """Return the outputs (tensors) of one sample of a batch as arrays: channels of one are dropped, and so
    are boxes that only pad the batch."""
    found = {key: value[index].detach().cpu().numpy() for key, value in outputs.items()}
    if "boxes" in found and "classes" in found:
        there = found["classes"] >= 0
        found = {key: value[there] if len(value) == len(there) else value for key, value in found.items()}
    return {key: value[0] if value.ndim == 3 and len(value) == 1 else value for key, value in found.items()}


def array_writer(key: str, file: str = "{}.npy", says: str = "float32 NumPy array") -> Writer:
    """Return the writer of output `key` as it is."""
    return Writer(file, says, functools.partial(_write, formats.write_npy, key))


def colour_writer(
    key: str, colour: Callable[..., NDArray[np.uint8]], file: str = "{}.color.png", says: str = "picture"
) -> Writer:
    """Return the writer of the picture that `colour` makes of output `key`, in colours of a range."""
    return Writer(file, says, functools.partial(_write_colours, colour, key), ranged=True)


def pfm_writer(key: str, says: str) -> Writer:
    """Return the writer of output `key` as PFM."""
    return Writer("{}.pfm", says, functools.partial(_write, formats.write_pfm, key))


# Not closures, so that tasks, and predictors with them, can go to another process.
def _write(write: Callable[[Path, Any], None], key: str, path: Path, predicted: Predicted) -> None:
    write(path, predicted.outputs[key])


def _write_colours(
    colour: Callable[..., NDArray[np.uint8]], key: str, path: Path, predicted: Predicted
) -> None:
    formats.write_image(path, colour(predicted.outputs[key], high=predicted.colour_max))
