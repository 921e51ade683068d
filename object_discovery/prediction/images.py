"""Find image files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from object_discovery.data.datasets.folder import ENDINGS
from object_discovery.errors import UserError


def find_images(paths: Sequence[str | Path], warn: Callable[[str], None]) -> tuple[list[Path], list[Path]]:
    """List image files, and those in folders sorted by name; hidden files are left out.

    Args:
        paths: Files and folders. A file that comes twice is listed once. Folders within folders are not searched.
        warn: Called with one line for each file that is skipped.

    Returns:
        The files whose header Pillow recognises; and those that it does not, of the files that were given or have the
        ending of an image.

    Raises:
        UserError: If a path does not exist, or there is no image.
    """
    images: dict[Path, None] = {}
    unreadable: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"Expected an image or a folder, but {path} does not exist")
        files = _files(path)
        if not files and len(paths) > 1:
            warn(f"{path} has no files")
        for file in files:
            try:
                with Image.open(file):
                    images[file] = None
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                if len(paths) == 1 and file == path:
                    raise UserError(_reason(file, error)) from error
                warn(f"skipped: {_reason(file, error)}")
                unreadable += [file] if file == path or file.suffix.lower() in ENDINGS else []
    if not images:
        raise UserError(f"Expected some images, but found none in {', '.join(map(str, paths)) or 'nothing'}")
    return list(images), unreadable


def _files(path: Path) -> list[Path]:
    """Return the visible files of a folder, or the file itself."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"{path} is no image that Pillow can read"
    return f"{path} cannot be read as an image: {error}"
