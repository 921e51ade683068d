"""Plot `sa_tetrominoes.png` with the shipped checkpoint, after updating it from a training run if one is given.

Usage: `python media/make.py [RUN]`, where RUN is the folder of a training run on Tetrominoes. Its best checkpoint,
without the state of the optimiser, and eight test scenes replace those in `object_discovery/pretrained`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image

from object_discovery import TetrominoesDataModule, load
from object_discovery.models import read_checkpoint
from object_discovery.pretrained import CHECKPOINT, SCENES
from object_discovery.visualization import plot_discovery

PICTURE = Path(__file__).resolve().parent / "sa_tetrominoes.png"
NUM_SCENES = 8
KEYS = ("state_dict", "hyper_parameters", "model_type", "pytorch-lightning_version", "epoch", "global_step", "run")


def update_pretrained(run: Path) -> None:
    """Replace the shipped checkpoint by the best one of a run, and the shipped scenes."""
    checkpoint = read_checkpoint(run / "checkpoints" / "best.ckpt")
    torch.save({key: checkpoint[key] for key in KEYS if key in checkpoint}, CHECKPOINT)
    SCENES.mkdir(exist_ok=True)
    scenes = TetrominoesDataModule(test_size=NUM_SCENES, num_workers=0).test_set
    for index, image in enumerate(scenes[list(range(NUM_SCENES))]["image"]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(SCENES / f"tetrominoes_{index}.png")


@torch.no_grad()
def plot_pretrained() -> None:
    """Plot what the shipped checkpoint finds in the first test scenes."""
    torch.manual_seed(0)
    model = load(CHECKPOINT)
    data = TetrominoesDataModule(resolution=model.params.resolution, test_size=NUM_SCENES, num_workers=0)
    batch = data.test_set[list(range(NUM_SCENES))]
    plot_discovery(batch["image"], model(batch["image"].float() / 255), batch["mask"]).save(PICTURE, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        update_pretrained(Path(sys.argv[1]))
    plot_pretrained()
