"""An exported file as a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..networks.input_spec import InputSpec
from ..networks.restore import restore_output
from ..tasks import Task, get_task
from .teachers import TEACHERS, PredictorTeacher, Teacher


class ONNXPredictor:
    """An ONNX file run by onnxruntime, called like a `Predictor`.

    Args:
        path: of the file; its inputs are the task's images, prepared, in order, its outputs named as the
            task's.
        task: what it predicts.
        input_spec: how images are prepared; as a mapping, in a recipe.

    Raises:
        UserError: no such file, no onnxruntime, or inputs or outputs that are not the task's.
    """

    def __init__(
        self, path: str | Path, task: str = "stereo", input_spec: Any = None, max_disparity: int | None = None
    ):
        if not Path(path).is_file():
            raise UserError(f"there is no ONNX file {path}")
        try:
            import onnxruntime
        except ImportError:
            raise UserError("an ONNX file needs onnxruntime: pip install 'densedistill[export]'") from None
        self.task: Task = get_task(task)
        self.name, self.max_disparity = Path(path).name, max_disparity
        given = {key: tuple(v) if isinstance(v, list) else v for key, v in dict(input_spec or {}).items()}
        self.spec = input_spec if isinstance(input_spec, InputSpec) else InputSpec(**given)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=onnxruntime.get_available_providers()
            )
        except Exception as error:  # onnxruntime has a class for each kind of failure, without a common base
            raise UserError(f"onnxruntime cannot read {path}: {str(error).splitlines()[0][:200]}") from None
        self.inputs = [value.name for value in self.session.get_inputs()]
        if len(self.inputs) != len(self.task.inputs):
            raise UserError(
                f"{path} takes {len(self.inputs)} inputs, task '{task}' has {len(self.task.inputs)}"
            )
        self.outputs = [value.name for value in self.session.get_outputs()]
        if self.task.outputs[0] not in self.outputs:
            if len(self.outputs) != len(self.task.outputs):
                raise UserError(f"{path} gives {', '.join(self.outputs)}, not '{self.task.outputs[0]}'")
            self.outputs = list(self.task.outputs)  # an exporter's own names, in the order of the task

    def __call__(self, *images: Tensor) -> dict[str, Tensor]:
        """Return the task's outputs at the size of `images` (B, 3, H, W; uint8, or float in [0, 1])."""
        inputs, placement = self.spec.prepare(*(image.cpu() for image in images))
        feed = {name: value.numpy() for name, value in zip(self.inputs, inputs, strict=True)}
        found = dict(zip(self.outputs, self.session.run(None, feed), strict=True))
        return {
            key: restore_output(self.task, key, torch.from_numpy(found[key]), self.spec, placement)
            for key in self.task.outputs
            if key in found
        }


@TEACHERS.register("onnx")
def _onnx(
    path: str, task: str = "stereo", input_spec: Any = None, max_disparity: int | None = None
) -> Teacher:
    return PredictorTeacher(ONNXPredictor(path, task, input_spec, max_disparity))
