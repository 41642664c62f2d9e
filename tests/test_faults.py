"""The main job under faults: killed, interrupted, a full disk, damaged files, long runs.

Three kills at random moments; KILLS=20 python -m pytest tests/test_faults.py for twenty.
"""
import ast
import gc
import io
import os
import pickle
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train_toy
from conftest import as_program
from test_train_toy import ROOT, TINY, run
from toy import rows, stages
from toy.options import Config
from toy.pretrain import new_model
from toy.stages import Job

resource = pytest.importorskip("resource", reason="not on Windows")
KILLS = int(os.environ.get("KILLS", 3))
SENTENCE = re.compile(r"error: [^\n]+\n")


def started(*arguments, script=("train_toy.py",), limit=None, threads=1, group=False):
    """A job of its own; limit: the bytes that any file may have, as on a disk that is full."""
    def prepare():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell may have ignored it for us
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return subprocess.Popen([sys.executable, *map(str, [*script, *arguments])], cwd=ROOT, text=True,
                            start_new_session=group, preexec_fn=prepare,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env=os.environ | {"OMP_NUM_THREADS": str(threads),
                                              "OMP_WAIT_POLICY": "passive"})


def finished(process):
    """-> exit status, what it said on stderr; on a slow machine, progress comes before"""
    _, error = process.communicate()
    return process.returncode, re.sub(r"\[\d+/\d+\] .* left\n", "", error)


def assert_whole(folder):
    """Whatever has its final name is complete, at any moment."""
    for path in folder.rglob("*.pt"):
        stages.read(path)
    for path in folder.rglob("*.png"):
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG") and data.endswith(b"IEND\xaeB`\x82"), path
    if (folder / "results.json").exists():
        rows.load(folder / "results.json")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A finished run and its results, made where no connection can be opened."""
    def no_network(*_, **__):
        raise AssertionError("the main job opens a connection")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", no_network)
        patch.setattr(socket, "getaddrinfo", no_network)
        folder = tmp_path_factory.mktemp("undisturbed")
        results = run(folder)
    return SimpleNamespace(folder=folder, results=results)


@pytest.fixture
def kept(undisturbed, tmp_path):
    """A copy of the finished run, to be damaged."""
    shutil.copytree(undisturbed.folder, tmp_path / "kept")
    return tmp_path / "kept"


# --- kill -9, Ctrl-C -----------------------------------------------------------------------------


def test_killed_at_random_moments_it_finishes_with_the_same_results(undisturbed, tmp_path):
    """Bugs: a file written in place; a stage taken for finished; a generator that is not reseeded.
    Moments count from the first file on: before, python imports."""
    def wait_for_files(out):
        process = started(*TINY, "--out", out)
        while not (out / "stages").exists() and process.poll() is None:
            time.sleep(0.005)
        return process, time.monotonic()
    process, begin = wait_for_files(tmp_path / "whole")
    assert finished(process) == (0, "")
    seconds = time.monotonic() - begin
    for i in range(KILLS):
        out, moment = tmp_path / str(i), random.uniform(0, seconds)
        process, begin = wait_for_files(out)
        time.sleep(moment)
        process.kill()
        process.communicate()
        print(f"killed {moment:.3f} s after its first file; left {sorted(os.listdir(out))}")
        assert_whole(out)
        assert run(out) == undisturbed.results


KILLED_WHILE_WRITING = """
import os, runpy, sys
from pathlib import Path
n, real = int(sys.argv.pop(1)), Path.write_bytes
def half(self, data):
    global n
    n -= 1
    if n == 0:
        real(self, data[:len(data) // 2])
        os.kill(os.getpid(), 9)
    return real(self, data)
Path.write_bytes = half
runpy.run_path("train_toy.py", run_name="__main__")
"""


@pytest.mark.parametrize("nth", [2, 6])  # the base model, results.json
def test_killed_in_the_middle_of_a_file_it_goes_on(nth, undisturbed, tmp_path):
    """Bug: half a file under its final name."""
    process = started(nth, *TINY, "--out", tmp_path, script=("-c", KILLED_WHILE_WRITING))
    assert finished(process)[0] == -signal.SIGKILL
    assert list(tmp_path.rglob("*.tmp"))  # it did die in the middle of one
    assert_whole(tmp_path)
    assert run(tmp_path) == undisturbed.results


def test_files_are_renamed_and_never_written_in_place(kept, tmp_path):
    """Another name of the old file keeps the old content. Bug: a figure saved in place."""
    old = {path: path.read_bytes() for path in kept.iterdir() if path.is_file()}
    for path in old:
        os.link(path, tmp_path / path.name)
    run(kept, "--seed", "1")
    for path, data in old.items():
        assert (tmp_path / path.name).read_bytes() == data, path.name
    assert (kept / "results.json").read_bytes() != old[kept / "results.json"]


OURS = [path for folder in (".", "toy", "fast", "results") for path in (ROOT / folder).glob("*.py")
        if path.name != "test_lpo.py"]


def test_one_function_writes_files():
    """The one that renames. Bug: README.md written in place, half of it when killed."""
    places = set()
    for path in OURS:
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for node in ast.walk(function) if isinstance(function, ast.FunctionDef) else ():
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "attr", getattr(node.func, "id", None))
                    if name in ("write_text", "write_bytes", "savefig", "open", "dump"):
                        places.add((path.name, function.name, name))
        assert "write_text" not in path.read_text(encoding="utf-8"), path.name
    assert places == {("stages.py", "write", "write_bytes"), ("plots.py", "draw", "savefig")}


@pytest.mark.parametrize("error, said", (
    (ValueError("wrong"), "error: wrong"), (FileNotFoundError("no file"), "error: no file"),
    (ModuleNotFoundError("no package"), "error: no package"),
    (KeyboardInterrupt(), "\ninterrupted: the same command goes on from what is finished"),
    (TypeError("a bug"), None)))
def test_what_a_user_can_mend_ends_a_program_in_a_sentence(error, said):
    """Bug: a traceback; or a sentence that hides a mistake of ours."""
    with pytest.raises(SystemExit if said else TypeError) as end, stages.program():
        raise error
    assert said is None or end.value.code == said


@pytest.mark.parametrize("module, given", (
    ("results.rivals", ["--base-seeds", "0"]), ("results.real_model", ["--device", "tpu"])))
def test_the_other_programs_end_so_too(module, given, monkeypatch):
    if module == "results.real_model":
        pytest.importorskip("transformers", minversion="5")
    assert re.fullmatch(f"error: {given[0]} (is )?{given[1]}.*",
                        as_program(monkeypatch, module, *given))


def test_ctrl_c_says_how_to_go_on_and_leaves_what_is_needed(undisturbed, tmp_path):
    process = started(*TINY, "--out", tmp_path)
    for line in process.stdout:
        if line.startswith("base0:"):
            process.send_signal(signal.SIGINT)
            break
    status, error = finished(process)
    assert status == 1
    assert error == "\ninterrupted: the same command goes on from what is finished\n"
    assert run(tmp_path) == undisturbed.results


def test_ctrl_c_ends_the_sweeps_and_their_workers_with_a_sentence(tmp_path):
    """Bug: every worker's traceback. A terminal interrupts the whole group."""
    process = started("--sweeps", "pairs", "--workers", 2, "--out", tmp_path / "out",
                      script=("-m", "results.sweeps"), group=True)
    while not (tmp_path / "out").exists():  # a worker is at it
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    assert finished(process) == (
        1, "\ninterrupted: the same command goes on from what is finished\n")


# --- the disk ------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [10, 30_000])
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(limit, tmp_path, undisturbed):
    """10 bytes: found out before any work. 30,000: in the middle of the base model."""
    process = started(*TINY, "--out", tmp_path, limit=limit)
    status, error = finished(process)
    assert status == 1 and SENTENCE.fullmatch(error) and "make room" in error
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    if limit > 10:
        assert run(tmp_path) == undisturbed.results


def test_a_disk_that_is_full_at_the_results_and_at_the_figures(kept, undisturbed):
    """Bugs: OSError from a figure; half of one, which looks like a figure."""
    data = (kept / "results.json").read_bytes()
    size, largest = max((path.stat().st_size, path.name) for path in kept.glob("*.png"))
    assert size < len(data)
    for path in kept.glob("*.*"):
        path.unlink()
    status, error = finished(started(*TINY, "--out", kept, limit=len(data) - 1))
    assert status == 1 and SENTENCE.fullmatch(error) and "results.json" in error
    assert not list(kept.glob("*.*"))
    (kept / "results.json").write_bytes(data)
    status, error = finished(started(kept / "results.json", script=("-m", "toy.plots"),
                                     limit=size - 1))
    assert status == 1 and SENTENCE.fullmatch(error) and largest in error
    assert_whole(kept)
    assert not (kept / largest).exists() and not list(kept.glob("*.tmp"))
    assert run(kept) == undisturbed.results


def test_a_read_only_folder_is_one_sentence(tmp_path):
    (tmp_path / "out").mkdir(mode=0o555)
    root = os.geteuid() == 0  # who may write anywhere
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(ValueError, match="cannot write .*: Permission denied; make room or"):
            stages.Stages(tmp_path / "out", {})
    finally:
        if root:
            os.seteuid(0)


# --- damaged files -------------------------------------------------------------------------------


class Malicious:
    def __reduce__(self):
        return exec, ("open('was_executed', 'w')",)


def checkpoint(folder, name="base0-mix-latent-token0"):
    path, = (folder / "stages").glob(f"{name}-*.pt")
    return path


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "newer", "another stage's",
                                    "malicious", "malicious pickle"])
def test_a_damaged_or_foreign_checkpoint_is_refused(damage, kept, monkeypatch):
    """Bugs: pickled code that is run; another configuration's file taken for one's own."""
    path = checkpoint(kept)
    data = path.read_bytes()
    whole = dict(format=stages.FORMAT, stage=path.stem, result={})
    monkeypatch.chdir(kept)
    if damage in ("truncated", "empty"):
        path.write_bytes(data[:len(data) // 2 if damage == "truncated" else 0])
    elif damage == "another stage's":
        shutil.copy(checkpoint(kept, "base0-mix-latent-sequence0"), path)
    elif damage == "malicious pickle":
        path.write_bytes(pickle.dumps(Malicious()))
    else:
        torch.save({"foreign": [1, 2, 3],
                    "newer": whole | dict(format=stages.FORMAT + 1),
                    "malicious": whole | dict(result=Malicious())}[damage], path)
    with pytest.raises(ValueError, match=f"{path.stem}.*; delete it and run again"):
        run(kept)
    assert not Path("was_executed").exists()
    torch.load(path, weights_only=False) if damage == "malicious" else None
    assert Path("was_executed").exists() == (damage == "malicious")  # it is malicious indeed


def test_a_flipped_bit_never_changes_a_result(kept):
    """In a checkpoint and in results.json, at 300 random places: refused, or of no effect."""
    rng = random.Random(0)
    for path, load in ((checkpoint(kept), stages.read), (kept / "results.json", rows.load)):
        data, refused = path.read_bytes(), 0
        right = comparable(load(path))
        for _ in range(300):
            flipped = bytearray(data)
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(flipped)
            try:
                assert comparable(load(path)) == right
            except ValueError as error:
                refused += 1
                assert path.name in str(error) and "\n" not in str(error)
        assert refused > 200
        path.write_bytes(data)


def comparable(x):
    """Tensors as lists."""
    if isinstance(x, dict):
        return {key: comparable(value) for key, value in x.items()}
    if isinstance(x, list):
        return [comparable(value) for value in x]
    return x.tolist() if isinstance(x, torch.Tensor) else x


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "changed", "newer", "a list",
                                    "bytes", "a folder"])
def test_damaged_results_are_refused_by_figures_and_report(damage, kept):
    """Bug: a figure of numbers that nobody measured."""
    path = kept / "results.json"
    text = path.read_text(encoding="utf-8")
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({
            "empty": b"", "truncated": text[:len(text) // 2].encode(), "a list": b"[1, 2]",
            "changed": re.sub(r", 0\.", ", 1.", text, count=1).encode(),
            "newer": text.replace('"schema": 2', '"schema": 3').encode(),
            "bytes": bytes(range(256))}[damage])
    with pytest.raises(ValueError, match="results.json"):
        rows.load(path)
    if damage in ("missing", "truncated", "changed"):
        for script in (("toy.plots", path), ("results.tables", "--keep", kept)):
            if script[0] == "results.tables" and damage == "missing":
                continue  # a folder without results has nothing to take over
            status, error = finished(started(script=("-m", *script)))
            assert status == 1 and SENTENCE.fullmatch(error) and str(path) in error


# --- nothing is run that should not be -----------------------------------------------------------


def test_no_page_evaluates_text_or_opens_a_connection():
    """No eval, exec, pickle or shell, torch.load with weights only, no network."""
    forbidden = {"eval", "exec", "__import__", "system", "popen"}
    packages = {"pickle", "marshal", "shelve", "dill", "socket", "ssl", "urllib", "http",
                "requests", "ftplib"}
    for path in OURS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", None))
                options = {keyword.arg: keyword.value for keyword in node.keywords}
                assert name not in forbidden, f"{path.name}:{node.lineno}"
                assert "shell" not in options, f"{path.name}:{node.lineno}"
                if ast.unparse(node.func) == "torch.load":
                    assert options["weights_only"].value is True
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not packages & {name.split(".")[0] for name in names}, path.name


# --- one thread and two --------------------------------------------------------------------------


def test_one_and_two_threads_agree(undisturbed, tmp_path):
    """Sums in another order: every measured number within 0.02."""
    assert finished(started(*TINY, "--out", tmp_path, threads=2)) == (0, "")
    theirs = rows.load(tmp_path / "results.json")
    assert {stage["environment"]["threads"] for stage in theirs["stages"].values()} == {2}
    for ours, other in zip(undisturbed.results["rows"], theirs["rows"], strict=True):
        assert ours | dict(value=0) == other | dict(value=0)
        assert ours["value"] == pytest.approx(other["value"], abs=0.02)


# --- long runs -----------------------------------------------------------------------------------


def test_memory_stays_flat_over_200_rounds():
    """Bugs: a graph, a rollout or a reference model kept for every round."""
    cfg = Config(experiments=("mix",), choices=(0.0, 0.5, 1.0), rounds=200, prompts=9,
                 responses=4, steps=2, device="cpu")
    rounds, counts, peaks = [], [], []

    def look(_):
        rounds.append(None)
        if len(rounds) % 50 == 0:
            gc.collect()
            counts.append(sum(type(x) in (torch.Tensor, np.ndarray) for x in gc.get_objects()))
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    torch.manual_seed(0)
    train_toy.train(cfg, new_model(cfg), Job(0, "mix", "token", "latent", 0),
                    SimpleNamespace(tick=lambda *_: None, say=look))
    assert len(rounds) == 200
    assert max(counts) - min(counts) <= 20, counts
    unit = 2 ** 20 if sys.platform == "darwin" else 2 ** 10  # of a MiB
    assert (peaks[-1] - peaks[0]) / unit < 25  # the table of results grows by some 4


# seconds of each stage with the default options, on a quiet machine: those that README.md reports
TOOK = {name: of["seconds"]
        for name, of in rows.load(ROOT / "results/data/results.json")["timing"].items()}


class Screen(io.StringIO):
    """stderr, a terminal or not, whose latest time left can be read."""

    def __init__(self, terminal):
        super().__init__()
        self.isatty = lambda: terminal

    def left(self):
        minutes, seconds = re.findall(r"(\d+):(\d\d) left", self.getvalue())[-1]
        return 60 * int(minutes) + int(seconds)


class Clock:
    """A time of our own."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(stages, "time", SimpleNamespace(monotonic=lambda: self.now))

    def work(self, run, seconds, look=lambda: None, parts=50):
        """A stage that ticks all the while."""
        for i in range(parts):
            self.now += seconds / parts
            run.tick((i + 1) / parts, "working")
            look()
        return {}


@pytest.mark.parametrize("speed", [0.25, 1, 4])
def test_the_time_left_is_right_within_a_factor_of_two(speed, monkeypatch, tmp_path):
    """On machines faster and slower, and in a run that goes on. Bugs: kept stages counted as work;
    the plan's proportions far from those that were measured."""
    took = {name: speed * seconds for name, seconds in TOOK.items()}
    clock, screen = Clock(monkeypatch), Screen(True)
    monkeypatch.setattr(sys, "stderr", screen)
    plan = {job.name: cost for job, cost in train_toy.jobs(Config())}

    def whole(only=None):
        run, names = stages.Stages(tmp_path, plan), list(plan)[:only]
        end = clock.now + sum(took[name] for name in names
                              if not list(tmp_path.rglob(f"{name}-????????????.pt")))
        checked = 0

        def look():
            nonlocal checked
            if only is None and run.start + 0.03 * (end - run.start) < clock.now:
                left, right = screen.left(), end - clock.now
                assert right / 2 - 3 <= left <= 2 * right + 3, (run.name, left, right)
                checked += 1
        for name in names:
            run(name, [], lambda: clock.work(run, took[name], look))
        return checked
    whole(only=5)  # stopped there
    assert whole() > 100
    shutil.rmtree(tmp_path / "stages")
    assert whole() > 400


def test_a_log_has_a_plain_line_now_and_then(monkeypatch, tmp_path):
    """Bugs: control characters in a log; a line a step; no word for minutes."""
    clock, screen = Clock(monkeypatch), Screen(False)
    monkeypatch.setattr(sys, "stderr", screen)
    run = stages.Stages(tmp_path, {"short": 10, "long": 300})
    run("short", [], lambda: clock.work(run, 10))
    assert screen.getvalue() == ""
    run("long", [], lambda: clock.work(run, 300, parts=1000))
    lines = screen.getvalue().splitlines()
    assert 18 <= len(lines) <= 20 and screen.getvalue().isprintable() is False
    for line in lines:
        assert re.fullmatch(r"\[2/2\] long +\d+%  \d+:\d\d left  working", line)


def test_a_narrow_terminal_keeps_the_time_left(monkeypatch, tmp_path):
    """Bug: a line longer than the terminal, which wraps and is never overwritten."""
    clock, screen = Clock(monkeypatch), Screen(True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "50")
    run = stages.Stages(tmp_path, {"a-stage-with-a-long-name": 10})
    run("a-stage-with-a-long-name", [], lambda: clock.work(run, 10))
    lines = re.split(r"\r\x1b\[K", screen.getvalue())[1:]
    assert all(len(line) < 50 for line in lines) and " left" in lines[-2]


def test_two_runs_may_write_the_same_file(tmp_path, monkeypatch):
    """Bug: one temporary name for two runs, of which the second renames what the first wrote."""
    path, real, names = tmp_path / "file", Path.write_bytes, []

    def write_bytes(beside, data):
        names.append(beside.name)
        if len(names) == 1:  # another run begins and ends in the middle of this one
            monkeypatch.setattr(os, "getpid", lambda: 12345)
            stages.write(path, b"theirs")
            assert path.read_bytes() == b"theirs"
        return real(beside, data)
    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    stages.write(path, b"ours")
    assert path.read_bytes() == b"ours" and len(set(names)) == 2
    assert not list(tmp_path.glob("*.tmp"))
