"""Training speed of GNM: the library's step and a reference step of public implementations, on the same weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from object_discovery.benchmarks.base_params import TrainingBenchmarkParams
from object_discovery.benchmarks.reference_gnm import reference_loss
from object_discovery.benchmarks.report import BenchmarkReport, Ratio
from object_discovery.benchmarks.runtime import Runtime, training_step
from object_discovery.benchmarks.timing import time_alternating
from object_discovery.errors import check_argument
from object_discovery.models.gnm.model import GNM

_TARGET = 2.0


@dataclass(kw_only=True)
class GNMBenchmarkParams(TrainingBenchmarkParams):
    """Settings of the benchmark of GNM."""

    resolution: int = 128
    """Height and width of the images in pixels."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        size = self.resolution
        check_argument(size >= 8 and not size & (size - 1), "resolution", "a power of two from 8 on", size)


def run(params: GNMBenchmarkParams) -> BenchmarkReport:
    """Time training steps: loss, gradients, clipping and optimiser."""
    runtime = Runtime.create(params.precision)
    size = params.resolution
    # Without the alpha curriculum, whose steps are slightly cheaper.
    model = GNM.from_config("gnm_clevr6", resolution=size, glimpse_size=size // 2, forced_alpha_steps=0).to(
        runtime.device
    )
    images = torch.rand(params.batch_size, 3, size, size, device=runtime.device).to(memory_format=torch.channels_last)
    report = BenchmarkReport(
        f"GNM, {size} x {size} pixels: {runtime.describe()}", {**asdict(params), "precision": runtime.precision}
    )

    def library_loss() -> Tensor:
        with runtime.autocast():
            return model.losses({"image": images})["loss"]

    steps = {
        "reference": training_step(model, lambda: reference_loss(model, images)[0], fused=False),
        "reference without logging": training_step(
            model, lambda: reference_loss(model, images, logging=False)[0], fused=False
        ),
        "library": training_step(model, library_loss),
    }
    workloads = {name: runtime.workload(step, params.num_steps, params.batch_size) for name, step in steps.items()}
    timings = time_alternating(workloads, params.repeats)
    report.add_times(timings, prefix="training, ")
    library = timings["library"]
    report.ratios += [
        Ratio("training, reference / library", timings["reference"].over(library), _TARGET),
        Ratio("training, reference without logging / library", timings["reference without logging"].over(library)),
    ]
    return report
