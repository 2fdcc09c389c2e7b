#!/usr/bin/env bash
# Trains a recipe on a TPU VM, with the TensorFlow that the VM's image carries.
set -euo pipefail
_here=${BASH_SOURCE[0]%run_tpu.sh}
# shellcheck source=environment.sh
source "${_here:-./}environment.sh"

usage() {
  cat <<'USAGE'
usage: run_tpu.sh [FLAGFILE] [--dry_run] [--flag=value ...]

Run it on a TPU VM whose image carries TensorFlow (tpu-vm-tf-2.15.1-pjrt; tpu-vm-tf-2.15.1-pod-pjrt
on every host of a pod). It keeps that TensorFlow, which is built for TPUs, installs the rest of
requirements.txt and requirements-test.txt into .venv-tpu, and trains the recipe in FLAGFILE
(flags/digits_mpl.flags if none is given) with --use_tpu --strategy=tpu.

  run_tpu.sh flags/paper/cifar10_4000_mpl.flags --data_dir=gs://bucket/data --output_dir=runs/cifar10
  run_tpu.sh --dry_run                          print what would be done, and do nothing

Results go to runs/<name of the flagfile> unless --output_dir says otherwise.

Environment: PYTHON  the Python that has the VM's TensorFlow (default: python3)
             VENV    the environment's folder (default: .venv-tpu in the checkout)
USAGE
}

case ${1:-} in -h | --help) usage; exit 0 ;; esac

dry_run=''
given=()
for argument in "$@"; do
  case $argument in
    --dry_run) dry_run=yes ;;
    *) given+=("$argument") ;;
  esac
done
recipe_arguments ${given[@]+"${given[@]}"}
ARGUMENTS+=(--use_tpu --strategy=tpu)

export PYTHON=${PYTHON:-python3}
system=$("$PYTHON" -c 'from importlib import metadata; print(metadata.version("tensorflow"))' \
  2>/dev/null) || system=''

if [ -n "$dry_run" ]; then
  choose_folder .venv-tpu
  printf 'environment: %s, made with %s --system-site-packages\n' "$VENV" "$PYTHON"
  printf 'tensorflow:  %s\n' "${system:-none in $PYTHON, without which it would stop here}"
  printf 'command:     python -m meta_pseudo_labels.main'
  printf ' %q' "${ARGUMENTS[@]}"
  printf '\n'
  exit 0
fi

[ -n "$system" ] || fail 2 "$PYTHON has no TensorFlow: use a TPU VM image that carries one \
(tpu-vm-tf-2.15.1-pjrt), or name the Python that has it with PYTHON="
set_up_environment "$system"
run_main
