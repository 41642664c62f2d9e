"""The AdaptiveDecoder, generation at the temperatures it picks, and what the losses need of that.

A small network turns hidden states into log-probabilities of K choices. A choice is a temperature,
or any other sampler setting: a named function of the logits, and perhaps of what was written so
far. `generate` samples a choice, then a token at that choice, token by token; `response_logps`
scores what was sampled. Both apply a choice by `choice_logps` and by nothing else. The model is any
causal module that returns (logits, hidden).

B responses, T response tokens, K choices, V vocabulary size, C hidden width.
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
HOTTEST = 1e30  # a higher temperature would overflow float32


# --- choices --------------------------------------------------------------------------------------


def at_least_float32(x):
    """Half precision is for models; softmaxes and sums need more."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def checked_choices(choices):
    """-> tuple of temperatures, 0 to HOTTEST, and functions with a name; ValueError on others"""
    choices = tuple(choice if callable(choice) else float(choice) for choice in choices)
    valid = [hasattr(x, "name") if callable(x) else 0 <= x <= HOTTEST for x in choices]
    require(choices and all(valid), f"choices are {choices}; give temperatures from 0 to "
                                    f"{HOTTEST:g}, or functions of logits with a name")
    return choices


def choice_name(choice):
    """What saved weights and messages call a choice; no digit is lost.  -> str"""
    return choice.name if callable(choice) else repr(float(choice)).removesuffix(".0")


def has_memory(choice):
    """Does the choice see how often each token has been written?"""
    return getattr(choice, "memory", False)


def counts_of(written, V):
    """How often each token has been written in the response, without the prompt.  (R,t) -> (R,V)"""
    counts = torch.zeros(len(written), V, device=written.device, dtype=torch.float32)
    return counts.scatter_add(1, written, torch.ones_like(written, dtype=counts.dtype))


def choice_logps(logits, choice, counts=None):
    """log P(token | choice), the only place where a choice is applied.  (...,V) -> (...,V)

    A temperature tau gives log softmax(logits / tau). Temperature 0 is the limit from above: all
    probability on the arg-max, on a tie on the lowest index. A function is called with the logits
    and, if it is marked `memory = True`, with counts (...,V): how often each token stands before
    the one that is sampled, in the response alone, whatever choices it was sampled at.
    """
    logits = at_least_float32(logits)
    if has_memory(choice):
        return choice(logits, counts)
    if callable(choice):
        return choice(logits)
    if choice < torch.finfo(logits.dtype).tiny:  # 0, or so small that 1 / tau is infinite
        best, at = logits.detach().max(-1, True)
        return torch.full_like(logits, -math.inf).scatter(-1, at, best - best)  # 0; NaN stays NaN
    below_best = logits - logits.amax(-1, True).detach()  # a small tau must not overflow
    return F.log_softmax(below_best / choice, dim=-1)


def temperature_logps(logits, tokens, choices):
    """log P(y_t | choice k) of each token and choice.  (B,T,V), (B,T), K choices -> (B,T,K)

    Column t of tokens follows columns 0 to t - 1; padding, if any, comes last. Raises ValueError on
    what is not a choice, and on a choice that does not give a distribution.
    """
    of_choices = []
    for choice in checked_choices(choices):
        of_parts = []
        # with a memory column by column: counts for all columns would be as large as the logits
        for t in range(tokens.shape[1]) if has_memory(choice) else [slice(None)]:
            counts = counts_of(tokens[:, :t], logits.shape[-1]) if has_memory(choice) else None
            logps = choice_logps(logits[:, t], choice, counts)
            sums_to_1 = (logps.logsumexp(-1).abs() < 1e-3).all()
            require(sums_to_1, f"choice {choice_name(choice)} does not give log-probabilities")
            of_parts.append(logps.gather(-1, tokens[:, t, None]).view(len(tokens), -1))
        of_choices.append(torch.cat(of_parts, dim=1))  # (B,T)
    return torch.stack(of_choices, dim=-1)


# --- the decoder ----------------------------------------------------------------------------------


class AdaptiveDecoder(nn.Module):
    """A 3-layer MLP: hidden state -> log-probabilities of K choices.

    Level "token" picks before each token, "sequence" once, from the last prompt token's hidden
    state. The last layer starts at zero, so every choice starts equally likely. Names of choices
    and level are saved with the weights; weights of other choices or level are refused. Raises
    ValueError on what is not a choice, on two of one name, and on an unknown level.
    """

    def __init__(self, n_embd, choices=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0), level="token",
                 n_hidden=None):
        super().__init__()
        require(level in LEVELS, f"unknown level {level!r}; choose from {LEVELS}")
        self.level = level
        self.choices = checked_choices(choices)
        self.names = tuple(map(choice_name, self.choices))
        require(len(set(self.names)) == len(self.names), f"choices share a name: {self.names}")
        n_hidden = n_hidden or n_embd  # our choice; the paper's width is not known
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
        """From hidden states that predict response tokens.  (B,T,C) -> (B,T,K), or (B,1,K)"""
        return self(hidden if self.level == "token" else hidden[:, :1])

    def get_extra_state(self):
        """Names and level as the bytes of a JSON text, which any format for weights can hold."""
        return torch.tensor([*json.dumps([*self.names, self.level]).encode()], dtype=torch.uint8)

    def set_extra_state(self, saved):
        saved, ours = (json.loads(bytes(x.tolist())) for x in (saved, self.get_extra_state()))
        require(saved == ours, f"these weights are of {saved}; this decoder is of {ours}")


# --- generation -----------------------------------------------------------------------------------


@dataclass
class Rollout:
    """What `generate` sampled. Column t of each array is one sampling event."""
    tokens: torch.Tensor           # (B,T) long: response tokens, the prompt left out
    mask: torch.Tensor             # (B,T) bool: response tokens, end of text included
    cut: torch.Tensor              # (B,) bool: no end of text within max_new_tokens
    tau_idx: torch.Tensor | None   # (B,T) or (B,1) long: choices; None without a decoder

    def __getitem__(self, rows):
        """Some of the responses: a list, slice or index tensor."""
        return Rollout(*(None if x is None else x[rows] for x in vars(self).values()))


@contextlib.contextmanager
def evaluating(model):
    """Without dropout, which would make sampler and scorer, or policy and reference, differ."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def states(model, *inputs):
    """model(*inputs) -> logits, hidden; ValueError if that is not what it returns"""
    output = model(*inputs)
    require(isinstance(output, tuple) and len(output) == 2, "the model must return a tuple "
            "(logits, hidden), as model.GPT does; for models of transformers see real/hf.py")
    return output


def device_of(model):
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))


def padded(model, prompts, T, left):
    """P token lists in one tensor, padded on the left or right.  -> idx (P,S), pad (P,)

    Raises ValueError on an empty prompt, and if the longest and T new tokens exceed the context.
    """
    require(len(prompts) and all(map(len, prompts)), "give prompts of at least one token each")
    longest = max(map(len, prompts))
    context = getattr(getattr(model, "config", None), "block_size", math.inf)
    require(longest + T <= context, f"a prompt of {longest} tokens and {T} new ones exceed the "
                                    f"model's context of {context}; shorten one of them")
    pad = [longest - len(prompt) for prompt in prompts]
    idx = [[*[0] * n, *prompt] if left else [*prompt, *[0] * n] for prompt, n in zip(prompts, pad)]
    device = device_of(model)
    return torch.tensor(idx, device=device), torch.tensor(pad, device=device)


class Reader:
    """A model and the texts that it has read: with its cache, or from the start each time."""

    def __init__(self, model, pad, length):
        """pad (P,): columns of padding on the left of each prompt; length: of the final texts"""
        self.model = model
        self.pad = pad
        self.text = pad.new_empty(len(pad), 0)
        self.cache = model.new_cache(len(pad), length) if hasattr(model, "new_cache") else None
        if self.cache is not None and pad.any():
            self.cache.pad = pad

    def read(self, new):
        """(R,n) more tokens -> logits (R,V), hidden (R,C) at the newest token of each row"""
        if self.cache is not None:
            logits, hidden = states(self.model, new, self.cache)
            return logits[:, -1], hidden[:, -1]
        self.text = torch.cat([self.text, new], 1)  # (R,S)
        R, S = self.text.shape
        columns = torch.arange(S, device=new.device) + self.pad[:, None]
        newest = torch.arange(R, device=new.device), S - 1 - self.pad
        logits, hidden = states(self.model, self.text.gather(1, columns % S))  # padding comes last
        return logits[newest], hidden[newest]

    def keep(self, rows):
        """Go on with these rows only: (n,) long, which may repeat, or (R,) bool."""
        self.text, self.pad = self.text[rows], self.pad[rows]
        if self.cache is not None:
            self.cache.keep(rows)


def planned(temperature, B, T):
    """The choices used without a decoder.  -> function: tokens so far (B,t) -> B choices"""
    if callable(temperature):
        return (lambda tokens: [temperature] * B) if hasattr(temperature, "name") else temperature
    table = torch.as_tensor(temperature, dtype=torch.float64, device="cpu")
    fits = [n in (1, size) for n, size in zip(reversed(table.shape), (T, B))]
    require(table.dim() <= 2 and all(fits), f"temperature is {*table.shape,}; give {(B, T)}")
    table = table.expand(B, T).tolist()
    return lambda tokens: [row[tokens.shape[1]] for row in table]


def logps_at(logits, choices, k, counts):
    """Each row's distribution at its own choice.  (R,V), K choices, (R,), (R,V) -> (R,V)"""
    used = set(k.tolist())
    if len(used) == 1:
        return choice_logps(logits, choices[used.pop()], counts)
    logps = at_least_float32(torch.empty_like(logits))
    for j in used:
        rows = (k == j).nonzero()[:, 0]
        logps[rows] = choice_logps(logits[rows], choices[j],
                                   None if counts is None else counts[rows])
    return logps


def sample(logps, generator=None):
    """One index per row.  (R,N) log-probabilities -> (R,)

    The cumulative distribution is inverted in float64, so that many rare tokens are together as
    frequent as they should be. What has probability 0 is never sampled. Raises ValueError where
    everything has probability 0 or NaN.
    """
    cumulative = logps.exp().cumsum(-1, dtype=torch.float64)  # (R,N)
    device = logps.device if generator is None else generator.device
    uniform = torch.rand(len(logps), 1, dtype=torch.float64, device=device, generator=generator)
    threshold = uniform.to(logps.device) * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, threshold, right=True)[:, 0]
    require(index.max() < logps.shape[1], "nothing to sample from: the model or a choice gives "
                                          "NaN, or probability 0 to every token")
    return index


@torch.inference_mode(False)  # the rollout may be trained on
@torch.no_grad()
def generate(model, prompts, max_new_tokens, decoder=None, temperature=None, tau_select="sample",
             eos=None, generator=None, loop=None):
    """Sample one response per prompt.  B token lists, also of unequal lengths -> Rollout

    Give a decoder or a temperature. The latter is one choice, a table of numbers that broadcasts to
    (B, max_new_tokens), or a function of what was written, tokens (B,t) -> B choices for column t.
    tau_select: "greedy" takes the decoder's most likely choice (equation 4), "sample" samples one
    (equation 5). eos: the id that ends a response, or several, or None. loop: `sampling_loop`, or a
    faster one. A model in train() mode is used as in eval() mode. Raises ValueError when prompt and
    new tokens exceed the context, when ids are outside the vocabulary, and when the model gives NaN
    or no possible token.
    """
    T = max_new_tokens
    require((decoder is None) != (temperature is None), "give either a decoder or a temperature")
    require(tau_select in ("sample", "greedy"), f"tau_select {tau_select!r}: sample or greedy?")
    require(T >= 1, f"max_new_tokens is {T}; give 1 or more")
    plan = None if decoder is not None else planned(temperature, len(prompts), T)
    ends = torch.tensor([] if eos is None else eos, dtype=torch.long, device=device_of(model))
    prompts = list(map(tuple, prompts))
    with evaluating(model):
        tokens, tau_idx = (loop or sampling_loop)(model, prompts, T, decoder, plan,
                                                  tau_select == "greedy", ends.flatten(), generator)
    is_end = torch.isin(tokens, ends)
    mask = is_end.cumsum(1) - is_end.long() == 0  # no end of text before
    tau_idx = tau_idx.masked_fill(~mask, 0)
    if decoder is None:
        tau_idx = None
    elif decoder.level == "sequence":
        tau_idx = tau_idx[:, :1]
    return Rollout(tokens.masked_fill(~mask, 0), mask, ~is_end.any(1), tau_idx)


def sampling_loop(model, prompts, T, decoder, plan, greedy, ends, generator):
    """Hidden state, choice, token; again for each column.  -> tokens (B,T), tau_idx (B,T)"""
    number = {prompt: n for n, prompt in enumerate(dict.fromkeys(prompts))}
    new, pad = padded(model, list(number), T, left=True)
    prompt_of = torch.tensor([number[prompt] for prompt in prompts], device=new.device)
    reader = Reader(model, pad, new.shape[1] + T)
    tokens = new.new_zeros(len(prompts), T)
    tau_idx = torch.zeros_like(tokens)
    rows = torch.arange(len(prompts), device=new.device)  # which responses are being written
    going = torch.ones_like(rows, dtype=torch.bool)       # which of these have not ended
    with torch.inference_mode():
        for t in range(T):
            # Read the newest tokens. The samples of a prompt share its first pass.
            logits, hidden = reader.read(new)  # (R,V), (R,C)
            V = logits.shape[1]
            if t == 0:
                require(((0 <= ends) & (ends < V)).all(), f"eos {ends.tolist()} is not below {V}")
                logits, hidden = logits[prompt_of], hidden[prompt_of]
                reader.keep(prompt_of)

            # Pick each row's choice: by the decoder, before each token or once, or as planned.
            if decoder is None:
                of_rows = plan(tokens[:, :t])
                choices = checked_choices(dict.fromkeys(of_rows))
                k = torch.tensor([choices.index(choice) for choice in of_rows], device=new.device)
                k = k[rows]
            elif t == 0 or decoder.level == "token":
                choices, tau_logps = decoder.choices, decoder(hidden)  # (R,K)
                k = tau_logps.argmax(-1) if greedy else sample(tau_logps, generator)

            # Sample each row's token from the distribution at its choice.
            counts = counts_of(tokens[rows, :t], V) if any(map(has_memory, choices)) else None
            token = sample(logps_at(logits, choices, k, counts), generator)  # (R,)
            tokens[rows, t], tau_idx[rows, t] = token, k

            # Drop the rows that have ended, once they are half of all.
            going = going & ~torch.isin(token, ends)
            left = int(going.sum())
            if left == 0:
                break
            if 2 * left <= len(rows):
                reader.keep(going)
                rows, k, token, going = rows[going], k[going], token[going], going[going]
            new = token[:, None]
    return tokens, tau_idx


# --- scoring --------------------------------------------------------------------------------------


def aligned(model, prompts, tokens):
    """Logits and hidden states that predict each response token: the only shift by one.

    B token lists, (B,T) -> (B,T,V), (B,T,C); column 0 comes from the last prompt token.
    """
    B, T = tokens.shape
    idx, pad = padded(model, prompts, T, left=False)
    places = (idx.shape[1] - pad)[:, None] + torch.arange(T, device=idx.device)  # (B,T): of tokens
    idx = torch.cat([idx, torch.zeros_like(tokens)], 1).scatter(1, places, tokens)
    with evaluating(model):
        logits, hidden = states(model, idx)
    rows = torch.arange(B, device=idx.device)[:, None]
    return logits[rows, places - 1], hidden[rows, places - 1]


def response_logps(model, decoder, prompts, rollout, ref_model=None, ref_decoder=None, states=None):
    """What the losses take, by one pass over prompts and responses.  -> ResponseLogps

    Without ref_model the language model is its own frozen reference; without ref_decoder
    ref_tau_logps is None. Gradients reach the model and the decoder, never a reference. states:
    what `aligned` gave for the model, if it is frozen and that pass was made before.
    """
    require(rollout.tau_idx is not None, "this rollout has no choices; generate it with a decoder")
    logits, hidden = states or aligned(model, prompts, rollout.tokens)
    text_logps = temperature_logps(logits, rollout.tokens, decoder.choices)
    with torch.no_grad():
        ref_text_logps, ref_hidden = text_logps, hidden
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
