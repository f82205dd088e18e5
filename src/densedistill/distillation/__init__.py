"""Distillation: what of a student is compared with what of a teacher, and how."""

from . import losses
from .objective import Objective
from .taps import Taps
from .teachers import create_teacher

__all__ = ["Objective", "Taps", "create_teacher", "losses"]
