#!/usr/bin/env bash
# Download ClevrTex (24 GB) and unpack it: data_scripts/download_clevrtex.sh ROOT [--variant outd|camo|pbg|vbg|grassbg|all]
set -euo pipefail
exec python "$(dirname "${BASH_SOURCE[0]}")/download.py" clevrtex "$@"
