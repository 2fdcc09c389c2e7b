#!/usr/bin/env bash
# Sets up the same environment as run_gpu.sh and runs the tests: all of them in two processes, or the
# files named in one.
# usage: tests/run.sh [pytest's arguments]
set -euo pipefail
_here=${BASH_SOURCE[0]%run.sh}
# shellcheck source=environment.sh
source "${_here:-./}../environment.sh"

cd "$CHECKOUT"
set_up_environment
for argument in "$@"; do
  if [ -e "${argument%%::*}" ]; then exec "$PY" -m pytest "$@"; fi
done
exec "$PY" -m pytest tests -n 2 --dist loadfile "$@"
