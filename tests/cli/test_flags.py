from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from object_discovery.cli.flags import (
    RESUMABLE,
    FlagParser,
    add_flags,
    apply_config,
    build,
    fail,
    one_line_errors,
    peek_flag,
)
from object_discovery.errors import CheckpointError, CorruptFileError, DatasetNotFoundError, UserError


@dataclass
class Images:
    """Images.

    Further lines are not in the title of the group.
    """

    size: int = 35
    """Height and width in pixels."""
    root: str | None = None
    """Where they are."""


@dataclass
class Optimizer:
    """Optimiser."""

    rate: float = 1.0
    """Step size."""


@dataclass
class Network(Optimizer):
    """Network."""

    size: int = 128
    """Height and width in pixels."""
    rate: float = 1e-3
    """Learning rate."""
    kind: Literal["small", "large"] = "small"
    """How large."""
    widths: list[int] | None = None
    """Channels of each layer."""

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"Expected argument `rate` to be positive, but got {self.rate}")


def parse(*argv: str, **defaults: Any) -> Any:
    parser = FlagParser(prog="train")
    add_flags(parser, Images, Network, defaults=defaults)
    return parser.parse_args(list(argv))


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed, which must be one line on standard error."""
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", printed.err)
    return printed.err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--no_such_flag", "1"], "no_such_flag"),
        (["--size", "many"], "size"),
        (["--size", "3.5"], "size"),
        (["--rate", "fast"], "rate"),
        (["--kind", "huge"], "kind"),
        (["--widths", "[1, two]"], "widths"),
        (["--size"], "size"),
        (["stray"], "stray"),
    ],
)
def test_wrong_arguments_are_reported_in_one_line(
    argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        parse(*argv)
    assert error.value.code == 2
    assert expected in error_line(capsys)


def test_values_out_of_range_are_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        build(Network, vars(parse("--rate=-1")))
    assert error.value.code == 2
    assert error_line(capsys) == "error: Expected argument `rate` to be positive, but got -1.0\n"


def test_line_breaks_in_messages_become_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        fail("first\n   second\tthird")
    assert error.value.code == 2
    assert error_line(capsys) == "error: first second third\n"


@pytest.mark.parametrize("cls", [UserError, DatasetNotFoundError, CorruptFileError, CheckpointError, FileNotFoundError])
def test_user_errors_are_reported_in_one_line(cls: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error, one_line_errors():
        raise cls("no\nfile")
    assert error.value.code == 2
    assert error_line(capsys) == "error: no file\n"


@pytest.mark.parametrize("cls", [ValueError, TypeError, RuntimeError])
def test_other_errors_keep_their_traceback(cls: type[Exception]) -> None:
    with pytest.raises(cls, match="bug"), one_line_errors():
        raise cls("bug")


def test_further_errors_can_be_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), one_line_errors(ValueError):
        raise ValueError("wrong")
    assert error_line(capsys) == "error: wrong\n"


def test_ctrl_c_is_one_line_and_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    for options, line in (({}, "interrupted\n"), ({"interrupted": RESUMABLE}, f"{RESUMABLE}\n")):
        with pytest.raises(SystemExit) as error, one_line_errors(**options):
            raise KeyboardInterrupt
        assert error.value.code == 130
        assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("lines", [1, 100_000])  # the pipe breaks when the command ends, and while it prints
def test_closed_pipe_ends_a_command_without_traceback(lines: int) -> None:
    program = f"""
from object_discovery.cli.flags import one_line_errors
with one_line_errors():
    input()
    for _ in range({lines}):
        print("line")
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], **pipes, text=True) as process:  # type: ignore[call-overload]
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_block_without_errors_runs_normally() -> None:
    with one_line_errors():
        assert parse().rate == 1e-3


def test_user_errors_are_value_errors() -> None:
    assert all(issubclass(error, UserError) for error in (DatasetNotFoundError, CorruptFileError, CheckpointError))
    assert issubclass(UserError, ValueError)


def test_flags_override_given_defaults_and_these_those_of_the_classes() -> None:
    assert parse().rate == 1e-3
    assert parse(rate=0.5).rate == 0.5
    assert parse("--rate", "2", rate=0.5).rate == 2.0
    assert parse("--rate=2", "--rate=3", rate=0.5).rate == 3.0
    assert parse("--kind=large", rate=0.5).rate == 0.5


def test_defaults_that_are_no_flags_are_ignored() -> None:
    values = vars(parse(model_type="sa", rate=0.5))
    assert "model_type" not in values
    assert values["rate"] == 0.5


def test_a_field_of_several_classes_is_one_flag() -> None:
    values = vars(parse())
    assert values["size"] == 35  # the default of the first class
    values = vars(parse("--size", "64", "--root", "here", "--widths", "[4, 8]"))
    assert build(Images, values) == Images(64, "here")
    assert build(Network, values) == Network(size=64, widths=[4, 8])
    assert build(Network, vars(parse(size=48))).size == 48


def test_null_is_parsed_as_none() -> None:
    assert parse("--root", "null", root="here").root is None
    assert parse("--widths=null", widths=[1]).widths is None


def test_help_groups_flags_by_the_class_that_defines_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        parse("--help")
    assert error.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: train [--FLAG VALUE ...]\n")
    names = re.findall(r"^([A-Z]\w+):$|^  --(\w+)", text, re.MULTILINE)
    assert [title or flag for title, flag in names if flag != "print_config"] == [
        *("Images", "size", "root", "Optimiser", "rate", "Network", "kind", "widths")
    ]
    assert "Learning rate." in text  # the docstring of the class that overrides the field
    assert "Step size." not in text


# Configurations


def make_parser(**defaults: Any) -> FlagParser:
    parser = FlagParser(prog="train")
    add_flags(parser, Images, Network, defaults=defaults)
    return parser


def test_flags_override_a_configuration_and_this_the_defaults() -> None:
    parser = make_parser(size=48, rate=0.5)
    apply_config(parser, {"rate": 0.25, "root": None, "widths": [4, 8], "kind": "large"}, "mine.yaml", "sa")
    values = parser.parse_args(["--kind", "small"])
    assert (values.size, values.rate, values.root, values.widths, values.kind) == (48, 0.25, None, [4, 8], "small")


def test_integers_of_a_configuration_become_floats() -> None:
    parser = make_parser()
    apply_config(parser, {"rate": 2}, "mine.yaml", "sa")
    assert isinstance(parser.parse_args([]).rate, float)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"no_such": 1}, "error: mine.yaml has 'no_such', which is not a setting of sa\n"),
        ({1: 2, "no_such": 1}, "error: mine.yaml has 1, which is not a setting of sa\n"),
        ({"size": "many"}, "size"),
        ({"rate": None}, "rate"),
        ({"kind": "huge"}, "kind"),
        ({"widths": [1, "two"]}, "widths"),
    ],
)
def test_mistakes_in_a_configuration_are_reported_in_one_line(
    config: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        apply_config(make_parser(), config, "mine.yaml", "sa")
    assert error.value.code == 2
    assert expected in error_line(capsys)


# Flags that select the other flags


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        ([], None),
        (["--other", "1"], None),
        (["--name", "a"], "a"),
        (["--name=a"], "a"),
        (["--name", "a", "--name=b"], "b"),
        (["--name=a=b"], "a=b"),
        (["--name"], None),
        (["--names", "a"], None),
        (["--name="], ""),
    ],
)
def test_the_last_value_of_a_flag_is_found_before_parsing(argv: list[str], value: str | None) -> None:
    assert peek_flag(argv, "name") == value
