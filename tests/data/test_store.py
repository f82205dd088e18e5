"""The one format of stored answers."""

import json
import os
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import densedistill as dd
from densedistill.data.store import Store, decode, encode, write_manifest, write_receipt, write_shard


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (2, 3, 5), elements=st.floats(-400, 400, width=32)))
def test_fixed_point_is_true_to_within_half_a_step_of_fifteen_bits(values):
    data, how = encode(values, "fixed")
    step = 2.0 ** -how["exponent"]
    assert np.abs(decode(data, how) - values).max() <= step / 2 + 1e-6
    assert step <= max(np.abs(values).max() / 16383, 2.0**-12)


@pytest.mark.parametrize(
    ("kind", "values", "tolerance"),
    [
        ("half", np.linspace(-3, 3, 24, dtype=np.float32).reshape(2, 3, 4), 2e-3),
        ("float", np.linspace(-3, 3, 24, dtype=np.float32).reshape(2, 3, 4), 0),
        ("mask", np.arange(21).reshape(1, 3, 7) % 3 == 0, 0),
        ("share", np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 3, 4), 1 / 509),
        ("image", np.arange(60, dtype=np.uint8).reshape(3, 4, 5), 0),
        ("integer", np.arange(12).reshape(3, 4), 0),
    ],
)
def test_every_kind_comes_back(kind, values, tolerance):
    data, how = encode(values, kind)
    found = decode(data, json.loads(json.dumps(how)))
    assert found.shape == values.shape
    assert np.abs(found.astype(float) - values.astype(float)).max() <= tolerance


def make(root, frames=2, value=1.0):
    content = [
        (f"scene/{i}", {"disparity": (np.full((1, 4, 6), value + i, np.float32), "fixed")})
        for i in range(frames)
    ]
    receipt = write_shard(root, 0, content)
    write_receipt(root, 0, receipt)
    write_manifest(root, {"version": 1, "write": "shards", "shards": 1, "complete": True})
    return receipt


def test_a_frame_is_read_by_its_name_and_the_same_content_gives_the_same_bytes(tmp_path):
    first, second = make(tmp_path / "a"), make(tmp_path / "b")
    assert first["sha256"] == second["sha256"]
    store = Store(tmp_path / "a")
    assert store.names == ["scene/0", "scene/1"]
    assert torch.equal(store.read("scene/1")["disparity"], torch.full((1, 4, 6), 2.0))
    import pickle

    assert pickle.loads(pickle.dumps(store)).read("scene/0")["disparity"].mean() == 1


def test_more_shards_than_are_kept_open_are_read_in_any_order(tmp_path):
    frames = 40
    for number in range(frames):
        values = np.full((1, 2, 3), number, np.float32)
        write_receipt(
            tmp_path, number, write_shard(tmp_path, number, [(str(number), {"d": (values, "fixed")})])
        )
    write_manifest(tmp_path, {"version": 1, "write": "shards", "shards": frames, "complete": True})
    store = Store(tmp_path)
    for number in (*range(frames), 0, 39, 20, *range(frames)):
        assert store.read(str(number))["d"].unique().tolist() == [number]
    assert len(store._archives) < frames


def test_a_forked_process_opens_shards_of_its_own(tmp_path, monkeypatch):
    """Of an inherited file it would move the position of its parent's."""
    make(tmp_path)
    store = Store(tmp_path)
    store.read("scene/0")
    opened = []
    monkeypatch.setattr(
        zipfile, "ZipFile", lambda path, real=zipfile.ZipFile: opened.append(path) or real(path)
    )
    store.read("scene/1")
    assert not opened
    monkeypatch.setattr(os, "getpid", lambda: -1)
    store.read("scene/1")
    assert len(opened) == 1


def test_a_value_that_is_no_number_is_refused_by_name_and_nothing_is_written(tmp_path):
    bad = np.full((1, 2, 2), np.nan, np.float32)
    with pytest.raises(dd.UserError, match="frame 'x', disparity: 4 of 4 values are no number"):
        write_shard(tmp_path, 0, [("x", {"disparity": (bad, "fixed")})])
    assert not (tmp_path / "shards").exists()


def test_features_beyond_half_precision_are_refused_not_stored_as_infinite():
    assert decode(*encode(np.array([65504.0, -65504.0], np.float32), "half")).tolist() == [65504, -65504]
    with pytest.raises(dd.UserError, match="values beyond 65504"):
        encode(np.array([1.0, -1e5], np.float32), "half")


def test_a_manifest_that_is_none_is_one_line(tmp_path):
    for content in ("[]", "{", "null"):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(dd.UserError, match=r"manifest\.json is damaged; label again"):
            Store(tmp_path)


def test_what_is_missing_or_damaged_is_one_line(tmp_path):
    with pytest.raises(dd.UserError, match=r"no stored answers.*manifest\.json"):
        Store(tmp_path)
    make(tmp_path)
    with pytest.raises(dd.UserError, match="no answer for frame 'other'"):
        Store(tmp_path).read("other")
    with pytest.raises(dd.UserError, match="no 'flow' of frame 'scene/0'; it has disparity"):
        Store(tmp_path).read("scene/0", ["flow"])
    shard = tmp_path / "shards" / "000000.zip"
    whole = shard.read_bytes()
    listed = whole.index(b"PK\x01\x02")  # the first entry of the list at its end: flags 8, compression 10
    for place in (45, listed + 8, listed + 10):
        data = bytearray(whole)
        data[place] ^= 255
        shard.write_bytes(data)
        with pytest.raises(dd.UserError, match=r"000000\.zip is damaged.*label again") as caught:
            Store(tmp_path).read("scene/0")
        assert "\n" not in str(caught.value)
    shard.write_bytes(data[:40])
    with pytest.raises(dd.UserError, match="is damaged"):
        Store(tmp_path).read("scene/0")


def test_a_labelling_that_is_not_complete_is_refused(tmp_path):
    make(tmp_path)
    write_manifest(tmp_path, {"version": 1, "write": "shards", "shards": 2, "complete": False})
    with pytest.raises(dd.UserError, match="is not complete"):
        Store(tmp_path)
    assert Store(tmp_path, partial=True).names == ["scene/0", "scene/1"]
    write_manifest(tmp_path, {"version": 1, "write": "shards", "shards": 2, "complete": True})
    with pytest.raises(dd.UserError, match=r"shard 1 of .* is missing; label again"):
        Store(tmp_path)


def test_a_shard_that_was_deleted_is_missing_before_a_training_begins(tmp_path):
    make(tmp_path)
    (tmp_path / "shards" / "000000.zip").unlink()
    with pytest.raises(dd.UserError, match=r"shard 0 of .* is missing; label again"):
        Store(tmp_path)
    assert Store(tmp_path, partial=True).names == []
