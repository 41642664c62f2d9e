"""LPO around a real language model: the loop of train_toy.py, the model frozen.

    python -m real.train                            constrained lines, three decoders
    python -m real.train --laptop                   the same in small, for two cores
    python -m real.train --experiment mix --level sequence --choices 0,.3,1,min_p=.05@1.5
    torchrun --nproc_per_node 2 -m real.train       each process samples and scores its share

Results and the decoders' weights go to out/real; what is finished is kept and reused. A response is
read once by the language model, and the updates see what it made of it.

P prompts, N responses to each, B pairs, T response tokens, K choices, C hidden width.
"""
import copy
import json
import os
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from decoder import LEVELS, AdaptiveDecoder, Rollout
from fast.generate import generate
from lpo import ResponseLogps, lpo_loss
from real import hf, models
from real.tasks import EXPERIMENTS, TASKS, draw_prompts, reward, token_ids
from toy.options import check_value, checked_device, option, read
from toy.samplers import choice_of
from toy.stages import Stages, code_of, randomness, write
from train_toy import make_pairs


@dataclass(frozen=True)
class Config:
    experiment: str = option("lines", "what is asked", tuple(EXPERIMENTS))
    level: str = option("token", "a choice a token, or one a response", LEVELS)
    choices: tuple = option((0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2), "temperatures, or samplers as in "
                            "top_p=.9 or min_p=.05@3 (toy/samplers.py), comma-separated")
    beta: float = option(0.2, "larger stays closer to the reference")
    lr: float = option(1e-3, "learning rate in round one; then it falls linearly")
    rounds: int = option(6, "times sample -> pair -> update")
    prompts: int = option(128, "training prompts a round")
    responses: int = option(8, "responses a training prompt")
    steps: int = option(5, "updates a round, each on all its pairs")
    reference: str = option("round", "what sampled the round's pairs, or the first round's",
                            ("round", "initial"))
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


def mine(items):
    """This process's share."""
    return items[dist.get_rank()::dist.get_world_size()] if dist.is_initialized() else items


def gathered(share):
    """What each process has, in the order of their ranks."""
    if not dist.is_initialized():
        return [share]
    every = [None] * dist.get_world_size()
    dist.all_gather_object(every, share)
    return every


def in_order(share):
    """What all processes have of the items that `mine` dealt out, in the items' order."""
    parts = gathered(share)
    return [parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))]


def generator_of(cfg, *seeds):
    """Random numbers for responses, other ones in each process."""
    return randomness(cfg.device, "real", cfg.experiment, *seeds, mine(range(256))[0])[0]


# --- responses and their rewards ------------------------------------------------------------------


@dataclass
class Outcome:
    """Responses to P prompts, N of each, prompt by prompt."""
    asked: list          # P of (task, what is asked)
    prompts: list        # P lists of ids
    rewards: np.ndarray  # (P,N)
    rollout: Rollout     # of P * N responses


def respond(cfg, lm, asked, samples, generator, plan=None, **policy):
    """Sample responses at a policy and score them.  P of (task, what is asked) -> Outcome

    policy: as `generate` takes it. plan: the place of each of R responses among the P -> what
    `generate` takes as temperature.
    """
    model, tokenizer = lm
    prompts = [token_ids(item, tokenizer) for item in asked]
    T = max(TASKS[name].length for name, _ in asked)
    every = [i for i in range(len(asked)) for _ in range(samples)]
    rollouts, rewards = [], []
    for start in range(0, len(every), cfg.at_once):
        block = every[start:start + cfg.at_once]
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
        rollouts.append(rollout)
    return Outcome(asked, prompts, np.reshape(rewards, (len(asked), samples)),
                   Rollout.cat(rollouts))


def drawn_at(outcome, tokenizer):
    """Of each response its tokens: (role, text, index of the choice).  -> P * N lists"""
    rollout, found = outcome.rollout, []
    every = zip(rollout.tokens.tolist(), rollout.mask.sum(1).tolist(),
                rollout.tau_idx.expand(rollout.mask.shape).tolist())
    for number, (ids, n, drawn) in enumerate(every):
        name, asked = outcome.asked[number // outcome.rewards.shape[1]]
        tokens, so_far = [], ""
        for piece, k in zip(tokenizer.batch_decode([[i] for i in ids[:n]]), drawn):
            tokens.append((TASKS[name].role(asked, so_far), piece, k))
            so_far += piece
        found.append(tokens)
    return found


def counts_of(outcome, K, tokenizer):
    """How often each choice was drawn.  -> {"task, role": K counts}, over all processes"""
    found = {}
    for number, tokens in enumerate(drawn_at(outcome, tokenizer)):
        task, _ = outcome.asked[number // outcome.rewards.shape[1]]
        for role, _, k in tokens:
            found.setdefault(f"{task}, {role}", [0] * K)[k] += 1
    parts = gathered(found)
    return {name: np.sum([part[name] for part in parts if name in part], 0).tolist()
            for name in dict.fromkeys(name for part in parts for name in part)}


# --- training -------------------------------------------------------------------------------------


def sides_of(model, decoder, outcome):
    """What the model, and the decoder that sampled, make of the pairs of all processes.

    -> chosen and rejected, each (ResponseLogps, hidden); or nothing where there is no pair
    """
    share = []
    for numbers in filter(None, make_pairs(outcome.rewards)):
        rollout = outcome.rollout[numbers]
        prompts = [outcome.prompts[i // outcome.rewards.shape[1]] for i in numbers]
        hidden, text_logps = hf.frozen_pass(model, decoder.choices, prompts, rollout)
        share.append([x.cpu() for x in (rollout.tau_idx, rollout.mask, text_logps, hidden)])
    sides = []
    for parts in zip(*filter(None, gathered(share))):  # of one side, one of each process
        tau_idx, mask, text_logps, hidden = (
            torch.cat(column).to(outcome.rollout.mask.device) for column in zip(*parts))
        with torch.no_grad():
            tau_logps = decoder.response(hidden)
        sides.append((ResponseLogps(tau_logps, tau_idx, mask, text_logps, text_logps), hidden))
    return sides


def update(decoder, ref_decoder, sides, beta, lr, steps):
    """Train the decoder on one round's pairs.

    -> the last loss, and the mean of the largest P(tau | h): at 1 nothing is explored any more
    """
    with torch.no_grad():
        refs = [ref_decoder.response(hidden) for _, hidden in sides]
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=lr, weight_decay=0.0)
    for _ in range(steps):
        logps = [replace(side, tau_logps=decoder.response(hidden), ref_tau_logps=ref)
                 for (side, hidden), ref in zip(sides, refs)]
        loss = lpo_loss(*logps, "latent", beta).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    decided = [decoder.response(hidden)[side.mask[:, :side.tau_idx.shape[1]]]
               for side, hidden in sides]  # each (decisions,K)
    return loss.item(), torch.cat(decided).exp().amax(-1).mean().item()


def train(cfg, lm, seed, run):
    """The LPO loop.  -> decoder, one dict a round"""
    model, tokenizer = lm
    gen = generator_of(cfg, "train", cfg.level, seed)
    _, rng = randomness("cpu", "real", cfg.experiment, seed)  # the decoder's first weights too
    decoder = AdaptiveDecoder(model.config.n_embd, map(choice_of, cfg.choices), cfg.level)
    decoder.to(cfg.device)
    rounds = []
    for rnd in range(cfg.rounds):
        if rnd == 0 or cfg.reference == "round":
            ref_decoder = copy.deepcopy(decoder)
        asked = draw_prompts(cfg.experiment, "train", cfg.prompts, rng)
        outcome = respond(cfg, lm, mine(asked), cfg.responses, gen, decoder=decoder)
        found = dict(reward=float(np.concatenate(gathered(outcome.rewards)).mean()),
                     counts=counts_of(outcome, len(decoder.choices), tokenizer))
        sides = sides_of(model, decoder, outcome)
        if not sides:
            run.say(f"  round {rnd + 1}  no pair of unequal rewards: nothing to learn from it")
            continue
        found["loss"], found["certainty"] = update(
            decoder, ref_decoder, sides, cfg.beta, cfg.lr * (1 - rnd / cfg.rounds), cfg.steps)
        rounds.append(found | dict(round=rnd, pairs=len(sides[0][1])))
        run.say(f"  round {rnd + 1}  pairs {len(sides[0][1]):4d}  reward {found['reward']:6.3f}  "
                f"loss {found['loss']:.3f}  largest P(tau) {found['certainty']:.2f}")
        run.tick((rnd + 1) / (cfg.rounds + 1), "sampling")
    return decoder, rounds


# --- measuring ------------------------------------------------------------------------------------


def measure(cfg, lm, split, *seeds, **policy):
    """A policy on a split's prompts, the same for every policy.

    -> Outcome of this process's share; the mean reward of each prompt, of all
    """
    _, rng = randomness("cpu", "real", cfg.experiment, split)
    n = cfg.test_prompts if split == "test" else cfg.validation_prompts
    asked = draw_prompts(cfg.experiment, split, n, rng)
    outcome = respond(cfg, lm, mine(asked), cfg.samples, generator_of(cfg, split, *seeds), **policy)
    return outcome, in_order(outcome.rewards.mean(1).tolist())


def measure_fixed(cfg, lm, run):
    """Each choice for all tokens, on test prompts.  -> {its label: rewards by prompt}"""
    found = {}
    for text in cfg.choices:
        _, found[str(text)] = measure(cfg, lm, "test", text, temperature=choice_of(text))
        run.tick(len(found) / len(cfg.choices), f"{text}")
    return found


def learn(cfg, lm, seed, run):
    """Train a decoder and measure it on test prompts, its choices sampled.  -> dict"""
    decoder, rounds = train(cfg, lm, seed, run)
    outcome, rewards = measure(cfg, lm, "test", cfg.level, seed, decoder=decoder)
    texts = zip(outcome.asked, drawn_at(outcome, lm[1])[::cfg.samples])
    return dict(seed=seed, rounds=rounds, rewards=rewards, texts=list(texts)[:8],
                counts=counts_of(outcome, len(decoder.choices), lm[1]),
                weights=decoder.cpu().state_dict())


# --- the program ----------------------------------------------------------------------------------


def checked(cfg):
    """The Config with its device filled in; ValueError on a value that cannot run."""
    for f in fields(cfg):
        check_value(f, getattr(cfg, f.name))
    AdaptiveDecoder(1, map(choice_of, cfg.choices))
    return replace(cfg, device=checked_device(cfg.device))


def start(cfg):
    """Join torchrun's other processes if there are, load the model.  -> model, tokenizer"""
    if "WORLD_SIZE" in os.environ:
        if cfg.device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if cfg.device == "cuda" else "gloo")
        if dist.get_rank():
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # one of them speaks
    lm, tokenizer = models.smollm2("bfloat16" if cfg.device == "cuda" else "float32")
    return hf.wrap(lm.to(cfg.device)), tokenizer


def stage_key(cfg):
    """What a finished stage depends on."""
    options = {name: x for name, x in asdict(cfg).items() if name not in ("out", "seed", "seeds")}
    return [options, code_of("lpo.py", "decoder.py", "fast/generate.py", "toy/samplers.py",
                             make_pairs, "real/hf.py", "real/tasks.py", "real/prompts.json",
                             "real/train.py")]


def main(cfg):
    name, key = f"{cfg.experiment}-{cfg.level}", stage_key(cfg)
    seeds = range(cfg.seed, cfg.seed + cfg.seeds)
    run = Stages(cfg.out, {f"{name}-fixed": 1.0} | {f"{name}-{seed}": 2.0 for seed in seeds},
                 cfg.device)
    lm = start(cfg)
    fixed = run(f"{name}-fixed", key, lambda: measure_fixed(cfg, lm, run))
    for choice, rewards in fixed.items():
        print(f"{choice:>16}  {np.mean(rewards):7.3f}")
    learned = []
    for seed in seeds:
        found = run(f"{name}-{seed}", key, lambda: learn(cfg, lm, seed, run))
        torch.save(found.pop("weights"), Path(cfg.out) / f"{name}-{seed}.pt")
        print(f"learned, seed {seed:2}  {np.mean(found['rewards']):7.3f}", *(
            f"{role}: {cfg.choices[int(np.argmax(counts))]}" for role, counts in
            found["counts"].items()), sep="  ")
        learned.append(found)
    write(Path(cfg.out) / f"{name}.json", json.dumps(dict(
        config=asdict(cfg), stages=run.finished, fixed=fixed, learned=learned)))


if __name__ == "__main__":
    try:
        main(read(sys.argv[1:], __doc__, Config, "--laptop", LAPTOP, checked))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: the same command goes on from the last finished stage")
