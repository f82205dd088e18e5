"""Taps read what a submodule returned, and say when they cannot."""

import copy
import gc
import weakref

import pytest
import torch
from tiny_stereo import TinyStereo, stereo_batch
from torch import nn

import densedistill as dd


class Convolutions(nn.Module):
    """A convolution whose output an activation changes in place, and one module that is called twice."""

    def __init__(self, inplace=True):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.activation = nn.ReLU(inplace=inplace)
        self.shared = nn.Conv2d(4, 4, 1)
        self.unused = nn.Conv2d(4, 4, 1)

    def forward(self, image):
        return self.shared(self.shared(self.activation(self.first(image))))


@pytest.fixture
def image():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _pair():
    batch = stereo_batch()
    return batch["left"] / 255, batch["right"] / 255


def test_names_of_the_network_paths_and_lists_are_tapped():
    net = TinyStereo()
    with dd.Taps(net, ["volume", "features.0", ["heads.1", "heads.0"]]) as taps:
        net(*_pair())
        (volume,) = taps["volume"]
        (convolved,) = taps["features.0"]
        assert volume.shape == (2, 2, 8, 8, 16)
        assert convolved.shape == (4, 4, 8, 16)
        assert len(taps[["heads.1", "heads.0"]]) == 2
    assert list(taps) == ["volume", "features.0", "heads.1, heads.0"]


def test_a_tap_carries_the_gradient():
    net = TinyStereo()
    with dd.Taps(net, ["volume"]) as taps:
        net(*_pair())
        taps["volume"][0].sum().backward()
    assert net.features[0].weight.grad.abs().sum() > 0


def test_heads_that_evaluation_leaves_out_are_missing_from_the_networks_own_tap():
    net = TinyStereo()
    with dd.Taps(net, ["aggregation"]) as taps:
        net(*_pair())
        assert len(taps["aggregation"]) == 2
        taps.clear()
        net.eval()(*_pair())
        assert len(taps["aggregation"]) == 1


def test_an_index_selects_among_the_modules_of_a_tap():
    net = TinyStereo()
    with dd.Taps(net, ["aggregation", "aggregation[-1]", "aggregation[0:1]"]) as taps:
        net(*_pair())
        coarse, final = taps["aggregation"]
        assert taps["aggregation[-1]"] == (final,)
        assert taps["aggregation[0:1]"] == (coarse,)
    with pytest.raises(dd.UserError, match="'aggregation' has 2 modules"):
        dd.Taps(net, ["aggregation[5]"])


def test_calls_of_one_module_come_in_call_order_and_an_index_selects_among_them(image):
    net = Convolutions(inplace=False)
    with dd.Taps(net, ["shared", "shared[-1]"]) as taps:
        out = net(image)
        first, second = taps["shared"]
        assert second is out
        assert taps["shared[-1]"] == (out,)
        torch.testing.assert_close(net.shared(first), out)


def test_views_of_two_calls_are_joined(image):
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    spec = {"path": "0", "join": "views"}
    with dd.Taps(net, [spec]) as taps:
        left, right = net(image), net(image.flip(0))
        (joined,) = taps[spec]
        torch.testing.assert_close(joined, torch.cat((left, right)))
        net(image)
        with pytest.raises(dd.UserError, match="two calls of '0', it had 3"):
            taps[spec]


def test_a_module_that_returns_several_tensors_gives_them_all(image):
    class Two(nn.Module):
        def forward(self, x):
            return {"a": x, "rest": [2 * x]}

    net = nn.Sequential(Two())
    with dd.Taps(net, "0") as taps:
        net(image)
        once, twice = taps["0"]
    torch.testing.assert_close(2 * once, twice)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("volum", "no tap or module 'volum'; did you mean 'volume'"),
        ("features.7", "no tap or module 'features.7'; did you mean 'features"),
        ({"path": "volume", "joins": "views"}, "no field 'joins'; did you mean 'join'"),
        ({"join": "views"}, "needs 'path'"),
        ({"path": "volume", "join": "heads"}, "join is 'views', got 'heads'"),
        ("volume[]", "an index is a number"),
        ([], "a tap is a name, a module path or a list of these"),
        ({"path": 3}, "a tap is a name, a module path or a list of these, got 3"),
        (["features.0[0]", "volume"], "it takes all calls of each"),
        ([{"path": "volume", "clone": True}], "join and clone stand around it"),
    ],
)
def test_what_is_not_there_is_refused(spec, message):
    with pytest.raises(dd.UserError, match=message.replace("[", r"\[")):
        dd.Taps(TinyStereo(), [spec])


def test_reading_what_was_not_tapped_is_refused():
    with pytest.raises(dd.UserError, match="nothing is tapped as 'volum'; did you mean 'volume'"):
        dd.Taps(TinyStereo(), ["volume"])["volum"]


def test_a_tap_that_never_fired_is_named(image):
    net = Convolutions()
    with dd.Taps(net, ["unused"]) as taps:
        net(image)
        with pytest.raises(dd.UserError, match=r"tap 'unused': module 'unused' \(Conv2d\) has not run"):
            taps["unused"]


def test_a_change_in_place_after_the_hook_is_named(image):
    net = Convolutions()
    with dd.Taps(net, ["first"]) as taps:
        net(image)
        with pytest.raises(dd.UserError, match=r"module 'first' \(Conv2d\) was changed in place"):
            taps["first"]


@pytest.mark.parametrize("how", ["all", "one"])
def test_a_copy_is_what_the_module_returned(image, how):
    net = Convolutions()
    specs = ["first"] if how == "all" else [{"path": "first", "clone": True}]
    with dd.Taps(net, specs, clone=how == "all") as taps:
        net(image)
        (copied,) = taps["first"]
    torch.testing.assert_close(copied, net.first(image))


def test_a_tap_that_is_wanted_with_and_without_a_copy_is_copied():
    wanted = ["features", {"path": "features", "clone": True}]
    for specs in (wanted, wanted[::-1]):
        assert dd.Taps(TinyStereo(), specs).taps["features"].clone


def test_a_change_under_inference_mode_does_not_reach_the_tap(image):
    net = Convolutions()
    with dd.Taps(net, ["first"]) as taps, torch.inference_mode():
        net(image)
        torch.testing.assert_close(taps["first"][0], net.first(image))


def _compiled_module():
    return torch.compile(TinyStereo(), backend="eager")


def _compiled_in_place():
    net = TinyStereo()
    net.compile(backend="eager")
    return net


def _compiled_forward():
    net = TinyStereo()
    net.forward = torch.compile(net.forward, backend="eager")
    return net


def _compiled_child():
    net = TinyStereo()
    net.features = torch.compile(net.features, backend="eager")
    return net


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (_compiled_module, "volume"),
        (_compiled_in_place, "volume"),
        (_compiled_forward, "volume"),
        (_compiled_child, "features._orig_mod.0"),
        (lambda: torch.jit.script(Convolutions()), "first"),
    ],
    ids=["compiled module", "compiled in place", "compiled forward", "compiled child", "scripted"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_attaching_to_what_is_compiled_is_refused(make, path):
    with pytest.raises(dd.UserError, match="is compiled already"):
        dd.Taps(make(), [path])


@pytest.mark.parametrize("how", [pytest.param("function", marks=pytest.mark.full), "in place"])
def test_attached_before_compiling_a_tap_gives_values_and_gradients_also_with_changes_in_place(image, how):
    net = Convolutions()
    taps = dd.Taps(net, ["first", "shared"])
    compiled = net
    if how == "function":
        compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    else:
        net.compile(backend="aot_eager", fullgraph=True)
    for _ in range(3):
        with taps.step():
            out = compiled(image)
            (first,) = taps["first"]
            torch.testing.assert_close(first, net.first(image))
            torch.testing.assert_close(taps["shared"][1], out)
            net.zero_grad()
            first.square().sum().backward()
            gradient = net.first.weight.grad.clone()
        net.zero_grad()
        net.first(image).square().sum().backward()
        torch.testing.assert_close(gradient, net.first.weight.grad)
    compiled(image)
    with pytest.raises(dd.UserError, match="has not run"):
        taps["first"]


def test_under_autocast_a_tap_gives_what_the_module_gave():
    net = TinyStereo()
    with dd.Taps(net, ["features"]) as taps, torch.autocast("cpu", torch.bfloat16):
        net(*_pair())
        expected = net.features(torch.cat(_pair()))
        torch.testing.assert_close(taps["features"][0], expected)
        assert taps["features"][0].dtype == expected.dtype


def test_the_wrapper_of_data_parallel_training_is_looked_through():
    net = TinyStereo()
    with dd.Taps(nn.DataParallel(net), ["volume"]) as taps:
        net(*_pair())
        assert taps["volume"][0].shape == (2, 2, 8, 8, 16)


def test_nothing_is_kept_after_a_step_nor_read_outside_it():
    net = TinyStereo()
    taps = dd.Taps(net, ["volume"])
    taps.pause()
    with taps.step():
        net(*_pair())
        kept = weakref.ref(taps["volume"][0])
    net(*_pair())
    assert kept() is None
    with pytest.raises(dd.UserError, match="has not run"):
        taps["volume"]


def test_removing_takes_the_hooks_off():
    net = TinyStereo()
    with dd.Taps(net, ["volume", "features"]):
        assert net.volume._forward_hooks
    assert not net.volume._forward_hooks
    assert not net.features._forward_hooks


def test_taps_and_their_tensors_die_without_the_garbage_collector():
    net = TinyStereo()
    gc.disable()
    try:
        taps = dd.Taps(net, ["volume"])
        net(*_pair())
        tensor, reader = weakref.ref(taps["volume"][0]), weakref.ref(taps)
        taps.remove()
        del taps
        assert reader() is None
        assert tensor() is None
    finally:
        gc.enable()


def test_a_copy_of_a_tapped_network_does_not_write_into_the_taps():
    net = TinyStereo()
    with dd.Taps(net, ["volume"]) as taps:
        copied = copy.deepcopy(net)
        copied(*_pair())
        with pytest.raises(dd.UserError, match="has not run"):
            taps["volume"]
