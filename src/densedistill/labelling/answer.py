"""One frame: ask the teacher, check what it says, filter it, and make arrays of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.sample import Sample
from ..distillation.stored import MIRRORED, TAP
from ..distillation.teachers import NetworkTeacher, Teacher, answer_validity
from ..errors import UserError
from ..tasks import Task
from .filters import FILTERS, Evidence

Arrays = dict[str, tuple[NDArray[Any], str]]


class Label(NamedTuple):
    """What is stored of one frame, pixels counted, and facts that hold for all frames."""

    arrays: Arrays
    counts: dict[str, Any]
    facts: dict[str, Any]


class Labeller:
    """From a frame to its label; see `Settings` for the arguments."""

    def __init__(
        self,
        teacher: Teacher,
        task: Task,
        filters: Sequence[tuple[str, Mapping[str, Any]]] = (),
        mirrored: bool = False,
        taps: Sequence[str] = (),
        images: bool = False,
    ):
        self.teacher, self.task, self.filters = teacher, task, list(filters)
        self.mirrored, self.taps, self.images = mirrored, list(taps), images
        for name, _ in self.filters:
            FILTERS[name]  # an unknown name fails before anything is asked
        if self.taps:
            if isinstance(teacher, NetworkTeacher) and teacher.input_spec is not None:
                # Padding before the image would shift a tap by a part of its stride.
                spec = dataclasses.replace(teacher.input_spec, pad="bottom-right")
                teacher.input_spec = spec
                setattr(teacher.network, "input_spec", spec)  # noqa: B010
            teacher.watch(self.taps)

    def __call__(self, sample: Sample, name: str) -> Label:
        """Return the label of a frame.

        Raises:
            UserError: an answer of another size or with values that are no numbers; a filter that cannot
                judge.
        """
        device = next((p.device for p in self.teacher.parameters()), torch.device("cpu"))
        batch: dict[str, Any] = {
            key: sample[key][None].to(device) for key in self.task.inputs if key in sample
        }
        batch["meta"] = [sample["meta"]]
        answer = self.teacher(batch)
        outputs = self._checked(answer, batch, name)
        with torch.no_grad():
            evidence = Evidence(batch, answer, self.teacher, self.task)
            arrays, counts = self._filtered(evidence, outputs)
            if self.mirrored:
                other = evidence.mirrored()
                self._checked(other, batch, name)
                for key in outputs:
                    valid = answer_validity(other, key)
                    arrays[MIRRORED + key] = self._array(other, key, valid)
                    arrays[f"{MIRRORED}{key}_valid"] = valid[0].cpu().numpy(), "mask"
        facts: dict[str, Any] = {"outputs": outputs, "channels": {k: answer[k].shape[1] for k in outputs}}
        if self.taps:
            arrays |= self._tapped(answer, batch, facts)
        if self.images:
            arrays |= {key: (sample[key].numpy(), "image") for key in self.task.inputs if key in sample}
        return Label(arrays, counts, facts)

    def _checked(self, answer: Mapping[str, Any], batch: Mapping[str, Any], name: str) -> list[str]:
        teacher = str(getattr(self.teacher, "name", type(self.teacher).__name__))
        outputs = [key for key in self.task.outputs if key in answer]
        if not outputs:
            given = ", ".join(key for key in answer if isinstance(answer[key], Tensor)) or "nothing"
            raise UserError(
                f"teacher '{teacher}' gives {given} of frame '{name}', task '{self.task.name}' wants "
                f"{', '.join(self.task.outputs)}"
            )
        height, width = next(batch[key] for key in self.task.inputs if key in batch).shape[-2:]
        for key in outputs:
            value = answer[key]
            if value.ndim != 4 or value.shape[-2:] != (height, width):
                size = "x".join(str(side) for side in (*value.shape[:-3:-1],))
                raise UserError(
                    f"teacher '{teacher}' gives '{key}' of {size} px for frame '{name}' of "
                    f"{width}x{height} px"
                )
            wrong = ~value.isfinite().all(1, True) & answer_validity(answer, key)
            if wrong.any():
                raise UserError(
                    f"teacher '{teacher}' gives no number at {int(wrong.sum())} of {wrong.numel()} pixels "
                    f"of '{key}' of frame '{name}', and says that they are valid"
                )
        return outputs

    def _filtered(self, evidence: Evidence, outputs: Sequence[str]) -> tuple[Arrays, dict[str, Any]]:
        answer = evidence.answer
        verdicts: dict[str, Any] = {}
        for name, options in self.filters:
            called = name if name not in verdicts else f"{name} {len(verdicts) + 1}"
            verdicts[called] = FILTERS[name](evidence, **options)
        arrays: Arrays = {}
        counts: dict[str, Any] = {"frames": 1, "outputs": {}}
        for key in outputs:
            vouched = answer_validity(answer, key)
            error = torch.zeros_like(vouched, dtype=torch.float32)
            kept = {}
            for name, verdict in verdicts.items():
                if key in verdict:
                    own = verdict[key].float().nan_to_num(nan=float("inf"), posinf=float("inf"))
                    kept[name] = int((vouched & (own <= 1)).sum())
                    error = torch.maximum(error, own)
            valid = vouched & (error <= 1)
            confidence = torch.exp2(-error)
            if f"{key}_confidence" in answer:
                confidence = confidence * answer[f"{key}_confidence"].float().clamp(0, 1)
            confidence = torch.where(valid, confidence, 0).nan_to_num()
            arrays[key] = self._array(answer, key, valid)
            arrays[f"{key}_valid"] = valid[0].cpu().numpy(), "mask"
            if verdicts or f"{key}_confidence" in answer:
                arrays[f"{key}_confidence"] = confidence[0].cpu().numpy(), "share"
            counts["outputs"][key] = {
                "pixels": valid.numel(),
                "vouched": int(vouched.sum()),
                "kept": int(valid.sum()),
                "filters": kept,
            }
        return arrays, counts

    def _array(self, answer: Mapping[str, Any], key: str, valid: Tensor) -> tuple[NDArray[Any], str]:
        value = answer[key].detach().float().nan_to_num(posinf=0.0, neginf=0.0)
        kept = value.abs().where(valid, 0).amax()
        if kept > 0:  # the step of what is kept is not to be that of a rejected value far beyond it
            value = value.clamp(-kept, kept)
        return value[0].cpu().numpy(), "half" if key == "logits" else "fixed"

    def _tapped(self, answer: Mapping[str, Any], batch: Mapping[str, Any], facts: dict[str, Any]) -> Arrays:
        height, width = next(batch[key] for key in self.task.inputs).shape[-2:]
        left, _, top, bottom = answer["placement"].padding
        arrays: Arrays = {}
        facts["taps"] = {}
        for key, tensors in answer["taps"].items():
            strides, shapes = [], []
            for index, tensor in enumerate(tensors):
                whole = height + top + bottom
                stride = whole // tensor.shape[-2]
                if stride * tensor.shape[-2] != whole or left or top:
                    raise UserError(
                        f"tap '{key}' has no whole stride (its maps are {tensor.shape[-2]} rows of {whole})"
                    )
                rows, columns = -(-height // stride), -(-width // stride)
                part = tensor[..., :rows, :columns].detach().float().cpu().numpy()
                arrays[f"{TAP}{key}/{index}"] = np.ascontiguousarray(part), "half"
                strides.append(stride)
                shapes.append(list(part.shape))
            facts["taps"][key] = {"strides": strides, "count": len(tensors), "shapes": shapes}
        return arrays
