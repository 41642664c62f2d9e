"""What theory says exactly: the optimum of the population loss, and properties that hold for any
numbers."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoder import choice_logps, sample
from fast.generate import noisy
from lpo import SCORES, VARIANTS, ResponseLogps, lpo_loss
from test_lpo import FORMS, arrays, made_up, side


def property_of(**cases):
    """100 examples, the same ones in every run."""
    def decorate(test):
        return settings(max_examples=100, deadline=None, derandomize=True, database=None)(
            given(**cases)(test))
    return decorate


SIDES = dict(seed=st.integers(0, 10 ** 6), form=st.sampled_from(FORMS), reference=st.booleans())


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_population_optimum_of_the_separate_loss(level):
    """One decision, rewards r: over all pairs with Bradley-Terry labels the loss is smallest at
    softmax(log Pref + r / beta). Best against worst has no such optimum: it goes to one-hot."""
    r, beta = torch.tensor([0.3, -0.5, 0.9, 0.0]).double(), 0.4
    ref = torch.tensor([0.1, 0.2, 0.3, 0.4]).double().log()
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    i, j = torch.cartesian_prod(torch.arange(4), torch.arange(4)).T
    label = torch.sigmoid(r[i] - r[j])  # P(i is preferred to j)

    def of(k):
        return ResponseLogps(logits.log_softmax(-1).expand(16, 1, 4), k[:, None],
                             torch.ones(16, 1 if level == "token" else 3).bool(),
                             ref_tau_logps=ref.expand(16, 1, 4))
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12,
                                  tolerance_change=1e-15, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (label * lpo_loss(of(i), of(j), "separate", beta)).mean()
        loss.backward()
        return loss
    optimizer.step(closure)
    assert torch.allclose(logits.softmax(-1), (ref + r / beta).softmax(-1), atol=1e-8)


@property_of(beta=st.floats(0.01, 20), **SIDES)
def test_swapping_the_sides_changes_the_loss_by_beta_times_the_margin(beta, seed, form, reference):
    """-log sigmoid(x) + log sigmoid(-x) = -x, for whatever x the scores give."""
    variant, level = form
    a, b = (side(level, reference=reference, seed=s) for s in (seed, seed + 1))
    margin = SCORES[variant](a) - SCORES[variant](b)
    difference = lpo_loss(a, b, variant, beta) - lpo_loss(b, a, variant, beta)
    assert torch.allclose(difference, -beta * margin, atol=1e-9)


@property_of(order=st.permutations([0, 1, 2]), **SIDES)
def test_the_order_of_the_choices_does_not_matter(order, seed, form, reference):
    variant, level = form
    fields, order = arrays(made_up(level, reference=reference, seed=seed)), torch.tensor(order)
    moved = {name: x[..., order] if "logps" in name and x is not None else x
             for name, x in fields.items()}
    moved["tau_idx"] = torch.argsort(order)[fields["tau_idx"]]
    scores = [SCORES[variant](ResponseLogps(**x)) for x in (fields, moved)]
    assert torch.allclose(*scores)


@property_of(extra=st.integers(1, 5), garbage=st.sampled_from([0.0, 1e30, -math.inf, math.nan]),
             **SIDES)
def test_more_padding_changes_nothing(extra, garbage, seed, form, reference):
    """Neither values nor gradients, to 14 digits."""
    variant, level = form
    values, gradients = [], []
    for more in (0, extra):
        x = made_up(level, reference=reference, seed=seed)
        fields = arrays(x)
        for name, array in fields.items():
            if array is not None and array.shape[1] == 4:
                filler = array.new_full((3, more, *array.shape[2:]),
                                        garbage if "logps" in name else 0)
                fields[name] = torch.cat([array, filler], 1)
        values.append(SCORES[variant](ResponseLogps(**fields)))
        values[-1].sum().backward()
        gradients += [grad for grad in (x.logits.grad, x.tau_logits.grad) if grad is not None]
    assert torch.allclose(*values, rtol=1e-14, atol=1e-14)
    half = len(gradients) // 2
    for ours, theirs in zip(gradients[:half], gradients[half:]):
        assert torch.allclose(ours, theirs, rtol=1e-13, atol=1e-13)


@property_of(seed=SIDES["seed"], reference=st.booleans(),
             variant=st.sampled_from(["separate", "joint", "latent"]))
def test_a_score_is_a_sum_over_a_response_cut_in_two(seed, reference, variant):
    """At token level that of its first token plus that of the rest."""
    fields = arrays(made_up(reference=reference, seed=seed))
    fields["mask"] = torch.ones_like(fields["mask"])
    parts = [ResponseLogps(**{name: x if x is None else x[:, piece] for name, x in fields.items()})
             for piece in (slice(0, 1), slice(1, None))]
    total = sum(SCORES[variant](part) for part in parts)
    assert torch.allclose(SCORES[variant](ResponseLogps(**fields)), total)


@property_of(seed=st.integers(0, 10 ** 6), T=st.integers(1, 4), K=st.integers(1, 3),
             dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
             spread=st.sampled_from([0.0, 1.0, 30.0, 1e4]), form=SIDES["form"],
             reference=st.booleans(), nll=st.booleans())
def test_losses_of_possible_log_probabilities_are_no_nan(seed, T, K, dtype, spread, form, reference,
                                                         nll):
    """With a fifth of the text impossible. Bugs: -inf minus -inf, K = 1, half precision."""
    variant, level = form
    gen, L = torch.Generator().manual_seed(seed), T if level == "token" else 1

    def logps(columns, dead=0.0):
        x = (spread * torch.randn(3, columns, K, generator=gen)).log_softmax(-1).to(dtype)
        return x.masked_fill(torch.rand(x.shape, generator=gen) < dead, -math.inf)
    leaves, sides = [], []
    for _ in range(2):
        mask = torch.arange(T) < torch.randint(1, T + 1, (3, 1), generator=gen)
        leaves += [logps(L).requires_grad_(), logps(T, 0.2).requires_grad_()]
        sides.append(ResponseLogps(leaves[-2], torch.randint(K, (3, L), generator=gen), mask,
                                   leaves[-1], logps(T, 0.2), logps(L) if reference else None))
    loss = lpo_loss(*sides, "nll" if nll else variant, 0.5)
    loss.sum().backward()
    assert loss.shape == (3,) and not loss.isnan().any()
    assert not any(leaf.grad is not None and leaf.grad.isnan().any() for leaf in leaves)
    assert set(VARIANTS) == {*SCORES, "nll"}


TAUS = st.sampled_from((0.0, 1e-300, 1e-46, 1e-40, 1e-8, 0.3, 1.0, 7.0, 1e6, 1e30))
EXTREME = st.one_of(st.sampled_from((0.0, 50.0, -88.0, 1e-30, 65504.0, -65504.0, 3e38, -3e38)),
                    st.floats(-1e4, 1e4))


@property_of(row=st.lists(EXTREME, min_size=1, max_size=5), tau=TAUS, shift=st.floats(-1e3, 1e3),
             dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
def test_any_finite_logits_and_temperature_give_log_probabilities(row, tau, shift, dtype):
    """Bugs: a temperature that is 0 in float32; overflow; V = 1; a shift that changes something."""
    limit = torch.finfo(dtype).max
    logits = torch.tensor([max(-limit, min(limit, x)) for x in row], dtype=torch.float64).to(dtype)
    logps = choice_logps(logits.requires_grad_(), tau)
    assert not logps.isnan().any() and (logps <= 1e-6).all()
    assert logps.exp().sum().item() == pytest.approx(1, abs=1e-4)
    if dtype == torch.float64 and max(map(abs, row)) <= 1e4 and tau >= 0.3:
        assert torch.allclose(choice_logps(logits + shift, tau), logps, atol=1e-8)


@property_of(row=st.lists(st.floats(-2.0 ** 99, 2.0 ** 99, width=32), min_size=1, max_size=5),
             tau=TAUS, seed=st.integers(0, 99))
def test_both_samplers_stay_in_the_vocabulary(row, tau, seed):
    logits, gen = torch.tensor([row]), torch.Generator().manual_seed(seed)
    for index in (sample(choice_logps(logits, tau), gen),
                  noisy(logits, torch.tensor([tau]).float(), gen).argmax(-1)):
        assert 0 <= index.item() < len(row)
