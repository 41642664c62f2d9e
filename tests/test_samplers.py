"""Sampler settings as choices: against transformers' own processors, and slow loops by hand."""
import itertools
import math

import pytest
import torch

from decoder import temperature_logps
from toy.samplers import (CUTS, ORDERS, PENALTIES, Penalty, Setting, choice_of, frequency,
                          kept_epsilon_cutoff, kept_min_p, kept_typical_p, label, min_p, presence,
                          repetition, top_k, top_nsigma, top_p)

TRUNCATE_FIRST, TEMPER_FIRST = ORDERS
WARPERS = {
    "top_k": ("TopKLogitsWarper", (1, 3, 12, 50)),
    "top_p": ("TopPLogitsWarper", (0.1, 0.5, 0.9, 1.0)),
    "min_p": ("MinPLogitsWarper", (0.01, 0.1, 0.5, 1.0)),
    "typical_p": ("TypicalLogitsWarper", (0.2, 0.5, 0.95)),
    "epsilon_cutoff": ("EpsilonLogitsWarper", (0.001, 0.05, 0.3))}


def hard_logits():
    """(n,V): random ones of several spreads, ties, one token alone, all alike, extremes."""
    gen = torch.Generator().manual_seed(0)
    rows = [spread * torch.randn(40, 12, generator=gen) for spread in (0.1, 1.0, 5.0, 50.0)]
    rows.append(torch.randint(3, (40, 12), generator=gen).float())  # ties
    rows.append(torch.zeros(1, 12))
    rows.append(torch.tensor([[1e4, *[0.0] * 11], [*[0.0] * 11, 1e-4], [-1e4, *[0.0] * 11]]))
    return torch.cat(rows)


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("kind", WARPERS)
def test_a_truncation_is_transformers_own_in_its_order(kind, tau):
    """Temperature first. Bugs: `<` for `<=` at the edge of a set, the best token cut, the rest not
    renormalised."""
    transformers = pytest.importorskip("transformers")
    name, values = WARPERS[kind]
    logits = hard_logits()
    for value in values:
        tempered = transformers.TemperatureLogitsWarper(tau)(None, logits)
        expected = getattr(transformers, name)(value)(None, tempered)
        ours = Setting(kind, value, tau, TEMPER_FIRST)(logits)
        assert torch.equal(ours.isneginf(), expected.isneginf()), value
        assert torch.allclose(ours.exp(), expected.softmax(-1), atol=1e-6), value


@pytest.mark.parametrize("value", [1.3, 0.7, 1.0])
def test_the_repetition_penalty_is_transformers_own(value):
    """On the tokens of the response only, however often they stand there. Bugs: a penalty once per
    occurrence, negative logits divided, counts of another row."""
    transformers = pytest.importorskip("transformers")
    logits = hard_logits()
    written = torch.randint(12, (len(logits), 5), generator=torch.Generator().manual_seed(1))
    counts = torch.zeros_like(logits).scatter_add(1, written, torch.ones(len(logits), 5))
    expected = transformers.RepetitionPenaltyLogitsProcessor(value)(written, logits.clone())
    assert torch.allclose(repetition(value)(logits, counts), expected.log_softmax(-1), atol=1e-5)


def slowly(kind, value, p):
    """Which tokens of one distribution, a list, are kept: one token at a time."""
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
    for v in order:  # until the probabilities reach the value
        kept.add(v)
        total += p[v]
        if total >= value:
            break
    return kept


def tempered(scores, tau):
    """Softmax at a temperature, in plain Python; at 0 the first of the largest."""
    if tau == 0:
        return [float(v == scores.index(max(scores))) for v in range(len(scores))]
    weights = [math.exp((x - max(scores)) / tau) for x in scores]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("kind, values", [
    ("top_k", (1, 4)), ("top_p", (0.3, 0.8)), ("min_p", (0.03, 0.3)), ("typical_p", (0.3, 0.8)),
    ("epsilon_cutoff", (0.03, 0.2, 0.9)), ("top_nsigma", (0.3, 1.0, 2.0))])
def test_the_default_truncates_first(kind, values):
    """The set is that of the model's own distribution, whatever the temperature."""
    logits = 2 * torch.randn(30, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for value, tau in itertools.product(values, (0.0, 0.5, 3.0)):
        for row, ours in zip(logits, Setting(kind, value, tau)(logits).exp()):
            kept = slowly(kind, value, row.softmax(-1).tolist())
            scores = [x if v in kept else -math.inf for v, x in enumerate(row.tolist())]
            assert ours.tolist() == pytest.approx(tempered(scores, tau))


@pytest.mark.parametrize("cut", [None, min_p(0.1), top_k(3)])
@pytest.mark.parametrize("tau", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("kind", PENALTIES)
def test_truncation_then_penalty_then_temperature(kind, tau, cut):
    """Bugs: another order, presence that counts, frequency that does not, a penalty that brings a
    token back that was cut."""
    gen = torch.Generator().manual_seed(2)
    logits = 2 * torch.randn(30, 6, generator=gen, dtype=torch.float64)
    counts = torch.randint(4, (30, 6), generator=gen).double()
    for row, n, ours in zip(logits, counts, Penalty(kind, 1.5, tau, cut)(logits, counts).exp()):
        kept = slowly(cut.kind, cut.value, row.softmax(-1).tolist()) if cut else range(6)
        scores = [-math.inf if v not in kept else
                  dict(frequency=x - 1.5 * n[v], presence=x - 1.5 * (n[v] > 0),
                       repetition=(x / 1.5 if x > 0 else x * 1.5) if n[v] > 0 else x)[kind]
                  for v, x in enumerate(row.tolist())]
        assert ours.tolist() == pytest.approx(tempered([float(x) for x in scores], tau))


def test_what_a_penalty_counts():
    """By hand, at logits of 0: exp(-n) of each token. Every column counts, whatever choice it was
    sampled at; the token itself, the prompt and padding (token 0) do not."""
    tokens = torch.tensor([[1, 1, 2, 0, 0]])  # then padding
    logps = temperature_logps(torch.zeros(1, 5, 4), tokens, (frequency(1.0), presence(1.0), 1.0))
    e = math.exp(-1)
    first = [1 / 4, e / (3 + e), 1 / (3 + e * e), 1 / (2 + e * e + e)]
    assert logps[0, :4, 0].exp().tolist() == pytest.approx(first)
    once = [1 / 4, e / (3 + e), 1 / (3 + e), 1 / (2 + 2 * e)]
    assert logps[0, :4, 1].exp().tolist() == pytest.approx(once)
    assert logps[0, :, 2].exp().tolist() == pytest.approx([1 / 4] * 5)


def test_sets_that_are_reached_exactly():
    """Powers of a half: 1/4, 1/2, 1/8, 1/8 have an entropy of 1.75 bits, from which the surprises
    are 0.25, 0.75, 1.25 and 1.25 away. Bugs: one token too many, a token at the limit left out."""
    logps = torch.tensor([[0.25, 0.5, 0.125, 0.125]], dtype=torch.float64).log()
    for mass, kept in ((0.25, [1, 0, 0, 0]), (0.5, [1, 1, 0, 0]), (0.75, [1, 1, 0, 0]),
                       (0.76, [1, 1, 1, 1])):
        assert kept_typical_p(logps, mass).int().tolist() == [kept], mass
    for least, kept in ((0.25, [1, 1, 0, 0]), (0.125, [1, 1, 1, 1]), (0.9, [0, 1, 0, 0])):
        assert kept_epsilon_cutoff(logps, least).int().tolist() == [kept], least
    assert kept_min_p(logps, 0.5).int().tolist() == [[1, 1, 0, 0]]


EVERY = [*(Setting(kind, value, 1.5, order) for kind in CUTS for order in ORDERS
           for value in ((2,) if kind == "top_k" else (0.3, 1))),
         *(Penalty(kind, 0.5, 1.5, cut) for kind in PENALTIES for cut in (None, top_p(0.5)))]


@pytest.mark.parametrize("setting", EVERY, ids=lambda setting: setting.name)
def test_any_logits_give_log_probabilities_row_by_row(setting):
    """Sums of 1, no NaN, half precision in and float32 out, finite gradients, no token that the
    model excludes. Bug: a sum or an order over another dimension than the last."""
    def use(logits):
        counts = torch.arange(logits.numel()).view(logits.shape) % 3
        return setting(logits, counts) if isinstance(setting, Penalty) else setting(logits)
    logits = hard_logits().requires_grad_()
    logps = use(logits)
    assert torch.allclose(logps.exp().sum(-1), torch.ones(len(logps)), atol=1e-5)
    logps[~logps.isneginf()].sum().backward()
    assert logits.grad.isfinite().all()
    assert use(hard_logits().bfloat16()).dtype == torch.float32
    three = torch.randn(4, 3, 12, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(use(three).flatten(0, 1), use(three.flatten(0, 1)))
    banned = torch.tensor([[1.0, -math.inf, 0.5, -math.inf]])
    assert use(banned)[0, [1, 3]].isneginf().all() and not use(banned).isnan().any()


# --- settings as text -----------------------------------------------------------------------------


@pytest.mark.parametrize("text, choice", [
    (".70", 0.7), ("0", 0.0), ("min_p=.05@3", min_p(0.05, 3.0)), ("top_k=5", top_k(5)),
    ("0.5@top_p=0.9", top_p(0.9, 0.5, TEMPER_FIRST)), ("top_nsigma=1.5@0", top_nsigma(1.5, 0.0)),
    ("frequency=1@0", frequency(1.0, temperature=0.0)), ("presence=2", presence(2.0)),
    ("frequency=3@1|min_p=.05", frequency(3.0, cut=min_p(0.05))),
    ("repetition=1.5@.7|top_p=.9", repetition(1.5, 0.7, top_p(0.9)))])
def test_a_choice_is_read_as_it_is_written(text, choice):
    """And its name is read back. Bug: truncation and temperature in the other order."""
    assert choice_of(text) == choice and choice_of(label(choice)) == choice


@pytest.mark.parametrize("text", [
    "top_p=.9999999", "top_k=1234567", "epsilon_cutoff=.00012345678", "min_p=.05@0.33333333",
    "0.123456789012345", "0.1@min_p=0.30000000000000004",
    "frequency=1.23456789@0.7654321|top_k=12"])
def test_text_and_back_loses_no_digit(text):
    """Bug: six digits, so that two settings become one, or top_p=1."""
    asked = choice_of(text)
    assert choice_of(label(asked)) == asked
    assert all(digits in str(label(asked)) for digits in ("9999999", "1234567", "12345678",
                                                          "33333333") if digits in text)


@pytest.mark.parametrize("text", [
    "", "warm", "top_q=.9", "top_p=", "top_p=1.5", "min_p=1.5", "typical_p=1.5",
    "epsilon_cutoff=1.5", "top_p=0", "@3", "top_k=2.5", "top_p=.9@", "top_p=.9@hot",
    "top_p=.9@-1", "nan", "top_p=nan", "-1", "1e31", "top_p=.9@2@3", "=.5",
    "frequency=0", "frequency=-1", "3@frequency=1", "frequency=1|0.5", "frequency=1|presence=1",
    "frequency=1|min_p=.05@3", "frequency=1|", "min_p=.1|top_k=3", "0.5|min_p=.1", "frequency=inf"])
def test_what_is_no_choice_is_one_sentence(text):
    with pytest.raises(ValueError, match="is not a choice.*; give a temperature, or a") as e:
        choice_of(text)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("make, words", [
    (lambda: Setting("top_q", 1), "unknown sampler 'top_q'; choose from top_k"),
    (lambda: Setting("top_p", 1, 1, "last"), "unknown order 'last'"),
    (lambda: Setting("top_k", 10 ** 9 + 1), "top_k is 1000000001; give a number above 0, up to 1e"),
    (lambda: Setting("min_p", 0.5, -1), "choices are"),
    (lambda: Penalty("length", 1), "unknown penalty 'length'; choose from frequency"),
    (lambda: Penalty("frequency", 1e9), "frequency is 1000000000.0; give a number above 0"),
    (lambda: Penalty("frequency", 1, math.nan), "choices are"),
    (lambda: Penalty("frequency", 1, 1, min_p(0.1, 2.0)), "a truncation without a temperature")])
def test_settings_that_cannot_be_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
