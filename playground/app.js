// What the page does: reads its controls and its address, has responses sampled, shows them.
"use strict";

const data = JSON.parse(by_id("data").textContent);
const GUIDED = "please end each line with common fish :";  // what a visitor sees first,
const GUIDED_SEED = 33;                                     // with scores close to the means
const EXAMPLES = 4;  // prompts of each task in the list
const HUNDRED = 100, CHUNK = 20;  // responses of a mean; a chunk is shown as it comes
const LIKELIEST = 6;  // words in a table
const REMEMBERED = 300;  // samples
const MOST_SEED = 999999, PATIENCE = 30;  // seconds for a worker to answer

let model = null, base_weights = null;
const sources = [];  // of decoders: the page's sets of choices, then what was trained here
const state = { prompt: null, asked: null, experiment: null, seed: GUIDED_SEED, fixed: 0.6,
                source: null, level: "token", round: null, decoder: null, answers: null,
                looked: null, mine: 0.6, rest: 0.6, version: 0 };

// --- messages ------------------------------------------------------------------------------------

const show = (id, text) => { by_id(id).textContent = text; };
const say = text => show("news", text);  // to screen readers; it is also to be seen elsewhere

function tell(text) {  // beside the controls
  show("note", text);
  if (text) say(text);
}

function report(error) {
  show("failed", `This page does not work fully: ${error?.message ?? error}`);
  by_id("failed").hidden = false;
  say(by_id("failed").textContent);
}

window.addEventListener("error", event => report(event.error ?? event.message));
window.addEventListener("unhandledrejection", event => report(event.reason));

// --- decoders ------------------------------------------------------------------------------------

const decoders_of = ({ decoders }, level) => decoders[`${state.experiment} ${level}`];

// -> [AdaptiveDecoder of each round], with holes where the page has none
async function unpacked({ level, rounds, last, steps }, choices) {
  const C = data.config.n_embd, K = choices.length, by_round = [];
  const shapes = [["W1", [C, C]], ["b1", [C]], ["W2", [C, C]], ["b2", [C]], ["W3", [K, C]],
                  ["b3", [K]]];
  const put = (round, numbers) => {
    by_round[round] = new AdaptiveDecoder(choices, level, Object.values(named(numbers, shapes)));
  };
  let numbers = from_halves(await inflated(last)), round = rounds;
  put(round, numbers);
  for (const packed of steps) {
    const step = new Int8Array((await inflated(packed)).buffer);
    numbers = numbers.map((x, i) => x + step[i] / data.steps);
    put(--round, numbers);
  }
  put(0, numbers);  // before any training: uniform, whatever its hidden layers are
  for (const array of by_round[0].weights.slice(-2)) array.fill(0);
  return by_round;
}

async function load() {
  if (!window.DecompressionStream) {
    throw new Error("this browser has no DecompressionStream; take one of 2023 or newer.");
  }
  base_weights = named(from_halves(await inflated(data.base)), data.shapes);
  model = new GPT(data.config, base_weights);
  for (const set of data.sets) {
    const decoders = {};
    for (const packed of set.decoders) {
      const { experiment, level } = packed;
      decoders[`${experiment} ${level}`] = await unpacked(packed, set.choices);
    }
    sources.push({ ...set, decoders });
  }
}

// --- what is sampled, and remembered -------------------------------------------------------------

const scripts = ["words", "engine", "tasks", "lpo", "worker"].map(id => by_id(id).textContent);
const worker_address = URL.createObjectURL(new Blob([scripts.join("\n")],
                                                    { type: "text/javascript" }));

function new_worker() {
  const failure = reason => Error(
    `the browser starts no worker (${reason}), so means are missing.`);
  try {
    const worker = new Worker(worker_address);
    worker.onerror = event => {
      report(failure(event.message ?? "it does not load"));
      if (is_training()) end_training("Training failed.");
    };
    worker.postMessage({ kind: "model", config: data.config, weights: base_weights });
    return worker;
  } catch (error) {
    throw failure(error.message);
  }
}

const memory = new Map();
let decoders = 0, helper = null;

// make(), or what it gave before: a policy gives the same again, if the rest is the same too
function remembered({ decoder, ...policy }, rest, make) {
  if (decoder) decoder.number ??= decoders++;
  const key = JSON.stringify([decoder?.number, policy, rest]);
  if (memory.size >= REMEMBERED) memory.delete(memory.keys().next().value);  // the oldest
  if (!memory.has(key)) memory.set(key, make());
  return memory.get(key);
}

// A promise of rewards, sampled in a worker
function rewards_of(asked, samples, policy, seed) {
  return remembered(policy, [asked, samples, seed], () => new Promise(resolve => {
    const { port1, port2 } = new MessageChannel();
    const late = setTimeout(() => report(`no answer of a worker for ${PATIENCE} s.`),
                            1000 * PATIENCE);
    port1.onmessage = ({ data: rewards }) => {
      clearTimeout(late);
      port1.close();
      resolve(rewards);
    };
    helper ??= new_worker();
    helper.postMessage({ kind: "rewards", asked, samples, policy, seed, port: port2 }, [port2]);
  }));
}

const latest = {};  // of the comparisons in each place

// Mean rewards of two policies, chunk by chunk, in rows of the element `id`.
// -> what they say; null if another comparison has begun there meanwhile
async function compare(id, names, policies, colour, asked_of, samples, seed) {
  const mine = {}, rewards = [[], []], { experiment, decoder } = state;
  const show_rows = () => show_means(id, names, rewards, experiment === "repeats" ? -1 : 0,
                                     [colour, `var(--${decoder.level})`]);
  latest[id] = mine;
  show(`${id}_said`, "");
  show_rows();
  await new Promise(resolve => setTimeout(resolve, 150));  // a slider may still move
  for (let chunk = 0; chunk < HUNDRED / CHUNK; chunk++) {
    if (latest[id] !== mine) return null;
    const parts = await Promise.all(policies.map(policy => (
      rewards_of(asked_of(chunk), samples, policy, [...seed, chunk]))));
    if (latest[id] !== mine) return null;
    parts.forEach((part, i) => rewards[i].push(...part));
    show_rows();
  }
  show(`${id}_said`, verdict(rewards, names));
  return verdict(rewards, names);
}

// --- the prompt ----------------------------------------------------------------------------------

const tasks_here = () => Object.keys(TASKS).filter(name => sources[0].facts[experiment_of(name)]);

const examples = name => [...(name === "constrained" ? [GUIDED] : []),
                          ...prompts_of(name, "test", EXAMPLES, stream(11))];

function list_prompts() {
  by_id("prompt").replaceChildren(...tasks_here().map(name => element(
    "optgroup", { label: TASKS[name].title },
    ...examples(name).map(prompt => element("option", {}, prompt)))));
}

// Makes a prompt the one that is answered; one that is not in the list joins it
function ask(prompt) {
  const [name] = form_of(prompt), list = by_id("prompt");
  Object.assign(state, { prompt, asked: [name, prompt], experiment: experiment_of(name) });
  list.value = prompt;
  if (list.value !== prompt) list.prepend(element("option", {}, prompt));
  refresh();
}

const brief = text => (text.length > 20 ? `${text.slice(0, 20)}…` : text);

// What somebody writes -> {prompt}, completed by what its task has at the end, or {error}
function own_prompt(text) {
  const words = text.toLowerCase().match(/[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu) ?? [];
  const unknown = [...new Set(words)].filter(word => !WORDS.includes(word)).map(brief);
  const ends = ["", " :", " . :"].map(end => words.join(" ") + end);
  const prompt = ends.find(whole => tasks_here().includes(form_of(whole)[0]));
  if (prompt) return { prompt };
  const more = unknown.length > 5 ? ` and ${unknown.length - 5} more` : "";
  return { error: unknown.length
    ? `The model does not know ${unknown.slice(0, 5).join(", ")}${more}.`
    : "No task has such a prompt. Take one from the list and change its words." };
}

function ask_own(event) {
  event.preventDefault();
  const { prompt, error = "" } = own_prompt(by_id("own").value);
  show("own_error", error);
  by_id("own").setAttribute("aria-invalid", !prompt);
  by_id("known").open ||= !prompt;
  if (prompt) ask(prompt);
  else say(error);
}

// The prompt as a template: lists of words where others would do
function show_slots([, prompt]) {
  const words = split_words(prompt), [, form] = form_of(prompt);
  const focused = document.activeElement.dataset.place;
  by_id("slots").replaceChildren(...words.map((word, i) => {
    if (!Array.isArray(form?.[i])) return element("span", {}, word);
    const options = [...new Set(form[i])].map(
      other => element("option", { selected: other === word }, other));
    return element("select", { "aria-label": `Word ${i + 1}`, "data-place": i }, ...options);
  }));
  by_id("slots").querySelector(`[data-place="${focused}"]`)?.focus();
}

// --- the controls --------------------------------------------------------------------------------

const fixed_labels = () => [...Array.from({ length: 13 }, (_, i) => i / 10),
                            ...state.source.choices.filter(label => !is_number(label))];

function set_slider(id, value, text, most) {
  Object.assign(by_id(id), { max: most, value, ariaValueText: text });
  show(`${id}_value`, text);
}

// Makes the state possible, and has the controls say what it is
function settle() {
  const levels = Object.keys(TEXTS.levels);
  const fits = source => levels.some(level => decoders_of(source, level));
  const { name, experiment } = state.source;
  tell(fits(state.source) ? "" : `“${name}” is for ${experiment} prompts; here is another.`);
  if (!fits(state.source)) state.source = sources[0];
  const { source } = state;
  if (!decoders_of(source, state.level)) state.level = levels.find(of => decoders_of(source, of));
  const by_round = decoders_of(source, state.level), last = by_round.length - 1;
  const is_full = Object.keys(by_round).length > last;
  if (!by_round[state.round]) state.round = last;
  state.decoder = by_round[state.round];
  const labels = fixed_labels();
  if (!labels.includes(state.fixed)) state.fixed = 0.6;
  set_options("source", sources.map((of, i) => [
    i, of.name + (fits(of) ? "" : ` (only for ${of.experiment})`), !fits(of)]),
              sources.indexOf(source));
  set_options("level", levels.map(level => {
    const is_here = decoders_of(source, level);
    return [level, `${TEXTS.levels[level]}${is_here ? "" : ": not with these"}`, !is_here];
  }), state.level);
  const others = is_full ? "" : ` (0 or ${last})`;
  set_slider("round", state.round, `${state.round} of ${last}${others}`, last);
  by_id("round").step = is_full ? 1 : last;
  set_slider("fixed", labels.indexOf(state.fixed), lettered(state.fixed, source.choices),
             labels.length - 1);
  by_id("seed").value = state.seed;
  by_id("prompt").value = state.asked[1];
}

// --- what is shown -------------------------------------------------------------------------------

function show_texts([name, prompt], { labels }) {
  show("prompt_use", split_of(prompt) === "train" ? "may have been used" : "never used");
  for (const of of ["about", "rule", "formula"]) show(of, worded(TASKS[name][of], prompt));
  const { choice, reward } = state.source.facts[state.experiment].best_fixed;
  show("best", `${full(choice)}, with a mean of ${reward.toFixed(2)}`);
  by_id("scale").hidden = !labels.every(is_number);
  by_id("letters").replaceChildren(...(labels.every(is_number) ? [] : labels.map(label => element(
    "span", {}, element("span", { class: "swatch", style: colour_of(label, labels) },
                        short(label, labels)), ` ${full(label)}`))));
}

function show_response(id, title, response) {
  show(`${id}_title`, title);
  show(`${id}_score`, `Score ${response.reward.toFixed(2)}`);
  by_id(`${id}_text`).replaceChildren(...text_rows(
    state.asked, response, state.decoder.labels, (t, is_chosen) => look(id, t, is_chosen)));
}

function learned_title({ source, level, round }) {
  const what = source.choices.every(is_number) ? "temperature" : "setting";
  const last = decoders_of(source, level).length - 1;
  return `Each ${level === "token" ? "word" : "response"} at its own ${what}`
    + (!round ? ", before training" : round < last ? `, after ${round} of ${last} rounds` : "");
}

// All that depends on prompt, seed and policies
function refresh() {
  settle();
  const { asked, seed, decoder, fixed } = state;
  const answer = policy => remembered(policy, [asked, seed],
                                      () => respond(model, [asked], 1, policy, [seed])[0]);
  state.answers = { plain: answer({ fixed }), learned: answer({ decoder }) };
  show_texts(asked, decoder);
  show_slots(asked);
  const name = is_number(fixed) ? full(fixed) : `setting ${short(fixed, decoder.labels)}`;
  show_response("plain", `Every word at ${name}`, state.answers.plain);
  show_response("learned", learned_title(state), state.answers.learned);
  show("look", what_to_look_at(asked, state.answers.learned, decoder));
  show("train_what", state.experiment);
  look_again();
  document.body.dataset.shown = ++state.version;
  compare("hundred", [name, "the decoder"], [{ fixed }, { decoder }], "var(--fixed)",
          () => [asked], CHUNK, [seed, 7]).then(said => {
    if (!said) return;
    say(said);
    write_address();
  });
  contest();
}

// --- one word ------------------------------------------------------------------------------------

// Shows how a word came about. is_chosen, by key, click or tap: until another is, or it is closed
function look(id, t, is_chosen, is_told = is_chosen) {
  if (state.looked?.is_chosen && !is_chosen) return;
  state.looked = { id, t, is_chosen };
  document.querySelector(".word.looked")?.classList.remove("looked");
  const word = by_id(`${id}_text`).querySelector(`[data-t="${t}"]`);
  word.classList.add("looked");
  show_word(state.answers[id], t);
  by_id("word").classList.toggle("open", is_chosen);
  if (!is_told) return;
  say(by_id("word_said").textContent);
  word.scrollIntoView({ block: "nearest" });  // above the panel
}

// After new responses: the same place, or a word that the task is about
function look_again() {
  const { id, t, is_chosen } = state.looked ?? {}, { asked, answers: { learned } } = state;
  if (is_chosen && t < state.answers[id].tokens.length) return look(id, t, true, false);
  const [[places]] = TASKS[asked[0]].watch, found = places_in(asked, learned);
  state.looked = null;
  look("learned", Math.max(found.findIndex(place => places.includes(place)), 0), false);
}

function close_word() {
  const { id, t } = state.looked;
  by_id(`${id}_text`).querySelector(`[data-t="${t}"]`).focus();
  state.looked.is_chosen = false;
  by_id("word").classList.remove("open");
}

// P(tau | h) of the decoder, and the likeliest words at three choices
function show_word({ hidden, tokens, labels: used, ...response }, t) {
  const C = data.config.n_embd, { decoder, asked } = state, { labels } = decoder;
  const h = hidden.subarray(t * C, t * C + C), is_token = decoder.level === "token";
  const shares = decoder.forward(is_token ? h : hidden.subarray(0, C)).map(Math.exp);
  const where = TEXTS.places[places_in(asked, response)[t]];
  show("word_said", `“${name_of(tokens[t])}”`
    + `${where ? `, where ${worded(where, asked[1])} belongs,` : ""} was sampled at `
    + `${lettered(used[t], labels)}.`);
  const bars = labels.map((label, k) => [
    short(label, labels), element("div", { class: "bar" }, element("div", {
      style: `width: ${Math.max(100 * shares[k], 1)}%; ${colour_of(label, labels)}` })),
    percent(shares[k])]);
  const counts = new Float64Array(data.config.vocab_size), logits = model.logits(h);
  for (const token of tokens.slice(0, t)) counts[token]++;
  const likeliest = [...new Set([labels[0], used[t], labels.at(-1)])].map(label => {
    const of_words = choice_logps(logits, choice_of(label), counts).map(Math.exp);
    const best = [...of_words.keys()].filter(i => of_words[i] > 0.0005)
      .sort((i, j) => of_words[j] - of_words[i]).slice(0, LIKELIEST);
    return table(`at ${short(label, labels)}`, null,
                 best.map(i => [name_of(i), percent(of_words[i])]), i => best[i] === tokens[t]);
  });
  by_id("word_tables").replaceChildren(
    table(`How likely the decoder was to choose each ${is_token ? "here" : "for the response"}`,
          null, bars, k => labels[k] === used[t]),
    element("div", {}, element("b", {}, "The likeliest words"),
            element("div", { class: "words" }, ...likeliest)));
}

// --- Beat the decoder ----------------------------------------------------------------------------

function contest() {
  const { seed, decoder, experiment } = state, by_role = {};
  TEXTS.hands[experiment].forEach(([roles, name], i) => {
    const id = ["mine", "rest"][i];
    show(`${id}_name`, `Temperature of ${name}:`);
    set_slider(id, state[id], decimal(state[id]), HOTTEST);
    for (const role of roles) by_role[role] = state[id];
  });
  const all = sample_prompts(experiment, "test", HUNDRED + 2, stream(seed, 12));  // the mix has 102
  shuffle(all, stream(seed, 13));
  compare("contest", ["you", "the decoder"], [{ by_role }, { decoder }], "var(--oracle)",
          chunk => all.slice(chunk * CHUNK, (chunk + 1) * CHUNK), 1, [seed, 8]);
}

// --- the address ---------------------------------------------------------------------------------

const whole = (text, most) => (/^\d{1,9}$/.test(text) && text <= most ? Number(text) : null);

// What an address may say: the part of the state, and how a text becomes it; null if it cannot
const ADDRESS = {
  task: ["prompt", text => (tasks_here().includes(text) ? examples(text)[0] : null)],
  prompt: ["prompt", text => own_prompt(text).prompt],
  choices: ["source", text => sources[whole(text, data.sets.length - 1) ?? -1]],
  fixed: ["fixed", text => fixed_labels().find(label => String(label) === text)],
  level: ["level", text => Object.keys(TEXTS.levels).find(level => level === text)],
  round: ["round", text => whole(text, state.source.training.rounds)],
  seed: ["seed", text => whole(text, MOST_SEED)],
};

function write_address() {
  const { asked: [task, prompt], source, fixed, level, round, seed } = state;
  const choices = data.sets.findIndex(set => set.choices === source.choices);
  history.replaceState(null, "", `#${new URLSearchParams({
    task, prompt, choices, fixed, level, round, seed })}`);
}

function read_address() {
  const given = new URLSearchParams(location.hash.slice(1)), wrong = [];
  for (const name of new Set([...Object.keys(ADDRESS), ...given.keys()])) {
    if (!given.has(name)) continue;
    const [part, value_of] = Object.hasOwn(ADDRESS, name) ? ADDRESS[name] : ["", () => null];
    const value = value_of(given.get(name)) ?? null;
    if (value === null) wrong.push(brief(`${name}=${given.get(name)}`));
    else state[part] = value;
  }
  ask(state.prompt);
  if (wrong.length) tell(`The address has ${wrong.slice(0, 5).join(", ")}, which is left out.`);
}

async function copy_link() {
  write_address();
  try {
    await navigator.clipboard.writeText(location.href);
    tell("The link is copied.");
  } catch {  // the browser may forbid it
    window.prompt("Copy this link:", location.href);
  }
}

// --- the beginning -------------------------------------------------------------------------------

function listen() {
  const on = (id, kind, does) => by_id(id).addEventListener(kind, does);
  const change = (id, kind, change_of, then = refresh) => on(id, kind, () => {
    Object.assign(state, change_of(by_id(id).value));
    then();
  });
  change("fixed", "input", value => ({ fixed: fixed_labels()[value] }));
  change("round", "input", value => ({ round: Number(value) }));
  change("source", "change", value => ({ source: sources[value], round: null }));
  change("level", "change", value => ({ level: value, round: null }));
  change("again", "click", () => ({ seed: (state.seed + 1) % (MOST_SEED + 1) }));
  on("seed", "change", () => {
    const seed = whole(by_id("seed").value, MOST_SEED);
    state.seed = seed ?? state.seed;
    refresh();
    if (seed === null) tell(`A seed is a whole number from 0 to ${MOST_SEED}.`);
  });
  on("prompt", "change", () => ask(by_id("prompt").value));
  on("slots", "change", () => (
    ask([...by_id("slots").children].map(slot => slot.value ?? slot.textContent).join(" "))));
  on("own_form", "submit", ask_own);
  on("link", "click", copy_link);
  on("close", "click", close_word);
  document.addEventListener("keydown", event => {
    if (event.key === "Escape" && state.looked.is_chosen) close_word();
  });
  change("mine", "input", value => ({ mine: Number(value) }), contest);
  change("rest", "input", value => ({ rest: Number(value) }), contest);
  window.addEventListener("hashchange", read_address);
}

async function start() {
  await load();
  state.source = sources[0];
  list_prompts();
  state.prompt = by_id("prompt").value;
  listen();
  listen_to_training();
  read_address();
}

start().catch(report);
