"""The hyperparameters that runs and models share; `object_discovery.params` is the whole tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from object_discovery.errors import check_argument, check_at_least


def check_layers(params: Any, part: str) -> None:
    """Check that a part's channels and strides belong together."""
    channels, strides = getattr(params, f"{part}_channels"), getattr(params, f"{part}_strides")
    same = (channels is None and strides is None) or (channels and strides and len(channels) == len(strides))
    check_argument(bool(same), f"{part}_strides", f"as long as {part}_channels {channels}", strides)
    check_argument(min((channels or [1]) + (strides or [1])) >= 1, f"{part}_channels", "at least 1 each", channels)


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
    feature_cache: str = "none"
    """Folder with the features of a frozen encoder, as `data_scripts/cache_features.py` writes it. auto: beside the
    data, made first where training needs it; none: encode every batch."""
    num_workers: int | None = None
    """Loading processes. None: half the cores, at most eight, none on two cores; 0: load in the main process."""
    data_seed: int = 0
    """Seed of the scenes drawn by the library; the same seed draws the same scenes on any machine."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        check_at_least(self, 1, "resolution", "batch_size", "train_size", "val_size", "test_size")
        check_at_least(self, 0, "max_objects", "min_objects", "eval_max_objects", "num_workers", "data_seed")
        check_argument(
            self.random_crop is None or 0 < self.random_crop <= 1, "random_crop", "in (0, 1]", self.random_crop
        )


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
        check_at_least(self, 1, "max_steps", "num_nodes", "val_interval", "log_interval")
        check_at_least(self, 0, "seed", "num_pictures")
        check_argument(self.seed < 2**32, "seed", "below 2**32", self.seed)


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
    lr_schedule: Literal["cosine", "exponential", "delayed_exponential", "constant"] = "cosine"
    """How the learning rate falls: along a cosine to 0 at `decay_steps`, by half every `half_life`, or not."""
    decay_steps: int | None = None
    """Step at which the cosine reaches 0. None: the trainer's `max_steps`."""
    half_life: int = 100_000
    """Steps over which the exponential schedules halve the learning rate (during warm-up too, unless delayed)."""
    clip_norm: float | None = 1.0
    """Largest norm of the gradient. None: no clipping."""
    clip_type: Literal["l2", "inf"] = "l2"
    """Which norm that is: the Euclidean one, or the largest absolute entry."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        check_at_least(self, 1, "resolution", "num_slots", "half_life", "decay_steps")
        check_argument(self.num_slots <= 254, "num_slots", "at most 254", self.num_slots)
        check_at_least(self, 0, "warmup_steps")
        check_argument(self.lr > 0, "lr", "positive", self.lr)
        check_argument(self.clip_norm is None or self.clip_norm > 0, "clip_norm", "positive or None", self.clip_norm)


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
    slot_init: Literal["gaussian", "learned"] = "learned"
    """Where slots start: samples of one Gaussian (any number of slots), or a learned query for each slot."""
    gradient: Literal["full", "implicit", "bilevel"] = "bilevel"
    """Gradient through all iterations, at the fixed point only, or that and straight through to the queries."""
    neumann_terms: int = 1
    """Terms of the Neumann series that the implicit and the bilevel gradient keep."""
    aggregation: Literal["mean", "sum", "batch"] = "mean"
    """How a slot sums up its inputs: weighted mean, weighted sum, or batch-normalised sum."""
    cluster_init: bool = False
    """Start slots from clusters of pixels (of features, for dinosaur) that are alike and near, see
    `appearance_clusters`. Not published."""
    cluster_min_gain: float = 0.002
    """Leave slots out of an image, empty, whose clusters explain a smaller share of it anew. 0: use every slot."""
    tolerance: float = 0.0
    """In evaluation stop the iterations once slots move by no more than this. 0: never."""
    noise_steps: int = 0
    """Steps over which the noise on learned queries falls from 1 to 0 along a cosine, for slate after `dvae_steps`, as
    the warm-ups below. 0: no noise."""
    norm_eps: float = 1e-5
    """Epsilon of the layer normalisations; the original Slot Attention has 1e-3."""
    covariance_weight: float = 0.0
    """Weight of the covariance loss on slots, see `layers.regularizers`. 0: none."""
    covariance_of: Literal["features", "slots"] = "features"
    """What shall not vary together: features, over all slots of a batch; or slots, over the features of each."""
    covariance_divisor: Literal["size", "square"] = "size"
    """What the covariance loss is divided by: the size of the vectors, or that squared."""
    covariance_warmup: int = 0
    """Steps over which the weight of the covariance loss rises linearly from 0."""
    variance_weight: float = 0.0
    """Weight of the hinge on standard deviations, which keeps vectors from shrinking. 0: none."""
    variance_target: float = 1.0
    """Standard deviation from which on the hinge is satisfied."""
    cosine_weight: float = 0.0
    """Weight of the cosine loss, which pushes apart the slots of an image. 0: none."""
    cosine_warmup: int = 0
    """Steps over which the weight of the cosine loss rises linearly from 0."""
    projection_size: int | None = None
    """Width of the head by which these losses see slots, in training only. None: they see the slots themselves."""
    projection_norm: Literal["batch", "layer"] = "batch"
    """How the head normalises: each slot over a batch, as published by default, or each vector."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        check_at_least(
            self, 1, "slot_size", "mlp_size", "num_iterations", "num_heads", "neumann_terms", "projection_size"
        )
        check_at_least(
            self,
            0,
            "cluster_min_gain",
            "tolerance",
            "noise_steps",
            "covariance_weight",
            "covariance_warmup",
            "variance_weight",
        )
        check_at_least(self, 0, "variance_target", "cosine_weight", "cosine_warmup")
        check_argument(
            self.slot_size % self.num_heads == 0, "num_heads", f"a divisor of {self.slot_size}", self.num_heads
        )
