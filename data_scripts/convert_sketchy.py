"""Convert the episodes of Sketchy: the same as `object-discovery convert sketchy`."""

import sys

from object_discovery.cli.command import script

main = script("convert", "sketchy")

if __name__ == "__main__":
    sys.exit(main())
