"""Scene flow put together from teachers for its parts, and the flow that torchvision's RAFT finds."""

import pytest
import torch

import densedistill as dd
from densedistill.distillation.motion import DIS, RAFT, RAFT_LEAST, RAFT_MULTIPLE, FlowTeacher, Parts
from densedistill.distillation.teachers import Teacher

WIDTH = 8
FRAMES = {key: torch.zeros(1, 3, 2, WIDTH) for key in ("left", "right", "left_next", "right_next")}


class Ramp(Teacher):
    """Says a disparity of x at t0, which it vouches for, and of 10 + x at t1, where it does not at x = 4."""

    def forward(self, batch):
        x = torch.arange(float(WIDTH)).expand(1, 1, 2, WIDTH)
        if batch["left"] is FRAMES["left"]:
            return {"disparity": x}
        return {"disparity": 10 + x, "disparity_valid": x != 4}


class Rightwards(FlowTeacher):
    """Says 1.5 px to the right everywhere, and vouches for all but the first column."""

    def forward(self, batch):
        answer = super().forward(batch)
        valid = torch.ones(1, 1, 2, WIDTH, dtype=torch.bool)
        valid[..., 0] = False
        return {**answer, "flow_valid": valid}

    def flow(self, image, following):
        assert following is FRAMES["left_next"]
        return torch.tensor([1.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, WIDTH)


def test_disparity_at_t1_is_that_of_where_the_flow_leads_as_far_as_all_vouch_for_it():
    answer = Parts(Ramp(), Rightwards())(FRAMES)
    row = {key: value[0, 0, 0].tolist() for key, value in answer.items()}
    assert row["disparity"] == list(range(WIDTH))
    assert all(row["disparity_valid"])
    assert row["flow"] == [1.5] * WIDTH
    assert row["flow_valid"] == [False] + [True] * 7
    # Nobody vouches for the flow at 0, for what t1's disparity at 4 is mixed into, or beyond the image.
    assert row["disparity_next_valid"] == [False, True, False, False, True, True, False, False]
    torch.testing.assert_close(torch.tensor(row["disparity_next"][:6]), 11.5 + torch.arange(6.0))


def test_what_a_frame_lacks_is_named():
    with pytest.raises(dd.UserError, match="scene flow needs 'right_next'"):
        Parts(Ramp(), Rightwards())({key: FRAMES[key] for key in ("left", "right", "left_next")})
    with pytest.raises(dd.UserError, match="flow needs two frames of one camera"):
        DIS()({"left": FRAMES["left"]})


def test_dis_finds_a_shift_in_pixels_x_before_y():
    noise = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(noise, 5, 1, 2)
    images = {"image": smooth, "image_next": smooth.roll((1, 3), (-2, -1))}
    found = DIS()(images)["flow"][..., 8:-8, 8:-8].flatten(2).median(-1).values
    torch.testing.assert_close(found, torch.tensor([[3.0, 1.0]]), atol=0.2, rtol=0)


@pytest.mark.parametrize("size", [(20, 131), (136, 128)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_raft_sees_images_from_minus_one_to_one_at_a_size_that_it_takes(size, dtype, monkeypatch):
    seen = []

    class Network(torch.nn.Module):
        def forward(self, first, second, num_flow_updates):
            seen.append(second)
            return [first[:, :2] * 0, first[:, :2]]

    monkeypatch.setattr("densedistill.distillation.motion.load_weights", lambda *_: None)
    teacher = RAFT("raft.pth", "small")
    teacher.network = Network()
    following = torch.zeros(1, 3, *size, dtype=dtype)
    following[..., -1, -1] = 255 if dtype == torch.uint8 else 1
    flow = teacher({"left": following * 0, "left_next": following})["flow"]
    assert flow.shape == (1, 2, *size)
    assert (flow == -1).all()
    (padded,) = seen
    assert (padded.min(), padded.max()) == (-1, 1)
    for side, given in zip(padded.shape[-2:], size, strict=True):
        assert side % RAFT_MULTIPLE == 0
        assert max(given, RAFT_LEAST) <= side < max(given, RAFT_LEAST) + RAFT_MULTIPLE
    assert (
        padded[..., size[0] - 1 :, size[1] - 1 :] == 1
    ).all()  # the last pixel goes on below and beside it
