"""The procedural world: scenes by seed, ray-cast, with exact ground truth."""

from .bank import get_bank
from .compose import STYLES
from .render import WANTS, check_options, check_seed, render
from .scene import LABELS

__all__ = ["LABELS", "STYLES", "WANTS", "check_options", "check_seed", "get_bank", "render"]
