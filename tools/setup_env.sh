#!/usr/bin/env bash
# Make, or only check, the Python environment of this repository.
#
#   bash tools/setup_env.sh [--stack onedl|openmmlab]
#                           [--level quickstart|full] [--python PATH]
#
# --stack   which pinned requirement file of tools/requirements/ (onedl).
# --level   quickstart: what classification needs, nothing to compile;
#           full: all four libraries, the compiled mmcv and the tests (full).
# --python  use this interpreter as it is: nothing is installed, only checked.
#
# Environment variables say the same: STACK, SPARSEFORMER_PYTHON, and
# SPARSEFORMER_VENV for the folder of the environment (.venv, or
# .venv-openmmlab for that stack). FORCE_CUDA=1 compiles mmcv's CUDA operators
# too (nothing here needs them). pip reads its own PIP_* variables as always.
#
# The only line on stdout is the path of the interpreter; progress goes to
# stderr. A run with nothing to do takes a fraction of a second, an
# interrupted one is continued, two at once wait for each other.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
stack=${STACK:-onedl} level=full interpreter=${SPARSEFORMER_PYTHON:-}

say() { printf '[setup_env] %s\n' "$*" >&2; }
die() { say "ERROR: $*"; exit 1; }

while [ $# -gt 0 ]; do
    case $1 in
        --stack|--level|--python)
            [ $# -ge 2 ] || die "$1 needs a value, see --help"
            case $1 in
                --stack) stack=$2 ;;
                --level) level=$2 ;;
                --python) interpreter=$2 ;;
            esac
            shift 2 ;;
        -h|--help) sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p;}' "$0"; exit ;;
        *) die "unknown argument '$1', see --help" ;;
    esac
done
# The names of mmengine, mmcv and mmpretrain and the minor versions of
# Python 3 for which everything pinned can be had.
case $stack in
    onedl) prefix=onedl- minors='10 11 12 13' ;;
    openmmlab) prefix='' minors='9 10 11' ;;
    *) die "--stack is 'onedl' or 'openmmlab', not '$stack'" ;;
esac
case $level in
    quickstart) need=classification ;;
    full) need=all ;;
    *) die "--level is 'quickstart' or 'full', not '$level'" ;;
esac

# ------------------------------------------- an interpreter the user names
cwd=${SPARSEFORMER_CWD:-$PWD}  # of whoever called
if [ -n "$interpreter" ]; then
    case $interpreter in /*) ;; */*) interpreter=$cwd/$interpreter ;; esac
    interpreter=$(command -v "$interpreter") ||
        die "the interpreter named by --python or SPARSEFORMER_PYTHON does not exist"
    say "using $interpreter as it is; nothing will be installed"
    "$interpreter" "$root/tools/check_env.py" --need classification >&2 ||
        die "cure what is marked above, or let this script make its own environment"
    echo "$interpreter"
    exit
fi

# ------------------------------------------------------ nothing left to do?
pins=$root/tools/requirements/$stack.txt
case $stack in openmmlab) venv=$root/.venv-openmmlab ;; *) venv=$root/.venv ;; esac
venv=${SPARSEFORMER_VENV:-$venv}
case $venv in /*) ;; *) venv=$cwd/$venv ;; esac
python=$venv/bin/python

# What the state of the environment depends on: the pins, this script, our
# own metadata, the checkout the editable install points to, the interpreter.
fingerprint() {
    { echo "$root"
      cat "$pins" "$root/setup.cfg" "$root/tools/setup_env.sh"
      "$python" -c 'import sys; print(sys.version, sys.executable)'; } | cksum
}
is_ready() {  # is_ready LEVEL
    [ -x "$python" ] && [ "$(cat "$venv/.ready-$1" 2>/dev/null)" = "$(fingerprint)" ]
}
finish_if_ready() {
    if is_ready full || { [ "$level" = quickstart ] && is_ready quickstart; }; then
        say "the environment is ready: $venv"
        echo "$python"
        exit 0
    fi
}
finish_if_ready

# ------------------------------------------------- one set-up run at a time
mkdir -p "$(dirname "$venv")"
if command -v flock >/dev/null; then
    exec 9>"$venv.lock"
    flock -n 9 || { say "another set-up is at work on $venv, waiting for it"; flock 9; }
    finish_if_ready
fi

# -------------------------------------------------------- the bare environment
find_python() {
    local candidate minor
    for candidate in python3 python3.11 python3.12 python3.10 python3.13 python3.9; do
        minor=$("$candidate" -c 'import sys; print(sys.version_info[1])' 2>/dev/null) || continue
        case " $minors " in *" $minor "*) command -v "$candidate"; return ;; esac
    done
    die "the $stack stack needs one of Python 3.${minors// /, 3.}; found:" \
        "$(python3 --version 2>&1 || true). Install one of them, or name an" \
        "environment of yours with --python"
}
if ! "$python" -m pip --version >/dev/null 2>&1; then
    base=$(find_python)
    say "making $venv with $("$base" --version)"
    "$base" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$base cannot make virtual environments: install its venv package" \
            "(Debian, Ubuntu: apt install python3-venv), or name an environment of" \
            "yours with --python"
    "$base" -m venv --clear "$venv" >&2
fi
rm -f "$venv"/.ready-*

# ---------------------------------------------------------------- the packages
SECONDS=0
trap 'say "interrupted; the same command continues"; exit 130' INT TERM
pip() { "$python" -m pip --disable-pip-version-check "$@" >&2; }
# torch's packages are gigabytes: uv unpacks them on all cores, pip on one. It is told
# where pip looks; pip takes over where it fails or cannot be had.
pip_setting() {
    "$python" -m pip config list 2>/dev/null | sed -n "s/^[^=]*\.$1='\(.*\)'\$/\1/p" | tail -n 1
}
install_torch() {
    local uv index extra
    uv=$(command -v uv) || { pip install -q uv && uv=$venv/bin/uv; } || true
    if [ -x "$uv" ] && [ -z "$(pip_setting no-index)" ]; then
        index=${UV_DEFAULT_INDEX:-$(pip_setting index-url)}
        extra=${UV_INDEX:-$(pip_setting extra-index-url)}
        env ${index:+UV_DEFAULT_INDEX="$index"} ${extra:+UV_INDEX="$extra"} "$uv" pip install \
            --python "$python" --index-strategy unsafe-best-match -c "$pins" "$@" >&2 && return
        say "uv could not install them, pip takes over"
    fi
    pip install -c "$pins" "$@"
}
mmcv=$(grep -E "^${prefix}mmcv==" "$pins") || die "$pins does not pin ${prefix}mmcv"
# "ok" for the pinned mmcv with operators that this torch can load.
ops_state() {
    "$python" -c "
import importlib.metadata, torch, mmcv._ext
name, version = '$mmcv'.split('==')
assert importlib.metadata.version(name) == version, 'another version'
print('ok')" 2>&1 | tail -n 1
}

say "build tools"
pip install 'pip>=23.1' -c "$pins" setuptools wheel ninja psutil packaging
say "torch and mmengine (torch is large: minutes on a slow line)"
install_torch torch torchvision "${prefix}mmengine" opencv-python

if [ "$level" = quickstart ]; then
    # mmcv leaves its operators out when it sees no torch: seconds instead
    # of ten minutes, and the same distribution, so that the full level
    # replaces it cleanly. Classification uses none of them. No cache: a
    # later build with operators must not find this wheel.
    say "mmcv without compiled operators"
    blinker=$(mktemp -d)
    echo 'raise ModuleNotFoundError("torch is hidden from this build")' >"$blinker/torch.py"
    PYTHONPATH=$blinker pip install --no-build-isolation --no-cache-dir --no-deps "$mmcv"
    rm -r "$blinker"
    say "mmpretrain and scikit-learn, which has the digits"
    pip install -c "$pins" "${prefix}mmpretrain" scikit-learn
else
    # A second try without the cache: pip may have kept a wheel that was
    # built without operators or for another torch.
    for cache in '' --no-cache-dir; do
        [ "$(ops_state)" != ok ] || break
        say "mmcv's operators: about ten minutes of compiling on two cores," \
            "unless pip finds a wheel"
        log=$venv/mmcv-build.log
        (   # mmcv would compile for CUDA as soon as it sees a GPU
            [ "${FORCE_CUDA:-0}" = 1 ] || export CUDA_VISIBLE_DEVICES=
            export MAX_JOBS=${MAX_JOBS:-$("$python" -c 'import os; print(os.cpu_count())')}
            "$python" -m pip install -v --no-build-isolation --no-deps \
                --force-reinstall $cache "$mmcv" 2>&1
        ) | tee "$log" | { grep --line-buffered -oE '\[[0-9]+/[0-9]+\]' >&2 || true; } || {
            tail -n 30 "$log" >&2
            die "mmcv did not build (it needs a C++ compiler); its whole output is in $log"
        }
    done
    [ "$(ops_state)" = ok ] || die "mmcv's operators do not load: $(ops_state)"
    say "the four libraries and the tests' tools"
    pip install -r "$pins"
fi
say "sparseformer_mm, editable"
pip install -q --no-build-isolation --no-deps -e "$root"

"$python" "$root/tools/check_env.py" --need "$need" >&2 ||
    die "cure what is marked above, then run this script again"
fingerprint >"$venv/.ready-$level"
say "the environment is ready after $SECONDS s: $venv"
echo "$python"
