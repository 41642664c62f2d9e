"""Sampler settings that can be a choice beside temperatures: truncations and penalties.

    AdaptiveDecoder(64, [0.0, min_p(0.05, temperature=3.0), frequency(1.0, temperature=0.0)])
    python train_toy.py --choices "0,min_p=.05@3,frequency=1@0,frequency=3@1|min_p=.05"

A truncation keeps some tokens, at least one, and samples from these, renormalised. Names are those
of transformers' GenerationConfig, which has no top_nsigma. The order matters: "truncate, temper"
(the default, as in llama.cpp) truncates the model's own distribution and applies the temperature to
what is left; "temper, truncate" (as in transformers) does it the other way round. As text,
`min_p=.05@3` truncates first and `3@min_p=.05` tempers first.

A penalty has a memory: it lowers the logits of tokens that the response already has (the prompt
does not count). Servers call these frequency_penalty, presence_penalty and repetition_penalty.
After `|` stands a truncation of the model's own distribution. It comes first, then the penalty,
then the temperature.

(...,V): any leading dimensions and V tokens.
"""
import functools
import math
from dataclasses import dataclass

import torch

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


PENALTIES = {  # kind -> logits (...,V), counts (...,V), a number -> logits (...,V)
    "frequency": lambda logits, counts, a: logits - a * counts,
    "presence": lambda logits, counts, a: logits - a * (counts > 0),
    "repetition": lambda logits, counts, a: torch.where(
        counts > 0, torch.where(logits > 0, logits / a, logits * a), logits)}  # Keskar et al., 2019


@dataclass(frozen=True)
class Penalty:
    """A penalty on repeated tokens: logits, counts (...,V) -> log-probabilities (...,V)."""
    kind: str
    value: float
    temperature: float = 1.0
    cut: Setting | None = None  # applied first; its temperature must be 1
    memory = True

    def __post_init__(self):
        require(self.kind in PENALTIES, f"unknown penalty {self.kind!r}; choose from "
                                        f"{', '.join(PENALTIES)}")
        require(0 < self.value < 1e9, f"{self.kind} is {self.value}; give a number above 0")
        require(self.cut is None or isinstance(self.cut, Setting) and self.cut.temperature == 1,
                "after | comes a truncation without a temperature, as in min_p=.05")
        checked_choices([self.temperature])

    @property
    def name(self):
        tau = "" if self.temperature == 1 else f"@{choice_name(self.temperature)}"
        cut = "" if self.cut is None else f"|{self.cut.name}"
        return f"{self.kind}={choice_name(self.value)}{tau}{cut}"

    def __call__(self, logits, counts):
        logits = at_least_float32(logits)
        if self.cut is not None:
            logits = logits.masked_fill(self.cut(logits).isneginf(), -math.inf)
        return choice_logps(PENALTIES[self.kind](logits, counts, self.value), self.temperature)


# top_p(0.9, temperature=1.0, order="truncate, temper") -> Setting, and so on
top_k, top_p, min_p, typical_p, epsilon_cutoff, top_nsigma = (
    functools.partial(Setting, kind) for kind in CUTS)
# frequency(1.0, temperature=1.0, cut=min_p(0.05)) -> Penalty, and so on
frequency, presence, repetition = (functools.partial(Penalty, kind) for kind in PENALTIES)


def label(choice):
    """A choice in a file of results: a temperature as its number, a setting as its name."""
    return choice.name if callable(choice) else choice


def choice_of(text):
    """A choice from its label: "0.7", "min_p=.05@3", "3@min_p=.05" or "frequency=3@1|min_p=.05".

    Raises ValueError on what is neither a temperature nor one of the samplers here.
    """
    penalty, bar, cut = str(text).partition("|")
    first, at, last = penalty.partition("@")
    setting, tau, order = (first, last, ORDERS[0]) if "=" in first else (last, first, ORDERS[1])
    kind, _, value = setting.partition("=")
    try:
        if "=" not in penalty and not bar:
            return checked_choices([text])[0]
        value, tau = float(value), float(tau) if at else 1.0
        if kind.strip() in PENALTIES:
            require(order == ORDERS[0], "a penalty comes before its temperature")
            return Penalty(kind.strip(), value, tau, choice_of(cut) if bar else None)
        require(not bar, "only a penalty takes a truncation after |")
        return Setting(kind.strip(), value, tau, order)
    except ValueError as error:
        reason = f" ({error})" if "could not convert" not in str(error) else ""
        raise ValueError(f"{text!r} is not a choice{reason}; give a temperature, or a sampler with "
                         f"a number: {', '.join([*CUTS, *PENALTIES])}, as in top_p=.9, "
                         "min_p=.05@3 or frequency=1@0") from None
