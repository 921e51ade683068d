"""Cost of a training step from cached features: read from disk, held in memory, or computed by the encoder.

Images are synthetic and the encoder's weights random, which does not change the cost of a step. The cache lies in a
temporary folder and is read from the page cache.
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
from torch import Tensor

from object_discovery.benchmarks.base_params import BenchmarkParams
from object_discovery.benchmarks.report import BenchmarkReport, Ratio
from object_discovery.benchmarks.runtime import Runtime, training_step
from object_discovery.benchmarks.timing import time_alternating
from object_discovery.data.datasets.scenes import ScenesDataModule
from object_discovery.data.loaders import SceneLoader, make_loader
from object_discovery.discovery import Batch
from object_discovery.errors import check_argument, check_at_least
from object_discovery.feature_cache import CachedFeatureDataset, FeatureCache, write_features
from object_discovery.feature_cache.datamodule import features_key
from object_discovery.feature_cache.writer import every_image
from object_discovery.models import DINOSAUR

_MEMORY, _CACHE, _ENCODER = "step, features in memory", "step, features from the cache", "step with the encoder"


@dataclass(kw_only=True)
class FeatureBenchmarkParams(BenchmarkParams):
    """Settings of the benchmark of cached features."""

    encoder: str = "dino_s16"
    """Encoder; its weights are random."""
    resolution: int = 224
    """Height and width of the images in pixels."""
    decoder: str = "mlp"
    """Decoder of DINOSAUR: `mlp` or `transformer`."""
    decoder_size: int = 2048
    """Hidden size of the MLP decoder."""
    slot_size: int = 256
    """Size of a slot vector."""
    num_images: int = 64
    """Images in the cache."""
    batch_size: int = 16
    """Images in a batch."""
    num_workers: int = 0
    """Worker processes of the loader."""
    num_steps: int = 4
    """Training steps in each repetition."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        check_at_least(self, 1, "num_images", "batch_size", "num_steps")
        check_argument(self.decoder in ("mlp", "transformer"), "decoder", "mlp or transformer", self.decoder)


def run(params: FeatureBenchmarkParams) -> BenchmarkReport:
    """Time training steps with features from the cache, from memory, and from the encoder in the step.

    Returns:
        The measurements, and ratios with their targets.
    """
    runtime = Runtime.create()
    model = _build_model(params).to(runtime.device)
    data = ScenesDataModule(resolution=params.resolution, train_size=params.num_images, num_workers=0)
    indices = np.arange(params.num_images)
    report = BenchmarkReport(f"features of {params.encoder}, DINOSAUR on {runtime.device.type}", asdict(params))
    with tempfile.TemporaryDirectory() as folder:
        key = features_key(data, "train", model.encoder, exact=True)
        cache = FeatureCache.create(Path(folder), key, shard_size=params.batch_size)
        images, start = every_image(data.train_set, cache.shard_size), time.perf_counter()
        write_features(model.encoder, images, indices, cache, num_workers=0, device=runtime.device, progress=False)
        milliseconds = 1e3 * (time.perf_counter() - start) / len(images)
        report.add_value("generating and caching, an image", "ms", milliseconds)
        dataset = CachedFeatureDataset(data.train_set, cache, indices, images=False)
        loader = make_loader(dataset, train=True, batch_size=params.batch_size, num_workers=params.num_workers)
        _time_steps(report, params, runtime, model, data.train_set[list(range(params.batch_size))], loader)
    return report


def _build_model(params: FeatureBenchmarkParams) -> DINOSAUR:
    return DINOSAUR(
        encoder=params.encoder,
        encoder_weights="none",
        resolution=params.resolution,
        decoder=params.decoder,
        decoder_size=params.decoder_size,
        slot_size=params.slot_size,
    )


def _time_steps(
    report: BenchmarkReport,
    params: FeatureBenchmarkParams,
    runtime: Runtime,
    model: DINOSAUR,
    images: Batch,
    loader: SceneLoader,
) -> None:
    """Time the same training step on three sources of batches, and reading the cache alone."""
    feature_batch = {key: value.to(runtime.device) for key, value in next(iter(loader)).items()}
    image_batch = model.on_after_batch_transfer({"image": images["image"].to(runtime.device)})
    step = training_step(model, _loss_of(model))

    def train_on(batches: Callable[[], Iterator[Batch]]) -> Callable[[], int]:
        def work() -> int:
            for batch in batches():
                step(batch)
            runtime.synchronize()
            return params.num_steps

        return work

    workloads: dict[str, Callable[[], int]] = {
        _MEMORY: train_on(lambda: iter([feature_batch] * params.num_steps)),
        _CACHE: train_on(lambda: _batches(loader, params.num_steps, runtime.device)),
        _ENCODER: train_on(lambda: iter([image_batch] * params.num_steps)),
        "reading the cache": lambda: sum(1 for _ in _batches(loader, params.num_steps, runtime.device)),
    }
    for work in workloads.values():
        work()  # warm-up
    timings = time_alternating(workloads, params.repeats)
    report.add_times(timings, "ms")
    report.ratios += [
        Ratio("step in memory / from the cache", timings[_MEMORY].over(timings[_CACHE]), 1 / 1.1),
        Ratio("step with the encoder / from the cache", timings[_ENCODER].over(timings[_CACHE])),
    ]


def _loss_of(model: DINOSAUR) -> Callable[[Batch], Tensor]:
    return lambda batch: model.losses(batch)["loss"]


def _batches(loader: SceneLoader, count: int, device: torch.device) -> Iterator[Batch]:
    """Load `count` batches, over as many epochs as needed."""
    endless = (batch for _ in iter(int, 1) for batch in loader)
    for batch in islice(endless, count):
        yield {key: value.to(device, non_blocking=True) for key, value in batch.items()}
