"""Published splits are made of a data set's root by rule, and shared samples are said."""

import numpy as np
import pytest

from densedistill.cli import main
from densedistill.data import formats
from densedistill.data.datasets import create_dataset
from densedistill.data.lists import list_lines, overlap, shared
from densedistill.errors import UserError
from densedistill.recipes import load_recipe
from densedistill.training.validation import trained_on

VALIDATED = [1, 6, 26, 38, 43, 49, 67, 81, 89, 109, 122, 129, 132, 141, 152, 159, 171, 179, 184, 187]
LAYOUTS = {
    "kitti2012": (("colored_0", "colored_1", "disp_occ", "disp_noc"), 194),
    "kitti2015": (("image_2", "image_3", "disp_occ_0", "disp_noc_0"), 200),
}


@pytest.fixture(scope="module")
def kitti(tmp_path_factory):
    root = tmp_path_factory.mktemp("kitti")
    for name, (folders, count) in LAYOUTS.items():
        for folder in (*folders, "obj_map"):
            place = root / name / "training" / folder
            place.mkdir(parents=True)
            for number in range(count):
                (place / f"{number:06d}_10.png").write_bytes(b"listed, never read")
    return root


def numbers(name, root, split):
    return [int(line[:6]) for line in create_dataset(name, root=root / name, split=split).names]


def test_kitti_is_split_as_tsnnet_splits_it(kitti):
    for name, (_, count) in LAYOUTS.items():
        assert numbers(name, kitti, "published-val") == VALIDATED
        held_out = name == "kitti2015"
        expected = [i for i in range(count) if not (held_out and i in VALIDATED)]
        assert numbers(name, kitti, "published-train") == expected
        assert len(expected) == (180 if held_out else 194)


@pytest.mark.parametrize("name", LAYOUTS)
def test_our_own_split_has_no_frame_in_both_parts(name, kitti):
    fit, val = (set(numbers(name, kitti, split)) for split in ("fit", "val"))
    assert not fit & val
    assert len(fit | val) == LAYOUTS[name][1]
    assert overlap(name, kitti / name, "val") == ""


def test_a_list_names_left_right_and_disparity(kitti):
    lines = list_lines("kitti2015", kitti / "kitti2015", "published-val")
    assert lines[0] == " ".join(f"training/{f}/000001_10.png" for f in ("image_2", "image_3", "disp_occ_0"))
    assert len(lines) == 20


def test_published_splits_that_overlap_are_said(kitti, capsys, tmp_path):
    assert overlap("kitti2015", kitti / "kitti2015", "published-val") == ""
    out = tmp_path / "list.txt"
    flags = ["kitti2012", str(kitti / "kitti2012"), "--split", "published-val", "--out", str(out)]
    assert main(["data", "list", *flags]) == 0
    printed = capsys.readouterr()
    assert "20 samples of kitti2012 are in published-val and in published-train (000001_10, …)" in printed.err
    assert "wrote 20 samples" in printed.out
    assert len(out.read_text().splitlines()) == 20


def test_a_recipe_that_validates_on_what_it_trains_on_is_told(kitti):
    fields = {
        "student": {"name": "dsnet_slim"},
        "objective": {"truth": {"loss": "l1", "of": "disparity", "to": "ground_truth"}},
        "schedule": {"steps": 1},
    }
    root = str(kitti / "kitti2012")
    for train, validate, count in (
        ("train", "published-val", 20),
        ("fit", "val", 0),
        ("published-train", "val", 39),
    ):
        data = {
            "train": {"name": "kitti2012", "root": root, "split": train},
            "validate": {"name": "kitti2012", "root": root, "split": validate},
        }
        warnings = trained_on(load_recipe({**fields, "data": data}))
        assert [warning.split()[0] for warning in warnings] == ([str(count)] if count else [])


def test_what_is_said_of_samples_in_common_fits_the_data_set():
    several = shared("kitti2012", {"000001_10", "000003_10"}, ("val", "train"))
    assert several.startswith("2 samples of kitti2012 are in val and in train (000001_10, …), ")
    assert several.endswith("fit and val have none in common")
    one = shared("folder", {"a"}, ("all", "all"))
    assert one.startswith("1 sample of folder is used twice (a), in training and in validation: ")
    assert one.endswith("validate on others"), "it has no splits"


def test_what_is_not_named_as_the_layout_has_it_is_no_frame(tmp_path):
    """A preview that somebody left beside the images, for one."""
    for folder in LAYOUTS["kitti2015"][0]:
        (tmp_path / "training" / folder).mkdir(parents=True)
        for name in ("000001_10", "abc_10"):
            (tmp_path / "training" / folder / f"{name}.png").write_bytes(b"listed, never read")
    for split in ("train", "published-val"):
        assert create_dataset("kitti2015", root=tmp_path, split=split).names == ["000001_10"]


def test_flyingthings3d_alone_is_its_train(tmp_path):
    places = (
        "TRAIN/A/0000",
        "TRAIN/C/0001",
        "TEST/A/0000",
        "family_x2",
        "15mm_focallength/scene_forwards/fast",
    )
    for place in places:
        for view in ("left", "right"):
            for base, end in (("frames_finalpass", "png"), ("disparity", "pfm")):
                file = tmp_path / base / place / view / f"0006.{end}"
                file.parent.mkdir(parents=True)
                file.write_bytes(b"listed")
    chosen = create_dataset("sceneflow", root=tmp_path, split="train-flyingthings3d", rendering="final")
    assert chosen.names == ["TRAIN/A/0000/0006", "TRAIN/C/0001/0006"]
    assert len(create_dataset("sceneflow", root=tmp_path, split="train")) == 4
    lines = list_lines("sceneflow", tmp_path, "train-flyingthings3d")
    assert lines[0].split()[2] == "disparity/TRAIN/A/0000/left/0006.pfm"


def test_a_split_with_missing_files_is_refused_in_one_line(tmp_path):
    for folder in ("image_2", "image_3", "disp_occ_0", "disp_noc_0", "obj_map"):
        (tmp_path / "training" / folder).mkdir(parents=True)
        for number in (1, 6):
            (tmp_path / "training" / folder / f"{number:06d}_10.png").write_bytes(b"listed")
    (tmp_path / "training" / "disp_occ_0" / "000006_10.png").unlink()
    with pytest.raises(UserError, match="sample 000006_10 has no disparity") as error:
        list_lines("kitti2015", tmp_path, "published-val")
    assert "\n" not in str(error.value)


def test_what_a_list_cannot_hold_is_refused(tmp_path):
    for folder in ("left", "right"):
        (tmp_path / folder).mkdir()
        formats.write_image(tmp_path / folder / "a b.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UserError, match=r"cannot name 'left/a b\.png'"):
        list_lines("folder", tmp_path)
    with pytest.raises(UserError, match="'world' is not made of files"):
        list_lines("world", tmp_path)


def test_middlebury_measures_by_the_full_size_whatever_was_predicted(tmp_path):
    for size, scale in (("F", 4), ("H", 2), ("Q", 1)):
        scene = tmp_path / f"training{size}" / "Adirondack"
        scene.mkdir(parents=True)
        for view in ("im0.png", "im1.png"):
            formats.write_image(scene / view, np.zeros((8 * scale, 12 * scale, 3), np.uint8))
        formats.write_pfm(scene / "disp0GT.pfm", np.full((8 * scale, 12 * scale), 5.0 * scale, np.float32))
        (scene / "calib.txt").write_text(
            "cam0=[4 0 2; 0 4 2; 0 0 1]\ncam1=[4 0 2; 0 4 2; 0 0 1]\ndoffs=0\nbaseline=100\n"
            f"width={12 * scale}\nheight={8 * scale}\nndisp={16 * scale}\n"
        )
    sample = create_dataset("middleburyeval3", root=tmp_path, resolution="Q", truth="F")[0]
    assert sample["left"].shape == (3, 8, 12)
    assert sample["disparity"].shape == (1, 32, 48)
    assert sample["meta"]["ndisp"] == 64
    assert create_dataset("middleburyeval3", root=tmp_path, resolution="Q")[0]["meta"]["ndisp"] == 16
    with pytest.raises(UserError, match="as large as the images or larger"):
        create_dataset("middleburyeval3", root=tmp_path, resolution="H", truth="Q")
