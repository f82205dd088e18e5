"""KITTI 2015 scene flow, its multi-view extension, and proxy labels in KITTI's encoding.

M. Menze and A. Geiger, Object scene flow for autonomous vehicles, CVPR 2015,
https://www.cvlibs.net/datasets/kitti/eval_scene_flow.php.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError, unknown
from .. import formats
from ..calibration import Calibration, read_calibration
from . import DATASETS
from ._base import Frame
from ._sequence import MASKS, SequenceFiles

ANNOTATED = 10  # the frame that has ground truth; it moves to the next
LAST_START = 19
# DWARF's division is by sequence: its ablation trains on the first 160 and is judged on the rest.
FIT_SEQUENCES = 160
LABELS = ("gt", "proxy", "mixed", "none")
_FRAME = re.compile(r"(\d{6})_(\d\d)")
_TRUTH = {"disparity": "disp_occ_0", "disparity_next": "disp_occ_1", "flow": "flow_occ"}
_NONOCCLUDED = {"nonoccluded": "disp_noc_0", "nonoccluded_next": "disp_noc_1", "nonoccluded_flow": "flow_noc"}
_PROXY = {"disparity": "disp_0", "disparity_next": "disp_1", "flow": "flow"}


class _KITTI(SequenceFiles):
    """What both have in common.

    Args:
        root: the folder that holds `training/` and `testing/`, or one of these.
        split: `train` is all that has ground truth, `fit` sequences 0 to 159 and `val` 160 to 199 (DWARF's
            ablation), `test` the test sequences.
        labels: `gt` is the ground truth of frame 10; `proxy` what a teacher said, from the folder `proxy`;
            `mixed` the ground truth where there is any, else the proxy (DWARF's Gt+Px); `none` images alone.
        proxy: folder of `disp_0`, `disp_1` and `flow` in KITTI's encoding, as `densedistill label --write
            files` writes them; relative to `root` unless it is there.
        **options: as every data set of files.
    """

    splits = ("train", "fit", "val", "test")
    partitions = ("fit", "val")
    required = ("left", "right", "left_next", "right_next", "disparity", "disparity_next", "flow")
    annotated_only: ClassVar[bool]

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        labels: str = "gt",
        proxy: str | os.PathLike[str] | None = None,
        **options: Any,
    ):
        if labels not in LABELS:
            raise unknown("labels", labels, LABELS, of=f"data set '{self.name}'")
        if (labels in ("proxy", "mixed")) != (proxy is not None):
            raise UserError(
                f"data set '{self.name}': labels 'proxy' and 'mixed' need the folder `proxy`, others none"
            )
        self.labels = labels
        self.proxy = None if proxy is None else Path(proxy).expanduser()
        if self.proxy is not None and not self.proxy.is_dir() and root is not None:
            self.proxy = Path(root).expanduser() / self.proxy
        if self.proxy is not None and not self.proxy.is_dir():
            raise UserError(f"data set '{self.name}': there is no folder {self.proxy} of proxy labels")
        super().__init__(root, split, **options)

    def list_frames(self) -> list[Frame]:
        folder = "testing" if self.split == "test" else "training"
        bases = self.index.bases(self.root, folder)
        inside = [base / folder for base in bases] or (
            [self.root] if (self.root / "image_2").is_dir() else []
        )
        return [frame for base in inside for frame in self._frames(base)]

    def _frames(self, base: Path) -> list[Frame]:
        views = {view: self.index.stems(base / view) for view in ("image_2", "image_3")}
        frames = []
        for stem in sorted(views["image_2"]):
            match = _FRAME.fullmatch(stem)
            if match is None or not self._starts(int(match[1]), int(match[2])):
                continue
            following = f"{match[1]}_{int(match[2]) + 1:02d}"
            files = {
                role: views[view].get(name, base / view / f"{name}.png")
                for role, view, name in (
                    ("left", "image_2", stem),
                    ("right", "image_3", stem),
                    ("left_next", "image_2", following),
                    ("right_next", "image_3", following),
                )
            }
            files |= self._truth(base, stem, int(match[2]))
            calibration = base / "calib_cam_to_cam" / f"{match[1]}.txt"
            if self.index.has(calibration):
                files["calibration"] = calibration
            frames.append(Frame(stem, files))
        return frames

    def _starts(self, sequence: int, number: int) -> bool:
        if self.split in ("fit", "val") and (sequence < FIT_SEQUENCES) != (self.split == "fit"):
            return False
        if self.annotated_only or self.labels == "gt":
            return number == ANNOTATED
        return number <= LAST_START

    def _truth(self, base: Path, stem: str, number: int) -> dict[str, Path]:
        if self.labels in ("gt", "mixed") and number == ANNOTATED and self.split != "test":
            files = {role: base / folder / f"{stem}.png" for role, folder in _TRUTH.items()}
            rest = {role: base / folder / f"{stem}.png" for role, folder in _NONOCCLUDED.items()}
            rest["objects"] = base / "obj_map" / f"{stem}.png"
            return files | {role: path for role, path in rest.items() if self.index.has(path)}
        if self.proxy is not None:
            return {role: self.proxy / folder / f"{stem}.png" for role, folder in _PROXY.items()}
        return {}

    def read_masks(self, frame: Frame) -> dict[str, NDArray[np.bool_]]:
        masks = {}
        for key, role in MASKS.items():
            if role in frame.files:
                path = frame.files[role]
                flow = key == "flow"
                masks[key] = formats.read_flow_png(path)[1] if flow else formats.read_disparity_png(path) > 0
        return masks

    def read_calibration(self, frame: Frame, size: tuple[int, ...]) -> Calibration | None:
        path = frame.files.get("calibration")
        return None if path is None else read_calibration(path, cameras=(2, 3))


@DATASETS.register("kitti2015_sceneflow")
class KITTISceneFlow(_KITTI):
    """KITTI 2015 scene flow: 200 training and 200 test samples, from frame 10 to 11."""

    name = "kitti2015_sceneflow"
    layout = (
        "training/{image_2,image_3,disp_occ_0,disp_occ_1,flow_occ,obj_map}/NNNNNN_10.png and "
        "image_*/NNNNNN_11.png"
    )
    counts: ClassVar[dict[str, int]] = {"train": 200, "fit": 160, "val": 40, "test": 200}
    annotated_only = True


@DATASETS.register("kitti2015_multiview")
class KITTIMultiView(_KITTI):
    """The multi-view extension: 20 starting frames a sequence, to be labelled or with proxy labels.

    DWARF's lists: `kitti_160` is split fit with labels gt, `kitti_multiview_partial` fit with proxy,
    `kitti_mixed` fit with mixed, `kitti_multiview` train with proxy, `kitti_200` train with gt.
    """

    name = "kitti2015_multiview"
    layout = "training/{image_2,image_3}/NNNNNN_00.png … NNNNNN_20.png"
    counts: ClassVar[dict[str, int]] = {"train": 4000, "fit": 3200, "val": 800, "test": 4000}
    annotated_only = False

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        labels: str | None = None,
        proxy: str | os.PathLike[str] | None = None,
        **options: Any,
    ):
        chosen = labels or ("none" if proxy is None else "proxy")
        super().__init__(root, split, labels=chosen, proxy=proxy, **options)
