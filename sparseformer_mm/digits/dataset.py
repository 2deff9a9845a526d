"""Building a whole data set of digits, or finding that it is there already."""

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Iterable, Iterator, List

import cv2
import numpy as np

from .clips import check_encoder
from .scenes import Scene, SceneSampler, load_source_digits, split_sources
from .tasks import TASKS, Task, write_json, write_samples

MANIFEST = 'digits_manifest.json'
SPLITS = ('train', 'val')


def make_scenes(
    task: Task,
    sampler: SceneSampler,
    seed: int,
    split: str,
    count: int,
    options: dict,
) -> Iterator[Scene]:
    """Draw the scenes (or clips) of a split.

    Each has a generator of its own: a smaller set with the same seed is the
    beginning of a larger one.
    """
    for index in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        yield task.compose(sampler, rng, index, **options)


def show_progress(
    scenes: Iterable[Scene], count: int, name: str, noun: str, used: List[int]
) -> Iterator[Scene]:
    """Pass scenes on and report how far they are.

    Args:
        scenes: The scenes.
        count: How many there will be.
        name: The split, for the report.
        noun: What the scenes are, for the report.
        used: Collects the source digits which the scenes show.
    """
    start = last = time.monotonic()
    live = sys.stdout.isatty()
    for done, scene in enumerate(scenes, start=1):
        yield scene
        used.extend(digit.source for digit in scene.digits)
        now = time.monotonic()
        if done == count or now - last >= (0.2 if live else 5):
            last = now
            left = (now - start) / done * (count - done)
            line = f'{name}: {done}/{count} {noun}, {left:.0f} s left'
            print(
                f'\r{line} ' if live else line,
                end='\n' if done == count or not live else '',
                flush=True,
            )


def build(root: Path, arguments: dict) -> None:
    """Write the whole data set into an existing empty folder."""
    task = TASKS[arguments['task']]
    pixels, labels = load_source_digits()
    manifest = dict(
        format=task.format,
        arguments=arguments,
        versions=dict(numpy=np.__version__, opencv=cv2.__version__),
    )
    options = {name: arguments[name] for name in task.options}
    if options.get('format') == 'mp4':
        manifest['versions']['av'] = check_encoder()
    for split, sources in split_sources(labels).items():
        sampler = SceneSampler(
            pixels, labels, sources, arguments['size'], tuple(arguments['digit_size'])
        )
        count = arguments[split]
        scenes = make_scenes(task, sampler, arguments['seed'], split, count, options)
        used: List[int] = []
        scenes = show_progress(scenes, count, split, task.noun, used)
        task.write(root, split, scenes, **options)
        manifest[f'{split}_sources'] = sorted(set(used))
        if split == 'val':
            scenes = make_scenes(
                task,
                sampler,
                arguments['seed'],
                split,
                min(count, task.samples),
                options,
            )
            write_samples(root, map(task.draw, scenes), task.columns)
    manifest['num_files'] = count_files(root)
    # The manifest comes last: without it the set counts as half written.
    write_json(root / MANIFEST, manifest)


def count_files(root: Path) -> int:
    """Count all files below a folder but the manifest."""
    total = sum(len(files) for _, _, files in os.walk(root))
    return total - (root / MANIFEST).exists()


def inspect(out: Path, arguments: dict) -> str:
    """Say what lies at ``out``.

    Returns:
        'nothing', 'same' (complete, with these arguments), 'other'
        (with other arguments, or by an earlier version), 'broken' (incomplete)
        or 'foreign'; 'same, more' and 'other, more' with files beside those
        that the tool made.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return 'nothing'
    if not (out / MANIFEST).is_file():
        return 'foreign'
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding='utf-8'))
        made_with = manifest['format'], manifest['arguments']
        surplus = count_files(out) - manifest['num_files']
    except (ValueError, KeyError, TypeError):
        return 'broken'
    more = ', more' if surplus > 0 else ''
    if made_with != (TASKS[arguments['task']].format, arguments):
        return f'other{more}'
    return 'broken' if surplus < 0 else f'same{more}'


def make_dataset(out: Path, arguments: dict, force: bool = False) -> bool:
    """Build a data set unless it is there already.

    Args:
        out: Where it goes; a folder of this tool or a new one.
        arguments: task, train, val, size, digit_size, seed and those
            which only this task has.
        force: Build anew what this tool has built before.

    Returns:
        Whether it was built, False if it was there.
    """
    # A link to a larger disk stays a link.
    out = out.resolve()
    state = inspect(out, arguments)
    if state == 'foreign':
        raise SystemExit(
            f'{out} exists and has no {MANIFEST}, so it was not made by this '
            'tool and is left alone, --force or not. Name another folder, or '
            'remove it yourself.'
        )
    state, _, more = state.partition(', ')
    if state == 'other' and not force:
        raise SystemExit(
            f'{out} holds a data set made with other arguments (see its '
            f'{MANIFEST}) or by an earlier version of this tool. Use --force to '
            'replace it, or name another folder.'
        )
    if state == 'same' and not force:
        print(f'{out} is complete; nothing to do.')
        return False
    if more:
        raise SystemExit(
            f'{out} holds files that this tool did not make; building it anew would '
            'delete them, so it is left alone. Move them away, or name another folder.'
        )
    if state == 'broken':
        print(f'{out} is incomplete; building it anew.')
    # Built beside and renamed, so that `out` is never half written.
    partial = out.with_name(f'.{out.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        build(partial, arguments)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True
