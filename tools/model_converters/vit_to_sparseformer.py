"""Begin a SparseFormer with what it inherits from a trained vision transformer.

    python tools/model_converters/vit_to_sparseformer.py VIT_CONFIG VIT_CKPT OUT

VIT_CONFIG is a config of mmpretrain, or mmpretrain:NAME for one that it ships, whose
backbone is a VisionTransformer with class token; of a CLIP the visual tower is taken.
OUT has the last two thirds of its blocks, its class token, final norm and head under
SparseFormer's names; the rest is random. A BootstrapSparseFormer of
sparseformer_mm.classification starts with the same by itself; the file is for those who
want to look at it or to train it in another way (load_from=OUT).

What OUT belongs to is printed as a config.
"""

import argparse
from typing import Optional, Sequence

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import set_random_seed

from sparseformer_mm.models.arch import ARCHS
from sparseformer_mm.models.finding import CheckpointError
from sparseformer_mm.utils.checkpoints import check_checkpoint
from sparseformer_mm.utils.configs import find_config, load_config, require_library
from sparseformer_mm.utils.errors import fail
from sparseformer_mm.utils.outputs import check_writable, replacing

require_library('mmpretrain')
from mmpretrain.models import LinearNeck  # noqa: E402

from sparseformer_mm.classification.inheritance import (  # noqa: E402
    inherit_head,
    student_settings,
)
from sparseformer_mm.classification.teacher import (  # noqa: E402
    build_teacher,
    linear_neck,
)


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', metavar='VIT_CONFIG')
    parser.add_argument('checkpoint', metavar='VIT_CKPT', help='file or URL')
    parser.add_argument('out', metavar='OUT', help='file to write')
    parser.add_argument(
        '--student',
        metavar='CONFIG',
        help='take backbone, neck and head of this config; by default they follow the '
        'transformer, with a quarter of its tokens',
    )
    parser.add_argument('--seed', type=int, default=0, help='of what is random')
    return parser.parse_args(argv)


def student_of(teacher: torch.nn.Module) -> ConfigDict:
    """The parts of a SparseFormer classifier that can inherit from a teacher."""
    vit = teacher.backbone
    settings = student_settings(vit)
    arch = next(
        (
            name
            for name, arch in ARCHS.items()
            if all(
                arch.get(key, ARCHS['tiny'][key]) == value
                for key, value in settings.items()
                if key != 'norm_eps'
            )
        ),
        None,
    )
    student = dict(backbone=dict(type='sparseformer_mm.SparseFormer', arch=arch))
    if arch is None:
        heads = vit.embed_dims // settings['head_dims']
        rows, columns = vit.patch_resolution
        student['backbone'].update(
            arch='bootstrapped-base',
            # With the class token, a quarter of the patches.
            num_tokens=max(1, rows * columns // 4 - 1),
            focusing_dims=settings['head_dims'] * -(-heads // 2),
            **settings,
        )
    neck = teacher.neck
    if isinstance(neck, LinearNeck):
        student['neck'] = linear_neck(neck.in_channels, neck.out_channels)
    elif neck is not None:
        raise ValueError(
            f'its neck {type(neck).__name__} is not one linear layer: give --student '
            'CONFIG, whose neck is the same'
        )
    if teacher.head is not None:
        classes, width = inherit_head(teacher.head)['fc.weight'].value.shape
        student['head'] = dict(
            type='LinearClsHead', num_classes=classes, in_channels=width
        )
    return ConfigDict(student)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    named = args.config.startswith('mmpretrain:')
    cfg = load_config(find_config(args.config) if named else args.config)
    if cfg.get('model') is None:
        fail(f'{args.config} has no model')
    check_checkpoint(args.checkpoint)
    check_writable(args.out, args.checkpoint, args.config)
    weights = dict(type='Pretrained', checkpoint=args.checkpoint)
    source = dict(cfg.model, init_cfg=weights)
    set_random_seed(args.seed)
    init_default_scope('mmpretrain')
    try:
        if args.student:
            model = load_config(args.student).model
            student = {
                key: model[key] for key in ('backbone', 'neck', 'head') if key in model
            }
        else:
            student = student_of(build_teacher(source)[0])
        model = MODELS.build(
            dict(
                type='sparseformer_mm.classification.BootstrapSparseFormer',
                teacher=source,
                **student,
            )
        )
        model.init_weights()
    except (CheckpointError, ValueError, TypeError) as error:
        fail(f'{args.config}: {error}')
    with replacing(args.out) as file:
        torch.save(dict(state_dict=model.state_dict(), meta={}), file)
    print(f'{args.out}: written. It belongs to')
    print(Config(dict(model=dict(type='ImageClassifier', **student))).pretty_text)


if __name__ == '__main__':
    main()
