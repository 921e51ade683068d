"""Plot `datasets.png`, scenes of the datasets that are generated on the fly: `python media/datasets.py`."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from object_discovery.data import DATASETS
from object_discovery.visualization import Example, contact_sheet

VARIANTS: dict[str, list[str | None]] = {
    "tetrominoes": [None],
    "multi_dsprites": ["colored_on_grayscale", "colored_on_colored", "binarized"],
    "scenes": ["plain", "textured"],
}
NUM_SCENES = 4


def main() -> None:
    """Write a contact sheet of four scenes of each variant, each with its label map."""
    examples = []
    for name, variants in VARIANTS.items():
        for variant in variants:
            scenes = DATASETS[name](variant=variant, test_size=NUM_SCENES, num_workers=0).test_set
            for index in range(NUM_SCENES):
                scene = scenes[index]
                examples.append(Example(scene["image"].permute(1, 2, 0).numpy(), scene["mask"].numpy()))
    sheet = contact_sheet(examples, tile=112)
    Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(Path(__file__).parent / "datasets.png", optimize=True)


if __name__ == "__main__":
    main()
