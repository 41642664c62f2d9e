"""The tables of README.md and RESULTS.md, from saved results alone: no number is typed by hand.

    python report.py            print every table
    python report.py --write    put tables and figures in their places, and keep what they need

Results are read from out/results.json and out/ablations.json, the paper's numbers from this page.
"""
import argparse
import re
import sys
from pathlib import Path

import numpy as np

import plots
import sweep_plots
from plots import adaptive, draw, pooled, where
from stages import write

HERE = Path(__file__).parent
KEPT = ("mean_temperature", "repeats", "non_greedy")  # of single decoders; pooled rows are all kept
MARK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
LEVELS = ("sequence", "token")
NAMES = {"latent": "latent", "separate": "separate", "nll": "NLL"}


def table(header, rows):
    """Markdown; every cell as text."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def ci(results, metric, digits=3, scale=1, **wanted):
    """A pooled mean with its 95 % interval, or a dash."""
    found = [[row["value"] * scale for row in pooled(results, metric=metric + end, **wanted)]
             for end in ("", "_low", "_high")]
    if not found[0]:
        return "-"
    assert len(found[0]) == 1, (metric, wanted, len(found[0]))
    value, low, high = (f"{x[0]:.{digits}f}" for x in found)
    return f"{value} [{low}, {high}]"


def spread(values, digits=2, scale=1):
    """Mean and standard deviation (of the population) over runs."""
    values = scale * np.array(values)
    return f"{values.mean():.{digits}f} ± {values.std():.{digits}f}"


def values(rows):
    return [row["value"] for row in rows]


# --- the main job: results.json ------------------------------------------------------------------


def source(results, sweeps):
    c, e = results["config"], results["environment"]
    return (f"{c['base_seeds']} base models x {c['seeds']} decoder seeds, {c['test_prompts']} test "
            f"prompts an experiment; the mean and its 95 % interval over all three; temperatures "
            f"sampled; torch {e['torch']}, {e['device']}, {e['machine']}.")


def headline(results, sweeps):
    """Best fixed temperature, both levels and the oracle, per experiment."""
    rows = []
    for experiment in results["config"]["experiments"]:
        kinds = [("reward", dict(votes=None, metric="reward"))]
        if experiment == "vote":
            kinds = [("one response", kinds[0][1]),
                     ("majority of 8", dict(votes=8, metric="vote_accuracy"))]
        for name, kind in kinds:
            def cell(metric, level, digits=3, scale=1):
                return ci(results, metric, digits, scale, experiment=experiment, level=level,
                          subtask=None, votes=kind["votes"], temperature=None)
            rows.append([f"{experiment}, {name}", cell("best_fixed", "token"),
                         cell(kind["metric"], "sequence"), cell(kind["metric"], "token"),
                         cell("oracle", "token"), cell("gain", "token"),
                         cell("headroom_share", "sequence", 0, 100),
                         cell("headroom_share", "token", 0, 100)])
    return table(["experiment", "best fixed temperature", "sequence level", "token level",
                  "oracle per role", "gain, token level", "share of headroom, %: sequence",
                  "token"], rows)


def repeats(results, sweeps):
    greedy = np.mean(values(where(results, policy="fixed", metric="repeats", temperature=0.0,
                                  subtask=None)))
    here = dict(experiment="repeats", subtask=None, level="token", temperature=None)
    drawn = values(adaptive(results, metric="non_greedy", subtask="repeats", level="token"))
    return table(["", "repeated 3-grams, greedy", "token level", "fewer, %",
                  "responses with a temperature above 0, %"],
                 [["paper, Wikitext-2", "0.36 %", "0.22 %", "42", "94"],
                  ["here", f"{100 * greedy:.1f} %", ci(results, "repeats", 1, 100, **here),
                   ci(results, "fewer_repeats", 1, 100, **here), f"{100 * np.mean(drawn):.0f}"]])


def win_table(results, metrics, rows_of):
    """One row a fixed temperature."""
    rows = []
    for tau in results["config"]["temperatures"]:
        rows.append([f"{tau:g}"] + [ci(results, metric, 1, 100, temperature=tau, **wanted)
                                    for metric, wanted in zip(metrics, rows_of)])
    return rows


def wins(results, sweeps):
    kinds = [dict(experiment="mix", subtask=subtask, level=level) for level in LEVELS
             for subtask in (None, "general", "story", "math")]
    header = ["fixed"] + [f"{level[:3]}: {subtask}" for level in LEVELS
                          for subtask in ("all", "general", "story", "math")]
    return table(header, win_table(results, ["win_rate"] * 8, kinds))


def paper_wins(results, sweeps):
    return table(["fixed", "seq: UltraFeedback", "seq: Stories", "seq: GSM8K",
                  "tok: UltraFeedback", "tok: Stories", "tok: GSM8K"],
                 [[tau, *row] for tau, row in PAPER_WINS.items()])


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


def means(results, sweeps):
    """Mean temperature of each subtask, and of the roles that the token level tells apart."""
    rows = []
    for subtask in ("math", "general", "story", "repeats", "constrained", "vote"):
        found = adaptive(results, metric="mean_temperature", subtask=subtask)
        cells = [subtask]
        for level in LEVELS:
            of = [row for row in found if row["level"] == level and row["position"] is None]
            roles = [role for role in dict.fromkeys(row["role"] for row in of)
                     if role not in (None, "all")] if level == "token" else []
            cells.append("; ".join(
                (f"{role} " if role else "") + spread([r["value"] for r in of if r["role"] == role])
                for role in roles or [None]))
        rows.append(cells)
    return table(["subtask", "sequence level", "token level"], rows)


def constrained(results, sweeps):
    here = dict(experiment="constrained", subtask=None, level="token")
    ours = win_table(results, ["constraint_win_rate", "quality_win_rate", "win_rate"], [here] * 3)
    return table(["fixed", "constraint", "quality", "reward, their product",
                  "paper: constraint", "quality", "mean"],
                 [row + list(PAPER_CONSTRAINED.get(f"{float(row[0]):.1f}", "---")) for row in ours])


def places(results, sweeps):
    rows = [["paper, mean temperature", "0.21", "0.55"]]
    means = [spread(values([row for row in adaptive(results, metric="mean_temperature", role=role,
                                                    subtask="constrained", level="token")]))
             for role in ("start", "rest")]
    return table(["", "first token", "elsewhere"], rows + [["here", *means]])


def votes(results, sweeps):
    counts = sorted({row["votes"] for row in pooled(results, metric="vote_accuracy")})
    rows = []
    for name, metric, wanted in [
            ("best fixed temperature of this count", "best_fixed", dict(level="token")),
            ("sequence level", "vote_accuracy", dict(level="sequence")),
            ("token level", "vote_accuracy", dict(level="token")),
            ("oracle per role, searched at 8 votes", "oracle", dict(level="token")),
            ("token level - best fixed", "gain", dict(level="token"))]:
        rows.append([name] + [ci(results, metric, 1, 100, votes=n, subtask=None, **wanted)
                              for n in counts])
    return table(["votes", *counts], rows)


def losses(results, sweeps):
    """Share of the headroom and reward by variant, temperatures sampled and by arg-max."""
    rows = []
    for experiment, level in (("repeats", "token"), ("mix", "sequence"), ("mix", "token"),
                              ("constrained", "token"), ("vote", "token")):
        for select in ("sample", "greedy"):
            rows.append([f"{experiment}, {level}", select] + [
                ci(results, "headroom_share", 0, 100, experiment=experiment, level=level,
                   select=select, subtask=None, votes=None, variant=variant)
                for variant in results["config"]["variants"]])
    return table(["experiment, level", "temperature"] + [
        NAMES[v] for v in results["config"]["variants"]], rows)


def math_losses(results, sweeps):
    """The paper's table 4 is of GSM8K at the sequence level: here the arithmetic of the mix."""
    here = dict(experiment="mix", subtask="math", level="sequence", votes=None, temperature=None)
    return table(["", *(NAMES[v] for v in results["config"]["variants"]),
                  "best fixed temperature"],
                 [["here, % right, temperature sampled"] + [
                     ci(results, "reward", 1, 100, variant=v, **here)
                     for v in results["config"]["variants"]]
                  + [ci(results, "best_fixed", 1, 100, **here)],
                  ["here, by arg-max"] + [
                      ci(results, "reward", 1, 100, variant=v, select="greedy", **here)
                      for v in results["config"]["variants"]] + [""],
                  ["paper, GSM8K", "81.59", "81.59", "lower", "81.59 (greedy)"]])


def greedy(results, sweeps):
    """Paper's table 5: the temperature by arg-max or sampled, sequence level."""
    kinds = [dict(experiment="mix", subtask=s, level="sequence", select=select)
             for s in (None, "general") for select in ("greedy", "sample")]
    rows = win_table(results, ["win_rate"] * 4, kinds)
    paper = dict(zip("0.0 0.2 0.4 0.6 0.8 1.0".split(),
                     zip("53.10 53.35 50.80 52.15 52.78 54.89".split(),
                         "52.80 53.15 51.75 52.50 53.65 53.95".split())))
    return table(["fixed", "all, arg-max", "all, sampled", "general, arg-max", "general, sampled",
                  "paper, UltraFeedback: arg-max", "sampled"],
                 [row + list(paper.get(f"{float(row[0]):.1f}", "--")) for row in rows])


# --- the sweeps: ablations.json ------------------------------------------------------------------


def runs(sweeps, **wanted):
    """Values of the rows that match; a missing key counts as None."""
    return [row["value"] for row in sweeps["rows"]
            if all(row.get(k) == v for k, v in wanted.items())]


def known(sweeps, sweep, key, **wanted):
    """The values of a key in a sweep, in the order that numbers have, or else the alphabet."""
    found = {row.get(key) for row in sweeps["rows"] if row["sweep"] == sweep
             and all(row.get(k) == v for k, v in wanted.items())} - {None}
    return sorted(found, key=lambda x: (isinstance(x, str), x))


def pairs(results, sweeps):
    counts, rows = known(sweeps, "pairs", "x"), []
    for experiment in known(sweeps, "pairs", "experiment"):
        for variant in ("latent", "separate", "nll"):
            for metric, name in (("share", "sampled"), ("share of the arg-max", "arg-max")):
                rows.append([experiment, NAMES[variant], name] + [
                    spread(runs(sweeps, sweep="pairs", experiment=experiment, variant=variant, x=n,
                                metric=metric), 0, 100) for n in counts])
    return table(["experiment", "loss", "temperature", *(f"{n} pairs" for n in counts)], rows)


def gradient(results, sweeps):
    rows = []
    for experiment in ("repeats", "constrained", "vote", "mix"):
        for form in known(sweeps, "gradient", "variant", experiment=experiment):
            def cell(metric, digits):
                return spread(runs(sweeps, sweep="gradient", experiment=experiment, variant=form,
                                   metric=metric), digits)
            snr = np.mean(runs(sweeps, sweep="gradient", experiment=experiment, variant=form,
                               metric="signal to noise"))
            rows.append([experiment, NAMES.get(form, form), cell("signal", 3), cell("noise", 2),
                         cell("signal to noise", 3), f"{1 / snr ** 2:.0f}",
                         cell("cosine with separate", 2)])
    return table(["experiment", "loss", "signal", "noise of one pair", "signal to noise",
                  "pairs for 1 : 1", "cosine of the mean with separate's"], rows)


def change(results, sweeps):
    """Share of the headroom with one option changed, experiments 1 to 3."""
    rows = []
    for option in ("beta", "lr", "responses", "rounds", "pairing", "reference",
                   "decoder_reference"):
        for x in known(sweeps, "change", "x", setting=option):
            cells = []
            for variant in ("latent", "separate"):
                for experiment in ("repeats", "mix", "constrained"):
                    found = runs(sweeps, sweep="change", setting=option, x=x, variant=variant,
                                 experiment=experiment, metric="share")
                    cells.append(spread(found, 0, 100) if found else "-")
            rows.append([option, x, *cells])
    return table(["option", "value", *(f"{NAMES[v]}: {e}" for v in ("latent", "separate")
                                       for e in ("repeats", "mix", "constrained"))], rows)


def unfrozen(results, sweeps):
    """Reward after three rounds; how far both sides' log-probabilities moved in round one."""
    rows = []
    experiments = known(sweeps, "unfrozen", "experiment")
    for setting in ("joint", "latent", "joint, no temperature 0", "joint, temperature 1 only",
                    "joint, beta 2", "joint, KL 1", "joint, anchor 1"):
        for lr in known(sweeps, "unfrozen", "x", setting=setting):
            here = dict(sweep="unfrozen", setting=setting, x=lr)
            cells = []
            for experiment in experiments:
                mine = dict(here, experiment=experiment)
                moved = [np.mean(runs(sweeps, metric=f"{side} log-ratio", round=0, step=19, **mine)
                                 or [np.nan]) for side in ("chosen", "rejected")]
                lost = [np.mean(runs(sweeps, metric=f"{side} impossible", round=0, step=19, **mine)
                                or [np.nan]) for side in ("chosen", "rejected")]
                reward, first = (runs(sweeps, metric=metric, **dict(mine, **more))
                                 for metric, more in (("reward", {}),
                                                      ("round reward", dict(round=1))))
                cells += [spread(first, 2) if first else "-", spread(reward, 2) if reward else "-",
                          f"{moved[0]:+.2f}, {moved[1]:+.2f}",
                          f"{100 * lost[0]:.1f}, {100 * lost[1]:.1f}"]
                corpus = runs(sweeps, metric="corpus loss", **mine)
                cells.append(f"{np.mean(corpus):.2f}" if corpus else "-")
            rows.append([setting, f"{lr:g}", *cells])
    return table(["loss", "model lr", *(f"{e}: {name}" for e in experiments for name in (
        "reward after round 1", "at the end", "log-ratio chosen, rejected",
        "impossible tokens, %", "corpus loss"))], rows)


def unseen(results, sweeps):
    rows = []
    for experiment in known(sweeps, "failure", "experiment", setting="unseen categories"):
        for group in ("seen", "unseen"):
            here = dict(sweep="failure", setting="unseen categories", experiment=experiment,
                        group=group)
            rows.append([experiment, "in training" if group == "seen" else "left out"] + [
                spread(runs(sweeps, variant=variant, metric=metric, **here), 3)
                for metric, variant in (("reward", "trained on half"), ("reward", "trained on all"),
                                        ("best fixed", "trained on all"))])
    return table(["experiment", "categories", "decoder trained on half", "on all",
                  "best fixed temperature"], rows)


def keyword(results, sweeps):
    rows = []
    for group in ("math", "general", "story"):
        for variant in ("keyword", "no keyword"):
            here = dict(sweep="failure", setting="no keyword", group=group, variant=variant)
            rows.append([group, variant] + [
                spread(runs(sweeps, level=level, metric="reward", **here), 3) for level in LEVELS]
                + [spread(runs(sweeps, metric="best fixed", **here), 3)])
    return table(["subtask", "prompt", *(f"{level} level" for level in LEVELS),
                  "best fixed temperature of the subtask"], rows)


def pretraining(results, sweeps):
    rows = []
    for experiment in known(sweeps, "failure", "experiment", setting="pretraining"):
        for steps in known(sweeps, "failure", "x", setting="pretraining"):
            here = dict(sweep="failure", setting="pretraining", experiment=experiment, x=steps)
            reward, best, loss = (runs(sweeps, metric=metric, **here)
                                  for metric in ("reward", "best fixed", "corpus loss"))
            rows.append([experiment, steps, spread(loss, 3), spread(best, 3), spread(reward, 3),
                         spread(np.subtract(reward, best), 3)])
    return table(["experiment", "pretraining steps", "corpus loss, nats a token",
                  "best fixed temperature", "decoder", "gain"], rows)


def onehot(results, sweeps):
    rows = []
    for experiment in known(sweeps, "failure", "experiment", setting="one-hot"):
        for beta in known(sweeps, "failure", "x", setting="one-hot"):
            here = dict(sweep="failure", setting="one-hot", experiment=experiment, x=beta)
            rows.append([experiment, f"{beta:g}"] + [
                spread(runs(sweeps, metric=metric, **here), digits, scale)
                for metric, digits, scale in (("largest probability", 3, 1), ("sure", 0, 100),
                                              ("share", 0, 100))])
    return table(["experiment", "beta", "largest probability, mean", "tokens above 0.99, %",
                  "share of headroom, %"], rows)


def timing(results, sweeps):
    """Seconds of one run of the main job as the README starts it."""
    seconds, e = results["timing"]["seconds"], results["timing"]["environment"]
    kinds = {"pretraining": 0.0, "fixed temperatures and oracle": 0.0, "eight decoders": 0.0}
    for stage, took in seconds.items():
        kinds[list(kinds)[min(stage.count("-"), 2)]] += took
    parts = ", ".join(f"{name} {took:.0f} s" for name, took in kinds.items())
    return (f"The main job took {sum(kinds.values()):.0f} s ({parts}) on {e['device']}, "
            f"{e['threads']} threads, {e['machine']}, torch {e['torch']}.")


TABLES = {f.__name__: f for f in (
    source, headline, repeats, wins, paper_wins, means, constrained, places, votes, losses,
    math_losses, greedy, pairs, gradient, change, unfrozen, unseen, keyword, pretraining, onehot,
    timing)}


def filled(page, results, sweeps):
    """A page's text with every marked table made anew; KeyError on a mark without a table."""
    return MARK.sub(lambda m: f"{m[1]}{TABLES[m[2]](results, sweeps)}\n{m[3]}", page)


def packed(rows):
    """Rows as columns' names and lists of values: a quarter of the size."""
    columns = sorted({name for row in rows for name in row})
    short = [[round(x, 6) if isinstance(x, float) else x for x in map(row.get, columns)]
             for row in rows]
    return dict(columns=columns, rows=short)


def load(path):
    """Results or sweeps, packed or as they were written."""
    saved = plots.load(path)
    if "columns" in saved:
        saved["rows"] = [dict(zip(saved["columns"], row)) for row in saved["rows"]]
    return saved


def kept(results):
    """What tables need: pooled rows, and few of the single runs."""
    rows = [row for row in results["rows"] if row["position"] is None and row["round"] is None
            and (row["metric"] in KEPT if row["base_seed"] is not None
                 else row["select"] == "sample" or row["votes"] is None)]
    return dict(results, samples=[], seconds={}) | packed(rows)


def kept_sweeps(sweeps):
    """Every row but most single updates."""
    return sweeps | packed([row for row in sweeps["rows"] if (row.get("step") or 19) % 5 == 4])


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out", type=Path, help="folder of the results")
    parser.add_argument("--timing", type=Path, help="results.json of a run on a quiet machine")
    parser.add_argument("--write", action="store_true", help="into README, RESULTS and figures/")
    arguments = parser.parse_args()
    folder = HERE / "figures"
    results, sweeps = (load(arguments.out / name) for name in ("results.json", "ablations.json"))
    timed = arguments.timing or folder / "results.json"
    timed = load(timed) if timed.exists() else results
    results["timing"] = dict(seconds=timed["seconds"], environment=timed["environment"]
                             ) if arguments.timing else timed.get("timing")
    if not arguments.write:
        for name, make in TABLES.items():
            print(f"{name}\n{make(results, sweeps)}\n")
    else:
        write(folder / "results.json", plots.to_json(kept(results)))
        write(folder / "ablations.json", plots.to_json(kept_sweeps(sweeps)))
        for path in (*draw(results, folder), *draw(sweeps, folder, sweep_plots.FIGURES)):
            print(path)
        for page in (HERE / "README.md", HERE / "RESULTS.md"):
            write(page, filled(page.read_text(), results, sweeps))


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
