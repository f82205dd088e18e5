"""Labels as plain files in the benchmarks' own formats, which any other program reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..data import formats
from ..data.store import checksum
from ..errors import UserError

# KITTI's names, so that `kitti2015_multiview` and anybody's loader for KITTI read the labels as they are.
FOLDERS = {
    "disparity": "disp_0",
    "disparity_next": "disp_1",
    "flow": "flow",
    "depth": "depth",
    "logits": "labels",
}
_DEPTH_SCALE = 256.0  # of KITTI's depth maps: 16-bit PNG, 0 = unknown


def write_files(out: Path, frames: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Write the labels of some frames and return `files` (path to checksum), `bytes` and `frames`.

    Disparity and flow become KITTI's 16-bit PNG, depth KITTI's, classes 8-bit PNG with 255 for unknown,
    confidence 8-bit PNG in `confidence/`. What filters reject is unknown in the file, and so
    is a disparity or depth that is not above 0.

    Raises:
        UserError: a value that the format cannot hold, or a full disk.
    """
    written: list[Path] = []
    names = []
    for name, arrays in frames:
        names.append(name)
        for key, folder in FOLDERS.items():
            if key not in arrays:
                continue
            path = out / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, key, arrays[key][0], arrays[f"{key}_valid"][0][0])
            written.append(path)
            if f"{key}_confidence" in arrays:
                path = out / "confidence" / folder / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                share = arrays[f"{key}_confidence"][0][0]
                formats.write_image(path, np.rint(share * 255).astype(np.uint8))
                written.append(path)
    sums = {path.relative_to(out).as_posix(): checksum(path) for path in written}
    return {"files": sums, "bytes": sum(path.stat().st_size for path in written), "frames": names}


def _write(path: Path, key: str, values: np.ndarray, valid: np.ndarray) -> None:
    if key in ("disparity", "disparity_next"):
        formats.write_disparity_png(path, values[0], valid & (values[0] > 0))
    elif key == "flow":
        _require(path, np.abs(values).max(0), valid, 512, "flow of at most 511.98 px")
        formats.write_flow_png(path, values.transpose(1, 2, 0), valid)
    elif key == "depth":
        _require(path, values[0], valid, 65535.5 / _DEPTH_SCALE, "at most 255.99 m")
        formats.write_depth_png(path, np.where(valid, values[0], 0), _DEPTH_SCALE)
    else:
        formats.write_labels_png(path, values.argmax(0), valid)


def _require(path: Path, values: np.ndarray, valid: np.ndarray, limit: float, holds: str) -> None:
    """Refuse a label beyond what the format can tell: at its end it would teach a wrong value."""
    if values.max(where=valid, initial=0) >= limit:
        raise UserError(f"cannot write {path}: KITTI's PNG holds {holds}; --write shards, or a filter range")
