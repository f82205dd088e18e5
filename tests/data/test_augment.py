import cv2
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF

from densedistill import UserError
from densedistill.data import create_dataset
from densedistill.data.augment import OPTIONS, PRESETS, Options, build_augmentation
from densedistill.data.augment_depth import relight as relight_by_channel
from densedistill.data.colour import Light, add_noise, blur, compress, occlude, relight

EVERYTHING = ("disparity", "disparity_right", "disparity_nonoccluded")
GEOMETRY = {
    "crop": {},
    "enlarge": {"scale": (0.4, 0.4)},
    "shrink": {"scale": (-0.3, -0.3)},
    "stretch": {"stretch": 0.4},
    "vertical flip": {"flip_vertical": 1.0},
    "mirror": {"flip_horizontal": 1.0},
    "all": {"scale": (-0.2, 0.4), "stretch": 0.2, "flip_vertical": 0.5, "flip_horizontal": 0.5},
}


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def motorcycle():
    return create_dataset("middlebury2014", want=EVERYTHING)[0]


@pytest.fixture(scope="module")
def plane():
    """A plane d = 5 + x/20 + y/40 px, with every other kind of value, each written as its own coordinates."""
    height, width = 60, 90
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = x[None].float(), y[None].float()
    return {
        "left": torch.cat([x, y, x + y]).to(torch.uint8),
        "right": torch.cat([x, y, x + y]).to(torch.uint8),
        "disparity": 5 + x / 20 + y / 40,
        "disparity_valid": torch.ones(1, height, width, dtype=torch.bool),
        "depth": 1 + x / 100,
        "flow": torch.cat([x / 10, y / 10]),
        "flow_valid": torch.ones(1, height, width, dtype=torch.bool),
        "labels": (x[0] // 10 + 10 * (y[0] // 10)).long(),
        "meta": {"name": "plane", "size": (height, width)},
    }


def source_coordinates(view):
    """Return the source's x of each column and y of each row, from nothing but what `view` says."""
    (scale_y, scale_x), (top, left, height, width), size = view["scale"], view["crop"], (60, 90)
    rows, columns = np.arange(height) + top, np.arange(width) + left
    if "v" in view["flip"]:
        rows = round(size[0] * scale_y) - 1 - rows
    if "h" in view["flip"]:
        columns = round(size[1] * scale_x) - 1 - columns
    return (columns + 0.5) / scale_x - 0.5, (rows + 0.5) / scale_y - 0.5


# Geometry


DRAWN = {
    "drawn anew": {"warp_right": (20, 60)},
    "drawn anew, all": {"warp_right": (20, 60), **GEOMETRY["all"]},
}


@pytest.mark.parametrize("options", [*GEOMETRY.values(), *DRAWN.values()], ids=[*GEOMETRY, *DRAWN])
def test_the_truth_still_warps_the_right_image_on_to_the_left(motorcycle, options, warp_error):
    augment = build_augmentation({"crop": [256, 384], **options})
    for seed in range(3):
        sample = augment(motorcycle, rng(seed))
        assert sample["left"].shape == sample["right"].shape == (3, 256, 384)
        error = warp_error(sample)
        assert error < (10 if "disparity_nonoccluded" in sample else 20)
        assert min(warp_error(sample, factor) for factor in (-1, 0.85, 1.15)) > 1.3 * error


@pytest.mark.parametrize(
    "options", [o for n, o in GEOMETRY.items() if n != "mirror"], ids=[n for n in GEOMETRY if n != "mirror"]
)
def test_values_are_those_of_the_place_that_the_view_says(plane, options):
    augment = build_augmentation({"crop": [40, 60], **options})
    for seed in range(4):
        sample = augment(plane, rng(seed))
        view = sample["meta"]["view"]
        x, y = source_coordinates(view)
        inside = ((x > 0) & (x < 89))[None] & ((y > 0) & (y < 59))[:, None]
        scale_y, scale_x = view["scale"]
        sign_y = -1 if "v" in view["flip"] else 1

        def close(values, expected, tolerance, inside=inside):
            np.testing.assert_allclose(
                np.asarray(values)[inside], np.broadcast_to(expected, inside.shape)[inside], atol=tolerance
            )

        close(sample["left"][0], x[None], 1)
        close(sample["right"][1], y[:, None], 1)
        close(sample["disparity"][0], (5 + x[None] / 20 + y[:, None] / 40) * scale_x, 1e-4)
        close(sample["depth"][0], 1 + x[None] / 100, 1e-4)
        close(sample["flow"][0], x[None] / 10 * scale_x, 1e-3)
        close(sample["flow"][1], y[:, None] / 10 * scale_y * sign_y, 1e-3)
        assert sample["disparity_valid"].all()
        columns, rows = (np.clip(np.rint(at), 0, n - 1).astype(int) for at, n in ((x, 90), (y, 60)))
        np.testing.assert_array_equal(sample["labels"], plane["labels"].numpy()[rows[:, None], columns[None]])


def test_no_depth_is_invented_between_two_surfaces(plane):
    step = {**plane, "disparity": torch.where(torch.arange(90) < 45, 10.0, 30.0).expand(1, 60, 90)}
    for exponent in (-0.35, 0.35):
        sample = build_augmentation({"scale": (exponent, exponent)})(step, rng())
        values = sample["disparity"] / sample["meta"]["view"]["scale"][1]
        np.testing.assert_allclose(np.unique(values.round(decimals=3)), [10, 30])


def test_no_depth_is_invented_between_things_that_stand_close(plane):
    step = {**plane, "depth": torch.where(torch.arange(90) < 45, 1.0, 1.4).expand(1, 60, 90)}
    for exponent in (-0.35, 0.35):
        sample = build_augmentation({"scale": (exponent, exponent)})(step, rng())
        np.testing.assert_allclose(np.unique(sample["depth"]), np.float32([1, 1.4]))


def test_sparse_truth_stays_what_was_measured(plane):
    valid = torch.from_numpy(rng().random((1, 60, 90)) < 0.1)
    sparse = {**plane, "disparity": plane["disparity"] * valid, "disparity_valid": valid}
    for exponent in (-0.3, 0.4):
        sample = build_augmentation({"scale": (exponent, exponent)})(sparse, rng())
        known = sample["disparity_valid"]
        assert (sample["disparity"][~known] == 0).all()
        assert float(known.float().mean()) == pytest.approx(0.1, abs=0.02)
        values = (sample["disparity"] / sample["meta"]["view"]["scale"][1])[known].numpy()
        measured = np.sort(plane["disparity"][valid].numpy())
        distance = np.abs(values[:, None] - measured).min(axis=1)
        assert np.mean(distance < 1e-3) > 0.99  # but for the few whose four neighbours were all measured
        assert distance.max() < 0.25


def test_mirroring_swaps_the_views_and_keeps_what_both_know(motorcycle):
    sample = build_augmentation({"flip_horizontal": 1.0})(motorcycle, rng())
    assert torch.equal(sample["left"], motorcycle["right"].flip(-1))
    assert torch.equal(sample["disparity"], motorcycle["disparity_right"].flip(-1))
    assert torch.equal(sample["disparity_right_valid"], motorcycle["disparity_valid"].flip(-1))
    assert "disparity_nonoccluded" not in sample
    assert sample["meta"]["view"]["flip"] == "h"


def test_a_pair_without_holes_is_mirrored_without_masks():
    left, right = torch.zeros(3, 2, 4, dtype=torch.uint8), torch.ones(3, 2, 4, dtype=torch.uint8)
    maps = {"disparity": torch.full((1, 2, 4), 3.0), "disparity_right": torch.full((1, 2, 4), 2.0)}
    pair = {"left": left, "right": right, **maps, "meta": {}}
    sample = build_augmentation({"flip_horizontal": 1.0})(pair, rng())
    assert torch.equal(sample["left"], right)
    assert torch.equal(sample["disparity"], maps["disparity_right"])


@pytest.mark.parametrize(
    "more", [{}, {"disparity_right": "disparity", "left_next": "left"}], ids=["no right truth", "next frame"]
)
def test_a_pair_is_not_mirrored_where_more_is_known_of_one_view_than_of_the_other(plane, more):
    pair = plane | {key: plane[like] for key, like in more.items()}
    sample = build_augmentation({"flip_horizontal": 1.0})(pair, rng())
    assert torch.equal(sample["left"], plane["left"])
    assert sample["meta"]["view"]["flip"] == ""


def test_a_pair_of_which_nothing_is_known_is_mirrored(plane):
    pair = {key: plane[key] for key in ("left", "right", "meta")}
    sample = build_augmentation({"flip_horizontal": 1.0})(pair, rng())
    assert torch.equal(sample["left"], plane["right"].flip(-1))
    assert torch.equal(sample["right"], plane["left"].flip(-1))


def test_one_image_is_mirrored_as_it_is():
    image = torch.arange(24, dtype=torch.uint8).reshape(3, 2, 4)
    flow = torch.ones(2, 2, 4)
    sample = build_augmentation({"flip_horizontal": 1.0}, "depth")(
        {"image": image, "flow": flow, "meta": {}}, rng()
    )
    assert torch.equal(sample["image"], image.flip(-1))
    assert torch.equal(sample["flow"], torch.stack([-flow[0], flow[1]]))


def test_boxes_follow_and_vanish_with_what_they_hold(plane):
    boxes = torch.tensor([[10.0, 10, 30, 20], [80, 50, 90, 60], [10, 10, 25.5, 20]])
    sample = {**plane, "boxes": boxes[:2], "classes": torch.tensor([3, 4])}
    sample |= {"ignored_boxes": boxes.flip(0), "ignored_classes": torch.tensor([7, 5, 6])}
    window = build_augmentation({"crop": [30, 40], "position": "centre"})(sample, rng())
    assert window["boxes"].tolist() == [[0, 0, 5, 5]]  # the crop begins at (25, 15)
    assert window["classes"].tolist() == [3]
    assert window["ignored_boxes"].tolist() == [[0, 0, 5, 5]]
    assert window["ignored_classes"].tolist() == [6]
    mirrored = build_augmentation({"flip_vertical": 1.0, "scale": (1.0, 1.0)})(sample, rng())
    assert mirrored["boxes"].tolist() == [[20, 80, 60, 100], [160, 0, 180, 20]]


def test_decalibration_moves_the_right_image_in_rows_only(plane):
    for seed in range(5):
        sample = build_augmentation({"decalibrate": (2.0, 0.5)})(plane, rng(seed))
        assert torch.equal(sample["left"], plane["left"])
        assert torch.equal(sample["disparity"], plane["disparity"])
        x, y = sample["right"][0].numpy().astype(float), sample["right"][1].numpy().astype(float)
        inner = np.s_[8:-8, :]
        np.testing.assert_allclose(x[inner], np.broadcast_to(np.arange(90), (60, 90))[inner], atol=1)
        moved = np.arange(60)[:, None] - y
        assert 0.1 < np.abs(moved[inner].mean()) < 2.1 or seed
        assert np.abs(moved[inner]).max() <= 2 + np.tan(np.radians(0.5)) * 45 + 1


def test_a_crop_of_a_decalibrated_pair_is_what_the_whole_shows_there(plane):
    options = {"decalibrate": (8.0, 3.0)}
    pair = plane | {"right_next": plane["right"]}
    for seed in range(5):
        whole = build_augmentation(options)(pair, rng(seed))
        part = build_augmentation({**options, "crop": [20, 70], "position": "centre"})(pair, rng(seed))
        assert torch.equal(part["right"], whole["right"][:, 20:40, 10:80])
        assert torch.equal(part["right_next"], part["right"])


def test_every_frame_of_a_sequence_is_scaled():
    frames = torch.arange(4, dtype=torch.uint8).mul(50).view(4, 1, 1, 1).expand(4, 3, 8, 12)
    scaled = build_augmentation({"scale": (1.0, 1.0)}, "depth")({"image": frames, "meta": {}}, rng())
    assert torch.equal(scaled["image"], frames[..., :1, :1].expand(4, 3, 16, 24))


# Crops


@pytest.mark.parametrize(("position", "corner"), [("centre", (10, 15)), ("bottom-right", (20, 30))])
def test_fixed_positions(plane, position, corner):
    sample = build_augmentation({"crop": [40, 60], "position": position})(plane, rng())
    assert sample["meta"]["view"]["crop"] == (*corner, 40, 60)
    assert sample["left"][:2, 0, 0].tolist() == [corner[1], corner[0]]


def test_random_crops_reach_every_corner(plane):
    augment = build_augmentation({"crop": [58, 88]})
    corners = {augment(plane, rng(seed))["meta"]["view"]["crop"][:2] for seed in range(200)}
    assert corners == {(y, x) for y in range(3) for x in range(3)}


def test_lower_crops_mostly_begin_below_three_tenths(plane):
    augment = build_augmentation({"crop": [10, 20], "position": "lower"})
    tops = np.array([augment(plane, rng(seed))["meta"]["view"]["crop"][0] for seed in range(600)])
    # Uniform crops, 3 of 11, begin above row 18 of 51 in 18 of 51 cases.
    assert np.mean(tops < 18) == pytest.approx(3 / 11 * 18 / 51, abs=0.03)
    assert tops.max() == 50


def test_a_sample_smaller_than_the_crop_is_named(plane):
    with pytest.raises(
        UserError, match=r"sample plane is 90x60 px, smaller than the crop of 60x64"
    ) as caught:
        build_augmentation({"crop": [64, 60]})(plane, rng())
    assert "\n" not in str(caught.value)


def test_with_scaling_on_a_small_sample_is_enlarged_to_the_crop(plane):
    sample = build_augmentation({"crop": [64, 120], "scale": (-0.2, 0.0)})(plane, rng())
    assert sample["left"].shape == (3, 64, 120)
    assert sample["meta"]["view"]["scale"] == pytest.approx((64 / 60, 120 / 90))


# Colour


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.2, 2.0])
def test_light_is_torchvisions(motorcycle, factor):
    image = motorcycle["left"]
    pixels = image.permute(1, 2, 0).numpy()

    def check(light, expected, tolerance):
        ours = torch.from_numpy(relight(np.ascontiguousarray(pixels), light)).permute(2, 0, 1)
        difference = (ours.int() - expected.int()).abs()
        assert difference.float().mean() < tolerance
        assert difference.max() <= 3

    check(Light(brightness=factor), TF.adjust_brightness(image, factor), 0.6)
    check(Light(gamma=factor), TF.adjust_gamma(image, factor), 0.6)
    check(Light(contrast=factor), TF.adjust_contrast(image, factor), 1.1)
    check(Light(saturation=factor), TF.adjust_saturation(image, factor), 1.1)


def test_hue_turns_colour_and_keeps_luminance():
    image = rng().integers(60, 190, (20, 30, 3), dtype=np.uint8)
    grey = np.array([0.299, 0.587, 0.114])
    turned = relight(image, Light(hue=0.15))
    assert np.abs(turned.astype(int) - image).mean() > 10
    np.testing.assert_allclose(turned @ grey, image @ grey, atol=2.5)
    np.testing.assert_array_equal(relight(image, Light(hue=1.0)), image)


def grey_pair():
    image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    return {"left": image, "right": image.clone(), "meta": {}}


def test_published_light_is_within_its_ranges_and_each_views_own():
    augment = build_augmentation({"colour": "published", "occlusion": "none"})
    pairs = [augment(grey_pair(), rng(seed)) for seed in range(200)]
    left, right = (np.array([float(pair[view][0, 0, 0]) for pair in pairs]) for view in ("left", "right"))
    darkest, brightest = (255 * min(b * 100 / 255, 1) ** g for b, g in ((0.5, 1.2), (2.0, 0.8)))
    for values in (left, right):
        assert darkest - 1 <= values.min() < 45
        assert 200 < values.max() <= brightest + 1
    assert abs(np.corrcoef(left, right)[0, 1]) < 0.25


@pytest.mark.parametrize("kind", ["published", "strong"])
def test_a_camera_sees_both_times_in_one_light(kind):
    pair = grey_pair()
    pair |= {f"{view}_next": pair[view] for view in ("left", "right")}
    lit = build_augmentation({"colour": kind, "occlusion": "none", "asymmetric": 1.0})(pair, rng())
    assert torch.equal(lit["left"], lit["left_next"])
    assert torch.equal(lit["right"], lit["right_next"])
    assert not torch.equal(lit["left"], lit["right"])


def test_contrast_is_about_the_mean_of_the_image_as_it_is_lit():
    light = Light(brightness=1.2, gamma=0.8, contrast=1.4)
    lit = relight(np.full((4, 4, 3), 100, np.uint8), light)
    np.testing.assert_allclose(lit, 255 * (100 * 1.2 / 255) ** 0.8, atol=0.51)


def test_light_by_channel_is_a_gamma_a_factor_and_one_for_each_channel():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    lit = relight_by_channel(ramp, rng(), (1.3, 1.3), (0.8, 0.8), (0.9, 0.9), permute=0.0)
    np.testing.assert_allclose(lit, 255 * (ramp / 255) ** 1.3 * 0.8 * 0.9, atol=0.51)
    assert len(set(relight_by_channel(ramp, rng(), None, None, (0.5, 1.0), 0.0).mean((0, 1)))) == 3
    pixel = np.array([[[1, 2, 3]]], np.uint8)
    orders = {
        tuple(relight_by_channel(pixel, rng(seed), None, None, None, 1.0)[0, 0].tolist())
        for seed in range(60)
    }
    assert orders == {(1, 3, 2), (2, 1, 3), (2, 3, 1), (3, 1, 2)}


def test_strong_light_is_the_same_for_both_views_but_for_the_asymmetric_share():
    for share, expected in ((0.0, 0.0), (1.0, 1.0), (0.2, 0.2)):
        augment = build_augmentation({"colour": "strong", "occlusion": "none", "asymmetric": share})
        pairs = [augment(grey_pair(), rng(seed)) for seed in range(150)]
        differ = np.mean([not torch.equal(pair["left"], pair["right"]) for pair in pairs])
        assert differ == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("kind", "share"), [("published", 0.2), ("strong", 0.5)])
def test_rectangles_of_mean_colour_hide_parts_of_the_right_image_alone(motorcycle, kind, share):
    augment = build_augmentation({"crop": [220, 300], "occlusion": kind})
    plain = build_augmentation({"crop": [220, 300]})
    hidden = []
    for seed in range(60):
        sample, before = augment(motorcycle, rng(seed)), plain(motorcycle, rng(seed))
        assert torch.equal(sample["left"], before["left"])
        changed = (sample["right"] != before["right"]).any(dim=0)
        hidden.append(bool(changed.any()))
        if hidden[-1]:
            rows, columns = changed.any(dim=1).nonzero(), changed.any(dim=0).nonzero()
            assert columns.max() - columns.min() >= 45
            assert rows.max() - rows.min() >= 45
            mean = before["right"].float().mean(dim=(1, 2))
            middle = sample["right"][:, changed].float()
            assert (middle - mean[:, None]).abs().max() <= 1
    assert np.mean(hidden) == pytest.approx(share, abs=0.15)


@pytest.mark.parametrize("kind", ["published", "strong"])
def test_rectangles_go_with_the_light_unless_they_are_chosen(motorcycle, kind):
    options = {"crop": [96, 128], "colour": kind}
    augments = [build_augmentation({**options, **more}) for more in ({}, {"occlusion": kind})]
    without = build_augmentation({**options, "occlusion": "none"})
    hidden = 0
    for seed in range(15):
        one, two = (augment(motorcycle, rng(seed))["right"] for augment in augments)
        assert torch.equal(one, two)
        hidden += not torch.equal(one, without(motorcycle, rng(seed))["right"])
    assert 0 < hidden < 15


def test_strong_hides_one_rectangle_or_two():
    image = rng().integers(0, 256, (300, 500, 3), dtype=np.uint8)
    hidden = [int((occlude(image, rng(seed), "strong") != image).any(axis=2).sum()) for seed in range(60)]
    assert max(hidden) > 100 * 100  # which is the largest that one can be
    assert 40 * 40 < min(filter(None, hidden)) < 80 * 80


def test_no_rectangle_is_larger_than_half_the_image():
    image = rng().integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for seed in range(40):
        changed = (occlude(image, rng(seed), "published") != image).any(axis=2)
        assert changed.sum() <= 20 * 30


def test_noise_has_the_drawn_strength_and_differs_between_images():
    image = np.full((128, 256, 3), 128, np.uint8)
    strengths = [add_noise(image, rng(seed), 8.0).astype(float).std() for seed in range(60)]
    assert max(strengths) == pytest.approx(8, abs=0.5)
    assert min(strengths) < 1
    assert np.mean(strengths) == pytest.approx(4, abs=0.8)
    one, two = (add_noise(image, rng(seed), 8.0).astype(float).ravel() - 128 for seed in (1, 2))
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05


def test_blur_and_jpeg_lose_detail_and_keep_the_mean(motorcycle):
    image = np.ascontiguousarray(motorcycle["left"].permute(1, 2, 0).numpy())

    def detail(picture):
        return np.abs(np.diff(picture.astype(float), axis=1)).mean()

    blurred, compressed = blur(image, rng(1), 3.0), compress(image, rng(1), 10)
    for changed in (blurred, compressed):
        assert changed.dtype == np.uint8
        assert changed.shape == image.shape
        assert changed.mean() == pytest.approx(image.mean(), abs=1)
        assert not np.array_equal(changed, image)
    assert detail(blurred) < 0.7 * detail(image)


def test_jpeg_is_never_worse_than_the_lowest_quality(motorcycle):
    image = np.ascontiguousarray(motorcycle["left"][:, :64, :96].permute(1, 2, 0).numpy())
    best = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1], cv2.IMREAD_COLOR)
    for seed in range(5):
        np.testing.assert_array_equal(compress(image, rng(seed), 95), best)


@pytest.mark.parametrize("option", [{"noise": 10.0}, {"blur": 2.0}, {"jpeg": 20}], ids=str)
def test_every_second_view_is_spoilt(motorcycle, option):
    augment, plain = build_augmentation({"crop": [64, 96], **option}), build_augmentation({"crop": [64, 96]})
    spoilt = np.array(
        [
            [
                not torch.equal(augment(motorcycle, rng(seed))[view], plain(motorcycle, rng(seed))[view])
                for view in ("left", "right")
            ]
            for seed in range(60)
        ]
    )
    assert spoilt.mean() == pytest.approx(0.5, abs=0.15)
    assert (spoilt[:, 0] != spoilt[:, 1]).any()


# The whole


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_generator_gives_the_same_sample_and_the_source_is_left_alone(motorcycle, preset):
    before = {key: value.clone() for key, value in motorcycle.items() if key != "meta"}
    augment = build_augmentation({"augment": preset, "crop": [128, 256], "noise": 3.0})
    first, again, other = (augment(motorcycle, rng([1, 2, last])) for last in (3, 3, 4))
    for key, value in before.items():
        assert torch.equal(motorcycle[key], value)
        assert torch.equal(first[key], again[key])
        assert first[key].is_contiguous()
    assert not torch.equal(first["left"], other["left"])
    assert motorcycle["meta"]["view"]["crop"] == (0, 0, 497, 741)


def test_no_augmentation_changes_nothing(motorcycle):
    sample = build_augmentation({})(motorcycle, rng())
    assert sample["meta"] == motorcycle["meta"]
    assert all(torch.equal(sample[key], motorcycle[key]) for key in sample if key != "meta")


def test_single_options_override_the_preset():
    options = build_augmentation({"augment": "strong", "scale": None, "crop": [8, 8]}).options
    assert (options.colour, options.occlusion, options.scale, options.crop) == (
        "strong",
        "strong",
        None,
        (8, 8),
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"color": "strong"}, "no augmentation option 'color'; did you mean 'colour'"),
        ({"augment": "stronk"}, "did you mean 'strong'"),
        ({"colour": "publishd"}, "no colour 'publishd'; did you mean 'published'"),
        ({"position": "center"}, "did you mean 'centre'"),
        ({"crop": 256}, "crop is two numbers, got 256"),
        ({"crop": [256, 0]}, r"crop is \[height, width\]"),
        ({"scale": [0.4, -0.2]}, r"scale is \[least, largest\]"),
        ({"flip_vertical": 2}, "probability from 0 to 1, got 2"),
        ({"noise": -1}, "0 or more, got -1"),
        ({"jpeg": 100}, "quality from 1 to 95"),
        ({"jpeg": "high"}, "quality from 1 to 95"),
        ({"augment": ["strong"]}, r"no augmentation '\['strong'\]'"),
        ({"stretch": "wide"}, "stretch is an exponent of two, 0 to 8, got wide"),
        ({"scale": [80, 120]}, r"scale is \[least, largest\] exponent of two, -8 to 8"),
        ({"stretch": 100}, "stretch is an exponent of two, 0 to 8, got 100"),
        ({"rotate": None}, "rotate is 0 or more, got None"),
        ({"flip_vertical": "often"}, "probability from 0 to 1, got often"),
        ({"scale": [0, "large"]}, "scale is two numbers"),
        ({"scale": [float("nan"), 1]}, "scale is two numbers"),
        ({"warp_right": 60}, "warp_right is two numbers, got 60"),
        ({"warp_right": [0, 60]}, r"warp_right is \[least, largest\], above 0"),
        ({"decalibrate": [-1, 0]}, r"decalibrate is \[px, degrees\], 0 or more"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(config, message):
    with pytest.raises(UserError, match=message) as caught:
        build_augmentation(config)
    assert "\n" not in str(caught.value)


def test_several_teachers_strides_are_all_kept_to():
    assert Options(snap=4).snapped(6).snap == 12


def test_every_option_is_described():
    assert all(f"{name}:" in (Options.__doc__ or "") for name in OPTIONS)
