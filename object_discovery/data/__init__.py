"""Datasets: one `LightningDataModule` each, and the source that reads its files or the function that generates it."""

from object_discovery.data.datamodule import SceneDataModule
from object_discovery.data.datasets.clevr import CLEVRDataModule
from object_discovery.data.datasets.clevr_with_masks import CLEVRWithMasksDataModule
from object_discovery.data.datasets.clevrtex import ClevrTexDataModule
from object_discovery.data.datasets.coco import COCODataModule
from object_discovery.data.datasets.folder import FolderDataModule
from object_discovery.data.datasets.multi_dsprites import MultiDSpritesDataModule
from object_discovery.data.datasets.objects_room import ObjectsRoomDataModule
from object_discovery.data.datasets.ravens import RavensDataModule
from object_discovery.data.datasets.scenes import ScenesDataModule
from object_discovery.data.datasets.shapes3d import Shapes3DDataModule
from object_discovery.data.datasets.sketchy import SketchyDataModule
from object_discovery.data.datasets.tetrominoes import TetrominoesDataModule
from object_discovery.data.datasets.voc import VOCDataModule

DATASETS: dict[str, type[SceneDataModule]] = {
    "clevr": CLEVRDataModule,
    "clevr_with_masks": CLEVRWithMasksDataModule,
    "clevrtex": ClevrTexDataModule,
    "coco": COCODataModule,
    "folder": FolderDataModule,
    "multi_dsprites": MultiDSpritesDataModule,
    "objects_room": ObjectsRoomDataModule,
    "ravens": RavensDataModule,
    "scenes": ScenesDataModule,
    "shapes3d": Shapes3DDataModule,
    "sketchy": SketchyDataModule,
    "tetrominoes": TetrominoesDataModule,
    "voc": VOCDataModule,
}
"""Data modules by name of the dataset, as in `--dataset`."""

__all__ = [
    "DATASETS",
    "CLEVRDataModule",
    "CLEVRWithMasksDataModule",
    "COCODataModule",
    "ClevrTexDataModule",
    "FolderDataModule",
    "MultiDSpritesDataModule",
    "ObjectsRoomDataModule",
    "RavensDataModule",
    "SceneDataModule",
    "ScenesDataModule",
    "Shapes3DDataModule",
    "SketchyDataModule",
    "TetrominoesDataModule",
    "VOCDataModule",
]
