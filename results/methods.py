"""What LPO is compared with: rules that nobody trains, other objectives, decoders that see less.

Each section is what a reader looks for: the rules and how the best setting is found, the losses,
what a decoder may see, and the training loop, which is the main job's. cells.py measures them.

(...,V): any leading dimensions and V tokens; entropies are in nats. R responses, B responses of a
side, T tokens, K choices, C width of what the decoder sees.
"""
import copy
import itertools
import math
from dataclasses import dataclass, replace
from typing import Callable

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from decoder import (AdaptiveDecoder, Rollout, aligned, at_least_float32, choice_logps, counts_of,
                     response_logps)
from fast.generate import generate
from lpo import VARIANTS, ResponseLogps, lpo_loss, marginal, sampled
from model import Cache
from tasks import EOS, EXPERIMENTS, HURRY, PROMPT_LENGTH, TASKS, VOCAB_SIZE, corpus, encode
from toy import files
from toy.evaluate import BATCH, respond, sample_prompts, scored
from toy.samplers import (ORDERS, Setting, choice_of, epsilon_cutoff, frequency, label,
                          min_p, presence, repetition, top_k, top_nsigma, top_p, typical_p)
from train_toy import Config, make_pairs, update

LEVEL = {"repeats": "token", "mix": "sequence", "constrained": "token", "vote": "token"}

# --- sets of choices, for LPO ---------------------------------------------------------------------


def choices_of(texts):
    return tuple(label(choice_of(text)) for text in texts.split())


TEMPERATURES = Config().choices
SETS = {  # fixed before the study; each has greedy decoding in it
    "temperatures": TEMPERATURES,
    "typical and cuts": choices_of("0 typical_p=.5@.6 epsilon_cutoff=.02@3 epsilon_cutoff=.05@3 "
                                   "top_nsigma=.5@3 min_p=.05@3 1"),
    "one of each": choices_of("0 .6 1 min_p=.05@3 top_nsigma=1.5@3 top_p=.9@2"),
    "memory": choices_of("0 min_p=.05@3 frequency=.5@0 frequency=1@0 frequency=1@1|min_p=.05 "
                         "frequency=3@1|min_p=.05")}
CANDIDATES = {  # of these the set with memory that is best on validation prompts is reported too
    "four": choices_of("0 min_p=.05@3 frequency=1@0 frequency=3@1|min_p=.05"),
    "four and typical": choices_of("0 min_p=.05@3 frequency=1@0 frequency=3@1|min_p=.05 "
                                   "typical_p=.5@.6"),
    "penalties": choices_of("0 .6 1 frequency=.6@.6 frequency=1@1 frequency=2@1")}

# --- rules without memory -------------------------------------------------------------------------

UNIFORM = 1000.0  # a temperature at which all that is kept is equally likely
TAUS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)
HOT = (0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 5.0, UNIFORM)
COLDEST = 1e-3  # of a temperature that follows the entropy
FORMULAS = {  # entropy (...,1), V, knobs -> temperature
    # entropy-based dynamic temperature (arXiv 2403.14541), theta / entropy of at most 1e9
    "EDT": lambda h, V, hottest, theta: hottest * 0.8 ** (theta / h.clamp(min=1e-9)),
    # between two ends by the share of the largest entropy, to a power (llama.cpp)
    "dynatemp": lambda h, V, low, high, power: low + (high - low) * (h / math.log(V)) ** power,
    "slope": lambda h, V, a, b: a + b * h}


@dataclass(frozen=True)
class ByEntropy:
    """A temperature that is a function of the entropy: logits (...,V) -> log-probabilities."""
    kind: str
    knobs: tuple

    @property
    def name(self):
        return f"{self.kind} {', '.join(f'{x:g}' for x in self.knobs)}"

    def __call__(self, logits):
        logits = at_least_float32(logits)
        logps = logits.log_softmax(-1)
        entropy = -(logps.exp() * logps).sum(-1, keepdim=True)
        tau = FORMULAS[self.kind](entropy, logits.shape[-1], *self.knobs).clamp(min=COLDEST)
        return ((logits - logits.amax(-1, keepdim=True)) / tau).log_softmax(-1)


def grid(make, *values):
    return [make(*given) for given in itertools.product(*values)]


def cuts(make, numbers):
    """A truncation with temperatures after it; its limits are no cut and greedy decoding."""
    return [*TAUS, *grid(lambda number, tau: make(number, temperature=tau), numbers, HOT)]


def by_entropy(kind, *axes):
    return [*TAUS, *grid(lambda *knobs: ByEntropy(kind, knobs), *axes)]


# --- rules with memory ----------------------------------------------------------------------------

NEVER = 1e6  # a penalty after which a token does not come again
PENALTY_TAUS = (0.0, 0.1, 0.2, 0.4, 0.6, 1.0, 1.5, 3.0)
PENALTY_CUTS = (None, min_p(0.05), min_p(0.2))


def longest_matches(tokens, V):
    """How long a text each token has followed that is now the end of the text; -1: it never came.

    (R,t) -> (R,V). After "a b c a b" the token c has followed "a b", which is the end: 2.
    """
    R, t = tokens.shape
    lengths = torch.zeros_like(tokens)
    same = torch.ones_like(tokens, dtype=torch.bool)
    for n in range(1, t):  # are the n tokens before column j the last n of all?
        same[:, n:] &= tokens[:, :t - n] == tokens[:, t - n, None]
        same[:, :n] = False
        lengths += same
        if not same.any():
            break
    return tokens.new_full((R, V), -1).scatter_reduce(1, tokens, lengths, "amax")


@dataclass(eq=False)
class OfText:
    """A choice that sees the text so far, (R,t) tokens, which `read` gets before each column."""
    value: float
    temperature: float = 1.0

    def read(self, tokens):
        self.tokens = tokens


@dataclass(eq=False)
class Dry(OfText):
    """"Don't repeat yourself" of local samplers: a token that would repeat a sequence of `allowed`
    tokens or more loses value * 1.75^(length - allowed). If the value is NEVER, no sequence of
    allowed + 1 tokens comes twice: transformers' no_repeat_ngram. Beside it a frequency penalty."""
    cut: Setting | None = None  # of the model's own distribution
    allowed: int = 2
    frequency: float = 0.0

    @property
    def name(self):
        kind = f"dry={self.value:g},{self.allowed}"
        if self.value == NEVER:
            kind = f"no_repeat_ngram={self.allowed + 1}"
        extra = f" frequency={self.frequency:g}" if self.frequency else ""
        cut = f"|{self.cut.name}" if self.cut else ""
        return f"{kind}{extra}@{self.temperature:g}{cut}"

    def __call__(self, logits):
        V = logits.shape[-1]
        longer = longest_matches(self.tokens, V) - self.allowed
        penalty = torch.where(longer >= 0, self.value * 1.75 ** longer.clamp(max=20), 0.0)
        penalty = penalty + self.frequency * counts_of(self.tokens, V)
        logits = at_least_float32(logits)
        if self.cut:
            logits = logits.masked_fill(self.cut(logits).isneginf(), -math.inf)
        return choice_logps(logits - penalty, self.temperature)


@dataclass(eq=False)
class Mirostat(OfText):
    """Mirostat 2 (arXiv 2007.14966): tokens more surprising than a bound are cut, and the bound
    follows the surprise of what was written towards a target, `value`, in bits."""
    order: str = ORDERS[0]  # llama.cpp's is the other one
    rate: float = 0.1

    @property
    def name(self):
        parts = f"mirostat={self.value:g}", f"{self.temperature:g}"
        return "@".join(parts if self.order == ORDERS[0] else reversed(parts))

    def read(self, tokens):
        if tokens.shape[1] == 0:
            self.bound = 2 * self.value
        else:
            surprise = self.bits.gather(1, tokens[:, -1:])
            self.bound = self.bound - self.rate * (surprise - self.value)  # (R,1)

    def __call__(self, logits):
        seen = choice_logps(logits, self.temperature if self.order == ORDERS[1] else 1.0)
        self.bits = -seen / math.log(2)
        best = seen.argmax(-1, keepdim=True)
        kept = (self.bits <= self.bound).scatter(-1, best, True)
        return choice_logps(logits.masked_fill(~kept, -math.inf), self.temperature)


WITHOUT_PENALTY = [*TAUS, *grid(lambda cut, tau: replace(cut, temperature=tau), PENALTY_CUTS[1:],
                                (*PENALTY_TAUS[1:], UNIFORM))]


def penalties(make, numbers):
    """A penalty at temperatures from 0 on, after a truncation or none; its limits are no penalty
    and that no token comes twice."""
    return [*WITHOUT_PENALTY, *grid(lambda number, tau, cut: make(number, temperature=tau, cut=cut),
                                    (*numbers, NEVER), PENALTY_TAUS, PENALTY_CUTS)]


WITHOUT_MEMORY = {  # each family has its limits in it: greedy decoding and plain temperatures
    "temperature": [*TAUS],
    "top-k": cuts(top_k, (2, 5, 10, 20)),
    "top-p": cuts(top_p, (0.3, 0.5, 0.7, 0.9, 0.95)),
    "min-p": cuts(min_p, (0.01, 0.02, 0.05, 0.1, 0.3)),
    "typical": cuts(typical_p, (0.2, 0.5, 0.7, 0.9, 0.95)),
    "epsilon": cuts(epsilon_cutoff, (0.005, 0.01, 0.02, 0.03, 0.05, 0.1)),
    "top-n-sigma": cuts(top_nsigma, (0.5, 1.0, 1.5, 2.0, 3.0)),
    "EDT": by_entropy("EDT", (0.5, 0.7, 1.0, 1.5, 2.0, 4.0), (0.1, 0.5, 1.0, 3.0, 10.0)),
    "dynatemp": by_entropy("dynatemp", (0.0, 0.2, 0.5, 1.0), (0.6, 1.2, 2.0, 4.0, 8.0, 16.0),
                           (0.5, 1.0, 2.0, 4.0, 8.0)),
    "entropy slope": by_entropy("slope", (-1.0, -0.5, 0.0, 0.1, 0.3, 0.5, 1.0, 2.0),
                                (-0.6, -0.3, -0.1, 0.1, 0.3, 0.6, 1.2)),
    "mirostat": [*TAUS, *grid(lambda bits, tau, order: Mirostat(bits, tau, order=order),
                              (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0), HOT, ORDERS)]}
WITH_MEMORY = {
    "frequency penalty": penalties(frequency, (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)),
    "presence penalty": penalties(presence, (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)),
    "repetition penalty": penalties(repetition, (1.1, 1.2, 1.3, 1.6, 2.0, 4.0)),
    "DRY": [*WITHOUT_PENALTY, *grid(
        Dry, (1.0, NEVER), (0.0, 0.2, 0.6, 1.0), PENALTY_CUTS[:2], (1, 2, 3),
        (0.0, 0.5, 0.7, 1.0, 1.4, 2.0))],
    "no-repeat n-gram": [*WITHOUT_PENALTY, *grid(
        Dry, (NEVER,), PENALTY_TAUS, PENALTY_CUTS, (0, 1, 2, 3, 4))]}
RULES = WITHOUT_MEMORY | WITH_MEMORY

# A cut between two of the grids above can do far better than both. These have more of them.
SIGMAS = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 1.0, 1.1, 1.2, 1.5)
MIN_PS = (0.05, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.22, 0.25, 0.3, 0.35, 0.4, 0.5)
FINE_CUTS = [*map(top_nsigma, SIGMAS[3:10]), *map(min_p, (0.1, 0.14, 0.16, 0.18, 0.2, 0.25))]


def finer_penalties(make, numbers):
    return [*TAUS, *grid(lambda cut, tau: replace(cut, temperature=tau), FINE_CUTS,
                         (1.0, 3.0, UNIFORM)),
            *grid(lambda number, tau, cut: make(number, temperature=tau, cut=cut), (*numbers, NEVER),
                  (0.0, 0.4, 1.0, 3.0), (None, *FINE_CUTS))]


FINER_WITHOUT = {"top-n-sigma, finer": cuts(top_nsigma, SIGMAS), "min-p, finer": cuts(min_p, MIN_PS)}
FINER_WITH = {
    "frequency penalty, finer": finer_penalties(frequency, (0.5, 0.7, 1.0, 1.4, 2.0)),
    "DRY, finer": [*TAUS, *grid(Dry, (1.0, NEVER), (0.0, 1.0), FINE_CUTS[1::2], (1, 2, 3),
                                (0.0, 0.7, 1.0))],
    "presence penalty, finer": finer_penalties(presence, (0.7, 1.0, 2.0))}
FINER = FINER_WITHOUT | FINER_WITH
OPEN = {  # ends of knobs that are no limit of anything: a best value there asks for a wider grid
    "EDT": ((0, 4.0),), "dynatemp": ((0, 1.0), (1, 16.0)),
    "slope": ((0, -1.0), (0, 2.0), (1, -0.6), (1, 1.2))}


def is_cold(rule):
    """Does it write the same response each time?"""
    return getattr(rule, "temperature", rule) == 0


def at_edge(rule):
    """Is the rule at an end of its family's grid that is no natural limit?"""
    if isinstance(rule, ByEntropy):
        return any(rule.knobs[i] == end for i, end in OPEN[rule.kind])
    return rule == TAUS[-1] or isinstance(rule, Dry) and rule.frequency == 2.0


# --- responses by rules, and the search for the best one ------------------------------------------


def written(model, items, rules, generator):
    """One response to each item by its own rule.  R of (task, prompt), R rules -> Rollout"""
    T = max(TASKS[name].length for name, _ in items)
    parts = []
    for start in range(0, len(items), BATCH["cpu"]):
        prompts = [encode(prompt) for _, prompt in items[start:start + BATCH["cpu"]]]
        given = rules[start:start + BATCH["cpu"]]
        readers = {}
        for row, rule in enumerate(given):
            if isinstance(rule, OfText):
                readers.setdefault(rule, []).append(row)

        def plan(tokens):
            for rule, rows in readers.items():
                rule.read(tokens[rows])
            return given
        # finished rows are dropped at the end of text, and the readers would lose count
        rollout = generate(model, prompts, T, temperature=plan, generator=generator,
                           eos=None if readers else EOS)
        ends = rollout.tokens == EOS
        mask = rollout.mask & (ends.cumsum(1) - ends.long() == 0)
        parts.append((rollout.tokens.masked_fill(~mask, 0), mask, ~(ends & mask).any(1)))
    return Rollout(*map(torch.cat, zip(*parts)), None)


def respond_by_rule(model, prompts, samples, generator, rules):
    """P of (task, prompt), a rule for each -> Outcome; cold ones are written once and repeated"""
    items, copies = [], []
    for item, rule in zip(prompts, rules):
        n = 1 if is_cold(rule) else samples
        copies += [len(items) + i % n for i in range(samples)]
        items += [(item, rule)] * n
    rollout = written(model, [item for item, _ in items], [rule for _, rule in items], generator)
    return scored(prompts, samples, rollout[copies])


def race(rules, prompts, rewards_of, first=12, margin=3.0):
    """The best rule by mean reward.  -> (its number, its mean reward on all prompts)

    rewards_of(rules, prompts) -> (rules,P). All run on the first dozen prompts, the better ones on
    as many again, and so on. After each heat half of the rules drop out, and those that are more
    than `margin` standard errors of the difference behind the leader.
    """
    numbers = np.arange(len(rules))
    values = np.empty((len(rules), 0))
    while values.shape[1] < len(prompts):
        start = values.shape[1]
        heat = prompts[start:max(first, 2 * start)]
        values = np.concatenate([values, rewards_of([rules[i] for i in numbers], heat)], 1)
        means = values.mean(1)
        behind = values[means.argmax()] - values
        error = behind.std(1, ddof=1) / values.shape[1] ** 0.5 if values.shape[1] > 1 else np.inf
        kept = behind.mean(1) <= margin * error
        if values.shape[1] < len(prompts):
            kept &= means >= np.median(means)
        numbers, values = numbers[kept], values[kept]
    winner = values.mean(1).argmax()
    return int(numbers[winner]), float(values[winner].mean())


def kind_of(item):
    """What a sequence-level decoder could tell apart in a prompt, (task, prompt)."""
    name, prompt = item
    words = prompt.split()
    kinds = {"vote": words[0] == HURRY, "constrained": words[1], "repeats": words[2] == "the"}
    return str(kinds.get(name, name))


# --- losses: of the sides of a round's data, and of advantages where there are any -> (B,) --------


def text_score(r):
    """sum_t log sum_k P(tau_k) P(y_t | tau_k), without a reference.  ResponseLogps -> (B,)"""
    return marginal(r.text_logps, r.tau_logps).masked_fill(~r.mask, 0).sum(-1)


def likelihood(r):
    """-log probability of the text."""
    return -text_score(r)


def reinforce(r, advantages):
    """-advantage log P(the temperatures that were sampled) (Williams, 1992)."""
    return -advantages * sampled(r.tau_logps, r.tau_idx).sum(-1)


def marginal_policy_gradient(r, advantages):
    """-advantage log P(text): REINFORCE with the temperatures summed out."""
    return -advantages * text_score(r)


def leave_one_out(rewards):
    """Each reward minus the mean of the prompt's others (Kool et al., 2019).  (P,N) -> (P,N)"""
    others = (rewards.sum(1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


def group_normalised(rewards):
    """In standard deviations from the prompt's mean (GRPO, Shao et al., 2024).  (P,N) -> (P,N)"""
    return (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, keepdims=True) + 1e-6)


@dataclass(frozen=True)
class Objective:
    data: str                            # "pairs", "chosen", "all" responses or "corpus"
    loss: str | Callable                 # a variant of lpo_loss, or a function above
    advantage: Callable | None = None
    continuous: bool = False             # one temperature as a function of the hidden state
    reference: bool = False              # the decoder's, in `separate`

    @property
    def knob(self):
        """What its search varies beside the rate: beta, or the updates per round without one."""
        return "beta" if self.data == "pairs" else "steps"


OBJECTIVES = {
    "latent": Objective("pairs", "latent"),
    "latent_exact": Objective("pairs", "latent_exact"),
    "separate": Objective("pairs", "separate"),
    "separate, with reference": Objective("pairs", "separate", reference=True),
    "joint": Objective("pairs", "joint"),
    "nll": Objective("chosen", "nll"),
    "REINFORCE": Objective("all", reinforce, leave_one_out),
    "GRPO-normalised": Objective("all", reinforce, group_normalised),
    "marginal policy gradient": Objective("all", marginal_policy_gradient, leave_one_out),
    "continuous DPO": Objective("pairs", "latent", continuous=True),  # arXiv 2305.18290
    # AutoDeco's, arXiv 2510.26697, for the temperature alone; curated text are the best responses
    "AutoDeco's, best of 8": Objective("chosen", likelihood, continuous=True),
    "AutoDeco's, corpus": Objective("corpus", likelihood, continuous=True)}

# --- what a decoder sees: the last T columns of a text (B,S) -> (B,T,C) ---------------------------


class TextCache(Cache):
    """Keys and values, and the tokens that they are of, (B,S)."""

    def __init__(self, model, batch, length):
        super().__init__(model, batch, length)
        self.text = torch.zeros(batch, 0, dtype=torch.long)

    def keep(self, rows):
        super().keep(rows)
        self.text = self.text[rows]


class Wrapped(nn.Module):
    """A language model that hands on other logits and hidden states than its own.

    change: logits (B,T,V), hidden (B,T,C), the text so far (B,S) -> both for its last T columns
    """

    def __init__(self, model, change):
        super().__init__()
        self.model = model
        self.change = change
        self.config = model.config

    def forward(self, idx, cache=None):
        logits, hidden = self.model(idx, cache)
        if cache is not None:
            cache.text = torch.cat([cache.text, idx], 1)
        return self.change(logits, hidden, idx if cache is None else cache.text)

    def new_cache(self, batch, length):
        return TextCache(self.model, batch, length)


def one_hot(tokens):
    return F.one_hot(tokens, VOCAB_SIZE).float()


def nothing(logits, hidden, text):
    return torch.zeros_like(hidden[..., :1])


def position(logits, hidden, text):
    longest = PROMPT_LENGTH + max(task.length for task in TASKS.values())
    places = torch.arange(text.shape[1] - logits.shape[1], text.shape[1])
    return F.one_hot(places, longest).float().expand(len(text), -1, -1)


def shape(logits, hidden, text):
    """The entropy and the 16 largest log-probabilities: all that a rule without memory sees."""
    logps = logits.log_softmax(-1)
    entropy = -(logps.exp() * logps).sum(-1, keepdim=True)
    return torch.cat([entropy, logps.topk(16).values], -1)


def last_word(logits, hidden, text):
    return one_hot(text[:, -logits.shape[1]:])


def last_and_prompt(logits, hidden, text):
    """The last word, and words 2 and 3 of the prompt."""
    prompt = one_hot(text[:, 1:3]).flatten(1)  # (B,2V)
    return torch.cat([last_word(logits, hidden, text),
                      prompt[:, None].expand(-1, logits.shape[1], -1)], -1)


KEYWORDS = [encode(word)[0] for word in ("sum", "list", "tell")]  # of the mix's three tasks


def task_label(logits, hidden, text):
    """Which keyword came, for the sequence level."""
    seen = (text[..., None] == torch.tensor(KEYWORDS)).cumsum(1) > 0
    return seen[:, -logits.shape[1]:].float()


def mean_state(logits, hidden, text):
    """The mean of the hidden states so far: of the whole prompt where the sequence level looks.
    With a cache right in the first pass alone, the only one at which that level decides."""
    return hidden.cumsum(1) / torch.arange(1, hidden.shape[1] + 1)[:, None]


SEES = {"nothing": nothing, "position": position, "shape": shape, "last word": last_word,
        "last word and prompt words": last_and_prompt, "task label": task_label}
STATES = SEES | {"mean state": mean_state}


# --- decoders -------------------------------------------------------------------------------------


class Continuous(nn.Module):
    """The same MLP, which gives one temperature in a range in place of K probabilities."""
    coldest, hottest = 0.02, 2.0

    def __init__(self, n_embd, level):
        super().__init__()
        self.level = level
        self.mlp = AdaptiveDecoder(n_embd, [0.0], level).mlp  # one output; starts in the middle

    def forward(self, hidden):
        """(...,C) -> temperatures (...,1)"""
        return self.coldest + (self.hottest - self.coldest) * self.mlp(hidden).sigmoid()

    def response(self, hidden):
        """(B,T,C) -> (B,T,1), or (B,1,1) at the sequence level"""
        return self(hidden if self.level == "token" else hidden[:, :1])


class Floored(nn.Module):
    """A decoder that is replaced by the uniform distribution with a probability of `floor`."""

    def __init__(self, decoder, floor):
        super().__init__()
        self.decoder = decoder
        self.level = decoder.level
        self.choices = decoder.choices
        self.floor = torch.tensor(floor)

    def forward(self, hidden):
        uniform = self.floor.log() - math.log(len(self.choices))
        return torch.logaddexp((1 - self.floor).log() + self.decoder(hidden), uniform)


def respond_by(model, decoder, prompts, samples, generator, **policy):
    """Sample responses at a decoder's choices and score them.  P of (task, prompt) -> Outcome"""
    if not isinstance(decoder, Continuous):
        return respond(model, prompts, samples, generator, decoder=decoder, **policy)
    with torch.no_grad():
        if decoder.level == "token":
            tempered = Wrapped(model, lambda logits, hidden, _: (logits / decoder(hidden), hidden))
            return respond(tempered, prompts, samples, generator, temperature=1.0)
        _, hidden = model(torch.tensor([encode(prompt) for _, prompt in prompts]))
        return respond_by_rule(model, prompts, samples, generator,
                               decoder(hidden[:, -1])[:, 0].tolist())


# --- training: the main job's loop, with another objective, input or reward -----------------------


@dataclass(frozen=True)
class Recipe:
    """What is trained beside the options of the main job."""
    objective: str = "latent"
    sees: str = "hidden state"
    floor: float = 0.0   # share of the uniform distribution while training samples
    noise: str = ""      # of the reward: "flip 0.2" or "spread 3"


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
    names = EXPERIMENTS[experiment]
    texts = [text for name in names for text in corpus(name, n // len(names), rng)]
    T = max(TASKS[name].length for name in names)
    rows = [[*encode(response), EOS] for _, response in texts]
    tokens = torch.tensor([row + [0] * (T - len(row)) for row in rows])
    mask = torch.arange(T) < torch.tensor([[len(row)] for row in rows])
    return ([encode(prompt) for prompt, _ in texts],
            Rollout(tokens, mask, torch.zeros(len(rows), dtype=torch.bool), None))


def scorer(model, decoder, prompts, rollout):
    """What a loss needs of one side; the model runs once.  -> function: () -> ResponseLogps"""
    with torch.no_grad():
        logits, hidden = states = aligned(model, prompts, rollout.tokens)
    if not isinstance(decoder, Continuous):
        frozen = response_logps(model, decoder, prompts, rollout, states=states)

        def decided():
            """(B,L,K); at the token level padding, a third of it, costs nothing and stays 0"""
            if decoder.level == "sequence":
                return decoder.response(hidden)
            logps = hidden.new_zeros(*rollout.mask.shape, len(decoder.choices))
            return logps.index_put((rollout.mask,), decoder(hidden[rollout.mask]))
        return lambda: replace(frozen, tau_logps=decided())

    def text_logps():
        """With one choice the latent score is DPO's, of the text.  -> (B,T,1)"""
        logps = (at_least_float32(logits) / decoder.response(hidden)).log_softmax(-1)
        return logps.gather(-1, rollout.tokens[..., None])
    reference = text_logps().detach()
    return lambda: ResponseLogps(torch.zeros_like(reference), torch.zeros_like(rollout.tokens),
                                 rollout.mask, text_logps(), reference)


def update_by(objective, model, decoder, sides, more, lr, steps):
    """Updates of a decoder by an objective that train_toy.update does not have."""
    scorers = [scorer(model, decoder, *side) for side in sides]
    optimizer = torch.optim.AdamW(decoder.parameters(), lr, weight_decay=0.0)
    for _ in range(steps):
        logps = [score() for score in scorers]
        if objective.loss in VARIANTS:
            losses = lpo_loss(*logps, objective.loss, *more)
        else:
            losses = objective.loss(*logps, *more)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()


def round_data(objective, outcome, rewards, cfg, experiment, rng):
    """-> the sides that the loss takes, each (prompts, Rollout), and what it takes beside them"""
    if objective.data == "corpus":
        return [corpus_side(experiment, cfg.prompts, rng)], ()
    if objective.data == "all":
        advantages = torch.tensor(objective.advantage(rewards), dtype=torch.float32)
        return [outcome.side(range(rewards.size))], (advantages.flatten(),)
    sides = [outcome.side(indices) for indices in make_pairs(rewards, cfg.pairing)]
    if objective.data == "chosen" and objective.continuous:
        return sides[:1], ()
    return sides, (cfg.beta,)


def learn(cfg, base, experiment, level, how):
    """Train a decoder as the main job does.  Yields model, decoder, mean reward after each round"""
    gen, rng = files.randomness(cfg.device, "train", experiment, level, cfg.seed)
    judge = np.random.default_rng(cfg.seed)
    objective = OBJECTIVES[how.objective]
    model, width = copy.deepcopy(base), cfg.n_embd
    if how.sees in STATES:
        see = STATES[how.sees]
        model = Wrapped(model, lambda logits, *rest: (logits, see(logits, *rest)))
        width = model(torch.zeros(1, PROMPT_LENGTH, dtype=torch.long))[1].shape[-1]
    if objective.continuous:
        decoder = Continuous(width, level)
    else:
        decoder = AdaptiveDecoder(width, map(choice_of, cfg.choices), level, n_hidden=cfg.n_embd)
    reference = None
    for rnd in range(cfg.rounds):
        if reference is None or cfg.reference == "round":
            reference = copy.deepcopy((model, decoder))
            if objective.loss in ("joint", "separate") and not objective.reference:
                reference = (reference[0], None)  # as the paper prints these losses

        # sample, and reward
        prompts = sample_prompts(experiment, "train", cfg.prompts, rng)
        policy = Floored(decoder, how.floor) if how.floor else decoder
        outcome = respond_by(model, policy, prompts, cfg.responses, gen)
        reward = outcome.rewards.mean()
        rewards = noisy(outcome.rewards, how.noise, judge)

        # what the objective takes, then updates
        lr = cfg.lr * (1 - rnd / cfg.rounds)
        sides, more = round_data(objective, outcome, rewards, cfg, experiment, judge)
        if objective.loss in VARIANTS and not objective.continuous and sides[0][0]:
            update(model, decoder, reference, sides, objective.loss, cfg.beta, lr, cfg.steps,
                   cfg.model_lr)
        elif sides[0][0]:  # else only ties are left
            update_by(objective, model, decoder, sides, more, lr, cfg.steps)
        yield model, decoder, float(reward)
