"""Which files make a pair."""

import os
from pathlib import Path

import pytest

import densedistill as dd
from densedistill.data.datasets.folder import VIEWS
from densedistill.errors import UserError
from densedistill.inference.inputs import inputs_from
from densedistill.inference.pairs import Pair, pairs_from
from densedistill.tasks import get_task


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@pytest.mark.parametrize("folders", [("left", "right"), ("image_0", "image_1"), ("image_2", "image_3")])
def test_two_folders_are_paired_by_name(tmp_path, folders):
    left, right = folders
    touch(*(tmp_path / side / f"{frame}.png" for side in folders for frame in ("000_10", "000_11")))
    touch(tmp_path / left / "notes.txt", tmp_path / left / ".hidden.png")
    assert pairs_from(tmp_path) == [
        Pair(tmp_path / left / f"{frame}.png", tmp_path / right / f"{frame}.png", frame)
        for frame in ("000_10", "000_11")
    ]


@pytest.mark.parametrize(
    "files",
    [
        *(tuple(f"{view}/{name}.png" for view in views for name in "ab") for views in VIEWS),
        ("image_02/data/1.png", "image_03/data/1.png"),
        ("left/day/1.png", "left/night/1.png", "right/day/1.png", "right/night/1.png"),
        ("Piano/im0.png", "Piano/im1.png", "b/Pipes/im0.png", "b/Pipes/im1.png"),
    ],
)
def test_what_is_predicted_for_and_labelled_is_what_is_trained_on(tmp_path, files):
    touch(*(tmp_path / file for file in files))
    frames = dd.create_dataset("folder", root=tmp_path).frames
    assert pairs_from(tmp_path) == [Pair(f.files["left"], f.files["right"], f.name) for f in frames]


def test_the_two_views_may_have_different_suffixes(tmp_path):
    touch(tmp_path / "left" / "a.png", tmp_path / "right" / "a.jpg")
    assert pairs_from(tmp_path)[0].right.name == "a.jpg"


def test_scenes_are_named_by_their_folders(tmp_path):
    for scene in ("b/Piano", "a/Piano", "Pipes"):
        touch(tmp_path / scene / "im0.png", tmp_path / scene / "im1.png")
    names = {pair.left.parent: pair.name for pair in pairs_from(tmp_path)}
    assert len(set(names.values())) == 3
    assert names[tmp_path / "b/Piano"].endswith("b_Piano_im0")
    touch(tmp_path / "one" / "im0.png", tmp_path / "one" / "im1.png")
    assert pairs_from(tmp_path / "one") == [
        Pair(tmp_path / "one" / "im0.png", tmp_path / "one" / "im1.png", "one")
    ]


def test_a_list_is_relative_to_its_folder_and_may_have_more_columns(tmp_path):
    touch(*(tmp_path / path for path in ("A/left/1.png", "A/right/1.png", "B/left/1.png", "B/right/1.png")))
    (tmp_path / "list.txt").write_text(
        "# left right disparity\nA/left/1.png A/right/1.png A/d/1.pfm\n\nB/left/1.png\tB/right/1.png\n"
    )
    pairs = pairs_from(tmp_path / "list.txt")
    assert [pair.left for pair in pairs] == [tmp_path / "A/left/1.png", tmp_path / "B/left/1.png"]
    assert [pair.name for pair in pairs] == ["A_left_1", "B_left_1"]


def test_pairs_of_paths_keep_their_stems():
    assert pairs_from([("x/a.png", "y/b.png")]) == [Pair(Path("x/a.png"), Path("y/b.png"), "a")]


def test_a_left_without_its_right_is_named(tmp_path):
    touch(*(tmp_path / "left" / f"{n}.png" for n in range(3)), tmp_path / "right" / "0.png")
    message = r"left/1 has no counterpart in .*right \(and 1 more without the other view\)"
    with pytest.raises(UserError, match=message):
        pairs_from(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.png\n", "line 1: a pair is two paths, left and right, got 'a.png'"),
        ("# only this\n", "no pair in the list"),
        ("\na.png b.png\n", r"line 2: there is no file .*a\.png"),
    ],
)
def test_a_list_that_is_not_right_is_refused_by_line(tmp_path, content, message):
    (tmp_path / "list.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        pairs_from(tmp_path / "list.txt")


def test_what_is_not_there_or_empty_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no pairs in .*; expected left/ and right/"):
        pairs_from(tmp_path)
    with pytest.raises(UserError, match=r"there is no folder or list file .*nothing.txt"):
        pairs_from(tmp_path / "nothing.txt")
    (tmp_path / "left").mkdir()
    (tmp_path / "right").mkdir()
    with pytest.raises(UserError, match=r"no image in .*left"):
        pairs_from(tmp_path)


def test_one_pair_given_twice_is_refused():
    with pytest.raises(UserError, match=r"x/a\.png is given more than once"):
        pairs_from([("x/a.png", "y/b.png"), ("x/a.png", "y/c.png")])


def test_two_views_of_one_name_are_refused(tmp_path):
    touch(*(tmp_path / side / "a.png" for side in ("left", "right")), tmp_path / "left" / "a.jpg")
    with pytest.raises(UserError, match=r"left/a\.jpg and .*left/a\.png have one name; rename or remove one"):
        pairs_from(tmp_path)
    with pytest.raises(UserError, match=r"x/a\.png and x/a\.jpg have one name; rename one"):
        pairs_from([("x/a.png", "y/a.png"), ("x/a.jpg", "y/a.jpg")])


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("a", "b", "c"), ["a", "b"]),
        (("000000_10", "000000_11", "000001_10", "000001_11"), ["000000_10", "000001_10"]),
        (("000000_10", "000000_11", "000001_12"), ["000000_10"]),
        (("000000_10", "000000_12", "000000_13"), ["000000_12"]),
        (("day/1", "day/2", "night/3"), ["day/1"]),
    ],
)
def test_the_next_pair_is_of_the_same_scene_and_the_next_time(tmp_path, names, found):
    touch(*(tmp_path / side / f"{name}.png" for side in ("left", "right") for name in names))
    inputs = list(inputs_from(get_task("sceneflow"), tmp_path))
    assert [one.name for one in inputs] == found
    for one in inputs:
        later = names[names.index(one.name) + 1]
        views = [(side, name) for name in (one.name, later) for side in ("left", "right")]
        assert one.files == tuple(tmp_path / side / f"{name}.png" for side, name in views)


@pytest.mark.parametrize("name", ["größe", "caf\udce9"])  # the second as Latin-1 has it
def test_a_list_names_files_in_any_encoding(tmp_path, name):
    left, right = (tmp_path / f"{side}_{name}.png" for side in "lr")
    touch(left, right)
    (tmp_path / "pairs.txt").write_bytes(os.fsencode(f"{left.name} {right.name}\n"))
    assert [(pair.left, pair.right) for pair in pairs_from(tmp_path / "pairs.txt")] == [(left, right)]


def test_an_image_is_no_list(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0")
    with pytest.raises(UserError, match=r"cannot read the list .*a\.png: it is not text"):
        pairs_from(tmp_path / "a.png")
