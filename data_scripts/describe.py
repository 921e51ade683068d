"""Print what a file or folder of images holds, and draw some of its scenes.

The dataset is recognised by the layout: HDF5 and TFRecord files, the folders of CLEVR, ClevrTex, Sketchy, COCO and
VOC, and any other folder of images.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from object_discovery.cli.script import ScriptParser, exit_status


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments. None: the process's own.

    Returns:
        The exit status: 0, 2 if something is wrong with the arguments or files, or 130 if interrupted.
    """
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", metavar="ROOT", help="the file or folder")
    parser.add_argument("--dataset", metavar="NAME", help="name of the dataset, if it is not to be recognised")
    parser.add_argument("--variant", help="variant of the dataset")
    parser.add_argument("--out", metavar="SHEET.png", help="draw some scenes with their label maps in this file")
    parser.add_argument("--num", metavar="N", type=int, default=16, help="how many scenes to draw (default: 16)")
    parser.add_argument("--sample", metavar="N", type=int, default=256, help="scenes to count in (default: 256)")
    settings = vars(parser.parse_args(arguments))
    out = settings.pop("out")

    def work() -> None:
        from object_discovery.data.inspect.description import describe, show
        from object_discovery.files import check_writable
        from object_discovery.visualization.contact_sheet import contact_sheet
        from object_discovery.visualization.grid import save_png

        if out is not None:
            check_writable(Path(out).parent, "out")
        found = describe(**settings)
        show(found)
        if out is not None:
            save_png(contact_sheet(found.examples), out)
            print(f"{out}: {len(found.examples)} scenes")

    return exit_status(work, interrupted="interrupted")


if __name__ == "__main__":
    sys.exit(main())
