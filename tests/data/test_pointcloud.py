import numpy as np

from densedistill.data.calibration import Calibration
from densedistill.data.pointcloud import points, points_of_depth


def test_a_point_lies_where_the_camera_sees_its_pixel():
    camera = Calibration(50, 80, 3.0, 1.5, 0.2, doffs=2.0)
    disparity = np.random.default_rng(0).uniform(2, 9, (5, 7)).astype(np.float32)
    disparity[0, :3] = (0.5, np.nan, np.inf)
    xyz, kept = points(disparity, camera)
    assert kept.sum() == len(xyz) == 32
    rows, columns = np.nonzero(kept)
    np.testing.assert_allclose(camera.fx * xyz[:, 0] / xyz[:, 2] + camera.cx, columns, atol=1e-4)
    np.testing.assert_allclose(camera.fy * xyz[:, 1] / xyz[:, 2] + camera.cy, rows, atol=1e-4)
    np.testing.assert_allclose(xyz[:, 2], 50 * 0.2 / (disparity[kept] + 2), rtol=1e-6)
    again, _ = points_of_depth(np.where(kept, camera.depth(disparity), 0), camera)
    np.testing.assert_array_equal(again, xyz)
