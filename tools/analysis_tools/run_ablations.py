"""Repeat the paper's ablations on handwritten digits, small enough for a CPU.

Trains the rows of Tables 3 (a to e), 6 and 9, scaled to the models of
``sparseformer-nano_*_digits.py``, and says whether the paper's order holds. Makes
the data itself. An interrupted run goes on with the same command.

Examples:
    python tools/analysis_tools/run_ablations.py
    python tools/analysis_tools/run_ablations.py tokens stem --seeds 0 1
"""

import argparse
import itertools
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from sparseformer_mm.utils.errors import fail
from sparseformer_mm.utils.outputs import check_folder

Value = Union[int, str]
ROOT = Path(__file__).resolve().parents[2]  # holds configs/ and tools/

INTRO = """# Ablations on handwritten digits

Top-1 in percent after the last epoch, one per seed. The noise of a difference is two
standard errors, from the number of validation samples and from how far seeds are apart.
The paper's figures are for SparseFormer-T on ImageNet-1K (inflation: on Kinetics-400);
rows that it does not have stand where its trend would put them.
"""
RULE = '|---|---|---|---|'


# ------------------------------------------------------------------ the paper's tables
class Task(NamedTuple):
    """What rows are trained on: a config, name of top-1 in its log and what makes it
    percent, number of samples if nothing is said."""

    config: str
    metric: str
    percent: float
    train: int
    val: int


class Group(NamedTuple):
    """A table: its result in the paper, and which values of which argument of the
    backbone are trained here, with their places from the worst on (the same for equal
    accuracies)."""

    title: str
    paper: str
    argument: str
    ranks: Dict[Value, int]
    task: str = 'classification'


TASKS = dict(
    classification=Task(
        'configs/classification/sparseformer-nano_1xb32_digits.py',
        'accuracy/top1',
        1.0,
        train=3000,
        val=2000,
    ),
    video=Task(
        'configs/video/sparseformer-nano_1xb16_digits.py',
        'acc/top1',
        100.0,
        train=1600,
        val=800,
    ),
)
# What the configs have, or what the backbone takes where they do not say.
DEFAULTS: Dict[str, Value] = dict(
    num_tokens=16,
    focusing_repeats=4,
    num_points=16,
    stem='early_conv',
    decoding='adaptive',
    roi_init='half',
    token_inflation=2,
)
GROUPS: Dict[str, Group] = {
    'tokens': Group(
        'Latent tokens (Table 3a)',
        '9: 74.5, 16: 77.4, 25: 79.3, 36: 80.1, 49: 81.0, 64: 81.4, 81: 81.9',
        'num_tokens',
        {4: 0, 9: 1, 16: 2, 25: 3, 36: 4},
    ),
    'repeats': Group(
        'Focusing repeats (Table 3b)',
        'nil: 77.8, 1: 79.7, 4: 81.0, 8: 81.0',
        'focusing_repeats',
        {0: 0, 1: 1, 2: 2, 4: 3, 8: 3},
    ),
    'points': Group(
        'Sampling points (Table 3c)',
        '16: 80.3, 36: 81.0, 64: 81.3',
        'num_points',
        {4: 0, 9: 1, 16: 2, 25: 3},
    ),
    'stem': Group(
        'Image feature (Table 3d)',
        'RGB: fails, ViT/8 embedding: 78.4, early convolution: 81.0',
        'stem',
        dict(pixel=0, patch_embed=1, early_conv=2),
    ),
    'decoding': Group(
        'Decoding (Table 3e)',
        'linear: 78.5, static mixing: 80.1, adaptive mixing: 81.0',
        'decoding',
        dict(linear=0, static=1, adaptive=2),
    ),
    'roi-init': Group(
        'First RoIs (Table 9)',
        'half: 81.0, cell: 81.0, whole: 80.2',
        'roi_init',
        dict(half=1, cell=1, whole=0),
    ),
    'inflation': Group(
        'Inflation (Table 6)',
        '1: 69.5, 4: 74.7, 8: 77.9, 16: 78.2',
        'token_inflation',
        {1: 0, 2: 1, 4: 2},
        task='video',
    ),
}


# ---------------------------------------------------------- against the paper's order
class Pair(NamedTuple):
    """Two rows: how much higher the second is, in points, two standard errors of that,
    and 'agrees', 'reversed', 'too close to call' or 'alike in the paper'."""

    lower: Value
    higher: Value
    gain: float
    noise: float
    outcome: str


def compare(
    ranks: Dict[Value, int], top1: Dict[Value, Sequence[float]], num_val: int
) -> List[Pair]:
    """Every pair of rows against the paper's order.

    The noise comes from the number of validation samples (as if the two rows saw
    different ones, which is cautious) and, where rows have several seeds, from how far
    these are apart, pooled over the rows.

    Args:
        ranks: of each row, the higher the better.
        top1: of each row in percent, one per seed.
        num_val: how many samples each was validated on.
    """
    spreads = [statistics.variance(runs) for runs in top1.values() if len(runs) > 1]
    spread = statistics.mean(spreads) if spreads else 0.0
    means = {row: statistics.mean(runs) for row, runs in top1.items()}
    pairs = []
    for low, high in itertools.combinations(ranks, 2):
        if ranks[low] > ranks[high]:
            low, high = high, low
        gain = means[high] - means[low]
        variance = sum(
            means[row] * (100 - means[row]) / num_val + spread / len(top1[row])
            for row in (low, high)
        )
        noise = 2 * math.sqrt(variance)
        outcome = 'agrees' if gain > 0 else 'reversed'
        if ranks[low] == ranks[high]:
            outcome = 'alike in the paper'
        elif abs(gain) <= noise:
            outcome = 'too close to call'
        pairs.append(Pair(low, high, gain, noise, outcome))
    return pairs


def explain(pairs: Sequence[Pair]) -> str:
    """One line on a group: whether the paper's order holds, and the pairs that say so.

    It holds if no pair is against it, noise or not; it does not if one is by more than
    the noise; else it is undecided.
    """
    outcomes = [pair.outcome for pair in pairs]
    verdict = '**holds**'
    if 'reversed' in outcomes:
        verdict = '**does not hold**'
    elif any(pair.gain <= 0 and pair.outcome == 'too close to call' for pair in pairs):
        verdict = 'is **undecided**'
    line = (
        f"The paper's order {verdict} here: {outcomes.count('agrees')} of "
        f'{len(pairs) - outcomes.count("alike in the paper")} pairs are in it by more '
        'than the noise'
    )
    for outcome in ('reversed', 'too close to call', 'alike in the paper'):
        named = ', '.join(
            f'{pair.higher} over {pair.lower} {pair.gain:+.1f} (noise {pair.noise:.1f})'
            for pair in pairs
            if pair.outcome == outcome
        )
        line += f'; {outcome}: {named}' if named else ''
    return f'{line}.'


def section(group: Group, top1: Dict[Value, List[float]], budget: dict) -> str:
    """A group's part of the report; rows that could not be trained have no top-1."""
    lines = [f'## {group.title}', '', "| | top-1 | mean | paper's order |", RULE]
    for row, rank in group.ranks.items():
        runs = ', '.join(f'{value:.1f}' for value in top1[row]) or '-'
        mean = f'{statistics.mean(top1[row]):.1f}' if top1[row] else '-'
        lines.append(f'| {row} | {runs} | {mean} | {rank + 1} |')
    result = 'Rows are missing.'
    if all(top1.values()):
        result = explain(compare(group.ranks, top1, budget['val']))
    paper = f'Paper: {group.paper}. Epochs here: {budget["epochs"]}; samples: '
    paper += f'{budget["train"]} to train, {budget["val"]} to validate.'
    return '\n'.join([*lines, '', result, '', paper, ''])


# ------------------------------------------------------------------------- trainings
class Run(NamedTuple):
    """One training: a row, which tables may share, with a seed."""

    task: str
    backbone: Tuple[Tuple[str, object], ...]
    seed: int

    @property
    def name(self) -> str:
        row = '-'.join(f'{key}={value}' for key, value in self.backbone) or 'default'
        return f'{self.task}-{row}-seed{self.seed}'


def run_of(group: Group, row: Value, seed: int) -> Run:
    backbone: Dict[str, object] = {}
    if row != DEFAULTS[group.argument]:
        backbone = {group.argument: row}
    if backbone == dict(focusing_repeats=0):
        backbone['fixed_rois'] = True  # the paper's row 'nil'
    return Run(group.task, tuple(sorted(backbone.items())), seed)


def budget_of(args: argparse.Namespace, task: str) -> Dict[str, int]:
    """How much a run of this task trains."""
    train, val = args.train or TASKS[task].train, args.val or TASKS[task].val
    return dict(epochs=args.epochs, train=train, val=val)


def folder_of(args: argparse.Namespace, run: Run) -> Path:
    """Where a run is; another budget has another place."""
    budget = '-'.join(map(str, budget_of(args, run.task).values()))
    return args.out / budget / run.name


def data_of(args: argparse.Namespace, task: str) -> Path:
    budget = budget_of(args, task)
    return args.out / 'data' / f'{task}-{budget["train"]}-{budget["val"]}'


def make_data(args: argparse.Namespace, task: str) -> None:
    """Have make_digits.py make the data unless they are there."""
    budget = budget_of(args, task)
    tool = ROOT / 'tools/dataset_converters/make_digits.py'
    command = [sys.executable, tool, data_of(args, task), '--task', task]
    command += ['--train', budget['train'], '--val', budget['val']]
    if subprocess.run([str(word) for word in command]).returncode:
        fail(f'the data of {task} could not be made, see above')


def stored_result(args: argparse.Namespace, run: Run) -> Optional[float]:
    """Top-1 of a run that is done already, None of one that is not."""
    path = folder_of(args, run) / 'top1.txt'
    return float(path.read_text('utf-8')) if path.is_file() else None


def start(args: argparse.Namespace, run: Run) -> subprocess.Popen:
    """Start a training from scratch."""
    folder, data = folder_of(args, run), data_of(args, run.task)
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run has left
    folder.mkdir(parents=True)
    options = {f'model.backbone.{key}': value for key, value in run.backbone}
    for loader in ('train_dataloader', 'val_dataloader'):
        options[f'{loader}.dataset.data_root'] = data
        # A core has one training and nothing else to do.
        options[f'{loader}.num_workers'] = 0
    options['train_cfg.max_epochs'] = options['train_cfg.val_interval'] = args.epochs
    options['param_scheduler.1.end'] = max(2, args.epochs)  # the first is warm-up
    options['default_hooks.checkpoint.interval'] = -1  # the last one only
    options['default_hooks.checkpoint.save_best'] = None
    options['default_hooks.checkpoint.save_optimizer'] = False
    command = [sys.executable, ROOT / 'tools/train.py', ROOT / TASKS[run.task].config]
    command += ['--work-dir', folder, '--seed', run.seed, '--cfg-options']
    command += [f'{key}={value}' for key, value in options.items()]
    print(f'training {run.name}', flush=True)
    with open(folder / 'train.log', 'w', encoding='utf-8') as log:
        return subprocess.Popen(
            [str(word) for word in command],
            env=dict(os.environ, OMP_NUM_THREADS='1', MKL_NUM_THREADS='1'),
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for this process, which then ends the others.
            start_new_session=True,
        )


def keep_result(args: argparse.Namespace, run: Run) -> float:
    """Read and store top-1, in percent after the last epoch, of a finished training."""
    folder, task = folder_of(args, run), TASKS[run.task]
    (log,) = folder.glob('*/vis_data/scalars.json')
    entries = map(json.loads, log.read_text('utf-8').splitlines())
    top1 = [entry[task.metric] for entry in entries if task.metric in entry][-1]
    top1 *= task.percent
    (folder / 'top1.txt').write_text(f'{top1}\n', 'utf-8')
    return top1


def train(args: argparse.Namespace, runs: Sequence[Run]) -> Iterator[Tuple[Run, float]]:
    """Train, ``args.jobs`` at a time, and yield each run with its top-1; none is left
    behind when this ends, and those that fail are said and left out."""
    waiting, running = list(runs), {}
    try:
        while waiting or running:
            while waiting and len(running) < args.jobs:
                run = waiting.pop(0)
                running[run] = start(args, run)
            for run in [run for run, job in running.items() if job.poll() is not None]:
                if running.pop(run).returncode == 0:
                    yield run, keep_result(args, run)
                else:
                    print(f'failed, see {folder_of(args, run)}/train.log', flush=True)
            time.sleep(0.1)
    finally:
        for job in running.values():
            job.terminate()


# ---------------------------------------------------------------------- command line
def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'must be at least 1, got {value}')
    return value


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        'groups',
        nargs='*',
        metavar='GROUP',
        help=f'{", ".join(GROUPS)} (all if none is named)',
    )
    parser.add_argument(
        '--seeds',
        type=int,
        nargs='+',
        default=[0],
        help='train each row once with each (0)',
    )
    for flag, default, text in (
        ('--epochs', 6, 'of each row (6)'),
        ('--train', None, 'training samples (3000 pictures, 1600 clips)'),
        ('--val', None, 'validation samples (2000 pictures, 800 clips)'),
        ('--jobs', 2, 'trainings at a time, one core each (2)'),
    ):
        parser.add_argument(flag, type=positive, default=default, help=text)
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/ablations'),
        help='where data, trainings and the report go (work_dirs/ablations)',
    )
    args = parser.parse_args(argv)
    unknown = [name for name in args.groups if name not in GROUPS]
    if unknown:
        parser.error(
            f'there is no group {", ".join(unknown)}; choose from {", ".join(GROUPS)}'
        )
    args.groups = [key for key in GROUPS if key in args.groups or not args.groups]
    args.seeds = list(dict.fromkeys(args.seeds))
    return args


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    check_folder(args.out)
    # Tables share rows, the default above all: each is trained once.
    runs = {
        (key, row): [run_of(GROUPS[key], row, seed) for seed in args.seeds]
        for key in args.groups
        for row in GROUPS[key].ranks
    }
    top1 = {run: stored_result(args, run) for row in runs.values() for run in row}
    left = [run for run, value in top1.items() if value is None]
    print(f'{len(top1)} trainings, {len(top1) - len(left)} of them done before')
    for task in sorted({run.task for run in left}):
        make_data(args, task)

    for count, (run, value) in enumerate(train(args, left), start=1):
        top1[run] = value
        print(f'[{count}/{len(left)}] {run.name}: top-1 {value:.1f}', flush=True)
    page = INTRO
    for key in args.groups:
        rows = {
            row: [top1[run] for run in runs[key, row] if top1[run] is not None]
            for row in GROUPS[key].ranks
        }
        page += '\n' + section(GROUPS[key], rows, budget_of(args, GROUPS[key].task))
    (args.out / 'ablations.md').write_text(page, 'utf-8')
    print(f'{page}\nWrote {args.out}/ablations.md')
    failed = sum(value is None for value in top1.values())
    if failed:
        fail(
            f'{failed} of {len(top1)} trainings failed, see above; the same command '
            'tries them again'
        )


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        print('\ninterrupted; the same command goes on with the rows that are left')
        sys.exit(130)
