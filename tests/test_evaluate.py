import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import adjusted_rand_score

from object_discovery import TetrominoesDataModule
from object_discovery.evaluate import data_defaults, main
from object_discovery.evaluation.protocols import PROTOCOLS, Protocol
from object_discovery.evaluation.scoring import SplitDataModule
from tests.checkpoints import save_tiny, tiny_model

QUICK = ["--num_workers", "0", "--accelerator", "cpu"]


def run(*arguments: object) -> None:
    main([*map(str, arguments), *QUICK])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def scores_by_hand(split: str, size: int, **options: int) -> dict[str, float]:
    """Score the same scenes one by one, with scikit-learn."""
    data = TetrominoesDataModule(resolution=16, num_workers=0)
    model, found = tiny_model(), []
    for index in range(size):
        scene = getattr(data, f"{split}_set")[index]
        image, mask = scene["image"][None] / 255, scene["mask"].numpy()
        with torch.no_grad():
            result = model(image, **options)
        assert result.image is not None
        labels, objects = result.labels[0].numpy(), mask > 0
        found.append(
            {
                "fg_ari": adjusted_rand_score(mask[objects], labels[objects]),
                "ari": adjusted_rand_score(mask.ravel(), labels.ravel()),
                "mse": float(((result.image - image) ** 2).mean()),
                "mse_sum": float(((result.image - image) ** 2).sum()),
            }
        )
    return {name: float(np.mean([scores[name] for scores in found])) for name in found[0]}


@pytest.mark.parametrize(
    ("arguments", "split", "options"),
    [
        ([], "test", {}),
        (["--split", "val", "--val_size", "7"], "val", {}),
        (["--split", "train", "--train_size", "7"], "train", {}),
        (["--num_slots", "2", "--num_iterations", "1"], "test", {"num_slots": 2, "num_iterations": 1}),
    ],
)
def test_scores_are_those_of_scikit_learn_image_by_image(
    arguments: list[str], split: str, options: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = save_tiny(tmp_path / "a.ckpt"), tmp_path / "new" / "scores.json"
    given = ["--checkpoint", checkpoint, "--dataset", "tetrominoes", "--test_size", "7", "--batch_size", "3"]
    run(*given, "--protocol", "clevrtex", "--out", out, *arguments)
    result = json.loads(out.read_text())
    expected = scores_by_hand(split, 7, **options)
    assert {name: result["scores"][name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert (result["num_scenes"], result["split"], result["protocol"]["name"]) == (7, split, "clevrtex")
    assert (result["dataset"]["dataset"], result["dataset"]["resolution"]) == ("tetrominoes", 16)
    assert result["settings"]["num_slots"] == options.get("num_slots", 3)
    assert result["settings"]["num_iterations"] == options.get("num_iterations", 1)
    printed = capsys.readouterr().out
    assert "7 scenes" in printed
    assert f"{result['scores']['fg_ari']:.4f}" in printed
    assert "n_skipped" in printed
    assert [path.name for path in out.parent.iterdir()] == ["scores.json"]


def test_a_protocol_scores_its_first_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "five", Protocol("five", "the first five", num_scenes=5))
    checkpoint, out = save_tiny(tmp_path / "a.ckpt"), tmp_path / "scores.json"
    given = ["--checkpoint", checkpoint, "--dataset", "tetrominoes", "--protocol", "five", "--out", out]
    for arguments, size in (([], 5), (["--test_size", "3"], 3), (["--test_size", "9"], 5)):
        run(*given, *arguments)
        result = json.loads(out.read_text())
        assert result["num_scenes"] == size
        assert result["scores"]["fg_ari"] == pytest.approx(scores_by_hand("test", size)["fg_ari"])


def test_scores_that_are_not_numbers_are_null_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {
        name: torch.full_like(value, torch.nan) if value.is_floating_point() else value
        for name, value in tiny_model().state_dict().items()
    }
    checkpoint, out = save_tiny(tmp_path / "a.ckpt", state_dict=state), tmp_path / "scores.json"
    run("--checkpoint", checkpoint, "--dataset", "tetrominoes", "--test_size", "2", "--out", out)
    assert json.loads(out.read_text())["scores"]["mse"] is None
    assert "none" in capsys.readouterr().out


def write_run(folder: Path, **settings: Any) -> Path:
    checkpoint = save_tiny(folder / "checkpoints" / "last.ckpt")
    values = {"model_type": "sa", "dataset": "tetrominoes", "num_slots": 3, "out": "elsewhere", **settings}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return checkpoint


def test_the_dataset_is_that_of_the_run(tmp_path: Path) -> None:
    checkpoint = write_run(tmp_path, batch_size=5, data_seed=3, test_size=100, val_size=50, resolution=99)
    defaults = data_defaults(str(checkpoint), None)
    expected = {"dataset": "tetrominoes", "batch_size": 5, "data_seed": 3, "val_size": 50, "resolution": 16}
    assert defaults == expected  # neither the run's `out` and `num_slots`, nor its limit on the test split
    assert data_defaults(str(checkpoint), "multi_dsprites") == {"dataset": "multi_dsprites", "resolution": 16}
    assert data_defaults(None, None) == {}


def test_a_run_needs_no_flag_but_the_checkpoint_and_flags_win(tmp_path: Path) -> None:
    checkpoint, out = write_run(tmp_path, data_seed=3), tmp_path / "scores.json"
    run("--checkpoint", checkpoint, "--test_size", "2", "--data_seed", "4", "--out", out)
    result = json.loads(out.read_text())
    assert (result["dataset"]["data_seed"], result["num_scenes"]) == (4, 2)


def test_params_next_to_the_checkpoint_count_and_those_of_another_folder_do_not(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    beside = save_tiny(tmp_path / "run" / "copy.ckpt")
    assert data_defaults(str(beside), None)["dataset"] == "tetrominoes"
    foreign = save_tiny(tmp_path / "run" / "other" / "copy.ckpt")
    with pytest.raises(ValueError, match="Expected argument `dataset`, as no params"):
        data_defaults(str(foreign), None)


def test_gaussian_slots_are_drawn_by_the_seed(tmp_path: Path) -> None:
    model = tiny_model(slot_init="gaussian")
    state, settings = model.state_dict(), dict(model.hparams)
    checkpoint = save_tiny(tmp_path / "a.ckpt", state_dict=state, hyper_parameters=settings)
    scores = []
    for seed in ("0", "0", "1"):
        out = tmp_path / "scores.json"
        run("--checkpoint", checkpoint, "--dataset", "tetrominoes", "--test_size", "2", "--out", out, "--seed", seed)
        scores.append(json.loads(out.read_text())["scores"]["mask_entropy"])
    assert scores[0] == scores[1] != scores[2]


def test_every_scene_is_loaded_once_and_in_order() -> None:
    data = TetrominoesDataModule(resolution=16, num_workers=0, batch_size=3, train_size=7)
    loaded = torch.cat([batch["mask"] for batch in SplitDataModule(data, "train").test_dataloader()])
    assert torch.equal(loaded, torch.stack([data.train_set[index]["mask"] for index in range(7)]))


def test_mistakes_end_in_one_line_and_leave_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = save_tiny(tmp_path / "a.ckpt")
    foreign = save_tiny(tmp_path / "foreign.ckpt", model_type="of_the_future")
    (tmp_path / "notes.txt").write_text("no checkpoint")
    before = sorted(tmp_path.rglob("*"))
    out, there = ["--out", tmp_path / "new" / "scores.json"], ["--checkpoint", checkpoint, "--dataset", "tetrominoes"]
    for message, arguments in (
        ("checkpoint", []),
        ("There is no checkpoint", ["--checkpoint", tmp_path / "nowhere.ckpt"]),
        ("not a checkpoint that can be read", ["--checkpoint", tmp_path / "notes.txt"]),
        ("'of_the_future', which this version does not know", ["--checkpoint", foreign, "--dataset", "tetrominoes"]),
        ("Expected argument `dataset`, as no params.yaml", ["--checkpoint", checkpoint]),
        ("`dataset` to be one of", ["--checkpoint", checkpoint, "--dataset", "tetrominos"]),
        ("nowhere does not exist", [*there, "--data_root", tmp_path / "nowhere"]),
        ("--slots", [*there, "--slots", "2"]),
        ("split", [*there, "--split", "tset"]),
        ("`num_slots` to be at most 3", [*there, "--num_slots", "4"]),
        ("`num_slots` to be from 1 to 254, but got 0", [*there, "--baseline", "grid", "--num_slots", "0"]),
        ("`num_slots` to be from 1 to 254, but got 255", [*there, "--baseline", "grid", "--num_slots", "255"]),
        ("`protocol` to be one of default, slot-attention", [*there, "--protocol", "slot"]),
        ("`resolution` to be the model's, 16, but got 64", [*there, "--resolution", "64"]),
        ("`batch_size` to be at least 1", [*there, "--batch_size", "0"]),
        ("`seed` to be from 0 to 2**32 - 1, but got -1", [*there, "--seed", "-1"]),
        ("Precision", [*there, "--precision", "7"]),
        ("devices", [*there, "--devices", "none"]),
        ("`min_objects`", [*there, "--min_objects", "9"]),
        ("`out` to be writable", [*there, "--out", tmp_path / "notes.txt" / "scores.json"]),
        ("is a folder", [*there, "--out", tmp_path]),
    ):
        given = arguments if "--out" in arguments else [*arguments, *out]
        assert message in fails(capsys, *given)
    assert sorted(tmp_path.rglob("*")) == before


def test_damaged_settings_of_a_run_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_run(tmp_path)
    (tmp_path / "params.yaml").write_text("dataset: [")
    assert "params.yaml is not YAML" in fails(capsys, "--checkpoint", checkpoint)
    (tmp_path / "params.yaml").write_text("dataset: no_such\n")
    assert "`dataset` to be one of" in fails(capsys, "--checkpoint", checkpoint)
