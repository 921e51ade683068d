"""DINOSAUR (Seitzer et al. 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torchmetrics import Metric
from typing_extensions import Self

from object_discovery.discovery import Batch, Discovery
from object_discovery.layers.frozen_encoder import FrozenEncoder
from object_discovery.layers.position import PositionEmbedding
from object_discovery.layers.weight_init import init_weights
from object_discovery.models.dinosaur.decoded import Decoded
from object_discovery.models.dinosaur.mlp import PatchMLPDecoder
from object_discovery.models.dinosaur.pixels import PixelDecoder, pixel_inputs, upsample
from object_discovery.models.dinosaur.transformer import PatchTransformerDecoder
from object_discovery.models.masks import choose_masks
from object_discovery.models.scores import MeanScore
from object_discovery.models.slot_model import DEFAULT_OPTIONS, SlotModel, SlotOptions
from object_discovery.params import DINOSAURParams

_FREQUENCIES = 4


class DINOSAUR(SlotModel[DINOSAURParams]):
    """DINOSAUR: Slot Attention on features of a frozen encoder, which are reconstructed from the slots.

    Shapes: B images of R x R pixels, N = h w patches, F feature size, K slots, D slot size.

    Batches may contain `features` `(B, N, F)` of any floating-point type, as from a feature cache; the encoder is then
    neither run nor loaded. `Discovery.attention` is that of Slot Attention, whatever `mask_source` is. `val/loss` is
    the mean squared error of the features, or with `decoder="broadcast"` of the pixels.

    *Checkpoints* contain a hash of the encoder weights instead of the weights. The weights are loaded at first use and
    checked against it: from the hub, from `encoder_seed`, or from the file that was used in training, which may also be
    next to the checkpoint. `DINOSAUR.load_from_checkpoint(path, encoder_weights=FILE)` names another file.

    Args:
        params: The hyperparameters.
        **settings: Fields of `DINOSAURParams`, in place of `params`.

    Raises:
        ValueError: If a value is out of its range, or there is no such encoder.

    Reference:
        Seitzer et al., Bridging the Gap to Real-World Object-Centric Learning, ICLR 2023, arXiv 2209.14860.

    Example:
        >>> import torch
        >>> model = DINOSAUR(encoder="test_vit", encoder_weights="none", resolution=32, num_slots=3)
        >>> discovery = model(torch.rand(2, 3, 32, 32))
        >>> discovery.slots.shape, discovery.masks.shape  # masks sum to 1 over the slots
        (torch.Size([2, 3, 256]), torch.Size([2, 3, 32, 32]))
    """

    model_type: ClassVar[str] = "dinosaur"
    params_class: ClassVar[type[DINOSAURParams]] = DINOSAURParams

    def __init__(self, params: DINOSAURParams | None = None, **settings: Any) -> None:
        super().__init__(params, **settings)
        p = self.params
        self.encoder = FrozenEncoder(
            p.encoder,
            weights=p.encoder_weights,
            block=p.encoder_block,
            norm=p.encoder_norm,
            resolution=p.resolution,
            seed=p.encoder_seed,
            scaling=p.encoder_scaling,
        )
        size = self.encoder.feature_size
        self.inputs: nn.Module = nn.Sequential(
            nn.LayerNorm(size, eps=p.norm_eps), nn.Linear(size, size), nn.ReLU(), nn.Linear(size, p.slot_size)
        )
        if p.decoder == "broadcast":
            self.inputs = pixel_inputs(size, p.slot_size, p.norm_eps)
        self.position = PositionEmbedding(*self.encoder.grid, size, _FREQUENCIES) if p.position_scale else None
        self.slot_attention = self.build_slot_attention(p.slot_size)
        init_weights(p.weight_init, (self.position, self.inputs, self.slot_attention), self.slot_attention)
        if p.decoder == "broadcast":
            self.slot_attention.reset_slots(standard_normal=True)
        elif p.slot_init == "gaussian":  # as published: lower bounds than the default of `SlotAttention`
            nn.init.xavier_uniform_(self.slot_attention.mu)
            nn.init.xavier_uniform_(self.slot_attention.log_sigma)
        self.decoder = self._build_decoder()

    @property
    def needs_images(self) -> bool:
        """Whether training needs images besides their features."""
        return self.params.decoder == "broadcast"

    def _build_decoder(self) -> PatchMLPDecoder | PatchTransformerDecoder | PixelDecoder:
        p, (height, width), size = self.params, self.encoder.grid, self.encoder.feature_size
        if p.decoder == "mlp":
            return PatchMLPDecoder(p.slot_size, height * width, size, p.decoder_size, p.decoder_top_k)
        if p.decoder == "broadcast":
            return PixelDecoder(p.slot_size, p.reconstruction_size)
        return PatchTransformerDecoder(
            p.slot_size,
            (height, width),
            size,
            num_blocks=p.decoder_blocks,
            num_heads=p.decoder_heads,
            permuted=p.patch_order == "permuted",
        )

    @classmethod
    def monitor(cls, has_masks: bool) -> tuple[str, Literal["min", "max"]]:
        """Return the score that selects the best checkpoint; without masks the error of the features."""
        return super().monitor(has_masks) if has_masks else ("val/loss", "min")

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, map_location: Any = "cpu", **kwargs: Any) -> Self:  # type: ignore[override]
        """Load a trained model; the encoder weights are loaded at first use, see the class.

        Raises:
            CheckpointError: If the file is missing, damaged, or of another model.
        """
        model = super().load_from_checkpoint(checkpoint_path, map_location, **kwargs)
        model.encoder.search_folder = Path(checkpoint_path).parent
        return model

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the hash of the encoder weights, if known."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["encoder"] = {**self.encoder.description(), "weights": self.encoder.expected}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the facts about the training run, and expect these weights of the encoder from now on."""
        super().on_load_checkpoint(checkpoint)
        self.encoder.expect(checkpoint.get("encoder", {}).get("weights"))

    def discover(self, images: Tensor, options: SlotOptions) -> Discovery:
        """Do the work of `forward`; only `decoder="broadcast"` reconstructs an image."""
        return self._discover(images, self._normalised(self.encoder(images)), options)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the mean squared error of the features, or of the pixels with `decoder="broadcast"`."""
        features = self.features(batch)
        slots, attention, _ = self._attend_slots(features)
        prediction = self._decode(slots, attention, features, with_masks=False).prediction
        target = self.decoder.target(batch.get("image"), features)
        return self.regularize({"loss": F.mse_loss(prediction.float(), target.float())}, slots)

    def extra_metrics(self) -> dict[str, Metric]:
        """Build the metrics of slots and the mean of the loss."""
        return {"loss": MeanScore(), **super().extra_metrics()}

    def score_batch(self, batch: Batch) -> tuple[Discovery, dict[str, Any]]:
        """Find the objects of a batch; and compute the loss of each image."""
        features = self.features(batch)
        slots, attention, clusters = self._attend_slots(features, self.default_options)
        prediction, masks, slot_images = self._decode(slots, attention, features)
        target = self.decoder.target(batch.get("image"), features)
        loss = (prediction.float() - target.float()).square().flatten(1).mean(1)
        if self.params.mask_source == "attention" or masks is None:
            masks, slot_images = attention, None
        discovery = self._discovery(batch.get("image"), slots, attention, masks, slot_images)
        discovery = discovery._replace(cluster_masks=self.cluster_masks(clusters, self.params.resolution))
        return discovery, {"loss": loss, **self.slot_scores(slots)}

    def discover_batch(self, batch: Batch) -> Discovery:
        """Find the objects of a batch, by its `features` where it has some."""
        if "features" not in batch:
            return super().discover_batch(batch)
        return self._discover(batch.get("image"), self.features(batch), self.default_options)

    def features(self, batch: Batch) -> Tensor:
        """Return the features of a batch, `(B, N, F)`: its cached ones, or those of its images.

        Raises:
            ValueError: If the features or the images are of another shape than the encoder's.
        """
        if "features" not in batch:
            self.check_images(batch["image"])
            return self._normalised(self.encoder(batch["image"]))
        features, (height, width) = batch["features"], self.encoder.grid
        expected = (height * width, self.encoder.feature_size)
        if features.shape[1:] != expected:
            raise ValueError(
                f"Expected `features` to be (B, {expected[0]}, {expected[1]}), but got {(*features.shape,)}"
            )
        return self._normalised(features.to(self.dtype))

    def _discover(self, images: Tensor | None, features: Tensor, options: SlotOptions) -> Discovery:
        """Find the objects of images by their features `(B, N, F)`."""
        slots, attention, clusters = self._attend_slots(features, options)
        masks, slot_images = attention, None
        if self.params.mask_source != "attention":
            masks, slot_images = self.decoder.masks(
                slots, attention=attention, features=features, active=self.active_mask(slots)
            )
        discovery = self._discovery(images, slots, attention, masks, slot_images)
        return discovery._replace(cluster_masks=self.cluster_masks(clusters, self.params.resolution))

    def _normalised(self, features: Tensor) -> Tensor:
        return F.layer_norm(features, features.shape[-1:]) if self.params.feature_norm else features

    def _attend_slots(
        self, features: Tensor, options: SlotOptions = DEFAULT_OPTIONS
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute the slots of features `(B, N, F)`, their attention and their clusters, both `(B, K, N)`."""
        height = self.encoder.grid[0]
        maps = rearrange(features, "b (h w) f -> b f h w", h=height)
        clusters = self.initial_clusters(maps, height, options)
        if self.position is not None:
            positions = self.position().flatten(1).T
            features = F.layer_norm(features, features.shape[-1:]) + self.params.position_scale * positions
        return *self.attend_slots(self.inputs(features), options, clusters), clusters

    def _decode(self, slots: Tensor, attention: Tensor, features: Tensor, with_masks: bool = True) -> Decoded:
        return self.decoder(  # type: ignore[no-any-return]
            slots, attention=attention, features=features, active=self.active_mask(slots), with_masks=with_masks
        )

    def _discovery(
        self, images: Tensor | None, slots: Tensor, attention: Tensor, masks: Tensor, slot_images: Tensor | None = None
    ) -> Discovery:
        """Resize masks `(B, K, N)`, or masks and slot images of a decoder of pixels, to the size of the images."""
        height, size = self.encoder.grid[0], self.params.resolution
        attention = rearrange(attention.float(), "b k (h w) -> b k h w", h=height)
        if slot_images is not None:
            image, slot_images, masks = upsample(slot_images, masks, size)
            if images is None:
                raise ValueError("Expected a batch with `image`, as the decoder is one of pixels, but it has none")
            discovery = Discovery(slots, masks, image, slot_images, attention)
            return choose_masks(discovery, images, self.params.mask_source)
        masks = rearrange(masks.float(), "b k (h w) -> b k h w", h=height)
        enlarged = F.interpolate(masks, (size, size), mode="bilinear", align_corners=False)
        return Discovery(slots, enlarged, attention=attention)
