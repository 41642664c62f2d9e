"""The main job as a user meets it: options, errors, equal seeds, figures."""
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tasks
import train_toy
from results import tables
from toy import plots, rows
from toy.options import Config, parse
from toy.stages import Job

ROOT = Path(__file__).parent.parent
TINY = ("--experiments mix --pretrain-steps 6 --rounds 1 --prompts 9 --responses 6 --steps 2 "
        "--test-prompts 6 --test-samples 2 --oracle-prompts 3 --temperatures 0,0.5,1").split()


def run(out, *arguments):
    """The job in this process; what is saved, times aside."""
    train_toy.main(parse([*TINY, "--out", str(out), *arguments], ""))
    results = rows.load(out / "results.json")
    del results["config"]["out"]
    for stage in results["stages"].values():
        del stage["seconds"]
    return results


def command(*arguments, **options):
    return subprocess.run([sys.executable, "train_toy.py", *arguments], cwd=ROOT, text=True,
                          capture_output=True, **options)


@pytest.mark.parametrize("arguments, words", [
    (["--bate", "1"], "--bate"),
    (["--variants", "latent,dpo"], "--variants is latent, dpo; choose from joint, separate"),
    (["--experiments", ""], "--experiments is empty"),
    (["--variants", "nll,latent,nll"], "name each once"),
    (["--levels", "word"], "token, sequence"),
    (["--temperatures", "0,-1"], "temperatures are (0.0, -1.0)"),
    (["--temperatures", "0,1e31"], "from 0 to 1e+30"),
    (["--temperatures", "nan"], "temperatures are (nan,)"),
    (["--temperatures", ","], "temperatures are ()"),
    (["--temperatures", "0.5,0.5"], "distinct"),
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
    assert other["rows"] != first["rows"]
    assert run(tmp_path / "a", "--seed", "1")["rows"] != first["rows"]


@pytest.mark.parametrize("arguments", [
    "--variants joint,separate,nll --decoder-reference",
    "--variants latent --exact-sequence --levels sequence --reference initial --rounds 2",
    "--variants joint,latent --model-lr 1e-4 --rounds 2 --pairing all",
    "--experiments constrained --pairing top-k --top-k 2",
    "--temperatures 0.7 --base-seeds 2 --seeds 2 --levels token"])
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
    assert of_training(few) == of_training(many) and few["rows"] != many["rows"]


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
