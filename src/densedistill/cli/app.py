"""Show networks side by side on your own images, on a page that this machine serves; nothing leaves it.

examples:
  densedistill app
  densedistill app runs/mine student.onnx sgbm --max-disparity 128
  densedistill app depth_slim --open
"""

from __future__ import annotations

import argparse

from ._arguments import add_running_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `app`."""
    parser.add_argument(
        "networks",
        nargs="*",
        metavar="NETWORK[@SCALE][=WEIGHTS]",
        help="networks of one task, with their shipped weights or those of a file; a run; an exported file; "
        "'sgbm' (default: the stereo networks that ship)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to serve at (default 127.0.0.1, this machine alone; 0.0.0.0 for whoever reaches it)",
    )
    parser.add_argument(
        "--port", type=int, default=7860, metavar="N", help="default 7860; 0 for any that is free"
    )
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    parser.add_argument(
        "--max-disparity",
        type=int,
        metavar="PX",
        help="how far the networks search; an exported file searches as far as it was exported for",
    )
    parser.add_argument(
        "--protocol", metavar="NAME", help="how answers for the examples are measured, as evaluate has it"
    )
    add_running_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    from ..app.page import listen, require_gradio, serve
    from ._console import say

    require_gradio()
    with listen(args.host, args.port) as listener:  # a taken port is said before networks are loaded
        from ..app.panel import Panel
        from ..networks.device import find_device

        panel = Panel(
            labelled(args.networks or shipped()),
            max_disparity=args.max_disparity,
            device=find_device(args.device),
            precision=args.precision,
            runtime=args.runtime,
            protocol=args.protocol,
        )
        say(f"{panel.task.name}: {', '.join(panel.predictors)}")
        serve(panel, listener, say, args.open)
    return 0


def labelled(networks: list[str]) -> dict[str, str]:
    """Return `networks` by what tells them apart: a name, or the last part of a path, where that suffices."""
    short = [network.rstrip("/").rpartition("/")[2] for network in networks]
    distinct = len(set(short)) == len(set(networks))
    return dict(zip(short if distinct else networks, networks, strict=True))


def shipped() -> list[str]:
    """Return the stereo networks whose weights ship."""
    from ..networks import list_models
    from ..networks.published import shipped_weights

    return [name for name in list_models(task="stereo") if "shipped" in shipped_weights(name)]
