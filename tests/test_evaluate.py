"""Evaluation: each statistic against a slower way to compute it."""
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from decoder import AdaptiveDecoder
from model import GPT, GPTConfig
from tasks import EOS, TASKS, VOCAB_SIZE, WORDS, corpus, decode, encode, places_of
from toy import evaluate
from toy.evaluate import ByRole, Outcome, respond, search_oracle, vote_accuracy, win_rate


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
        assert policy(ids[:, :t]).tolist() == pytest.approx([row[t] for row in by_hand]), t


def test_respond_keeps_prompts_samples_and_temperatures_together(monkeypatch):
    """Bug: rows of one prompt scored under another, here with batches that split a prompt."""
    monkeypatch.setattr(evaluate, "BATCH", 5)
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
