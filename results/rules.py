"""Samplers that nobody trains: the rules that a learned choice has to beat, each with its grid.

A rule looks at the model's own distribution of the next word and nothing else; mirostat alone also
remembers how surprising its text was so far. Truncations are those of toy/samplers.py, which cut
first and then temper. Here are the others, and the grid over which each rule is tuned on
validation prompts.

(...,V) stands for any leading dimensions and V words; entropies are in nats.
"""
import itertools
import math
from dataclasses import dataclass, replace
from typing import Callable

import torch
import torch.nn.functional as F

from decoder import Rollout, draw
from fast.generate import generate
from lpo import at_least_float32, word_logps
from tasks import EOS, TASKS, encode
from toy.evaluate import respond, scored
from toy.samplers import ORDERS, epsilon_cutoff, min_p, top_k, top_nsigma, top_p, typical_p

COLDEST = 1e-3  # of a temperature that follows the entropy


def entropy(logits):
    """Of the model's own distribution.  (...,V) -> (...,1)"""
    logps = F.log_softmax(at_least_float32(logits), -1)
    return -(logps.exp() * logps).nansum(-1, keepdim=True)


@dataclass(frozen=True)
class ByEntropy:
    """A temperature that is a function of the entropy: logits (...,V) -> log-probabilities."""
    name: str
    temperature: Callable  # entropies (...,1), V -> (...,1)

    def __call__(self, logits):
        tau = self.temperature(entropy(logits), logits.shape[-1]).clamp(min=COLDEST)
        return F.log_softmax((logits - logits.amax(-1, keepdim=True)) / tau, -1)


def edt(hottest, theta):
    """Entropy-based dynamic temperature: T0 0.8^(theta / entropy) (arXiv 2403.14541)."""
    return ByEntropy(f"EDT {hottest:g}, {theta:g}",
                     lambda h, V: hottest * 0.8 ** (theta / h.clamp(min=1e-9)))


def dynatemp(low, high, exponent):
    """Between two ends by the share of the largest entropy, to a power (llama.cpp's dynatemp)."""
    return ByEntropy(f"dynatemp {low:g} to {high:g}, {exponent:g}",
                     lambda h, V: low + (high - low) * (h / math.log(V)) ** exponent)


def entropy_slope(a, b):
    """T = a + b entropy, of either sign."""
    return ByEntropy(f"T = {a:g} {b:+g} entropy", lambda h, V: a + b * h)


@dataclass
class Mirostat:
    """Mirostat 2 (arXiv 2007.14966): words more surprising than a bound are cut, and the bound
    follows the surprise of what was written so far towards a target, in bits.

    It has a memory, so it draws the word itself and says so: log-probability 0 for that word, -inf
    for all others. One is made for each batch, whose rows must not change.
    """
    target: float
    temperature: float = 1.0
    order: str = ORDERS[0]  # "temper, cut" is llama.cpp's
    rate: float = 0.1
    generator: torch.Generator | None = None
    bound: torch.Tensor | None = None  # (R,1), bits

    @property
    def name(self):
        cut, tau = f"mirostat={self.target:g}", f"{self.temperature:g}"
        return f"{cut}@{tau}" if self.order == ORDERS[0] else f"{tau}@{cut}"

    def __call__(self, logits):
        seen = word_logps(logits, self.temperature if self.order == ORDERS[1] else 1.0)  # (R,V)
        if self.bound is None:
            self.bound = seen.new_full((len(seen), 1), 2 * self.target)
        bits = -seen / math.log(2)
        best = seen.argmax(-1, keepdim=True)
        kept = (bits <= self.bound).scatter(-1, best, True)
        tempered = word_logps(logits.masked_fill(~kept, -math.inf), self.temperature)
        word = draw(tempered, self.generator)[:, None]
        self.bound = self.bound - self.rate * (bits.gather(-1, word) - self.target)
        return torch.full_like(seen, -math.inf).scatter(-1, word, 0.0)


def respond_by_rule(model, asked, samples, generator, rule):
    """Sample responses by a rule and score them.  P of (task, prompt) -> Outcome"""
    if not isinstance(rule, Mirostat):
        return respond(model, asked, samples, generator, temperature=rule)
    rule = replace(rule, generator=generator, bound=None)
    prompts = [encode(prompt) for _, prompt in asked for _ in range(samples)]
    T = max(TASKS[name].length for name, _ in asked)
    # no end of text for `generate`, which would drop finished rows and so shift the memory
    rollout = generate(model, prompts, T, temperature=rule, generator=generator)
    ends = rollout.tokens == EOS
    mask = ends.cumsum(1) - ends.long() == 0
    return scored(asked, samples, Rollout(rollout.tokens, mask, ~ends.any(1), None))


def grid(make, *values):
    return [make(*given) for given in itertools.product(*values)]


def cuts(make, numbers, temperatures):
    return [make(number, temperature=tau) for number in numbers for tau in temperatures]


RULES = {
    "temperature": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5],
    "top-k": cuts(top_k, (2, 5, 10, 20), (0.3, 0.6, 1.0, 2.0)),
    "top-p": cuts(top_p, (0.3, 0.5, 0.7, 0.9), (0.3, 0.6, 1.0, 1.5, 2.0)),
    "min-p": cuts(min_p, (0.02, 0.05, 0.1, 0.3), (0.3, 0.6, 1.0, 2.0, 5.0)),
    "typical": cuts(typical_p, (0.2, 0.5, 0.7, 0.9), (0.3, 0.6, 1.0, 1.5)),
    "epsilon": cuts(epsilon_cutoff, (0.01, 0.02, 0.03, 0.05, 0.1), (0.3, 1.0, 2.0, 5.0)),
    "top-n-sigma": cuts(top_nsigma, (0.5, 1.0, 1.5, 2.0), (0.3, 0.6, 1.0, 3.0)),
    "EDT": grid(edt, (0.5, 0.7, 1.0, 1.5, 2.0), (0.1, 0.5, 1.0, 3.0)),
    "dynatemp": grid(dynatemp, (0.0, 0.2, 0.5), (0.8, 1.2, 2.0), (0.5, 1.0, 2.0)),
    "entropy slope": grid(entropy_slope, (0.1, 0.5, 1.0), (-0.3, -0.1, 0.1, 0.3, 0.6)),
    "mirostat": [*grid(Mirostat, (0.5, 1.0, 2.0, 3.0, 4.0), (0.3, 0.6, 1.0, 2.0, 5.0)),
                 *grid(Mirostat, (0.5, 1.0, 2.0, 3.0, 4.0), (0.3, 0.6, 2.0), ORDERS[1:])],
}


def rule_name(rule):
    return rule.name if callable(rule) else f"{rule:g}"
