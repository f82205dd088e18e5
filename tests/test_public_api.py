import os
import subprocess
import sys

import pytest

import densedistill
from densedistill.cli import VERBS

HEAVY = ("torch", "lightning", "cv2", "timm", "numpy", "gradio")


def in_a_fresh_process(code):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", densedistill.__all__)
def test_every_public_name_resolves(name):
    value = getattr(densedistill, name)
    assert value is not None
    if callable(value):
        assert value.__doc__, f"{name} has no docstring"


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        densedistill.distil  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    done = in_a_fresh_process(f"import sys, densedistill; print([m for m in {HEAVY} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_help_of_every_verb_imports_no_torch():
    code = f"""
import contextlib, io, sys
from densedistill.cli import main
heavy = lambda: [m for m in ("torch", "lightning") if m in sys.modules]
for verb in {[None, *VERBS]!r}:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = main([verb, "--help"] if verb else ["--help"])
    assert status == 0, (verb, status)
    assert "densedistill" in out.getvalue(), verb
    assert not heavy(), (verb, heavy())
print("done")
"""
    done = in_a_fresh_process(code)
    assert done.stdout.strip() == "done", done.stderr


@pytest.mark.parametrize(
    "module", ["verbs", "cli.predict", "deployment.benchmark", "labelling", "distillation"]
)
def test_what_answers_at_once_imports_nothing_that_takes_seconds(module):
    slow = ["torchmetrics", "torchvision", "lightning", "timm", "scipy", "sympy"]
    code = f"""
import importlib, sys
importlib.import_module("densedistill.{module}")
import densedistill as dd
dd.Predictor, dd.create_dataset("middlebury2003"), dd.create_model("dsnet_slim", weights="shipped")
print([m for m in {slow} if m in sys.modules])
"""
    done = in_a_fresh_process(code)
    assert done.stdout.strip() == "[]", done.stderr


def test_listing_recipes_imports_no_torch():
    done = in_a_fresh_process(
        "import sys, densedistill as dd; dd.load_recipe('demo/distilled'); print('torch' in sys.modules)"
    )
    assert done.stdout.strip() == "False", done.stderr
