"""Variables of TensorFlow checkpoints, renamed and laid out as PyTorch has them."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

# What the optimiser and the step counter leave in a checkpoint of a training.
_NOT_WEIGHTS = re.compile(r"(^|/)(Adam(_\d+)?|Momentum|beta\d_power|global_step|Variable)(:0)?$")


def is_tensorflow_file(path: Path) -> bool:
    """Return whether `path` names a TensorFlow checkpoint (its prefix or index) or an .npz of variables."""
    return path.suffix in (".npz", ".index") or Path(f"{path}.index").is_file()


def read_variables(path: Path) -> dict[str, Tensor]:
    """Return the variables of `path` by their TensorFlow names and in its layout.

    Args:
        path: an .npz of variables by name, which needs no TensorFlow, or the prefix or index of a checkpoint,
            which is read by TensorFlow where that is installed.

    Raises:
        UserError: a file that is damaged, or a checkpoint without TensorFlow to read it.
    """
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: torch.from_numpy(np.array(file[name])) for name in file.files}
        except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, KeyError) as error:
            raise UserError(f"{path} is no whole .npz file of numbers: {error}") from None
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    try:
        import tensorflow
    except ImportError:
        raise UserError(
            f"{prefix} is a TensorFlow checkpoint, and TensorFlow is not installed: where it is, run "
            f"\"r = tensorflow.train.load_checkpoint('{prefix.name}'); numpy.savez('weights.npz', "
            '**{n: r.get_tensor(n) for n in r.get_variable_to_shape_map()})", and give weights.npz'
        ) from None
    try:
        reader = tensorflow.train.load_checkpoint(str(prefix))
        names = reader.get_variable_to_shape_map()
        return {name: torch.from_numpy(np.array(reader.get_tensor(name))) for name in names}
    except Exception as error:  # TensorFlow has a dozen of its own classes, without a common base
        raise UserError(f"cannot read the TensorFlow checkpoint {prefix}: {str(error)[:200]}") from None


def from_tensorflow(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return TensorFlow variables as PyTorch entries, or none where `entries` are not such variables.

    `a/b/weights` becomes `a.b.weight`, `biases` `bias`. Kernels go from (H, W, in, out) to (out, in, H, W);
    those of transposed convolutions, (H, W, out, in) there, come out as PyTorch's (in, out, H, W) by the same
    permutation. Slots of optimisers and step counters are left out.
    """
    if not any("/" in name for name in entries):
        return {}
    converted = {}
    for name, value in entries.items():
        if _NOT_WEIGHTS.search(name):
            continue
        key = name.removesuffix(":0").replace("/", ".")
        key = re.sub(r"\.(weights|kernel)$", ".weight", re.sub(r"\.biases$", ".bias", key))
        converted[key] = value.permute(3, 2, 0, 1).contiguous() if value.ndim == 4 else value
    return converted
