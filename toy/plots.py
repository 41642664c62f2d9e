"""The figures, from saved results alone:  python -m toy.plots [out/results.json]

Each figure is one function from results to a matplotlib figure, or to None when the results lack
its rows. Tasks, roles and places are those of the rows: a task of your own appears by itself.

One mark, one meaning: blue is the token level, orange the sequence level, green the oracle, grey a
fixed temperature. A bar, line or large mark is a mean; error bars and bands are 95 % intervals over
base models, decoders and prompts where the results have them, small dots are single runs.
"""
import io
import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from toy import rows
from toy.rows import interval, known, single, values, where
from toy.stages import write

# Okabe and Ito's colours, which colour-blind readers can tell apart; cividis for temperatures.
TOKEN, SEQUENCE, ORACLE, FIXED = "#0072B2", "#D55E00", "#009E73", "#555555"
SHADES = matplotlib.colormaps["cividis"]
LEVEL_COLOURS = {"token": TOKEN, "sequence": SEQUENCE}
LEVEL_LINES = {"token": "-", "sequence": "--"}
STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
         "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False, "axes.titlesize": 10.5}


# --- what several figures do ----------------------------------------------------------------------


def panels(n, columns, height, **options):
    """A figure of n panels in rows of `columns`."""
    columns = min(columns, n)
    lines = -(-n // columns)
    figure = Figure(figsize=(3.1 * columns, height * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, **options).ravel()
    for axis in axes[n:]:
        axis.set_axis_off()
    return figure, axes


def legend_below(figure, axes, columns):
    """One legend of all panels, each label once."""
    found = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            found.setdefault(label, handle)
    if found:
        figure.legend(found.values(), found, loc="outside lower center", ncols=columns)


def tints(colour, n):
    """n shades of a colour, the first the colour itself."""
    base = np.array(to_rgb(colour))
    return [tuple(1 - (1 - base) * (1 - 0.62 * i / max(n - 1, 1))) for i in range(n)]


def grouped(rows, column):
    """x values and, for each, the values of the rows that have it."""
    xs = sorted({row[column] for row in rows}, key=lambda x: (isinstance(x, str), x))
    return xs, [[row["value"] for row in rows if row[column] == x] for x in xs]


def means(groups):
    return np.array([np.mean(group) for group in groups])


def dots(axis, xs, groups, scale=1.0):
    """Single runs, where there are several."""
    for x, group in zip(xs, groups):
        if len(group) > 1:
            axis.plot([x] * len(group), scale * np.array(group), ".", color="black", ms=2.5,
                      alpha=0.55, zorder=4, lw=0)


def labels(choices):
    """Temperatures as short numbers, sampler settings by their names."""
    return [choice if isinstance(choice, str) else f"{choice:g}" for choice in choices]


def shades(choices):
    """A function choice -> its place on SHADES, the size of a temperature and the number of
    another choice."""
    numbers = not any(isinstance(choice, str) for choice in choices)
    top = (max(choices) if numbers else len(choices) - 1) or 1
    return lambda choice: (choice if numbers else choices.index(choice)) / top


def ink_on(shade):
    """What can be read on a shade."""
    return "black" if shade >= 0.5 else "white"


def temperature_ticks(axis, at, taus):
    axis.set_xticks(at, labels(taus), rotation=90)


def subtasks_of(results):
    """(experiment, subtask, what pooled rows call it): a subtask that is alone is the whole."""
    found = []
    for experiment in results["config"]["experiments"]:
        names = known(results, "subtask", experiment=experiment, policy="fixed", metric="reward")
        found += [(experiment, name, name if len(names) > 1 else None) for name in names]
    return found


def interval_line(axis, found, colour, style, label, scale=1.0):
    """A horizontal line at a mean, and a band over its interval."""
    if found is not None:
        value, low, high = (scale * x for x in found)
        axis.axhline(value, color=colour, ls=style, label=label, lw=1.6)
        axis.axhspan(low, high, color=colour, alpha=0.15, lw=0)


def interval_marks(axis, xs, found, **options):
    """Means in per cent, each with its interval."""
    value, low, high = 100 * np.array(found).T
    below, above = np.maximum(value - low, 0), np.maximum(high - value, 0)  # not -1e-16
    axis.errorbar(xs, value, (below, above), marker="o", **options)


def fixed_curve(axis, results, scale=1.0, **wanted):
    """A metric against the fixed temperature: its mean, and each base model."""
    xs, groups = grouped(where(results, policy="fixed", **wanted), "temperature")
    if any(isinstance(x, str) for x in xs):  # sampler settings have no place on an axis of numbers
        temperature_ticks(axis, range(len(xs)), xs)
        xs = range(len(xs))
    axis.plot(xs, scale * means(groups), color=FIXED, marker="o", ms=4, label="fixed temperature")
    dots(axis, xs, groups, scale)


# --- the figures ----------------------------------------------------------------------------------


def temperatures(results):
    """(a) The temperatures that were learned, per subtask; token level by role."""
    shares = single(results, metric="temperature_share", side=None)
    subtasks = list(dict.fromkeys(row["subtask"] for row in shares))
    levels = [level for level in LEVEL_COLOURS if any(row["level"] == level for row in shares)]
    if not shares:
        return None
    size = 1.75 * len(subtasks) + 0.6, 2.0 * len(levels) + 0.5
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(levels), len(subtasks), squeeze=False, sharex=True, sharey=True)
    for level, line in zip(levels, axes):
        for axis, subtask in zip(line, subtasks):
            of = [row for row in shares if (row["level"], row["subtask"]) == (level, subtask)]
            if not of:  # without ticks, which all panels share
                continue
            roles = {row["role"] for row in of} - {None}
            roles = sorted(roles, key=lambda role: (role == "rest", role))  # which comes last
            roles = roles if level == "token" and len(roles) > 1 else [None]
            width = 0.84 / len(roles)
            for i, (role, colour) in enumerate(zip(roles, tints(LEVEL_COLOURS[level], len(roles)))):
                taus, groups = grouped([row for row in of if row["role"] == role], "tau")
                at = np.arange(len(taus)) + (i - (len(roles) - 1) / 2) * width
                axis.bar(at, means(groups), width, color=colour, label=role)
                dots(axis, at, groups)
                temperature_ticks(axis, range(len(taus)), taus)
            axis.set_ylim(0, 1.35)  # room for a legend
            axis.set_yticks((0, 0.5, 1))
            if level == levels[0]:
                axis.set_title(subtask)
            if roles != [None]:
                axis.legend(fontsize=8, handlelength=1, loc="upper center", ncols=2,
                            columnspacing=0.8)
        line[0].set_ylabel(f"{level} level\nshare of choices")
    figure.supxlabel("temperature")
    figure.suptitle("The temperatures that were learned: shares of choices, by role")
    return figure


def places(results):
    """(b) Mean temperature at each place of the grammar, in the order in which they come."""
    found = [row for row in single(results, metric="mean_temperature") if row["place"] is not None]
    subtasks = list(dict.fromkeys(row["subtask"] for row in found))
    if not found:
        return None
    figure, axes = panels(len(subtasks), 3, 2.5, sharey=True)
    for axis, subtask in zip(axes, subtasks):
        names = list(dict.fromkeys(row["place"] for row in found if row["subtask"] == subtask))
        for level, colour in LEVEL_COLOURS.items():
            of = [row for row in found if (row["subtask"], row["level"]) == (subtask, level)]
            groups = [[row["value"] for row in of if row["place"] == name] for name in names]
            at = [i for i, group in enumerate(groups) if group]
            groups = [groups[i] for i in at]
            axis.plot(at, means(groups), LEVEL_LINES[level], color=colour, marker="o", ms=5,
                      label=f"{level} level", lw=1)
            dots(axis, at, groups)
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axis.set_title(subtask)
        axis.set_ylim(-0.05, max(results["config"]["choices"]) + 0.05)
    axes[0].set_ylabel("mean temperature")
    legend_below(figure, axes, 2)
    figure.suptitle("Mean temperature at each place of a sentence")
    return figure


def rewards(results):
    """(c) Reward against the fixed temperature; the adaptive decoders and the oracle as lines."""
    found = subtasks_of(results)
    figure, axes = panels(len(found), 3, 2.5)
    for axis, (experiment, subtask, pooled) in zip(axes, found):
        fixed_curve(axis, results, metric="reward", experiment=experiment, subtask=subtask)
        of = dict(experiment=experiment, subtask=pooled, temperature=None, votes=None)
        for level, colour in LEVEL_COLOURS.items():
            interval_line(axis, interval(results, "reward", level=level, **of), colour,
                          LEVEL_LINES[level], f"adaptive, {level} level")
        level = known(results, "level", policy="adaptive", experiment=experiment)[0]
        interval_line(axis, interval(results, "oracle", level=level, **of), ORACLE, ":",
                      "oracle per role")
        axis.set_title(subtask)
        axis.set_xlabel("fixed temperature")
    for axis in axes[::3]:
        axis.set_ylabel("mean reward")
    legend_below(figure, axes, 4)
    figure.suptitle("Reward of every fixed temperature, of the learned decoders, of the oracle")
    return figure


def win_rates(results):
    """(d) Win rate of the adaptive decoders against each fixed temperature."""
    experiments = results["config"]["experiments"]
    figure, axes = panels(len(experiments), 4, 2.8, sharey=True)
    taus = results["config"]["choices"]
    for axis, experiment in zip(axes, experiments):
        for shift, (level, colour) in zip((-0.12, 0.12), LEVEL_COLOURS.items()):
            found = [interval(results, "win_rate", experiment=experiment, subtask=None, level=level,
                              temperature=tau) for tau in taus]
            if None in found:
                continue
            interval_marks(axis, np.arange(len(taus)) + shift, found, lw=0, elinewidth=1.2, ms=5,
                           color=colour, label=f"{level} level")
        axis.axhline(50, color="black", lw=0.8)
        temperature_ticks(axis, range(len(taus)), taus)
        axis.set_title(experiment)
        axis.set_xlabel("fixed temperature")
    axes[0].set_ylabel("win rate, % (ties half)")
    legend_below(figure, axes, 2)
    figure.suptitle("Win rate of the adaptive decoder against each fixed temperature")
    return figure


def pairs(results):
    """(e) Which temperatures the chosen and the rejected responses of round one had."""
    found = [row for row in where(results, metric="temperature_share", round=0,
                                  variant=results["config"]["variants"][0]) if row["side"]]
    level = "sequence" if any(row["level"] == "sequence" for row in found) else "token"
    found = [row for row in found if row["level"] == level]
    experiments = list(dict.fromkeys(row["experiment"] for row in found))
    if not found:
        return None
    figure, axes = panels(len(experiments), 4, 2.8, sharey=True)
    for axis, experiment in zip(axes, experiments):
        for shift, side, colour in ((-0.21, "chosen", "black"), (0.21, "rejected", "white")):
            taus, groups = grouped([row for row in found if (row["experiment"], row["side"])
                                    == (experiment, side)], "tau")
            at = np.arange(len(taus)) + shift
            axis.bar(at, means(groups), 0.4, color=colour, edgecolor="black", lw=0.8, label=side)
            if side == "rejected":
                dots(axis, at, groups)
        axis.axhline(1 / len(taus), color=FIXED, lw=1, ls=":", label="as drawn: all alike")
        temperature_ticks(axis, range(len(taus)), taus)
        axis.set_title(experiment)
        axis.set_xlabel("temperature drawn")
    axes[0].set_ylabel(f"share of {'responses' if level == 'sequence' else 'tokens'}")
    legend_below(figure, axes, 3)
    figure.suptitle(f"Temperatures in the pairs of round one, {level} level")
    return figure


def text(results):
    """(f) Responses, each word on the colour of the temperature it was drawn at."""
    variant = results["config"]["variants"][0]
    token = [s for s in results["samples"] if s["variant"] == variant and s["level"] == "token"]
    level = "token" if token else "sequence"
    samples = {}
    for sample in results["samples"]:
        if sample["variant"] == variant and sample["level"] == level:
            samples.setdefault(sample["subtask"], sample)
    if not samples:
        return None
    taus = results["config"]["choices"]
    shade_of = shades(taus)
    lines = []  # of (label, [(word, temperature or None)])
    for subtask, sample in samples.items():
        lines.append((subtask, [(sample["prompt"], None)]))
        lines.append(("", []))
        width = 0
        for word, tau in zip(sample["words"], sample["temperatures"]):
            if width + len(word) > 92:
                lines.append(("", []))
                width = 0
            lines[-1][1].append((word, tau))
            width += len(word) + 1
    height = 0.27 * len(lines) + 0.95
    figure = Figure(figsize=(9.3, height))
    axis = figure.add_axes((0, 0.9 / height, 1, 1 - 0.9 / height))
    axis.set(xlim=(0, 112), ylim=(len(lines), -0.6))
    axis.set_axis_off()
    for y, (label, words) in enumerate(lines):
        axis.text(0.5, y, label, fontsize=9, va="center", weight="bold")
        x = 13
        for word, tau in words:
            box = None if tau is None else dict(boxstyle="round,pad=0.12", lw=0,
                                                fc=SHADES(shade_of(tau)))
            ink = "black" if tau is None else ink_on(shade_of(tau))
            axis.text(x, y, word, family="monospace", fontsize=8.5, va="center", bbox=box,
                      color=ink)
            x += (len(word) + 1) * 0.98
    bar = figure.add_axes((0.08, 0.42 / height, 0.4, 0.14 / height))
    bar.imshow([[shade_of(tau) for tau in taus]], cmap=SHADES, vmin=0, vmax=1, aspect="auto")
    bar.set_xticks(range(len(taus)), labels(taus), fontsize=9,
                   rotation=90 if any(isinstance(tau, str) for tau in taus) else 0)
    bar.set_yticks([])
    bar.set_title(f"temperature that a word was drawn at, {level} level", fontsize=9, pad=3)
    figure.text(0.54, 0.42 / height, "Of the responses to one test prompt, the one of median\n"
                "reward. Typos are in the corpus on purpose.", fontsize=9, va="center")
    return figure


def metrics(results):
    """(g) What is measured beside the reward, against the fixed temperature."""
    aside = {"reward", "cut", "vote_accuracy", "learned"}
    found = [(e, m) for e in results["config"]["experiments"]
             for m in known(results, "metric", policy="fixed", experiment=e) if m not in aside]
    if not found:
        return None
    figure, axes = panels(len(found), 3, 2.8)
    for axis, (experiment, metric) in zip(axes, found):
        fixed_curve(axis, results, 100, metric=metric, experiment=experiment, subtask=None)
        for level, colour in LEVEL_COLOURS.items():
            interval_line(axis, interval(results, metric, experiment=experiment, subtask=None,
                                         level=level, temperature=None), colour,
                          LEVEL_LINES[level], f"adaptive, {level} level", 100)
        axis.set(title=f"{experiment}: {metric}", xlabel="fixed temperature", ylabel="%")
    legend_below(figure, axes, 3)
    figure.suptitle("What is measured beside the reward")
    return figure


def votes(results):
    """(h) The majority vote against the number of votes."""
    experiments = known(results, "experiment", metric="vote_accuracy", policy="fixed")
    if not experiments:
        return None
    figure, axes = panels(len(experiments), 2, 3.4)
    figure.set_figwidth(5.6 * min(2, len(experiments)))
    for axis, experiment in zip(axes, experiments):
        counts = known(results, "votes", metric="vote_accuracy", experiment=experiment)
        level = known(results, "level", policy="adaptive", experiment=experiment)[0]
        lines = [("best fixed temperature of each count", FIXED, "-", "best_fixed", level),
                 ("oracle per role, searched at 8 votes", ORACLE, ":", "oracle", level)]
        lines += [(f"adaptive, {name} level", colour, LEVEL_LINES[name], "vote_accuracy", name)
                  for name, colour in LEVEL_COLOURS.items()]
        for label, colour, style, metric, level in lines:
            found = [interval(results, metric, experiment=experiment, votes=count, level=level,
                              subtask=None) for count in counts]
            if None in found:
                continue
            interval_marks(axis, counts, found, color=colour, ls=style, ms=4, capsize=2,
                           label=label)
        axis.set_xscale("log", base=2)
        axis.set_xticks(counts, counts)
        axis.set(title=experiment, xlabel="votes", ylabel="majority right, %")
    legend_below(figure, axes, 2)
    return figure


FIGURES = {"text": text, "temperatures": temperatures, "places": places, "rewards": rewards,
           "metrics": metrics, "win_rates": win_rates, "votes": votes, "pairs": pairs}


# --- the files ------------------------------------------------------------------------------------


def draw(results, folder, figures=FIGURES):
    """Save every figure that the results have rows for, and remove those of an earlier run that
    they have none for; yields the paths."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever a user's matplotlibrc says
        matplotlib.rcParams.update(STYLE)
        for name, make in figures.items():
            path = Path(folder) / f"{name}.png"
            figure = make(results)
            if figure is None:
                path.unlink(missing_ok=True)
                continue
            file = io.BytesIO()
            figure.savefig(file, dpi=120, format="png")
            write(path, file.getvalue())
            yield path


def main(default, figures=FIGURES):
    """Draw from the file named on the command line, beside it."""
    source = Path(sys.argv[1] if len(sys.argv) > 1 else default)
    try:
        for path in draw(rows.load(source), source.parent, figures):
            print(path)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main("out/results.json")
