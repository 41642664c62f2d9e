"""The decoder and generation where users have run into walls: other models, types and modes."""
import contextlib
import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import decoder as plain
import fast.generate as quick
from decoder import AdaptiveDecoder, response_logps
from lpo import ResponseLogps, lpo_loss, score, temperature_logps
from test_lpo import END, PROMPTS, Uncached, assert_same, rough_decoder, rough_model
from toy.samplers import min_p, top_p

BOTH = pytest.mark.parametrize("generate", [plain.generate, quick.generate], ids=["plain", "fast"])


class Counting(torch.nn.Module):
    """After token i comes i + 1, by far the likeliest; at a high temperature any of V. Not even a
    weight: every id has the hidden state (1, id)."""

    def __init__(self, V=50):
        super().__init__()
        self.V = V

    def forward(self, idx):
        after = torch.nn.functional.one_hot((idx + 1) % self.V, self.V)
        return 20.0 * after, torch.stack([torch.ones(idx.shape), idx.float()], -1)


def counted(prompts, n, V=50):
    return [[(prompt[-1] + 1 + t) % V for t in range(n)] for prompt in prompts]


# --- what a response is drawn at ------------------------------------------------------------------


@BOTH
def test_a_table_of_temperatures_is_applied_cell_by_cell(generate):
    """With prompts of unequal lengths: at 0 the next number, at 1e9 any other (odds 1/50 a cell).
    Bugs: a schedule one column off, which makes the last token greedy; the row of a neighbour."""
    prompts, hot = [[3], [7, 8, 9, 10], [1, 20]], 1e9
    table = torch.tensor([[0, hot, 0, 0], [hot, 0, 0, hot], [0, 0, hot, 0]])
    follows = torch.zeros(3, 4)
    for seed in range(20):
        tokens = generate(Counting(), prompts, 4, temperature=table,
                          generator=torch.Generator().manual_seed(seed)).tokens
        before = torch.cat([torch.tensor([[3], [10], [20]]), tokens[:, :-1]], 1)
        follows += tokens == (before + 1) % 50
    assert (follows[table == 0] == 20).all() and (follows[table > 0] <= 5).all()


@BOTH
@pytest.mark.parametrize("n", [1, 5, 40])
def test_the_sequence_level_keeps_its_choice_to_the_end(generate, n):
    """A head that takes 0 after an even id and the highest temperature after an odd one; rows end
    and are dropped on the way. Bug: rows dropped while the choices of all stay."""
    head = AdaptiveDecoder(2, (0.0, 1e9), "sequence")
    even, odd = torch.tensor([50.0, -50.0]), torch.tensor([-50.0, 50.0])
    head.forward = lambda hidden: torch.where(hidden[..., 1:] % 2 == 0, even, odd)
    prompts = [[i] for i in range(2, 10)]
    rollout = generate(Counting(), prompts, n, decoder=head, eos=[44, 45],
                       generator=torch.Generator().manual_seed(0))
    assert rollout.tau_idx.tolist() == [[0], [1]] * 4
    for row, want in zip(rollout.tokens[::2], counted(prompts[::2], n)):
        assert row.tolist() == [token if token < 44 else 44 for token in want]


@BOTH
def test_ids_that_end_a_response(generate):
    """0, a numpy integer, and several; none of them: up to the limit. Bug: `if eos`."""
    prompts = [[47], [30]]
    zero = generate(Counting(), prompts, np.int64(5), temperature=0, eos=0)
    assert zero.tokens.tolist() == [[48, 49, 0, 0, 0], [31, 32, 33, 34, 35]]
    assert zero.mask.sum(1).tolist() == [3, 5] and zero.cut.tolist() == [False, True]
    for ends in ([49, 33], (np.int64(49), 33), {33, 49}):
        several = generate(Counting(), prompts, 5, temperature=0, eos=ends)
        assert several.mask.sum(1).tolist() == [2, 3] and not several.cut.any()
        assert several.tokens[several.mask].tolist() == [48, 49, 31, 32, 33]
    assert generate(Counting(), prompts, 5, temperature=0).mask.all()


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_noise_is_never_drawn_in_half_precision(generate, dtype, monkeypatch):
    """In bfloat16 the noise has 256 values, and rare words are never or far too often drawn."""
    drawn, rand = [], torch.rand
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: drawn.append(options["dtype"])
                        or rand(*shape, **options))
    model, head = rough_model().to(dtype), rough_decoder().float()
    for policy in (dict(temperature=1.0), dict(decoder=head), dict(decoder=head.to(dtype))):
        generate(model, PROMPTS, 3, **policy)
    assert drawn and set(drawn) == {torch.float32}


# --- the head -------------------------------------------------------------------------------------


def test_three_layers_of_the_given_width_and_a_last_one_of_zeros():
    """By shapes and by arithmetic written out; the first two start as torch's layers do, uniform
    within 1 / sqrt(inputs)."""
    head = AdaptiveDecoder(6, (0.0, 0.7), n_hidden=40)
    shapes = [tuple(weight.shape) for weight in head.parameters()]
    assert shapes == [(40, 6), (40,), (40, 40), (40,), (2, 40), (2,)]
    assert [p.shape[0] for p in AdaptiveDecoder(6).parameters()] == [6] * 4 + [6] * 2
    first, second, last = (weight for weight in head.parameters() if weight.dim() == 2)
    assert not last.any() and head(torch.randn(5, 6)).exp().tolist() == [[0.5, 0.5]] * 5
    for weight, inputs in ((first, 6), (second, 40)):
        assert 0.9 < weight.abs().max() * inputs ** 0.5 <= 1
    torch.nn.init.normal_(last)
    x = torch.randn(3, 6)
    w1, b1, w2, b2, w3, b3 = head.parameters()

    def silu(x):
        return x / (1 + (-x).exp())
    logits = silu(silu(x @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    by_hand = logits.exp() / logits.exp().sum(-1, keepdim=True)
    assert torch.allclose(head(x).exp(), by_hand, atol=1e-6)


@pytest.mark.parametrize("other", [
    dict(choices=(0.0, 0.5, 1.1)), dict(choices=(0.5, 0.0, 1.0)), dict(level="sequence"),
    dict(choices=(0.0, 0.5, min_p(0.1)))])
def test_weights_of_other_choices_or_another_level_are_refused(other):
    """They have the same shapes, and would be taken for temperatures they never meant."""
    how = dict(choices=(0.0, 0.5, 1.0), level="token")
    saved = AdaptiveDecoder(4, **how).state_dict()
    AdaptiveDecoder(4, **how).load_state_dict(saved)
    with pytest.raises(ValueError, match="these weights are of.*'0.5'"):
        AdaptiveDecoder(4, **how | other).load_state_dict(saved)


def test_choices_need_names_and_must_differ():
    for wrong in ([lambda logits: logits], [0.5, 0.5], [top_p(0.9), top_p(0.9)], ["warm"]):
        with pytest.raises(ValueError, match="choices|convert"):
            AdaptiveDecoder(4, wrong)
    assert AdaptiveDecoder(4, [0, 1.25, top_p(0.9)]).names == ("0", "1.25", "top_p=0.9")


# --- other models, modes and types ----------------------------------------------------------------


class Dropping(torch.nn.Module):
    """A model with dropout, in train() mode; its inner one in eval() mode."""

    def __init__(self):
        super().__init__()
        self.inner = rough_model().eval()
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, idx):
        logits, hidden = self.inner(idx)
        return self.dropout(logits), self.dropout(hidden)


@BOTH
def test_a_model_in_train_mode_is_read_without_dropout_and_left_as_it_was(generate):
    """Bug: with dropout on, policy and reference of equal weights differ by noise."""
    model, head = Dropping().train(), rough_decoder()
    model.inner.eval()
    rollout = generate(model, PROMPTS, 6, decoder=head, generator=torch.Generator().manual_seed(0))
    logps = response_logps(model, head, PROMPTS, rollout, ref_model=copy.deepcopy(model),
                           ref_decoder=head)
    assert model.training and model.dropout.training and not model.inner.training
    assert torch.equal(logps.text_logps, logps.ref_text_logps)
    assert torch.equal(logps.tau_logps, logps.ref_tau_logps)
    evaluated = generate(model.eval(), PROMPTS, 6, decoder=head,
                         generator=torch.Generator().manual_seed(0))
    assert_same(rollout, evaluated)


@BOTH
def test_what_was_generated_in_inference_mode_can_be_trained_on(generate):
    model, head = rough_model(), rough_decoder()
    with torch.inference_mode():
        rollout = generate(model, PROMPTS, 6, decoder=head)
    logps = response_logps(model, head, PROMPTS, rollout)
    lpo_loss(logps, logps, "joint", 0.5).sum().backward()
    assert all(weight.grad is not None for weight in head.parameters())


@BOTH
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_float32_head_on_a_bfloat16_model(generate, level):
    """Bug: hidden states of another type than the head's weights."""
    model, head = rough_model(dtype=torch.bfloat16), rough_decoder(level).float()
    rollout = generate(model, PROMPTS, 6, decoder=head, generator=torch.Generator().manual_seed(0))
    logps = response_logps(model, head, PROMPTS, rollout)
    assert logps.tau_logps.dtype == logps.text_logps.dtype == torch.float32
    lpo_loss(logps, logps, "latent", 0.5).sum().backward()


@BOTH
def test_generation_and_scores_under_autocast(generate):
    """Autocast makes bfloat16 of some products: keys and values, which the cache holds in float32.
    fast.generate keeps to the weights' own type; scores are float32 all the same."""
    model, head = rough_model(dtype=torch.float32), rough_decoder().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rollout = generate(model, PROMPTS, 8, decoder=head,
                           generator=torch.Generator().manual_seed(0))
        logps = response_logps(model, head, PROMPTS, rollout)
        loss = lpo_loss(logps, logps, "latent", 0.5)
    assert logps.text_logps.dtype == logps.tau_logps.dtype == loss.dtype == torch.float32
    if generate is quick.generate:
        outside = generate(model, PROMPTS, 8, decoder=head,
                           generator=torch.Generator().manual_seed(0))
        assert_same(rollout, outside)


def test_sums_of_half_precision_are_made_in_float32():
    """510 tokens of -3.015625, exact in bfloat16: their sum is no bfloat16, whose steps are of 8
    there; and log-softmax of (0, 1), given in float16."""
    T = 510
    logps = torch.full((1, T, 1), -3.015625, dtype=torch.bfloat16)
    side = ResponseLogps(logps, torch.zeros(1, T, dtype=torch.long),
                         torch.ones(1, T, dtype=torch.bool))
    assert score(side, "separate").item() == -3.015625 * T
    logits = torch.tensor([[[0.0, 1.0]]], dtype=torch.float16)
    got = temperature_logps(logits, torch.tensor([[0]]), (1.0, 0.5)).flatten().tolist()
    assert got == pytest.approx([-math.log(1 + math.e), -math.log(1 + math.e ** 2)], abs=1e-6)


def test_a_cache_that_cannot_be_recorded_is_asked():
    """On a GPU only a cache that says so is recorded; here, that ours says so and a plain one with
    the same interface serves too."""
    model = rough_model()
    assert model.new_cache(2, 5).recordable

    class Growing(Uncached):
        """A cache as most have it: it keeps all tokens, and grows by concatenation."""

        def new_cache(self, batch, length):
            self.kept = None
            return self

        def keep(self, rows):
            self.kept = [self.kept[i] for i in rows.tolist()]

        def step(self, newest, pos):
            for row, token, place in zip(self.kept, newest.tolist(), pos.tolist()):
                row[place:] = [token]
            longest = max(map(len, self.kept))
            idx = torch.tensor([row + [0] * (longest - len(row)) for row in self.kept])
            logits, hidden = self.inner(idx)
            return logits[range(len(idx)), pos], hidden[range(len(idx)), pos]

    growing = Growing(model)
    growing.forward = lambda idx, cache=None: (setattr(growing, "kept", idx.tolist()),
                                               model(idx))[1]
    head = rough_decoder()
    ours, theirs = (quick.generate(m, PROMPTS, 9, decoder=head, eos=END,
                                   generator=torch.Generator().manual_seed(2))
                    for m in (model, growing))
    assert_same(ours, theirs)


def test_a_head_of_its_own_is_refused():
    """GPT-2's last layer is the embedding again. A head beside other words' embedding, or beside
    none, is not GPT-2's; beside its own it is. Bug: an error of torch's where there is none."""
    model = rough_model()
    state = model.hf_state_dict()
    model.load_hf_state_dict(state | {"lm_head.weight": state["wte.weight"].clone()})
    without = {name: weight for name, weight in state.items() if name != "wte.weight"}
    for wrong in (state | {"lm_head.weight": state["wte.weight"] + 1},
                  without | {"lm_head.weight": state["wte.weight"]}):
        with pytest.raises(ValueError, match="^lm_head.weight differs from wte.weight"):
            model.load_hf_state_dict(wrong)


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "_orig_mod.module.transformer."])
def test_weights_saved_by_wrappers_load(wrapper):
    model, other = rough_model(seed=1), rough_model(seed=2)
    theirs = {wrapper + name: weight for name, weight in model.hf_state_dict().items()}
    other.load_hf_state_dict(theirs)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))


# --- what is asked of the model, and when ---------------------------------------------------------


def test_the_usual_temperatures_are_the_papers():
    """Section 4 of the paper: 0.0, 0.2, 0.4, 0.6, 0.8 and 1.0, decided before each token."""
    head = AdaptiveDecoder(3)
    assert head.choices == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) and head.level == "token"


@BOTH
def test_a_model_sees_what_was_written_and_no_more(generate):
    """The longest prompt, then one token more in each column. Bug: a free column read too, whose
    token is not written yet; a causal model's numbers would not show it."""
    widths = []
    model = Counting()
    model.register_forward_pre_hook(lambda module, args: widths.append(args[0].shape[1]))
    generate(model, [[1, 2, 3], [4]], 4, temperature=0.0)
    assert widths == [3, 4, 5, 6]


def test_the_prompts_enter_the_cache_without_a_free_column():
    """Bug: one column too many in the first pass, so that each later step looks at one more."""
    model, used = rough_model(), []
    new_cache = model.new_cache

    def watched(batch, length):
        cache = new_cache(batch, length)
        step = cache.step
        cache.step = lambda *of: (used.append(cache.used), step(*of))[1]
        return cache
    model.new_cache = watched
    quick.generate(model, PROMPTS, 4, temperature=0.5)
    assert used == [5, 6, 7]


def test_samples_of_a_prompt_share_its_pass():
    """Bugs: each computed anew; keys and values of another prompt behind the first token; [4] and
    [4, 0], which are the same once padded, taken for one."""
    model, decoder, seen = rough_model(), rough_decoder(), []
    prompts = [PROMPTS[i] for i in (2, 0, 2, 1, 0, 2)] + [[4, 0]]
    plainly, shared = (generate(model, prompts, 9, decoder=decoder, eos=END,
                                generator=torch.Generator().manual_seed(2))
                       for generate in (plain.generate, quick.generate))
    assert_same(plainly, shared)
    model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    quick.generate(model, prompts, 9, temperature=0.5)
    assert seen == [4]


def on_a_gpu(columns, plan=None, generator=None, cache=None, any_width=False, finished=()):
    """The calls of a Writing of so many columns that takes its tensors to be a GPU's, behind
    prompts of up to five tokens: recordings by their width, steps replayed or not. In the columns
    `finished` a row is dropped."""
    idx, lengths, T, _, eos = plain.checked_request(
        rough_model(block_size=200), PROMPTS, columns, None, 0.5, "sample", END, None)
    writing, calls = quick.Writing(rough_model(block_size=200), PROMPTS, idx, lengths, T, None,
                                   False, generator), []
    writing.idx = SimpleNamespace(is_cuda=True, shape=idx.shape)
    writing.cache = writing.cache if cache is None else cache
    writing.from_start = lambda width, check: calls.append(("start", width, check))
    writing.from_newest = lambda: calls.append("step")
    writing.plan_column = lambda column, plan: None
    writing.any_width = any_width

    def look(column, eos):
        calls.append(("look", column))
        if column in finished:
            writing.rows = writing.rows[1:]
        return len(writing.rows) > 0
    writing.drop_finished = look

    def record(width):
        calls.append(("record", width))
        return lambda: calls.append("replay")
    writing.record = record
    writing.write(T, eos, plan)
    return calls


def test_recordings_serve_the_columns_up_to_the_next():
    """70 columns behind five tokens: the second column warms up; a recording serves up to column
    31, 63 and 69, so up to 5 + 31, 5 + 63 and 5 + 69 tokens seen; finished rows are looked for
    when the recording changes. Bugs: a recording too narrow for its last column, the CPU's stride,
    one recording a column."""
    assert on_a_gpu(70) == [
        ("start", 5, True), "step", ("record", 36), *["replay"] * 30,
        ("look", 32), ("record", 68), *["replay"] * 32,
        ("look", 64), ("record", 74), *["replay"] * 6]


def test_rows_of_another_number_take_a_step_unrecorded():
    """A step compiled for another number of rows must not be compiled while it is recorded; the
    fourth time no row is left. Bugs: a recording of dropped rows replayed, none made anew."""
    assert on_a_gpu(70, finished=(32,)) == [
        ("start", 5, True), "step", ("record", 36), *["replay"] * 30,
        ("look", 32), "step", ("record", 68), *["replay"] * 31,
        ("look", 64), ("record", 74), *["replay"] * 6]
    assert on_a_gpu(160, finished=(32, 64, 96, 128))[-2:] == ["replay", ("look", 128)]


def test_where_any_width_will_do_one_recording_serves_to_the_end():
    """Up to 5 + 69 tokens seen. Bug: a recording at each stride."""
    assert on_a_gpu(70, any_width=True, finished=(64,)) == [
        ("start", 5, True), "step", ("record", 74), *["replay"] * 30, ("look", 32),
        *["replay"] * 32, ("look", 64), "step", ("record", 74), *["replay"] * 5]


def test_what_is_not_recorded():
    """A plan made anew for each column, noise from the CPU, and a cache that does not say that it
    can be. There, and on a CPU, finished rows are looked for every 16 columns."""
    looks = [("start", 5, True), *["step"] * 15, ("look", 16), *["step"] * 16, ("look", 32),
             *["step"] * 2]
    assert on_a_gpu(34, plan=lambda tokens: None) == looks
    assert on_a_gpu(34, generator=torch.Generator()) == looks
    assert on_a_gpu(34, cache=SimpleNamespace()) == looks
    assert on_a_gpu(34, generator=SimpleNamespace(device=torch.device("cuda", 0)))[2] == (
        "record", 36)


def test_a_recording_holds_one_step_of_its_width(monkeypatch):
    """With the generator's state, in the memory that all recordings share, after what the stream
    before has to do. Bugs: a width off by one (the step adds one), a recording kept alive by
    nobody, streams that do not wait for each other."""
    order = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            order.append((self.name, "waits for", other.name))

    class Graph:
        def register_generator_state(self, generator):
            order.append(generator)

        def capture_begin(self, pool):
            order.append(("begin", pool))

        def capture_end(self):
            order.append("end")

        def replay(self):
            order.append("replay")
    side, main = Stream("side"), Stream("main")
    monkeypatch.setattr(quick, "recorder", lambda device: (side, SimpleNamespace(
        pool=lambda: "pool")))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: main)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: order.append(stream.name) or
                        contextlib.nullcontext())
    model = rough_model(block_size=64)
    idx, lengths = plain.right_padded(model, PROMPTS, 4, 20)
    writing = quick.Writing(model, PROMPTS, idx, lengths, 20, None, False, "generator")
    writing.from_newest = lambda: order.append(("step", writing.cache.used))
    replays = [writing.record(12) for _ in range(2)]
    once = ["generator", ("side", "waits for", "main"), "side", ("begin", "pool"), ("step", 11),
            "end", ("main", "waits for", "side")]
    assert order == once * 2
    replays[0]()
    assert order[-1] == "replay" and len(writing.graphs) == 2


@pytest.mark.parametrize("changes, words", [
    (dict(decoder=None), "give either a decoder or a temperature"),
    (dict(temperature=0.5), "give either a decoder or a temperature"),
    (dict(tau_select="best"), "unknown tau_select 'best'"),
    (dict(max_new_tokens=0), "max_new_tokens is 0; give a whole number >= 1"),
    (dict(prompts=[[1.5]]), "prompts has numbers that are not whole"),
    (dict(prompts=[[1], [11]]), "prompts is .* ids below 11"),
    (dict(max_new_tokens=12), "a prompt of 5 tokens and 12 new ones exceed the model's context"),
    (dict(decoder=None, temperature=lambda tokens: [0.5]), "temperature gives 1 choices; give 4"),
    (dict(decoder=None, temperature=lambda tokens: [0.5, -1.0] * 2), "choices are"),
    (dict(decoder=None, temperature=[0.5, 0.5]), "temperature is .*for \\(4, 3\\)"),
    (dict(decoder=None, temperature=-0.5), "temperature is -0.5")])
@BOTH
def test_each_refusal_of_a_request_is_its_own(generate, changes, words):
    """Bug: a check that never fails, so that another one, or an error of torch's, comes later."""
    request = dict(prompts=PROMPTS, max_new_tokens=3, decoder=rough_decoder()) | changes
    with pytest.raises(ValueError, match=f"^{words}"):
        generate(rough_model(), **request)


def test_each_refusal_of_a_head_is_its_own():
    """Bug: a check that never fails."""
    for words, make in (
            ("unknown level 'word'", lambda: AdaptiveDecoder(3, level="word")),
            ("choices are .* give distinct ones", lambda: AdaptiveDecoder(3, (0.5, 0.5))),
            ("n_embd is 3, n_hidden 0", lambda: AdaptiveDecoder(3, n_hidden=0)),
            ("n_embd is 0, n_hidden 2", lambda: AdaptiveDecoder(0, n_hidden=2)),
            ("hidden is \\(2, 4\\); give \\(..., 3\\)", lambda: AdaptiveDecoder(3)(
                torch.zeros(2, 4))),
            ("tokens is \\(2,\\); give \\(B,T\\)", lambda: plain.aligned(
                rough_model(), [[1], [2]], torch.tensor([1, 2]))),
            ("tokens is torch.int32", lambda: plain.aligned(
                rough_model(), [[1]], torch.tensor([[1]]).int()))):
        with pytest.raises(ValueError, match=f"^{words}"):
            make()
