"""The decoder and generation: models, types, modes and requests of every kind."""
import copy
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fast.generate
from conftest import seeded
from decoder import (AdaptiveDecoder, aligned, choice_logps, counts_of, generate, response_logps,
                     sample, temperature_logps)
from lpo import SCORES, ResponseLogps, lpo_loss
from test_lpo import END, PROMPTS, WITH_MEMORY, rough_decoder, rough_model
from toy.samplers import frequency, min_p, top_p


def assert_same(ours, theirs):
    """Two rollouts, field by field."""
    for name, x in vars(ours).items():
        other = getattr(theirs, name)
        assert x is other is None or torch.equal(x, other), name


class Foreign(torch.nn.Module):
    """Any module that returns (logits, hidden): no cache, no config."""

    def __init__(self, model):
        super().__init__()
        self.inner = model
        self.widths = []

    def forward(self, idx):
        self.widths.append(tuple(idx.shape))
        return self.inner(idx)


class Counting(torch.nn.Module):
    """After token i comes i + 1, by far the likeliest; very hot, any of V. It has no weight. The
    hidden state of id i is (1, i)."""

    def __init__(self, V=50):
        super().__init__()
        self.V = V

    def forward(self, idx):
        logits = 20.0 * torch.nn.functional.one_hot((idx + 1) % self.V, self.V)
        return logits, torch.stack([torch.ones(idx.shape), idx.float()], -1)


# --- the decoder ----------------------------------------------------------------------------------


def test_three_layers_written_out():
    """Bugs: another width or activation, a last layer that does not start at zero."""
    decoder = AdaptiveDecoder(6, (0.0, 0.7), n_hidden=4)
    shapes = [tuple(weight.shape) for weight in decoder.parameters()]
    assert shapes == [(4, 6), (4,), (4, 4), (4,), (2, 4), (2,)]
    assert [len(p) for p in AdaptiveDecoder(6).parameters()] == [6] * 4 + [6] * 2
    assert decoder(torch.randn(5, 6)).exp().tolist() == [[0.5, 0.5]] * 5
    torch.nn.init.normal_(decoder.mlp[-1].weight)
    w1, b1, w2, b2, w3, b3 = decoder.parameters()
    x = torch.randn(3, 6)

    def silu(x):
        return x / (1 + (-x).exp())
    p = (silu(silu(x @ w1.T + b1) @ w2.T + b2) @ w3.T + b3).exp()
    assert torch.allclose(decoder(x).exp(), p / p.sum(-1, keepdim=True), atol=1e-6)


def test_the_usual_choices_are_the_papers():
    decoder = AdaptiveDecoder(3)
    assert decoder.choices == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) and decoder.level == "token"


@pytest.mark.parametrize("other", [
    dict(choices=(0.0, 0.5, 1.1)), dict(choices=(0.5, 0.0, 1.0)), dict(level="sequence"),
    dict(choices=(0.0, 0.5, min_p(0.1))), dict(choices=(0.0, 0.5, frequency(1.0)))])
def test_weights_of_other_choices_or_another_level_are_refused(other, tmp_path):
    """They have the same shapes. Saved by torch and in safetensors, which take no dict."""
    def made(**changes):
        return AdaptiveDecoder(4, **dict(choices=(0.0, 0.5, 1.0), level="token") | changes)
    weights = made()
    save_file(weights.state_dict(), tmp_path / "decoder.safetensors")
    torch.save(weights.state_dict(), tmp_path / "decoder.pt")
    for saved in (load_file(tmp_path / "decoder.safetensors"),
                  torch.load(tmp_path / "decoder.pt", weights_only=True)):
        again = made()
        again.load_state_dict(saved)
        assert torch.equal(again.mlp[0].weight, weights.mlp[0].weight)
        with pytest.raises(ValueError, match="these weights are of .*'0.5', '1', 'token'"):
            made(**other).load_state_dict(saved)


@pytest.mark.parametrize("options, words", [
    (dict(choices=(0.5, 0.5)), "choices share a name"),
    (dict(choices=(0.0, -0.0)), "choices share a name"),
    (dict(choices=(top_p(0.9), top_p(0.9))), "choices share a name"),
    (dict(level="word"), "unknown level 'word'; choose from"),
    (dict(choices=("warm",)), "could not convert"), (dict(choices=()), "choices are")])
def test_decoders_that_cannot_be_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        AdaptiveDecoder(4, **options)


def test_a_name_loses_no_digit():
    assert AdaptiveDecoder(4, [0, 0.1 + 0.2, 1e-7, top_p(0.9)]).names == (
        "0", "0.30000000000000004", "1e-07", "top_p=0.9")


# --- what is sampled ------------------------------------------------------------------------------


POLICIES = {
    "temperature": dict(temperature=0.7), "temperature 0": dict(temperature=0.0),
    "per column": dict(temperature=torch.linspace(0, 2, 9)),
    "per token": dict(temperature=torch.arange(144.0).view(16, 9) % 7 / 3),
    "of the text": dict(temperature=lambda tokens: [0.1 * n % 1.5 for n in tokens.sum(1).tolist()]),
    "setting": dict(temperature=top_p(0.6, 2.0)), "penalty": dict(temperature=frequency(2.0)),
    **{f"{level}, {select}": dict(decoder=rough_decoder(level), tau_select=select)
       for level in ("token", "sequence") for select in ("sample", "greedy")},
    **{f"{level}, with memory": dict(decoder=rough_decoder(level, WITH_MEMORY))
       for level in ("token", "sequence")}}


@pytest.mark.parametrize("name", POLICIES)
def test_with_and_without_a_cache_the_text_is_the_same(name):
    """With the same noise, for unequal prompts and rows that end. Bugs: cache positions off by one
    for shorter prompts; a table one column off; padding that is seen; the cache's rows mixed up."""
    model, prompts = rough_model(block_size=64, seed=6), PROMPTS * 4
    cached, foreign = (generate(m, prompts, 9, eos=END, generator=seeded(1), **POLICIES[name])
                       for m in (model, Foreign(model)))
    assert_same(cached, foreign)
    assert len(set(cached.mask.sum(1).tolist())) > 1


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("choices", [(0.0,), (0.0, frequency(2.0, temperature=0.0))],
                         ids=["temperature 0", "with memory"])
@pytest.mark.parametrize("kind", [lambda model: model, Foreign], ids=["cache", "no cache"])
def test_a_row_is_what_it_is_alone(kind, choices, level):
    """Nothing here is random. Rows end and are dropped on the way. Bugs: rows dropped while their
    choices, counts, tokens or cache stay; a row that sees another."""
    model, decoder = kind(rough_model(block_size=64, seed=3)), rough_decoder(level, choices)
    prompts = [[i, j, i][:2 + i % 2] for i in range(10) for j in (1, 7)]
    together = generate(model, prompts, 30, decoder=decoder, tau_select="greedy", eos=END)
    assert len(together.mask.sum(1).unique()) > 3
    for b, prompt in enumerate(prompts):
        alone = generate(model, [prompt], 30, decoder=decoder, tau_select="greedy", eos=END)
        assert_same(alone, together[[b]])


def test_a_table_of_temperatures_is_applied_cell_by_cell():
    """With unequal prompts: at 0 the next number, at 1e9 any (odds 1/50 per cell). Bugs: a table
    that is one column off; the row of a neighbour, or of one that has ended and is dropped."""
    prompts, hot = [[3], [7, 8, 9, 10], [1, 20]], 1e9
    table = torch.tensor([[0, hot, 0, 0], [hot, 0, 0, hot], [0, 0, hot, 0]])
    follows = torch.zeros(3, 4)
    for seed in range(20):
        tokens = generate(Counting(), prompts, 4, temperature=table, generator=seeded(seed)).tokens
        before = torch.cat([torch.tensor([[3], [10], [20]]), tokens[:, :-1]], 1)
        follows += tokens == (before + 1) % 50
    assert (follows[table == 0] == 20).all() and (follows[table > 0] <= 5).all()
    table = torch.tensor([[0, hot, hot, hot], [0, 0, 0, 0]])
    tokens = generate(Counting(), [[48], [30]], 4, temperature=table, eos=49).tokens
    assert tokens.tolist() == [[49, 0, 0, 0], [31, 32, 33, 34]]


def test_the_sequence_level_keeps_its_choice_to_the_end():
    """A decoder that takes 0 after an even id and 1e9 after an odd one; rows end on the way."""
    decoder = AdaptiveDecoder(2, (0.0, 1e9), "sequence")
    even, odd = torch.tensor([50.0, -50.0]), torch.tensor([-50.0, 50.0])
    decoder.forward = lambda hidden: torch.where(hidden[..., 1:] % 2 == 0, even, odd)
    starts = range(9, 1, -1)  # the first end first
    rollout = generate(Counting(), [[i] for i in starts], 45, decoder=decoder, eos=[44, 45],
                       generator=seeded())
    assert rollout.tau_idx.tolist() == [[1], [0]] * 4
    for start, row, keep in list(zip(starts, rollout.tokens, rollout.mask))[1::2]:
        assert row[keep].tolist() == list(range(start + 1, 45))


def test_ids_that_end_a_response():
    """0, NumPy integers, several, none. Bugs: `if eos`, which takes 0 for none; a response that
    ends in the last column taken for one that is cut."""
    prompts = [[47], [30]]
    zero = generate(Counting(), prompts, 5, temperature=0, eos=0)
    assert zero.tokens.tolist() == [[48, 49, 0, 0, 0], [31, 32, 33, 34, 35]]
    assert zero.mask.sum(1).tolist() == [3, 5] and zero.cut.tolist() == [False, True]
    assert generate(Counting(), prompts, 3, temperature=0, eos=0).cut.tolist() == [False, True]
    for ends in ([49, 33], (np.int64(49), 33), np.array([33, 49])):
        several = generate(Counting(), prompts, 5, temperature=0, eos=ends)
        assert several.tokens[several.mask].tolist() == [48, 49, 31, 32, 33]
        assert not several.cut.any()
    for ends in (None, []):
        assert generate(Counting(), prompts, 5, temperature=0, eos=ends).mask.all()


def test_a_model_reads_what_was_written_and_no_more():
    """The samples of a prompt share its first pass. Bugs: each sample's pass computed anew; a free
    column read too; [4] and [4, 0], alike once padded, taken for one."""
    model = rough_model()
    prompts, foreign = [[5, 6, 7], [4], [5, 6, 7], [4, 0], [4]], Foreign(model)
    generate(foreign, prompts, 4, temperature=1.0)
    assert foreign.widths == [(3, 3), (5, 4), (5, 5), (5, 6)]
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    generate(model, prompts, 4, temperature=1.0)
    assert seen == [(3, 3), (5, 1), (5, 1), (5, 1)]


def test_rows_that_have_ended_are_computed_no_longer():
    """One ends after two tokens, the other after three. Bug: passes up to `max_new_tokens`."""
    foreign = Foreign(Counting())
    generate(foreign, [[47], [30]], 9, temperature=0, eos=[49, 33])
    assert foreign.widths == [(2, 1), (2, 2), (1, 3)]


def test_counts_are_of_the_response_and_exclude_the_token():
    counts = counts_of(torch.tensor([[2, 2, 0], [1, 1, 1]]), 4)
    assert counts.tolist() == [[1, 0, 2, 0], [0, 3, 0, 0]]
    assert counts_of(torch.zeros(2, 0, dtype=torch.long), 3).tolist() == [[0] * 3] * 2
    seen = []

    def looking(logits, counts):
        assert counts.shape == logits.shape
        seen.append(counts.view(2, 50).tolist())
        return logits.log_softmax(-1)
    looking.name, looking.memory = "looking", True
    rollout = generate(Counting(), [[7, 7, 7], [1]], 3, temperature=looking, generator=seeded())
    tokens = rollout.tokens.tolist()
    assert seen == [[[row[:t].count(v) for v in range(50)] for row in tokens] for t in range(3)]
    generated, seen[:] = list(seen), []
    temperature_logps(torch.zeros(2, 3, 50), rollout.tokens, (looking,))
    assert seen == generated


def test_rare_tokens_are_together_as_frequent_as_they_should_be():
    """0.4 % of the probability is spread over 262,143 tokens, each e^-18 times the first. Bug:
    noise of float32, which ends before such a token can win."""
    V = 262_144
    logits = torch.full((1, V), -18.0)
    logits[0, 0] = 0.0
    first = 1 / (1 + (V - 1) * math.exp(-18))
    with pytest.MonkeyPatch.context() as patch:
        for u in (first - 1e-5, first + 1e-5, 1 - 1e-4):
            patch.setattr(torch, "rand", lambda *_, dtype, **__: torch.tensor([[u]], dtype=dtype))
            expected = 0 if u < first else 1 + (u - first) / (1 - first) * (V - 1)
            index = sample(logits.log_softmax(-1)).item()
            assert abs(index - expected) <= 1e-5 / (1 - first) * V * (u > first)
        u = 1 - 2 ** -53
        assert fast.generate.minus_gumbel((1, 1), "cpu").item() == pytest.approx(-53 * math.log(2))


# --- kinds of models, types and modes -------------------------------------------------------------


class Dropping(torch.nn.Module):
    """A model with dropout, in train() mode; its inner one in eval() mode."""

    def __init__(self):
        super().__init__()
        self.inner = rough_model()
        self.dropout = torch.nn.Dropout(0.5)
        self.train()
        self.inner.eval()

    def forward(self, idx):
        logits, hidden = self.inner(idx)
        return self.dropout(logits), self.dropout(hidden)


def test_a_model_in_train_mode_is_used_without_dropout_and_left_as_it_was():
    """Bug: with dropout, policy and reference of equal weights differ by noise."""
    model, decoder = Dropping(), rough_decoder()
    rollout = generate(model, PROMPTS, 6, decoder=decoder, generator=seeded())
    r = response_logps(model, decoder, PROMPTS, rollout, copy.deepcopy(model), decoder)
    assert model.training and model.dropout.training and not model.inner.training
    assert torch.equal(r.text_logps, r.ref_text_logps)
    assert torch.equal(r.tau_logps, r.ref_tau_logps)
    assert_same(rollout, generate(model.eval(), PROMPTS, 6, decoder=decoder, generator=seeded()))


def test_what_was_generated_in_inference_mode_can_be_trained_on():
    model, decoder = rough_model(), rough_decoder()
    with torch.inference_mode():
        rollout = generate(model, PROMPTS, 6, decoder=decoder)
    r = response_logps(model, decoder, PROMPTS, rollout)
    lpo_loss(r, r, "joint", 0.5).sum().backward()
    assert all(weight.grad is not None for weight in decoder.parameters())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_for_the_model_only(dtype, level, autocast):
    """Bugs: hidden states of another type than the decoder's weights; noise or sums in half
    precision; a cache of another type under autocast."""
    if autocast and dtype == torch.float16:
        pytest.skip("on a CPU autocast means bfloat16")
    model, decoder = rough_model(dtype=dtype), rough_decoder(level, WITH_MEMORY).float()
    types, rand = set(), torch.rand
    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", enabled=autocast):
        patch.setattr(torch, "rand", lambda *shape, **options: types.add(options["dtype"])
                      or rand(*shape, **options))
        rollout = generate(model, PROMPTS, 6, decoder=decoder, generator=seeded())
        r = response_logps(model, decoder, PROMPTS, rollout)
        loss = lpo_loss(r, r, "latent", 0.5)
    loss.sum().backward()
    assert types == {torch.float64}
    assert r.tau_logps.dtype == r.text_logps.dtype == loss.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_of_half_precision_are_made_in_float32(dtype):
    """510 terms of -3.015625, exact in both types; their sum is not, whose steps are 1 or 8."""
    logps = torch.full((1, 510, 1), -3.015625, dtype=dtype)
    r = ResponseLogps(logps, torch.zeros(1, 510).long(), torch.ones(1, 510).bool())
    assert SCORES["separate"](r).item() == -3.015625 * 510
    logits = torch.tensor([[[0.0, 1.0]]], dtype=dtype)
    logps = temperature_logps(logits, torch.tensor([[0]]), (1.0, 0.5)).flatten().tolist()
    assert logps == pytest.approx([-math.log(1 + math.e), -math.log(1 + math.e ** 2)], abs=1e-6)


@pytest.mark.parametrize("default", [torch.float16, torch.bfloat16])
def test_the_default_dtype_changes_nothing(default):
    """Bugs: 1e5 is infinite in float16; 301 is no number of bfloat16, so counts would be wrong."""
    class Flat(torch.nn.Module):
        def forward(self, idx):
            return torch.zeros(*idx.shape, 64).float(), torch.zeros(*idx.shape, 8).float()
    torch.set_default_dtype(default)
    try:
        for temperature in (1e5, [1e5], lambda tokens: [1e5] * len(tokens)):
            tokens = generate(Flat(), [[3]] * 512, 1, temperature=temperature).tokens
            assert len(tokens.unique()) > 32
        assert counts_of(torch.zeros(1, 301, dtype=torch.long), 2).tolist() == [[301, 0]]
        logps = choice_logps(torch.tensor([[0.0, 1.0]]).float(), 0.2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert logps.exp()[0, 1].item() == pytest.approx(1 / (1 + math.exp(-5)), abs=1e-7)


# --- what is refused ------------------------------------------------------------------------------


class Failing(torch.nn.Module):
    """Uniform over 11 tokens, until a text has more than `n` tokens; then `value`, for row 0."""

    def __init__(self, value, n):
        super().__init__()
        self.value, self.n = value, n

    def forward(self, idx):
        logits = torch.zeros(*idx.shape, 11)
        if idx.shape[1] > self.n:
            logits[0, -1, 5 if self.value != -math.inf else slice(None)] = self.value
        return logits, torch.ones(*idx.shape, 12).double()


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_from_which_nothing_can_be_sampled_are_refused_at_any_column(value, n):
    """Bug: NaN sorts above all, so its arg-max is the first bad id, and garbage is trained on."""
    for policy in (dict(temperature=1.0), dict(temperature=0), dict(temperature=min_p(0.1)),
                   dict(temperature=frequency(1.0)), dict(decoder=rough_decoder()),
                   dict(decoder=rough_decoder("sequence"), tau_select="greedy")):
        with pytest.raises(ValueError, match="nothing to sample from: the model or a choice gives"):
            generate(Failing(value, n), [[3, 4], [1, 2]], 6, **policy)
    generate(Failing(value, 99), [[3, 4], [1, 2]], 6, temperature=1.0)


REQUEST = dict(prompts=PROMPTS, max_new_tokens=3, decoder=rough_decoder())


@pytest.mark.parametrize("changes, words", [
    (dict(decoder=None), "give either a decoder or a temperature"),
    (dict(temperature=0.5), "give either a decoder or a temperature"),
    (dict(tau_select="best"), "tau_select is 'best'; give sample or greedy"),
    (dict(max_new_tokens=0), "max_new_tokens is 0; give 1 or more"),
    (dict(max_new_tokens=12), "a prompt of 5 tokens and 12 new ones exceed the model's context of"),
    (dict(prompts=[]), "give prompts of at least one token each"),
    (dict(prompts=[[1], []]), "give prompts of at least one token each"),
    (dict(prompts=[[1], [11]]), "idx has ids outside 0 to 10"),
    (dict(prompts=[[-1]]), "idx has ids outside 0 to 10"),
    (dict(eos=50256), r"eos is \[50256\]; give ids below 11"),
    (dict(eos=[3, -1]), r"eos is \[3, -1\]; give ids below 11"),
    (dict(decoder=None, temperature=-0.5), "choices are"),
    (dict(decoder=None, temperature=math.nan), "choices are"),
    (dict(decoder=None, temperature=1e31), "choices are"),
    (dict(decoder=None, temperature=[0.5, 0.5]), r"temperature is \(2,\); give \(4, 3\)"),
    (dict(decoder=None, temperature=torch.ones(2, 3)), r"temperature is \(2, 3\); give \(4, 3\)"),
    (dict(decoder=None, temperature=torch.ones(1, 4, 3)), "temperature is"),
    (dict(decoder=None, temperature=lambda tokens: [0.5, -1.0] * 2), "choices are")])
def test_requests_that_do_not_fit_are_refused(changes, words):
    """Bug: a check that never fails, so that the text goes on with something else."""
    for write in (generate, fast.generate.generate):
        with pytest.raises(ValueError, match=f"^{words}"):
            write(rough_model(), **REQUEST | changes)


def test_a_model_that_returns_something_else_is_refused_in_a_sentence():
    """A model of transformers returns a dict of outputs, whose names could be unpacked."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=61, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    for call in (lambda lm: generate(lm, [[3, 4]], 4, temperature=1.0),
                 lambda lm: aligned(lm, [[3, 4]], torch.tensor([[1]]))):
        with pytest.raises(ValueError, match=r"must return \(logits, hidden\)"):
            call(transformers.GPT2LMHeadModel(config))


def test_scores_that_cannot_be_given_are_refused():
    model, decoder = rough_model(), rough_decoder()
    rollout = generate(model, PROMPTS, 4, temperature=1.0)
    with pytest.raises(ValueError, match="no choices; generate it with a decoder"):
        response_logps(model, decoder, PROMPTS, rollout)
    rollout = generate(model, PROMPTS, 4, decoder=decoder)
    with pytest.raises(ValueError, match="tau_idx"):  # of another decoder
        response_logps(model, rough_decoder("sequence"), PROMPTS, rollout)
    decoder.mlp[0].weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="tau_logps has NaN"):
        response_logps(model, decoder, PROMPTS, rollout)
    for select in ("sample", "greedy"):
        with pytest.raises(ValueError, match="the decoder gives NaN"):
            generate(model, PROMPTS, 4, decoder=decoder, tau_select=select)


def test_compiled_generation_needs_a_gpu_and_temperatures():
    for policy in (dict(temperature=1.0), dict(temperature=lambda tokens: [1.0] * 4)):
        with pytest.raises(ValueError, match="compiled=True needs a model.GPT and"):
            fast.generate.generate(rough_model(), PROMPTS, 4, compiled=True,
                                   generator=torch.Generator(), **policy)
