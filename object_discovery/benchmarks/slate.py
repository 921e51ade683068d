"""Speed of training and generation with SLATE: the library and a reference implementation, on the same weights.

Reference: one-hot tokens and losses, explicit attention with masks, float32, and a pass over the whole prefix for each
generated token. Library: token indices, fused attention, bfloat16 where the hardware supports it, cached keys and
values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from object_discovery.benchmarks.base_params import TrainingBenchmarkParams
from object_discovery.benchmarks.reference_slate import reference_generation, reference_losses
from object_discovery.benchmarks.report import BenchmarkReport, Ratio
from object_discovery.benchmarks.runtime import Runtime, training_step
from object_discovery.benchmarks.timing import time_alternating
from object_discovery.errors import UserError, check_argument, check_at_least
from object_discovery.models.slate.model import SLATE

_TRAINING_TARGET, _GENERATION_TARGET = 3.0, 20.0


@dataclass(kw_only=True)
class SLATEBenchmarkParams(TrainingBenchmarkParams):
    """Settings of the benchmark of SLATE."""

    config: str = "slate_clevr"
    """Configuration of the model: `slate_clevr` (1024 tokens) or `slate_shapes3d` (256 tokens)."""
    resolution: int | None = None
    """Height and width of the images in pixels, a multiple of 4. None: as configured."""
    attention_dropout: float | None = None
    """Dropout of the decoder's attention weights in training, for both implementations. None: as configured, 0.1."""
    batch_size: int = 4
    """Images in a training step."""
    num_generated: int = 1
    """Images that are generated in a batch."""
    num_prefixes: int | None = 16
    """Number of evenly spaced prefix lengths that the reference generation is timed at, to extrapolate to all tokens.
    None: all lengths, which takes minutes."""
    repeats: int = 3
    """Repetitions of each measurement; the measurements alternate."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        check_at_least(self, 1, "num_generated", "num_prefixes")
        size = 4 if self.resolution is None else self.resolution
        check_argument(size >= 4 and size % 4 == 0, "resolution", "a multiple of 4", size)


def run(params: SLATEBenchmarkParams) -> BenchmarkReport:
    """Time training steps and generation.

    Raises:
        UserError: If there is no such configuration, or it is of another model.
    """
    runtime = Runtime.create(params.precision)
    model = _build_model(params).to(runtime.device)
    p = model.params
    title = (
        f"SLATE as in {params.config}: {p.resolution} x {p.resolution} pixels, {model.embedding.num_tokens} tokens, "
        f"codebook of {p.codebook_size}, {p.decoder_blocks} blocks; {runtime.describe()}"
    )
    report = BenchmarkReport(title, {**asdict(params), "precision": runtime.precision})
    training = _training_workloads(model, params, runtime)
    _compare(report, "training", "ms an image", training, params.repeats, _TRAINING_TARGET)
    generation = _generation_workloads(model.eval(), params, runtime)
    _compare(report, "generation", "ms a token", generation, params.repeats, _GENERATION_TARGET)
    return report


def _build_model(params: SLATEBenchmarkParams) -> SLATE:
    overrides = {
        name: getattr(params, name) for name in ("resolution", "attention_dropout") if getattr(params, name) is not None
    }
    try:
        return SLATE.from_config(params.config, **overrides, dvae_steps=0)  # joint training, as published
    except ValueError as error:
        raise UserError(str(error)) from error


def _compare(
    report: BenchmarkReport,
    name: str,
    unit: str,
    workloads: dict[str, Callable[[], int]],
    repeats: int,
    target: float,
) -> None:
    """Time the reference and the library, and report their ratio."""
    timings = time_alternating(workloads, repeats)
    report.add_times(timings, unit, f"{name}, ")
    ratio = timings["reference"].over(timings["library"])
    report.ratios.append(Ratio(f"{name}, reference / library", ratio, target))


def _training_workloads(model: SLATE, params: SLATEBenchmarkParams, runtime: Runtime) -> dict[str, Callable[[], int]]:
    """Build training steps of both implementations: loss, gradients, clipping and Adam."""
    size = model.params.resolution
    images = torch.rand(params.batch_size, 3, size, size, device=runtime.device)
    batch = {"image": images.to(memory_format=torch.channels_last)}

    def library_loss() -> Tensor:
        with runtime.autocast():
            return model.losses(batch)["loss"]

    def reference_loss() -> Tensor:
        mse, cross_entropy = reference_losses(model, images, tau=1.0)
        return mse + cross_entropy

    steps = {
        "reference": training_step(model, reference_loss, fused=False, norm_type=math.inf),
        "library": training_step(model, library_loss, norm_type=math.inf),
    }
    return {name: runtime.workload(step, params.num_steps, params.batch_size) for name, step in steps.items()}


def _generation_workloads(model: SLATE, params: SLATEBenchmarkParams, runtime: Runtime) -> dict[str, Callable[[], int]]:
    """Build the generation of both implementations; the reference generates some of the tokens only."""
    p, num_tokens = model.params, model.embedding.num_tokens
    slots = torch.randn(params.num_generated, p.num_slots, p.slot_size, device=runtime.device)
    num_prefixes = min(params.num_prefixes or num_tokens, num_tokens)
    lengths = [int((index + 0.5) * num_tokens / num_prefixes) for index in range(num_prefixes)]

    def reference() -> int:
        reference_generation(model, slots, lengths)
        runtime.synchronize()
        return len(slots) * num_prefixes

    def library() -> int:
        model.compose(slots)
        runtime.synchronize()
        return len(slots) * num_tokens

    return {"reference": reference, "library": library}
