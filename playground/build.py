"""Builds playground/index.html: one web page, the trained toy model and all sources inside.

    python train_toy.py --levels token,sequence
    python train_toy.py --levels token --choices "0,.6,1,min_p=.05@3,top_nsigma=1.5@3,top_p=.9@2" \
--out out/settings
    python -m playground.build                  from both runs
    python -m playground.build --out out/other  from one run of yours
    python -m playground.build --keep           new sources around the weights of the present page

The page holds the first base model and its first decoders, of the latent loss. Weights are in half
precision. Of the token level in the first run it has every round, as differences in steps of
1 / STEPS; of the others the last.
"""
import argparse
import base64
import json
import re
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

import tasks
import train_toy
from toy import options, rows
from toy.pretrain import base_key, new_model
from toy.stages import Job, Stages

FOLDER = Path(__file__).parent
PAGE = FOLDER / "index.html"
SCRIPTS = ("engine", "tasks", "lpo", "worker", "view", "trainer", "app")
STEPS = 512  # a unit of weight, in steps of a difference between rounds
WORD_LISTS = ("WORDS", "NOUNS", "PLAIN_VERBS", "TO_VERBS", "VERBS", "DIGITS", "CATEGORIES",
              "OPENERS", "HURRY", "FLAVOURS", "PEOPLE", "EVERY", "LINES", "EXPERIMENTS")
VARIANT = "latent"


# --- numbers as text ------------------------------------------------------------------------------


def packed(array):
    """Bytes of an array as text: byte planes (all low bytes first), zlib, base64.  -> str"""
    planes = np.frombuffer(array.tobytes(), np.uint8).reshape(array.size, -1).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode()


def flat(state):
    """All weights of a state, one after the other; what is no tensor is left out.  -> (n,)"""
    return torch.cat([x.flatten() for x in state.values() if torch.is_tensor(x)])


def halves(weights):
    return packed(weights.numpy().astype("<f2"))


def packed_rounds(by_round, every):
    """The last round's weights, and with `every` the way back from it to round 1.  -> dict

    Round 0 needs none: its decoder is uniform, whatever its hidden layers are. Each difference is
    to what the page has of the round behind it, so that the steps' errors do not add up.
    """
    weights = [flat(state) for state in by_round]
    seen = weights[-1].half().float()
    found = dict(rounds=len(weights) - 1, last=halves(weights[-1]), steps=[])
    if not every:
        return found
    for wanted in reversed(weights[1:-1]):
        steps = ((wanted - seen) * STEPS).round().clamp(-127, 127)
        found["steps"].append(packed(steps.numpy().astype(np.int8)))
        seen = seen + steps / STEPS
    return found


# --- what the page holds --------------------------------------------------------------------------


def missing():
    raise ValueError("it is not there, or of other code or options; run train_toy.py again")


def stages_of(out):
    """A run's configuration, results, base model's weights and decoders' weights by round.

    -> cfg, results, state, {(experiment, level): [state, ...]}
    """
    results = rows.load(Path(out) / "results.json")
    given = {name: tuple(x) if isinstance(x, list) else x for name, x in results["config"].items()}
    cfg = options.checked(options.Config(**given | dict(out=str(out))))
    run = Stages(out, {job.name: cost for job, cost in train_toy.jobs(cfg)}, cfg.device)
    base = run(Job(cfg.seed).name, base_key(cfg), missing)["state"]
    _, of_adaptive = train_toy.stage_keys(cfg)
    decoders = {}
    for experiment in cfg.experiments:
        for level in cfg.levels:
            job = Job(cfg.seed, experiment, level, VARIANT, cfg.seed)
            decoders[experiment, level] = run(job.name, of_adaptive, missing)["by_round"]
    return cfg, results, base, decoders


def facts_of(results):
    """What the run found, on test prompts: the page shows it beside its own numbers."""
    facts, seed = {}, results["config"]["seed"]
    of = dict(metric="reward", subtask=None, base_seed=seed)
    for experiment in results["config"]["experiments"]:
        of["experiment"] = experiment
        fixed = {row["temperature"]: row["value"]
                 for row in rows.where(results, policy="fixed", **of)}
        best = max(fixed, key=fixed.get)
        found = dict(best_fixed=dict(choice=best, reward=fixed[best]),
                     oracle=rows.values(results, policy="oracle", **of)[0], levels={})
        for level in results["config"]["levels"]:
            ours = dict(experiment=experiment, level=level, base_seed=seed, seed=seed)
            rounds = {row["round"]: row["value"] for row in
                      rows.where(results, metric="round_reward", variant=VARIANT, **ours)}
            reward = rows.single(results, variant=VARIANT, subtask=None, metric="reward", **ours)
            found["levels"][level] = dict(reward=reward[0]["value"],
                                          rounds=rounds)
        facts[experiment] = found
    return facts


def data_of(outs):
    """All that is not source: weights, choices and results of one run or several.  -> dict

    The runs have one base model; each has its own set of choices.
    """
    sets, base = [], None
    for out in outs:
        cfg, results, state, decoders = stages_of(out)
        if base is not None and not torch.equal(flat(state), flat(base)):
            raise ValueError(f"{out} has another base model than {outs[0]}; copy the stage "
                             f"base{cfg.seed}-*.pt over before the second run")
        base = state
        environment = results["stages"][Job(cfg.seed).name]["environment"]
        sets.append(dict(
            choices=list(cfg.choices), levels=list(cfg.levels), facts=facts_of(results),
            training={name: getattr(cfg, name) for name in
                      ("rounds", "prompts", "responses", "steps", "beta", "lr", "seed")},
            made={name: environment[name] for name in ("torch", "commit")},
            decoders=[dict(experiment=experiment, level=level,
                           **packed_rounds(by_round, every=not sets and level == "token"))
                      for (experiment, level), by_round in decoders.items()]))
    model = new_model(cfg)
    shapes = [[name, list(x.shape)] for name, x in model.state_dict().items()]
    return dict(config=vars(model.config), shapes=shapes, base=halves(flat(base)), steps=STEPS,
                sets=sets)


def words():
    """The lists of tasks.py as a script: what tasks.js finds there.  -> str"""
    found = {name: getattr(tasks, name) for name in WORD_LISTS}
    found["SPLITS"] = {name: list(buckets) for name, buckets in tasks.SPLITS.items()}
    found["TASK_FACTS"] = {name: dict(length=task.length, roles=task.roles)
                           for name, task in tasks.TASKS.items()
                           if any(name in names for names in tasks.EXPERIMENTS.values())}
    found["PROMPT_LENGTH"] = tasks.PROMPT_LENGTH
    found["MOST_TOKENS"] = max(task["length"] for task in found["TASK_FACTS"].values())
    return "\n".join(f"const {name} = {json.dumps(x)};" for name, x in found.items())


# --- the page -------------------------------------------------------------------------------------


def page(data):
    """Sources around the data, which is JSON.  str -> str"""
    parts = {f"{name}.js": (FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS}
    parts |= {"words.js": words(), "data.json": data,
              "style.css": (FOLDER / "style.css").read_text(encoding="utf-8")}
    template = (FOLDER / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{ (\S+) \}\}", lambda found: parts[found[1]].strip(), template)


def data_in(text):
    """The data of a page.  str -> str"""
    return re.search(r'<script id="data" type="application/json">\n(.*?)\n</script>', text,
                     re.DOTALL)[1]


def main(arguments):
    if arguments.keep:
        data = data_in(PAGE.read_text(encoding="utf-8"))
    else:
        data = json.dumps(data_of(arguments.out))
    text = page(data)
    arguments.page.write_text(text, encoding="utf-8")
    print(f"{arguments.page}: {len(text.encode()) / 1000:.0f} KB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", nargs="+", default=["out", "out/settings"],
                        help="folders of the main job (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="the data of the present page")
    parser.add_argument("--page", type=Path, default=PAGE, help="where to write (%(default)s)")
    try:
        main(parser.parse_args())
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
