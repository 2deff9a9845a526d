"""Time and memory of the decode head's attention, 'lean' against 'plain'.

Both take turns in one process; each one's peak memory is measured in a process of
its own, above what was in use before the step. CPU only.

Example:
    python tools/analysis_tools/benchmark_attention.py --shape 1024 2048 --tokens 400
"""

import argparse
import ctypes
import gc
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

import torch
from benchmark import resident_mib

from sparseformer_mm.models.location_attention import LocationAwareAttention

IMPLS = ('plain', 'lean')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--shape', type=int, nargs=2, default=[512, 512], help='of the image, H W'
    )
    parser.add_argument('--tokens', type=int, default=400)
    parser.add_argument('--dims', type=int, default=512, help='width of the tokens')
    parser.add_argument('--mode', choices=['inference', 'train'], default='inference')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--memory-of', choices=IMPLS, help=argparse.SUPPRESS)
    return parser.parse_args()


def make_step(impl: str, args: argparse.Namespace) -> Callable:
    torch.manual_seed(0)
    attention = LocationAwareAttention(96, args.dims, args.dims, impl=impl)
    height, width = (-(-side // 4) for side in args.shape)
    train = args.mode == 'train'
    feature = torch.randn(1, height, width, 96, requires_grad=train)
    tokens = torch.randn(1, args.tokens, args.dims, requires_grad=train)
    rois = torch.rand(1, args.tokens, 4).requires_grad_(train)

    def step():
        with torch.set_grad_enabled(train):
            out = attention(feature, tokens, rois)
            if train:
                out.mean().backward()

    return step


def own_peak(impl: str, args: argparse.Namespace) -> float:
    """Peak of one step in MiB above what is in use before it."""
    step = make_step(impl, args)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or the heap keeps what it freed
    before = resident_mib(peak=False)
    Path('/proc/self/clear_refs').write_text('5')
    step()
    return resident_mib(peak=True) - before


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(own_peak(args.memory_of, args))
        return
    steps = {impl: make_step(impl, args) for impl in IMPLS}
    seconds = {impl: [] for impl in IMPLS}
    for step in steps.values():
        step()
    for _ in range(args.rounds):
        for impl, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[impl].append(time.perf_counter() - start)
    print(f'{args.mode}, {args.shape[0]} x {args.shape[1]}, {args.tokens} tokens')
    for impl in IMPLS:
        command = [sys.executable, *sys.argv, '--memory-of', impl]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        peak = float(done.stdout.splitlines()[-1])
        print(f'{impl:6} {statistics.median(seconds[impl]):7.3f} s {peak:7.0f} MiB')
    ratios = [a / b for a, b in zip(seconds['plain'], seconds['lean'])]
    print(f'lean is {statistics.median(ratios):.2f} times as fast as plain')


if __name__ == '__main__':
    main()
