"""Latent Preference Optimization (LPO): every loss of arXiv 2411.09661, and no model in sight.

A decoder draws a temperature tau_k, then the language model draws a token y_t at it. Of several
responses to a prompt the best is `chosen`, the worst `rejected`. The loss is DPO's,

    -log sigmoid(beta * (score(chosen) - score(rejected))),

and a variant is no more than a score: the temperature is a token beside the text (`joint`), a
token alone (`separate`, equation 10), or a latent that is summed out (`latent`).

Nothing here needs the choice to be a temperature: wherever tau_k stands, it may be any setting of a
sampler, a function from logits to log-probabilities (`word_logps`). The losses do not change.

B responses, T response tokens (padded), K temperatures, V words. Column t of every array is one
sampling event: a temperature and the token drawn at it. Scores are sums over tokens, not means.
"""
import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

HOTTEST = 1e30  # temperatures beyond would overflow in single precision


@dataclass
class ResponseLogps:
    """One side, chosen or rejected, of a batch of pairs; padding may hold anything, NaN too."""
    tau_logps: torch.Tensor                     # (B,T,K), sequence level (B,1,K): log P(tau_k | h)
    tau_idx: torch.Tensor                       # (B,T), sequence level (B,1), long: the one drawn
    mask: torch.Tensor                          # (B,T) bool: response tokens, end of text included
    text_logps: torch.Tensor | None = None      # (B,T,K): log P(y_t | tau_k), -inf allowed
    ref_text_logps: torch.Tensor | None = None  # (B,T,K): the same under the frozen reference
    ref_tau_logps: torch.Tensor | None = None   # like tau_logps; None: none, uniform in `latent`


# --- what a choice, a temperature or a function, does to logits -----------------------------------


def at_least_float32(x):
    """Half precision is for models: a sum over 500 tokens or a softmax needs more."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def word_logps(logits, choice):
    """log P(word | choice): the one place where a choice is applied.  (...,V) -> (...,V)

    A temperature tau gives log softmax(logits / tau). Temperature 0 is the limit from above: all
    mass on the arg-max, on a tie on the lowest index. A function is called with the logits.
    """
    logits = at_least_float32(logits)
    if callable(choice):
        return choice(logits)
    if choice < torch.finfo(logits.dtype).tiny:  # 0, or so small that 1 / tau would be infinite
        return torch.full_like(logits, -math.inf).scatter(-1, logits.argmax(-1, True), 0.0)
    below_best = logits - logits.amax(-1, keepdim=True).detach()  # else a small tau overflows
    return F.log_softmax(below_best / choice, dim=-1)


def temperature_logps(logits, tokens, choices):
    """log P(y_t | tau_k) of each token at each choice.  (B,T,V), (B,T), K choices -> (B,T,K)

    Raises ValueError on choices that are none (`checked_choices`), on functions that do not give
    log-probabilities, and on tokens that do not fit the logits.
    """
    require_kind("tokens", tokens, "long", logits.shape[:-1], logits.device)
    require(((tokens >= 0) & (tokens < logits.shape[-1])).all(), "tokens has ids outside 0..V-1")
    of_tokens = []
    for choice in checked_choices(choices):
        logps = word_logps(logits, choice)
        if callable(choice):
            require((logps.logsumexp(-1).abs() < 1e-3).all(), f"{choice} gives no distribution")
        of_tokens.append(logps.gather(-1, tokens[..., None]))
    return torch.cat(of_tokens, dim=-1)


# --- pieces of a score ----------------------------------------------------------------------------


def drawn(logps, tau_idx):
    """The column of the temperature that was drawn.  (B,T,K), (B,T) or (B,1) -> (B,T)"""
    return logps.gather(-1, tau_idx.expand(logps.shape[:2])[..., None]).squeeze(-1)


def log_ratio(logps, ref_logps):
    """log P - log Pref; 0, with zero gradient, where either is -inf.  (...), (...) -> (...)

    At temperature 0 a token may have become impossible, and -inf - -inf would be NaN. Our choice.
    """
    impossible = logps.isneginf() | ref_logps.isneginf()
    return logps.masked_fill(impossible, 0) - ref_logps.masked_fill(impossible, 0)


def marginal(text_logps, tau_logps):
    """log sum_k P(y | tau_k) P(tau_k): the temperature summed out.  (...,K), (...,K) -> (...)"""
    terms = text_logps + tau_logps
    impossible = terms.amax(-1).isneginf()  # a logsumexp of nothing but -inf has a NaN gradient
    terms = terms.clamp(torch.finfo(terms.dtype).min)
    return terms.logsumexp(-1).masked_fill(impossible, -math.inf)


# --- the scores, one a variant: sums over T without a mask, since `prepared` has put zeros there --


def separate_score(r):
    """sum_t log P(tau_t): temperatures as tokens (equation 10).  ResponseLogps -> (B,)

    The decoder reference's is subtracted where there is one. Without one the token level favours
    short responses: a uniform one would add (n_chosen - n_rejected) log K to the margin.
    """
    total = drawn(r.tau_logps, r.tau_idx).sum(-1)
    if r.ref_tau_logps is not None:
        total = total - drawn(r.ref_tau_logps, r.tau_idx).sum(-1)
    return total


def joint_score(r):
    """sum_t [log P(y_t | tau_t) - log Pref(y_t | tau_t)], plus the separate score.  -> (B,)"""
    text = log_ratio(drawn(r.text_logps, r.tau_idx), drawn(r.ref_text_logps, r.tau_idx))
    return text.sum(-1) + separate_score(r)


def reference_tau_logps(r):
    """The reference decoder's, in `latent` a uniform one where there is none.  -> like tau_logps"""
    if r.ref_tau_logps is not None:
        return r.ref_tau_logps
    return torch.full_like(r.tau_logps, -math.log(r.tau_logps.shape[-1]))


def latent_score(r):
    """sum_t log sum_k P(y_t | tau_k) P(tau_k), minus the same under the reference.  -> (B,)

    The temperatures that were drawn do not enter, and so neither does the noise of drawing them.
    """
    policy = marginal(r.text_logps, r.tau_logps)
    reference = marginal(r.ref_text_logps, reference_tau_logps(r))
    of_tokens = log_ratio(policy, reference)
    return of_tokens.masked_fill(~r.mask, 0).sum(-1)  # a sum over k of zeros is log K, not 0


def exact_latent_score(r):
    """log sum_k P(tau_k) prod_t P(y_t | tau_k), minus the reference's.  ResponseLogps -> (B,)

    A sequence-level decoder's true marginal, which latent_score's sum over tokens is not.
    """
    policy = marginal(r.text_logps.sum(1), r.tau_logps[:, 0])
    reference = marginal(r.ref_text_logps.sum(1), reference_tau_logps(r)[:, 0])
    return log_ratio(policy, reference)


SCORES = {"joint": joint_score, "separate": separate_score, "latent": latent_score}
VARIANTS = tuple(SCORES)


# --- the losses -----------------------------------------------------------------------------------


def score(response, variant, exact_sequence=False, check=True):
    """One score a response.  ResponseLogps -> (B,)

    exact_sequence: `latent` with a sequence-level decoder's exact marginal. check: False leaves
    out the checks of values, for which a GPU has to be waited for. Raises ValueError on an unknown
    variant, on arrays that it lacks, and on whatever does not fit.
    """
    require(variant in SCORES, f"unknown variant {variant!r}; choose from {sorted(SCORES)}")
    has_text = response.text_logps is not None and response.ref_text_logps is not None
    require(variant == "separate" or has_text,
            f"{variant!r} needs text_logps and ref_text_logps (equal while the model is frozen)")
    require(not exact_sequence or variant == "latent" and response.tau_logps.shape[1:-1] == (1,),
            "exact_sequence is for `latent` with a sequence-level decoder")
    score_of = exact_latent_score if exact_sequence else SCORES[variant]
    return score_of(prepared(response, check))


def lpo_loss(chosen, rejected, variant, beta, exact_sequence=False, check=True):
    """-log sigmoid(beta * (score(chosen) - score(rejected))), one loss a pair.  -> (B,)"""
    require(0 < beta < math.inf, f"beta is {beta}; give a finite number > 0")
    require(len(chosen.mask) == len(rejected.mask), "give as many chosen as rejected, in pairs")
    how = variant, exact_sequence, check
    margin = score(chosen, *how) - score(rejected, *how)
    return -F.logsigmoid(beta * margin)


def nll_loss(chosen, check=True):
    """-sum_t log P(tau_t) of chosen responses alone, the paper's ablation.  -> (B,)"""
    return -separate_score(prepared(replace(chosen, ref_tau_logps=None), check))


# --- checks: what does not fit is named, and padding becomes zero ---------------------------------


def require(fits, message):
    """ValueError with the message, unless it fits."""
    if not fits:
        raise ValueError(message)


def require_kind(name, x, kind, shape, device):
    """ValueError unless the tensor is of the kind ("long" or "float"), shape and device."""
    fits = x.is_floating_point() if kind == "float" else x.dtype == torch.long
    require(fits and x.shape == shape and x.device == device,
            f"{name} is {x.dtype} {*x.shape,} on {x.device}; give {kind} {*shape,} on {device}")


def checked_choices(choices):
    """As a tuple, temperatures as floats; ValueError unless there are some and each is one.

    A choice is a temperature from 0 to HOTTEST, or a function (...,V) -> (...,V) from logits to
    log-probabilities, -inf for what it never draws, with a `name`.
    """
    choices = tuple(choice if callable(choice) else float(choice) for choice in choices)
    fits = [hasattr(x, "name") if callable(x) else 0 <= x <= HOTTEST for x in choices]
    require(choices and all(fits), f"choices are {choices}; give temperatures from 0 to "
                                   f"{HOTTEST:g} or functions with a name")
    return choices


def prepared(r, check=True):
    """The same side, checked, its padding zero and its reference detached.  -> ResponseLogps

    Zeros are filled in: a mask that multiplies would leave the NaN of the padding. check: of values
    too, and not of kinds and shapes alone.
    """
    require(r.mask.dtype == torch.bool and r.mask.dim() == 2,
            f"mask is {r.mask.dtype} {*r.mask.shape,}; give bool (B,T)")
    B, T = r.mask.shape
    require(r.tau_logps.dim() == 3 and r.tau_logps.shape[1] in (1, T),
            f"tau_logps is {*r.tau_logps.shape,}; give (B,T,K), at the sequence level (B,1,K)")
    L, K = r.tau_logps.shape[1:]  # L decisions: one a token, or one a response
    require_kind("tau_idx", r.tau_idx, "long", (B, L), r.mask.device)
    tau_idx = r.tau_idx.masked_fill(~r.mask, 0) if L == T else r.tau_idx
    require(not check or r.mask.any(-1).all(), "mask has a row without a token; leave it out")
    require(not check or ((tau_idx >= 0) & (tau_idx < K)).all(), f"tau_idx is outside 0..{K - 1}")
    side = dict(mask=r.mask, tau_idx=tau_idx)
    for name, n in dict(tau_logps=L, ref_tau_logps=L, text_logps=T, ref_text_logps=T).items():
        if (x := getattr(r, name)) is None:
            continue
        require_kind(name, x, "float", (B, n, K), r.mask.device)
        x = x.masked_fill(~r.mask[..., None], 0) if n == T else x
        # one NaN or +inf shows in the sum, and -inf may stand
        require(not check or x.sum() < math.inf, f"{name} has a NaN or +inf at a response token")
        side[name] = at_least_float32(x.detach() if name.startswith("ref_") else x)
    return ResponseLogps(**side)
