"""The command `object-discovery` and its subcommands."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest

from object_discovery.cli.command import COMMANDS, main, script
from object_discovery.cli.convert import KINDS
from object_discovery.cli.subcommands import Subcommand, dispatch

ROOT = Path(__file__).parents[2]
SCRIPTS = [*sorted((ROOT / "data_scripts").glob("*.py")), ROOT / "predict.py"]
BENCHMARK = ["benchmark", "data"]

received: list[Sequence[str]] = []
"""The arguments of `subcommand`."""


def subcommand(argv: Sequence[str]) -> None:
    received.append(argv)


TABLE = {"run": Subcommand(f"{__name__}:subcommand", "Run."), "jump": Subcommand("no_such_module:main", "Jump.")}


def test_the_chosen_subcommand_gets_the_remaining_arguments() -> None:
    dispatch("tool", "A tool.", TABLE, ["run", "--help", "run"])  # the module of `jump` is not imported
    assert received.pop() == ["--help", "run"]


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_help_lists_the_subcommands(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    dispatch("tool", "A tool.", TABLE, argv)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: tool COMMAND ..."
    assert {"A tool.", "  run   Run.", "  jump  Jump."} < set(lines)


@pytest.mark.parametrize(("name", "hint"), [("runn", "'runn': did you mean run?"), ("xyz", "'xyz'")])
def test_unknown_subcommand_is_reported_in_one_line_with_a_similar_name(
    name: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        dispatch("tool", "A tool.", TABLE, [name])
    assert error.value.code == 2
    assert capsys.readouterr().err == f"error: Expected tool to be followed by one of run, jump, but got {hint}\n"


def test_exit_statuses_are_returned(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main(["download", "--list"]) == main(["train", "--help"]) == 0
    assert main(["trian"]) == main(["train", "--lr", "high"]) == main(["convert", "record"]) == 2
    assert main(["download"]) == main(["describe", "no/such/folder"]) == 2
    assert capsys.readouterr().err.count("error: ") == 5


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert capsys.readouterr().out in (f"object-discovery {version}\n", "object-discovery (not installed)\n")


def test_the_package_can_be_run_as_a_module() -> None:
    command = [sys.executable, "-m", "object_discovery", "trian"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.endswith("but got 'trian': did you mean train?\n")


@pytest.mark.parametrize("target", [entry.target for table in (COMMANDS, KINDS) for entry in table.values()])
def test_every_subcommand_exists(target: str) -> None:
    module, function = target.split(":")
    assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize(
    "subcommand_argv", [[name] for name in COMMANDS] + [["convert", kind] for kind in KINDS] + [BENCHMARK]
)
def test_every_subcommand_has_a_help(subcommand_argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*subcommand_argv, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: object-discovery {' '.join(subcommand_argv)} ")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_does_not_import_torch(name: str) -> None:
    program = f"""
import sys
from object_discovery.cli.command import main
status = main([{name!r}, "--help"])
sys.exit(status or "torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_run_subcommands(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runpy.run_path(str(path))["main"]
    assert run(["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: object-discovery ")
    assert run(["--no_such_flag"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_scripts_take_the_arguments_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["download.py", "--list"])
    assert script("download")(None) == 0
    assert capsys.readouterr().out.startswith("clevr\n")
