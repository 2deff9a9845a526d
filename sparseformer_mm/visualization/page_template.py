"""The page of :mod:`.attention_page` without its data."""

# @@NAME@@ stands for what is filled in.
TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@@TITLE@@</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark; --ink: #1c1e22; --paper: #fafafa; --line: #c9ccd2;
  --soft: #eceef1; --strong: #2559c7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e9ec; --paper: #17181b;
  --line: #44474e; --soft: #26282d; --strong: #86abff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 14px 18px; max-width: 1180px; color: var(--ink);
  background: var(--paper); font: 15px/1.4 system-ui, sans-serif; }
h1 { font-size: 18px; margin: 0 0 10px; overflow-wrap: anywhere; }
button, select { font: inherit; color: inherit; background: var(--soft);
  border: 1px solid var(--line); border-radius: 5px; padding: 3px 9px;
  cursor: pointer; }
button:hover, select:hover { border-color: var(--strong); }
:focus-visible { outline: 2px solid var(--strong); outline-offset: 1px; }
.bar { display: flex; flex-wrap: wrap; gap: 6px 14px; align-items: center;
  margin-bottom: 10px; }
.bar select { max-width: 60vw; }
main { display: grid; grid-template-columns: minmax(0, 640px) minmax(240px, 1fr);
  gap: 20px; align-items: start; }
@media (max-width: 820px) { main { grid-template-columns: minmax(0, 1fr); } }
#view { display: block; width: 100%; max-height: 76vh; background: #000;
  border-radius: 4px; }
#view image { image-rendering: auto; }
#view image.small { image-rendering: pixelated; }
.roi { fill: none; }
.roi, .dots, .box { vector-effect: non-scaling-stroke; }
.roi { stroke-width: 2px; }
.dots { fill: none; stroke-width: 5px; stroke-linecap: round; }
.box { fill: none; stroke: #fff; stroke-width: 1.5px; stroke-dasharray: 6 4; }
.dim { opacity: .12; }
.hot .roi { stroke-width: 4px; }
.hot .dots { stroke-width: 8px; }
#stage { width: 100%; accent-color: var(--strong); }
#stages { display: flex; gap: 4px; margin: 4px 0 12px; }
#stages button { flex: 1; padding: 3px 2px; min-width: 0; overflow: hidden;
  text-overflow: ellipsis; font-size: 13px; }
#stages button[aria-pressed=true] { background: var(--strong); color: var(--paper); }
fieldset { border: 0; margin: 0 0 12px; padding: 0; display: flex; flex-wrap: wrap;
  gap: 4px 14px; }
legend { font-weight: 600; padding: 0; float: left; width: 100%; margin-bottom: 4px; }
#chips { display: flex; flex-wrap: wrap; gap: 3px; max-height: 34vh; overflow: auto;
  width: 100%; padding: 2px; }
.chip { min-width: 31px; padding: 1px 4px; font-size: 12px; text-align: center; }
.chip[aria-pressed=false] { background: transparent !important; opacity: .6;
  color: var(--ink) !important; }
#numbers { margin: 8px 0 0; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums; }
.hint { font-size: 13px; opacity: .75; }
</style>
</head>
<body>
<h1>@@TITLE@@</h1>
<div class="bar">
  <label>Picture <select id="picture"></select></label>
  <span><button id="before" type="button">Previous</button>
  <button id="after" type="button">Next</button></span>
  <span id="result"></span>
</div>
<main>
<div>
  <svg id="view" role="img" aria-label="picture with token RoIs and sampling points">
    <g id="pixels"></g><g id="truth"></g><g id="shapes"></g></svg>
  <p id="numbers" aria-live="polite"></p>
</div>
<div>
  <label for="stage"><b>Sampling stage</b></label>
  <input id="stage" type="range" min="0" step="1" value="0">
  <div id="stages"></div>
  <fieldset><legend>Draw</legend>
    <label><input type="checkbox" id="rois"> RoIs</label>
    <label><input type="checkbox" id="points"> points</label>
    <label><input type="checkbox" id="density"> density of all points</label>
    <label id="boxesLabel"><input type="checkbox" id="boxes" checked> true boxes</label>
    <label id="areaLabel"><input type="checkbox" id="area"> disturbed area</label>
  </fieldset>
  <fieldset><legend>Tokens <span id="count"></span></legend>
    <button id="all" type="button">All</button>
    <button id="none" type="button">None</button>
    <button id="asked" type="button">Chosen</button>
    <div id="chips"></div>
  </fieldset>
  <p class="hint">Keys: &larr; &rarr; stage, &uarr; &darr; picture, a all tokens,
  n none. A token keeps its colour in all stages; point at it to see it alone.</p>
</div>
</main>
<script type="application/json" id="data">@@DATA@@</script>
<script>
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const at = id => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';
const make = (name, attributes) => {
  const element = document.createElementNS(SVG, name);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  return element;
};
let picture = 0, stage = 0, on = [], hot = -1;

function draw() {
  const look = data.pictures[picture], one = look.stages[stage];
  // One unit of the drawing is one pixel of the picture.
  const sx = look.width / data.unit, sy = look.height / data.unit;
  const margin = 0.04 * Math.max(look.width, look.height);
  at('view').setAttribute('viewBox', [-margin, -margin, look.width + 2 * margin,
    look.height + 2 * margin].join(' '));
  const whole = { x: 0, y: 0, width: look.width, height: look.height,
    preserveAspectRatio: 'none' };
  const small = Math.max(look.width, look.height) < 320 ? 'small' : '';
  const pixels = [make('image', { ...whole, href: look.image, class: small })];
  if (at('density').checked)
    pixels.push(make('image', { ...whole, href: one.density, opacity: 0.65 }));
  if (at('area').checked && look.area)
    pixels.push(make('image', { ...whole, href: look.area, class: small }));
  at('pixels').replaceChildren(...pixels);
  const rect = (corners, attributes) => make('rect', { x: corners[0] * sx,
    y: corners[1] * sy, width: Math.max(0, corners[2] - corners[0]) * sx,
    height: Math.max(0, corners[3] - corners[1]) * sy, ...attributes });
  at('truth').replaceChildren(...(at('boxes').checked ? look.boxes : []).map(
    corners => rect(corners, { class: 'box' })));
  const shapes = [];
  on.forEach((shown, token) => {
    if (!shown) return;
    const group = make('g', { 'data-token': token, stroke: look.colors[token] });
    if (at('rois').checked) group.append(rect(one.rois[token], { class: 'roi' }));
    if (at('points').checked) {
      const dots = one.points[token];
      let path = '';
      for (let i = 0; i < dots.length; i += 2)
        path += `M${(dots[i] * sx).toFixed(2)} ${(dots[i + 1] * sy).toFixed(2)}h0`;
      group.append(make('path', { d: path, class: 'dots' }));
    }
    const name = make('title', {});
    name.textContent = `token ${token}`;
    group.append(name);
    group.addEventListener('pointerenter', () => mark(token));
    group.addEventListener('pointerleave', () => mark(-1));
    shapes.push(group);
  });
  at('shapes').replaceChildren(...shapes);
  at('stage').value = stage;
  [...at('stages').children].forEach((button, i) =>
    button.setAttribute('aria-pressed', i === stage));
  [...at('chips').children].forEach((chip, i) =>
    chip.setAttribute('aria-pressed', on[i]));
  at('count').textContent = `(${on.filter(Boolean).length} of ${on.length})`;
  const percent = share => `${(100 * share).toFixed(1)} %`;
  const said = [`Stage ${stage + 1} of ${look.stages.length}: ${one.name}`];
  if (one.inBoxes !== null)
    said.push(`${percent(one.inBoxes)} of all points in the true boxes`);
  if (one.onArea !== null)
    said.push(`${percent(one.onArea)} of all points on the disturbed area`);
  at('numbers').textContent = said.join('; ');
  mark(hot);
}

function mark(token) {
  hot = token >= 0 && on[token] ? token : -1;
  for (const group of at('shapes').children) {
    const same = Number(group.dataset.token) === hot;
    group.classList.toggle('hot', same);
    group.classList.toggle('dim', hot >= 0 && !same);
  }
}

function choose(number) {
  picture = (number + data.pictures.length) % data.pictures.length;
  const look = data.pictures[picture];
  stage = Math.min(stage, look.stages.length - 1);
  on = look.colors.map((_, i) => !look.tokens || look.tokens.includes(i));
  hot = -1;
  at('picture').value = picture;
  at('result').textContent = look.title;
  at('stage').max = look.stages.length - 1;
  at('stages').replaceChildren(...look.stages.map((one, i) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = one.name;
    button.addEventListener('click', () => { stage = i; draw(); });
    return button;
  }));
  at('asked').hidden = !look.tokens;
  at('asked').textContent = !look.tokens ? '' : look.answer
    ? `Top ${look.tokens.length}: ${look.answer}` : `Chosen ${look.tokens.length}`;
  at('areaLabel').hidden = !look.area;
  at('boxesLabel').hidden = !look.boxes.length;
  at('chips').replaceChildren(...look.colors.map((color, i) => {
    const chip = document.createElement('button');
    chip.type = 'button';
    chip.className = 'chip';
    chip.textContent = i;
    chip.style.background = color;
    const [red, green, blue] = [1, 3, 5].map(k => parseInt(color.slice(k, k + 2), 16));
    chip.style.color = red * 0.3 + green * 0.59 + blue * 0.11 < 120 ? '#fff' : '#000';
    chip.setAttribute('aria-label', `token ${i}`);
    chip.addEventListener('click', () => { on[i] = !on[i]; draw(); mark(i); });
    chip.addEventListener('pointerenter', () => mark(i));
    chip.addEventListener('pointerleave', () => mark(-1));
    return chip;
  }));
  draw();
}

const set = which => { on = on.map((_, i) => which(i)); draw(); };
const step = by => {
  const last = data.pictures[picture].stages.length - 1;
  stage = Math.min(last, Math.max(0, stage + by));
  draw();
};
at('picture').append(...data.pictures.map((look, i) => new Option(look.name, i)));
at('picture').addEventListener('change', event => choose(Number(event.target.value)));
at('before').addEventListener('click', () => choose(picture - 1));
at('after').addEventListener('click', () => choose(picture + 1));
at('stage').addEventListener('input', event => {
  stage = Number(event.target.value);
  draw();
});
at('all').addEventListener('click', () => set(() => true));
at('none').addEventListener('click', () => set(() => false));
at('asked').addEventListener('click', () =>
  set(i => data.pictures[picture].tokens.includes(i)));
for (const id of ['rois', 'points', 'density', 'boxes', 'area'])
  at(id).addEventListener('change', draw);
document.addEventListener('keydown', event => {
  // Lists and the slider have these keys for themselves.
  if (event.target.matches('select, input[type=range]')) return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const act = {
    ArrowLeft: () => step(-1), ArrowRight: () => step(1),
    ArrowUp: () => choose(picture - 1), ArrowDown: () => choose(picture + 1),
    a: () => set(() => true), n: () => set(() => false),
  }[event.key];
  if (act) { event.preventDefault(); act(); }
});
for (const id of data.shown) at(id).checked = true;
choose(0);
</script>
</body>
</html>
"""
