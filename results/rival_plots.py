"""The figures of the rivals, from rivals.json: every rule and latent, the rounds, best of k.

Colours are those of the sweeps: purple is the latent loss, brown `separate`, grey a fixed
temperature or a rule; green is what settings add, or the oracle's line. Bars and bands are 95 %
intervals where the rows have them.
"""
import itertools

import numpy as np
from matplotlib.figure import Figure

from results.rivals import COUNTS, FIXED, JUDGED, LATENT, ORACLE
from results.rival_tables import latents, measures, named
from results.rules import RULES
from toy import plots
from toy.plots import legend_below, panels
from toy.rows import known, values, where

PURPLE, BROWN, GREY, GREEN, BLUE = "#6A3D9A", "#B8860B", plots.FIXED, plots.ORACLE, "#56B4E9"
CURVES = {"latent": PURPLE, "separate, decoder reference": BROWN, "REINFORCE": "#CC79A7",
          "marginal policy gradient": BLUE, "continuous, DPO": "#E69F00", "NLL": "#999999"}


def one(rivals, **wanted):
    """(value, below, above) of the one row that is wanted."""
    row, = where(rivals, **(dict(minus=None, share=False) | wanted))
    return row["value"], row["value"] - row["low"], row["high"] - row["value"]


def rules_and_latents(rivals):
    """Every rule, and every learned choice, beside the best fixed temperature and the oracle."""
    of = measures(rivals)
    lines = [("rules", name, GREY) for name in RULES]
    lines += [("settings", name, PURPLE if name == LATENT else GREEN) for name in latents(rivals)]
    figure = Figure(figsize=(2.6 * len(of) + 1.2, 4.6), layout="constrained")
    axes = figure.subplots(1, len(of), sharey=True, squeeze=False)[0]
    for axis, (title, columns) in zip(axes, of):
        for y, (section, name, colour) in enumerate(lines):
            value, below, above = one(rivals, section=section, method=name, **columns)
            axis.errorbar(value, y, xerr=[[below], [above]], fmt="o", ms=5, color=colour,
                          capsize=2)
        for name, style in ((FIXED, ":"), (ORACLE, "--")):
            value, _, _ = one(rivals, section="rules", method=name, **columns)
            axis.axvline(value, color=GREEN if name == ORACLE else GREY, ls=style, lw=1, label=name)
        axis.set(title=title, xlabel="reward" if columns["metric"] == "reward" else "share right")
    axes[0].set_yticks(range(len(lines)), [name for _, name, _ in lines])
    axes[0].invert_yaxis()
    legend_below(figure, axes, 2)
    return figure


def rival_rounds(rivals):
    """Reward of each round's own samples, by objective."""
    experiments = rivals["config"]["experiments"]
    figure, axes = panels(len(experiments), 4, 3.4)
    for axis, experiment in zip(axes, experiments):
        for name, colour in CURVES.items():
            rows = where(rivals, section="objectives", metric="round reward", method=name,
                         experiment=experiment)
            x = np.array([row["round"] for row in rows])
            y, spread = (np.array([row[key] for row in rows]) for key in ("value", "deviation"))
            axis.plot(x, y, color=colour, marker="o", ms=3, label=name)
            axis.fill_between(x, y - spread, y + spread, color=colour, alpha=0.15, lw=0)
        axis.set(title=experiment, xlabel="round, before its updates", xticks=x)
    axes[0].set_ylabel("reward of the round's samples")
    legend_below(figure, axes, 3)
    return figure


def rival_noise(rivals):
    """Share of the headroom that is left as the judge gets worse."""
    experiments = [e for e in JUDGED if e in rivals["config"]["experiments"]]
    figure, axes = panels(2 * len(experiments), 4, 3.4, sharey=True)
    kinds = {"share reversed": ("", "flip 0.1", "flip 0.2", "flip 0.4"),
             "noise / spread": ("", "spread 1", "spread 3")}
    for axis, (experiment, kind) in zip(axes, itertools.product(experiments, kinds)):
        for name, colour in CURVES.items():
            points = [(float(noise.split()[1]) if noise else 0.0, one(
                rivals, section="noise", method=f"{name}; {noise}", experiment=experiment,
                metric="reward", share=True)) for noise in kinds[kind]
                if where(rivals, section="noise", method=f"{name}; {noise}", share=True,
                         experiment=experiment, metric="reward")]
            if points:
                x = [size for size, _ in points]
                y, below, above = (100 * np.array(part) for part in zip(*(p for _, p in points)))
                axis.errorbar(x, y, yerr=[below, above], color=colour, marker="o", ms=4, capsize=2,
                              label=name)
        axis.axhline(0, color="black", lw=0.8)
        axis.set(title=experiment, xlabel=kind)
    axes[0].set_ylabel("share of the headroom, %")
    legend_below(figure, axes, 4)
    return figure


def rival_best_of_k(rivals):
    """The expected best of k responses."""
    experiments = [e for e in JUDGED if e in rivals["config"]["experiments"]]
    figure, axes = panels(len(experiments), 2, 3.4)
    for axis, experiment in zip(axes, experiments):
        rows = where(rivals, section="best of k", experiment=experiment)
        colours = {FIXED: GREY, LATENT: PURPLE} | dict(zip(latents(rivals)[1:], (GREEN, BLUE)))
        for name, colour in colours.items():
            points = [one(rivals, section="best of k", method=name, experiment=experiment,
                          metric=f"best of {k}") for k in COUNTS]
            y, below, above = map(np.array, zip(*points))
            axis.plot(COUNTS, y, color=colour, marker="o", ms=4, label=name)
            axis.fill_between(COUNTS, y - below, y + above, color=colour, alpha=0.15, lw=0)
        best = [max(row["value"] for row in rows if row["method"] in RULES
                    and row["metric"] == f"best of {k}") for k in COUNTS]
        axis.plot(COUNTS, best, color=BROWN, ls=":", marker="o", ms=3, label="best tuned rule")
        axis.set_xscale("log", base=2)
        axis.set_xticks(COUNTS, map(str, COUNTS))
        axis.set(title=experiment, xlabel="k", ylabel="expected best of k")
    legend_below(figure, axes, 3)
    return figure


def rival_choices(rivals):
    """Which settings are drawn, by task and role."""
    names = latents(rivals)[1:]
    figure = Figure(figsize=(9.3, 2.2 + 2.4 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for axis, method in zip(axes, names):
        of = dict(section="settings", method=method, metric="choice share")
        bars = []
        for subtask in known(rivals, "subtask", **of):
            roles = known(rivals, "role", subtask=subtask, **of)
            bars += [(subtask, role) for role in (roles if len(roles) > 1 else [None])]
        left = np.zeros(len(bars))
        choices = known(rivals, "choice", **of)
        colours = plots.matplotlib.colormaps["cividis"](np.linspace(0, 1, len(choices)))
        for choice, colour in zip(choices, colours):
            shares = np.array([sum(values(rivals, subtask=subtask, role=role, choice=choice, **of))
                               for subtask, role in bars])
            axis.barh(range(len(bars)), shares, left=left, color=colour, label=named(choice),
                      edgecolor="white", lw=0.5)
            left += shares
        axis.set_yticks(range(len(bars)), [f"{s}, {r}" if r else s for s, r in bars])
        axis.invert_yaxis()
        axis.set(title=method, xlim=(0, 1), xlabel="share of words")
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


FIGURES = {f.__name__: f for f in (rules_and_latents, rival_rounds, rival_noise, rival_best_of_k,
                                   rival_choices)}
