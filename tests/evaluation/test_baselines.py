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


def red_and_blue_halves() -> torch.Tensor:
    """Make two images whose left half is red and right half blue."""
    images = torch.zeros(2, 3, SIZE, SIZE)
    images[:, 0, :, : SIZE // 2] = images[:, 2, :, SIZE // 2 :] = 1
    return images


@pytest.mark.parametrize("count", [1, 2, 4, 6, 7, 9, 11])
def test_blocks_are_rectangles_of_similar_area_that_cover_the_image(count: int) -> None:
    masks = block_masks(count, 60, 60)
    assert torch.equal(masks.sum(0), torch.ones(60, 60))
    areas = masks.sum((1, 2))
    assert areas.min() >= 0.5 * areas.max()
    for mask in masks:
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum()  # a rectangle


def test_seven_blocks_are_in_rows_of_2_2_and_3() -> None:
    masks = block_masks(7, 6, 6)
    assert [len(row.unique()) for row in masks.argmax(0)] == [2, 2, 2, 2, 3, 3]


def test_colours_and_positions_have_unit_variance() -> None:
    features = pixel_features(torch.rand(2, 3, 32, 32) * 0.1, 8)
    assert features[:, :, :3].var(1, correction=0).sum(1) == pytest.approx([1, 1], abs=1e-4)
    assert features[:, :, 3:].var(1, correction=0).sum(1) == pytest.approx([1, 1], abs=1e-4)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_return_a_discovery(name: Any) -> None:
    torch.manual_seed(0)
    discovery = Baseline(name, 4, SIZE)(torch.rand(2, 3, SIZE, SIZE))
    num_slots = 1 if name == "one" else 4
    assert discovery.masks.shape == (2, num_slots, SIZE, SIZE)
    assert discovery.slots.shape[:2] == (2, num_slots)
    torch.testing.assert_close(discovery.masks.sum(1), torch.ones(2, SIZE, SIZE))
    assert list(Baseline(name, 4, SIZE).networks()) == []


def test_kmeans_refuses_more_slots_than_points() -> None:
    encoder = make_encoder()
    points = encoder.grid[0] * encoder.grid[1]
    for case, resolution, maximum in ((encoder, SIZE, points), (None, 15, 15**2)):
        with pytest.raises(UserError, match=f"`num_slots` to be at most {maximum} for kmeans, but got 254"):
            Baseline("kmeans", 254, resolution, case)
    assert Baseline("kmeans", points, SIZE, encoder)(torch.rand(1, 3, SIZE, SIZE)).masks.shape[1] == points


def test_kmeans_separates_colours() -> None:
    torch.manual_seed(0)
    labels = Baseline("kmeans", 2, SIZE)(red_and_blue_halves()).labels[0]
    assert (labels[:, : SIZE // 2] == labels[0, 0]).all()
    assert (labels[:, SIZE // 2 :] == labels[0, -1]).all()
    assert labels[0, 0] != labels[0, -1]


def test_kmeans_of_cached_or_computed_features_has_the_inertia_of_scikit_learn() -> None:
    encoder, images = make_encoder(), torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    baseline, features = Baseline("kmeans", 3, SIZE, encoder), encoder(images)
    rows, columns = encoder.grid
    for batch in ({"image": images}, {"image": images, "features": features.half()}):
        torch.manual_seed(0)
        discovery, own_scores = baseline.score_batch(batch)
        assert own_scores == {}
        for masks, points in zip(discovery.masks, features.double().numpy(), strict=True):
            cells = masks.unflatten(2, (columns, -1)).unflatten(1, (rows, -1)).mean((2, 4)).argmax(0).flatten()
            clusters = [points[cells.numpy() == k] for k in range(3)]
            inertia = sum(((cluster - cluster.mean(0)) ** 2).sum() for cluster in clusters)
            assert inertia <= KMeans(3, n_init=20, random_state=0).fit(points).inertia_ * 1.05


def test_unknown_baselines_and_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="`baseline` to be one of grid, kmeans, one, but got 'best'"):
        Baseline("best", 3, SIZE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`images` to be \(B, 3, 16, 16\)"):
        Baseline("grid", 3, SIZE)(torch.rand(1, 3, 8, 8))


def run(*arguments: object) -> None:
    main([*map(str, arguments), *QUICK])


def test_report_has_the_scores_of_model_and_baselines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = write_coco(tmp_path / "coco"), tmp_path / "scores.json"
    checkpoint = save_tiny(tmp_path / "a.ckpt")
    arguments = ["--dataset", "coco", "--data_root", root, "--protocol", "dinosaur-320", "--out", out]
    run("--checkpoint", checkpoint, *arguments, "--baselines", "true")
    result, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert list(result["baselines"]) == list(BASELINES)
    for name in ("fg_ari", "mbo_i", "mbo_c", "corloc"):
        assert all(0 <= scores[name] <= 1 for scores in result["baselines"].values())
    assert "attention_mbo_c" in result["scores"]
    assert all(name in printed for name in ("sa", *BASELINES))
    assert result["baselines"]["one"]["active_slots"] == 1
    run("--baseline", "grid", "--num_slots", "3", "--resolution", "16", *arguments)
    baseline_result = json.loads(out.read_text())
    assert baseline_result["scores"] == pytest.approx(result["baselines"]["grid"])  # the model has three slots
    assert (baseline_result["checkpoint"], baseline_result["settings"]["num_slots"]) == (None, 3)
    run("--baseline", "one", "--checkpoint", checkpoint, *arguments)
    assert json.loads(out.read_text())["scores"] == pytest.approx(result["baselines"]["one"])


def test_number_of_slots_of_a_baseline_is_recommended_by_the_dataset(tmp_path: Path) -> None:
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
def test_errors_are_printed_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
