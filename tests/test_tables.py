"""The tables of the pages, from made-up results: which number stands in which cell, and how.

Every number is another one, so that a cell of the wrong row, level or metric shows. Strays stand
beside the rows asked for: they differ in one column alone, and have the value 77.
"""
import sys

import pytest

from results import tables
from toy import rows
from toy.rows import row

ANOTHER = dict(experiment="elsewhere", level="other", variant="nll", select="other", votes=99,
               subtask="other", temperature=9.5, policy="other", base_seed=7, role="other",
               sweep="other", metric="other", setting="other")


def made_up(found, **config):
    config = dict(experiments=["mix"], variants=["latent", "nll"], choices=[0.0, 0.5]) | config
    return dict(config=config, stages={}, rows=found)


def pooled(metric, n, strays=(), **columns):
    """A pooled number, n thousandths, and its interval, from n - 20 to n + 30."""
    of = dict(policy="adaptive", select="sample", variant="latent") | columns
    ends = {"": n, "_low": n - 20, "_high": n + 30}
    found = [row(metric + end, x / 1000, 1, **of) for end, x in ends.items()]
    return found + [row(metric + end, 77, 1, **of | {name: ANOTHER[name]})
                    for end in ends for name in strays]


def decimals(n):
    """As pooled(metric, n) is printed, three digits."""
    return f"0.{n:03} [0.{n - 20:03}, 0.{n + 30:03}]"


def percent(n):
    """In per cent, one digit."""
    return f"{n // 10}.{n % 10} [{n // 10 - 2}.{n % 10}, {n // 10 + 3}.{n % 10}]"


def whole(n):
    """In per cent, no digits."""
    return f"{n // 10} [{n // 10 - 2}, {n // 10 + 3}]"


def cells_of(text):
    """A table's header and lines, as lists of cells."""
    lines = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in text.split("\n")]
    assert lines[1] == ["---"] * len(lines[0])
    return [lines[0], *lines[2:]]


# --- cells ----------------------------------------------------------------------------------------


def test_a_table_is_markdown():
    """Bugs: a rule of the wrong width, a line without its ends."""
    assert tables.table(["a", "b"], [[1, "x"], [2.5, "y"]]) == (
        "| a | b |\n| --- | --- |\n| 1 | x |\n| 2.5 | y |")


def test_a_cell_has_the_mean_then_its_ends_or_a_dash():
    """Bugs: ends swapped, the scale on the mean alone, a default of other digits, no dash."""
    results = made_up(pooled("reward", 123))
    assert tables.ci(results, "reward") == "0.123 [0.103, 0.153]"
    assert tables.ci(results, "reward", 1, 100) == "12.3 [10.3, 15.3]"
    assert tables.ci(results, "oracle") == "-"


def test_a_spread_is_mean_and_deviation_of_the_population():
    """Of 1, 3, 3, 5 the mean is 3 and the mean square deviation (4 + 0 + 0 + 4) / 4 = 2. Bugs: the
    sample's deviation, median for mean, a scale that misses one of both."""
    assert tables.spread([1, 3, 3, 5]) == "3.00 ± 1.41"
    assert tables.spread([0.01, 0.02, 0.06], 1, 100) == "3.0 ± 2.2"  # sqrt((4 + 1 + 9) / 3) = 2.16
    assert tables.spread([]) == "-"


# --- the main job ---------------------------------------------------------------------------------


def test_headline():
    """Bugs: a level in the other's column, one policy's metric in another's, the reward of a vote
    for its accuracy, a number of one subtask, count of votes or temperature."""
    strays, found = ("experiment", "subtask", "select", "variant", "base_seed"), []
    numbers = dict(best_fixed=100, reward=200, oracle=300, gain=400, headroom_share=500)
    for level, more in (("sequence", 10), ("token", 60)):
        for metric, n in numbers.items():
            for votes in (None, 4, 8):  # what is asked of a vote has 8; 4 is a stray
                n += {None: 0, 4: 7, 8: 10}[votes]
                for experiment in ("mix", "vote") if votes is None else ("vote",):
                    name = "vote_accuracy" if votes and metric == "reward" else metric
                    found += pooled(name, n + more + (experiment == "vote") * 20, strays,
                                    experiment=experiment, level=level, votes=votes)
    found += pooled("reward", 999, experiment="mix", level="token", temperature=0.5)
    found.append(row("vote_accuracy", 5, 1, policy="fixed", experiment="vote", votes=8))
    results = made_up(found, experiments=["mix", "vote"])
    header, *lines = cells_of(tables.headline(results, None))
    assert header == ["experiment", "best fixed temperature", "sequence level", "token level",
                      "oracle per role", "gain, token level", "share of headroom, %: sequence",
                      "token"]
    ours = ([160, 210, 260, 360, 460], 510, 560), ([180, 230, 280, 380, 480], 530, 580)
    # of a count of 8: 7 + 10 more than without a count
    ours += ([197, 247, 297, 397, 497], 547, 597),
    names = "mix, reward", "vote, one response", "vote, majority of 8"
    for line, name, (five, *shares) in zip(lines, names, ours):
        shares = [f"{round(n / 10)} [{round((n - 20) / 10)}, {round((n + 30) / 10)}]"
                  for n in shares]
        assert line == [name, *map(decimals, five), *shares]
    assert len(lines) == 3


def test_repeats():
    """Bugs: single decoders of another loss or level, of arg-max; a mean over all temperatures."""
    def fixed(value, **columns):
        return row("repeats", value, 1, **dict(policy="fixed", temperature=0.0) | columns)

    def warm(value, **columns):
        return row("non_greedy", value, 1, **dict(
            policy="adaptive", select="sample", variant="latent", base_seed=0, subtask="repeats",
            level="token") | columns)
    found = [fixed(0.4), fixed(0.46), fixed(77, temperature=0.5), fixed(77, subtask="repeats"),
             fixed(77, policy="oracle"), warm(0.8), warm(0.96)]
    found += [warm(77, **{name: ANOTHER[name]}) for name in ("select", "variant", "level",
                                                             "subtask", "policy")]
    strays = ("subtask", "level", "select", "variant", "temperature", "base_seed", "experiment")
    for metric, n in (("repeats", 123), ("fewer_repeats", 456)):
        found += pooled(metric, n, strays, experiment="repeats", level="token")
    header, paper, here = cells_of(tables.repeats(made_up(found), None))
    assert header == ["", "repeated 3-grams, greedy", "token level", "fewer, %",
                      "responses with a temperature above 0, %"]
    assert paper == ["paper, Wikitext-2", "0.36 %", "0.22 %", "42", "94"]
    assert here == ["here", "43.0 %", percent(123), percent(456), "88"]


def win_rows(metric, subtask, level, first, **columns):
    """Against the temperatures 0 and 0.5: `first` thousandths, and 7 more."""
    return [found for tau, n in ((0.0, first), (0.5, first + 7))
            for found in pooled(metric, n, ("select", "variant", "experiment", "base_seed"),
                                subtask=subtask, level=level, temperature=tau, **columns)]


def test_wins():
    """Bugs: subtasks or levels in another order than the header's, one temperature's numbers on
    another's line, subtasks of another experiment."""
    found = [row("reward", 5, 1, policy="fixed", experiment=e, subtask=subtask)
             for e, subtask in (("mix", "math"), ("mix", "story"), ("vote", "vote"))]
    firsts = {"sequence": {None: 110, "math": 220, "story": 330},
              "token": {None: 440, "math": 550, "story": 660}}
    for level, of_level in firsts.items():
        for subtask, first in of_level.items():
            found += win_rows("win_rate", subtask, level, first, experiment="mix")
    lines = cells_of(tables.wins(made_up(found, experiments=["mix", "vote"]), None))
    assert lines == [["fixed", "seq: all", "seq: math", "seq: story",
                      "tok: all", "tok: math", "tok: story"],
                     ["0", *map(percent, (110, 220, 330, 440, 550, 660))],
                     ["0.5", *map(percent, (117, 227, 337, 447, 557, 667))]]


def test_the_papers_numbers_agree_with_themselves():
    """Two of the paper's tables share a column, and a third has a mean of two columns. Bugs: a
    slip of a digit, two columns or lines swapped."""
    for tau, (constraint, quality, mean) in tables.PAPER_CONSTRAINED.items():
        assert float(mean) == pytest.approx((float(constraint) + float(quality)) / 2)
        assert float(constraint) > float(quality) or tau == "0.0"
    assert list(tables.PAPER_WINS) == list(tables.PAPER_SELECT) == list(tables.PAPER_CONSTRAINED)
    for tau, (by_argmax, _) in tables.PAPER_SELECT.items():
        assert by_argmax == tables.PAPER_WINS[tau][0]
    header, *lines = cells_of(tables.paper_wins(None, None))
    assert header == ["fixed", "seq: UltraFeedback", "seq: Stories", "seq: GSM8K",
                      "tok: UltraFeedback", "tok: Stories", "tok: GSM8K"]
    assert lines[1] == ["0.2", "53.35", "57.25", "51.10", "50.70", "53.40", "50.08"]
    assert [line[0] for line in lines] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]


def test_temperature_means():
    """Roles at the token level alone, and there only where it has several. Bugs: the mean over all
    words beside its roles, rows of one place, a level in the other's column."""
    def mean(value, base_seed=0, **columns):
        return row("mean_temperature", value, 1, **dict(
            policy="adaptive", select="sample", variant="latent", base_seed=base_seed) | columns)
    found = [row("reward", 5, 1, policy="fixed", experiment="mix", subtask=s)
             for s in ("math", "story")]
    for level, more in (("sequence", 0), ("token", 0.5)):
        for seed, off in ((0, -0.03), (1, 0.03)):
            of = dict(level=level, base_seed=seed)
            found += [mean(0.2 + more + off, subtask="math", **of),
                      mean(0.2 + more + off, subtask="math", role="rest", **of),
                      mean(0.3 + more + 2 * off, subtask="story", **of),
                      mean(0.4 + more + 3 * off, subtask="story", role="asked", **of),
                      mean(0.45 + more + off, subtask="story", role="rest", **of),
                      mean(77, subtask="story", place="verb", **of)]
    found += [mean(77, subtask="math", level="token", select="greedy"),
              mean(77, subtask="math", level="token", variant="nll")]
    # one role and the whole are two kinds of row: the whole counts
    assert cells_of(tables.temperature_means(made_up(found), None)) == [
        ["subtask", "sequence level", "token level"],
        ["math", "0.20 ± 0.03", "0.70 ± 0.03"],
        ["story", "0.30 ± 0.06", "asked 0.90 ± 0.09; rest 0.95 ± 0.03"]]


def test_constrained_and_its_places():
    """Bugs: constraint and quality swapped, the paper's line of another temperature, a number
    where the paper has none, the asked word's mean for the others'."""
    metrics = {"constraint_win_rate": 210, "quality_win_rate": 320, "win_rate": 430}
    found = []
    for metric, first in metrics.items():
        found += win_rows(metric, None, "token", first, experiment="constrained")
        found += win_rows(metric, None, "sequence", 900, experiment="constrained")
        found += win_rows(metric, "constrained", "token", 900, experiment="constrained")
    for role, value in (("asked", 0.25), ("rest", 0.75), (None, 77)):
        for off in (-0.1, 0.1):
            found.append(row("mean_temperature", value + off, 1, policy="adaptive", role=role,
                             select="sample", variant="latent", base_seed=0, level="token",
                             subtask="constrained"))
            found.append(dict(found[-1], value=77, level="sequence"))
            found.append(dict(found[-1], value=77, level="token", subtask="story"))
            found.append(dict(found[-1], value=77, subtask="constrained", metric="other"))
    assert cells_of(tables.constrained(made_up(found), None)) == [
        ["fixed", "constraint", "quality", "reward, their product",
         "paper: constraint", "quality", "mean"],
        ["0", *map(percent, (210, 320, 430)), "50.95", "52.55", "51.75"],
        ["0.5", *map(percent, (217, 327, 437)), "-", "-", "-"]]
    assert cells_of(tables.asked_places(made_up(found), None)) == [
        ["", "the asked word (paper: a sentence's first)", "elsewhere"],
        ["paper, mean temperature", "0.21", "0.55"],
        ["here", "0.25 ± 0.10", "0.75 ± 0.10"]]


def test_votes():
    """Bugs: counts in another column, the levels swapped, the reward for the accuracy."""
    found = [row("vote_accuracy", 5, 1, policy="fixed", votes=n) for n in (1, 8)]
    found += [row("vote_accuracy", 5, 1, policy="oracle", votes=32)]  # no count of its own
    numbers = {("best_fixed", "token"): 110, ("vote_accuracy", "sequence"): 220,
               ("vote_accuracy", "token"): 330, ("oracle", "token"): 440, ("gain", "token"): 550,
               ("best_fixed", "sequence"): 810, ("oracle", "sequence"): 820,
               ("gain", "sequence"): 830, ("reward", "token"): 840}
    for (metric, level), n in numbers.items():
        for votes in (1, 8):
            found += pooled(metric, n + votes, ("subtask", "select", "variant", "experiment",
                                                "base_seed"),
                            experiment="vote", level=level, votes=votes)
    assert cells_of(tables.votes(made_up(found), None)) == [
        ["votes", "1", "8"],
        ["best fixed temperature of this count", percent(111), percent(118)],
        ["sequence level", percent(221), percent(228)],
        ["token level", percent(331), percent(338)],
        ["oracle per role, searched at 8 votes", percent(441), percent(448)],
        ["token level - best fixed", percent(551), percent(558)]]


def test_losses():
    """Bugs: variants or ways of choosing in each other's place, the share of a vote's accuracy."""
    kinds, found, n = {}, [], 100
    for experiment, level in (("repeats", "token"), ("mix", "sequence"), ("mix", "token"),
                              ("constrained", "token"), ("vote", "token"),
                              ("repeats", "sequence"), ("vote", "sequence")):
        for select in ("sample", "greedy"):
            for variant in ("latent", "nll"):
                kinds[experiment, level, select, variant] = n
                found += pooled("headroom_share", n, ("subtask", "base_seed"), level=level,
                                experiment=experiment, select=select, variant=variant)
                found += pooled("headroom_share", 777, level=level, experiment=experiment,
                                select=select, variant=variant, votes=8)
                n += 30
    lines = cells_of(tables.losses(made_up(found), None))
    assert lines[0] == ["experiment, level", "temperature", "latent", "NLL"]
    assert lines[1] == ["repeats, token", "sample", whole(100), whole(130)]
    assert lines[2] == ["repeats, token", "greedy", whole(160), whole(190)]
    assert lines[3] == ["mix, sequence", "sample", whole(220), whole(250)]
    assert lines[6] == ["mix, token", "greedy", whole(400), whole(430)]
    assert lines[9] == ["vote, token", "sample", whole(580), whole(610)]
    assert [line[:2] for line in lines[1:]] == [
        [name, select] for name in ("repeats, token", "mix, sequence", "mix, token",
                                    "constrained, token", "vote, token")
        for select in ("sample", "greedy")]


def test_math_losses():
    """Bugs: another subtask or level, arg-max on the line of sampling, a wrong paper column."""
    found, strays = [], ("experiment", "subtask", "level", "votes", "temperature", "base_seed")
    for i, variant in enumerate(("latent", "separate", "joint", "nll")):
        for j, select in enumerate(("sample", "greedy")):
            found += pooled("reward", 100 + 50 * i + 400 * j, strays, experiment="mix",
                            subtask="math", level="sequence", variant=variant, select=select)
    found += pooled("best_fixed", 333, strays, experiment="mix", subtask="math", level="sequence")
    results = made_up(found, variants=["latent", "separate", "nll"])
    assert cells_of(tables.math_losses(results, None)) == [
        ["", "latent", "separate", "NLL", "best fixed temperature"],
        ["here, % right, temperature sampled", *map(percent, (100, 150, 250)), percent(333)],
        ["here, by arg-max", *map(percent, (500, 550, 650)), ""],
        ["paper, GSM8K", "81.59", "81.59", "lower", "81.59 (greedy)"]]


def test_selects():
    """Bugs: arg-max and sampling swapped, the whole and one subtask swapped, another level."""
    found = []
    for level, more in (("sequence", 0), ("token", 55)):
        for select, subtask, first in (("greedy", None, 110), ("sample", None, 220),
                                       ("greedy", "general", 330), ("sample", "general", 440)):
            for tau, n in ((0.0, first), (0.5, first + 7)):
                found += pooled("win_rate", n + more, ("variant", "experiment", "base_seed"),
                                experiment="mix", level=level, subtask=subtask, select=select,
                                temperature=tau)
    assert cells_of(tables.selects(made_up(found), None)) == [
        ["fixed", "all, arg-max", "all, sampled", "general, arg-max", "general, sampled",
         "paper, UltraFeedback: arg-max", "sampled"],
        ["0", *map(percent, (110, 220, 330, 440)), "53.10", "52.80"],
        ["0.5", *map(percent, (117, 227, 337, 447)), "-", "-"]]


def stage(seconds, **environment):
    return dict(seconds=seconds, environment=dict(
        torch="2.1", device="cpu", machine="x86", threads=1, commit="abc") | environment)


def test_where_the_numbers_come_from():
    """Each environment once. Bugs: one for all stages, the same one twice, decoder seeds for base
    models, "1 threads", "commit None"."""
    stages = {"base0": stage(1), "base1": stage(2), "base0-mix": stage(3, threads=2, commit=None)}
    both = ("torch 2.1, cpu, x86, 1 thread, commit abc; "
            "torch 2.1, cpu, x86, 2 threads, commit not recorded")
    assert tables.environments(stages) == both
    results = made_up([], base_seeds=3, seeds=5, test_prompts=240) | dict(stages=stages)
    sentence = tables.source(results, None)
    assert sentence.startswith("3 base models x 5 decoder seeds, 240 test prompts an experiment")
    assert sentence.endswith(f"; {both}.")
    sweeps = dict(config=dict(base_seeds=3, seeds=1), stages=dict(a=stage(1)))
    assert tables.sweep_source(results, sweeps) == (
        "3 base models x 1 decoder seed; torch 2.1, cpu, x86, 1 thread, commit abc.")
    sweeps["config"]["seeds"] = 2
    assert "x 2 decoder seeds;" in tables.sweep_source(results, sweeps)


def test_timing_adds_the_seconds_of_each_kind_of_stage():
    """Told apart by their names. Bugs: a kind's seconds in another's, a share for the sum, the
    stages of the results themselves, which may have been timed on a busy machine."""
    timed = {"base0": stage(10), "base1": stage(20), "base0-mix": stage(100),
             "base0-vote": stage(200), "base0-mix-latent-token0": stage(1000),
             "base0-mix-latent-sequence0": stage(3000, threads=2)}
    results = made_up([]) | dict(stages={"base0": stage(7)}, timing=timed)
    assert tables.timing(results, None) == (
        "The main job took 4330 s (pretraining 30 s, fixed temperatures and oracle 300 s, eight "
        "decoders 4000 s): torch 2.1, cpu, x86, 1 thread, commit abc; torch 2.1, cpu, x86, "
        "2 threads, commit abc.")


# --- the sweeps -----------------------------------------------------------------------------------


def runs(metric, mean, deviation, strays=("sweep", "metric"), **columns):
    """Rows of two runs whose mean and deviation are given."""
    of = [dict(columns, metric=metric, base_seed=seed, value=mean + sign * deviation)
          for seed, sign in ((0, -1), (1, 1))]
    return of + [dict(found, value=77, **{name: ANOTHER[name]}) for found in of for name in strays
                 if name != "metric"] + [dict(found, value=77, metric="other") for found in of]


def of_sweeps(found):
    return dict(config={}, stages={}, rows=found)


def test_pairs():
    """Bugs: counts out of order, the share by arg-max on the line of sampling, losses swapped."""
    found, mean = [], 0.1
    for n in (30, 8):
        for experiment in ("mix", "vote"):
            for variant in ("latent", "separate"):
                for metric in ("share", "share of the arg-max"):
                    found += runs(metric, mean, 0.01, sweep="pairs", experiment=experiment,
                                  variant=variant, x=n)
                    mean += 0.05
    assert cells_of(tables.pairs(None, of_sweeps(found))) == [
        ["experiment", "loss", "temperature", "8 pairs", "30 pairs"],
        ["mix", "latent", "sampled", "50 ± 1", "10 ± 1"],
        ["mix", "latent", "arg-max", "55 ± 1", "15 ± 1"],
        ["mix", "separate", "sampled", "60 ± 1", "20 ± 1"],
        ["mix", "separate", "arg-max", "65 ± 1", "25 ± 1"],
        ["vote", "latent", "sampled", "70 ± 1", "30 ± 1"],
        ["vote", "latent", "arg-max", "75 ± 1", "35 ± 1"],
        ["vote", "separate", "sampled", "80 ± 1", "40 ± 1"],
        ["vote", "separate", "arg-max", "85 ± 1", "45 ± 1"]]


def test_gradient():
    """The pairs for 1 : 1 are the inverse square of the ratio: 1 / 0.2^2 = 25. Bugs: signal and
    noise swapped, the inverse alone, a division by a ratio of 0."""
    found = []
    for experiment, form, signal, noise, ratio, cosine in (
            ("mix", "separate", 0.111, 2.22, 0.2, 1.0), ("mix", "latent", 0.333, 4.44, 0.5, 0.86),
            ("vote", "nll", 0.555, 6.66, 0.0, -0.25)):
        of = dict(sweep="gradient", experiment=experiment, variant=form)
        found += (runs("signal", signal, 0.001, **of) + runs("noise", noise, 0.02, **of)
                  + runs("cosine with separate", cosine, 0.03, **of)
                  + runs("signal to noise", ratio, 0.004, **of))
    assert cells_of(tables.gradient(None, of_sweeps(found))) == [
        ["experiment", "loss", "signal", "noise of one pair", "signal to noise",
         "pairs for 1 : 1", "cosine of the mean with separate's"],
        ["mix", "separate", "0.111 ± 0.001", "2.22 ± 0.02", "0.200 ± 0.004", "25", "1.00 ± 0.03"],
        ["mix", "latent", "0.333 ± 0.001", "4.44 ± 0.02", "0.500 ± 0.004", "4", "0.86 ± 0.03"],
        ["vote", "NLL", "0.555 ± 0.001", "6.66 ± 0.02", "0.000 ± 0.004", "-", "-0.25 ± 0.03"]]


def test_change():
    """Bugs: values out of order, losses or experiments under another header, the reward for the
    share; a dash where a loss lacks an option."""
    found, mean = [], 0.1
    for variant in ("latent", "separate"):
        for experiment in ("mix", "vote"):
            for option, x in (("beta", 0.5), ("beta", 0.1), ("pairing", "all")):
                if option == "pairing" and variant == "latent":
                    continue
                of = dict(sweep="change", setting=option, x=x, variant=variant,
                          experiment=experiment)
                found += runs("share", mean, 0.02, **of) + runs("reward", 88, 1, **of)
                mean += 0.05
    assert cells_of(tables.change(None, of_sweeps(found))) == [
        ["option", "value", "latent: mix", "latent: vote", "separate: mix", "separate: vote"],
        ["beta", "0.1", "15 ± 2", "25 ± 2", "35 ± 2", "50 ± 2"],
        ["beta", "0.5", "10 ± 2", "20 ± 2", "30 ± 2", "45 ± 2"],
        ["pairing", "all", "-", "-", "40 ± 2", "55 ± 2"]]


def test_unfrozen():
    """What moved is of the last update of round one (number 0), the reward after it of the next
    round's start. Bugs: the first update, the last of all rounds, sides swapped, shares not in per
    cent, the base model's corpus loss."""
    found = []
    for setting, lr, more in (("latent", 1e-4, 0.4), ("joint", 1e-3, 0.2), ("joint", 0.0, 0.0)):
        of = dict(sweep="unfrozen", setting=setting, x=lr)
        for rnd, reward in ((0, 0.11), (1, 0.22), (2, 0.33)):
            found += runs("round reward", reward + more, 0.01, round=rnd, **of)
            for step in (20 * rnd, 20 * rnd + 19):
                moved = 0.5 + more if (rnd, step) == (0, 19) else 66
                for metric, value in (("chosen log-ratio", moved), ("rejected log-ratio", -moved),
                                      ("chosen impossible", moved / 10),
                                      ("rejected impossible", moved / 5)):
                    found += runs(metric, value, 0.01, round=rnd, step=step, **of)
        found += runs("reward", 0.44 + more, 0.03, **of)
        found += runs("corpus loss", 1.5 + more, 0.04, **of)
        found += runs("corpus loss of the base", 99, 0.04, **of)
    assert cells_of(tables.unfrozen(None, of_sweeps(found))) == [
        ["loss", "model lr", "reward after round 1", "at the end", "log-ratio chosen, rejected",
         "impossible tokens, %", "corpus loss"],
        ["joint", "0", "0.22 ± 0.01", "0.44 ± 0.03", "+0.50, -0.50", "5.0, 10.0", "1.50"],
        ["joint", "0.001", "0.42 ± 0.01", "0.64 ± 0.03", "+0.70, -0.70", "7.0, 14.0", "1.70"],
        ["latent", "0.0001", "0.62 ± 0.01", "0.84 ± 0.03", "+0.90, -0.90", "9.0, 18.0", "1.90"]]


def test_unseen_and_keyword():
    """Bugs: groups or trainings swapped, one training's best fixed temperature for the other's,
    levels swapped."""
    found = []
    for i, group in enumerate(("unseen", "seen")):
        for j, variant in enumerate(("trained on all", "trained on half")):
            for k, metric in enumerate(("reward", "best fixed")):
                found += runs(metric, 0.1 + 0.4 * i + 0.2 * j + 0.1 * k, 0.001,
                              ("sweep", "setting"), sweep="failure", setting="unseen categories",
                              experiment="mix", group=group, variant=variant)
    assert cells_of(tables.unseen(None, of_sweeps(found))) == [
        ["experiment", "categories", "decoder trained on half", "on all",
         "best fixed temperature"],
        ["mix", "in training", "0.700 ± 0.001", "0.500 ± 0.001", "0.600 ± 0.001"],
        ["mix", "left out", "0.300 ± 0.001", "0.100 ± 0.001", "0.200 ± 0.001"]]
    found = []
    for i, variant in enumerate(("keyword", "no keyword")):
        for j, level in enumerate(("token", "sequence")):
            of = dict(sweep="failure", setting="no keyword", group="math", variant=variant,
                      level=level)
            found += runs("reward", 0.1 + 0.4 * i + 0.2 * j, 0.001, ("sweep", "setting"), **of)
            found += runs("best fixed", 0.15 + 0.4 * i, 0.002, ("sweep", "setting"), **of)
    assert cells_of(tables.keyword(None, of_sweeps(found))) == [
        ["subtask", "prompt", "sequence level", "token level",
         "best fixed temperature of the subtask"],
        ["math", "keyword", "0.300 ± 0.001", "0.100 ± 0.001", "0.150 ± 0.002"],
        ["math", "no keyword", "0.700 ± 0.001", "0.500 ± 0.001", "0.550 ± 0.002"]]


def test_pretraining_and_onehot():
    """The gain is of each run: rewards of 0.6 and 0.8 over best ones of 0.5 and 0.4 gain 0.1 and
    0.4, so 0.25 ± 0.15. Bugs: the difference turned round, steps out of order, a share not in per
    cent, the arg-max's share."""
    found, kind = [], dict(sweep="failure", setting="pretraining", experiment="mix")
    for steps, more in ((800, 0.0), (200, 0.01)):
        for seed, reward, best in ((0, 0.6, 0.5), (1, 0.8, 0.4)):
            of = dict(kind, x=steps, base_seed=seed)
            found += [dict(of, metric="reward", value=reward + 2 * more),
                      dict(of, metric="best fixed", value=best + more),
                      dict(of, metric="corpus loss", value=1 + reward),
                      dict(of, metric="reward", value=77, setting="other")]
    assert cells_of(tables.pretraining(None, of_sweeps(found))) == [
        ["experiment", "pretraining steps", "corpus loss, nats a token", "best fixed temperature",
         "decoder", "gain"],
        ["mix", "200", "1.700 ± 0.100", "0.460 ± 0.050", "0.720 ± 0.100", "0.260 ± 0.150"],
        ["mix", "800", "1.700 ± 0.100", "0.450 ± 0.050", "0.700 ± 0.100", "0.250 ± 0.150"]]
    found = []
    for beta, more in ((2.0, 0.0), (0.1, 0.2)):
        of = dict(sweep="failure", setting="one-hot", experiment="mix", x=beta)
        for metric, mean in (("largest probability", 0.111), ("sure", 0.22), ("share", 0.33)):
            found += runs(metric, mean + more, 0.02, ("sweep", "setting"), **of)
    assert cells_of(tables.onehot(None, of_sweeps(found))) == [
        ["experiment", "beta", "largest probability, mean", "tokens above 0.99, %",
         "share of headroom, %"],
        ["mix", "0.1", "0.311 ± 0.020", "42 ± 2", "53 ± 2"],
        ["mix", "2", "0.111 ± 0.020", "22 ± 2", "33 ± 2"]]


# --- pages and files ------------------------------------------------------------------------------


def test_what_is_kept_of_a_run():
    """Which rows stay, one of each kind. Bugs: rows that figures need are lost, single decoders of
    every loss stay and make the file many times as long."""
    first = dict(policy="adaptive", variant="latent", select="sample")
    pool, one = dict(first, base_seed=None), dict(first, base_seed=1)
    first_round = dict(one, round=0, side="chosen")
    stays = [("temperature_share", first_round), ("temperature_share", dict(first_round, seed=3)),
             ("reward", dict(policy="fixed", base_seed=1, variant="nll")),
             ("oracle", dict(policy="oracle", base_seed=1)),
             ("reward", dict(pool, variant="nll")), ("reward_low", dict(pool, variant="nll")),
             ("headroom_share_high", dict(pool, variant="nll", select="greedy")),
             ("gain", pool), ("win_rate", dict(pool, select="greedy")), ("mean_temperature", one),
             ("temperature_share", one), ("non_greedy", one)]
    goes = [("temperature_share", dict(first_round, round=1)),
            ("temperature_share", dict(first_round, side=None)),
            ("temperature_share", dict(first_round, variant="nll")),
            ("gain", dict(pool, variant="nll")), ("reward", dict(one, variant="nll")),
            ("mean_temperature", dict(one, variant="nll")), ("reward", one),
            ("mean_temperature", dict(one, select="greedy"))]
    found = [row(metric, i, 1, **columns) for i, (metric, columns) in enumerate([*stays, *goes])]
    samples = [dict(subtask=subtask, level=level, variant=variant, words=i)
               for i, (subtask, level, variant) in enumerate([
                   ("math", "token", "nll"), ("math", "token", "latent"),
                   ("math", "token", "latent"), ("math", "sequence", "latent"),
                   ("story", "token", "latent")])]
    results = dict(made_up(found), samples=samples)
    kept = tables.kept(results)
    assert [found["value"] for found in kept["rows"]] == list(range(len(stays)))
    assert [sample["words"] for sample in kept["samples"]] == [1, 3, 4]
    assert kept["config"] is results["config"]


def test_of_single_updates_each_fifth_is_kept():
    """The last of every five, and so the last of a round of 20. Bug: the table's own is lost."""
    found = [dict(metric="m", step=step) for step in (*range(11), 19, None)] + [dict(metric="n")]
    kept = tables.kept_sweeps(dict(config=1, rows=found))
    assert [row.get("step") for row in kept["rows"]] == [4, 9, 19, None, None]
    assert kept["config"] == 1


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Pages, data and figures in a folder of their own; two small tables; no figure is drawn."""
    data, page = tmp_path / "data", tmp_path / "page.md"
    for name, value in (("DATA", data), ("FIGURES", tmp_path / "figures"), ("PAGES", (page,))):
        monkeypatch.setattr(tables, name, value)
    monkeypatch.setattr(tables, "TABLES", {
        "count": lambda results, sweeps: f"{len(results['rows'])} and {len(sweeps['rows'])} rows",
        "times": lambda results, sweeps: str(results.get("timing"))})
    monkeypatch.setattr(tables.rival_tables, "TABLES", {
        "rivals": lambda results, rivals: f"{len(rivals['rows'])} of {len(results['rows'])}"})
    monkeypatch.setattr(tables.real_tables, "TABLES", {
        "real": lambda real: f"{len(real['rows'])} real ones"})
    monkeypatch.setattr(tables.real_tables, "SECOND", {
        "second": lambda second: f"{len(second['rows'])} of another model"})
    drawn = []

    def draw(results, folder, figures=None):
        drawn.append((len(results["rows"]), folder, figures))
        return [folder / f"figure{len(drawn)}.png"]
    monkeypatch.setattr(tables, "draw", draw)
    page.write_text("a\n<!-- count -->\nold\n<!-- end -->\nb\n<!-- times -->\n<!-- end -->\nc\n"
                    "<!-- rivals -->\n<!-- end -->\n<!-- real -->\n<!-- end -->\n"
                    "<!-- second -->\n<!-- end -->\n",
                    encoding="utf-8")
    save(data, 2, 3, "old")
    save_rivals(data, 7)
    save_real(data, 8)
    save_real(data, 11, "real_second.json")
    return tmp_path, page, drawn


def save(folder, n, m, stages, **more):
    """results.json of n rows, and sweeps.json of m, of which one is a single update's; 0: none."""
    folder.mkdir(exist_ok=True)
    found = [row("reward", i, 1, policy="fixed") for i in range(n)]
    results = dict(made_up(found), stages=stages, samples=[], **more)
    if n:
        (folder / "results.json").write_text(rows.to_json(results), encoding="utf-8")
    if m:
        found = [dict(value=i, step=i or None) for i in range(m)]
        (folder / "sweeps.json").write_text(rows.to_json(of_sweeps(found)), encoding="utf-8")


def save_rivals(folder, n):
    """rivals.json of n rows, and three stages of one environment."""
    stages = {f"s{i}": dict(seconds=1.0, environment=dict(torch="2")) for i in range(3)}
    (folder / "rivals.json").write_text(rows.to_json(dict(
        rows=[dict(value=i) for i in range(n)], stages=stages)), encoding="utf-8")


def save_real(folder, n, name="real.json"):
    """real.json, or real_second.json, of n rows."""
    found = dict(rows=[dict(value=i) for i in range(n)])
    (folder / name).write_text(rows.to_json(found), encoding="utf-8")


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["results.tables", *map(str, arguments)])
    tables.main()


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_flags_tables_are_printed_and_no_file_changes(places, monkeypatch, capsys):
    """Bugs: a look that rewrites the pages; figures drawn for nothing."""
    folder, _, drawn = places
    before = files(folder)
    run(monkeypatch)
    assert capsys.readouterr().out == (
        "count\n2 and 3 rows\n\ntimes\nNone\n\nrivals\n7 of 2\n\nreal\n8 real ones\n\n"
        "second\n11 of another model\n\n")
    assert files(folder) == before and not drawn


def test_write_fills_the_marked_places_alone(places, monkeypatch, capsys):
    """Bugs: text around a mark lost, one table in another's place, data rewritten, the sweeps'
    figures from the main job's rows."""
    folder, page, drawn = places
    before = files(folder)
    for _ in range(2):  # and again: the same page
        run(monkeypatch, "--write")
        assert page.read_text(encoding="utf-8") == (
            "a\n<!-- count -->\n2 and 3 rows\n<!-- end -->\nb\n<!-- times -->\nNone\n"
            "<!-- end -->\nc\n<!-- rivals -->\n7 of 2\n<!-- end -->\n"
            "<!-- real -->\n8 real ones\n<!-- end -->\n"
            "<!-- second -->\n11 of another model\n<!-- end -->\n")
    figures = folder / "figures"
    assert drawn[:4] == [(2, figures, None), (3, figures, tables.sweep_plots.FIGURES),
                         (7, figures, tables.rival_plots.FIGURES),
                         (8, figures, tables.real_tables.FIGURES)]
    assert capsys.readouterr().out.splitlines()[:4] == [
        str(figures / f"figure{i}.png") for i in (1, 2, 3, 4)]
    assert {path for path, text in files(folder).items() if text != before[path]} == {page}
    with pytest.raises(KeyError):
        tables.filled("<!-- unknown -->\n<!-- end -->\n", *[None] * 5)


def test_keep_takes_over_a_folders_results_then_writes(places, monkeypatch):
    """Six rows of the sweeps, five of single updates 1 to 5, become two. Bugs: rows not reduced,
    pages of the results before; the old seconds lost, or replaced without --timing."""
    folder, page, _ = places
    save(folder / "out", 5, 6, "new")
    before = files(folder / "out")
    run(monkeypatch, "--keep", folder / "out")
    assert rows.load(tables.DATA / "results.json")["stages"] == "new"
    assert "5 and 2 rows" in page.read_text(encoding="utf-8")
    assert "\nNone\n" in page.read_text(encoding="utf-8")  # the results before had no seconds
    save(folder / "quiet", 1, 0, "quiet ones")
    run(monkeypatch, "--keep", folder / "out", "--timing", folder / "quiet" / "results.json")
    assert "\nquiet ones\n" in page.read_text(encoding="utf-8")
    run(monkeypatch, "--keep", folder / "out")  # which keeps the seconds
    assert "\nquiet ones\n" in page.read_text(encoding="utf-8")
    assert files(folder / "out") == before


def test_keep_with_only_some_of_the_files(places, monkeypatch):
    """The others stay. Without any results before, the run's own seconds count. Bugs: a missing
    file is an error, or empties the data."""
    folder, page, _ = places
    save(folder / "out", 0, 6, None)
    run(monkeypatch, "--keep", folder / "out")
    assert "2 and 2 rows" in page.read_text(encoding="utf-8")
    (tables.DATA / "results.json").unlink()
    save_rivals(folder / "out", 9)
    save_real(folder / "out", 6)
    save_real(folder / "out", 12, "real_second.json")
    save(folder / "out", 4, 0, "own")
    run(monkeypatch, "--keep", folder / "out")
    assert "4 and 2 rows" in page.read_text(encoding="utf-8")
    assert "\nown\n" in page.read_text(encoding="utf-8")
    assert "\n6 real ones\n" in page.read_text(encoding="utf-8")
    assert "\n12 of another model\n" in page.read_text(encoding="utf-8")
    assert "\n9 of 4\n" in page.read_text(encoding="utf-8")
    assert [stage["seconds"] for stage in rows.load(tables.DATA / "rivals.json")["stages"].values()
            ] == [3.0]  # of one environment, together
