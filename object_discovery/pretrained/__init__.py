"""Checkpoints and sample scenes that ship with the library."""

from pathlib import Path

FOLDER = Path(__file__).parent
CHECKPOINT = FOLDER / "sa_tetrominoes.ckpt"
"""Slot Attention trained on Tetrominoes: what `predict` uses where no other checkpoint is named."""
SCENES = FOLDER / "scenes"
"""Test scenes of Tetrominoes: what `predict` uses where no other images are named."""
