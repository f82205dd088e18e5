"""Weights of a network, from our own files and released checkpoints, strictly and never by unpickling."""

from __future__ import annotations

import functools
import json
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError, nearest
from ._layout import Layout
from .registry import MODELS, class_names, create_model, given_name, name_of, options_of
from .tensorflow import from_tensorflow, is_tensorflow_file, read_variables
from .wrap import Wrapped

SHIPPED = Path(__file__).parent.parent / "weights"
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "student")
_PREFIXES = ("module.", "_orig_mod.", "model.", "depth_model.", "net.", "network.", "student.")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".pkl", ".ckpt", ".tar", ".bin", ".npz", ".index")


class Fit(NamedTuple):
    """How the entries of a checkpoint fit a network: what to load, and what does not fit."""

    entries: dict[str, Tensor]
    missing: list[str]
    unexpected: list[str]
    other_shape: list[str]

    @property
    def complete(self) -> bool:
        """Whether every entry of the network is there and nothing else."""
        return not self.misfits

    @property
    def misfits(self) -> int:
        """Number of entries that do not fit."""
        return len(self.missing) + len(self.unexpected) + len(self.other_shape)


def load_weights(network: nn.Module, source: str | Path) -> nn.Module:
    """Load `source` into `network`, in its own precision, and return it.

    Args:
        network: ours or anybody's; `wrap`, compiled and data-parallel wrappers are looked through.
        source: the path of a file (safetensors, a torch file of tensors and plain values, a TensorFlow
            checkpoint, or an .npz of its variables), `"shipped"` or another tag of weights that ship with
            the package, or `hf://owner/repository/file` (with
            `repository@revision` for another than the newest). Entries are named as here or as published,
            told by their keys; prefixes of wrappers (data-parallel, compiled) are dropped. A network that is
            published in several files takes them joined by "+": `encoder.pkl+decoder.pkl`.

    Raises:
        UserError: no such file or tag, a file that is damaged or holds more than tensors, or entries that do
            not fit, with the networks they would fit.
    """
    given, network = network, bare(network)
    paths = _files(network, source)
    entries = _joined(network, paths)
    fits = [fit_entries(network, variant) for variant in _variants(entries)]
    fit = min(fits, key=lambda one: one.misfits)
    if not fit.complete:
        where = " and ".join(map(str, paths))
        part = _missing_part(network, fit, paths)
        raise UserError(
            part
            or f"{where} does not fit {_describe(network)}: {_misfit(fit)}"
            + (_made_with(network, source) or _looks_like(entries))
        )
    network.load_state_dict(fit.entries, strict=False)
    names = json.loads(_metadata(paths[0]).get("class_names", "[]"))
    if names:
        setattr(network, "class_names", tuple(names))  # noqa: B010
    return given


def _files(network: nn.Module, source: str | Path) -> list[Path]:
    """Return the files that `source` names, several of them joined by "+"."""
    parts = str(source).split("+")
    if len(parts) == 1 or Path(source).is_file():
        return [find_weights(network, source)]
    return [find_weights(network, part.strip()) for part in parts]


def _joined(network: nn.Module, paths: list[Path]) -> Mapping[str, Tensor]:
    """Return the entries of all files of one network; UserError when two hold the same part of it."""
    entries: dict[str, Tensor] = {}
    for path in paths:
        added = _strip(read_entries(path)) if len(paths) > 1 else read_entries(path)
        twice = next((key for key in added if key in entries), None)
        if twice is not None:
            part = _part(network, twice)
            what = f"the {part} of {_describe(network)}" if part else f"'{twice}'"
            raise UserError(f"{' and '.join(map(str, paths))} both hold {what}; name one file for each part")
        entries.update(added)
    return entries


def _part(network: nn.Module, key: str) -> str | None:
    """Return which of the parts that `network` is published in the entry `key` belongs to."""
    layout = getattr(network, "published", Layout())
    ours = key if key in network.state_dict() else layout.rename(key)
    return next((part for part in layout.parts if ours.startswith(part + ".")), None)


def _missing_part(network: nn.Module, fit: Fit, paths: list[Path]) -> str | None:
    """Return what to say when the one fault of the files is that a whole part is not among them."""
    layout = getattr(network, "published", Layout())
    there = {_part(network, key) for key in fit.entries}
    absent = [part for part in layout.parts if part not in there]
    whole = {_part(network, key) for key in fit.missing} <= set(absent)
    if not absent or not there - {None} or not whole or fit.unexpected or fit.other_shape:
        return None
    kept, lacking = " and ".join(sorted(map(str, there - {None}))), " and ".join(absent)
    return (
        f"{' and '.join(map(str, paths))} holds the {kept} of {_describe(network)} alone; "
        f"name the file of the {lacking} beside it, joined by '+'"
    )


def save_weights(
    network: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None, half: bool = False
) -> Path:
    """Write the weights of `network` to the safetensors file `path`, atomically, and return the path.

    Args:
        network: as `load_weights` takes it.
        path: of the file; its folder must exist.
        metadata: plain strings that the file carries; the network's name, options and names of classes are
            added.
        half: store floating-point entries in half precision.

    Raises:
        UserError: the file cannot be written.
    """
    from safetensors.torch import save

    from ..files import write_bytes

    network = bare(network)
    entries = {}
    for key, value in network.state_dict().items():
        value = value.detach().cpu()
        entries[key] = (value.half() if half and value.is_floating_point() else value).contiguous()
    metadata = {
        "network": name_of(network),
        "options": json.dumps(options_of(network)),
        **({"class_names": json.dumps(names)} if (names := class_names(network)) else {}),
        **(metadata or {}),
    }
    write_bytes(path, _ordered(save(entries, {key: str(value) for key, value in metadata.items()})))
    return Path(path)


def _ordered(file: bytes) -> bytes:
    """Return the safetensors `file` with its metadata sorted, which the library writes in any order: equal
    weights are equal files."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the entries are aligned
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(file)[end:]])


def bare(network: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of `wrap`, `torch.compile` and data-parallel training."""
    while True:
        if isinstance(network, Wrapped | nn.DataParallel | nn.parallel.DistributedDataParallel):
            network = network.module
            continue
        inner = getattr(network, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return network
        network = inner


def shipped_weights(name: str) -> dict[str, Path]:
    """Return the weights that ship for the network `name`: tag to file."""
    files = {}
    for path in sorted(SHIPPED.glob(f"{name}*.safetensors")):
        if path.stem == name:
            files["shipped"] = path
        elif path.stem.startswith(f"{name}."):
            files[path.stem[len(name) + 1 :]] = path
    return files


def stored_options(name: str, source: str | Path) -> dict[str, Any]:
    """Return the options that `source`, a file of ours, says network `name` was made with; else none."""
    metadata = _metadata(shipped_weights(name).get(str(source), Path(source)))
    return json.loads(metadata.get("options", "{}")) if metadata.get("network") == name else {}


def _metadata(path: Path) -> dict[str, str]:
    """Return what a safetensors file says beside its entries; nothing where it cannot be read as one."""
    from safetensors import SafetensorError, safe_open

    if not _holds_safetensors(path):
        return {}
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}  # loading will say what is wrong with it


def _holds_safetensors(path: Path) -> bool:
    """Return whether `path` is a safetensors file by its name, or by how it begins: the length of its header,
    then that, which is JSON."""
    if path.suffix == ".safetensors":
        return path.is_file()
    try:
        with path.open("rb") as file:
            length, first = int.from_bytes(file.read(8), "little"), file.read(1)
        return first == b"{" and length < path.stat().st_size
    except OSError:
        return False  # loading will say what is wrong with it


def count_classes(name: str, source: str | Path, options: Mapping[str, Any]) -> int | None:
    """Return how many classes the weights `source` of network `name`, made with `options`, tell apart, by the
    first entry whose shape depends on it; None where the entries are not those of this network.

    Raises:
        UserError: as `load_weights`, but for entries that do not fit.
    """
    few, more = 20, 21
    with torch.device("meta"):
        network, larger = (create_model(name, classes=count, **options) for count in (few, more))
    entries = _joined(network, _files(network, source))
    fit = min((fit_entries(network, variant) for variant in _variants(entries)), key=lambda one: one.misfits)
    if fit.missing or fit.unexpected:
        return None
    shapes = (
        (key, network.state_dict()[key].shape, value.shape) for key, value in larger.state_dict().items()
    )
    key, shape, changed = next(found for found in shapes if found[1] != found[2])
    axis = next(axis for axis, size in enumerate(shape) if size != changed[axis])
    return few + (fit.entries[key].shape[axis] - shape[axis]) // (changed[axis] - shape[axis])


def find_weights(network: nn.Module, source: str | Path) -> Path:
    """Return the file that `source` of `load_weights` names, downloaded if need be."""
    text = str(source)
    if text.startswith("hf://"):
        return _download(text)
    path = Path(source)
    if path.is_file() or (is_tensorflow_file(path) and path.suffix not in (".npz", ".index")):
        return path
    if isinstance(source, Path) or "/" in text or "\\" in text or text.endswith(_SUFFIXES):
        raise UserError(f"there is no weights file {path}{' (it is a folder)' if path.is_dir() else ''}")
    name = given_name(network)
    shipped = shipped_weights(name) if name else {}
    if text in shipped:
        return shipped[text]
    if shipped:
        raise UserError(f"network '{name}' has no shipped weights '{text}'{nearest(text, shipped)}")
    others = sorted(path.stem for path in SHIPPED.glob("*.safetensors"))
    raise UserError(
        f"no weights ship for {_describe(network)}"
        + (f"; they do for {', '.join(others)}" if others else "")
        + f", and there is no file '{text}'"
    )


def read_entries(path: Path) -> dict[str, Tensor]:
    """Return the entries of the weights file `path` without running any code in it."""
    if is_tensorflow_file(path):
        return read_variables(path)
    if _holds_safetensors(path):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"cannot read weights from {path}: {_one_line(error)}; is it truncated?"
            ) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it holds objects ({named[1]}), which could run code" if named else "it is damaged"
        raise UserError(f"cannot read weights from {path}: {what}; save its state_dict alone") from None
    except Exception as error:  # of whatever kind the bytes of a foreign file lead to
        raise UserError(f"cannot read weights from {path}: {_one_line(error)}; is it truncated?") from None
    entries = _unwrap(content)
    if entries is None:
        raise UserError(f"{path} holds no weights: no entry of it is a mapping of names to tensors")
    return entries


def fit_entries(network: nn.Module, entries: Mapping[str, Tensor]) -> Fit:
    """Return how `entries`, named as here or as published, fit `network`."""
    own = network.state_dict()
    layout = getattr(network, "published", Layout())
    found: dict[str, Tensor] = {}
    unexpected, other_shape = [], []
    for key, value in entries.items():
        ours = key if key in own else layout.rename(key)
        if ours in own:
            if value.shape != own[ours].shape:
                other_shape.append(f"{key} {_shape(value)} instead of {_shape(own[ours])}")
            found[ours] = value
        elif key in layout.unused:
            if tuple(value.shape) != tuple(layout.unused[key]):
                other_shape.append(f"{key} {_shape(value)} instead of {tuple(layout.unused[key])}")
        elif not layout.ignores(key):
            unexpected.append(key)
    # Checkpoints older than torch 0.4.1 have no such counters; nothing here reads them.
    missing = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    return Fit(found, missing, unexpected, other_shape)


def matching_networks(entries: Mapping[str, Tensor]) -> tuple[list[str], bool]:
    """Return the registered networks that `entries` fit, or else the nearest one, and whether they fit.

    Networks are compared as their constructors build them without options.
    """
    misfits: dict[str, int] = {}
    for name in MODELS:
        network = _outline(name)
        misfits[name] = min(fit_entries(network, variant).misfits for variant in _variants(entries))
    fitting = [name for name, count in misfits.items() if not count]
    if fitting:
        return fitting, True
    best = min(misfits, key=lambda name: misfits[name], default=None)
    return ([best] if best is not None and misfits[best] < len(entries) else []), False


@functools.cache
def _outline(name: str) -> nn.Module:
    """Return network `name` without options and without memory for its weights."""
    with torch.device("meta"):
        return MODELS[name]()


def _variants(entries: Mapping[str, Tensor]) -> Iterable[Mapping[str, Tensor]]:
    """Yield `entries` as they are, without the prefixes of wrappers, and the student's beside a teacher's."""
    yield entries
    converted = from_tensorflow(entries)
    if converted:
        yield converted
    stripped = _strip(entries)
    if stripped.keys() != entries.keys():
        yield stripped
    # TSNnet's distilled checkpoints hold the whole teacher under T_model, and adapters.
    if any(key.startswith("T_model.") for key in stripped):
        yield {key[6:]: value for key, value in stripped.items() if key.startswith("model.")}


def _strip(entries: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    while entries:
        prefix = next((p for p in _PREFIXES if all(key.startswith(p) for key in entries)), None)
        if prefix is None:
            break
        entries = {key[len(prefix) :]: value for key, value in entries.items()}
    return entries


def _unwrap(content: Any) -> dict[str, Tensor] | None:
    if not isinstance(content, Mapping):
        return None
    tensors = {
        key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    if tensors and len(tensors) == len(content):
        return tensors
    for wrapper in _WRAPPERS:
        if wrapper in content:
            inner = _unwrap(content[wrapper])
            if inner is not None:
                return inner
    return None


def _download(address: str) -> Path:
    parts = address.removeprefix("hf://").split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise UserError(f"'{address}' is no address of weights; it reads hf://owner/repository/file")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    owner, repository, file = parts
    repository, _, revision = repository.partition("@")
    try:
        return Path(hf_hub_download(f"{owner}/{repository}", file, revision=revision or None))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(f"cannot fetch {address}: {_one_line(error)}") from None


def _describe(network: nn.Module) -> str:
    name = given_name(network)
    return f"network '{name}'" if name else type(network).__name__


def _misfit(fit: Fit) -> str:
    kinds = (("missing", fit.missing), ("unexpected", fit.unexpected), ("of another shape", fit.other_shape))
    return "; ".join(f"{len(keys)} entries {kind} ({_some(keys)})" for kind, keys in kinds if keys)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")


def _made_with(network: nn.Module, source: str | Path) -> str:
    options = stored_options(name_of(network), source)
    return f"; it was made with {', '.join(f'{k}={v}' for k, v in options.items())}" if options else ""


def _looks_like(entries: Mapping[str, Tensor]) -> str:
    names, fitting = matching_networks(entries)
    if not names:
        return "; it looks like no network here"
    return f"; it {'fits' if fitting else 'looks most like'} {', '.join(names)}"


def _shape(value: Tensor) -> tuple[int, ...]:
    return tuple(value.shape)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
