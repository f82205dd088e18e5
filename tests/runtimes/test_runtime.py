"""Exported files answer like networks: to a predictor, to `evaluate` and `predict`, and as teachers."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import os
import pickle
import re
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor

import onnx
import pytest
import torch
from tiny import Tiny

import densedistill as dd
from densedistill import cli
from densedistill.data.formats import write_image
from densedistill.deployment.export import export
from densedistill.deployment.formats import EngineArtifact
from densedistill.distillation.teachers import create_teacher
from densedistill.errors import UserError
from densedistill.inference.load import load_predictor, task_of_network
from densedistill.runtimes import RUNTIMES, Card, is_exported, load_runtime, read_card
from densedistill.runtimes.card import KEY, check_weights, join_engine, part_engine

SPEC = dd.InputSpec(multiple=8, pad="top-right", scale=0.5, channels="bgr", range=255.0, mean=(90, 100, 110))


@pytest.fixture(scope="module")
def network():
    network = Tiny(SPEC, "stereo").eval()
    network.max_disparity, network.classes = 48, ("near", "far")
    return network


@pytest.fixture(scope="module")
def files(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    made = {suffix: folder / f"tiny{suffix}" for suffix in (".onnx", ".xml", ".pt2")}
    for file in made.values():
        export(network, file, check_sizes=[(30, 44)])
    return made


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (2, 3, 29, 45), generator=generator, dtype=torch.uint8) for _ in range(2)]


@pytest.mark.parametrize(
    ("suffix", "runtime"),
    [(".onnx", "onnxruntime"), (".onnx", "openvino"), (".xml", "openvino"), (".pt2", "torch")],
)
def test_a_runtime_answers_like_the_network(network, files, pair, suffix, runtime):
    wanted = dd.Predictor(network)(*pair)["disparity"]
    loaded = load_runtime(files[suffix], runtime)
    for images in (pair, [image / 255 for image in pair]):
        torch.testing.assert_close(loaded(*images)["disparity"], wanted, atol=1e-3, rtol=1e-4)
    predict = dd.Predictor(loaded)
    torch.testing.assert_close(predict(*pair)["disparity"], wanted, atol=1e-3, rtol=1e-4)
    assert (predict.task.name, predict.precision, predict.device.type) == ("stereo", "float32", "cpu")
    assert (loaded.max_disparity, loaded.classes) == (48 / SPEC.scale, ("near", "far"))
    assert loaded.name == (
        "tiny.onnx (openvino)" if (suffix, runtime) == (".onnx", "openvino") else f"tiny{suffix}"
    )


@pytest.mark.parametrize(
    ("suffix", "runtime"), [(".onnx", "onnxruntime"), (".xml", "openvino"), (".pt2", "torch")]
)
def test_threads_get_each_the_answer_to_its_own_images(files, suffix, runtime):
    loaded = load_runtime(files[suffix], runtime)
    scenes = [torch.full((1, 3, 32, 48), shade / 20) for shade in range(20)]
    wanted = [loaded(scene, scene)["disparity"] for scene in scenes]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            found = list(pool.map(lambda scene: loaded(scene, scene)["disparity"], scenes))
            torch.testing.assert_close(found, wanted)


def test_a_file_runs_on_one_thread_where_it_is_told(files):
    session = load_runtime(files[".onnx"], threads=1)._session.session._session
    assert session.get_session_options().intra_op_num_threads == 1
    request = load_runtime(files[".xml"], threads=1)._session.session._request
    assert request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 1


def test_padding_of_a_protocol_reaches_the_file(network, files, pair):
    def padded(spec):
        return dataclasses.replace(spec, min_size=(40, 56), pad="top-right")

    ours, theirs = dd.Predictor(network), dd.Predictor(load_runtime(files[".onnx"]))
    wanted = ours.with_input_spec(padded(ours.input_spec))(*pair)["disparity"]
    found = theirs.with_input_spec(padded(theirs.input_spec))(*pair)["disparity"]
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-4)
    assert not torch.allclose(found, theirs(*pair)["disparity"], atol=1e-3)


def test_a_card_survives_json_and_every_file():
    names = ("left", "right"), ("disparity",)
    card = Card("n", "stereo", *names, SPEC, (3, 4), 2, 64, ("road", "car"), {}, "int8", {"mean": 0.5}, "1")
    assert Card.from_json(card.to_json()) == card
    assert part_engine(join_engine(b"engine", card.to_json())) == (b"engine", card.to_json())
    assert part_engine(b"some other engine") == (b"some other engine", None)
    with pytest.raises(ValueError, match="not a card"):
        Card.from_json('{"name": 3}')


def test_what_is_an_exported_file_is_told_by_its_suffix():
    assert is_exported("a/b.onnx")
    assert not any(map(is_exported, ("dsnet_slim", "dsnet_slim=a.safetensors", None, 3)))


def test_a_file_is_a_network_to_evaluate(network, files):
    sample = dd.create_dataset("middlebury2003")[0]
    small = {key: value[..., :60, :90] if torch.is_tensor(value) else value for key, value in sample.items()}
    result = dd.evaluate([network, files[".onnx"], str(files[".xml"])], [small])
    epe = [row["epe"] for row in result.rows]
    assert [row["name"] for row in result.rows] == ["tiny", "tiny.onnx", "tiny.xml"]
    assert epe == pytest.approx([epe[0]] * 3, abs=1e-3)
    assert task_of_network(str(files[".pt2"])).name == "stereo"


def test_a_file_predicts_from_the_command_line(files, pair, tmp_path, capsys):
    for name, image in zip(("left", "right"), pair, strict=True):
        write_image(tmp_path / f"{name}.png", image[0].permute(1, 2, 0).numpy())
    command = ["predict", str(files[".onnx"]), "--left", str(tmp_path / "left.png"), "--right"]
    command += [str(tmp_path / "right.png"), "--out", str(tmp_path / "out"), "--runtime", "openvino"]
    assert cli.main(command) == 0
    assert (tmp_path / "out" / f"{tmp_path.name}.png").is_file()


def test_a_file_is_a_teacher(network, files, pair):
    teacher = create_teacher(str(files[".onnx"]), runtime="openvino", threads=1)
    answer = teacher({"left": pair[0], "right": pair[1]})
    wanted = dd.Predictor(network)(*pair)["disparity"]
    torch.testing.assert_close(answer["disparity"], wanted, atol=1e-3, rtol=1e-4)
    with pytest.raises(UserError, match="outputs, but no taps"):
        teacher.watch(["volume"])
    student = dd.create_model("dsnet_slim", max_disparity=32)
    term = {"loss": "smooth_l1", "of": "disparity", "to": "teacher"}
    batch = {"left": pair[0][:, :, :16, :32], "right": pair[1][:, :, :16, :32]}
    total, _ = dd.Objective({"output": term}, student, {"teacher": teacher})(batch)
    total.backward()
    assert total > 0


def test_teacher_options_that_do_not_fit_are_refused(files):
    with pytest.raises(UserError, match="brings its own weights"):
        create_teacher(str(files[".onnx"]), weights="a.safetensors")
    with pytest.raises(UserError, match="takes no option 'runtme'; did you mean 'runtime'"):
        create_teacher(str(files[".onnx"]), runtme="openvino")


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_a_damaged_file_is_one_line(files, tmp_path, suffix):
    whole = files[suffix].read_bytes()
    for number, content in enumerate((whole[: len(whole) // 2], b"nothing of the kind", b"")):
        file = tmp_path / f"{number}{suffix}"
        file.write_bytes(content)
        if suffix == ".xml":
            shutil.copy(files[suffix].with_suffix(".bin"), file.with_suffix(".bin"))
        with pytest.raises(UserError, match=rf"{number}\{suffix}.*(damaged|says nothing|says about itself)"):
            load_runtime(file)


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "stereos"},
        {"task": 3},
        {"task": "depth"},
        {"inputs": ["a", "b"]},
        {"outputs": ["depth"]},
        {"size": "30x44"},
        {"batch": 0},
        {"batch": "two"},
        {"input_spec": {"multiple": 0}},
        {"decoding": {"threshold": 0.5}},
        {"of_a_later_version": 1},
    ],
)
def test_a_card_that_makes_no_sense_is_one_line_with_the_file(files, tmp_path, changes):
    model = onnx.load(files[".onnx"])
    card = json.loads({entry.key: entry.value for entry in model.metadata_props}[KEY])
    onnx.helper.set_model_props(model, {KEY: json.dumps({**card, **changes})})
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(UserError, match=r"what .*changed\.onnx says about itself cannot be read"):
        load_runtime(tmp_path / "changed.onnx")


def test_a_package_of_another_torch_says_so(files, tmp_path, caplog):
    with zipfile.ZipFile(files[".pt2"]) as good, zipfile.ZipFile(tmp_path / "later.pt2", "w") as later:
        for name in good.namelist():
            later.writestr(name, re.sub(rb'("schema_version": {"major": )\d+', rb"\g<1>99", good.read(name)))
    with pytest.raises(UserError, match=r"another version of torch: Serialized schema version .*99"):
        load_runtime(tmp_path / "later.pt2")
    assert not caplog.records


def without_checksum(file, target):
    """Write what versions without checksums wrote to `target`, and return it."""
    if file.suffix == ".xml":
        target.write_text(re.sub(r", &quot;checksum&quot;: &quot;\w+&quot;", "", file.read_text()))
        shutil.copy(file.with_suffix(".bin"), target.with_suffix(".bin"))
    else:
        model = onnx.load(file)
        card = json.loads({entry.key: entry.value for entry in model.metadata_props}[KEY])
        del card["checksum"]
        onnx.helper.set_model_props(model, {KEY: json.dumps(card)})
        onnx.save(model, target)
    return target


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_a_weight_that_changed_since_the_export_is_noticed(network, files, tmp_path, suffix):
    weight = network.head.weight.detach().numpy().tobytes()
    file = tmp_path / f"changed{suffix}"
    for source in [files[suffix], files[suffix].with_suffix(".bin")][: 1 + (suffix == ".xml")]:
        content = source.read_bytes()
        changed = content.replace(weight, bytes([weight[0] ^ 1]) + weight[1:])
        file.with_suffix(source.suffix).write_bytes(changed)
    assert changed != content
    with pytest.raises(UserError, match=r"changed\.(onnx|bin|pt2) (does not hold|is damaged)"):
        load_runtime(file)


def test_a_layer_of_an_xml_that_changed_since_the_export_is_noticed(files, tmp_path):
    file = tmp_path / "changed.xml"
    text = files[".xml"].read_text()
    changed = text.replace('strides="2, 2"', 'strides="1, 2"')
    assert changed != text
    file.write_text(changed)
    shutil.copy(files[".xml"].with_suffix(".bin"), file.with_suffix(".bin"))
    with pytest.raises(UserError, match=r"changed\.xml or its changed\.bin does not hold what was exported"):
        load_runtime(file)


def test_weights_of_another_training_beside_an_xml_are_noticed(files, tmp_path):
    other = Tiny(SPEC, "stereo").eval()
    torch.nn.init.normal_(other.head.weight)
    export(other, tmp_path / "other.xml", check_sizes=[(30, 44)])
    shutil.copy(files[".xml"], tmp_path / "other.xml")
    with pytest.raises(UserError, match=r"other\.xml or its other\.bin does not hold what was exported"):
        load_runtime(tmp_path / "other.xml")


def test_an_engine_is_held_by_its_checksum(files, tmp_path):
    file = tmp_path / "tiny.engine"
    EngineArtifact(b"an engine").save(file, read_card(files[".onnx"]))
    check_weights(file, read_card(file))
    file.write_bytes(file.read_bytes().replace(b"an engine", b"no engine"))
    with pytest.raises(UserError, match=r"tiny\.engine does not hold what was exported"):
        check_weights(file, read_card(file))


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_file_from_before_there_were_checksums_answers(network, files, pair, tmp_path, suffix):
    older = without_checksum(files[suffix], tmp_path / f"older{suffix}")
    assert read_card(older).checksum == ""
    wanted = dd.Predictor(network)(*pair)["disparity"]
    torch.testing.assert_close(load_runtime(older)(*pair)["disparity"], wanted, atol=1e-3, rtol=1e-4)


def test_damage_inside_a_file_is_one_line_and_nothing_else_is_printed(files, tmp_path, capfd):
    damaged = without_checksum(files[".onnx"], tmp_path / "damaged.onnx")
    damaged.write_bytes(damaged.read_bytes().replace(b"NOTSET", b"NOTHIN"))
    with pytest.raises(UserError, match=r"onnxruntime \S+ cannot load .*damaged\.onnx: .*may be damaged"):
        load_runtime(damaged)
    damaged = tmp_path / "damaged.pt2"
    with zipfile.ZipFile(files[".pt2"]) as good, zipfile.ZipFile(damaged, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, good.read(name).replace(b"aten.conv2d", b"aten.nothing"))
    with pytest.raises(UserError, match=r"torch cannot load .*damaged\.pt2, which may be damaged"):
        load_runtime(damaged)
    assert capfd.readouterr() == ("", "")


def test_files_of_others_are_refused(files, tmp_path):
    model = onnx.load(files[".onnx"])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UserError, match="says nothing about itself"):
        load_runtime(tmp_path / "other.onnx")
    shutil.copy(files[".xml"], tmp_path / "alone.xml")
    with pytest.raises(UserError, match=r"alone\.bin is missing"):
        load_runtime(tmp_path / "alone.xml")


def test_a_package_is_never_unpickled(files, tmp_path):
    with zipfile.ZipFile(files[".pt2"]) as good, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            if name.endswith("weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
            bad.writestr(name, content)
    with pytest.raises(UserError, match="pickled objects, which can run code"):
        load_runtime(tmp_path / "bad.pt2")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("missing.onnx", {}, "there is no file"),
        ("tiny.h5", {}, r"these end in \.onnx, \.xml, \.pt2, \.engine"),
        (".onnx", {"runtime": "onnxruntme"}, "did you mean 'onnxruntime'"),
        (".onnx", {"runtime": "torch"}, "for onnxruntime or openvino"),
        (".onnx", {"precision": "int4"}, "there is no precision 'int4'"),
        (".onnx", {"precision": "bfloat16"}, "computes in what the file holds"),
        (".onnx", {"threads": 0}, "threads is a whole number, 1 or more, got 0"),
        (".onnx", {"device": "gpu"}, "torch has no device 'gpu' here; there is cpu"),
        (".xml", {"device": "gpu"}, "torch has no device 'gpu' here; there is cpu"),
        (".pt2", {"device": "cuda:99"}, "torch has no device 'cuda:99' here; there is cpu"),
    ],
)
def test_mistakes_are_one_line(files, name, options, words):
    with pytest.raises(UserError, match=words):
        load_runtime(files.get(name, name), **options)


def test_images_that_the_file_cannot_take_are_one_line(files, pair):
    runtime = load_runtime(files[".onnx"])
    with pytest.raises(UserError, match=r"takes 2 images \(left, right\), got 1"):
        runtime(pair[0])
    for other in (pair[1][..., :40], pair[1][:1]):
        with pytest.raises(UserError, match=rf"differ in shape: .* and {re.escape(str(tuple(other.shape)))}"):
            runtime(pair[0], other)
    with pytest.raises(UserError, match="normalises by itself"):
        runtime(*[image.float() for image in pair])
    with pytest.raises(UserError, match=r"shape \(B, 3, H, W\), got \(2, 3, 0, 45\)"):
        runtime(*[image[:, :, :0] for image in pair])
    with pytest.raises(UserError, match="takes tensors as every network does, got ndarray"):
        runtime(*[image.numpy() for image in pair])


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_a_runtime_goes_to_another_process_by_its_file(files, pair, suffix, tmp_path, monkeypatch):
    file = shutil.copy(files[suffix], tmp_path)
    if suffix == ".xml":
        shutil.copy(files[suffix].with_suffix(".bin"), tmp_path)
    monkeypatch.chdir(tmp_path)
    runtime = load_runtime(os.path.basename(file)).with_input_spec(dd.InputSpec(pad="centre"))
    expected = runtime(*pair)["disparity"]
    sent = pickle.dumps(runtime)
    assert len(sent) < 20_000
    monkeypatch.chdir("/")
    assert torch.equal(pickle.loads(sent)(*pair)["disparity"], expected)
    assert torch.equal(copy.deepcopy(runtime)(*pair)["disparity"], expected)
    for path in tmp_path.iterdir():
        path.unlink()
    assert torch.equal(copy.deepcopy(runtime)(*pair)["disparity"], expected)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_images_with_gradients_are_answered_without(files, pair, suffix):
    runtime = load_runtime(files[suffix])
    images = [(image / 255).requires_grad_() for image in pair]
    found = runtime(*images)["disparity"]
    assert not found.requires_grad
    torch.testing.assert_close(found, runtime(*pair)["disparity"])


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_a_predictor_leaves_a_file_in_the_arithmetic_it_was_loaded_with(files, pair, suffix):
    runtime = load_runtime(files[suffix])
    predict = dd.Predictor(runtime, precision="bfloat16")
    assert predict.precision == "float32"
    torch.testing.assert_close(
        predict(*pair)["disparity"], dd.Predictor(runtime)(*pair)["disparity"], rtol=0, atol=0
    )


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_a_file_answers_inside_autocast_as_outside(files, pair, suffix):
    """A training in bfloat16 asks its teachers there."""
    runtime = load_runtime(files[suffix])
    expected = runtime(*pair)["disparity"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(runtime(*pair)["disparity"], expected)


def test_a_package_is_a_teacher(pair, tmp_path):
    export(Tiny(dd.InputSpec(multiple=8), "stereo").eval(), tmp_path / "a.pt2", check_sizes=[(16, 24)])
    taught = load_runtime(tmp_path / "a.pt2")(*pair)["disparity"]
    student = torch.zeros_like(taught, requires_grad=True)
    torch.nn.functional.smooth_l1_loss(student, taught).backward()
    assert student.grad.any()


class Deep(Tiny):
    """A network with a convolution of one small volume."""

    def __init__(self):
        super().__init__(SPEC, "stereo")
        self.volume = torch.nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, left, right):
        volume = self.volume(torch.cat((left, right), 1)[:, None])
        return {"disparity": super().forward(left, right)["disparity"] + volume.mean(2)}


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
def test_one_dnn_computes_the_small_volumes_of_a_package(pair, tmp_path):
    export(network := Deep().eval(), tmp_path / "deep.pt2", check_sizes=[(16, 24)])
    predict, one = dd.Predictor(load_runtime(tmp_path / "deep.pt2")), [image[:1] for image in pair]
    with torch.profiler.profile() as profile:
        found = predict(*one)["disparity"]
    assert "aten::slow_conv3d_forward" not in {event.key for event in profile.key_averages()}
    torch.testing.assert_close(found, dd.Predictor(network)(*one)["disparity"], rtol=0, atol=1e-3)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_file_is_on_the_cpu_where_onnxruntime_does_not_start_cuda(files, monkeypatch):
    """It has a provider for CUDA, and does without when CUDA's libraries are missing."""
    import onnxruntime

    from densedistill.runtimes.onnxruntime import open_session

    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    file = files[".onnx"]
    session = open_session(file, read_card(file), torch.device("cuda"), "float32", 1)
    assert session.device == torch.device("cpu")


def test_a_missing_runtime_says_what_to_install(files, monkeypatch):
    real = importlib.import_module

    def missing(name, package=None):
        if name in ("onnxruntime", "openvino"):
            raise ImportError(f"No module named '{name}'", name=name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    for suffix in (".onnx", ".xml"):
        with pytest.raises(UserError, match=r"is not installed: pip install 'densedistill\[export\]'"):
            load_runtime(files[suffix])
    assert read_card(files[".onnx"]).name == "tiny"


def test_onnxruntime_reports_to_nobody(monkeypatch):
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    importlib.reload(dd.runtimes)
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_a_file_of_another_task_is_refused(files, tmp_path):
    export(Tiny(task="depth").eval(), tmp_path / "depth.onnx", check_sizes=[(16, 24)])
    with pytest.raises(UserError, match="networks of one task are compared, these are of stereo and depth"):
        dd.evaluate([files[".onnx"], tmp_path / "depth.onnx"], "samples")


def test_a_runtime_is_for_exported_files():
    with pytest.raises(UserError, match="onnxruntime runs exported files, and dsnet_slim is none"):
        load_predictor("dsnet_slim", runtime="onnxruntime")
    assert set(RUNTIMES) == {"torch", "onnxruntime", "openvino", "tensorrt"}
