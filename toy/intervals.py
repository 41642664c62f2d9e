"""95 % intervals of what is claimed: over base models, decoder seeds and prompts at once.

A paired bootstrap: every resample draws base models, then decoders on each, and test prompts, which
all policies share; differences and ratios are made within it. With one base model and one decoder
an interval covers prompts alone.
"""
import numpy as np

from tasks import EXPERIMENTS, TASKS
from toy.evaluate import groups, test_set, win_rate
from toy.rows import row
from toy.stages import randomness


def resampled(bases, seeds, P, rng, times=1000):
    """A bootstrap of D base models, of S decoder seeds on each, and of P prompts, which all share.

    -> a function: values (D,S,P), or (D,1,P) where seeds do not matter -> means (times,)
    """
    of_base = rng.integers(bases, size=(times, bases, 1))
    of_seed = rng.integers(seeds, size=(times, bases, seeds))
    counts = rng.multinomial(P, np.full(P, 1 / P), size=times).T / P  # (P,times)

    def means(values):
        return (values @ counts)[of_base, of_seed % values.shape[1],
                                 np.arange(times)[:, None, None]].mean((1, 2))
    return means


def interval_rows(cfg, runs):
    """Means over all runs of a kind, each with the ends of its interval (_low, _high).  -> rows

    runs: (job, its columns, {how chosen: scores}, measure_fixed's result) of each. The best fixed
    temperature is the one of highest mean on these very prompts, for each base model, which favours
    it; the oracle was searched on others.
    """
    rows, kinds = [], {}
    for job, columns, scores, fixed in runs:
        kind = {name: value for name, value in columns.items() if name not in ("base_seed", "seed")}
        for select, ours in scores.items():
            of_base = kinds.setdefault((*kind.items(), ("select", select)), {})
            of_base.setdefault(job.base_seed, []).append((ours, fixed))
    for kind, of_base in kinds.items():
        columns = dict(kind, policy="adaptive")
        asked, _ = test_set(cfg, columns["experiment"])
        _, rng = randomness("cpu", "intervals", columns["experiment"], columns["level"])
        parts = list(groups(asked))
        for subtask, index in parts if len(parts) > 2 else parts[:1]:  # one subtask is the whole
            rows += intervals(of_base, index, rng, columns | dict(subtask=subtask))
    return rows


def intervals(runs, index, rng, columns):
    """The rows of one kind, on the prompts at index.  runs: {base_seed: [(scores, fixed)]}"""
    first_runs = next(iter(runs.values()))
    scores, fixed = first_runs[0]
    means = resampled(len(runs), len(first_runs), len(index), rng)
    tasks = [TASKS[name] for name in EXPERIMENTS[columns["experiment"]]]
    more_is_better = {"reward", *(name for task in tasks for name in task.criteria)}
    rows = []

    def per_prompt(pick):
        """pick(our scores, {temperature: scores}, the oracle's) -> (P,), of all runs: (D,S,P)"""
        return np.array([[pick(ours, fixed["fixed"], fixed["oracle"]) for ours, fixed in of_base]
                         for of_base in runs.values()])

    def add(metric, values, below=None, **more):
        """A mean, or a ratio of two means."""
        value, draws = values.mean(), means(values)
        if below is not None:
            if not (means(below) > 0).all():  # a ratio to what may be nothing says nothing
                return
            value, draws = value / below.mean(), draws / means(below)
        for end, x in zip(("", "_low", "_high"), (value, *np.quantile(draws, (0.025, 0.975)))):
            rows.append(row(metric + end, x, values.size, **columns, **more))

    for name in scores:
        metric, _, votes = name.partition("@")
        of = dict(votes=int(votes)) if votes else {}

        def mean(scores):
            return scores[name][index].numpy().mean(1)
        ours = per_prompt(lambda ours, fixed, oracle: mean(ours))
        add(metric, ours, **of)
        if metric in ("reward", "vote_accuracy"):
            best = per_prompt(lambda ours, fixed, oracle:
                              max(map(mean, fixed.values()), key=np.mean))
            oracle = per_prompt(lambda ours, fixed, oracle: mean(oracle))
            add("best_fixed", best, **of)
            add("oracle", oracle, **of)
            add("gain", ours - best, **of)
            add("headroom_share", ours - best, oracle - best, **of)
        if metric in more_is_better:
            for tau in fixed["fixed"]:
                add("win_rate" if metric == "reward" else f"{metric}_win_rate",
                    per_prompt(lambda ours, fixed, oracle: win_rate(
                        ours[name][index].numpy(), fixed[tau][name][index].numpy())),
                    temperature=tau)
        elif metric != "vote_accuracy" and 0.0 in fixed["fixed"]:  # less is better
            greedy = per_prompt(lambda ours, fixed, oracle: mean(fixed[0.0]))
            add(f"fewer_{metric}", greedy - ours, greedy)
    return rows
