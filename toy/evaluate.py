"""What a policy earns on held-out prompts: rewards, win rates, votes; and the oracle.

A policy is what `generate` takes: a decoder, or a temperature, which here may also be a table
{role: choice} for each prompt. Results are rows, dicts: a metric, a value and what it describes.

P prompts, S samples of each, R = P * S responses, T response tokens.
"""
import itertools
import shlex
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from decoder import Rollout, device_of
from fast.generate import generate
from lpo import require, sampled
from tasks import (EOS, EXPERIMENTS, HURRY, TASKS, WORDS, decode, encode, majority, places_of,
                   prompts)
from toy.samplers import label

VOTES = (1, 2, 4, 8, 16, 32)  # sizes of a majority
SEARCHED_VOTES = 8            # the one that an oracle is searched for
FIRST_HEAT = 12               # prompts on which all rivals of a race run
MARGIN = 3.0                  # standard errors behind the leader at which one drops out
BATCH = dict(cpu=256, cuda=2048)  # responses generated together; a CPU's must fit its cache


# --- responses and their rewards ------------------------------------------------------------------


@dataclass
class Outcome:
    """Responses to P prompts, S samples of each."""
    prompts: list     # P of (task, prompt)
    texts: list       # P lists of S texts
    scores: dict      # "reward", and the metrics that all the tasks have -> (P,S)
    rollout: Rollout  # of R responses, prompt by prompt

    @property
    def rewards(self):
        return self.scores["reward"]

    @property
    def asked(self):
        """The (task, prompt) of each of the R responses."""
        return [item for item in self.prompts for _ in range(self.rewards.shape[1])]

    def side(self, indices):
        """B of the R responses, by number, as an update takes them.  -> B prompts, Rollout"""
        asked = self.asked
        return [encode(asked[i][1]) for i in indices], self.rollout[indices]


def sample_prompts(experiment, split, n, rng):
    """About n (task, prompt) pairs, in equal parts from the tasks of the experiment."""
    names = EXPERIMENTS[experiment]
    return [(name, p) for name in names for p in prompts(name, split, max(1, n // len(names)), rng)]


def by_role(prompts, tables):
    """Choices that follow the role of each word.  R of (task, prompt), R of {role: choice}

    -> a function for `generate`, to be called for one column after the other.
    """
    tasks = [TASKS[name] for name, _ in prompts]
    walks = [task.walk(prompt) for task, (_, prompt) in zip(tasks, prompts)]

    def choices(tokens):
        if tokens.shape[1] == 0:
            places = map(next, walks)
        else:
            newest = [WORDS[i] if i < len(WORDS) else "" for i in tokens[:, -1].tolist()]
            places = [walk.send(word) for walk, word in zip(walks, newest)]
        return [table[task.role_of(place)] for table, task, place in zip(tables, tasks, places)]
    return choices


def respond(model, prompts, samples, generator, temperature=None, **policy):
    """Sample responses with a policy and score them.  P of (task, prompt) -> Outcome

    temperature: a choice, or P tables {role: choice}.
    """
    written = 1 if temperature == 0 else samples  # the arg-max is the same each time
    repeated = [item for item in prompts for _ in range(written)]
    T = max(TASKS[name].length for name, _ in prompts)
    rollouts = []
    for start in range(0, len(repeated), BATCH[device_of(model).type]):
        batch = repeated[start:start + BATCH[device_of(model).type]]
        tau = temperature
        if isinstance(temperature, list):
            numbers = range(start, start + len(batch))
            tau = by_role(batch, [temperature[i // written] for i in numbers])
        rollouts.append(generate(model, [encode(prompt) for _, prompt in batch], T, eos=EOS,
                                 temperature=tau, generator=generator, **policy))
    columns = zip(*(vars(rollout).values() for rollout in rollouts))
    rollout = Rollout(*(None if column[0] is None else torch.cat(column) for column in columns))
    copies = np.arange(len(repeated)).repeat(samples // written)
    return scored(prompts, samples, rollout[copies])


def scored(prompts, samples, rollout):
    """The texts of R responses, their rewards and metrics.  -> Outcome"""
    lengths = rollout.mask.sum(1).tolist()
    texts = [decode(ids[:n]) for ids, n in zip(rollout.tokens.tolist(), lengths)]
    texts = [texts[i:i + samples] for i in range(0, len(texts), samples)]
    measures = [dict(reward=TASKS[name].reward) | TASKS[name].metrics for name, _ in prompts]
    shared = [metric for metric in measures[0] if all(metric in of for of in measures)]
    scores = {metric: np.array([[float(of[metric](prompt, text)) for text in row]
                                for of, (_, prompt), row in zip(measures, prompts, texts)])
              for metric in shared}
    return Outcome(prompts, texts, scores, rollout)


# --- numbers of an outcome ------------------------------------------------------------------------


def win_rate(ours, theirs):
    """Per prompt, our share of wins over sample pairs; ties count half.  (P,S), (P,S') -> (P,)"""
    ours, theirs = ours[:, :, None], theirs[:, None, :]
    return ((ours > theirs) + 0.5 * (ours == theirs)).mean((1, 2))


def vote_accuracy(outcome, votes):
    """Per prompt, the accuracy of the majority of `votes` samples; ties count in part.  -> (P,)"""
    accuracy = []
    for (name, prompt), texts in zip(outcome.prompts, outcome.texts):
        answers, right = list(map(TASKS[name].answer_of, texts)), []
        for start in range(0, len(answers) - votes + 1, votes):
            winners = majority(answers[start:start + votes])
            right.append((TASKS[name].solution(prompt) in winners) / max(len(winners), 1))
        accuracy.append(np.mean(right))
    return np.array(accuracy)


def is_voted(prompts):
    """Can a majority count the answers to all of these (task, prompt)?"""
    return all(TASKS[name].answer_of is not None for name, _ in prompts)


def subtasks(prompts):
    """{task: the numbers of its prompts, (p,)}"""
    names = np.array([name for name, _ in prompts])
    return {name: np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist())}


def used_choices(outcome, choices):
    """The label of the choice at each token; at sequence level one for all.  K labels -> (R,T)"""
    kind = object if any(isinstance(choice, str) for choice in choices) else float
    labels = np.array(choices, dtype=kind)[outcome.rollout.tau_idx.cpu().numpy()]
    return np.broadcast_to(labels, outcome.rollout.mask.shape)


def places_in(outcome):
    """The place in the grammar of each word of each response; None after the last.  -> (R,T)"""
    places = np.full(outcome.rollout.mask.shape, None)
    texts = itertools.chain(*outcome.texts)
    for row, (name, prompt), text in zip(places, outcome.asked, texts):
        words = text.split()
        row[:len(words)] = places_of(TASKS[name].walk(prompt), words)[:-1]
    return places


def roles_of(outcome):
    """The role of each word of each response; None after the last.  -> (R,T)"""
    roles = places_in(outcome)
    for row, (name, _) in zip(roles, outcome.asked):
        row[:] = [None if place is None else TASKS[name].role_of(place) for place in row]
    return roles


def finite_numbers(name, values):
    """(P,N) as float64; ValueError unless all are finite real numbers, none of them masked."""
    if torch.is_tensor(values):
        values = values.tolist()  # numpy has no bfloat16
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} are {values!r:.60}; give numbers (P,N)") from None
    fits = numbers.ndim == 2 and np.isfinite(numbers).all() and not np.iscomplexobj(values)
    require(fits and not np.ma.isMaskedArray(values),
            f"{name} are {values!r:.60} of shape {numbers.shape}; give finite real numbers (P,N)")
    return numbers


# --- rows -----------------------------------------------------------------------------------------


def row(metric, value, n, **columns):
    """One result: the mean of n numbers, and what it describes. None: does not apply."""
    return {name: x for name, x in columns.items() if x is not None} | dict(
        metric=metric, value=float(value), n=int(n))


def where(rows, **wanted):
    """The rows that have these values; None: the column does not apply."""
    return [row for row in rows if all(row.get(name) == x for name, x in wanted.items())]


def decoders(results, **wanted):
    """Rows of the first loss's decoders, with sampled choices."""
    return where(results["rows"], policy="adaptive", select="sample",
                 variant=results["config"]["variants"][0], **wanted)


def reward_rows(outcome, **columns):
    """Reward, other metrics, share cut off, for all prompts and per subtask; votes."""
    rows, samples = [], outcome.rewards.shape[1]
    cut = outcome.rollout.cut.cpu().numpy().reshape(outcome.rewards.shape)
    parts = {None: np.arange(len(outcome.prompts))}
    if len(subtasks(outcome.prompts)) > 1:
        parts |= subtasks(outcome.prompts)
    for subtask, index in parts.items():
        for name, values in (outcome.scores | dict(cut=cut)).items():
            rows.append(row(name, values[index].mean(), len(index), subtask=subtask, **columns))
    if is_voted(outcome.prompts):
        rows += [row("vote_accuracy", vote_accuracy(outcome, votes).mean(), len(outcome.prompts),
                     votes=votes, **columns) for votes in VOTES if votes <= samples]
    return rows


def choice_rows(outcome, choices, **columns):
    """Which choices were used: shares per subtask and role, and means of temperatures, per place
    too. choices: K labels."""
    rows = []
    used, places, roles = used_choices(outcome, choices), places_in(outcome), roles_of(outcome)
    for subtask, index in subtasks(outcome.asked).items():
        groups = {}
        for choice, place, role in zip(used[index].flat, places[index].flat, roles[index].flat):
            if place is not None:
                for of in (("role", None), ("role", role), ("place", place)):
                    groups.setdefault(of, []).append(choice)
        for (kind, name), group in groups.items():
            of = columns | dict(subtask=subtask, **{kind: name})
            if used.dtype == float:
                rows.append(row("mean_temperature", np.mean(group), len(group), **of))
            if kind == "role":
                counts = Counter(group)
                rows += [row("choice_share", counts[choice] / len(group), len(group),
                             choice=choice, **of) for choice in choices]
    return rows


def adaptive_rows(outcome, choices, fixed, **columns):
    """All rows of a trained decoder. fixed: {temperature: its Outcome}, for the win rates."""
    columns |= dict(policy="adaptive")
    rows = reward_rows(outcome, **columns) + choice_rows(outcome, choices, **columns)
    for temperature, other in fixed.items():
        wins = win_rate(outcome.rewards, other.rewards)
        rows.append(row("win_rate", wins.mean(), len(wins), temperature=temperature, **columns))
    return rows


def impossible_share(sides, variant):
    """Share of response tokens whose text counts 0 in the score: impossible at temperature 0."""
    impossible = []
    for r in sides:
        text, ref_text = r.text_logps, r.ref_text_logps
        if variant == "joint":  # only the sampled temperature counts
            text, ref_text = (sampled(x, r.tau_idx)[..., None] for x in (text, ref_text))
        impossible.append((text.isneginf().all(-1) | ref_text.isneginf().all(-1))[r.mask])
    return torch.cat(impossible).float().mean().item()


def round_rows(outcome, choices, pairs, statistics, **columns):
    """A training round: its reward, number of pairs, losses, and mean temperature per subtask."""
    numbers = dict(round_reward=outcome.rewards.mean(), pairs=pairs) | statistics
    rows = [row(name, value, outcome.rewards.size, **columns) for name, value in numbers.items()]
    used, mask = used_choices(outcome, choices), outcome.rollout.mask.cpu().numpy()
    if used.dtype == float:
        for subtask, index in subtasks(outcome.asked).items():
            taus = used[index][mask[index]]
            rows.append(row("round_temperature", taus.mean(), taus.size, subtask=subtask,
                            **columns))
    return rows


def round_line(rows):
    """A round in one aligned line; impossible tokens only if there are any."""
    of = {row["metric"]: row["value"] for row in rows}
    line = f"  round {rows[0]['round']:2}  reward {of['round_reward']:6.3f}"
    line += f"  pairs {of['pairs']:4.0f}"
    if "loss_first" in of:
        line += f"  loss {of['loss_first']:.3f} -> {of['loss_last']:.3f}"
    if "pair_accuracy" in of:
        line += f"  pair accuracy {of['pair_accuracy']:.2f}"
    for row in where(rows, metric="round_temperature"):
        line += f"  {row['subtask']} at {row['value']:.2f}"
    if of.get("impossible"):
        line += f"  impossible tokens {of['impossible']:.3%}"
    return line


# --- the oracle: the best choice for each role, by a race -----------------------------------------


def all_tables(name, choices):
    """Every way to give the roles of a task a choice.  -> list of {role: choice}"""
    roles = list(dict.fromkeys([*TASKS[name].roles.values(), "rest"]))
    return [dict(zip(roles, given)) for given in itertools.product(choices, repeat=len(roles))]


def race(rivals, prompts, earned, halve=False):
    """The best of the rivals by their mean on all prompts.  -> it, its mean

    earned(rivals, prompts) -> (rivals, prompts). All run on the first dozen prompts. A rival that
    is behind the leader by more than MARGIN standard errors of their difference drops out, with
    `halve` the worse half too; the others go on to as many prompts again, until all are used.
    """
    values = np.empty((len(rivals), 0))  # (rivals, prompts so far)
    while values.shape[1] < len(prompts):
        start = values.shape[1]
        heat = prompts[start:max(FIRST_HEAT, 2 * start)]
        values = np.concatenate([values, earned(rivals, heat)], 1)
        means = values.mean(1)
        behind = values[means.argmax()] - values
        error = behind.std(1) / max(behind.shape[1] - 1, 1) ** 0.5
        kept = behind.mean(1) <= MARGIN * error
        if halve:
            kept &= means >= np.median(means)
        rivals = [rival for rival, stays in zip(rivals, kept) if stays]
        values = values[kept]
    best = values.mean(1).argmax()
    return rivals[best], float(values[best].mean())


def search_oracle(model, prompts, choices, samples, generator, votes=None):
    """The best choice for every role of each task.  -> {task: {role: choice}}

    By reward, or by the accuracy of a majority of `votes`.
    """
    def earned(tables, prompts):
        outcome = respond(model, prompts * len(tables), samples, generator,
                          temperature=[table for table in tables for _ in prompts])
        values = vote_accuracy(outcome, votes) if votes else outcome.rewards.mean(1)
        return values.reshape(len(tables), -1)
    best = {}
    for name, index in subtasks(prompts).items():
        of_task = [prompts[i] for i in index]
        best[name], _ = race(all_tables(name, choices), of_task, earned)
    return best


def oracle_rows(model, search, prompts, samples, choices, generator, experiment):
    """Rows of the oracle on test prompts, searched on the validation prompts in `search`.

    Where answers are voted on, a second search, by the majority, gives the votes.
    """
    rows = []
    for votes in (None, SEARCHED_VOTES) if is_voted(prompts) else (None,):
        tables = search_oracle(model, search, choices, votes or 4, generator, votes)
        outcome = respond(model, prompts, samples, generator,
                          temperature=[tables[name] for name, _ in prompts])
        of = dict(experiment=experiment, policy="oracle")
        rows += [r for r in reward_rows(outcome, **of)
                 if (r["metric"] == "vote_accuracy") == bool(votes)]
        rows += [row("oracle_choice", 1, len(search), subtask=name, role=role, votes=votes,
                     choice=label(choice), **of)
                 for name, table in tables.items() for role, choice in table.items()]
    return rows


# --- what is shown --------------------------------------------------------------------------------


def examples(outcome, choices, fixed, **columns):
    """A prompt of each subtask: responses of the decoder and at the best fixed temperature.

    The prompt is one of median gain (in the vote, of those with `hurry`), and the response one of
    median reward.  -> list of dicts: words, their choices, reward
    """
    best = max(fixed, key=lambda temperature: fixed[temperature].rewards.mean())
    samples = outcome.rewards.shape[1]
    used = used_choices(outcome, choices)
    gains = outcome.rewards.mean(1) - fixed[best].rewards.mean(1)
    found = []
    for subtask, index in subtasks(outcome.prompts).items():
        candidates = [p for p in index if HURRY in outcome.prompts[p][1]] or index
        p = sorted(candidates, key=gains.__getitem__)[len(candidates) // 2]
        for policy, of in (("fixed", fixed[best]), ("adaptive", outcome)):
            s = np.argsort(of.rewards[p], kind="stable")[samples // 2]
            words = of.texts[p][s].split()
            labels = [best] * len(words) if policy == "fixed" else used[p * samples + s].tolist()
            found.append(dict(columns, policy=policy, subtask=subtask, prompt=of.prompts[p][1],
                              words=words, choices=labels[:len(words)],
                              reward=float(of.rewards[p, s])))
    return found


def summary(results):
    """The headline of a run as text, and what to do next."""
    config, rows = results["config"], results["rows"]
    head = ["experiment", "best fixed", *(f"{level} level" for level in config["levels"]), "oracle"]
    lines = [head]
    for experiment in config["experiments"]:
        of = dict(experiment=experiment, metric="reward", subtask=None)
        best = max(where(rows, policy="fixed", **of), key=lambda r: r["value"])
        others = decoders(results, **of) + where(rows, policy="oracle", **of)
        lines.append([experiment, f"{best['value']:.3f} at {best['temperature']}",
                      *(f"{r['value']:.3f}" for r in others)])
    widths = [max(map(len, column)) for column in zip(*lines)]
    table = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths))
                      for line in lines)
    folder = "" if config["out"] == "out" else f" --out {shlex.quote(config['out'])}"
    return f"""
Mean reward on test prompts ({config['variants'][0]}, choices sampled):
{table}

The best fixed temperature is picked on these prompts, which favours it. The oracle is told the
role of each word; its temperatures were found on other prompts. Pair accuracy is the share of
pairs in the right order; it falls towards 0.5 when only luck tells best from worst.

Next: python -m toy.say "{results['samples'][0]['prompt']}"{folder}
      python train_toy.py --help
      What these numbers mean: results/README.md. The course: notebooks/."""
