"""What every registered loss must do, whatever it computes."""

import inspect

import pytest
import torch

import densedistill as dd
from densedistill.distillation.losses import LOSSES

# What is compared with the truth itself has its tests beside its own formula.
# So do modules, and losses that draw at random or weigh what is masked.
OWN_TESTS = {"depth_gradient", "pooled_l1", "virtual_normal"}
NAMES = [n for n in LOSSES if not (n in OWN_TESTS or inspect.isclass(LOSSES[n]) or LOSSES[n].takes_truth)]
SOFTENED = [name for name in NAMES if "temperature" in inspect.signature(LOSSES[name]).parameters]
MASKED = [name for name in NAMES if "mask" in inspect.signature(LOSSES[name]).parameters]
SAME_SHAPE = [name for name in NAMES if LOSSES[name].same_shape]
# Cross-entropies have the teacher's entropy as their floor, `log_l1_published` has ln 0.5.
FLOORED = {
    *("focal", "kld", "log_l1_published", "log_l1_v2", "pixel_wise_published"),
    *("soft_kl", "soft_kl4d", "soft_kl4d_v2"),
}
# The norm carries no gradient as published, so that it is not the derivative of the value.
DETACHED = {"mf_4d", "mf_main", "pairwise", "pairwise_4d"}
POOLED = {*DETACHED, "hcl", "pkt", "rkd", "scale_and_shift_invariant", "stereo_kld"}
POSITIONWISE = [name for name in MASKED if name not in POOLED]


def _tensors(name, dtype=torch.float32, seed=0):
    shape = (3, 4, 5, 10, 12) if LOSSES[name].dims == (5,) else (3, 4, 10, 12)
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 0.1 + 0.8 * torch.rand(2, *shape, generator=generator, dtype=torch.float64)
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


def _mask(student):
    mask = torch.ones(len(student), 1, *student.shape[-2:], dtype=torch.bool)
    mask[:, :, :4] = False
    mask[0, :, :, :3] = False
    return mask


@pytest.mark.parametrize("name", NAMES)
def test_a_finite_scalar_of_float32_with_a_gradient_for_the_student_alone(name):
    student, teacher = _tensors(name)
    teacher.requires_grad_()
    loss = LOSSES[name](student, teacher)
    loss.backward()
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("name", SAME_SHAPE)
def test_another_shape_is_refused_with_both_shapes_named(name):
    student, teacher = _tensors(name)
    with pytest.raises(dd.UserError, match="one shape") as error:
        LOSSES[name](student, teacher[:, :-1])
    message = str(error.value)
    assert name in message or LOSSES[name].__name__ in message
    assert str(tuple(student.shape)) in message
    assert str(tuple(teacher[:, :-1].shape)) in message


@pytest.mark.parametrize("name", [name for name in NAMES if LOSSES[name].dims])
def test_another_number_of_dimensions_is_refused(name):
    vector = torch.rand(6)
    with pytest.raises(dd.UserError, match=r"dimensions, the student has \(6,\)"):
        LOSSES[name](vector, vector)


@pytest.mark.parametrize("name", MASKED)
def test_what_is_masked_reaches_neither_value_nor_gradient(name):
    student, teacher = _tensors(name)
    mask = _mask(student)
    outside = ~(mask[:, :, None] if student.ndim == 5 else mask).expand_as(student)
    loss = LOSSES[name](student, teacher, mask=mask)
    loss.backward()
    assert student.grad[outside].abs().max() == 0
    assert student.grad.abs().sum() > 0

    # Ground truth may be anything where it was not measured; logits are always finite.
    rubbish = 7.0 if name in ("kl", "soft_kl") else torch.nan
    spoilt = [torch.where(outside, rubbish, x.detach()).requires_grad_() for x in (student, teacher)]
    of_spoilt = LOSSES[name](*spoilt, mask=mask)
    of_spoilt.backward()
    torch.testing.assert_close(of_spoilt, loss)
    torch.testing.assert_close(spoilt[0].grad, student.grad)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mf_old"])
def test_neither_the_order_of_samples_nor_how_they_lie_in_memory_matters(name):
    student, teacher = _tensors(name)
    loss = LOSSES[name](student, teacher)
    loss.backward()
    form = torch.channels_last_3d if student.ndim == 5 else torch.channels_last
    with_gaps = [torch.stack((x, x), -1)[..., 0].requires_grad_() for x in (student.detach(), teacher)]
    laid_out = [x.clone(memory_format=form).requires_grad_() for x in (student.detach(), teacher)]
    order = torch.tensor([2, 0, 1])
    turned = [x[order].requires_grad_() for x in (student.detach(), teacher)]
    for other, gradient in (
        (with_gaps, student.grad),
        (laid_out, student.grad),
        (turned, student.grad[order]),
    ):
        value = LOSSES[name](*other)
        value.backward()
        torch.testing.assert_close(value, loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other[0].grad, gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", MASKED)
def test_a_mask_that_is_all_true_changes_nothing(name):
    student, teacher = _tensors(name)
    everything = torch.ones_like(_mask(student))
    torch.testing.assert_close(
        LOSSES[name](student, teacher, mask=everything), LOSSES[name](student, teacher)
    )


@pytest.mark.parametrize("name", MASKED)
def test_nothing_valid_gives_zero_and_no_gradient(name):
    student, teacher = _tensors(name)
    loss = LOSSES[name](student, teacher, mask=torch.zeros_like(_mask(student)))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-7)
    assert student.grad.abs().max() == 0


@pytest.mark.parametrize("name", POSITIONWISE)
def test_a_masked_loss_is_that_of_the_valid_rows(name):
    student, teacher = _tensors(name)
    rows = torch.zeros_like(_mask(student))
    rows[..., 4:, :] = True
    torch.testing.assert_close(
        LOSSES[name](student, teacher, mask=rows),
        LOSSES[name](student[..., 4:, :], teacher[..., 4:, :]),
    )


@pytest.mark.parametrize("name", MASKED)
def test_a_mask_that_does_not_fit_is_refused(name):
    student, teacher = _tensors(name)
    mask = _mask(student)
    with pytest.raises(dd.UserError, match="mask"):
        LOSSES[name](student, teacher, mask=mask[..., :-1])
    with pytest.raises(dd.UserError, match="bool mask"):
        LOSSES[name](student, teacher, mask=mask.float())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DETACHED])
def test_the_gradient_is_the_derivative(name):
    student, teacher = _tensors(name, torch.float64)
    small = (slice(None), slice(0, 3), ..., slice(0, 5), slice(0, 4))
    student, teacher = student[small].detach().requires_grad_(), teacher[small]
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, teacher), (student,))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_and_autocast_compute_in_float32(name):
    student, teacher = _tensors(name, torch.bfloat16)
    expected = LOSSES[name](student.detach().float(), teacher.float())
    with torch.autocast("cpu", torch.bfloat16):
        loss = LOSSES[name](student, teacher)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert student.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("name", NAMES)
def test_float64_stays(name):
    student, teacher = _tensors(name, torch.float64)
    assert LOSSES[name](student, teacher).dtype == torch.float64


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FLOORED])
def test_equal_inputs_have_no_loss(name):
    student, _ = _tensors(name)
    assert LOSSES[name](student, student).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["soft_kl", "soft_kl4d", "soft_kl4d_v2"])
def test_a_cross_entropy_is_lowest_for_equal_inputs(name):
    student, teacher = _tensors(name, torch.float64)
    lowest = LOSSES[name](student, student)
    lowest.backward()
    assert student.grad.abs().max() < 1e-12
    assert lowest < LOSSES[name](teacher, student)


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_compiled_as_eager(name):
    student, teacher = _tensors(name)
    compiled = torch.compile(LOSSES[name], backend="aot_eager")
    torch.testing.assert_close(compiled(student, teacher), LOSSES[name](student, teacher))


def test_cosine_is_a_scalar_that_ignores_scale_and_is_one_for_zero_vectors():
    student, teacher = _tensors("cosine")
    loss = dd.losses.cosine(student, teacher)
    torch.testing.assert_close(dd.losses.cosine(3 * student, teacher), loss)
    zeros = torch.zeros(1, 4, 2, 2, requires_grad=True)
    floor = dd.losses.cosine(zeros, torch.zeros(1, 4, 2, 2))
    floor.backward()
    assert floor.item() == 1
    assert zeros.grad.abs().max() == 0


def test_cosine_of_an_attention_is_over_its_disparities():
    student, teacher = torch.rand(2, 2, 1, 6, 4, 5, generator=torch.Generator().manual_seed(0))
    over_channels = dd.losses.cosine(student[:, 0], teacher[:, 0])
    torch.testing.assert_close(dd.losses.cosine(student, teacher, dim=2), over_channels)
    assert dd.losses.cosine(student, teacher).item() == pytest.approx(0, abs=1e-6)


def test_kl_ignores_a_constant_and_scales_with_the_squared_temperature():
    student, teacher = _tensors("kl", torch.float64)
    shift = torch.rand(3, 1, 10, 12, dtype=torch.float64)
    loss = dd.losses.kl(student, teacher, temperature=2.0)
    torch.testing.assert_close(dd.losses.kl(student + shift, teacher, temperature=2.0), loss)
    torch.testing.assert_close(loss, 4 * dd.losses.kl(student / 2, teacher / 2))


def test_kl_is_the_textbook_divergence_of_the_upsampled_distributions():
    student, teacher = torch.randn(2, 2, 1, 4, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    full = [
        torch.nn.functional.interpolate(x, (16, 12, 20), mode="trilinear")[:, 0] for x in (student, teacher)
    ]
    of_student, of_teacher = (torch.distributions.Categorical(logits=x.movedim(1, -1)) for x in full)
    expected = torch.distributions.kl_divergence(of_teacher, of_student).mean()
    torch.testing.assert_close(dd.losses.kl(student, teacher, max_disparity=16, size=(12, 20)), expected)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("own", "others"), [(16, 24), (24, 16)])
def test_kl_between_different_ranges_compares_the_levels_both_have(own, others, align_corners):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(2, 1, own // 4, 3, 5, generator=generator).double()
    teacher = torch.randn(2, 1, others // 4, 3, 5, generator=generator).double()
    options = {"mode": "trilinear", "align_corners": align_corners}
    of_student = torch.nn.functional.interpolate(student, (own, 12, 20), **options)[:, 0, :16]
    of_teacher = torch.nn.functional.interpolate(teacher, (others, 12, 20), **options)[:, 0, :16]
    expected = torch.nn.functional.kl_div(
        of_student.log_softmax(1), of_teacher.log_softmax(1), log_target=True, reduction="none"
    )
    loss = dd.losses.kl(
        student,
        teacher,
        max_disparity=own,
        teacher_max_disparity=others,
        size=(12, 20),
        align_corners=align_corners,
    )
    torch.testing.assert_close(loss, expected.sum(1).mean())


def test_relations_of_samples_ignore_a_rotation_of_their_vectors():
    student, teacher = _tensors("rkd", torch.float64)
    student, teacher = student.flatten(1)[:, :6], teacher.flatten(1)[:, :6]
    rotation = torch.linalg.qr(torch.rand(6, 6, generator=torch.Generator().manual_seed(0)).double()).Q
    for loss in (dd.losses.rkd, dd.losses.pkt):
        torch.testing.assert_close(loss(student @ rotation, teacher), loss(student, teacher))


@pytest.mark.parametrize(("name", "samples"), [("rkd", 1), ("pkt", 1), ("mf_old", 1)])
def test_relations_want_more_than_one_sample(name, samples):
    student, teacher = _tensors(name)
    with pytest.raises(dd.UserError, match="at least 2, got 1"):
        LOSSES[name](student[:samples], teacher[:samples])


def test_a_window_of_the_pairwise_volume_loss_is_at_least_one_position():
    student, teacher = torch.rand(2, 2, 3, 4, 8, 8)
    torch.testing.assert_close(
        dd.losses.pairwise_4d(student, teacher, scale=0.1),
        dd.losses.pairwise_4d(student, teacher, scale=0.125),
    )
    with pytest.raises(dd.UserError, match=r"in \(0, 1\], got 2"):
        dd.losses.pairwise_4d(student, teacher, scale=2.0)


@pytest.mark.parametrize(
    "name", [n for n in NAMES if "temperature" in inspect.signature(LOSSES[n]).parameters]
)
def test_a_temperature_is_above_zero(name):
    with pytest.raises(dd.UserError, match="temperature must be above 0, got 0"):
        LOSSES[name](*_tensors(name), temperature=0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("log_l1", {"epsilon": 0}, "epsilon must be above 0, got 0"),
        ("laplacian_cross_entropy", {"scale": 0}, "scale must be above 0, got 0"),
        ("summed_l1", {"unit": 0}, "unit must be above 0, got 0"),
        ("pooled_l1", {"unit": -1}, "unit must be above 0, got -1"),
        ("virtual_normal", {"focal": 0}, "focal must be above 0, got 0"),
        ("pairwise", {"block": -3}, "block must be at least 1, got -3"),
        ("pairwise", {"connection_range": -1}, "connection_range must be at least 0, got -1"),
        ("cosine", {"dim": 7}, "dim is 1, the channels, or 2, .* got 7"),
    ],
)
def test_an_option_out_of_its_range_is_refused(name, options, message):
    with pytest.raises(dd.UserError, match=message):
        LOSSES[name](torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4), **options)


def test_an_unknown_loss_names_the_nearest():
    with pytest.raises(dd.UserError, match="did you mean 'cosine'"):
        LOSSES["cosin"]


def test_cosine_of_half_precision_is_that_of_the_same_numbers_in_float32():
    torch.manual_seed(0)
    student, teacher = (torch.randn(2, 8, 5, 4, 3).bfloat16() for _ in range(2))
    values, gradients = [], []
    for dtype in (torch.bfloat16, torch.float32):
        own = student.to(dtype).requires_grad_()
        values.append(LOSSES["cosine"](own, teacher.to(dtype)))
        (gradient,) = torch.autograd.grad(values[-1], own)
        gradients.append(gradient)
    assert values[0].dtype == torch.float32
    assert torch.equal(*values)
    assert torch.equal(gradients[0], gradients[1].bfloat16())
