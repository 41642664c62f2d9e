"""What several files use: one finished run of the main job, and programs that run apart."""
import io
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import tasks
import train_toy
from toy.options import parse

torch.set_num_threads(1)  # the tensors are tiny
os.environ["OMP_NUM_THREADS"] = "1"  # of programs: several threads take four times as long
signal.signal(signal.SIGINT, signal.default_int_handler)  # of programs: `pytest &` ignores it
ROOT = Path(__file__).parent.parent
TINY = ("--experiments mix,vote --device cpu --n-layer 1 --n-head 2 --n-embd 16 "
        "--pretrain-steps 120 --rounds 2 --prompts 15 --responses 6 --steps 2 --test-prompts 6 "
        "--test-samples 2 --votes 4 --oracle-prompts 3 --choices 0,0.5,1.5").split()


def config(*arguments):
    """TINY with other values, as the main job takes them."""
    return parse(train_toy.Config, [*TINY, *map(str, arguments)], "", check=train_toy.checked)


def program(*arguments, stdin=None, **environment):
    """python arguments...  -> exit status, stdout, stderr without lines of progress"""
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True,
                          encoding="utf-8", stdin=stdin, env=os.environ | environment)
    return done.returncode, done.stdout, re.sub(r".* left  .*\n", "", done.stderr)


def as_program(monkeypatch, module, *arguments):
    """python -m module arguments..., in this process  -> what it exits with"""
    monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
    monkeypatch.delitem(sys.modules, module, raising=False)
    try:
        runpy.run_module(module, run_name="__main__")
    except SystemExit as end:
        return end.code


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Parrot(torch.nn.Module):
    """A language model that has learned one response, not quite for sure."""

    def __init__(self, response):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.table = torch.full((len(response), tasks.VOCAB_SIZE), -4.0)
        for t, token in enumerate(response):
            self.table[t, token] = 2.5

    def forward(self, idx):
        at = torch.arange(idx.shape[1]) - tasks.PROMPT_LENGTH + 1
        at = at.clamp(0, len(self.table) - 1)
        return self.table[at].expand(len(idx), -1, -1), torch.ones(*idx.shape, 8)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a finished run, made once for all workers. Copy it to change it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # which the workers share
    with FileLock(folder / "finished.lock"):
        if not (folder / "finished" / "results.json").exists():
            train_toy.main(config("--out", folder / "finished"))
    return folder / "finished"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def graded(monkeypatch):
    """Rewards that an untrained model earns too, and unequal ones."""
    for name in ("constrained", "vote", "repeats"):
        monkeypatch.setitem(tasks.TASKS, name, replace(
            tasks.TASKS[name],
            reward=lambda prompt, text: len(set(text.split())) + 0.01 * len(text)))
