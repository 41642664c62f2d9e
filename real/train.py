"""LPO on a real language model, which stays frozen, beside tuned rules.

    python -m real.train                              everything that is measured
    python -m real.train --quick                      one decoder, small: minutes on two cores
    python -m real.train --experiments mix --methods memory --levels token,mean --decoders 3
    torchrun --nproc_per_node 4 -m real.train         processes share the work, and the GPUs
    python -m real.train --minutes 0                  only collect what is finished

Each rule and each decoder is a file in --out, the most important first; a run makes what is
missing. Then real.json.gz has what is finished: rewards of each prompt, rounds, how often choices
were used, texts. The choices of LPO and the settings of the rules are in choices.json.

P prompts, R responses, B pairs, T response tokens, K choices, C hidden width.
"""
import gzip
import itertools
import json
import os
import sys
import time
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
SETS = CHOICES["sets"]    # what LPO's decoders pick among
RULES = CHOICES["rules"]  # one choice for all tokens, tuned on validation prompts
LEVELS = ("token", "sequence", "mean")
CACHED = 160  # columns of a compiled cache: no prompt and response of tasks.py is longer
SOURCES = ("lpo.py", "decoder.py", "train_toy.py", "toy/samplers.py", "real/hf.py", "real/tasks.py",
           "real/prompts.json", "real/choices.json", "real/train.py")


@dataclass(frozen=True)
class Config:
    model: str = option("smollm2", f"{' or '.join(models.PACKAGES)}, a GGUF file, a folder, or a "
                                   "name of the hub")
    experiments: tuple = option(tuple(EXPERIMENTS), "what is asked", choices=tuple(EXPERIMENTS))
    methods: tuple = option((*RULES, *SETS), "tuned rules, and LPO over sets of choices",
                            choices=(*RULES, *SETS))
    levels: tuple = option(LEVELS, "of LPO; mean: one choice per response, from the mean state of "
                                   "the prompt", choices=LEVELS)
    decoders: int = option(10, "decoders per set at the token level")
    few: int = option(3, "decoders per set at other levels")
    beta: float = option(0.2, "scale of the margin; larger stays closer to the reference")
    lr: float = option(1e-3, "learning rate in round one; falls linearly")
    rounds: int = option(10, "rounds of sampling, rewarding, pairing and updating")
    prompts: int = option(96, "training prompts per round")
    responses: int = option(8, "responses per training prompt")
    steps: int = option(5, "updates per round, each on all its pairs")
    validation: int = option(48, "held-out prompts to tune rules on")
    test: int = option(96, "held-out prompts to measure on")
    samples: int = option(8, "responses per held-out prompt")
    at_once: int = option(384, "responses generated together")
    minutes: float = option(1e6, "after these no rule or decoder is begun", zero=True)
    device: str = option("auto", "cpu, cuda, or auto: a CUDA GPU if there is one")
    out: str = option("out/real", "folder for results")


QUICK = dict(experiments=("lines",), methods=("fixed", "temperatures"), levels=("token",),
             decoders=1, rounds=4, prompts=16, responses=6, validation=4, test=16, samples=2,
             at_once=96, out="out/real_quick")


def checked(cfg):
    require(cfg.responses > 1, "--responses is 1; a pair needs 2 or more")
    for choices in SETS.values():
        AdaptiveDecoder(1, map(choice_of, choices))
    models.parts_of(cfg.model)
    return cfg


# --- responses and their rewards ------------------------------------------------------------------


@torch.no_grad()
def mean_states(lm, prompts):
    """The mean of the hidden states of each prompt.  R token lists -> (R,C)"""
    lengths = torch.tensor([[len(prompt)] for prompt in prompts])
    S = int(lengths.max())
    tokens = torch.tensor([[*prompt[1:], *[0] * (S + 1 - len(prompt))] for prompt in prompts])
    rest = Rollout(tokens, tokens, tokens, None)  # as if it were a response to the first token
    hidden, _ = hf.scored(lm, [1.0], [prompt[:1] for prompt in prompts], rest)  # (R,S,C)
    real = (torch.arange(S) < lengths)[..., None].to(hidden)
    return (hidden * real).sum(1) / real.sum(1)


@torch.no_grad()
def respond(cfg, model, items, generator, level=None, decoder=None, **policy):
    """A response per item, by a decoder or as hf.generate takes it.  -> prompts, Rollout, rewards

    All three are of R items. On a GPU every batch has the same shape, and is compiled once.
    """
    lm, tokenizer = model
    prompts = [token_ids(item, tokenizer) for item in items]
    lengths = torch.tensor([[TASKS[name].length] for name, _ in items], device=lm.device)
    T, R = int(lengths.max()), len(items)
    if level == "mean":
        _, k = hf.sample_at(decoder(mean_states(lm, prompts)), 1, generator)  # (R,)
        choices = [decoder.choices[j] for j in k.tolist()]
    parts = []
    for start in range(0, R, cfg.at_once):
        rows = range(start, min(start + cfg.at_once, R))
        if cfg.device == "cuda":
            rows = [min(i, R - 1) for i in range(start, start + cfg.at_once)]
            policy |= dict(cache_implementation="static", max_cache_len=CACHED)
        if level == "mean":
            of_rows = [choices[i] for i in rows]
            policy["temperature"] = lambda tokens, of_rows=of_rows: of_rows
        else:
            policy["decoder"] = decoder
        parts.append(hf.generate(lm, [prompts[i] for i in rows], T, generator=generator, **policy))
    columns = zip(*(vars(part).values() for part in parts))
    rollout = Rollout(*(None if x[0] is None else torch.cat(x)[:R] for x in columns))
    if level == "mean":
        rollout.tau_idx = k[:, None]
    rollout.mask &= torch.arange(T, device=lm.device) < lengths
    probabilities = hf.scored(lm, [1.0], prompts, rollout)[1][..., 0].exp().cpu()  # (R,T)
    rewards = []
    for item, ids, mask, p in zip(items, rollout.tokens.cpu(), rollout.mask.cpu(), probabilities):
        text = tokenizer.decode(ids[mask], skip_special_tokens=True)
        rewards.append(reward(item, text, p[mask].tolist()))
    return prompts, rollout, np.array(rewards)


def held_out(cfg, model, experiment, split, level=None, **policy):
    """The same prompts for every policy.  -> R items, Rollout, mean reward of each prompt"""
    gen, rng = files.randomness(cfg.device, "real", experiment, split)
    items = sample_prompts(experiment, split, getattr(cfg, split), rng)
    items = [item for item in items for _ in range(cfg.samples)]
    _, rollout, rewards = respond(cfg, model, items, gen, level, **policy)
    return items, rollout, rewards.reshape(-1, cfg.samples).mean(1).round(5).tolist()


# --- rules ----------------------------------------------------------------------------------------


def policy_of(setting):
    """A rule's setting as hf.generate takes it.  -> dict"""
    if not setting.startswith("no_repeat_ngram="):
        return dict(temperature=choice_of(setting))
    n, tau = setting.removeprefix("no_repeat_ngram=").split("@")
    return dict(temperature=float(tau), no_repeat_ngram_size=int(n))  # counts the prompt too


def tune(cfg, model, experiment, rule):
    """Rewards of every setting on validation prompts; of the best one, on test prompts.

    Of fixed temperatures all are measured on test prompts.
    """
    rewards, settings = {}, RULES[rule]
    for split in ("validation", "test"):
        rewards[split] = {setting: held_out(cfg, model, experiment, split, **policy_of(setting))[2]
                          for setting in settings}
        means = {setting: np.mean(of_prompts) for setting, of_prompts in rewards[split].items()}
        files.say(f"  {split}: " + "  ".join(f"{name} {x:.3f}" for name, x in means.items()))
        if rule != "fixed":
            settings = [max(means, key=means.get)]
    return dict(rewards=rewards)


# --- LPO ------------------------------------------------------------------------------------------


@torch.no_grad()
def frozen_sides(lm, decoder, level, prompts, rollout, pairs):
    """What the frozen model has of the chosen and the rejected responses, by number.

    -> for each side: states of the decisions (B,T,C) or (B,1,C), and ResponseLogps whose reference
    is the decoder as it is now
    """
    sides = []
    for indices in pairs:
        some, part = [prompts[i] for i in indices], rollout[indices]
        hidden, text_logps = hf.scored(lm, decoder.choices, some, part)
        if level == "mean":
            hidden = mean_states(lm, some)[:, None]
        tau_logps = decoder.response(hidden)
        sides.append((hidden, ResponseLogps(tau_logps, part.tau_idx, part.mask, text_logps,
                                            text_logps, tau_logps)))
    return sides


def learn(cfg, model, experiment, method, level, seed):
    """Train a decoder by LPO, and measure it on test prompts."""
    lm, tokenizer = model
    gen, _ = files.randomness(cfg.device, "real", experiment, method, level, seed)
    _, rng = files.randomness("cpu", "real", experiment, seed)  # of prompts and initial weights
    decoder = AdaptiveDecoder(lm.get_output_embeddings().weight.shape[1],
                              map(choice_of, SETS[method]),
                              "token" if level == "token" else "sequence").to(cfg.device)
    rounds = []
    for rnd in range(cfg.rounds):
        # sample, and reward
        items = sample_prompts(experiment, "train", cfg.prompts, rng)
        items = [item for item in items for _ in range(cfg.responses)]
        prompts, rollout, rewards = respond(cfg, model, items, gen, level, decoder)

        # pair the best response to each prompt with the worst
        pairs = make_pairs(rewards.reshape(-1, cfg.responses))
        require(pairs[0] or rounds, f"{experiment}: only ties; raise --responses or --prompts")
        if not pairs[0]:
            continue  # a decoder that has learned may leave only ties

        # update
        sides = frozen_sides(lm, decoder, level, prompts, rollout, pairs)
        optimizer = torch.optim.AdamW(decoder.parameters(), cfg.lr * (1 - rnd / cfg.rounds),
                                      weight_decay=0.0)
        for _ in range(cfg.steps):
            logps = [replace(frozen, tau_logps=decoder.response(hidden))
                     for hidden, frozen in sides]
            loss = lpo_loss(*logps, "latent", cfg.beta).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        certainty = logps[0].tau_logps.exp().amax(-1)[logps[0].mask[:, :rollout.tau_idx.shape[1]]]
        rounds.append(dict(round=rnd + 1, reward=float(rewards.mean()), pairs=len(pairs[0]),
                           loss=loss.item(), certainty=certainty.mean().item()))
        files.say(f"  {experiment} {method} {level} {seed}  " + "  ".join(
            f"{name} {x:.3f}".removesuffix(".000") for name, x in rounds[-1].items()))
    items, rollout, rewards = held_out(cfg, model, experiment, "test", level, decoder=decoder)
    texts = [uses(tokenizer, items[i], rollout[[i]]) for i in range(0, len(items), cfg.samples)]
    used = Counter((role, k) for text in texts for role, _, k in text)
    return dict(rewards=dict(test={method: rewards}), rounds=rounds, texts=texts[:8],
                used=[[*of, n] for of, n in used.items()], decoder=decoder.cpu().state_dict())


def uses(tokenizer, item, rollout):
    """The tokens of one response: (task and role, text, the choice's number).  -> list"""
    name, details = item
    ids = rollout.tokens[rollout.mask].tolist()
    choices = rollout.tau_idx.expand(rollout.mask.shape)[rollout.mask].tolist()
    so_far = [tokenizer.decode(ids[:n]) for n in range(len(ids) + 1)]  # alone, some lose a space
    return [(f"{name}, {TASKS[name].role(details, before)}", after[len(before):], k)
            for before, after, k in zip(so_far, so_far[1:], choices)]


# --- the program ----------------------------------------------------------------------------------


def cells_of(cfg):
    """What is to be measured, the most important first.  -> {(experiment, method ...): function}"""
    rules = [name for name in cfg.methods if name in RULES]
    cells = {(experiment, rule): tune for rule in rules for experiment in cfg.experiments}
    sets = [name for name in cfg.methods if name in SETS]
    for seed in range(max(cfg.decoders, cfg.few)):
        for level in cfg.levels:
            if seed < (cfg.decoders if level == "token" else cfg.few):
                cells |= {(*of, level, seed): learn
                          for of in itertools.product(cfg.experiments, sets)}
    return cells


def summary(results):
    """A line per experiment and method: the mean reward on test prompts, and of what.  -> str"""
    rewards = {}
    for cell in results["cells"]:
        experiment, method, *of = cell["cell"]
        for name, of_prompts in cell["rewards"]["test"].items():
            key = (experiment, f"{method}, {of[0]} level" if of else method)
            rewards.setdefault(key, []).append((np.mean(of_prompts), name))
    lines = []
    for (experiment, method), means in rewards.items():
        numbers = [x for x, _ in means]
        best = max(means)
        text = (f"{best[0]:7.3f}  {best[1]}" if method in RULES else f"{np.mean(numbers):7.3f}  "
                f"from {min(numbers):.3f} to {best[0]:.3f}, decoders: {len(means)}")
        lines.append(f"{experiment:8}  {method:28}{text}")
    return "\n".join(["reward on test prompts; fixed: the best of all, on these prompts", *lines])


def main(cfg):
    start = time.monotonic()
    processes = int(os.environ.get("WORLD_SIZE", 1))  # of torchrun; some clusters set it to 1
    require(processes == 1 or "RANK" in os.environ, "WORLD_SIZE is set without RANK; use torchrun")
    first = int(os.environ["RANK"]) if processes > 1 else 0
    if cfg.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    lm, tokenizer = models.load(cfg.model, "bfloat16" if cfg.device == "cuda" else "float32")
    model = lm.to(cfg.device), tokenizer
    for experiment in cfg.experiments:  # without a chat template some are refused
        for item in sample_prompts(experiment, "train", 9, np.random.default_rng(0)):
            token_ids(item, tokenizer)

    which = ("model", "experiments", "methods", "levels", "decoders", "few", "minutes", "out")
    options = {name: x for name, x in asdict(cfg).items() if name not in which}
    weights = models.content_of(lm)
    key = files.digest([options, weights], *SOURCES)
    environment = files.environment()
    files.say(f"{cfg.model}, commit {environment['commit']}, {environment['gpu'] or 'cpu'}")
    cells = cells_of(cfg)
    paths = {cell: Path(cfg.out) / f"{'_'.join(map(str, cell))}_{key}.pt"
             for cell in cells}
    for cell in list(cells)[first::processes]:
        if time.monotonic() - start < 60 * cfg.minutes:
            files.say(" ".join(map(str, cell)))
            files.kept(paths[cell], lambda: cells[cell](cfg, model, *cell))

    finished = [cell for cell in cells if paths[cell].exists()]
    results = dict(config=asdict(cfg), weights=weights, environment=environment,
                   sets=SETS, cells=[dict(files.read(paths[cell]), cell=cell, decoder=None)
                                     for cell in finished])
    text = json.dumps(results).encode()
    files.write(Path(cfg.out) / "real.json.gz", gzip.compress(text, mtime=0))
    print(summary(results), f"{len(finished)} of {len(cells)} finished", sep="\n")


if __name__ == "__main__":
    with files.program():
        main(parse(Config, sys.argv[1:], __doc__, QUICK, checked))
