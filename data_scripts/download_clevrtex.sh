#!/usr/bin/env bash
# Download ClevrTex (24 GB) and unpack it: data_scripts/download_clevrtex.sh ROOT (the same as `object-discovery download clevrtex ROOT`)
set -euo pipefail
exec python "$(dirname "${BASH_SOURCE[0]}")/download.py" clevrtex "$@"
