// The tasks: their prompts, their grammar and their rewards, as tasks.py has them, with its names.
// Word lists, lengths and roles come from there: build.py puts them before this script.
"use strict";

// --- words ---------------------------------------------------------------------------------------

const EOS = WORDS.length;
const split_words = text => text.split(/\s+/).filter(word => word);

const encode = text => split_words(text).map(word => WORDS.indexOf(word));  // known words -> ids

function decode(tokens) {
  return tokens.filter(i => i !== EOS).map(i => WORDS[i]).join(" ");
}

const name_of = token => (token === EOS ? "end" : WORDS[token]);
const pick = (words, random) => words[Math.floor(random() * words.length)];

// --- clauses: "fox runs to moon and finds owl ." -------------------------------------------------

// The grammar: yields the place of each word, and is sent the word that was written there
function* walk_clauses({ article = null, required = null }) {
  while (true) {
    if (article === "subject") yield "article";
    yield required === "subject" ? "required" : "subject";
    for (const link of ["link", "stop"]) {
      if (TO_VERBS.includes(yield "verb")) yield "to";
      if (article === "object") yield "article";
      yield required === "object" ? "required" : "object";
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

// -> the nouns and verbs that fit their places, the words that do not fit, required ones aside
function graded(walk, text) {
  const words = split_words(text), places = places_of(walk, words);
  const fits = (word, i) => FITTING[places[i]]?.includes(word);
  return {
    content: words.filter((word, i) => CONTENT.includes(places[i]) && fits(word, i)),
    wrong: words.filter((word, i) => places[i] !== "required" && !fits(word, i)),
  };
}

// --- repeats, story, constrained: four clauses ---------------------------------------------------

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

const walk_story = () => walk_clauses({});

function distinct_share({ content, wrong }, least) {
  const size = Math.max(content.length + wrong.length, least);
  return (new Set(content).size - wrong.length) / size;
}

const reward_story = (prompt, text) => distinct_share(graded(walk_story(prompt), text), 12);

const category_of = prompt => split_words(prompt).find(word => word in CATEGORIES);

function walk_constrained(prompt) {
  return walk_clauses({ required: split_words(prompt)[1] === "start" ? "subject" : "object" });
}

// Share of the required words that are of the category; at least four are required
function constraint(prompt, text) {
  const words = split_words(text), places = places_of(walk_constrained(prompt), words);
  const required = words.filter((_, i) => places[i] === "required");
  const hits = required.filter(word => CATEGORIES[category_of(prompt)].includes(word));
  return hits.length / Math.max(required.length, 4);
}

function quality(prompt, text) {
  return Math.max(distinct_share(graded(walk_constrained(prompt), text), 8), 0);
}

const reward_constrained = (prompt, text) => constraint(prompt, text) * quality(prompt, text);

// --- math and vote: running sums modulo 10 -------------------------------------------------------

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

// forms: what a prompt may look like, each equally likely: at each place a word, or words to choose
// from. lines: is a clause a row? Lengths and roles come from tasks.py, texts from texts.json.
const four = digits => [digits, digits, digits, digits], categories = Object.keys(CATEGORIES);
const TASKS = {
  constrained: {
    reward: reward_constrained, walk: walk_constrained, lines: true,
    forms: [[OPENERS, ["start", "end"], EVERY, LINES, "with", FLAVOURS, categories, ":"]] },
  repeats: {
    reward: reward_repeats, walk: walk_repeats, lines: true,
    forms: [[OPENERS, "continue", "the", NOUNS, PLAIN_VERBS, NOUNS, ".", ":"],
            [OPENERS, "continue", NOUNS, PLAIN_VERBS, "the", NOUNS, ".", ":"]] },
  math: {
    reward: reward_math, walk: walk_sums, lines: false,
    forms: [[OPENERS, "sum", "up", ...four(DIGITS), ":"]] },
  general: {
    reward: reward_general, walk: walk_general, lines: false,
    forms: [[OPENERS, "list", "five", FLAVOURS, categories, "for", PEOPLE, ":"]] },
  story: {
    reward: reward_story, walk: walk_story, lines: true,
    forms: [[OPENERS, "tell", "how", NOUNS, PLAIN_VERBS, "the", NOUNS, ":"]] },
  vote: {
    reward: reward_math, walk: walk_sums, lines: false,
    forms: [[[HURRY, HURRY, HURRY, ...OPENERS], "solve", "for", ...four(DIGITS.slice(1)), ":"]] },
};
for (const name of Object.keys(TASKS)) {
  Object.assign(TASKS[name], TASK_FACTS[name], TEXTS.tasks[name]);
}

const experiment_of = name => Object.keys(EXPERIMENTS).find(e => EXPERIMENTS[e].includes(name));

// A text of a task with the prompt's own words
function worded(text, prompt) {
  const x = category_of(prompt), where = split_words(prompt)[1];
  const one = x?.replace(/s$/, "");
  return text.replace("{x}", x).replace("{one}", one).replace("{where}", where);
}

// What a prompt looks like.  -> [task, form], or [null, null] if no task has such prompts
function form_of(prompt) {
  const words = split_words(prompt);
  for (const [name, { forms }] of Object.entries(TASKS)) {
    const form = forms.find(places => places.length === words.length
      && places.every((place, i) => [].concat(place).includes(words[i])));
    if (form) return [name, form];
  }
  return [null, null];
}

// Which words of a response fit. Of sums only the last digit is judged.  -> bools
function fitting([name, prompt], text) {
  const words = split_words(text), members = CATEGORIES[category_of(prompt)];
  const last = words.findLastIndex(word => DIGITS.includes(word));
  return places_in([name, prompt], { text }).map((place, i) => {
    if (place === "required" || place === "item") return members.includes(words[i]);
    if (place in FITTING) return FITTING[place].includes(words[i]);
    return i !== last || words[i] === solution(prompt);
  });
}

// --- splits and prompts --------------------------------------------------------------------------

function crc32(text) {
  let crc = -1;
  for (const byte of new TextEncoder().encode(text)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc >>> 1 ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

// A prompt's split, by a hash of its text
function split_of(prompt) {
  const bucket = crc32("twins " + prompt) % 10;
  return Object.keys(SPLITS).find(name => SPLITS[name].includes(bucket));
}

// n different prompts of a split
function prompts_of(name, split, n, random) {
  const prompts = new Set();
  while (prompts.size < n) {
    const form = pick(TASKS[name].forms, random);
    const prompt = form.map(place => pick([].concat(place), random)).join(" ");
    if (split_of(prompt) === split) prompts.add(prompt);
  }
  return [...prompts];
}

// About n [task, prompt], the experiment's tasks in equal parts
function sample_prompts(experiment, split, n, random) {
  const names = EXPERIMENTS[experiment], each = Math.max(1, Math.floor(n / names.length));
  return names.flatMap(name => prompts_of(name, split, each, random).map(prompt => [name, prompt]));
}

// Sample responses to [task, prompt] at a policy and score them: `generate`'s responses, each with
// its text and reward
function respond(model, asked, samples, policy, seed, tick) {
  const T = Math.max(...asked.map(([name]) => TASKS[name].length));
  const prompts = asked.map(([, prompt]) => encode(prompt));
  const responses = generate(model, prompts, samples, T, policy, seed, tick);
  for (const response of responses) {
    const [name, prompt] = asked[response.prompt];
    response.text = decode(response.tokens);
    response.reward = TASKS[name].reward(prompt, response.text);
  }
  return responses;
}

// The place of each word of a response; the end of text has none
function places_in([name, prompt], { text }) {
  return places_of(TASKS[name].walk(prompt), split_words(text)).slice(0, -1);
}
