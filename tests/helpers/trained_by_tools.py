"""What tools/train.py, test.py and dist_train.sh do with a toy model of any task."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Callable, List

import numpy as np
import pytest
import torch

from helpers.scripts import ROOT, free_port, load_tool, run, run_tool

CPU = dict(CUDA_VISIBLE_DEVICES='-1')


def run_on_cpu(tool: str, folder: Path, *argv) -> str:
    """Run a tool in a folder; return all it prints. It has to succeed.

    In this process: another one takes seconds to import the libraries. But a GPU can
    only be hidden from a new process.
    """
    if torch.cuda.is_available():
        return run(
            [sys.executable, ROOT / 'tools' / f'{tool}.py', *argv], folder, **CPU
        )
    before = os.getcwd()
    os.chdir(folder)
    try:
        status, output = run_tool(load_tool(tool), *argv)
    finally:
        os.chdir(before)
    assert status == 0, output
    return output


def losses(work_dir: Path) -> List[float]:
    """Loss of each iteration of the last run in a work directory."""
    (*_, file) = sorted(work_dir.glob('*/vis_data/scalars.json'))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row['loss'] for row in rows if 'loss' in row]


def assert_learns(curve: List[float], share: float = 0.5) -> None:
    """The last losses are less than so much of the first."""
    assert np.isfinite(curve).all()
    assert np.mean(curve[-6:]) < share * np.mean(curve[:6]), curve


class TrainedByTools:
    """Tests of a model that trains in seconds, as a user does it.

    A task's class says what its toy is, and adds what is particular to it.
    """

    make_toy: Callable  # writes data/ and toy.py, which trains so many rounds
    rounds: int  # epochs, or iterations
    unit = 'epoch'
    iterations: int  # in all
    share_left = 0.5  # of the loss, at most
    score: str  # its name in the log
    reached: float  # by the score after the training, at least
    batch: int  # of each of two processes that train as one does
    parts: List[str] = ['loss']  # of the loss

    def last(self, rounds: int = 0) -> str:
        """The checkpoint after so many rounds, or all."""
        return f'work_dirs/toy/{self.unit}_{rounds or self.rounds}.pth'

    def value(self, log: str, name: str = '') -> float:
        """The last score in a log."""
        name = re.escape(name or self.score)
        return float(re.findall(rf'(?<![\w/]){name}: (-?[\d.]+)', log)[-1])

    def assert_trained(self, work_dir: Path, log: str) -> List[float]:
        curve = losses(work_dir)
        assert len(curve) == self.iterations
        assert_learns(curve, self.share_left)
        assert self.value(log) > self.reached
        return curve

    @staticmethod
    @pytest.fixture(scope='class')
    def trained(request, tmp_path_factory):
        """A folder with data, toy.py and a training by the command, and its log."""
        folder = tmp_path_factory.mktemp('trained')
        request.cls.make_toy(folder, request.cls.rounds)
        log = run([sys.executable, ROOT / 'tools/train.py', 'toy.py'], folder, **CPU)
        return folder, log

    def test_trains_and_validates(self, trained):
        folder, log = trained
        self.assert_trained(folder / 'work_dirs' / 'toy', log)
        for part in self.parts:
            assert f' {part}: ' in log

    def test_resume_continues_the_same_curve(self, trained):
        folder, _ = trained
        half = self.rounds // 2
        resume = ['--work-dir', 'resumed', '--resume', self.last(half)]
        log = run_on_cpu('train', folder, 'toy.py', *resume)
        begin = self.iterations // 2
        first = (
            f'[{half + 1}]' if self.unit == 'epoch' else f'[{half + 1}/{self.rounds}]'
        )
        (seen, *_) = re.findall(r'\w+\(train\) +(\[[\d/]+\])', log)
        assert seen == first
        straight = losses(folder / 'work_dirs' / 'toy')
        # As they are logged, with four or five digits.
        np.testing.assert_allclose(
            losses(folder / 'resumed'), straight[begin:], rtol=1e-4
        )

    def test_bfloat16_on_a_cpu_trains(self, trained):
        folder, _ = trained
        log = run_on_cpu('train', folder, 'toy.py', '--work-dir', 'amp', '--amp')
        assert 'bfloat16, no loss scaling' in log
        curve = self.assert_trained(folder / 'amp', log)
        plain = losses(folder / 'work_dirs' / 'toy')
        assert 0 < abs(curve[0] - plain[0]) < 0.02 * plain[0]
        last = folder / 'amp' / Path(self.last()).name
        saved = torch.load(last, map_location='cpu', weights_only=False)
        floats = [w for w in saved['state_dict'].values() if w.is_floating_point()]
        assert {w.dtype for w in floats} == {torch.float32}

    def test_two_processes_train(self, trained):
        folder, _ = trained
        options = [f'train_dataloader.batch_size={self.batch}']
        log = run(
            ['bash', ROOT / 'tools/dist_train.sh', 'toy.py', 2, '--work-dir', 'two',
             '--cfg-options', *options],
            folder,
            PORT=free_port(),
            **CPU,
        )  # fmt: skip
        assert 'gloo' in log
        self.assert_trained(folder / 'two', log)
