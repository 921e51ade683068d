"""What a training step costs with features from a cache, with features in memory, and with the encoder in the step.

The images are drawn, and the encoder's weights are random: neither changes how long a step takes. Everything lies in a
temporary folder, and is read from the system's cache.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from object_discovery.benchmarks.report import BenchmarkReport, Measure, Ratio
from object_discovery.benchmarks.timing import Timing, time_in_turn
from object_discovery.data.datasets.scenes import ScenesDataModule
from object_discovery.data.loaders import SceneLoader, make_loader
from object_discovery.discovery import Batch
from object_discovery.errors import check_argument, check_at_least
from object_discovery.feature_cache import CachedFeatureDataset, FeatureCache, write_features
from object_discovery.feature_cache.datamodule import features_key
from object_discovery.feature_cache.writer import every_image
from object_discovery.models import DINOSAUR

_STEP = "step, features {}"


@dataclass
class FeatureBenchmarkParams:
    """What to measure, and how long."""

    encoder: str = "dino_s16"
    """The encoder; its weights are random."""
    resolution: int = 224
    """Height and width of the images in pixels."""
    decoder: str = "mlp"
    """The decoder of DINOSAUR: mlp or transformer."""
    decoder_size: int = 2048
    """Hidden size of the MLP."""
    slot_size: int = 256
    """Size of a slot vector."""
    num_images: int = 64
    """Images in the cache."""
    batch_size: int = 16
    """Images in a batch."""
    num_workers: int = 0
    """Loading processes."""
    steps: int = 4
    """Steps in each repetition."""
    repeats: int = 5
    """Repetitions of everything; they alternate."""
    out: str | None = None
    """JSON file for the result. None: printed only."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        check_at_least(self, 1, "num_images", "batch_size", "steps", "repeats")
        check_argument(self.decoder in ("mlp", "transformer"), "decoder", "mlp or transformer", self.decoder)


def run(params: FeatureBenchmarkParams) -> BenchmarkReport:
    """Measure steps with features from the disk, from memory, and computed in the step.

    Args:
        params: What to measure, and how long.

    Returns:
        The measures, and the ratios with their targets.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _model(params).to(device)
    data = ScenesDataModule(resolution=params.resolution, train_size=params.num_images, num_workers=0)
    numbers = np.arange(params.num_images)
    with tempfile.TemporaryDirectory() as folder:
        key = features_key(data, "train", model.encoder, exact=True)
        cache = FeatureCache.create(Path(folder), key, shard_size=params.batch_size)
        images, start = every_image(data.train_set, cache.shard_size), time.perf_counter()
        write_features(model.encoder, images, numbers, cache, num_workers=0, device=device, progress=False)
        seconds = (time.perf_counter() - start) / len(images)
        cached = CachedFeatureDataset(data.train_set, cache, numbers, images=False)
        report = BenchmarkReport(f"features of {params.encoder}, DINOSAUR on {device}", asdict(params))
        report.measures.append(Measure("drawing and caching, an image", "ms", *[1e3 * seconds] * 3))
        _measure(report, params, model, data.train_set[list(range(params.batch_size))], cached)
    return report


def _model(params: FeatureBenchmarkParams) -> DINOSAUR:
    return DINOSAUR(
        encoder=params.encoder,
        encoder_weights="none",
        resolution=params.resolution,
        decoder=params.decoder,
        decoder_size=params.decoder_size,
        slot_size=params.slot_size,
    )


def _measure(
    report: BenchmarkReport,
    params: FeatureBenchmarkParams,
    model: DINOSAUR,
    images: Batch,
    cached: CachedFeatureDataset,
) -> None:
    """Time the same steps on three kinds of batches, and reading alone."""
    device = model.encoder.mean.device
    loader = make_loader(cached, train=True, batch_size=params.batch_size, num_workers=params.num_workers)
    held = {key: value.to(device) for key, value in next(iter(loader)).items()}
    encoded = model.on_after_batch_transfer({"image": images["image"].to(device)})
    step = _stepper(model)

    def timed(batches: Callable[[], Iterator[Batch]]) -> Callable[[], int]:
        def work() -> int:
            for batch in batches():
                step(batch)
            if device.type == "cuda":
                torch.cuda.synchronize()
            return params.steps

        return work

    ways: dict[str, Callable[[], int]] = {
        _STEP.format("in memory"): timed(lambda: iter([held] * params.steps)),
        _STEP.format("from the cache"): timed(lambda: _batches(loader, params.steps, device)),
        _STEP.format("computed in it"): timed(lambda: iter([encoded] * params.steps)),
        "reading alone": lambda: sum(1 for _ in _batches(loader, params.steps, device)),
    }
    for way in ways.values():
        way()
    timings = time_in_turn(ways, params.repeats)
    report.measures += [_milliseconds(name, timing) for name, timing in timings.items()]
    memory, disk, computed, _ = timings.values()
    report.ratios.append(Ratio("step in memory / from the cache", memory.over(disk), 1 / 1.1))
    report.ratios.append(Ratio("step with the encoder / from the cache", computed.over(disk)))


def _stepper(model: DINOSAUR) -> Callable[[Batch], None]:
    """Return a whole step of training: forward, backward, and Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step(batch: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        model.losses(batch)["loss"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _batches(loader: SceneLoader, count: int, device: torch.device) -> Iterator[Batch]:
    """Load so many batches, epoch after epoch."""
    endless = (batch for _ in iter(int, 1) for batch in loader)
    for batch in islice(endless, count):
        yield {key: value.to(device, non_blocking=True) for key, value in batch.items()}


def _milliseconds(name: str, timing: Timing) -> Measure:
    return Measure(name, "ms", 1e3 * timing.median, 1e3 * min(timing.seconds), 1e3 * max(timing.seconds))
