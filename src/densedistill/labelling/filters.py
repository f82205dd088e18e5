"""Filters: where an answer is to be believed.

A filter says of each output how far a pixel is from being believable: an error, 0 for perfect, 1 at the
limit, more beyond. Filters compose by taking the largest: a pixel is kept where no filter says more than 1,
and its confidence is 2 to the power of minus the error.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..distillation.teachers import Teacher, answer_validity
from ..errors import UserError, nearest
from ..networks.input_spec import InputSpec
from ..networks.layers.warp import inside, warp
from ..networks.restore import restore_output
from ..registry import Registry
from ..tasks import Task

Errors = dict[str, Tensor]
Filter = Callable[..., Errors]

FILTERS = Registry("filter", ("densedistill.labelling.filters",))
_NEVER = float("inf")


def register_filter(function: Filter) -> Filter:
    """Decorate `f(evidence, **options)`, which returns output key to error (1, 1, H, W), to be a filter by
    its name."""
    return FILTERS.register()(function)


class Evidence:
    """What filters judge by: a frame, the teacher's answer, and its answers to the frame seen otherwise.

    Args:
        batch: one frame, with its images (1, 3, H, W).
        answer: to it.
        teacher: which is asked again where a filter wants another view.
        task: of the answer.
    """

    def __init__(self, batch: Mapping[str, Any], answer: Mapping[str, Any], teacher: Teacher, task: Task):
        self.batch, self.answer, self.teacher, self.task = batch, answer, teacher, task
        self.outputs = [key for key in task.outputs if key in answer]
        self._asked: dict[str, dict[str, Any]] = {}

    def image(self, key: str) -> Tensor:
        """Return image `key`, (1, 3, H, W) in [0, 1]; UserError when the frame has none."""
        if key not in self.batch:
            raise UserError(f"this filter needs '{key}', which the frames do not have")
        image = self.batch[key]
        return image.float() / 255 if image.dtype == torch.uint8 else image.float()

    @property
    def first(self) -> Tensor:
        """The image whose grid the answer has."""
        return self.image(self.task.inputs[0])

    def mirrored(self) -> dict[str, Any]:
        """Return the answer to the mirrored frame, on the mirrored grid; a pair changes places."""
        return self._ask("mirrored", {k: v.flip(-1) for k, v in _swapped(self.batch).items()})

    def upside_down(self) -> dict[str, Any]:
        """Return the answer to the frame turned upside down, turned back."""
        given = {k: v.flip(-2) for k, v in _images(self.batch).items()}
        return _turned_back(self._ask("upside_down", given), -2)

    def backward(self) -> dict[str, Any]:
        """Return the answer to the frame with now and next exchanged."""
        pairs = {"left": "left_next", "right": "right_next", "image": "image_next"}
        pairs |= {value: key for key, value in pairs.items()}
        given = {pairs[k]: v for k, v in _images(self.batch).items() if pairs.get(k) in self.batch}
        if not given:
            raise UserError("forward-backward consistency needs frames of two times")
        return self._ask("backward", given)

    def scaled(self, factor: float) -> dict[str, Any]:
        """Return the answer to the frame `factor` times as large, back at its size and in its pixels, NaN at
        and beside what is not vouched for."""
        height, width = self.first.shape[-2:]
        spec = InputSpec(multiple=1, scale=factor)
        placement = spec.place(height, width)
        given = {
            k: F.interpolate(self.image(k), placement.scaled_size, mode="bilinear", antialias=True)
            for k in _images(self.batch)
        }
        answer = self._ask(f"scaled {factor}", given)
        return {
            key: restore_output(self.task, key, _vouched(answer, key), spec, placement)
            for key in self.task.maps
            if key in answer
        }

    def _ask(self, variant: str, images: Mapping[str, Tensor]) -> dict[str, Any]:
        if variant not in self._asked:
            self._asked[variant] = self.teacher({k: v.contiguous() for k, v in images.items()})
        return self._asked[variant]


@register_filter
def left_right(evidence: Evidence, threshold: float = 1.0, share: float = 0.0) -> Errors:
    """Compare a disparity with the right view's at the match: they differ by at most `threshold` px, or by
    `share` of the disparity where that is more."""
    disparity = _output(evidence, "disparity", "left_right").float()
    other = evidence.mirrored()
    right, known = other["disparity"].flip(-1).float(), answer_validity(other, "disparity").flip(-1)
    found, known = _sampled(right, known, torch.cat((-disparity, torch.zeros_like(disparity)), 1))
    error = (found - disparity).abs() / (share * disparity).clamp(min=threshold)
    return {"disparity": error.where(known, _NEVER)}


@register_filter
def forward_backward(evidence: Evidence, alpha: float = 0.01, beta: float = 0.5) -> Errors:
    """Compare a flow with the one back at the match: |f + b|² stays below `alpha` (|f|² + |b|²) + `beta`
    (Sundaram et al., ECCV 2010). What is seen along the flow, disparity at t1, shares its verdict."""
    flow = _output(evidence, "flow", "forward_backward").float()
    other = evidence.backward()
    back, known = _sampled(other["flow"].float(), answer_validity(other, "flow"), flow)
    limit = alpha * (flow.square().sum(1, True) + back.square().sum(1, True)) + beta
    error = ((flow + back).square().sum(1, True) / limit).where(known, _NEVER)
    return {key: error for key in ("flow", "disparity_next") if key in evidence.outputs}


@register_filter
def agreement(
    evidence: Evidence,
    threshold: float = 1.0,
    share: float = 0.0,
    over: Sequence[str | float] = ("upside_down",),
) -> Errors:
    """Compare the answers of an ensemble's members, or of one teacher to the frame seen otherwise.

    Args:
        evidence: of the frame.
        threshold: largest difference, in the unit of the output; labels must be the same.
        share: of the value, where that allows more.
        over: `mirrored` (single images alone), `upside_down`, and scales such as 0.75; unread for an
            ensemble.
    """
    errors: Errors = {}
    answer, views = evidence.answer, [over] if isinstance(over, str | float) else over
    ensemble = any(f"{key}_spread" in answer for key in evidence.outputs)
    others = [] if ensemble else [_seen(evidence, view) for view in views]
    for key in evidence.outputs:
        value = answer[key].float()
        seen = [_vouched(other, key) for other in others if key in other]
        if key == "logits":
            labels = value.argmax(1, True)
            apart = [
                ((one.argmax(1, True) != labels) * 2.0).where(~one[:, :1].isnan(), torch.nan) for one in seen
            ]
        else:
            limit = (share * _length(value)).clamp(min=threshold)
            distances = (
                [answer[f"{key}_spread"]] if f"{key}_spread" in answer else [one - value for one in seen]
            )
            apart = [_length(distance) / limit for distance in distances]
        worst = torch.stack(apart).amax(0) if apart else torch.zeros_like(value[:, :1])
        errors[key] = worst.nan_to_num(nan=_NEVER, posinf=_NEVER)
    return errors


@register_filter
def photometric(evidence: Evidence, threshold: float = 0.15) -> Errors:
    """Compare the frame with what its match shows: 0.85 (1 - SSIM) / 2 + 0.15 |difference| (Godard et al.,
    CVPR 2017) stays below `threshold`."""
    first, answer, errors = evidence.first, evidence.answer, {}
    still = torch.zeros_like(first[:, :1])
    routes: dict[str, tuple[str, Tensor]] = {}
    if "disparity" in evidence.outputs:
        routes["disparity"] = "right", torch.cat((-answer["disparity"].float(), still), 1)
    if "flow" in evidence.outputs:
        routes["flow"] = "left_next", answer["flow"].float()
        if "disparity_next" in evidence.outputs:
            there = torch.cat((answer["disparity_next"].float(), still), 1)
            routes["disparity_next"] = "right_next", answer["flow"].float() - there
    if not routes:
        raise UserError(
            f"filter 'photometric' needs disparity or flow, the teacher gives {', '.join(evidence.outputs)}"
        )
    for key, (image, motion) in routes.items():
        shown = warp(evidence.image(image), motion)
        difference = 0.85 * _dissimilarity(first, shown) + 0.15 * (first - shown).abs().mean(1, True)
        errors[key] = (difference / threshold).where(inside(motion), _NEVER)
    return errors


@register_filter
def texture(evidence: Evidence, threshold: float = 2.0, window: int = 7) -> Errors:
    """Ask for something to hold on to: grey values in a `window`, an odd number of px, deviate by at least
    `threshold` levels of 255."""
    if window < 1 or window % 2 != 1:
        raise UserError(f"filter 'texture': window is an odd number of px, not {window:g}")
    window = int(window)  # of the command line it is a float
    grey = evidence.first.mean(1, True) * 255
    mean, square = _mean(grey, window), _mean(grey.square(), window)
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    error = threshold / deviation.clamp(min=1e-6)
    return dict.fromkeys(evidence.outputs, error)


@register_filter
def range(evidence: Evidence, low: float = 0.0, high: float = float("inf"), of: str | None = None) -> Errors:
    """Keep values above `low` and below `high`; of flow, its length.

    Args:
        evidence: of the frame.
        low, high: in the unit of the output.
        of: which output; None for the task's first.
    """
    key = of or evidence.outputs[0]
    value = _length(_output(evidence, key, "range"))
    return {key: ((value > low) & (value < high)).logical_not() * 2.0}


@register_filter
def confidence(evidence: Evidence, threshold: float = 0.5) -> Errors:
    """Keep what the teacher itself is sure of: the largest probability, or the confidence that it gives, is
    at least `threshold`."""
    errors: Errors = {}
    for key in evidence.outputs:
        if f"{key}_confidence" in evidence.answer:
            sure = evidence.answer[f"{key}_confidence"].float()
        elif key == "logits":
            sure = evidence.answer[key].float().softmax(1).amax(1, True)
        else:
            continue
        errors[key] = (1 - sure) / max(1 - threshold, 1e-6)
    if not errors:
        raise UserError("filter 'confidence' needs a teacher that gives logits or a confidence")
    return errors


def parse_filter(text: str) -> tuple[str, dict[str, Any]]:
    """Return name and options of `name` or `name:option=value,option=value`; a list is joined by +.

    Raises:
        UserError: no such filter or option.
    """
    name, _, rest = text.partition(":")
    defaults = {key: one.default for key, one in inspect.signature(FILTERS[name]).parameters.items()}
    accepted = [key for key in defaults if key != "evidence"]
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key not in accepted:
            raise UserError(f"filter '{name}' has no option '{key}'{nearest(key, accepted)}")
        values = [_number(one) for one in value.split("+")]
        if isinstance(defaults[key], int | float) and not isinstance(values[0], float):
            raise UserError(f"filter '{name}': {key} is a number, {key}=1 for example, not '{value}'")
        options[key] = values if key == "over" else values[0]
    return name, options


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _output(evidence: Evidence, key: str, name: str) -> Tensor:
    if key not in evidence.outputs:
        raise UserError(f"filter '{name}' needs '{key}', the teacher gives {', '.join(evidence.outputs)}")
    return evidence.answer[key]


def _seen(evidence: Evidence, view: str | float) -> dict[str, Any]:
    if view == "upside_down":
        return evidence.upside_down()
    if view == "mirrored" and "right" not in evidence.batch:
        return _turned_back(evidence.mirrored(), -1)
    if isinstance(view, float | int) and view > 0:
        return evidence.scaled(float(view))
    raise UserError(
        f"agreement over '{view}': there is upside_down, mirrored (of single images) and scales like 0.75"
    )


def _images(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    return {k: v for k, v in batch.items() if isinstance(v, Tensor) and v.ndim == 4 and v.shape[1] == 3}


def _swapped(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    images = _images(batch)
    if "right" not in images:
        return images
    names = {"left": "right", "right": "left", "left_next": "right_next", "right_next": "left_next"}
    return {names.get(k, k): v for k, v in images.items()}


def _vouched(answer: Mapping[str, Any], key: str) -> Tensor:
    """Return output `key` of `answer` with NaN where it is not vouched for."""
    return torch.where(answer_validity(answer, key), answer[key].float(), torch.nan)


def _turned_back(answer: Mapping[str, Any], axis: int) -> dict[str, Any]:
    """Return the `answer` to a frame that was mirrored along `axis` as that to the frame itself."""
    maps = {k: v for k, v in answer.items() if isinstance(v, Tensor) and v.ndim == 4}
    turned = {k: v.flip(axis) for k, v in maps.items()}
    if "flow" in turned:
        signs = [-1, 1] if axis == -1 else [1, -1]
        turned["flow"] = turned["flow"] * turned["flow"].new_tensor(signs).view(1, 2, 1, 1)
    return turned


def _sampled(values: Tensor, known: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Return `values` (B, C, H, W) where `motion` leads, interpolated between those that are `known`, and
    where most of the weight is theirs, (B, 1, H, W)."""
    weight = warp(known.float(), motion)
    found = warp(torch.where(known, values, 0), motion) / weight.clamp(min=0.5)
    return found, inside(motion) & (weight > 0.5)


def _length(vectors: Tensor) -> Tensor:
    """Return the lengths (B, 1, H, W) of vectors (B, C, H, W), of one channel its size."""
    return torch.linalg.vector_norm(vectors.float(), dim=1, keepdim=True)


def _mean(values: Tensor, window: int) -> Tensor:
    return F.avg_pool2d(F.pad(values, (window // 2,) * 4, mode="replicate"), window, 1)


def _dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    """Return (1 - SSIM) / 2 over windows of 3x3, the mean of the channels, (B, 1, H, W)."""
    mean_a, mean_b = _mean(a, 3), _mean(b, 3)
    var_a, var_b = _mean(a * a, 3) - mean_a**2, _mean(b * b, 3) - mean_b**2
    covariance = _mean(a * b, 3) - mean_a * mean_b
    ssim = (2 * mean_a * mean_b + 0.01**2) * (2 * covariance + 0.03**2)
    ssim = ssim / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2))
    return ((1 - ssim) / 2).clamp(0, 1).mean(1, True)
