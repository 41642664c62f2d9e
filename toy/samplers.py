"""Sampler settings that can be a choice beside temperatures: truncation, each with a temperature.

    AdaptiveDecoder(64, [0.0, 1.0, min_p(0.05, temperature=3.0), top_p(0.9)])
    python train_toy.py --choices 0,1,min_p=.05@3,top_p=.9

A setting keeps some tokens, at least one, and samples from these, renormalised. Names are those of
transformers' GenerationConfig, which has no top_nsigma. The order matters: "truncate, temper" (the
default, as in llama.cpp) truncates the model's own distribution and applies the temperature to what
is left; "temper, truncate" (as in transformers) does it the other way round. As text, `min_p=.05@3`
truncates first and `3@min_p=.05` tempers first.

(...,V): any leading dimensions and V tokens.
"""
import functools
import math
from dataclasses import dataclass

from decoder import at_least_float32, checked_choices, choice_logps, choice_name
from lpo import require

ORDERS = ("truncate, temper", "temper, truncate")


# --- what is kept: log-probabilities (...,V), a number -> (...,V) bool ----------------------------


def kept_top_k(logps, k):
    """The k most likely tokens, and those that tie with the last of them."""
    return logps >= logps.topk(min(int(k), logps.shape[-1])).values[..., -1:]


def kept_top_p(logps, p):
    """The smallest set of likely tokens whose probabilities reach p (Holtzman et al., 2020)."""
    ascending, tokens = logps.sort(dim=-1)
    in_tail = ascending.exp().cumsum(-1) <= 1 - p
    in_tail[..., -1] = False  # rounding could put it there
    return ~in_tail.scatter(-1, tokens, in_tail)


def kept_min_p(logps, share):
    """Tokens at least `share` times as likely as the most likely one (Nguyen et al., 2024)."""
    probabilities = logps.exp()
    return probabilities >= share * probabilities.amax(-1, keepdim=True)


def kept_typical_p(logps, mass):
    """The tokens whose surprise is closest to the entropy, until their probabilities reach the mass
    (locally typical sampling, Meister et al., 2023). The most likely one may not be among them."""
    probabilities = logps.exp()
    entropy = -(probabilities * logps).nansum(-1, keepdim=True)
    distance = (-logps - entropy).abs()
    ordered, tokens = distance.sort(dim=-1)
    before = (probabilities.gather(-1, tokens).cumsum(-1) < mass).sum(-1, keepdim=True)
    return distance <= ordered.gather(-1, before.clamp(max=logps.shape[-1] - 1))


def kept_epsilon_cutoff(logps, epsilon):
    """Tokens of at least this probability (Hewitt et al., 2022), and always the most likely one."""
    return (logps.exp() >= epsilon) | (logps == logps.amax(-1, keepdim=True))


def kept_top_nsigma(logps, n):
    """Logits within n standard deviations, of the row, from the largest (Tang et al., 2024)."""
    finite = logps.isfinite()
    count = finite.sum(-1, keepdim=True)
    mean = logps.masked_fill(~finite, 0).sum(-1, keepdim=True) / count
    squares = (logps - mean).square().masked_fill(~finite, 0)
    sigma = (squares.sum(-1, keepdim=True) / count).sqrt()
    return logps >= logps.amax(-1, keepdim=True) - n * sigma


CUTS = {  # kind -> what it keeps, and the largest number that it takes
    "top_k": (kept_top_k, 10 ** 9), "top_p": (kept_top_p, 1), "min_p": (kept_min_p, 1),
    "typical_p": (kept_typical_p, 1), "epsilon_cutoff": (kept_epsilon_cutoff, 1),
    "top_nsigma": (kept_top_nsigma, 10 ** 9)}


# --- settings -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """A truncation and a temperature: logits (...,V) -> log-probabilities (...,V)."""
    kind: str
    value: float
    temperature: float = 1.0
    order: str = ORDERS[0]

    def __post_init__(self):
        require(self.kind in CUTS, f"unknown sampler {self.kind!r}; choose from {', '.join(CUTS)}")
        require(self.order in ORDERS, f"unknown order {self.order!r}; choose from {ORDERS}")
        most = CUTS[self.kind][1]
        require(0 < self.value <= most, f"{self.kind} is {self.value}; give a number above 0, up "
                                        f"to {most:g}")
        require(self.kind != "top_k" or self.value == int(self.value),
                f"top_k is {self.value}; give a whole number")
        checked_choices([self.temperature])

    @property
    def name(self):
        cut = f"{self.kind}={choice_name(self.value)}"
        tau = choice_name(self.temperature)
        if self.temperature == 1:
            return cut
        return f"{cut}@{tau}" if self.order == ORDERS[0] else f"{tau}@{cut}"

    def __call__(self, logits):
        logits = at_least_float32(logits)
        seen = choice_logps(logits, self.temperature if self.order == ORDERS[1] else 1.0)
        kept = CUTS[self.kind][0](seen, self.value)
        return choice_logps(logits.masked_fill(~kept, -math.inf), self.temperature)


# top_p(0.9, temperature=1.0, order="truncate, temper") -> Setting, and so on
top_k, top_p, min_p, typical_p, epsilon_cutoff, top_nsigma = (
    functools.partial(Setting, kind) for kind in CUTS)


def label(choice):
    """A choice in a file of results: a temperature as its number, a setting as its name."""
    return choice.name if callable(choice) else choice


def choice_of(text):
    """A choice from its label: 0.7, "0.7", "min_p=.05", "min_p=.05@3" or "3@min_p=.05".

    Raises ValueError on what is neither a temperature nor one of the samplers here.
    """
    text = str(text)
    first, at, last = text.partition("@")
    cut, tau, order = (first, last, ORDERS[0]) if "=" in first else (last, first, ORDERS[1])
    kind, _, value = cut.partition("=")
    try:
        if "=" not in text:
            return checked_choices([text])[0]
        return Setting(kind.strip(), float(value), float(tau) if at else 1.0, order)
    except ValueError as error:
        reason = f" ({error})" if "could not convert" not in str(error) else ""
        raise ValueError(f"{text!r} is not a choice{reason}; give a temperature, or "
                         f"{', '.join(CUTS)} with a number, as in top_p=.9 or min_p=.05@3"
                         ) from None
