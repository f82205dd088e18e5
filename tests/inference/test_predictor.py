"""`Predictor`: images of any size in, maps of that size out, and the network left as it was."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import densedistill as dd
from densedistill.errors import UserError
from densedistill.inference import Predictor
from densedistill.inference.images import to_batch
from densedistill.inference.load import load_predictor
from densedistill.networks import InputSpec
from densedistill.networks.input_spec import search_range
from densedistill.networks.published import save_weights, shipped_weights


class Echo(nn.Module):
    """Answers with the first channel of the left view as it was before normalising, times 255."""

    def __init__(self, spec):
        super().__init__()
        self.input_spec = spec
        self.norm = nn.BatchNorm2d(3)  # tells whether it was evaluated in evaluation mode
        self.sizes = []

    def forward(self, left, right):
        self.sizes.append(tuple(left.shape))
        self.norm(left)
        spec = self.input_spec
        channel = 2 if spec.channels == "bgr" else 0
        red = (left[:, channel] * spec.std[channel] + spec.mean[channel]) / spec.range
        return {"disparity": red[:, None] * 255}


def pair(height=37, width=53, batch=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (3, height, width) if batch is None else (batch, 3, height, width)
    return [torch.randint(0, 256, size, generator=generator, dtype=torch.uint8) for _ in range(2)]


SPECS = [
    InputSpec(pad=pad, pad_mode=mode, channels=channels, multiple=multiple, min_size=least)
    for pad, mode, channels, multiple, least in [
        ("bottom-right", "zeros-after-normalising", "rgb", 16, (0, 0)),
        ("top-right", "zeros-after-normalising", "rgb", 32, (96, 128)),
        ("centre", "reflect", "bgr", 16, (0, 0)),
        ("centre", "replicate", "rgb", 64, (200, 0)),
        ("bottom-right", "reflect", "rgb", 1, (0, 0)),
    ]
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.pad}-{spec.pad_mode}-{spec.multiple}")
@pytest.mark.parametrize("size", [(37, 53), (1, 1), (64, 128), (3, 200)])
def test_every_pixel_comes_back_to_its_place(spec, size):
    left, right = pair(*size)
    net = Echo(spec)
    out = Predictor(net)(left, right)["disparity"]
    assert out.shape == (1, 1, *size)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out[0, 0], left[0].float(), atol=1e-3, rtol=0)
    seen = net.sizes[0]
    assert seen[2] % spec.multiple == 0
    assert seen[3] % spec.multiple == 0
    assert seen[2] >= spec.min_size[0]
    assert seen[3] >= spec.min_size[1]


@pytest.mark.parametrize("size", [(1, 1), (1, 40)])
def test_an_image_seen_smaller_keeps_a_pixel(size):
    net = Echo(InputSpec(scale=0.25, multiple=8))
    assert Predictor(net)(*pair(*size))["disparity"].shape == (1, 1, *size)
    assert net.sizes == [(1, 3, 8, 8 if size == (1, 1) else 16)]


class Quarter(nn.Module):
    """Answers at a quarter of its input's size."""

    def forward(self, left, right):
        return {"disparity": left[:, :1, ::4, ::4]}


def test_an_answer_of_another_size_than_the_input_has_no_place_in_a_padded_image():
    image = torch.rand(3, 50, 70)
    with pytest.raises(
        UserError, match="'disparity' is of its input's size, 80x64 px, this one is 20x16; let"
    ):
        Predictor(Quarter())(image, image)


def test_the_same_image_however_it_is_held():
    left, right = pair()
    predict = Predictor(Echo(InputSpec()))
    expected = predict(left, right)["disparity"]
    hwc = [view.permute(1, 2, 0).numpy() for view in (left, right)]
    forms = {
        "batch": [view[None] for view in (left, right)],
        "float": [view / 255 for view in (left, right)],
        "float64": [view.double() / 255 for view in (left, right)],
        "array (H, W, 3)": hwc,
        "float array": [view / 255 for view in hwc],
        "array (3, H, W)": [view.numpy() for view in (left, right)],
        "PIL": [Image.fromarray(view) for view in hwc],
        "array of negative strides": [view[::-1, ::-1].copy()[::-1, ::-1] for view in hwc],
    }
    for form, views in forms.items():
        torch.testing.assert_close(predict(*views)["disparity"], expected, atol=1e-3, rtol=0, msg=form)


def test_channels_first_is_kept_where_the_width_is_three_as_well():
    image = torch.arange(45, dtype=torch.uint8).view(3, 5, 3)
    assert torch.equal(to_batch(image), image[None])


@pytest.mark.parametrize("rows", [1, 3])
def test_a_picture_of_one_or_three_rows_is_a_picture(rows):
    picture = np.arange(rows * 15, dtype=np.uint8).reshape(rows, 5, 3)
    assert torch.equal(to_batch(picture)[0], torch.from_numpy(picture).permute(2, 0, 1))
    assert to_batch(torch.ones(3, 5, 3)).shape == (1, 3, 5, 3)
    assert to_batch(np.ones((1, 5, 4))).shape == (1, 3, 5, 4)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("uint8", "uint8"), ("float16", "float32"), ("float32", "float32"), ("float64", "float64")],
)
def test_images_keep_what_precision_they_have(given, kept):
    assert to_batch(np.ones((4, 5, 3), given)).dtype is getattr(torch, kept)


def test_grey_images_are_repeated():
    left, right = pair()
    out = Predictor(Echo(InputSpec()))(left[0].numpy(), right[0].numpy())["disparity"]
    torch.testing.assert_close(out[0, 0], left[0].float(), atol=1e-3, rtol=0)


def test_a_batch_gives_a_batch():
    left, right = pair(batch=3)
    out = Predictor(Echo(InputSpec()))(left, right)["disparity"]
    torch.testing.assert_close(out, left[:, :1].float(), atol=1e-3, rtol=0)


def test_pixels_of_a_network_that_sees_a_smaller_image_are_those_of_the_source():
    class Constant(nn.Module):
        input_spec = InputSpec(scale=0.5, multiple=1)

        def forward(self, left, right):
            self.width = left.shape[-1]
            return {"disparity": torch.full_like(left[:, :1], 10.0)}

    net = Constant()
    out = Predictor(net)(*pair(40, 60))["disparity"]
    assert net.width == 30
    assert out.shape[-2:] == (40, 60)
    assert torch.all(out == 20)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pad": "center"}, "an input specification has no pad 'center'; did you mean 'centre'"),
        ({"pad_mode": "zeros"}, "an input specification has no pad_mode 'zeros'"),
        ({"channels": "BGR"}, "an input specification has no channels 'BGR'"),
        ({"mean": (0.5,)}, "mean of an input specification is three numbers, got"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean of an input specification is three numbers, got"),
        ({"std": (0.5, 0.5, -0.5)}, r"std of an input specification is three numbers above 0, got \(0.5, "),
        ({"range": 1.5}, "range of an input specification is 1.0 or 255.0, got 1.5"),
        *(
            ({"scale": one}, f"scale .* is a number above 0 and at most 16, got {one}$")
            for one in (0, 1000.0)
        ),
        ({"multiple": 0}, "multiple of an input specification is a whole number, 1 or more, got 0"),
        ({"multiple": True}, "multiple of an input specification is a whole number, 1 or more, got True"),
        ({"multiple": 8.5}, "multiple of an input specification is a whole number, 1 or more, got 8.5"),
        ({"shorter_side": -1}, "shorter_side of an input specification is a whole number, 1 or more"),
        ({"min_size": 64}, "min_size of an input specification is height and width"),
        ({"min_size": (64, -1)}, "min_size of an input specification is height and width"),
        ({"pad": None}, "an input specification has no pad 'None'"),
    ],
)
def test_an_input_specification_is_checked(fields, message):
    with pytest.raises(UserError, match=message):
        InputSpec(**fields)


def test_the_network_is_evaluated_and_left_in_the_mode_it_was_in():
    net = Echo(InputSpec())
    net.train()
    net.norm.eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    predict = Predictor(net)
    predict(*pair())
    assert net.training
    assert not net.norm.training
    net.norm.train()
    predict(*pair())
    assert net.norm.training
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_mode_comes_back_after_an_error_too():
    class Broken(Echo):
        def forward(self, left, right):
            raise RuntimeError("no")

    net = Broken(InputSpec()).train()
    with pytest.raises(RuntimeError, match="no"):
        Predictor(net)(*pair())
    assert net.training


def test_a_call_that_ends_leaves_that_of_another_thread_in_evaluation_mode():
    class Waiting(nn.Module):
        task, input_spec = "depth", InputSpec()

        def __init__(self):
            super().__init__()
            self.waits, self.goes, self.modes = Event(), Event(), []

        def forward(self, image):
            if not self.waits.is_set():
                self.waits.set()
                assert self.goes.wait(30)
            self.modes.append(self.training)
            return image[:, :1]

    net = Waiting()
    predict, image = Predictor(net), torch.rand(3, 16, 16)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(predict, image)
        assert net.waits.wait(30)
        predict(image)
        net.goes.set()
        first.result()
    assert net.modes == [False, False]
    assert net.training


def test_nothing_is_kept_for_gradients():
    net = Echo(InputSpec())
    net.scale = nn.Parameter(torch.ones(()))
    net.register_forward_hook(lambda module, args, out: {"disparity": out["disparity"] * module.scale})
    assert not Predictor(net)(*pair())["disparity"].requires_grad


def test_a_bare_tensor_is_the_main_output():
    class Bare(nn.Module):
        input_spec = InputSpec()

        def forward(self, left, right):
            return left[:, :1]

    assert Predictor(Bare())(*pair())["disparity"].shape == (1, 1, 37, 53)


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_is_what_the_network_computes_in(precision, dtype):
    class Spy(nn.Module):
        input_spec = InputSpec()

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 1, 1)

        def forward(self, left, right):
            out = self.conv(left)
            self.dtype = out.dtype
            return {"disparity": out}

    net = Spy()
    predict = Predictor(net, precision=precision)
    assert predict(*pair())["disparity"].dtype == torch.float32
    assert net.dtype == dtype
    assert predict.precision == precision
    for enabled in (False, True):  # a training around it has its own
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            predict(*pair())
        assert net.dtype == dtype


@pytest.mark.parametrize(
    "name", [name for name in dd.list_models("*_slim") if shipped_weights(name)] + ["tsnnet_naive"]
)
def test_folded_normalisation_changes_the_time_alone(name):
    net = dd.create_model(name, weights="shipped")
    held = {key: value.clone() for key, value in net.state_dict().items()}
    cones = dd.create_dataset("middlebury2003")[0]
    plain, folded = Predictor(net), Predictor(net, fold=True)
    output = plain.task.outputs[0]
    views = [cones["right" if "right" in view else "left"][:, :96, :160] for view in plain.task.inputs]
    expected = plain(*views)[output]
    assert expected.std() > 0.05 * expected.mean()
    assert torch.allclose(folded(*views)[output], expected, atol=1e-3)
    assert folded.net is net
    assert all(torch.equal(value, held[key]) for key, value in net.state_dict().items())
    with torch.no_grad():
        next(net.parameters()).zero_()
    assert not torch.allclose(plain(*views)[output], expected, atol=1e-3)
    assert torch.allclose(folded(*views)[output], expected, atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("other", [copy.deepcopy, lambda predict: pickle.loads(pickle.dumps(predict))])
def test_a_folded_predictor_goes_to_another_process_as_it_is(precision, ran, other):
    predict, views = load_predictor("coex_slim", 64, precision=precision), pair(40, 100)
    predict = predict.with_input_spec(InputSpec(multiple=32, pad="centre"))
    if ran:
        predict(*views)
    sent = other(predict)
    assert (sent.name, sent.task, sent.precision) == (predict.name, predict.task, precision)
    assert sent.input_spec == predict.input_spec
    assert torch.equal(sent(*views)["disparity"], predict(*views)["disparity"])
    kinds = [[type(layer) for layer in each._computes.modules()] for each in (sent, predict)]
    assert kinds[0] == kinds[1]  # folded and packed, too


def test_auto_takes_the_faster_precision_of_this_machine():
    assert Predictor(Echo(InputSpec()), precision="auto").precision in ("float32", "bfloat16")


def test_a_real_network_answers_as_when_prepared_by_hand():
    torch.manual_seed(0)
    net = dd.create_model("dsnet_bb21_ed2_n16", max_disparity=16).eval()
    left, right = pair(30, 45)
    prepared, placement = net.input_spec.prepare(left[None], right[None])
    with torch.no_grad():
        expected = net.input_spec.restore(net(*prepared)["disparity"], placement)
    out = Predictor(net)(left, right)["disparity"]
    assert out.shape == (1, 1, 30, 45)
    torch.testing.assert_close(out, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (pair(8, 8)[:1], "stereo takes 2 images .left, right., got 1"),
        ([pair(8, 8)[0], pair(8, 9)[0]], "the views differ in size .8x8 and 9x8 px."),
        ([pair(8, 8, 2)[0], pair(8, 8, 3)[0]], "the views differ in number: 2 and 3"),
        ([torch.full((3, 8, 8), 200.0)] * 2, r"float image lies in \[0, 1\], this one in \[200, 200\]"),
        ([torch.full((3, 8, 8), float("nan"))] * 2, r"lies in \[0, 1\]"),
        ([torch.zeros(4, 8, 8)] * 2, r"an image has shape .*got \(4, 8, 8\)"),
        ([torch.zeros(3, 0, 8)] * 2, r"an image has shape .*got \(3, 0, 8\)"),
        ([torch.zeros(3, 8, 8, dtype=torch.int64)] * 2, "uint8, or float"),
        ([np.zeros((8, 8, 3), np.uint16)] * 2, "this array is uint16"),
    ],
)
def test_what_is_no_pair_of_images_is_refused_in_one_line(views, message):
    with pytest.raises(UserError, match=message) as refused:
        Predictor(Echo(InputSpec()))(*views)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "hpu", "xla"])
def test_a_device_that_is_not_there_is_refused_in_one_line(device):
    with pytest.raises(UserError, match=f"torch has no device '{device}' here; there is cpu"):
        Predictor(Echo(InputSpec()), device)


def test_an_unknown_precision_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"no precision 'bf16'; .*bfloat16"):
        Predictor(Echo(InputSpec()), precision="bf16")


@pytest.mark.parametrize(("name", "wanted", "used"), [("tsnnet_naive", 32, 64), ("dsnet_slim", 32, 32)])
def test_a_network_keeps_the_search_range_that_its_weights_need(name, wanted, used, tmp_path):
    path = save_weights(dd.create_model(name, max_disparity=64), tmp_path / "weights.safetensors")
    assert load_predictor(f"{name}={path}", max_disparity=wanted).net.options["max_disparity"] == used


def test_a_search_range_beyond_what_the_weights_need_is_refused(tmp_path):
    path = save_weights(dd.create_model("tsnnet_naive", max_disparity=32), tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="made with max_disparity=32"):
        load_predictor(f"tsnnet_naive={path}", max_disparity=64)


def test_a_network_sees_the_image_at_the_scale_behind_its_name():
    plain, scaled = load_predictor("dsnet_slim"), load_predictor("dsnet_slim@1.5")
    assert (plain.name, scaled.name) == ("dsnet_slim", "dsnet_slim@1.5")
    assert plain.net.max_disparity == 64
    assert scaled.net.max_disparity == 96  # 64 px of the image
    left, right = pair(64, 96)
    larger = [F.interpolate(view[None] / 255, (96, 144), mode="bilinear")[0] for view in (left, right)]
    wide = dd.create_model("dsnet_slim", weights="shipped", max_disparity=96)
    seen = Predictor(wide, fold=True)(*larger)["disparity"]
    expected = F.interpolate(seen, (64, 96), mode="nearest-exact") / 1.5  # picked, not averaged
    torch.testing.assert_close(scaled(left, right)["disparity"], expected, atol=1e-3, rtol=1e-3)


def test_a_search_range_is_in_pixels_of_the_image():
    assert search_range(dd.create_model("dsnet_slim", max_disparity=96, scale=1.5)) == 64
    assert search_range(dd.create_model("dsnet_slim", max_disparity=96)) == 96
    assert search_range(nn.Identity()) is None


def test_a_scale_is_part_of_the_weights_that_were_trained_with_it(tmp_path):
    path = tmp_path / "half.safetensors"
    save_weights(dd.create_model("dsnet_slim", max_disparity=32, scale=0.5), path)
    assert load_predictor(f"dsnet_slim={path}").input_spec.scale == 0.5
    # A search range that is asked for counts pixels of the image.
    assert load_predictor(f"dsnet_slim={path}", max_disparity=128).net.max_disparity == 64
    assert load_predictor(f"dsnet_slim@2={path}", max_disparity=128).net.max_disparity == 128
    twice = load_predictor(f"dsnet_slim@2={path}")
    assert (twice.input_spec.scale, twice.net.max_disparity) == (1.0, 64)


@pytest.mark.parametrize(("name", "reach"), [("dsnet_slim", 96), ("acvnet_slim", 128)])
def test_a_scaled_search_range_is_one_that_the_network_takes(name, reach, tmp_path):
    save_weights(dd.create_model(name, max_disparity=64), tmp_path / "weights.safetensors")
    assert load_predictor(f"{name}@1.5={tmp_path / 'weights.safetensors'}").net.max_disparity == reach


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dsnet_slim@", "behind @ stands the factor on the size of images, as in dsnet_slim@2, got ''"),
        ("dsnet_slim@two", "got 'two' in 'dsnet_slim@two'"),
        ("dsnet_slim@0", "got '0'"),
        ("dsnet_slim@nan=file", "got 'nan'"),
        ("dsnet_slm@2", "did you mean 'dsnet_slim'"),
        ("sgbm@2", "sgbm has no weights, and no scale of its images"),
        ("student.onnx@2", "student.onnx sees images at its own scale; export the network as NETWORK@2"),
    ],
)
def test_a_scale_that_is_none_is_refused_in_one_line(name, message):
    with pytest.raises(UserError, match=message):
        load_predictor(name)


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), True, "2", 1e9])
def test_networks_refuse_a_scale_that_is_none(scale):
    with pytest.raises(UserError, match="a number above 0"):
        dd.create_model("dsnet_slim", scale=scale)


@pytest.mark.parametrize(("classes", "names"), [(("road", "car"), ("road", "car")), (80, ())])
def test_the_number_of_classes_is_not_taken_for_their_names(classes, names):
    net = nn.Conv2d(3, 2, 1)
    net.task, net.classes = "segmentation", classes
    assert Predictor(net).classes == names


@pytest.mark.parametrize("given", ["coex_slim", None])
def test_a_predictor_is_made_of_a_network_and_not_of_its_name(given):
    with pytest.raises(UserError, match=f"which create_model returns, got {given!r}"):
        Predictor(given)
