"""Two processes take the same first step as one with the joined batch."""

import json
import re
import sys

import pytest
import torch
from mmengine.utils import digit_version

pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)

from helpers.scripts import ROOT, free_port, run  # noqa: E402
from helpers.toy_classifier import make_data, write_config  # noqa: E402


def test_two_processes_give_the_gradients_of_one(tmp_path):
    config = write_config(
        tmp_path / 'toy.py', make_data(tmp_path / 'data'), shuffle=False
    )
    # The limit on coordinate gradients acts on what each process sees.
    config.write_text(
        config.read_text()
        + "custom_imports = dict(imports=['helpers.gradient_recorder'])\n"
        "custom_hooks = [dict(type='GradientRecorder'), dict(\n"
        "    type='sparseformer_mm.visualization.FocusHook', num_samples=2), dict(\n"
        "    type='sparseformer_mm.LossScaleHook', limit_batch_size=6)]\n"
    )
    tools = ROOT / 'tools'
    cpu = dict(CUDA_VISIBLE_DEVICES='-1')
    options = ['--cfg-options']
    run(
        [
            sys.executable,
            tools / 'train.py',
            config,
            '--work-dir',
            tmp_path / 'one',
            *options,
            'train_dataloader.batch_size=12',
        ],
        tmp_path,
        GRADIENT_FILE=str(tmp_path / 'one.pth'),
        **cpu,
    )
    log = run(
        [
            'bash',
            tools / 'dist_train.sh',
            config,
            '2',
            '--work-dir',
            tmp_path / 'two',
            *options,
            'train_dataloader.batch_size=6',
        ],
        tmp_path,
        GRADIENT_FILE=str(tmp_path / 'two.pth'),
        PORT=free_port(),
        **cpu,
    )
    assert 'gloo' in log
    assert 'Epoch(train) [1][2/2]' in log
    assert (tmp_path / 'two' / 'epoch_1.pth').is_file()
    # One of them looks at samples.
    assert log.count('Focus [epoch 0]  roi') == log.count('Focus [epoch 1]  roi') == 1
    assert len(list(tmp_path.glob('two/*/vis_data/vis_image/*.png'))) == 4

    # Their predictions are those of all pictures, in the order of the data set.
    out = ['--out', 'out.json', '--work-dir', 'tested']
    run(
        ['bash', tools / 'dist_test.sh', config, 'two/epoch_1.pth', '2', *out],
        tmp_path,
        PORT=free_port(),
        **cpu,
    )
    names = [
        sample['img_path'].split('val/')[1]
        for sample in json.loads((tmp_path / 'out.json').read_text())
    ]
    assert names == [f'class{label}/{i}.png' for label in range(3) for i in range(5)]
    assert not list(tmp_path.glob('.out*'))

    one, two = (torch.load(tmp_path / f'{name}.pth') for name in ('one', 'two'))
    assert one.keys() == two.keys()
    for name in one:
        scale = one[name].abs().max()
        assert scale > 0, f'{name} has no gradient'
        difference = (one[name] - two[name]).abs().max()
        assert difference <= 1e-4 * scale, name


def losses(log):
    return [float(x) for x in re.findall(r'Epoch\(train\).* loss: ([\d.]+)', log)]


@pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.4'),
    reason='older FSDP needs GPUs',
)
def test_sharded_training_has_the_losses_of_ddp(tmp_path):
    config = write_config(
        tmp_path / 'toy.py', make_data(tmp_path / 'data'), shuffle=False
    )
    text = config.read_text() + (
        "custom_hooks = [dict(type='sparseformer_mm.LossScaleHook')]\n"
        'train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=2)\n'
    )
    (tmp_path / 'ddp.py').write_text(text)
    (tmp_path / 'fsdp.py').write_text(
        text + "runner_type = 'FlexibleRunner'\n"
        "strategy = dict(type='FSDPStrategy', model_wrapper=dict(\n"
        "    type='MMFullyShardedDataParallel', use_orig_params=True,\n"
        "    device_id='cpu'))\n"
    )
    found = {}
    for name in ('ddp', 'fsdp'):
        log = run(
            [
                'bash',
                ROOT / 'tools/dist_train.sh',
                f'{name}.py',
                '2',
                '--work-dir',
                name,
            ],
            tmp_path,
            PORT=free_port(),
            CUDA_VISIBLE_DEVICES='-1',
        )
        found[name] = losses(log)
    assert len(found['ddp']) == 4
    assert found['fsdp'] == pytest.approx(found['ddp'], abs=2e-4)
    assert found['ddp'][-1] < found['ddp'][0] - 0.01
