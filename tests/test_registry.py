"""Names for things, however they are asked for."""

import sys
import threading
import time

from densedistill.registry import Registry


def test_a_second_thread_waits_until_all_names_are_there(tmp_path, monkeypatch):
    (tmp_path / "slowly_registered.py").write_text(
        "import time\nimport registry_under_test as here\n"
        "here.started.set()\ntime.sleep(0.3)\nhere.registry.register('late')(dict)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    here = type(sys)("registry_under_test")
    here.registry, here.started = Registry("thing", ("slowly_registered",)), threading.Event()
    monkeypatch.setitem(sys.modules, "registry_under_test", here)
    first = threading.Thread(target=list, args=(here.registry,))
    first.start()
    assert here.started.wait(10)
    time.sleep(0.05)
    assert list(here.registry) == ["late"]
    first.join()
