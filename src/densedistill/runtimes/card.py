"""What an exported file says about itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..networks.input_spec import InputSpec

KEY = "densedistill"  # under which a file's metadata holds the card


@dataclass(frozen=True)
class Card:
    """What is needed to use an exported file without this package: it lies in the metadata as JSON.

    Args:
        name: of the network.
        task: what it predicts.
        inputs: names of the images, (B, 3, H, W), float32 in [0, 1], RGB.
        outputs: names of the outputs, in the file's order.
        input_spec: of the network. Normalising is inside the file; scaling and padding are, too, when `size`
            is fixed, and otherwise are left to the caller.
        size: (height, width) that the file takes; None for any multiple of `input_spec.multiple`.
        batch: number of samples that the file takes; None for any.
        max_disparity: number of disparities it can tell; None where that means nothing.
        weights: how they are stored: "float32", "float16", "bfloat16" or "int8".
        difference: to the network in torch in float32, as `Difference.to_dict` gives it.
        version: of the package that wrote the file.
    """

    name: str
    task: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    input_spec: InputSpec
    size: tuple[int, int] | None = None
    batch: int | None = None
    max_disparity: int | None = None
    weights: str = "float32"
    difference: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""

    def to_json(self) -> str:
        """Return the card as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Return the card that `to_json` wrote; ValueError for anything else."""
        try:
            found = json.loads(text)
            spec = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in found.pop("input_spec").items()
            }
            for key in ("inputs", "outputs", "size"):
                found[key] = None if found[key] is None else tuple(found[key])
            return cls(input_spec=InputSpec(**spec), **found)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a card: {error}") from None
