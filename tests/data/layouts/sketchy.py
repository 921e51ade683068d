"""Writer of Sketchy as prepared by GENESIS-V2, `processed/{train,valid,test}`."""

from pathlib import Path

import numpy as np
from PIL import Image

EPISODES = {"train": [0, 3, 4], "valid": [1], "test": [2]}
STEPS = 2
VIEWS = [f"{camera}_{crop}" for camera in ("fl", "fr") for crop in ("c0", "c1", "c2", "c3", "c4", "c5", "full")]


def write_sketchy(root: Path, folders: dict[str, list[int]] | None = None) -> Path:
    """Write 14 images per time step: red is the episode, green 100 times the step plus the view, blue the column."""
    ramp = np.broadcast_to(np.arange(128), (128, 128))
    for folder, episodes in (folders or EPISODES).items():
        for episode in episodes:
            path = root / "processed" / folder / f"ep{episode:06}"
            path.mkdir(parents=True)
            for step in range(STEPS):
                (path / f"ep{episode:06}_t{step:03}_state.pt").write_bytes(b"not an image")
                for number, view in enumerate(VIEWS):
                    values = (episode, 100 * step + number)
                    image = np.dstack([*(np.full((128, 128), value) for value in values), ramp]).astype(np.uint8)
                    Image.fromarray(image).save(path / f"ep{episode:06}_t{step:03}_{view}.png", compress_level=1)
    return root
