"""The one Lightning module: an objective, stepped automatically, that counts its own steps."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from ..distillation.objective import Objective
from ..distillation.recompute import recomputed_activations
from ..distillation.terms import GROUND_TRUTH
from ..errors import DataWarning, UserError
from ..networks.input_spec import search_range
from ..recipes import Recipe
from .checkpoint import Counters, save_batch
from .ema import WeightAverage
from .optimizer import build_optimizer, continue_from
from .run import Run
from .schedule import Course


class Stopwatch:
    """Seconds of training: validation, checkpoints and the time between two starts of a run do not count."""

    def __init__(self, seconds: float = 0.0):
        self._before = seconds
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._before + (time.perf_counter() - self._since if self._since is not None else 0.0)

    def start(self) -> None:
        """Go on."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Pause."""
        self._before, self._since = self.seconds, None


class TrainingModule(L.LightningModule):
    """Trains the student of an objective; callbacks read `step`, `watch`, `parts` and `norm`.

    Args:
        objective: whose total is minimised; its student and the parameters of its terms are trained.
        recipe: optimiser, schedule, seed, clipping, batch norm.
        course: length and learning rate.
        run: where a batch that gives no finite loss is saved.
        counters: where training stands.
        average: moving average to keep, or None.
    """

    def __init__(
        self,
        objective: Objective,
        recipe: Recipe,
        course: Course,
        run: Run,
        counters: Counters,
        average: WeightAverage | None,
    ):
        super().__init__()
        # The objective hides its student and teachers; the student is trained and belongs to this module.
        self.objective, self.student = objective, objective.student
        self.recipe, self.course, self.run = recipe, course, run
        self.counters, self.average = counters, average
        self.watch = Stopwatch(counters.seconds)
        self.parts: dict[str, Tensor] = {}
        self.norm = torch.zeros(())
        self.optimizer_state: dict[str, Any] | None = None
        self._batch: dict[str, Any] = {}

    @property
    def step(self) -> int:
        """Optimiser steps done since the run began; Lightning's `global_step` starts anew when a run is
        resumed."""
        return self.counters.step

    @property
    def epoch(self) -> int:
        """Passes over the data done since the run began, by which weights of terms decay."""
        return self.step // self.course.steps_per_epoch

    @property
    def rate(self) -> float:
        """The learning rate of the present step."""
        return self.recipe.optimizer.lr * self.course.factor(self.step, self.watch.seconds)

    def training_mode(self) -> None:
        """Put the student into training mode, with batch norm in evaluation mode where the recipe says so."""
        self.train()
        if self.recipe.student.frozen_bn:
            for module in self.student.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser, where it stood."""
        optimizer = build_optimizer(self.recipe.optimizer, trained_parameters(self))
        if self.optimizer_state is not None:
            continue_from(optimizer, self.optimizer_state)
            self.optimizer_state = None
        return optimizer

    def optimizer_states(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the optimiser."""
        return self.optimizers(use_pl_optimizer=False).state_dict()  # type: ignore[union-attr]

    def transfer_batch_to_device(
        self, batch: dict[str, Any], device: torch.device, dataloader_idx: int
    ) -> dict[str, Any]:
        """Move the batch's tensors, and leave `meta`, whose calibrations Lightning would take apart,
        alone."""
        return {
            key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for key, value in batch.items()
        }

    def on_train_start(self) -> None:
        """Begin, or go on, where the counters say."""
        self.training_mode()
        self.watch.start()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the step's learning rate and randomness, which depend on the seed and the step alone."""
        self.seed_part(batch_idx)
        for group in self.optimizers(use_pl_optimizer=False).param_groups:  # type: ignore[union-attr]
            group["lr"] = self.rate

    def seed_part(self, batch_idx: int) -> None:
        """Seed this process for the part of the step that `batch_idx` is."""
        part = batch_idx % self.recipe.trainer.accumulate
        entropy = [self.recipe.seed, self.step, part, self.global_rank]
        seed_all(int(np.random.SeedSequence(entropy).generate_state(1)[0]))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        """Return the objective's total for `batch`; UserError when it is not a number."""
        return self.total(batch)

    def total(self, batch: dict[str, Any]) -> Tensor:
        """Return the objective's total for `batch`; UserError when it is not a number."""
        if not self._batch:
            refuse_out_of_range(batch, search_range(self.student))
            if not self._learns_from(batch):
                warnings.warn(
                    "every term is to the ground truth, and the first batch has none; nothing is learned "
                    "from such batches, see densedistill data check",
                    DataWarning,
                    stacklevel=1,
                )
        self._batch = batch
        config = self.recipe.trainer
        # A compiler decides itself what is kept.
        with recomputed_activations(config.recompute and not config.compile):
            total, self.parts = self.objective(batch, self.epoch, config.accumulate)
        self.parts = {"total": total.detach(), **{k: v.detach() for k, v in self.parts.items()}}
        if not torch.isfinite(total):
            culprits = [k for k, v in self.parts.items() if k != "total" and not torch.isfinite(v)]
            self._fail(f"the loss is {total.item()} (term {', '.join(culprits) or 'total'})")
        return total

    def _learns_from(self, batch: Mapping[str, Any]) -> bool:
        targets = self.objective.task.targets.values()
        taught = any(term.to != GROUND_TRUTH for term in self.objective.terms)
        return taught or any(target in batch for target in targets)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient's norm; UserError before a gradient that is not a number reaches the weights."""
        self.norm = self.clip(optimizer, self.recipe.trainer.clip)

    def clip(self, optimizer: torch.optim.Optimizer, limit: float | None, whose: str = "gradient") -> Tensor:
        """Clip the gradient's norm to `limit` and return it; UserError when it is no number."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if limit is None:
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        else:
            norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        if not torch.isfinite(norm):
            self._fail(f"the {whose} is {norm.item()}")
        return norm

    def _fail(self, what: str) -> None:
        path = save_batch(self.run, self._batch, self.step, self.global_rank)
        raise UserError(
            f"step {self.step}: {what}; the batch is in {path}; "
            "a smaller optimizer.lr or trainer.clip often helps"
        )


def seed_all(seed: int) -> None:
    """Seed every global source of random numbers: somebody's own network or loss may draw from any."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


def refuse_out_of_range(batch: Mapping[str, Any], reach: int | None) -> None:
    """Raise UserError when `batch` has true disparities and all lie beyond the student's `reach`, px."""
    if reach is None or "disparity" not in batch:
        return
    valid = batch["disparity_valid"]
    if valid.any() and not (valid & (batch["disparity"] < reach)).any():
        least = batch["disparity"][valid].min().item()
        names = ", ".join(str(meta.get("name", "?")) for meta in batch.get("meta", []))
        raise UserError(
            f"every disparity of the first batch ({names}) is beyond the student's max_disparity of "
            f"{reach}, the least is {least:g} px: raise student.max_disparity or scale images down"
        )


def trained_parameters(module: TrainingModule) -> list[nn.Parameter]:
    """Return the parameters of the student and of the terms that training changes, in a fixed order; those of
    adversaries, which learn the opposite, have an optimiser of their own."""
    rivals = {p for term in module.objective.adversaries.values() for p in term.adversary.parameters()}
    parts = (module.student, module.objective)
    return [p for part in parts for p in part.parameters() if p.requires_grad and p not in rivals]
