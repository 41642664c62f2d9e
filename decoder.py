"""The AdaptiveDecoder, generation at the temperatures it chooses, and what the losses need of it.

A head turns hidden states into log-probabilities of temperatures, `generate` draws a temperature
and then a token, `response_logps` scores what was drawn. Any module that returns (logits, hidden)
can be decoded; one with `new_cache` is decoded faster.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from lpo import ResponseLogps, temperature_logps

LEVELS = ("token", "sequence")


def checked_temperatures(temperatures):
    """As a tuple of floats; ValueError unless they are distinct, finite and >= 0."""
    taus = tuple(float(tau) for tau in temperatures)
    if not taus or len(set(taus)) < len(taus) or not all(0 <= tau < math.inf for tau in taus):
        raise ValueError(f"temperatures are {taus}; give distinct finite numbers >= 0")
    return taus


class AdaptiveDecoder(nn.Module):
    """A 3-layer MLP: hidden state -> log-probabilities of K temperatures.

    Level "token" decides before each token, "sequence" once, from the last prompt token's hidden
    state. The last layer starts at zero, so that every temperature starts equally likely.
    """

    def __init__(self, n_embd, temperatures=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0), level="token",
                 n_hidden=None):
        super().__init__()
        if level not in LEVELS:
            raise ValueError(f"unknown level {level!r}; choose from {LEVELS}")
        self.temperatures, self.level = checked_temperatures(temperatures), level
        self.n_embd = n_embd
        n_hidden = n_hidden or n_embd  # our choice; the paper's width is not known
        if not (n_embd >= 1 and n_hidden >= 1):
            raise ValueError(f"n_embd is {n_embd}, n_hidden {n_hidden}; give whole numbers >= 1")
        last = nn.Linear(n_hidden, len(self.temperatures))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(n_embd, n_hidden), nn.SiLU(),
                                 nn.Linear(n_hidden, n_hidden), nn.SiLU(), last)

    def forward(self, hidden):
        """log P(tau_k | h).  (...,C) -> (...,K)"""
        if hidden.shape[-1:] != (self.n_embd,):
            raise ValueError(f"hidden is {*hidden.shape,}; give (..., {self.n_embd})")
        return F.log_softmax(self.mlp(hidden), dim=-1)

    def response(self, hidden):
        """Of response-aligned hidden states, those that decide.  (B,T,C) -> (B,T,K) or (B,1,K)"""
        return self(hidden if self.level == "token" else hidden[:, :1])


@dataclass
class Rollout:
    """What `generate` drew; column t of each array is one sampling event."""
    tokens: Tensor           # (B,T) long: response tokens alone, the last valid one often eos
    mask: Tensor             # (B,T) bool: response tokens, eos included
    cut: Tensor              # (B,) bool: reached the length limit without eos
    tau_idx: Tensor | None   # (B,T) or (B,1) long: temperatures drawn; None at a fixed one

    def __getitem__(self, rows):
        """The responses `rows`, a list, slice or index tensor."""
        return Rollout(*(None if x is None else x[rows] for x in vars(self).values()))

    @classmethod
    def cat(cls, parts):
        """Rollouts of one policy and length, below each other."""
        columns = zip(*(vars(part).values() for part in parts))
        return cls(*(None if column[0] is None else torch.cat(column) for column in columns))


def sample(logits, tau, generator=None):
    """One draw from softmax(logits / tau), exactly the arg-max at tau 0.  (B,V), (B,) -> (B,)

    argmax(logits / tau + Gumbel noise), times tau: no division, no branch for temperature 0.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    device = logits.device if generator is None else generator.device
    noise = torch.rand(logits.shape, dtype=dtype, device=device, generator=generator)
    noise.clamp_min_(torch.finfo(dtype).tiny).log_().neg_().log_()  # minus Gumbel, never infinite
    return (logits - tau[:, None] * noise.to(logits.device)).argmax(-1)


def right_padded(model, prompts, B, extra):
    """B prompts beside `extra` free columns.  -> idx (B, longest + extra), lengths (B,)"""
    config = getattr(model, "config", None)
    limit, V = (getattr(config, name, math.inf) for name in ("block_size", "vocab_size"))
    fits = [isinstance(p, (list, tuple)) and p and 0 <= min(p) <= max(p) < V for p in prompts]
    if len(fits) != B or not all(fits):
        raise ValueError(f"prompts is {prompts!r:.60}; give {B} non-empty lists of ids below {V}")
    longest = max(map(len, prompts))
    if longest + extra > limit:
        raise ValueError(f"a prompt of {longest} tokens and {extra} new ones exceed the "
                         f"model's context of {limit}; shorten one of them")
    rows = [list(prompt) + [0] * (longest - len(prompt)) for prompt in prompts]
    device = next(model.parameters()).device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return F.pad(torch.tensor(rows, device=device), (0, extra)), lengths


class Writing:
    """B responses under way, of which R are not finished. A column is drawn in tensors that stay in
    place and without a value from the host: a GPU can record it once and replay it (CUDA graph)."""

    def __init__(self, model, idx, lengths, T, decoder, taus, greedy, generator):
        self.model, self.decoder, self.greedy, self.generator = model, decoder, greedy, generator
        self.idx, self.tau_idx = idx, torch.zeros_like(idx)  # (B, longest prompt + T)
        self.places = lengths[:, None] + torch.arange(T, device=idx.device)  # (B,T), in idx
        if decoder is None:
            taus = taus.new_zeros(idx.shape).scatter(1, self.places, taus)
        self.taus, self.decides = taus, decoder is not None
        self.rows, self.pos = torch.arange(len(idx), device=idx.device), lengths - 1  # (R,)
        self.graphs, self.one = [], torch.ones(1, device=idx.device)
        self.newest, self.drawn = torch.zeros(2, len(idx), dtype=torch.long, device=idx.device)
        self.cache = model.new_cache(*idx.shape) if hasattr(model, "new_cache") else None

    def from_start(self, width, check):
        """Draw a column from all tokens up to a width; each row's newest is at its own place."""
        seen = self.idx[self.rows, :width]
        logits, hidden = self.model(seen) if self.cache is None else self.model(seen, self.cache)
        newest = torch.arange(len(seen), device=seen.device), self.pos
        if check and not (logits[newest] < math.inf).all():  # waits for the device
            raise ValueError("the model gives logits that are NaN or infinite")
        self.draw(logits[newest], hidden[newest])

    @torch.inference_mode()
    def from_newest(self):
        """Draw a column from the newest token and what the cache holds of those before."""
        self.draw(*self.cache.step(self.newest, self.pos))

    def draw(self, logits, hidden):
        """A temperature and a token, in the next column.  (R,V), (R,C)"""
        self.pos += 1
        here = self.rows, self.pos
        if self.decides:
            tau_logps = self.decoder(hidden)  # (R,K)
            self.drawn = tau_logps.argmax(-1) if self.greedy else sample(
                tau_logps, self.one, self.generator)
            self.decides = self.decoder.level == "token"  # "sequence": in the first column only
        if self.decoder is None:
            tau = self.taus[here]
        else:
            tau, self.tau_idx[here] = self.taus[self.drawn], self.drawn
        self.newest.copy_(sample(logits, tau, self.generator))
        self.idx[here] = self.newest

    def record(self, width):
        """from_newest() as a CUDA graph that serves up to a width of tokens.  -> its replay"""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        if self.generator is not None:
            graph.register_generator_state(self.generator)
        self.cache.used = width - 1  # the step to be recorded adds one
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # torch.cuda.graph would wait for the device
            graph.capture_begin()
            self.from_newest()
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        self.graphs.append(graph)  # those before may still be at work
        return graph.replay

    def drop_finished(self, column, eos):
        """Keep the rows without an end of text in the columns so far.  -> is any left?"""
        tokens = self.idx[self.rows[:, None], self.places[self.rows, :column]]
        kept = (tokens != eos).all(1).nonzero()[:, 0]
        if len(kept) < len(self.rows):
            for name in ("rows", "pos", "newest", "drawn"):
                setattr(self, name, getattr(self, name)[kept])
            if self.cache is not None:
                self.cache.keep(kept)
        return len(kept) > 0

    def rollout(self, eos):
        """Everything up to and with the end of text."""
        tokens, tau_idx = self.idx.gather(1, self.places), self.tau_idx.gather(1, self.places)
        ends = tokens == (-1 if eos is None else eos)
        mask = ends.cumsum(1) - ends.long() == 0  # no end of text before
        tokens, tau_idx = tokens.where(mask, eos or 0), tau_idx.where(mask, 0)
        if self.decoder is None:
            tau_idx = None
        elif self.decoder.level == "sequence":
            tau_idx = tau_idx[:, :1]
        return Rollout(tokens, mask, ~ends.any(1), tau_idx)


@torch.no_grad()
def generate(model, prompts, max_new_tokens, decoder=None, temperature=None, tau_select="sample",
             eos=None, generator=None):
    """Sample one response a prompt.  B token lists, of unequal lengths too -> Rollout

    Give a decoder, or a temperature: a number, or a tensor that broadcasts to (B, max_new_tokens).
    tau_select "greedy" takes the decoder's most likely temperature (equation 4), "sample" draws one
    (equation 5). ValueError when prompt and max_new_tokens exceed the model's context.
    """
    if (decoder is None) == (temperature is None):
        raise ValueError("give either a decoder or a temperature")
    if tau_select not in ("sample", "greedy"):
        raise ValueError(f"unknown tau_select {tau_select!r}; choose 'sample' or 'greedy'")
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; give a whole number >= 1")
    for name, value, kind in (("eos", eos, int), ("generator", generator, torch.Generator)):
        if not isinstance(value, (kind, type(None))):
            raise TypeError(f"{name} is {value!r:.60}; give {kind.__name__} or None")
    idx, lengths = right_padded(model, prompts, max(1, len(prompts)), max_new_tokens)
    taus = torch.as_tensor(temperature if decoder is None else decoder.temperatures,
                           dtype=torch.float64, device=idx.device)
    shape = (len(idx), max_new_tokens) if decoder is None else taus.shape
    fits = taus.dim() <= 2 and all(n in (1, m) for n, m in zip(taus.shape[::-1], shape[::-1]))
    if not fits or not ((0 <= taus) & (taus < 1e30)).all():  # hotter ones would overflow
        raise ValueError(f"temperature is {taus.tolist()!r:.60}; give numbers >= 0 for {(*shape,)}")
    taus = taus.float().expand(shape)
    writing = Writing(model, idx, lengths, max_new_tokens, decoder, taus, tau_select == "greedy",
                      generator)
    graphs = writing.cache is not None and idx.is_cuda and (
        generator is None or generator.device.type == "cuda")
    stride, step = 32 if graphs else 16, writing.from_newest
    longest = idx.shape[1] - max_new_tokens
    for column in range(max_new_tokens):
        if eos is not None and column and column % stride == 0:  # the only wait for the device
            if not writing.drop_finished(column, eos):
                break
        if column == 0 or writing.cache is None:
            writing.from_start(longest + column, check=column == 0)
        else:
            if graphs and (column == 2 or column % stride == 0):  # the first step warms up
                last = min(column - column % stride + stride, max_new_tokens) - 1
                step = writing.record(longest + last)
            step()
    return writing.rollout(eos)


def aligned(model, prompts, tokens):
    """Logits and hidden states that predict each response token: the repository's one shift.

    B token lists, (B,T) -> (B,T,V), (B,T,C); column 0 comes from the last prompt token.
    """
    kind = 2, torch.long, next(model.parameters()).device
    if (tokens.dim(), tokens.dtype, tokens.device) != kind:
        raise ValueError(f"tokens is {tokens.dtype} {*tokens.shape,}; give long (B,T), {kind[2]}")
    idx, lengths = right_padded(model, prompts, *tokens.shape)
    columns = lengths[:, None] + torch.arange(tokens.shape[1], device=idx.device)  # (B,T)
    logits, hidden = model(idx.scatter(1, columns, tokens))
    rows = torch.arange(len(prompts), device=idx.device)[:, None]
    return logits[rows, columns - 1], hidden[rows, columns - 1]


def response_logps(model, decoder, prompts, rollout, ref_model=None, ref_decoder=None):
    """What the losses take, by one teacher-forced pass over what was generated.  -> ResponseLogps

    Without ref_model the language model is its own frozen reference; without ref_decoder
    ref_tau_logps is None. Gradients reach the model and the decoder, never a reference.
    """
    if rollout.tau_idx is None:
        raise ValueError("this rollout has a fixed temperature; generate it with a decoder")
    logits, hidden = aligned(model, prompts, rollout.tokens)
    text_logps = temperature_logps(logits, rollout.tokens, decoder.temperatures)
    with torch.no_grad():
        ref_text_logps, ref_hidden = text_logps.detach(), hidden
        if ref_model is not None:
            logits, ref_hidden = aligned(ref_model, prompts, rollout.tokens)
            ref_text_logps = temperature_logps(logits, rollout.tokens, decoder.temperatures)
        ref_tau_logps = None if ref_decoder is None else ref_decoder.response(ref_hidden)
    return ResponseLogps(decoder.response(hidden), rollout.tau_idx, rollout.mask, text_logps,
                         ref_text_logps, ref_tau_logps)
