"""Losses of structured distillation and of what came after: golden values, and what each must be blind to."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

import densedistill as dd
import golden
from densedistill.data.sample import collate
from densedistill.distillation.losses import detection, holistic
from densedistill.networks.discriminator import Discriminator, Judgement
from densedistill.networks.layers.activated_norm import ActivatedNorm

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = json.loads((GOLDEN / "structured_kd_losses.json").read_text())["cases"]
ARRAYS = np.load(GOLDEN / "structured_kd_losses.npz")
STRIDES = (8, 16, 32, 64, 128)


def inputs(case):
    return {
        name: torch.from_numpy(golden.golden_input(name, what["shape"], what["kind"]))
        for name, what in CASES[case]["inputs"].items()
    }


def check(value, key, tolerance=1e-4):
    expected = ARRAYS[key]
    actual = torch.as_tensor(value).detach().double().numpy()
    assert np.linalg.norm(actual - expected) <= tolerance * max(np.linalg.norm(expected), 1e-30), key


def cases(prefix):
    return [name for name in CASES if name.startswith(prefix)]


def test_every_golden_case_that_is_not_of_depth_is_tested():
    tested = ("abn", "pixel_wise", "pair_wise", "seg_", "adversarial", "gradient_penalty", "cvpr19", "fcos")
    assert all(name.startswith((*tested, "weighted_ce", "virtual_normal")) for name in CASES)


@pytest.mark.parametrize("case", cases("abn"))
def test_activated_normalisation_is_that_of_weights_of_both_signs(case):
    given = inputs(case)
    norm = ActivatedNorm(6, 0.01 if "leaky" in case else None)
    norm.weight.data, norm.bias.data = given["abn_weight"], given["abn_bias"]
    x = given["abn_x"].requires_grad_()
    y = norm(x)
    (y * torch.cos(torch.arange(y.numel()).view_as(y).float())).sum().backward()
    found = {"train": y, "grad_x": x.grad, "grad_weight": norm.weight.grad, "grad_bias": norm.bias.grad}
    found |= {"running_mean": norm.running_mean, "running_var": norm.running_var, "eval": norm.eval()(x)}
    for name in CASES[case]["outputs"]:
        check(found[name], f"{case}/{name}")


def test_pixel_wise_as_coded():
    given = inputs("pixel_wise")
    student = given["student_logits"].requires_grad_()
    loss = dd.losses.pixel_wise_published(student, given["teacher_logits"])
    loss.backward()
    check(loss, "pixel_wise/loss")
    check(student.grad, "pixel_wise/grad_student")


@pytest.mark.parametrize("block", [None, 7])
@pytest.mark.parametrize("case", cases("pair_wise"))
def test_pair_wise_as_coded_in_memory_and_in_blocks(case, block):
    given = list(inputs(case).values())
    student = given[0].requires_grad_()
    scale = CASES[case]["parameters"]["pool_scale"]
    loss = dd.losses.pairwise(student, given[1], scale=scale, block=block)
    loss.backward()
    check(loss, f"{case}/loss")
    samples, channels = ARRAYS[f"{case}/grad_student"].shape[:2]
    check(student.grad[:samples, :channels], f"{case}/grad_student")


@pytest.mark.parametrize("case", cases("seg_"))
def test_task_loss_with_auxiliary_head_and_hard_pixels(case):
    given, parameters = inputs(case), CASES[case]["parameters"]
    labels = (given["seg_label_u"] * 20).floor().long()
    labels[labels == 19] = 255
    factor = 3 if "ohem" in case else 1
    main, auxiliary = factor * given["seg_logits"], factor * given["seg_logits_aux"]
    if "ohem" in case:
        loss = dd.losses.ohem_cross_entropy(
            main, labels, threshold=parameters["thresh"], min_kept=parameters["min_kept"]
        )
    else:
        loss = dd.losses.cross_entropy(main, labels)
    check(loss + 0.4 * dd.losses.cross_entropy(auxiliary, labels), f"{case}/loss")


@pytest.mark.parametrize("case", cases("adversarial"))
def test_adversarial_losses(case):
    given, kind = inputs(case), case.partition("_")[2]
    check(holistic.discriminator_loss(given["d_student"], given["d_teacher"], kind), f"{case}/d")
    check(holistic.generator_loss(given["d_student"]), f"{case}/g")


@pytest.mark.parametrize("case", cases("gradient_penalty"))
def test_gradient_penalty_and_its_second_order_gradients(case):
    given = inputs(case)
    judge = Discriminator(19)
    entries = golden.golden_state_dict(json.loads((GOLDEN / "discriminator.json").read_text())["entries"])
    judge.load_state_dict({key: torch.from_numpy(value) for key, value in entries.items()})
    judge.train("train" in case)
    loss = 10 * holistic.gradient_penalty(judge, given["gp_student"], given["gp_teacher"], given["gp_alpha"])
    loss.backward()
    check(loss, f"{case}/loss")
    for key in ARRAYS.files:
        if key.startswith(f"{case}/grad_"):
            gradient = judge.get_parameter(key.rpartition("grad_")[2]).grad
            check(gradient[: len(ARRAYS[key])], key)


@pytest.mark.parametrize("case", cases("cvpr19"))
def test_forms_of_the_cvpr_version(case):
    given = list(inputs(case).values())
    if "kd" in case:
        loss = dd.losses.pixel_wise_cvpr19(*given, temperature=CASES[case]["parameters"]["T"])
    else:
        loss = dd.losses.pairwise_cvpr19(*given, function=case.rpartition("_")[2])
    check(loss, f"{case}/loss")


@pytest.mark.parametrize("case", cases("fcos"))
def test_fcos_targets_and_losses(case):
    given, parameters = inputs(case), CASES[case]["parameters"]
    improved = parameters["norm_reg_targets"]
    levels = []
    for number, stride in zip(range(3, 8), STRIDES, strict=True):
        distances = 32 * F.softplus(given[f"fcos_box{number}"]) / (stride if improved else 1)
        levels.append(
            torch.cat((given[f"fcos_cls{number}"], distances, given[f"fcos_ctr{number}"]), 1).flatten(2)
        )
    predictions = torch.cat(levels, 2).transpose(1, 2)
    boxes, classes = torch.zeros(2, 3, 4), torch.full((2, 3), -1)
    for i, (some, labels) in enumerate(zip(parameters["boxes"], parameters["labels"], strict=True)):
        boxes[i, : len(some)], classes[i, : len(labels)] = torch.tensor(some), torch.tensor(labels) - 1
    parts = detection.fcos_parts(predictions, boxes, classes, (128, 160), improved)
    for name, part in zip(("loss_cls", "loss_reg", "loss_centerness"), parts, strict=True):
        check(part, f"{case}/{name}")
    whole = dd.losses.fcos(predictions, boxes, box_classes=classes, size=(128, 160), improved=improved)
    torch.testing.assert_close(whole, sum(parts))
    sizes = detection.level_sizes((128, 160))
    counts = [h * w for h, w in sizes]
    targets = [
        detection.fcos_targets(boxes[i][classes[i] >= 0], classes[i][classes[i] >= 0], sizes, improved)
        for i in (0, 1)
    ]
    for level in range(5):
        labels = torch.cat([target.classes.split(counts)[level] for target in targets]) + 1
        distances = torch.cat([target.distances.split(counts)[level] for target in targets])
        assert (labels.numpy() == ARRAYS[f"{case}/label{level + 3}"]).all()
        positive = labels > 0
        expected = ARRAYS[f"{case}/reg{level + 3}"][positive.numpy()]
        np.testing.assert_allclose(distances[positive].numpy(), expected, rtol=1e-5)


def maps(channels=5, size=(6, 8), batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, batch, channels, *size, generator=generator, dtype=torch.float64)


def test_pixel_wise_ignores_a_constant_and_standardised_a_factor_too():
    student, teacher = maps()
    shift, factor = torch.randn(3, 1, 6, 8).double(), torch.rand(3, 1, 6, 8).double() + 0.5
    loss = dd.losses.pixel_wise(student, teacher, temperature=2.0)
    torch.testing.assert_close(dd.losses.pixel_wise(student + shift, teacher, temperature=2.0), loss)
    standardised = dd.losses.standardised_kl(student, teacher)
    torch.testing.assert_close(dd.losses.standardised_kl(factor * student + shift, teacher), standardised)
    assert not torch.isclose(
        dd.losses.pixel_wise(factor * student, teacher), dd.losses.pixel_wise(student, teacher)
    )


def test_pixel_wise_as_coded_contains_the_entropy_of_the_teacher_and_the_batch():
    student, teacher = maps()
    entropy = -(teacher.softmax(1) * teacher.log_softmax(1)).sum(1).mean()
    batch = len(student)
    torch.testing.assert_close(
        dd.losses.pixel_wise_published(student, teacher),
        batch * (dd.losses.pixel_wise(student, teacher) + entropy),
    )


def test_pixel_wise_counts_what_is_not_void_and_takes_a_teacher_of_another_resolution():
    student, teacher = maps()
    mask = torch.zeros(3, 1, 6, 8, dtype=torch.bool)
    mask[..., :4] = True
    torch.testing.assert_close(
        dd.losses.pixel_wise(student, teacher, mask=mask),
        dd.losses.pixel_wise(student[..., :4], teacher[..., :4]),
    )
    larger = F.interpolate(teacher, (11, 15), mode="bilinear", align_corners=True)
    assert dd.losses.pixel_wise(teacher, larger) < 0.05 * dd.losses.pixel_wise(student, larger)


def test_teacher_and_student_of_other_classes_are_refused():
    student, teacher = maps()
    with pytest.raises(dd.UserError, match="student has 5, the teacher 4; train both on the same classes"):
        dd.losses.pixel_wise(student, teacher[:, :4])


def test_labels_beyond_the_classes_are_refused_and_void_is_not():
    logits, labels = torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    labels[0, 0] = 255
    assert dd.losses.cross_entropy(logits, labels).isfinite()
    labels[0, 1, 1] = 3
    with pytest.raises(dd.UserError, match="hold class 3, the network tells 3 apart"):
        dd.losses.cross_entropy(logits, labels)


def test_cross_entropy_of_nothing_but_void_is_zero():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    void = torch.full((1, 4, 4), 255)
    for loss in (dd.losses.cross_entropy, dd.losses.ohem_cross_entropy):
        value = loss(logits, void)
        value.backward()
        assert value == 0
        assert logits.grad.abs().max() == 0


def test_class_weights_weigh_the_mean():
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    expected = F.cross_entropy(logits, labels, torch.tensor([1.0, 2.0, 0.5]))
    torch.testing.assert_close(dd.losses.cross_entropy(logits, labels, class_weights=[1, 2, 0.5]), expected)
    with pytest.raises(dd.UserError, match="class_weights has 2 entries for 3 classes"):
        dd.losses.cross_entropy(logits, labels, class_weights=[1, 2])


def test_pair_wise_takes_other_channels_and_sizes_and_connects_the_near_alone():
    student, teacher = maps(6)[0], maps(9, (11, 15), seed=1)[1]
    assert dd.losses.pairwise(student, teacher, scale=0.2).isfinite()
    full = dd.losses.pairwise(student, maps(9)[1], scale=0.2)
    torch.testing.assert_close(dd.losses.pairwise(student, maps(9)[1], scale=0.2, connection_range=8), full)
    near = dd.losses.pairwise(student, maps(9)[1], scale=0.2, connection_range=1, block=5)
    torch.testing.assert_close(dd.losses.pairwise(student, maps(9)[1], scale=0.2, connection_range=1), near)
    assert not torch.isclose(near, full)
    torch.testing.assert_close(
        dd.losses.pairwise(3 * student, 0.1 * student, scale=0.2), torch.zeros((), dtype=torch.float64)
    )
    every = dd.losses.pairwise(student, maps(9)[1], scale=1e-3)  # a node a position, not none
    torch.testing.assert_close(every, dd.losses.pairwise(student, maps(9)[1], scale=1 / 9 + 1e-9))
    with pytest.raises(dd.UserError, match=r"in \(0, 1\], got 0"):
        dd.losses.pairwise(student, teacher, scale=0.0)


def test_the_blocked_pair_wise_form_keeps_no_matrix_of_all_pairs():
    student, teacher = torch.randn(2, 1, 4, 40, 40)
    kept = []
    student.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        dd.losses.pairwise(student, teacher, scale=0.03, block=100).backward()
    assert max(kept) < 1600 * 100
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        dd.losses.pairwise(student, teacher, scale=0.03).backward()
    assert max(kept) >= 1600 * 1600


def test_channel_wise_ignores_a_constant_of_a_channel():
    student, teacher = maps()
    loss = dd.losses.channel_wise(student, teacher)
    torch.testing.assert_close(
        dd.losses.channel_wise(student + torch.randn(3, 5, 1, 1).double(), teacher), loss
    )
    assert loss > 0


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ("pairwise_cvpr19", {"pool": 2}),
        ("pairwise_cvpr19", {"function": "softmax"}),
        ("pairwise_cvpr19", {"function": "sigmoid"}),
        ("channel_wise", {}),
    ],
)
def test_what_a_mask_leaves_out_is_as_if_it_were_not_there(loss, options):
    student, teacher = maps(size=(5, 7))
    mask = torch.zeros(3, 1, 5, 7, dtype=torch.bool)
    mask[:2, :, :4, :6] = True  # the last row, the last column, and a whole sample do not count
    compare = getattr(dd.losses, loss)
    inside = compare(student[:2, :, :4, :6], teacher[:2, :, :4, :6], **options)
    torch.testing.assert_close(compare(student, teacher, mask=mask, **options), inside)


def test_dist_of_a_class_that_is_nowhere_has_a_floor_without_gradient():
    logits = maps()[0]
    logits[:, 2] -= 40
    student = logits.clone().requires_grad_()
    loss = dd.losses.dist(student, logits)
    loss.backward()
    assert loss.item() == pytest.approx(1 / 5)
    assert student.grad.abs().max() < 1e-6


def test_dist_ignores_affine_maps_of_the_probabilities():
    student, teacher = maps(2)
    confident = student.softmax(1) * 0.5 + 0.25  # an affine map for two classes, again probabilities
    torch.testing.assert_close(dd.losses.dist(confident.log(), teacher), dd.losses.dist(student, teacher))


def test_cross_image_relations_ignore_a_rotation_of_the_feature_space():
    student, teacher = maps()
    rotation = torch.linalg.qr(torch.randn(5, 5).double()).Q
    turned = torch.einsum("ij,bjhw->bihw", rotation, student)
    torch.testing.assert_close(
        dd.losses.cross_image(turned, teacher), dd.losses.cross_image(student, teacher)
    )
    assert dd.losses.cross_image(student, torch.cat((teacher, teacher), 1)).isfinite()


def divergence(teacher, student):
    """The KL of two vectors of logits."""
    return sum(t.exp() * (t - s) for t, s in zip(teacher.log_softmax(0), student.log_softmax(0), strict=True))


def correlation(a, b):
    """Pearson's, of two vectors."""
    return torch.corrcoef(torch.stack((a, b)))[0, 1]


def mean(values):
    return torch.stack(list(values)).mean()


def test_later_losses_are_their_formulas_written_out():
    """There is no published vector of these."""
    student, teacher = maps(size=(3, 4))
    s, t = student.flatten(2), teacher.flatten(2)
    images, classes, pixels = range(3), range(5), range(12)
    channels = mean(divergence(t[b, c] / 4, s[b, c] / 4) for b in images for c in classes)
    torch.testing.assert_close(dd.losses.channel_wise(student, teacher), 16 * channels)

    p, q = (s / 2).softmax(1), (t / 2).softmax(1)
    inter = mean(1 - correlation(p[b, :, i], q[b, :, i]) for b in images for i in pixels)
    intra = mean(1 - correlation(p[b, c], q[b, c]) for b in images for c in classes)
    found = dd.losses.dist(student, teacher, temperature=2.0, inter=0.5, intra=3.0)
    torch.testing.assert_close(found, 4 * (0.5 * inter + 3 * intra))

    s, t = (x / x.norm(dim=1, keepdim=True) for x in (s, t))
    rows = (
        divergence(t[i, :, k] @ t[j] / 0.1, s[i, :, k] @ s[j] / 0.1)
        for i in images
        for j in images
        for k in pixels
    )
    torch.testing.assert_close(dd.losses.cross_image(student, teacher), mean(rows))


def test_class_kl_is_that_of_independent_classes():
    student, teacher = maps()
    s, t = student.sigmoid(), teacher.sigmoid()
    expected = t * (t / s).log() + (1 - t) * ((1 - t) / (1 - s)).log()
    torch.testing.assert_close(dd.losses.class_kl(student, teacher), expected.mean())


def test_masked_generation_learns_to_rebuild_the_teacher():
    torch.manual_seed(0)
    loss = dd.losses.MGD(channels=4, dropped=0.5)
    feature = torch.randn(2, 4, 8, 8)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-2)
    first = loss(feature, feature).item()
    for _ in range(40):
        optimizer.zero_grad()
        value = loss(feature, feature)
        value.backward()
        optimizer.step()
    assert value.item() < 0.9 * first
    with pytest.raises(dd.UserError, match="set channels to the teacher's"):
        loss(feature[:, :3], feature)


def test_masked_generation_drops_whole_positions():
    loss = dd.losses.MGD(channels=4, dropped=0.9)
    seen = []
    loss.generator.register_forward_hook(lambda m, i, o: seen.append(i[0]))
    loss(torch.ones(2, 4, 20, 20), torch.ones(2, 4, 20, 20))
    assert (seen[0].amax(1) == seen[0].amin(1)).all()
    assert 0.02 < seen[0].mean() < 0.25


def test_a_detectors_loss_refuses_classes_and_sizes_that_do_not_fit():
    predictions, boxes = torch.zeros(1, 2, 8), torch.tensor([[[0.0, 0, 8, 8]]])
    with pytest.raises(dd.UserError, match="2 positions are not those of an input of 64x64"):
        dd.losses.fcos(predictions, boxes, box_classes=torch.zeros(1, 1).long(), size=(64, 64))
    predictions = torch.zeros(1, 64 + 16 + 4 + 1 + 1, 8)
    with pytest.raises(dd.UserError, match="hold class 3, the network tells 3 apart"):
        dd.losses.fcos(predictions, boxes, box_classes=torch.tensor([[3]]), size=(64, 64))
    empty = dd.losses.fcos(predictions, boxes[:, :0], box_classes=torch.zeros(1, 0).long(), size=(64, 64))
    assert empty.isfinite()


def _two_images(positions=64 + 16 + 4 + 1 + 1):
    """Predictions for two images, the boxes of the first, and their classes."""
    generator = torch.Generator().manual_seed(0)
    predictions = torch.randn(2, positions, 8, generator=generator)
    predictions[..., 3:7].exp_()
    boxes = torch.tensor([[[4.0, 4, 40, 40], [0.0, 0, 64, 64]], [[0.0] * 4] * 2])
    return predictions, boxes, torch.tensor([[1, 0], [-1, -1]])


def test_an_image_whose_boxes_are_unknown_counts_for_nothing_and_one_without_boxes_does():
    predictions, boxes, classes = _two_images()
    of_first = dd.losses.fcos(predictions[:1], boxes[:1], box_classes=classes[:1], size=(64, 64))
    both = dd.losses.fcos(predictions, boxes, box_classes=classes, size=(64, 64))
    assert both > of_first
    for known, expected in (([True, False], of_first), ([True, True], both)):
        mask = torch.tensor(known)[:, None]
        loss = dd.losses.fcos(predictions, boxes, mask=mask, box_classes=classes, size=(64, 64))
        torch.testing.assert_close(loss, expected)


def test_unlabelled_images_do_not_teach_a_detector_that_they_are_empty():
    torch.manual_seed(0)
    student = dd.create_model("fcos_mnv2_c128", classes=3).train()
    terms = {"boxes": {"loss": "fcos", "of": "predictions", "to": "ground_truth"}}
    objective = dd.Objective(terms, student)
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    some = {"boxes": torch.tensor([[4.0, 4, 40, 40]]), "classes": torch.tensor([1])}
    none = {"boxes": torch.zeros(0, 4), "classes": torch.zeros(0).long()}
    labelled, unlabelled, empty = ({"image": image, **truth} for truth in (some, {}, none))
    # The images are the same, so that their statistics are, too.
    both, mixed, sparse = (
        objective(collate([labelled, other]))[0] for other in (labelled, unlabelled, empty)
    )
    torch.testing.assert_close(mixed, both)
    assert sparse > both
    total, _ = objective(collate([unlabelled, unlabelled]))
    total.backward()
    assert total == 0
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in student.parameters())


def test_processes_divide_by_the_positive_places_of_all(monkeypatch):
    """The mean over two processes, an image each, one without boxes, is the loss of both images."""
    predictions, boxes, classes = _two_images()
    counts = []
    monkeypatch.setattr(dist, "all_reduce", lambda own: counts.append(own.clone()))

    def part(i):
        one = slice(i, i + 1)
        options = {"box_classes": classes[one], "size": (64, 64), "processes": 2}
        return dd.losses.fcos(predictions[one], boxes[one], **options)

    for i in (0, 1):
        part(i)
    monkeypatch.setattr(dist, "all_reduce", lambda own: own.copy_(sum(counts[:2])))
    together = dd.losses.fcos(predictions, boxes, box_classes=classes, size=(64, 64))
    torch.testing.assert_close((part(0) + part(1)) / 2, together)


def test_the_holistic_term_learns_to_tell_and_leaves_the_adversary_alone_in_the_students_step():
    torch.manual_seed(0)
    term = dd.losses.Holistic(classes=3, width=8, lr=1e-3)
    student = torch.randn(2, 3, 16, 16, requires_grad=True)
    teacher = 3 + torch.randn(2, 3, 16, 16)
    term(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert all(p.grad is None for p in term.parameters())
    optimizer = torch.optim.Adam(term.adversary.parameters(), 1e-3)
    losses = []
    for _ in range(15):
        term(student.detach(), teacher)
        loss = term.adversary_loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2
    with pytest.raises(RuntimeError, match="has seen no scores"):
        term.adversary_loss()


def test_the_discriminator_sees_the_image_where_the_scores_see_it():
    """A student whose images are padded: the image beside its scores is padded alike."""
    student, teacher = (dd.create_model("espnet_c", classes=3) for _ in range(2))
    term = {"loss": "holistic", "of": "scores", "to": "teacher", "classes": 3, "width": 8}
    terms = {"holistic": {**term, "image": True, "prepare": "softmax"}}
    objective = dd.Objective(terms, student.train(), {"teacher": teacher})
    seen = []
    student.register_forward_pre_hook(lambda module, images: seen.append(images[0]))
    objective({"image": torch.randint(0, 255, (2, 3, 60, 90), dtype=torch.uint8)})
    ((_, _, image),) = objective.own_losses["holistic"]._seen
    assert image.shape == (2, 3, 64, 96)
    torch.testing.assert_close(image, seen[-1])


def test_the_gradient_penalty_is_part_of_the_published_form_alone():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 16, 16)
    for kind, plain in (("hinge", True), ("wgan-gp", False)):
        term = dd.losses.Holistic(classes=3, width=8, kind=kind)
        term(student, teacher)
        torch.manual_seed(1)
        loss = term.adversary_loss()
        assert loss.isfinite()
        term.eval()
        scores = [term.adversary(x).score for x in (student, teacher)]
        assert (abs(loss - holistic.discriminator_loss(*scores, kind)) < 0.5) == plain


class Flat(torch.nn.Module):
    """A judge that gives everything the same score."""

    def forward(self, x):
        return Judgement((x * 0).sum((1, 2, 3)), (x, x))


def test_a_penalty_where_the_gradient_vanishes_is_finite():
    student = torch.zeros(2, 3, 4, 4)
    assert holistic.gradient_penalty(Flat(), student, student).item() == pytest.approx(1)
