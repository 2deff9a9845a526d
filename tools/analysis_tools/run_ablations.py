"""Repeat the paper's ablations on handwritten digits, small enough for a CPU.

Trains the rows of Tables 3 (a to e), 6 and 9, scaled to the models of
``sparseformer-nano_*_digits.py``, and says whether the paper's order holds. Makes
the data itself. An interrupted run goes on with the same command.

Examples:
    python tools/analysis_tools/run_ablations.py
    python tools/analysis_tools/run_ablations.py tokens stem --seeds 0 1
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Set, Tuple

import torch
from ablation_groups import GROUPS, TASKS, Group, Row
from ablation_report import Scored, compare, markdown, plot, verdict

from sparseformer_mm.utils.configs import build_model
from sparseformer_mm.utils.counting import count_macs
from sparseformer_mm.utils.errors import fail

ROOT = Path(__file__).resolve().parents[2]  # holds configs/ and tools/


@dataclass(frozen=True)
class Run:
    """One training: a row (which tables may share) with a seed."""

    task: str
    backbone: Tuple[Tuple[str, object], ...]
    seed: int

    @property
    def name(self) -> str:
        row = '-'.join(f'{key}={value}' for key, value in self.backbone) or 'default'
        return f'{self.task}-{row}-seed{self.seed}'


@dataclass
class Jobs:
    """Trainings under way, so that none is left behind."""

    stopped: bool = False
    running: Set[subprocess.Popen] = field(default_factory=set)

    def stop(self) -> None:
        self.stopped = True
        for process in list(self.running):
            process.terminate()


def budget(args: argparse.Namespace, task: str) -> Dict[str, int]:
    """How much a run of this task trains."""
    return dict(
        epochs=args.epochs,
        train=args.train or TASKS[task].train,
        val=args.val or TASKS[task].val,
    )


def options(args: argparse.Namespace, run: Run) -> Dict[str, object]:
    """Overrides of the task's config."""
    data = data_folder(args, run.task)
    found = {f'model.backbone.{key}': value for key, value in run.backbone}
    for loader in ('train_dataloader', 'val_dataloader'):
        found[f'{loader}.dataset.data_root'] = data
        # A core has one training and nothing else to do.
        found[f'{loader}.num_workers'] = 0
    found.update(
        {
            'train_cfg.max_epochs': args.epochs,
            'train_cfg.val_interval': args.epochs,
            # The first epoch is warm-up.
            'param_scheduler.1.end': max(2, args.epochs),
            'default_hooks.checkpoint.interval': -1,  # the last one only
            'default_hooks.checkpoint.save_best': None,
            'default_hooks.checkpoint.save_optimizer': False,
        }
    )
    return found


def data_folder(args: argparse.Namespace, task: str) -> Path:
    amount = budget(args, task)
    return args.data / f'digits_{task}_{amount["train"]}_{amount["val"]}'


def make_data(args: argparse.Namespace, task: str) -> None:
    """Have make_digits.py make the data unless they are there."""
    amount = budget(args, task)
    tool = ROOT / 'tools/dataset_converters/make_digits.py'
    command = [sys.executable, tool, data_folder(args, task), '--task', task]
    command += ['--train', amount['train'], '--val', amount['val']]
    if subprocess.run([str(part) for part in command]).returncode:
        fail(f'the data of {task} could not be made, see above')


def read_top1(folder: Path, task: str) -> float:
    """Percent after the last epoch, from the log of a training."""
    metric = TASKS[task].metric
    logs = sorted(folder.glob('*/vis_data/scalars.json'))
    lines = logs[-1].read_text('utf-8').splitlines() if logs else []
    found = [line[metric] for line in map(json.loads, lines) if metric in line]
    if not found:
        raise ValueError(f'no {metric} in the log of {folder}')
    return found[-1] * TASKS[task].percent


def stored_result(args: argparse.Namespace, run: Run) -> Optional[float]:
    """Top-1 of a run that is done already, None of one that is not."""
    path = args.out / 'runs' / run.name / 'result.json'
    if not path.is_file():
        return None
    result = json.loads(path.read_text('utf-8'))
    if result['budget'] != budget(args, run.task):
        fail(
            f'{path.parent} was trained with {result["budget"]}, and not with '
            f'{budget(args, run.task)}: name another --out, or give the same budget'
        )
    return result['top1']


def train(args: argparse.Namespace, run: Run, jobs: Jobs) -> Optional[float]:
    """Train a run from the start.

    Returns:
        Top-1 in percent, or None if it was stopped or has failed.
    """
    if jobs.stopped:
        return None
    folder = args.out / 'runs' / run.name
    # What an interrupted run has left.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, ROOT / 'tools/train.py', ROOT / TASKS[run.task].config]
    command += ['--work-dir', folder, '--seed', run.seed, '--cfg-options']
    command += [f'{key}={value}' for key, value in options(args, run).items()]
    env = dict(os.environ, OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
    start = time.monotonic()
    print(f'training {run.name}', flush=True)
    with open(folder / 'train.log', 'w', encoding='utf-8') as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for this process, which then ends the others.
            start_new_session=True,
        )
        jobs.running.add(process)
        if jobs.stopped:  # in the meantime
            process.terminate()
        code = process.wait()
        jobs.running.discard(process)
    if jobs.stopped:
        return None
    if code:
        tail = (folder / 'train.log').read_text('utf-8', 'replace').splitlines()[-5:]
        print(f'{run.name} failed, see {folder}/train.log:', *tail, sep='\n  ')
        return None
    top1 = read_top1(folder, run.task)
    result = dict(
        top1=top1,
        budget=budget(args, run.task),
        seconds=round(time.monotonic() - start, 1),
    )
    # Renamed when complete: a file that is there can be trusted.
    partial = folder / 'result.json.partial'
    partial.write_text(json.dumps(result) + '\n', 'utf-8')
    partial.replace(folder / 'result.json')
    return top1


def measure(row: Row, task: str) -> Dict[str, int]:
    """Parameters and multiply-adds of a row."""
    overrides = {f'model.backbone.{key}': value for key, value in row.backbone.items()}
    model = build_model(str(ROOT / TASKS[task].config), overrides)
    report = count_macs(model, torch.rand(1, 3, *TASKS[task].shape))
    # These are the products of features with mixing weights, and nothing else is.
    mixing = report.by_op.get('aten.baddbmm', 0)
    return dict(
        params=report.params,
        macs=report.total,
        macs_as_published=report.total - mixing,
    )


def runs_of(group: Group, seeds: Sequence[int]) -> List[Run]:
    return [
        Run(group.task, tuple(sorted(row.backbone.items())), seed)
        for row in group.rows
        for seed in seeds
    ]


def write_report(
    args: argparse.Namespace,
    done: Dict[Run, float],
    sizes: Dict[Tuple[str, str], dict],
) -> str:
    """Write table, JSON and plot of what has been trained so far; return the table."""
    groups, content = [], {}
    for key in args.groups:
        group = GROUPS[key]
        rows = []
        for row in group.rows:
            own = runs_of(group._replace(rows=[row]), args.seeds)
            top1 = {run.seed: done[run] for run in own if run in done}
            rows.append(Scored(row.name, row.rank, top1, **sizes[key, row.name]))
        complete = all(len(row.top1) == len(args.seeds) for row in rows)
        amount = budget(args, group.task)
        pairs = compare(rows, amount['val']) if complete else None
        groups.append(
            dict(
                title=group.title,
                label=group.label,
                paper=group.paper,
                budget=amount,
                rows=rows,
                pairs=pairs,
            )
        )
        content[key] = dict(
            title=group.title,
            paper=group.paper,
            budget=amount,
            rows=[dict(asdict(row), mean=row.mean) for row in rows],
            verdict=None if pairs is None else verdict(pairs),
            pairs=[dict(asdict(pair), outcome=pair.outcome) for pair in pairs or []],
        )
    page = markdown(groups, args.seeds)
    (args.out / 'ablations.md').write_text(page, 'utf-8')
    (args.out / 'ablations.json').write_text(
        json.dumps(dict(seeds=args.seeds, groups=content), indent=2) + '\n', 'utf-8'
    )
    plot(groups, args.out / 'ablations.png')
    return page


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
    parser.add_argument('--epochs', type=int, default=6, help='of each row (6)')
    for name in ('train', 'val'):
        parser.add_argument(
            f'--{name}',
            type=int,
            metavar='N',
            help=f'pictures or clips of the {name} split '
            f'({getattr(TASKS["classification"], name)} pictures, '
            f'{getattr(TASKS["video"], name)} clips)',
        )
    parser.add_argument(
        '--jobs', type=int, default=2, help='trainings at a time, one core each (2)'
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/ablations'),
        help='where trainings and the report go (work_dirs/ablations)',
    )
    parser.add_argument(
        '--data',
        type=Path,
        default=Path('data'),
        help='folder in which the data sets are or will be made (data)',
    )
    args = parser.parse_args(argv)
    unknown = [name for name in args.groups if name not in GROUPS]
    if unknown:
        parser.error(
            f'there is no group {", ".join(unknown)}; choose from {", ".join(GROUPS)}'
        )
    args.groups = [key for key in GROUPS if key in args.groups or not args.groups]
    args.seeds = list(dict.fromkeys(args.seeds))
    for name in ('epochs', 'train', 'val', 'jobs'):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f'--{name} must be at least 1, got {value}')
    return args


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    groups = [GROUPS[key] for key in args.groups]
    args.out.mkdir(parents=True, exist_ok=True)
    # Tables share rows, the default above all: each is trained once.
    runs = list(dict.fromkeys(run for g in groups for run in runs_of(g, args.seeds)))
    found = {run: stored_result(args, run) for run in runs}
    done = {run: top1 for run, top1 in found.items() if top1 is not None}
    sizes = {
        (key, row.name): measure(row, GROUPS[key].task)
        for key in args.groups
        for row in GROUPS[key].rows
    }
    left = [run for run in runs if run not in done]
    print(f'{len(runs)} trainings, {len(done)} of them done before', flush=True)
    for task in sorted({run.task for run in left}):
        make_data(args, task)

    jobs, start = Jobs(), time.monotonic()
    with ThreadPoolExecutor(args.jobs) as pool:
        try:
            futures = {pool.submit(train, args, run, jobs): run for run in left}
            for count, future in enumerate(as_completed(futures), start=1):
                run, top1 = futures[future], future.result()
                if top1 is None:
                    continue
                done[run] = top1
                write_report(args, done, sizes)
                spent = time.monotonic() - start
                rest = spent / count * (len(left) - count) / 60
                print(
                    f'[{count}/{len(left)}] {run.name}: top-1 {top1:.1f}; '
                    f'about {rest:.0f} min left',
                    flush=True,
                )
        except BaseException:
            jobs.stop()
            raise
    print(write_report(args, done, sizes))
    print(f'Wrote {args.out}/ablations.md, .json and .png')
    if len(done) < len(runs):
        fail(
            f'{len(runs) - len(done)} of {len(runs)} trainings failed, see above; the '
            'same command tries them again'
        )


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        print('\ninterrupted; the same command goes on with the rows that are left')
        sys.exit(130)
