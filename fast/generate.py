"""decoder.generate for a CUDA GPU: the same arguments and responses, in a fraction of the time.

A GPU finishes the hundred small kernels of one token before Python has launched them. So the step
of one column is recorded as a CUDA graph and replayed, on keys and values that stay in place
(cache.py); compiled.py fuses it further. Finished rows are dropped now and then. Where nothing can
be recorded (on a CPU, for other models than model.GPT, for choices that follow the text) this is
decoder.generate. Tests compare the two.

B responses, of which R are not finished; T columns; K choices; V vocabulary size; C hidden width.
"""
import functools

import torch
import torch.nn as nn
import torch.nn.functional as F

import decoder as decoding
from decoder import at_least_float32, choice_logps, device_of, has_memory
from fast.cache import Cache
from lpo import require
from model import GPT, Block

COLUMNS = 32  # that a graph serves, and between two looks for finished rows


def minus_gumbel(shape, device, generator=None):
    """Noise g such that argmax(log p - g) is a sample from p: minus a standard Gumbel variable.

    In float64, since a float32 uniform ends at 16.6, and tokens rarer than that would never occur.
    """
    uniform = torch.rand(shape, dtype=torch.float64, generator=generator,
                         device=device if generator is None else generator.device)
    return uniform.clamp_min_(torch.finfo(uniform.dtype).tiny).log_().neg_().log_().to(device)


def noisy(logits, tau, generator=None):
    """Scores whose arg-max is a token from softmax(logits / tau).  (R,V), (R,) -> (R,V)

    logits / tau - noise, times tau: no division, no branch for temperature 0, and each row at its
    own temperature.
    """
    noise = minus_gumbel(logits.shape, logits.device, generator)
    return logits - tau[:, None] * noise


def is_plain(model):
    """Is it model.GPT as it stands: no subclass, no exchanged layer (as for LoRA), no hook?"""
    parts = (GPT, Block, nn.ModuleList, nn.Linear, nn.LayerNorm, nn.Embedding)
    return type(model) is GPT and all(
        type(part) in parts and not part._forward_hooks and not part._forward_pre_hooks
        for part in model.modules())


def generate(model, prompts, max_new_tokens, decoder=None, temperature=None, tau_select="sample",
             eos=None, generator=None, compiled=False):
    """Sample one response per prompt, as decoder.generate does.  B token lists -> Rollout

    compiled: fuse the step by torch.compile, which takes some twenty seconds the first time. Raises
    ValueError where that is impossible, and whatever decoder.generate raises.
    """
    follows_text = callable(temperature) and not hasattr(temperature, "name")
    devices = {device_of(model).type, "cuda" if generator is None else generator.device.type}
    can_record = is_plain(model) and devices == {"cuda"} and not follows_text
    require(can_record or not compiled, "compiled=True needs a model.GPT and a generator on a CUDA "
                                        "GPU, and choices that do not follow the text")
    loop = functools.partial(recorded_loop, compiled) if can_record else None
    return decoding.generate(model, prompts, max_new_tokens, decoder, temperature, tau_select, eos,
                             generator, loop)


def recorded_loop(compiled, model, prompts, T, decoder, plan, greedy, ends, generator):
    """As decoder.sampling_loop."""
    kind = Writing
    if compiled:
        from fast.compiled import Compiled as kind
    require(((0 <= ends) & (ends < model.config.vocab_size)).all(),
            f"eos {ends.tolist()} is not below {model.config.vocab_size}")
    # autocast would write keys and values of another type than the cache has
    with torch.cuda.device(ends.device), torch.autocast("cuda", enabled=False):
        writing = kind(model, prompts, T, decoder, greedy, generator)
        if plan is not None:
            writing.plan(plan)
        writing.write(ends)
    tokens, tau_idx, failed = writing.columns(ends)
    require(not failed, "the model, the decoder or a choice gives NaN, or no possible token")
    return tokens, tau_idx


@functools.cache
def recorder(device):
    """A stream and memory that all recordings of a device share, kept by one that is never
    replayed. With memory of its own, each recording would leave some behind."""
    stream, keeper = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    with torch.cuda.graph(keeper, stream=stream):
        torch.zeros(1, device=device)
    return stream, keeper


class Writing:
    """Responses under way. A column is written into tensors that stay in place, without asking the
    device for a value, so that it can be recorded once and replayed."""
    any_width = False  # does a recording serve whatever the cache holds?

    def __init__(self, model, prompts, T, decoder, greedy, generator):
        self.model = model
        self.decoder = decoder
        self.decides = decoder is not None
        self.greedy = greedy
        self.generator = generator
        number = {prompt: n for n, prompt in enumerate(dict.fromkeys(prompts))}
        self.distinct, _ = decoding.padded(model, list(number), T, left=False)  # (P, longest)
        device = self.distinct.device
        self.prompt_of = torch.tensor([number[prompt] for prompt in prompts], device=device)
        lengths = torch.tensor(list(map(len, prompts)), device=device)
        self.T = T
        self.idx = F.pad(self.distinct[self.prompt_of], (0, T))  # (B, longest + T)
        self.places = lengths[:, None] + torch.arange(T, device=device)  # (B,T), in idx
        self.tau_idx = torch.zeros_like(self.idx)
        self.planned = torch.zeros_like(self.idx)  # without a decoder: the choice at each place
        self.failed = torch.zeros_like(self.idx, dtype=torch.bool)  # what was written there
        if decoder is not None:
            self.set_choices(decoder.choices)
        # of the R rows that go on: their numbers, their newest token, its place and their choice
        self.rows = torch.arange(len(prompts), device=device)
        self.pos = lengths - 1
        self.newest = torch.zeros_like(lengths)
        self.chosen = torch.zeros_like(lengths)
        self.graphs = []

    def set_choices(self, choices):
        self.choices = choices
        self.counts = None  # (R,V) if a choice has a memory
        if any(map(has_memory, choices)):
            self.counts = torch.zeros(len(self.places), self.model.config.vocab_size,
                                      dtype=torch.float32, device=self.idx.device)
        self.taus = None  # (K,) if all are temperatures, at which `sample` samples at once
        if not any(map(callable, choices)):
            self.taus = torch.tensor(choices, dtype=torch.float32, device=self.idx.device)

    def plan(self, planned):
        """The choices of all columns, which depend on nothing but the column."""
        columns = [planned(self.idx[:, :t]) for t in range(self.T)]
        choices = decoding.checked_choices(dict.fromkeys(choice for column in columns
                                                         for choice in column))
        number = {choice: k for k, choice in enumerate(choices)}
        table = torch.tensor([[number[choice] for choice in column] for column in columns])
        self.planned.scatter_(1, self.places, table.T.to(self.idx.device))
        self.set_choices(choices)

    def write(self, ends):
        """T columns, or fewer if all rows end before."""
        longest = self.distinct.shape[1]
        self.from_prompts()
        step, until = self.from_newest, 2  # the first step warms up, unrecorded
        for column in range(1, self.T):
            if len(ends) and column % COLUMNS == 0:  # the only wait for the device
                before = len(self.rows)
                if not self.drop_finished(column, ends):
                    break
                if len(self.rows) < before:
                    step, until = self.from_newest, column + 1
            if column == until:
                until = self.T
                if not self.any_width:
                    until = min(column - column % COLUMNS + COLUMNS, self.T)
                step = self.record(longest + until - 1)
            step()

    def columns(self, ends):
        """What was written, and whether that failed before an end.  -> (B,T), (B,T), bool"""
        tokens, tau_idx, failed = (x.gather(1, self.places)
                                   for x in (self.idx, self.tau_idx, self.failed))
        is_over = F.pad(torch.isin(tokens, ends), (1, 0))[:, :-1].cumsum(1) > 0
        return tokens, tau_idx, bool((failed & ~is_over).any())

    def from_prompts(self):
        """Write the first column; the samples of a prompt share its pass."""
        P, longest = self.distinct.shape
        filled = self.model.new_cache(P, longest)
        logits, hidden = self.model(self.distinct, filled)
        self.cache = Cache(self.model, filled, longest + self.T)
        self.cache.keep(self.prompt_of)
        newest = self.prompt_of, self.pos
        self.write_column(logits[newest], hidden[newest])

    @torch.inference_mode()
    def from_newest(self):
        """Write a column from the newest token and what the cache holds of those before."""
        self.write_column(*self.cache.step(self.newest, self.pos))

    def write_column(self, logits, hidden):
        """A choice and a token per row, at the next place.  (R,V), (R,C)"""
        self.pos += 1
        next_place = self.rows, self.pos
        if self.decides:
            logps = self.decoder(hidden)  # (R,K)
            if not self.greedy:
                logps = logps - minus_gumbel(logps.shape, logps.device, self.generator)
            self.chosen = self.best(logps)
            self.decides = self.decoder.level == "token"  # "sequence": in the first column only
        if self.decoder is None:
            self.chosen = self.planned[next_place]
        else:
            self.tau_idx[next_place] = self.chosen
        self.newest.copy_(self.tokens(logits))
        self.idx[next_place] = self.newest
        if self.counts is not None:
            self.counts.scatter_add_(1, self.newest[:, None], torch.ones_like(self.counts[:, :1]))

    def tokens(self, logits):
        """One token per row, from the distribution at its own choice.  (R,V) -> (R,)"""
        if self.taus is not None:
            taus = self.taus[self.chosen]
            return self.best(noisy(at_least_float32(logits), taus, self.generator))
        every = torch.stack([choice_logps(logits, choice, self.counts)
                             for choice in self.choices])  # (K,R,V)
        logps = every[self.chosen, torch.arange(len(logits), device=logits.device)]
        return self.best(logps - minus_gumbel(logps.shape, logps.device, self.generator))

    def best(self, scores):
        """The arg-max of each row. NaN, or nothing that is possible, is noted.  (R,N) -> (R,)"""
        top, index = scores.max(-1)
        self.failed[self.rows, self.pos] |= ~top.isfinite()
        return index

    def record(self, width):
        """from_newest() as a CUDA graph that serves up to a width of tokens.  -> its replay"""
        graph, (stream, keeper) = torch.cuda.CUDAGraph(), recorder(self.idx.device)
        if self.generator is not None:
            graph.register_generator_state(self.generator)
        self.cache.used = width - 1  # the step that is recorded adds one
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # torch.cuda.graph would wait for the device
            graph.capture_begin(keeper.pool())
            self.from_newest()
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        self.graphs.append(graph)  # those before may still be at work
        return graph.replay

    def drop_finished(self, column, ends):
        """Go on with the rows that have no end of text in the columns so far.  -> is any left?"""
        tokens = self.idx[self.rows[:, None], self.places[self.rows, :column]]
        kept = (~torch.isin(tokens, ends)).all(1).nonzero()[:, 0]
        if len(kept) < len(self.rows):
            self.rows, self.pos = self.rows[kept], self.pos[kept]
            self.newest, self.chosen = self.newest[kept], self.chosen[kept]
            self.counts = None if self.counts is None else self.counts[kept]
            self.cache.keep(kept)
        return len(kept) > 0
