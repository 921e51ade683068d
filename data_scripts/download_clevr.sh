#!/usr/bin/env bash
# Download CLEVR v1.0 (18 GB) and unpack it: data_scripts/download_clevr.sh ROOT [options of download.py]
set -euo pipefail
exec python "$(dirname "${BASH_SOURCE[0]}")/download.py" clevr "$@"
