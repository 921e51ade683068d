"""Cost of matching predicted to true objects, relative to a training step of set prediction."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from object_discovery.benchmarks.base_params import TrainingBenchmarkParams
from object_discovery.benchmarks.report import BenchmarkReport, Ratio
from object_discovery.benchmarks.runtime import Runtime, training_step
from object_discovery.benchmarks.timing import time_alternating
from object_discovery.errors import check_at_least
from object_discovery.metrics.average_precision import ATTRIBUTE_SIZES
from object_discovery.models.set_prediction import SetPrediction, match_objects

_TARGET = 20.0  # matching takes at most 5 % of a step


@dataclass(kw_only=True)
class SetPredictionBenchmarkParams(TrainingBenchmarkParams):
    """Settings of the benchmark of set prediction."""

    config: str = "set_prediction_scenes"
    """Configuration of the model."""
    batch_size: int = 32
    """Images in a training step."""
    num_objects: int = 10
    """Objects in an image."""
    num_steps: int = 5
    """Training steps in each repetition."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        check_at_least(self, 1, "num_objects")


def random_objects(batch_size: int, num_objects: int) -> Tensor:
    """Sample property vectors of objects `(B, O, 19)` in the layout of the datasets, without padding.

    Example:
        >>> random_objects(2, 3)[..., 3:].sum(-1)  # four one-hot properties, and the presence
        tensor([[5., 5., 5.],
                [5., 5., 5.]])
    """
    shape = (batch_size, num_objects)
    one_hot = [F.one_hot(torch.randint(size, shape), size).float() for size in ATTRIBUTE_SIZES]
    return torch.cat([torch.rand(*shape, 3), *one_hot, torch.ones(*shape, 1)], dim=-1)


def run(params: SetPredictionBenchmarkParams) -> BenchmarkReport:
    """Time training steps (loss, gradients, clipping and optimiser), and the matching alone."""
    runtime = Runtime.create(params.precision)
    model = SetPrediction.from_config(params.config).to(runtime.device)
    p, size = model.params, model.params.resolution
    images = torch.rand(params.batch_size, 3, size, size, device=runtime.device).to(memory_format=torch.channels_last)
    objects = random_objects(params.batch_size, params.num_objects).to(runtime.device)
    with torch.no_grad():
        predictions = model.predict(images)

    def loss() -> Tensor:
        with runtime.autocast():
            return model.losses({"image": images, "objects": objects})["loss"]

    steps = {
        "training step": training_step(model, loss),
        "matching": lambda: match_objects(predictions, objects, p.coordinate_weight, p.property_loss),
    }
    workloads = {name: runtime.workload(step, params.num_steps, params.batch_size) for name, step in steps.items()}
    timings = time_alternating(workloads, params.repeats)
    title = (
        f"set prediction, {p.num_slots} slots for {params.num_objects} objects, {size} x {size} pixels: "
        f"{runtime.describe()}"
    )
    report = BenchmarkReport(title, {**asdict(params), "precision": runtime.precision})
    report.add_times(timings)
    ratio = timings["training step"].over(timings["matching"])
    report.ratios.append(Ratio("training step / matching", ratio, _TARGET))
    return report
