"""Teachers for the parts of scene flow, and scene flow put together from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.sample import as_bytes
from ..errors import UserError
from ..networks.layers.warp import inside, warp
from ..networks.published import load_weights
from ..tasks import get_task
from .teachers import TEACHERS, Teacher, answer_validity, create_teacher

RAFT_MULTIPLE, RAFT_LEAST = 8, 128


class FlowTeacher(Teacher):
    """Optical flow from `left` to `left_next` (or `image` to `image_next`), (B, 2, H, W) px: a part of
    scene flow."""

    def __init__(self) -> None:
        super().__init__()
        self.task = get_task("sceneflow")

    def flow(self, image: Tensor, following: Tensor) -> Tensor:
        """Return the flow from `image` to `following`, both (B, 3, H, W; uint8, or float in [0, 1])."""
        raise TypeError(f"{type(self).__name__} does not say how it finds flow")

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return `flow` for the batch's two frames of one camera."""
        for first, second in (("left", "left_next"), ("image", "image_next")):
            if first in batch and second in batch:
                return {"flow": self.flow(batch[first], batch[second])}
        raise UserError("flow needs two frames of one camera: left and left_next")


class DIS(FlowTeacher):
    """OpenCV's dense inverse search (Kroeger et al., ECCV 2016): flow without any weights."""

    def __init__(self, preset: str = "medium"):
        super().__init__()
        presets = {
            "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
            "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
            "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
        }
        if preset not in presets:
            raise UserError(f"preset of dis is {', '.join(presets)}, got '{preset}'")
        self.name, self._preset = "dis", presets[preset]

    def flow(self, image: Tensor, following: Tensor) -> Tensor:
        # One a call: OpenCV's keeps buffers.
        found = [
            cv2.DISOpticalFlow.create(self._preset).calc(one, other, None)  # type: ignore[call-overload]
            for one, other in zip(_grey(image), _grey(following), strict=True)
        ]
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous().to(image.device)


class RAFT(FlowTeacher):
    """torchvision's RAFT (Teed and Deng, ECCV 2020), with weights from a file.

    Args:
        weights: a torch file of its entries, as torchvision publishes it.
        size: `large` or `small`.
        iterations: updates of the flow.
    """

    def __init__(self, weights: str | Path, size: str = "large", iterations: int = 12):
        super().__init__()
        from torchvision.models import optical_flow

        if size not in ("large", "small"):
            raise UserError(f"size of raft is large or small, got '{size}'")
        make = optical_flow.raft_large if size == "large" else optical_flow.raft_small
        self.network: nn.Module = make(weights=None, progress=False)
        self.network.name = f"raft_{size}"  # type: ignore[assignment]
        load_weights(self.network, weights)
        self.network.eval().requires_grad_(False)
        self.name, self.iterations = f"raft_{size}", iterations

    def flow(self, image: Tensor, following: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        padded = [
            _pad(value.float() / 255 if value.dtype == torch.uint8 else value) * 2 - 1
            for value in (image, following)
        ]
        return self.network(*padded, num_flow_updates=self.iterations)[-1][..., :height, :width]


class Parts(Teacher):
    """Scene flow from a stereo teacher and a flow teacher, in the way DWARF's labels were made.

    Disparity at t1 is found on the pair at t1 and sampled where the flow leads; where the flow leads out of
    the image, or to where the stereo teacher does not vouch, nobody vouches for it.

    Args:
        stereo, flow: teachers.
    """

    def __init__(self, stereo: Teacher, flow: Teacher):
        super().__init__()
        self.stereo, self.flow, self.task = stereo, flow, get_task("sceneflow")
        self.name = f"{_name(stereo)} + {_name(flow)}"
        self.max_disparity = stereo.max_disparity

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return `disparity`, `disparity_next` and `flow`, each with `KEY_valid`."""
        for key in ("left", "right", "left_next", "right_next"):
            if key not in batch:
                raise UserError(f"scene flow needs '{key}', which the frames do not have")
        now = self.stereo({"left": batch["left"], "right": batch["right"]})
        after = self.stereo({"left": batch["left_next"], "right": batch["right_next"]})
        motion = self.flow(batch)
        flow = motion["flow"].float()
        seen = inside(flow)
        vouched = answer_validity(after, "disparity")
        # All four neighbours must be vouched for, so that no hole is mixed in.
        certain = warp(vouched.float(), flow) > 0.999
        return {
            "disparity": now["disparity"].float(),
            "disparity_valid": answer_validity(now, "disparity"),
            "disparity_next": warp(after["disparity"].float(), flow),
            "disparity_next_valid": seen & certain & answer_validity(motion, "flow"),
            "flow": flow,
            "flow_valid": answer_validity(motion, "flow"),
        }


@TEACHERS.register("dis")
def _dis(preset: str = "medium") -> Teacher:
    return DIS(preset)


@TEACHERS.register("raft")
def _raft(weights: str, size: str = "large", iterations: int = 12) -> Teacher:
    return RAFT(weights, size, iterations)


@TEACHERS.register("parts")
def _parts(stereo: Mapping[str, Any] | str, flow: Mapping[str, Any] | str) -> Teacher:
    made = [create_teacher(**({"name": part} if isinstance(part, str) else part)) for part in (stereo, flow)]
    return Parts(*made)


def _name(teacher: Teacher) -> str:
    return str(getattr(teacher, "name", type(teacher).__name__.lower()))


def _grey(batch: Tensor) -> list[np.ndarray]:
    return [
        cv2.cvtColor(np.ascontiguousarray(i.permute(1, 2, 0).cpu().numpy()), cv2.COLOR_RGB2GRAY)
        for i in as_bytes(batch)
    ]


def _pad(image: Tensor) -> Tensor:
    down, right = (max(0, RAFT_LEAST - side) for side in image.shape[-2:])
    down, right = (
        add + -(side + add) % RAFT_MULTIPLE for add, side in zip((down, right), image.shape[-2:], strict=True)
    )
    return F.pad(image, (0, right, 0, down), mode="replicate") if down or right else image
