# Sourced by dist_train.sh, dist_test.sh and dist_calibrate.sh.
tools=$(dirname "${BASH_SOURCE[0]}")

run_distributed() {  # PROCESSES SCRIPT [ARGUMENTS]
  PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}" --nproc-per-node="$1" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${PORT:-29500}" \
    "${@:2}"
}
