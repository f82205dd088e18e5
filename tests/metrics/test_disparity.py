"""End-point error, D1, bad-k and RMS against their definitions written out in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densedistill import metrics
from densedistill.errors import UserError

CLASSES = {
    "epe": (metrics.EPE, {}),
    "d1": (metrics.D1, {}),
    "bad": (metrics.Bad, {"threshold": 1.5}),
    "rms": (metrics.RMS, {}),
}
FUNCTIONS = {
    "epe": metrics.epe,
    "d1": metrics.d1,
    "bad": lambda *maps, **options: metrics.bad(*maps, threshold=1.5, **options),
    "rms": metrics.rms,
}


def by_definition(name, prediction, target):
    """The metric over 1-D arrays of valid pixels, as the devkits' papers state it."""
    error = np.abs(prediction - target)
    if name == "epe":
        return error.mean()
    if name == "d1":
        return np.mean((error > 3) & (error / target > 0.05))
    if name == "bad":
        return np.mean(error > 1.5)
    return np.sqrt(np.mean(error**2))


def batch(seed, images=3, height=5, width=7):
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(images, 1, height, width, generator=generator) * 150 + 1
    prediction = target + 6 * torch.randn(target.shape, generator=generator)
    valid = torch.rand(target.shape, generator=generator) < 0.6
    return prediction, target, valid


@pytest.mark.parametrize("name", CLASSES)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_function_equals_the_definition_over_all_valid_pixels(name, seed):
    prediction, target, valid = batch(seed)
    expected = by_definition(name, prediction[valid].double().numpy(), target[valid].double().numpy())
    assert FUNCTIONS[name](prediction, target, valid).item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", CLASSES)
def test_per_image_is_the_mean_of_the_images(name):
    prediction, target, valid = batch(1)
    values = [
        by_definition(name, p[v].double().numpy(), t[v].double().numpy())
        for p, t, v in zip(prediction, target, valid, strict=True)
    ]
    value = FUNCTIONS[name](prediction, target, valid, per_image=True)
    assert value.item() == pytest.approx(np.mean(values), rel=1e-5)
    assert value != FUNCTIONS[name](prediction, target, valid)


@pytest.mark.parametrize("name", CLASSES)
def test_per_image_leaves_out_images_without_a_valid_pixel(name):
    prediction, target, valid = batch(2)
    valid[1] = False
    kept = FUNCTIONS[name](prediction[[0, 2]], target[[0, 2]], valid[[0, 2]], per_image=True)
    assert FUNCTIONS[name](prediction, target, valid, per_image=True) == pytest.approx(kept.item())


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("name", CLASSES)
def test_class_gives_the_same_however_the_images_are_batched(name, per_image):
    kind, options = CLASSES[name]
    prediction, target, valid = batch(3, images=5)
    metric = kind(per_image=per_image, **options)
    for part in (slice(0, 1), slice(1, 4), slice(4, 5)):
        metric.update(prediction[part], target[part], valid[part])
    whole = FUNCTIONS[name](prediction, target, valid, per_image=per_image)
    assert metric.compute().item() == pytest.approx(whole.item(), rel=1e-6)


def test_d1_counts_only_pixels_off_by_more_than_three_and_five_percent():
    target = torch.tensor([[50.0, 50.0, 100.0, 100.0]])
    prediction = target + torch.tensor([[3.0, 3.1, 4.9, -5.1]])
    wrong = torch.stack([metrics.d1(prediction[:, [i]], target[:, [i]]) for i in range(4)])
    assert wrong.tolist() == [0, 1, 0, 1]


def test_bad_counts_errors_beyond_the_threshold_only():
    target = torch.full((1, 3), 10.0)
    prediction = target + torch.tensor([[2.0, -2.0, 2.01]])
    assert metrics.bad(prediction, target, threshold=2.0).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_prediction_that_is_not_finite_is_wrong(value):
    target = torch.full((1, 2), 10.0)
    prediction = torch.tensor([[value, 10.0]])
    assert metrics.d1(prediction, target) == 0.5
    assert metrics.bad(prediction, target, threshold=1) == 0.5
    assert not torch.isfinite(metrics.epe(prediction, target))


def test_what_stands_at_invalid_pixels_does_not_matter():
    prediction, target, valid = batch(4)
    spoilt, nowhere = prediction.clone(), target.clone()
    spoilt[~valid], nowhere[~valid] = float("nan"), float("inf")
    for name in FUNCTIONS:
        assert FUNCTIONS[name](spoilt, nowhere, valid) == FUNCTIONS[name](prediction, target, valid)


def test_without_a_valid_pixel_there_is_no_number():
    target = torch.ones(1, 2, 2)
    for name in FUNCTIONS:
        assert FUNCTIONS[name](target, target, torch.zeros_like(target, dtype=torch.bool)).isnan()


def test_half_precision_predictions_are_measured_in_float32():
    target = torch.full((1, 1, 64, 64), 150.0)
    prediction = (target + 1).to(torch.bfloat16)
    assert metrics.epe(prediction, target).item() == pytest.approx(
        (prediction.float() - target).abs().mean().item()
    )


def test_many_pixels_pool_without_losing_small_errors():
    target = torch.full((1, 2000, 2500), 100.0)
    prediction = target + 0.001
    expected = (prediction[0, 0, 0] - target[0, 0, 0]).item()
    assert metrics.epe(prediction, target).item() == pytest.approx(expected, rel=1e-5)


def test_shapes_that_differ_are_refused_by_name_of_both():
    with pytest.raises(UserError, match=r"one shape .* got \(1, 4, 5\), \(1, 4, 6\)"):
        metrics.epe(torch.zeros(1, 4, 5), torch.zeros(1, 4, 6))


@pytest.mark.parametrize(
    ("given", "name"),
    [("EPE", "epe"), ("bad-2.0", "bad2"), ("bad_0.5", "bad0.5"), ("bad 4", "bad4"), ("bad3px", "bad3")],
)
def test_metrics_are_found_by_the_names_people_write(given, name):
    assert metrics.metric_name(given) == name
    target = torch.full((1, 4), 10.0)
    metric = metrics.create_metric(given)
    metric.update(target + torch.tensor([[0.4, 0.6, 2.5, 5.0]]), target)
    expected = {"epe": 2.125, "bad2": 0.5, "bad0.5": 0.75, "bad4": 0.25, "bad3": 0.25}[name]
    assert metric.compute().item() == pytest.approx(expected)


def test_an_unknown_metric_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="no metric 'epr'; did you mean 'epe'"):
        metrics.create_metric("epr")
