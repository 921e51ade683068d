"""Command line of `object-discovery describe`; see `tests/data/inspect` for its output."""

from pathlib import Path

import pytest
from PIL import Image

from object_discovery.cli.command import main
from tests.data.layouts.folder import write_folder


def test_a_contact_sheet_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "new" / "sheet.png"
    assert main(["describe", str(write_folder(tmp_path)), "--out", str(sheet), "--num", "3"]) == 0
    assert capsys.readouterr().out.endswith(f"{sheet}: 3 scenes\n")
    with Image.open(sheet) as image:
        assert image.format == "PNG"


def test_the_status_is_2_if_a_file_could_not_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path)
    (tmp_path / "images" / "01.jpg").write_bytes(b"damaged")
    assert main(["describe", str(tmp_path), "--num", "100"]) == 2
    assert "01.jpg" in capsys.readouterr().err
