"""Scenes on disk: the cache and SceneFlow's layout."""

from __future__ import annotations

import os
import warnings
import zipfile

import pytest
import torch

from densedistill.data import create_dataset
from densedistill.data.world import cache, render
from densedistill.data.world.write import write_dataset
from densedistill.errors import DataWarning, UserError
from densedistill.processes import WorkerPool

OPTIONS = {"size": [48, 80], "max_disparity": 24}


def _same(one, two):
    tensors = [key for key, value in one.items() if isinstance(value, torch.Tensor)]
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in tensors)


def test_the_cache_gives_back_what_was_rendered(tmp_path, monkeypatch):
    data = create_dataset("world", length=2, cache=tmp_path, want=("disparity", "labels", "boxes"), **OPTIONS)
    rendered = data[1]
    monkeypatch.setattr("densedistill.data.datasets.world.render", None)
    stored = data[1]
    assert _same(rendered, stored)
    assert stored["meta"] | {"calibration": 0} == rendered["meta"] | {"calibration": 0}
    assert stored["meta"]["calibration"].fx == rendered["meta"]["calibration"].fx


def test_a_damaged_cache_file_is_rendered_anew(tmp_path):
    data = create_dataset("world", length=1, cache=tmp_path, **OPTIONS)
    rendered = data[0]
    (path,) = tmp_path.rglob("*.npz")
    whole = path.read_bytes()
    with zipfile.ZipFile(tmp_path / "header.npz", "w") as archive:
        archive.writestr("left.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': '|u1'\n")
    for damaged in (whole[: len(whole) // 2], (tmp_path / "header.npz").read_bytes()):
        path.write_bytes(damaged)
        assert _same(data[0], rendered)
        assert path.stat().st_size == len(whole)


def test_other_options_have_a_cache_of_their_own(tmp_path):
    one = create_dataset("world", length=1, cache=tmp_path, **OPTIONS)[0]
    two = create_dataset("world", length=1, cache=tmp_path, **OPTIONS, style="outdoor")[0]
    assert not torch.equal(one["left"], two["left"])
    assert len(list(tmp_path.rglob("*.npz"))) == 2


def test_an_earlier_versions_cache_is_not_read_and_that_is_said_once(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "VERSION", 1)
    create_dataset("world", length=1, cache=tmp_path, **OPTIONS)[0]
    (old,) = tmp_path.rglob("*.npz")
    old.write_bytes(b"other scenes")
    monkeypatch.undo()
    with pytest.warns(DataWarning, match=f"{old.parents[1]} are of an earlier version; they are made anew"):
        data = create_dataset("world", length=1, cache=tmp_path, **OPTIONS)
    assert data[0]["left"].shape == (3, 48, 80)
    assert old.read_bytes() == b"other scenes"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_dataset("world", length=1, cache=tmp_path, **OPTIONS)


def test_written_scenes_are_read_back_as_sceneflow(tmp_path):
    seen = []
    write_dataset(
        tmp_path, length=2, seed=5, **OPTIONS, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 2), (2, 2)]
    data = create_dataset("sceneflow", tmp_path, "train", want=("disparity", "disparity_right"))
    assert len(data) == 2
    expected = render(6, 48, 80, ("disparity", "disparity_right"), max_disparity=24)
    read = data[1]
    for key in ("left", "right", "disparity", "disparity_right"):
        assert torch.equal(read[key], expected[key]), key


def test_a_stopped_run_goes_on_and_keeps_what_is_there(tmp_path):
    write_dataset(tmp_path, length=1, **OPTIONS)
    first = tmp_path / "frames_finalpass/TRAIN/A/0000/left/0000.png"
    before = first.stat().st_mtime_ns
    seen = []
    write_dataset(tmp_path, length=2, **OPTIONS, progress=lambda done, total: seen.append(done))
    assert seen == [2]
    assert first.stat().st_mtime_ns == before
    assert not list(tmp_path.rglob(".*"))


def test_a_folder_of_other_options_is_refused(tmp_path):
    write_dataset(tmp_path, length=1, **OPTIONS)
    with pytest.raises(UserError, match="another max_disparity"):
        write_dataset(tmp_path, length=2, size=[48, 80], max_disparity=32)
    write_dataset(tmp_path, length=1, split="test", size=[48, 80], max_disparity=32)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layout": "kitti"}, "layout to write"),
        ({"split": "val"}, "split to write"),
        ({"length": 0}, "1 or more"),
        ({"stile": "room"}, "did you mean 'style'"),
    ],
)
def test_a_mistake_writes_nothing(tmp_path, options, said):
    with pytest.raises(UserError) as error:
        write_dataset(tmp_path / "out", **options)
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.full
def test_several_processes_write_what_one_does(tmp_path):
    write_dataset(tmp_path / "one", length=3, **OPTIONS)
    write_dataset(tmp_path / "two", length=3, **OPTIONS, workers=2)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.p[nf]*"))
    assert len(files) == 12
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


def test_a_rendering_process_that_dies_is_one_line(tmp_path, monkeypatch):
    class Dying(WorkerPool):
        def submit(self, *work):
            return super().submit(os._exit, 1)

    monkeypatch.setattr("densedistill.data.world.write.WorkerPool", Dying)
    with pytest.raises(UserError, match=r"renders has died .* the same again goes on, 3 pairs left"):
        write_dataset(tmp_path, length=3, size=(64, 128), workers=1)
