"""GPT-2 and the AdaptiveDecoder's head as plain float64 numpy: the model kit's answer key.

It shares no code with what it checks, and takes one prompt and response at a time: without a batch
there is no padding to get wrong. Weights come from Hugging Face's folders, whose file format is
read and written here, by hand.

B sequences of T tokens, V words, C hidden width, K choices (temperatures).
"""
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import oracle

HEAD = ("mlp.0", "mlp.2", "mlp.4")  # the linear layers of the decoder; a SiLU between them


# ---- files: 8 bytes of header length, the header as JSON, the numbers --------------------------

KINDS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def read_safetensors(path):
    """-> {name: float64 array}"""
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        first, end = entry["data_offsets"]
        kind = np.dtype(KINDS[entry["dtype"]]).newbyteorder("<")
        x = np.frombuffer(data[start + first:start + end], kind)
        if entry["dtype"] == "BF16":  # the upper half of a float32
            x = (x.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = x.astype(np.float64).reshape(entry["shape"])
    return tensors


def write_safetensors(path, tensors):
    """Arrays that are exact in bfloat16, in bfloat16."""
    header, parts, end = {"__metadata__": {"format": "pt"}}, [], 0
    for name, x in tensors.items():
        if (bfloat16(x) != x).any():
            raise ValueError(f"{name} is not exact in bfloat16; give bfloat16(x)")
        bits = x.astype(np.float32).view(np.uint32) >> 16
        parts.append(bits.astype("<u2").tobytes())
        first, end = end, end + len(parts[-1])
        header[name] = dict(dtype="BF16", shape=list(x.shape), data_offsets=[first, end])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers start at a multiple of 8
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def bfloat16(x):
    """Rounded to the nearest bfloat16, as float64.  (...) -> (...)"""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    upper = (bits + 0x8000) & 0xFFFF0000
    return upper.astype(np.uint32).view(np.float32).astype(np.float64).reshape(np.shape(x))


@dataclass
class Policy:
    config: dict       # config.json
    weights: dict      # model.safetensors
    description: dict  # decoder.json: choices, level, sizes
    head: dict         # decoder.safetensors

    @property
    def choices(self):
        return self.description["choices"]

    @property
    def level(self):
        return self.description["level"]


def load(folder):
    """-> Policy"""
    folder = Path(folder)
    config, description = (json.loads((folder / name).read_text(encoding="utf-8"))
                           for name in ("config.json", "decoder.json"))
    return Policy(config, read_safetensors(folder / "model.safetensors"),
                  description, read_safetensors(folder / "decoder.safetensors"))


# ---- GPT-2 -------------------------------------------------------------------------------------

def forward(policy, idx):
    """Logits, and the hidden states after the final norm.  (B,T) -> (B,T,V), (B,T,C)"""
    config, weights = policy.config, policy.weights
    epsilon = config["layer_norm_epsilon"]

    def norm(name, x):
        centred = x - x.mean(-1, keepdims=True)
        x = centred / np.sqrt((centred ** 2).mean(-1, keepdims=True) + epsilon)
        return x * weights[f"transformer.{name}.weight"] + weights[f"transformer.{name}.bias"]

    def linear(name, x):  # GPT-2's are stored (in, out)
        return x @ weights[f"transformer.{name}.weight"] + weights[f"transformer.{name}.bias"]

    embedding = weights["transformer.wte.weight"]
    x = embedding[idx] + weights["transformer.wpe.weight"][:idx.shape[1]]  # (B,T,C)
    for layer in range(config["n_layer"]):
        h = f"h.{layer}."
        qkv = linear(h + "attn.c_attn", norm(h + "ln_1", x))  # (B,T,3C)
        x = x + linear(h + "attn.c_proj", attention(qkv, config["n_head"]))
        x = x + linear(h + "mlp.c_proj", gelu(linear(h + "mlp.c_fc", norm(h + "ln_2", x))))
    hidden = norm("ln_f", x)
    return hidden @ embedding.T, hidden


def attention(qkv, n_head):
    """Each position looks at itself and those before it.  (B,T,3C) -> (B,T,C)"""
    B, T, C = *qkv.shape[:2], qkv.shape[2] // 3
    heads = qkv.reshape(B, T, 3, n_head, C // n_head)
    q, k, v = heads.transpose(2, 0, 3, 1, 4)  # each (B,H,T,D)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(C // n_head)  # (B,H,T,T)
    later = np.triu(np.ones((T, T), bool), 1)
    shares = np.exp(log_softmax(np.where(later, -np.inf, scores)))
    return (shares @ v).swapaxes(1, 2).reshape(B, T, C)


def gelu(x):
    """GPT-2's, by the hyperbolic tangent."""
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))


def log_softmax(x):
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


# ---- the head: three linear layers, stored (out, in) -------------------------------------------

def head_logits(head, hidden):
    """Before the log-softmax that makes them log P(tau_k | h).  (...,C) -> (...,K)"""
    return head_layers(head, hidden)[-1][1]


def head_layers(head, hidden):
    """-> of each layer what goes in and what comes out: [((...,in), (...,out))]"""
    layers, x = [], hidden
    for name in HEAD:
        out = x @ head[f"{name}.weight"].T + head[f"{name}.bias"]
        layers.append((x, out))
        x = out * sigmoid(out)  # SiLU; not used after the last
    return layers


def head_gradient(head, hidden, d_logits):
    """d sum(logits * d_logits) / d weights.  (T,C), (T,K) -> {name: array}"""
    gradient, d_out = {}, d_logits
    layers = head_layers(head, hidden)
    for i in reversed(range(len(HEAD))):
        x, out = layers[i]
        gradient[f"{HEAD[i]}.weight"] = d_out.T @ x
        gradient[f"{HEAD[i]}.bias"] = d_out.sum(0)
        if i:
            before = layers[i - 1][1]
            s = sigmoid(before)  # d SiLU(z) / dz = s + z s (1 - s)
            d_out = (d_out @ head[f"{HEAD[i]}.weight"]) * (s + before * s * (1 - s))
    return gradient


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# ---- what a response is made of ----------------------------------------------------------------

def word_logps(logits, tau):
    """log P(word | tau); at 0 the arg-max, of a tie the lowest index.  (...,V) -> (...,V)"""
    if tau == 0:
        best = logits.argmax(-1)[..., None] == np.arange(logits.shape[-1])
        return np.where(best, 0.0, -np.inf)
    return log_softmax(logits / tau)


def aligned(policy, prompt, response):
    """What predicts each response token.  -> logits (T,V), hidden (T,C)"""
    logits, hidden = forward(policy, np.array([[*prompt, *response]]))
    before = slice(len(prompt) - 1, len(prompt) + len(response) - 1)
    return logits[0, before], hidden[0, before]


def deciding(policy, hidden):
    """Of response-aligned hidden states, those that the head reads.  (T,C) -> (T,C) or (1,C)"""
    return hidden if policy.level == "token" else hidden[:1]


def score(policy, prompt, response):
    """-> tau_logps (T,K) or (1,K), text_logps (T,K), mixture_logps (T,)"""
    logits, hidden = aligned(policy, prompt, response)
    tau_logps = log_softmax(head_logits(policy.head, deciding(policy, hidden)))
    at_tokens = np.arange(len(response)), list(response)
    text_logps = np.stack([word_logps(logits, tau)[at_tokens] for tau in policy.choices], -1)
    terms = np.exp(tau_logps + text_logps)  # (T,K)
    with np.errstate(divide="ignore"):
        mixture_logps = np.log(terms.sum(-1))  # no choice but 0 can be left: then -inf
    return dict(tau_logps=tau_logps, text_logps=text_logps, mixture_logps=mixture_logps)


def enumerated(policy, prompt, T, select, keep=lambda given: True):
    """Every response of up to T tokens, one token after the other.

    Yields for each t, over the H histories of t tokens that go on: P(history, choice k, word v) and
    P(word v | history, choice k), both (H,K,V). The next histories are each of these followed by
    every word but the end of text. select: "sample" draws the choice, "greedy" takes the most
    likely one. keep: (H,K,V) -> bool, which words a response may hold to be counted at all.
    """
    eos = policy.config["eos_token_id"]
    going_on = np.delete(np.arange(policy.config["vocab_size"]), eos)
    histories, reached = np.array([prompt]), None  # (H, tokens), (H,K): P(history, choice in force)
    for t in range(T):
        logits, hidden = (x[:, -1] for x in forward(policy, histories))  # (H,V), (H,C)
        if t == 0 or policy.level == "token":
            tau_odds = np.exp(log_softmax(head_logits(policy.head, hidden)))  # (H,K)
            if select == "greedy":
                tau_odds = np.eye(tau_odds.shape[1])[tau_odds.argmax(-1)]
            reached = tau_odds if t == 0 else reached.sum(1, keepdims=True) * tau_odds
        given = np.exp(np.stack([word_logps(logits, tau) for tau in policy.choices], 1))  # (H,K,V)
        joint = reached[:, :, None] * given * keep(given)
        yield joint, given
        reached = joint[:, :, going_on].swapaxes(1, 2).reshape(-1, joint.shape[1])
        words = np.tile(going_on, len(histories))[:, None]
        histories = np.hstack([np.repeat(histories, len(going_on), 0), words])


def event_odds(policy, prompt, T, select):
    """P(event t happens and is choice k, word v), of responses up to T tokens.  -> (T,K,V)"""
    return np.stack([joint.sum(0) for joint, _ in enumerated(policy, prompt, T, select)])


# ---- training the head: the oracle's derivatives by its logits, then the chain rule ------------

def oracle_response(policy, reference, prompt, ids, tau_idx):
    """-> oracle.Response without the head's logits, and the hidden states (L,C) that it reads

    reference: a Policy, frozen; or None: the same model, and no head.
    """
    logits, hidden = aligned(policy, prompt, ids)
    ref_logits, ref_tau_logits = logits, None
    if reference is not None:
        ref_logits, ref_hidden = aligned(reference, prompt, ids)
        ref_tau_logits = head_logits(reference.head, deciding(reference, ref_hidden)).tolist()
    response = oracle.Response(policy.choices, logits.tolist(), ref_logits.tolist(), ids,
                               [True] * len(ids), None, ref_tau_logits, tau_idx)
    return response, deciding(policy, hidden)


SCORES = {**oracle.SCORES,
          "exact_sequence": (oracle.exact_sequence_score, oracle.d_exact_sequence_score)}


def slopes_of(variant, beta, chosen, rejected):
    """The loss's derivatives by the scores of chosen and rejected; nll is minus the former alone"""
    if variant == "nll":
        return -1, 0
    score_of = SCORES[variant][0]
    slope = oracle.d_preference_loss(score_of(chosen) - score_of(rejected), beta)
    return slope, -slope


def trained(policy, reference, pairs, variant, beta, lr, steps):
    """The head after plain SGD steps on the mean loss of all pairs.  -> {name: array}"""
    d_score_of = SCORES[variant][1]
    sides = [[oracle_response(policy, reference, pair["prompt"], *pair[side])
              for side in ("chosen", "rejected")] for pair in pairs]
    head = dict(policy.head)
    for _ in range(steps):
        gradient = {name: np.zeros_like(w) for name, w in head.items()}
        for (chosen, of_chosen), (rejected, of_rejected) in sides:
            both = (chosen, of_chosen), (rejected, of_rejected)
            for response, h in both:
                response.tau_logits = head_logits(head, h).tolist()
            slopes = slopes_of(variant, beta, chosen, rejected)
            for slope, (response, h) in zip(slopes, both):
                d_logits = slope * np.array(d_score_of(response)[1])  # (L,K)
                for name, g in head_gradient(head, h, d_logits).items():
                    gradient[name] += g / len(pairs)
        head = {name: w - lr * gradient[name] for name, w in head.items()}
    return head
