"""Every rival beside LPO: rules that nobody trains, sampler settings as the latent, other
objectives, heads that see less, noisy rewards, grids of temperatures, best of k.

    python -m results.rivals             3 base models x 5 seeds, one process a core
    python -m results.rivals --quick     all of it in small, two of the experiments

Rows go to rivals.json in the main job's folder, whose base models, fixed temperatures and oracle it
shares; what is finished is kept and reused. Rules, rates, betas and the two sets of settings are
picked on validation prompts; every number of a row is of test prompts, the same for all.
"""
import argparse
import itertools
import math
import os
import sys
import time
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from decoder import choice_name
from results.objectives import OBJECTIVES, SEEN, Recipe, respond_by, train_head
from results.rules import RULES, respond_by_rule, rule_name
from results.sweeps import LEVEL, pool_of
from tasks import EXPERIMENTS
from toy import options
from toy.evaluate import (draw_prompts, is_voted, measure_fixed, respond, search_oracle,
                          temperature_rows, test_set, vote_accuracy)
from toy.intervals import resampled
from toy.pretrain import base_model
from toy.rows import to_json
from toy.samplers import choice_of, label
from toy.stages import Job, Silent, Stages, code_of, program, randomness, write
from train_toy import stage_keys

TUNING_SEED = 100  # of decoders that only pick something; none of the reported ones
RATES = (1e-3, 2e-3, 4e-3)
COUNTS = (1, 2, 4, 8, 16, 32)  # k of best of k
SETS = {  # of which two are picked; each has greedy decoding in it
    "typical and cuts": "0 typical_p=.5@.6 epsilon_cutoff=.02@3 epsilon_cutoff=.05@3 "
                        "top_nsigma=.5@3 min_p=.05@3 1",
    "min-p": "0 min_p=.05@.6 min_p=.05 min_p=.05@2 min_p=.05@5 min_p=.3@2",
    "top-p": "0 top_p=.3 top_p=.5 top_p=.7 top_p=.9 1",
    "one of each": "0 .6 1 min_p=.05@3 top_nsigma=1.5@3 top_p=.9@2"}
SETS = {name: tuple(label(choice_of(text)) for text in texts.split())
        for name, texts in SETS.items()}
NOISES = ("", "flip 0.1", "flip 0.2", "flip 0.4", "spread 1", "spread 3")
NOISY_OBJECTIVES = ("latent", "separate, decoder reference", "REINFORCE",
                    "marginal policy gradient")
JUDGED = ("constrained", "vote")  # experiments of noisy rewards and of best of k
MAIN = ("reward", "majority of 8")
RECIPE = dict(prompts=80, test_samples=4)  # a round's, and of a test prompt; else the main job's
GRIDS = {2: 1.2, 4: 0.4, 13: 0.1, 25: 0.05}  # how many temperatures from 0 to 1.2, their distance
HIDDEN = "hidden state"
FIXED, ORACLE, LATENT = "best fixed temperature", "oracle over temperatures", "latent, temperatures"


# --- what there is to do --------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """A head, trained and measured."""
    experiment: str
    recipe: Recipe
    lr: float
    knob: float          # beta, or updates a round
    base_seed: int = 0
    seed: int = TUNING_SEED
    split: str = "validation"


@dataclass(frozen=True)
class Tuning:
    """A rule's whole grid on validation prompts, what is best there on test prompts."""
    experiment: str
    rule: str
    base_seed: int


@dataclass(frozen=True)
class Search:
    """The oracle over a set of settings, and the best single one of them."""
    experiment: str
    choices: tuple
    base_seed: int


def prompts_of(cfg, experiment, split):
    """The prompts that all are measured on, and the samples of each."""
    asked, _ = test_set(cfg, experiment)
    if split == "validation":
        _, rng = randomness("cpu", "rivals", experiment)
        asked = draw_prompts(experiment, "validation", cfg.oracle_prompts, rng)
    return asked


def samples_of(cfg, experiment, split):
    if split == "validation":
        return 4
    return max(COUNTS) if experiment in JUDGED else cfg.test_samples


def measured(outcome):
    """What is kept of an outcome, by prompt: (P,) each.  -> {metric: numbers}"""
    voted = is_voted([name for name, _ in outcome.asked]) and outcome.rewards.shape[1] >= 8
    return by_prompt(outcome.rewards, vote_accuracy(outcome, 8) if voted else None)


def by_prompt(rewards, majority):
    """From rewards (P,S), and a majority (P,) if there is one.  -> {metric: numbers (P,)}"""
    found = {"reward": rewards.mean(1)}
    if majority is not None:
        found["majority of 8"] = majority
    if rewards.shape[1] >= max(COUNTS):
        found |= {f"best of {k}": best_of(rewards, k) for k in COUNTS}
    return {metric: torch.as_tensor(values) for metric, values in found.items()}


def best_of(rewards, k):
    """The expected largest of k of S samples, without an assumption.  (P,S) -> (P,)"""
    S = rewards.shape[1]
    largest = [math.comb(i, k - 1) / math.comb(S, k) for i in range(S)]  # is the i-th, ascending
    return np.sort(rewards, 1) @ np.array(largest)


# --- doing it -------------------------------------------------------------------------------------


def training(cfg, base, work):
    seeds = "rivals", work.experiment, work.base_seed, work.seed
    level = LEVEL[work.experiment]
    model, head, curve, seconds = train_head(cfg, base, work.experiment, level, work.recipe,
                                             work.lr, work.knob, seeds)
    gen, _ = randomness("cpu", "measure", *seeds)
    asked = prompts_of(cfg, work.experiment, work.split)
    outcome = respond_by(model, head, asked, samples_of(cfg, work.experiment, work.split), gen)
    shares = []
    if work.recipe.choices and outcome.rollout.tau_idx is not None:
        shares = [row for row in temperature_rows(outcome, work.recipe.choices)
                  if row["metric"] == "temperature_share"]
    return dict(values=measured(outcome), curve=[float(x) for x in curve], seconds=seconds,
                shares=shares)


def tuning(cfg, base, work):
    """By the mean reward, and where answers are voted on by the majority of 8 too."""
    gen, _ = randomness("cpu", "rules", work.experiment, work.base_seed, work.rule)
    asked = prompts_of(cfg, work.experiment, "validation")
    samples = 8 if is_voted(EXPERIMENTS[work.experiment]) else 4
    tried = [measured(respond_by_rule(base, asked, samples, gen, rule))
             for rule in RULES[work.rule]]
    asked = prompts_of(cfg, work.experiment, "test")
    values, picked = {}, {}
    for metric in tried[0]:
        means = [of_rule[metric].mean().item() for of_rule in tried]
        rule = RULES[work.rule][int(np.argmax(means))]
        found = measured(respond_by_rule(
            base, asked, samples_of(cfg, work.experiment, "test"), gen, rule))
        values |= {name: x for name, x in found.items()
                   if name == metric or metric == "reward" and name not in tried[0]}
        picked[metric] = dict(rule=rule_name(rule), value=max(means))
    return dict(values=values, picked=picked)


def search(cfg, base, work):
    gen, _ = randomness("cpu", "search", work.experiment, work.base_seed)
    asked = prompts_of(cfg, work.experiment, "validation")
    choices = [choice_of(text) for text in work.choices]
    tables = search_oracle(base, asked, choices, 4, gen)
    means = [respond(base, asked, 4, gen, temperature=choice).rewards.mean() for choice in choices]
    best = choices[int(np.argmax(means))]
    asked = prompts_of(cfg, work.experiment, "test")
    samples = samples_of(cfg, work.experiment, "test")
    of_roles = respond(base, asked, samples, gen, temperature=[tables[name] for name, _ in asked])
    return dict(oracle=measured(of_roles),
                single=measured(respond(base, asked, samples, gen, temperature=best)))


def fixed(cfg, base, work):
    """The main job's seven temperatures and its oracle, with more samples where they are asked."""
    cfg = replace(cfg, test_samples=samples_of(cfg, work.experiment, "test"),
                  votes=samples_of(cfg, work.experiment, "test"))
    found = measure_fixed(cfg, base, work, Silent())

    def numbers(scores):
        votes = scores.get("vote_accuracy@8")  # (P,1)
        return by_prompt(scores["reward"].numpy(), None if votes is None else votes[:, 0])
    return dict(fixed=[numbers(scores) for scores in found["fixed"].values()],
                oracle=numbers(found["oracle"]))


DO = {Training: training, Tuning: tuning, Search: search, Job: fixed}


def do(given):
    """One piece of work, in a process of its own.  -> the work, its result, its stages"""
    cfg, work = given
    torch.set_num_threads(1)
    name = f"rivals-{zlib.crc32(repr(work).encode()):08x}"
    run = Stages(cfg.out, {f"base{work.base_seed}": 1, name: 1})
    run.say = run.tick = lambda *_: None  # many at once
    base = base_model(cfg, work.base_seed, run)
    if work == Job(work.base_seed):
        return work, None, run.finished
    _, of_adaptive = stage_keys(cfg)
    compute = DO[type(work)]
    key = [of_adaptive, repr(work), code_of("results/objectives.py", "results/rules.py",
                                            compute, measured, by_prompt, best_of, prompts_of,
                                            samples_of)]
    return work, run(name, key, lambda: compute(cfg, base, work)), run.finished


class Workers:
    """A pool, what it has found, and a line that says how far it is."""

    def __init__(self, cfg, workers):
        self.cfg = cfg
        self.stages, self.began = {}, time.monotonic()
        self.pool = pool_of(workers)

    def __call__(self, what, works):
        """-> {work: its result}"""
        works, found = list(dict.fromkeys(works)), {}
        for work, result, stages in self.pool.imap_unordered(
                do, [(self.cfg, work) for work in works]):
            found[work] = result
            self.stages |= stages
            done = len(found) == len(works)
            if done or sys.stderr.isatty():
                print(f"\r{what}: {len(found)}/{len(works)}, {time.monotonic() - self.began:.0f} s",
                      end="\n" if done else " ", file=sys.stderr)
        return found


# --- the plan -------------------------------------------------------------------------------------


def recipes(cfg, sets):
    """{section: {label: recipe}} of all that is trained for the test prompts."""
    latent = Recipe(choices=cfg.choices)
    grids = {K: tuple(round(step * k, 3) for k in range(K)) for K, step in GRIDS.items()}
    return {
        "settings": {
            LATENT: latent,
            **{f"latent, {name}": replace(latent, choices=SETS[name]) for name in sets},
            **{f"no context, {name}": replace(latent, choices=SETS[name], sees="nothing")
               for name in sets}},
        "objectives": {name: replace(latent, objective=name) for name in OBJECTIVES},
        "controls": {
            **{sees: replace(latent, sees=sees) for sees in (*SEEN, HIDDEN)},
            "nothing, REINFORCE": replace(latent, sees="nothing", objective="REINFORCE")},
        "noise": {f"{name}; {noise}": replace(latent, objective=name, noise=noise)
                  for name in NOISY_OBJECTIVES for noise in NOISES},
        "grid": {**{f"K = {K}": replace(latent, choices=grid) for K, grid in grids.items()},
                 f"K = {len(cfg.choices)}": latent,
                 "K infinite": replace(latent, objective="continuous, DPO")}}


def makes_sense(section, experiment, recipe):
    """Some recipes are for one level, or for some experiments, alone."""
    if section == "noise" and experiment not in JUDGED:
        return False
    if recipe.objective == "latent, exact sequence":
        return LEVEL[experiment] == "sequence"
    return recipe.sees != "task label" or len(EXPERIMENTS[experiment]) > 1


def tries(cfg, experiments, quick):
    """Each objective's search of rate and knob, equally large, on the first base model."""
    for experiment, name in itertools.product(experiments, OBJECTIVES):
        recipe = Recipe(name, cfg.choices)
        if makes_sense("objectives", experiment, recipe):
            grid = list(itertools.product(RATES, OBJECTIVES[name].knob[1]))
            for lr, knob in grid[:1] if quick else grid:
                yield Training(experiment, recipe, lr, knob)


def control_tries(cfg, experiments, best):
    """The rates again for heads that see less, whose inputs are smaller or larger numbers."""
    for experiment, recipe in itertools.product(experiments, recipes(cfg, ())["controls"].values()):
        if recipe.sees != HIDDEN and makes_sense("controls", experiment, recipe):
            _, like = best[experiment, recipe.objective, HIDDEN]
            for lr in RATES:
                yield replace(like, recipe=recipe, lr=lr)


def validated(result):
    return result["values"]["reward"].mean().item()


def best_tries(found):
    """Of the tries of each objective and input on an experiment the best.  -> {(experiment,
    objective, what the head sees): (its validation reward, the training)}"""
    best = {}
    for tried, result in found.items():
        name = tried.experiment, tried.recipe.objective, tried.recipe.sees
        if name not in best or validated(result) > best[name][0]:
            best[name] = validated(result), tried
    return best


def picked_sets(found):
    """The two sets of the highest mean reward over the experiments.  -> names, means of all"""
    means = {name: np.mean([validated(result) for work, result in found.items()
                            if work.recipe.choices == choices]) for name, choices in SETS.items()}
    return sorted(means, key=means.get, reverse=True)[:2], means


def final(cfg, experiments, sets, best):
    """What is trained to be reported.

    -> {(section, experiment, label): trainings, a list for each base model}
    """
    plan = {}
    for section, of_section in recipes(cfg, sets).items():
        for (method, recipe), experiment in itertools.product(of_section.items(), experiments):
            if makes_sense(section, experiment, recipe):
                _, like = best[experiment, recipe.objective, recipe.sees]
                plan[section, experiment, method] = [
                    [Training(experiment, recipe, like.lr, like.knob, b, seed, "test")
                     for seed in range(cfg.seeds)] for b in range(cfg.base_seeds)]
    return plan


# --- rows -----------------------------------------------------------------------------------------


def stacked(of_runs):
    """Numbers of runs, [[{metric: (P,)} of seeds] of base models] -> {metric: (D,S,P)}"""
    return {metric: np.array([[numbers[metric].numpy() for numbers in seeds] for seeds in of_runs])
            for metric in of_runs[0][0]}


def best_fixed(of_choices):
    """On each metric the one temperature of highest mean on these very prompts, which favours it.

    [{metric: (P,)} of temperatures] -> {metric: (P,)}
    """
    return {metric: max((numbers[metric] for numbers in of_choices),
                        key=lambda values: values.mean().item()) for metric in of_choices[0]}


class Table:
    """Rows: means, differences and shares of the headroom, with intervals by the paired bootstrap.

    numbers: {(experiment, method): {metric: (D,S,P)}}, S = 1 where no seed matters.
    """

    def __init__(self, cfg, numbers):
        self.cfg = cfg
        self.numbers = numbers
        self.means = {}  # experiment -> its resamples
        self.rows = []

    def add(self, section, experiment, method, metric, minus=None, share=False):
        def of(name):
            values = self.numbers[experiment, name][metric]
            return np.array([values.mean(), *means(values)])  # the mean, then its resamples
        P = self.numbers[experiment, method][metric].shape[2]
        if experiment not in self.means:  # the same for all: paired
            _, rng = randomness("cpu", "rival intervals", experiment)
            self.means[experiment] = resampled(self.cfg.base_seeds, self.cfg.seeds, P, rng)
        means = self.means[experiment]
        found = of(method)
        if minus is not None:
            found = found - of(minus)
        if share:
            headroom = of(ORACLE) - of(FIXED)
            if not (headroom > 0).all():
                return  # a share of what may be nothing says nothing
            found = (found if minus is not None else found - of(FIXED)) / headroom
        low, high = np.quantile(found[1:], (0.025, 0.975))
        self.rows.append(dict(section=section, experiment=experiment, method=method, minus=minus,
                              metric=metric, share=share, value=found[0], low=low, high=high))

    def both(self, section, experiment, method, minus=None):
        """Of a method's reward and of its majority of 8: the value, and its share."""
        for metric in self.mains(experiment):
            self.add(section, experiment, method, metric, minus)
            self.add(section, experiment, method, metric, minus, share=True)

    def mains(self, experiment):
        return [metric for metric in MAIN if metric in self.numbers[experiment, LATENT]]

    def best(self, experiment, metric, methods):
        """The one of highest mean on the test prompts, which favours it."""
        return max(methods, key=lambda name: self.numbers[experiment, name][metric].mean())


def table_rows(cfg, numbers, plan, experiments, sets):
    """Every mean, difference and share that the page asks for."""
    table = Table(cfg, numbers)
    for experiment in experiments:
        for method in (FIXED, ORACLE, *RULES):
            table.both("rules", experiment, method)
        for name in sets:
            for kind in ("oracle", "best single"):
                table.both("settings", experiment, f"{kind}, {name}")
    for section, experiment, method in plan:
        table.both(section, experiment, method)
        if section == "objectives" and method != "latent":
            table.both(section, experiment, "latent", minus=method)
    for experiment in experiments:
        for metric in table.mains(experiment):
            rule = table.best(experiment, metric, RULES)
            for method in (LATENT, *(f"latent, {name}" for name in sets)):
                table.add("best rule", experiment, method, metric, minus=rule)
                if method != LATENT:
                    table.add("settings", experiment, method, metric, minus=LATENT)
        for metric in numbers[experiment, LATENT]:
            if metric.startswith("best of"):
                for method in (FIXED, table.best(experiment, metric, RULES), LATENT,
                               *(f"latent, {name}" for name in sets)):
                    table.add("best of k", experiment, method, metric)
    return table.rows


def run_rows(plan, found):
    """Of the trained: shares of choices by task and role, reward by round, seconds of a round."""
    for (section, experiment, method), works in plan.items():
        results = [found[work] for seeds in works for work in seeds]
        of = dict(section=section, experiment=experiment, method=method)
        if section in ("objectives", "noise"):
            for rnd, rewards in enumerate(zip(*(result["curve"] for result in results)), 1):
                yield of | dict(metric="round reward", round=rnd, value=float(np.mean(rewards)),
                                deviation=float(np.std(rewards)))
        if section == "objectives":
            for i, what in enumerate(("sampling", "learning")):
                seconds = [result["seconds"][i] for result in results]
                yield of | dict(metric=f"seconds of {what}", value=float(np.median(seconds)))
        if section == "settings":
            shares = {}
            for share in (share for result in results for share in result["shares"]):
                key = share["subtask"], share["role"], share["tau"]
                shares.setdefault(key, []).append(share["value"])
            for (subtask, role, choice), values in shares.items():
                yield of | dict(metric="choice share", subtask=subtask, role=role, choice=choice,
                                value=sum(values) / len(results))


def picked_rows(best, rules, means):
    """What validation prompts decided."""
    for (experiment, objective, sees), (value, work) in best.items():
        yield dict(section="picked", experiment=experiment, method=objective, sees=sees,
                   value=value, lr=work.lr, knob=work.knob)
    for work, result in rules.items():
        for metric, of in result["picked"].items():
            yield dict(section="picked", experiment=work.experiment, method=work.rule,
                       base_seed=work.base_seed, metric=metric, choice=of["rule"],
                       value=of["value"])
    for name, mean in means.items():
        yield dict(section="picked", method=name, value=mean,
                   choice=", ".join(choice_name(choice_of(text)) for text in SETS[name]))


# --- the program ----------------------------------------------------------------------------------


def config(arguments):
    """The main job's, with a smaller round and fewer samples of a test prompt.  -> Config"""
    given = dict(device="cpu", base_seeds=arguments.base_seeds, seeds=arguments.seeds, **RECIPE)
    if arguments.quick:
        given = options.QUICK | dict(device="cpu")
    folder = arguments.out or given.get("out", "out")
    return options.checked(replace(options.Config(), **given | dict(out=folder)))


def numbers_of(cfg, fixed, rules, searches, plan, trained):
    """What every method earns.  -> {(experiment, method): {metric: (D,S,P)}}"""
    bases = range(cfg.base_seeds)
    experiments = dict.fromkeys(experiment for _, experiment, _ in plan)
    numbers = {(experiment, method): stacked([[trained[w]["values"] for w in seeds]
                                              for seeds in works])
               for (_, experiment, method), works in plan.items()}
    for e in experiments:
        numbers[e, FIXED] = stacked([[best_fixed(fixed[Job(b, e)]["fixed"])] for b in bases])
        numbers[e, ORACLE] = stacked([[fixed[Job(b, e)]["oracle"]] for b in bases])
        for rule in RULES:
            numbers[e, rule] = stacked([[rules[Tuning(e, rule, b)]["values"]] for b in bases])
    for (e, name), of_bases in searches.items():
        for kind, title in (("oracle", "oracle"), ("single", "best single")):
            numbers[e, f"{title}, {name}"] = stacked([[found[kind]] for found in of_bases])
    return numbers


def main(arguments):
    cfg = config(arguments)
    experiments = ("mix", "vote") if arguments.quick else tuple(EXPERIMENTS)
    bases = range(cfg.base_seeds)
    work = Workers(cfg, arguments.workers)

    # what is there before any head, then what validation prompts decide
    work("base models", [Job(b) for b in bases])
    fixed = work("fixed temperatures", [Job(b, e) for e in experiments for b in bases])
    rules = work("rules", [Tuning(e, rule, b) for rule in reversed(RULES) for e in experiments
                           for b in bases])
    best = best_tries(work("rates and knobs", tries(cfg, experiments, arguments.quick)))
    best |= best_tries(work("rates of the controls", control_tries(cfg, experiments, best)))
    of_sets = work("sets of settings", [
        replace(best[e, "latent", HIDDEN][1], recipe=Recipe(choices=choices))
        for choices in SETS.values() for e in experiments])
    sets, means = picked_sets(of_sets)

    # what is reported
    plan = final(cfg, experiments, sets, best)
    trained = work("heads", [w for works in plan.values() for seeds in works for w in seeds])
    found = work("oracles over settings", [Search(e, SETS[name], b) for name in sets
                                           for e in experiments for b in bases])
    searches = {(e, name): [found[Search(e, SETS[name], b)] for b in bases]
                for e in experiments for name in sets}
    numbers = numbers_of(cfg, fixed, rules, searches, plan, trained)
    rows = [*table_rows(cfg, numbers, plan, experiments, sets), *run_rows(plan, trained),
            *picked_rows(best, rules, means)]
    of = dict(sets={name: SETS[name] for name in sets}, experiments=experiments)
    results = dict(config=asdict(cfg) | of, stages=dict(sorted(work.stages.items())), rows=rows)
    write(Path(cfg.out) / "rivals.json", to_json(results))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-seeds", type=int, default=3, help="base models (%(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="heads on each (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="all of it in small, into out/quick")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="(%(default)s here)")
    parser.add_argument("--out", help="folder, as the main job's (out, with --quick out/quick)")
    with program():
        main(parser.parse_args())
