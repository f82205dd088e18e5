"""Named points inside a network, read by forward hooks without touching its code."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError, nearest

_INDEXED = re.compile(r"(?P<name>.+)\[(?P<index>-?\d*(?::-?\d*)?)\]")
_ALL: tuple[int | None, int | None] = (None, None)

Spec = str | list | tuple | Mapping


@dataclass(frozen=True)
class Tap:
    """A resolved tap: which modules of one network it reads.

    Args:
        key: how messages and look-ups call it.
        paths: the modules, in order.
        optional: not every path has to fire, as with a network's own tap over heads of which only the last
            runs in evaluation mode.
        calls: first and last (excluded) of the tensors of a single path that are meant; all by default.
        join_views: the two calls of each path, one a view, are joined along the batch.
        clone: copy the output at once, so that a later change in place does not matter.
    """

    key: str
    paths: tuple[str, ...]
    optional: bool = False
    calls: tuple[int | None, int | None] = _ALL
    join_views: bool = False
    clone: bool = False


class Taps:
    """Read the outputs of submodules while a network runs.

    ```python
    with Taps(net, ["volume"]) as taps:
        net(left, right)
        (volume,) = taps["volume"]
    ```

    A tap is a name from `net.taps`, a module path, either with an index (`aggregation[-1]`,
    `aggregation[1:]`) which selects among its paths (among the calls of a tap with one path), a list of
    paths, or a mapping `{path: …, join: views, clone: true}`: `join: views` makes one tensor of the two calls
    of a network that runs its views one after the other. What it gives is a tuple of tensors: paths in the
    order named, calls in call order, and the tensors of a module that returns several in their order.

    Attach before `torch.compile`; inside a compiled network every tapped output is copied.

    Args:
        net: the network, possibly wrapped for data-parallel training.
        taps: the taps to read.
        clone: copy every output when it is tapped.

    Raises:
        UserError: no such tap or module, or a module that is compiled already; on reading, a tap that did not
            fire or that was changed in place after it was tapped.
    """

    def __init__(self, net: nn.Module, taps: Iterable[Spec] | Spec, clone: bool = False):
        if isinstance(taps, str | Mapping):
            taps = [taps]
        for module in (net, unwrap(net)):
            _refuse_compiled(module, "a tap")
        self.taps = {tap.key: tap for tap in _merged(resolve_tap(net, spec, clone) for spec in taps)}
        self._kinds: dict[str, str] = {}
        self._records: dict[str, _Record] = {}
        self._handles = []
        copied = {path for tap in self.taps.values() if tap.clone for path in tap.paths}
        for path in dict.fromkeys(path for tap in self.taps.values() for path in tap.paths):
            module = _find(net, path)
            record = _Record(path, path in copied)
            self._records[path] = record
            self._kinds[path] = type(module).__name__
            self._handles.append(module.register_forward_hook(record))

    def __enter__(self) -> Taps:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __getitem__(self, spec: Spec) -> tuple[Tensor, ...]:
        tap = self.taps.get(tap_key(spec))
        if tap is None:
            raise UserError(f"nothing is tapped as '{tap_key(spec)}'{nearest(tap_key(spec), self.taps)}")
        fired = [path for path in tap.paths if self._records[path].calls]
        if len(fired) < len(tap.paths) and not (tap.optional and fired):
            missing = next(path for path in tap.paths if path not in fired)
            raise UserError(f"tap '{tap.key}': module '{missing}' ({self._kinds[missing]}) has not run")
        found: list[Tensor] = []
        for path in fired:
            calls = [self._unchanged(tap, path, call) for call in self._records[path].calls]
            if tap.join_views:
                if len(calls) != 2 or len(calls[0]) != len(calls[1]):
                    raise UserError(
                        f"tap '{tap.key}': 'join: views' wants two calls of '{path}', it had {len(calls)}"
                    )
                calls = [tuple(torch.cat(pair) for pair in zip(*calls, strict=True))]
            found += [tensor for call in calls for tensor in call]
        found = found[slice(*tap.calls)]
        if not found:
            raise UserError(f"tap '{tap.key}': '{tap.paths[0]}' gave too few tensors")
        return tuple(found)

    def __contains__(self, spec: Spec) -> bool:
        return tap_key(spec) in self.taps

    def __iter__(self) -> Iterator[str]:
        return iter(self.taps)

    def __len__(self) -> int:
        return len(self.taps)

    def fired_all(self, spec: Spec) -> bool:
        """Return whether every module of the tap ran since the last `clear`."""
        return all(self._records[path].calls for path in self.taps[tap_key(spec)].paths)

    def clear(self) -> None:
        """Forget all outputs, so that neither they nor their graph stay in memory."""
        for record in self._records.values():
            record.calls.clear()

    def pause(self) -> None:
        """Read nothing until `resume`: the network may run for other purposes meanwhile."""
        for record in self._records.values():
            record.reading = False

    def resume(self) -> None:
        """Read again."""
        for record in self._records.values():
            record.reading = True

    @contextmanager
    def step(self) -> Iterator[None]:
        """Read within this block only, and forget at its end."""
        self.resume()
        try:
            yield
        finally:
            self.pause()
            self.clear()

    def remove(self) -> None:
        """Take the hooks off the network; what was read stays readable."""
        self.pause()  # a compiled network keeps the hooks it was traced with
        for handle in self._handles:
            handle.remove()

    def _unchanged(self, tap: Tap, path: str, call: tuple[tuple[Tensor, int], ...]) -> tuple[Tensor, ...]:
        for tensor, version in call:
            if version != _COPIED and tensor._version != version:
                raise UserError(
                    f"tap '{tap.key}': the output of module '{path}' ({self._kinds[path]}) was changed in "
                    "place after it was tapped, by an in-place activation for example; tap the module that "
                    "changes it, or set 'clone: true'"
                )
        return tuple(tensor for tensor, _ in call)


_COPIED = -1


@dataclass(eq=False)
class _Record:
    """The forward hook of one module: keeps its outputs with the version each had."""

    path: str
    clone: bool
    reading: bool = True
    calls: list[tuple[tuple[Tensor, int], ...]] = field(default_factory=list)

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not self.reading:
            return
        tensors = _tensors(output)
        if not tensors:
            raise UserError(
                f"module '{self.path}' ({type(module).__name__}) returns no tensor that a tap could read"
            )
        # A compiled graph changes tensors out of sight of the version counter, inference tensors have none.
        if self.clone or torch.compiler.is_compiling() or tensors[0].is_inference():
            self.calls.append(tuple((tensor.clone(), _COPIED) for tensor in tensors))
        else:
            self.calls.append(tuple((tensor, tensor._version) for tensor in tensors))


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [tensor for item in output for tensor in _tensors(item)]
    return []


def tap_key(spec: Spec) -> str:
    """Return what a tap is called: its name, or its paths."""
    if isinstance(spec, Mapping):
        return tap_key(spec.get("path", "")) + (" joined" if "join" in spec else "")
    return ", ".join(map(str, spec)) if isinstance(spec, list | tuple) else str(spec)


def _merged(taps: Iterable[Tap]) -> Iterable[Tap]:
    """Return `taps`; one that is wanted with and without a copy is copied."""
    by_key: dict[str, Tap] = {}
    for tap in taps:
        earlier = by_key.get(tap.key)
        by_key[tap.key] = replace(tap, clone=True) if earlier is not None and earlier.clone else tap
    return by_key.values()


def resolve_tap(net: nn.Module, spec: Spec, clone: bool = False) -> Tap:
    """Return the tap that `spec` (see `Taps`) means in `net`; UserError when there is none."""
    if not isinstance(spec, Mapping):
        return replace(_find_modules(net, spec), clone=clone)
    key, fields = tap_key(spec), ("path", "join", "clone")
    for field_name in spec:
        if field_name not in fields:
            raise UserError(f"a tap has no field '{field_name}'{nearest(field_name, fields)}")
    if "path" not in spec:
        raise UserError("a tap given as a mapping needs 'path'")
    if spec.get("join", "views") != "views":
        raise UserError(f"tap '{key}': join is 'views', got '{spec['join']}'")
    tap, clone = _find_modules(net, spec["path"]), bool(spec.get("clone", clone))
    return replace(tap, key=key, join_views="join" in spec, clone=clone)


def _find_modules(net: nn.Module, spec: Any) -> Tap:
    """Return the tap that a name, a module path or a list of these means."""
    key = tap_key(spec)
    if isinstance(spec, list | tuple) and spec:
        items = [resolve_tap(net, item) for item in spec]
        if any(item.calls != _ALL or item.join_views or item.clone for item in items):
            raise UserError(
                f"tap '{key}': a list has names and paths; join and clone stand around it, as in "
                "{path: [...], clone: true}, and it takes all calls of each"
            )
        return Tap(key, tuple(path for item in items for path in item.paths))
    if not isinstance(spec, str):
        raise UserError(f"a tap is a name, a module path or a list of these, got {spec!r}")
    declared: Mapping[str, tuple[str, ...]] = getattr(unwrap(net), "taps", None) or {}
    modules = dict(unwrap(net).named_modules())
    match = _INDEXED.fullmatch(spec)
    if spec in declared or spec in modules or match is None:
        name, index = spec, _ALL
    else:
        name, index = match["name"], _index(match["index"], key)
    if name in declared:
        paths = tuple(declared[name])
        if len(paths) > 1 and index != _ALL:
            if not paths[slice(*index)]:
                raise UserError(f"tap '{key}': '{name}' has {len(paths)} modules")
            return Tap(key, paths[slice(*index)])
        return Tap(key, paths, optional=index == _ALL, calls=index)
    if not name or name not in modules:
        choices = {*declared, *modules} - {""}
        raise UserError(f"the network has no tap or module '{name}'{nearest(name, choices)}")
    return Tap(key, (name,), calls=index)


def _index(text: str, key: str) -> tuple[int | None, int | None]:
    if ":" in text:
        start, stop = (int(part) if part else None for part in text.split(":"))
        return start, stop
    if not text or text == "-":
        raise UserError(f"tap '{key}': an index is a number or a range such as [1:]")
    position = int(text)
    return position, position + 1 or None


def unwrap(net: nn.Module) -> nn.Module:
    """Return the network inside a data-parallel wrapper, or `net` itself."""
    while isinstance(net, nn.parallel.DistributedDataParallel | nn.DataParallel):
        net = net.module
    return net


def _find(net: nn.Module, path: str) -> nn.Module:
    """Return the submodule at `path`, provided that nothing around it is compiled."""
    module = unwrap(net)
    for part in path.split("."):
        module = getattr(module, part)
        _refuse_compiled(module, f"tap '{path}'")
    return module


def _refuse_compiled(module: nn.Module, what: str) -> None:
    forward = getattr(module, "forward", None)
    # Its import takes seconds, and it is there once it was used.
    compiler = sys.modules.get("torch._dynamo")
    compiled = (
        isinstance(module, torch.jit.ScriptModule)
        or (compiler is not None and isinstance(module, compiler.OptimizedModule))
        or getattr(module, "_compiled_call_impl", None) is not None
        or (hasattr(forward, "_torchdynamo_orig_callable") and not hasattr(forward, "_torchdynamo_disable"))
    )
    if compiled:
        raise UserError(
            f"{what} would never be read: {type(module).__name__} is compiled already and skips hooks; "
            "attach taps (or create the objective) first, then compile"
        )
