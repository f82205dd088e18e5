"""The page as a browser gets it and as a client calls it; nothing of it comes from elsewhere."""

import json
import os
import re
import threading
import time
import urllib.request

import cv2
import numpy as np
import pytest

from densedistill.app.page import _place, _Results, application, listen
from densedistill.app.panel import Panel
from densedistill.data import formats
from densedistill.data.datasets._base import SAMPLES
from densedistill.errors import UserError
from densedistill.inference import SGBM

gradio = pytest.importorskip("gradio")
CONES = [SAMPLES / "middlebury2003" / "cones" / name for name in ("im2.png", "im6.png")]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where a page of SGBM is served."""
    import uvicorn

    panel = Panel(["sgbm"], max_disparity=64)
    with listen("127.0.0.1", 0) as listener, pytest.MonkeyPatch.context() as patch:
        for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"):
            patch.setenv(name, "")  # so that what the application sets is taken back
        app = application(panel, tmp_path_factory.mktemp("page"))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def ask(address):
    """`ask(files, kinds)`: what the page answers to its button."""
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False, analytics_enabled=False)
    return lambda files, kinds, *numbers: client.predict(
        *[None if file is None else handle_file(str(file)) for file in files],
        kinds,
        *(numbers or (None, None, None)),
        api_name="/predict",
    )


def fetch(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read().decode()


def test_the_button_gives_table_pictures_and_files(ask):
    table, *_, files = ask(CONES, ["png", "pfm"])
    assert "Figures are of Cones" in table
    expected = SGBM(64)(*map(formats.read_image, CONES))["disparity"][0, 0].numpy()
    png, pfm = files["value"]
    np.testing.assert_allclose(
        formats.read_disparity_png(png), expected, atol=1 / 256
    )  # 0 means unknown there
    np.testing.assert_array_equal(formats.read_pfm(pfm), expected)


def test_a_mistake_is_one_sentence_and_the_server_goes_on(ask, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    for files, kinds, message in (
        ([CONES[0], None], [], "an image is missing: right"),
        ([CONES[0], tmp_path / "notes.png"], [], "notes.png is not an image, or not a whole one"),
        (CONES, ["ply"], "the file &#x27;ply&#x27; is in metres"),
    ):
        with pytest.raises(Exception, match=re.escape(message)) as raised:
            ask(files, kinds)
        assert "\n" not in str(raised.value)
    assert ask(CONES, [])[0].startswith("<div")


def test_every_part_of_the_page_is_renewed_where_a_network_did_not_answer(fake, images):
    panel = Panel({"one": fake("stereo"), "other": fake("stereo")})
    found = panel.answer(images("stereo"))
    del found.answers["one"]
    with gradio.Blocks():
        results = _Results(gradio, panel)
    values = results.updates(found)
    assert len(values) == len(results.components)
    shown = dict(zip((part.label for part in results.components[5:9]), values[5:9], strict=True))
    assert shown["one"] is None
    assert shown["other"] is not None


def test_grey_images_of_16_bits_are_taken_as_they_are(ask, tmp_path):
    deep = (np.random.default_rng(0).random((40, 80)) * 65535).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    table, *_ = ask([tmp_path / "deep.png"] * 2, [])
    assert "80×40 px" in table


def test_nothing_of_the_page_comes_from_elsewhere(address):
    html = fetch(address)
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=[\"'](?:https?:)?//([^\"']+)", html)
    assert [place for place in loaded if not place.startswith("127.0.0.1")] == []
    assert "@import" not in html
    assert "fonts.g" not in html + fetch(f"{address}/theme.css")
    config = json.loads(fetch(f"{address}/config"))
    assert config["analytics_enabled"] is False
    assert config["run_history"] is False


def test_files_of_old_answers_are_removed(tmp_path):
    old, recent = (_place(tmp_path) for _ in range(2))
    (old / "disparity.png").write_text("old")
    os.utime(old, (0, 0))
    new = _place(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([recent, new])


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 70000, "a port is a number from 0 to 65535, got 70000"),
        ("no.such.host.invalid", 0, "cannot listen on no.such.host.invalid, port 0: .*; name another"),
    ],
)
def test_a_place_to_listen_that_cannot_be_is_told(host, port, message):
    with pytest.raises(UserError, match=message):
        listen(host, port)
