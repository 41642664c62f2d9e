"""What else the same head could be trained by, or look at: the objectives and inputs that LPO's are
compared with, in the terms of lpo.py.

An objective is a loss of responses that were sampled, one number each: of pairs (chosen and
rejected), of the chosen alone, of all responses with an advantage each, or of corpus text. Where it
is in the literature it has its name from there; `marginal policy gradient` is ours: REINFORCE with
the temperature summed out as in LPO's latent score.

B responses, T response tokens, K choices, V words, C width of what the head sees.
"""
import copy
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Callable

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from decoder import AdaptiveDecoder, Rollout, aligned, response_logps
from fast.generate import generate
from lpo import (ResponseLogps, at_least_float32, drawn, lpo_loss, marginal, nll_loss,
                 prepared)
from results.rules import entropy
from tasks import EOS, EXPERIMENTS, PROMPT_LENGTH, TASKS, VOCAB_SIZE, corpus, encode
from toy.evaluate import draw_prompts, respond, scored
from toy.pretrain import padded
from toy.samplers import choice_of
from toy.stages import randomness
from train_toy import make_pairs, sides_of

# --- losses: each takes the sides of its data, then its knob or the advantages  -> (B,) -----------


def preference(variant, exact_sequence, chosen, rejected, beta):
    """LPO's loss, with the arguments in the order that a round has them."""
    return lpo_loss(chosen, rejected, variant, beta, exact_sequence)


def text_score(r):
    """sum_t log sum_k P(y_t | tau_k) P(tau_k), without a reference.  ResponseLogps -> (B,)"""
    r = prepared(r)
    return marginal(r.text_logps, r.tau_logps).masked_fill(~r.mask, 0).sum(-1)


def chosen_likelihood(chosen):
    """-log of the marginal probability of the chosen text.  -> (B,)"""
    return -text_score(chosen)


def without_reference(chosen, rejected, beta):
    """`separate` as the paper prints it."""
    sides = [replace(side, ref_tau_logps=None) for side in (chosen, rejected)]
    return lpo_loss(*sides, "separate", beta)


def reinforce(r, advantages):
    """-advantage log P(the drawn temperatures) (Williams, 1992).  ResponseLogps, (B,) -> (B,)"""
    return advantages * nll_loss(r)


def clipped(r, advantages, clip=0.2):
    """PPO's surrogate (Schulman et al., 2017): the ratio to the round's first decoder, token by
    token, gains nothing beyond 1 +- clip.  ResponseLogps, (B,) -> (B,)"""
    r = prepared(r)
    ratio = (drawn(r.tau_logps, r.tau_idx) - drawn(r.ref_tau_logps, r.tau_idx)).exp()  # (B,L)
    advantages = advantages[:, None]
    gains = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    if gains.shape == r.mask.shape:  # one a token: padding has a ratio of 1
        gains = gains.masked_fill(~r.mask, 0)
    return -gains.sum(-1)


def marginal_policy_gradient(r, advantages):
    """-advantage log P(text), the temperatures summed out.  ResponseLogps, (B,) -> (B,)"""
    return -advantages * text_score(r)


def leave_one_out(rewards):
    """Each reward minus the mean of the prompt's others (Kool et al., 2019).  (P,N) -> (P,N)"""
    others = (rewards.sum(1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


def group_normalised(rewards):
    """Rewards of a prompt in standard deviations from its mean, as GRPO has them (Shao et al.,
    2024); 0 where all are equal.  (P,N) -> (P,N)"""
    return (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, keepdims=True) + 1e-6)


# --- heads ----------------------------------------------------------------------------------------


class ContinuousHead(nn.Module):
    """The same 3-layer MLP, which gives one temperature of a range in place of K probabilities."""
    coldest, hottest = 0.02, 1.6

    def __init__(self, n_embd, level):
        super().__init__()
        self.level = level
        self.mlp = AdaptiveDecoder(n_embd, [0.0], level).mlp  # one output; starts in the middle

    def forward(self, hidden):
        """(...,C) -> (...,1)"""
        share = self.mlp(hidden).sigmoid()
        return self.coldest + (self.hottest - self.coldest) * share

    def text_logps(self, logits, hidden, tokens):
        """log P(y_t | tau(h)).  (B,T,V), (B,T,C), (B,T) -> (B,T,1)"""
        tau = self(hidden if self.level == "token" else hidden[:, :1])
        logps = F.log_softmax(at_least_float32(logits) / tau, -1)
        return logps.gather(-1, tokens[..., None])


class Wrapped(nn.Module):
    """A language model that hands on something else: `change` maps logits (B,T,V), hidden states
    (B,T,C), tokens (B,T) and their places (B,T) to other logits and hidden states. Keys and values
    are kept as the model itself keeps them."""

    def __init__(self, model, change):
        super().__init__()
        self.model = model
        self.change = change
        self.config = model.config

    def forward(self, idx, cache=None):
        logits, hidden = self.model(idx, None if cache is None else cache.inner)
        places = torch.arange(idx.shape[1], device=idx.device).expand_as(idx)
        return self.change(logits, hidden, idx, places)

    def new_cache(self, batch, length):
        return WrappedCache(self.model.new_cache(batch, length), self.change)


class WrappedCache:
    """The model's own cache, with the change behind each step."""

    def __init__(self, inner, change):
        self.inner = inner
        self.change = change
        self.keep = inner.keep

    def step(self, idx, pos):
        logits, hidden = self.inner.step(idx, pos)
        given = (x[:, None] for x in (logits, hidden, idx, pos))  # one column each
        return tuple(x[:, 0] for x in self.change(*given))


KEYWORDS = [encode(word)[0] for word in ("sum", "list", "tell")]  # of the mix's three tasks


def nothing(logits, hidden, tokens, places):
    return torch.zeros_like(hidden[..., :1])


def task_label(logits, hidden, tokens, places):
    """Which keyword was seen. For the sequence level, which looks at whole prompts alone."""
    seen = (tokens[..., None] == torch.tensor(KEYWORDS, device=tokens.device)).cumsum(-2) > 0
    return seen.to(hidden.dtype)


def position(logits, hidden, tokens, places):
    longest = PROMPT_LENGTH + max(task.length for task in TASKS.values())
    return F.one_hot(places, longest).to(hidden.dtype)


def shape(logits, hidden, tokens, places):
    """The entropy, and the 16 largest log-probabilities in order: all that a rule can see."""
    return torch.cat([entropy(logits), F.log_softmax(logits, -1).topk(16).values], -1)


def last_word(logits, hidden, tokens, places):
    return F.one_hot(tokens, VOCAB_SIZE).to(hidden.dtype)


SEEN = {  # what the head sees -> a function, and its width
    "nothing": (nothing, 1),
    "task label": (task_label, len(KEYWORDS)),
    "position": (position, PROMPT_LENGTH + max(task.length for task in TASKS.values())),
    "shape": (shape, 17),
    "last word": (last_word, VOCAB_SIZE)}


def head_of(cfg, model, level, choices, sees, continuous):
    """-> what stands in for the model (it shows the head something else), the head"""
    width = cfg.n_embd
    if sees != "hidden state":
        see, width = SEEN[sees]
        model = Wrapped(model, lambda logits, *rest: (logits, see(logits, *rest)))
    head = (ContinuousHead(width, level) if continuous else
            AdaptiveDecoder(width, choices, level, n_hidden=cfg.n_embd))
    return model, head


@torch.no_grad()
def respond_by(model, head, asked, samples, generator):
    """Sample responses at a head's choices and score them.  P of (task, prompt) -> Outcome"""
    if not isinstance(head, ContinuousHead):
        return respond(model, asked, samples, generator, decoder=head)
    if head.level == "token":
        tempered = Wrapped(model, lambda logits, hidden, *_: (logits / head(hidden), hidden))
        return respond(tempered, asked, samples, generator, temperature=1.0)
    prompts = [encode(prompt) for _, prompt in asked for _ in range(samples)]
    taus = head(model(torch.tensor(prompts))[1][:, -1])  # (R,1): one a response
    T = max(TASKS[name].length for name, _ in asked)
    return scored(asked, samples, generate(model, prompts, T, temperature=taus.tolist(), eos=EOS,
                                           generator=generator))


# --- all of them ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Objective:
    """What a round's updates are made of."""
    data: str                   # "pairs", "chosen", "all" or "corpus"
    loss: Callable              # of the data's sides, and of beta or the advantages
    advantage: Callable | None = None
    continuous: bool = False
    source: str = ""

    @property
    def knob(self):
        """What its search varies beside the rate: beta, or the updates a round where none is."""
        return ("beta", (0.1, 0.5)) if self.data == "pairs" else ("steps", (5, 20))


REINFORCE = partial(Objective, "all", reinforce)
OBJECTIVES = {
    "latent": Objective("pairs", partial(preference, "latent", False), source="the paper"),
    "latent, exact sequence": Objective("pairs", partial(preference, "latent", True),
                                        source="ours"),
    "separate": Objective("pairs", without_reference, source="the paper, equation 10"),
    "separate, decoder reference": Objective("pairs", partial(preference, "separate", False),
                                             source="the paper's joint loss, model frozen"),
    "NLL": Objective("chosen", nll_loss, source="the paper's ablation"),
    "likelihood of the chosen": Objective("chosen", chosen_likelihood, source="ours"),
    "REINFORCE": REINFORCE(leave_one_out, source="Williams 1992, Kool et al. 2019"),
    "REINFORCE, clipped": Objective("all", clipped, leave_one_out,
                                    source="PPO's clip, Schulman et al. 2017"),
    "GRPO-normalised": REINFORCE(group_normalised, source="Shao et al. 2024"),
    "marginal policy gradient": Objective("all", marginal_policy_gradient, leave_one_out,
                                          source="ours"),
    "continuous, DPO": Objective("pairs", partial(preference, "latent", False), continuous=True,
                                 source="Rafailov et al. 2023, on the text"),
    "continuous, best of 8": Objective("chosen", chosen_likelihood, continuous=True,
                                       source="rejection sampling"),
    "continuous, corpus": Objective("corpus", chosen_likelihood, continuous=True,
                                    source="AutoDeco, arXiv 2510.26697"),
}


# --- training: the main job's loop, with another objective, input, choices or reward --------------


@dataclass(frozen=True)
class Recipe:
    """What is trained, and by what."""
    objective: str = "latent"
    choices: tuple = ()          # labels, as toy/samplers.py reads them
    sees: str = "hidden state"
    noise: str = ""              # of the reward: "flip 0.2" or "spread 3"


def noisy(rewards, noise, rng):
    """Rewards (P,N) as a bad judge gives them. "flip 0.2": a fifth of the prompts have their
    responses ranked in reverse. "spread 3": Gaussian noise of three times the rewards' spread."""
    if not noise:
        return rewards
    kind, size = noise.split()
    if kind == "flip":
        return np.where(rng.random((len(rewards), 1)) < float(size), -rewards, rewards)
    return rewards + float(size) * rewards.std() * rng.standard_normal(rewards.shape)


def corpus_side(experiment, n, rng):
    """n prompts and corpus responses, as if they had been sampled.  -> (prompts, Rollout)"""
    texts = [text for name in EXPERIMENTS[experiment]
             for text in corpus(name, n // len(EXPERIMENTS[experiment]), rng)]
    longest = max(TASKS[name].length for name in EXPERIMENTS[experiment])
    tokens = padded(texts, PROMPT_LENGTH + longest)[:, PROMPT_LENGTH:]
    mask = tokens >= 0
    return ([encode(prompt) for prompt, _ in texts],
            Rollout(tokens.clamp(min=0), mask, mask.new_zeros(len(mask)), None))


def data_of(objective, outcome, knob, experiment, n, rng):
    """-> the sides that the loss takes, each (prompts, Rollout), and what it takes beside them"""
    if objective.data == "corpus":
        return [corpus_side(experiment, n, rng)], ()
    if objective.data == "all":
        everyone = range(outcome.rewards.size)
        advantages = objective.advantage(outcome.rewards).ravel()
        return sides_of(outcome, [everyone]), (torch.tensor(advantages, dtype=torch.float32),)
    sides = sides_of(outcome, make_pairs(outcome.rewards))
    return (sides, (knob,)) if objective.data == "pairs" else (sides[:1], ())


class Scorer:
    """What a loss needs of one side again and again; the language model is run only once."""

    def __init__(self, model, head, prompts, rollout):
        self.tokens, self.mask = rollout.tokens, rollout.mask
        with torch.no_grad():
            self.logits, self.hidden = aligned(model, prompts, rollout.tokens)
            self.reference = (self.continuous(head) if isinstance(head, ContinuousHead) else
                              response_logps(model, head, prompts, rollout,
                                             ref_decoder=copy.deepcopy(head)))

    def continuous(self, head):
        """With K = 1 the latent score is DPO's of the text, and the marginal is its probability."""
        text_logps = head.text_logps(self.logits, self.hidden, self.tokens)  # (B,T,1)
        return ResponseLogps(torch.zeros_like(text_logps), torch.zeros_like(self.tokens), self.mask,
                             text_logps, text_logps)

    def __call__(self, head):
        """-> ResponseLogps of the head as it is now, its reference that of the round's start"""
        if isinstance(head, ContinuousHead):
            return replace(self.continuous(head), ref_text_logps=self.reference.text_logps)
        return replace(self.reference, tau_logps=head.response(self.hidden))


def learn(model, head, objective, sides, more, lr, steps):
    """One round's updates of the head, each on all of the data."""
    scorers = [Scorer(model, head, *side) for side in sides]
    optimizer = torch.optim.AdamW(head.parameters(), lr, weight_decay=0.0)
    for _ in range(steps):
        loss = objective.loss(*(scorer(head) for scorer in scorers), *more).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train_head(cfg, base, experiment, level, recipe, lr, knob, seeds):
    """The main job's loop.  -> model, head, reward of each round, seconds of a round: of sampling
    and of learning"""
    objective = OBJECTIVES[recipe.objective]
    gen, rng = randomness("cpu", *seeds)  # the same for all recipes: prompts and first samples
    judge = np.random.default_rng(rng.integers(1 << 32))
    model, head = head_of(cfg, base, level, [choice_of(label) for label in recipe.choices],
                          recipe.sees, objective.continuous)
    steps = knob if objective.knob[0] == "steps" else cfg.steps
    curve, seconds = [], np.zeros(2)
    for rnd in range(cfg.rounds):
        began = time.perf_counter()
        asked = draw_prompts(experiment, "train", cfg.prompts, rng)
        outcome = respond_by(model, head, asked, cfg.responses, gen)
        curve.append(outcome.rewards.mean())
        sampled = time.perf_counter()
        outcome.scores["reward"] = noisy(outcome.rewards, recipe.noise, judge)
        sides, more = data_of(objective, outcome, knob, experiment, cfg.prompts, judge)
        if sides[0][0]:  # else all rewards are equal: nothing to learn from
            learn(model, head, objective, sides, more, lr * (1 - rnd / cfg.rounds), steps)
        seconds += sampled - began, time.perf_counter() - sampled
    return model, head, curve, (seconds / cfg.rounds).tolist()
