// "Train it here": several runs, each in a worker of its own, beside each other in a chart and a
// table; their decoders join those of the page.
"use strict";

const MOST_RUNS = 24;  // beside each other
const AT_ONCE = Math.min(Math.max((navigator.hardwareConcurrency ?? 2) - 1, 1), 4);
const SHUFFLED = "#AA4499";  // a colour that no policy has

// Runs that differ in seed and control alone, finished ones too, and those that are still to start.
// A run: {cfg, source, fraction, rewards, held_out, by_round, helper: its worker or null}
let runs = [], queue = [], settings = null, began = 0, is_shown = false;

function listen_to_training() {
  set_options("train_level", Object.entries(TEXTS.levels), "token");
  by_id("train").addEventListener("click", start_training);
  by_id("stop").addEventListener("click", () => is_training() && end_training("Stopped."));
  by_id("shuffled").addEventListener("change", () => {  // one run of the control shows nothing
    const [one] = by_id("train_runs").options;
    one.disabled = by_id("shuffled").checked;
    if (one.disabled && one.selected) by_id("train_runs").value = 3;
  });
}

const is_training = () => runs.some(({ helper }) => helper);

function start_training() {
  if (is_training()) return;
  const { experiment, source } = state, shuffled = by_id("shuffled").checked;
  const [prompts, responses] = by_id("train_size").value.split(" ").map(Number);
  const { choices } = source, level = by_id("train_level").value;
  const cfg = { ...source.training, experiment, level, choices, prompts, responses };
  const n = Number(by_id("train_runs").value);
  if (settings !== JSON.stringify(cfg) || runs.length + n > MOST_RUNS) {  // begin anew
    runs = [];
    sources.splice(data.sets.length);
    state.source = sources.find(of => of.choices === choices);
    refresh();
  }
  settings = JSON.stringify(cfg);
  const alike = runs.filter(run => run.cfg.shuffled === shuffled);
  const first = Math.max(state.seed, ...alike.map(run => run.cfg.seed + 1));
  for (let seed = first; seed < first + n; seed++) {
    queue.push({ cfg: { ...cfg, seed, shuffled }, source, fraction: 0, rewards: [], held_out: {},
                 by_round: [], helper: null });
  }
  [began, is_shown] = [performance.now(), false];
  for (let i = 0; i < AT_ONCE; i++) start_run();
  set_training(true, `Training has begun: ${n} run${n > 1 ? "s" : ""}.`);
}

function start_run() {
  const run = queue.shift();
  if (!run) return;
  run.helper = new_worker();
  run.helper.onmessage = ({ data: message }) => HEARD[message.kind](run, message);
  run.helper.postMessage({ kind: "train", cfg: run.cfg });
  runs.push(run);
}

function set_training(is_on, text) {
  by_id("train").setAttribute("aria-disabled", is_on);  // unlike disabled, it keeps the focus
  by_id("stop").setAttribute("aria-disabled", !is_on);
  show("train_said", text);
  say(text);
}

function end_training(text) {
  queue = [];
  for (const run of runs) end_run(run);
  set_training(false, text);
}

// A run that ended, or was stopped after a round or more, can be chosen above; the first is shown
function end_run(run) {
  if (!run.helper) return;
  run.helper.terminate();
  run.helper = null;
  const { cfg, by_round } = run;
  if (!run.rewards.length) return;
  sources.push({ ...run.source, experiment: cfg.experiment,
                 name: `trained here, seed ${cfg.seed}${cfg.shuffled ? ", scores shuffled" : ""}`,
                 decoders: { [`${cfg.experiment} ${cfg.level}`]: by_round } });
  if (state.experiment === cfg.experiment && !is_shown) {
    Object.assign(state, { source: sources.at(-1), level: cfg.level, round: null });
  }
  is_shown = true;
  refresh();
}

// --- what a worker says --------------------------------------------------------------------------

const HEARD = {
  weights({ cfg, by_round }, { weights }) {  // before training, and after each round
    by_round.push(new AdaptiveDecoder(cfg.choices, cfg.level, weights));
  },
  tick(run, { fraction }) {
    run.fraction = fraction;
    const busy = runs.filter(({ helper }) => helper), done = sum(busy.map(of => of.fraction));
    by_id("progress").value = done / (busy.length + queue.length);
  },
  held_out: (run, { when, reward }) => { run.held_out[when] = reward; },
  round(run, { reward }) {
    run.rewards.push(reward);
    show_runs(run.cfg);
  },
  end(run) {
    end_run(run);
    start_run();
    show_runs(run.cfg);
    if (is_training()) return;
    by_id("progress").value = 1;
    const seconds = ((performance.now() - began) / 1000).toFixed(0);
    end_training(`Trained in ${seconds} s. See at the top what was learned, round by round.`);
  },
};

// --- what is shown -------------------------------------------------------------------------------

const number = x => x?.toFixed(3) ?? "–";

function show_runs({ experiment, level, rounds }) {
  const { best_fixed, levels } = runs[0].source.facts[experiment], colour = `var(--${level})`;
  const kind = ({ cfg }) => (cfg.shuffled ? "shuffled scores" : "true scores");
  const theirs = levels[level]?.rounds ?? [], all = Array.from({ length: rounds });
  const series = runs.map(run => ({ name: kind(run), rewards: run.rewards, ...(
    run.cfg.shuffled ? { colour: SHUFFLED, dash: "3 3" } : { colour }) }));
  series.push({ name: "PyTorch's run", width: 5, rewards: theirs,
                colour: `color-mix(in srgb, ${colour} 40%, var(--paper))` },
              { name: "best fixed", colour: "var(--fixed)", dash: "6 4",
                rewards: all.map(() => best_fixed.reward) });
  by_id("curve").innerHTML = chart("Mean score of each round; the table has the numbers.", rounds,
                                   series);
  const rows = runs.map(run => [
    `seed ${run.cfg.seed}`, kind(run), number(run.held_out.before), number(run.held_out.after),
    ...all.map((_, rnd) => number(run.rewards[rnd]))]);
  rows.push(["PyTorch", "true scores", "–", "–", ...all.map((_, rnd) => number(theirs[rnd]))]);
  const head = ["run", "trained on", "before", "after", ...all.map((_, rnd) => `round ${rnd + 1}`)];
  by_id("runs").replaceChildren(table(
    "Mean scores on held-out prompts before and after training, and on each round's own prompts",
    head, rows));
  show("spread", spread(false) + spread(true));
}

// Where the runs with true or with shuffled scores end
function spread(shuffled) {
  const ends = runs.filter(({ cfg, held_out }) => cfg.shuffled === shuffled && "after" in held_out)
    .map(({ held_out }) => held_out.after).sort((a, b) => a - b);
  if (!ends.length) return "";
  const where = ends.length === 1 ? `the run ends at ${ends[0].toFixed(2)}`
    : `${ends.length} runs end between ${ends[0].toFixed(2)} and ${ends.at(-1).toFixed(2)}`;
  return shuffled ? `With shuffled scores ${where}: these can only drift, up or down, by chance.`
    : `With true scores ${where} on held-out prompts. `;
}
