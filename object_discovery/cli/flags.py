"""The command line: flat flags from dataclasses, and one line for every mistake."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import jsonargparse
from jsonargparse import set_parsing_settings

from object_discovery.errors import UserError

T = TypeVar("T")


class FlagParser(jsonargparse.ArgumentParser):
    """An argument parser that reports a mistake in one line and exits with status 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        set_parsing_settings(docstring_parse_attribute_docstrings=True)
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message in one line and exit."""
        fail(message)


def fail(message: str) -> NoReturn:
    """Print one line and exit with status 2, as for any mistake of the user's."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors that the user can mend into one line and exit status 2; others keep their traceback."""
    try:
        yield
    except (UserError, OSError) as error:
        fail(str(error))


def add_flags(parser: FlagParser, *classes: type[Any], defaults: Mapping[str, Any] | None = None) -> None:
    """Give the parser a flag for each field of the dataclasses; a field that several share is one flag.

    Args:
        parser: The parser.
        *classes: Dataclasses.
        defaults: Values in place of the fields' own defaults; names that are no fields are left out.
    """
    seen: set[str] = set()
    for cls in classes:
        parser.add_class_arguments(cls, skip=seen & {field.name for field in dataclasses.fields(cls)})
        seen |= {field.name for field in dataclasses.fields(cls)}
    parser.set_defaults({name: value for name, value in (defaults or {}).items() if name in seen})


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """Make a dataclass of the values that are its fields; a value out of range ends in one line."""
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    try:
        return cls(**{name: value for name, value in values.items() if name in names})
    except ValueError as error:
        fail(str(error))


def peek_flag(argv: Sequence[str], name: str) -> str | None:
    """Find the value of a flag before the parser exists that knows all flags.

    Example:
        >>> peek_flag(["--lr", "1", "--dataset=coco"], "dataset")
        'coco'
    """
    value = None
    for i, word in enumerate(argv):
        if word == f"--{name}" and i + 1 < len(argv):
            value = argv[i + 1]
        elif word.startswith(f"--{name}="):
            value = word.split("=", 1)[1]
    return value
