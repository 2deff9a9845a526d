"""Test a model of mmpretrain, mmdet, mmseg or mmaction2.

The config's ``default_scope`` decides which library is meant.
"""

import argparse
import os.path as osp
from functools import partial
from typing import Optional, Sequence

import mmengine
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process

from sparseformer_mm.engine.predictions import plain
from sparseformer_mm.host import host_of, packing_datasets
from sparseformer_mm.utils.checkpoints import (
    check_checkpoint,
    does_not_fit,
    forbid_reinit,
)
from sparseformer_mm.utils.errors import explain_errors, fail
from sparseformer_mm.utils.launch import (
    add_common_arguments,
    build_runner,
    finish,
    keep_freed_memory,
    prepare_config,
    prepare_kernels,
)
from sparseformer_mm.utils.outputs import check_folder, check_writable, replacing


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument(
        '--out',
        metavar='FILE',
        help='write the predictions, sample by sample, to FILE.pkl (a list of '
        'dictionaries with tensors) or FILE.json: scores and labels of classifiers; '
        'boxes, scores, labels and run-length encoded masks of detectors; of '
        'segmentors label maps, one byte per pixel, not the logits',
    )
    parser.add_argument(
        '--out-item',
        choices=['pred', 'metrics'],
        default='pred',
        help='what --out writes (default: %(default)s)',
    )
    parser.add_argument(
        '--allow-partial',
        action='store_true',
        help='go on when the checkpoint does not fit the model completely',
    )
    parser.add_argument(
        '--amp', action='store_true', help='test with automatic mixed precision'
    )
    parser.add_argument(
        '--show', action='store_true', help='show predictions in a window'
    )
    parser.add_argument('--show-dir', help='write predictions as pictures')
    parser.add_argument(
        '--interval', type=int, default=1, help='show every so many samples'
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that a window stays open'
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation, as the config says or by flips',
    )
    add_common_arguments(parser)
    return parser.parse_args(argv)


def set_visualization(cfg: Config, args: argparse.Namespace) -> None:
    """Switch on the library's own visualization hook."""
    host = host_of(cfg)
    drawing = host.drawing
    if drawing is None:
        fail(f'--show and --show-dir are not known for {host.scope} configs')
    if args.tta and not drawing.views:
        fail(
            f"{host.scope}'s visualization hook cannot draw several views of a "
            'sample: use --show and --show-dir without --tta'
        )
    if cfg.get('visualizer') is None:
        cfg.visualizer = ConfigDict(
            type=drawing.visualizer, vis_backends=[dict(type='LocalVisBackend')]
        )
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    hook = hooks.get('visualization') or ConfigDict(type=drawing.hook)
    hook.update(
        {
            drawing.switch: True,
            'show': args.show,
            'interval': args.interval,
            'wait_time': args.wait_time,
        }
    )
    hooks.visualization = hook
    if args.show_dir is None:
        return
    folder = osp.abspath(args.show_dir)
    check_folder(folder)
    if drawing.folder is None:
        cfg.visualizer.save_dir = folder
    else:
        hook[drawing.folder] = folder


def set_tta(cfg: Config) -> None:
    """Wrap model and pipeline for test-time augmentation."""
    host = host_of(cfg)
    datasets = list(packing_datasets(cfg.test_dataloader.dataset))
    if not datasets:
        fail('--tta finds no pipeline in the dataset of test_dataloader')
    for key in ('tta_model', 'tta_pipeline'):
        if key not in cfg and host.tta_model is None:
            fail(f'--tta needs tta_model and tta_pipeline in a {host.scope} config')
    if 'tta_model' not in cfg:
        cfg.tta_model = ConfigDict(host.tta_model)
    if 'tta_pipeline' not in cfg:
        cfg.tta_pipeline = host.tta_pipeline(datasets[0].pipeline)
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    for dataset in datasets:
        dataset.pipeline = cfg.tta_pipeline


def set_dump(cfg: Config, out: str) -> None:
    """Write what the library's own dumping metric collects."""
    metrics = cfg.test_evaluator
    metrics = [*metrics] if isinstance(metrics, (list, tuple)) else [metrics]
    kind = 'sparseformer_mm.WritePredictions'
    dump = dict(type=kind, out_file_path=out, dump=host_of(cfg).dump_metric)
    cfg.test_evaluator = [*metrics, dump]


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    if args.out and not args.out.endswith(('.pkl', '.pickle', '.json')):
        fail(f'--out {args.out}: the name must end in .pkl or .json')
    cfg = prepare_config(args)
    for key in ('model', 'test_dataloader', 'test_cfg', 'test_evaluator'):
        if cfg.get(key) is None:
            fail(f'{args.config} has no {key}, which testing needs')
    check_checkpoint(args.checkpoint)
    check_folder(cfg.work_dir)
    if args.out:
        check_writable(args.out)
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.amp:
        cfg.test_cfg.fp16 = True
    if args.show or args.show_dir:
        set_visualization(cfg, args)
    if args.tta:
        set_tta(cfg)
    if args.out and args.out_item == 'pred':
        set_dump(cfg, args.out)

    keep_freed_memory()
    prepare_kernels()
    runner = build_runner(cfg)
    main_process = is_main_process()
    if args.allow_partial:
        for module in runner.model.modules():
            if hasattr(module, 'allow_partial_load'):
                module.allow_partial_load = True
    else:
        forbid_reinit(runner.model)
        # The runner would only warn about weights that were not found.
        runner.load_checkpoint = partial(runner.load_checkpoint, strict=True)
    try:
        with explain_errors():
            metrics = runner.test()
    except RuntimeError as error:
        if not does_not_fit(error):
            raise
        lines = [
            line if len(line) < 300 else f'{line[:300]} ...'
            for line in str(error).splitlines()
            if line.strip()
        ]
        fail(
            f'{args.checkpoint} does not fit the model of {args.config}: use the '
            'config it was trained with (--allow-partial loads what fits). '
            + '\n'.join(lines)
        )
    if args.out and args.out_item == 'metrics' and main_process:
        with replacing(args.out) as file:
            mmengine.dump(plain(metrics), str(file))
    finish(args)


if __name__ == '__main__':
    main()
