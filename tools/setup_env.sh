#!/usr/bin/env bash
# Make, finish or update the environment that the Makefile runs in.
#
#   tools/setup_env.sh DIR lint    a virtual environment in DIR with ruff
#   tools/setup_env.sh DIR all     ... with everything in requirements.txt
#   tools/setup_env.sh DIR test    ... and a browser, where apt-get can be used, for the tests of the report
#
# Every step can be interrupted and repeated. A finished step leaves a stamp in DIR/.steps with the pins it
# installed, so a change of requirements.txt redoes the steps that it touches, and nothing else.
set -euo pipefail

venv=$(realpath -m "$1")
steps=ruff
[[ $2 == all || $2 == test ]] && steps='ruff packages mmcv'

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mmdisalign
python=$venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { echo "[setup] $*"; }
die() { echo "[setup] error: $*" >&2; exit 1; }

pins() {  # of one step, as requirements.txt has them
  case $1 in
    ruff) grep '^ruff==' "$root/requirements.txt" ;;
    packages) grep '==' "$root/requirements.txt" | grep -v '^mmcv==' ;;
    mmcv) grep -E '^(mmcv|torch)==' "$root/requirements.txt" ;;  # the ops are compiled for one torch
  esac
}

is_done() { [[ -x $python && -f $venv/.steps/$1 && $(<"$venv/.steps/$1") == "$(pins "$1")" ]]; }

use_checkout() {  # by `.venv/bin/python tools/train.py`, also when the clone has moved; make has PYTHONPATH
  [[ $venv == "$root"/* ]] || return 0  # an environment elsewhere may serve several clones
  local pth
  pth=$(echo "$venv"/lib/python3*/site-packages)/mmdisalign-checkout.pth
  [[ -f $pth && $(<"$pth") == "$root" ]] || echo "$root" >"$pth"
}

find_python() {
  local candidate
  for candidate in python3.11 python3; do
    if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  die 'needs Python 3.11 with venv, and neither python3.11 nor python3 is that
    (on Debian: apt-get install python3.11 python3.11-venv python3.11-dev).
    An environment that has OpenMMLab already can be used as it is: make ... PYTHON=/path/to/python'
}

make_venv() {
  if "$python" -m pip --version >/dev/null 2>&1; then
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
      die "$venv has $("$python" --version), not 3.11; remove it, or name another with VENV="
    return
  fi
  if [[ -d $venv && ! -f $venv/pyvenv.cfg && -n $(find "$venv" -type f -print -quit) ]]; then
    die "$venv exists and is not a virtual environment; name another with VENV="
  fi
  local base
  base=$(find_python)
  say "making $venv with $("$base" --version)"
  "$base" -m venv --clear "$venv"
}

install_ruff() { pip_install "$(pins ruff)"; }

install_packages() { pip_install -r <(pins packages); }

pip_install() { "$python" -m pip install -c "$root/requirements.txt" "$@"; }

version_of() { sed -n "s/^$1==//p" "$root/requirements.txt"; }

mmcv_works() {
  "$python" - "$(version_of mmcv)" >/dev/null 2>&1 <<'PY'
import sys
import mmcv, torch
from mmcv.ops import nms
nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
sys.exit(mmcv.__version__ != sys.argv[1])
PY
}

# pip's own cache is of no use for the ops: it would hand out a wheel that was compiled for another torch.
wheel_dir() { echo "$cache/mmcv-$(version_of mmcv)-torch-$(version_of torch)-cp311-$(ops)"; }

ops() {
  if command -v nvcc >/dev/null && nvidia-smi >/dev/null 2>&1; then echo cuda; else echo cpu; fi
}

install_mmcv() {
  mmcv_works && return
  local dir
  dir=$(wheel_dir)
  mkdir -p "$dir"
  exec 8>"$dir/lock"  # environments share what is built there
  wait_for_lock 8
  compgen -G "$dir/mmcv-*.whl" >/dev/null || build_mmcv "$dir"
  pip_install --no-deps --force-reinstall "$dir"/mmcv-*.whl
  mmcv_works || die "mmcv $(version_of mmcv) is installed but its ops do not run; remove $dir and try again"
}

build_mmcv() {  # in a directory that stays, so that an interrupted compile goes on where it was
  local dir=$1 log=$1/build.log name
  name=mmcv-$(version_of mmcv)
  command -v g++ >/dev/null || die 'mmcv must be compiled, and there is no g++'
  [[ -f $("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h ]] ||
    die 'mmcv must be compiled, and Python.h is missing (on Debian: apt-get install python3.11-dev)'
  if [[ ! -d $dir/src ]]; then
    "$python" -m pip download --no-deps --no-binary mmcv --no-build-isolation -d "$dir" "${name/-/==}"
    tar -xzf "$dir/$name.tar.gz" -C "$dir"
    # mmcv asks for C++17, the headers of this torch for C++20. Debug symbols only cost time.
    sed -i -e "s/-std=c++17/-std=c++20/" -e "s/\['cxx'\] = \[/&'-g0', /" "$dir/$name/setup.py"
    mv "$dir/$name" "$dir/src"
  fi
  say "compiling mmcv's ops, which takes about 20 minutes on 2 cores; the compiler's output goes to $log"
  : >"$log"
  show_progress "$log" 8>&- 9>&- &
  local ticker=$!
  trap "kill $ticker 2>/dev/null" EXIT
  (
    export PATH=$venv/bin:$PATH MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)}
    # With a GPU, but no toolkit to compile CUDA ops with, mmcv must not try.
    [[ $(ops) == cuda ]] || export CUDA_VISIBLE_DEVICES=
    "$python" -m pip wheel -v --no-deps --no-build-isolation --use-pep517 --no-cache-dir -w "$dir/built" "$dir/src"
  ) >"$log" 2>&1 || { tail -n 40 "$log" >&2; die "mmcv did not compile; all of the output is in $log"; }
  kill "$ticker"
  trap - EXIT
  mv "$dir/built"/mmcv-*.whl "$dir"
  rm -r "$dir/src"
}

show_progress() {  # LOG; ninja counts the files that are left to compile as [12/103]
  local start=$SECONDS elapsed next=30 count
  while sleep 1 && kill -0 $$; do
    elapsed=$((SECONDS - start))
    ((elapsed >= next)) || continue
    next=$((elapsed + 30))
    count=$(grep -oE '^ *\[[0-9]+/[0-9]+\]' "$1" | tail -n 1 | tr -d ' ') || count='none yet'
    say "$((elapsed / 60)) min $((elapsed % 60)) s, files compiled: $count"
  done
}

get_browser() {  # a failure is no reason not to test the rest: without a browser, its tests skip and say so
  command -v chromium >/dev/null && return
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    say 'there is no chromium, so the tests of the report in a browser will be skipped'
    return
  fi
  say 'installing chromium'
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } \
    >"$cache/chromium.log" 2>&1 || say "chromium was not installed; see $cache/chromium.log"
}

wait_for_lock() { flock -n "$1" || { say 'another make is setting up; waiting for it'; flock "$1"; }; }

trap 'say "interrupted; the same command goes on from here"; exit 130' INT
missing=''
for step in $steps; do is_done "$step" || missing+=" $step"; done
if [[ -n $missing ]]; then
  mkdir -p "$cache"
  exec 9>"$cache/${venv//\//-}.lock"
  wait_for_lock 9
  if [[ $missing == *mmcv* ]] && ! compgen -G "$venv/lib/python3*/site-packages/mmcv/_ext*" >/dev/null &&
    ! compgen -G "$(wheel_dir)/mmcv-*.whl" >/dev/null; then
    say "$venv has no OpenMMLab yet. Downloading torch and the rest takes some minutes (about 3 GB); then mmcv's"
    say 'C++ ops compile, for about 20 minutes on 2 cores, once. If interrupted, type the same again: it goes on.'
  fi
  make_venv
  mkdir -p "$venv/.steps"
  for step in $missing; do
    is_done "$step" && continue  # by the make that held the lock
    say "installing $step"
    "install_$step"
    pins "$step" >"$venv/.steps/$step"
  done
fi
[[ $2 != test ]] || get_browser
use_checkout
