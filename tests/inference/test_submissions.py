"""Submissions: the files the servers want, and refusals of everything else, in one line."""

import itertools
import zipfile

import numpy as np
import pytest
import torch

import densedistill as dd
from densedistill.cli import main
from densedistill.data import formats
from densedistill.data.datasets import DATASETS
from densedistill.inference.submissions import (
    SUBMISSIONS,
    check_submission,
    expect,
    get_submission,
    write_submission,
)

HEIGHT, WIDTH = 20, 36


class Ramp:
    """Says a ramp, of disparities with a hole, and the same everywhere of all else."""

    precision = "float32"

    def __init__(self, task="stereo"):
        self.name, self.task, self.calls = "ramp", dd.tasks.get_task(task), 0

    def __call__(self, *images):
        self.calls += 1
        size = images[0].shape[-2:]
        disparity = torch.linspace(1, 30, size[1]).expand(1, 1, *size).clone()
        disparity[..., 0, 0] = -1
        logits = torch.zeros(1, 19, *size)
        logits[:, 13] = 1
        answers = {"disparity": disparity, "disparity_next": disparity + 2, "logits": logits}
        answers["flow"] = torch.full((1, 2, *size), 3.0)
        return {key: answers[key] for key in self.task.outputs}


def image(path, size=(HEIGHT, WIDTH)):
    path.parent.mkdir(parents=True, exist_ok=True)
    formats.write_image(path, np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """Two test frames of every benchmark, in its layout."""
    for name in ("kitti2012", "kitti2015", "kitti2015_sceneflow", "middleburyeval3", "eth3d", "cityscapes"):
        monkeypatch.setattr(DATASETS[name], "counts", {"test": 2})
    places = {name: tmp_path / name for name in SUBMISSIONS}
    for number in range(2):
        for name, views, times in (
            ("kitti2012", ("colored_0", "colored_1"), (10,)),
            ("kitti2015", ("image_2", "image_3"), (10,)),
            ("kitti2015_sceneflow", ("image_2", "image_3"), (10, 11)),
        ):
            for view, now in itertools.product(views, times):
                image(places[name] / "testing" / view / f"{number:06d}_{now}.png")
        city = places["cityscapes"] / "leftImg8bit" / "test" / "berlin"
        image(city / f"berlin_{number:06d}_000019_leftImg8bit.png")
        for view in ("im0.png", "im1.png"):
            image(places["middlebury"] / "testH" / ("Crusade", "Nkuba")[number] / view)
            image(places["eth3d"] / "two_view_test" / ("lakeside_1l", "sand_box_1l")[number] / view)
    return places


FILES = {
    "kitti2015_sceneflow": {
        f"{folder}/{number:06d}_10.png" for folder in ("disp_0", "disp_1", "flow") for number in range(2)
    },
    "cityscapes": {f"berlin/berlin_{number:06d}_000019_pred_labelIds.png" for number in range(2)},
    "kitti2012": {"000000_10.png", "000001_10.png"},
    "kitti2015": {"disp_0/000000_10.png", "disp_0/000001_10.png"},
    "middlebury": {
        f"testH/{scene}/{file}"
        for scene in ("Crusade", "Nkuba")
        for file in ("disp0Ours.pfm", "timeOurs.txt")
    },
    "eth3d": {
        f"low_res_two_view/{scene}.{end}"
        for scene in ("lakeside_1l", "sand_box_1l")
        for end in ("pfm", "txt")
    },
}


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_a_submission_holds_what_the_server_wants(name, roots, tmp_path):
    predict = Ramp(get_submission(name).task)
    path = write_submission(predict, name, roots[name], tmp_path / "out", method="Ours")
    assert path == tmp_path / "out.zip"
    with zipfile.ZipFile(path) as archive:
        assert set(archive.namelist()) == FILES[name]
        archive.extractall(tmp_path / "unpacked")
    expected = Ramp()(torch.zeros(1, 3, HEIGHT, WIDTH))["disparity"][0, 0].numpy()
    for file in FILES[name]:
        unpacked = tmp_path / "unpacked" / file
        if name == "cityscapes":
            assert (formats.read_raster(unpacked) == 26).all()  # the label id of train id 13, cars
        elif file.startswith("flow"):
            assert (formats.read_flow_png(unpacked)[0] == 3).all()
            assert formats.read_flow_png(unpacked)[1].all()
        elif file.endswith(".png"):
            stored = formats.read_disparity_png(unpacked)
            after = file.startswith("disp_1")
            # Missing, for the server to fill; scene flow gives every pixel.
            assert stored[0, 0] == (1 if after else 1 / 256 if name == "kitti2015_sceneflow" else 0)
            np.testing.assert_allclose(stored[1:], expected[1:] + 2 * after, atol=1 / 512)
        elif file.endswith(".pfm"):
            np.testing.assert_array_equal(formats.read_pfm(unpacked), expected)
        else:
            words = unpacked.read_text().split()
            assert float(words[-1]) > 0
            assert words[:-1] == (["runtime"] if name == "eth3d" else [])
    # The zip passes the same check as the folder, and what is there is not predicted again.
    check_submission(path, expect(name, roots[name], method="Ours"), get_submission(name))
    calls = predict.calls
    write_submission(predict, name, roots[name], tmp_path / "out", method="Ours")
    assert predict.calls == calls


def test_training_frames_go_with_the_test_frames_where_that_is_asked(roots):
    scene = roots["middlebury"] / "trainingH" / "Adirondack"
    for view in ("im0.png", "im1.png"):
        image(scene / view)
    formats.write_pfm(scene / "disp0GT.pfm", np.ones((HEIGHT, WIDTH), np.float32))
    frames = expect("middlebury", roots["middlebury"], split="train, test", method="Ours")
    assert [frame.files["pfm"] for frame in frames] == [
        f"{place}/disp0Ours.pfm" for place in ("trainingH/Adirondack", "testH/Crusade", "testH/Nkuba")
    ]


def damage(folder, kind):
    first = folder / "disp_0" / "000000_10.png"
    if kind == "missing":
        first.unlink()
        return r"disp_0/000000_10.png is missing"
    if kind == "size":
        formats.write_disparity_png(first, np.full((HEIGHT, WIDTH + 1), 5.0))
        return f"disp_0/000000_10.png is {WIDTH + 1}x{HEIGHT} px, its image {WIDTH}x{HEIGHT}"
    if kind == "depth":
        formats.write_image(first, np.full((HEIGHT, WIDTH), 5, np.uint8))
        return "disp_0/000000_10.png cannot be read: .* is no 16-bit grey PNG"
    if kind == "empty":
        formats.write_image(first, np.zeros((HEIGHT, WIDTH), np.uint16))
        return "has no disparity at all"
    if kind == "cut off":
        first.write_bytes(first.read_bytes()[:-20])
        return "cannot be read: .* is cut off"
    (folder / "disp_0" / "notes.txt").write_text("hello")
    return "disp_0/notes.txt does not belong there"


@pytest.mark.parametrize("kind", ["missing", "size", "depth", "empty", "cut off", "more"])
def test_a_wrong_submission_is_refused_in_one_line_and_not_packed(kind, roots, tmp_path):
    write_submission(Ramp(), "kitti2015", roots["kitti2015"], tmp_path / "out").unlink()
    message = damage(tmp_path / "out", kind)
    expected = expect("kitti2015", roots["kitti2015"])
    with pytest.raises(dd.UserError, match=message) as error:
        check_submission(tmp_path / "out", expected, get_submission("kitti2015"))
    assert "\n" not in str(error.value)
    if kind != "missing":  # which would be predicted again
        with pytest.raises(dd.UserError, match=message):
            write_submission(Ramp(), "kitti2015", roots["kitti2015"], tmp_path / "out")
        assert not (tmp_path / "out.zip").exists()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("timeOurs.txt", "fast", "does not tell seconds"),
        ("timeOurs.txt", "0.0", "does not tell seconds"),
        ("disp0Ours.pfm", None, "holds values that are not finite"),
    ],
)
def test_time_files_and_unknown_values_are_checked(file, text, message, roots, tmp_path):
    write_submission(Ramp(), "middlebury", roots["middlebury"], tmp_path / "out", method="Ours")
    path = tmp_path / "out" / "testH" / "Crusade" / file
    if text is None:
        formats.write_pfm(path, np.full((HEIGHT, WIDTH), np.inf, np.float32))
    else:
        path.write_text(text)
    with pytest.raises(dd.UserError, match=message):
        write_submission(Ramp(), "middlebury", roots["middlebury"], tmp_path / "out", method="Ours")


def test_scene_flow_gives_a_pixel_whose_disparity_the_format_cannot_tell(roots, tmp_path):
    predict = Ramp("sceneflow")
    found = lambda *images: {**predict(*images), "disparity": torch.full((1, 1, HEIGHT, WIDTH), 300.0)}
    found.task = predict.task
    write_submission(found, "kitti2015_sceneflow", roots["kitti2015_sceneflow"], tmp_path / "out")
    stored = formats.read_disparity_png(tmp_path / "out" / "disp_0" / "000000_10.png")
    np.testing.assert_allclose(stored, 255.9, atol=1 / 256)


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("cityscapes", "berlin/berlin_000000_000019_pred_labelIds.png", "holds label id 0, .* train ids"),
        ("kitti2015_sceneflow", "flow/000000_10.png", "does not give every pixel"),
    ],
)
def test_labels_and_flow_are_checked(name, file, message, roots, tmp_path):
    predict = Ramp(get_submission(name).task)
    write_submission(predict, name, roots[name], tmp_path / "out")
    if name == "cityscapes":
        formats.write_image(tmp_path / "out" / file, np.zeros((HEIGHT, WIDTH), np.uint8))
    else:
        known = np.arange(WIDTH) > np.zeros((HEIGHT, 1))
        formats.write_flow_png(tmp_path / "out" / file, np.zeros((HEIGHT, WIDTH, 2)), known)
    with pytest.raises(dd.UserError, match=message):
        write_submission(predict, name, roots[name], tmp_path / "out")


def test_a_test_set_with_missing_frames_is_refused_before_prediction(roots, tmp_path):
    for view in ("image_2", "image_3"):
        (roots["kitti2015"] / "testing" / view / "000001_10.png").unlink()
    predict = Ramp()
    with pytest.raises(
        dd.UserError, match=r"split 'test' in .* has 1 of its 2 frames, without 000001;"
    ) as error:
        write_submission(predict, "kitti2015", roots["kitti2015"], tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not predict.calls
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("left_out", "says"),
    [
        ("berlin/berlin_000001_000019", ", without berlin/berlin_000001; "),
        ("bonn/bonn_000001_000019", "frames; "),
    ],
)
def test_the_first_frame_that_is_missing_of_a_city_is_named(left_out, says, tmp_path, monkeypatch):
    numbered = [("berlin", 0), ("berlin", 1), ("berlin", 2), ("bonn", 0), ("bonn", 1)]
    names = [f"{city}/{city}_{number:06d}_000019" for city, number in numbered]
    monkeypatch.setattr(DATASETS["cityscapes"], "counts", {"test": len(names)})
    for name in names:
        if name != left_out:
            image(tmp_path / "leftImg8bit" / "test" / f"{name}_leftImg8bit.png")
    with pytest.raises(dd.UserError, match=says):
        write_submission(Ramp("segmentation"), "cityscapes", tmp_path, tmp_path / "out")


def test_what_is_no_submission_is_refused(roots, tmp_path):
    with pytest.raises(dd.UserError, match=r"there is no submission 'kitti2016'; did you mean 'kitti201"):
        write_submission(Ramp(), "kitti2016", tmp_path, tmp_path / "out")
    with pytest.raises(dd.UserError, match="takes predictions of sceneflow, this network is of task stereo"):
        write_submission("sgbm", "kitti2015_sceneflow", tmp_path, tmp_path / "out")
    with pytest.raises(dd.UserError, match="a method's name is of letters"):
        write_submission(Ramp(), "middlebury", tmp_path, tmp_path / "out", method="../ours")
    (tmp_path / "some.zip").write_text("no zip")
    with pytest.raises(dd.UserError, match="neither a folder nor a zip"):
        check_submission(tmp_path / "some.zip", [], get_submission("eth3d"))


def test_the_runtime_that_was_named_is_used(roots, tmp_path, monkeypatch):
    asked = []

    def load(network, max_disparity, device, precision, runtime):
        asked.append(runtime)
        return Ramp()

    monkeypatch.setattr("densedistill.inference.submissions.load_predictor", load)
    command = ["predict", "dsnet_slim", "--submission", "kitti2015", "--root", roots["kitti2015"]]
    assert main([*map(str, command), "--out", str(tmp_path / "out"), "--runtime", "openvino"]) == 0
    assert asked == ["openvino"]


def test_the_command_says_ready(roots, tmp_path, capsys):
    out = tmp_path / "submission"
    flags = ["--submission", "middlebury", "--root", str(roots["middlebury"]), "--out", str(out)]
    assert main(["predict", "sgbm", *flags, "--max-disparity", "16", "--data-option", "resolution=H"]) == 0
    assert f"ready: {out}.zip" in capsys.readouterr().out
    assert main(["predict", "sgbm", "--submission", "eth3d", "--out", str(out)]) == 2
    assert "takes --root" in capsys.readouterr().err
