import cv2
import numpy as np
import pytest

from densedistill import UserError
from densedistill.data.calibration import Calibration, RawRig, read_calibration, rectify

MIDDLEBURY = """cam0=[994.978 0 311.193; 0 994.978 254.877; 0 0 1]
cam1=[994.978 0 342.279; 0 994.978 254.877; 0 0 1]
doffs=31.086
baseline=193.001
width=741
height=497
ndisp=70
isint=0
vmin=8
vmax=63
"""

KITTI_2012 = """P0: 721.5377 0 609.5593 0 0 721.5377 172.8540 0 0 0 1 0
P1: 721.5377 0 609.5593 -3.875744e+02 0 721.5377 172.8540 0 0 0 1 0
P2: 721.5377 0 609.5593 4.485728e+01 0 721.5377 172.8540 2.163791e-01 0 0 1 2.745884e-03
P3: 721.5377 0 609.5593 -3.395242e+02 0 721.5377 172.8540 2.199936e+00 0 0 1 2.729905e-03
"""

KITTI_2015 = """calib_time: 09-Jan-2012 13:57:47
corner_dist: 9.950000e-02
S_02: 1.392000e+03 5.120000e+02
S_rect_02: 1.242000e+03 3.750000e+02
P_rect_02: 721.5377 0 609.5593 4.485728e+01 0 721.5377 172.8540 2.163791e-01 0 0 1 2.745884e-03
P_rect_03: 721.5377 0 609.5593 -3.395242e+02 0 721.5377 172.8540 2.199936e+00 0 0 1 2.729905e-03
"""


def written(path, text):
    path.write_text(text)
    return path


def test_middlebury_and_eth3d(tmp_path):
    found = read_calibration(written(tmp_path / "calib.txt", MIDDLEBURY))
    assert found == Calibration(994.978, 994.978, 311.193, 254.877, 0.193001, 31.086, (497, 741))
    without = read_calibration(written(tmp_path / "calib.txt", MIDDLEBURY.replace("doffs=31.086\n", "")))
    assert without.doffs == pytest.approx(found.doffs)
    # The formula on the benchmark's page: Z = baseline f / (d + doffs), in millimetres there.
    assert found.depth(np.array([50.0]))[0] == pytest.approx(193.001 * 994.978 / (50 + 31.086) / 1000)


@pytest.mark.parametrize(("cameras", "baseline"), [(None, 0.5327), ((2, 3), 0.5327), ((0, 1), 0.5372)])
def test_kitti_2012(tmp_path, cameras, baseline):
    found = read_calibration(written(tmp_path / "000027.txt", KITTI_2012), cameras=cameras)
    assert (found.fx, found.cx, found.cy, found.doffs) == (721.5377, 609.5593, 172.854, 0)
    assert found.baseline_m == pytest.approx(baseline, abs=1e-4)


def test_kitti_2015(tmp_path):
    found = read_calibration(written(tmp_path / "000000.txt", KITTI_2015))
    assert found.size == (375, 1242)
    assert found.baseline_m == pytest.approx(0.5327, abs=1e-4)


def a_rig(unit=1.0):
    camera = np.array([[400.0, 0, 160], [0, 400, 120], [0, 0, 1]])
    rotation = cv2.Rodrigues(np.array([0.02, -0.03, 0.01]))[0]
    translation = np.array([-0.12, 0.003, 0.002]) * unit
    distortion = np.array([-0.2, 0.05, 0.001, -0.001, 0.0])
    return RawRig(camera, distortion, camera, distortion, rotation, translation)


def save(path, entries):
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for key, value in entries.items():
        storage.write(key, value)
    storage.release()


def test_a_single_camera_of_opencv_has_no_baseline(tmp_path):
    """As OpenCV's calibration program writes it; a pair cannot do with it."""
    camera = np.array([[400.0, 0, 160], [0, 410, 120], [0, 0, 1]])
    path = tmp_path / "camera.yml"
    save(path, {"image_width": 320, "image_height": 240, "camera_matrix": camera})
    assert read_calibration(path, single=True) == Calibration(400, 410, 160, 120, 0, 0, (240, 320))
    with pytest.raises(UserError, match="has neither P1 and P2, nor Q, nor both cameras' matrices"):
        read_calibration(path)


def rectified(rig, flags=cv2.CALIB_ZERO_DISPARITY):
    cameras = (rig.left, rig.left_distortion, rig.right, rig.right_distortion)
    translation = rig.translation.reshape(3, 1)
    options = {"flags": flags, "alpha": 0}
    outputs = cv2.stereoRectify(*cameras, (320, 240), rig.rotation, translation, **options)
    return dict(zip(("R1", "R2", "P1", "P2", "Q"), outputs, strict=False))


@pytest.mark.parametrize("suffix", ["yml", "xml", "json"])
@pytest.mark.parametrize("unit", [1.0, 1000.0], ids=["metres", "millimetres"])
def test_opencv_intrinsics_and_extrinsics(tmp_path, suffix, unit):
    rig = a_rig(unit)
    intrinsics, extrinsics = tmp_path / f"intrinsics.{suffix}", tmp_path / f"extrinsics.{suffix}"
    save(intrinsics, {"M1": rig.left, "D1": rig.left_distortion, "M2": rig.right, "D2": rig.right_distortion})
    save(extrinsics, {"R": rig.rotation, "T": rig.translation, **rectified(rig)})
    found = read_calibration(intrinsics, extrinsics)
    projection = rectified(rig)["P1"]
    assert (found.fx, found.cx) == (pytest.approx(projection[0, 0]), pytest.approx(projection[0, 2]))
    assert found.baseline_m == pytest.approx(np.linalg.norm(a_rig().translation), rel=1e-6)
    np.testing.assert_allclose(found.raw.translation, a_rig().translation, rtol=1e-6)


@pytest.mark.parametrize("flags", [cv2.CALIB_ZERO_DISPARITY, 0], ids=["one principal point", "two"])
def test_opencv_q_alone_says_the_same_as_the_projections(tmp_path, flags):
    outputs = rectified(a_rig(), flags)
    save(tmp_path / "q.yml", {"Q": outputs["Q"]})
    save(
        tmp_path / "p.yml",
        {"P1": outputs["P1"], "P2": outputs["P2"], "image_width": 320, "image_height": 240},
    )
    from_q, from_p = read_calibration(tmp_path / "q.yml"), read_calibration(tmp_path / "p.yml")
    assert from_p.size == (240, 320)
    assert from_p.doffs == outputs["P2"][0, 2] - outputs["P1"][0, 2]
    assert (abs(from_p.doffs) > 1) == (flags == 0)
    for key in ("fx", "fy", "cx", "cy", "baseline_m", "doffs"):
        assert getattr(from_q, key) == pytest.approx(getattr(from_p, key), abs=1e-9)


def test_opencvs_raw_cameras_alone_say_what_they_can(tmp_path):
    rig = a_rig()
    other = rig.right.copy()
    other[0, 2] += 7
    turned = cv2.Rodrigues(rig.rotation)[0]  # a rotation vector will do
    save(tmp_path / "raw.yml", {"K1": rig.left, "K2": other, "R": turned, "T": rig.translation})
    found = read_calibration(tmp_path / "raw.yml")
    assert (found.fx, found.cx, found.doffs) == (400, 160, 7)
    assert found.baseline_m == pytest.approx(np.linalg.norm(rig.translation))
    np.testing.assert_allclose(found.raw.rotation, rig.rotation, atol=1e-9)
    assert not found.raw.left_distortion.any()


@pytest.mark.parametrize(("stored", "metres"), [(2.0, 2.0), (10.0, 0.01)])
def test_lengths_of_opencv_from_five_on_are_millimetres(tmp_path, stored, metres):
    left = np.array([[400.0, 0, 160, 0], [0, 400, 120, 0], [0, 0, 1, 0]])
    right = left.copy()
    right[0, 3] = -400 * stored
    save(tmp_path / "p.yml", {"P1": left, "P2": right})
    assert read_calibration(tmp_path / "p.yml").baseline_m == pytest.approx(metres)


def test_depth_from_q_is_opencvs(tmp_path):
    q = rectified(a_rig())["Q"].copy()
    q[3, 3] = 0.3
    save(tmp_path / "q.yml", {"Q": q})
    disparity = np.full((3, 4), 17.5, np.float32)
    expected = cv2.reprojectImageTo3D(disparity, q)[..., 2]
    np.testing.assert_allclose(
        read_calibration(tmp_path / "q.yml").depth(disparity), np.abs(expected), rtol=1e-5
    )


def test_depth_is_zero_where_disparity_is_unknown():
    for doffs in (0, 4):
        calibration = Calibration(100, 100, 0, 0, 0.5, doffs)
        depth = calibration.depth(np.array([0.0, -1.0, np.inf, np.nan, 10.0 - doffs]))
        np.testing.assert_allclose(depth, [0, 0, 0, 0, 5])


def test_a_resized_calibration_gives_the_same_depth():
    whole = Calibration(1000, 1000, 499.5, 299.5, 0.2, 30.0, (600, 1000))
    half = whole.resized(400, 500)
    assert (half.fx, half.cx) == (500, 249.5)
    assert (half.fy, half.cy) == (pytest.approx(1000 * 2 / 3), 199.5)
    np.testing.assert_allclose(half.depth(np.array([20.0])), whole.depth(np.array([40.0])))


@pytest.mark.parametrize("point", [(-0.5, -0.4, 2.0), (0.4, -0.3, 3.0), (-0.3, 0.5, 4.0), (0.3, 0.3, 2.5)])
def test_a_rectified_point_lies_in_one_row_and_at_its_depth(point):
    rig = a_rig()
    views = []
    for camera, distortion, rotation, translation in (
        (rig.left, rig.left_distortion, np.eye(3), np.zeros(3)),
        (rig.right, rig.right_distortion, rig.rotation, rig.translation),
    ):
        pose = cv2.Rodrigues(rotation)[0], translation
        x, y = cv2.projectPoints(np.array([point]), *pose, camera, distortion)[0].ravel()
        image = np.zeros((240, 320, 3), np.uint8)
        cv2.circle(image, (round(x * 16), round(y * 16)), 3 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
        views.append(image)

    def centre(view):
        weight = view[..., 0] / view[..., 0].sum()
        return (weight * np.indices(weight.shape)).sum(axis=(1, 2))

    left, right, calibration = rectify(rig, *views)
    (y_left, x_left), (y_right, x_right) = centre(left), centre(right)
    assert abs(centre(views[0])[0] - centre(views[1])[0]) > 1
    assert y_left == pytest.approx(y_right, abs=0.3)
    assert calibration.depth(np.array([x_left - x_right]))[0] == pytest.approx(point[2], rel=0.05)


def test_views_of_different_size_are_not_rectified():
    with pytest.raises(UserError, match="differ in size"):
        rectify(a_rig(), np.zeros((240, 320, 3), np.uint8), np.zeros((240, 319, 3), np.uint8))


def test_cameras_above_each_other_are_refused():
    rig = a_rig()
    upright = RawRig(*(rig.left, rig.left_distortion) * 2, np.eye(3), np.array([0, -0.12, 0]))
    with pytest.raises(UserError, match="above each other"):
        rectify(upright, *[np.zeros((240, 320, 3), np.uint8)] * 2)


def test_cameras_the_other_way_round_are_refused():
    rig = a_rig()
    swapped = RawRig(*(rig.left, rig.left_distortion) * 2, np.eye(3), np.array([0.12, 0, 0]))
    with pytest.raises(UserError, match="right camera stands to the left"):
        rectify(swapped, *[np.zeros((240, 320, 3), np.uint8)] * 2)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "hello", "no calibration of KITTI .* Middlebury .* OpenCV"),
        ("a.txt", "", "is empty"),
        ("a.txt", "cam0=[1 0 0; 0 1 0; 0 0 1]\n", "no whole Middlebury calibration"),
        ("a.txt", "P2: 1 2 3\n", "no 3x4 projections of the cameras"),
        ("a.yml", "%YAML:1.0\n---\na: 1\n", "has neither P1 and P2, nor Q"),
        ("a.yml", "%YAML:1.0\n---\nM1: [", "FileStorage"),
        (
            "a.txt",
            "P0: 7 0 6 0 0 7 2 0 0 0 1 0\nP1: 7 0 6 3 0 7 2 0 0 0 1 0\n",
            "the baseline is -0.4.* stands to the left",
        ),
        (
            "a.json",
            '{"P1": {"type_id": "opencv-matrix", "rows": 3, "cols": 4, "dt": "d", "data": '
            "[7, 0, 6, 0, 0, 7, 2, 0, 0, 0, 1, 0]}, "
            '"P2": {"type_id": "opencv-matrix", "rows": 3, "cols": 4, "dt": "d", "data": '
            "[7, 0, 6, 0, 0, 7, 2, -3, 0, 0, 1, 0]}}",
            "the baseline is 0 m; the cameras of a pair stand side by side",
        ),
        (
            "a.txt",
            "P0: 0 0 6 0 0 0 2 0 0 0 1 0\nP1: 0 0 6 0 0 0 2 0 0 0 1 0\n",
            "focal length is above 0 px, got 0 and 0",
        ),
        ("a.json", '{"P1": [1, 2], "P2": [3, 4]}', "no whole calibration"),
        ("a.yml", "%YAML:1.0\n---\nQ: 3\n", "no whole calibration"),
        (
            "a.txt",
            "S_rect_02: 5\nP_rect_02: 7 0 6 0 0 7 2 0 0 0 1 0\nP_rect_03: 7 0 6 -3 0 7 2 0 0 0 1 0\n",
            "no whole calibration",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_no_calibration_of_a_pair_is_named_in_one_line(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message) as caught:
        read_calibration(written(tmp_path / name, text))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
