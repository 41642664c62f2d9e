"""The sweeps run, say what they measured, and rest on an identity that is checked exactly."""
import itertools
import math
from dataclasses import asdict, replace

import pytest
import torch

from lpo import ResponseLogps, score
from results import sweep_plots, sweeps
from toy import rows
from toy.evaluate import measure_fixed
from toy.options import parse
from toy.plots import draw
from toy.pretrain import new_model
from toy.stages import Job, Silent

TINY = ("--device cpu --rounds 2 --prompts 12 --responses 4 --steps 2 --test-prompts 6 "
        "--test-samples 2 --votes 8 --oracle-prompts 3 --temperatures 0,0.5,1").split()
NAMES = ("pairs", "gradient", "change", "unfrozen", "failure")


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_latent_gradient_is_the_mean_of_the_separate_one(level):
    """Section 10 of results/README.md: given the text, with the reference at the policy's start,
    the mean of separate's gradient over the posterior of the temperatures is latent's (at the
    sequence level, the exact one's), by enumeration of all temperature strings."""
    T, K = 3, 3
    gen = torch.Generator().manual_seed(0)
    text = torch.randn(1, T, K, generator=gen, dtype=torch.float64).abs().neg()  # log P(y | tau)
    L = T if level == "token" else 1
    raw = torch.randn(1, L, K, generator=gen, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(1, T, dtype=torch.bool)

    def gradient(variant, idx, **options):
        logps = raw.log_softmax(-1)
        r = ResponseLogps(logps, torch.tensor([idx]), mask, text, text, logps.detach())
        return torch.autograd.grad(score(r, variant, **options).sum(), raw)[0]
    total, mean, prior = 0.0, 0.0, raw.detach().softmax(-1)[0]
    for idx in itertools.product(range(K), repeat=L):
        drawn = idx if level == "token" else idx * T
        p = math.prod(prior[t, k].item() for t, k in enumerate(idx))
        p *= math.exp(sum(text[0, t, k].item() for t, k in enumerate(drawn)))
        total, mean = total + p, mean + p * gradient("separate", idx)
    latent = gradient("latent", [0] * L, exact_sequence=level == "sequence")
    assert torch.allclose(mean / total, latent, atol=1e-12)
    printed = gradient("latent", [0] * L)
    assert torch.allclose(printed, latent) == (level == "token")  # the printed sum is not exact


@pytest.fixture
def tiny(monkeypatch):
    cfg = parse(TINY, "")
    monkeypatch.setattr(sweeps, "PAIRS", (2, 4))
    monkeypatch.setattr(sweeps, "GRID", [(0.5, 1e-3)] * 3)
    torch.manual_seed(0)
    return cfg, new_model(cfg)


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_case_runs(name, tiny):
    """One case of each setting; every value is a finite number."""
    cfg, base = tiny
    cases, measure = sweeps.SWEEPS[name]
    done, found, fixed = set(), [], {}
    for case in cases():
        if (case.setting, case.variant) in done:
            continue
        done.add((case.setting, case.variant))
        e = case.experiment
        if e not in fixed:
            fixed[e] = measure_fixed(cfg, base, Job(0, e), Silent())
            fixed[e]["oracle"]["reward"] += 10  # an untrained model has no headroom
        new = [asdict(case) | row for row in measure(cfg, base, fixed[e], case)]
        assert new, case
        found += new
    assert all(math.isfinite(row["value"]) for row in found)
    assert tuple(sweeps.SWEEPS) == NAMES


def test_a_sweep_is_kept_and_drawn(tmp_path):
    """The program end to end, in this process: base model, fixed temperatures, cases, figure."""
    cfg = replace(parse([*TINY, "--pretrain-steps", "6"], ""), out=str(tmp_path))
    found = []
    for work in sweeps.phases(cfg, ["gradient"]):
        for job in work:
            if job[1].experiment in (None, "mix"):
                new, stages = sweeps.do(job)
                assert sweeps.do(job)[0] == new and stages
                found += new
    forms = {row["variant"] for row in found}
    assert forms == {"latent", "separate", "latent, exact", "nll"}
    drawn = [path.stem for path in draw(dict(rows=found), tmp_path, sweep_plots.FIGURES)]
    assert drawn == ["sweep_gradient"]
    path = tmp_path / "sweeps.json"
    path.write_text(rows.to_json(dict(config=asdict(cfg), stages={}, rows=found)),
                    encoding="utf-8")
    assert rows.load(path)["rows"] == found
