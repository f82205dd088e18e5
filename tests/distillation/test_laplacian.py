import pytest
import torch

from densedistill.distillation.losses import laplacian_cross_entropy
from densedistill.distillation.objective import Objective
from densedistill.errors import UserError
from densedistill.networks.registry import create_model

LEVELS = 16


def test_the_value_is_that_of_the_formula_written_out():
    torch.manual_seed(0)
    logits = torch.randn(2, LEVELS, 4, 5)
    truth = torch.rand(2, 1, 4, 5) * LEVELS
    expected = 0.0
    for b in range(2):
        for y in range(4):
            for x in range(5):
                weights = [torch.exp(-(d - truth[b, 0, y, x]).abs() / 2) for d in range(LEVELS)]
                total = sum(weights) + 1e-8
                p = logits[b, :, y, x].softmax(0)
                expected -= sum(w / total * torch.log(p[d] + 1e-8) for d, w in enumerate(weights))
    assert laplacian_cross_entropy(logits, truth).item() == pytest.approx(expected.item() / 40, rel=1e-5)


def test_it_is_least_for_the_laplacian_itself():
    truth = torch.full((1, 1, 2, 2), 6.0)
    disparity = torch.arange(LEVELS).view(1, -1, 1, 1)
    fitting = (-(disparity - truth).abs() / 2).requires_grad_()
    value = laplacian_cross_entropy(fitting, truth)
    value.backward()
    assert fitting.grad.abs().max() < 1e-6
    assert value < laplacian_cross_entropy(fitting + torch.randn_like(fitting), truth)


def test_masked_pixels_do_not_count_whatever_their_truth():
    logits, truth = torch.randn(1, LEVELS, 2, 4).requires_grad_(), torch.full((1, 1, 2, 4), 3.0)
    mask = torch.tensor([True, True, False, False]).expand(1, 1, 2, 4)
    expected = laplacian_cross_entropy(logits[..., :2], truth[..., :2])
    truth = truth.masked_fill(~mask, float("nan"))
    value = laplacian_cross_entropy(logits, truth, mask=mask)
    torch.testing.assert_close(value, expected)
    gradients = [torch.autograd.grad(each, logits)[0] for each in (value, expected)]
    torch.testing.assert_close(*gradients)


def test_logits_at_a_quarter_are_upsampled_as_the_network_does():
    logits = torch.randn(1, 1, 4, 2, 3)
    truth = torch.rand(1, 1, 8, 12) * LEVELS
    full = torch.nn.functional.interpolate(logits, (LEVELS, 8, 12), mode="trilinear", align_corners=True)[
        :, 0
    ]
    expected = laplacian_cross_entropy(full, truth)
    got = laplacian_cross_entropy(logits, truth, max_disparity=LEVELS, align_corners=True)
    torch.testing.assert_close(got, expected)


def test_a_term_compares_heads_with_the_ground_truth():
    network = create_model("dsnet_slim", max_disparity=16).train()
    terms = {"heads": {"loss": "laplacian_cross_entropy", "of": "aggregation", "to": "ground_truth"}}
    batch = {
        "left": torch.randint(0, 256, (1, 3, 16, 32), dtype=torch.uint8),
        "right": torch.randint(0, 256, (1, 3, 16, 32), dtype=torch.uint8),
        "disparity": torch.full((1, 1, 16, 32), 4.0),
        "disparity_valid": torch.ones(1, 1, 16, 32, dtype=torch.bool),
    }
    total, parts = Objective(terms, network)(batch)
    total.backward()
    assert parts["heads"].item() == pytest.approx(total.item())
    assert network.features.stem[0][0].weight.grad.abs().sum() > 0
    batch["disparity_valid"][:] = False
    assert Objective(terms, network)(batch)[0].item() == 0
    padded = {key: value[..., :15, :] for key, value in batch.items()}
    with pytest.raises(UserError, match=r"objective\.heads: .* 32x15 px as 32x16; a crop in multiples of 16"):
        Objective(terms, network)(padded)
    with pytest.raises(UserError, match="the ground truth has no tap"):
        Objective({"heads": {**terms["heads"], "loss": "smooth_l1"}}, network)


def test_cosine_along_disparities_tells_attentions_of_one_channel_apart():
    from densedistill.distillation.losses import cosine

    student, teacher = torch.rand(1, 1, 8, 2, 3).softmax(2), torch.rand(1, 1, 8, 2, 3).mul(5).softmax(2)
    assert cosine(student, teacher).item() == pytest.approx(0, abs=1e-6)
    expected = 1 - torch.nn.functional.cosine_similarity(student, teacher, dim=2).mean()
    torch.testing.assert_close(cosine(student, teacher, dim=2), expected)
