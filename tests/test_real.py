"""A real language model by transformers' own generate. Sources: the plain core on a tiny GPT-2,
enumeration, loops without a cache. The architectures are in test_real_architectures.py."""
import copy
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

import decoder as plain
from conftest import seeded
from decoder import AdaptiveDecoder, Rollout
from test_lpo import chi_square_p, rough_decoder, rough_model
from toy.samplers import frequency, min_p

transformers = pytest.importorskip("transformers", minversion="5.23")
from real import hf  # noqa: E402

V, END = 11, 7
PROMPTS = [[3, 4, 5, 6, 8, 9, 10], [2], [1, 5, 6]]
SIZE = dict(vocab_size=V, hidden_size=12, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
            eos_token_id=END, bos_token_id=1, pad_token_id=0)
CHOICES = (0.0, 0.7, 1.3, min_p(0.2), frequency(1.0, temperature=0.8))


def rough(module, by=0.3):
    """Weights so rough that positions, windows and choices count."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight) * by)
    return module.eval()


def built(name="LlamaForCausalLM", seed=0, **changes):
    torch.manual_seed(seed)
    kind = getattr(transformers, name)
    return rough(kind(kind.config_class(**SIZE | changes)))


def gpt2(seed=0):
    """The same weights twice, in float64: in transformers' class and in ours."""
    ours = rough_model(V, block_size=64, seed=seed)
    lm = built("GPT2LMHeadModel").double()
    lm.transformer.load_state_dict(ours.hf_state_dict())
    return lm, ours


@pytest.mark.parametrize("level", plain.LEVELS)
def test_scores_are_those_of_the_core(level, monkeypatch):
    """Against decoder.response_logps on the same GPT-2, one row at a time and all at once, with
    references. Bugs: a shift, rows in another order, the reference's own states left out, padding
    on the wrong side, a penalty that counts the prompt or the token itself."""
    (lm, ours), (ref_lm, ref_ours) = gpt2(), gpt2(seed=2)
    decoder, ref_decoder = (rough_decoder(level, CHOICES, seed) for seed in (1, 2))
    rollout = hf.generate(lm, PROMPTS * 4, 12, decoder=decoder, generator=seeded())
    assert not rollout.mask.all() and rollout.cut.any()
    lm.train()  # its dropout may not act
    for references, theirs in (((None, None), None), ((None, ref_decoder), None),
                               ((ref_lm, ref_decoder), ref_ours)):
        want = plain.response_logps(ours, decoder, PROMPTS * 4, rollout, theirs, references[1])
        for at_once in (1, 2 ** 24):
            monkeypatch.setitem(hf.AT_ONCE, "cpu", at_once)
            got = hf.response_logps(lm, decoder, PROMPTS * 4, rollout, *references)
            for name, logps in vars(want).items():
                assert logps is None or torch.allclose(getattr(got, name), logps), name
            trained = theirs is not None  # without a reference the model is frozen
            gradient, = torch.autograd.grad(got.tau_logps.sum(), lm.transformer.ln_f.weight,
                                            allow_unused=True)  # by way of the hidden states
            assert got.text_logps.requires_grad == trained == (gradient is not None)
    with pytest.raises(ValueError, match="generate it with a decoder"):
        hf.response_logps(lm, decoder, PROMPTS * 4, replace(rollout, tau_idx=None))


def test_what_is_scored_at_once_is_bounded(monkeypatch):
    """Bugs: logits of prompts, of all rows at once."""
    lm, seen = built(), []
    lm.lm_head.register_forward_hook(lambda module, args, logits: seen.append(logits.shape))
    tokens = torch.ones(6, 4, dtype=torch.long)
    monkeypatch.setitem(hf.AT_ONCE, "cpu", 2 * (7 + 4) * V)
    hf.scored(lm, CHOICES, PROMPTS * 2, Rollout(tokens, tokens > 0, None, tokens))
    assert set(seen) == {(2, 4, V), (1, 1, V)}  # two texts, and one prompt alone to compare


@pytest.mark.parametrize("select", ("sample", "greedy"))
@pytest.mark.parametrize("level", plain.LEVELS)
def test_two_tokens_have_the_probabilities_of_the_core(level, select):
    """All pairs of tokens enumerated on our GPT-2; 6,000 responses to each of two prompts, one of
    them padded. Bugs: the state of another row or column, choices without effect or of the first
    token again, temperature 0 not the arg-max, counts of the prompt. False alarm: 1e-5 each."""
    lm, ours = gpt2()
    decoder = rough_decoder(level, CHOICES, seed=4)
    rollout = hf.generate(lm, PROMPTS[:2] * 6000, 2, decoder=decoder, tau_select=select, eos=(),
                          generator=seeded(1))
    pairs = torch.cartesian_prod(torch.arange(V), torch.arange(V))
    every = Rollout(pairs, pairs >= 0, None, torch.zeros_like(pairs)[:, :rollout.tau_idx.shape[1]])
    for number in (0, 1):
        with torch.no_grad():
            r = plain.response_logps(ours, decoder, [PROMPTS[number]] * V * V, every)
        tau_logps, text_logps = r.tau_logps, r.text_logps
        if select == "greedy":
            tau_logps = torch.nn.functional.one_hot(tau_logps.argmax(-1), len(CHOICES)).log()
        if level == "sequence":
            text_logps = text_logps.sum(1, keepdim=True)
        probabilities = (text_logps + tau_logps).exp().sum(-1).prod(1)
        counts = torch.bincount(rollout.tokens[number::2] @ torch.tensor([V, 1]), minlength=V * V)
        assert chi_square_p(counts, probabilities) > 1e-5


@pytest.mark.parametrize("temperature", (
    0.0, 1.0, min_p(0.3), [[0.0, 1.5] * 3, [1.5] * 6, [0.4] * 6] * 600,
    lambda tokens: [0.0, frequency(9.0), 2.0 if tokens.shape[1] else 0.0] * 600))
def test_whatever_the_core_takes_as_a_temperature(temperature):
    """Shares of each token in each column, of 600 responses to each prompt, against the core's.
    Half the differences have a standard error of 0.03 or less; false alarm 1e-4."""
    lm, ours = gpt2()
    by = [generate(model, PROMPTS * 600, 6, temperature=temperature, eos=END).tokens
          for generate, model in ((hf.generate, lm), (plain.generate, ours))]
    shares = [torch.nn.functional.one_hot(tokens.view(600, 3, 6), V).double().mean(0)
              for tokens in by]
    assert (shares[0] - shares[1]).abs().max() < 0.16


@pytest.mark.parametrize("level", plain.LEVELS)
@pytest.mark.parametrize("eos, same", ((None, END), ((), None), ([2, 5], [2, 5]), (0, 0),
                                       (range(V), list(range(V)))))
def test_without_chance_the_text_is_that_of_the_core(level, eos, same):
    """Tokens, choices and ends. None: the model's own end; (): none. Bugs: tokens after the end
    counted, eos 0 or only one of several, a text too short where all end early."""
    lm, ours = gpt2()
    prompts = [*PROMPTS, *([i, j] for i in range(V) for j in range(V))]
    decoder = rough_decoder(level, (0.0, frequency(3.0, temperature=0.0)))
    got, want = (generate(model, prompts, 15, decoder=decoder, tau_select="greedy", eos=end)
                 for generate, model, end in ((hf.generate, lm, eos), (plain.generate, ours, same)))
    assert 0 < want.tau_idx.double().mean() < 1
    for name, x in vars(want).items():
        assert torch.equal(getattr(got, name), x), name


def test_processors_act_before_the_choice_and_warpers_not_at_all():
    """Bugs: a forbidden word by temperature 0, a warper of the model's own configuration."""
    lm, _ = gpt2()
    first = hf.generate(lm, PROMPTS, 1, temperature=0.0).tokens[:, 0].tolist()
    rollout = hf.generate(lm, PROMPTS * 50, 8, decoder=rough_decoder(choices=CHOICES),
                          min_new_tokens=5, bad_words_ids=[[token] for token in first])
    assert (rollout.mask.sum(1) >= 5).all() and not torch.isin(
        rollout.tokens[rollout.mask], torch.tensor(first)).any()
    lm.generation_config.update(do_sample=True, top_k=1, temperature=0.01)
    for _ in range(2):
        tokens = hf.generate(lm, PROMPTS * 50, 1, temperature=3.0).tokens
        assert len(tokens.unique()) > 3
        inputs = torch.tensor([PROMPTS[0]] * 99)
        texts = lm.generate(inputs, custom_generate=hf.Adaptive(rough_decoder(choices=(3.0, 4.0))),
                            max_new_tokens=1)
        assert len(texts[:, -1].unique()) > 3


CACHES = dict(dynamic={}, none=dict(use_cache=False, return_dict_in_generate=True),
              static=dict(cache_implementation="static"),
              compiled=dict(cache_implementation="static",
                            compile_config=transformers.CompileConfig(backend="eager", mode=None)))
CACHES["compiled"]["compile_config"]._compile_all_devices = True
no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("device", ("cpu", pytest.param("cuda", marks=no_cuda)))
def test_every_cache_gives_the_same_text(device):
    """Token for token with the same noise, with a model that was compiled before; on a GPU "static"
    is recorded, too. So does the library's own generate, first, with its other returns. Bugs: no
    hook in that call, compiled code without the hook, or with that of an earlier call."""
    lm, decoder = built().to(device), rough_decoder(choices=CHOICES).to(device)
    lm.generate(torch.tensor(PROMPTS[:1] * 3, device=device), max_new_tokens=12,
                **CACHES["compiled"])

    def noise():
        return torch.Generator(device).manual_seed(3)
    adaptive = hf.Adaptive(decoder, generator=noise())
    idx, pad = plain.padded(lm, PROMPTS, 12, left=True)
    mask = torch.arange(7, device=device) >= pad[:, None]
    out = lm.generate(idx, attention_mask=mask.long(), max_new_tokens=12, custom_generate=adaptive,
                      eos_token_id=None, return_dict_in_generate=True, output_logits=True)
    assert torch.isfinite(out.logits[0]).all()
    rollouts = [hf.generate(model, PROMPTS, 12, decoder=decoder, eos=(), generator=noise(),
                            **options)
                for model, options in [*((lm, options) for options in CACHES.values()),
                                       (copy.deepcopy(lm), {})]]
    for rollout in rollouts:
        assert torch.equal(rollout.tokens, out.sequences[:, 7:])
        assert torch.equal(rollout.tau_idx, adaptive.tau_idx)


def test_a_recorded_pass_writes_in_the_same_memory():
    """As CUDA graphs do. Bug: states compared after they were overwritten."""
    lm, memory = built(), {}
    lm.lm_head.register_forward_pre_hook(
        lambda _, args: memory.setdefault(args[0].shape, args[0].clone()).copy_(args[0]))
    hf.generate(lm, PROMPTS, 12, decoder=rough_decoder(choices=CHOICES), eos=())


def test_new_words_have_logits():
    """Bug: a copy of the output embedding, or its hook, as it was before it was exchanged."""
    lm = built()
    hf.generate(lm, PROMPTS, 2, temperature=1.0)
    lm.resize_token_embeddings(V + 3)
    lm.lm_head.weight.data[-1] = 50 * lm.lm_head.weight[:V].mean(0).sign()
    rollout = hf.generate(lm, PROMPTS * 20, 3, decoder=rough_decoder(choices=CHOICES))
    assert (rollout.tokens >= V).any()
    hf.response_logps(lm, rough_decoder(choices=CHOICES), PROMPTS * 20, rollout)


def test_half_precision_with_large_biases():
    """The library's own greedy text in float16, where an attention of one's own overflows."""
    lm = built("Qwen2ForCausalLM")
    for name, weight in lm.named_parameters():
        if name.endswith(("q_proj.bias", "k_proj.bias")):
            weight.data.fill_(150.0)
    lm, idx = lm.half(), torch.tensor([[3, 4, 5, 6]])
    theirs = lm.generate(idx, max_new_tokens=6, do_sample=False, eos_token_id=None)
    rollout = hf.generate(lm, idx.tolist(), 6, decoder=AdaptiveDecoder(12, (0.0, 1e-9)), eos=())
    assert rollout.tokens.tolist() == theirs[:, 4:].tolist()
    logps = hf.response_logps(lm, rough_decoder(choices=CHOICES), idx.tolist(), rollout)
    assert logps.text_logps.dtype == torch.float32


def test_rotations_that_depend_on_the_length():
    """Longrope (Phi-3) from 16 tokens on: a row may change its neighbours, and a text its own
    beginning. Refused where that happens, in sampling and in scoring; right elsewhere."""
    rope = dict(rope_type="longrope", rope_theta=1e4, original_max_position_embeddings=16,
                partial_rotary_factor=1.0, short_factor=[1.0] * 3, long_factor=[4.0] * 3)
    lm = built("Phi3ForCausalLM", original_max_position_embeddings=16, rope_parameters=rope)
    for prompts in (PROMPTS, [[3] * 20, [4] * 30]):  # all shorter, or all longer
        hf.generate(lm, prompts, 8, temperature=1.0, eos=())
    for prompts in ([[3, 4], [9] * 30], [PROMPTS[0] + PROMPTS[2]]):
        tokens = torch.ones(len(prompts), 12, dtype=torch.long)
        rollout = Rollout(tokens, tokens > 0, None, tokens)
        for call in (lambda: hf.generate(lm, prompts, 12, temperature=1.0, eos=()),
                     lambda: hf.scored(lm, CHOICES, prompts, rollout)):
            with pytest.raises(ValueError, match="Phi3ForCausalLM has other hidden states"):
                call()


def with_nan(module):
    [*module.parameters()][-1].data[-1] = torch.nan
    return module


REFUSED = {  # a model, options, and what the sentence says
    "compiled": (lambda: torch.compile(built(), backend="eager"), {}, "OptimizedModule"),
    "parallel": (lambda: torch.nn.DataParallel(built()), {}, "DataParallel"),
    "a toy": (lambda: gpt2()[1], {}, "GPT is no causal model"),
    "an encoder": (lambda: built("T5ForConditionalGeneration"), {},
                   "T5ForConditionalGeneration is no causal model"),
    "a bidirectional one": (lambda: built("BertLMHeadModel"), {},
                            "BertLMHeadModel has other hidden states"),
    "beams": (built, dict(num_beams=2), "neither with beams"),
    "guidance": (built, dict(guidance_scale=2.0), "nor with guidance"),
    "candidates": (built, dict(prompt_lookup_num_tokens=2), "neither with beams"),
    "several": (built, dict(num_return_sequences=2), "one response per prompt"),
    "a stream": (built, dict(streamer=None), "one response per prompt"),
    "a time limit": (built, dict(max_time=9.0), "one response per prompt"),
    "a wrong end": (built, dict(eos=V), f"ids below {V}"),
    "a wrong id": (built, dict(prompts=[[V]]), f"ids below {V}"),
    "a long prompt": (built, dict(prompts=[[1] * 61]), "at most 64 tokens"),
    "NaN": (lambda: with_nan(built()), {}, "NaN"),
    "NaN in the decoder": (built, dict(temperature=None, decoder=with_nan(rough_decoder())), "NaN"),
    "no word": (built, dict(bad_words_ids=[[i] for i in range(V)], eos=()), "no possible"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_served_is_refused(name):
    make, options, sentence = REFUSED[name]
    options = dict(prompts=PROMPTS, max_new_tokens=4, temperature=1.0) | options
    with pytest.raises(ValueError, match=sentence):
        hf.generate(make(), **options)


@pytest.mark.parametrize("dtype, wrong, fits", [("float32", [3], False), ("bfloat16", [3], True),
                                                ("bfloat16", range(8), False)])
def test_an_unstable_column_is_no_wrong_cache(dtype, wrong, fits):
    """In half precision the states of some tokens are all rounding; a wrong cache spoils most."""
    lm = built().to(getattr(torch, dtype))
    text, columns = torch.arange(12) % V, [2, *range(5, 12)]
    seen = hf.read(lm, text[None], torch.tensor([columns]))[1][0]
    seen[list(wrong)] *= 2
    refused = pytest.raises(ValueError, match="LlamaForCausalLM has other hidden states")
    with nullcontext() if fits else refused:
        hf.compare(lm, text, columns, seen)
