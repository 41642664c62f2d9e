"""The figures of the sweeps, from sweeps.json alone:  python -m results.sweep_plots [FILE]

Lines and bars are means over runs, dots the runs. A loss has one colour in all of them.
"""
import numpy as np
from matplotlib.figure import Figure

from toy import plots
from toy.plots import FIXED, ORACLE, dots, legend_below, means
from toy.rows import known, values, where

LOSS_COLOURS = {"latent": "#6A3D9A", "separate": "#B8860B", "nll": "#999999",
                "latent, exact": "#CC79A7"}
LOSS_NAMES = {"latent": "latent", "separate": "separate (= joint, frozen model)", "nll": "NLL",
              "latent, exact": "latent, exact"}
LEVEL_NAMES = {"mix": "mix, sequence level", "constrained": "constrained, token level",
               "vote": "vote, token level", "repeats": "repeats, token level"}
SETTINGS = {"joint": "#B8860B", "latent": "#6A3D9A", "joint, no temperature 0": "#CC79A7",
            "joint, temperature 1 only": FIXED, "joint, beta 2": "#E69F00",
            "joint, KL 1": ORACLE, "joint, anchor 1": "#56B4E9"}


def ordered(xs):
    """Numbers by size, then words as they come."""
    return sorted(xs, key=lambda x: (isinstance(x, str), 0 if isinstance(x, str) else x))


def over_x(sweeps, metric, **wanted):
    """The x values of such rows and, for each, the values of the runs."""
    xs = ordered(known(sweeps, "x", metric=metric, **wanted))
    return xs, [values(sweeps, metric=metric, x=x, **wanted) for x in xs]


def pairs(sweeps):
    """Share of the headroom against the number of pairs."""
    experiments = known(sweeps, "experiment", sweep="pairs")
    if not experiments:
        return None
    figure = Figure(figsize=(9.3, 3.6), layout="constrained")
    axes = figure.subplots(1, len(experiments), sharey=True, squeeze=False)[0]
    for axis, experiment in zip(axes, experiments):
        for variant in known(sweeps, "variant", sweep="pairs"):
            for metric, style in (("share", "-"), ("share of the arg-max", ":")):
                xs, groups = over_x(sweeps, metric, sweep="pairs", experiment=experiment,
                                    variant=variant)
                label = LOSS_NAMES[variant] + (", arg-max" if style == ":" else "")
                axis.plot(xs, 100 * means(groups), style, color=LOSS_COLOURS[variant], marker="o",
                          ms=4, lw=1.5, label=label)
                dots(axis, xs, groups, 100)
        axis.axhline(0, color="black", lw=0.8)
        axis.axhline(100, color=ORACLE, lw=0.8, ls="--")
        axis.set_xscale("log")
        axis.set_xticks((10, 100, 1000), ("10", "100", "1000"))
        axis.set(title=LEVEL_NAMES[experiment], xlabel="pairs, one offline round")
    axes[0].set_ylabel("share of the headroom, %")
    legend_below(figure, axes, 3)
    figure.suptitle("Share of the headroom against the number of pairs")
    return figure


def gradient(sweeps):
    """Signal and noise of one pair's gradient at the start."""
    experiments = known(sweeps, "experiment", sweep="gradient")
    if not experiments:
        return None
    figure = Figure(figsize=(9.3, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, (metric, label) in zip(axes, (
            ("signal", "norm of the mean gradient"), ("noise", "deviation of one pair's gradient"),
            ("signal to noise", "signal to noise of one pair"))):
        for i, (form, colour) in enumerate(LOSS_COLOURS.items()):
            groups = [values(sweeps, sweep="gradient", experiment=experiment, variant=form,
                             metric=metric) for experiment in experiments]
            at = [j for j, group in enumerate(groups) if group]
            groups = [groups[j] for j in at]
            if not groups:
                continue
            xs = np.array(at) + (i - 1.5) * 0.2
            axis.bar(xs, means(groups), 0.19, color=colour, label=LOSS_NAMES[form])
            dots(axis, xs, groups)
        axis.set_xticks(range(len(experiments)), experiments, rotation=20)
        axis.set_title(label)
    axes[0].set_ylabel("beta 1, last layer")
    legend_below(figure, axes, 4)
    figure.suptitle("One pair's gradient before training: signal, noise, and their ratio")
    return figure


CHANGED = {"beta": "beta", "lr": "learning rate", "responses": "responses a prompt",
           "rounds": "rounds (720 prompts in all)", "pairing": "pairing", "reference": "reference"}


def change(sweeps, variant):
    """Share of the headroom with one option changed."""
    experiments = known(sweeps, "experiment", sweep="change", variant=variant)
    if not experiments:
        return None
    figure = Figure(figsize=(9.3, 5.6), layout="constrained")
    axes = figure.subplots(2, 3, sharey=True).ravel()
    for axis, (option, label) in zip(axes, CHANGED.items()):
        xs = ordered(known(sweeps, "x", sweep="change", setting=option, variant=variant))
        place = {x: i for i, x in enumerate(xs)}  # evenly, whatever the steps between them
        for experiment, mark in zip(experiments, "os^D"):
            found, groups = over_x(sweeps, "share", sweep="change", setting=option,
                                   variant=variant, experiment=experiment)
            at = [place[x] for x in found]
            axis.plot(at, 100 * means(groups), color=LOSS_COLOURS[variant], marker=mark, ms=5,
                      lw=0 if isinstance(xs[0], str) else 1.1, mfc="white", label=experiment)
            dots(axis, at, groups, 100)
        axis.set_xticks(range(len(xs)), [x if isinstance(x, str) else f"{x:g}" for x in xs])
        axis.set_xlim(-0.4, len(xs) - 0.6)
        axis.axhline(0, color="black", lw=0.8)
        axis.axhline(100, color=ORACLE, lw=0.8, ls="--")
        axis.set_xlabel(label)
    for axis in axes[::3]:
        axis.set_ylabel("share of the headroom, %")
    legend_below(figure, axes, 4)
    figure.suptitle(f"One option changed at a time: {LOSS_NAMES[variant]}")
    return figure


def unfrozen(sweeps):
    """The language model trained too: reward, and what happens to the log-probabilities."""
    if not where(sweeps, sweep="unfrozen"):
        return None
    figure = Figure(figsize=(9.3, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    rates = ordered(known(sweeps, "x", sweep="unfrozen"))
    for setting, colour in SETTINGS.items():
        xs, groups = over_x(sweeps, "reward", sweep="unfrozen", setting=setting)
        if not xs:
            continue
        at = [rates.index(x) for x in xs]
        named = setting in ("joint", "latent")
        left.plot(at, means(groups), "-" if named else "--", color=colour, marker="o", ms=4,
                  lw=2 if named else 1.2, label=setting)
        dots(left, at, groups)
    left.set_xticks(range(len(rates)), [f"{rate:g}" if rate else "frozen" for rate in rates])
    left.set(xlabel="learning rate of the language model", ylabel="reward, mix, after 3 rounds",
             title="Reward")
    for setting in ("joint", "joint, KL 1"):
        for side, style in (("chosen", "-"), ("rejected", "--")):
            of = dict(sweep="unfrozen", metric=f"{side} log-ratio", setting=setting, x=rates[-1])
            steps = ordered(known(sweeps, "step", **of))
            right.plot(steps, [np.mean(values(sweeps, step=step, **of)) for step in steps], style,
                       color=SETTINGS[setting], label=f"{setting}, {side}")
    right.axhline(0, color="black", lw=0.8)
    right.set(xlabel="update (a new round every 20)", title=f"Model learning rate {rates[-1]:g}",
              ylabel="log-ratio to the round's reference, nats")
    right.legend(fontsize=9)
    legend_below(figure, [left], 4)
    figure.suptitle("Training the language model too")
    return figure


FIGURES = {"sweep_pairs": pairs, "sweep_gradient": gradient,
           "sweep_latent": lambda sweeps: change(sweeps, "latent"),
           "sweep_separate": lambda sweeps: change(sweeps, "separate"),
           "sweep_unfrozen": unfrozen}


if __name__ == "__main__":
    plots.main("out/sweeps.json", FIGURES)
