import pytest

from densedistill.distillation.terms import parse_terms


@pytest.mark.parametrize(
    ("loss", "of", "to", "mask"),
    [
        ("l1", "disparity", "ground_truth", "ground_truth"),
        ("l1", "disparity", "teacher", "teacher"),
        ("mf_old", "disparity", "teacher", "none"),  # which takes no mask
        ("cosine", "volume", "teacher", "none"),
    ],
)
def test_what_counts_unless_the_term_says(loss, of, to, mask):
    (term,), _ = parse_terms({"t": {"loss": loss, "of": of, "to": to}}, ["disparity"], ["teacher"])
    assert term.mask == mask


@pytest.mark.parametrize(
    ("decay", "weights"),
    [
        (None, [8, 8, 8, 8]),
        ({"epochs": [1, 3], "factor": 0.5}, [8, 4, 4, 2]),
        ({"epochs": [1, 3]}, [8, 0.8, 0.8, 0.08]),
    ],
)
def test_a_weight_is_multiplied_from_each_of_its_epochs_on(decay, weights):
    given = {"loss": "l1", "of": "disparity", "to": "teacher", "weight": 8, "decay": decay}
    (term,), _ = parse_terms({"t": given}, ["disparity"], ["teacher"])
    assert [term.weight_at(epoch) for epoch in range(4)] == pytest.approx(weights)
