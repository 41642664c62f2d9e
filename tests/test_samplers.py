"""Sampler settings as choices: against transformers' own warpers, and against slow ones by hand."""
import math

import pytest
import torch

from lpo import word_logps
from toy.samplers import (CUTS, ORDERS, Setting, choice_of, epsilon_cutoff, kept_epsilon_cutoff,
                          kept_min_p, kept_typical_p, min_p, top_k, top_nsigma, top_p, typical_p)

GEN = torch.Generator()


def hard_logits():
    """(n,V): random ones of several spreads, ties, one word alone, all alike, extremes."""
    gen = torch.Generator().manual_seed(0)
    rows = [spread * torch.randn(40, 12, generator=gen) for spread in (0.1, 1.0, 5.0, 50.0)]
    rows.append(torch.randint(3, (40, 12), generator=gen).float())  # ties
    rows.append(torch.zeros(1, 12))
    rows.append(torch.tensor([[1e4, *[0.0] * 11], [*[0.0] * 11, 1e-4], [-1e4, *[0.0] * 11]]))
    return torch.cat(rows)


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("kind, theirs, values", [
    ("top_k", "TopKLogitsWarper", (1, 3, 12, 50)),
    ("top_p", "TopPLogitsWarper", (0.1, 0.5, 0.9, 1.0)),
    ("min_p", "MinPLogitsWarper", (0.01, 0.1, 0.5, 1.0)),
    ("typical_p", "TypicalLogitsWarper", (0.2, 0.5, 0.95)),
    ("epsilon_cutoff", "EpsilonLogitsWarper", (0.001, 0.05, 0.3))])
def test_it_is_transformers_own_in_its_order(kind, theirs, values, tau):
    """Temperature first, then the cut. Bugs: `<` for `<=` at the edge of a set; the other order;
    the mass not renormalised; the best word cut away; the words of another row."""
    transformers = pytest.importorskip("transformers")
    logits = hard_logits()
    for value in values:
        warper = getattr(transformers, theirs)(value)
        wanted = warper(None, transformers.TemperatureLogitsWarper(tau)(None, logits))
        ours = Setting(kind, value, tau, "temper, cut")(logits)
        assert torch.equal(ours.isneginf(), wanted.isneginf()), value
        assert torch.allclose(ours.exp(), wanted.softmax(-1), atol=1e-6), value


def slowly(kind, value, p):
    """Which words of one distribution are kept, one word at a time; p is a list."""
    order = sorted(range(len(p)), key=lambda v: -p[v])
    if kind == "top_k":
        return set(order[:int(value)])
    if kind == "min_p":
        return {v for v in order if p[v] >= value * max(p)}
    if kind == "epsilon_cutoff":
        return {v for v in order if p[v] >= value} | {order[0]}
    if kind == "top_nsigma":
        logs = [math.log(x) for x in p]
        mean = sum(logs) / len(logs)
        sigma = math.sqrt(sum((x - mean) ** 2 for x in logs) / len(logs))
        return {v for v in order if logs[v] >= max(logs) - value * sigma}
    if kind == "typical_p":
        entropy = -sum(x * math.log(x) for x in p)
        order = sorted(range(len(p)), key=lambda v: abs(-math.log(p[v]) - entropy))
    kept, total = set(), 0.0
    for v in order:  # until the mass is reached
        kept.add(v)
        total += p[v]
        if total >= value:
            break
    return kept


@pytest.mark.parametrize("kind, values", [
    ("top_k", (1, 4)), ("top_p", (0.3, 0.8)), ("min_p", (0.03, 0.3)), ("typical_p", (0.3, 0.8)),
    ("epsilon_cutoff", (0.03, 0.2, 0.9)), ("top_nsigma", (0.3, 1.0, 2.0))])
def test_the_default_cuts_first(kind, values):
    """The set is that of the model's own distribution whatever the temperature; what is left is
    softmax(logits / tau) of it. Against a loop over words in plain Python."""
    logits = 2 * torch.randn(30, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for value in values:
        for tau in (0.5, 3.0):
            got = Setting(kind, value, tau)(logits).exp()
            for row, mine in zip(logits, got):
                kept = slowly(kind, value, row.softmax(-1).tolist())
                weights = [math.exp(x / tau) if v in kept else 0.0
                           for v, x in enumerate(row.tolist())]
                assert mine.tolist() == pytest.approx([w / sum(weights) for w in weights])


def test_a_mass_that_is_reached_exactly_is_reached():
    """Powers of a half, which floats hold exactly: 1/4, 1/2, 1/8, 1/8 have an entropy of 1.75 bits,
    from which the surprises of 2, 1, 3 and 3 bits are 0.25, 0.75, 1.25 and 1.25 away. The first two
    have 3/4 of the mass together. Bugs: one word more than the mass needs, a word at the limit
    itself left out."""
    logps = torch.tensor([[0.25, 0.5, 0.125, 0.125]], dtype=torch.float64).log()
    for mass, kept in ((0.25, [1, 0, 0, 0]), (0.5, [1, 1, 0, 0]), (0.75, [1, 1, 0, 0]),
                       (0.76, [1, 1, 1, 1])):
        assert kept_typical_p(logps, mass).int().tolist() == [kept], mass
    for least, kept in ((0.25, [1, 1, 0, 0]), (0.125, [1, 1, 1, 1]), (0.9, [0, 1, 0, 0])):
        assert kept_epsilon_cutoff(logps, least).int().tolist() == [kept], least
        assert kept_min_p(logps, 2 * least).int().tolist() == [kept if least < 0.5 else [0] * 4]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", CUTS)
def test_each_row_is_cut_alone(kind, order):
    """Three dimensions give what each row gives by itself. Bugs: a sum or an order over another
    dimension than the words', which is the last one of two."""
    logits = 3 * torch.randn(4, 3, 9, generator=torch.Generator().manual_seed(2))
    setting = Setting(kind, 2 if kind == "top_k" else 0.3, 1.5, order)
    together = setting(logits)
    for rows, mine in zip(logits.flatten(0, 1), together.flatten(0, 1)):
        assert torch.allclose(setting(rows), mine) and mine.exp().sum().item() == pytest.approx(1)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", CUTS)
def test_any_logits_give_log_probabilities(kind, order):
    """Sums of 1, no NaN, half precision in and float32 out, gradients that are numbers, at every
    temperature, 0 included, where it is the arg-max of what is left."""
    for value in (1, 0.01):
        for tau in (0.0, 1e-3, 1.0, 1e4):
            if kind == "top_k" and value < 1:
                continue
            setting = Setting(kind, value, tau, order)
            logits = hard_logits().requires_grad_()
            logps = setting(logits)
            assert torch.allclose(logps.exp().sum(-1), torch.ones(len(logps)), atol=1e-5)
            if tau > 0:
                logps[~logps.isneginf()].sum().backward()
                assert logits.grad.isfinite().all()
            else:
                assert ((logps == 0).sum(-1) == 1).all()
                assert logps.isneginf().sum() == 11 * len(logps)
            half = setting(hard_logits().bfloat16())
            assert half.dtype == torch.float32
    banned = torch.tensor([[1.0, -math.inf, 0.5, -math.inf]])
    assert Setting(kind, 1, 2.0, order)(banned).isneginf()[0, [1, 3]].all()


def test_the_two_orders_differ_and_each_has_its_name():
    """At temperature 3 three words of (.6, .3, .1) are near: cut after it keeps more."""
    logits = torch.tensor([0.6, 0.3, 0.1]).log()
    first, after = min_p(0.4, 3.0)(logits), min_p(0.4, 3.0, "temper, cut")(logits)
    assert first.isneginf().tolist() == [False, False, True]
    assert after.isneginf().tolist() == [False, False, False]
    p = [0.6 ** (1 / 3), 0.3 ** (1 / 3)]
    assert first.exp().tolist() == pytest.approx([p[0] / sum(p), p[1] / sum(p), 0])
    for setting, name in ((min_p(0.4, 3.0), "min_p=0.4@3"), (top_k(5), "top_k=5"),
                          (top_p(0.9, 0.5, "temper, cut"), "0.5@top_p=0.9"),
                          (typical_p(0.2), "typical_p=0.2"), (top_nsigma(1.5), "top_nsigma=1.5"),
                          (epsilon_cutoff(0.02, 0.0), "epsilon_cutoff=0.02@0")):
        assert setting.name == name and choice_of(name) == setting
    assert choice_of(".70") == 0.7 and choice_of("min_p=.05@3") == min_p(0.05, 3.0)


@pytest.mark.parametrize("text", ["", "warm", "top_q=.9", "top_p=", "top_p=1.5", "top_p=0", "@3",
                                  "top_k=2.5", "top_p=.9@", "top_p=.9@hot", "top_p=.9@-1", "nan",
                                  "top_p=nan", "-1", "1e31", "top_p=.9@2@3", "=.5"])
def test_what_is_no_choice_is_one_sentence(text):
    with pytest.raises(ValueError, match="is no choice.*top_p=.9 or min_p"):
        choice_of(text)


def test_a_function_is_called_where_a_temperature_would_be_divided_by():
    """Bug: the function's logits are scaled first. And half precision is lifted before."""
    def flat(logits):
        assert logits.dtype == torch.float32
        return torch.full_like(logits, -math.log(logits.shape[-1]))
    assert word_logps(torch.randn(2, 4).bfloat16(), flat).exp().tolist() == [[0.25] * 4] * 2
