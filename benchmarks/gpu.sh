#!/usr/bin/env bash
# One prepared run on a CUDA GPU, ten minutes at most: bash benchmarks/gpu.sh --help
# PYTHON=/path/to/python picks another interpreter than python3.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname -- "${BASH_SOURCE[0]}")/gpu.py" "$@"
