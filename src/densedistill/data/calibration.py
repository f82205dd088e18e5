"""Calibration files of stereo rigs: KITTI, Middlebury and ETH3D, OpenCV."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import write_bytes
from .formats import PathLike, read_bytes

Matrix = NDArray[np.float64]
Image = np.ndarray

# The names under which OpenCV's samples, and tools made after them, store one and the same matrix.
_SIDES = ((1, "left"), (2, "right"))
_OPENCV_NAMES: dict[str, tuple[str, ...]] = {
    **{
        f"K{n}": (
            *(f"M{n}", f"K{n}", f"cameraMatrix{n}", f"camera_matrix_{n}"),
            *(f"camera_matrix_{side}", f"{side}_camera_matrix", f"K_{side}"),
        )
        for n, side in _SIDES
    },
    **{
        f"D{n}": (
            *(f"D{n}", f"distCoeffs{n}", f"dist_coeffs_{n}"),
            *(f"distortion_{side}", f"{side}_distortion", f"dist_coeffs_{side}", f"D_{side}"),
        )
        for n, side in _SIDES
    },
    **{f"P{n}": (f"P{n}", f"projection_matrix_{side}", f"P_{side}") for n, side in _SIDES},
    "K": ("camera_matrix", "cameraMatrix", "K"),
    "R": ("R", "rotation", "R_stereo"),
    "T": ("T", "translation", "T_stereo"),
    "Q": ("Q",),
    "width": ("image_width", "width", "imageWidth"),
    "height": ("image_height", "height", "imageHeight"),
}


@dataclass(frozen=True, eq=False)
class RawRig:
    """The two cameras before rectification, as OpenCV's `stereoCalibrate` gives them.

    Args:
        left, right: camera matrices, 3x3.
        left_distortion, right_distortion: 4, 5, 8, 12 or 14 coefficients.
        rotation, translation: from the left camera's frame to the right one's; metres.
    """

    left: Matrix
    left_distortion: Matrix
    right: Matrix
    right_distortion: Matrix
    rotation: Matrix
    translation: Matrix

    def resized(self, y: float, x: float) -> RawRig:
        """Return the cameras of images `y` times as high and `x` times as wide."""
        pixels = np.array([[x, 0, 0.5 * x - 0.5], [0, y, 0.5 * y - 0.5], [0, 0, 1]])
        return replace(self, left=pixels @ self.left, right=pixels @ self.right)


@dataclass(frozen=True)
class Calibration:
    """A rectified pair's geometry.

    Args:
        fx, fy, cx, cy: of the left image, px.
        baseline_m: distance of the cameras, metres.
        doffs: cx of the right image less cx of the left, px.
        size: (height, width) of the images it is for, where the file says it.
        raw: the cameras before rectification, where the file has them.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    baseline_m: float
    doffs: float = 0.0
    size: tuple[int, int] | None = None
    raw: RawRig | None = None

    def depth(self, disparity: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return depth in metres, fx B / (d + doffs), of disparity in px, any shape; 0 where it is 0."""
        shifted = np.asarray(disparity, np.float32) + np.float32(self.doffs)
        known = np.isfinite(shifted) & (shifted > 0) & (np.asarray(disparity) > 0)
        return np.where(known, np.float32(self.fx * self.baseline_m) / np.where(known, shifted, 1), 0).astype(
            np.float32
        )

    def cropped(self, top: int, left: int, height: int, width: int) -> Calibration:
        """Return the calibration of the part of the images that begins at (`top`, `left`), px."""
        return replace(self, cx=self.cx - left, cy=self.cy - top, size=(height, width), raw=None)

    def resized(self, height: int, width: int) -> Calibration:
        """Return the calibration of the images resized from `size` to `height` x `width`."""
        if self.size is None:
            raise UserError("a calibration without an image size cannot be resized")
        y, x = height / self.size[0], width / self.size[1]
        return replace(
            self,
            fx=self.fx * x,
            fy=self.fy * y,
            cx=(self.cx + 0.5) * x - 0.5,
            cy=(self.cy + 0.5) * y - 0.5,
            doffs=self.doffs * x,
            size=(height, width),
            raw=self.raw and self.raw.resized(y, x),
        )


def read_calibration(
    path: PathLike, *more: PathLike, cameras: tuple[int, int] | None = None, single: bool = False
) -> Calibration:
    """Return the calibration in `path`, whichever of the known formats it has.

    Args:
        path: KITTI's `calib/NNNNNN.txt` or `calib_cam_to_cam/NNNNNN.txt`, Middlebury's or ETH3D's
            `calib.txt`, or a YAML, XML or JSON file of OpenCV.
        *more: further files of OpenCV, for its calibration program writes `intrinsics.yml` and
            `extrinsics.yml`.
        cameras: KITTI's numbers of the left and right camera; default (2, 3), the colour pair, where there is
            one.
        single: a single camera will do, OpenCV's `camera_matrix`; the baseline is 0 then.

    Raises:
        UserError: missing, of no known format, without what a pair needs, or of a right camera that stands to
            the left.
    """
    try:
        found = _read(path, more, cameras, single)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, cv2.error) as error:
        reason = " ".join(str(error).split())[:120]
        what = "calibration" if single else "calibration of a pair"
        raise UserError(f"{path} is no whole {what}: {reason}") from None
    if not 0 < min(found.fx, found.fy) < np.inf:
        raise UserError(f"{path}: a focal length is above 0 px, got {found.fx:g} and {found.fy:g}")
    if found.baseline_m == 0 and not single:
        raise UserError(f"{path}: the baseline is 0 m; the cameras of a pair stand side by side")
    if not 0 <= found.baseline_m < np.inf:
        raise UserError(
            f"{path}: the baseline is {found.baseline_m:g} m, the right camera stands to the left"
        )
    return found


def _read(
    path: PathLike, more: tuple[PathLike, ...], cameras: tuple[int, int] | None, single: bool
) -> Calibration:
    text = read_bytes(path).decode(errors="replace")
    if Path(path).suffix.lower() in (".yml", ".yaml", ".xml", ".json") or text.startswith(("%YAML", "<?xml")):
        return _opencv(path, *more, single=single)
    if re.search(r"^cam0\s*=", text, re.M):
        return _middlebury(path, text)
    if re.search(r"^P(_rect_)?0?[0-3]:", text, re.M):
        return _kitti(path, text, cameras)
    raise UserError(f"{path} is no calibration of KITTI (P0: …), Middlebury (cam0=[…]) or OpenCV (YAML, XML)")


def write_calibration(path: PathLike, calibration: Calibration) -> None:
    """Write a rectified pair's geometry as Middlebury's `calib.txt`.

    Raises:
        UserError: another calibration is there.
    """
    left, right = calibration.cx, calibration.cx + calibration.doffs
    fx, fy, cy = calibration.fx, calibration.fy, calibration.cy
    lines = [f"cam{n}=[{fx} 0 {cx}; 0 {fy} {cy}; 0 0 1]" for n, cx in enumerate((left, right))]
    lines += [f"doffs={calibration.doffs}", f"baseline={1000 * calibration.baseline_m}"]
    if calibration.size is not None:
        lines += [f"width={calibration.size[1]}", f"height={calibration.size[0]}"]
    text = "".join(f"{line}\n" for line in lines)
    if Path(path).is_file() and read_bytes(path) != text.encode():
        raise UserError(f"{path} is another calibration; name another folder for the outputs")
    write_bytes(path, text.encode())


def _middlebury(path: PathLike, text: str) -> Calibration:
    entries = dict(re.findall(r"^(\w+)\s*=\s*(.+?)\s*$", text, re.M))
    try:
        left = np.array(re.findall(r"[-+.\deE]+", entries["cam0"]), float).reshape(3, 3)
        right = np.array(re.findall(r"[-+.\deE]+", entries["cam1"]), float).reshape(3, 3)
        baseline = float(entries["baseline"]) / 1000  # the file says millimetres
        doffs = float(entries.get("doffs", right[0, 2] - left[0, 2]))
        size = (int(entries["height"]), int(entries["width"])) if "height" in entries else None
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path} is no whole Middlebury calibration (cam0, cam1, baseline): {error}"
        ) from None
    return _calibration(left, baseline, doffs, size)


def _kitti(path: PathLike, text: str, cameras: tuple[int, int] | None) -> Calibration:
    entries = {key: value.split() for key, value in re.findall(r"^(\w+):[ \t]*(.*)$", text, re.M)}
    projections = {}
    for camera in range(4):
        values = entries.get(f"P_rect_0{camera}", entries.get(f"P{camera}", []))
        try:
            projections[camera] = np.array(values, float).reshape(3, 4)
        except ValueError:
            continue
    pair = cameras or ((2, 3) if {2, 3} <= projections.keys() else (0, 1))
    if not set(pair) <= projections.keys():
        raise UserError(
            f"{path} has no 3x4 projections of the cameras {pair[0]} and {pair[1]} (P{pair[0]}: …)"
        )
    left, right = projections[pair[0]], projections[pair[1]]
    baseline = left[0, 3] / left[0, 0] - right[0, 3] / right[0, 0]
    width_height = entries.get(f"S_rect_0{pair[0]}")
    size = (int(float(width_height[1])), int(float(width_height[0]))) if width_height else None
    return _calibration(left, baseline, right[0, 2] - left[0, 2], size)


def _opencv(*paths: PathLike, single: bool) -> Calibration:
    found: dict[str, Any] = {}
    for path in paths:
        found |= _opencv_entries(path)
    where = " and ".join(map(str, paths))
    size = (int(found["height"]), int(found["width"])) if {"height", "width"} <= found.keys() else None
    raw = None
    if {"K1", "K2", "R", "T"} <= found.keys():
        raw = RawRig(
            found["K1"],
            found.get("D1", np.zeros(5)).reshape(-1),
            found["K2"],
            found.get("D2", np.zeros(5)).reshape(-1),
            found["R"] if found["R"].shape == (3, 3) else cv2.Rodrigues(found["R"])[0],
            found["T"].reshape(3) * _unit(float(np.linalg.norm(found["T"]))),
        )
    if {"P1", "P2"} <= found.keys():
        left, right = found["P1"], found["P2"]
        baseline = abs(right[0, 3] / right[0, 0])
        matrix, doffs = left, right[0, 2] - left[0, 2]
    elif "Q" in found:
        q = found["Q"]
        matrix = np.array([[q[2, 3], 0, -q[0, 3]], [0, q[2, 3], -q[1, 3]], [0, 0, 1]])
        baseline, doffs = abs(1 / q[3, 2]), q[3, 3] / q[3, 2]
    elif raw is not None:
        matrix, baseline = raw.left, float(np.linalg.norm(raw.translation))
        doffs = raw.right[0, 2] - raw.left[0, 2]
    elif single and "K" in found:
        matrix, baseline, doffs = found["K"], 0.0, 0.0
    else:
        own = "camera_matrix, " if single else ""
        raise UserError(f"{where} has neither {own}P1 and P2, nor Q, nor both cameras' matrices with R and T")
    baseline *= _unit(float(baseline))
    return _calibration(matrix, baseline, doffs, size, raw)


def _calibration(
    matrix: Matrix,
    baseline: float,
    doffs: float,
    size: tuple[int, int] | None = None,
    raw: RawRig | None = None,
) -> Calibration:
    fx, fy, cx, cy = (float(matrix[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return Calibration(fx, fy, cx, cy, float(baseline), float(doffs), size, raw)


def _unit(length: float) -> float:
    """Return metres per unit: OpenCV leaves it open, and no rig is five metres wide, nor five millimetres."""
    return 1.0 if length < 5 else 0.001


def _opencv_entries(path: PathLike) -> dict[str, Any]:
    read_bytes(path)
    try:
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
    except (cv2.error, SystemError):
        storage = None
    if storage is None or not storage.isOpened():
        raise UserError(f"{path} is no file that OpenCV's FileStorage can read")
    found: dict[str, Any] = {}
    for key, names in _OPENCV_NAMES.items():
        for name in names:
            node = storage.getNode(name)
            if node.empty():
                continue
            value = node.real() if node.isReal() or node.isInt() else node.mat()
            if value is not None:
                found[key] = value
                break
    storage.release()
    return found


def rectify(rig: RawRig, left: Image, right: Image) -> tuple[Image, Image, Calibration]:
    """Return a raw pair rectified, with its calibration; (H, W, 3) in and out, black where nothing was seen.

    Raises:
        UserError: the views differ in size, or the cameras stand above each other.
    """
    if left.shape != right.shape:
        raise UserError(f"the views differ in size: {left.shape[1::-1]} and {right.shape[1::-1]} px")
    size = (left.shape[1], left.shape[0])
    cameras = (rig.left, rig.left_distortion, rig.right, rig.right_distortion)
    r1, r2, p1, p2, *_ = cv2.stereoRectify(
        *cameras, size, rig.rotation, rig.translation.reshape(3, 1), flags=cv2.CALIB_ZERO_DISPARITY, alpha=0
    )
    if p2[0, 3] > abs(p2[1, 3]):
        raise UserError(
            "the calibration's right camera stands to the left; give the views the other way round"
        )
    if abs(p2[0, 3]) < abs(p2[1, 3]):
        raise UserError(
            "the calibration's cameras stand above each other; stereo networks need them side by side"
        )
    views = []
    for image, camera, distortion, rotation, projection in (
        (left, rig.left, rig.left_distortion, r1, p1),
        (right, rig.right, rig.right_distortion, r2, p2),
    ):
        maps = cv2.initUndistortRectifyMap(camera, distortion, rotation, projection, size, cv2.CV_16SC2)
        views.append(cv2.remap(image, maps[0], maps[1], cv2.INTER_LINEAR))
    baseline, doffs = -p2[0, 3] / p2[0, 0], p2[0, 2] - p1[0, 2]
    return views[0], views[1], _calibration(np.asarray(p1, float), baseline, doffs, size[::-1])
