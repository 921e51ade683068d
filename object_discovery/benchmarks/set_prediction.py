"""What the matching of predicted to true objects costs in a training step of set prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from object_discovery.benchmarks.report import BenchmarkReport, Ratio
from object_discovery.benchmarks.timing import check_precision, time_in_turn
from object_discovery.errors import check_at_least
from object_discovery.metrics.average_precision import ATTRIBUTE_SIZES
from object_discovery.models.set_prediction import SetPrediction, match_objects
from object_discovery.training.trainer import choose_precision

_BAR = 20.0  # matching shall take less than 5 % of a step


@dataclass
class SetPredictionBenchmarkParams:
    """What to measure, and how long."""

    config: str = "set_prediction_scenes"
    """Configuration of the model."""
    batch_size: int = 32
    """Images in a training step."""
    num_objects: int = 10
    """Objects in an image."""
    num_steps: int = 5
    """Training steps in a repetition."""
    repeats: int = 5
    """Repetitions of everything; they alternate."""
    precision: str = "auto"
    """Of the training step: `bf16-mixed`, `32-true`, or auto for the former where the hardware multiplies bfloat16."""
    out: str | None = None
    """JSON file for the result. None: printed only."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        check_at_least(self, 1, "batch_size", "num_objects", "num_steps", "repeats")
        check_precision(self.precision)


def random_objects(batch_size: int, num_objects: int) -> Tensor:
    """Draw rows of properties `(B, O, 19)` as datasets have them, all of them objects.

    Example:
        >>> random_objects(2, 3)[..., 3:].sum(-1)  # four properties are one-hot, and each is there
        tensor([[5., 5., 5.],
                [5., 5., 5.]])
    """
    shape = (batch_size, num_objects)
    one_hot = [F.one_hot(torch.randint(size, shape), size).float() for size in ATTRIBUTE_SIZES]
    return torch.cat([torch.rand(*shape, 3), *one_hot, torch.ones(*shape, 1)], dim=-1)


def run(params: SetPredictionBenchmarkParams) -> BenchmarkReport:
    """Measure training steps (losses, gradients, clipping and the optimiser) beside the matching alone."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = choose_precision(params.precision, "auto")
    model = SetPrediction.from_config(params.config).to(device)
    p, size = model.params, model.params.resolution
    images = torch.rand(params.batch_size, 3, size, size, device=device).to(memory_format=torch.channels_last)
    objects = random_objects(params.batch_size, params.num_objects).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6, fused=True)
    with torch.no_grad():
        pred = model.predict(images)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=chosen == "bf16-mixed"):
            loss = model.losses({"image": images, "objects": objects})["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    def match() -> None:
        match_objects(pred, objects, p.coordinate_weight, p.property_loss)

    ways = {"training step": step, "matching": match}
    timings = time_in_turn({name: _work(way, params, device) for name, way in ways.items()}, params.repeats)
    title = (
        f"set prediction, {p.num_slots} slots for {params.num_objects} objects, {size} x {size} pixels: "
        f"{chosen} on {device.type}, {torch.get_num_threads()} threads"
    )
    report = BenchmarkReport(title, {**asdict(params), "precision": chosen})
    report.add_times(timings)
    ratio = timings["training step"].over(timings["matching"])
    report.ratios.append(Ratio("training step / matching", ratio, _BAR))
    return report


def _work(way: Callable[[], None], params: SetPredictionBenchmarkParams, device: torch.device) -> Callable[[], int]:
    def work() -> int:
        for _ in range(params.num_steps):
            way()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return params.num_steps * params.batch_size

    way()  # the first allocates, and chooses kernels
    return work
