"""The same numbers on a GPU; skipped where there is none."""
import contextlib
import copy

import numpy as np
import pytest
import torch

from decoder import AdaptiveDecoder, aligned, response_logps
from fast.compiled import attend, triton
from fast.generate import generate, sample
from lpo import temperature_logps
from model import GPT, GPTConfig
from test_lpo import END, PROMPTS, SETTINGS, chi_square_p, rough_decoder, rough_model
from test_train_toy import run
from toy.options import Config
from toy.pretrain import pretrain

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_generation_and_scores_agree_with_the_cpu(level):
    """One generator on the CPU gives both devices the same noise, hence the same text."""
    rollouts, logps = [], []
    for device in ("cpu", "cuda"):
        model, decoder = rough_model().to(device), rough_decoder(level).to(device)
        rollouts.append(generate(model, PROMPTS, 8, decoder=decoder, eos=END,
                                 generator=torch.Generator().manual_seed(2)))
        logps.append(response_logps(model, decoder, PROMPTS, rollouts[-1]))
    for name in ("tokens", "mask", "cut", "tau_idx"):
        assert torch.equal(getattr(rollouts[0], name), getattr(rollouts[1], name).cpu())
    for name in ("tau_logps", "text_logps"):
        assert torch.allclose(getattr(logps[0], name), getattr(logps[1], name).cpu(), atol=1e-9)


def test_the_sampler_draws_what_temperature_logps_says_on_the_gpu():
    """With a generator of the GPU's own. False alarm: 1e-4."""
    logits, n = torch.randn(7, generator=torch.Generator().manual_seed(3)), 100_000
    drawn = sample(logits.cuda().expand(n, 7), torch.full((n,), 0.7, device="cuda"),
                   torch.Generator("cuda").manual_seed(0))
    p = temperature_logps(logits.double().expand(1, 7, 7), torch.arange(7)[None], (0.7,)).exp()
    assert chi_square_p(np.bincount(drawn.cpu(), minlength=7), p[0, :, 0].numpy()) > 1e-4


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_replayed_steps_are_the_steps(level):
    """Bugs: a graph that replays its noise, its column or its cache's width; rows dropped beside
    it. Greedy text equals the CPU's; each column's tokens have the probabilities of a
    teacher-forced pass, by a z-test of each token and column. False alarm: 5e-4."""
    prompts = [[i, j] for i in range(10) for j in (1, 7)]
    model = rough_model(block_size=160, seed=14)
    greedy = generate(model, prompts, 150, temperature=0, eos=END)
    assert greedy.mask[:, 64].any() and not greedy.mask[:, 64].all()
    model.cuda()
    assert torch.equal(generate(model, prompts, 150, temperature=0, eos=END).tokens.cpu(),
                       greedy.tokens)
    decoder, prompts = rough_decoder(level).cuda(), prompts * 100
    rollout = generate(model, prompts, 140, decoder=decoder,
                       generator=torch.Generator("cuda").manual_seed(0))
    with torch.no_grad():
        logits, hidden = aligned(model, prompts, rollout.tokens)
        every = torch.arange(11, device="cuda")[None, :, None].expand(len(logits), -1, 140)
        text = torch.stack([temperature_logps(logits, tokens, decoder.choices)
                            for tokens in every.unbind(1)], 2)  # (B,T,V,K)
        if level == "token":
            p = (text + decoder.response(hidden)[:, :, None]).logsumexp(-1).exp()
        else:
            p = text.gather(-1, rollout.tau_idx[:, :, None, None].expand(-1, 140, 11, -1)).exp()
            p = p.squeeze(-1)
    seen = torch.nn.functional.one_hot(rollout.tokens, 11)
    z = (seen - p).sum(0) / (p * (1 - p)).sum(0).sqrt()  # (T,V)
    assert z[(p * (1 - p)).sum(0) > 5].abs().max() < 5.2


@pytest.mark.skipif(triton is None, reason="no triton")
@pytest.mark.parametrize("D, dtype, error", [(16, torch.float32, 1e-5), (64, torch.bfloat16, 0.02)])
def test_the_attention_kernel_is_its_twin(D, dtype, error):
    """As the CPU's, in float64: rows around the kernel's 32 slots, garbage in the slots behind.
    Bugs: a block left out or read twice, another head's slots."""
    gen, pos = torch.Generator().manual_seed(8), torch.tensor([0, 1, 31, 32, 33, 64, 77, 79])
    heads = torch.randn(len(pos), 3, 3, D, generator=gen).to(dtype)
    kv = torch.randn(len(pos), 3, 80, 2, D, generator=gen).to(dtype)
    theirs = kv.cuda()
    y = attend(heads.cuda(), theirs, pos.cuda()).float().cpu()
    exact = kv.double()
    assert (y - attend(heads.double(), exact, pos)).abs().max() < error
    assert torch.equal(theirs.cpu().double(), exact)  # the newest written, nothing else


@pytest.mark.skipif(triton is None, reason="no triton")
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_compiled_steps_are_the_steps(level):
    """Greedy text equals the CPU's, for many rows, of which some end and are dropped, and for one;
    choices and tokens drawn have the probabilities of a teacher-forced pass, by a z-test of each
    column. False alarm: 1e-3. Bugs: keys of another row or slot, noise that a replay repeats or
    that both draws share, a recording of rows that are gone."""
    prompts = [[i, j, 3][:2 + i % 2] for i in range(10) for j in (1, 7)]
    torch.manual_seed(14)
    model = GPT(GPTConfig(11, 160, n_layer=2, n_head=2, n_embd=16))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    greedy = generate(model, prompts, 150, temperature=0, eos=END)
    assert greedy.mask[:, 64].any() and not greedy.mask[:, 64].all()
    model.cuda()
    for rows in (prompts, prompts[:1]):
        rollout = generate(model, rows, 150, temperature=0, eos=END, compiled=True)
        assert torch.equal(rollout.tokens.cpu(), greedy.tokens[:len(rows)])
    decoder, prompts = AdaptiveDecoder(16, (0.0, 0.5, 1.5), level).cuda(), prompts * 100
    torch.nn.init.normal_(decoder.mlp[-1].weight)
    rollout = generate(model, prompts, 140, decoder=decoder, compiled=True,
                       generator=torch.Generator("cuda").manual_seed(0))
    with torch.no_grad():
        logps = response_logps(model, decoder, prompts, rollout)
        logits, _ = aligned(model, prompts, rollout.tokens)
    K = len(decoder.choices)
    choices = torch.nn.functional.one_hot(rollout.tau_idx, K)
    p = logps.tau_logps.exp()
    z = (choices - p).sum(0) / (p * (1 - p)).sum(0).sqrt()
    assert z.abs().max() < 5.2
    every = torch.arange(11, device="cuda")[None, None].expand(*logits.shape)
    words = torch.stack([temperature_logps(logits, every[..., v].contiguous(), decoder.choices)
                         for v in range(11)], 2)  # (B,T,V,K)
    p = words.exp().gather(-1, rollout.tau_idx[:, :, None, None].expand(*logits.shape[:2], 11, 1))
    p = p[..., 0]
    seen = torch.nn.functional.one_hot(rollout.tokens, 11)
    z = (seen - p).sum(0) / (p * (1 - p)).sum(0).sqrt()  # (T,V), given the choice
    assert z[(p * (1 - p)).sum(0) > 5].abs().max() < 5.2


def test_recorded_pretraining_steps_are_the_steps():
    """Bugs: a replay that keeps its batch, its learning rate or its count of Adam's steps. Weights
    move as on the CPU, where nothing is recorded; rounding, which Adam enlarges, apart."""
    moved = []
    for device in ("cpu", "cuda"):
        first, last = (
            pretrain(Config(device=device, pretrain_steps=n), 0, lambda *_: None)["state"]
            for n in (1, 30))
        moved.append(torch.cat([(last[name] - first[name]).flatten() for name in first]))
    assert (moved[0] - moved[1]).abs().mean() < 0.05 * moved[0].abs().mean()


def test_the_main_job_runs_on_the_gpu(tmp_path):
    assert run(tmp_path, "--device", "cuda")["rows"]


def test_memory_stays_flat_over_200_calls():
    """At GPT-2's vocabulary, where a recording holds arrays of 50,257 words a row. Bug: each call's
    recordings keep memory that the next cannot use, until there is none left."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(50_257, 64, 1, 2, 16)).cuda()
    decoder, reserved = AdaptiveDecoder(16).cuda(), []
    for _ in range(200):
        generate(model, [[1, 2]] * 256, 40, decoder=decoder)
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[-1] <= reserved[4], reserved[::20]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_a_gpu_that_is_not_the_current_one():
    """The model decides where work is done. Bug: recorded on the current device's stream, the steps
    write text of nothing, and later calls fail."""
    model, decoder = rough_model(block_size=64), rough_decoder()
    here, there = [(copy.deepcopy(model).to(f"cuda:{i}"), copy.deepcopy(decoder).to(f"cuda:{i}"))
                   for i in (0, 1)]
    texts = []
    for net, head in (here, there, here, there):
        for policy in (dict(temperature=0), dict(decoder=head)):
            rollout = generate(net, PROMPTS * 5, 50, eos=END, **policy, generator=torch.Generator(
                head.mlp[0].weight.device).manual_seed(3))
            texts.append(rollout.tokens.cpu())
    assert torch.cuda.current_device() == 0
    for i, one in enumerate(texts):
        assert torch.equal(one, texts[i % 2]), i


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_settings_and_autocast_on_the_gpu(level):
    """Truncating choices are recorded too; under autocast the cache keeps the weights' type."""
    for context in (contextlib.nullcontext(), torch.autocast("cuda", dtype=torch.bfloat16)):
        rollouts = []
        for device in ("cpu", "cuda"):
            model = rough_model(block_size=64).to(device)
            decoder = rough_decoder(level, SETTINGS).to(device)
            with context:
                rollouts.append(generate(model, PROMPTS, 40, decoder=decoder, eos=END,
                                         generator=torch.Generator().manual_seed(2)))
        assert torch.equal(rollouts[0].tokens, rollouts[1].tokens.cpu())
    gen = torch.Generator("cuda").manual_seed(0)
    rollout = generate(model, [[1, 2]] * 20_000, 3, decoder=decoder, generator=gen)  # recorded
    logps = response_logps(model, decoder, [[1, 2]] * 20_000, rollout)
    chosen = logps.text_logps.gather(-1, rollout.tau_idx.expand(-1, 3)[..., None])
    assert chosen.isfinite().all()  # nothing that its setting never draws
