"""Every hyperparameter of the library, in one tree of dataclasses.

The tree has two levels. :class:`DataParams`, :class:`TrainerParams` and :class:`ModelParams` hold what every run
shares; a subclass of :class:`ModelParams` for each model adds that model's own. The command line is the union of
the three, flat: each field below is a flag of the same name, and a key of the YAML files.

The defaults are the recommended recipe. The settings of the papers are in `object_discovery/configs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


def _check(ok: bool, name: str, expected: str, value: object) -> None:
    if not ok:
        raise ValueError(f"Expected argument `{name}` to be {expected}, but got {value!r}")


def _at_least(params: Any, minimum: float, *names: str) -> None:
    for name in names:
        value = getattr(params, name)
        _check(value is None or value >= minimum, name, f"at least {minimum}", value)


def _check_layers(params: Any, part: str) -> None:
    channels, strides = getattr(params, f"{part}_channels"), getattr(params, f"{part}_strides")
    same = (channels is None and strides is None) or (channels and strides and len(channels) == len(strides))
    _check(bool(same), f"{part}_strides", f"as long as {part}_channels {channels}", strides)
    _check(min((channels or [1]) + (strides or [1])) >= 1, f"{part}_channels", "at least 1 each", channels)


@dataclass
class DataParams:
    """Which images, how large, and how they are loaded; shared by every dataset."""

    dataset: str = "tetrominoes"
    """Name of the dataset (a key of `object_discovery.data.DATASETS`)."""
    data_root: str | None = None
    """File or folder with the data. None: scenes drawn by the library, where the dataset can be drawn."""
    variant: str | None = None
    """Variant of the dataset, such as `colored_on_colored` of multi_dsprites. None: the dataset's first."""
    resolution: int = 35
    """Height and width of the images in pixels."""
    fit: Literal["crop", "squash"] | None = None
    """How images that are not square become so: by their central square, or squashed. None: as published."""
    random_flip: bool = False
    """Mirror training images left to right, every other at random, with their label maps."""
    random_crop: float | None = None
    """Smallest share of its area that a random square crop of a training image keeps, in (0, 1]. None: no crop."""
    max_objects: int | None = None
    """Keep training scenes with at most this many objects, as CLEVR6 does. None: all."""
    min_objects: int | None = None
    """Keep scenes with at least this many objects. None: all."""
    eval_max_objects: int | None = None
    """Keep validation and test scenes with at most this many objects. None: as `max_objects`; 0: no limit."""
    train_size: int | None = None
    """Use the first scenes of the training split only. None: all."""
    val_size: int | None = 320
    """Use the first scenes of the validation split only. None: all."""
    test_size: int | None = None
    """Use the first scenes of the test split only. None: all."""
    batch_size: int = 32
    """Images in a batch, on each device."""
    num_workers: int | None = None
    """Loading processes. None: half the cores, at most eight, none on two cores; 0: load in the main process."""
    data_seed: int = 0
    """Seed of the scenes drawn by the library; the same seed draws the same scenes on any machine."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        _at_least(self, 1, "resolution", "batch_size", "train_size", "val_size", "test_size")
        _at_least(self, 0, "max_objects", "min_objects", "eval_max_objects", "num_workers", "data_seed")
        _check(self.random_crop is None or 0 < self.random_crop <= 1, "random_crop", "in (0, 1]", self.random_crop)


@dataclass
class TrainerParams:
    """How long, where and how precisely to train; shared by every model."""

    max_steps: int = 4000
    """Optimiser steps. The dataset's own recommendation where it has one."""
    max_time: str | None = None
    """Stop after this time, as `DD:HH:MM:SS`. None: no limit."""
    seed: int = 0
    """Seed of the weights and of the order of the batches."""
    precision: str = "auto"
    """Lightning's precision. auto: `bf16-mixed` where the hardware multiplies bfloat16, else `32-true`."""
    compile: bool = False
    """Compile the network with torch.compile."""
    accelerator: str = "auto"
    """Lightning's accelerator: auto, cpu, gpu, ..."""
    devices: str = "auto"
    """Lightning's devices: a number, a list such as `0,2`, or auto."""
    num_nodes: int = 1
    """Number of machines."""
    strategy: str = "auto"
    """Lightning's strategy, such as `ddp`."""
    val_interval: int = 1000
    """Steps between two validations."""
    log_interval: int = 50
    """Steps between two lines of the training log."""
    num_pictures: int = 8
    """Validation images drawn in the picture grid. 0: no pictures."""
    logger: Literal["csv", "tensorboard", "wandb"] = "csv"
    """Where metrics go besides `metrics.csv`, which is always written."""
    wandb_offline: bool = False
    """Keep Weights & Biases runs on this machine; `wandb sync` uploads them later."""
    resume: str | None = None
    """Checkpoint to continue from, or `auto` for the last one in `out`. None: start afresh."""
    out: str = "runs/{model_type}_{dataset}"
    """Folder of the run; `{model_type}`, `{dataset}` and `{seed}` are filled in."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        _at_least(self, 1, "max_steps", "num_nodes", "val_interval", "log_interval")
        _at_least(self, 0, "seed", "num_pictures")
        _check(self.seed < 2**32, "seed", "below 2**32", self.seed)


@dataclass
class ModelParams:
    """What every model has: the size of its input, its slots and its optimiser."""

    resolution: int = 128
    """Height and width of the images in pixels."""
    num_slots: int = 7
    """Number of slots; the largest number of objects plus one for the background."""
    lr: float = 2e-3
    """Peak learning rate of Adam."""
    warmup_steps: int = 200
    """Steps over which the learning rate rises linearly from 0."""
    lr_schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    """How the learning rate falls: along a cosine to 0 at `decay_steps`, by half every `half_life`, or not."""
    decay_steps: int | None = None
    """Step at which the cosine reaches 0. None: the trainer's `max_steps`."""
    half_life: int = 100_000
    """Steps over which the exponential schedule halves the learning rate (it also decays during warm-up)."""
    clip_norm: float | None = 1.0
    """Largest norm of the gradient. None: no clipping."""
    clip_type: Literal["l2", "inf"] = "l2"
    """Which norm that is: the Euclidean one, or the largest absolute entry."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        _at_least(self, 1, "resolution", "num_slots", "half_life", "decay_steps")
        _check(self.num_slots <= 254, "num_slots", "at most 254", self.num_slots)
        _at_least(self, 0, "warmup_steps")
        _check(self.lr > 0, "lr", "positive", self.lr)
        _check(self.clip_norm is None or self.clip_norm > 0, "clip_norm", "positive or None", self.clip_norm)


@dataclass
class SlotParams(ModelParams):
    """What every model with Slot Attention has."""

    slot_size: int = 64
    """Size of a slot vector."""
    mlp_size: int = 128
    """Hidden size of the residual MLP on slots."""
    num_iterations: int = 3
    """Iterations of Slot Attention."""
    num_heads: int = 1
    """Heads of Slot Attention; the softmax runs over heads and slots together."""
    init: Literal["gaussian", "learned"] = "learned"
    """Where slots start: samples of one Gaussian (any number of slots), or a learned query for each slot."""
    gradient: Literal["full", "implicit", "bilevel"] = "bilevel"
    """Gradient through all iterations, at the fixed point only, or that and straight through to the queries."""
    neumann_terms: int = 1
    """Terms of the Neumann series that the implicit and the bilevel gradient keep."""
    aggregation: Literal["mean", "sum", "batch"] = "mean"
    """How a slot sums up its inputs: weighted mean, weighted sum, or batch-normalised sum."""
    tolerance: float = 0.0
    """In evaluation stop the iterations once slots move by no more than this. 0: never."""
    noise_steps: int = 0
    """Steps over which the noise on learned queries falls from 1 to 0 along a cosine. 0: no noise."""
    norm_eps: float = 1e-5
    """Epsilon of the layer normalisations; the original Slot Attention has 1e-3."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        _at_least(self, 1, "slot_size", "mlp_size", "num_iterations", "num_heads", "neumann_terms")
        _at_least(self, 0, "tolerance", "noise_steps")
        _check(self.slot_size % self.num_heads == 0, "num_heads", f"a divisor of {self.slot_size}", self.num_heads)


@dataclass
class SlotAttentionParams(SlotParams):
    """The autoencoder of Slot Attention."""

    num_iterations: int = 1
    """Iterations of Slot Attention; one suffices after `seeding` (published: 3)."""
    seeding: bool = True
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
    slot_frames: bool = True
    """Paint each slot around the place that it attends to (Biza et al. 2023), so that a shape is learned once."""
    image_range: Literal["unit", "signed"] = "signed"
    """What the network sees and paints: colours in [0, 1], where black costs nothing to paint, or in [-1, 1]."""
    initialization: Literal["torch", "keras", "kmeans"] = "kmeans"
    """How weights are drawn: PyTorch's defaults, the larger ones of the original models, or these with Slot Attention
    beginning as soft k-means."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        _at_least(self, 1, "decoder_final_stride", "decoder_final_kernel", "broadcast_size")
        _at_least(self, 1, "encoder_kernel", "decoder_kernel", "feature_size")
        _at_least(self, 0, "position_frequencies")
        _check_layers(self, "encoder")
        _check_layers(self, "decoder")


@dataclass
class SLATEParams(SlotParams):
    """SLATE: a discrete VAE, Slot Attention on its tokens, and a transformer that writes them from the slots."""

    lr: float = 3e-4
    """Peak learning rate of Adam, of everything but the discrete VAE."""
    dvae_lr: float = 3e-4
    """Learning rate of the discrete VAE, which has neither warm-up nor decay (but for `patience`)."""
    warmup_steps: int = 1000
    """Steps over which the learning rate rises linearly from 0."""
    patience: int | None = None
    """Halve both rates after this many validations in a row without a lower loss. None: never."""
    vocabulary_size: int = 1024
    """Words of the discrete VAE."""
    tau_start: float = 1.0
    """Temperature of the discrete VAE at the first step."""
    tau_end: float = 0.1
    """Temperature from `tau_steps` on; it falls along half a cosine."""
    tau_steps: int = 30_000
    """Steps over which the temperature falls."""
    dvae_steps: int = 0
    """Steps at the start in which the discrete VAE alone is trained; it is frozen afterwards. 0: train all at once."""
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
        _at_least(self, 1, "patience", "model_size", "decoder_blocks", "decoder_heads")
        _at_least(self, 2, "vocabulary_size")
        _at_least(self, 0, "tau_steps", "dvae_steps")
        for name in ("dvae_lr", "tau_start", "tau_end"):
            _check(getattr(self, name) > 0, name, "positive", getattr(self, name))
        for name in ("dropout", "attention_dropout"):
            _check(0 <= getattr(self, name) < 1, name, "in [0, 1)", getattr(self, name))
        fits = self.model_size % self.decoder_heads == 0
        _check(fits, "decoder_heads", f"a divisor of {self.model_size}", self.decoder_heads)


@dataclass
class SetPredictionParams(SlotParams):
    """Set prediction: an object with its properties from each slot."""

    num_slots: int = 10
    """Number of slots; the largest number of objects."""
    lr: float = 1e-3
    """Peak learning rate of Adam."""
    warmup_steps: int = 1000
    """Steps over which the learning rate rises linearly from 0."""
    coordinate_weight: float = 5.0
    """What the loss of the coordinates is multiplied by; 1 as published, which places objects less exactly."""
    head_size: int = 64
    """Hidden size of the MLP that reads the properties from a slot."""
    init: Literal["gaussian", "learned"] = "gaussian"
    """Where slots start: samples of one Gaussian (any number of slots), or a learned query for each slot."""
    gradient: Literal["full", "implicit", "bilevel"] = "full"
    """Gradient through all iterations, at the fixed point only, or that and straight through to the queries."""
    encoder_channels: list[int] | None = None
    """Channels of the encoder's convolutions. None: chosen by the resolution."""
    encoder_strides: list[int] | None = None
    """Strides of the encoder's convolutions. None: chosen so that at most 32 x 32 features remain."""
    encoder_kernel: int = 5
    """Kernel size of the encoder's convolutions."""
    position_frequencies: int = 0
    """Octaves of sines in the position embedding. 0: the published linear ramps alone."""
    initialization: Literal["torch", "keras", "kmeans"] = "keras"
    """How weights are drawn: PyTorch's defaults, the larger ones of the original models, or these with Slot Attention
    beginning as soft k-means."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        _at_least(self, 1, "head_size", "encoder_kernel")
        _at_least(self, 0, "coordinate_weight", "position_frequencies")
        _check_layers(self, "encoder")
