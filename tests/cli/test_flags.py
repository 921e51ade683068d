from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from object_discovery.cli.flags import FlagParser, add_flags, build, fail, one_line_errors, peek_flag
from object_discovery.errors import CheckpointError, CorruptFileError, DatasetNotFoundError, UserError


@dataclass
class Images:
    """Which images."""

    size: int = 35
    """Height and width in pixels."""
    root: str | None = None
    """Where they are."""


@dataclass
class Network:
    """Which network."""

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


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed, which must be one line on stderr."""
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", printed.err)
    return printed.err


@pytest.mark.parametrize(
    ("argv", "named"),
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
def test_mistakes_on_the_command_line_end_in_one_line(
    argv: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(*argv)
    assert ended.value.code == 2
    assert named in only_line(capsys)


def test_values_out_of_range_end_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build(Network, vars(parse("--rate=-1")))
    assert ended.value.code == 2
    assert only_line(capsys) == "error: Expected argument `rate` to be positive, but got -1.0\n"


def test_messages_are_squeezed_into_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        fail("first\n   second\tthird")
    assert ended.value.code == 2
    assert only_line(capsys) == "error: first second third\n"


@pytest.mark.parametrize(
    "error", [UserError, DatasetNotFoundError, CorruptFileError, CheckpointError, FileNotFoundError]
)
def test_errors_that_users_can_mend_end_in_one_line(error: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise error("no\nfile")
    assert ended.value.code == 2
    assert only_line(capsys) == "error: no file\n"


@pytest.mark.parametrize("error", [ValueError, TypeError, RuntimeError, KeyboardInterrupt])
def test_other_errors_keep_their_traceback(error: type[BaseException]) -> None:
    with pytest.raises(error, match="bug"), one_line_errors():
        raise error("bug")


def test_nothing_happens_where_nothing_is_wrong() -> None:
    with one_line_errors():
        assert parse().rate == 1e-3


def test_errors_that_users_can_mend_are_value_errors() -> None:
    assert all(issubclass(error, UserError) for error in (DatasetNotFoundError, CorruptFileError, CheckpointError))
    assert issubclass(UserError, ValueError)


def test_flags_come_before_given_defaults_and_these_before_those_of_the_classes() -> None:
    assert parse().rate == 1e-3
    assert parse(rate=0.5).rate == 0.5
    assert parse("--rate", "2", rate=0.5).rate == 2.0
    assert parse("--rate=2", "--rate=3", rate=0.5).rate == 3.0
    assert parse("--kind=large", rate=0.5).rate == 0.5


def test_defaults_for_names_that_are_no_flags_are_left_out() -> None:
    values = vars(parse(model_type="sa", rate=0.5))
    assert "model_type" not in values
    assert values["rate"] == 0.5


def test_a_field_that_classes_share_is_one_flag() -> None:
    values = vars(parse())
    assert values["size"] == 35  # the first class has the word
    values = vars(parse("--size", "64", "--root", "here", "--widths", "[4, 8]"))
    assert build(Images, values) == Images(64, "here")
    assert build(Network, values) == Network(64, widths=[4, 8])
    assert build(Network, vars(parse(size=48))).size == 48


def test_null_is_none() -> None:
    assert parse("--root", "null", root="here").root is None
    assert parse("--widths=null", widths=[1]).widths is None


def test_help_says_what_each_flag_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for words in ("--rate", "Learning rate.", "How large.", "Where they are."):
        assert words in text
    assert text.count("--size") == text.count("--rate")


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
def test_early_finds_the_last_value_of_a_flag(argv: list[str], value: str | None) -> None:
    assert peek_flag(argv, "name") == value
