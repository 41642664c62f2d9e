"""The benchmark: what it makes of known durations, and that what it times is what it says.

Races are run with durations that are given, models are replaced by what writes down how it was
called, and a GPU by a CPU that goes by its name.
"""
import copy
import math
import re
import sys
from types import SimpleNamespace

import pytest
import torch

import decoder as plain
from conftest import calls_of
from model import GPT, GPTConfig
from results import benchmark
from results.benchmark import COMPILED, PEER, PROMPT, VOCAB
from test_lpo import chi_square_p
from toy.stages import ROOT

calls_to = calls_of(benchmark)


def table_of(capsys):
    """The one table printed.  -> title, header and lines as lists of cells"""
    return read_table(capsys.readouterr().out.rstrip("\n").split("\n"))


def read_table(lines):
    empty, title, blank, header, rule, *lines = lines
    cells = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in [header, *lines]]
    assert empty == blank == "" and rule == "|" + " --- |" * len(cells[0])
    assert title.startswith("### ")
    return title.removeprefix("### "), cells[0], cells[1:]


def race_of(monkeypatch, durations, call=True):
    """Races that run each competitor once and answer the durations.  -> (names, turns) of each"""
    races = []

    def race(competitors, turns):
        races.append((list(competitors), turns))
        for f in competitors.values() if call else ():
            f()
        return {name: durations[name] for name in competitors}
    monkeypatch.setattr(benchmark, "race", race)
    return races


def on_gpu(monkeypatch, **cuda):
    """benchmark.py sees a GPU: what it makes there, and moves there, stays on the CPU."""
    def here(make):
        def made(*of, device, **more):
            assert device == "cuda"
            return make(*of, **more)
        return made

    def to(model, device, dtype=None):
        assert device == "cuda"
        return model if dtype is None else move(model, dtype)
    move = torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", to)
    cuda = SimpleNamespace(is_available=lambda: False, **cuda)
    fake = SimpleNamespace(**vars(torch) | dict(ones=here(torch.ones), randint=here(torch.randint),
                                                cuda=cuda))
    monkeypatch.setattr(benchmark, "torch", fake)
    return fake


# --- durations ------------------------------------------------------------------------------------


def test_speed_is_the_median_of_the_ratios_with_quartiles():
    """Turn by turn b / a is 2, 3, 4, 10, 1: sorted 1 2 3 4 10, median 3, quartiles 2 and 4. Bugs:
    a ratio turned round, the ratio of medians (5 / 1.5 = 3.33), the range for the quartiles."""
    times = {"ours": [1.0, 2.0, 1.5, 0.5, 5.0], "theirs": [2.0, 6.0, 6.0, 5.0, 5.0]}
    assert benchmark.speed(times, "ours", "theirs") == "3.00 [2.00, 4.00]"
    assert benchmark.speed(times, "theirs", "theirs") == "1.00 [1.00, 1.00]"
    assert benchmark.speed(dict(a=[4.0], b=[5.0]), "a", "b") == "1.25, one turn"
    assert benchmark.speed(dict(a=[4.0]), "a", "b") == ""


def test_a_competitor_that_fails_stops_no_other(monkeypatch):
    """Bugs: one failure ends the rest, the reason lost or a page long, a failure timed."""
    def fails():
        raise RuntimeError("CUDA out\n of   memory. " + "x" * 100)
    monkeypatch.setattr(benchmark, "seconds", lambda f: f())
    took, failed = benchmark.first_calls(dict(a=lambda: 1.5, b=fails, c=lambda: 2.5))
    assert took == dict(a=1.5, c=2.5)
    assert failed == dict(b="failed: RuntimeError, CUDA out of memory. " + "x" * 28)


def test_competitors_take_turns_after_one_to_warm_up(monkeypatch):
    """Bugs: the warm-up is timed, one runs all its turns first, turns go on beyond a minute."""
    calls, clock = [], iter(range(0, 10_000, 20))
    monkeypatch.setattr(benchmark, "seconds", lambda f: f())
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: 0)
    competitors = {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}
    assert benchmark.race(competitors, 3) == dict(a=[3, 5, 7], b=[4, 6, 8])
    assert calls == list("abababab")
    calls.clear()
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
    times = benchmark.race(competitors, 50)  # looks at 20, 40, 60 and 80 s: the last is too late
    assert [len(found) for found in times.values()] == [4, 4]


@pytest.mark.parametrize("gpu", [False, True])
def test_a_call_is_timed_from_an_idle_device_to_an_idle_device(gpu, monkeypatch):
    """Bugs: the clock read before the device has done what was asked before, or before it is done;
    a GPU asked for where there is none; the difference turned round."""
    order, clock = [], iter([3.0, 7.5])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: order.append("wait"))
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: order.append("look") or next(clock))
    assert benchmark.seconds(lambda: order.append("call")) == 4.5
    wait = ["wait"] if gpu else []
    assert order == [*wait, "look", "call", *wait, "look"]


# --- generation -----------------------------------------------------------------------------------


def test_nanogpts_way_computes_everything_again_for_each_token(monkeypatch):
    """Logits of ln 1 and ln 2 at temperature 0.5 have odds of 1 : 4. Bugs: the new token not read
    again, another place's logits, no temperature, one token too many."""
    seen, odds = [], []

    def model(idx):
        seen.append(idx.tolist())
        logits = torch.full((*idx.shape, 2), 9.0)
        logits[:, -1] = torch.tensor([0.0, math.log(2)])
        return logits, None

    def multinomial(probabilities, n):
        odds.append(probabilities.tolist())
        assert n == 1
        return torch.full((len(probabilities), 1), len(odds))
    monkeypatch.setattr(torch, "multinomial", multinomial)
    benchmark.recompute(model, torch.tensor([[5, 6], [7, 8]]), 3, temperature=0.5)
    assert seen == [[[5, 6], [7, 8]], [[5, 6, 1], [7, 8, 1]], [[5, 6, 1, 2], [7, 8, 1, 2]]]
    assert torch.tensor(odds).allclose(torch.tensor([0.2, 0.8]).expand(3, 2, 2))


def rough_model():
    """Weights, biases and gains for which every place and every head counts."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(VOCAB, 256, 2, 4, 32))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    torch.nn.init.normal_(model.norm.bias, std=0.01)  # else one word wins everywhere
    return model


@pytest.mark.parametrize("compiled", [False, True])
@torch.no_grad()
def test_the_compiled_loop_writes_what_ours_does(compiled, monkeypatch):
    """As good as temperature 0, two batch sizes, each twice: tokens are decoder.generate's, hidden
    states those of a whole pass. The compiler traces the step whole; what it traced is then run by
    PyTorch. Bugs: a slot too many or too few seen, a place off by one, a last call's slots seen, a
    graph break, a prompt's first token for its last, sizes that are dynamic."""
    compile, how = torch.compile, []

    def compiler(f, options, **more):
        how.append(options | more)
        return compile(f, backend="aot_eager", **more) if compiled else f
    monkeypatch.setattr(torch, "compile", compiler)
    torch._dynamo.reset()
    model, states = rough_model(), []
    if not compiled:
        model.norm.register_forward_hook(lambda module, args, out: states.append(out))
    for B in (3, 2):
        prompts = torch.randint(VOCAB, (B, 5))
        f = benchmark.compiled_loop(model, prompts, 12, temperature=1e-6)
        ours = plain.generate(model, prompts.tolist(), 12, temperature=0.0).tokens
        for _ in range(2):
            states.clear()
            assert torch.equal(f(), ours)
            if not compiled:
                found = torch.stack(states, 1)  # (B,12,C)
                hidden = model(torch.cat([prompts, ours], 1))[1]
                assert found.allclose(hidden[:, 4:-1], atol=1e-5)
        assert len(ours.unique()) > 3
    assert how == [{"triton.cudagraphs": True, "coordinate_descent_tuning": True,
                    "fullgraph": True, "dynamic": False}] * 2


@torch.no_grad()
def test_the_compiled_loop_draws_from_the_models_distribution(monkeypatch):
    """20,000 rows at temperature 0.8; a false alarm once in ten million. Bugs: no temperature or
    its inverse, one noise for all rows, the arg-max, the greatest wait instead of the least."""
    monkeypatch.setattr(torch, "compile", lambda f, **how: f)
    torch.manual_seed(0)
    model = GPT(GPTConfig(8, 256, 1, 2, 8))
    prompts = torch.tensor([[3, 5, 1]]).expand(20_000, 3)
    counts = torch.bincount(benchmark.compiled_loop(model, prompts, 1)()[:, 0], minlength=8)
    expected = (model(prompts[:1])[0][0, -1] / 0.8).softmax(-1)
    assert chi_square_p(counts, expected) > 1e-7
    assert (20_000 * expected).min() > 20


def test_the_library_is_asked_for_the_same_shape_and_the_same_work(monkeypatch):
    """Bugs: layers, heads and width in each other's place, a model in training mode, the arg-max
    or the likeliest fifty drawn from, an end of text that stops it early."""
    class Model(torch.nn.Linear):
        def __init__(self, config):
            super().__init__(1, 1)
            made.append((config, self))

        def generate(self, idx, **how):
            return idx, how
    made = []
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(
        GPT2Config=lambda **options: options, GPT2LMHeadModel=Model))
    theirs = benchmark.hugging_face((3, 2, 8), "cpu", torch.bfloat16)
    (config, model), = made
    assert config == dict(vocab_size=128, n_positions=256, n_embd=8, n_layer=3, n_head=2,
                          bos_token_id=None, eos_token_id=None, pad_token_id=0)
    assert not model.training and model.weight.dtype == torch.bfloat16
    idx, how = theirs(torch.tensor([[1, 1]]), 5)
    assert how.pop("attention_mask").tolist() == [[1, 1]] == idx.tolist()
    assert how == dict(max_new_tokens=5, do_sample=True, top_k=0, temperature=0.8)


def test_replays_go_through_the_recordings_column_by_column(monkeypatch):
    """70 columns behind 16 tokens: recordings that serve up to 16 + 31, 16 + 63 and 16 + 69 tokens,
    played 32, 32 and 6 times. Bugs: a recording that is too short for its columns, one column too
    many, positions that go on from the last run."""
    written, played = [], []

    class Writing:
        def __init__(self, model, prompts, idx, lengths, T, decoder, greedy, generator):
            assert prompts == [[1] * 16] * 2
            assert (model, decoder, greedy, generator) == ("model", "decoder", False, None)
            assert idx.shape == (2, PROMPT + 70) and lengths.tolist() == [16, 16] and T == 70
            self.pos = torch.tensor([99, 99])
            written.append(self)

        def from_start(self, width, check):
            assert (width, check) == (16, False)

        def from_newest(self):
            pass

        def record(self, width):
            return lambda: played.append((width, self.pos.tolist()))
    monkeypatch.setattr(benchmark, "Writing", Writing)
    monkeypatch.setattr(benchmark, "right_padded", lambda model, prompts, B, new: (
        torch.zeros(B, len(prompts[0]) + new), torch.tensor(list(map(len, prompts)))))
    f = benchmark.replays("model", "decoder", [[1] * 16] * 2, 70)
    for _ in range(2):
        f()
        assert [width for width, _ in played] == [47] * 32 + [79] * 32 + [85] * 6
        assert all(pos == [15, 15] for _, pos in played)
        written[0].pos += 1
        played.clear()


def test_the_shapes_are_those_of_the_page():
    """Bug: tables made with other sizes than the page says, or a section that cannot be asked for.
    """
    page = (ROOT / "results" / "BENCHMARKS.md").read_text(encoding="utf-8")
    sections = re.search(r"sections\s+([^)]*)\)", page)[1]
    assert re.findall(r"`(\w+)`", sections) == [*benchmark.SECTIONS]
    assert all(f.__name__ == name for name, f in benchmark.SECTIONS.items())
    for device, number in (("cpu", "CPU"), ("cuda", "H100")):
        tokens = re.search(rf"(\d+) prompt tokens and (\d+) new ones, (\d+) layers of (\d+)[^|]*"
                           rf"{number}[^|]*\|((?:.*\n)*?)\n", page)
        prompt, new, layers, width = map(int, tokens.groups()[:4])
        batches = re.findall(r"^\| (\d+) \| nanoGPT's loop", tokens[5], re.MULTILINE)
        setting = benchmark.SHAPES[device]
        assert (prompt, new, layers, width) == (
            PROMPT, setting["new"], setting["shape"][0], setting["shape"][2])
        assert tuple(map(int, batches)) == setting["batches"]
        assert setting["turns"] % 2 == 1  # so that a median is a turn
    for device, number in (("cpu", "float32, CPU"), ("cuda", "bfloat16, one H100")):
        tokens = re.search(rf"(\d+) prompt tokens and (\d+) new\s+ones, {number}[^|]*"
                           r"\|((?:.*\n)*?)\n", page)
        batches = re.findall(r"^\| (\d+) \| fast.generate", tokens[3], re.MULTILINE)
        setting = benchmark.REAL[device]
        assert (int(tokens[1]), int(tokens[2])) == (setting["prompt"], setting["new"])
        assert tuple(map(int, batches)) == setting["batches"]
        assert setting["turns"] % 2 == 1


@pytest.mark.parametrize("there", [False, True])
def test_the_table_of_generation(there, monkeypatch, capsys):
    """Two prompts and three, four new tokens each: 8 and 12 tokens over the median of the times.
    Bugs: the mean, a batch's rate without its rows, another competitor's ratio, another prompt or
    model for one competitor than for the other."""
    monkeypatch.setitem(benchmark.SHAPES, "cpu", dict(shape=(2, 1, 8), batches=(2, 3), new=4,
                                                      turns=15))
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: there or None)
    times = {"nanoGPT's loop": [1.0, 2.0, 9.0], "one temperature": [0.5, 0.5, 0.5],
             "a decoder": [0.25, 1.0, 1.0], "transformers": [4.0, 4.0, 4.0]}
    races = race_of(monkeypatch, times)
    again, ours = calls_to(monkeypatch, "recompute"), calls_to(monkeypatch, "generate")
    library = []
    made = calls_to(monkeypatch, "hugging_face", lambda *of: lambda *args: library.append(args))
    benchmark.generation("cpu", quick=False)
    title, header, lines = table_of(capsys)
    assert title == "Generation: 16 + 4 tokens, 2 layers of 8, torch.float32"
    assert header == ["batch", "", "tokens/s", "x nanoGPT's loop", "x transformers",
                      "x compiled loop", "of the bandwidth bound (H100)"]
    names = [name for name in times if there or name != "transformers"]
    assert races == [(names, 15)] * 2
    # ratios to the loop: 2, 4, 18 (one temperature) and 4, 2, 9 (a decoder), to the library 8, 8, 8
    theirs = ["2.00 [0.44, 4.00]", "8.00 [8.00, 8.00]", "4.00 [4.00, 16.00]", "1.00 [1.00, 1.00]"]
    ratios = ["1.00 [1.00, 1.00]", "4.00 [2.00, 18.00]", "4.00 [2.00, 9.00]", "0.50 [0.25, 2.25]"]
    rates = {2: ("4", "16", "8", "2"), 3: ("6", "24", "12", "3")}
    assert lines == [[str(B), name, rate, ratio, of if there else "not installed", "", ""]
                     for B in (2, 3) for name, rate, ratio, of in
                     zip(names, rates[B], ratios, theirs)]
    model = again[0][0][0]
    assert model.config == GPTConfig(128, 256, 2, 1, 8)
    assert all(of[1].dtype == torch.long for of, _ in again)
    assert [(of[0] is model, of[1].tolist(), of[2]) for of, _ in again] == [
        (True, [[1] * 16] * B, 4) for B in (2, 3)]
    assert [of[:3] for of, _ in ours] == [(model, [[1] * 16] * B, 4) for B in (2, 2, 3, 3)]
    assert [more.get("temperature") for _, more in ours] == [0.8, None] * 2
    assert all(more["decoder"].n_embd == 8 for _, more in ours[1::2])
    assert [args[1] for args in library] == [4, 4] * there
    assert [of for of, _ in made] == [((2, 1, 8), "cpu", torch.float32)] * there


def test_quick_generation_is_one_small_turn(monkeypatch, capsys):
    """Bugs: the shape quick too, or the turns of the long run."""
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    races = race_of(monkeypatch, dict.fromkeys(
        ("nanoGPT's loop", "one temperature", "a decoder"), [0.5]), call=False)
    benchmark.generation("cpu", quick=True)
    title, _, lines = table_of(capsys)
    assert title == "Generation: 16 + 4 tokens, 4 layers of 128, torch.float32"
    assert [turns for _, turns in races] == [1]
    assert lines[0] == ["2", "nanoGPT's loop", "16", "1.00, one turn", "not installed", "", ""]


def test_the_bandwidth_bound_by_hand(monkeypatch, capsys):
    """A token reads every weight and, of each row, keys and values of the tokens before it, two
    bytes a number. One layer of width 8: 128 words, 256 places of 8; a block of 12 * 64 + 13 * 8; a
    norm of 16. So 3072 + 872 + 16 = 3960 numbers, 7920 bytes. A row has 16 + 4 / 2 tokens on
    average, of 2 * 8 numbers: 576 bytes. At 2.9e12 bytes a second 3 rows make 3 / (7920 + 3 * 576)
    of it, 9.0174e8 tokens a second; 12 tokens in 2.6615e-7 seconds are 5 % of that. Bugs: float32
    bytes, a layer's keys without its values, the cache of all rows read as one."""
    on_gpu(monkeypatch)
    replays = calls_to(monkeypatch, "replays")
    made = calls_to(monkeypatch, "compiled_loop", lambda *of: lambda: None)
    monkeypatch.setattr(benchmark, "seconds", lambda f: f() or 33.4)
    monkeypatch.setattr(benchmark, "graphs_skipped", lambda: 2)
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(benchmark.SHAPES, "cuda", dict(shape=(1, 1, 8), batches=(3,), new=4,
                                                       turns=7))
    calls = calls_to(monkeypatch, "generate")
    names = ("nanoGPT's loop", "one temperature", "a decoder", "a decoder, replays alone",
             COMPILED, PEER)
    race_of(monkeypatch, {name: [2.6615e-7 / (i + 1)] for i, name in enumerate(names)}, call=False)
    benchmark.generation("cuda", quick=False)
    *printed, blank, note = capsys.readouterr().out.rstrip("\n").split("\n")
    _, _, lines = read_table(printed)
    assert [line[1] for line in lines] == [*names]
    assert [line[-1] for line in lines] == [f"{x}.0 %" for x in (
        5, 10, 15, 20, 25, 30)]
    assert [line[-2] for line in lines] == [f"{x}, one turn" for x in (
        "0.17", "0.33", "0.50", "0.67", "0.83", "1.00")]
    (((_, prompts, _), how), ) = calls  # the first call alone: no race here calls anything
    assert how.pop("decoder") is replays[0][0][1] and how == dict(compiled=True)
    assert prompts == [[1] * 16] * 3
    assert replays[0][0][1].n_embd == 8 and replays[0][0][2:] == ([[1] * 16] * 3, 4)
    ((model, idx, new), _), = made
    assert model is replays[0][0][0] and model.norm.weight.dtype == torch.bfloat16
    assert (idx.tolist(), new) == ([[1] * 16] * 3, 4)
    assert blank == "" and note == (
        "First calls, which compile and are not timed above: a decoder, compiled 33 s at batch 3, "
        "compiled loop 33 s at batch 3; CUDA graphs that the compiled loop skipped: 2.")


def test_without_a_compiler_the_others_go_on(monkeypatch, capsys):
    """Bugs: a crash, the failed peer raced, its row lost, a ratio to it made up."""
    def compiled_loop(*of):
        def f():
            raise ImportError("no triton")
        return f
    on_gpu(monkeypatch)
    monkeypatch.setattr(benchmark, "compiled_loop", compiled_loop)
    monkeypatch.setattr(benchmark, "replays", lambda *of: lambda: None)
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(benchmark.SHAPES, "cuda", dict(shape=(1, 1, 8), batches=(3,), new=4,
                                                       turns=7))
    names = "nanoGPT's loop", "one temperature", "a decoder", "a decoder, replays alone"
    races = race_of(monkeypatch, dict.fromkeys(names, [1.0]), call=False)
    benchmark.generation("cuda", quick=False)
    _, header, lines = table_of(capsys)
    assert races == [([*names], 7)]
    assert lines[0][:2] == ["3", COMPILED] and lines[0][2].startswith("failed: ValueError, ")
    assert lines[1] == ["3", PEER, "failed: ImportError, no triton", "", "", "", ""]
    assert [line[5] for line in lines[2:]] == [""] * 4 and {len(line) for line in lines} == {7}


# --- a real language model ------------------------------------------------------------------------


def tiny_llama():
    """A language model of the library in which every word ends a text."""
    transformers = pytest.importorskip("transformers", minversion="5")
    torch.manual_seed(0)
    lm = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(
        vocab_size=19, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, eos_token_id=None, bos_token_id=None))
    lm.generation_config.eos_token_id = list(range(19))
    return lm.eval()


def real_section(monkeypatch, device, durations, quick=False):
    """The section on a tiny model.  -> races, calls of lm.generate, calls of ours, the dtype"""
    lm, asked, dtypes = tiny_llama(), [], []
    theirs = lm.generate

    def generate(idx, **how):
        asked.append((idx, how))
        if how.get("cache_implementation") == "static" and "disable_compile" not in how:
            raise RuntimeError("no compiler here")
        return theirs(idx, **how)
    lm.generate = generate
    import real.models

    def load(name, dtype):
        assert name == "smollm2"
        dtypes.append(dtype)
        return copy.copy(lm), None
    monkeypatch.setattr(real.models, "load", load)
    races = race_of(monkeypatch, durations)
    ours = calls_to(monkeypatch, "generate", benchmark.generate)
    for name in benchmark.REAL:
        monkeypatch.setitem(benchmark.REAL, name, dict(batches=(2, 3), prompt=6, new=5, turns=9))
    benchmark.real(device, quick)
    return races, asked, ours, dtypes


REAL_NAMES = "fast.generate, a decoder", "dynamic cache", "static cache", "compiled static cache"


def test_a_real_model_is_asked_for_the_same_work(monkeypatch, capsys):
    """5 new tokens a row over medians of 2, 0.5 and 1 s; ratios turn by turn. Every word ends a
    text, which must count for nobody. Bugs: a text that ends early, the library's likeliest fifty
    or its own temperature, other prompts for one than for another, equal prompts, of which ours
    would compute one, one cache for both, a compiler on a CPU."""
    durations = {REAL_NAMES[0]: [2.0, 1.0, 4.0], REAL_NAMES[1]: [0.5, 0.5, 0.5],
                 REAL_NAMES[2]: [1.0, 1.0, 1.0]}
    races, asked, ours, dtypes = real_section(monkeypatch, "cpu", durations)
    title, header, lines = table_of(capsys)
    assert title == "A real language model: SmolLM2-135M, 6 + 5 tokens, float32"
    assert header == ["batch", "", "tokens/s", "x dynamic cache", "x static cache",
                      "first call, s"]
    assert races == [([*REAL_NAMES[:3]], 9)] * 2 and dtypes == ["float32"]
    ratios = [["0.25 [0.12, 0.50]", "0.50 [0.25, 1.00]"],
              ["1.00 [1.00, 1.00]", "2.00 [2.00, 2.00]"],
              ["0.50 [0.50, 0.50]", "1.00 [1.00, 1.00]"]]
    assert [line[:-1] for line in lines] == [
        [str(B), name, rate, *of] for B, rates in ((2, ("5", "20", "10")), (3, ("8", "30", "15")))
        for name, rate, of in zip(REAL_NAMES, rates, ratios)]
    assert all(re.fullmatch(r"\d+\.\d", line[-1]) for line in lines)
    for (idx, how), static in zip(asked, [False, True] * 4):
        assert how.pop("attention_mask").tolist() == torch.ones_like(idx).tolist()
        if static:
            assert (how.pop("cache_implementation"), how.pop("disable_compile")) == ("static", True)
        assert how == dict(max_new_tokens=5, do_sample=True, top_k=0, top_p=1.0, temperature=0.8,
                           pad_token_id=0)
    assert len(asked) == 8 and len(ours) == 4  # a first call and a turn of each of two batches
    for ((_, prompts, new), more), (idx, _), B in zip(ours, asked[::2], (2, 2, 3, 3)):
        assert prompts == idx.tolist() and len({*map(tuple, prompts)}) == B and new == 5
        assert all(len(prompt) == 6 for prompt in prompts)
        assert more["decoder"].n_embd == 16 and more["decoder"].level == "token"
        assert [*more] == ["decoder"]


def test_on_a_gpu_the_library_compiles_and_may_fail(monkeypatch, capsys):
    """Bugs: no compiled competitor, one that is raced though it failed, its row lost, a crash, a
    batch size for which the compiler keeps the last one's state, single precision."""
    resets = []
    monkeypatch.setattr(torch._dynamo, "reset", lambda: resets.append(1))  # which imports it
    on_gpu(monkeypatch)
    races, asked, _, dtypes = real_section(monkeypatch, "cuda", dict.fromkeys(REAL_NAMES, [1.0]))
    title, header, lines = table_of(capsys)
    assert title.endswith("bfloat16") and dtypes == ["bfloat16"] and len(resets) == 2
    assert header[3:] == ["x dynamic cache", "x static cache", "x compiled static cache",
                          "first call, s"]
    assert races == [([*REAL_NAMES[:3]], 9)] * 2
    failed = ["failed: RuntimeError, no compiler here", *[""] * 4]
    assert lines[3] == ["2", REAL_NAMES[3], *failed] and lines[7] == ["3", REAL_NAMES[3], *failed]
    assert [line[5] for line in lines] == [""] * 8
    compiled = [how for _, how in asked if how.get("cache_implementation") == "static"
                and not how.get("disable_compile")]
    assert len(compiled) == 2


def test_a_text_that_ends_early_is_no_result(monkeypatch, capsys):
    """Bug: tokens a second of tokens that were never made."""
    def ends(lm):
        lm.generate = lambda idx, **how: torch.cat([idx, idx[:, :1]], 1)
        return lm
    made = tiny_llama
    monkeypatch.setitem(globals(), "tiny_llama", lambda: ends(made()))
    real_section(monkeypatch, "cpu", dict.fromkeys(REAL_NAMES, [1.0]))
    _, _, lines = table_of(capsys)
    assert [line[2] for line in lines[1:3]] == ["failed: AssertionError, 1 tokens of 5"] * 2


def test_without_its_packages_the_section_says_so(monkeypatch, capsys):
    """Bugs: a crash in an environment without them, silence."""
    import real.models

    def load(name, dtype):
        raise ModuleNotFoundError("gguf not installed; run: pip")
    monkeypatch.setattr(real.models, "load", load)
    benchmark.real("cpu", quick=True)
    assert capsys.readouterr().out == "\nSection real is skipped: gguf not installed; run: pip\n"
    monkeypatch.setitem(sys.modules, "real.hf", None)  # as if transformers were missing
    benchmark.real("cpu", quick=True)
    assert capsys.readouterr().out.startswith("\nSection real is skipped: ")


# --- training -------------------------------------------------------------------------------------


def test_the_other_model_computes_what_ours_does():
    """Our weights under its names give our logits, of all layers and heads; with the exact GELU
    nearly. Bugs: queries for keys, a block without its residual, a head's rows mixed up, attention
    to the tokens that follow."""
    torch.manual_seed(0)
    ours = GPT(GPTConfig(VOCAB, 256, 2, 2, 8))
    for weight in ours.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    names = {"token_embedding": "tokens", "position_embedding": "places", ".up.": ".mlp.0.",
             ".down.": ".mlp.2."}
    state = {}
    for name, weight in ours.state_dict().items():
        for our_part, their_part in names.items():
            name = name.replace(our_part, their_part)
        state[name] = weight
    state["head.weight"] = state["tokens.weight"]
    idx = torch.randint(VOCAB, (3, 7))
    for gelu, off in (("tanh", 1e-4), ("none", 0.1)):
        theirs = benchmark.NanoGPT(2, 2, 8, gelu)
        theirs.load_state_dict(state)
        assert theirs.head.weight is theirs.tokens.weight
        error = (theirs(idx)[0] - ours(idx)[0]).abs().max().item()
        assert error < off and (error > 1e-4) == (gelu == "none")


def test_the_table_of_training(monkeypatch, capsys):
    """Five steps on the same tokens, each model predicting the next one. Bugs: a token predicted
    from itself, no gradient or no step, threads or precision of another competitor, threads left
    changed, gradients left unclipped."""
    inputs, losses, threads, norms = [], [], [], []

    def watched(*of):
        model = GPT(*of)
        model.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
        return model
    cross_entropy, clip = torch.nn.functional.cross_entropy, torch.nn.utils.clip_grad_norm_

    def loss_of(logits, target):
        loss = cross_entropy(logits, target)
        losses.append((logits.dtype, tuple(logits.shape), target, loss.item()))
        return loss
    monkeypatch.setattr(benchmark, "GPT", watched)
    monkeypatch.setattr(benchmark.F, "cross_entropy", loss_of)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 9)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda weights, most: norms.append(
        most) or clip(weights, most))
    monkeypatch.setitem(benchmark.SHAPES, "cpu", dict(shape=(1, 2, 8)))
    names = ("nanoGPT's step, GPT-2's GELU", "nanoGPT's step, its own GELU", "ours",
             "ours, two threads", "ours, bfloat16")
    turns = []

    def race(competitors, n):
        turns.append(n)
        for f in competitors.values():
            f()
            f()
        return {name: [0.004 / (i + 1), 0.002, 0.002] for i, name in enumerate(competitors)}
    monkeypatch.setattr(benchmark, "race", race)
    benchmark.training("cpu", quick=False)
    title, header, lines = table_of(capsys)
    assert title == ("A training step: 32 x 64 tokens, 1 layers of 8, one thread, float32 where "
                     "not said")
    assert header == ["", "ms", "x the first"] and turns == [41]
    assert lines == [[name, "2.0", f"1.00 [1.00, {i + 1}.00]"]
                     for i, name in enumerate(names)]
    assert threads == [1] * 6 + [2] * 2 + [1] * 2 + [9] and norms == [1.0] * 10
    assert [kind for kind, *_ in losses] == [torch.float32] * 8 + [torch.bfloat16] * 2
    assert {shape for _, shape, *_ in losses} == {(32 * 64, 128)}
    assert len(inputs) == 6
    for seen, (_, _, target, _) in zip(inputs, losses[4:]):
        assert seen.shape == (32, 64)
        assert torch.equal(target.view(32, 64)[:, :-1], seen[:, 1:])
    for (*_, first), (*_, second) in zip(losses[::2], losses[1::2]):
        assert second < first
    benchmark.training("cpu", quick=True)
    assert turns == [41, 1]


def test_the_losses_share_of_a_round(monkeypatch, capsys):
    """Sampling 300 ms, updates 200 ms, 150 ms without the loss: 50 ms, 25 % of the updates and 10 %
    of the round. Bugs: a share of the rest, the loss left replaced after the race, the update
    without it timed with it, another level or number of updates."""
    monkeypatch.setattr(benchmark, "QUICK", dict(prompts=6, responses=2, steps=3))
    times = {"sample and score": [0.9, 0.3, 0.3], "update": [0.2] * 3, "update without": [0.15] * 3}
    races = race_of(monkeypatch, times)
    loss, used = benchmark.train_toy.lpo_loss, []

    def update(model, decoder, reference, sides, variant, beta, lr, steps):
        assert reference == (model, decoder) and (variant, beta, lr, steps) == (
            "latent", 0.5, 2e-3, 3)
        assert len(sides[0][0]) == len(sides[1][0]) == 6
        used.append((decoder.level, benchmark.train_toy.lpo_loss))
        if len(used) == 4:
            raise KeyboardInterrupt
    monkeypatch.setattr(benchmark, "update", update)
    asked = []
    draw = benchmark.draw_prompts
    monkeypatch.setattr(benchmark, "draw_prompts", lambda *of: asked.append(of[:3]) or draw(*of))
    with pytest.raises(KeyboardInterrupt):
        benchmark.losses("cpu", quick=True)
    assert benchmark.train_toy.lpo_loss is loss
    used.append(None)
    capsys.readouterr()
    benchmark.losses("cpu", quick=True)
    title, header, lines = table_of(capsys)
    assert title == "The losses in a round of train_toy.py: 6 pairs, 3 updates"
    assert header[1:] == ["sample and score, ms", "update, ms", "losses in it, ms",
                          "of the update", "of the round"]
    numbers = ["300", "200", "50", "25 %", "10 %"]
    assert lines == [["mix, sequence", *numbers], ["constrained, token", *numbers]]
    assert races[2:] == [([*times], 1)] * 2
    assert asked[4:] == [("mix", "train", 6)] * 2 + [("constrained", "train", 6)] * 2
    (level, full), (_, without), (other, again), _ = used[-4:]
    assert (level, other) == ("sequence", "token") and full is again is loss
    a, b = (SimpleNamespace(tau_logps=x * torch.arange(12.0).view(2, 3, 2)) for x in (3, 1))
    assert without(a, b, "latent", 0.5, False).tolist() == [0, 12]  # 2 * (0 and 6), of each pair
    assert benchmark.train_toy.lpo_loss is loss


# --- growth ---------------------------------------------------------------------------------------


def test_live_memory_is_the_largest_at_once():
    """400 bytes, then 400 and 800 beside it, one freed before the last. Bugs: the sum of all, what
    was there before counted, a view counted as an array."""
    before = torch.zeros(1000)
    with benchmark.Live() as live:
        a = before[:100] + 1  # a view and 400 bytes
        b = torch.cat([a, a])  # 800
        del a
        c = b.view(2, 100)[0]
        d = c + c  # 400
    assert live.peak == 1200 and live.now == 1200
    del b, c, d
    assert live.now == 0 and live.peak == 1200


def test_a_cached_step_is_the_last_of_a_full_cache(monkeypatch):
    """Each call anew. Bugs: a cache that fills up call by call, another place, rows left out."""
    made = []

    class Cache:
        def __init__(self, model, batch, length):
            assert (model.config, batch, length) == (GPTConfig(128, 6, 2, 4, 8), 3, 6)
            self.used = 0
            made.append(self)

        def step(self, idx, pos):
            assert (self.used, idx.tolist(), pos.tolist()) == (5, [1] * 3, [5] * 3)
            assert torch.is_inference_mode_enabled()
            self.used += 1
    monkeypatch.setattr(benchmark.GPT, "new_cache", lambda *of: Cache(*of))
    step = benchmark.cached_step("cpu", 3, 6, 8)
    step()
    step()
    assert len(made) == 1 and made[0].used == 6


def test_a_full_pass_is_of_eight_rows_of_the_context(monkeypatch):
    """Bugs: a shorter context, one row, gradients kept."""
    seen = []

    def forward(self, idx):
        assert torch.is_inference_mode_enabled()
        seen.append((self.config, idx.tolist()))
    monkeypatch.setattr(benchmark.GPT, "forward", forward)
    benchmark.recomputed("cpu", 6)()
    assert seen == [(GPTConfig(128, 6, 2, 4, 128), [[1] * 6] * 8)]


def test_both_marginals_are_of_the_same_kind(monkeypatch):
    """256 tokens, K temperatures 0.2, 0.3 and so on, uniform shares, and a gradient that does not
    stay; the lean one has the value and the gradient that the plain one has. Bugs: the wrong way
    round, a sum that is not the marginal, memory of the last gradient counted as the next's."""
    found = {}
    for lean, name in ((True, "latent_marginal"), (False, "temperature_logps")):
        real = getattr(benchmark, name)

        def watched(logits, tokens, taus, *more, real=real, lean=lean):
            logits.register_hook(lambda g: found.setdefault(lean, []).append(g))
            found.setdefault(lean, []).extend([logits, tokens, taus])
            assert all(x.exp().allclose(torch.full((8, 32, 3), 1 / 3)) for x in more)
            return real(logits, tokens, taus, *more)
        monkeypatch.setattr(benchmark, name, watched)
        torch.manual_seed(0)
        f = benchmark.marginals("cpu", lean, 3, 11)
        f()
        assert found[lean][0].grad is None
    for (a, tokens, taus, g), (b, same, also, h) in [found.values()]:
        assert a.shape == (8, 32, 11) and tokens.shape == (8, 32) and torch.equal(tokens, same)
        assert taus == also == pytest.approx([0.2, 0.3, 0.4])
        assert torch.equal(a, b) and g.allclose(h, atol=1e-5) and g.abs().max() > 0.1


def test_the_rows_of_samples_are_what_they_say(monkeypatch):
    """Three different prompts of five tokens, two responses to each side by side, or none shared.
    Bugs: prompts that are equal and so computed once, samples of one prompt alone."""
    calls = calls_to(monkeypatch, "generate")
    prompts = benchmark.unlike(300, 5)
    assert len({*map(tuple, prompts)}) == 300 and {len(prompt) for prompt in prompts} == {5}
    assert all(0 <= id < VOCAB for prompt in prompts for id in prompt)
    benchmark.samples_of("model", prompts[:2], 3, 7, "decoder")()
    a, b = prompts[:2]
    assert calls == [(("model", [a, a, a, b, b, b], 7), dict(decoder="decoder"))]


def test_settings_of_a_sampler_are_many_and_cut(monkeypatch):
    """K different settings, each of which leaves words out; 256 tokens scored under each. By hand:
    what top-p of .2 leaves of V = 2 words is the likelier one, with a log-probability of 0. Bugs:
    one setting K times, settings that cut nothing, a gradient kept."""
    for K in (2, 16):
        settings = benchmark.cuts(K)
        assert len({setting.name for setting in settings}) == K
        logps = torch.stack([setting(torch.arange(50.0) / 10) for setting in settings])
        assert logps.isneginf().any(1).all() and logps.exp().sum(1).allclose(torch.ones(K))
    calls = calls_to(monkeypatch, "temperature_logps", benchmark.temperature_logps)
    logps = benchmark.cut_logps("cpu", 3, 2)()
    ((logits, tokens, settings), _), = calls
    assert logits.shape == (8, 32, 2) and logps.shape == (8, 32, 3) and len(settings) == 3
    assert not logits.requires_grad and not logps.requires_grad
    likelier = logits.argmax(-1) == tokens
    assert torch.equal(logps[..., 0], torch.where(likelier, 0.0, -math.inf))
    assert likelier.any() and not likelier.all()


def test_all_losses_are_taken_and_reach_the_logits(monkeypatch):
    """While the model is its own reference, and the decoder uniform, each loss is ln 2. Bugs: a
    loss left out, a side or its gradient left out, the last gradient kept, one side for both."""
    seen, grads = [], []
    lpo_loss = benchmark.lpo_loss

    def watched(chosen, rejected, variant, beta):
        loss = lpo_loss(chosen, rejected, variant, beta)
        seen.append((variant, loss.shape, loss.mean().item()))
        for side in (chosen, rejected):
            assert side.text_logps.shape == (8, 16, 6) and side.text_logps.requires_grad
        assert chosen.text_logps is not rejected.text_logps
        return loss
    temperature_logps = benchmark.temperature_logps

    def score(logits, tokens, taus):
        if len(grads) < 2:
            logits.register_hook(grads.append)
        assert logits.shape == (8, 16, 11) and logits.grad is None
        assert len({*taus}) == 6
        return temperature_logps(logits, tokens, taus)
    monkeypatch.setattr(benchmark, "lpo_loss", watched)
    monkeypatch.setattr(benchmark, "temperature_logps", score)
    f = benchmark.all_losses("cpu", 11)
    f()
    f()
    assert [variant for variant, *_ in seen] == ["joint", "separate", "latent"] * 2
    assert all(shape == (8,) for _, shape, _ in seen)
    assert [loss for *_, loss in seen] == pytest.approx([math.log(2)] * 6)
    assert len(grads) == 4 and all(g.abs().max() > 1e-4 for g in grads)


def test_the_table_of_growth(monkeypatch, capsys):
    """1, 2, 8, 8 and 2048 ms are orders of 1, 2, 0 and 8; 4, 1, 1, 2 and 8 MB of -2, 0, 1 and 2.
    Bugs: natural logarithms, a ratio turned round, times for memory, another value's case, the
    first value for all of a lambda's, other rows than the page has."""
    durations, peaks, turns, built = [], [], [], []

    class Live:
        def __enter__(self):
            self.peak = peaks.pop(0)
            return self

        def __exit__(self, *_):
            pass

    def race(competitors, n):
        turns.append(n)
        (f,) = competitors.values()
        f()
        return {"": [durations[0] / 2, durations.pop(0), 99.0]}

    def build(name):
        def made(*of, **more):
            built.append((name, *of))
            return lambda: None
        monkeypatch.setattr(benchmark, name, made)
    for name in ("cached_step", "recomputed", "marginals", "cut_logps", "all_losses"):
        build(name)
    generated = calls_to(monkeypatch, "generate")
    monkeypatch.setattr(benchmark, "Live", Live)
    monkeypatch.setattr(benchmark, "race", race)
    contexts, ks, samples = [256, 512, 1024, 2048], [2, 4, 8, 16], [1, 2, 4, 8, 16]
    vocabularies = [4096, 8192, 16384, 32768, 65536]
    rows = [
        ("batch B: 32 tokens generated", [32, 64, 128, 256], "B", "B"),
        ("samples N of 32 prompts of 48: 8 tokens each", samples, "1 to N", "1 to N"),
        ("the same, N x 32 different prompts", samples, "N", "N"),
        ("context S: a cached step", contexts, "S", "S"),
        ("context S: recomputed", contexts, "S to S^2", "S"),
        ("width C: a cached step", contexts, "C^2", "C"),
        ("temperatures K: the marginal, lpo.py", ks, "K", "K"),
        ("temperatures K: the marginal, large_vocab.py", ks, "K", "1"),
        ("top-p settings K: 16 rows, 4 tokens generated, V 8192", ks, "K", "K"),
        ("top-p settings K: temperature_logps, V 8192", ks, "K", "1"),
        ("vocabulary V: the marginal, lpo.py", vocabularies, "V", "V"),
        ("vocabulary V: the marginal, large_vocab.py", vocabularies, "V", "V"),
        ("vocabulary V: the three losses, lpo.py", vocabularies, "V", "V"),
        ("vocabulary V: 32 rows, 16 tokens generated", vocabularies, "V", "V")]
    page = (ROOT / "results" / "BENCHMARKS.md").read_text(encoding="utf-8")
    section = page.partition("## Growth")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        f"| {name}, {' '.join(map(str, values))}" for name, values, *_ in rows]
    for most, quick in ((5, False), (2, True)):
        for calls in (built, generated, turns):
            calls.clear()
        counts = [min(most, len(values)) for _, values, *_ in rows]
        durations[:] = [x for n in counts for x in [0.001, 0.002, 0.008, 0.008, 2.048][:n]]
        peaks[:] = [x for n in counts for x in [4e6, 1e6, 1e6, 2e6, 8e6][:n]]
        benchmark.growth("cpu", quick)
        title, header, lines = table_of(capsys)
        assert title == "Growth: orders are log2 of the ratio at each doubling"
        assert header == ["what grows", "ms", "order", "expected", "peak MB of live tensors",
                          "order", "expected"]
        ms, order = ["1", "2", "8", "8", "2050"], ["1.00", "2.00", "0.00", "8.00"]
        mb, growing = ["4", "1", "1", "2", "8"], ["-2.00", "0.00", "1.00", "2.00"]
        for line, n, (name, values, time, memory) in zip(lines, counts, rows):
            numbers = [" ".join(x) for x in (ms[:n], order[:n - 1], mb[:n], growing[:n - 1])]
            assert line == [f"{name}, {' '.join(map(str, values[:n]))}", *numbers[:2], time,
                            *numbers[2:], memory]
        assert len(lines) == len(rows) and not durations and not peaks
        assert set(turns) == {1 if quick else 9} and len(turns) == sum(counts)
        ks_, vs = ks[:most], vocabularies[:most]
        assert built == [
            *(("cached_step", "cpu", 16, S, 128) for S in contexts[:most]),
            *(("recomputed", "cpu", S) for S in contexts[:most]),
            *(("cached_step", "cpu", 16, 32, C) for C in contexts[:most]),
            *(("marginals", "cpu", lean, K, 8192) for lean in (False, True) for K in ks_),
            *(("cut_logps", "cpu", K, 8192) for K in ks_),
            *(("marginals", "cpu", lean, 6, V) for lean in (False, True) for V in vs),
            *(("all_losses", "cpu", V) for V in vs)]
        # rows, different prompts, their length, new tokens, V and K, each called twice
        expected = [
            *((B, 1, 16, 32, 128, 6) for B in [32, 64, 128, 256][:most]),
            *((32 * N, 32, 48, 8, 128, 6) for N in samples[:most]),
            *((32 * N, 32 * N, 48, 8, 128, 6) for N in samples[:most]),
            *((16, 1, 16, 4, 8192, K) for K in ks_),
            *((32, 1, 16, 16, V, 6) for V in vs)]
        found = [(len(prompts), len({*map(tuple, prompts)}), *{*map(len, prompts)}, new,
                  model.config.vocab_size, len(more["decoder"].choices))
                 for (model, prompts, new), more in generated]
        assert found == [case for case in expected for _ in range(2)]
        assert {of[0].config for of, _ in generated} == {
            GPTConfig(V, 64, 2, 4, 128) for V in {128, 8192, *vs}}
        assert all(map(callable, generated[-2 * len(vs) - 1][1]["decoder"].choices))


# --- memory over many calls -----------------------------------------------------------------------


def test_memory_is_looked_at_when_every_size_was_there(monkeypatch, capsys):
    """200 calls of twenty sizes: each once in every twenty, in another order. 1, 2 and 5 MB after
    the twentieth and 3, 4 and 6 after the last. Bugs: a size that comes late and looks like a leak,
    one size again and again, free memory for used, a look before the device is done, CPU numbers.
    """
    order = []

    def look(name, *answers):
        answers = iter(answers)
        return lambda: order.append(name) or next(answers)
    on_gpu(monkeypatch, synchronize=lambda: order.append("wait"),
           memory_allocated=look("tensors", 1_000_000, 3_000_000),
           memory_reserved=look("torch", 2_000_000, 4_000_000),
           mem_get_info=look("device", (15_000_000, 20_000_000), (14_000_000, 20_000_000)))
    monkeypatch.setitem(benchmark.SHAPES, "cuda", dict(shape=(1, 2, 8)))
    calls = []

    def generate(model, prompts, new, decoder):
        calls.append((len(prompts), new, len({*map(tuple, prompts)}), {*map(len, prompts)}))
        assert model.config == GPTConfig(50257, 256, 1, 2, 8) and decoder.n_embd == 8
        assert model.norm.weight.dtype == torch.bfloat16
        assert max(map(len, prompts)) + new <= 256
        order.append("call")
    monkeypatch.setattr(benchmark, "generate", generate)
    benchmark.memory("cuda", quick=False)
    title, header, lines = table_of(capsys)
    assert title == "Memory: calls of 20 sizes, 1 layers of 8, V 50,257"
    assert header == ["calls", "MB of tensors", "MB reserved by torch", "MB in use on the device"]
    assert lines == [["20", "1.0", "2.0", "5.0"], ["200", "3.0", "4.0", "6.0"]]
    by_twenty = [[call[:2] for call in calls[i:i + 20]] for i in range(0, 200, 20)]
    assert len(calls) == 200 and len({*map(tuple, by_twenty)}) == 10
    assert {frozenset(sizes) for sizes in by_twenty} == {frozenset(by_twenty[0])}
    assert len({*by_twenty[0]}) == 20
    assert all(different == B and lengths == {*range(1, 1 + min(B, 16))}
               for B, _, different, lengths in calls)
    looks = ["wait", "device", "tensors", "torch"]
    assert order == ["call"] * 20 + looks + ["call"] * 180 + looks
    order.clear()
    benchmark.memory("cpu", quick=False)
    assert not order and capsys.readouterr().out.startswith("\nSection memory is skipped: ")
