'use strict';
// Draws the page from window.REPORT, see audiocodec/report/page.py for its layout.

const report = window.REPORT;
const byId = id => document.getElementById(id);
const COLORS = ['#2f6fde', '#d9622b', '#2f9e63', '#a44fc0', '#c09a1a', '#2aa5b5', '#d0417e', '#7d8590'];
const number = (value, digits = 4) => value == null ? '–' : Number(value.toPrecision(digits)).toString();

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(key, value === true ? '' : value);
  }
  made.append(...children);
  return made;
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => element('option', {value}, text)));
  if (chosen != null && options.some(([value]) => value === chosen)) select.value = chosen;
}

function hide(id, condition) {
  if (!condition) return false;
  byId(id).hidden = true;
  document.querySelector(`nav a[href="#${id}"]`).hidden = true;
  return true;
}

// ---- charts ---------------------------------------------------------------------------------------

const charts = {};

function draw(id, labels, x, series, bands, xLabel, yLabel, logX) {
  const style = getComputedStyle(document.documentElement);
  const axis = label => ({
    label, stroke: style.getPropertyValue('--text'), grid: {stroke: style.getPropertyValue('--line'), width: 1},
    ticks: {stroke: style.getPropertyValue('--line'), width: 1}, font: '13px system-ui', labelFont: '13px system-ui',
  });
  charts[id]?.destroy();
  const place = byId(id);
  const lines = labels.map(({label, color, isEdge}) => ({
    label, stroke: isEdge ? 'transparent' : color, width: 2, points: {show: !isEdge && x.length < 60, size: 7},
    spanGaps: true, value: (_, value) => number(value),
  }));
  charts[id] = new uPlot({
    width: Math.max(280, place.clientWidth), height: Math.min(420, Math.max(240, window.innerWidth * 0.5)),
    scales: {x: {time: false, distr: logX ? 3 : 1}},
    axes: [
      {...axis(xLabel), values: (_, values) => values.map(value => value == null ? '' : number(value))},
      {...axis(yLabel), size: 60},
    ],
    series: [{label: xLabel, value: (_, value) => number(value)}, ...lines],
    bands,
  }, [x, ...series], place);
  // the legend shows the edges of intervals only as part of their band
  const rows = place.querySelectorAll('.u-legend .u-series');
  labels.forEach(({isEdge}, index) => { if (isEdge) rows[index + 1].style.display = 'none'; });
}

const keyOf = row => `${row.system}@${number(row.rate)}`;

function drawQuality() {
  const metric = byId('quality-metric').value;
  const rows = report.summary.filter(row => row[metric] != null);
  const facts = report.metrics[metric];
  byId('quality-caption').textContent =
    `${facts.description}. ${facts.higher_is_better ? 'Higher' : 'Lower'} is better; bands are 95 % intervals.`;
  const x = [...new Set(rows.map(row => row.kbps))].sort((a, b) => a - b);
  const systems = [...new Set(rows.map(row => row.system))];
  const labels = [], series = [], bands = [];
  systems.forEach((system, index) => {
    const color = COLORS[index % COLORS.length];
    const at = name => x.map(kbps => rows.find(row => row.system === system && row.kbps === kbps)?.[name] ?? null);
    labels.push({label: system, color}, {label: 'low', isEdge: true}, {label: 'high', isEdge: true});
    series.push(at(metric), at(`${metric}_low`), at(`${metric}_high`));
    bands.push({series: [3 * index + 3, 3 * index + 2], fill: `${color}33`});
  });
  if (x.length) {
    const unit = facts.unit ? `${metric} (${facts.unit})` : metric;
    draw('quality-chart', labels, x, series, bands, 'kbps', unit, x[0] > 0 && x[x.length - 1] / x[0] > 8);
  }
}

function drawSummary() {
  const metrics = Object.keys(report.metrics);
  const cells = (row, metric) => {
    if (row[metric] == null) return element('td', {}, '–');
    const low = number(row[`${metric}_low`], 3), high = number(row[`${metric}_high`], 3);
    return element('td', {}, `${number(row[metric])} `, element('small', {}, `[${low}, ${high}]`));
  };
  byId('summary').replaceChildren(
    element('thead', {}, element('tr', {}, element('th', {}, 'system'), element('th', {}, 'kbps'),
      ...metrics.map(name => element('th', {title: report.metrics[name].description}, name)))),
    element('tbody', {}, ...report.summary.map(row => element('tr', {},
      element('td', {}, keyOf(row)), element('td', {}, number(row.kbps)),
      ...metrics.map(name => cells(row, name))))));
}

function drawCurves() {
  const [stage, metric] = byId('curve-metric').value.split('/');
  const runs = report.runs.filter(run => run.stages[stage]?.[metric]);
  const x = [...new Set(runs.flatMap(run => run.updates))].sort((a, b) => a - b);
  const labels = [], series = [], bands = [];
  runs.forEach((run, index) => {
    const values = new Map(run.updates.map((updates, place) => [updates, run.stages[stage][metric][place]]));
    labels.push({label: run.name, color: COLORS[index % COLORS.length]});
    series.push(x.map(updates => values.get(updates) ?? null));
  });
  for (const band of report.bands.filter(band => band.stage === stage && band.metric === metric)) {
    const within = (edge, updates) => {
      const place = band.updates.findIndex(other => other >= updates);
      if (place < 0 || (place === 0 && band.updates[0] > updates)) return null;
      if (band.updates[place] === updates || place === 0) return edge[place];
      const part = (updates - band.updates[place - 1]) / (band.updates[place] - band.updates[place - 1]);
      return edge[place - 1] + part * (edge[place] - edge[place - 1]);
    };
    labels.push({label: 'low', isEdge: true}, {label: 'high', isEdge: true});
    series.push(x.map(u => within(band.low, u)), x.map(u => within(band.high, u)));
    bands.push({series: [series.length, series.length - 1], fill: '#7d859055'});
  }
  draw('curve-chart', labels, x, series, bands, 'updates', `${stage} ${metric}`, false);
}

// ---- playing --------------------------------------------------------------------------------------

// The versions of one item; one of them is audible. All stand at the same position.
class Player {
  constructor(sources, changed) {
    this.sources = sources;
    this.changed = changed;
    this.active = 0;
    this.audios = [];
    this.tick = this.tick.bind(this);
  }
  audio(index) {
    if (!this.audios[index]) {
      this.audios[index] = new Audio(this.sources[index]);
      this.audios[index].preload = 'auto';
      this.audios[index].addEventListener('ended', () => { this.position = 0; this.changed(); });
    }
    return this.audios[index];
  }
  get current() { return this.audio(this.active); }
  get playing() { return !!this.audios[this.active] && !this.current.paused; }
  get position() { return this.audios[this.active]?.currentTime ?? this.start ?? 0; }
  set position(seconds) {
    this.start = Math.max(0, seconds);
    if (this.audios[this.active]) this.current.currentTime = this.start;
    this.changed();
  }
  async play() {
    if (Player.sounding && Player.sounding !== this) Player.sounding.pause();
    Player.sounding = this;
    this.sources.forEach((_, index) => this.audio(index));
    if (this.start != null) { this.current.currentTime = this.start; this.start = null; }
    await this.current.play().catch(() => {});
    requestAnimationFrame(this.tick);
    this.changed();
  }
  pause() { if (this.audios[this.active]) this.current.pause(); this.changed(); }
  toggle() { return this.playing ? this.pause() : this.play(); }
  async choose(index) {
    if (index === this.active || index < 0 || index >= this.sources.length) return;
    const {playing, position} = this, before = this.audios[this.active];
    this.active = index;
    if (before) {
      this.current.currentTime = position;
      if (playing) { await this.current.play().catch(() => {}); before.pause(); }
    }
    this.changed();
  }
  tick() {
    this.changed();
    if (this.playing) requestAnimationFrame(this.tick);
  }
}

// ---- listening ------------------------------------------------------------------------------------

let cards = [];
let currentCard = null;

class Card {
  constructor(item) {
    this.item = item;
    this.built = false;
    this.node = element('li', {'data-item': item.id, tabindex: 0, 'aria-label': item.title});
    this.node.addEventListener('focusin', () => makeCurrent(this));
    this.node.addEventListener('pointerdown', () => makeCurrent(this));
  }
  build() {
    if (this.built) return;
    this.built = true;
    const {item} = this;
    this.player = new Player(item.versions.map(version => version.audio), () => this.show());
    this.playButton = element('button', {class: 'play', onclick: () => this.player.toggle()}, '▶ Play');
    this.texts = item.versions.map(() => element('small'));
    this.buttons = item.versions.map((version, index) => element('button',
      {onclick: () => this.player.choose(index)}, `${index + 1} ${version.label}`, this.texts[index]));
    this.image = element('img', {alt: 'Spectrogram above the waveform', decoding: 'async'});
    this.line = element('div', {class: 'head-line'});
    const picture = element('div', {class: 'picture', onclick: event => {
      const box = picture.getBoundingClientRect();
      this.player.position = (event.clientX - box.left) / box.width * item.seconds;
    }}, this.image, this.line);
    this.node.append(
      element('div', {class: 'item-head'}, this.playButton, element('h3', {}, item.title),
        element('span', {}, `${item.seconds.toFixed(1)} s`)),
      element('div', {class: 'versions', role: 'group', 'aria-label': 'Versions'}, ...this.buttons), picture);
    this.show();
  }
  show() {
    const {player} = this, version = this.item.versions[player.active];
    this.playButton.textContent = player.playing ? '❚❚ Pause' : '▶ Play';
    this.buttons.forEach((button, index) => button.setAttribute('aria-pressed', index === player.active));
    this.texts.forEach((text, index) => { text.textContent = scoresOf(this.item.versions[index]); });
    if (this.image.getAttribute('src') !== version.picture) this.image.setAttribute('src', version.picture);
    this.line.style.left = `${100 * Math.min(1, player.position / this.item.seconds)}%`;
  }
}

// The metric by which the items are sorted, and two more.
function scoresOf(version) {
  const chosen = byId('sort-metric').value;
  const names = Object.keys(version.scores).sort((a, b) => (b === chosen) - (a === chosen));
  return names.slice(0, 3).map(name => `${name}\u00a0${number(version.scores[name], 3)}`).join('  ');
}

function makeCurrent(card) {
  if (currentCard === card) return;
  currentCard?.node.classList.remove('current');
  currentCard = card;
  card.build();
  card.node.classList.add('current');
}

function sortItems() {
  const metric = byId('sort-metric').value, label = byId('sort-version').value;
  const best = byId('sort-reverse').checked;
  const scoreOf = item => item.versions.find(version => version.label === label)?.scores[metric];
  const sign = (report.metrics[metric]?.higher_is_better ? 1 : -1) * (best ? -1 : 1);
  cards.sort((one, other) => {
    const [a, b] = [scoreOf(one.item), scoreOf(other.item)];
    if (a == null || b == null) return (a == null) - (b == null);
    return sign * (a - b);
  });
  byId('items').replaceChildren(...cards.map(card => card.node));
  cards.filter(card => card.built).forEach(card => card.show());
}

function setUpListening() {
  const seen = new IntersectionObserver(entries => entries.filter(entry => entry.isIntersecting)
    .forEach(entry => cards.find(card => card.node === entry.target).build()), {rootMargin: '300px'});
  cards = report.items.map(item => new Card(item));
  cards.forEach(card => seen.observe(card.node));
  const scored = report.items.flatMap(item => item.versions.filter(one => Object.keys(one.scores).length));
  fill(byId('sort-metric'), Object.keys(report.metrics).map(name => [name, name]), 'mel');
  fill(byId('sort-version'), [...new Set(scored.map(one => one.label))].map(label => [label, label]));
  for (const id of ['sort-metric', 'sort-version', 'sort-reverse']) byId(id).addEventListener('change', sortItems);
  byId('sort-metric').closest('.controls').hidden = !scored.length;
  sortItems();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest('select, input')) return;
  const player = blind.player ?? currentCard?.player ?? null;
  if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
    if (blind.player || !cards.length) return;
    const place = currentCard ? cards.indexOf(currentCard) + (event.key === 'ArrowDown' ? 1 : -1) : 0;
    const next = cards[Math.max(0, Math.min(cards.length - 1, place))];
    next.node.focus();
    next.node.scrollIntoView({block: 'nearest'});
  } else if (!player) {
    return;
  } else if (event.key === ' ') {
    if (event.target.closest('button, a')) return;
    player.toggle();
  } else if (/^[1-9]$/.test(event.key)) {
    player.choose(Number(event.key) - 1);
  } else if (event.key === 'ArrowLeft' || event.key === 'ArrowRight') {
    player.position = player.position + (event.key === 'ArrowRight' ? 1 : -1);
  } else {
    return;
  }
  event.preventDefault();
}

// ---- blind tests ----------------------------------------------------------------------------------

const STORE = `audiocodec-report-${report.id}`;
const blind = {player: null, answers: []};

function shuffled(values) {
  const result = [...values];
  for (let last = result.length - 1; last > 0; last--) {
    const other = Math.floor(Math.random() * (last + 1));
    [result[last], result[other]] = [result[other], result[last]];
  }
  return result;
}

// Probability of at least `right` of `total` answers by guessing.
function chance(right, total) {
  let sum = 0, term = Math.pow(0.5, total);
  for (let k = 0; k <= total; k++) {
    if (k >= right) sum += term;
    term = term * (total - k) / (k + 1);
  }
  return sum;
}

function keep() {
  try { localStorage.setItem(STORE, JSON.stringify(blind.answers)); } catch { /* private windows */ }
  for (const id of ['blind-export', 'blind-clear']) byId(id).disabled = !blind.answers.length;
  const pairs = new Map();
  for (const one of blind.answers.filter(answer => answer.test === 'abx')) {
    const name = [one.a, one.b].sort().join(' or ');
    const [right, total] = pairs.get(name) ?? [0, 0];
    pairs.set(name, [right + one.right, total + 1]);
  }
  const rated = new Map();
  for (const one of blind.answers.filter(answer => answer.test === 'mushra')) {
    const values = rated.get(one.version) ?? [];
    rated.set(one.version, [...values, one.rating]);
  }
  byId('blind-score').textContent = [
    ...[...pairs].map(([name, [right, total]]) =>
      `${name}: ${right} of ${total} right (by guessing p = ${number(chance(right, total), 2)})`),
    ...[...rated].map(([name, values]) =>
      `${name}: rated ${number(values.reduce((a, b) => a + b) / values.length, 3)} of 100 (${values.length})`),
  ].join('; ');
}

function stage(sources, ...content) {
  blind.player?.pause();
  const bar = element('div');
  blind.player = new Player(sources, () => {
    const {current, position} = blind.player;
    bar.style.width = `${100 * position / (current.duration || 1)}%`;
    blind.changed?.();
  });
  byId('blind-stage').replaceChildren(...content, element('div', {class: 'bar'}, bar));
}

function versionButtons(names) {
  const buttons = names.map((name, index) => element('button', {
    onclick: () => { blind.player.choose(index); if (!blind.player.playing) blind.player.play(); },
  }, name));
  blind.changed = () => buttons.forEach((button, index) =>
    button.setAttribute('aria-pressed', index === blind.player.active));
  return buttons;
}

function end() {
  blind.player?.pause();
  blind.player = blind.changed = null;
  byId('blind-stage').replaceChildren();
}

function abx() {
  const [a, b] = [byId('abx-a').value, byId('abx-b').value];
  const both = report.items.filter(item => [a, b].every(label => item.versions.some(one => one.label === label)));
  if (a === b || !both.length) {
    byId('blind-stage').replaceChildren('Choose two versions that have items in common.');
    return;
  }
  const item = shuffled(both)[0], x = shuffled([a, b])[0];
  const audioOf = label => item.versions.find(one => one.label === label).audio;
  const answer = label => {
    blind.answers.push({test: 'abx', item: item.title, a, b, x, answer: label, right: Number(label === x)});
    keep();
    abx();
  };
  stage([audioOf(a), audioOf(b), audioOf(x)],
    element('p', {}, `Is X the same as A or as B? ${item.title}`),
    element('div', {class: 'versions'}, ...versionButtons(['A', 'B', 'X'])),
    element('div', {class: 'controls'},
      element('button', {class: 'primary', id: 'abx-is-a', onclick: () => answer(a)}, 'X is A'),
      element('button', {class: 'primary', id: 'abx-is-b', onclick: () => answer(b)}, 'X is B'),
      element('button', {onclick: end}, 'Stop')));
  blind.changed();
}

function mushra() {
  const done = new Set(blind.answers.filter(answer => answer.test === 'mushra').map(answer => answer.item));
  const item = shuffled(report.items.filter(one => one.versions.length > 2 && !done.has(one.title)))[0];
  if (!item) {
    end();
    byId('blind-stage').replaceChildren('Every item is rated.');
    return;
  }
  const order = shuffled(item.versions);
  const names = ['Reference', ...order.map((_, index) => `Version ${index + 1}`)];
  const buttons = versionButtons(names), changed = blind.changed;
  const sliders = order.map((_, index) => element('input',
    {type: 'range', min: 0, max: 100, value: 50, 'aria-label': `Rating of version ${index + 1}`}));
  const rows = order.map((_, index) => {
    const text = element('output', {}, '50');
    sliders[index].addEventListener('input', () => { text.textContent = sliders[index].value; });
    return element('div', {class: 'rating'}, buttons[index + 1], sliders[index], text);
  });
  const save = () => {
    order.forEach((version, index) => blind.answers.push(
      {test: 'mushra', item: item.title, version: version.label, rating: Number(sliders[index].value)}));
    keep();
    mushra();
  };
  stage([item.versions[0].audio, ...order.map(version => version.audio)],
    element('p', {}, `Rate each version against the reference, which is among them: 0 is bad, 100 is equal. ${item.title}`),
    element('div', {class: 'versions'}, buttons[0]), ...rows,
    element('div', {class: 'controls'}, element('button', {class: 'primary', id: 'mushra-save', onclick: save}, 'Next item'),
      element('button', {onclick: end}, 'Stop')));
  blind.changed = changed;
  changed();
}

function saveAnswers() {
  const columns = [...new Set(blind.answers.flatMap(Object.keys))];
  const cell = value => `"${String(value ?? '').replaceAll('"', '""')}"`;
  const lines = [columns, ...blind.answers.map(answer => columns.map(name => answer[name]))];
  const text = lines.map(line => line.map(cell).join(',')).join('\n') + '\n';
  const link = element('a', {href: URL.createObjectURL(new Blob([text], {type: 'text/csv'})), download: 'answers.csv'});
  link.click();
  URL.revokeObjectURL(link.href);
}

function setUpBlind() {
  const labels = [...new Set(report.items.flatMap(item => item.versions.map(version => version.label)))];
  fill(byId('abx-a'), labels.map(label => [label, label]));
  fill(byId('abx-b'), labels.map(label => [label, label]), labels[1]);
  byId('abx-start').addEventListener('click', abx);
  byId('mushra-start').addEventListener('click', mushra);
  byId('blind-export').addEventListener('click', saveAnswers);
  byId('blind-clear').addEventListener('click', () => { blind.answers = []; keep(); });
  try { blind.answers = JSON.parse(localStorage.getItem(STORE)) ?? []; } catch { blind.answers = []; }
  keep();
}

// ---- page -----------------------------------------------------------------------------------------

document.title = document.querySelector('h1').textContent = report.title;

const hasSummary = !hide('quality', !report.summary.length);
const hasCurves = !hide('curves', !report.runs.length);
if (!hide('listen', !report.items.length)) setUpListening();
if (!hide('blind', !report.items.length)) setUpBlind();

if (hasSummary) {
  fill(byId('quality-metric'), Object.keys(report.metrics).map(name => [name, name]), 'mel');
  byId('quality-metric').addEventListener('change', drawQuality);
  drawSummary();
  drawQuality();
}
if (hasCurves) {
  const names = new Set(report.runs.flatMap(run => Object.entries(run.stages)
    .flatMap(([name, metrics]) => Object.keys(metrics).map(metric => `${name}/${metric}`))));
  fill(byId('curve-metric'), [...names].sort().map(name => [name, name]), 'valid/mel');
  byId('curve-metric').addEventListener('change', drawCurves);
  drawCurves();
}
const redraw = () => { if (hasSummary) drawQuality(); if (hasCurves) drawCurves(); };
let waiting = 0;
window.addEventListener('resize', () => { clearTimeout(waiting); waiting = setTimeout(redraw, 150); });
window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
document.addEventListener('keydown', onKey);
document.documentElement.dataset.ready = 'true';
