"""`densedistill app`: what it says before it serves, and how it ends."""

import os
import signal
import tempfile
import threading
import time
import urllib.request

import pytest

from densedistill import cli
from densedistill.app import page
from densedistill.cli.app import labelled, shipped


def test_a_taken_port_is_told_before_networks_are_loaded(capsys):
    with page.listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["app", "no_such_network", "--port", port]) == 2
    error = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use; name another" in error
    assert error.count("\n") == 1


def test_missing_gradio_is_told(monkeypatch, capsys):
    monkeypatch.setattr(page.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["app"]) == 2
    assert "the web demo needs gradio: pip install 'densedistill[app]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dsnet_slm"], "there is no network 'dsnet_slm'; did you mean 'dsnet_slim'?"),
        (["sgbm", "depth_slim"], "networks of one task are compared, these are of stereo and depth"),
        (["missing.onnx"], "there is no file missing.onnx"),
        (["sgbm", "--protocol", "kiti2015"], "there is no protocol 'kiti2015'; did you mean 'kitti2015'?"),
        (["sgbm", "--device", "cudda"], "torch has no device 'cudda' here"),
    ],
)
def test_a_mistake_has_one_line_and_status_2(arguments, message, capsys):
    assert cli.main(["app", "--port", "0", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_without_a_name_the_stereo_networks_that_ship_are_shown():
    assert {"dsnet_slim", "gwcnet_slim"} <= set(shipped())
    assert "depth_slim" not in shipped()


def test_networks_are_called_by_what_tells_them_apart():
    assert list(labelled(["sgbm", "runs/mine/", "dsnet_slim=out/a.safetensors"])) == [
        "sgbm",
        "mine",
        "a.safetensors",
    ]
    assert list(labelled(["first/mine", "second/mine"])) == ["first/mine", "second/mine"]


def test_ctrl_c_ends_it_with_130_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    pytest.importorskip("gradio")
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")  # so that what the page sets is taken back
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with page.listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    seen = []

    def interrupt():
        while not seen:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=60) as answer:
                    seen.append((answer.read(), list(tmp_path.glob("densedistill-app-*"))))
            except OSError:
                time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert cli.main(["app", "sgbm", "--port", str(port)]) == 130
    said = capsys.readouterr()
    assert said.out == f"stereo: sgbm\nhttp://127.0.0.1:{port} shows the page; Ctrl-C ends it\n"
    assert said.err == "densedistill: interrupted\n"
    ((html, files),) = seen
    assert b"densedistill" in html
    assert files
    assert not list(tmp_path.glob("densedistill-app-*"))
