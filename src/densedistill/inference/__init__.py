"""Inference: predictions for images of any size, their evaluation, and files made of them."""

from .classical import SGBM
from .evaluate import Evaluation, evaluate
from .predictor import Predictor

__all__ = ["SGBM", "Evaluation", "Predictor", "evaluate"]
