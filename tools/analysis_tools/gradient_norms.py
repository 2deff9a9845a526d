"""Gradient norms of an image model and of the video models inflated from it.

At the first step of training, per group of parameters, for one random clip (of which
the image model sees the middle frame) and a cross-entropy loss.

Example:
    python tools/analysis_tools/gradient_norms.py --arch tiny --token-inflation 8
"""

import argparse
from collections import defaultdict
from typing import Dict, Iterator, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseformer_mm.models import SparseFormer
from sparseformer_mm.models.rois import TIME_OFFSETS

CLASSES = 1000


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--arch', choices=sorted(SparseFormer.arch_settings), default='tiny'
    )
    parser.add_argument('--token-inflation', type=int, default=8, help='n_t (8)')
    parser.add_argument('--frames', type=int, default=16, help='of the clip (16)')
    parser.add_argument('--size', type=int, default=112, help='of the frames (112)')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    if args.token_inflation < 1 or args.frames < 2 or args.size < 8:
        parser.error(
            '--token-inflation must be at least 1, --frames 2 and --size 8, got '
            f'{args.token_inflation}, {args.frames} and {args.size}'
        )
    return args


def axis_groups(name: str, grad: Tensor, dims: int) -> Iterator[Tuple[str, Tensor]]:
    """Split the gradient of what moves points or RoIs into space and time."""
    grad = grad.unflatten(0, (-1, dims))
    kind = 'RoI adjusting' if 'roi_adjust' in name else 'sampling offsets'
    yield f'{kind}, space', grad[:, :2]
    if dims == 3:
        yield f'{kind}, time', grad[:, 2:]


def groups(backbone: SparseFormer) -> Dict[str, float]:
    """Norm of the gradient by group of parameters."""
    squares: Dict[str, float] = defaultdict(float)
    for name, param in backbone.named_parameters():
        if name.endswith(('sampler.bias', 'sampler.proj.weight', 'adjust.proj.weight')):
            parts = axis_groups(name, param.grad, backbone.spatial_dims)
        elif '.sampler.' in name or 'roi_adjust' in name:
            continue  # the norms in front; zero while what follows them is
        elif '.decoder.' in name:
            parts = [('decoding', param.grad)]
        elif name.startswith(('stem', 'latent')):
            parts = [(name, param.grad)]
        else:
            parts = [('attention and FFN', param.grad)]
        for group, grad in parts:
            squares[group] += float(grad.double().square().sum())
    return {group: square**0.5 for group, square in squares.items()}


def main() -> None:
    args = parse_args()
    torch.manual_seed(args.seed)
    image = SparseFormer(args.arch)
    head = nn.Linear(image.embed_dims, CLASSES)
    coarse = torch.randn(1, 3, args.frames // 2, args.size // 8, args.size // 8)
    size = (args.frames, args.size, args.size)
    video = F.interpolate(coarse, size, mode='trilinear')
    models = {'image': (image, video[:, :, args.frames // 2])}
    for form in TIME_OFFSETS:
        model = SparseFormer(
            args.arch,
            spatial_dims=3,
            token_inflation=args.token_inflation,
            time_offsets=form,
        )
        model.load_state_dict(image.state_dict())
        models[f'video, {form!r}'] = model, video
    norms = {}
    for name, (model, inputs) in models.items():
        logits = head(model(inputs)[0])
        F.cross_entropy(logits, torch.zeros(1, dtype=torch.long)).backward()
        norms[name] = groups(model)
    width = max(map(len, norms["video, 'spread'"]))
    print(' ' * width + ''.join(f'{name:>18}' for name in norms))
    for group in norms["video, 'spread'"]:
        row = [norms[name].get(group) for name in norms]
        cells = ['' if value is None else f'{value:.2g}' for value in row]
        print(f'{group:{width}}' + ''.join(f'{cell:>18}' for cell in cells))


if __name__ == '__main__':
    main()
