"""Stored teacher answers: the one format that labelling writes and teachers read.

A store is a folder:

    manifest.json       who answered, how it was filtered, what is stored; counts once it is complete
    shards/000000.zip   some frames: a member an array, and its index as `index.json`
    shards/000000.json  the shard's checksum and counts, written after it: a shard without is none

Answers are of the full frame. Everything is 16 bits at most: values in px or metres are fixed-point numbers
whose step is chosen for each map (a half-precision number would be 1/16 px off at 128 px, these are 1/512),
differences along the row, deflated; features are half-precision, as they are; masks are packed bits. Zip
files, because every language reads them, every member has a checksum of its own, and one frame is read
without the others; they hold no times, so that the same answers give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from ..files import write_bytes, write_text

VERSION = 1
MANIFEST = "manifest.json"
_INDEX = "index.json"
_OPEN_SHARDS = 16
_LARGEST_EXPONENT = 12
# What reading a damaged zip raises; RuntimeError for one that calls itself encrypted, or packed otherwise.
_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError, RuntimeError)


# One array


def encode(values: NDArray[Any], kind: str) -> tuple[bytes, dict[str, Any]]:
    """Return `values` as bytes, and how `decode` gets them back.

    Args:
        values: any shape.
        kind: `fixed` (float, to within half a step of at most 1/32768 of the largest magnitude), `half`,
            `float`, `mask` (bool), `share` (0 to 1, to within 1/510), `image` ((3, H, W) uint8) or `integer`.

    Raises:
        UserError: a value that is not finite, or beyond what half precision holds.
    """
    how: dict[str, Any] = {"kind": kind, "shape": list(values.shape)}
    if kind in ("fixed", "half", "float") and not np.isfinite(values).all():
        raise UserError(f"{np.count_nonzero(~np.isfinite(values))} of {values.size} values are no number")
    if kind == "fixed":
        largest = float(np.abs(values).max(initial=0.0))
        exponent = _LARGEST_EXPONENT
        if largest > 0:
            exponent = min(exponent, math.floor(math.log2(32767 / largest)))
        how["exponent"] = exponent
        levels = np.rint(values.astype(np.float64) * 2.0**exponent).astype(np.int16)
        steps = np.diff(levels, axis=-1, prepend=np.zeros((*levels.shape[:-1], 1), np.int16))
        # All low bytes, then all high ones: of small differences the latter are nearly all alike.
        return zlib.compress(steps.astype("<i2").view(np.uint8).reshape(-1, 2).T.tobytes(), 1), how
    if kind in ("half", "float"):
        largest = float(np.finfo(np.float16 if kind == "half" else np.float32).max)
        if np.abs(values).max(initial=0) > largest:
            raise UserError(f"values beyond {largest:g}, the largest that is stored ({kind})")
        return values.astype("<f2" if kind == "half" else "<f4").tobytes(), how
    if kind == "mask":
        return zlib.compress(np.packbits(values.astype(bool)).tobytes(), 1), how
    if kind == "share":
        return zlib.compress(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8).tobytes(), 1), how
    if kind == "image":
        picture = cv2.cvtColor(np.ascontiguousarray(values.transpose(1, 2, 0)), cv2.COLOR_RGB2BGR)
        return cv2.imencode(".png", picture)[1].tobytes(), how
    how["dtype"] = str(values.dtype)
    return zlib.compress(np.ascontiguousarray(values).tobytes(), 1), how


def decode(data: bytes, how: Mapping[str, Any]) -> NDArray[Any]:
    """Return the values that `encode` wrote: float32, bool, uint8 or the integers' own type."""
    kind, shape = how["kind"], tuple(how["shape"])
    if kind == "fixed":
        parted = np.frombuffer(zlib.decompress(data), np.uint8).reshape(2, -1)
        steps = np.ascontiguousarray(parted.T).view("<i2").reshape(shape)
        levels = np.cumsum(steps, axis=-1, dtype=np.int16)
        return levels.astype(np.float32) * np.float32(2.0 ** -how["exponent"])
    if kind in ("half", "float"):
        return np.frombuffer(data, "<f2" if kind == "half" else "<f4").reshape(shape).astype(np.float32)
    if kind == "mask":
        bits = np.frombuffer(zlib.decompress(data), np.uint8)
        return np.unpackbits(bits, count=math.prod(shape)).astype(bool).reshape(shape)
    if kind == "share":
        levels = np.frombuffer(zlib.decompress(data), np.uint8).reshape(shape)
        return levels.astype(np.float32) / np.float32(255)
    if kind == "image":
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert picture is not None  # its checksum was right
        return np.ascontiguousarray(picture.transpose(2, 0, 1))
    return np.frombuffer(zlib.decompress(data), how["dtype"]).reshape(shape).copy()


# Shards


def shard_path(root: Path, number: int) -> Path:
    """Return the file of shard `number`."""
    return root / "shards" / f"{number:06d}.zip"


def write_shard(
    root: Path, number: int, frames: Iterable[tuple[str, Mapping[str, tuple[NDArray[Any], str]]]]
) -> dict[str, Any]:
    """Write a shard, atomically, and return its `bytes`, `sha256` and `frames`.

    Args:
        root: the store.
        number: of the shard.
        frames: a name and its arrays, each with the `kind` that `encode` takes.

    Raises:
        UserError: a value that is no number (naming frame and array), or the disk is full.
    """
    buffer, index = io.BytesIO(), {}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for place, (name, arrays) in enumerate(frames):
            entries: dict[str, Any] = {"place": place}
            for key, (values, kind) in arrays.items():
                try:
                    data, entries[key] = encode(values, kind)
                except UserError as error:
                    raise UserError(f"frame '{name}', {key}: {error}") from None
                # A ZipInfo has no time of its own.
                archive.writestr(zipfile.ZipInfo(_member(place, key)), data)
            index[name] = entries
        archive.writestr(zipfile.ZipInfo(_INDEX), json.dumps(index, sort_keys=True))
    shard = buffer.getvalue()
    write_bytes(shard_path(root, number), shard)
    return {"bytes": len(shard), "sha256": hashlib.sha256(shard).hexdigest(), "frames": list(index)}


def _member(place: int, key: str) -> str:
    return f"{place:04d}/{key}"


def write_receipt(root: Path, number: int, receipt: Mapping[str, Any]) -> None:
    """Write what says that shard `number` is there, after the shard itself."""
    write_text(shard_path(root, number).with_suffix(".json"), json.dumps(receipt, sort_keys=True) + "\n")


def read_receipt(root: Path, number: int) -> dict[str, Any] | None:
    """Return the receipt of shard `number`; None where there is none that is whole."""
    try:
        receipt = json.loads(shard_path(root, number).with_suffix(".json").read_text())
    except (OSError, ValueError):
        return None
    return receipt if isinstance(receipt, dict) else None


def checksum(path: Path) -> str | None:
    """Return the SHA-256 of a file, None where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()


# The whole


class Store:
    """The stored answers in the folder `root`.

    Args:
        root: of the store.
        partial: take one whose labelling is not complete.

    Raises:
        UserError: no store, one of another version, or one that is not complete.
    """

    def __init__(self, root: str | os.PathLike[str], partial: bool = False):
        self.root = Path(root).expanduser()
        self.manifest = read_manifest(self.root)
        if self.manifest.get("version") != VERSION or self.manifest.get("write") != "shards":
            raise UserError(f"{self.root} holds no stored answers that can be read here; label again")
        if not (self.manifest.get("complete") or partial):
            raise UserError(
                f"{self.root} is not complete; `densedistill label` with the same arguments goes on"
            )
        self._shard_of: dict[str, int] = {}
        for number in range(self.manifest["shards"]):
            there = shard_path(self.root, number).is_file()
            receipt = read_receipt(self.root, number) if there else None
            if receipt is None and not partial:
                raise UserError(f"shard {number} of {self.root} is missing; label again, which mends it")
            for name in receipt["frames"] if receipt else ():
                self._shard_of[name] = number
        self._archives: OrderedDict[int, tuple[zipfile.ZipFile, dict[str, Any], int]] = OrderedDict()

    @property
    def names(self) -> list[str]:
        """The frames' names."""
        return list(self._shard_of)

    def __contains__(self, name: str) -> bool:
        return name in self._shard_of

    def keys(self, name: str) -> list[str]:
        """Return what is stored of frame `name`; UserError when there is no such frame."""
        return [key for key in self._open(name)[1][name] if key != "place"]

    def read(self, name: str, keys: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Return the arrays of frame `name`.

        Raises:
            UserError: no such frame or array, or a damaged shard.
        """
        archive, index = self._open(name)
        entries = index[name]
        found = {}
        for key in self.keys(name) if keys is None else keys:
            if key not in entries:
                raise UserError(
                    f"{self.root} has no '{key}' of frame '{name}'; it has {', '.join(self.keys(name))}"
                )
            try:
                found[key] = torch.from_numpy(
                    decode(archive.read(_member(entries["place"], key)), entries[key])
                )
            except _DAMAGE as error:
                raise UserError(
                    f"{archive.filename} is damaged ({error}); label again, which redoes that shard"
                ) from None
        return found

    def _open(self, name: str) -> tuple[zipfile.ZipFile, dict[str, Any]]:
        if name not in self._shard_of:
            raise UserError(
                f"{self.root} has no answer for frame '{name}'; it was labelled for {len(self._shard_of)} "
                f"others, such as '{next(iter(self._shard_of), '')}'"
            )
        number = self._shard_of[name]
        known = self._archives.get(number)
        if known is None or known[2] != os.getpid():  # a forked loader must not share the file's position
            path = shard_path(self.root, number)
            try:
                archive = zipfile.ZipFile(path)
                known = archive, json.loads(archive.read(_INDEX)), os.getpid()
            except _DAMAGE as error:
                raise UserError(
                    f"{path} is damaged ({error}); label again, which redoes that shard"
                ) from None
            self._archives[number] = known
            if len(self._archives) > _OPEN_SHARDS:
                self._archives.popitem(last=False)[1][0].close()
        self._archives.move_to_end(number)
        return known[0], known[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archives": OrderedDict()}


def read_manifest(root: Path) -> dict[str, Any]:
    """Return the manifest of a store; UserError when there is none."""
    try:
        manifest = json.loads((root / MANIFEST).read_text())
    except OSError:
        raise UserError(f"there are no stored answers in {root}: it has no {MANIFEST}") from None
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict):
        raise UserError(f"{root / MANIFEST} is damaged; label again")
    return manifest


def write_manifest(root: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a store, atomically."""
    write_text(root / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
