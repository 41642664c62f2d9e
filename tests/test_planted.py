"""Plants every bug of planted_bugs.py in a copy of the project and requires that it is caught: by a
wrong number, not by a crash."""
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import pytest

from planted_bugs import BUGS

ROOT = Path(__file__).parent.parent
COPIED = ("lpo.py", "model.py", "decoder.py", "tasks.py", "train_toy.py", "test_lpo.py",
          "pyproject.toml", "toy", "fast", "conformance/oracle.py", "tests")


class Verdict:
    """Of what kind the failures of a run of pytest were."""

    def __init__(self):
        self.kinds = set()

    def pytest_exception_interact(self, call):
        wrong_number = call.excinfo.errisinstance((AssertionError, pytest.fail.Exception))
        self.kinds.add("caught" if wrong_number else f"crash: {call.excinfo.exconly()[:80]}")


def copied(folder):
    """A copy of what tests need, to be changed.  -> the folder"""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder


def failures(folder, test, expression=""):
    """Run a test file of a copy, in a process that ends after it.  -> kinds of failures"""
    ours = {ROOT / part for part in (".", "tests", "conformance", "toy", "fast")}
    for module in [m for m, of in sys.modules.items() if m != "__main__"
                   and Path(getattr(of, "__file__", None) or "/").parent in ours]:
        del sys.modules[module]
    sys.path[:] = [str(folder / part) for part in ("", "tests", "conformance")] + sys.path
    os.chdir(folder)
    os.environ.pop("PYTEST_XDIST_WORKER", None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.stdout = sys.stderr = open(os.devnull, "w")
    verdict = Verdict()
    pytest.main(["-x", "-q", "--basetemp", str(folder / "temporary"), "-k", expression, test,
                 # what takes longer than the test: words about failures, a search of all objects
                 "--assert=plain", "--tb=no", "-p", "no:unraisableexception",
                 "-p", "no:cacheprovider"], plugins=[verdict])
    return verdict.kinds


def tried(job):
    """What must catch a bug, on a copy that has it.  -> complaint or None"""
    (name, file, right, wrong, caught_by), folder = job
    text = (folder / file).read_text(encoding="utf-8")
    if right not in text:
        return f"{name}: its text is no longer in {file}"
    (folder / file).write_text(text.replace(right, wrong), encoding="utf-8")
    kinds = failures(folder, *caught_by.split())
    return None if kinds == {"caught"} else f"{name}: {kinds or 'survived'}"


def test_every_planted_bug_is_caught_by_a_wrong_number(tmp_path):
    """Longer than most: a hundred bugs, each with a run of its own."""
    for module in ("transformers.models.gpt2.modeling_gpt2", "safetensors.torch", "hypothesis",
                   "matplotlib.figure"):  # imported before the forks
        pytest.importorskip(module)
    assert len({name for name, *_ in BUGS}) == len(BUGS) > 100
    jobs = [(bug, copied(tmp_path / str(i))) for i, bug in enumerate(BUGS)]
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        complaints = [complaint for complaint in pool.map(tried, jobs, chunksize=1) if complaint]
    assert not complaints, complaints
