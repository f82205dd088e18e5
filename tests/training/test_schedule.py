import pytest

from densedistill.errors import UserError
from densedistill.recipes import Schedule
from densedistill.training.schedule import Course


def rates(course, steps):
    return [course.factor(step, 0.0) for step in range(steps)]


def test_published_milestones_halve_the_rate_from_the_start_of_their_epoch():
    course = Course(Schedule(epochs=64, milestones=[20, 32, 40, 48, 56], gamma=0.5), steps_per_epoch=10)
    assert course.steps == 640
    for epoch, factor in [(0, 1), (19, 1), (20, 1 / 2), (32, 1 / 4), (47, 1 / 8), (48, 1 / 16), (63, 1 / 32)]:
        assert course.factor(epoch * 10, 0.0) == factor
        assert course.factor(epoch * 10 + 9, 0.0) == factor


def test_one_cycle_rises_to_the_full_rate_and_falls_to_nothing():
    values = rates(Course(Schedule(steps=100, name="one_cycle"), 1), 100)
    assert values[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert values[5:] == sorted(values[5:], reverse=True)
    assert 0 < values[-1] < 0.02


def test_cosine_falls_to_its_final_share():
    values = rates(Course(Schedule(steps=100, name="cosine", final=0.1), 1), 101)
    assert values[0] == 1
    assert values[50] == pytest.approx(0.55)
    assert values[100] == pytest.approx(0.1)


def test_warmup_goes_before_milestones():
    values = rates(Course(Schedule(steps=10, warmup=0.2, milestones=[5], gamma=0.1), 1), 10)
    assert values == pytest.approx([0.5, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1])


def test_minutes_are_minutes_of_training():
    course = Course(Schedule(minutes=10, name="one_cycle", warmup=0.1), 7)
    assert course.steps is None
    assert not course.finished(10**6, 599)
    assert course.finished(1, 600)
    assert course.factor(3, 30) == pytest.approx(0.5)
    assert course.factor(3, 60) == pytest.approx(1.0)
    assert course.factor(3, 330) == pytest.approx(0.5)
    assert course.factor(0, 0.0) > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give one of epochs, steps and minutes; there is none"),
        ({"epochs": 1, "steps": 2}, "there is all of epochs, steps"),
        ({"steps": 0}, r"schedule\.steps: must be above 0"),
        ({"steps": 5, "warmup": 3}, r"schedule\.warmup: a share"),
    ],
)
def test_a_length_must_be_clear(fields, message):
    with pytest.raises(UserError, match=message):
        Schedule(**fields)


def test_poly_falls_as_a_power_and_holds_its_last_rate():
    published = Course(
        Schedule(epochs=55, name="poly", power=0.5, final=0.1, hold=5 / 55), steps_per_epoch=10
    )
    for step in (0, 100, 499, 500, 549):
        # Spatial-KD: (1e-4 - 1e-5) (1 - n / N)^0.5 + 1e-5 over 50 epochs, and five more at 1e-5.
        expected = 0.9 * max(0.0, 1 - step / 500) ** 0.5 + 0.1
        assert published.factor(step, 0.0) == pytest.approx(expected, abs=1e-6), step
    with pytest.raises(UserError, match=r"schedule\.hold"):
        Schedule(steps=10, name="poly", hold=1.0)
    with pytest.raises(UserError, match=r"schedule\.hold"):
        Schedule(steps=10, name="one_cycle", hold=0.95)
    with pytest.raises(UserError, match=r"schedule\.epochs: must have an end"):
        Schedule(epochs=float("inf"))


def test_milestones_may_stand_in_any_order():
    course = Course(Schedule(steps=10, milestones=[5, 1]), steps_per_epoch=10)
    assert [course.factor(step, 0.0) for step in (0, 2, 7)] == [1, 0.5, 0.25]
