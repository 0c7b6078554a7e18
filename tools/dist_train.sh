#!/usr/bin/env bash
# Train on several GPUs, or processes on a CPU: tools/dist_train.sh CONFIG PROCESSES [arguments of train.py]
# On several machines, set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail
[[ $# -ge 2 ]] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }

source "$(dirname "${BASH_SOURCE[0]}")/dist_common.sh"
run_distributed "$2" "$tools/train.py" "$1" --launcher pytorch "${@:3}"
