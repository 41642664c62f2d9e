"""Every causal architecture that transformers registers, small and random: right or refused.

    python -m pytest tests/test_real_architectures.py                     a dozen of them
    ALL_MODELS=1 python -m pytest tests/test_real_architectures.py        all of them, in minutes

The other source is the model itself: plain passes over one text at a time, without a cache.
"""
import os

import pytest
import torch

from conftest import seeded
from decoder import AdaptiveDecoder, choice_logps
from test_lpo import chi_square_p
from test_real import hf, rough, transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as REGISTERED

V = 61
PROMPTS = [[3, 4, 5, 6, 8, 9, 10, 11, 12], [13], [14, 15, 16], [9, 9, 8, 2, 2, 30]]
SIZES = {name: size for size, names in {  # windows are shorter than the texts
    V: "vocab_size vocab_size_per_layer_input pronunciation_vocab_size shape_vocab_size",
    32: "hidden_size d_model embedding_size",
    48: "intermediate_size ffn_dim n_inner d_inner decoder_ffn_dim encoder_ffn_dim dim_ff "
        "feed_forward_size shared_intermediate_size ffn_hidden_size",
    16: "moe_intermediate_size q_lora_rank kv_lora_rank image_size",
    2: "num_hidden_layers num_layers decoder_layers num_decoder_layers num_key_value_heads "
       "num_experts_per_tok linear_num_key_heads",
    4: "num_attention_heads n_head decoder_attention_heads num_decoder_attention_heads rotary_dim "
       "num_local_experts num_experts linear_num_value_heads linear_num_heads",
    8: "head_dim patch_size state_size mamba_d_state ssm_state_size qk_nope_head_dim v_head_dim "
       "qk_rope_head_dim pronunciation_embed_dim shape_embed_dim hidden_size_per_layer_input "
       "linear_key_head_dim linear_value_head_dim linear_head_dim chunk_size mamba_chunk_size",
    64: "max_position_embeddings max_seq_len", 5: "sliding_window window_size",
    7: "eos_token_id", 1: "bos_token_id decoder_start_token_id",
    0: "pad_token_id"}.items() for name in names.split()} | dict(is_decoder=True)
LATENT = dict(num_key_value_heads=4)
HYBRID = dict(layer_types=["linear_attention", "full_attention"])
SPARSE = dict(HYBRID, indexer_budget=4, indexer_compress_ratio=2, indexer_n_heads=2,
              indexer_kv_heads=1, indexer_head_dim=8)
MORE = {
    **dict.fromkeys("axk2 deepseek_v2 deepseek_v3 deepseek_v32 dots3_note_text glm4_moe_lite "
                    "glm_moe_dsa minicpm3 youtu".split(), LATENT),
    **dict.fromkeys("olmo_hybrid qwen3_5_moe_text qwen3_5_text qwen3_next".split(), HYBRID),
    **dict.fromkeys(("bailing_hybrid", "kimi_linear"), LATENT | HYBRID),
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe"), dict(text_config=HYBRID)),
    "axk1": dict(LATENT, n_group=2, topk_group=1), "dots1": dict(n_shared_experts=1),
    "bamba": dict(mamba_n_heads=4, mamba_d_head=16, attn_layer_indices=[1]),
    "cohere_compass_text": dict(layer_types=["full_attention"] * 2, rope_parameters=dict(
        full_attention=dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 1, 1]))),
    "falcon_h1": dict(mamba_d_ssm=32, mamba_n_heads=4),
    "gemma3n_text": dict(num_hidden_layers=4, num_kv_shared_layers=2,
                         layer_types=["sliding_attention", "full_attention"] * 2),
    "gpt_neo": dict(attention_types=[[["global", "local"], 1]]),
    "granitemoehybrid": dict(mamba_n_heads=4, mamba_d_head=16, layer_types=["mamba", "attention"]),
    "jamba": dict(attn_layer_period=2, attn_layer_offset=1),
    "lfm2_moe": dict(layer_types=["conv", "full_attention"]), "mamba2": dict(num_heads=8),
    "lfm3": dict(layer_types=["conv", "full_attention"]),
    "longcat_flash": dict(LATENT, moe_topk=2),
    "qwen4_exp": dict(text_config=SPARSE), "qwen4_exp_text": SPARSE,
    "recurrent_gemma": dict(num_hidden_layers=3),
    "reformer": dict(axial_pos_shape=[8, 8], axial_pos_embds_dim=[16, 16], attn_layers=["local"]),
    "xmod": dict(languages=["en_XX"], default_language="en_XX"),
    "zamba": dict(num_hidden_layers=4, layers_block_type=["mamba", "hybrid"] * 2),
    "zamba2": dict(layers_block_type=["mamba", "hybrid"]), "zaya": dict(num_experts_per_tok=1)}

REFUSED = """bart bigbird_pegasus blenderbot blenderbot-small camembert cpmant data2vec-text git
marian mbart moshi mvp nemotron_h pegasus plbart prophetnet recurrent_gemma reformer roberta
roberta-prelayernorm roformer rwkv trocr whisper xlm xlm-roberta xlm-roberta-xl xlnet xmod
zamba2""".split()
NOT_BUILT = """blt dbrx dots3_note gemma3n gemma4_assistant gemma4_unified gemma4_unified_assistant
musicgen musicgen_melody xlstm""".split()  # not small from a config, or without a pass of its own
RIGHT = sorted({*REGISTERED} - {*REFUSED, *NOT_BUILT})
SOME = """bloom cohere gemma2 gemma3 gpt_neo inkling_text llama mamba mixtral nemotron_h openai-gpt
opt prophetnet qwen3_5 recurrent_gemma roberta roformer zamba2""".split()
CHOSEN = [*RIGHT, *REFUSED] if os.environ.get("ALL_MODELS") else SOME


def settings(kind, more):
    """SIZES of the fields that a configuration has, also by other names, and of those inside it."""
    fields = {*kind.__dataclass_fields__, *kind.attribute_map}
    chosen = {name: size for name, size in SIZES.items() if name in fields}
    for name in kind.sub_configs:
        inner = type(getattr(kind(), name))
        if inner is not type(None):
            chosen[name] = settings(inner, more.get(name, {}))
    return chosen | {name: value for name, value in more.items() if name not in kind.sub_configs}


def small(name):
    transformers.logging.set_verbosity_error()
    config = CONFIG_MAPPING[name](**settings(CONFIG_MAPPING[name], MORE.get(name, {})))
    torch.manual_seed(0)
    lm = rough(transformers.AutoModelForCausalLM.from_config(config))
    assert sum(weight.numel() for weight in lm.parameters()) < 8e6
    return lm


def plain_pass(lm, texts):
    """Logits and states at the last token of texts of one length.  -> (B,V), (B,C)"""
    states = []
    hook = lm.get_output_embeddings().register_forward_pre_hook(
        lambda module, args: states.append(args[0]))
    with torch.no_grad():
        logits = lm(input_ids=torch.tensor(texts), use_cache=False).logits
    hook.remove()
    return logits[:, -1], states[0][:, -1]


@pytest.mark.parametrize("name", CHOSEN)
def test_right_or_refused_by_name(name):
    """Greedy text, log-probabilities and sampled tokens, on unequal prompts. A chi-square test for
    each of the first two tokens after two prompts; false alarm 1e-7 each. At last a cache of fixed
    size, compiled if there is a GPU. Bug: a cache that is wrong for the longest prompt only."""
    lm = small(name)
    if name in REFUSED:
        with pytest.raises(ValueError, match=type(lm).__name__):
            hf.generate(lm, PROMPTS, 12, temperature=0.0, eos=())
        return
    rollout = hf.generate(lm, PROMPTS, 12, temperature=0.0, eos=())
    _, text_logps = hf.scored(lm, (0.7, 1.0), PROMPTS, rollout)
    for prompt, tokens, logps in zip(PROMPTS, rollout.tokens.tolist(), text_logps):
        for t, token in enumerate(tokens):
            logits = plain_pass(lm, [prompt + tokens[:t]])[0][0]
            assert token == logits.argmax()
            want = torch.stack([choice_logps(logits, tau)[token] for tau in (0.7, 1.0)])
            assert torch.allclose(logps[t], want, atol=1e-3)

    decoder = rough(AdaptiveDecoder(plain_pass(lm, [[1]])[1].shape[1], (0.0, 0.7, 1.5)), by=0.1)

    def mixture(texts):
        """P(next token), the choice summed out.  -> (B,V)"""
        logits, hidden = plain_pass(lm, texts)
        per_choice = torch.stack([choice_logps(logits, tau) for tau in decoder.choices], 1)
        return (per_choice + decoder(hidden)[..., None]).exp().sum(1).detach()

    samples = hf.generate(lm, PROMPTS[:2] * 300, 2, decoder=decoder, eos=(),
                          generator=seeded()).tokens
    for number in (0, 1):
        first = mixture([PROMPTS[number]])
        second = first @ mixture([[*PROMPTS[number], token] for token in range(V)])
        for t, probabilities in enumerate((first[0], second[0])):
            counts = torch.bincount(samples[number::2, t], minlength=V)
            rare = probabilities * 300 < 5  # too few for a chi-square test: put together
            assert chi_square_p(*(torch.cat([x[~rare], x[rare].sum()[None]])
                                  for x in (counts, probabilities))) > 1e-7

    try:
        lm.to("cuda" if torch.cuda.is_available() else "cpu")
        fixed = hf.generate(lm, PROMPTS, 12, temperature=0.0, eos=(), cache_implementation="static")
    except (KeyError, RuntimeError, ValueError):
        return  # refused by name, or the library cannot do it
    assert torch.equal(fixed.tokens.cpu(), rollout.tokens)


def test_enough_are_right():
    """Of the version that these lists are of; a new architecture is expected to be right."""
    assert {*REFUSED, *NOT_BUILT, *SOME} <= {*REGISTERED} or transformers.__version__[:4] != "5.23"
    assert len(RIGHT) >= 125
