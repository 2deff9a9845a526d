"""Predictions of a test, written to a file as they come."""

import json
import os
import pickle
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Iterable, Iterator, Sequence

import numpy as np
import torch
from mmengine.dist import barrier, get_rank, get_world_size, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS as ALL_METRICS

from ..registry import METRICS

# The last whose records can be put one after the other: each numbers its objects anew.
_PROTOCOL = 3


@METRICS.register_module()
class WritePredictions(BaseMetric):
    """Write predictions to a file, holding one batch at a time in memory.

    What is written of a sample is the library's matter. The file is not there before
    the test ends; until then each process writes ``.FILE.RANK.part`` beside it, and
    after an error those parts are left.

    Args:
        out_file_path: FILE.pkl or FILE.pickle for a list of dictionaries, FILE.json
            for the same with lists in the place of tensors.
        dump: type of a metric such as mmengine's ``DumpResults``, which collects what
            is written of a batch.
    """

    def __init__(self, out_file_path: str, dump: str = 'DumpResults'):
        super().__init__()
        self.path = Path(out_file_path).expanduser()
        self.dump = ALL_METRICS.build(dict(type=dump, out_file_path='unused.pkl'))
        self._started = False

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Write what the library's metric collects of a batch."""
        self.dump.process(data_batch, data_samples)
        with open(self._part(get_rank()), 'ab' if self._started else 'wb') as file:
            for sample in self.dump.results:
                pickle.dump(sample, file, _PROTOCOL)
        self.dump.results.clear()
        self._started = True

    def evaluate(self, size: int) -> dict:
        """Put the parts of all processes together, in the order of the data set.

        Args:
            size: number of samples; what was added to fill the last batch is left out.
        """
        if not self._started:  # fewer samples than processes
            self._part(get_rank()).write_bytes(b'')
        self._started = False
        barrier()
        if is_main_process():
            self._merge(size)
        return self.compute_metrics([])

    def compute_metrics(self, results: list) -> dict:
        """There is nothing to measure."""
        return {}

    def _part(self, rank: int) -> Path:
        return self.path.with_name(f'.{self.path.name}.{rank}.part')

    def _merge(self, size: int) -> None:
        parts = [self._part(rank) for rank in range(get_world_size())]
        whole = self.path.with_name(f'.{self.path.name}.part')
        with ExitStack() as stack:
            files = [stack.enter_context(open(part, 'rb')) for part in parts]
            samples = _take_turns([_read(file) for file in files], size)
            write = _write_json if self.path.suffix == '.json' else _write_pickle
            write(samples, stack.enter_context(open(whole, 'wb')))
        os.replace(whole, self.path)
        for part in parts:
            part.unlink()


def plain(value: Any) -> Any:
    """Predictions as JSON knows them."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, bytes):  # run-length encoded masks
        return value.decode()
    return value


def _read(file: IO[bytes]) -> Iterator[dict]:
    while True:
        try:
            yield pickle.load(file)
        except EOFError:
            return


def _take_turns(parts: Sequence[Iterator[dict]], size: int) -> Iterator[dict]:
    """Samples as mmengine's samplers deal them out to processes."""
    turns = (sample for turn in zip(*parts) for sample in turn)
    yield from (sample for _, sample in zip(range(size), turns))


def _write_json(samples: Iterable[dict], file: IO[bytes]) -> None:
    for index, sample in enumerate(samples):
        file.write(b',\n' if index else b'[\n')
        file.write(json.dumps(plain(sample)).encode())
    file.write(b'\n]\n')


def _write_pickle(samples: Iterable[dict], file: IO[bytes]) -> None:
    """One pickled list, of which one element is in memory at a time."""
    start = pickle.PROTO + bytes([_PROTOCOL])
    file.write(start + pickle.EMPTY_LIST)
    for sample in samples:
        record = pickle.dumps(sample, _PROTOCOL)
        file.write(record[len(start) : -len(pickle.STOP)] + pickle.APPEND)
    file.write(pickle.STOP)
