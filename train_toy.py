"""The whole road on one laptop: pretrain, sample, reward, pair, train with LPO, evaluate, draw.

    python train_toy.py                          all four experiments, one seed
    python train_toy.py --quick                  the same in small, under a minute
    python train_toy.py --experiments mix --variants latent,separate,nll --seeds 3

Results go to out/results.json and out/*.png. A stage is kept and reused while its options and its
code stay the same: an interrupted run, started again, goes on where it was.

P prompts, N responses to each, B pairs, T response tokens, K choices.
"""
import copy
import itertools
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from decoder import AdaptiveDecoder, aligned, response_logps
from lpo import drawn, lpo_loss, nll_loss, require
from tasks import EXPERIMENTS, TASKS, encode
from toy import plots, rows
from toy.check_task import check_task
from toy.evaluate import (draw_prompts, measure_adaptive, measure_fixed, respond, round_line,
                          round_rows)
from toy.intervals import interval_rows
from toy.options import PAIRINGS, parse
from toy.pretrain import base_key, base_model
from toy.samplers import choice_of
from toy.stages import Job, Stages, code_of, program, randomness, write

TIE = 1e-6  # of the larger reward: what single precision leaves of a sum of some dozen numbers

# --- LPO: sample, score, pair, update -------------------------------------------------------------


def real_numbers(name, values):
    """As (P,N) float64; ValueError unless all are finite numbers.

    Unsigned ones would wrap around when the order is reversed, and bools have no minus.
    """
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: {values!r:.60} are no numbers; give an array (P,N)") from None
    require(numbers.ndim == 2 and np.isfinite(numbers).all(),
            f"{name}: {values!r:.60} of shape {numbers.shape}; give finite numbers (P,N)")
    return numbers


def make_pairs(rewards, pairing="best-worst", second=None, k=3):
    """Chosen and rejected of each prompt, ties dropped.  (P,N) -> two lists of indices into P*N

    Rewards are any real numbers; a difference below TIE of the larger one's size is a tie, since
    sums in another order differ by as much.

    best-worst: the best against the worst. all: every pair of unequal rewards. top-k: among the k
    best the best by the second (P,N) criterion, against the worst by it among the k worst, as the
    paper does where two scores matter. Raises ValueError on rewards that are not finite numbers or
    not (P,N), and on an unknown pairing.
    """
    if pairing not in PAIRINGS:
        raise ValueError(f"unknown pairing {pairing!r}; choose from {', '.join(PAIRINGS)}")
    rewards = real_numbers("rewards", rewards)
    if pairing == "top-k":
        second = real_numbers("the second criterion", second)
        require(second.shape == rewards.shape, f"the second criterion is {second.shape}; give "
                                               f"{rewards.shape}, as the rewards")
        require(1 <= k <= rewards.shape[1] // 2,
                f"top_k is {k}; of {rewards.shape[1]} responses give 1 to half")
    chosen, rejected = [], []
    for p, of_prompt in enumerate(rewards):
        ranked = np.argsort(-of_prompt, kind="stable")  # best first
        if pairing == "best-worst":
            candidates = [(ranked[0], ranked[-1])]
        elif pairing == "all":
            candidates = itertools.permutations(ranked, 2)
        else:
            top, bottom = ranked[:k], ranked[-k:]
            candidates = [(top[second[p][top].argmax()], bottom[second[p][bottom].argmin()])]
        for better, worse in candidates:
            size = max(abs(of_prompt[better]), abs(of_prompt[worse]))
            if of_prompt[better] - of_prompt[worse] > TIE * size:
                chosen.append(p * len(of_prompt) + int(better))
                rejected.append(p * len(of_prompt) + int(worse))
    return chosen, rejected


def paired(cfg, outcome):
    """make_pairs by reward; top-k by the task's two criteria."""
    if cfg.pairing != "top-k":
        return make_pairs(outcome.rewards, cfg.pairing)
    first, second = TASKS[outcome.asked[0][0]].criteria
    return make_pairs(outcome.scores[first], "top-k", outcome.scores[second], cfg.top_k)


def sides_of(outcome, pairs):
    """Chosen and rejected, each as (B prompts, Rollout of B), of what make_pairs gives."""
    prompts = [encode(prompt) for _, prompt in outcome.asked]
    N = outcome.rewards.shape[1]
    return [([prompts[i // N] for i in side], outcome.rollout[side]) for side in pairs]


def update(model, decoder, reference, sides, variant, beta, lr, steps, model_lr=0.0,
           exact_sequence=False, tick=lambda fraction, text: None):
    """Train on one round's pairs, each update on all of them.  -> dict of statistics

    reference: (model, decoder or None), kept as they are. sides: chosen and rejected, each as
    (B prompts, Rollout of B). variant: a loss of lpo.py, or "nll". model_lr: 0 keeps the language
    model frozen; its hidden states (B,T,C) and log-probabilities (B,T,K) are then made only once.
    """
    ref_model, ref_decoder = reference
    with torch.no_grad():
        states = [aligned(model, prompts, rollout.tokens) for prompts, rollout in sides]
        frozen = [response_logps(model, decoder, *side, ref_decoder=ref_decoder, states=of_side)
                  for side, of_side in zip(sides, states)]
    optimizer = torch.optim.AdamW([dict(params=decoder.parameters(), lr=lr)], weight_decay=0.0)
    if model_lr:
        optimizer.add_param_group(dict(params=model.parameters(), lr=model_lr))
    for step in range(steps):
        if model_lr:
            logps = [response_logps(model, decoder, *side, ref_model, ref_decoder)
                     for side in sides]
        else:
            logps = [replace(side, tau_logps=decoder.response(hidden))
                     for side, (_, hidden) in zip(frozen, states)]
        check = step in (0, steps - 1)  # a GPU waits for it; NaN weights would stay NaN
        if variant == "nll":
            losses = nll_loss(logps[0], check)  # (B,)
        else:
            losses = lpo_loss(*logps, variant, beta, exact_sequence, check)  # (B,)
        loss = losses.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick((step + 1) / steps, lambda: f"loss {loss.item():.3f}")
        if step == 0:
            first_loss = loss.item()
    lost = torch.cat([impossible(side, variant)[side.mask] for side in logps])
    statistics = dict(loss_first=first_loss, loss_last=loss.item(),
                      impossible=lost.float().mean().item())
    if variant != "nll":  # which has no rejected side to be right about
        statistics["pair_accuracy"] = (losses < math.log(2)).float().mean().item()
    return statistics


def impossible(side, variant):
    """Tokens whose text scores 0 by the temperature-0 convention.  ResponseLogps -> (B,T) bool"""
    found = torch.zeros_like(side.mask)
    for logps in (side.text_logps, side.ref_text_logps):
        if variant == "joint":
            logps = drawn(logps, side.tau_idx)[..., None]  # (B,T,1): at the drawn temperature
        found |= logps.isneginf().all(-1)
    return found


def train(cfg, base, job, run, draw=draw_prompts, keep=lambda decoder: None):
    """The LPO loop on one experiment, whose prompts `draw` draws.  -> model, decoder, rows

    keep: called with the decoder at the start of each round, and at the end.
    """
    gen, rng = randomness(cfg.device, *job.seeds("train"))
    model = copy.deepcopy(base)
    decoder = AdaptiveDecoder(cfg.n_embd, map(choice_of, cfg.choices), job.level).to(cfg.device)
    exact = cfg.exact_sequence and job.variant == "latent" and job.level == "sequence"
    found = []
    for rnd in range(cfg.rounds):
        keep(decoder)
        if rnd == 0 or cfg.reference == "round":
            ref_model, ref_decoder = copy.deepcopy(model), copy.deepcopy(decoder)
            if job.variant in ("joint", "separate") and not cfg.decoder_reference:
                ref_decoder = None  # as the paper prints them
        asked = draw(job.experiment, "train", cfg.prompts, rng)
        outcome = respond(model, asked, cfg.responses, gen, decoder=decoder)
        pairs = paired(cfg, outcome)
        if not pairs[0] and not found:
            raise ValueError(f"round {rnd + 1} of {job.experiment} has no pair of unequal rewards; "
                             "raise --responses or --prompts")
        if not pairs[0]:  # a policy that has learned can get there
            run.say(f"  round {rnd + 1}  no pair of unequal rewards: nothing to learn from it")
            continue
        sides = sides_of(outcome, pairs)
        stats = update(model, decoder, (ref_model, ref_decoder), sides, job.variant, cfg.beta,
                       cfg.lr * (1 - rnd / cfg.rounds), cfg.steps, cfg.model_lr, exact,
                       lambda fraction, text: run.tick((rnd + fraction) / cfg.rounds / 2, text))
        columns = columns_of(cfg, job) | dict(round=rnd, pairs=len(pairs[0]))
        of_round = round_rows(outcome, cfg.choices, sides, stats, columns)
        run.say(round_line(of_round))
        found += of_round
    keep(decoder)
    return model, decoder, found


# --- the program ----------------------------------------------------------------------------------


def jobs(cfg):
    """Every stage in order, and about how many seconds it takes on two cores."""
    for base_seed in range(cfg.seed, cfg.seed + cfg.base_seeds):
        yield Job(base_seed), cfg.pretrain_steps / 30
        for experiment in cfg.experiments:
            yield Job(base_seed, experiment), cfg.test_prompts / 25
            seeds = range(cfg.seed, cfg.seed + cfg.seeds)
            for seed, variant, level in itertools.product(seeds, cfg.variants, cfg.levels):
                yield (Job(base_seed, experiment, level, variant, seed),
                       (cfg.rounds * cfg.prompts + cfg.test_prompts) / 250)


def columns_of(cfg, job):
    """What the table says of a decoder's rows: the job, and how it was trained."""
    return job.columns | dict(beta=cfg.beta, lr=cfg.lr, pairing=cfg.pairing,
                              reference=cfg.reference)


def adapt(cfg, base, fixed, job, run):
    """Train a decoder and evaluate it.  -> dict(rows, samples, scores, weights)

    by_round holds the decoder's weights before the first round and after each.
    """
    by_round = []
    model, decoder, of_rounds = train(cfg, base, job, run, keep=lambda decoder: by_round.append(
        copy.deepcopy(decoder).cpu().state_dict()))
    result = measure_adaptive(cfg, model, decoder, fixed, job, columns_of(cfg, job), run)
    return result | dict(rows=of_rounds + result["rows"], decoder=decoder.cpu().state_dict(),
                         by_round=by_round,
                         model=model.cpu().state_dict() if cfg.model_lr else None)


def stage_keys(cfg):
    """What a measurement of fixed temperatures, and one of a trained decoder, depends on."""
    choosing = ("out", "experiments", "levels", "variants", "seed", "seeds", "base_seeds")
    options = {name: value for name, value in asdict(cfg).items() if name not in choosing}
    of_test = {name: value for name, value in options.items()
               if name.startswith(("choices", "test", "votes", "oracle"))}
    of_fixed = [base_key(cfg), of_test, code_of(
        "lpo.py", "decoder.py", "fast/generate.py", "fast/cache.py", "toy/evaluate.py",
        "toy/samplers.py")]
    return of_fixed, [of_fixed, options, code_of("train_toy.py", "toy/rows.py")]


def main(cfg):
    for name in dict.fromkeys(name for e in cfg.experiments for name in EXPERIMENTS[e]):
        check_task(name)
    for experiment in cfg.experiments:  # what is refused is refused before the pretraining
        for split, n in dict(train=cfg.prompts, validation=cfg.oracle_prompts,
                             test=cfg.test_prompts).items():
            draw_prompts(experiment, split, n, np.random.default_rng(0))
    run = Stages(cfg.out, {job.name: cost for job, cost in jobs(cfg)}, cfg.device)
    of_fixed, of_adaptive = stage_keys(cfg)
    table, samples, runs = [], [], []
    for job, _ in jobs(cfg):
        if job.experiment is None:
            base = base_model(cfg, job.base_seed, run)
        elif job.level is None:
            fixed = run(job.name, of_fixed, lambda: measure_fixed(cfg, base, job, run))
            table += fixed["rows"]
        else:
            result = run(job.name, of_adaptive, lambda: adapt(cfg, base, fixed, job, run))
            table += result["rows"]
            samples += result["samples"]
            runs.append((job, columns_of(cfg, job), result["scores"], fixed))
    results = dict(config=asdict(cfg), stages=run.finished, samples=samples,
                   rows=table + interval_rows(cfg, runs))
    write(Path(cfg.out) / "results.json", rows.to_json(results))
    for path in plots.draw(results, Path(cfg.out)):
        print(path)
    print(rows.summary(results))
    print(rows.how_to_ask(results))


if __name__ == "__main__":
    with program():
        main(parse(sys.argv[1:], __doc__))
