"""Errors that a user can mend: the command line prints them as one line and exits with status 2."""

from __future__ import annotations

from typing import Any


class UserError(ValueError):
    """An error in the arguments or files that the user can correct; the message tells how."""


class DatasetNotFoundError(UserError):
    """No dataset of this name, or nothing at the place where it should be."""


class CorruptFileError(UserError):
    """A file is truncated, damaged or of another kind; the message names the file and the place in it."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or of another model."""


def check_argument(ok: bool, name: str, expected: str, value: object) -> None:
    """Raise a ValueError with the expected values of a hyperparameter."""
    if not ok:
        raise ValueError(f"Expected argument `{name}` to be {expected}, but got {value!r}")


def check_at_least(params: Any, minimum: float, *names: str) -> None:
    """Check that hyperparameters are at least a minimum, or None."""
    for name in names:
        value = getattr(params, name)
        check_argument(value is None or value >= minimum, name, f"at least {minimum}", value)
