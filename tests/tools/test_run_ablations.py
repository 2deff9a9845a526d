"""tools/analysis_tools/run_ablations.py: trainings, going on, and the comparison."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)
pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
pytest.importorskip('matplotlib')

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools' / 'analysis_tools'
sys.path.insert(0, str(TOOLS))

import ablation_report as report  # noqa: E402
import run_ablations as tool  # noqa: E402
from ablation_groups import GROUPS, TASKS, Group, Row  # noqa: E402

pytestmark = pytest.mark.mmpretrain
BUDGET = ['--epochs', '1', '--train', '40', '--val', '20']


# ----------------------------------------------------------------------------
# The comparison with the paper's order.
# ----------------------------------------------------------------------------
def scored(**rows):
    """Rows as name=(rank, top-1 per seed ...)."""
    return [
        report.Scored(name, rank, dict(enumerate(top1)))
        for name, (rank, *top1) in rows.items()
    ]


def outcomes(rows, num_val=10_000):
    return {
        (pair.lower, pair.higher): pair.outcome
        for pair in report.compare(rows, num_val)
    }


def test_the_order_holds():
    rows = scored(a=(0, 60.0), b=(1, 70.0), c=(2, 80.0))
    pairs = report.compare(rows, 10_000)
    assert [pair.gain for pair in pairs] == [10.0, 20.0, 10.0]
    assert set(outcomes(rows).values()) == {'agrees'}
    assert report.verdict(pairs) == 'holds'


def test_rows_may_come_in_any_order():
    rows = scored(best=(2, 80.0), worst=(0, 60.0), middle=(1, 70.0))
    assert outcomes(rows) == {
        ('worst', 'best'): 'agrees',
        ('middle', 'best'): 'agrees',
        ('worst', 'middle'): 'agrees',
    }


def test_a_clear_reversal_breaks_the_order():
    rows = scored(a=(0, 70.0), b=(1, 60.0), c=(2, 80.0))
    assert outcomes(rows)['a', 'b'] == 'reversed'
    assert report.verdict(report.compare(rows, 10_000)) == 'does not hold'


def test_a_reversal_within_the_noise_decides_nothing():
    rows = scored(a=(0, 70.5), b=(1, 70.0), c=(2, 80.0))
    assert outcomes(rows)['a', 'b'] == 'close'
    assert report.verdict(report.compare(rows, 10_000)) == 'undecided'


def test_a_small_gain_does_not_break_the_order():
    rows = scored(a=(0, 70.0), b=(1, 70.5))
    assert outcomes(rows) == {('a', 'b'): 'close'}
    assert report.verdict(report.compare(rows, 10_000)) == 'holds'


def test_equal_results_do_not_hold_an_order():
    assert report.verdict(report.compare(scored(a=(0, 70.0), b=(1, 70.0)), 9)) == (
        'undecided'
    )


def test_rows_alike_in_the_paper_are_no_order():
    rows = scored(half=(1, 60.0), cell=(1, 80.0), whole=(0, 50.0))
    assert outcomes(rows) == {
        ('half', 'cell'): 'tied',
        ('whole', 'half'): 'agrees',
        ('whole', 'cell'): 'agrees',
    }
    assert report.verdict(report.compare(rows, 10_000)) == 'holds'


def test_noise_of_one_seed_is_that_of_the_validation_samples():
    (pair,) = report.compare(scored(a=(0, 50.0), b=(1, 90.0)), 400)
    # 2 * sqrt(0.5 * 0.5 / 400 + 0.9 * 0.1 / 400), in points
    assert pair.noise == pytest.approx(200 * (0.34 / 400) ** 0.5)


def test_noise_grows_with_the_distance_of_seeds():
    rows = scored(a=(0, 50.0, 54.0), b=(1, 90.0, 90.0))
    (pair,) = report.compare(rows, 400)
    assert pair.gain == 38.0
    # Variances 8 and 0, 4 pooled, over two seeds in each row.
    samples = (52.0 * 48.0 + 90.0 * 10.0) / 400
    assert pair.noise == pytest.approx(2 * (samples + 4 / 2 + 4 / 2) ** 0.5)


def test_the_line_names_pairs():
    rows = scored(a=(0, 70.0), b=(1, 60.0), c=(2, 78.0), d=(2, 81.0), e=(3, 81.1))
    line = report.explain(report.compare(rows, 10_000))
    assert "The paper's order **does not hold** here: 7 of 9 pairs" in line
    assert 'reversed: b over a -10.0 (noise 1.3)' in line
    assert 'too close to call: e over d +0.1 (noise 1.1)' in line
    assert 'alike in the paper: d over c +3.0' in line


def test_the_table():
    rows = scored(a=(0, 70.0, 71.0), b=(1,))
    rows[0].params, rows[0].macs, rows[0].macs_as_published = 1_230_000, 6 * 10**7, 5
    assert report.table('points', rows, [0, 1]).splitlines() == [
        '| points | params (M) | multiply-adds (G) | without mixing | top-1, seed 0 | '
        "top-1, seed 1 | mean | paper's order |",
        '| --- | --- | --- | --- | --- | --- | --- | --- |',
        '| a | 1.23 | 0.0600 | 0.0000 | 70.0 | 71.0 | 70.5 | 1 |',
        '| b | 0.00 | 0.0000 | 0.0000 | - | - | - | 2 |',
    ]


# ----------------------------------------------------------------------------
# The groups.
# ----------------------------------------------------------------------------
def test_groups_are_those_of_the_paper():
    names = {key: [row.name for row in group.rows] for key, group in GROUPS.items()}
    assert names == {
        'tokens': ['4', '9', '16', '25', '36'],
        'repeats': ['nil', '1', '2', '4', '8'],
        'points': ['4', '9', '16', '25'],
        'stem': ['pixel', 'patch', 'early'],
        'decoding': ['linear', 'static', 'adaptive'],
        'roi-init': ['half', 'cell', 'whole'],
        'inflation': ['1', '2', '4'],
    }
    ranks = {key: [row.rank for row in group.rows] for key, group in GROUPS.items()}
    assert ranks == {
        'tokens': [0, 1, 2, 3, 4],
        'repeats': [0, 1, 2, 3, 3],
        'points': [0, 1, 2, 3],
        'stem': [0, 1, 2],
        'decoding': [0, 1, 2],
        'roi-init': [1, 1, 0],
        'inflation': [0, 1, 2],
    }


@pytest.mark.parametrize('key', GROUPS)
def test_each_group_has_the_config_as_it_is(key):
    """The row without changes is what the config says it is."""
    from mmengine.config import Config

    group = GROUPS[key]
    (default,) = (row.name for row in group.rows if not row.backbone)
    backbone = Config.fromfile(ROOT / TASKS[group.task].config).model.backbone
    arguments = dict(
        tokens=('num_tokens', '16'),
        repeats=('focusing_repeats', '4'),
        points=('num_points', '16'),
    )
    if key in arguments:
        argument, value = arguments[key]
        assert default == value == str(backbone.arch[argument])
    elif key == 'inflation':
        assert default == '2' == str(backbone.token_inflation)
    else:
        assert default == dict(
            stem='early', decoding='adaptive', **{'roi-init': 'half'}
        ).get(key)
        assert not {'stem', 'decoding', 'roi_init'} & backbone.keys()


def test_rows_are_measured():
    default = tool.measure(Row('16', 0, {}), 'classification')
    points = tool.measure(Row('25', 0, dict(num_points=25)), 'classification')
    # Offsets and their bias, mixing weights, biases and projections, twice each.
    more = sum(
        9 * 2 * dims + 9 * 2 + (25**2 - 16**2) * (dims // 4 + 1) + 9 + 9 * 48 * dims
        for dims in (96, 192)
    )
    assert points['params'] - default['params'] == more
    static = tool.measure(Row('static', 0, dict(decoding='static')), 'classification')
    linear = tool.measure(Row('linear', 0, dict(decoding='linear')), 'classification')
    # 5 stages, 16 tokens, 16 points: (16 x 48)(48 x 48) and (16 x 16)(16 x 48).
    mixing = 5 * 16 * (16 * 48 * 48 + 16 * 16 * 48)
    assert static['macs'] - linear['macs'] == mixing
    for size in (default, static):
        assert size['macs'] - size['macs_as_published'] == mixing
    assert linear['macs'] == linear['macs_as_published']


def test_wrong_arguments(capsys):
    for arguments, message in (
        (['tokens', 'colour'], 'there is no group colour; choose from tokens, repeats'),
        (['--epochs', '0'], '--epochs must be at least 1, got 0'),
        (['--jobs', '0'], '--jobs must be at least 1'),
    ):
        with pytest.raises(SystemExit) as error:
            tool.parse_args(arguments)
        assert error.value.code == 2
        assert message in capsys.readouterr().err


def test_shared_rows_are_trained_once():
    groups = [group for group in GROUPS.values() if group.task == 'classification']
    runs = {run.name for group in groups for run in tool.runs_of(group, [0])}
    assert len(runs) == sum(len(group.rows) for group in groups) - 5
    assert 'classification-default-seed0' in runs
    assert 'classification-fixed_rois=True-focusing_repeats=0-seed0' in runs


# ----------------------------------------------------------------------------
# Trainings.
# ----------------------------------------------------------------------------
TOY = Group(
    'Toy',
    'repeats',
    'none',
    [
        Row('nil', 0, dict(focusing_repeats=0, fixed_rois=True, num_tokens=1)),
        Row('1', 1, dict(focusing_repeats=1, num_tokens=1)),
    ],
)
NIL = 'classification-fixed_rois=True-focusing_repeats=0-num_tokens=1-seed0'
ONE = 'classification-focusing_repeats=1-num_tokens=1-seed0'


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(GROUPS, 'toy', TOY)


def train(folder, *more):
    tool.main(['toy', *BUDGET, '--out', f'{folder}/out', '--data', f'{folder}', *more])


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Two rows trained by the command."""
    folder = tmp_path_factory.mktemp('ablations')
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(GROUPS, 'toy', TOY)
        train(folder)
    return folder


def results(folder):
    return {
        path.parent.name: (path.stat().st_mtime_ns, json.loads(path.read_text()))
        for path in sorted((folder / 'out' / 'runs').glob('*/result.json'))
    }


@pytest.mark.slow
def test_trains_rows_and_writes_the_report(trained):
    out = trained / 'out'
    found = results(trained)
    assert set(found) == {NIL, ONE}
    content = json.loads((out / 'ablations.json').read_text())
    group = content['groups']['toy']
    assert group['budget'] == dict(epochs=1, train=40, val=20)
    assert [row['name'] for row in group['rows']] == ['nil', '1']
    for row, name in zip(group['rows'], (NIL, ONE)):
        _, result = found[name]
        assert row['top1'] == {'0': result['top1']}
        # A share of 20 pictures, in percent.
        assert result['top1'] % 5 == pytest.approx(0) and 0 <= row['mean'] <= 100
        log = (out / 'runs' / name / 'train.log').read_text()
        assert 'Epoch(val) [1]' in log and 'Epoch(train) [2]' not in log
        assert f'accuracy/top1: {result["top1"]:.4f}' in log
        assert (out / 'runs' / name / 'epoch_1.pth').is_file()
    (pair,) = group['pairs']
    assert pair['gain'] == group['rows'][1]['mean'] - group['rows'][0]['mean']
    page = (out / 'ablations.md').read_text()
    assert "The paper's order " in page and '| nil | ' in page
    assert 'Epochs here: 1; samples: 40 to train, 20 to validate.' in page
    assert (out / 'ablations.png').read_bytes()[:4] == b'\x89PNG'
    # What was asked for is what was trained.
    dumped = (out / 'runs' / ONE / 'sparseformer-nano_1xb32_digits.py').read_text()
    assert 'focusing_repeats=1' in dumped and 'num_tokens=1' in dumped
    assert (trained / 'digits_classification_40_20' / 'digits_manifest.json').is_file()


@pytest.mark.slow
def test_rows_that_are_done_stay_and_an_interrupted_one_is_redone(
    trained, toy, monkeypatch, capsys
):
    before = results(trained)

    def no_training(*args):
        raise AssertionError('nothing is left to train')

    with monkeypatch.context() as patch:
        patch.setattr(tool, 'train', no_training)
        train(trained)
    assert '2 trainings, 2 of them done before' in capsys.readouterr().out
    assert results(trained) == before

    # Interrupted: a folder with what there was, and no result.
    (trained / 'out' / 'runs' / ONE / 'result.json').unlink()
    (trained / 'out' / 'runs' / ONE / 'left').write_text('half a checkpoint')
    train(trained)
    after = results(trained)
    assert after[NIL] == before[NIL]
    assert after[ONE][0] > before[ONE][0]
    # The same seed: the same figure.
    assert after[ONE][1]['top1'] == before[ONE][1]['top1']
    assert not (trained / 'out' / 'runs' / ONE / 'left').exists()


def fake_result(folder, name, top1, **budget):
    path = folder / 'out' / 'runs' / name / 'result.json'
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(dict(top1=top1, budget=budget)))


def test_another_budget_does_not_mix_in(tmp_path, toy):
    fake_result(tmp_path, NIL, 50.0, epochs=2, train=40, val=20)
    with pytest.raises(SystemExit, match=f'{NIL} was trained with .*another --out'):
        train(tmp_path)


def test_a_failed_training_is_reported_and_others_go_on(
    tmp_path, toy, monkeypatch, capsys
):
    fake_result(tmp_path, NIL, 50.0, epochs=1, train=40, val=20)
    broken = tmp_path / 'tools' / 'train.py'
    broken.parent.mkdir()
    broken.write_text('raise SystemExit("out of memory")')
    monkeypatch.setattr(tool, 'make_data', lambda *args: None)
    monkeypatch.setattr(tool, 'measure', lambda *args: {})
    monkeypatch.setattr(tool, 'ROOT', tmp_path)
    with pytest.raises(SystemExit, match='1 of 2 trainings failed'):
        train(tmp_path)
    output = capsys.readouterr().out
    assert f'{ONE} failed, see' in output and 'out of memory' in output
    group = json.loads((tmp_path / 'out' / 'ablations.json').read_text())['groups']
    assert [row['mean'] for row in group['toy']['rows']] == [50.0, None]
    assert group['toy']['verdict'] is None
    assert 'Rows are missing.' in (tmp_path / 'out' / 'ablations.md').read_text()


@pytest.mark.slow
@pytest.mark.skipif(os.name != 'posix', reason='sends a signal')
def test_an_interrupt_ends_the_trainings(tmp_path):
    command = [sys.executable, TOOLS / 'run_ablations.py', 'decoding', *BUDGET]
    command += ['--out', tmp_path / 'out', '--data', tmp_path]
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    with subprocess.Popen(
        [str(part) for part in command],
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
    assert not list((tmp_path / 'out').glob('runs/*/result.json'))


@pytest.mark.slow
@pytest.mark.mmaction
def test_trains_on_clips(tmp_path, monkeypatch):
    pytest.importorskip('sparseformer_mm.video.compat')
    pytest.importorskip('mmaction', reason='needs mmaction2')
    pytest.importorskip('av', reason='clips are mp4 files')
    row = Row('1', 0, dict(token_inflation=1, num_tokens=1, focusing_repeats=1))
    monkeypatch.setitem(GROUPS, 'toy', Group('Toy', 'n', 'none', [row], 'video'))
    budget = ['--epochs', '1', '--train', '16', '--val', '8']
    tool.main(['toy', *budget, '--out', f'{tmp_path}/out', '--data', f'{tmp_path}'])
    ((name, (_, result)),) = results(tmp_path).items()
    assert name == 'video-focusing_repeats=1-num_tokens=1-token_inflation=1-seed0'
    assert result['top1'] % 12.5 == pytest.approx(0) and 0 <= result['top1'] <= 100
    log = (tmp_path / 'out' / 'runs' / name / 'train.log').read_text()
    assert f'acc/top1: {result["top1"] / 100:.4f}' in log
