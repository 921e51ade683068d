"""Command line of `object-discovery download`; see `tests/download` for the downloads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from object_discovery.cli.download import main

SCRIPTS = Path(__file__).parents[2] / "data_scripts"


def show_help(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as error:
        main([*arguments, "--help"])
    assert error.value.code == 0
    return capsys.readouterr().out


def test_help_of_a_dataset_shows_its_files_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    everything = show_help(capsys)
    assert "NAME ROOT" in everything
    assert "--variant" in everything
    assert "--split" in everything
    clevr = show_help(capsys, "clevr")
    assert clevr.startswith("usage: object-discovery download clevr ROOT ")
    assert "CLEVR_v1.0.zip" in clevr
    assert "--variant" not in clevr
    clevrtex = show_help(capsys, "clevrtex")
    assert "full|outd|camo|pbg|vbg|grassbg|all (default full)" in clevrtex
    assert "--variant VARIANT" in clevrtex
    assert "--split" not in clevrtex


@pytest.mark.parametrize("name", ["clevr", "clevrtex"])
def test_help_of_a_shell_script_is_that_of_its_dataset(name: str) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [str(SCRIPTS / f"download_{name}.sh"), "--help"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"usage: object-discovery download {name} ROOT ")


def test_list_into_a_closed_pipe_is_quiet() -> None:
    command = f"{sys.executable} -m object_discovery download --list | head -1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("clevr\n", "")
