"""The figures of the results page, from results/data alone:  python -m results.plots

One colour, one meaning: grey is a fixed temperature, pink a rule, blue LPO over temperatures, sky
blue LPO over choices with a memory, green the oracle. Bars are 95 % intervals (intervals.py).
"""
import numpy as np

from results.intervals import estimate
from results.methods import RULES
from results.plan import LPO, MEMORY, PICKED
from results.tables import (COARSE_WITH, COARSE_WITHOUT, FIXED, HERE, ORACLE, SUBTASK, WITH,
                            WITHOUT, Data)
from toy.figures import FIXED as GREY
from toy.figures import ORACLE as GREEN
from toy.figures import TOKEN as BLUE
from toy.figures import heat_map, panels, plot
from toy.files import program

PINK, SKY, ORANGE, WINE = "#CC79A7", "#56B4E9", "#E69F00", "#882255"
CUTS = "LPO, typical and cuts"
COLOURS = {FIXED: GREY, WITHOUT: PINK, WITH: PINK, SUBTASK: PINK, LPO: BLUE, CUTS: BLUE,
           MEMORY: SKY, PICKED: SKY, ORACLE: GREEN, "oracle, memory": GREEN}


def reward(experiment):
    return "share of right answers" if experiment == "vote" else "mean reward"


def methods(data):
    """The message: what every kind of method earns."""
    figure, axes = panels(len(data.experiments), 2, 4.6, 3.3, sharey=True)
    for axis, e in zip(axes, data.experiments):
        for y, (name, colour) in enumerate(COLOURS.items()):
            if not data.has(e, name):
                continue
            x = data.estimate(e, name)
            axis.errorbar(x.mean, y, xerr=x.half, fmt="o", color=colour, ms=6, lw=2.5)
            rule = f" {data.best_rule(e, name)}" if name in (WITHOUT, WITH) else ""
            axis.annotate(f"{x.mean:.2f}{rule}", (x.mean, y), (0, 5), textcoords="offset points",
                          ha="center", fontsize=8.5, color=colour)
        axis.margins(x=0.2)
        axis.set_ylim(len(COLOURS) - 0.5, -0.9)
        axis.set(title=e, xlabel=reward(e))
    axes[0].set_yticks(range(len(COLOURS)), COLOURS)
    return figure


def temperatures(data):
    """Which temperatures LPO learned, by subtask and role."""
    table = data.choices(method=LPO).astype({"choice": float}).pivot_table(
        index=["subtask", "role"], columns="choice", values="value", sort=False)
    table = table[sorted(table)]
    figure, (axis,) = panels(1, 1, 6, 0.35 * len(table) + 1.2)
    heat_map(axis, {": ".join(index): row for index, row in zip(table.index, table.values)},
             list(table))
    axis.set(title="Learned temperatures: % of words at each")
    return figure


def scored(data):
    """Reward against the number of responses that were scored, the search for rules included."""
    curves = {"latent": (LPO, BLUE), "memory": (MEMORY, SKY), "REINFORCE": ("REINFORCE", ORANGE),
             "temperature": ("fixed temperature", GREY),
             "frequency penalty": ("frequency penalty", PINK), "DRY": ("DRY", WINE)}
    if not data.measured("sweeps"):
        return None
    few = data.about["study"]["few"]
    figure, axes = panels(len(data.experiments), 2, 4.4, 2.8)
    for axis, e in zip(axes, data.experiments):
        for name, (label, colour) in curves.items():
            lines = {}  # of a number of prompts per round: points
            sources = {"sweeps": f"scored, {name}"} | ({"main": name} if name in RULES else {})
            for part, method in sources.items():
                rows = data.rows(metric="scored", part=part, method=method, experiment=e)
                for option, x in rows.groupby("option")["value"].mean().items():
                    of_line = lines.setdefault("round" in option and option.split(",")[0], [])
                    values = data.values(e, method, option=option, part=part)[:few]
                    of_line.append((x, values.mean()))
            for i, points in enumerate(lines.values()):
                axis.plot(*zip(*sorted(points)), "o-", ms=3, lw=0.8, color=colour,
                          label=None if i else label)
        axis.set_xscale("log")
        axis.set(title=e, xlabel="responses scored", ylabel=reward(e))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def modes(data):
    """Reward against the probability of the slots' mode."""
    names = {FIXED: FIXED, COARSE_WITHOUT: WITHOUT, COARSE_WITH: WITH, LPO: LPO, MEMORY: MEMORY,
             ORACLE: ORACLE}  # and what has their colours
    if not data.measured("modes"):
        return None
    few = data.about["study"]["few"]
    figure, axes = panels(len(data.experiments), 2, 4.4, 2.8)
    for axis, e in zip(axes, data.experiments):
        for i, (name, like) in enumerate(names.items()):
            points = {mode: data.values(e, name, part="modes", mode=mode)
                      for mode in {key[1] for key in data.arrays if key[0] == "modes"}}
            points = dict(sorted((points | {0.4: data.values(e, name)[:few]}).items()))
            found = [estimate(values, data.strata[e]) for values in points.values()]
            axis.errorbar(np.array(list(points)) + 0.003 * i, [x.mean for x in found],
                          [x.half for x in found], fmt="o:" if like == WITHOUT else "o-",
                          color=COLOURS[like], ms=4, lw=1.5, elinewidth=0.8, label=name)
        axis.set(title=e, xlabel="probability of a slot's mode", ylabel=reward(e))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


FIGURES = {f.__name__: f for f in (methods, temperatures, scored, modes)}


if __name__ == "__main__":
    with program():
        print(*plot(Data(), HERE / "figures", FIGURES), sep="\n")
