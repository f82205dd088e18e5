import errno
import io
import json
import os
import re
import subprocess
import sys
import time
import tomllib
import types
from pathlib import Path

import pytest

from densedistill import __version__, cli
from densedistill.cli import doctor
from densedistill.cli.doctor import EXTRAS
from densedistill.errors import UserError

ROOT = Path(__file__).parents[2]
SOURCE = str(ROOT / "src")
EXISTING = [verb for verb in cli.VERBS if (Path(cli.__file__).parent / f"{verb}.py").is_file()]


def call(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "densedistill", *arguments],
        env={**os.environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


@pytest.fixture
def verb(monkeypatch):
    """A verb that does what the test says."""

    def make(run):
        module = types.ModuleType("densedistill.cli.probe")
        module.__doc__ = "Probe."
        module.add_arguments = lambda parser: parser.add_argument("--depth", type=int)
        module.run = run
        monkeypatch.setitem(sys.modules, "densedistill.cli.probe", module)
        monkeypatch.setitem(cli.VERBS, "probe", "probe")

    return make


def raising(error):
    def run(args):
        raise error

    return run


def test_help_lists_every_verb_and_imports_no_torch():
    start = time.perf_counter()
    code = "import sys; from densedistill.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": SOURCE}, capture_output=True, text=True
    )
    assert time.perf_counter() - start < 5  # 0.7 s on a machine that does nothing else
    assert done.returncode == 0
    assert all(f"  {verb} " in done.stdout for verb in cli.VERBS)


@pytest.mark.parametrize("name", EXISTING)
def test_the_help_of_every_verb_has_an_example_and_needs_no_torch(name, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    monkeypatch.delitem(sys.modules, f"densedistill.cli.{name}", raising=False)
    assert cli.main([name, "--help"]) == 0
    assert f"densedistill {name}" in capsys.readouterr().out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"densedistill {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "there is no verb 'trian'; did you mean 'train'?"),
        (
            ["doctor", "--jsn"],
            "doctor takes no --jsn; did you mean '--json'?; see densedistill doctor --help",
        ),
        (["train", "dsnet/sceneflw"], "there is no recipe 'dsnet/sceneflw'; did you mean 'dsnet/sceneflow'?"),
        (["train"], "which recipe?"),
        (["train", "dsnet/sceneflow", "--seed"], "--seed lacks a value"),
        (["train", "dsnet/sceneflow", "stray"], "what is 'stray'?"),
        (["train", "dsnet/sceneflow", "--resume", "x"], "leave out 'dsnet/sceneflow'"),
        (["distill", "--resume", "nowhere"], "nowhere holds no run"),
        (
            ["predict", "sgbm", "--left", "l.png"],
            "the following arguments are required: --out; see",
        ),
        (
            ["predict", "sgbm", "--folder", "x", "--out", "y", "--color-max", "-3"],
            "--color-max: must be above 0, not -3",
        ),
        (["predict", "sgbm", "--left", ""], "there is nothing behind --left; is it a variable of the shell"),
        (["data", "make"], "required: OUT; see densedistill data make --help"),
        (["evaluate", "sgbm", "--limit", "few"], "argument --limit: invalid int value: 'few'; see"),
    ],
)
def test_a_mistake_has_one_line_and_status_2(arguments, message, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("no such file"), 2, "densedistill: no such file\n"),
        (KeyboardInterrupt(), 130, "densedistill: interrupted\n"),
        (KeyboardInterrupt("stopped at step 3"), 130, "densedistill: stopped at step 3\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 2, "the disk is full while writing /x"),
        (
            OSError(errno.EACCES, "Permission denied", "/x"),
            2,
            "densedistill: cannot reach /x: Permission denied\n",
        ),
        (OSError(errno.ENOSPC, "No space left", "/x", None, "/y"), 2, "the disk is full while writing /y;"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            2,
            "there is no folder for temporary files; let TMPDIR name one",
        ),
        (OSError(errno.EMFILE, "Too many open files"), 2, "too many files are open; raise the limit (ulimit"),
    ],
)
def test_errors_become_statuses(error, status, said, verb, capsys):
    verb(raising(error))
    assert cli.main(["probe"]) == status
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("encoding", "said"), [("ascii", "\\xdc \\udce9"), ("utf-8", "Ü \\udce9")])
def test_what_a_screen_has_no_letters_for_is_escaped(encoding, said, verb, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True))
    verb(lambda args: print("Ü \udce9"))
    assert cli.main(["probe"]) == 0
    assert sys.stdout.buffer.getvalue().decode(encoding).strip() == said
    verb(raising(UserError("Ü \udce9")))
    assert cli.main(["probe"]) == 2
    assert sys.stderr.buffer.getvalue().decode(encoding).strip() == f"densedistill: {said}"


def test_a_folder_that_is_gone_is_one_line(tmp_path, verb, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    verb(lambda args: os.path.abspath("x"))
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err == "densedistill: the folder that you are in is gone; go to another\n"


def test_closed_streams_take_what_is_said(verb, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    verb(lambda args: sys.stderr.isatty())
    assert cli.main(["probe"]) == 0
    verb(raising(UserError("no such file")))
    assert cli.main(["probe"]) == 2


def test_a_fault_of_ours_keeps_its_traceback(verb):
    verb(raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["probe"])


def test_a_reader_that_has_enough_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m densedistill recipes dsnet/table3 | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        env={**os.environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_work_goes_on_when_nobody_reads_its_output(verb, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        for name in ("stdout", "__stdout__", "stderr", "__stderr__"):
            monkeypatch.setattr(sys, name, pipe)
        verb(lambda args: [print("tracing", file=out, flush=True) for out in (sys.stdout, sys.stderr)] and 1)
        assert cli.main(["probe"]) == 1


def test_a_full_disk_below_the_output_is_one_line():
    code = f"{sys.executable} -m densedistill --version > /dev/full"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        code, shell=True, env={**environment, "PYTHONPATH": SOURCE}, capture_output=True, text=True
    )
    words = "densedistill: the disk is full; make room and start again\n"
    assert (done.returncode, done.stderr) == (2, words)


def test_recipes_are_listed_and_printed_resolved(capsys):
    assert cli.main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert "dsnet/sceneflow-paper" in listed
    assert cli.main(["recipes", "gwcnet/sceneflow", "--optimizer.lr", "2e-3", "--data.train.root=/data"]) == 0
    printed = capsys.readouterr().out
    assert "lr: 0.002" in printed
    assert "root: /data" in printed


def test_a_package_in_the_working_directory_is_found_by_the_installed_command(tmp_path):
    (tmp_path / "mine.py").write_text("def build():\n    raise KeyboardInterrupt('mine was called')\n")
    # An installed command has its own folder, not the working directory, in front of the path.
    command = "import sys; del sys.path[0]; from densedistill.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", command, "label", "mine:build", "--frames", "x", "--out", "y"],
        env={**os.environ, "PYTHONPATH": SOURCE},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.strip()) == (130, "densedistill: mine was called")


def test_a_misspelt_field_is_told_before_torch_is_imported():
    code = (
        "import sys; from densedistill.cli import main;"
        "status = main(['train', 'dsnet/sceneflow', '--optimzer.lr', '1']);"
        "sys.exit(0 if status == 2 and 'torch' not in sys.modules else 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": SOURCE}).returncode == 0


def test_doctor_looks_for_what_the_extras_install():
    brought = {
        name: {re.split(r"[<>=\[]", package)[0].replace("-", "_") for package in packages}
        for name, packages in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
            "optional-dependencies"
        ].items()
    }
    brought["docs"].add("mkdocs")  # comes with its theme
    for name, (modules, _) in EXTRAS.items():
        assert set(modules) <= brought[name]
    assert set(EXTRAS) == set(brought)


def test_doctor_measures_and_says_what_to_install(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["convolution"]["float32_gflops"] > 0
    assert found["auto"] in ("float32", "bfloat16")
    assert found["missing"] == []
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "float32" in said
    for extra, modules in found["extras"].items():
        assert all(modules.values()) or f"densedistill[{extra}]" in said


def test_doctor_says_where_torch_has_more_threads_than_a_container_has_processors():
    said = "torch takes 64 threads, which wait for each other on 2 cores: set OMP_NUM_THREADS=2"
    assert [line.split(maxsplit=1)[1] for line in doctor._too_many(64, 2)] == [said]
    assert doctor._too_many(2, 2) == doctor._too_many(1, 2) == []
