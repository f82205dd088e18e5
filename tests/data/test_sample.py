import pytest
import torch

from densedistill import UserError
from densedistill.data import collate
from densedistill.data.sample import require_sample


def sample(name, size=(4, 6), **more):
    return {"left": torch.full((3, *size), 7, dtype=torch.uint8), "meta": {"name": name}, **more}


def truth(size=(4, 6)):
    return {"disparity": torch.ones(1, *size), "disparity_valid": torch.ones(1, *size, dtype=torch.bool)}


def test_tensors_are_stacked_and_meta_is_a_list():
    batch = collate([sample("a", **truth()), sample("b", **truth())])
    assert batch["left"].shape == (2, 3, 4, 6)
    assert batch["left"].dtype == torch.uint8
    assert batch["disparity"].shape == (2, 1, 4, 6)
    assert [meta["name"] for meta in batch["meta"]] == ["a", "b"]


@pytest.mark.parametrize("first", [True, False], ids=["missing last", "missing first"])
def test_ground_truth_that_a_sample_lacks_is_zero_and_not_valid(first):
    samples = [sample("a", **truth()), sample("b")]
    batch = collate(samples if first else samples[::-1])
    there, missing = (0, 1) if first else (1, 0)
    assert batch["disparity_valid"][there].all()
    assert not batch["disparity_valid"][missing].any()
    assert (batch["disparity"][missing] == 0).all()


@pytest.mark.parametrize(("key", "channels"), [("disparity", 1), ("depth", 1), ("flow", 2)])
@pytest.mark.parametrize("other", ["masked", "missing"])
def test_a_truth_without_holes_counts_beside_any_other_sample(key, channels, other):
    values = torch.ones(channels, 4, 6)
    holes = torch.zeros(1, 4, 6, dtype=torch.bool)
    more = {key: values, f"{key}_valid": holes} if other == "masked" else {}
    batch = collate([sample("a", **{key: values}), sample("b", **more)])
    assert batch[f"{key}_valid"].shape == (2, 1, 4, 6)
    assert batch[f"{key}_valid"][0].all()
    assert not batch[f"{key}_valid"][1].any()
    assert f"{key}_valid" not in collate([sample("a", **{key: values})] * 2)


def test_labels_that_a_sample_lacks_are_ignored_ones():
    batch = collate([sample("a", labels=torch.zeros(4, 6, dtype=torch.int64)), sample("b")])
    assert (batch["labels"][1] == 255).all()


def test_boxes_are_padded_to_the_largest_number():
    boxes = [torch.rand(n, 4) for n in (2, 0, 3)]
    classes = [torch.arange(len(b)) for b in boxes]
    samples = [
        sample(str(i), boxes=b, classes=c) for i, (b, c) in enumerate(zip(boxes, classes, strict=True))
    ]
    batch = collate([*samples, sample("none")])
    assert batch["boxes"].shape == (4, 3, 4)
    assert torch.equal(batch["boxes"][0, :2], boxes[0])
    assert batch["classes"].tolist() == [[0, 1, -1], [-1] * 3, [0, 1, 2], [-1] * 3]
    assert batch["boxes_valid"].tolist() == [[True], [True], [True], [False]]  # none is not unknown
    assert "boxes_valid" not in collate(samples)


def test_samples_of_different_size_are_named():
    with pytest.raises(UserError, match=r"6x4 px \(a\) and 5x4 px \(b\)") as caught:
        collate([sample("a"), sample("b", size=(4, 5))])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.zeros(3, 4, 6),) * 2, "mine: a sample is a mapping of tensors by name, got tuple"),
        (sample("a", index=7), "'index' is a tensor, got int; what is none stands in its 'meta'"),
        (
            sample("a", disparity_valid=torch.ones(1, 4, 6)),
            "'disparity_valid' is a bool tensor, got torch",
        ),
        (sample("a", disparity=torch.ones(4, 6)), r"'disparity' has the shape \(C, H, W\), got \(4, 6\)"),
    ],
)
def test_what_is_no_sample_is_said(given, message):
    require_sample(sample("a", **truth()), "mine")
    with pytest.raises(UserError, match=message):
        require_sample(given, "mine")


def test_the_batch_owns_its_meta():
    one = sample("a")
    collate([one])["meta"][0]["name"] = "changed"
    assert one["meta"]["name"] == "a"
