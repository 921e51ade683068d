"""Datasets: one file each, a `Dataset` and a `LightningDataModule`."""

from object_discovery.data.base import SceneDataModule
from object_discovery.data.clevr_with_masks import CLEVRWithMasksDataModule
from object_discovery.data.multi_dsprites import MultiDSpritesDataModule
from object_discovery.data.tetrominoes import TetrominoesDataModule

DATASETS: dict[str, type[SceneDataModule]] = {
    "clevr_with_masks": CLEVRWithMasksDataModule,
    "multi_dsprites": MultiDSpritesDataModule,
    "tetrominoes": TetrominoesDataModule,
}
"""Every dataset by the name the command line knows it by."""

__all__ = [
    "DATASETS",
    "CLEVRWithMasksDataModule",
    "MultiDSpritesDataModule",
    "SceneDataModule",
    "TetrominoesDataModule",
]
