import pytest
import toy

from densedistill.training import train
from densedistill.training.log import duration


def test_a_line_has_the_mean_losses_since_the_last_one(tmp_path):
    totals = []
    for every in (1, 3):
        run = train(toy.recipe(schedule__steps=7, trainer__log_every=every), run=tmp_path / f"{every}")
        totals.append([line["loss/total"] for line in run.history if "loss/total" in line])
    each, means = totals
    expected = [sum(each[:3]) / 3, sum(each[3:6]) / 3, each[6]]  # the last step has a line of its own
    assert means == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (89 * 60, "89 min"),
        (90 * 60, "1 h 30"),
        (3.08 * 3600, "3 h 05"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds, text):
    assert duration(seconds) == text
