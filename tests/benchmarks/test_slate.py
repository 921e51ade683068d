import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor

from object_discovery import SLATE
from object_discovery.benchmark import main
from object_discovery.benchmarks.slate import SLATEBenchmarkParams, run
from object_discovery.errors import UserError
from tests.models.tiny import TINY


def write_config(path: Path, **settings: Any) -> str:
    path.write_text(yaml.safe_dump({"model_type": "slate", **TINY["slate"], **settings}))
    return str(path)


def test_command_measures_training_and_generation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = write_config(tmp_path / "tiny.yaml"), tmp_path / "result.json"
    tiny = ["--batch_size", "2", "--num_steps", "1", "--repeats", "2", "--num_prefixes", "4", "--resolution", "20"]
    main(["slate", "--config", config, *tiny, "--out", str(out)])
    values = json.loads(out.read_text())
    assert [ratio["target"] for ratio in values["ratios"]] == [3, 20]
    assert all(ratio["ratio"] > 0 for ratio in values["ratios"])
    names = [f"{work}, {kind}" for work in ("training", "generation") for kind in ("reference", "library")]
    assert [row["name"] for row in values["measurements"]] == names
    printed = capsys.readouterr().out
    assert "20 x 20 pixels, 25 tokens, codebook of 8, 2 blocks" in printed


def test_reference_generation_of_all_tokens(tmp_path: Path) -> None:
    config = write_config(tmp_path / "tiny.yaml")
    report = run(SLATEBenchmarkParams(config=config, batch_size=1, num_steps=1, repeats=1, num_prefixes=None))
    assert len(report.measurements) == 4


def test_training_step_trains_dvae_and_decoder_jointly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages: set[str] = set()
    losses = SLATE.losses

    def record_stage(model: SLATE, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        stages.add(model.stage)
        return losses(model, batch)

    monkeypatch.setattr(SLATE, "losses", record_stage)
    config = write_config(tmp_path / "tiny.yaml", dvae_steps=1000)
    run(SLATEBenchmarkParams(config=config, batch_size=1, num_steps=1, repeats=1, num_prefixes=1))
    assert stages == {"joint"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "`batch_size` to be at least 1, but got 0"),
        ({"resolution": 18}, "`resolution` to be a multiple of 4, but got 18"),
        ({"precision": "16-mixed"}, "`precision` to be auto, bf16-mixed or 32-true, but got '16-mixed'"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SLATEBenchmarkParams(**settings)


def test_invalid_configurations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`codebook_size` to be at least 2"):
        run(SLATEBenchmarkParams(config=write_config(tmp_path / "a.yaml", codebook_size=1)))
    with pytest.raises(UserError, match="of model type slate"):
        run(SLATEBenchmarkParams(config="sa_clevr6"))
