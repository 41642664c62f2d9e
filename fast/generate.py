"""decoder.generate, faster: the same arguments, the same responses, in a fraction of the time.

Four things are done differently. Keys and values are kept (cache.py), so that a new token costs one
token's arithmetic. Samples of one prompt share its pass. Finished responses are dropped from the
batch now and then. And on a GPU the step is recorded as a CUDA graph and replayed, since launching
its hundred small kernels would take longer than running them. Tests hold it to the plain loop,
token for token with the same noise.

B responses, of which R are not finished; T columns; K temperatures; V words; C hidden width.
"""
import contextlib
import functools
import math

import torch

from decoder import (as_evaluated, checked_request, draw, follows_text, response_places,
                     rollout_of)
from lpo import require, word_logps

COLUMNS = dict(cpu=16, cuda=32)  # that a graph serves, and between two looks for finished rows


def sample(logits, tau, generator=None):
    """One draw from softmax(logits / tau), exactly the arg-max at tau 0.  (R,V), (R,) -> (R,)

    argmax(logits / tau + Gumbel noise), times tau: no division, no branch for temperature 0, and
    each row at its own temperature.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    device = logits.device if generator is None else generator.device
    noise = torch.rand(logits.shape, dtype=dtype, device=device, generator=generator)
    noise.clamp_min_(torch.finfo(dtype).tiny).log_().neg_().log_()  # minus Gumbel, never infinite
    return (logits - tau[:, None] * noise.to(logits.device)).argmax(-1)


@torch.inference_mode(False)  # what it returns may be trained on
@torch.no_grad()
def generate(model, prompts, max_new_tokens, decoder=None, temperature=None, tau_select="sample",
             eos=None, generator=None, compiled=False):
    """Sample one response a prompt, as decoder.generate does.  B token lists -> Rollout

    compiled: fuse the step by torch.compile (compiled.py). On a CUDA GPU, for a model.GPT and
    temperatures given before; some twenty seconds the first time. ValueError for anything else.
    """
    request = checked_request(model, prompts, max_new_tokens, decoder, temperature, tau_select, eos,
                              generator)
    idx, lengths, T, plan, eos = request
    replans = follows_text(temperature)
    kind = Writing
    if compiled:
        from fast.compiled import Compiled as kind
        require(not replans, "compiled=True takes no temperature that follows the text")
    device = torch.cuda.device(idx.device) if idx.is_cuda else contextlib.nullcontext()
    # autocast would write keys and values of another type than the cache has
    with as_evaluated(model), device, torch.autocast(idx.device.type, enabled=False):
        writing = kind(model, prompts, idx, lengths, T, decoder, tau_select == "greedy", generator)
        if plan is not None and not replans:
            writing.plan_all(plan)
        writing.write(T, eos, plan if replans else None)
    return rollout_of(idx, lengths, writing.tau_idx.gather(1, writing.places), decoder, eos)


@functools.cache
def recorder(device):
    """What all recordings of a device share: a stream, and memory, kept by a recording that is
    never replayed. Each with its own would leave memory behind that the next cannot use."""
    stream, keeper = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    with torch.cuda.graph(keeper, stream=stream):
        torch.zeros(1, device=device)
    return stream, keeper


class Writing:
    """Responses under way. A column is drawn in tensors that stay in place and without a value from
    the host, so that a GPU can record it once and replay it."""
    any_width = False  # does a recording serve whatever the cache holds?

    def __init__(self, model, prompts, idx, lengths, T, decoder, greedy, generator):
        self.model = model
        self.decoder = decoder
        self.greedy = greedy
        self.generator = generator
        self.idx = idx  # (B, longest prompt + T)
        self.places = response_places(lengths, T)  # (B,T): of response tokens in idx
        self.tau_idx = torch.zeros_like(idx)
        self.planned = torch.zeros_like(idx)  # which choice, at its place, without a decoder
        if decoder is not None:
            self.set_choices(decoder.choices)
        self.decides = decoder is not None
        # of the R rows that go on: their numbers, their newest token and its place
        self.rows = torch.arange(len(idx), device=idx.device)
        self.pos = lengths - 1
        self.newest = torch.zeros_like(lengths)
        self.chosen = torch.zeros_like(lengths)  # which choice
        # the samples of a prompt are one row until they part; prompt_of (B,): which one
        prompts = [tuple(prompt) for prompt in prompts]
        row_of = {prompt: row for row, prompt in enumerate(prompts)}  # one of its rows
        number = {prompt: n for n, prompt in enumerate(row_of)}
        self.distinct = idx[list(row_of.values())]
        self.prompt_of = torch.tensor([number[prompt] for prompt in prompts], device=idx.device)
        shape = self.distinct.shape
        self.cache = model.new_cache(*shape) if hasattr(model, "new_cache") else None
        self.graphs = []

    def write(self, T, eos, plan=None):
        """T columns, or fewer once all rows have an end of text; a plan makes each column anew."""
        recordable = self.idx.is_cuda and getattr(self.cache, "recordable", False)
        graphs = recordable and plan is None and (
            self.generator is None or self.generator.device.type == "cuda")
        stride = COLUMNS["cuda" if graphs else "cpu"]
        longest = self.idx.shape[1] - T
        step, until = self.from_newest, 2  # the first step warms up, unrecorded
        for column in range(T):
            if len(eos) and column and column % stride == 0:  # the only wait for the device
                before = len(self.rows)
                if not self.drop_finished(column, eos):
                    break
                if len(self.rows) < before:
                    step, until = self.from_newest, column + 1
            if plan is not None:
                self.plan_column(column, plan)
            if column == 0 or self.cache is None:
                self.from_start(longest + column, check=column == 0)
                continue
            if graphs and column == until:
                until = T if self.any_width else min(column - column % stride + stride, T)
                step = self.record(longest + until - 1)
            step()

    def set_choices(self, choices):
        self.choices = choices
        self.taus = None  # (K,) where all are temperatures, which `sample` draws from at once
        if not any(map(callable, choices)):
            self.taus = torch.tensor(choices, device=self.idx.device)

    def plan_all(self, plan):
        """The given choices of all columns: only the number of columns before one counts."""
        columns = [plan(self.idx[:, :t]) for t in range(self.places.shape[1])]
        self.planned.scatter_(1, self.places, torch.stack([k for _, k in columns], 1))
        self.set_choices(columns[0][0])  # the same for each

    def plan_column(self, column, plan):
        """The given choices of a column, from the tokens before it."""
        choices, k = plan(self.idx.gather(1, self.places[:, :column]))  # (B,column)
        self.set_choices(choices)
        self.planned.scatter_(1, self.places[:, column, None], k[:, None])

    def from_start(self, width, check):
        """Draw a column from all tokens up to a width; each row's newest is at its own place."""
        if self.cache is None:
            logits, hidden = self.model(self.idx[self.rows, :width])
            row = torch.arange(len(self.rows), device=self.idx.device)
        else:
            logits, hidden = self.model(self.distinct[:, :width], self.cache)
            row = self.prompt_of
            self.cache.keep(row)
        newest = row, self.pos
        if check and not (logits[newest] < math.inf).all():  # waits for the device
            raise ValueError("the model gives logits that are NaN or infinite")
        self.draw_column(logits[newest], hidden[newest])

    @torch.inference_mode()
    def from_newest(self):
        """Draw a column from the newest token and what the cache holds of those before."""
        self.draw_column(*self.cache.step(self.newest, self.pos))

    def draw_column(self, logits, hidden):
        """A choice and a token a row, at the next place.  (R,V), (R,C)"""
        self.pos += 1
        next_place = self.rows, self.pos
        if self.decides:
            tau_logps = self.decoder(hidden)  # (R,K)
            self.chosen = tau_logps.argmax(-1) if self.greedy else draw(tau_logps, self.generator)
            self.decides = self.decoder.level == "token"  # "sequence": in the first column only
        if self.decoder is None:
            self.chosen = self.planned[next_place]
        else:
            self.tau_idx[next_place] = self.chosen
        self.newest.copy_(self.words(logits))
        self.idx[next_place] = self.newest

    def words(self, logits):
        """One draw a row, each from the distribution of its own choice.  (R,V) -> (R,)"""
        if self.taus is not None:
            return sample(logits, self.taus[self.chosen], self.generator)
        every = torch.stack([word_logps(logits, choice) for choice in self.choices])  # (K,R,V)
        rows = torch.arange(len(logits), device=logits.device)
        return draw(every[self.chosen, rows], self.generator)

    def record(self, width):
        """from_newest() as a CUDA graph that serves up to a width of tokens.  -> its replay"""
        graph, (stream, keeper) = torch.cuda.CUDAGraph(), recorder(self.idx.device)
        if self.generator is not None:
            graph.register_generator_state(self.generator)
        self.cache.used = width - 1  # the step to be recorded adds one
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # torch.cuda.graph would wait for the device
            graph.capture_begin(keeper.pool())
            self.from_newest()
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        self.graphs.append(graph)  # those before may still be at work
        return graph.replay

    def drop_finished(self, column, eos):
        """Keep the rows without an end of text in the columns so far.  -> is any left?"""
        tokens = self.idx[self.rows[:, None], self.places[self.rows, :column]]
        kept = (~torch.isin(tokens, eos)).all(1).nonzero()[:, 0]
        if len(kept) < len(self.rows):
            self.rows = self.rows[kept]
            self.pos = self.pos[kept]
            self.newest = self.newest[kept]
            self.chosen = self.chosen[kept]
            if self.cache is not None:
                self.cache.keep(kept)
        return len(kept) > 0
