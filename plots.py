"""The figures, from saved results alone:  python plots.py [out/results.json]

Each figure is one function from results to a matplotlib figure, or to None when the results lack
its rows. Lines and bars are means over seeds, error bars one standard deviation over them.
"""
import json
import os
import sys
import zlib
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart; cividis for temperatures.
TOKEN, SEQUENCE, ORACLE, FIXED, OTHER = "#0072B2", "#D55E00", "#009E73", "#555555", "#CC79A7"
LEVELS = {"token": TOKEN, "sequence": SEQUENCE}
SUBTASKS = ("math", "general", "story", "repeats", "constrained", "vote")
STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
         "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False, "axes.titlesize": 10.5}


def to_json(results):
    """The text of a file of results, which carries its own checksum."""
    body = {key: x for key, x in results.items() if key != "crc32"}
    return json.dumps(body | dict(crc32=zlib.crc32(json.dumps(body).encode())))


def load(path):
    """Saved results; ValueError on a file that is missing, damaged or of another program."""
    try:
        results = json.loads(Path(path).read_text())
        if results.get("schema", 1) != 1:
            raise ValueError(f"schema {results['schema']}")
        if json.loads(to_json(results))["crc32"] != results["crc32"]:
            raise ValueError("checksum")
    except (OSError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is missing, damaged or of another program "
                         f"({type(error).__name__}: {str(error)[:60]!r}); make it anew") from None
    return results


def save(figure, path):
    """Beside, then renamed: a run that is stopped leaves no half figure."""
    beside = path.with_name(path.name + ".tmp")
    try:
        figure.savefig(beside, dpi=120, format="png")
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ValueError(f"cannot write {path}: {error.strerror}; make room, then run the same "
                         "command again") from None


def where(results, **wanted):
    """Rows whose columns have the wanted values; a tuple offers several."""
    return [row for row in results["rows"]
            if all(row[k] in v if isinstance(v, tuple) else row[k] == v for k, v in wanted.items())]


def by(rows, column):
    """x values, means and deviations over seeds of the rows, grouped by a column."""
    xs = sorted({row[column] for row in rows})
    values = [[row["value"] for row in rows if row[column] == x] for x in xs]
    return xs, np.array([np.mean(v) for v in values]), np.array([np.std(v) for v in values])


def adaptive(results, **wanted):
    """Rows of single adaptive decoders, temperatures sampled, of the results' first variant."""
    wanted = dict(select="sample", variant=results["config"]["variants"][0]) | wanted
    return [row for row in where(results, policy="adaptive", **wanted)
            if row["base_seed"] is not None]


def pooled(results, **wanted):
    """Rows of intervals.py, over all base models and decoders: likewise."""
    wanted = dict(select="sample", variant=results["config"]["variants"][0]) | wanted
    return where(results, policy="adaptive", base_seed=None, **wanted)


def panels(n, columns, height, **options):
    """A figure of n panels in rows of `columns`."""
    rows = -(-n // columns)
    figure = Figure(figsize=(3.1 * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for axis in axes[n:]:
        axis.set_axis_off()
    return figure, axes


def shares(results):
    """(a) The temperatures that were learned, per subtask; token level by role."""
    found = [s for s in SUBTASKS if adaptive(results, metric="temperature_share", subtask=s)]
    levels = [x for x in LEVELS if adaptive(results, metric="temperature_share", level=x)]
    if not found:
        return None
    size = 1.75 * len(found) + 0.6, 2.0 * len(levels) + 0.5
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(levels), len(found), squeeze=False, sharex=True, sharey=True)
    for i, level in enumerate(levels):
        for axis, subtask in zip(axes[i], found):
            rows = adaptive(results, metric="temperature_share", subtask=subtask, level=level)
            roles = list(dict.fromkeys(row["role"] for row in rows if row["role"]))
            roles = roles if level == "token" and len(roles) > 1 else [None]
            for r, role in enumerate(roles):
                xs, mean, std = by([row for row in rows if row["role"] == role], "tau")
                at = np.arange(len(xs)) + (r - (len(roles) - 1) / 2) * 0.42
                axis.bar(at, mean, 0.8 / len(roles), yerr=std, error_kw=dict(lw=0.8),
                         color=(LEVELS[level], OTHER)[r], label=role)
            axis.set_xticks(range(len(xs)), [f"{x:g}" for x in xs], rotation=90)
            axis.set_ylim(0, 1.3)  # room for a legend
            axis.set_yticks((0, 0.5, 1))
            if i == 0:
                axis.set_title(subtask)
            if len(roles) > 1:
                axis.legend(fontsize=8, handlelength=1, loc="upper center", ncols=2,
                            columnspacing=0.8)
            if axis is axes[i][0]:
                axis.set_ylabel(f"{level} level\nshare of choices")
    figure.supxlabel("temperature")
    figure.suptitle("The temperatures that were learned")
    return figure


def positions(results):
    """(b) Mean temperature at each place in a sentence, with an example sentence as labels."""
    subtasks = [s for s in ("repeats", "constrained", "story", "vote")
                if any(row["position"] is not None for row in where(
                    results, metric="mean_temperature", subtask=s, level="token"))]
    if not subtasks:
        return None
    figure, axes = panels(len(subtasks), min(4, len(subtasks)), 3.0, sharey=True)
    for axis, subtask in zip(axes, subtasks):
        for level, colour in LEVELS.items():
            rows = [row for row in adaptive(results, metric="mean_temperature", subtask=subtask,
                                            level=level) if row["position"] is not None]
            if rows:
                xs, mean, std = by(rows, "position")
                axis.errorbar(xs, mean, std, color=colour, marker="o", ms=4, capsize=2,
                              label=f"{level} level")
        words = next((s["words"] for s in results["samples"] if s["subtask"] == subtask), [])
        labels = (words + [""] * len(xs))[:len(xs)]  # a response may be cut short
        axis.set_xticks(xs, labels, rotation=60, ha="right")
        axis.set_title(subtask)
        axis.set_ylim(-0.05, max(results["config"]["temperatures"]) + 0.05)
    axes[0].set_ylabel("mean temperature")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle("Mean temperature at each place in a sentence, over an example")
    return figure


def rewards(results):
    """(c) Reward against the fixed temperature; the adaptive decoders and the oracle as lines."""
    subtasks = [s for s in SUBTASKS if where(results, metric="reward", subtask=s)]
    figure, axes = panels(len(subtasks), 3, 2.5)
    for axis, subtask in zip(axes, subtasks):
        xs, mean, std = by(where(results, metric="reward", subtask=subtask, policy="fixed"),
                           "temperature")
        axis.errorbar(xs, mean, std, color=FIXED, marker="o", ms=4, label="fixed temperature")
        rows = where(results, metric="reward", subtask=subtask, policy="oracle")
        _, oracle, _ = by(rows, "policy")
        axis.axhline(oracle[0], color=ORACLE, ls=":", lw=2, label="oracle per role")
        for level, colour in LEVELS.items():
            rows = adaptive(results, metric="reward", subtask=subtask, level=level)
            if rows:
                _, mean, std = by(rows, "level")
                axis.axhline(mean[0], color=colour, ls="-" if level == "token" else "--",
                             label=f"adaptive, {level} level")
                axis.axhspan(mean[0] - std[0], mean[0] + std[0], color=colour, alpha=0.12, lw=0)
        axis.set_title(subtask)
        axis.set_xlabel("fixed temperature")
    for axis in axes[::3]:
        axis.set_ylabel("mean reward")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle("Reward of every fixed temperature, of the learned decoders, of the oracle")
    return figure


def wins(results):
    """(d) Win rate of the adaptive decoders against each fixed temperature."""
    experiments = [e for e in results["config"]["experiments"]
                   if adaptive(results, metric="win_rate", experiment=e)]
    if not experiments:
        return None
    figure, axes = panels(len(experiments), 4 if len(experiments) > 3 else len(experiments), 2.8,
                          sharey=True)
    for axis, experiment in zip(axes, experiments):
        for i, (level, colour) in enumerate(LEVELS.items()):
            rows = adaptive(results, metric="win_rate", experiment=experiment, subtask=None,
                            level=level)
            if rows:
                xs, mean, std = by(rows, "temperature")
                axis.bar(np.arange(len(xs)) + (i - 0.5) * 0.4, 100 * mean, 0.38, yerr=100 * std,
                         color=colour, error_kw=dict(lw=0.8), label=f"{level} level")
                axis.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
        axis.axhline(50, color="black", lw=0.8)
        axis.set_title(experiment)
        axis.set_xlabel("fixed temperature")
    axes[0].set_ylabel("win rate, % (ties half)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle("Win rate of the adaptive decoder against each fixed temperature")
    return figure


def sides(results):
    """(e) Which temperatures the chosen and the rejected responses of round one had."""
    rows = where(results, metric="temperature_share", round=0, level="sequence",
                 variant=results["config"]["variants"][0]) or where(
                     results, metric="temperature_share", round=0)
    experiments = [e for e in results["config"]["experiments"]
                   if any(row["experiment"] == e for row in rows)]
    if not experiments:
        return None
    figure, axes = panels(len(experiments), min(4, len(experiments)), 2.8, sharey=True)
    for axis, experiment in zip(axes, experiments):
        for i, (side, colour) in enumerate((("chosen", TOKEN), ("rejected", SEQUENCE))):
            xs, mean, std = by([row for row in rows if row["experiment"] == experiment
                                and row["side"] == side], "tau")
            axis.bar(np.arange(len(xs)) + (i - 0.5) * 0.4, mean, 0.38, yerr=std, color=colour,
                     error_kw=dict(lw=0.8), label=side)
        axis.axhline(1 / len(xs), color="black", lw=0.8, ls=":")
        axis.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
        axis.set_title(experiment)
        axis.set_xlabel("temperature drawn")
    axes[0].set_ylabel("share of responses")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle("Round one's pairs; every temperature was equally likely (dotted)")
    return figure


def text(results):
    """(f) Responses, each word on the colour of the temperature it was drawn at."""
    variant = results["config"]["variants"][0]
    samples = [next(s for s in results["samples"] if (s["subtask"], s["level"], s["variant"])
                    == (subtask, level, variant))
               for subtask in SUBTASKS for level in ("token", "sequence")
               if any((s["subtask"], s["level"], s["variant"]) == (subtask, level, variant)
                      for s in results["samples"]) and (level == "token" or subtask == "story")]
    if not samples:
        return None
    colours, top = matplotlib.colormaps["cividis"], max(results["config"]["temperatures"]) or 1
    lines = []  # of (what it is, [(word, temperature or None)])
    for sample in samples:
        lines.append((f"{sample['subtask']}, {sample['level']} level", []))
        lines[-1][1].append((sample["prompt"], None))
        pairs = list(zip(sample["words"], sample["temperatures"]))
        width = 0
        lines.append(("", []))
        for word, tau in pairs:
            if width + len(word) > 88:
                lines.append(("", []))
                width = 0
            lines[-1][1].append((word, tau))
            width += len(word) + 1
    figure = Figure(figsize=(9.3, 0.27 * len(lines) + 0.9))
    axis = figure.add_axes((0, 0.13, 1, 0.87))
    axis.set(xlim=(0, 112), ylim=(len(lines), -0.8))
    axis.set_axis_off()
    for y, (label, words) in enumerate(lines):
        axis.text(0.5, y, label, fontsize=9, va="center", weight="bold")
        x = 23
        for word, tau in words:
            box = None if tau is None else dict(boxstyle="round,pad=0.12", lw=0,
                                                fc=colours(tau / top))
            ink = "black" if tau is None or tau / top >= 0.5 else "white"
            axis.text(x, y, word, family="monospace", fontsize=8.5, va="center", bbox=box,
                      color=ink)
            x += (len(word) + 1) * 0.98
    bar = figure.add_axes((0.3, 0.07, 0.4, 0.02))
    figure.colorbar(matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, top), colours),
                    cax=bar, orientation="horizontal")
    bar.set_title("temperature a word was drawn at", fontsize=9, pad=2)
    return figure


def repeats_and_votes(results):
    """(g) Repeated 3-grams, and the majority vote against the number of votes."""
    repeats = where(results, metric="repeats", policy="fixed")
    votes = where(results, metric="vote_accuracy", policy="fixed")
    if not repeats and not votes:
        return None
    figure = Figure(figsize=(9.3, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    below = dict(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    if repeats:
        xs, mean, std = by(repeats, "temperature")
        left.errorbar(xs, 100 * mean, 100 * std, color=FIXED, marker="o", ms=4,
                      label="fixed temperature")
        for level, colour in LEVELS.items():
            _, mean, _ = by(adaptive(results, metric="repeats", level=level), "level")
            for value in mean:
                left.axhline(100 * value, color=colour, label=f"adaptive, {level} level",
                             ls="-" if level == "token" else "--")
        left.set(xlabel="fixed temperature", ylabel="repeated 3-grams, %",
                 title="repeats")
        left.legend(**below)
    if votes:
        lines = [("best fixed temperature at each count", FIXED, votes),
                 ("oracle per role, searched at 8 votes", ORACLE,
                  where(results, metric="vote_accuracy", policy="oracle"))]
        lines += [(f"adaptive, {level} level", colour,
                   adaptive(results, metric="vote_accuracy", level=level))
                  for level, colour in LEVELS.items()]
        for label, colour, rows in lines:
            if rows and rows is votes:  # the best temperature of each base model
                best = {}
                for row in rows:
                    key = row["votes"], row["base_seed"]
                    best[key] = max(best.get(key, 0), row["value"])
                rows = [dict(votes=v, value=value) for (v, _), value in best.items()]
            if rows:
                xs, mean, std = by(rows, "votes")
                right.errorbar(xs, 100 * mean, 100 * std, color=colour, marker="o", ms=4,
                               capsize=2, label=label, ls=":" if colour == ORACLE else "-")
        right.set_xscale("log", base=2)
        right.set_xticks(xs, xs)
        right.set(xlabel="votes", ylabel="majority right, %", title="majority vote")
        right.legend(**below)
    return figure


FIGURES = {"temperatures": shares, "positions": positions, "rewards": rewards, "win_rates": wins,
           "pairs": sides, "text": text, "repeats_and_votes": repeats_and_votes}


def draw(results, folder, figures=FIGURES):
    """Save every figure that the results have rows for; yields the paths."""
    with matplotlib.rc_context(STYLE):
        for name, make in figures.items():
            figure = make(results)
            if figure is not None:
                path = Path(folder) / f"{name}.png"
                save(figure, path)
                yield path


def main(default, figures=FIGURES):
    """Draw from the file named on the command line, beside it."""
    source = Path(sys.argv[1] if len(sys.argv) > 1 else default)
    try:
        for path in draw(load(source), source.parent, figures):
            print(path)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main("out/results.json")
