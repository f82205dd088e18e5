"""Arguments that several verbs have, and how their values are read."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import UserError
from ..recipes import parse_value


def add_running_arguments(parser: argparse.ArgumentParser) -> None:
    """Add in which arithmetic, through what and where a verb's networks run."""
    parser.add_argument(
        "--precision", default="float32", metavar="P", help="float32 (default), bfloat16 or auto"
    )
    parser.add_argument(
        "--runtime", metavar="NAME", help="of exported files: torch, onnxruntime, openvino or tensorrt"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, … (default: an accelerator if there is one)")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which part of labelled data, and how it is read."""
    parser.add_argument("--split", help="part of the data set, as its reader names it")
    parser.add_argument(
        "--data-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the data set, for example resolution=Q or classes=[sky,road]; may be repeated",
    )


def only_with(given: object, flag: str, args: argparse.Namespace, *names: str) -> None:
    """Raise UserError for one of the arguments `names`, which are for `flag`, where that is not `given`."""
    for name in names:
        if not given and getattr(args, name) not in (None, []):
            raise UserError(
                f"--{name.replace('_', '-')} is for {flag} alone; leave it out, or give that, too"
            )


def parse_size(text: str) -> tuple[int, int]:
    """Return (height, width) for text such as 256x512; UserError for anything else."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UserError(f"--size is height x width in pixels, as 256x512, not '{text}'")
    return int(height), int(width)


ELSEWHERE = ("data", "frames", "name", "root", "split")
"""What no option says: a verb's own flag or argument does."""


def data_options(given: list[str], flag: str = "--data-option") -> dict[str, Any]:
    """Return options as YAML reads them: 3 is a number, true is true, [256, 512] a list."""
    options = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{flag} takes KEY=VALUE, got '{text}'")
        if key in ELSEWHERE:
            raise UserError(f"{flag} {text}: {key} is no option; an argument of its own says it, see --help")
        options[key] = parse_value(value)
    return options
