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
from toy.samplers import choice_of


def measured(results):
    """{experiment: {method, and level if it is LPO: rewards of test prompts (D,P)}}, where D are
    decoders, or settings of a rule."""
    found = {}
    for cell in results["cells"]:
        experiment, *method = cell["cell"][:3]  # without the decoder's number
        rows = found.setdefault(experiment, {}).setdefault(", ".join(method), [])
        rows += cell["rewards"]["test"].values()
    return found


def rewards(results):
    """A line per method, best at the top: a dot per decoder, or the rule's setting; their mean."""
    found = measured(results)
    figure, axes = figures.panels(len(found), 1, 6.4, 4)
    for axis, (experiment, methods) in zip(axes, found.items()):
        lines = {}
        for method, rows in methods.items():
            means = np.sort(np.mean(rows, 1))
            lines[method] = means if "," in method else means[-1:]
        lines = dict(sorted(lines.items(), key=lambda line: line[1].mean()))
        for row, (method, means) in enumerate(lines.items()):
            level = method.partition(", ")[2]
            colour = {"": figures.FIXED, "token": figures.TOKEN}.get(level, figures.SEQUENCE)
            axis.plot(means, [row] * len(means), "o", color=colour, alpha=0.35)
            axis.plot(means.mean(), row, "|", color=colour, markersize=14)
        axis.set_yticks(range(len(lines)), lines)
        axis.set(title=experiment, xlabel="mean reward on test prompts")
        axis.locator_params(axis="x", nbins=6)
    return figure


def shares(cell, K):
    """How often a decoder used each of its K choices, by role.  -> {role: (K,)}"""
    counts = defaultdict(lambda: np.zeros(K))
    for role, k, n in cell["used"]:
        counts[role][k] += n
    return {role: x / x.sum() for role, x in counts.items()}


def temperatures(results):
    """How often the median decoder over temperatures uses each of them, role by role."""
    table, choices = {}, [choice_of(name) for name in results["sets"]["temperatures"]]
    for experiment in EXPERIMENTS:
        decoders = [cell for cell in results["cells"]
                    if cell["cell"][:3] == [experiment, "temperatures", "token"]]
        if decoders:
            decoders.sort(key=lambda cell: np.mean(cell["rewards"]["test"]["temperatures"]))
            table |= shares(decoders[(len(decoders) - 1) // 2], len(choices))
    if not table:
        return None
    figure, (axis,) = figures.panels(1, 1, 6, 0.35 * len(table) + 1.2)
    figures.heat_map(axis, table, choices)
    axis.set(title="% of tokens at each temperature (median decoder)")
    return figure


FIGURES = dict(real_rewards=rewards, real_temperatures=temperatures)


if __name__ == "__main__":
    with files.program():
        source = Path(sys.argv[1] if len(sys.argv) > 1 else "out/real/real.json.gz")
        content = json.loads(gzip.decompress(source.read_bytes()))
        print(*figures.plot(content, source.parent, FIGURES), sep="\n")
