#!/usr/bin/env bash
# The whole test suite in the environment of tools/setup_env.sh:
#
#   bash tools/run_tests.sh [--stack onedl|openmmlab] [--python PATH]
#                           [arguments of pytest]
#
#   bash tools/run_tests.sh                                # the default stack
#   bash tools/run_tests.sh --stack openmmlab tests/models   # the classic one
#
# WORKERS=1 runs the tests one after the other in this process; the default is
# a worker with one thread for each core, at most four.
set -euo pipefail

export SPARSEFORMER_CWD=${SPARSEFORMER_CWD:-$PWD}  # what a relative path is seen from
cd "$(dirname "${BASH_SOURCE[0]}")/.."
setup=()
while [ $# -gt 0 ]; do
    case $1 in
        --stack|--python)
            [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; }
            setup+=("$1" "$2")
            shift 2 ;;
        -h|--help)
            sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p;}' tools/run_tests.sh
            exit ;;
        *) break ;;
    esac
done
python=$(bash tools/setup_env.sh --level full ${setup[@]+"${setup[@]}"})
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

missing=$("$python" -c '
import importlib.util as util
names = "pytest", "xdist", "hypothesis", "sklearn"
print(*(name for name in names if not util.find_spec(name)))')
[ -z "$missing" ] || {
    echo "The tests need: $missing. Cure: $python -m pip install pytest" \
        "pytest-xdist hypothesis scikit-learn" >&2
    exit 1
}
cores=$("$python" -c 'import os; print(min(os.cpu_count() or 1, 4))')
workers=${WORKERS:-$cores}
if [ "$workers" -gt 1 ]; then
    # The threads of two workers would only wait for each other. Tests of one
    # file share what its fixtures made, so they stay together; files come in
    # the order of tests/conftest.py, slow ones first.
    export OMP_NUM_THREADS=1
    exec "$python" -m pytest -n "$workers" --dist loadfile \
        --no-loadscope-reorder "$@"
fi
exec "$python" -m pytest "$@"
