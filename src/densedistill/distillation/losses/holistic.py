"""Holistic distillation: a discriminator that the student's score maps must pass for the teacher's.

Structured Knowledge Distillation (https://arxiv.org/abs/1903.04197), section 3.3. The teacher is "real".
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UserError
from ...networks.discriminator import Discriminator
from ...networks.layers.image import at_least_float32
from ._shared import LOSSES

MOST_KEPT = 8  # score maps that wait for the adversary's step

Kind = Literal["hinge", "wgan-gp"]


def generator_loss(of_student: Tensor) -> Tensor:
    """Return `-mean D(student)`, what the student is trained by; any shape."""
    return -of_student.mean()


def discriminator_loss(of_student: Tensor, of_teacher: Tensor, kind: Kind = "hinge") -> Tensor:
    """Return what the discriminator is trained by, without the gradient penalty.

    Args:
        of_student, of_teacher: scores, any shape.
        kind: `hinge` or `wgan-gp`.
    """
    if kind == "hinge":
        return F.relu(1 - of_teacher).mean() + F.relu(1 + of_student).mean()
    return of_student.mean() - of_teacher.mean()


def gradient_penalty(
    discriminator: nn.Module,
    student: Tensor,
    teacher: Tensor,
    shares: Tensor | None = None,
    image: Tensor | None = None,
) -> Tensor:
    """Return `mean((|dD/dx| - 1)^2)` at points between teacher and student (WGAN-GP, NeurIPS 2017).

    Args:
        discriminator: that gives a `Judgement`.
        student, teacher: score maps (B, C, h, w).
        shares: the teacher's, (B, 1, 1, 1); by default drawn uniformly, one a sample.
        image: (B, 3, H, W) for a discriminator that is conditioned on it.
    """
    if shares is None:
        shares = torch.rand(len(student), 1, 1, 1, dtype=student.dtype, device=student.device)
    between = (shares * teacher + (1 - shares) * student).detach().requires_grad_(True)
    score = discriminator(between, image).score if image is not None else discriminator(between).score
    (gradient,) = torch.autograd.grad(score.sum(), between, create_graph=True)
    # The root has no gradient at 0; the least term keeps it finite and changes nothing in float32 elsewhere.
    norm = (gradient.flatten(1).square().sum(1) + 1e-24).sqrt()
    return (norm - 1).square().mean()


@LOSSES.register("holistic")
class Holistic(nn.Module):
    """The adversarial term: the student's part as a loss, the discriminator's by `adversary_loss`.

    A run with such a term is trained by two optimisers in turn. The discriminator works in float32 whatever
    autocast says, on scores whose size the hinge form bounds.

    Args:
        classes: channels of the score maps.
        kind: `hinge` (default, stable) or `wgan-gp` (as published, with the gradient penalty).
        prepare, width: of the `Discriminator`.
        image: condition it on the image, as the CVPR version does.
        penalty: weight of the gradient penalty in `wgan-gp`.
        lr: the discriminator's learning rate; it follows the student's schedule.
        momentum, weight_decay: of its SGD.
        clip: largest norm of its gradient.
    """

    same_shape = False

    def __init__(
        self,
        classes: int,
        kind: Kind = "hinge",
        prepare: Literal["norm", "tanh", "scale", "softmax"] = "norm",
        width: int = 64,
        image: bool = False,
        penalty: float = 10.0,
        lr: float = 4e-4,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        clip: float | None = None,
    ):
        super().__init__()
        if kind not in ("hinge", "wgan-gp"):
            raise UserError(f"kind is hinge or wgan-gp, got '{kind}'")
        self.kind, self.penalty, self.clip = kind, penalty, clip
        self.adversary = Discriminator(classes, prepare, image, width)
        self.adversary_options: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
        }
        self._seen: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def forward(self, student: Tensor, teacher: Tensor, *, image: Tensor | None = None) -> Tensor:
        """Return `-mean D(student)`, and keep both score maps for `adversary_loss`.

        Args:
            student, teacher: score maps (B, classes, h, w); a teacher of another resolution is resized.
            image: (B, 3, H, W), read where the discriminator is conditioned on it.
        """
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = at_least_float32(student), at_least_float32(teacher.detach())
            if teacher.shape[-2:] != student.shape[-2:]:
                teacher = F.interpolate(teacher, student.shape[-2:], mode="bilinear", align_corners=True)
            image = image.float() if self.adversary.image and image is not None else None
            if torch.is_grad_enabled() and self.training:
                # A loop that never trains the adversary must not fill the memory.
                self._seen = [*self._seen[-MOST_KEPT + 1 :], (student.detach(), teacher, image)]
            # Its gradients are not wanted in the student's step, which they would only slow down.
            trained = [p for p in self.adversary.parameters() if p.requires_grad]
            for parameter in trained:
                parameter.requires_grad_(False)
            try:
                return generator_loss(self.adversary(student, image).score)
            finally:
                for parameter in trained:
                    parameter.requires_grad_(True)

    def adversary_loss(self) -> Tensor:
        """Return the discriminator's loss on the score maps of the last forward pass, and forget them.

        The maps are those of before the student's step. Teacher and student pass one after the other, so that
        batch normalisation sees each alone.

        Raises:
            RuntimeError: there was no forward pass in training mode since the last call.
        """
        if not self._seen:
            raise RuntimeError("the holistic term has seen no scores since the discriminator's last step")
        seen, self._seen = self._seen, []
        total = None
        for student, teacher, image in seen:
            with torch.autocast(student.device.type, enabled=False):
                of_teacher = self.adversary(teacher, image).score
                of_student = self.adversary(student, image).score
                loss = discriminator_loss(of_student, of_teacher, self.kind)
                if self.kind == "wgan-gp" and self.penalty:
                    loss = loss + self.penalty * gradient_penalty(
                        self.adversary, student, teacher, image=image
                    )
            total = loss if total is None else total + loss
        assert total is not None
        return total / len(seen)

    def forget(self) -> None:
        """Drop the score maps that are kept."""
        self._seen = []
