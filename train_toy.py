"""The main job: pretrain a base model; train decoders with LPO; evaluate them; plot.

    python train_toy.py                          all four experiments, both levels
    python train_toy.py --quick                  the same, small: under a minute
    python train_toy.py --experiments mix --variants latent,separate,nll

Results go to out/results.json and out/*.png. The base model and each decoder are kept in out/*.pt
and used again while their options, and the code that toy/files.py lists, stay the same.

P prompts, N responses to each, B pairs, T response tokens, K choices.
"""
import copy
import itertools
import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from decoder import LEVELS, AdaptiveDecoder, aligned, response_logps
from lpo import VARIANTS, lpo_loss, require
from tasks import EXPERIMENTS, TASKS
from toy import evaluate, files, figures
from toy.check_task import check_experiment
from toy.evaluate import finite_numbers, respond, sample_prompts
from toy.models import new_model, pretrain, restored
from toy.options import option, parse
from toy.samplers import choice_of, label

PAIRINGS, REFERENCES = ("best-worst", "top-k", "all"), ("round", "initial")
TIE = 1e-6  # rewards closer than this share of the larger one differ by rounding only


@dataclass(frozen=True)
class Config:
    experiments: tuple = option(tuple(EXPERIMENTS), "what to learn", choices=tuple(EXPERIMENTS))
    levels: tuple = option(LEVELS, "a choice per token, or one per response", choices=LEVELS)
    variants: tuple = option(("latent",), "losses", choices=VARIANTS)
    choices: tuple = option((0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2), "what the decoder picks among: "
                            "temperatures, or samplers as in min_p=.05@3 (toy/samplers.py)")
    beta: float = option(0.5, "scale of the margin; larger stays closer to the reference")
    lr: float = option(2e-3, "learning rate of the decoder; falls linearly over the rounds")
    rounds: int = option(6, "rounds of sampling, rewarding, pairing and updating")
    prompts: int = option(120, "training prompts per round")
    responses: int = option(8, "responses per training prompt")
    steps: int = option(20, "gradient steps per round, each on all pairs of the round")
    pairing: str = option("best-worst", "which responses make pairs", choices=PAIRINGS)
    top_k: int = option(3, "k of --pairing top-k, which needs two criteria")
    reference: str = option("round", "policy before each round, or the first", choices=REFERENCES)
    decoder_reference: bool = option(False, "a decoder reference in joint and separate too")
    model_lr: float = option(0.0, "learning rate of the language model; 0: frozen", zero=True)
    seed: int = option(0, "of the base model and the decoders", zero=True)
    device: str = option("auto", "cpu, cuda, or auto: a CUDA GPU if there is one")
    n_layer: int = option(2, "layers of the language model")
    n_head: int = option(4, "attention heads of the language model")
    n_embd: int = option(64, "hidden width of the language model")
    pretrain_steps: int = option(1600, "updates of the base model")
    pretrain_lr: float = option(4e-3, "peak learning rate of the base model")
    test_prompts: int = option(240, "held-out prompts per experiment")
    test_samples: int = option(8, "responses per held-out prompt")
    votes: int = option(32, "responses per held-out prompt where a majority is counted")
    oracle_prompts: int = option(96, "validation prompts to find the oracle's choices")
    out: str = option("out", "folder for results, figures and weights")


QUICK = dict(pretrain_steps=200, rounds=2, prompts=24, test_prompts=24, test_samples=2, votes=8,
             oracle_prompts=6, out="out/quick")


def checked(cfg):
    """The options, with choices as labels; ValueError if they do not fit together."""
    choices = tuple(map(choice_of, cfg.choices))
    AdaptiveDecoder(1, choices)  # refuses what is not a choice
    new_model(cfg.n_layer, cfg.n_head, cfg.n_embd)  # refuses sizes that do not fit
    require(choices != (0.0,), "--choices 0 gives one response per prompt and no pair; add others")
    if "latent_exact" in cfg.variants:
        require(cfg.levels == ("sequence",), "latent_exact needs --levels sequence")
    least = 2 * cfg.top_k if cfg.pairing == "top-k" else 2
    require(cfg.responses >= least, f"--responses is {cfg.responses}; give {least} or more")
    for experiment in cfg.experiments:
        check_experiment(experiment, cfg.pairing == "top-k", train=cfg.prompts,
                         validation=cfg.oracle_prompts, test=cfg.test_prompts)
    return replace(cfg, choices=tuple(map(label, choices)))


# --- one round of LPO: pairs, then updates --------------------------------------------------------


def make_pairs(rewards, pairing="best-worst", second=None, k=3):
    """Chosen and rejected responses to each prompt.  (P,N) -> two lists of indices into P*N

    best-worst: the best response against the worst. all: every two responses of unequal reward.
    top-k, for two rewards (P,N), as in the paper: of the k best by the first, the best by the
    second, against the worst by the second of the k worst by the first. Equal (first)
    rewards make no pair. Raises ValueError on other pairings, and on what is not a finite number.
    """
    require(pairing in PAIRINGS, f"unknown pairing {pairing!r}; choose from {', '.join(PAIRINGS)}")
    rewards = finite_numbers("rewards", rewards)
    if pairing == "top-k":
        second = finite_numbers("second rewards", second)
        require(second.shape == rewards.shape, "second rewards of another shape")
        most = rewards.shape[1] // 2
        require(1 <= k <= most, f"top_k is {k}; of {rewards.shape[1]} responses give 1 to {most}")
    chosen, rejected = [], []
    for p, r in enumerate(rewards):
        ranked = np.argsort(-r, kind="stable")  # best first
        candidates = [(ranked[0], ranked[-1])]
        if pairing == "all":
            candidates = itertools.permutations(ranked, 2)
        elif pairing == "top-k":
            top, bottom = ranked[:k], ranked[-k:]
            candidates = [(top[second[p][top].argmax()], bottom[second[p][bottom].argmin()])]
        for better, worse in candidates:
            if r[better] - r[worse] > TIE * max(abs(r[better]), abs(r[worse])):
                chosen.append(p * len(r) + int(better))
                rejected.append(p * len(r) + int(worse))
    return chosen, rejected


def update(model, decoder, reference, sides, variant, beta, lr, steps, model_lr=0.0,
           progress=lambda step, text: None):
    """Train on the pairs of one round, each step on all of them.  -> statistics of the last step

    reference: (model, decoder or None), which are not changed. sides: the chosen and the rejected
    responses, each as (B prompts, Rollout of B). With model_lr 0 the language model is frozen; its
    hidden states (B,T,C) and log-probabilities (B,T,K) are then computed only once.
    """
    ref_model, ref_decoder = reference
    optimizer = torch.optim.AdamW([dict(params=decoder.parameters(), lr=lr)], weight_decay=0.0)
    if model_lr:
        optimizer.add_param_group(dict(params=model.parameters(), lr=model_lr))
    else:
        with torch.no_grad():
            states = [aligned(model, prompts, rollout.tokens) for prompts, rollout in sides]
            frozen = [response_logps(model, decoder, *side, ref_decoder=ref_decoder, states=state)
                      for side, state in zip(sides, states)]
    statistics = {}
    for step in range(steps):
        if model_lr:
            logps = [response_logps(model, decoder, *side, ref_model, ref_decoder)
                     for side in sides]
        else:  # only the decoder has changed
            logps = [replace(scored, tau_logps=decoder.response(hidden))
                     for scored, (_, hidden) in zip(frozen, states)]
        losses = lpo_loss(*logps, variant, beta)  # (B,)
        loss = losses.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress(step + 1, lambda: f"loss {loss.item():.3f}")
        if step == 0:
            statistics["loss_first"] = loss.item()
    statistics["loss_last"] = loss.item()
    statistics["impossible"] = evaluate.impossible_share(logps, variant)
    if variant != "nll":  # which does not use the rejected responses
        right = losses < math.log(2)  # score(chosen) > score(rejected)
        statistics["pair_accuracy"] = right.float().mean().item()
    return statistics


def train(cfg, base, experiment, level, variant):
    """Train a decoder: sample, reward, pair, update; again and again.

    -> dict(decoders: weights before round 1 and after each, rows, model: weights if trained)
    """
    gen, rng = files.randomness(cfg.device, "train", experiment, level, cfg.seed)
    model = copy.deepcopy(base)
    decoder = AdaptiveDecoder(cfg.n_embd, map(choice_of, cfg.choices), level).to(cfg.device)
    files.say(f"{experiment}, {level} level, {variant}")
    progress = files.Progress(f"{experiment}, {level} level, {variant}", cfg.rounds * cfg.steps)
    decoders, rows = [copy.deepcopy(decoder.state_dict())], []
    for rnd in range(cfg.rounds):
        if rnd == 0 or cfg.reference == "round":
            reference = copy.deepcopy((model, decoder))
            if variant in ("joint", "separate") and not cfg.decoder_reference:
                reference = (reference[0], None)  # as the paper prints these losses

        # sample and reward; a prompt is a pair (task, text)
        prompts = sample_prompts(experiment, "train", cfg.prompts, rng)
        outcome = respond(model, prompts, cfg.responses, gen, decoder=decoder)

        # pair, by default the best response with the worst
        first, second = outcome.rewards, None
        if cfg.pairing == "top-k":
            first, second = (outcome.scores[name] for name in TASKS[prompts[0][0]].criteria)
        chosen, rejected = make_pairs(first, cfg.pairing, second, cfg.top_k)
        require(chosen or rnd, f"{experiment}: only ties; raise --responses, or change --choices")

        # update
        statistics = {}
        if chosen:  # a decoder that has learned may leave only ties
            statistics = update(
                model, decoder, reference, (outcome.side(chosen), outcome.side(rejected)), variant,
                cfg.beta, cfg.lr * (1 - rnd / cfg.rounds), cfg.steps, cfg.model_lr,
                lambda step, text: progress(rnd * cfg.steps + step, text))
        decoders.append(copy.deepcopy(decoder.state_dict()))
        of_round = evaluate.round_rows(outcome, cfg.choices, len(chosen), statistics, round=rnd + 1,
                                       experiment=experiment, level=level, variant=variant)
        files.say(evaluate.round_line(of_round))
        rows += of_round
    return dict(decoders=decoders, rows=rows, model=model.state_dict() if cfg.model_lr else None)


def main(cfg):
    folder, choices = Path(cfg.out), list(map(choice_of, cfg.choices))
    base_key, key = files.keys(asdict(cfg))
    base_file, decoder_files = f"base_{base_key}.pt", {}
    base = new_model(cfg.n_layer, cfg.n_head, cfg.n_embd).to(cfg.device)
    base.load_state_dict(files.kept(folder / base_file, lambda: pretrain(cfg))["model"])
    rows, samples = [], []
    for experiment in cfg.experiments:
        # every fixed temperature, and the oracle
        gen, rng = files.randomness(cfg.device, "test", experiment)  # the same prompts for all
        prompts = sample_prompts(experiment, "test", cfg.test_prompts, rng)
        n = cfg.votes if evaluate.is_voted(prompts) else cfg.test_samples
        fixed = {}
        for name, choice in zip(cfg.choices, choices):
            fixed[name] = respond(base, prompts, n, gen, temperature=choice)
            rows += evaluate.reward_rows(fixed[name], experiment=experiment, policy="fixed",
                                         temperature=name)
        search = sample_prompts(experiment, "validation", cfg.oracle_prompts, rng)
        rows += evaluate.oracle_rows(base, search, prompts, n, choices, gen, experiment=experiment)

        # LPO at each level
        for level, variant in itertools.product(cfg.levels, cfg.variants):
            of = dict(experiment=experiment, level=level, variant=variant)
            file = f"decoder_{experiment}_{level}_{variant}_{key}.pt"
            decoder_files[f"{experiment} {level} {variant}"] = file
            trained = files.kept(folder / file, lambda: train(cfg, base, **of))
            model, decoder = restored(base, trained, choices, level)
            rows += trained["rows"]
            for select in ("greedy", "sample"):
                gen, _ = files.randomness(cfg.device, "test", experiment, level, select)
                outcome = respond(model, prompts, n, gen, decoder=decoder, tau_select=select)
                rows += evaluate.adaptive_rows(outcome, cfg.choices, fixed, select=select, **of)
            samples += evaluate.examples(outcome, cfg.choices, fixed, **of)  # choices sampled

    results = dict(config=asdict(cfg), base=base_file, decoders=decoder_files, rows=rows,
                   samples=samples, environment=files.environment())
    files.write(folder / "results.json", json.dumps(results))
    print(*figures.plot(results, folder), evaluate.summary(results), sep="\n")


if __name__ == "__main__":
    with files.program():
        main(parse(Config, sys.argv[1:], __doc__, QUICK, checked))
