"""Stereo matching: the disparity of a rectified pair's left view."""

from .colours import colour_map, error_map
from .task import Task

TASK = Task(
    name="stereo",
    inputs=("left", "right"),
    outputs=("disparity",),
    targets={"disparity": "disparity"},
    pixels=frozenset({"disparity"}),
    restore={"disparity": "bilinear"},
    metrics=("epe", "d1", "bad1", "bad2", "bad3"),
    colours={"disparity": colour_map},
    error_colours={"disparity": error_map},
)
