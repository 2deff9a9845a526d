"""A training that is killed, at any moment, and resumed ends as if it had not been."""

import importlib.util
import json
import random
import signal
import sys
from pathlib import Path

import pytest
import torch

from helpers import kill
from helpers.scripts import ROOT, run
from helpers.toy_classifier import make_data, write_config
from helpers.trained_by_tools import CPU, run_on_cpu

pytestmark = pytest.mark.slow


def make_classifier(folder: Path) -> None:
    write_config(folder / 'toy.py', make_data(folder / 'data'))


def make_detector(folder: Path) -> None:
    from helpers.toy_detector import make_toy

    make_toy(folder, 3)


def make_segmentor(folder: Path) -> None:
    from helpers.toy_segmentor import make_toy

    make_toy(folder, 9)


def make_recognizer(folder: Path) -> None:
    from helpers.toy_video import make_toy

    make_toy(folder, 3)


# Three rounds, after each of which there is a checkpoint.
BY_EPOCH = ['train_cfg.max_epochs=3', 'default_hooks.checkpoint.interval=1']
BY_ITERATION = ['default_hooks.checkpoint.interval=3']


@pytest.fixture(autouse=True)
def one_thread():
    """As in the processes that are killed: the order of sums decides the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def scalars(work_dir: Path) -> dict:
    """All losses that the runs in a work directory logged, the last of each step."""
    rows = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            if 'loss' in row:
                rows[row['step'], row.get('epoch')] = row['loss'], row['lr']
    return rows


def assert_equal(ours, theirs, where: str = '') -> None:
    """Nested state is the same, bit by bit."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_equal(ours[key], theirs[key], f'{where}.{key}')
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        for index, (one, other) in enumerate(zip(ours, theirs)):
            assert_equal(one, other, f'{where}.{index}')
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where


@pytest.mark.parametrize(
    ('make', 'options', 'iterations', 'last'),
    [
        pytest.param(
            make_classifier, BY_EPOCH, 12, 'epoch_3.pth', marks=pytest.mark.mmpretrain
        ),
        pytest.param(
            make_detector, BY_EPOCH, 6, 'epoch_3.pth', marks=pytest.mark.mmdet
        ),
        pytest.param(
            make_segmentor, BY_ITERATION, 9, 'iter_9.pth', marks=pytest.mark.mmseg
        ),
        pytest.param(
            make_recognizer, BY_EPOCH, 24, 'epoch_3.pth', marks=pytest.mark.mmaction
        ),
    ],
)
def test_killed_and_resumed_is_uninterrupted(
    make, options, iterations, last, request, tmp_path
):
    (library,) = (m.name for m in request.node.iter_markers() if m.name[:2] == 'mm')
    if not importlib.util.find_spec(library):
        pytest.skip(f'needs {library}')
    make(tmp_path)
    config = tmp_path / 'toy.py'
    config.write_text(config.read_text() + kill.CONFIG)
    options = ['--cfg-options', *options]
    run_on_cpu('train', tmp_path, 'toy.py', '--work-dir', 'whole', *options)

    chance = random.Random(library)
    command = [
        sys.executable,
        ROOT / 'tools/train.py',
        'toy.py',
        '--work-dir',
        'killed',
    ]
    killed = dict(CPU, status=-signal.SIGKILL)
    # In the second round or the third: there is something to resume from.
    moment = chance.randrange(iterations // 3, iterations)
    run([*command, *options], tmp_path, KILL_AT=str(moment), **killed)
    # While the next checkpoint is being written.
    log = run(
        [*command, '--resume', *options], tmp_path,
        KILL_AT='0', KILL_WRITING='1', **killed,
    )  # fmt: skip
    assert 'resuming from' in log
    arguments = ['toy.py', '--work-dir', 'killed', '--resume', *options]
    log = run_on_cpu('train', tmp_path, *arguments)
    assert 'resuming from' in log

    whole, resumed = (
        torch.load(tmp_path / run / last, map_location='cpu', weights_only=False)
        for run in ('whole', 'killed')
    )
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_equal(whole[part], resumed[part], part)
    assert scalars(tmp_path / 'killed') == scalars(tmp_path / 'whole')
