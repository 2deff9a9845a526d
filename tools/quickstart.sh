#!/usr/bin/env bash
# From a bare machine to a trained SparseFormer with one command:
#
#   bash tools/quickstart.sh [--stack onedl|openmmlab] [--python PATH]
#
# Makes the environment, makes a data set of real handwritten digits (nothing
# is downloaded for it), trains a small classifier, tests it and draws where
# its tokens look. A second run reuses all that is there; after Ctrl-C the
# same command goes on from the last finished epoch.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
config=configs/classification/sparseformer-nano_1xb32_digits.py
data=data/digits
work=work_dirs/quickstart

case " $* " in *' -h '*|*' --help '*)
    sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p;}' tools/quickstart.sh
    exit ;;
esac
step() { printf '\n=== %s (%d s since the start)\n' "$*" "$SECONDS"; }
trap 'printf "\nInterrupted; the same command continues.\n"; exit 130' INT TERM
SECONDS=0

step 'environment'
python=$(bash tools/setup_env.sh "$@" --level quickstart)
# classification needs none of the compiled operators that mmcv misses here
export PYTHONWARNINGS="ignore:Fail to import${PYTHONWARNINGS:+,$PYTHONWARNINGS}"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
environment_s=$SECONDS

step "data: $data"
"$python" tools/dataset_converters/make_digits.py "$data" --task cls

mkdir -p "$work"
training_start=$SECONDS
if [ -f "$work/finished" ]; then
    step "training: already finished (delete $work to train anew)"
else
    step "training: $config"
    "$python" tools/train.py "$config" --work-dir "$work" --resume 2>&1 |
        {
            while IFS= read -r line; do
                printf '%s\n' "$line"
                if [[ $line == *'Epoch(train)'* ]]; then
                    step 'the first 20 training iterations are through'
                    break
                fi
            done
            cat
        }
    date >"$work/finished"
fi
training_s=$((SECONDS - training_start))
checkpoint=$work/$(basename "$(cat "$work/last_checkpoint")")

step 'test'
"$python" tools/test.py "$config" "$checkpoint" --work-dir "$work" 2>&1 |
    tee "$work/test.txt"
accuracy=$(grep -oE 'accuracy/top1: [0-9.]+' "$work/test.txt" | tail -n 1)

step 'pictures'
"$python" tools/analysis_tools/focus_gain.py "$config" "$checkpoint" \
    --out "$work/pictures"

cat <<END

top-1 accuracy  $(printf %.1f "${accuracy##* }") % on 2,000 pictures of digits kept out of training
time            $SECONDS s: environment $environment_s s, training $training_s s
checkpoint      $checkpoint
log             $(grep -l 'Epoch(train)' "$work"/*/*.log | tail -n 1)
picture         $work/pictures/focus_gain.png
interpreter     $python  (source .venv/bin/activate makes it your python)
END
