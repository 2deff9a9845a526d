"""Convert SparseFormer checkpoints between the authors' names and this package's.

    python tools/model_converters/showlab_to_mm.py SRC DST          # authors -> mm
    python tools/model_converters/showlab_to_mm.py SRC DST --to v1  # and back
    python tools/model_converters/showlab_to_mm.py SRC --check      # only report
    python tools/model_converters/showlab_to_mm.py SRC DST --text-tower CLIP

SRC may be in any of the four layouts (mm, v1: the authors' training code, v2: their
later library, bootstrapped: the second paper's models in it), wrapped or not, or a
safetensors file; of several copies the averaged (EMA) one is taken. From mm to mm
every tensor of the model is kept, its neck and head too, and prefixes such as
``module.``, ``_orig_mod.`` or Lightning's ``model.`` are taken away. The authors'
files become those of a model of mmpretrain (``backbone.*``, ``head.fc.*``) or, for
videos, of mmaction2 (``backbone.*``, ``cls_head.fc_cls.*``).

With a CLIP checkpoint of mmpretrain as text tower, a bootstrapped CLIP model becomes
one of mmpretrain's ``CLIPZeroShot``: SRC's backbone and projection beside that one's
text side.

Nothing is written if SRC has tensors without a place in DST; they are listed.
"""

import argparse
import hashlib
import re
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from sparseformer_mm.models.files import read_checkpoint
from sparseformer_mm.models.finding import (
    CheckpointError,
    Weights,
    find_weights,
    split_classifier,
    to_whole_model,
)
from sparseformer_mm.models.layouts import (
    from_mm,
    is_bootstrapped,
    to_mm,
    to_openmmlab,
    unexpected_keys,
)
from sparseformer_mm.utils.errors import fail
from sparseformer_mm.utils.outputs import check_writable, replacing


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', help='checkpoint to read')
    parser.add_argument('dst', nargs='?', help='file to write')
    parser.add_argument(
        '--to',
        choices=['mm', 'v1', 'v2', 'bootstrapped'],
        default='mm',
        help='names to write',
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help="run the backbone's and classifier's names through every layout and back, "
        'and report; with DST, before writing',
    )
    parser.add_argument(
        '--allow-unknown',
        action='store_true',
        help='leave out what has no place in DST instead of stopping',
    )
    parser.add_argument(
        '--text-tower',
        metavar='CLIP',
        help="mmpretrain's CLIP checkpoint whose text side DST gets",
    )
    parser.add_argument(
        '--unsafe',
        action='store_true',
        help='unpickle files that hold more than tensors; only for files you trust, '
        'since unpickling can run code',
    )
    args = parser.parse_args(argv)
    if args.dst is None and not args.check:
        parser.error('give DST, or --check to report only')
    if args.text_tower and args.to != 'mm':
        parser.error("--text-tower is for this package's names, not for --to")
    return args


def read_file(path: str, unsafe: bool) -> dict:
    """What is in a file."""
    try:
        return read_checkpoint(path, 'cpu', safe=not unsafe)
    except (OSError, CheckpointError) as error:
        fail(str(error))
    except Exception as error:
        cure = '. If you trust the file, add --unsafe: it may hold more than tensors'
        first_line = re.sub(r'\x1b\[\d*m', '', str(error)).strip().split('\n')[0]
        fail(f'{path} cannot be read: {first_line}{"" if unsafe else cure}')


def read(path: str, unsafe: bool) -> Weights:
    """Find the weights in a file of any layout."""
    try:
        weights = find_weights(read_file(path, unsafe))
    except CheckpointError as error:
        fail(str(error))
    if not weights.layout:
        keys = ', '.join(list(map(str, weights.state))[:5])
        fail(
            f'{path} holds no SparseFormer in a known layout; its keys begin with: '
            f'{keys}'
        )
    return weights


def classifier_name(state: Dict[str, Tensor]) -> str:
    """Where an OpenMMLab model has its linear classifier: image or video."""
    is_video = state['latent.token_rois'].shape[-1] == 6
    return 'cls_head.fc_cls' if is_video else 'head.fc'


def split(weights: Weights) -> Tuple[Dict[str, Tensor], List[str]]:
    """What every layout has a place for.

    Returns:
        The backbone and its classifier, ``head.*``, under mm names; names in the file
        that are not among them.
    """
    if weights.layout != 'mm':
        state = to_mm(weights.state, weights.layout, weights.prefix)
        return state, unexpected_keys(weights.state, weights.layout, weights.prefix)
    rest, classifier = split_classifier(weights)
    state = to_mm(rest, 'mm', weights.prefix)
    state.update((f'head.{name}', value) for name, value in classifier.items())
    return state, [key for key in rest if not key.startswith(weights.prefix)]


def beside_text(weights: Weights, state: Dict[str, Tensor], path: str, clip: dict):
    """A state dict of mmpretrain's CLIP with another visual tower.

    Args:
        weights: SRC.
        state: its backbone and classifier under mm names.
        path: the file of mmpretrain's CLIP.
        clip: what is in it.
    """
    clip = clip.get('state_dict', clip)
    if 'text_projection' not in clip or 'logit_scale' not in clip:
        fail(f'{path} is no CLIP checkpoint of mmpretrain: no text_projection in it')
    # In a bootstrap of this package the projection is a neck, whose bias is zero.
    for source, name in ((weights.state, f'{weights.root}neck.fc'), (state, 'head')):
        projection, bias = (source.get(f'{name}.{end}') for end in ('weight', 'bias'))
        if projection is not None:
            break
    if projection is None or (bias is not None and bias.any()):
        fail('SRC is no CLIP model: it has no projection, or one with a bias')
    width = clip['text_projection'].shape[1]
    if len(projection) != width:
        fail(
            f'SRC gives embeddings of {len(projection)} numbers, the texts of {path} '
            f'{width}: take the text tower of the CLIP that SRC was bootstrapped from'
        )
    result = {k: v for k, v in clip.items() if not k.startswith(('visual.', 'visual_'))}
    result['visual_proj.proj'] = projection.t().contiguous()
    for key, value in state.items():
        if not key.startswith('head.'):
            result[f'visual.{key}'] = value
    return result


def check(state: Dict[str, Tensor]) -> bool:
    """Run every layout there and back; True if no tensor is missing or changed."""
    fine = True
    for target in ['bootstrapped'] if is_bootstrapped(state) else ['v1', 'v2']:
        back = to_mm(from_mm(state, target), target)
        missing = sorted(set(state) - set(back))
        changed = [
            key
            for key in back
            if not torch.allclose(back[key], state[key], atol=1e-6, rtol=0)
        ]
        fine = fine and not missing and not changed
        print(
            f'  mm -> {target} -> mm: {len(back)}/{len(state)} tensors return'
            f'{"; missing: " + ", ".join(missing) if missing else ""}'
            f'{"; changed: " + ", ".join(changed) if changed else ""}'
        )
    return fine


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    weights = read(args.src, args.unsafe)
    if args.dst is not None:
        check_writable(args.dst, args.src)
    state, unknown = split(weights)
    surplus = unknown  # of all layouts; a file from mm to mm keeps its head
    if args.to == 'mm' and weights.layout == 'mm' and args.dst is not None:
        result, unknown = to_whole_model(weights, classifier_name(state))
    total = len(weights.state)
    print(
        f'{args.src}: layout {weights.layout}'
        f'{f" under {weights.wrapper!r}" if weights.wrapper else ""}'
        f'{f", prefix {weights.root!r}" if weights.root else ""}, '
        f'{total - len(unknown)} of {total} tensors known'
    )
    for other in weights.others:
        print(f'  left out: the other copy of the model, under {other!r}')
    if unknown:
        print(f'  not known, so not converted: {", ".join(unknown)}')
    try:
        if args.check:
            if surplus != unknown:
                print(f"  not in the authors' layouts: {', '.join(surplus)}")
            fine = check(state) and not surplus
            print('check passed' if fine else 'check FAILED')
            if not fine:
                sys.exit(1)
        if args.dst is None:
            return
        if unknown and not args.allow_unknown:
            fail(
                f'{args.dst} is not written, since tensors would be lost; '
                '--allow-unknown leaves them out'
            )
        if args.to != 'mm':
            content = dict(model=from_mm(state, args.to))
        elif args.text_tower:
            clip = args.text_tower, read_file(args.text_tower, args.unsafe)
            content = dict(state_dict=beside_text(weights, state, *clip))
        elif weights.layout == 'mm':
            content = dict(state_dict=result)
        else:
            content = dict(state_dict=to_openmmlab(state, classifier_name(state)))
    except KeyError as error:
        fail(f'{args.src}: {error.args[0]}')
    with replacing(args.dst) as file:
        torch.save(content, file)
    digest = hashlib.sha256(Path(args.dst).read_bytes()).hexdigest()
    print(f'{args.dst}: written with {args.to} names, sha256 {digest[:8]}')


if __name__ == '__main__':
    main()
