"""The device that a user names, checked."""

from __future__ import annotations

import torch

from ..errors import UserError


def find_device(name: str | torch.device | None = None) -> torch.device:
    """Return the device called `name` ("cpu", "cuda", "cuda:1", …); UserError where torch has none here.

    Without a name it is the accelerator when there is one, else the CPU.
    """
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" holds no values
    except (RuntimeError, AssertionError, ImportError):  # the latter two of a torch that was built without it
        there = ["cpu", *([str(found)] if (found := torch.accelerator.current_accelerator(True)) else [])]
        raise UserError(f"torch has no device '{name}' here; there is {', '.join(there)}") from None
    return device
