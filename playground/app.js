// What the page does: reads its controls, has responses drawn, shows them.
"use strict";

const data = JSON.parse(at("data").textContent);
const EXAMPLES = 8;  // held-out prompts in the list
const HUNDRED = 100, CHUNK = 20;  // draws of a mean; a chunk is shown as it comes
const LIKELIEST = 6;  // words in a table

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
  if (!there.token && !there.sequence) {  // it was trained here, for another experiment
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

// Of one word: P(tau | h) of the decoder, and the likeliest words at three temperatures
function look(asked, response, t, word) {
  document.querySelector(".word.looked")?.classList.remove("looked");
  word.classList.add("looked");
  const C = data.config.n_embd, { decoder } = state, { labels } = decoder;
  const at_h = response.hidden.subarray(t * C, (t + 1) * C);
  const deciding = decoder.level === "token" ? at_h : response.hidden.subarray(0, C);
  const shares = decoder.forward(deciding).map(Math.exp), likeliest = argmax(shares);
  const label = label_at(response, t, labels), token = response.tokens[t];
  say_of_word(token, roles_of(asked, response)[t], label, labels[likeliest], shares[likeliest]);

  const bars = labels.map((of, k) => [
    is_number(of) ? short(of) : of,
    element("div", { class: "bar" }, element("div", {
      style: `width: ${Math.max(100 * shares[k], 1)}%; ${colour_of(of, labels)}` })),
    percent(shares[k])]);
  const where = decoder.level === "token" ? "at this word" : "of this response";
  at("word_tables").replaceChildren(
    table(`P(tau | h) ${where}`, null, bars, k => labels[k] === label),
    element("div", {}, element("strong", {}, "The likeliest words"),
            element("div", { class: "words" }, ...likeliest_words(at_h, token, label))));
}

function say_of_word(token, { place, role } = {}, label, likeliest, share) {
  const word = token === EOS ? "The end of text" : `“${WORDS[token]}”`;
  const where = place ? ` (place: ${place}, role: ${role})` : "";
  at("word_said").textContent = `${word}${where} was drawn at ${full(label)}; the decoder gives `
    + `${full(likeliest)} most, ${percent(share)}.`;
}

// Tables of words at temperature 0, at the one of this word and at the hottest
function likeliest_words(at_h, token, label) {
  const logits = model_here.logits(at_h);
  const labels = new Map([0, label, HOTTEST].map(of => [Number(of) || String(of), of]));
  return [...labels.values()].map(of => {
    const shares = word_logps(logits, choice_of(of)).map(Math.exp);
    const words = Array.from(shares.keys()).filter(i => shares[i] > 0.0005)
      .sort((i, j) => shares[j] - shares[i]).slice(0, LIKELIEST);
    const rows = words.map(i => [i === EOS ? "end of text" : WORDS[i], percent(shares[i])]);
    return table(is_number(of) ? `at ${short(of)}` : of, null, rows, i => words[i] === token);
  });
}

function show_key(labels) {
  at("key").replaceChildren(...labels.map(label => element(
    "span", { class: "word", style: colour_of(label, labels) },
    is_number(label) ? short(label) : `${short(label)}: ${label}`)));
}

function show_response(id, title, response) {
  const { asked, decoder } = state;
  at(`${id}_title`).textContent = title;
  const text = at(id).querySelector(".text");
  text.setAttribute("aria-label", response.text);
  text.replaceChildren(...text_rows(asked, response, decoder.labels,
                                    (t, word) => look(asked, response, t, word)));
  at(id).querySelector(".reward").textContent = response.reward === null
    ? "No reward: no task asks so." : `Reward ${response.reward.toFixed(3)}`;
}

// All that depends on prompt, seed and policies
async function refresh() {
  const version = ++state.version;
  at("tau_value").textContent = state.tau.toFixed(1);
  at("seed").value = state.seed;
  const decoder = await chosen_decoder();
  if (version !== state.version) return;  // a control has moved meanwhile
  state.decoder = decoder;
  const { asked, seed, tau, source } = state;
  const one = policy => respond(model_here, [asked], 1, policy, [seed])[0];
  show_key(decoder.labels);
  show_response("fixed", `Temperature ${tau.toFixed(1)}, fixed`, one({ temperature: tau }));
  const name = source.trained ? "Trained here" : "Learned decoder";
  show_response("learned", `${name}, ${decoder.level} level, round ${state.round}`,
                one({ decoder }));
  at("word_said").textContent = "No word is looked at.";
  at("word_tables").replaceChildren();
  document.body.dataset.shown = version;
  hundred_draws(version);
  contest();
}

// Rewards of several policies, chunk by chunk; `show` sees what there is so far.
// -> a list for each policy, or null once it is outdated
async function in_chunks(asked_of, samples, policies, seed, is_current, show) {
  const rewards = policies.map(() => []);
  show(rewards);
  await new Promise(resolve => setTimeout(resolve, 150));  // a slider may still move
  for (let chunk = 0; chunk < HUNDRED / CHUNK; chunk++) {
    if (!is_current()) return null;
    const parts = await Promise.all(policies.map(policy => (
      rewards_of(asked_of(chunk), samples, policy, [...seed, chunk]))));
    if (!is_current()) return null;
    parts.forEach((part, i) => rewards[i].push(...part));
    show(rewards);
  }
  return rewards;
}

async function hundred_draws(version) {
  const { asked, tau, seed, decoder } = state;
  const names = [`temperature ${tau.toFixed(1)}`, "the decoder"];
  at("hundred_said").textContent = asked[0] ? "" : "There is no reward to draw for.";
  at("hundred").replaceChildren();
  if (!asked[0]) return;
  const show = rewards => at("hundred").replaceChildren(...rewards.flatMap((of, i) => (
    mean_row(names[i], of, lowest_of(asked[0]), ["fixed", "here"][i]))));
  const policies = [{ temperature: tau }, as_message(decoder)];
  const found = await in_chunks(() => [asked], CHUNK, policies, [seed, 7],
                                () => version === state.version, show);
  if (!found) return;
  at("hundred_said").textContent = `Mean reward of ${HUNDRED} draws and its 95 % interval. `
    + verdict(found, names);
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
  const by_role = {};
  HANDS[experiment].forEach(([keys, name], i) => {
    const id = ["mine", "rest"][i];
    at(`${id}_name`).textContent = `Temperature of ${name}`;
    at(`${id}_value`).textContent = state[id].toFixed(1);
    at(id).value = state[id];
    for (const key of keys) by_role[key] = state[id];
  });
  at("contest_said").textContent = "";
  const names = ["you", "the decoder"], kinds = ["torch", "here"];
  const all = draw_prompts(experiment, "test", HUNDRED + 2, stream(seed, 12));  // the mix has 102
  shuffle(all, stream(seed, 13));
  const show = rewards => at("contest").replaceChildren(...rewards.flatMap((of, i) => (
    mean_row(names[i], of, lowest_of(experiment), kinds[i]))));
  const found = await in_chunks(chunk => all.slice(chunk * CHUNK, (chunk + 1) * CHUNK), 1,
                                [{ by_role }, as_message(decoder)], [seed, 8],
                                () => number === state.contest, show);
  if (found) at("contest_said").textContent = verdict(found, names);
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
  const set_seed = seed => { location.hash = `seed=${seed}`; };  // which read_address hears of
  at("seed").addEventListener("change", () => set_seed(Math.abs(Number(at("seed").value)) || 0));
  at("again").addEventListener("click", () => set_seed(state.seed + 1));
  window.addEventListener("hashchange", read_address);
  for (const id of ["mine", "rest"]) {
    at(id).addEventListener("input", () => {
      state[id] = Number(at(id).value);
      contest();
    });
  }
}

function list_tasks() {
  const { facts } = data.sets[0];
  for (const [experiment, names] of Object.entries(EXPERIMENTS)) {
    if (!facts[experiment]) continue;  // the run had it not
    at("train_experiment").append(element("option", {}, experiment));
    for (const name of names) {
      const title = names.length > 1 ? `${experiment}: ${name}` : name;
      at("task").append(element("option", { value: name }, title));
    }
  }
  if (facts.constrained) {  // the clearest to begin with
    at("task").value = at("train_experiment").value = "constrained";
  }
}

async function start() {
  base_weights = named(from_halves(await inflated(data.base)), data.shapes);
  model_here = new GPT(data.config, base_weights);
  const { made } = data.sets[0];
  const numbers = sum(Object.values(base_weights).map(w => w.length));
  at("made").textContent = `The language model has ${numbers.toLocaleString("en")} weights. It and `
    + `the decoders above were trained by train_toy.py (commit ${made.commit}, torch `
    + `${made.torch}) and are held here in half precision, a decoder's earlier rounds to `
    + `1 / ${data.steps} of a unit.`;
  at("known_words").textContent = WORDS.join(" ");
  list_tasks();
  list_sources();
  list_trainings();
  listen();
  listen_to_training();
  read_address();
  list_prompts();
}

start();
