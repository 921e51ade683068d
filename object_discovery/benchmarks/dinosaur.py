"""Cost of the parts of a training step of DINOSAUR: frozen encoder, Slot Attention and each decoder.

Costs are floating-point operations and measured times, with the encoder in the step and from cached features. The
reference decoder is the MLP decoder as published, which decodes every slot at every patch and then blends the results.
Weights are random, which does not change the costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from object_discovery.benchmarks.arithmetic import count_flops
from object_discovery.benchmarks.base_params import TrainingBenchmarkParams
from object_discovery.benchmarks.report import BenchmarkReport, Ratio
from object_discovery.benchmarks.runtime import Runtime, training_step
from object_discovery.benchmarks.timing import Timing, time_alternating
from object_discovery.errors import UserError, check_at_least
from object_discovery.models.dinosaur import DINOSAUR
from object_discovery.models.dinosaur.mlp import PatchMLPDecoder

_REFERENCE = "decoder, reference MLP"

Step = Callable[[], object]


@dataclass(kw_only=True)
class DINOSAURBenchmarkParams(TrainingBenchmarkParams):
    """Settings of the benchmark of DINOSAUR."""

    config: str = "dinosaur_coco"
    """Configuration of encoder and slots; it is measured with an MLP and with a transformer as the decoder."""
    encoder: str | None = None
    """Another encoder, such as `dinov2_s14`. None: as configured."""
    resolution: int | None = None
    """Height and width of the images in pixels. None: as configured."""
    decoder_size: int | None = None
    """Hidden size of the MLP decoder. None: as configured."""
    top_k: int = 3
    """Slots decoded at each patch with top-k decoding."""
    batch_size: int = 2
    """Images in a training step."""
    num_steps: int = 1
    """Steps in each repetition."""
    repeats: int = 3
    """Repetitions of each measurement; the measurements alternate."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        check_at_least(self, 1, "top_k")


def run(params: DINOSAURBenchmarkParams) -> BenchmarkReport:
    """Count and time the parts of a training step, and whole steps.

    Raises:
        UserError: If there is no such configuration or encoder, or the configuration is of another model.
    """
    runtime = Runtime.create(params.precision)
    models = {name: model.to(runtime.device) for name, model in _build_models(params).items()}
    mlp_model = next(iter(models.values()))
    (height, width), p = mlp_model.encoder.grid, mlp_model.params
    title = (
        f"DINOSAUR as in {params.config}: {p.resolution} x {p.resolution} pixels, {height * width} features of "
        f"{mlp_model.encoder.feature_size} from {mlp_model.encoder.name}, {p.num_slots} slots of {p.slot_size}; "
        f"{runtime.describe()}"
    )
    report = BenchmarkReport(title, {**asdict(params), "precision": runtime.precision})
    with runtime.autocast():
        steps = _build_steps(models, params)
        flops = {name: count_flops(step) / params.batch_size for name, step in steps.items()}
        workloads = {name: runtime.workload(step, params.num_steps, params.batch_size) for name, step in steps.items()}
        timings = time_alternating(workloads, params.repeats)
    for name, count in flops.items():
        report.add_value(f"{name}, arithmetic", "GFLOP an image", count / 1e9)
    report.add_times(timings)
    _add_ratios(report, list(models), flops, timings)
    return report


def _build_models(params: DINOSAURBenchmarkParams) -> dict[str, DINOSAUR]:
    """Build a model with each decoder; the first has the MLP."""
    overrides: dict[str, Any] = {
        name: getattr(params, name)
        for name in ("encoder", "resolution", "decoder_size")
        if getattr(params, name) is not None
    }
    if params.encoder is not None:
        overrides["encoder_block"] = None
    decoders: dict[str, dict[str, Any]] = {
        "MLP": {"decoder": "mlp", "decoder_top_k": None},
        f"MLP, top {params.top_k}": {"decoder": "mlp", "decoder_top_k": params.top_k},
        "transformer": {"decoder": "transformer"},
    }
    try:
        return {
            name: DINOSAUR.from_config(params.config, encoder_weights="none", **overrides, **decoder)
            for name, decoder in decoders.items()
        }
    except ValueError as error:
        raise UserError(str(error)) from error


def _build_steps(models: dict[str, DINOSAUR], params: DINOSAURBenchmarkParams) -> dict[str, Step]:
    """Build what is measured: the shared parts, each decoder, and whole training steps."""
    mlp_model = next(iter(models.values()))
    size = mlp_model.params.resolution
    images = torch.rand(params.batch_size, 3, size, size, device=mlp_model.device)
    features = mlp_model.encoder(images)
    with torch.no_grad():
        slots, attention = mlp_model.attend_slots(mlp_model.inputs(features))

    def attend_slots() -> None:
        result, _ = mlp_model.attend_slots(mlp_model.inputs(features))
        result.float().square().mean().backward()  # type: ignore[no-untyped-call]

    steps: dict[str, Step] = {"encoder": lambda: mlp_model.encoder(images), "Slot Attention": attend_slots}
    for name, model in models.items():
        steps[f"decoder, {name}"] = _decoder_step(_decoder(model, attention, features), slots, features)
    steps[_REFERENCE] = _decoder_step(_reference_decoder(mlp_model), slots, features)
    batches = {"step with the encoder": {"image": images}, "step from features": {"features": features}}
    for kind, batch in batches.items():
        for name, model in models.items():
            steps[f"{kind}, {name}"] = training_step(model, _loss(model, batch))
    return steps


def _loss(model: DINOSAUR, batch: dict[str, Tensor]) -> Callable[[], Tensor]:
    return lambda: model.losses(batch)["loss"]


def _decoder_step(decode: Callable[[Tensor], Tensor], slots: Tensor, features: Tensor) -> Step:
    """Build the forward and backward pass of a decoder, with gradients to its weights and to the slots."""

    def step() -> None:
        prediction = decode(slots.clone().requires_grad_())
        F.mse_loss(prediction.float(), features.float()).backward()  # type: ignore[no-untyped-call]

    return step


def _decoder(model: DINOSAUR, attention: Tensor, features: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a model's decoder as a function of the slots."""

    def decode(slots: Tensor) -> Tensor:
        decoded = model.decoder(slots, attention=attention, features=features, with_masks=False)
        prediction: Tensor = decoded.prediction
        return prediction

    return decode


def _reference_decoder(model: DINOSAUR) -> Callable[[Tensor], Tensor]:
    """Return the published computation of the MLP decoder on the model's weights, as a function of the slots."""
    decoder = model.decoder
    assert isinstance(decoder, PatchMLPDecoder)
    layers = (decoder.first, decoder.second, decoder.third)

    def decode(slots: Tensor) -> Tensor:
        hidden = slots[:, :, None] + decoder.positions
        for layer in layers:
            hidden = layer(hidden).relu()
        outputs = decoder.last(hidden)
        slot_features, logits = outputs[..., :-1], outputs[..., -1:]
        prediction: Tensor = (slot_features * logits.softmax(1)).sum(1)
        return prediction

    return decode


def _add_ratios(
    report: BenchmarkReport, decoders: list[str], flops: dict[str, float], timings: dict[str, Timing]
) -> None:
    """Add the share of each part in a step, and the ratios of steps and decoders."""
    seconds = {name: timing.median for name, timing in timings.items()}
    for decoder in decoders:
        for method, costs in (("arithmetic", flops), ("measured", seconds)):
            names = {"encoder": "encoder", "Slot Attention": "Slot Attention", "decoder": f"decoder, {decoder}"}
            total = sum(costs[name] for name in names.values())
            for part, name in names.items():
                report.ratios.append(Ratio(f"share of the {part}, {decoder}, {method}", costs[name] / total))
    for decoder in decoders:
        ratio = timings[f"step with the encoder, {decoder}"].over(timings[f"step from features, {decoder}"])
        report.ratios.append(Ratio(f"step with the encoder / from features, {decoder}", ratio))
    for decoder in decoders[:2]:
        ratio = timings[_REFERENCE].over(timings[f"decoder, {decoder}"])
        report.ratios.append(Ratio(f"decoder, reference MLP / {decoder}", ratio))
