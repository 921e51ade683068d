"""Evaluate a model or a baseline on a dataset."""

from __future__ import annotations

import dataclasses
from typing import Any

from object_discovery.data import DATASETS
from object_discovery.errors import UserError
from object_discovery.evaluation.baselines import BASELINES, Baseline
from object_discovery.evaluation.params import EvaluateParams
from object_discovery.evaluation.protocols import PROTOCOLS
from object_discovery.evaluation.scoring import SplitDataModule, build_test_trainer, open_split, score_model
from object_discovery.feature_cache import encoder_of, no_encoder
from object_discovery.layers.frozen_encoder import FrozenEncoder
from object_discovery.models import ObjectDiscoveryModel
from object_discovery.models.loading import find_checkpoint, load_for_inference, measure_likelihood
from object_discovery.params import DataParams, ModelParams


def evaluate(params: EvaluateParams, data_params: DataParams) -> dict[str, Any] | None:
    """Score a model on a split of a dataset.

    Args:
        params: Settings of the evaluation.
        data_params: Settings of the data; the resolution must be that of the model.

    Returns:
        The scores, and all that is needed to reproduce them, as plain values; None on all processes but the first.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        UserError: If the data are missing, or the model or the device does not support the settings.
    """
    if params.protocol not in PROTOCOLS:
        names = ", ".join(PROTOCOLS)
        raise UserError(f"Expected argument `protocol` to be one of {names}, but got {params.protocol!r}")
    protocol = PROTOCOLS[params.protocol]
    split = params.split or protocol.split
    model = _load_model(params, data_params)
    if params.particles is not None:
        measure_likelihood(model, params.particles)
    if data_params.resolution != model.params.resolution:
        expected = f"the model's, {model.params.resolution}"
        raise UserError(f"Expected argument `resolution` to be {expected}, but got {data_params.resolution}")
    data = open_split(data_params, protocol, split)
    encoder = encoder_of(model)
    if encoder is None and data.params.feature_cache != "none":
        raise no_encoder(model.model_type)
    trainer = build_test_trainer(params.accelerator, params.devices, params.precision)
    test_data = SplitDataModule(data, split, protocol.mask_size, encoder)
    scores = score_model(trainer, model, test_data, protocol, params.seed)
    baselines = {
        baseline.baseline: score_model(trainer, baseline, test_data, protocol, params.seed)
        for baseline in (_baselines_for(model, encoder) if params.baselines else [])
    }
    if not trainer.is_global_zero:
        return None
    return {
        "scores": scores,
        **({"baselines": baselines} if baselines else {}),
        "num_scenes": len(getattr(data, f"{split}_set")),
        "split": split,
        "protocol": dataclasses.asdict(protocol),
        "checkpoint": None if params.checkpoint is None else str(find_checkpoint(params.checkpoint)),
        "model_type": model.model_type,
        "dataset": dataclasses.asdict(data.params),
        "settings": _settings(params, model),
    }


def _load_model(params: EvaluateParams, data_params: DataParams) -> ObjectDiscoveryModel[Any]:
    """Load the model, or build the baseline: with the encoder of the model, if there is a model."""
    model = None
    if params.checkpoint is not None:
        model = load_for_inference(params.checkpoint, params.num_slots, params.num_iterations, params.mask_source)
    if params.baseline is None:
        assert model is not None
        return model
    recommended = int(DATASETS[data_params.dataset].recommended.get("num_slots", ModelParams.num_slots))
    num_slots = params.num_slots or (model.params.num_slots if model is not None else recommended)
    encoder = None if model is None else encoder_of(model)
    return Baseline(params.baseline, num_slots, data_params.resolution, encoder)


def _baselines_for(model: ObjectDiscoveryModel[Any], encoder: FrozenEncoder | None) -> list[Baseline]:
    """Build all baselines with the number of slots, the resolution and the encoder of a model."""
    num_slots = model.forward_options.get("num_slots", model.params.num_slots)
    return [Baseline(name, num_slots, model.params.resolution, encoder) for name in BASELINES]


def _settings(params: EvaluateParams, model: ObjectDiscoveryModel[Any]) -> dict[str, Any]:
    """Collect the settings of the result; the numbers of slots and iterations are those in effect."""
    settings = {name: getattr(params, name) for name in ("particles", "precision", "accelerator", "devices", "seed")}
    for name in ("num_slots", "num_iterations"):
        settings[name] = model.forward_options.get(name, getattr(model.params, name, None))
    settings["mask_source"] = getattr(model.params, "mask_source", None)
    return settings
