"""Depth networks of the hub as teachers, by tiny ones that are made here and saved to disk."""

import pytest
import torch

import densedistill as dd
from densedistill.distillation import create_teacher
from densedistill.distillation.hub_depth import align_inverse

transformers = pytest.importorskip("transformers")


def tiny(folder, kind="relative"):
    backbone = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
        patch_size=14,
        depth_estimation_type=kind,
        max_depth=20 if kind == "metric" else 1,
    )
    torch.manual_seed(0)
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "DPTImageProcessor", "size": {"height": 56, "width": 56},'
        ' "ensure_multiple_of": 14, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}'
    )
    return folder


@pytest.fixture(scope="module")
def relative(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("relative"))


def batch():
    torch.manual_seed(1)
    truth = torch.rand(2, 1, 60, 80) * 3 + 1
    valid = torch.rand(2, 1, 60, 80) > 0.4
    image = torch.randint(0, 256, (2, 3, 60, 80), dtype=torch.uint8)
    return {"image": image, "depth": truth, "depth_valid": valid}


def test_a_folder_becomes_a_teacher_prepared_as_it_says(relative):
    teacher = create_teacher("depth_anything", model=str(relative))
    spec = teacher.input_spec
    assert (spec.shorter_side, spec.multiple, spec.mean) == (56, 14, (0.5, 0.5, 0.5))
    answer = teacher(batch())
    assert answer["depth"].shape == (2, 1, 60, 80)
    assert answer["depth_valid"].dtype == torch.bool
    assert not any(p.requires_grad for p in teacher.parameters())


def test_alignment_is_that_of_least_squares_in_the_inverse(relative):
    data = batch()
    loose = create_teacher("depth_anything", model=str(relative), align="none")(data)["depth"]
    aligned = create_teacher("depth_anything", model=str(relative))(data)
    error = ((1 / aligned["depth"] - 1 / data["depth"])[data["depth_valid"]] ** 2).sum()
    for scale, shift in ((1.05, 0), (0.95, 0), (1, 0.02), (1, -0.02)):
        other = scale / aligned["depth"] + shift
        assert ((other - 1 / data["depth"])[data["depth_valid"]] ** 2).sum() > error
    inside = aligned["depth_valid"][0] & (loose[0] < 900)
    line = torch.stack((1 / loose[0][inside], 1 / aligned["depth"][0][inside]))
    assert torch.corrcoef(line)[0, 1].abs() > 0.999


def test_known_scale_and_shift_are_undone():
    truth = torch.rand(2, 1, 20, 30) * 4 + 1
    told = 1 / (0.3 / truth + 0.1)
    aligned, valid = align_inverse(told, truth, None)
    assert valid.all()
    assert torch.allclose(aligned, truth, rtol=1e-4)


def test_an_image_without_ground_truth_is_not_vouched_for(relative):
    data = batch()
    data["depth_valid"][1] = False
    valid = create_teacher("depth_anything", model=str(relative))(data)["depth_valid"]
    assert valid[0].any()
    assert not valid[1].any()
    assert not create_teacher("depth_anything", model=str(relative))({"image": data["image"]})[
        "depth_valid"
    ].any()


def test_a_metric_model_is_taken_as_it_is(tmp_path, relative):
    teacher = create_teacher("depth_anything", model=str(tiny(tmp_path, "metric")))
    data = batch()
    with_truth, without = teacher(data)["depth"], teacher({"image": data["image"]})["depth"]
    assert torch.equal(with_truth, without)
    assert with_truth.max() <= 20
    forced = create_teacher("depth_anything", model=str(relative), kind="metric")
    assert torch.equal(forced(data)["depth"], forced({"image": data["image"]})["depth"])


@pytest.mark.parametrize(
    ("align", "loss"), [("ground_truth", "silog"), ("none", "scale_and_shift_invariant")]
)
def test_a_student_learns_from_it(relative, align, loss):
    student = dd.create_model("depth_slim").train()
    teacher = create_teacher("depth_anything", model=str(relative), align=align)
    terms = {"output": {"loss": loss, "of": "depth", "to": "teacher", "mask": "teacher"}}
    total, _ = dd.Objective(terms, student, {"teacher": teacher})(batch())
    total.backward()
    assert total.isfinite()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())


def test_what_is_no_depth_network_is_refused(tmp_path):
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path)
    with pytest.raises(dd.UserError, match="is no depth network: it is of type dinov2") as error:
        create_teacher("depth_anything", model=str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(dd.UserError, match="there is no model") as error:
        create_teacher("depth_anything", model=str(tmp_path / "nowhere"))
    assert "\n" not in str(error.value)


def test_pickled_weights_are_refused(tmp_path, relative):
    (tmp_path / "config.json").write_text((relative / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(dd.UserError, match="as safetensors"):
        create_teacher("depth_anything", model=str(tmp_path))


@pytest.mark.parametrize(("option", "value"), [("kind", "metre"), ("align", "median")])
def test_options_that_do_not_exist_are_refused(relative, option, value):
    with pytest.raises(dd.UserError, match="is one of"):
        create_teacher("depth_anything", model=str(relative), **{option: value})
