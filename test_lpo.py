"""The method in tests: each number is compared with an independent source.

The sources are the NumPy oracle in conformance/, values worked out by hand, a loop that scores one
token at a time, and enumeration of every text that a tiny model can write. Each test names the bugs
that it catches, and tests/planted_bugs.py plants them. A test with random samples says how often it
fails by chance.

B responses, T tokens, K choices, V vocabulary size, L = T decisions at token level, 1 at sequence.
"""
import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import oracle  # conformance/oracle.py: every score and its gradient in plain float64 loops
import pytest
import torch

import fast.generate
from decoder import (AdaptiveDecoder, Rollout, choice_logps, generate, response_logps, sample,
                     temperature_logps)
from lpo import SCORES, VARIANTS, ResponseLogps, log_ratio, lpo_loss, marginal
from model import GPT, GPTConfig
from toy.samplers import frequency, min_p, presence, repetition
from train_toy import make_pairs

torch.set_num_threads(1)  # the tensors are tiny
TAUS = (0.0, 0.3, 1.0)
LEVELS = ("token", "sequence")
FORMS = [(variant, level) for level in LEVELS for variant in SCORES
         if (variant, level) != ("latent_exact", "token")]
LN2 = math.log(2)


def made_up(level="token", B=3, T=4, V=5, taus=TAUS, reference=True, moved=True, seed=0):
    """Random logits of B responses of unequal lengths, before they become log-probabilities."""
    gen = torch.Generator().manual_seed(seed)
    K, L = len(taus), T if level == "token" else 1

    def normal(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float64)
    logits = 2 * normal(B, T, V)
    likely = torch.rand(B, T, generator=gen) < 0.5  # else temperature 0 is nearly always impossible
    return SimpleNamespace(
        taus=taus,
        logits=logits.clone().requires_grad_(),
        ref_logits=logits + normal(B, T, V) * moved,
        tokens=torch.where(likely, logits.argmax(-1), torch.randint(V, (B, T), generator=gen)),
        mask=torch.arange(T) < torch.randint(1, T + 1, (B, 1), generator=gen),
        tau_logits=normal(B, L, K).requires_grad_(),
        ref_tau_logits=normal(B, L, K) if reference else None,
        tau_idx=torch.randint(K, (B, L), generator=gen))


def arrays(x):
    """What made_up gave, as the fields of ResponseLogps."""
    ref = x.ref_tau_logits
    return dict(
        tau_logps=x.tau_logits.log_softmax(-1),
        tau_idx=x.tau_idx,
        mask=x.mask,
        text_logps=temperature_logps(x.logits, x.tokens, x.taus),
        ref_text_logps=temperature_logps(x.ref_logits, x.tokens, x.taus),
        ref_tau_logps=None if ref is None else ref.log_softmax(-1))


def side(*args, **options):
    return ResponseLogps(**arrays(made_up(*args, **options)))


# --- the scores and the loss ----------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_scores_worked_out_by_hand(level):
    """Two tokens and K = 2, in fractions. Bugs: a mean for a sum, a prior or reference forgotten,
    the choice of a response counted once per token."""
    def logs(*rows):
        return torch.tensor([rows], dtype=torch.float64).log()
    P_tau = [(1 / 4, 3 / 4)] * (2 if level == "token" else 1)
    r = ResponseLogps(
        tau_logps=logs(*P_tau),
        tau_idx=torch.ones(1, len(P_tau), dtype=torch.long),  # the second choice
        mask=torch.ones(1, 2, dtype=torch.bool),
        text_logps=logs((1 / 2, 1 / 8), (0, 1 / 2)),  # the first choice cannot write token 2
        ref_text_logps=logs((1 / 4, 1 / 4), (1 / 2, 1 / 2)))
    of_taus = 3 / 4 * 3 / 4 if level == "token" else 3 / 4
    by_hand = dict(
        separate=of_taus,
        joint=of_taus * (1 / 8) / (1 / 4) * (1 / 2) / (1 / 2),
        latent=(1 / 4 * 1 / 2 + 3 / 4 * 1 / 8) / (1 / 4) * (3 / 4 * 1 / 2) / (1 / 2))
    if level == "sequence":
        by_hand["latent_exact"] = (3 / 4 * 1 / 8 * 1 / 2) / (1 / 4 * 1 / 2)
    for variant, ratio in by_hand.items():
        assert SCORES[variant](r).exp().tolist() == pytest.approx([ratio])
        worse = replace(r, tau_logps=logs(*[(1 / 2, 1 / 2)] * len(P_tau)))
        other = SCORES[variant](worse).exp().item()  # -log sigmoid(log(a / b)) = log(1 + b / a)
        assert lpo_loss(r, worse, variant, 1.0).item() == pytest.approx(math.log(1 + other / ratio))
    assert lpo_loss(r, r, "nll", 1.0).exp().tolist() == pytest.approx([1 / of_taus])


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("variant, level", FORMS)
def test_losses_and_gradients_are_those_of_the_oracle(variant, level, reference):
    """Bugs: padding counted, beta forgotten, sides swapped, tau_t shifted, -inf minus -inf, NaN
    gradients at temperature 0."""
    for seed in range(8):
        sides = [made_up(level, T=T, reference=reference, seed=seed + T) for T in (4, 6)]
        losses = lpo_loss(*(ResponseLogps(**arrays(x)) for x in sides), variant, 0.7)  # (B,)
        losses.sum().backward()
        rows = [[oracle.Response(x.taus, *(
            None if field is None else field[b].detach().numpy() for field in (
                x.logits, x.ref_logits, x.tokens, x.mask, x.tau_logits, x.ref_tau_logits,
                x.tau_idx))) for b in range(3)] for x in sides]
        scored = [list(map(oracle.SCORES[variant], responses)) for responses in rows]
        margins = [chosen[0] - rejected[0] for chosen, rejected in zip(*scored)]
        assert losses.tolist() == pytest.approx([oracle.preference_loss(m, 0.7) for m in margins])
        for sign, x, of_side in zip((1, -1), sides, scored):
            for b, (margin, (_, *gradients)) in enumerate(zip(margins, of_side)):
                slope = sign * oracle.d_preference_loss(margin, 0.7)
                for ours, theirs in zip((x.logits, x.tau_logits), gradients):
                    gradient = torch.zeros_like(ours) if ours.grad is None else ours.grad
                    assert np.allclose(gradient[b], slope * np.array(theirs), atol=1e-12)


@pytest.mark.parametrize("level", LEVELS)
def test_nll_is_the_likelihood_of_the_chosen_choices(level):
    """Of `chosen` only, and without a reference. Bugs: a sign, a reference subtracted."""
    x = made_up(level)
    r = ResponseLogps(**arrays(x))
    alone = SCORES["separate"](replace(r, ref_tau_logps=None))
    assert torch.equal(lpo_loss(r, side(level, seed=1), "nll", 0.3), -alone)
    lpo_loss(r, r, "nll", 0.3).sum().backward()
    assert x.tau_logits.grad.any() and x.logits.grad is None


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("level", LEVELS)
def test_padding_may_hold_anything(variant, level):
    """Bugs: padding counted in a sum or a gradient; a mask that multiplies: NaN * 0 is NaN."""
    variant = "latent" if (variant, level) == ("latent_exact", "token") else variant
    values, gradients = [], []
    for garbage in (0.0, math.nan, -math.inf):
        x = made_up(level, seed=3)
        fields = arrays(x)
        for name, array in fields.items():
            if "logps" in name and array.shape[1] == 4:
                fields[name] = array.masked_fill(~x.mask[..., None], garbage)
        values.append(lpo_loss(ResponseLogps(**fields), side(level, seed=4), variant, 0.5))
        values[-1].sum().backward()
        gradients.append(x.tau_logits.grad)
    for value, gradient in zip(values, gradients):
        assert torch.equal(value, values[0]) and torch.equal(gradient, gradients[0])


def test_no_gradient_reaches_a_reference():
    """Bug: gradient leaking into the reference."""
    for variant in VARIANTS[:3]:
        fields = arrays(made_up())
        leaves = [fields[name].detach().requires_grad_()
                  for name in ("ref_text_logps", "ref_tau_logps")]
        r = ResponseLogps(**fields | dict(zip(("ref_text_logps", "ref_tau_logps"), leaves)))
        lpo_loss(r, r, variant, 0.5).sum().backward()
        assert [leaf.grad for leaf in leaves] == [None, None]


@pytest.mark.parametrize("variant, level", FORMS)
def test_impossible_tokens_score_0_without_gradient(variant, level):
    """Only temperature 0, and tokens it never writes. Bugs: -inf minus -inf is NaN; the gradient of
    a logsumexp of nothing but -inf is NaN."""
    x = made_up(level, taus=(0.0,), reference=False)
    x.tokens = (x.logits.argmax(-1) + 1) % 5
    value = SCORES[variant](ResponseLogps(**arrays(x)))
    value.sum().backward()
    assert value.tolist() == [0, 0, 0]
    assert not x.tau_logits.grad.any() and (x.logits.grad is None or not x.logits.grad.any())


def test_the_marginal_and_its_gradient():
    """d/d term_k is the posterior of choice k. Bugs: NaN where all terms are -inf, a gradient for
    what is impossible."""
    text = torch.tensor([[0.25, 0.5], [0.0, 0.5], [0.0, 0.0]]).double().log().requires_grad_()
    value = marginal(text, torch.tensor([0.5, 0.5]).double().log())
    assert value.exp().tolist() == pytest.approx([0.375, 0.25, 0])
    value[:2].sum().backward(retain_graph=True)
    assert text.grad.tolist() == [pytest.approx([1 / 3, 2 / 3]), [0, 1], [0, 0]]
    text.grad = None
    log_ratio(value, torch.zeros(3)).sum().backward()
    assert text.grad.tolist() == [pytest.approx([1 / 3, 2 / 3]), [0, 1], [0, 0]]


def test_the_loss_is_finite_and_right_for_huge_margins():
    """Bugs: log(sigmoid(x)) overflows for large |x|; chosen and rejected swapped."""
    leaves = [torch.tensor([[[x]]], requires_grad=True) for x in (1e4, -1e4)]
    good, bad = (ResponseLogps(leaf, torch.zeros(1, 1).long(), torch.ones(1, 1).bool())
                 for leaf in leaves)
    assert lpo_loss(good, bad, "separate", 1.0).item() == 0
    loss = lpo_loss(bad, good, "separate", 1.0)
    loss.sum().backward()
    assert loss.item() == 2e4 and [leaf.grad.item() for leaf in leaves] == [1, -1]


# --- what must hold at the start, and in special cases --------------------------------------------


@pytest.mark.parametrize("variant, level", FORMS)
def test_the_loss_starts_at_ln_2(variant, level):
    """A uniform decoder and a model that is its own reference prefer nothing, at equal lengths."""
    sides = [made_up(level, moved=False, reference=False, seed=s) for s in (0, 1)]
    for x in sides:
        x.tau_logits = torch.zeros_like(x.tau_logits)
        x.mask = torch.ones_like(x.mask)
    losses = lpo_loss(*(ResponseLogps(**arrays(x)) for x in sides), variant, 0.5)
    assert losses.tolist() == pytest.approx([LN2] * 3)


@pytest.mark.parametrize("variant", ["separate", "joint"])
def test_without_a_reference_the_token_level_favours_the_shorter_response(variant):
    """The margin with a uniform reference is the printed one plus (n_chosen - n_rejected) log K."""
    printed = [side(seed=s, reference=False) for s in (0, 1)]
    uniform = [replace(r, ref_tau_logps=torch.full_like(r.tau_logps, -math.log(3)))
               for r in printed]
    n = [r.mask.sum(1) for r in printed]
    margins = [SCORES[variant](chosen) - SCORES[variant](rejected)
               for chosen, rejected in (printed, uniform)]
    assert torch.allclose(margins[1] - margins[0], (n[0] - n[1]).double() * math.log(3))


@pytest.mark.parametrize("level", LEVELS)
def test_joint_equals_separate_while_the_model_is_frozen(level):
    """The text terms cancel, so no test with a frozen model can see a bug in them."""
    r = side(level, moved=False)
    assert torch.equal(SCORES["joint"](r), SCORES["separate"](r))
    r = side(level)
    assert not torch.allclose(SCORES["joint"](r), SCORES["separate"](r))


def test_one_temperature_is_dpo():
    """K = 1, or decoder and reference one-hot on tau_j: DPO on logits / tau_j, written out."""
    taus, j = (0.3, 0.7, 1.0), 1
    sides = [made_up(seed=s, taus=taus, reference=False) for s in (0, 1)]

    def text_logp(x, logits):
        logps = (logits / taus[j]).log_softmax(-1).gather(-1, x.tokens[..., None])[..., 0]  # (B,T)
        return (logps * x.mask).sum(1)
    chosen, rejected = (text_logp(x, x.logits) for x in sides)
    ref_chosen, ref_rejected = (text_logp(x, x.ref_logits) for x in sides)
    dpo = -torch.sigmoid(0.4 * ((chosen - ref_chosen) - (rejected - ref_rejected))).log()
    one_hot = torch.full((3, 4, 3), -math.inf).double()
    one_hot[..., j] = 0
    fixed = [ResponseLogps(**arrays(x) | dict(tau_logps=one_hot, ref_tau_logps=one_hot))
             for x in sides]
    assert torch.allclose(lpo_loss(*fixed, "latent", 0.4), dpo)
    alone = [ResponseLogps(torch.zeros(3, 4, 1), x.tau_idx * 0, x.mask,
                           temperature_logps(x.logits, x.tokens, taus[j:j + 1]),
                           temperature_logps(x.ref_logits, x.tokens, taus[j:j + 1])) for x in sides]
    for variant in ("joint", "latent"):
        assert torch.allclose(lpo_loss(*alone, variant, 0.4), dpo)
    assert lpo_loss(*alone, "separate", 0.4).tolist() == pytest.approx([LN2] * 3)


NAN = torch.full((3, 4, 3), math.nan)


@pytest.mark.parametrize("changes, words", [
    (dict(mask=torch.ones(3, 4)), "mask: give bool"),
    (dict(mask=torch.zeros(3, 4).bool()), "mask: give bool, no empty rows"),
    (dict(tau_logps=torch.zeros(3, 2, 3)), r"tau_idx: give \(3, 2\); L: 1 or 4"),
    (dict(tau_idx=torch.zeros(3, 2).long()), r"tau_idx: give \(3, 4\); L: 1 or 4"),
    (dict(tau_idx=torch.full((3, 4), 0.5)), "tau_idx: give 0 to 2"),
    (dict(tau_idx=torch.full((3, 4), 3)), "tau_idx: give 0 to 2"),
    (dict(tau_idx=torch.full((3, 4), -1)), "tau_idx: give 0 to 2"),
    (dict(text_logps=torch.zeros(3, 4, 2)), r"text_logps is \(3, 4, 2\); give \(3, 4, 3\)"),
    (dict(ref_text_logps=torch.zeros(2, 4, 3)), "ref_text_logps is"),
    (dict(ref_tau_logps=torch.zeros(3, 1, 3)), "ref_tau_logps is"),
    (dict(tau_logps=NAN), "tau_logps has NaN"),
    (dict(text_logps=-NAN), "text_logps has NaN"),
    (dict(ref_text_logps=NAN.nan_to_num(math.inf)), "ref_text_logps has NaN or .inf")])
def test_arrays_that_do_not_fit_are_refused(changes, words):
    """Bug: a check that never fails, so that an array is broadcast or NaN reaches the weights."""
    with pytest.raises(ValueError, match=f"^{words}"):
        ResponseLogps(**arrays(made_up()) | changes)


def test_losses_that_cannot_be_computed_are_refused():
    r = side()
    for variant, beta, words in (("dpo", 1.0, "unknown variant 'dpo'; choose from .*latent_exact"),
                                 ("latent_exact", 1.0, "sequence-level"), ("joint", 0.0, "beta is"),
                                 ("nll", math.nan, "beta is"), ("latent", math.inf, "beta is")):
        with pytest.raises(ValueError, match=words):
            lpo_loss(r, r, variant, beta)
    for other in (side(B=2), side(taus=TAUS[:2]), replace(r, ref_tau_logps=None)):
        for pair, variant in itertools.product(((r, other), (other, r)), SCORES):
            with pytest.raises(ValueError, match="both sides need"):
                lpo_loss(*pair, variant, 1.0)
    for name, variant in itertools.product(("text_logps", "ref_text_logps"), ("joint", "latent")):
        for pair in ((r, replace(r, **{name: None})), (replace(r, **{name: None}), r)):
            with pytest.raises(ValueError, match=f"{variant!r} needs {name}"):
                lpo_loss(*pair, variant, 1.0)
    without = replace(r, text_logps=None, ref_text_logps=None)
    assert torch.equal(lpo_loss(without, without, "separate", 1.0), lpo_loss(r, r, "separate", 1.0))


# --- choices: what they do to the logits ----------------------------------------------------------


def by_hand(choice, logits, written):
    """P(next token | choice) in plain Python.  V numbers, the tokens before -> V numbers"""
    tau, scores = choice, list(logits)
    if callable(choice):
        tau = choice.temperature
        for v, x in enumerate(logits):
            n, a = written.count(v), choice.value
            scores[v] = {"frequency": x - a * n, "presence": x - a * (n > 0),
                         "repetition": x if n == 0 else x / a if x > 0 else x * a,
                         "min_p": x if math.exp(x - max(logits)) >= a else -math.inf}[choice.kind]
    if tau == 0:
        return [float(v == scores.index(max(scores))) for v in range(len(scores))]
    weights = [math.exp((x - max(scores)) / tau) for x in scores]
    return [weight / sum(weights) for weight in weights]


def test_temperature_logps_are_those_of_a_softmax():
    """Bugs: temperature forgotten, applied twice, multiplied; another token's column."""
    x = made_up(taus=(0.5, 2.0))
    logps = temperature_logps(x.logits, x.tokens, x.taus)
    for b, t, (k, tau) in itertools.product(range(3), range(4), enumerate(x.taus)):
        p = by_hand(tau, x.logits[b, t].tolist(), [])[x.tokens[b, t]]
        assert logps[b, t, k].item() == pytest.approx(math.log(p), abs=1e-12)


def test_temperature_0_is_the_arg_max_and_the_limit_from_above():
    """Bugs: division by zero or by a small number; a tie shared out, or given to the last."""
    logits = torch.tensor([[1.0, 3.0, 2.0], [2.0, 2.0, -1e30], [0.0, -4.0, 1e4]]).double()
    assert choice_logps(logits, 0.0).exp().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    for tau in (1e-300, 1e-4):  # without a tie the limit is the arg-max
        assert choice_logps(logits, tau)[[0, 2]].exp().tolist() == [[0, 1, 0], [0, 0, 1]]
    assert choice_logps(logits, 1e-4)[1].exp().tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize("wrong", [(-0.1,), (math.nan,), (math.inf,), (), (lambda logits: logits,)])
def test_what_is_no_choice_is_refused(wrong):
    for use in (lambda: AdaptiveDecoder(8, wrong),
                lambda: temperature_logps(torch.zeros(1, 1, 2), torch.zeros(1, 1).long(), wrong)):
        with pytest.raises(ValueError, match="^choices are"):
            use()


def test_a_choice_has_to_give_a_distribution():
    """Its probabilities sum to 1, up to a thousandth for rounding."""
    def shifted(by):
        def choice(logits):
            return logits.log_softmax(-1) + by
        choice.name = "shifted"
        return choice
    logits, tokens = torch.zeros(1, 2, 4), torch.zeros(1, 2).long()
    fits = temperature_logps(logits, tokens, (shifted(0.0005),))
    assert fits.flatten().tolist() == pytest.approx([-math.log(4)] * 2, abs=1e-3)
    for by in (0.0015, -0.0015, math.nan, -math.inf):
        with pytest.raises(ValueError, match="no distribution: .* shifted is wrong"):
            temperature_logps(logits, tokens, (1.0, shifted(by)))


# --- sampling and scoring -------------------------------------------------------------------------


def rough_model(V=11, block_size=16, seed=0, dtype=torch.float64, n_embd=12):
    """A small transformer with no weight, bias or gain at 0 or 1, which would hide bugs."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(V, block_size, n_layer=2, n_head=2, n_embd=n_embd)).to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
        model.token_embedding.weight.mul_(0.5)  # so that every token is likely
    return model


def rough_decoder(level="token", choices=TAUS, seed=1, n_embd=12):
    """A decoder that has left its uniform start."""
    torch.manual_seed(seed)
    decoder = AdaptiveDecoder(n_embd, choices, level, n_hidden=10).double()
    torch.nn.init.normal_(decoder.mlp[-1].weight)
    return decoder


PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [2, 2]]
END = 10  # end of text, which rough_model writes now and then
WITH_MEMORY = (0.0, frequency(1.5, temperature=0.7), repetition(1.7),
               presence(2.0, temperature=0.0))


@pytest.mark.parametrize("choices", [TAUS, WITH_MEMORY], ids=["temperatures", "with memory"])
@pytest.mark.parametrize("level", LEVELS)
def test_response_logps_score_one_token_after_the_other(level, choices):
    """Bugs: tokens and logits shifted, a prompt counted, prompts of unequal lengths misaligned, the
    choice of another token, end of text left out of the mask, counts that include the token."""
    policy = rough_model(), rough_decoder(level, choices)
    reference = rough_model(seed=2), rough_decoder(level, choices, seed=3)
    prompts = PROMPTS * 3
    rollout = generate(policy[0], prompts, 8, decoder=policy[1], eos=END,
                       generator=torch.Generator().manual_seed(0))
    r = response_logps(*policy, prompts, rollout, *reference)
    lengths = rollout.mask.sum(1).tolist()
    assert len(set(lengths)) > 2 and rollout.cut.any() and not rollout.cut.all()
    for b, prompt in enumerate(prompts):
        n, tokens = lengths[b], rollout.tokens[b, :lengths[b]].tolist()
        assert rollout.mask[b].tolist() == [t < n for t in range(8)]
        assert END not in tokens[:-1] and (tokens[-1] == END) != rollout.cut[b]
        for (model, decoder), text, tau in ((policy, r.text_logps, r.tau_logps),
                                            (reference, r.ref_text_logps, r.ref_tau_logps)):
            for t, token in enumerate(tokens):  # a pass of its own for each, without padding
                logits, hidden = model(torch.tensor([prompt + tokens[:t]]))
                for k, choice in enumerate(choices):
                    p = by_hand(choice, logits[0, -1].tolist(), tokens[:t])[token]
                    assert text[b, t, k].exp().item() == pytest.approx(p, abs=1e-10)
                if t == 0 or level == "token":
                    logps = decoder.mlp(hidden[0, -1]).log_softmax(-1)
                    assert torch.allclose(tau[b, t], logps)
    sampled = r.text_logps.gather(-1, r.tau_idx.expand(12, 8)[..., None])[rollout.mask]
    assert sampled.isfinite().all()  # what was sampled is possible
    assert r.text_logps.requires_grad and not r.ref_text_logps.requires_grad


def chi_square_p(counts, probabilities):
    """P-value of observed counts, by the Wilson-Hilferty approximation."""
    keep = probabilities > 0
    assert counts[~keep].sum() == 0
    expected, df = counts.sum() * probabilities[keep], int(keep.sum()) - 1
    x = ((counts[keep] - expected) ** 2 / expected).sum()
    z = ((x / df) ** (1 / 3) - (1 - 2 / (9 * df))) / math.sqrt(2 / (9 * df))
    return 0.5 * math.erfc(z / math.sqrt(2))


def written(V, T, end):
    """Every text of at most T tokens, which ends with `end` or has T tokens without it."""
    for n in range(1, T + 1):
        for text in itertools.product(range(V), repeat=n):
            if end not in text[:-1] and (n == T or text[-1] == end):
                yield list(text)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("choices", [(0.0, 0.5, 1.5), (0.0, min_p(0.5, 3.0), 1.5), WITH_MEMORY],
                         ids=["temperatures", "truncation", "with memory"])
def test_sampler_and_scorer_agree_on_every_text(choices, level):
    """A model of four tokens writes at most three. The probability of each text, summed over all
    paths of choices, is worked out here; the marginals score it, the sampler samples it. False
    alarm: 1e-4 per prompt. Bugs: sampler and scorer that apply a choice differently, counts that
    are inclusive, of the prompt or padding, or of other rows; the two levels confused."""
    V, T, end, prompts = 4, 3, 3, [[1, 2, 1], [0]]
    model, decoder = rough_model(V), rough_decoder(level, choices)
    texts, K = list(written(V, T, end)), len(choices)
    rollouts = generate(model, prompts * 20_000, T, decoder=decoder, eos=end,
                        generator=torch.Generator().manual_seed(6))
    for p, prompt in enumerate(prompts):
        probabilities = []
        for text in texts:
            total = 0.0
            of_tau, of_text = [], []
            for t, token in enumerate(text):
                logits, hidden = model(torch.tensor([prompt + text[:t]]))
                of_tau.append(decoder.mlp(hidden[0, -1]).softmax(-1).tolist())
                of_text.append([by_hand(choice, logits[0, -1].tolist(), text[:t])[token]
                                for choice in choices])
            for path in itertools.product(range(K), repeat=len(text) if level == "token" else 1):
                ks = path * (len(text) // len(path))
                p_taus = math.prod(of_tau[t][k] for t, k in enumerate(path))
                total += p_taus * math.prod(of_text[t][k] for t, k in enumerate(ks))
            probabilities.append(total)
        assert sum(probabilities) == pytest.approx(1, abs=1e-12)

        # scored, with padding of token 0
        tokens = torch.tensor([text + [0] * (T - len(text)) for text in texts])
        mask = torch.arange(T) < torch.tensor([[len(text)] for text in texts])
        tau_idx = torch.zeros(len(texts), T if level == "token" else 1, dtype=torch.long)
        r = response_logps(model, decoder, [prompt] * len(texts),
                           Rollout(tokens, mask, mask[:, 0], tau_idx))
        nothing = replace(r, ref_text_logps=torch.zeros_like(r.text_logps), ref_tau_logps=None)
        scores = SCORES["latent" if level == "token" else "latent_exact"](nothing)
        possible = torch.tensor(probabilities) > 0
        assert scores[possible].exp().tolist() == pytest.approx(
            [x for x in probabilities if x > 0], abs=1e-12)

        # sampled
        of_prompt = rollouts[p::2]
        number = {tuple(text): n for n, text in enumerate(texts)}
        found = [number[tuple(row[keep].tolist())]
                 for row, keep in zip(of_prompt.tokens, of_prompt.mask)]
        counts = np.bincount(found, minlength=len(texts))
        assert chi_square_p(counts, np.array(probabilities)) > 1e-4


@pytest.mark.parametrize("tau", [0.0, 0.25, 1.0, 3.0])
def test_both_samplers_sample_what_choice_logps_says(tau):
    """decoder.sample and the one for a GPU. False alarm: 1e-4 for each of 8."""
    logits = torch.randn(7, generator=torch.Generator().manual_seed(3))
    gen, n = torch.Generator().manual_seed(4), 50_000
    logps = choice_logps(logits.double(), tau)
    for tokens in (sample(logps.expand(n, 7), gen),
                   fast.generate.noisy(logits.expand(n, 7), torch.full((n,), tau),
                                       gen).argmax(-1)):
        counts = np.bincount(tokens, minlength=7)
        if tau == 0:
            assert counts[logits.argmax()] == n
        else:
            assert chi_square_p(counts, logps.exp().numpy()) > 1e-4


@pytest.mark.parametrize("uniform", [None, 0.0, 1 - 2 ** -53])
def test_rows_at_0_are_exact_beside_rows_above(uniform, monkeypatch):
    """Bugs: greedy and sampled rows mixed in a batch; infinite Gumbel noise. The numbers are the
    ends of what torch.rand returns."""
    logits, taus = torch.randn(4000, 5), torch.tensor([0.0, 5.0]).repeat(2000)
    logps = torch.stack([choice_logps(row, tau) for row, tau in zip(logits, taus.tolist())])
    if uniform is not None:
        monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(
            shape if isinstance(shape[0], int) else shape[0], uniform, dtype=torch.float64))
    for tokens in (sample(logps), fast.generate.noisy(logits, taus).argmax(-1)):
        assert torch.equal(tokens[::2], logits[::2].argmax(-1))
        assert uniform is not None or (tokens[1::2] != logits[1::2].argmax(-1)).sum() > 1000


def test_the_greedy_choice_is_the_most_likely_one():
    """Equation 4. A new decoder is uniform."""
    model, decoder = rough_model(), rough_decoder()
    rollout = generate(model, PROMPTS, 5, decoder=decoder, tau_select="greedy")
    r = response_logps(model, decoder, PROMPTS, rollout)
    assert torch.equal(rollout.tau_idx, r.tau_logps.argmax(-1))
    fresh = AdaptiveDecoder(12)(torch.randn(2, 12))
    assert fresh.exp().tolist() == [pytest.approx([1 / 6] * 6)] * 2


# --- pairs ----------------------------------------------------------------------------------------


def test_pairs_prefer_the_better_and_drop_ties():
    """Indices are into all P * N responses. Bugs: ties counted as preferences, chosen and rejected
    swapped, responses of another prompt."""
    rewards = np.array([[0.0, 2.0, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 0.0, -1.0]])
    assert make_pairs(rewards) == ([1, 8], [0, 11])
    assert sorted(zip(*make_pairs(rewards, "all"))) == [
        (1, 0), (1, 2), (2, 0), (3, 0), (3, 2), (8, 9), (8, 10), (8, 11), (9, 11), (10, 11)]
    second = np.array([[5.0, 1.0, 0.0, 9.0], [0.0, 1.0, 2.0, 3.0], [0.0, 7.0, 9.0, 8.0]])
    assert make_pairs(rewards, "top-k", second, k=2) == ([3, 9], [2, 11])
    assert make_pairs([[0.1 + 0.2, 0.3], [3e7 + 1, 3e7]]) == ([], [])  # equal up to rounding
