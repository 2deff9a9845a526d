"""What is done to mmaction2 for it to be imported, and that it is not done in vain.

Most checks run in a process of their own: what is imported stays so for good.
"""

import re
import shutil
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip(
    'sparseformer_mm.video.compat', reason='needs mmaction2: pip install mmaction2'
)

import mmaction  # noqa: E402
import mmcv  # noqa: E402
from mmaction.datasets.transforms.processing import ColorJitter  # noqa: E402
from mmaction.registry import MODELS  # noqa: E402
from mmaction.structures import ActionDataSample  # noqa: E402
from mmengine.utils import digit_version  # noqa: E402

from helpers.fresh import succeed_fresh  # noqa: E402
from helpers.scripts import run  # noqa: E402
from sparseformer_mm.video import compat  # noqa: E402

pytestmark = pytest.mark.mmaction

FOLDER = Path(find_spec('mmaction').origin).parent
DRN_LINE = 'a stand-in was put for the localizer DRN, which the release lacks'
BFLOAT16_LINE = 'heads were taught bfloat16'
HUE_LINE = f'the hue of ColorJitter was mended for numpy {np.__version__}'

# What is needed of it with the libraries that are installed here.
LINES = [
    line
    for line, needed in {
        f'its limit on mmcv (here {mmcv.__version__}) was lifted': (
            digit_version(mmcv.__version__) >= digit_version('2.2.0')
        ),
        DRN_LINE: not (FOLDER / 'models' / 'localizers' / 'drn').exists(),
        HUE_LINE: digit_version(np.__version__) >= digit_version('2.0.0'),
        BFLOAT16_LINE: True,
    }.items()
    if needed
]


def logged(output: str) -> list:
    """What mmengine's logger wrote of it, without the line's head."""
    return re.findall(r' - mmengine - INFO - mmaction2 [\d.]+: (.+)', output)


def test_it_says_once_what_it_did(tmp_path):
    script = """
        import sparseformer_mm.video.compat as compat
        from torch.utils.data import DataLoader


        class Data(list):
            def __getitem__(self, index):
                import sparseformer_mm.video.compat as compat
                from mmaction.datasets import VideoDataset
                return len(compat.apply())


        if __name__ == '__main__':
            import mmcv
            from mmcv.version import __version__
            assert mmcv.__version__ == __version__
            assert compat.apply() == []
            import mmaction.apis
            assert compat.apply() == []
            import sparseformer_mm.video
            for start in ('fork', 'spawn'):
                loader = DataLoader(
                    Data([1, 2]), num_workers=1, multiprocessing_context=start)
                assert [batch.item() for batch in loader] == [0, 0]
            print('done')
    """
    # Workers that are spawned import the script.
    (tmp_path / 'script.py').write_text(textwrap.dedent(script))
    output = run([sys.executable, '-W', 'ignore', 'script.py'], tmp_path)
    assert output.rstrip().endswith('done')
    assert logged(output) == (['; '.join(LINES)] if LINES else [])


@pytest.mark.parametrize(
    'env, says',
    [
        (dict(), True),
        (dict(RANK='0'), True),
        (dict(RANK='1'), False),
        (dict(SLURM_PROCID='3'), False),
        (dict(RANK='0', SLURM_PROCID='3'), True),
    ],
)
def test_one_rank_speaks_for_all(monkeypatch, env, says):
    for name in ('RANK', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    calls = []
    monkeypatch.setattr(compat, 'print_log', lambda *args: calls.append(args))
    monkeypatch.setattr(compat, '_import_mmaction', lambda: ['one', 'two'])
    assert compat.apply() == ['one', 'two']
    line = f'mmaction2 {mmaction.__version__}: one; two'
    assert calls == ([(line, 'current')] if says else [])


def test_what_recognition_needs_can_be_used(tmp_path):
    output = succeed_fresh(
        """
        import sys
        try:
            import mmaction.models  # whatever has failed before
        except (AssertionError, ImportError):
            pass
        import sparseformer_mm.video.compat
        import mmaction.engine
        from mmaction.apis import (
            MMAction2Inferencer, inference_recognizer, init_recognizer)
        from mmaction.datasets import RawframeDataset, VideoDataset
        from mmaction.models import I3DHead, ResNet3d, ResNet3dSlowFast
        from mmaction.models.localizers import BMN, DRN
        from mmaction.registry import METRICS, MODELS, VISUALIZERS
        from mmaction.structures import ActionDataSample
        from mmaction.utils import register_all_modules
        import importlib.util
        import torch

        register_all_modules()
        assert MODELS.get('Recognizer3D') and VISUALIZERS.get('ActionVisualizer')
        name = 'mmaction.models.localizers.drn'
        assert importlib.util.find_spec(name).name == name
        try:
            DRN(feature_dim=3)
        except ImportError as error:
            assert 'mmaction2 from its source' in str(error)
        except TypeError:
            assert DRN.__module__ == name + '.drn'

        samples = []
        for label, best in ((0, 0), (1, 2), (2, 2), (3, 3)):
            sample = ActionDataSample().set_gt_label(label)
            samples.append(sample.set_pred_score(torch.eye(8)[best]).to_dict())
        metric = METRICS.build(dict(type='AccMetric'))
        metric.process({}, samples)
        result = metric.evaluate(4)
        assert result['acc/top1'] == result['acc/mean1'] == 0.75, result
        print('done')
        """,
        tmp_path,
    )
    assert output.rstrip().endswith('done')


def copy_mmaction(folder: Path) -> Path:
    """An mmaction2 without any of the faults."""
    ignore = shutil.ignore_patterns('.mim', '__pycache__')
    copy = Path(shutil.copytree(FOLDER, folder / 'mmaction', ignore=ignore))
    drn = copy / 'models' / 'localizers' / 'drn'
    drn.mkdir(exist_ok=True)
    (drn / '__init__.py').touch()
    (drn / 'drn.py').write_text('class DRN:\n    pass\n')
    for path, old, new in (
        (copy / '__init__.py', "= '2.2.0'", "= '9.0.0'"),
        (
            copy / 'datasets' / 'transforms' / 'processing.py',
            '(hsv[..., 0] + offset)',
            '(hsv[..., 0].astype(int) + offset)',
        ),
        (
            copy / 'models' / 'heads' / 'base.py',
            'cls_scores.detach().cpu()',
            'cls_scores.detach().float().cpu()',
        ),
    ):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
    return copy


def test_an_mmaction2_without_faults_is_left_alone(tmp_path):
    copy_mmaction(tmp_path)
    output = succeed_fresh(
        """
        import sys
        import mmcv
        version = mmcv.__version__
        import sparseformer_mm.video.compat as compat
        assert mmcv.__version__ == version
        import mmaction.models.localizers as localizers
        from mmaction.datasets.transforms.processing import ColorJitter
        import mmaction
        assert mmaction.__file__.startswith(sys.path[0])
        assert localizers.DRN.__module__ == 'mmaction.models.localizers.drn.drn'
        assert localizers.DRN is not compat.DRN
        assert ColorJitter.adjust_hue.__module__ != compat.__name__
        from mmaction.models.heads.base import BaseHead
        assert BaseHead.loss_by_feat.__module__ == BaseHead.__module__
        assert compat.apply() == []
        print('done')
        """,
        tmp_path,
    )
    assert output.rstrip() == 'done'  # and nothing is said


def test_only_an_mmcv_that_is_too_new_is_let_in(tmp_path):
    copy = copy_mmaction(tmp_path)
    text = (copy / '__init__.py').read_text()
    (copy / '__init__.py').write_text(text.replace("'9.0.0'", "'2.2.0'"))
    output = succeed_fresh(
        """
        import sys
        import mmcv
        mmcv.__version__ = '1.7.0'
        try:
            import sparseformer_mm.video.compat
        except AssertionError as error:
            assert 'MMCV==1.7.0 is used but incompatible' in str(error), error
        else:
            raise SystemExit('let in')
        assert mmcv.__version__ == '1.7.0'
        mmcv.__version__ = '2.7.0'
        import sparseformer_mm.video.compat
        import mmaction
        assert mmaction.__file__.startswith(sys.path[0])
        assert mmcv.__version__ == '2.7.0'
        """,
        tmp_path,
    )
    assert logged(output) == ['its limit on mmcv (here 2.7.0) was lifted']


@pytest.mark.parametrize(
    'imports, has_folder, is_imported, fills',
    [
        ('from .drn.drn import DRN', False, False, True),
        ('from .drn.drn import DRN', True, False, False),
        ('from .drn.drn import DRN', False, True, False),
        ('from .bmn import BMN', False, False, False),
    ],
)
def test_stand_in_only_where_one_is_needed(
    tmp_path, monkeypatch, imports, has_folder, is_imported, fills
):
    localizers = tmp_path / 'models' / 'localizers'
    localizers.mkdir(parents=True)
    (localizers / '__init__.py').write_text(imports + '\n')
    if has_folder:
        (localizers / 'drn').mkdir()
    modules = dict(mmaction=SimpleNamespace(__file__=str(tmp_path / '__init__.py')))
    if is_imported:
        modules['mmaction.models'] = object()
    before = set(modules)
    monkeypatch.setattr(compat, 'sys', SimpleNamespace(modules=modules))
    assert compat._fill_localizers() == ([DRN_LINE] if fills else [])
    names = {compat._DRN, compat._DRN + '.drn'}
    assert set(modules) - before == (names if fills else set())
    if fills:
        assert {modules[name].DRN for name in names} == {compat.DRN}
        assert compat._fill_localizers() == []


@pytest.mark.parametrize('adjust', [ColorJitter.adjust_hue, compat._shift_hue])
def test_hue_is_turned_by_the_right_angle(adjust):
    red = np.array([[[255.0, 0, 0]]], np.float32)
    # 180 steps are 360 degrees; steps are int(255 x factor).
    for factor, expected in (
        (0.0, (255, 0, 0)),
        (-0.1, (255, 0, 212.5)),  # -25 steps: 310 degrees
        (-0.5, (59.5, 255, 0)),  # -127 steps: 106 degrees
        (0.25, (0, 255, 25.5)),  # 63 steps: 126 degrees
    ):
        turned = adjust(red, factor)
        assert turned.dtype == np.float32
        np.testing.assert_allclose(turned[0, 0], expected, atol=1.5)


def test_colour_jitter_runs_with_any_draw():
    np.random.seed(0)
    image = np.random.randint(0, 256, (6, 5, 3)).astype(np.uint8)
    jitter = ColorJitter(brightness=0, contrast=0, saturation=0, hue=0.1)
    results = [jitter(dict(imgs=[image]))['imgs'][0] for _ in range(16)]
    assert all(result.dtype == np.uint8 for result in results)
    assert len({result.tobytes() for result in results}) > 8
    if digit_version(np.__version__) >= digit_version('2.0.0'):
        assert ColorJitter.adjust_hue is compat._shift_hue


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_heads_count_hits_of_bfloat16_scores(dtype):
    head = MODELS.build(dict(type='I3DHead', num_classes=3, in_channels=4, topk=(1,)))
    scores = torch.tensor([[1.0, 3.0, 2.0], [4.0, 1.0, 0.0]], requires_grad=True)
    samples = [ActionDataSample().set_gt_label(label) for label in (1, 2)]
    losses = head.loss_by_feat(scores.to(dtype), samples)
    assert losses['top1_acc'] == 0.5
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([1, 2]))
    torch.testing.assert_close(losses['loss_cls'], expected)
    losses['loss_cls'].backward()
    assert scores.grad.abs().min() > 0.01
