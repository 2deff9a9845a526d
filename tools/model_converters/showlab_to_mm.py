"""Convert SparseFormer checkpoints between the authors' names and this package's.

    python tools/model_converters/showlab_to_mm.py SRC DST          # authors -> mm
    python tools/model_converters/showlab_to_mm.py SRC DST --to v1  # and back
    python tools/model_converters/showlab_to_mm.py SRC --check      # only report

SRC may be in any of the three layouts (mm, v1: the authors' training code, v2: their
later library), wrapped or not; of several copies the averaged (EMA) one is taken.
mm files hold a model of mmpretrain (``backbone.*``, ``head.fc.*``) or, for videos, of
mmaction2 (``backbone.*``, ``cls_head.fc_cls.*``).
"""

import argparse
import hashlib
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import Tensor

from sparseformer_mm.models.layouts import (
    detect_layout,
    from_mm,
    to_mm,
    to_openmmlab,
    unexpected_keys,
    unwrap,
)


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', help='checkpoint to read')
    parser.add_argument('dst', nargs='?', help='file to write')
    parser.add_argument(
        '--to', choices=['mm', 'v1', 'v2'], default='mm', help='names to write'
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='run the names through every layout and back, and report; with DST, '
        'before writing',
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
    return args


def read(path: str, unsafe: bool) -> dict:
    try:
        if unsafe:
            return torch.load(path, map_location='cpu', weights_only=False)
        # mmengine's own training checkpoints hold harmless records beside tensors.
        harmless = getattr(mmengine_checkpoint, 'get_torch_safe_globals', list)()
        allow = getattr(torch.serialization, 'safe_globals', lambda _: nullcontext())
        with allow(harmless):
            return torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        sys.exit(f'{path} does not exist')
    except Exception as error:
        cure = '. If you trust the file, add --unsafe: it may hold more than tensors'
        first_line = re.sub(r'\x1b\[\d*m', '', str(error)).strip().split('\n')[0]
        sys.exit(f'{path} cannot be read: {first_line}{"" if unsafe else cure}')


def classifier_name(state: Dict[str, Tensor]) -> str:
    """Where an OpenMMLab model has its linear classifier: image or video."""
    is_video = state['latent.token_rois'].shape[-1] == 6
    return 'cls_head.fc_cls' if is_video else 'head.fc'


def load(path: str, unsafe: bool) -> Tuple[Dict[str, Tensor], List[str]]:
    """Read a file of any layout.

    Returns:
        The backbone and ``head.*`` under mm names, and the names in the file that are
        not among them.
    """
    weights, wrapper = unwrap(read(path, unsafe))
    detected = detect_layout(weights)
    if detected is None:
        keys = ', '.join(list(map(str, weights))[:5])
        sys.exit(
            f'{path} holds no SparseFormer in a known layout; its keys begin with: '
            f'{keys}'
        )
    layout, prefix = detected
    state = to_mm(weights, layout, prefix)
    if layout == 'mm':
        head = f'{classifier_name(state)}.'
        state.update(
            (f'head.{key[len(head) :]}', value)
            for key, value in weights.items()
            if key.startswith(head)
        )
        known = {prefix + key for key in state if not key.startswith('head.')}
        known |= {
            head + key[len('head.') :] for key in state if key.startswith('head.')
        }
        unknown = [str(key) for key in weights if key not in known]
    else:
        unknown = unexpected_keys(weights, layout, prefix)
    where = f' under {wrapper!r}' if wrapper else ''
    print(
        f'{path}: layout {layout}{where}, {len(weights) - len(unknown)} of '
        f'{len(weights)} tensors known'
    )
    return state, unknown


def check(state: Dict[str, Tensor], unknown: Sequence[str]) -> bool:
    """Run every layout there and back; True if no tensor is missing or changed."""
    fine = not unknown
    if unknown:
        print(f'  not known, so not converted: {", ".join(unknown)}')
    for target in ('v1', 'v2'):
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
    state, unknown = load(args.src, args.unsafe)
    try:
        if args.check:
            fine = check(state, unknown)
            print('check passed' if fine else 'check FAILED')
            if not fine:
                sys.exit(1)
        if args.dst is None:
            return
        if args.to == 'mm':
            result = dict(state_dict=to_openmmlab(state, classifier_name(state)))
        else:
            result = dict(model=from_mm(state, args.to))
    except KeyError as error:
        sys.exit(f'{args.src}: {error.args[0]}')
    Path(args.dst).parent.mkdir(parents=True, exist_ok=True)
    torch.save(result, args.dst)
    digest = hashlib.sha256(Path(args.dst).read_bytes()).hexdigest()
    print(f'{args.dst}: written with {args.to} names, sha256 {digest[:8]}')


if __name__ == '__main__':
    main()
