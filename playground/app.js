// What the page does: reads its controls, has responses drawn, shows them.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const EXAMPLES = 8;  // held-out prompts in the list
const HUNDRED = 100, CHUNK = 20;  // draws of a mean; a chunk is shown as it comes
const LIKELIEST = 6;  // words in a table

// An element with attributes and children, which are elements or texts
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function drawing(width, height, label, ...shapes) {
  const svg = (tag, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
             ...shapes.map(([tag, attributes, ...children]) => svg(tag, attributes, ...children)));
}

const percent = share => `${(100 * share).toFixed(share > 0 && share < 0.01 ? 1 : 0)} %`;

// --- choices: colour, number, name ---------------------------------------------------------------

const HOTTEST = 1.2;
const VIRIDIS = ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58",
                 "b5de2b", "fde725"].map(hex => [0, 2, 4].map(i => parseInt(hex.slice(i, i + 2), 16)));

// A share from 0 to 1 -> the style of its colour, and black or white on it, whichever is clearer
function coloured(share) {
  const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1), i = Math.floor(place);
  const next = VIRIDIS[Math.min(i + 1, VIRIDIS.length - 1)];
  const rgb = VIRIDIS[i].map((x, c) => Math.round(x + (place - i) * (next[c] - x)));
  const linear = rgb.map(x => ((x / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  const ink = (luminance + 0.05) ** 2 > 1.05 * 0.05 ? "#000" : "#fff";
  return `background: rgb(${rgb}); color: ${ink}`;
}

const SHORT = { min_p: "min-p", top_p: "top-p", top_k: "top-k", typical_p: "typical",
                epsilon_cutoff: "epsilon", top_nsigma: "n-sigma" };
const is_number = label => !String(label).includes("=");
const short = label => (is_number(label) ? Number(label).toFixed(1) : SHORT[choice_of(label).kind]);
const full = label => (is_number(label) ? `temperature ${Number(label).toFixed(1)}` : String(label));

// Temperatures by how hot they are; of other settings each its own, by its number
function colour_of(label, labels) {
  const temperatures = labels.every(is_number);
  return coloured(temperatures ? Number(label) / HOTTEST : labels.indexOf(label) / (labels.length - 1));
}

// --- decoders: of the page, or trained here ------------------------------------------------------

let base_weights = null;

const set_name = choices => (choices.every(is_number) ? "temperatures" : "sampler settings");
const sources = data.sets.map(set => ({ name: set_name(set.choices), choices: set.choices, set }));

const shapes_of = (K, C) => [["W1", [C, C]], ["b1", [C]], ["W2", [C, C]], ["b2", [C]],
                             ["W3", [K, C]], ["b3", [K]]];

// {round: AdaptiveDecoder}, as far as the page has them; null if this source has none
async function decoders_of(source, experiment, level) {
  if (source.trained) {
    const { trained } = source;
    return trained.experiment === experiment && trained.level === level ? trained.by_round : null;
  }
  const found = source.set.decoders.find(d => d.experiment === experiment && d.level === level);
  if (!found) return null;
  if (found.by_round) return found.by_round;
  const shapes = shapes_of(source.choices.length, data.config.n_embd), by_round = {};
  const put = (round, numbers) => {
    by_round[round] = new AdaptiveDecoder(source.choices, level,
                                          Object.values(named(numbers, shapes)));
  };
  let numbers = from_halves(await inflated(found.last)), round = found.rounds;
  put(round, numbers);
  for (const packed of found.steps) {
    const steps = new Int8Array((await inflated(packed)).buffer);
    numbers = numbers.map((x, i) => x + steps[i] / data.steps);
    put(--round, numbers);
  }
  put(0, numbers);  // before any training: uniform, whatever its hidden layers are
  for (const last of by_round[0].weights.slice(-2)) last.fill(0);
  found.by_round = by_round;
  return by_round;
}

// --- workers -------------------------------------------------------------------------------------

const scripts = ["words", "engine", "tasks", "lpo", "worker"].map(id => `${at(id).textContent}\n`);
const worker_address = URL.createObjectURL(new Blob(scripts, { type: "text/javascript" }));

function new_worker() {
  const worker = new Worker(worker_address);
  worker.postMessage({ kind: "model", config: data.config, weights: base_weights });
  return worker;
}

let drawing_worker = null, messages = 0;
const waiting = new Map();

// Rewards of responses, drawn in a worker
function rewards_of(asked, samples, policy, seed) {
  if (!drawing_worker) {
    drawing_worker = new_worker();
    drawing_worker.onmessage = ({ data: { number, rewards } }) => {
      waiting.get(number)(rewards);
      waiting.delete(number);
    };
  }
  const number = messages++;
  drawing_worker.postMessage({ kind: "draws", number, asked, samples, policy, seed });
  return new Promise(resolve => waiting.set(number, resolve));
}

const as_message = ({ labels, level, weights }) => ({ decoder: { labels, level, weights } });

// --- means with their intervals ------------------------------------------------------------------

// Mean and half the width of its 95 % interval; Student's quantile to three digits from 20 numbers up
function mean_of(numbers) {
  const n = numbers.length, mean = sum(numbers) / n;
  const deviation = Math.sqrt(sum(numbers.map(x => (x - mean) ** 2)) / (n - 1));
  return { mean, half: (1.96 + 2.4 / (n - 1)) * deviation / Math.sqrt(n), n };
}

const written = ({ mean, half }) => `${mean.toFixed(3)} ± ${half.toFixed(3)}`;

// One row: name, number, a line from -1 to 1 (or 0 to 1) with the interval on it
function mean_row(name, found, lowest, kind) {
  if (!found) return [element("span", {}, name), element("span", { class: "number" }, "…"), element("span")];
  const x = value => 6 + 288 * (Math.min(Math.max(value, lowest), 1 + lowest) - lowest);
  const { mean, half } = found;
  const picture = drawing(300, 26, `${name}: ${written(found)}`,
    ["line", { x1: 6, x2: 294, y1: 13, y2: 13, class: "axis" }],
    ["rect", { x: x(mean - half), width: Math.max(x(mean + half) - x(mean - half), 1), y: 9, height: 8,
               class: kind, opacity: 0.5 }],
    ["circle", { cx: x(mean), cy: 13, r: 5, class: kind }]);
  return [element("span", {}, name), element("span", { class: "number" }, written(found)), picture];
}

// What two means say about which policy is better
function verdict(mine, theirs, [my_name, their_name]) {
  const difference = mine.mean - theirs.mean, half = Math.hypot(mine.half, theirs.half);
  const [better, worse] = difference > 0 ? [my_name, their_name] : [their_name, my_name];
  const said = Math.abs(difference) <= half ? `${my_name} and ${their_name} are not clearly apart`
    : `${better} earn${better === "you" ? "" : "s"} more than ${worse}, by `
      + `${Math.abs(difference).toFixed(3)} ± ${half.toFixed(3)}`;
  return `${said[0].toUpperCase()}${said.slice(1)}.`;
}

// --- state ---------------------------------------------------------------------------------------

let model_here = null;
const state = { asked: null, seed: 1, source: sources[0], level: "token", round: null, tau: 0.6,
                mine: 0.6, rest: 0.6, decoder: null, version: 0, contest: 0, page: 0 };

const experiment_of = name => Object.keys(EXPERIMENTS).find(e => EXPERIMENTS[e].includes(name));
const experiment_now = () => experiment_of(at("task").value);
const lowest_of = name => (name === "repeats" ? -1 : 0);

// --- Ask -----------------------------------------------------------------------------------------

function list_prompts() {
  const name = at("task").value;
  const random = stream(state.page, 11);
  const prompts = prompts_of(name, "test", EXAMPLES, random);
  at("prompt").replaceChildren(...prompts.map(prompt => element("option", {}, prompt)));
  ask(name, prompts[0]);
}

function ask(name, prompt) {
  state.asked = [name, prompt];
  at("rule").textContent = name ? TASKS[name].rule
    : "none, since no task asks like this; the decoder is the one of the task above";
  refresh();
}

function ask_own() {
  const prompt = split_words(at("own").value).join(" ");
  const words = split_words(prompt), unknown = words.filter(word => !number_of.has(word));
  let error = "";
  if (!words.length) error = "Write a prompt of one to eight words.";
  else if (unknown.length) {
    error = `Not among the ${WORDS.length} words of the model: ${unknown.join(", ")}.`;
    at("known").open = true;
  } else if (words.length > PROMPT_LENGTH) {
    error = `This prompt has ${words.length} words; give at most ${PROMPT_LENGTH}.`;
  }
  at("own_error").textContent = error;
  if (error) return;
  const name = task_of(prompt);
  if (name && name !== at("task").value) {
    at("task").value = name;
    list_prompts();
  }
  ask(name, prompt);
}

// --- Choose --------------------------------------------------------------------------------------

function list_sources() {
  const legend = element("legend", {}, "The decoder chooses among");
  at("sets").replaceChildren(legend, ...sources.map((source, i) => {
    const input = element("input", { type: "radio", name: "source", value: i });
    input.checked = source === state.source;
    input.addEventListener("change", () => {
      state.source = source;
      state.round = null;
      refresh();
    });
    return element("label", {}, input, source.name);
  }));
}

// The decoder that the controls say; a level that it has not is changed.  -> AdaptiveDecoder
async function chosen_decoder() {
  const experiment = experiment_now();
  const inputs = [...document.querySelectorAll("input[name=level]")];
  const there = {};
  for (const { value } of inputs) there[value] = await decoders_of(state.source, experiment, value);
  if (!there.token && !there.sequence) {  // trained here, for another experiment
    state.source = sources[0];
    list_sources();
    return chosen_decoder();
  }
  if (!there[state.level]) state.level = there.token ? "token" : "sequence";
  for (const input of inputs) {
    input.disabled = !there[input.value];
    input.checked = input.value === state.level;
  }
  const by_round = there[state.level], rounds = Object.keys(by_round).map(Number);
  const last = Math.max(...rounds);
  at("round").max = last;
  at("round").step = rounds.length === last + 1 ? 1 : Math.max(last, 1);
  state.round = Math.min(state.round ?? last, last);
  if (!by_round[state.round]) state.round = last;
  at("round").value = state.round;
  at("round_value").textContent = `${state.round} of ${last}`
    + (rounds.length > 2 || last < 2 ? "" : " (this page has the first and the last)");
  return by_round[state.round];
}

// --- Read ----------------------------------------------------------------------------------------

// A response as rows of words: one clause a row where the task writes clauses.
//   looked(number, element): what to do when a word is looked at; without it the words are no buttons
function text_rows(asked, response, labels, looked = null) {
  const rows = [[]], end = response.tokens.at(-1) === EOS;
  response.tokens.forEach((token, t) => {
    const tau = labels[response.tau_idx[t] ?? response.tau_idx[0]] ?? response.taus[t];
    const word = token === EOS ? "end" : WORDS[token];
    const colours = labels.includes(tau) ? labels : [tau];
    const made = element(looked ? "button" : "span", {
      class: "word", type: looked ? "button" : null, style: colour_of(tau, colours),
      tabindex: looked ? (t ? -1 : 0) : null, "data-t": t,
      "aria-label": looked ? `${token === EOS ? "end of text" : word}, ${full(tau)}` : null,
    }, element("span", {}, word), element("small", {}, short(tau)));
    rows.at(-1).push(made);
    if (TASKS[asked[0]]?.lines && word === "." && t < response.tokens.length - (end ? 2 : 1)) rows.push([]);
  });
  const words = rows.flat();
  if (looked) {
    words.forEach((made, t) => {
      made.addEventListener("focus", () => {
        for (const other of words) other.tabIndex = other === made ? 0 : -1;
        looked(t, made);
      });
      made.addEventListener("pointerenter", () => looked(t, made));
      made.addEventListener("click", () => made.focus());
      made.addEventListener("keydown", event => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        const to = { Home: 0, End: words.length - 1 }[event.key] ?? (step && t + step);
        if (to === undefined || !words[to]) return;
        event.preventDefault();
        words[to].focus();
      });
    });
  }
  return rows.map(row => element("div", { class: "line" }, ...row));
}

// Of one word: P(tau | h) of the decoder, and the likeliest words at three temperatures
function look(asked, response, labels, t, made) {
  document.querySelector(".word.looked")?.classList.remove("looked");
  made.classList.add("looked");
  const C = data.config.n_embd, { decoder } = state;
  const at_h = response.hidden.subarray(t * C, (t + 1) * C);
  const deciding = decoder.level === "token" ? at_h : response.hidden.subarray(0, C);
  const shares = decoder.forward(deciding).map(Math.exp);
  const logits = model_here.logits(at_h);
  const token = response.tokens[t], word = token === EOS ? "the end of text" : `“${WORDS[token]}”`;
  const label = labels[response.tau_idx[t] ?? response.tau_idx[0]] ?? response.taus[t];
  const { place, role } = roles_of(asked, response)[t] ?? {};
  const where = place ? `, in the place of a${/^[aeiou]/.test(place) ? "n" : ""} ${place}` : "";
  const likely = argmax(shares);
  at("word_said").textContent = `${word}${where}${role && role !== place ? ` (role: ${role})` : ""}, `
    + `was drawn at ${full(label)}; the decoder gives ${full(decoder.labels[likely])} most, `
    + `${percent(shares[likely])}.`;
  const bars = decoder.labels.map((of, k) => element(
    "tr", { class: of === label ? "drawn" : null }, element("th", { scope: "row" }, is_number(of) ? short(of) : of),
    element("td", { class: "bar" }, element("div", {
      style: `width: ${Math.max(100 * shares[k], 1)}%; ${colour_of(of, decoder.labels)}` })),
    element("td", { class: "number" }, percent(shares[k]))));
  const head = names => element("thead", {}, element("tr", {}, ...names.map(name => (
    element("th", { scope: "col" }, name)))));
  const of_decoder = element("table", {},
    element("caption", {}, decoder.level === "token" ? "P(tau | h), the decoder's, at this word"
      : "P(tau | h), the decoder's, for the response"),
    head(["choice", "", ""]), element("tbody", {}, ...bars));
  const taus = [...new Map([0, label, 1.2].map(of => [String(of), of])).values()];
  const of_words = taus.map(of => {
    const shares = word_logps(logits, choice_of(of)).map(Math.exp);
    const order = Array.from(shares.keys()).filter(i => shares[i] > 0)
      .sort((i, j) => shares[j] - shares[i]).slice(0, LIKELIEST);
    return element("table", {}, element("caption", {}, is_number(of) ? `at ${short(of)}` : of),
      element("tbody", {}, ...order.map(i => element(
        "tr", { class: i === token ? "drawn" : null },
        element("th", { scope: "row" }, i === EOS ? "end of text" : WORDS[i]),
        element("td", { class: "number" }, percent(shares[i]))))));
  });
  at("word_tables").replaceChildren(of_decoder, element(
    "div", {}, element("strong", {}, "The likeliest words"), element("div", { class: "words" }, ...of_words)));
}

function show_key(labels) {
  const names = labels.every(is_number) ? labels : [...labels];
  at("key").replaceChildren(...names.map(label => element(
    "span", { class: "word", style: colour_of(label, labels) },
    is_number(label) ? short(label) : `${short(label)}: ${label}`)));
}

function show_response(id, title, response, labels) {
  const { asked } = state, panel = at(id);
  at(`${id}_title`).textContent = title;
  const text = panel.querySelector(".text");
  text.setAttribute("aria-label", response.text);
  text.replaceChildren(...text_rows(asked, response, labels,
                                    (t, made) => look(asked, response, labels, t, made)));
  panel.querySelector(".reward").textContent = response.reward === null ? "No reward: no task asks so."
    : `Reward ${response.reward.toFixed(3)}`;
}

// All that depends on prompt, seed and policies
async function refresh() {
  const version = ++state.version;
  at("tau_value").textContent = state.tau.toFixed(1);
  at("seed").value = state.seed;
  const decoder = await chosen_decoder();
  if (version !== state.version) return;
  state.decoder = decoder;
  const { asked, seed, tau } = state;
  const one = policy => respond(model_here, [asked], 1, policy, [seed])[0];
  const labels = decoder.labels;
  show_key(labels);
  show_response("fixed", `Temperature ${tau.toFixed(1)}, fixed`, one({ temperature: tau }),
                labels.every(is_number) ? labels : [tau, HOTTEST]);
  show_response("learned", `${state.source.trained ? "Trained here" : "Learned decoder"}, `
    + `${decoder.level} level, round ${state.round}`, one({ decoder }), labels);
  at("word_said").textContent = "No word is looked at.";
  at("word_tables").replaceChildren();
  document.body.dataset.shown = version;
  hundred_draws(version);
  contest();
}

// Rewards of several policies, in chunks; `show` sees what there is so far. Stops when outdated.
async function in_chunks(asked_of_chunk, samples, policies, seed, is_current, show) {
  const rewards = policies.map(() => []);
  show(rewards);
  await new Promise(resolve => setTimeout(resolve, 150));  // a slider may still move
  for (let chunk = 0; chunk < HUNDRED / CHUNK; chunk++) {
    if (!is_current()) return null;
    const parts = await Promise.all(policies.map(policy => (
      rewards_of(asked_of_chunk(chunk), samples, policy, [...seed, chunk]))));
    if (!is_current()) return null;
    parts.forEach((part, i) => rewards[i].push(...part));
    show(rewards);
  }
  return rewards;
}

async function hundred_draws(version) {
  const { asked, tau, seed, decoder } = state, names = [`temperature ${tau.toFixed(1)}`, "the decoder"];
  at("hundred_said").textContent = asked[0] ? "" : "There is no reward to draw for.";
  at("hundred").replaceChildren();
  if (!asked[0]) return;
  const show = rewards => at("hundred").replaceChildren(...rewards.flatMap((of, i) => mean_row(
    names[i], of.length ? mean_of(of) : null, lowest_of(asked[0]), ["fixed", "here"][i])));
  const found = await in_chunks(() => [asked], CHUNK, [{ temperature: tau }, as_message(decoder)],
                                [seed, 7], () => version === state.version, show);
  if (found) {
    at("hundred_said").textContent = `Mean reward of ${HUNDRED} draws and its 95 % interval. `
      + verdict(...found.map(mean_of), names);
  }
}

// --- Beat the decoder ----------------------------------------------------------------------------

// What the two sliders are of: [keys, name] each; keys are roles, or tasks of the mix
const HANDS = {
  repeats: [[["article"], "the articles"], [["rest"], "the other words"]],
  mix: [[["math"], "sums"], [["general", "story"], "lists and stories"]],
  constrained: [[["asked"], "the asked words"], [["rest"], "the other words"]],
  vote: [[["way"], "the way of working it out"], [["rest"], "the other words"]],
};

async function contest() {
  const number = ++state.contest, experiment = experiment_now(), { seed, decoder } = state;
  const hands = HANDS[experiment], values = [state.mine, state.rest];
  at("challenge_task").textContent = `for ${hands[0][1]} and for ${hands[1][1]}`;
  ["role", "rest"].forEach((id, i) => { at(`${id}_name`).textContent = `Temperature of ${hands[i][1]}`; });
  at("mine").value = state.mine;
  at("rest").value = state.rest;
  at("mine_value").textContent = state.mine.toFixed(1);
  at("rest_value").textContent = state.rest.toFixed(1);
  at("contest_said").textContent = "";
  const by_role = {};
  hands.forEach(([keys], i) => keys.forEach(key => { by_role[key] = values[i]; }));
  const all = draw_prompts(experiment, "test", HUNDRED + 2, stream(seed, 12));  // 102 in the mix
  shuffle(all, stream(seed, 13));
  const show = rewards => at("contest").replaceChildren(...rewards.flatMap((of, i) => mean_row(
    ["you", "the decoder"][i], of.length ? mean_of(of) : null, lowest_of(experiment),
    ["torch", "here"][i])));
  const found = await in_chunks(
    chunk => all.slice(chunk * CHUNK, (chunk + 1) * CHUNK), 1, [{ by_role }, as_message(decoder)],
    [seed, 8], () => number === state.contest, show);
  if (found) at("contest_said").textContent = verdict(...found.map(mean_of), ["you", "the decoder"]);
}

// --- Train it here -------------------------------------------------------------------------------

let training = null;  // {worker, cfg, rounds, held_out, by_round}

const SIZES = [["40 prompts x 6 responses, quick", { prompts: 40, responses: 6 }]];

function training_config() {
  const { set, choices } = sources[at("train_set").value];
  return { ...set.training, ...SIZES[at("train_size").value][1], choices, seed: state.seed,
           experiment: at("train_experiment").value, level: at("train_level").value,
           shuffled: at("shuffled").checked };
}

function start_training() {
  const cfg = training_config();
  training = { cfg, facts: sources[at("train_set").value].set.facts[cfg.experiment], rounds: [],
               held_out: {}, by_round: {}, worker: new_worker(), began: performance.now() };
  training.worker.onmessage = ({ data: message }) => hear(message);
  training.worker.postMessage({ kind: "train", cfg });
  at("train").disabled = true;
  at("stop").disabled = false;
  at("train_said").textContent = `Round 1 of ${cfg.rounds} has begun.`;
  for (const id of ["curve", "rounds", "before_after"]) at(id).replaceChildren();
  at("progress").value = 0;
}

function end_training(said) {
  training.worker.terminate();
  at("train").disabled = false;
  at("stop").disabled = true;
  at("train_said").textContent = said;
  at("train_now").textContent = "";
}

function hear(message) {
  const { cfg } = training;
  if (message.kind === "column" || message.kind === "step") {
    const share = message.done / message.of / 2 + (message.kind === "step" ? 0.5 : 0);
    at("progress").value = (message.rnd + share) / cfg.rounds;
    at("train_now").textContent = `Round ${message.rnd + 1}: `
      + (message.kind === "step" ? "update" : "sampling, column") + ` ${message.done} of ${message.of}`;
  }
  if (message.kind === "held_out") {
    training.held_out[message.when] = message;
    if (message.when === "after") show_before_after();
  }
  if (message.kind === "begin" || message.kind === "round") {
    const K = cfg.choices.length, round = message.kind === "begin" ? 0 : message.rnd + 1;
    training.by_round[round] = new AdaptiveDecoder(cfg.choices, cfg.level, message.weights);
  }
  if (message.kind === "round") {
    training.rounds.push(message);
    at("train_said").textContent = `After round ${message.rnd + 1} of ${cfg.rounds}: this round's `
      + `responses earned ${message.reward.toFixed(3)}, in ${sum(message.seconds).toFixed(1)} s.`;
    show_rounds();
  }
  if (message.kind === "end") {
    at("progress").value = 1;
    const seconds = (performance.now() - training.began) / 1000;
    end_training(`Trained in ${seconds.toFixed(0)} s. The decoder can be chosen above, round by `
      + "round: “trained here”.");
    offer_trained();
  }
}

// Lists what was trained beside the decoders of the page, and shows it
function offer_trained() {
  const { cfg, by_round } = training;
  if (sources.at(-1).trained) sources.pop();
  const name = `${set_name(cfg.choices)}, trained here for ${cfg.experiment}`
    + (cfg.shuffled ? ", rewards shuffled" : "");
  sources.push({ name, choices: cfg.choices,
                 trained: { experiment: cfg.experiment, level: cfg.level, by_round } });
  const shown = state.source.trained;
  if (shown) state.source = sources.at(-1);
  list_sources();
  if (shown) refresh();
}

// Mean temperature, or the setting drawn most, of each role
function used(counts, choices) {
  return Object.entries(counts).map(([role, of]) => {
    const n = sum(of), most = argmax(of);
    const value = choices.every(is_number) ? (sum(of.map((c, k) => c * choices[k])) / n).toFixed(2)
      : `${short(choices[most])} ${percent(of[most] / n)}`;
    return [role, value];
  });
}

function show_rounds() {
  const { cfg, facts, rounds } = training;
  const theirs = facts.levels[cfg.level]?.rounds ?? {}, best = facts.best_fixed;
  const names = used(rounds[0].counts, cfg.choices).map(([role]) => role).sort();
  const what = cfg.choices.every(is_number) ? "mean temperature" : "most drawn";
  const cell = (text, tag = "td") => element(tag, { class: "number", scope: tag === "th" ? "col" : null }, text);
  const number = x => (x === undefined || x === null ? "–" : x.toFixed(3));
  const head = element("tr", {}, ...["round", "reward here", "PyTorch's run", "pairs", "loss, last step",
                                     ...names.map(role => `${what}, ${role}`), "s"].map(x => cell(x, "th")));
  const body = rounds.map(round => {
    const of = Object.fromEntries(used(round.counts, cfg.choices));
    return element("tr", {}, ...[String(round.rnd + 1), number(round.reward), number(theirs[round.rnd]),
      String(round.pairs), number(round.losses.at(-1)), ...names.map(role => of[role] ?? "–"),
      sum(round.seconds).toFixed(1)].map(x => cell(x)));
  });
  at("rounds").replaceChildren(
    element("p", { class: "note" }, "A round's reward is that of its training responses, so before its "
      + `update. PyTorch's run has ${data.sets[0].training.prompts} x ${data.sets[0].training.responses} `
      + `responses a round. The best fixed choice, ${full(best.choice)}, earns ${best.reward.toFixed(3)} `
      + "on test prompts, where it was picked"
      + (facts.levels[cfg.level] ? `; PyTorch's trained decoder ${facts.levels[cfg.level].reward.toFixed(3)}.` : ".")),
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of rounds" },
            element("table", {}, element("thead", {}, head), element("tbody", {}, ...body))));
  const series = [["here", "here", rounds.map(({ rnd, reward }) => [rnd, reward])],
                  ["PyTorch's run", "torch", Object.entries(theirs).map(([r, x]) => [Number(r), x])]];
  const all = [best.reward, ...series.flatMap(([, , points]) => points.map(([, y]) => y))];
  const low = Math.floor(10 * Math.min(...all)) / 10, high = Math.ceil(10 * Math.max(...all)) / 10;
  const x = rnd => 46 + rnd * 290 / Math.max(cfg.rounds - 1, 1);
  const y = value => 190 - 170 * (value - low) / (high - low);
  const grid = [low, (low + high) / 2, high].flatMap(value => [
    ["text", { x: 40, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(2)],
    ["line", { x1: 46, x2: 336, y1: y(value), y2: y(value), class: "axis", opacity: 0.3 }]]);
  const ticks = Array.from({ length: cfg.rounds }, (_, rnd) => (
    ["text", { x: x(rnd), y: 208, "text-anchor": "middle" }, String(rnd + 1)]));
  const lines = series.flatMap(([, kind, points]) => [
    ["polyline", { points: points.map(([rnd, value]) => `${x(rnd)},${y(value)}`).join(" "), class: kind }],
    ...points.map(([rnd, value]) => (kind === "here"
      ? ["circle", { cx: x(rnd), cy: y(value), r: 4, class: kind }]
      : ["rect", { x: x(rnd) - 4, y: y(value) - 4, width: 8, height: 8, class: kind }]))]);
  const fixed = ["line", { x1: 46, x2: 336, y1: y(best.reward), y2: y(best.reward), class: "fixed",
                           "stroke-dasharray": "6 4" }];
  const legend = [["here", "here", 60], ["PyTorch's run", "torch", 80], ["best fixed", "fixed", 100]]
    .flatMap(([name, kind, top]) => [
      kind === "here" ? ["circle", { cx: 355, cy: top, r: 4, class: kind }]
        : kind === "torch" ? ["rect", { x: 351, y: top - 4, width: 8, height: 8, class: kind }]
          : ["line", { x1: 347, x2: 363, y1: top, y2: top, class: kind, "stroke-dasharray": "6 4" }],
      ["text", { x: 368, y: top + 4 }, name]]);
  at("curve").replaceChildren(drawing(
    460, 228, `Reward by round, here and in PyTorch's run; the table below has the numbers.`,
    ...grid, ...ticks, ["text", { x: 190, y: 225, "text-anchor": "middle" }, "round"], fixed, ...lines,
    ...legend));
}

// The held-out prompts before and after, drawn with the same random numbers
function show_before_after() {
  const { cfg, held_out } = training, { asked } = held_out.before, samples = DRAWS;
  const of_prompt = (when, p) => held_out[when].responses.slice(p * samples, (p + 1) * samples);
  const means = ["before", "after"].map(when => (
    mean_of(asked.map((_, p) => mean_reward(of_prompt(when, p))))));
  const first = [...new Set(asked.map(([name]) => name))].map(name => (
    asked.findIndex(([other]) => other === name)));
  const shown = first.length > 1 ? first : [0, 1];
  const card = (when, p) => {
    const responses = of_prompt(when, p);
    return element("article", {}, element("h3", {}, `${when} training`), ...responses.map(response => (
      element("div", {}, ...text_rows(asked[p], response, cfg.choices),
              element("p", { class: "note" }, `reward ${response.reward.toFixed(3)}`)))),
      element("p", { class: "reward" }, `mean of the four ${mean_reward(responses).toFixed(3)}`));
  };
  at("before_after").replaceChildren(
    element("h3", {}, "The same held-out prompts and random numbers, before and after"),
    element("p", {}, `Mean reward of ${asked.length} prompts, ${samples} draws each, with its 95 % interval `
      + `over prompts: ${written(means[0])} before, ${written(means[1])} after.`),
    ...shown.map(p => element("details", { open: p === shown[0] }, element("summary", {}, asked[p][1]),
                              element("div", { class: "pair" }, card("before", p), card("after", p)))));
}

// --- the beginning -------------------------------------------------------------------------------

function read_address() {
  const seed = Number(/seed=(\d{1,6})/.exec(location.hash)?.[1] ?? 1);
  state.seed = seed;
  if (state.asked) refresh();
}

function listen() {
  at("task").addEventListener("change", list_prompts);
  at("prompt").addEventListener("change", () => ask(at("task").value, at("prompt").value));
  at("more").addEventListener("click", () => {
    state.page++;
    list_prompts();
  });
  at("own_form").addEventListener("submit", event => {
    event.preventDefault();
    ask_own();
  });
  at("tau").addEventListener("input", () => {
    state.tau = Number(at("tau").value);
    refresh();
  });
  at("round").addEventListener("input", () => {
    state.round = Number(at("round").value);
    refresh();
  });
  for (const input of document.querySelectorAll("input[name=level]")) {
    input.addEventListener("change", () => {
      state.level = input.value;
      state.round = null;
      refresh();
    });
  }
  const set_seed = seed => { location.hash = `seed=${seed}`; };
  at("seed").addEventListener("change", () => set_seed(Math.abs(parseInt(at("seed").value, 10) || 0)));
  at("again").addEventListener("click", () => set_seed(state.seed + 1));
  window.addEventListener("hashchange", read_address);
  for (const id of ["mine", "rest"]) {
    at(id).addEventListener("input", () => {
      state[id] = Number(at(id).value);
      contest();
    });
  }
  at("train").addEventListener("click", start_training);
  at("stop").addEventListener("click", () => end_training("Stopped."));
}

async function start() {
  base_weights = named(from_halves(await inflated(data.base)), data.shapes);
  model_here = new GPT(data.config, base_weights);
  const { training: cfg, made } = data.sets[0];
  SIZES.push([`${cfg.prompts} prompts x ${cfg.responses} responses, as train_toy.py`,
              { prompts: cfg.prompts, responses: cfg.responses }]);
  for (const [experiment, names] of Object.entries(EXPERIMENTS)) {
    if (!data.sets[0].facts[experiment]) continue;
    for (const name of names) {
      at("task").append(element("option", { value: name }, names.length > 1 ? `${experiment}: ${name}` : name));
    }
    at("train_experiment").append(element("option", {}, experiment));
  }
  if (data.sets[0].facts.constrained) {  // the clearest to begin with
    at("task").value = at("train_experiment").value = "constrained";
  }
  at("train_set").append(...sources.map(({ name }, i) => element("option", { value: i }, name)));
  at("train_size").append(...SIZES.map(([name], i) => element("option", { value: i }, name)));
  at("known_words").textContent = WORDS.join(" ");
  const parameters = sum(Object.values(base_weights).map(w => w.length));
  at("made").textContent = `The language model has ${parameters} parameters, the decoder of `
    + `temperatures ${sum(shapes_of(sources[0].choices.length, data.config.n_embd).map(([, s]) => (
      s.reduce((a, b) => a * b))))}; both were trained by train_toy.py (commit ${made.commit}, torch `
    + `${made.torch}) and are held here in half precision.`;
  list_sources();
  listen();
  read_address();
  list_prompts();
}

start();
