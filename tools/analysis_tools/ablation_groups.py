"""The rows of the paper's ablations, scaled to models that train on a CPU."""

from typing import Dict, NamedTuple, Sequence, Tuple


class Task(NamedTuple):
    """What rows are trained on: a config, the data it wants, where top-1 is.

    ``shape`` is that of the input without channels, ``percent`` what makes the metric
    one.
    """

    config: str
    shape: Tuple[int, ...]
    metric: str
    percent: float
    train: int
    val: int


TASKS = dict(
    classification=Task(
        'configs/classification/sparseformer-nano_1xb32_digits.py',
        (64, 64),
        'accuracy/top1',
        1.0,
        train=3000,
        val=2000,
    ),
    video=Task(
        'configs/video/sparseformer-nano_1xb16_digits.py',
        (16, 52, 52),
        'acc/top1',
        100.0,
        train=1600,
        val=800,
    ),
)


class Row(NamedTuple):
    """A row of a table: its name, its place from the worst on (by the paper's trend
    where the paper has no such row; the same for equal accuracies) and the backbone's
    arguments, none for the config's own."""

    name: str
    rank: int
    backbone: dict


class Group(NamedTuple):
    """A table of the paper. ``label`` heads the rows, ``paper`` is its own result."""

    title: str
    label: str
    paper: str
    rows: Sequence[Row]
    task: str = 'classification'


GROUPS: Dict[str, Group] = {
    'tokens': Group(
        'Latent tokens (Table 3a)',
        'tokens',
        '9: 74.5, 16: 77.4, 25: 79.3, 36: 80.1, 49: 81.0, 64: 81.4, 81: 81.9',
        [
            Row('4', 0, dict(num_tokens=4)),
            Row('9', 1, dict(num_tokens=9)),
            Row('16', 2, {}),
            Row('25', 3, dict(num_tokens=25)),
            Row('36', 4, dict(num_tokens=36)),
        ],
    ),
    'repeats': Group(
        'Focusing repeats (Table 3b)',
        'repeats',
        'nil: 77.8, 1: 79.7, 4: 81.0, 8: 81.0',
        [
            Row('nil', 0, dict(focusing_repeats=0, fixed_rois=True)),
            Row('1', 1, dict(focusing_repeats=1)),
            Row('2', 2, dict(focusing_repeats=2)),
            Row('4', 3, {}),
            Row('8', 3, dict(focusing_repeats=8)),
        ],
    ),
    'points': Group(
        'Sampling points (Table 3c)',
        'points',
        '16: 80.3, 36: 81.0, 64: 81.3',
        [
            Row('4', 0, dict(num_points=4)),
            Row('9', 1, dict(num_points=9)),
            Row('16', 2, {}),
            Row('25', 3, dict(num_points=25)),
        ],
    ),
    'stem': Group(
        'Image feature (Table 3d)',
        'stem',
        'RGB: fails, ViT/8 embedding: 78.4, early convolution: 81.0',
        [
            Row('pixel', 0, dict(stem='pixel')),
            Row('patch', 1, dict(stem='patch_embed')),
            Row('early', 2, {}),
        ],
    ),
    'decoding': Group(
        'Decoding (Table 3e)',
        'decoding',
        'linear: 78.5, static mixing: 80.1, adaptive mixing: 81.0',
        [
            Row('linear', 0, dict(decoding='linear')),
            Row('static', 1, dict(decoding='static')),
            Row('adaptive', 2, {}),
        ],
    ),
    'roi-init': Group(
        'First RoIs (Table 9)',
        'RoIs',
        'half: 81.0, cell: 81.0, whole: 80.2',
        [
            Row('half', 1, {}),
            Row('cell', 1, dict(roi_init='cell')),
            Row('whole', 0, dict(roi_init='whole')),
        ],
    ),
    'inflation': Group(
        'Inflation (Table 6)',
        'inflation',
        '1: 69.5, 4: 74.7, 8: 77.9, 16: 78.2',
        [
            Row('1', 0, dict(token_inflation=1)),
            Row('2', 1, {}),
            Row('4', 2, dict(token_inflation=4)),
        ],
        task='video',
    ),
}
