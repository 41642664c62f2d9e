"""The real model's tables and figures: each cell is the number that it says, from made-up rows."""
import pytest

from results import real_tables


def one(section, **columns):
    return dict(section=section, **columns)


def reward(experiment, method, value, minus=None):
    return one("rewards", experiment=experiment, method=method, minus=minus, value=value,
               low=value - 0.01, high=value + 0.02)


ROWS = [
    *(reward(experiment, method, 0.1 * i + 0.01 * j)
      for j, experiment in enumerate(("lines", "mix")) for i, method in enumerate((
          real_tables.FIXED, real_tables.RULE, real_tables.ORACLE, "token level, temperatures",
          "sequence level, temperatures", "20 updates a round", "top-p"))),
    reward("lines", "token level, temperatures", 0.3, real_tables.FIXED),
    reward("lines", "token level, temperatures", -0.2, real_tables.RULE),
    reward("lines", "20 updates a round", -0.5, real_tables.FIXED),
    reward("mix", "20 updates a round", 0.7, real_tables.FIXED),
    *(one("best", experiment=e, method=m, setting=s) for e, m, s in (
        ("lines", real_tables.FIXED, "0.6"), ("lines", real_tables.RULE, "top-p"),
        ("mix", real_tables.FIXED, "0.0"), ("mix", real_tables.RULE, "top-p"))),
    *(one("setting", experiment=e, method="top-p", setting=s) for e, s in (
        ("lines", "top_p=0.5"), ("mix", "top_p=0.9"))),
    *(one("fixed", experiment=e, method=tau, value=x) for e, tau, x in (
        ("lines", "0.0", 0.1234), ("lines", "1.0", -0.5), ("mix", "0.0", 0.9),
        ("mix", "1.0", 0.2))),
    *(one("oracle", experiment=e, role=role, value=x) for e, role, x in (
        ("lines", "lines, start", 0.0), ("lines", "lines, rest", 0.8), ("mix", "capital, all", 0.2),
        ("mix", "list, all", 0.4), ("mix", "story, all", 1.0))),
    *(one("temperature", experiment=e, method=m, role=role, seed=seed, value=x + seed / 10)
      for e, m, role, x in (
          ("lines", "token level, temperatures", "lines, start", 0.1),
          ("lines", "token level, temperatures", "lines, rest", 0.6),
          ("mix", "sequence level, temperatures", "capital, all", 0.2),
          ("mix", "sequence level, temperatures", "story, all", 0.5)) for seed in (0, 1)),
    *(one("rounds", experiment=e, method=m, seed=seed, round=rnd, metric=metric,
          value=x + rnd / 10 + seed / 100)
      for e, m in (("lines", "token level, temperatures"), ("lines", "20 updates a round"),
                   ("mix", "sequence level, temperatures"), ("mix", "20 updates a round"))
      for seed in (0, 2) for rnd in (0, 3) for metric, x in (("certainty", 0.3), ("reward", 0.5))),
    *(one("validation", experiment=e, method=m, seed=seed, value=x + seed / 10)
      for e, m, x in (("lines", "token level, temperatures", 0.2),
                      ("lines", "20 updates a round", 0.3),
                      ("mix", "sequence level, temperatures", 0.4),
                      ("mix", "20 updates a round", 0.5)) for seed in (0, 2)),
    *(one("shares", experiment="lines", method="token level, settings", role="lines, start",
          choice=choice, value=x) for choice, x in (("0.0", 0.2), ("min_p=0.1", 0.77),
                                                    ("1.0", 0.03))),
    *(one("memory", experiment="lines", method="token level, temperatures", seed=seed, value=x)
      for seed, x in ((0, 3.96), (1, 4.24)))]
REAL = dict(
    rows=ROWS, samples=[dict(task="lines", asked=["the sea", "Do not", "a", "b"],
                             choices=[0.0, 0.4, 0.8],
                             tokens=[["start", "Do", 0], ["rest", " go", 2], ["rest", ",\n", 1],
                                     ["start", "Do", 0]])],
    config=dict(seeds=2, test_prompts=9, samples=4, rounds=4, prompts=11, responses=5,
                steps=7),
    stages={name: dict(environment=dict(machine="M", torch="2")) for name in "ab"})


def cells(name):
    """A table's lines, each as its cells."""
    lines = real_tables.TABLES[name](REAL).splitlines()
    return [[x.strip() for x in line.strip("|").split("|")] for line in lines]


def test_rewards_and_what_is_best():
    header, _, *lines = cells("real_rewards")
    assert header == ["", "lines", "mix"]
    of = {line[0]: line[1:] for line in lines}
    assert of[real_tables.FIXED] == ["0.000 [-0.010, 0.020] (0.6)", "0.010 [0.000, 0.030] (0.0)"]
    assert of[real_tables.RULE][0] == "0.100 [0.090, 0.120] (top-p)"
    assert of["sequence level, temperatures"] == ["0.400 [0.390, 0.420]", "0.410 [0.400, 0.430]"]
    assert "token level, settings" not in of  # none was trained
    assert "20 updates a round" not in of and "top-p" not in of


def test_differences_stand_under_their_experiment_and_opponent():
    header, _, *lines = cells("real_beyond")
    assert header[1:] == [f"{e}, minus the {name}" for e in ("lines", "mix")
                          for name in (real_tables.FIXED, real_tables.RULE)]
    of = {line[0]: line[1:] for line in lines}
    assert of["token level, temperatures"] == ["0.300 [0.290, 0.320]", "-0.200 [-0.210, -0.180]",
                                               "-", "-"]


def test_fixed_temperatures_and_rules():
    assert cells("real_fixed")[2:] == [["lines", "0.123", "-0.500"], ["mix", "0.900", "0.200"]]
    assert cells("real_rules")[2:] == [["top-p", "0.600 [0.590, 0.620] (top_p=0.5)",
                                        "0.610 [0.600, 0.630] (top_p=0.9)"]]


def test_temperatures_are_means_and_ranges_over_decoders():
    of = {line[0]: line[1:] for line in cells("real_temperatures")[2:]}
    assert of["lines, start"] == ["0", "0.15 (0.10 to 0.20)", "-"]
    assert of["lines, rest"] == ["0.8", "0.65 (0.60 to 0.70)", "-"]
    assert of["story"] == ["1", "-", "0.55 (0.50 to 0.60)"]


def test_settings_from_a_twentieth_up_the_commonest_first():
    assert cells("real_settings")[2:] == [["lines, start", "min_p=0.1 77%, 0.0 20%"]]


def test_the_study_shows_the_first_and_the_last_round():
    """Means over decoders: 0.3 + (0 + 0.02) / 2, and 0.3 more in round 3 of 0 to 3; of validation
    prompts a tenth above the first decoder's."""
    lines = cells("real_study")[2:]
    assert [line[0] for line in lines] == [
        "lines: 7 updates a round, 4 rounds", "lines: 20 updates a round",
        "mix: 7 updates a round, 4 rounds", "mix: 20 updates a round"]
    assert [line[2] for line in lines] == ["0.300", "0.400", "0.500", "0.600"]
    assert {line[3] for line in lines} == {"0.31 -> 0.61"}
    assert [line[1].split()[0] for line in lines] == ["0.300", "-0.500", "-", "0.700"]
    assert lines[0][4] == "0.15 (0.10 to 0.20); 0.65 (0.60 to 0.70)"
    assert lines[2][4] == "0.25 (0.20 to 0.30); 0.55 (0.50 to 0.60)"  # the list is left out


def test_memory_is_the_largest_and_the_source_names_each_machine_once():
    assert cells("real_cost")[2:] == [["lines, token level, temperatures", "4.2"]]
    assert real_tables.TABLES["real_source"](REAL) == (
        "2 decoders each, 9 test prompts x 4 responses, 4 rounds of 11 prompts x 5; M, torch 2.")
    named = REAL | dict(config=REAL["config"] | dict(model="x"))
    assert real_tables.SECOND["second_source"](named).startswith("x: 2 decoders each, 9 test")


def texts(figure):
    return [x.get_text() for axis in figure.axes for x in axis.texts]


def test_each_token_of_the_text_has_its_colour():
    figure = real_tables.text(REAL)
    drawn = {x.get_text(): x.get_bbox_patch() for x in figure.axes[0].texts}
    assert [x for x in texts(figure) if x.strip()][2:] == ["Do", " go", ",", "Do"]
    for token, tau in (("Do", 0.0), (" go", 0.8), (",", 0.4)):
        assert drawn[token].get_facecolor() == pytest.approx(real_tables.SHADES(tau / 0.8))
    heights = {x.get_text(): x.get_position()[1] for x in figure.axes[0].texts[2:-1]}
    assert heights["Do"] == heights[" go"] < figure.axes[0].texts[-1].get_position()[1]


def test_the_rounds_are_drawn_from_their_own_recipe_and_metric():
    axes = real_tables.rounds(REAL).axes
    assert [axis.get_title() for axis in axes] == ["lines, token level"] * 2 + [
        "mix, sequence level"] * 2
    for axis, start in zip(axes, (0.31, 0.51, 0.31, 0.51)):
        assert len(axis.lines) == 2
        assert [line.get_label() for line in axis.lines] == ["7 updates a round, 4 rounds",
                                                             "20 updates a round"]
        for line in axis.lines:
            assert line.get_xdata().tolist() == [1, 4]
            assert line.get_ydata() == pytest.approx([start, start + 0.3])
