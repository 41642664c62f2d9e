"""What the study computes: every cell, in the order of importance.

A recipe is tuned on validation prompts of base models that are not reported: nine rates and knobs
at first, then the neighbours of the best, until it has no untried one, so that none lies at the
edge. What depends on a recipe follows when it is known.
"""
import functools
import gzip
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from results.cells import MODE, name_of
from results.methods import (CANDIDATES, FINER, LEVEL, OBJECTIVES, RULES, SEES, SETS, WITH_MEMORY,
                             WITHOUT_MEMORY, OfText)
from tasks import EXPERIMENTS
from toy.options import option

MAIN = ("main", "levels", "objectives", "controls", "finer")  # on all base models
PARTS = (*MAIN, "modes", "sweeps", "betas")
ORDER = ("repeats", "constrained", "mix", "vote")  # the longest cells come first
TUNING_SEED = 100  # of the first base model on which recipes are tuned
MODES = (0.3, 0.5, 0.6)
LPO, MEMORY, PICKED = "LPO, temperatures", "LPO, memory", "LPO, picked with memory"


@dataclass(frozen=True)
class Study:
    parts: tuple = option(PARTS, "what to compute or publish", choices=PARTS)
    experiments: tuple = option(ORDER, "on which tasks", choices=ORDER)
    bases: int = option(10, "base models")
    few: int = option(3, "base models of sweeps and modes")
    decoders: int = option(3, "decoders of LPO on each base model")
    rival_decoders: int = option(2, "decoders of rivals and controls")
    tuning_bases: int = option(2, "base models on which recipes are tuned")
    tries: int = option(16, "most tries of a recipe, if the best one keeps moving")
    thin: int = option(1, "take one in n of the rules' settings")
    brief: bool = option(False, "take the first value of each sweep")
    workers: int = option(os.cpu_count(), "processes")
    minutes: float = option(1e6, "start no cell after so many minutes")
    plan: bool = option(False, "print what is left to do, and stop")
    publish: bool = option(False, "write data, tables and figures of the pages")
    pack: str = option("", "start of the names of archives with all that is finished")
    commit: str = option("", "of this code, where there is no .git (or STUDY_COMMIT)")
    out: str = option("out/study", "folder of cells and base models")
    pretrain_steps: int = option(1600, "updates of a base model")
    prompts: int = option(120, "training prompts per round")
    rounds: int = option(6, "rounds of training")
    test_prompts: int = option(240, "test prompts per experiment")
    test_samples: int = option(8, "responses per test prompt")
    oracle_prompts: int = option(192, "validation prompts per experiment")


QUICK = dict(experiments=("mix", "vote"), bases=2, few=2, decoders=1, rival_decoders=1,
             tuning_bases=1, tries=1, thin=80, brief=True, pretrain_steps=30, prompts=9, rounds=1,
             test_prompts=6, test_samples=4, oracle_prompts=6, out="out/quick/study")
SIZES = ("pretrain_steps", "prompts", "rounds", "test_prompts", "test_samples", "oracle_prompts")


def next_tries(values, most, wide=1):
    """The lattice points to try next, given {point: validation reward}; none: the best is inside.

    A point (i,j) is a rate of 0.002 * 2^i and a beta of 0.5 * 3^j, or 20 * 2^j updates per round.
    With `wide` 0 only the rate varies.
    """
    square = [(i, j) for i in (0, -1, 1) for j in (0, -wide, wide)[:1 + 2 * wide]][:most]
    missing = [point for point in square if point not in values]
    if missing or len(values) >= most:
        return missing
    i, j = max(values, key=values.get)
    return [point for point in ((i + 1, j), (i - 1, j), (i, j + wide), (i, j - wide))
            if point not in values]


def setting_of(knob, point):
    i, j = point
    return {"lr": 2e-3 * 2.0 ** i, knob: 0.5 * 3.0 ** j if knob == "beta" else round(20 * 2.0 ** j)}


# {name: what it changes} of all that is tuned; joint has the gradient of separate, whose recipe
# it shares, as long as the language model is frozen
SEARCHES = {name: dict(objective=name) for name in OBJECTIVES if name != "joint"}
SEARCHES |= {f"sees {sees}": dict(sees=sees) for sees in SEES}


def makes_sense(experiment, how, level):
    if how.get("objective") == "latent_exact":
        return level == "sequence"
    return how.get("sees") != "task label" or len(EXPERIMENTS[experiment]) > 1


class Plan:
    """value_of(cell): its mean reward, None if it is not finished. guess: take unfinished searches
    for finished, with the main job's recipe, to count cells."""

    def __init__(self, study, value_of, guess=False):
        self.study = study
        self.value_of = value_of
        self.guess = guess
        self.tried = {}   # (search, experiment) -> {point: validation reward}
        self.picked = {}  # candidate set -> mean validation reward
        self.found = {}   # what can be computed now: file -> cell
        for part in study.parts:
            self.part = part
            getattr(self, part)()

    def add(self, experiment, method, base_seed, how, **given):
        """A cell, with everything that its result depends on."""
        study = self.study
        cell = dict(part=self.part, experiment=experiment, level=LEVEL[experiment], method=method,
                    option="", base_seed=base_seed, seed=0, mode=MODE, split="test", do="train",
                    how={name: getattr(study, name) for name in SIZES} | how, families=[],
                    subtask="", thin=study.thin, every_round=False, detail=False)
        cell = json.loads(json.dumps(cell | given))  # as it is read from its file
        self.found[name_of(cell)] = cell
        return cell

    def validated(self, experiment, method, how, **given):
        """The mean validation reward on the tuning base models, None if it is not known yet."""
        part = "controls" if "sees" in how else "objectives"
        if how.get("objective", "latent") == "latent" and "sees" not in how:
            part = "main"
        values = [self.value_of(self.add(experiment, method, TUNING_SEED + b, how, part=part,
                                         split="validation", **given))
                  for b in range(self.study.tuning_bases)]
        return None if None in values else float(np.mean(values))

    def recipe(self, name, experiment):
        """The best rate and knob of a search, None if it is not finished."""
        how = SEARCHES[name]
        knob = OBJECTIVES[how.get("objective", "latent")].knob
        values = self.tried.setdefault((name, experiment), {})
        wide = int("sees" not in how)  # a control has the beta of LPO
        while points := next_tries(values, self.study.tries, wide):
            found = {point: self.validated(experiment, name, how | setting_of(knob, point),
                                           option="try {} {}".format(*point)) for point in points}
            if None in found.values():
                return setting_of(knob, (0, 0)) if self.guess else None
            values |= found
        return setting_of(knob, max(values, key=values.get))

    def candidate(self):
        """The set with memory that is best on validation prompts, None if that is not known yet."""
        for name, choices in CANDIDATES.items():
            values = [self.validated(e, f"candidate {name}", best | dict(choices=choices))
                      if (best := self.recipe("latent", e)) else None
                      for e in self.study.experiments]
            self.picked[name] = None if None in values else np.mean(values)
        if None in self.picked.values():
            return next(iter(CANDIDATES)) if self.guess else None
        return max(self.picked, key=self.picked.get)

    def on_bases(self, method, how=None, experiments=ORDER, bases=0, seeds=1, tuned="", level="",
                 **given):
        """A method's cells on all base models, unless its recipe is not known yet."""
        how = how or {}
        for seed in range(seeds):
            for experiment in ORDER:
                at = level or LEVEL[experiment]
                if (experiment not in experiments or experiment not in self.study.experiments
                        or not makes_sense(experiment, how, at)):
                    continue
                best = self.recipe(tuned, experiment) if tuned else {}
                for base in range(0 if best is None else bases or self.study.bases):
                    self.add(experiment, method, base, best | how, seed=seed, level=at, **given)

    def main(self):
        study = self.study
        picked = self.candidate()
        sets = {f"LPO, {name}": choices for name, choices in SETS.items()}
        if picked:
            sets[PICKED] = CANDIDATES[picked]
        first = [name for name in (LPO, MEMORY, PICKED) if name in sets]
        latent = dict(tuned="latent", seeds=study.decoders, detail=True)
        self.on_bases("fixed temperature", do="fixed")
        for method in first:
            self.on_bases(method, dict(choices=sets[method]), **latent)
        for method in first:
            self.on_bases(method.replace("LPO", "oracle"), dict(choices=sets[method]), do="oracle",
                          detail=method == LPO)
        for family in (*WITH_MEMORY, *WITHOUT_MEMORY):
            self.on_bases(family, do="rule", families=[family])
        for name in EXPERIMENTS["mix"]:
            self.on_bases("rule per subtask", do="rule", families=list(RULES), subtask=name,
                          experiments=["mix"], thin=3 * study.thin)
        self.on_bases("oracle by kind of prompt", do="kinds", level="sequence")
        for method in [name for name in sets if name not in first]:
            self.on_bases(method, dict(choices=sets[method]), **latent)
            self.on_bases(method.replace("LPO", "oracle"), dict(choices=sets[method]), do="oracle")

    def levels(self):
        """The other level, and a sequence level that reads the mean state of the prompt."""
        latent = dict(tuned="latent", seeds=self.study.rival_decoders)
        for name in ("temperatures", "memory"):
            self.on_bases(f"LPO, {name}", dict(choices=SETS[name]), ["mix"], level="token",
                          detail=True, **latent)
        self.on_bases(LPO, dict(choices=SETS["temperatures"]),
                      [e for e in ORDER if LEVEL[e] == "token"], level="sequence", **latent)
        for sees in ("mean state", "hidden state"):
            how = dict(objective="latent_exact", sees=sees, floor=0.2,
                       prompts=2 * self.study.prompts, steps=60)
            self.on_bases(f"sequence level, {sees}", how, ["vote", "mix"], level="sequence",
                          seeds=self.study.rival_decoders)

    def objectives(self):
        for name, how in SEARCHES.items():
            if name != "latent" and "sees" not in how:
                self.on_bases(name, how, tuned=name, detail=name in ("nll", "separate"),
                              seeds=self.study.rival_decoders)
        self.on_bases("joint", dict(objective="joint"), tuned="separate")

    def controls(self):
        for name, how in SEARCHES.items():
            if "sees" in how:
                self.on_bases(name, how, tuned=name, seeds=self.study.rival_decoders)

    def finer(self):
        """Rules with more cuts."""
        for family in FINER:
            self.on_bases(family, do="rule", families=[family])

    def some(self, *values):
        return values[:1] if self.study.brief else values

    def sweeps(self):
        """On few base models, with one decoder each and the recipe of the objective."""
        few = dict(bases=self.study.few)
        rounds, prompts = self.study.rounds, self.study.prompts
        sizes = self.some(max(3, prompts // 10), prompts // 4, prompts)
        for name, how in (("latent", {}), ("memory", dict(choices=SETS["memory"])),
                          ("REINFORCE", dict(objective="REINFORCE"))):
            for n in sizes:
                self.on_bases(f"scored, {name}", how | dict(prompts=n), every_round=True,
                              tuned=how.get("objective", "latent"), option=f"{n} prompts", **few)
        for family in ("temperature", "frequency penalty", "DRY"):
            for n in self.some(3, 6, 12, 48):
                self.on_bases(f"scored, {family}", dict(oracle_prompts=n), do="rule",
                              families=[family], option=f"{n} prompts", **few)
        changes = [("responses", n, {}) for n in self.some(2, 4, 8, 16)]
        changes += [("beta", beta, {}) for beta in self.some(0.05, 0.5, 5.0)]
        changes += [("prompts", n, {}) for n in sizes]
        changes += [("rounds", n, dict(prompts=prompts * rounds // n, steps=20 * rounds // n))
                    for n in self.some(1, 2, 6, 12)]  # as many prompts and updates in all
        for what, value, more in changes:
            self.on_bases(what, more | {what: value}, tuned="latent", option=f"{value:g}", **few)
        for name in ("latent", "separate, with reference", "REINFORCE", "marginal policy gradient"):
            for noise in self.some("flip 0.2", "", "flip 0.4", "spread 1", "spread 3"):
                self.on_bases(f"noise, {name}", dict(objective=name, noise=noise),
                              ["constrained", "vote"], tuned=name, option=noise or "none", **few)
        for name in ("latent", "joint"):
            for rate in self.some(2e-5, 0.0, 1e-4, 3e-4):
                how = dict(objective=name, model_lr=rate, rounds=max(1, rounds // 2))
                self.on_bases(f"unfrozen, {name}", how, ["mix"], level="token",
                              option=f"{rate:g}", **few)

    def betas(self):
        """Is it the latent loss that noise hurts, or the beta that was tuned without noise?"""
        for beta in self.some(0.5, 0.17, 1.5):
            how = dict(objective="latent", noise="flip 0.2", beta=beta)
            self.on_bases("noise, latent", how, ["constrained", "vote"], self.study.few,
                          tuned="latent", option=f"flip 0.2, beta {beta:g}")

    def modes(self):
        """How all of it changes with the probability of the slots' mode."""
        for mode in self.some(*MODES):
            few = dict(bases=self.study.few, mode=mode)
            self.on_bases("fixed temperature", do="fixed", **few)
            for method, choices in ((LPO, SETS["temperatures"]), (MEMORY, SETS["memory"])):
                self.on_bases(method, dict(choices=choices), tuned="latent", **few)
                self.on_bases(method.replace("LPO", "oracle"), dict(choices=choices), do="oracle",
                              **few)
            for name, families in (("without", WITHOUT_MEMORY), ("with", WITH_MEMORY)):
                self.on_bases(f"rules {name} memory", do="rule", families=list(families),
                              thin=3 * self.study.thin, **few)


def load(path):
    """A finished cell; ValueError on a damaged file."""
    try:
        return json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run again") from None


@functools.cache
def mean_reward(path):
    return float(np.mean(list(load(path)["rewards"].values())))


def plan_of(study, guess=False):
    def value_of(cell):
        path = Path(study.out) / name_of(cell)
        return mean_reward(path) if path.exists() else None
    return Plan(study, value_of, guess)


SECONDS = {"repeats": 9.0, "constrained": 7.0, "mix": 3.3, "vote": 2.0}  # of a decoder, one core


def seconds_of(cell):
    """About how long a cell takes on one core."""
    unit, how = SECONDS[cell["experiment"]], cell["how"]
    if cell["do"] == "base":
        return 30 * how["pretrain_steps"] / 1600
    if cell["do"] == "rule":
        rules = [rule for family in cell["families"] for rule in (RULES | FINER)[family]]
        slow = sum(isinstance(rule, OfText) for rule in rules)  # which read each text
        heats = min(how["oracle_prompts"] / 36, 1) / cell["thin"]  # three heats cost the same
        return 0.1 * unit + heats * ((0.02 + 0.006 * unit) * len(rules) + 0.03 * slow)
    if cell["do"] != "train":
        return unit * dict(fixed=0.75, kinds=0.25, oracle=0.5)[cell["do"]]
    learning = 1.5 if OBJECTIVES[how.get("objective", "latent")].data == "all" else 0.5
    learning *= 12 if how.get("model_lr") else 1
    if cell["level"] == "token":
        learning *= how.get("steps", 20) / 20
    sampling = 0.4 * how.get("responses", 8) / 8
    tests = how["rounds"] if cell["every_round"] else 1
    return unit * (how["rounds"] * how["prompts"] / 720 * (sampling + learning) + 0.1 * tests)
