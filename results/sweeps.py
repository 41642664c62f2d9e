"""The sweeps behind results/README.md: what each loss costs, what each option does, where it fails.

    python -m results.sweeps                              all of them, one process a core
    python -m results.sweeps --sweeps pairs,gradient --base-seeds 1

Rows go to sweeps.json in the main job's folder, whose base models they share; a finished case is
kept and reused. Everything is tuned on validation prompts and reported on test prompts.
"""
import argparse
import copy
import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from decoder import AdaptiveDecoder, Rollout, aligned, response_logps
from lpo import drawn, log_ratio, lpo_loss, nll_loss
from tasks import CATEGORIES, EXPERIMENTS, PROMPT_LENGTH, TASKS, corpus, encode
from toy import options
from toy.evaluate import draw_prompts, measure_fixed, respond, test_set
from toy.pretrain import base_model, padded
from toy.rows import to_json
from toy.stages import Job, Silent, Stages, code_of, program, randomness, write
from train_toy import make_pairs, sides_of, stage_keys, train, update

LEVEL = {"repeats": "token", "mix": "sequence", "constrained": "token", "vote": "token"}
PAIRS = (8, 15, 30, 60, 125, 250, 500, 1000)
GRID = list(itertools.product((0.1, 0.5), (1e-3, 4e-3, 1.6e-2)))  # beta, lr: by validation reward
CHANGES = {  # one option at a time, everything else as the main job has it
    "beta": (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
    "lr": (5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
    "responses": (2, 4, 8, 16, 32),
    "rounds": (1, 2, 3, 6, 12),  # of the same number of prompts and updates together
    "pairing": ("best-worst", "all", "top-k"),
    "reference": ("round", "initial"),
    "decoder_reference": (False, True)}  # of `separate`: as the paper prints it, or the round's
UNFROZEN = {  # the joint and the latent loss with the language model trained too
    "joint": {}, "latent": dict(variant="latent"), "joint, no temperature 0": dict(coldest=0.2),
    "joint, temperature 1 only": dict(coldest=1.0, hottest=1.0),
    "joint, beta 2": dict(beta=2.0), "joint, KL 1": dict(kl=1.0),
    "joint, anchor 1": dict(anchor=1.0)}
MODEL_LR = (0.0, 2e-5, 1e-4, 3e-4, 1e-3)
UNSEEN = tuple(CATEGORIES)[len(CATEGORIES) // 2:]  # half of them, left out of training prompts
KEYWORDS = {"math": ("sum", "up"), "general": ("list", "five"), "story": ("tell", "how")}
STEPS = (200, 400, 800, 1200)  # of pretraining, and so how much of the tasks is learned


@dataclass(frozen=True)
class Case:
    """One job of a sweep; its fields are columns of its rows."""
    sweep: str
    experiment: str
    level: str
    setting: str | None = None     # what is changed
    x: object = None               # to what value
    variant: str | None = None
    base_seed: int = 0
    seed: int = 0

    @property
    def name(self):
        return "-".join(str(value) for value in asdict(self).values() if value is not None)

    @property
    def job(self):
        """The main job's name for it, whose seeds a training run has too."""
        return Job(self.base_seed, self.experiment, self.level, self.variant or "latent", self.seed)

    @property
    def seeds(self):
        return "sweep", *(str(value) for value in asdict(self).values())


# --- what the sweeps share ------------------------------------------------------------------------


def mean_reward(model, decoder, asked, gen, **policy):
    """Of a decoder's responses, four a prompt."""
    return respond(model, asked, 4, gen, decoder=decoder, **policy).rewards.mean()


def gather(cfg, base, case, count, gen, rng):
    """`count` pairs of an untrained decoder's responses.  -> two sides of (prompts, rollout)"""
    decoder, sides = AdaptiveDecoder(cfg.n_embd, cfg.choices, case.level), ([], [])
    while sum(len(prompts) for prompts, _ in sides[0]) < count:
        asked = draw_prompts(case.experiment, "train", 240, rng)
        outcome = respond(base, asked, cfg.responses, gen, decoder=decoder)
        for side, more in zip(sides, sides_of(outcome, make_pairs(outcome.rewards))):
            side.append(more)
    return [first(count, (sum((prompts for prompts, _ in side), []),
                          Rollout.cat([rollout for _, rollout in side]))) for side in sides]


def first(count, side):
    prompts, rollout = side
    return prompts[:count], rollout[:count]


def share(value, fixed):
    """Of the headroom between the best fixed temperature and the oracle."""
    best = max(scores["reward"].mean().item() for scores in fixed["fixed"].values())
    return (value - best) / (fixed["oracle"]["reward"].mean().item() - best)


# --- the sweeps: each yields its cases, and one function does a case  -> rows ---------------------


def pairs_cases():
    for experiment in ("mix", "constrained", "vote"):
        yield Case("pairs", experiment, LEVEL[experiment])


def pairs(cfg, base, fixed, case):
    """One offline round of exactly n pairs, 120 updates, beta and learning rate by validation.

    `latent` and `separate` both have the untrained decoder, which is uniform, as reference: the
    losses alone are compared.
    """
    gen, rng = randomness("cpu", *case.seeds)
    sides = gather(cfg, base, case, max(PAIRS), gen, rng)
    asked, _ = test_set(cfg, case.experiment)
    tuning = draw_prompts(case.experiment, "validation", 96, rng)
    for variant, n in itertools.product(("latent", "separate", "nll"), PAIRS):
        found = []
        for beta, lr in GRID if variant != "nll" else GRID[:3]:  # which has no beta
            torch.manual_seed(case.seed)
            decoder = AdaptiveDecoder(cfg.n_embd, cfg.choices, case.level)
            reference = base, copy.deepcopy(decoder)
            update(base, decoder, reference, [first(n, side) for side in sides], variant, beta, lr,
                   steps=120)
            found.append((mean_reward(base, decoder, tuning, gen), beta, lr, decoder))
        _, beta, lr, decoder = max(found, key=lambda of: of[0])
        of = dict(variant=variant, x=n)
        value = mean_reward(base, decoder, asked, gen)
        greedy = mean_reward(base, decoder, asked, gen, tau_select="greedy")
        yield of | dict(metric="reward", value=value)
        yield of | dict(metric="share", value=share(value, fixed))
        yield of | dict(metric="share of the arg-max", value=share(greedy, fixed))
        yield of | dict(metric="beta", value=beta)
        yield of | dict(metric="lr", value=lr)


def gradient_cases():
    for experiment, level in LEVEL.items():
        yield Case("gradient", experiment, level)


def gradient(cfg, base, fixed, case):
    """Signal and noise of one pair's gradient at the start of training, in the last layer, the only
    one that has a gradient there: |E g| / sqrt(E |g - E g|^2), the bias of |mean|^2 taken off."""
    gen, rng = randomness("cpu", *case.seeds)
    sides = gather(cfg, base, case, 250, gen, rng)
    decoder = AdaptiveDecoder(cfg.n_embd, cfg.choices, case.level)
    logps = [response_logps(base, decoder, *side, ref_decoder=copy.deepcopy(decoder))
             for side in sides]
    losses = {form: lpo_loss(*logps, form, beta=1.0) for form in ("separate", "latent")}
    if case.level == "sequence":
        losses["latent, exact"] = lpo_loss(*logps, "latent", 1.0, exact_sequence=True)
    losses["nll"] = nll_loss(logps[0])
    last_layer, mean = list(decoder.mlp[-1].parameters()), {}
    for form, of_pairs in losses.items():
        g = torch.stack([torch.cat([x.flatten() for x in torch.autograd.grad(
            loss, last_layer, retain_graph=True)]) for loss in of_pairs])  # (pairs, weights)
        mean[form], noise = g.mean(0), g.var(0).sum()
        signal = (mean[form].square().sum() - noise / len(g)).clamp(min=0)
        of = dict(variant=form)
        yield of | dict(metric="signal to noise", value=(signal / noise).sqrt().item())
        yield of | dict(metric="signal", value=signal.sqrt().item())
        yield of | dict(metric="noise", value=noise.sqrt().item())
        yield of | dict(metric="cosine with separate", value=F.cosine_similarity(
            mean[form], mean["separate"], dim=0).item())


def change_cases():
    for experiment, variant in itertools.product(LEVEL, ("latent", "separate")):
        for option, values in CHANGES.items():
            for value in values:
                if value == "top-k" and not TASKS[EXPERIMENTS[experiment][0]].criteria:
                    continue
                if option == "decoder_reference" and variant != "separate":
                    continue
                yield Case("change", experiment, LEVEL[experiment], option, value, variant)


def change(cfg, base, fixed, case):
    """The main job's training with one option changed."""
    if case.setting == "rounds":  # as many prompts and updates in all
        cfg = replace(cfg, prompts=cfg.rounds * cfg.prompts // case.x,
                      steps=cfg.rounds * cfg.steps // case.x)
    cfg = replace(cfg, **{case.setting: case.x})
    model, decoder, _ = train(cfg, base, case.job, Silent())
    gen, _ = randomness("cpu", *case.seeds)
    asked, _ = test_set(cfg, case.experiment)
    value = mean_reward(model, decoder, asked, gen)
    yield dict(metric="reward", value=value)
    yield dict(metric="share", value=share(value, fixed))


def unfrozen_cases():
    for setting, lr in itertools.product(UNFROZEN, MODEL_LR):
        if lr or setting in ("joint", "latent"):
            yield Case("unfrozen", "mix", "token", setting, lr)


def unfrozen(cfg, base, fixed, case):
    """Three rounds of 20 updates on model and decoder. KL: to the base model, on both sides' texts.
    Anchor: the mean log-probability of the chosen texts at temperature 1."""
    how = dict(variant="joint", beta=cfg.beta, coldest=0.0, hottest=2.0, kl=0.0, anchor=0.0)
    how |= UNFROZEN[case.setting]
    taus = [tau for tau in cfg.choices if how["coldest"] <= tau <= how["hottest"]]
    gen, rng = randomness("cpu", "unfrozen", case.base_seed, case.seed)  # the same for all settings
    model, decoder = copy.deepcopy(base), AdaptiveDecoder(cfg.n_embd, taus, "token")
    for rnd in range(3):
        reference = copy.deepcopy(model), copy.deepcopy(decoder)
        if how["variant"] == "joint":
            reference = reference[0], None  # as the paper prints it
        asked = draw_prompts(case.experiment, "train", cfg.prompts, rng)
        outcome = respond(model, asked, cfg.responses, gen, decoder=decoder)
        yield dict(metric="round reward", round=rnd, value=outcome.rewards.mean())
        sides = sides_of(outcome, make_pairs(outcome.rewards))
        if not sides[0][0]:
            break
        yield from unfrozen_round(cfg, base, model, decoder, reference, sides, how, case.x, rnd)
    asked, _ = test_set(cfg, case.experiment)
    yield dict(metric="reward", value=mean_reward(model, decoder, asked, gen))
    for tau in cfg.choices:
        yield dict(metric="reward at a fixed temperature", temperature=tau,
                   value=respond(model, asked, 2, gen, temperature=tau).rewards.mean())
    yield dict(metric="corpus loss", value=corpus_loss(model, case.experiment))
    yield dict(metric="corpus loss of the base", value=corpus_loss(base, case.experiment))


def unfrozen_round(cfg, base, model, decoder, reference, sides, how, model_lr, rnd):
    """Twenty updates of both, in place; yields how far the log-probabilities of each side move."""
    with torch.no_grad():
        base_logps = [aligned(base, side[0], side[1].tokens)[0].log_softmax(-1) for side in sides]
    optimizer = torch.optim.AdamW([dict(params=decoder.parameters(), lr=cfg.lr),
                                   dict(params=model.parameters(), lr=model_lr)], weight_decay=0.0)
    for step in range(rnd * cfg.steps, (rnd + 1) * cfg.steps):
        logps = [response_logps(model, decoder, *side, *reference) for side in sides]
        loss = lpo_loss(*logps, how["variant"], how["beta"]).mean()
        for name, side in zip(("chosen", "rejected"), logps):
            text = drawn(side.text_logps, side.tau_idx)
            moved = log_ratio(text, drawn(side.ref_text_logps, side.tau_idx))
            yield dict(metric=f"{name} log-ratio", round=rnd, step=step,
                       value=moved.masked_fill(~side.mask, 0).sum(-1).mean().item())
            yield dict(metric=f"{name} impossible", round=rnd, step=step,
                       value=text[side.mask].isneginf().float().mean().item())
        if how["kl"] or how["anchor"]:
            for i, ((prompts, rollout), old) in enumerate(zip(sides, base_logps)):
                new = aligned(model, prompts, rollout.tokens)[0].log_softmax(-1)
                kl = (old.exp() * (old - new)).sum(-1)[rollout.mask].mean()
                loss = loss + how["kl"] * kl
                if i == 0:
                    chosen = new.gather(-1, rollout.tokens[..., None])[..., 0]
                    loss = loss - how["anchor"] * chosen[rollout.mask].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def corpus_loss(model, experiment):
    """Cross-entropy of fresh corpus responses, nats a token, the mean over the tasks."""
    losses = []
    for name in EXPERIMENTS[experiment]:
        texts = corpus(name, 200, np.random.default_rng(1))
        idx = padded(texts, PROMPT_LENGTH + TASKS[name].length)
        logits = model(idx[:, :-1].clamp(min=0))[0][:, PROMPT_LENGTH - 1:]
        losses.append(F.cross_entropy(logits.transpose(1, 2), idx[:, PROMPT_LENGTH:],
                                      ignore_index=-1).item())
    return np.mean(losses)


def failure_cases():
    for experiment in ("mix", "constrained"):
        yield Case("failure", experiment, LEVEL[experiment], "unseen categories")
    for level in ("token", "sequence"):
        yield Case("failure", "mix", level, "no keyword")
    for experiment, steps in itertools.product(("mix", "constrained", "vote"), STEPS):
        yield Case("failure", experiment, LEVEL[experiment], "pretraining", steps)
    for experiment, beta in itertools.product(("repeats", "constrained"), (0.1, 0.5, 2.0)):
        yield Case("failure", experiment, "token", "one-hot", beta)


def failure(cfg, base, fixed, case):
    """Categories that training left out; prompts whose type no word gives away; a base model that
    has not learned its tasks; how soon the decoder is sure, and whether it is right."""
    gen, _ = randomness("cpu", *case.seeds)
    asked, _ = test_set(cfg, case.experiment)
    kinds = {"unseen categories": unseen_categories, "no keyword": no_keyword,
             "pretraining": pretraining, "one-hot": one_hot}
    yield from kinds[case.setting](cfg, base, fixed, case, asked, gen)


def compare(cfg, base, decoder, asked, gen, **columns):
    """The decoder, and the best fixed temperature on the same prompts."""
    best = max(respond(base, asked, 4, gen, temperature=tau).rewards.mean()
               for tau in cfg.choices)
    yield dict(metric="reward", value=mean_reward(base, decoder, asked, gen), **columns)
    yield dict(metric="best fixed", value=best, **columns)


def unseen_categories(cfg, base, fixed, case, asked, gen):
    def names_one_of(item, categories):
        return bool(set(item[1].split()) & set(categories))

    def seen_prompts(experiment, split, n, rng):
        """As draw_prompts, the tasks in equal parts, without the unseen categories."""
        kept = {name: [] for name in EXPERIMENTS[experiment]}
        for item in draw_prompts(experiment, split, 3 * n, rng):
            if not names_one_of(item, UNSEEN):
                kept[item[0]].append(item)
        return [item for items in kept.values() for item in items[:max(1, n // len(kept))]]
    seen = set(CATEGORIES) - set(UNSEEN)
    for variant, draw in (("trained on half", seen_prompts), ("trained on all", draw_prompts)):
        _, decoder, _ = train(cfg, base, case.job, Silent(), draw)
        for group, categories in (("seen", seen), ("unseen", UNSEEN)):
            of_group = [item for item in asked if names_one_of(item, categories)]
            yield from compare(cfg, base, decoder, of_group, gen, variant=variant, group=group)


def no_keyword(cfg, base, fixed, case, asked, gen):
    _, decoder, _ = train(cfg, base, case.job, Silent())
    blind = [(name, " ".join("please" if word in KEYWORDS[name] else word
                             for word in prompt.split())) for name, prompt in asked]
    for variant, items in (("keyword", asked), ("no keyword", blind)):
        for group in KEYWORDS:
            of_group = [item for item in items if item[0] == group]
            yield from compare(cfg, base, decoder, of_group, gen, variant=variant, group=group)


def pretraining(cfg, base, fixed, case, asked, gen):
    _, decoder, _ = train(cfg, base, case.job, Silent())
    yield from compare(cfg, base, decoder, asked, gen)
    yield dict(metric="corpus loss", value=corpus_loss(base, case.experiment))


def one_hot(cfg, base, fixed, case, asked, gen):
    _, decoder, _ = train(replace(cfg, beta=case.x), base, case.job, Silent())
    outcome = respond(base, asked, 2, gen, decoder=decoder)
    prompts = [encode(prompt) for _, prompt in asked for _ in range(2)]
    logps = response_logps(base, decoder, prompts, outcome.rollout)
    largest = logps.tau_logps.detach().exp()[logps.mask].amax(-1)
    yield dict(metric="reward", value=outcome.rewards.mean())
    yield dict(metric="share", value=share(outcome.rewards.mean(), fixed))
    yield dict(metric="largest probability", value=largest.mean().item())
    yield dict(metric="sure", value=(largest > 0.99).float().mean().item())


SWEEPS = {"pairs": (pairs_cases, pairs), "gradient": (gradient_cases, gradient),
          "change": (change_cases, change), "unfrozen": (unfrozen_cases, unfrozen),
          "failure": (failure_cases, failure)}


# --- the program ----------------------------------------------------------------------------------


def do(work):
    """A base model, what is fixed on it, or a case, in a process of its own.  -> rows, stages"""
    cfg, case = work
    torch.set_num_threads(1)
    half_trained = isinstance(case, Case) and case.setting == "pretraining"
    if half_trained:
        cfg = replace(cfg, pretrain_steps=case.x)
    fixed_job = Job(case.base_seed, case.experiment)
    names = f"base{case.base_seed}", fixed_job.name, case.name
    run = Stages(cfg.out, dict.fromkeys(names, 1))
    run.say = run.tick = lambda *_: None  # many at once
    of_fixed, of_adaptive = stage_keys(cfg)
    base = base_model(cfg, case.base_seed, run)
    if case == Job(case.base_seed):
        return [], run.finished
    fixed = None
    if not half_trained:
        fixed = run(fixed_job.name, of_fixed, lambda: measure_fixed(cfg, base, fixed_job, run))
    if case == fixed_job:
        return [], run.finished
    _, measure = SWEEPS[case.sweep]
    key = [of_adaptive, asdict(case), code_of("results/sweeps.py")]
    result = run(case.name, key, lambda: dict(rows=[
        asdict(case) | row | dict(value=float(row["value"]))
        for row in measure(cfg, base, fixed, case)]))
    return result["rows"], run.finished


def phases(cfg, sweeps):
    """Work that may run side by side: base models, fixed temperatures, then the sweeps."""
    bases = range(cfg.base_seeds)
    lengths = {cfg.pretrain_steps, *(STEPS if "failure" in sweeps else ())}
    yield [(replace(cfg, pretrain_steps=n), Job(b)) for n in sorted(lengths) for b in bases]
    yield [(cfg, Job(b, experiment)) for experiment in LEVEL for b in bases]
    yield [(cfg, replace(case, base_seed=b, seed=seed)) for sweep in sweeps
           for case in SWEEPS[sweep][0]() for b in bases for seed in range(cfg.seeds)]


def pool_of(workers):
    """Processes that leave an interrupt to this one."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the workers inherit
    pool = multiprocessing.get_context("spawn").Pool(workers)
    signal.signal(signal.SIGINT, handler)
    return pool


def main(arguments):
    sweeps = arguments.sweeps.split(",")
    if not set(sweeps) <= set(SWEEPS) or len(set(sweeps)) < len(sweeps):
        raise ValueError(f"--sweeps is {arguments.sweeps}; name each once of {', '.join(SWEEPS)}")
    cfg = options.parse(["--device", "cpu", "--base-seeds", str(arguments.base_seeds), "--seeds",
                         str(arguments.seeds), "--out", arguments.out], __doc__)
    rows, stages, began = [], {}, time.monotonic()
    with pool_of(arguments.workers) as pool:
        for work in phases(cfg, sweeps):
            for i, (found, finished) in enumerate(pool.imap_unordered(do, work), 1):
                rows += found
                stages |= finished
                print(f"\r{i}/{len(work)} cases, {time.monotonic() - began:.0f} s ",
                      end="" if sys.stderr.isatty() and i < len(work) else "\n", file=sys.stderr)
    rows.sort(key=lambda row: json.dumps(row, sort_keys=True))
    stages = dict(sorted(stages.items()))
    results = dict(config=asdict(cfg), stages=stages, rows=rows)
    write(Path(arguments.out) / "sweeps.json", to_json(results))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", default=",".join(SWEEPS), help="comma-separated (%(default)s)")
    parser.add_argument("--base-seeds", type=int, default=3, help="base models (%(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="seeds on each (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="(%(default)s here)")
    parser.add_argument("--out", default="out", help="folder, as the main job's (%(default)s)")
    with program():
        main(parser.parse_args())
