"""What the scripts of `data_scripts` share; it imports nothing that takes time."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn


class ScriptParser(argparse.ArgumentParser):
    """An argument parser that reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with status 2."""
        self.exit(2, f"error: {message}\n")


def exit_status(work: Callable[[], None], interrupted: str = "interrupted; run the same command again to go on") -> int:
    """Do what a script is for, and turn what the user can mend, and Ctrl-C, into one line.

    Args:
        work: Does it; what takes time to import belongs in it, so that Ctrl-C is caught meanwhile.
        interrupted: What to say after Ctrl-C.

    Returns:
        The exit status: 0, 2 if something is wrong with the arguments or files, or 130 if interrupted.
    """
    try:
        work()
    except (ValueError, OSError) as error:  # UserError is a ValueError
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    return 0
