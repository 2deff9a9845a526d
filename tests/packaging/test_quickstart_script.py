"""The quick start's own decisions, with an interpreter that only pretends to train."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Optional

import pytest

ROOT = Path(__file__).parents[2]

# Stands for a named interpreter that has mmpretrain and nothing else: check_env.py
# runs for real, without any installed package. Notes its calls in $FAKE_CALLS.
FAKE_PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$FAKE_CALLS"
case "$*" in
    *'check_env.py --need classification') ;;
    *'check_env.py --need '*)
        [ -n "$FAKE_COMPLETE" ] || exec REAL -I -S "$@"
        echo 'everything works' ;;
    *train.py*)
        mkdir -p "$4/1" && echo "$4/epoch_1.pth" >"$4/last_checkpoint"
        echo 'Epoch(train) [1][1/1] loss: 1' | tee "$4/1/1.log" ;;
    *test.py*/teacher*) echo 'accuracy/top1: 97.04' ;;
    *test.py*) echo "$FAKE_METRICS" ;;
esac
"""
METRICS = (
    'accuracy/top1: 11.1  '  # of a batch; the last one counts
    'accuracy/top1: 95.1234  coco/bbox_mAP: 0.7560  coco/bbox_mAP_50: 0.9750  '
    'coco/segm_mAP: 0.7710  coco/segm_mAP_50: 0.9640  '
    'aAcc: 98.0000  mIoU: 77.2500  mAcc: 88.0000  acc/top1: 0.9125  acc/mean1: 0.9'
)

pytestmark = pytest.mark.skipif(
    not shutil.which('bash'), reason='the script needs bash'
)


class Checkout:
    """A folder with the scripts of this one and a fake interpreter."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / 'checkout'
        self.log = folder / 'calls'
        tools = self.root / 'tools'
        shutil.copytree(ROOT / 'tools/requirements', tools / 'requirements')
        for name in ('quickstart.sh', 'setup_env.sh', 'check_env.py'):
            shutil.copy(ROOT / 'tools' / name, tools)
        self.python = folder / 'python'
        self.python.write_text(FAKE_PYTHON.replace('REAL', sys.executable))
        self.python.chmod(0o755)

    def run(self, *arguments: str, cwd: Optional[Path] = None, **environment: str):
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith('SPARSEFORMER_') and key != 'STACK'
        }
        kept.update(FAKE_CALLS=str(self.log), FAKE_COMPLETE='yes', FAKE_METRICS=METRICS)
        done = subprocess.run(
            ['bash', str(self.root / 'tools/quickstart.sh'), *arguments],
            env={**kept, **environment},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr

    def calls(self, word: str = '') -> list:
        """All calls of the interpreter with ``word`` in them."""
        if not self.log.exists():
            return []
        return [line for line in self.log.read_text().splitlines() if word in line]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_help_names_the_tasks(checkout):
    for option in ('-h', '--help'):
        code, out, err = checkout.run('--task', 'detection', option)
        assert (code, err) == (0, '')
        tasks = 'classification|bootstrap|detection|instance|segmentation|video'
        assert f'[--task {tasks}]' in out
        assert 'set -euo' not in out
    assert checkout.calls() == []


@pytest.mark.parametrize(
    'arguments, message',
    [
        (
            ('--task', 'pose'),
            '--task is classification, bootstrap, detection, instance, segmentation or '
            "video, not 'pose'",
        ),
        (('--task',), '--task needs a value'),
    ],
)
def test_bad_task(checkout, arguments, message):
    code, out, err = checkout.run('--python', str(checkout.python), *arguments)
    assert (code, out, err) == (2, '', f'{message}\n')
    assert checkout.calls() == []


@pytest.mark.parametrize(
    'task, needed, library',
    [
        ('detection', 'detection', 'mmdet'),
        ('instance', 'detection', 'mmdet'),
        ('segmentation', 'segmentation', 'mmseg'),
        ('video', 'video', 'mmaction'),
    ],
)
@pytest.mark.parametrize('by_option', [True, False])
def test_a_named_interpreter_has_to_suit_the_task(
    checkout, task, needed, library, by_option
):
    python, environment = str(checkout.python), dict(FAKE_COMPLETE='')
    arguments = ['--task', task]
    if by_option:
        arguments += ['--python', python]
    else:
        environment['SPARSEFORMER_PYTHON'] = python
    code, out, err = checkout.run(*arguments, **environment)
    assert code == 1
    assert f'ERROR   {library} is missing\n        cure: ' in err
    assert err.endswith('ERROR: cure what is marked above, or name no interpreter\n')
    # Before anything else was done.
    assert [call.split('tools/')[1] for call in checkout.calls()] == [
        'check_env.py --need classification',
        f'check_env.py --need {needed}',
    ]
    assert sorted(path.name for path in checkout.root.iterdir()) == ['tools']


@pytest.mark.parametrize('by_option', [True, False])
def test_a_relative_interpreter_is_seen_from_the_callers_folder(checkout, by_option):
    elsewhere = checkout.python.parent / 'elsewhere'
    elsewhere.mkdir()
    arguments, environment = (), dict(SPARSEFORMER_PYTHON='../python')
    if by_option:
        arguments, environment = ('--python', '../python'), {}
    code, out, err = checkout.run(*arguments, cwd=elsewhere, **environment)
    assert code == 0, err
    assert checkout.calls('train.py')


@pytest.mark.parametrize(
    'task, folder, config, result',
    [
        (
            'classification',
            'quickstart',
            'classification/sparseformer-nano_1xb32_digits.py',
            '95.1 % top-1',
        ),
        (
            'detection',
            'quickstart_detection',
            'detection/sparseformer-nano-modern_1xb16_digits.py',
            '0.7560 mAP (0 to 1)',
        ),
        (
            'instance',
            'quickstart_instance',
            'detection/mask-rcnn_sparseformer-nano_1xb16_digits.py',
            '0.7560 0.7710 mAP of boxes and masks (0 to 1)',
        ),
        (
            'segmentation',
            'quickstart_segmentation',
            'segmentation/sparseformer-nano_1xb8_digits.py',
            '77.2500 mIoU (0 to 100)',
        ),
        (
            'video',
            'quickstart_video',
            'video/sparseformer-nano_1xb16_digits.py',
            '0.9125 top-1 (0 to 1)',
        ),
    ],
)
def test_each_task_from_end_to_end(checkout, task, folder, config, result):
    arguments = [] if task == 'classification' else ['--task', task]
    arguments += ['--python', str(checkout.python)]
    code, out, err = checkout.run(*arguments)
    assert code == 0, err
    assert f'\nresult          {result}, on pictures' in out
    assert f'\ncheckpoint      work_dirs/{folder}/epoch_1.pth\n' in out
    assert f'\nlog             work_dirs/{folder}/1/1.log\n' in out
    assert 'the first training iterations are through' in out
    # A complete interpreter's report is not shown.
    assert 'everything works' not in out + err
    # The scenes of `instance` are those of detection, with the masks of their digits.
    scenes = 'detection' if task == 'instance' else task
    assert checkout.calls('make_digits.py')[-1].endswith(f' --task {scenes}')
    assert any(call.endswith(scenes) for call in checkout.calls('check_env.py'))
    assert (ROOT / 'configs' / config).is_file()
    assert checkout.calls('tools/train.py') == [
        f'tools/train.py configs/{config} --work-dir work_dirs/{folder} --resume'
    ]
    # The second time, the checkpoint is there.
    code, out, err = checkout.run(*arguments)
    assert code == 0, err
    assert 'training: already finished' in out and result in out
    assert len(checkout.calls('tools/train.py')) == 1


def test_bootstrap_from_end_to_end(checkout):
    arguments = ['--task', 'bootstrap', '--python', str(checkout.python)]
    code, out, err = checkout.run(*arguments)
    assert code == 0, err
    top = 'work_dirs/quickstart_bootstrap'
    folder = 'configs/classification/bootstrap'
    classifier = f'{folder}/sparseformer-bootstrapped-nano_1xb32_digits.py'
    unlabelled = f'{folder}/sparseformer-bootstrapped-nano_vit-nano_1xb32_digits.py'
    vit = f'{folder}/vit-nano_1xb32_digits.py'
    assert checkout.calls('tools/train.py') == [
        f'tools/train.py {config} --work-dir {top}/{name} --resume{more}'
        for config, name, more in (
            (vit, 'teacher', ''),
            (unlabelled, 'student', ''),
            (classifier, 'scratch', ''),
            (classifier, 'finetuned', f' --cfg-options load_from={top}/start.pth'),
        )
    ]
    (begun,) = checkout.calls('vit_to_sparseformer.py')
    files = f'{top}/teacher/epoch_1.pth {top}/start.pth'
    assert begun.endswith(f'{vit} {files} --student {classifier}')
    (data,) = checkout.calls('make_digits.py')
    assert data.endswith('--task classification --size 48 --digit-size 20 24')
    # The student is tested as a classifier, beside the others and its teacher.
    tested = [call.split()[1:3] for call in checkout.calls('tools/test.py')]
    assert tested == [
        [config, f'{top}/{name}/epoch_1.pth']
        for config, name in (
            (vit, 'teacher'),
            (classifier, 'scratch'),
            (classifier, 'finetuned'),
            (classifier, 'student'),
        )
    ]
    assert '\nteacher         97.0 % top-1: ' in out
    assert "\nbootstrapped    95.1 % top-1, 98.0 % of the teacher's: no label" in out
    assert '\nfrom scratch    95.1 % top-1: ' in out
    assert f'\ncheckpoint      {top}/student/epoch_1.pth\n' in out
    assert checkout.calls('benchmark.py') and checkout.calls('vis_focus.py')
    # The second time, nothing is trained.
    code, out, err = checkout.run(*arguments)
    assert code == 0, err
    assert out.count('training: already finished') == 4
    assert len(checkout.calls('tools/train.py')) == 4


def test_a_test_without_result_is_an_error(checkout):
    code, out, err = checkout.run(
        '--task', 'detection', '--python', str(checkout.python),
        FAKE_METRICS='coco/bbox_mAP_50: 0.9',
    )  # fmt: skip
    assert code == 1
    assert err.endswith(
        "ERROR: the test printed no 'coco/bbox_mAP'; see "
        'work_dirs/quickstart_detection/test.txt\n'
    )
    assert 'result' not in out
    assert not checkout.calls('vis_focus.py')
