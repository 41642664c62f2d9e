"""The main job as a user meets it: options, kept files, faults, surroundings, results, figures.

KILLS=20 python -m pytest tests/test_main_job.py -k killed    kills it at 20 random moments
"""
import ast
import io
import math
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tasks
import train_toy
from conftest import ROOT, TINY, Terminal, config
from toy import evaluate, figures, files, options
from toy.options import parse
from train_toy import QUICK, Config, checked

resource = pytest.importorskip("resource", reason="not on Windows")
KILLS = int(os.environ.get("KILLS", 1))
USUAL = asdict(checked(Config(device="cpu")))
SENTENCE = re.compile(r"error: [^\n]+\n")
NUMBERS = [f.name for f in fields(Config) if f.type in (int, float)]


def again(folder, *arguments, plot=lambda results, folder: []):
    """The main job in this process, usually without figures.  -> results, without where and when"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "plot", plot)
        train_toy.main(config("--out", folder, *arguments))
    return results_of(folder)


def results_of(folder):
    results = figures.load(folder / "results.json")
    del results["config"]["out"], results["environment"]
    return results


def refused(capsys, *arguments):
    """What the main job says about options that it refuses: one sentence on stderr."""
    with pytest.raises(SystemExit) as end:
        parse(Config, arguments, "", QUICK, checked)
    error = capsys.readouterr().err
    assert end.value.code == 2 and SENTENCE.fullmatch(error), error
    return error


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, words", [
    ("--bate 1", "--bate"), ("--round 3", "--round"), ("--beta much", "much"),
    ("--variants latent,dpo", "--variants is 'latent,dpo'; choose from separate, joint"),
    ("--experiments=", "--experiments is ''; choose from"), ("--levels word", "token, sequence"),
    ("--variants nll,latent,nll", "--variants is nll,latent,nll; give each once"),
    ("--choices 0,-1", "'-1' is not a choice"), ("--choices nan", "is not a choice"),
    ("--choices=,", "choices are ()"), ("--choices 0.5,0.50", "choices share a name"),
    ("--choices 0,top_p=.9,top_p=0.90@1", "choices share a name"),
    ("--choices 0", "no pair; add others"), ("--choices 0,top_q=.9", "'top_q=.9' is not a choice"),
    ("--n-head 5", "n_embd a multiple of n_head"), ("--pairing best", "choose from best-worst"),
    ("--pairing top-k", "repeats has none; add --experiments constrained"),
    ("--pairing top-k --experiments constrained --top-k 5", "--responses is 8; give 10 or more"),
    ("--responses 1", "--responses is 1; give 2 or more"),
    ("--device tpu", "--device tpu is not supported; choose cpu or cuda"),
    ("--device cpu:0", "is not supported"), ("--prompts 5000", "take fewer"),
    ("--test-prompts 5000", "test prompts"), ("--oracle-prompts 5000", "validation prompts")])
def test_options_that_cannot_run_are_refused_in_a_sentence(arguments, words, capsys):
    """Before any work."""
    assert words in refused(capsys, *arguments.split())


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e18", "2.5", "word", "9" * 5000])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_out_of_range_are_refused(name, value, capsys):
    """0 is a seed, and a learning rate of a frozen model. Bugs: a limit off by one, NaN taken."""
    whole = Config.__dataclass_fields__[name].type is int
    if value == "0" and name in ("seed", "model_lr") or value == "2.5" and not whole:
        assert getattr(parse(Config, [options.flag(name), value], ""), name) == float(value)
    else:
        assert options.flag(name) in refused(capsys, f"{options.flag(name)}={value}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_device_that_is_missing_is_named(capsys, monkeypatch):
    assert "--device cuda: no CUDA device found; choose cpu" in refused(capsys, "--device", "cuda")
    assert parse(Config, [], "").device == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert parse(Config, [], "").device == "cuda" and parse(Config, ["--device", "cpu"], "")


WRITTEN = {  # an option as it is written, and as it is read
    "experiments": ("vote, mix", ("vote", "mix")), "levels": ("sequence", ("sequence",)),
    "variants": ("nll,joint,separate", ("nll", "joint", "separate")),
    "choices": ("0,1e30, 0.25, , 3@min_p=.05,frequency=1",
                (0.0, 1e30, 0.25, "3@min_p=0.05", "frequency=1")),
    "beta": ("0.125", 0.125), "lr": ("1e-9", 1e-9), "rounds": ("1", 1), "prompts": ("9", 9),
    "responses": ("2", 2), "steps": ("1", 1), "pairing": ("all", "all"), "top_k": ("99", 99),
    "reference": ("initial", "initial"), "model_lr": ("0.5", 0.5), "seed": ("0", 0),
    "device": ("cpu", "cpu"), "n_layer": ("1", 1), "n_head": ("2", 2), "n_embd": ("128", 128),
    "pretrain_steps": ("1", 1), "pretrain_lr": ("7", 7.0), "test_prompts": ("1", 1),
    "test_samples": ("1", 1), "votes": ("1", 1), "oracle_prompts": ("1", 1),
    "out": ("here/there", "here/there"), "decoder_reference": (None, True)}


@pytest.mark.parametrize("name", USUAL)
def test_every_option_is_read_as_it_is_written(name, capsys):
    """And --help explains it. Bugs: an option under another's name, a flag that is always on."""
    written, value = WRITTEN[name]
    given = ["--device", "cpu", options.flag(name), *([] if written is None else [written])]
    assert asdict(parse(Config, given, "", QUICK, checked)) == USUAL | {name: value}
    with pytest.raises(SystemExit) as end:
        parse(Config, ["--help"], "words %", QUICK, checked)
    text = " ".join(capsys.readouterr().out.split())
    f = Config.__dataclass_fields__[name]
    assert end.value.code == 0 and options.flag(name) in text and f.metadata["help"] in text
    assert all(choice in text for choice in f.metadata["choices"] or ())


def test_quick_is_shorter_and_yields_to_what_is_given():
    quick = asdict(parse(Config, ["--quick", "--device", "cpu"], "", QUICK, checked))
    assert {name for name in quick if quick[name] != USUAL[name]} == set(QUICK)
    assert parse(Config, ["--quick", "--rounds", "7"], "", QUICK).rounds == 7


def test_a_tilde_is_the_home_folder():
    assert parse(Config, ["--out=~/runs"], "").out == os.path.expanduser("~/runs")


def test_six_functions_of_the_product_receive_the_options():
    """By the source: a parameter `cfg`, or an argument made of all of it. Bug: options passed on
    through every module."""
    receivers = set()
    for path in (ROOT / "train_toy.py", *(ROOT / "toy").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and "cfg" in [a.arg for a in node.args.args]:
                receivers.add((path.name, node.name))
            if isinstance(node, ast.Call) and any(
                    ast.unparse(a) in ("asdict(cfg)", "vars(cfg)") for a in node.args):
                receivers.add(ast.unparse(node.func))
    assert len(receivers) <= 6, receivers


# --- what is kept ---------------------------------------------------------------------------------


CHOOSE = {"out": "elsewhere", "experiments": ("mix",), "levels": ("token",), "variants": ("nll",),
          "test_prompts": 5, "test_samples": 3, "votes": 2, "oracle_prompts": 7}
OF_BASE = {"n_layer": 2, "n_head": 1, "n_embd": 32, "pretrain_steps": 9, "pretrain_lr": 0.1,
           "device": "cuda", "seed": 7}
OF_DECODER = {"choices": (0.3,), "beta": 9.0, "lr": 0.5, "rounds": 5, "prompts": 4, "responses": 9,
              "steps": 7, "pairing": "all", "top_k": 2, "reference": "initial",
              "decoder_reference": True, "model_lr": 0.1}


def test_names_of_kept_files_follow_the_options_and_the_code(tmp_path, monkeypatch):
    """Bugs: yesterday's weights beside today's options or code, or made anew for an option that
    only chooses what is evaluated."""
    assert CHOOSE.keys() | OF_BASE.keys() | OF_DECODER.keys() == USUAL.keys()
    usual = asdict(config())
    keys = files.keys(usual)
    for kind, changed in ((CHOOSE, (False, False)), (OF_DECODER, (False, True)),
                          (OF_BASE, (True, True))):
        for name, value in kind.items():
            assert usual[name] != value
            others = files.keys(usual | {name: value})
            assert tuple(a != b for a, b in zip(keys, others)) == changed, name
    for name in ("toy", "fast", "."):
        shutil.copytree(ROOT / name, tmp_path / name, dirs_exist_ok=True, ignore=lambda _, names: [
            n for n in names if not n.endswith(".py")])
    monkeypatch.setattr(files, "ROOT", tmp_path)
    assert files.keys(usual) == keys
    of_base = "model.py tasks.py toy/models.py toy/files.py fast/record.py".split()
    of_decoders = ("lpo.py decoder.py train_toy.py toy/samplers.py toy/evaluate.py "
                   "fast/generate.py").split()
    for name, changed in {**dict.fromkeys(of_base, (True, True)),
                          **dict.fromkeys(of_decoders, (False, True)),
                          "toy/figures.py": (False, False)}.items():
        with open(tmp_path / name, "a", encoding="utf-8") as file:
            file.write("# changed\n")
        others = files.keys(usual)
        assert tuple(a != b for a, b in zip(keys, others)) == changed, name
        keys = others


def test_equal_seeds_give_equal_results_and_evaluation_changes_no_training(finished, run, tmp_path):
    """Bugs: training and evaluation share a generator; a variant that reseeds another; a decoder
    kept for other options."""
    first = results_of(finished)
    assert again(tmp_path) == first  # another folder, all anew
    kept = {path: path.stat().st_mtime_ns for path in run.glob("*.pt")}
    assert len(kept) == 5
    more = again(run, "--test-samples", 5, "--levels", "sequence", "--variants", "nll,latent",
                 "--experiments", "vote,mix")
    assert {path: path.stat().st_mtime_ns for path in run.glob("*.pt")}.items() > kept.items()

    def of_training(results):
        return [row for row in results["rows"] if "round" in row and row["variant"] == "latent"
                and (row["experiment"], row["level"]) == ("mix", "sequence")]
    assert of_training(more) == of_training(first) != []
    name = first["decoders"]["vote token latent"]
    weights = files.read(run / name)["decoders"]
    (run / name).unlink()
    assert again(run) == first  # as if stopped before this decoder
    for ours, theirs in zip(files.read(run / name)["decoders"], weights):
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_results_have_their_fields(finished):
    """What say, the playground and the figures read. Bugs: None written where a column does not
    apply, a NaN, a name of a file that is not there, today's environment beside kept weights."""
    results = figures.load(finished / "results.json")
    assert set(results) == {"config", "base", "decoders", "rows", "samples", "environment"}
    assert set(results["config"]) == set(USUAL)
    assert set(results["decoders"]) == {f"{experiment} {level} latent" for experiment in
                                        ("mix", "vote") for level in ("token", "sequence")}
    base = files.read(finished / results["base"])
    assert set(base) == {"model", "environment"}
    for name in results["decoders"].values():
        decoder = files.read(finished / name)
        assert set(decoder) == {"decoders", "rows", "model", "environment"}
        assert len(decoder["decoders"]) == 2 + 1 and decoder["model"] is None
        assert not decoder["decoders"][0]["mlp.4.weight"].any()
        assert decoder["decoders"][2]["mlp.4.weight"].any()
        assert all(row in results["rows"] for row in decoder["rows"])
    for row in results["rows"]:
        assert type(row["value"]) is float and math.isfinite(row["value"]) and type(row["n"]) is int
        assert None not in row.values()
    for sample in results["samples"]:
        assert set(sample) == {"experiment", "level", "variant", "policy", "subtask", "prompt",
                               "words", "choices", "reward"}
        assert len(sample["words"]) == len(sample["choices"])
    rows = evaluate.where(results["rows"], metric="reward", subtask=None, experiment="vote")
    assert [(row["policy"], row.get("temperature"), row.get("level"), row.get("select"))
            for row in rows] == [
        *(("fixed", tau, None, None) for tau in (0.0, 0.5, 1.5)), ("oracle", None, None, None),
        *(("adaptive", None, level, select) for level in ("token", "sequence")
          for select in ("greedy", "sample"))]
    assert set(results["environment"]) == {"python", "torch", "gpu", "commit", "machine", "threads"}
    assert "nan" not in (finished / "results.json").read_text(encoding="utf-8").lower()


def test_options_of_the_evaluation_reach_it(run):
    results = again(run, "--test-prompts", 9, "--votes", 8, "--test-samples", 3,
                    "--oracle-prompts", 6)
    rows = results["rows"]
    assert {row["n"] for row in evaluate.where(rows, metric="reward", subtask=None)} == {9}
    assert {row["votes"] for row in evaluate.where(rows, metric="vote_accuracy")} == {1, 2, 4, 8}
    assert {row["n"] for row in evaluate.where(rows, metric="oracle_choice")} == {6}


@pytest.mark.parametrize("arguments", [
    "--variants joint,separate,nll --decoder-reference --levels token",
    "--variants latent_exact --levels sequence --reference initial",
    "--variants joint,latent --model-lr 1e-4 --pairing all --levels token",
    "--experiments repeats --pairing all", "--choices 0.7 --levels token",
    "--choices 0,min_p=.05@3,frequency=1@0,frequency=3@1|min_p=.05"])
def test_every_option_runs_to_the_end(arguments, run):
    for path in run.glob("*.png"):
        path.unlink()
    experiments = () if "--experiments" in arguments else ("--experiments", "mix")
    results = again(run, *experiments, "--rounds", 1, *arguments.split(), plot=figures.plot)
    assert all(math.isfinite(row["value"]) for row in results["rows"])
    assert {path.stem for path in run.glob("*.png")} >= {"rewards", "temperatures", "text"}


def test_test_prompts_are_the_same_for_every_seed_and_the_oracle_has_others(run, monkeypatch):
    """Bug: an oracle searched on test prompts."""
    calls, sample_prompts = [], train_toy.sample_prompts
    monkeypatch.setattr(train_toy, "sample_prompts", lambda *given: (
        calls.append((given[:3], sample_prompts(*given))), calls[-1][1])[1])
    again(run, "--experiments", "mix")
    assert [given for given, _ in calls] == [("mix", "test", 6), ("mix", "validation", 3)]
    before, calls[:] = list(calls), []
    again(run, "--experiments", "mix", "--seed", 1, "--pretrain-steps", 60, "--rounds", 1)
    assert [call for call in calls if call[0][1] != "train"] == before


class Malicious:
    def __reduce__(self):
        return exec, ("open('was_executed', 'w')",)


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "pickle", "in a checkpoint"])
def test_a_damaged_file_is_refused_and_never_run(damage, run, monkeypatch):
    """Bugs: pickled code that is run; weights truncated by a full disk taken for whole."""
    monkeypatch.chdir(run)
    path = run / results_of(run)["base"]
    data = path.read_bytes()
    places = random.Random(0).sample(range(len(data)), 40) if damage == "flipped" else [0]
    right, refusals = files.read(path), 0
    for place in places:
        flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1:]
        path.write_bytes({"truncated": data[:len(data) // 2], "empty": b"", "flipped": flipped,
                          "pickle": pickle.dumps(Malicious())}.get(damage, data))
        if damage == "in a checkpoint":
            torch.save(dict(model=Malicious()), path)
        try:
            again_read = files.read(path)
            assert all(torch.equal(x, again_read["model"][k]) for k, x in right["model"].items())
        except ValueError as error:
            assert f"{path} is damaged" in str(error) and "delete it and run again" in str(error)
            refusals += 1
    assert refusals >= 0.7 * len(places) and not Path("was_executed").exists()


@pytest.mark.parametrize("text", [None, "", "[1, 2]", '{"rows": []}', "half"])
def test_damaged_results_are_refused_in_a_sentence(text, run):
    path = run / "results.json"
    data = path.read_text(encoding="utf-8")
    path.unlink()
    if text is not None:
        path.write_text(data[:len(data) // 2] if text == "half" else text, encoding="utf-8")
    with pytest.raises(ValueError, match="results.json is missing or damaged.*; run train_toy"):
        figures.load(path)


# --- files ----------------------------------------------------------------------------------------


def test_a_file_is_renamed_and_never_written_in_place(run, tmp_path):
    """Another name of the old file keeps the old content."""
    old = {path: path.read_bytes() for path in run.iterdir() if path.suffix != ".pt"}
    for path in old:
        os.link(path, tmp_path / path.name)
    again(run, "--beta", 5, "--test-samples", 3, plot=figures.plot)
    for path, data in old.items():
        assert (tmp_path / path.name).read_bytes() == data
    assert (run / "results.json").read_bytes() != old[run / "results.json"]
    assert not list(run.glob("*.tmp"))


def test_two_runs_may_write_the_same_file(tmp_path, monkeypatch):
    """Bug: a temporary name that two runs share, as process numbers are in containers."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    path, errors, rename = tmp_path / "deep" / "kept", [], os.replace
    both_have_written = threading.Barrier(2, timeout=60)

    def replace(source, target):
        both_have_written.wait()
        rename(source, target)
    monkeypatch.setattr(os, "replace", replace)

    def container(letter):
        try:
            files.write(path, letter * 100_000)
        except ValueError as error:
            errors.append(error)
    threads = [threading.Thread(target=container, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and path.read_bytes() in (b"a" * 100_000, b"b" * 100_000)
    assert list(path.parent.iterdir()) == [path]


def test_one_function_writes_files():
    """The one that renames. Bug: a figure or a page written in place."""
    places = set()
    for path in [ROOT / "train_toy.py", *(ROOT / "toy").glob("*.py")]:
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for node in ast.walk(function) if isinstance(function, ast.FunctionDef) else ():
                name = getattr(node.func, "attr", "") if isinstance(node, ast.Call) else ""
                if name in ("write_text", "write_bytes", "open", "dump"):
                    places.add((path.name, function.name))
    assert places == {("files.py", "write")}


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="cannot write .*; make room or choose another folder"):
        files.write(tmp_path / "file" / "x", "text")
    (tmp_path / "out").mkdir(mode=0o555)
    root = os.geteuid() == 0  # who may write anywhere
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(ValueError, match="cannot write .*"):
            files.write(tmp_path / "out" / "x", "text")
    finally:
        if root:
            os.seteuid(0)


def started(*arguments, limit=None):
    """The main job as a process of its own. limit: bytes per file, as on a disk that is full."""
    prepare = limit and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    return subprocess.Popen([sys.executable, "train_toy.py", *TINY, *map(str, arguments)], cwd=ROOT,
                            text=True, preexec_fn=prepare, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def test_a_full_disk_is_a_sentence_and_leaves_nothing_half_written(tmp_path):
    """In the middle of the base model."""
    process = started("--out", tmp_path, "--pretrain-steps", 9, limit=10_000)
    _, error = process.communicate()
    assert process.returncode == 1 and "make room" in error
    assert SENTENCE.fullmatch(re.sub(r".* left  .*\n", "", error)) and not list(tmp_path.iterdir())


def test_killed_at_random_moments_it_goes_on_to_the_same_results(finished, tmp_path):
    """Bugs: a file written in place, half a file taken for a whole one, a generator that is not
    seeded anew."""
    for i in range(KILLS):
        out = tmp_path / str(i)
        shutil.copytree(finished, out, ignore=shutil.ignore_patterns("decoder*", "*.png", "*.json"))
        process = started("--out", out)
        process.stdout.readline()  # until it trains
        time.sleep(random.uniform(0, 1.5))
        process.kill()
        process.communicate()
        for path in out.glob("*.pt"):
            files.read(path)
        assert again(out) == results_of(finished)


def test_ctrl_c_says_how_to_go_on(tmp_path):
    process = started("--out", tmp_path, "--pretrain-steps", 9)
    for line in process.stdout:
        if line.startswith("base model:"):
            process.send_signal(signal.SIGINT)
            break
    _, error = process.communicate()
    assert process.returncode == 1
    assert error == "\ninterrupted: the same command goes on from what is finished\n"


@pytest.mark.parametrize("error, said", [
    (ValueError("wrong"), "error: wrong"), (FileNotFoundError("no file"), "error: no file"),
    (ModuleNotFoundError("no package"), "error: no package"), (TypeError("a bug"), None),
    (KeyboardInterrupt(), "\ninterrupted: the same command goes on from what is finished")])
def test_what_a_user_can_mend_ends_a_program_in_a_sentence(error, said):
    """Bugs: a traceback; a sentence that hides a mistake of ours."""
    with pytest.raises(SystemExit if said else TypeError) as end, files.program():
        raise error
    assert said is None or end.value.code == said


# --- surroundings ---------------------------------------------------------------------------------


def test_a_path_that_the_console_cannot_write_ends_nothing(finished, tmp_path):
    """cp1252 has no Czech letters: output into a file on Windows."""
    folder = Path(shutil.copytree(finished, tmp_path / "\u0159e\u0161en\u00ed"))
    done = subprocess.run([sys.executable, "-m", "toy.figures", folder / "results.json"], cwd=ROOT,
                          capture_output=True, env=os.environ | dict(PYTHONIOENCODING="cp1252"))
    assert done.returncode == 0 and done.stdout.count(rb"\u0159e") == 5 and not done.stderr


def test_progress_by_hand(monkeypatch):
    """Elapsed * left / done: on a terminal one live line without escape codes (TERM=dumb has none),
    elsewhere a line every 15 seconds, nothing where there is no stderr. Bugs: minutes for seconds,
    a line longer than the terminal, AttributeError under pythonw."""
    now = [100.0]
    monkeypatch.setattr(files.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("COLUMNS", "50")
    for stream, expected in ((None, None), (Terminal(), [
            "", "training  5/20  0.5/s  0:30 left  five".ljust(49), "training  8/20  0.3/s  "
            "0:37 left  eight".ljust(49), "".ljust(49), ""]), (io.StringIO(), [
                "training  8/20  0.3/s  0:37 left  eight", ""])):
        now[0] = 100.0
        monkeypatch.setattr(sys, "stderr", stream)
        progress = files.Progress("training", 20)
        for seconds, done, text in ((0.05, 1, "no"), (10, 5, "five"), (15, 8, "eight")):
            now[0] = 100 + seconds if seconds < 15 else 125
            progress(done, lambda: text)
        files.say("round 1")
        if stream is not None:
            written = stream.getvalue()
            assert "\x1b" not in written and re.split("\r|\n", written) == expected


def test_randomness_is_of_its_purpose_only():
    """torch's own generator, which makes first weights, one of torch and one of NumPy."""
    def numbers(*purpose):
        gen, rng = files.randomness("cpu", *purpose)
        return torch.rand(3).tolist(), torch.rand(3, generator=gen).tolist(), rng.random(3).tolist()
    first = numbers("train", "mix", "token", 1)
    torch.rand(5), np.random.rand(5)
    assert numbers("train", "mix", "token", 1) == first
    for other in (("test", "mix", "token", 1), ("train", "vote", "token", 1),
                  ("train", "mix", "token", 2), ("train", "mix", "token")):
        assert all(a != b for a, b in zip(numbers(*other), first))


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_the_commit_is_the_projects_own(tmp_path, monkeypatch):
    """Bugs: the commit of an outer repository; changes passed over; bytes, which are no JSON."""
    def git(*arguments):
        return subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c",
                               "user.email=a@b.c", *arguments], check=True, text=True,
                              capture_output=True).stdout.strip()
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.setattr(files, "ROOT", inner)
    assert files.environment()["commit"] is None  # no repository
    git("init")
    (inner / "file").write_text("old", encoding="utf-8")
    git("add", ".")
    git("commit", "-m", "first")
    assert files.environment()["commit"] is None  # another project's
    monkeypatch.setattr(files, "ROOT", tmp_path)
    head = git("rev-parse", "HEAD")[:10]
    assert files.environment()["commit"] == head
    (inner / "file").write_text("changed", encoding="utf-8")
    assert files.environment()["commit"] == f"{head}-dirty"
    monkeypatch.setattr(files.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(OSError()))
    assert files.environment()["commit"] is None  # no git


# --- what is shown --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", figures.FIGURES)
def test_each_figure_shows_the_rows_of_every_task(name, finished):
    """Bug: a list of tasks or choices that a figure has of its own."""
    results = figures.load(finished / "results.json")
    figure = figures.FIGURES[name](results)
    words = {text.get_text() for axis in figure.axes for text in
             [*axis.texts, axis.title, *axis.get_xticklabels(), *axis.get_yticklabels()]}
    text = " ".join(words)
    if name == "text":
        assert all(word in text for sample in results["samples"] for word in sample["words"]
                   if sample["level"] == "token")
    elif name == "rewards":
        rows = evaluate.where(results["rows"], experiment="vote", metric="reward", policy="fixed",
                              subtask=None)
        axis, = (axis for axis in figure.axes if axis.get_title() == "vote")
        assert axis.lines[0].get_ydata().tolist() == [row["value"] for row in rows]
        assert len(axis.lines) == 1 + 2 + 1
    elif name == "votes":
        assert [axis.get_title() for axis in figure.axes] == ["vote"]
        assert list(figure.axes[0].lines[0].get_xdata()) == ["1", "2", "4"]
    else:
        assert all(task in text for task in ("math", "general", "story", "vote"))
    if name == "temperatures":
        assert {"0", "0.5", "1.5", "vote: way"} <= words
        shares = np.array(figure.axes[0].images[0].get_array())
        assert shares.sum(1) == pytest.approx([1] * len(shares))
        results["rows"] *= 2  # as if another experiment had the same tasks
        assert np.array_equal(figures.temperatures(results).axes[0].images[0].get_array(), shares)


@pytest.mark.filterwarnings("error")
def test_figures_of_one_experiment_over_long_names(finished, tmp_path):
    """Nothing lies over anything, an empty response is shown. Bugs: room for numbers only, the
    legend of a taller figure, levels that were not trained."""
    again(tmp_path, "--experiments", "vote", "--levels", "sequence", "--choices",
          "0,min_p=.05@3,frequency=3|min_p=.05", plot=figures.plot)
    results = figures.load(tmp_path / "results.json")
    fixed = next(sample for sample in results["samples"] if sample["policy"] == "fixed")
    label = f"{fixed['choices'][0]} fixed, reward {fixed['reward']:.2f}".replace("-0.00", "0.00")
    texts = figures.text(results).axes[0].texts
    begins = min(text.get_position()[0] for text in texts if text.get_position()[0])
    assert label in [text.get_text() for text in texts] and len(label) < begins
    fixed.update(words=[], choices=[])
    texts = [text.get_text() for text in figures.text(results).axes[0].texts]
    assert any(text.startswith("fixed, reward") for text in texts)
    results = figures.load(finished / "results.json")
    results["rows"] = evaluate.where(results["rows"], experiment="vote")
    results["rows"] = [row for row in results["rows"] if row.get("level") != "token"]
    figure = figures.places(results)
    figure.draw_without_rendering()
    legend, = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["sequence level"]
    below = figure.axes[0].xaxis.label.get_window_extent()
    assert not legend.get_window_extent().overlaps(below)


def test_a_figure_of_an_earlier_run_does_not_stay(tmp_path):
    (tmp_path / "votes.png").write_bytes(b"of another run")
    again(tmp_path, "--experiments", "mix", "--levels", "token", "--pretrain-steps", 9,
          plot=figures.plot)
    assert not (tmp_path / "votes.png").exists() and (tmp_path / "rewards.png").exists()


def test_the_summary_has_the_best_fixed_temperature_and_what_to_do_next(finished):
    results = figures.load(finished / "results.json")
    text = evaluate.summary(results)
    for experiment in ("mix", "vote"):
        rows = evaluate.where(results["rows"], experiment=experiment, metric="reward", subtask=None)
        best = max((row for row in rows if row["policy"] == "fixed"), key=lambda row: row["value"])
        line = next(line for line in text.splitlines() if line.startswith(experiment))
        ours = [row["value"] for row in rows if row.get("select") == "sample"]
        oracle, = (row["value"] for row in rows if row["policy"] == "oracle")
        assert line.split()[1:] == [f"{best['value']:.3f}", "at", str(best["temperature"]),
                                    *(f"{x:.3f}" for x in (*ours, oracle))]
    assert str(finished) in text


def test_a_task_of_ones_own_is_everywhere(tmp_path, monkeypatch):
    """With three roles and a metric. Bug: a list of tasks, roles or places beside TASKS."""
    def ask(rng):
        return "now list with " + " ".join(tasks.pick(tasks.NOUNS, rng) for _ in range(4)) + " :"

    def answer(prompt, rng):
        return " ".join([f"{tasks.pick(tasks.VERBS, rng)} {noun}" for noun in prompt.split()[3:7]])

    def walk(prompt):
        for _ in range(4):
            yield "verb"
            yield "noun"
        while True:
            yield "stop"
    echo = tasks.Task(ask, answer, lambda prompt, text: len(set(text.split())) / 100, walk,
                      length=10, share=8, roles={"verb": "hot", "noun": "cold", "stop": "end"},
                      metrics={"length": lambda prompt, text: len(text.split())})
    monkeypatch.setitem(tasks.TASKS, "echo", echo)
    monkeypatch.setitem(tasks.EXPERIMENTS, "echo", ["echo"])
    cfg = config("--out", tmp_path, "--pretrain-steps", 30)
    train_toy.main(replace(cfg, experiments=("mix", "echo")))
    results = figures.load(tmp_path / "results.json")
    assert "echo" in evaluate.summary(results) and evaluate.where(
        results["rows"], metric="length", policy="oracle", experiment="echo", subtask=None)
    for name, words in (("temperatures", ["echo: hot", "echo: cold", "echo: end"]),
                        ("places", ["echo: verb", "echo: noun", "echo: stop"])):
        labels = [label.get_text() for axis in figures.FIGURES[name](results).axes
                  for label in axis.get_yticklabels()]
        assert set(words) <= set(labels)
