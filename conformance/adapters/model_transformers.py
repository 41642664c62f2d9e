"""Hugging Face's GPT2LMHeadModel with a head and losses of its own, in batches padded on the left.

    python conformance/check_model.py conformance/adapters/model_transformers.py

How a trainer built on transformers would do it: attention mask and positions made from the padding,
responses flush right. `pairs` is left out, which the checker allows.
"""
import json
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

DTYPE = "float64"  # check_model.py --dtype overwrites it
INF = float("inf")


@lru_cache
def load_model(folder, dtype):
    return GPT2LMHeadModel.from_pretrained(folder).to(getattr(torch, dtype))


def description(folder):
    return json.loads((Path(folder) / "decoder.json").read_text(encoding="utf-8"))


def load_head(folder):
    """-> {name: weight}, which may be trained"""
    weights = load_file(Path(folder) / "decoder.safetensors")
    return {name: w.to(getattr(torch, DTYPE)).requires_grad_() for name, w in weights.items()}


def head_logps(head, hidden):
    """log P(tau_k | h).  (...,C) -> (...,K)"""
    for name in ("mlp.0", "mlp.2"):
        hidden = F.silu(F.linear(hidden, head[f"{name}.weight"], head[f"{name}.bias"]))
    return F.linear(hidden, head["mlp.4.weight"], head["mlp.4.bias"]).log_softmax(-1)


def left_padded(rows, pad):
    """B lists of ids -> ids (B,S), attention mask (B,S)"""
    S = max(map(len, rows))
    ids = torch.tensor([[pad] * (S - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (S - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def positions(mask):
    """The first token of a row is at 0, wherever it stands.  (B,S) -> (B,S)"""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def word_logps(logits, tau):
    """log P(word | tau), at 0 the arg-max.  (...,V) -> (...,V)"""
    if tau == 0:
        best = F.one_hot(logits.argmax(-1), logits.shape[-1]).bool()
        return torch.zeros_like(logits).masked_fill(~best, -INF)
    return (logits / tau).log_softmax(-1)


# ---- scoring -----------------------------------------------------------------------------------

@torch.no_grad()
def frozen_pass(folder, prompts, responses):
    """What the frozen model gives, flush right.

    -> text_logps (B,T,K), mask (B,T), hidden (B,T,C) or at the sequence level (B,1,C)
    """
    model, d = load_model(str(folder), DTYPE), description(folder)
    pad = model.config.eos_token_id  # GPT-2 has no padding of its own
    rows = [[*prompt, *response] for prompt, response in zip(prompts, responses)]
    ids, attention = left_padded(rows, pad)
    out = model(ids, attention_mask=attention, position_ids=positions(attention),
                output_hidden_states=True)
    lengths = torch.tensor([len(response) for response in responses])
    T = int(lengths.max())
    logits, hidden = out.logits[:, -T - 1:-1], out.hidden_states[-1][:, -T - 1:-1]
    text_logps = torch.stack([word_logps(logits, tau).gather(-1, ids[:, -T:, None])[..., 0]
                              for tau in d["choices"]], -1)
    mask = torch.arange(T) >= T - lengths[:, None]
    if d["level"] == "sequence":  # the head reads the last prompt token's state alone
        hidden = hidden[torch.arange(len(rows)), T - lengths][:, None]
    return text_logps, mask, hidden


def score(policy, prompts, responses):
    if not all(responses):
        raise ValueError("a response is empty; leave such rows out")
    text_logps, mask, hidden = frozen_pass(policy, prompts, responses)
    with torch.no_grad():
        tau_logps = head_logps(load_head(policy), hidden)
    mixture = (text_logps + tau_logps).logsumexp(-1)
    answer = []
    for b, valid in enumerate(mask):
        of_row = tau_logps[b] if tau_logps.shape[1] == 1 else tau_logps[b, valid]
        answer.append(dict(tau_logps=of_row.numpy(), text_logps=text_logps[b, valid].numpy(),
                           mixture_logps=mixture[b, valid].numpy()))
    return answer


# ---- generation --------------------------------------------------------------------------------

@torch.no_grad()
def generate(policy, prompts, max_new_tokens, n, seed, select):
    model, d, head = load_model(str(policy), DTYPE), description(policy), load_head(policy)
    eos, generator = model.config.eos_token_id, torch.Generator().manual_seed(seed)
    ids, attention = left_padded([prompt for prompt in prompts for _ in range(n)], eos)
    words, taus = [], []
    for t in range(max_new_tokens):
        out = model(ids, attention_mask=attention, position_ids=positions(attention),
                    output_hidden_states=True)
        logits = out.logits[:, -1]
        if t == 0 or d["level"] == "token":
            odds = head_logps(head, out.hidden_states[-1][:, -1]).exp()  # (B,K)
            greedy = select == "greedy"
            tau_idx = odds.argmax(-1) if greedy else odds.multinomial(1, generator=generator)[:, 0]
        every = torch.stack([word_logps(logits, tau) for tau in d["choices"]], 1)  # (B,K,V)
        chosen = every[torch.arange(len(every)), tau_idx].exp()
        words.append(chosen.multinomial(1, generator=generator)[:, 0])
        ids = torch.cat([ids, words[-1][:, None]], 1)
        attention = F.pad(attention, (0, 1), value=1)
        taus.append(tau_idx)
    rows = [(ids[:ids.index(eos) + 1] if eos in ids else ids, of_ids)
            for ids, of_ids in zip(torch.stack(words, 1).tolist(), torch.stack(taus, 1).tolist())]
    rows = [(ids, of_ids[:len(ids)] if d["level"] == "token" else of_ids[:1])
            for ids, of_ids in rows]
    return [rows[i:i + n] for i in range(0, len(rows), n)]


# ---- training ----------------------------------------------------------------------------------

def side_of(policy, reference, batch, side):
    """What a step needs of one side of the pairs and no step changes."""
    prompts = [pair["prompt"] for pair in batch]
    responses = [pair[side][0] for pair in batch]
    text_logps, mask, hidden = frozen_pass(policy, prompts, responses)
    of_side = dict(text=text_logps, mask=mask, hidden=hidden, ref_text=text_logps, ref_tau=None)
    # flush right as the tokens are; a decision a row needs no mask
    of_side["tau_idx"] = left_padded([pair[side][1] for pair in batch], 0)[0]
    if reference:
        of_side["ref_text"], _, ref_hidden = frozen_pass(reference, prompts, responses)
        with torch.no_grad():
            of_side["ref_tau"] = head_logps(load_head(reference), ref_hidden)
    return of_side


def total(per_token, mask):
    """Sum over response tokens, or of the only decision.  (B,T) or (B,1), (B,T) -> (B,)"""
    if per_token.shape[1] == 1 < mask.shape[1]:
        return per_token[:, 0]
    return per_token.masked_fill(~mask, 0).sum(1)


def of_drawn(logps, tau_idx):
    return logps.gather(-1, tau_idx.expand(logps.shape[:2])[..., None])[..., 0]


def ratio(logps, ref_logps):
    """0 where either is impossible."""
    lost = logps.isinf() | ref_logps.isinf()
    return logps.masked_fill(lost, 0) - ref_logps.masked_fill(lost, 0)


def side_score(s, head, variant):
    tau = head_logps(head, s["hidden"])  # (B,L,K)
    ref_tau = s["ref_tau"]
    if variant in ("latent", "exact_sequence") and ref_tau is None:
        ref_tau = torch.full_like(tau, 1 / tau.shape[-1]).log()
    if variant == "latent":
        # at least one of the choices is above 0, so that no sum is empty
        mixtures = [(text + of_tau).logsumexp(-1)
                    for text, of_tau in ((s["text"], tau), (s["ref_text"], ref_tau))]
        return total(ratio(*mixtures), s["mask"])
    if variant == "exact_sequence":
        of_choices = [text.masked_fill(~s["mask"][..., None], 0).sum(1) + of_tau[:, 0]
                      for text, of_tau in ((s["text"], tau), (s["ref_text"], ref_tau))]  # (B,K)
        return ratio(*(x.logsumexp(-1) for x in of_choices))
    value = total(of_drawn(tau, s["tau_idx"]), s["mask"])
    if ref_tau is not None:
        value = value - total(of_drawn(ref_tau, s["tau_idx"]), s["mask"])
    if variant == "joint":
        text, ref_text = (of_drawn(s[name], s["tau_idx"]) for name in ("text", "ref_text"))
        value = value + total(ratio(text, ref_text), s["mask"])
    return value


def pair_losses(chosen, rejected, head, variant, beta):
    """(B,)"""
    if variant == "nll":
        return -side_score({**chosen, "ref_tau": None}, head, "separate")
    margin = side_score(chosen, head, variant) - side_score(rejected, head, variant)
    return -F.logsigmoid(beta * margin)


def train(policy, reference, pairs, variant, level, beta, lr, steps, micro_batches):
    head = load_head(policy)
    starts = torch.tensor([0, *micro_batches]).cumsum(0).tolist()
    batches = [[side_of(policy, reference, pairs[a:b], side) for side in ("chosen", "rejected")]
               for a, b in zip(starts, starts[1:])]
    for _ in range(steps):
        for chosen, rejected in batches:
            (pair_losses(chosen, rejected, head, variant, beta).sum() / len(pairs)).backward()
        with torch.no_grad():
            for w in head.values():
                w -= lr * w.grad
                w.grad = None
    return {name: w.detach().numpy() for name, w in head.items()}
