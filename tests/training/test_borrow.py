"""A student that begins with parts of its teacher."""

import pytest
import torch

import densedistill as dd
from densedistill.distillation import create_teacher
from densedistill.recipes import load_recipe
from densedistill.training.train import borrow, make_objective


def recipe(**student):
    size = {"size": [128, 128], "max_disparity": 20}
    return load_recipe(
        {
            "task": "depth",
            "student": {"name": "depth_slim", "max_depth": 20, "encoder": "mobilenetv2_050", **student},
            "teachers": {"teacher": {"name": "depth_slim", "max_depth": 20}},
            "data": {"train": {"name": "world", **size}, "batch_size": 2},
            "objective": {"ground_truth": {"loss": "silog", "of": "depth", "to": "ground_truth"}},
            "schedule": {"steps": 1},
        }
    )


def test_a_student_takes_its_teachers_decoder_and_keeps_it():
    objective = make_objective(recipe(borrow={"decoder": "teacher"}, freeze=["decoder"]))
    student, teacher = objective.student, objective.teachers["teacher"].network
    own, others = student.decoder.state_dict(), teacher.decoder.state_dict()
    assert all(torch.equal(own[key], others[key]) for key in others)
    assert not any(p.requires_grad for p in student.decoder.parameters())
    assert all(p.requires_grad for p in student.encoder.parameters())
    assert student.decoder.head[2].weight.data_ptr() != teacher.decoder.head[2].weight.data_ptr()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"decoder": "teachr"},
            r"borrow.decoder: there is no teacher 'teachr'; did you mean 'teacher'",
        ),
        ({"decodr": "teacher"}, r"student.borrow.decodr: teacher 'teacher' has nothing that fits"),
        ({"encoder": "teacher"}, r"student.borrow.encoder: teacher 'teacher' has nothing that fits"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(parts, message):
    objective = make_objective(recipe())
    teachers = {"teacher": create_teacher("depth_slim", max_depth=20)}
    with pytest.raises(dd.UserError, match=message) as error:
        borrow(objective.student, parts, teachers)
    assert "\n" not in str(error.value)
