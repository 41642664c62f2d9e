"""toy/say.py as a user meets it, on the finished run, whose weights are loaded here by hand."""
import io
import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch

import decoder
from conftest import ROOT, Terminal, as_program
from tasks import EOS, EXPERIMENTS, TASKS, WORDS, decode, encode, split_of
from toy import evaluate, figures, files, say
from toy.models import new_model

STORY, VOTE = "please tell how fox finds the moon :", "hurry solve for 3 4 9 1 :"
CHOICES = (0.0, 0.5, 1.5)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("NO_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("WT_SESSION", "1")


def sampled(folder, prompt, experiment, level, n, seed, **policy):
    """What decoder.generate samples.  -> [(words, their temperatures)]"""
    results = figures.load(folder / "results.json")
    model = new_model(1, 2, 16)
    model.load_state_dict(files.read(folder / results["base"])["model"])
    if not policy:
        policy["decoder"] = decoder.AdaptiveDecoder(16, CHOICES, level)
        kept = files.read(folder / results["decoders"][f"{experiment} {level} latent"])
        policy["decoder"].load_state_dict(kept["decoders"][-1])
    rollout = decoder.generate(model, [encode(prompt)] * n, 9 if prompt == VOTE else 37, eos=EOS,
                               generator=torch.Generator().manual_seed(seed), **policy)
    found = []
    for i in range(n):
        words = decode(rollout.tokens[i][rollout.mask[i]].tolist()).split()
        k = [] if rollout.tau_idx is None else rollout.tau_idx[i].tolist()
        taus = [CHOICES[j] for j in k] or [policy["temperature"]]
        found.append((words, (taus * len(words) if len(taus) == 1 else taus)[:len(words)]))
    return found


def said(capsys, *arguments):
    say.main(list(map(str, arguments)))
    return capsys.readouterr().out


def responses(text):
    """[(reward or None, words, temperatures)] of what was printed with numbers."""
    found = []
    for lead, line in re.findall(r"^(.{8})(.*)$", text, re.MULTILINE):
        marked = re.findall(r"(\S+?)\(([\d.]+)\)", line)
        if re.fullmatch(r" +(-?\d\.\d\d|-)  ", lead):
            found.append((None if "- " in lead else float(lead), [], []))
        if found and marked:
            found[-1][1].extend(word for word, _ in marked)
            found[-1][2].extend(float(tau) for _, tau in marked)
    return found


@pytest.mark.parametrize("prompt, task, experiment", [(STORY, "story", "mix"),
                                                      (VOTE, "vote", "vote")])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_it_prints_what_generate_samples(finished, capsys, prompt, task, experiment, level):
    """Bugs: another experiment's, level's or round's decoder, another seed, temperatures one word
    off or of another response, a reward of another task."""
    text = said(capsys, *prompt.split(), "--level", level, "--n", 4, "--seed", 3, "--out", finished)
    found, expected = responses(text), sampled(finished, prompt, experiment, level, 4, 3)
    assert [(words, taus) for _, words, taus in found] == expected
    rewards = [TASKS[task].reward(prompt, " ".join(words)) for words, _ in expected]
    assert [reward for reward, *_ in found] == [float(f"{reward:.2f}") for reward in rewards]
    assert f"{experiment} decoder, {level} level, mean reward {np.mean(rewards):.2f}" in text
    use = "used in training" if split_of(prompt) == "train" else "held out"
    assert f"a prompt of {task}, {use}" in text


def test_a_fixed_choice_and_an_experiment_can_be_given(finished, capsys):
    text = said(capsys, STORY, "--temperature", 0.7, "--n", 2, "--out", finished)
    adaptive, fixed = text.split("\nfixed: 0.7")
    assert len(responses(adaptive)) == 2
    assert [x[1:] for x in responses(fixed)] == sampled(finished, STORY, "mix", "token", 2, 0,
                                                        temperature=0.7)
    assert "fixed: top_p=0.9" in said(capsys, STORY, "--temperature", "top_p=.9", "--out", finished)
    text = said(capsys, STORY, "--experiment", "vote", "--n", 2, "--out", finished)
    assert [x[1:] for x in responses(text)] == sampled(finished, STORY, "vote", "token", 2, 0)


@pytest.mark.parametrize("prompt", [
    "fox finds", STORY + " fox", "now continue fox moon the owl . :", STORY.replace(":", ".")])
def test_any_words_are_continued_and_have_no_reward(finished, capsys, prompt):
    text = said(capsys, prompt, "--out", finished)
    assert "no task has such prompts, so there is no reward" in text and "mean reward" not in text
    assert [reward for reward, *_ in responses(text)] == [None] * 3


def test_every_task_is_recognised_and_its_neighbours_are_not():
    rng = np.random.default_rng(5)
    for name, task in TASKS.items():
        for _ in range(6):
            words = task.ask(rng).split()
            assert say.task_of(" ".join(words)) == name
            words[6] = "working"
            assert say.task_of(" ".join(words)) is None
    assert say.task_of(":") is None


def test_unknown_words_print_the_vocabulary():
    """Each word once, in lines that fit."""
    with pytest.raises(ValueError) as error:
        say.main(["please", "tell how Fox finds the dragon :"])
    first, *lines = str(error.value).splitlines()
    assert first.startswith("the model does not know 'Fox', 'dragon'.")
    assert sorted(word for line in lines for word in line.split()) == sorted(WORDS)
    assert max(map(len, lines)) <= say.WIDTH


@pytest.mark.parametrize("arguments, words", [
    ([" "], "the prompt is empty; give one"), ([STORY, "--n", "0"], "--n is 0; give 1 or more"),
    ([STORY, "--seed", "-1"], "--seed is -1; give 0 to"),
    ([STORY, "--seed", "99999999999999999999"], "--seed is 9+; give 0 to"),
    ([STORY, "--experiment", "repeats"], "no 'repeats'; add --experiment mix or vote"),
    (["fox"] * 53, "the prompt has 53 words; give fewer than 53"),
    ([STORY, "--temperature", "warm"], "'warm' is not a choice")])
def test_what_cannot_be_said_is_refused_in_a_sentence(finished, arguments, words):
    with pytest.raises(ValueError, match=words):
        say.main([*arguments, "--out", str(finished)])


@pytest.mark.parametrize("levels, used", [(["sequence"], "sequence"),
                                          (["sequence", "token"], "token")])
def test_the_level_is_token_if_the_run_has_it(levels, used, run, capsys):
    results = figures.load(run / "results.json")
    results["config"]["levels"] = levels
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert f"mix decoder, {used} level" in said(capsys, STORY, "--out", run)


def test_a_run_that_is_missing_or_changed_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match=f"{tmp_path}/none has no trained run. `python train_toy"):
        say.main([STORY, "--out", "~/none"])
    results = figures.load(run / "results.json")
    (run / results["decoders"]["mix token latent"]).unlink()
    with pytest.raises(ValueError, match="decoder_mix_token_latent_.* is missing; run train_toy"):
        say.main([STORY, "--out", str(run)])
    path = run / "results.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"n_embd": 16', '"n_embd": 32'), encoding="utf-8")
    with pytest.raises(ValueError, match="has changed since this run; run train_toy.py again"):
        say.main([STORY, "--level", "sequence", "--out", str(run)])
    assert as_program(monkeypatch, "toy.say", STORY, "--level", "word") == 2


def on_terminal(monkeypatch, *arguments):
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    say.main(list(map(str, arguments)))
    return screen.getvalue()


@pytest.mark.parametrize("colorterm, cold, hot", [
    ("truecolor", "48;2;0;34;78", "48;2;254;232;56"), ("", "48;5;17", "48;5;221")])
def test_each_word_has_the_colour_of_its_temperature(finished, monkeypatch, colorterm, cold, hot):
    """cividis goes from #00224e to #fee838; of the 216 colours the nearest are 17 and 221."""
    monkeypatch.setenv("COLORTERM", colorterm)
    screen = on_terminal(monkeypatch, STORY, "--temperature", 0.7, "--out", finished)
    colours = re.findall(r"\x1b\[([\d;]+);38;5;(\d+)m(\S+?)\x1b\[0m", screen.split("\nfixed")[0])
    pairs = [pair for words, taus in sampled(finished, STORY, "mix", "token", 3, 0)
             for pair in zip(words, taus)]
    assert [word for *_, word in colours] == [word for word, _ in pairs]
    assert {tau for _, tau in pairs} == set(CHOICES)
    for (ground, ink, _), (_, tau) in zip(colours, pairs):
        assert (ground == cold) == (tau == 0.0) and (ground == hot) == (tau == 1.5)
        assert ink == ("16" if tau == 1.5 else "231")  # black on light, white on dark
    key = re.sub(r"\x1b\[[\d;]*m", "", screen.splitlines()[-1])
    assert key.split() == ["temperature", "0", "0.5", "1.5", "0.7"] and "(" not in screen


@pytest.mark.parametrize("variable, value", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_without_colours_there_are_numbers(finished, monkeypatch, capsys, variable, value):
    plain = said(capsys, STORY, "--out", finished)
    monkeypatch.setenv(variable, value)
    assert on_terminal(monkeypatch, STORY, "--out", finished) == plain
    assert "\x1b" not in plain and len(responses(plain)) == 3
    assert not say.has_colours(None, {}) and not say.has_colours(io.StringIO(), {})


def test_a_clause_is_a_line_and_a_long_one_is_broken():
    def mark(word, choice):
        return f"{word}{choice}", len(word) + 1
    words = "fox finds owl . comet runs to moon .".split()
    assert say.lines_of(words, range(9), mark, "  0.50  ") == (
        "  0.50  fox0 finds1 owl2 .3\n        comet4 runs5 to6 moon7 .8")
    assert say.lines_of([], [], mark, "->") == "->"
    long = say.lines_of(["castle"] * 30, [0] * 30, mark, "  0.50  ").splitlines()
    assert len(long) == 3 and max(map(len, long)) <= say.WIDTH
    assert " ".join(line.strip() for line in long) == "0.50  " + " ".join(["castle0"] * 30)


def test_the_main_job_ends_with_a_command_that_works(finished, capsys):
    """A held-out prompt of its first experiment, and the folder where it is not the default."""
    results = figures.load(finished / "results.json")
    command = re.search(r"Next: (python -m toy.say .*)\n", evaluate.summary(results))[1]
    _, _, _, prompt, *rest = shlex.split(command)
    assert rest == ["--out", str(finished)] and split_of(prompt) == "test"
    assert say.task_of(prompt) in EXPERIMENTS["mix"]
    assert len(responses(said(capsys, prompt, *rest))) == 3
    results["config"]["out"] = "out"
    assert "--out" not in re.search(r"Next: .*", evaluate.summary(results))[0]


def test_a_reader_that_goes_away_is_no_error():
    """`| head`, which closes the pipe; what is printed is written at the end."""
    code = "from toy.files import program\nwith program():\n    print(1)"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=write,
                          stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"")
