from pathlib import Path

import pytest
import torch

from object_discovery import GNM
from object_discovery.benchmark import main
from object_discovery.benchmarks.gnm import GNMBenchmarkParams, run
from object_discovery.benchmarks.reference_gnm import draw_frames, published_loss
from tests.models.tiny import TINY, make_images


def test_both_steps_have_the_same_loss_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, images = GNM(**TINY["gnm"], background_margin=None), make_images()
    monkeypatch.setattr(GNM, "global_step", 10**12)
    found = []
    for ours in (True, False):
        torch.manual_seed(1)
        model.zero_grad()
        loss = model.losses({"image": images})["loss"] if ours else published_loss(model, images)[0]
        loss.backward()  # type: ignore[no-untyped-call]
        found.append((loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (our_loss, our_gradients), (their_loss, their_gradients) = found
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-4, atol=0)
    for one, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=1e-2 * float(other.abs().max()) + 1e-5)


def test_all_is_read_and_drawn() -> None:
    model, images = GNM(**TINY["gnm"]), make_images()
    assert published_loss(model, images)[1].keys() >= {"loss", "elbo", "nll", "kl_what"}
    assert published_loss(model, images, extras=False)[1] == {}
    drawn = draw_frames(torch.zeros(1, 3, 8, 8), torch.tensor([[[0.5, 0.5, 0.0, 0.0]] * 2]), torch.tensor([[1.0, 0.0]]))
    expected = torch.zeros(8, 8)
    expected[2:7, 2:7] = 1
    expected[3:6, 3:6] = 0
    assert torch.equal(drawn[0, 0], expected)
    assert not drawn[0, 1:].any()


def test_a_report_compares_the_steps() -> None:
    report = run(GNMBenchmarkParams(resolution=16, batch_size=1, num_steps=1, repeats=1))
    assert [measure.name for measure in report.measures] == [
        "training, published",
        "training, published, the loss alone",
        "training, ours",
    ]
    assert [ratio.at_least for ratio in report.ratios] == [2.0, None]
    assert all(measure.median > 0 for measure in report.measures)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--batch_size=0", "at least 1"),
        ("--resolution=4", "a power of two from 8"),
        ("--resolution=100", "a power of two from 8"),
        ("--precision=16", "auto, bf16-mixed or"),
    ],
)
def test_mistakes(flag: str, expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["gnm", flag, "--out", str(tmp_path / "a.json")])
    assert caught.value.code == 2
    assert expected in capsys.readouterr().err
