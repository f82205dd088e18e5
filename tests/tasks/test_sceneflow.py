"""Scene flow's files and pictures."""

from dataclasses import replace

import numpy as np
import pytest

import densedistill as dd
from densedistill.data import formats
from densedistill.data.calibration import Calibration
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
    for axis, focal in enumerate((RIG.fx, RIG.fy)):
        moved = still.copy()
        moved[axis] = 3
        _, along = motion_cloud(disparity, disparity, moved, RIG)
        np.testing.assert_allclose(along[:, axis], 3 * points[:, 2] / focal, rtol=1e-4)
        np.testing.assert_allclose(along[:, 1 - axis], 0, atol=1e-6)


def test_what_lies_behind_the_camera_or_moves_nobody_knows_where_is_no_point():
    disparity, flow = np.full((1, 6), 4.0), np.zeros((2, 1, 6))
    disparity[0, 5] = 3.5  # of a right image whose centre lies 3 px to the left: all but infinitely far
    disparity[0, 1] = 2.0  # and behind the camera
    flow[1, 0, 3] = np.nan
    points, motion = motion_cloud(disparity, disparity[:, ::-1], flow, replace(RIG, doffs=-3.0))
    assert points.shape == motion.shape == (1, 3)
    assert points[0, 2] > 0


def test_what_comes_straight_at_the_camera_has_a_hue(predicted, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("densedistill.tasks.sceneflow.write_ply", lambda path, *cloud: drawn.append(cloud))
    maps = predicted.outputs | {"flow": np.zeros((2, 8, 12))}
    camera = Calibration(10.0, 10.0, 5.0, 4.0, baseline_m=1.0)
    get_task("sceneflow").writers["motion"].write(
        tmp_path / "a.ply", Predicted(maps, predicted.image, camera)
    )
    ((points, colours),) = drawn
    (ahead,) = colours[(points[:, :2] == 0).all(1)]
    assert ahead.min() < 100


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
    change = formats.read_image(tmp_path / "000000_10.change.png").astype(int)
    assert (change[..., 0] > change[..., 2]).all(), "red comes nearer"
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
