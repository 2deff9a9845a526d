#!/usr/bin/env bash
# From a bare machine to a trained SparseFormer with one command:
#
#   bash tools/quickstart.sh
#       [--task classification|bootstrap|detection|instance|segmentation|video]
#       [--stack onedl|openmmlab] [--python PATH]
#
# Makes the environment, makes a data set of real handwritten digits (nothing
# is downloaded for it), trains a small model, tests it and draws where its
# tokens look. The task is classification if not given. bootstrap trains a vision
# transformer, makes a SparseFormer of it without labels, and trains the same one with
# labels in two ways, to compare. The others need the environment of all libraries
# (tools/setup_env.sh --level full). detection is of boxes by the tokens themselves,
# instance of boxes and masks by mmdet's Mask R-CNN on maps from the tokens. A second
# run reuses all that is there; after Ctrl-C the same command goes on from the last
# finished epoch.
set -euo pipefail

export SPARSEFORMER_CWD=${SPARSEFORMER_CWD:-$PWD}  # what a relative path is seen from
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case " $* " in *' -h '*|*' --help '*)
    sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p;}' tools/quickstart.sh
    exit ;;
esac
task=classification scenes='' digits=() figures=1 setup=() named=${SPARSEFORMER_PYTHON:-}
while [ $# -gt 0 ]; do
    case $1 in
        --task)
            [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; }
            task=$2
            shift 2 ;;
        *)
            [ "$1" != --python ] || named=yes
            setup+=("$1")
            shift ;;
    esac
done
case $task in
    classification)
        config=configs/classification/sparseformer-nano_1xb32_digits.py
        data=data/digits level=quickstart work=work_dirs/quickstart
        metric='accuracy/top1: [0-9.]+' means='% top-1' ;;
    bootstrap)
        folder=configs/classification/bootstrap scenes=classification
        config=$folder/sparseformer-bootstrapped-nano_1xb32_digits.py
        vit=$folder/vit-nano_1xb32_digits.py
        data=data/digits_bootstrap digits=(--size 48 --digit-size 20 24)
        level=quickstart work=work_dirs/quickstart_bootstrap
        metric='accuracy/top1: [0-9.]+' means='% top-1' ;;
    detection)
        config=configs/detection/sparseformer-nano-modern_1xb16_digits.py
        data=data/digits_detection level=full work=work_dirs/quickstart_detection
        metric='coco/bbox_mAP: [0-9.]+' means='mAP (0 to 1)' ;;
    instance)
        config=configs/detection/mask-rcnn_sparseformer-nano_1xb16_digits.py scenes=detection
        data=data/digits_detection level=full work=work_dirs/quickstart_instance figures=2
        metric='coco/(bbox|segm)_mAP: [0-9.]+' means='mAP of boxes and masks (0 to 1)' ;;
    segmentation)
        config=configs/segmentation/sparseformer-nano_1xb8_digits.py
        data=data/digits_segmentation level=full work=work_dirs/quickstart_segmentation
        metric='mIoU: [0-9.]+' means='mIoU (0 to 100)' ;;
    video)
        config=configs/video/sparseformer-nano_1xb16_digits.py
        data=data/digits_video level=full work=work_dirs/quickstart_video
        metric='acc/top1: [0-9.]+' means='top-1 (0 to 1)' ;;
    *)
        echo "--task is classification, bootstrap, detection, instance, segmentation or" \
            "video, not '$task'" >&2
        exit 2 ;;
esac
scenes=${scenes:-$task}  # the data set, and what the libraries have to be good for
step() { printf '\n=== %s (%d s since the start)\n' "$*" "$SECONDS"; }
trap 'printf "\nInterrupted; the same command continues.\n"; exit 130' INT TERM
SECONDS=0

# train CONFIG WORK_DIR [OPTION...]: unless that is done
train() {
    local config=$1 work=$2
    shift 2
    mkdir -p "$work"
    if [ -f "$work/finished" ]; then
        step "training: already finished (delete $work to train anew)"
        return
    fi
    step "training: $config"
    "$python" tools/train.py "$config" --work-dir "$work" --resume "$@" 2>&1 |
        {
            while IFS= read -r line; do
                printf '%s\n' "$line"
                if [[ $line == *'(train)'*'loss: '* ]]; then
                    step 'the first training iterations are through'
                    break
                fi
            done
            cat
        }
    date >"$work/finished"
}
# last WORK_DIR: its last checkpoint
last() { echo "$1/$(basename "$(cat "$1/last_checkpoint")")"; }
# measure CONFIG WORK_DIR: test the last checkpoint and set result
measure() {
    step "test: $2"
    "$python" tools/test.py "$1" "$(last "$2")" --work-dir "$2" 2>&1 |
        tee "$2/test.txt"
    result=$(grep -oE "$metric" "$2/test.txt" | tail -n "$figures") || {
        echo "ERROR: the test printed no '${metric%%: *}'; see $2/test.txt" >&2
        exit 1
    }
    result=$(sed 's/.*: //' <<<"$result" | paste -sd ' ')
    [ "$scenes" != classification ] || result=$(LC_ALL=C printf %.1f "$result")
}

step 'environment'
python=$(bash tools/setup_env.sh ${setup[@]+"${setup[@]}"} --level "$level")
if [ -n "$named" ] && [ "$scenes" != classification ]; then
    # a named interpreter was checked for classification only
    report=$("$python" tools/check_env.py --need "$scenes") || {
        echo "$report" >&2
        echo "ERROR: cure what is marked above, or name no interpreter" >&2
        exit 1
    }
fi
# the quick level's mmcv has no compiled operators; classification needs none
export PYTHONWARNINGS="ignore:Fail to import${PYTHONWARNINGS:+,$PYTHONWARNINGS}"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
environment_s=$SECONDS

step "data: $data"
"$python" tools/dataset_converters/make_digits.py "$data" --task "$scenes" \
    ${digits[@]+"${digits[@]}"}

training_start=$SECONDS
top=$work
if [ "$task" = bootstrap ]; then
    work=$top/student
    train "$vit" "$top/teacher"
    train "$folder/sparseformer-bootstrapped-nano_vit-nano_1xb32_digits.py" "$work"
    train "$config" "$top/scratch"
    "$python" tools/model_converters/vit_to_sparseformer.py "$vit" \
        "$(last "$top/teacher")" "$top/start.pth" --student "$config"
    train "$config" "$top/finetuned" --cfg-options "load_from=$top/start.pth"
else
    train "$config" "$work"
fi
training_s=$((SECONDS - training_start))
checkpoint=$(last "$work")

if [ "$task" = bootstrap ]; then
    measure "$vit" "$top/teacher"
    teacher=$result
    measure "$config" "$top/scratch"
    scratch=$result
    measure "$config" "$top/finetuned"
    finetuned=$result
fi
measure "$config" "$work"

step 'pictures'
case $task in
    classification | bootstrap)
        "$python" tools/visualization/vis_focus.py "$config" "$checkpoint" \
            "$data/val" --out "$work/pictures" --max-images 1000 --shuffle \
            --num-drawn 4 --json "$work/pictures/focus.json"
        picture=$work/pictures/sheet.png ;;
    detection | instance)
        "$python" tools/visualization/vis_focus.py "$config" "$checkpoint" \
            "$data/val" --out "$work/pictures"
        picture=$work/pictures ;;
    segmentation)
        "$python" tools/visualization/vis_focus.py "$config" "$checkpoint" \
            "$data/img_dir/val" --out "$work/pictures"
        picture=$work/pictures ;;
    video)
        "$python" tools/visualization/vis_focus.py "$config" "$checkpoint" \
            "$data/videos/val" --out "$work/pictures"
        picture=$work/pictures ;;
esac

if [ "$task" = bootstrap ]; then
    step 'cost, by the side of the transformer'
    "$python" tools/analysis_tools/benchmark.py "$vit" "$config" --shape 48 48 \
        --batch-size 100 --no-memory | tee "$top/cost.txt"
    cat <<END

teacher         $teacher $means: the vision transformer
bootstrapped    $result $means, $(LC_ALL=C awk "BEGIN {
    printf \"%.1f\", 100 * $result / $teacher }") % of the teacher's: no label was read
from scratch    $scratch $means: the same SparseFormer, as many epochs with labels
fine-tuned      $finetuned $means: the same start, as many epochs with labels
cost            $top/cost.txt
focus           $work/pictures/focus.json
END
fi
cat <<END

result          $result $means, on pictures of digits kept out of training
time            $SECONDS s: environment $environment_s s, training $training_s s
checkpoint      $checkpoint
log             $(grep -l '(train)' "$work"/*/*.log | tail -n 1)
picture         $picture
interpreter     $python  (source .venv/bin/activate makes it your python)
END
