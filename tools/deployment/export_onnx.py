"""Write a trained model as ONNX, for programs without PyTorch.

Works for the configs of all four tasks:

- classification: logits (B, classes).
- detection: boxes (B, n, 4) as x1, y1, x2, y2 in pixels of the input, scores (B, n)
  from high to low, labels (B, n): all that is left to do is to drop low scores.
- segmentation: logits (B, classes, H, W) at the input's size. What a config with
  sliding inference does with one window.
- video: logits (B, classes) of clips (B, 3, T, H, W), one clip or view at a time.

The input, named "input", is what the network gets: float32, resized to the size of
the input (all of it: nothing is padded), in the metadata's channel_order, minus mean,
over std. With --with-preprocess it is RGB in 0..255 and the file does the rest.
The file's metadata_props say which of the two, and hold task, input_size, mean, std,
channel_order and classes (JSON where they are lists).

Examples:
    python tools/deployment/export_onnx.py CONFIG CHECKPOINT --out model.onnx \\
        --shape 224 224 --check
    python tools/deployment/export_onnx.py CONFIG CHECKPOINT --shape 800 1333 --batch 1
    python tools/deployment/export_onnx.py VIDEO_CONFIG CHECKPOINT --shape 16 112 112
"""

import argparse
import os
from typing import Optional, Sequence

import torch
from mmengine.config import Config
from torch import nn

from sparseformer_mm.deployment import check, export
from sparseformer_mm.host import LIBRARIES, host_of, packing_datasets
from sparseformer_mm.utils.checkpoints import load_model
from sparseformer_mm.utils.configs import CfgOptions, load_config
from sparseformer_mm.utils.errors import fail
from sparseformer_mm.utils.outputs import check_writable, replacing


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='a config file')
    parser.add_argument('checkpoint', help='its trained weights')
    parser.add_argument('--out', help='the file to write (CONFIG_NAME.onnx)')
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        metavar='SIDE',
        help='H W of pictures, T H W of clips (what the test pipeline makes, if it '
        'makes one size)',
    )
    parser.add_argument(
        '--dynamic-size',
        action='store_true',
        help='take pictures of any height and width; --shape is then an example',
    )
    parser.add_argument(
        '--batch',
        default='dynamic',
        help="'dynamic' for any, or a number for exactly that many",
    )
    parser.add_argument(
        '--opset',
        type=int,
        default=export.DEFAULT_OPSET,
        help=f'of ONNX, {export.LEAST_OPSET} or later ({export.DEFAULT_OPSET}, the '
        'last that torch 2.1 writes; torch 2.11 also writes 18 to 20)',
    )
    parser.add_argument(
        '--sampler',
        choices=['auto', 'grid', 'gather'],
        default='auto',
        help="how the map is sampled: 'grid' by GridSample (pictures from opset 16, "
        "clips from 20), 'gather' in plain operations of any opset; 'auto': "
        'grid for pictures where the opset has it, else gather',
    )
    parser.add_argument(
        '--with-preprocess',
        action='store_true',
        help='put the normalisation into the file, which then takes RGB in 0..255',
    )
    parser.add_argument(
        '--raw',
        action='store_true',
        help='what the head gives: of detectors class logits (B, N, classes, + 1 with '
        'softmax) and boxes (B, N, 4) as center and size relative to the input, of '
        "segmentors logits at the head's size",
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='run the file with onnxruntime on random pictures, print the largest '
        'difference from torch, and fail if it exceeds '
        f'{check.TOLERANCE} (relative, for values above 1)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='override settings of the config',
    )
    args = parser.parse_args(argv)
    if args.shape is not None and min(args.shape) < 1:
        parser.error('--shape must hold positive numbers')
    if args.batch == 'dynamic':
        args.batch = None
    elif args.batch.isdigit() and int(args.batch) > 0:
        args.batch = int(args.batch)
    else:
        parser.error("--batch must be 'dynamic' or a positive number")
    if args.out is None:
        stem = os.path.splitext(os.path.basename(args.config))[0]
        args.out = f'{stem}.onnx'
    return args


def class_names(model: nn.Module, cfg: Config) -> Optional[Sequence[str]]:
    """Those of the checkpoint, else of the config; None if neither knows them."""
    names = model.trained_classes
    if not names and cfg.get('test_dataloader') is not None:
        dataset = next(packing_datasets(cfg.test_dataloader.dataset), {})
        meta = dataset.get('metainfo') or {}
        names = meta.get('classes')
    return [names] if isinstance(names, str) else names


def report(module: export.Exportable, data: bytes, shapes: list) -> None:
    """Print the differences; fail if one is too large."""
    differences = check.compare(module, check.onnx_runner(module, data), shapes)
    for difference in differences:
        shape = 'x'.join(map(str, difference.shape))
        print(
            f'input {shape}, {difference.name}: largest difference '
            f'{difference.largest:.2e} (values up to {difference.scale:.4g})'
        )
    if all(difference.is_fine for difference in differences):
        return
    rounding = check.compare(module, check.float64_runner(module), shapes)
    worst = max(zip(differences, rounding), key=lambda pair: pair[0].share)
    fail(
        f'onnxruntime and torch differ by more than {check.TOLERANCE}. The file '
        f'is written; do not trust it unless the model itself is as sensitive: '
        f'{worst[0].name} differ by {worst[0].largest:.2e}, and in torch between '
        f'float32 and float64 by {worst[1].largest:.2e}'
    )


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    try:
        for package in ('onnx', 'onnxruntime') if args.check else ('onnx',):
            export.need(package)
    except ModuleNotFoundError as error:
        fail(str(error))
    check_writable(args.out, args.config, args.checkpoint)
    cfg = load_config(args.config, args.cfg_options)
    if 'model' not in cfg:
        fail(f'config {args.config} has no model')
    host = host_of(cfg)
    if host.task is None:
        fail(
            f'default_scope of {args.config} is {cfg.get("default_scope")!r}, none of '
            f'{", ".join(LIBRARIES)}: no such model can be exported'
        )
    model = load_model(cfg, args.checkpoint, check=host.check_answer)
    try:
        module = export.Exportable(model, host.scope, args.raw, args.with_preprocess)
        layout = 'T H W' if module.rank == 3 else 'H W'
        size = args.shape or host.input_size(cfg)
        if size is None:
            fail(
                f'the test pipeline of {args.config} does not say which size its '
                f'output has: give it with --shape {layout}'
            )
        if len(size) != module.rank:
            fail(f'--shape must be {layout} for this model, not {size}')
        proto = export.to_onnx(
            module,
            size,
            args.opset,
            args.batch,
            args.dynamic_size,
            args.sampler,
            class_names(model, cfg),
        )
    except ValueError as error:
        fail(str(error))
    data = proto.SerializeToString()
    with replacing(args.out) as file:
        file.write_bytes(data)
    print(
        f'{args.out}: {module.task}, opset {args.opset}, {len(data) / 2**20:.1f} MiB, '
        f'input {args.batch or "batch"} x {module.channels} x '
        f'{" x ".join(map(str, size))}'
    )
    if args.check:
        sizes = [size]
        if args.dynamic_size:
            sizes.append([*size[:-2], size[-2] + 20, max(1, size[-1] - 12)])
        batches = [1, 3] if args.batch is None else [args.batch]
        shapes = [(n, module.channels, *one) for one in sizes for n in batches]
        report(module, data, shapes)


if __name__ == '__main__':
    torch.set_grad_enabled(False)
    main()
