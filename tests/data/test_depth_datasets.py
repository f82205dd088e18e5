"""Depth on disk: files made in every real layout, and what is wrong with them said in one line."""

import warnings

import cv2
import numpy as np
import pytest
import torch

import densedistill as dd
from densedistill.data import create_dataset, formats
from densedistill.data.augment import build_augmentation
from densedistill.data.augment_depth import rotate
from densedistill.data.calibration import Calibration
from densedistill.data.check import check_dataset
from densedistill.data.nyu_labelled import LabelledFile, write_official


def image(path, height=24, width=32, value=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path)))
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    cv2.imwrite(str(path), pixels if value is None else np.full_like(pixels, value))


def depth(path, metres=2.0, scale=1000.0, height=24, width=32):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((height, width), metres * scale, np.uint16)
    values[:4] = 0
    cv2.imwrite(str(path), values)


def check(sample, metres, height=24, width=32):
    assert sample["image"].shape == (3, height, width)
    assert sample["image"].dtype == torch.uint8
    assert sample["depth"].shape == (1, height, width)
    assert not sample["depth_valid"][:, :4].any()
    assert sample["depth_valid"][:, 4:].all()
    known = sample["depth"][sample["depth_valid"]]
    assert torch.allclose(known, torch.full_like(known, metres), atol=1e-3)
    assert (sample["depth"][~sample["depth_valid"]] == 0).all()


# The plain folder


@pytest.mark.parametrize(("images", "truth"), [("image", "depth"), ("rgb", "gt"), ("color", "depths")])
def test_a_plain_folder_is_read(images, truth, tmp_path):
    for stem in ("b", "sub/a"):
        image(tmp_path / images / f"{stem}.png")
        depth(tmp_path / truth / f"{stem}.png")
    for hidden in ("._b", ".trash/c"):  # what a Mac and a file manager leave behind
        image(tmp_path / images / f"{hidden}.png")
    samples = create_dataset("depth_folder", tmp_path)
    assert samples.names == ["b", "sub/a"]
    assert samples.task == "depth"
    check(samples[1], 2.0)


def test_floats_are_metres_and_images_may_lack_depth(tmp_path):
    image(tmp_path / "image/a.png")
    image(tmp_path / "image/b.png")
    (tmp_path / "depth").mkdir()
    np.save(tmp_path / "depth/a.npy", np.full((24, 32), 3.5, np.float32))
    samples = create_dataset("depth_folder", tmp_path)
    assert (samples[0]["depth"] == 3.5).all()
    assert "depth" not in samples[1]


def test_another_scale_and_other_names_are_taken(tmp_path):
    image(tmp_path / "frames/a.png")
    depth(tmp_path / "laser/a.png", 7.0, 256.0)
    samples = create_dataset("depth_folder", tmp_path, image="frames", depth="laser", depth_scale=256)
    check(samples[0], 7.0)


def test_depth_of_an_unlikely_unit_warns_once(tmp_path):
    for stem in "ab":
        image(tmp_path / f"image/{stem}.png")
        depth(tmp_path / f"depth/{stem}.png", 2.0, 1000.0)
    samples = create_dataset("depth_folder", tmp_path, depth_scale=1)
    with pytest.warns(UserWarning, match=r"the median depth is 2e\+03 m, which is unlikely.*depth_scale"):
        samples[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples[1]
        create_dataset("depth_folder", tmp_path)[0]


def test_the_command_line_warns_in_one_line(monkeypatch):
    from densedistill import cli
    from densedistill.errors import DataWarning

    said = []

    def doubt(arguments):
        for category in (DataWarning, UserWarning):
            said.append(warnings.formatwarning("the unit", category, "file.py", 7))
        return 0

    monkeypatch.setattr(cli, "_dispatch", doubt)
    usual = warnings.formatwarning
    assert cli.main([]) == 0
    assert said[0] == "warning: the unit\n"
    assert "file.py:7: UserWarning" in said[1]
    assert warnings.formatwarning is usual


def test_ground_truth_of_zeros_is_refused(tmp_path):
    image(tmp_path / "image/a.png")
    depth(tmp_path / "depth/a.png", 0.0)
    with pytest.raises(dd.UserError, match=r"a\.png has no valid pixel .*leave this sample out"):
        create_dataset("depth_folder", tmp_path)[0]


def test_ground_truth_of_another_size_is_refused(tmp_path):
    image(tmp_path / "image/a.png")
    depth(tmp_path / "depth/a.png", width=30)
    with pytest.raises(dd.UserError, match=r"is 30x24 px, its image 32x24"):
        create_dataset("depth_folder", tmp_path)[0]


def test_a_picture_of_depth_in_colours_is_no_depth(tmp_path):
    image(tmp_path / "image/a.png")
    image(tmp_path / "depth/a.png")
    grey = formats.read_raster(tmp_path / "depth/a.png")[..., :1].repeat(3, 2)
    formats.write_image(tmp_path / "depth/a.png", grey)
    assert create_dataset("depth_folder", tmp_path, depth_scale=1)[0]["depth"][0, 3, 4] == grey[3, 4, 0]
    grey[3, 4, 1] += 1
    formats.write_image(tmp_path / "depth/a.png", grey)
    with pytest.raises(dd.UserError, match=r"a\.png is a colour picture"):
        create_dataset("depth_folder", tmp_path)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth_scale": 0}, "depth_scale is above 0"),
        ({"part": "kity"}, "did you mean 'kitti'"),
        ({"split": "tran"}, "data set 'depth_folder' has no split"),
        ({"image": "nowhere"}, "there is no folder .*nowhere"),
        ({"limit": 0}, "limit is the number of samples"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, tmp_path):
    image(tmp_path / "image/a.png")
    with pytest.raises(dd.UserError, match=message):
        create_dataset("depth_folder", tmp_path, **options)


@pytest.mark.parametrize("name", ["depth_folder", "icl_nuim", "tum", "nyu", "kitti_eigen"])
def test_an_empty_folder_is_refused_in_one_line(name, tmp_path):
    with pytest.raises(dd.UserError) as error:
        create_dataset(name, tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(dd.UserError, match="there is no folder"):
        create_dataset(name, tmp_path / "nowhere")


# KITTI


DRIVE = "2011_09_26_drive_0057_sync"


def kitti(root, place, names=("0000000116", "0000000117")):
    lines = []
    for name in names:
        picture = f"2011_09_26/{DRIVE}/image_02/data/{name}.png"
        truth = f"{DRIVE}/proj_depth/groundtruth/image_02/{name}.png"
        image(root / picture, 375, 1242)
        depth(root / place / truth, 12.0, 256.0, 375, 1242)
        lines.append(f"{picture} {truth} 721.5377")
    lines.append(f"2011_09_26/{DRIVE}/image_02/data/0000000200.png None 721.5377")
    (root / "eigen_test_files_with_gt.txt").write_text("\n".join(lines))


@pytest.mark.parametrize(
    "place",
    ["2011_09_26", "data_depth_annotated", "data_depth_annotated/val", "data_depth_annotated/train", "train"],
)
def test_kittis_depth_is_found_wherever_it_is_kept(place, tmp_path):
    kitti(tmp_path, place)
    samples = create_dataset("kitti_eigen", tmp_path, "test")
    assert len(samples) == 2  # the one without depth is left out
    sample = samples[0]
    assert sample["image"].shape == (3, 352, 1216)
    assert sample["depth"].shape == (1, 352, 1216)
    assert sample["depth"][sample["depth_valid"]].unique().tolist() == [12.0]
    whole = create_dataset("kitti_eigen", tmp_path, "test", part="whole")[0]
    assert torch.equal(whole["image"][:, 23:, 13 : 13 + 1216], sample["image"])


def test_kitti_without_a_list_says_what_lacks(tmp_path):
    with pytest.raises(
        dd.UserError, match=r"nothing of split 'train' .* expected .*eigen_train_files_with_gt.txt"
    ):
        create_dataset("kitti_eigen", tmp_path, "train")
    with pytest.raises(dd.UserError, match=r"there is no list mine\.txt"):
        create_dataset("kitti_eigen", tmp_path, "train", list="mine.txt")
    (tmp_path / "train.txt").write_text("one\n")
    with pytest.raises(dd.UserError, match=r"train\.txt, line 1: expected 2 or 3 columns"):
        create_dataset("kitti_eigen", tmp_path, "train")


def test_a_list_of_drives_and_numbers_is_refused(tmp_path):
    (tmp_path / "train.txt").write_text(f"2011_09_26/{DRIVE} 5 l\n")  # as self-supervised networks list them
    with pytest.raises(dd.UserError, match=r"train\.txt: a line names an image and its depth, got '2011"):
        create_dataset("kitti_eigen", tmp_path, "train")


def test_a_list_that_is_given_has_as_many_frames_as_it_has(tmp_path):
    kitti(tmp_path, "train")
    for given, whole in (({}, 652), ({"list": "eigen_test_files_with_gt.txt"}, None)):
        (survey,) = check_dataset("kitti_eigen", tmp_path, split="test", **given)
        assert (survey.samples, survey.expected) == (2, whole)


def test_kittis_calibration_moves_with_the_crop(tmp_path):
    kitti(tmp_path, "2011_09_26")
    row = "7.2e+02 0 6.1e+02 4.5e+01 0 7.2e+02 1.7e+02 -1.2e-01 0 0 1 4.9e-03"
    other = "7.2e+02 0 6.1e+02 -3.4e+02 0 7.2e+02 1.7e+02 2.2e+00 0 0 1 2.7e-03"
    (tmp_path / "2011_09_26/calib_cam_to_cam.txt").write_text(
        f"S_rect_02: 1.242e+03 3.75e+02\nP_rect_02: {row}\nP_rect_03: {other}\n"
    )
    camera = create_dataset("kitti_eigen", tmp_path, "test")[0]["meta"]["calibration"]
    assert (camera.fx, camera.cx, camera.cy) == (720, 610 - 13, 170 - 23)
    assert camera.size == (352, 1216)


# NYU


def nyu_mat(folder, count=3):
    h5py = pytest.importorskip("h5py")
    from scipy.io import savemat

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "w") as file:
        images = np.zeros((count, 3, 640, 480), np.uint8)
        depths = np.zeros((count, 640, 480), np.float32)
        for i in range(count):
            images[i, 0], images[i, :, 5:10, 20:30] = 10 * i, 200  # columns 5 to 10, rows 20 to 30
            depths[i] = 2 + i
        file["images"], file["depths"] = images, depths
        raw = depths.copy()
        raw[:, :, :100] = 0
        file["rawDepths"] = raw
        references = file.create_dataset("sceneTypes", (1, count), dtype=h5py.ref_dtype)
        for i in range(count):
            letters = file.create_dataset(
                f"#refs#/{i}", data=np.array([[ord(c)] for c in "kitchen"], np.uint16)
            )
            references[0, i] = letters.ref
    savemat(folder / "splits.mat", {"trainNdxs": [[1], [3]], "testNdxs": [[2]]})
    return path


def test_the_labelled_file_is_read_without_matlab(tmp_path):
    path = nyu_mat(tmp_path)
    train, test = create_dataset("nyu", tmp_path, "train"), create_dataset("nyu", path, "test")
    assert train.names == ["00000", "00002"]
    assert test.names == ["00001"]
    sample = test[0]
    assert sample["image"].shape == (3, 480, 640)
    assert (sample["image"][:, 20:30, 5:10] == 200).all()
    assert (sample["image"][0, 40:] == 10).all()
    assert not sample["depth_valid"][:, :100].any()
    assert (sample["depth"][:, 100:] == 3).all()
    assert create_dataset("nyu", path, "test", dense=True)[0]["depth_valid"].all()
    assert sample["meta"]["calibration"].fx == pytest.approx(518.8579)
    inner = create_dataset("nyu", path, "test", part="nyu")[0]["image"]
    assert torch.equal(inner, sample["image"][:, 45:472, 43:608])


def test_the_official_split_is_written_and_read_back(tmp_path):
    done = []
    path = nyu_mat(tmp_path / "mat")
    counts = write_official(LabelledFile(path), tmp_path / "out", lambda n, total: done.append((n, total)))
    assert counts == {"train": 2, "test": 1}
    assert done[-1] == (3, 3)
    written = create_dataset("nyu", tmp_path / "out", "test")
    assert written.names == ["kitchen/rgb_00001"]
    sample, source = written[0], create_dataset("nyu", path, "test")[0]
    assert torch.equal(sample["depth"], source["depth"])
    assert torch.equal(sample["image"][:, 7:474, 7:632], source["image"][:, 7:474, 7:632])
    assert sample["image"][:, :7].sum() == 0
    assert create_dataset("nyu", tmp_path / "out", "test", dense=True)[0]["depth_valid"].all()


def test_the_command_writes_the_official_split(tmp_path, capsys):
    from densedistill.cli import main

    path = nyu_mat(tmp_path / "mat")
    assert main(["data", "make", "nyu-official", str(tmp_path / "out"), "--source", str(path)]) == 0
    assert "795" not in capsys.readouterr().out
    assert len(create_dataset("nyu", tmp_path / "out", "train")) == 2
    assert main(["data", "make", "nyu-official", str(tmp_path / "out")]) == 2
    assert "--source" in capsys.readouterr().err


def test_a_file_that_is_not_nyus_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "nyu_depth_v2_labeled.mat"
    path.write_bytes(b"MATLAB 5.0")
    with pytest.raises(dd.UserError, match=r"as a MATLAB 7.3"):
        create_dataset("nyu", tmp_path)
    with h5py.File(path, "w") as file:
        file["other"] = np.zeros(1)
    with pytest.raises(dd.UserError, match="has no 'images'"):
        create_dataset("nyu", tmp_path)
    nyu_mat(tmp_path)
    (tmp_path / "splits.mat").unlink()
    with pytest.raises(dd.UserError, match=r"there is no .*splits\.mat"):
        create_dataset("nyu", tmp_path)


def test_a_check_finds_a_split_that_names_images_which_are_not_there(tmp_path, capsys):
    from scipy.io import savemat

    from densedistill.cli import main

    nyu_mat(tmp_path)
    assert main(["data", "check", "nyu", str(tmp_path)]) == 0
    savemat(tmp_path / "splits.mat", {"trainNdxs": [[1], [3]], "testNdxs": [[9]]})
    capsys.readouterr()
    assert main(["data", "check", "nyu", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert "is not usable as it is (test)" in shown.err
    assert "names images that" in " ".join(shown.out.split())


def test_a_list_without_depth_is_refused(tmp_path):
    (tmp_path / "train.txt").write_text("/bedroom/rgb_0.jpg 518.8\n")
    with pytest.raises(dd.UserError, match="a line names an image and its depth"):
        create_dataset("nyu", tmp_path, list="train.txt")


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_a_list_of_synchronised_frames_is_read(columns, tmp_path):
    words = ["/bedroom_0130/rgb_00000.jpg", "/bedroom_0130/sync_depth_00000.png"]
    image(tmp_path / words[0][1:])
    depth(tmp_path / words[1][1:], 2.5)
    if columns > 2:
        words.append("/bedroom_0130/dense/sync_depth_dense_00000.png")
        depth(tmp_path / words[2][1:], 2.75)
    if columns > 3:
        words.append("518.8579")
    (tmp_path / "train.txt").write_text(" ".join(words) + "\n")
    sample = create_dataset("nyu", tmp_path, list="train.txt")[0]
    check(sample, 2.5)
    assert sample["meta"]["calibration"] is None, "it is of 640x480 px"
    if columns > 2:
        check(create_dataset("nyu", tmp_path, list="train.txt", dense=True)[0], 2.75)
    else:
        with pytest.raises(dd.UserError, match="name no dense depth"):
            create_dataset("nyu", tmp_path, list="train.txt", dense=True)


# RGB-D cameras


def test_icl_nuim_is_read_in_the_order_of_its_numbers(tmp_path):
    for base in ("living/0", "living/1"):
        for number in (1, 2, 10):
            image(tmp_path / base / f"rgb/{number}.png")
            depth(tmp_path / base / f"depth/{number}.png", 3.0, 5000.0)
    samples = create_dataset("icl_nuim", tmp_path)
    assert samples.names[:3] == ["living/0/1", "living/0/2", "living/0/10"]
    check(samples[5], 3.0)


def test_the_frames_that_ship_are_icl_nuims_living_room():
    samples = create_dataset("icl_nuim")
    assert len(samples) == 5
    sample = samples[0]
    assert sample["image"].shape == (3, 480, 640)
    assert sample["depth"].min() == pytest.approx(1.643, abs=1e-3)
    assert sample["depth"].max() == pytest.approx(3.432, abs=1e-3)
    assert sample["meta"]["calibration"].fx == 481.2


def test_tums_frames_are_joined_by_time(tmp_path):
    images, depths = [], []
    for i, shift in enumerate((0.005, -0.019, 0.5)):  # the depth was taken before or after the image
        time = 1305031102.0 + i
        image(tmp_path / f"rgb/{time:.6f}.png")
        depth(tmp_path / f"depth/{time + shift:.6f}.png", 1.5 + i, 5000.0)
        images.append(f"{time:.6f} rgb/{time:.6f}.png")
        depths.append(f"{time + shift:.6f} depth/{time + shift:.6f}.png")
    (tmp_path / "rgb.txt").write_text("# color images\n" + "\n".join(images))
    (tmp_path / "depth.txt").write_text("# depth maps\n" + "\n".join(depths))
    samples = create_dataset("tum", tmp_path)
    assert len(samples) == 2
    check(samples[1], 2.5)
    camera = samples[0]["meta"]["calibration"]
    assert (camera.fx, camera.cx, camera.size) == (525 * 32 / 640, 320 * 32 / 640 - 0.5, (24, 32))
    assert len(create_dataset("tum", tmp_path, tolerance=1.0)) == 3
    (tmp_path / "rgb.txt").write_text("now rgb/1.png\n")
    with pytest.raises(dd.UserError, match="begins with a time in seconds"):
        create_dataset("tum", tmp_path)


def test_a_missing_depth_is_named(tmp_path):
    image(tmp_path / "rgb/1.png")
    (tmp_path / "depth").mkdir()
    with pytest.raises(dd.UserError, match=r"sample 1 has no depth, .*1\.png is missing"):
        create_dataset("icl_nuim", tmp_path)


# Augmentation


def sample_of(height=480, width=640):
    rows = torch.arange(height).float().view(1, -1, 1).expand(1, height, width)
    values = (rows / 2).to(torch.uint8).expand(3, height, width).clone()
    return {
        "image": values,
        "depth": 1 + rows,
        "depth_valid": torch.ones(1, height, width, dtype=torch.bool),
        "meta": {},
    }


def test_a_roll_keeps_depth_and_image_together():
    turned = rotate(sample_of(), 3.0)
    valid = turned["depth_valid"]
    assert 0.9 < valid.float().mean() < 1
    assert (turned["depth"][~valid] == 0).all()
    assert turned["depth"][valid].min() >= 1
    assert (turned["depth"][valid] == turned["depth"][valid].round()).all()  # the nearest, never between two
    inner = (slice(None), slice(100, 380), slice(100, 540))
    apart = (turned["depth"][inner] - 1) / 2 - turned["image"][:1][inner]
    assert apart.abs().max() <= 1.5
    back = rotate(turned, -3.0)
    assert ((back["depth"] - sample_of()["depth"])[inner]).abs().max() <= 2


def test_what_a_roll_brings_in_is_of_no_class():
    labels = torch.full((40, 60), 7)
    turned = rotate({"image": torch.zeros(3, 40, 60, dtype=torch.uint8), "labels": labels}, 20.0)["labels"]
    assert turned.unique().tolist() == [7, 255]


@pytest.mark.parametrize(("keep_focal", "depth"), [(False, 1.5), (True, 0.75)])
def test_a_scaled_image_is_of_a_nearer_scene_where_the_focal_length_is_kept(keep_focal, depth):
    values = torch.full((1, 20, 30), 1.5)
    sample = {"image": torch.zeros(3, 20, 30, dtype=torch.uint8), "depth": values, "depth_valid": values > 0}
    augment = build_augmentation({"scale": [1.0, 1.0], "crop": [16, 16], "keep_focal": keep_focal}, "depth")
    result = augment({**sample, "meta": {"name": "a", "size": (20, 30)}}, np.random.default_rng(0))
    assert torch.equal(result["depth"], torch.full((1, 16, 16), depth))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("flow", torch.zeros(2, 480, 640)),
        ("boxes", torch.tensor([[1.0, 2.0, 30.0, 40.0]])),
    ],
)
def test_what_a_roll_would_make_untrue_is_refused(key, value):
    with pytest.raises(dd.UserError, match=f"not for samples with {key}"):
        build_augmentation({"rotate": 1.0}, "depth")({**sample_of(), key: value}, np.random.default_rng(0))


def test_boxes_and_calibration_are_cut_as_their_image_is():
    sample = {**sample_of(), "boxes": torch.tensor([[0.0, 0, 143, 145]]), "classes": torch.tensor([3])}
    sample["meta"] = {"calibration": Calibration(500, 500, 320, 240, 0.0, size=(480, 640))}
    cut = build_augmentation({"frame": "nyu"}, "detection")(sample, np.random.default_rng(0))
    assert cut["boxes"].tolist() == [[0, 0, 100, 100]]
    assert cut["meta"]["size"] == cut["image"].shape[-2:] == (427, 565)
    camera = cut["meta"]["calibration"]
    assert (camera.fx, camera.cx, camera.cy, camera.size) == (500, 320 - 43, 240 - 45, (427, 565))


@pytest.mark.parametrize(
    ("preset", "frame", "source", "crop"),
    [
        ("kitti_depth", "kitti", (375, 1242), (352, 704)),
        ("nyu_depth", "nyu", (480, 640), (416, 544)),
    ],
)
def test_the_published_augmentations_give_the_published_crops(preset, frame, source, crop):
    augment = build_augmentation({"augment": preset, "frame": frame, "crop": list(crop)}, "depth")
    seen = []
    for seed in range(6):
        out = augment(sample_of(*source), np.random.default_rng(seed))
        again = augment(sample_of(*source), np.random.default_rng(seed))
        assert out["image"].shape == (3, *crop)
        assert out["depth"].shape == (1, *crop)
        assert all(torch.equal(out[key], again[key]) for key in ("image", "depth", "depth_valid"))
        seen.append(out["image"].float().mean().item())
    assert len(set(seen)) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame": "kity"}, "did you mean 'kitti'"),
        ({"gamma": [0, 1]}, "gamma is"),
        ({"tint": 1.2}, "tint is two numbers"),
        ({"permute": 2}, "permute is a probability"),
        ({"rotate": -1}, "rotate is 0 or more"),
    ],
)
def test_augmentation_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(dd.UserError, match=message):
        build_augmentation(options, "depth")


def test_kittis_crop_of_a_smaller_image_is_refused():
    with pytest.raises(dd.UserError, match="does not fit into an image of 640x480"):
        build_augmentation({"frame": "kitti"}, "depth")(sample_of(), np.random.default_rng(0))
