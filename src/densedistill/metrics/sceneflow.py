"""Scene flow as the KITTI 2015 development kit counts it: D1, D2, Fl and SF, over background, foreground
and all.

A pixel is an outlier in disparity when the error is above 3 px and above 5 % of the truth, in flow when the
end-point error is; in scene flow when it is one in any of the three. Counts are added up over images, never
averaged over them. What a prediction leaves unknown is filled in first, as the kit fills it (`fill_unknown`);
the "estimated" figures count known pixels alone, and `density` is their share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ..errors import UserError
from .disparity import D1, EPE, _Mean, _reduce, d1, epe
from .kitti import fill_unknown
from .registry import register_metric

PIXELS, SHARE = 3.0, 0.05
#: What is judged, and the maps that it needs.
PARTS: dict[str, tuple[str, ...]] = {"D1": ("disparity",), "D2": ("disparity_next",), "Fl": ("flow",)}
PARTS["SF"] = ("disparity", "disparity_next", "flow")


def outliers(prediction: Tensor, target: Tensor) -> Tensor:
    """Return where `prediction` (…, C, H, W) is an outlier: bool (…, H, W). One channel is disparity, two are
    flow, px.

    A prediction that is not finite is one. The share is taken in float64 for disparity and in float32 for
    flow, and compared in float64, as the published binary does.
    """
    error = torch.linalg.vector_norm(prediction - target, dim=-3)
    size = torch.linalg.vector_norm(target, dim=-3)
    if prediction.shape[-3] == 1:
        error, size = error.double(), size.double()
    share = error / size
    return ~((error <= PIXELS) | (share.double() <= SHARE))


def sceneflow_counts(
    prediction: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    objects: Tensor | None = None,
    valid: str = "valid",
    part: str = "SF",
) -> Tensor:
    """Return the pixel counts of one image for one of D1, D2, Fl, SF: float64 (2, 2, 2).

    The axes are background and foreground; all and estimated pixels; outliers and pixels.

    Args:
        prediction: `disparity`, `disparity_next` (1, H, W) and `flow` (2, H, W), px, with `KEY_valid` (1,
            H, W) where it does not know everything.
        target: the same of the ground truth, with `KEY_{valid}`.
        objects: int (H, W) or (1, H, W), 0 = background; None for all of it.
        valid: suffix of the truth's masks: `valid` (occ) or `nonoccluded` (noc).
        part: of `PARTS`.

    Raises:
        UserError: maps that are missing, differ in size or are those of several images.
    """
    off, measured, estimated = [], [], []
    for key in PARTS[part]:
        _check(prediction, target, key)
        if target[key].ndim != 3:
            raise UserError(f"'{key}' is wanted of one image, (C, H, W), got {tuple(target[key].shape)}")
        known = prediction.get(f"{key}_valid")
        known = torch.ones_like(target[key][0], dtype=torch.bool) if known is None else known[0].bool()
        here = prediction[key].to(target[key])
        here = fill_unknown(here, known, -1.0 if len(here) == 1 else 0.0)
        off.append(outliers(here, target[key]))
        mask = target.get(f"{key}_{valid}")
        measured.append(torch.ones_like(off[-1]) if mask is None else mask[0].bool())
        estimated.append(known)
    wrong, counted = torch.stack(off).any(0), torch.stack(measured).all(0)
    known = estimated[0]  # of scene flow, the kit asks disparity alone
    front = torch.zeros_like(wrong) if objects is None else objects.reshape(wrong.shape) > 0
    return torch.stack(
        [
            torch.stack([torch.stack([(wrong & at).sum(), at.sum()]) for at in (region, region & known)])
            for region in (counted & ~front, counted & front)
        ]
    ).double()


def sceneflow_figures(counts: Tensor) -> dict[str, Tensor]:
    """Return shares of outliers from counts (2, 2, 2): `bg`, `fg`, `all`, each also `_estimated`, and
    `density`.

    A region without pixels gives 0, as the kit prints it. Divided in float32, as the kit divides.
    """
    counts = counts.float()
    regions = {"bg": counts[0], "fg": counts[1], "all": counts.sum(0)}
    figures = {}
    for name, region in regions.items():
        figures[name] = region[0, 0] / region[0, 1].clamp(min=1)
        figures[f"{name}_estimated"] = region[1, 0] / region[1, 1].clamp(min=1)
    whole = regions["all"]
    figures["density"] = whole[1, 1] / whole[0, 1].clamp(min=1)
    return figures


class SceneFlowOutliers(Metric):
    """D1, D2, Fl and SF over images and processes; `compute()` gives `PART_REGION` to shares, `SF_all` first.

    Args:
        valid: suffix of the masks of the ground truth: `valid` (occ) or `nonoccluded` (noc).
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    counts: Tensor

    def __init__(self, valid: str = "valid", **kwargs: Any):
        super().__init__(**kwargs)
        self.valid = valid
        self.add_state("counts", torch.zeros(len(PARTS), 2, 2, 2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self, prediction: Mapping[str, Tensor], target: Mapping[str, Tensor], objects: Tensor | None = None
    ) -> None:
        """Count one image (see `sceneflow_counts`), or each of a batch, all of it (B, …); a part whose ground
        truth is not there is left out."""
        for index, (part, keys) in enumerate(PARTS.items()):
            if not all(key in target for key in keys):
                continue
            if target[keys[0]].ndim == 3:
                self.counts[index] += sceneflow_counts(prediction, target, objects, self.valid, part)
                continue
            for key in keys:
                _check(prediction, target, key)
            for i in range(len(target[keys[0]])):
                self.counts[index] += sceneflow_counts(
                    _image(prediction, i),
                    _image(target, i),
                    None if objects is None else objects[i],
                    self.valid,
                    part,
                )

    def compute(self) -> dict[str, Tensor]:
        """Return the shares, `SF_all`, `SF_bg`, … `D1_density`."""
        return {
            f"{part}_{name}": value
            for part in ("SF", "Fl", "D2", "D1")
            for name, value in sceneflow_figures(self.counts[list(PARTS).index(part)]).items()
        }


def flow_epe(
    prediction: Tensor, target: Tensor, valid: Tensor | None = None, *, per_image: bool = False
) -> Tensor:
    """Return the mean end-point error of flow (…, 2, H, W), px, over the pixels where `valid` (…, 1, H, W)
    holds.

    Pooled over images; with `per_image` the mean over images of their means. NaN when nothing is valid.

    >>> flow_epe(torch.tensor([3.0, 4.0]).view(2, 1, 1), torch.zeros(2, 1, 1))
    tensor(5.)
    """
    if prediction.shape != target.shape or target.ndim < 3 or target.shape[-3] != 2:
        raise UserError(
            f"flow has shape (…, 2, H, W), got {tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    error = torch.linalg.vector_norm(prediction.float() - target.float(), dim=-3, keepdim=True)
    return epe(error, torch.zeros_like(error), valid, per_image=per_image)


def _check(prediction: Mapping[str, Tensor], target: Mapping[str, Tensor], key: str) -> None:
    for side, maps in (("prediction", prediction), ("ground truth", target)):
        if key not in maps:
            raise UserError(f"the {side} has no '{key}'; there is {', '.join(maps) or 'nothing'}")
    if prediction[key].shape != target[key].shape:
        raise UserError(
            f"'{key}' of the prediction is {tuple(prediction[key].shape)}, the ground truth "
            f"{tuple(target[key].shape)}"
        )


def _image(maps: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    return {key: batch[index] for key, batch in maps.items() if isinstance(batch, Tensor)}


@register_metric("d2", of="disparity_next", unit="%", heading="D2", function=d1)
class D2(D1):
    """D1 of the disparity at t1, seen from t0."""


@register_metric("epe_next", of="disparity_next", unit="px", heading="EPE of disparity at t1", function=epe)
class EPENext(EPE):
    """End-point error of the disparity at t1, seen from t0."""


@register_metric("epe_flow", of="flow", unit="px", heading="EPE of flow", function=flow_epe)
class FlowEPE(_Mean):
    """`flow_epe` over batches and processes."""

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Add flow (B, 2, H, W) and where it is known, (B, 1, H, W)."""
        error = torch.linalg.vector_norm(prediction.double() - target.double(), dim=1, keepdim=True)
        known = torch.ones_like(error, dtype=torch.bool) if valid is None else valid
        self._add(*_reduce(error, known, self.per_image))


@register_metric("fl", of="flow", unit="%", heading="Fl")
class Fl(_Mean):
    """The share of pixels whose flow is off by more than 3 px and 5 % (KITTI 2015)."""

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Add flow (B, 2, H, W) and where it is known, (B, 1, H, W)."""
        wrong = outliers(prediction.to(target), target)
        known = torch.ones_like(wrong) if valid is None else valid[:, 0]
        self._add(*_reduce(wrong, known, self.per_image))


@register_metric("sf", of=PARTS["SF"], unit="%", heading="SF")
class SF(_Mean):
    """The share of pixels that are outliers in D1, D2 or Fl, where all three are known (KITTI 2015)."""

    def update(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> None:
        """Add outputs and ground truth of a batch; `KEY_valid` says where it is known."""
        wrong = torch.stack([outliers(outputs[key].to(batch[key]), batch[key]) for key in PARTS["SF"]]).any(0)
        valid = torch.stack([batch[f"{key}_valid"][:, 0].bool() for key in PARTS["SF"]]).all(0)
        self._add(*_reduce(wrong, valid, self.per_image))
