from pathlib import Path

import pytest
import torch

from object_discovery import GNM
from object_discovery.benchmark import main
from object_discovery.benchmarks.gnm import GNMBenchmarkParams, run
from object_discovery.benchmarks.reference_gnm import draw_boxes_one_by_one, reference_loss
from tests.models.tiny import TINY, make_images


def test_reference_has_the_loss_and_gradients_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, images = GNM(**TINY["gnm"], background_margin=None), make_images()
    monkeypatch.setattr(GNM, "global_step", 10**12)
    losses, gradients = [], []
    for is_library in (True, False):
        torch.manual_seed(1)
        model.zero_grad()
        loss = model.losses({"image": images})["loss"] if is_library else reference_loss(model, images)[0]
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=0)
    for gradient, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=2e-2, atol=1e-2 * float(expected.abs().max()) + 1e-5)


def test_reference_logs_loss_terms_on_request() -> None:
    model, images = GNM(**TINY["gnm"]), make_images()
    assert reference_loss(model, images)[1].keys() >= {"loss", "elbo", "nll", "kl_what"}
    assert reference_loss(model, images, logging=False)[1] == {}


def test_boxes_of_present_objects_are_drawn() -> None:
    boxes, presence = torch.tensor([[[0.5, 0.5, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]]), torch.tensor([[1.0, 0.0]])
    image = draw_boxes_one_by_one(torch.zeros(1, 3, 8, 8), boxes, presence)[0]
    expected = torch.zeros(8, 8)
    expected[2:7, 2:7] = 1
    expected[3:6, 3:6] = 0
    assert torch.equal(image[0], expected)
    assert not image[1:].any()


def test_report_compares_the_steps() -> None:
    report = run(GNMBenchmarkParams(resolution=16, batch_size=1, num_steps=1, repeats=1))
    assert [row.name for row in report.measurements] == [
        "training, reference",
        "training, reference without logging",
        "training, library",
    ]
    assert [ratio.target for ratio in report.ratios] == [2.0, None]
    assert all(row.median > 0 for row in report.measurements)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--batch_size=0", "at least 1"),
        ("--resolution=4", "a power of two from 8"),
        ("--resolution=100", "a power of two from 8"),
        ("--precision=16", "auto, bf16-mixed or"),
    ],
)
def test_invalid_settings_are_refused(
    flag: str, expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["gnm", flag, "--out", str(tmp_path / "a.json")])
    assert caught.value.code == 2
    assert expected in capsys.readouterr().err
