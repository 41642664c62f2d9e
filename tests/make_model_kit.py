"""Makes conformance/model_kit/: tiny GPT-2s in Hugging Face's format, decoders beside them, cases.

    python tests/make_model_kit.py

A folder per policy. `token` (one layer, a vocabulary of 64, so that a sampler's default top_k of 50
shows) and `sequence` (two layers) have a `reference` too: the policy moved a little. The choices of
`memory` count what was written. No weight is zero and no gain one, so that nothing hides behind
them; each is exact in bfloat16. The end of text is token 0, as an implementation that writes
`if eos:` will notice, and prompts hold it too: a mask is not where ids differ from eos.
"""
import json
import sys
from pathlib import Path

import numpy as np

KIT = Path(__file__).resolve().parents[1] / "conformance" / "model_kit"
sys.path.append(str(KIT.parent))
import gpt2  # noqa: E402
import oracle  # noqa: E402

C, POSITIONS, N_HIDDEN, EOS = 32, 16, 24, 0
MOVED = 0.06  # the reference: so much noise on each weight of the policy
KINDS = {  # seeds: found by trying, so that every choice is sampled, and 0 a greedy one somewhere
    "token": dict(seed=261, pair_seed=37, n_layer=1, V=64, choices=[0.0, 0.5, 1.0, 1.5]),
    "sequence": dict(seed=65, pair_seed=5, n_layer=2, V=16,
                     choices=[1.0, 0.0, 1.5, 0.5]),  # in an order that nobody may change
    "memory": dict(seed=193, pair_seed=1, n_layer=1, V=16, choices=[
        dict(temperature=1.0, frequency_penalty=1.5), 0.7,
        dict(temperature=0.8, frequency_penalty=1.0, min_p=0.1),
        dict(temperature=0.0, frequency_penalty=3.0)])}
PROMPTS = [[3, 7, 1], [0, 5, 9, 2, 11, 4, 4], [12], [8, 0, 15, 6]]
RESPONSES = {
    "token": [[2, 41, 14, 7, EOS], [55, 55], [1, 63, 6, 30, 3, 48, 15, 22], [4]],
    "sequence": [[2, 9, 14, 7, EOS], [5, 5], [1, 13, 6, 10, 3, 8, 15, 11], [4]],
    "memory": [[2, 2, 9, 2, EOS], [5, 5, 5, 5, 7], [1, 13, 1, 10, 13, 1, 15, 1], [4]]}
REWARDS = {  # (P,N), of two criteria (2,P,N)
    "best-worst": {
        "distinct": [[0.5, -1.0, 2.0, 0.25], [-3.0, -1.0, -2.0, -2.5]],
        "ties": [[1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
        "uint8": [[0, 3, 1], [2, 2, 2], [5, 0, 5]],  # of which -x wraps around
        "close": [[1.0, 1 + 2.0 ** -13, 1 - 2.0 ** -13], [7e4, 8e4, 9e4]],  # too much for float16
        "single": [[0.5], [1.0]],
        "NaN": [[0.5, None, 1.0, 0.0]]},
    "top-2": {
        "distinct": [[[3.0, 2.0, 1.0, 0.0, -1.0], [-5.0, 4.0, 2.5, 1.5, 3.0]],
                     [[0.1, 0.7, 0.2, 0.3, 0.9], [2.0, -1.0, 3.0, -2.0, 0.0]]],
        "ties": [[[1.0, 1.0, 1.0, 0.0], [0.5, 0.5, 0.5, 0.5], [2.0, 1.0, 1.0, 0.0],
                  [2.0, 1.0, 1.0, 0.0]],
                 [[0.0, 2.0, 1.0, -1.5], [1.0, 1.0, 1.0, 1.0], [0.0, 3.0, -3.0, -1.0],
                  [5.0, 3.0, -3.0, -9.0]]],
        "uint8": [[[0, 3, 1, 7], [9, 2, 5, 0]], [[1, 0, 4, 2], [0, 8, 3, 6]]],
        "NaN": [[[0.0, 1.0, 2.0, 3.0]], [[0.5, None, 1.0, 0.0]]]}}
REWARDS["all"] = REWARDS["best-worst"]


def bfloat16(x):
    """Rounded to the nearest bfloat16, the upper half of a float32.  (...) -> (...)"""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    upper = (bits + 0x8000) & 0xFFFF0000
    return upper.astype(np.uint32).view(np.float32).astype(np.float64).reshape(np.shape(x))


def shapes(n_layer, V):
    """Of GPT-2's weights: {name: shape}"""
    layer = {"ln_1.weight": (C,), "ln_1.bias": (C,),
             "attn.c_attn.weight": (C, 3 * C), "attn.c_attn.bias": (3 * C,),
             "attn.c_proj.weight": (C, C), "attn.c_proj.bias": (C,),
             "ln_2.weight": (C,), "ln_2.bias": (C,),
             "mlp.c_fc.weight": (C, 4 * C), "mlp.c_fc.bias": (4 * C,),
             "mlp.c_proj.weight": (4 * C, C), "mlp.c_proj.bias": (C,)}
    layers = {f"h.{i}.{name}": shape for i in range(n_layer) for name, shape in layer.items()}
    every = {"wte.weight": (V, C), "wpe.weight": (POSITIONS, C), **layers,
             "ln_f.weight": (C,), "ln_f.bias": (C,)}
    return {f"transformer.{name}": shape for name, shape in every.items()}


def decoder_shapes(K):
    sizes = {"mlp.0": (N_HIDDEN, C), "mlp.2": (N_HIDDEN, N_HIDDEN), "mlp.4": (K, N_HIDDEN)}
    return {f"{name}.{kind}": shape if kind == "weight" else shape[:1]
            for name, shape in sizes.items() for kind in ("weight", "bias")}


def random_weight(rng, name, shape):
    """Large enough that context, position and the decoder all matter."""
    noise = rng.standard_normal(shape)
    if ".ln_" in name and name.endswith("weight"):
        return 1 + 0.3 * noise
    if len(shape) == 1:
        return 0.3 * noise
    if ".wte" in name or ".wpe" in name:
        return 0.35 * noise
    inputs = shape[1] if name.startswith("mlp.") else shape[0]  # the decoder's are (out, in)
    return 1.4 * noise / np.sqrt(inputs)


def config(n_layer, V):
    """config.json, as Hugging Face writes it."""
    return dict(architectures=["GPT2LMHeadModel"], model_type="gpt2", vocab_size=V,
                n_positions=POSITIONS, n_embd=C, n_layer=n_layer, n_head=1, n_inner=None,
                activation_function="gelu_new", layer_norm_epsilon=1e-5,
                attn_pdrop=0.1, embd_pdrop=0.1, resid_pdrop=0.1,  # off unless one trains
                bos_token_id=EOS, eos_token_id=EOS, tie_word_embeddings=True,
                torch_dtype="bfloat16")


def policies(kind):
    """-> {"policy": Policy, "reference": Policy}"""
    n_layer, V, choices = (KINDS[kind][name] for name in ("n_layer", "V", "choices"))
    rng = np.random.RandomState(KINDS[kind]["seed"])  # its numbers are the same in every numpy
    weights = {name: random_weight(rng, name, shape) for name, shape in
               {**shapes(n_layer, V), **decoder_shapes(len(choices))}.items()}
    moved = {name: x + MOVED * rng.standard_normal(x.shape) for name, x in weights.items()}
    level = "sequence" if kind == "sequence" else "token"
    made = {}
    for role, every in dict(policy=weights, reference=moved).items():
        model, decoder = {}, {}
        for name, x in every.items():
            (model if name.startswith("transformer.") else decoder)[name] = bfloat16(x)
        made[role] = gpt2.Policy(config(n_layer, V), model, choices, level, decoder)
    return made


def respond(policy, prompt, T, rng):
    """One response, sampled token by token.  -> ids, tau_idx"""
    ids, tau_idx = [], []
    while len(ids) < T and policy.eos not in ids:
        logits, hidden = (x[0, -1] for x in gpt2.forward(policy, np.array([[*prompt, *ids]])))
        if not ids or policy.level == "token":
            tau_logps = oracle.log_softmax(gpt2.decoder_logits(policy.decoder, hidden))
            tau_idx.append(int(rng.choice(len(tau_logps), p=np.exp(tau_logps))))
        logps = oracle.choice_logps(logits, policy.choices[tau_idx[-1]])
        ids.append(int(rng.choice(len(logps), p=np.exp(logps))))
    return ids, tau_idx


def write_safetensors(path, tensors):
    """Arrays that are exact in bfloat16, in bfloat16."""
    header, parts, end = {"__metadata__": {"format": "pt"}}, [], 0
    for name, x in tensors.items():
        bits = x.astype(np.float32).view(np.uint32) >> 16
        parts.append(bits.astype("<u2").tobytes())
        first, end = end, end + len(parts[-1])
        header[name] = dict(dtype="BF16", shape=list(x.shape), data_offsets=[first, end])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers start at a multiple of 8
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def write_json(path, x, **layout):
    path.write_text(json.dumps(x, **layout) + "\n", encoding="utf-8", newline="\n")


def write(folder=KIT):
    every = {}
    for kind, settings in KINDS.items():
        made = policies(kind)
        if kind == "memory":
            del made["reference"]
        for role, policy in made.items():
            place = Path(folder) / kind / role
            place.mkdir(parents=True, exist_ok=True)
            write_json(place / "config.json", policy.config, indent=2)
            write_json(place / "decoder.json", dict(
                choices=policy.choices, level=policy.level, n_embd=C, n_hidden=N_HIDDEN,
                activation="silu", reads="hidden state after the final layer norm"), indent=2)
            write_safetensors(place / "model.safetensors", policy.weights)
            write_safetensors(place / "decoder.safetensors", policy.decoder)
        rng = np.random.RandomState(settings["pair_seed"])
        lengths = ((3, 6), (4, 1), (5, 5), (1, 4), (2, 3))  # between and within pairs they differ
        pairs = [dict(prompt=prompt, chosen=respond(made["policy"], prompt, a, rng),
                      rejected=respond(made["policy"], prompt, b, rng))
                 for prompt, (a, b) in zip(PROMPTS + PROMPTS[:1], lengths)]
        every[kind] = dict(prompts=PROMPTS, responses=RESPONSES[kind],
                           pairs=pairs * (kind != "memory"))
    write_json(Path(folder) / "cases.json", every | {"rewards": REWARDS}, separators=(",", ":"))


if __name__ == "__main__":
    write()
