"""toy/say.py as a user meets it, on a run of ten steps whose weights are loaded here by hand."""
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import decoder
import train_toy
from model import GPT, GPTConfig
from tasks import EOS, EXPERIMENTS, TASKS, VOCAB_SIZE, WORDS, decode, encode, split_of
from toy import rows, say
from toy.options import parse

ROOT = Path(__file__).parent.parent
STORY, GO_ON = "please tell how fox finds the moon :", "now continue the fox finds moon . :"
CHOICES = (0.0, 0.5, 1.5)
OPTIONS = ("--experiments mix,repeats --n-embd 32 --pretrain-steps 10 --rounds 1 --prompts 9 "
           "--responses 6 --steps 2 --test-prompts 6 --test-samples 2 --oracle-prompts 3 "
           "--choices 0,0.5,1.5").split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder where the last run's decoders are not the newest files: another run lies between."""
    folder = tmp_path_factory.mktemp("say") / "a run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_toy.plots, "draw", lambda *_: [])
        for more in ([], ["--beta", "30", "--lr", "0.1", "--pretrain-lr", "0.01"], []):
            train_toy.main(parse([*OPTIONS, "--out", str(folder), *more], ""))
    return folder


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("NO_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("WT_SESSION", "1")


def weights(run, name):
    """A stage of the first run: the oldest file of its name."""
    files = [path for path in (run / "stages").glob("*.pt") if path.name[:-16] == name]
    assert len(files) == 2
    oldest = min(files, key=lambda path: path.stat().st_mtime_ns)
    return torch.load(oldest, weights_only=True)["result"]


def plain(run, prompt, experiment, level, n, seed, **policy):
    """What decoder.generate writes.  -> [(words, their temperatures)]"""
    model = GPT(GPTConfig(VOCAB_SIZE, 8 + 45, 2, 4, 32))
    model.load_state_dict(weights(run, "base0")["state"])
    if not policy:
        head = decoder.AdaptiveDecoder(32, CHOICES, level)
        head.load_state_dict(weights(run, f"base0-{experiment}-latent-{level}0")["decoder"])
        policy = dict(decoder=head)
    rollout = decoder.generate(model, [encode(prompt)] * n, 45 if prompt == GO_ON else 37, eos=EOS,
                               generator=torch.Generator().manual_seed(seed), **policy)
    found = []
    for i in range(n):
        words = decode(rollout.tokens[i][rollout.mask[i]].tolist()).split()
        if rollout.tau_idx is None:
            taus = [policy["temperature"]] * len(words)
        else:
            taus = [CHOICES[k] for k in rollout.tau_idx[i].tolist()]
            taus = taus * len(words) if level == "sequence" else taus[:len(words)]
        found.append((words, taus))
    return found


def said(capsys, *arguments):
    say.main(list(map(str, arguments)))
    return capsys.readouterr().out


def responses(text):
    """[(reward or None, words, temperatures)] of what was written with numbers."""
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
                                                      (GO_ON, "repeats", "repeats")])
@pytest.mark.parametrize("level", ("token", "sequence"))
def test_it_writes_what_generate_draws(run, capsys, prompt, task, experiment, level):
    """Bugs: another run's, experiment's or level's decoder, another seed, temperatures one word
    off or of another response, a reward of another task."""
    given = [*prompt.split(), "--level", level, "--n", 4, "--seed", 3, "--out", run]
    text = said(capsys, *given)
    found = responses(text)
    expected = plain(run, prompt, experiment, level, 4, 3)
    assert [(words, taus) for _, words, taus in found] == expected
    rewards = [TASKS[task].reward(prompt, " ".join(words)) for words, _ in expected]
    assert [reward for reward, *_ in found] == [float(f"{reward:.2f}") for reward in rewards]
    assert f"{experiment} decoder, {level} level, mean reward {np.mean(rewards):.2f}" in text
    assert f"a prompt of {task}, {'held out' if split_of(prompt) != 'train' else 'as in'}" in text


def test_the_runs_in_the_folder_differ(run):
    """Else the test above would not notice the other one's weights."""
    for name in ("base0", "base0-mix-latent-token0", "base0-repeats-latent-sequence0"):
        files = [path for path in (run / "stages").glob("*.pt") if path.name[:-16] == name]
        a, b = (torch.load(path, weights_only=True)["result"] for path in files)
        key = "state" if name == "base0" else "decoder"
        assert any(not torch.equal(a[key][x], b[key][x]) for x in a[key] if "weight" in x)


def test_a_fixed_temperature_stands_beside_it(run, capsys):
    text = said(capsys, STORY, "--temperature", 0.7, "--n", 2, "--out", run)
    adaptive, fixed = text.split("\nfixed: 0.7")
    assert len(responses(adaptive)) == 2
    assert [(w, t) for _, w, t in responses(fixed)] == plain(run, STORY, "mix", "token", 2, 0,
                                                             temperature=0.7)
    cold = responses(said(capsys, STORY, "--temperature", 0, "--out", run).split("fixed: 0")[1])
    assert len(cold) == 3 and cold[0] == cold[1] == cold[2] and set(cold[0][2]) == {0.0}
    assert "fixed: top_p=0.9" in said(capsys, STORY, "--temperature", "top_p=.9", "--out", run)


def test_experiment_and_seed_can_be_chosen(run, capsys):
    text = said(capsys, STORY, "--experiment", "repeats", "--n", 2, "--out", run)
    assert [(w, t) for _, w, t in responses(text)] == plain(run, STORY, "repeats", "token", 2, 0)
    assert text == said(capsys, STORY, "--experiment", "repeats", "--n", 2, "--out", run)
    assert text != said(capsys, STORY, "--experiment", "repeats", "--n", 2, "--out", run,
                        "--seed", 1)


# --- prompts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt, reason", [
    ("fox finds", "it has 2 words, prompts of tasks have 8"),
    ("fox", "it has 1 word, prompts of tasks have 8"),
    (STORY + " fox", "it has 9 words, prompts of tasks have 8"),
    ("please tell how fox finds the moon .", "no task asks this"),
    ("now continue fox moon the owl . :", "no task asks this")])
def test_any_words_are_continued_and_have_no_reward(run, capsys, prompt, reason):
    text = said(capsys, prompt, "--out", run)
    assert f"no reward: {reason}\n" in text and "mean reward" not in text
    found = responses(text)
    assert len(found) == 3 and all(reward is None for reward, *_ in found)


def test_the_longest_prompt_is_answered_by_a_word_and_a_longer_one_is_an_error(run, capsys):
    """The context is 8 + 45 words."""
    found = responses(said(capsys, *["fox"] * 52, "--out", run))
    assert all(len(words) <= 1 for _, words, _ in found)
    with pytest.raises(ValueError, match="has 53 words and the model's context 53; shorten it"):
        say.main([*["fox"] * 53, "--out", str(run)])


def test_every_task_is_recognised_and_its_neighbours_are_not():
    rng = np.random.default_rng(5)
    for name, task in TASKS.items():
        for _ in range(6):
            prompt = task.ask(rng)
            assert say.task_of(prompt) == name
            words = prompt.split()
            words[6] = "working"
            assert say.task_of(" ".join(words)) is None
    assert say.task_of(":") is None


def test_an_unknown_word_is_named_and_the_words_there_are_listed(run):
    with pytest.raises(ValueError) as error:
        say.main(["please", "tell how Fox finds the dragon :", "--out", str(run)])
    first, *lines = str(error.value).splitlines()
    assert first.startswith("the model knows no 'Fox', 'dragon'.")
    listed = [word for line in lines for word in line[13:].split()]
    assert sorted(listed) == sorted(WORDS) and max(map(len, lines)) <= say.WIDTH
    assert lines[0].split() == ["nouns", *WORDS[:10]]
    with pytest.raises(ValueError, match="the prompt is empty; give one, as in"):
        say.main([" ", "--out", str(run)])


# --- what is not there ----------------------------------------------------------------------------


def test_without_a_run_it_says_which_command_makes_one(run, tmp_path):
    with pytest.raises(ValueError) as error:
        say.main([STORY, "--out", str(tmp_path)])
    assert f"`python train_toy.py --out {tmp_path}`" in str(error.value)
    assert "`python train_toy.py --quick --out out/quick`" in str(error.value)
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "results.json").touch()
    with pytest.raises(ValueError, match=f"There is a quick one: add --out {tmp_path}/quick"):
        say.main([STORY, "--out", str(tmp_path)])
    for wrong, words in ((["--experiment", "vote"], "no 'vote'; add --experiment mix or repeats"),
                         (["--level", "word"], "invalid choice"), (["--n", "0"], "--n is 0; give")):
        with pytest.raises((ValueError, SystemExit)) as error:
            say.main([STORY, "--out", str(run), *wrong])
        assert words in str(error.value) or error.value.code == 2
    with pytest.raises(ValueError, match="'vote'; .* --experiments mix,repeats,vote"):
        say.main(["hurry solve for 3 4 9 1 :", "--out", str(run)])


def test_an_error_is_text_and_an_exit_status(tmp_path):
    """From the command line, as the README has it; the words come before the run."""
    wrong = subprocess.run([sys.executable, "-m", "toy.say", "how dragon finds the moon", "--out",
                            tmp_path], cwd=ROOT, text=True, capture_output=True)
    assert wrong.returncode == 1 and wrong.stdout == ""
    assert wrong.stderr.startswith("error: the model knows no 'dragon'. Its words")


def test_a_lost_stage_and_another_version_are_named(run, tmp_path):
    results = rows.load(run / "results.json")
    job = say.chosen_job(say.config_of(results), "story", None, "sequence")
    with pytest.raises(ValueError, match="lost what it kept of base0-mix-latent-sequence0; run"):
        say.load(tmp_path, results, job)
    results["config"].pop("beta")
    with pytest.raises(ValueError, match="of another version; run train_toy.py again"):
        say.config_of(results)


def test_a_run_of_one_level_answers_at_that_level(run):
    cfg = say.config_of(rows.load(run / "results.json"))
    one = say.replace(cfg, levels=("sequence",), variants=("nll", "latent"), seed=7)
    job = say.chosen_job(one, "math")
    assert (job.level, job.variant, job.seed, job.base_seed) == ("sequence", "nll", 7, 7)
    with pytest.raises(ValueError, match="this run has no token level; its levels: sequence"):
        say.chosen_job(one, "math", None, "token")


# --- what it looks like ---------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def on_terminal(monkeypatch, *arguments):
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    say.main(list(map(str, arguments)))
    return screen.getvalue()


@pytest.mark.parametrize("colorterm, cold, hot", [
    ("truecolor", "48;2;0;34;78", "48;2;254;232;56"), ("", "48;5;17", "48;5;221")])
def test_words_stand_on_the_colour_of_their_temperature(run, monkeypatch, colorterm, cold, hot):
    """cividis goes from #00224e to #fee838; of the 216 colours the nearest are 17 and 221."""
    monkeypatch.setenv("COLORTERM", colorterm)
    screen = on_terminal(monkeypatch, STORY, "--out", run)
    found = re.findall(r"\x1b\[([\d;]+);38;5;(\d+)m(\S+?)\x1b\[0m", screen)
    drawn = [pair for words, taus in plain(run, STORY, "mix", "token", 3, 0)
             for pair in zip(words, taus)]
    assert [word for *_, word in found] == [word for word, _ in drawn]
    assert {tau for _, tau in drawn} == set(CHOICES)
    for (ground, ink, _), (_, tau) in zip(found, drawn):
        assert (ground == cold) == (tau == 0.0) and (ground == hot) == (tau == 1.5)
        assert ink == ("16" if tau == 1.5 else "231")  # black on light, white on dark
    key = screen.splitlines()[-1]
    assert re.sub(r"\x1b\[[\d;]*m", "", key).split() == ["temperature", "0", "0.5", "1.5"]
    assert f"{cold};38;5;231m 0 " in key and f"{hot};38;5;16m 1.5 " in key
    assert "(" not in screen


def test_the_key_has_the_fixed_temperature_too(run, monkeypatch):
    screen = on_terminal(monkeypatch, STORY, "--temperature", 0.7, "--numbers", "--out", run)
    screen = re.sub(r"\x1b\[[\d;]*m", "", screen)
    assert screen.splitlines()[-1].split() == ["temperature", "0", "0.5", "0.7", "1.5"]
    assert "(0.7)" in screen  # --numbers, on a terminal


@pytest.mark.parametrize("variable, value", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_without_colours_there_are_numbers(run, monkeypatch, capsys, variable, value):
    plainly = said(capsys, STORY, "--out", run)
    monkeypatch.setenv(variable, value)
    assert on_terminal(monkeypatch, STORY, "--out", run) == plainly
    assert "\x1b" not in plainly and len(responses(plainly)) == 3
    assert not say.has_colours(io.StringIO(), {}) and say.has_colours(
        Terminal(), {"NO_COLOR": "", "WT_SESSION": "1"})


def test_a_clause_is_a_line_and_a_long_one_is_broken():
    def mark(word, choice):
        return f"{word}{choice}", len(word) + 1
    words = "fox finds owl . comet runs to moon .".split()
    assert say.block(words, range(9), mark, "  0.50  ") == (
        "  0.50  fox0 finds1 owl2 .3\n        comet4 runs5 to6 moon7 .8")
    assert say.block("7 9 6 .".split(), [0] * 4, mark, "->") == "->70 90 60 .0"
    assert say.block([], [], mark, "->") == "->"
    long = say.block(["castle"] * 30, [0] * 30, mark, "  0.50  ").splitlines()
    assert len(long) == 3 and max(map(len, long)) <= say.WIDTH
    assert " ".join(line.strip() for line in long) == "0.50  " + " ".join(["castle0"] * 30)


def test_settings_of_a_sampler_have_names_and_colours():
    """Numbered, since they have no size."""
    choices = [0.0, "min_p=0.05@3", "top_p=0.9"]
    shade_of = say.plots.shades(choices)
    assert [shade_of(choice) for choice in choices] == [0.0, 0.5, 1.0]
    assert say.marked("fox", "top_p=0.9", shade_of, False, True) == ("fox(top_p=0.9)", 14)


def test_the_first_run_ends_with_a_command_that_works(run, capsys):
    """A held-out prompt of its first experiment, the folder where it is not the default."""
    results = rows.load(run / "results.json")
    line = rows.how_to_ask(results)
    program, *arguments = shlex.split(line.removeprefix("ask it something: "))
    assert [program, *arguments[:2]] == ["python", "-m", "toy.say"]
    assert arguments[3:] == ["--out", str(run)]
    assert split_of(arguments[2]) == "test"
    assert say.task_of(arguments[2]) in EXPERIMENTS["mix"]
    assert len(responses(said(capsys, *arguments[2:]))) == 3
    results["config"]["out"] = "out"
    assert rows.how_to_ask(results) == f'ask it something: python -m toy.say "{arguments[2]}"'
