"""95 % intervals of means over base models, decoders and prompts:  python -m results.intervals

A number on the results page is a mean over D base models, several decoders on each, and P test
prompts, which all of them share. Another study would have other base models, other decoders and
other prompts. With base models in rows and prompts in columns (decoders averaged), the variance of
the mean is that of a two-way layout in which both are random:

    V = A + B - C    A: variance of the base models' means / D, which includes the decoders' share
                     B: variance of the prompts' means / P, within their subtasks (strata)
                     C: variance of what is left / (D P), which A and B both include

and at least max(A, B). The interval is the mean +- t sqrt(V), with Satterthwaite's degrees of
freedom. Differences are paired: values are subtracted before. Run as a program, this prints how
often such intervals cover a known mean, beside simpler ones that do not.
"""
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student


@dataclass(frozen=True)
class Estimate:
    mean: float
    error: float    # standard error
    freedom: float  # degrees of freedom of the error

    @property
    def half(self):
        """Half of the width of the 95 % interval."""
        return self.error * student.ppf(0.975, self.freedom)

    @property
    def low(self):
        return self.mean - self.half

    @property
    def high(self):
        return self.mean + self.half

    @property
    def p(self):
        """Of the hypothesis that the mean is 0, both sides."""
        if self.error == 0:
            return float(self.mean == 0)
        return float(2 * student.sf(abs(self.mean) / self.error, self.freedom))

    def __format__(self, digits):
        low, high = (format(x, digits) for x in (self.low, self.high))
        return f"{self.mean:{digits}} [{low}, {high}]"


def estimate(values, strata=None):
    """Mean and standard error of values (D,P); strata (P,) names each prompt's subtask.

    P = 1 is a number per base model, whose interval is Student's.
    """
    D, P = values.shape
    if D < 2:
        raise ValueError("an interval needs two base models or more")
    strata = np.zeros(P) if strata is None else np.asarray(strata)
    of_bases = values.mean(1).var(ddof=1) / D
    of_prompts, squares, left, freedom = 0.0, of_bases ** 2 / (D - 1), 0.0, 0
    for name in np.unique(strata):
        part = values[:, strata == name]
        n = part.shape[1]
        if n < 2:
            continue
        variance = (n / P) ** 2 * part.mean(0).var(ddof=1) / n
        of_prompts += variance
        squares += variance ** 2 / (n - 1)
        rest = part - part.mean(1, keepdims=True) - part.mean(0) + part.mean()
        left += (rest ** 2).sum()
        freedom += (D - 1) * (n - 1)
    both = left / max(freedom, 1) / (D * P)
    variance = max(of_bases, of_prompts, of_bases + of_prompts - both)
    return Estimate(float(values.mean()), float(variance ** 0.5),
                    float(variance ** 2 / squares) if squares > 0 else D - 1)


def holm(ps):
    """Holm's adjusted p-values: reject those below 0.05 and one false claim has odds below 0.05."""
    ps = np.asarray(ps)
    order = ps.argsort()
    adjusted = np.empty(len(ps))
    adjusted[order] = np.maximum.accumulate((len(ps) - np.arange(len(ps))) * ps[order])
    return adjusted.clip(max=1)


# --- how often intervals cover --------------------------------------------------------------------


def over_bases(values, strata):
    """Student's t over base models; the prompts count as fixed."""
    return estimate(values.mean(1, keepdims=True))


def over_all(values, strata):
    """All values as if they were independent."""
    return Estimate(values.mean(), (values.var(ddof=1) / values.size) ** 0.5, values.size - 1)


WAYS = {"two-way (used)": estimate, "t over base models": over_bases, "all values": over_all}
SPREADS = {  # standard deviations of base models, decoders, prompts, and what is left
    "base models": (0.05, 0.01, 0.02, 0.1),
    "decoders": (0.005, 0.08, 0.02, 0.1),
    "prompts": (0.005, 0.005, 0.3, 0.1),
    "all alike": (0.02, 0.03, 0.3, 0.2),
    "only noise": (0.0, 0.0, 0.0, 0.3)}


def simulated(spread, rng, bases=10, decoders=3, P=240, strata=3):
    """Values of two methods on the same base models and prompts; decoders are each method's own.

    The means are 0. -> (D,P), (D,P), strata (P,), whose own means differ
    """
    base, decoder, prompt, noise = spread
    names = np.arange(P) * strata // P
    shared = base * rng.normal(size=(bases, 1)) + prompt * rng.normal(size=P)
    methods = []
    for _ in range(2):
        own = base * rng.normal(size=(bases, 1)) + prompt * rng.normal(size=P)
        of_decoders = (decoder * rng.normal(size=(bases, decoders, 1))
                       + noise * rng.normal(size=(bases, decoders, P))).mean(1)
        methods.append((shared + own) / 2 ** 0.5 + of_decoders + (names - names.mean()) / 2)
    return *methods, names


def coverage(spread, rng, times, **sizes):
    """{way: shares of simulations whose interval has the truth in it: of a mean, a difference}"""
    covered = {name: np.zeros(2) for name in WAYS}
    for _ in range(times):
        first, second, strata = simulated(spread, rng, **sizes)
        for i, values in enumerate((first, first - second)):
            for name, way in WAYS.items():
                found = way(values, strata)
                covered[name][i] += abs(found.mean) <= found.half
    return {name: counts / times for name, counts in covered.items()}


def coverage_table(times=2000):
    """Markdown: what varies most, and the coverage of each way in %: of a mean, of a difference"""
    lines = [f"| what varies most | {' | '.join(WAYS)} |", "| --- |" + " --- |" * len(WAYS)]
    for (name, spread), decoders in ((x, n) for x in SPREADS.items() for n in (3, 2)):
        found = coverage(spread, np.random.default_rng(0), times, decoders=decoders)
        cells = ["{:.1f}, {:.1f}".format(*100 * shares) for shares in found.values()]
        lines.append(f"| {name}, {decoders} decoders | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(coverage_table())
