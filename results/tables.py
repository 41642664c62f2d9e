"""Every table of the results page and its appendix, from results/data alone:

    python -m results.tables             fill the tables of the pages and write APPENDIX.md

A page has tables between a line `<!-- name -->` and a line `<!-- end -->`; here `name` is one of
TABLES. `a [b, c]` is a mean and its 95 % interval (intervals.py).
"""
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from lpo import require
from results.intervals import coverage_table, estimate, holm
from results.methods import (FINER, FINER_WITH, FINER_WITHOUT, LEVEL, OBJECTIVES, RULES, SEES, SETS,
                             WITH_MEMORY, WITHOUT_MEMORY)
from results.plan import LPO, MAIN, MEMORY, MODES, PICKED
from toy import files

HERE = Path(__file__).resolve().parent
PAGES = HERE.parent / "README.md", HERE / "README.md"
ORDER = ("repeats", "mix", "constrained", "vote")
FIXED, ORACLE = "best fixed temperature", "oracle, temperatures"
WITHOUT, WITH = "best rule without memory", "best rule with memory"
COARSE_WITHOUT, COARSE_WITH = "rules without memory", "rules with memory"  # as in the part modes
FAMILIES = {WITHOUT: WITHOUT_MEMORY | FINER_WITHOUT, WITH: WITH_MEMORY | FINER_WITH,
            COARSE_WITHOUT: WITHOUT_MEMORY, COARSE_WITH: WITH_MEMORY}
SUBTASK, KINDS = "rule per subtask", "oracle by kind of prompt"


class Data:
    """What the study measured. A method's values are (base models, prompts), decoders averaged."""

    def __init__(self, folder=HERE / "data"):
        require((Path(folder) / "study.csv.gz").exists(), f"{folder} has no study.csv.gz; "
                "python -m results.study --publish makes it")
        self.about = json.loads((Path(folder) / "study.json").read_text(encoding="utf-8"))
        text = dict(option=str, choice=str)  # else pandas makes numbers of some temperatures
        self.numbers = pd.read_csv(Path(folder) / "study_numbers.csv.gz", dtype=text,
                                   low_memory=False)
        self.numbers["option"] = self.numbers["option"].fillna("")
        rewards = pd.read_csv(Path(folder) / "study.csv.gz", dtype=text, keep_default_na=False)
        self.arrays = {}  # part, mode, experiment, level, method, option -> (D,P)
        self.strata = {}  # experiment -> the subtask of each prompt
        keys = ["part", "mode", "experiment", "level", "method", "option"]
        for key, rows in rewards.groupby(keys, sort=False):
            table = rows.pivot_table(index="base_seed", columns="prompt", values="reward")
            require(table.notna().all(axis=None), f"{key} lacks prompts on some base models")
            self.arrays[key] = table.to_numpy()
            self.strata[key[2]] = rows.groupby("prompt")["subtask"].first().to_numpy()
        self.experiments = [e for e in ORDER if e in self.strata]

    def measured(self, part):
        return any(key[0] == part for key in self.arrays)

    def values(self, experiment, method, option="", level=None, part="main", mode=0.4):
        """-> (D,P); KeyError if that was not measured.

        Some methods are derived: on each base model the fixed temperature that is best on these
        very prompts, and of FAMILIES of rules, each tuned on validation prompts, the one of highest
        mean on these prompts. This favours them.
        """
        key = part, mode, experiment, level or LEVEL[experiment]
        if method == FIXED:
            every = [x for name, x in self.arrays.items()
                     if name[:5] == (*key, "fixed temperature")]
            if not every:
                raise KeyError(key)
            best = np.mean(every, 2).argmax(0)  # (D,)
            return np.array(every)[best, np.arange(len(best))]
        if method in FAMILIES and part == "main":
            method = self.best_rule(experiment, method)
        return self.arrays[(*key, method, option)]

    def best_rule(self, experiment, kind):
        families = [name for name in FAMILIES[kind] if self.has(experiment, name)]
        return max(families, key=lambda name: self.values(experiment, name).mean())

    def estimate(self, experiment, method, minus=None, share=False, **where):
        """Mean of a method, or of its paired difference; share: in % of the headroom.  -> Estimate

        The headroom reaches from the best fixed temperature to the oracle by role. The error of a
        ratio x / y is that of (x - ratio * y) / mean(y).
        """
        values = self.values(experiment, method, **where)
        if minus is not None:
            values = values - self.values(experiment, minus)
        if share:
            best = self.values(experiment, FIXED)
            room = self.values(experiment, ORACLE) - best
            gain = values - best
            ratio = gain.mean() / room.mean()
            values = 100 * ((gain - ratio * room) / room.mean() + ratio)
        return estimate(values, self.strata[experiment])

    def rows(self, **wanted):
        """The numbers whose columns have these values."""
        rows = self.numbers
        for column, value in wanted.items():
            rows = rows[rows[column] == value]
        return rows

    def number(self, experiment, method, metric, **where):
        """A number of each cell: mean over decoders, then over base models.  -> Estimate"""
        where = dict(part="main", option="", level=LEVEL[experiment]) | where
        rows = self.rows(experiment=experiment, method=method, metric=metric, **where)
        rows = rows[rows["subtask"].isna()]
        if rows.empty:
            raise KeyError(f"no {metric} of {method} on {experiment}")
        return estimate(rows.groupby("base_seed")["value"].mean().to_numpy()[:, None])

    def choices(self, **wanted):
        """How often each choice was taken in each role, at the experiment's own level."""
        rows = self.rows(metric="choice_share", option="", **wanted)
        return rows[rows["role"].notna() & (rows["level"] == rows["experiment"].map(LEVEL))]

    def has(self, experiment, method):
        return (method in (FIXED, *FAMILIES)
                or ("main", 0.4, experiment, LEVEL[experiment], method, "") in self.arrays)


def differences(data, pairs):
    """{(experiment, method, minus): (Estimate, p adjusted by Holm's method)}"""
    found = [data.estimate(*pair) for pair in pairs]
    return dict(zip(pairs, zip(found, holm([x.p for x in found]))))


def tried(data, experiment, **where):
    """An estimate as text, shares in whole per cent; "-" where it was not measured."""
    f = data.number if "metric" in where else data.estimate
    try:
        return format(f(experiment, **where), ".0f" if where.get("share") else ".3f")
    except KeyError:
        return "-"


def markdown(rows):
    return pd.DataFrame(rows).fillna("-").to_markdown(index=False, disable_numparse=True)


def by_experiment(experiments, names, cell):
    """A row per name, a column per experiment; rows without anything are left out."""
    rows = [{"": name} | {e: cell(e, name) for e in experiments} for name in names]
    return markdown([row for row in rows if set(row.values()) - {"-", row[""]}])


# --- tables of estimates: a caption, and the arguments of Data.estimate or number for each row ----


def each(names, **where):
    return {name: dict(method=name) | where for name in names}


EVERY_FIXED = [("fixed temperature", str(tau)) for tau in SETS["temperatures"]]
ROWS = {
    "headline": ("Mean test reward.", each([FIXED, WITHOUT, WITH, LPO, MEMORY, ORACLE])),
    "sets": ("Mean test reward of LPO and of the oracle over each set of choices.", each([
        f"{who}, {name}" for who in ("LPO", "oracle") for name in (*SETS, "picked with memory")])),
    "levels": ("Mean test reward by level.", {f"{name}, {level} level": dict(
        method=name, level=level) for name in (LPO, MEMORY) for level in ("token", "sequence")}
        | {f"sequence level, {title} state": dict(method=f"sequence level, {sees} state",
                                                  level="sequence")
           for title, sees in (("mean", "mean"), ("last", "hidden"))}
        | each([KINDS], level="sequence")),
    "rules": ("Test reward of every rule, tuned on each base model's validation prompts.",
              each([*RULES, *FINER, SUBTASK])),
    "objectives": ("Share of the headroom, in %.", each([LPO, *OBJECTIVES], share=True)),
    "controls": ("Share of the headroom, in %, of decoders that see less than the hidden state.",
                 each([*(f"sees {name}" for name in SEES), LPO], share=True)),
    "modes": ("Test reward by the probability of a slot's mode, on few base models.", {
        f"{name}, mode {mode:g}": dict(method=name, part="modes", mode=mode)
        for name in (FIXED, COARSE_WITHOUT, COARSE_WITH, LPO, MEMORY, ORACLE,
                     "oracle, memory") for mode in MODES}),
    "arg_max": ("Test reward at each decoder's most likely choice instead of a sampled one.",
                each([LPO, MEMORY, PICKED, "separate", "nll"], metric="reward", option="arg-max")),
    "win_rates": ("Win rate of LPO over temperatures against fixed ones; ties count half.", {
        f"against {tau:g}": dict(method=LPO, metric="win rate", choice=str(tau))
        for tau in SETS["temperatures"]}),
    "votes": ("Share of right answers of a majority of 8.", {
        f"{name} {option}".strip(): dict(method=name, option=option, votes=8,
                                         metric="vote_accuracy")
        for name, option in ((LPO, ""), (MEMORY, ""), (PICKED, ""), (ORACLE, "by majority"),
                             *EVERY_FIXED)}),
    "metrics": ("Repeated 3-grams, constraint, quality.", {
        f"{metric}, {name} {option}".strip(): dict(method=name, option=option, metric=metric)
        for metric in ("repeats", "constraint", "quality")
        for name, option in ((LPO, ""), *EVERY_FIXED)})}

# --- other tables: functions of the data, whose docstrings are their captions ---------------------


def source(data):
    """Where the numbers come from."""
    study, parts = data.about["study"], {}
    for part, of in data.about["environments"].items():
        where = (f"commit {of['commit']}, torch {of['torch']}, Python {of['python']}, "
                 f"{of['machine']}, one thread per process")
        bases = study["bases" if part in MAIN else "few"]
        parts.setdefault((where, bases), []).append(part)
    prompts = f"{study['test_prompts']} test prompts per experiment"
    return "\n".join(f"{', '.join(names)}: {bases} base models, {prompts}; {where}."
                     for (where, bases), names in parts.items())


def first_screen(data):
    """Mean test reward, without intervals."""
    return markdown([{"experiment": e} | {name: f"{data.values(e, name).mean():.2f}"
                                          for name in (FIXED, LPO, MEMORY)}
                     for e in data.experiments])


def gains(data):
    """Paired differences in test reward; p adjusted by Holm's method over the whole table."""
    found = differences(data, [
        (e, method, minus) for e in data.experiments for method in (LPO, MEMORY, PICKED)
        for minus in (FIXED, WITHOUT, WITH, SUBTASK) if data.has(e, minus)])
    rules = {(e, kind): f"{kind} ({data.best_rule(e, kind)})" for e in data.experiments
             for kind in (WITHOUT, WITH)}
    return markdown([dict(experiment=e, method=method, minus=rules.get((e, minus), minus),
                          difference=f"{x:.3f}", p=f"{p:.2g}")
                     for (e, method, minus), (x, p) in found.items()])


def objective_gaps(data):
    """LPO's latent loss minus each objective; p adjusted by Holm's method over the whole table."""
    found = differences(data, [(e, LPO, name) for name in OBJECTIVES for e in data.experiments
                               if data.has(e, name)])
    texts = {pair: f"{x:.3f}, p {p:.2g}" for pair, (x, p) in found.items()}
    return by_experiment(data.experiments, OBJECTIVES,
                         lambda e, name: texts.get((e, LPO, name), "-"))


def tuned_rules(data):
    """The settings that were picked most often, how many were tried, how many winners were at an
    open end of their grid."""
    rows = data.rows(part="main")
    rows = rows[rows["method"].isin(RULES | FINER)]
    found = []
    for (method, e), of in rows.groupby(["method", "experiment"], sort=False):
        picked = of[of["metric"] == "validation"]["choice"].value_counts()[:3]
        found.append({"rule": method, "experiment": e,
                      "tried": int(of[of["metric"] == "tries"]["value"].max()),
                      "at an open end": int(of[of["metric"] == "at_edge"]["value"].sum()),
                      "most often": ", ".join(f"`{name}` {n}" for name, n in picked.items())})
    return markdown(found)


def recipes(data):
    """What validation prompts decided: rate, and beta or updates per round, after so many tries."""
    rows = data.rows(option="recipe")
    table = rows.pivot_table(index=["method", "experiment"], columns="metric", values="value")
    return markdown(table.map("{:.3g}".format).replace("nan", "-").reset_index())


def choices(data):
    """% of words at each choice, by role, mean over decoders; those of 5 % or more."""
    roles = data.choices().groupby(["method", "subtask", "role"], sort=False)
    found = []
    for (method, subtask, role), of in roles:
        shares = 100 * of.groupby("choice")["value"].mean().sort_values(ascending=False)
        found.append(dict(method=method, subtask=subtask, role=role, choices=", ".join(
            f"`{name}` {x:.0f}" for name, x in shares.items() if x >= 5)))
    return markdown(found)


def sweeps(data):
    """Test reward with one option changed, on few base models."""
    found = {}
    for part, _, e, level, method, option in data.arrays:
        if part in ("sweeps", "betas"):
            found.setdefault((method, option), {})[e] = tried(
                data, e, method=method, option=option, part=part, level=level)
    return markdown([dict(method=method, option=option) | cells
                     for (method, option), cells in found.items()])


def coverage(data):
    """How often 95 % intervals have a known mean in them, and a known difference, in %, with ten
    base models and 240 prompts."""
    return coverage_table(50 if data.about["study"]["brief"] else 2000)


OTHERS = {f.__name__: f for f in (source, first_screen, gains, objective_gaps, tuned_rules, recipes,
                                  choices, sweeps, coverage)}
TABLES = {"source": source.__doc__} | {name: caption for name, (caption, _) in ROWS.items()}
TABLES |= {name: f.__doc__ for name, f in OTHERS.items()}  # name: caption


def made(name, data):
    """A table as Markdown."""
    if name in OTHERS:
        return OTHERS[name](data)
    _, rows = ROWS[name]
    return by_experiment(data.experiments, rows, lambda e, row: tried(data, e, **rows[row]))


def filled(text, tables):
    """A page with these tables, {name: Markdown}, between their marks; others stay."""
    for name, table in tables.items():
        marked = f"<!-- {name} -->\n{table}\n<!-- end -->"
        text = re.sub(f"<!-- {name} -->.*?<!-- end -->", lambda _: marked, text, flags=re.S)
    return text


def write(folder, pages, into):
    """Fill the tables of the pages, and write all of them as an appendix."""
    data = Data(folder)
    tables = {name: made(name, data) for name in TABLES}
    for page in pages:
        files.write(page, filled(page.read_text(encoding="utf-8"), tables))
    parts = ["# Every table of the study\n\nMade by `python -m results.tables`; [the results]("
             "README.md) say what they mean."]
    for name, caption in TABLES.items():
        title, table = name.replace("_", " ").capitalize(), tables[name]
        if name == "source" or table.count("\n") > 2:  # more than one row to compare
            parts.append(f"## {title}\n\n{' '.join(caption.split())}\n\n<!-- {name} -->\n{table}\n"
                         "<!-- end -->")
    files.write(Path(into) / "APPENDIX.md", "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    with files.program():
        write(HERE / "data", PAGES, HERE)
