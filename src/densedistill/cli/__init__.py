"""The command line: `densedistill VERB …`.

Importing this imports no torch; each verb is a file that is imported when it is called.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import sys
import warnings
from types import ModuleType
from typing import Any, NoReturn

from ..errors import DataWarning, UserError, nearest
from ..machine import keep_freed_memory

VERBS = {
    "demo": "the whole way at CPU size, minutes, report at the end",
    "doctor": "what is there to run on, and what to install",
    "models": "networks with parameters, MACs and weights",
    "recipes": "list recipes, or print one resolved",
    "data": "check a data set, or make procedural data",
    "train": "train a network on ground truth (a teacher, a baseline)",
    "distill": "teach a student by its teachers",
    "label": "teacher answers for unlabelled frames",
    "evaluate": "official metrics",
    "predict": "predictions for your images, in official formats",
    "export": "ONNX, OpenVINO, torch.export, TensorRT; checked against torch",
    "benchmark": "latency, memory and cost, in any runtime",
    "report": "one HTML page about runs",
    "app": "networks side by side on your own images, in the browser",
}

# What the system says of a path that the user named.
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)


def main(argv: list[str] | None = None) -> int:
    """Run the verb in `argv` (without the program's name) and return the exit status.

    0: done; 1: done, and the answer is no; 2: a mistake that one line on stderr names; 130: interrupted.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if "" not in sys.path:
        # A recipe's `package.module:Name` may lie in the folder that one is in, as it does for python -m.
        sys.path.append("")
    keep_freed_memory()
    for name in ("stdout", "stderr"):
        setattr(sys, name, _lasting(getattr(sys, name)))
    usual, warnings.formatwarning = warnings.formatwarning, _in_one_line
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()  # a full disk is said here, not at exit
        return status
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 2
    except UserError as error:
        print(f"densedistill: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"densedistill: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return 130
    except OSError as error:
        said = _what_failed(error)
        if said is None:
            raise
        print(f"densedistill: {said}", file=sys.stderr)
        return 2
    finally:
        warnings.formatwarning = usual


class _Lasting(io.FileIO):
    """An output whose reader may leave (head, less): the work goes on, and the rest is not written.

    Nor is it after another error, which is raised once, and not again at exit.
    """

    ended = False

    def write(self, data: Any, /) -> int:
        if not self.ended:
            try:
                return super().write(data)
            except OSError as error:
                self.ended = True
                if not isinstance(error, BrokenPipeError):
                    raise
        return len(data)


def _lasting(stream: Any) -> Any:
    """Return `stream`, or one in its place, so that neither its reader nor its letters end the work."""
    if stream is None:  # closed, as >&- does
        return open(os.devnull, "w", encoding="utf-8")
    if stream in (sys.__stdout__, sys.__stderr__):
        stream.flush()
        lasting = io.BufferedWriter(_Lasting(stream.fileno(), "w", closefd=False))
        buffering = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
        stream = io.TextIOWrapper(lasting, stream.encoding, **buffering)
    if isinstance(stream, io.TextIOWrapper):
        # A name that the locale has no letters for is escaped, rather than end the work.
        stream.reconfigure(errors="backslashreplace")
    return stream


def _what_failed(error: OSError) -> str | None:
    """Return what the system lacks, in one line; None for an error that is a fault of ours."""
    name = error.filename2 or error.filename  # of a copy, what was written
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" while writing {name}" if name else ""
        return f"the disk is full{where}; make room and start again"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many files are open; raise the limit (ulimit -n), or take fewer workers"
    if error.errno in _NOT_OURS and name:
        return f"cannot reach {name}: {error.strerror}"
    if error.errno == errno.ENOENT and "temporary directory" in str(error):
        return f"there is no folder for temporary files; let TMPDIR name one ({error.strerror})"
    if error.errno == errno.ENOENT:
        try:
            os.getcwd()
        except OSError:
            return "the folder that you are in is gone; go to another"
    return None


_formatwarning = warnings.formatwarning


def _in_one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a doubt about data as one line, other warnings as Python writes them."""
    if issubclass(category, DataWarning):
        return f"warning: {message}\n"
    return _formatwarning(message, category, filename, lineno, line)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        from .. import __version__

        print(f"densedistill {__version__}")
        return 0
    verb = arguments[0]
    if verb not in VERBS:
        raise UserError(f"there is no verb '{verb}'{nearest(verb, VERBS)}")
    if "" in arguments:
        before = arguments[arguments.index("") - 1]
        raise UserError(f"there is nothing behind {before}; is it a variable of the shell that is not set?")
    module = importlib.import_module(f".{verb}", __name__)
    args, rest = parse(module, arguments[1:])
    if rest and not getattr(module, "TAKES_RECIPE_FLAGS", False):
        raise UserError(
            f"{verb} takes no {rest[0]}{nearest(rest[0], _flags(module))}; see densedistill {verb} --help"
        )
    args.recipe_flags = rest
    return module.run(args) or 0


def parse(module: ModuleType, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return what the verb `module` understands of `arguments`, and the rest."""
    parser = make_parser(module)
    if not getattr(module, "TAKES_RECIPE_FLAGS", False):
        return parser.parse_known_args(arguments)
    mine, fields = _part(arguments, set(_flags(module)))
    args, rest = parser.parse_known_args(mine)
    return args, rest + fields


def _part(arguments: list[str], known: set[str]) -> tuple[list[str], list[str]]:
    """Part a verb's own arguments from recipe fields, whose values must not be taken for positional ones."""
    mine: list[str] = []
    fields: list[str] = []
    waiting = False
    for argument in arguments:
        if waiting and not argument.startswith("--"):
            fields.append(argument)
            waiting = False
        elif argument.startswith("--") and argument.partition("=")[0] not in known:
            fields.append(argument)
            waiting = "=" not in argument
        else:
            mine.append(argument)
            waiting = False
    return mine, fields


def make_parser(module: ModuleType) -> argparse.ArgumentParser:
    """Return the parser of the verb `module`: its arguments, and what its docstring says with examples."""
    verb = module.__name__.rpartition(".")[2]
    description, _, examples = (module.__doc__ or "").strip().partition("\n\n")
    parser = _Parser(
        prog=f"densedistill {verb}",
        description=description,
        epilog=examples or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _flags(module: ModuleType) -> list[str]:
    return [flag for action in make_parser(module)._actions for flag in action.option_strings]


def _overview() -> str:
    from .. import __version__

    width = max(map(len, VERBS))
    lines = [
        f"densedistill {__version__}: distil a large dense-prediction network into a small, fast one",
        "",
    ]
    lines += ["usage: densedistill VERB ...", ""]
    lines += [f"  {verb:<{width}}  {does}" for verb, does in VERBS.items()]
    lines += ["", "densedistill VERB --help says more. Begin with: densedistill demo"]
    return "\n".join(lines)
