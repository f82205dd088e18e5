"""A picture of a prediction for the log: input, ground truth, prediction, error, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tasks import Task
from ..tasks.files import unbatch
from ..tasks.pictures import compare, parts


def picture(sample: Mapping[str, Any], prediction: Mapping[str, Tensor], task: Task) -> Tensor:
    """Return (3, H, 4W) uint8: the first input, ground truth, prediction and error of the task's main output,
    the last one only where the task has a picture for it.

    Ground truth and prediction share one range of colours.
    """
    image, truth, valid = parts(task, sample)
    panels = compare(task, image, truth, valid, unbatch(prediction))
    shown = [image, *(panel for panel in panels if panel is not None)]
    return torch.from_numpy(np.concatenate(shown, 1)).permute(2, 0, 1)
