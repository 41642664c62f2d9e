"""The tables of README.md and results/README.md, from saved results: no number is typed by hand.

    python -m results.tables                print every table, from results/data
    python -m results.tables --write        put tables and figures in their places
    python -m results.tables --keep out     take over the results in out/, then as --write

A page marks a table's place by a comment with its name. The paper's numbers stand on this page.
"""
import argparse
import re
import sys
from pathlib import Path

import numpy as np

from results import real_tables, rival_plots, rival_tables, sweep_plots
from results.rival_tables import table
from results.sweep_plots import LOSS_NAMES, ordered
from toy import rows
from toy.plots import draw, labels, subtasks_of
from toy.rows import interval, known, single, values
from toy.stages import ROOT, write

HERE = ROOT / "results"
DATA, FIGURES = HERE / "data", HERE / "figures"
FILES = ("results.json", "sweeps.json", "rivals.json", "real.json", "real_second.json")
PAGES = ROOT / "README.md", HERE / "README.md", ROOT / "real" / "README.md"
MARK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
LEVELS = ("sequence", "token")  # in the paper's order


# --- cells ----------------------------------------------------------------------------------------


def ci(results, metric, digits=3, scale=1, **wanted):
    """A mean over all runs with its 95 % interval, or a dash."""
    found = interval(results, metric, **wanted)
    if found is None:
        return "-"
    value, low, high = (f"{scale * x:.{digits}f}" for x in found)
    return f"{value} [{low}, {high}]"


def spread(found, digits=2, scale=1):
    """Mean and standard deviation (of the population) over runs, or a dash."""
    if not len(found):
        return "-"
    found = scale * np.array(found)
    return f"{found.mean():.{digits}f} ± {found.std():.{digits}f}"


# --- the main job: results.json -------------------------------------------------------------------


def environments(stages):
    """The environments that computed some stages, each once."""
    found = {repr(sorted(stage["environment"].items())): stage["environment"]
             for stage in stages.values()}
    return "; ".join(f"torch {e['torch']}, {e['device']}, {e['machine']}, {e['threads']} "
                     f"thread{'s' if e['threads'] > 1 else ''}, commit "
                     f"{e['commit'] or 'not recorded'}"
                     for e in found.values())


def source(results, sweeps):
    c = results["config"]
    return (f"{c['base_seeds']} base models x {c['seeds']} decoder seeds, {c['test_prompts']} test "
            f"prompts an experiment; the mean and its 95 % interval over all three; temperatures "
            f"sampled; {environments(results['stages'])}.")


def headline(results, sweeps):
    """Best fixed temperature, both levels and the oracle, per experiment."""
    lines = []
    for experiment in results["config"]["experiments"]:
        kinds = [("reward", "reward", None)]
        if known(results, "votes", experiment=experiment, metric="vote_accuracy"):
            kinds = [("one response", "reward", None), ("majority of 8", "vote_accuracy", 8)]
        for name, metric, votes in kinds:
            of = dict(experiment=experiment, subtask=None, votes=votes, temperature=None)
            lines.append([f"{experiment}, {name}", ci(results, "best_fixed", level="token", **of),
                          ci(results, metric, level="sequence", **of),
                          ci(results, metric, level="token", **of),
                          ci(results, "oracle", level="token", **of),
                          ci(results, "gain", level="token", **of),
                          *(ci(results, "headroom_share", 0, 100, level=level, **of)
                            for level in LEVELS)])
    return table(["experiment", "best fixed temperature", "sequence level", "token level",
                  "oracle per role", "gain, token level", "share of headroom, %: sequence",
                  "token"], lines)


def repeats(results, sweeps):
    greedy = values(results, policy="fixed", metric="repeats", temperature=0.0, subtask=None)
    of = dict(experiment="repeats", subtask=None, level="token", temperature=None)
    warm = [row["value"] for row in single(results, metric="non_greedy", subtask="repeats",
                                           level="token")]
    return table(["", "repeated 3-grams, greedy", "token level", "fewer, %",
                  "responses with a temperature above 0, %"],
                 [["paper, Wikitext-2", "0.36 %", "0.22 %", "42", "94"],
                  ["here", f"{100 * np.mean(greedy):.1f} %", ci(results, "repeats", 1, 100, **of),
                   ci(results, "fewer_repeats", 1, 100, **of), f"{100 * np.mean(warm):.0f}"]])


def win_lines(results, metrics, kinds):
    """One line a fixed temperature."""
    taus = results["config"]["choices"]
    return [[name] + [ci(results, metric, 1, 100, temperature=tau, **kind)
                            for metric, kind in zip(metrics, kinds)]
            for name, tau in zip(labels(taus), taus)]


def wins(results, sweeps):
    subtasks = [None, *(s for e, s, _ in subtasks_of(results) if e == "mix")]
    kinds = [dict(experiment="mix", subtask=subtask, level=level) for level in LEVELS
             for subtask in subtasks]
    header = ["fixed"] + [f"{level[:3]}: {subtask or 'all'}" for level in LEVELS
                          for subtask in subtasks]
    return table(header, win_lines(results, ["win_rate"] * len(kinds), kinds))


PAPER_WINS = {
    "0.0": ("53.10", "58.75", "50.68", "49.60", "54.40", "49.66"),
    "0.2": ("53.35", "57.25", "51.10", "50.70", "53.40", "50.08"),
    "0.4": ("50.80", "57.05", "51.14", "48.75", "54.20", "50.11"),
    "0.6": ("52.15", "56.65", "51.40", "49.60", "52.30", "50.38"),
    "0.8": ("52.78", "54.55", "51.42", "49.25", "51.10", "50.49"),
    "1.0": ("54.89", "52.10", "51.82", "52.75", "47.25", "51.55")}
PAPER_CONSTRAINED = {
    "0.0": ("50.95", "52.55", "51.75"), "0.2": ("53.70", "49.50", "51.60"),
    "0.4": ("58.05", "48.25", "53.15"), "0.6": ("68.05", "41.05", "54.55"),
    "0.8": ("77.85", "36.45", "57.15"), "1.0": ("87.80", "31.50", "59.65")}
PAPER_SELECT = {"0.0": ("53.10", "52.80"), "0.2": ("53.35", "53.15"), "0.4": ("50.80", "51.75"),
                "0.6": ("52.15", "52.50"), "0.8": ("52.78", "53.65"), "1.0": ("54.89", "53.95")}


def beside(lines, paper):
    """The paper's cells behind ours, at the temperatures that it has."""
    width = len(next(iter(paper.values())))
    return [line + list(paper.get(f"{float(line[0]):.1f}", ["-"] * width)) for line in lines]


def paper_wins(results, sweeps):
    return table(["fixed", "seq: UltraFeedback", "seq: Stories", "seq: GSM8K",
                  "tok: UltraFeedback", "tok: Stories", "tok: GSM8K"],
                 [[tau, *cells] for tau, cells in PAPER_WINS.items()])


def temperature_means(results, sweeps):
    """Mean temperature of each subtask, and of the roles that the token level tells apart."""
    lines = []
    for _, subtask, _ in subtasks_of(results):
        cells = [subtask]
        for level in LEVELS:
            of = [row for row in single(results, metric="mean_temperature", subtask=subtask,
                                        level=level) if row["place"] is None]
            roles = [role for role in dict.fromkeys(row["role"] for row in of) if role]
            roles = roles if level == "token" and len(roles) > 1 else [None]
            cells.append("; ".join(
                (f"{role} " if role else "") + spread([row["value"] for row in of
                                                       if row["role"] == role]) for role in roles))
        lines.append(cells)
    return table(["subtask", "sequence level", "token level"], lines)


def constrained(results, sweeps):
    of = dict(experiment="constrained", subtask=None, level="token")
    ours = win_lines(results, ["constraint_win_rate", "quality_win_rate", "win_rate"], [of] * 3)
    return table(["fixed", "constraint", "quality", "reward, their product",
                  "paper: constraint", "quality", "mean"], beside(ours, PAPER_CONSTRAINED))


def asked_places(results, sweeps):
    lines = [["paper, mean temperature", "0.21", "0.55"]]
    means = [spread([row["value"] for row in single(
        results, metric="mean_temperature", role=role, subtask="constrained", level="token")])
        for role in ("asked", "rest")]
    return table(["", "the asked word (paper: a sentence's first)", "elsewhere"],
                 lines + [["here", *means]])


def votes(results, sweeps):
    counts = known(results, "votes", policy="fixed", metric="vote_accuracy")
    lines = []
    for name, metric, level in [
            ("best fixed temperature of this count", "best_fixed", "token"),
            ("sequence level", "vote_accuracy", "sequence"),
            ("token level", "vote_accuracy", "token"),
            ("oracle per role, searched at 8 votes", "oracle", "token"),
            ("token level - best fixed", "gain", "token")]:
        lines.append([name] + [ci(results, metric, 1, 100, votes=count, subtask=None,
                                  experiment="vote", level=level) for count in counts])
    return table(["votes", *counts], lines)


def losses(results, sweeps):
    """Share of the headroom by variant, temperatures sampled and by arg-max."""
    lines = []
    for experiment, level in (("repeats", "token"), ("mix", "sequence"), ("mix", "token"),
                              ("constrained", "token"), ("vote", "token")):
        for select in ("sample", "greedy"):
            lines.append([f"{experiment}, {level}", select] + [
                ci(results, "headroom_share", 0, 100, experiment=experiment, level=level,
                   select=select, subtask=None, votes=None, variant=variant)
                for variant in results["config"]["variants"]])
    return table(["experiment, level", "temperature"] + [
        LOSS_NAMES[variant].partition(" (")[0] for variant in results["config"]["variants"]], lines)


def math_losses(results, sweeps):
    """The paper's table 4 is of GSM8K at the sequence level: here the arithmetic of the mix."""
    variants = results["config"]["variants"]
    of = dict(experiment="mix", subtask="math", level="sequence", votes=None, temperature=None)
    sampled = [ci(results, "reward", 1, 100, variant=v, **of) for v in variants]
    greedy = [ci(results, "reward", 1, 100, variant=v, select="greedy", **of) for v in variants]
    paper = {"latent": "81.59", "separate": "81.59", "nll": "lower"}
    return table(["", *(LOSS_NAMES[v].partition(" (")[0] for v in variants),
                  "best fixed temperature"],
                 [["here, % right, temperature sampled", *sampled,
                   ci(results, "best_fixed", 1, 100, **of)],
                  ["here, by arg-max", *greedy, ""],
                  ["paper, GSM8K", *(paper.get(v, "-") for v in variants), "81.59 (greedy)"]])


def selects(results, sweeps):
    """Paper's table 5: the temperature by arg-max or sampled, sequence level."""
    kinds = [dict(experiment="mix", subtask=subtask, level="sequence", select=select)
             for subtask in (None, "general") for select in ("greedy", "sample")]
    lines = win_lines(results, ["win_rate"] * 4, kinds)
    return table(["fixed", "all, arg-max", "all, sampled", "general, arg-max", "general, sampled",
                  "paper, UltraFeedback: arg-max", "sampled"], beside(lines, PAPER_SELECT))


# --- the sweeps: sweeps.json ----------------------------------------------------------------------


def sweep_source(results, sweeps):
    c = sweeps["config"]
    return (f"{c['base_seeds']} base models x {c['seeds']} decoder seed"
            f"{'s' if c['seeds'] > 1 else ''}; {environments(sweeps['stages'])}.")


def pairs(results, sweeps):
    counts, lines = ordered(known(sweeps, "x", sweep="pairs")), []
    for experiment in known(sweeps, "experiment", sweep="pairs"):
        for variant in known(sweeps, "variant", sweep="pairs"):
            for metric, name in (("share", "sampled"), ("share of the arg-max", "arg-max")):
                lines.append([experiment, LOSS_NAMES[variant].partition(" (")[0], name] + [
                    spread(values(sweeps, sweep="pairs", experiment=experiment, variant=variant,
                                  x=n, metric=metric), 0, 100) for n in counts])
    return table(["experiment", "loss", "temperature", *(f"{n} pairs" for n in counts)], lines)


def gradient(results, sweeps):
    lines = []
    for experiment in known(sweeps, "experiment", sweep="gradient"):
        for form in known(sweeps, "variant", sweep="gradient", experiment=experiment):
            of = dict(sweep="gradient", experiment=experiment, variant=form)
            ratio = np.mean(values(sweeps, metric="signal to noise", **of))
            lines.append([experiment, LOSS_NAMES[form].partition(" (")[0],
                          spread(values(sweeps, metric="signal", **of), 3),
                          spread(values(sweeps, metric="noise", **of), 2),
                          spread(values(sweeps, metric="signal to noise", **of), 3),
                          f"{1 / ratio ** 2:.0f}" if ratio > 0 else "-",
                          spread(values(sweeps, metric="cosine with separate", **of), 2)])
    return table(["experiment", "loss", "signal", "noise of one pair", "signal to noise",
                  "pairs for 1 : 1", "cosine of the mean with separate's"], lines)


def change(results, sweeps):
    """Share of the headroom with one option changed."""
    experiments = known(sweeps, "experiment", sweep="change")
    variants = known(sweeps, "variant", sweep="change")
    lines = []
    for option in known(sweeps, "setting", sweep="change"):
        for x in ordered(known(sweeps, "x", sweep="change", setting=option)):
            lines.append([option, x] + [
                spread(values(sweeps, sweep="change", setting=option, x=x, variant=variant,
                              experiment=experiment, metric="share"), 0, 100)
                for variant in variants for experiment in experiments])
    return table(["option", "value", *(f"{variant}: {experiment}" for variant in variants
                                       for experiment in experiments)], lines)


def unfrozen(results, sweeps):
    """Reward after three rounds; how far both sides' log-probabilities moved in round one."""
    lines = []
    for setting in sweep_plots.SETTINGS:
        for lr in ordered(known(sweeps, "x", sweep="unfrozen", setting=setting)):
            of = dict(sweep="unfrozen", setting=setting, x=lr)
            last = dict(of, round=0, step=max(known(sweeps, "step", round=0, **of), default=None))
            moved = [f"{np.mean(values(sweeps, metric=f'{side} log-ratio', **last)):+.2f}"
                     for side in ("chosen", "rejected")]
            lost = [f"{100 * np.mean(values(sweeps, metric=f'{side} impossible', **last)):.1f}"
                    for side in ("chosen", "rejected")]
            lines.append([setting, f"{lr:g}",
                          spread(values(sweeps, metric="round reward", round=1, **of)),
                          spread(values(sweeps, metric="reward", **of)),
                          ", ".join(moved), ", ".join(lost),
                          f"{np.mean(values(sweeps, metric='corpus loss', **of)):.2f}"])
    return table(["loss", "model lr", "reward after round 1", "at the end",
                  "log-ratio chosen, rejected", "impossible tokens, %", "corpus loss"], lines)


def unseen(results, sweeps):
    lines = []
    of = dict(sweep="failure", setting="unseen categories")
    for experiment in known(sweeps, "experiment", **of):
        for group, name in (("seen", "in training"), ("unseen", "left out")):
            lines.append([experiment, name] + [
                spread(values(sweeps, variant=variant, metric=metric, group=group,
                              experiment=experiment, **of), 3)
                for metric, variant in (("reward", "trained on half"), ("reward", "trained on all"),
                                        ("best fixed", "trained on all"))])
    return table(["experiment", "categories", "decoder trained on half", "on all",
                  "best fixed temperature"], lines)


def keyword(results, sweeps):
    lines = []
    of = dict(sweep="failure", setting="no keyword")
    for group in known(sweeps, "group", **of):
        for variant in known(sweeps, "variant", **of):
            lines.append([group, variant] + [
                spread(values(sweeps, group=group, variant=variant, level=level, metric="reward",
                              **of), 3) for level in LEVELS]
                + [spread(values(sweeps, group=group, variant=variant, metric="best fixed", **of),
                          3)])
    return table(["subtask", "prompt", *(f"{level} level" for level in LEVELS),
                  "best fixed temperature of the subtask"], lines)


def pretraining(results, sweeps):
    lines = []
    kind = dict(sweep="failure", setting="pretraining")
    for experiment in known(sweeps, "experiment", **kind):
        for steps in ordered(known(sweeps, "x", **kind)):
            of = dict(kind, experiment=experiment, x=steps)
            reward, best, loss = (values(sweeps, metric=metric, **of)
                                  for metric in ("reward", "best fixed", "corpus loss"))
            lines.append([experiment, steps, spread(loss, 3), spread(best, 3), spread(reward, 3),
                          spread(np.subtract(reward, best), 3)])
    return table(["experiment", "pretraining steps", "corpus loss, nats a token",
                  "best fixed temperature", "decoder", "gain"], lines)


def onehot(results, sweeps):
    lines = []
    kind = dict(sweep="failure", setting="one-hot")
    for experiment in known(sweeps, "experiment", **kind):
        for beta in ordered(known(sweeps, "x", **kind)):
            of = dict(kind, experiment=experiment, x=beta)
            lines.append([experiment, f"{beta:g}"] + [
                spread(values(sweeps, metric=metric, **of), digits, scale)
                for metric, digits, scale in (("largest probability", 3, 1), ("sure", 0, 100),
                                              ("share", 0, 100))])
    return table(["experiment", "beta", "largest probability, mean", "tokens above 0.99, %",
                  "share of headroom, %"], lines)


def timing(results, sweeps):
    """Seconds of one run of the main job as the README starts it."""
    stages = results["timing"]
    kinds = {"pretraining": 0.0, "fixed temperatures and oracle": 0.0, "eight decoders": 0.0}
    for stage, of in stages.items():
        kinds[list(kinds)[min(stage.count("-"), 2)]] += of["seconds"]
    parts = ", ".join(f"{name} {took:.0f} s" for name, took in kinds.items())
    return f"The main job took {sum(kinds.values()):.0f} s ({parts}): {environments(stages)}."


TABLES = {f.__name__: f for f in (
    source, headline, repeats, wins, paper_wins, temperature_means, constrained, asked_places,
    votes, losses, math_losses, selects, sweep_source, pairs, gradient, change, unfrozen, unseen,
    keyword, pretraining, onehot, timing)}


# --- pages and files ------------------------------------------------------------------------------


def filled(page, results, sweeps, rivals, real, second):
    """A page's text with every marked table made anew; KeyError on a mark without a table."""
    def made(name):
        if name in real_tables.SECOND:
            return real_tables.SECOND[name](second)
        if name in real_tables.TABLES:
            return real_tables.TABLES[name](real)
        if name in rival_tables.TABLES:
            return rival_tables.TABLES[name](results, rivals)
        return TABLES[name](results, sweeps)
    return MARK.sub(lambda m: f"{m[1]}{made(m[2])}\n{m[3]}", page)


def kept(results):
    """The rows that figures and tables ask for, in the same format: single decoders of the first
    variant, of other variants the pooled rewards."""
    first_variant = results["config"]["variants"][0]

    def asked_for(row):
        if row["round"] is not None:
            return row["round"] == 0 and row["side"] is not None and row["variant"] == first_variant
        if row["policy"] != "adaptive":
            return True
        if row["variant"] != first_variant:
            metric = row["metric"].removesuffix("_low").removesuffix("_high")
            return row["base_seed"] is None and metric in ("reward", "headroom_share")
        if row["base_seed"] is None:
            return True
        return row["select"] == "sample" and row["metric"] in (
            "mean_temperature", "temperature_share", "non_greedy")
    samples = {}
    for sample in results["samples"]:
        if sample["variant"] == first_variant:
            samples.setdefault((sample["subtask"], sample["level"]), sample)
    return dict(results, samples=list(samples.values()),
                rows=[row for row in results["rows"] if asked_for(row)])


def kept_sweeps(sweeps):
    """Every row but most single updates."""
    return dict(sweeps, rows=[row for row in sweeps["rows"]
                              if row.get("step") is None or row["step"] % 5 == 4])


def keep(folder, timing):
    """Take over a folder's results, and the seconds of a run on a quiet machine."""
    for name, reduce in (("results.json", kept), ("sweeps.json", kept_sweeps),
                         ("rivals.json", rival_tables.kept), ("real.json", dict),
                         ("real_second.json", dict)):
        if not (folder / name).exists():
            continue
        found = reduce(rows.load(folder / name))
        if name == "results.json":
            old = DATA / name
            found["timing"] = (rows.load(timing)["stages"] if timing else
                               rows.load(old).get("timing") if old.exists() else found["stages"])
        write(DATA / name, rows.to_json(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into the pages and results/figures")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="results to take over first")
    parser.add_argument("--timing", type=Path, help="results.json of a run on a quiet machine")
    arguments = parser.parse_args()
    if arguments.keep:
        keep(arguments.keep, arguments.timing)
    results, sweeps, rivals, real, second = (rows.load(DATA / name) for name in FILES)
    if not (arguments.write or arguments.keep):
        for tables, data in ((TABLES, sweeps), (rival_tables.TABLES, rivals)):
            for name, make in tables.items():
                print(f"{name}\n{make(results, data)}\n")
        for tables, data in ((real_tables.TABLES, real), (real_tables.SECOND, second)):
            for name, make in tables.items():
                print(f"{name}\n{make(data)}\n")
        return
    for path in (*draw(results, FIGURES), *draw(sweeps, FIGURES, sweep_plots.FIGURES),
                 *draw(rivals, FIGURES, rival_plots.FIGURES),
                 *draw(real, FIGURES, real_tables.FIGURES)):
        print(path)
    for page in PAGES:
        write(page, filled(page.read_text(encoding="utf-8"), results, sweeps, rivals, real, second))


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
