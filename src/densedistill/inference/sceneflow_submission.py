"""What KITTI's server wants of scene flow: three folders of 16-bit PNG, checked, in one zip."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..data import formats
from ..data.datasets import create_dataset
from ..errors import UserError
from ..files import atomic_write
from .load import load_predictor

FOLDERS = {"disparity": "disp_0", "disparity_next": "disp_1", "flow": "flow"}
FRAMES = 200


def write_sceneflow_submission(
    network: Any,
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    split: str = "test",
    **options: Any,
) -> Path:
    """Predict KITTI 2015's test sequences and write the zip that its server takes; return its path.

    Every pixel is given: a disparity below 1/256 px, which the format would call unknown, is written as
    1/256. Values are rounded, not cut off as DWARF's own script does, which would be wrong by half a step.

    Args:
        network: as `load_predictor` takes it, of task sceneflow.
        root: of KITTI 2015 with `testing/`.
        out: the zip.
        split: `test`, or `val` to try the way on frames with ground truth; the server takes `test` alone.
        **options: of the data set.

    Raises:
        UserError: a network of another task, or a test set that is not whole.
    """
    predict: Any = load_predictor(network)
    name = getattr(getattr(predict, "task", None), "name", "stereo")
    if name != "sceneflow":
        raise UserError(
            f"a scene-flow submission needs a network of task sceneflow, this one is of task {name}"
        )
    samples = create_dataset("kitti2015_sceneflow", root=root, split=split, **options)
    if split == "test" and len(samples) != FRAMES:  # type: ignore[arg-type]
        raise UserError(f"{root} has {len(samples)} test samples, KITTI's server wants all {FRAMES}")  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        written = []
        for index in range(len(samples)):  # type: ignore[arg-type]
            sample = samples[index]
            found = predict(*(sample[key] for key in predict.task.inputs))
            for key, place in FOLDERS.items():
                path = Path(folder, place, f"{sample['meta']['name']}.png")
                path.parent.mkdir(exist_ok=True)
                values = np.nan_to_num(found[key][0].float().cpu().numpy())
                if key == "flow":
                    formats.write_flow_png(path, values.transpose(1, 2, 0))
                else:
                    formats.write_disparity_png(path, values[0].clip(0, 255.9))
                written.append(path)
        with atomic_write(out) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(written):
                archive.write(path, path.relative_to(folder).as_posix())
    return Path(out)
