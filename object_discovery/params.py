"""Every hyperparameter of the library, in one tree of dataclasses.

The tree has two levels. :class:`DataParams`, :class:`TrainerParams`, :class:`ModelParams` and :class:`SlotParams` (in
`base_params`) hold what runs and models share; below stands what each model adds. The command line is the union of
the data's, the trainer's and one model's, flat: each field is a flag of the same name, and a key of the YAML files.

The defaults are the recommended recipe. The settings of the papers are in `object_discovery/configs`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from object_discovery.base_params import DataParams, ModelParams, SlotParams, TrainerParams, check_layers
from object_discovery.errors import check_argument, check_at_least

__all__ = [
    "MODEL_PARAMS",
    "DINOSAURParams",
    "DataParams",
    "GNMParams",
    "ModelParams",
    "SLATEParams",
    "SetPredictionParams",
    "SlotAttentionParams",
    "SlotParams",
    "TrainerParams",
]


@dataclass
class SlotAttentionParams(SlotParams):
    """The autoencoder of Slot Attention."""

    num_iterations: int = 1
    """Iterations of Slot Attention; one suffices after `cluster_init` (published: 3)."""
    cluster_init: bool = True
    """Start slots from clusters of pixels of like colour and near position, see `appearance_clusters`."""
    encoder_channels: list[int] | None = None
    """Channels of the encoder's convolutions. None: chosen by the resolution."""
    encoder_strides: list[int] | None = None
    """Strides of the encoder's convolutions. None: chosen so that at most 32 x 32 features remain."""
    encoder_kernel: int = 5
    """Kernel size of the encoder's convolutions."""
    encoder_residual: bool = True
    """Residual convolutions that begin as the identity, so that features begin as colours. Not published."""
    feature_size: int | None = 64
    """Size of the encoder's features. None: the channels of its last convolution, as published."""
    decoder_channels: list[int] | None = None
    """Channels of the decoder's convolutions. None: chosen by the resolution."""
    decoder_strides: list[int] | None = None
    """Strides of the decoder's convolutions. None: chosen by the resolution."""
    decoder_kernel: int = 5
    """Kernel size of the decoder's convolutions."""
    decoder_final_stride: int | None = None
    """Stride of the decoder's last layer, to colours and opacity. None: chosen by the resolution."""
    decoder_final_kernel: int | None = None
    """Kernel size of the decoder's last layer. None: the stride plus 2."""
    broadcast_size: int | None = None
    """Height and width of the grid that slots are broadcast over. None: just enough to reach the resolution."""
    position_frequencies: int = 4
    """Octaves of sines in the position embeddings. 0: the published linear ramps alone."""
    slot_centric: bool = True
    """Paint each slot around the place that it attends to (Biza et al. 2023), so that a shape is learned once."""
    image_range: Literal["unit", "signed"] = "signed"
    """What the network sees and paints: colours in [0, 1], where black costs nothing to paint, or in [-1, 1]."""
    weight_init: Literal["torch", "keras", "kmeans"] = "kmeans"
    """How weights are drawn: PyTorch's defaults (and a wide Gaussian of slots), the larger ones of the original models,
    or these with Slot Attention beginning as soft k-means."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        check_at_least(self, 1, "decoder_final_stride", "decoder_final_kernel", "broadcast_size")
        check_at_least(self, 1, "encoder_kernel", "decoder_kernel", "feature_size")
        check_at_least(self, 0, "position_frequencies")
        check_layers(self, "encoder")
        check_layers(self, "decoder")


@dataclass
class SLATEParams(SlotParams):
    """SLATE: a discrete VAE, Slot Attention on its tokens, and a transformer that writes them from the slots."""

    lr: float = 1e-3
    """Peak learning rate of Adam, of everything but the discrete VAE."""
    dvae_lr: float = 1e-3
    """Learning rate of the discrete VAE, which has neither warm-up nor decay (but for `patience`)."""
    warmup_steps: int = 200
    """Steps over which the learning rate rises linearly from 0, once the discrete VAE is trained."""
    cluster_init: bool = True
    """Start slots from clusters of pixels of like colour and near position, see `appearance_clusters`."""
    patience: int | None = None
    """Halve both rates after this many validations in a row without a lower loss. None: never."""
    codebook_size: int = 1024
    """Words of the discrete VAE."""
    codebook_init: Literal["kmeans", "random"] = "kmeans"
    """How words begin: as clusters of the patches of the first batch, or at random as published, when few are used."""
    dvae_norm: Literal["batch", "group"] = "batch"
    """How the discrete VAE normalises: each channel over a batch, or each image over all channels and positions, as
    published, which takes the brightness of an even background away."""
    tau_start: float = 1.0
    """Temperature of the discrete VAE at the first step."""
    tau_end: float = 0.1
    """Temperature from `tau_steps` on; it falls along half a cosine."""
    tau_steps: int = 1000
    """Steps over which the temperature falls."""
    dvae_steps: int = 1000
    """Steps at the start in which the discrete VAE alone is trained; it is frozen afterwards, so that slots learn from
    words that stay as they are. Every run begins with them, also one that starts from trained weights. 0: train all at
    once, as published."""
    model_size: int = 192
    """Size of the vectors of tokens."""
    slot_size: int = 192
    """Size of a slot vector."""
    mlp_size: int = 192
    """Hidden size of the residual MLP on slots."""
    decoder_blocks: int = 4
    """Blocks of the transformer decoder."""
    decoder_heads: int = 4
    """Heads of each of its attentions."""
    dropout: float = 0.1
    """Share of embeddings and of the decoder's outputs that is dropped in training."""
    attention_dropout: float = 0.0
    """Share of the decoder's attention that is dropped in training; published 0.1, but slower than none."""
    mask_source: Literal["slots", "decoder"] = "slots"
    """What the masks are: the attention of the slots, or of the decoder's last block to the slots."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        check_at_least(self, 1, "patience", "model_size", "decoder_blocks", "decoder_heads")
        check_at_least(self, 2, "codebook_size")
        check_at_least(self, 0, "tau_steps", "dvae_steps")
        for name in ("dvae_lr", "tau_start", "tau_end"):
            check_argument(getattr(self, name) > 0, name, "positive", getattr(self, name))
        for name in ("dropout", "attention_dropout"):
            check_argument(0 <= getattr(self, name) < 1, name, "in [0, 1)", getattr(self, name))
        fits = self.model_size % self.decoder_heads == 0
        check_argument(fits, "decoder_heads", f"a divisor of {self.model_size}", self.decoder_heads)


@dataclass
class SetPredictionParams(SlotParams):
    """Set prediction: an object with its properties from each slot."""

    num_slots: int = 10
    """Number of slots, at least the largest number of objects; some more make learning quicker."""
    lr: float = 1e-3
    """Peak learning rate of Adam."""
    warmup_steps: int = 300
    """Steps over which the learning rate rises linearly from 0."""
    num_iterations: int = 2
    """Iterations of Slot Attention (published: 3)."""
    property_loss: Literal["huber", "cross_entropy"] = "cross_entropy"
    """Loss of all but the coordinates; huber as published, which tells objects apart after many more steps."""
    coordinate_weight: float = 20.0
    """What the loss of the coordinates is multiplied by; 1 as published, which places objects less exactly."""
    head_size: int = 128
    """Hidden size of the MLP that reads the properties from a slot."""
    gradient: Literal["full", "implicit", "bilevel"] = "full"
    """Gradient through all iterations, at the fixed point only, or that and straight through to the queries."""
    encoder_channels: list[int] | None = None
    """Channels of the encoder's convolutions. None: chosen by the resolution."""
    encoder_strides: list[int] | None = None
    """Strides of the encoder's convolutions. None: chosen so that a quarter of the resolution remains."""
    encoder_kernel: int = 3
    """Kernel size of the encoder's convolutions."""
    encoder_residual: bool = True
    """Residual convolutions with batch normalisation, see `ConvEncoder`. Not published."""
    feature_size: int | None = None
    """Size of the encoder's features. None: the channels of its last convolution, as published."""
    position_frequencies: int = 4
    """Octaves of sines in the position embedding. 0: the published linear ramps alone."""
    weight_init: Literal["torch", "keras", "kmeans"] = "torch"
    """How weights are drawn: PyTorch's defaults, the larger ones of the original models, or these with Slot Attention
    beginning as soft k-means."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        check_at_least(self, 1, "head_size", "encoder_kernel", "feature_size")
        check_at_least(self, 0, "coordinate_weight", "position_frequencies")
        check_layers(self, "encoder")


@dataclass
class GNMParams(ModelParams):
    """GNM: objects in the cells of a grid and a background, all expected by a latent of the whole scene."""

    num_slots: int = 17
    """Slots that are returned: the objects that show most, and the background; never more than cells plus 1."""
    lr: float = 1e-3
    """Peak learning rate; published 1e-4."""
    clip_norm: float | None = None
    """Largest norm of the gradient; published 1. None: no clipping."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """The optimiser; published with RMSprop."""
    sigma: float = 0.1
    """Standard deviation of colours around the reconstruction; the less, the more it counts besides the latents."""
    grid: int = 4
    """Rows and columns of cells, each of which holds at most one object."""
    hidden_size: int = 64
    """Channels of the features of a cell."""
    glimpse_size: int | None = None
    """Height and width that objects are painted at, a power of two. None: a quarter of the image's; published half."""
    what_size: int = 32
    """Size of what an object looks like."""
    background_size: int = 3
    """Size of the latent of the background."""
    global_size: int = 32
    """Size of a step of the latent of the whole scene."""
    global_steps: int = 4
    """Steps of the latent of the whole scene."""
    scale_prior: float = -0.6
    """Logit of the size that objects are expected to have, as a share of the image's."""
    scale_std: float = 0.4
    """Standard deviation of that logit; published 0.1."""
    scale_start: float = -0.4
    """Logit of the size that objects begin with; published -1."""
    shortcut: bool = True
    """Let cells also see the colours in and next to them through one linear map, see `Shortcut`. Not published."""
    cluster_init: bool = True
    """Look for objects first where clusters of pixels differ from the background, see `find_seeds`. Not published."""
    centred: bool = True
    """Objects begin as a spot of one colour in the middle of their frame, which so has to go to them. Not published."""
    presence_bound: float = 6.0
    """Largest log-odds that an object is there; near it the presence hardly learns any more. Published 8.8."""
    presence_reach: list[float] = field(default_factory=lambda: [0.17, 1.0, 300, 1500])
    """Share of this bound that is reached: from, to, from step, to step, in a straight line; so for those below."""
    background_margin: float | None = 0.1
    """Fit the background to the image on its own, at a cost that rises no more from about this difference of colours
    on, so that it leaves objects out. None: as part of the whole, as published."""
    background_steps: int = 200
    """Steps at the start in which there is only the background. Published: none."""
    covered_steps: int = 0
    """Steps at the start in which nine tenths of the background are hidden, so that objects are used; published 500."""
    latent_noise: list[float] = field(default_factory=lambda: [0.0, 1.0, 300, 1500])
    """Amplitude of the noise of latents (but for the presence) in training; published 1 throughout."""
    latent_weight: list[float] = field(default_factory=lambda: [0.02, 1.0, 300, 1500])
    """Weight of all divergences but those of the presence and the background from the fixed priors; published 1."""
    tau: list[float] = field(default_factory=lambda: [1.0, 0.5, 400, 1500])
    """Temperature of the presence of objects: from, to, from step, to step."""
    presence_prior: list[float] = field(default_factory=lambda: [0.1, 0.001, 400, 1500])
    """Probability of an object in a cell that the auxiliary prior expects."""
    global_weight: list[float] = field(default_factory=lambda: [0.0, 1.0, 0, 1500])
    """Weight of the divergence of the latent of the whole scene."""
    where_weight: list[float] = field(default_factory=lambda: [1.0, 1.0, 0, 0])
    """Weight of the auxiliary divergence of where objects are."""
    background_weight: list[float] = field(default_factory=lambda: [50.0, 50.0, 0, 0])
    """Weight of the auxiliary divergence of the background."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        check_at_least(self, 1, "grid", "hidden_size", "what_size", "background_size", "global_size", "global_steps")
        check_at_least(self, 0, "covered_steps", "background_steps")
        for name in ("sigma", "presence_bound", "scale_std"):
            check_argument(getattr(self, name) > 0, name, "positive", getattr(self, name))
        size = self.glimpse_size
        check_argument(
            size is None or (size >= 4 and not size & (size - 1)), "glimpse_size", "a power of two from 4 on", size
        )
        margin = self.background_margin
        check_argument(margin is None or margin > 0, "background_margin", "positive or None", margin)
        schedules = ("tau", "presence_prior", "presence_reach", "latent_noise", "latent_weight")
        for name in (*schedules, "global_weight", "where_weight", "background_weight"):
            value = getattr(self, name)
            check_argument(len(value) == 4 and value[2] <= value[3], name, "[start, end, first step, last step]", value)
            check_argument(min(value) >= 0, name, "at least 0 throughout", value)
        check_argument(min(self.tau[:2]) > 0, "tau", "above 0", self.tau)
        chances = self.presence_prior[:2]
        check_argument(min(chances) > 0 and max(chances) < 1, "presence_prior", "between 0 and 1", self.presence_prior)


@dataclass
class DINOSAURParams(SlotParams):
    """DINOSAUR: slots of the features of a frozen network, which are decoded from them."""

    resolution: int = 224
    """Height and width of the images in pixels; a multiple of the encoder's patches."""
    lr: float = 4e-4
    """Peak learning rate of Adam."""
    warmup_steps: int = 1000
    """Steps over which the learning rate rises linearly from 0."""
    slot_size: int = 256
    """Size of a slot vector."""
    mlp_size: int = 1024
    """Hidden size of the residual MLP on slots."""
    encoder: str = "dinov2_s14"
    """The frozen network: dino_s8, dino_s16, dino_b8, dino_b16, dinov2_s14, dinov2_b14 (also with `_reg`), dinov3_s16,
    dinov3_b16, or any name of timm's."""
    encoder_weights: str = "hub"
    """Where its weights come from: `hub` (fetched once), a file, or `none` (random, for tests)."""
    encoder_block: int | None = None
    """Its block (of a convolutional network its stage) whose output is taken, from 1. None: the last."""
    encoder_norm: bool = False
    """Normalise that output by the encoder's last layer; published: not."""
    feature_norm: bool = False
    """Bring each feature vector to mean 0 and deviation 1; for networks whose features are large. Published: not."""
    position_scale: float = 0.0
    """Add a learned embedding of the position, multiplied by this, to normalised features before slots see them: for
    convolutional networks, whose features do not tell where they are. 0: none, as published for transformers."""
    weight_init: Literal["torch", "keras", "kmeans"] = "torch"
    """How weights up to the slots are drawn: PyTorch's defaults, as published, the larger ones of the original Slot
    Attention, or these with Slot Attention beginning as soft k-means."""
    encoder_seed: int = 0
    """Seed of random weights."""
    encoder_scaling: bool = True
    """Give the encoder colours of the mean and deviation that it was trained on, not colours in [0, 1]."""
    decoder: Literal["mlp", "transformer", "broadcast"] = "mlp"
    """What features are decoded by: an MLP for each patch and slot, or a transformer patch after patch; or, in their
    place, the pixels by broadcasting each slot."""
    painted_size: int = 128
    """Height and width of the images that broadcast slots paint."""
    decoder_size: int = 2048
    """Hidden size of the MLP."""
    decoder_top_k: int | None = 3
    """Slots that the MLP decodes at a patch, those that attend to it most. None: all, as published, but slower."""
    decoder_blocks: int = 4
    """Blocks of the transformer."""
    decoder_heads: int = 4
    """Heads of each of its attentions."""
    patch_order: Literal["raster", "permuted"] = "raster"
    """Order in which the transformer is trained to predict patches: as one reads, or one of nine at random (SPOT)."""
    mask_source: Literal["slots", "decoder"] = "decoder"
    """What the masks are: the MLP's opacities or the transformer's attention to the slots; or the slots' attention."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        check_at_least(self, 1, "encoder_block", "decoder_size", "decoder_top_k", "decoder_blocks", "decoder_heads")
        check_at_least(self, 1, "painted_size")
        check_at_least(self, 0, "encoder_seed", "position_scale")


MODEL_PARAMS: dict[str, type[ModelParams]] = {
    "sa": SlotAttentionParams,
    "slate": SLATEParams,
    "gnm": GNMParams,
    "dinosaur": DINOSAURParams,
    "set_prediction": SetPredictionParams,
}
"""The hyperparameters of each model, by the name that the command line knows it by."""
