"""Images per second and peak memory of several models, side by side.

All models are alive in one process and take turns (A B C A B C ...), so that
whatever slows the machine down meets each of them; speed is compared within a
round and the table gives the median of those ratios with their spread. Peak
memory is measured with each model alone in a process of its own.

Examples:
    python tools/analysis_tools/benchmark.py sparseformer-tiny \
        mmpretrain:swin-tiny mmpretrain:resnet50 --batch-size 8
    python tools/analysis_tools/benchmark.py my_config.py --mode train \
        --device cuda --amp fp16 --compile --markdown
"""

import argparse
import ctypes
import gc
import json
import platform
import statistics
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import torch
from torch import nn

from sparseformer_mm.models import kernels
from sparseformer_mm.utils import timing
from sparseformer_mm.utils.configs import PARTS, CfgOptions, build_model
from sparseformer_mm.utils.errors import fail
from sparseformer_mm.utils.launch import keep_freed_memory, prepare_kernels
from sparseformer_mm.utils.outputs import check_writable

# Of a model's second name.
WITHOUT = ' without kernels'


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        'models',
        nargs='+',
        help='sparseformer-{tiny,small,base,nano}, a config file, or '
        'LIBRARY:CONFIG such as mmpretrain:swin-tiny, mmpretrain:resnet50',
    )
    parser.add_argument(
        '--baseline', help='model the ratios refer to (the first one if not given)'
    )
    parser.add_argument(
        '--part', choices=PARTS, default='model', help='features: backbone and neck'
    )
    parser.add_argument('--mode', choices=['infer', 'train'], default='infer')
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        default=[224, 224],
        help='H W, or T H W for video',
    )
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu'
    )
    parser.add_argument('--amp', choices=sorted(timing.DTYPES))
    parser.add_argument('--compile', action='store_true')
    parser.add_argument(
        '--compile-mode',
        default='default',
        choices=['default', 'reduce-overhead', 'max-autotune'],
        help='of --compile; reduce-overhead replays CUDA graphs',
    )
    parser.add_argument('--channels-last', action='store_true')
    parser.add_argument('--threads', type=int, help='CPU threads of PyTorch')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--warmup', type=int, default=3, help='untimed steps per model')
    parser.add_argument(
        '--seconds', type=float, default=1.0, help='least time per model and round'
    )
    parser.add_argument(
        '--no-memory', action='store_true', help='leave out the peak memory'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        help='overrides for all models given as configs',
    )
    parser.add_argument(
        '--as-tools',
        action='store_true',
        help='with what tools/train.py and tools/test.py set on a CPU: freed memory is '
        'kept, and the optimizer fused; else as in a plain program',
    )
    parser.add_argument(
        '--products',
        action='store_true',
        help='also tell what the speed would be if all but matrix products and '
        'convolutions took no time',
    )
    parser.add_argument(
        '--without-kernels',
        action='store_true',
        help='each model once more, without the kernels compiled for this CPU',
    )
    parser.add_argument('--json', metavar='FILE', help='write the results')
    parser.add_argument(
        '--markdown', action='store_true', help='print the table as Markdown'
    )
    parser.add_argument('--memory-of', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if len(set(args.models)) < len(args.models):
        parser.error('each model can be given only once')
    if args.without_kernels:
        args.models = [name + end for name in args.models for end in ('', WITHOUT)]
        if args.device != 'cpu':
            parser.error('--without-kernels: they are for CPUs; add --device cpu')
    args.baseline = args.baseline or args.models[0]
    if args.baseline not in args.models:
        parser.error(f'--baseline {args.baseline} is not one of the models')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error('--device cuda: this PyTorch sees no CUDA device')
    if args.compile_mode != 'default' and not args.compile:
        parser.error(f'--compile-mode {args.compile_mode} is for --compile: add that')
    if args.as_tools and torch.cuda.is_available():
        parser.error('--as-tools: the tools set nothing where there is a GPU')
    if args.amp == 'fp16' and args.device == 'cpu':
        parser.error('--amp fp16 needs CUDA; use --amp bf16 on a CPU')
    if min(args.batch_size, args.rounds, *args.shape) < 1:
        parser.error('--batch-size, --rounds and --shape must be positive')
    return args


def build(name: str, args: argparse.Namespace) -> nn.Module:
    return build_model(name.partition(WITHOUT)[0], args.cfg_options, args.part)


def make_step(name: str, model: nn.Module, args: argparse.Namespace) -> Callable:
    """One forward pass, or one whole training step, on fixed noise."""
    step = timing.make_step(
        model,
        mode=args.mode,
        batch_size=args.batch_size,
        shape=args.shape,
        device=args.device,
        amp=args.amp,
        compile_mode=args.compile_mode if args.compile else None,
        channels_last=args.channels_last,
        fused=args.as_tools,
    )
    return kernels.without()(step) if name.endswith(WITHOUT) else step


def measure_speed(args: argparse.Namespace) -> Tuple[Dict[str, List[float]], dict]:
    """Images per second of each model in each round, and of its products alone."""
    steps, times = {}, {}
    for name in args.models:
        print(f'warming up {name}', file=sys.stderr, flush=True)
        steps[name] = make_step(name, build(name, args), args)
        timing.timed(steps[name], max(1, args.warmup), args.device)
        once = timing.timed(steps[name], 1, args.device)
        times[name] = max(1, round(args.seconds / once))
    speeds: Dict[str, List[float]] = {name: [] for name in args.models}
    gc.collect()
    gc.disable()
    try:
        for number in range(args.rounds):
            for name in args.models:
                seconds = timing.timed(steps[name], times[name], args.device)
                speeds[name].append(args.batch_size / seconds)
            print(
                f'round {number + 1}/{args.rounds}: '
                + ', '.join(
                    f'{name} {speed[-1]:.1f}' for name, speed in speeds.items()
                ),
                file=sys.stderr,
                flush=True,
            )
            gc.collect()
    finally:
        gc.enable()
    products = {}
    if args.products:
        for name, step in steps.items():
            seconds = timing.product_seconds(step, times[name], args.device)
            # Replayed graphs do not name their operators.
            products[name] = args.batch_size / seconds if seconds else None
    return speeds, products


def measure_own_memory(args: argparse.Namespace) -> Optional[float]:
    """Peak of this process in MiB: weights, activations, workspaces.

    On a CPU this is the growth of resident memory since the libraries were
    imported; on CUDA what PyTorch's allocator handed out.
    """
    on_cpu = args.device == 'cpu'
    if on_cpu and sys.platform != 'linux':
        return None
    # A first build imports everything and is thrown away.
    before = 0.0
    if on_cpu:
        build(args.memory_of, args)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # or the heap keeps what it freed
        before = timing.resident_mib(peak=False)
        model = build(args.memory_of, args)
        # Initialisation may have peaked higher than any step: start anew.
        Path('/proc/self/clear_refs').write_text('5')
    else:
        model = build(args.memory_of, args)
    step = make_step(args.memory_of, model, args)
    for _ in range(3):
        step()
    timing.synchronize(args.device)
    if on_cpu:
        return timing.resident_mib(peak=True) - before
    return torch.cuda.max_memory_allocated(args.device) / 2**20


def measure_memory(
    args: argparse.Namespace, argv: Sequence[str]
) -> Dict[str, Optional[float]]:
    """Run this script once more for each model, alone."""
    peaks = {}
    for name in args.models:
        print(f'memory of {name}', file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, __file__, *argv, '--memory-of', name],
            stdout=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            fail(f'the memory run of {name} ended with {done.returncode}')
        peaks[name] = json.loads(done.stdout.splitlines()[-1])
    return peaks


def spread(ratios: List[float]) -> dict:
    """Middle and spread of the ratios of all rounds."""
    low, middle, high = (
        statistics.quantiles(ratios, n=4, method='inclusive')
        if len(ratios) > 1
        else ratios * 3
    )
    return dict(median=middle, quartiles=[low, high], range=[min(ratios), max(ratios)])


def summarize(
    args: argparse.Namespace,
    speeds: Dict[str, List[float]],
    products: Dict[str, float],
    peaks: Dict[str, Optional[float]],
) -> dict:
    base = speeds[args.baseline]
    models = [
        dict(
            name=name,
            images_per_second=statistics.median(speeds[name]),
            over_baseline=spread([a / b for a, b in zip(speeds[name], base)]),
            baseline_over=spread([b / a for a, b in zip(speeds[name], base)]),
            products_per_second=products.get(name),
            peak_memory_mib=peaks.get(name),
            rounds=speeds[name],
        )
        for name in args.models
    ]
    on_cpu = args.device == 'cpu'
    return dict(
        settings=dict(
            mode=args.mode,
            part=args.part,
            batch_size=args.batch_size,
            shape=args.shape,
            amp=args.amp,
            compile=args.compile,
            compile_mode=args.compile_mode,
            channels_last=args.channels_last,
            as_tools=args.as_tools,
            without_kernels=args.without_kernels,
            rounds=args.rounds,
            baseline=args.baseline,
        ),
        environment=dict(
            # What torch computes with: imitated, it is not the processor's best.
            device=f'{platform.processor() or platform.machine()}, '
            f'{torch.backends.cpu.get_cpu_capability()}'
            f'{", with" if kernels.OPS else ", no"} kernels'
            if on_cpu
            else torch.cuda.get_device_name(args.device),
            device_type=args.device,
            torch=torch.__version__,
            threads=torch.get_num_threads(),
        ),
        models=models,
    )


def table(result: dict, markdown: bool) -> str:
    settings, environment = result['settings'], result['environment']
    base = settings['baseline']
    rows = [
        [
            'model',
            'images/s',
            f'times {base}',
            'quartiles',
            f'{base} is',
            'quartiles',
            'min..max',
            'peak MiB',
            'products alone, images/s',
        ]
    ]
    for model in result['models']:
        forth, back = model['over_baseline'], model['baseline_over']
        peak, products = model['peak_memory_mib'], model['products_per_second']
        rows.append(
            [
                model['name'],
                f'{model["images_per_second"]:.2f}',
                f'{forth["median"]:.2f}',
                '{:.2f}..{:.2f}'.format(*forth['quartiles']),
                f'{back["median"]:.2f}x',
                '{:.2f}..{:.2f}'.format(*back['quartiles']),
                '{:.2f}..{:.2f}'.format(*back['range']),
                '-' if peak is None else f'{peak:.0f}',
                '-' if products is None else f'{products:.2f}',
            ]
        )
    if all(row[-1] == '-' for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        ' | '.join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
    rule = ['-' * widths[0]] + ['-' * (w - 1) + ':' for w in widths[1:]]
    lines.insert(1, ' | '.join(rule))
    if markdown:
        lines = [f'| {line} |' for line in lines]
    about = (
        f'{settings["mode"]}, {settings["part"]}, batch {settings["batch_size"]}, '
        f'{"x".join(map(str, settings["shape"]))}, '
        f'{settings["amp"] or "fp32"}'
        f'{", compiled: " + settings["compile_mode"] if settings["compile"] else ""}'
        f'{", channels-last" if settings["channels_last"] else ""}'
        f'{", as the tools run" if settings["as_tools"] else ""}, '
        f'{settings["rounds"]} interleaved rounds; '
        f'{environment["device_type"]} ({environment["device"]}), '
        f'torch {environment["torch"]}, '
        f'{environment["threads"]} threads'
    )
    return '\n'.join([about, '', *lines])


def main(argv: Optional[Sequence[str]] = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    if args.json:
        check_writable(args.json)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.as_tools:
        with redirect_stdout(sys.stderr):
            prepare_kernels()
        keep_freed_memory()
    if args.without_kernels and not kernels.load():
        fail(
            '--without-kernels: there are none; `python -c "import sparseformer_mm; '
            'sparseformer_mm.build_kernels()"` compiles them, unless the environment '
            'says SPARSEFORMER_MM_KERNELS=0'
        )
    if args.memory_of:
        print(json.dumps(measure_own_memory(args)))
        return
    peaks = {} if args.no_memory else measure_memory(args, argv)
    result = summarize(args, *measure_speed(args), peaks)
    print(table(result, args.markdown))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
