import json

import cv2
import numpy as np
import pytest

from densedistill import UserError
from densedistill.data import create_dataset, formats
from densedistill.data.check import check_dataset


def by_split(layout, **options):
    return {survey.split: survey for survey in check_dataset(layout.name, layout.root, **options)}


def test_a_whole_data_set_is_usable_in_every_layout(layout):
    surveys = check_dataset(layout.name, layout.root, **layout.options)
    there = [survey for survey in surveys if not survey.absent]
    assert sum(survey.samples for survey in there) >= len(layout.scenes)
    assert all(survey.usable for survey in there)
    assert all(role.found == survey.samples for survey in there for role in survey.roles.values())


def test_counts_are_told_beside_those_of_the_whole_set(make):
    surveys = by_split(make("kitti2015"))
    assert (surveys["train"].samples, surveys["train"].expected) == (7, 200)
    assert (surveys["test"].samples, surveys["test"].expected) == (1, 200)
    assert surveys.keys() == {"train", "test"}


def test_an_absent_split_says_what_was_expected(make):
    surveys = by_split(make("kitti2012"))
    assert surveys["train"].usable
    assert not surveys["test"].usable
    assert "nothing of split 'test'" in surveys["test"].absent


def test_missing_files_are_counted_and_the_paths_given(make):
    layout = make("kitti2015")
    for name in ("000101_10", "000103_10"):
        (layout.root / f"training/image_3/{name}.png").unlink()
    (layout.root / "training/disp_noc_0/000100_10.png").unlink()
    train = by_split(layout)["train"]
    right, mask = train.roles["right"], train.roles["nonoccluded"]
    assert (right.found, [path.name for path in right.missing]) == (5, ["000101_10.png", "000103_10.png"])
    assert (mask.found, len(mask.missing), mask.required) == (6, 1, False)
    assert not train.usable


def test_what_can_be_done_without_leaves_a_data_set_usable(make):
    layout = make("kitti2015")
    (layout.root / "training/obj_map/000100_10.png").unlink()
    assert by_split(layout)["train"].usable


def test_broken_files_are_named_unless_only_listed(make):
    layout = make("middlebury2014")
    truth = layout.root / "Piano-imperfect" / "disp0.pfm"
    truth.write_bytes(truth.read_bytes()[:100])
    survey = by_split(layout)["all"]
    ((name, reason),) = survey.broken
    assert name == "Piano-imperfect"
    assert str(truth) in reason
    assert not survey.usable
    listed = by_split(layout, fast=True)["all"]
    assert listed.broken is None
    assert listed.usable


@pytest.mark.parametrize(
    ("name", "images", "truths", "options"),
    [
        ("icl_nuim", "color", "depth", {}),
        ("camvid", "train", "trainannot", {"split": "train"}),
        ("labelled_folder", "images", "labels", {"classes": ("a", "b"), "split": "all"}),
    ],
)
def test_single_images_are_checked_as_pairs_are(tmp_path, name, images, truths, options):
    for folder in (images, truths):
        (tmp_path / folder).mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / images / f"{number}.png"), np.full((8, 8, 3), 9, np.uint8))
        cv2.imwrite(str(tmp_path / truths / f"{number}.png"), np.full((8, 8), 1, np.uint8))
    (survey,) = check_dataset(name, tmp_path, **options)
    assert (survey.samples, survey.broken, survey.usable) == (3, [], True)
    (tmp_path / truths / "1.png").unlink()
    broken = tmp_path / images / "2.png"
    broken.write_bytes(broken.read_bytes()[:40])
    (survey,) = check_dataset(name, tmp_path, **options)
    assert [path.name for role in survey.roles.values() for path in role.missing] == ["1.png"]
    assert any(name == "2" for name, _ in survey.broken)
    assert not survey.usable


def test_a_split_that_is_anothers_files_is_told_once(tmp_path):
    for folder, names in (("pictures", "ab"), ("train2017", "a"), ("val2017", "b")):
        (tmp_path / folder).mkdir()
        for name in names:
            cv2.imwrite(str(tmp_path / folder / f"{name}.png"), np.full((8, 8, 3), 9, np.uint8))
    images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate("ab")]
    content = {"categories": [{"id": 1, "name": "cell"}], "images": images, "annotations": []}
    (tmp_path / "cells.json").write_text(json.dumps(content))
    options = {"annotations": "cells.json", "images": "pictures"}
    assert [(s.split, s.samples) for s in check_dataset("coco", tmp_path, **options)] == [("train", 2)]
    assert [s.split for s in check_dataset("coco", tmp_path, split="val", **options)] == ["val"]
    del options["images"]
    train, val = check_dataset("coco", tmp_path, **options)
    assert [role.missing[0].name for role in (train.roles["image"], val.roles["image"])] == ["b.png", "a.png"]


def test_views_that_look_swapped_are_named_unless_only_listed(tmp_path):
    sample = create_dataset("middlebury2003")[0]
    for view, key in (("left", "right"), ("right", "left")):
        formats.write_image(tmp_path / view / "cones.png", sample[key].permute(1, 2, 0).numpy())
    (survey,) = check_dataset("folder", tmp_path)
    assert survey.doubt == "left and right look swapped (cones)"
    assert survey.usable
    (survey,) = check_dataset("folder", tmp_path, fast=True)
    assert survey.doubt == ""
    (tmp_path / "left").rename(tmp_path / "aside")
    (tmp_path / "right").rename(tmp_path / "left")
    (tmp_path / "aside").rename(tmp_path / "right")
    (survey,) = check_dataset("folder", tmp_path)
    assert survey.doubt == ""
    (tmp_path / "left" / "cones.png").write_bytes(b"")
    (survey,) = check_dataset("folder", tmp_path)
    assert (survey.doubt, len(survey.broken)) == ("", 1)


def test_progress_reaches_the_number_of_samples(make):
    calls = []
    layout = make("kitti2015")
    check_dataset(layout.name, layout.root, progress=lambda *call: calls.append(call), split="train")
    assert calls[-1] == ("train", 7, 7)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("world", {}, "not made of files"),
        ("kiti2015", {}, "did you mean 'kitti2015'"),
        ("kitti2015", {"spit": "train"}, "did you mean 'split'"),
        ("kitti2015", {"root": "/nowhere"}, "there is no folder /nowhere"),
    ],
)
def test_what_cannot_be_checked_is_one_line(tmp_path, name, options, message):
    with pytest.raises(UserError, match=message):
        check_dataset(name, **{"root": tmp_path, **options})
