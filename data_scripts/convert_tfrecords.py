"""Convert a TFRecord file to HDF5: the same as `object-discovery convert records`."""

import sys

from object_discovery.cli.command import script

main = script("convert", "records")

if __name__ == "__main__":
    sys.exit(main())
