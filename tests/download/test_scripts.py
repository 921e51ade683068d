"""Download scripts as subprocesses, started by bash and killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .archives import Members, make_tar, make_zip, tree
from .server import Server

SCRIPTS = Path(__file__).parents[2] / "data_scripts"
SHELL_SCRIPTS = ["download_clevr.sh", "download_clevrtex.sh"]


@pytest.fixture
def env() -> dict[str, str]:
    """Return an environment in which `python` is this Python."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "no_proxy": "127.0.0.1"}


def make_clevrtex(sizes: list[int]) -> list[Members]:
    noise = random.Random(0)
    return [
        {f"clevrtex_full/{part}/{scene}.png": noise.randbytes(size // 20) for scene in range(20)}
        for part, size in enumerate(sizes)
    ]


def merge(parts: list[Members]) -> Members:
    return {name: content for part in parts for name, content in part.items()}


@pytest.mark.parametrize("script", SHELL_SCRIPTS)
def test_shell_scripts_are_valid_and_executable(script: str) -> None:
    subprocess.run(["bash", "-n", SCRIPTS / script], check=True)
    assert os.access(SCRIPTS / script, os.X_OK)


def test_shell_scripts_download_their_dataset(server: Server, tmp_path: Path, env: dict[str, str]) -> None:
    parts = make_clevrtex([1000] * 5)
    server.files = {f"clevrtex_full_part{number}.tar.gz": make_tar(part) for number, part in enumerate(parts, 1)}
    server.files["CLEVR_v1.0.zip"] = make_zip({"CLEVR_v1.0/README.txt": b"read me"})
    for script in SHELL_SCRIPTS:
        command = [str(SCRIPTS / script), str(tmp_path / script), "--url", server.base, "--no-verify"]
        result = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd="/")
        assert (result.returncode, result.stderr) == (0, "")
        assert "unpacked into" in result.stdout
    assert (tmp_path / SHELL_SCRIPTS[0] / "CLEVR_v1.0" / "README.txt").read_bytes() == b"read me"
    assert tree(tmp_path / SHELL_SCRIPTS[1] / "clevrtex_full") == {
        n.partition("/")[2]: c for n, c in merge(parts).items()
    }


def assert_no_partial_file_looks_complete(root: Path, server: Server, parts: list[Members]) -> None:
    """Check every file that is neither partial nor hidden."""
    expected, files = merge(parts), tree(root)
    for name, content in files.items():
        if name.endswith(".done"):
            members = parts[int(name[len("clevrtex_full_part")]) - 1]
            assert members.items() <= files.items()
        elif not name.startswith(".") and not name.endswith((".part", ".part.json")):
            assert content == (server.files[name] if name in server.files else expected[name])


def test_killed_download_is_continued(server: Server, tmp_path: Path, env: dict[str, str]) -> None:
    parts = make_clevrtex([800_000] * 5)
    server.files = {f"clevrtex_full_part{number}.tar.gz": make_tar(part) for number, part in enumerate(parts, 1)}
    server.chunk, server.pause = 20_000, 0.005
    root, delays = tmp_path / "root", random.Random(0)
    command = [sys.executable, str(SCRIPTS / "download.py"), "clevrtex", str(root), "--url", server.base]
    kills = 0
    while kills < 5 or not any(byte_range for _, byte_range in server.requests):  # until a partial file was continued
        num_requests = len(server.requests)
        with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            while len(server.requests) == num_requests and process.poll() is None:
                time.sleep(0.001)
            time.sleep(delays.uniform(0, 0.3))  # killed while it downloads or unpacks
            process.send_signal(signal.SIGKILL)
            assert process.stderr
            assert process.stderr.read() == b""
        assert process.returncode in (0, -signal.SIGKILL)
        kills += process.returncode == -signal.SIGKILL
        assert_no_partial_file_looks_complete(root, server, parts)
        if process.returncode == 0:  # start again
            root.rename(tmp_path / f"finished{kills}")
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    assert tree(root / "clevrtex_full") == {name.partition("/")[2]: content for name, content in merge(parts).items()}
    notes = [f"clevrtex_full_part{number}.tar.gz.done" for number in range(1, 6)]
    assert sorted(path.name for path in root.iterdir()) == ["clevrtex_full", *notes]
