#!/usr/bin/env bash
# The whole GPU check in one go, 20 minutes at most: see benchmarks/gpu.py, or --help. PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" benchmarks/gpu.py "$@"
