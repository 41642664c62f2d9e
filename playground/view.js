// The pieces that the page shows: elements, names and colours of choices, responses, bars, a chart.
"use strict";

const by_id = id => document.getElementById(id);

// An element with attributes and children, which are elements or texts
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// Fills a select.  options: [value, text, is_disabled] each
function set_options(id, options, chosen) {
  by_id(id).replaceChildren(...options.map(([value, text, disabled = false]) => (
    element("option", { value, disabled, selected: value === chosen }, text))));
}

// A table: cells are texts or elements; each row's first cell names it
function table(caption, head, rows, is_marked = () => false) {
  const cell = (tag, scope) => (x, i) => (
    element(tag === "th" || i === 0 ? "th" : "td", {
      scope: tag === "th" ? "col" : i === 0 ? scope : null, class: i ? "number" : null }, x));
  return element(
    "table", {}, element("caption", {}, caption),
    ...(head ? [element("thead", {}, element("tr", {}, ...head.map(cell("th"))))] : []),
    element("tbody", {}, ...rows.map((row, i) => (
      element("tr", { class: is_marked(i) ? "marked" : null }, ...row.map(cell("td", "row")))))));
}

const percent = share => `${(100 * share).toFixed(share > 0.0005 && share < 0.01 ? 1 : 0)} %`;
const unseen = text => element("span", { class: "unseen" }, text);

// --- choices: names and colours ------------------------------------------------------------------

const HOTTEST = 1.2;
const is_number = label => typeof label === "number";
const decimal = tau => (Number.isInteger(10 * tau) ? tau.toFixed(1) : String(tau));

// "temperature 0.6"; "min-p 0.05, then frequency penalty 3, then temperature 1"
function full(label) {
  const { cut, penalty, value, temperature } = choice_of(label);
  const steps = [`temperature ${is_number(label) ? decimal(label) : temperature}`];
  if (penalty) steps.unshift(`${penalty} penalty ${value}`);
  if (cut) steps.unshift(`min-p ${cut}`);
  return steps.join(", then ");
}

// On a word there is room for a number, or for a letter where a set has other settings
function short(label, labels) {
  if (labels.every(is_number) || !labels.includes(label)) return decimal(label);
  return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[labels.indexOf(label)];
}

const lettered = (label, labels) => (
  is_number(label) ? full(label) : `${short(label, labels)}: ${full(label)}`);

// The style of a place from 0 to 1 on the scale of toy/figures.py, dark and cold to light and hot,
// with black or white on it, whichever is clearer
function coloured(place) {
  const x = Math.min(Math.max(place, 0), 1) * (SHADES.length - 1), i = Math.floor(x);
  const next = SHADES[Math.min(i + 1, SHADES.length - 1)];
  const rgb = SHADES[i].map((channel, c) => Math.round(channel + (x - i) * (next[c] - channel)));
  const linear = rgb.map(channel => ((channel / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  const ink = (luminance + 0.05) ** 2 > 1.05 * 0.05 ? "#000" : "#fff";
  return `background: rgb(${rgb}); color: ${ink}`;
}

// Temperatures by how hot they are; where a set has other settings, all of it by order
function colour_of(label, labels) {
  const by_order = labels.includes(label) && !labels.every(is_number);
  return coloured(by_order ? labels.indexOf(label) / (labels.length - 1) : label / HOTTEST);
}

// --- a response ----------------------------------------------------------------------------------

// Its rows of words, one clause a row where the task writes clauses. Words are buttons, one stop of
// the Tab key; arrows do the rest.
//   looked(t, is_chosen): what to do when a word is pointed at, or chosen by key, click or tap
function text_rows(asked, response, labels, looked) {
  const fits = fitting(asked, response.text);
  const words = response.tokens.map((token, t) => {
    const label = response.labels[t], is_misfit = fits[t] === false;
    const attributes = { class: "word", type: "button", style: colour_of(label, labels),
                         "data-t": t, tabindex: t ? -1 : 0 };
    return element("button", attributes,
                   element("span", { class: is_misfit ? "misfit" : null }, name_of(token)),
                   unseen(labels.every(is_number) ? ", temperature " : ", setting "),
                   element("small", {}, short(label, labels)),
                   ...(is_misfit ? [unseen(", does not fit")] : []));
  });
  words.forEach((word, t) => listen_to_word(words, word, t, looked));
  const rows = [[]], last = split_words(response.text).length - 1;
  words.forEach((word, t) => {
    rows.at(-1).push(word);
    if (TASKS[asked[0]].lines && WORDS[response.tokens[t]] === "." && t < last) rows.push([]);
  });
  return rows.map(row => element("div", { class: "line" }, ...row));
}

function listen_to_word(words, word, t, looked) {
  word.addEventListener("focus", () => {
    for (const other of words) other.tabIndex = other === word ? 0 : -1;
    looked(t, true);
  });
  word.addEventListener("pointerenter", () => looked(t, false));
  word.addEventListener("click", () => {
    word.focus();  // which not every browser does by itself
    looked(t, true);
  });
  word.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const to = { Home: 0, End: words.length - 1 }[event.key] ?? (step && t + step);
    if (to === undefined || !words[to]) return;
    event.preventDefault();
    words[to].focus();
  });
}

// One sentence about a response of the decoder: how it treats the words that the task is about
function what_to_look_at([name, prompt], response, { labels, level }) {
  if (level === "sequence") return `The decoder picked ${full(response.labels[0])} for all words.`;
  const places = places_in([name, prompt], response);
  const groups = TASKS[name].watch.map(([of, group]) => (
    [worded(group, prompt), response.labels.filter((_, t) => of.includes(places[t]))]));
  const picked = groups.filter(([, used]) => used.length).map(([group, used]) => {
    const mean = sum(used) / used.length, times = label => used.filter(x => x === label).length;
    const tone = mean < 0.4 ? "dark, that is cold" : mean < 0.7 ? "grey" : "yellow, that is bold";
    return `${group}: ${labels.every(is_number) ? `${tone} (${mean.toFixed(1)} on average)`
      : `mostly ${short(labels[argmax(labels.map(times))], labels)}`}`;
  });
  return `Look at ${picked.join("; ") || "the colours"}.`;
}

// --- means with their intervals ------------------------------------------------------------------

// Mean and half the width of its 95 % interval, by Student's t (to three digits from 20 numbers up)
function mean_of(numbers) {
  const n = numbers.length, mean = sum(numbers) / n;
  const deviation = Math.sqrt(sum(numbers.map(x => (x - mean) ** 2)) / (n - 1));
  return { mean, half: (1.96 + 2.4 / (n - 1)) * deviation / Math.sqrt(n) };
}

const written = ({ mean, half }) => `${mean.toFixed(2)} ± ${half.toFixed(2)}`;

// One row of three cells: name, bar from 0 with the interval on it, number
function mean_row(name, rewards, lowest, colour) {
  const title = element("span", {}, name);
  if (!rewards.length) return [title, element("span", {}, "…"), element("span")];
  const { mean, half } = mean_of(rewards);
  const place = x => 100 * (Math.min(Math.max(x, lowest), lowest + 1) - lowest);
  const bar = (kind, from, to) => element("div", {
    class: kind, style: `left: ${place(from)}%; width: ${place(to) - place(from)}%` });
  return [title,
          element("div", { class: "track", "aria-hidden": "true", style: `--colour: ${colour}` },
                  bar("fill", Math.min(mean, 0), Math.max(mean, 0)),
                  bar("interval", mean - half, mean + half)),
          element("span", { class: "number" }, written({ mean, half }))];
}

// Rows of two policies, and the ends of the scale, in an element
function show_means(id, names, rewards, lowest, colours) {
  by_id(id).replaceChildren(
    ...names.flatMap((name, i) => mean_row(name, rewards[i], lowest, colours[i])), element("span"),
    element("div", { class: "scale", "aria-hidden": "true" }, element("span", {}, lowest),
            element("span", {}, lowest + 1)));
}

// What two lists of rewards say about which policy is better
function verdict([mine, theirs], [my_name, their_name]) {
  const [a, b] = [mean_of(mine), mean_of(theirs)];
  const difference = a.mean - b.mean, half = Math.hypot(a.half, b.half);
  const [better, worse] = difference > 0 ? [my_name, their_name] : [their_name, my_name];
  const text = Math.abs(difference) <= half ? `${my_name} and ${their_name} do not differ clearly`
    : `${better} score${better === "you" ? "" : "s"} higher than ${worse}, by `
      + written({ mean: Math.abs(difference), half });
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}

// --- a chart of rewards by round -----------------------------------------------------------------

// series: {name, colour, dash, width, rewards by round} each; a name has one entry in the legend.
// -> SVG as text
function chart(label, rounds, series) {
  const values = series.flatMap(({ rewards }) => rewards);
  const low = Math.floor(10 * Math.min(...values)) / 10;
  const high = Math.max(Math.ceil(10 * Math.max(...values)) / 10, low + 0.1);
  const x = rnd => 40 + 290 * rnd / Math.max(rounds - 1, 1);
  const y = value => 190 - 170 * (value - low) / (high - low);
  const text = (left, top, anchor, said) => (
    `<text x="${left}" y="${top}" text-anchor="${anchor}">${said}</text>`);
  const line = (points, { colour, dash = "none", width = 1.5 }) => (
    `<polyline points="${points}" stroke="${colour}" stroke-dasharray="${dash}" `
    + `stroke-width="${width}" />`);
  const scale = [low, (low + high) / 2, high].map(value => (
    text(34, y(value) + 4, "end", value.toFixed(2))
    + line([40, y(value), 330, y(value)], { colour: "var(--line)" })));
  const numbers = Array.from({ length: rounds }, (_, rnd) => text(x(rnd), 208, "middle", rnd + 1));
  const lines = series.map(of => (
    line(of.rewards.flatMap((reward, rnd) => [x(rnd), y(reward)]), of)));
  const legend = [...new Map(series.map(of => [of.name, of])).values()].map((of, i) => (
    line([342, 60 + 20 * i, 366, 60 + 20 * i], of) + text(372, 64 + 20 * i, "start", of.name)));
  const parts = [...scale, ...numbers, text(185, 225, "middle", "round"), ...lines, ...legend];
  return `<svg viewBox="0 0 480 228" role="img" aria-label="${label}">${parts.join("")}</svg>`;
}
