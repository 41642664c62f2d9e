"""Tables and figures of the rivals, on rows whose values all differ."""
import pytest

from results import rival_plots, rival_tables
from results.objectives import OBJECTIVES
from results.rivals import COUNTS, FIXED, LATENT, NOISES, NOISY_OBJECTIVES, ORACLE
from results.rules import RULES

SETS = {"a": ["0"], "b": ["1"]}


def made(*found, experiments=("mix", "vote")):
    return dict(config=dict(experiments=experiments, sets=SETS, base_seeds=3, seeds=5,
                            test_prompts=240), rows=list(found), stages={})


def row(section, experiment, method, value, metric="reward", minus=None, share=False, **more):
    """The interval's ends are .01 below and .02 above."""
    return dict(section=section, experiment=experiment, method=method, metric=metric, minus=minus,
                share=share, value=value, low=value - 0.01, high=value + 0.02) | more


def valued(row, value):
    return dict(row, value=value, low=value - 0.01, high=value + 0.02)


def rules_of(experiment, metric="reward", top=0.5):
    """FIXED .1, ORACLE .9, the rules .2 and more, of which `top-p` is best."""
    rows = [row("rules", experiment, name, 0.2 + 0.01 * i, metric) for i, name in enumerate(RULES)]
    rows = [valued(r, top) if r["method"] == "top-p" else r for r in rows]
    return [row("rules", experiment, FIXED, 0.1, metric), *rows,
            row("rules", experiment, ORACLE, 0.9, metric)]


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_a_cell_is_the_one_row_that_is_wanted():
    """Bugs: a share or a difference in its place; ends swapped; two rows taken for one."""
    rivals = made(row("s", "mix", "m", 0.5), row("s", "mix", "m", 0.7, share=True),
                  row("s", "mix", "m", 0.8, minus="other"), row("s", "vote", "m", 0.9))
    of = dict(section="s", experiment="mix", method="m", metric="reward")
    assert rival_tables.cell(rivals, **of) == "0.500 [0.490, 0.520]"
    assert rival_tables.percent(rivals, **of) == "70 [69, 72]"
    assert rival_tables.cell(rivals, minus="other", **of) == "0.800 [0.790, 0.820]"
    assert rival_tables.cell(rivals, minus="nobody", **of) == "-"
    with pytest.raises(AssertionError):
        rival_tables.cell(made(row("s", "mix", "m", 1), row("s", "mix", "m", 2)), **of)


def test_the_first_screen_names_the_best_rule_of_each_measure():
    latents = [row("settings", e, name, value, metric) for e, metric in (
        ("mix", "reward"), ("vote", "reward"), ("vote", "majority of 8"))
        for name, value in ((LATENT, 0.6), ("latent, a", 0.7), ("latent, b", 0.8))]
    rivals = made(*rules_of("mix"), *rules_of("vote", top=0.0),
                  *rules_of("vote", "majority of 8"), *latents)
    header, _, mix, vote, majority = cells(rival_tables.first_screen(None, rivals))
    assert header == ["", FIXED, "best tuned rule", "LPO, temperatures", "LPO, a", "LPO, b", ORACLE]
    assert mix[0] == "mix" and mix[2].startswith("0.500") and mix[2].endswith("(top-p)")
    assert vote[2].startswith("0.300") and vote[2].endswith("(mirostat)")  # the last of the rules
    assert majority[0] == "vote, majority of 8" and majority[2].endswith("(top-p)")
    assert [cell[:5] for cell in mix[3:]] == ["0.600", "0.700", "0.800", "0.900"]


def test_gains_are_paired_differences():
    rows = [*rules_of("mix"), row("best rule", "mix", LATENT, 0.11, minus="top-p"),
            row("best rule", "mix", "latent, a", 0.22, minus="top-p"),
            row("best rule", "mix", "latent, b", 0.33, minus="top-p"),
            row("settings", "mix", "latent, a", 0.44, minus=LATENT),
            row("settings", "mix", "latent, b", 0.55, minus=LATENT),
            row("settings", "mix", "latent, a", 9.0)]
    _, _, *lines = cells(rival_tables.settings_gain(None, made(*rows, experiments=("mix",))))
    assert [line[1][:5] for line in lines] == ["0.110", "0.440", "0.220", "0.550", "0.330"]
    assert all(line[1].endswith("(top-p)") == line[0].endswith("best rule") for line in lines)


def share(method, subtask, role, choice, value):
    return dict(section="settings", method=method, experiment="vote", metric="choice share",
                subtask=subtask, role=role, choice=choice, value=value)


def test_choices_by_role_and_small_shares_left_out():
    """A task with one role is one line; the largest share comes first."""
    rows = [share("latent, a", "vote", role, choice, value) for role, of in (
        ("way", (0.2, 0.77, 0.03)), ("rest", (0.9, 0.1, 0.0)), (None, (5, 5, 5)))
        for choice, value in zip(("x", "y", "z"), of)]
    rows += [share("latent, b", "math", role, "x", 1.0) for role in (None, "rest")]
    _, _, *lines = cells(rival_tables.choice_shares(None, made(*rows)))
    assert lines == [["latent, a", "vote", "way", "y 77 %, x 20 %"],
                     ["latent, a", "vote", "rest", "x 90 %, y 10 %"],
                     ["latent, b", "math", "all", "x 100 %"]]


def full():
    """Every row that the figures and tables ask for, each value its own."""
    count = iter(range(1, 10 ** 6))

    def value():
        return next(count) / 1e4
    rows = []
    for e in ("constrained", "vote"):
        rows += [valued(r, value()) for r in rules_of(e)]
        for name in (LATENT, "latent, a", "latent, b"):
            rows.append(row("settings", e, name, value()))
            rows += [row("best of k", e, name, value(), f"best of {k}") for k in COUNTS]
            rows += [share(name, e, role, choice, 0.5) for role in ("asked", "rest", None)
                     for choice in ("x", "y")]
        for name in (FIXED, "top-p"):
            rows += [row("best of k", e, name, value(), f"best of {k}") for k in COUNTS]
        for name in OBJECTIVES:
            rows += [dict(section="objectives", experiment=e, method=name, metric="round reward",
                          round=rnd, value=value(), deviation=0.001) for rnd in (1, 2)]
        rows += [row("noise", e, f"{name}; {noise}", value(), share=True)
                 for name in NOISY_OBJECTIVES for noise in NOISES]
    return made(*rows, experiments=("constrained", "vote"))


def one(rows, **wanted):
    found, = [r["value"] for r in rows if all(r.get(k) == v for k, v in wanted.items())]
    return found


def test_noise_is_by_objective_and_measure():
    rivals = full()
    header, _, *lines = cells(rival_tables.noise(None, rivals))
    assert header[2:] == ["none", "flip 0.1", "flip 0.2", "flip 0.4", "spread 1", "spread 3"]
    assert [line[:2] for line in lines] == [[name, e] for name in NOISY_OBJECTIVES
                                            for e in ("constrained", "vote")]
    right = one(rivals["rows"], section="noise", experiment="vote", method="REINFORCE; flip 0.4")
    assert lines[5][5].split()[0] == f"{100 * right:.0f}"


def test_figures_draw_the_rows_they_name():
    rivals = full()
    rows = rivals["rows"]
    axes = rival_plots.rules_and_latents(rivals).axes
    assert [axis.get_title() for axis in axes] == ["constrained", "vote"]
    drawn = [line.lines[0].get_xdata()[0] for line in axes[1].containers]
    assert drawn == [one(rows, section="rules", experiment="vote", method=name) for name in RULES
                     ] + [one(rows, section="settings", experiment="vote", method=name,
                              metric="reward") for name in (LATENT, "latent, a", "latent, b")]
    low, high = [line.get_xdata() for line in axes[1].containers[0].lines[1]]  # the caps
    assert drawn[0] - low[0] > 0 and high[0] > low[0]
    curves = {line.get_label(): line.get_ydata().tolist()
              for line in rival_plots.rival_rounds(rivals).axes[0].lines}
    assert curves["latent"] == [one(rows, section="objectives", experiment="constrained",
                                    method="latent", round=rnd) for rnd in (1, 2)]
    assert set(curves) == set(rival_plots.CURVES)
    noise = rival_plots.rival_noise(rivals).axes
    assert len(noise) == 4 and noise[2].get_title() == "vote"
    assert noise[3].containers[0].lines[0].get_xdata().tolist() == [0, 1, 3]
    assert noise[3].containers[0].lines[0].get_ydata().tolist() == pytest.approx([
        100 * one(rows, section="noise", experiment="vote", method=f"latent; {kind}")
        for kind in ("", "spread 1", "spread 3")])
    best = {line.get_label(): line.get_ydata().tolist()
            for line in rival_plots.rival_best_of_k(rivals).axes[1].lines}
    for name, label in ((FIXED, FIXED), ("top-p", "best tuned rule"), ("latent, b", "latent, b")):
        assert best[label] == [one(rows, section="best of k", experiment="vote", method=name,
                                   metric=f"best of {k}") for k in COUNTS]
    bars = rival_plots.rival_choices(rivals).axes
    assert [axis.get_title() for axis in bars] == ["latent, a", "latent, b"]
    assert [bar.get_width() for bar in bars[0].patches] == [0.5] * 8  # 2 tasks, roles, choices


def test_stages_are_kept_by_environment():
    stages = {f"s{i}": dict(seconds=float(i), environment=dict(torch="1" if i < 3 else "2"))
              for i in range(5)}
    kept = rival_tables.kept(dict(stages=stages, rows=[1]))
    assert kept["rows"] == [1] and [s["seconds"] for s in kept["stages"].values()] == [3.0, 7.0]
