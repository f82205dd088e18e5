"""Teachers answer in evaluation mode, without gradient, at the size of the sample."""

import pytest
import torch
from tiny_stereo import TinyStereo, stereo_batch
from torch import nn

import densedistill as dd
from densedistill.distillation.teachers import EnsembleTeacher, NetworkTeacher, PredictorTeacher, Teacher
from densedistill.networks.published import save_weights


class Says(Teacher):
    """Answers with given values, and vouches for those above 0."""

    def __init__(self, *values):
        super().__init__()
        self.values = torch.tensor(values).view(1, 1, 1, -1)

    def forward(self, batch):
        return {"disparity": self.values, "disparity_valid": self.values > 0}


def test_a_network_stays_in_evaluation_mode_without_gradient():
    teacher = NetworkTeacher(TinyStereo())
    before = {name: buffer.clone() for name, buffer in teacher.named_buffers()}
    answer = nn.ModuleList([teacher]).train()[0](stereo_batch())
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not answer["disparity"].requires_grad
    assert not answer["disparity"].is_inference()
    for name, buffer in teacher.named_buffers():
        torch.testing.assert_close(buffer, before[name])


def test_a_network_answers_in_the_samples_size_and_pixels():
    network = TinyStereo(multiple=8)
    batch = stereo_batch(height=16, width=32)
    plain = NetworkTeacher(network)(batch)["disparity"]
    cut = {key: value[..., :13, :30] for key, value in batch.items()}
    assert NetworkTeacher(network)(cut)["disparity"].shape == (2, 1, 13, 30)
    half = TinyStereo(multiple=8, scale=0.5)
    half.load_state_dict(network.state_dict())
    answer = NetworkTeacher(half)(batch)["disparity"]
    assert answer.shape == plain.shape
    assert answer.max() > 1.5 * plain.max()  # twice what it sees at half size


def test_all_heads_run_where_a_watched_tap_needs_them_and_only_then():
    network = TinyStereo()
    teacher = NetworkTeacher(network)
    teacher.watch(["aggregation[-1]"])
    assert len(teacher(stereo_batch())["taps"]["aggregation[-1]"]) == 1
    assert not teacher._all_heads
    teacher.watch(["volume", "aggregation"])
    for _ in range(2):
        assert len(teacher(stereo_batch())["taps"]["aggregation"]) == 2
    assert not network.all_heads
    assert not network.training


def test_folding_leaves_a_teachers_answers_and_what_is_watched():
    torch.manual_seed(0)
    network = dd.create_model("acvnet_slim", max_disparity=64)
    batch = {key: torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8) for key in ("left", "right")}
    with torch.no_grad():  # logits of a usual size, and statistics that matter
        for head in network.aggregation.heads:
            head.logits.weight.mul_(0.01)
        network.train()(*network.input_spec.prepare(*batch.values())[0])
    teacher = NetworkTeacher(network)
    convolution, norm = "aggregation.reduce.0.conv", "aggregation.residual.1.norm"
    teacher.watch(["features.early", "volume", "attention", "aggregation", convolution, norm])
    before = teacher(batch)
    teacher.fold()
    after = teacher(batch)
    assert network.get_submodule("aggregation.reduce.0.norm").running_mean is not None
    assert isinstance(network.get_submodule("features.stem.0.norm"), nn.Identity)
    torch.testing.assert_close(after["disparity"], before["disparity"], rtol=0, atol=1e-3)
    assert after["taps"].keys() == before["taps"].keys()
    for key, tensors in before["taps"].items():
        for old, new in zip(tensors, after["taps"][key], strict=True):
            torch.testing.assert_close(new, old, rtol=0, atol=1e-4 * old.abs().max().item(), msg=key)


def test_a_teacher_that_is_no_network_has_no_taps():
    with pytest.raises(dd.UserError, match="no taps"):
        Says(1.0).watch(["volume"])


@pytest.mark.parametrize(("reduce", "expected"), [("mean", [5.0, 3.0, 0.0]), ("median", [3.0, 3.0, 0.0])])
def test_an_ensemble_reduces_what_its_members_vouch_for(reduce, expected):
    members = [Says(1.0, 2.0, 0.0), Says(3.0, 4.0, 0.0), Says(11.0, -5.0, 0.0)]
    answer = EnsembleTeacher(members, reduce)(stereo_batch())
    assert answer["disparity"].flatten().tolist() == expected
    assert answer["disparity_valid"].flatten().tolist() == [True, True, False]


def test_an_ensemble_weighs_by_confidence_and_tells_how_far_its_members_lie_from_it():
    class Sure(Says):
        def forward(self, batch):
            return {**super().forward(batch), "disparity_confidence": torch.full_like(self.values, 3.0)}

    answer = EnsembleTeacher([Sure(2.0, 5.0), Says(6.0, 0.0)], "confidence")(stereo_batch())
    assert answer["disparity"].flatten().tolist() == [3.0, 5.0]
    assert answer["disparity_spread"].flatten().tolist() == [2.0, 0.0]


@pytest.mark.parametrize("reduce", ["mean", "median", "confidence"])
def test_what_a_member_vouches_for_and_is_no_number_is_not_hidden_by_the_others(reduce):
    answer = EnsembleTeacher([Says(float("inf")), Says(1.0), Says(2.0)], reduce)(stereo_batch())
    assert answer["disparity"].isnan().all()


@pytest.mark.parametrize("reduce", ["mean", "median", "confidence"])
def test_an_ensemble_of_equals_is_one_of_them_and_the_order_of_its_members_does_not_matter(reduce):
    class Seen(Teacher):
        """Answers at random; where it does not vouch, neither value nor confidence is a number."""

        def __init__(self, seed):
            super().__init__()
            generator = torch.Generator().manual_seed(seed)
            value, sure = torch.rand(2, 2, 1, 8, 12, generator=generator)
            self.valid = torch.rand(2, 1, 8, 12, generator=generator) > 0.4
            self.value, self.sure = (torch.where(self.valid, x, torch.nan) for x in (value, sure))

        def forward(self, batch):
            return {"disparity": self.value, "disparity_valid": self.valid, "disparity_confidence": self.sure}

    one = Seen(0)
    same = EnsembleTeacher([one, Seen(0), Seen(0)], reduce)({})
    assert torch.equal(same["disparity_valid"], one.valid)
    torch.testing.assert_close(same["disparity"], one.value.nan_to_num())
    assert same["disparity_spread"].abs().max() < 1e-6
    answers = [EnsembleTeacher([Seen(i) for i in order], reduce)({}) for order in ((0, 1, 2), (2, 0, 1))]
    for key in ("disparity", "disparity_valid", "disparity_spread"):
        torch.testing.assert_close(*(answer[key] for answer in answers))


def test_an_ensemble_of_networks_by_name():
    member = {"name": "tiny_stereo:TinyStereo", "max_disparity": 32}
    teacher = dd.create_teacher(
        "ensemble", members=[member, {**member, "max_disparity": 16}], reduce="median"
    )
    assert teacher.max_disparity == 16
    assert teacher(stereo_batch())["disparity"].shape == (2, 1, 16, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "acvnet_smal"}, "no teacher 'acvnet_smal'; did you mean 'acvnet_small'"),
        ({"name": "ensembel"}, "did you mean 'ensemble'"),
        ({"name": "ensemble", "members": []}, "an ensemble needs members"),
        ({"name": "ensemble", "members": [], "reduce": "max"}, "'mean', 'median' or 'confidence', got 'max'"),
        ({"name": "ensemble", "member": []}, "takes no option 'member'; did you mean 'members'"),
        ({"name": "tiny_stereo:TinyMono"}, "cannot import teacher"),
        ({"name": "dsnet_bb21_ed2_n16", "max_disparty": 64}, "did you mean 'max_disparity'"),
        ({"name": "sgbm", "weights": "x"}, "teacher 'sgbm' takes no option 'weights'"),
    ],
)
def test_what_is_not_there_is_refused_with_the_nearest(options, message):
    with pytest.raises(dd.UserError, match=message):
        dd.create_teacher(**options)


class Open(TinyStereo):
    """Somebody's own network, which takes any option."""

    def __init__(self, channels=4, **options):
        super().__init__(channels)


@pytest.mark.parametrize("name", ["test_teachers:Open", "tiny_stereo:TinyStereo"])
def test_somebodys_own_network_gets_its_weights_as_a_student_does(name, tmp_path):
    network = dd.create_model(name, channels=8)
    file = str(save_weights(network, tmp_path / "own.safetensors"))
    found = dd.create_teacher(name, weights=file, channels=8).network.state_dict()
    for key, value in network.state_dict().items():
        assert torch.equal(found[key], value)


def test_a_registered_network_is_a_teacher():
    teacher = dd.create_teacher("dsnet_bb21_ed2_n8", max_disparity=64)
    assert teacher.max_disparity == 64
    assert teacher.name == "dsnet_bb21_ed2_n8"


def test_whatever_is_called_like_a_predictor_is_a_teacher_that_leaves_holes_out():
    def predict(left, right):
        return {"disparity": left[:, :1].float() - 100}

    batch = stereo_batch()
    answer = PredictorTeacher(predict, holes=True)(batch)
    torch.testing.assert_close(answer["disparity_valid"], batch["left"][:, :1] > 100)
    assert "disparity_valid" not in PredictorTeacher(predict)(batch)
    with pytest.raises(dd.UserError, match="the batch has no 'left', which task 'stereo' needs"):
        PredictorTeacher(predict)({"image": batch["left"]})


def test_the_classical_matcher_vouches_for_what_it_matched():
    noise = torch.randint(
        0, 256, (1, 3, 48, 160), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    shifted = torch.roll(noise, -5, -1)
    batch = {"left": noise, "right": shifted}
    answer = dd.create_teacher("sgbm", max_disparity=16)(batch)
    valid = answer["disparity_valid"]
    assert not valid.all()
    assert valid[..., 32:-16].float().mean() > 0.8
    assert (answer["disparity"][valid] - 5).abs().median() < 0.5
    assert "disparity_valid" not in dd.create_teacher("sgbm", max_disparity=16, fill=True)(batch)
