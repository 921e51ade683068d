"""Unsupervised object discovery in PyTorch Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from object_discovery.data import (
        DATASETS,
        CLEVRDataModule,
        ClevrTexDataModule,
        CLEVRWithMasksDataModule,
        COCODataModule,
        FolderDataModule,
        MultiDSpritesDataModule,
        ObjectsRoomDataModule,
        RavensDataModule,
        SceneDataModule,
        ScenesDataModule,
        Shapes3DDataModule,
        SketchyDataModule,
        TetrominoesDataModule,
        VOCDataModule,
    )
    from object_discovery.discovery import Discovery
    from object_discovery.layers import SlotAttention
    from object_discovery.metrics import ARI, FGARI, AveragePrecision, MeanBestOverlap, MeanIoU, SegmentationScores
    from object_discovery.models import (
        DINOSAUR,
        GNM,
        MODELS,
        SLATE,
        ConceptLibrary,
        SetPrediction,
        SlotAttentionModel,
        load,
    )
    from object_discovery.params import (
        DataParams,
        DINOSAURParams,
        GNMParams,
        SetPredictionParams,
        SLATEParams,
        SlotAttentionParams,
        TrainerParams,
    )

__all__ = [
    "ARI",
    "DATASETS",
    "DINOSAUR",
    "FGARI",
    "GNM",
    "MODELS",
    "SLATE",
    "AveragePrecision",
    "CLEVRDataModule",
    "CLEVRWithMasksDataModule",
    "COCODataModule",
    "ClevrTexDataModule",
    "ConceptLibrary",
    "DINOSAURParams",
    "DataParams",
    "Discovery",
    "FolderDataModule",
    "GNMParams",
    "MeanBestOverlap",
    "MeanIoU",
    "MultiDSpritesDataModule",
    "ObjectsRoomDataModule",
    "RavensDataModule",
    "SLATEParams",
    "SceneDataModule",
    "ScenesDataModule",
    "SegmentationScores",
    "SetPrediction",
    "SetPredictionParams",
    "Shapes3DDataModule",
    "SketchyDataModule",
    "SlotAttention",
    "SlotAttentionModel",
    "SlotAttentionParams",
    "TetrominoesDataModule",
    "TrainerParams",
    "VOCDataModule",
    "load",
]

_MODULES = ("params", "discovery", "layers", "metrics", "data", "models")


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that what needs no torch starts at once."""
    if name in __all__:
        for module in _MODULES:
            attribute = getattr(import_module(f"{__name__}.{module}"), name, None)
            if attribute is not None:
                globals()[name] = attribute
                return attribute
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
