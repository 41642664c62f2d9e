// "Train it here": starts the training in a worker of its own, shows how it goes, and hands the
// trained decoder to the rest of the page.
"use strict";

let training = null;  // {cfg, facts, worker, began, rounds, held_out, by_round}

// What a round takes; the rest is as in the run whose decoders the page has
const SIZES = [["40 prompts x 6 responses, quick", { prompts: 40, responses: 6 }]];

function list_trainings() {
  const { prompts, responses } = data.sets[0].training;
  SIZES.push([`${prompts} prompts x ${responses} responses, as train_toy.py`,
              { prompts, responses }]);
  at("train_set").append(...sources.map(({ name }, i) => element("option", { value: i }, name)));
  at("train_size").append(...SIZES.map(([name], i) => element("option", { value: i }, name)));
}

function listen_to_training() {
  at("train").addEventListener("click", start_training);
  at("stop").addEventListener("click", () => end_training("Stopped."));
}

function training_config(set) {
  return { ...set.training, ...SIZES[at("train_size").value][1], choices: set.choices,
           experiment: at("train_experiment").value, level: at("train_level").value,
           seed: state.seed, shuffled: at("shuffled").checked };
}

function start_training() {
  const { set } = sources[at("train_set").value], cfg = training_config(set);
  training = { cfg, facts: set.facts[cfg.experiment], worker: new_worker(),
               began: performance.now(), rounds: [], held_out: {}, by_round: {} };
  training.worker.onmessage = ({ data: message }) => HEARD[message.kind](message);
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

// --- what the worker says ------------------------------------------------------------------------

// A sampled column or an update; each kind is half of a round
function tick(half, what, { rnd, done, of }) {
  at("progress").value = (rnd + (half + done / of) / 2) / training.cfg.rounds;
  at("train_now").textContent = `Round ${rnd + 1}: ${what} ${done} of ${of}`;
}

function keep_weights(round, weights) {
  const { cfg, by_round } = training;
  by_round[round] = new AdaptiveDecoder(cfg.choices, cfg.level, weights);
}

const HEARD = {
  begin: ({ weights }) => keep_weights(0, weights),
  column: message => tick(0, "sampling, column", message),
  step: message => tick(1, "update", message),
  round(message) {
    const { rnd, reward, seconds, weights } = message;
    training.rounds.push(message);
    keep_weights(rnd + 1, weights);
    at("train_said").textContent = `After round ${rnd + 1} of ${training.cfg.rounds}: its `
      + `responses earned ${reward.toFixed(3)}, in ${sum(seconds).toFixed(1)} s.`;
    show_curve();
    show_rounds();
  },
  held_out(message) {
    training.held_out[message.when] = message;
    if (message.when === "after") show_before_after();
  },
  end() {
    const seconds = (performance.now() - training.began) / 1000;
    at("progress").value = 1;
    end_training(`Trained in ${seconds.toFixed(0)} s. The decoder can be chosen above, round by `
      + "round: “trained here”.");
    offer_trained();
  },
};

// Lists the trained decoder beside those of the page, in the place of an earlier one
function offer_trained() {
  const { cfg, by_round } = training, was_shown = Boolean(state.source.trained);
  if (sources.at(-1).trained) sources.pop();
  sources.push({
    name: `${set_name(cfg.choices)}, trained here for ${cfg.experiment}`
      + (cfg.shuffled ? ", rewards shuffled" : ""),
    choices: cfg.choices,
    trained: { experiment: cfg.experiment, level: cfg.level, by_round } });
  if (was_shown) state.source = sources.at(-1);
  list_sources();
  if (was_shown) refresh();
}

// --- after each round ----------------------------------------------------------------------------

const their_rounds = () => training.facts.levels[training.cfg.level]?.rounds ?? {};

function show_curve() {
  const { cfg, facts, rounds } = training;
  const ours = rounds.map(({ rnd, reward }) => [rnd, reward]);
  const theirs = Object.entries(their_rounds()).map(([rnd, reward]) => [Number(rnd), reward]);
  at("curve").replaceChildren(chart(
    "Reward by round, here and in PyTorch's run; the table below has the numbers.", cfg.rounds,
    [["here", "here", ours], ["PyTorch's run", "torch", theirs]],
    ["best fixed", "fixed", facts.best_fixed.reward]));
}

// Mean temperature, or the setting drawn most, of K counts
function used(counts, choices) {
  if (!counts) return "–";
  const n = sum(counts), most = argmax(counts);
  if (!choices.every(is_number)) return `${short(choices[most])} ${percent(counts[most] / n)}`;
  return (sum(counts.map((count, k) => count * choices[k])) / n).toFixed(2);
}

function show_rounds() {
  const { cfg, facts, rounds } = training, theirs = their_rounds(), best = facts.best_fixed;
  const what = cfg.choices.every(is_number) ? "mean temperature" : "most drawn";
  const roles = Object.keys(rounds[0].counts).sort();
  const number = x => x?.toFixed(3) ?? "–";
  const rows = rounds.map(({ rnd, reward, pairs, losses, counts, seconds }) => [
    String(rnd + 1), number(reward), number(theirs[rnd]), String(pairs), number(losses.at(-1)),
    ...roles.map(role => used(counts[role], cfg.choices)), sum(seconds).toFixed(1)]);
  const head = ["round", "reward here", "PyTorch's run", "pairs", "last loss",
                ...roles.map(role => `${what}, ${role}`), "seconds"];
  const { prompts, responses } = data.sets[0].training, of_level = facts.levels[cfg.level];
  at("rounds").replaceChildren(
    element("p", { class: "note" }, "A round's reward is that of its training responses, before "
      + `its updates; PyTorch's run has ${prompts} x ${responses} of them. On test prompts the `
      + `best fixed choice, ${full(best.choice)}, earns ${number(best.reward)}, where it was picked`
      + (of_level ? `; PyTorch's trained decoder ${number(of_level.reward)}.` : ".")),
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Rounds" },
            table(null, head, rows)));
}

// --- before and after ----------------------------------------------------------------------------

// The same held-out prompts, drawn with the same random numbers
function show_before_after() {
  const { cfg, held_out } = training, { asked } = held_out.before;
  const of_prompt = (when, p) => held_out[when].responses.slice(p * DRAWS, (p + 1) * DRAWS);
  const [before, after] = ["before", "after"].map(when => (
    written(mean_of(asked.map((_, p) => mean_reward(of_prompt(when, p)))))));
  const card = (when, p) => element(
    "article", {}, element("h3", {}, `${when} training`),
    ...of_prompt(when, p).flatMap(response => [
      ...text_rows(asked[p], response, cfg.choices),
      element("p", { class: "note" }, `reward ${response.reward.toFixed(3)}`)]),
    element("p", { class: "reward" },
            `mean of the four ${mean_reward(of_prompt(when, p)).toFixed(3)}`));
  const names = asked.map(([name]) => name), firsts = [...new Set(names)].map(
    name => names.indexOf(name));
  const shown = firsts.length > 1 ? firsts : [0, 1];  // one prompt of each task, or two of one
  at("before_after").replaceChildren(
    element("h3", {}, "The same held-out prompts and random numbers, before and after"),
    element("p", {}, `Mean reward of ${asked.length} prompts, ${DRAWS} draws each, with its 95 % `
      + `interval over prompts: ${before} before, ${after} after.`),
    ...shown.map(p => element(
      "details", p === shown[0] ? { open: true } : {}, element("summary", {}, asked[p][1]),
      element("div", { class: "pair" }, card("before", p), card("after", p)))));
}
