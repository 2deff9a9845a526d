"""mmdet's DetInferencer on a shipped config, found by its name."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet', reason='needs mmdet: pip install onedl-mmdetection')

from mmdet.apis import DetInferencer  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS  # noqa: E402
from PIL import Image  # noqa: E402

from sparseformer_mm import config_path  # noqa: E402

pytestmark = pytest.mark.mmdet
NAME = 'detection/sparseformer-nano-modern_1xb16_digits'
CLASSES = tuple(f'digit {i}' for i in range(10))


@pytest.fixture
def detector(tmp_path):
    """An untrained model whose boxes and scores differ from picture to picture."""
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config_path(NAME)).model)
    model.init_weights()
    for name, param in model.named_parameters():
        if 'token_rois' not in name:
            torch.nn.init.normal_(param, std=0.12)
    file = tmp_path / 'detector.pth'
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), file)
    return model, str(file)


@pytest.fixture
def photos(tmp_path):
    files = []
    for index, (height, width) in enumerate(((96, 128), (150, 60))):
        random = np.random.default_rng(index)
        pixels = random.integers(0, 256, (height // 6, width // 6, 3), np.uint8)
        image = Image.fromarray(pixels).resize((width, height))
        files.append(str(tmp_path / f'{index}.png'))
        image.save(files[-1])
    return files


def test_inferencer_takes_the_path_of_a_name(detector, photos, tmp_path):
    model, file = detector
    infer = DetInferencer(config_path(NAME), file, device='cpu', show_progress=False)
    assert infer.model.dataset_meta['classes'] == CLASSES
    for key, value in model.state_dict().items():
        assert torch.equal(value, infer.model.state_dict()[key]), key

    together = infer(
        photos, batch_size=2, out_dir=str(tmp_path / 'out'), no_save_pred=False
    )['predictions']
    for index, (path, found) in enumerate(zip(photos, together)):
        # The same beside a picture of another size, alone, and as an array.
        (alone,) = infer(path)['predictions']
        (array,) = infer(np.array(Image.open(path))[..., ::-1])['predictions']
        for other in (alone, array):
            np.testing.assert_allclose(found['bboxes'], other['bboxes'], atol=0.02)
            np.testing.assert_allclose(found['scores'], other['scores'], atol=1e-4)
            assert found['labels'] == other['labels']
        width, height = Image.open(path).size
        boxes = np.array(found['bboxes'])
        assert boxes.shape == (len(found['scores']), 4) and len(boxes) > 10
        assert (boxes >= 0).all() and (boxes <= (width, height) * 2).all()
        assert found['scores'] == sorted(found['scores'], reverse=True)
        saved = json.loads((tmp_path / 'out' / 'preds' / f'{index}.json').read_text())
        assert saved['labels'] == found['labels']
        drawn = np.array(Image.open(tmp_path / 'out' / 'vis' / f'{index}.png'))
        assert drawn.shape == (height, width, 3)
    assert together[0]['scores'] != together[1]['scores']
