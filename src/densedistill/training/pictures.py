"""A picture of a prediction for the log: input, ground truth, prediction, error, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ..tasks import Task


def picture(sample: Mapping[str, Any], prediction: Mapping[str, Tensor], task: Task) -> Tensor:
    """Return (3, H, 4W) uint8: the first input, ground truth, prediction and absolute error of the task's
    main output.

    Ground truth and prediction share one scale, from 0 to the ground truth's largest value; the error's ends
    at a tenth of it.
    """
    output = task.outputs[0]
    key = task.targets[output]
    predicted = prediction[output][0].float().cpu()
    target, valid = sample[key], sample[f"{key}_valid"]
    top = float(target[valid].max()) if valid.any() else float(predicted.max())
    error = torch.where(valid, (predicted - target).abs(), 0.0)
    panels = [sample[task.inputs[0]], _colour(target, top), _colour(predicted, top), _colour(error, top / 10)]
    return torch.cat(panels, dim=-1)


def _colour(values: Tensor, top: float) -> Tensor:
    scaled = (values[0] / max(top, 1e-6)).clamp(0, 1).mul(255).byte().numpy()
    coloured = cv2.applyColorMap(scaled, cv2.COLORMAP_TURBO)[..., ::-1]
    return torch.from_numpy(np.ascontiguousarray(coloured)).permute(2, 0, 1)
