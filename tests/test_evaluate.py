"""Evaluation: each statistic against a slower way to compute it."""
import itertools

import numpy as np
import pytest
import torch

import evaluate
from decoder import AdaptiveDecoder
from evaluate import Outcome, respond, schedule, search_oracle, vote_accuracy, win_rate
from model import GPT, GPTConfig
from tasks import EOS, TASKS, VOCAB_SIZE, corpus, decode, encode


def test_win_rate_counts_ties_half():
    ours, theirs = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[1.0, 1.0, 3.0], [0.0, 1.0, 2.0]])
    by_hand = [np.mean([1.0 if a > b else 0.5 if a == b else 0.0
                        for a, b in itertools.product(x, y)]) for x, y in zip(ours, theirs)]
    assert win_rate(ours, theirs).tolist() == by_hand
    assert np.allclose(win_rate(ours, theirs) + win_rate(theirs, ours), 1)


def test_votes_split_ties_and_ignore_what_has_no_answer():
    prompt, right, wrong = "please solve for 3 4 9 1 :", "slowly 7 .", "slowly 8 ."
    texts = [right, wrong, wrong, "slowly", right, right, right, "."]
    outcome = Outcome([("vote", prompt)], [texts], np.zeros((1, 8)), None)
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
    model = Parrot(encode("3 4 7 9 6 1 7 .") + [EOS])
    best = search_oracle(model, [("math", prompt)] * 8, (0.0, 0.7, 1.2), 4,
                         torch.Generator().manual_seed(0))
    assert best == {"math": {"all": 0.0}}
    table = schedule([("constrained", ""), ("math", "")],
                     {"constrained": {"start": 0.1, "rest": 0.9}, "math": {"all": 0.5}})
    assert table.shape == (2, 17) and table[1].eq(0.5).all()
    assert table[0, [0, 4, 8, 12]].tolist() == pytest.approx([0.1] * 4)
    assert table[0, 1:4].tolist() + table[0, 13:].tolist() == pytest.approx([0.9] * 7)


def test_respond_keeps_prompts_samples_and_temperatures_together(monkeypatch):
    """Bug: rows of one prompt scored under another, here with batches that split a prompt."""
    monkeypatch.setattr(evaluate, "BATCH", 5)
    torch.manual_seed(0)
    model = GPT(GPTConfig(VOCAB_SIZE, 48, 1, 1, 8))
    asked = [("math", prompt) for prompt, _ in corpus("math", 3, np.random.default_rng(0))]
    asked += [("story", prompt) for prompt, _ in corpus("story", 2, np.random.default_rng(0))]
    outcome = respond(model, asked, 4, torch.Generator().manual_seed(0),
                      decoder=AdaptiveDecoder(8, (0.0, 1.0)))
    assert outcome.rewards.shape == (5, 4) and outcome.rollout.tokens.shape == (20, 21)
    for p, (name, prompt) in enumerate(asked):
        for s in range(4):
            row = outcome.rollout[p * 4 + s:p * 4 + s + 1]
            assert decode(row.tokens[0][row.mask[0]].tolist()) == outcome.texts[p][s]
            assert TASKS[name].reward(prompt, outcome.texts[p][s]) == outcome.rewards[p, s]
    # a table row of temperature 0 gives one text for all samples, the others differ
    table = torch.tensor([[0.0], [3.0], [3.0], [0.0], [3.0]]).expand(-1, 21)
    texts = respond(model, asked, 4, torch.Generator().manual_seed(0), temperature=table).texts
    assert [len(set(same)) for same in texts] == [1, 4, 4, 1, 4]


def test_temperature_rows_add_up():
    torch.manual_seed(0)
    model, taus = GPT(GPTConfig(VOCAB_SIZE, 48, 1, 1, 8)), (0.0, 0.5, 1.0)
    asked = [("constrained", prompt) for prompt, _ in corpus("constrained", 6,
                                                             np.random.default_rng(0))]
    for level in ("token", "sequence"):
        outcome = respond(model, asked, 3, torch.Generator().manual_seed(1),
                          decoder=AdaptiveDecoder(8, taus, level))
        rows = evaluate.temperature_rows(outcome, taus, level=level)
        shares = {(r["role"], r["tau"]): r["value"] for r in rows
                  if r["metric"] == "temperature_share"}
        means = {r["role"]: r["value"] for r in rows
                 if r["metric"] == "mean_temperature" and r["position"] is None}
        for role in (None, "start", "rest"):
            assert sum(shares[role, tau] for tau in taus) == pytest.approx(1)
            assert sum(tau * shares[role, tau] for tau in taus) == pytest.approx(means[role])
        drawn = np.array(taus)[outcome.rollout.tau_idx.numpy()]
        start = np.broadcast_to(drawn, (18, 17))[:, :16:4][outcome.rollout.mask[:, :16:4]]
        assert means["start"] == pytest.approx(start.mean())
