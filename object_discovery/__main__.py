"""`python -m object_discovery`: the command `object-discovery`."""

import sys

from object_discovery.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
