"""Names for things: the mapping behind networks, losses, data sets and teachers."""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import pkgutil
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import UserError, unknown


class Registry:
    """Callables by name; `package.module:Name` finds what nobody registered.

    Args:
        what: what an entry is called in messages, for example "network".
        modules: modules to import before the first look-up; they register their entries on import.
    """

    def __init__(self, what: str, modules: tuple[str, ...] = ()):
        self.what = what
        self._modules = modules
        self._entries: dict[str, Callable[..., Any]] = {}
        self._loaded = not modules
        self._loading = threading.RLock()  # other threads wait; what is being imported may ask

    def register(self, name: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorate a function or class to register it under `name` (default: its own name)."""

        def add(entry: Callable[..., Any]) -> Callable[..., Any]:
            key = name or entry.__name__
            if key in self._entries and self._entries[key].__module__ != entry.__module__:
                raise ValueError(f"two {self.what}s are named '{key}'")
            self._entries[key] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if ":" in name:
            return _import(name, self.what)
        self._load()
        if name not in self._entries:
            raise unknown(self.what, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries))

    def names(self, pattern: str = "*") -> list[str]:
        """Return the registered names that match a shell-style `pattern`, sorted."""
        return fnmatch.filter(self, pattern)

    def _load(self) -> None:
        with self._loading:
            if not self._loaded:
                self._loaded = True
                for module in self._modules:
                    importlib.import_module(module)


def construct(what: str, name: str, constructor: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Return `constructor(**options)`.

    Raises:
        UserError: `name` does not take these options or lacks one, or one of ours cannot be made with them.
            A fault in somebody's own code, `package.module:Name`, stays as it is.
    """
    try:
        return constructor(**options)
    except (TypeError, ValueError, RuntimeError) as error:
        if ":" in name and _takes(constructor, options):
            raise
        unknown_option = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown_option and unknown_option[1] in options:
            raise UserError(f"{what} '{name}' takes no option '{unknown_option[1]}'") from error
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what} '{name}' cannot be made with {given or 'no options'}: {reason}") from error


def _takes(constructor: Callable[..., Any], options: Mapping[str, Any]) -> bool:
    """Return whether `options` are what the signature of `constructor` asks for."""
    try:
        inspect.signature(constructor).bind(**options)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        return True
    return True


def discover(package: str | None, file: str) -> tuple[str, ...]:
    """Return the modules that lie beside `file`, all but those with an underscore: one adds an entry by
    adding a file."""
    found = pkgutil.iter_modules([str(Path(file).parent)])
    return tuple(f"{package}.{module.name}" for module in found if module.name[0] != "_")


def _import(path: str, what: str) -> Callable[..., Any]:
    module_name, _, attribute = path.partition(":")
    if not module_name or module_name.startswith("."):
        raise UserError(f"{what} '{path}': a module is named from the top, as in package.module:Name")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"cannot import {what} '{path}': {error}") from None
    if not callable(found):
        raise UserError(f"{what} '{path}' is a {type(found).__name__}; a class or a function is wanted")
    return found
