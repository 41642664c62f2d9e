"""The whole road on one laptop: pretrain, sample, reward, pair, train with LPO, evaluate, draw.

    python train_toy.py                          all four experiments, one seed
    python train_toy.py --quick                  the same in small, under a minute
    python train_toy.py --experiments mix --variants latent,separate,nll --seeds 3

Results go to out/results.json and out/*.png. A stage is kept and reused while its options and its
code stay the same: an interrupted run, started again, goes on where it was.
"""
import copy
import itertools
import math
import platform
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

import plots
from decoder import AdaptiveDecoder, aligned, response_logps
from evaluate import draw_prompts, measure_adaptive, measure_fixed, respond, round_line, round_rows
from intervals import interval_rows
from lpo import drawn, lpo_loss, nll_loss
from options import parse
from pretrain import base_key, base_model
from stages import Stages, code_of, randomness, write
from tasks import encode

# --- LPO: sample, score, pair, update ------------------------------------------------------------


def make_pairs(scores, pairing="best-worst", second=None, k=3):
    """Chosen and rejected of each prompt, ties dropped.  (P,N) -> two lists of indices into P*N

    best-worst: the best against the worst. all: every pair of unequal scores. top-k: among the k
    best the best by the second (P,N) criterion, against the worst by it among the k worst, as the
    paper does where two scores matter.
    """
    if pairing == "top-k" and not 1 <= k <= scores.shape[1] // 2:
        raise ValueError(f"top_k is {k}; of {scores.shape[1]} responses give 1 to half")
    if np.isnan(scores).any():
        raise ValueError("a reward is NaN; give numbers")
    chosen, rejected = [], []
    for p, here in enumerate(scores):
        ranked = np.argsort(-here, kind="stable")
        if pairing == "best-worst":
            pairs = [(ranked[0], ranked[-1])]
        elif pairing == "all":
            pairs = itertools.permutations(ranked, 2)
        elif pairing == "top-k":
            top, bottom = ranked[:k], ranked[-k:]
            pairs = [(top[second[p][top].argmax()], bottom[second[p][bottom].argmin()])]
        else:
            raise ValueError(f"unknown pairing {pairing!r}; choose best-worst, all or top-k")
        for i, j in pairs:
            if here[i] > here[j]:
                chosen.append(p * len(here) + int(i))
                rejected.append(p * len(here) + int(j))
    return chosen, rejected


def paired(cfg, outcome):
    """make_pairs by reward; top-k takes constraint first, then quality."""
    if cfg.pairing != "top-k":
        return make_pairs(outcome.rewards, cfg.pairing)
    return make_pairs(outcome.scores["constraint"], "top-k", outcome.scores["quality"], cfg.top_k)


def sides_of(outcome, pairs):
    """Chosen and rejected, each as (prompts, rollout), of what make_pairs gives."""
    ids, samples = [encode(prompt) for _, prompt in outcome.asked], outcome.rewards.shape[1]
    return [([ids[i // samples] for i in side], outcome.rollout[side]) for side in pairs]


def update(cfg, variant, lr, model, decoder, reference, sides, tick):
    """Train on one round's pairs, given as (prompts, rollout) of each side.  -> statistics

    While the language model is frozen, its hidden states and log-probabilities are made only once.
    """
    ref_model, ref_decoder = reference
    if variant in ("joint", "separate") and not cfg.decoder_reference:
        ref_decoder = None  # as the paper prints them
    with torch.no_grad():
        frozen = [(response_logps(model, decoder, *side, ref_decoder=ref_decoder),
                   aligned(model, side[0], side[1].tokens)[1]) for side in sides]
    optimizer = torch.optim.AdamW([dict(params=decoder.parameters(), lr=lr)], weight_decay=0.0)
    if cfg.model_lr:
        optimizer.add_param_group(dict(params=model.parameters(), lr=cfg.model_lr))
    exact = cfg.exact_sequence and variant == "latent" and decoder.level == "sequence"
    for step in range(cfg.steps):
        if cfg.model_lr:
            logps = [response_logps(model, decoder, *side, ref_model, ref_decoder)
                     for side in sides]
        else:
            logps = [replace(side, tau_logps=decoder.response(hidden)) for side, hidden in frozen]
        losses = (nll_loss(logps[0]) if variant == "nll" else
                  lpo_loss(*logps, variant, cfg.beta, exact))  # (pairs,)
        loss = losses.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick(step / cfg.steps, f"loss {loss.item():.3f}")
        first = loss.item() if step == 0 else first
    lost = [impossible(side, variant)[side.mask] for side in logps]
    return dict(loss_first=first, loss_last=loss.item(), impossible=torch.cat(lost).float().mean(),
                pair_accuracy=(losses < math.log(2)).float().mean())


def impossible(side, variant):
    """Tokens whose text scores 0 by the temperature-0 convention.  -> (B,T) bool"""
    logps = [drawn(x, side.tau_idx)[..., None] if variant == "joint" else x
             for x in (side.text_logps, side.ref_text_logps)]
    return torch.stack([x.isneginf().all(-1) for x in logps]).any(0)


def train(cfg, base, keys, run, draw=draw_prompts):
    """The LPO loop on one experiment, whose prompts `draw` draws.  -> model, decoder, rows"""
    gen, rng = randomness(cfg.device, "train", *keys.values())
    model, rows = copy.deepcopy(base), []
    decoder = AdaptiveDecoder(cfg.n_embd, cfg.temperatures, keys["level"]).to(cfg.device)
    for rnd in range(cfg.rounds):
        if rnd == 0 or cfg.reference == "round":
            reference = copy.deepcopy(model), copy.deepcopy(decoder)
        asked = draw(keys["experiment"], "train", cfg.prompts, rng)
        outcome = respond(model, asked, cfg.responses, gen, decoder=decoder)
        pairs = paired(cfg, outcome)
        if not pairs[0] and not rows:
            raise ValueError(f"round {rnd + 1} of {keys['experiment']} has no pair of unequal "
                             "rewards; raise --responses or --prompts")
        if not pairs[0]:  # a policy that has learned can get there
            run.say(f"  round {rnd + 1}  no pair of unequal rewards: nothing to learn from it")
            continue
        sides = sides_of(outcome, pairs)
        stats = update(cfg, keys["variant"], cfg.lr * (1 - rnd / cfg.rounds), model, decoder,
                       reference, sides, lambda f, text: run.tick((rnd + f) / cfg.rounds / 2, text))
        here = round_rows(cfg, outcome, sides, stats, keys | dict(round=rnd, pairs=len(pairs[0])))
        run.say(round_line(here))
        rows += here
    return model, decoder, rows


# --- the program ---------------------------------------------------------------------------------


def jobs(cfg):
    """Every stage in order: (name, what it is of, about how many seconds on two cores)."""
    for base_seed in range(cfg.seed, cfg.seed + cfg.base_seeds):
        yield f"base{base_seed}", dict(base_seed=base_seed), cfg.pretrain_steps / 40
        for experiment in cfg.experiments:
            keys = dict(experiment=experiment, base_seed=base_seed)
            yield f"base{base_seed}-{experiment}", keys, cfg.test_prompts / 20
            seeds = range(cfg.seed, cfg.seed + cfg.seeds)
            for seed, variant, level in itertools.product(seeds, cfg.variants, cfg.levels):
                of = dict(keys, seed=seed, level=level, variant=variant, beta=cfg.beta, lr=cfg.lr,
                          pairing=cfg.pairing, reference=cfg.reference)
                yield (f"base{base_seed}-{experiment}-{variant}-{level}{seed}", of,
                       (cfg.rounds * cfg.prompts + cfg.test_prompts) / 150)


def adapt(cfg, base, fixed, keys, run):
    """Train a decoder and evaluate it.  -> dict(rows, samples, scores, weights)"""
    model, decoder, rows = train(cfg, base, keys, run)
    result = measure_adaptive(cfg, model, decoder, fixed, keys, run)
    return result | dict(rows=rows + result["rows"], decoder=decoder.cpu().state_dict(),
                         model=model.cpu().state_dict() if cfg.model_lr else None)


def stage_keys(cfg):
    """What a measurement of fixed temperatures, and one of a trained decoder, depends on."""
    options = {k: v for k, v in asdict(cfg).items() if k not in ("out", "experiments", "levels",
               "variants", "seed", "seeds", "base_seeds")}  # these choose stages, and change none
    of_fixed = [base_key(cfg), code_of("decoder.py", "cache.py", "evaluate.py"), {
        k: v for k, v in options.items() if k.startswith(("te", "votes", "oracle"))}]
    return of_fixed, [of_fixed, options, code_of("lpo.py", "train_toy.py")]


def main(cfg):
    run = Stages(cfg.out, {name: cost for name, _, cost in jobs(cfg)})
    of_fixed, of_adaptive = stage_keys(cfg)
    rows, samples, runs = [], [], []
    for name, keys, _ in jobs(cfg):
        if "experiment" not in keys:
            base = base_model(cfg, keys["base_seed"], run)
        elif "level" not in keys:
            fixed = run(name, of_fixed, lambda: measure_fixed(cfg, base, keys, run))
            rows += fixed["rows"]
        else:
            result = run(name, of_adaptive, lambda: adapt(cfg, base, fixed, keys, run))
            rows, samples = rows + result["rows"], samples + result["samples"]
            runs.append((keys, result["scores"], fixed))
    environment = dict(python=platform.python_version(), torch=torch.__version__, device=cfg.device,
                       machine=platform.machine(), threads=torch.get_num_threads())
    results = dict(schema=1, config=asdict(cfg), environment=environment, seconds=run.seconds,
                   rows=rows + interval_rows(cfg, runs), samples=samples)
    write(Path(cfg.out) / "results.json", plots.to_json(results))
    for path in plots.draw(results, Path(cfg.out)):
        print(path)


if __name__ == "__main__":
    try:
        main(parse(sys.argv[1:], __doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: the same command goes on from the last finished stage")
