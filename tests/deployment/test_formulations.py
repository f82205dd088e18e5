"""The published steps that the benchmarks measure against compute what this toolkit computes."""

import argparse
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import distillation_step
from formulations import NAMES


@pytest.mark.parametrize("system", NAMES)
def test_both_sides_of_a_step_give_one_loss(system):
    options = argparse.Namespace(
        system=system, height=128, width=128, max_disparity=64, batch=1, precision="float32"
    )
    losses = distillation_step.check(options)
    assert losses["ours"] == pytest.approx(losses["plain"], rel=1e-4)
