"""When validations and checkpoints are due, and which of two validations is the better."""

import time
from types import SimpleNamespace

import pytest

from densedistill.recipes import Schedule, Trainer
from densedistill.training.callbacks import Pilot
from densedistill.training.checkpoint import Counters
from densedistill.training.schedule import Course
from densedistill.training.validation import Validator

ALONE = SimpleNamespace(world_size=1)


def module(schedule, step=0, seconds=0.0, **trainer):
    """What a pilot reads of a module whose epochs have four steps."""
    return SimpleNamespace(
        recipe=SimpleNamespace(schedule=schedule, trainer=Trainer(**trainer)),
        course=Course(schedule, steps_per_epoch=4),
        watch=SimpleNamespace(seconds=seconds),
        counters=Counters(),
        step=step,
    )


@pytest.mark.parametrize(
    ("schedule", "trainer", "due"),
    [
        (Schedule(steps=12), {"validate_every": 5}, [5, 10]),
        (Schedule(epochs=3), {}, [4, 8, 12]),
        (Schedule(steps=5), {}, [1, 2, 3, 4, 5]),
        (Schedule(steps=40), {}, [4, 8, 12]),
    ],
)
def test_validations_come_as_said_with_each_epoch_or_ten_times(schedule, trainer, due):
    pilot, found = Pilot(None, None), []
    counters = Counters()
    for step in range(1, 13):
        here = module(schedule, step, **trainer)
        here.counters = counters
        if pilot._validation_due(ALONE, here, finished=False):
            found.append(step)
            counters.validations = here.course.tenths(step, 0.0)
    assert found == due
    assert pilot._validation_due(ALONE, here, finished=True)


@pytest.mark.parametrize(
    ("trainer", "step", "minutes", "due"),
    [
        ({"checkpoint_every": 3}, 6, 0, True),
        ({"checkpoint_every": 3}, 7, 0, False),
        ({"checkpoint_minutes": 2}, 7, 2.1, True),
        ({"checkpoint_minutes": 2}, 7, 1.9, False),
        ({"checkpoint_minutes": None}, 7, 99, False),
    ],
)
def test_checkpoints_come_after_steps_or_minutes(trainer, step, minutes, due):
    pilot = Pilot(None, None)
    pilot._saved_at = time.monotonic() - 60 * minutes
    assert pilot._checkpoint_due(ALONE, module(Schedule(steps=9), step, **trainer)) == due


def test_the_first_figure_and_any_after_one_that_is_no_number_is_the_best():
    validator = Validator({"data": []})
    assert validator.improves(3.0, None)
    assert validator.improves(3.0, float("nan"))
    assert validator.improves(2.0, 3.0)  # an error, until a metric says otherwise
    assert not validator.improves(3.0, 3.0)
