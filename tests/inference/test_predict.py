"""`predict`: files in, files out, resumable, with metric depth where a calibration is known."""

import argparse
import re

import cv2
import numpy as np
import pytest
from PIL import Image

import densedistill as dd
from densedistill.cli import predict as verb
from densedistill.data import formats
from densedistill.errors import UserError
from densedistill.inference import SGBM
from densedistill.inference.inputs import views_of_frame
from densedistill.inference.predict import predict
from densedistill.tasks import get_task, list_tasks

MIDDLEBURY = (
    "cam0=[100 0 60; 0 100 24; 0 0 1]\ncam1=[100 0 62; 0 100 24; 0 0 1]\n"
    "doffs=2\nbaseline=500\nwidth=120\nheight=48\n"
)
KITTI = "".join(
    f"P{camera}: 100 0 60 {shift} 0 100 24 0 0 0 1 0\n" for camera, shift in enumerate((0, -50, 5, -60))
)


@pytest.fixture
def folder(tmp_path, plane):
    """Two pairs in left/ and right/."""
    for number in range(2):
        left, right = plane(seed=number)
        for side, view in (("left", left), ("right", right)):
            path = tmp_path / "pairs" / side / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            formats.write_image(path, view)
    return tmp_path / "pairs"


def read_ply(path):
    """Points and colours of a binary PLY, read by what its own header says."""
    header, _, body = path.read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    kinds = {"float": "<f4", "uchar": "u1"}
    fields = [(line.split()[2], kinds[line.split()[1]]) for line in lines if line.startswith("property")]
    vertices = np.frombuffer(body, fields)
    count = next(int(line.split()[2]) for line in lines if line.startswith("element vertex"))
    assert len(vertices) == count
    xyz = np.stack([vertices[axis] for axis in "xyz"], 1)
    return xyz, np.stack([vertices[name] for name in ("red", "green", "blue")], 1)


def test_every_kind_of_file_holds_the_disparity(folder, tmp_path, constant):
    out = tmp_path / "out"
    result = predict(constant(8.25), folder, out, write=["png", "pfm", "npy", "color"])
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in result.written)
    for number in "01":
        maps = [
            formats.read_disparity_png(out / f"{number}.png"),
            formats.read_pfm(out / f"{number}.pfm"),
            np.load(out / f"{number}.npy"),
        ]
        for disparity in maps:
            assert disparity.shape == (48, 120)
            assert (disparity == 8.25).all()
        assert cv2.imread(str(out / f"{number}.color.png")).shape == (48, 120, 3)
        stored = cv2.imread(str(out / f"{number}.png"), cv2.IMREAD_UNCHANGED)
        assert stored.dtype == np.uint16
        assert (stored == 8.25 * 256).all()


def test_what_is_there_is_not_predicted_again(folder, tmp_path, constant):
    net = constant()
    predict(net, folder, tmp_path / "out", write=["npy"])
    assert net.calls == 2
    (tmp_path / "out" / "1.npy").unlink()
    result = predict(net, folder, tmp_path / "out", write=["npy"])
    assert net.calls == 3
    assert result.skipped == 1
    assert [path.name for path in result.written] == ["1.npy"]
    predict(net, folder, tmp_path / "out", write=["npy", "pfm"])
    assert net.calls == 5
    predict(net, folder, tmp_path / "out", write=["npy"], overwrite=True)
    assert net.calls == 7


def test_an_interrupted_run_leaves_whole_files_and_goes_on(folder, tmp_path, constant):
    class Interrupted(constant):
        def __call__(self, left, right):
            if self.calls == 1:
                raise KeyboardInterrupt
            return super().__call__(left, right)

    with pytest.raises(KeyboardInterrupt):
        predict(Interrupted(), folder, tmp_path / "out", write=["npy"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0.npy"]
    assert predict(constant(), folder, tmp_path / "out", write=["npy"]).skipped == 1


def test_grey_deep_and_alpha_images_are_read(tmp_path, plane, constant):
    left, right = plane()
    grey = [view[..., 0] for view in (left, right)]
    kinds = {
        "grey": grey,
        "deep": [view.astype(np.uint16) * 257 for view in grey],
        "alpha": [np.dstack([view, np.full(view.shape[:2], 90, np.uint8)]) for view in (left, right)],
    }
    for kind, views in kinds.items():
        paths = [tmp_path / f"{kind}_{side}.png" for side in ("l", "r")]
        for path, view in zip(paths, views, strict=True):
            assert cv2.imwrite(str(path), view)
        predict(SGBM(16), [paths], tmp_path / "out", write=["npy"])
        disparity = np.load(tmp_path / "out" / f"{kind}_l.npy")
        assert np.abs(disparity - 8).mean() < 0.2, kind


def test_depth_and_points_by_a_middlebury_calibration(folder, tmp_path, constant):
    (tmp_path / "calib.txt").write_text(MIDDLEBURY)
    out = tmp_path / "out"
    predict(constant(8), folder, out, write=["depth", "ply"], calibration=tmp_path / "calib.txt")
    depth = np.load(out / "0.depth.npy")
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, 100 * 0.5 / (8 + 2))
    xyz, rgb = read_ply(out / "0.ply")
    assert len(xyz) == 48 * 120
    corner = np.array([(0 - 60) / 100, (0 - 24) / 100, 1]) * 5
    np.testing.assert_allclose(xyz[0], corner, rtol=1e-6)
    np.testing.assert_array_equal(rgb, formats.read_image(folder / "left" / "0.png").reshape(-1, 3))


@pytest.mark.parametrize("folder", ["calib", "calib_cam_to_cam"])
def test_kittis_calibration_is_found_beside_the_images(folder, tmp_path, plane, constant):
    left, right = plane()
    for side, view in (("image_0", left), ("image_1", right), ("image_2", left), ("image_3", right)):
        (tmp_path / side).mkdir()
        formats.write_image(tmp_path / side / "000007_10.png", view)
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "000007.txt").write_text(KITTI)
    depths = {}
    for left_side, right_side in (("image_0", "image_1"), ("image_2", "image_3")):
        pair = [(tmp_path / left_side / "000007_10.png", tmp_path / right_side / "000007_10.png")]
        predict(constant(8), pair, tmp_path / left_side / "out", write=["depth"])
        depths[left_side] = np.load(tmp_path / left_side / "out" / "000007_10.depth.npy")[0, 0]
    assert depths == pytest.approx({"image_0": 100 * 0.5 / 8, "image_2": 100 * 0.65 / 8})


def test_a_calibration_of_another_size_is_scaled_and_that_is_said(folder, tmp_path, constant):
    text = MIDDLEBURY.replace("width=120", "width=240").replace("height=48", "height=96")
    (tmp_path / "calib.txt").write_text(text)
    said = []
    predict(
        constant(8),
        folder,
        tmp_path / "out",
        write=["depth"],
        calibration=tmp_path / "calib.txt",
        on_warning=said.append,
    )
    assert said == ["the calibration is for 240x96 px and scaled to 120x48"]
    np.testing.assert_allclose(np.load(tmp_path / "out" / "0.depth.npy"), 50 * 0.5 / (8 + 1))
    (tmp_path / "calib.txt").write_text(MIDDLEBURY.replace("width=120", "width=100"))
    with pytest.raises(
        UserError, match=r"calibration is for 100x48 px, .*0\.png is 120x48, of another shape"
    ):
        predict(constant(), folder, tmp_path / "else", write=["depth"], calibration=tmp_path / "calib.txt")


def write_raw_rig(folder, size=(240, 320), depth=2.0):
    """A textured wall at `depth` metres, seen by two cameras of which the right one is turned."""
    height, width = size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    left = cv2.GaussianBlur(noise, (0, 0), 1.2)
    camera = np.array([[300.0, 0, width / 2], [0, 300, height / 2], [0, 0, 1]])
    rotation = cv2.Rodrigues(np.array([0.02, -0.01, 0.03]))[0]
    translation = np.array([[-0.12], [0.004], [0.002]])
    wall = camera @ (rotation + translation @ np.array([[0, 0, 1 / depth]])) @ np.linalg.inv(camera)
    right = cv2.warpPerspective(left, wall, (width, height), flags=cv2.INTER_LINEAR)
    formats.write_image(folder / "l.png", left)
    formats.write_image(folder / "r.png", right)
    storage = cv2.FileStorage(str(folder / "stereo.yml"), cv2.FILE_STORAGE_WRITE)
    entries = {
        "K1": camera,
        "D1": np.zeros(5),
        "K2": camera,
        "D2": np.zeros(5),
        "R": rotation,
        "T": translation,
    }
    for name, value in entries.items():
        storage.write(name, value)
    storage.write("image_width", width)
    storage.write("image_height", height)
    storage.release()


def test_a_raw_pair_is_rectified_before(tmp_path):
    write_raw_rig(tmp_path)
    pair = [(tmp_path / "l.png", tmp_path / "r.png")]
    out = tmp_path / "out"
    result = predict(SGBM(48), pair, out, write=["depth"], rectify_by=tmp_path / "stereo.yml")
    assert result.written == [out / "left" / "l.png", out / "right" / "l.png", out / "l.depth.npy"]
    assert result.warnings == []
    depth = np.load(out / "l.depth.npy")
    assert depth[60:-60, 80:-80].mean() == pytest.approx(2.0, rel=0.02)
    left, right = (formats.read_image(out / side / "l.png").astype(int) for side in ("left", "right"))
    shift = round(300 * 0.12 / 2.0)
    unlike = {
        row: np.abs(left[60:-60, 80:-80] - right[60 + row : row - 60, 80 - shift : -80 - shift]).mean()
        for row in range(-3, 4)
    }
    assert min(unlike, key=unlike.get) == 0


def test_a_raw_pair_of_another_size_than_its_calibrations_is_rectified_by_the_scaled_one(tmp_path):
    write_raw_rig(tmp_path, size=(480, 640))
    pair = [(tmp_path / "l.png", tmp_path / "r.png")]
    for path in pair[0]:
        half = cv2.resize(formats.read_image(path), (320, 240), interpolation=cv2.INTER_AREA)
        formats.write_image(path, half)
    rig = tmp_path / "stereo.yml"
    said = []
    predict(SGBM(48), pair, tmp_path / "out", write=["depth"], rectify_by=rig, on_warning=said.append)
    assert said == ["the calibration is for 640x480 px and scaled to 320x240"]
    depth = np.load(tmp_path / "out" / "l.depth.npy")
    assert np.median(depth[60:-60, 80:-80]) == pytest.approx(2.0, rel=0.02)
    rig.write_text(rig.read_text().replace("image_height: 480", "image_height: 360"))
    with pytest.raises(UserError, match=r"calibration is for 640x360 px, .*l\.png is 320x240, of another"):
        predict(SGBM(48), pair, tmp_path / "else", write=["depth"], rectify_by=rig)


def test_what_was_rectified_is_a_folder_to_go_on_with(tmp_path):
    write_raw_rig(tmp_path)
    pair = [(tmp_path / "l.png", tmp_path / "r.png")]
    out, rectify_by = tmp_path / "out", tmp_path / "stereo.yml"
    predict(SGBM(48), pair, out, write=["depth"], rectify_by=rectify_by)
    (sample,) = dd.create_dataset("folder", root=out)
    assert sample["meta"]["calibration"].baseline_m == pytest.approx(0.12, rel=0.01)
    predict(SGBM(48), out, tmp_path / "again", write=["depth"])
    np.testing.assert_allclose(
        np.load(tmp_path / "again" / "l.depth.npy"), np.load(out / "l.depth.npy"), rtol=1e-5
    )
    with pytest.raises(UserError, match=r"left/l\.png is an image to predict for"):
        predict(SGBM(48), out, out, write=["npy"], rectify_by=rectify_by)
    (out / "calib.txt").write_text(MIDDLEBURY)
    with pytest.raises(UserError, match=r"calib\.txt is another calibration; name another folder"):
        predict(SGBM(48), pair, out, write=["npy"], rectify_by=rectify_by)


@pytest.mark.parametrize("file", ["calib.txt", "left/calib.txt"])
def test_a_calibration_in_the_folder_of_the_views_is_found(file, folder, tmp_path, constant):
    (folder / file).write_text(MIDDLEBURY)
    predict(constant(8), folder, tmp_path / "out", write=["depth"])
    np.testing.assert_allclose(np.load(tmp_path / "out" / "0.depth.npy"), 100 * 0.5 / (8 + 2))


def test_rectifying_takes_both_cameras(folder, tmp_path, constant):
    (tmp_path / "calib.txt").write_text(MIDDLEBURY)
    with pytest.raises(UserError, match="takes a calibration with both cameras, K1, D1, K2, D2, R and T"):
        predict(constant(), folder, tmp_path / "out", rectify_by=tmp_path / "calib.txt")


def test_swapped_views_are_said_and_left_as_they_are(tmp_path):
    sample = dd.create_dataset("middlebury2003")[0]
    for side in ("left", "right"):
        formats.write_image(tmp_path / f"{side}.png", sample[side].permute(1, 2, 0).numpy())
    seen = []

    def net(left, right):
        seen.append(left)
        return {"disparity": sample["disparity"][None]}

    paths = [tmp_path / "left.png", tmp_path / "right.png"]
    with pytest.warns(
        UserWarning,
        match=r"left and right look swapped \('right', its left view from .*right.png",
    ):
        result = predict(net, [paths[::-1]], tmp_path / "out", write=["npy"])
    assert len(result.warnings) == 1
    np.testing.assert_array_equal(seen[0], sample["right"].permute(1, 2, 0).numpy())
    assert predict(net, [paths], tmp_path / "out2", write=["npy"]).warnings == []


def test_a_video_of_pairs_has_both_views_side_by_side(tmp_path, constant):
    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (96, 48))
    frame = np.full((48, 96, 3), 200, np.uint8)
    frame[:, :48] = (30, 60, 90)  # BGR
    for _ in range(2):
        writer.write(frame)
    writer.release()
    seen = []

    def net(left, right):
        seen.append((left, right))
        return constant()(left, right)

    predict(net, path, tmp_path / "out", write=["npy"])
    written = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert written == ["drive_000000.npy", "drive_000001.npy"]
    (left, right), _ = seen
    assert left.shape == right.shape == (48, 48, 3)
    assert np.abs(left[:, :40].astype(int) - (90, 60, 30)).max() < 8
    assert np.abs(right[:, 8:].astype(int) - 200).max() < 8
    with pytest.raises(dd.UserError, match="rig: frames 91 px wide are no two views side by side"):
        views_of_frame(np.zeros((4, 91, 3), np.uint8), dd.tasks.get_task("stereo"), "rig")


def test_the_views_are_doubted_for_the_first_pairs_alone(tmp_path, plane, constant, monkeypatch):
    looked = []
    monkeypatch.setattr("densedistill.inference.predict.doubt_views", lambda *views: looked.append(views))
    monkeypatch.setattr("densedistill.inference.predict.DOUBTED", 2)
    for number in range(3):
        for side, view in zip(("left", "right"), plane(seed=number), strict=True):
            formats.write_image(tmp_path / "pairs" / side / f"{number}.png", view)
    predict(constant(), tmp_path / "pairs", tmp_path / "out", write=["npy"])
    assert len(looked) == 2


def test_views_of_a_rig_are_taken_as_they_are_stored(tmp_path, plane, constant):
    for side, view in zip(("l", "r"), plane(), strict=True):
        image = Image.fromarray(view)
        exif = image.getexif()
        exif[0x0112] = 6  # to be shown turned
        image.save(tmp_path / f"{side}.jpg", exif=exif)
    found = predict(constant(), [(tmp_path / "l.jpg", tmp_path / "r.jpg")], tmp_path / "out", write=["npy"])
    assert np.load(found.written[0]).shape == (48, 120)


def test_views_of_different_size_are_named(tmp_path, constant):
    for name, size in (("l", (10, 20)), ("r", (10, 22))):
        formats.write_image(tmp_path / f"{name}.png", np.zeros((*size, 3), np.uint8))
    with pytest.raises(UserError, match=r"l\.png is 20x10 px, .*r\.png 22x10; a rectified pair has one size"):
        predict(constant(), [(tmp_path / "l.png", tmp_path / "r.png")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_that_a_file_of_one_size_does_not_take_are_named_before_anything_is_predicted(tmp_path):
    file, images = tmp_path / "net.pt2", tmp_path / "images"
    dd.export(dd.create_model("depth_slim"), file, (64, 96), limit=1.0)
    for name, shape in (("a", (64, 96)), ("b", (64, 90)), ("c", (64, 96)), ("d", (96, 64))):
        formats.write_image(images / f"{name}.png", np.zeros((*shape, 3), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (64, 96)).save(images / "upright.jpg", exif=turned)
    with pytest.raises(UserError, match=r"of 64x96 .*, \S+b\.png is 64x90, \S+d\.png is 96x64; leave"):
        predict(file, images, tmp_path / "out", write=["npy"])
    assert not (tmp_path / "out").exists()
    fitting = [images / name for name in ("a.png", "c.png", "upright.jpg")]
    assert len(predict(file, fitting, tmp_path / "out", write=["npy"]).written) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"write": ["pmf"]}, "no kind of output 'pmf'; did you mean 'pfm'"),
        ({"write": ["png", "npy"], "colour_max": 9.0}, "png, npy of stereo: no colours that end at a value"),
        ({"write": ["ply"]}, "depth and ply need a calibration; there is none beside"),
        ({"write": ["ply"], "calibration": "/nowhere/calib.txt"}, "cannot read /nowhere/calib.txt"),
        ({"pairs": []}, "no pair to predict"),
        ({"pairs": [("/nowhere/a.png", "/nowhere/b.png")]}, "cannot read /nowhere/a.png"),
    ],
)
def test_mistakes_are_named_before_anything_is_predicted(folder, tmp_path, constant, options, message):
    net = constant()
    with pytest.raises(UserError, match=message) as refused:
        predict(net, options.pop("pairs", folder), tmp_path / "out", **options)
    assert "\n" not in str(refused.value)
    assert net.calls == 0


def test_no_output_takes_the_place_of_an_image(folder, tmp_path, constant, monkeypatch):
    monkeypatch.chdir(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    net = constant()
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"left/0\.png is an image to predict for; name another folder"):
            predict(net, folder, "left" if overwrite else folder / "left", write=["png"], overwrite=overwrite)
    assert {path: path.read_bytes() for path in folder.rglob("*.png")} == before
    assert net.calls == 0


def test_a_disparity_the_png_cannot_hold_is_refused_and_nothing_half_written(folder, tmp_path, constant):
    with pytest.raises(UserError, match=r"at most 255.99 px"):
        predict(constant(300), folder, tmp_path / "out", write=["png"])
    assert not list(tmp_path.glob("out/*"))


def run_verb(*arguments):
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return verb.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.mark.parametrize("task", list_tasks())
def test_kinds_of_output_whose_colours_end_at_a_value_are_pictures_of_values(task):
    ranged = {kind for kind, writer in get_task(task).writers.items() if writer.ranged}
    of_flow = {"color", "color_change", "color_disparity", "motion"}
    expected = {"stereo": {"color"}, "depth": {"color"}, "sceneflow": of_flow}
    assert ranged == expected.get(task, set())


@pytest.mark.parametrize("network", ["espnet", "fcos_mnv2_c128"])
def test_the_verb_refuses_a_range_for_colours_that_have_none(network, tmp_path):
    arguments = [network, "--image", tmp_path / "a.png", "--out", tmp_path / "out", "--color-max", 3]
    with pytest.raises(UserError, match="no colours that end at a value; leave color-max out"):
        run_verb(*arguments)


@pytest.mark.parametrize("task", list_tasks())
def test_the_verbs_help_names_every_kind_of_output(task):
    (line,) = (line for line in str(verb.__doc__).splitlines() if line.split()[:1] == [task])
    told = re.sub(r"\(.*?\)", "", line).replace(",", " ").split()
    assert set(told[1:]) == set(get_task(task).writers)


def test_the_verb_predicts_a_folder_and_says_what_it_wrote(folder, tmp_path, capsys):
    arguments = [
        "sgbm",
        "--folder",
        folder,
        "--out",
        tmp_path / "out",
        "--write",
        "npy",
        "--max-disparity",
        16,
    ]
    assert run_verb(*arguments) == 0
    assert f"wrote {tmp_path / 'out' / '0.npy'}" in capsys.readouterr().out
    assert np.abs(np.load(tmp_path / "out" / "1.npy") - 8).mean() < 0.2
    assert run_verb(*arguments) == 0
    assert "there already: 2 pairs" in capsys.readouterr().out


def test_images_of_a_folder_that_are_skipped_are_called_images(plane, tmp_path, capsys):
    formats.write_image(tmp_path / "photos" / "a.png", plane()[0])
    arguments = ["depth_slim", "--folder", tmp_path / "photos", "--out", tmp_path / "out", "--write", "npy"]
    assert run_verb(*arguments) == 0
    assert run_verb(*arguments) == 0
    assert "there already: 1 image (" in capsys.readouterr().out


def test_the_verb_takes_one_pair_of_any_size_with_shipped_or_given_weights(folder, tmp_path):
    net = dd.create_model("dsnet_bb21_ed2_n16", max_disparity=16)
    from safetensors.torch import save_file

    save_file(net.state_dict(), tmp_path / "student.safetensors")
    status = run_verb(
        f"dsnet_bb21_ed2_n16={tmp_path / 'student.safetensors'}", "--max-disparity", 16, "--device", "cpu",
        "--left", folder / "left" / "0.png", "--right", folder / "right" / "0.png", "--out", tmp_path / "out",
    )  # fmt: skip
    assert status == 0
    assert formats.read_disparity_png(tmp_path / "out" / "0.png").shape == (48, 120)


@pytest.mark.parametrize(
    ("network", "numbers", "message"),
    [
        ("depth_slim", "1,2,3", "four numbers, FX,FY,CX,CY, the first two above 0, got '1,2,3'"),
        ("depth_slim", "0,100,5,5", "the first two above 0, got '0,100,5,5'"),
        ("depth_slim", "100,100,nan,5", "the first two above 0, got '100,100,nan,5'"),
        ("sgbm", "100,100,5,5", "of a single camera; a pair takes --calibration"),
    ],
)
def test_the_verb_wants_the_numbers_of_a_single_camera(folder, tmp_path, network, numbers, message):
    views = [folder / side / "0.png" for side in ("left", "right")]
    source = ["--left", views[0], "--right", views[1]] if network == "sgbm" else ["--image", views[0]]
    with pytest.raises(UserError, match=message):
        run_verb(network, *source, "--write", "ply", "--intrinsics", numbers, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_verb_wants_both_views(tmp_path):
    with pytest.raises(UserError, match="both --left and --right"):
        run_verb("sgbm", "--left", "a.png", "--out", tmp_path)
