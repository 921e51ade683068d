"""Configurations: the shipped ones, which are read by name, and YAML files."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from object_discovery.errors import UserError, one_line


class _Loader(yaml.SafeLoader):
    """YAML loader that reads `1e-3` as a number, as the command line does; YAML 1.1 requires `1.0e-3`."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_config(name: str | Path) -> dict[str, Any]:
    """Read a configuration: the name of a shipped one, or a YAML file.

    Args:
        name: Name of a shipped configuration, such as `sa_clevr6`, or path of a file.

    Returns:
        Values by flag name.

    Raises:
        UserError: If there is no such configuration, or it is not a YAML mapping.

    Example:
        >>> read_config("sa_clevr6")["num_slots"]
        7
    """
    folder = resources.files(__name__)
    shipped = folder / f"{name}.yaml"
    path = Path(name)
    if not (shipped.is_file() or path.is_file()):
        names = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
        raise UserError(f"Expected a YAML file or one of {', '.join(names)}, but got {str(name)!r}")
    try:
        values = yaml.load((shipped if shipped.is_file() else path).read_text(), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{name} is not YAML: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"Expected {name} to hold `flag: value` lines, but got {type(values).__name__}")
    return values
