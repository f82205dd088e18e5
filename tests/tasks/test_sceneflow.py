"""Scene flow's files and pictures."""

import zipfile

import numpy as np
import pytest
import torch

import densedistill as dd
from densedistill.data import formats
from densedistill.data.calibration import Calibration
from densedistill.inference import sceneflow_submission
from densedistill.inference.sceneflow_submission import write_sceneflow_submission
from densedistill.tasks import get_task
from densedistill.tasks.files import Predicted
from densedistill.tasks.sceneflow import change_colours, motion_cloud

RIG = dd.create_dataset("world", length=1, size=[16, 24])[0]["meta"]["calibration"]


def test_a_point_that_does_not_move_has_no_motion_and_one_that_comes_nearer_moves_towards_us():
    assert isinstance(RIG, Calibration)
    disparity, still = np.full((8, 12), 4.0), np.zeros((2, 8, 12))
    points, motion = motion_cloud(disparity, disparity, still, RIG)
    assert points.shape == motion.shape == (96, 3)
    assert np.abs(motion).max() < 1e-6
    _, nearer = motion_cloud(disparity, disparity * 2, still, RIG)
    assert (nearer[:, 2] < 0).all()
    np.testing.assert_allclose(nearer[:, 2], -RIG.depth(disparity)[0, 0] / 2, rtol=1e-4)
    sideways = still.copy()
    sideways[0] = 3
    _, right = motion_cloud(disparity, disparity, sideways, RIG)
    np.testing.assert_allclose(right[:, 0], 3 * points[:, 2] / RIG.fx, rtol=1e-4)


@pytest.fixture
def predicted():
    maps = {
        "disparity": np.full((8, 12), 4.5, np.float32),
        "disparity_next": np.full((8, 12), 5.0, np.float32),
        "flow": np.full((2, 8, 12), -1.25, np.float32),
    }
    return Predicted(maps, np.zeros((8, 12, 3), np.uint8), RIG)


def test_every_writer_writes_and_kittis_files_come_back(predicted, tmp_path):
    for writer in get_task("sceneflow").writers.values():
        path = tmp_path / writer.file.format("000000_10")
        path.parent.mkdir(exist_ok=True)
        writer.write(path, predicted)
        assert path.stat().st_size > 50, writer.says
    assert (formats.read_disparity_png(tmp_path / "disp_0/000000_10.png") == 4.5).all()
    assert (formats.read_disparity_png(tmp_path / "disp_1/000000_10.png") == 5).all()
    flow, valid = formats.read_flow_png(tmp_path / "flow/000000_10.png")
    assert (flow == -1.25).all()
    assert valid.all()
    assert (formats.read_flo(tmp_path / "000000_10.flo") == -1.25).all()


def test_red_comes_nearer_and_blue_goes_away():
    change = np.array([[-2.0, 0.0, 2.0]])
    away, still, nearer = change_colours(change, high=2.0)[0].astype(int)
    assert nearer[0] > nearer[2]
    assert away[2] > away[0]
    assert still[1] > max(still[0], still[2])


class Constant:
    """Predicts the same for all."""

    name = "constant"
    task = get_task("sceneflow")

    def __call__(self, *images):
        shape = images[0].shape[-2:]
        return {
            "disparity": torch.full((1, 1, *shape), -1.0),
            "disparity_next": torch.full((1, 1, *shape), 3.0),
            "flow": torch.full((1, 2, *shape), 2.0),
        }


def test_a_submission_has_three_folders_and_every_pixel(tmp_path, monkeypatch):
    for folder in ("image_2", "image_3"):
        for number in (10, 11):
            path = tmp_path / "testing" / folder / f"000000_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            formats.write_image(path, np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(dd.UserError, match="has 1 test samples, KITTI's server wants all 200"):
        write_sceneflow_submission(Constant(), tmp_path, tmp_path / "out.zip")
    with pytest.raises(dd.UserError, match="needs a network of task sceneflow"):
        write_sceneflow_submission("sgbm", tmp_path, tmp_path / "out.zip")
    monkeypatch.setattr(sceneflow_submission, "FRAMES", 1)
    write_sceneflow_submission(Constant(), tmp_path, tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.namelist() == [f"{place}/000000_10.png" for place in ("disp_0", "disp_1", "flow")]
        archive.extractall(tmp_path / "out")
    assert (formats.read_disparity_png(tmp_path / "out/disp_0/000000_10.png") == 1 / 256).all()
    assert (formats.read_disparity_png(tmp_path / "out/disp_1/000000_10.png") == 3).all()
    assert (formats.read_flow_png(tmp_path / "out/flow/000000_10.png")[0] == 2).all()
