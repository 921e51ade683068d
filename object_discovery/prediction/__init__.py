"""Find the objects in images of any size: label maps, masks, boxes and pictures."""

from object_discovery.prediction.images import find_images, read_image
from object_discovery.prediction.objects import FoundSlot, Prediction, predict
from object_discovery.prediction.output import picture, write_prediction

__all__ = ["FoundSlot", "Prediction", "find_images", "picture", "predict", "read_image", "write_prediction"]
