"""Latent Preference Optimization (LPO): every loss of arXiv 2411.09661, and no model in sight.

A decoder draws a temperature tau_k, the language model a token y_t at it. Of several responses the
best is `chosen`, the worst `rejected`; the loss is DPO's, and a variant is no more than a score:
the temperature is a token beside the text (`joint`), a token alone (`separate`, equation 10), or a
latent that is summed out (`latent`). Scores are sums over response tokens, never means.
B responses, T tokens (padded), K temperatures, V vocabulary; column t is one sampling event."""
import math
from dataclasses import dataclass, replace
import torch
import torch.nn.functional as F

@dataclass
class ResponseLogps:
    """One side of a batch of pairs. Padding may hold anything, NaN included."""
    tau_logps: torch.Tensor                     # (B,T,K), sequence level (B,1,K): log P(tau_k | h)
    tau_idx: torch.Tensor                       # (B,T), sequence level (B,1), long: the one drawn
    mask: torch.Tensor                          # (B,T) bool: response tokens, end of text included
    text_logps: torch.Tensor | None = None      # (B,T,K): log P(y_t | tau_k), -inf allowed
    ref_text_logps: torch.Tensor | None = None  # (B,T,K): the same under the frozen reference
    ref_tau_logps: torch.Tensor | None = None   # like tau_logps; None: none, uniform in `latent`

def temperature_logps(logits, tokens, temperatures):
    """log P(y_t | tau_k) = log_softmax(l_t / tau_k)[y_t].  (B,T,V), (B,T), K floats -> (B,T,K)"""
    if not len(temperatures) or not all(0 <= tau < math.inf for tau in temperatures):
        raise ValueError(f"temperatures are {temperatures}; give finite numbers >= 0")
    outside = (tokens < 0) | (tokens >= logits.shape[-1])
    kind = torch.long, logits.shape[:-1], logits.device
    if (tokens.dtype, tokens.shape, tokens.device) != kind or outside.any():
        raise ValueError(f"tokens is {tokens.dtype} {*tokens.shape,}; give {kind}, 0 to V - 1")
    shifted, columns = logits - logits.amax(-1, keepdim=True).detach(), []  # no tau may overflow
    for tau in temperatures:
        if tau > torch.finfo(logits.dtype).tiny:  # those below would be 0, or 1 / tau infinite
            logps = F.log_softmax(shifted / tau, dim=-1)
        else:  # the limit from above: all mass on the arg-max, on a tie the lowest index
            logps = torch.full_like(shifted, -math.inf).scatter(-1, logits.argmax(-1, True), 0.0)
        columns.append(logps.gather(-1, tokens[..., None]))
    return torch.cat(columns, dim=-1)

def drawn(logps, tau_idx):
    """The column of the temperature drawn.  (B,T,K), (B,T) or (B,1) -> (B,T)"""
    return logps.gather(-1, tau_idx.expand(logps.shape[:2])[..., None]).squeeze(-1)

def log_ratio(logps, ref_logps):
    """log P - log Pref; 0, with zero gradient, where either is -inf.  (...), (...) -> (...)"""
    dead = logps.isneginf() | ref_logps.isneginf()
    return logps.masked_fill(dead, 0) - ref_logps.masked_fill(dead, 0)

def marginal(text_logps, tau_logps):
    """log sum_k P(y | tau_k) P(tau_k).  (...,K), (...,K) -> (...)"""
    terms = text_logps + tau_logps
    dead = terms.amax(-1).isneginf()  # a logsumexp of nothing but -inf has a NaN gradient
    return terms.clamp(torch.finfo(terms.dtype).min).logsumexp(-1).masked_fill(dead, -math.inf)

def separate_score(r):
    """sum_t log P(tau_t), minus the decoder reference's where there is one. Without one the token
    level favours short responses: a uniform one would add (n_chosen - n_rejected) log K."""
    policy = drawn(r.tau_logps, r.tau_idx).sum(-1)
    return policy if r.ref_tau_logps is None else policy - drawn(r.ref_tau_logps, r.tau_idx).sum(-1)

def joint_score(r):
    """sum_t [log P(y_t | tau_t) - log Pref(y_t | tau_t)] + the separate score."""
    text = log_ratio(drawn(r.text_logps, r.tau_idx), drawn(r.ref_text_logps, r.tau_idx))
    return text.sum(-1) + separate_score(r)

def latent_score(r, exact_sequence=False):
    """sum_t log sum_k P(y_t | tau_k) P(tau_k), minus the reference's; no drawn tau enters.
    exact_sequence: log sum_k P(tau_k) prod_t P(y_t | tau_k), the sequence level's true marginal."""
    uniform = torch.full_like(r.tau_logps, -math.log(r.tau_logps.shape[-1]))
    sides = [(r.text_logps, r.tau_logps),
             (r.ref_text_logps, uniform if r.ref_tau_logps is None else r.ref_tau_logps)]
    if exact_sequence:
        return log_ratio(*(marginal(text.sum(1), tau[:, 0]) for text, tau in sides))
    return log_ratio(*(marginal(*side) for side in sides)).masked_fill(~r.mask, 0).sum(-1)

SCORES = {"joint": joint_score, "separate": separate_score, "latent": latent_score}
VARIANTS = tuple(SCORES)

def prepared(r):
    """Checked; padding filled with 0 (a mask times NaN is NaN); the reference detached."""
    B, T, (L, K), fields = len(r.mask), r.mask.shape[-1], (1, 1, *r.tau_logps.shape)[-2:], {}
    for name, x in sorted((name, x) for name, x in vars(r).items() if x is not None):
        shape = (B, 1 if "tau" in name and L == 1 else T, K)[:3 if name.endswith("logps") else 2]
        kind = dict(mask=torch.bool, tau_idx=torch.long).get(name, torch.result_type(x, 0.5))
        if (x.shape, x.dtype, x.device) != (shape, kind, r.mask.device):
            raise ValueError(f"{name} is {x.dtype} {*x.shape,} {x.device}; give {kind} {shape}")
        if shape[1] == T:
            x = x.masked_fill(~r.mask[..., None] if x.dim() == 3 else ~r.mask, 0)
        if not (x.any(-1) if name == "mask" else (0 <= x) & (x < K) if name == "tau_idx" else
                x.sum() < math.inf).all():
            raise ValueError(f"{name}: no NaN/inf; indices in 0..{K - 1}; a token in every row")
        fields[name] = x.detach() if name.startswith("ref_") else x
    return replace(r, **fields)

def score(response, variant, exact_sequence=False):
    """One score a response, ValueError on what does not fit.  ResponseLogps -> (B,)"""
    if variant not in SCORES:
        raise ValueError(f"unknown variant {variant!r}; choose from {sorted(SCORES)}")
    if variant != "separate" and (response.text_logps is None or response.ref_text_logps is None):
        raise ValueError(f"{variant!r} needs text_logps and ref_text_logps (equal while frozen)")
    if exact_sequence and (variant != "latent" or response.tau_logps.shape[1:-1] != (1,)):
        raise ValueError("exact_sequence is for `latent` with a sequence-level decoder")
    r = prepared(response)
    return latent_score(r, exact_sequence=True) if exact_sequence else SCORES[variant](r)

def lpo_loss(chosen, rejected, variant, beta, exact_sequence=False):
    """-log sigmoid(beta * (score(chosen) - score(rejected))), one loss a pair.  -> (B,)"""
    if not 0 < beta < math.inf or len(chosen.mask) != len(rejected.mask):
        raise ValueError(f"beta is {beta}; give a finite one > 0, and as many chosen as rejected")
    margin = score(chosen, variant, exact_sequence) - score(rejected, variant, exact_sequence)
    return -F.logsigmoid(beta * margin)

def nll_loss(chosen):
    """-sum_t log P(tau_t) on chosen responses alone, the ablation.  ResponseLogps -> (B,)"""
    return -separate_score(replace(prepared(chosen), ref_tau_logps=None))
