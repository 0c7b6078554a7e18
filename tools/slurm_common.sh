# Sourced by slurm_train.sh, slurm_test.sh and slurm_calibrate.sh.
tools=$(dirname "${BASH_SOURCE[0]}")

run_in_slurm() {  # PARTITION JOB_NAME SCRIPT [ARGUMENTS]
  local gpus=${GPUS:-8} per_node=${GPUS_PER_NODE:-8} gres=()
  ((per_node < gpus)) || per_node=$gpus  # a job smaller than a node
  ((per_node)) && gres=(--gres="gpu:$per_node" --ntasks-per-node="$per_node")
  # shellcheck disable=SC2086  # SRUN_ARGS is several arguments
  PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" exec srun -p "$1" --job-name="$2" \
    "${gres[@]}" --ntasks="$gpus" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} "${PYTHON:-python}" -u "${@:3}"
}
