#!/usr/bin/env bash
# Download CLEVR v1.0 (19 GB) and unpack it: data_scripts/download_clevr.sh ROOT (the same as `object-discovery download clevr ROOT`)
set -euo pipefail
exec python "$(dirname "${BASH_SOURCE[0]}")/download.py" clevr "$@"
