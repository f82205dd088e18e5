"""The objective: terms are checked before training, computed as said, and reach what they should."""

import copy
import sys

import pytest
import torch
from tiny_stereo import Replay, TinyStereo, stereo_batch
from torch import nn

import densedistill as dd
from densedistill.distillation.teachers import NetworkTeacher, Teacher
from densedistill.networks import InputSpec

TRUTH = {"loss": "smooth_l1", "of": "disparity", "to": "ground_truth"}
VOLUME = {"loss": "cosine", "of": "volume", "to": "teacher"}


def scaled_l1(student, teacher, mask=None, factor=1.0):
    """A user's loss."""
    return factor * dd.losses.l1(student, teacher, mask=mask)


def of_a_tap(student, teacher, mask=None):
    """A user's loss that compares a tap with the ground truth."""
    return student.mean()


of_a_tap.takes_truth = True


class LearntScale(nn.Module):
    """A user's loss with a parameter and no mask."""

    def __init__(self, start=2.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(start))

    def forward(self, student, teacher):
        return (self.scale * student - teacher).square().mean()


class Vouching(Teacher):
    """Says 5 px, and vouches for the left half of the image."""

    def forward(self, batch):
        disparity = torch.full_like(batch["disparity"], 5.0)
        valid = torch.zeros_like(batch["disparity"], dtype=torch.bool)
        valid[..., : valid.shape[-1] // 2] = True
        return {"disparity": disparity, "disparity_valid": valid}


def _objective(terms, student=None, **teachers):
    torch.manual_seed(0)
    student = TinyStereo() if student is None else student
    return dd.Objective(terms, student, teachers or {"teacher": TinyStereo()})


def test_the_total_is_the_weighted_sum_of_the_parts():
    objective = _objective(
        {
            "truth": {**TRUTH, "weight": 0.4, "levels": [0.5, 1.0]},
            "output": {**TRUTH, "to": "teacher", "weight": 2},
            "volume": {**VOLUME, "weight": 0.1},
            "aggregation": {**VOLUME, "loss": "kl", "of": "aggregation", "temperature": 2.0},
        }
    )
    total, parts = objective(stereo_batch())
    weights = {"truth": 0.4, "output": 2, "volume": 0.1, "aggregation": 1}
    assert parts.keys() == weights.keys()
    torch.testing.assert_close(total.detach(), sum(weights[name] * part for name, part in parts.items()))
    assert all(part.shape == () and not part.requires_grad for part in parts.values())
    total.backward()
    assert all(parameter.grad is not None for parameter in objective.student.parameters())
    assert all(parameter.grad is None for parameter in objective.teachers["teacher"].parameters())


def test_ground_truth_counts_between_zero_and_the_limit_where_it_was_measured():
    prediction = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).view(1, 1, 1, 6)
    batch = {key: torch.zeros(1, 3, 1, 6) for key in ("left", "right")}
    batch["disparity"] = torch.tensor([0.0, 3.0, -1.0, 6.0, 12.0, 20.0]).view(1, 1, 1, 6)
    batch["disparity_valid"] = torch.tensor([1, 1, 1, 0, 1, 1]).bool().view(1, 1, 1, 6)
    term = {"loss": "l1", "of": "disparity", "to": "ground_truth"}
    student = Replay([prediction])
    assert _objective({"t": {**term, "max_disparity": 16}}, student)(batch)[0].item() == (1 + 7) / 2
    assert _objective({"t": {**term, "max_disparity": 12}}, student)(batch)[0].item() == 1
    assert _objective({"t": term}, student)(batch)[0].item() == pytest.approx((1 + 7 + 14) / 3)


def test_range_and_outputs_of_a_network_that_sees_images_scaled_are_in_px_of_the_image():
    student = Replay([torch.full((1, 1, 1, 3), value) for value in (2.0, 3.0)])
    student.max_disparity, student.input_spec = 8, InputSpec(multiple=1, scale=0.5)
    batch = {key: torch.zeros(1, 3, 2, 6) for key in ("left", "right")}
    batch["disparity"] = torch.tensor([12.0, 12.0, 12.0, 12.0, 12.0, 17.0]).expand(1, 1, 2, 6)
    term = {"loss": "l1", "of": "disparity", "to": "ground_truth", "levels": [1.0, 0.5]}
    total, _ = _objective({"t": term}, student)(batch)
    assert total.item() == pytest.approx(abs(2 * 2 - 12) + 0.5 * abs(2 * 3 - 12))


def test_flow_counts_however_large_whatever_the_range_of_disparities():
    class Moving(nn.Module):
        task, max_disparity, input_spec = "sceneflow", 16, InputSpec(multiple=1)

        def forward(self, left, right, left_next, right_next):
            still = torch.zeros_like(left[:, :1])
            return {"disparity": still, "disparity_next": still, "flow": torch.cat((still, still), 1)}

    class Moved(Vouching):
        def forward(self, batch):
            return {"flow": torch.full_like(batch["left"][:, :2], 20.0)}

    images = {key: torch.zeros(1, 3, 4, 6) for key in ("left", "right", "left_next", "right_next")}
    term = {"loss": "l1", "of": "flow", "to": "teacher"}
    assert _objective({"t": term}, Moving(), teacher=Moved())(images)[0] == 20


FACTS = {}


def told(
    student,
    teacher,
    *,
    max_disparity,
    align_corners,
    teacher_max_disparity,
    teacher_align_corners,
    size,
    image,
    processes,
):
    """A user's loss that keeps what it is told."""
    FACTS.update({key: value for key, value in locals().items() if key not in ("student", "teacher")})
    return student.sum()


def test_a_loss_is_told_the_facts_that_it_asks_for():
    student, teacher = TinyStereo(), TinyStereo(max_disparity=32)
    student.align_corners, teacher.align_corners = True, False
    batch = {key: value[..., :13, :30] for key, value in stereo_batch().items()}
    _objective({"t": {**VOLUME, "loss": "test_objective:told"}}, student, teacher=teacher)(batch)
    seen = sys.modules["test_objective"].FACTS  # the objective imported this file by its name
    assert torch.equal(seen.pop("image"), _prepared(batch, student)[0])
    assert seen == {
        **{"max_disparity": 16, "align_corners": True, "size": (16, 32), "processes": 1},
        **{"teacher_max_disparity": 32, "teacher_align_corners": False},
    }


def test_samples_without_ground_truth_are_skipped():
    objective = _objective({"truth": TRUTH}, TinyStereo().eval())
    batch = stereo_batch()
    batch["disparity_valid"][1] = False
    only_first = {key: value[:1] for key, value in batch.items()}
    torch.testing.assert_close(objective(batch)[0], objective(only_first)[0])


@pytest.mark.parametrize("missing", [True, False])
def test_a_batch_without_any_ground_truth_gives_zero_with_a_gradient_of_zero(missing):
    objective = _objective({"truth": {**TRUTH, "levels": [0.5, 1]}})
    batch = stereo_batch()
    if missing:
        del batch["disparity"], batch["disparity_valid"]
    else:
        batch["disparity_valid"][:] = False
    total, _ = objective(batch)
    total.backward()
    assert total.item() == 0
    assert all(parameter.grad.abs().max() == 0 for parameter in objective.student.parameters())


@pytest.mark.parametrize("mask", ["none", "ground_truth", "teacher", "both"])
def test_masks_of_an_output(mask):
    objective = _objective(
        {"output": {"loss": "l1", "of": "disparity", "to": "vouching", "mask": mask}},
        vouching=Vouching(),
    )
    batch = stereo_batch()
    truth = batch["disparity"]
    counts = torch.ones_like(truth, dtype=torch.bool)
    if mask in ("ground_truth", "both"):
        counts &= batch["disparity_valid"] & (truth > 0) & (truth < 16)
    if mask in ("teacher", "both"):
        counts[..., 16:] = False
    prediction = objective.student(*_prepared(batch, objective.student))["disparity"]
    expected = (prediction - 5).abs()[counts].mean()
    torch.testing.assert_close(objective(batch)[0], expected)


def _prepared(batch, network):
    return network.input_spec.prepare(batch["left"], batch["right"])[0]


def test_a_term_to_a_teacher_keeps_to_what_it_vouches_for_by_default():
    terms = {"output": {"loss": "l1", "of": "disparity", "to": "vouching"}}
    explicit = {"output": {**terms["output"], "mask": "teacher"}}
    totals = [_objective(t, vouching=Vouching())(stereo_batch())[0] for t in (terms, explicit)]
    torch.testing.assert_close(*totals)


class Otherwise(Teacher):
    """Vouches for 7 px in the left half of what it calls `nearer`, and for all of its disparity."""

    def forward(self, batch):
        answer = Vouching().forward(batch)
        nearer, valid = answer["disparity"] + 2, answer["disparity_valid"]
        return {"disparity": answer["disparity"], "nearer": nearer, "nearer_valid": valid}


def test_an_output_called_otherwise_counts_where_the_teacher_vouches_for_that():
    student, batch = Replay([torch.zeros(2, 1, 16, 32)]), stereo_batch()
    student.disparities[0][..., 16:] = 100
    term = {"loss": "l1", "of": "disparity", "to": "teacher.nearer"}
    assert _objective({"t": term}, student, teacher=Otherwise())(batch)[0] == 7
    for missing in ("nearest", "nearest_valid"):
        with pytest.raises(dd.UserError, match=f"objective.t: teacher 'teacher' has no output '{missing}'"):
            _objective({"t": {**term, "to": f"teacher.{missing}"}}, student, teacher=Otherwise())(batch)


def test_a_mask_of_a_tap_is_brought_to_its_size_and_holds_for_the_left_view():
    student, teacher = TinyStereo(), TinyStereo()
    batch = stereo_batch()
    batch["disparity"] = torch.ones_like(batch["disparity"])
    batch["disparity_valid"][:] = False
    batch["disparity_valid"][..., :16] = True
    term = {"loss": "cosine", "of": "features", "to": "teacher", "mask": "ground_truth"}
    total, _ = dd.Objective({"f": term}, student, {"teacher": teacher})(batch)
    features = [
        net.features(torch.cat(_prepared(batch, net)))[:2, ..., :8] for net in (student, teacher.eval())
    ]
    torch.testing.assert_close(total, dd.losses.cosine(*features))


def test_a_tap_compared_with_the_ground_truth_on_padded_images_is_refused_with_the_size_that_fits():
    objective = _objective({"t": {**VOLUME, "loss": "test_objective:of_a_tap", "to": "ground_truth"}})
    batch = {key: value[..., :13, :30] for key, value in stereo_batch().items()}
    with pytest.raises(dd.UserError, match="samples of 30x13 px as 32x16; a crop in multiples of 4 is not"):
        objective(batch)


def test_a_mask_of_a_volume_holds_for_every_disparity():
    objective = _objective({"v": {**VOLUME, "loss": "mse", "mask": "ground_truth"}})
    batch = stereo_batch()
    batch["disparity_valid"][..., 8:, :] = False
    objective(batch)[0].backward()
    with dd.Taps(objective.student, ["volume"]) as taps:
        objective.student.zero_grad()
        objective.student(*_prepared(batch, objective.student))
        student = taps["volume"][0]
    assert student.shape[-2] == 8


def test_kl_compares_at_the_size_of_the_input_with_the_mask_of_its_pixels():
    objective = _objective({"a": {**VOLUME, "loss": "kl", "of": "aggregation[-1]", "mask": "ground_truth"}})
    batch = {key: value[..., :13, :30] for key, value in stereo_batch().items()}
    total, _ = objective(batch)
    student, teacher = objective.student, objective.teachers["teacher"].network
    with dd.Taps(student, "aggregation[-1]") as own, dd.Taps(teacher, "aggregation[-1]") as other:
        for net in (student, teacher):
            net(*_prepared(batch, net))
        mask = batch["disparity_valid"] & (batch["disparity"] > 0) & (batch["disparity"] < 16)
        expected = dd.losses.kl(
            own["aggregation[-1]"][0],
            other["aggregation[-1]"][0],
            mask=nn.functional.pad(mask, (0, 2, 0, 3)),
            max_disparity=16,
            size=(16, 32),
        )
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("scale", [None, 2.0])
def test_coarse_levels_are_refused_on_padded_or_scaled_samples_and_are_not_in_the_way_unread(
    scale,
):
    """Their cells are not the sample's: the final output's padding, cut off them, would cut them short."""
    student = dd.create_model("dwarf_slim", scale=scale)
    height, width = (128, 128) if scale is None else (64, 64)
    sizes = {"whole": (height, width), "padded": (height - 10, width - 4)}
    batches = {
        name: {key: torch.rand(1, 3, *size) for key in ("left", "right", "left_next", "right_next")}
        | {"disparity": torch.ones(1, 1, *size), "disparity_valid": torch.ones(1, 1, *size).bool()}
        for name, size in sizes.items()
    }
    final = dd.Objective({"final": TRUTH}, student)
    final_of_levels = dd.Objective({"final": {**TRUTH, "levels": [0, 0, 0, 0, 1]}}, student)
    for batch in batches.values():
        torch.testing.assert_close(final_of_levels(batch)[0], final(batch)[0])
    pooled = dd.Objective({"all": {**TRUTH, "loss": "pooled_l1", "levels": [8, 2, 1, 0.5, 0]}}, student)
    if scale is None:
        assert pooled(batches["whole"])[0] > 0
    for name in ("padded",) if scale is None else batches:
        with pytest.raises(dd.UserError, match=r"objective.all: levels .* nothing is padded or scaled"):
            pooled(batches[name])


def test_kl_between_networks_of_different_range_is_over_the_common_levels():
    term = {**VOLUME, "loss": "kl", "of": "aggregation[-1]"}
    objective = _objective({"a": term}, teacher=TinyStereo(max_disparity=32))
    total, _ = objective(stereo_batch())
    assert total.isfinite()
    assert total > 0


def test_teachers_of_another_preparation_are_compared_at_the_samples_size():
    term = {"loss": "l1", "of": "disparity", "to": "teacher"}
    teacher = TinyStereo(multiple=32, scale=0.5, pad="top-right")
    teacher.input_spec = InputSpec(mean=(0.5,) * 3, std=(0.5,) * 3, channels="bgr", multiple=32, scale=0.5)
    objective = _objective({"output": term}, teacher=teacher)
    batch = {key: value[..., :13, :30] for key, value in stereo_batch().items()}
    total, _ = objective(batch)
    prediction = objective.student(*_prepared(batch, objective.student))["disparity"][..., :13, :30]
    expected = (prediction - objective.teachers["teacher"](batch)["disparity"]).abs().mean()
    torch.testing.assert_close(total, expected)


def test_two_teachers_at_once_and_one_without_weight_is_not_asked():
    class Silent(Vouching):
        def forward(self, batch):
            raise AssertionError("asked for nothing")

    output = {"loss": "l1", "of": "disparity"}
    objective = _objective(
        {
            "first": {**output, "to": "teacher"},
            "second": {**output, "to": "vouching", "weight": 0.5},
            "third": {**output, "to": "silent", "weight": 0},
        },
        teacher=TinyStereo(),
        vouching=Vouching(),
        silent=Silent(),
    )
    _, parts = objective(stereo_batch())
    assert parts.keys() == {"first", "second"}


def test_the_teachers_tap_may_be_called_otherwise():
    same = {"loss": "cosine", "of": "features", "to": "teacher"}
    batch = stereo_batch()
    totals = [
        _objective({"t": term})(batch)[0]
        for term in (
            same,
            {**same, "to_tap": "features.1"},
            {**same, "to": "teacher.features.1"},
            {**same, "to_tap": {"path": "features.1", "clone": True}},
        )
    ]
    for total in totals[1:]:
        torch.testing.assert_close(total, totals[0])


def test_weights_decay_as_a_function_of_the_epoch():
    objective = _objective({"truth": TRUTH, "v": {**VOLUME, "decay": {"epochs": [1], "factor": 0.5}}})
    batch = stereo_batch()
    weights = []
    for epoch in (0, 1):
        total, parts = objective(batch, epoch=epoch)
        weights.append(((total - parts["truth"]) / parts["v"]).item())
    assert weights == pytest.approx([1, 0.5], rel=1e-4)


def test_in_evaluation_mode_the_final_output_stands_for_all_levels():
    objective = _objective({"truth": {**TRUTH, "levels": [0.5, 0.7]}, "a": {**VOLUME, "of": "aggregation"}})
    objective.student.eval()
    batch = stereo_batch()
    _, parts = objective(batch)
    final = _objective({"truth": TRUTH}, objective.student)(batch)[0]
    torch.testing.assert_close(parts["truth"], 0.7 * final.detach())


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "the objective has no terms"),
        ({"t": {**TRUTH, "weight": 0}}, "every term of the objective has weight 0"),
        ({"t": "smooth_l1"}, "objective.t: a term is a mapping"),
        ({"a.b": TRUTH}, "a term's name has no dot"),
        ({"t": {"loss": "l1", "of": "disparity"}}, "objective.t: 'to' is missing"),
        (
            {"t": {**TRUTH, "loss": "smoth_l1"}},
            "objective.t: there is no loss 'smoth_l1'; did you mean 'smooth_l1'",
        ),
        ({"t": {**TRUTH, "loss": "nowhere:f"}}, "objective.t: cannot import loss 'nowhere:f'"),
        ({"t": {**TRUTH, "of": "disparty"}}, "no tap 'disparty'; did you mean 'disparity'"),
        ({"t": {**TRUTH, "of": "volume"}}, "the ground truth has no tap 'volume'"),
        ({"t": {**TRUTH, "to": "teachr"}}, "no teacher 'teachr'; did you mean 'teacher'"),
        ({"t": {**TRUTH, "wieght": 1}}, "field 'wieght'; did you mean 'weight'"),
        ({"t": {**TRUTH, "bta": 1}}, "field 'bta'; did you mean 'beta'"),
        ({"t": {**VOLUME, "of": "volum"}}, "no tap or module 'volum'; did you mean 'volume'"),
        ({"t": {**VOLUME, "to_tap": "volum"}}, "teacher 'teacher': .*no tap or module 'volum'"),
        ({"truth": TRUTH, "t": {**VOLUME, "of": "volum", "weight": 0}}, "no tap or module 'volum'"),
        ({"t": {**VOLUME, "mask": "left"}}, "mask is one of none, ground_truth, teacher, both, got 'left'"),
        ({"t": {**TRUTH, "mask": "none"}}, "a term to the ground truth has mask: ground_truth"),
        ({"t": {**VOLUME, "of": "features", "loss": "mf_old", "mask": "teacher"}}, "'mf_old' takes no mask"),
        (
            {"t": {**TRUTH, "loss": "mf_old"}},
            "takes no mask; give it a parameter 'mask', of what",
        ),
        ({"t": {**VOLUME, "adapter": "conv2x2"}}, "no adapter 'conv2x2'; did you mean 'conv"),
        ({"t": {**VOLUME, "adapter": {"kind": "conv1x1", "at": "student"}}}, "no field 'at'"),
        (
            {"t": {**VOLUME, "adapter": {"kind": "conv1x1", "on": "techer"}}},
            "on the student or on the teacher",
        ),
        ({"t": {**VOLUME, "adapter": {"kind": "conv1x1", "on": "teacher"}}}, "put it on the student"),
        ({"t": {**TRUTH, "adapter": "conv1x1"}}, "an adapter is for taps"),
        ({"t": {**TRUTH, "weight": -1}}, "the weight is at least 0, got -1"),
        ({"t": {**TRUTH, "weight": "much"}}, "the weight is a number, got 'much'"),
        ({"t": {**TRUTH, "weight": float("nan")}}, "the weight is a number, got nan"),
        ({"t": {**TRUTH, "max_disparity": 0}}, "max_disparity is above 0 px, got 0"),
        *(
            ({"t": {**term, "mask": mask, "max_disparity": 16}}, f"mask: {mask} of 'disparity' does not ask")
            for term in (VOLUME, {**VOLUME, "of": "disparity", "loss": "l1"})
            for mask in ("none", "teacher")
        ),
        ({"t": {**TRUTH, "to": "ground_truth.volume"}}, "nothing to choose, got 'volume'"),
        ({"t": {**TRUTH, "levels": [0, 0]}}, "every level has weight 0"),
        ({"t": {**TRUTH, "levels": 3}}, "levels is a list of weights, got 3"),
        ({"t": {**TRUTH, "levels": [-1, 1]}}, "the weight of a level is at least 0, got -1"),
        ({"t": {**TRUTH, "loss": ["l1"]}}, r"a loss is its name, got \['l1'\]"),
        (
            {"t": {**TRUTH, "decay": {"epochs": [1], "factor": -1}}},
            "the factor of decay is at least 0, got -1",
        ),
        (
            {"t": {**TRUTH, "decay": {"epochs": [0, 0], "factor": 1e308}}},
            r"decay by a factor of 1e\+308 in 2 epochs ends at no finite weight",
        ),
        (
            {"t": {**TRUTH, "weight": 100, "decay": {"epochs": [0], "factor": 1e308}}},
            "in 1 epochs ends at no finite weight",
        ),
        ({"t": {**TRUTH, "weight": 10**400}}, "the weight is a number, got 1000"),
        ({"t": {**TRUTH, "decay": {"epoch": [1]}}}, "decay is {epochs"),
        ({"t": {**TRUTH, "decay": 3}}, "decay is {epochs.*got 3"),
        ({"t": {**TRUTH, "decay": {"epochs": 3}}}, "decay is {epochs"),
        ({"t": {**TRUTH, "decay": {"epochs": ["a"]}}}, "an epoch or factor of decay is a number"),
        ({"t": {**TRUTH, "decay": {"epochs": [1], "factor": "a"}}}, "factor of decay is a number"),
        ({"t": {**TRUTH, "max_disparity": "far"}}, "max_disparity is a number, got 'far'"),
        ({"t": {**VOLUME, "clone": "no"}}, "clone is true or false, got 'no'"),
        ({"t": {**VOLUME, "adapter": 3}}, "an adapter is its kind or .*got 3"),
        ({"t": {**VOLUME, "loss": "mgd"}}, "objective.t: loss 'mgd' cannot be made with no options"),
    ],
)
def test_a_wrong_term_is_refused_on_creation(terms, message):
    with pytest.raises(dd.UserError, match=message):
        _objective(terms)


@pytest.mark.parametrize(
    ("terms", "teacher", "message"),
    [
        (
            {"t": {**TRUTH, "levels": [1, 2, 3]}},
            {},
            "objective.t: 'levels' has 3 weights, the student gives 2",
        ),
        (
            {"t": {**VOLUME, "of": "aggregation", "to_tap": "aggregation[-1]"}},
            {},
            "2 tensors at 'aggregation', 'teacher' 1 at",
        ),
        ({"t": {**VOLUME, "levels": [1, 2]}}, {}, "'levels' has 2 weights, the student gives 1 tensors"),
        (
            {"t": VOLUME},
            {"channels": 8},
            r"is \(2, 2, 8, 32, 48\).* \(2, 4, 8, 32, 48\); give the term an adapter",
        ),
        (
            {"t": {**VOLUME, "of": "features", "to_tap": "volume", "adapter": "conv1x1"}},
            {},
            "'features' is a batch of 4, that of 'teacher' of 2: one of them holds both views",
        ),
        ({"t": {**VOLUME, "adapter": "resize"}}, {"channels": 8}, "'resize' cannot turn 2 channels into 4"),
        ({"t": {**VOLUME, "loss": "pairwise"}}, {}, "'pairwise' wants 4 dimensions"),
        (
            {"t": {**VOLUME, "loss": "test_objective:LearntScale", "start": 1.0}},
            {"channels": 8},
            "failed: The size",
        ),
        (
            {"t": {**VOLUME, "loss": "kl", "of": "aggregation"}},
            {"scale": 0.5},
            "see the images at different scales",
        ),
    ],
)
def test_a_pair_that_cannot_match_is_refused_by_the_check(terms, teacher, message):
    with pytest.raises(dd.UserError, match=message):
        _objective(terms, teacher=TinyStereo(**teacher)).check()


def test_networks_whose_taps_are_compared_pad_alike():
    student, teacher = TinyStereo(), TinyStereo(pad="top-right", multiple=6)
    teacher.load_state_dict(student.state_dict())
    student.eval()
    batch = {key: value[..., :14, :30] for key, value in stereo_batch().items()}
    total, _ = _objective({"t": {**VOLUME, "loss": "mse"}}, student, teacher=teacher)(batch)
    assert total == 0
    # The output is the same image's whatever the padding: each pads as it declares.
    alone, _ = _objective({"t": {**TRUTH, "to": "teacher"}}, student, teacher=teacher)(batch)
    assert alone > 0


def test_taps_of_differently_padded_and_scaled_inputs_are_refused():
    objective = _objective({"t": VOLUME}, teacher=TinyStereo(pad="top-right", scale=0.5))
    batch = {key: value[..., :14, :30] for key, value in stereo_batch().items()}
    with pytest.raises(dd.UserError, match=r"objective.t: .* pad images of 30x14 px differently"):
        objective.check(batch)


@pytest.mark.parametrize(("own", "other"), [(16, 32), (32, 16)])
def test_volumes_of_another_range_are_compared_over_the_disparities_they_share(own, other):
    student, teacher = TinyStereo(max_disparity=own), TinyStereo(max_disparity=other)
    student.features.load_state_dict(teacher.features.state_dict())
    batch = stereo_batch()
    objective = _objective({"t": {**VOLUME, "loss": "mse"}}, student.eval(), teacher=teacher)
    assert objective(batch)[0] == 0


@pytest.mark.parametrize(("own", "other", "counted"), [(16, 12, 12), (16, 32, 16)])
def test_an_output_is_compared_where_both_can_say_it(own, other, counted):
    student, teacher = Replay([torch.zeros(1, 1, 1, 40)]), Replay([torch.arange(40.0).view(1, 1, 1, 40)])
    student.max_disparity, teacher.max_disparity = own, other
    batch = {key: torch.zeros(1, 3, 1, 40) for key in ("left", "right")}
    batch["disparity"] = torch.arange(40.0).view(1, 1, 1, 40)
    term = {"loss": "l1", "of": "disparity", "to": "teacher", "mask": "both"}
    total, _ = _objective({"t": term}, student, teacher=teacher)(batch)
    assert total == pytest.approx(sum(range(counted)) / (counted - 1))


def test_a_volume_that_another_step_divides_is_refused_before_training():
    teacher = TinyStereo(max_disparity=32)
    teacher.volume.levels = 10
    with pytest.raises(dd.UserError, match=r"objective.t: the volumes cannot be compared: a level is 2 px"):
        _objective({"t": VOLUME}, teacher=teacher).check()


def test_a_map_of_disparities_beside_a_volume_is_a_volume_of_one_channel():
    student, teacher = Replay([torch.ones(2, 1, 48, 64)]), Replay([torch.ones(2, 1, 48, 64)])
    student.features.tensors = [torch.rand(2, 6, 12, 16)]
    teacher.features.tensors = [torch.rand(2, 5, 6, 12, 16)]
    images = torch.zeros(2, 3, 48, 64)
    term = {
        **{"loss": "mse", "of": "features", "to": "teacher"},
        "adapter": {"kind": "mean", "on": "teacher"},
    }
    total, _ = _objective({"t": term}, student, teacher=teacher)({"left": images, "right": images})
    expected = nn.functional.mse_loss(student.features.tensors[0], teacher.features.tensors[0].mean(1))
    torch.testing.assert_close(total, expected)
    with pytest.raises(dd.UserError, match="'mean' gives one channel, the other side has 5"):
        _objective({"t": {**term, "adapter": "mean"}}, student, teacher=teacher)


def test_the_published_adapter_on_the_teacher_learns_with_the_student():
    student, teacher = TinyStereo(channels=2), TinyStereo(channels=6)
    nn.init.constant_(teacher.features[1].weight, 8.0)
    term = {
        "loss": "smooth_l1",
        "of": "features",
        "to": "teacher",
        "adapter": {"kind": "tsnnet", "on": "teacher"},
    }
    objective = _objective({"t": term}, student, teacher=teacher)
    batch = stereo_batch()
    total, _ = objective(batch)
    total.backward()
    features = student.features(torch.cat(_prepared(batch, student)))
    weight, bias = (p.detach().clone().requires_grad_() for p in objective.adapters.parameters())
    with torch.no_grad():
        taught = nn.functional.relu6(teacher.features(torch.cat(_prepared(batch, teacher))))
    assert taught.max() == 6
    expected = nn.functional.smooth_l1_loss(features, nn.functional.conv2d(taught, weight, bias))
    torch.testing.assert_close(total, expected)
    wanted = torch.autograd.grad(expected, [student.features[0].weight, weight, bias])
    got = [student.features[0].weight.grad, *(p.grad for p in objective.adapters.parameters())]
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_batch_without_an_image_is_refused():
    batch = stereo_batch()
    del batch["right"]
    with pytest.raises(dd.UserError, match="the batch has no 'right'"):
        _objective({"truth": TRUTH})(batch)


def test_a_network_that_gives_no_mapping_is_refused():
    class Bare(nn.Module):
        def forward(self, left, right):
            return left[:, :1]

    with pytest.raises(dd.UserError, match=r"'Bare' returns Tensor.*densedistill.wrap"):
        _objective({"truth": TRUTH}, Bare())(stereo_batch())


@pytest.mark.parametrize("with_batch", [False, True])
def test_the_check_leaves_student_and_random_numbers_as_they_were(with_batch):
    objective = _objective({"truth": TRUTH, "v": VOLUME})
    objective.student.features[1].eval()
    state = copy.deepcopy(objective.student.state_dict())
    modes = [module.training for module in objective.student.modules()]
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    objective.check(stereo_batch() if with_batch else None)
    assert torch.rand(1) == expected
    assert [module.training for module in objective.student.modules()] == modes
    for key, value in objective.student.state_dict().items():
        torch.testing.assert_close(value, state[key])
    assert all(parameter.grad is None for parameter in objective.student.parameters())


def test_a_check_goes_round_the_wrapper_of_data_parallel_training():
    wrapped, runs = nn.DataParallel(TinyStereo()), []
    wrapped.register_forward_pre_hook(lambda *_: runs.append(1))
    objective = _objective({"truth": TRUTH}, wrapped)
    objective.check()
    assert not runs  # it would wait for the other processes
    objective(stereo_batch())
    assert runs


@pytest.mark.parametrize("kind", ["conv1x1", "conv3x3", "conv_bn", "dsnet"])
def test_an_adapter_brings_the_student_to_the_teacher_and_is_trained(kind):
    term = {**VOLUME, "loss": "mse", "adapter": kind}
    objective = _objective({"t": term}, teacher=TinyStereo(channels=12))
    total, _ = objective(stereo_batch())
    total.backward()
    parameters = list(objective.parameters())
    assert parameters
    assert all(parameter.grad is not None for parameter in parameters)
    assert objective.adapters["t_0"].training
    assert {key.split(".")[0] for key in objective.state_dict()} == {"adapters"}


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_an_adapter_resizes_either_side_where_sizes_differ(side):
    term = {"loss": "mse", "of": "features", "to": "teacher", "adapter": {"kind": "resize", "on": side}}
    objective = _objective({"t": term}, teacher=TinyStereo(scale=0.5))
    seen = []
    objective._comparisons[0].loss = lambda student, teacher: (
        seen.append((student.shape, teacher.shape)) or student.sum()
    )
    objective(stereo_batch())
    height = 8 if side == "teacher" else 4
    assert seen == [((4, 4, height, 2 * height),) * 2]


def test_the_published_adapter_has_its_size():
    from densedistill.distillation.adapters import Adapter

    adapter = Adapter("dsnet", 16, 32, 3)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == 41_600


def test_a_term_without_weight_owns_no_adapter():
    term = {**VOLUME, "adapter": "conv1x1", "weight": 0}
    assert not list(_objective({"truth": TRUTH, "t": term}).parameters())


def test_state_and_parameters_are_those_of_the_terms_alone():
    objective = _objective(
        {"truth": TRUTH, "t": {**VOLUME, "loss": "test_objective:LearntScale", "start": 1.0}}
    )
    assert list(objective.state_dict()) == ["own_losses.t.scale"]
    assert [parameter.item() for parameter in objective.parameters()] == [1.0]
    objective(stereo_batch())[0].backward()
    assert objective.own_losses["t"].scale.grad != 0


def test_a_users_loss_needs_no_registration():
    batch = stereo_batch()
    own = {**TRUTH, "loss": "test_objective:scaled_l1", "factor": 3.0}
    plain = _objective({"t": {**TRUTH, "loss": "l1"}})(batch)[0]
    torch.testing.assert_close(_objective({"t": own})(batch)[0], 3 * plain)


def test_what_fails_after_the_first_comparison_is_a_fault_and_keeps_its_traceback():
    def broken(*_, **__):
        raise ValueError("broken")

    for times, error in ((0, dd.UserError), (1, ValueError)):
        objective = _objective({"truth": TRUTH})
        for _ in range(times):
            objective(stereo_batch())
        objective._comparisons[0].loss = broken
        with pytest.raises(error, match="broken"):
            objective(stereo_batch())


def test_train_leaves_the_teachers_in_evaluation_mode_and_to_moves_them():
    objective = _objective({"v": VOLUME})
    objective.train()
    assert not objective.teachers["teacher"].network.training
    objective.to(torch.float64)
    assert objective.teachers["teacher"].network.features[0].weight.dtype == torch.float64
    assert objective.student.features[0].weight.dtype == torch.float32


def test_taps_are_empty_after_a_step_and_silent_between_steps():
    objective = _objective({"v": VOLUME})
    objective(stereo_batch())
    objective.student(*_prepared(stereo_batch(), objective.student))
    assert not any(record.calls for record in objective._taps._records.values())


@pytest.mark.parametrize("of", ["features.1", {"path": "features.1"}])
def test_clone_lets_a_network_change_its_output_in_place(of):
    student = TinyStereo()
    student.features.append(nn.ReLU(inplace=True))
    term = {"loss": "cosine", "of": of, "to": "teacher"}
    with pytest.raises(dd.UserError, match=r"objective.t: .*features.1.*changed in place"):
        _objective({"t": term}, student).check()
    total, _ = _objective({"t": {**term, "clone": True}}, student)(stereo_batch())
    assert total.isfinite()


def test_parameters_that_no_term_reaches_are_named():
    objective = _objective({"truth": TRUTH})
    assert set(objective.unreachable_parameters()) == {"heads.0.weight", "heads.0.bias"}
    objective = _objective({"truth": {**TRUTH, "levels": [1, 1]}}, TinyStereo().eval())
    assert objective.unreachable_parameters() == []  # of the student as it is trained
    assert not objective.student.training
    features = {"loss": "cosine", "of": "features", "to": "teacher"}
    unreachable = _objective({"f": features}).unreachable_parameters(stereo_batch())
    assert {name.split(".")[0] for name in unreachable} == {"aggregation", "heads"}


def test_autocast_and_channels_last_give_the_same_total():
    terms = {
        "truth": {**TRUTH, "levels": [0.5, 1]},
        "v": VOLUME,
        "a": {**VOLUME, "loss": "kl", "of": "aggregation"},
    }
    batch = stereo_batch()
    plain = _objective(terms)
    expected, _ = plain(batch)
    student, teacher = copy.deepcopy(plain.student), copy.deepcopy(plain.teachers["teacher"].network)
    for network in (student, teacher):
        network.features.to(memory_format=torch.channels_last)
    last = _objective(terms, student, teacher=teacher)
    torch.testing.assert_close(last(batch)[0], expected)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = plain(batch)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, expected, rtol=0.05, atol=0)
    total.backward()


@pytest.mark.full
def test_a_student_compiled_after_the_objective_learns_the_same():
    terms = {"truth": {**TRUTH, "levels": [0.5, 1]}, "v": VOLUME}
    objective = _objective(terms)
    twin = copy.deepcopy(objective.student)
    for module in twin.modules():
        module._forward_hooks.clear()
    eager = dd.Objective(terms, twin, {"teacher": copy.deepcopy(objective.teachers["teacher"].network)})
    objective.student.compile(backend="aot_eager")
    batch = stereo_batch()
    for _ in range(2):
        totals = []
        for one in (objective, eager):
            one.student.zero_grad()
            total, _ = one(batch)
            total.backward()
            totals.append(total.detach())
        torch.testing.assert_close(*totals)
    for compiled, plain in zip(objective.student.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(compiled.grad, plain.grad)
    with pytest.raises(dd.UserError, match="compiled already"):
        dd.Objective(terms, objective.student, {"teacher": TinyStereo()})


def test_a_student_is_not_its_own_teacher():
    student = TinyStereo()
    with pytest.raises(dd.UserError, match="teacher 'teacher' is the student"):
        dd.Objective({"t": {**TRUTH, "to": "teacher"}}, student, {"teacher": student})
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_a_teacher_whose_taps_another_objective_took_is_refused():
    student, teacher = TinyStereo(), NetworkTeacher(TinyStereo())
    first = dd.Objective({"t": VOLUME}, student, {"teacher": teacher})
    dd.Objective({"t": {**VOLUME, "of": "features"}}, student, {"teacher": teacher})
    with pytest.raises(dd.UserError, match=r"objective.t: another objective reads 'teacher' by now"):
        first.check()


def test_a_network_that_halves_its_images_five_times_is_checked():
    class Deep(TinyStereo):
        def forward(self, left, right):
            assert not any(side % 32 for side in left.shape[-2:]), "sizes are multiples of 32"
            return super().forward(left, right)

    dd.Objective({"t": VOLUME}, Deep(), {"teacher": Deep()}).check()


def unreduced(student, teacher, mask=None):
    return (student - teacher).abs().mean((1, 2, 3))


def plain_number(student, teacher, mask=None):
    return (student - teacher).abs().mean().item()


@pytest.mark.parametrize(("loss", "gave"), [("unreduced", r"a tensor \(2,\)"), ("plain_number", "float")])
def test_a_loss_that_gives_no_scalar_tensor_is_named(loss, gave):
    objective = dd.Objective({"t": {**TRUTH, "loss": f"test_objective:{loss}"}}, TinyStereo())
    with pytest.raises(dd.UserError, match=rf"objective.t: loss .*:{loss}' returned {gave}, a scalar tensor"):
        objective(stereo_batch())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_see_images_in_the_dtype_of_their_weights(dtype):
    teacher = TinyStereo().to(dtype)
    objective = dd.Objective({"t": VOLUME}, TinyStereo(), {"teacher": teacher})
    total, _ = objective(stereo_batch())
    total.backward()
    assert 0 < total < 2
    double = stereo_batch()
    double |= {view: double[view].double() / 255 for view in ("left", "right")}
    torch.testing.assert_close(objective(double)[0], total, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([TRUTH], TinyStereo()), "takes its terms by name, in a mapping, got list"),
        (
            ({"t": VOLUME}, TinyStereo(), TinyStereo()),
            "takes its teachers by name, in a mapping, got TinyStereo",
        ),
        (({"t": TRUTH}, "dsnet_slim"), "the student is a network .*, got 'dsnet_slim'"),
        (
            ({"t": VOLUME}, TinyStereo(), {"teacher": "dsnet_slim"}),
            "a teacher is a network .*, got 'dsnet_slim'",
        ),
    ],
)
def test_arguments_of_the_wrong_kind_are_told(arguments, message):
    with pytest.raises(dd.UserError, match=message):
        dd.Objective(*arguments)
