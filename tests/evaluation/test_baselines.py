import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.cluster import KMeans

from object_discovery.errors import UserError
from object_discovery.evaluate import main
from object_discovery.evaluation.baselines import BASELINES, Baseline, block_masks, pixel_features
from tests.checkpoints import save_tiny
from tests.data.layouts.coco import write_coco
from tests.feature_cache.tiny_cache import SIZE, make_encoder

QUICK = ["--num_workers", "0", "--accelerator", "cpu"]


def halves() -> torch.Tensor:
    """A red and a blue half."""
    images = torch.zeros(2, 3, SIZE, SIZE)
    images[:, 0, :, : SIZE // 2] = images[:, 2, :, SIZE // 2 :] = 1
    return images


@pytest.mark.parametrize("count", [1, 2, 4, 6, 7, 9, 11])
def test_blocks_divide_the_image_evenly(count: int) -> None:
    masks = block_masks(count, 60, 60)
    assert torch.equal(masks.sum(0), torch.ones(60, 60))
    areas = masks.sum((1, 2))
    assert areas.min() >= 0.5 * areas.max()
    for mask in masks:
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum()  # a rectangle


def test_seven_blocks_are_rows_of_2_2_and_3() -> None:
    masks = block_masks(7, 6, 6)
    assert [len(row.unique()) for row in masks.argmax(0)] == [2, 2, 2, 2, 3, 3]


def test_colours_and_places_weigh_the_same() -> None:
    points = pixel_features(torch.rand(2, 3, 32, 32) * 0.1, 8)
    assert points[:, :, :3].var(1, correction=0).sum(1) == pytest.approx([1, 1], abs=1e-4)
    assert points[:, :, 3:].var(1, correction=0).sum(1) == pytest.approx([1, 1], abs=1e-4)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_give_what_models_give(name: Any) -> None:
    torch.manual_seed(0)
    found = Baseline(name, 4, SIZE)(torch.rand(2, 3, SIZE, SIZE))
    slots = 1 if name == "one" else 4
    assert found.masks.shape == (2, slots, SIZE, SIZE)
    assert found.slots.shape[:2] == (2, slots)
    torch.testing.assert_close(found.masks.sum(1), torch.ones(2, SIZE, SIZE))
    assert list(Baseline(name, 4, SIZE).networks()) == []


def test_kmeans_needs_as_many_points_as_slots() -> None:
    encoder = make_encoder()
    points = encoder.grid[0] * encoder.grid[1]
    for given, resolution, most in ((encoder, SIZE, points), (None, 15, 15**2)):
        with pytest.raises(UserError, match=f"`num_slots` to be at most {most} for kmeans, but got 254"):
            Baseline("kmeans", 254, resolution, given)
    assert Baseline("kmeans", points, SIZE, encoder)(torch.rand(1, 3, SIZE, SIZE)).masks.shape[1] == points


def test_kmeans_finds_what_differs_in_colour() -> None:
    torch.manual_seed(0)
    labels = Baseline("kmeans", 2, SIZE)(halves()).labels[0]
    assert (labels[:, : SIZE // 2] == labels[0, 0]).all()
    assert (labels[:, SIZE // 2 :] == labels[0, -1]).all()
    assert labels[0, 0] != labels[0, -1]


def test_kmeans_of_features_is_that_of_scikit_learn_given_or_computed() -> None:
    encoder, images = make_encoder(), torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    baseline, features = Baseline("kmeans", 3, SIZE, encoder), encoder(images)
    rows, columns = encoder.grid
    for batch in ({"image": images}, {"image": images, "features": features.half()}):
        torch.manual_seed(0)
        found, own = baseline.score_batch(batch)
        assert own == {}
        for masks, one in zip(found.masks, features, strict=True):
            cells = masks.unflatten(2, (columns, -1)).unflatten(1, (rows, -1)).mean((2, 4)).argmax(0).flatten()
            points = one.double().numpy()
            clusters = [points[cells.numpy() == k] for k in range(3)]
            error = sum(((held - held.mean(0)) ** 2).sum() for held in clusters)
            assert error <= KMeans(3, n_init=20, random_state=0).fit(points).inertia_ * 1.05


def test_unknown_baselines_and_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="`baseline` to be one of grid, kmeans, one, but got 'best'"):
        Baseline("best", 3, SIZE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`images` to be \(B, 3, 16, 16\)"):
        Baseline("grid", 3, SIZE)(torch.rand(1, 3, 8, 8))


def run(*arguments: object) -> None:
    main([*map(str, arguments), *QUICK])


def test_the_table_stands_next_to_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = write_coco(tmp_path / "coco"), tmp_path / "scores.json"
    checkpoint = save_tiny(tmp_path / "a.ckpt")
    given = ["--dataset", "coco", "--data_root", root, "--protocol", "dinosaur-320", "--out", out]
    run("--checkpoint", checkpoint, *given, "--baselines", "true")
    result, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert list(result["baselines"]) == list(BASELINES)
    for name in ("fg_ari", "mbo_i", "mbo_c", "corloc"):
        assert all(0 <= scores[name] <= 1 for scores in result["baselines"].values())
    assert "attention_mbo_c" in result["scores"]
    assert all(name in printed for name in ("sa", *BASELINES))
    assert result["baselines"]["one"]["active_slots"] == 1
    run("--baseline", "grid", "--num_slots", "3", "--resolution", "16", *given)
    alone = json.loads(out.read_text())
    assert alone["scores"] == pytest.approx(result["baselines"]["grid"])  # the model has three slots
    assert (alone["checkpoint"], alone["settings"]["num_slots"]) == (None, 3)
    run("--baseline", "one", "--checkpoint", checkpoint, *given)
    assert json.loads(out.read_text())["scores"] == pytest.approx(result["baselines"]["one"])


def test_a_baseline_has_the_datasets_number_of_slots(tmp_path: Path) -> None:
    root, out = write_coco(tmp_path / "coco"), tmp_path / "scores.json"
    run("--baseline", "grid", "--dataset", "coco", "--data_root", root, "--test_size", 1, "--out", out)
    result = json.loads(out.read_text())
    assert (result["dataset"]["resolution"], result["settings"]["num_slots"]) == (224, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected argument `checkpoint` to be a trained model, or `baseline` to be a name"),
        (["--baseline", "grid", "--dataset", "nothing"], "Expected argument `dataset` to be one of"),
        (["--baseline", "grid", "--feature_cache", "auto"], "to be none, as baseline has no frozen encoder"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
