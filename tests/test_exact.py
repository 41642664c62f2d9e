"""What theory says exactly: the optimum of the population loss, DPO as TRL computes it, and
properties that must hold for any numbers."""
import math
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpo import VARIANTS, ResponseLogps, lpo_loss, score, temperature_logps
from test_lpo import made_up


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_population_optimum_of_the_separate_loss(level):
    """One decision, rewards r: over all pairs, with Bradley-Terry labels, the loss is smallest at
    softmax(log Pref + r / beta). Best against worst has no such optimum: it goes to one-hot."""
    r, beta = torch.tensor([0.3, -0.5, 0.9, 0.0]).double(), 0.4
    ref = torch.tensor([0.1, 0.2, 0.3, 0.4]).double().log()
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    i, j = torch.cartesian_prod(torch.arange(4), torch.arange(4)).T
    label = torch.sigmoid(r[i] - r[j])  # P(i is preferred to j)

    def side(k):
        tau = logits.log_softmax(-1).expand(16, 1, 4)
        return ResponseLogps(tau, k[:, None], torch.ones(16, 1).bool(),
                             ref_tau_logps=ref.expand(16, 1, 4))
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12,
                                  tolerance_change=1e-15, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (label * lpo_loss(side(i), side(j), "separate", beta)).mean()
        loss.backward()
        return loss
    optimizer.step(closure)
    assert torch.allclose(logits.softmax(-1), (ref + r / beta).softmax(-1), atol=1e-8)


def test_one_temperature_is_the_dpo_of_trl():
    """K = 1: joint and latent against TRL's own DPO loss on logits / tau, called without a trainer
    and with stubs for models that return the log-probabilities."""
    trl = pytest.importorskip("trl")
    B, T, V, tau, beta = 3, 5, 7, 0.6, 0.3
    gen = torch.Generator().manual_seed(0)
    tokens = torch.randint(V, (2 * B, T), generator=gen)
    mask = torch.arange(T) < torch.randint(1, T + 1, (2 * B, 1), generator=gen)
    logits, ref_logits = torch.randn(2, 2 * B, T, V, generator=gen, dtype=torch.float64)

    class Stub(torch.nn.Module):
        is_gradient_checkpointing = False

        def __init__(self, logits):
            super().__init__()
            logps = (logits / tau).log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
            nothing = torch.zeros(2 * B, T)
            self.outputs = SimpleNamespace(log_probs=logps * mask, entropy=nothing,
                                           mean_logits=nothing, is_top1=nothing.bool())

        def forward(self, **inputs):
            return self.outputs
    trainer = SimpleNamespace(
        model=Stub(logits).eval(), ref_model=Stub(ref_logits), beta=beta, loss_types=["sigmoid"],
        loss_weights=[1.0], f_divergence_type="reverse_kl", ld_alpha=None, use_weighting=False,
        aux_loss_enabled=False, precompute_ref_logps=False, _total_train_tokens=0, _tp_size=1,
        _metrics=defaultdict(lambda: defaultdict(list)),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        accelerator=SimpleNamespace(device="cpu", gather=lambda x: x,
                                    gather_for_metrics=lambda x: x))
    prompt = torch.zeros(2 * B, 1, dtype=torch.long)
    inputs = dict(input_ids=torch.cat([prompt, tokens], 1), attention_mask=torch.ones(2 * B, T + 1),
                  completion_mask=torch.cat([prompt, mask.long()], 1))
    theirs = trl.DPOTrainer._compute_loss(trainer, trainer.model, inputs, return_outputs=False)

    def side(rows):
        return ResponseLogps(torch.zeros(B, T, 1), torch.zeros(B, T, dtype=torch.long), mask[rows],
                             temperature_logps(logits[rows], tokens[rows], [tau]),
                             temperature_logps(ref_logits[rows], tokens[rows], [tau]))
    for variant in ("joint", "latent"):
        ours = lpo_loss(side(slice(B)), side(slice(B, None)), variant, beta).mean()
        assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    assert torch.equal(score(side(slice(B)), "separate"), torch.zeros(B))


CASES = dict(seed=st.integers(0, 10 ** 6), level=st.sampled_from(["token", "sequence"]),
             variant=st.sampled_from(VARIANTS), reference=st.booleans())


@settings(max_examples=100, deadline=None)
@given(beta=st.floats(0.01, 20), **CASES)
def test_swapping_the_sides_changes_the_loss_by_beta_times_the_margin(seed, level, variant,
                                                                      reference, beta):
    """-log sigmoid(x) + log sigmoid(-x) = -x, for whatever x the scores give."""
    a, b = (made_up(level, reference=reference, seed=s) for s in (seed, seed + 1))
    margin = score(a, variant) - score(b, variant)
    difference = lpo_loss(a, b, variant, beta) - lpo_loss(b, a, variant, beta)
    assert torch.allclose(difference, -beta * margin, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(shift=st.floats(-1e3, 1e3), tau=st.floats(0.05, 10), seed=st.integers(0, 10 ** 6))
def test_adding_a_constant_to_the_logits_changes_nothing(shift, tau, seed):
    gen = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 5, generator=gen, dtype=torch.float64)
    tokens = torch.randint(5, (2, 3), generator=gen)
    logps = [temperature_logps(x, tokens, (0.0, tau)) for x in (logits, logits + shift)]
    assert torch.allclose(*logps, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(order=st.permutations([0, 1, 2]), **CASES)
def test_the_order_of_the_temperatures_does_not_matter(seed, level, variant, reference, order):
    side = made_up(level, reference=reference, seed=seed)
    order = torch.tensor(order)
    moved = replace(side, tau_idx=torch.argsort(order)[side.tau_idx], **{
        name: getattr(side, name)[..., order] for name in
        ("tau_logps", "text_logps", "ref_text_logps", "ref_tau_logps")
        if getattr(side, name) is not None})
    for exact in {False, (variant, level) == ("latent", "sequence")}:
        assert torch.allclose(score(side, variant, exact), score(moved, variant, exact))


@settings(max_examples=100, deadline=None)
@given(extra=st.integers(1, 5), garbage=st.sampled_from([0.0, -3.0, 1e30, -math.inf, math.nan]),
       **CASES)
def test_padded_columns_change_nothing(seed, level, variant, reference, extra, garbage):
    """More padding, whatever it holds: the same values and the same gradients, to 14 digits."""
    side, padded = (made_up(level, reference=reference, seed=seed) for _ in range(2))

    def pad(x, value):
        shape = (x.shape[0], extra, *x.shape[2:])
        return torch.cat([x, torch.full(shape, value, dtype=x.dtype)], 1)
    more = dict(mask=pad(padded.mask, False), text_logps=pad(padded.text_logps, garbage),
                ref_text_logps=pad(padded.ref_text_logps, garbage))
    if level == "token":
        more.update(tau_logps=pad(padded.tau_logps, garbage), tau_idx=pad(padded.tau_idx, 0))
        if reference:
            more.update(ref_tau_logps=pad(padded.ref_tau_logps, garbage))
    values = [score(side, variant), score(replace(padded, **more), variant)]
    assert torch.allclose(*values, rtol=1e-14, atol=1e-14)
    for value in values:
        value.sum().backward()
    for name in ("tau_logps", "text_logps"):
        ours, theirs = (getattr(s, name).grad for s in (side, padded))
        assert ours is theirs is None or torch.allclose(ours, theirs, rtol=1e-14, atol=1e-14)


@settings(max_examples=50, deadline=None)
@given(**{name: CASES[name] for name in ("seed", "variant", "reference")})
def test_the_score_is_a_sum_over_a_response_cut_in_two(seed, variant, reference):
    """At token level the score of a response is that of its head plus that of its tail."""
    side = made_up("token", reference=reference, seed=seed)
    side.mask = torch.ones_like(side.mask)
    parts = [replace(side, **{name: x[:, piece] for name, x in vars(side).items() if x is not None})
             for piece in (slice(0, 1), slice(1, None))]
    assert torch.allclose(score(side, variant), sum(score(part, variant) for part in parts))
