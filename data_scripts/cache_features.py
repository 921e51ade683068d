"""Write the features of a model's frozen encoder, so that training need not compute them again in every epoch.

Takes every flag of training, such as `--config dinosaur_coco --data_root COCO`; see `--help` for its own.
"""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments. None: the process's own.

    Returns:
        The exit status: 0, or 130 if interrupted; a mistake exits with 2.
    """
    try:
        from object_discovery.cache_features import main as run  # here, so that Ctrl-C is caught while it loads

        run(arguments)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
