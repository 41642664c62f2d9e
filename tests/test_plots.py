"""What the figures draw, and the questions they ask of the table, on rows whose values all differ.

Each table also holds rows that are none of the figure's business (another variant, temperatures
chosen greedily, another side or subtask), with values that no expected number contains.
"""
import json
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure

from results import sweep_plots
from toy import plots, rows
from toy.rows import row

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#555555"
STRANGE = 1000.0


def made(found, experiments=("mix",), choices=(0.0, 1.5), **more):
    """Results as a run saves them, of some rows."""
    config = dict(experiments=experiments, levels=("token", "sequence"),
                  variants=("latent", "nll"), choices=choices)
    return dict(config=config, rows=found) | more


def of_decoder(metric, value, **columns):
    """A row of a single decoder, beside those of a rival loss and of greedy choices."""
    of = dict(policy="adaptive", select="sample", variant="latent", base_seed=0, seed=0,
              experiment="mix") | columns
    return [row(metric, STRANGE, 1, **of | dict(variant="nll")),
            row(metric, STRANGE, 1, **of | dict(select="greedy")), row(metric, value, 1, **of)]


def of_all(metric, value, low, high, **columns):
    """A mean over all runs with its interval, and rows of others as above."""
    return sum((of_decoder(metric + end, x, **dict(base_seed=None, seed=None) | columns)
                for end, x in (("", value), ("_low", low), ("_high", high))), [])


def fixed(metric, temperature, values, **columns):
    """A fixed temperature, a value for each base model."""
    return [row(metric, x, 1, policy="fixed", temperature=temperature, base_seed=i,
                **dict(experiment="mix") | columns) for i, x in enumerate(values)]


# --- what is drawn, read back from the axes -------------------------------------------------------


def listed(xs):
    return [round(float(x), 6) for x in xs]


def bars(axis):
    """[(label, colour, centres, heights, width)]"""
    found = []
    for group in axis.containers:
        assert isinstance(group, BarContainer)
        found.append((group.get_label(), to_hex(group[0].get_facecolor()),
                      listed(bar.get_x() + bar.get_width() / 2 for bar in group),
                      listed(bar.get_height() for bar in group), round(group[0].get_width(), 6)))
    return found


def curves(axis):
    """{label: (x values, y values, colour, line style)} of what has a label."""
    return {line.get_label(): (listed(line.get_xdata()), listed(line.get_ydata()),
                               to_hex(line.get_color()), line.get_linestyle())
            for line in axis.lines if not line.get_label().startswith("_")}


def runs(axis):
    """The points of single runs, (x, y)."""
    return [point for line in axis.lines if line.get_marker() == "."
            for point in zip(listed(line.get_xdata()), listed(line.get_ydata()))]


def levels_across(axis):
    """Horizontal lines, dots and curves aside: (y, colour)."""
    return [(round(line.get_ydata()[0], 6), to_hex(line.get_color())) for line in axis.lines
            if list(line.get_xdata()) == [0, 1] and line.get_marker() == "None"]


def bands(axis):
    """Filled spans (low, high, colour)."""
    return [(round(p.get_y(), 6), round(p.get_y() + p.get_height(), 6), to_hex(p.get_facecolor()))
            for p in axis.patches]


def errors(axis):
    """{label: (x values, values, lows, highs, colour, line style)} of error bars."""
    found = {}
    for group in axis.containers:
        assert isinstance(group, ErrorbarContainer)
        line, _, (bar,) = group
        ends = np.array(bar.get_segments())[:, :, 1].T
        found[group.get_label()] = (listed(line.get_xdata()), listed(line.get_ydata()),
                                    listed(ends[0]), listed(ends[1]), to_hex(line.get_color()),
                                    line.get_linestyle())
    return found


def ticks(axis):
    """[(place, label)] along x."""
    return [(round(float(x), 6), label.get_text())
            for x, label in zip(axis.get_xticks(), axis.get_xticklabels())]


def share_y(figure):
    """Have all panels one scale, so that heights compare across them?"""
    first, *others = figure.axes
    return all(first.get_shared_y_axes().joined(first, axis) for axis in others)


def legend(figure):
    """The texts of the figure's one legend."""
    one, = figure.legends
    return [text.get_text() for text in one.get_texts()]


# --- the figures of a run -------------------------------------------------------------------------


def test_bars_of_temperatures_are_shares_by_role():
    """Token level: a bar for each role, the rest last and paler; sequence level: one for all words.
    Dots are two seeds. Bugs: shares of pairs (side), roles in the sequence level, rows and columns
    of panels swapped, bars of another temperature."""
    def shares(level, subtask, role, cold, hot, **more):
        return [one for tau, values in ((1.5, hot), (0.0, cold)) for seed, x in enumerate(values)
                for one in of_decoder("temperature_share", x, level=level, subtask=subtask,
                                      role=role, tau=tau, seed=seed, **more)]
    results = made([*shares("sequence", "vote", None, (0.2, 0.4), (0.8, 0.6)),
                    *shares("sequence", "vote", "way", (0.05,), (0.95,)),
                    *shares("token", "vote", None, (0.5,), (0.5,)),
                    *shares("token", "vote", "rest", (0.11, 0.13), (0.89, 0.87)),
                    *shares("token", "vote", "way", (0.7,), (0.3,)),
                    *shares("token", "vote", "way", (9,), (9,), side="chosen"),
                    *shares("token", "math", None, (0.25,), (0.75,)),
                    *shares("token", "math", "rest", (0.26,), (0.74,)),
                    *shares("sequence", "math", None, (0.15,), (0.85,))])
    figure = plots.temperatures(results)
    top_vote, top_math, low_vote, low_math = figure.axes
    paler = to_hex([1 - (1 - x) * 0.38 for x in (0, 0x72 / 255, 0xb2 / 255)])
    assert bars(top_vote) == [("way", BLUE, [-0.21, 0.79], [0.7, 0.3], 0.42),
                              ("rest", paler, [0.21, 1.21], [0.12, 0.88], 0.42)]
    assert runs(top_vote) == [(0.21, 0.11), (0.21, 0.13), (1.21, 0.89), (1.21, 0.87)]
    assert [t.get_text() for t in top_vote.get_legend().get_texts()] == ["way", "rest"]
    (_, colour, *drawn), = bars(top_math)
    assert (colour, drawn) == (BLUE, [[0, 1], [0.25, 0.75], 0.84])
    (_, colour, *drawn), = bars(low_vote)
    assert (colour, drawn) == (ORANGE, [[0, 1], [0.3, 0.7], 0.84])
    assert runs(low_vote) == [(0, 0.2), (0, 0.4), (1, 0.8), (1, 0.6)]
    assert top_math.get_legend() is low_vote.get_legend() is None
    assert ticks(low_vote) == [(0, "0"), (1, "1.5")]
    assert [axis.get_title() for axis in figure.axes] == ["vote", "math", "", ""]
    assert top_vote.get_ylabel().startswith("token") and top_math.get_ylabel() == ""
    assert low_vote.get_ylabel().startswith("sequence")
    assert top_vote.get_ylim() == (0, 1.35) and list(top_vote.get_yticks()) == [0, 0.5, 1]
    assert figure.get_supxlabel() == "temperature" and share_y(figure)
    assert figure.get_suptitle().startswith("The temperatures that were learned")
    assert listed(figure.get_size_inches()) == [4.1, 4.5]
    assert bars(low_math)[0][3] == [0.15, 0.85]
    assert plots.temperatures(made([])) is None


def test_temperatures_have_a_row_a_level_and_a_column_a_subtask():
    """Three subtasks at one level, and then at both. Bug: levels across, so that panels are left
    over or go missing."""
    for levels in (("token",), ("token", "sequence")):
        figure = plots.temperatures(made(sum((of_decoder(
            "temperature_share", 0.5, level=level, subtask=subtask, tau=1.5)
            for level in levels for subtask in "abc"), [])))
        places = [axis.get_subplotspec() for axis in figure.axes]
        assert [(place.rowspan.start, place.colspan.start) for place in places] == [
            (row, column) for row in range(len(levels)) for column in range(3)]
        assert [axis.get_title() for axis in figure.axes[:3]] == [*"abc"]
        labelled = [bool(axis.get_ylabel()) for axis in figure.axes]
        assert labelled == [True, False, False] * len(levels)


def test_every_subtask_has_a_panel():
    """Four and five of them, three or four a row. Bug: as many panels as a row has."""
    experiments = [*"abcd"]
    results = made([one for e in experiments for one in [
        *fixed("reward", 0.0, (0.1,), subtask=e, experiment=e),
        *fixed("aside", 0.0, (0.1,), experiment=e),
        *of_decoder("mean_temperature", 0.5, level="token", subtask=e, place="verb"),
        *of_all("win_rate", 0.5, 0.4, 0.6, level="token", experiment=e, temperature=0.0),
        *sides("token", [(0.1,)] * 3, [(0.2,)] * 3, experiment=e)]], experiments=experiments)
    for make, columns in ((plots.rewards, 3), (plots.places, 3), (plots.metrics, 3),
                          (plots.win_rates, 4), (plots.pairs, 4)):
        figure = make(results)
        shown = [axis.get_title() for axis in figure.axes if axis.axison]
        assert [title[0] for title in shown] == experiments, make
        assert max(axis.get_subplotspec().colspan.stop for axis in figure.axes) == columns


def test_means_at_places_stand_in_the_order_in_which_they_come():
    """A place that one level never reached leaves a gap there. Bugs: means of roles; another
    subtask's; the levels' colours; points moved up where one is missing."""
    def at(level, subtask, place, *values):
        return [one for seed, x in enumerate(values) for one in
                of_decoder("mean_temperature", x, level=level, subtask=subtask, place=place,
                           seed=seed)]
    results = made([*of_decoder("mean_temperature", 77, level="token", subtask="a", role="rest"),
                    *at("token", "a", "verb", 0.5, 0.7), *at("token", "a", "to", 0.1),
                    *at("token", "a", "stop", 0.4), *at("sequence", "a", "verb", 0.9),
                    *at("sequence", "a", "stop", 1.1, 1.3), *at("token", "b", "sum", 0.25)])
    figure = plots.places(results)
    first, second = figure.axes
    assert curves(first) == {"token level": ([0, 1, 2], [0.6, 0.1, 0.4], BLUE, "-"),
                             "sequence level": ([0, 2], [0.9, 1.2], ORANGE, "--")}
    assert runs(first) == [(0, 0.5), (0, 0.7), (2, 1.1), (2, 1.3)]
    assert ticks(first) == [(0, "verb"), (1, "to"), (2, "stop")]
    assert curves(second)["token level"][:2] == ([0], [0.25])
    assert ticks(second) == [(0, "sum")]
    assert (first.get_title(), second.get_title()) == ("a", "b")
    assert listed(first.get_ylim()) == [-0.05, 1.55]
    assert first.get_ylabel() == "mean temperature" and second.get_ylabel() == ""
    assert share_y(figure)
    assert figure.get_suptitle() == "Mean temperature at each place of a sentence"
    assert legend(figure) == ["token level", "sequence level"]
    assert plots.places(made([])) is None


def test_rewards_stand_against_the_fixed_temperatures_of_their_subtask():
    """mix has two subtasks, each with intervals of its own; vote is alone, its interval the
    whole's. Bugs: the whole's curve in a panel; ends of a band swapped or of another level; the
    oracle of votes; a scale of 100."""
    whole = dict(experiment="vote", subtask=None)
    results = made(
        [*fixed("reward", 0.0, (9,)), *fixed("reward", 1.5, (9,)),
         *fixed("reward", 1.5, (0.5, 0.7), subtask="math"),
         *fixed("reward", 0.0, (0.1, 0.2), subtask="math"),
         *fixed("cut", 0.0, (8,), subtask="math"),
         *fixed("reward", 0.0, (0.35,), subtask="story"),
         *fixed("reward", 0.0, (0.45,), subtask="vote", experiment="vote"),
         *of_all("reward", 0.62, 0.61, 0.64, level="token", subtask="math"),
         *of_all("oracle", 0.82, 0.80, 0.83, level="token", subtask="math"),
         *of_all("reward", 0.52, 0.50, 0.55, level="sequence", subtask="math"),
         *of_all("oracle", 0.92, 0.90, 0.93, level="sequence", subtask="math"),
         *of_all("reward", 0.22, 0.21, 0.24, level="token", subtask="story"),
         *of_all("reward", 0.12, 0.11, 0.14, level="sequence", **whole),
         *of_all("oracle", 0.75, 0.71, 0.76, level="sequence", **whole),
         *of_all("oracle", 0.32, 0.31, 0.34, level="sequence", votes=8, **whole)],
        experiments=("mix", "vote"))
    figure = plots.rewards(results)
    math, story, vote = figure.axes
    drawn = curves(math)
    assert drawn.pop("fixed temperature") == ([0, 1.5], [0.15, 0.6], GREY, "-")
    assert {label: (y, *style) for label, (_, y, *style) in drawn.items()} == {
        "adaptive, token level": ([0.62] * 2, BLUE, "-"),
        "adaptive, sequence level": ([0.52] * 2, ORANGE, "--"),
        "oracle per role": ([0.82] * 2, GREEN, ":")}
    assert bands(math) == [(0.61, 0.64, BLUE), (0.5, 0.55, ORANGE), (0.8, 0.83, GREEN)]
    assert runs(math) == [(0, 0.1), (0, 0.2), (1.5, 0.5), (1.5, 0.7)]
    assert curves(story)["fixed temperature"][:2] == ([0], [0.35]) and runs(story) == []
    assert bands(story) == [(0.21, 0.24, BLUE)]
    assert curves(vote)["fixed temperature"][:2] == ([0], [0.45])
    assert bands(vote) == [(0.11, 0.14, ORANGE), (0.71, 0.76, GREEN)]
    assert [axis.get_title() for axis in figure.axes] == ["math", "story", "vote"]
    assert [axis.get_ylabel() for axis in figure.axes] == ["mean reward", "", ""]
    assert {axis.get_xlabel() for axis in figure.axes} == {"fixed temperature"}
    assert legend(figure) == ["fixed temperature", "adaptive, token level",
                              "adaptive, sequence level", "oracle per role"]
    assert figure.get_suptitle().startswith("Reward of every fixed temperature")


def test_win_rates_are_in_per_cent_with_the_ends_of_their_intervals():
    """A level without rows is left out. Bugs: low and high swapped; shares; the levels' shifts;
    another temperature's; a subtask's for the whole's."""
    of = dict(level="token", subtask=None)
    results = made([*of_all("win_rate", 0.6, 0.55, 0.75, temperature=0.0, **of),
                    *of_all("win_rate", 0.4, 0.3, 0.45, temperature=1.5, **of),
                    *of_all("win_rate", 0.1, 0.0, 0.2, temperature=0.0, level="token",
                            subtask="math"),
                    *of_all("win_rate", 0.7, 0.68, 0.71, temperature=0.0, level="sequence"),
                    *of_all("win_rate", 0.8, 0.77, 0.81, temperature=1.5, level="sequence"),
                    *of_all("win_rate", 0.9, 0.87, 0.99, temperature=0.0, experiment="vote", **of),
                    *of_all("win_rate", 0.5, 0.5, 0.5, temperature=1.5, experiment="vote", **of)],
                   experiments=("mix", "vote"))
    figure = plots.win_rates(results)
    mix, vote = figure.axes
    assert errors(mix) == {
        "token level": ([-0.12, 0.88], [60, 40], [55, 30], [75, 45], BLUE, "-"),
        "sequence level": ([0.12, 1.12], [70, 80], [68, 77], [71, 81], ORANGE, "-")}
    assert errors(vote) == {
        "token level": ([-0.12, 0.88], [90, 50], [87, 50], [99, 50], BLUE, "-")}
    assert levels_across(mix) == levels_across(vote) == [(50, "#000000")]
    assert ticks(mix) == [(0, "0"), (1, "1.5")]
    assert [axis.get_title() for axis in figure.axes] == ["mix", "vote"]
    assert mix.get_ylabel().startswith("win rate, %") and mix.get_xlabel() == "fixed temperature"
    assert legend(figure) == ["token level", "sequence level"] and share_y(figure)
    assert figure.get_suptitle().startswith("Win rate of the adaptive decoder against each fixed")
    assert {line.get_linewidth() for line in mix.lines if line.get_marker() == "o"} == {0}


def sides(level, chosen, rejected, **columns):
    return [one for side, groups in (("chosen", chosen), ("rejected", rejected))
            for tau, values in zip((0.0, 0.5, 1.5), groups) for seed, x in enumerate(values)
            for one in of_decoder("temperature_share", x, level=level, side=side, tau=tau,
                                  seed=seed, **dict(round=0) | columns)
            if one["select"] == "sample"]


def test_pairs_of_round_one_are_chosen_beside_rejected():
    """Sequence level where there is one. Bugs: sides swapped; another round or variant; dots of
    the other side; the line of an even draw elsewhere than at 1 / K."""
    results = made([*sides("token", [(0.1,)] * 3, [(0.2,)] * 3),
                    *sides("sequence", [(STRANGE,)] * 3, [(STRANGE,)] * 3, round=1),
                    *sides("sequence", [(0.5, 0.6), (0.3,), (0.2,)],
                           [(0.25,), (0.35,), (0.1, 0.7)]),
                    *of_decoder("temperature_share", STRANGE, level="sequence", tau=0.0)])
    figure = plots.pairs(results)
    axis, = figure.axes
    assert bars(axis) == [("chosen", "#000000", [-0.21, 0.79, 1.79], [0.55, 0.3, 0.2], 0.4),
                          ("rejected", "#ffffff", [0.21, 1.21, 2.21], [0.25, 0.35, 0.4], 0.4)]
    edges = {to_hex(bar.get_edgecolor(), True) for group in axis.containers for bar in group}
    assert edges == {"#000000ff"}  # or the white ones would not be seen
    assert runs(axis) == [(2.21, 0.1), (2.21, 0.7)]
    assert levels_across(axis) == [(0.333333, GREY)]
    assert ticks(axis) == [(0, "0"), (1, "0.5"), (2, "1.5")]
    assert axis.get_title() == "mix" and axis.get_ylabel() == "share of responses"
    assert figure.get_suptitle() == "Temperatures in the pairs of round one, sequence level"
    assert set(legend(figure)) == {"chosen", "rejected", "as drawn: all alike"}
    figure = plots.pairs(made(sides("token", [(0.1,)] * 3, [(0.2,)] * 3)))
    assert bars(figure.axes[0])[0][3] == [0.1] * 3
    assert figure.axes[0].get_ylabel() == "share of tokens"
    assert figure.get_suptitle().endswith("token level")
    assert plots.pairs(made([])) is None


def test_words_stand_on_the_colour_of_their_own_temperature():
    """The first sample of the first variant's token level, a line for the prompt, a new line before
    a word that would pass column 92; dark words on bright temperatures. Bugs: temperatures moved
    by a word; another level's sample; colours not of the hottest's share; words on each other."""
    def sample(subtask, words, taus, **columns):
        return dict(variant="latent", level="token", subtask=subtask, prompt=f"ask {subtask} :",
                    words=words, temperatures=taus) | columns
    long = ["w" * 22, "x" * 22, "y" * 22, "z" * 22, "end"]  # 4 x 23 = 92, and 3 more
    samples = [sample("math", ["no"], [0.0], variant="nll"),
               sample("math", ["no"], [0.0], level="sequence"),
               sample("math", ["7", "four", "."], [0.0, 1.5, 0.75]),
               sample("math", ["no"], [1.5]), sample("story", long, [0.5, 0.5, 0.5, 0.5, 1.5])]
    figure = plots.text(made([], samples=samples, choices=(0.0, 0.5, 1.5)))
    axis, bar = figure.axes
    cividis = matplotlib.colormaps["cividis"]
    found = [(t.get_text(), *listed(t.get_position()), t.get_color(), None if t.get_bbox_patch()
              is None else to_hex(t.get_bbox_patch().get_facecolor())) for t in axis.texts
             if t.get_text()]

    def on(share):
        return to_hex(cividis(share))
    assert found == [
        ("math", 0.5, 0, "black", None), ("ask math :", 13, 0, "black", None),
        ("7", 13, 1, "white", on(0.0)), ("four", 14.96, 1, "black", on(1.0)),
        (".", 19.86, 1, "black", on(0.5)),
        ("story", 0.5, 2, "black", None), ("ask story :", 13, 2, "black", None),
        *[(word, round(13 + 22.54 * i, 6), 3, "white", on(1 / 3)) for i, word in
          enumerate(long[:4])],
        ("end", 13, 4, "black", on(1.0))]
    assert listed(axis.get_ylim()) == [5, -0.6] and listed(axis.get_xlim()) == [0, 112]
    assert bar.images[0].get_array().tolist() == [pytest.approx([0, 1 / 3, 1])]
    assert bar.images[0].get_clim() == (0, 1) and bar.images[0].get_cmap() == cividis
    assert ticks(bar) == [(0, "0"), (1, "0.5"), (2, "1.5")]
    assert bar.get_title().endswith("token level")
    figure = plots.text(made([], samples=samples[:2]))
    assert [t.get_text() for t in figure.axes[0].texts if t.get_text()] == ["math", "ask math :",
                                                                           "no"]
    assert figure.axes[1].get_title().endswith("sequence level")
    assert plots.text(made([], samples=samples[:1])) is None


def test_a_page_of_text_has_room_for_its_lines():
    """0.27 inches a line above 0.95 for the scale of colours, whose bar lies below the words and
    inside the page. Words of 45 and 46 letters make a line of 92 columns; one letter more, and the
    second begins the next line. Bugs: words outside the page, or beneath the bar."""
    for letters, lines in ((46, 3), (47, 4)):
        one = dict(variant="latent", level="token", subtask="math", prompt="ask :",
                   words=["a" * 45, "b" * letters, "c"], temperatures=[0.0, 0.5, 1.0])
        figure = plots.text(made([], samples=[one]))
        axis, bar = figure.axes
        rows_of = [t.get_position()[1] for t in axis.texts if t.get_text()]
        assert rows_of == [0, 0, 1, *((1, 2) if letters == 46 else (2, 2))]
        assert axis.get_ylim()[0] == 3
        height = 0.27 * 3 + 0.95
        assert listed(figure.get_size_inches()) == [9.3, round(height, 6)]
        assert listed(axis.get_position().bounds) == listed((0, 0.9 / height, 1,
                                                             1 - 0.9 / height))
        low, high = bar.get_position().y0 * height, bar.get_position().y1 * height
        assert 0.3 < low < high < 0.9 and 0 < bar.get_position().x0 < bar.get_position().x1 < 1


def test_sampler_settings_stand_by_name_behind_the_temperatures():
    """On an axis of numbers 0.5 stands at 0.5; beside a setting, by its rank. Bug: a setting
    without its name, or in a number's place."""
    of = dict(experiment="mix", subtask="math")
    of_fixed = [*fixed("reward", "top_p=0.9", (0.7, 0.9), **of),
                *fixed("reward", 1.5, (0.6,), **of), *fixed("reward", 0.0, (0.2,), **of)]
    results = made([*of_fixed, *of_all("reward", 0.6, 0.5, 0.7, level="token", subtask=None)])
    axis, = plots.rewards(results).axes
    assert curves(axis)["fixed temperature"][:2] == ([0, 1, 2], [0.2, 0.6, 0.8])
    assert ticks(axis) == [(0, "0"), (1, "1.5"), (2, "top_p=0.9")]
    assert runs(axis) == [(2, 0.7), (2, 0.9)]


def test_other_metrics_are_in_per_cent():
    """A panel for each metric of each experiment but those that have figures of their own.
    Bugs: a subtask's rows; a scale forgotten in the curve, its dots, the line or its band."""
    results = made([*fixed("reward", 0.0, (9,)), *fixed("cut", 0.0, (9,)),
                    *fixed("vote_accuracy", 0.0, (9,)), *fixed("learned", 0.0, (9,)),
                    *fixed("quality", 0.0, (0.2, 0.4)), *fixed("quality", 1.5, (0.55,)),
                    *fixed("quality", 1.5, (9,), subtask="math"),
                    *fixed("repeats", 0.0, (0.15,), experiment="vote"),
                    *of_all("quality", 0.62, 0.61, 0.64, level="token"),
                    *of_all("quality", 0.52, 0.50, 0.55, level="sequence"),
                    *of_all("quality", 0.1, 0.2, 0.3, level="token", subtask="math"),
                    *of_all("quality", 0.7, 0.6, 0.8, level="token", experiment="vote")],
                   experiments=("mix", "vote"))
    figure = plots.metrics(results)
    quality, repeats = figure.axes
    drawn = curves(quality)
    assert drawn["fixed temperature"] == ([0, 1.5], [30, 55], GREY, "-")
    assert runs(quality) == [(0, 20), (0, 40)]
    assert drawn["adaptive, token level"][1:] == ([62, 62], BLUE, "-")
    assert drawn["adaptive, sequence level"][1:] == ([52, 52], ORANGE, "--")
    assert bands(quality) == [(61, 64, BLUE), (50, 55, ORANGE)]
    assert curves(repeats) == {"fixed temperature": ([0], [15], GREY, "-")}
    assert [axis.get_title() for axis in figure.axes] == ["mix: quality", "vote: repeats"]
    assert quality.get_ylabel() == "%" and quality.get_xlabel() == "fixed temperature"
    assert figure.get_suptitle() == "What is measured beside the reward"
    assert plots.metrics(made([*fixed("reward", 0.0, (9,)), *fixed("cut", 0.0, (9,))])) is None


def test_votes_are_lines_over_their_number():
    """Four lines of one experiment, the oracle's and the best fixed one's of its first level.
    Bugs: lines that swap metrics; counts as places; ends swapped."""
    def voted(metric, level, two, eight):
        return [one for count, x in ((2, two), (8, eight)) for one in
                of_all(metric, x, x - 0.01, x + 0.02, level=level, votes=count, experiment="vote")]
    results = made([*fixed("vote_accuracy", 0.0, (0.9,), experiment="vote", votes=2),
                    *fixed("reward", 0.0, (0.9,)),
                    *voted("vote_accuracy", "token", 0.5, 0.75),
                    *voted("oracle", "token", 0.6, 0.9),
                    *voted("best_fixed", "token", 0.3, 0.4),
                    *voted("best_fixed", "sequence", 0.1, 0.2),
                    *voted("oracle", "sequence", 0.15, 0.25),
                    *voted("vote_accuracy", "sequence", 0.35, 0.45)], experiments=("mix", "vote"))
    figure = plots.votes(results)
    axis, = figure.axes
    assert errors(axis) == {
        "best fixed temperature of each count": ([2, 8], [30, 40], [29, 39], [32, 42], GREY, "-"),
        "oracle per role, searched at 8 votes": ([2, 8], [60, 90], [59, 89], [62, 92], GREEN, ":"),
        "adaptive, token level": ([2, 8], [50, 75], [49, 74], [52, 77], BLUE, "-"),
        "adaptive, sequence level": ([2, 8], [35, 45], [34, 44], [37, 47], ORANGE, "--")}
    assert ticks(axis) == [(2, "2"), (8, "8")] and axis.get_xscale() == "log"
    assert (axis.get_title(), axis.get_xlabel(), axis.get_ylabel()) == ("vote", "votes",
                                                                        "majority right, %")
    assert legend(figure) == list(errors(axis))
    assert figure.get_figwidth() == pytest.approx(5.6)
    assert plots.votes(made(fixed("reward", 0.0, (9,)))) is None


def test_panels_fill_rows_and_hide_the_rest():
    """Five of at most three a row: two rows, the sixth hidden; two of three: one row of two."""
    figure, axes = plots.panels(5, 3, 2.5)
    assert [axis.axison for axis in axes] == [True] * 5 + [False]
    assert listed(figure.get_size_inches()) == [9.3, 5.0]
    figure, axes = plots.panels(2, 3, 2.5)
    assert len(axes) == 2 and listed(figure.get_size_inches()) == [6.2, 2.5]


def test_one_legend_for_all_panels():
    """Each label once, in the order of appearance and as the first panel drew it, below; none where
    nothing has a label."""
    figure, axes = plots.panels(2, 2, 2)
    axes[0].plot([0], [0], color="red", label="a")
    axes[1].plot([0], [0], color="blue", label="b")
    axes[1].plot([0], [0], color="green", label="a")
    plots.legend_below(figure, axes, 3)
    one, = figure.legends
    assert [(text.get_text(), line.get_color()) for text, line in
            zip(one.get_texts(), one.get_lines())] == [("a", "red"), ("b", "blue")]
    figure, axes = plots.panels(1, 1, 2)
    plots.legend_below(figure, axes, 3)
    assert figure.legends == []


def test_tints_run_from_the_colour_towards_white():
    """The first is the colour, the last keeps 38 % of its distance from white, evenly between."""
    assert plots.tints("#000000", 3) == [pytest.approx([x] * 3) for x in (0, 0.31, 0.62)]
    assert plots.tints("#ff0000", 1) == [pytest.approx([1, 0, 0])]


def test_drawing_saves_what_there_is_and_removes_what_is_stale(tmp_path, monkeypatch, capsys):
    """In the project's style whatever the user's, which comes back; beside the file drawn from."""
    styles = []

    def make(results):
        styles.append((matplotlib.rcParams["font.size"], matplotlib.rcParams["axes.spines.top"],
                       matplotlib.rcParams["lines.linewidth"], results["rows"]))
        return Figure(figsize=(1, 0.5))
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 7)
    (tmp_path / "none.png").write_bytes(b"of an earlier run")
    source = tmp_path / "some.json"
    found = made([row("reward", 0.5, 3)])
    source.write_text(rows.to_json(found), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["plots", str(source)])
    plots.main("nowhere.json", {"one": make, "none": lambda results: None})
    assert capsys.readouterr().out == f"{tmp_path / 'one.png'}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "some.json"]
    assert matplotlib.image.imread(tmp_path / "one.png").shape[:2] == (60, 120)  # 120 dots an inch
    assert styles == [(10, False, 1.5, found["rows"])]
    assert matplotlib.rcParams["lines.linewidth"] == 7
    monkeypatch.setattr(sys, "argv", ["plots"])
    plots.main(source, {"two": make})
    assert (tmp_path / "two.png").exists()
    with pytest.raises(SystemExit, match="^error: .*nowhere.json is missing"):
        plots.main(tmp_path / "nowhere.json")


def test_each_figure_has_the_name_of_its_function():
    """The README and the notebooks ask by name."""
    assert {name: make.__name__ for name, make in plots.FIGURES.items()} == {
        name: name for name in ("text", "temperatures", "places", "rewards", "metrics",
                                "win_rates", "votes", "pairs")}


# --- the figures of the sweeps --------------------------------------------------------------------


def swept(sweep, metric, *values, **columns):
    """A row for each run, beside those of a sweep that is none of the figure's: at the same place,
    and at places that the figure's sweep never had."""
    other = dict(sweep="other", metric=metric, value=STRANGE)
    elsewhere = dict(columns, experiment="repeats", x=STRANGE, step=STRANGE)
    return [other | columns, other | elsewhere,
            *(dict(sweep=sweep, metric=metric, value=x, **columns) for x in values)]


def test_numbers_come_by_size_and_then_words_as_they_come():
    """The x values of the sweeps' figures, and which figures there are."""
    assert sweep_plots.ordered([2.0, "top-k", 0.5, "all", 1e3]) == [0.5, 2.0, 1e3, "top-k", "all"]
    assert list(sweep_plots.FIGURES) == ["sweep_pairs", "sweep_gradient", "sweep_latent",
                                         "sweep_separate", "sweep_unfrozen"]


def test_the_sweep_of_pairs_is_in_per_cent_of_the_headroom():
    """A line a loss, dotted for the arg-max, over numbers of pairs by size. Bugs: the two metrics
    or losses swapped; numbers in the order of the runs; a scale forgotten in lines or dots."""
    def at(experiment, variant, x, share, argmax):
        of = dict(experiment=experiment, variant=variant, x=x)
        return [*swept("pairs", "share", *share, **of),
                *swept("pairs", "share of the arg-max", argmax, **of)]
    figure = sweep_plots.pairs(dict(rows=[
        *at("mix", "latent", 100, (0.5, 0.7), 0.55), *at("mix", "latent", 20, (0.1,), 0.15),
        *at("mix", "nll", 20, (0.3,), 0.35), *at("vote", "latent", 20, (0.9,), 0.95)]))
    mix, vote = figure.axes
    assert curves(mix) == {"latent": ([20, 100], [10, 60], "#6a3d9a", "-"),
                           "latent, arg-max": ([20, 100], [15, 55], "#6a3d9a", ":"),
                           "NLL": ([20], [30], "#999999", "-"),
                           "NLL, arg-max": ([20], [35], "#999999", ":")}
    assert runs(mix) == [(100, 50), (100, 70)]
    assert levels_across(mix) == [(0, "#000000"), (100, GREEN)]
    assert curves(vote)["latent"][1] == [90]
    assert [axis.get_title() for axis in figure.axes] == ["mix, sequence level",
                                                          "vote, token level"]
    assert mix.get_xscale() == "log" and [t for t in ticks(mix) if t[1]] == [
        (10, "10"), (100, "100"), (1000, "1000")]
    assert mix.get_ylabel() == "share of the headroom, %"
    assert sweep_plots.pairs(dict(rows=[])) is None


def test_the_gradients_bars_stand_by_experiment_and_loss():
    """Signal, noise and their ratio in three panels; a loss without rows leaves its place free."""
    def of(experiment, variant, signal, noise, ratio):
        at = dict(experiment=experiment, variant=variant)
        return [*swept("gradient", "signal", *signal, **at),
                *swept("gradient", "noise", noise, **at),
                *swept("gradient", "signal to noise", ratio, **at)]
    figure = sweep_plots.gradient(dict(rows=[
        *of("mix", "latent", (1, 3), 4, 5), *of("vote", "latent", (6,), 7, 8),
        *of("vote", "nll", (9,), 10, 11), *of("mix", "latent, exact", (12,), 13, 14)]))
    for axis, latent, nll, exact in zip(figure.axes, ([2, 6], [4, 7], [5, 8]), (9, 10, 11),
                                        (12, 13, 14)):
        assert bars(axis) == [("latent", "#6a3d9a", [-0.3, 0.7], latent, 0.19),
                              ("NLL", "#999999", [1.1], [nll], 0.19),
                              ("latent, exact", "#cc79a7", [0.3], [exact], 0.19)]
        assert ticks(axis) == [(0, "mix"), (1, "vote")]
    assert runs(figure.axes[0]) == [(-0.3, 1), (-0.3, 3)] and runs(figure.axes[1]) == []
    assert [axis.get_title() for axis in figure.axes] == [
        "norm of the mean gradient", "deviation of one pair's gradient",
        "signal to noise of one pair"]
    assert sweep_plots.gradient(dict(rows=[])) is None


@pytest.mark.parametrize("variant, other, colour", [("latent", "separate", "#6a3d9a"),
                                                    ("separate", "latent", "#b8860b")])
def test_one_option_changed_is_a_panel(variant, other, colour):
    """Numbers by size and evenly, words as they come and without a line. Bugs: another loss or
    option; a value at another's place; the per cent."""
    def at(setting, experiment, x, *values):
        of = dict(setting=setting, experiment=experiment, x=x)
        return [*swept("change", "share", *values, variant=variant, **of),
                *swept("change", "share", STRANGE, variant=other, **of),
                *swept("change", "reward", STRANGE, variant=variant, **of)]
    figure = sweep_plots.FIGURES[f"sweep_{variant}"](dict(rows=[
        *at("beta", "mix", 2.0, 0.5, 0.7), *at("beta", "mix", 0.1, 0.2),
        *at("beta", "vote", 0.5, 0.3), *at("beta", "vote", 2.0, 0.4),
        *at("pairing", "mix", "top-k", 0.8), *at("pairing", "mix", "all", 0.9),
        *[one for name in ("lr", "responses", "rounds", "reference")
          for one in at(name, "mix", 1.0, 0.1)]]))
    beta, pairing = figure.axes[0], figure.axes[4]
    assert curves(beta) == {"mix": ([0, 2], [20, 60], colour, "-"),
                            "vote": ([1, 2], [30, 40], colour, "-")}
    assert runs(beta) == [(2, 50), (2, 70)]
    assert ticks(beta) == [(0, "0.1"), (1, "0.5"), (2, "2")]
    assert listed(beta.get_xlim()) == [-0.4, 2.4]
    assert curves(pairing)["mix"][:2] == ([0, 1], [80, 90])
    assert ticks(pairing) == [(0, "top-k"), (1, "all")]
    assert [next(line for line in axis.lines if line.get_label() == "mix").get_linewidth()
            for axis in (beta, pairing)] == [1.1, 0]
    assert (0, "#000000") in levels_across(beta) and (100, GREEN) in levels_across(beta)
    assert [axis.get_xlabel() for axis in figure.axes] == [
        "beta", "learning rate", "responses a prompt", "rounds (720 prompts in all)", "pairing",
        "reference"]
    assert figure.get_suptitle().endswith(sweep_plots.LOSS_NAMES[variant])


def test_the_unfrozen_models_rewards_and_log_ratios():
    """Left over learning rates, 0 said as frozen; right the chosen and the rejected of two settings
    at the highest rate. Bugs: sides swapped; a lower rate's; steps in the order of the rows."""
    def ratio(setting, side, x, step, *values):
        return swept("unfrozen", f"{side} log-ratio", *values, setting=setting, x=x, step=step)
    figure = sweep_plots.unfrozen(dict(rows=[
        *swept("unfrozen", "reward", 0.5, 0.7, setting="joint", x=1e-3),
        *swept("unfrozen", "reward", 0.2, setting="joint", x=0.0),
        *swept("unfrozen", "reward", 0.3, setting="joint, KL 1", x=1e-3),
        *swept("unfrozen", "reward", 0.4, setting="joint", x=1e-4),
        *ratio("joint", "chosen", 1e-3, 20, -2, -4), *ratio("joint", "chosen", 1e-3, 0, -1),
        *ratio("joint", "rejected", 1e-3, 0, -7), *ratio("joint", "chosen", 1e-4, 0, -9),
        *ratio("joint, KL 1", "chosen", 1e-3, 0, -5),
        *ratio("joint, KL 1", "rejected", 1e-3, 20, -6)]))
    left, right = figure.axes
    assert curves(left) == {"joint": ([0, 1, 2], [0.2, 0.4, 0.6], "#b8860b", "-"),
                            "joint, KL 1": ([2], [0.3], GREEN, "--")}
    assert runs(left) == [(2, 0.5), (2, 0.7)]
    assert ticks(left) == [(0, "frozen"), (1, "0.0001"), (2, "0.001")]
    assert curves(right) == {"joint, chosen": ([0, 20], [-1, -3], "#b8860b", "-"),
                             "joint, rejected": ([0], [-7], "#b8860b", "--"),
                             "joint, KL 1, chosen": ([0], [-5], GREEN, "-"),
                             "joint, KL 1, rejected": ([20], [-6], GREEN, "--")}
    assert right.get_title() == "Model learning rate 0.001" and left.get_title() == "Reward"
    assert sweep_plots.unfrozen(dict(rows=swept("pairs", "share", 1.0))) is None


# --- the table ------------------------------------------------------------------------------------


def test_a_row_has_every_column_and_no_other():
    """Unnamed columns are None; a value is a float and n whole, also from numpy."""
    found = row("reward", np.float32(0.5), np.int64(3), level="token", votes=8)
    assert list(found) == list(rows.COLUMNS) and type(found["n"]) is int
    assert type(found["value"]) is float
    assert {name: x for name, x in found.items() if x is not None} == dict(
        level="token", votes=8, metric="reward", value=0.5, n=3)
    with pytest.raises(AssertionError, match="levle"):
        row("reward", 1, 1, levle="token")


def test_questions_by_hand():
    """A tuple offers several values, None is a value, a column that is not there is None; known
    keeps the order of appearance and leaves None out."""
    table = dict(rows=[dict(metric="a", level="token", votes=None, value=1),
                       dict(metric="a", level="sequence", votes=8, value=2),
                       dict(metric="b", level="token", value=3),
                       dict(metric="a", level=None, votes=2, value=4)])
    assert rows.values(table, metric="a") == [1, 2, 4]
    assert rows.values(table, metric="a", level=("token", "sequence")) == [1, 2]
    assert rows.values(table, votes=None) == [1, 3]
    assert rows.values(table, votes=(None, 2)) == [1, 3, 4]
    assert rows.values(table, metric="b", level="sequence") == []
    assert rows.values(table) == [1, 2, 3, 4] and rows.values(table, side=None, votes=2) == [4]
    assert rows.where(table, metric="b") == [table["rows"][2]]
    assert rows.known(table, "level") == ["token", "sequence"]
    assert rows.known(table, "votes", metric="a") == [8, 2]


def test_single_decoders_and_intervals_are_told_apart():
    """Rows of one decoder name their base model, means over all do not; both are of the first
    variant, temperatures sampled, unless asked otherwise."""
    table = made([*of_decoder("reward", 0.25, level="token"),
                  *of_all("reward", 0.5, 0.375, 0.75, level="token"), *fixed("reward", 0.0, (0.1,)),
                  *of_decoder("reward", 0.3, level="token", base_seed=1)])
    assert [one["value"] for one in rows.single(table, metric="reward")] == [0.25, 0.3]
    assert [one["value"] for one in rows.single(table, metric="reward", variant="nll")] == [
        STRANGE] * 2
    assert len(rows.single(table, metric="reward", select="greedy")) == 2
    assert rows.interval(table, "reward", level="token") == (0.5, 0.375, 0.75)
    assert rows.interval(table, "reward", level="token", variant="nll") == (STRANGE,) * 3
    assert rows.interval(table, "reward", level="sequence") is None
    table["rows"] += of_all("reward", 0.6, 0.5, 0.7, level="token", subtask="math")
    assert rows.interval(table, "reward", subtask="math") == (0.6, 0.5, 0.7)
    with pytest.raises(AssertionError, match="reward"):
        rows.interval(table, "reward")  # of two kinds: ask for one
    table["rows"] = [one for one in table["rows"] if one["metric"] != "reward_low"]
    with pytest.raises(AssertionError, match="reward"):
        rows.interval(table, "reward", subtask="math")


def test_the_file_is_names_once_and_then_lists(tmp_path):
    """What is saved comes back, with a column that one row lacks; a checksum of an earlier saving
    is not kept; another schema, a changed number or a lost column is an error."""
    results = dict(config=dict(rounds=2), rows=[dict(metric="a", value=0.5),
                                                dict(metric="b", value=1.5, votes=8)])
    text = rows.to_json(results | dict(crc32=5))
    saved = json.loads(text)
    assert saved["columns"] == ["metric", "value", "votes"]
    assert saved["rows"] == [["a", 0.5, None], ["b", 1.5, 8]] and saved["schema"] == rows.SCHEMA
    path = tmp_path / "results.json"
    path.write_text(text, encoding="utf-8")
    assert rows.load(path) == dict(
        config=dict(rounds=2), schema=rows.SCHEMA,
        rows=[dict(metric="a", value=0.5, votes=None), dict(metric="b", value=1.5, votes=8)])
    assert rows.to_json(rows.load(path)) == text
    damaged = [text.replace("1.5", "1.25"), text.replace('"votes"', '"sides"'), text[:-1], "[]"]
    body = {name: x for name, x in saved.items() if name != "crc32"} | dict(schema=1)
    damaged += [json.dumps(body), json.dumps(body | dict(crc32=rows.checksum(body)))]
    for one in damaged:
        path.write_text(one, encoding="utf-8")
        with pytest.raises(ValueError, match="make it anew"):
            rows.load(path)
    with pytest.raises(ValueError, match="schema 1"):  # its checksum is right
        rows.load(path)


def test_the_summary_says_each_number_in_its_column():
    """The whole's rewards: no subtask's, no votes', of the first level where both have it."""
    found = []
    for experiment, shift in (("mix", 0), ("vote", 0.5)):
        for level, more in (("sequence", 0), ("token", 0.05)):
            for i, metric in enumerate(("reward", "best_fixed", "oracle")):
                value = 0.1 * (i + 1) + more + shift
                found += of_all(metric, value, 8, 9, level=level, experiment=experiment)
                found += of_all(metric, 7, 8, 9, level=level, experiment=experiment,
                                subtask="math")
                found += of_all(metric, 7, 8, 9, level=level, experiment=experiment, votes=8)
    text = rows.summary(made(found, experiments=("vote", "mix"))).splitlines()
    table = [line.split("  ") for line in text[2:5]]
    assert [[cell.strip() for cell in line if cell.strip()] for line in table] == [
        ["experiment", "best fixed", "sequence level", "token level", "oracle"],
        ["vote", "0.700", "0.600", "0.650", "0.800"], ["mix", "0.200", "0.100", "0.150", "0.300"]]
    assert text[2:5] == ["experiment  best fixed  sequence level  token level  oracle",
                         "vote             0.700           0.600        0.650   0.800",
                         "mix              0.200           0.100        0.150   0.300"]
    assert text[1] == "mean reward on test prompts (latent, temperatures sampled)"
