"""What is trained, and by which optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .. import recipes
from ..errors import UserError, nearest


def build_optimizer(config: recipes.Optimizer, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over `parameters`; weight decay spares biases and normalisation (1-D) in
    adamw.

    Adam and SGD decay everything, as the published recipes that use them do. On a CPU or with CUDA one pass
    over the weights does a step.
    """
    if not parameters:
        raise UserError("there is nothing to train: student.freeze freezes every parameter")
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    if config.name == "sgd":
        return torch.optim.SGD(
            parameters,
            config.lr,
            config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
            fused=fused,
        )
    betas = (config.betas[0], config.betas[1])
    if config.name == "adam":
        return torch.optim.Adam(parameters, config.lr, betas, config.eps, config.weight_decay, fused=fused)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], config.lr, betas, config.eps, fused=fused)


def continue_from(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Bring `optimizer` to where `state` was taken; weight decay, momentum and the like stay its own.

    Raises:
        UserError: the state is of another kind of optimiser, or of other parameters.
    """
    own = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    try:
        if ("betas" in own[0]) != ("betas" in state["param_groups"][0]):
            raise ValueError("it is of another optimizer")
        groups = [saved | mine for saved, mine in zip(state["param_groups"], own, strict=True)]
        # Before loading: where a step count lies depends on whether the optimiser is fused here.
        optimizer.load_state_dict({**state, "param_groups": groups})
    except ValueError as error:
        raise UserError(
            f"the checkpoint does not fit the recipe: {error}; a resumed run keeps its optimizer.name and "
            "student.freeze"
        ) from None


def freeze(network: nn.Module, paths: Sequence[str]) -> None:
    """Stop training the submodules or parameters of `network` at `paths`; UserError when one does not
    exist."""
    parameters = dict(network.named_parameters())
    for path in paths:
        chosen = [p for name, p in parameters.items() if name == path or name.startswith(path + ".")]
        if not chosen:
            modules = [name for name, _ in network.named_modules() if name]
            raise UserError(f"student.freeze: the network has no '{path}'{nearest(path, modules)}")
        for parameter in chosen:
            parameter.requires_grad_(False)
