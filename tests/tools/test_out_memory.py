"""tools/test.py --out of a segmentor: memory does not grow with the pictures."""

import pickle
import shutil
import sys

import pytest
import torch

pytest.importorskip('mmseg', reason='needs mmseg: pip install onedl-mmsegmentation')

from mmengine.registry import MODELS  # noqa: E402

from helpers.scripts import run  # noqa: E402
from helpers.segmentation_data_standin import draw_image, draw_mask, save  # noqa: E402
from helpers.toy_segmentor import CONFIG  # noqa: E402
from sparseformer_mm.utils.configs import load_config  # noqa: E402

CLASSES, SIDE, FEW, MANY = 150, 192, 8, 40
NAMES = [str(label) for label in range(CLASSES)]
# The most that the process ever held, after a test of few and one of all pictures.
CHILD = """
import resource, sys
from helpers.scripts import load_tool
config, checkpoint, out, *counts = sys.argv[1:]
for count in counts:
    options = ['--cfg-options', f'test_dataloader.dataset.indices={count}']
    load_tool('test').main([config, checkpoint, '--out', out, *options])
    print('peak in KiB:', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.fixture
def toy(tmp_path):
    """A config and a checkpoint, beside their data: one picture many times."""
    mask = draw_mask((SIDE, SIDE, 0, [(1, 8, 8, 90, 90), (149, 100, 30, 60, 99)]))
    first = tmp_path / 'data/img/val/0.png', tmp_path / 'data/ann/val/0.png'
    for path, pixels in zip(first, (draw_image(mask, 0), mask)):
        save(pixels, path)
        for index in range(1, MANY):
            shutil.copy(path, path.with_name(f'{index}.png'))
    text = CONFIG.format(data=tmp_path / 'data', iterations=2)
    text = text.replace('num_classes=3', f'num_classes={CLASSES}')
    text += f'metainfo = dict(classes={NAMES}, palette={[[0] * 3] * CLASSES})\n'
    text += 'test_dataloader["dataset"]["metainfo"] = metainfo\n'
    config = tmp_path / 'toy.py'
    config.write_text(text)
    model = MODELS.build(load_config(str(config)).model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'toy.pth')
    return config, tmp_path / 'toy.pth'


@pytest.mark.slow
@pytest.mark.mmseg
def test_memory_does_not_grow_with_the_pictures(toy, tmp_path):
    pytest.importorskip('resource')
    out = tmp_path / 'out.pkl'
    command = [sys.executable, '-c', CHILD, *toy, out, FEW, MANY]
    lines = run(command, tmp_path, CUDA_VISIBLE_DEVICES='-1').splitlines()
    few, many = (int(x.split(': ')[1]) for x in lines if x.startswith('peak in KiB'))
    logits = (MANY - FEW) * CLASSES * SIDE**2 * 4 / 1024
    assert many - few < 0.1 * logits, (few, many, logits)
    found = pickle.loads(out.read_bytes())
    assert len(found) == MANY
    assert found[0]['pred_sem_seg']['data'].shape == (1, SIDE, SIDE)
    assert 'seg_logits' not in found[0]
