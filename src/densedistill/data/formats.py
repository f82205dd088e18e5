"""The file formats of dense-prediction benchmarks: read and write.

Arrays are NumPy, top row first. A reader gives values in pixels and says no more about validity than the
format does; data sets turn 0, inf and nan into masks. A file that is missing, cut off or damaged is a
`UserError` that names it. OpenCV decodes images; PFM is read here because OpenCV multiplies the values by the
header's scale (Middlebury's come out 255 times too large) and, like torchvision, refuses headers with
trailing blanks.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from ..files import atomic_write, write_bytes

# What is wrong with a file is said by its reader, in one line; OpenCV's decoders would add lines of theirs.
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

PathLike = str | os.PathLike[str]
FloatArray = NDArray[np.float32]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp"})

_PNG = b"\x89PNG\r\n\x1a\n"
_PFM_HEADER = re.compile(
    rb"(PF|Pf)[ \t\r]*\s(\d{1,9})\s+(\d{1,9})\s+([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)[ \t\r]*\n"
)
_FLO_TAG = 202021.25
_ORIENTATION = 0x0112  # EXIF's tag
# Its values: how stored rows and columns become those that are shown.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: np.rot90(image),
}
_SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange height and width


def read_bytes(path: PathLike) -> bytes:
    """Return the content of the file `path`; UserError if it is missing, unreadable or empty."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if not data:
        raise UserError(f"{path} is empty (0 bytes); fetch it again")
    return data


# Images


def check_image(path: PathLike, data: bytes | None = None) -> bytes:
    """Return the bytes of an image file that is whole: a PNG by its checksums, a JPEG by its end mark.

    Raises:
        UserError: missing, empty, cut off or damaged.
    """
    data = read_bytes(path) if data is None else data
    cut_off = UserError(f"{path} is cut off after {len(data)} bytes; fetch it again")
    if data.startswith(_PNG):
        at = len(_PNG)
        while True:
            kind, end = data[at + 4 : at + 8], at + 8 + int.from_bytes(data[at : at + 4], "big")
            if end + 4 > len(data):
                raise cut_off
            if zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
                raise UserError(
                    f"{path} is damaged (checksum of its {kind.decode('latin-1')} part); fetch it again"
                )
            if kind == b"IEND":
                return data
            at = end + 4
    if data.startswith(b"\xff\xd8") and b"\xff\xd9" not in data[-4096:]:
        raise cut_off
    return data


def read_raster(path: PathLike) -> np.ndarray:
    """Return an image file as stored, (H, W) or (H, W, C), colours in RGB order, any depth.

    Raises:
        UserError: missing, cut off, damaged or no image.
    """
    data = check_image(path)
    try:
        raster = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        raster = None
    if raster is None:
        raise UserError(
            f"{path} is not an image, or not a whole one; PNG, JPEG, PPM, TIFF, BMP and WebP can be read"
        )
    if raster.ndim == 3 and raster.shape[2] == 1:
        raster = raster[..., 0]
    if raster.ndim == 3 and raster.shape[2] >= 3:
        try:
            raster = cv2.cvtColor(raster, cv2.COLOR_BGR2RGB if raster.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
        except cv2.error:
            raise _of_a_depth(path, raster) from None
    return raster


def read_grey(path: PathLike) -> np.ndarray:
    """Return an image file of masks or numbers as stored, (H, W), any depth; alpha is dropped.

    Raises:
        UserError: missing, cut off, damaged, no image, or of colours.
    """
    raster = read_raster(path)
    if raster.ndim == 2:
        return raster
    colours = _opaque(raster)
    if (colours != colours[..., :1]).any():
        raise UserError(f"{path} is a colour picture; a map of values has one channel")
    return np.ascontiguousarray(colours[..., 0])


def read_image(path: PathLike) -> NDArray[np.uint8]:
    """Return an image file as (H, W, 3) RGB uint8; grey is repeated, alpha dropped, 16-bit scaled, palettes
    resolved, and what PPM and PGM call white is 255.

    Raises:
        UserError: missing, cut off, damaged, no image, or neither 8 nor 16 bits deep.
    """
    return read_images(path)[0]


def read_images(*paths: PathLike) -> list[NDArray[np.uint8]]:
    """Return the views of one moment, each as `read_image`, scaled alike.

    16-bit files of industrial cameras often hold 10, 12 or 14 bits; the least of these depths that holds
    every view's brightest value is taken as white, so that both views keep their relative exposure. PPM and
    PGM may say what is white.
    """
    rasters = [_opaque(read_raster(path)) for path in paths]
    deep = [int(raster.max()) for raster in rasters if raster.dtype == np.uint16]
    white = next((2**bits - 1 for bits in (10, 12, 14) if max(deep, default=0) < 2**bits), 2**16 - 1)
    whites = [_stated_white(path) or white for path in paths]
    return [_to_rgb(*each) for each in zip(rasters, whites, paths, strict=True)]


def upright(path: PathLike, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a photograph (H, W, C), which `read_image` read from `path`, turned as its file says that it is
    to be shown (EXIF's orientation).

    No reader of data sets does so: ground truth lies upon the pixels as they are stored.
    """
    if Path(path).suffix.lower() in (".tif", ".tiff"):
        return image  # which OpenCV turned
    orientation = 1
    with contextlib.suppress(Exception), Image.open(path) as opened:  # a damaged mark says nothing
        orientation = opened.getexif().get(_ORIENTATION, 1)
    return np.ascontiguousarray(_TURNS[orientation](image)) if orientation in _TURNS else image


def size_in_header(path: PathLike, photograph: bool = False) -> tuple[int, int] | None:
    """Return (height, width) of an image file without reading its pixels; None where its header does not say.

    Args:
        photograph: the size of the image that `upright` returns.
    """
    with contextlib.suppress(Exception), Image.open(path) as opened:
        width, height = opened.size
        if opened.getexif().get(_ORIENTATION, 1) not in _SIDEWAYS:
            return height, width
        if Path(path).suffix.lower() not in (".tif", ".tiff"):  # which Pillow may have turned, or not
            return (width, height) if photograph else (height, width)
    return None


def _stated_white(path: PathLike) -> int | None:
    """Return the value that a binary PPM or PGM calls white, which OpenCV passes over; None for others, and
    for 65535, which programs write that know no better."""
    if Path(path).suffix.lower() not in (".ppm", ".pgm"):
        return None
    with open(path, "rb") as file:
        header = re.sub(rb"#[^\n]*", b"", file.read(4096)).split(None, 4)  # kind, width, height, white
    white = int(header[3]) if len(header) > 3 and header[0] in (b"P5", b"P6") else None
    return None if white == 65535 else white


def _of_a_depth(path: PathLike, raster: np.ndarray) -> UserError:
    return UserError(f"{path} holds {raster.dtype} values; images of 8 or 16 bits can be read")


def _to_rgb(raster: np.ndarray, white: int, path: PathLike) -> NDArray[np.uint8]:
    """Return a raster as RGB; `white` is that of 16 bits, or what the file says."""
    if raster.dtype not in (np.uint8, np.uint16):
        raise _of_a_depth(path, raster)
    if raster.dtype == np.uint16 or white < 255:
        raster = cv2.convertScaleAbs(raster, alpha=255.0 / white)
    if raster.ndim == 2:
        return np.asarray(cv2.cvtColor(raster, cv2.COLOR_GRAY2RGB), np.uint8)
    return np.ascontiguousarray(raster if raster.shape[2] == 3 else raster.repeat(3, 2))


def _opaque(raster: np.ndarray) -> np.ndarray:
    """Return an image (H, W) or (H, W, C) without its alpha."""
    return raster if raster.ndim == 2 else raster[..., : 3 if raster.shape[2] >= 3 else 1]


def write_image(path: PathLike, image: np.ndarray) -> None:
    """Write an (H, W) or (H, W, 3) RGB array, uint8 or uint16, in the format of the suffix, atomically."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    try:
        encoded = cv2.imencode(Path(path).suffix, np.ascontiguousarray(image))[1]
    except cv2.error:
        raise UserError(f"cannot write {path}: no image format is called '{Path(path).suffix}'") from None
    write_bytes(path, encoded.tobytes(), sync=False)


def write_labels_png(
    path: PathLike, labels: NDArray[np.integer], valid: NDArray[np.bool_] | None = None
) -> None:
    """Write the classes' numbers (H, W) as 8-bit PNG, atomically; 255 = unknown.

    Raises:
        UserError: a valid number above 254, which the format cannot hold.
    """
    valid = np.ones(labels.shape, bool) if valid is None else valid
    largest = labels.max(where=valid, initial=0)
    if largest > 254:
        raise UserError(
            f"cannot write {path}: an 8-bit PNG holds classes 0 to 254, 255 is unknown; the map has {largest}"
        )
    write_image(path, np.where(valid, labels, 255).astype(np.uint8))


# PFM


def read_pfm(path: PathLike) -> FloatArray:
    """Return a PFM file as float32 (H, W) or (H, W, 3), top row first.

    The header's scale says the byte order by its sign; its size is a unit that nobody agrees on and is
    ignored, as the benchmarks' own readers do (http://netpbm.sourceforge.net/doc/pfm.html).

    Raises:
        UserError: missing, not a PFM, or shorter or longer than its header says.
    """
    data = read_bytes(path)
    header = _PFM_HEADER.match(data)
    if header is None or float(header[4]) == 0:
        raise UserError(f"{path} is not a PFM file: its header is {data[:16]!r}")
    channels = 3 if header[1] == b"PF" else 1
    width, height, scale = int(header[2]), int(header[3]), float(header[4])
    expected, there = height * width * channels * 4, len(data) - header.end()
    if there < expected:
        raise UserError(
            f"{path} is cut off: {there} of {expected} bytes of a {width}x{height} map; fetch it again"
        )
    if there > expected and data[header.end() + expected :].strip():
        raise UserError(f"{path} has {there - expected} bytes more than its header ({width}x{height}) says")
    values = np.frombuffer(data, "<f4" if scale < 0 else ">f4", height * width * channels, header.end())
    values = values.reshape((height, width, 3) if channels == 3 else (height, width))
    return np.ascontiguousarray(values[::-1], dtype=np.float32)


def write_pfm(path: PathLike, values: NDArray[np.floating]) -> None:
    """Write an (H, W) or (H, W, 3) array as little-endian float32 PFM, atomically."""
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3):
        raise UserError(f"a PFM file holds (H, W) or (H, W, 3) values, got {values.shape}")
    kind = "Pf" if values.ndim == 2 else "PF"
    header = f"{kind}\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode()
    write_bytes(path, header + np.ascontiguousarray(values[::-1], dtype="<f4").tobytes(), sync=False)


# Disparity


def read_disparity_png(path: PathLike, scale: float = 256.0) -> FloatArray:
    """Return a 16-bit PNG of disparity times `scale` as float32 (H, W) px; 0 = unknown (KITTI's format)."""
    raster = read_raster(path)
    if raster.ndim != 2 or raster.dtype != np.uint16:
        raise UserError(
            f"{path} is no 16-bit grey PNG (it is {raster.dtype}, {raster.shape}); "
            "give disparity_scale for 8-bit maps"
        )
    return raster.astype(np.float32) / np.float32(scale)


def write_disparity_png(
    path: PathLike, disparity: NDArray[np.floating], valid: NDArray[np.bool_] | None = None
) -> None:
    """Write disparity (H, W) px as KITTI's 16-bit PNG of round(256 d), atomically; 0 = unknown.

    A valid disparity below 1/512 px is written as 1/256, as KITTI's development kit does, for 0 would say
    unknown.

    Raises:
        UserError: a valid disparity above 255.99 px or not finite, which the format cannot hold.
    """
    valid = np.ones(disparity.shape, bool) if valid is None else valid
    largest = disparity.max(where=valid, initial=0.0)
    if not largest * 256 < 65535.5:
        raise UserError(
            f"cannot write {path}: KITTI's PNG holds at most 255.99 px, the map has {largest:.2f}; use PFM"
        )
    levels = np.clip(np.rint(np.where(valid, disparity, 0) * 256.0), 1, 65535).astype(np.uint16)
    write_image(path, np.where(valid, levels, np.uint16(0)))


def write_depth_png(path: PathLike, depth: NDArray[np.floating], scale: float) -> None:
    """Write depth (H, W) in metres as a 16-bit PNG of round(scale z), atomically.

    What is not above 0 or not finite is 0, unknown. What is too far for the format is written as its largest
    value.
    """
    known = np.isfinite(depth) & (depth > 0)
    levels = np.clip(np.rint(np.where(known, depth, 0) * scale), 1, 65535).astype(np.uint16)
    write_image(path, np.where(known, levels, np.uint16(0)))


def read_disparity(path: PathLike, scale: float | None = None) -> FloatArray:
    """Return the disparity file `path` (PFM, NPY, or PNG) as float32 (H, W) px, unknown as the file has it.

    Args:
        path: the file; its suffix says the format.
        scale: what a stored value is divided by; default 256 for 16-bit PNG and 1 for PFM and NPY. 8-bit
            images need it given.

    Raises:
        UserError: missing, cut off, damaged, of another kind, or of more than one channel.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".pfm":
        values = read_pfm(path)
    elif suffix == ".npy":
        values = _read_npy(path)
    elif suffix in IMAGE_SUFFIXES:
        if scale is None:
            return read_disparity_png(path)
        values = read_grey(path).astype(np.float32)
    else:
        raise UserError(f"{path}: a disparity file is PFM, NPY or PNG")
    if values.ndim != 2:
        raise UserError(f"{path} has shape {values.shape}; a disparity map is (H, W)")
    return values if scale in (None, 1) else values / np.float32(scale)


def check_size(path: PathLike, values: np.ndarray, size: tuple[int, ...]) -> None:
    """Raise UserError where ground truth (H, W, …) from `path` has not the `size` (H, W) of its image."""
    if values.shape[:2] != tuple(size):
        raise UserError(
            f"{path} is {values.shape[1]}x{values.shape[0]} px, its image {size[1]}x{size[0]}; "
            "ground truth has the size of its image"
        )


def _read_npy(path: PathLike) -> FloatArray:
    read_bytes(path)
    try:
        values = np.load(path, allow_pickle=False)
    except Exception:  # whatever NumPy's reading of a damaged header as Python comes upon
        raise UserError(f"{path} is no whole NPY file of numbers") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise UserError(f"{path} is no NPY file of numbers")
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):  # (1, H, W) and (H, W, 1) are maps too
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    return values.astype(np.float32)


def write_npy(path: PathLike, values: np.ndarray) -> None:
    """Write an array as NPY, atomically."""
    with atomic_write(Path(path).with_suffix(".npy"), sync=False) as part:
        np.save(part, values, allow_pickle=False)


# Flow


def read_flo(path: PathLike) -> FloatArray:
    """Return a Middlebury .flo file as float32 (H, W, 2) px (x, y); unknown flow is above 1e9 there."""
    data = read_bytes(path)
    if len(data) < 12 or struct.unpack_from("<f", data)[0] != _FLO_TAG:
        raise UserError(f"{path} is not a .flo file (its first four bytes are not PIEH)")
    width, height = struct.unpack_from("<ii", data, 4)
    if min(width, height) < 0 or len(data) - 12 != width * height * 8:
        raise UserError(
            f"{path} has {len(data) - 12} bytes for a {width}x{height} flow; it needs {width * height * 8}"
        )
    return np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).astype(np.float32)


def write_flo(path: PathLike, flow: NDArray[np.floating]) -> None:
    """Write flow (H, W, 2) px (x, y) as .flo, atomically."""
    height, width = flow.shape[:2]
    header = struct.pack("<fii", _FLO_TAG, width, height)
    write_bytes(path, header + np.ascontiguousarray(flow, dtype="<f4").tobytes(), sync=False)


def read_flow_png(path: PathLike) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return KITTI's 16-bit flow PNG as flow (H, W, 2) px (x, y) and valid (H, W)."""
    raster = read_raster(path)
    if raster.ndim != 3 or raster.dtype != np.uint16:
        raise UserError(f"{path} is no 16-bit colour PNG (it is {raster.dtype}, {raster.shape})")
    flow = (raster[..., :2].astype(np.float32) - 2**15) / np.float32(64)
    valid = raster[..., 2] > 0
    return np.where(valid[..., None], flow, np.float32(0)), valid


def write_flow_png(
    path: PathLike, flow: NDArray[np.floating], valid: NDArray[np.bool_] | None = None
) -> None:
    """Write flow (H, W, 2) px as KITTI's 16-bit PNG of round(64 f + 2^15), atomically.

    What lies beyond -512 and 511.98 px is written as these, as KITTI's development kit does.

    Raises:
        UserError: a valid flow that is not finite.
    """
    valid = np.ones(flow.shape[:2], bool) if valid is None else valid
    if not np.isfinite(flow).all(-1, where=valid[..., None]).all():
        raise UserError(f"cannot write {path}: some of the flow is no number")
    levels = np.clip(np.rint(np.where(valid[..., None], flow, 0).astype(np.float64) * 64 + 2**15), 0, 65535)
    write_image(path, np.dstack([np.where(valid[..., None], levels, 0), valid]).astype(np.uint16))
