"""Inference: predictions for images of any size, their evaluation, and files made of them."""

from .classical import SGBM
from .predictor import Predictor

__all__ = ["SGBM", "Predictor"]
