"""Convert SparseFormer checkpoints between the authors' names and this package's.

    python tools/model_converters/showlab_to_mm.py SRC DST          # authors -> mm
    python tools/model_converters/showlab_to_mm.py SRC DST --to v1  # and back
    python tools/model_converters/showlab_to_mm.py SRC --check      # only report

SRC may be in any of the three layouts (mm, v1: the authors' training code, v2: their
later library), wrapped or not; of several copies the averaged (EMA) one is taken.
mm files hold an ImageClassifier: ``backbone.*`` and ``head.fc.*``.
"""

import argparse
import hashlib
import sys
from collections import OrderedDict
from pathlib import Path

import torch

from sparseformer_mm.models.checkpoint import (
    convert_checkpoint,
    detect_layout,
    from_mm,
    to_mm,
    unwrap,
)


def parse_args():
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
    args = parser.parse_args()
    if args.dst is None and not args.check:
        parser.error('give DST, or --check to report only')
    return args


def read(path: str, unsafe: bool):
    try:
        return torch.load(path, map_location='cpu', weights_only=not unsafe)
    except FileNotFoundError:
        sys.exit(f'{path} does not exist')
    except Exception as error:
        cure = '. If you trust the file, add --unsafe: it may hold more than tensors'
        first_line = str(error).strip().split('\n')[0]
        sys.exit(f'{path} cannot be read: {first_line}{"" if unsafe else cure}')


def classifier_from(state) -> 'OrderedDict[str, torch.Tensor]':
    """An mm ImageClassifier's head under the name that ``from_mm`` expects."""
    return OrderedDict(
        (f'head.{k[len("head.fc.") :]}', v)
        for k, v in state.items()
        if k.startswith('head.fc.')
    )


def load(path: str, unsafe: bool):
    """Return (backbone and head under mm names, layout, number of tensors read)."""
    weights, wrapper = unwrap(read(path, unsafe))
    found = detect_layout(weights)
    if found is None:
        keys = ', '.join(list(map(str, weights))[:5])
        sys.exit(
            f'{path} holds no SparseFormer in a known layout; its keys begin with: '
            f'{keys}'
        )
    layout, prefix = found
    state = to_mm(weights, layout, prefix)
    if layout == 'mm':
        if prefix == '':
            state = OrderedDict(
                (k, v) for k, v in state.items() if not k.startswith('head.')
            )
        state.update(classifier_from(weights))
    where = f' under {wrapper!r}' if wrapper else ''
    print(
        f'{path}: layout {layout}{where}, {len(state)} of {len(weights)} tensors known'
    )
    return state, layout, weights, prefix


def check(state, layout, weights, prefix) -> bool:
    """Run every layout there and back; True if no tensor is lost or changed."""
    fine = True
    known = {k for k in weights if k.startswith(prefix)}
    if layout != 'mm':
        unknown = sorted(known - {prefix + k for k in from_mm(state, layout)})
        fine = not unknown
        print(
            f'  {layout}: {len(known) - len(unknown)}/{len(known)} names known'
            f'{"; unknown: " + ", ".join(unknown) if unknown else ""}'
        )
    for target in ('v1', 'v2'):
        back = to_mm(from_mm(state, target), target)
        lost = sorted(set(state) - set(back))
        changed = [
            k for k in back if not torch.allclose(back[k], state[k], atol=1e-6, rtol=0)
        ]
        fine = fine and not lost and not changed
        print(
            f'  mm -> {target} -> mm: {len(back)}/{len(state)} tensors return'
            f'{"; lost: " + ", ".join(lost) if lost else ""}'
            f'{"; changed: " + ", ".join(changed) if changed else ""}'
        )
    return fine


def main():
    args = parse_args()
    state, layout, weights, prefix = load(args.src, args.unsafe)
    if args.check:
        fine = check(state, layout, weights, prefix)
        print('check passed' if fine else 'check FAILED')
        if not fine:
            sys.exit(1)
    if args.dst is None:
        return
    if args.to == 'mm':
        result = dict(state_dict=convert_checkpoint(from_mm(state, 'v1'), 'head.fc'))
    else:
        result = dict(model=from_mm(state, args.to))
    Path(args.dst).parent.mkdir(parents=True, exist_ok=True)
    torch.save(result, args.dst)
    digest = hashlib.sha256(Path(args.dst).read_bytes()).hexdigest()
    print(f'{args.dst}: written with {args.to} names, sha256 {digest[:8]}')


if __name__ == '__main__':
    main()
