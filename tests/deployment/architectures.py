"""One network of each architecture, small where a small one exists."""

from __future__ import annotations

from torch import nn

from densedistill.networks.dwarf import DWARF
from densedistill.networks.registry import MODELS, create_model, list_models, task_of

SMALL = ("slim", "naive", "mobilenetv2", "r18", "resnet18", "small")


def one_of_each_architecture() -> list[str]:
    """Return a network from each file in `networks`, one with a small size in its name first."""
    found: dict[str, str] = {}
    for name in sorted(list_models(), key=lambda name: not any(word in name for word in SMALL)):
        found.setdefault(MODELS[name].__module__, name)
    return sorted(found.values())


def small(name: str) -> nn.Module:
    """Return the network, or a smaller one of its class where tracing takes minutes."""
    if name == "dwarf_slim":
        network = DWARF((8, 16, 24), (16,), (8,), (8, 8), clean=True)
        network.task = "sceneflow"
        return network
    return create_model(name, **({"max_disparity": 64} if task_of(name) == "stereo" else {}))
