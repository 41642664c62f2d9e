"""Evaluation: each statistic against a slower way to compute it."""
import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from decoder import AdaptiveDecoder, Rollout, generate
from model import GPT, GPTConfig
from tasks import (EOS, TASKS, VOCAB_SIZE, WORDS, corpus, decode, encode, places_of,
                   split_of)
from toy import evaluate, rows
from toy.evaluate import ByRole, Outcome, respond, search_oracle, vote_accuracy, win_rate
from toy.options import Config
from toy.stages import Job, Silent


def test_win_rate_counts_ties_half():
    ours, theirs = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[1.0, 1.0, 3.0], [0.0, 1.0, 2.0]])
    by_hand = [np.mean([1.0 if a > b else 0.5 if a == b else 0.0
                        for a, b in itertools.product(x, y)]) for x, y in zip(ours, theirs)]
    assert win_rate(ours, theirs).tolist() == by_hand
    assert np.allclose(win_rate(ours, theirs) + win_rate(theirs, ours), 1)


def test_votes_split_ties_and_ignore_what_has_no_answer():
    prompt, right, wrong = "please solve for 3 4 9 1 :", "7 working slowly 7 .", "3 8 ."
    texts = [right, wrong, wrong, "slowly", right, right, right, "."]
    outcome = Outcome([("vote", prompt)], [texts], {}, None)
    assert vote_accuracy(outcome, 1).tolist() == [4 / 8]
    assert vote_accuracy(outcome, 2).tolist() == [np.mean([0.5, 0, 1, 1])]
    assert vote_accuracy(outcome, 4).tolist() == [np.mean([0, 1])]
    assert vote_accuracy(outcome, 8).tolist() == [1]


class Parrot(torch.nn.Module):
    """A language model that has learned one response, with noise: token t follows the prompt's."""

    def __init__(self, response, length=8):
        super().__init__()
        self.weight, self.length = torch.nn.Parameter(torch.zeros(1)), length
        self.table = torch.full((len(response), VOCAB_SIZE), -4.0)
        for t, token in enumerate(response):
            self.table[t, token] = 2.5

    def forward(self, idx):
        at = (torch.arange(idx.shape[1]) - self.length + 1).clamp(0, len(self.table) - 1)
        logits = self.table[at].expand(len(idx), -1, -1)
        return logits, torch.zeros(*idx.shape, 4)


def test_oracle_finds_cold_where_noise_is_wrong():
    """The parrot knows the one right sum; every temperature above 0 only hurts."""
    prompt = "please sum up 3 4 9 1 :"
    model = Parrot(encode("7 9 6 1 7 .") + [EOS])
    best = search_oracle(model, [("math", prompt)] * 8, (0.0, 0.7, 1.2), 4,
                         torch.Generator().manual_seed(0))
    assert best == {"math": {"rest": 0.0}}


def test_the_race_of_tables_ends_where_a_full_search_does():
    """With two roles: the same winner as by trying every table on every prompt."""
    prompt = "please solve for 3 4 9 1 :"
    model = Parrot(encode("7 working slowly 9 6 1 7 .") + [EOS])
    asked, taus = [("vote", prompt)] * 16, (0.0, 0.8, 1.6)
    full = {}
    for table in evaluate.all_tables("vote", taus):
        outcome = respond(model, asked, 16, torch.Generator().manual_seed(1),
                          temperature=[table] * len(asked))
        full[tuple(table.items())] = outcome.rewards.mean()
    assert len(full) == 9
    best = search_oracle(model, asked, taus, 16, torch.Generator().manual_seed(2))["vote"]
    leaders = sorted(full, key=full.get)[-3:]  # the way's temperature hardly matters here
    assert best["rest"] == 0.0 and tuple(best.items()) in leaders


def test_a_table_by_role_gives_each_token_the_temperature_of_its_place():
    """Bugs: the role of the token before; another prompt's table; roles by column."""
    asked = [("constrained", "please start each line with rare birds :"),
             ("constrained", "please end each line with rare birds :"),
             ("vote", "hurry solve for 3 4 9 1 :")]
    texts = ["robin runs to moon . robin finds fox",
             "fox finds robin and runs to wren .",
             "7 9 6 working slowly 1 7 ."]
    tables = [{"asked": 0.1, "rest": 0.9}, {"asked": 0.2, "rest": 0.8}, {"way": 0.3, "rest": 0.7}]
    by_hand = [[0.1, *[0.9] * 4, 0.1, *[0.9] * 2],
               [*[0.8] * 2, 0.2, *[0.8] * 3, 0.2, 0.8],
               [*[0.7] * 4, 0.3, *[0.7] * 3]]
    ids = torch.tensor([encode(text) for text in texts])
    policy = ByRole(asked, tables)
    for t in range(8):
        assert policy(ids[:, :t]) == pytest.approx([row[t] for row in by_hand]), t


def test_respond_keeps_prompts_samples_and_temperatures_together(monkeypatch):
    """Bug: rows of one prompt scored under another, here with batches that split a prompt."""
    monkeypatch.setitem(evaluate.BATCH, "cpu", 5)
    torch.manual_seed(0)
    model = GPT(GPTConfig(VOCAB_SIZE, 54, 1, 1, 8))
    asked = [("math", prompt) for prompt, _ in corpus("math", 3, np.random.default_rng(0))]
    asked += [("story", prompt) for prompt, _ in corpus("story", 2, np.random.default_rng(0))]
    outcome = respond(model, asked, 4, torch.Generator().manual_seed(0),
                      decoder=AdaptiveDecoder(8, (0.0, 1.0)))
    T = TASKS["story"].length
    assert outcome.rewards.shape == (5, 4) and outcome.rollout.tokens.shape == (20, T)
    for p, (name, prompt) in enumerate(asked):
        for s in range(4):
            row = outcome.rollout[p * 4 + s:p * 4 + s + 1]
            assert decode(row.tokens[0][row.mask[0]].tolist()) == outcome.texts[p][s]
            assert TASKS[name].reward(prompt, outcome.texts[p][s]) == outcome.rewards[p, s]
    # a table of temperature 0 gives one text for all samples of its prompt, the others differ
    tables = [{"rest": tau} for tau in (0.0, 3.0, 3.0, 0.0, 3.0)]
    texts = respond(model, asked, 4, torch.Generator().manual_seed(0), temperature=tables).texts
    assert [len(set(same)) for same in texts] == [1, 4, 4, 1, 4]


def test_at_temperature_0_one_response_a_prompt_is_all_its_samples(monkeypatch):
    """Against the plain loop, prompt by prompt. Bugs: S passes of the same; copies of all prompts
    in turn instead of each prompt's beside each other; copies where something is drawn."""
    torch.manual_seed(2)
    model = GPT(GPTConfig(VOCAB_SIZE, 54, 1, 1, 8))
    asked = [("vote", "please solve for 3 4 9 1 :"), ("math", "now sum up 1 2 3 4 :"),
             ("vote", "hurry solve for 8 8 2 7 :")]
    plain = [generate(model, [encode(prompt)], 9, temperature=0.0, eos=EOS)
             for _, prompt in asked]
    by_hand = [decode(one.tokens[0][one.mask[0]].tolist()) for one in plain]
    assert len(set(by_hand)) == 3
    rows_of = []

    def counted(model, prompts, *args, **more):
        rows_of.append(len(prompts))
        return fast_generate(model, prompts, *args, **more)
    fast_generate = evaluate.generate
    monkeypatch.setattr(evaluate, "generate", counted)
    gen = torch.Generator().manual_seed(0)
    outcome = respond(model, asked, 4, gen, temperature=0.0)
    assert rows_of == [3] and outcome.texts == [[text] * 4 for text in by_hand]
    assert outcome.rollout.tokens.shape == (12, 9) and outcome.rewards.shape == (3, 4)
    hot = respond(model, asked, 4, gen, temperature=3.0)
    assert rows_of == [3, 12] and [len(set(texts)) for texts in hot.texts] == [4] * 3


def test_scores_are_floats_whatever_a_task_answers(monkeypatch):
    """A reward of your own may be an int or a bool, of which torch takes no mean."""
    task = replace(TASKS["math"], reward=lambda prompt, text: 3,
                   metrics={"ends": lambda prompt, text: True})
    monkeypatch.setitem(TASKS, "math", task)
    model = Parrot(encode("7 9 6 1 7 .") + [EOS])
    outcome = respond(model, [("math", "please sum up 3 4 9 1 :")] * 2, 2,
                      torch.Generator().manual_seed(0), temperature=0.5)
    for name, value in (("reward", 3), ("ends", 1)):
        assert outcome.scores[name].dtype == float and (outcome.scores[name] == value).all()
        assert evaluate.with_votes(outcome)[name].mean().item() == value


def test_temperature_rows_are_those_by_hand():
    """Two responses with known words and temperatures; padding holds temperature index 0."""
    prompt, taus = "please start each line with rare birds :", (0.5, 0.0, 1.0)
    texts = ["robin finds moon . robin", "wren runs to"]
    choices = [[0, 1, 2, 2, 1, 2], [2, 1, 1, 0, 0, 0]]  # the last of the first is its end of text
    n = [6, 3]
    tokens = torch.full((2, 6), EOS)
    for row, text in zip(tokens, texts):
        row[:len(text.split())] = torch.tensor(encode(text))
    mask = torch.arange(6) < torch.tensor(n)[:, None]
    rollout = evaluate.Rollout(tokens, mask, ~mask[:, -1], torch.tensor(choices) * mask)
    outcome = Outcome([("constrained", prompt)], [texts], {"reward": np.zeros((1, 2))}, rollout)
    found = evaluate.temperature_rows(outcome, taus)
    share = {(r["role"], r["tau"]): r["value"] for r in found if r["metric"] == "temperature_share"}
    mean = {(r["role"], r["place"]): r["value"] for r in found if r["metric"] == "mean_temperature"}
    assert mean[None, None] == pytest.approx((0.5 + 0 + 1 + 1 + 0 + 1 + 0 + 0) / 8)
    assert mean["asked", None] == pytest.approx((0.5 + 0 + 1) / 3)
    assert mean["rest", None] == pytest.approx(2 / 5)
    assert mean[None, "verb"] == 0.0 and mean[None, "to"] == 0.0 and mean[None, "object"] == 1.0
    assert share[None, 0.0] == 4 / 8 and share["asked", 0.0] == 1 / 3 and share["rest", 0.5] == 0
    assert [r["value"] for r in found if r["metric"] == "non_greedy"] == [1.0]


def test_the_walks_know_the_words():
    """What a walk calls a place, a task of the corpus fills with a word that fits it."""
    for name, task in TASKS.items():
        for prompt, text in corpus(name, 20, np.random.default_rng(4)):
            places = places_of(task.walk(prompt), text.split())
            assert len(places) == len(text.split()) + 1
            assert all(word in WORDS for word in text.split())


def test_roles_of_each_word_worked_out_by_hand():
    """At the start of a line, and at its end; nothing behind the words."""
    asked = [("constrained", "please start each line with rare birds :"),
             ("constrained", "please end each line with rare birds :")]
    texts = [["robin finds fox .", "wren runs to owl and"], ["fox finds robin .", "owl"]]
    rollout = SimpleNamespace(mask=torch.ones(4, 6, dtype=torch.bool))
    found = evaluate.roles_of(evaluate.Outcome(asked, texts, {"reward": np.zeros((2, 2))}, rollout))
    assert found.tolist() == [["asked", "rest", "rest", "rest", None, None],
                              ["asked", "rest", "rest", "rest", "rest", None],
                              ["rest", "rest", "asked", "rest", None, None],
                              ["rest", None, None, None, None, None]]


# --- every kind of row, on outcomes small enough to count by hand ---------------------------------

VOTE = "please solve for 3 4 9 1 :"       # 7 is right
HURRIED = "hurry solve for 1 2 3 4 :"     # 0 is right
STORY = "please tell how fox finds the moon :"


def rolled(lengths, tau_idx, cut=None, T=7):
    """A rollout of responses so long, its padding included; words do not matter here."""
    mask = torch.arange(T) < torch.tensor(lengths)[:, None]
    cut = torch.zeros(len(lengths)) if cut is None else torch.tensor(cut)
    return Rollout(torch.full(mask.shape, EOS), mask, cut.bool(),
                   None if tau_idx is None else torch.tensor(tau_idx))


def shown(rows, *columns):
    """Some columns of the rows, as tuples; the value rounded."""
    return [tuple(round(row[c], 9) if c == "value" else row[c] for c in columns) for row in rows]


def test_outcome_rows_by_hand():
    """Unequal subtasks, interleaved: reward, another metric, cut, votes up to the samples there
    are. Bugs: the whole's mean of a subtask; n of samples; votes on all prompts or on too few
    samples; cut responses of other prompts."""
    texts = [["7 .", "3 .", "1 7 .", "7"], ["owl", "", "fox", "."], ["0 .", "5 0 .", "7 .", "7 ."]]
    rewards = np.array([[1, 2, 3, 6], [10, 20, 30, 60], [100, 200, 300, 600]])
    cut = [0, 0, 0, 1] + [1, 1, 0, 1] + [0, 0, 0, 0]
    outcome = Outcome([("vote", VOTE), ("story", STORY), ("vote", HURRIED)], texts,
                      {"reward": rewards, "aside": rewards / 2}, rolled([2] * 12, None, cut))
    found = evaluate.outcome_rows(outcome, policy="fixed", temperature=0.5)
    assert shown(found, "subtask", "metric", "votes", "value", "n") == [
        (None, "reward", None, 111, 3), (None, "aside", None, 55.5, 3),
        (None, "cut", None, round(4 / 12, 9), 3),
        ("vote", "reward", None, 151.5, 2), ("vote", "aside", None, 75.75, 2),
        ("vote", "cut", None, 1 / 8, 2),
        ("vote", "vote_accuracy", 1, (2 / 4 + 2 / 4) / 2, 2),
        ("vote", "vote_accuracy", 2, (1.5 / 2 + 1 / 2) / 2, 2),
        ("vote", "vote_accuracy", 4, (1 + 1 / 2) / 2, 2),
        ("story", "reward", None, 30, 1), ("story", "aside", None, 15, 1),
        ("story", "cut", None, 3 / 4, 1)]
    assert {(row["policy"], row["temperature"]) for row in found} == {("fixed", 0.5)}
    assert evaluate.VOTES == (1, 2, 4, 8, 16, 32)


def test_with_votes_keeps_every_score_exactly():
    """What intervals are made of: all samples of every prompt, and votes only where all vote."""
    texts = [["7 .", "3 ."], ["0 .", "5 0 ."]]
    rewards = np.array([[1.0, 0.0], [1.0, 1.0]])
    outcome = Outcome([("vote", VOTE), ("vote", HURRIED)], texts, {"reward": rewards}, None)
    kept = evaluate.with_votes(outcome)
    assert {name: x.tolist() for name, x in kept.items()} == {
        "reward": [[1, 0], [1, 1]], "vote_accuracy@1": [[0.5], [1]],
        "vote_accuracy@2": [[0.5], [1]]}
    assert list(outcome.scores) == ["reward"]  # untouched
    mixed = Outcome([("vote", VOTE), ("story", STORY)], texts, {"reward": rewards}, None)
    assert list(evaluate.with_votes(mixed)) == ["reward"]


def used_by_hand():
    """Two subtasks, two samples, token level: texts, and indices of the choices (0.5, 0.0, 2.0).

    The second response is empty, the third is cut; what has no word holds 2.0 or padding.
    """
    texts = [["7 working slowly 9 .", ""], ["owl", "fox finds"]]
    tau_idx = [[2, 0, 1, 1, 0, 2, 0], [2, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0],
               [0, 1, 2, 0, 0, 0, 0]]
    rewards = np.array([[1.0, 2.0], [3.0, 6.0]])
    return Outcome([("vote", VOTE), ("story", STORY)], texts, {"reward": rewards},
                   rolled([6, 1, 1, 3], tau_idx))


def test_temperature_rows_of_two_subtasks_by_hand():
    """Bugs: a subtask's responses counted with another's; the end of text or padding counted as a
    word; non_greedy of words; n of responses where it is of words."""
    found = evaluate.temperature_rows(used_by_hand(), (0.5, 0.0, 2.0), policy="adaptive")
    columns = "subtask", "metric", "role", "place", "tau", "value", "n"
    share, mean, third = "temperature_share", "mean_temperature", round(1 / 3, 9)
    assert shown(found, *columns) == [
        ("vote", "non_greedy", None, None, None, 0.5, 2),
        ("vote", mean, None, None, None, 0.6, 5),
        ("vote", share, None, None, 0.5, 0.4, 5), ("vote", share, None, None, 0.0, 0.4, 5),
        ("vote", share, None, None, 2.0, 0.2, 5),
        ("vote", mean, "rest", None, None, 0.75, 4),
        ("vote", share, "rest", None, 0.5, 0.5, 4), ("vote", share, "rest", None, 0.0, 0.25, 4),
        ("vote", share, "rest", None, 2.0, 0.25, 4),
        ("vote", mean, "way", None, None, 0, 1),
        ("vote", share, "way", None, 0.5, 0, 1), ("vote", share, "way", None, 0.0, 1, 1),
        ("vote", share, "way", None, 2.0, 0, 1),
        ("vote", mean, None, "sum", None, 1.25, 2), ("vote", mean, None, "operand", None, 0.25, 2),
        ("vote", mean, None, "way", None, 0, 1),
        ("story", "non_greedy", None, None, None, 0.5, 2),
        ("story", mean, None, None, None, round(0.5 / 3, 9), 3),
        ("story", share, None, None, 0.5, third, 3),
        ("story", share, None, None, 0.0, round(2 / 3, 9), 3),
        ("story", share, None, None, 2.0, 0, 3),
        ("story", mean, "rest", None, None, round(0.5 / 3, 9), 3),
        ("story", share, "rest", None, 0.5, third, 3),
        ("story", share, "rest", None, 0.0, round(2 / 3, 9), 3),
        ("story", share, "rest", None, 2.0, 0, 3),
        ("story", mean, None, "subject", None, 0.25, 2), ("story", mean, None, "verb", None, 0, 1)]
    assert {row["policy"] for row in found} == {"adaptive"}


def test_temperatures_stay_numbers_beside_sampler_settings():
    """Two of three words were drawn at 0.0, one at top_p=0.9: shares alone, as there is no mean of
    both. Bug: numpy makes texts of the numbers, which then equal none of the choices."""
    outcome = Outcome([("story", STORY)], [["fox finds owl"]], {"reward": np.zeros((1, 1))},
                      rolled([3], [[0, 1, 0, 1, 1, 1, 1]]))
    taus, _ = evaluate.used_choices(outcome, (0.0, "top_p=0.9"))
    assert taus[0].tolist()[:3] == [0.0, "top_p=0.9", 0.0] and taus.dtype == object
    found = evaluate.temperature_rows(outcome, (0.0, "top_p=0.9"))
    assert shown(found, "metric", "role", "tau", "value") == [
        ("non_greedy", None, None, 1), *[("temperature_share", role, tau, value)
                                         for role in (None, "rest") for tau, value in
                                         ((0.0, round(2 / 3, 9)), ("top_p=0.9", round(1 / 3, 9)))]]


def test_no_words_give_no_means():
    """Every response ends at once: nothing was drawn for a word, which is no temperature of 0."""
    outcome = Outcome([("vote", VOTE)], [["", ""]], {"reward": np.zeros((1, 2))},
                      rolled([1, 1], [[1], [1]]))
    found = evaluate.temperature_rows(outcome, (0.0, 1.0))
    assert shown(found, "metric", "value", "n") == [("non_greedy", 0, 2)]


def test_places_and_used_choices_are_of_the_response_asked_for():
    """Response 3 is the second of the second prompt; a sequence level's one temperature is that of
    all its words. Bugs: number counted in prompts; another prompt's walk; the end kept."""
    outcome = used_by_hand()
    assert evaluate.places_in(outcome, 0) == ["sum", "operand", "way", "operand", "sum"]
    assert evaluate.places_in(outcome, 1) == []
    assert evaluate.places_in(outcome, 3) == ["subject", "verb"]
    assert evaluate.roles_of(outcome)[0].tolist() == ["rest", "rest", "way", "rest", "rest", None,
                                                      None]
    taus, mask = evaluate.used_choices(outcome, (0.5, 0.0, 2.0))
    assert taus[3].tolist() == [0.5, 0, 2, 0.5, 0.5, 0.5, 0.5]
    assert mask.sum(1).tolist() == [6, 1, 1, 3]
    outcome.rollout = rolled([6, 1, 1, 3], [[2], [0], [1], [0]])
    taus, _ = evaluate.used_choices(outcome, (0.5, 0.0, 2.0))
    assert taus.tolist() == [[2.0] * 7, [0.5] * 7, [0.0] * 7, [0.5] * 7]
    assert evaluate.responses_of(np.array([2, 0]), 3).tolist() == [6, 7, 8, 0, 1, 2]


def test_win_rows_by_hand():
    """Ours against each fixed temperature, whole and per subtask, by reward and not the other
    score. Bugs: theirs against ours; the prompts of another subtask; n of samples."""
    ours = Outcome([("vote", VOTE), ("story", STORY), ("vote", HURRIED)], None,
                   {"reward": np.array([[1.0, 3], [5, 5], [0, 2]])}, None)
    other = torch.full((3, 1), 99.0)
    fixed = {0.0: dict(reward=torch.tensor([[2.0], [5], [0]]), aside=other),  # 0.5, 0.5, 0.75
             1.0: dict(reward=torch.tensor([[0.0], [9], [3]]), aside=other)}  # 1, 0, 0
    found = evaluate.win_rows(ours, fixed, policy="adaptive", select="sample")
    assert shown(found, "subtask", "temperature", "value", "n") == [
        (None, 0.0, round(1.75 / 3, 9), 3), (None, 1.0, round(1 / 3, 9), 3),
        ("vote", 0.0, 0.625, 2), ("vote", 1.0, 0.5, 2),
        ("story", 0.0, 0.5, 1), ("story", 1.0, 0, 1)]
    assert {(row["metric"], row["policy"], row["select"]) for row in found} == {
        ("win_rate", "adaptive", "sample")}


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_round_rows_by_hand(level):
    """Mean temperatures count tokens, the end of text included and padding not; the shares of a
    side are those of that side. Bugs: chosen and rejected swapped; padding counted as choice 0."""
    outcome = used_by_hand()
    taus = (0.5, 0.0, 2.0)
    sides = [(None, rolled([2, 3], [[0, 1, 0, 0, 0, 0, 0], [1, 1, 2, 0, 0, 0, 0]])),
             (None, rolled([1, 1], [[2, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]]))]
    vote, story = (2 + 0.5 + 0 + 0 + 0.5 + 2 + 2) / 7, (0 + 0.5 + 0 + 2) / 4
    chosen, rejected, n = [0.2, 0.6, 0.2], [0.5, 0, 0.5], (5, 2)
    if level == "sequence":
        outcome.rollout = rolled([6, 1, 1, 3], [[2], [0], [1], [0]])
        sides = [(None, rolled([2, 3], [[0], [1]])), (None, rolled([1, 4], [[2], [2]]))]
        vote, story = (6 * 2 + 0.5) / 7, (0 + 3 * 0.5) / 4
        chosen, rejected, n = [0.5, 0.5, 0], [0, 0, 1], (2, 2)
    columns = dict(round=4, pairs=11, level=level)
    found = evaluate.round_rows(outcome, taus, sides, dict(loss_first=0.7, impossible=0.1), columns)
    assert shown(found, "metric", "subtask", "side", "tau", "n") == [
        ("loss_first", None, None, None, 11), ("impossible", None, None, None, 11),
        ("round_reward", None, None, None, 4),
        ("round_temperature", "vote", None, None, 2),
        ("round_temperature", "story", None, None, 2),
        *[("temperature_share", None, "chosen", tau, n[0]) for tau in taus],
        *[("temperature_share", None, "rejected", tau, n[1]) for tau in taus]]
    assert [row["value"] for row in found] == pytest.approx(
        [0.7, 0.1, 3.0, vote, story, *chosen, *rejected])
    assert {(row["round"], row["pairs"], row["level"]) for row in found} == {(4, 11, level)}


def test_round_line_says_each_number_where_it_belongs():
    """Rounds are counted from one; impossible tokens are named only where there are some."""
    def line(**more):
        stats = dict(loss_first=0.6931, loss_last=0.512, round_reward=-0.25, impossible=0.0) | more
        found = [evaluate.row(name, x, 1, round=2, pairs=17) for name, x in stats.items()]
        return evaluate.round_line(found + [
            evaluate.row("round_temperature", x, 1, subtask=name, round=2, pairs=17)
            for name, x in (("math", 0.126), ("story", 1.0))])
    plain = "  round 3  pairs   17  reward -0.250  loss 0.693 -> 0.512"
    assert line() == plain + "  mean temperature math 0.13, story 1.00"
    assert line(pair_accuracy=0.875, impossible=0.0125) == (
        plain + "  pair accuracy 0.88  mean temperature math 0.13, story 1.00  impossible tokens "
        "1.250%")


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_examples_are_responses_of_median_reward(level):
    """Of the first prompt of each subtask, the upper median of the samples; its own words and
    temperatures, the end of text aside. Bugs: the best, the first, another prompt's."""
    asked = [("story", STORY), ("vote", VOTE), ("vote", HURRIED)]
    texts = [["owl", "fox finds", "moon", "fox finds owl"], ["7 .", "3 .", "1 7 .", "."],
             ["0 .", "1 .", "2 .", "3 ."]]
    rewards = np.array([[4.0, 3, 1, 2], [0, 1, 1, 0], [9, 8, 7, 6]])
    k = np.array([0, 1, 2, 3, 1, 2, 3, 0, 2, 3, 0, 1])  # of a response, in its first column
    tau_idx = [[i, (i + 1) % 4] for i in k] if level == "token" else [[i] for i in k]
    outcome = Outcome(asked, texts, {"reward": rewards}, rolled([2] * 12, tau_idx, T=2))
    found = evaluate.examples(outcome, (0.1, 0.2, 0.3, 0.4))
    assert found == [
        dict(subtask="story", prompt=STORY, words=["fox", "finds"],
             temperatures=[0.2, 0.3 if level == "token" else 0.2]),
        dict(subtask="vote", prompt=VOTE, words=["3", "."],
             temperatures=[0.3, 0.4 if level == "token" else 0.3])]


# --- prompts, and the search of the oracle --------------------------------------------------------


def test_prompts_come_in_equal_parts_from_the_split_asked_for():
    """Seven of three tasks are two each, and one each is the least."""
    for n, each in ((7, 2), (2, 1), (9, 3)):
        found = evaluate.draw_prompts("mix", "validation", n, np.random.default_rng(0))
        assert [name for name, _ in found] == (["math"] * each + ["general"] * each
                                               + ["story"] * each)
        assert len(set(found)) == len(found)
        assert {split_of(prompt) for _, prompt in found} == {"validation"}


def test_test_prompts_are_the_same_for_every_seed():
    """All policies and seeds share them; a task that is voted on has samples of its own."""
    cfg = Config(test_prompts=6, test_samples=3, votes=5)
    asked, samples = evaluate.test_set(cfg, "mix")
    assert samples == 3 and len(asked) == 6
    assert {split_of(prompt) for _, prompt in asked} == {"test"}
    torch.rand(3)
    assert evaluate.test_set(replace(cfg, seed=3, base_seeds=2), "mix") == (asked, 3)
    assert evaluate.test_set(cfg, "vote")[1] == 5 and evaluate.test_set(cfg, "repeats")[1] == 3


def test_all_tables_are_every_way_to_give_roles_a_temperature():
    """A task without roles has the rest alone; with one, all pairs, the rest changing fastest."""
    assert evaluate.all_tables("math", (0.5, 1.0)) == [{"rest": 0.5}, {"rest": 1.0}]
    assert evaluate.all_tables("vote", (0.5, 1.0)) == [
        {"way": 0.5, "rest": 0.5}, {"way": 0.5, "rest": 1.0}, {"way": 1.0, "rest": 0.5},
        {"way": 1.0, "rest": 1.0}]


def raced(monkeypatch, reward, texts_of=None):
    """Let respond answer from a table: reward(task, prompt, temperature) -> mean of the samples.
    Returns the list of what it was asked."""
    calls = []

    def respond(model, asked, samples, generator, temperature=None, **policy):
        calls.append(SimpleNamespace(model=model, asked=asked, samples=samples, policy=policy,
                                     generator=generator, temperature=temperature))
        taus = temperature if isinstance(temperature, list) else [temperature] * len(asked)
        of = [(name, prompt, tau) for (name, prompt), tau in zip(asked, taus)]
        spread = np.arange(samples) - (samples - 1) / 2  # of samples about their mean
        rewards = np.array([reward(*one) for one in of])[:, None] + 100 * spread
        texts = [texts_of(*one, samples) if texts_of else ["."] * samples for one in of]
        return Outcome(asked, texts, {"reward": rewards},
                       rolled([1] * len(asked) * samples, [[0]] * len(asked) * samples))
    monkeypatch.setattr(evaluate, "respond", respond)
    return calls


def test_the_race_drops_who_is_three_standard_errors_behind(monkeypatch):
    """16 prompts run in heats of 4, 4 and 8. With differences m - s, m + s, m - s, m + s of the
    first heat the standard error is s / sqrt(3): 2.9 of them behind stays, 3.1 goes. On all 16
    prompts 0.6 has 40 + 129.6, 0.2 only 36 + 132. Bugs: another margin or divisor; the heats; a
    winner by the last heat; a table given the values of one that is out."""
    asked = [("math", f"prompt {i}") for i in range(16)]
    sign = {0: -1, 1: 1, 2: -1, 3: 1}

    def reward(name, prompt, table):
        i, tau = int(prompt.split()[1]), table["rest"]
        if i >= 4:
            return {0.0: 10, 0.2: 11, 0.4: 99, 0.6: 10.8}[tau]
        s = {0.0: 0, 0.2: 3 ** 0.5 / 2.9, 0.4: 3 ** 0.5 / 3.1, 0.6: 0}[tau]
        return 10 - (tau > 0) - sign[i] * s if tau < 0.6 else 10  # 0.6 ties with the leader
    calls = raced(monkeypatch, reward)
    monkeypatch.setattr(evaluate, "FIRST_HEAT", 4)
    taus = (0.0, 0.2, 0.4, 0.6)
    assert search_oracle("model", asked, taus, 3, "generator") == {"math": {"rest": 0.6}}
    assert [len(call.asked) for call in calls] == [4 * 4, 3 * 4, 3 * 8]
    assert [call.temperature for call in calls][1] == [{"rest": tau} for tau in (0.0, 0.2, 0.6)
                                                       for _ in range(4)]
    assert [call.asked for call in calls] == [asked[:4] * 4, asked[4:8] * 3, asked[8:] * 3]
    assert {(c.model, c.samples, c.generator) for c in calls} == {("model", 3, "generator")}
    calls.clear()
    assert search_oracle("model", asked, taus, 3, "g", margin=3.2) == {"math": {"rest": 0.4}}
    calls.clear()
    assert search_oracle("model", asked, taus, 3, "g", margin=2.8) == {"math": {"rest": 0.6}}
    assert [len(call.asked) for call in calls] == [16, 8, 16]


def test_a_heat_of_two_prompts_has_a_standard_error(monkeypatch):
    """Eight prompts run in heats of 2, 2 and 4. Differences 1 - s and 1 + s have the standard error
    s: 2.9 of them behind stays, 3.1 goes."""
    def reward(name, prompt, table):
        s = {0.0: 0, 0.2: 1 / 2.9, 0.4: 1 / 3.1}[table["rest"]]
        return 10 - (table["rest"] > 0) * (1 + s * (-1) ** int(prompt))
    calls = raced(monkeypatch, reward)
    monkeypatch.setattr(evaluate, "FIRST_HEAT", 2)
    search_oracle(None, [("math", str(i)) for i in range(8)], (0.0, 0.2, 0.4), 2, None)
    assert [len(call.asked) for call in calls][:2] == [3 * 2, 2 * 2]


@pytest.mark.parametrize("n, heats", [(96, [12, 12, 24, 48]), (100, [12, 12, 24, 48, 4]),
                                      (32, [12, 12, 8]), (12, [12]), (6, [6])])
def test_each_heat_doubles_the_prompts(monkeypatch, n, heats):
    """Twelve prompts, twelve more, as many again, and what is left. One prompt: a single heat,
    whose leader wins; every task has a race of its own. Bugs: prompts left out or run twice."""
    calls = raced(monkeypatch, lambda name, prompt, table: 0.0)
    asked = [("math", str(i)) for i in range(n)]
    search_oracle(None, asked, (0.5,), 2, None)
    assert [len(call.asked) for call in calls] == heats
    assert sum((call.asked for call in calls), []) == asked
    calls = raced(monkeypatch, lambda name, prompt, table:
                  table["rest"] if name == "story" else -table["rest"])
    assert search_oracle(None, [("math", "a"), ("story", "b")], (0.5, 1.0), 2, None) == {
        "math": {"rest": 0.5}, "story": {"rest": 1.0}}
    assert len(calls) == 2


def test_votes_are_searched_by_votes(monkeypatch):
    """Rewards favour 0, the majorities of two samples 1. Bug: votes that search by reward."""
    raced(monkeypatch, lambda name, prompt, table: -table["rest"],
          lambda name, prompt, table, samples: ["7 ." if table["rest"] else "3 ."] * samples)
    asked = [("vote", VOTE)] * 4
    assert search_oracle(None, asked, (0.0, 1.0), 2, None)["vote"]["rest"] == 0.0
    assert search_oracle(None, asked, (0.0, 1.0), 2, None, votes=2)["vote"]["rest"] == 1.0


# --- the two evaluations --------------------------------------------------------------------------


def solved(prompt):
    return str(sum(int(word) for word in prompt.split()[3:7]) % 10)


def test_measure_fixed_reports_each_search_by_what_it_searched(monkeypatch):
    """Votes: the oracle by reward reports the reward, that by votes the votes, both found on
    validation prompts, where other tables win than on the test prompts, and measured on these.
    Bugs: searched on the test prompts; the two searches swapped; another temperature's scores."""
    rewards = dict(test={(0, 0): 1, (0, 1): 2, (1, 0): 4, (1, 1): 8},
                   validation={(0, 0): 3, (0, 1): 9, (1, 0): 2, (1, 1): 1})
    right = {(0, 0): 2, (0, 1): 1, (1, 0): 5, (1, 1): 3}  # of eight; the others are wrong

    def both(tau):
        return (tau["way"], tau["rest"]) if isinstance(tau, dict) else (tau, tau)

    def texts(name, prompt, tau, samples):
        n = right[both(tau)]
        wrong = (int(solved(prompt)) + 1) % 10
        return ([f"{solved(prompt)} ."] * n + [f"{wrong} ."] * (8 - n))[:samples]
    calls = raced(monkeypatch, lambda name, prompt, tau: rewards[split_of(prompt)][both(tau)],
                  texts)
    cfg = Config(choices=(0.0, 1.0), test_prompts=5, votes=8, oracle_prompts=3, device="cpu")
    job = Job(7, "vote")
    found = evaluate.measure_fixed(cfg, "model", job, Silent())

    def values(metric, **wanted):
        return [(row["votes"], row["value"], row["n"]) for row in
                rows.where(found, metric=metric, subtask="vote", base_seed=7, **wanted)]
    assert values("reward", policy="fixed", temperature=0.0) == [(None, 1, 5)]
    assert values("reward", policy="fixed", temperature=1.0) == [(None, 8, 5)]
    assert values("reward", policy="oracle") == [(None, 2, 5)]  # way 0, rest 1: best on validation
    assert values("vote_accuracy", policy="oracle") == [
        (1, 5 / 8, 5), (2, 5 / 8, 5), (4, 1 / 2, 5), (8, 1, 5)]  # five of eight: way 1, rest 0
    assert values("cut", policy="oracle") == [(None, 0, 5)]
    temperatures = rows.where(found, metric="oracle_choice", subtask="vote", policy="oracle")
    assert shown(temperatures, "votes", "role", "tau", "n") == [
        (8, "way", 1, 3), (8, "rest", 0, 3), (None, "way", 0, 3), (None, "rest", 1, 3)]
    assert {name: x.mean().item() for name, x in found["oracle"].items()} == {
        "reward": 2, "vote_accuracy@1": 5 / 8, "vote_accuracy@2": 5 / 8, "vote_accuracy@4": 1 / 2,
        "vote_accuracy@8": 1}
    assert {tau: x["reward"].mean().item() for tau, x in found["fixed"].items()} == {0.0: 1, 1.0: 8}
    assert found["fixed"][1.0]["vote_accuracy@1"].mean() == 3 / 8
    assert found["fixed"][0.0]["reward"].shape == (5, 8)
    searched = [call for call in calls if split_of(call.asked[0][1]) == "validation"]
    assert {call.samples for call in searched} == {8, 4}
    assert {len(set(call.asked)) for call in searched} == {3}
    tested = [call for call in calls if call not in searched]
    assert len(tested) == 4 and {call.samples for call in tested} == {8}
    assert all(call.asked == evaluate.test_set(cfg, "vote")[0] for call in tested)
    again = evaluate.measure_fixed(cfg, "model", Job(8, "vote"), Silent())
    assert {row["base_seed"] for row in again["rows"]} == {8}


def test_evaluations_say_how_far_they_are(monkeypatch):
    """Fixed temperatures up to 0.7 of the stage, the oracle at 0.8; a decoder's in the half behind
    its training. Bugs: beyond the whole, backwards, fraction and text swapped."""
    raced(monkeypatch, lambda name, prompt, tau: 1.0)
    cfg = Config(choices=(0.0, 0.5), test_prompts=5, votes=8, oracle_prompts=3, device="cpu")
    said = []
    run = SimpleNamespace(tick=lambda fraction, text: said.append((round(fraction, 9), text)))
    evaluate.measure_fixed(cfg, None, Job(0, "vote"), run)
    assert said == [(0.35, "temperature 0.0"), (0.7, "temperature 0.5"),
                    (0.8, "searching the oracle"), (0.8, "searching the oracle")]
    said.clear()
    for name in ("outcome_rows", "temperature_rows", "win_rows", "examples"):
        monkeypatch.setattr(evaluate, name, lambda *of, **columns: [])
    monkeypatch.setattr(evaluate, "with_votes", lambda outcome: {})
    monkeypatch.setattr(evaluate, "respond", lambda *of, **more: None)
    evaluate.measure_adaptive(cfg, None, None, dict(fixed={}), Job(0, "vote", "token", "latent", 0),
                              {}, run)
    assert said == [(0.5, "evaluating, temperature by greedy"),
                    (0.75, "evaluating, temperature by sample")]


def test_measure_fixed_without_votes_has_one_oracle(monkeypatch):
    """Three tasks, each with its own best temperature; the search takes four samples."""
    best = dict(math=0.0, general=1.0, story=0.5)
    calls = raced(monkeypatch, lambda name, prompt, tau: -abs(best[name] - (
        tau["rest"] if isinstance(tau, dict) else tau)))
    cfg = Config(choices=(0.0, 0.5, 1.0), test_prompts=6, test_samples=2, oracle_prompts=12,
                 device="cpu")
    found = evaluate.measure_fixed(cfg, None, Job(0, "mix"), Silent())
    oracle = rows.where(found, policy="oracle", metric="oracle_choice")
    assert shown(oracle, "subtask", "role", "votes", "tau", "n") == [
        ("math", "rest", None, 0, 12), ("general", "rest", None, 1, 12),
        ("story", "rest", None, 0.5, 12)]
    assert rows.values(found, policy="oracle", metric="reward") == [0, 0, 0, 0]
    assert rows.values(found, policy="fixed", metric="reward", temperature=0.5) == pytest.approx(
        [-1 / 3, -0.5, -0.5, 0])
    assert found["oracle"]["reward"].tolist() == [[-50, 50]] * 6
    assert {call.samples for call in calls if split_of(call.asked[0][1]) == "validation"} == {4}


def test_measure_adaptive_keeps_greedy_and_sampled_apart():
    """A parrot and a decoder that says 0 with odds 3 : 1 before every word: greedy is all 0 and
    knows one sum, sampled is 0 in three of four. At temperature 1000 all words are alike.

    960 to 1080 draws: the share lies within 0.07 of 3/4, 5 standard errors, but for 1 in a million.
    """
    cfg = Config(choices=(0.0, 1000.0), test_prompts=15, votes=8, oracle_prompts=4,
                 device="cpu")
    asked, _ = evaluate.test_set(cfg, "vote")
    known = solved(asked[0][1])
    right = np.mean([solved(prompt) == known for _, prompt in asked])
    model = Parrot(encode(f"7 working slowly 9 6 1 {known} .") + [EOS])
    decoder = AdaptiveDecoder(4, cfg.choices)
    with torch.no_grad():
        decoder.mlp[-1].bias.copy_(torch.tensor([0.75, 0.25]).log())
    assert 0 < right < 1
    fixed = evaluate.measure_fixed(cfg, model, Job(0, "vote"), Silent())
    job = Job(0, "vote", "token", "latent", 5)
    columns = job.columns | dict(lr=0.5)
    found = evaluate.measure_adaptive(cfg, model, decoder, fixed, job, columns, Silent())
    assert rows.values(fixed, metric="reward", policy="fixed", subtask=None) == [right, 0]
    assert rows.values(fixed, metric="reward", policy="oracle", subtask=None) == [right]

    def value(metric, select, **wanted):
        wanted = dict(role=None, place=None, subtask="vote") | wanted
        one, = rows.where(found, metric=metric, select=select, policy="adaptive", lr=0.5, seed=5,
                          **wanted)
        return one["value"]
    assert value("reward", "greedy") == right
    assert value("temperature_share", "greedy", tau=0.0) == 1 and value("non_greedy", "greedy") == 0
    assert value("win_rate", "greedy", temperature=0.0) == 0.5
    assert value("win_rate", "greedy", temperature=1000.0) == pytest.approx((1 + right) / 2)
    assert value("temperature_share", "sample", tau=0.0) == pytest.approx(0.75, abs=0.07)
    assert value("mean_temperature", "sample") == pytest.approx(250, abs=70)
    assert value("reward", "sample") < right and value("win_rate", "sample", temperature=0.0) < 0.5
    scores = found["scores"]
    assert list(scores) == ["greedy", "sample"]
    assert scores["greedy"]["reward"].mean().item() == pytest.approx(right)
    assert scores["sample"]["reward"].mean().item() == pytest.approx(value("reward", "sample"))
    example, = found["samples"]
    assert example["prompt"] == asked[0][1] and example["subtask"] == "vote"
    assert example["lr"] == 0.5 and example["level"] == "token"
    assert max(example["temperatures"]) == 1000  # it is a sampled one


def test_scores_beside_the_reward_belong_to_their_prompt():
    """A task that is alone has its metrics, prompt by prompt; two tasks have the reward alone.
    The parrot says "robin finds moon ." : of birds it is one word of the four that are asked."""
    model = Parrot(encode("robin finds moon .") + [EOS])
    birds, hats = (f"please start each line with rare {kind} :" for kind in ("birds", "hats"))
    asked = [("constrained", hats), ("constrained", birds)]
    outcome = respond(model, asked, 2, torch.Generator().manual_seed(0), temperature=0)
    assert outcome.texts == [["robin finds moon ."] * 2] * 2
    assert outcome.scores["constraint"].tolist() == [[0, 0], [0.25, 0.25]]
    assert outcome.scores["quality"].tolist() == [[2 / 8] * 2] * 2  # finds and moon, of least 8
    assert outcome.rewards.tolist() == [[0, 0], [1 / 16, 1 / 16]]
    assert list(outcome.scores) == ["reward", "constraint", "quality"]
    both = respond(model, asked + [("story", STORY)], 1, torch.Generator().manual_seed(0),
                   temperature=0)
    assert list(both.scores) == ["reward"]


def test_a_word_unknown_to_the_tasks_takes_its_place_all_the_same():
    """The end of text and bytes are no words: the walk goes on as behind a word that is wrong."""
    policy = ByRole([("vote", VOTE)], [{"way": 0.3, "rest": 0.7}])
    tokens = torch.tensor([[EOS, *encode("working slowly"), VOCAB_SIZE + 5, 9]])
    found = [policy(tokens[:, :t])[0] for t in range(5)]
    assert found == pytest.approx([0.7, 0.7, 0.3, 0.7, 0.7])
