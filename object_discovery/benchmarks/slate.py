"""How fast SLATE trains and generates: our way beside the published way, with the same weights.

Published: one-hot tokens and losses, explicit attention under masks, float32, and a pass over the whole prefix for
each generated token. Ours: indices, fused attention, bfloat16 where the hardware multiplies it, cached keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from object_discovery.benchmarks.reference_slate import published_generation, published_losses
from object_discovery.benchmarks.report import BenchmarkReport, Ratio
from object_discovery.benchmarks.timing import Timing, check_precision, time_in_turn
from object_discovery.errors import UserError, check_argument, check_at_least
from object_discovery.models.slate.model import SLATE
from object_discovery.training.trainer import choose_precision

_STEP_BAR, _GENERATION_BAR = 3.0, 20.0


@dataclass
class SLATEBenchmarkParams:
    """What to measure, and how long."""

    config: str = "slate_clevr"
    """Configuration whose model is measured: `slate_clevr` (1024 tokens) or `slate_shapes3d` (256 tokens)."""
    resolution: int | None = None
    """Height and width of the images in pixels, a multiple of 4. None: as configured."""
    attention_dropout: float | None = None
    """Share of the decoder's attention that both drop in training. None: as configured, 0.1."""
    batch_size: int = 4
    """Images in a training step."""
    num_generated: int = 1
    """Images that are generated together."""
    num_prefixes: int | None = 16
    """The published generation is timed for this many lengths of the prefix, evenly spread, and extrapolated to all
    tokens. None: all, which takes minutes."""
    num_steps: int = 2
    """Training steps in a repetition."""
    repeats: int = 3
    """Repetitions of everything; they alternate."""
    precision: str = "auto"
    """Of our training step: `bf16-mixed`, `32-true`, or auto for the former where the hardware multiplies bfloat16."""
    out: str | None = None
    """JSON file for the result. None: printed only."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        check_at_least(self, 1, "batch_size", "num_generated", "num_prefixes", "num_steps", "repeats")
        size = 4 if self.resolution is None else self.resolution
        check_argument(size >= 4 and size % 4 == 0, "resolution", "a multiple of 4", size)
        check_precision(self.precision)


def run(params: SLATEBenchmarkParams) -> BenchmarkReport:
    """Measure a training step and a generation.

    Raises:
        UserError: If there is no such configuration, or it is not one of SLATE.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = choose_precision(params.precision, "auto")
    model = _model(params).to(device)
    p = model.params
    title = (
        f"SLATE as in {params.config}: {p.resolution} x {p.resolution} pixels, {model.embedding.num_tokens} tokens of "
        f"{p.codebook_size} words, {p.decoder_blocks} blocks; {chosen} on {device.type}, "
        f"{torch.get_num_threads()} threads"
    )
    report = BenchmarkReport(title, {**asdict(params), "precision": chosen})
    _add(report, "training", "ms an image", _steps(model, params, chosen), params.repeats, _STEP_BAR)
    _add(report, "generation", "ms a token", _generations(model.eval(), params), params.repeats, _GENERATION_BAR)
    return report


def _model(params: SLATEBenchmarkParams) -> SLATE:
    wanted = {name: getattr(params, name) for name in ("resolution", "attention_dropout")}
    given = {name: value for name, value in wanted.items() if value is not None}
    try:
        return SLATE.from_config(params.config, **given, dvae_steps=0)  # a step trains all at once, as published
    except ValueError as error:
        raise UserError(str(error)) from error


def _add(
    report: BenchmarkReport, name: str, unit: str, ways: dict[str, Callable[[], int]], repeats: int, bar: float
) -> None:
    timings: dict[str, Timing] = time_in_turn(ways, repeats)
    report.add_times(timings, unit, f"{name}, ")
    report.ratios.append(Ratio(f"{name}, published / ours", timings["published"].over(timings["ours"]), bar))


def _steps(model: SLATE, params: SLATEBenchmarkParams, chosen: str) -> dict[str, Callable[[], int]]:
    """Make training steps of both ways: losses, gradients, clipping and Adam."""
    size, device = model.params.resolution, model.device
    images = torch.rand(params.batch_size, 3, size, size, device=device)
    batch = {"image": images.to(memory_format=torch.channels_last)}
    mixed = chosen == "bf16-mixed"

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast(device.type, torch.bfloat16, enabled=mixed)

    def ours() -> Tensor:
        with autocast():
            return model.losses(batch)["loss"]

    def published() -> Tensor:
        return sum(published_losses(model, images, tau=1.0), torch.zeros((), device=device))

    ways = {"published": (published, False), "ours": (ours, True)}
    return {name: _step(model, params, *way) for name, way in ways.items()}


def _step(model: SLATE, params: SLATEBenchmarkParams, loss: Callable[[], Tensor], fused: bool) -> Callable[[], int]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6, fused=fused)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, math.inf)
        optimizer.step()

    def work() -> int:
        for _ in range(params.num_steps):
            step()
        _wait(model.device)
        return params.num_steps * params.batch_size

    step()  # the first allocates, and chooses kernels
    return work


def _generations(model: SLATE, params: SLATEBenchmarkParams) -> dict[str, Callable[[], int]]:
    """Make generations of both ways; the published one writes a part of the tokens only."""
    p, number = model.params, model.embedding.num_tokens
    slots = torch.randn(params.num_generated, p.num_slots, p.slot_size, device=model.device)
    prefixes = min(params.num_prefixes or number, number)
    lengths = [int((index + 0.5) * number / prefixes) for index in range(prefixes)]

    def published() -> int:
        published_generation(model, slots, lengths)
        _wait(model.device)
        return len(slots) * prefixes

    def ours() -> int:
        model.compose(slots)
        _wait(model.device)
        return len(slots) * number

    return {"published": published, "ours": ours}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
