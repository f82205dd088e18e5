"""Monocular depth: the distance along the optical axis of what each pixel of one image sees."""

from .colours import colour_map, error_map
from .task import Task

TASK = Task(
    name="depth",
    inputs=("image",),
    outputs=("depth",),
    targets={"depth": "depth"},
    restore={"depth": "bilinear"},
    metrics=("abs_rel", "rmse", "a1"),
    colours={"depth": colour_map},
    error_colours={"depth": error_map},
)
