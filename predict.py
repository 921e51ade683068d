"""Find the objects in images: `python predict.py [IMAGE|FOLDER ...] [--checkpoint FILE] [--out FOLDER]`.

Without arguments the shipped checkpoint looks at the shipped scenes.
"""

from __future__ import annotations

from pathlib import Path

from object_discovery.prediction.command import main

MEDIA = Path(__file__).resolve().parent / "media"
CHECKPOINT = MEDIA / "checkpoints" / "sa_tetrominoes.ckpt"
"""The model that is used where no other is named."""
IMAGES = MEDIA / "scenes"
"""The images that are used where no others are named."""

if __name__ == "__main__":
    main(checkpoint=CHECKPOINT, images=[IMAGES])
