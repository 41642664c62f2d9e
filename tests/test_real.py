"""A real language model by transformers' own generate. Sources: the plain core on a tiny GPT-2,
enumeration, loops without a cache. The architectures are in test_real_architectures.py."""
import copy

import pytest
import torch

import decoder as plain
from decoder import AdaptiveDecoder, Rollout
from model import GPT, GPTConfig
from toy.samplers import frequency, min_p

transformers = pytest.importorskip("transformers", minversion="5.23")
from real import hf  # noqa: E402

V, END = 11, 7
PROMPTS = [[3, 4, 5, 6, 8, 9, 10], [2], [1, 5, 6]]
SIZE = dict(vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
            eos_token_id=END, bos_token_id=1, pad_token_id=0)
CHOICES = (0.0, 0.7, 1.3, min_p(0.2), frequency(1.0, temperature=0.8))


def rough(module, by=0.3):
    """Weights so rough that positions, windows and choices count."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight) * by)
    return module.eval()


def llama(**changes):
    torch.manual_seed(0)
    return rough(transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZE | changes)))


def gpt2():
    """The same weights twice: in transformers' class and in ours."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=V, n_embd=16, n_layer=2, n_head=4, n_positions=64,
                                     eos_token_id=END, bos_token_id=1)
    lm = rough(transformers.GPT2LMHeadModel(config))
    ours = GPT(GPTConfig(vocab_size=V, block_size=64, n_layer=2, n_head=4, n_embd=16))
    return lm, ours.load_hf_state_dict(lm.state_dict())


def rough_decoder(level="token", choices=CHOICES):
    torch.manual_seed(4)  # all choices are likely
    return rough(AdaptiveDecoder(16, choices, level))


def noise(seed, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def p_value(counts, probabilities):
    """Of a chi-square test; what has probability 0 must not occur."""
    possible = probabilities > 1e-12
    assert not counts[~possible].any()
    expected = probabilities[possible] * counts.sum()
    statistic = ((counts[possible] - expected) ** 2 / expected).sum()
    df = float(possible.sum() - 1)
    return float(torch.special.gammaincc(torch.tensor(df / 2), statistic / 2)) if df else 1.0


@pytest.mark.parametrize("level", plain.LEVELS)
def test_scores_are_those_of_the_core(level, monkeypatch):
    """Against decoder.response_logps on the same GPT-2, one row at a time and all at once, with
    references. Bugs: a shift, rows in another order, the reference's own states left out, padding
    on the wrong side, a penalty that counts the prompt or the token itself."""
    lm, ours = gpt2()
    ref_lm, ref_ours = gpt2()
    for weights in zip(ref_lm.state_dict().values(), lm.state_dict().values()):
        weights[0].copy_(0.9 * weights[1])
    ref_ours.load_hf_state_dict(ref_lm.state_dict())
    decoder, ref_decoder = rough_decoder(level), rough(AdaptiveDecoder(16, CHOICES, level))
    rollout = hf.generate(lm, PROMPTS * 4, 12, decoder=decoder, generator=noise(0))
    assert not rollout.mask.all() and rollout.cut.any()
    for references in ((None, None), (None, ref_decoder), (ref_lm, ref_decoder)):
        theirs = ref_ours if references[0] is not None else None
        want = plain.response_logps(ours, decoder, PROMPTS * 4, rollout, theirs, references[1])
        for at_once in (1, 2 ** 24):
            monkeypatch.setitem(hf.AT_ONCE, "cpu", at_once)
            got = hf.response_logps(lm, decoder, PROMPTS * 4, rollout, *references)
            for name, logps in vars(want).items():
                assert logps is None or torch.allclose(getattr(got, name), logps, atol=1e-4), name
            trained = references[0] is not None  # without a reference the model is frozen
            assert got.text_logps.requires_grad == trained and got.tau_logps.requires_grad


def test_what_is_scored_at_once_is_bounded(monkeypatch):
    """Bugs: logits of prompts, of all rows at once."""
    lm, seen = llama(), []
    lm.lm_head.register_forward_hook(lambda module, args, logits: seen.append(logits.shape))
    rollout = Rollout(torch.ones(6, 4, dtype=torch.long), torch.ones(6, 4, dtype=torch.bool),
                      torch.ones(6, dtype=torch.bool), torch.zeros(6, 4, dtype=torch.long))
    monkeypatch.setitem(hf.AT_ONCE, "cpu", 2 * (7 + 4) * V)
    hf.scored(lm, CHOICES, PROMPTS * 2, rollout)
    assert set(seen) == {(2, 4, V), (1, 1, V)}  # two texts, and one prompt alone to compare


@pytest.mark.parametrize("select", ("sample", "greedy"))
@pytest.mark.parametrize("level", plain.LEVELS)
def test_two_tokens_have_the_probabilities_of_the_core(level, select):
    """All pairs of tokens enumerated on our GPT-2; 6,000 responses to each of two prompts, one of
    them padded. Bugs: the state of another row or column, choices without effect or of the first
    token again, temperature 0 not the arg-max, counts of the prompt. False alarm: 1e-5 each."""
    lm, ours = gpt2()
    decoder = rough_decoder(level)
    rollout = hf.generate(lm, PROMPTS[:2] * 6000, 2, decoder=decoder, tau_select=select, eos=(),
                          generator=noise(1))
    pairs = torch.cartesian_prod(torch.arange(V), torch.arange(V))
    every = Rollout(pairs, torch.ones_like(pairs, dtype=torch.bool), torch.ones(V * V) > 0,
                    torch.zeros_like(pairs)[:, :1 if level == "sequence" else 2])
    for number in (0, 1):
        with torch.no_grad():
            r = plain.response_logps(ours, decoder, [PROMPTS[number]] * V * V, every)
        tau_logps = r.tau_logps
        if select == "greedy":
            best = tau_logps.argmax(-1, keepdim=True)
            tau_logps = torch.full_like(tau_logps, -torch.inf).scatter(-1, best, 0.0)
        if level == "sequence":
            probabilities = (r.text_logps.sum(1) + tau_logps[:, 0]).exp().sum(-1)
        else:
            probabilities = (r.text_logps + tau_logps).exp().sum(-1).prod(1)
        tokens = rollout.tokens[number::2]
        counts = torch.bincount(tokens[:, 0] * V + tokens[:, 1], minlength=V * V)
        assert p_value(counts, probabilities) > 1e-5
        if select == "sample":  # and the first choice is the decoder's
            k = torch.bincount(rollout.tau_idx[number::2, 0], minlength=len(CHOICES))
            assert p_value(k, r.tau_logps[0, 0].exp()) > 1e-5


@pytest.mark.parametrize("temperature", (
    0.0, 1.0, min_p(0.3), [[0.0], [1.5], [0.4]] * 600,
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
    if temperature == 0.0:
        assert torch.equal(*by)


def test_the_end_of_a_text():
    """None: the model's own; (): none; several. Bugs: tokens after the end counted, eos 0."""
    lm, ours = gpt2()
    for eos, same in ((None, END), ((), None), ([2, 5], [2, 5]), (0, 0)):
        got = hf.generate(lm, PROMPTS * 9, 15, temperature=0.9, eos=eos, generator=noise(2))
        ends = torch.tensor([] if same is None else same).flatten()
        for tokens, mask, cut in zip(got.tokens, got.mask, got.cut):
            n = int(mask.sum())
            assert mask[:n].all() and not tokens[n:].any() and tokens.shape == (15,)
            assert not torch.isin(tokens[:n - 1], ends).any()
            assert cut == (not torch.isin(tokens[n - 1], ends)) and (n == 15 or not cut)
        assert got.cut.all() == (eos == ()) and got.tau_idx is None
    first = plain.generate(ours, PROMPTS[:1], 1, temperature=0.0).tokens[0, 0].tolist()
    got = hf.generate(lm, PROMPTS[:1], 9, decoder=rough_decoder(choices=(0.0,)), eos=first)
    assert got.tokens.tolist() == [[first, *[0] * 8]] and got.mask.sum() == 1  # all ended early


def test_processors_act_before_the_choice_and_warpers_not_at_all():
    """Bugs: a forbidden word by temperature 0, a warper of the model's own configuration."""
    lm, _ = gpt2()
    first = hf.generate(lm, PROMPTS, 1, temperature=0.0).tokens[:, 0].tolist()
    rollout = hf.generate(lm, PROMPTS * 50, 8, decoder=rough_decoder(), min_new_tokens=5,
                          bad_words_ids=[[token] for token in first])
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


CACHES = dict(dynamic={}, none=dict(use_cache=False), static=dict(cache_implementation="static"),
              compiled=dict(cache_implementation="static",
                            compile_config=transformers.CompileConfig(backend="eager", mode=None)))
CACHES["compiled"]["compile_config"]._compile_all_devices = True
no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("device", ("cpu", pytest.param("cuda", marks=no_cuda)))
def test_every_cache_gives_the_same_text(device):
    """Token for token with the same noise, with a model that was compiled before; on a GPU "static"
    is recorded, too. Bugs: compiled code without the hook, or with that of an earlier call."""
    lm, decoder = llama().to(device), rough_decoder().to(device)
    lm.generate(torch.tensor([PROMPTS[0]], device=device), max_new_tokens=4, **CACHES["compiled"])
    rollouts = [hf.generate(model, PROMPTS, 12, decoder=decoder, eos=(), **options,
                            generator=noise(3, device))
                for model, options in [*((lm, options) for options in CACHES.values()),
                                       (copy.deepcopy(lm), {})]]
    for rollout in rollouts[1:]:
        assert torch.equal(rollout.tokens, rollouts[0].tokens)
        assert torch.equal(rollout.tau_idx, rollouts[0].tau_idx)


def test_in_the_librarys_own_generate():
    """Whoever calls lm.generate gets the same text, choices, and the library's other returns."""
    lm, decoder = llama(), rough_decoder("sequence")
    rollout = hf.generate(lm, PROMPTS, 9, decoder=decoder, generator=noise(4))
    adaptive = hf.Adaptive(decoder, generator=noise(4))
    idx, pad = plain.padded(lm, PROMPTS, 9, left=True)
    mask = (torch.arange(7) >= pad[:, None]).long()
    out = lm.generate(idx, attention_mask=mask, max_new_tokens=9, custom_generate=adaptive,
                      return_dict_in_generate=True, output_logits=True)
    new = out.sequences[:, 7:]
    assert torch.equal(new[rollout.mask[:, :new.shape[1]]], rollout.tokens[rollout.mask])
    assert torch.equal(adaptive.tau_idx[:, :1], rollout.tau_idx)
    assert torch.isfinite(out.logits[0]).all()


def test_new_words_have_logits():
    """Bug: a copy of the output embedding, or its hook, as it was before it was exchanged."""
    lm = llama()
    hf.generate(lm, PROMPTS, 2, temperature=1.0)
    lm.resize_token_embeddings(V + 3)
    with torch.no_grad():
        lm.lm_head.weight[-1] = 50 * lm.lm_head.weight[:V].mean(0).sign()
    rollout = hf.generate(lm, PROMPTS * 20, 3, decoder=rough_decoder())
    assert (rollout.tokens >= V).any()
    hf.response_logps(lm, rough_decoder(), PROMPTS * 20, rollout)


def test_half_precision_with_large_biases():
    """The library's own greedy text in float16, where an attention of one's own overflows."""
    torch.manual_seed(0)
    lm = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZE)).eval()
    with torch.no_grad():
        for name, weight in lm.named_parameters():
            if name.endswith(("q_proj.bias", "k_proj.bias")):
                weight.fill_(150.0)
    lm, idx = lm.half(), torch.tensor([[3, 4, 5, 6]])
    theirs = lm.generate(idx, max_new_tokens=6, do_sample=False, eos_token_id=None)
    rollout = hf.generate(lm, idx.tolist(), 6, decoder=AdaptiveDecoder(16, (0.0, 1e-9)), eos=())
    assert rollout.tokens.tolist() == theirs[:, 4:].tolist()
    logps = hf.response_logps(lm, rough_decoder(), idx.tolist(), rollout)
    assert logps.text_logps.dtype == torch.float32


def test_rotations_that_depend_on_the_length():
    """Longrope (Phi-3) from 16 tokens on: a row may change its neighbours, and a text its own
    beginning. Refused where that happens, in sampling and in scoring; right elsewhere."""
    rope = dict(rope_type="longrope", rope_theta=1e4, original_max_position_embeddings=16,
                partial_rotary_factor=1.0, short_factor=[1.0] * 2, long_factor=[4.0] * 2)
    lm = rough(transformers.Phi3ForCausalLM(transformers.Phi3Config(
        **SIZE, original_max_position_embeddings=16, rope_parameters=rope)))
    for prompts in (PROMPTS, [[3] * 20, [4] * 30]):  # all shorter, or all longer
        hf.generate(lm, prompts, 8, temperature=1.0, eos=())
    for prompts in ([[3, 4], [9] * 30], [PROMPTS[0] + PROMPTS[2]]):
        tokens = torch.ones(len(prompts), 12, dtype=torch.long)
        rollout = Rollout(tokens, tokens > 0, tokens[:, 0] > 0, tokens)
        for call in (lambda: hf.generate(lm, prompts, 12, temperature=1.0, eos=()),
                     lambda: hf.scored(lm, CHOICES, prompts, rollout)):
            with pytest.raises(ValueError, match="Phi3ForCausalLM has other hidden states"):
                call()


def with_nan():
    lm = llama()
    with torch.no_grad():
        lm.lm_head.weight[3, 3] = torch.nan
    return lm


SMALL = dict(vocab_size=V, d_model=16, num_layers=1, num_heads=2, d_kv=8, d_ff=16)
REFUSED = {  # a model, options, and what the sentence says
    "compiled": (lambda: torch.compile(llama(), backend="eager"), {}, "OptimizedModule"),
    "parallel": (lambda: torch.nn.DataParallel(llama()), {}, "DataParallel"),
    "a toy": (lambda: gpt2()[1], {}, "GPT is no causal model"),
    "an encoder": (lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**SMALL)),
                   {}, "T5ForConditionalGeneration is no causal model"),
    "a bidirectional one": (lambda: rough(transformers.BertLMHeadModel(transformers.BertConfig(
        vocab_size=V, hidden_size=16, num_hidden_layers=1, num_attention_heads=2))), {},
        "BertLMHeadModel has other hidden states"),
    "beams": (llama, dict(num_beams=2), "neither with beams"),
    "guidance": (llama, dict(guidance_scale=2.0), "nor with guidance"),
    "candidates": (llama, dict(prompt_lookup_num_tokens=2), "neither with beams"),
    "several": (llama, dict(num_return_sequences=2), "one response per prompt"),
    "a stream": (llama, dict(streamer=None), "one response per prompt"),
    "a wrong end": (llama, dict(eos=V), f"ids below {V}"),
    "a wrong id": (llama, dict(prompts=[[V]]), f"ids below {V}"),
    "no prompt": (llama, dict(prompts=[]), "at least one token"),
    "a long prompt": (llama, dict(prompts=[[1] * 61]), "at most 64 tokens"),
    "two policies": (llama, dict(decoder=rough_decoder()), "either a decoder or a temperature"),
    "NaN": (with_nan, {}, "NaN"),
    "no word": (llama, dict(bad_words_ids=[[i] for i in range(V)], eos=()), "no possible"),
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
    lm = llama().to(getattr(torch, dtype))
    text, columns = torch.arange(12) % V, [2, *range(5, 12)]
    seen = hf.read(lm, text[None], torch.tensor([columns]))[1][0]
    seen[list(wrong)] *= 2
    if fits:
        hf.compare(lm, text, columns, seen)
    else:
        with pytest.raises(ValueError, match="LlamaForCausalLM has other hidden states"):
            hf.compare(lm, text, columns, seen)
