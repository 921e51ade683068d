"""Segment the objects of images of any size: label maps, masks, boxes and pictures; generate and compose scenes."""

from object_discovery.prediction.files import predict_files
from object_discovery.prediction.images import find_images
from object_discovery.prediction.objects import Prediction, SlotSegment, predict
from object_discovery.prediction.output import prediction_grid, write_prediction

__all__ = [
    "Prediction",
    "SlotSegment",
    "find_images",
    "predict",
    "predict_files",
    "prediction_grid",
    "write_prediction",
]
