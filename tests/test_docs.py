"""What README and docs say runs: Python blocks are executed, commands are parsed, recipes are checked."""

import argparse
import importlib
import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from densedistill import cli
from densedistill.cli import VERBS, make_parser
from densedistill.cli._recipe import read_flags
from densedistill.networks import create_model, published
from densedistill.networks.input_spec import InputSpec
from densedistill.recipes import list_recipes, load_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
NOT_OURS = ("git", "cd", "source", "pip", "python", "torchrun", "sudo", "open", "#")


def blocks(page, *kinds):
    return [text for kind, text in BLOCK.findall(page.read_text()) if kind in kinds]


def named(pages):
    return [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in pages]


def commands(page):
    """Every command line of a page: in shell blocks, and in running text between backticks."""
    text = "\n".join(blocks(page, "bash", "sh", "console")).replace("\\\n", " ")
    lines = [line.split(" #")[0].strip() for line in text.splitlines()]
    inline = re.findall(r"`(densedistill [a-z]+ [^`…]+)`", page.read_text())
    return [line for line in [*lines, *inline] if line and not line.startswith("#")]


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """The weights that ship; random ones where they are not built yet."""
    wanted = ("dsnet_slim", "gwcnet_slim")
    if not all((published.SHIPPED / f"{name}.safetensors").is_file() for name in wanted):
        for name in wanted:
            published.save_weights(create_model(name), tmp_path / f"{name}.safetensors", half=True)
        monkeypatch.setattr(published, "SHIPPED", tmp_path)


@pytest.mark.parametrize("page", named(p for p in PAGES if blocks(p, "python")))
def test_python_on_a_page_runs_from_top_to_bottom(page, shipped, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    names = {"__name__": "page"}
    try:
        for number, block in enumerate(blocks(page, "python"), 1):
            exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec(pad="top-right"),
        InputSpec(mean=(103.0, 116.0, 123.0), std=(1.0, 1.0, 1.0), channels="bgr", range=255.0, multiple=32),
        InputSpec(pad="centre", pad_mode="reflect", multiple=32),
        InputSpec(pad_mode="replicate", min_size=(64, 60)),
    ],
    ids=lambda spec: f"{spec.channels} {spec.pad} {spec.pad_mode}",
)
def test_numpy_on_the_page_of_exports_prepares_images_as_we_do(spec):
    names = {}
    (block,) = (b for b in blocks(ROOT / "docs/how-to/export.md", "python") if "def padded" in b)
    exec(block, names)
    image = torch.rand(3, 37, 50)
    whole, inside = names["padded"](image.numpy(), json.loads(json.dumps(vars(spec))))
    assert (whole[(0, slice(None), *inside)] == image.numpy()).all()
    (wanted,), _ = spec.prepare(image[None])
    torch.testing.assert_close(spec.normalise(torch.from_numpy(whole)), wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("page", named(p for p in PAGES if commands(p)))
def test_commands_on_a_page_are_understood(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in commands(page):
        words = shlex.split(line)
        if words[0] == "make":
            assert set(words[1:]) <= targets, line
        elif words[0] == "torchrun":
            assert words[words.index("-m") + 1] == "densedistill"
            parse(words[words.index("-m") + 2 :], line)
        elif words[0] in ("densedistill", "srun"):
            parse(words[words.index("densedistill") + 1 :], line)
        else:
            assert words[0] in NOT_OURS, line


def parse(words, line):
    verb, *arguments = words
    assert verb in VERBS, line
    module = importlib.import_module(f"densedistill.cli.{verb}")
    if arguments == ["--help"]:
        return
    try:
        args, rest = cli.parse(module, arguments)
    except SystemExit:
        pytest.fail(f"{line}: see above what the parser says")
    if not getattr(module, "TAKES_RECIPE_FLAGS", False):
        assert not rest, line
        return
    fields = read_flags(rest)
    if args.recipe in list_recipes():
        load_recipe(args.recipe, twin=args.twin, overrides=fields)


@pytest.mark.parametrize("page", named(p for p in PAGES if blocks(p, "yaml")))
def test_recipes_on_a_page_are_valid(page):
    for block in blocks(page, "yaml"):
        fields = yaml.safe_load(block)
        if "objective" in fields:
            load_recipe(fields)
        else:  # a piece of one: laid over a recipe that ships
            over = {f"{key}.{k}": v for key, value in fields.items() for k, v in value.items()}
            load_recipe("demo/baseline", overrides=over)


@pytest.mark.parametrize("page", named([ROOT / "README.md"]))
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)|src=\"([^\"]+)\"", page.read_text()):
        link = "".join(target)
        if not link.startswith("https://"):
            assert (page.parent / link).exists(), link


def test_every_mark_in_the_docs_is_filled_from_the_program():
    spec = importlib.util.spec_from_file_location("generated", ROOT / "docs" / "generated.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    used = {name for page in PAGES for name in MARK.findall(page.read_text())}
    assert used == set(hook._SECTIONS)
    page = hook.on_page_markdown("before\n<!-- generated: verbs -->\nafter")
    assert page.startswith("before\n## demo")
    for verb in VERBS:
        assert f"usage: densedistill {verb}" in page
    table = hook.on_page_markdown("<!-- generated: recipes -->").splitlines()
    assert len(table) == 2 + len(list_recipes())
    losses = hook.on_page_markdown("<!-- generated: losses -->")
    assert "`ln(|student - teacher| + epsilon)`" in losses
    assert r"KL(teacher \|\| student)" in losses


def test_the_front_page_starts_with_the_picture_and_the_two_commands():
    first_screen = (ROOT / "README.md").read_text().splitlines()[:20]
    text = "\n".join(first_screen)
    assert re.search(r"!\[[^\]]*\]\(docs/images/", text)
    assert "make demo" in text
    assert "make test" in text


def test_pictures_in_the_docs_are_small():
    for path in (ROOT / "docs" / "images").iterdir():
        assert path.stat().st_size < 300_000, path


def test_parsers_take_the_examples_of_their_own_help():
    for verb in VERBS:
        module = importlib.import_module(f"densedistill.cli.{verb}")
        parser = make_parser(module)
        assert isinstance(parser, argparse.ArgumentParser)
        examples = re.findall(
            r"^  densedistill (.*)$", (parser.epilog or "").replace("\\\n", " "), re.MULTILINE
        )
        assert examples, f"{verb} --help has no example"
        for example in examples:
            parse(shlex.split(example), f"densedistill {example}")
