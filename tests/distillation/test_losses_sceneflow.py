"""What is DWARF's alone among the losses."""

import pytest
import torch

import densedistill as dd
from densedistill.errors import UserError

TARGET = torch.tensor([[[[40.0, 80.0], [0.0, 40.0]]]])
KNOWN = torch.tensor([[[[True, True], [False, True]]]])


@pytest.mark.parametrize(
    ("mask", "unknown", "mean"), [(None, "zero", 40.0), (KNOWN, "skip", 160 / 3), (KNOWN, "zero", 0.0)]
)
def test_a_cell_is_taught_the_mean_of_its_pixels_or_as_published_zero(mask, unknown, mean):
    cell = torch.zeros(1, 1, 1, 1)
    loss = dd.losses.pooled_l1(cell, TARGET, mask=mask, unknown=unknown, unit=20)
    wanted = dd.losses.summed_l1(cell, torch.full((1, 1, 1, 1), mean), unit=20)
    assert float(loss) == pytest.approx(float(wanted), rel=1e-5)
    if mean:
        assert float(loss) > 1


def test_a_cell_of_which_nothing_is_known_is_skipped():
    nothing = torch.zeros_like(KNOWN)
    assert float(dd.losses.pooled_l1(torch.ones(1, 1, 1, 1), TARGET, mask=nothing, unknown="skip")) == 0


def test_cells_add_up_and_what_is_unknown_is_skipped_or_teaches_zero():
    student = torch.full((1, 1, 1, 2), 3.0)
    teacher = torch.tensor([[[[2.0, 2.0, 8.0, 0.0], [2.0, 2.0, 0.0, 0.0]]]])
    known = teacher > 0
    assert float(dd.losses.pooled_l1(student, teacher, mask=known, unit=1, unknown="skip")) == 1 + 5
    assert float(dd.losses.pooled_l1(student, teacher, mask=known, unit=1)) == 1 + 3


def test_other_sizes_and_other_words_are_refused():
    with pytest.raises(UserError, match="multiple of the student's size, got 2x2 px and 2x1"):
        dd.losses.pooled_l1(torch.zeros(1, 1, 1, 2), TARGET)
    with pytest.raises(UserError, match="'zero' or 'skip', got 'none'"):
        dd.losses.pooled_l1(torch.zeros(1, 1, 1, 1), TARGET, unknown="none")
