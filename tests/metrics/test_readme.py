"""Every row of the tables in the README of the metrics is computed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from object_discovery.metrics import (
    SegmentationScores,
    active_slots,
    clevrtex_miou,
    corloc,
    duplicated_slots,
    mask_entropy,
)

README = Path(__file__).parents[2] / "object_discovery" / "metrics" / "README.md"
SIZE, NUM_SLOTS = 16, 9


def square(top: int, left: int, size: int = 4) -> Tensor:
    """Make the mask of a square in an image of 16 x 16 pixels."""
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[top : top + size, left : left + size] = True
    return mask


FIRST, SECOND = square(2, 2), square(8, 8)
BLANK = torch.zeros(SIZE, SIZE, dtype=torch.int64)
ONE = BLANK.masked_fill(FIRST, 1)
TWO = ONE.masked_fill(SECOND, 2)
DILATED = BLANK.masked_fill(square(1, 1, 6), 1).masked_fill(square(7, 7, 6), 2)
ROWS, COLUMNS = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
QUARTERS = 2 * (ROWS // 8) + COLUMNS // 8
GRID = 3 * (ROWS * 3 // SIZE) + COLUMNS * 3 // SIZE

SEGMENTATIONS: dict[str, tuple[Tensor, Tensor]] = {  # prediction, target
    "two objects, perfect masks": (TWO, TWO),
    "two objects, labels permuted": (torch.tensor([5, 0, 3])[TWO], TWO),
    "two objects, both one pixel too far to the right": (TWO.roll(1, 1), TWO),
    "two objects, both dilated by one pixel": (DILATED, TWO),
    "two objects, one merged with the background": (ONE, TWO),
    "two objects merged in one slot": (ONE.masked_fill(SECOND, 1), TWO),
    "two objects, one split over two slots": (TWO.masked_fill(SECOND & (COLUMNS >= 10), 3), TWO),
    "two objects, background split over four slots": (torch.where(TWO > 0, TWO, 3 + QUARTERS), TWO),
    "two objects, everything in one slot": (BLANK, TWO),
    "two objects, four quarters of the image": (QUARTERS, TWO),
    "two objects, 3 x 3 grid of blocks": (GRID, TWO),
    "one object, perfect mask": (ONE, ONE),
    "one object, everything in one slot": (BLANK, ONE),
    "one object split over two slots": (ONE.masked_fill(FIRST & (COLUMNS >= 4), 2), ONE),
    "one object that fills the image, one slot": (BLANK, BLANK + 1),
    "no object, everything in one slot": (BLANK, BLANK),
    "no object, background split over four slots": (QUARTERS, BLANK),
    "all pixels ignored": (TWO, BLANK + 255),
}

HARD = torch.nn.functional.one_hot(QUARTERS, 4).movedim(-1, 0).float()
COLLAPSES: dict[str, tuple[Tensor, Tensor]] = {  # slots (4, D), masks (4, H, W)
    "each slot a quarter of the image": (torch.eye(4), HARD),
    "everything in one slot": (torch.eye(4), torch.nn.functional.one_hot(BLANK, 4).movedim(-1, 0).float()),
    "four equal slots, equal masks": (torch.ones(4, 4), torch.full((4, SIZE, SIZE), 0.25)),
    "two pairs of equal slots, equal masks in a pair": (
        torch.eye(4)[[0, 0, 1, 1]],
        torch.stack([COLUMNS < 8, COLUMNS < 8, COLUMNS >= 8, COLUMNS >= 8]) / 2,
    ),
}


def table(heading: str) -> dict[str, list[str]]:
    """Read the rows of the table below a heading, with the case in the first column."""
    section = README.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("| ").split("|") for line in section.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines[2:]}


@pytest.mark.parametrize("case", SEGMENTATIONS)
def test_scores_of_degenerate_segmentations(case: str) -> None:
    pred, target = (labels[None] for labels in SEGMENTATIONS[case])
    metric = SegmentationScores(NUM_SLOTS)
    metric.update(pred, target)
    scores = {
        **metric.compute(),
        "corloc": corloc(pred, target, num_slots=NUM_SLOTS),
        "clevrtex": clevrtex_miou(pred, target, num_slots=NUM_SLOTS),
    }
    names = ("fg_ari", "ari", "mbo_i", "miou", "clevrtex", "corloc")
    assert table("Degenerate cases")[case] == [f"{float(scores[name]):.3f}" for name in names]


@pytest.mark.parametrize("case", COLLAPSES)
def test_signs_of_collapse(case: str) -> None:
    slots, masks = (tensor[None] for tensor in COLLAPSES[case])
    counts = [active_slots(masks), duplicated_slots(slots)]
    expected = [str(int(count)) for count in counts] + [f"{float(mask_entropy(masks)):.3f}"]
    assert table("Signs of collapse")[case] == expected


def test_tables_have_no_other_rows() -> None:
    assert table("Degenerate cases").keys() == SEGMENTATIONS.keys()
    assert table("Signs of collapse").keys() == COLLAPSES.keys()


def test_example_runs() -> None:
    example = README.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    namespace: dict[str, Any] = {}
    exec(example, namespace)
    assert namespace["scores"].compute().keys() == {"fg_ari", "ari", "mbo_i", "miou", "n_skipped"}
