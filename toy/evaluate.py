"""What a policy earns on held-out prompts: rewards, win rates, votes, the oracle.

A policy is what `generate` takes: a decoder or a temperature, or here a table {role: temperature}
for each prompt. All results are rows of one table (rows.py), of which figures and pages are made.

P prompts, S samples of each, R = P * S responses, T response tokens.
"""
import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from decoder import Rollout, device_of
from fast.generate import generate
from tasks import EOS, EXPERIMENTS, TASKS, WORDS, decode, encode, majority, places_of, prompts
from toy.rows import row
from toy.samplers import choice_of, label
from toy.stages import randomness

VOTES = (1, 2, 4, 8, 16, 32)  # sizes of a majority
SEARCHED_VOTES = 8  # the one that the oracle of votes is searched for
FIRST_HEAT = 12  # prompts on which all tables of the oracle's search run
BATCH = dict(cpu=256, cuda=2048)  # responses generated together; a CPU's must fit its cache


def draw_prompts(experiment, split, n, rng):
    """About n (task, prompt) pairs, the experiment's tasks in equal parts."""
    names = EXPERIMENTS[experiment]
    return [(name, p) for name in names for p in prompts(name, split, max(1, n // len(names)), rng)]


@dataclass
class Outcome:
    """Responses to P prompts, S samples each."""
    asked: list       # P of (task, prompt)
    texts: list       # P lists of S texts
    scores: dict      # name -> (P,S): "reward", and the metrics of a task that is alone
    rollout: Rollout  # of R responses, prompt by prompt

    @property
    def rewards(self):
        return self.scores["reward"]

    @cached_property
    def answers(self):
        """What a majority counts of each text.  -> P lists of S, empty where nobody votes"""
        answer_of = [TASKS[name].answer_of for name, _ in self.asked]
        return [list(map(answer, texts)) if answer else []
                for answer, texts in zip(answer_of, self.texts)]


class ByRole:
    """A choice that follows the roles of what is written, as `generate` takes it."""

    def __init__(self, asked, tables):
        """Each response's (task, prompt), and its {role: choice}."""
        self.tasks = [TASKS[name] for name, _ in asked]
        self.walks = [task.walk(prompt) for task, (_, prompt) in zip(self.tasks, asked)]
        self.tables = tables

    def __call__(self, tokens):
        """(R,t) -> R choices of the next column; to be called for one t after the other."""
        if tokens.shape[1] == 0:
            places = [next(walk) for walk in self.walks]
        else:
            places = [walk.send(WORDS[i] if i < len(WORDS) else "")
                      for walk, i in zip(self.walks, tokens[:, -1].tolist())]
        return [table[task.role_of(place)] for table, task, place in
                zip(self.tables, self.tasks, places)]


def respond(model, asked, samples, generator, temperature=None, **policy):
    """Sample responses at a policy and score them.  P of (task, prompt) -> Outcome

    temperature: a choice, or P tables {role: choice}.
    """
    written = 1 if temperature == 0 else samples  # the arg-max is the same each time
    every = [item for item in asked for _ in range(written)]
    T = max(TASKS[name].length for name, _ in asked)
    batch = BATCH[device_of(model).type]
    parts = []
    for start in range(0, len(every), batch):
        block = every[start:start + batch]
        tau = temperature
        if isinstance(temperature, list):
            tau = ByRole(block, [temperature[i // samples]
                                 for i in range(start, start + len(block))])
        parts.append(generate(model, [encode(prompt) for _, prompt in block], T, eos=EOS,
                              temperature=tau, generator=generator, **policy))
    copies = np.arange(len(every)).repeat(samples // written)
    return scored(asked, samples, Rollout.cat(parts)[copies])


def scored(asked, samples, rollout):
    """The rewards of what was written, and the metrics of a task that is alone.  -> Outcome"""
    every = [item for item in asked for _ in range(samples)]  # R
    lengths = rollout.mask.sum(1).tolist()
    texts = [decode(ids[:n]) for ids, n in zip(rollout.tokens.tolist(), lengths)]
    answered = [(TASKS[name], prompt, text) for (name, prompt), text in zip(every, texts)]
    scores = {"reward": [task.reward(prompt, text) for task, prompt, text in answered]}
    if len({name for name, _ in asked}) == 1:
        for metric, measure in answered[0][0].metrics.items():
            scores[metric] = [measure(prompt, text) for _, prompt, text in answered]
    shape = len(asked), samples
    scores = {name: np.array(values, dtype=float).reshape(shape) for name, values in scores.items()}
    texts = [texts[i:i + samples] for i in range(0, len(texts), samples)]
    return Outcome(asked, texts, scores, rollout)


# --- numbers of an outcome ------------------------------------------------------------------------


def win_rate(ours, theirs):
    """Per prompt, the share of sample pairs that ours wins, ties half.  (P,S), (P,S') -> (P,)"""
    ours, theirs = ours[:, :, None], theirs[:, None, :]
    return ((ours > theirs) + 0.5 * (ours == theirs)).mean((1, 2))


def vote_accuracy(outcome, votes, index=None):
    """Per prompt, how often the majority of `votes` samples is right, a tie in parts.  -> (P,)

    index: of which prompts, as a rule of all.
    """
    result = []
    for p in range(len(outcome.asked)) if index is None else index:
        name, prompt = outcome.asked[p]
        solution, answers = TASKS[name].solution(prompt), outcome.answers[p]
        right = []
        for start in range(0, len(answers) - votes + 1, votes):
            winners = majority(answers[start:start + votes])
            right.append((solution in winners) / max(len(winners), 1))
        result.append(np.mean(right))
    return np.array(result)


def is_voted(names):
    """Are these tasks ones whose answers a majority can count?"""
    return all(TASKS[name].answer_of is not None for name in names)


def subtasks(asked):
    """Each subtask and the places of its prompts."""
    names = np.array([name for name, _ in asked])
    for name in dict.fromkeys(names.tolist()):
        yield name, np.flatnonzero(names == name)


def groups(asked):
    """The whole (None), then each subtask, with the places of their prompts."""
    yield None, np.arange(len(asked))
    yield from subtasks(asked)


def responses_of(prompts, samples):
    """The numbers of the responses to some prompts, by number.  (p,) -> (p * S,)"""
    return (prompts[:, None] * samples + np.arange(samples)).ravel()


def outcome_rows(outcome, **columns):
    """Reward and the task's other metrics, whole and per subtask; votes where there are samples."""
    rows, samples = [], outcome.rewards.shape[1]
    cut = outcome.rollout.cut.cpu().numpy().reshape(outcome.rewards.shape)
    for subtask, index in groups(outcome.asked):
        of = columns | dict(subtask=subtask, n=len(index))
        rows += [row(name, scores[index].mean(), **of) for name, scores in outcome.scores.items()]
        rows.append(row("cut", cut[index].mean(), **of))
        if subtask is not None and is_voted([subtask]):
            rows += [row("vote_accuracy", vote_accuracy(outcome, votes, index).mean(), votes=votes,
                         **of) for votes in VOTES if votes <= samples]
    return rows


def used_choices(outcome, choices):
    """Choices and mask of every response token; a sequence level's one for all.  -> 2 (R,T)

    choices: K labels; an array of numbers where all are temperatures.
    """
    mask = outcome.rollout.mask.cpu().numpy()
    kind = object if any(isinstance(choice, str) for choice in choices) else float
    taus = np.array(choices, dtype=kind)[outcome.rollout.tau_idx.cpu().numpy()]
    return np.broadcast_to(taus, mask.shape), mask


def places_in(outcome, number):
    """The place of each word of the response of that number; the end of text is no word."""
    prompt, sample = divmod(number, outcome.rewards.shape[1])
    name, asked = outcome.asked[prompt]
    return places_of(TASKS[name].walk(asked), outcome.texts[prompt][sample].split())[:-1]


def roles_of(outcome):
    """The role of each word of the responses; None behind their words.  -> (R,T)"""
    roles, samples = np.full(outcome.rollout.mask.shape, None), outcome.rewards.shape[1]
    for number, found in enumerate(roles):
        task, places = TASKS[outcome.asked[number // samples][0]], places_in(outcome, number)
        found[:len(places)] = [task.role_of(place) for place in places]
    return roles


def temperature_rows(outcome, choices, **columns):
    """Which choices were used: shares per subtask and role, and of temperatures the means, which
    are given for each place in the grammar too."""
    rows, samples = [], outcome.rewards.shape[1]
    taus, _ = used_choices(outcome, choices)
    numbers_only = taus.dtype == float
    for subtask, index in subtasks(outcome.asked):
        task, of = TASKS[subtask], columns | dict(subtask=subtask)
        numbers = responses_of(index, samples)
        found, warm = [], []  # (place, choice) of each word; has a response one that is not 0?
        for number in numbers:
            places = places_in(outcome, number)
            used = taus[number, :len(places)]
            found += zip(places, used.tolist())
            warm.append((used != 0).any())
        rows.append(row("non_greedy", np.mean(warm), len(numbers), **of))
        by_place, by_role = {}, {None: [tau for _, tau in found]}
        for place, tau in found:
            by_place.setdefault(place, []).append(tau)
            by_role.setdefault(task.role_of(place), []).append(tau)
        for role, chosen in by_role.items():
            if not chosen:  # every response ended before
                continue
            if numbers_only:
                rows.append(row("mean_temperature", np.mean(chosen), len(chosen), role=role, **of))
            rows += [row("temperature_share", np.mean([used == tau for used in chosen]),
                         len(chosen), role=role, tau=tau, **of) for tau in choices]
        if numbers_only:
            rows += [row("mean_temperature", np.mean(chosen), len(chosen), place=place, **of)
                     for place, chosen in by_place.items()]
    return rows


def win_rows(ours, fixed, **columns):
    """Win rate against each fixed temperature, by reward.  ours: Outcome, fixed: measure_fixed's"""
    return [row("win_rate", win_rate(ours.rewards[index], scores["reward"][index].numpy()).mean(),
                n=len(index), temperature=tau, subtask=subtask, **columns)
            for subtask, index in groups(ours.asked) for tau, scores in fixed.items()]


def round_rows(outcome, choices, sides, stats, columns):
    """A training round: its statistics, reward and mean temperature of each subtask, and the share
    of each choice among the chosen and among the rejected."""
    rows = [row(name, value, columns["pairs"], **columns) for name, value in stats.items()]
    rows.append(row("round_reward", outcome.rewards.mean(), outcome.rewards.size, **columns))
    taus, mask = used_choices(outcome, choices)
    for subtask, index in subtasks(outcome.asked):
        numbers = responses_of(index, outcome.rewards.shape[1])
        if taus.dtype == float:
            rows.append(row("round_temperature", taus[numbers][mask[numbers]].mean(), len(numbers),
                            subtask=subtask, **columns))
    for side, (_, rollout) in zip(("chosen", "rejected"), sides):
        used = rollout.tau_idx[rollout.mask[:, :rollout.tau_idx.shape[1]]]
        rows += [row("temperature_share", (used == k).float().mean(), used.numel(), side=side,
                     tau=tau, **columns) for k, tau in enumerate(choices)]
    return rows


def round_line(rows):
    """A round in one aligned line; tokens that temperature 0 made impossible only if there are."""
    of = {r["metric"]: r["value"] for r in rows}
    taus = [f"{r['subtask']} {r['value']:.2f}" for r in rows if r["metric"] == "round_temperature"]
    right = f"  pair accuracy {of['pair_accuracy']:.2f}" if "pair_accuracy" in of else ""
    warmth = f"  mean temperature {', '.join(taus)}" if taus else ""
    lost = f"  impossible tokens {of['impossible']:.3%}" if of["impossible"] else ""
    return (f"  round {rows[0]['round'] + 1}  pairs {rows[0]['pairs']:4d}  reward "
            f"{of['round_reward']:6.3f}  loss {of['loss_first']:.3f} -> {of['loss_last']:.3f}"
            f"{right}{warmth}{lost}")


def with_votes(outcome):
    """The scores (P,S) of an outcome, and its accuracy by votes (P,1) if any, as tensors."""
    scores = dict(outcome.scores)
    if is_voted([name for name, _ in outcome.asked]):
        for votes in VOTES:
            if votes <= outcome.rewards.shape[1]:
                scores[f"vote_accuracy@{votes}"] = vote_accuracy(outcome, votes)[:, None]
    return {name: torch.as_tensor(values) for name, values in scores.items()}


# --- the oracle: the best choice per role, by a race ----------------------------------------------


def all_tables(name, choices):
    """Every way to give the task's roles a choice.  -> list of {role: choice}"""
    roles = list(dict.fromkeys([*TASKS[name].roles.values(), "rest"]))
    return [dict(zip(roles, given)) for given in itertools.product(choices, repeat=len(roles))]


def search_oracle(model, asked, choices, samples, generator, votes=None, margin=3.0):
    """The best choice for every role of each task.  -> {task: {role: choice}}

    By reward, or by the accuracy of a majority of `votes`. All tables run on the first dozen of
    prompts; one that falls behind the leader by more than `margin` standard errors of their
    difference is out, and the others go on to as many prompts again, until all are used.
    """
    best = {}
    for name, index in subtasks(asked):
        tables = all_tables(name, choices)
        values = np.empty((len(tables), 0))  # (tables, prompts so far)
        start, end = 0, FIRST_HEAT
        while start < len(index):
            heat_asked = [asked[i] for i in index[start:end]]
            start, end = end, 2 * end
            outcome = respond(model, heat_asked * len(tables), samples, generator,
                              temperature=[table for table in tables for _ in heat_asked])
            found = vote_accuracy(outcome, votes) if votes else outcome.rewards.mean(1)
            values = np.concatenate([values, found.reshape(len(tables), -1)], 1)
            behind = values[values.mean(1).argmax()] - values
            error = behind.std(1) / max(behind.shape[1] - 1, 1) ** 0.5
            kept = behind.mean(1) <= margin * error
            tables = [table for table, stays in zip(tables, kept) if stays]
            values = values[kept]
        best[name] = tables[values.mean(1).argmax()]
    return best


# --- the two evaluations of train_toy.py ----------------------------------------------------------


def test_set(cfg, experiment):
    """The test prompts, the same for every seed, and the samples of each."""
    _, rng = randomness("cpu", "test", experiment)
    samples = cfg.votes if is_voted(EXPERIMENTS[experiment]) else cfg.test_samples
    return draw_prompts(experiment, "test", cfg.test_prompts, rng), samples


def measure_fixed(cfg, model, job, run):
    """Every fixed choice and the oracle on the test prompts.  -> rows, scores of each"""
    gen, rng = randomness(cfg.device, *job.seeds("fixed"))
    asked, samples = test_set(cfg, job.experiment)
    rows, fixed, oracle = [], {}, {}
    choices = [choice_of(tau) for tau in cfg.choices]
    for i, (tau, choice) in enumerate(zip(cfg.choices, choices)):
        run.tick((i + 1) / len(choices) * 0.7, f"temperature {tau}")
        outcome = respond(model, asked, samples, gen, temperature=choice)
        rows += outcome_rows(outcome, policy="fixed", temperature=tau, **job.columns)
        fixed[tau] = with_votes(outcome)
    search = draw_prompts(job.experiment, "validation", cfg.oracle_prompts, rng)
    voted = is_voted(EXPERIMENTS[job.experiment])
    columns = job.columns | dict(policy="oracle")
    for votes in (SEARCHED_VOTES, None) if voted else (None,):
        run.tick(0.8, "searching the oracle")
        tables = search_oracle(model, search, choices, votes or 4, gen, votes)
        outcome = respond(model, asked, samples, gen,
                          temperature=[tables[name] for name, _ in asked])
        # of the two oracles of a vote, the one searched by votes reports the votes
        rows += [found for found in outcome_rows(outcome, **columns)
                 if (found["metric"] == "vote_accuracy") == bool(votes)]
        rows += [row("oracle_choice", 1, len(search), subtask=name, role=role, votes=votes,
                     tau=label(choice), **columns)
                 for name, table in tables.items() for role, choice in table.items()]
        oracle |= {name: x for name, x in with_votes(outcome).items()
                   if name.startswith("vote_accuracy") == bool(votes)}
    return dict(rows=rows, fixed=fixed, oracle=oracle)


def measure_adaptive(cfg, model, decoder, fixed, job, columns, run):
    """A trained decoder, its temperatures chosen greedily and sampled.

    -> dict(rows, samples: example texts, scores: {how chosen: scores})
    """
    gen, _ = randomness(cfg.device, *job.seeds("adaptive"))
    asked, samples = test_set(cfg, job.experiment)
    rows, kept = [], {}
    for i, select in enumerate(("greedy", "sample")):
        run.tick(0.5 + 0.25 * i, f"evaluating, temperature by {select}")
        outcome = respond(model, asked, samples, gen, decoder=decoder, tau_select=select)
        of = columns | dict(policy="adaptive", select=select)
        rows += outcome_rows(outcome, **of)
        rows += temperature_rows(outcome, cfg.choices, **of)
        rows += win_rows(outcome, fixed["fixed"], **of)
        kept[select] = with_votes(outcome)
    texts = [columns | text for text in examples(outcome, cfg.choices)]
    return dict(rows=rows, samples=texts, scores=kept)


def examples(outcome, choices):
    """The response of median reward to one prompt of each subtask: its words and their choices."""
    found, samples = [], outcome.rewards.shape[1]
    taus, _ = used_choices(outcome, choices)
    for subtask, index in subtasks(outcome.asked):
        prompt = index[0]
        sample = np.argsort(outcome.rewards[prompt], kind="stable")[samples // 2]
        words = outcome.texts[prompt][sample].split()
        used = taus[prompt * samples + sample, :len(words)].tolist()
        found.append(dict(subtask=subtask, prompt=outcome.asked[prompt][1], words=words,
                          temperatures=used))
    return found
