"""mmseg's MMSegInferencer on a shipped config, found by its name."""

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg', reason='needs mmseg: pip install onedl-mmsegmentation')

from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS  # noqa: E402
from mmseg.apis import MMSegInferencer, inference_model, init_model  # noqa: E402
from PIL import Image  # noqa: E402

from sparseformer_mm import config_path  # noqa: E402

pytestmark = pytest.mark.mmseg
NAME = 'sparseformer-nano_1xb8_digits'
NUM_CLASSES = 11


@pytest.fixture
def segmentor(tmp_path):
    """An untrained model that sees more than one class."""
    torch.manual_seed(0)
    cfg = Config.fromfile(config_path(f'segmentation/{NAME}'))
    cfg.model.backbone.init_cfg = None  # where there is a checkpoint, it is not here
    model = MODELS.build(cfg.model)
    model.init_weights()
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    classes = ['ground', *map(str, range(10))]
    palette = [[20 * i, 255 - 20 * i, 128] for i in range(NUM_CLASSES)]
    meta = dict(dataset_meta=dict(classes=classes, palette=palette))
    file = tmp_path / 'segmentor.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=meta), file)
    return model, str(file)


@pytest.fixture
def photos(tmp_path):
    files = []
    for index, (height, width) in enumerate(((96, 128), (90, 60))):
        random = np.random.default_rng(index)
        pixels = random.integers(0, 256, (height // 6, width // 6, 3), np.uint8)
        image = Image.fromarray(pixels).resize((width, height))
        files.append(str(tmp_path / f'{index}.png'))
        image.save(files[-1])
    return files


def test_inferencer_takes_the_path_of_a_name(segmentor, photos, tmp_path):
    model, file = segmentor
    path = config_path(f'{NAME}.py')
    infer = MMSegInferencer(path, file, device='cpu')
    for key, value in model.state_dict().items():
        assert torch.equal(value, infer.model.state_dict()[key]), key
    assert infer.model.dataset_meta['classes'][1:] == [str(i) for i in range(10)]

    plain = init_model(path, file, device='cpu')
    results = infer(photos, out_dir=str(tmp_path / 'out'))['predictions']
    for index, (photo, found) in enumerate(zip(photos, results)):
        width, height = Image.open(photo).size
        assert found.shape == (height, width)
        assert len(np.unique(found)) >= 2 and found.max() < NUM_CLASSES
        expected = inference_model(plain, photo).pred_sem_seg.data[0].numpy()
        np.testing.assert_array_equal(found, expected)
        saved = Image.open(tmp_path / 'out' / 'pred' / f'{index:08}_pred.png')
        np.testing.assert_array_equal(np.array(saved), found)
        drawn = np.array(Image.open(tmp_path / 'out' / 'vis' / f'{index}.png'))
        assert (drawn != np.array(Image.open(photo))).any()
