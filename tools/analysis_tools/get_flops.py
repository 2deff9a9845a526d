"""Parameters and multiply-adds of a model, every matrix product counted.

Examples:
    python tools/analysis_tools/get_flops.py --arch tiny
    python tools/analysis_tools/get_flops.py my_config.py --shape 384 384
    python tools/analysis_tools/get_flops.py --arch tiny --shape 32 224 224
"""

import argparse
import json
from typing import Dict, Optional, Sequence

import torch
from mmengine.config import DictAction
from torch import nn

from sparseformer_mm.models import SparseFormer
from sparseformer_mm.models.arch import ARCHS
from sparseformer_mm.models.decoding import AdaptiveMixing, StaticMixing
from sparseformer_mm.utils.configs import build_model
from sparseformer_mm.utils.counting import MacReport, count_macs
from sparseformer_mm.utils.errors import fail

NOTE = (
    "Without the batched products of mixing, which the paper's counter leaves "
    'out: {:.2f} G. (Multiply-adds are called FLOPs in the paper.)'
)


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        'config',
        nargs='?',
        help='a config file, or LIBRARY:CONFIG such as mmpretrain:swin-tiny',
    )
    parser.add_argument(
        '--arch',
        choices=sorted(ARCHS),
        help='a plain SparseFormer instead of a config',
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        default=[224, 224],
        help='H W (224 224 if not given), or T H W for video',
    )
    parser.add_argument(
        '--token-inflation',
        type=int,
        default=8,
        help='of --arch with a video shape (8)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config',
    )
    parser.add_argument(
        '--json', action='store_true', help='print JSON instead of a table'
    )
    args = parser.parse_args(argv)
    if (args.config is None) == (args.arch is None):
        parser.error('give either a config or --arch')
    if len(args.shape) not in (2, 3) or min(args.shape) < 1:
        parser.error('--shape must be H W or T H W')
    return args


def build(args: argparse.Namespace) -> nn.Module:
    if args.config is not None:
        return build_model(args.config, args.cfg_options)
    video = dict(spatial_dims=3, token_inflation=args.token_inflation)
    return build_model(
        f'sparseformer-{args.arch}', **(video if len(args.shape) == 3 else {})
    )


def split(model: nn.Module, report: MacReport) -> Dict[str, dict]:
    """Shares of the model's parts; a SparseFormer's own parts one by one."""
    parts: Dict[str, dict] = {}

    def macs(name: str, module: nn.Module) -> int:
        if name in report.by_module:
            return report.by_module[name]
        # Lists of modules are never called themselves.
        return sum(
            macs(f'{name}.{child}', part) for child, part in module.named_children()
        )

    def visit(name: str, label: str, module: nn.Module) -> None:
        for child, part in module.named_children():
            path = f'{name}.{child}' if name else child
            title = f'{label}.{child}' if label else child
            if child == 'model' and not label:
                visit(path, '', part)  # the adapter around a host's model
            elif isinstance(part, SparseFormer):
                visit(path, title, part)
            else:
                params = sum(p.numel() for p in part.parameters())
                if params or macs(path, part):
                    parts[title] = dict(params=params, macs=macs(path, part))

    visit('', '', model)
    for key, total in (('params', report.params), ('macs', report.total)):
        rest = total - sum(part[key] for part in parts.values())
        if rest:
            parts.setdefault('(other)', dict(params=0, macs=0))[key] = rest
    return parts


def mixing_macs(model: nn.Module, report: MacReport) -> int:
    """The products of features with mixing weights, inside all decoders."""
    total = 0
    for name, module in model.named_modules():
        if isinstance(module, (AdaptiveMixing, StaticMixing)):
            inside = sum(
                report.by_module[f'{name}.{child}']
                for child, _ in module.named_children()
                if f'{name}.{child}' in report.by_module
            )
            total += report.by_module[name] - inside
    return total


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    model = build(args)
    for part in model.modules():
        if isinstance(part, SparseFormer) and part.spatial_dims != len(args.shape):
            layout = 'T H W, e.g. 32 224 224' if part.spatial_dims == 3 else 'H W'
            fail(f'this model needs --shape {layout}, got {args.shape}')
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, *args.shape, generator=generator)
    report = count_macs(model, image)
    parts = split(model, report)
    published = report.total - mixing_macs(model, report)
    if args.json:
        print(
            json.dumps(
                dict(
                    input=[1, 3, *args.shape],
                    params=report.params,
                    macs=report.total,
                    macs_as_published=published,
                    parts=parts,
                    by_op=report.by_op,
                ),
                indent=2,
            )
        )
        return
    rows = [*parts.items(), ('total', dict(params=report.params, macs=report.total))]
    width = max(len(name) for name, _ in rows)
    shape = 'x'.join(map(str, args.shape))
    print(f'{args.config or "sparseformer-" + args.arch}, one {shape} input\n')
    print(f'{"":{width}}  {"parameters":>13}  {"multiply-adds":>13}')
    for name, part in rows:
        print(f'{name:{width}}  {part["params"]:>13,}  {part["macs"] / 1e9:>11.4f} G')
    if published < report.total:
        print(f'\n{NOTE.format(published / 1e9)}')


if __name__ == '__main__':
    main()
