"""The hyperparameters of the models, in one tree of dataclasses.

:class:`DataParams`, :class:`TrainerParams`, :class:`ModelParams` and :class:`SlotParams` are shared, see `base_params`.
Each model adds a class that is derived from one of the latter two. The command line takes the fields of the data, the
trainer and one model; each is a flag, and a key of the YAML files, of the same name.

The defaults are the recommended recipe. The settings of the papers are in `object_discovery/configs`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from object_discovery.base_params import (
    ClusterKind,
    DataParams,
    MaskSource,
    ModelParams,
    SlotParams,
    TrainerParams,
    check_layers,
)
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


_BROADCAST_FIELDS = (
    "decoder_channels",
    "decoder_strides",
    "decoder_kernel",
    "decoder_final_stride",
    "decoder_final_kernel",
    "broadcast_size",
)


@dataclass
class SlotAttentionParams(SlotParams):
    """Slot Attention autoencoder."""

    num_iterations: int = 1
    """Iterations of Slot Attention; one suffices with `cluster_init` (published: 3)."""
    slot_init: Literal["gaussian", "learned", "shared"] = "shared"
    """Initial slots: samples of one learned Gaussian, as published (any number of slots), learned queries (BO-QSA), or
    with `cluster_init` one learned query for all slots (any number of slots)."""
    cluster_init: bool = True
    """Clustering-based slot initialisation: update the initial slots once by clusters of pixels. Not published."""
    clusters: ClusterKind = "objects"
    """Clusters: a smooth background and connected regions that differ from it (objects), or soft clusters by colour and
    position (appearance), which suit objects of equal colour that touch."""
    cluster_min_gain: float = 0.0015
    """Mask slots whose cluster explains less of the image, as a share of its pixels. 0: mask none but those without a
    cluster."""
    encoder_channels: list[int] | None = None
    """Channels of the encoder convolutions. None: by resolution."""
    encoder_strides: list[int] | None = None
    """Strides of the encoder convolutions. None: by resolution, to at most 32 x 32 features."""
    encoder_kernel: int = 5
    """Kernel size of the encoder convolutions."""
    encoder_residual: bool = True
    """Residual encoder convolutions, initialised as the identity. Not published."""
    feature_size: int | None = 64
    """Dimension of the encoder features. None: the channels of the last convolution, as published."""
    reconstruction_loss: Literal["mse", "mixture"] = "mse"
    """Loss: the squared error of the composited image, as published, or the negative log-likelihood of the pixels under
    the mixture of the slots (as IODINE and MONet), whose standard deviation follows the residual."""
    entropy_weight: float = 0.01
    """Weight of the entropy of the decoder masks over the slots (published: 0), so that no pixel is shared."""
    foreground_weight: float = 0.0003
    """Weight of the share of the image that is not in the mask of the background, the first slot with `clusters`
    objects (published: 0), so that objects are not surrounded by a rim of background."""
    entropy_start: int = 500
    """First step of the linear warm-up of these weights."""
    entropy_warmup: int = 500
    """Steps of this warm-up."""
    mask_source: MaskSource = "posterior"
    """Masks: the weights by which the decoder composites the slots (published), the posterior of the slots given the
    pixels, or the attention of Slot Attention."""
    prune_gain: float = 0.01
    """In prediction, drop the slots without which the log-likelihood falls by less, in nats per pixel. 0: keep all, as
    published."""
    slot_centric: bool = True
    """Encode and decode the shape of each slot in the frame of its attention, that is relative to its centre and size
    (ISA, Biza et al. 2023). false: the spatial broadcast decoder, as published."""
    decoder_channels: list[int] | None = None
    """Channels of the transposed convolutions of the spatial broadcast decoder. None: by resolution."""
    decoder_strides: list[int] | None = None
    """Strides of the transposed convolutions of the spatial broadcast decoder. None: by resolution."""
    decoder_kernel: int | None = None
    """Kernel size of the transposed convolutions of the spatial broadcast decoder. None: 5."""
    decoder_final_stride: int | None = None
    """Stride of its last layer, which outputs RGB and alpha. None: by resolution."""
    decoder_final_kernel: int | None = None
    """Kernel size of its last layer. None: its stride plus 2."""
    broadcast_size: int | None = None
    """Height and width of the grid of the spatial broadcast. None: the smallest that reaches the resolution."""
    position_frequencies: int = 4
    """Octaves of sine and cosine position features. 0: the published linear ramps only."""
    image_range: Literal["unit", "signed"] = "signed"
    """Pixel range of input and reconstruction: [0, 1], or [-1, 1]."""
    weight_init: Literal["torch", "keras", "kmeans"] = "kmeans"
    """Weight initialisation: that of PyTorch (and standard normal Gaussian slots), that of Keras as in the original
    implementation, or Keras with Slot Attention as soft k-means."""

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_at_least(self, 1, "decoder_final_stride", "decoder_final_kernel", "broadcast_size")
        check_at_least(self, 0, "entropy_weight", "foreground_weight", "entropy_start", "entropy_warmup", "prune_gain")
        check_at_least(self, 1, "encoder_kernel", "decoder_kernel", "feature_size")
        check_at_least(self, 0, "position_frequencies")
        check_layers(self, "encoder")
        check_layers(self, "decoder")
        for name in _BROADCAST_FIELDS:
            value = getattr(self, name)
            check_argument(not self.slot_centric or value is None, name, "None with slot_centric", value)


@dataclass
class SLATEParams(SlotParams):
    """SLATE: discrete VAE, Slot Attention on token embeddings, autoregressive transformer decoder."""

    lr: float = 1e-3
    """Peak learning rate of Adam, except for the discrete VAE."""
    dvae_lr: float = 1e-3
    """Learning rate of the discrete VAE, without warm-up or decay (but see `patience`)."""
    warmup_steps: int = 200
    """Steps of the linear learning rate warm-up, counted after `dvae_steps`."""
    cluster_init: bool = True
    """Clustering-based slot initialisation: update the initial slots once by clusters of pixels. Not published."""
    clusters: ClusterKind = "objects"
    """Clusters: a smooth background and connected regions that differ from it (objects), or soft clusters by colour and
    position (appearance), which suit objects of equal colour that touch."""
    cluster_min_gain: float = 0.0015
    """Mask slots whose cluster explains less of the image, as a share of its pixels. 0: mask none but those without a
    cluster."""
    patience: int | None = None
    """Halve both learning rates after this many validations without a lower loss. None: never."""
    codebook_size: int = 1024
    """Size of the codebook of the discrete VAE."""
    codebook_init: Literal["kmeans", "random"] = "kmeans"
    """Codebook initialisation: k-means of the patches of the first batch, or random as published."""
    dvae_norm: Literal["batch", "group"] = "batch"
    """Normalisation in the discrete VAE: batch, or group with one group as published; the latter removes the brightness
    of a uniform background."""
    tau_start: float = 1.0
    """Gumbel-softmax temperature of the discrete VAE at the first step."""
    tau_end: float = 0.1
    """Gumbel-softmax temperature from step `tau_steps` on."""
    tau_steps: int = 1000
    """Steps of the cosine decay of the temperature."""
    dvae_steps: int = 1000
    """First steps of every run (also from trained weights), in which only the discrete VAE is trained; it is frozen
    afterwards. 0: train everything jointly, as published."""
    model_size: int = 192
    """Dimension of the token embeddings."""
    slot_size: int = 192
    """Dimension D of the slots."""
    mlp_size: int = 192
    """Hidden size of the residual slot MLP."""
    decoder_blocks: int = 4
    """Blocks of the transformer decoder."""
    decoder_heads: int = 4
    """Attention heads of the transformer decoder."""
    dropout: float = 0.1
    """Dropout of embeddings and of the sublayers of the decoder."""
    attention_dropout: float = 0.0
    """Dropout of the attention weights of the decoder (published: 0.1, which is slower)."""
    mask_source: MaskSource = "attention"
    """Masks: the attention of Slot Attention, or the cross-attention of the last decoder block."""

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_at_least(self, 1, "patience", "model_size", "decoder_blocks", "decoder_heads")
        check_at_least(self, 2, "codebook_size")
        check_at_least(self, 0, "tau_steps", "dvae_steps")
        for name in ("dvae_lr", "tau_start", "tau_end"):
            check_argument(getattr(self, name) > 0, name, "positive", getattr(self, name))
        for name in ("dropout", "attention_dropout"):
            check_argument(0 <= getattr(self, name) < 1, name, "in [0, 1)", getattr(self, name))
        check_argument(self.mask_source != "posterior", "mask_source", "attention or decoder", self.mask_source)
        fits = self.model_size % self.decoder_heads == 0
        check_argument(fits, "decoder_heads", f"a divisor of {self.model_size}", self.decoder_heads)


@dataclass
class SetPredictionParams(SlotParams):
    """Set prediction: an MLP predicts the properties of an object from each slot."""

    num_slots: int = 10
    """Number of slots K, at least the maximum number of objects; a few more speed up learning."""
    lr: float = 1e-3
    """Peak learning rate of Adam."""
    warmup_steps: int = 300
    """Steps of the linear learning rate warm-up."""
    num_iterations: int = 2
    """Iterations of Slot Attention (published: 3)."""
    property_loss: Literal["huber", "cross_entropy"] = "cross_entropy"
    """Loss of all properties but the coordinates: cross-entropy, or Huber as published, which learns more slowly."""
    coordinate_weight: float = 20.0
    """Weight of the coordinate loss (published: 1)."""
    head_size: int = 128
    """Hidden size of the MLP that predicts properties from a slot."""
    gradient: Literal["full", "implicit", "bilevel"] = "full"
    """Backpropagate through all iterations (full), at the fixed point only (implicit), or at the fixed point and
    straight-through to the initial slots (bilevel, BO-QSA)."""
    encoder_channels: list[int] | None = None
    """Channels of the encoder convolutions. None: by resolution."""
    encoder_strides: list[int] | None = None
    """Strides of the encoder convolutions. None: by resolution, to a quarter of it."""
    encoder_kernel: int = 3
    """Kernel size of the encoder convolutions."""
    encoder_residual: bool = True
    """Residual encoder convolutions with batch normalisation, see `ConvEncoder`. Not published."""
    feature_size: int | None = None
    """Dimension of the encoder features. None: the channels of the last convolution, as published."""
    position_frequencies: int = 4
    """Octaves of sine and cosine position features. 0: the published linear ramps only."""
    weight_init: Literal["torch", "keras", "kmeans"] = "torch"
    """Weight initialisation: that of PyTorch, that of Keras as in the original implementation, or Keras with Slot
    Attention as soft k-means."""

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_at_least(self, 1, "head_size", "encoder_kernel", "feature_size")
        check_at_least(self, 0, "coordinate_weight", "position_frequencies")
        check_layers(self, "encoder")


@dataclass
class GNMParams(ModelParams):
    """GNM: a grid of object latents and a background latent, whose prior is conditioned on a global latent."""

    num_slots: int = 17
    """Number of slots K that are returned: the background and the most visible objects; at most the number of cells
    plus 1."""
    lr: float = 1e-3
    """Peak learning rate (published: 1e-4)."""
    clip_norm: float | None = None
    """Maximum gradient norm (published: 1). None: no clipping."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Optimiser (published: RMSprop)."""
    sigma: float = 0.1
    """Standard deviation of the Gaussian likelihood of the pixels."""
    mask_source: MaskSource = "posterior"
    """Masks: the visible alpha of the objects (published), or the posterior of the objects given the pixels."""
    grid: int = 4
    """Number of rows and of columns of the grid; each cell has at most one object."""
    hidden_size: int = 64
    """Channels of the cell features."""
    glimpse_size: int | None = None
    """Height and width of decoded glimpses, a power of two. None: a quarter of the image (published: half)."""
    what_size: int = 32
    """Dimension of z_what."""
    background_size: int = 3
    """Dimension of z_bg."""
    global_size: int = 32
    """Dimension of the global latent z_g of each StructDRAW step."""
    global_steps: int = 4
    """Number of StructDRAW steps."""
    scale_prior: float = -0.6
    """Prior mean of the scale logit of z_where; the scale is relative to the image."""
    scale_std: float = 0.4
    """Prior standard deviation of the scale logit (published: 0.1)."""
    scale_init: float = -0.4
    """Initial scale logit (published: -1)."""
    encoder_shortcut: bool = True
    """Add a linear shortcut from the pooled pixels of a cell to its encoder features. Not published."""
    cluster_init: bool = True
    """Propose z_pres and z_where from clusters of pixels that differ from the background. Not published."""
    disc_init: bool = True
    """Initialise the alpha of glimpses as an opaque disc in the centre of the bounding box. Not published."""
    presence_bound: float = 6.0
    """Bound of the logits of z_pres (published: 8.8); their gradient vanishes near it."""
    bound_fraction: list[float] = field(default_factory=lambda: [0.17, 1.0, 300, 1500])
    """Schedule of the fraction of `presence_bound` in use (published: 1): [start, end, first step, last step], linear;
    the other schedules have the same form."""
    background_margin: float | None = 0.1
    """Colour difference above which pixels are outliers in a separate robust loss of the background, so that it ignores
    objects. None: one likelihood of the whole image, as published."""
    background_steps: int = 200
    """First steps, in which only the background is trained (published: 0)."""
    forced_alpha_steps: int = 0
    """First steps, in which the total alpha of the objects is forced to 0.9 in every pixel, so that objects are used
    (published: 500)."""
    noise_scale: list[float] = field(default_factory=lambda: [0.0, 1.0, 300, 1500])
    """Schedule of the factor on the noise of sampled z_where, z_depth, z_what and z_bg (published: 1)."""
    kl_weight: list[float] = field(default_factory=lambda: [0.02, 1.0, 300, 1500])
    """Schedule of the weight of all KL terms except the auxiliary ones of z_pres and z_bg (published: 1)."""
    tau: list[float] = field(default_factory=lambda: [1.0, 0.5, 400, 1500])
    """Schedule of the temperature of the relaxed Bernoulli variable z_pres."""
    presence_prior: list[float] = field(default_factory=lambda: [0.1, 0.001, 400, 1500])
    """Schedule of the probability of an object in a cell in the auxiliary prior."""
    global_kl_weight: list[float] = field(default_factory=lambda: [0.0, 1.0, 0, 1500])
    """Schedule of the weight of the KL term of z_g."""
    where_kl_weight: list[float] = field(default_factory=lambda: [1.0, 1.0, 0, 0])
    """Schedule of the weight of the auxiliary KL term of z_where."""
    background_kl_weight: list[float] = field(default_factory=lambda: [50.0, 50.0, 0, 0])
    """Schedule of the weight of the auxiliary KL term of z_bg."""

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_at_least(self, 1, "grid", "hidden_size", "what_size", "background_size", "global_size", "global_steps")
        check_at_least(self, 0, "forced_alpha_steps", "background_steps")
        check_argument(self.mask_source != "attention", "mask_source", "decoder or posterior", self.mask_source)
        for name in ("sigma", "presence_bound", "scale_std"):
            check_argument(getattr(self, name) > 0, name, "positive", getattr(self, name))
        size = self.glimpse_size
        check_argument(
            size is None or (size >= 4 and not size & (size - 1)), "glimpse_size", "a power of two from 4 on", size
        )
        margin = self.background_margin
        check_argument(margin is None or margin > 0, "background_margin", "positive or None", margin)
        schedules = ("tau", "presence_prior", "bound_fraction", "noise_scale", "kl_weight")
        for name in (*schedules, "global_kl_weight", "where_kl_weight", "background_kl_weight"):
            value = getattr(self, name)
            check_argument(len(value) == 4 and value[2] <= value[3], name, "[start, end, first step, last step]", value)
            check_argument(min(value) >= 0, name, "at least 0 throughout", value)
        check_argument(min(self.tau[:2]) > 0, "tau", "above 0", self.tau)
        probabilities = self.presence_prior[:2]
        check_argument(
            min(probabilities) > 0 and max(probabilities) < 1, "presence_prior", "between 0 and 1", self.presence_prior
        )


@dataclass
class DINOSAURParams(SlotParams):
    """DINOSAUR: Slot Attention on features of a frozen encoder, which are reconstructed from the slots."""

    resolution: int = 224
    """Height and width of the images in pixels; a multiple of the patch size of the encoder."""
    lr: float = 4e-4
    """Peak learning rate of Adam."""
    warmup_steps: int = 1000
    """Steps of the linear learning rate warm-up."""
    slot_size: int = 256
    """Dimension D of the slots."""
    mlp_size: int = 1024
    """Hidden size of the residual slot MLP."""
    encoder: str = "dinov2_s14"
    """Frozen encoder: dino_s8, dino_s16, dino_b8, dino_b16, dinov2_s14, dinov2_b14 (also with `_reg`), dinov3_s16,
    dinov3_b16, or the name of any timm model."""
    encoder_weights: str = "hub"
    """Encoder weights: `hub` (downloaded once), a file, or `none` (random, for tests)."""
    encoder_block: int | None = None
    """Transformer block (convolutional networks: stage) whose output is used, from 1. None: the last."""
    encoder_norm: bool = False
    """Apply the final normalisation of the encoder to that output (published: no)."""
    feature_norm: bool = False
    """Normalise each feature vector to mean 0 and standard deviation 1 (published: no)."""
    position_scale: float = 0.0
    """Scale of a learned position embedding that is added to normalised features before Slot Attention, for
    convolutional encoders, whose features lack positions. 0: none, as published for transformers."""
    weight_init: Literal["torch", "keras", "kmeans"] = "torch"
    """Weight initialisation of everything up to the slots: that of PyTorch as published, that of Keras, or Keras with
    Slot Attention as soft k-means."""
    encoder_seed: int = 0
    """Seed of random encoder weights."""
    encoder_scaling: bool = True
    """Normalise images by the mean and standard deviation of the pretraining. False: keep [0, 1]."""
    decoder: Literal["mlp", "transformer", "broadcast"] = "mlp"
    """Decoder: patch-wise MLP, autoregressive transformer, or spatial broadcast decoder of pixels."""
    reconstruction_size: int = 128
    """Height and width of the images that the broadcast decoder reconstructs, in pixels."""
    decoder_size: int = 2048
    """Hidden size of the MLP decoder."""
    decoder_top_k: int | None = 3
    """Number of slots that the MLP decodes for each patch, those with the most attention. None: all, as published, but
    slower."""
    decoder_blocks: int = 4
    """Blocks of the transformer decoder."""
    decoder_heads: int = 4
    """Attention heads of the transformer decoder."""
    patch_order: Literal["raster", "permuted"] = "raster"
    """Order of the patches in training the transformer: raster, or one of nine permutations at random (SPOT)."""
    mask_source: MaskSource = "decoder"
    """Masks: those of the decoder, the attention of Slot Attention, or with the broadcast decoder the posterior of the
    slots given the pixels."""

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        has_posterior = self.mask_source != "posterior" or self.decoder == "broadcast"
        check_argument(has_posterior, "mask_source", "decoder or attention without decoder=broadcast", self.mask_source)
        check_at_least(self, 1, "encoder_block", "decoder_size", "decoder_top_k", "decoder_blocks", "decoder_heads")
        check_at_least(self, 1, "reconstruction_size")
        check_at_least(self, 0, "encoder_seed", "position_scale")


MODEL_PARAMS: dict[str, type[ModelParams]] = {
    "sa": SlotAttentionParams,
    "slate": SLATEParams,
    "gnm": GNMParams,
    "dinosaur": DINOSAURParams,
    "set_prediction": SetPredictionParams,
}
"""Hyperparameter classes by model type, the value of `--model_type`."""
