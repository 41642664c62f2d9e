"""The LPO loop in process: pairs, one update, the rounds, what each option changes, the jobs."""
import copy
import json
import math
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tasks
import train_toy
from decoder import AdaptiveDecoder, Rollout
from lpo import ResponseLogps
from model import GPT, GPTConfig
from tasks import encode
from toy import rows
from toy.evaluate import Outcome
from toy.options import Config, parse
from toy.pretrain import new_model
from toy.stages import Job, Silent
from train_toy import make_pairs

ROOT = Path(__file__).parent.parent
SMALL = ("--device cpu --n-layer 1 --n-head 1 --n-embd 8 --pretrain-steps 1 --rounds 2 "
         "--prompts 3 --responses 6 --steps 2 --test-prompts 4 --test-samples 2 "
         "--oracle-prompts 2 --votes 4 --choices 0,0.5,1.5 --experiments constrained").split()


def config(*arguments):
    return parse([*SMALL, *arguments], "")


def base_of(cfg, seed=0):
    torch.manual_seed(seed)
    return new_model(cfg)


def weights(module):
    return torch.cat([weight.detach().flatten() for weight in module.parameters()]).clone()


# --- pairs ----------------------------------------------------------------------------------------


def test_pairs_by_hand():
    """Index p * N + n of each pairing. Bugs: a tie kept, the worst for the best, an index of
    another prompt, a pair left out of `all`, the wrong end by the second criterion."""
    rewards = np.array([[1.0, 3.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0], [0.0, -1.0, 0.0, 4.0]])
    assert make_pairs(rewards) == ([1, 11], [0, 9])
    assert all(type(i) is int for side in make_pairs(rewards) for i in side)
    pairs = make_pairs(rewards, "all")
    assert sorted(zip(*pairs)) == [(1, 0), (1, 2), (2, 0), (3, 0), (3, 2),
                                   (8, 9), (10, 9), (11, 8), (11, 9), (11, 10)]
    assert make_pairs(np.array([[0.0, 2.0]])) == ([1], [0])


def test_what_rounding_leaves_is_a_tie():
    """A millionth of the larger size. Bugs: a bound that is another or absolute, the smaller size,
    a sign dropped."""
    for size in (1.0, -1.0, 1e6, -1e-3):
        for step, pairs in ((0.5e-6, ([], [])), (2e-6, ([1], [0]))):
            worse = size - step * abs(size)
            for pairing in ("best-worst", "all"):
                assert make_pairs(np.array([[worse, size]]), pairing) == pairs, (size, step)
    assert make_pairs(np.array([[-1.0, 0.0]])) == make_pairs(np.array([[0, 1e-9]])) == ([1], [0])
    assert make_pairs(np.array([[False, True]])) == ([1], [0])
    assert make_pairs(np.array([[1, 2]], dtype=np.uint8)) == ([1], [0])
    for wrong in ([1.0, 2.0], [[1.0, math.inf]], [[math.nan, 1.0]], [["a", "b"]]):
        with pytest.raises(ValueError, match="rewards: "):
            make_pairs(wrong)
    with pytest.raises(ValueError, match="the second criterion is"):
        make_pairs([[1.0, 2.0]], "top-k", [[1.0, 2.0, 3.0]], 1)


def test_top_k_pairs_by_hand():
    """Among the k first the best by the second criterion, among the k last the worst by it.
    Bugs: arg-min for arg-max, k off by one, the second criterion of another prompt."""
    first = np.array([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    second = np.array([[1.0, 5.0, 6.0, 0.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0, 6.0, 5.0]])
    assert make_pairs(first, "top-k", second, 1) == ([0, 11], [5, 6])
    assert make_pairs(first, "top-k", second, 2) == ([1, 10], [4, 7])
    assert make_pairs(first, "top-k", second) == ([2, 10], [3, 8])  # k is 3
    alike = np.array([[1.0, 1.0, 1.0, 1.0]])
    assert make_pairs(alike, "top-k", np.array([[1.0, 2.0, 3.0, 4.0]]), 2) == ([], [])
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"top_k is {k}; of 6 responses give 1 to half"):
            make_pairs(first, "top-k", second, k)


def test_each_pairing_reads_its_own_scores():
    """Bugs: criteria swapped, another metric, --top-k or --pairing dropped on the way."""
    prompt = "please start each line with rare birds :"
    scores = dict(reward=[[0.0, 1.0, 2.0, 3.0]], constraint=[[3.0, 2.0, 1.0, 0.0]],
                  quality=[[0.0, 1.0, 1.0, 2.0]])
    outcome = Outcome([("constrained", prompt)], [], {k: np.array(v) for k, v in scores.items()},
                      None)
    assert train_toy.paired(SimpleNamespace(pairing="best-worst"), outcome) == ([3], [0])
    chosen, rejected = train_toy.paired(SimpleNamespace(pairing="all"), outcome)
    assert len(chosen) == 6 and set(rejected) == {0, 1, 2}
    top = [train_toy.paired(SimpleNamespace(pairing="top-k", top_k=k), outcome) for k in (1, 2)]
    assert top == [([0], [3]), ([1], [2])]


def test_each_side_has_its_own_prompts_and_responses():
    """Response i belongs to prompt i // N. Bugs: a response beside another's prompt, the sides
    swapped, responses out of order."""
    texts = ["please sum up 3 4 9 1 :", "now sum up 1 1 1 1 :"]
    tokens = torch.arange(6)[:, None].expand(6, 2)
    rollout = Rollout(tokens, tokens >= 0, tokens[:, 0] > 2, tokens + 10)
    outcome = Outcome([("math", text) for text in texts], [], {"reward": np.zeros((2, 3))}, rollout)
    chosen, rejected = train_toy.sides_of(outcome, ([2, 3, 5], [0, 4, 3]))
    assert chosen[0] == [encode(texts[0]), encode(texts[1]), encode(texts[1])]
    assert rejected[0] == [encode(texts[0]), encode(texts[1]), encode(texts[1])]
    assert chosen[1].tokens[:, 0].tolist() == [2, 3, 5]
    assert rejected[1].tau_idx[:, 1].tolist() == [10, 14, 13]
    assert chosen[1].cut.tolist() == [False, True, True]


# --- one update, against a loop written out here --------------------------------------------------

PROMPTS = [[1, 2], [3, 4, 5], [6]]
TAUS = (0.5, 1.0, 2.0)


def side_of(tokens, lengths, tau_idx):
    tokens, mask = torch.tensor(tokens), torch.arange(4) < torch.tensor(lengths)[:, None]
    return PROMPTS, Rollout(tokens, mask, ~mask[:, 0], torch.tensor(tau_idx))


def update_case(level="token", changed=True):
    """A model, a decoder, a reference that is another, and three pairs with padding."""
    torch.manual_seed(1)
    model = GPT(GPTConfig(9, 8, n_layer=1, n_head=1, n_embd=4))
    decoder = AdaptiveDecoder(4, TAUS, level)
    reference = copy.deepcopy(model), copy.deepcopy(decoder)
    if changed:
        for module in (model, decoder):
            for weight in module.parameters():
                weight.data += 0.3 * torch.randn(weight.shape)
    for module in (model, decoder, *reference):
        module.double()  # in single precision Adam makes a step of the noise of a gradient of 0
    idx = [[0, 1, 2, 1], [2, 2, 0, 0], [1, 0, 0, 0]], [[0, 0, 0, 0], [1, 2, 0, 0], [2, 1, 1, 0]]
    if level == "sequence":
        idx = [[row[:1] for row in side] for side in idx]
    sides = [side_of([[7, 3, 0, 8], [2, 8, 0, 0], [8, 1, 1, 1]], [4, 2, 1], idx[0]),
             side_of([[5, 8, 4, 4], [1, 1, 8, 0], [2, 6, 8, 5]], [2, 3, 3], idx[1])]
    return model, decoder, reference, sides


def by_hand(model, decoder, reference, side, variant, exact):
    """The score of each response, one token after the other, from the definitions."""
    ref_model, ref_decoder = reference
    scores = []
    for prompt, tokens, mask, idx in zip(side[0], side[1].tokens, side[1].mask, side[1].tau_idx):
        n, one_for_all = int(mask.sum()), len(idx) == 1
        whole = torch.tensor([prompt + tokens[:n].tolist()])
        total, products, ref_products = 0.0, 0.0, 0.0
        (logits, hidden), (ref_logits, ref_hidden) = model(whole), ref_model(whole)
        for t in range(n):
            at = len(prompt) + t - 1
            tau_at = len(prompt) - 1 if one_for_all else at
            k = idx[0] if one_for_all else idx[t]
            words = torch.stack([(logits[0, at] / tau).log_softmax(-1)[tokens[t]] for tau in TAUS])
            ref_words = torch.stack([(ref_logits[0, at] / tau).log_softmax(-1)[tokens[t]]
                                     for tau in TAUS]).detach()
            taus = decoder(hidden[0, tau_at])
            ref_taus = torch.zeros(3).double() if ref_decoder is None else (
                ref_decoder(ref_hidden[0, tau_at]).detach())
            if variant == "latent":
                total = total + ((words + taus).exp().sum() / (ref_words + ref_taus).exp().sum()
                                 ).log()
            elif variant == "joint":
                total = total + words[k] - ref_words[k]
            if variant != "latent" and (t == 0 or not one_for_all):
                total = total + taus[k] - (0 if variant == "nll" else ref_taus[k])
            products, ref_products = products + words, ref_products + ref_words
        if exact:
            total = ((products + taus).exp().sum() / (ref_products + ref_taus).exp().sum()).log()
        scores.append(total)
    return torch.stack(scores)


def adam(parameters, gradients, state, step, lr):
    """Adam as published, betas .9 and .999, eps 1e-8: no weight decay."""
    for i, (weight, gradient) in enumerate(zip(parameters, gradients)):
        m, v = state.get(i, (0.0, 0.0))
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient ** 2
        state[i] = m, v
        weight.data -= lr * (m / (1 - 0.9 ** step)) / ((v / (1 - 0.999 ** step)).sqrt() + 1e-8)


@pytest.mark.parametrize("variant, level, with_decoder, model_lr, exact", [
    ("separate", "token", True, 0.0, False),
    ("separate", "sequence", False, 0.0, False),
    ("joint", "token", True, 0.02, False),
    ("latent", "token", True, 0.0, False),
    ("latent", "token", True, 0.02, False),
    ("latent", "sequence", True, 0.0, True),
    ("nll", "token", True, 0.02, False)])
def test_an_update_does_what_the_formulas_say(variant, level, with_decoder, model_lr, exact):
    """Weights and statistics after three steps, against scores token by token and Adam written
    out. Bugs: sides swapped, beta, a learning rate or the reference dropped, weight decay, a
    gradient kept from the step before, a sum for the mean, the first loss for the last, an
    accuracy of the wrong side, a reference that is trained."""
    model, decoder, reference, sides = update_case(level)
    if model_lr == 0:  # then the model is its own reference
        reference = copy.deepcopy(model), reference[1]
    reference = reference[0], reference[1] if with_decoder else None
    kept = [copy.deepcopy(x) for x in (model, decoder, reference)]
    ticks = []
    stats = train_toy.update(model, decoder, reference, sides, variant, 0.7, 0.05, 3, model_lr,
                             exact, lambda fraction, text: ticks.append((fraction, text())))
    old_model, old_decoder, old_reference = kept
    losses_found, states = [], ({}, {})
    for step in (1, 2, 3):
        scores = [by_hand(old_model, old_decoder, old_reference, side, variant, exact)
                  for side in sides]
        losses = -scores[0] if variant == "nll" else (
            1 + (-0.7 * (scores[0] - scores[1])).exp()).log()
        losses_found.append(losses.mean().item())
        groups = [list(old_decoder.parameters()), list(old_model.parameters())]
        groups = groups if model_lr else groups[:1]
        flat = [weight for group in groups for weight in group]
        gradients = torch.autograd.grad(losses.sum() / 3, flat, allow_unused=True)
        found = iter(torch.zeros_like(w) if g is None else g for w, g in zip(flat, gradients))
        for group, state, lr in zip(groups, states, (0.05, model_lr)):
            adam(group, [next(found) for _ in group], state, step, lr)
    assert torch.allclose(weights(decoder), weights(old_decoder), atol=1e-7)
    assert torch.allclose(weights(model), weights(old_model), atol=1e-7)
    assert stats["loss_first"] == pytest.approx(losses_found[0], rel=1e-7)
    assert stats["loss_last"] == pytest.approx(losses_found[2], rel=1e-7)
    assert [fraction for fraction, _ in ticks] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [text for _, text in ticks] == [f"loss {loss:.3f}" for loss in losses_found]
    assert stats["impossible"] == 0
    if variant == "nll":
        assert "pair_accuracy" not in stats
    else:
        right = (scores[0] > scores[1]).float().mean().item()
        assert stats["pair_accuracy"] == pytest.approx(right)
    for now, before in zip(reference, old_reference):
        if now is not None:
            assert torch.equal(weights(now), weights(before))


class Waits(TorchDispatchMode):
    """Counts what would wait for a GPU: numbers of a tensor that are asked for."""
    n = 0

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        self.n += f in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default,
                        torch.ops.aten.nonzero.default)
        return f(*args, **(kwargs or {}))


@pytest.mark.parametrize("variant, level", [("latent", "token"), ("joint", "sequence"),
                                            ("nll", "token")])
def test_between_the_first_and_the_last_update_nothing_waits_for_a_gpu(monkeypatch, variant, level):
    """Bugs: values checked, or a loss read, at every update; the frozen model run twice a side, or
    again. SGD stands in for AdamW, which counts its steps in tensors on the host."""
    model, decoder, reference, sides = update_case(level)
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, lr=0.1, weight_decay=0.0:
                        torch.optim.SGD(groups, lr=0.1))
    passes, waits = [], []
    model.register_forward_hook(lambda *_: passes.append(None))
    for steps in (2, 9):
        with Waits() as mode:
            train_toy.update(model, decoder, (model, reference[1]), sides, variant, 0.5, 0.1, steps)
        waits.append(mode.n)
        assert len(passes) == 2  # chosen and rejected
        passes.clear()
    assert waits[0] == waits[1] > 2


@pytest.mark.parametrize("variant, model_lr", [("latent", 0.0), ("joint", 0.1), ("nll", 0.0)])
def test_an_update_refuses_what_is_no_number_in_the_end(variant, model_lr):
    """Bug: a decoder that has become NaN on the way goes on to the next round."""
    model, decoder, reference, sides = update_case()
    with pytest.raises(ValueError, match="tau_logps has a NaN"):
        train_toy.update(model, decoder, reference, sides, variant, 0.5, 1e300, 5, model_lr)


def test_pairs_that_are_undecided_are_not_right():
    """At the start of a round policy and reference are the same, every loss is ln 2, and no pair
    is in the right order yet. Bug: a tie counted as right."""
    model, decoder, reference, sides = update_case(changed=False)
    stats = train_toy.update(model, decoder, reference, sides, "latent", 0.5, 0.05, 1)
    assert stats["loss_first"] == stats["loss_last"] == pytest.approx(math.log(2))
    assert stats["pair_accuracy"] == 0


def test_impossible_tokens_by_hand():
    """At the drawn temperature in joint, at all of them otherwise; of the policy or of the
    reference. Bugs: any for all, one of the two forgotten, the drawn one ignored."""
    never = -math.inf
    text = torch.tensor([[[never, -1.0], [never, never], [-1.0, -1.0], [-2.0, never]]])
    ref = torch.tensor([[[-1.0, -1.0], [-1.0, -1.0], [never, never], [-2.0, -1.0]]])
    side = ResponseLogps(torch.zeros(1, 4, 2), torch.tensor([[0, 0, 1, 0]]),
                         torch.ones(1, 4, dtype=torch.bool), text, ref)
    assert train_toy.impossible(side, "latent").tolist() == [[False, True, True, False]]
    assert train_toy.impossible(side, "joint").tolist() == [[True, True, True, False]]


def test_the_share_of_impossible_tokens_leaves_padding_out():
    """At temperature 0 alone a token is possible if it is the arg-max. Bugs: padding counted, one
    side left out."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(9, 8, n_layer=1, n_head=1, n_embd=4))
    decoder = AdaptiveDecoder(4, (0.0,))
    sides, hits, total = [], 0, 0
    for tokens, lengths in (([[1, 2, 3, 4], [5, 6, 7, 8], [1, 1, 1, 1]], [2, 4, 1]),
                            ([[4, 4, 4, 4], [3, 3, 3, 3], [2, 2, 2, 2]], [1, 2, 2])):
        tokens = torch.tensor(tokens)
        for row, prompt in zip(tokens, PROMPTS):  # the first token of each is made possible
            row[0] = model(torch.tensor([prompt]))[0][0, -1].argmax()
        sides.append(side_of(tokens.tolist(), lengths, [[0] * 4] * 3))
        for row, prompt, n in zip(tokens, PROMPTS, lengths):
            for t in range(n):
                best = model(torch.tensor([prompt + row[:t].tolist()]))[0][0, -1].argmax()
                hits, total = hits + (best != row[t]).item(), total + 1
    assert 0 < hits < total == 12
    stats = train_toy.update(model, decoder, (model, None), sides, "latent", 0.5, 0.1, 1)
    assert stats["impossible"] == pytest.approx(hits / 12)


# --- the rounds -----------------------------------------------------------------------------------


class Watched:
    """`train` with its calls written down: what each round's update, respond and draw were given,
    as copies."""

    def __init__(self, monkeypatch, cfg, variant="latent", level="token", seed=0, base=None):
        self.updates, self.responds, self.drawn, self.ticks = [], [], [], []
        self.base = base_of(cfg) if base is None else base
        update, respond = train_toy.update, train_toy.respond

        def watched_update(model, decoder, reference, sides, *rest):
            before = [None if x is None else weights(x) for x in (model, decoder, *reference)]
            stats = update(model, decoder, reference, sides, *rest)
            self.updates.append(SimpleNamespace(
                before=before, reference=reference, rest=rest, sides=sides,
                policy=(model, decoder), after=[weights(model), weights(decoder)],
                reference_after=[None if x is None else weights(x) for x in reference]))
            return stats

        def watched_respond(*positional, **named):
            self.responds.append((positional, named))
            return respond(*positional, **named)

        def draw(experiment, split, n, rng):
            self.drawn.append((experiment, split, n))
            return train_toy.draw_prompts(experiment, split, n, rng)
        monkeypatch.setattr(train_toy, "update", watched_update)
        monkeypatch.setattr(train_toy, "respond", watched_respond)
        run = SimpleNamespace(tick=lambda fraction, text: self.ticks.append(fraction),
                              say=lambda text: None)
        job = Job(0, cfg.experiments[0], level, variant, seed)
        self.model, self.decoder, self.rows = train_toy.train(cfg, self.base, job, run, draw=draw)
        monkeypatch.undo()

    @property
    def numbers(self):
        """The last round's statistics, none of which is an option."""
        return [row["value"] for row in self.rows if row["round"] == self.rows[-1]["round"]]


def graded_by_length(monkeypatch, *names):
    """Rewards that a model without training earns too, and unequal ones."""
    for name in names:
        monkeypatch.setitem(tasks.TASKS, name, replace(
            tasks.TASKS[name], reward=lambda prompt, text: len(set(text.split())) + 0.01 * len(text)
        ))


@pytest.fixture
def graded():
    with pytest.MonkeyPatch.context() as patch:
        graded_by_length(patch, "constrained", "vote", "repeats")
        yield


@pytest.mark.parametrize("variant, flags, has_decoder", [
    ("joint", [], False), ("separate", [], False), ("latent", [], True),
    ("joint", ["--decoder-reference"], True), ("separate", ["--decoder-reference"], True),
    ("latent", ["--decoder-reference"], True)])
def test_which_variant_has_a_decoder_reference(variant, flags, has_decoder, monkeypatch, graded):
    """Joint and separate only if asked, latent always. Bugs: the wrong variants, `not` dropped."""
    seen = Watched(monkeypatch, config("--rounds", "1", *flags), variant)
    assert (seen.updates[0].reference[1] is not None) == has_decoder
    assert seen.updates[0].rest[0] == variant


@pytest.mark.parametrize("reference", ["round", "initial"])
def test_the_reference_is_a_copy_of_the_right_round(reference, monkeypatch, graded):
    """`round`: what samples the round's pairs; `initial`: what the first round began with. It is
    no part of the policy and stays as it is. Bugs: a reference that moves, or of another round."""
    cfg = config("--rounds", "3", "--model-lr", "0.01", "--reference", reference)
    seen = Watched(monkeypatch, cfg)
    first = seen.updates[0].before
    assert torch.equal(first[0], weights(seen.base)) and torch.equal(first[0], first[2])
    for rnd, call in enumerate(seen.updates):
        model, decoder, ref_model, ref_decoder = call.before
        expected = (model, decoder) if reference == "round" else first[:2]
        assert torch.equal(ref_model, expected[0]) and torch.equal(ref_decoder, expected[1])
        assert torch.equal(call.reference_after[0], ref_model)
        assert torch.equal(call.reference_after[1], ref_decoder)
        assert call.reference[0] is not call.policy[0] and call.reference[0] is not seen.base
        assert call.reference[1] is not call.policy[1]
        assert not torch.equal(call.after[0], model) and not torch.equal(call.after[1], decoder)
        if rnd:  # the policy goes on from where the round before left it
            assert torch.equal(model, seen.updates[rnd - 1].after[0])
            assert torch.equal(decoder, seen.updates[rnd - 1].after[1])
    assert torch.equal(weights(seen.base), first[0])  # other jobs begin with it
    assert torch.equal(weights(seen.model), seen.updates[2].after[0])
    assert torch.equal(weights(seen.decoder), seen.updates[2].after[1])


def test_each_round_is_given_what_the_options_say(monkeypatch, graded):
    """Bugs: beta and lr swapped, a rate that falls to 0 too early or never falls, model_lr
    dropped, a model of before the training sampled, test prompts trained on, progress beyond the
    first half."""
    cfg = config(*"--rounds 4 --lr 0.008 --beta 0.3 --steps 2 --model-lr 0.001".split())
    seen = Watched(monkeypatch, cfg)
    rates = [call.rest[2] for call in seen.updates]
    assert rates == pytest.approx([0.008, 0.006, 0.004, 0.002])
    for call in seen.updates:
        assert (call.rest[1], call.rest[3], call.rest[4], call.rest[5]) == (0.3, 2, 0.001, False)
    assert seen.drawn == [("constrained", "train", 3)] * 4
    assert seen.ticks == pytest.approx([i / 16 for i in range(1, 9)])
    generators = set()
    for (model, asked, responses, generator), named in seen.responds:
        assert model is seen.model and responses == 6 and len(asked) == 3
        assert named == {"decoder": seen.decoder}
        generators.add(id(generator))
    assert len(generators) == 1 and not torch.equal(weights(seen.model), weights(seen.base))
    assert seen.responds[0][0][1] != seen.responds[1][0][1]  # new prompts in each round
    of_rounds = [row for row in seen.rows if row["metric"] == "loss_first"]
    assert [row["round"] for row in of_rounds] == [0, 1, 2, 3]
    assert [row["pairs"] for row in of_rounds] == [len(call.sides[0][0]) for call in seen.updates]
    for row in seen.rows:
        assert (row["beta"], row["lr"], row["pairing"], row["reference"]) == (
            0.3, 0.008, "best-worst", "round")
        assert (row["experiment"], row["level"], row["variant"], row["base_seed"], row["seed"]) == (
            "constrained", "token", "latent", 0, 0)


@pytest.mark.parametrize("variant, level, exact", [
    ("latent", "sequence", True), ("latent", "token", False), ("joint", "sequence", False)])
def test_the_exact_marginal_is_for_latent_at_the_sequence_level(variant, level, exact, monkeypatch,
                                                               graded):
    """Bugs: an `or` for an `and`, the option read at another level, or not at all."""
    asked = Watched(monkeypatch, config("--rounds", "1", "--exact-sequence"), variant, level)
    assert asked.updates[0].rest[5] is exact
    plain = Watched(monkeypatch, config("--rounds", "1"), variant, level)
    assert plain.updates[0].rest[5] is False and plain.decoder.level == level


def test_a_frozen_model_stays_as_it_is(monkeypatch, graded):
    """Bug: --model-lr 0 that trains the language model."""
    seen = Watched(monkeypatch, config())
    assert torch.equal(weights(seen.model), weights(seen.base))
    assert not torch.equal(seen.updates[0].before[1], weights(seen.decoder))
    assert seen.decoder.choices == (0.0, 0.5, 1.5)


OPTIONS = {  # an option -> a value that has to change what is learned, and what it needs
    "beta": "--beta 5", "lr": "--lr 0.03", "rounds": "--rounds 3", "prompts": "--prompts 4",
    "responses": "--responses 4", "steps": "--steps 4", "pairing": "--pairing all",
    "top-k pairing": "--pairing top-k --top-k 2", "reference": "--reference initial",
    "model_lr": "--model-lr 0.01", "choices": "--choices 0,0.5,1.4"}


@pytest.fixture(scope="module")
def usual():
    """What the usual options learn, twice the same, and from other seeds."""
    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as inner:
        graded_by_length(patch, "constrained")
        return [Watched(inner, config(), seed=seed).numbers for seed in (0, 0, 1)]


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_changes_what_is_learned(name, usual, monkeypatch, graded):
    """Statistics of the last round, which hold no option. Bug: an option that reaches the table's
    columns but not the training."""
    assert usual[0] == usual[1] != usual[2]
    assert Watched(monkeypatch, config(*OPTIONS[name].split())).numbers != usual[0]


def test_top_k_reaches_the_pairs(monkeypatch, graded):
    """Bug: always three."""
    found = [Watched(monkeypatch, config("--pairing", "top-k", "--top-k", k)).numbers
             for k in ("1", "3")]
    assert found[0] != found[1]


def test_a_first_round_without_pairs_is_an_error_and_a_later_one_is_passed_over(monkeypatch):
    """Bugs: a round of one pair passed over, a job that ends there, an error that names the wrong
    round."""
    said, left = [], []
    run = SimpleNamespace(tick=lambda *_: None, say=said.append)
    monkeypatch.setattr(train_toy, "paired", lambda cfg, outcome: left.pop(0))
    cfg = config("--rounds", "3")
    job = Job(0, "constrained", "token", "latent", 0)
    left += [([1], [0]), ([], []), ([2], [3])]
    *_, found = train_toy.train(cfg, base_of(cfg), job, run)
    assert {(row["round"], row["pairs"]) for row in found} == {(0, 1), (2, 1)}
    assert said[1] == "  round 2  no pair of unequal rewards: nothing to learn from it"
    assert said[0].startswith("  round 1  pairs    1") and said[2].startswith("  round 3  pairs")
    left[:] = [([], [])]
    with pytest.raises(ValueError, match="round 1 of constrained has no pair of unequal rewards"):
        train_toy.train(cfg, base_of(cfg), job, run)


# --- jobs, keys, the whole ------------------------------------------------------------------------


def test_jobs_in_order_by_hand():
    """A base model, then for each experiment the fixed temperatures and every decoder. Bugs: seeds
    that do not begin with --seed, --seeds for --base-seeds, a loop inside out, a cost that makes
    the time left wrong."""
    cfg = parse("--experiments vote,mix --variants nll,joint --levels sequence,token --seed 3 "
                "--seeds 2 --base-seeds 3 --pretrain-steps 60 --test-prompts 50 --rounds 2 "
                "--prompts 100".split(), "")
    expected = []
    for base in ("base3", "base4", "base5"):
        expected.append((base, 2.0))
        for experiment in ("vote", "mix"):
            expected.append((f"{base}-{experiment}", 2.0))
            for seed in (3, 4):
                for variant in ("nll", "joint"):
                    for level in ("sequence", "token"):
                        expected.append((f"{base}-{experiment}-{variant}-{level}{seed}", 1.0))
    assert [(job.name, cost) for job, cost in train_toy.jobs(cfg)] == expected


CHOOSE = {"out": "elsewhere", "experiments": ("mix",), "levels": ("token",),
          "variants": ("joint",), "seed": 7, "seeds": 2, "base_seeds": 2}  # only what to run
OF_BASE = {"n_layer": 2, "n_head": 2, "n_embd": 16, "pretrain_steps": 9, "pretrain_lr": 0.1,
           "device": "cuda"}
OF_TEST = {"choices": (0.3,), "test_prompts": 5, "test_samples": 3, "votes": 2,
           "oracle_prompts": 7}
OF_DECODER = {"beta": 9.0, "lr": 0.5, "rounds": 5, "prompts": 4, "responses": 9, "steps": 7,
              "pairing": "all", "top_k": 2, "reference": "initial", "decoder_reference": True,
              "exact_sequence": True, "model_lr": 0.1}


def test_a_stage_is_kept_for_the_options_that_change_it():
    """Every option, in one of four kinds. Bugs: a result kept though an option changed it, or made
    anew for one that only chooses what to run."""
    kinds = (CHOOSE, OF_BASE, OF_TEST, OF_DECODER)
    assert sorted(sum(map(list, kinds), [])) == sorted(f.name for f in fields(Config))
    cfg = config()
    before = [train_toy.base_key(cfg), *train_toy.stage_keys(cfg)]
    json.dumps(before)
    for kind, expected in zip(kinds, ("", "base fixed decoder", "fixed decoder", "decoder")):
        for name, value in kind.items():
            other = replace(cfg, **{name: value})
            after = [train_toy.base_key(other), *train_toy.stage_keys(other)]
            changed = [what for what, a, b in zip(("base", "fixed", "decoder"), before, after)
                       if a != b]
            assert " ".join(changed) == expected, name


def test_a_stage_is_kept_for_the_code_that_made_it():
    """Bug: a file left out of a key, so that yesterday's numbers stand beside today's code."""
    base = "model.py tasks.py toy/pretrain.py".split()
    fixed = [*base, *"lpo.py decoder.py fast/generate.py fast/cache.py toy/evaluate.py".split()]
    keys = [train_toy.base_key(config()), *train_toy.stage_keys(config())]
    for key, names in zip(keys, (base, fixed, [*fixed, "train_toy.py"])):
        text = json.dumps(key)
        for name in names:
            source = json.dumps((ROOT / name).read_text(encoding="utf-8"))[1:-1]
            assert source in text, name


@pytest.mark.parametrize("model_lr", ["0", "0.01"])
def test_a_decoder_s_stage_keeps_rows_and_weights(model_lr, monkeypatch, graded):
    """Bugs: the rounds' rows lost, weights of before the training, one decoder's weights kept for
    all rounds, the language model kept where it is frozen or lost where it is not."""
    cfg = config("--model-lr", model_lr, "--beta", "0.25")
    base, job = base_of(cfg), Job(0, "constrained", "token", "latent", 0)
    seen = []
    train = train_toy.train
    monkeypatch.setattr(train_toy, "train", lambda *given, **more: (
        seen.append(train(*given, **more)) or seen[0]))
    fixed = train_toy.measure_fixed(cfg, base, Job(0, "constrained"), Silent())
    result = train_toy.adapt(cfg, base, fixed, job, Silent())
    model, decoder, of_rounds = seen[0]
    assert result["rows"][:len(of_rounds)] == of_rounds
    tested = result["rows"][len(of_rounds):]
    assert {row["round"] for row in tested} == {None} and {row["beta"] for row in tested} == {0.25}
    assert {row["select"] for row in tested} == {"greedy", "sample"}
    assert set(result["scores"]) == {"greedy", "sample"} and len(result["samples"]) == 1
    first, *_, last = result["by_round"]
    assert len(result["by_round"]) == cfg.rounds + 1 and not first["mlp.4.weight"].any()
    for name, weight in decoder.named_parameters():
        assert torch.equal(result["decoder"][name], weight)
        assert torch.equal(last[name], weight) and not torch.equal(first[name], weight)
    if model_lr == "0":
        assert result["model"] is None
    else:
        assert torch.equal(result["model"]["norm.weight"], model.state_dict()["norm.weight"])
        assert not torch.equal(result["model"]["norm.weight"], base.norm.weight)


def test_too_few_prompts_are_found_out_before_the_pretraining(monkeypatch, tmp_path):
    """Bugs: an hour of pretraining before the error, a split's number given to another."""
    asked = []

    def draw(experiment, split, n, rng):
        asked.append((experiment, split, n))
        if len(asked) == 6:
            raise ValueError("too few")
    monkeypatch.setattr(train_toy, "draw_prompts", draw)
    monkeypatch.setattr(train_toy, "base_model", lambda *_: pytest.fail("pretrained before"))
    cfg = config("--experiments", "vote,mix", "--out", str(tmp_path))
    with pytest.raises(ValueError, match="too few"):
        train_toy.main(cfg)
    assert sorted(asked) == sorted((experiment, split, n) for experiment in ("vote", "mix")
                                   for split, n in (("train", 3), ("validation", 2), ("test", 4)))


def test_columns_say_what_a_decoder_was_trained_with():
    """Bug: one option under another's name."""
    cfg = config("--beta", "0.25", "--lr", "0.125", "--pairing", "all", "--reference", "initial")
    assert train_toy.columns_of(cfg, Job(2, "vote", "token", "nll", 5)) == dict(
        base_seed=2, experiment="vote", level="token", variant="nll", seed=5, beta=0.25, lr=0.125,
        pairing="all", reference="initial")


def test_votes_and_repeats_go_the_whole_way(tmp_path, monkeypatch, graded, capsys):
    """Two base models, two decoders on each. Bugs: a decoder trained on another base model or
    compared with another's fixed temperatures, rows or samples of one run lost, an experiment that
    only fails at its figures, a task that is not checked."""
    monkeypatch.setattr(train_toy.plots, "draw", lambda results, folder: [])
    monkeypatch.setattr("toy.pretrain.learned", lambda model: dict(sums=1.0))
    trained = []
    train = train_toy.train

    def watched(cfg, base, job, run, **more):
        trained.append((job.name, weights(base)))
        return train(cfg, base, job, run, **more)
    monkeypatch.setattr(train_toy, "train", watched)
    cfg = config("--experiments", "vote,repeats", "--levels", "token", "--rounds", "1", "--seeds",
                 "2", "--base-seeds", "2", "--out", str(tmp_path))
    train_toy.main(cfg)
    results = rows.load(tmp_path / "results.json")
    assert [name for name, _ in trained] == [
        f"base{base}-{experiment}-latent-token{seed}" for base in (0, 1)
        for experiment in ("vote", "repeats") for seed in (0, 1)]
    assert list(results["stages"]) == [job.name for job, _ in train_toy.jobs(cfg)]
    bases = [weight for _, weight in trained]
    assert all(torch.equal(bases[i], bases[0]) for i in range(4))
    assert all(torch.equal(bases[i], bases[4]) for i in range(4, 8))
    assert not torch.equal(bases[0], bases[4])
    assert len(results["samples"]) == 8
    assert rows.values(results, experiment="vote", metric="vote_accuracy", select="sample", votes=4)
    assert rows.values(results, experiment="repeats", metric="repeats", policy="fixed")
    for experiment in ("vote", "repeats"):
        singles = rows.values(results, experiment=experiment, metric="reward", select="sample",
                              policy="adaptive", subtask=experiment)
        whole = rows.interval(results, "reward", experiment=experiment, subtask=None)
        assert len(singles) == 4 and whole[0] == pytest.approx(np.mean(singles))
        assert len(set(singles)) == 4  # no decoder twice
        of_best = []
        for base in (0, 1):
            of_best.append(max(rows.values(results, experiment=experiment, metric="reward",
                                           policy="fixed", subtask=None, base_seed=base)))
        best = rows.interval(results, "best_fixed", experiment=experiment, subtask=None, votes=None)
        assert best[0] == pytest.approx(np.mean(of_best))
    assert results["config"]["seeds"] == 2 and "mean reward" in capsys.readouterr().out
    with pytest.MonkeyPatch.context() as patch:  # undone before `graded` is
        patch.setitem(tasks.TASKS, "repeats", replace(tasks.TASKS["repeats"], share=0))
        with pytest.raises(ValueError, match="task 'repeats': share is 0"):
            train_toy.main(cfg)
