"""Store the features of a frozen encoder: the same as `object-discovery cache-features`."""

import sys

from object_discovery.cli.command import script

main = script("cache-features")

if __name__ == "__main__":
    sys.exit(main())
