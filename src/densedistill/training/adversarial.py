"""Training with an adversary: the student steps, then the discriminator, each by its own optimiser."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..distillation.exact import exact_gradients
from .module import TrainingModule
from .optimizer import continue_from


class AdversarialModule(TrainingModule):
    """Trains the student of an objective one of whose terms owns an adversary.

    In each step the student learns from the whole objective, in which the adversary only judges; then the
    adversary learns from the teacher's and the student's answers to the same batch, given before the
    student's step. Both learning rates follow the recipe's course. Parts of a step are accumulated for both.

    An adversary's gradients are averaged over processes here rather than by data-parallel training, which
    expects one backward pass a step. As published, its loss is multiplied by the term's weight, too, which
    decays for both alike.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.automatic_optimization = False
        prefix = "objective.own_losses"
        self._ddp_params_and_buffers_to_ignore = [
            f"{prefix}.{name}.adversary.{entry}"
            for name, term in self.objective.adversaries.items()
            for entry, _ in (*term.adversary.named_parameters(), *term.adversary.named_buffers())
        ]

    @property
    def rivals(self) -> list[Any]:
        """The terms that own an adversary."""
        return list(self.objective.adversaries.values())

    def configure_optimizers(self) -> Any:
        """Return the student's optimiser and one for each adversary, where they stood."""
        state, self.optimizer_state = self.optimizer_state, None
        optimizers = [super().configure_optimizers()]
        optimizers += [torch.optim.SGD(r.adversary.parameters(), **r.adversary_options) for r in self.rivals]
        if state is not None:
            for optimizer, its in zip(optimizers, state["all"], strict=True):
                continue_from(optimizer, its)
        return optimizers

    def optimizer_states(self) -> dict[str, Any]:
        return {"all": [optimizer.state_dict() for optimizer in self._optimizers()]}

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return list(self.optimizers(use_pl_optimizer=False))  # type: ignore[arg-type]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the step's learning rates and randomness, which depend on the seed and the step alone."""
        self.seed_part(batch_idx)
        share = self.course.factor(self.step, self.watch.seconds)
        rates = [self.recipe.optimizer.lr, *(r.adversary_options["lr"] for r in self.rivals)]
        for optimizer, rate in zip(self._optimizers(), rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * share

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Add the batch's gradients to both sides', and step both after the last part of a step."""
        parts = self.recipe.trainer.accumulate
        self.manual_backward(self.total(batch) / parts)
        weights = {term.name: term.weight_at(self.epoch) for term in self.objective.terms}
        for name, term in self.objective.adversaries.items():
            with exact_gradients():
                loss: Tensor = term.adversary_loss()
            (weights[name] * loss / parts).backward()
            self.parts[f"{name}_adversary"] = loss.detach()
        if (batch_idx + 1) % parts:
            return
        student, *adversaries = self._optimizers()
        self.norm = self.clip(student, self.recipe.trainer.clip)
        student.step()
        student.zero_grad()
        for optimizer, term in zip(adversaries, self.rivals, strict=True):
            _average_gradients(term.adversary)
            self.clip(optimizer, term.clip, "adversary's gradient")
            optimizer.step()
            optimizer.zero_grad()


def _average_gradients(adversary: nn.Module) -> None:
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    for parameter in adversary.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
