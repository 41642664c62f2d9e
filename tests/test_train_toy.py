"""The main job as a user meets it: options, errors, equal seeds, figures."""
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tasks
import train_toy
from results import tables
from toy import options, plots, rows, stages
from toy.options import QUICK, Config, checked, parse
from toy.stages import Job, Stages, randomness

ROOT = Path(__file__).parent.parent
TINY = ("--experiments mix --pretrain-steps 6 --rounds 1 --prompts 9 --responses 6 --steps 2 "
        "--test-prompts 6 --test-samples 2 --oracle-prompts 3 --choices 0,0.5,1").split()


def run(out, *arguments):
    """The job in this process; what is saved, times aside."""
    train_toy.main(parse([*TINY, "--out", str(out), *arguments], ""))
    results = rows.load(out / "results.json")
    del results["config"]["out"]
    for stage in results["stages"].values():
        del stage["seconds"]
    return results


def adaptive(results):
    """What trained decoders earned, without the columns that say how they were trained."""
    return rows.values(results, policy="adaptive", metric="reward")


def command(*arguments, **options):
    return subprocess.run([sys.executable, "train_toy.py", *arguments], cwd=ROOT, text=True,
                          capture_output=True, **options)


@pytest.mark.parametrize("arguments, words", [
    (["--bate", "1"], "--bate"),
    (["--variants", "latent,dpo"], "--variants is latent, dpo; choose from joint, separate"),
    (["--experiments", ""], "--experiments is empty"),
    (["--variants", "nll,latent,nll"], "name each once"),
    (["--levels", "word"], "token, sequence"),
    (["--choices", "0,-1"], "is no choice"),
    (["--choices", "0,1e31"], "is no choice"),
    (["--choices", "nan"], "is no choice"),
    (["--choices", ","], "are ()"),
    (["--choices", "0.5,0.5"], "distinct"),
    (["--choices", "0,top_q=.9"], "'top_q=.9' is no choice"),
    (["--choices", "0,top_p=.9,top_p=0.90@1"], "distinct"),
    (["--choices", "0"], "makes no pair; give one above 0 too"),
    (["--beta", "0"], "--beta is 0.0; give a finite number > 0"),
    (["--beta", "nan"], "--beta is nan"),
    (["--beta", "much"], "much"),
    (["--lr", "-1"], "--lr is -1.0"),
    (["--rounds", "0"], "--rounds is 0; give a finite number >= 1"),
    (["--seed", "-1"], "--seed is -1"),
    (["--n-embd", "30"], "does not divide into 4 heads"),
    (["--pairing", "top-k"], "repeats has none; add --experiments constrained"),
    (["--responses", "1"], "--responses is 1; pairs need 2"),
    (["--device", "tpu"], "--device tpu is not supported; choose cpu or cuda"),
    (["--device", "mps"], "--device mps is not supported"),
    *([] if torch.cuda.is_available() else [(["--device", "cuda"], "--device cuda is not there")]),
])
def test_bad_options_are_one_sentence(arguments, words, capsys):
    with pytest.raises(SystemExit) as exit:
        parse(arguments, "")
    error = capsys.readouterr().err
    assert exit.value.code == 2 and words in error
    assert error.startswith("error: ") and error.count("\n") == 1


def test_a_word_on_the_command_line_reaches_the_user_as_one_sentence():
    for arguments, code in ((["--beta", "0"], 2), (["--out", "LICENSE/x"], 1)):
        result = command(*arguments)
        assert result.returncode == code and result.stderr.count("\n") == 1
        assert result.stderr.startswith("error: ")


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"], "")
    text = " ".join(capsys.readouterr().out.split())
    for name, field in Config.__dataclass_fields__.items():
        assert "--" + name.replace("_", "-") in text
        assert field.metadata["help"].split(":")[0] in text
    assert parse(["--seed", "0", "--model-lr", "0"], "").model_lr == 0  # 0 is not 'not given'
    quick = parse(["--quick", "--rounds", "7"], "")
    assert quick.rounds == 7 and quick.out == "out/quick"  # what is given goes before --quick


def test_defaults_are_those_of_the_published_results():
    """results.json names every option that it was made with. Bug: a default that is no longer what
    the pages report. What --quick shortens, and nothing else, is written out here."""
    published = rows.load(tables.DATA / "results.json")["config"]
    plain = parse(["--device", "cpu"], "")
    chosen = {"out", "seeds", "base_seeds", "variants"}  # more of the same
    for name, value in published.items():
        default = getattr(plain, name)
        if name not in chosen:
            same = sorted(value) == sorted(default) if name in ("experiments", "levels") else (
                value == (list(default) if isinstance(default, tuple) else default))
            assert same, name
    assert set(published) == set(Config.__dataclass_fields__)
    assert (plain.seeds, plain.base_seeds, plain.variants, plain.out) == (1, 1, ("latent",), "out")
    assert parse([], "").device == ("cuda" if torch.cuda.is_available() else "cpu")
    quick = vars(parse(["--device", "cpu", "--quick"], ""))
    changed = {name: value for name, value in quick.items() if value != getattr(plain, name)}
    assert changed == QUICK == dict(pretrain_steps=200, rounds=2, prompts=24, test_prompts=24,
                                    test_samples=2, votes=8, oracle_prompts=6, out="out/quick")


GIVEN = {  # an option as it is written, and as it is read
    "experiments": ("vote, mix", ("vote", "mix")), "levels": ("sequence", ("sequence",)),
    "variants": ("nll,joint,latent,separate", ("nll", "joint", "latent", "separate")),
    "choices": ("0,1e30, 0.25, , 3@min_p=.05", (0.0, 1e30, 0.25, "3@min_p=0.05")),
    "beta": ("0.125", 0.125),
    "lr": ("1e-9", 1e-9), "rounds": ("1", 1), "prompts": ("1", 1), "responses": ("2", 2),
    "steps": ("1", 1), "pairing": ("all", "all"), "top_k": ("99", 99),
    "reference": ("initial", "initial"), "model_lr": ("0.5", 0.5), "seed": ("0", 0),
    "seeds": ("1", 1), "base_seeds": ("1", 1), "device": ("cpu", "cpu"), "n_layer": ("1", 1),
    "n_head": ("2", 2), "n_embd": ("128", 128), "pretrain_steps": ("1", 1),
    "pretrain_lr": ("7", 7.0), "test_prompts": ("1", 1), "test_samples": ("1", 1),
    "votes": ("1", 1), "oracle_prompts": ("1", 1), "out": ("here/there", "here/there")}


def test_every_option_is_read_as_it_is_written():
    """Each at a limit of what is taken. Bugs: a limit that is one off, an option under another's
    name, a flag that is always on, white space in a name."""
    usual = vars(parse(["--device", "cpu"], ""))
    for name, (written, value) in GIVEN.items():
        cfg = parse(["--device", "cpu", "--" + name.replace("_", "-"), written], "")
        assert vars(cfg) == usual | {name: value}, name
    for name in ("decoder_reference", "exact_sequence"):
        assert usual[name] is False
        cfg = parse(["--device", "cpu", "--" + name.replace("_", "-")], "")
        assert vars(cfg) == usual | {name: True}
    assert set(GIVEN) | {"decoder_reference", "exact_sequence"} == set(usual)


@pytest.mark.parametrize("change, words", [
    *[({name: 0}, f"--{name.replace('_', '-')} is 0; give a finite number >= 1") for name in (
        "rounds prompts responses steps top_k seeds base_seeds n_layer n_head n_embd "
        "pretrain_steps test_prompts test_samples votes oracle_prompts").split()],
    *[({name: value}, f"--{name.replace('_', '-')} is {value}; give a finite number > 0")
      for name in ("beta", "lr", "pretrain_lr") for value in (0.0, -1.0, math.inf, math.nan, 1e18)],
    (dict(model_lr=-0.1), "--model-lr is -0.1; give a finite number >= 0"),
    (dict(model_lr=math.nan), "--model-lr is nan; give a finite number >= 0"),
    (dict(seed=-1), "--seed is -1; give a finite number >= 0"),
    (dict(seed=10 ** 18), "give a finite number >= 0"),
    (dict(rounds=2.0), "--rounds is 2.0; give a whole number"),
    (dict(beta="1"), "--beta is '1'; give a number"),
    (dict(out=7), "--out is 7; give a text"),
    (dict(pairing="best"), "--pairing is best; choose from best-worst, top-k, all"),
    (dict(reference="last"), "--reference is last; choose from round, initial"),
    (dict(levels=()), "--levels is empty; choose from token, sequence"),
    (dict(experiments=("mix", "mix")), "--experiments is mix, mix; name each once"),
    (dict(choices=("a",)), "'a' is no choice"),
    (dict(choices=(0.5, 0.5)), "distinct"),
    (dict(n_head=3), "n_embd 64 does not divide into 3 heads"),
    (dict(responses=1), "--responses is 1; pairs need 2"),
    (dict(pairing="top-k", experiments=("constrained",), top_k=5), "--responses is 8"),
    (dict(pairing="top-k", experiments=("constrained", "mix")), "mix has none; add --experiments "
                                                                "constrained"),
    (dict(pairing="top-k", experiments=("vote",)), "vote has none"),
    (dict(device="cpu:0"), "--device cpu:0 is not supported; choose cpu or cuda")])
def test_what_cannot_run_is_refused(change, words):
    """One value at a time, made by hand as a notebook does. Bugs: a limit off by one, a value of
    another type or NaN taken, an `and` for an `or`."""
    with pytest.raises(ValueError) as error:
        checked(Config(**dict(device="cpu") | change))
    assert words in str(error.value)


def test_what_just_fits_is_taken(monkeypatch):
    """Bugs: half of the responses refused as k, whole numbers refused where fractions may stand,
    another device than the one there is."""
    fits = dict(device="cpu", pairing="top-k", experiments=("constrained",), responses=9, top_k=4)
    assert checked(Config(**fits)).top_k == 4
    cfg = checked(Config(device="cpu", beta=1, model_lr=0, choices=("0", 1), top_k=99,
                         seed=10 ** 17))
    assert cfg.choices == (0.0, 1.0) and all(type(tau) is float for tau in cfg.choices)
    for there, found in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
        assert checked(Config()).device == found
        assert options.checked_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="--device cuda is not there; choose cpu"):
        options.checked_device("cuda")
    with pytest.raises(SystemExit):
        parse(["--round", "3"], "")  # half a name is no name


def test_a_stage_is_computed_once_for_its_name_and_key(tmp_path, monkeypatch, capsys):
    """Bugs: a result of another key, name or version of torch; computed anew though it is kept; a
    result that is not what was computed."""
    computed = []

    def stage(name="base0", key=("a", 1), value=7):
        run = Stages(tmp_path, {"base0": 1.0, "base1": 2.0})
        result = run(name, list(key), lambda: computed.append(name) or dict(value=value))
        assert list(run.finished) == [name]
        assert set(run.finished[name]) == {"seconds", "environment", "file"}
        return result
    assert stage() == dict(value=7) and stage(value=8) == dict(value=7)
    assert "base0: kept from an earlier run" in capsys.readouterr().out and len(computed) == 1
    assert stage("base1", value=8) == dict(value=8) and stage(key=("a", 2), value=9)["value"] == 9
    assert stage(key=("a", 2), value=1)["value"] == 9 and len(computed) == 3
    monkeypatch.setattr(torch, "__version__", "9")
    assert stage(value=10)["value"] == 10
    monkeypatch.setattr(stages, "code_of", lambda *parts: "other code")
    assert stage(value=11)["value"] == 11
    files = sorted(path.name for path in (tmp_path / "stages").iterdir())
    assert len(files) == 5 and all(re.fullmatch(r"base[01]-[0-9a-f]{12}\.pt", f) for f in files)


def test_a_kept_stage_s_time_is_that_of_its_making(tmp_path, monkeypatch):
    """With a clock of our own. Bugs: the time of reading it, a unit that is not seconds."""
    now = [100.0]
    monkeypatch.setattr(stages.time, "monotonic", lambda: now[0])
    for _ in range(2):
        run = Stages(tmp_path, {"base0": 1.0})
        run("base0", [], lambda: now.__setitem__(0, now[0] + 12.346) or {})
        assert run.finished["base0"]["seconds"] == 12.35
        assert run.spent == (1.0 if _ == 0 else 0.0)  # what is read back costs nothing


def test_the_line_of_progress_by_hand(tmp_path, monkeypatch, capsys):
    """Elapsed * (cost ahead) / (cost spent), with a clock of our own, in a log every 15 seconds.
    Bugs: the stage's own rest left out, finished stages counted as ahead, minutes for seconds."""
    now = [0.0]
    monkeypatch.setattr(stages.time, "monotonic", lambda: now[0])
    run = Stages(tmp_path, {"one": 10.0, "two": 20.0, "three": 30.0})

    def first():
        now[0] = 14.9
        run.tick(0.0, "early")
        now[0] = 20.0
        run.tick(0.0, lambda: "none yet")  # made when it is shown
        now[0] = 40.0
        run.tick(0.5, "half")  # 5 of 60 spent in 40 s: 55 ahead
        now[0] = 54.0
        run.tick(0.9, lambda: 1 / 0)  # too soon
        now[0] = 80.0
        return {}

    def second():
        now[0] = 120.0
        run.tick(0.25, "on")  # 15 spent in 120 s: 45 ahead
        return {}
    run("one", [], first)
    run("two", [], second)
    assert capsys.readouterr().err.splitlines() == [
        "[1/3] one   0%  time left: measuring  none yet",
        "[1/3] one  50%  7:20 left  half",
        "[2/3] two  25%  6:00 left  on"]


def test_randomness_is_of_the_seeds_alone():
    """Three generators: torch's own, which draws first weights, a torch one and a numpy one. Bugs:
    a seed left out, one generator seeded from elsewhere, two purposes with the same numbers."""
    def drawn(*seeds):
        gen, rng = randomness("cpu", *seeds)
        return (torch.rand(3).tolist(), torch.rand(3, generator=gen).tolist(),
                rng.random(3).tolist())
    first = drawn("train", "mix", 0, "token", 1)
    torch.rand(5), np.random.rand(5)
    assert drawn("train", "mix", 0, "token", 1) == first
    for other in (("test", "mix", 0, "token", 1), ("train", "vote", 0, "token", 1),
                  ("train", "mix", 1, "token", 1), ("train", "mix", 0, "sequence", 1),
                  ("train", "mix", 0, "token", 2), ("train", "mix", 0, "token")):
        assert all(a != b for a, b in zip(drawn(*other), first)), other


def test_names_columns_and_seeds_of_a_job():
    """Bugs: two jobs of one name, whose results would be taken for each other; a column's value
    under another's name; a purpose that shares its numbers with another."""
    jobs = [Job(1), Job(1, "mix"), *(Job(base, experiment, level, variant, seed)
            for base in (1, 2) for experiment in ("mix", "vote") for level in ("token", "sequence")
            for variant in ("nll", "joint") for seed in (0, 3))]
    assert len({job.name for job in jobs}) == len(jobs)
    job = Job(base_seed=4, experiment="mix", level="token", variant="nll", seed=2)
    assert job.columns == dict(base_seed=4, experiment="mix", level="token", variant="nll", seed=2)
    assert job.name == "base4-mix-nll-token2" and Job(4, "mix").name == "base4-mix"
    assert job.seeds("adaptive") == ("adaptive", "mix", 4, "token", 2)
    assert Job(4).seeds("pretrain") == ("pretrain", None, 4, None, None)


def test_a_folder_without_history_has_no_commit(tmp_path, monkeypatch):
    """git answers with an error there. Bug: an empty text, which a page would print."""
    monkeypatch.setattr(stages, "ROOT", tmp_path)
    assert stages.environment("cpu")["commit"] is None


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_the_commit_is_the_one_that_git_names(tmp_path, monkeypatch, capfd):
    """Ten digits at least, and "-dirty" where a file has changed since. Bugs: bytes, which no file
    of results can hold, an answer that goes to the terminal, changes passed over."""
    def git(*arguments):
        return subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c",
                               "user.email=a@b.c", *arguments], check=True, text=True,
                              capture_output=True).stdout.strip()
    git("init")
    (tmp_path / "page").write_text("old", encoding="utf-8")
    git("add", "page")
    git("commit", "-m", "first")
    monkeypatch.setattr(stages, "ROOT", tmp_path)
    head = git("rev-parse", "HEAD")[:10]
    assert stages.environment("cpu")["commit"] == head
    (tmp_path / "page").write_text("changed", encoding="utf-8")
    assert stages.environment("cpu")["commit"] == f"{head}-dirty"
    assert capfd.readouterr().out == ""


def test_the_environment_says_what_runs_here(monkeypatch):
    """Bugs: another's version, a commit that a folder without history has."""
    monkeypatch.setattr(stages.platform, "python_version", lambda: "3.99")
    monkeypatch.setattr(stages.platform, "machine", lambda: "abacus")
    monkeypatch.setattr(torch, "__version__", "9.8")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)

    def git(command, **_):
        assert command[0] == "git" and "describe" in command and "--dirty" in command
        return subprocess.CompletedProcess(command, 0, stdout="abc-dirty\n")
    monkeypatch.setattr(stages.subprocess, "run", git)
    expected = dict(python="3.99", torch="9.8", device="cpu", machine="abacus", threads=5,
                    commit="abc-dirty")
    assert stages.environment("cpu") == expected

    def none(*_, **__):
        raise OSError
    monkeypatch.setattr(stages.subprocess, "run", none)
    assert stages.environment("cpu") == expected | dict(commit=None)


def test_equal_seeds_give_equal_results_and_a_resumed_run_too(tmp_path, capsys):
    """Bugs: a generator shared between stages; a stage kept for other options."""
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    assert first == second
    own = r'"seconds": [^,]*,|"out": ".*?"|"crc32": .*?}'  # all else is the same, byte by byte
    assert len({re.sub(own, "", (tmp_path / folder / "results.json").read_text(encoding="utf-8"))
                for folder in "ab"}) == 1
    for path in (tmp_path / "a").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    finished = sorted((tmp_path / "a" / "stages").glob("*token0*"))
    assert len(finished) == 1
    finished[0].unlink()  # as if stopped before the last but one stage
    (tmp_path / "a" / "results.json").unlink()
    capsys.readouterr()
    assert run(tmp_path / "a") == first
    assert capsys.readouterr().out.count("kept from an earlier run") == 3
    other = run(tmp_path / "a", "--beta", "5")
    assert capsys.readouterr().out.count("kept from an earlier run") == 2  # base model, fixed
    assert adaptive(other) != adaptive(first)  # values alone: the options are columns too
    assert adaptive(run(tmp_path / "a", "--seed", "1")) != adaptive(first)


@pytest.mark.parametrize("arguments", [
    "--variants joint,separate,nll --decoder-reference",
    "--variants latent --exact-sequence --levels sequence --reference initial --rounds 2",
    "--variants joint,latent --model-lr 1e-4 --rounds 2 --pairing all",
    "--experiments constrained --pairing top-k --top-k 2",
    "--choices 0.7 --base-seeds 2 --seeds 2 --levels token"])
def test_every_option_runs_and_draws(arguments, tmp_path):
    results = run(tmp_path, *arguments.split())
    assert all(isinstance(row["value"], float) and row["value"] == row["value"]
               for row in results["rows"])
    assert {path.stem for path in tmp_path.glob("*.png")} >= {"rewards", "temperatures", "text"}


def test_what_computed_a_stage_stays_with_it(tmp_path, monkeypatch):
    """Bug: today's environment written beside yesterday's numbers."""
    run(tmp_path, "--levels", "token")
    before = rows.load(tmp_path / "results.json")["stages"]
    monkeypatch.setattr("toy.stages.environment", lambda device: dict(device=device, torch="9"))
    run(tmp_path, "--levels", "token", "--beta", "3")
    after = rows.load(tmp_path / "results.json")["stages"]
    assert list(after) == list(before) == ["base0", "base0-mix", "base0-mix-latent-token0"]
    assert after["base0"] == before["base0"] and after["base0-mix"] == before["base0-mix"]
    assert after["base0-mix-latent-token0"]["environment"] == dict(device="cpu", torch="9")


def test_a_column_more_reseeds_nothing():
    """Seeds are named, not whatever columns there are; a variant shares its rivals' samples."""
    job = Job(1, "mix", "token", "latent", 2)
    assert job.seeds("train") == ("train", "mix", 1, "token", 2)
    assert Job(1, "mix", "token", "nll", 2).seeds("train") == job.seeds("train")
    assert job.name == "base1-mix-latent-token2" and Job(0).name == "base0"
    assert Job(0, "vote").name == "base0-vote"


def test_only_a_first_round_needs_unequal_rewards(tmp_path, capsys, monkeypatch):
    """Bug: a job that ends when its decoder has learned to answer everything alike."""
    paired, alike = train_toy.paired, [2]

    def some(cfg, outcome):
        rounds.append(len(rounds) + 1)
        return ([], []) if rounds[-1] in alike else paired(cfg, outcome)
    monkeypatch.setattr(train_toy, "paired", some)
    rounds = []
    results = run(tmp_path, "--rounds", "3", "--levels", "token")
    assert {row["round"] for row in results["rows"]} == {None, 0, 2}
    assert "round 2  no pair of unequal rewards" in capsys.readouterr().out
    alike[0], rounds = 1, []
    with pytest.raises(ValueError, match="round 1 of mix has no pair of unequal rewards; raise --"):
        run(tmp_path, "--rounds", "4", "--levels", "token")


def test_evaluation_never_changes_training(tmp_path):
    """Bug: training and evaluation share a generator."""
    def of_training(results):
        return [row for row in results["rows"] if row["round"] is not None]
    few, many = run(tmp_path / "a"), run(tmp_path / "b", "--test-samples", "5")
    assert of_training(few) == of_training(many) and adaptive(few) != adaptive(many)


def test_figures_show_the_rows_and_nothing_else(tmp_path):
    """Lines of a figure have the values of results.json; a missing experiment is no error."""
    results = run(tmp_path)
    figure = plots.rewards(results)
    drawn = figure.axes[0].lines[0].get_ydata().tolist()
    assert drawn == rows.values(results, policy="fixed", metric="reward", subtask="math")
    assert plots.votes(results) is None and plots.metrics(results) is None
    assert not (tmp_path / "votes.png").exists()
    for row in results["rows"]:
        assert set(row) == set(rows.COLUMNS)


def test_a_figure_of_an_earlier_run_does_not_stay(tmp_path):
    """Bug: a figure of what is no longer in the results, beside new ones."""
    (tmp_path / "votes.png").write_bytes(b"of another run")
    run(tmp_path)
    assert not (tmp_path / "votes.png").exists()


# --- a task of one's own, added as README says ----------------------------------------------------


def ask_echo(rng):
    return "now list with " + " ".join(tasks.pick(tasks.NOUNS, rng) for _ in range(4)) + " :"


def answer_echo(prompt, rng):
    words = []
    for noun in prompt.split()[3:7]:
        wrong = rng.random() < 0.3
        words += [tasks.pick(tasks.VERBS, rng), tasks.pick(tasks.NOUNS, rng) if wrong else noun]
    return " ".join([*words, "."])


def reward_echo(prompt, text):
    words = text.split()
    right = sum(a == b for a, b in zip(words[1::2], prompt.split()[3:7])) / 4
    return right * len(set(words[::2]) & set(tasks.VERBS)) / 4 + len(set(words)) / 100


def walk_echo(prompt):
    for _ in range(4):
        yield "verb"
        yield "noun"
    while True:
        yield "stop"


def test_a_task_of_ones_own_is_in_every_figure_and_table(tmp_path, monkeypatch):
    """Alone and beside the mix; with three roles. Bug: a list of tasks, roles or places that a
    figure or table has of its own."""
    echo = tasks.Task(ask_echo, answer_echo, reward_echo, walk_echo, length=10, share=8,
                      roles={"verb": "hot", "noun": "cold", "stop": "end"},
                      metrics={"length": lambda prompt, text: len(text.split())})
    monkeypatch.setitem(tasks.TASKS, "echo", echo)
    monkeypatch.setitem(tasks.EXPERIMENTS, "echo", ["echo"])
    choices = Config.__dataclass_fields__["experiments"].metadata["choices"]
    assert "echo" not in choices  # they are read when the program starts
    for experiments in ("echo", "mix,echo"):
        cfg = parse([*TINY, "--out", str(tmp_path)], "")
        object.__setattr__(cfg, "experiments", tuple(experiments.split(",")))
        train_toy.main(cfg)
        results = rows.load(tmp_path / "results.json")
        shown = {name: make(results) for name, make in plots.FIGURES.items()}
        titled = {name for name, figure in shown.items() if figure is not None
                  and any("echo" in axis.get_title() for axis in figure.axes)}
        assert titled >= {"temperatures", "places", "rewards", "metrics", "win_rates", "pairs"}
        assert any("echo" in t.get_text() for t in shown["text"].axes[0].texts)
        axis = next(a for a in shown["temperatures"].axes if a.get_title() == "echo")
        assert {t.get_text() for t in axis.get_legend().get_texts()} == {"hot", "cold", "end"}
        axis = next(a for a in shown["places"].axes if a.get_title() == "echo")
        assert [t.get_text() for t in axis.get_xticklabels()] == ["verb", "noun", "stop"]
        for table in (tables.headline, tables.temperature_means):
            assert "echo" in table(results, None)
        assert "echo" in rows.summary(results)
