"""The protocols of the scene-flow benchmarks."""

from __future__ import annotations

import dataclasses

from .protocol import Protocol

_PROTOCOLS = (
    Protocol(
        "kitti2015_sceneflow",
        "KITTI 2015 scene flow: outliers beyond 3 px and 5 %",
        metrics=("sf", "d1", "d2", "fl"),
        masks=("all", "noc", "bg", "fg"),
    ),
    Protocol(
        "flyingthings3d",
        "FlyingThings3D as DWARF was measured: mean end-point errors of the images, no limit",
        metrics=("epe", "epe_next", "epe_flow"),
        masks=("all",),
        average="images",
    ),
    Protocol("sintel", "MPI-Sintel flow", metrics=("epe_flow",), masks=("all", "noc")),
)

PROTOCOLS = tuple(dataclasses.replace(protocol, task="sceneflow") for protocol in _PROTOCOLS)
