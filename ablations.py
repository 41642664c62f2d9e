"""The sweeps behind RESULTS.md: what each loss costs, what each option does, and where it fails.

    python ablations.py                              all of them, one process a core
    python ablations.py --sweeps pairs,gradient --base-seeds 1

Rows go to ablations.json in the main job's folder, whose base models they share; a finished job is
kept and reused. Everything is tuned on validation prompts and reported on test prompts.
"""
import argparse
import contextlib
import copy
import io
import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import options
from decoder import AdaptiveDecoder, Rollout, aligned, response_logps
from evaluate import draw_prompts, measure_fixed, respond, test_set
from lpo import drawn, log_ratio, lpo_loss, nll_loss
from plots import to_json
from pretrain import base_model
from stages import Stages, code_of, randomness, write
from tasks import CATEGORIES, EOS, PROMPT_LENGTH, corpus, encode
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
UNSEEN = ("tools", "colours", "drums")  # half of the categories, left out of the training prompts
KEYWORDS = {"math": ("sum", "up"), "general": ("list", "five"), "story": ("tell", "how")}
STEPS = (250, 500, 1000, 2000)  # of pretraining, and so how much of the tasks is learned


class Silent:
    """Where train and update report to."""

    def tick(self, *_):
        pass

    say = tick


# --- what the sweeps share -----------------------------------------------------------------------


def reward(cfg, model, decoder, asked, gen, **policy):
    """Mean reward of a decoder's responses, four a prompt."""
    return respond(model, asked, 4, gen, decoder=decoder, **policy).rewards.mean()


def gather(cfg, base, keys, count, gen, rng):
    """`count` pairs of an untrained decoder's responses.  -> two sides of (prompts, rollout)"""
    decoder, sides = AdaptiveDecoder(cfg.n_embd, cfg.temperatures, keys["level"]), ([], [])
    while sum(len(ids) for ids, _ in sides[0]) < count:
        asked = draw_prompts(keys["experiment"], "train", 240, rng)
        outcome = respond(base, asked, cfg.responses, gen, decoder=decoder)
        for side, more in zip(sides, sides_of(outcome, make_pairs(outcome.rewards))):
            side.append(more)
    return [first(count, (sum((ids for ids, _ in side), []),
                          Rollout.cat([rollout for _, rollout in side]))) for side in sides]


def first(count, side):
    return side[0][:count], side[1][:count]


def share(value, fixed):
    """Of the headroom between the best fixed temperature and the oracle."""
    best = max(scores["reward"].mean().item() for scores in fixed["fixed"].values())
    return (value - best) / (fixed["oracle"]["reward"].mean().item() - best)


# --- the sweeps: each yields its jobs, and one function does a job  -> rows -----------------------


def pairs_jobs():
    for experiment in ("mix", "constrained", "vote"):
        yield dict(experiment=experiment, level=LEVEL[experiment])


def pairs(cfg, base, fixed, keys):
    """One offline round of exactly n pairs, 120 updates, beta and learning rate by validation."""
    gen, rng = randomness("cpu", "pairs", *keys.values())
    sides = gather(cfg, base, keys, max(PAIRS), gen, rng)
    asked, _ = test_set(cfg, keys["experiment"])
    tuning = draw_prompts(keys["experiment"], "validation", 96, rng)
    for variant, n in itertools.product(("latent", "separate", "nll"), PAIRS):
        found = []
        for beta, lr in GRID if variant != "nll" else GRID[:3]:
            torch.manual_seed(keys["seed"])
            decoder = AdaptiveDecoder(cfg.n_embd, cfg.temperatures, keys["level"])
            update(replace(cfg, steps=120, beta=beta), variant, lr, base, decoder,
                   (None, copy.deepcopy(decoder)), [first(n, side) for side in sides], Silent.tick)
            found.append((reward(cfg, base, decoder, tuning, gen), beta, lr, decoder))
        _, beta, lr, decoder = max(found, key=lambda f: f[0])
        here = dict(variant=variant, x=n)
        value = reward(cfg, base, decoder, asked, gen)
        yield here | dict(metric="reward", value=value)
        yield here | dict(metric="share", value=share(value, fixed))
        yield here | dict(metric="share of the arg-max", value=share(
            reward(cfg, base, decoder, asked, gen, tau_select="greedy"), fixed))
        yield here | dict(metric="beta", value=beta)
        yield here | dict(metric="lr", value=lr)


def gradient_jobs():
    for experiment, level in LEVEL.items():
        yield dict(experiment=experiment, level=level)


def gradient(cfg, base, fixed, keys):
    """Signal and noise of one pair's gradient at the start of training, in the last layer, the only
    one that has a gradient there: |E g| / sqrt(E |g - E g|^2), the bias of |mean|^2 taken off."""
    gen, rng = randomness("cpu", "gradient", *keys.values())
    sides = gather(cfg, base, keys, 250, gen, rng)
    decoder = AdaptiveDecoder(cfg.n_embd, cfg.temperatures, keys["level"])
    forms = ["separate", "latent"] + ["latent, exact"] * (keys["level"] == "sequence") + ["nll"]
    logps = [response_logps(base, decoder, *side, ref_decoder=copy.deepcopy(decoder))
             for side in sides]
    last, mean = list(decoder.mlp[-1].parameters()), {}
    for form in forms:
        losses = (nll_loss(logps[0]) if form == "nll" else
                  lpo_loss(*logps, form.partition(",")[0], 1.0, "exact" in form))
        g = torch.stack([torch.cat([x.flatten() for x in torch.autograd.grad(
            loss, last, retain_graph=True)]) for loss in losses])  # (pairs, weights)
        mean[form], noise = g.mean(0), g.var(0).sum()
        signal = (mean[form].square().sum() - noise / len(g)).clamp(min=0)
        here = dict(variant=form)
        yield here | dict(metric="signal to noise", value=(signal / noise).sqrt().item())
        yield here | dict(metric="signal", value=signal.sqrt().item())
        yield here | dict(metric="noise", value=noise.sqrt().item())
        yield here | dict(metric="cosine with separate", value=F.cosine_similarity(
            mean[form], mean["separate"], dim=0).item())


def change_jobs():
    for experiment, variant in itertools.product(LEVEL, ("latent", "separate")):
        for option, values in CHANGES.items():
            for value in values:
                if (value != "top-k" or experiment == "constrained") and (
                        option != "decoder_reference" or variant == "separate"):
                    yield dict(experiment=experiment, level=LEVEL[experiment], variant=variant,
                               setting=option, x=value)


def change(cfg, base, fixed, keys):
    """The main job's training with one option changed."""
    option, x = keys["setting"], keys["x"]
    if option == "rounds":
        cfg = replace(cfg, prompts=cfg.rounds * cfg.prompts // x, steps=cfg.rounds * cfg.steps // x)
    cfg = replace(cfg, **{option: x})
    stream = {k: keys[k] for k in ("experiment", "level", "variant", "base_seed", "seed")}
    model, decoder, rows = train(cfg, base, stream, Silent())
    gen, _ = randomness("cpu", "change", *keys.values())
    asked, _ = test_set(cfg, keys["experiment"])
    value = reward(cfg, model, decoder, asked, gen)
    yield dict(metric="reward", value=value)
    yield dict(metric="share", value=share(value, fixed))


def unfrozen_jobs():
    for setting, lr in itertools.product(UNFROZEN, MODEL_LR):
        if lr or setting in ("joint", "latent"):
            yield dict(experiment="mix", level="token", setting=setting, x=lr)


def unfrozen(cfg, base, fixed, keys):
    """Three rounds of 20 updates on model and decoder. KL: to the base model, on both sides' texts.
    Anchor: the mean log-probability of the chosen texts at temperature 1."""
    how = dict(variant="joint", beta=cfg.beta, coldest=0.0, hottest=2.0, kl=0.0, anchor=0.0)
    how |= UNFROZEN[keys["setting"]]
    taus = [tau for tau in cfg.temperatures if how["coldest"] <= tau <= how["hottest"]]
    experiment, lr = keys["experiment"], keys["x"]
    gen, rng = randomness("cpu", "unfrozen", experiment, keys["base_seed"], keys["seed"])
    model, decoder = copy.deepcopy(base), AdaptiveDecoder(cfg.n_embd, taus, "token")
    step = 0
    for rnd in range(3):
        reference = copy.deepcopy(model), copy.deepcopy(decoder)
        if how["variant"] == "joint":
            reference = reference[0], None  # as the paper prints it
        asked = draw_prompts(experiment, "train", cfg.prompts, rng)
        outcome = respond(model, asked, cfg.responses, gen, decoder=decoder)
        yield dict(metric="round reward", round=rnd, value=outcome.rewards.mean())
        sides = sides_of(outcome, make_pairs(outcome.rewards))
        if not sides[0][0]:
            break
        with torch.no_grad():
            frozen = [aligned(base, side[0], side[1].tokens)[0].log_softmax(-1) for side in sides]
        optimizer = torch.optim.AdamW([dict(params=decoder.parameters(), lr=cfg.lr),
                                       dict(params=model.parameters(), lr=lr)], weight_decay=0.0)
        for _ in range(cfg.steps):
            logps = [response_logps(model, decoder, *side, *reference) for side in sides]
            loss = lpo_loss(*logps, how["variant"], how["beta"]).mean()
            for name, side in zip(("chosen", "rejected"), logps):
                moved = log_ratio(drawn(side.text_logps, side.tau_idx),
                                  drawn(side.ref_text_logps, side.tau_idx))
                dead = drawn(side.text_logps, side.tau_idx)[side.mask].isneginf()
                yield dict(metric=f"{name} log-ratio", round=rnd, step=step,
                           value=moved.masked_fill(~side.mask, 0).sum(-1).mean().item())
                yield dict(metric=f"{name} impossible", round=rnd, step=step,
                           value=dead.float().mean().item())
            if how["kl"] or how["anchor"]:
                for i, (side, old) in enumerate(zip(sides, frozen)):
                    mask = side[1].mask
                    new = aligned(model, side[0], side[1].tokens)[0].log_softmax(-1)
                    loss = loss + how["kl"] * (old.exp() * (old - new)).sum(-1)[mask].mean()
                    if i == 0:
                        text = new.gather(-1, side[1].tokens[..., None])[..., 0]
                        loss = loss - how["anchor"] * text[mask].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    asked, _ = test_set(cfg, experiment)
    yield dict(metric="reward", value=reward(cfg, model, decoder, asked, gen))
    for tau in cfg.temperatures:
        yield dict(metric="reward at a fixed temperature", temperature=tau,
                   value=respond(model, asked, 2, gen, temperature=tau).rewards.mean())
    yield dict(metric="corpus loss", value=corpus_loss(model, experiment))
    yield dict(metric="corpus loss of the base", value=corpus_loss(base, experiment))


@torch.no_grad()
def corpus_loss(model, experiment):
    """Cross-entropy of fresh corpus responses, nats a token."""
    losses = []
    for task in dict.fromkeys(name for name, _ in draw_prompts(experiment, "train", 3,
                                                               np.random.default_rng(0))):
        idx = torch.tensor([encode(prompt) + encode(text) + [EOS] for prompt, text in
                            corpus(task, 200, np.random.default_rng(1))])
        logits = model(idx[:, :-1])[0][:, PROMPT_LENGTH - 1:]
        losses.append(F.cross_entropy(logits.transpose(1, 2), idx[:, PROMPT_LENGTH:]).item())
    return np.mean(losses)


def failure_jobs():
    for experiment in ("mix", "constrained"):
        yield dict(experiment=experiment, level=LEVEL[experiment], setting="unseen categories")
    for level in ("token", "sequence"):
        yield dict(experiment="mix", level=level, setting="no keyword")
    for experiment, steps in itertools.product(("mix", "constrained", "vote"), STEPS):
        yield dict(experiment=experiment, level=LEVEL[experiment], setting="pretraining", x=steps)
    for experiment, beta in itertools.product(("repeats", "constrained"), (0.1, 0.5, 2.0)):
        yield dict(experiment=experiment, level="token", setting="one-hot", x=beta)


def failure(cfg, base, fixed, keys):
    """Categories that training left out; prompts whose type no word gives away; a base model that
    has not learned its tasks; how soon the decoder is sure, and whether it is right."""
    gen, rng = randomness("cpu", "failure", *keys.values())
    stream = {k: keys[k] for k in ("experiment", "level", "base_seed", "seed")} | {
        "variant": "latent"}
    asked, _ = test_set(cfg, keys["experiment"])

    def compare(decoder, asked, **more):
        """The decoder, and the best fixed temperature on the same prompts."""
        best = max(respond(base, asked, 4, gen, temperature=tau).rewards.mean()
                   for tau in cfg.temperatures)
        yield dict(metric="reward", value=reward(cfg, base, decoder, asked, gen), **more)
        yield dict(metric="best fixed", value=best, **more)
    if keys["setting"] == "unseen categories":
        def of(item, names):
            return item[0] in ("general", "constrained") and set(item[1].split()) & set(names)

        def seen(experiment, split, n, rng):
            return [item for item in draw_prompts(experiment, split, 2 * n, rng)
                    if not of(item, UNSEEN)][:n]
        for variant, draw in (("trained on half", seen), ("trained on all", draw_prompts)):
            _, decoder, _ = train(cfg, base, stream, Silent(), draw)
            for name, words in (("seen", set(CATEGORIES) - set(UNSEEN)), ("unseen", UNSEEN)):
                yield from compare(decoder, [item for item in asked if of(item, words)],
                                   variant=variant, group=name)
    elif keys["setting"] == "no keyword":
        _, decoder, _ = train(cfg, base, stream, Silent())
        blind = [(name, " ".join("please" if word in KEYWORDS[name] else word
                                 for word in prompt.split())) for name, prompt in asked]
        for variant, prompts in (("keyword", asked), ("no keyword", blind)):
            for name in KEYWORDS:
                yield from compare(decoder, [item for item in prompts if item[0] == name],
                                   variant=variant, group=name)
    elif keys["setting"] == "pretraining":
        _, decoder, _ = train(cfg, base, stream, Silent())
        yield from compare(decoder, asked)
        yield dict(metric="corpus loss", value=corpus_loss(base, keys["experiment"]))
    else:
        _, decoder, _ = train(replace(cfg, beta=keys["x"]), base, stream, Silent())
        outcome = respond(base, asked, 2, gen, decoder=decoder)
        ids = [encode(prompt) for _, prompt in asked for _ in range(2)]
        logps = response_logps(base, decoder, ids, outcome.rollout)
        p = logps.tau_logps.detach().exp()[logps.mask]
        yield dict(metric="reward", value=outcome.rewards.mean())
        yield dict(metric="share", value=share(outcome.rewards.mean(), fixed))
        yield dict(metric="largest probability", value=p.amax(-1).mean().item())
        yield dict(metric="sure", value=(p.amax(-1) > 0.99).float().mean().item())


SWEEPS = {"pairs": (pairs_jobs, pairs), "gradient": (gradient_jobs, gradient),
          "change": (change_jobs, change), "unfrozen": (unfrozen_jobs, unfrozen),
          "failure": (failure_jobs, failure)}


# --- the program ---------------------------------------------------------------------------------


def do(work):
    """One job, in a process of its own.  -> rows"""
    cfg, sweep, keys = work
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):
        weak = sweep == "failure" and keys["setting"] == "pretraining"
        cfg = replace(cfg, pretrain_steps=keys["x"]) if weak else cfg
        of_fixed, of_adaptive = stage_keys(cfg)
        base_seed, name = keys["base_seed"], "-".join([sweep, *map(str, keys.values())])
        here = f"base{base_seed}-{keys.get('experiment')}"
        run = Stages(cfg.out, {f"base{base_seed}": 1, here: 1, name: 1})
        base = base_model(cfg, base_seed, run)
        if sweep == "base":
            return []
        fixed = None if weak else run(here, of_fixed, lambda: measure_fixed(cfg, base, dict(
            experiment=keys["experiment"], base_seed=base_seed), run))
        if sweep == "fixed":
            return []
        rows = run(name, [of_adaptive, code_of(SWEEPS[sweep][1], gather, reward)],
                   lambda: dict(rows=[row | dict(value=float(row["value"])) for row in
                                      SWEEPS[sweep][1](cfg, base, fixed, keys)]))["rows"]
    return [dict(sweep=sweep) | keys | row for row in rows]


def phases(cfg, sweeps):
    """Jobs that may run beside each other: base models, fixed temperatures, then the sweeps."""
    bases = [dict(base_seed=b) for b in range(cfg.base_seeds)]
    lengths = {cfg.pretrain_steps, *(STEPS if "failure" in sweeps else ())}
    yield [(replace(cfg, pretrain_steps=n), "base", keys) for n in lengths for keys in bases]
    yield [(cfg, "fixed", keys | dict(experiment=e)) for e in LEVEL for keys in bases]
    yield [(cfg, sweep, job | keys | dict(seed=seed)) for sweep in sweeps
           for job in SWEEPS[sweep][0]() for keys in bases for seed in range(cfg.seeds)]


def main(arguments):
    sweeps = arguments.sweeps.split(",")
    if not set(sweeps) <= set(SWEEPS) or len(set(sweeps)) < len(sweeps):
        raise ValueError(f"--sweeps is {arguments.sweeps}; name each once of {', '.join(SWEEPS)}")
    cfg = options.parse(["--device", "cpu", "--base-seeds", str(arguments.base_seeds), "--seeds",
                         str(arguments.seeds), "--out", arguments.out], __doc__)
    rows, began = [], time.monotonic()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the workers inherit
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        signal.signal(signal.SIGINT, handler)
        for jobs in phases(cfg, sweeps):
            for i, found in enumerate(pool.imap_unordered(do, jobs), 1):
                rows += found
                print(f"\r{i}/{len(jobs)} jobs, {time.monotonic() - began:.0f} s ",
                      end="" if sys.stderr.isatty() and i < len(jobs) else "\n", file=sys.stderr)
    rows.sort(key=lambda row: json.dumps(row, sort_keys=True))
    write(Path(arguments.out) / "ablations.json", to_json(dict(
        seconds=round(time.monotonic() - began), workers=arguments.workers, rows=rows)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", default=",".join(SWEEPS), help="comma-separated (%(default)s)")
    parser.add_argument("--base-seeds", type=int, default=3, help="base models (%(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="seeds on each (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="(%(default)s here)")
    parser.add_argument("--out", default="out", help="folder, as the main job's (%(default)s)")
    try:
        main(parser.parse_args())
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: the same command goes on from the finished jobs")
