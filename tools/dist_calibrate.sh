#!/usr/bin/env bash
# Calibrate on several GPUs, or processes on a CPU: tools/dist_calibrate.sh CONFIG CHECKPOINT PROCESSES --out FILE [arguments of calibrate.py]
# On several machines, set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail
[[ $# -ge 3 ]] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }

source "$(dirname "${BASH_SOURCE[0]}")/dist_common.sh"
run_distributed "$3" "$tools/calibrate.py" "$1" "$2" --launcher pytorch "${@:4}"
