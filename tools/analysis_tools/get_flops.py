"""Parameters and multiply-adds of a model, every matrix product counted.

Examples:
    python tools/analysis_tools/get_flops.py sparseformer-tiny
    python tools/analysis_tools/get_flops.py my_config.py --shape 384 384
    python tools/analysis_tools/get_flops.py my_detector.py --part features
    python tools/analysis_tools/get_flops.py my_video_config.py --shape 32 224 224
"""

import argparse
import json
from collections import defaultdict
from typing import Dict, Optional, Sequence

import torch
from torch import nn

from sparseformer_mm.models import AdaptiveMixing, SparseFormer, StaticMixing
from sparseformer_mm.utils.configs import PARTS, CfgOptions, build_model
from sparseformer_mm.utils.counting import MacReport, count_macs
from sparseformer_mm.utils.errors import fail

NOTE = (
    "Without the batched products of mixing, which the paper's counter leaves "
    'out: {:.2f} G. (Multiply-adds are called FLOPs in the paper.)'
)


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        'model',
        help='a config file, LIBRARY:CONFIG such as mmpretrain:swin-tiny, or '
        'sparseformer-tiny (-small, -base) for the plain classifier',
    )
    parser.add_argument(
        '--part', choices=PARTS, default='model', help='features: backbone and neck'
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        default=[224, 224],
        help='H W (224 224 if not given), or T H W for video',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        help='override settings of the config',
    )
    parser.add_argument(
        '--json', action='store_true', help='print JSON instead of a table'
    )
    args = parser.parse_args(argv)
    if len(args.shape) not in (2, 3) or min(args.shape) < 1:
        parser.error('--shape must be H W or T H W')
    return args


def own_macs(report: MacReport) -> Dict[str, int]:
    """Multiply-adds by module name, those of its children left out."""
    own = dict(report.by_module)
    for name, macs in report.by_module.items():
        parent = name
        while parent:
            parent = parent.rpartition('.')[0]
            if parent in own:  # lists of modules are never called themselves
                own[parent] -= macs
                break
    return own


def split(model: nn.Module, own: Dict[str, int]) -> Dict[str, dict]:
    """Shares of the model's parts; a SparseFormer's own parts one by one."""
    parts: Dict[str, dict] = defaultdict(lambda: dict(params=0, macs=0))
    backbones = [n for n, m in model.named_modules() if isinstance(m, SparseFormer)]

    def part(name: str) -> dict:
        depth = 2 if any(name.startswith(f'{b}.') for b in backbones) else 1
        path = name.split('.')
        if path[0] == 'model':  # the adapter around a host's model
            path = path[1:]
        return parts['.'.join(path[:depth]) or '(other)']

    for name, param in model.named_parameters():
        part(name)['params'] += param.numel()
    for name, macs in own.items():
        part(name)['macs'] += macs
    return {name: share for name, share in parts.items() if any(share.values())}


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    model = build_model(args.model, args.cfg_options, args.part)
    for module in model.modules():
        if isinstance(module, SparseFormer) and module.spatial_dims != len(args.shape):
            layout = 'T H W, e.g. 32 224 224' if module.spatial_dims == 3 else 'H W'
            fail(f'this model needs --shape {layout}, got {args.shape}')
    report = count_macs(model, torch.rand(1, 3, *args.shape))
    own = own_macs(report)
    parts = split(model, own)
    published = report.total - sum(
        own.get(name, 0)
        for name, module in model.named_modules()
        if isinstance(module, (AdaptiveMixing, StaticMixing))
    )
    if args.json:
        result = dict(
            input=[1, 3, *args.shape],
            params=report.params,
            macs=report.total,
            macs_as_published=published,
            parts=parts,
            by_op=report.by_op,
        )
        print(json.dumps(result, indent=2))
        return
    rows = [*parts.items(), ('total', dict(params=report.params, macs=report.total))]
    width = max(len(name) for name, _ in rows)
    print(f'{args.model}, one {"x".join(map(str, args.shape))} input\n')
    print(f'{"":{width}}  {"parameters":>13}  {"multiply-adds":>13}')
    for name, share in rows:
        print(f'{name:{width}}  {share["params"]:>13,}  {share["macs"] / 1e9:>11.4f} G')
    if published < report.total:
        print(f'\n{NOTE.format(published / 1e9)}')


if __name__ == '__main__':
    main()
