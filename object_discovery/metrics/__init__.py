"""Metrics of segmentations, sets of objects and reconstructions: pure functions, and torchmetrics classes of them."""

from object_discovery.discovery import IGNORED
from object_discovery.metrics.ari import ARI, FGARI, adjusted_rand_index
from object_discovery.metrics.assignment import linear_assignment
from object_discovery.metrics.average_precision import AveragePrecision, average_precision
from object_discovery.metrics.clevrtex import clevrtex_miou
from object_discovery.metrics.collapse import active_slots, duplicated_slots, mask_entropy
from object_discovery.metrics.contingency import contingency_table, iou_from_table, labels_from_masks
from object_discovery.metrics.mean import ImageMean
from object_discovery.metrics.overlap import CorLoc, MeanBestOverlap, MeanIoU, corloc, mean_best_overlap, mean_iou
from object_discovery.metrics.reconstruction import ReconstructionError, reconstruction_error
from object_discovery.metrics.segmentation import SegmentationScores
from object_discovery.metrics.slots import SlotCosine, SlotCovariance, slot_cosine, slot_covariance

__all__ = [
    "ARI",
    "FGARI",
    "IGNORED",
    "AveragePrecision",
    "CorLoc",
    "ImageMean",
    "MeanBestOverlap",
    "MeanIoU",
    "ReconstructionError",
    "SegmentationScores",
    "SlotCosine",
    "SlotCovariance",
    "active_slots",
    "adjusted_rand_index",
    "average_precision",
    "clevrtex_miou",
    "contingency_table",
    "corloc",
    "duplicated_slots",
    "iou_from_table",
    "labels_from_masks",
    "linear_assignment",
    "mask_entropy",
    "mean_best_overlap",
    "mean_iou",
    "reconstruction_error",
    "slot_cosine",
    "slot_covariance",
]
