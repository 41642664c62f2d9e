"""Training on a real language model, on a tiny random one: rewards by hand, the loop against
decoder.py's own route, two processes against one.
    pytest tests/test_real_train.py
"""
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", minversion="5")
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

import decoder as decoding  # noqa: E402
import lpo  # noqa: E402
from real import hf, models, tasks, train  # noqa: E402
from results import real_model  # noqa: E402
from toy.samplers import choice_of  # noqa: E402
from toy.stages import Silent  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SPLITS = ("train", "validation", "test")


class Bytes:
    """A tokenizer: a token a byte, 0 the end of text."""

    def __call__(self, text, add_special_tokens=True):
        assert not add_special_tokens
        return SimpleNamespace(input_ids=list(text.encode()))

    def decode(self, ids, skip_special_tokens=False):
        return bytes(i for i in ids if i or not skip_special_tokens).decode("latin-1")

    def batch_decode(self, rows):
        return [self.decode(row) for row in np.asarray(rows).tolist()]

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


def test_what_the_model_is_given():
    lines = ("lines", ("the sea", "Do not", "Do not run,", "Do not go,"))
    text = bytes(tasks.token_ids(lines, Bytes())).decode()
    assert text == ('A poem about the sea. Every line begins with "Do not".\n\nDo not run,\n'
                    "Do not go,\n")
    assert bytes(tasks.token_ids(("capital", ("Peru", "Lima")), Bytes())).decode() == (
        "<user>What is the capital of Peru? Answer with its name alone.<assistant>")
    opening = ("repeats", ("", " and why it matters:", "the wheel"))
    assert bytes(tasks.token_ids(opening, Bytes())).decode() == "The wheel and why it matters:"


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
    (("list", ("fruits",)), "1. Apple\n2. apple\n- Pear\n\n3.", 2 / 10),
    (("list", ("fruits",)), "\n".join("abcdefghijkl"), 1.0),
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


def test_roles_of_a_line():
    role = tasks.TASKS["lines"].role
    for so_far, expected in (("", "start"), ("Do", "start"), ("Do ", "start"), ("Do not", "rest"),
                             ("Do not go", "rest"), ("Do not go\n", "start"), ("The", "rest"),
                             ("Do not go\nDo", "start"), ("Do not go\n\n", "start")):
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
        prompt = tasks.token_ids(item, tokenizer)
        with torch.no_grad():
            logits = model.lm(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1:-1]
        own = logits.softmax(-1).gather(1, ids[:, None])[:, 0]  # at temperature 1, not 1.5
        assert np.allclose(probabilities, own, rtol=1e-4, atol=1e-7)
    lengths = rollout.mask.sum(1)
    assert lengths.max() > 16 >= max(lengths[:4])  # stories go on, facts are cut


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
    model, tokenizer = lm
    asked = [DO_NOT, DO_NOT]
    text = "Do not go\nDone"
    ids = [*text.encode(), 0, 0]
    n = len(text)
    tau_idx = torch.tensor([[i % 3 for i in range(n + 2)], [2] * (n + 2)])
    mask = torch.arange(n + 2) < torch.tensor([[n], [4]])
    if level == "sequence":
        tau_idx = tau_idx[:, 1:2]
    rollout = decoding.Rollout(torch.tensor([ids, ids]), mask, torch.tensor([True, True]), tau_idx)
    outcome = train.Outcome(asked, [], np.zeros((2, 1)), rollout)
    first, second = train.drawn_at(outcome, tokenizer)
    assert "".join(piece for _, piece, _ in first) == text and len(second) == 4
    roles = ["start"] * 6 + ["rest"] * 4 + ["start"] * 3 + ["rest"]  # "Don" is no longer asked
    assert [role for role, *_ in first] == roles
    drawn = [i % 3 for i in range(n)] if level == "token" else [1] * n
    assert [k for *_, k in first] == drawn
    counts = {role: [0, 0, 0] for role in ("lines, start", "lines, rest")}
    for role, k in [*zip(roles, drawn), *(("start", 2) for _ in range(4))]:
        counts[f"lines, {role}"][k] += 1
    assert train.counts_of(outcome, 3, tokenizer) == counts


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
    assert 1 / 3 < certainty < 1


def test_without_a_pair_there_is_nothing_to_learn_from(lm, monkeypatch):
    said = []
    run = Silent()
    run.say = said.append
    monkeypatch.setattr(train, "reward", lambda *_: 1.0)
    head, rounds = train.train(config(experiment="repeats"), lm, 0, run)
    assert rounds == [] and all("no pair of unequal rewards" in text for text in said)
    assert (head.mlp[-1].weight == 0).all()


@pytest.mark.parametrize("reference", ("round", "initial"))
def test_rounds_have_their_reference_and_rate(lm, monkeypatch, reference):
    refs, rates = [], []

    def update(head, ref_head, sides, beta, lr, steps):
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


# ---- two processes -----------------------------------------------------------------------------

def test_two_processes_train_the_decoder_that_one_does(lm, tmp_path):
    """Each has half of the prompts and of the responses; pairs and measurements are gathered."""
    cfg = config(prompts=4)
    head, outcome = sampled(lm, cfg)
    sides = train.sides_of(lm[0], head, outcome)
    expected, _ = train.update(head, sampled(lm, cfg, 1)[0], sides, 0.3, 0.01, 3)
    program = tmp_path / "half.py"
    program.write_text(f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import torch, torch.distributed as dist
import test_real_train as t
from real import hf, train
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
lm = hf.wrap(t.tiny_lm()), t.Bytes()
cfg = t.config(prompts=4)
head, outcome = t.sampled(lm, cfg)
rows = [i for p in range(4)[rank::2] for i in range(4 * p, 4 * p + 4)]
half = train.Outcome(outcome.asked[rank::2], outcome.prompts[rank::2], outcome.rewards[rank::2],
                     outcome.rollout[rows])
assert train.mine(range(4)) == range(4)[rank::2]
sides = train.sides_of(lm[0], head, half)
loss, _ = train.update(head, t.sampled(lm, cfg, 1)[0], sides, 0.3, 0.01, 3)
train.reward = lambda item, text, p: len(item[1][0])
_, rewards = train.measure(cfg, lm, "test", "x", temperature=0.0)
torch.save((loss, head.state_dict(), rewards), {str(tmp_path)!r} + f"/{{rank}}.pt")
""", encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone",
                           "--nproc_per_node", "2", str(program)],
                          capture_output=True, text=True, timeout=200,
                          env=os.environ | dict(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr[-2000:]
    asked = tasks.draw_prompts("lines", "test", 4, train.randomness("cpu", "real", "lines",
                                                                    "test")[1])
    for rank in (0, 1):
        loss, state, rewards = torch.load(tmp_path / f"{rank}.pt")
        assert loss == pytest.approx(expected, rel=1e-4)
        for name, x in head.named_parameters():
            assert torch.allclose(state[name], x, atol=1e-6), name
        assert rewards == [len(of[0]) for _, of in asked]  # in the order of the prompts


# ---- the program -------------------------------------------------------------------------------

def test_the_program_writes_resumes_and_its_decoder_loads(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(models, "smollm2", lambda dtype: (tiny_lm(), Bytes()))
    cfg = train.checked(config(experiment="repeats", out=str(tmp_path), seeds=2))
    train.main(cfg)
    first = json.loads((tmp_path / "repeats-token.json").read_text(encoding="utf-8"))
    assert list(first["fixed"]) == ["0.0", "0.7", "1.3"]
    assert [of["seed"] for of in first["learned"]] == [0, 1]
    assert all(len(of["rewards"]) == 4 for of in first["learned"])
    head = decoding.AdaptiveDecoder(16, (0.0, 0.7, 1.3))
    head.load_state_dict(torch.load(tmp_path / "repeats-token-1.pt"))
    with pytest.raises(ValueError, match="these weights are of"):
        decoding.AdaptiveDecoder(16, (0.0, 0.7, 1.0)).load_state_dict(
            torch.load(tmp_path / "repeats-token-1.pt"))
    assert "learned, seed  1" in capsys.readouterr().out
    monkeypatch.setattr(train, "respond", None)  # nothing is sampled again
    train.main(cfg)
    again = json.loads((tmp_path / "repeats-token.json").read_text(encoding="utf-8"))
    assert again["learned"] == first["learned"] and again["fixed"] == first["fixed"]


@pytest.mark.parametrize("given, said", (
    (["--experiment", "x"], "--experiment is x; choose from lines, mix, repeats"),
    (["--steps", "0"], "--steps is 0"), (["--choices", "0,zero"], "'zero' is no choice"),
    (["--level", "word"], "--level is word")))
def test_wrong_options_are_one_sentence(given, said, capsys):
    with pytest.raises(SystemExit) as error:
        train.read(given, "", train.Config, "--laptop", train.LAPTOP, train.checked)
    assert error.value.code == 2
    assert said in capsys.readouterr().err


# ---- what it is measured beside ----------------------------------------------------------------

def test_the_plan_has_every_rival_and_recipe():
    names = list(real_model.plan(config(seeds=3)))
    assert len(set(names)) == len(names)
    for experiment, decoders in (("lines", 4 + 5), ("mix", 4 + 5), ("repeats", 2)):
        of = [name for name in names if name.startswith(experiment)]
        assert len(of) == 2 + len(real_model.RULES) + 3 * decoders
    work = real_model.plan(config(seeds=1))
    recipes = {do.keywords["method"]: cfg for cfg, do in work.values() if hasattr(do, "keywords")
               and "method" in do.keywords and cfg.experiment == "mix"}
    assert recipes["20, without 1 and 1.2"].choices == (0.0, 0.2, 0.4, 0.6, 0.8)
    assert recipes["20, beta 1"].beta == 1 and recipes["20, beta 1"].steps == 20
    assert recipes["20, first round's reference"].reference == "initial"
    assert recipes["20, rate 3e-4"].lr == 3e-4 and recipes["20, rate 3e-4"].level == "sequence"


def test_the_oracle_finds_the_best_table_by_role(lm, monkeypatch):
    """Rewards are made of the table itself: cold starts, a rest near 0.8."""
    def respond(cfg, lm, asked, samples, generator, plan=None):
        tables = plan(range(len(asked))).tables
        rewards = [-table["start"] - (table["rest"] - 0.8) ** 2 for table in tables]
        return SimpleNamespace(rewards=np.array(rewards)[:, None])
    monkeypatch.setattr(real_model, "respond", respond)
    monkeypatch.setattr(train, "respond", lambda cfg, lm, asked, samples, gen, plan: respond(
        cfg, lm, asked, samples, gen, plan))
    found = real_model.oracle(config(), lm, Silent())
    assert found["tables"] == {"lines": dict(start=0.0, rest=0.8)}
    assert found["rewards"] == {real_model.ORACLE: [0.0] * 4}


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
        return None, [-abs(temperature - (0.4 if split == "validation" else 0.0))] * 4
    monkeypatch.setattr(real_model, "measure", measure)
    found = real_model.tuned(config(), lm, Silent(), "temperature")
    grid = real_model.RULES["temperature"]
    assert asked == [*(("validation", tau) for tau in grid), ("test", 0.4)]
    assert found["setting"] == "0.4" and found["rewards"] == {"temperature": [-0.4] * 4}


def test_rows_by_hand():
    P = 6
    learned = dict(kind="learned", method="token level, temperatures", level="token", memory=None,
                   choices=[0.0, 1.0], texts=[])
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
        dict(learned, seed=1, rewards=[3.0 + p for p in range(P)], rounds=rounds,
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
    assert only("seeds", seed=1)["value"] == pytest.approx(3 + mean)
    assert {r["metric"] for r in rows if r["section"] == "rounds"} == {"reward", "certainty"}
    assert re.fullmatch("[0-9.]+", str(only("oracle", role="lines, rest")["value"]))
