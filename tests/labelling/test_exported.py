"""Teachers that are no networks of ours: an ONNX file, RAFT, OpenCV's flow, and parts put together."""

import pytest
import torch
from toy_teachers import TinyNetwork

import densedistill as dd
from densedistill.distillation.motion import Parts
from densedistill.distillation.teachers import Teacher, create_teacher


class Ramp(Teacher):
    """Disparity is the column."""

    def forward(self, batch):
        return {"disparity": torch.arange(10.0).expand(1, 1, 6, 10)}


class Steady(Teacher):
    """Everything moves 3 px to the right."""

    def forward(self, batch):
        return {"flow": torch.tensor([3.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 6, 10)}


@pytest.fixture(scope="module")
def onnx(tmp_path_factory):
    """The toy network as an ONNX file of fixed size, or None where the extra [export] is not installed."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        return None
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    images = torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96)
    torch.onnx.export(
        TinyNetwork().eval(), images, str(path), output_names=["disparity"], dynamo=True, external_data=False
    )
    return path


def test_an_onnx_file_answers_like_the_network_it_came_from(onnx, scenes):
    if onnx is None:
        with pytest.raises(dd.UserError, match="no ONNX file"):
            create_teacher("onnx", path="nowhere.onnx")
        return
    spec = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "multiple": 4}
    teacher = create_teacher("onnx", path=str(onnx), input_spec=spec, max_disparity=32)
    batch = {key: scenes[0][key][None] for key in ("left", "right")}
    expected = create_teacher("toy_teachers:TinyNetwork")(batch)["disparity"]
    torch.testing.assert_close(teacher(batch)["disparity"], expected, atol=1e-3, rtol=1e-3)


def test_an_onnx_file_that_is_not_there_or_damaged_is_one_line(tmp_path, onnx):
    with pytest.raises(dd.UserError, match=r"there is no ONNX file .*nowhere\.onnx"):
        create_teacher("onnx", path=str(tmp_path / "nowhere.onnx"))
    (tmp_path / "damaged.onnx").write_bytes(b"damaged")
    with pytest.raises(dd.UserError, match="onnxruntime") as caught:
        create_teacher("onnx", path=str(tmp_path / "damaged.onnx"))
    assert "\n" not in str(caught.value)


def test_raft_loads_torchvisions_entries_from_a_file_and_answers_at_any_size(tmp_path):
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    network = raft_small(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "raft_small.pth")
    teacher = create_teacher("raft", weights=str(tmp_path / "raft_small.pth"), size="small", iterations=1)
    batch = {key: torch.randint(0, 255, (1, 3, 128, 132), dtype=torch.uint8) for key in ("left", "left_next")}
    flow = teacher(batch)["flow"]
    assert flow.shape == (1, 2, 128, 132)
    with pytest.raises(dd.UserError, match="does not fit"):
        create_teacher("raft", weights=str(tmp_path / "raft_small.pth"), size="large")
    with pytest.raises(dd.UserError, match="large or small"):
        create_teacher("raft", weights="x.pth", size="medium")


def test_dis_finds_a_shift():
    texture = torch.nn.functional.interpolate(
        torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)), size=(64, 100), mode="bicubic"
    ).clamp(0, 1)
    batch = {"left": texture[..., 2:98], "left_next": texture[..., :96]}
    flow = create_teacher("dis")(batch)["flow"]
    assert flow.shape == (1, 2, 64, 96)
    assert (flow[0, 0, 16:48, 16:80].median() - 2).abs() < 0.3
    assert flow[0, 1, 16:48, 16:80].median().abs() < 0.3
    with pytest.raises(dd.UserError, match="preset of dis"):
        create_teacher("dis", preset="slow")
    with pytest.raises(dd.UserError, match="two frames of one camera"):
        create_teacher("dis")({"left": texture})


def test_parts_fetch_the_disparity_at_t1_along_the_flow():
    stereo = create_teacher("test_exported:Ramp")
    moving = create_teacher("test_exported:Steady")
    batch = {key: torch.rand(1, 3, 6, 10) for key in ("left", "right", "left_next", "right_next")}
    answer = Parts(stereo, moving)(batch)
    ramp = stereo(batch)["disparity"]
    assert torch.equal(answer["disparity"], ramp)
    torch.testing.assert_close(answer["disparity_next"][..., :7], ramp[..., 3:])
    assert answer["disparity_next_valid"][0, 0].all(0).tolist() == [True] * 7 + [False] * 3
    with pytest.raises(dd.UserError, match="scene flow needs 'left_next'"):
        Parts(stereo, moving)({key: batch[key] for key in ("left", "right")})
