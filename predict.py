"""Segment the objects of image files: the same as `object-discovery predict`."""

import sys

from object_discovery.cli.command import script

main = script("predict")

if __name__ == "__main__":
    sys.exit(main())
