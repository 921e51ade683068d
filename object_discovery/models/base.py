"""Base class of all models: construction, checkpoints, steps, metrics and optimiser."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric
from typing_extensions import Self

from object_discovery.configs import read_config
from object_discovery.discovery import Batch, Discovery
from object_discovery.errors import CheckpointError, UserError, one_line
from object_discovery.models.batches import as_batch, as_floats, check_range
from object_discovery.models.checkpoints import read_checkpoint
from object_discovery.models.scores import SplitScores
from object_discovery.params import ModelParams
from object_discovery.schedules import learning_rate_factor

P = TypeVar("P", bound=ModelParams)


def has_capability(model: object, name: str) -> bool:
    """Return whether a model has an optional method, such as `compose`, `sample`, `properties` or `log_likelihood`."""
    return callable(getattr(model, name, None))


class ObjectDiscoveryModel(LightningModule, Generic[P]):
    """LightningModule of every model; subclasses define the network, `forward` and `losses`.

    Constructed from one params object, or from its fields as keywords. Logs `train/<loss>`, `val/<score>` and
    `test/<score>`; scores that need masks are omitted without masks.

    Args:
        params: The hyperparameters.
        **settings: Fields of the params class, in place of `params`.

    Raises:
        TypeError: If a keyword is not a hyperparameter, or both `params` and keywords are given.
        ValueError: If a value is out of range.
    """

    model_type: ClassVar[str]
    """Name of the model on the command line."""
    params_class: ClassVar[type[ModelParams]]
    """The dataclass of its hyperparameters."""

    def __init__(self, params: P | None = None, **settings: Any) -> None:
        super().__init__()
        if params is not None and settings:
            raise TypeError(f"Expected either `params` or keywords, but got both: {', '.join(settings)}")
        if params is None:
            known = {field.name for field in dataclasses.fields(self.params_class)}
            unknown = sorted(settings.keys() - known)
            if unknown:
                name = self.params_class.__name__
                raise TypeError(f"Expected keywords to be fields of {name}, but got `{unknown[0]}`")
            params = cast(P, self.params_class(**settings))
        self.params: P = params
        self._total_steps = math.inf
        self.forward_options: dict[str, int] = {}
        """Arguments that validation, test and prediction pass to `forward`, such as another `num_slots`."""
        self.run_info: dict[str, Any] = {}
        """Facts about the training run that the checkpoint was saved by: its `dataset`, `fit` and `validation` scores;
        empty for a model that was not loaded."""
        self._checked_stages: set[str] = set()
        self.save_hyperparameters(dataclasses.asdict(params))
        self.scores = nn.ModuleDict({split: SplitScores(self.extra_metrics()) for split in ("val", "test")})

    @classmethod
    def monitor(cls, has_masks: bool) -> tuple[str, Literal["min", "max"]]:
        """Return the score that selects the best checkpoint, and whether it is minimised or maximised.

        With label maps it is mBO: unlike FG-ARI it falls where objects take parts of the background.
        """
        return ("val/mbo_i", "max") if has_masks else ("val/mse", "min")

    @classmethod
    def from_config(cls, name: str | Path, **settings: Any) -> Self:
        """Build the model of a shipped configuration or YAML file; keywords override single values.

        Raises:
            UserError: If there is no such configuration, or it is of another model.
        """
        config = read_config(name)
        if config.get("model_type", cls.model_type) != cls.model_type:
            raise UserError(
                f"Expected a configuration of model type {cls.model_type}, but {name} is of {config['model_type']}"
            )
        known = {field.name for field in dataclasses.fields(cls.params_class)}
        return cls(**{**{key: value for key, value in config.items() if key in known}, **settings})

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, map_location: Any = "cpu", **kwargs: Any) -> Self:  # type: ignore[override]
        """Load a trained model, by default onto the CPU, without running any code of the file.

        Raises:
            CheckpointError: If the file is missing, damaged, or of another model.
        """
        model_type = read_checkpoint(checkpoint_path)["model_type"]
        if model_type != cls.model_type:
            raise CheckpointError(
                f"Expected a checkpoint of model type {cls.model_type}, but {checkpoint_path} is of {model_type}"
            )
        kwargs.setdefault("weights_only", True)
        try:
            return super().load_from_checkpoint(checkpoint_path, map_location=map_location, **kwargs)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:  # missing or unexpected entries, other shapes
            raise CheckpointError(
                f"{checkpoint_path} does not hold a model of this version: {one_line(error)[:200]}"
            ) from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the type of the model, and what is known of an earlier training run."""
        checkpoint["model_type"] = self.model_type
        if self.run_info:
            checkpoint.setdefault("run", self.run_info)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the facts about the training run."""
        self.run_info = dict(checkpoint.get("run", {}))

    def forward(self, images: Tensor, **options: Any) -> Discovery:
        """Find the objects in images `(B, 3, H, W)`, floats in [0, 1]."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of a batch with floating-point images: `loss` is minimised, the others are logged."""
        raise TypeError(f"{type(self).__name__} has no losses")

    def pictures(self, images: Tensor, discovery: Discovery) -> dict[str, Tensor]:
        """Return further columns of the picture grid, images `(B, 3, H, W)` by name."""
        return {}

    def check_images(self, images: Tensor) -> None:
        """Check that images are of shape `(B, 3, H, W)` at the resolution of the model.

        Raises:
            ValueError: If they are not.
        """
        size = self.params.resolution
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(f"Expected argument `images` to be (B, 3, {size}, {size}), but got {tuple(images.shape)}")

    def check_precision(self, precision: str) -> None:
        """Check that the model can be trained in a precision of Lightning.

        Raises:
            UserError: If it cannot.
        """

    def networks(self) -> Iterator[nn.Module]:
        """Iterate over the submodules that `compile` compiles: all but the metrics."""
        return (child for name, child in self.named_children() if name != "scores")

    @property
    def is_attached(self) -> bool:
        """Whether a trainer runs the model."""
        try:
            return self.trainer is not None
        except RuntimeError:
            return False

    def setup(self, stage: str) -> None:
        """Check the range of the first images of each stage again."""
        self._checked_stages.clear()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Batch:
        """Bring a batch into the form that the steps take, on the device.

        Args:
            batch: A tensor of images `(B, 3, H, W)`, a tuple that begins with one, or a dict with `image`; uint8, or
                floats in [0, 1] of any precision. The range is checked in the first batch of each stage only, since
                the check waits for the device.
            dataloader_idx: Index of the loader; unused.

        Raises:
            ValueError: If it is none of these.
        """
        batch = as_batch(batch)
        image = as_floats(batch["image"], cast(torch.dtype, self.dtype))
        stage = str(self.trainer.state.stage) if self.is_attached else ""
        if image.numel() and stage not in self._checked_stages:
            check_range(image)
            self._checked_stages |= {stage} - {""}
        return {**batch, "image": image}

    def on_fit_start(self) -> None:
        """Check the precision, and switch a model that was loaded for inference to training mode."""
        self.check_precision(str(self.trainer.precision))
        if not self.training:
            self.train()

    def on_train_start(self) -> None:
        """Seed every process, and a resumed run, differently."""
        if self.global_rank or self.global_step:
            torch.manual_seed((torch.initial_seed() + 7919 * self.global_rank + 104729 * self.global_step) % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Compute and log the losses; an empty batch is skipped."""
        if not len(batch["image"]):
            return None
        losses = self.losses(batch)
        self.log_dict(
            {f"train/{name}": value.detach() for name, value in losses.items()}, batch_size=len(batch["image"])
        )
        return losses["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the validation scores."""
        self._score("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the test scores."""
        self._score("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Discovery:
        """Find the objects of a batch."""
        return self.discover_batch(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the validation scores."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the test scores."""
        self._log_scores("test")

    def discover_batch(self, batch: Batch) -> Discovery:
        """Find the objects of a batch with floating-point images, with the `forward_options`."""
        return self(batch["image"], **self.forward_options)  # type: ignore[no-any-return]

    def prepare_images(self, images: Tensor) -> Tensor:
        """Check images and convert them to the floating-point type of the model.

        Args:
            images: `(B, 3, H, W)`, uint8 or floats in [0, 1]. The range is checked on the CPU, outside of compiled
                code; elsewhere the check would wait for the device.

        Raises:
            ValueError: If they are of another shape, type or range.
        """
        self.check_images(images)
        images = as_floats(images, cast(torch.dtype, self.dtype))
        if images.device.type == "cpu" and not torch.compiler.is_compiling():
            check_range(images)
        return images

    def discover_nothing(self, images: Tensor, **options: Any) -> Discovery:
        """Return the discovery of a batch without images, `(0, 3, H, W)`: that of one image, less its entries."""
        discovery: Discovery = self(images.new_zeros(1, *images.shape[1:]), **options)
        return discovery.apply(lambda value: value[:0])

    def extra_metrics(self) -> dict[str, Metric]:
        """Build the metrics that this model has besides those of every model, by their names.

        Called once for each split. A metric is updated with what `score_batch` returns under its name, and logged under
        it, or under the keys of the dictionary that it computes.
        """
        return {}

    def score_batch(self, batch: Batch) -> tuple[Discovery, dict[str, Any]]:
        """Find the objects of a batch, and compute the arguments of the `extra_metrics` by their names."""
        return self.discover_batch(batch), {}

    def _score(self, split: str, batch: Batch) -> None:
        """Update the metrics of a split; a batch without images changes nothing."""
        if not len(batch["image"]):
            return
        discovery, extra = self.score_batch(batch)
        scores = cast(SplitScores, self.scores[split])
        scores.update(discovery, batch["image"], batch.get("mask"), extra, batch.get("classes"))

    def _log_scores(self, split: str) -> dict[str, Tensor]:
        scores = cast(SplitScores, self.scores[split])
        values = scores.compute()
        self.log_dict({f"{split}/{name}": value for name, value in values.items()}, sync_dist=False)
        scores.reset()
        return values

    def configure_optimizers(self) -> Any:
        """Build Adam with a learning rate schedule over steps."""
        fused = self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        groups, factors = zip(*self.parameter_groups(), strict=True)
        optimizer = torch.optim.Adam(groups, lr=self.params.lr, fused=fused)
        self._total_steps = float(self.trainer.estimated_stepping_batches)
        scheduler = LambdaLR(optimizer, list(factors))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"}}

    def parameter_groups(self) -> list[tuple[dict[str, Any], Callable[[int], float]]]:
        """Return the parameter groups of the optimiser, each with its learning rate factor by step."""
        return [({"params": list(self.parameters())}, self.learning_rate_factor)]

    def learning_rate_factor(self, step: int, start: int = 0) -> float:
        """Return the factor on the peak learning rate at a step, of a schedule that starts at step `start`."""
        params = self.params
        end = params.decay_steps or self._total_steps
        no_end = math.isinf(end)
        return learning_rate_factor(
            max(0, step - start),
            warmup_steps=params.warmup_steps,
            schedule="constant" if no_end and params.lr_schedule == "cosine" else params.lr_schedule,
            decay_steps=0 if no_end else int(end) - start,
            half_life=params.half_life,
        )

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip the gradient norm to `clip_norm`, unless the trainer has its own setting."""
        value = self.params.clip_norm if gradient_clip_val is None else gradient_clip_val
        if value is not None:  # Lightning's clipping does not support fused optimisers under autocast
            nn.utils.clip_grad_norm_(self.parameters(), value, 2.0 if self.params.clip_type == "l2" else math.inf)
