"""model.py: its cache against a full pass, its first weights, GPT-2's logits by transformers."""
import math
import re

import pytest
import torch

from model import GPT, GPTConfig
from test_lpo import PROMPTS, rough_model

WRAPPERS = ["", "_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.transformer.",
            "transformer._orig_mod."]


@pytest.mark.parametrize("chunks", [(1, 1, 1, 1, 1), (2, 1, 2), (5,)])
def test_the_cache_gives_what_a_full_pass_gives(chunks):
    """Left-padded prompts of unequal lengths, five more tokens in steps, rows repeated and dropped.
    Biases and gains are random. Bugs: positions off by one, padding that is seen, a later token
    that is seen, keys of other rows, an in-place update that is read too late."""
    model = rough_model()
    gen = torch.Generator().manual_seed(0)
    longest = max(map(len, PROMPTS))
    pad = torch.tensor([longest - len(prompt) for prompt in PROMPTS])
    idx = torch.tensor([[7] * n + prompt for n, prompt in zip(pad.tolist(), PROMPTS)])
    cache = model.new_cache(4, longest + 5)
    cache.pad = pad
    logits, hidden = model(idx, cache)
    texts, rows = PROMPTS, torch.arange(4)

    def compare(logits, hidden):
        for text, ours, state in zip(texts, logits, hidden):
            n = min(len(text), logits.shape[1])
            full_logits, full_hidden = model(torch.tensor([text]))
            assert torch.allclose(ours[-n:], full_logits[0, -n:], rtol=0, atol=1e-12)
            assert torch.allclose(state[-n:], full_hidden[0, -n:], rtol=0, atol=1e-12)
    compare(logits, hidden)
    for step, T in enumerate(chunks):
        rows = [torch.tensor([2, 0, 0, 3, 1]), torch.tensor([True, True, False, True, True]),
                slice(None)][min(step, 2)]
        cache.keep(rows)
        texts = [texts[i] for i in torch.arange(len(texts))[rows].tolist()]
        new = torch.randint(11, (len(texts), T), generator=gen)
        texts = [text + more for text, more in zip(texts, new.tolist())]
        compare(*model(new, cache))
    assert cache.used == longest + 5


def test_without_padding_a_cache_of_equal_prompts():
    """A first pass over several tokens is causal with a cache too."""
    model, idx = rough_model(), torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    cache = model.new_cache(2, 4)
    parts = [model(part, cache)[0] for part in (idx[:, :3], idx[:, 3:])]
    assert torch.allclose(torch.cat(parts, 1), model(idx)[0], rtol=0, atol=1e-12)


def test_no_token_sees_a_later_one():
    """Bug: attention that is not causal, so that a target is among its own inputs."""
    model, idx = rough_model(), torch.tensor([[1, 2, 3, 4, 5, 6]])
    other = idx.clone()
    other[0, 3] = 9
    differences = (model(idx)[0] - model(other)[0]).abs().amax(-1)[0]
    assert (differences[:3] == 0).all() and (differences[3:] > 1e-3).all()


def test_first_weights_have_the_documented_spread():
    """0.8 / sqrt(C), less by sqrt(2 layers) where a layer adds to x; biases 0, gains 1. Five
    standard errors: false alarm below 1e-5."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=300, block_size=50, n_layer=3, n_head=4, n_embd=16))
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            assert (weight == float("norm" in name and "weight" in name)).all(), name
        else:
            std = 0.2 / math.sqrt(6) if re.search(r"(out|down)\.weight", name) else 0.2
            assert abs(weight.std() / std - 1) < 5 / math.sqrt(2 * weight.numel()), name
            assert abs(weight.mean()) < 5 * std / math.sqrt(weight.numel()), name
    assert len(list(model.parameters())) == 2 + 3 * 12 + 2  # the output layer is the embedding


def test_shapes_and_the_state_after_the_last_norm():
    """Bugs: a projection of the wrong width, layers and heads swapped, logits of another state."""
    model = GPT(GPTConfig(vocab_size=11, block_size=5, n_layer=2, n_head=3, n_embd=6))
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    assert shapes["token_embedding.weight"] == (11, 6)
    assert shapes["position_embedding.weight"] == (5, 6)
    assert shapes["blocks.1.qkv.weight"] == (18, 6) and shapes["blocks.1.up.weight"] == (24, 6)
    assert len(model.blocks) == 2
    logits, hidden = model(torch.tensor([[1, 2, 10, 0, 5]]))
    assert torch.allclose(hidden.mean(-1), torch.zeros(1, 5), atol=1e-6)
    assert torch.allclose(hidden.var(-1, unbiased=False), torch.ones(1, 5), atol=1e-3)
    assert torch.allclose(logits[0, 3, 7], hidden[0, 3] @ model.token_embedding.weight[7])


def test_limits_of_what_a_model_takes():
    """Bugs: an id or a length refused that fits, or taken that does not; a cache without limit."""
    model = GPT(GPTConfig(vocab_size=7, block_size=4, n_layer=1, n_head=2, n_embd=4))
    model(torch.tensor([[0, 6, 0, 6]]))
    for wrong in ([[7]], [[-1]], [[0, 7, 1]]):
        with pytest.raises(ValueError, match="idx has ids outside 0 to 6"):
            model(torch.tensor(wrong))
    for T in (0, 5):
        with pytest.raises(ValueError, match=f"{T} tokens do not fit .*; give 1 to 4"):
            model(torch.zeros(1, T, dtype=torch.long))
    cache = model.new_cache(1, 4)
    model(torch.tensor([[1, 2, 3]]), cache)
    with pytest.raises(ValueError, match="2 tokens do not fit into the context; give 1 to 1"):
        model(torch.tensor([[1, 2]]), cache)
    model(torch.tensor([[3]]), cache)
    assert cache.used == 4


@pytest.mark.parametrize("value", (0, -1, 2.0, True, "2", None))
@pytest.mark.parametrize("name", ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"))
def test_configs_that_cannot_be_are_refused(name, value):
    sizes = dict(vocab_size=1, block_size=1, n_layer=1, n_head=1, n_embd=1)
    GPTConfig(**sizes)
    with pytest.raises(ValueError, match=f"{name}={value!r}.*give whole numbers >= 1"):
        GPTConfig(**sizes | {name: value})


def test_the_width_is_a_multiple_of_the_heads():
    GPTConfig(1, 1, 1, n_head=3, n_embd=6)
    with pytest.raises(ValueError, match="n_embd a multiple of n_head"):
        GPTConfig(1, 1, 1, n_head=4, n_embd=6)


# --- GPT-2's weights ------------------------------------------------------------------------------


def gpt2(**changes):
    """GPT-2 by transformers, with random biases and gains."""
    transformers = pytest.importorskip("transformers")
    sizes = dict(vocab_size=13, n_positions=16, n_embd=12, n_layer=2, n_head=3, bos_token_id=0,
                 eos_token_id=0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes | changes)).eval()
    gen = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.normal_(0.5, 0.7, generator=gen)
    return theirs


@pytest.mark.parametrize("dtype, atol, n_inner", [(torch.float32, 1e-4, None),
                                                  (torch.float64, 1e-10, 4 * 12)])
def test_logits_are_those_of_transformers(dtype, atol, n_inner, tmp_path):
    """Bugs: another GELU, a square weight not transposed, a hidden state before the norm, a bias
    that is read too late, hidden while biases are zero; the usual width refused if it is named."""
    theirs = gpt2(n_inner=n_inner).to(dtype)
    idx = torch.randint(13, (4, 16))
    expected = theirs(idx, output_hidden_states=True)
    ours = GPT(GPTConfig(13, 16, 2, 3, 12)).to(dtype).load_hf_state_dict(theirs.state_dict())
    theirs.save_pretrained(tmp_path)
    for model in (ours, GPT.from_pretrained(tmp_path)):
        logits, hidden = model(idx)
        assert logits.dtype == dtype
        assert torch.allclose(logits, expected.logits, atol=atol, rtol=0)
        assert torch.allclose(hidden, expected.hidden_states[-1], atol=atol, rtol=0)
    back = gpt2().to(dtype)
    torch.nn.init.zeros_(back.transformer.h[0].attn.c_proj.weight)
    back.transformer.load_state_dict(ours.hf_state_dict())
    assert torch.equal(back(idx).logits, expected.logits)


@pytest.mark.parametrize("changes", [dict(activation_function="gelu"), dict(n_inner=24),
                                     dict(layer_norm_epsilon=1e-6), dict(scale_attn_weights=False),
                                     dict(scale_attn_by_inverse_layer_idx=True)])
def test_settings_that_are_not_gpt_2s_own_are_refused(changes, tmp_path):
    """Bug: weights that load and give other logits."""
    gpt2(**changes).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"not GPT-2's own: .*{next(iter(changes))}"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_weights_saved_by_wrappers_load(wrapper):
    """Of torch.compile, DataParallel and GPT2LMHeadModel, in any order."""
    model, other = rough_model(seed=1), rough_model(seed=2)
    other.load_hf_state_dict({wrapper + name: weight
                              for name, weight in model.hf_state_dict().items()})
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))


def test_weights_that_are_not_this_models_are_refused():
    """Bugs: a missing or foreign weight passed over; an output layer of its own."""
    model = rough_model()
    state = model.hf_state_dict()
    tied = {"lm_head.weight": state["wte.weight"].clone()}
    masks = {"h.0.attn.bias": torch.ones(3), "h.1.attn.masked_bias": torch.ones(1)}
    model.load_hf_state_dict(state | tied | masks)
    without = {name: x for name, x in state.items() if name != "h.1.mlp.c_fc.bias"}
    for wrong, words in (
            (without, r"these weights do not fit .*\['h.1.mlp.c_fc.bias'\]"),
            (state | {"h.2.ln_1.bias": torch.ones(12)}, r"\['h.2.ln_1.bias'\]"),
            (state | {"wpe.weight": torch.ones(3, 12)}, "'wpe.weight'"),
            (state | {"lm_head.weight": state["wte.weight"] + 1}, "lm_head.weight differs"),
            ({name: x for name, x in state.items() if name != "wte.weight"} | tied, "lm_head")):
        with pytest.raises(ValueError, match=words):
            model.load_hf_state_dict(wrong)
