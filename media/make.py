"""Make the files of this folder from a finished run: `python media/make.py RUN`.

`RUN` is the folder of a training run on Tetrominoes (`python -m object_discovery.train --out RUN`). The best
checkpoint is stored without the state of its optimiser, and eight test scenes as images. `sa_clevr6.png` is the
picture of the last validation of the run on rendered CLEVR scenes that the README reports, `gnm.png` the first columns
of those of GNM, and `slate_tetrominoes.png` the first rows of what `predict.py --compose` paints with SLATE.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from PIL import Image

from object_discovery import TetrominoesDataModule
from object_discovery.models import read_checkpoint

MEDIA = Path(__file__).resolve().parent
NEEDED = ("state_dict", "hyper_parameters", "model_type", "pytorch-lightning_version", "epoch", "global_step")


def main(run: Path) -> None:
    """Write the checkpoint, the scenes and the picture of the last validation."""
    for folder in ("checkpoints", "scenes"):
        (MEDIA / folder).mkdir(exist_ok=True)
    checkpoint = read_checkpoint(run / "checkpoints" / "best.ckpt")
    torch.save({key: checkpoint[key] for key in NEEDED}, MEDIA / "checkpoints" / "sa_tetrominoes.ckpt")
    scenes = TetrominoesDataModule(test_size=8, num_workers=0).test_set
    for i, image in enumerate(scenes[list(range(8))]["image"]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(MEDIA / "scenes" / f"tetrominoes_{i}.png")
    shutil.copy(max((run / "images").glob("step_*.png")), MEDIA / "sa_tetrominoes.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
