"""The page to step through stages: its data, its HTML, and a real browser's view."""

import base64
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('matplotlib')

from sparseformer_mm.visualization.page import (  # noqa: E402
    UNIT,
    picture_data,
    write_page,
)
from sparseformer_mm.visualization.panels import (  # noqa: E402
    heat_colors,
    token_colors,
)
from sparseformer_mm.visualization.recording import Frame, Look, Stage  # noqa: E402
from sparseformer_mm.visualization.statistics import (  # noqa: E402
    density_map,
    share_in_boxes,
)

NASTY = '</script><script>throw 1</script><!-- <b>&amp;"\'\u2028é.png'
TOKENS, POINTS, STAGES = 5, 4, 3
VOID = {'meta', 'link', 'input', 'br', 'img'}


def a_look(seed, size=(30, 40), name='a.png', **kwargs):
    rng = np.random.default_rng(seed)
    stages = [
        Stage(
            f'focusing.{i}',
            rng.uniform(0.2, 0.6, (TOKENS, 4)),
            rng.uniform(-0.1, 1.1, (TOKENS, POINTS, 2)),
        )
        for i in range(STAGES)
    ]
    image = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
    return Look(name, [Frame('image', image)], stages, **kwargs)


def looks():
    area = np.zeros((30, 40), dtype=bool)
    area[5:20, 10:25] = True
    boxes = np.array([[0.1, 0.2, 0.6, 0.9], [0.5, 0.5, 1.0, 0.7]])
    return [
        a_look(0, title='cat 0.90', boxes=boxes),
        a_look(1, name=NASTY, title=NASTY, area=area, tokens=np.array([3, 1]),
               answer=NASTY),
    ]  # fmt: skip


def picture_of(uri):
    kind, _, body = uri.partition(';base64,')
    assert kind in ('data:image/png', 'data:image/jpeg')
    return Image.open(io.BytesIO(base64.b64decode(body)))


class Reader(HTMLParser):
    """Checks that elements are closed in order; keeps scripts and addresses."""

    def __init__(self):
        super().__init__()
        self.open, self.scripts, self.addresses, self.title = [], [], [], ''

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        if tag == 'script':
            self.scripts.append([dict(attrs), ''])
        self.addresses += [v for k, v in attrs if k in ('src', 'href', 'action')]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open[-1:] == ['script']:
            self.scripts[-1][1] += text
        elif self.open[-1:] == ['title']:
            self.title += text


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return reader


# ------------------------------------------------------------------- its data


def test_data_of_a_picture():
    look = looks()[0]
    data = json.loads(json.dumps(picture_data(look, bandwidth=0.1)))
    assert (data['name'], data['title'], data['answer']) == ('a.png', 'cat 0.90', '')
    assert (data['width'], data['height']) == (40, 30)
    np.testing.assert_array_equal(np.asarray(picture_of(data['image'])), look.image)
    np.testing.assert_allclose(np.array(data['boxes']) / UNIT, look.boxes, atol=1e-4)
    assert data['tokens'] is None and data['area'] is None
    colors = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in data['colors']]
    np.testing.assert_allclose(np.array(colors) / 255, token_colors(TOKENS), atol=0.002)
    assert [stage['name'] for stage in data['stages']] == [s.name for s in look.stages]
    maps = [density_map(s.points, (40, 30), 0.1, (168, 224)) for s in look.stages]
    for stage, one, density in zip(data['stages'], look.stages, maps):
        center, size = one.rois[:, :2], one.rois[:, 2:]
        corners = np.concatenate([center - size / 2, center + size / 2], 1)
        np.testing.assert_allclose(np.array(stage['rois']) / UNIT, corners, atol=1e-4)
        points = np.array(stage['points']).reshape(TOKENS, POINTS, 2) / UNIT
        np.testing.assert_allclose(points, one.points, atol=1e-4)
        heat = np.asarray(picture_of(stage['density']).convert('RGB')).astype(int)
        # 64 colours of one scale for all stages.
        expected = heat_colors(density, max(map(np.max, maps))).astype(int)
        assert heat.shape == expected.shape
        assert np.abs(heat - expected).mean() < 6
        share = share_in_boxes(one.points, look.boxes)
        assert stage['inBoxes'] == pytest.approx(share, abs=1e-4) and 0 < share < 1
        assert stage['onArea'] is None


def test_data_of_a_disturbed_picture():
    look = looks()[1]
    data = picture_data(look)
    assert data['tokens'] == [3, 1] and data['boxes'] == []
    marks = np.asarray(picture_of(data['area']))
    np.testing.assert_array_equal(marks[..., 3] > 0, look.area)
    for stage, one in zip(data['stages'], look.stages):
        x, y = np.floor(one.points.reshape(-1, 2) * [40, 30]).T
        share = np.mean((x >= 10) & (x < 25) & (y >= 5) & (y < 20))
        assert stage['onArea'] == pytest.approx(share, abs=1e-4)
        assert stage['inBoxes'] is None


def test_large_photos_are_shrunk():
    data = picture_data(a_look(0, (900, 600)))
    assert picture_of(data['image']).size == (299, 448)
    assert data['image'].startswith('data:image/jpeg')
    assert (data['width'], data['height']) == (600, 900)


# ------------------------------------------------------------------- its HTML


def test_names_cannot_break_the_page(tmp_path):
    path = tmp_path / 'index.html'
    write_page(path, looks(), title=NASTY, shown=['rois'])
    page = path.read_text(encoding='utf-8')
    reader = read(page)
    assert reader.title == NASTY
    (kind, text), (plain, script) = reader.scripts
    assert kind == dict(type='application/json', id='data') and plain == {}
    assert 'throw 1' not in script and not re.search('[<>&\u2028]', text)
    data = json.loads(text)
    assert data['unit'] == UNIT and data['shown'] == ['rois']
    assert [p['name'] for p in data['pictures']] == ['a.png', NASTY]
    assert data['pictures'][1]['answer'] == NASTY


def test_the_page_holds_everything(tmp_path):
    path = tmp_path / 'index.html'
    write_page(path, looks())
    page = path.read_text(encoding='utf-8')
    reader = read(page)
    assert reader.addresses == ['data:,']
    # The one address is the name of SVG, which nobody opens.
    assert set(re.findall(r'\w+://[^\s\'"]+', page)) == {'http://www.w3.org/2000/svg'}
    assert "default-src 'none'" in page
    for forbidden in ('fetch(', 'XMLHttpRequest', 'import(', 'innerHTML', '@import'):
        assert forbidden not in page
    with pytest.raises(ValueError, match='at least one picture'):
        write_page(path, [])


# ----------------------------------------------------------------- in a browser


def browser_python():
    given = os.environ.get('SPARSEFORMER_BROWSER_PYTHON')
    if given:
        return given
    if importlib.util.find_spec('PySide6') is None:
        pytest.skip('needs PySide6, here or in $SPARSEFORMER_BROWSER_PYTHON')
    return sys.executable


def in_browser(path, scripts, *args):
    """What the scripts return, one after the other, on a page without errors."""
    driver = Path(__file__).parents[1] / 'helpers/page_browser.py'
    done = subprocess.run(
        [browser_python(), str(driver), str(path), *map(str, args)],
        input=json.dumps(scripts),
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found['console'] == [] and found['requests'] == []
    return found['results']


COUNT = """(() => { const all = s => document.querySelectorAll(s); return {
    rois: all('#shapes .roi').length, dots: all('#shapes .dots').length,
    images: all('#pixels image').length, boxes: all('#truth .box').length,
    tokens: [...all('#shapes g')].map(g => Number(g.dataset.token)),
    dim: all('#shapes .dim').length, hot: all('#shapes .hot').length,
    pressed: [...all('#chips .chip')].map(c => c.getAttribute('aria-pressed')),
    stage: all('#stage')[0].value, said: all('#numbers')[0].textContent,
    result: all('#result')[0].textContent, count: all('#count')[0].textContent,
    asked: all('#asked')[0].hidden ? null : all('#asked')[0].textContent,
    area: !all('#areaLabel')[0].hidden, truth: !all('#boxesLabel')[0].hidden };
})()"""
FIRST_ROI = """['x', 'y', 'width', 'height'].map(k =>
    Number(document.querySelector('#shapes .roi').getAttribute(k)))"""
FIRST_DOTS = "document.querySelector('#shapes .dots').getAttribute('d')"


def key(name):
    return (
        'document.body.dispatchEvent(new KeyboardEvent("keydown", '
        f'{{key: "{name}", bubbles: true, cancelable: true}}))'
    )


def click(selector):
    return f'document.querySelector("{selector}").click()'


def hover(selector, kind='enter'):
    event = f'new PointerEvent("pointer{kind}")'
    return f'document.querySelector("{selector}").dispatchEvent({event})'


def slide(value):
    return (
        f'(() => {{ const s = document.getElementById("stage"); s.value = {value}; '
        's.dispatchEvent(new Event("input")); })()'
    )


def test_in_a_browser(tmp_path):
    both = looks()
    path = tmp_path / 'index.html'
    write_page(path, both, title=NASTY, shown=['points', 'rois'])
    steps = [
        'document.querySelector("h1").textContent + document.title',
        COUNT, FIRST_ROI, FIRST_DOTS,  # 1, 2, 3
        key('ArrowRight'), COUNT, FIRST_ROI,  # 5, 6
        slide(2), key('ArrowRight'), COUNT, FIRST_ROI,  # 9, 10
        click('#chips .chip:nth-child(2)'), hover('#chips .chip:nth-child(4)'), COUNT,
        hover('#chips .chip:nth-child(4)', 'leave'), COUNT,  # 13, 15
        key('n'), COUNT, key('a'), click('#points'), click('#density'),
        click('#boxes'), click('#stages button:nth-child(1)'), COUNT,  # 17, 23
        click('#after'), COUNT, click('#area'), click('#none'), click('#asked'),
        COUNT, key('ArrowDown'), COUNT,  # 25, 29, 31
    ]  # fmt: skip
    seen = in_browser(path, steps)
    assert seen[0].startswith(NASTY)
    stages = both[0].stages
    size = np.tile([40, 30], 2)

    def roi(stage, token=0):
        x, y, w, h = stages[stage].rois[token] * size
        return pytest.approx([x - w / 2, y - h / 2, w, h], abs=0.01)

    every = list(range(TOKENS))
    start = seen[1]
    assert start['rois'] == start['dots'] == TOKENS and start['tokens'] == every
    assert (start['images'], start['boxes'], start['dim']) == (1, 2, 0)
    assert start['result'] == 'cat 0.90' and start['count'] == '(5 of 5)'
    assert start['asked'] is None and not start['area'] and start['truth']
    share = share_in_boxes(stages[0].points, both[0].boxes)
    assert start['said'] == (
        f'Stage 1 of 3: focusing.0; {100 * share:.1f} % of all points in the true boxes'
    )
    assert seen[2] == roi(0)
    dots = re.findall(r'M(-?[\d.]+) (-?[\d.]+)h0', seen[3])
    expected = stages[0].points[0] * [40, 30]
    np.testing.assert_allclose(np.array(dots, dtype=float), expected, atol=0.01)

    assert seen[5]['stage'] == '1' and seen[6] == roi(1)
    assert seen[9]['stage'] == '2' and seen[10] == roi(2)  # the last one stays
    assert 'focusing.2' in seen[9]['said']

    # Token 1 off; token 3 pointed at.
    assert seen[13]['tokens'] == [0, 2, 3, 4] and seen[13]['rois'] == 4
    assert seen[13]['pressed'] == ['true', 'false', 'true', 'true', 'true']
    assert (seen[13]['hot'], seen[13]['dim']) == (1, 3)
    assert (seen[15]['hot'], seen[15]['dim']) == (0, 0)
    none = seen[17]
    assert none['tokens'] == [] and none['rois'] == none['dots'] == 0
    assert none['count'] == '(0 of 5)' and set(none['pressed']) == {'false'}

    # All tokens, without points and true boxes, with the density map.
    third = seen[23]
    assert (third['rois'], third['dots'], third['boxes']) == (TOKENS, 0, 0)
    assert third['images'] == 2 and third['stage'] == '0'
    # The other picture begins with the tokens that were asked for.
    other = seen[25]
    assert other['tokens'] == [1, 3] and other['result'] == NASTY
    assert other['asked'] == f'Top 2: {NASTY}' and other['area'] and not other['truth']
    assert '% of all points on the disturbed area' in other['said']
    assert seen[29]['tokens'] == [1, 3] and seen[29]['images'] == 3
    # Behind the last comes the first again.
    assert seen[31]['result'] == 'cat 0.90' and seen[31]['tokens'] == every
