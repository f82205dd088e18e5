"""Images with class maps and with boxes: files made in each data set's layout, real ones where there are."""

import json
import shutil
import time

import numpy as np
import pytest
import torch
from cityscapesscripts.helpers import labels as scripts
from PIL import Image

import densedistill as dd
from densedistill.data.augment import build_augmentation
from densedistill.data.datasets import create_dataset
from densedistill.data.datasets.cityscapes import LABEL_IDS, TRAIN_IDS, Cityscapes
from densedistill.data.sample import collate


def picture(path, size=(12, 16), value=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path)))
    Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8) if value is None else value).save(path)


def labels(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


@pytest.fixture
def camvid(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for i in range(count):
            picture(tmp_path / split / f"{i}.png")
            values = np.full((12, 16), i)
            values[0] = 11
            labels(tmp_path / f"{split}annot" / f"{i}.png", values)
    return tmp_path


def test_camvid_has_eleven_classes_and_its_unlabelled_pixels_are_void(camvid):
    dataset = create_dataset("camvid", root=camvid, split="train")
    assert (len(dataset), len(dataset.classes), dataset.task) == (3, 11, "segmentation")
    sample = dataset[2]
    assert sample["image"].shape == (3, 12, 16)
    assert sample["image"].dtype == torch.uint8
    assert sample["labels"].dtype == torch.int64
    assert (sample["labels"][0] == 255).all()
    assert (sample["labels"][1:] == 2).all()
    assert len(create_dataset("camvid", root=camvid, split="val")) == 2


def test_images_and_labels_are_resized_together_and_cached(camvid):
    dataset = create_dataset("camvid", root=camvid, split="train", size=[6, 8], cache=True)
    sample = dataset[1]
    assert sample["image"].shape == (3, 6, 8)
    assert set(sample["labels"].unique().tolist()) <= {1, 255}
    (camvid / "train" / "1.png").unlink()
    assert torch.equal(dataset[1]["labels"], sample["labels"])


def test_labelled_and_unlabelled_images_mix_in_one_batch(camvid):
    known = create_dataset("camvid", root=camvid, split="train")
    bare = create_dataset("camvid", root=camvid, split="val", labelled=False)
    batch = collate([known[0], bare[0]])
    assert "labels" not in bare[0]
    assert (batch["labels"][1] == 255).all()
    assert (batch["labels"][0] != 255).any()


def test_labels_in_a_jpeg_are_refused_though_they_be_within_the_classes(tmp_path):
    picture(tmp_path / "images" / "a.png")
    labels(tmp_path / "labels" / "a.jpg", np.repeat([[0], [1]], 6, 0).repeat(16, 1))
    for options in ({"classes": ["a", "b", "c"]}, {"colours": {"a": [0, 0, 0], "b": [1, 1, 1]}}):
        with pytest.raises(dd.UserError, match=r"a\.jpg is a JPEG"):
            create_dataset("labelled_folder", root=tmp_path, **options)[0]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.full((12, 16), 12), "holds label 12, the data set 'camvid' has classes 0 to 10"),
        (np.full((12, 16), 11), "all void"),
        (np.zeros((12, 15)), "15x12 px, its image 16x12"),
        (np.zeros((12, 16, 3)), "is a RGB image"),
    ],
)
def test_labels_that_do_not_fit_are_refused_in_one_line(camvid, values, says):
    labels(camvid / "trainannot" / "0.png", values)
    dataset = create_dataset("camvid", root=camvid, split="train")
    with pytest.raises(dd.UserError, match=says) as refused:
        dataset[0]
    assert "\n" not in str(refused.value)
    assert "0.png" in str(refused.value)


@pytest.mark.parametrize("label", [-2, -1, 300])
def test_labels_that_are_no_byte_are_refused_not_wrapped(tmp_path, label):
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    values = np.zeros((12, 16), np.int32)
    values[0, 0] = label
    Image.fromarray(values).save(tmp_path / "labels" / "a.tif")
    dataset = create_dataset("labelled_folder", root=tmp_path, classes=["a"])
    with pytest.raises(dd.UserError, match=rf"a\.tif holds label {label}; labels are 0 to 254, 255 is void"):
        dataset[0]


def test_missing_labels_damaged_labels_and_a_missing_folder_are_told(camvid, monkeypatch):
    (camvid / "trainannot" / "1.png").write_bytes(b"no picture")
    with pytest.raises(dd.UserError, match=r"cannot read labels from .*1\.png"):
        create_dataset("camvid", root=camvid, split="train")[1]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(dd.UserError, match=r"cannot read labels from .*0\.png: Image size .* exceeds limit"):
        create_dataset("camvid", root=camvid, split="train")[0]
    data = bytearray((camvid / "trainannot" / "0.png").read_bytes())
    data[data.index(b"IDAT") + 12] ^= 1
    (camvid / "trainannot" / "1.png").write_bytes(data)
    with pytest.raises(dd.UserError, match=r"1\.png is damaged"):
        create_dataset("camvid", root=camvid, split="train")[1]
    (camvid / "trainannot" / "1.png").unlink()
    with pytest.raises(dd.UserError, match=r"1 has no labels, .* is missing.*labelled: false"):
        create_dataset("camvid", root=camvid, split="train")
    with pytest.raises(dd.UserError, match="nothing of split 'test'"):
        create_dataset("camvid", root=camvid, split="test")
    with pytest.raises(dd.UserError, match="there is no folder"):
        create_dataset("camvid", root=camvid / "nowhere")
    with pytest.raises(dd.UserError, match=r"size \[height, width\]"):
        create_dataset("camvid", root=camvid, split="val", size=[3])


def test_cityscapes_maps_label_ids_to_train_ids(tmp_path):
    for split in ("train", "test"):
        picture(tmp_path / "leftImg8bit" / split / "ulm" / "ulm_000000_000019_leftImg8bit.png", (4, 8))
    stored = np.array([[7, 8, 33, 0], [1, 26, 255, 29]]).repeat(2, 0).repeat(2, 1)
    labels(tmp_path / "gtFine" / "train" / "ulm" / "ulm_000000_000019_gtFine_labelIds.png", stored)
    dataset = create_dataset("cityscapes", root=tmp_path, split="train")
    assert dataset.names == ["ulm/ulm_000000_000019"]
    expected = (
        torch.tensor([[0, 1, 18, 255], [255, 13, 255, 255]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    )
    assert torch.equal(dataset[0]["labels"], expected)
    assert "labels" not in create_dataset("cityscapes", root=tmp_path, split="test")[0]


def test_cityscapes_archives_may_have_a_folder_each(tmp_path):
    for split, part in (("train", "trainvaltest"), ("train_extra", "trainextra")):
        images = tmp_path / f"leftImg8bit_{part}" / "leftImg8bit" / split / "ulm"
        picture(images / "ulm_1_leftImg8bit.png", (4, 8))
    for folder, inside in (("gtFine_trainvaltest/gtFine", "train"), ("gtCoarse/gtCoarse", "train_extra")):
        kind = folder.rpartition("/")[2]
        path = tmp_path / folder / inside / "ulm" / f"ulm_1_{kind}_labelIds.png"
        labels(path, np.full((4, 8), 7 if kind == "gtFine" else 8))
    for split, number in (("train", 0), ("train_extra", 1)):
        dataset = create_dataset("cityscapes", root=tmp_path, split=split)
        assert (dataset.names, dataset[0]["labels"].unique().tolist()) == (["ulm/ulm_1"], [number])


@pytest.mark.parametrize(("split", "options"), [("train_extra", {}), ("train", {"quality": "coarse"})])
def test_cityscapes_coarse_labels_lie_in_a_folder_of_their_own(tmp_path, split, options):
    picture(tmp_path / "leftImg8bit" / split / "ulm" / "ulm_1_leftImg8bit.png", (4, 8))
    for kind, stored in (("gtFine", 7), ("gtCoarse", 8)):
        labels(tmp_path / kind / split / "ulm" / f"ulm_1_{kind}_labelIds.png", np.full((4, 8), stored))
    dataset = create_dataset("cityscapes", root=tmp_path, split=split, **options)
    assert dataset[0]["labels"].unique().tolist() == [1]


def test_cityscapes_table_is_that_of_its_own_scripts():
    theirs = {
        label.id: label.trainId for label in scripts.labels if 0 <= label.trainId < 19 and label.id >= 0
    }
    assert theirs == TRAIN_IDS
    assert tuple(scripts.trainId2label[i].name for i in range(19)) == tuple(Cityscapes.classes)
    assert tuple(scripts.trainId2label[i].color for i in range(19)) == Cityscapes.colours
    assert {train: stored for stored, train in theirs.items()} == LABEL_IDS


def test_voc_reads_its_lists_and_borders_are_void(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        values = np.full((12, 16), 20)
        values[:, 0] = 255
        labels(tmp_path / "SegmentationClassAug" / f"{name}.png", values)
    lists = tmp_path / "ImageSets" / "SegmentationAug"
    lists.mkdir(parents=True)
    (lists / "train_aug.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("b\n")
    dataset = create_dataset("voc", root=tmp_path)
    assert dataset.names == ["a", "b"]
    assert dataset[0]["labels"].unique().tolist() == [20, 255]
    assert create_dataset("voc", root=tmp_path, split="val").names == ["b"]
    (lists / "train_aug.txt").rename(lists / "trainaug.txt")
    assert create_dataset("voc", root=tmp_path).names == ["a", "b"]
    (tmp_path / "ImageSets" / "Segmentation").mkdir()
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n")
    labels(tmp_path / "SegmentationClass" / "a.png", np.full((12, 16), 3))
    original = create_dataset("voc", root=tmp_path, augmented=False)
    assert (original.names, original[0]["labels"].unique().tolist()) == (["a"], [3])


def test_voc_of_several_years_is_the_last_and_says_what_to_do_without_augmented_labels(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        base = tmp_path / "VOCdevkit" / year
        picture(base / "JPEGImages" / f"{year}.jpg")
        labels(base / "SegmentationClass" / f"{year}.png", np.full((12, 16), 3))
        (base / "ImageSets" / "Segmentation").mkdir(parents=True)
        for split in ("train", "val"):
            (base / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(f"{year}\n")
    assert create_dataset("voc", root=tmp_path, augmented=False).names == ["VOC2012"]
    with pytest.raises(dd.UserError, match=r"nothing of split 'train' .* with augmented: false, Segm"):
        create_dataset("voc", root=tmp_path)
    with pytest.raises(dd.UserError, match=r"VOC2012 has no labels, .* augmented: false reads VOC's own"):
        create_dataset("voc", root=tmp_path, split="val")


def test_a_folder_of_your_own_takes_numbers_ids_and_colours(tmp_path):
    picture(tmp_path / "images" / "day" / "x.jpg", (2, 3))
    labels(tmp_path / "labels" / "day" / "x.png", [[0, 1, 9], [1, 1, 255]])
    plain = create_dataset("labelled_folder", root=tmp_path, classes=["sky", "road"], ids={0: "sky", 1: 1})
    assert plain.names == ["day/x"]
    assert plain[0]["labels"].tolist() == [[0, 1, 255], [1, 1, 255]]
    with pytest.raises(dd.UserError, match="holds label 9"):
        create_dataset("labelled_folder", root=tmp_path, classes=["sky", "road"])[0]
    colours = np.array([[[0, 0, 255], [128, 64, 0], [1, 1, 1]]] * 2, np.uint8)
    picture(tmp_path / "painted" / "day" / "x.png", value=colours)
    painted = create_dataset(
        "labelled_folder", root=tmp_path, labels="painted", colours={"sky": [0, 0, 255], "road": [128, 64, 0]}
    )
    assert painted.classes == ("sky", "road")
    assert painted[0]["labels"].tolist() == [[0, 1, 255]] * 2


def test_a_sample_of_your_own_has_one_name_whichever_split_it_is_read_by(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / "images" / split / "0.png")
        labels(tmp_path / "labels" / split / "0.png", np.zeros((12, 16)))
    names = {
        split: create_dataset("labelled_folder", root=tmp_path, split=split, classes=["a"]).names
        for split in ("all", "train", "val")
    }
    assert names == {"all": ["train/0", "val/0"], "train": ["train/0"], "val": ["val/0"]}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "needs classes"),
        ({"classes": ["sky"], "ids": {0: "road"}}, r"'road' is none of its classes \(sky\)"),
        ({"classes": ["sky"], "ids": {300: "sky"}}, "from 0 to 255, got '300'"),
        ({"colours": {"sky": [0, 0]}}, "colour of 'sky' is three numbers"),
        ({"classes": ["sky"], "ids": {}, "colours": {}}, "ids or colours, not both"),
        ({"classes": "sky"}, r"classes is a list of names, got 'sky'; write \[sky\]"),
        ({"classes": ["sky"], "ids": ["sky"]}, "ids is a mapping"),
        ({"classes": ["sky"], "labels": "nowhere"}, "there is no folder"),
    ],
)
def test_a_map_that_makes_no_sense_is_refused(tmp_path, options, says):
    picture(tmp_path / "images" / "x.jpg", (2, 3))
    with pytest.raises(dd.UserError, match=says):
        create_dataset("labelled_folder", root=tmp_path, **options)


def annotation(*objects):
    inside = "".join(
        f"<object><name>{name}</name><difficult>{hard}</difficult><bndbox><xmin>{box[0]}</xmin>"
        f"<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box, hard in objects
    )
    return f"<annotation>{inside}</annotation>"


@pytest.fixture
def cells(tmp_path):
    base = tmp_path / "BCCD"
    picture(base / "JPEGImages" / "one.jpg", (60, 80))
    (base / "Annotations").mkdir()
    (base / "ImageSets" / "Main").mkdir(parents=True)
    (base / "ImageSets" / "Main" / "train.txt").write_text("one\n")
    write_cells(base, ("RBC", (1, 1, 80, 60), 0), ("WBC", (11, 21, 30, 40), 0), ("WBC", (5, 5, 9, 9), 1))
    return base


def write_cells(base, *objects):
    (base / "Annotations" / "one.xml").write_text(annotation(*objects))


def test_boxes_in_xml_count_pixels_from_one(cells):
    sample = create_dataset("bccd", root=cells.parent)[0]
    assert sample["boxes"].tolist() == [[0, 0, 80, 60], [10, 20, 30, 40]]
    assert sample["boxes"].dtype == torch.float32
    assert sample["classes"].tolist() == [0, 1]
    small = create_dataset("bccd", root=cells.parent, size=[30, 20])[0]
    assert small["boxes"].tolist() == [[0, 0, 20, 30], [2.5, 10, 7.5, 20]]
    write_cells(cells, ("RBC", (0, 0, 81, 61), 0))  # a pixel beyond each side, as some tools write it
    assert create_dataset("bccd", root=cells.parent)[0]["boxes"].tolist() == [[0, 0, 80, 60]]


def test_difficult_objects_stand_aside_unless_they_are_to_count(cells):
    sample = create_dataset("bccd", root=cells.parent)[0]
    assert sample["ignored_boxes"].tolist() == [[4, 4, 9, 9]]
    assert sample["ignored_classes"].tolist() == [1]
    small = create_dataset("bccd", root=cells.parent, size=[30, 40])[0]
    assert small["ignored_boxes"].tolist() == [[2, 2, 4.5, 4.5]]
    counted = create_dataset("bccd", root=cells.parent, difficult=True)[0]
    assert counted["boxes"].tolist() == [[0, 0, 80, 60], [10, 20, 30, 40], [4, 4, 9, 9]]
    assert "ignored_boxes" not in counted
    write_cells(cells, ("WBC", (11, 21, 30, 40), 0), ("WBC", (5, 5, 5, 9), 1), ("part", (5, 5, 9, 9), 1))
    spoilt = create_dataset("bccd", root=cells.parent, bad_boxes="refuse")[0]
    assert spoilt["boxes"].tolist() == [[10, 20, 30, 40]]
    assert "ignored_boxes" not in spoilt


def test_boxes_follow_the_image_through_crop_and_mirror(cells):
    sample = create_dataset("bccd", root=cells.parent)[0]
    for exponent, factor in ((0.0, 1), (1.0, 2)):
        options = {"scale": (exponent, exponent), "flip_horizontal": 1.0}
        mirrored = build_augmentation(options, "detection")(sample, np.random.default_rng(0))
        assert torch.equal(mirrored["boxes"], factor * torch.tensor([[0.0, 0, 80, 60], [50, 20, 70, 40]]))


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        (("RBC", ("nan", 10, 20, 30), 0), "of a 'RBC' has no size"),
        (("RBC", (10, 10, 10, 30), 0), r"box \(9, 9, 10, 30\) of a 'RBC' has no size"),
        (("RBC", (10, 10, 95, 30), 0), "lies outside its image of 80x60 px"),
        (("RCB", (10, 10, 20, 30), 0), "class 'RCB', which .* does not have; did you mean 'RBC'"),
        (("RBC", ("x", 10, 20, 30), 0), "lacks a side of its box"),
    ],
)
def test_boxes_and_classes_that_do_not_fit_are_refused_in_one_line(cells, thing, says):
    write_cells(cells, ("WBC", (11, 21, 30, 40), 0), thing)
    with pytest.raises(dd.UserError, match=says) as refused:
        create_dataset("bccd", root=cells.parent, bad_boxes="refuse")[0]
    assert "one.xml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_bad_boxes_are_skipped_when_told_and_broken_xml_is_refused(cells):
    write_cells(cells, ("WBC", (11, 21, 30, 40), 0), ("RBC", (10, 10, 10, 30), 0))
    assert len(create_dataset("bccd", root=cells.parent)[0]["boxes"]) == 1
    (cells / "Annotations" / "one.xml").write_text("<annotation>")
    with pytest.raises(dd.UserError, match="is no XML"):
        create_dataset("bccd", root=cells.parent)[0]
    with pytest.raises(dd.UserError, match="bad_boxes is refuse or skip"):
        create_dataset("bccd", root=cells.parent, bad_boxes="drop")


def test_boxes_of_several_years_are_read_together(cells):
    cells.rename(cells.parent / "VOC2007")
    shutil.copytree(cells.parent / "VOC2007", cells.parent / "VOC2012")
    options = {"root": cells.parent, "classes": ["WBC", "RBC"]}
    assert create_dataset("voc_detection", **options).names == ["VOC2007/one", "VOC2012/one"]
    (cells.parent / "VOC2007/ImageSets/Main/train.txt").rename(
        cells.parent / "VOC2007/ImageSets/Main/test.txt"
    )
    assert create_dataset("voc_detection", split="test", **options).names == ["VOC2007/one"]


def test_voc_detection_takes_your_own_classes(cells):
    dataset = create_dataset("voc_detection", root=cells, classes=["WBC", "RBC"])
    assert dataset[0]["classes"].tolist() == [1, 0]


def test_coco_numbers_its_categories_in_order_and_puts_crowds_aside(tmp_path):
    for name in ("000000000001.jpg", "000000000002.jpg"):
        picture(tmp_path / "val2017" / name, (40, 50))
    content = {
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
        "images": [{"id": 1, "file_name": "000000000001.jpg"}, {"id": 2, "file_name": "000000000002.jpg"}],
        "annotations": [
            {"image_id": 1, "category_id": 90, "bbox": ["10", "5", "20", "30"]},  # as some tools do
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "iscrowd": 1},
            {"image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 0]},
            {"image_id": 1, "category_id": 1, "bbox": [10, 5, 0.5, 4]},
        ],
    }
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    dataset = create_dataset("coco", root=tmp_path, split="val")
    assert dataset.classes == ("person", "toothbrush")
    # The one without size is left out, however thin another may be.
    assert dataset[0]["boxes"].tolist() == [[10, 5, 30, 35], [10, 5, 10.5, 9]]
    assert dataset[0]["classes"].tolist() == [1, 0]
    with pytest.raises(dd.UserError, match="of a 'person' has no size"):
        create_dataset("coco", root=tmp_path, split="val", bad_boxes="refuse")[0]
    assert dataset[0]["ignored_boxes"].tolist() == [[0, 0, 5, 5]]
    assert dataset[0]["ignored_classes"].tolist() == [0]
    assert dataset[1]["boxes"].shape == (0, 4)
    assert "ignored_boxes" not in dataset[1]
    batch = collate([dataset[0], dataset[1]])
    assert batch["classes"].tolist() == [[1, 0], [-1, -1]]
    assert batch["ignored_boxes"].shape == (2, 1, 4)
    assert batch["ignored_classes"].tolist() == [[0], [-1]]
    assert "boxes_valid" not in batch
    del content["categories"]
    path.write_text(json.dumps(content))
    with pytest.raises(dd.UserError, match="is not in COCO's format"):
        create_dataset("coco", root=tmp_path, split="val")


@pytest.mark.parametrize("folder", ["train2017", "images/train2017"])
def test_cocos_images_are_found_in_either_place_and_unlabelled_ones_need_no_boxes(tmp_path, folder):
    picture(tmp_path / folder / "1.jpg", (40, 50))
    content = {"categories": [{"id": 1, "name": "person"}], "images": [{"id": 1, "file_name": "1.jpg"}]}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    with pytest.raises(dd.UserError, match="not in COCO's format: KeyError 'annotations'"):
        create_dataset("coco", root=tmp_path)
    bare = create_dataset("coco", root=tmp_path, labelled=False)[0]
    assert (bare["image"].shape, "boxes" in bare) == ((3, 40, 50), False)


def test_many_categories_are_compared_in_no_time(tmp_path):
    content = {"categories": [{"id": i, "name": str(i)} for i in range(20_000)], "images": []}
    (tmp_path / "mine.json").write_text(json.dumps({**content, "annotations": []}))
    start = time.monotonic()
    with pytest.raises(dd.UserError, match="nothing of split"):
        create_dataset("coco", root=tmp_path, annotations="mine.json", images="images")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("key", ["id", "name"])
def test_two_categories_of_one_name_or_id_are_refused(key, tmp_path):
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    categories[1][key] = categories[0][key]
    content = {"categories": categories, "images": [], "annotations": []}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    with pytest.raises(
        dd.UserError, match=rf"mine\.json: two categories, 1 'cat' and .* have one {key}; give"
    ):
        create_dataset("coco", root=tmp_path, annotations="mine.json", images="images")


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_a_box_of_an_image_or_category_that_is_not_listed_is_named(key, tmp_path):
    box = {"image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 30], key: 7}
    listed = {"categories": [{"id": 1, "name": "cat"}], "images": [{"id": 1, "file_name": "1.jpg"}]}
    (tmp_path / "mine.json").write_text(json.dumps({**listed, "annotations": [box]}))
    with pytest.raises(dd.UserError, match=rf"mine\.json: a box is of {key} 7, which the file does not list"):
        create_dataset("coco", root=tmp_path, annotations="mine.json", images="images")


def test_coco_tells_pictures_of_one_name_in_several_folders_apart(tmp_path):
    for folder in ("a", "b"):
        picture(tmp_path / "images" / folder / "1.jpg", (40, 50))
    content = {
        "categories": [{"id": 1, "name": "person"}],
        "images": [{"id": 1, "file_name": "a/1.jpg"}, {"id": 2, "file_name": "../images/b/1.jpg"}],
        "annotations": [
            {"image_id": number, "category_id": 1, "bbox": [10 * number, 5, 20, 30]} for number in (1, 2)
        ],
    }
    (tmp_path / "mine.json").write_text(json.dumps(content))
    dataset = create_dataset("coco", root=tmp_path, annotations="mine.json", images="images")
    assert dataset.names == ["a/1", "images/b/1"]
    assert [sample["boxes"].tolist() for sample in dataset] == [[[10, 5, 30, 35]], [[20, 5, 40, 35]]]


@pytest.fixture(params=["coco", "voc_detection"])
def boxed(request, tmp_path):
    """Return what writes a data set of one image of 80x60 px, a box on it, given its EXIF orientation and
    the (height, width) that the annotation says."""

    def write(orientation, size):
        exif = Image.Exif()
        exif[0x0112] = orientation
        folder = {"coco": "val2017", "voc_detection": "JPEGImages"}[request.param]
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(tmp_path / folder / "one.jpg", exif=exif)
        (tmp_path / "annotations").mkdir()
        (tmp_path / "Annotations").mkdir()
        (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
        if request.param == "coco":
            image = {"id": 1, "file_name": "one.jpg"} | (size or {})
            box = {"image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 20]}
            content = {"categories": [{"id": 1, "name": "cat"}], "images": [image], "annotations": [box]}
            (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
        else:
            says = "".join(f"<{side}>{value}</{side}>" for side, value in (size or {}).items())
            objects = annotation(("cat", (11, 21, 40, 40), 0)).removeprefix("<annotation>")
            (tmp_path / "Annotations" / "one.xml").write_text(f"<annotation><size>{says}</size>{objects}")
            (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("one\n")
        return create_dataset(request.param, root=tmp_path, split="val")

    return write


def test_boxes_of_a_photograph_as_it_is_shown_are_refused_where_it_is_stored_turned(boxed):
    with pytest.raises(dd.UserError, match=r"one.jpg is 80x60 px, its boxes are of 60x80.*EXIF"):
        boxed(6, {"height": 80, "width": 60})[0]


def test_boxes_of_an_image_of_another_size_are_warned_of_once(boxed, recwarn):
    dataset = boxed(1, {"height": 120, "width": 160})
    assert [dataset[0]["boxes"].tolist() for _ in range(2)] == [[[10, 20, 40, 40]]] * 2
    (warning,) = recwarn
    assert "one.jpg is 80x60 px, its boxes are of 160x120: was it resized" in str(warning.message)


@pytest.mark.parametrize("size", [None, {"height": 0, "width": 0}, {"height": 60, "width": 80}])
def test_boxes_upon_the_stored_pixels_and_those_of_unknown_size_are_read_as_they_are(boxed, size, recwarn):
    assert boxed(6, size)[0]["boxes"].tolist() == [[10, 20, 40, 40]]
    assert not recwarn
