"""Labelling: resumable, exact, and one line for whatever goes wrong."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from held import held

import densedistill as dd
from densedistill.cli import main
from densedistill.data import formats
from densedistill.data.store import Store
from densedistill.distillation.stored import TAP
from densedistill.distillation.teachers import EnsembleTeacher, PredictorTeacher, create_teacher
from densedistill.errors import DataWarning
from densedistill.inference.predictor import Predictor
from densedistill.labelling import Settings, engine, label, scale
from densedistill.labelling.answer import Labeller
from densedistill.labelling.estimate import estimate
from densedistill.labelling.files import write_files
from densedistill.labelling.frames import open_frames
from densedistill.networks import InputSpec
from densedistill.runtimes.card import Card
from densedistill.runtimes.runtime import Runtime
from densedistill.tasks import get_task

GREY = "toy_teachers:Grey"


def settings(pairs, out, **changes):
    fields = {"teacher": {"name": GREY}, "frames": {"frames": str(pairs)}, "out": str(out), "shard_size": 2}
    return Settings(**{**fields, **changes})


def content(folder):
    """Every file of a labelling and its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module")
def labelled(pairs, tmp_path_factory):
    """A labelling that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "labels"
    done = label(settings(pairs, out, filters=[("texture", {"threshold": 1.0})]))
    return out, done


def test_answers_counts_and_settings_are_stored(labelled, scenes):
    out, done = labelled
    assert (done.found, done.made, done.mended, done.frames) == (0, 3, 0, 5)
    store = Store(out)
    found = store.read("000002")
    expected = scenes[2]["left"][:1].float() / 255 * 20
    assert torch.allclose(found["disparity"], expected, atol=1e-3)
    assert found["disparity_valid"].dtype == torch.bool
    assert 0 <= found["disparity_confidence"].min() <= found["disparity_confidence"].max() <= 1
    manifest = store.manifest
    assert manifest["complete"]
    assert manifest["teacher"]["name"] == "grey"
    counts = manifest["counts"]["outputs"]["disparity"]
    kept = sum(int(store.read(name)["disparity_valid"].sum()) for name in store.names)
    assert counts["pixels"] == 5 * 64 * 96
    assert counts["kept"] == counts["filters"]["texture"] == kept < counts["vouched"]


def test_what_a_filter_rejects_does_not_coarsen_what_is_kept(pairs, tmp_path):
    teacher = {"name": GREY, "flaw": "wild"}
    label(settings(pairs, tmp_path / "labels", teacher=teacher, filters=[("range", {"high": 25.0})]))
    found = Store(tmp_path / "labels").read("000001")
    left = open_frames({"frames": pairs}, get_task("stereo"))[1]["left"][:1]
    error = (found["disparity"] - left.float() / 255 * 20).abs()
    assert not found["disparity_valid"][0, 0, 0]
    assert error.where(found["disparity_valid"], 0).max() <= 1 / 1024


@pytest.mark.parametrize("checksum", ["3f", ""])
def test_the_weights_of_an_exported_file_are_among_those_that_are_hashed(checksum, tmp_path):
    file = tmp_path / "teacher.onnx"
    card = Card("teacher", "stereo", ("left", "right"), ("disparity",), InputSpec(), checksum=checksum)

    def hashed():
        runtime = Runtime(types.SimpleNamespace(device="cpu", precision="float32"), card, file, "onnxruntime")
        part = PredictorTeacher(Predictor(runtime))
        return engine.digest(EnsembleTeacher([part, create_teacher(GREY)]))

    file.write_bytes(b"one")
    before = hashed()
    assert before != engine.digest(create_teacher(GREY))
    file.write_bytes(b"another")
    assert (hashed() == before) is bool(checksum)  # a card knows what its file computes with


def test_a_second_run_makes_nothing_and_changes_nothing(labelled, pairs):
    out, _ = labelled
    before = content(out)
    done = label(settings(pairs, out, filters=[("texture", {"threshold": 1.0})]))
    assert (done.found, done.made) == (3, 0)
    assert content(out) == before


def test_interrupted_anywhere_it_goes_on_and_ends_with_the_same_bytes(labelled, pairs, tmp_path, monkeypatch):
    out, chosen = tmp_path / "labels", [("texture", {"threshold": 1.0})]
    make, calls = engine.Job.make, []

    def stops(job, number):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(number)
        return make(job, number)

    monkeypatch.setattr(engine.Job, "make", stops)
    with pytest.raises(KeyboardInterrupt):
        label(settings(pairs, out, filters=chosen))
    with pytest.raises(dd.UserError, match="not complete"):
        Store(out)
    monkeypatch.setattr(engine.Job, "make", make)
    # A shard without its receipt is what a kill between the two leaves.
    (out / "shards" / "000001.zip").write_bytes(b"half")
    done = label(settings(pairs, out, filters=chosen))
    assert (done.found, done.made) == (1, 2)
    assert content(out) == content(labelled[0])


def test_a_damaged_shard_is_found_by_its_checksum_and_redone(labelled, pairs, tmp_path):
    out, chosen = tmp_path / "labels", [("texture", {"threshold": 1.0})]
    label(settings(pairs, out, filters=chosen))
    shard = out / "shards" / "000001.zip"
    data = bytearray(shard.read_bytes())
    data[50] ^= 1
    shard.write_bytes(data)
    done = label(settings(pairs, out, filters=chosen))
    assert (done.found, done.mended, done.made) == (2, 1, 1)
    assert content(out) == content(labelled[0])


def test_other_settings_are_refused_on_the_same_folder(labelled, pairs, tmp_path):
    with pytest.raises(dd.UserError, match="labelled with other filters"):
        label(settings(pairs, labelled[0]))
    chosen = [("texture", {"threshold": 1.0})]
    for order in ((1, 0, 2, 3, 4), (0, 1, 2, 3)):
        rows = [f"{pairs}/left/{number:06d}.png {pairs}/right/{number:06d}.png" for number in order]
        (tmp_path / "pairs.txt").write_text("\n".join(rows))
        with pytest.raises(dd.UserError, match="labelled with other frames"):
            label(settings(tmp_path / "pairs.txt", labelled[0], filters=chosen))
    with pytest.raises(dd.UserError, match="labelled with another teacher"):
        label(settings(pairs, labelled[0], teacher={"name": GREY, "after": 3}, filters=chosen))


def test_labels_inside_the_folder_of_frames_are_no_frames(tmp_path):
    formats.write_image(tmp_path / "a.png", np.full((64, 96, 3), 90, np.uint8))
    teacher = {"name": "depth_slim", "weights": "shipped"}
    for found in (0, 1):
        done = dd.label(settings(tmp_path, tmp_path / "labels", teacher=teacher, write="files"))
        assert (done.frames, done.found) == (1, found)


def test_other_taps_are_refused_on_the_same_folder(pairs, tmp_path):
    teacher = {"name": "toy_teachers:TinyNetwork"}
    label(settings(pairs, tmp_path / "labels", teacher=teacher))
    with pytest.raises(dd.UserError, match="labelled with other taps"):
        label(settings(pairs, tmp_path / "labels", teacher=teacher, taps=["features"]))


def test_taps_begin_at_the_images_corner_whatever_a_network_was_padded_with():
    views = {side: torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8) for side in ("left", "right")}
    teacher = create_teacher("toy_teachers:TopRight")
    labeller = Labeller(teacher, get_task("stereo"), taps=["features"])
    label = labeller({**views, "meta": {"name": "x", "size": (50, 70)}}, "x")
    taps, _ = label.arrays[f"{TAP}features/0"]
    assert taps.shape == (2, 6, 13, 18), "the last row and column see the image's rest"
    with torch.no_grad():
        whole = teacher.network.features(torch.stack(tuple(views.values())) / 255)
    np.testing.assert_allclose(taps[..., :12, :17], whole, atol=1e-5)


def test_a_labelling_that_failed_before_its_first_shard_may_be_begun_again(pairs, tmp_path):
    out = tmp_path / "labels"
    with pytest.raises(dd.UserError, match="needs 'flow', the teacher gives disparity"):
        label(settings(pairs, out, filters=[("forward_backward", {})], teacher={"name": GREY}))
    assert label(settings(pairs, out)).made == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gwcnet_g"], "no weights ship for network 'gwcnet_g', so name a file: gwcnet_g=FILE"),
        (["sgbm", "--workers", "0"], "--workers: must be at least 1, not 0"),
        (["sgbm", "--dry-run", "--total", "-5"], "--total: must be at least 1, not -5"),
        (["sgbm", "--device", "abacus"], "torch has no device 'abacus' here; there is cpu"),
    ],
)
def test_the_verb_names_mistakes(arguments, message, pairs, tmp_path, capsys):
    assert main(["label", *arguments, "--frames", str(pairs), "--out", str(tmp_path / "labels")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_an_ensemble_labels_what_its_members_predict(tmp_path):
    slim = {"name": "depth_slim", "weights": "shipped"}
    teacher = {"name": "ensemble", "members": [slim, slim]}
    label(Settings(teacher, {"data": "icl_nuim", "limit": 1}, str(tmp_path / "labels")))
    assert Store(tmp_path / "labels").manifest["task"] == "depth"


def test_a_second_labeller_on_one_folder_is_refused(pairs, tmp_path):
    with (
        held(tmp_path / "labels", "labeller") as process,
        pytest.raises(dd.UserError, match=rf"another labeller \(process {process}\) is at work"),
    ):
        label(settings(pairs, tmp_path / "labels"))
    label(settings(pairs, tmp_path / "labels"))  # and let in once the first is gone


@pytest.mark.parametrize(
    ("flaw", "says"),
    [
        ("nan", "gives no number at 6144 of 6144 pixels of 'disparity' of frame '000000'"),
        ("size", "gives 'disparity' of 88x64 px for frame '000000' of 96x64 px"),
        ("other", "gives depth of frame '000000', task 'stereo' wants disparity"),
    ],
)
def test_a_teacher_that_answers_nonsense_is_named_with_the_frame(flaw, says, pairs, tmp_path):
    with pytest.raises(dd.UserError, match=says) as caught:
        label(settings(pairs, tmp_path / "labels", teacher={"name": GREY, "flaw": flaw}))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "labels" / "shards").exists()


def test_a_full_disk_leaves_no_half_shard(pairs, tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    out = tmp_path / "labels"
    label(settings(pairs, out, shard_size=5))
    os.remove(out / "shards" / "000000.json")
    before = content(out)
    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda p, d: full(p, d) if p.suffix == ".zip" else write(p, d))
    with pytest.raises(dd.UserError, match=r"cannot write .*000000\.zip: No space left on device"):
        label(settings(pairs, out, shard_size=5))
    assert content(out).keys() == before.keys()


def test_frames_out_of_order_or_missing_are_named(pairs, tmp_path):
    task = get_task("sceneflow")
    folder = tmp_path / "gap"
    for view in ("left", "right"):
        (folder / view).mkdir(parents=True)
        for number in (0, 1, 3):
            (folder / view / f"{number:06d}.png").write_bytes(
                (pairs / view / f"{number:06d}.png").read_bytes()
            )
    with pytest.raises(
        dd.UserError, match=r"frame 000002 is missing in .*left: 000003\.png follows 000001\.png"
    ):
        open_frames({"frames": folder}, task)
    rows = tmp_path / "rows.txt"
    names = [f"{pairs}/{view}/{number:06d}.png" for number in (2, 1) for view in ("left", "right")]
    rows.write_text(" ".join(names))
    with pytest.raises(dd.UserError, match=r"out of order: 000001\.png is given as what follows 000002\.png"):
        open_frames({"frames": rows}, task)
    elsewhere = [f"{pairs}/{view}/000002.png" for view in ("left", "right")]
    rows.write_text(" ".join([*elsewhere, *(f"{folder}/{view}/000000.png" for view in ("left", "right"))]))
    assert len(open_frames({"frames": rows}, task)) == 1, "numbers in two folders are no order"
    (folder / "right" / "000003.png").unlink()
    with pytest.raises(dd.UserError, match="has no counterpart"):
        open_frames({"frames": folder}, get_task("stereo"))


def test_a_data_set_that_names_no_samples_is_not_labelled(tmp_path, monkeypatch):
    (tmp_path / "nameless.py").write_text("def data():\n    return [{}]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(dd.UserError, match="data set 'nameless:data' has no 'names', one a sample"):
        open_frames({"data": "nameless:data"}, get_task("stereo"))


def test_files_are_in_kittis_formats_and_come_back(pairs, scenes, tmp_path):
    out = tmp_path / "labels"
    frames = {"data": "world", "length": 3, "size": [64, 96], "max_disparity": 24}
    teacher = {"name": "parts", "stereo": {"name": "sgbm", "max_disparity": 32}, "flow": "dis"}
    done = label(
        Settings(
            teacher=teacher, frames=frames, out=str(out), write="files", filters=[("forward_backward", {})]
        )
    )
    counts = done.manifest["counts"]["outputs"]
    assert set(counts) == {"disparity", "disparity_next", "flow"}
    flow, valid = formats.read_flow_png(out / "flow" / "000000.png")
    truth, known = scenes[0]["flow"].numpy(), scenes[0]["flow_valid"][0].numpy()
    error = np.linalg.norm(flow.transpose(2, 0, 1) - truth, axis=0)[valid & known]
    assert np.median(error) < 1
    disparity = formats.read_disparity_png(out / "disp_0" / "000000.png")
    error = np.abs(disparity - scenes[0]["disparity"][0].numpy())[disparity > 0]
    assert np.median(error) < 1
    assert (out / "disp_1" / "000002.png").is_file()
    (out / "flow" / "000001.png").write_bytes(b"damaged")
    again = label(
        Settings(
            teacher=teacher, frames=frames, out=str(out), write="files", filters=[("forward_backward", {})]
        )
    )
    assert (again.mended, again.made) == (1, 1)
    assert formats.read_flow_png(out / "flow" / "000001.png")[1].any()


def test_files_hold_what_is_known_and_say_where_nothing_is(tmp_path):
    known = np.array([[[True, True, True, False]]])
    maps = {
        "depth": np.array([[[1.5, 0.0005, 255.99, 300.0]]], np.float32),
        "disparity": np.array([[[1.5, 0.0, 255.0, 4.0]]], np.float32),
        "logits": np.eye(4, dtype=np.float32)[[0, 2, 3, 1]].T[:, None],
    }
    share = np.array([[[0.0, 0.5, 1.0, 0.1]]], np.float32)
    arrays = {key: (values, "fixed") for key, values in maps.items()}
    arrays |= {f"{key}_valid": (known, "mask") for key in maps} | {"depth_confidence": (share, "share")}
    receipt = write_files(tmp_path, [("a", arrays)])
    written = {name: formats.read_raster(tmp_path / name).tolist() for name in receipt["files"]}
    assert written == {
        "depth/a.png": [[384, 1, 65533, 0]],
        "disp_0/a.png": [[384, 0, 65280, 0]],
        "labels/a.png": [[0, 2, 3, 255]],
        "confidence/depth/a.png": [[0, 128, 255, 26]],
    }
    arrays["depth"][0][..., 2] = 256.0
    with pytest.raises(dd.UserError, match=r"KITTI's PNG holds at most 255\.99 m"):
        write_files(tmp_path, [("a", arrays)])


@pytest.mark.parametrize("key", ["disparity", "disparity_next", "depth"])
def test_a_label_that_is_not_above_0_is_unknown_in_a_file_though_a_teacher_vouches_for_it(key, tmp_path):
    values = np.array([[[0.0, -3.0, 1 / 512, 2.0]]], np.float32)
    arrays = {key: (values, "fixed"), f"{key}_valid": (np.ones_like(values, bool), "mask")}
    (name,) = write_files(tmp_path, [("a", arrays)])["files"]
    assert formats.read_raster(tmp_path / name).tolist() == [[0, 0, 1, 512]]


@pytest.mark.parametrize(
    ("output", "data", "key", "options"),
    [
        ("depth", "depth_folder", "depth", {"depth_scale": 256}),
        ("logits", "labelled_folder", "labels", {"classes": ["a", "b", "c"]}),
    ],
)
def test_files_of_single_images_are_read_beside_these(output, data, key, options, tmp_path):
    stored = np.array([[[0.5, 2.0, 3.0, 1.0]], [[1.0, 1.0, 4.0, 9.0]], [[0.0, 3.0, 3.0, 0.0]]], np.float32)
    stored = stored[:1] if output == "depth" else stored
    known = np.array([[[True, True, True, False]]])
    write_files(tmp_path, [("a", {output: (stored, "fixed"), f"{output}_valid": (known, "mask")})])
    formats.write_image(tmp_path / "images" / "a.png", np.zeros((1, 4, 3), np.uint8))
    read = dd.create_dataset(data, root=tmp_path, **options)[0][key]
    assert read.flatten().tolist() == ([0.5, 2, 3, 0] if key == "depth" else [1, 2, 1, 255])


@pytest.mark.parametrize("beyond", [-512.5, 512.0])
def test_flow_beyond_what_a_file_can_tell_is_refused_unless_it_is_rejected(beyond, tmp_path):
    flow = np.array([[[511.98, beyond]], [[-511.98, 1.0]]], np.float32)
    arrays = {"flow": (flow, "fixed"), "flow_valid": (np.array([[[True, False]]]), "mask")}
    write_files(tmp_path, [("a", arrays)])
    found, valid = formats.read_flow_png(tmp_path / "flow" / "a.png")
    np.testing.assert_allclose(found[0, 0], flow[:, 0, 0], atol=1 / 128)
    assert valid.tolist() == [[True, False]]
    arrays["flow_valid"] = np.array([[[True, True]]]), "mask"
    with pytest.raises(dd.UserError, match=r"KITTI's PNG holds flow of at most 511\.98 px"):
        write_files(tmp_path, [("a", arrays)])


def test_more_classes_than_a_file_can_tell_are_refused_where_they_occur(tmp_path):
    logits = np.zeros((300, 1, 2), np.float32)
    logits[254, 0, 0] = logits[299, 0, 1] = 1
    arrays = {"logits": (logits, "half"), "logits_valid": (np.array([[[True, False]]]), "mask")}
    write_files(tmp_path, [("a", arrays)])
    assert formats.read_raster(tmp_path / "labels" / "a.png").tolist() == [[254, 255]]
    arrays["logits_valid"] = np.array([[[True, True]]]), "mask"
    with pytest.raises(dd.UserError, match="an 8-bit PNG holds classes 0 to 254, 255 is unknown"):
        write_files(tmp_path, [("a", arrays)])


def test_a_video_and_a_store_with_images_are_frames_too(pairs, tmp_path):
    video = str(tmp_path / "clip.avi")
    writer = cv2.VideoWriter(video, cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 64))
    for i in range(3):
        writer.write(np.full((64, 96, 3), 60 * i + 20, np.uint8))
    writer.release()
    frames = open_frames({"frames": video}, get_task("depth"))
    assert list(frames.names) == [f"clip_{i:06d}" for i in range(3)]
    assert [round(float(frames[i]["image"].float().mean()) / 60) for i in (2, 0, 1)] == [2, 0, 1]
    halves = open_frames({"frames": video}, get_task("stereo"))[1]
    assert [tuple(halves[side].shape) for side in ("left", "right")] == [(3, 64, 48)] * 2
    with pytest.raises(dd.UserError, match="takes pairs and the next; name a folder or a list"):
        open_frames({"frames": video}, get_task("sceneflow"))
    out = tmp_path / "labels"
    label(settings(pairs, out, images=True))
    again = open_frames({"frames": out}, get_task("stereo"))
    files = open_frames({"frames": pairs}, get_task("stereo"))
    assert torch.equal(again[3]["right"], files[3]["right"])
    assert again.names == files.names


def test_the_estimate_is_of_measured_frames_and_leaves_nothing(pairs, tmp_path):
    found = estimate(settings(pairs, tmp_path / "labels"), frames=1000, workers=4, sample=2)
    assert found.sample == 2
    assert found.seconds_per_frame > 0
    assert found.hours == pytest.approx(found.seconds_per_frame * 1000 / 4 / 3600)
    out = tmp_path / "labels"
    label(settings(pairs, out, shard_size=1))
    size = json.loads((out / "manifest.json").read_text())["bytes"] / 5
    assert found.bytes_per_frame == pytest.approx(size, rel=0.5)
    assert "1000 frames on 4 workers" in str(found)


def test_the_estimate_is_of_frames_spread_over_all(pairs, tmp_path, monkeypatch):
    make, numbers = engine.Job.make, []
    monkeypatch.setattr(
        engine.Job, "make", lambda job, number: (numbers.append(number), make(job, number))[1]
    )
    estimate(settings(pairs, tmp_path / "labels"), sample=2)
    assert numbers == [0, 0, 2], "the first one warms up"


@pytest.mark.parametrize(
    "wrong", [{"write": "tar"}, {"shard_size": 0}, {"write": "files", "taps": ["volume"]}]
)
def test_settings_that_mean_nothing_are_refused(wrong, pairs, tmp_path):
    with pytest.raises(dd.UserError):
        label(settings(pairs, tmp_path / "labels", **wrong))


def test_the_verb_labels_sums_up_and_writes_a_page(pairs, tmp_path):
    from densedistill.verbs import label as verb

    out = tmp_path / "labels"
    done = verb(settings(pairs, out, filters=[("texture", {"threshold": 1.0})]))
    page = (out / "summary.html").read_text()
    assert done.made == 3
    assert page.count('<figure class="map">') == 5 * 3
    share = done.manifest["counts"]["outputs"]["disparity"]["kept"] / (5 * 64 * 96)
    assert 0 < share < 1
    assert f"5 frames; kept: disparity {100 * share:.1f} %" in page
    assert page.count(f"<td>{100 * share:.1f} %</td>") >= 1
    assert "http" not in page.split("</style>")[1].split("<script")[0]


def test_frames_of_another_size_than_their_stored_answers_are_named(scenes, tmp_path):
    from densedistill.verbs import label as verb

    for view in ("left", "right"):
        formats.write_image(tmp_path / "rig" / view / "0.png", scenes[0][view].permute(1, 2, 0).numpy())
    verb(settings(tmp_path / "rig", tmp_path / "labels"))
    for view in ("left", "right"):
        formats.write_image(tmp_path / "rig" / view / "0.png", np.zeros((32, 48, 3), np.uint8))
    with pytest.raises(dd.UserError, match="an answer of 96x64 px for frame '0', which is 48x32 px now"):
        verb(settings(tmp_path / "rig", tmp_path / "labels"))


def test_views_that_look_swapped_are_said_once(tmp_path):
    pair = dd.create_dataset("middlebury2003")[0]
    for name in ("0", "1"):
        for folder, view in (("left", "right"), ("right", "left")):
            formats.write_image(
                tmp_path / "rig" / folder / f"{name}.png", pair[view].permute(1, 2, 0).numpy()
            )
    with pytest.warns(DataWarning, match=r"left and right look swapped \(frame '0'\)") as found:
        label(settings(tmp_path / "rig", tmp_path / "labels"))
    assert len(found) == 1


@pytest.mark.full
def test_killed_for_good_in_the_middle_and_started_again_gives_the_same_bytes(pairs, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "labels"
    label(settings(pairs, whole, shard_size=1))
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parents[1] / 'src'}"}
    command = [sys.executable, "-m", "densedistill", "label", GREY, "--frames", str(pairs), "--out", str(out)]
    command += ["--shard-size", "1", "--device", "cpu"]
    process = subprocess.Popen(command, env=environment)
    for _ in range(6000):
        if len(list(out.glob("shards/*.json"))) >= 2 or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert subprocess.run(command, env=environment).returncode == 0
    assert {k: v for k, v in content(out).items() if k != "summary.html"} == content(whole)


@pytest.mark.full
@pytest.mark.parametrize("cluster", [None, "local"])
def test_of_two_workers_one_dies_and_nothing_is_lost_or_doubled(cluster, pairs, tmp_path, monkeypatch):
    if cluster:
        pytest.importorskip("ray", reason="the extra [cluster] is not installed")
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{here}{os.pathsep}{here.parents[1] / 'src'}")
    marker, whole, out = tmp_path / "died", tmp_path / "whole", tmp_path / "labels"
    teacher = {"name": GREY, "flaw": "dies", "marker": str(marker), "after": 1}
    done = label(settings(pairs, out, teacher=teacher, shard_size=1), processes=2, cluster=cluster)
    assert marker.exists(), "a worker died on the way"
    label(settings(pairs, whole, shard_size=1))
    assert done.made == 5
    assert sorted(Store(out).names) == [f"{i:06d}" for i in range(5)]
    shards = {k: v for k, v in content(out).items() if k.startswith("shards")}
    assert shards == {k: v for k, v in content(whole).items() if k.startswith("shards")}


def test_processes_take_the_gpus_in_turn_unless_one_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(scale, "Job", lambda settings: settings)
    monkeypatch.setattr(scale, "_job", None)
    for device, expected in (("cuda", ["cuda:0", "cuda:1", "cuda:0"]), ("cuda:1", ["cuda:1"] * 3)):
        begun, taken = multiprocessing.get_context("spawn").Value("i", 0), []
        for _ in range(3):
            scale._begin(Settings({"name": "sgbm"}, {}, str(tmp_path), device=device), 1, begun)
            taken.append(scale._job.device)
        assert taken == expected


def test_frames_of_floats_are_shown_in_the_summary(tmp_path):
    fields = {"teacher": {"name": "sgbm", "max_disparity": 16}, "frames": {"data": "toy_teachers:Frames"}}
    dd.label({**fields, "out": tmp_path / "labels"})
    assert "<img" in (tmp_path / "labels" / "summary.html").read_text()
