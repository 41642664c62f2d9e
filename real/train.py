"""LPO around a real language model: the loop of train_toy.py, the model frozen.

    python -m real.train                            constrained lines, three decoders
    python -m real.train --laptop                   the same in small, for two cores
    python -m real.train --experiment mix --level sequence --choices 0,.3,1,min_p=.05@1.5
    python -m real.train --model gemma3-270m        a base model: lines or repeats
    torchrun --nproc_per_node 2 -m real.train       each process samples and scores its share

Results and the decoders' weights go to out/real; what is finished is kept and reused. The language
model reads responses once to score them, those of pairs once more; the updates see what it made.

P prompts, N responses to each, B pairs, T response tokens, K choices, C hidden width.
"""
import copy
import json
import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from decoder import LEVELS, AdaptiveDecoder, Rollout
from fast.generate import generate
from lpo import lpo_loss, require
from real import hf, models
from real.tasks import EXPERIMENTS, TASKS, draw_prompts, reward, token_ids
from toy.options import check_value, checked_device, option, read
from toy.samplers import choice_of
from toy.stages import Silent, Stages, code_of, program, randomness, write
from train_toy import make_pairs


@dataclass(frozen=True)
class Config:
    model: str = option("smollm2", f"{' or '.join(models.MODELS)}, or the path of a GGUF file")
    experiment: str = option("lines", "what is asked", tuple(EXPERIMENTS))
    level: str = option("token", "a choice a token, or one a response", LEVELS)
    choices: tuple = option((0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2),
                            "temperatures, or samplers as in top_p=.9 or min_p=.05@3")
    beta: float = option(0.2, "larger stays closer to the reference")
    lr: float = option(1e-3, "learning rate in round one; then it falls linearly")
    rounds: int = option(10, "times sample -> pair -> update")
    prompts: int = option(128, "training prompts a round")
    responses: int = option(8, "responses a training prompt")
    steps: int = option(5, "updates a round, each on all its pairs")
    reference: str = option("round", "what sampled the round, or the first", ("round", "initial"))
    seed: int = option(0, "the first seed")
    seeds: int = option(3, "decoders")
    validation_prompts: int = option(48, "held-out prompts to tune something on")
    test_prompts: int = option(96, "held-out prompts to measure on")
    samples: int = option(8, "responses a held-out prompt")
    at_once: int = option(1024, "responses generated together")
    device: str = option("auto", "cpu, cuda, or auto: a CUDA GPU when there is one")
    out: str = option("out/real", "folder of results and finished stages")


LAPTOP = dict(choices=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0), rounds=4, prompts=24, responses=6, seeds=1,
              test_prompts=20, samples=3, at_once=96, out="out/laptop")


# --- processes: torchrun starts one a GPU ---------------------------------------------------------


def join(cfg):
    """Join torchrun's other processes, if there are."""
    if "WORLD_SIZE" in os.environ:
        if cfg.device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if cfg.device == "cuda" else "gloo")


def rank():
    """This process's number. The first, 0, reads, writes and speaks for all."""
    return dist.get_rank() if dist.is_initialized() else 0


def gathered(share):
    """What each process has, in the order of their ranks."""
    if not dist.is_initialized():
        return [share]
    every = [None] * dist.get_world_size()
    dist.all_gather_object(every, share)
    return every


def together(run, name, key, compute):
    """run(name, key, compute) of the first process; the others compute with it, if it does."""
    result = None if rank() else run(name, key, lambda: gathered(None)[0] or compute())
    while (told := gathered(result)[0]) is None:  # the first is about to compute
        compute()
    return told


def generator_of(cfg, *seeds):
    """Random numbers for responses, other ones in each process."""
    return randomness(cfg.device, "real", cfg.experiment, *seeds, rank())[0]


# --- responses and their rewards ------------------------------------------------------------------


@dataclass
class Outcome:
    """Responses to P prompts, N of each, prompt by prompt; of all processes."""
    asked: list          # P of (task, what is asked)
    prompts: list        # P lists of ids
    rewards: np.ndarray  # (P,N)
    rollout: Rollout     # of P * N responses, on the CPU


def respond(cfg, lm, asked, samples, generator, plan=None, **policy):
    """Sample responses at a policy and score them.  P of (task, what is asked) -> Outcome

    Each process makes its share, if there is one for it. policy: as `generate` takes it. plan: the
    place of each of R responses among the P -> what `generate` takes as temperature.
    """
    model, tokenizer = lm
    prompts = [token_ids(item, tokenizer) for item in asked]
    T = max(TASKS[name].length for name, _ in asked)
    every = np.repeat(range(len(asked)), samples)
    share = np.array_split(every, len(gathered(None)))[rank()].tolist()
    rollouts, rewards = [], []
    for start in range(0, len(share), cfg.at_once):
        block = share[start:start + cfg.at_once]
        rows = [prompts[i] for i in block]
        if plan is not None:
            policy["temperature"] = plan(block)
        rollout = generate(model, rows, T, eos=model.eos_ids, generator=generator, **policy)
        lengths = torch.tensor([TASKS[asked[i][0]].length for i in block])
        rollout.mask &= (torch.arange(T) < lengths[:, None]).to(rollout.mask.device)
        _, logps = hf.frozen_pass(model, [1.0], rows, rollout)  # (R,T,1)
        for i, ids, n, of_tokens in zip(block, rollout.tokens.tolist(),
                                        rollout.mask.sum(1).tolist(), logps[..., 0].tolist()):
            text = tokenizer.decode(ids[:n], skip_special_tokens=True)
            rewards.append(reward(asked[i], text, np.exp(of_tokens[:n])))
        rollouts.append(Rollout(*(x if x is None else x.cpu() for x in vars(rollout).values())))
    rollouts, rewards = (sum(parts, []) for parts in zip(*gathered((rollouts, rewards))))
    return Outcome(asked, prompts, np.reshape(rewards, (len(asked), samples)),
                   Rollout.cat(rollouts))


def drawn_at(outcome, tokenizer):
    """Of each response its tokens: (task and role, text, index of the choice).  -> P * N lists"""
    rollout, found = outcome.rollout, []
    piece = cache(lambda i: tokenizer.decode([i]))  # each id is looked up once
    for (name, asked), ids, n, drawn in zip(
            (item for item in outcome.asked for _ in outcome.rewards[0]), rollout.tokens.tolist(),
            rollout.mask.sum(1).tolist(), rollout.tau_idx.expand(rollout.mask.shape).tolist()):
        tokens, so_far = [], ""
        for i, k in zip(ids[:n], drawn):
            tokens.append((f"{name}, {TASKS[name].role(asked, so_far)}", piece(i), k))
            so_far += piece(i)
        found.append(tokens)
    return found


def counts_of(drawn, K):
    """How often each of K choices was drawn, by drawn_at.  -> {"task, role": K counts}"""
    found = Counter((role, k) for tokens in drawn for role, _, k in tokens)
    return {role: [found[role, k] for k in range(K)] for role, _ in found}


# --- training -------------------------------------------------------------------------------------


def sides_of(model, decoder, outcome):
    """What the frozen model makes of the pairs.

    -> chosen and rejected, each (Rollout, frozen_pass of it); or nothing where there is no pair
    """
    sides = []
    for numbers in filter(None, make_pairs(outcome.rewards)):
        rollout = outcome.rollout[numbers]
        prompts = [outcome.prompts[i // outcome.rewards.shape[1]] for i in numbers]
        sides.append((rollout, hf.frozen_pass(model, decoder.choices, prompts, rollout)))
    return sides


def update(decoder, ref_decoder, sides, beta, lr, steps):
    """Train the decoder on one round's pairs.

    -> the last loss, and the mean of the largest P(tau | h): at 1 nothing is explored any more
    """
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=lr, weight_decay=0.0)
    for _ in range(steps):
        logps = [hf.response_logps(decoder, *side, ref_decoder) for side in sides]
        loss = lpo_loss(*logps, "latent", beta).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    decided = [decoder.response(hidden)[rollout.mask[:, :rollout.tau_idx.shape[1]]]
               for rollout, (hidden, _) in sides]  # each (decisions,K)
    return loss.item(), torch.cat(decided).exp().amax(-1).mean().item()


def train(cfg, lm, seed, run):
    """The LPO loop.  -> decoder, one dict a round"""
    gen = generator_of(cfg, "train", cfg.level, seed)
    _, rng = randomness("cpu", "real", cfg.experiment, seed)  # the decoder's first weights too
    decoder = AdaptiveDecoder(lm[0].config.n_embd, map(choice_of, cfg.choices), cfg.level)
    decoder.to(cfg.device)
    rounds = []
    for rnd in range(cfg.rounds):
        if rnd == 0 or cfg.reference == "round":
            ref_decoder = copy.deepcopy(decoder)
        asked = draw_prompts(cfg.experiment, "train", cfg.prompts, rng)
        outcome = respond(cfg, lm, asked, cfg.responses, gen, decoder=decoder)
        sides = sides_of(lm[0], decoder, outcome)
        require(sides or rounds, f"round {rnd + 1} of {cfg.experiment} has no pair of unequal "
                "rewards; raise --responses or --prompts, or give --choices one above 0 too")
        if not sides:
            run.say(f"  round {rnd + 1}  no pair of unequal rewards: nothing to learn from it")
            continue
        loss, certainty = update(decoder, ref_decoder, sides, cfg.beta,
                                 cfg.lr * (1 - rnd / cfg.rounds), cfg.steps)
        pairs, earned = len(sides[0][0].mask), float(outcome.rewards.mean())
        rounds.append(dict(round=rnd, pairs=pairs, reward=earned, loss=loss, certainty=certainty))
        run.say(f"  round {rnd + 1}  pairs {pairs:4d}  reward {earned:6.3f}  loss {loss:.3f}  "
                f"largest P(tau) {certainty:.2f}")
        run.tick((rnd + 1) / (cfg.rounds + 1), "sampling")
    return decoder, rounds


# --- measuring ------------------------------------------------------------------------------------


def measure(cfg, lm, split, *seeds, **policy):
    """A policy on a split's prompts, the same for every policy.  -> Outcome"""
    _, rng = randomness("cpu", "real", cfg.experiment, split)
    asked = draw_prompts(cfg.experiment, split, getattr(cfg, f"{split}_prompts"), rng)
    return respond(cfg, lm, asked, cfg.samples, generator_of(cfg, split, *seeds), **policy)


def measure_fixed(cfg, lm, run):
    """Each choice for all tokens, on test prompts.  -> {its label: rewards by prompt}"""
    found = {}
    for text in cfg.choices:
        outcome = measure(cfg, lm, "test", text, temperature=choice_of(text))
        found[str(text)] = outcome.rewards.mean(1).tolist()
        run.tick(len(found) / len(cfg.choices), f"{text}")
    return found


def learn(cfg, lm, seed, run):
    """Train a decoder and measure it on test prompts, its choices sampled.  -> dict"""
    decoder, rounds = train(cfg, lm, seed, run)
    outcome = measure(cfg, lm, "test", cfg.level, seed, decoder=decoder)
    drawn = drawn_at(outcome, lm[1])
    return dict(seed=seed, rounds=rounds, rewards=outcome.rewards.mean(1).tolist(),
                texts=list(zip(outcome.asked, drawn[::cfg.samples]))[:8],
                counts=counts_of(drawn, len(cfg.choices)), weights=decoder.cpu().state_dict())


# --- the program ----------------------------------------------------------------------------------


def checked(cfg):
    """The Config with its device filled in; ValueError on a value that cannot run."""
    for f in fields(cfg):
        check_value(f, getattr(cfg, f.name))
    AdaptiveDecoder(1, map(choice_of, cfg.choices))
    require(cfg.model in models.MODELS or Path(cfg.model).is_file(),
            f"--model is {cfg.model}; choose from {', '.join(models.MODELS)}, or give a GGUF file")
    return replace(cfg, device=checked_device(cfg.device))


def start(cfg):
    """-> model, tokenizer"""
    lm, tokenizer = models.load(cfg.model, "bfloat16" if cfg.device == "cuda" else "float32")
    return hf.wrap(lm.to(cfg.device)), tokenizer


def stage_key(cfg):
    """What a finished stage depends on."""
    return [asdict(replace(cfg, out="", seed=0, seeds=0)), code_of(
        "lpo.py", "decoder.py", "fast/generate.py", "toy/samplers.py", make_pairs, "real/hf.py",
        "real/tasks.py", "real/prompts.json", "real/train.py")]


def main(cfg):
    join(cfg)
    name, key = f"{cfg.experiment}-{cfg.level}", stage_key(cfg)
    seeds = range(cfg.seed, cfg.seed + cfg.seeds)
    run = Silent() if rank() else Stages(cfg.out, dict.fromkeys(
        [f"{name}-fixed", *(f"{name}-{seed}" for seed in seeds)], 1.0), cfg.device)
    lm = start(cfg)
    fixed = together(run, f"{name}-fixed", key, lambda: measure_fixed(cfg, lm, run))
    for choice, rewards in fixed.items():
        run.say(f"{choice:>16}  {np.mean(rewards):7.3f}")
    learned = []
    for seed in seeds:
        found = together(run, f"{name}-{seed}", key, lambda: learn(cfg, lm, seed, run))
        most = [f"{role}: {cfg.choices[int(np.argmax(n))]}" for role, n in found["counts"].items()]
        run.say("  ".join([f"learned, seed {seed:2}  {np.mean(found['rewards']):7.3f}", *most]))
        learned.append(found)
    if rank() == 0:
        for found in learned:
            torch.save(found.pop("weights"), Path(cfg.out) / f"{name}-{found['seed']}.pt")
        write(Path(cfg.out) / f"{name}.json", json.dumps(dict(
            config=asdict(cfg), stages=run.finished, fixed=fixed, learned=learned)))


if __name__ == "__main__":
    with program():
        main(read(sys.argv[1:], __doc__, Config, "--laptop", LAPTOP, checked))
