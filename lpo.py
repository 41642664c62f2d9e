"""Latent Preference Optimization (LPO, arXiv 2411.09661): every loss, from log-probabilities alone.

A decoder samples a temperature tau_t; at this temperature the language model samples the token y_t.
The best of several responses to a prompt is `chosen`, the worst `rejected`. The loss is DPO's,
-log sigmoid(beta * (score(chosen) - score(rejected))); a variant is a score (P_ref is frozen):

    separate      sum_t log P(tau_t) [- log P_ref(tau_t)]                              (equation 10)
    joint         separate + sum_t [log P(y_t | tau_t) - log P_ref(y_t | tau_t)]
    latent        sum_t log sum_k P(tau_k) P(y_t | tau_k), minus the same under P_ref
    latent_exact  log sum_k P(tau_k) prod_t P(y_t | tau_k), minus the same (sequence level only)
    nll           no pair and no score: the loss is -sum_t log P(tau_t) of `chosen` (an ablation)"""
from dataclasses import dataclass, replace

import torch
from torch import Tensor, inf
from torch.nn.functional import logsigmoid

def require(condition, message):
    if not condition:
        raise ValueError(message)

@dataclass
class ResponseLogps:
    """One side, chosen or rejected, of B pairs: T tokens, K temperatures, L = T or 1 decisions."""
    tau_logps: Tensor                     # (B,L,K) log P(tau_k | h); L = 1: one for all tokens
    tau_idx: Tensor                       # (B,L) long: which temperature was sampled
    mask: Tensor                          # (B,T) bool: response tokens; the rest is padding
    text_logps: Tensor | None = None      # (B,T,K) log P(y_t | tau_k), may be -inf
    ref_text_logps: Tensor | None = None  # (B,T,K) the same under the frozen reference
    ref_tau_logps: Tensor | None = None   # (B,L,K) None: no reference; `latent` takes a uniform one

    def __post_init__(self):
        mask, idx = self.mask, self.tau_idx
        B, T = mask.shape
        L, K = self.tau_logps.shape[1:]
        require(mask.dtype == torch.bool and mask.any(1).all(), "mask: give bool, no empty rows")
        require(L in (1, T) and idx.shape == (B, L), f"tau_idx: give {(B, L)}; L: 1 or {T}")
        require((idx.long().clamp(0, K - 1) == idx).all(), f"tau_idx: give 0 to {K - 1}")
        for name, logps in vars(self).items():
            if "logps" not in name or logps is None:
                continue
            n = T if "text" in name else L
            require(logps.shape == (B, n, K), f"{name} is {(*logps.shape,)}; give {(B, n, K)}")
            if n == T:  # padding becomes 0; a product with the mask would keep NaN
                logps = logps.masked_fill(~mask[..., None], 0)
            require((logps < inf).all(), f"{name} has NaN or +inf at a response token")
            logps = logps.to(torch.promote_types(logps.dtype, torch.float32))
            setattr(self, name, logps.detach() if "ref" in name else logps)

def sampled(logps, tau_idx):
    """The entries of the sampled temperatures.  (B,n,K), (B,n) or (B,1) -> (B,n)"""
    return logps.take_along_dim(tau_idx.long()[..., None], -1)[..., 0]

def log_ratio(logps, ref_logps):
    """log P - log P_ref; 0, without gradient, where one is -inf: temperature 0 forbids tokens."""
    impossible = (logps + ref_logps).isneginf()
    return (logps - ref_logps).masked_fill(impossible, 0)

def marginal(text_logps, tau_logps):
    """log sum_k P(tau_k) P(y | tau_k): the temperature is summed out.  (...,K), (...,K) -> (...)"""
    terms = text_logps + tau_logps
    impossible = terms.isneginf().all(-1)  # there the gradient of logsumexp would be NaN
    return terms.clamp(-1e38).logsumexp(-1).masked_fill(impossible, -inf)

def separate(r):
    """Favours short responses unless a uniform reference adds (n_chosen - n_rejected) log K."""
    ref = 0 if r.ref_tau_logps is None else sampled(r.ref_tau_logps, r.tau_idx)
    return (sampled(r.tau_logps, r.tau_idx) - ref).sum(-1)

def joint(r):  # equals separate while the language model is frozen: then the text terms cancel
    text = log_ratio(sampled(r.text_logps, r.tau_idx), sampled(r.ref_text_logps, r.tau_idx))
    return text.sum(-1) + separate(r)

def latent(r):  # at sequence level, too, the temperature is summed out at each token by itself
    ref = r.ref_tau_logps
    if ref is None:
        ref = torch.zeros_like(r.tau_logps).log_softmax(-1)  # uniform
    ratio = log_ratio(marginal(r.text_logps, r.tau_logps), marginal(r.ref_text_logps, ref))
    return ratio.masked_fill(~r.mask, 0).sum(-1)

def latent_exact(r):  # as if the response were one token, of probability prod_t P(y_t | tau_k)
    require(r.tau_logps.shape[1] == 1, "latent_exact needs a sequence-level decoder")
    text, ref_text = r.text_logps.sum(1, True), r.ref_text_logps.sum(1, True)  # (B,1,K)
    return latent(replace(r, mask=r.mask.any(1, True), text_logps=text, ref_text_logps=ref_text))

SCORES = dict(separate=separate, joint=joint, latent=latent, latent_exact=latent_exact)
VARIANTS = (*SCORES, "nll")

def lpo_loss(chosen, rejected, variant, beta):
    """The loss of each pair, (B,), from the ResponseLogps of its two sides. Raises ValueError."""
    require(variant in VARIANTS, f"unknown variant {variant!r}; choose from {VARIANTS}")
    require(0 < beta < inf, f"beta is {beta}; give a finite number above 0")
    if variant == "nll":
        return -sampled(chosen.tau_logps, chosen.tau_idx).sum(-1)
    kinds = {(*r.tau_logps.shape[::2], r.ref_tau_logps is None) for r in (chosen, rejected)}
    require(len(kinds) == 1, "both sides need the same B, the same K, and ref_tau_logps or none")
    for name in ("text_logps", "ref_text_logps") if variant != "separate" else ():
        given = getattr(chosen, name) is not None and getattr(rejected, name) is not None
        require(given, f"{variant!r} needs {name}")
    return -logsigmoid(beta * (SCORES[variant](chosen) - SCORES[variant](rejected)))
