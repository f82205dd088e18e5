"""The page: inputs on the left, results on the right, served to a browser by Gradio.

Nothing leaves the machine: Gradio's telemetry, its history of runs and its fonts are off, and what is
uploaded or written is in a temporary folder that goes with the server.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import tempfile
import time
import webbrowser
from collections.abc import Callable
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import UserError
from .panel import Comparison, Panel
from .words import legend, table, title_of

KEPT = 3600  # seconds that uploads and results are kept
_WAITING = '<div class="dd"><p class="aside">Choose images or an example, then Predict.</p></div>'


def require_gradio() -> None:
    """Raise UserError, with what to install, unless Gradio is there."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the web demo needs gradio: pip install 'densedistill[app]'")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at `host` and `port`; 0 for any free port.

    Raises:
        UserError: the port is taken or not allowed, or there is no such host.
    """
    if not 0 <= port < 65536:
        raise UserError(f"a port is a number from 0 to 65535, got {port}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # Python adds the address
        raise UserError(f"cannot listen on {host}, port {port}: {reason}; name another") from None


def serve(
    panel: Panel, listener: socket.socket, say: Callable[[str], None] = print, open_browser: bool = False
) -> None:
    """Serve the page of `panel` on `listener`, a listening socket, until Ctrl-C.

    Args:
        panel: the networks.
        listener: of `listen`.
        say: gets the page's address.
        open_browser: show the page in the default browser.

    Raises:
        UserError: Gradio is not installed.
    """
    require_gradio()
    import uvicorn

    with tempfile.TemporaryDirectory(prefix="densedistill-app-") as folder:
        # Its own configuration of logging would close the handlers that others have set up.
        config = uvicorn.Config(
            application(panel, Path(folder)),
            log_config=None,
            log_level="warning",
            timeout_graceful_shutdown=1,
        )
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        say(f"{address} shows the page; Ctrl-C ends it")
        if open_browser:
            webbrowser.open(address)
        uvicorn.Server(config).run(sockets=[listener])


def application(panel: Panel, folder: Path) -> Any:
    """Return the ASGI application of the page of `panel`, which keeps its files in `folder`."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    import gradio
    from fastapi import FastAPI

    theme = gradio.themes.Default(
        primary_hue="cyan",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return gradio.mount_gradio_app(
        FastAPI(),
        page(panel, folder),
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=theme,
        css=(resources.files(__package__) / "page.css").read_text(encoding="utf-8"),
    )


def page(panel: Panel, folder: Path) -> Any:
    """Return the page of `panel` as Gradio's `Blocks`; what it writes goes below `folder`."""
    import gradio

    task = panel.task
    with gradio.Blocks(
        title="densedistill", analytics_enabled=False, delete_cache=(KEPT, KEPT), fill_width=True
    ) as blocks:
        gradio.Markdown(_introduction(panel))
        with gradio.Row():
            with gradio.Column(scale=1, min_width=300):
                images = [_input(gradio, key) for key in task.inputs]
                button = gradio.Button("Predict", variant="primary")
                examples = _examples(gradio, panel, images)
                numbers, kinds = _settings(gradio, panel)
            with gradio.Column(scale=3, min_width=480):
                results = _Results(gradio, panel)

    def run(*given: Any) -> list[Any]:
        files, (chosen, *lengths) = given[: len(images)], given[len(images) :]
        try:
            found = panel.answer(files, chosen, _place(folder), *lengths)
        except UserError as error:
            message = escape(str(error))
            raise gradio.Error(message, duration=None, title="Not predicted", print_exception=False) from None
        for warning in found.warnings:
            gradio.Warning(escape(warning))
        return results.updates(found)

    with blocks:
        wiring: dict[str, Any] = {"inputs": [*images, kinds, *numbers], "outputs": results.components}
        button.click(run, **wiring, api_name="predict")
        if examples is not None:
            examples.load_input_event.success(run, **wiring, api_visibility="private")
    return blocks


def _place(folder: Path) -> Path:
    """Return a new folder for the files of a request; those that are older than `KEPT` are removed."""
    for place in folder.glob("answer-*"):
        if time.time() - place.stat().st_mtime > KEPT:
            shutil.rmtree(place, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix="answer-", dir=folder))


def _introduction(panel: Panel) -> str:
    names = ", ".join(f"`{label}`" for label in panel.predictors)  # as text, `name@2` would be an address
    outputs = ", ".join(title_of(key) for key in panel.keys)
    side = ", side by side" if len(panel.predictors) > 1 else ""
    return (
        f"# densedistill\n{outputs[0].upper()}{outputs[1:]} by {names}{side}. "
        "Your images stay on the machine that serves this page."
    )


def _input(gradio: Any, key: str) -> Any:
    single = key == "image"
    image = gradio.Image(
        label=key.replace("_", " ").capitalize(),
        type="filepath",
        sources=["upload", "clipboard", "webcam"] if single else ["upload", "clipboard"],
        height=240 if single else 180,
    )
    # The file as it is: Gradio would make 8 bits of 16, and complain of what Pillow cannot read.
    image.preprocess = lambda payload: None if payload is None else payload.path
    return image


def _examples(gradio: Any, panel: Panel, images: list[Any]) -> Any:
    if not panel.examples:
        return None
    return gradio.Examples(
        [[str(file) for file in example.files] for example in panel.examples],
        images,
        example_labels=[example.name for example in panel.examples],
        label="Examples, with ground truth",
        cache_examples=False,
        api_name=False,
    )


def _settings(gradio: Any, panel: Panel) -> tuple[list[Any], Any]:
    """Return the fields of the calibration and the choice of files."""
    task = panel.task
    choices = [(f"{kind}: {writer.says}", kind) for kind, writer in task.writers.items()]
    with gradio.Accordion("Files", open=False):
        kinds = gradio.CheckboxGroup(choices, value=list(task.writes), show_label=False, container=False)
    metric = any(writer.metric for writer in task.writers.values())
    with gradio.Accordion("Calibration, for files in metres", open=False, visible=metric):
        rig = "right" in task.inputs
        numbers = [
            gradio.Number(label="Focal length, px", value=None),
            gradio.Number(label="Baseline, m", value=None, visible=rig),
            gradio.Number(label="Right less left principal point, px", value=None, visible=rig),
        ]
    return numbers, kinds


class _Results:
    """The right side of the page: a table, and for each output its legend and a column a network."""

    def __init__(self, gradio: Any, panel: Panel):
        self.gradio, self.panel = gradio, panel
        self.table = gradio.HTML(_WAITING)
        self.components = [self.table]
        options: dict[str, Any] = {
            "format": "png",
            "interactive": False,
            "buttons": ["download", "fullscreen"],
        }
        with gradio.Column(visible=False) as self.all:
            self.components.append(self.all)
            for _ in panel.keys:
                self.components.append(gradio.HTML())
                with gradio.Row():
                    with gradio.Column(min_width=200, visible=False) as truth:
                        self.components += [truth, gradio.Image(label="ground truth", **options)]
                    for label in panel.predictors:
                        with gradio.Column(min_width=200):
                            found = gradio.Image(label=label, **options)
                            error = gradio.Image(label=f"{label}: error", visible=False, **options)
                        self.components += [found, error]
            self.components.append(gradio.File(label="Files", file_count="multiple", interactive=False))

    def updates(self, found: Comparison) -> list[Any]:
        """Return the new values of `components`, in their order."""
        update = self.gradio.update
        values: list[Any] = [table(self.panel, found), update(visible=True)]
        for key in self.panel.keys:
            truth = found.truth.get(key)
            values += [legend(self.panel.task, key, found), update(visible=truth is not None), truth]
            for label in self.panel.predictors:
                answer = found.answers.get(label)
                picture, error = (answer.pictures[key], answer.errors.get(key)) if answer else (None, None)
                values += [picture, update(value=error, visible=error is not None)]
        files = [str(file) for answer in found.answers.values() for file in answer.files]
        return [*values, update(value=files, visible=bool(files))]
