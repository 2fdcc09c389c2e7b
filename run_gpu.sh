#!/usr/bin/env bash
# Trains a recipe on this machine: on its GPUs if TensorFlow sees any, else on the CPU.
set -euo pipefail
_here=${BASH_SOURCE[0]%run_gpu.sh}
# shellcheck source=environment.sh
source "${_here:-./}environment.sh"

usage() {
  cat <<'USAGE'
usage: run_gpu.sh [FLAGFILE] [--flag=value ...]

Makes a Python environment if there is none yet, then trains the recipe in FLAGFILE
(flags/digits_mpl.flags if none is given) on the GPUs that TensorFlow sees, or else on the CPU.

  run_gpu.sh                                    the default recipe: digits, minutes on two cores
  run_gpu.sh --num_train_steps=100              the same with another value for a flag
  run_gpu.sh flags/paper/cifar10_4000_mpl.flags --data_dir=/data --output_dir=/runs/a
  run_gpu.sh --helpfull                         every flag

Results go to runs/<name of the flagfile> unless --output_dir says otherwise. Running the same
command again resumes from the last checkpoint in that folder (except the release's own two,
cifar10_4000_mpl and imagenet_10_percent_mpl, which empty it: add --noreset_output_dir).

Environment: PYTHON  the Python to use, 3.9-3.13 (default: python3, else the newest that is found)
             VENV    the environment's folder (default: .venv in the checkout)
USAGE
}

case ${1:-} in -h | --help) usage; exit 0 ;; esac
recipe_arguments "$@"
set_up_environment
run_main
