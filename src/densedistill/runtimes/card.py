"""What an exported file says about itself."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..errors import UserError, as_count
from ..networks.input_spec import InputSpec
from ..networks.layers.boxes import Decoding
from ..tasks import get_task

KEY = "densedistill"  # under which a file's metadata holds the card


@dataclass(frozen=True)
class Card:
    """What is needed to use an exported file without this package: it lies in the metadata as JSON.

    Args:
        name: of the network.
        task: what it predicts.
        inputs: names of the images, (B, 3, H, W), float32 in [0, 1], RGB.
        outputs: names of the outputs, in the file's order: the task's; of a detector `class_logits`
            (B, positions, classes), `distances` (B, positions, 4) from a position to a box's left, top, right
            and bottom in px of the input, and `centerness` (B, positions, 1), a logit.
        input_spec: of the network. Normalising is inside the file; scaling and padding are, too, when `size`
            is fixed, and otherwise are left to the caller.
        size: (height, width) that the file takes; None for any multiple of `input_spec.multiple`.
        batch: number of samples that the file takes; None for any.
        max_disparity: number of disparities it can tell, px of the image; None where that means nothing.
        classes: names of the classes it tells, where it has names for them.
        decoding: of a detector, how boxes come from that: `strides` of the levels, whose positions follow
            upon one another row by row, each at its index times the stride and half of one; the least class
            probability (`threshold`); the largest `overlap` (IoU) of two boxes of a class; and the most
            `detections`. A score is the root of a class probability times the sigmoid of `centerness`.
        weights: how they are stored: "float32", "float16", "bfloat16" or "int8".
        difference: to the network in torch in float32, as `Difference.to_dict` gives it.
        version: of the package that wrote the file.
        checksum: SHA-256 of what the file computes with: of an .onnx its graph, of OpenVINO the .bin and
            the layers in the .xml, of TensorRT the engine. Empty in a .pt2, a zip, which has checksums of
            its own.
    """

    name: str
    task: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    input_spec: InputSpec
    size: tuple[int, int] | None = None
    batch: int | None = None
    max_disparity: int | None = None
    classes: tuple[str, ...] = ()
    decoding: Mapping[str, Any] = field(default_factory=dict)
    weights: str = "float32"
    difference: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    checksum: str = ""

    def to_json(self) -> str:
        """Return the card as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Return the card that `to_json` wrote; ValueError for anything else."""
        try:
            found = json.loads(text)
            spec: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in found.pop("input_spec").items()
            }
            for key in ("inputs", "outputs", "size", "classes"):
                found[key] = None if found[key] is None else tuple(found[key])
            card = cls(input_spec=InputSpec(**spec), **found)
            card._require_sense()
        except (AttributeError, KeyError, TypeError, ValueError, UserError) as error:
            raise ValueError(f"not a card: {error}") from None
        return card

    def decoder(self) -> Decoding | None:
        """Return what chooses detections of what the file gives; None for what is no detector."""
        if not self.decoding:
            return None
        return Decoding(**{**self.decoding, "strides": tuple(self.decoding["strides"])})

    def _require_sense(self) -> None:
        """Raise an error unless the values are such as `export` writes."""
        task = get_task(self.task)
        if self.inputs != task.inputs or not {*self.outputs} <= {*task.outputs, *task.raw}:
            raise ValueError(f"{self.inputs} to {self.outputs} is not {task.name}")
        for side in self.size or ():
            as_count("a side of the size", side)
        if self.batch is not None:
            as_count("batch", self.batch)
        self.decoder()


def read_card(path: Path) -> Card:
    """Return the card of the exported file `path`, without the runtime that would run it.

    Raises:
        UserError: the file is damaged, or was not written by `export`.
    """
    try:
        text = _READERS[path.suffix](path)
    except (ValueError, IndexError, KeyError, zipfile.BadZipFile, ElementTree.ParseError):
        raise UserError(f"{path} is damaged, or no {path.suffix} file; export it again") from None
    if text is None:
        raise UserError(f"{path} says nothing about itself; a file that densedistill exported is wanted")
    try:
        return Card.from_json(text)
    except ValueError as error:
        raise UserError(f"what {path} says about itself cannot be read; export it again ({error})") from None


def check_weights(path: Path, card: Card) -> None:
    """Raise UserError unless the exported file `path` computes with what its `card` was written for."""
    weights = path.with_suffix(".bin") if path.suffix == ".xml" else path
    if not weights.is_file():
        raise UserError(f"{weights} is missing: an OpenVINO file is two, .xml and .bin")
    if card.checksum and card.checksum != checksum(path):  # older cards have none
        what = path if weights == path else f"{path} or its {weights.name}"
        raise UserError(
            f"{what} does not hold what was exported: it is damaged, or of another export; export it again"
        )


def checksum(path: Path) -> str:
    """Return the checksum that the card of `path` should have: an .onnx, .xml or .engine file."""
    if path.suffix == ".xml":
        with open(path.with_suffix(".bin"), "rb") as weights:
            digest = hashlib.file_digest(weights, "sha256")
        text = path.read_bytes()
        digest.update(text[: text.rfind(b"</edges>")])  # behind which the card stands
        return digest.hexdigest()
    content = path.read_bytes()
    if path.suffix == ".engine":
        return hashlib.sha256(part_engine(content)[0]).hexdigest()
    graph = next(place for number, place in _fields(content) if number == _GRAPH)
    return hashlib.sha256(memoryview(content)[graph]).hexdigest()


def join_engine(engine: bytes, card: str) -> bytes:
    """Return the content of a file for a serialised TensorRT `engine` and its card."""
    tail = _MARK + card.encode()
    return engine + tail + len(tail).to_bytes(8, "little")


def part_engine(content: bytes) -> tuple[bytes, str | None]:
    """Return engine and card of what `join_engine` made; the card is None in anything else."""
    length = int.from_bytes(content[-8:], "little")
    if 0 < length <= len(content) - 8:
        tail = content[-8 - length : -8]
        if tail.startswith(_MARK):
            return content[: -8 - length], tail[len(_MARK) :].decode(errors="replace")
    return content, None


_MARK = b"densedistill-card:"
_GRAPH, _METADATA = 7, 14  # fields of ONNX's ModelProto


def _of_onnx(path: Path) -> str | None:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for number, place in _fields(content):
            if number == _METADATA:
                entry = content[place]
                pair = {field: entry[part] for field, part in _fields(entry)}
                if pair.get(1) == KEY.encode():
                    return pair[2].decode()
    return None


def _fields(message: Any) -> Iterator[tuple[int, slice]]:
    """Yield number and place of each length-delimited field of a protocol buffer, skipping numbers.

    Raises:
        ValueError: it is none.
    """
    place = 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while place < len(message):
        tag = number()
        if tag & 7 == 2:
            length = number()
            if place + length > len(message):
                raise ValueError("it ends too early")
            yield tag >> 3, slice(place, place + length)
            place += length
        elif tag & 7 == 0:
            number()
        else:
            raise ValueError("no such field in ONNX")


def _of_openvino(path: Path) -> str | None:
    for _, element in ElementTree.iterparse(path):
        if element.tag == KEY and "value" in element.attrib:
            return element.attrib["value"]
    return None


def _of_package(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(f"extra/{KEY}")]
        return archive.read(names[0]).decode() if names else None


def _of_engine(path: Path) -> str | None:
    return part_engine(path.read_bytes())[1]


_READERS = {".onnx": _of_onnx, ".xml": _of_openvino, ".pt2": _of_package, ".engine": _of_engine}
