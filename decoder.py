"""The AdaptiveDecoder, generation at the temperatures it picks, and log-probabilities for losses.

A small network turns hidden states into probabilities of K temperatures. `generate` samples a
temperature, then a token at that temperature, token by token; `response_logps` scores what was
sampled. The model is any causal module that returns (logits, hidden).

In place of a temperature there may be another *choice*: a function of the logits with a name,
such as a truncation. A choice with `memory = True` also sees how often each token has been written,
such as a penalty on repetition (toy/samplers.py). Names with tau mean choices of any kind.
`choice_logps` applies a choice (fast/ does the same faster on a GPU).

B responses (R of them unfinished), T response tokens, K choices, V vocabulary size, C hidden width.
"""
import contextlib
import json
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from lpo import ResponseLogps, require

LEVELS = ("token", "sequence")
HOTTEST = 1e30  # far above any use; in float32 the limit is about 1e38


class AdaptiveDecoder(nn.Module):
    """A 3-layer MLP: hidden state -> log-probabilities of K choices.

    Level "token" picks a choice before each token; "sequence" picks one per response, from the last
    prompt token's hidden state. The last layer starts at zero, so all choices start equally likely.
    Saved weights carry their choices' names and level; a decoder with others refuses them. Raises
    ValueError on an invalid choice, on two of one name, and on an unknown level.
    """

    def __init__(self, n_embd, choices=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0), level="token",
                 n_hidden=None):
        super().__init__()
        require(level in LEVELS, f"unknown level {level!r}; choose from {LEVELS}")
        self.level = level
        self.choices = checked_choices(choices)
        self.names = tuple(map(choice_name, self.choices))
        require(len(set(self.names)) == len(self.names), f"choices share a name: {self.names}")
        n_hidden = n_hidden or n_embd  # the paper does not give its width
        last = nn.Linear(n_hidden, len(self.choices))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(n_embd, n_hidden), nn.SiLU(),
                                 nn.Linear(n_hidden, n_hidden), nn.SiLU(),
                                 last)

    def forward(self, hidden):
        """log P(choice k | h).  (...,C) -> (...,K)"""
        hidden = hidden.to(self.mlp[0].weight.dtype)  # the model may be in half precision
        return F.log_softmax(at_least_float32(self.mlp(hidden)), dim=-1)

    def response(self, hidden):
        """Log-probabilities of the choices at each decision of responses.  -> (B,T,K) or (B,1,K)

        hidden (B,T,C) predicts the tokens: hidden[:, 0] is at the last prompt token.
        """
        return self(hidden if self.level == "token" else hidden[:, :1])

    def get_extra_state(self):
        """Names and level as bytes in a tensor, which every file format for weights can hold."""
        return torch.tensor([*json.dumps([*self.names, self.level]).encode()], dtype=torch.uint8)

    def set_extra_state(self, state):
        saved = json.loads(bytes(state.tolist()))
        ours = [*self.names, self.level]
        require(saved == ours, f"these weights are of {saved}; this decoder is of {ours}")


# --- choices --------------------------------------------------------------------------------------


def checked_choices(choices):
    """Temperatures, as floats, and functions.  -> tuple; ValueError if one is invalid"""
    choices = tuple(x if callable(x) else float(x) + 0.0 for x in choices)  # -0.0 is 0.0
    valid = [hasattr(x, "name") if callable(x) else 0 <= x <= HOTTEST for x in choices]
    require(choices and all(valid), f"choices are {choices}; give temperatures from 0 to "
                                    f"{HOTTEST:g}, or functions of logits with a name")
    return choices


def choice_name(choice):
    """The name of a choice in saved weights and messages, with all digits.  -> str"""
    return choice.name if callable(choice) else repr(float(choice)).removesuffix(".0")


def has_memory(choice):
    """Does the choice depend on how often each token has been written?"""
    return getattr(choice, "memory", False)


def counts_of(tokens, V):
    """How often each token of the vocabulary is among `tokens`.  (R,t) -> (R,V)"""
    counts = torch.zeros(len(tokens), V, dtype=torch.float32, device=tokens.device)
    return counts.scatter_add(1, tokens, torch.ones_like(tokens, dtype=counts.dtype))


def at_least_float32(x):
    """x, in float32 if it is in half precision, which is too coarse for softmaxes and sums."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def choice_logps(logits, choice, counts=None):
    """log P(token | choice) of all tokens: the only place in this file that applies a choice.

    (...,V) -> (...,V). A temperature tau gives log softmax(logits / tau). At temperature 0 all
    probability is on the arg-max; ties go to the lowest index. counts (...,V), for a choice with a
    memory: how often each token occurs earlier in the response (the prompt does not count).
    """
    logits = at_least_float32(logits)
    if has_memory(choice):
        return choice(logits, counts)
    if callable(choice):
        return choice(logits)
    best, at = logits.detach().max(-1, True)
    if choice < torch.finfo(logits.dtype).tiny:  # 0, or too small to divide by
        certain = best - best  # log 1, and NaN where the logits have NaN
        return torch.full_like(logits, -math.inf).scatter(-1, at, certain)
    return F.log_softmax((logits - best) / choice, dim=-1)  # - best: logits / choice may overflow


def temperature_logps(logits, tokens, choices):
    """log P(y_t | choice k) of each token at each choice.  (B,T,V), (B,T), K choices -> (B,T,K)

    At column t a memory counts columns 0 to t - 1. Raises ValueError on an invalid
    choice, and if one does not give a distribution.
    """
    T, V = logits.shape[1:]
    per_choice = []
    for choice in checked_choices(choices):
        if has_memory(choice):  # one column at a time: counts of all would be another (B,T,V)
            columns = [slice(t, t + 1) for t in range(T)]
        else:
            columns = [slice(None)]
        parts = []
        for column in columns:
            counts = None
            if has_memory(choice):
                counts = counts_of(tokens[:, :column.start], V)[:, None]  # (B,1,V)
            logps = choice_logps(logits[:, column], choice, counts)
            # sampling would normalise any positive numbers; the losses would not
            sums_to_1 = (logps.logsumexp(-1).abs() < 1e-3).all()
            require(sums_to_1, f"no distribution: the model gives NaN, or {choice_name(choice)} is "
                               "wrong")
            parts.append(logps.gather(-1, tokens[:, column, None]))
        per_choice.append(torch.cat(parts, dim=1))  # (B,T,1)
    return torch.cat(per_choice, dim=-1)


# --- generation -----------------------------------------------------------------------------------


@dataclass
class Rollout:
    """What `generate` sampled. Column t of tokens, mask and tau_idx is one sampling event."""
    tokens: torch.Tensor           # (B,T) long: response tokens, without the prompt
    mask: torch.Tensor             # (B,T) bool: response tokens, end of text included
    cut: torch.Tensor              # (B,) bool: no end of text within max_new_tokens
    tau_idx: torch.Tensor | None   # (B,T) or (B,1) long: which choice; None without a decoder

    def __getitem__(self, rows):
        """Some of the responses: a list, slice or index tensor."""
        return Rollout(*(None if x is None else x[rows] for x in vars(self).values()))


@torch.inference_mode(False)  # tensors that are made in inference mode cannot be trained on
@torch.no_grad()
def generate(model, prompts, max_new_tokens, decoder=None, temperature=None, tau_select="sample",
             eos=None, generator=None, loop=None):
    """Sample one response per prompt.  B token lists, of unequal lengths too -> Rollout

    Give a decoder or a temperature. The latter is one choice, a table of numbers that broadcasts to
    (B, max_new_tokens), or a function of what was written, tokens (B,t) -> B choices for column t
    (ignore what follows a row's end of text).
    tau_select: "greedy" takes the decoder's most likely choice (equation 4), "sample" samples one
    (equation 5). eos: the id that ends a response, or several, or None. loop: what to use in place
    of sampling_loop, with its arguments (fast/ has a faster one). A model in train() mode is used
    as in eval() mode. Raises ValueError if prompt and new tokens exceed the context, if an eos is
    outside the vocabulary, and if model, decoder or a choice give NaN or no possible token.
    """
    T = max_new_tokens
    require((decoder is None) != (temperature is None), "give either a decoder or a temperature")
    require(tau_select in ("sample", "greedy"), f"tau_select is {tau_select!r}; give sample or "
                                                "greedy")
    require(T >= 1, f"max_new_tokens is {T}; give 1 or more")
    plan = None if decoder is not None else planned(temperature, len(prompts), T)
    ends = torch.tensor([] if eos is None else eos, dtype=torch.long, device=device_of(model))
    ends = ends.flatten()
    loop = loop or sampling_loop
    with evaluating(model):
        tokens, tau_idx = loop(model, list(map(tuple, prompts)), T, decoder, plan,
                               tau_select == "greedy", ends, generator)
    is_end = torch.isin(tokens, ends)
    mask = is_end.cumsum(1) - is_end.long() == 0  # no end of text in the columns before
    tau_idx = tau_idx.masked_fill(~mask, 0)
    if decoder is None:
        tau_idx = None
    elif decoder.level == "sequence":
        tau_idx = tau_idx[:, :1]
    return Rollout(tokens.masked_fill(~mask, 0), mask, ~is_end.any(1), tau_idx)


def sampling_loop(model, prompts, T, decoder, plan, greedy, ends, generator):
    """Hidden state, choice, token; again for each column.  -> tokens (B,T), tau_idx (B,T)"""
    index_of = {prompt: n for n, prompt in enumerate(dict.fromkeys(prompts))}
    next_tokens, pad = padded(model, list(index_of), T, left=True)
    device = next_tokens.device
    prompt_of = torch.tensor([index_of[prompt] for prompt in prompts], device=device)
    reader = Reader(model, pad, next_tokens.shape[1] + T)
    tokens = torch.zeros(len(prompts), T, dtype=torch.long, device=device)
    tau_idx = torch.zeros_like(tokens)
    rows = torch.arange(len(prompts), device=device)  # numbers of the responses in the batch
    active = torch.ones_like(rows, dtype=torch.bool)  # those with no end of text yet
    with torch.inference_mode():  # faster than no_grad
        for t in range(T):
            # Read the newest tokens. Samples of one prompt share the pass over the prompt.
            logits, hidden = reader.read(next_tokens)  # (R,V), (R,C)
            V = logits.shape[1]
            if t == 0:
                require(((0 <= ends) & (ends < V)).all(), f"eos is {ends.tolist()}; give ids below "
                                                          f"{V}")
                logits, hidden = logits[prompt_of], hidden[prompt_of]
                reader.keep(prompt_of)

            # Pick a choice per row: the decoder's, at each token or once, or the planned one.
            if decoder is None:
                choices, k = numbered(plan, tokens[:, :t])
                k = k[rows]
            elif t == 0 or decoder.level == "token":
                choices = decoder.choices
                tau_logps = decoder(hidden)  # (R,K)
                require(not tau_logps.isnan().any(), "the decoder gives NaN")
                k = tau_logps.argmax(-1) if greedy else sample(tau_logps, generator)

            # Sample a token per row, from the distribution at its choice.
            counts = counts_of(tokens[rows, :t], V) if any(map(has_memory, choices)) else None
            next_tokens = sample(logps_at(logits, choices, k, counts), generator)[:, None]  # (R,1)
            tokens[rows, t] = next_tokens[:, 0]
            tau_idx[rows, t] = k

            # Drop finished rows once they are at least half of all.
            active = active & ~torch.isin(next_tokens[:, 0], ends)
            n_active = int(active.sum())
            if n_active == 0:
                break
            if 2 * n_active <= len(rows):
                reader.keep(active)
                rows, k, next_tokens = rows[active], k[active], next_tokens[active]
                active = active[active]
    return tokens, tau_idx


def planned(temperature, B, T):
    """What to use in place of a decoder.  -> a function: tokens so far (B,t) -> B choices"""
    if callable(temperature):
        return (lambda tokens: [temperature] * B) if hasattr(temperature, "name") else temperature
    table = torch.as_tensor(temperature, dtype=torch.float64, device="cpu")
    fits = [n in (1, size) for n, size in zip(reversed(table.shape), (T, B))]
    require(table.dim() <= 2 and all(fits), f"temperature is {*table.shape,}; give {(B, T)}")
    table = table.expand(B, T).tolist()
    return lambda tokens: [row[tokens.shape[1]] for row in table]


def numbered(plan, tokens):
    """A plan's choices for the next column.  tokens so far (B,t) -> choices, each row's index"""
    of_rows = list(plan(tokens))
    require(len(of_rows) == len(tokens), f"give {len(tokens)} temperatures per call")
    choices = checked_choices(dict.fromkeys(of_rows))
    return choices, torch.tensor([choices.index(x) for x in of_rows], device=tokens.device)


def logps_at(logits, choices, k, counts):
    """Each row's distribution at its own choice.  (R,V), K choices, (R,), (R,V) -> (R,V)"""
    used = set(k.tolist())
    if len(used) == 1:
        return choice_logps(logits, choices[used.pop()], counts)
    logps = at_least_float32(torch.empty_like(logits))
    for j in used:
        rows = (k == j).nonzero()[:, 0]
        of_rows = None if counts is None else counts[rows]
        logps[rows] = choice_logps(logits[rows], choices[j], of_rows)
    return logps


def sample(logps, generator=None):
    """One index per row.  (R,N) log-probabilities -> (R,)

    Inverts the cumulative distribution, in float64, so that rare tokens of a large vocabulary are
    sampled as often as they should be. Raises ValueError where no token has a probability above 0.
    """
    cumulative = logps.exp().cumsum(-1, dtype=torch.float64)  # (R,N)
    device = logps.device if generator is None else generator.device
    uniform = torch.rand(len(logps), 1, dtype=torch.float64, device=device, generator=generator)
    threshold = uniform.to(logps.device) * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, threshold, right=True)[:, 0]  # N if all is 0 or NaN
    require(index.max() < logps.shape[1], "nothing to sample from: the model or a choice gives "
                                          "NaN, or probability 0 to every token")
    return index


# --- the model ------------------------------------------------------------------------------------


def call(model, *inputs):
    """model(*inputs) -> logits, hidden; ValueError if it returns anything else"""
    output = model(*inputs)
    require(isinstance(output, tuple) and len(output) == 2, "the model must return (logits, "
            "hidden), as model.GPT does; real/hf.py serves the models of transformers")
    return output


def device_of(model):
    """Where the model's weights are."""
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))


@contextlib.contextmanager
def evaluating(model):
    """Eval mode, also while training: dropout would make policy and reference, sampler and scorer,
    differ."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def padded(model, prompts, T, left):
    """P prompts in one tensor, padded with 0 on the left or right.  -> idx (P,S), pad (P,) columns

    Raises ValueError on an empty prompt, and if the longest and T new tokens exceed the context.
    """
    require(len(prompts) and all(map(len, prompts)), "give prompts of at least one token each")
    longest = max(map(len, prompts))
    context = getattr(getattr(model, "config", None), "block_size", math.inf)
    require(longest + T <= context, f"a prompt of {longest} tokens and {T} new ones exceed the "
                                    f"model's context of {context}; shorten one of them")
    idx, pad = [], []
    for prompt in prompts:
        zeros = [0] * (longest - len(prompt))
        idx.append([*zeros, *prompt] if left else [*prompt, *zeros])
        pad.append(len(zeros))
    device = device_of(model)
    return torch.tensor(idx, device=device), torch.tensor(pad, device=device)


class Reader:
    """Feeds new tokens to a model: with its cache, or with the whole text if it has no cache."""

    def __init__(self, model, pad, length):
        """pad (P,): columns of padding on the left of each text; length: columns in the end"""
        self.model = model
        self.pad = pad
        self.text = pad.new_empty(len(pad), 0)
        self.cache = None
        if hasattr(model, "new_cache"):
            self.cache = model.new_cache(len(pad), length)
            self.cache.pad = pad if pad.any() else None

    def read(self, new):
        """(R,n) more tokens -> logits (R,V), hidden (R,C) at the newest token of each row"""
        if self.cache is not None:
            logits, hidden = call(self.model, new, self.cache)
            return logits[:, -1], hidden[:, -1]
        self.text = torch.cat([self.text, new], 1)  # (R,S)
        R, S = self.text.shape
        # a causal model without a mask needs the text first, and the padding last
        rotated = (torch.arange(S, device=new.device) + self.pad[:, None]) % S
        logits, hidden = call(self.model, self.text.gather(1, rotated))
        newest = torch.arange(R, device=new.device), S - 1 - self.pad
        return logits[newest], hidden[newest]

    def keep(self, rows):
        """Keep only these rows: (n,) long, which may repeat, or (R,) bool."""
        self.text, self.pad = self.text[rows], self.pad[rows]
        if self.cache is not None:
            self.cache.keep(rows)


# --- scoring --------------------------------------------------------------------------------------


def aligned(model, prompts, tokens):
    """Logits and hidden states that predict each response token: the only shift by one.

    B prompts, (B,T) -> (B,T,V), (B,T,C). Each row is prompt, response, padding; what predicts the
    token in a column is one column before it.
    """
    B, T = tokens.shape
    idx, pad = padded(model, prompts, T, left=False)
    lengths = idx.shape[1] - pad
    columns = lengths[:, None] + torch.arange(T, device=idx.device)  # (B,T): where tokens are
    idx = torch.cat([idx, torch.zeros_like(tokens)], 1).scatter(1, columns, tokens)
    with evaluating(model):
        logits, hidden = call(model, idx)
    rows = torch.arange(B, device=idx.device)[:, None]
    return logits[rows, columns - 1], hidden[rows, columns - 1]


def response_logps(model, decoder, prompts, rollout, ref_model=None, ref_decoder=None, states=None):
    """Score responses for the losses, in one pass over prompts and responses.  -> ResponseLogps

    Without ref_model the language model is its own frozen reference; without ref_decoder
    ref_tau_logps is None. Gradients reach the model and the decoder, never a reference. states: the
    result of `aligned` for the model, if it is known already.
    """
    require(rollout.tau_idx is not None, "this rollout has no choices; generate it with a decoder")
    logits, hidden = states or aligned(model, prompts, rollout.tokens)
    text_logps = temperature_logps(logits, rollout.tokens, decoder.choices)
    with torch.no_grad():
        ref_text_logps, ref_hidden = text_logps.detach(), hidden
        if ref_model is not None:
            ref_logits, ref_hidden = aligned(ref_model, prompts, rollout.tokens)
            ref_text_logps = temperature_logps(ref_logits, rollout.tokens, decoder.choices)
        ref_tau_logps = None if ref_decoder is None else ref_decoder.response(ref_hidden)
    return ResponseLogps(
        tau_logps=decoder.response(hidden),
        tau_idx=rollout.tau_idx,
        mask=rollout.mask,
        text_logps=text_logps,
        ref_text_logps=ref_text_logps,
        ref_tau_logps=ref_tau_logps)
