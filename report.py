"""The README's tables, from saved results alone, so that no number is typed by hand.

    python report.py out/results.json           print them
    python report.py out/results.json --write   put them and the figures into README.md and figures/
"""
import argparse
import json
from pathlib import Path

import numpy as np

from plots import adaptive, draw, where

HERE = Path(__file__).parent
USED = ("reward", "repeats", "win_rate", "mean_temperature", "vote_accuracy")  # by the tables
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def spread(values, digits=3, scale=1):
    """Mean and standard deviation over seeds."""
    values = scale * np.array(values)
    return f"{values.mean():.{digits}f} ± {values.std():.{digits}f}"


def per_base(rows, pick):
    """The extreme value of each base model's rows: its best fixed temperature, say."""
    bases = sorted({row["base_seed"] for row in rows})
    return [pick(row["value"] for row in rows if row["base_seed"] == base) for base in bases]


def values(rows):
    return [row["value"] for row in rows]


def reward_table(results):
    """Best fixed temperature, both levels and the oracle, per experiment."""
    lines = ["| experiment | best fixed temperature | sequence level | token level "
             "| oracle per role | share of headroom, token level |", "|---|---|---|---|---|---|"]
    for experiment in results["config"]["experiments"]:
        measures = [("reward", dict(metric="reward", subtask=None))]
        if experiment == "vote":
            measures = [("one response", measures[0][1]),
                        ("majority of 8", dict(metric="vote_accuracy", votes=8))]
        for name, what in measures:
            what = dict(what, experiment=experiment)
            best = per_base(where(results, policy="fixed", **what), max)
            oracle = values(where(results, policy="oracle", **what))
            levels = [values(adaptive(results, level=level, **what))
                      for level in ("sequence", "token")]
            share = [(mine - b) / (o - b) for mine, b, o in zip(
                levels[1], np.repeat(best, len(levels[1]) // len(best)),
                np.repeat(oracle, len(levels[1]) // len(oracle)))]
            cells = [spread(best), *(spread(level) if level else "-" for level in levels),
                     spread(oracle), spread(share, 0, 100) + " %" if share else "-"]
            lines.append(f"| {experiment}, {name} | " + " | ".join(cells) + " |")
    return lines


def claims(results):
    """What the paper shows, one line each."""
    lines = []
    repeats = where(results, metric="repeats", policy="fixed", temperature=0.0)
    if repeats:
        ours = values(adaptive(results, metric="repeats", level="token"))
        greedy = np.mean(values(repeats))
        fewer = 100 * (1 - np.mean(ours) / greedy)
        lines.append(f"- **Repeats**: greedy repeats {100 * greedy:.0f} % of its 3-grams, the "
                     f"token level {spread(ours, 0, 100)} %, that is {fewer:.0f} % fewer.")
    wins = adaptive(results, metric="win_rate", experiment="mix", subtask=None, level="sequence")
    if wins:
        rates = {tau: 100 * np.mean([r["value"] for r in wins if r["temperature"] == tau])
                 for tau in results["config"]["temperatures"]}
        hardest = min(rates, key=rates.get)
        lines.append(f"- **Mix**: the sequence level's win rate is {rates[hardest]:.1f} % against "
                     f"its hardest fixed opponent ({hardest:g}), {max(rates.values()):.1f} % "
                     "against its easiest.")
    means = {role: values(adaptive(results, metric="mean_temperature", subtask="constrained",
                                   level="token", role=role)) for role in ("start", "rest")}
    if means["start"]:
        lines.append(f"- **Constrained**: mean temperature {spread(means['start'], 2)} at line "
                     f"starts, {spread(means['rest'], 2)} elsewhere.")
    votes = dict(metric="vote_accuracy", votes=8)
    fixed = per_base(where(results, policy="fixed", **votes), max)
    if fixed:
        token = values(adaptive(results, level="token", **votes))
        sequence = values(adaptive(results, level="sequence", **votes))
        lines.append(f"- **Vote of 8**: {spread(token, 1, 100)} % right at the token level against "
                     f"{spread(fixed, 1, 100)} % at the best fixed temperature; the sequence "
                     "level, which was trained on single responses, has "
                     f"{spread(sequence, 1, 100)} %.")
    return lines


def report(results):
    """Markdown of everything above, with where it comes from."""
    config, environment = results["config"], results["environment"]
    bases = config["base_seeds"]
    seconds = {"pretraining": 0.0, "fixed temperatures and oracle": 0.0, "adaptive decoders": 0.0}
    kinds = {stage.partition("-")[2] for stage in results["seconds"]}
    for kind in kinds:  # the median over base models: something else may have run meanwhile
        took = [t for stage, t in results["seconds"].items() if stage.partition("-")[2] == kind]
        seconds[list(seconds)[min(kind.count("-") + (kind != ""), 2)]] += np.median(took)
    source = (f"{bases} base models x {config['seeds']} decoder seeds, mean ± standard deviation "
              f"over them; {config['variants'][0]} variant, temperatures sampled, "
              f"{config['test_prompts']} test prompts an experiment. ")
    took = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    return "\n".join([
        source, "", *reward_table(results), "", *claims(results), "",
        f"Seconds for one base model, medians ({environment['device']}, "
        f"{environment['threads']} threads, {environment['machine']}, torch "
        f"{environment['torch']}): {took}; together "
        f"{sum(seconds.values()):.0f} s."])


def with_report(readme, results):
    """README text with the part between the markers replaced."""
    head, rest = readme.split(BEGIN)
    return f"{head}{BEGIN}\n{report(results)}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", default="out/results.json", type=Path)
    parser.add_argument("--write", action="store_true", help="into README.md and figures/")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text())
    print(report(results))
    if arguments.write:
        (HERE / "figures").mkdir(exist_ok=True)
        kept = [row for row in results["rows"]
                if row["metric"] in USED and row["position"] is None]
        kept = dict(results, rows=kept, samples=[])
        (HERE / "figures" / "results.json").write_text(json.dumps(kept))
        for path in draw(results, HERE / "figures"):
            print(path)
        readme = HERE / "README.md"
        readme.write_text(with_report(readme.read_text(), results))
