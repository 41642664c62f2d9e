"""The tables of real/README.md from data/real*.json.gz, and what the page claims:

    python -m results.real_model     fill the tables and plot the figures; check the claims

Intervals and claims are as in the study (intervals.py, claims.py), with decoders in the place of
base models. What Gemma was measured on counts as experiments of their own, "Gemma, lines".
"""
from pathlib import Path

import numpy as np

from lpo import require
from real import figures
from real.tasks import EXPERIMENTS
from real.train import LEVELS, RULES, SETS
from results.claims import apart, faults, section_of, significant
from results.intervals import estimate
from results.plan import load
from results.tables import by_experiment, filled
from toy import files
from toy.figures import plot

HERE = Path(__file__).resolve().parent
PAGE, SECTION = HERE.parent / "real" / "README.md", "Does it help"
WITH = ("frequency", "presence", "repetition", "no-repeat")
BEST = {  # the rule of the highest mean on test prompts, which favours it
    "best fixed temperature": ("fixed",), "best rule with memory": WITH,
    "best rule without memory": [name for name in RULES if name not in ("fixed", *WITH)]}
FIXED, REMEMBERS, RULE = BEST
TAU, SETTINGS, MEMORY = [f"{name}, token" for name in SETS]
GEMMA = ("Gemma, lines", "Gemma, repeats")


class Data:
    """Mean rewards of the test prompts."""

    def __init__(self):
        self.about = load(HERE / "data" / "real.json.gz")
        gemma = load(HERE / "data" / "real_gemma.json.gz")
        self.cells = self.about["cells"] + [
            dict(cell, cell=[f"Gemma, {cell['cell'][0]}", *cell["cell"][1:]])
            for cell in gemma["cells"]]
        self.rewards = figures.measured(dict(cells=self.cells))

    def best(self, experiment, name):
        """-> its family, (P,)"""
        return max(((family, x) for family in BEST[name] for x in self.rewards[experiment][family]),
                   key=lambda of: np.mean(of[1]))

    def estimate(self, experiment, of, minus=None):
        """Of a rule of BEST or of LPO, "set, level", or of a paired difference.  -> Estimate"""
        values = self.values(experiment, of)
        if minus:
            other = self.values(experiment, minus)
            D = min(len(values), len(other))
            values = values - other if D == 1 else values[:D] - other[:D]
        if len(values) == 1:  # a rule has no error but that of the prompts
            values = values.repeat(2, 0)
        tasks = EXPERIMENTS[experiment.rpartition(", ")[2]]
        return estimate(values, np.arange(values.shape[1]) % len(tasks))

    def values(self, experiment, of):
        """-> (D,P): D decoders; 1 for a rule"""
        if of in BEST:
            return np.array([self.best(experiment, of)[1]])
        return np.array(self.rewards[experiment][of])


def tables(data):
    """Mean rewards of the rules, with their names, and of LPO.  -> {name: Markdown}"""
    def cell(experiment, title):
        of = title.removeprefix("LPO, ")
        family = f" {data.best(experiment, of)[0]}" if "rule" in of else ""
        return f"{data.estimate(experiment, of):.3f}{family}"
    rows = {level: [f"LPO, {name}, {level}" for name in SETS] for level in LEVELS}
    return dict(table=by_experiment(EXPERIMENTS, [*BEST, *sum(rows.values(), [])], cell),
                gemma=by_experiment(GEMMA, [*BEST, *rows["token"]], cell))


def means(data, experiment, **of):
    return {key: data.estimate(experiment, name).mean for key, name in of.items()}


def against_fixed(data):
    """At the token level LPO over every set earns more than the best fixed temperature on every
    task and with both models, except over temperatures on repeats."""
    apart(data, [(e, of, FIXED) for e in (*EXPERIMENTS, *GEMMA) for of in (TAU, SETTINGS, MEMORY)
                 if "repeats" not in e or of != TAU])


def against_rules(data):
    """Over settings, and over choices with a memory, it also earns more than the best rule on
    lines; on the mix and on repeats LPO over no set, at no level, does so significantly."""
    for e in ("lines", GEMMA[0]):
        apart(data, [(e, of, rule) for of in (SETTINGS, MEMORY) for rule in (RULE, REMEMBERS)])
    for e in ("mix", "repeats", GEMMA[1]):
        best = max((RULE, REMEMBERS), key=lambda rule: data.estimate(e, rule).mean)
        gains = significant(data, [(e, of, best) for of in data.rewards[e] if ", " in of])
        assert all(gain < 0 for gain in gains.values()), gains


def lines(data):
    """On lines token-level LPO earns {memory:.2f} over choices with a memory and {settings:.2f}
    over settings: more than the best rule, {name} sampling with {rule:.2f}."""
    assert data.estimate("lines", REMEMBERS).mean < data.estimate("lines", RULE).mean
    apart(data, [("lines", of, RULE) for of in (MEMORY, SETTINGS)])
    return dict(means(data, "lines", memory=MEMORY, settings=SETTINGS, rule=RULE),
                name=data.best("lines", RULE)[0])


def lines_temperatures(data):
    """Over temperatures it earns more than the best rule too, just: by {gain:.3f}."""
    apart(data, [("lines", TAU, RULE)])
    gain = data.estimate("lines", TAU, RULE)
    assert gain.low < 0.005
    return dict(gain=gain)


def mix(data):
    """On the mix the best rule, a {name} penalty, earns {rule:.2f}: more than LPO over
    temperatures, {tau:.2f}, and not significantly different from LPO over choices with a memory,
    {memory:.2f}."""
    apart(data, [("mix", REMEMBERS, TAU)])
    assert not significant(data, [("mix", REMEMBERS, MEMORY)])
    return dict(means(data, "mix", rule=REMEMBERS, tau=TAU, memory=MEMORY),
                name=data.best("mix", REMEMBERS)[0])


def repeats(data):
    """On repeats the best rule, which cuts unlikely tokens ({name}), earns {rule:.2f}: more than
    LPO over any set at any level, at best {lpo:.2f}."""
    every = [f"{name}, {level}" for name in SETS for level in LEVELS]
    apart(data, [("repeats", RULE, of) for of in every])
    return dict(means(data, "repeats", rule=RULE), name=data.best("repeats", RULE)[0],
                lpo=max(data.estimate("repeats", of).mean for of in every))


def shares(data, experiment, name):
    """How often each choice was used at the token level.  -> {role: (decoders, choices)}"""
    K = len(data.about["sets"][name])
    decoders = [figures.shares(cell, K) for cell in data.cells
                if cell["cell"][:3] == [experiment, name, "token"]]
    return {role: np.array([of[role] for of in decoders]) for role in decoders[0]}


def not_among(data):
    """There LPO over settings picks `min_p=.05@1.5` for {share:.0f} % of the tokens; the best
    settings of epsilon and min-p, of lower thresholds, are not among its choices."""
    sets, at = data.about["sets"], data.about["sets"]["settings"].index("min_p=.05@1.5")
    best = [name for cell in data.cells for name in cell["rewards"]["test"]
            if cell["cell"] in (["repeats", "epsilon"], ["repeats", "min-p"])]
    assert len(best) == 2 and not {*best} & {*sets["settings"], *sets["memory"]}
    return dict(share=100 * shares(data, "repeats", "settings")["repeats, all"][:, at].mean())


def below_fixed(data):
    """Over temperatures token-level LPO earns {loss:.3f} less than the best fixed temperature."""
    apart(data, [("repeats", FIXED, TAU)])
    return dict(loss=data.estimate("repeats", FIXED, TAU))


def cold_stories(data):
    """In stories temperature 0 is the most frequent one: {story:.0f} % of the tokens, over all
    decoders."""
    means = shares(data, "mix", "temperatures")["story, all"].mean(0)
    assert means.argmax() == 0
    return dict(story=100 * means[0])


def one_choice(data):
    """On lines one choice per response never earns significantly more than the best fixed
    temperature."""
    for name in SETS:
        for level in ("sequence", "mean"):
            gain = data.estimate("lines", f"{name}, {level}", FIXED)
            assert gain.mean < 0 or gain.p >= 0.05, (name, level)


def mean_state(data):
    """On the mix LPO over temperatures earns {mean:.2f} from the prompt's mean state, less than
    from the last one, {sequence:.2f}."""
    last, mean = "temperatures, sequence", "temperatures, mean"
    apart(data, [("mix", last, mean)])
    return means(data, "mix", sequence=last, mean=mean)


def colder_starts(data, experiment="lines"):
    """Each decoder over temperatures is colder at the first words of a line, on average
    {start:.2f}, than elsewhere, {rest:.2f}."""
    taus = np.array([float(tau) for tau in data.about["sets"]["temperatures"]])
    of = shares(data, experiment, "temperatures")
    start, rest = of["lines, start"] @ taus, of["lines, rest"] @ taus
    assert (start < rest).all()
    return dict(start=start.mean(), rest=rest.mean())


def gemma_lines(data):
    """On lines LPO earns {tau:.2f} over temperatures, {settings:.2f} over settings and {memory:.2f}
    over choices with a memory: more than the best rule, a {name} penalty with {rule:.2f}."""
    rules = [data.estimate(GEMMA[0], of).mean for of in BEST]
    assert data.estimate(GEMMA[0], REMEMBERS).mean == max(rules)
    apart(data, [(GEMMA[0], of, REMEMBERS) for of in (TAU, SETTINGS, MEMORY)])
    return dict(means(data, GEMMA[0], tau=TAU, settings=SETTINGS, memory=MEMORY, rule=REMEMBERS),
                name=data.best(GEMMA[0], REMEMBERS)[0])


def gemma_repeats(data):
    """On repeats the best rule, a {name} penalty, earns {rule:.3f}: more than LPO over any set, at
    best {memory:.3f}."""
    apart(data, [(GEMMA[1], REMEMBERS, of) for of in (TAU, SETTINGS, MEMORY)])
    assert data.estimate(GEMMA[1], REMEMBERS).mean > data.estimate(GEMMA[1], RULE).mean
    found = means(data, GEMMA[1], tau=TAU, settings=SETTINGS, memory=MEMORY, rule=REMEMBERS)
    assert found["memory"] > max(found["tau"], found["settings"])
    return found | dict(name=data.best(GEMMA[1], REMEMBERS)[0])


def gemma_starts(data):
    """There too each decoder over temperatures is colder at the first words of a line, on average
    {start:.2f}, than elsewhere, {rest:.2f}."""
    return colder_starts(data, GEMMA[0])


def gemma_level(data):
    """LPO over choices with a memory is not significantly different from the best rule without one,
    nor LPO over temperatures from the best fixed temperature."""
    assert not significant(data, [(GEMMA[1], MEMORY, RULE), (GEMMA[1], TAU, FIXED)])


CLAIMS = {f.__name__: f for f in (against_fixed, against_rules, lines, lines_temperatures, mix,
                                  repeats, not_among, below_fixed, one_choice, mean_state,
                                  colder_starts, cold_stories, gemma_lines, gemma_starts,
                                  gemma_repeats, gemma_level)}


if __name__ == "__main__":
    with files.program():
        data = Data()
        page = filled(PAGE.read_text(encoding="utf-8"), tables(data))
        files.write(PAGE, page)
        plot(data.about, HERE / "figures", figures.FIGURES)
        wrong = faults(section_of(page, SECTION), data, CLAIMS)
        require(not wrong, f"{len(wrong)} sentences:\n" + "\n".join(wrong))
