"""Hyperparameters that runs and models share.

:class:`DataParams` are those of the data, :class:`TrainerParams` those of the training run, :class:`ModelParams` those
of every model, and :class:`SlotParams` adds those of models with Slot Attention. `object_discovery.params` derives the
hyperparameters of each model from the latter two, and exports all classes.

The docstring of a field is the text of its flag in `--help`. Every field is checked when an instance is created.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from object_discovery.errors import check_argument, check_at_least, check_choice

MaskSource: TypeAlias = Literal["decoder", "posterior", "attention"]
"""Masks of a model: those of its decoder, the posterior of the slots given the pixels, or the attention."""
ClusterKind: TypeAlias = Literal["objects", "appearance"]
"""Clusters of images: a background and objects in front of it, or soft clusters by colour and position."""


def check_layers(params: Any, part: str) -> None:
    """Check that channels and strides are lists of the same length with entries of at least 1, or both None.

    Args:
        params: The hyperparameters.
        part: `encoder` or `decoder`.

    Raises:
        ValueError: If they are not.
    """
    channels, strides = getattr(params, f"{part}_channels"), getattr(params, f"{part}_strides")
    same_length = (channels is None and strides is None) or (channels and strides and len(channels) == len(strides))
    check_argument(bool(same_length), f"{part}_strides", f"as long as {part}_channels {channels}", strides)
    check_argument(min((channels or [1]) + (strides or [1])) >= 1, f"{part}_channels", "at least 1 each", channels)


def check_choices(params: Any) -> None:
    """Check that the fields of a dataclass whose type is a `Literal` have one of its values.

    Raises:
        ValueError: If one has not.
    """
    for name, hint in get_type_hints(type(params)).items():
        literals = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
        value = getattr(params, name)
        if literals and not (value is None and type(None) in get_args(hint)):
            check_choice(name, value, [choice for literal in literals for choice in get_args(literal)])


@dataclass
class DataParams:
    """Dataset, splits, image size and loading."""

    dataset: str = "tetrominoes"
    """Name of the dataset (a key of `object_discovery.data.DATASETS`)."""
    data_root: str | None = None
    """File or folder of the dataset. None: generate scenes on the fly, where the dataset allows it."""
    variant: str | None = None
    """Variant of the dataset, such as `colored_on_colored` of multi_dsprites. None: the first."""
    resolution: int = 35
    """Height and width of the images in pixels."""
    fit: Literal["crop", "squash"] | None = None
    """Images that are not square: take the central crop, or resize without keeping the aspect ratio (squash). None: as
    published for the dataset."""
    random_flip: bool = False
    """Flip training images and their label maps horizontally with probability 1/2."""
    random_crop: float | None = None
    """Minimum area of random square crops of training images, relative to the image, in (0, 1]. None: no crop."""
    max_objects: int | None = None
    """Maximum number of objects in a training scene (CLEVR6: 6). None: no limit."""
    min_objects: int | None = None
    """Minimum number of objects in a scene of any split. None: no limit."""
    eval_max_objects: int | None = None
    """Maximum number of objects in a validation or test scene. None: as `max_objects`; 0: no limit."""
    train_size: int | None = None
    """Number of training scenes, the first of the split. None: all."""
    val_size: int | None = 320
    """Number of validation scenes, the first of the split. None: all."""
    test_size: int | None = None
    """Number of test scenes, the first of the split. None: all."""
    batch_size: int = 32
    """Images per batch and device."""
    feature_cache: str = "none"
    """Folder of cached encoder features, as written by `object-discovery cache-features`. auto: next to the
    data, computed first if missing; none: run the encoder on every batch."""
    num_workers: int | None = None
    """Number of data loading processes. None: half the cores, at most 8, but 0 on two cores; 0: the main process."""
    data_seed: int = 0
    """Seed of generated scenes, which are the same on every machine."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_choices(self)
        check_at_least(self, 1, "resolution", "batch_size", "train_size", "val_size", "test_size")
        check_at_least(self, 0, "max_objects", "min_objects", "eval_max_objects", "num_workers", "data_seed")
        check_argument(
            self.random_crop is None or 0 < self.random_crop <= 1, "random_crop", "in (0, 1]", self.random_crop
        )


@dataclass
class TrainerParams:
    """Length, hardware, precision, logging and output of a training run."""

    max_steps: int = 4000
    """Number of optimiser steps. The command line replaces the default by the recommendation for the dataset."""
    max_time: str | None = None
    """Time limit, as `DD:HH:MM:SS`. None: no limit."""
    seed: int = 0
    """Seed of weight initialisation, batch order and sampling."""
    precision: str = "auto"
    """Lightning's precision. auto: `bf16-mixed` where the hardware supports it natively, else `32-true`."""
    compile: bool = False
    """Compile the networks with torch.compile."""
    accelerator: str = "auto"
    """Lightning's accelerator: auto, cpu, gpu, ..."""
    devices: str = "auto"
    """Lightning's devices: a number, a list such as `0,2`, or auto."""
    num_nodes: int = 1
    """Lightning's number of nodes."""
    strategy: str = "auto"
    """Lightning's strategy, such as `ddp`."""
    val_interval: int = 1000
    """Steps between validations."""
    log_interval: int = 50
    """Steps between entries of the training log."""
    num_pictures: int = 8
    """Number of validation images in the logged image grid. 0: log no images."""
    logger: Literal["csv", "tensorboard", "wandb"] = "csv"
    """Logger in addition to `metrics.csv`, which is always written."""
    wandb_offline: bool = False
    """Log to Weights & Biases offline; `wandb sync` uploads the run later."""
    resume: str | None = None
    """Checkpoint to resume from, a run folder for its last one, or `auto`: that of `out`, or a new run if it has none.
    None: start a new run."""
    out: str = "runs/{model_type}_{dataset}"
    """Run folder; `{model_type}`, `{dataset}` and `{seed}` are filled in."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_choices(self)
        check_at_least(self, 1, "max_steps", "num_nodes", "val_interval", "log_interval")
        check_at_least(self, 0, "seed", "num_pictures")
        check_argument(self.seed < 2**32, "seed", "below 2**32", self.seed)


@dataclass
class ModelParams:
    """Input size, slots and optimiser of every model."""

    resolution: int = 128
    """Height and width of the images in pixels."""
    num_slots: int = 7
    """Number of slots K: the maximum number of objects, plus one for the background."""
    lr: float = 2e-3
    """Peak learning rate of Adam."""
    warmup_steps: int = 200
    """Steps of the linear learning rate warm-up."""
    lr_schedule: Literal["cosine", "exponential", "delayed_exponential", "constant"] = "cosine"
    """Learning rate after the warm-up: cosine decay to 0 at `decay_steps`, exponential decay by half every
    `half_life` from the first step on (exponential) or after the warm-up (delayed_exponential), or constant."""
    decay_steps: int | None = None
    """Step at which the cosine reaches 0. None: the trainer's `max_steps`."""
    half_life: int = 100_000
    """Steps in which the exponential schedules halve the learning rate."""
    clip_norm: float | None = 1.0
    """Maximum gradient norm. None: no clipping."""
    clip_type: Literal["l2", "inf"] = "l2"
    """Norm for gradient clipping: Euclidean, or maximum absolute value."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_choices(self)
        check_at_least(self, 1, "resolution", "num_slots", "half_life", "decay_steps")
        check_argument(self.num_slots <= 254, "num_slots", "at most 254", self.num_slots)
        check_at_least(self, 0, "warmup_steps")
        check_argument(self.lr > 0, "lr", "positive", self.lr)
        check_argument(self.clip_norm is None or self.clip_norm > 0, "clip_norm", "positive or None", self.clip_norm)


@dataclass
class SlotParams(ModelParams):
    """Slot Attention and the losses on slots."""

    slot_size: int = 64
    """Dimension D of the slots."""
    mlp_size: int = 128
    """Hidden size of the residual slot MLP."""
    num_iterations: int = 3
    """Iterations of Slot Attention."""
    num_heads: int = 1
    """Attention heads; the softmax is over heads and slots jointly."""
    slot_init: Literal["gaussian", "learned", "shared"] = "learned"
    """Initial slots: samples of one learned Gaussian (any number of slots), learned queries (BO-QSA), or with
    `cluster_init` one learned query for all slots (any number of slots)."""
    gradient: Literal["full", "implicit", "bilevel"] = "bilevel"
    """Backpropagate through all iterations (full), at the fixed point only (implicit), or at the fixed point and
    straight-through to the initial slots (bilevel, BO-QSA)."""
    neumann_terms: int = 1
    """Terms of the Neumann series of the implicit and bilevel gradient."""
    aggregation: Literal["mean", "sum", "batch"] = "mean"
    """Aggregation of the values by a slot: weighted mean, weighted sum, or batch-normalised weighted sum."""
    cluster_init: bool = False
    """Clustering-based slot initialisation: update the initial slots once by clusters of pixels (dinosaur: of features)
    that are similar in appearance and position. Not published."""
    cluster_min_gain: float = 0.002
    """Mask slots whose cluster adds less to the mean similarity of pixels to their nearest cluster. 0: mask none."""
    tolerance: float = 0.0
    """In evaluation, stop iterating once no entry of the slots changes by more than this. 0: do all iterations."""
    noise_steps: int = 0
    """Steps of the cosine decay from 1 to 0 of the relative noise on learned queries (BO-QSA). 0: no noise. For slate
    these steps and those of the warm-ups below are counted after `dvae_steps`."""
    norm_eps: float = 1e-5
    """Epsilon of the layer normalisations (original implementation in Keras: 1e-3)."""
    covariance_weight: float = 0.0
    """Weight of the covariance loss on slots (Stange et al. 2023). 0: none."""
    covariance_of: Literal["features", "slots"] = "features"
    """Variables of the covariance: features (over all slots of a batch), or slots of an image (over their features)."""
    covariance_divisor: Literal["size", "square"] = "size"
    """Divisor of the covariance loss: the number of features (size), or its square."""
    covariance_warmup: int = 0
    """Steps of the linear warm-up of the covariance weight."""
    variance_weight: float = 0.0
    """Weight of the VICReg variance term, a hinge on standard deviations. 0: none."""
    variance_target: float = 1.0
    """Standard deviation above which the variance term is 0."""
    cosine_weight: float = 0.0
    """Weight of the cosine similarity loss between the slots of an image. 0: none."""
    cosine_warmup: int = 0
    """Steps of the linear warm-up of the cosine weight."""
    projection_size: int | None = None
    """Width of the projection head to which these losses are applied, in training only. None: no head."""
    projection_norm: Literal["batch", "layer"] = "batch"
    """Normalisation in the projection head: batch normalisation with one channel per slot, or layer normalisation."""

    def __post_init__(self) -> None:
        """Check the values."""
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
        check_argument(self.norm_eps > 0, "norm_eps", "positive", self.norm_eps)
        shared_without_clusters = self.slot_init == "shared" and not self.cluster_init
        check_argument(not shared_without_clusters, "slot_init", "gaussian or learned without cluster_init", "shared")
        check_argument(
            self.slot_size % self.num_heads == 0, "num_heads", f"a divisor of {self.slot_size}", self.num_heads
        )
