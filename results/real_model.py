"""LPO on a real language model, beside every fixed temperature, tuned rules and the oracle by role.

    python -m results.real_model                  all of it, on a GPU; real/README.md says how long
    python -m results.real_model --only lines     a part; several at once may share the folder
    python -m results.real_model --model gemma3-270m --out out/gemma
    torchrun --nproc_per_node 2 -m results.real_model

Rows go to out/real/real.json once everything is finished; of another model, which is asked what is
the beginning of a text and has no study of recipes, to real_second.json. Rules and the oracle are
tuned on validation prompts; every number of a row is of test prompts, the same for all.
"""
import argparse
import itertools
import sys
from collections import Counter
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from decoder import AdaptiveDecoder
from real import train
from real.models import MODELS
from real.tasks import EXPERIMENTS, TASKS, draw_prompts
from real.train import Config, checked, generator_of, measure, rank, respond, together
from results.rules import cuts, dynatemp, edt, entropy_slope, grid, rule_name
from toy.intervals import resampled
from toy.rows import to_json
from toy.samplers import (choice_of, epsilon_cutoff, label, min_p, top_k, top_nsigma, top_p,
                          typical_p)
from toy.stages import Silent, Stages, code_of, program, randomness, write

LEVELS = {"lines": ("token", "sequence"), "mix": ("sequence", "token"), "repeats": ("token",)}
SECOND = (("token", "temperatures"), ("token", "settings"), ("sequence", "temperatures"))
SETS = {"temperatures": Config.choices,
        "settings": tuple(label(choice_of(text)) for text in (
            "0", ".3", "min_p=.1", "min_p=.05@1.5", "min_p=.3@2", "epsilon_cutoff=.01", "1"))}
RULES = {  # grids for large vocabularies, whose noise is thinner than the toy's
    "temperature": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0],
    "top-k": cuts(top_k, (3, 10, 40), (0.5, 0.8, 1.2)),
    "top-p": cuts(top_p, (0.5, 0.8, 0.95), (0.5, 0.8, 1.2)),
    "min-p": cuts(min_p, (0.02, 0.1, 0.3), (0.5, 1.0, 2.0)),
    "typical": cuts(typical_p, (0.3, 0.6, 0.9), (0.5, 0.8, 1.2)),
    "epsilon": cuts(epsilon_cutoff, (0.003, 0.01, 0.05), (0.5, 1.0, 1.5)),
    "top-n-sigma": cuts(top_nsigma, (1.0, 2.0, 3.0), (0.5, 1.0, 1.5)),
    "EDT": grid(edt, (0.5, 0.8, 1.2), (0.3, 1.0, 3.0)),
    "dynatemp": grid(dynatemp, (0.0, 0.3), (0.8, 1.5, 3.0), (0.5, 1.0)),
    "entropy slope": grid(entropy_slope, (0.2, 0.5, 0.9), (-0.15, -0.05, 0.05, 0.15))}
MANY = dict(steps=20)  # updates a round, as train_toy.py has them
STUDY = {"6 rounds": dict(rounds=6), "10 updates a round, beta 0.5": dict(steps=10, beta=0.5),
         "20 updates a round": MANY,
         "20, without 1 and 1.2": MANY | dict(choices=Config.choices[:5]),
         "20, beta 1": MANY | dict(beta=1.0), "20, rate 3e-4": MANY | dict(lr=3e-4),
         "20, first round's reference": MANY | dict(reference="initial")}
STUDIED = {"lines": "token", "mix": "sequence"}
FIXED, RULE, ORACLE = "best fixed temperature", "best tuned rule", "oracle by role"
SECONDS = dict(fixed=10, oracle=20, rule=6, learned=20)


# --- what there is to do --------------------------------------------------------------------------


def fixed(cfg, lm, run):
    return dict(kind="fixed", rewards=train.measure_fixed(cfg, lm, run))


def tuned(cfg, lm, run, rule):
    """A rule's whole grid on validation prompts, what is best there on test prompts."""
    earned = []
    for i, setting in enumerate(RULES[rule]):
        earned.append(measure(cfg, lm, "validation", rule_name(setting),
                              temperature=setting).rewards.mean())
        run.tick(i / len(RULES[rule]), rule_name(setting))
    best = RULES[rule][int(np.argmax(earned))]
    outcome = measure(cfg, lm, "test", rule_name(best), temperature=best)
    return dict(kind="rule", setting=rule_name(best),
                rewards={rule: outcome.rewards.mean(1).tolist()})


class ByRole:
    """A choice that follows what is written, as `generate` takes it."""

    def __init__(self, asked, tables, tokenizer):
        """Each response's (task, what is asked), and its {role: choice}."""
        self.asked = asked
        self.tables = tables
        self.piece = cache(lambda i: tokenizer.decode([i]))  # each id is looked up once
        self.texts = [""] * len(asked)

    def __call__(self, tokens):
        """(R,t) -> R choices of the next column; to be called for one t after the other."""
        if tokens.shape[1]:
            self.texts = [text + self.piece(i)
                          for text, i in zip(self.texts, tokens[:, -1].tolist())]
        return [table[TASKS[name].role(asked, text)]
                for table, (name, asked), text in zip(self.tables, self.asked, self.texts)]


def oracle(cfg, lm, run):
    """For each task the best temperature of each role, found on validation prompts."""
    _, rng = randomness("cpu", "real", cfg.experiment, "validation")
    asked = draw_prompts(cfg.experiment, "validation", cfg.validation_prompts, rng)
    best = {}
    for name in EXPERIMENTS[cfg.experiment]:
        tables = [dict(zip(TASKS[name].roles, taus)) for taus in
                  itertools.product(Config.choices, repeat=len(TASKS[name].roles))]
        items = [item for item in asked if item[0] == name]
        work = list(itertools.product(tables, items))
        outcome = respond(cfg, lm, [item for _, item in work], cfg.samples,
                          generator_of(cfg, name), lambda block: ByRole(
                              [work[i][1] for i in block], [work[i][0] for i in block], lm[1]))
        best[name] = tables[int(outcome.rewards.reshape(len(tables), -1).mean(1).argmax())]
        run.tick(len(best) / (len(EXPERIMENTS[cfg.experiment]) + 1), name)
    _, rng = randomness("cpu", "real", cfg.experiment, "test")
    test = draw_prompts(cfg.experiment, "test", cfg.test_prompts, rng)
    outcome = measure(cfg, lm, "test", "oracle", plan=lambda block: ByRole(
        [test[i] for i in block], [best[test[i][0]] for i in block], lm[1]))
    return dict(kind="oracle", tables=best, rewards={ORACLE: outcome.rewards.mean(1).tolist()})


def learned(cfg, lm, run, method):
    """A decoder; what it earns on validation prompts and its cost in memory too."""
    if cfg.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    found = train.learn(cfg, lm, cfg.seed, run)
    memory = torch.cuda.max_memory_allocated() / 1e9 if cfg.device == "cuda" else None
    decoder = AdaptiveDecoder(lm[0].config.n_embd, map(choice_of, cfg.choices), cfg.level)
    decoder.load_state_dict(found["weights"])
    outcome = measure(cfg, lm, "validation", cfg.level, cfg.seed, decoder=decoder.to(cfg.device))
    return dict(kind="learned", method=method, level=cfg.level, choices=list(cfg.choices),
                memory=memory, validation=float(outcome.rewards.mean()), **found)


def experiments(cfg):
    """All for SmolLM2; for another model, which may know no chat, those that begin a text."""
    return [name for name, tasks in EXPERIMENTS.items()
            if cfg.model == Config.model or not any(TASKS[task].chat for task in tasks)]


def plan(cfg):
    """Everything there is to do.  -> {name of the stage: (Config, function of cfg, lm, run)}"""
    work = {}
    for experiment in experiments(cfg):
        of = replace(cfg, experiment=experiment)
        work[f"{experiment}-fixed"] = of, fixed
        work[f"{experiment}-oracle"] = of, oracle
        for rule in RULES:
            work[f"{experiment}-rule-{rule.replace(' ', '-')}"] = of, partial(tuned, rule=rule)
        kinds = itertools.product(LEVELS[experiment], SETS) if cfg.model == Config.model else SECOND
        decoders = {f"{level} level, {name}": dict(level=level, choices=SETS[name])
                    for level, name in kinds}
        if experiment in STUDIED and cfg.model == Config.model:
            decoders |= {name: dict(level=STUDIED[experiment]) | how for name, how in STUDY.items()}
        for (number, (method, how)), seed in itertools.product(enumerate(decoders.items()),
                                                               range(cfg.seeds)):
            work[f"{experiment}-learned-{number}-{seed}"] = (
                replace(of, seed=seed, **how), partial(learned, method=method))
    return work


# --- rows -----------------------------------------------------------------------------------------


def reward_rows(experiment, numbers):
    """Every method's mean reward, and its distance from the best fixed temperature and the best
    rule, with paired 95 % intervals over decoders and prompts.  numbers: {method: (S,P)}"""
    P = numbers[FIXED].shape[1]
    _, rng = randomness("cpu", "real intervals", experiment)
    means = resampled(1, max(len(x) for x in numbers.values()), P, rng)
    rows = []
    for method, minus in itertools.product(numbers, (None, FIXED, RULE)):
        if minus == method or minus == RULE and method in RULES:
            continue
        of, draws = numbers[method], means(numbers[method][None])
        value = of.mean()
        if minus is not None:
            value -= numbers[minus].mean()
            draws = draws - means(numbers[minus][None])
        low, high = np.quantile(draws, (0.025, 0.975))
        rows.append(dict(section="rewards", experiment=experiment, method=method, minus=minus,
                         value=value, low=low, high=high, seeds=len(of)))
    return rows


def rows_of(experiment, found):
    """The rows of an experiment, from its finished stages [dict]."""
    rows, numbers, by_method = [], {}, {}
    for one in found:
        if one["kind"] == "learned":
            by_method.setdefault(one["method"], []).append(one)
        else:
            numbers |= {name: np.array([rewards]) for name, rewards in one["rewards"].items()}
    rows += [dict(section="setting", experiment=experiment, method=method, setting=one["setting"])
             for one in found if one["kind"] == "rule" for method in one["rewards"]]
    rows += [dict(section="oracle", experiment=experiment, method=ORACLE, role=f"{task}, {role}",
                  value=tau) for one in found if one["kind"] == "oracle"
             for task, table in one["tables"].items() for role, tau in table.items()]
    for method, ones in by_method.items():
        numbers[method] = np.array([one["rewards"] for one in ones])
        total = Counter()
        for one in ones:
            for role, counts in one["counts"].items():
                total.update({(role, k): n for k, n in enumerate(counts)})
        choices = ones[0]["choices"]
        for role in dict.fromkeys(role for role, _ in total):
            n = [total[role, k] for k in range(len(choices))]
            rows += [dict(section="shares", experiment=experiment, method=method, role=role,
                          choice=str(choice), value=n[k] / sum(n))
                     for k, choice in enumerate(choices)]
            if not any(isinstance(choice, str) for choice in choices):
                rows += [dict(section="temperature", experiment=experiment, method=method,
                              role=role, seed=one["seed"], value=np.average(
                                  choices, weights=one["counts"][role])) for one in ones]
        rows += [dict(section="rounds", experiment=experiment, method=method, seed=one["seed"],
                      round=of_round["round"], metric=metric, value=of_round[metric])
                 for one in ones for of_round in one["rounds"]
                 for metric in ("reward", "certainty")]
        rows += [dict(section="seeds", experiment=experiment, method=method, seed=one["seed"],
                      value=np.mean(one["rewards"])) for one in ones]
        rows += [dict(section="validation", experiment=experiment, method=method,
                      seed=one["seed"], value=one["validation"]) for one in ones]
        rows += [dict(section="memory", experiment=experiment, method=method, seed=one["seed"],
                      value=one["memory"]) for one in ones if one["memory"] is not None]
    temperatures = [str(tau) for tau in Config.choices]
    rows += [dict(section="fixed", experiment=experiment, method=tau, value=numbers[tau].mean())
             for tau in temperatures]
    for name, offered in ((FIXED, temperatures), (RULE, list(RULES))):
        best = max(offered, key=lambda method: numbers[method].mean())  # which favours it
        numbers[name] = numbers[best]
        rows.append(dict(section="best", experiment=experiment, method=name, setting=best))
    numbers = {method: x for method, x in numbers.items() if method not in temperatures}
    return rows + reward_rows(experiment, numbers)


def texts_of(found):
    """The texts of the first decoder over temperatures of a token level."""
    one = next(one for one in found if one["kind"] == "learned")
    return [dict(task=name, asked=asked, tokens=tokens, choices=one["choices"])
            for (name, asked), tokens in one["texts"]]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="PART", help="stages with this in their name")
    parser.add_argument("--quick", action="store_true", help="all of it in small: does it run?")
    parser.add_argument("--model", default=Config.model, help=f"{' or '.join(MODELS)}, or the path "
                        f"of a GGUF file (default {Config.model})")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--out", default="out/real", help="folder of results and finished stages")
    args = parser.parse_args(argv)
    small = dict(rounds=1, prompts=4, responses=4, seeds=2, validation_prompts=4, test_prompts=4,
                 samples=2) if args.quick else {}
    cfg = checked(Config(model=args.model, device=args.device, out=args.out, **small))
    train.join(cfg)
    work = {name: of for name, of in plan(cfg).items() if args.only in name}
    run = Silent() if rank() else Stages(
        cfg.out, {name: SECONDS[name.split("-")[1]] for name in work}, cfg.device)
    lm = train.start(cfg)
    code = code_of("results/rules.py", *map(partial(getattr, sys.modules[__name__]), (
        "fixed", "tuned", "ByRole", "oracle", "learned")))
    found = {}
    for name, (of, do) in work.items():
        key = [*train.stage_key(of), of.seed, getattr(do, "keywords", {}), code]
        found[name] = together(run, name, key, lambda: do(of, lm, run))
    if args.only or rank():
        return
    by_experiment = {experiment: [one for name, one in found.items()
                                  if name.startswith(f"{experiment}-")]
                     for experiment in experiments(cfg)}
    rows = [row for experiment, ones in by_experiment.items() for row in rows_of(experiment, ones)]
    path = Path(cfg.out) / ("real.json" if cfg.model == Config.model else "real_second.json")
    config = asdict(cfg) | dict(model=Path(cfg.model).stem)
    write(path, to_json(dict(config=config, stages=run.finished, rows=rows, samples=[
        text for ones in by_experiment.values() for text in texts_of(ones)])))
    print(path)


if __name__ == "__main__":
    with program():
        main()
