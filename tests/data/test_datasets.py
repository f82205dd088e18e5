import numpy as np
import pytest
import torch
import torchvision.datasets
from torch.utils.data import DataLoader

from densedistill import UserError
from densedistill.data import collate, create_dataset, formats, list_datasets
from densedistill.errors import DataWarning

ALL = ("disparity", "disparity_right", "disparity_nonoccluded", "objects")


def image_of(tensor):
    return tensor.permute(1, 2, 0).numpy()


def test_names_are_those_of_the_samples_in_order(layout):
    dataset = layout.open()
    assert dataset.names == sorted(layout.scenes)
    assert len(dataset) == len(layout.scenes)
    assert [sample["meta"]["name"] for sample in dataset] == dataset.names
    assert dataset.task == "stereo"


def test_images_are_rgb_uint8_and_the_views_are_not_mixed_up(layout):
    for sample in layout.open():
        scene = layout.scenes[sample["meta"]["name"]]
        assert sample["left"].dtype == torch.uint8
        np.testing.assert_array_equal(image_of(sample["left"]), scene.left)
        np.testing.assert_array_equal(image_of(sample["right"]), scene.right)


def test_disparity_is_positive_pixels_and_unknown_is_zero_and_masked(layout):
    for sample in layout.open(want=ALL):
        scene = layout.scenes[sample["meta"]["name"]]
        for key in ("disparity", "disparity_right"):
            assert (key in sample) == (key in layout.has)
            if key in layout.has:
                truth = getattr(scene, key)
                assert sample[key].dtype == torch.float32
                np.testing.assert_array_equal(sample[key][0].numpy(), truth)
                np.testing.assert_array_equal(sample[f"{key}_valid"][0].numpy(), truth > 0)


def test_warping_the_right_view_by_the_disparity_gives_the_left(layout):
    for sample in layout.open():
        if "disparity" not in sample:
            continue
        left, right = (image_of(sample[view]).astype(int) for view in ("left", "right"))
        disparity = sample["disparity"][0].numpy().astype(int)
        seen = layout.scenes[sample["meta"]["name"]].seen

        def error(sign, disparity=disparity, left=left, right=right, seen=seen):
            column = np.clip(np.arange(left.shape[1])[None] - sign * disparity, 0, left.shape[1] - 1)
            return np.abs(np.take_along_axis(right, column[..., None], 1) - left)[seen].mean()

        assert error(1) == 0
        assert error(-1) > 20


def test_nonoccluded_says_where_a_pixel_is_seen_in_both_views(layout):
    for sample in layout.open():
        assert ("disparity_nonoccluded" in sample) == ("disparity_nonoccluded" in layout.has)
        if "disparity_nonoccluded" in sample:
            seen = layout.scenes[sample["meta"]["name"]].seen
            np.testing.assert_array_equal(sample["disparity_nonoccluded"][0].numpy(), seen)


def test_what_is_not_known_is_not_counted_as_seen(make):
    layout = make("middleburyeval3")
    for mask in layout.root.rglob("mask0nocc.png"):
        formats.write_image(mask, np.full((32, 60), 255, np.uint8))
    for sample in layout.open():
        assert torch.equal(sample["disparity_nonoccluded"], sample["disparity_valid"])


def test_only_wanted_ground_truth_is_read(layout):
    keys = layout.open(want=())[0].keys()
    assert keys == {"left", "right", "meta"}


def test_batches_of_a_loader_with_workers_hold_the_samples(make):
    dataset = make("kitti2015").open()
    batch = next(iter(DataLoader(dataset, batch_size=2, num_workers=1, collate_fn=collate)))
    assert batch["left"].shape == (2, 3, 32, 60)
    assert batch["meta"][1]["name"] == dataset.names[1]
    assert batch["meta"][1]["view"] == {"scale": (1.0, 1.0), "flip": "", "crop": (0, 0, 32, 60)}
    assert batch["meta"][1]["size"] == (32, 60)


# Splits


def test_sceneflow_tests_on_test_and_trains_on_all_else(make):
    layout = make("sceneflow_merged")
    assert layout.open(split="test").names == ["TEST/B/0001/0007"]
    assert layout.open(split="train").names == sorted(layout.scenes)
    assert len(layout.open(split="all")) == 4


def test_sceneflow_takes_the_clean_pass_only_when_asked_or_alone(make):
    layout = make("sceneflow_merged")
    clean = layout.open(rendering="clean")
    assert clean.names == ["TRAIN/A/0000/0006"]
    assert not torch.equal(clean[0]["left"], layout.open()[clean.names.index("TRAIN/A/0000/0006")]["left"])


def test_a_sampler_pack_counts_in_every_split_of_sceneflow(tmp_path, make):
    subset = make("sceneflow_subset")
    subset.root = tmp_path / "val"
    (subset.root / "image_clean").rename(subset.root / "RGB_cleanpass")
    assert [subset.open(split=split).names for split in ("all", "train", "test")] == [["0000000"]] * 3


def test_kitti_fit_and_val_part_the_training_set(make):
    layout = make("kitti2015")
    fit, val = layout.open(split="fit").names, layout.open(split="val").names
    assert val == ["000100_10", "000105_10"]
    assert sorted(fit + val) == layout.open(split="train").names


def test_kitti_test_has_no_ground_truth(make):
    sample = make("kitti2015").open(split="test")[0]
    assert sample.keys() == {"left", "right", "meta"}


def test_kitti_2012_and_2015_live_in_one_root(make):
    two, five = make("kitti2012"), make("kitti2015")
    assert two.root == five.root
    assert len(two.open()) == 3
    assert len(five.open()) == 7


def test_kitti_2015_numbers_the_moving_objects(make):
    layout = make("kitti2015")
    sample = layout.open()[0]
    assert sample["objects"].dtype == torch.int64
    np.testing.assert_array_equal(sample["objects"].numpy(), layout.scenes["000100_10"].disparity == 8)


def test_the_folder_of_a_split_and_the_one_around_all_serve_as_root(make):
    layout = make("kitti2015")
    names = layout.open().names
    assert create_dataset("kitti2015", layout.root / "training").names == names
    (layout.root / "KITTI" / "data_scene_flow").mkdir(parents=True)
    (layout.root / "training").rename(layout.root / "KITTI" / "data_scene_flow" / "training")
    assert layout.open().names == names


def test_limit_spreads_over_the_whole_set(make):
    assert make("kitti2015").open(limit=3).names == ["000100_10", "000102_10", "000104_10"]


def test_eth3ds_archives_unpacked_into_one_folder_are_parted_by_their_ground_truth(make):
    layout = make("eth3d_merged")
    for view in ("im0.png", "im1.png"):
        image = formats.read_image(layout.root / "terrace_1s" / view)
        formats.write_image(layout.root / "tunnel_1l" / view, image)
    names = {split: layout.open(split=split).names for split in ("train", "test")}
    assert names == {"train": ["terrace_1s"], "test": ["tunnel_1l"]}
    (layout.root / "terrace_1s" / "disp0GT.pfm").unlink()
    with pytest.raises(UserError, match=r"no disparity, .*terrace_1s/disp0GT\.pfm is missing"):
        layout.open()
    with pytest.raises(UserError, match="nothing of split 'test'"):
        layout.open(split="test")


@pytest.mark.parametrize("folder", ["two_view_test", "two_view_testing"])
def test_eth3ds_test_scenes_lie_in_a_folder_of_either_name(make, folder):
    layout = make("eth3d")
    (layout.root / "two_view_training").rename(layout.root / folder)
    assert layout.open(split="test").names == list(layout.scenes)
    assert create_dataset("eth3d", layout.root / folder, "test").names == list(layout.scenes)


@pytest.mark.parametrize("right", ["disparity_right", "disparity/right"])
def test_a_folders_right_disparity_is_read_from_either_place(make, right):
    layout = make("folder_pfm")
    (layout.root / "disparity").rename(layout.root / "left_truth")
    for folder in ("disparity", right):
        (layout.root / folder).mkdir(exist_ok=True)
    (layout.root / "left_truth").rename(layout.root / "disparity" / "left")
    truth = layout.scenes["single"].disparity_right
    formats.write_pfm(layout.root / right / "single.pfm", truth)
    *others, last = layout.open(want=ALL)
    np.testing.assert_array_equal(last["disparity"][0].numpy(), layout.scenes["single"].disparity)
    np.testing.assert_array_equal(last["disparity_right"][0].numpy(), truth)
    assert all("disparity_right" not in sample for sample in others)


@pytest.mark.parametrize(
    ("stem", "height", "scale"),
    [
        *(
            ("disp2", height, scale)
            for height, scale in ((375, 4), (750, 2), (1500, 1), (500, 4), (380, 8), (383, 8))
        ),
        *(("disp1", height, scale) for height, scale in ((370, 3), (555, 2), (1110, 1), (500, 3))),
    ],
)
def test_middleburys_8_bits_are_scaled_by_the_height_of_the_image(tmp_path, stem, height, scale):
    for name in ("im2", "im6") if stem == "disp2" else ("view1", "view5"):
        formats.write_image(tmp_path / f"{name}.png", np.zeros((height, 3, 3), np.uint8))
    formats.write_image(tmp_path / f"{stem}.png", np.full((height, 3), 60, np.uint8))
    sample = create_dataset("middlebury2003", tmp_path)[0]
    assert sample["disparity"].unique().tolist() == [60 / scale]
    assert "disparity_nonoccluded" not in sample


def test_labels_beside_the_views_are_a_folders_disparity(make):
    layout = make("folder_8_bit")
    before = layout.open(disparity_scale=256)[0]
    (layout.root / "disparity").rename(layout.root / "disp_0")  # as `label --write files` calls it
    after = layout.open(disparity_scale=256)[0]
    assert torch.equal(after["disparity"], before["disparity"])


def test_calibration_comes_with_the_sample(make):
    calibration = make("middlebury2014").open()[0]["meta"]["calibration"]
    assert calibration.baseline_m == pytest.approx(0.193001)
    assert calibration.doffs == pytest.approx(131.111)


def test_kitti_calibration_is_of_the_cameras_that_were_read(make):
    layout = make("kitti2012_grey")
    rows = [
        f"P{camera}: 700 0 {600 + camera} {-700 * 0.1 * camera**2} 0 700 180 0 0 0 1 0" for camera in range(4)
    ]
    (layout.root / "training/calib").mkdir()
    (layout.root / "training/calib/000001.txt").write_text("\n".join(rows))
    dataset = layout.open()
    assert dataset[0]["meta"]["calibration"] is None
    grey = dataset[1]["meta"]["calibration"]
    assert (grey.cx, grey.doffs, grey.baseline_m) == (600, 1, pytest.approx(0.1))


# Against torchvision's readers, where its layout is one of ours


def test_flyingthings_monkaa_and_driving_read_as_torchvision_reads_them(make):
    layout = make("sceneflow_side_by_side")
    for variant in ("FlyingThings3D", "Monkaa", "Driving"):
        (layout.root / "SceneFlow").mkdir(exist_ok=True)
        (layout.root / variant).rename(layout.root / "SceneFlow" / variant)
        theirs = torchvision.datasets.SceneFlowStereo(layout.root, variant=variant, pass_name="clean")
        ours = create_dataset("sceneflow", layout.root / "SceneFlow" / variant, want=ALL)
        for sample, other in zip(ours, theirs, strict=True):
            compare(sample, other)


def test_kitti_2015_and_eth3d_read_as_torchvision_reads_them(tmp_path, make):
    layout = make("kitti2015")
    (tmp_path / "Kitti2015").mkdir()
    (tmp_path / "training").rename(tmp_path / "Kitti2015" / "training")
    # torchvision looks for the next frame's disparity too, which it takes for the right view's.
    (tmp_path / "Kitti2015/training/disp_occ_1").symlink_to(tmp_path / "Kitti2015/training/disp_occ_0")
    theirs = torchvision.datasets.Kitti2015Stereo(tmp_path)
    for ours, other in zip(layout.open(), theirs, strict=True):
        compare(ours, other)

    layout = make("eth3d")
    (tmp_path / "ETH3D").mkdir()
    for folder in ("two_view_training", "two_view_training_gt"):
        (tmp_path / folder).rename(tmp_path / "ETH3D" / folder)
    theirs = torchvision.datasets.ETH3DStereo(tmp_path)
    for ours, other in zip(layout.open(), theirs, strict=True):
        compare(ours, other)


def compare(ours, theirs):
    np.testing.assert_array_equal(image_of(ours["left"]), np.asarray(theirs[0]))
    np.testing.assert_array_equal(image_of(ours["right"]), np.asarray(theirs[1]))
    known = ours["disparity_valid"].numpy()
    np.testing.assert_array_equal(ours["disparity"].numpy()[known], theirs[2][known])


# What goes wrong


def test_every_data_set_is_listed_and_an_unknown_one_gets_the_nearest():
    assert {"sceneflow", "kitti2012", "kitti2015", "middlebury2014", "middleburyeval3"} <= set(
        list_datasets()
    )
    assert {"middlebury2003", "eth3d", "drivingstereo", "folder", "world"} <= set(list_datasets())
    with pytest.raises(UserError, match="did you mean 'kitti2015'"):
        create_dataset("kiti2015")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "/nowhere"}, "there is no folder /nowhere"),
        ({"root": None}, "needs root"),
        ({"split": "training"}, "data set 'kitti2015' has no split 'training'; did you mean 'train'"),
        ({"spilt": "train"}, "takes no option 'spilt'; did you mean 'split'"),
        ({"want": ["disparity_left"]}, "did you mean 'disparity"),
        ({"limit": 0}, "limit"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_read(make, options, message):
    root = make("kitti2015").root
    with pytest.raises(UserError, match=message):
        create_dataset("kitti2015", **{"root": root, **options})


def test_options_are_checked_where_a_data_set_hands_them_on(tmp_path):
    with pytest.raises(UserError, match="data set 'folder' takes no option 'length'"):
        create_dataset("folder", tmp_path, length=6)
    with pytest.raises(UserError, match="data set 'world' cannot be made with length='many': "):
        create_dataset("world", length="many")
    for option in ("length", "seed"):  # what a flag of 1e4 means
        with pytest.raises(UserError, match=f"data set 'world' cannot be made with {option}=10000.0: "):
            create_dataset("world", **{option: 1e4})


def test_an_empty_root_says_which_layout_was_expected(tmp_path):
    for name in set(list_datasets()) - {"world", "labelled_folder"}:  # which also wants to know its classes
        with pytest.raises(UserError, match=f"data set '{name}': nothing of split .* expected .*"):
            create_dataset(name, tmp_path)


@pytest.mark.parametrize(
    ("maker", "file", "message"),
    [
        ("kitti2015", "training/image_3/000102_10.png", "sample 000102_10 has no right image"),
        ("kitti2015", "training/image_2/000102_10.png", "sample 000102_10 has no left image"),
        ("kitti2015", "training/disp_occ_0/000102_10.png", "sample 000102_10 has no disparity"),
        ("sceneflow_merged", "frames_finalpass/TRAIN/A/0000/right/0006.png", "has no right image"),
        ("sceneflow_merged", "disparity/TRAIN/A/0000/left/0006.pfm", "has no disparity"),
        ("middlebury2014", "Piano-imperfect/im1.png", "has no right image"),
        ("middlebury2014", "Piano-imperfect/disp0.pfm", "has no disparity"),
        ("middlebury2003", "teddy/im6.png", "has no right image"),
        ("eth3d", "two_view_training/forest_2s/im1.png", "has no right image"),
        ("folder_pfm", "right/drive1/0002.png", "has no right image"),
        ("folder_pfm", "left/single.png", "has no left image"),
    ],
)
def test_a_file_without_its_counterpart_is_named(make, maker, file, message):
    layout = make(maker)
    (layout.root / file).unlink()
    with pytest.raises(UserError, match=message) as caught:
        layout.open()
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def narrow(path):
    formats.write_image(path, formats.read_raster(path)[:, :-4])


def colour(path):
    formats.write_image(path, np.arange(32 * 60 * 3, dtype=np.uint8).reshape(32, 60, 3))


def narrow_pfm(path):
    formats.write_pfm(path, formats.read_pfm(path)[:, :-4])


def nothing_known(path):
    formats.write_pfm(path, np.full_like(formats.read_pfm(path), np.inf))


def nothing_known_png(path):
    formats.write_image(path, np.zeros((32, 60), np.uint16))


@pytest.mark.parametrize(
    ("maker", "file", "spoil", "message"),
    [
        ("middlebury2014", "Adirondack-perfect/im0.png", cut, "cut off"),
        ("middlebury2014", "Adirondack-perfect/im1.png", damage, "damaged"),
        ("middlebury2014", "Adirondack-perfect/im1.png", lambda path: path.write_bytes(b""), "empty"),
        (
            "middlebury2014",
            "Adirondack-perfect/im1.png",
            lambda path: path.write_text("no image"),
            "not an image",
        ),
        ("middlebury2014", "Adirondack-perfect/disp0.pfm", cut, "cut off"),
        ("middlebury2014", "Adirondack-perfect/disp0.pfm", nothing_known, "no valid pixel"),
        ("middlebury2014", "Adirondack-perfect/disp0.pfm", narrow_pfm, "is 56x32 px, its image 60x32"),
        (
            "middlebury2014",
            "Adirondack-perfect/im1.png",
            narrow,
            "views differ in size: .* 60x32 px, .* 56x32",
        ),
        (
            "sceneflow_merged",
            "disparity/TRAIN/15mm_focallength/scene_forwards/fast/left/0006.pfm",
            cut,
            "cut off",
        ),
        ("kitti2015", "training/disp_occ_0/000100_10.png", cut, "cut off"),
        ("kitti2015", "training/disp_occ_0/000100_10.png", nothing_known_png, "no valid pixel"),
        ("kitti2015", "training/disp_noc_0/000100_10.png", narrow, "is 56x32 px, its image 60x32"),
        ("kitti2015", "training/obj_map/000100_10.png", narrow, "is 56x32 px, its image 60x32"),
        ("kitti2015", "training/obj_map/000100_10.png", colour, "is a colour picture"),
        ("folder_8_bit", "disparity/drive1/0001.png", cut, "cut off"),
        ("folder_npy", "disparity/drive1/0001.npy", cut, "NPY"),
    ],
)
def test_a_bad_file_is_named_in_one_line(make, maker, file, spoil, message):
    layout = make(maker)
    spoil(layout.root / file)
    with pytest.raises(UserError, match=message) as caught:
        layout.open()[0]
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_8_bit_disparity_map_needs_its_scale(make):
    with pytest.raises(UserError, match="give disparity_scale"):
        make("folder_8_bit").open(disparity_scale=None)[0]


def test_a_line_of_a_list_that_is_no_pair_is_named(make):
    layout = make("folder_listed")
    (layout.root / "train.txt").write_text("# left right disparity\n\na.png b.png c.png d.png\n")
    with pytest.raises(UserError, match=r"train.txt, line 3: expected 2 or 3 columns"):
        layout.open()


def test_a_list_may_leave_out_the_ground_truth(make):
    layout = make("folder_listed")
    (layout.root / "test.txt").write_text("testing/image_2/000000_10.png testing/image_3/000000_10.png\n")
    assert layout.open(pairs="test.txt")[0].keys() == {"left", "right", "meta"}


@pytest.mark.parametrize(
    ("name", "images", "truth", "is_called"),
    [
        ("depth_folder", ("image",), "depth", "no depth is read: .*depth holds 1_depth.png"),
        ("folder", ("left", "right"), "disparity", "no disparity is read: .*disparity holds 1_depth.png"),
    ],
)
def test_ground_truth_of_which_no_file_is_called_like_an_image_is_warned_of(
    name, images, truth, is_called, tmp_path
):
    for folder in images:
        (tmp_path / folder).mkdir()
        formats.write_image(tmp_path / folder / "1.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / truth).mkdir()
    assert truth not in create_dataset(name, root=tmp_path)[0]  # of an empty folder nothing is said
    known = np.full((8, 8), 3000, np.uint16)
    formats.write_image(tmp_path / truth / "1_depth.png", known)
    with pytest.warns(DataWarning, match=is_called):
        assert truth not in create_dataset(name, root=tmp_path)[0]
    formats.write_image(tmp_path / truth / "1.png", known)
    assert truth in create_dataset(name, root=tmp_path)[0]
