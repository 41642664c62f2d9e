"""Which known mistake gives the very numbers that came? mistakes.txt lists them.

A known mistake is the answer key with a line of its text changed. A wrong answer is computed again
under each; the mistake that gives it number for number is its cause. Where none does, plain
arithmetic may say something; else nothing is said.
"""
import json
import math
import re
import sys
import types
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

from runner import Miss, require

FOLDER = Path(__file__).parent
IMPOSSIBLE = (ValueError, TypeError, IndexError, NameError, ArithmeticError)  # of a changed key

# ---- the list ----------------------------------------------------------------------------------

class Mistake(NamedTuple):
    cause: str               # in words, {x} for a constant
    changes: tuple           # (right text, wrong text), ...
    bounds: tuple = ()       # of the constant, which is solved for
    x: float | None = None   # the constant, once it is known

    def __str__(self):
        x = f"{self.x:.4g}" if isinstance(self.x, float) else self.x
        return self.cause.replace("{x}", str(x))

    @property
    def large(self):
        """Whether it is one of the large cases, and tried on these only."""
        return self.cause.startswith("large: ")

    def samples(self):
        """Whether it may change what is sampled; not for constants, nor those of large cases."""
        rule = source("oracle").split("def choice_logps")[1].split("def text_logp")[0]
        asked = not self.bounds and not self.large
        return asked and any(right in rule + source("gpt2") for right, _ in self.changes)

    def key(self):
        """The answer key with this mistake."""
        return Key(tuple((right, wrong.replace("{x}", repr(self.x)))
                         for right, wrong in self.changes))


@lru_cache(None)
def source(name):
    return (FOLDER / f"{name}.py").read_text(encoding="utf-8")


@lru_cache(500)
class Key:
    """oracle.py and gpt2.py with their text changed."""

    def __init__(self, changes):
        self.changes = changes

    @cached_property
    def oracle(self):
        return self.module("oracle")

    @cached_property
    def gpt2(self):
        module = self.module("gpt2")
        module.oracle = self.oracle
        return module

    def module(self, name):
        path, text = str(FOLDER / f"{name}.py"), source(name)
        for right, wrong in self.changes:
            text = text.replace(right, wrong)
        module = types.ModuleType(f"altered_{name}")
        sys.modules[module.__name__] = module  # where dataclasses look for it
        module.__file__ = path
        exec(compile(text, path, "exec"), vars(module))
        return module


@lru_cache(None)
def known(path=FOLDER / "mistakes.txt"):
    """The mistakes of a file: a cause, then lines that begin with - and lines that begin with +."""
    found, text = [], re.sub(r"^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.M)
    for entry in re.split(r"\n\s*\n", text.strip()):
        cause, _, numbers = entry.partition("\n")[0].partition(" :: ")
        parts = re.findall(r"((?:^- .*\n)+)((?:^\+ .*\n)+)", entry + "\n", flags=re.M)
        changes = tuple(tuple(re.sub(r"^..", "", part, flags=re.M)[:-1] for part in both)
                        for both in parts)
        if " to " in numbers:
            low, high = numbers.split(" to ")
            found.append(Mistake(cause, changes, (float(low), float(high))))
        else:
            found += [Mistake(cause, changes, x=json.loads(x)) for x in numbers.split() or ["null"]]
    return found


# ---- which of them it is -----------------------------------------------------------------------

class Wrong(NamedTuple):
    """A wrong answer; of a case that of the first function that is wrong."""
    function: str
    again: Callable             # what a key answers: key -> {label: array}
    got: dict                   # {label: array}, of the right shapes
    want: dict
    allowed: float
    large: bool = False
    zeros_tell: bool = False    # where a zero is wrong it tells something
    remark: Callable = lambda wrong: None  # what can be said without knowing the mistake, or None

    def under(self, mistake):
        """What the mistake would give, {} if it cannot be computed."""
        if self.large != mistake.large:
            return {}
        try:
            with np.errstate(all="ignore"):
                return self.again(mistake.key())
        except IMPOSSIBLE:
            return {}


def errors(got, want):
    """|got - want|; 0 where want is NaN (not compared) or both are -inf; NaN counts as infinite."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.where(np.isnan(want) | (got == want), 0.0, np.abs(got - want))
    return np.where(np.isnan(error), np.inf, error)


def compare(wrong, prefix="", relative=False):
    """Miss unless |got - want| <= allowed everywhere, times max(1, |want|) if errors are relative.

    -> the largest error over what is allowed. What is NaN in `want` is not compared.
    """
    for label, x in wrong.got.items():
        want = wrong.want[label]
        require(x.shape == want.shape, f"{prefix}{label}".strip() +
                f" has shape {x.shape}, expected {want.shape}")
    worst = 0.0
    for label, x in wrong.got.items():
        want = wrong.want[label]
        error = errors(x, want) / wrong.allowed
        if relative:
            error /= np.maximum(1, np.abs(np.nan_to_num(want, neginf=0)))
        if (error > 1).any():
            index = tuple(np.argwhere(error > 1)[0].tolist())
            raise Miss(f"{prefix}{label}{[*index]} is {x[index]:.9g}, expected {want[index]:.9g}",
                       wrong)
        worst = max(worst, error.max(initial=0.0))
    return worst


def fits(mistake, wrong):
    """Whether the mistake gives the very numbers that came, much nearer than the right ones."""
    predicted, telling = wrong.under(mistake), False
    for label, x in wrong.got.items():
        y, want = predicted.get(label), wrong.want[label]
        if y is None or y.shape != x.shape:
            return False
        size = np.maximum(1, np.abs(np.nan_to_num(y, neginf=0)))  # of what is too large
        near, off = errors(x, np.where(np.isnan(want), np.nan, y)), errors(x, want)
        missed = off > wrong.allowed
        if (near > wrong.allowed * size).any() or (near[missed] > off[missed] / 10).any():
            return False
        # zeros and infinities are too easily the same
        telling |= (missed & np.isfinite(x) & ((x != 0) | wrong.zeros_tell)).any()
    return telling


def solved(mistake, wrong):
    """The mistake with the constant that gives the most wrong number, by bisection; or None."""
    off = {label: np.where(np.isfinite(x), errors(x, wrong.want[label]), 0)
           for label, x in wrong.got.items()}
    label = max(off, key=lambda label: off[label].max(initial=0))
    index = np.unravel_index(off[label].argmax(), off[label].shape)

    def surplus(x):
        answer = wrong.under(mistake._replace(x=x))
        return answer[label][index] - wrong.got[label][index] if label in answer else math.nan
    low, high = mistake.bounds
    start = surplus(low)
    if not start * surplus(high) < 0:
        return None
    for _ in range(50):
        x = math.sqrt(low * high)
        low, high = (x, high) if surplus(x) * start > 0 else (low, x)
    near = float(f"{x:.3g}")
    return mistake._replace(x=near if math.isclose(x, near, rel_tol=1e-3) else x)


def causes(wrongs, tolerances, dtype, few=3):
    """[(cause, how many wrong answers it explains)], the one that explains most first.

    few: on how many of them mistakes are tried first. An answer small enough may be explained by
    several mistakes: the fewest that explain most are kept, together with those that explain
    exactly the same, and none that explains less than a third. A remark is left out where a mistake
    explains the same. If all explain little, it is the precision to which all would be right.
    """
    found, explained = {}, {}
    for i, wrong in enumerate(wrongs[::-(-len(wrongs) // few) or 1]):
        for mistake in known():
            if mistake.bounds:
                mistake = None if i else solved(mistake, wrong)
            if mistake and str(mistake) not in found and fits(mistake, wrong):
                found[str(mistake)] = mistake
    for cause, mistake in found.items():
        explained[cause] = {i for i, wrong in enumerate(wrongs) if fits(mistake, wrong)}
    for i, wrong in enumerate(wrongs):
        explained.setdefault(wrong.remark(wrong), set()).add(i)
    explained.pop(None, None)
    left, result = {*range(len(wrongs))}, []
    while explained:
        cause = max(explained, key=lambda cause: len(explained[cause] & left))
        of_cause = explained[cause]
        same = [other for other, of_other in explained.items() if of_other == of_cause]
        explained = {other: explained[other] for other in explained if other not in same}
        new = of_cause & left
        if 3 * len(new) >= len(wrongs) and (len(new) > 1 or len(wrongs) == 1):
            named = [other.removeprefix("large: ") for other in same if other in found] or same
            result.append((" - or: ".join(named), len(new)))
        left -= new
    if 2 * sum(n for _, n in result) < len(wrongs):
        off = max((errors(x, wrong.want[label]) / wrong.allowed).max() * tolerances[dtype]
                  for wrong in wrongs for label, x in wrong.got.items())
        for name in [*tolerances][[*tolerances].index(dtype) + 1:]:
            if tolerances[name] / 200 < off <= tolerances[name]:  # as large as rounding makes it
                return [(f"right to the tolerance of {name}: something computes in {name}, or the "
                         "mistake is small", len(wrongs))]
    return result


# ---- plain arithmetic --------------------------------------------------------------------------

def remark(wrong):
    """What can be said of a wrong answer without knowing the mistake, or None."""
    x, y = (np.concatenate([d[label].ravel() for label in wrong.got])
            for d in (wrong.got, wrong.want))
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    if np.isnan(x).any():
        return "NaN: -inf minus -inf, -inf times 0, or a logsumexp of nothing but -inf"
    if wrong.function == "temperature_logps" and np.isneginf(x).any():
        return "another arg-max at temperature 0: see ties, and logits rounded before it"
    if (np.abs(x) > 1e15).any():
        return "infinite: log(sigmoid(x)) overflows, or a token of probability 0 was not dropped"
    return multiple(x, y)


def multiple(got, want):
    """One factor for all entries, of which at least two are not 0; or None."""
    big = np.abs(want) > 1e-6
    with np.errstate(all="ignore"):  # whatever they gave
        ratios = got[big] / want[big]
    if len(ratios) < 2 or not np.allclose(ratios, ratios[0]) or not np.allclose(got[~big], 0):
        return None
    if not 1e-6 < abs(ratios[0]) < 1e6 or abs(ratios[0] - 1) < 1e-3:
        return None
    which = "the sign is turned" if ratios[0] < 0 else "too large" if ratios[0] > 1 else "too small"
    return f"{ratios[0]:.4g} times what it should be: {which}"
