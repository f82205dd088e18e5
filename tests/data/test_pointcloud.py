import numpy as np
import pytest

from densedistill.data.calibration import Calibration
from densedistill.data.pointcloud import points, points_of_depth, write_ply
from densedistill.errors import UserError


def test_a_point_lies_where_the_camera_sees_its_pixel():
    camera = Calibration(50, 80, 3.0, 1.5, 0.2, doffs=2.0)
    disparity = np.random.default_rng(0).uniform(2, 9, (5, 7)).astype(np.float32)
    disparity[0, :3] = (0, np.nan, np.inf)
    xyz, kept = points(disparity, camera)
    assert kept.sum() == len(xyz) == 32
    rows, columns = np.nonzero(kept)
    np.testing.assert_allclose(camera.fx * xyz[:, 0] / xyz[:, 2] + camera.cx, columns, atol=1e-4)
    np.testing.assert_allclose(camera.fy * xyz[:, 1] / xyz[:, 2] + camera.cy, rows, atol=1e-4)
    np.testing.assert_allclose(xyz[:, 2], 50 * 0.2 / (disparity[kept] + 2), rtol=1e-6)
    again, _ = points_of_depth(np.where(kept, camera.depth(disparity), 0), camera)
    np.testing.assert_array_equal(again, xyz)


def test_points_without_a_disparity_to_speak_of_are_left_out(tmp_path):
    disparity = np.array([[0.0, 0.5, 2.0, np.nan]], np.float32)
    for doffs, seen in ((1.0, [False, True, True, False]), (-1.5, [False] * 4)):
        assert points(disparity, Calibration(10, 10, 0, 0, 1.0, doffs))[1].tolist() == [seen]
    xyz, kept = points(disparity, Calibration(10, 10, 0, 0, 1.0))
    assert kept.tolist() == [[False, False, True, False]]
    np.testing.assert_allclose(xyz, [[1, 0, 5]])
    write_ply(tmp_path / "a.ply", xyz, np.array([[1, 2, 3]], np.uint8))
    _, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    np.testing.assert_allclose(np.frombuffer(body[:12], "<f4"), xyz[0])
    assert body[12:] == b"\x01\x02\x03"
    with pytest.raises(UserError, match=r"one shape \(N, 3\)"):
        write_ply(tmp_path / "b.ply", xyz, np.zeros((2, 3), np.uint8))
