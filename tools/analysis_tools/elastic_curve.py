"""Accuracy, multiply-adds and time of a classifier with fewer of its tokens.

Tests one checkpoint with several numbers of tokens (``test_tokens`` of the backbone),
and picture by picture: with few tokens first, and with more where the answer is not
certain. For pictures (mmpretrain) and videos (mmaction2, one view).

Examples:
    python tools/analysis_tools/elastic_curve.py CONFIG CHECKPOINT --tokens 4 9 16
    python tools/analysis_tools/elastic_curve.py CONFIG CHECKPOINT --tokens 4 9 16 \
        --start 4 9 --certainty 0.6 0.8 --batch-size 1 --markdown --json curve.json
"""

import argparse
import copy
import json
import statistics
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor, nn

from sparseformer_mm.host import Host, host_of
from sparseformer_mm.models.elastic import answer_when_certain
from sparseformer_mm.utils.checkpoints import load_model
from sparseformer_mm.utils.configs import CfgOptions, load_config
from sparseformer_mm.utils.counting import count_macs
from sparseformer_mm.utils.errors import fail
from sparseformer_mm.utils.outputs import check_writable
from sparseformer_mm.utils.timing import synchronize


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config file of a classifier')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument(
        '--tokens',
        type=int,
        nargs='+',
        help='numbers of tokens (a quarter, a half, three quarters and all)',
    )
    parser.add_argument(
        '--certainty',
        type=float,
        nargs='+',
        default=[],
        help='also picture by picture: with as many tokens as --start, then with all '
        'of --tokens above until the highest probability is so high',
    )
    parser.add_argument(
        '--start', type=int, nargs='+', help='of --certainty (the least of --tokens)'
    )
    parser.add_argument('--batch-size', type=int, help="instead of the config's")
    parser.add_argument('--max-samples', type=int, help='test with the first ones only')
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        help='override settings of the config',
    )
    parser.add_argument('--json', metavar='FILE', help='write the results')
    parser.add_argument(
        '--markdown', action='store_true', help='print the table as Markdown'
    )
    args = parser.parse_args(argv)
    for name in ('batch_size', 'max_samples'):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1')
    return args


class Way(NamedTuple):
    """A way to answer: with these numbers of tokens in turn, until it is certain."""

    tokens: Tuple[int, ...]
    certainty: float = 0.0

    @property
    def name(self) -> str:
        if len(self.tokens) == 1:
            return str(self.tokens[0])
        return f'{", ".join(map(str, self.tokens))} until {self.certainty:g}'


def find_ways(args: argparse.Namespace, most: int) -> List[Way]:
    """All rows of the table."""
    tokens = args.tokens or [max(1, most * quarter // 4) for quarter in (1, 2, 3, 4)]
    tokens = sorted(set(tokens))
    if tokens[0] < 1 or tokens[-1] > most:
        fail(f'--tokens {tokens}: the model has 1 to {most} tokens (of a picture)')
    ways = [Way((number,)) for number in tokens]
    for start in args.start or tokens[:1]:
        if start not in tokens[:-1] and args.certainty:
            fail(f'--start {start} must be one of --tokens {tokens}, but not the last')
        rising = tuple(number for number in tokens if number >= start)
        ways += [Way(rising, certainty) for certainty in args.certainty]
    return ways


def batches(
    cfg: Config, host: Host, model: nn.Module, args: argparse.Namespace
) -> Iterator[Tuple[Tensor, Tensor]]:
    """Inputs and true classes (B,) of the config's test data."""
    loader = dict(copy.deepcopy(host.loader_defaults), **cfg.test_dataloader)
    # Loading is not timed, and needs no processes of its own.
    loader.update(num_workers=0, persistent_workers=False, pin_memory=False)
    loader.pop('prefetch_factor', None)
    if args.batch_size:
        loader['batch_size'] = args.batch_size
    left = args.max_samples or float('inf')
    for batch in Runner.build_dataloader(loader, seed=0):
        data = model.data_preprocessor(batch, False)
        inputs, samples = data['inputs'], data['data_samples']
        if host.takes_videos:
            if inputs.shape[1] != 1:
                fail(
                    f'the test pipeline gives {inputs.shape[1]} views of a video, and '
                    'here is one: set num_clips=1 and a crop at the center'
                )
            inputs = inputs[:, 0]
        labels = [sample.gt_label for sample in samples]
        if any(label.numel() != 1 for label in labels):
            fail('the samples have several classes each: only one can be counted here')
        number = int(min(left, len(inputs)))
        yield inputs[:number], torch.stack(labels).flatten()[:number].cpu()
        left -= number
        if not left:
            return


def timed(device: str, run: Callable, *args):
    """What a function gives, and the seconds it took."""
    synchronize(device)
    start = time.perf_counter()
    result = run(*args)
    synchronize(device)
    return result, time.perf_counter() - start


def measure(
    cfg: Config, model: nn.Module, ways: Sequence[Way], args: argparse.Namespace
) -> List[dict]:
    """Answer all test data in every way; the ways take turns batch by batch."""
    host = host_of(cfg)

    def forward(inputs: Tensor) -> Tensor:
        logits = host.forward(model, inputs)
        return logits[-1] if isinstance(logits, (list, tuple)) else logits

    def answer(way: Way, inputs: Tensor):
        return answer_when_certain(model, inputs, way.tokens, way.certainty, forward)

    macs: Dict[int, int] = {}
    right = dict.fromkeys(ways, 0)
    used = {way: dict.fromkeys(way.tokens, 0) for way in ways}
    seconds: Dict[Way, List[float]] = {way: [] for way in ways}
    total = 0
    for inputs, labels in batches(cfg, host, model, args):
        if not total:
            for way in ways:
                if len(way.tokens) == 1:
                    model.backbone.test_tokens = way.tokens[0]
                    macs[way.tokens[0]] = count_macs(forward, inputs[:1]).total
                answer(way, inputs)  # untimed
        total += len(labels)
        for way in ways:
            found, spent = timed(args.device, answer, way, inputs)
            seconds[way].append(spent / len(labels))
            right[way] += int((found.logits.argmax(1).cpu() == labels).sum())
            for number in found.num_tokens.tolist():
                used[way][number] += 1
    if not total:
        fail('there are no test data')
    rows = []
    for way in ways:
        shares = {number: count / total for number, count in used[way].items()}
        # A picture that was answered with more tokens ran with all fewer before.
        spent = sum(
            share * sum(macs[n] for n in way.tokens if n <= number)
            for number, share in shares.items()
        )
        rows.append(
            dict(
                tokens=list(way.tokens),
                certainty=way.certainty if len(way.tokens) > 1 else None,
                name=way.name,
                macs=spent,
                milliseconds=1000 * statistics.mean(seconds[way]),
                top1=100 * right[way] / total,
                answered_with=shares,
                samples=total,
            )
        )
    return rows


def table(rows: Sequence[dict], markdown: bool) -> str:
    cells = [['tokens', 'multiply-adds (M)', 'ms each', 'top-1', 'answered with']]
    for row in rows:
        shares = ', '.join(
            f'{number}: {100 * share:.0f} %'
            for number, share in row['answered_with'].items()
        )
        cells.append(
            [
                row['name'],
                f'{row["macs"] / 1e6:.1f}',
                f'{row["milliseconds"]:.2f}',
                f'{row["top1"]:.2f}',
                shares if len(row['tokens']) > 1 else '',
            ]
        )
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = [' | '.join(map(str.ljust, line, widths)) for line in cells]
    lines.insert(1, ' | '.join('-' * width for width in widths))
    return '\n'.join(f'| {line} |' if markdown else line.rstrip() for line in lines)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    if args.json:
        check_writable(args.json)
    cfg = load_config(args.config, args.cfg_options)
    host = host_of(cfg)
    if host.task not in ('classification', 'video'):
        fail(f'{args.config} is no classifier of pictures or videos')
    if cfg.get('test_dataloader') is None:
        fail(f'{args.config} has no test_dataloader')
    model = load_model(cfg, args.checkpoint, args.device, host.check_model)
    ways = find_ways(args, model.backbone.latent.num_tokens)
    rows = measure(cfg, model, ways, args)
    print(
        f'{args.config}, {rows[0]["samples"]} samples, {args.device}, '
        f'torch {torch.__version__}, {torch.get_num_threads()} threads\n'
    )
    print(table(rows, args.markdown))
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=2) + '\n')


if __name__ == '__main__':
    main()
