"""Draw `datasets.png`, some scenes of every dataset that the library can draw: `python media/datasets.py`."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from object_discovery.data import DATASETS
from object_discovery.visualization.contact_sheet import Example, contact_sheet

DRAWN: dict[str, list[str | None]] = {
    "tetrominoes": [None],
    "multi_dsprites": ["colored_on_grayscale", "colored_on_colored", "binarized"],
    "scenes": ["plain", "textured"],
}


def main() -> None:
    """Write the picture: a row for each two scenes of a variant, each image with its label map."""
    examples = []
    for name, variants in DRAWN.items():
        for variant in variants:
            scenes = DATASETS[name](variant=variant, test_size=4, num_workers=0).test_set
            for index in range(4):
                scene = scenes[index]
                examples.append(Example(scene["image"].permute(1, 2, 0).numpy(), scene["mask"].numpy()))
    sheet = contact_sheet(examples, tile=112)
    Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(Path(__file__).parent / "datasets.png", optimize=True)


if __name__ == "__main__":
    main()
