"""LPO on a real language model that stays frozen, beside fixed temperatures and tuned rules.

    python -m real.train                                 everything, ten decoders per set and level
    python -m real.train --quick                         one decoder, small: for two cores
    python -m real.train --experiments mix --methods memory --levels token,mean --decoders 3
    torchrun --nproc_per_node 3 -m real.train            processes share the work, and a GPU

Every rule and every decoder is a file in --out; a run makes what is missing. Then real.json.gz has
the mean reward of each prompt, the rounds, how often choices were used, and some texts. The sets of
choices and the grids of the rules are in choices.json.

P prompts, R responses, B pairs, T response tokens, K choices, C hidden width.
"""
import copy
import gzip
import itertools
import json
import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from decoder import AdaptiveDecoder, Rollout
from lpo import ResponseLogps, lpo_loss, require
from real import hf, models
from real.tasks import EXPERIMENTS, TASKS, reward, sample_prompts, token_ids
from toy import files
from toy.options import option, parse
from toy.samplers import choice_of
from train_toy import make_pairs

CHOICES = json.loads(Path(__file__).with_name("choices.json").read_text(encoding="utf-8"))
SETS, RULES = CHOICES["sets"], CHOICES["rules"]
HELD_OUT = dict(validation=48, test=96)  # prompts
SOURCES = ("lpo.py", "decoder.py", "train_toy.py", "toy/samplers.py", "real/hf.py", "real/models.py",
           "real/tasks.py", "real/prompts.json", "real/choices.json", "real/train.py")


@dataclass(frozen=True)
class Config:
    model: str = option("smollm2", f"{' or '.join(models.PACKAGES)}, a GGUF file, a folder, or a "
                                   "name that transformers knows")
    experiments: tuple = option(tuple(EXPERIMENTS), "what is asked", choices=tuple(EXPERIMENTS))
    methods: tuple = option(("rules", *SETS), "tuned rules, or LPO over a set of choices",
                            choices=("rules", *SETS))
    levels: tuple = option(("token", "sequence"), "of LPO; mean: sequence, on the prompt's mean state",
                           choices=("token", "sequence", "mean"))
    decoders: int = option(10, "decoders per set and level")
    beta: float = option(0.2, "larger stays closer to the reference")
    lr: float = option(1e-3, "learning rate in round one; falls linearly")
    rounds: int = option(10, "times sample, reward, pair, update")
    prompts: int = option(128, "training prompts per round")
    responses: int = option(8, "responses per training prompt")
    steps: int = option(5, "updates per round, each on all its pairs")
    samples: int = option(8, "responses per held-out prompt")
    at_once: int = option(384, "responses generated together")
    device: str = option("auto", "cpu, cuda, or auto: a CUDA GPU if there is one")
    out: str = option("out/real", "folder for results")


QUICK = dict(experiments=("lines",), methods=("temperatures",), levels=("token",), decoders=1,
             rounds=4, prompts=24, responses=6, samples=2, at_once=48, out="out/real_quick")


def checked(cfg):
    require(cfg.responses > 1, "--responses is 1; a pair needs 2 or more")
    models.source(cfg.model)
    return cfg


# --- responses and their rewards ------------------------------------------------------------------


def mean_states(lm, prompts):
    """The mean of the hidden states of each prompt.  R token lists -> (R,C)"""
    lengths = torch.tensor([[len(prompt)] for prompt in prompts])
    S = int(lengths.max())
    tokens = torch.tensor([[*prompt[1:], *[0] * (S + 1 - len(prompt))] for prompt in prompts])
    rest = Rollout(tokens, tokens, tokens, None)  # every state predicts something
    hidden, _ = hf.scored(lm, [1.0], [prompt[:1] for prompt in prompts], rest)  # (R,S,C)
    real = (torch.arange(S) < lengths)[..., None].to(hidden)
    return (hidden * real).sum(1) / real.sum(1)


def respond(cfg, model, items, generator, policy, level="token"):
    """One response per item, at a choice or by a decoder.  -> R prompts, Rollout, rewards (R,)"""
    lm, tokenizer = model
    prompts = [token_ids(item, tokenizer) for item in items]
    lengths = torch.tensor([[TASKS[name].length] for name, _ in items], device=lm.device)
    T, R = int(lengths.max()), len(items)
    if level == "mean":
        k = hf.sample_at(policy(mean_states(lm, prompts)), 1, generator)  # (R,)
    parts = []
    for start in range(0, R, cfg.at_once):
        rows = [min(i, R - 1) for i in range(start, start + cfg.at_once)]  # always as many
        if level == "mean":
            how = dict(temperature=lambda tokens: [policy.choices[k[i]] for i in rows])
        else:
            how = {"decoder" if isinstance(policy, AdaptiveDecoder) else "temperature": policy}
        if cfg.device == "cuda":  # compiled once
            how |= dict(cache_implementation="static", max_cache_len=(T + 59) // 8 * 8)
        parts.append(hf.generate(lm, [prompts[i] for i in rows], T, generator=generator, **how))
    columns = zip(*(vars(part).values() for part in parts))
    rollout = Rollout(*(None if column[0] is None else torch.cat(column)[:R] for column in columns))
    if level == "mean":
        rollout.tau_idx = k[:, None]
    rollout.mask &= torch.arange(T, device=lm.device) < lengths
    probabilities = hf.scored(lm, [1.0], prompts, rollout)[1][..., 0].exp().cpu()  # (R,T)
    rewards = []
    for item, ids, mask, p in zip(items, rollout.tokens.cpu(), rollout.mask.cpu(), probabilities):
        text = tokenizer.decode(ids[mask], skip_special_tokens=True)
        rewards.append(reward(item, text, p[mask].tolist()))
    return prompts, rollout, np.array(rewards)


def held_out(cfg, model, experiment, split, policy, level="token"):
    """The same prompts for every policy.  -> responses to each, R items, rewards (P,)"""
    gen, rng = files.randomness(cfg.device, "real", experiment, split)
    items = sample_prompts(experiment, split, HELD_OUT[split], rng)
    items = [item for item in items for _ in range(cfg.samples)]
    _, rollout, rewards = respond(cfg, model, items, gen, policy, level)
    return items, rollout, rewards.reshape(-1, cfg.samples).mean(1).round(5).tolist()


def used(tokenizer, item, ids, choices):
    """A response token by token: task and role, text, choice.  -> list"""
    name, details = item
    tokens, so_far = [], ""
    for i, k in zip(ids, choices):
        text = tokenizer.decode([i])
        if tokens:  # alone, some tokenizers strip its space
            text = tokenizer.decode([i, i]).removeprefix(text)
        tokens.append((f"{name}, {TASKS[name].role(details, so_far)}", text, k))
        so_far += text
    return tokens


# --- rules and decoders ---------------------------------------------------------------------------


def tune(cfg, model, experiment, rule):
    """Every setting on validation prompts; the best, of temperatures all, on test prompts."""
    rewards, settings = {}, RULES[rule]
    for split in HELD_OUT:
        rewards[split] = {setting: held_out(cfg, model, experiment, split, choice_of(setting))[2]
                          for setting in settings}
        if rule != "temperature":
            settings = [max(settings, key=lambda setting: np.mean(rewards[split][setting]))]
    return dict(rewards=rewards)


def learn(cfg, model, experiment, method, level, seed):
    """Train a decoder by LPO, and evaluate it."""
    lm, tokenizer = model
    gen, _ = files.randomness(cfg.device, "real", experiment, method, level, seed)
    _, rng = files.randomness("cpu", "real", experiment, seed)  # of prompts and initial weights
    kind = "token" if level == "token" else "sequence"
    decoder = AdaptiveDecoder(lm.get_output_embeddings().weight.shape[1],
                              map(choice_of, SETS[method]), kind).to(cfg.device)
    rounds = []
    for rnd in range(cfg.rounds):
        reference = copy.deepcopy(decoder)

        # sample, and reward
        items = sample_prompts(experiment, "train", cfg.prompts, rng)
        items = [item for item in items for _ in range(cfg.responses)]
        prompts, rollout, rewards = respond(cfg, model, items, gen, decoder, level)

        # pair: the best response with the worst
        sides, pairs = [], make_pairs(rewards.reshape(-1, cfg.responses))
        require(pairs[0], f"round {rnd + 1} of {experiment} has only ties; raise --responses")
        for indices in pairs:
            some, part = [prompts[i] for i in indices], rollout[indices]
            hidden, text_logps = hf.scored(lm, decoder.choices, some, part)
            if level == "mean":
                hidden = mean_states(lm, some)[:, None]
            tau_logps = reference.response(hidden)
            sides.append((hidden, ResponseLogps(tau_logps, part.tau_idx, part.mask, text_logps,
                                                text_logps, tau_logps)))

        # update
        optimizer = torch.optim.AdamW(decoder.parameters(), cfg.lr * (1 - rnd / cfg.rounds),
                                      weight_decay=0.0)
        for _ in range(cfg.steps):
            logps = [replace(frozen, tau_logps=decoder.response(hidden)) for hidden, frozen in sides]
            loss = lpo_loss(*logps, "latent", cfg.beta).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        rounds.append(dict(reward=rewards.mean(), pairs=len(pairs[0]), loss=loss.item()))
        files.say(f"  round {rnd + 1:2}  reward {rewards.mean():6.3f}  pairs {len(pairs[0]):4}  "
                  f"loss {loss.item():.3f}")
    items, rollout, rewards = held_out(cfg, model, experiment, "test", decoder, level)
    texts = [used(tokenizer, items[i], rollout.tokens[i][rollout.mask[i]].tolist(), rollout.tau_idx.expand_as(rollout.mask)[i].tolist()) for i in range(0, len(items), cfg.samples)]
    shares = Counter((role, k) for text in texts for role, _, k in text)
    return dict(rewards=dict(test={method: rewards}), rounds=rounds, texts=texts[:8], shares=[[*of, n] for of, n in shares.items()], decoder=decoder.cpu().state_dict())


# --- the program ----------------------------------------------------------------------------------


def main(cfg):
    # torchrun's processes share the cells; some clusters set WORLD_SIZE=1 and nothing else
    processes = int(os.environ.get("WORLD_SIZE", 1))
    require(processes == 1 or "RANK" in os.environ, "WORLD_SIZE is set without RANK; use torchrun")
    number = int(os.environ["RANK"]) if processes > 1 else 0
    if cfg.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    lm, tokenizer = models.load(cfg.model, "bfloat16" if cfg.device == "cuda" else "float32")
    model = lm.to(cfg.device), tokenizer


    which = ("model", "experiments", "methods", "levels", "decoders", "out")
    options = {name: x for name, x in asdict(cfg).items() if name not in which}
    key = files.digest([options, models.content(lm)], *SOURCES)
    cells = {}
    for experiment, method in itertools.product(cfg.experiments, cfg.methods):
        if method == "rules":
            cells |= {(experiment, rule): tune for rule in RULES}
        else:
            cells |= {(experiment, method, *of): learn for of in itertools.product(cfg.levels, range(cfg.decoders))}
    paths = {cell: Path(cfg.out) / f"{'_'.join(map(str, cell))}_{key}.pt" for cell in cells}
    for cell in list(cells)[number::processes]:
        files.say(" ".join(map(str, cell)))
        files.kept(paths[cell], lambda: cells[cell](cfg, model, *cell))
    if all(path.exists() for path in paths.values()):
        results = [dict(files.read(path), cell=cell, decoder=None) for cell, path in paths.items()]
        files.write(Path(cfg.out) / "real.json.gz", gzip.compress(json.dumps(dict(
            config=asdict(cfg), cells=results)).encode(), mtime=0))
        print(1)


if __name__ == "__main__":
    with files.program():
        main(parse(Config, sys.argv[1:], __doc__, QUICK, checked))
