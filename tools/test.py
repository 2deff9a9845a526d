"""Test a model of mmpretrain, mmdet, mmseg or mmaction2.

The config's ``default_scope`` decides which library is meant.
"""

import argparse
import os
import os.path as osp
from copy import deepcopy
from functools import partial
from typing import Any

import mmengine
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process

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
    prepare_config,
)

# default_scope -> visualization hook, the key that switches it on, visualizer
VISUALIZATION = {
    'mmpretrain': ('VisualizationHook', 'enable', 'UniversalVisualizer'),
    'mmaction': ('VisualizationHook', 'enable', 'ActionVisualizer'),
    'mmdet': ('DetVisualizationHook', 'draw', 'DetLocalVisualizer'),
    'mmseg': ('SegVisualizationHook', 'draw', 'SegLocalVisualizer'),
}
# default_scope -> what merges test-time augmented predictions
TTA_MODELS = {
    'mmpretrain': dict(type='AverageClsScoreTTA'),
    'mmseg': dict(type='SegTTAModel'),
    'mmdet': dict(
        type='DetTTAModel',
        tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
    ),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument(
        '--out', metavar='FILE', help='write the predictions to FILE.pkl or FILE.json'
    )
    parser.add_argument(
        '--out-item',
        choices=['pred', 'metrics'],
        default='pred',
        help='what --out writes',
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
    return parser.parse_args()


def set_visualization(cfg: Config, args: argparse.Namespace) -> None:
    """Switch on the library's own visualization hook."""
    scope = cfg.get('default_scope')
    if scope not in VISUALIZATION:
        fail(f'--show and --show-dir are not known for {scope} configs')
    if args.tta and scope in ('mmpretrain', 'mmaction'):
        fail(
            f"{scope}'s visualization hook cannot draw several views of a "
            'sample: use --show and --show-dir without --tta'
        )
    kind, switch, visualizer = VISUALIZATION[scope]
    if cfg.get('visualizer') is None:
        cfg.visualizer = ConfigDict(
            type=visualizer, vis_backends=[dict(type='LocalVisBackend')]
        )
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    hook = hooks.get('visualization') or ConfigDict(type=kind)
    hook.update(
        {
            switch: True,
            'show': args.show,
            'interval': args.interval,
            'wait_time': args.wait_time,
        }
    )
    hooks.visualization = hook
    if args.show_dir is None:
        return
    folder = osp.abspath(args.show_dir)
    os.makedirs(folder, exist_ok=True)
    if scope == 'mmseg':
        cfg.visualizer.save_dir = folder
    else:
        hook['test_out_dir' if scope == 'mmdet' else 'out_dir'] = folder


def set_tta(cfg: Config) -> None:
    """Wrap model and pipeline for test-time augmentation."""
    scope = cfg.get('default_scope')
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'tta_model' not in cfg:
        if scope not in TTA_MODELS:
            fail(f'--tta needs tta_model and tta_pipeline in a {scope} config')
        cfg.tta_model = ConfigDict(TTA_MODELS[scope])
    if 'tta_pipeline' not in cfg:
        if scope not in TTA_MODELS:
            fail(f'--tta needs a tta_pipeline in a {scope} config')
        *steps, pack = deepcopy(list(dataset.pipeline))
        if scope == 'mmdet':
            pack.meta_keys = (
                'img_id',
                'img_path',
                'ori_shape',
                'img_shape',
                'scale_factor',
                'flip',
                'flip_direction',
            )
        # mmseg measures with the masks of the first view, flipped like its image.
        order = (0.0, 1.0) if scope == 'mmseg' else (1.0, 0.0)
        flips = [dict(type='RandomFlip', prob=p) for p in order]
        cfg.tta_pipeline = [
            *steps,
            dict(type='TestTimeAug', transforms=[flips, [pack]]),
        ]
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def set_dump(cfg: Config, pickled: str) -> None:
    """Let the library's own dumping metric write the predictions."""
    kind = 'DumpDetResults' if cfg.get('default_scope') == 'mmdet' else 'DumpResults'
    metrics = cfg.test_evaluator
    metrics = [*metrics] if isinstance(metrics, (list, tuple)) else [metrics]
    cfg.test_evaluator = [*metrics, dict(type=kind, out_file_path=pickled)]


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


def main() -> None:
    args = parse_args()
    if args.out and not args.out.endswith(('.pkl', '.pickle', '.json')):
        fail(f'--out {args.out}: the name must end in .pkl or .json')
    cfg = prepare_config(args)
    for key in ('model', 'test_dataloader', 'test_cfg', 'test_evaluator'):
        if cfg.get(key) is None:
            fail(f'{args.config} has no {key}, which testing needs')
    check_checkpoint(args.checkpoint)
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.amp:
        cfg.test_cfg.fp16 = True
    if args.show or args.show_dir:
        set_visualization(cfg, args)
    if args.tta:
        set_tta(cfg)
    pickled = ''
    if args.out and args.out_item == 'pred':
        pickled = osp.splitext(args.out)[0] + '.pkl'
        set_dump(cfg, pickled)

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
    if args.out and main_process:
        if args.out_item == 'metrics':
            mmengine.dump(plain(metrics), args.out)
        elif args.out != pickled and args.out.endswith('.json'):
            mmengine.dump(plain(mmengine.load(pickled)), args.out)
            os.remove(pickled)
    finish(args)


if __name__ == '__main__':
    main()
