"""GPT-2 and the decoder as plain float64 numpy: the model kit's answer key.

It shares no code with what it checks, and takes one prompt and response at a time: without a batch
there is no padding to get wrong. Numbers in brackets are equations of FORMAT.md.

B sequences of S tokens, T of a response; V tokens in the vocabulary, C hidden width, K choices.
"""
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import oracle

LAYERS = ("mlp.0", "mlp.2", "mlp.4")  # the linear layers of the decoder; a SiLU between them


def read_safetensors(path):
    """8 bytes of header length, the header as JSON, bfloat16 numbers.  -> {name: float64 array}"""
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, end = entry["data_offsets"]
            bits = np.frombuffer(data[start + first:start + end], "<u2").astype(np.uint32) << 16
            tensors[name] = bits.view(np.float32).astype(np.float64).reshape(entry["shape"])
    return tensors


@dataclass
class Policy:
    config: dict   # config.json
    weights: dict  # model.safetensors
    choices: list  # of decoder.json: temperatures, or settings as dictionaries
    level: str
    decoder: dict  # decoder.safetensors

    @property
    def eos(self):
        return self.config["eos_token_id"]


def load(folder):
    """-> Policy"""
    folder = Path(folder)
    config, decoder = (json.loads((folder / name).read_text(encoding="utf-8"))
                       for name in ("config.json", "decoder.json"))
    return Policy(config, read_safetensors(folder / "model.safetensors"), decoder["choices"],
                  decoder["level"], read_safetensors(folder / "decoder.safetensors"))


# ---- GPT-2 -------------------------------------------------------------------------------------

def forward(policy, idx):
    """Logits, and the hidden states after the final norm.  (B,S) -> (B,S,V), (B,S,C)"""
    config, weights = policy.config, policy.weights
    B, S = idx.shape

    def norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x ** 2).mean(-1, keepdims=True) + config["layer_norm_epsilon"])
        return x * weights[f"transformer.{name}.weight"] + weights[f"transformer.{name}.bias"]

    def linear(name, x):  # GPT-2's are stored (in, out)
        return x @ weights[f"transformer.{name}.weight"] + weights[f"transformer.{name}.bias"]

    allowed = np.tril(np.ones((S, S), bool))  # each position looks at itself and those before
    positions = np.arange(S)
    embedding = weights["transformer.wte.weight"]
    x = embedding[idx] + weights["transformer.wpe.weight"][positions]  # (B,S,C)
    for layer in range(config["n_layer"]):
        h = f"h.{layer}."
        qkv = linear(h + "attn.c_attn", norm(h + "ln_1", x))  # (B,S,3C)
        q, k, v = qkv.reshape(B, S, 3, config["n_head"], -1).transpose(2, 0, 3, 1, 4)  # (B,H,S,D)
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])  # (B,H,S,S)
        shares = np.exp(oracle.log_softmax(np.where(allowed, scores, -np.inf)))
        x = x + linear(h + "attn.c_proj", (shares @ v).swapaxes(1, 2).reshape(B, S, -1))
        x = x + linear(h + "mlp.c_proj", gelu(linear(h + "mlp.c_fc", norm(h + "ln_2", x))))
    hidden = norm("ln_f", x)
    return hidden @ embedding.T, hidden


def gelu(x):
    """GPT-2's, by the hyperbolic tangent."""
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# ---- the decoder: three linear layers, stored (out, in) ----------------------------------------

def decoder_layers(decoder, hidden):
    """-> of each layer what goes in and what comes out: [((...,in), (...,out))]"""
    layers, x = [], hidden
    for name in LAYERS:
        out = x @ decoder[f"{name}.weight"].T + decoder[f"{name}.bias"]
        layers.append((x, out))
        x = out * sigmoid(out)  # SiLU; not used after the last
    return layers


def decoder_logits(decoder, hidden):
    """Before the log-softmax of equation 2.  (...,C) -> (...,K)"""
    return decoder_layers(decoder, hidden)[-1][1]


def decoder_gradient(decoder, hidden, d_out):
    """d sum(logits * d_out) / d weights.  (T,C), (T,K) -> {name: array}"""
    gradient = {}
    for name, (x, out) in reversed([*zip(LAYERS, decoder_layers(decoder, hidden))]):
        if name != LAYERS[-1]:  # d SiLU(z) / dz = s + z s (1 - s)
            s = sigmoid(out)
            d_out = d_out * (s + out * s * (1 - s))
        gradient |= {f"{name}.weight": d_out.T @ x, f"{name}.bias": d_out.sum(0)}
        d_out = d_out @ decoder[f"{name}.weight"]
    return gradient


# ---- responses ---------------------------------------------------------------------------------

def aligned(policy, prompt, response):
    """What predicts each response token.  -> logits (T,V), hidden (T,C)"""
    idx = np.array([[*prompt, *response]])
    logits, hidden = forward(policy, idx)
    columns = slice(len(prompt) - 1, len(prompt) + len(response) - 1)
    return logits[0, columns], hidden[0, columns]


def deciding(policy, hidden):
    """Of response-aligned hidden states, those that the decoder reads.  (T,C) -> (T,C) or (1,C)"""
    return hidden if policy.level == "token" else hidden[:1]


def score(policy, prompt, response):
    """-> tau_logps (T,K) or (1,K) [2], text_logps (T,K) [1], mixture_logps (T,) [3]"""
    logits, hidden = aligned(policy, prompt, response)
    written = np.array(response)[:, None] == np.arange(logits.shape[-1])  # (T,V)
    counts = written.cumsum(0) - written  # exclusive of the token itself
    tau_logps = oracle.log_softmax(decoder_logits(policy.decoder, deciding(policy, hidden)))
    text_logps = np.stack([oracle.choice_logps(logits, choice, counts)[written]
                           for choice in policy.choices], -1)
    mixture_logps = oracle.log_sum_exp(tau_logps + text_logps)
    return dict(tau_logps=tau_logps, text_logps=text_logps, mixture_logps=mixture_logps)


def enumerated(policy, prompt, T, select):
    """Every response of up to T tokens.

    -> for each t, over the H histories of t tokens that go on: P(history, choice k, token v) and
    P(token v | history, choice k), both (H,K,V). The next histories are each of these followed by
    every token but the end of text. select: "sample" the choice, "greedy" takes the most likely.
    """
    V = policy.config["vocab_size"]
    going_on = np.delete(np.arange(V), policy.eos)
    histories, counts = np.array([prompt]), np.zeros((1, V))
    places, reached = [], None
    for t in range(T):
        logits, hidden = (x[:, -1] for x in forward(policy, histories))  # (H,V), (H,C)
        if t == 0 or policy.level == "token":
            tau_odds = np.exp(oracle.log_softmax(decoder_logits(policy.decoder, hidden)))  # (H,K)
            if select == "greedy":
                tau_odds = np.eye(tau_odds.shape[1])[tau_odds.argmax(-1)]
            reached = tau_odds if t == 0 else reached.sum(1, keepdims=True) * tau_odds
        given = np.exp(np.stack([oracle.choice_logps(logits, choice, counts)
                                 for choice in policy.choices], 1))  # (H,K,V)
        joint = reached[:, :, None] * given
        places.append((joint, given))
        if t == T - 1:
            return places
        reached = joint[:, :, going_on].swapaxes(1, 2).reshape(-1, joint.shape[1])
        words = np.tile(going_on, len(histories))[:, None]
        histories = np.hstack([np.repeat(histories, V - 1, 0), words])
        counts = np.repeat(counts, V - 1, 0) + (words == np.arange(V))


# ---- training the decoder: the oracle's derivatives by its logits, then the chain rule ---------

def case_of(policy, reference, pair, variant, beta):
    """A pair as a case of one row, without decoder logits, and the hidden states of both sides.

    reference: a Policy, frozen; or None: the same model, and no decoder.
    """
    case = dict(variant="latent" if variant == "latent_exact" else variant,
                exact_sequence=variant == "latent_exact", beta=beta, temperatures=policy.choices)
    states = {}
    for side in ("chosen", "rejected"):
        ids, tau_idx = pair[side]
        logits, hidden = ref_logits, _ = aligned(policy, pair["prompt"], ids)
        ref_decoder_logits = None
        if reference is not None:
            ref_logits, ref_hidden = aligned(reference, pair["prompt"], ids)
            ref_hidden = deciding(policy, ref_hidden)[None]
            ref_decoder_logits = decoder_logits(reference.decoder, ref_hidden)
        states[side] = deciding(policy, hidden)
        case[side] = dict(lm_logits=logits[None], ref_lm_logits=ref_logits[None],
                          ref_decoder_logits=ref_decoder_logits, tokens=np.array([ids]),
                          tau_idx=np.array([tau_idx]), mask=np.ones((1, len(ids)), bool))
    return case, states


def trained(policy, reference, pairs, variant, beta, lr, steps, sizes):
    """The decoder after SGD steps on the mean loss of all pairs [10].  -> {name: array}

    sizes: of micro-batches, over which a step's gradient is summed up.
    """
    decoder = dict(policy.decoder)
    every = [case_of(policy, reference, pair, variant, beta) for pair in pairs]
    batches = np.split(np.arange(len(pairs)), np.cumsum(sizes)[:-1])
    for _ in range(steps):
        gradient = {name: np.zeros_like(w) for name, w in decoder.items()}
        for batch in batches:
            weight = 1 / len(pairs)
            for i in batch:
                add_gradient(gradient, decoder, *every[i], weight)
        decoder = {name: w - lr * gradient[name] for name, w in decoder.items()}
    return decoder


def add_gradient(gradient, decoder, case, states, weight):
    """Of a pair's loss, times its weight."""
    for side, hidden in states.items():
        case[side]["decoder_logits"] = decoder_logits(decoder, hidden)[None]
    slopes = oracle.gradients(case)
    for side, hidden in states.items():
        d_logits = weight * slopes[side]["decoder_logits"][0]  # (L,K)
        for name, g in decoder_gradient(decoder, hidden, d_logits).items():
            gradient[name] += g
