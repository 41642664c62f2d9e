"""The tables of the rivals, from rivals.json: tables.py puts them into the pages.

Every cell is `value [low, high]`, the mean over base models, heads and test prompts with its 95 %
interval by the paired bootstrap.
"""
from results.objectives import OBJECTIVES
from results.rivals import (COUNTS, FIXED, HIDDEN, JUDGED, LATENT, NOISES, NOISY_OBJECTIVES,
                            ORACLE)
from results.rules import RULES
from toy.rows import known, values, where


def table(header, lines):
    """Markdown; every cell as text."""
    lines = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def measures(rivals):
    """What is measured: [(a column's title, the columns of its rows)]."""
    found = []
    for experiment in rivals["config"]["experiments"]:
        for metric in ("reward", "majority of 8"):
            of = dict(experiment=experiment, metric=metric)
            if where(rivals, section="rules", **of):
                title = experiment if metric == "reward" else f"{experiment}, {metric}"
                found.append((title, of))
    return found


def cell(rivals, digits=3, scale=1, **wanted):
    """The one row that is wanted, with its interval; a dash if there is none."""
    found = where(rivals, **(dict(minus=None, share=False) | wanted))
    if not found:
        return "-"
    assert len(found) == 1, f"{wanted}: {len(found)} rows"
    value, low, high = (f"{scale * found[0][name]:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def percent(rivals, **wanted):
    return cell(rivals, 0, 100, share=True, **wanted)


def by_method(rivals, section, methods, cell=cell, head="", **wanted):
    """A line a method, a column a measure."""
    of = measures(rivals)
    lines = [[method, *(cell(rivals, section=section, method=method, **columns, **wanted)
                        for _, columns in of)] for method in methods]
    return table([head, *(title for title, _ in of)], lines)


def best_rules(rivals, measure):
    """The rule of the highest mean on the test prompts."""
    found = where(rivals, section="rules", share=False, **measure)
    return max((row for row in found if row["method"] in RULES), key=lambda row: row["value"])


def latents(rivals):
    return [LATENT, *(f"latent, {name}" for name in rivals["config"]["sets"])]


def named(choice):
    """A temperature as a short number, a setting by its name."""
    return choice if isinstance(choice, str) else f"{choice:g}"


# --- the tables -----------------------------------------------------------------------------------


def first_screen(results, rivals):
    """The best fixed temperature, the best rule, temperatures and settings as the latent."""
    lines = []
    for title, of in measures(rivals):
        rule = best_rules(rivals, of)["method"]
        lines.append([title, cell(rivals, section="rules", method=FIXED, **of),
                      f"{cell(rivals, section='rules', method=rule, **of)} ({rule})",
                      *(cell(rivals, section="settings", method=method, **of)
                        for method in latents(rivals)),
                      cell(rivals, section="rules", method=ORACLE, **of)])
    names = [method.replace("latent, ", "LPO, ") for method in latents(rivals)]
    return table(["", FIXED, "best tuned rule", *names, ORACLE], lines)


def rival_source(results, rivals):
    from results.tables import environments  # which imports this page
    c = rivals["config"]
    return (f"{c['base_seeds']} base models x {c['seeds']} heads, {c['test_prompts']} test "
            f"prompts; {environments(rivals['stages'])}.")


def rules(results, rivals):
    return by_method(rivals, "rules", [FIXED, *RULES], head="rule, tuned on validation prompts")


def settings(results, rivals):
    names = list(rivals["config"]["sets"])
    return by_method(rivals, "settings", [
        *latents(rivals), *(f"{kind}, {name}" for kind in ("oracle", "best single", "no context")
                            for name in names)])


def settings_gain(results, rivals):
    """Paired differences from temperatures, and from the best rule on the test prompts."""
    of, lines = measures(rivals), []
    for method in latents(rivals):
        if method != LATENT:
            lines.append([f"{method}, minus temperatures", *(
                cell(rivals, section="settings", method=method, minus=LATENT, **columns)
                for _, columns in of)])
        cells = []
        for _, columns in of:
            rule = best_rules(rivals, columns)["method"]
            cells.append(cell(rivals, section="best rule", method=method, minus=rule, **columns)
                         + f" ({rule})")
        lines.append([f"{method}, minus the best rule", *cells])
    return table(["", *(title for title, _ in of)], lines)


def choice_shares(results, rivals):
    """Of each role's words, the share drawn by each choice; shares below 5 % are left out."""
    lines = []
    for method in latents(rivals)[1:]:
        of = dict(section="settings", method=method, metric="choice share")
        for subtask in known(rivals, "subtask", **of):
            roles = known(rivals, "role", subtask=subtask, **of)
            for role in roles if len(roles) > 1 else [None]:
                shares = {row["choice"]: row["value"]
                          for row in where(rivals, subtask=subtask, role=role, **of)}
                ranked = sorted(shares, key=shares.get, reverse=True)
                lines.append([method, subtask, role or "all", ", ".join(
                    f"{named(choice)} {100 * shares[choice]:.0f} %" for choice in ranked
                    if shares[choice] >= 0.05)])
    return table(["", "task", "role", "drawn by"], lines)


def picked(results, rivals):
    """Validation means of the four sets, over the experiments."""
    lines = [[row["method"], row["choice"], f"{row['value']:.3f}"]
             for row in where(rivals, section="picked", experiment=None)]
    return table(["set", "choices", "mean validation reward"], lines)


def objectives(results, rivals):
    """Shares of the headroom; `latent` minus each, in points of reward."""
    return by_method(rivals, "objectives", [
        name for name in OBJECTIVES if where(rivals, section="objectives", method=name)],
        cell=percent, head="share of the headroom, %")


def objective_gaps(results, rivals):
    of, lines = measures(rivals), []
    for name in OBJECTIVES:
        if name != "latent":
            lines.append([f"latent - {name}", *(
                cell(rivals, section="objectives", method="latent", minus=name, **columns)
                for _, columns in of)])
    return table(["", *(title for title, _ in of)], lines)


def objective_costs(results, rivals):
    """What was picked on validation prompts, and what a round takes."""
    lines, experiments = [], rivals["config"]["experiments"]
    scored = {"pairs": "2 of 8", "chosen": "1 of 8", "all": "8 of 8", "corpus": "none"}
    for name, objective in OBJECTIVES.items():
        picks = {row["experiment"]: row for row in where(
            rivals, section="picked", method=name, sees=HIDDEN)}
        cells = [f"{picks[e]['lr']:g}, {picks[e]['knob']:g}" if e in picks else "-"
                 for e in experiments]
        of = dict(section="objectives", method=name, experiment=JUDGED[0])
        seconds = [f"{x:.2f}" for x in values(rivals, metric="seconds of learning", **of)]
        lines.append([name, objective.source, objective.knob[0], *cells,
                      scored[objective.data], *(seconds or ["-"])])
    return table(["objective", "source", "knob", *(f"{e}: rate, knob" for e in experiments),
                  "responses scored", f"seconds of learning a round, {JUDGED[0]}"], lines)


def controls(results, rivals):
    return by_method(rivals, "controls", [
        name for name in known(rivals, "method", section="controls")],
        cell=percent, head="what the head sees: share of the headroom, %")


def noise(results, rivals):
    of = [(title, columns) for title, columns in measures(rivals)
          if columns["experiment"] in JUDGED]
    lines = []
    for name in NOISY_OBJECTIVES:
        for title, columns in of:
            lines.append([name, title, *(percent(
                rivals, section="noise", method=f"{name}; {noise}", **columns)
                for noise in NOISES)])
    return table(["share of the headroom, %", "", *(noise or "none" for noise in NOISES)], lines)


def grid(results, rivals):
    sizes = sorted(known(rivals, "method", section="grid"),
                   key=lambda name: float(name.split()[-1].replace("infinite", "inf")))
    return by_method(rivals, "grid", sizes, head="temperatures from 0 to 1.2")


def best_of_k(results, rivals):
    lines = []
    for experiment in [e for e in JUDGED if e in rivals["config"]["experiments"]]:
        of = dict(section="best of k", experiment=experiment)
        rule = {k: [row["method"] for row in where(rivals, metric=f"best of {k}", **of)
                    if row["method"] in RULES][0] for k in COUNTS}
        lines.append([experiment, "best tuned rule"] + [
            cell(rivals, metric=f"best of {k}", method=rule[k], **of) for k in COUNTS])
        for method in (FIXED, *latents(rivals)):
            lines.append([experiment, method] + [
                cell(rivals, metric=f"best of {k}", method=method, **of) for k in COUNTS])
    return table(["", "", *(f"k = {k}" for k in COUNTS)], lines)


TABLES = {f.__name__: f for f in (
    first_screen, rival_source, rules, settings, settings_gain, choice_shares, picked, objectives,
    objective_gaps, objective_costs, controls, noise, grid, best_of_k)}


def kept(rivals):
    """What the page needs: stages by environment alone, with their seconds together."""
    stages = {}
    for of in rivals["stages"].values():
        kept = stages.setdefault(repr(of["environment"]), dict(
            seconds=0, environment=of["environment"]))
        kept["seconds"] = round(kept["seconds"] + of["seconds"], 1)
    return dict(rivals, stages={f"stages {i}": of for i, of in enumerate(stages.values(), 1)})
