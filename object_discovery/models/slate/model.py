"""SLATE (Singh et al. 2022)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from object_discovery.discovery import Batch, Discovery
from object_discovery.layers.compositing import mask_inactive_slots
from object_discovery.layers.weight_init import keras_init
from object_discovery.models.scores import MeanScore
from object_discovery.models.slate.dvae import PATCH, DiscreteVAE, sample_tokens
from object_discovery.models.slate.generation import generate_tokens
from object_discovery.models.slate.transformer import TokenEmbedding, TokenTransformerDecoder
from object_discovery.models.slot_model import DEFAULT_OPTIONS, SlotModel, SlotOptions
from object_discovery.params import SLATEParams
from object_discovery.schedules import Plateau, cosine_anneal


class SLATE(SlotModel[SLATEParams]):
    """SLATE: discrete VAE, Slot Attention on token embeddings, autoregressive transformer decoder.

    Shapes: B images of H x W pixels, K slots, D slot size.

    `val/mse` and `Discovery.image` are the reconstruction of the discrete VAE, which does not pass through the slots;
    `reconstruct` decodes the slots. With batch normalisation in the discrete VAE, call `eval()` before `forward`.
    `val/cross_entropy` is summed over tokens, and `val/loss` is the cross-entropy plus the squared error summed over
    pixels, as published.

    Args:
        params: The hyperparameters.
        **settings: Fields of `SLATEParams`, in place of `params`.

    Raises:
        ValueError: If a value is out of its range.

    Reference:
        Singh, Deng and Ahn, Illiterate DALL-E Learns to Compose, ICLR 2022, arXiv 2110.11405.

    Example:
        >>> model = SLATE(num_slots=3, resolution=16, codebook_size=32)
        >>> discovery = model(torch.rand(2, 3, 16, 16))
        >>> discovery.slots.shape, discovery.masks.shape  # masks sum to 1 over the slots
        (torch.Size([2, 3, 192]), torch.Size([2, 3, 16, 16]))
        >>> slots = torch.stack([discovery.slots[0, 0], discovery.slots[1, 2]])[None]
        >>> model.compose(slots).shape  # an image of two slots
        torch.Size([1, 3, 16, 16])
    """

    model_type: ClassVar[str] = "slate"
    params_class: ClassVar[type[SLATEParams]] = SLATEParams

    def __init__(self, params: SLATEParams | None = None, **settings: Any) -> None:
        super().__init__(params, **settings)
        p = self.params
        self.grid = -(-p.resolution // PATCH)
        self.plateau = Plateau(p.patience) if p.patience else None
        self.dvae = DiscreteVAE(p.codebook_size, p.dvae_norm)
        self.embedding = TokenEmbedding(p.codebook_size, self.grid**2, p.model_size, p.dropout)
        self.features = nn.Sequential(
            nn.LayerNorm(p.model_size),
            nn.Linear(p.model_size, p.model_size),
            nn.ReLU(),
            nn.Linear(p.model_size, p.model_size),
        )
        self.slot_attention = self.build_slot_attention(p.model_size)
        self.decoder = TokenTransformerDecoder(
            p.codebook_size,
            p.slot_size,
            p.model_size,
            num_blocks=p.decoder_blocks,
            num_heads=p.decoder_heads,
            dropout=p.dropout,
            attention_dropout=p.attention_dropout,
        )
        for part in (self.features, self.slot_attention):
            part.apply(keras_init)
        if p.slot_init == "gaussian":  # as published: lower bounds than the default of `SlotAttention`
            nn.init.xavier_uniform_(self.slot_attention.mu)
            nn.init.xavier_uniform_(self.slot_attention.log_sigma)

    def discover(self, images: Tensor, options: SlotOptions) -> Discovery:
        """Do the work of `forward`, with argmax tokens; the image is the reconstruction of the discrete VAE."""
        return self._discover_tokens(images, options)[0]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of the discrete VAE and of the decoder, as means over images.

        The first is the squared error summed over pixels, the second the cross-entropy summed over tokens, without
        gradient to the discrete VAE. Tokens are sampled in each step, also by a frozen discrete VAE, which takes 2 to 3
        % of the time.
        """
        images = batch["image"]
        self.dvae.train(self.training and self.stage != "slots")  # its running statistics freeze with its weights
        if self.stage == "slots":
            with torch.no_grad():
                tokens = sample_tokens(self.dvae.encode(self._pad(images)))
            losses: dict[str, Tensor] = {}
        else:
            losses, tokens = self._dvae_losses(images)
        if self.stage != "dvae":
            embedded, slots, *_ = self._attend_slots(images, tokens)
            cross_entropy = self.decoder(embedded[:, :-1], slots, tokens)[0] / len(images)
            total = losses["loss"] + cross_entropy if losses else cross_entropy
            losses = self.regularize({**losses, "loss": total, "cross_entropy": cross_entropy}, slots)
        return {**losses, "loss": losses["loss"] + self._idle()}

    @classmethod
    def monitor(cls, has_masks: bool) -> tuple[str, Literal["min", "max"]]:
        """Select the best checkpoint without masks by the loss, as the squared error does not depend on the slots."""
        return super().monitor(has_masks) if has_masks else ("val/loss", "min")

    @property
    def stage(self) -> Literal["joint", "dvae", "slots"]:
        """What is trained at this step: everything, the discrete VAE only, or everything else."""
        first = self.params.dvae_steps
        return "joint" if not first else "dvae" if self.global_step < first else "slots"

    @property
    def slot_steps(self) -> int:
        """Steps in which the slots were trained, without those of the discrete VAE alone."""
        return max(0, self.global_step - self.params.dvae_steps)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Initialise the codebook of a new model by k-means of its first batch, with `codebook_init="kmeans"`."""
        if self.global_step or batch_idx or self.dvae.codebook_initialized:
            return
        if self.params.codebook_init == "kmeans":
            self.dvae.init_as_kmeans(self._pad(batch["image"]))
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                for parameter in self.dvae.to_logits.parameters():
                    torch.distributed.broadcast(parameter.data, 0)
        self.dvae.codebook_initialized.fill_(True)

    def on_fit_start(self) -> None:
        """Warn if the slots will not be trained."""
        super().on_fit_start()
        if 0 < self.trainer.max_steps <= self.params.dvae_steps:
            rank_zero_warn(
                f"only the discrete VAE is trained: `max_steps` {self.trainer.max_steps} is not above `dvae_steps` "
                f"{self.params.dvae_steps}"
            )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Remove the gradients of parameters that are not trained at this stage, so that Adam skips them."""
        for parameter in self._idle_parameters():
            parameter.grad = None

    def extra_metrics(self) -> dict[str, Metric]:
        """Build the metrics of slots and the means of the losses."""
        return {"loss": MeanScore(), "cross_entropy": MeanScore(), **super().extra_metrics()}

    def score_batch(self, batch: Batch) -> tuple[Discovery, dict[str, Any]]:
        """Find the objects of a batch; and compute the losses of each image, with argmax tokens."""
        discovery, tokens, embedded = self._discover_tokens(batch["image"], self.default_options)
        assert discovery.image is not None
        squared_error = (discovery.image - batch["image"]).square().flatten(1).sum(1)
        cross_entropy = self.decoder(embedded[:, :-1], discovery.slots, tokens)[1].sum(1)
        losses = {"loss": squared_error + cross_entropy, "cross_entropy": cross_entropy}
        return discovery, {**losses, **self.slot_scores(discovery.slots)}

    @torch.no_grad()
    def reconstruct(self, images: Tensor, *, temperature: float = 0.0, cached: bool = True) -> Tensor:
        """Reconstruct images `(B, 3, H, W)` from their slots, see `compose`."""
        with self._evaluating():
            slots = self(images).slots
        return self.compose(slots, temperature=temperature, cached=cached)

    @torch.no_grad()
    def compose(self, slots: Tensor, *, temperature: float = 0.0, cached: bool = True) -> Tensor:
        """Generate images from slots, which may come from different images.

        Args:
            slots: `(B, K, D)`; K may differ from training.
            temperature: 0: argmax tokens. Above 0: tokens sampled at this temperature.
            cached: Use a key/value cache. False: recompute the prefix for each token, for comparisons.

        Returns:
            Images, `(B, 3, H, W)` in [0, 1], float32.

        Raises:
            ValueError: If the slots are of another shape or the temperature is negative.
        """
        size = self.params.slot_size
        if slots.ndim != 3 or slots.shape[2] != size:
            raise ValueError(f"Expected argument `slots` to be (B, K, {size}), but got {tuple(slots.shape)}")
        with self._evaluating():
            tokens = generate_tokens(self.decoder, self.embedding, slots, temperature=temperature, cached=cached)
            return self._decode_tokens(tokens).clamp(0, 1)

    def pictures(self, images: Tensor, discovery: Discovery) -> dict[str, Tensor]:
        """Reconstruct the images from their slots, once slots are trained."""
        return {} if self.global_step < self.params.dvae_steps else {"from slots": self.compose(discovery.slots)}

    def parameter_groups(self) -> list[tuple[dict[str, Any], Callable[[int], float]]]:
        """Return the parameter groups: the discrete VAE has its own learning rate, without warm-up."""
        main, dvae = self._main_parameters(), list(self.dvae.parameters())
        start = self.params.dvae_steps
        return [
            (
                {"params": main, "name": "main"},
                lambda step: self._plateau_factor() * self.learning_rate_factor(step, start),
            ),
            ({"params": dvae, "name": "dvae", "lr": self.params.dvae_lr}, lambda step: self._plateau_factor()),
        ]

    def on_validation_epoch_end(self) -> None:
        """Log the validation scores, and update the learning rate on a plateau."""
        values = self._log_scores("val")
        in_run = self.trainer.state.fn == "fit" and not self.trainer.sanity_checking
        if self.plateau and in_run and self.global_step > self.params.dvae_steps:  # there is no loss of slots before
            self.plateau.update(float(values["loss"]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the state of the plateau schedule."""
        super().on_save_checkpoint(checkpoint)
        if self.plateau:
            checkpoint["plateau"] = dataclasses.asdict(self.plateau)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state of the plateau schedule, with the patience of this run."""
        super().on_load_checkpoint(checkpoint)
        if self.plateau and "plateau" in checkpoint:
            self.plateau = Plateau(**{**checkpoint["plateau"], "patience": self.plateau.patience})

    def _plateau_factor(self) -> float:
        return self.plateau.factor if self.plateau else 1.0

    def _dvae_losses(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        p = self.params
        tau = cosine_anneal(self.global_step, p.tau_start, p.tau_end, p.tau_steps)
        reconstruction, tokens = self.dvae(self._pad(images), tau)
        mse = F.mse_loss(self._crop(reconstruction).float(), images.float(), reduction="sum") / len(images)
        return {"loss": mse, "mse": mse, "tau": torch.full((), tau, device=mse.device)}, tokens

    def _idle_parameters(self) -> list[nn.Parameter]:
        """List the parameters that are not trained at this stage."""
        parts = {"joint": [], "dvae": self._main_parameters(), "slots": list(self.dvae.parameters())}
        return [parameter for parameter in parts[self.stage] if parameter.requires_grad]

    def _idle(self) -> Tensor | float:
        """Return 0 with a gradient for the parameters that are not trained, as distributed training expects."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        idle = self._idle_parameters() if distributed and torch.is_grad_enabled() else []
        return 0 * torch.stack([parameter.sum() for parameter in idle]).sum() if idle else 0.0

    def _main_parameters(self) -> list[nn.Parameter]:
        dvae = {id(parameter) for parameter in self.dvae.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in dvae]

    def _discover_tokens(self, images: Tensor, options: SlotOptions) -> tuple[Discovery, Tensor, Tensor]:
        """Find the objects with argmax tokens; also return the tokens `(B, N)` and their embeddings `(B, 1 + N, d)`."""
        tokens = self.dvae.tokens(self._pad(images))
        embedded, slots, attention, clusters = self._attend_slots(images, tokens, options)
        if self.params.mask_source == "decoder":
            attention = mask_inactive_slots(self.decoder.attention(embedded[:, :-1], slots), self.active_mask(slots))
        discovery = self._discovery(tokens, slots, attention)
        cluster_masks = self.cluster_masks(clusters, self.grid * PATCH)
        if cluster_masks is not None:
            discovery = discovery._replace(cluster_masks=self._crop(cluster_masks))
        return discovery, tokens, embedded

    def _attend_slots(
        self, images: Tensor, tokens: Tensor, options: SlotOptions = DEFAULT_OPTIONS
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Embed tokens as `(B, 1 + N, d)`, and compute slots, their attention and their clusters, both `(B, K, N)`."""
        embedded = self.embedding(tokens)
        clusters = self.image_clusters(self._pad(images), self.grid, options, self.params.clusters)
        slots, attention = self.attend_slots(self.features(embedded[:, 1:]), options, clusters)
        return embedded, slots, attention, clusters

    def _discovery(self, tokens: Tensor, slots: Tensor, attention: Tensor) -> Discovery:
        grid = rearrange(attention, "b k (h w) -> b k h w", h=self.grid)
        masks = F.interpolate(grid, scale_factor=PATCH, mode="nearest")
        return Discovery(slots, self._crop(masks), self._decode_tokens(tokens), None, grid)

    def _decode_tokens(self, tokens: Tensor) -> Tensor:
        return self._crop(self.dvae.decode_tokens(tokens, self.grid)).float()

    def _pad(self, images: Tensor) -> Tensor:
        """Check images, and pad them by replication to a multiple of the patch size."""
        self.check_images(images)
        surplus = self.grid * PATCH - self.params.resolution
        return F.pad(images, (0, surplus, 0, surplus), mode="replicate") if surplus else images

    def _crop(self, maps: Tensor) -> Tensor:
        """Crop maps to the resolution, the inverse of `_pad`."""
        return maps[..., : self.params.resolution, : self.params.resolution]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Switch to evaluation mode temporarily."""
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)
