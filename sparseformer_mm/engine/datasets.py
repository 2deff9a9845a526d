"""Data sets of any library: what is inside wrappers, their steps, their checker."""

import logging
import random
import time
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Iterable, Iterator, List, Optional

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.registry import DefaultScope

from ..host import LIBRARIES, host_of

_REPORT_AFTER = 10  # seconds


def plain_datasets(dataset) -> Iterator[Any]:
    """The data sets inside wrappers that repeat, join, balance or mix them."""
    inner = getattr(dataset, 'datasets', None)
    if inner is None:
        inner = [getattr(dataset, 'dataset', None)]
    inner = [part for part in inner if hasattr(part, '__getitem__')]
    if not inner:
        yield dataset
    for part in inner:
        yield from plain_datasets(part)


def find_checker(dataset) -> Optional[ModuleType]:
    """The module with the checks of a data set's library; None if there is none.

    A class of one's own counts to the library that it is derived from, or else to the
    default scope's.
    """
    origins = [kind.__module__.partition('.')[0] for kind in type(dataset).__mro__]
    scope = DefaultScope.get_current_instance()
    if scope is not None:
        origins.append(scope.scope_name)
    for origin in origins:
        if origin in LIBRARIES:
            return host_of(origin).checks
    return None


def source_of(dataset) -> str:
    """The file, or else the folder, that a data set is made from."""
    if getattr(dataset, 'ann_file', ''):
        return str(dataset.ann_file)
    prefix = getattr(dataset, 'data_prefix', None)
    folders = [value for value in (prefix or {}).values() if value]
    return str(folders[0]) if folders else type(dataset).__name__


def pick(count: int, wanted: int, seed: int) -> List[int]:
    """Indices of a sample, in order; all if there are no more than wanted."""
    if count <= wanted:
        return list(range(count))
    return sorted(np.random.default_rng(seed).permutation(count)[:wanted].tolist())


def find_step(dataset, kind: str) -> Optional[Any]:
    """The first step of a pipeline whose class, or a base of it, begins with a name."""

    def search(steps):
        for step in steps:
            if any(base.__name__.startswith(kind) for base in type(step).__mro__):
                return step
            inner = search(getattr(step, 'transforms', None) or ())
            if inner is not None:
                return inner
        return None

    return search(getattr(getattr(dataset, 'pipeline', None), 'transforms', ()))


def with_progress(items: Iterable, what: str, total: int) -> Iterator[Any]:
    """Yield items; where that takes long, say how far it is."""
    last = time.monotonic()
    for index, item in enumerate(items):
        now = time.monotonic()
        if now - last > _REPORT_AFTER:
            last = now
            print_log(f'checking {what}: {index:,} of {total:,}', logger='current')
        yield item


def data_infos(dataset) -> Iterator[dict]:
    """What a data set knows of each sample, before it is loaded."""
    count = len(dataset)
    items = map(dataset.get_data_info, range(count))
    return with_progress(items, source_of(dataset), count)


def warn(message: str) -> None:
    """Say something in the log of the run."""
    print_log(message, logger='current', level=logging.WARNING)


@contextmanager
def own_randomness() -> Iterator[None]:
    """Let pipelines draw the same random numbers every time, and nobody else's."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)  # CPU only, where pipelines run
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
