"""Download a published dataset: the same as `object-discovery download`."""

import sys

from object_discovery.cli.command import script

main = script("download")

if __name__ == "__main__":
    sys.exit(main())
