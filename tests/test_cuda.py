"""The same numbers on a GPU, where steps are recorded and compiled; skipped where there is none."""
import contextlib
import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import config, seeded
from decoder import AdaptiveDecoder, aligned, choice_logps, generate, response_logps
from fast import generate as fast
from fast.compiled import attend, triton
from model import GPT, GPTConfig
from test_decoder import Failing, assert_same
from test_lpo import END, PROMPTS, WITH_MEMORY, chi_square_p, rough_decoder, rough_model
from toy import models
from toy.samplers import min_p

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
needs_triton = pytest.mark.skipif(triton is None, reason="no triton")
SETTINGS = (0.5, min_p(0.2, 2.0), *WITH_MEMORY)
MANY = [[i, j, 3][:2 + i % 2] for i in range(10) for j in (1, 7)]


def on(device, *modules):
    return [copy.deepcopy(module).to(device) for module in modules]


def moved(rollout, device):
    return type(rollout)(*(None if x is None else x.to(device) for x in vars(rollout).values()))


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("choices", [(0.0, 0.3, 1.0), SETTINGS], ids=["temperatures", "settings"])
def test_the_plain_loop_is_the_same_on_both_devices(choices, level):
    """With noise of one generator on the CPU; scores, too."""
    rollouts, scores = [], []
    for device in ("cpu", "cuda"):
        model, decoder = on(device, rough_model(), rough_decoder(level, choices))
        rollout = generate(model, PROMPTS, 8, decoder=decoder, eos=END, generator=seeded(2))
        scores.append(response_logps(model, decoder, PROMPTS, rollout))
        rollouts.append(moved(rollout, "cpu"))
    assert_same(*rollouts)
    for name in ("tau_logps", "text_logps"):
        assert torch.allclose(getattr(scores[0], name), getattr(scores[1], name).cpu(), atol=1e-9)


COLD = {"temperature 0": dict(temperature=0.0),
        "penalty": dict(temperature=WITH_MEMORY[3]),
        **{f"{level} level": dict(decoder=rough_decoder(level, (0.0, WITH_MEMORY[3])))
           for level in ("token", "sequence")}}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", COLD)
def test_recorded_text_without_noise_is_the_plain_loops(name, autocast):
    """Rows end and are dropped. Bugs: a recording that keeps its column, its counts or the width of
    its cache; rows dropped beside it; keys of another type under autocast."""
    policy, model = COLD[name], rough_model(block_size=160, seed=14)
    more = dict(tau_select="greedy") if "decoder" in policy else {}
    plain = generate(model, MANY, 150, eos=END, **policy, **more)
    model, = on("cuda", model)
    if "decoder" in policy:
        policy = dict(decoder=on("cuda", policy["decoder"])[0])
    context = torch.autocast("cuda", torch.bfloat16) if autocast else contextlib.nullcontext()
    with context:
        recorded = fast.generate(model, MANY, 150, eos=END, **policy, **more)
    assert_same(plain, moved(recorded, "cpu"))


def assert_sampled(model, decoder, prompts, rollout):
    """Choices and tokens have the probabilities of a teacher-forced pass, by a z-test of each
    column. False alarm: 1e-3."""
    T = rollout.tokens.shape[1]
    with torch.no_grad():
        r = response_logps(model, decoder, prompts, rollout)
        logits, _ = aligned(model, prompts, rollout.tokens)
        p, n = r.tau_logps.exp(), F.one_hot(rollout.tau_idx, len(decoder.choices))
        z = (n - p).sum(0) / (p * (1 - p)).sum(0).sqrt()
        assert z[(p * (1 - p)).sum(0) > 5].abs().max() < 5.2
        counts = F.one_hot(rollout.tokens, 11).cumsum(1)
        counts = F.pad(counts, (0, 0, 1, 0))[:, :T].to(logits.dtype)  # before each token
        p = torch.empty_like(logits)
        k = rollout.tau_idx.expand(-1, T)
        for j, choice in enumerate(decoder.choices):
            p[k == j] = choice_logps(logits, choice, counts).exp()[k == j]
        z = (F.one_hot(rollout.tokens, 11) - p).sum(0) / (p * (1 - p)).sum(0).sqrt()
        assert z[(p * (1 - p)).sum(0) > 5].abs().max() < 5.2


@pytest.mark.parametrize("choices", [(0.0, 0.5, 1.5), SETTINGS], ids=["temperatures", "settings"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_recorded_steps_sample_what_the_scorer_says(level, choices):
    """Bugs: a graph that replays its noise; counts that a replay does not add to."""
    model, decoder = on("cuda", rough_model(block_size=160, seed=14), rough_decoder(level, choices))
    prompts = MANY * 100
    rollout = fast.generate(model, prompts, 140, decoder=decoder,
                            generator=torch.Generator("cuda").manual_seed(0))
    assert_sampled(model, decoder, prompts, rollout)


def test_the_sampler_on_the_gpu():
    """With a generator of the GPU's own. False alarm: 1e-4."""
    logits, n = torch.randn(7, generator=seeded(3)), 100_000
    index = fast.noisy(logits.cuda().expand(n, 7), torch.full((n,), 0.7, device="cuda"),
                       torch.Generator("cuda").manual_seed(0)).argmax(-1)
    p = choice_logps(logits.double(), 0.7).exp().numpy()
    assert chi_square_p(np.bincount(index.cpu(), minlength=7), p) > 1e-4


@needs_triton
@pytest.mark.parametrize("D, dtype, error", [(16, torch.float32, 1e-5), (64, torch.bfloat16, 0.02)])
def test_the_attention_kernel_is_its_twin(D, dtype, error):
    """The CPU's in float64: rows around the kernel's blocks, garbage in later slots."""
    gen, pos = seeded(8), torch.tensor([0, 1, 15, 16, 17, 31, 32, 33, 64, 77, 79])
    heads = torch.randn(len(pos), 3, 3, D, generator=gen).to(dtype)
    kv = torch.randn(len(pos), 3, 80, 2, D, generator=gen).to(dtype)
    theirs, exact = kv.cuda(), kv.double()
    y = attend(heads.cuda(), theirs, pos.cuda()).double().cpu()
    assert (y - attend(heads.double(), exact, pos)).abs().max() < error
    assert torch.equal(theirs.cpu().double(), exact)  # the newest written, nothing else


@needs_triton
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_compiled_steps(level):
    """Without noise the plain loop's text, for many rows, some of which end, and for one; with
    noise what the scorer says. Bugs: keys of another row, noise that a replay repeats."""
    model = rough_model(block_size=160, seed=14, n_embd=16)
    decoder = rough_decoder(level, (0.0, 0.5, 1.5), n_embd=16)
    plain = generate(model, MANY, 150, temperature=0, eos=END)
    model, decoder = on("cuda", model, decoder)
    for prompts in (MANY, MANY[:1]):
        rollout = fast.generate(model, prompts, 150, temperature=0, eos=END, compiled=True)
        assert_same(moved(rollout, "cpu"), plain[list(range(len(prompts)))])
    rollout = fast.generate(model, MANY * 100, 140, decoder=decoder, compiled=True,
                            generator=torch.Generator("cuda").manual_seed(0))
    assert_sampled(model, decoder, MANY * 100, rollout)


@needs_triton
def test_what_cannot_be_compiled_is_refused():
    for n_embd, words, request in (
            (16, "compiled=True takes temperatures", dict(temperature=min_p(0.1))),
            (12, "heads are 6 wide", dict(temperature=1.0)),
            (16, "compiled=True needs a model.GPT", dict(temperature=1.0, generator=seeded()))):
        with pytest.raises(ValueError, match=words):
            model, = on("cuda", rough_model(n_embd=n_embd))
            fast.generate(model, PROMPTS, 4, compiled=True, **request)


def test_nan_is_refused_at_any_column():
    """In a foreign model, and in recorded steps by a weight of one place."""
    for n in (1, 4):
        with pytest.raises(ValueError, match="nothing to sample from"):
            fast.generate(Failing(float("nan"), n), [[3, 4]], 6, temperature=1.0)
    model, = on("cuda", rough_model(block_size=64))
    fast.generate(model, PROMPTS, 40, temperature=1.0)
    model.position_embedding.weight.data[40] = float("nan")
    with pytest.raises(ValueError, match="the model, the decoder or a choice gives NaN"):
        fast.generate(model, PROMPTS, 40, temperature=1.0)
    with pytest.raises(ValueError, match="is not below 11"):
        fast.generate(model, PROMPTS, 4, temperature=1.0, eos=11)


def test_recorded_pretraining_steps_are_the_steps():
    """Bugs: a replay that keeps its batch, its learning rate or its count of Adam's steps. Adam
    enlarges rounding, for which there is room."""
    changes = []
    for device in ("cpu", "cuda"):
        first, last = (models.pretrain(config("--device", device, "--pretrain-steps", n))["model"]
                       for n in (1, 30))
        changes.append(torch.cat([(last[name] - first[name]).flatten() for name in first]))
    assert (changes[0] - changes[1]).abs().mean() < 0.05 * changes[0].abs().mean()


def test_memory_stays_flat_over_200_calls():
    """At GPT-2's vocabulary. Bug: memory of each call's recordings that is never given back."""
    torch.manual_seed(0)
    model, decoder = on("cuda", GPT(GPTConfig(50_257, 64, 1, 2, 16)), AdaptiveDecoder(16))
    reserved = []
    for _ in range(200):
        fast.generate(model, [[1, 2]] * 256, 40, decoder=decoder)
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[-1] <= reserved[4], reserved[::20]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_a_gpu_that_is_not_the_current_one():
    """Bug: recorded on the current device's stream, the steps write text of nothing."""
    model, decoder, texts = rough_model(block_size=64), rough_decoder(), []
    for device in ("cuda:0", "cuda:1", "cuda:0", "cuda:1"):
        ours, head = on(device, model, decoder)
        for policy in (dict(temperature=0), dict(decoder=head)):
            rollout = fast.generate(ours, PROMPTS * 5, 50, eos=END, **policy,
                                    generator=torch.Generator(device).manual_seed(3))
            texts.append(rollout.tokens.cpu())
    assert torch.cuda.current_device() == 0
    assert all(torch.equal(text, texts[i % 2]) for i, text in enumerate(texts))
