"""A tiny SparseFormer in mmaction2's inference interfaces, against doing it by hand."""

import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip(
    'sparseformer_mm.video.compat', reason='needs mmaction2: pip install mmaction2'
)

from mmaction.apis import (  # noqa: E402
    MMAction2Inferencer,
    inference_recognizer,
    init_recognizer,
)
from mmaction.apis.inferencers import ActionRecogInferencer  # noqa: E402
from torch import Tensor, nn  # noqa: E402

pytestmark = pytest.mark.mmaction

SIZE, WIDTH, LENGTH, CLASSES = 32, 56, 10, 5
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 58.0, 56.0)
# SampleFrames(clip_len=4, frame_interval=2, num_clips=2) of 10 frames, for testing.
CLIPS = ((0, 2, 4, 6), (3, 5, 7, 9))

CONFIG = """
default_scope = 'mmaction'
custom_imports = dict(
    imports=['sparseformer_mm.video.compat'], allow_failed_imports=False)
model = dict(
    type='Recognizer3D',
    data_preprocessor=dict(type='ActionDataPreprocessor', mean={mean}, std={std},
                           format_shape='NCTHW'),
    backbone=dict(
        type='sparseformer_mm.SparseFormer',
        arch=dict(num_tokens=4, num_points=4, focusing_dims=16, focusing_repeats=1,
                  cortex_dims=32, cortex_depth=1, num_heads=4, feat_channels=8),
        spatial_dims=3, token_inflation=2, out_type='featmap'),
    cls_head=dict(type='I3DHead', num_classes={classes}, in_channels=32,
                  average_clips='prob'),
    test_cfg=dict(max_testing_views={views}))
test_pipeline = [
    dict(type='sparseformer_mm.video.ReadFrames', decoder='opencv',
         sample=dict(type='SampleFrames', clip_len=4, frame_interval=2, num_clips=2,
                     test_mode=True)),
    dict(type='Resize', scale=(-1, {size})),
    dict(type='{crop}', crop_size={size}),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
test_dataloader = dict(
    batch_size=1, dataset=dict(type='VideoDataset', pipeline=test_pipeline))
visualizer = dict(type='ActionVisualizer', vis_backends=[dict(type='LocalVisBackend')])
"""


def make_config(folder: Path, crop: str = 'CenterCrop', views=None) -> str:
    path = folder / f'{crop}_{views}.py'
    path.write_text(
        CONFIG.format(
            mean=MEAN, std=STD, classes=CLASSES, size=SIZE, crop=crop, views=views
        )
    )
    return str(path)


class Case(NamedTuple):
    """A video, a model for it, and where both are."""

    folder: Path
    video: str
    frames: np.ndarray  # (LENGTH, SIZE, WIDTH, 3), uint8, RGB
    checkpoint: str
    labels: str
    model: nn.Module


@pytest.fixture(scope='module')
def case(tmp_path_factory) -> Case:
    folder = tmp_path_factory.mktemp('inferencer')
    video = str(folder / 'clip.mp4')
    writer = cv2.VideoWriter(video, cv2.VideoWriter_fourcc(*'mp4v'), 10, (WIDTH, SIZE))
    generator = np.random.default_rng(3)
    for _ in range(LENGTH):
        blocks = generator.integers(0, 256, (SIZE // 8, WIDTH // 8, 3), np.uint8)
        writer.write(blocks.repeat(8, 0).repeat(8, 1))
    writer.release()
    reader = cv2.VideoCapture(video)
    frames = np.stack([reader.read()[1][..., ::-1] for _ in range(LENGTH)])
    reader.release()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = init_recognizer(make_config(folder), device='cpu')
        # Weights that tell inputs and classes apart, the zero-initialised ones too.
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
        nn.init.uniform_(model.backbone.norm.weight, 1, 2)
        nn.init.normal_(model.cls_head.fc_cls.weight)
    checkpoint = str(folder / 'model.pth')
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    labels = folder / 'labels.txt'
    labels.write_text('\n'.join(f'class {index}' for index in range(CLASSES)))
    return Case(folder, video, frames, checkpoint, str(labels), model)


def score_view(case: Case, clip, left: int) -> Tensor:
    """Softmax scores (CLASSES,) of one clip, cropped from column ``left``."""
    pixels = case.frames[list(clip), :, left : left + SIZE].astype(np.float32)
    inputs = torch.from_numpy((pixels - np.float32(MEAN)) / np.float32(STD))
    inputs = inputs.permute(3, 0, 1, 2)[None]  # 1, 3, T, H, W
    with torch.no_grad():
        feature = case.model.backbone(inputs)
        assert feature.shape == (1, 32, 1, 1, 1)
        return case.model.cls_head.fc_cls(feature.flatten(1)).softmax(1)[0]


def score_center(case: Case) -> Tensor:
    left = (WIDTH - SIZE) // 2
    return torch.stack([score_view(case, clip, left) for clip in CLIPS]).mean(0)


def test_inferencer_gives_the_scores_of_the_model(case, tmp_path):
    pytest.importorskip('decord')  # the inferencer opens videos with it
    expected = score_center(case)
    assert expected.max() - expected.min() > 0.1
    inferencer = MMAction2Inferencer(
        rec=make_config(case.folder),
        rec_weights=case.checkpoint,
        label_file=case.labels,
        device='cpu',
    )
    result = inferencer(
        case.video, return_vis=True, pred_out_file=str(tmp_path / 'out.json')
    )
    (prediction,) = result['predictions']
    torch.testing.assert_close(torch.tensor(prediction['rec_scores'][0]), expected)
    assert prediction['rec_labels'] == [[expected.argmax().item()]]
    classes = inferencer.actionrecog_inferencer.visualizer.dataset_meta['classes']
    assert classes[4] == 'class 4'
    # The frames with the class drawn into them.
    (drawn,) = result['visualization']
    assert np.shape(drawn) == case.frames.shape
    assert (np.asarray(drawn) != case.frames).any()
    saved = json.loads((tmp_path / 'out.json').read_text())
    assert saved['predictions'] == result['predictions']


def test_inference_recognizer_gives_them_too(case):
    model = init_recognizer(make_config(case.folder), case.checkpoint, device='cpu')
    result = inference_recognizer(model, case.video)
    torch.testing.assert_close(result.pred_score, score_center(case))
    info = dict(array=case.frames, start_index=0, label=-1, modality='RGB')
    of_array = inference_recognizer(model, info)
    torch.testing.assert_close(of_array.pred_score, result.pred_score)
    with pytest.raises(ValueError, match='is a folder, not a video file'):
        inference_recognizer(model, str(case.folder))


@pytest.mark.parametrize('input_format', ['array', 'rawframes'])
def test_inferencer_takes_arrays_and_folders(case, tmp_path, input_format):
    inputs = case.frames
    if input_format == 'rawframes':
        inputs = str(tmp_path)
        for index, frame in enumerate(case.frames):
            path = str(tmp_path / f'img_{index + 1:05}.png')
            cv2.imwrite(path, np.ascontiguousarray(frame[..., ::-1]))
    inferencer = ActionRecogInferencer(
        make_config(case.folder),
        case.checkpoint,
        device='cpu',
        input_format=input_format,
        pack_cfg=dict(filename_tmpl='img_{:05}.png'),
    )
    (prediction,) = inferencer(inputs)['predictions']
    scores = torch.tensor(prediction['pred_scores'])
    torch.testing.assert_close(scores, score_center(case))


@pytest.mark.parametrize('views', [None, 4])
def test_views_are_averaged_after_the_softmax(case, views):
    config = make_config(case.folder, 'ThreeCrop', views)
    model = init_recognizer(config, case.checkpoint, device='cpu')
    found = inference_recognizer(model, case.video).pred_score
    lefts = (0, (WIDTH - SIZE) // 2, WIDTH - SIZE)
    scores = [score_view(case, clip, left) for clip in CLIPS for left in lefts]
    scores = torch.stack(scores)
    torch.testing.assert_close(found, scores.mean(0))
    # The views differ, and so does the average before the softmax.
    assert (scores[:, None] - scores).abs().amax(-1)[~torch.eye(6).bool()].min() > 1e-3
    before = scores.log().mean(0).softmax(0)
    assert (before - scores.mean(0)).abs().max() > 1e-4
