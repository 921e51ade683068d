"""Errors that a user can fix, and checks of arguments. The command line prints the message and exits with status 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class UserError(ValueError):
    """Invalid argument or input file; the message says how to fix it."""


class DatasetNotFoundError(UserError):
    """No dataset of this name, or no data at the given path."""


class CorruptFileError(UserError):
    """A file is truncated, damaged or of another format; the message names the file and the position."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or of another model."""


def check_argument(ok: bool, name: str, expected: str, value: object) -> None:
    """Check an argument.

    Args:
        ok: Whether the value is valid.
        name: Name of the argument.
        expected: What it has to be, such as `positive`.
        value: Its value.

    Raises:
        ValueError: If `ok` is False.

    Example:
        >>> check_argument(False, "lr", "positive", -1)
        Traceback (most recent call last):
        ValueError: Expected argument `lr` to be positive, but got -1
    """
    if not ok:
        raise ValueError(f"Expected argument `{name}` to be {expected}, but got {value!r}")


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Check that an argument is one of several choices.

    Raises:
        ValueError: If it is not.

    Example:
        >>> check_choice("fit", "stretch", ["crop", "squash"])
        Traceback (most recent call last):
        ValueError: Expected argument `fit` to be one of crop, squash, but got 'stretch'
    """
    check_argument(value in choices, name, f"one of {', '.join(map(str, choices))}", value)


def check_at_least(params: Any, minimum: float, *names: str) -> None:
    """Check that fields of a dataclass are at least `minimum`, or None.

    Raises:
        ValueError: If one is not.
    """
    for name in names:
        value = getattr(params, name)
        check_argument(value is None or value >= minimum, name, f"at least {minimum}", value)


def one_line(error: Exception) -> str:
    """Return the message of an error in one line, or its type if there is none.

    Example:
        >>> one_line(OSError(" no such  file"))
        'no such file'
    """
    return " ".join(str(error).split()) or type(error).__name__
