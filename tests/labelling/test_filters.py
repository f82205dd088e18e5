"""What each filter believes."""

import inspect

import pytest
import torch

import densedistill as dd
from densedistill.distillation.teachers import Teacher, create_teacher
from densedistill.labelling.answer import Labeller
from densedistill.labelling.filters import FILTERS, Evidence, parse_filter
from densedistill.tasks import get_task

WIDTH = 24


class Truthful(Teacher):
    """Answers with given maps, from whichever side it is asked."""

    def __init__(self, **maps):
        super().__init__()
        self.maps, self.asked = maps, 0

    def forward(self, batch):
        self.asked += 1
        return {key: value() if callable(value) else value for key, value in self.maps.items()}


def evidence(task="stereo", images=("left", "right"), **maps):
    batch = {key: torch.randint(0, 255, (1, 3, 8, WIDTH), dtype=torch.uint8) for key in images}
    teacher = Truthful(**maps)
    return Evidence(batch, teacher(batch), teacher, get_task(task))


def shifted(disparity=3):
    """A pair whose match lies `disparity` px to the left everywhere."""
    texture = torch.randint(0, 255, (1, 3, 8, WIDTH + disparity), dtype=torch.uint8)
    return {"left": texture[..., :WIDTH], "right": texture[..., disparity:]}


def test_left_right_believes_what_both_views_say():
    flat = torch.full((1, 1, 8, WIDTH), 3.0)
    error = FILTERS["left_right"](evidence(disparity=flat))["disparity"]
    assert (error[..., 3:] == 0).all()
    assert (error[..., :3] > 1).all(), "the match lies outside of the right view"
    answers = iter([flat, flat + 2])
    other = FILTERS["left_right"](evidence(disparity=lambda: next(answers)), threshold=1.0)["disparity"]
    assert (other[..., 3:] == 2).all()
    answers = iter([flat, flat + 2])
    lenient = FILTERS["left_right"](evidence(disparity=lambda: next(answers)), share=4 / 3)["disparity"]
    assert (lenient[..., 3:] == 0.5).all(), "4 px of 3 are allowed"
    known = iter([torch.ones_like(flat).bool(), torch.zeros_like(flat).bool()])
    unknown = FILTERS["left_right"](evidence(disparity=flat, disparity_valid=lambda: next(known)))
    assert unknown["disparity"].isinf().all()


@pytest.mark.parametrize("rubbish", [0.0, 1e4, float("nan")])
@pytest.mark.parametrize("name", ["left_right", "forward_backward"])
def test_what_the_other_answer_does_not_vouch_for_does_not_reach_its_neighbours(name, rubbish):
    key, task, images = {
        "left_right": ("disparity", "stereo", ("left", "right")),
        "forward_backward": ("flow", "sceneflow", ("left", "right", "left_next", "right_next")),
    }[name]
    motion = torch.full((1, 1 if key == "disparity" else 2, 8, WIDTH), 2.25)
    if key == "flow":
        motion[:, 0], motion[:, 1] = -2.25, 0
    known = torch.ones(1, 1, 8, WIDTH, dtype=torch.bool)
    known[..., 3:5, 9:12] = False
    sign = 1 if key == "disparity" else -1
    turned = known.flip(-1) if key == "disparity" else known
    other = torch.where(turned, sign * motion, rubbish)
    answers, vouched = iter([motion, other]), iter([torch.ones_like(known), turned])
    given = {key: lambda: next(answers), f"{key}_valid": lambda: next(vouched)}
    error = FILTERS[name](evidence(task, images, **given))[key]
    # A quarter of a match comes from its left neighbour, three from its right one.
    expected = known[..., torch.arange(WIDTH).sub(2).clamp(min=0)]
    expected[..., :3] = False
    assert torch.equal(error <= 1, expected)
    assert (error[expected] < 1e-6).all()


def test_forward_backward_believes_a_flow_that_comes_back():
    flow = torch.zeros(1, 2, 8, WIDTH)
    flow[:, 0] = 2
    answers = iter([flow, -flow])
    images = ("left", "right", "left_next", "right_next")
    kept = FILTERS["forward_backward"](
        evidence("sceneflow", images, flow=lambda: next(answers), disparity_next=flow[:, :1])
    )
    assert kept.keys() == {"flow", "disparity_next"}
    assert (kept["flow"][..., :-2] < 1e-6).all()
    assert (kept["flow"][..., -2:] > 1).all()
    answers = iter([flow, flow])
    doubtful = FILTERS["forward_backward"](evidence("sceneflow", images, flow=lambda: next(answers)))
    assert (doubtful["flow"] > 1).all()
    answers = iter([5 * flow, -4.5 * flow])
    fast = FILTERS["forward_backward"](evidence("sceneflow", images, flow=lambda: next(answers)))["flow"]
    assert torch.allclose(fast[..., :-10], torch.tensor(1 / (0.01 * (10**2 + 9**2) + 0.5)))


def test_agreement_asks_again_upside_down_and_at_another_scale():
    flat = torch.full((1, 1, 8, WIDTH), 4.0)
    same = evidence(disparity=flat)
    assert (FILTERS["agreement"](same, over=["upside_down"])["disparity"] == 0).all()
    assert same.teacher.asked == 2
    answers = iter([flat, flat + 1.5])
    apart = FILTERS["agreement"](evidence(disparity=lambda: next(answers)), threshold=1.0)["disparity"]
    assert torch.allclose(apart, torch.tensor(1.5))
    # At half the size the same disparity is half as many px.
    answers = iter([flat, torch.full((1, 1, 4, WIDTH // 2), 2.0)])
    halved = FILTERS["agreement"](evidence(disparity=lambda: next(answers)), over=[0.5])["disparity"]
    assert (halved == 0).all()


def test_agreement_turns_what_it_sees_otherwise_back():
    flow = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 8, WIDTH)
    answers = iter([flow, flow * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)])
    images = ("left", "right", "left_next", "right_next")
    turned = FILTERS["agreement"](evidence("sceneflow", images, flow=lambda: next(answers)))
    assert (turned["flow"] == 0).all()
    ramp = torch.arange(float(WIDTH)).expand(1, 1, 8, WIDTH)
    answers = iter([ramp, ramp.flip(-1)])
    same = evidence("depth", ("image",), depth=lambda: next(answers))
    assert (FILTERS["agreement"](same, over="mirrored")["depth"] == 0).all()


class Ramp(Teacher):
    """Answers with what the red channel says: metres, or a share of the image's width in px."""

    def __init__(self, task):
        super().__init__()
        self.task = get_task(task)

    def forward(self, batch):
        red = batch[self.task.inputs[0]][:, :1]
        return {"depth": 20 * red} if self.task.name == "depth" else {"disparity": 0.2 * red.shape[-1] * red}


@pytest.mark.parametrize("size", [(16, 24), (17, 23), (33, 101)])
@pytest.mark.parametrize("factor", [0.5, 0.75, 1.25, 1.5, 2.0])
@pytest.mark.parametrize("task", ["stereo", "depth"])
def test_a_frame_seen_at_another_size_has_its_answers_in_place(task, factor, size):
    ramp = torch.linspace(0.1, 0.9, size[1]).expand(1, 3, *size)
    teacher, batch = Ramp(task), dict.fromkeys(get_task(task).inputs, ramp)
    answer = teacher(batch)
    ((output, seen),) = Evidence(batch, answer, teacher, teacher.task).scaled(factor).items()
    inside = (..., slice(2, -2))  # beyond the border nothing goes on
    step = answer[output].diff(dim=-1).max().item()
    torch.testing.assert_close(seen[inside], answer[output][inside], rtol=0, atol=0.5 * step)


@pytest.mark.parametrize("rubbish", [4.0, 0.0, float("nan")])
@pytest.mark.parametrize(("over", "reach"), [("upside_down", 0), (0.5, 3), (2.0, 1)])
def test_agreement_needs_another_answer_that_is_vouched_for(over, reach, rubbish):
    size = [8, WIDTH] if over == "upside_down" else [int(8 * over), int(WIDTH * over)]
    flat = torch.full((1, 1, 8, WIDTH), 4.0)
    known = torch.ones(1, 1, *size, dtype=torch.bool)
    known[..., size[1] // 2 :] = False
    other = torch.full((1, 1, *size), 4.0 if over == "upside_down" else 4.0 * over).where(known, rubbish)
    answers, vouched = iter([flat, other]), iter([torch.ones_like(flat).bool(), known])
    frame = evidence(disparity=lambda: next(answers), disparity_valid=lambda: next(vouched))
    error = FILTERS["agreement"](frame, over=over)["disparity"]
    assert error[..., WIDTH // 2 :].isinf().all()
    assert (error[..., : WIDTH // 2 - reach] == 0).all()


def test_the_flow_of_one_camera_is_turned_back_from_a_mirror():
    flow = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 8, WIDTH)
    answers = iter([flow, flow * torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)])
    same = evidence("sceneflow", ("left", "left_next"), flow=lambda: next(answers))
    assert (FILTERS["agreement"](same, over="mirrored")["flow"] == 0).all()
    dis = create_teacher("dis")
    batch = {key: torch.randint(0, 255, (1, 3, 40, 48), dtype=torch.uint8) for key in ("left", "left_next")}
    other = Evidence(batch, dis(batch), dis, get_task("sceneflow"))
    assert FILTERS["agreement"](other, over="mirrored")["flow"].shape == (1, 1, 40, 48)


@pytest.mark.parametrize("view", ["mirrored", "sideways", 0.0, -1.0])
def test_agreement_over_what_a_pair_has_not_is_refused(view):
    with pytest.raises(dd.UserError, match=f"agreement over '{view}': there is upside_down, mirrored"):
        FILTERS["agreement"](evidence(disparity=torch.ones(1, 1, 8, WIDTH)), over=view)


def test_agreement_over_labels_is_that_of_all_views():
    logits = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).repeat(1, 1, 8, WIDTH)
    other = logits.clone()
    other[..., :5] = logits[..., :5].flip(1)
    answers = iter([logits, 3 * logits, other])
    seen = evidence("segmentation", ("image",), logits=lambda: next(answers))
    error = FILTERS["agreement"](seen, over=["mirrored", "upside_down"])["logits"]
    assert (error <= 1)[0, 0, 0].tolist() == [x >= 5 for x in range(WIDTH)]


def test_agreement_of_an_ensemble_is_its_spread():
    near = evidence(disparity=torch.ones(1, 1, 8, WIDTH), disparity_spread=torch.full((1, 1, 8, WIDTH), 0.5))
    error = FILTERS["agreement"](near, threshold=1.0)["disparity"]
    assert (error == 0.5).all()
    assert near.teacher.asked == 1


def test_photometric_believes_what_looks_alike():
    pair, right_answer = shifted(), torch.full((1, 1, 8, WIDTH), 3.0)
    teacher = Truthful(disparity=right_answer)
    good = FILTERS["photometric"](Evidence(pair, teacher(pair), teacher, get_task("stereo")))["disparity"]
    moved = {"left": pair["right"], "right": pair["left"]}
    wrong = FILTERS["photometric"](Evidence(moved, teacher(moved), teacher, get_task("stereo")))["disparity"]
    inner = slice(5, WIDTH - 5)
    assert good[..., inner].mean() < 0.1
    assert wrong[..., inner].mean() > 1


def test_photometric_follows_the_motion_and_looks_right_from_there():
    texture = torch.randint(0, 255, (1, 3, 8, WIDTH + 3), dtype=torch.uint8)
    views = {"left": texture[..., 2:-1], "left_next": texture[..., :-3], "right_next": texture[..., 3:]}
    flow, next_disparity = torch.zeros(1, 2, 8, WIDTH), torch.full((1, 1, 8, WIDTH), 3.0)
    flow[:, 0] = 2
    teacher = Truthful(flow=flow, disparity_next=next_disparity)
    error = FILTERS["photometric"](Evidence(views, teacher(views), teacher, get_task("sceneflow")))
    assert error.keys() == {"flow", "disparity_next"}
    assert all(one[..., 5:-5].mean() < 0.1 for one in error.values())


def test_texture_doubts_a_blank_wall():
    blank = evidence(disparity=torch.ones(1, 1, 8, WIDTH))
    blank.batch["left"][:] = 100
    assert (FILTERS["texture"](blank)["disparity"] > 1).all()
    busy = evidence(disparity=torch.ones(1, 1, 8, WIDTH))
    assert (FILTERS["texture"](busy)["disparity"] < 1).all()
    blank.batch["left"][..., ::2] = 104  # of 7 columns 3 or 4: a deviation of 1.98 levels
    for threshold, believed in ((1.9, True), (2.1, False)):
        error = FILTERS["texture"](blank, threshold=threshold)["disparity"]
        assert ((error[..., 3:-3] <= 1) == believed).all()
    name, options = parse_filter("texture:window=5")
    assert (FILTERS[name](busy, **options)["disparity"] < 1).all()
    for window in (0, 4, 2.5):
        with pytest.raises(dd.UserError, match=f"window is an odd number of px, not {window}"):
            FILTERS["texture"](busy, window=window)


def test_range_keeps_what_lies_between():
    values = torch.arange(WIDTH).float().expand(1, 1, 8, WIDTH)
    error = FILTERS["range"](evidence(disparity=values), low=2, high=10)["disparity"]
    assert (error <= 1)[0, 0, 0].tolist() == [2 < x < 10 for x in range(WIDTH)]


def test_confidence_reads_the_teachers_own():
    logits = torch.zeros(1, 2, 8, WIDTH)
    logits[:, 0, :, :10] = 5
    error = FILTERS["confidence"](evidence("segmentation", ("image",), logits=logits), threshold=0.9)[
        "logits"
    ]
    assert (error <= 1)[0, 0, 0].tolist() == [x < 10 for x in range(WIDTH)]


def test_a_teachers_own_confidence_is_at_least_the_threshold():
    sure = torch.linspace(0, 1, WIDTH).expand(1, 1, 8, WIDTH)
    given = evidence(disparity=torch.ones(1, 1, 8, WIDTH), disparity_confidence=sure)
    error = FILTERS["confidence"](given, threshold=0.75)["disparity"]
    assert torch.equal(error <= 1, sure >= 0.75)


def doubt(evidence):
    """A filter of somebody else's: no number in the first column, the limit in the second, no doubt else."""
    error = torch.zeros(1, 1, 8, WIDTH)
    error[..., 0], error[..., 1] = torch.nan, 1.0
    return {"disparity": error}


def test_what_teacher_and_filters_say_is_kept_together():
    known, sure = torch.ones(1, 1, 8, WIDTH, dtype=torch.bool), torch.full((1, 1, 8, WIDTH), 0.5)
    known[..., 2], sure[..., 2], sure[..., 3] = False, torch.nan, 7.0
    teacher = Truthful(disparity=torch.ones(1, 1, 8, WIDTH), disparity_valid=known, disparity_confidence=sure)
    frame = {k: v[0] for k, v in shifted().items()} | {"meta": {"name": "x", "size": (8, WIDTH)}}
    label = Labeller(teacher, get_task("stereo"), [("test_filters:doubt", {})])(frame, "x")
    assert label.arrays["disparity_valid"][0][0, 0, :5].tolist() == [False, True, False, True, True]
    confidence = label.arrays["disparity_confidence"][0][0, 0, :5]
    assert confidence.tolist() == [0, 0.25, 0, 1, 0.5]
    kept = 8 * (WIDTH - 2)
    assert label.counts["outputs"]["disparity"] == {
        "pixels": 8 * WIDTH,
        "vouched": 8 * (WIDTH - 1),
        "kept": kept,
        "filters": {"test_filters:doubt": kept},
    }


def test_filters_compose_by_the_strictest_and_confidence_falls_with_the_error():
    values = torch.arange(WIDTH).float().expand(1, 1, 8, WIDTH).clone()
    teacher = Truthful(disparity=values)
    frame = {k: v[0] for k, v in shifted().items()} | {"meta": {"name": "x", "size": (8, WIDTH)}}
    filters = [("range", {"low": 2}), ("range", {"high": 10})]
    label = Labeller(teacher, get_task("stereo"), filters)(frame, "x")
    valid, kind = label.arrays["disparity_valid"]
    assert kind == "mask"
    assert valid[0, 0].tolist() == [2 < x < 10 for x in range(WIDTH)]
    confidence = label.arrays["disparity_confidence"][0]
    assert (confidence[0][valid[0]] == 1).all()
    assert (confidence[0][~valid[0]] == 0).all()


@pytest.mark.parametrize("name", list(FILTERS))
def test_every_filter_is_described_and_refuses_what_it_cannot_judge(name):
    assert inspect.getdoc(FILTERS[name])
    if name in ("left_right", "forward_backward", "photometric"):
        depth = evidence("depth", ("image",), depth=torch.ones(1, 1, 8, WIDTH))
        with pytest.raises(dd.UserError, match=rf"'{name}' needs"):
            FILTERS[name](depth)


def test_a_filter_is_written_in_one_word_and_a_misspelt_one_is_told():
    assert parse_filter("left_right") == ("left_right", {})
    assert parse_filter("agreement:over=upside_down+0.75,threshold=2") == (
        "agreement",
        {"over": ["upside_down", 0.75], "threshold": 2.0},
    )
    with pytest.raises(dd.UserError, match="did you mean 'texture'"):
        parse_filter("textur")
    with pytest.raises(dd.UserError, match="did you mean 'threshold'"):
        parse_filter("texture:treshold=1")
    for wrong in ("texture:threshold", "texture:threshold=much"):
        with pytest.raises(dd.UserError, match="filter 'texture': threshold is a number"):
            parse_filter(wrong)
    with pytest.raises(dd.UserError, match=r"needs 'right_next'|needs 'left_next'|frames of two times"):
        FILTERS["forward_backward"](
            evidence("sceneflow", ("left", "right"), flow=torch.zeros(1, 2, 8, WIDTH))
        )


def test_an_ensemble_gives_its_median_weighted_mean_and_spread():
    members = [{"name": f"test_filters:{name}"} for name in ("low", "middle", "high")]
    batch = {"left": torch.zeros(1, 3, 4, 4), "right": torch.zeros(1, 3, 4, 4)}
    median = create_teacher("ensemble", members=members, reduce="median")(batch)
    assert (median["disparity"] == 2).all()
    assert torch.allclose(median["disparity_spread"], torch.tensor((1 + 0 + 8) / 3))
    weighted = create_teacher("ensemble", members=members, reduce="confidence")(batch)
    expected = (1 * 0.5 + 2 * 1.0 + 10 * 0.1) / 1.6
    assert torch.allclose(weighted["disparity"], torch.tensor(expected))
    with pytest.raises(dd.UserError, match="reduce is"):
        create_teacher("ensemble", members=members, reduce="vote")


@pytest.mark.parametrize("reduce", ["mean", "median", "confidence"])
def test_an_ensemble_does_not_hide_what_is_no_number(reduce):
    members = [{"name": f"test_filters:{name}"} for name in ("low", "middle", "broken")]
    batch = {"left": torch.zeros(1, 3, 4, 4), "right": torch.zeros(1, 3, 4, 4)}
    answer = create_teacher("ensemble", members=members, reduce=reduce)(batch)
    assert answer["disparity"].isnan().all()


def _constant(value, sure):
    maps = {
        "disparity": torch.full((1, 1, 4, 4), value),
        "disparity_confidence": torch.full((1, 1, 4, 4), sure),
    }
    return lambda: Truthful(**maps)


broken = _constant(torch.nan, 1.0)
low, middle, high = _constant(1.0, 0.5), _constant(2.0, 1.0), _constant(10.0, 0.1)
