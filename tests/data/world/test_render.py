"""`render` and the data set `world`: shapes, ranges, repeatability, options, bad input."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from densedistill.data import collate, create_dataset
from densedistill.data.datasets.world import SINGLE, WANTED
from densedistill.data.world import STYLES, WANTS, render
from densedistill.data.world.bank import SIZE, get_bank
from densedistill.data.world.compose import compose
from densedistill.data.world.cutouts import CUTOUT_SIZE
from densedistill.data.world.sensor import Sensor, draw_sensors, expose
from densedistill.errors import UserError

KINDS = {
    "left": (torch.uint8, (3, 48, 80)),
    "right": (torch.uint8, (3, 48, 80)),
    "left_next": (torch.uint8, (3, 48, 80)),
    "right_next": (torch.uint8, (3, 48, 80)),
    "disparity": (torch.float32, (1, 48, 80)),
    "disparity_right": (torch.float32, (1, 48, 80)),
    "disparity_next": (torch.float32, (1, 48, 80)),
    "depth": (torch.float32, (1, 48, 80)),
    "flow": (torch.float32, (2, 48, 80)),
    "labels": (torch.int64, (48, 80)),
    "objects": (torch.int64, (48, 80)),
    "disparity_nonoccluded": (torch.bool, (1, 48, 80)),
    "flow_nonoccluded": (torch.bool, (1, 48, 80)),
}


def test_samples_have_the_promised_types_and_shapes():
    sample = render(3, 48, 80, WANTS)
    for key, (dtype, shape) in KINDS.items():
        assert (sample[key].dtype, tuple(sample[key].shape)) == (dtype, shape), key
    for key in ("disparity", "disparity_right", "disparity_next", "depth", "flow"):
        assert sample[f"{key}_valid"].dtype == torch.bool
        assert sample[f"{key}_valid"].shape == (1, 48, 80)
        assert torch.isfinite(sample[key]).all()
    assert sample["boxes"].shape == (len(sample["classes"]), 4)


def test_a_seed_gives_one_sample_whatever_the_global_random_state():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    one = render(7, 48, 80)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    before = torch.get_rng_state()
    two = render(7, 48, 80)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], two[key]) for key in ("left", "right", "disparity"))
    assert not torch.equal(one["left"], render(8, 48, 80)["left"])


# Of scene 31: the left picture's mean and spread and the right one's mean, grey levels; the means of the
# disparity now and at the next time and of the flow's x and y, px.
RECORDED = {
    "clutter": (102.986, 58.152, 98.600, 2.146, 2.165, 0.194, -0.791),
    "room": (87.250, 48.654, 99.571, 6.250, 6.272, -0.503, 0.342),
    "table": (99.922, 44.295, 119.832, 12.156, 12.214, -0.465, 1.046),
    "outdoor": (155.018, 70.778, 151.483, 8.547, 8.645, -0.350, -0.744),
    "interior": (110.652, 34.147, 110.269, 9.482, 9.438, 0.270, 0.195),
    None: (152.939, 73.860, 148.187, 4.634, 4.701, -0.009, -0.812),
    "mirrored": (116.069, 47.263, 117.786, 4.800, 4.794, -0.318, 1.165),
    "hazy": (126.223, 46.608, 121.022, 4.630, 4.701, -0.248, -0.667),
}


# Of the same scene: its primitives, the sums of their centres, of their texture maps and of all surfaces.
COMPOSED = {
    "clutter": (32, 176.250672, -1547.0958, 8767.3104),
    "room": (108, 408.489079, -1758.3954, 31349.6702),
    "table": (108, 159.744172, -1205.7931, 31926.2413),
    "outdoor": (31, 82.869344, -2288.5721, 10320.8555),
    "interior": (44, 127.082934, -3332.9374, 8976.0108),
}


@pytest.mark.parametrize("style", STYLES)
def test_a_seed_composes_what_it_always_composed(style):
    scene = compose(31, 48, 80, 24, style)
    sums = [array.sum(dtype=float) for array in (scene.centre, scene.texture_map, scene.surfaces)]
    assert (len(scene.kind), *sums) == pytest.approx(COMPOSED[style], rel=1e-5)


@pytest.mark.skipif(cv2.__version__ < "5", reason="OpenCV 4 draws the letters of textures in another way")
@pytest.mark.parametrize("style", RECORDED)
def test_a_seed_gives_the_scene_that_it_always_gave(style):
    """Trainings, caches and shipped weights name scenes by seed; new scenes need a new `cache.VERSION`."""
    options = {"style": style}
    if style == "mirrored":
        options = {"style": "room", "mirrors": 1.0}
    if style == "hazy":
        options = {"haze": 1.0, "mirrors": 1.0, "jpeg": 1.0, "sensor_difference": 2.0}
    scene = render(31, 48, 80, ("disparity", "disparity_next", "flow"), max_disparity=24, **options)
    left, right = scene["left"].float(), scene["right"].float()
    seen = [float(value) for value in (left.mean(), left.std(), right.mean())]
    truth = (scene["disparity"].mean(), scene["disparity_next"].mean(), *scene["flow"].mean((1, 2)))
    assert seen == pytest.approx(RECORDED[style][:3], abs=0.1)
    assert [float(value) for value in truth] == pytest.approx(RECORDED[style][3:], abs=0.01)


def test_what_is_wanted_does_not_change_what_is_seen():
    few, all_of_it = render(6, 48, 80), render(6, 48, 80, WANTS)
    assert all(torch.equal(few[key], all_of_it[key]) for key in ("left", "right", "disparity"))


def test_without_clutter_the_surroundings_are_all_there_is():
    empty = render(3, 40, 80, ("objects", "disparity"), clutter=0.0, antialias=False)
    full = render(3, 40, 80, ("objects", "disparity"), antialias=False)
    assert not empty["objects"].any()
    assert full["objects"].any()
    behind = full["objects"] == 0
    torch.testing.assert_close(full["disparity"][behind[None]], empty["disparity"][behind[None]])


@pytest.mark.parametrize("style", STYLES)
def test_disparities_keep_below_their_maximum_and_use_the_range(style):
    highest = []
    for seed in range(20, 25):
        sample = render(
            seed, 40, 80, ("disparity", "disparity_right"), max_disparity=24, style=style, antialias=False
        )
        both = torch.cat([sample["disparity"], sample["disparity_right"]])
        assert both.min() > 0
        assert both.max() <= 24
        highest.append(float(both.max()))
        assert sample["meta"]["style"] == style
    assert max(highest) > 16


def test_pictures_are_neither_dark_nor_blank():
    means, spreads = zip(
        *((s["left"].float().mean(), s["left"].float().std()) for s in (render(k, 48, 80) for k in range(8))),
        strict=True,
    )
    assert 60 < sum(means) / 8 < 180
    assert sum(spreads) / 8 > 25


def test_equal_sensors_differ_only_in_noise():
    left, right = draw_sensors(3, 2, difference=0)
    assert left.noise_start != right.noise_start
    for field in dataclasses.fields(left):
        if field.name != "noise_start":
            assert np.array_equal(getattr(left, field.name), getattr(right, field.name)), field.name
    left, right = draw_sensors(3, 2, difference=1)
    assert not np.array_equal(left.gain, right.gain)


def test_a_sensor_without_faults_only_quantises():
    perfect = Sensor(np.ones(3), 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0, 0)
    colours = torch.rand(3, 8, 12)
    assert torch.equal(expose(colours, perfect), (colours.clamp(1e-4, 1) * 255 + 0.5).to(torch.uint8))


def test_noise_has_the_strength_that_is_asked_for():
    noisy = Sensor(np.ones(3), 0.0, 1.0, 0.0, 0.0, 0.02, 0.04, 0, 0)
    picture = expose(torch.full((3, 100, 100), 0.25), noisy).float() / 255
    assert abs(picture.std() - np.hypot(0.02, 0.04 * 0.5)) < 0.001


def test_edges_are_antialiased_and_ground_truth_is_not():
    soft, hard = render(1, 48, 80), render(1, 48, 80, antialias=False)
    assert torch.equal(soft["disparity"], hard["disparity"])
    changed = (soft["left"].int() - hard["left"].int()).abs().amax(0) > 16
    assert 0.005 < changed.float().mean() < 0.5


def test_jpeg_changes_pictures_a_little():
    plain, coded = render(2, 48, 80), render(2, 48, 80, jpeg=1.0)
    difference = (plain["left"].int() - coded["left"].int()).abs().float()
    assert 0 < difference.mean() < 25


def _finest(bank):
    """The finest level of the first texture without its rim, packed."""
    side = SIZE + 2
    return bank.texels[: side * side].view(side, side)[1:-1, 1:-1]


def test_textures_are_looked_up_bilinearly_and_repeat_mirrored():
    bank = get_bank("cpu")
    texture = torch.zeros(4, dtype=torch.int32)
    u = torch.tensor([10.5, 11.0, 10.5, -10.5])
    v = torch.tensor([20.5, 20.5, 21.0, 2 * SIZE - 20.5])
    red = bank.colour(texture, u, v, torch.zeros(4))[0]
    image = (_finest(bank) & 255).float() / 255
    expected = [image[20, 10], image[20, 10:12].mean(), image[20:22, 10].mean(), image[20, 10]]
    torch.testing.assert_close(red, torch.stack(expected))


def test_coarse_levels_are_means_of_fine_ones():
    bank = get_bank("cpu")
    image = ((_finest(bank) >> 8) & 255).float() / 255
    middle = torch.tensor([SIZE / 64 * 8.5])
    coarse = bank.grey(torch.zeros(1, dtype=torch.int32), middle, middle, torch.tensor([2.0]))
    block = slice(8 * SIZE // 64, 9 * SIZE // 64)
    torch.testing.assert_close(coarse[0], image[block, block].mean(), atol=0.02, rtol=0)


def test_cutouts_are_looked_up_between_the_middles_of_their_cells():
    bank, row, column = get_bank("cpu"), 40, 70
    cells = bank.cutouts.view(-1, CUTOUT_SIZE, CUTOUT_SIZE)[3]
    u = (torch.tensor([column, column + 0.5, column]) + 0.5) / CUTOUT_SIZE
    v = (torch.tensor([row, row, row + 0.5]) + 0.5) / CUTOUT_SIZE
    here = cells[row, column]
    expected = [here, (here + cells[row, column + 1]) / 2, (here + cells[row + 1, column]) / 2]
    torch.testing.assert_close(bank.inside(3, u, v), torch.stack(expected), rtol=1e-4, atol=1e-3)


def test_every_cutout_has_an_inside_and_an_empty_rim():
    maps = get_bank("cpu").cutouts.view(-1, CUTOUT_SIZE, CUTOUT_SIZE)
    assert ((maps > 0).flatten(1).sum(1) > 50).all()
    assert (maps[:, [0, -1]] < 0).all()
    assert (maps[:, :, [0, -1]] < 0).all()


def test_the_data_set_renders_its_range_of_seeds():
    data = create_dataset("world", length=3, seed=40, size=[48, 80], max_disparity=24)
    assert len(data) == 3
    assert data.names == ["000040", "000041", "000042"]
    assert torch.equal(data[2]["left"], render(42, 48, 80, max_disparity=24)["left"])
    with pytest.raises(IndexError):
        data[3]
    batch = collate([data[0], data[1]])
    assert batch["disparity"].shape == (2, 1, 48, 80)


@pytest.mark.parametrize("task", WANTED)
def test_every_task_gets_its_images_and_its_truth(task):
    sample = create_dataset("world", length=1, size=[48, 80], task=task)[0]
    images = {"image"} if task in SINGLE else {"left", "right"}
    assert images | set(WANTED[task]) <= sample.keys()
    assert bool({"left", "right"} & sample.keys()) != (task in SINGLE)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"style": "rom"}, "did you mean 'room'"),
        ({"want": ("dispariti",)}, "did you mean 'disparity'"),
        ({"hase": 1}, "did you mean 'haze'"),
        ({"haze": 2}, "chance from 0 to 1"),
        ({"clutter": -1}, "at least 0"),
        ({"size": [8, 80]}, "at least 16x16"),
        ({"size": [80]}, "size [height, width]"),
        ({"max_disparity": 0}, "above 0"),
        ({"max_disparity": float("nan")}, "above 0"),
        ({"seed": -1}, "0 or more, got -1"),
        ({"frames": 2, "want": ("boxes",)}, "no boxes"),
        ({"length": 0}, "1 or more"),
    ],
)
def test_a_mistake_is_named_before_anything_is_rendered(options, said):
    with pytest.raises(UserError) as error:
        create_dataset("world", **{"size": [48, 80], **options})
    assert said in str(error.value)
    assert "\n" not in str(error.value)
