"""Bad input, by hypothesis and by hand: a ValueError or TypeError that names it, or a right answer;
never another exception, never NaN out of finite input. Cases are counted at the end.
"""
import math
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import decoder as plain
import tasks
import train_toy
from decoder import AdaptiveDecoder, aligned, response_logps
from fast import large_vocab
from fast.generate import generate, sample
from lpo import VARIANTS, ResponseLogps, lpo_loss, nll_loss, score, temperature_logps
from model import GPT, GPTConfig
from toy.options import Config, checked, parse

CASES = 0
LEAST = 2000  # cases
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EXTREME = (0.0, 1.0, -1.0, 50.0, -88.0, 1e-30, 65504.0, -65504.0, 3e38, -3e38, -math.inf)
TAUS = st.sampled_from((0.0, 1e-300, 1e-46, 1e-40, 1e-8, 0.3, 1.0, 7.0, 1e6, 1e30))
WRONG_TAUS = st.sampled_from((-1.0, -1e-9, math.nan, math.inf, -math.inf))


def cases(n):
    """n examples, the same ones in every run."""
    return settings(max_examples=n, deadline=None, derandomize=True, database=None)


def count():
    global CASES
    CASES += 1


def refuses(*names):
    """Within, a ValueError or TypeError of one sentence that has one of the names."""
    count()
    return pytest.raises((ValueError, TypeError), match=rf"(?s)\A(?!.*\n.*\n).*({'|'.join(names)})")


def tensor(data, shape, elements, dtype):
    values = data.draw(st.lists(elements, min_size=math.prod(shape), max_size=math.prod(shape)))
    return torch.tensor(values, dtype=torch.float64).reshape(shape).to(dtype)


# --- lpo.temperature_logps, and large_vocab's ----------------------------------------------------


@cases(300)
@given(st.data())
def test_temperature_logps_of_any_finite_logits_are_log_probabilities(data):
    """Bugs: a temperature that is 0 in float32; overflow; NaN at V = 1."""
    count()
    shape = [data.draw(st.integers(low, high)) for low, high in ((0, 3), (0, 3), (1, 4))]
    dtype = data.draw(st.sampled_from(FLOATS))
    limit = torch.finfo(dtype).max
    elements = st.one_of(st.sampled_from(EXTREME[:-1]), st.floats(-1e4, 1e4)).map(
        lambda x: max(-limit, min(limit, x)))
    logits = tensor(data, shape, elements, dtype).requires_grad_()
    tokens = tensor(data, shape[:2], st.integers(0, shape[2] - 1), torch.long)
    taus = data.draw(st.lists(TAUS, min_size=1, max_size=3))
    out = temperature_logps(logits, tokens, taus)
    assert out.shape == (*shape[:2], len(taus))
    assert not out.isnan().any() and (out <= 1e-6).all()
    if out.requires_grad:
        out.masked_fill(out.isneginf(), 0).sum().backward()
        # 1 / tau overflows in the gradient, as it does in exact arithmetic
        assert 0 < min(taus) < 1e-6 or not logits.grad.isnan().any()
    if dtype in (torch.float32, torch.float64):
        lean = large_vocab.temperature_logps(logits.detach(), tokens, taus)
        assert torch.allclose(lean, out, rtol=1e-4, atol=1e-4)


DAMAGED_TOKENS = {
    "one column less": lambda x: x[:, 1:], "one more dimension": lambda x: x[..., None],
    "one dimension less": lambda x: x[0], "one row only": lambda x: x[:1],
    "floats": lambda x: x.double(), "int32": lambda x: x.int(), "bool": lambda x: x.bool(),
    "too large": lambda x: x + 9, "negative": lambda x: x - 9, "-100": lambda x: x * 0 - 100}


@pytest.mark.parametrize("logps", [temperature_logps, large_vocab.temperature_logps])
@pytest.mark.parametrize("damage", DAMAGED_TOKENS)
def test_tokens_that_do_not_fit_are_refused(damage, logps):
    """Bug: gather takes fewer columns without a word."""
    for B, T, V in ((2, 3, 5), (2, 2, 2), (3, 1, 1)):
        wrong = DAMAGED_TOKENS[damage](torch.zeros(B, T, dtype=torch.long))
        with refuses("tokens"):
            logps(torch.zeros(B, T, V), wrong, (1.0,))


@pytest.mark.parametrize("logps", [temperature_logps, large_vocab.temperature_logps])
@cases(40)
@given(taus=st.lists(TAUS, max_size=2), wrong=WRONG_TAUS)
def test_temperatures_that_are_none_are_refused(logps, taus, wrong):
    for bad in ([*taus, wrong], []):
        with refuses("temperatures"):
            logps(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.long), bad)


def test_the_lean_version_refuses_what_does_not_fit():
    logits, tokens, tau = torch.zeros(2, 3, 4), torch.zeros(2, 3).long(), torch.zeros(2, 3, 1)
    for name, wrong in (("logits", (logits.long(), tokens, (1.0,), tau)),
                        ("logits", (logits[0], tokens, (1.0,), tau)),
                        ("tokens", (logits, tokens.to("meta"), (1.0,), tau)),
                        ("tau_logps", (logits, tokens, (1.0,), tau.to("meta"))),
                        ("tau_logps", (logits, tokens, (1.0,), tau[:, :2])),
                        ("tau_logps", (logits, tokens, (1.0, 2.0), tau)),
                        ("tau_logps", (logits, tokens, (1.0,), tau.long()))):
        with refuses(name):
            large_vocab.latent_marginal(*wrong)


# --- lpo.score and the losses --------------------------------------------------------------------


def side(seed, B=3, T=4, K=3, level="token", dtype=torch.float64, reference=True, spread=3.0,
         dead=0.2):
    """A side of pairs; some of its text is impossible (-inf), its padding NaN."""
    gen = torch.Generator().manual_seed(seed)
    L = T if level == "token" else 1

    def logps(columns):
        return (spread * torch.randn(B, columns, K, generator=gen)).log_softmax(-1).to(dtype)
    mask = torch.arange(T) < torch.randint(1, T + 1, (B, 1), generator=gen)
    text, ref_text = (x.masked_fill(torch.rand(x.shape, generator=gen) < dead, -math.inf)
                      .masked_fill(~mask[..., None], math.nan) for x in (logps(T), logps(T)))
    return ResponseLogps(logps(L).requires_grad_(), torch.randint(K, (B, L), generator=gen), mask,
                         text.requires_grad_(), ref_text, logps(L) if reference else None)


LEVEL = st.sampled_from(("token", "sequence"))
VARIANT = st.sampled_from((*VARIANTS, "nll", "exact"))


def loss_of(variant, chosen, rejected):
    if variant == "nll":
        return nll_loss(chosen)
    if variant == "exact":
        return lpo_loss(chosen, rejected, "latent", 0.5, exact_sequence=True)
    return lpo_loss(chosen, rejected, variant, 0.5)


@cases(250)
@given(seed=st.integers(0, 10 ** 6), B=st.integers(0, 3), T=st.integers(1, 4), K=st.integers(1, 3),
       level=LEVEL, variant=VARIANT, dtype=st.sampled_from(FLOATS), reference=st.booleans(),
       spread=st.sampled_from((0.0, 1.0, 30.0, 1e4)))
def test_losses_of_finite_log_probabilities_are_no_nan(seed, B, T, K, level, variant, dtype,
                                                       reference, spread):
    """Bugs: NaN in padding multiplied; -inf minus -inf; an empty batch; K = 1."""
    assume(variant != "exact" or level == "sequence" or T == 1)
    count()
    pair = [side(seed + i, B, T, K, level, dtype, reference, spread) for i in (0, 1)]
    loss = loss_of(variant, *pair)
    assert loss.shape == (B,) and not loss.isnan().any()
    loss.sum().backward()
    for x in pair:
        for leaf in (x.tau_logps, x.text_logps):
            assert leaf.grad is None or not leaf.grad.isnan().any()


DAMAGE = {
    "a column less": lambda x, n: x[:, :-1],
    "a column more": lambda x, n: torch.cat([x, x[:, :1]], 1),
    "a row less": lambda x, n: x[:-1], "a dimension less": lambda x, n: x[..., 0],
    "a dimension more": lambda x, n: x[..., None], "a number": lambda x, n: x.sum(),
    "another device": lambda x, n: x.to("meta"),
    "another dtype": lambda x, n: x.double() if n in ("mask", "tau_idx") else x.nan_to_num().long(),
    "complex": lambda x, n: x.to(torch.complex64) if n in ("mask", "tau_idx") else x.bool(),
}


@cases(400)
@given(seed=st.integers(0, 99), level=LEVEL, variant=VARIANT, damage=st.sampled_from(list(DAMAGE)),
       name=st.sampled_from([f.name for f in fields(ResponseLogps)]), which=st.integers(0, 1))
def test_arrays_that_do_not_fit_are_named(seed, level, variant, damage, name, which):
    """Bugs: broadcasting; a row that another row's numbers stand in for."""
    assume(variant != "exact" or level == "sequence")
    assume((name, damage) != ("mask", "another device"))  # meta tensors hold nothing to look at
    assume(variant != "nll" or name != "ref_tau_logps" and which == 0)  # not looked at
    pair = [side(seed + i, level=level) for i in (0, 1)]
    wrong = DAMAGE[damage](getattr(pair[which], name).detach(), name)
    # a column less of a sequence's one, of a token level's T: another shape all the same
    pair[which] = replace(pair[which], **{name: wrong})
    with refuses(*(f.name for f in fields(ResponseLogps)), "exact_sequence", "chosen",
                 "of a 0-d tensor"):
        loss_of(variant, *pair)


@cases(150)
@given(seed=st.integers(0, 99), level=LEVEL, variant=VARIANT,
       bad=st.sampled_from((math.nan, math.inf)),
       name=st.sampled_from(("tau_logps", "text_logps", "ref_text_logps", "ref_tau_logps")))
def test_nan_at_a_response_token_is_refused_where_it_enters(seed, level, variant, bad, name):
    """Bug: a NaN loss, after which every weight is NaN."""
    assume(variant != "exact" or level == "sequence")
    enters = variant in ("joint", "latent", "exact") or name == "tau_logps" or (
        variant == "separate" and name == "ref_tau_logps")
    pair = [side(seed + i, level=level, dead=0) for i in (0, 1)]
    clean = loss_of(variant, *pair)
    x = getattr(pair[0], name).detach().clone()
    x[1, 0] = bad
    pair[0] = replace(pair[0], **{name: x})
    if enters:
        with refuses("tau_logps", "text_logps"):
            loss_of(variant, *pair)
    else:
        count()
        try:
            assert torch.equal(loss_of(variant, *pair), clean)
        except ValueError as error:
            assert name in str(error)


@cases(60)
@given(seed=st.integers(0, 99), level=LEVEL, variant=st.sampled_from(VARIANTS),
       name=st.sampled_from(("tau_logps", "text_logps", "ref_text_logps", "tau_idx", "mask")))
def test_without_checks_of_values_kinds_and_shapes_are_checked(seed, level, variant, name):
    """check=False changes no loss. Bugs: nothing is checked any more, or padding is not zero."""
    pair = [side(seed + i, level=level) for i in (0, 1)]
    assert torch.equal(lpo_loss(*pair, variant, 0.5, check=False), lpo_loss(*pair, variant, 0.5))
    assert torch.equal(nll_loss(pair[0], check=False), nll_loss(pair[0]))
    wrong = replace(pair[0], **{name: getattr(pair[0], name)[:1]})
    with refuses(name, "mask", "tau_logps", "tau_idx", "as many"):
        lpo_loss(wrong, pair[1], variant, 0.5, check=False)


@cases(100)
@given(seed=st.integers(0, 99), level=LEVEL, variant=st.sampled_from(VARIANTS),
       idx=st.sampled_from((-1, 3, 10 ** 6)), row=st.integers(0, 2))
def test_other_values_that_are_none(seed, level, variant, idx, row):
    """An impossible temperature, a row without a response, one chosen to three rejected, words."""
    one, two = (side(seed + i, level=level) for i in (0, 1))
    tau_idx, mask = one.tau_idx.clone(), one.mask.clone()
    tau_idx[row, 0], mask[row] = idx, False
    for wrong, words in ((replace(one, tau_idx=tau_idx), "tau_idx"),
                         (replace(one, mask=mask), "mask"),
                         (side(seed, B=1, level=level), "as many chosen as rejected")):
        with refuses(words):
            lpo_loss(wrong, two, variant, 0.5)
    for beta in (0.0, -1.0, math.nan, math.inf):
        with refuses("beta"):
            lpo_loss(one, two, variant, beta)
    for name in ("dpo", "", "LATENT", None, 3):
        with refuses("unknown variant"):
            score(one, name)
    if variant != "separate":
        for name in ("text_logps", "ref_text_logps"):
            with refuses(name):
                score(replace(one, **{name: None}), variant)


# --- model.py ------------------------------------------------------------------------------------


def small_model(V=7, block_size=8, seed=0):
    torch.manual_seed(seed)
    return GPT(GPTConfig(V, block_size, n_layer=1, n_head=2, n_embd=8))


MODELS = {V: small_model(V) for V in (1, 2, 7)}
DECODERS = {(level, taus): AdaptiveDecoder(8, taus, level) for level in ("token", "sequence")
            for taus in ((0.0, 0.5, 1.0), (0.7,), (0.0,), (1e-46, 1e29))}


@cases(150)
@given(st.data())
def test_the_model_answers_or_names_idx(data):
    V = data.draw(st.sampled_from((1, 2, 7)))
    shape = data.draw(st.lists(st.integers(0, 10), max_size=3))
    low, high = data.draw(st.sampled_from(((0, V - 1), (0, V - 1), (-2, V + 1))))
    dtype = data.draw(st.sampled_from((torch.long, torch.long, torch.int32, torch.float32)))
    idx = torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    fits = (len(shape) == 2 and 0 not in shape and shape[1] <= 8 and dtype == torch.long
            and idx.min() >= 0 and idx.max() < V)
    if not fits:
        with refuses("idx"):
            MODELS[V](idx)
        return
    count()
    logits, hidden = MODELS[V](idx)
    assert logits.shape == (*shape, V) and logits.isfinite().all() and hidden.isfinite().all()


def test_an_empty_batch_and_empty_rows_are_refused():
    for shape in ((0, 3), (2, 0), (0, 0), (), (0,), (1, 9)):
        with refuses("idx"):
            MODELS[7](torch.zeros(shape, dtype=torch.long))


@cases(60)
@given(st.sampled_from([f.name for f in fields(GPTConfig)]),
       st.one_of(st.integers(-3, 0), st.floats(), st.text(max_size=3), st.none(),
                 st.lists(st.integers())))
def test_a_configuration_that_is_none_is_refused(name, value):
    with refuses(name):
        replace(GPTConfig(5, 5, 1, 2, 4), **{name: value})


# --- decoder.py ----------------------------------------------------------------------------------


NUMBERS = st.one_of(st.sampled_from((0, 0.0, 1e-46, 0.5, 1, 3e29)), st.floats())


@cases(350)
@given(st.data())
def test_generate_writes_or_names_what_does_not_fit(data):
    """Bugs: ids that index past the embedding; a temperature that overflows; V = 1; K = 1."""
    V = data.draw(st.sampled_from((1, 2, 7)))
    model, ids = MODELS[V], st.integers(0, V - 1)
    if data.draw(st.integers(0, 3)) == 0:
        ids = st.one_of(st.integers(-1, V), st.just(10 ** 9))
    prompts = data.draw(st.lists(st.lists(ids, min_size=data.draw(st.integers(0, 1)), max_size=5),
                                 max_size=4))
    n = data.draw(st.one_of(st.integers(1, 4), st.sampled_from((-1, 0, 9, 2.5, "3", None))))
    decoder = data.draw(st.sampled_from((None, *DECODERS.values())))
    temperature = data.draw(st.one_of(st.none() if decoder else NUMBERS, NUMBERS))
    select = data.draw(st.sampled_from(("sample", "sample", "greedy", "best")))
    eos = data.draw(st.sampled_from((None, 0, 1, 99)))
    fits = dict(
        prompts=prompts and all(p and 0 <= min(p) and max(p) < V for p in prompts),
        max_new_tokens=isinstance(n, int) and n > 0, tau_select=select != "best",
        temperature=temperature is None or 0 <= temperature < 1e30,
        decoder=(decoder is None) != (temperature is None))
    fits["context"] = not (fits["prompts"] and fits["max_new_tokens"]) or (
        max(map(len, prompts)) + n <= 8)
    wrong = [name for name, good in fits.items() if not good]

    generate_ = data.draw(st.sampled_from((generate, plain.generate)))

    def write():
        return generate_(model, prompts, n, decoder, temperature, select, eos,
                         torch.Generator().manual_seed(0))
    if wrong:
        with refuses(*wrong):
            write()
        return
    count()
    rollout = write()
    assert rollout.tokens.shape == rollout.mask.shape == (len(prompts), n)
    assert (rollout.tokens[rollout.mask] < V).all() and rollout.mask[:, 0].all()
    if decoder is not None:
        logps = response_logps(model, decoder, prompts, rollout, model, decoder)
        assert (logps.tau_logps <= 0).all() and (logps.text_logps <= 0).all()
        for variant in VARIANTS:
            assert score(logps, variant).isfinite().all()


def test_prompts_and_temperatures_by_hand():
    model, decoder = MODELS[7], DECODERS["token", (0.0, 0.5, 1.0)]
    for prompts in ([], [[]], [[1], []], [1, 2], "text", ["text"], [[7]], [[-1]], [[1.5]], [None],
                    torch.ones(2, 2), [torch.ones(2)], ((),), [[[1]]], [["a"]]):
        with refuses("prompts", "idx", "'<=' not supported"):  # a list of lists compares by itself
            generate(model, prompts, 2, temperature=1.0)
    for temperature in (-1, math.nan, math.inf, 1e39, 1e31, [1.0, 2.0, 3.0], torch.ones(3, 1),
                        torch.ones(1, 1, 1), torch.tensor([0.5, math.nan])):
        with refuses("temperature"):
            generate(model, [[1], [2]], 2, temperature=temperature)
    for taus in ((), (1.0, 1.0), (-1.0,), (math.nan,), (math.inf, 0.0)):
        with refuses("choices"):
            AdaptiveDecoder(8, taus)
    with refuses("level"):
        AdaptiveDecoder(8, level="word")
    with refuses("hidden"):
        generate(model, [[1]], 2, decoder=AdaptiveDecoder(12))
    with refuses("temperature"):
        generate(model, [[1]], 2, decoder=AdaptiveDecoder(8, (1e39,)))
    rollout = generate(model, [[1], [2]], 2, decoder=decoder)
    for prompts in ([[1]], [[1], [2], [3]], [[1], [9]], [[1] * 7, [2]]):
        with refuses("prompts", "context"):
            response_logps(model, decoder, prompts, rollout)
        with refuses("prompts", "context"):
            aligned(model, prompts, rollout.tokens)
    with refuses("idx"):
        aligned(model, [[1], [2]], rollout.tokens + 9)
    with refuses("fixed temperature"):
        response_logps(model, decoder, [[1], [2]], replace(rollout, tau_idx=None))
    other = response_logps(model, DECODERS["sequence", (0.7,)], [[1], [2]], rollout)
    with refuses("tau_idx"):  # another decoder than the one that drew
        score(other, "joint")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_with_nan_weights_is_refused(value):
    """Bug: a diverged model that goes on writing its lowest word."""
    for spoilt in ("token_embedding.weight", "norm.bias"):
        model = small_model()
        model.get_parameter(spoilt).data.fill_(value)
        for policy in (dict(temperature=1.0), dict(temperature=0),
                       dict(decoder=AdaptiveDecoder(8))):
            with refuses("logits"):
                generate(model, [[1, 2], [3]], 3, **policy)
    model, decoder = small_model(), AdaptiveDecoder(8)
    decoder.mlp[0].weight.data.fill_(value)
    with refuses("tau_logps"):
        logps = response_logps(model, decoder, [[1]], generate(model, [[1]], 2, decoder=decoder))
        score(logps, "separate")


@cases(100)
@given(st.lists(st.floats(-2.0 ** 99, 2.0 ** 99, width=32), min_size=1, max_size=5),
       st.floats(0, 9.999e29), st.integers(0, 99))
def test_the_sampler_stays_in_the_vocabulary(logits, tau, seed):
    count()
    drawn = sample(torch.tensor([logits]), torch.tensor([tau]), torch.Generator().manual_seed(seed))
    assert 0 <= drawn.item() < len(logits)


# --- tasks.py ------------------------------------------------------------------------------------


@cases(400)
@given(st.text())
@example("")
@example(" ")
@example("  fox  fox ")
@example("fox\x00moon\r\n\t<|end|>")
@example("\u202eright to left\u202c, e\u0301 and \u00e9, \U0001f469\u200d\U0001f680")
@example("\u2028\u3000\ufeff")
@example("\U0010ffff\uffff\ue000")
def test_any_text_survives_the_tokenizer(text):
    """Bugs: a pattern that drops white space; a special token in a text; normalisation."""
    count()
    ids = tasks.encode(text)
    assert tasks.decode(ids) == text
    assert tasks.EOS not in ids and all(0 <= i < tasks.ENCODING.n_vocab for i in ids)
    assert tasks.decode([*ids, tasks.EOS]) == text


def test_long_text_and_half_a_surrogate_pair():
    for text in ("a" * 100_000, "fox " * 50_000, " " * 50_000, "\U0001f600" * 20_000):
        count()
        assert tasks.decode(tasks.encode(text)) == text
    count()
    assert tasks.decode(tasks.encode("x\ud800y")) == "x\ufffdy"  # none to keep


@cases(150)
@given(st.lists(st.integers(-3, tasks.ENCODING.n_vocab + 3), max_size=12))
def test_decode_reads_any_ids_or_names_them(ids):
    """Half a character of a byte sequence becomes U+FFFD."""
    if all(0 <= i < tasks.ENCODING.n_vocab for i in ids):
        count()
        assert isinstance(tasks.decode(ids), str)
    else:
        with refuses("ids"):
            tasks.decode(ids)


WRITTEN = st.lists(st.one_of(st.sampled_from(tasks.WORDS), st.text(max_size=4)), max_size=45)


@cases(150)
@given(WRITTEN.map(" ".join), st.integers(0, 99), st.sampled_from(list(tasks.TASKS)))
def test_every_reward_takes_any_text(text, seed, name):
    """Bugs: a reward that a strange text raises above a perfect one, or that fails on it."""
    count()
    task = tasks.TASKS[name]
    prompt, = tasks.prompts(name, "train", 1, np.random.default_rng(seed))
    for measure in (task.reward, *task.metrics.values()):
        value = measure(prompt, text)
        assert isinstance(value, (int, float)) and -45 <= value <= 1


# --- pairs, and what only hands get wrong --------------------------------------------------------


def test_rewards_that_order_nothing_are_refused():
    """Bugs: a NaN that argsort calls the worst; another pairing's name taken for best-worst."""
    for rewards in ([[1.0, math.nan, 0.0]], [[math.inf, 0.0]], [[0.0, -math.inf]], [["a", "b"]],
                    [[object(), 1.0]], [1.0, 2.0], [[[1.0]]], [[1.0, 2.0], [3.0]], [[1j, 0.0]]):
        with refuses("rewards"):
            train_toy.make_pairs(rewards)
    with refuses("second criterion"):
        train_toy.make_pairs([[1.0, 0.0]], "top-k", [[1.0, 0.0, 2.0]], k=1)
    with refuses("best-wurst"):
        train_toy.make_pairs(np.array([[1.0, 0.0]]), "best-wurst")


def test_wrong_tensors_and_devices_are_named():
    model, meta = small_model(), torch.zeros(1, 2, dtype=torch.long, device="meta")
    with refuses("tokens is torch.int32"):
        aligned(model, [[1]], torch.zeros(1, 2, dtype=torch.int32))
    with refuses("tokens is"):
        temperature_logps(torch.zeros(1, 2, 5), meta, (0.5,))
    with refuses("n_head is True"):
        GPTConfig(5, 8, 1, True, 8)
    for name, wrong in (("eos", 2.0), ("generator", 7)):
        with refuses(name):
            generate(model, [[1]], 2, temperature=1.0, **{name: wrong})
    cache = model.new_cache(1, 4)
    model(torch.ones(1, 4, dtype=torch.long), cache)
    with refuses("up to 0"):  # as many as were asked for
        model(torch.ones(1, 5, dtype=torch.long), cache)


def test_the_sweeps_name_an_unknown_one():
    run = subprocess.run([sys.executable, "-m", "results.sweeps", "--sweeps", "pairs,paris"],
                         cwd=Path(train_toy.__file__).parent, capture_output=True, text=True)
    count()
    assert run.returncode == 1 and run.stderr.count("\n") == 1
    assert run.stderr.startswith("error: --sweeps is pairs,paris; name each once of ")


# --- options.py ----------------------------------------------------------------------------------


FLAGS = ["--" + f.name.replace("_", "-") for f in fields(Config)]
WORDS = st.one_of(st.text(max_size=8), st.integers().map(str), st.floats().map(str),
                  st.sampled_from(("1e400", "10" * 200, "-1", "--", "=", "%s", "0x10", "１", "nan",
                                   "latent,latent", "mix,,vote", "cuda:7", "", "a\nb", "1_000")))


@cases(400)
@given(st.sampled_from(FLAGS), WORDS)
@example("--pretrain-steps", "10" * 200)
def test_any_value_of_any_option_is_taken_or_one_sentence(flag, word):
    count()
    err = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("argparse.ArgumentParser._print_message", lambda self, m, f: err.append(m))
        try:
            assert next(train_toy.jobs(parse([flag, word], "words")))[1] > 0
        except SystemExit as exit:
            assert exit.code == 2
            assert err[0].startswith("error: ") and err[0].count("\n") == 1, err


@cases(200)
@given(st.sampled_from(fields(Config)),
       st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
                 st.tuples(st.sampled_from(("mix", "token", "latent", 0.5, 7)))))
def test_a_configuration_made_by_hand_is_checked_too(field, value):
    """Bug: rounds=2.5, found out after the pretraining."""
    count()
    name = field.name.replace("_", "-")
    try:
        made = checked(replace(Config(device="cpu"), **{field.name: value}))
        assert isinstance(getattr(made, field.name), (field.type, int))
    except (ValueError, TypeError) as error:
        assert name in str(error) or {"n-head": "heads", "n-embd": "heads"}.get(name, name) in str(
            error) or field.name in str(error)


# --- how many ------------------------------------------------------------------------------------


def test_cases_are_many(request, capfd):
    """Last in the file; alone, or after a selection, it says nothing."""
    here = {item.originalname for item in request.session.items if item.path == request.path}
    with capfd.disabled():
        print(f"\n{CASES} bad and odd inputs")
    if here >= {name for name in globals() if name.startswith("test_")}:
        assert CASES >= LEAST
