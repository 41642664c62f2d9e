"""The study: every method on every experiment, in parallel, one file per cell.

    python -m results.study --plan                     what is left to do, in core-minutes
    python -m results.study --minutes 8 --pack a.zip   as much as eight minutes allow
    python -m results.study --quick                    all kinds of cells, small: under a minute
    python -m results.study --publish                  data, tables and figures of the pages

Finished cells are skipped, and that is the only resuming; unpack archives of other machines into
the same folder to merge them. When no cell is left, data, tables and figures are made, in the
folder of the cells, or with --publish those of the pages. These must be complete, and each part of
one environment and of one commit without changes.
"""
import contextlib
import functools
import gzip
import io
import json
import os
import sys
import time
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed

from lpo import require
from results import plots, tables
from results.cells import base_file, compute, name_of
from results.methods import CANDIDATES
from results.plan import LPO, QUICK, Plan, Study, seconds_of
from tasks import EXPERIMENTS
from toy import files
from toy.evaluate import row, win_rate
from toy.figures import plot
from toy.options import parse

# --- computing ------------------------------------------------------------------------------------


def environment_of(study):
    """Where and of what commit cells are; ValueError if --commit contradicts this repository's."""
    found = files.environment() | dict(threads=1)
    given = study.commit or os.environ.get("STUDY_COMMIT", "")
    if found["commit"] is None:
        return found | dict(commit=given or None)
    require(not given or found["commit"].startswith(given[:10]),
            f"--commit is {given}, and this repository is at {found['commit']}; leave it out")
    return found


def work(cell, folder, environment):
    """One cell, in a process of its own.  -> its file's name"""
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        kept = dict(cell=cell, environment=environment) | compute(cell, folder)
    if cell["do"] == "base":
        return base_file(cell, folder).name
    files.write(Path(folder) / name_of(cell), gzip.compress(json.dumps(kept).encode(), mtime=0))
    return name_of(cell)


def load(path):
    """A finished cell; ValueError on a damaged file."""
    try:
        return json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run again") from None


@functools.cache
def mean_reward(path):
    return float(np.mean(list(load(path)["rewards"].values())))


def plan_of(study, guess=False):
    def value_of(cell):
        path = Path(study.out) / name_of(cell)
        return mean_reward(path) if path.exists() else None
    return Plan(study, value_of, guess)


def ready(study):
    """What can be computed now: base models that are missing, then what is not finished."""
    folder = Path(study.out)
    left = [cell for name, cell in plan_of(study).found.items() if not (folder / name).exists()]
    bases = {base_file(cell, folder): cell for cell in left}
    missing = [dict(cell, do="base") for path, cell in bases.items() if not path.exists()]
    return missing or left


def run(study):
    """Compute until nothing is left or the time is over.  -> the names of what was finished"""
    environment, finished = environment_of(study), []
    end = time.monotonic() + 60 * study.minutes
    while time.monotonic() < end and (cells := ready(study)):
        costs = {name_of(cell): seconds_of(cell) for cell in cells}
        progress = files.Progress("core-seconds", round(sum(costs.values())))
        # a generator, from which joblib takes a cell when a process is free
        jobs = (delayed(work)(cell, study.out, environment) for cell in cells
                if time.monotonic() < end)
        parallel = Parallel(study.workers, return_as="generator_unordered", batch_size=1,
                            pre_dispatch=study.workers)
        done = 0.0
        for n, name in enumerate(parallel(jobs), 1):
            finished.append(name)
            done += costs.get(name, progress.total / len(cells))
            progress(max(1, round(done)), lambda: f"{n} of {len(cells)} cells, {name}")
    return finished


def pack(study, names):
    """One archive of finished cells and base models."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.write(Path(study.out) / name, name)
    files.write(study.pack, archive.getvalue())
    files.say(f"{study.pack}: {len(names)} files, {len(archive.getvalue()) / 2 ** 20:.1f} MiB")


def plan_table(study):
    """What there is, by part and method; recipes that are not known yet count as the main job's."""
    rows = []
    for name, cell in plan_of(study, guess=True).found.items():
        minutes = seconds_of(cell) / 60
        rows.append(dict(method=f"{cell['part']}: {cell['method']}", cells=1, minutes=minutes,
                         left=0 if (Path(study.out) / name).exists() else minutes))
    table = pd.DataFrame(rows).groupby("method", sort=False).sum()
    table.loc["all"] = table.sum()
    return table.round(1).to_markdown()


# --- publishing -----------------------------------------------------------------------------------


def records(study, plan):
    """All finished cells of the plan; ValueError if some are missing."""
    missing = [name for name in plan.found if not (Path(study.out) / name).exists()]
    require(not missing, f"{len(missing)} cells are not finished, as {missing[:1]}; run "
                         "python -m results.study first")
    return [load(Path(study.out) / name) for name in plan.found]


def provenance(found, clean=True):
    """{part: environment}; ValueError unless each part has one environment and one clean commit."""
    parts = {}
    for record in found:
        parts.setdefault(record["cell"]["part"], {})[
            json.dumps(record["environment"], sort_keys=True)] = record["environment"]
    for part, environments in parts.items():
        require(len(environments) == 1, f"part {part!r} has {len(environments)} environments: "
                                        f"{', '.join(environments)}; compute all of it in one")
        commit = next(iter(environments.values()))["commit"]
        require(not clean or commit and "dirty" not in commit, f"part {part!r} was computed at "
                f"commit {commit}; commit all changes, then compute it again")
    return {part: next(iter(environments.values())) for part, environments in parts.items()}


def columns_of(cell, option):
    kept = ("part", "experiment", "method", "level", "mode", "base_seed", "seed")
    options = ", ".join(filter(None, (cell["option"], option)))
    return {name: cell[name] for name in kept} | dict(option=options)


def rewards_of(record):
    """The mean reward of each test prompt's responses, as rows."""
    names = EXPERIMENTS[record["cell"]["experiment"]]
    for option, rewards in record["rewards"].items():
        if option != "arg-max":  # whose mean is among the numbers
            yield pd.DataFrame(columns_of(record["cell"], option) | dict(
                prompt=range(len(rewards)), reward=np.mean(rewards, 1),
                subtask=np.repeat(names, len(rewards) // len(names))))


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
        text = frame.to_csv(index=False, float_format="%.4g")
        files.write(Path(folder) / f"{name}.csv.gz", gzip.compress(text.encode(), mtime=0))
    about = dict(study=asdict(study), environments=sources, candidates=plan.picked,
                 picked=CANDIDATES[plan.candidate()], seconds=sum(r["seconds"] for r in found))
    files.write(Path(folder) / "study.json", json.dumps(about, indent=1))


def report(study):
    """Data, tables and figures.  -> their paths"""
    into, pages = Path(study.out), []
    data, figures = into / "data", into
    if study.publish:
        require("dirty" not in str(environment_of(study)["commit"]),
                "the tree has changes; commit them before you publish")
        into, pages = tables.HERE, tables.PAGES
        data, figures = into / "data", into / "figures"
    publish(study, data, clean=study.publish)
    tables.write(data, pages, into)
    return plot(tables.Data(data), figures, plots.FIGURES)


def main(study):
    if study.plan:
        print(plan_table(study))
        return
    names = [] if study.publish else run(study)
    if study.pack:
        pack(study, names)
    left = len(ready(study))
    print(f"{len(names)} cells finished; {left} are left that can be computed now")
    if study.publish or not left:
        print(*report(study), sep="\n")


if __name__ == "__main__":
    with files.program():
        main(parse(Study, sys.argv[1:], __doc__, QUICK))
