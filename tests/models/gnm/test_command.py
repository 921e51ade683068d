"""GNM on the command line: train, evaluate, generate."""

import json
from pathlib import Path

import pytest

from object_discovery import evaluate, train
from object_discovery.cli.generate import main as generate
from object_discovery.errors import UserError
from tests.models.tiny import TINY, make_data, make_model, make_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:(Experiment logs|Checkpoint) directory"),
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
]


def test_train_evaluate_and_generate(tmp_path: Path) -> None:
    flags = {**TINY["gnm"], "model_type": "gnm", "dataset": "tetrominoes", "out": tmp_path / "run", "max_steps": 2}
    flags |= {"batch_size": 2, "val_size": 2, "num_workers": 0, "accelerator": "cpu", "precision": "bf16-mixed"}
    train.main([f"--{name}={value}" for name, value in flags.items()])
    assert list((tmp_path / "run" / "images").glob("*.png"))
    checkpoint, out = str(tmp_path / "run" / "checkpoints" / "last.ckpt"), tmp_path / "scores.json"
    arguments = ["--checkpoint", checkpoint, "--out", str(out), "--test_size", "3", "--accelerator", "cpu"]
    evaluate.main([*arguments, "--protocol", "clevrtex", "--particles", "2", "--num_workers", "0"])
    result = json.loads(out.read_text())
    assert result["scores"].keys() >= {
        *("clevrtex_miou", "mse_sum", "fg_ari", "elbo", "count_accuracy", "log_likelihood")
    }
    assert result["settings"]["particles"] == 2
    generate(["--num", "2", "--checkpoint", checkpoint, "--out", str(tmp_path / "generated")])
    assert (tmp_path / "generated" / "generated.png").is_file()


def test_half_precision_is_refused_before_any_file_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {**TINY["gnm"], "model_type": "gnm", "out": tmp_path / "run", "accelerator": "cpu", "num_workers": 0}
    with pytest.raises(SystemExit) as caught:
        train.main([*(f"--{name}={value}" for name, value in flags.items()), "--precision=bf16-true"])
    assert caught.value.code == 2
    assert "`precision` to be a mixed one or 32-true for gnm, but got bf16-true" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="for gnm, but got bf16-true"):
        make_trainer(1, precision="bf16-true").fit(make_model("gnm"), make_data())
