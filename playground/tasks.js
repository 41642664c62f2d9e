// The tasks: how they ask, their grammar and their rewards, as tasks.py has them, with its names.
// Word lists, lengths and roles come from there: build.py writes them before this script.
"use strict";

// --- words ---------------------------------------------------------------------------------------

const EOS = WORDS.length;
const number_of = new Map(WORDS.map((word, i) => [word, i]));
const split_words = text => text.split(/\s+/).filter(word => word);

// Text -> token ids; an Error names the words that the model does not know
function encode(text) {
  const unknown = split_words(text).filter(word => !number_of.has(word));
  if (unknown.length) throw new Error(`not a word of the model: ${unknown.join(", ")}`);
  return split_words(text).map(word => number_of.get(word));
}

function decode(tokens) {
  return tokens.filter(i => i !== EOS).map(i => WORDS[i]).join(" ");
}

const pick = (words, random) => words[Math.floor(random() * words.length)];

// --- clauses: "fox runs to moon and finds owl ." -------------------------------------------------

// The grammar: yields the place of each word, and is sent the word that was written there
function* walk_clauses({ article = null, asked = null }) {
  while (true) {
    if (article === "subject") yield "article";
    yield asked === "subject" ? "asked" : "subject";
    for (const link of ["link", "stop"]) {
      if (TO_VERBS.includes(yield "verb")) yield "to";
      if (article === "object") yield "article";
      yield asked === "object" ? "asked" : "object";
      if ((yield link) === ".") break;
    }
  }
}

// The places of the words, and of the one that would come next.  -> n + 1 names
function places_of(walk, words) {
  return [walk.next().value, ...words.map(word => walk.next(word).value)];
}

const CONTENT = ["subject", "verb", "object"];
const FITTING = { article: ["the"], subject: NOUNS, verb: VERBS, to: ["to"], object: NOUNS,
                  link: ["and", "."], stop: ["."] };

// -> the nouns and verbs that fit their places, the words that do not fit, asked ones aside
function graded(walk, text) {
  const words = split_words(text), places = places_of(walk, words);
  const fits = (word, i) => FITTING[places[i]]?.includes(word);
  return {
    content: words.filter((word, i) => CONTENT.includes(places[i]) && fits(word, i)),
    wrong: words.filter((word, i) => places[i] !== "asked" && !fits(word, i)),
  };
}

// --- repeats, story, constrained: four clauses ---------------------------------------------------

function ask_repeats(random) {
  const clause = [pick(NOUNS, random), pick(PLAIN_VERBS, random), pick(NOUNS, random)];
  clause.splice(random() < 0.5 ? 0 : 2, 0, "the");
  return [pick(OPENERS, random), "continue", ...clause, ". :"].join(" ");
}

function walk_repeats(prompt) {
  return walk_clauses({ article: split_words(prompt)[2] === "the" ? "subject" : "object" });
}

function repeated_3grams(text) {
  const words = split_words(text);
  const grams = words.slice(2).map((_, i) => words.slice(i, i + 3).join(" "));
  return grams.length ? 1 - new Set(grams).size / grams.length : 0;
}

function reward_repeats(prompt, text) {
  const { wrong } = graded(walk_repeats(prompt), text), n = split_words(text).length;
  return -repeated_3grams(text) - 4 * (wrong.length + Math.max(20 - n, 0)) / Math.max(n, 26);
}

function ask_story(random) {
  return [pick(OPENERS, random), "tell how", pick(NOUNS, random), pick(PLAIN_VERBS, random), "the",
          pick(NOUNS, random), ":"].join(" ");
}

const walk_story = () => walk_clauses({});

function distinct_share({ content, wrong }, least) {
  const size = Math.max(content.length + wrong.length, least);
  return (new Set(content).size - wrong.length) / size;
}

const reward_story = (prompt, text) => distinct_share(graded(walk_story(prompt), text), 12);

function ask_constrained(random) {
  return [pick(OPENERS, random), pick(["start", "end"], random), pick(EVERY, random),
          pick(LINES, random), "with", pick(FLAVOURS, random),
          pick(Object.keys(CATEGORIES), random), ":"].join(" ");
}

const category_of = prompt => split_words(prompt).find(word => word in CATEGORIES);

function walk_constrained(prompt) {
  return walk_clauses({ asked: split_words(prompt)[1] === "start" ? "subject" : "object" });
}

// Share of the asked words that are of the category; at least four are asked for
function constraint(prompt, text) {
  const words = split_words(text), places = places_of(walk_constrained(prompt), words);
  const asked = words.filter((_, i) => places[i] === "asked");
  const hits = asked.filter(word => CATEGORIES[category_of(prompt)].includes(word));
  return hits.length / Math.max(asked.length, 4);
}

function quality(prompt, text) {
  return Math.max(distinct_share(graded(walk_constrained(prompt), text), 8), 0);
}

const reward_constrained = (prompt, text) => constraint(prompt, text) * quality(prompt, text);

// --- math and vote: running sums modulo 10 -------------------------------------------------------

function ask_math(random) {
  return [pick(OPENERS, random), "sum up", ...[1, 2, 3, 4].map(() => pick(DIGITS, random)),
          ":"].join(" ");
}

function ask_vote(random) {
  const opener = random() < 0.5 ? HURRY : pick(OPENERS, random);
  const digits = [1, 2, 3, 4].map(() => pick(DIGITS.slice(1), random));
  return [opener, "solve for", ...digits, ":"].join(" ");
}

function* walk_sums() {
  for (const place of "sum operand sum operand sum stop".split(" ")) {
    while ((yield place) === "working") yield "way";
  }
  while (true) yield "stop";
}

function solution(prompt) {
  return String(sum(split_words(prompt).slice(3, 7).map(Number)) % 10);
}

// The last digit of a text that ends with a full stop, or null
function final_answer(text) {
  const digits = split_words(text).filter(word => DIGITS.includes(word));
  return digits.length && text.endsWith(" .") ? digits.at(-1) : null;
}

const reward_math = (prompt, text) => (final_answer(text) === solution(prompt) ? 1 : 0);

// --- general: five of a category -----------------------------------------------------------------

function ask_general(random) {
  return [pick(OPENERS, random), "list five", pick(FLAVOURS, random),
          pick(Object.keys(CATEGORIES), random), "for", pick(PEOPLE, random), ":"].join(" ");
}

function* walk_general() {
  for (let i = 0; i < 5; i++) yield "item";
  while (true) yield "stop";
}

function reward_general(prompt, text) {
  const words = split_words(text), members = CATEGORIES[category_of(prompt)];
  const five = words.slice(0, 5), right = five.filter(word => members.includes(word));
  const wrong = five.length - right.length + words.slice(6).length;
  return (new Set(right).size - wrong) / 5;
}

// --- all of them ---------------------------------------------------------------------------------

// form: what a prompt of the task looks like; rule: what earns reward; lines: one clause a row
const TASKS = {
  repeats: {
    ask: ask_repeats, reward: reward_repeats, walk: walk_repeats, lines: true,
    form: /^\w+ continue (the \w+ \w+ \w+|\w+ \w+ the \w+) \. :$/,
    rule: "minus the share of repeated 3-grams, minus 4 (words that do not fit or are missing) / "
      + "(words, at least 26)" },
  math: {
    ask: ask_math, reward: reward_math, walk: walk_sums, lines: false,
    form: /^\w+ sum up \d \d \d \d :$/,
    rule: "1 if the last digit is the sum modulo 10, else 0" },
  general: {
    ask: ask_general, reward: reward_general, walk: walk_general, lines: false,
    form: RegExp(`^\\w+ list five \\w+ (${Object.keys(CATEGORIES).join("|")}) for \\w+ :$`),
    rule: "(distinct members of the category - other words) / 5" },
  story: {
    ask: ask_story, reward: reward_story, walk: walk_story, lines: true,
    form: /^\w+ tell how \w+ \w+ the \w+ :$/,
    rule: "(distinct nouns and verbs - words that do not fit) / (all of both, at least 12)" },
  constrained: {
    ask: ask_constrained, reward: reward_constrained, walk: walk_constrained, lines: true,
    form: RegExp(`^\\w+ (start|end) \\w+ \\w+ with \\w+ (${Object.keys(CATEGORIES).join("|")}) :$`),
    rule: "(share of the asked words that are of the category) x (distinct other nouns and verbs - "
      + "words that do not fit) / (all of both, at least 8)" },
  vote: {
    ask: ask_vote, reward: reward_math, walk: walk_sums, lines: false,
    form: /^\w+ solve for \d \d \d \d :$/,
    rule: "1 if the last digit is the sum modulo 10, else 0" },
};
for (const name of Object.keys(TASKS)) Object.assign(TASKS[name], TASK_FACTS[name]);

const role_of = (name, place) => TASKS[name].roles[place] ?? "rest";

// The task that asks so, or null
const task_of = prompt => Object.keys(TASKS).find(name => TASKS[name].form.test(prompt)) ?? null;

// --- splits and prompts --------------------------------------------------------------------------

function crc32(text) {
  let crc = -1;
  for (const byte of new TextEncoder().encode(text)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc >>> 1 ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

// A prompt's split, by a hash of its text: disjoint whoever draws it
function split_of(prompt) {
  const bucket = crc32("twins " + prompt) % 10;
  return Object.keys(SPLITS).find(name => SPLITS[name].includes(bucket));
}

// n different prompts of a split
function prompts_of(name, split, n, random) {
  const found = new Set();
  while (found.size < n) {
    const prompt = TASKS[name].ask(random);
    if (split_of(prompt) === split) found.add(prompt);
  }
  return [...found];
}

// About n [task, prompt], the experiment's tasks in equal parts
function draw_prompts(experiment, split, n, random) {
  const names = EXPERIMENTS[experiment], each = Math.max(1, Math.floor(n / names.length));
  return names.flatMap(name => prompts_of(name, split, each, random).map(prompt => [name, prompt]));
}

// Sample responses to [task, prompt] at a policy and score them: `generate`'s responses, each with
// its text and reward
function respond(model, asked, samples, policy, seed, tick) {
  const T = Math.max(...asked.map(([name]) => (name ? TASKS[name].length : MOST_TOKENS)));
  const prompts = asked.map(([, prompt]) => encode(prompt));
  const responses = generate(model, prompts, samples, T, policy, seed, tick);
  for (const response of responses) {
    const [name, prompt] = asked[response.prompt];
    response.text = decode(response.tokens);
    response.reward = name ? TASKS[name].reward(prompt, response.text) : null;
  }
  return responses;
}

// The place and role of each word of a response; the end of text has none
function roles_of([name, prompt], response) {
  const words = split_words(response.text);
  const places = name ? places_of(TASKS[name].walk(prompt), words).slice(0, -1) : [];
  return words.map((_, i) => ({ place: places[i], role: name ? role_of(name, places[i]) : null }));
}
