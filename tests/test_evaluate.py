"""Evaluation: each statistic against a slower way to compute it, or by hand."""
import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import Parrot, seeded
from decoder import AdaptiveDecoder, Rollout, generate
from tasks import EOS, TASKS, VOCAB_SIZE, decode, encode, split_of
from toy import evaluate
from toy.evaluate import Outcome, by_role, respond, search_oracle, vote_accuracy, where, win_rate
from toy.models import new_model

VOTE = "please solve for 3 4 9 1 :"     # 7 is right
HURRIED = "hurry solve for 1 2 3 4 :"   # 0 is right
STORY = "please tell how fox finds the moon :"
START, END = (f"please {side} each line with rare birds :" for side in ("start", "end"))


def rolled(lengths, tau_idx=None, cut=None, T=7):
    """A rollout of responses of these lengths; the tokens do not matter."""
    mask = torch.arange(T) < torch.tensor(lengths)[:, None]
    cut = torch.zeros(len(lengths)) if cut is None else torch.tensor(cut)
    return Rollout(torch.full(mask.shape, EOS), mask, cut.bool(),
                   None if tau_idx is None else torch.tensor(tau_idx))


def shown(rows, *columns):
    """Some columns of the rows as tuples, the value rounded."""
    return [tuple(round(row[c], 9) if c == "value" else row.get(c) for c in columns)
            for row in rows]


# --- statistics -----------------------------------------------------------------------------------


def test_win_rate_counts_ties_half():
    ours, theirs = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[1.0, 1.0, 3.0], [0.0, 1.0, 2.0]])
    by_hand = [np.mean([1.0 if a > b else 0.5 if a == b else 0.0
                        for a, b in itertools.product(x, y)]) for x, y in zip(ours, theirs)]
    assert win_rate(ours, theirs).tolist() == by_hand
    assert np.allclose(win_rate(ours, theirs) + win_rate(theirs, ours), 1)


def test_votes_split_ties_and_ignore_what_has_no_answer():
    right, wrong = "7 working slowly 7 .", "3 8 ."
    texts = [right, wrong, wrong, "slowly", right, right, right, "."]
    outcome = Outcome([("vote", VOTE)], [texts], {}, None)
    for votes, accuracy in ((1, 4 / 8), (2, (0.5 + 0 + 1 + 1) / 4), (4, (0 + 1) / 2), (8, 1)):
        assert vote_accuracy(outcome, votes).tolist() == [accuracy]


def test_prompts_come_in_equal_parts_from_their_split():
    """At least one per task."""
    for n, each in ((7, 2), (2, 1), (9, 3)):
        prompts = evaluate.sample_prompts("mix", "validation", n, np.random.default_rng(0))
        assert [name for name, _ in prompts] == [name for name in ("math", "general", "story")
                                                 for _ in range(each)]
        assert len(set(prompts)) == len(prompts)
        assert {split_of(prompt) for _, prompt in prompts} == {"validation"}


# --- responses ------------------------------------------------------------------------------------


def test_choices_follow_the_role_of_each_word():
    """Bugs: the role of the word before, another prompt's table, a role by column. The end of text
    and bytes are no words: the walk goes on as after a wrong word."""
    prompts = [("constrained", START), ("constrained", END), ("vote", HURRIED), ("vote", VOTE)]
    texts = ["robin runs to moon . robin finds fox", "fox finds robin and runs to wren .",
             "7 9 6 working slowly 1 7 ."]
    tables = [{"required": 0.1, "rest": 0.9}, {"required": 0.2, "rest": 0.8},
              {"way": 0.3, "rest": 0.7}, {"way": 0.4, "rest": 0.6}]
    expected = [[0.1, *[0.9] * 4, 0.1, *[0.9] * 2], [*[0.8] * 2, 0.2, *[0.8] * 3, 0.2, 0.8],
                [*[0.7] * 4, 0.3, *[0.7] * 3], [0.6, 0.6, 0.4, *[0.6] * 5]]
    ids = [encode(text) for text in texts]
    ids.append([EOS, *encode("working slowly"), VOCAB_SIZE + 5, 9, 9, 9, 9])
    choices = by_role(prompts, tables)
    for t in range(8):
        assert choices(torch.tensor(ids)[:, :t]) == [row[t] for row in expected], t


def test_prompts_samples_and_scores_stay_together(monkeypatch):
    """With batches that split a prompt. Bug: rows of one prompt scored under another."""
    monkeypatch.setitem(evaluate.BATCH, "cpu", 5)
    torch.manual_seed(0)
    model = new_model(1, 1, 8)
    prompts = [("math", "please sum up 3 4 9 1 :"), ("story", STORY), ("vote", VOTE),
               ("vote", HURRIED)]
    outcome = respond(model, prompts, 4, seeded(), decoder=AdaptiveDecoder(8, (0.0, 1.0)))
    assert outcome.rewards.shape == (4, 4) and outcome.rollout.tokens.shape == (16, 37)
    assert list(outcome.scores) == ["reward"]
    for p, s in itertools.product(range(4), range(4)):
        (of_prompt,), row = outcome.side([p * 4 + s])
        assert decode(row.tokens[0][row.mask[0]].tolist()) == outcome.texts[p][s]
        assert of_prompt == encode(prompts[p][1])
        name = prompts[p][0]
        assert TASKS[name].reward(prompts[p][1], outcome.texts[p][s]) == outcome.rewards[p, s]
    tables = [{"rest": tau, "way": tau} for tau in (0.0, 3.0, 3.0, 0.0)]
    texts = respond(model, prompts, 4, seeded(), temperature=tables).texts
    assert [len(set(same)) for same in texts] == [1, 4, 4, 1]


def test_at_temperature_0_one_response_stands_for_all(monkeypatch):
    """Bugs: copies of all prompts in turn, copies where something is sampled."""
    torch.manual_seed(2)
    model = new_model(1, 1, 8)
    prompts = [("vote", VOTE), ("math", "now sum up 1 2 3 4 :"), ("vote", HURRIED)]
    alone = [generate(model, [encode(prompt)], 9, temperature=0, eos=EOS) for _, prompt in prompts]
    by_hand = [decode(one.tokens[0][one.mask[0]].tolist()) for one in alone]
    sizes = []
    monkeypatch.setattr(evaluate, "generate", lambda model, prompts, *given, **more: sizes.append(
        len(prompts)) or generate(model, prompts, *given, **more))
    outcome = respond(model, prompts, 4, seeded(), temperature=0.0)
    assert len(set(by_hand)) == 3 and outcome.texts == [[text] * 4 for text in by_hand]
    assert outcome.rollout.tokens.shape == (12, 9) and outcome.rewards.shape == (3, 4)
    hot = respond(model, prompts, 4, seeded(), temperature=3.0)
    assert sizes == [3, 12] and [len(set(texts)) for texts in hot.texts] == [4] * 3


def test_scores_beside_the_reward(monkeypatch):
    """Those that all tasks of the prompts have; floats whatever a task gives. "robin finds moon ."
    has one bird of four required words."""
    model = Parrot(encode("robin finds moon .") + [EOS])
    prompts = [("constrained", START.replace("birds", "hats")), ("constrained", START)]
    outcome = respond(model, prompts, 2, seeded(), temperature=0)
    assert {name: x.tolist() for name, x in outcome.scores.items()} == dict(
        reward=[[0, 0], [1 / 16] * 2], constraint=[[0, 0], [1 / 4] * 2], quality=[[2 / 8] * 2] * 2)
    monkeypatch.setitem(TASKS, "story", replace(TASKS["story"], reward=lambda *_: True))
    outcome = respond(model, [("story", STORY)], 1, seeded(), temperature=0)
    assert outcome.rewards.dtype == float and outcome.rewards.tolist() == [[1]]


# --- rows -----------------------------------------------------------------------------------------


def test_reward_rows_by_hand():
    """Unequal subtasks, interleaved. Bugs: the whole's mean of a subtask, n of samples, votes where
    not all vote or of more samples than there are, cut responses of other prompts."""
    texts = [["7 .", "3 .", "1 7 .", "7"], ["owl", "", "fox", "."], ["0 .", "5 0 .", "7 .", "7 ."]]
    rewards = np.array([[1, 2, 3, 6], [10, 20, 30, 60], [100, 200, 300, 600]])
    cut = [0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0, 0]
    prompts = [("vote", VOTE), ("story", STORY), ("vote", HURRIED)]
    outcome = Outcome(prompts, texts, {"reward": rewards}, rolled([2] * 12, cut=cut))
    rows = evaluate.reward_rows(outcome, policy="fixed", temperature=0.5, level=None)
    assert shown(rows, "subtask", "metric", "value", "n") == [
        (None, "reward", 111, 3), (None, "cut", round(4 / 12, 9), 3),
        ("vote", "reward", 151.5, 2), ("vote", "cut", 1 / 8, 2),
        ("story", "reward", 30, 1), ("story", "cut", 3 / 4, 1)]
    assert all(row["policy"] == "fixed" and row["temperature"] == 0.5 and "level" not in row
               for row in rows)
    votes = Outcome(prompts[::2], texts[::2], {"reward": rewards[::2]}, rolled([2] * 8))
    rows = where(evaluate.reward_rows(votes), metric="vote_accuracy")
    assert shown(rows, "votes", "value", "n", "subtask") == [
        (1, (2 / 4 + 2 / 4) / 2, 2, None), (2, (1.5 / 2 + 1 / 2) / 2, 2, None),
        (4, (1 + 1 / 2) / 2, 2, None)]


def used_by_hand():
    """Two subtasks, two samples, indices of the choices (0.5, 0.0, 2.0). The second response is
    empty, the third is cut; what is no word holds 2.0 or padding."""
    texts = [["7 working slowly 9 .", ""], ["owl", "fox finds"]]
    tau_idx = [[2, 0, 1, 1, 0, 2, 0], [2, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0],
               [0, 1, 2, 0, 0, 0, 0]]
    rewards = np.array([[1.0, 2.0], [3.0, 6.0]])
    return Outcome([("vote", VOTE), ("story", STORY)], texts, {"reward": rewards},
                   rolled([6, 1, 1, 3], tau_idx))


def test_choice_rows_by_hand():
    """Bugs: another subtask's responses, the end of text or padding counted as a word, the coldest
    choice for padding, n of responses where it is of words."""
    outcome = used_by_hand()
    assert evaluate.places_in(outcome)[[0, 3], :5].tolist() == [
        ["sum", "operand", "way", "operand", "sum"], ["subject", "verb", None, None, None]]
    assert evaluate.roles_of(outcome)[0].tolist() == ["rest", "rest", "way", "rest", "rest", None,
                                                      None]
    rows = evaluate.choice_rows(outcome, (0.5, 0.0, 2.0), policy="adaptive")
    share, mean, third = "choice_share", "mean_temperature", round(1 / 3, 9)
    assert sorted(shown(rows, "subtask", "metric", "role", "place", "choice", "value", "n"),
                  key=str) == sorted([
        ("vote", mean, None, None, None, 0.6, 5),
        *(("vote", share, None, None, c, x, 5) for c, x in ((0.5, 0.4), (0.0, 0.4), (2.0, 0.2))),
        ("vote", mean, "rest", None, None, 0.75, 4),
        *(("vote", share, "rest", None, c, x, 4)
          for c, x in ((0.5, 0.5), (0.0, 0.25), (2.0, 0.25))),
        ("vote", mean, "way", None, None, 0, 1),
        *(("vote", share, "way", None, c, x, 1) for c, x in ((0.5, 0), (0.0, 1), (2.0, 0))),
        ("vote", mean, None, "sum", None, 1.25, 2), ("vote", mean, None, "operand", None, 0.25, 2),
        ("vote", mean, None, "way", None, 0, 1),
        *(("story", mean, role, None, None, round(0.5 / 3, 9), 3) for role in (None, "rest")),
        *(("story", share, role, None, c, x, 3) for role in (None, "rest")
          for c, x in ((0.5, third), (0.0, round(2 / 3, 9)), (2.0, 0))),
        ("story", mean, None, "subject", None, 0.25, 2),
        ("story", mean, None, "verb", None, 0, 1)], key=str)
    outcome.rollout = rolled([6, 1, 1, 3], [[2], [0], [1], [0]])  # sequence level
    assert evaluate.used_choices(outcome, (0.5, 0.0, 2.0)).tolist() == [
        [2.0] * 7, [0.5] * 7, [0.0] * 7, [0.5] * 7]


def test_settings_have_shares_and_no_mean():
    """Bug: NumPy makes texts of the temperatures, which then equal none of the choices."""
    outcome = Outcome([("story", STORY)], [["fox finds owl"]], {"reward": np.zeros((1, 1))},
                      rolled([3], [[0, 1, 0, 1, 1, 1, 1]]))
    rows = evaluate.choice_rows(outcome, (0.0, "top_p=0.9"))
    assert shown(rows, "metric", "role", "choice", "value") == [
        ("choice_share", role, choice, round(x, 9)) for role in (None, "rest")
        for choice, x in ((0.0, 2 / 3), ("top_p=0.9", 1 / 3))]


def test_win_rates_against_each_fixed_temperature():
    """Bugs: theirs against ours, another temperature's."""
    outcome = replace(used_by_hand(), scores={"reward": np.array([[1.0, 3], [5, 5]])})
    fixed = {tau: replace(outcome, scores={"reward": np.array(x)})
             for tau, x in ((0.0, [[2.0], [5]]), (1.0, [[0.0], [9]]))}
    rows = evaluate.adaptive_rows(outcome, (0.5, 0.0, 2.0), fixed, select="sample")
    assert shown(where(rows, metric="win_rate"), "temperature", "value", "n") == [
        (0.0, 0.5, 2), (1.0, 0.5, 2)]
    assert {(row["policy"], row["select"]) for row in rows} == {("adaptive", "sample")}
    assert len(where(rows, metric="reward")) == 3 and where(rows, metric="choice_share")


def test_round_rows_and_their_line():
    """Mean temperatures count tokens, the end of text included and padding not. Bug: padding
    counted as the first choice."""
    statistics = dict(loss_first=0.6931, loss_last=0.512, impossible=0.0125, pair_accuracy=0.875)
    rows = evaluate.round_rows(used_by_hand(), (0.5, 0.0, 2.0), 17, statistics, round=3)
    vote, story = (2 + 0.5 + 0 + 0 + 0.5 + 2 + 2) / 7, (0 + 0.5 + 0 + 2) / 4
    assert shown(rows, "metric", "subtask", "value", "n", "round") == [
        ("round_reward", None, 3.0, 4, 3), ("pairs", None, 17, 4, 3),
        *((name, None, x, 4, 3) for name, x in statistics.items()),
        ("round_temperature", "vote", 1.0, 7, 3), ("round_temperature", "story", story, 4, 3)]
    assert vote == 1.0 and evaluate.round_line(rows) == (
        "  round  3  reward  3.000  pairs   17  loss 0.693 -> 0.512  pair accuracy 0.88"
        "  vote at 1.00  story at 0.62  impossible tokens 1.250%")
    quiet = [row for row in rows if row["metric"] in ("round_reward", "pairs")]
    assert evaluate.round_line(quiet) == "  round  3  reward  3.000  pairs   17"


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_examples_are_of_median_gain_and_median_reward(level):
    """Beside the best fixed temperature; in the vote a prompt with `hurry`. Bugs: the best, the
    first, another prompt's words or choices."""
    prompts = [("story", STORY), ("story", STORY + " 2"), ("story", STORY + " 3"),
               ("vote", VOTE), ("vote", HURRIED)]
    texts = [[f"{p} {s}" for s in range(3)] for p in range(5)]
    gains = np.array([5.0, 1.0, 3.0, 9.0, 0.0])
    rewards = np.array([[0.0, 2.0, 1.0]] * 5) + gains[:, None]
    tau_idx = [[n % 4, (n + 1) % 4] if level == "token" else [n % 4] for n in range(15)]
    outcome = Outcome(prompts, texts, {"reward": rewards}, rolled([2] * 15, tau_idx, T=2))
    fixed = {tau: replace(outcome, scores={"reward": rewards - gains[:, None] - (tau != 0.3)})
             for tau in (0.1, 0.3)}
    found = evaluate.examples(outcome, (0.1, 0.2, 0.3, 0.4), fixed, experiment="mix")
    second = {8: [0.1, 0.2], 14: [0.3, 0.4]} if level == "token" else {8: [0.1] * 2, 14: [0.3] * 2}
    assert found == [
        dict(experiment="mix", policy=policy, subtask=subtask, prompt=prompts[p][1],
             words=[str(p), "2"], choices=[0.3, 0.3] if policy == "fixed" else second[3 * p + 2],
             reward=1.0 + (policy == "adaptive") * gains[p])
        for subtask, p in (("story", 2), ("vote", 4)) for policy in ("fixed", "adaptive")]


# --- the oracle -----------------------------------------------------------------------------------


def test_all_tables_are_every_way_to_give_roles_a_choice():
    assert evaluate.all_tables("math", (0.5, 1.0)) == [{"rest": 0.5}, {"rest": 1.0}]
    assert evaluate.all_tables("vote", (0.5, 1.0)) == [
        {"way": a, "rest": b} for a in (0.5, 1.0) for b in (0.5, 1.0)]


def test_the_oracle_is_cold_where_noise_is_wrong():
    """The parrot knows the right sum; with two roles, the race ends where a full search does."""
    model = Parrot(encode("7 working slowly 9 6 1 7 .") + [EOS])
    prompts, taus, earned = [("vote", VOTE)] * 16, (0.0, 0.8, 1.6), {}
    for table in evaluate.all_tables("vote", taus):
        outcome = respond(model, prompts, 16, seeded(1), temperature=[table] * 16)
        earned[tuple(table.items())] = outcome.rewards.mean()
    best = search_oracle(model, prompts, taus, 16, seeded(2))["vote"]
    assert best["rest"] == 0.0 and tuple(best.items()) in sorted(earned, key=earned.get)[-3:]


def raced(monkeypatch, reward, texts_of=None):
    """Lets respond answer from a table: reward(task, prompt, table) -> mean of the samples.  -> the
    list of what it was given"""
    calls = []

    def answer(model, prompts, samples, generator, temperature=None, **policy):
        calls.append(SimpleNamespace(prompts=prompts, samples=samples, temperature=temperature))
        tables = temperature if isinstance(temperature, list) else [temperature] * len(prompts)
        of = [(name, prompt, table) for (name, prompt), table in zip(prompts, tables)]
        spread = 100 * (np.arange(samples) - (samples - 1) / 2)  # of samples about their mean
        rewards = np.array([reward(*one) for one in of])[:, None] + spread
        texts = [texts_of(*one, samples) if texts_of else ["."] * samples for one in of]
        return Outcome(prompts, texts, {"reward": rewards}, rolled([1] * len(prompts) * samples))
    monkeypatch.setattr(evaluate, "respond", answer)
    return calls


@pytest.mark.parametrize("margin, winner, heats", [
    (None, 0.6, [16, 12, 24]), (3.2, 0.4, [16, 16, 32]), (2.8, 0.6, [16, 8, 16])])
def test_the_race_drops_who_is_three_standard_errors_behind(margin, winner, heats, monkeypatch):
    """16 prompts in heats of 4, 4 and 8. Differences 1 - s, 1 + s, 1 - s, 1 + s of the first heat
    have the standard error s / sqrt(3): 2.9 of them behind stays, 3.1 goes. Bugs: another margin
    or divisor, prompts left out, a winner by the last heat."""
    prompts = [("math", str(i)) for i in range(16)]

    def reward(name, prompt, table):
        i, tau = int(prompt), table["rest"]
        if i >= 4:
            return {0.0: 10, 0.2: 11, 0.4: 99, 0.6: 10.8}[tau]
        s = {0.0: 0, 0.2: 3 ** 0.5 / 2.9, 0.4: 3 ** 0.5 / 3.1, 0.6: 0}[tau]
        return 10 - (tau > 0) + (-1) ** i * s if tau < 0.6 else 10
    calls = raced(monkeypatch, reward)
    monkeypatch.setattr(evaluate, "FIRST_HEAT", 4)
    if margin is not None:
        monkeypatch.setattr(evaluate, "MARGIN", margin)
    assert search_oracle(None, prompts, (0.0, 0.2, 0.4, 0.6), 3, None) == {
        "math": {"rest": winner}}
    assert [len(call.prompts) for call in calls] == heats
    sizes = [heats[0] // 4, *(n // m for n, m in zip(heats[1:], (4, 8)))]
    assert [call.prompts for call in calls] == [part * n for part, n in zip(
        (prompts[:4], prompts[4:8], prompts[8:]), sizes)]


def test_a_race_finds_the_best_with_few_looks():
    """64 rules whose rewards differ by more than the noise. Bugs: the worst half kept; numbers of
    rules lost when others drop out; prompts looked at twice."""
    rng, seen = np.random.default_rng(0), []
    truth = rng.permutation(64) / 64

    def rewards_of(rules, prompts):
        seen.append((len(rules), tuple(prompts)))
        return np.array([[truth[r] + 0.001 * p for p in prompts] for r in rules])
    number, value = evaluate.race(range(64), list(range(48)), rewards_of, halve=True)
    assert number == truth.argmax() and value == pytest.approx(truth.max() + 0.001 * 23.5)
    assert [p for _, prompts in seen for p in prompts] == list(range(48))
    assert [n <= 64 / 2 ** i for i, (n, _) in enumerate(seen)] == [True] * len(seen)


@pytest.mark.parametrize("n, heats", [(100, [12, 12, 24, 48, 4]), (12, [12]), (1, [1])])
def test_each_heat_doubles_the_prompts(n, heats, monkeypatch):
    calls = raced(monkeypatch, lambda *_: 0.0)
    prompts = [("math", str(i)) for i in range(n)]
    search_oracle(None, prompts, (0.5,), 2, None)
    assert [len(call.prompts) for call in calls] == heats
    assert sum((call.prompts for call in calls), []) == prompts


def test_the_oracle_is_searched_on_validation_prompts(monkeypatch):
    """There other tables win than on the test prompts, by reward and by votes. Bugs: an oracle
    searched on test prompts; the two searches swapped."""
    rewards = dict(test={(0, 0): 1, (0, 1): 2, (1, 0): 4, (1, 1): 8},
                   validation={(0, 0): 3, (0, 1): 9, (1, 0): 2, (1, 1): 1})
    right = {(0, 0): 2, (0, 1): 1, (1, 0): 5, (1, 1): 3}  # of eight

    def texts(name, prompt, table, samples):
        n, answer = right[table["way"], table["rest"]], int(TASKS["vote"].solution(prompt))
        return ([f"{answer} ."] * n + [f"{(answer + 1) % 10} ."] * (8 - n))[:samples]
    calls = raced(monkeypatch, lambda name, prompt, table: rewards[split_of(prompt)][
        table["way"], table["rest"]], texts)
    rng = np.random.default_rng(0)
    search, prompts = (evaluate.sample_prompts("vote", split, 3, rng)
                       for split in ("validation", "test"))
    rows = evaluate.oracle_rows(None, search, prompts, 8, (0, 1), None, "vote")
    assert {row["policy"] for row in rows} == {"oracle"}
    assert shown(where(rows, metric="reward"), "value", "n") == [(2, 3)]  # of way 0, rest 1
    assert shown(where(rows, metric="vote_accuracy"), "votes", "value") == [
        (1, 5 / 8), (2, 5 / 8), (4, 1 / 2), (8, 1)]  # of way 1, rest 0
    assert shown(where(rows, metric="oracle_choice"), "role", "choice", "votes") == [
        ("way", 0, None), ("rest", 1, None), ("way", 1, 8), ("rest", 0, 8)]
    assert [call.samples for call in calls] == [4, 8, 8, 8]
    assert [call.prompts[0] in search for call in calls] == [True, False, True, False]
