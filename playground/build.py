"""Builds playground/index.html: one web page, the trained toy model and all sources inside.

    python train_toy.py
    mkdir out/memory && cp out/base_*.pt out/memory    # both runs need one base model
    python train_toy.py --levels token --out out/memory --choices "0,min_p=.05@3,frequency=.5@0,\
frequency=1@0,frequency=1@1|min_p=.05,frequency=3@1|min_p=.05"
    python -m playground.build                  from both runs
    python -m playground.build --out out/other  from one run of yours
    python -m playground.build --keep           new sources around the weights of the present page

The page holds the base model and the decoders of the latent loss. Weights are in half precision.
Of the token level in the first run it has every round, as differences in steps of 1 / STEPS; of
the others the last.
"""
import argparse
import base64
import json
import re
import zlib
from pathlib import Path

import numpy as np
import torch

import tasks
from decoder import has_memory
from toy import figures
from toy.evaluate import where
from toy.files import program, read, write
from toy.models import new_model
from toy.samplers import ORDERS, Penalty, choice_of

FOLDER = Path(__file__).parent
PAGE = FOLDER / "index.html"
SCRIPTS = ("engine", "tasks", "lpo", "worker", "view", "trainer", "app")
STEPS = 512  # a unit of weight, in steps of a difference between rounds
WORD_LISTS = ("WORDS", "NOUNS", "PLAIN_VERBS", "TO_VERBS", "VERBS", "DIGITS", "CATEGORIES",
              "OPENERS", "HURRY", "FLAVOURS", "PEOPLE", "EVERY", "LINES", "EXPERIMENTS")
COLOURS = ("TOKEN", "SEQUENCE", "ORACLE", "FIXED")
SHADES = figures.SHADES(np.linspace(0, 1, 13), bytes=True)[:, :3].tolist()  # cold to hot
VARIANT = "latent"


# --- numbers as text ------------------------------------------------------------------------------


def packed(array):
    """Bytes of an array as text: byte planes (all low bytes first), zlib, base64.  -> str"""
    planes = np.frombuffer(array.tobytes(), np.uint8).reshape(array.size, -1).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode()


def flat(state):
    """All weights of a state dict, one after the other, without names and level.  -> (n,)"""
    return torch.cat([x.flatten() for name, x in state.items() if name != "_extra_state"])


def halves(weights):
    return packed(weights.numpy().astype("<f2"))


def packed_rounds(states, every):
    """The last round's weights, and with `every` the way back from it to round 1.  -> dict

    Round 0 needs none: its decoder is uniform, whatever its hidden layers are. Each difference is
    to what the page has of the next round, so that the steps' errors do not add up.
    """
    weights = list(map(flat, states))
    known = weights[-1].half().float()
    steps = []
    for wanted in reversed(weights[1:-1]) if every else []:
        step = ((wanted - known) * STEPS).round().clamp(-127, 127)
        steps.append(packed(step.numpy().astype(np.int8)))
        known = known + step / STEPS
    return dict(rounds=len(weights) - 1, last=halves(weights[-1]), steps=steps)


# --- what the page holds --------------------------------------------------------------------------


def facts_of(rows, levels):
    """What the run measured on the test prompts of one experiment, for comparison.  -> dict"""
    of = dict(metric="reward", subtask=None)
    best = max(where(rows, policy="fixed", **of), key=lambda row: row["value"])
    facts = dict(best_fixed=dict(choice=best["temperature"], reward=best["value"]),
                 oracle=where(rows, policy="oracle", **of)[0]["value"], levels={})
    for level in levels:
        ours = dict(level=level, variant=VARIANT)
        reward, = where(rows, policy="adaptive", select="sample", **of, **ours)
        rounds = [row["value"] for row in where(rows, metric="round_reward", **ours)]
        facts["levels"][level] = dict(reward=reward["value"], rounds=rounds)
    return facts


def is_known(choice):
    """Does engine.js have such a choice?"""
    cut = choice.cut if isinstance(choice, Penalty) else choice
    return cut is None or isinstance(cut, float) or (cut.kind, cut.order) == ("min_p", ORDERS[0])


def name_of(labels):
    """What the page calls a set of choices; ValueError on one that it cannot sample with."""
    choices = list(map(choice_of, labels))
    if not all(map(is_known, choices)):
        raise ValueError(f"the page cannot sample with all of {labels}; give temperatures, or "
                         "settings as in min_p=.05@3 and frequency=1@0|min_p=.05")
    if any(map(has_memory, choices)):
        return "settings with memory"
    return "settings" if any(map(callable, choices)) else "temperatures"


def data_of(outs):
    """All that is not source: weights, choices and results of one run or several.  -> dict

    The runs have one base model; each has its own set of choices.
    """
    sets, made, base = [], [], None
    for out in map(Path, outs):
        results = figures.load(out / "results.json")
        config = results["config"]
        kept = read(out / results["base"])
        if base is not None and not torch.equal(flat(kept["model"]), flat(base)):
            raise ValueError(f"{out} has another base model than {outs[0]}; copy base_*.pt from "
                             f"{outs[0]} to an empty {out} and run train_toy.py there again")
        base = kept["model"]
        environments, decoders = [kept["environment"]], []
        for name, file in results["decoders"].items():
            experiment, level, variant = name.split()
            if variant == VARIANT:
                trained = read(out / file)
                if trained["model"]:
                    raise ValueError(f"{out} trained the language model, too, and the page holds "
                                     "the base model; run train_toy.py without --model-lr")
                environments.append(trained["environment"])
                decoders.append(dict(experiment=experiment, level=level, **packed_rounds(
                    trained["decoders"], every=level == "token" and not sets)))
        if not decoders:
            raise ValueError(f"{out} has no decoder of the {VARIANT} loss; run train_toy.py with "
                             f"--variants {VARIANT}")
        facts = {experiment: facts_of(where(results["rows"], experiment=experiment),
                                      config["levels"]) for experiment in config["experiments"]}
        training = {name: config[name] for name in
                    ("rounds", "prompts", "responses", "steps", "beta", "lr")}
        sets.append(dict(name=name_of(config["choices"]), choices=config["choices"], facts=facts,
                         training=training, decoders=decoders))
        made += [f"commit {x['commit']}, torch {x['torch']}" for x in environments]
    model = new_model(config["n_layer"], config["n_head"], config["n_embd"])
    shapes = [[name, list(x.shape)] for name, x in model.state_dict().items()]
    return dict(config=vars(model.config), shapes=shapes, base=halves(flat(base)), steps=STEPS,
                sets=sets, made=sorted(set(made)))


def words():
    """The lists of tasks.py, the texts and the scale of temperatures, as a script.  -> str"""
    lists = {name: getattr(tasks, name) for name in WORD_LISTS}
    lists["SPLITS"] = {name: list(buckets) for name, buckets in tasks.SPLITS.items()}
    lists["TASK_FACTS"] = {name: dict(length=task.length, roles=task.roles)
                           for name, task in tasks.TASKS.items()
                           if any(name in names for names in tasks.EXPERIMENTS.values())}
    lists["TEXTS"] = json.loads((FOLDER / "texts.json").read_text(encoding="utf-8"))
    lists["SHADES"] = SHADES
    return "\n".join(f"const {name} = {json.dumps(x)};" for name, x in lists.items())


# --- the page -------------------------------------------------------------------------------------


def page(data):
    """Sources around the data, which is JSON.  str -> str"""
    names = ["style.css", *(f"{name}.js" for name in SCRIPTS)]
    parts = {name: (FOLDER / name).read_text(encoding="utf-8") for name in names}
    colours = [f"--{name.lower()}: {getattr(figures, name)};" for name in COLOURS]
    shades = ", ".join(f"rgb{tuple(shade)}" for shade in SHADES)
    colours.append(f"--shades: linear-gradient(to right, {shades});")
    parts |= {"words.js": words(), "data.json": data, "colours": " ".join(colours),
              "known": " ".join(tasks.WORDS), "made": "; ".join(json.loads(data)["made"]),
              "steps": str(STEPS)}
    template = (FOLDER / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{ (\S+) \}\}", lambda match: parts[match[1]].strip(), template)


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
    write(arguments.page, text)
    print(f"{arguments.page}: {len(text.encode()) / 1000:.0f} KB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", nargs="+", default=["out", "out/memory"],
                        help="folders of the main job (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="the data of the present page")
    parser.add_argument("--page", type=Path, default=PAGE, help="where to write (%(default)s)")
    with program():
        main(parser.parse_args())
