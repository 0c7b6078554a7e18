#!/usr/bin/env bash
# Calibrate under Slurm: [GPUS=8] tools/slurm_calibrate.sh PARTITION JOB_NAME CONFIG CHECKPOINT --out FILE [arguments of calibrate.py]
# GPUS=8, GPUS_PER_NODE=8, CPUS_PER_TASK=5 and SRUN_ARGS='' are the defaults; GPUS_PER_NODE=0: no GPU.
set -euo pipefail
[[ $# -ge 4 ]] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }

source "$(dirname "${BASH_SOURCE[0]}")/slurm_common.sh"
run_in_slurm "$1" "$2" "$tools/calibrate.py" "$3" "$4" --launcher slurm "${@:5}"
