"""The command `object-discovery`, also `python -m object_discovery`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Protocol

from object_discovery.cli.subcommands import Subcommand, dispatch

PROG = "object-discovery"
DESCRIPTION = "Unsupervised object discovery: train, evaluate and apply models; download and convert datasets."
COMMANDS = {
    "train": Subcommand("object_discovery.train:main", "Train a model."),
    "evaluate": Subcommand("object_discovery.evaluate:main", "Score a trained model on a dataset."),
    "predict": Subcommand("object_discovery.predict:main", "Segment the objects of image files."),
    "generate": Subcommand("object_discovery.cli.generate:main", "Sample scenes from a model's prior (gnm)."),
    "compose": Subcommand("object_discovery.cli.compose:main", "Recombine the slots of several images (slate)."),
    "benchmark": Subcommand("object_discovery.benchmark:main", "Measure speed on this machine."),
    "download": Subcommand("object_discovery.cli.download:main", "Download a published dataset."),
    "convert": Subcommand("object_discovery.cli.convert:main", "Convert a dataset to the format that is read fastest."),
    "describe": Subcommand("object_discovery.cli.describe:main", "Summarise a dataset on the disk."),
    "cache-features": Subcommand("object_discovery.cache_features:main", "Store the features of a frozen encoder."),
}
"""The subcommands by name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments. None: the process's own.

    Returns:
        The exit status: 0, 2 after a mistake of the user's, or 128 plus the number of the signal that stopped it.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        if list(argv) == ["--version"]:
            print(f"{PROG} {_version()}")
        else:
            dispatch(PROG, DESCRIPTION, COMMANDS, argv)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


class Main(Protocol):
    """Type of the `main` function of a subcommand."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Run the command with its arguments, and return the exit status."""


def script(*words: str) -> Main:
    """Return the `main` of a script that runs a subcommand.

    Args:
        *words: The arguments that choose the subcommand, such as `convert`, `records`.

    Returns:
        A function of the further arguments (None: the process's own), which returns the exit status.
    """

    def run(argv: Sequence[str] | None = None) -> int:
        return main([*words, *(sys.argv[1:] if argv is None else argv)])

    return run


def _version() -> str:
    try:
        return metadata.version("object_discovery")
    except metadata.PackageNotFoundError:
        return "(not installed)"
