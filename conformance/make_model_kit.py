"""Makes model_kit/: tiny GPT-2s in Hugging Face's format, heads beside them, and the cases.

    python conformance/make_model_kit.py

A folder for each level, `token` (one layer) and `sequence` (two), each with a `policy` and a
`reference` that is the policy moved a little. No weight is zero and no gain one, so that nothing
hides behind them; each is exact in bfloat16. The end of text is token 0, as an implementation that
writes `if eos:` will notice, and prompts hold it too: a mask is not where ids differ from eos.
"""
import json
from pathlib import Path

import numpy as np

import gpt2

KIT = Path(__file__).with_name("model_kit")
LEVELS = {  # seeds: found by trying, so that every choice is drawn, and 0 a greedy one somewhere
    "token": dict(seed=5, pair_seed=37, n_layer=1, choices=[0.0, 0.5, 1.0, 1.5]),
    "sequence": dict(seed=65, pair_seed=5, n_layer=2,
                     choices=[1.0, 0.0, 1.5, 0.5])}  # in an order that nobody may change
V, C, POSITIONS, N_HIDDEN = 16, 32, 16, 24
EOS = 0
PROMPTS = [[3, 7, 1], [0, 5, 9, 2, 11, 4, 4], [12], [8, 0, 15, 6]]
RESPONSES = [[2, 9, 14, 7, EOS], [5, 5], [1, 13, 6, 10, 3, 8, 15, 11], [4]]
MOVED = 0.06  # the reference: so much noise on each weight of the policy


def shapes(n_layer):
    """Of GPT-2's weights: {name: shape}"""
    layer = {"ln_1.weight": (C,), "ln_1.bias": (C,),
             "attn.c_attn.weight": (C, 3 * C), "attn.c_attn.bias": (3 * C,),
             "attn.c_proj.weight": (C, C), "attn.c_proj.bias": (C,),
             "ln_2.weight": (C,), "ln_2.bias": (C,),
             "mlp.c_fc.weight": (C, 4 * C), "mlp.c_fc.bias": (4 * C,),
             "mlp.c_proj.weight": (4 * C, C), "mlp.c_proj.bias": (C,)}
    of_layers = {f"h.{i}.{name}": shape for i in range(n_layer) for name, shape in layer.items()}
    every = {"wte.weight": (V, C), "wpe.weight": (POSITIONS, C), **of_layers,
             "ln_f.weight": (C,), "ln_f.bias": (C,)}
    return {f"transformer.{name}": shape for name, shape in every.items()}


def head_shapes(K):
    sizes = {"mlp.0": (N_HIDDEN, C), "mlp.2": (N_HIDDEN, N_HIDDEN), "mlp.4": (K, N_HIDDEN)}
    return {f"{name}.{kind}": shape if kind == "weight" else shape[:1]
            for name, shape in sizes.items() for kind in ("weight", "bias")}


def draw(rng, name, shape):
    """Weights large enough that context, position and the decoder all matter."""
    noise = rng.standard_normal(shape)
    if ".ln_" in name and name.endswith("weight"):
        return 1 + 0.3 * noise
    if len(shape) == 1:
        return 0.3 * noise
    if ".wte" in name or ".wpe" in name:
        return 0.35 * noise
    inputs = shape[1] if name.startswith("mlp.") else shape[0]  # the head's are (out, in)
    return 1.4 * noise / np.sqrt(inputs)


def settings(n_layer):
    """config.json, as Hugging Face writes it."""
    return dict(architectures=["GPT2LMHeadModel"], model_type="gpt2", vocab_size=V,
                n_positions=POSITIONS, n_embd=C, n_layer=n_layer, n_head=1, n_inner=None,
                activation_function="gelu_new", layer_norm_epsilon=1e-5,
                attn_pdrop=0.1, embd_pdrop=0.1, resid_pdrop=0.1,  # off unless one trains
                bos_token_id=EOS, eos_token_id=EOS, tie_word_embeddings=True,
                torch_dtype="bfloat16")


def policies(level):
    """-> {"policy": Policy, "reference": Policy}"""
    of_level = LEVELS[level]
    choices, n_layer = of_level["choices"], of_level["n_layer"]
    rng = np.random.RandomState(of_level["seed"])  # its numbers are the same in every numpy
    every = {**shapes(n_layer), **head_shapes(len(choices))}
    policy = {name: draw(rng, name, shape) for name, shape in every.items()}
    moved = {name: x + MOVED * rng.standard_normal(x.shape) for name, x in policy.items()}
    description = dict(choices=choices, level=level, n_embd=C, n_hidden=N_HIDDEN,
                       activation="silu", reads="hidden state after the final layer norm")
    made = {}
    for role, weights in dict(policy=policy, reference=moved).items():
        model, head = {}, {}
        for name, x in weights.items():
            (model if name.startswith("transformer.") else head)[name] = gpt2.bfloat16(x)
        made[role] = gpt2.Policy(settings(n_layer), model, description, head)
    return made


def respond(policy, prompt, T, rng):
    """One response, drawn word by word.  -> ids, tau_idx"""
    ids, tau_idx = [], []
    while len(ids) < T and policy.config["eos_token_id"] not in ids:
        logits, hidden = (x[0, -1] for x in gpt2.forward(policy, np.array([[*prompt, *ids]])))
        if not ids or policy.level == "token":
            tau_logps = gpt2.log_softmax(gpt2.head_logits(policy.head, hidden))
            tau_idx.append(int(rng.choice(len(tau_logps), p=np.exp(tau_logps))))
        word_logps = gpt2.word_logps(logits, policy.choices[tau_idx[-1]])
        ids.append(int(rng.choice(V, p=np.exp(word_logps))))
    return ids, tau_idx


def pairs_of(policy, rng):
    """What `train` takes; lengths differ between and within pairs, one prompt comes twice."""
    pairs = []
    for prompt, lengths in zip(PROMPTS + PROMPTS[:1], ((3, 6), (4, 1), (5, 5), (1, 4), (2, 3))):
        chosen, rejected = (respond(policy, prompt, T, rng) for T in lengths)
        pairs.append(dict(prompt=prompt, chosen=chosen, rejected=rejected))
    return pairs


def write(folder=KIT):
    every = dict(prompts=PROMPTS, responses=RESPONSES)
    for level in LEVELS:
        made = policies(level)
        for role, policy in made.items():
            place = Path(folder) / level / role
            place.mkdir(parents=True, exist_ok=True)
            for name, x in {"config": policy.config, "decoder": policy.description}.items():
                text = json.dumps(x, indent=2) + "\n"
                (place / f"{name}.json").write_text(text, encoding="utf-8", newline="\n")
            gpt2.write_safetensors(place / "model.safetensors", policy.weights)
            gpt2.write_safetensors(place / "decoder.safetensors", policy.head)
        rng = np.random.RandomState(LEVELS[level]["pair_seed"])
        every[level] = dict(pairs=pairs_of(made["policy"], rng))
    text = json.dumps(every, separators=(",", ":")) + "\n"
    (Path(folder) / "cases.json").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write()
    files = [path for path in KIT.rglob("*") if path.is_file()]
    print(f"{KIT.name}: {len(files)} files, {sum(path.stat().st_size for path in files):,} bytes")
