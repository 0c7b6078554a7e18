#!/usr/bin/env bash
# Train under Slurm: [GPUS=8] tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of train.py]
# GPUS=8, GPUS_PER_NODE=8, CPUS_PER_TASK=5 and SRUN_ARGS='' are the defaults; GPUS_PER_NODE=0: no GPU.
set -euo pipefail
[[ $# -ge 3 ]] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }

source "$(dirname "${BASH_SOURCE[0]}")/slurm_common.sh"
run_in_slurm "$1" "$2" "$tools/train.py" "$3" --launcher slurm "${@:4}"
