"""The AdaptiveDecoder, generation at the temperatures it chooses, and what the losses need of it.

A small network turns hidden states into log-probabilities of temperatures. `generate` draws a
temperature from it and then a token at that temperature, token by token; `response_logps` scores
what was drawn. Any causal module that returns (logits, hidden) can be decoded. Any sampler setting
may stand where a temperature does: a choice is a number or a function (`lpo.word_logps`).

B responses, T response tokens, K choices, V words, C hidden width.
`fast.generate` writes the same responses with a cache of keys and values, and on a GPU with
recorded steps; here is the loop as one would write it on a blackboard.
"""
import contextlib
import math
import operator
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from lpo import (HOTTEST, ResponseLogps, at_least_float32, checked_choices, require, require_kind,
                 temperature_logps, word_logps)

LEVELS = ("token", "sequence")


def choice_name(choice):
    """What saved weights and errors call a choice.  -> str"""
    return str(choice.name) if callable(choice) else f"{choice:.12g}"


class AdaptiveDecoder(nn.Module):
    """A 3-layer MLP: hidden state -> log-probabilities of K choices, temperatures as a rule.

    Level "token" decides before each token, "sequence" once, from the last prompt token's hidden
    state. The last layer starts at zero, so that every choice starts equally likely. Raises
    ValueError on choices that are none or share a name, and on an unknown level. Choices and level
    belong to the state: weights that were saved under others are refused.
    """

    def __init__(self, n_embd, choices=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0), level="token",
                 n_hidden=None):
        super().__init__()
        require(level in LEVELS, f"unknown level {level!r}; choose from {LEVELS}")
        self.choices = checked_choices(choices)
        self.names = tuple(map(choice_name, self.choices))
        require(len(set(self.names)) == len(self.names),
                f"choices are {self.names}; give distinct ones")
        self.level = level
        self.n_embd = n_embd
        n_hidden = n_embd if n_hidden is None else n_hidden  # our choice; the paper's is not known
        require(n_embd >= 1 and n_hidden >= 1,
                f"n_embd is {n_embd}, n_hidden {n_hidden}; give whole numbers >= 1")
        last = nn.Linear(n_hidden, len(self.choices))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(n_embd, n_hidden), nn.SiLU(),
                                 nn.Linear(n_hidden, n_hidden), nn.SiLU(),
                                 last)

    def forward(self, hidden):
        """log P(tau_k | h).  (...,C) -> (...,K)"""
        require(hidden.shape[-1:] == (self.n_embd,),
                f"hidden is {*hidden.shape,}; give (..., {self.n_embd})")
        hidden = hidden.to(self.mlp[0].weight.dtype)  # the model may be in half precision
        return F.log_softmax(at_least_float32(self.mlp(hidden)), dim=-1)

    def response(self, hidden):
        """Of response-aligned hidden states, those that decide.  (B,T,C) -> (B,T,K) or (B,1,K)"""
        return self(hidden if self.level == "token" else hidden[:, :1])

    def get_extra_state(self):
        return dict(choices=list(self.names), level=self.level)

    def set_extra_state(self, saved):
        require(saved == self.get_extra_state(),
                f"these weights are of {saved}; this decoder is of {self.get_extra_state()}")


@dataclass
class Rollout:
    """What `generate` drew; column t of each array is one sampling event."""
    tokens: torch.Tensor           # (B,T) long: response tokens alone, the last valid one often eos
    mask: torch.Tensor             # (B,T) bool: response tokens, eos included
    cut: torch.Tensor              # (B,) bool: reached the length limit without eos
    tau_idx: torch.Tensor | None   # (B,T) or (B,1) long: choices drawn; None at a fixed temperature

    def __getitem__(self, responses):
        """Some of the responses: a list, slice or index tensor."""
        return Rollout(*(None if x is None else x[responses] for x in vars(self).values()))

    @classmethod
    def cat(cls, parts):
        """Rollouts of one policy and length, below each other."""
        columns = zip(*(vars(part).values() for part in parts))
        return cls(*(None if column[0] is None else torch.cat(column) for column in columns))


# --- generation: hidden state, temperature, word --------------------------------------------------


def draw(logps, generator=None):
    """One index a row, drawn from its log-probabilities.  (B,N) -> (B,)

    The Gumbel-max trick: with standard Gumbel noise g, argmax(log p + g) is a draw from p. What has
    log p = -inf is never drawn, and where all others have it there is no choice.
    """
    logps = at_least_float32(logps)
    device = logps.device if generator is None else generator.device
    uniform = torch.rand(logps.shape, dtype=logps.dtype, device=device, generator=generator)
    uniform = uniform.clamp(min=torch.finfo(logps.dtype).tiny)  # 0 would give a noise of -inf
    gumbel = -(-uniform.log()).log()
    return (logps + gumbel.to(logps.device)).argmax(-1)


@contextlib.contextmanager
def as_evaluated(model):
    """Without dropout for a while: noise would part policy from reference, sampler from scorer."""
    switched = [module for module in model.modules() if module.training]
    model.train(False)
    try:
        yield
    finally:
        for module in switched:
            module.training = True


@torch.inference_mode(False)  # what it returns may be trained on
@torch.no_grad()
def generate(model, prompts, max_new_tokens, decoder=None, temperature=None, tau_select="sample",
             eos=None, generator=None):
    """Sample one response a prompt.  B token lists, of unequal lengths too -> Rollout

    Give a decoder, or a temperature: one choice, a table of numbers that broadcasts to (B,
    max_new_tokens), or a function of what was written, tokens (B,t) -> B choices for column t.
    tau_select "greedy" takes the decoder's most likely choice (equation 4), "sample" draws one
    (equation 5). eos: the id that ends a response, or several, or None. A model in train() mode is
    in eval() mode for the while. Raises ValueError when prompt and max_new_tokens exceed the
    model's context.
    """
    request = checked_request(model, prompts, max_new_tokens, decoder, temperature, tau_select, eos,
                              generator)
    idx, lengths, T, plan, eos = request
    B = len(idx)
    everyone = torch.arange(B, device=idx.device)
    places = response_places(lengths, T)  # (B,T): of response tokens in idx
    tau_idx = torch.zeros_like(places)
    unfinished = torch.ones_like(lengths, dtype=torch.bool)
    for t in range(T):
        with as_evaluated(model):
            logits, hidden = model(idx[:, :places[:, t].max()])  # (B,S,V), (B,S,C)
        newest = places[:, t] - 1
        logits, hidden = logits[everyone, newest], hidden[everyone, newest]  # (B,V), (B,C)
        require((logits < math.inf).all(), "the model gives logits that are NaN or infinite")

        # the choice: one of the decoder's, at every token or once a response, or the given one
        if decoder is None:
            choices, k = plan(idx.gather(1, places[:, :t]))  # K choices, (B,)
        elif t == 0 or decoder.level == "token":
            choices = decoder.choices
            tau_logps = decoder(hidden)  # (B,K)
            k = tau_logps.argmax(-1) if tau_select == "greedy" else draw(tau_logps, generator)

        # the word: from the distribution that this choice makes of the logits
        every = torch.stack([word_logps(logits, choice) for choice in choices], 1)  # (B,K,V)
        words = draw(every[everyone, k], generator)  # (B,)
        idx[everyone, places[:, t]] = words
        tau_idx[:, t] = k
        unfinished &= ~torch.isin(words, eos)
        if not unfinished.any():
            break
    return rollout_of(idx, lengths, tau_idx, decoder, eos)


def checked_request(model, prompts, max_new_tokens, decoder, temperature, tau_select, eos,
                    generator):
    """The arguments of `generate`, checked.  -> idx (B, longest + T), lengths (B,), T, plan, eos

    idx holds the prompts, lengths theirs, eos (n,) the ids that end a response.
    """
    require((decoder is None) != (temperature is None), "give either a decoder or a temperature")
    require(tau_select in ("sample", "greedy"),
            f"unknown tau_select {tau_select!r}; choose 'sample' or 'greedy'")
    if not isinstance(generator, (torch.Generator, type(None))):
        raise TypeError(f"generator is {generator!r:.60}; give a torch.Generator or None")
    T = whole("max_new_tokens", max_new_tokens)
    require(T >= 1, f"max_new_tokens is {T}; give a whole number >= 1")
    idx, lengths = right_padded(model, prompts, max(1, len(prompts)), T)
    ends = [] if eos is None else eos if isinstance(eos, (list, tuple, set)) else [eos]
    eos = torch.tensor([whole("eos", end) for end in ends], dtype=torch.long, device=idx.device)
    plan = None if decoder is not None else checked_plan(temperature, len(idx), T, idx.device)
    return idx, lengths, T, plan, eos


def whole(name, x):
    """Any kind of whole number as an int; TypeError otherwise."""
    try:
        return operator.index(x)
    except TypeError:
        raise TypeError(f"{name} is {x!r:.60}; give a whole number") from None


def follows_text(temperature):
    """Is it a function of what was written? A choice that is a function has a name."""
    return callable(temperature) and not hasattr(temperature, "name")


def checked_plan(temperature, B, T, device):
    """The choices that were given instead of a decoder, checked.

    -> a function, tokens (B,t) -> K choices, index (B,): which of them each row has in column t.
    """
    if follows_text(temperature):
        def plan(tokens):
            of_rows = temperature(tokens)
            of_rows = of_rows.tolist() if torch.is_tensor(of_rows) else list(of_rows)
            require(len(of_rows) == B, f"temperature gives {len(of_rows)} choices; give {B}")
            number = {choice: k for k, choice in enumerate(dict.fromkeys(of_rows))}
            return checked_choices(number), torch.tensor([number[x] for x in of_rows]).to(device)
        return plan
    choices, table = (temperature,), torch.zeros(B, T, dtype=torch.long)
    if not callable(temperature):  # checked on the CPU: not every device has float64
        taus = torch.as_tensor(temperature, dtype=torch.float64, device="cpu")
        fits = taus.dim() <= 2 and all(n in (1, size) for n, size in zip(taus.shape[::-1], (T, B)))
        require(fits and ((0 <= taus) & (taus <= HOTTEST)).all(),
                f"temperature is {taus.tolist()!r:.60}; give numbers from 0 to {HOTTEST:g}, for "
                f"{(B, T)}")
        choices, table = taus.unique(return_inverse=True)
        choices, table = choices.tolist(), table.expand(B, T)
    table = table.to(device)
    return lambda tokens: (choices, table[:, tokens.shape[1]])


def right_padded(model, prompts, B, extra):
    """B prompts beside `extra` free columns.  -> idx (B, longest + extra), lengths (B,)"""
    config = getattr(model, "config", None)
    V = getattr(config, "vocab_size", math.inf)
    context = getattr(config, "block_size", math.inf)
    fits = [isinstance(p, (list, tuple)) and p and 0 <= min(p) <= max(p) < V for p in prompts]
    if len(fits) != B or not all(fits):
        raise ValueError(f"prompts is {prompts!r:.60}; give {B} non-empty lists of ids below {V}")
    longest = max(map(len, prompts))
    require(longest + extra <= context, f"a prompt of {longest} tokens and {extra} new ones exceed "
                                        f"the model's context of {context}; shorten one of them")
    rows = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts])
    require(not rows.is_floating_point(), "prompts has numbers that are not whole; give ids")
    device = device_of(model)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return F.pad(rows.long().to(device), (0, extra)), lengths


def device_of(model):
    """Where the model's weights are; the CPU if it has none."""
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))


def response_places(lengths, T):
    """Where response tokens stand behind prompts of such lengths.  (B,) -> (B,T)"""
    return lengths[:, None] + torch.arange(T, device=lengths.device)


def rollout_of(idx, lengths, tau_idx, decoder, eos):
    """Everything up to and with the end of text.  (B, longest + T), (B,), (B,T) -> Rollout"""
    tokens = idx.gather(1, response_places(lengths, tau_idx.shape[1]))
    ends = torch.isin(tokens, eos)
    mask = ends.cumsum(1) - ends.long() == 0  # no end of text before
    tokens = tokens.where(mask, eos[0] if len(eos) else 0)
    tau_idx = tau_idx.where(mask, 0)
    if decoder is None:
        tau_idx = None
    elif decoder.level == "sequence":
        tau_idx = tau_idx[:, :1]
    return Rollout(tokens, mask, ~ends.any(1), tau_idx)


# --- scoring what was drawn -----------------------------------------------------------------------


def aligned(model, prompts, tokens):
    """Logits and hidden states that predict each response token: the repository's one shift.

    B token lists, (B,T) -> (B,T,V), (B,T,C); column 0 comes from the last prompt token.
    """
    require(tokens.dim() == 2, f"tokens is {*tokens.shape,}; give (B,T)")
    require_kind("tokens", tokens, "long", tokens.shape, device_of(model))
    B, T = tokens.shape
    idx, lengths = right_padded(model, prompts, B, T)
    places = response_places(lengths, T)  # (B,T)
    with as_evaluated(model):
        logits, hidden = model(idx.scatter(1, places, tokens))
    rows = torch.arange(B, device=idx.device)[:, None]
    return logits[rows, places - 1], hidden[rows, places - 1]


def response_logps(model, decoder, prompts, rollout, ref_model=None, ref_decoder=None, states=None):
    """What the losses take, by one teacher-forced pass over what was generated.  -> ResponseLogps

    Without ref_model the language model is its own frozen reference; without ref_decoder
    ref_tau_logps is None. Gradients reach the model and the decoder, never a reference. states:
    what `aligned` gave of the model, if that pass has been made.
    """
    require(rollout.tau_idx is not None,
            "this rollout has a fixed temperature; generate it with a decoder")
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
