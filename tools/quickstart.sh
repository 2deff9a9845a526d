#!/usr/bin/env bash
# From a bare machine to a trained SparseFormer with one command:
#
#   bash tools/quickstart.sh [--task classification|detection|instance|segmentation|video]
#                            [--stack onedl|openmmlab] [--python PATH]
#
# Makes the environment, makes a data set of real handwritten digits (nothing
# is downloaded for it), trains a small model, tests it and draws where its
# tokens look. The task is classification if not given; the others need the
# environment of all libraries (tools/setup_env.sh --level full). detection is of
# boxes by the tokens themselves, instance of boxes and masks by mmdet's Mask R-CNN
# on maps from the tokens. The segmentor starts from the detector, which is trained
# first if it is not there. A second run reuses all that is there; after Ctrl-C the
# same command goes on from the last finished epoch.
set -euo pipefail

export SPARSEFORMER_CWD=${SPARSEFORMER_CWD:-$PWD}  # what a relative path is seen from
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case " $* " in *' -h '*|*' --help '*)
    sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p;}' tools/quickstart.sh
    exit ;;
esac
task=classification scenes='' figures=1 setup=() named=${SPARSEFORMER_PYTHON:-}
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
        echo "--task is classification, detection, instance, segmentation or video, not '$task'" >&2
        exit 2 ;;
esac
scenes=${scenes:-$task}  # the data set, and what the libraries have to be good for
step() { printf '\n=== %s (%d s since the start)\n' "$*" "$SECONDS"; }
trap 'printf "\nInterrupted; the same command continues.\n"; exit 130' INT TERM
SECONDS=0

step 'environment'
python=$(bash tools/setup_env.sh ${setup[@]+"${setup[@]}"} --level "$level")
if [ -n "$named" ] && [ "$task" != classification ]; then
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

if [ "$task" = segmentation ] && [ ! -f work_dirs/quickstart_detection/epoch_6.pth ]; then
    step 'the detector that the segmentor starts from'
    bash tools/quickstart.sh --task detection ${setup[@]+"${setup[@]}"}
fi

step "data: $data"
"$python" tools/dataset_converters/make_digits.py "$data" --task "$scenes"

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
                if [[ $line == *'(train)'*'loss: '* ]]; then
                    step 'the first training iterations are through'
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
result=$(grep -oE "$metric" "$work/test.txt" | tail -n "$figures") || {
    echo "ERROR: the test printed no '${metric%%: *}'; see $work/test.txt" >&2
    exit 1
}
result=$(sed 's/.*: //' <<<"$result" | paste -sd ' ')
[ "$task" != classification ] || result=$(LC_ALL=C printf %.1f "$result")

step 'pictures'
case $task in
    classification)
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

cat <<END

result          $result $means, on pictures of digits kept out of training
time            $SECONDS s: environment $environment_s s, training $training_s s
checkpoint      $checkpoint
log             $(grep -l '(train)' "$work"/*/*.log | tail -n 1)
picture         $picture
interpreter     $python  (source .venv/bin/activate makes it your python)
END
