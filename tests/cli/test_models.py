"""`densedistill models`."""

import argparse
import json
import sys

import pytest

from densedistill.cli import models
from densedistill.cli._console import table_console
from densedistill.errors import UserError
from densedistill.networks import list_models


def run(*arguments):
    parser = argparse.ArgumentParser()
    models.add_arguments(parser)
    return models.run(parser.parse_args(arguments))


def test_json_has_parameters_true_macs_and_macs_by_the_papers_rule(capsys):
    assert run("dsnet_bb21_ed2_n16", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row == {
        "name": "dsnet_bb21_ed2_n16",
        "task": "stereo",
        "params": 1_503_024,
        "params_paper": 1_545_568,
        "macs_true": 52_638_515_200,
        "macs_paper": 67_189_080_064,
        "size": [256, 512],
        "weights": row["weights"],
    }


def test_every_network_is_listed_with_what_it_costs(capsys):
    assert run("--json", "--size", "256x256") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list_models()
    assert all(row["params"] > 0 and row["macs_true"] > 0 for row in rows)


def test_a_network_of_a_package_that_is_not_there_is_listed_with_what_it_needs(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    assert run("smp") == 0
    assert "pip install" in " ".join(capsys.readouterr().out.split())


def test_table_lists_what_matches_at_the_size_wanted(capsys):
    assert run("dsnet_sl*", "--size", "32x64", "--task", "stereo") == 0
    text = capsys.readouterr().out
    assert "dsnet_slim" in text
    assert "GMACs at 32x64" in text
    assert "acvnet" not in text
    assert "default search range" in " ".join(text.split())


def test_names_and_tasks_are_whole_in_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run("espnet*") == 0
    text = capsys.readouterr().out
    assert "espnet_upstream_city" in text
    assert "segmentation" in text


def test_a_table_takes_the_width_that_it_needs_where_there_is_no_terminal(monkeypatch):
    assert table_console().width > 100
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes that for a terminal
    monkeypatch.setenv("COLUMNS", "90")
    assert table_console().width == 90


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dsnet_slin",), "no network matches 'dsnet_slin'.*did you mean 'dsnet_slim'"),
        (("--size", "256"), "height x width in pixels, as 256x512, not '256'"),
        (("--task", "stero"), "there is no task 'stero'"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        run(*arguments)
