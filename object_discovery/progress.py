"""Progress bars on a terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn


def progress_bar(*columns: ProgressColumn, enabled: bool = True) -> Progress:
    """Create a progress bar on standard error, which disappears when it ends.

    Args:
        *columns: Columns between the bar and the time left.
        enabled: Show it. It is never shown where standard error is no terminal.

    Returns:
        The bar, a context manager.

    Example:
        >>> with progress_bar(enabled=False) as bar:
        ...     bar.advance(bar.add_task("scenes", total=1))
    """
    description = TextColumn("{task.description}")
    shown = enabled and sys.stderr.isatty()
    return Progress(
        description,
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=Console(stderr=True, quiet=not shown),  # before rich 14.1 a disabled bar ends with an empty line
        transient=True,
        disable=not shown,
    )
