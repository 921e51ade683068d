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
from object_discovery.models.gnm.cluster_init import PROPOSAL_SIZE, propose_objects
from object_discovery.models.gnm.decomposition import SceneDecomposition, build_decomposition, count_objects_per_map
from object_discovery.models.gnm.distributions import Gaussian
from object_discovery.models.gnm.encoder import ImageEncoder
from object_discovery.models.gnm.likelihood import log_prior_posterior_ratio
from object_discovery.models.gnm.local_latents import ObjectDistribution, ObjectHead, ObjectLatents, where_to_boxes
from object_discovery.models.gnm.objective import (
    ScheduleValues,
    auxiliary_kl_terms,
    elbo,
    kl_terms,
    negative_log_likelihood,
    robust_reconstruction_loss,
    schedule_values,
    weighted_loss,
)
from object_discovery.models.gnm.renderer import GlimpseDecoder, ObjectImages, composite, transform_objects
from object_discovery.models.gnm.struct_draw import StructDRAW
from object_discovery.models.masks import choose_masks
from object_discovery.models.scores import MeanScore
from object_discovery.params import GNMParams
from object_discovery.visualization.grid import draw_boxes

_MAX_CURRICULUM_PRESENCE = 0.99  # upper bound of z_pres while alpha is forced
_DEFAULT_PROPOSAL_MARGIN = 0.1  # colour difference from the background, where `background_margin` is None
_END_OF_SCHEDULES = 10**12


class Posterior(NamedTuple):
    """Approximate posterior of the object and background latents given images, q(z_s, z_bg | x)."""

    features: Tensor
    """Cell features of the image encoder, `(B, N, C)`."""
    objects: ObjectDistribution
    """q(z_s | x)."""
    background: Gaussian
    """q(z_bg | x)."""


class GNM(ObjectDiscoveryModel[GNMParams]):
    """Generative Neurosymbolic Machine: decomposes scenes into objects and a background, and samples new ones.

    Shapes: B images, H W pixels, G x G = N cells with at most one object each, K slots, L steps of size D of the
    global latent z_g.

    Masks, boxes and counts come from the mode of the posterior: an object is present if its probability exceeds 0.5.
    `val/elbo` is a one-sample estimate.

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
        >>> model(images).masks.shape  # the last slot is the background
        torch.Size([2, 5, 32, 32])
        >>> scene = model.decompose(images)
        >>> scene.boxes.shape, scene.presence.shape, scene.counts.shape
        (torch.Size([2, 4, 4]), torch.Size([2, 4]), torch.Size([2]))
        >>> model.sample(3).image.shape  # samples from the prior
        torch.Size([3, 3, 32, 32])
    """

    model_type: ClassVar[str] = "gnm"
    params_class: ClassVar[type[GNMParams]] = GNMParams

    def __init__(self, params: GNMParams | None = None, **settings: Any) -> None:
        super().__init__(params, **settings)
        p = self.params
        self.encoder = ImageEncoder(p.resolution, p.grid, p.hidden_size, shortcut=p.encoder_shortcut)
        self.global_latent = StructDRAW(p.grid, p.hidden_size, p.global_size, p.global_steps)
        self.seed_layer = nn.Linear(PROPOSAL_SIZE, p.hidden_size) if p.cluster_init else None
        self.head = ObjectHead(p.hidden_size, p.what_size, p.presence_bound, scale=p.scale_init)
        size = p.glimpse_size or max(4, self.encoder.size // 4)
        self.glimpses = GlimpseDecoder(p.what_size, size, disc_init=p.disc_init)
        self.background = Background(
            p.resolution, p.grid**2 * p.hidden_size, p.global_steps * p.global_size, p.background_size
        )
        self.num_particles: int | None = None
        """Particles of the log-likelihood estimate of `test`. None: no estimate."""

    def forward(self, images: Tensor, *, num_slots: int | None = None) -> Discovery:  # type: ignore[override]
        """Discover the objects of images.

        Args:
            images: `(B, 3, H, W)`, floats in [0, 1].
            num_slots: K for this call. None: `params.num_slots`.

        Returns:
            Slots, masks, reconstruction and slot images; the last slot is the background.

        Raises:
            ValueError: If the images are not of the model's resolution, or `num_slots` is out of its range.
        """
        images = self.prepare_images(images)
        if not len(images):
            return self.discover_nothing(images, num_slots=num_slots)
        return choose_masks(self.decompose(images, num_slots=num_slots).discovery, images, self.params.mask_source)

    def decompose(
        self, images: Tensor, *, num_slots: int | None = None, from_global_latent: bool = False
    ) -> SceneDecomposition:
        """Decompose images into objects, with masks, boxes, presence and depth, and a background.

        Args:
            images: `(B, 3, H, W)`, floats in [0, 1].
            num_slots: K for this call. None: `params.num_slots`.
            from_global_latent: Reconstruct from z_g alone: sample z_g from its posterior, and take the mode of the
                prior of all other latents given z_g.

        Raises:
            ValueError: If the images are not of the model's resolution, or `num_slots` is out of its range.
        """
        self.check_images(images)
        posterior = self.infer(images)
        if not from_global_latent:
            return self._decompose(posterior.objects.mode(), posterior.background.mean, None, num_slots)
        global_latent = self.global_latent(posterior.features)
        background = self.background.conditional_prior(global_latent.samples).mean
        return self._decompose(self.head(global_latent.features).mode(), background, global_latent.samples, num_slots)

    @torch.no_grad()
    def sample(
        self,
        num_samples: int,
        *,
        mode: bool = False,
        latent: Tensor | None = None,
        resample_steps: tuple[int, ...] = (),
        num_slots: int | None = None,
    ) -> SceneDecomposition:
        """Sample scenes from the prior.

        Args:
            num_samples: B.
            mode: Take the mode of the object and background latents given z_g; z_g itself is sampled nonetheless.
            latent: z_g of the scenes, `(B, L, D)`, as in `SceneDecomposition.latent`. None: sampled from the prior.
            resample_steps: Indices in [0, L) of the steps of `latent` to sample anew. Later steps keep their values,
                though their prior depends on the earlier ones.
            num_slots: K for this call. None: `params.num_slots`.

        Raises:
            ValueError: If `latent` is of another shape, there is no such step, or `num_slots` is out of its range.

        Example:
            >>> model = GNM(num_slots=5, grid=2, resolution=16)
            >>> first = model.sample(2)
            >>> other = model.sample(2, latent=first.latent, resample_steps=(3,))
            >>> torch.equal(other.latent[:, :3], first.latent[:, :3]), torch.equal(other.latent, first.latent)
            (True, False)
        """
        shape = (num_samples, self.params.global_steps, self.params.global_size)
        if latent is not None and tuple(latent.shape) != shape:
            raise ValueError(f"Expected argument `latent` to be of shape {shape}, but got {tuple(latent.shape)}")
        if (latent is None and resample_steps) or not set(resample_steps) <= set(range(shape[1])):
            raise ValueError(
                f"Expected argument `resample_steps` to be steps of `latent` below {shape[1]}, but got {resample_steps}"
            )
        global_latent = self.global_latent.sample(num_samples, latent, resample_steps)
        objects = self.head(global_latent.features)
        background = self.background.conditional_prior(global_latent.samples)
        if mode:
            return self._decompose(objects.mode(), background.mean, global_latent.samples, num_slots)
        return self._decompose(objects.sample(), background.rsample(), global_latent.samples, num_slots)

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, num_particles: int = 100) -> Tensor:
        """Estimate the log-likelihood of images by importance sampling, with the posterior as proposal.

        Particles have z_pres in {0, 1}. In expectation the estimate is a lower bound, which tightens with the number
        of particles.

        Args:
            images: `(B, 3, H, W)`, floats in [0, 1].
            num_particles: Samples of the latents of each image.

        Returns:
            log p(x) in nats, `(B,)`, float32: a density of colours in [0, 1] with standard deviation `sigma`.

        Raises:
            ValueError: If `num_particles` is below 1, or the images are not of the model's resolution.

        Reference:
            Burda et al., Importance Weighted Autoencoders, ICLR 2016, arXiv 1509.00519.
        """
        if num_particles < 1:
            raise ValueError(f"Expected argument `num_particles` to be at least 1, but got {num_particles}")
        self.check_images(images)
        posterior = self.infer(images)
        log_weights = torch.stack([self._log_importance_weight(images, posterior) for _ in range(num_particles)])
        return (log_weights.double().logsumexp(0) - math.log(num_particles)).float()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss and its terms, in nats, as means over images.

        `loss` sums `nll` and all `kl_...` and `aux_...` with their scheduled weights; `elbo` is the negative sum of
        `nll` and all `kl_...`; `objects` is the mean number of objects, the sum of z_pres.
        """
        schedule = schedule_values(self.params, self.global_step)
        terms, objects = self._loss_terms(batch["image"], schedule)
        means = {name: value.mean() for name, value in terms.items()}
        counts = objects.presence.detach().sum(1).mean()
        return {"loss": weighted_loss(means, schedule), "elbo": elbo(means).detach(), "objects": counts, **means}

    def extra_metrics(self) -> dict[str, Metric]:
        """Build the means of the ELBO, of the accuracy of the object count, and of the log-likelihood."""
        return {name: MeanScore() for name in ("elbo", "count_accuracy", "log_likelihood")}

    def score_batch(self, batch: Batch) -> tuple[Discovery, dict[str, Any]]:
        """Discover the objects of a batch; estimate the ELBO of each image and, with `num_particles`, log p(x)."""
        images = batch["image"]
        schedule = schedule_values(self.params, _END_OF_SCHEDULES)
        discovery: Discovery = self(images, **self.forward_options)
        extra: dict[str, Any] = {"elbo": elbo(self._loss_terms(images, schedule)[0])}
        if "mask" in batch:
            extra["count_accuracy"] = (self.count_objects(images) == count_objects_per_map(batch["mask"])).float()
        if self.num_particles is not None:
            extra["log_likelihood"] = self.log_likelihood(images, self.num_particles)
        return discovery, extra

    def pictures(self, images: Tensor, discovery: Discovery) -> dict[str, Tensor]:
        """Plot the boxes of present objects onto the images, and sample as many scenes from the prior."""
        scene = self.decompose(images)
        return {
            "boxes": draw_boxes(images, scene.boxes, scene.presence > 0.5),
            "samples": self.sample(len(images)).image,
        }

    def infer(self, images: Tensor, bound_fraction: float = 1.0) -> Posterior:
        """Compute the approximate posterior of the object and background latents.

        Args:
            images: `(B, 3, H, W)`, floats in [0, 1].
            bound_fraction: Factor on the bound of the logits of z_pres, in [0, 1].
        """
        features = self.encoder(images)
        background = self.background.infer(features)
        if self.seed_layer is None:
            return Posterior(features, self.head(features, bound_fraction), background)
        # Autocast caches the bfloat16 copies of weights; copies made under no_grad would later block gradients.
        background_image = self.background.decode(background.mean).detach()
        margin = self.params.background_margin or _DEFAULT_PROPOSAL_MARGIN
        proposals = propose_objects(images, background_image, margin, self.params.grid)
        features = features + self.seed_layer(proposals.vectors())
        return Posterior(features, self.head(features, bound_fraction, proposals), background)

    def count_objects(self, images: Tensor) -> Tensor:
        """Count the objects whose posterior probability of presence exceeds 0.5, `(B,)`, int64."""
        self.check_images(images)
        return (self.infer(images).objects.presence > 0).sum(1)

    def decode(self, objects: ObjectLatents, background: Tensor) -> tuple[ObjectImages, Tensor]:
        """Decode the object latents and z_bg `(B, D')` into transformed objects and background `(B, 3, H, W)`."""
        glimpses = self.glimpses(objects.what.flatten(0, 1))
        boxes = where_to_boxes(objects.where, self.params.grid)
        object_images = transform_objects(glimpses, objects.presence, boxes, objects.depth, self.params.resolution)
        return object_images, self.background.decode(background)

    def check_precision(self, precision: str) -> None:
        """Refuse weights in half precision, whose rounding errors exceed the likelihood's differences."""
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

    def _decompose(
        self, objects: ObjectLatents, background_latent: Tensor, latent: Tensor | None, num_slots: int | None
    ) -> SceneDecomposition:
        """Render latents and collect masks, boxes and slots of the K - 1 most visible objects."""
        maximum = self.params.grid**2 + 1
        num_slots = min(self.params.num_slots, maximum) if num_slots is None else num_slots
        if not 1 <= num_slots <= maximum:
            raise ValueError(f"Expected argument `num_slots` to be from 1 to {maximum}, but got {num_slots}")
        object_images, background = self.decode(objects, background_latent)
        boxes = where_to_boxes(objects.where, self.params.grid)
        return build_decomposition(objects, boxes, object_images, background, background_latent, num_slots, latent)

    def _loss_terms(self, images: Tensor, schedule: ScheduleValues) -> tuple[dict[str, Tensor], ObjectLatents]:
        """Compute the terms of the objective, `(B,)` each, for one sample of the latents; also return that sample."""
        p = self.params
        self.check_images(images)
        features, posterior, background_posterior = self.infer(images, schedule.bound_fraction)
        objects = posterior.rsample(schedule.tau, schedule.noise_scale)
        background_latent = background_posterior.rsample(schedule.noise_scale)
        if schedule.background_only:
            objects = objects._replace(presence=torch.zeros_like(objects.presence))
        if schedule.forced_alpha is not None:
            objects = objects._replace(presence=objects.presence.clamp_max(_MAX_CURRICULUM_PRESENCE))
        global_latent = self.global_latent(features)
        prior = self.head(global_latent.features, schedule.bound_fraction)
        background_prior = self.background.conditional_prior(global_latent.samples)
        object_images, background = self.decode(objects, background_latent)
        background_terms = self._background_terms(background, images, schedule)
        image = composite(
            object_images, background.detach() if background_terms else background, schedule.forced_alpha
        ).image
        terms = {
            "nll": negative_log_likelihood(image, images, p.sigma),
            **kl_terms(posterior, prior, background_posterior, background_prior, global_latent),
            **auxiliary_kl_terms(
                posterior, objects, background_posterior, schedule.presence_prior, p.scale_prior, p.scale_std
            ),
            **background_terms,
        }
        return terms, objects

    def _background_terms(self, background: Tensor, images: Tensor, schedule: ScheduleValues) -> dict[str, Tensor]:
        """Compute the robust loss of a background that is trained separately; no term if it is trained jointly."""
        p = self.params
        if p.background_margin is None:
            return {}
        bounded = not schedule.background_only
        loss = robust_reconstruction_loss(background, images, p.sigma, p.background_margin, bounded=bounded)
        return {"background_nll": loss}

    def _log_importance_weight(self, images: Tensor, posterior: Posterior) -> Tensor:
        """Sample all latents once and compute log p(x, z) - log q(z | x), `(B,)`."""
        objects, background = posterior.objects.sample(), posterior.background.rsample()
        global_latent = self.global_latent(posterior.features)
        prior = self.head(global_latent.features)
        background_prior = self.background.conditional_prior(global_latent.samples)
        image = composite(*self.decode(objects, background)).image
        log_ratio = log_prior_posterior_ratio(
            objects, posterior.objects, prior, background, posterior.background, background_prior, global_latent
        )
        return log_ratio - negative_log_likelihood(image, images, self.params.sigma)
