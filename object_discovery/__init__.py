"""Unsupervised object discovery in PyTorch Lightning."""

from object_discovery.data import DATASETS, CLEVRWithMasksDataModule, MultiDSpritesDataModule, TetrominoesDataModule
from object_discovery.discovery import Discovery
from object_discovery.layers import SlotAttention
from object_discovery.metrics import ARI, FGARI, MeanBestOverlap, MeanIoU, SegmentationScores
from object_discovery.models import MODELS, SlotAttentionModel, load
from object_discovery.params import DataParams, SlotAttentionParams, TrainerParams

__all__ = [
    "ARI",
    "DATASETS",
    "FGARI",
    "MODELS",
    "CLEVRWithMasksDataModule",
    "DataParams",
    "Discovery",
    "MeanBestOverlap",
    "MeanIoU",
    "MultiDSpritesDataModule",
    "SegmentationScores",
    "SlotAttention",
    "SlotAttentionModel",
    "SlotAttentionParams",
    "TetrominoesDataModule",
    "TrainerParams",
    "load",
]
