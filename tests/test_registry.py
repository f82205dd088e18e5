"""Names for things, however they are asked for."""

import sys
import threading
import time

import pytest

from densedistill.errors import UserError
from densedistill.registry import Registry, construct


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


@pytest.mark.parametrize("options", [{}, {"width": 3, "depth": 4}])
def test_options_that_somebodys_own_code_does_not_take_are_one_line_and_its_faults_stay(options):
    def build(width):
        raise TypeError("a fault of its own")

    with pytest.raises(UserError, match=r"network 'mine:build' (.*option 'depth'|.*argument: 'width')"):
        construct("network", "mine:build", build, options)
    with pytest.raises(TypeError, match="a fault of its own"):
        construct("network", "mine:build", build, {"width": 3})
