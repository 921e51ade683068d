from pathlib import Path

import pytest
import torch
from PIL import Image

from object_discovery import SLATE
from object_discovery.cli.compose import main
from object_discovery.discovery import Discovery
from object_discovery.errors import UserError
from object_discovery.prediction.compose import composition_grid, edited_slots, main_objects
from tests.checkpoints import save_tiny
from tests.models.tiny import SIZE, TINY, make_images, make_model, make_trainer


def make_slate() -> SLATE:
    """Return a model whose images depend on the slots."""
    model = make_model("slate")
    assert isinstance(model, SLATE)
    with torch.no_grad():
        for layer in (model.decoder.to_logits, model.decoder.from_slots):
            layer.weight *= 10
    return model.eval()


def save_slate(path: Path) -> Path:
    trainer = make_trainer(1)
    trainer.strategy.connect(make_slate())
    trainer.save_checkpoint(path, weights_only=True)
    return path


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (20, 20), (number * 60, 100, 200 - number * 50)).save(folder / f"{number}.png")
    return folder


def test_main_object_is_the_largest_segment_except_the_background() -> None:
    labels = torch.tensor([[[2, 2, 2, 2], [2, 0, 1, 2], [2, 1, 1, 2], [2, 2, 2, 2]], [[0, 0, 1, 0]] * 4])
    masks = torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    assert main_objects(Discovery(torch.zeros(2, 3, 4), masks)).tolist() == [1, 1]


def test_edited_slots_are_removed_exchanged_and_added() -> None:
    slots = torch.arange(9.0).view(3, 3, 1)
    edited = edited_slots(slots, torch.tensor([0, 2, 1]))
    edited_lists = {name: value.flatten(1).tolist() for name, value in edited.items()}
    assert edited_lists == {
        "removed": [[1, 2], [3, 4], [6, 8]],
        "exchanged": [[5, 1, 2], [3, 4, 7], [6, 0, 8]],
        "added": [[0, 1, 2, 5], [3, 4, 5, 7], [6, 7, 8, 0]],
    }
    assert slots.flatten().tolist() == list(range(9))


def test_grid_has_a_column_for_each_composition() -> None:
    model, images = make_slate(), make_images(2)
    grid = composition_grid(model, images)
    scale, columns = 128 // SIZE, 2 + 3 + 1 + 3
    assert grid.shape[2] == columns * (128 + 4) + 4
    rows = grid[:, -2 * 132 - 4 :]
    tiles = [
        [rows[:, 4 + 132 * row :, 4 + 132 * column :][:, :128:scale, :128:scale] for column in range(columns)]
        for row in range(2)
    ]
    discovery = model(images)
    objects = main_objects(discovery)
    composed = {name: model.compose(slots) for name, slots in edited_slots(discovery.slots, objects).items()}
    for row in range(2):
        mask = discovery.masks[row, objects[row]]
        expected = [images[row], model.reconstruct(images)[row], images[row] * mask + 1 - mask]
        expected += [composed[name][row] for name in ("removed", "exchanged", "added")]
        for column, image in zip((0, 1, 5, 6, 7, 8), expected, strict=True):
            assert torch.equal(tiles[row][column], (image * 255).round().byte()), column


@pytest.mark.parametrize("fit", [[], ["--fit", "squash"]])
def test_the_command_writes_the_grid(fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, out = save_slate(tmp_path / "slate.ckpt"), tmp_path / "out"
    images = write_images(tmp_path / "in", 3)
    main([str(images / "0.png"), str(images / "2.png"), "--checkpoint", str(checkpoint), "--out", str(out), *fit])
    assert capsys.readouterr().out == f"{out / 'composed.png'}\n"
    assert [path.name for path in out.iterdir()] == ["composed.png"]
    with Image.open(out / "composed.png") as picture:
        assert picture.width == (2 + TINY["slate"]["num_slots"] + 4) * 132 + 4


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """Run the command, which must exit with status 2, and return its lines on standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as error:
        main([str(argument) for argument in arguments])
    assert error.value.code == 2
    return capsys.readouterr().err.splitlines()


def test_damaged_images_are_skipped_and_the_status_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, out = write_images(tmp_path / "in", 3), tmp_path / "out"
    options = ["--out", out, "--checkpoint", save_slate(tmp_path / "slate.ckpt")]
    damaged = images / "0.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    (line,) = fails(capsys, images, *options)
    assert line.startswith("warning: skipped: ")
    assert "0.png" in line
    assert (out / "composed.png").exists()
    (images / "1.png").write_bytes(damaged.read_bytes())
    assert "at least 2 images to compose scenes of, but got 1" in fails(capsys, images, *options)[-1]


def test_mistakes_are_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, out = write_images(tmp_path / "in", 2), tmp_path / "out"
    slate, other = save_slate(tmp_path / "slate.ckpt"), save_tiny(tmp_path / "sa.ckpt")
    for arguments, expected in (
        ([images, "--checkpoint", other], f"but {other} is of model type sa"),
        ([images / "0.png", "--checkpoint", slate], "Expected at least 2 images to compose scenes of, but got 1"),
        ([images, "--checkpoint", slate, "--num_slots", "1"], "at least 2 slots to compose scenes of, but got 1"),
        ([images], "`checkpoint` to be a trained model"),
        (["--checkpoint", slate], "images"),
        ([images, "--checkpoint", slate, "--out", slate], "no folder"),
    ):
        (line,) = fails(capsys, "--out", out, *arguments)
        assert line.startswith("error: ")
        assert expected in line
    assert not out.exists()
    with pytest.raises(UserError, match="at least 2 images"):
        composition_grid(make_slate(), make_images(1))
