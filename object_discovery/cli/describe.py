"""`object-discovery describe`: summarise a dataset on the disk."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from object_discovery.cli.flags import FlagParser, one_line_errors


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: The arguments. None: the process's own.

    Raises:
        SystemExit: With status 2 after a mistake, or if a file could not be read.
    """
    parser = FlagParser(
        "object-discovery describe",
        "Print the dataset, the number and size of its images, its splits and its numbers of objects. It is recognised "
        "by its layout: HDF5 and TFRecord files, the folders of CLEVR, ClevrTex, Sketchy, COCO and VOC, and any other "
        "folder of images.",
        "ROOT",
    )
    parser.add_argument("root", metavar="ROOT", help="the file or folder")
    parser.add_argument("--out", metavar="SHEET.png", help="write a contact sheet of scenes with their label maps")
    parser.add_argument("--num", metavar="N", type=int, default=16, help="scenes in the contact sheet")
    parser.add_argument("--sample", metavar="N", type=int, default=256, help="scenes to count the objects of")
    parser.add_argument("--dataset", metavar="NAME", help="name of the dataset; by default recognised")
    parser.add_argument("--variant", metavar="NAME", help="variant of the dataset")
    settings = vars(parser.parse_args(sys.argv[1:] if argv is None else list(argv)))
    out = settings.pop("out")
    with one_line_errors(ValueError):
        from object_discovery.data.inspect import description
        from object_discovery.files import check_writable
        from object_discovery.visualization.contact_sheet import contact_sheet
        from object_discovery.visualization.grid import save_png

        if out is not None:
            check_writable(Path(out).parent, "out")
        result = description.describe(**settings)
        description.show(result)
        if out is not None:
            save_png(contact_sheet(result.examples), out)
            print(f"{out}: {len(result.examples)} scenes")
    if result.broken:
        raise SystemExit(2)
