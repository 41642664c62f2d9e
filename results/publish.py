"""Data, tables and figures of the study, made from its finished cells:

    python -m results.study --publish

All cells must be finished, and each part of one environment and of one commit without changes.
"""
import gzip
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from lpo import require
from results import plots, tables
from results.methods import CANDIDATES
from results.plan import LPO, MAIN, load, plan_of
from tasks import EXPERIMENTS
from toy import files
from toy.evaluate import row, win_rate
from toy.figures import plot


def records(study, plan):
    """All finished cells of the plan; ValueError if some are missing."""
    missing = [name for name in plan.found if not (Path(study.out) / name).exists()]
    require(not missing, f"{len(missing)} cells are not finished, as {missing[:1]}; run "
                         "python -m results.study first")
    return [load(Path(study.out) / name) for name in plan.found]


def provenance(found, clean=True):
    """{part: environment}; ValueError unless each part has one environment and one clean commit."""
    sources = {}
    for record in found:
        part, environment = record["cell"]["part"], record["environment"]
        first, commit = sources.setdefault(part, environment), environment["commit"]
        require(environment == first, f"part {part!r} has 2 environments or more: {first} and "
                                      f"{environment}; compute all of it in one")
        require(not clean or commit and "dirty" not in commit, f"part {part!r} was computed at "
                f"commit {commit}; commit all changes, then compute it again")
    return sources


def columns_of(cell, option):
    kept = ("experiment", "method", "level", "mode", "base_seed", "seed")
    options = ", ".join(filter(None, (cell["option"], option)))
    part = "main" if cell["part"] in MAIN else cell["part"]
    return dict(part=part) | {name: cell[name] for name in kept} | dict(option=options)


def rewards_of(record):
    """The mean reward of each test prompt's responses, as rows."""
    names = EXPERIMENTS[record["cell"]["experiment"]]
    measured = list(filter(None, [record["cell"]["subtask"]])) or names
    for option, rewards in record["rewards"].items():
        if option != "arg-max":  # whose mean is among the numbers
            size = len(rewards) // len(measured)
            first = names.index(measured[0]) * size
            yield pd.DataFrame(columns_of(record["cell"], option) | dict(
                prompt=range(first, first + len(rewards)), reward=np.mean(rewards, 1),
                subtask=np.repeat(measured, size)))


def numbers_of(found, plan):
    """What is known of each cell beside its rewards, as rows; and what was tuned."""
    fixed = {(r["cell"]["experiment"], r["cell"]["base_seed"]): r["rewards"] for r in found
             if (r["cell"]["part"], r["cell"]["method"]) == ("main", "fixed temperature")}
    for record in found:
        cell = record["cell"]
        numbers = record["numbers"]
        if (cell["part"], cell["method"]) == ("main", LPO):
            ours = np.array(record["rewards"][""])
            numbers += [row("win rate", win_rate(ours, np.array(theirs)).mean(), len(ours),
                            choice=tau, option="")
                        for tau, theirs in fixed[cell["experiment"], cell["base_seed"]].items()]
        yield from (x | columns_of(cell, x["option"]) for x in numbers)
    for (name, experiment), values in plan.tried.items():
        best = plan.recipe(name, experiment) | dict(tries=len(values), best=max(values.values()))
        yield from (dict(part="main", experiment=experiment, method=name, option="recipe",
                         metric=metric, value=x) for metric, x in best.items())


def publish(study, folder, clean=True):
    """Data files; ValueError unless all is complete, and clean."""
    plan = plan_of(study)
    found = records(study, plan)
    sources = provenance(found, clean)
    tests = [record for record in found if record["cell"]["split"] == "test"]
    frames = dict(study=pd.concat([frame for record in tests for frame in rewards_of(record)]),
                  study_numbers=pd.DataFrame(numbers_of(tests, plan)))
    for name, frame in frames.items():
        text = frame.to_csv(index=False, float_format="%.3g" if name == "study" else "%.4g")
        files.write(Path(folder) / f"{name}.csv.gz", gzip.compress(text.encode(), mtime=0))
    about = dict(study=asdict(study), environments=sources, candidates=plan.picked,
                 picked=CANDIDATES[plan.candidate()], seconds=sum(r["seconds"] for r in found))
    files.write(Path(folder) / "study.json", json.dumps(about, indent=1))


def report(study):
    """Data, tables and figures.  -> their paths"""
    require(not study.publish or "dirty" not in str(files.environment()["commit"]),
            "the tree has changes; commit them before you publish")
    into = tables.HERE if study.publish else Path(study.out)
    publish(study, into / "data", clean=study.publish)
    tables.write(into / "data", tables.PAGES if study.publish else (), into)
    return plot(tables.Data(into / "data"), into / "figures", plots.FIGURES)
