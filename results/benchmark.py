"""How fast, against what, and how time and memory grow. Prints the tables of BENCHMARKS.md.

    python -m results.benchmark [generation real training losses growth memory] [--quick]

Competitors take turns in one process; a ratio is the median over turns, with its quartiles: ratios
mean more elsewhere than times. On a GPU the model is GPT-2's shape at 10.7 million
parameters in bfloat16, on a CPU a toy in float32; section `real` has SmolLM2-135M.
"""
import argparse
import importlib.util
import itertools
import math
import random
import statistics
import time
import weakref
from dataclasses import replace

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import train_toy
from decoder import AdaptiveDecoder, right_padded
from fast.generate import COLUMNS, Writing, generate
from fast.large_vocab import latent_marginal
from lpo import VARIANTS, ResponseLogps, lpo_loss, temperature_logps
from model import GPT, GPTConfig
from toy.evaluate import draw_prompts, respond
from toy.options import QUICK, Config
from toy.pretrain import new_model
from toy.samplers import top_p
from toy.stages import randomness
from train_toy import make_pairs, sides_of, update

SHAPES = dict(cpu=dict(shape=(4, 4, 128), batches=(1, 64, 512), new=48, turns=15),
              cuda=dict(shape=(6, 6, 384), batches=(1, 64, 1024), new=240, turns=7))
VOCAB, PROMPT, BANDWIDTH = 128, 16, 2.9e12  # bytes a second that an H100 copies
PEER, COMPILED = "compiled loop", "a decoder, compiled"
REAL = dict(cpu=dict(batches=(1, 16), prompt=16, new=16, turns=7),
            cuda=dict(batches=(1, 32, 256), prompt=32, new=128, turns=5))
GPT2_VOCAB = 50_257


def seconds(f):
    """One call's duration, the device's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    f()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def race(competitors, turns):
    """{name: f} -> {name: durations}: a turn to warm up, then those that begin within a minute."""
    times = {name: [] for name in competitors}
    for f in competitors.values():
        f()
    start = time.perf_counter()
    for turn in range(turns):
        if turn and time.perf_counter() - start > 60:
            break
        for name, f in competitors.items():
            times[name].append(seconds(f))
    return times


def first_calls(competitors):
    """{name: f} -> {name: the first call's duration}, and {name: why it failed} of those that do.

    A compiler works in the first call, and a competitor that cannot run shall stop no other.
    """
    took, failed = {}, {}
    for name, f in competitors.items():
        try:
            took[name] = seconds(f)
        except Exception as error:  # out of memory, no compiler, another version's
            failed[name] = " ".join(f"failed: {type(error).__name__}, {error}".split())[:70]
    return took, failed


def speed(times, name, over):
    """How many times as fast as another, by turn: median and quartiles; "" if the other is none."""
    if over not in times:
        return ""
    ratios = sorted(b / a for a, b in zip(times[name], times[over]))
    n = len(ratios)
    if n == 1:
        return f"{ratios[0]:.2f}, one turn"
    return f"{statistics.median(ratios):.2f} [{ratios[n // 4]:.2f}, {ratios[-1 - n // 4]:.2f}]"


def table(title, head, rows):
    """Print a table; rows may be a generator, whose rows are printed as they come."""
    print(f"\n### {title}\n\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for row in rows:
        cells = [*map(str, row), *[""] * (len(head) - len(row))]  # a failure has few to fill
        print(f"| {' | '.join(cells)} |", flush=True)


# --- generation and training ---------------------------------------------------------------------


@torch.no_grad()
def recompute(model, idx, new, temperature=0.8):
    """nanoGPT's way: everything again for each token."""
    for _ in range(new):
        logits = model(idx)[0][:, -1].float() / temperature
        idx = torch.cat([idx, torch.multinomial(logits.softmax(-1), 1)], dim=1)


class CompiledLoop(nn.Module):
    """A loop in gpt-fast's manner on model.GPT's weights: a peer in its own best form.

    One compiled step draws one more token a row. All that it reads or writes lies in buffers, so
    that nothing goes to the host and nothing comes from it. What it leaves out makes it fast:
    prompts are of one length, the temperature is one number, there is no decoder and no end.
    """

    def __init__(self, model, B, slots=256, temperature=0.8):
        super().__init__()
        self.model = model
        self.temperature = temperature
        config, like = model.config, model.norm.weight
        self.n_head = config.n_head
        D = config.n_embd // config.n_head
        for layer in range(config.n_layer):
            for name in ("keys", "values"):
                self.register_buffer(f"{name}{layer}", like.new_zeros(B, self.n_head, slots, D))
        whole = dict(dtype=torch.long, device=like.device)
        self.register_buffer("idx", torch.zeros(B, slots, **whole))
        self.register_buffer("pos", torch.zeros(1, **whole))  # the first place not yet read
        self.register_buffer("places", torch.arange(slots, **whole))

    def forward(self, T):
        """Read T tokens a row and draw the one behind them."""
        model, B = self.model, len(self.idx)
        at = self.pos + self.places[:T]  # (T,)
        mask = self.places <= at[:, None]  # (T,slots)
        x = model.token_embedding(self.idx[:, at]) + model.position_embedding(at)  # (B,T,C)
        for layer, block in enumerate(model.blocks):
            heads = block.qkv(block.norm1(x)).view(B, T, 3, self.n_head, -1)
            q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B,T,3,H,D) -> 3 of (B,H,T,D)
            keys, values = getattr(self, f"keys{layer}"), getattr(self, f"values{layer}")
            keys[:, :, at] = k
            values[:, :, at] = v
            y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
            x = x + block.out(y.transpose(1, 2).reshape(B, T, -1))
            y = F.gelu(block.up(block.norm2(x)), approximate="tanh")
            x = x + block.down(y)
        logits = model.norm(x[:, -1]) @ model.token_embedding.weight.T  # (B,V)
        probabilities = (logits.float() / self.temperature).softmax(-1)
        # the least of V exponential waits of rates p is the v-th with probability p_v
        noise = torch.empty_like(probabilities).exponential_()
        self.pos.add_(T)
        self.idx[:, self.pos] = (probabilities / noise).argmax(-1, keepdim=True)


def compiled_loop(model, prompts, new, temperature=0.8):
    """CompiledLoop at work: a graph for the prompts, one for a token.  -> f() -> tokens (B,new)"""
    B, T = prompts.shape
    loop = CompiledLoop(model, B, temperature=temperature)
    # mode "reduce-overhead", which is the first option, and what gpt-fast sets beside it; not
    # dynamic: a second batch size is compiled anew, instead of once for all
    step = torch.compile(loop.forward, fullgraph=True, dynamic=False, options={
        "triton.cudagraphs": True, "coordinate_descent_tuning": True})

    def f():
        loop.pos.zero_()
        loop.idx[:, :T] = prompts
        step(T)
        for _ in range(new - 1):
            step(1)
        return loop.idx[:, T:T + new]
    return f


def graphs_skipped():
    """How many compiled functions the compiler did not record as CUDA graphs."""
    return torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]


def hugging_face(shape, device, dtype):
    """A GPT-2 of the transformers library, of the same shape.  -> f(idx, new)"""
    import transformers
    n_layer, n_head, n_embd = shape
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=256, n_embd=n_embd, n_layer=n_layer, n_head=n_head,
        bos_token_id=None, eos_token_id=None, pad_token_id=0)
    model = transformers.GPT2LMHeadModel(config).to(device, dtype).train(False)
    return lambda idx, new: model.generate(
        idx, attention_mask=torch.ones_like(idx), max_new_tokens=new, do_sample=True, top_k=0,
        temperature=0.8)


def replays(model, decoder, prompts, new):
    """The recorded steps of a call of `generate`, without what else it does.  -> f()"""
    idx, lengths = right_padded(model, prompts, len(prompts), new)
    writing = Writing(model, prompts, idx, lengths, new, decoder, greedy=False, generator=None)
    writing.from_start(PROMPT, check=False)
    writing.from_newest()
    stride = COLUMNS["cuda"]
    steps = [writing.record(PROMPT + min(column + stride, new) - 1)
             for column in range(0, new, stride)]

    def f():
        writing.pos.copy_(lengths - 1)
        for column in range(new):
            steps[column // stride]()
    return f


@torch.no_grad()
def generation(device, quick):
    setting = SHAPES[device] | (dict(batches=(2,), new=4, turns=1) if quick else {})
    shape, new = setting["shape"], setting["new"]
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = GPT(GPTConfig(VOCAB, 256, *shape)).to(device, dtype)
    decoder = AdaptiveDecoder(shape[-1]).to(device, dtype)
    installed = importlib.util.find_spec("transformers")
    theirs = hugging_face(shape, device, dtype) if installed else None
    layers, _, width = shape
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    compiling = []

    def measured():
        for B in setting["batches"]:
            idx = torch.ones(B, PROMPT, dtype=torch.long, device=device)
            prompts = idx.tolist()
            competitors = {
                "nanoGPT's loop": lambda: recompute(model, idx, new),
                "one temperature": lambda: generate(model, prompts, new, temperature=0.8),
                "a decoder": lambda: generate(model, prompts, new, decoder=decoder)}
            if device == "cuda":
                competitors["a decoder, replays alone"] = replays(model, decoder, prompts, new)
                compiled = {COMPILED: lambda: generate(
                    model, prompts, new, decoder=decoder, compiled=True),
                            PEER: compiled_loop(model, idx, new)}
                took, failed = first_calls(compiled)
                yield from ((B, *failure) for failure in failed.items())
                for name in took:
                    competitors[name] = compiled[name]
                    compiling.append(f"{name} {took[name]:.0f} s at batch {B}")
            if theirs:
                competitors["transformers"] = lambda: theirs(idx, new)
            times = race(competitors, setting["turns"])
            read = B * (PROMPT + new / 2) * layers * 2 * width * model.norm.weight.element_size()
            bound = B * BANDWIDTH / (weights + read)
            for name in competitors:
                rate = B * new / statistics.median(times[name])
                yield (B, name, f"{rate:,.0f}", speed(times, name, "nanoGPT's loop"),
                       speed(times, name, "transformers") if theirs else "not installed",
                       speed(times, name, PEER),
                       f"{100 * rate / bound:.1f} %" if device == "cuda" else "")
    table(f"Generation: {PROMPT} + {new} tokens, {layers} layers of {width}, {dtype}",
          ("batch", "", "tokens/s", "x nanoGPT's loop", "x transformers", f"x {PEER}",
           "of the bandwidth bound (H100)"), measured())
    if compiling:
        print(f"\nFirst calls, which compile and are not timed above: {', '.join(compiling)}; CUDA "
              f"graphs that the {PEER} skipped: {graphs_skipped()}.")


@torch.no_grad()
def real(device, quick):
    """A language model of the transformers library: its own `generate`, and ours around it."""
    setting = REAL[device] | (dict(batches=(2,), new=4, turns=1) if quick else {})
    T, new = setting["prompt"], setting["new"]
    dtype = "bfloat16" if device == "cuda" else "float32"
    try:
        from real.hf import wrap
        from real.models import load
        lm, _ = load("smollm2", dtype)
    except ModuleNotFoundError as error:
        print(f"\nSection real is skipped: {error}")
        return
    lm.to(device)
    lm.generation_config.eos_token_id = None  # each makes all tokens
    model = wrap(lm)
    decoder = AdaptiveDecoder(model.config.n_embd).to(device)

    def theirs(idx, **cache):
        out = lm.generate(
            idx, attention_mask=torch.ones_like(idx), max_new_tokens=new, do_sample=True, top_k=0,
            top_p=1.0, temperature=0.8, pad_token_id=0, **cache)
        assert out.shape[1] == T + new, f"{out.shape[1] - T} tokens of {new}"

    peers = {"dynamic cache": {},
             "static cache": dict(cache_implementation="static", disable_compile=True)}
    if device == "cuda":  # where `generate` compiles the pass over a static cache by itself
        peers["compiled static cache"] = dict(cache_implementation="static")

    def measured():
        for B in setting["batches"]:
            torch._dynamo.reset()  # else it compiles a second batch size for all sizes
            idx = torch.randint(model.config.vocab_size, (B, T), device=device)
            prompts = idx.tolist()
            competitors = {"fast.generate, a decoder": lambda: generate(model, prompts, new,
                                                                        decoder=decoder)}
            for name, cache in peers.items():
                competitors[name] = lambda cache=cache: theirs(idx, **cache)
            first, failed = first_calls(competitors)
            times = race({name: competitors[name] for name in first}, setting["turns"])
            for name in competitors:
                if name in failed:
                    yield B, name, failed[name]
                    continue
                yield (B, name, f"{B * new / statistics.median(times[name]):,.0f}",
                       *(speed(times, name, peer) for peer in peers), f"{first[name]:.1f}")
    table(f"A real language model: SmolLM2-135M, {T} + {new} tokens, {dtype}",
          ("batch", "", "tokens/s", *(f"x {peer}" for peer in peers), "first call, s"), measured())


class NanoBlock(nn.Module):
    """A block as nanoGPT writes it: modules for all, dropout of 0 included."""

    def __init__(self, n_head, C, gelu):
        super().__init__()
        self.n_head, self.norm1, self.norm2 = n_head, nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.out, self.drop1 = nn.Linear(C, 3 * C), nn.Linear(C, C), nn.Dropout(0.0)
        self.mlp = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(gelu), nn.Linear(4 * C, C),
                                 nn.Dropout(0.0))

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (h.view(B, T, self.n_head, -1).transpose(1, 2)
                   for h in self.qkv(self.norm1(x)).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.0, is_causal=True)
        x = x + self.drop1(self.out(y.transpose(1, 2).contiguous().view(B, T, C)))
        return x + self.mlp(self.norm2(x))


class NanoGPT(nn.Module):
    def __init__(self, n_layer, n_head, C, gelu):
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCAB, C), nn.Embedding(256, C)
        self.drop = nn.Dropout(0.0)
        self.blocks = nn.ModuleList(NanoBlock(n_head, C, gelu) for _ in range(n_layer))
        self.norm, self.head = nn.LayerNorm(C), nn.Linear(C, VOCAB, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, idx):
        x = self.drop(self.tokens(idx) + self.places(torch.arange(idx.shape[1], device=idx.device)))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)), None


def training(device, quick):
    setting, B, T = SHAPES[device], 32, 64
    idx = torch.randint(VOCAB, (B, T + 1), device=device)

    def trainer(model, threads=1, dtype=None):
        optimizer = torch.optim.AdamW(model.to(device).parameters())

        def step():
            torch.set_num_threads(threads)
            with torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None):
                logits, _ = model(idx[:, :-1])
                loss = F.cross_entropy(logits.flatten(0, 1), idx[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return step

    def ours():
        return GPT(GPTConfig(VOCAB, 256, *setting["shape"]))

    competitors = {"nanoGPT's step, GPT-2's GELU": trainer(NanoGPT(*setting["shape"], "tanh")),
                   "nanoGPT's step, its own GELU": trainer(NanoGPT(*setting["shape"], "none")),
                   "ours": trainer(ours()),
                   "ours, two threads": trainer(ours(), threads=2),
                   "ours, bfloat16": trainer(ours(), dtype=torch.bfloat16)}
    threads = torch.get_num_threads()
    times = race(competitors, 1 if quick else 41)
    torch.set_num_threads(threads)
    table(f"A training step: {B} x {T} tokens, {setting['shape'][0]} layers of "
          f"{setting['shape'][2]}, one thread, float32 where not said", ("", "ms", "x the first"),
          [(name, f"{statistics.median(t) * 1e3:.1f}", speed(times, name, next(iter(times))))
           for name, t in times.items()])


def losses(device, quick):
    """The losses' share of an update, and of a whole round, of train_toy.py as it is."""
    cfg = replace(Config(device=device), **(QUICK if quick else {}))
    base, rows = new_model(cfg), []
    for experiment, level in (("mix", "sequence"), ("constrained", "token")):
        gen, rng = randomness(device, "benchmark", experiment)
        decoder = AdaptiveDecoder(cfg.n_embd, cfg.choices, level).to(device)

        def sampled():
            asked = draw_prompts(experiment, "train", cfg.prompts, rng)
            return respond(base, asked, cfg.responses, gen, decoder=decoder)
        sides = sides_of(sampled(), make_pairs(torch.rand(cfg.prompts, cfg.responses).numpy()))

        def updated(loss):
            def f():
                train_toy.lpo_loss, kept = loss, train_toy.lpo_loss
                try:
                    update(base, decoder, (base, decoder), sides, "latent", cfg.beta, cfg.lr,
                           cfg.steps)
                finally:
                    train_toy.lpo_loss = kept
            return f
        times = race({"sample and score": sampled, "update": updated(train_toy.lpo_loss),
                      "update without": updated(lambda a, b, *_: (
                          a.tau_logps[:, 0, 0] - b.tau_logps[:, 0, 0]))}, 1 if quick else 15)
        ms = {name: statistics.median(t) * 1e3 for name, t in times.items()}
        loss = ms["update"] - ms["update without"]
        rows.append((f"{experiment}, {level}", f"{ms['sample and score']:.0f}",
                     f"{ms['update']:.0f}", f"{loss:.0f}", f"{100 * loss / ms['update']:.0f} %",
                     f"{100 * loss / (ms['update'] + ms['sample and score']):.0f} %"))
    table(f"The losses in a round of train_toy.py: {len(sides[0][0])} pairs, {cfg.steps} updates",
          ("", "sample and score, ms", "update, ms", "losses in it, ms", "of the update",
           "of the round"), rows)


# --- growth --------------------------------------------------------------------------------------


class Live(TorchDispatchMode):
    """The largest number of bytes in tensors that live at once, those before it not counted."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = {x.untyped_storage()._cdata for x in args if isinstance(x, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (list, tuple)) else (out,):
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in known | self.seen:
                self.take(x.untyped_storage())
        return out

    def take(self, storage):
        key, size = storage._cdata, storage.nbytes()
        self.seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.free, key, size)

    def free(self, key, size):
        self.seen.discard(key)
        self.now -= size


def cached_step(device, B, S, C):
    """One more token a row, S - 1 being in the cache."""
    cache = GPT(GPTConfig(VOCAB, S, 2, 4, C)).to(device).new_cache(B, S)
    idx, pos = (torch.full((B,), x, device=device) for x in (1, S - 1))

    def step():
        cache.used = S - 1
        cache.step(idx, pos)
    return torch.inference_mode()(step)


def recomputed(device, S):
    model, idx = GPT(GPTConfig(VOCAB, S, 2, 4, 128)), torch.ones(8, S, dtype=torch.long)
    model, idx = model.to(device), idx.to(device)
    return torch.inference_mode()(lambda: model(idx))


def marginals(device, lean, K, V):
    """The `latent` score's sum over temperatures on 256 tokens, and its gradient."""
    logits = torch.randn(8, 32, V, device=device, requires_grad=True)
    tokens = torch.randint(V, (8, 32), device=device)
    tau_logps = torch.zeros(8, 32, K, device=device).log_softmax(-1)
    taus = [0.2 + 0.1 * k for k in range(K)]

    def f():
        if lean:
            latent_marginal(logits, tokens, taus, tau_logps).sum().backward()
        else:
            terms = temperature_logps(logits, tokens, taus) + tau_logps
            terms.logsumexp(-1).sum().backward()
        logits.grad = None
    return f


def wide_model(device, V):
    return GPT(GPTConfig(V, 64, 2, 4, 128)).to(device)


def cuts(K):
    """K settings of top-p."""
    return [top_p(0.2 + 0.7 * k / K) for k in range(K)]


def cut_logps(device, K, V):
    """What each of K settings says of 256 tokens, the language model being frozen."""
    logits = torch.randn(8, 32, V, device=device)
    tokens = torch.randint(V, (8, 32), device=device)
    return lambda: temperature_logps(logits, tokens, cuts(K))


def samples_of(model, prompts, N, new, decoder):
    """N responses to each prompt."""
    prompts = [prompt for prompt in prompts for _ in range(N)]
    return lambda: generate(model, prompts, new, decoder=decoder)


def unlike(n, T):
    """n different prompts of T tokens."""
    return [[*divmod(i, VOCAB), *[1] * (T - 2)] for i in range(n)]


def all_losses(device, V):
    """The three losses on 8 pairs of 16 tokens from logits, 6 temperatures, and the gradient."""
    B, T, taus = 8, 16, (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
    logits = [torch.randn(B, T, V, device=device, requires_grad=True) for _ in range(2)]
    tokens = torch.randint(V, (B, T), device=device)
    tau_logps = torch.zeros(B, T, len(taus), device=device).log_softmax(-1)
    mask, tau_idx = torch.ones_like(tokens, dtype=torch.bool), torch.zeros_like(tokens)

    def f():
        sides = []
        for of_side in logits:
            text_logps = temperature_logps(of_side, tokens, taus)
            sides.append(ResponseLogps(tau_logps, tau_idx, mask, text_logps, text_logps.detach()))
        sum(lpo_loss(*sides, variant, 0.1).mean() for variant in VARIANTS).backward()
        for of_side in logits:
            of_side.grad = None
    return f


def growth(device, quick):
    """Each case: what grows, expected orders of time and memory, its values, a value's f."""
    big, rows = 8 if device == "cuda" else 1, []
    model = wide_model(device, VOCAB)
    decoder = AdaptiveDecoder(128).to(device)
    sizes, samples = [4096, 8192, 16384, 32768, 65536], [1, 2, 4, 8, 16]
    cases = [
        ("batch B: 32 tokens generated", "B", "B", [32, 64, 128, 256], lambda B: samples_of(
            model, [[1] * PROMPT], B * big, 32, decoder)),
        ("samples N of 32 prompts of 48: 8 tokens each", "1 to N", "1 to N", samples,
         lambda N: samples_of(model, unlike(32 * big, 48), N, 8, decoder)),
        ("the same, N x 32 different prompts", "N", "N", samples,
         lambda N: samples_of(model, unlike(32 * big * N, 48), 1, 8, decoder)),
        ("context S: a cached step", "S", "S", [256, 512, 1024, 2048],
         lambda S: cached_step(device, 16 * big, S, 128)),
        ("context S: recomputed", "S to S^2", "S", [256, 512, 1024, 2048],
         lambda S: recomputed(device, S)),
        ("width C: a cached step", "C^2", "C", [256, 512, 1024, 2048],
         lambda C: cached_step(device, 16 * big, 32, C))]
    for name, lean, memory in (("lpo.py", False, "K"), ("large_vocab.py", True, "1")):
        cases.append((f"temperatures K: the marginal, {name}", "K", memory, [2, 4, 8, 16],
                      lambda K, lean=lean: marginals(device, lean, K, 8192)))
    cases += [
        ("top-p settings K: 16 rows, 4 tokens generated, V 8192", "K", "K", [2, 4, 8, 16],
         lambda K: samples_of(wide_model(device, 8192), [[1] * PROMPT], 16 * big, 4,
                           AdaptiveDecoder(128, cuts(K)).to(device))),
        ("top-p settings K: temperature_logps, V 8192", "K", "1", [2, 4, 8, 16],
         lambda K: cut_logps(device, K, 8192))]
    for name, lean in (("lpo.py", False), ("large_vocab.py", True)):
        cases.append((f"vocabulary V: the marginal, {name}", "V", "V", sizes,
                      lambda V, lean=lean: marginals(device, lean, 6, V)))
    cases += [
        ("vocabulary V: the three losses, lpo.py", "V", "V", sizes,
         lambda V: all_losses(device, V)),
        ("vocabulary V: 32 rows, 16 tokens generated", "V", "V", sizes, lambda V: samples_of(
            wide_model(device, V), [[1] * PROMPT], 32 * big, 16, decoder))]
    for name, time_order, memory_order, values, build in cases:
        durations, peaks = [], []
        values = values[:2] if quick else values
        for value in values:
            f = build(value)
            durations.append(statistics.median(race({"": f}, 1 if quick else 9)[""]))
            with Live() as live:
                f()
            peaks.append(live.peak)
        row = [f"{name}, {' '.join(map(str, values))}"]
        for xs, unit, expected in ((durations, 1e3, time_order), (peaks, 1e-6, memory_order)):
            row.append(" ".join(f"{float(f'{x * unit:.3g}'):g}" for x in xs))
            row.append(" ".join(f"{math.log2(b / a):.2f}" for a, b in zip(xs, xs[1:])))
            row.append(expected)
        rows.append(row)
    table("Growth: orders are log2 of the ratio at each doubling", (
        "what grows", "ms", "order", "expected", "peak MB of live tensors", "order", "expected"),
        rows)


# --- memory over many calls ----------------------------------------------------------------------


def memory(device, quick):
    """What a GPU holds after calls of `generate` of twenty sizes, each once in twenty calls."""
    if device == "cpu":
        print("\nSection memory is skipped: it is about a GPU's allocator.")
        return
    looks, rows = (1, 2) if quick else (20, 200), []
    shape = SHAPES["cuda"]["shape"]
    model = GPT(GPTConfig(GPT2_VOCAB, 256, *shape)).to(device, torch.bfloat16)
    decoder = AdaptiveDecoder(shape[-1]).to(device, torch.bfloat16)
    sizes = list(itertools.product((1, 8, 64, 256), (16, 32, 64, 128, 224)))
    order = random.Random(0)
    for call in range(looks[-1]):
        if call % len(sizes) == 0:
            order.shuffle(sizes)
        B, new = sizes[call % len(sizes)]
        prompts = [[1 + row] * (1 + row % PROMPT) for row in range(B)]
        generate(model, prompts, new, decoder=decoder)
        if call + 1 in looks:
            torch.cuda.synchronize()
            free, total = torch.cuda.mem_get_info()
            held = torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), total - free
            rows.append((call + 1, *(f"{x / 1e6:,.1f}" for x in held)))
    table(f"Memory: calls of {len(sizes)} sizes, {shape[0]} layers of {shape[2]}, V {GPT2_VOCAB:,}",
          ("calls", "MB of tensors", "MB reserved by torch", "MB in use on the device"), rows)


SECTIONS = dict(generation=generation, real=real, training=training, losses=losses, growth=growth,
                memory=memory)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []],
                        help=f"of {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small and once: does it run?")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu",
                        choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {arguments.threads} thread(s)")
    for section in arguments.sections or SECTIONS:
        SECTIONS[section](arguments.device, arguments.quick)
