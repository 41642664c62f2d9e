"""What a policy earns on held-out prompts: rewards, win rates, votes, the oracle.

A policy is what `generate` takes: a decoder, one temperature, or a table of temperatures. All
results are rows of one tidy table (COLUMNS); figures and README tables are made from it alone.
"""
import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from decoder import Rollout, generate
from stages import randomness
from tasks import EOS, EXPERIMENTS, TASKS, decode, encode, final_answer, majority, prompts, solution

COLUMNS = ("experiment", "policy", "temperature", "level", "variant", "select", "base_seed", "seed",
           "subtask", "role", "position", "side", "tau", "round", "pairs", "beta", "lr", "pairing",
           "reference", "metric", "votes", "value", "n")
VOTES = (1, 2, 4, 8, 16, 32)
BATCH = 2048  # responses generated together


def row(metric, value, n, **keys):
    """One row of the table; columns not named are None."""
    unknown = set(keys) - set(COLUMNS)
    assert not unknown, f"not columns of the table: {unknown}"
    return dict.fromkeys(COLUMNS) | keys | dict(metric=metric, value=float(value), n=int(n))


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
    rollout: Rollout  # of P*S rows, prompt by prompt

    @property
    def rewards(self):
        return self.scores["reward"]

    @cached_property
    def answers(self):
        return [[final_answer(text) for text in texts] for texts in self.texts]


def respond(model, asked, samples, generator, temperature=None, **policy):
    """Sample responses at a policy and score them.  -> Outcome

    temperature: a number, or a table (P,T) of one schedule a prompt.
    """
    rows = [item for item in asked for _ in range(samples)]
    T = max(len(TASKS[name].roles) for name, _ in asked)
    if isinstance(temperature, torch.Tensor):
        temperature = temperature.repeat_interleave(samples, dim=0)
    parts = []
    for start in range(0, len(rows), BATCH):
        block = slice(start, start + BATCH)
        tau = temperature[block] if isinstance(temperature, torch.Tensor) else temperature
        parts.append(generate(model, [encode(prompt) for _, prompt in rows[block]], T, eos=EOS,
                              temperature=tau, generator=generator, **policy))
    rollout = Rollout.cat(parts)
    tokens, lengths = rollout.tokens.tolist(), rollout.mask.sum(1).tolist()
    texts = [decode(ids[:n]) for ids, n in zip(tokens, lengths)]
    answered = [(TASKS[name], prompt, text) for (name, prompt), text in zip(rows, texts)]
    scores = {"reward": [task.reward(prompt, text) for task, prompt, text in answered]}
    if len({name for name, _ in asked}) == 1:
        for metric, measure in answered[0][0].metrics.items():
            scores[metric] = [measure(prompt, text) for _, prompt, text in answered]
    scores = {name: np.reshape(values, (len(asked), samples)) for name, values in scores.items()}
    texts = [texts[i:i + samples] for i in range(0, len(texts), samples)]
    return Outcome(asked, texts, scores, rollout)


# --- numbers of an outcome -----------------------------------------------------------------------


def win_rate(ours, theirs):
    """Per prompt, the share of sample pairs that ours wins, ties half.  (P,S), (P,S') -> (P,)"""
    ours, theirs = ours[:, :, None], theirs[:, None, :]
    return ((ours > theirs) + 0.5 * (ours == theirs)).mean((1, 2))


def vote_accuracy(outcome, votes):
    """Per prompt, how often the majority of `votes` samples is right, a tie in parts.  -> (P,)"""
    result = []
    for (_, prompt), answers in zip(outcome.asked, outcome.answers):
        groups = [majority(answers[i:i + votes]) for i in range(0, len(answers) - votes + 1, votes)]
        right = [(solution(prompt) in group) / max(len(group), 1) for group in groups]
        result.append(np.mean(right))
    return np.array(result)


def subtasks(asked):
    """Each subtask and the places of its prompts."""
    names = np.array([name for name, _ in asked])
    for name in dict.fromkeys(names.tolist()):
        yield name, np.flatnonzero(names == name)


def groups(asked):
    """The whole (None), then each subtask, with the places of their prompts."""
    yield None, np.arange(len(asked))
    yield from subtasks(asked)


def rows_of(index, samples):
    """Rows of a rollout that answer the prompts at index."""
    return (index[:, None] * samples + np.arange(samples)).ravel()


def outcome_rows(outcome, **keys):
    """Reward and the task's other metrics, whole and per subtask; votes where there are samples."""
    rows, samples = [], outcome.rewards.shape[1]
    cut = outcome.rollout.cut.cpu().numpy().reshape(outcome.rewards.shape)
    for subtask, index in groups(outcome.asked):
        here = keys | dict(subtask=subtask, n=len(index))
        rows += [row(name, scores[index].mean(), **here) for name, scores in outcome.scores.items()]
        rows.append(row("cut", cut[index].mean(), **here))
        if subtask == "vote":
            rows += [row("vote_accuracy", vote_accuracy(outcome, votes).mean(), votes=votes, **here)
                     for votes in VOTES if votes <= samples]
    return rows


def temperature_rows(outcome, temperatures, **keys):
    """Which temperatures were drawn: shares and means per subtask, role and place in a sentence."""
    rows, samples = [], outcome.rewards.shape[1]
    drawn, mask = drawn_temperatures(outcome, temperatures)
    for subtask, index in subtasks(outcome.asked):
        here, task = keys | dict(subtask=subtask), TASKS[subtask]
        at = rows_of(index, samples)
        T = len(task.roles) - 1  # the end of text belongs to no sentence
        words, valid = drawn[at, :T], mask[at, :T]
        roles = np.array(task.roles[:T])
        rows.append(row("non_greedy", ((words > 0) & valid).any(1).mean(), len(at), **here))
        for role in [None, *dict.fromkeys(task.roles)]:
            chosen = words[valid & (roles == role if role else True)]
            if not chosen.size:  # every response ended before
                continue
            rows.append(row("mean_temperature", chosen.mean(), chosen.size, role=role, **here))
            rows += [row("temperature_share", (chosen == tau).mean(), chosen.size, role=role,
                         tau=tau, **here) for tau in temperatures]
        for position in range(task.period):
            column = slice(position, None, task.period)
            there = words[:, column][valid[:, column]]
            if there.size:
                rows.append(row("mean_temperature", there.mean(), there.size, position=position,
                                **here))
    return rows


def win_rows(ours, fixed, **keys):
    """Win rate against each fixed temperature, by reward.  ours: Outcome, fixed: measure_fixed's"""
    return [row("win_rate", win_rate(ours.rewards[index], scores["reward"][index].numpy()).mean(),
                n=len(index), temperature=tau, subtask=subtask, **keys)
            for subtask, index in groups(ours.asked) for tau, scores in fixed.items()]


def round_rows(cfg, outcome, sides, stats, keys):
    """A training round: its statistics, reward and mean temperature of each subtask, and the share
    of each temperature among the chosen and among the rejected."""
    rows = [row(name, value, keys["pairs"], **keys) for name, value in stats.items()]
    rows.append(row("round_reward", outcome.rewards.mean(), outcome.rewards.size, **keys))
    taus, mask = drawn_temperatures(outcome, cfg.temperatures)
    for subtask, index in subtasks(outcome.asked):
        at = rows_of(index, cfg.responses)
        rows.append(row("round_temperature", taus[at][mask[at]].mean(), len(at), subtask=subtask,
                        **keys))
    for side, (_, rollout) in zip(("chosen", "rejected"), sides):
        drawn = rollout.tau_idx[rollout.mask[:, :rollout.tau_idx.shape[1]]]
        rows += [row("temperature_share", (drawn == k).float().mean(), drawn.numel(), side=side,
                     tau=tau, **keys) for k, tau in enumerate(cfg.temperatures)]
    return rows


def round_line(rows):
    """A round in one aligned line; tokens that temperature 0 made impossible only if there are."""
    of = {r["metric"]: r["value"] for r in rows}
    taus = [f"{r['subtask']} {r['value']:.2f}" for r in rows if r["metric"] == "round_temperature"]
    lost = f"  impossible tokens {of['impossible']:.3%}" if of["impossible"] else ""
    return (f"  round {rows[0]['round'] + 1}  pairs {rows[0]['pairs']:4d}  reward "
            f"{of['round_reward']:6.3f}  loss {of['loss_first']:.3f} -> {of['loss_last']:.3f}  "
            f"pair accuracy {of['pair_accuracy']:.2f}  mean temperature {', '.join(taus)}{lost}")


def drawn_temperatures(outcome, temperatures):
    """Temperatures and mask of every response token; a sequence level's one for all.  -> 2 (R,T)"""
    mask = outcome.rollout.mask.cpu().numpy()
    taus = np.array(temperatures)[outcome.rollout.tau_idx.cpu().numpy()]
    return np.broadcast_to(taus, mask.shape), mask


def with_votes(outcome):
    """The scores (P,S) of an outcome, and of the vote the accuracy by votes (P,1), as tensors."""
    scores = dict(outcome.scores)
    if {name for name, _ in outcome.asked} == {"vote"}:
        for votes in VOTES:
            if votes <= outcome.rewards.shape[1]:
                scores[f"vote_accuracy@{votes}"] = vote_accuracy(outcome, votes)[:, None]
    return {name: torch.as_tensor(values) for name, values in scores.items()}


# --- the oracle: the best temperature per role, by brute force ------------------------------------


def schedule(asked, tables):
    """Temperatures by role -> one row a prompt.  {task: {role: tau}} -> (P,T)"""
    T = max(len(TASKS[name].roles) for name, _ in asked)
    rows = [[tables[name][role] for role in TASKS[name].roles] for name, _ in asked]
    return torch.tensor([row + row[-1:] * (T - len(row)) for row in rows])


def search_oracle(model, asked, temperatures, samples, generator, votes=None):
    """Try every temperature for every role of each task.  -> {task: {role: tau}}

    By reward, or by the accuracy of a majority of `votes`.
    """
    best = {}
    for name, index in subtasks(asked):
        here = [asked[i] for i in index]
        roles = list(dict.fromkeys(TASKS[name].roles))
        tables = [dict(zip(roles, taus))
                  for taus in itertools.product(temperatures, repeat=len(roles))]
        table = torch.cat([schedule(here, {name: roles}) for roles in tables])
        outcome = respond(model, here * len(tables), samples, generator, temperature=table)
        values = vote_accuracy(outcome, votes) if votes else outcome.rewards.mean(1)
        best[name] = tables[values.reshape(len(tables), -1).mean(1).argmax()]
    return best


# --- the two evaluations of train_toy.py ----------------------------------------------------------


def test_set(cfg, experiment):
    """The test prompts, the same for every seed, and the samples of each."""
    _, rng = randomness("cpu", "test", experiment)
    samples = cfg.votes if experiment == "vote" else cfg.test_samples
    return draw_prompts(experiment, "test", cfg.test_prompts, rng), samples


def measure_fixed(cfg, model, keys, run):
    """Every fixed temperature and the oracle on the test prompts.  -> rows, scores of each"""
    gen, rng = randomness(cfg.device, "fixed", *keys.values())
    asked, samples = test_set(cfg, keys["experiment"])
    rows, fixed, oracle = [], {}, {}
    for i, tau in enumerate(cfg.temperatures):
        run.tick(i / len(cfg.temperatures) * 0.7, f"temperature {tau}")
        outcome = respond(model, asked, samples, gen, temperature=tau)
        rows += outcome_rows(outcome, policy="fixed", temperature=tau, **keys)
        fixed[tau] = with_votes(outcome)
    search = draw_prompts(keys["experiment"], "validation", cfg.oracle_prompts, rng)
    keys = keys | dict(policy="oracle")
    for votes in (8, None) if keys["experiment"] == "vote" else (None,):
        run.tick(0.8, "searching the oracle")
        tables = search_oracle(model, search, cfg.temperatures, votes or 4, gen, votes)
        outcome = respond(model, asked, samples, gen, temperature=schedule(asked, tables))
        # of the two oracles of the vote, the one searched by votes reports the votes
        rows += [found for found in outcome_rows(outcome, **keys)
                 if (found["metric"] == "vote_accuracy") == bool(votes)]
        rows += [row("oracle_temperature", tau, len(search), subtask=name, role=role, votes=votes,
                     **keys) for name, table in tables.items() for role, tau in table.items()]
        oracle |= {name: x for name, x in with_votes(outcome).items()
                   if name.startswith("vote_accuracy") == bool(votes)}
    return dict(rows=rows, fixed=fixed, oracle=oracle)


def measure_adaptive(cfg, model, decoder, fixed, keys, run):
    """A trained decoder, its temperatures chosen greedily and sampled.

    -> dict(rows, samples: example texts, scores: {how chosen: scores})
    """
    gen, _ = randomness(cfg.device, "adapted", *keys.values())
    asked, samples = test_set(cfg, keys["experiment"])
    rows, kept = [], {}
    for i, select in enumerate(("greedy", "sample")):
        run.tick(0.5 + 0.25 * i, f"evaluating, temperature by {select}")
        outcome = respond(model, asked, samples, gen, decoder=decoder, tau_select=select)
        here = keys | dict(policy="adaptive", select=select)
        rows += outcome_rows(outcome, **here)
        rows += temperature_rows(outcome, decoder.temperatures, **here)
        rows += win_rows(outcome, fixed["fixed"], **here)
        kept[select] = with_votes(outcome)
    texts = [keys | text for text in examples(outcome, decoder.temperatures)]
    return dict(rows=rows, samples=texts, scores=kept)


def examples(outcome, temperatures):
    """One response of each subtask, as words and the temperature of each, for the coloured text."""
    found, samples = [], outcome.rewards.shape[1]
    for subtask, index in subtasks(outcome.asked):
        words = outcome.texts[index[0]][0].split()
        taus = [temperatures[k] for k in outcome.rollout.tau_idx[index[0] * samples].tolist()]
        found.append(dict(subtask=subtask, prompt=outcome.asked[index[0]][1], words=words,
                          temperatures=(taus * len(words))[:len(words)]))
    return found
