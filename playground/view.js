// The pieces that the page shows: elements, colours of choices, coloured text, means with their
// intervals, a line chart.
"use strict";

const at = id => document.getElementById(id);

// An element with attributes and children, which are elements or texts
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// An SVG picture of shapes [tag, attributes, text]; its label says what it shows
function picture(width, height, label, ...shapes) {
  const shape = (tag, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  return shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
               ...shapes.map(of => shape(...of)));
}

// A table: cells are texts or elements; each row's first cell names it
function table(caption, head, rows, is_drawn = () => false) {
  const cell = (tag, scope) => (x, i) => (
    element(tag === "th" || i === 0 ? "th" : "td", {
      scope: tag === "th" ? "col" : i === 0 ? scope : null, class: i ? "number" : null }, x));
  return element(
    "table", {}, ...(caption ? [element("caption", {}, caption)] : []),
    ...(head ? [element("thead", {}, element("tr", {}, ...head.map(cell("th"))))] : []),
    element("tbody", {}, ...rows.map((row, i) => (
      element("tr", { class: is_drawn(i) ? "drawn" : null }, ...row.map(cell("td", "row")))))));
}

const percent = share => `${(100 * share).toFixed(share > 0.0005 && share < 0.01 ? 1 : 0)} %`;

// --- choices: colour, number, name ---------------------------------------------------------------

const HOTTEST = 1.2;
const rgb_of = hex => [0, 2, 4].map(i => parseInt(hex.slice(i, i + 2), 16));
const VIRIDIS = ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58",
                 "b5de2b", "fde725"].map(rgb_of);
const OFF_THE_SCALE = ["d55e00", "cc79a7", "bdbdbd", "f2c0a2", "8c510a", "6e6e6e"].map(rgb_of);

// The style of a colour, and black or white on it, whichever is clearer
function painted(rgb) {
  const linear = rgb.map(x => ((x / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  const ink = (luminance + 0.05) ** 2 > 1.05 * 0.05 ? "#000" : "#fff";
  return `background: rgb(${rgb}); color: ${ink}`;
}

// A share from 0 to 1 -> the style of its place on the scale, dark and cold to light and hot
function coloured(share) {
  const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1), i = Math.floor(place);
  const next = VIRIDIS[Math.min(i + 1, VIRIDIS.length - 1)];
  return painted(VIRIDIS[i].map((x, c) => Math.round(x + (place - i) * (next[c] - x))));
}

const SHORT = { min_p: "min-p", top_p: "top-p", top_k: "top-k", typical_p: "typical",
                epsilon_cutoff: "epsilon", top_nsigma: "n-sigma" };
const is_number = label => !String(label).includes("=");
const short = label => (is_number(label) ? Number(label).toFixed(1) : SHORT[choice_of(label).kind]);
const full = label => (is_number(label) ? `temperature ${short(label)}` : String(label));

// Temperatures by how hot they are; each other setting of a set has a colour of its own
function colour_of(label, labels) {
  if (is_number(label)) return coloured(Number(label) / HOTTEST);
  const number = labels.filter(of => !is_number(of)).indexOf(label);
  return painted(OFF_THE_SCALE[number % OFF_THE_SCALE.length]);
}

// The label of what a response's word t was drawn at
function label_at(response, t, labels) {
  return labels[response.tau_idx[t] ?? response.tau_idx[0]] ?? response.taus[t];
}

// --- a response ----------------------------------------------------------------------------------

// Its words, each with its colour and number; they are buttons where something is `looked` for
function words_shown(response, labels, looked) {
  return response.tokens.map((token, t) => {
    const label = label_at(response, t, labels), word = token === EOS ? "end" : WORDS[token];
    const attributes = { class: "word", style: colour_of(label, labels), "data-t": t };
    if (looked) {
      Object.assign(attributes, {
        type: "button", tabindex: t ? -1 : 0,  // one stop of the Tab key; arrows do the rest
        "aria-label": `${token === EOS ? "end of text" : word}, ${full(label)}` });
    }
    return element(looked ? "button" : "span", attributes, element("span", {}, word),
                   element("small", {}, short(label)));
  });
}

// Its rows: one clause a row where the task writes clauses.
//   looked(t, element): what to do when a word is looked at, by pointer, key or tap
function text_rows([name], response, labels, looked = null) {
  const words = words_shown(response, labels, looked);
  if (looked) words.forEach((word, t) => listen_to_word(words, word, t, looked));
  const rows = [[]], last = split_words(response.text).length - 1;
  words.forEach((word, t) => {
    rows.at(-1).push(word);
    if (TASKS[name]?.lines && WORDS[response.tokens[t]] === "." && t < last) rows.push([]);
  });
  return rows.map(row => element("div", { class: "line" }, ...row));
}

function listen_to_word(words, word, t, looked) {
  word.addEventListener("focus", () => {
    for (const other of words) other.tabIndex = other === word ? 0 : -1;
    looked(t, word);
  });
  word.addEventListener("pointerenter", () => looked(t, word));
  word.addEventListener("click", () => word.focus());  // which not every browser does by itself
  word.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const to = { Home: 0, End: words.length - 1 }[event.key] ?? (step && t + step);
    if (to === undefined || !words[to]) return;
    event.preventDefault();
    words[to].focus();
  });
}

// --- means with their intervals ------------------------------------------------------------------

// Mean and half the width of its 95 % interval, by Student's t (to three digits from 20 numbers up)
function mean_of(numbers) {
  const n = numbers.length, mean = sum(numbers) / n;
  const deviation = Math.sqrt(sum(numbers.map(x => (x - mean) ** 2)) / (n - 1));
  return { mean, half: (1.96 + 2.4 / (n - 1)) * deviation / Math.sqrt(n), n };
}

const written = ({ mean, half }) => `${mean.toFixed(3)} ± ${half.toFixed(3)}`;

// One row: name, number, and a line from `lowest` to `lowest` + 1 with the interval on it
function mean_row(name, rewards, lowest, kind) {
  const found = rewards.length ? mean_of(rewards) : null;
  const cells = [element("span", {}, name),
                 element("span", { class: "number" }, found ? written(found) : "…")];
  if (!found) return [...cells, element("span")];
  const x = value => 6 + 288 * (Math.min(Math.max(value, lowest), 1 + lowest) - lowest);
  const left = x(found.mean - found.half), right = x(found.mean + found.half);
  return [...cells, picture(
    300, 34, `${name}: ${written(found)}, between ${lowest} and ${1 + lowest}`,
    ["text", { x: 6, y: 33, "text-anchor": "middle" }, String(lowest)],
    ["text", { x: 294, y: 33, "text-anchor": "middle" }, String(1 + lowest)],
    ["line", { x1: 6, x2: 294, y1: 13, y2: 13, class: "axis" }],
    ["rect", { x: left, width: Math.max(right - left, 1), y: 9, height: 8, class: kind,
               opacity: 0.5 }],
    ["circle", { cx: x(found.mean), cy: 13, r: 5, class: kind }])];
}

// What two lists of rewards say about which policy is better
function verdict([mine, theirs], [my_name, their_name]) {
  const [a, b] = [mean_of(mine), mean_of(theirs)];
  const difference = a.mean - b.mean, half = Math.hypot(a.half, b.half);
  const [better, worse] = difference > 0 ? [my_name, their_name] : [their_name, my_name];
  const said = Math.abs(difference) <= half ? `${my_name} and ${their_name} are not clearly apart`
    : `${better} earn${better === "you" ? "" : "s"} more than ${worse}, by `
      + `${Math.abs(difference).toFixed(3)} ± ${half.toFixed(3)}`;
  return `${said[0].toUpperCase()}${said.slice(1)}.`;
}

// --- a chart of rewards by round -----------------------------------------------------------------

// series: [name, kind, points [x, y]] each; level: [name, kind, y], a dashed line
function chart(label, rounds, series, [level_name, level_kind, level]) {
  const values = [level, ...series.flatMap(([, , points]) => points.map(([, y]) => y))];
  const low = Math.floor(10 * Math.min(...values)) / 10;
  const high = Math.ceil(10 * Math.max(...values)) / 10;
  const x = rnd => 46 + 290 * rnd / Math.max(rounds - 1, 1);
  const y = value => 190 - 170 * (value - low) / (high - low);
  const dashed = (x1, x2, y, kind) => (
    ["line", { x1, x2, y1: y, y2: y, class: kind, "stroke-dasharray": "6 4" }]);
  const mark = (kind, cx, cy) => (  // a shape beside the colour
    kind === "here" ? ["circle", { cx, cy, r: 4, class: kind }]
      : ["rect", { x: cx - 4, y: cy - 4, width: 8, height: 8, class: kind }]);
  const text = (x, y, anchor, said) => ["text", { x, y, "text-anchor": anchor }, said];
  const shapes = [low, (low + high) / 2, high].flatMap(value => [
    text(40, y(value) + 4, "end", value.toFixed(2)),
    ["line", { x1: 46, x2: 336, y1: y(value), y2: y(value), class: "axis", opacity: 0.3 }]]);
  for (let rnd = 0; rnd < rounds; rnd++) shapes.push(text(x(rnd), 208, "middle", String(rnd + 1)));
  shapes.push(text(190, 225, "middle", "round"), dashed(46, 336, y(level), level_kind),
              dashed(347, 363, 100, level_kind), text(368, 104, "start", level_name));
  series.forEach(([name, kind, points], i) => {
    const line = points.map(([rnd, value]) => `${x(rnd)},${y(value)}`).join(" ");
    shapes.push(["polyline", { points: line, class: kind }],
                ...points.map(([rnd, value]) => mark(kind, x(rnd), y(value))),
                mark(kind, 355, 60 + 20 * i), text(368, 64 + 20 * i, "start", name));
  });
  return picture(460, 228, label, ...shapes);
}
