"""The same numbers on a GPU; skipped where there is none."""
import numpy as np
import pytest
import torch

from decoder import generate, response_logps, sample
from lpo import temperature_logps
from test_lpo import END, PROMPTS, chi_square_p, rough_decoder, rough_model
from test_train_toy import run

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


def test_the_main_job_runs_on_the_gpu(tmp_path):
    assert run(tmp_path, "--device", "cuda")["rows"]
