"""Base class of the models with Slot Attention: `forward`, losses on slots and metrics of slots."""

from __future__ import annotations

import math
from typing import Any, Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from object_discovery.base_params import ClusterKind
from object_discovery.discovery import Batch, Discovery
from object_discovery.layers.clustering import appearance_clusters
from object_discovery.layers.compositing import active_mask
from object_discovery.layers.encoder import ConvEncoder
from object_discovery.layers.object_clusters import object_clusters
from object_discovery.layers.regularizers import SlotRegularizer, Term
from object_discovery.layers.slot_attention import SlotAttention
from object_discovery.metrics import SlotCosine, SlotCovariance
from object_discovery.models.base import ObjectDiscoveryModel
from object_discovery.params import SetPredictionParams, SlotAttentionParams, SlotParams
from object_discovery.schedules import cosine_anneal, linear_anneal

S = TypeVar("S", bound=SlotParams)
_CLUSTER_GRID = 20
_IMAGE_GRID = 40


class SlotOptions(NamedTuple):
    """Options of one call of a model with Slot Attention."""

    slots: Tensor | None = None
    """Initial slots, `(B, K, D)`. None: those of the model."""
    num_slots: int | None = None
    """Number of slots, K. None: as in training."""
    num_iterations: int | None = None
    """Iterations of Slot Attention. None: as in training."""


DEFAULT_OPTIONS = SlotOptions()
"""The model's own slots and numbers."""


def build_encoder(
    params: SlotAttentionParams | SetPredictionParams, channels: list[int], strides: list[int], batch_norm: bool = False
) -> ConvEncoder:
    """Build the convolutional encoder of a model that reads pixels.

    Args:
        params: The hyperparameters, whose channels and strides have precedence.
        channels: Channels of the recommended convolutions.
        strides: Their strides.
        batch_norm: Normalise the inputs of the residual convolutions over the batch.
    """
    return ConvEncoder(
        params.resolution,
        params.encoder_channels or channels,
        params.encoder_strides or strides,
        params.feature_size,
        kernel_size=params.encoder_kernel,
        frequencies=params.position_frequencies,
        residual=params.encoder_residual,
        batch_norm=batch_norm,
        norm_eps=params.norm_eps,
    )


class SlotModel(ObjectDiscoveryModel[S], Generic[S]):
    """Model with Slot Attention; subclasses build `slot_attention` and define `discover` and `losses`.

    `losses` should end with `regularize`, which adds the weighted losses on slots.
    """

    slot_attention: SlotAttention

    def __init__(self, params: S | None = None, **settings: Any) -> None:
        super().__init__(params, **settings)
        self.regularizer = self._build_regularizer()

    @property
    def slot_steps(self) -> int:
        """Steps in which the slots were trained; the schedules of noise and losses on slots depend on it."""
        return self.global_step

    def forward(  # type: ignore[override]
        self,
        images: Tensor,
        slots: Tensor | None = None,
        *,
        num_slots: int | None = None,
        num_iterations: int | None = None,
    ) -> Discovery:
        """Find the objects in images.

        Args:
            images: `(B, 3, H, W)`, floats in [0, 1] or uint8.
            slots: Initial slots, `(B, K, D)`. None: those of the model.
            num_slots: Number of slots. None: as in training, which is the maximum for learned queries.
            num_iterations: Iterations of Slot Attention. None: as in training.

        Returns:
            Slots, masks and attention; reconstruction and slot images where the model has them.

        Raises:
            ValueError: If the images are not of the model's resolution or range, or `num_slots` is out of its range.
        """
        images = self.prepare_images(images)
        if not len(images):
            return self.discover_nothing(images, num_slots=num_slots, num_iterations=num_iterations)
        return self.discover(images, SlotOptions(slots, num_slots, num_iterations))

    def discover(self, images: Tensor, options: SlotOptions) -> Discovery:
        """Do the work of `forward`, on images whose shape has been checked."""
        raise TypeError(f"{type(self).__name__} has no discover")

    @property
    def default_options(self) -> SlotOptions:
        """The options of validation, test and prediction, see `forward_options`."""
        return SlotOptions(None, self.forward_options.get("num_slots"), self.forward_options.get("num_iterations"))

    def build_slot_attention(self, input_size: int) -> SlotAttention:
        """Build the Slot Attention layer for inputs of a dimension."""
        p = self.params
        return SlotAttention(
            p.num_slots,
            p.slot_size,
            input_size,
            mlp_size=p.mlp_size,
            num_iterations=p.num_iterations,
            num_heads=p.num_heads,
            slot_init=p.slot_init,
            gradient=p.gradient,
            neumann_terms=p.neumann_terms,
            aggregation=p.aggregation,
            tolerance=p.tolerance,
            norm_eps=p.norm_eps,
        )

    def attend_slots(
        self, features: Tensor, options: SlotOptions = DEFAULT_OPTIONS, clusters: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the slots of features `(B, N, F)`, in training with the scheduled noise on learned queries.

        Returns:
            Slots `(B, K, D)` and attention `(B, K, N)`, see `SlotAttention.forward`.
        """
        steps = self.params.noise_steps
        noise = cosine_anneal(self.slot_steps, 1.0, 0.0, steps) if steps and self.training else 0.0
        return self.slot_attention(  # type: ignore[no-any-return]
            features,
            options.slots,
            num_slots=options.num_slots,
            num_iterations=options.num_iterations,
            noise=noise,
            clusters=clusters,
        )

    def initial_clusters(self, maps: Tensor, size: int, options: SlotOptions) -> Tensor | None:
        """Cluster images or features for clustering-based slot initialisation, with `cluster_init`.

        Args:
            maps: Images or feature maps, `(B, C, H, W)`.
            size: Height and width h of the grid of features; clusters are computed on at most 20 x 20 positions.
            options: Options of this call; with initial slots there are no clusters.

        Returns:
            Soft assignments `(B, K, h * h)`, see `SlotAttention.forward`; None without clusters.
        """
        count = self._cluster_count(options)
        if count is None:
            return None
        coarse = size // -(-size // _CLUSTER_GRID)
        clusters = appearance_clusters(maps, coarse, count, self.params.cluster_min_gain)
        grid = clusters.view(*clusters.shape[:2], coarse, coarse)
        return F.interpolate(grid, (size, size), mode="nearest-exact").flatten(2)

    def image_clusters(self, images: Tensor, size: int, options: SlotOptions, kind: ClusterKind) -> Tensor | None:
        """Cluster images for clustering-based slot initialisation, with `cluster_init`.

        Args:
            images: `(B, 3, H, W)`, in [0, 1].
            size: Height and width h of the grid of features; clusters of objects are computed on 20 to 40 rows and
                columns, where the image has as many, those by appearance on at most 20.
            options: Options of this call; with initial slots there are no clusters.
            kind: `objects` (`layers.object_clusters`) or `appearance` (`layers.clustering`).

        Returns:
            Soft assignments `(B, K, h * h)`, see `SlotAttention.forward`; None without clusters.
        """
        if kind == "appearance":
            return self.initial_clusters(images, size, options)
        count = self._cluster_count(options)
        if count is None:
            return None
        finer = min(_IMAGE_GRID // size, images.shape[-1] // size)
        grid = size * finer if finer > 1 else size // -(-size // _IMAGE_GRID)
        clusters = object_clusters(images, grid, count, self.params.cluster_min_gain)
        if grid == size:
            return clusters
        return F.interpolate(clusters.view(*clusters.shape[:2], grid, grid), (size, size), mode="area").flatten(2)

    def _cluster_count(self, options: SlotOptions) -> int | None:
        """Return the number of clusters of a call; None where slots are not initialised by clusters."""
        if not self.params.cluster_init or options.slots is not None:
            return None
        return max(1, self.params.num_slots if options.num_slots is None else options.num_slots)

    @staticmethod
    def cluster_masks(clusters: Tensor | None, size: int) -> Tensor | None:
        """Resize clusters `(B, K, h * h)` to `(B, K, size, size)`, see `Discovery.cluster_masks`."""
        if clusters is None:
            return None
        rows = math.isqrt(clusters.shape[2])
        grid = clusters.view(*clusters.shape[:2], rows, rows)
        return F.interpolate(grid, (size, size), mode="nearest-exact")

    def active_mask(self, slots: Tensor) -> Tensor | None:
        """Return which slots `(B, K, D)` are active, bool `(B, K)`; None where all are."""
        return active_mask(slots) if self.params.cluster_init else None

    def extra_metrics(self) -> dict[str, Metric]:
        """Build the metrics of slots: mean absolute covariance of their features, mean cosine similarity."""
        size = self.params.slot_size
        return {**super().extra_metrics(), "slot_covariance": SlotCovariance(size), "slot_cosine": SlotCosine()}

    def score_batch(self, batch: Batch) -> tuple[Discovery, dict[str, Any]]:
        """Find the objects of a batch, and compute the arguments of the `extra_metrics` by their names."""
        discovery, extra = super().score_batch(batch)
        return discovery, {**extra, **self.slot_scores(discovery.slots)}

    def slot_scores(self, slots: Tensor) -> dict[str, Any]:
        """Return the arguments of the metrics of slots `(B, K, D)`."""
        return {"slot_covariance": slots, "slot_cosine": slots}

    def regularize(self, losses: dict[str, Tensor], slots: Tensor) -> dict[str, Tensor]:
        """Add the weighted losses on slots, in training.

        Args:
            losses: The losses of the model; `loss` is minimised.
            slots: `(B, K, D)`.

        Returns:
            The losses with the weighted sum as `loss`, the former `loss` as `unregularized_loss`, and each loss on
            slots without weight: `covariance_loss`, `variance_loss` and `cosine_loss`.
        """
        if self.regularizer is None or not self.training:
            return losses
        terms: dict[str, Tensor] = self.regularizer(slots)
        weights, total = self._regularizer_weights(), losses["loss"]
        for name, value in terms.items():
            total = total + weights[name] * value  # out of place, as `loss` is logged too
        logged = {f"{name}_loss": value for name, value in terms.items()}
        return {**losses, "loss": total, "unregularized_loss": losses["loss"], **logged}

    def _regularizer_weights(self) -> dict[str, float]:
        """Compute the weights of the losses on slots at this step."""
        p, step = self.params, self.slot_steps
        return {
            "covariance": linear_anneal(step, 0.0, p.covariance_weight, 0, p.covariance_warmup),
            "variance": p.variance_weight,
            "cosine": linear_anneal(step, 0.0, p.cosine_weight, 0, p.cosine_warmup),
        }

    def _build_regularizer(self) -> SlotRegularizer | None:
        """Build the losses on slots, without changing the random state of the other weights."""
        p = self.params
        terms: dict[Term, float] = {
            "covariance": p.covariance_weight,
            "variance": p.variance_weight,
            "cosine": p.cosine_weight,
        }
        if not any(terms.values()):
            return None
        with torch.random.fork_rng(devices=[]):
            return SlotRegularizer(
                p.num_slots,
                p.slot_size,
                [name for name, weight in terms.items() if weight],
                covariance_of=p.covariance_of,
                projection_size=p.projection_size,
                projection_norm=p.projection_norm,
                divide_by_square=p.covariance_divisor == "square",
                variance_target=p.variance_target,
            )
