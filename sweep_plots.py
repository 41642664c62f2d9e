"""The figures of the sweeps, from ablations.json alone.

    python sweep_plots.py [out/ablations.json]
"""
import numpy as np
from matplotlib.figure import Figure

import plots
from plots import FIXED, ORACLE, OTHER, SEQUENCE, TOKEN

VARIANTS = {"latent": TOKEN, "separate": SEQUENCE, "nll": OTHER}
NAMES = {"latent": "latent", "separate": "separate (= joint, frozen model)", "nll": "NLL"}
SETTINGS = {"joint": SEQUENCE, "latent": TOKEN, "joint, no temperature 0": OTHER,
            "joint, temperature 1 only": FIXED, "joint, beta 2": "#E69F00", "joint, KL 1": ORACLE,
            "joint, anchor 1": "#56B4E9"}


def line(sweeps, metric, **wanted):
    """x values, means and deviations over runs of the rows that match."""
    found = {}
    for row in sweeps["rows"]:
        if row["metric"] == metric and all(row.get(k) == v for k, v in wanted.items()):
            found.setdefault(row["x"], []).append(row["value"])
    xs = sorted(found, key=lambda x: (isinstance(x, str), x))
    return xs, np.array([np.mean(found[x]) for x in xs]), np.array([np.std(found[x]) for x in xs])


def has(sweeps, sweep):
    return any(row["sweep"] == sweep for row in sweeps["rows"])


def pairs(sweeps):
    """Share of the headroom against the number of pairs."""
    if not has(sweeps, "pairs"):
        return None
    experiments = [("mix", "sequence level"), ("constrained", "token level"),
                   ("vote", "token level")]
    figure = Figure(figsize=(9.3, 3.4), layout="constrained")
    for axis, (experiment, level) in zip(figure.subplots(1, 3, sharey=True), experiments):
        for variant, colour in VARIANTS.items():
            for metric, style in (("share", "-"), ("share of the arg-max", ":")):
                xs, mean, std = line(sweeps, metric, sweep="pairs", experiment=experiment,
                                     variant=variant)
                axis.errorbar(xs, 100 * mean, 100 * std, color=colour, ls=style, marker="o", ms=4,
                              capsize=2, lw=1.5,
                              label=NAMES[variant] + (", arg-max" if style == ":" else ""))
        axis.axhline(0, color="black", lw=0.8)
        axis.axhline(100, color=ORACLE, lw=0.8, ls="--")
        axis.set_xscale("log")
        axis.set_xticks((10, 100, 1000), ("10", "100", "1000"))
        axis.set(title=f"{experiment}, {level}", xlabel="pairs, one offline round")
        axis.set_ylim(-60, 140)
    figure.axes[0].set_ylabel("share of the headroom, %")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle("At the token level the latent loss needs the fewest pairs")
    return figure


def gradient(sweeps):
    """Signal and noise of one pair's gradient at the start."""
    if not has(sweeps, "gradient"):
        return None
    experiments = ("repeats", "constrained", "vote", "mix")
    colours = {**VARIANTS, "latent, exact": "#56B4E9"}
    figure = Figure(figsize=(9.3, 3.4), layout="constrained")
    for axis, (metric, label) in zip(figure.subplots(1, 3), (
            ("signal", "norm of the mean gradient"), ("noise", "deviation of one pair's gradient"),
            ("signal to noise", "signal to noise of one pair"))):
        for i, (form, colour) in enumerate(colours.items()):
            cells = [[row["value"] for row in sweeps["rows"] if row["sweep"] == "gradient"
                      and (row["experiment"], row["variant"], row["metric"]) == (e, form, metric)]
                     for e in experiments]
            at = [j for j, cell in enumerate(cells) if cell]
            axis.bar(np.array(at) + (i - 1.5) * 0.2, [np.mean(cells[j]) for j in at], 0.19,
                     yerr=[np.std(cells[j]) for j in at], color=colour, error_kw=dict(lw=0.8),
                     label=form if form != "nll" else "NLL")
        axis.set_xticks(range(4), experiments, rotation=20)
        axis.set_title(label)
    figure.axes[1].set_yscale("log")
    figure.axes[1].set_yticks((0.3, 1, 3), ("0.3", "1", "3"))
    figure.axes[1].minorticks_off()
    figure.axes[0].set_ylabel("beta 1, last layer")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle("One mean gradient, less noise: latent at the token level, and on mix, at the "
                    "sequence level,\nthe exact latent alone")
    return figure


def change(sweeps):
    """Share of the headroom with one option changed, experiments 1 to 3."""
    if not has(sweeps, "change"):
        return None
    marks = {"repeats": "o", "mix": "s", "constrained": "^"}
    options = {"beta": "beta", "lr": "learning rate", "responses": "responses a prompt",
               "rounds": "rounds (720 prompts in all)", "pairing": "pairing",
               "reference": "reference"}
    figure = Figure(figsize=(9.3, 5.6), layout="constrained")
    for axis, (option, label) in zip(figure.subplots(2, 3, sharey=True).ravel(), options.items()):
        for variant in ("latent", "separate"):
            for experiment, mark in marks.items():
                xs, mean, std = line(sweeps, "share", sweep="change", setting=option,
                                     variant=variant, experiment=experiment)
                words = isinstance(xs[0], str)
                if words:
                    order = {"best-worst": 0, "all": 1, "top-k": 2, "round": 0, "initial": 1}
                    at, names = [order[x] for x in xs], xs
                    axis.set_xticks(sorted(at), sorted(names, key=order.get))
                    axis.set_xlim(-0.5, max(order[x] for x in xs) + 0.5)
                axis.errorbar(at if words else xs, 100 * mean, 100 * std, marker=mark, ms=5,
                              color=VARIANTS[variant], capsize=2, lw=0 if words else 1.2,
                              elinewidth=1, mfc="none" if variant == "separate" else None,
                              label=f"{variant}, {experiment}")
        if not words:
            axis.set_xscale("log")
            axis.set_xticks(xs, [f"{x:g}" for x in xs], rotation=45)
            axis.minorticks_off()
        axis.axhline(0, color="black", lw=0.8)
        axis.axhline(100, color=ORACLE, lw=0.8, ls="--")
        axis.set_xlabel(label)
        axis.set_ylim(-120, 130)
    for axis in figure.axes[::3]:
        axis.set_ylabel("share of the headroom, %")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle("One option changed at a time: latent is robust, separate wants a small beta")
    return figure


def unfrozen(sweeps):
    """The language model trained too: reward, and what happens to the log-probabilities."""
    rows = [row for row in sweeps["rows"] if row["sweep"] == "unfrozen"]
    if not rows:
        return None
    figure = Figure(figsize=(9.3, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for setting, colour in SETTINGS.items():
        xs, mean, std = line(sweeps, "reward", sweep="unfrozen", experiment="mix", setting=setting)
        if not xs:
            continue
        at = [x or 6e-6 for x in xs]
        left.errorbar(at, mean, std, color=colour, marker="o", ms=4, capsize=2, label=setting,
                      lw=2 if "," not in setting else 1.2, ls="-" if "," not in setting else "--")
    left.set_xscale("log")
    left.set_xticks((6e-6, 2e-5, 1e-4, 3e-4, 1e-3), ("frozen", "2e-5", "1e-4", "3e-4", "1e-3"))
    left.minorticks_off()
    left.set(xlabel="learning rate of the language model", ylabel="reward, mix, after 3 rounds",
             title="Reward")
    top = max(row["x"] for row in rows)
    for side, style in (("chosen", "-"), ("rejected", "--")):
        for setting in ("joint", "joint, KL 1"):
            found = {}
            for row in rows:
                if (row["metric"], row["experiment"], row["setting"], row["x"]) == (
                        f"{side} log-ratio", "mix", setting, top):
                    found.setdefault(row["step"], []).append(row["value"])
            if found:
                steps = sorted(found)
                right.plot(steps, [np.mean(found[step]) for step in steps], style,
                           color=SETTINGS[setting], label=f"{setting}, {side}")
    right.axhline(0, color="black", lw=0.8)
    right.set(xlabel="update (a new round every 20)", title=f"Model learning rate {top:g}",
              ylabel="log-ratio to the round's reference, nats")
    right.legend(fontsize=9, frameon=False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle("Training the language model too: small steps help, large ones destroy it")
    return figure


FIGURES = {"sweep_pairs": pairs, "sweep_gradient": gradient, "sweep_options": change,
           "sweep_unfrozen": unfrozen}


if __name__ == "__main__":
    plots.main("out/ablations.json", FIGURES)
