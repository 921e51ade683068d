"""Set prediction with Slot Attention.

Reference:
    Locatello et al., Object-Centric Learning with Slot Attention, NeurIPS 2020, arXiv 2006.15055, sections 3.2 and 4.2.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torchmetrics import Metric

from object_discovery.discovery import Batch, Discovery
from object_discovery.errors import UserError
from object_discovery.layers.weight_init import init_weights
from object_discovery.metrics import linear_assignment
from object_discovery.metrics.average_precision import COLUMNS, AveragePrecision
from object_discovery.models.slot_model import SlotModel, SlotOptions, build_encoder
from object_discovery.params import SetPredictionParams

PropertyLoss = Literal["huber", "cross_entropy"]
_COORDINATES = 3
_MIN_PROBABILITY = 1e-6  # clamp of logarithms


def encoder_shape(resolution: int) -> tuple[list[int], list[int]]:
    """Return channels and strides of the recommended encoder: a quarter of the resolution, at most 32 x 32.

    Returns:
        Channels and strides of the convolutions, four of which keep the size.

    Example:
        >>> encoder_shape(64)
        ([64, 64, 64, 64, 64, 64], [2, 2, 1, 1, 1, 1])
    """
    halvings = max(2, math.ceil(math.log2(resolution / 32)))
    strides = [2] * halvings + [1] * 4
    return [64] * len(strides), strides


def match_objects(
    pred: Tensor, target: Tensor, coordinate_weight: float = 1.0, property_loss: PropertyLoss = "huber"
) -> Tensor:
    """Match predictions to targets one to one by the Hungarian algorithm, minimising `set_loss`.

    Targets are padded if there are more predictions. If there are fewer, padding is dropped first, then the objects of
    highest cost.

    Args:
        pred: Predicted rows, `(B, K, 19)`.
        target: True rows, `(B, O, 19)`.
        coordinate_weight: Weight of the coordinates, see `set_loss`.
        property_loss: Loss of everything else, see `set_loss`.

    Returns:
        The matched target of each prediction, `(B, K, 19)`.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> target = torch.eye(19)[None, :2]
        >>> match_objects(target.flip(1), target).argmax(-1).tolist()
        [[1, 0]]
    """
    if pred.ndim != 3 or target.ndim != 3 or (len(target), target.shape[2]) != (len(pred), pred.shape[2]):
        expected = f"(B, O, D) for predictions of {tuple(pred.shape)}"
        raise ValueError(f"Expected argument `target` to be of shape {expected}, but got {tuple(target.shape)}")
    slots, rows = pred.shape[1], target.shape[1]
    target = F.pad(target.float(), (0, 0, 0, max(0, slots - rows)))
    with torch.no_grad():
        cost = _pair_loss(pred.float()[:, :, None], target[:, None], coordinate_weight, property_loss)  # (B, K, N)
        if rows > slots:  # dummy predictions; an object costs more there than at any prediction
            penalty = rows * cost.amax((1, 2), keepdim=True) + 1
            dummy = penalty * (target[:, None, :, -1] > 0)
            cost = torch.cat([cost, dummy.expand(-1, rows - slots, -1)], dim=1)
        indices = linear_assignment(cost)[:, :slots]
    return target.gather(1, indices[..., None].expand(-1, -1, target.shape[2]))


def set_loss(
    pred: Tensor, target: Tensor, coordinate_weight: float = 1.0, property_loss: PropertyLoss = "huber"
) -> Tensor:
    """Compute the permutation-invariant loss of predicted sets.

    The sum over matched pairs of the Huber loss (delta 1), averaged over the 19 properties, as published. With
    `cross_entropy`, all properties but the coordinates have the binary cross-entropy instead, and padded targets count
    only by their presence. Its gradient does not vanish for confident wrong predictions, so that it learns faster.

    Args:
        pred: Predicted rows, `(B, K, 19)`, in [0, 1].
        target: True rows, `(B, O, 19)`; padding is 0.
        coordinate_weight: Weight of the three coordinates; 1 as published.
        property_loss: Loss of size, material, shape, colour and presence: `huber` or `cross_entropy`.

    Returns:
        A loss for each image, `(B,)`, float32.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> target = torch.zeros(1, 4, 19)
        >>> target[0, 2, 18] = 1
        >>> set_loss(torch.zeros(1, 4, 19), target) * 19
        tensor([0.5000])
    """
    matched = match_objects(pred, target, coordinate_weight, property_loss)
    return _pair_loss(pred.float(), matched, coordinate_weight, property_loss).sum(1)


def _pair_loss(pred: Tensor, target: Tensor, coordinate_weight: float, property_loss: PropertyLoss) -> Tensor:
    """Compute the loss of pairs of rows `(..., 19)`."""
    error = (pred - target).abs()
    huber = torch.where(error <= 1, 0.5 * error.square(), error - 0.5)
    coordinates = coordinate_weight * huber[..., :_COORDINATES].sum(-1)
    if property_loss == "huber":
        return (coordinates + huber[..., _COORDINATES:].sum(-1)) / huber.shape[-1]
    probability = pred[..., _COORDINATES:].clamp(_MIN_PROBABILITY, 1 - _MIN_PROBABILITY)  # torch's refuses autocast
    truth = target[..., _COORDINATES:]
    entropy = -(truth * probability.log() + (1 - truth) * (1 - probability).log())
    presence = target[..., -1]
    return (presence * (coordinates + entropy[..., :-1].sum(-1)) + entropy[..., -1]) / huber.shape[-1]


class SetPrediction(SlotModel[SetPredictionParams]):
    """Set prediction: the properties of one object from each slot (Locatello et al. 2020).

    Supervised by batches with `objects`, float `(B, O, 19)`: x, y and z scaled from [-3, 3] to [0, 1], one-hot size
    (2), material (2), shape (3) and colour (8), and presence; padding is 0. Masks are the attention of the slots.
    Validation and test log the average precision `ap_inf`, `ap_1`, `ap_0.5`, `ap_0.25` and `ap_0.125`, and the scores
    of masks where a batch has `mask`.

    Args:
        params: The hyperparameters.
        **settings: Fields of `SetPredictionParams`, in place of `params`.

    Raises:
        ValueError: If a value is out of its range.

    Example:
        >>> model = SetPrediction(resolution=64)
        >>> images = torch.rand(2, 3, 64, 64)
        >>> model.predict(images).shape  # all in [0, 1]
        torch.Size([2, 10, 19])
        >>> model(images).masks.shape
        torch.Size([2, 10, 64, 64])
    """

    model_type: ClassVar[str] = "set_prediction"
    params_class: ClassVar[type[SetPredictionParams]] = SetPredictionParams

    def __init__(self, params: SetPredictionParams | None = None, **settings: Any) -> None:
        super().__init__(params, **settings)
        p = self.params
        self.encoder = build_encoder(p, *encoder_shape(p.resolution), batch_norm=p.encoder_residual)
        self.slot_attention = self.build_slot_attention(self.encoder.feature_size)
        self.head = nn.Sequential(
            nn.Linear(p.slot_size, p.head_size), nn.ReLU(inplace=True), nn.Linear(p.head_size, COLUMNS)
        )
        init_weights(p.weight_init, (self.encoder, self.slot_attention, self.head), self.slot_attention)
        if p.encoder_residual:
            self.encoder.init_as_identity()

    @classmethod
    def monitor(cls, has_masks: bool) -> tuple[str, Literal["min", "max"]]:
        """Select the best checkpoint by the average precision within distance 1."""
        return "val/ap_1", "max"

    def discover(self, images: Tensor, options: SlotOptions) -> Discovery:
        """Do the work of `forward`; masks are the attention, resized to the image."""
        clusters = self.initial_clusters(images, self.encoder.size, options)
        slots, attention = self.attend_slots(self.encoder(images * 2 - 1), options, clusters)
        attention = rearrange(attention, "b k (h w) -> b k h w", h=self.encoder.size)
        masks = F.interpolate(attention, images.shape[-2:], mode="bilinear", align_corners=False)
        return Discovery(slots, masks, attention=attention)

    def properties(self, slots: Tensor) -> Tensor:
        """Predict the properties `(B, K, 19)` of slots `(B, K, D)`, float32 in [0, 1]."""
        return self.head(slots).float().sigmoid()  # type: ignore[no-any-return]

    def predict(self, images: Tensor, **options: Any) -> Tensor:
        """Predict the objects in images `(B, 3, H, W)` as rows `(B, K, 19)`; takes the options of `forward`."""
        return self.properties(self(images, **options).slots)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss of the predicted sets, see `set_loss`.

        Raises:
            UserError: If the batch has no `objects`.
        """
        if "objects" not in batch:
            raise UserError(
                f"Expected batches with `objects`, but got {', '.join(batch)}: set prediction is supervised by "
                "datasets with properties of objects, such as scenes, clevr and clevr_with_masks, "
                "without random_flip and random_crop, which invalidate the coordinates"
            )
        p, slots = self.params, self(batch["image"]).slots
        pred = self.properties(slots)
        loss = set_loss(pred, batch["objects"], p.coordinate_weight, p.property_loss).mean()
        return self.regularize({"loss": loss}, slots)

    def extra_metrics(self) -> dict[str, Metric]:
        """Build the metrics of slots and the average precision."""
        return {**super().extra_metrics(), "average_precision": AveragePrecision()}

    def score_batch(self, batch: Batch) -> tuple[Discovery, dict[str, Any]]:
        """Find the objects of a batch; where it has `objects`, predict their properties for the average precision."""
        discovery, extra = super().score_batch(batch)
        if "objects" in batch:
            extra = {**extra, "average_precision": (self.properties(discovery.slots), batch["objects"])}
        return discovery, extra
