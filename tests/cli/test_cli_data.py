import numpy as np
import pytest
import torch

from densedistill.cli import main
from densedistill.data import create_dataset, formats
from densedistill.data.world import render


@pytest.fixture
def pairs(tmp_path):
    """A folder of three pairs with ground truth."""
    rng = np.random.default_rng(0)
    for name in "abc":
        for view in ("left", "right"):
            formats.write_image(tmp_path / view / f"{name}.png", rng.integers(0, 256, (8, 12, 3), np.uint8))
        formats.write_pfm(tmp_path / "disparity" / f"{name}.pfm", np.full((8, 12), 3.0, np.float32))
    return tmp_path


def test_check_of_a_whole_data_set_is_a_table_and_status_0(pairs, capsys):
    assert main(["data", "check", "folder", str(pairs)]) == 0
    out = capsys.readouterr().out
    assert "folder is usable: 3 samples read" in out
    assert "disparity" in out
    assert "broken samples" in out


def test_check_without_a_root_is_of_the_pairs_that_ship(capsys):
    assert main(["data", "check", "middlebury2014"]) == 0
    assert main(["data", "check", "middlebury2003"]) == 0
    assert "the pairs that ship" in capsys.readouterr().out


def test_check_names_what_is_missing_and_gives_status_2(pairs, capsys):
    (pairs / "right" / "b.png").unlink()
    assert main(["data", "check", "folder", str(pairs), "--fast"]) == 2
    captured = capsys.readouterr()
    assert "right/b.png" in captured.out
    assert len(captured.err.splitlines()) == 1
    assert "not usable" in captured.err


def test_check_names_a_broken_file_and_gives_status_2(pairs, capsys):
    path = pairs / "disparity" / "c.pfm"
    path.write_bytes(path.read_bytes()[:40])
    assert main(["data", "check", "folder", str(pairs)]) == 2
    captured = capsys.readouterr()
    assert f"broken: all c: {path} is cut off" in captured.out
    assert main(["data", "check", "folder", str(pairs), "--fast"]) == 0


def test_check_says_why_nothing_is_there_once(tmp_path, capsys):
    for folder in ("images", "labels"):
        formats.write_image(tmp_path / folder / "a.png", np.zeros((8, 12), np.uint8))
    assert main(["data", "check", "labelled_folder", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("needs classes") == 1
    assert main(["data", "check", "labelled_folder", str(tmp_path), "--option", "classes=[a]"]) == 0
    out = capsys.readouterr().out
    assert "train, val, test" in out
    assert out.count("nothing in") == 1


def test_check_says_that_views_look_swapped(tmp_path, capsys):
    sample = create_dataset("middlebury2003")[0]
    for view, key in (("left", "right"), ("right", "left")):
        formats.write_image(tmp_path / view / "cones.png", sample[key].permute(1, 2, 0).numpy())
    assert main(["data", "check", "folder", str(tmp_path)]) == 0
    assert "doubtful: all: left and right look swapped (cones)" in capsys.readouterr().out


def test_brackets_in_paths_are_printed_as_they_are(pairs, tmp_path, capsys):
    folder = tmp_path / "[b]" / "[" / "c]"  # a closing tag, to a reader of markup
    folder.mkdir(parents=True)
    for view in ("left", "right"):
        (pairs / view).rename(folder / view)
    assert main(["predict", "sgbm", "--folder", str(folder), "--out", str(folder / "out")]) == 0
    assert f"wrote {folder}/out/a.png\n" in capsys.readouterr().out
    (folder / "right" / "b.png").rename(folder / "right" / "[d].png")
    assert main(["data", "check", "folder", str(folder), "--fast"]) == 2
    assert "[b]/[/c]" in "".join(capsys.readouterr().out.split())  # however its lines are broken


def test_options_of_the_data_set_are_passed_on(pairs, capsys):
    (pairs / "left").rename(pairs / "port")
    (pairs / "right").rename(pairs / "starboard")
    assert main(["data", "check", "folder", str(pairs)]) == 2
    views = ["--option", "left=port", "--option", "right=starboard"]
    assert main(["data", "check", "folder", str(pairs), *views]) == 0


def test_options_are_numbers_and_truths_not_their_text(capsys):
    assert main(["data", "check", "icl_nuim", "--option", "limit=2", "--option", "strict=false"]) == 0
    assert "2 samples read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "foldr", "."], "there is no data set 'foldr'; did you mean 'folder'?"),
        (["check", "folder", "/nowhere"], "there is no folder /nowhere"),
        (["check", "folder", ".", "--option", "left"], "--option takes KEY=VALUE, got 'left'"),
        (["check", "folder", ".", "--option", "lft=a"], "did you mean 'left'"),
        (["check", "icl_nuim", "--option", "limit=few"], "cannot be made with"),
        (["make", "/nowhere", "--seed", "-1"], "0 or more, got -1"),
        (["check", "world"], "not made of files"),
        (["check", "kitti2015"], "needs root"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, message, capsys):
    assert main(["data", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_options_are_read_as_evaluate_reads_them(pairs, capsys):
    assert main(["data", "check", "folder", str(pairs), "--option", "limit=2"]) == 0
    assert "2 samples read" in capsys.readouterr().out
    assert main(["data", "list", "folder", str(pairs), "--option", "limit=1"]) == 0
    assert capsys.readouterr().out == "left/a.png right/a.png disparity/a.pfm\n"


def test_a_damaged_record_of_made_data_is_one_line(tmp_path, capsys):
    (tmp_path / "world.json").write_text("{")
    assert main(["data", "make", str(tmp_path)]) == 2
    assert "world.json is damaged" in capsys.readouterr().err


def test_made_data_is_read_as_sceneflow(tmp_path, capsys):
    arguments = ["--length", "2", "--size", "48", "64", "--max-disparity", "24", "--split", "test"]
    assert main(["data", "make", str(tmp_path), *arguments]) == 0
    assert f"wrote 2 pairs to {tmp_path}" in capsys.readouterr().out
    assert main(["data", "check", "sceneflow", str(tmp_path), "--split", "test"]) == 0
    sample = create_dataset("sceneflow", tmp_path, split="test")[1]
    made = render(1, 48, 64, max_disparity=24)
    assert torch.equal(sample["left"], made["left"])
    assert torch.equal(sample["disparity"], made["disparity"])


def test_a_wrong_split_to_make_is_one_line(tmp_path, capsys):
    assert main(["data", "make", str(tmp_path), "--split", "tset"]) == 2
    assert "did you mean 'test'" in capsys.readouterr().err
