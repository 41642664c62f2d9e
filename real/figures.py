"""Two figures of a run, from its file alone:  python -m real.figures [out/real/real.json.gz]

Colours are those of toy/figures.py: blue the token level, orange the sequence level, grey a rule.
"""
import gzip
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from real.tasks import EXPERIMENTS
from toy import figures, files
from toy.samplers import choice_of, label


def means(results, experiment):
    """{method, and level if it is LPO: [(mean reward on test prompts, cell)], the best last}"""
    found = defaultdict(list)
    for cell in results["cells"]:
        if cell["cell"][0] == experiment:
            method = ", ".join(map(str, cell["cell"][1:3]))  # without the decoder's number
            found[method] += [(np.mean(x), cell) for x in cell["rewards"]["test"].values()]
    return {method: sorted(pairs, key=lambda pair: pair[0]) for method, pairs in found.items()}


def rewards(results):
    """A line per method, best at the top: a dot per decoder, or the rule's setting; their mean."""
    names = [name for name in EXPERIMENTS if means(results, name)]
    figure, axes = figures.panels(len(names), 1, 6.4, 4)
    for axis, experiment in zip(axes, names):
        lines = {method: [x for x, _ in pairs] if "," in method else [pairs[-1][0]]
                 for method, pairs in means(results, experiment).items()}
        for row, method in enumerate(sorted(lines, key=lambda name: np.mean(lines[name]))):
            level = method.partition(", ")[2]
            colour = {"": figures.FIXED, "token": figures.TOKEN}.get(level, figures.SEQUENCE)
            axis.plot(lines[method], [row] * len(lines[method]), "o", color=colour, alpha=0.35)
            axis.plot(np.mean(lines[method]), row, "|", color=colour, markersize=14)
        axis.set_yticks(range(len(lines)), sorted(lines, key=lambda name: np.mean(lines[name])))
        axis.set(title=experiment, xlabel="mean reward on test prompts")
        axis.locator_params(axis="x", nbins=6)
    return figure


def temperatures(results):
    """How often the median decoder over temperatures uses each of them, role by role."""
    bars, choices = [], [label(choice_of(name)) for name in results["sets"]["temperatures"]]
    for experiment in EXPERIMENTS:
        pairs = means(results, experiment).get("temperatures, token")
        counts = defaultdict(lambda: np.zeros(len(choices)))
        for role, k, n in pairs[(len(pairs) - 1) // 2][1]["used"] if pairs else ():
            counts[role][k] += n
        bars += counts.items()
    if not bars:
        return None
    figure, (axis,) = figures.panels(1, 1, 6.4, 0.5 * len(bars) + 1.4)
    shade = figures.shades(choices)
    for row, (_, counts) in enumerate(bars[::-1]):
        left = np.cumsum([0, *counts]) / counts.sum()
        for k, choice in enumerate(choices):
            axis.barh(row, left[k + 1] - left[k], left=left[k], color=figures.SHADES(shade(choice)),
                      label=figures.name_of(choice) if row == 0 else None)
    axis.set_yticks(range(len(bars)), [role for role, _ in bars[::-1]])
    axis.set(xlabel="share of tokens at each temperature (median decoder)", xlim=(0, 1))
    figure.legend(loc="outside upper center", ncols=len(choices))
    return figure


FIGURES = dict(real_rewards=rewards, real_temperatures=temperatures)


if __name__ == "__main__":
    with files.program():
        source = Path(sys.argv[1] if len(sys.argv) > 1 else "out/real/real.json.gz")
        content = json.loads(gzip.decompress(source.read_bytes()))
        print(*figures.plot(content, source.parent, FIGURES), sep="\n")
