"""Labelling: a teacher's answers for frames without ground truth, filtered, stored, resumable."""

from .engine import Labelling, Settings, label
from .filters import FILTERS, register_filter

__all__ = ["FILTERS", "Labelling", "Settings", "label", "register_filter"]
