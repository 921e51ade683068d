"""The LightningModule of GNM."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric

from object_discovery.discovery import Batch, Discovery
from object_discovery.errors import UserError
from object_discovery.models.base import ObjectDiscoveryModel
from object_discovery.models.gnm.background import Background
from object_discovery.models.gnm.cluster_init import SEED_SIZE, find_seeds
from object_discovery.models.gnm.decomposition import Scene, count_objects_per_map, decompose
from object_discovery.models.gnm.distributions import Gaussian
from object_discovery.models.gnm.inference import ImageEncoder
from object_discovery.models.gnm.likelihood import log_ratio
from object_discovery.models.gnm.local_latents import ObjectDistribution, ObjectHead, Objects, place
from object_discovery.models.gnm.objective import (
    ScheduleValues,
    auxiliary_divergences,
    divergences,
    elbo,
    loss,
    negative_log_likelihood,
    robust_cost,
    weights_at,
)
from object_discovery.models.gnm.prior import StructDRAW
from object_discovery.models.gnm.renderer import GlimpseDecoder, Layers, arrange, blend
from object_discovery.models.scores import MeanScore
from object_discovery.params import GNMParams
from object_discovery.visualization.grid import draw_boxes

_MOST_PRESENT = 0.99
_MARGIN = 0.1  # of colours from the background, where `background_margin` gives none
_THE_END = 10**12


class Posterior(NamedTuple):
    """What the images alone say about their latents."""

    features: Tensor
    """What each cell sees, `(B, N, C)`."""
    objects: ObjectDistribution
    """Posterior of the objects."""
    background: Gaussian
    """Posterior of the background."""


class GNM(ObjectDiscoveryModel[GNMParams]):
    """Take scenes apart into objects and a background, and imagine new ones.

    Letters: B images, H W pixels, G x G = N cells with at most one object each, K slots, L steps of size D of the
    global latent.

    Masks, boxes and counts come from the most probable latents: an object is there if that is more probable than not.
    `val/elbo` is of one sample.

    Args:
        params: The hyperparameters.
        **settings: Fields of `GNMParams`, in place of `params`.

    Raises:
        ValueError: If a value is out of its range.

    Reference:
        Jiang and Ahn, Generative Neurosymbolic Machines, NeurIPS 2020, arXiv 2010.12152.

    Example:
        >>> model = GNM(num_slots=5, grid=2, resolution=32)
        >>> images = torch.rand(2, 3, 32, 32)
        >>> model(images).masks.shape  # the last is the background
        torch.Size([2, 5, 32, 32])
        >>> scene = model.scene(images)
        >>> scene.boxes.shape, scene.presence.shape, scene.counts.shape
        (torch.Size([2, 4, 4]), torch.Size([2, 4]), torch.Size([2]))
        >>> model.sample(3).image.shape  # imagined
        torch.Size([3, 3, 32, 32])
    """

    model_type: ClassVar[str] = "gnm"
    params_class: ClassVar[type[GNMParams]] = GNMParams

    def __init__(self, params: GNMParams | None = None, **settings: Any) -> None:
        super().__init__(params, **settings)
        p = self.params
        self.encoder = ImageEncoder(p.resolution, p.grid, p.hidden_size, shortcut=p.shortcut)
        self.global_latent = StructDRAW(p.grid, p.hidden_size, p.global_size, p.global_steps)
        self.seed_layer = nn.Linear(SEED_SIZE, p.hidden_size) if p.cluster_init else None
        self.head = ObjectHead(p.hidden_size, p.what_size, p.presence_bound, scale=p.scale_start)
        size = p.glimpse_size or max(4, self.encoder.size // 4)
        self.glimpses = GlimpseDecoder(p.what_size, size, centred=p.centred)
        self.background = Background(
            p.resolution, p.grid**2 * p.hidden_size, p.global_steps * p.global_size, p.background_size
        )
        self.num_particles: int | None = None
        """Particles of the log-likelihood that a test estimates; None: it does not."""

    def forward(self, images: Tensor, *, num_slots: int | None = None) -> Discovery:  # type: ignore[override]
        """Find the objects in images.

        Args:
            images: `(B, 3, H, W)`, floats in [0, 1].
            num_slots: K for this call. None: as set.

        Returns:
            Slots, masks, the reconstruction and the slots' images; the background is the last slot.

        Raises:
            ValueError: If the images are not of the model's resolution, or `num_slots` is out of its range.
        """
        images = self.prepare_images(images)
        if not len(images):
            return self.discover_nothing(images, num_slots=num_slots)
        return self.scene(images, num_slots=num_slots).discovery

    def scene(self, images: Tensor, *, num_slots: int | None = None, imagined: bool = False) -> Scene:
        """Take scenes apart: objects with their masks, boxes, presence and depth, and the background.

        Args:
            images: `(B, 3, H, W)`, floats in [0, 1].
            num_slots: K for this call. None: as set.
            imagined: See the images only through a sample of the global latent, and expect the rest from it.

        Raises:
            ValueError: If the images are not of the model's resolution, or `num_slots` is out of its range.
        """
        self.check_images(images)
        inferred = self.infer(images)
        if not imagined:
            return self._scene(inferred.objects.mode(), inferred.background.mean, None, num_slots)
        latent = self.global_latent(inferred.features)
        background = self.background.expect(latent.samples).mean
        return self._scene(self.head(latent.features).mode(), background, latent.samples, num_slots)

    @torch.no_grad()
    def sample(
        self,
        count: int,
        *,
        mode: bool = False,
        latent: Tensor | None = None,
        redraw: tuple[int, ...] = (),
        num_slots: int | None = None,
    ) -> Scene:
        """Imagine scenes.

        Args:
            count: How many, B.
            mode: Take the most probable objects and background given the global latent, which is drawn all the same.
            latent: Global latents to imagine scenes of, `(B, L, D)`, as in `Scene.latent`. None: draw them.
            redraw: Steps of `latent` to draw anew, from 0 to L - 1; the later steps are kept, but mean something else.
            num_slots: K for this call. None: as set.

        Raises:
            ValueError: If `latent` is of another shape, there is no such step, or `num_slots` is out of its range.

        Example:
            >>> model = GNM(num_slots=5, grid=2, resolution=16)
            >>> first = model.sample(2)
            >>> other = model.sample(2, latent=first.latent, redraw=(3,))
            >>> torch.equal(other.latent[:, :3], first.latent[:, :3]), torch.equal(other.latent, first.latent)
            (True, False)
        """
        shape = (count, self.params.global_steps, self.params.global_size)
        if latent is not None and tuple(latent.shape) != shape:
            raise ValueError(f"Expected argument `latent` to be of shape {shape}, but got {tuple(latent.shape)}")
        if (latent is None and redraw) or not set(redraw) <= set(range(shape[1])):
            raise ValueError(f"Expected argument `redraw` to be steps of `latent` below {shape[1]}, but got {redraw}")
        drawn = self.global_latent.sample(count, latent, redraw)
        objects, background = self.head(drawn.features), self.background.expect(drawn.samples)
        if mode:
            return self._scene(objects.mode(), background.mean, drawn.samples, num_slots)
        return self._scene(objects.draw(), background.sample(), drawn.samples, num_slots)

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, num_particles: int = 100) -> Tensor:
        """Estimate the logarithm of the density of images by importance sampling, with the posterior as proposal.

        Particles have presences of 0 or 1. The estimate is low by less the more particles there are.

        Args:
            images: `(B, 3, H, W)`, floats in [0, 1].
            num_particles: Samples of the latents of each image.

        Returns:
            Nats of each image, `(B,)`, float32: a density of colours in [0, 1] with the noise `sigma`.

        Raises:
            ValueError: If `num_particles` is below 1, or the images are not of the model's resolution.
        """
        if num_particles < 1:
            raise ValueError(f"Expected argument `num_particles` to be at least 1, but got {num_particles}")
        self.check_images(images)
        inferred = self.infer(images)
        weights = torch.stack([self._log_weight(images, inferred) for _ in range(num_particles)])
        return (weights.double().logsumexp(0) - math.log(num_particles)).float()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss and its parts, in nats, as means over images.

        `loss` is `nll`, the cost of the image, and `kl_...` and `aux_...` with the weights of the step; `elbo` is minus
        the sum of `nll` and all `kl_...`. `objects` is how many objects there are.
        """
        weights = weights_at(self.params, self.global_step)
        parts, objects = self._parts(batch["image"], weights)
        values = {name: value.mean() for name, value in parts.items()}
        counts = objects.presence.detach().sum(1).mean()
        return {"loss": loss(values, weights), "elbo": elbo(values).detach(), "objects": counts, **values}

    def extra_metrics(self) -> dict[str, Metric]:
        """Build the means of the ELBO, of how often the count is right, and of the log-likelihood."""
        return {name: MeanScore() for name in ("elbo", "count_accuracy", "log_likelihood")}

    def score_batch(self, batch: Batch) -> tuple[Discovery, dict[str, Any]]:
        """Find the objects of a batch; estimate the ELBO of each image and, if asked for, its log-likelihood."""
        images = batch["image"]
        end = weights_at(self.params, _THE_END)
        discovery: Discovery = self(images, **self.forward_options)
        extra: dict[str, Any] = {"elbo": elbo(self._parts(images, end)[0])}
        if "mask" in batch:
            extra["count_accuracy"] = (self.count_objects(images) == count_objects_per_map(batch["mask"])).float()
        if self.num_particles is not None:
            extra["log_likelihood"] = self.log_likelihood(images, self.num_particles)
        return discovery, extra

    def pictures(self, images: Tensor, found: Discovery) -> dict[str, Tensor]:
        """Draw the frames of the objects that are there, and paint as many imagined scenes as there are images."""
        scene = self.scene(images)
        return {
            "boxes": draw_boxes(images, scene.boxes, scene.presence > 0.5),
            "imagined": self.sample(len(images)).image,
        }

    def infer(self, images: Tensor, reach: float = 1.0) -> Posterior:
        """Infer the latents of images `(B, 3, H, W)`; `reach` is the share of the bound of the presence's log-odds."""
        features = self.encoder(images)
        background = self.background.infer(features)
        if self.seed_layer is None:
            return Posterior(features, self.head(features, reach), background)
        # Autocast caches the bfloat16 copies of weights; copies made under no_grad would later block gradients.
        painted = self.background.paint(background.mean).detach()
        seeds = find_seeds(images, painted, self.params.background_margin or _MARGIN, self.params.grid)
        features = features + self.seed_layer(seeds.described())
        return Posterior(features, self.head(features, reach, seeds), background)

    def count_objects(self, images: Tensor) -> Tensor:
        """Count the objects that are more probably there than not, `(B,)`, int64."""
        self.check_images(images)
        return (self.infer(images).objects.presence > 0).sum(1)

    def paint(self, objects: Objects, background: Tensor) -> tuple[Layers, Tensor]:
        """Paint objects in their places, and the backgrounds `(B, 3, H, W)` of their latents `(B, D')`."""
        glimpses = self.glimpses(objects.what.flatten(0, 1))
        boxes = place(objects.where, self.params.grid)
        layers = arrange(glimpses, objects.presence, boxes, objects.depth, self.params.resolution)
        return layers, self.background.paint(background)

    def check_precision(self, precision: str) -> None:
        """Refuse weights of half the precision, in which the likelihood would be lost to rounding."""
        if precision in ("bf16-true", "16-true"):
            raise UserError(f"Expected argument `precision` to be a mixed one or 32-true for gnm, but got {precision}")

    def configure_optimizers(self) -> Any:
        """Build Adam as for every model, or RMSprop as published, with the same schedule."""
        configured = super().configure_optimizers()
        if self.params.optimizer == "rmsprop":
            optimizer = torch.optim.RMSprop(self.parameters(), lr=self.params.lr)
            scheduler = LambdaLR(optimizer, self.learning_rate_factor)
            configured = {
                "optimizer": optimizer,
                "lr_scheduler": {**configured["lr_scheduler"], "scheduler": scheduler},
            }
        return configured

    def _scene(self, objects: Objects, background: Tensor, latent: Tensor | None, num_slots: int | None) -> Scene:
        most = self.params.grid**2 + 1
        num_slots = min(self.params.num_slots, most) if num_slots is None else num_slots
        if not 1 <= num_slots <= most:
            raise ValueError(f"Expected argument `num_slots` to be from 1 to {most}, but got {num_slots}")
        layers, painted = self.paint(objects, background)
        boxes = place(objects.where, self.params.grid)
        return decompose(objects, boxes, layers, painted, background, num_slots, latent)

    def _parts(self, images: Tensor, weights: ScheduleValues) -> tuple[dict[str, Tensor], Objects]:
        """Compute the parts of the objective, `(B,)` each, of one sample of the latents; and its objects."""
        p = self.params
        self.check_images(images)
        features, inferred, inferred_background = self.infer(images, weights.reach)
        objects = inferred.sample(weights.tau, weights.noise)
        background = inferred_background.sample(weights.noise)
        if weights.alone:
            objects = objects._replace(presence=torch.zeros_like(objects.presence))
        if weights.coverage is not None:
            objects = objects._replace(presence=objects.presence.clamp_max(_MOST_PRESENT))
        latent = self.global_latent(features)
        expected = self.head(latent.features, weights.reach)
        expected_background = self.background.expect(latent.samples)
        layers, painted = self.paint(objects, background)
        own = self._cost_of_background(painted, images, weights)
        image = blend(layers, painted.detach() if own else painted, weights.coverage).image
        parts = {
            "nll": negative_log_likelihood(image, images, p.sigma),
            **divergences(inferred, expected, inferred_background, expected_background, latent),
            **auxiliary_divergences(
                inferred, objects, inferred_background, weights.presence_prior, p.scale_prior, p.scale_std
            ),
            **own,
        }
        return parts, objects

    def _cost_of_background(self, painted: Tensor, images: Tensor, weights: ScheduleValues) -> dict[str, Tensor]:
        """Compute what backgrounds cost that learn on their own, by the part's name; nothing if they do not."""
        p = self.params
        if p.background_margin is None:
            return {}
        return {"background_nll": robust_cost(painted, images, p.sigma, p.background_margin, bounded=not weights.alone)}

    def _log_weight(self, images: Tensor, found: Posterior) -> Tensor:
        """Draw the latents of images once and return the logarithm of their importance, `(B,)`."""
        features, inferred, inferred_background = found
        objects, background, latent = inferred.draw(), inferred_background.sample(), self.global_latent(features)
        expected, expected_background = self.head(latent.features), self.background.expect(latent.samples)
        image = blend(*self.paint(objects, background)).image
        ratio = log_ratio(objects, inferred, expected, background, inferred_background, expected_background, latent)
        return ratio - negative_log_likelihood(image, images, self.params.sigma)
