"""Training: recipes in, runs out."""

from .callbacks import Interrupted
from .run import Run, open_run
from .train import make_objective, train

__all__ = ["Interrupted", "Run", "make_objective", "open_run", "train"]
