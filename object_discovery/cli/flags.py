"""The command line: flat flags from dataclasses, and one line for every mistake."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import jsonargparse
from jsonargparse import set_parsing_settings

from object_discovery.errors import UserError

T = TypeVar("T")

RESUMABLE = "interrupted; run the same command again to continue"
"""Message after Ctrl-C of commands that continue where they stopped."""
_WRONG_TYPE = re.compile(r'key "(?P<name>\w+)".*value: (?P<value>.*)', re.DOTALL)
_SIGPIPE = 13  # not defined by `signal` on Windows


class FlagParser(jsonargparse.ArgumentParser):
    """Argument parser that reports a mistake in one line and exits with status 2.

    Args:
        prog: The command, as the user types it.
        description: What it does.
        arguments: Its positional arguments, as the usage line shows them.
        **kwargs: Further arguments of the parser.
    """

    def __init__(self, prog: str | None = None, description: str | None = None, arguments: str = "", **kwargs: Any):
        set_parsing_settings(docstring_parse_attribute_docstrings=True)
        usage = " ".join(filter(None, [prog, arguments, "[--FLAG VALUE ...]"])).replace("%", "%%")
        super().__init__(prog=prog, usage=usage, description=description, allow_abbrev=False, **kwargs)
        self.expected_values: dict[str, str] = {}
        """What the value of a flag has to be, by the name of the flag; for messages."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message in one line and exit; a value of a wrong type is reported in our own words."""
        match = _WRONG_TYPE.search(message)
        if match and match["name"] in self.expected_values:
            name = match["name"]
            message = f"Expected argument `{name}` to be {self.expected_values[name]}, but got {match['value']}"
        fail(message)


def fail(message: str) -> NoReturn:
    """Print one line on standard error and exit with status 2.

    Args:
        message: The message; line breaks become spaces.

    Raises:
        SystemExit: Always, with status 2.
    """
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)


@contextmanager
def one_line_errors(*mistakes: type[Exception], interrupted: str = "interrupted") -> Iterator[None]:
    """Turn what is not a bug into one line and an exit status; other errors keep their traceback.

    - `UserError`, `OSError` and `mistakes`: the message, status 2.
    - Ctrl-C: `interrupted`, status 130 (128 + SIGINT).
    - A closed standard output, as in `object-discovery download --list | head`: no message, status 141 (128 + SIGPIPE).

    Args:
        *mistakes: Further classes of errors that the user can fix.
        interrupted: Message after Ctrl-C.

    Raises:
        SystemExit: With the status.
    """
    mistakes = (UserError, OSError, *mistakes)
    try:
        yield
        sys.stdout.flush()  # here rather than at exit, where a closed pipe can no longer be caught
    except BrokenPipeError:
        with suppress(OSError):  # Python flushes standard output once more at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + _SIGPIPE) from None
    except mistakes as error:
        fail(str(error))
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def add_flags(parser: FlagParser, *classes: type[Any], defaults: Mapping[str, Any] | None = None) -> None:
    """Add a flag for each field of the dataclasses; a field that several classes share is one flag.

    `--help` shows a group for each dataclass. Inherited fields are in the group of the base class that defines them.

    Args:
        parser: The parser.
        *classes: Dataclasses.
        defaults: Values in place of the fields' own defaults; names that are no fields are ignored.
    """
    names: set[str] = set()
    for cls in classes:
        fields = {field.name for field in dataclasses.fields(cls)}
        parser.expected_values.update({name: _describe_type(hint) for name, hint in get_type_hints(cls).items()})
        for owner, group_names in _fields_by_owner(cls).items():
            new = group_names - names
            if new:
                group = parser.add_argument_group(_first_line(owner))
                group.add_class_arguments(cls, as_group=False, skip=fields - new)
        names |= fields
    parser.set_defaults({name: value for name, value in (defaults or {}).items() if name in names})


def apply_config(parser: FlagParser, config: Mapping[str, Any], source: str, owner: str) -> None:
    """Make the values of a configuration the defaults of a parser's flags; flags override them.

    Args:
        parser: The parser.
        config: Values by the names of flags.
        source: Name of the configuration, for messages.
        owner: Name of the model or command that has the flags, for messages.

    Raises:
        SystemExit: With status 2 and one line, if a name is no flag or a value is not of its type.
    """
    unknown = sorted(config.keys() - vars(parser.get_defaults()).keys(), key=str)
    if unknown:
        fail(f"{source} has {unknown[0]!r}, which is not a setting of {owner}")
    values = vars(parser.parse_args([f"--{name}={_flag_value(value)}" for name, value in config.items()]))
    parser.set_defaults({name: values[name] for name in config})


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """Construct a dataclass from the values that are its fields.

    Args:
        cls: The dataclass.
        values: Values by name; those that are no fields are ignored.

    Raises:
        SystemExit: With status 2 and one line, if a value is out of its range.
    """
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    try:
        return cls(**{name: value for name, value in values.items() if name in names})
    except ValueError as error:
        fail(str(error))


def peek_flag(argv: Sequence[str], name: str) -> str | None:
    """Find the value of a flag that decides which other flags exist, before they can be parsed.

    Args:
        argv: The arguments.
        name: Name of the flag, without dashes.

    Returns:
        Its last value, or None.

    Example:
        >>> peek_flag(["--lr", "1", "--dataset=coco"], "dataset")
        'coco'
    """
    value = None
    for index, argument in enumerate(argv):
        if argument == f"--{name}" and index + 1 < len(argv):
            value = argv[index + 1]
        elif argument.startswith(f"--{name}="):
            value = argument.split("=", 1)[1]
    return value


def _describe_type(hint: Any) -> str:
    """Describe the values of a type hint, as `an integer` or `one of a, b or null`."""
    options, arguments = get_origin(hint), get_args(hint)
    if options is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if options in (Union, UnionType):
        return " or ".join(map(_describe_type, arguments))
    if options is list:
        return "a list such as [32, 64]"
    names = {int: "an integer", float: "a number", bool: "true or false", type(None): "null"}
    return names.get(hint, "a text")


def _flag_value(value: Any) -> str:
    """Write a value of a YAML file as a flag takes it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _fields_by_owner(cls: type[Any]) -> dict[type[Any], set[str]]:
    """Return the names of a dataclass's fields by the class that first defines them, base classes first."""
    owners: dict[type[Any], set[str]] = {}
    known: set[str] = set()
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            new = {field.name for field in dataclasses.fields(base)} - known
            owners[base] = new
            known |= new
    return owners


def _first_line(cls: type[Any]) -> str:
    """Return the first line of a class's docstring as a title."""
    return (cls.__doc__ or cls.__name__).strip().split("\n", maxsplit=1)[0].rstrip(".")
