"""The figures of a run, from its results.json alone:  python -m toy.figures [out/results.json]

Each figure is a function from results to a matplotlib figure, or to None if the results lack what
it shows. One colour, one meaning: blue is the token level, orange the sequence level, green the
oracle, grey a fixed temperature; the dark-to-yellow scale is temperature, from cold to hot.
"""
import functools
import io
import json
import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from toy.evaluate import decoders, where
from toy.files import program, write

# Okabe and Ito's colours, which colour-blind readers can tell apart
TOKEN, SEQUENCE, ORACLE, FIXED = "#0072B2", "#D55E00", "#009E73", "#555555"
LEVELS = {"token": (TOKEN, "-"), "sequence": (SEQUENCE, "--")}  # colour and line
SHADES = matplotlib.colormaps["cividis"]
STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
         "grid.alpha": 0.25, "legend.frameon": False, "axes.titlesize": 10.5}


# --- what several figures use ---------------------------------------------------------------------


def name_of(choice):
    """A choice on an axis: a temperature as a short number, a setting by its name."""
    return choice if isinstance(choice, str) else f"{choice:g}"


def slant(choices):
    """How names below an axis are turned, in degrees, and the inches they need."""
    longest = max((len(choice) for choice in choices if isinstance(choice, str)), default=0)
    return (45 if longest else 0), 0.05 * longest


def shades(choices):
    """A function from a choice to its place on SHADES: temperatures by size, others by order."""
    numbers = not any(isinstance(choice, str) for choice in choices)
    top = (max(choices) if numbers else len(choices) - 1) or 1
    return lambda choice: (choice if numbers else choices.index(choice)) / top


def ink_on(shade):
    """The readable ink on a shade."""
    return "black" if shade >= 0.5 else "white"


def panels(n, columns, width, height, **options):
    lines = -(-n // columns)
    figure = Figure(figsize=(width * min(n, columns), height * lines), layout="constrained")
    axes = figure.subplots(lines, min(n, columns), squeeze=False, **options).ravel()
    for axis in axes[n:]:
        axis.set_axis_off()
    return figure, axes[:n]


def heat_map(axis, table, choices, cmap="Blues"):
    """How often each choice was used.  {label of a row: K shares}, K choices"""
    shares = np.array(list(table.values()))
    axis.imshow(shares, cmap=cmap, vmin=0, vmax=1, aspect="auto")
    for y, x in np.ndindex(shares.shape):
        axis.text(x, y, f"{100 * shares[y, x]:.0f}", ha="center", va="center", fontsize=9,
                  color="white" if shares[y, x] > 0.6 else "black")
    axis.set_xticks(range(len(choices)), map(name_of, choices), rotation=slant(choices)[0])
    axis.set_yticks(range(len(table)), table)
    axis.set(xlabel="temperature")
    axis.grid(False)


# --- the figures ----------------------------------------------------------------------------------


def text(results):
    """Responses to the same prompts, each word on the colour of its temperature."""
    config = results["config"]
    choices = config["choices"]
    level = next(level for level in LEVELS if level in config["levels"])
    shade_of = shades(choices)
    angle, room = slant(choices)
    left = max(26, *(len(name_of(choice)) + 21 for choice in choices))  # of responses
    figure = Figure()
    axis = figure.add_axes((0, 0, 1, 1))
    mark = functools.partial(axis.text, family="monospace", fontsize=8, va="center")
    y = -1
    for sample in where(results["samples"], level=level, variant=config["variants"][0]):
        said = "learned"
        if sample["policy"] == "fixed":
            y += 2
            mark(0, y, sample["prompt"], weight="bold")
            said = " ".join([*map(name_of, sample["choices"][:1]), "fixed"])  # it may be empty
        y += 1
        mark(0, y, f"{said}, reward {round(sample['reward'], 2) + 0:.2f}")
        x = left
        for word, choice in zip(sample["words"], sample["choices"]):
            if x + len(word) > 128:
                x = left
                y += 1
            shade = shade_of(choice)
            box = dict(boxstyle="round,pad=0.1", lw=0, fc=SHADES(shade))
            mark(x, y, word, bbox=box, color=ink_on(shade))
            x += len(word) + 1
    height = 0.22 * (y + 1) + 0.7 + room
    figure.set_size_inches(10, height)
    axis.set(xlim=(0, 130), ylim=(y + 0.6, 0))
    axis.set_position((0.01, (0.6 + room) / height, 0.98, 1 - (0.6 + room) / height))
    axis.set_axis_off()
    bar = figure.add_axes((0.3, (0.32 + room) / height, 0.4, 0.12 / height))
    bar.imshow([[shade_of(choice) for choice in choices]], cmap=SHADES, vmin=0, vmax=1,
               aspect="auto")
    bar.set_xticks(range(len(choices)), map(name_of, choices), rotation=angle, fontsize=8)
    bar.set_yticks([])
    bar.grid(False)
    bar.set_title("temperature of a word (misspellings are in the corpus on purpose)", fontsize=8)
    return figure


def temperatures(results):
    """Which choices were learned: shares per subtask, at token level also per role."""
    choices = results["config"]["choices"]
    tables = {}  # level -> {label: K shares}
    for level in LEVELS:
        for r in decoders(results, metric="choice_share", level=level):
            if ("role" in r) == (level == "token"):
                label = f"{r['subtask']}: {r['role']}" if "role" in r else r["subtask"]
                shares = tables.setdefault(level, {}).setdefault(label, [0] * len(choices))
                shares[choices.index(r["choice"])] = r["value"]
    if not tables:
        return None
    height = 0.32 * max(map(len, tables.values())) + 1.3 + slant(choices)[1]
    figure, axes = panels(len(tables), 2, 5, height)
    for axis, (level, table) in zip(axes, tables.items()):
        heat_map(axis, table, choices, "Blues" if level == "token" else "Oranges")
        axis.set(title=f"{level} level")
    figure.suptitle("Learned temperatures: % of words at each")
    return figure


def places(results):
    """Mean temperature at each place of the grammar."""
    rows = [r for r in decoders(results, metric="mean_temperature") if "place" in r]
    if not rows:
        return None
    n = len({(r["subtask"], r["place"]) for r in rows})
    figure, (axis,) = panels(1, 1, 6.5, 0.2 * n + 1.2)
    for level in dict.fromkeys(r["level"] for r in rows):
        of = where(rows, level=level)
        axis.plot([r["value"] for r in of], [f"{r['subtask']}: {r['place']}" for r in of],
                  "o" if level == "token" else "|", color=LEVELS[level][0], ms=6,
                  label=f"{level} level")
    axis.invert_yaxis()
    axis.set(xlabel="mean temperature", title="Mean temperature at each place of a sentence")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def rewards(results):
    """Reward against the fixed temperature, with the decoders and the oracle as lines."""
    experiments = results["config"]["experiments"]
    angle, room = slant(results["config"]["choices"])
    figure, axes = panels(len(experiments), 2, 4.4, 2.5 + room)
    for axis, experiment in zip(axes, experiments):
        of = dict(experiment=experiment, metric="reward", subtask=None)
        fixed = where(results["rows"], policy="fixed", **of)
        axis.plot([name_of(r["temperature"]) for r in fixed], [r["value"] for r in fixed], "o-",
                  color=FIXED, label="fixed temperature")
        for r in decoders(results, **of):
            colour, line = LEVELS[r["level"]]
            axis.axhline(r["value"], color=colour, ls=line, label=f"learned, {r['level']} level")
        for r in where(results["rows"], policy="oracle", **of):
            axis.axhline(r["value"], color=ORACLE, ls=":", label="oracle, one per role")
        axis.set(title=experiment, xlabel="fixed temperature", ylabel="mean reward")
        axis.tick_params(axis="x", rotation=angle)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center",
                  ncols=2 * min(len(axes), 2))
    return figure


def votes(results):
    """How often the majority is right, against the number of votes."""
    rows = where(results["rows"], metric="vote_accuracy")
    experiments = list(dict.fromkeys(r["experiment"] for r in rows))
    if not experiments:
        return None
    figure, axes = panels(len(experiments), 2, 6, 3.4)
    for axis, experiment in zip(axes, experiments):
        lines = {("best fixed temperature of each count", FIXED, "-"): where(rows, policy="fixed"),
                 ("oracle, one per role", ORACLE, ":"): where(rows, policy="oracle")}
        for level, (colour, line) in LEVELS.items():
            lines[f"learned, {level} level", colour, line] = decoders(
                results, metric="vote_accuracy", level=level)
        for (label, colour, line), of in lines.items():
            values = {}
            for r in where(of, experiment=experiment):
                values.setdefault(str(r["votes"]), []).append(r["value"])
            if values:
                axis.plot(list(values), list(map(max, values.values())), line, marker="o", ms=4,
                          color=colour, label=label)
        axis.set(title=experiment, xlabel="votes", ylabel="share of right majorities")
        axis.legend(fontsize=9)
    return figure


FIGURES = {f.__name__: f for f in (text, temperatures, places, rewards, votes)}


# --- the files ------------------------------------------------------------------------------------


def plot(results, folder, figures=FIGURES):
    """Save every figure that the results have rows for; remove those of an earlier run that they
    lack.  -> list of paths"""
    paths = []
    with style.context(STYLE, after_reset=True):  # whatever a user's matplotlibrc says
        for name, make in figures.items():
            path = Path(folder) / f"{name}.png"
            figure = make(results)
            if figure is None:
                path.unlink(missing_ok=True)
                continue
            file = io.BytesIO()
            figure.savefig(file, dpi=120, format="png")
            write(path, file.getvalue())
            paths.append(path)
    return paths


def load(path):
    """results.json of a run; ValueError if it is missing or damaged."""
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
        results["rows"], results["config"], results["samples"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is missing or damaged ({type(error).__name__}: {error}); run "
                         "train_toy.py again") from None
    return results


if __name__ == "__main__":
    with program():
        source = Path(sys.argv[1] if len(sys.argv) > 1 else "out/results.json")
        print(*plot(load(source), source.parent), sep="\n")
