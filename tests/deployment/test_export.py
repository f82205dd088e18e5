"""Exported files answer as torch does, at any size, and say what they are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
import torch
from tiny import Tiny
from torch import nn

import densedistill as dd
from densedistill.data.datasets import create_dataset
from densedistill.deployment import tensorrt
from densedistill.deployment.check import Difference, Row, compare, measure_difference, real_images
from densedistill.deployment.export import export, make_artifact, writing_in_words
from densedistill.deployment.graph import Graph, deployable, doubtful_sizes, trace, traced_size
from densedistill.errors import UserError
from densedistill.networks.fcos import FCOS
from densedistill.networks.layers.correlation import correlation_2d
from densedistill.networks.pspnet import AdaptiveMean
from densedistill.runtimes import Card, load_runtime, read_card
from densedistill.tasks import get_task, list_tasks

SIZES = ((64, 96), (75, 110))


class Other(nn.Module):
    """A network that calls its output as it likes."""

    def forward(self, left, right):
        return {"disp": left - right}


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    return dd.create_model("dsnet_slim", max_disparity=32, weights=None).eval()


@pytest.fixture(scope="module")
def files(student, tmp_path_factory):
    """The same network in two formats, for any size."""
    folder = tmp_path_factory.mktemp("exported")
    made = {}
    for suffix in (".onnx", ".xml"):
        made[suffix] = folder / f"student{suffix}"
        assert export(student, made[suffix], check_sizes=SIZES) < 1e-3
    return made


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(64, 96), (49, 87), (96, 65)])
def test_a_file_for_any_size_answers_as_torch_for_any_size_and_batch(student, files, suffix, size, batch):
    images = [image.repeat(batch, 1, 1, 1) for image in real_images(get_task("stereo"), size)]
    wanted = dd.Predictor(student)(*images)["disparity"]
    found = load_runtime(files[suffix])(*images)["disparity"]
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)


def test_the_graph_is_small_and_its_inputs_are_named(files):
    model = onnx.load(files[".onnx"])
    assert len(model.graph.node) < 150
    dims = [[d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input]
    assert dims == [["batch", 3, "height", "width"]] * 2
    assert [i.name for i in model.graph.input] == ["left", "right"]
    assert [o.name for o in model.graph.output] == ["disparity"]
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_no_file_tells_where_the_source_lies_on_this_machine(tmp_path, suffix):
    export(Tiny().eval(), tmp_path / f"tiny{suffix}", check_sizes=[(16, 24)])
    for file in tmp_path.iterdir():
        for path in (__file__, tiny.__file__, torch.__file__, dd.__file__):
            assert str(Path(path).parent).encode() not in file.read_bytes()


def test_ranges_of_sizes_lie_in_one_order_so_that_equal_networks_are_equal_files():
    """torch keeps them in a set of words, whose order is another in every process."""
    ranges = [str(one) for one in trace(Graph(deployable(Tiny().eval()))).range_constraints.items()]
    assert len(ranges) > 2
    assert ranges == sorted(ranges)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_the_metadata_holds_what_others_need(student, files, suffix):
    card = read_card(files[suffix])
    assert (card.name, card.task, card.max_disparity, card.size) == ("dsnet_slim", "stereo", 32, None)
    assert card.input_spec == student.input_spec
    assert card.difference["mean"] < 1e-3
    assert [row["size"] for row in card.difference["rows"][:2]] == [list(size) for size in SIZES]
    model = onnx.load(files[".onnx"])
    assert "left and right: RGB in [0, 1], float32; normalising is inside" in model.doc_string
    assert f"multiples of {student.input_spec.multiple};" in model.doc_string
    entries = {e.key: e.value for e in model.metadata_props}
    assert json.loads(entries["densedistill"])["input_spec"]["pad"] == "top-right"


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
@pytest.mark.parametrize(
    "spec",
    [
        dd.InputSpec(mean=(1, 2, 3), std=(2, 3, 4), channels="bgr", range=255.0, multiple=8, pad="top-right"),
        dd.InputSpec(multiple=8, scale=0.5, pad="centre"),
        dd.InputSpec(multiple=8, scale=0.5, antialias=False),
        dd.InputSpec(multiple=8, pad_mode="replicate", min_size=(40, 0)),
    ],
    ids=["bgr", "scaled", "subsampled", "replicate"],
)
@pytest.mark.parametrize("size", [None, (37, 50)])
def test_every_preparation_goes_with_the_file(tmp_path, spec, size, suffix):
    network = Tiny(spec).eval()
    difference = export(network, tmp_path / f"tiny{suffix}", size, check_sizes=[(37, 50), (48, 33)])
    assert difference < 1e-2  # hundredths of the mean depth
    assert len({row.size for row in difference.rows}) == (1 if size else 2)


class Awkward(Tiny):
    """A network of what exporters get wrong at sizes unlike the traced one."""

    def __init__(self):
        super().__init__(dd.InputSpec(multiple=16))
        self.pool = AdaptiveMean(6)

    def forward(self, image):
        feature = nn.functional.avg_pool2d(image, 16)
        matched = correlation_2d(feature, feature.flip(3), 2).mean(1, True)
        pooled = nn.functional.interpolate(self.pool(feature), feature.shape[-2:]).mean(1, True)
        halves = [-(-side // 2) for side in feature.shape[-2:]]
        halved = nn.functional.interpolate(feature, halves, mode="bilinear").mean(1, True)
        found = matched + pooled + nn.functional.interpolate(halved, feature.shape[-2:])
        return {"depth": nn.functional.interpolate(found, image.shape[-2:])}


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_sizes_unlike_the_traced_one_are_right_at_once(tmp_path, suffix):
    sizes = [(64, 96), (48, 48), (100, 150), (240, 320)]
    assert export(Awkward().eval(), tmp_path / f"awkward{suffix}", check_sizes=sizes) < 1e-2


def test_a_wide_padding_before_a_pooling_is_exported(tmp_path):
    class Pooled(Tiny):
        def forward(self, image):
            return {
                "depth": nn.functional.interpolate(
                    nn.functional.avg_pool2d(image, 3, 2, 1)[:, :1], image.shape[-2:]
                )
            }

    assert export(Pooled(dd.InputSpec(multiple=16)).eval(), tmp_path / "pooled.onnx", (150, 140)) < 1e-2


@pytest.mark.parametrize("task", [task for task in list_tasks() if task != "detection"])
def test_a_network_of_every_task_is_exported(tmp_path, task):
    network = Tiny(task=task, outputs=5 if task == "segmentation" else 1).eval()
    file = tmp_path / "tiny.onnx"
    assert export(network, file, check_sizes=[(37, 50)]) < 1e-2
    predict = dd.Predictor(load_runtime(file))
    assert predict.task.name == task


def test_a_wrapped_network_is_exported(tmp_path):
    body = nn.Sequential(nn.Conv2d(6, 1, 3, 1, 1))
    net = dd.wrap(
        body, outputs=lambda y: {"disparity": y}, inputs=lambda left, right: torch.cat((left, right), 1)
    )
    assert export(net, tmp_path / "wrapped.onnx", check_sizes=[(20, 30)]) < 1e-4


@pytest.mark.parametrize(("weights", "limit"), [("float16", 0.01), ("bfloat16", 0.1)])
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_half_precision_halves_the_file(tmp_path, weights, suffix, limit):
    spec = dd.InputSpec(multiple=8)
    network = Tiny(spec, "stereo", width=64).eval()
    sizes = {}
    for kind in ("float32", weights):
        file = tmp_path / f"{kind}{suffix}"
        difference = export(network, file, weights=kind, check_sizes=[(24, 32)], limit=limit)
        sizes[kind] = file.with_suffix(".bin" if suffix == ".xml" else suffix).stat().st_size
    assert difference > 0
    assert sizes[weights] < 0.75 * sizes["float32"]
    assert read_card(file).weights == weights


def test_a_fixed_size_is_refused_for_others_and_batches_are_cut(tmp_path):
    network = Tiny(task="stereo").eval()
    export(network, tmp_path / "fixed.onnx", (37, 50), batch=2)
    runtime = load_runtime(tmp_path / "fixed.onnx")
    images = [torch.rand(3, 3, 37, 50) for _ in range(2)]
    torch.testing.assert_close(
        runtime(*images)["disparity"], dd.Predictor(network)(*images)["disparity"], atol=1e-4, rtol=0
    )
    with pytest.raises(UserError, match=r"exported for images of 37x50 .* got 38x50"):
        runtime(*[torch.rand(1, 3, 38, 50) for _ in range(2)])


class Forgetful(Tiny):
    """Adds something at sizes that it was not traced with."""

    def forward(self, *images):
        found = super().forward(*images)["depth"]
        return {"depth": found + 1 if images[0].shape[-1] % 3 else found}


def test_what_holds_for_the_traced_size_alone_is_found_out(tmp_path):
    network = Forgetful().eval()
    graph = Graph(deployable(network))
    assert doubtful_sizes(trace(graph), graph)
    with pytest.raises(UserError, match=r"by .* % of the mean magnitude on average .* nothing was written"):
        export(network, tmp_path / "forgetful.onnx", check_sizes=[(64, 96)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        ("student.tflite", {}, "end it in .onnx, .xml, .pt2, .engine"),
        ("student.onnx", {"weights": "float8"}, "there is no number format for weights 'float8'"),
        ("student.onnx", {"size": (0, 5)}, r"size is \(height, width\)"),
        ("student.onnx", {"size": 64}, r"size is \(height, width\) in px, got 64"),
        ("student.onnx", {"size": (64.5, 96)}, r"size is \(height, width\) in px, got \(64\.5, 96\)"),
        ("student.onnx", {"batch": 0}, "batch is a whole number, 1 or more, got 0"),
        ("student.onnx", {"batch": -1}, "batch is a whole number, 1 or more, got -1"),
        ("student.onnx", {"batch": 1.5}, r"batch is a whole number, 1 or more, got 1\.5"),
        ("student.onnx", {"check_sizes": []}, "check_sizes is empty"),
        ("student.onnx", {"check_sizes": [(0, 3)]}, r"size is \(height, width\) in px, got \(0, 3\)"),
        ("student.pt2", {"weights": "float16"}, "weights of a .pt2 package are float32"),
        ("student.engine", {}, "tensorrt is not installed: pip install tensorrt"),
    ],
)
def test_mistakes_are_one_line(tmp_path, path, options, words):
    with pytest.raises(UserError, match=words):
        export(Tiny().eval(), tmp_path / path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("dsnet_slim", r"is a network \(nn\.Module\), got str; `create_model` makes one of a name"),
        (None, r"is a network \(nn\.Module\), got NoneType"),
    ],
)
def test_what_is_no_network_is_one_line(tmp_path, network, words):
    with pytest.raises(UserError, match=words):
        export(network, tmp_path / "student.onnx")


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (nn.Conv2d(3, 1, 1), "Conv2d does not run on left and right: .* `wrap` fits any network to a task"),
        (Other(), "Other gives no disparity; `wrap` fits any network to a task"),
    ],
)
def test_a_network_that_is_not_of_the_task_is_one_line(tmp_path, network, words):
    with pytest.raises(UserError, match=words):
        export(network.eval(), tmp_path / "a.onnx", check_sizes=[(16, 24)])
    assert not list(tmp_path.iterdir())


def test_an_exported_file_is_not_exported_again(tmp_path):
    export(Tiny().eval(), tmp_path / "a.onnx", check_sizes=[(16, 24)])
    with pytest.raises(UserError, match=r"a\.onnx is exported already; export the network"):
        export(load_runtime(tmp_path / "a.onnx"), tmp_path / "b.onnx")


@pytest.mark.parametrize("name", ["folder.onnx", "folder.xml", "weights.xml", "file/a.onnx", "file/a.xml"])
def test_where_no_file_can_be_written_is_said_before_the_work(tmp_path, name):
    for folder in ("folder.onnx", "folder.xml", "weights.bin"):
        (tmp_path / folder).mkdir()
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    said = []
    with pytest.raises(UserError, match=r"cannot write .*(Is|Not) a directory"):
        export(Tiny().eval(), tmp_path / name, on_progress=said.append)
    assert not said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_a_full_disk_is_one_line_and_leaves_an_older_file_as_it_was(tmp_path, suffix):
    import resource

    export(Tiny().eval(), tmp_path / f"tiny{suffix}", check_sizes=[(16, 24)])
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    artifact, card, _ = make_artifact(
        Tiny(width=64).eval(), suffix, None, None, "float32", lambda message: None
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(
            UserError, match=rf"cannot write .*tiny\{suffix}: (File too large|is the disk full)"
        ):
            artifact.save(tmp_path / f"tiny{suffix}", card)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_what_is_no_number_is_beyond_any_limit(tmp_path):
    class Undefined(Tiny):
        def forward(self, *images):
            return {"depth": super().forward(*images)["depth"] / 0}

    with pytest.raises(UserError, match="nothing was written"):
        export(Undefined().eval(), tmp_path / "a.onnx", check_sizes=[(16, 24)], limit=float("inf"))
    assert not list(tmp_path.iterdir())


def test_a_card_says_what_a_file_was_made_for():
    network = Tiny(task="stereo")
    network.max_disparity, network.classes = 48, ("road", "car")

    def card(size, batch):
        return make_artifact(network, ".pt2", size, batch, "float32", lambda message: None)[1]

    assert (card(None, None).size, card(None, None).batch) == (None, None)
    fixed = card((16, 24), None)
    assert (fixed.size, fixed.batch, fixed.max_disparity, fixed.classes) == ((16, 24), 1, 48, ("road", "car"))
    network.classes = 2  # their number alone
    assert card(None, 3).batch == 3
    assert card(None, 3).classes == ()


@pytest.mark.parametrize(
    ("size", "batch", "wanted"),
    [
        ((40, 64), None, [(1, 3, 40, 64)] * 3),
        ((40, 64), 2, [(2, 3, 40, 64)] * 3),
        (None, 2, [(2, 3, 80, 112), (2, 3, 384, 1248), (2, 3, 1088, 1920)]),
        (None, None, [(1, 3, 80, 112), (1, 3, 384, 1248), (4, 3, 1088, 1920)]),
    ],
)
def test_an_engine_takes_the_fixed_size_or_sizes_that_the_network_takes(size, batch, wanted):
    card = Card("n", "stereo", ("left",), ("disparity",), dd.InputSpec(multiple=16), size, batch)
    assert list(tensorrt._shapes(card)) == wanted
    assert tensorrt._shapes(Card("n", "stereo", (), (), dd.InputSpec(multiple=50)))[1] == (1, 3, 400, 1250)


def test_a_network_that_cannot_be_traced_is_one_line_that_names_the_line_of_it(tmp_path, capfd):
    class Branching(Tiny):
        def forward(self, *images):
            return {"depth": super().forward(*images)["depth"] * (2 if images[0].sum() > 0 else 1)}

    words = r"cannot trace tiny: .* values in the images.*test_export\.py, line \d+: return .*if images\[0\]"
    with pytest.raises(UserError, match=words):
        export(Branching().eval(), tmp_path / "branching.onnx")
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_a_network_that_a_package_cannot_hold_or_answer_for_is_one_line(tmp_path):
    class Rounding(Tiny):
        def forward(self, image):
            halves = [math.ceil(side / 2) for side in image.shape[-2:]]
            return {"depth": nn.functional.interpolate(image[:, :1], halves)}

    class Narrow(Tiny):
        def forward(self, image):
            return super().forward(image if image.shape[-1] <= 200 else 2 * image)

    for network, words in (
        (Rounding(), r"tiny cannot be written as a \.pt2 package: op .*ceil"),
        (Narrow(dd.InputSpec(multiple=1)), r"the package was traced for other sizes: .* <= 200, but got 304"),
    ):
        with pytest.raises(UserError, match=words):
            export(network.eval(), tmp_path / "tiny.pt2", check_sizes=[(40, 304)])
    assert not list(tmp_path.iterdir())


class Body(nn.Module):
    """An encoder of four convolutions."""

    widths = (8, 16, 16)

    def __init__(self):
        super().__init__()
        widths = ((3, 8, 4), (8, 8, 2), (8, 16, 2), (16, 16, 2))
        self.convs = nn.ModuleList(nn.Conv2d(*width, width[-1]) for width in widths)

    def forward(self, image):
        levels = [image]
        for conv in self.convs:
            levels.append(conv(levels[-1]).relu())
        return levels[2:]


def detector(improved):
    """Return a detector that is sure of what it sees, so that there are detections to compare."""
    torch.manual_seed(0)
    network = FCOS(Body(), classes=3, channels=32, improved=improved)
    network.task = "detection"
    nn.init.normal_(network.head.classification.weight, std=1.0)
    nn.init.constant_(network.head.regression.bias, 2.0)
    return network.eval()


@pytest.mark.parametrize(("suffix", "size"), [(".onnx", None), (".onnx", (100, 140)), (".xml", None)])
def test_a_detectors_file_gives_the_detections_of_torch(suffix, size, tmp_path):
    network = detector(improved=size is None)
    file = tmp_path / f"fcos{suffix}"
    export(network, file, size, check_sizes=[(128, 192), (150, 140)])
    runtime = dd.load_runtime(file)
    assert runtime.card.outputs == ("class_logits", "distances", "centerness")
    images = real_images(get_task("detection"), size or (150, 140))
    wanted, found = dd.Predictor(network)(*images), dd.Predictor(runtime)(*images)
    assert wanted["boxes"].shape[1] > 10
    # Rounding may turn the order of two that are as good, so the sums tell, not the rows.
    for key in ("boxes", "scores"):
        torch.testing.assert_close(found[key].sum(1), wanted[key].sum(1), rtol=1e-3, atol=1e-3)


def test_what_is_traced_is_wider_than_a_search_range_and_no_level_of_it_is_a_row():
    network = Tiny(task="stereo")
    assert traced_size(Graph(network)) == (80, 112)
    network.max_disparity = 192
    assert traced_size(Graph(network)) == (80, 200)
    network = detector(improved=True)
    assert min(traced_size(Graph(network))) > 2 * max(network.decoding.strides)
    assert traced_size(Graph(network, (100, 140))) == (100, 140)


def test_detectors_are_compared_at_every_position(tmp_path):
    network, other = detector(True), detector(True)
    other.head.centerness.bias.data += 0.1
    difference = measure_difference(network, other, [real_images(get_task("detection"), (100, 140))])
    assert {row.output: row.mean > 0.01 for row in difference.rows} == {
        "class_logits": False,
        "distances": False,
        "centerness": True,
    }


def test_a_detector_without_decoding_is_refused_in_one_line(tmp_path):
    network = dd.wrap(nn.Identity(), "detection")
    with pytest.raises(UserError, match="Identity answers with a list of unknown length"):
        export(network.eval(), tmp_path / "boxes.onnx")


def test_of_a_compiled_network_the_plain_one_is_traced():
    network = Tiny(task="stereo").half()
    for given in (network, torch.compile(network, backend="eager")):
        found = deployable(given)
        assert (type(found), found.training, found.name) == (Tiny, False, "tiny")
        assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}
        assert not any(isinstance(module, nn.BatchNorm2d) for module in found.modules())
    assert network.training


def test_the_network_stays_as_it_was(tmp_path):
    network = Tiny().train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    export(network, tmp_path / "tiny.onnx", check_sizes=[(16, 24)])
    assert network.training
    assert isinstance(network.body[1], nn.BatchNorm2d)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, before[key])


def test_differences_are_in_pixels_hundredths_or_percent():
    one = torch.full((1, 1, 2, 2), 10.0)

    def difference(key, task, other):
        return compare(lambda x: {key: one}, lambda x: {key: other}, get_task(task), [[one]])

    def gap(*arguments):
        return float(difference(*arguments))

    assert gap("disparity", "stereo", one + 0.5) == 0.5
    assert gap("depth", "depth", one + 0.5) == 5.0
    assert gap("disparity", "stereo", one * torch.nan) == float("inf")
    assert gap("disparity", "stereo", one[..., :1]) == float("inf")
    assert str(difference("disparity", "stereo", one + 0.5)).endswith("mean 0.5, largest 0.5 px")
    assert str(difference("depth", "depth", one + 0.5)).endswith("largest 5 % of the mean magnitude")
    one = torch.tensor([[1, 2, 3, 4]])
    assert str(difference("classes", "detection", one)).endswith("% of the places")
    assert gap("classes", "detection", torch.tensor([[1, 2, 3, 5]])) == 25.0
    assert Difference([Row((1, 2), "disparity", 0.25, 1.0)]).to_dict()["mean"] == 0.25


def test_real_images_are_photographs_of_the_wanted_size():
    for task in list_tasks():
        images = real_images(get_task(task), (30, 40))
        assert [tuple(image.shape) for image in images] == [(1, 3, 30, 40)] * len(get_task(task).inputs)
    left, right = real_images(get_task("stereo"), (375, 450))
    cones = create_dataset("middlebury2003")[0]
    assert np.allclose(left[0].numpy() * 255, cones["left"].numpy(), atol=1)
    assert not torch.equal(left, right)
    left, right, left_next, right_next = real_images(get_task("sceneflow"), (375, 450))
    assert torch.equal(left_next[..., 2:, 3:], left[..., :-2, :-3])
    assert torch.equal(right_next[..., 2:, 3:], right[..., :-2, :-3])


def test_the_public_name_returns_the_difference(tmp_path):
    network = Tiny(task="stereo").eval()
    difference = dd.export(network, tmp_path / "tiny.onnx", check_sizes=[(16, 24)])
    assert isinstance(difference, float)
    runtime = dd.load_runtime(tmp_path / "tiny.onnx")
    assert measure_difference(network, runtime, [real_images(get_task("stereo"), (20, 28))]) < 1e-4


def test_writing_is_estimated_where_tracing_took_long():
    said = [writing_in_words(*given) for given in ((".onnx", 2.0), (".pt2", 40.0), (".xml", 38.9))]
    assert said[:2] == ["writing .onnx", "writing .pt2"]
    assert said[2] == "writing .xml: tracing took 39 s, this takes about 78 s"
