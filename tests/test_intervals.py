"""The intervals against theory: what a bootstrap of three levels must give on data made for it."""
import numpy as np
import pytest
import torch

from toy.intervals import interval_rows, intervals, resampled
from toy.options import Config
from toy.stages import Job

RNG = np.random.default_rng


def test_prompts_alone_give_the_interval_of_the_mean():
    """Against the normal approximation, of which it falls short by about 1 / (2 P)."""
    values = RNG(0).normal(2.0, 3.0, (1, 1, 400))
    low, high = np.quantile(resampled(1, 1, 400, RNG(1), 20_000)(values), (0.025, 0.975))
    error = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - error, abs=0.04)
    assert high == pytest.approx(values.mean() + error, abs=0.04)


@pytest.mark.parametrize("level", ["base models", "decoder seeds", "prompts"])
def test_each_level_is_resampled_by_its_own_size(level):
    """Data that differ at one level alone: the bootstrap's variance is s^2 / n at that level (with
    n - 1 / n of it, as s is the population's). Bugs: a level forgotten; seeds resampled as if all
    base models shared them; prompts resampled anew for every decoder."""
    D, S, P = 6, 7, 50
    shape = {"base models": (D, 1, 1), "decoder seeds": (D, S, 1), "prompts": (1, 1, P)}[level]
    effect = RNG(2).normal(size=shape)
    draws = resampled(D, S, P, RNG(3), 40_000)(np.broadcast_to(effect, (D, S, P)))
    if level == "decoder seeds":  # centred in each base model, or it would be a base effect too
        effect = effect - effect.mean(1, keepdims=True)
        draws = resampled(D, S, P, RNG(3), 40_000)(np.broadcast_to(effect, (D, S, P)))
        variance = (effect ** 2).mean() / (D * S)
    else:
        variance = effect.var() / effect.size
    assert draws.mean() == pytest.approx(effect.mean(), abs=0.01)
    assert draws.var() == pytest.approx(variance, rel=0.05)


def fake(rewards):
    return dict(reward=torch.as_tensor(rewards)[:, None].double())


def test_differences_and_ratios_are_paired():
    """Ours is the best fixed one plus half of the room, prompt by prompt: the share is exactly one
    half in every resample, however much the prompts differ. Bug: two independent resamples."""
    rng, runs = RNG(4), {}
    for base_seed in range(3):
        best, room = rng.normal(0, 5, 40), rng.uniform(1, 2, 40)
        fixed = dict(fixed={0.0: fake(best - 1), 1.0: fake(best)}, oracle=fake(best + room))
        runs[base_seed] = [(fake(best + room / 2), fixed)] * 2
    found = {row["metric"]: row["value"] for row in intervals(runs, np.arange(40), RNG(5),
                                                           dict(experiment="mix"))
             if row["temperature"] in (None, 1.0)}
    for end in ("", "_low", "_high"):
        assert found["headroom_share" + end] == pytest.approx(0.5)
        assert found["win_rate" + end] == pytest.approx(1)
    assert 0.5 < found["gain_low"] < found["gain"] < found["gain_high"] < 1
    assert found["reward_high"] - found["reward_low"] > 1


def test_rows_are_pooled_by_kind_and_need_no_second_seed():
    cfg, runs = Config(test_prompts=6), []
    result = dict(fixed={0.0: fake(np.zeros(6))}, oracle=fake(np.ones(6)))
    for variant, value in (("latent", 0.25), ("nll", 0.75)):
        for base_seed in (0, 1):
            job = Job(base_seed, "vote", "token", variant, 0)
            runs.append((job, job.columns, dict(sample=fake(np.full(6, value))), result))
    rows = interval_rows(cfg, runs)
    for variant, value in (("latent", 0.25), ("nll", 0.75)):
        share, = [row for row in rows if row["metric"] == "headroom_share"
                  and row["variant"] == variant]
        assert share["value"] == value and share["n"] == 12
        assert share["base_seed"] is share["seed"] is None
