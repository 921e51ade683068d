"""Writers of zip and tar archives, valid and malicious."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

Members = dict[str, bytes]


def make_zip(members: Members, modes: dict[str, int] | None = None) -> bytes:
    """Write a zip archive; `modes` gives members a Unix mode."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
            file.writestr(info, content)
    return buffer.getvalue()


def make_tar(members: Members, compression: str = "gz", extra: list[dict[str, Any]] | None = None) -> bytes:
    """Write a tar archive; `extra` members are described by their attributes."""
    buffer = io.BytesIO()
    mode: Any = f"w:{compression}"
    with tarfile.open(fileobj=buffer, mode=mode) as file:
        for attributes in [*(extra or []), *({"name": name} for name in members)]:
            info = tarfile.TarInfo(str(attributes["name"]))
            for key, value in attributes.items():
                setattr(info, key, value)
            content = members.get(info.name, b"") if info.isfile() else b""
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def tree(folder: Path) -> Members:
    """Read all files under a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
