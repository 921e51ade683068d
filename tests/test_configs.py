from pathlib import Path

from object_discovery.configs import read_config


def test_numbers_are_read_as_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("lr: 1e-3\nclip_norm: 5E2\nhalf_life: 10\nout: e5\n")
    assert read_config(path) == {"lr": 1e-3, "clip_norm": 500.0, "half_life": 10, "out": "e5"}
