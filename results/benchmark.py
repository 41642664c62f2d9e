"""How fast, against what: prints the tables of BENCHMARKS.md, or fills them in with --publish.

    python -m results.benchmark [generation training] [--device cuda] [--quick] [--publish]

Competitors take turns in one process; a ratio is the median over turns, with its quartiles: ratios
mean more elsewhere than times. On a GPU the model has 10.7 million parameters in bfloat16, on a CPU
it is a toy in float32.
"""
import argparse
import statistics
import time
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

import decoder
import fast.generate
from decoder import AdaptiveDecoder
from lpo import require
from model import GPT, GPTConfig
from results.tables import filled, markdown
from toy import files

PAGE = Path(__file__).resolve().parent / "BENCHMARKS.md"
SHAPES = dict(cpu=dict(shape=(4, 4, 128), batches=(1, 64, 512), new=48, turns=15),
              cuda=dict(shape=(6, 6, 384), batches=(1, 64, 1024), new=240, turns=7))
VOCAB, PROMPT, SLOTS = 128, 16, 256
TAU = 0.8  # of all that has one temperature
PEER = "compiled loop"


# --- timing ---------------------------------------------------------------------------------------


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


def speed(times, name, over):
    """How many times as fast as another, by turn: median and quartiles."""
    ratios = sorted(b / a for a, b in zip(times[name], times[over]))
    n = len(ratios)
    return f"{statistics.median(ratios):.2f} [{ratios[n // 4]:.2f}, {ratios[-1 - n // 4]:.2f}]"


# --- generation -----------------------------------------------------------------------------------


@torch.no_grad()
def recompute(model, idx, new):
    """nanoGPT's way: everything again for each token."""
    for _ in range(new):
        logits = model(idx)[0][:, -1].float() / TAU
        idx = torch.cat([idx, torch.multinomial(logits.softmax(-1), 1)], dim=1)


class CompiledLoop(nn.Module):
    """A loop in gpt-fast's manner on model.GPT's weights: a peer in its own best form.

    One compiled step samples one more token per row. All that it reads or writes are buffers, so
    nothing goes to the host. What it leaves out makes it fast: prompts are of one length, the
    temperature is one number, and there is neither a decoder nor an end of text.
    """

    def __init__(self, model, B):
        super().__init__()
        self.model = model
        H, like = model.config.n_head, model.norm.weight
        kv = like.new_zeros(model.config.n_layer, 2, B, H, SLOTS, model.config.n_embd // H)
        for layer, of_layer in enumerate(kv):
            self.register_buffer(f"kv{layer}", of_layer.clone())
        self.register_buffer("idx", torch.zeros(B, SLOTS, dtype=torch.long, device=like.device))
        self.register_buffer("pos", self.idx[0, :1].clone())  # the first place not yet read
        self.register_buffer("places", torch.arange(SLOTS, device=like.device))

    def forward(self, T):
        """Read T tokens per row and sample the next one."""
        model, B = self.model, len(self.idx)
        at = self.pos + self.places[:T]  # (T,)
        mask = self.places <= at[:, None]  # (T,slots)
        x = model.token_embedding(self.idx[:, at]) + model.position_embedding(at)  # (B,T,C)
        for layer, block in enumerate(model.blocks):
            heads = block.qkv(block.norm1(x)).view(B, T, 3, block.n_head, -1)
            q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B,T,3,H,D) -> 3 of (B,H,T,D)
            keys, values = getattr(self, f"kv{layer}")
            keys[:, :, at] = k
            values[:, :, at] = v
            y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
            x = x + block.out(y.transpose(1, 2).reshape(B, T, -1))
            x = x + block.down(F.gelu(block.up(block.norm2(x)), approximate="tanh"))
        logits = model.norm(x[:, -1]) @ model.token_embedding.weight.T  # (B,V)
        probabilities = (logits.float() / TAU).softmax(-1)
        # the least of V exponential waits of rates p is the v-th with probability p_v
        noise = torch.empty_like(probabilities).exponential_()
        self.pos.add_(T)
        self.idx[:, self.pos] = (probabilities / noise).argmax(-1, keepdim=True)


@torch.no_grad()
def loop_of(model, prompts, new):
    """CompiledLoop at work: a graph for the prompts, one for a token.  -> f() -> tokens (B,new)"""
    B, T = prompts.shape
    loop = CompiledLoop(model, B)
    options = {}
    if prompts.is_cuda:  # mode "reduce-overhead", and what gpt-fast sets beside it
        options = {"triton.cudagraphs": True, "coordinate_descent_tuning": True}
    # not dynamic: a second batch size is compiled anew
    step = torch.compile(loop.forward, fullgraph=True, dynamic=False, options=options)

    @torch.no_grad()
    def f():
        loop.pos.zero_()
        loop.idx[:, :T] = prompts
        step(T)
        for _ in range(new - 1):
            step(1)
        return loop.idx[:, T:T + new]
    return f


def generation(device, setting):
    """Tokens per second, and times as fast as nanoGPT's loop and as the compiled loop."""
    shape, new = setting["shape"], setting["new"]
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = GPT(GPTConfig(VOCAB, SLOTS, *shape)).to(device, dtype)
    adaptive = AdaptiveDecoder(shape[-1]).to(device, dtype)
    rows = []
    for B in setting["batches"]:
        idx = torch.ones(B, PROMPT, dtype=torch.long, device=device)
        policies = {"one temperature": dict(temperature=TAU), "a decoder": dict(decoder=adaptive)}
        competitors = {"nanoGPT's loop": lambda: recompute(model, idx, new)}
        for name, policy in policies.items():
            competitors[f"decoder.generate, {name}"] = lambda policy=policy: decoder.generate(
                model, idx.tolist(), new, **policy)
            for more in ({}, dict(compiled=True)) if device == "cuda" else ():
                title = f"fast.generate, {name}{', compiled' if more else ''}"
                competitors[title] = lambda policy=policy | more: fast.generate.generate(
                    model, idx.tolist(), new, **policy)
        competitors[PEER] = loop_of(model, idx, new)
        first = {name: seconds(f) for name, f in competitors.items()}
        times = race(competitors, setting["turns"])
        for name in competitors:
            rows.append({"batch": B, "": name,
                         "tokens/s": f"{B * new / statistics.median(times[name]):,.0f}",
                         "x nanoGPT's loop": speed(times, name, "nanoGPT's loop"),
                         f"x {PEER}": speed(times, name, PEER),
                         "first call, s": f"{first[name]:.1f}"})
    return rows


# --- a training step ------------------------------------------------------------------------------


def training(device, setting):
    """Milliseconds of a step on 32 x 64 tokens, and times as fast as transformers' GPT-2."""
    import transformers  # which nothing else here needs
    idx = torch.randint(VOCAB, (32, 65), device=device)
    n_layer, n_head, n_embd = setting["shape"]
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=SLOTS, n_layer=n_layer, n_head=n_head, n_embd=n_embd,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=None, eos_token_id=None))
    ours = GPT(GPTConfig(VOCAB, SLOTS, *setting["shape"]))

    def step_of(model, logits_of, dtype=None):
        optimizer = torch.optim.AdamW(model.to(device).parameters(), fused=True)

        def step():
            with torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None):
                logits = logits_of(model, idx[:, :-1])
            loss = F.cross_entropy(logits.float().flatten(0, 1), idx[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return step
    times = race({
        "transformers": step_of(theirs, lambda model, idx: model(idx).logits),
        "model.GPT": step_of(ours, lambda model, idx: model(idx)[0]),
        "model.GPT, bfloat16": step_of(ours, lambda model, idx: model(idx)[0], torch.bfloat16)},
        3 * setting["turns"])
    return [{"": name, "ms": f"{1e3 * statistics.median(of):.1f}",
             "x transformers": speed(times, name, "transformers")} for name, of in times.items()]


SECTIONS = dict(generation=generation, training=training)


def main(arguments):
    environment = files.environment()
    require(not arguments.publish or "dirty" not in (environment["commit"] or "dirty"),
            "the tree has changes; commit them before you publish")
    device = arguments.device
    setting = SHAPES[device] | (dict(batches=(2,), new=4, turns=1) if arguments.quick else {})
    where = environment["gpu"] if device == "cuda" else f"{environment['machine']}, one thread"
    source = f"{where}; commit {environment['commit']}, torch {environment['torch']}."
    for name in arguments.sections or SECTIONS:
        table = markdown(SECTIONS[name](device, setting))
        print(f"\n{source}\n\n{table}", flush=True)
        if arguments.publish:
            tables = {f"{name}_{device}": f"{source}\n\n{table}"}
            files.write(PAGE, filled(PAGE.read_text(encoding="utf-8"), tables))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []])
    parser.add_argument("--quick", action="store_true", help="small and once: does it run?")
    parser.add_argument("--publish", action="store_true", help="fill in BENCHMARKS.md at its marks")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu",
                        choices=["cpu", "cuda"])
    with files.program():
        torch.set_num_threads(1)
        torch.manual_seed(0)
        main(parser.parse_args())
