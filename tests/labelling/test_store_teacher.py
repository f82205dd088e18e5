"""Stored answers against the live teacher: whatever is cut, scaled or mirrored, they are the full frame's."""

import pytest
import torch

import densedistill as dd
from densedistill.data.augment import Options, build_augmentation
from densedistill.data.loader import Mixture
from densedistill.data.sample import collate
from densedistill.distillation.teachers import create_teacher
from densedistill.labelling import Settings, label
from densedistill.labelling.frames import open_frames
from densedistill.tasks import get_task

TINY = "toy_teachers:TinyNetwork"


@pytest.fixture(scope="module")
def frames(pairs):
    return open_frames({"frames": pairs}, get_task("stereo"))


@pytest.fixture(scope="module")
def store(pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "labels"
    label(
        Settings(
            {"name": TINY}, {"frames": str(pairs)}, str(out), taps=["features"], mirrored=True, shard_size=2
        )
    )
    return create_teacher("store", path=str(out))


@pytest.fixture(scope="module")
def live():
    teacher = create_teacher(TINY)
    teacher.watch(["features"])
    return teacher


@pytest.fixture(autouse=True)
def nothing_watched(store):
    store.watch([])


def augmented(frames, config, seed=0, indices=(0, 3)):
    import numpy as np

    augment = build_augmentation(config)
    return collate([augment(frames[i], np.random.default_rng(seed + i)) for i in indices])


def test_full_frames_equal_the_live_teacher(store, live, frames):
    store.watch(["features"])
    batch = collate([frames[i] for i in (4, 1)])
    stored, answered = store(batch), live(batch)
    assert (stored["disparity"] - answered["disparity"]).abs().max() < 1e-3
    assert stored["disparity_valid"].all()
    (features,), (expected,) = stored["taps"]["features"], answered["taps"]["features"]
    assert features.shape == expected.shape == (4, 6, 16, 24)
    assert (features - expected).abs().max() < 2e-3
    assert stored["placement"] == answered["placement"]


def test_a_crop_is_cut_out_of_the_full_frames_answer(store, live, frames):
    batch = augmented(frames, {"crop": [32, 48]})
    full = live(collate([frames[i] for i in (0, 3)]))["disparity"]
    for i, meta in enumerate(batch["meta"]):
        top, left, height, width = meta["view"]["crop"]
        expected = full[i, :, top : top + height, left : left + width]
        assert (store(batch)["disparity"][i] - expected).abs().max() < 1e-3


def test_with_taps_crops_snap_to_their_stride(store, live, frames):
    store.watch(["features"])
    options = store.suit(Options(crop=(32, 48)), frames.names)
    assert options.snap == store.stride == 4
    batch = augmented(frames, {"crop": [32, 48], "snap": 4}, seed=5)
    live_taps = live(collate([frames[i] for i in (0, 3)]))["taps"]["features"][0]
    (taps,) = store(batch)["taps"]["features"]
    assert any(any(meta["view"]["crop"][:2]) for meta in batch["meta"])
    for i, meta in enumerate(batch["meta"]):
        top, left, height, width = (side // 4 for side in meta["view"]["crop"])
        for view in (0, 1):
            expected = live_taps[i + 2 * view, :, top : top + height, left : left + width]
            assert (taps[i + 2 * view] - expected).abs().max() < 2e-3
    unsnapped = augmented(frames, {"crop": [32, 48], "position": "centre"}, indices=(0,))
    unsnapped["meta"][0]["view"]["crop"] = (1, 0, 32, 48)
    with pytest.raises(dd.UserError, match="does not lie on the stride 4"):
        store(unsnapped)


def test_a_mirrored_pair_gets_the_answer_to_the_mirrored_pair(store, live, scenes):
    sample = {key: scenes[2][key] for key in ("left", "right", "disparity", "disparity_valid", "meta")}
    sample |= {"disparity_right": sample["disparity"], "disparity_right_valid": sample["disparity_valid"]}
    sample["meta"] = {**sample["meta"], "name": "000002"}
    import numpy as np

    augment = build_augmentation({"flip_horizontal": 1.0, "crop": [40, 64]})
    batch = collate([augment(sample, np.random.default_rng(1))])
    assert batch["meta"][0]["view"]["flip"] == "h"
    mirrored = live({"left": sample["right"].flip(-1)[None], "right": sample["left"].flip(-1)[None]})[
        "disparity"
    ]
    top, left, height, width = batch["meta"][0]["view"]["crop"]
    expected = mirrored[..., top : top + height, left : left + width]
    assert (store(batch)["disparity"] - expected).abs().max() < 1e-3


@pytest.mark.parametrize(("taps", "flip"), [([], "v"), (["features"], "h"), (["features"], "hv")])
def test_a_frame_flipped_as_no_answer_was_stored_is_refused(taps, flip, store, frames):
    store.watch(taps)
    batch = augmented(frames, {"crop": [32, 48], "snap": 4}, indices=(1,))
    batch["meta"][0]["view"]["flip"] = flip
    with pytest.raises(dd.UserError, match=f"no stored answer for frame '000001' flipped by '{flip}'"):
        store(batch)


def test_crops_suit_the_strides_of_all_taps(store, monkeypatch):
    monkeypatch.setattr(store, "stored_taps", {"one": {"strides": [4, 2]}, "other": {"strides": [6]}})
    store.watch(["one", "other"])
    assert store.stride == 12


def test_a_scaled_frame_gets_the_answer_scaled_in_value_too(store, live, frames):
    batch = augmented(frames, {"scale": [1.0, 1.0], "crop": [128, 192]}, indices=(1,))
    full = live(collate([frames[1]]))["disparity"]
    stored = store(batch)["disparity"]
    nearest = torch.nn.functional.interpolate(full, scale_factor=2, mode="nearest") * 2
    assert stored.shape == nearest.shape
    assert (stored - nearest).abs().median() < 1


@pytest.mark.parametrize(
    ("taps", "augmentation", "says"),
    [
        ([], {"flip_vertical": 0.5}, "upright frames: set augment.flip_vertical 0"),
        ([], {"rotate": 1.0}, "upright frames: set augment.rotate 0"),
        ([], {"keep_focal": True}, "the frames' own depth"),
        ([], {"warp_right": (8, 32)}, "of the pairs themselves: set augment.warp_right null"),
        ([], {"frame": "nyu"}, r"set augment.frame whole, and read the part that was labelled \(part: nyu\)"),
        (["features"], {"flip_horizontal": 0.5, "crop": (32, 48)}, "taps of mirrored frames are not stored"),
        (["features"], {"scale": (-0.2, 0.4), "crop": (32, 48)}, "unscaled frames"),
        (["features"], {"stretch": 0.2, "crop": (32, 48)}, "unscaled frames"),
        (["features"], {"crop": (30, 48)}, "multiples of 4, not"),
        (["features"], {}, "give a crop"),
    ],
)
def test_what_cannot_be_honoured_is_refused_before_training(taps, augmentation, says, store, frames):
    store.watch(taps)
    with pytest.raises(dd.UserError, match=says):
        store.suit(Options(**augmentation), frames.names)


def test_an_answer_to_a_frame_of_another_size_is_refused(store, frames):
    sample = frames[1]
    part = {key: sample[key][..., 8:, :] for key in ("left", "right")}
    batch = collate([{**part, "meta": {"name": sample["meta"]["name"], "size": (56, 96)}}])
    with pytest.raises(dd.UserError, match="96x64 px for frame '000001', which is 96x56 px"):
        store(batch)


def test_samples_without_an_answer_are_refused_before_training(store):
    with pytest.raises(dd.UserError, match=r"1 of 2 .* the first is 'else'; stored are '000000'"):
        store.suit(Options(), ["000001", "else"])


def test_a_flip_without_stored_mirrored_answers_is_refused(pairs, tmp_path):
    label(Settings({"name": TINY}, {"frames": str(pairs)}, str(tmp_path / "plain")))
    teacher = create_teacher("store", path=str(tmp_path / "plain"))
    with pytest.raises(dd.UserError, match="label again with --mirrored"):
        teacher.suit(Options(flip_horizontal=0.5))
    with pytest.raises(dd.UserError, match="tap 'volume' was not stored"):
        teacher.watch(["volume"])


def test_the_training_set_learns_of_the_snap(store, frames):
    store.watch(["features"])
    mixture = Mixture([(frames, build_augmentation({"crop": [32, 48]}))], seed=1)
    mixture.suit(store.suit)
    corners = [mixture[0, i, e, 0]["meta"]["view"]["crop"][:2] for i in range(5) for e in range(6)]
    assert all(top % 4 == left % 4 == 0 for top, left in corners)
    assert len(set(corners)) > 3


def test_a_store_teaches_outputs_and_taps_in_an_objective(store, live, frames):
    student = dd.create_model("dsnet_slim", max_disparity=32)
    terms = {
        "output": {"loss": "smooth_l1", "of": "disparity", "to": "teacher"},
        "features": {
            "loss": "cosine",
            "of": "features",
            "to": "teacher",
            "to_tap": "features",
            "adapter": "conv1x1",
        },
    }
    objective = dd.Objective(terms, student, {"teacher": store})
    total, parts = objective(augmented(frames, {"crop": [32, 48], "snap": 4}))
    total.backward()
    assert parts.keys() == {"output", "features"}
    assert all(value.isfinite() for value in parts.values())
