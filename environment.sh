# Sourced by run_gpu.sh, run_tpu.sh and tests/run.sh: the Python environment and the command line.
# Needs nothing but bash (3.2 or later) until a Python is found.
# shellcheck shell=bash
#
# Which environment: $VENV if given, else .venv in the checkout. An environment that is there is
# used as it is, unless $PYTHON names another minor version than .venv has: that one lives in
# .venv-3.X, so that both stacks of requirements.txt can stay side by side.

_here=${BASH_SOURCE[0]%environment.sh}
CHECKOUT=$(cd "${_here:-./}" && pwd)
readonly CHECKOUT

fail() {  # fail STATUS MESSAGE: one line on stderr, then the end
  printf '%s: %s\n' "${0##*/}" "$2" >&2
  exit "$1"
}

minor_version() {  # minor_version PYTHON [MODULES]: prints 3.X; fails unless it runs, 3.9-3.13
  "$1" -c "import sys${2:+, $2}
v = sys.version_info[:2]
sys.exit('not supported') if not (3, 9) <= v <= (3, 13) else sys.stdout.write('%d.%d' % v)" \
    2>/dev/null
}

can_make_venv() {  # Debian's python3 without python3-venv has no ensurepip
  minor_version "$1" 'venv, ensurepip' >/dev/null
}

find_python() {  # sets PYTHON_FOUND to an interpreter's name, or to 'uv'
  local minor candidate pyenv_root=/nonexistent
  if [ -n "${PYTHON:-}" ]; then
    can_make_venv "$PYTHON" || fail 2 "PYTHON=$PYTHON lacks the modules venv and ensurepip: \
install them (Debian: 'apt-get install python3-venv'), name another Python or unset PYTHON"
    PYTHON_FOUND=$PYTHON
    return
  fi
  if can_make_venv python3; then
    PYTHON_FOUND=python3
    return
  fi
  if command -v pyenv >/dev/null; then pyenv_root=$(pyenv root); fi
  for minor in 13 12 11 10 9; do
    for candidate in "python3.$minor" "$pyenv_root/versions/3.$minor".*/bin/python; do
      if can_make_venv "$candidate"; then
        PYTHON_FOUND=$candidate
        return
      fi
    done
  done
  command -v uv >/dev/null || fail 2 "no Python 3.9-3.13 with venv found: install one (for example \
'apt-get install python3 python3-venv', or uv), or name one with PYTHON=/path/to/python"
  PYTHON_FOUND=uv
}

choose_folder() {  # choose_folder DEFAULT: sets VENV to the environment's absolute path
  local given='' there
  if [ -n "${PYTHON:-}" ]; then
    given=$(minor_version "$PYTHON") || fail 2 "PYTHON=$PYTHON is no Python 3.9-3.13 that runs: \
name one that is, or unset PYTHON"
  fi
  if [ -z "${VENV:-}" ]; then
    VENV=$CHECKOUT/$1
    there=$(minor_version "$VENV/bin/python") || there=$given
    if [ -n "$given" ] && [ "$given" != "$there" ]; then VENV=$VENV-$given; fi
  fi
  case $VENV in /*) ;; *) VENV=$PWD/$VENV ;; esac
}

wanted_requirements() {  # wanted_requirements SYSTEM_VERSION: both files for this machine
  local files=("$CHECKOUT/requirements.txt" "$CHECKOUT/requirements-test.txt")
  if [ -n "$1" ]; then  # the TensorFlow that is there stays, and tf-keras follows it
    sed -e "s/^tensorflow==[^ ;]*/tensorflow==$1/" \
      -e "s/^tf-keras==[^ ;]*/tf-keras==${1%.*}.*/" "${files[@]}"
  elif command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
    sed -e 's/^tensorflow==/tensorflow[and-cuda]==/' "${files[@]}"
  else
    cat "${files[@]}"
  fi
}

make_venv() {  # make_venv [OPTION]: an empty environment in $VENV, made by $PYTHON_FOUND
  printf 'making %s with %s\n' "$VENV" "$PYTHON_FOUND" >&2
  if [ "$PYTHON_FOUND" = uv ]; then
    rm -rf "$VENV"
    uv venv --quiet --seed --python 3.12 "$VENV" ||
      fail 1 "uv could not make $VENV (its message is above)"
  else
    "$PYTHON_FOUND" -m venv --clear "$@" "$VENV" >&2 ||
      fail 1 "$PYTHON_FOUND could not make $VENV (its message is above)"
  fi
}

# set_up_environment [SYSTEM_VERSION]: makes the environment if need be and sets PY to its python.
# With SYSTEM_VERSION the TensorFlow of that version which $PYTHON already has stays in use.
#
# $VENV/.requirements holds what was installed, and is written last; $VENV.unfinished exists from
# before an environment is made until then. Only what carries one of the two is ever cleared.
set_up_environment() {
  local system=${1:-} default=.venv version wanted
  if [ -n "$system" ]; then default=.venv-tpu; fi
  choose_folder "$default"
  PY=$VENV/bin/python
  version=$(minor_version "$PY") || version=''
  if [ -z "$version" ] || [ -e "$VENV.unfinished" ]; then
    if [ -e "$VENV" ] && [ ! -e "$VENV.unfinished" ] && [ ! -e "$VENV/.requirements" ]; then
      fail 2 "$VENV is there and has no working Python 3.9-3.13: remove it, or set VENV"
    fi
    find_python
    { mkdir -p "${VENV%/*}" && : >"$VENV.unfinished"; } 2>/dev/null ||
      fail 2 "cannot make the folder $VENV: set VENV to one that can be made"
    make_venv ${system:+--system-site-packages}
    version=$(minor_version "$PY") || fail 1 "$PY does not run"
  fi
  wanted="# Python $version"$'\n'$(wanted_requirements "$system")
  if [ ! -e "$VENV/.requirements" ] || [ "$(<"$VENV/.requirements")" != "$wanted" ]; then
    printf 'installing requirements.txt and requirements-test.txt into %s (once; some minutes)\n' "$VENV" >&2
    rm -f "$VENV/.requirements"
    printf '%s\n' "$wanted" >"$VENV/.requirements.wanted"
    "$PY" -m pip install --disable-pip-version-check -r "$VENV/.requirements.wanted" >&2 ||
      fail 1 "installing into $VENV failed (pip's message is above): run this again to retry"
    mv "$VENV/.requirements.wanted" "$VENV/.requirements"
  fi
  rm -f "$VENV.unfinished"
  export PYTHONPATH="$CHECKOUT${PYTHONPATH:+:$PYTHONPATH}"
  export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
  # Kernels that NVIDIA's driver compiles for a card newer than TensorFlow's wheel: half an hour of work
  # for a Hopper card under TensorFlow 2.15, more than the driver's own small cache holds.
  export CUDA_CACHE_PATH=${CUDA_CACHE_PATH:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/meta_pseudo_labels/cuda}
  export CUDA_CACHE_MAXSIZE=${CUDA_CACHE_MAXSIZE:-4294967296}
}

# recipe_arguments [FLAGFILE] [--flag=value ...]: sets ARGUMENTS, what main.py gets. Paths stay
# relative to the caller's folder; only the default flagfile is the checkout's.
recipe_arguments() {
  local flagfile=$CHECKOUT/flags/digits_mpl.flags argument name given=''
  case ${1:-} in
    --flagfile=*) flagfile=${1#*=}; shift ;;
    '' | -*) ;;
    *) flagfile=$1; shift ;;
  esac
  [ -f "$flagfile" ] || fail 2 "no flagfile $flagfile: the recipes are in $CHECKOUT/flags"
  ARGUMENTS=("--flagfile=$flagfile")
  for argument in "$@"; do
    case ${argument%%=*} in --output_dir | -output_dir) given=yes ;; esac
  done
  if [[ $'\n'$(<"$flagfile") =~ $'\n'[[:space:]]*--?output_dir ]]; then given=yes; fi
  if [ -z "$given" ]; then
    name=${flagfile##*/}
    ARGUMENTS+=("--output_dir=runs/${name%.*}")
  fi
  ARGUMENTS+=("$@")
}

# run_main: becomes python, so that Ctrl-C and signals reach it. Without PYTHONSAFEPATH, `-m` would
# prefer a folder called meta_pseudo_labels in the caller's folder (Python 3.11 and later know it).
run_main() {
  PYTHONSAFEPATH=1 exec "$PY" -m meta_pseudo_labels.main "${ARGUMENTS[@]}"
}
