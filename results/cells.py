"""One cell of the study: what is computed on one base model, and kept in a file.

A cell is a dict: part, experiment, subtask (or "" for all), level, method, option, base_seed, seed,
mode (of the noisy slots), split (of the prompts that it is measured on), what to `do`, and in `how`
whatever differs from the main job's options (train_toy.Config) and from methods.learn's. Everything
that is searched for or tuned is measured on validation prompts; test prompts are only for what is
reported.
"""
import contextlib
import functools
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

import tasks
from decoder import choice_name
from results.methods import (FINER, RULES, at_edge, is_cold, kind_of, learn, respond_by,
                             respond_by_rule)
from toy import files
from toy.evaluate import (SEARCHED_VOTES, choice_rows, is_voted, race, respond, reward_rows, row,
                          sample_prompts, search_oracle)
from toy.models import new_model, pretrain
from toy.samplers import choice_of, label
from train_toy import Config

MODE = tasks.MODE
SEARCH = 4      # responses per validation prompt
RECIPE = ("objective", "sees", "floor", "noise")  # what `learn` takes beside the main job's options
SOURCES = ("lpo.py", "model.py", "decoder.py", "tasks.py", "train_toy.py", "toy/evaluate.py",
           "toy/samplers.py", "toy/models.py", "toy/files.py", "results/methods.py",
           "results/cells.py")


@functools.cache
def code():
    """Ten letters that stand for all code that a cell's result depends on."""
    return files.digest(None, *SOURCES)


def name_of(cell):
    """A cell's file: of other options or other code it has another name."""
    words = f"{cell['experiment']}-{cell['method']}".replace(" ", "_")
    return f"{words}-{files.digest([cell, code()])}.json.gz"


def config_of(cell, seed=0):
    """The main job's options; seed 0 is that of the base model."""
    how = {name: tuple(x) if isinstance(x, list) else x for name, x in cell["how"].items()
           if name not in RECIPE}
    return Config(device="cpu", seed=cell["base_seed"] + 1000 * seed, **how)


# --- the base model -------------------------------------------------------------------------------


@contextlib.contextmanager
def slots_of(share):
    """The corpus with another probability of the modes; prompts and rewards stay as they are."""
    tasks.MODE = share
    try:
        yield
    finally:
        tasks.MODE = MODE


@functools.cache  # a plan asks for thousands
def base_key(seed, pretrain_steps):
    cfg = Config(device="cpu", seed=seed, pretrain_steps=pretrain_steps)
    return files.keys(asdict(cfg))[0]


def base_file(cell, folder):
    key = base_key(cell["base_seed"], cell["how"]["pretrain_steps"])
    return Path(folder) / f"base_{key}{'' if cell['mode'] == MODE else '_' + str(cell['mode'])}.pt"


def base_model(cell, folder):
    """Pretrained once; the same for all cells of a base seed and mode."""
    cfg = config_of(cell)

    def make():
        with slots_of(cell["mode"]):
            return pretrain(cfg)
    base = new_model(cfg.n_layer, cfg.n_head, cfg.n_embd)
    base.load_state_dict(files.kept(base_file(cell, folder), make)["model"])
    return base


# --- what cells do: each yields an option's name, its Outcome, and rows of numbers ----------------


def prompts_of(cfg, cell, split):
    """The prompts on which all is measured, or a subtask's; on the test split the main job's."""
    _, rng = files.randomness("cpu", split, cell["experiment"])
    n = cfg.test_prompts if split == "test" else cfg.oracle_prompts
    prompts = sample_prompts(cell["experiment"], split, n, rng)
    return [item for item in prompts if cell["subtask"] in ("", item[0])]


def fixed(cell, cfg, base, prompts, search, gen):
    for choice in map(choice_of, cfg.choices):
        outcome = respond(base, prompts, cfg.test_samples, gen, temperature=choice)
        yield str(label(choice)), outcome, []


def oracle(cell, cfg, base, prompts, search, gen):
    """The best choice for every role; where answers are voted on, also by the majority of 8."""
    choices = list(map(choice_of, cfg.choices))
    for votes in (None, SEARCHED_VOTES) if cell["detail"] and is_voted(prompts) else (None,):
        tables = search_oracle(base, search, choices, votes or SEARCH, gen, votes)
        outcome = respond(base, prompts, cfg.test_samples, gen,
                          temperature=[tables[name] for name, _ in prompts])
        yield "by majority" if votes else "", outcome, []


def best_rule(base, rules, search, gen):
    """-> the rule, its validation reward, how many responses were scored"""
    scored = []

    def rewards_of(rules, prompts):
        scored.append(sum(1 if is_cold(rule) else SEARCH for rule in rules) * len(prompts))
        outcome = respond_by_rule(base, prompts * len(rules), SEARCH, gen,
                                  [rule for rule in rules for _ in prompts])
        return outcome.rewards.mean(1).reshape(len(rules), -1)
    tasks_by_turns = np.arange(len(search)).reshape(len({name for name, _ in search}), -1).T
    in_turns = [search[i] for i in tasks_by_turns.flat]
    return *race(rules, in_turns, rewards_of, halve=True), sum(scored)


def kinds(cell, cfg, base, prompts, search, gen):
    """The oracle of the sequence level: the best choice for each kind of prompt."""
    choices, best = list(map(choice_of, cfg.choices)), {}
    for kind in dict.fromkeys(map(kind_of, search)):
        of_kind = [item for item in search if kind_of(item) == kind]
        best[kind], _, _ = best_rule(base, choices, of_kind, gen)
    rules = [best[kind_of(item)] for item in prompts]
    yield "", respond_by_rule(base, prompts, cfg.test_samples, gen, rules), []


def rule(cell, cfg, base, prompts, search, gen):
    """The best setting of a rule, or of several, on validation prompts."""
    rules = [rule for family in cell["families"] for rule in (RULES | FINER)[family]]
    some = np.random.default_rng(0).permutation(len(rules))[::cell["thin"]]
    rules = [rules[i] for i in sorted(some)]
    best, value, n = best_rule(base, rules, search, gen)
    outcome = respond_by_rule(base, prompts, cfg.test_samples, gen, [best] * len(prompts))
    found = dict(validation=value, scored=n, tries=len(rules), at_edge=at_edge(best))
    yield "", outcome, [row(metric, x, len(search), choice=choice_name(best))
                        for metric, x in found.items()]


def train(cell, cfg, base, prompts, search, gen):
    """A decoder, by the main job's loop; `every_round` measures it after each."""
    recipe = {name: x for name, x in cell["how"].items() if name in RECIPE}
    rounds = learn(cfg, base, cell["experiment"], cell["level"], **recipe)
    for rnd, (model, decoder) in enumerate(rounds, 1):
        if rnd < cfg.rounds and not cell["every_round"]:
            continue
        numbers = [row("scored", rnd * cfg.prompts * cfg.responses, 1)]
        outcome = respond_by(model, decoder, prompts, cfg.test_samples, gen)
        if cell["detail"]:
            numbers += choice_rows(outcome, cfg.choices)
        yield f"round {rnd}" if cell["every_round"] else "", outcome, numbers
    if cell["detail"]:
        yield "arg-max", respond_by(model, decoder, prompts, cfg.test_samples, gen,
                                    tau_select="greedy"), []


DO = dict(fixed=fixed, oracle=oracle, kinds=kinds, rule=rule, train=train)


def compute(cell, folder):
    """-> dict: rewards of each option (P,S), rows of numbers, seconds"""
    began = time.process_time()
    base = base_model(cell, folder)
    rewards, numbers = {}, []
    if cell["do"] != "base":
        cfg = config_of(cell, cell["seed"])
        prompts = prompts_of(cfg, cell, cell["split"])
        search = prompts_of(cfg, cell, "validation")
        gen, _ = files.randomness("cpu", "study", *(cell[name] for name in (
            "experiment", "subtask", "level", "method", "option", "base_seed", "seed")))
        for option, outcome, rows in DO[cell["do"]](cell, cfg, base, prompts, search, gen):
            rewards[option] = outcome.rewards.round(4).tolist()
            numbers += [dict(x, option=option) for x in [*reward_rows(outcome), *rows]]
    return dict(rewards=rewards, numbers=numbers, seconds=time.process_time() - began)
