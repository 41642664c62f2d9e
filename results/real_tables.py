"""The tables and figures of the real model, from real.json: tables.py puts them into the pages. And
the tables of a second one, from real_second.json.

Every cell is `value [low, high]`, the mean over decoders and test prompts with its 95 % interval by
the paired bootstrap. Nothing here needs the model, or transformers.
"""
from collections import defaultdict

import numpy as np
from matplotlib.figure import Figure

from results import rival_tables
from results.rival_tables import table
from toy.plots import SHADES, ink_on, legend_below, panels, shades
from toy.rows import known, values, where

FIXED, RULE, ORACLE = "best fixed temperature", "best tuned rule", "oracle by role"
LEARNED = [f"{level} level, {name}" for level in ("token", "sequence")
           for name in ("temperatures", "settings")]
OURS = {"lines": "token level, temperatures", "mix": "sequence level, temperatures"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#999999", "#E69F00", "#000000", "#56B4E9")


def cell(real, experiment, method, minus=None):
    return rival_tables.cell(real, section="rewards", experiment=experiment, method=method,
                             minus=minus, share=None)


def experiments(real):
    return known(real, "experiment", section="best")


def learned(real):
    """The kinds of decoders that were trained."""
    return [method for method in LEARNED if where(real, section="rewards", method=method)]


def studied(real):
    """What the study varies: the recipes that are no method of every experiment."""
    usual = {*LEARNED, FIXED, RULE, ORACLE, *known(real, "method", section="setting")}
    return [name for name in known(real, "method", section="rewards") if name not in usual]


def recipes(real, experiment):
    """What the study compares, what all runs are trained by first.  -> {method: its name}"""
    ours = f"{real['config']['steps']} updates a round, {real['config']['rounds']} rounds"
    return {OURS[experiment]: ours} | {name: name for name in studied(real)}


def of_seeds(real, **wanted):
    """Mean and range over decoders."""
    found = values(real, **wanted)
    return f"{np.mean(found):.2f} ({min(found):.2f} to {max(found):.2f})" if found else "-"


# --- tables ---------------------------------------------------------------------------------------


def rewards(real):
    lines = []
    for method in (FIXED, RULE, ORACLE, *learned(real)):
        line = [method]
        for experiment in experiments(real):
            best = where(real, section="best", experiment=experiment, method=method)
            line.append(cell(real, experiment, method) +
                        (f" ({best[0]['setting']})" if best else ""))
        lines.append(line)
    return table(["", *experiments(real)], lines)


def fixed(real):
    taus = known(real, "method", section="fixed")
    lines = [[experiment, *(f"{x:.3f}" for x in values(real, section="fixed",
                                                       experiment=experiment))]
             for experiment in experiments(real)]
    return table(["fixed temperature", *taus], lines)


def beyond(real):
    """Learned choices minus what nobody trains."""
    header = [f"{experiment}, minus the {name}" for experiment in experiments(real)
              for name in (FIXED, RULE)]
    lines = [[method, *(cell(real, experiment, method, minus) for experiment in experiments(real)
                        for minus in (FIXED, RULE))] for method in learned(real)]
    return table(["", *header], lines)


def temperatures(real):
    lines = []
    for experiment in experiments(real):
        for role in known(real, "role", section="oracle", experiment=experiment):
            of = dict(experiment=experiment, role=role)
            oracle, = values(real, section="oracle", **of)
            lines.append([role.removesuffix(", all"), f"{oracle:g}", *(
                of_seeds(real, section="temperature", method=f"{level} level, temperatures", **of)
                for level in ("token", "sequence"))])
    return table(["task, place", ORACLE, "token level", "sequence level"], lines)


def settings(real):
    """Which settings the token level uses, from a twentieth of the tokens up."""
    lines = []
    for experiment in experiments(real):
        method = "token level, settings"
        for role in known(real, "role", section="shares", experiment=experiment, method=method):
            found = where(real, section="shares", experiment=experiment, method=method, role=role)
            used = sorted(found, key=lambda row: -row["value"])
            lines.append([role.removesuffix(", all"), ", ".join(
                f"{row['choice']} {row['value']:.0%}" for row in used if row["value"] >= 0.05)])
    return table(["task, place", "settings and their shares"], lines)


def rules(real):
    lines = []
    for rule in known(real, "method", section="setting"):
        line = [rule]
        for experiment in experiments(real):
            setting, = where(real, section="setting", experiment=experiment, method=rule)
            line.append(f"{cell(real, experiment, rule)} ({setting['setting']})")
        lines.append(line)
    return table(["rule", *experiments(real)], lines)


def study(real):
    lines = []
    for experiment in OURS:
        for recipe, name in recipes(real, experiment).items():
            of = dict(experiment=experiment, method=recipe)
            last = max(values(real, section="rounds", metric="certainty", **of) and
                       known(real, "round", section="rounds", **of))
            certain = (np.mean(values(real, section="rounds", metric="certainty", round=rnd, **of))
                       for rnd in (0, last))
            taus = (of_seeds(real, section="temperature", role=role, **of)
                    for role in known(real, "role", section="oracle", experiment=experiment)
                    if not role.startswith(("opposite", "list")))
            lines.append([f"{experiment}: {name}", cell(real, experiment, recipe, FIXED),
                          f"{np.mean(values(real, section='validation', **of)):.3f}",
                          " -> ".join(f"{x:.2f}" for x in certain), "; ".join(taus)])
    return table(["recipe", f"minus the {FIXED}", "reward on validation prompts",
                  "largest P(tau), first -> last round",
                  "temperatures: start; rest, or capital; story"], lines)


def cost(real):
    lines = []
    for experiment in experiments(real):
        for method in LEARNED:
            found = values(real, section="memory", experiment=experiment, method=method)
            if found:
                lines.append([f"{experiment}, {method}", f"{max(found):.1f}"])
    return table(["decoder", "device memory, GB"], lines)


def source(real):
    cfg, stages = real["config"], real["stages"].values()
    where_made = sorted({"{machine}, torch {torch}".format(**stage["environment"])
                         for stage in stages})
    model = f"{cfg['model']}: " if "model" in cfg else ""
    return model + (
        f"{cfg['seeds']} decoders each, {cfg['test_prompts']} test prompts x {cfg['samples']} "
        f"responses, {cfg['rounds']} rounds of {cfg['prompts']} prompts x {cfg['responses']}; "
        f"{'; '.join(where_made)}.")


TABLES = {f"real_{make.__name__}": make for make in (
    rewards, fixed, beyond, temperatures, settings, rules, study, cost, source)}
SECOND = {f"second_{make.__name__}": make for make in (
    rewards, fixed, beyond, temperatures, settings, rules, cost, source)}


# --- figures --------------------------------------------------------------------------------------


def text(real):
    """Responses of one token-level decoder, each token on the colour of its temperature."""
    texts = {}
    for sample in real["samples"]:
        if not any(isinstance(choice, str) for choice in sample["choices"]):
            texts.setdefault((sample["task"], sample["asked"][-1]), sample)
    some = [sample for sample in texts.values() if sample["task"] == "lines"][:4]
    taus = some[0]["choices"]
    shade_of = shades(taus)
    columns = [[], []]  # of lines [(text, temperature or None)]
    for sample in some:
        lines = [[(f'A poem about {sample["asked"][0]}. Every', None)],
                 [(f'line begins with "{sample["asked"][1]}".', None)], []]
        for _, piece, k in sample["tokens"]:
            before, *rest = piece.split("\n")
            if sum(len(part) for part, _ in lines[-1]) + len(before) > 46:
                lines.append([("   ", None)])  # a long line goes on below
            lines[-1].append((before, sample["choices"][k]))
            lines += [[(part, sample["choices"][k])] for part in rest]
        lines = [line for line in lines if any(part for part, _ in line)]
        min(columns, key=len).extend([*lines, []])
    height = 0.25 * max(map(len, columns)) + 0.7
    figure = Figure(figsize=(8.6, height))
    axis = figure.add_axes((0, 0.75 / height, 1, 1 - 0.75 / height))
    axis.set(xlim=(0, 100), ylim=(max(map(len, columns)) - 0.5, -0.6))
    axis.set_axis_off()
    for left, lines in zip((1, 52), columns):
        for y, line in enumerate(lines):
            x = left
            for part, tau in line:
                box = None if tau is None else dict(boxstyle="square,pad=0.1", lw=0,
                                                    fc=SHADES(shade_of(tau)))
                axis.text(x, y, part, family="monospace", fontsize=8, va="center", bbox=box,
                          color="black" if tau is None else ink_on(shade_of(tau)))
                x += len(part) * 0.97
    bar = figure.add_axes((0.05, 0.36 / height, 0.4, 0.14 / height))
    bar.imshow([[shade_of(tau) for tau in taus]], cmap=SHADES, vmin=0, vmax=1, aspect="auto")
    bar.set_xticks(range(len(taus)), [f"{tau:g}" for tau in taus], fontsize=9)
    bar.set_yticks([])
    bar.set_title("temperature that a token was drawn at", fontsize=9, pad=3)
    figure.text(0.5, 0.36 / height, "SmolLM2-135M on held-out prompts, the first\nresponse to "
                "each; token level.", fontsize=9, va="center")
    return figure


def rounds(real):
    """Why runs collapse: how certain the head is after each round, and what it earns."""
    metrics = {"certainty": "mean largest P(tau)", "reward": "reward of its samples"}
    figure, axes = panels(2 * len(OURS), 2, 2.9)
    for axis, (experiment, metric) in zip(axes, ((e, m) for e in OURS for m in metrics)):
        for colour, (recipe, name) in zip(COLOURS, recipes(real, experiment).items()):
            by_round = defaultdict(list)
            for row in where(real, section="rounds", experiment=experiment, method=recipe,
                             metric=metric):
                by_round[row["round"] + 1].append(row["value"])
            every = np.array(list(by_round.values()))  # (rounds, decoders)
            axis.fill_between(list(by_round), every.min(1), every.max(1), color=colour, alpha=0.12,
                              lw=0)
            axis.plot(list(by_round), every.mean(1), color=colour, marker="o", ms=3,
                      label=name)
        axis.set(title=f"{experiment}, {OURS[experiment].split()[0]} level", xlabel="round",
                 ylabel=metrics[metric])
    legend_below(figure, axes, 2)
    return figure


FIGURES = {"real_text": text, "real_rounds": rounds}
