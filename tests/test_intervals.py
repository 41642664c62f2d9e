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


# --- the rows, on scores made for it --------------------------------------------------------------


def test_an_interval_is_the_middle_95_per_cent(monkeypatch):
    """Draws that are even from mean - 1 to mean + 1: the ends lie 0.95 below and above. Bugs: 90
    or 99 per cent; the ends swapped; an interval about another metric's mean."""
    monkeypatch.setattr("toy.intervals.resampled", lambda *_: lambda values:
                        values.mean() + np.linspace(-1, 1, 1001))
    fixed = dict(fixed={0.0: fake([1.0, 3.0])}, oracle=fake([10.0, 12.0]))
    found = by_name(intervals({0: [(fake([4.0, 6.0]), fixed)]}, np.arange(2), RNG(0),
                              dict(experiment="mix")))
    for metric, mean in (("reward", 5), ("best_fixed", 2), ("oracle", 11), ("gain", 3)):
        assert found[metric] == mean
        assert found[metric + "_low"] == pytest.approx(mean - 0.95)
        assert found[metric + "_high"] == pytest.approx(mean + 0.95)
    assert found["headroom_share"] == pytest.approx(3 / 9)
    assert found["headroom_share_low"] == pytest.approx(2.05 / 8.05)
    assert found["headroom_share_high"] == pytest.approx(3.95 / 9.95)


def test_an_interval_of_shares_is_that_of_the_binomial():
    """900 prompts, 270 of them right: 0.3 -+ 1.96 sqrt(0.3 * 0.7 / 900), within 12 % for a thousand
    resamples (a false alarm in 100); 90 % would be 16 % narrower, 99 % 31 % wider. The rows' own
    number of resamples is a thousand."""
    right = fake(np.arange(900) < 270)
    fixed = dict(fixed={0.0: right}, oracle=right)
    found = by_name(intervals({0: [(right, fixed)]}, np.arange(900), RNG(1),
                              dict(experiment="mix")))
    error = 1.96 * (0.3 * 0.7 / 900) ** 0.5
    assert found["reward"] == pytest.approx(0.3)
    assert found["reward"] - found["reward_low"] == pytest.approx(error, rel=0.12)
    assert found["reward_high"] - found["reward"] == pytest.approx(error, rel=0.12)
    assert [found["win_rate" + end] for end in ("", "_low", "_high")] == pytest.approx([0.5] * 3)
    assert "headroom_share" not in found
    assert resampled(1, 1, 4, RNG(2))(np.ones((1, 1, 4))).shape == (1000,)


def test_values_without_seeds_stand_for_every_seed():
    """(D,1,P) gives the draws of the same values repeated for all seeds."""
    values = RNG(6).normal(size=(3, 1, 5))
    means = resampled(3, 4, 5, RNG(7), 50)
    assert means(values) == pytest.approx(means(np.repeat(values, 4, 1)))


def by_name(found, **wanted):
    """{metric: value} of the rows with the wanted columns, no metric twice."""
    found = [row for row in found if all(row[c] == x for c, x in wanted.items())]
    names = {row["metric"]: row["value"] for row in found if row["temperature"] in (None, 0.0)}
    return names


def scores(**of):
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in of.items()}


def two_bases():
    """Two base models of two decoders each, three prompts and two samples, of which the third
    prompt is not asked for. On the first base temperature 0 is best, on the second 1, although
    each prompt and each sample alone would have another best one."""
    fixed = [dict(fixed={0.0: scores(reward=[[0, 8], [4, 4], [99, 99]]),   # means 4, 4
                         1.0: scores(reward=[[9, 1], [1, 3], [-99, 99]])},  # means 5, 2
                  oracle=scores(reward=[[6, 8], [9, 9], [0, 0]])),           # means 7, 9
             dict(fixed={0.0: scores(reward=[[2, 2], [0, 0], [99, 99]]),   # means 2, 0
                         1.0: scores(reward=[[1, 1], [2, 4], [-99, 99]])},  # means 1, 3
                  oracle=scores(reward=[[2, 4], [5, 5], [0, 0]]))]           # means 3, 5
    ours = [[scores(reward=[[5, 7], [5, 5], [0, 0]]), scores(reward=[[7, 9], [4, 6], [0, 0]])],
            [scores(reward=[[2, 2], [1, 7], [0, 0]]), scores(reward=[[3, 1], [4, 4], [0, 0]])]]
    return fixed, ours


def test_the_best_fixed_temperature_is_one_of_each_base_model():
    """By hand. Bugs: a best one for each prompt or sample; one for all base models; another base's
    scores; the prompts that are not asked for; n of prompts alone; theirs against ours."""
    fixed, ours = two_bases()
    runs = {base: [(one, fixed[base]) for one in ours[base]] for base in (0, 1)}
    rows = intervals(runs, np.array([0, 1]), RNG(0), dict(experiment="mix", level="token"))
    found = by_name(rows)
    mean = np.mean([6, 5, 8, 5, 2, 4, 2, 4])
    best = np.mean([4, 4, 4, 4, 1, 3, 1, 3])
    oracle = np.mean([7, 9, 7, 9, 3, 5, 3, 5])
    assert found["reward"] == mean and found["best_fixed"] == best and found["oracle"] == oracle
    assert found["gain"] == mean - best
    assert found["headroom_share"] == pytest.approx((mean - best) / (oracle - best))
    # ours 5, 7 against 0, 8: one half; 5, 5 against 4, 4: 1; 7, 9: 3/4; 4, 6: 3/4; the second base:
    # 2, 2: 1/2; 1, 7: 1; 3, 1: 1/2; 4, 4: 1
    assert found["win_rate"] == np.mean([0.5, 1, 0.75, 0.75, 0.5, 1, 0.5, 1])
    # against 9, 1 and 1, 3: 1/2, 1; 7, 9: 5/8 as one is a tie; 4, 6: 1; 1, 1 and 2, 4: 1, 1/2;
    # 3, 1: 3/4; 4, 4: 3/4
    at_1 = {row["metric"]: row["value"] for row in rows if row["temperature"] == 1.0}
    assert at_1["win_rate"] == np.mean([0.5, 1, 0.625, 1, 1, 0.5, 0.75, 0.75])
    assert {row["n"] for row in rows} == {8} and {row["level"] for row in rows} == {"token"}
    names = [row["metric"] for row in rows]
    wins = ["win_rate", "win_rate_low", "win_rate_high"]
    assert names == [name + end for name in ("reward", "best_fixed", "oracle", "gain",
                                             "headroom_share")
                     for end in ("", "_low", "_high")] + wins + wins


def test_a_share_of_no_headroom_is_left_out():
    """Where the oracle is no better than the best fixed one in some resample, as when it is better
    on one prompt of two alone, there is no share; where it always is, there is. Bug: a share
    where the room is nothing, or negative, in a few resamples."""
    for oracle, there in (([1, 2], True), ([0, 2], False), ([0, 0], False), ([-1, 3], False)):
        run = dict(fixed={1.0: fake([0, 0])}, oracle=fake(oracle))
        found = by_name(intervals({0: [(fake([1, 1]), run)]}, np.arange(2), RNG(3),
                                  dict(experiment="mix")))
        assert ("headroom_share" in found) == ("headroom_share_low" in found) == there, oracle
        assert found["gain"] == 1


def test_criteria_have_win_rates_and_what_is_better_low_is_fewer():
    """constrained: its two criteria are more is better, with win rates of their own and nothing
    else; repeats: (greedy - ours) / greedy. Bugs: the reward's scores for another metric; the
    hottest for greedy; ours divided by; a row of fewer rewards."""
    same = dict(reward=[[1.0], [1.0]], constraint=[[0.5], [0.5]], quality=[[0.2], [0.4]])
    ours = dict(same, constraint=[[0.75], [0.5]], quality=[[0.1], [0.3]])
    run = dict(fixed={0.0: scores(**same)}, oracle=scores(**same))
    found = by_name(intervals({0: [(scores(**ours), run)]}, np.arange(2), RNG(0),
                              dict(experiment="constrained")))
    assert found["win_rate"] == 0.5 and found["constraint_win_rate"] == 0.75
    assert found["quality_win_rate"] == 0 and found["constraint"] == 0.625
    assert not any(name.startswith(("fewer", "constraint_gain", "gain_")) and name not in
                   ("gain_low", "gain_high") for name in found)
    repeats = dict(fixed={0.5: scores(reward=[[0], [0]], repeats=[[9], [9]]),
                          0.0: scores(reward=[[0], [0]], repeats=[[0.8], [0.4]])},
                   oracle=scores(reward=[[0], [0]]))
    runs = {0: [(scores(reward=[[0], [0]], repeats=[[0.2], [0.1]]), repeats)]}
    rows = intervals(runs, np.arange(2), RNG(0), dict(experiment="repeats"))
    found = by_name(rows)
    assert found["repeats"] == pytest.approx(0.15)
    assert [found["fewer_repeats" + end] for end in ("", "_low", "_high")] == pytest.approx(
        [0.75] * 3)  # of 0.8 and of 0.4
    assert "repeats_win_rate" not in found and "fewer_reward" not in found
    del repeats["fixed"][0.0]
    assert not any(row["metric"].startswith("fewer") for row in
                   intervals(runs, np.arange(2), RNG(0), dict(experiment="repeats")))


def test_votes_of_each_size_have_rows_of_their_own():
    """vote_accuracy@8 is the metric vote_accuracy with 8 in the column votes; the best temperature
    of 8 votes need not be that of 2. No win rates: it is one number a prompt."""
    def of(two, eight):
        return {"reward": torch.zeros(2, 1), "vote_accuracy@2": torch.tensor([[two], [two]]),
                "vote_accuracy@8": torch.tensor([[eight], [eight]])}
    run = dict(fixed={0.0: of(0.25, 0.125), 1.0: of(0.125, 0.5)}, oracle=of(0.5, 1.0))
    rows = intervals({0: [(of(0.375, 0.75), run)]}, np.arange(2), RNG(0), dict(experiment="vote"))
    assert by_name(rows, votes=2)["vote_accuracy"] == 0.375
    for votes, values in ((2, (0.375, 0.25, 0.5, 0.125, 0.5)), (8, (0.75, 0.5, 1, 0.25, 0.5))):
        found = by_name(rows, votes=votes)
        names = "vote_accuracy", "best_fixed", "oracle", "gain", "headroom_share"
        assert tuple(found[name] for name in names) == values
        assert len(found) == 15 and type(rows[-1]["votes"]) is int
    assert "win_rate" in by_name(rows, votes=None)
    assert not any(name.startswith("fewer") for name in by_name(rows))


def test_rows_of_an_experiment_of_three_tasks_are_whole_and_of_each():
    """Two base models, two seeds, both ways to choose; math earns 1, general 2, story 4, plus what
    base, seed and way add. Bugs: another task's prompts; seeds or base models kept apart, mixed
    up with each other, or left out; greedy and sampled pooled; one task listed twice."""
    cfg, runs = Config(test_prompts=6), []
    task = np.array([1.0, 1, 2, 2, 4, 4])
    result = dict(fixed={1.0: fake(task)}, oracle=fake(task + 100))
    for base_seed in (0, 1):
        for seed in (0, 1):
            job = Job(base_seed, "mix", "token", "latent", seed)
            ours = task + 10 * base_seed + 40 * seed
            runs.append((job, job.columns, dict(greedy=fake(ours), sample=fake(ours + 8)), result))
    rows = interval_rows(cfg, runs)
    assert len(rows) == 2 * 4 * (5 + 1) * 3  # ways, subtasks, metrics, ends
    for select, more in (("greedy", 25), ("sample", 33)):
        for subtask, mean, P in ((None, 7 / 3, 6), ("math", 1, 2), ("general", 2, 2),
                                 ("story", 4, 2)):
            found = [row for row in rows if (row["select"], row["subtask"]) == (select, subtask)]
            values = by_name(found)
            assert values["reward"] == pytest.approx(mean + more)
            assert values["gain"] == pytest.approx(more)
            assert values["best_fixed"] == pytest.approx(mean)
            assert values["headroom_share"] == pytest.approx(more / 100)
            assert {row["n"] for row in found} == {4 * P}
            # means over two base models, whose effects are 0 and 10, and seeds, 0 and 40
            assert values["gain_low"] == pytest.approx(more - 25, abs=6)
            assert values["gain_high"] == pytest.approx(more + 25, abs=6)
    assert {(row["policy"], row["experiment"], row["level"], row["variant"], row["base_seed"],
             row["seed"]) for row in rows} == {("adaptive", "mix", "token", "latent", None, None)}
    alone = [(Job(0, "vote"), dict(experiment="vote", level="token", base_seed=0, seed=0),
              dict(sample=fake(task)), result)]
    assert {row["subtask"] for row in interval_rows(cfg, alone)} == {None}


def test_base_models_are_not_taken_for_more_decoders():
    """Two base models that alone differ, of four decoders each: one resample in four has the first
    base twice, so that the interval ends at the two values themselves. Eight decoders in one pool
    would be all of one kind in one resample of 256."""
    cfg, runs = Config(test_prompts=3), []
    for base_seed in (0, 1):
        for seed in range(4):
            job = Job(base_seed, "vote", "token", "latent", seed)
            result = dict(fixed={1.0: fake(np.zeros(3))}, oracle=fake(np.ones(3)))
            runs.append((job, job.columns, dict(sample=fake(np.full(3, base_seed))), result))
    found = by_name(interval_rows(cfg, runs))
    ends = found["reward_low"], found["reward"], found["reward_high"]
    assert ends == pytest.approx((0, 0.5, 1))
