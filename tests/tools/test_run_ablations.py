"""tools/analysis_tools/run_ablations.py: trainings, going on, and the comparison."""

import os
import signal
import subprocess
import sys

import pytest

pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)
pytest.importorskip('sklearn', reason='the digits come with scikit-learn')

from mmengine.config import Config  # noqa: E402

from helpers.scripts import ROOT, load_tool, run_tool  # noqa: E402
from sparseformer_mm.models.arch import resolve_arch  # noqa: E402

pytestmark = pytest.mark.mmpretrain
tool = load_tool('analysis_tools/run_ablations')
GROUPS = dict(tool.GROUPS)
BUDGET = ['--epochs', 1, '--train', 40, '--val', 20]


# --------------------------------------------------- the comparison with the paper
def compare(num_val=10_000, **rows):
    """Rows as name=(rank, top-1 per seed ...)."""
    ranks = {name: rank for name, (rank, *_) in rows.items()}
    top1 = {name: runs for name, (_, *runs) in rows.items()}
    return tool.compare(ranks, top1, num_val)


@pytest.mark.parametrize(
    'rows, outcomes, verdict',
    [
        (
            dict(best=(2, 80.0), worst=(0, 60.0), middle=(1, 70.0)),
            {('worst', 'best'): 'agrees', ('worst', 'middle'): 'agrees'},
            '**holds** here: 3 of 3 pairs',
        ),
        (
            dict(a=(0, 70.0), b=(1, 60.0), c=(2, 80.0)),
            {('a', 'b'): 'reversed', ('b', 'c'): 'agrees'},
            '**does not hold** here: 2 of 3 pairs',
        ),
        (
            dict(a=(0, 70.5), b=(1, 70.0), c=(2, 80.0)),
            {('a', 'b'): 'too close to call'},
            'is **undecided** here: 2 of 3 pairs',
        ),
        (
            dict(a=(0, 70.0), b=(1, 70.5)),
            {('a', 'b'): 'too close to call'},
            '**holds** here: 0 of 1 pairs',
        ),
        (dict(a=(0, 70.0), b=(1, 70.0)), {}, 'is **undecided**'),
        (
            dict(half=(1, 60.0), cell=(1, 80.0), whole=(0, 50.0)),
            {('half', 'cell'): 'alike in the paper', ('whole', 'half'): 'agrees'},
            '**holds** here: 2 of 2 pairs',
        ),
    ],
)
def test_order_of_the_paper(rows, outcomes, verdict):
    pairs = compare(**rows)
    found = {(pair.lower, pair.higher): pair.outcome for pair in pairs}
    assert outcomes.items() <= found.items()
    assert f"The paper's order {verdict}" in tool.explain(pairs)


def test_noise():
    (pair,) = compare(400, a=(0, 50.0), b=(1, 90.0))
    # 2 * sqrt(0.5 * 0.5 / 400 + 0.9 * 0.1 / 400), in points
    assert pair.noise == pytest.approx(200 * (0.34 / 400) ** 0.5)
    (pair,) = compare(400, a=(0, 50.0, 54.0), b=(1, 90.0, 90.0))
    assert pair.gain == 38.0
    # Variances 8 and 0, 4 pooled, over two seeds in each row.
    samples = (52.0 * 48.0 + 90.0 * 10.0) / 400
    assert pair.noise == pytest.approx(2 * (samples + 4 / 2 + 4 / 2) ** 0.5)


def test_report_of_a_group():
    group = tool.Group('Toy', 'none', 'x', dict(a=0, b=1, c=2, d=2))
    rows = dict(a=[70.0, 71.0], b=[60.5], c=[78.0], d=[81.0])
    page = tool.section(group, rows, dict(epochs=6, train=3, val=10_000))
    assert '| a | 70.0, 71.0 | 70.5 | 1 |\n| b | 60.5 | 60.5 | 2 |' in page
    assert '**does not hold** here: 4 of 5 pairs' in page
    assert 'reversed: b over a -10.0 (noise ' in page
    assert 'alike in the paper: d over c +3.0' in page
    page = tool.section(group, dict(rows, b=[]), dict(epochs=6, train=3, val=4))
    assert '| b | - | - | 2 |' in page and 'Rows are missing.' in page
    assert 'Epochs here: 6; samples: 3 to train, 4 to validate.' in page


# ----------------------------------------------------------------------- the groups
def test_the_configs_have_the_defaults():
    models = {
        name: Config.fromfile(ROOT / task.config).model.backbone
        for name, task in tool.TASKS.items()
    }
    image = models['classification']
    arch = resolve_arch(image.arch)
    for name in ('num_tokens', 'focusing_repeats', 'num_points'):
        assert arch[name] == tool.DEFAULTS[name]
    for name in ('stem', 'decoding', 'roi_init'):
        assert name not in image
    assert models['video'].token_inflation == tool.DEFAULTS['token_inflation']
    # Each table has the row of the config as it is, which is trained once.
    assert all(tool.DEFAULTS[g.argument] in g.ranks for g in GROUPS.values())
    runs = [
        tool.run_of(group, row, 0).name
        for group in GROUPS.values()
        for row in group.ranks
    ]
    assert runs.count('classification-default-seed0') == 6
    assert runs.count('video-default-seed0') == 1
    assert 'classification-fixed_rois=True-focusing_repeats=0-seed0' in runs


def test_wrong_arguments():
    for arguments, message in (
        (['tokens', 'colour'], 'there is no group colour; choose from tokens, repeats'),
        (['--epochs', '0'], '--epochs: must be at least 1, got 0'),
        (['--jobs', '0'], '--jobs: must be at least 1'),
    ):
        status, output = run_tool(tool, *arguments)
        assert status == 2 and message in output


# --------------------------------------------------------------------- the trainings
TOY = tool.Group('Toy', 'none', 'focusing_repeats', {0: 0, 1: 1})
NIL = 'classification-fixed_rois=True-focusing_repeats=0-seed0'
ONE = 'classification-focusing_repeats=1-seed0'


@pytest.fixture(autouse=True, scope='module')
def toy():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tool.GROUPS, 'toy', TOY)
        yield


def train(folder, *more):
    return run_tool(tool, 'toy', *BUDGET, '--out', folder, *more)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Two rows trained by the command."""
    folder = tmp_path_factory.mktemp('ablations')
    status, output = train(folder)
    assert status == 0, output
    return folder


def results(folder):
    return {
        path.parent.name: (path.stat().st_mtime_ns, float(path.read_text()))
        for path in sorted(folder.glob('*/*/top1.txt'))
    }


@pytest.mark.slow
def test_trains_rows_and_writes_the_report(trained):
    assert set(results(trained)) == {NIL, ONE}
    page = (trained / 'ablations.md').read_text()
    for row, (name, (_, top1)) in enumerate(results(trained).items()):
        # A share of 20 pictures, in percent.
        assert top1 % 5 == pytest.approx(0) and 0 <= top1 <= 100
        assert f'| {row} | {top1:.1f} | {top1:.1f} | {row + 1} |' in page
        folder = trained / '1-40-20' / name
        log = (folder / 'train.log').read_text()
        assert 'Epoch(val) [1]' in log and 'Epoch(train) [2]' not in log
        assert f'accuracy/top1: {top1:.4f}' in log
        assert (folder / 'epoch_1.pth').is_file()
    # What was asked for is what was trained.
    assert (
        'focusing_repeats=1'
        in (folder / 'sparseformer-nano_1xb32_digits.py').read_text()
    )
    assert "The paper's order " in page


@pytest.mark.slow
def test_rows_that_are_done_stay_and_an_interrupted_one_is_redone(trained, monkeypatch):
    before = results(trained)
    with monkeypatch.context() as patch:
        patch.setattr(tool, 'start', None)  # nothing is left to train
        status, output = train(trained)
    assert status == 0 and '2 trainings, 2 of them done before' in output
    assert results(trained) == before
    # Interrupted: a folder with what there was, and no result.
    folder = trained / '1-40-20' / ONE
    (folder / 'top1.txt').unlink()
    (folder / 'left').write_text('half a checkpoint')
    train(trained)
    after = results(trained)
    assert after[NIL] == before[NIL]
    # The same seed: the same figure.
    assert after[ONE][0] > before[ONE][0] and after[ONE][1] == before[ONE][1]
    assert not (folder / 'left').exists()


def test_a_failed_training_is_reported_and_others_stay(tmp_path, monkeypatch):
    done = tmp_path / '1-40-20' / NIL / 'top1.txt'
    done.parent.mkdir(parents=True)
    done.write_text('50.0')
    broken = tmp_path / 'tools' / 'train.py'
    broken.parent.mkdir()
    broken.write_text('raise SystemExit("out of memory")')
    monkeypatch.setattr(tool, 'make_data', lambda *args: None)
    monkeypatch.setattr(tool, 'ROOT', tmp_path)
    status, output = train(tmp_path)
    assert status == 1 and '1 of 2 trainings failed' in output
    assert f'failed, see {tmp_path}/1-40-20/{ONE}/train.log' in output
    page = (tmp_path / 'ablations.md').read_text()
    assert '| 0 | 50.0 |' in page and 'Rows are missing.' in page


@pytest.mark.slow
@pytest.mark.skipif(os.name != 'posix', reason='sends a signal')
def test_an_interrupt_ends_the_trainings(tmp_path):
    script = ROOT / 'tools/analysis_tools/run_ablations.py'
    command = [sys.executable, script, 'decoding', *BUDGET, '--out', tmp_path]
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    with subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS='1'),
        # Whoever runs the tests in the background had it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        for line in process.stdout:
            if line.startswith('training '):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    assert 'interrupted; the same command goes on' in rest
    assert not results(tmp_path)


@pytest.mark.slow
@pytest.mark.mmaction
def test_trains_on_clips(tmp_path, monkeypatch):
    pytest.importorskip('sparseformer_mm.video.compat')
    pytest.importorskip('mmaction', reason='needs mmaction2')
    pytest.importorskip('av', reason='clips are mp4 files')
    group = tool.Group('Toy', 'none', 'token_inflation', {1: 0}, 'video')
    monkeypatch.setitem(tool.GROUPS, 'toy', group)
    budget = ['--epochs', 1, '--train', 16, '--val', 8]
    status, output = run_tool(tool, 'toy', *budget, '--out', tmp_path)
    assert status == 0, output
    ((name, (_, top1)),) = results(tmp_path).items()
    assert name == 'video-token_inflation=1-seed0'
    assert top1 % 12.5 == pytest.approx(0) and 0 <= top1 <= 100
    log = (tmp_path / '1-16-8' / name / 'train.log').read_text()
    assert f'acc/top1: {top1 / 100:.4f}' in log
