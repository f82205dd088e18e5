"""Readers on real data that may not ship: $DENSEDISTILL_DATA; collected only where that is set."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from densedistill.data import create_dataset, formats
from densedistill.data.occlusion import seen_in_both

DATA = Path(os.environ["DENSEDISTILL_DATA"])


def there(folder):
    """Return whether `folder` of the collection has content; a part of the collection is tested as it is."""
    return any(path.stat().st_size for path in (DATA / folder).rglob("*.p*"))


if there("stereo/flyingthings3d"):

    def test_flyingthings3d(warp_error):
        sample = create_dataset(
            "sceneflow",
            DATA / "stereo/flyingthings3d",
            want=("disparity", "disparity_right", "disparity_nonoccluded"),
        )[0]
        left, right = sample["disparity"][0].numpy(), sample["disparity_right"][0].numpy()
        assert left.shape == (540, 960)
        assert left.max() == pytest.approx(130.365, abs=1e-2)
        error = warp_error(sample)
        assert error < 6
        assert min(warp_error(sample, factor) for factor in (-1, 0, 0.9, 1.1)) > 1.5 * error
        # The set's own occlusion is what the left-right check says, but for pixels at the edges of things.
        agree = sample["disparity_nonoccluded"][0].numpy() == seen_in_both(left, right)
        assert agree.mean() > 0.98


if there("kitti2012"):

    def test_kitti_2012(warp_error):
        dataset = create_dataset("kitti2012", DATA / "kitti2012")
        sample = dataset[0]
        name = dataset.names[0]
        stored = formats.read_raster(DATA / "kitti2012" / "training" / "disp_occ" / f"{name}.png")
        np.testing.assert_array_equal(sample["disparity"][0].numpy(), stored / np.float32(256))
        assert sample["disparity_nonoccluded"].sum() < sample["disparity_valid"].sum()
        error = warp_error(sample)
        assert min(warp_error(sample, factor) for factor in (-1, 0, 0.9, 1.1)) > 1.3 * error
        calibration = sample["meta"]["calibration"]
        assert calibration.baseline_m == pytest.approx(0.54, abs=0.02)


if there("stereo/unlabelled_middlebury2014"):

    def test_unlabelled_middlebury():
        dataset = create_dataset("folder", DATA / "stereo/unlabelled_middlebury2014")
        assert len(dataset) == 11
        assert all(sample["left"].shape == sample["right"].shape for sample in dataset)
        assert "disparity" not in dataset[0]
        # A matcher that looks to the left finds far more in these views than in swapped ones.
        left, right = (
            dataset[dataset.names.index("Piano")][view].permute(1, 2, 0).numpy() for view in ("left", "right")
        )
        matcher = cv2.StereoSGBM.create(0, 64, 5, P1=600, P2=2400, uniquenessRatio=15)
        assert np.mean(matcher.compute(left, right) > 0) > 1.5 * np.mean(matcher.compute(right, left) > 0)


if there("flow/sintel"):

    def test_sintel_flow_moves_one_frame_on_to_the_next():
        training = DATA / "flow/sintel" / "training"
        flow = torch.from_numpy(formats.read_flo(training / "flow/alley_1/frame_0002.flo"))
        first, second = (
            torch.from_numpy(formats.read_image(training / f"clean/alley_1/frame_000{n}.png"))
            .permute(2, 0, 1)[None]
            .float()
            for n in (2, 3)
        )
        seen = formats.read_raster(training / "occlusions/alley_1/frame_0002.png") == 0
        height, width = flow.shape[:2]

        def error(sign):
            x = torch.arange(width) + sign * flow[..., 0]
            y = torch.arange(height)[:, None] + sign * flow[..., 1]
            grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
            warped = torch.nn.functional.grid_sample(second, grid[None], align_corners=True)
            return float((warped - first).abs().mean(dim=1)[0][torch.from_numpy(seen)].mean())

        assert error(1) < 3
        assert error(-1) > 2 * error(1)


if there("detection/bccd"):

    def test_bccd_is_complete_but_for_boxes_without_size():
        root = DATA / "detection/bccd"
        parts = [create_dataset("bccd", root=root, split=split) for split in ("trainval", "test")]
        assert [len(part) for part in parts] == [292, 72]
        assert sum(len(part[i]["boxes"]) for part in parts for i in range(len(part))) == 4886


if there("segmentation/camvid"):

    def test_camvid_has_eleven_classes_and_void():
        dataset = create_dataset("camvid", root=DATA / "segmentation/camvid", split="train")
        assert len(dataset) == 367
        assert set(dataset[0]["labels"].unique().tolist()) <= {*range(11), 255}
