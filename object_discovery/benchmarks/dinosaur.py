"""What a training step of DINOSAUR is spent on: the encoder, Slot Attention and each kind of decoder.

By arithmetic and measured, with the encoder and from stored features. Published: every slot goes through every layer
of the MLP decoder at every patch. Weights are random, which changes nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from object_discovery.benchmarks.report import BenchmarkReport, Measure, Ratio
from object_discovery.benchmarks.timing import Timing, check_precision, time_in_turn
from object_discovery.errors import UserError, check_at_least
from object_discovery.models.dinosaur import DINOSAUR
from object_discovery.models.dinosaur.mlp import PatchMLPDecoder
from object_discovery.training.trainer import choose_precision

Work = Callable[[], object]


@dataclass
class DINOSAURBenchmarkParams:
    """What to measure, and how long."""

    config: str = "dinosaur_coco"
    """Configuration whose encoder and slots are measured, with an MLP and a transformer as the decoder."""
    encoder: str | None = None
    """Another encoder, such as `dinov2_s14`. None: as configured."""
    resolution: int | None = None
    """Height and width of the images in pixels. None: as configured."""
    decoder_size: int | None = None
    """Hidden size of the MLP. None: as configured."""
    top_k: int = 3
    """Slots that are decoded at a patch with top-k decoding."""
    batch_size: int = 2
    """Images in a step."""
    repeats: int = 3
    """Repetitions of everything; they alternate."""
    precision: str = "auto"
    """`bf16-mixed`, `32-true`, or auto for the former where the hardware multiplies bfloat16."""
    out: str | None = None
    """JSON file for the result. None: printed only."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        check_at_least(self, 1, "top_k", "batch_size", "repeats")
        check_precision(self.precision)


def run(params: DINOSAURBenchmarkParams) -> BenchmarkReport:
    """Count and measure the parts of a step, and whole steps.

    Raises:
        UserError: If there is no such configuration or encoder, or the configuration is of another model.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = choose_precision(params.precision, "auto")
    models = {name: model.to(device) for name, model in _models(params).items()}
    first = next(iter(models.values()))
    (height, width), p = first.encoder.grid, first.params
    title = (
        f"DINOSAUR as in {params.config}: {p.resolution} x {p.resolution} pixels, {height * width} features of "
        f"{first.encoder.feature_size} from {first.encoder.name}, {p.num_slots} slots of {p.slot_size}; "
        f"{chosen} on {device.type}, {torch.get_num_threads()} threads"
    )
    report = BenchmarkReport(title, {**asdict(params), "precision": chosen})
    with _precision(device, chosen):
        works = _works(models, params)
        flops = {name: _count(work) / params.batch_size for name, work in works.items()}
        timings = time_in_turn(
            {name: _timed(work, params.batch_size, device) for name, work in works.items()}, params.repeats
        )
    _tell(report, list(models), flops, timings)
    return report


def _models(params: DINOSAURBenchmarkParams) -> dict[str, DINOSAUR]:
    wanted = {name: getattr(params, name) for name in ("encoder", "resolution", "decoder_size")}
    settings: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    if params.encoder is not None:
        settings["encoder_block"] = None
    kinds: dict[str, dict[str, Any]] = {
        "MLP": {"decoder": "mlp", "decoder_top_k": None},
        f"MLP, top {params.top_k}": {"decoder": "mlp", "decoder_top_k": params.top_k},
        "transformer": {"decoder": "transformer"},
    }
    try:
        return {
            name: DINOSAUR.from_config(params.config, encoder_weights="none", **settings, **kind)
            for name, kind in kinds.items()
        }
    except ValueError as error:
        raise UserError(str(error)) from error


def _works(models: dict[str, DINOSAUR], params: DINOSAURBenchmarkParams) -> dict[str, Work]:
    """Make what is measured: parts that all share, each decoder, and whole steps."""
    first = next(iter(models.values()))
    size = first.params.resolution
    images = torch.rand(params.batch_size, 3, size, size, device=first.device)
    features = first.encoder(images)
    with torch.no_grad():
        slots, attention = first.attend_slots(first.inputs(features))

    def attend_slots() -> None:
        found, _ = first.attend_slots(first.inputs(features))
        found.float().square().mean().backward()  # type: ignore[no-untyped-call]

    works: dict[str, Work] = {"encoder": lambda: first.encoder(images), "Slot Attention": attend_slots}
    for name, model in models.items():
        works[f"decoder, {name}"] = _decoding(model, slots, attention, features)
    works["decoder, MLP as published"] = _published(first.decoder, slots, features)
    for name, model in models.items():
        works[f"step with the encoder, {name}"] = _step(model, {"image": images})
        works[f"step from features, {name}"] = _step(model, {"features": features})
    return works


def _decoding(model: DINOSAUR, slots: Tensor, attention: Tensor, features: Tensor) -> Work:
    """Decode slots, and go back to them."""

    def decode() -> None:
        given = slots.clone().requires_grad_()
        predicted = model.decoder(given, attention=attention, features=features, with_masks=False).prediction
        F.mse_loss(predicted.float(), features.float()).backward()  # type: ignore[no-untyped-call]

    return decode


def _published(decoder: nn.Module, slots: Tensor, features: Tensor) -> Work:
    """Decode slots with the same weights in the published way."""
    assert isinstance(decoder, PatchMLPDecoder)
    layers = (decoder.first, decoder.second, decoder.third)

    def decode() -> None:
        given = slots.clone().requires_grad_()
        hidden = given[:, :, None] + decoder.positions
        for layer in layers:
            hidden = layer(hidden).relu()
        painted, logits = decoder.last(hidden).split([features.shape[-1], 1], -1)
        predicted = (painted * logits.softmax(1)).sum(1)
        F.mse_loss(predicted.float(), features.float()).backward()  # type: ignore[no-untyped-call]

    return decode


def _step(model: DINOSAUR, batch: dict[str, Tensor]) -> Work:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        model.losses(batch)["loss"].backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def _count(work: Work) -> float:
    """Count the operations of matrix products and convolutions, an addition or multiplication each."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def _timed(work: Work, images: int, device: torch.device) -> Callable[[], int]:
    def timed() -> int:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return images

    return timed


@contextmanager
def _precision(device: torch.device, chosen: str) -> Iterator[None]:
    with torch.autocast(device.type, torch.bfloat16, enabled=chosen == "bf16-mixed"):
        yield


def _tell(report: BenchmarkReport, kinds: list[str], flops: dict[str, float], timings: dict[str, Timing]) -> None:
    """Report counts, times and the shares of the parts."""
    for name, count in flops.items():
        report.measures.append(Measure(f"{name}, by arithmetic", "GFLOP an image", *[count / 1e9] * 3))
    report.add_times(timings)
    for kind in kinds:
        for how, cost in (
            ("by arithmetic", flops),
            ("measured", {name: timing.median for name, timing in timings.items()}),
        ):
            parts = {part: cost[part] for part in ("encoder", "Slot Attention")} | {"decoder": cost[f"decoder, {kind}"]}
            for part, value in parts.items():
                share = value / sum(parts.values())
                report.ratios.append(Ratio(f"share of the {part}, {kind}, {how}", share))
    for kind in kinds:
        ratio = timings[f"step with the encoder, {kind}"].over(timings[f"step from features, {kind}"])
        report.ratios.append(Ratio(f"step with the encoder / from features, {kind}", ratio))
    for kind in kinds[:2]:
        ratio = timings["decoder, MLP as published"].over(timings[f"decoder, {kind}"])
        report.ratios.append(Ratio(f"decoder, MLP as published / {kind}", ratio))
