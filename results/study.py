"""The study: every method on every experiment, in parallel, one file per cell.

    python -m results.study --plan                   how many cells there are, and are left
    python -m results.study --minutes 8 --pack a     what eight minutes allow, in a1.zip and so on
    python -m results.study --quick                  all kinds of cells, small: under a minute
    python -m results.study --publish                data, tables and figures of the pages

Finished cells are skipped, and that is the only resuming; unpack archives of other machines into
the same folder to merge them. When no cell is left, and the part `main` is among them, data, tables
and figures are made in the folder of the cells. Those of the pages are made by --publish alone
(publish.py).
"""
import contextlib
import gzip
import io
import json
import multiprocessing
import os
import sys
import time
import zipfile
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

import numpy as np
import torch

from lpo import require
from results.cells import base_file, compute, name_of
from results.plan import QUICK, Study, plan_of
from toy import files
from toy.options import parse


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
    """One cell, in a process of its own."""
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        record = dict(cell=cell, environment=environment) | compute(cell, folder)
    if cell["do"] != "base":  # which is a file of its own
        text = json.dumps(record).encode()
        files.write(Path(folder) / name_of(cell), gzip.compress(text, mtime=0))


def ready(study):
    """What can be computed now, the most important first; what needs a base model waits for it."""
    folder, cells = Path(study.out), {}
    for name, cell in plan_of(study).found.items():
        if not (folder / name).exists():
            base = base_file(cell, folder)
            first = cell if base.exists() else dict(cell, do="base")
            cells.setdefault(name if base.exists() else base.name, first)
    return cells


def run(study):
    """Compute until nothing is left or the time is over.  -> how many cells were finished

    Cells that fail are named and left out.
    """
    environment, end = environment_of(study), time.monotonic() + 60 * study.minutes
    plan = plan_of(study, guess=True).found
    bases = {base_file(cell, study.out) for cell in plan.values()}
    progress = files.Progress("cells", len(plan) + len(bases))
    finished, planned = 0, 0.0
    waiting, running, failed = {}, {}, set()  # {file: cell}, {future: file}, {file}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(study.workers, mp_context=spawn) as pool:
        while True:
            # results decide what comes next, so the plan is made again, but not all the time
            if not waiting or time.monotonic() - planned > 15:
                busy = failed | set(running.values())
                waiting = {name: x for name, x in ready(study).items() if name not in busy}
                planned = time.monotonic()
            queued = study.workers + study.workers // 4  # so that none idles during the planning
            while waiting and len(running) < queued and time.monotonic() < end:
                name = next(iter(waiting))
                cell = waiting.pop(name)
                running[pool.submit(work, cell, study.out, environment)] = name
            if not running:
                return finished
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                if error := future.exception():
                    failed.add(name)
                    files.say(f"{name} failed: {error!r}")
                    continue
                finished += 1
                progress(finished, lambda: name)


def pack(study):
    """All finished cells and base models, in archives of at most 15 MiB."""
    parts, size = [[]], 0
    for path in sorted(Path(study.out).glob("*.*")):
        size += path.stat().st_size
        if size > 15 * 2 ** 20:
            parts, size = [*parts, []], path.stat().st_size
        parts[-1].append(path)
    for number, paths in enumerate(parts, 1):
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:  # cells are compressed already
            for path in paths:
                file.write(path, path.name)
        files.write(f"{study.pack}{number}.zip", archive.getvalue())
        files.say(f"{study.pack}{number}.zip: {len(paths)} files")


def plan_table(study):
    """What there is, by part and method; recipes that are not known yet count as the main job's."""
    rows = {}
    for name, cell in plan_of(study, guess=True).found.items():
        left = not (Path(study.out) / name).exists()
        method = cell["method"] if cell["split"] == "test" else f"tuning {cell['method']}"
        for key in (f"{cell['part']}: {method}", f"{cell['part']}: all", "all"):
            rows[key] = np.add(rows.get(key, 0), (1, left))
    lines = [f"{key:45} {n:6} {left:6}" for key, (n, left) in rows.items()]
    return "\n".join([f"{'':45}  cells   left", *lines])


def main(study):
    if study.plan:
        print(plan_table(study))
        return
    left = 0
    if not study.publish:
        try:
            finished, left = run(study), len(ready(study))
            print(f"{finished} cells finished; {left} can be computed now")
        finally:
            if study.pack:
                pack(study)
    if study.publish or "main" in study.parts and not study.pack and not left:
        from results.publish import report  # computing needs neither pandas nor matplotlib
        print(*report(study), sep="\n")


if __name__ == "__main__":
    with files.program():
        main(parse(Study, sys.argv[1:], __doc__, QUICK))
