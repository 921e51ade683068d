"""Summarise a dataset on the disk: the same as `object-discovery describe`."""

import sys

from object_discovery.cli.command import script

main = script("describe")

if __name__ == "__main__":
    sys.exit(main())
