"""Rules, objectives and controls, each against an independent source: plain loops, transformers'
processors, values by hand, and the main job's own training."""
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import tasks
from decoder import AdaptiveDecoder, choice_logps, generate
from lpo import ResponseLogps
from results import cells, methods
from results.methods import (CANDIDATES, NEVER, OBJECTIVES, RULES, SEES, SETS, STATES,
                             ByEntropy, Continuous, Dry, Floored, Mirostat, TextCache,
                             Wrapped, at_edge, group_normalised, kind_of, learn, leave_one_out,
                             likelihood, longest_matches, marginal_policy_gradient, noisy,
                             reinforce, respond_by, respond_by_rule, written)
from tasks import EOS, VOCAB_SIZE, encode, split_of
from toy import files
from toy.evaluate import sample_prompts
from toy.models import new_model
from toy.samplers import choice_of, frequency
from train_toy import Config, train

TINY = Config(device="cpu", n_layer=1, n_head=2, n_embd=16, prompts=6, responses=4, rounds=2,
              steps=3)


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    model = new_model(1, 2, 16)
    for weight in model.parameters():
        weight.data = weight.data + 0.3 * torch.randn_like(weight)
    return model


def items_of(experiment, n=4):
    return sample_prompts(experiment, "validation", n, np.random.default_rng(0))


# --- rules ----------------------------------------------------------------------------------------


def test_longest_matches_agrees_with_a_search_by_slices():
    tokens = torch.randint(3, (40, 12), generator=torch.Generator().manual_seed(0))
    for t in (0, 1, 2, 5, 12):
        found = longest_matches(tokens[:, :t], 4)
        for row, lengths in zip(tokens[:, :t].tolist(), found.tolist()):
            for token, length in enumerate(lengths):
                wanted = [n for j, x in enumerate(row) if x == token for n in range(j + 1)
                          if row[j - n:j] == row[t - n:t]]
                assert length == max(wanted, default=-1)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_repeat_bans_what_transformers_bans(n):
    from transformers import NoRepeatNGramLogitsProcessor
    tokens = torch.randint(4, (30, 9), generator=torch.Generator().manual_seed(n))
    logits = torch.randn(30, 6)
    rule = Dry(NEVER, allowed=n - 1)
    rule.read(tokens)
    banned = NoRepeatNGramLogitsProcessor(n)(tokens, logits.clone()).isneginf()
    assert torch.equal(rule(logits) < -1000, banned)


def test_dry_by_hand():
    """After a b c a b the token c would make "a b c" come again, a match of 2; b, after which b
    never came, follows nothing. Of 2 allowed tokens the penalty is 3 * 1.75^0, of 1 3 * 1.75."""
    for allowed, penalty in ((1, 3 * 1.75), (2, 3.0), (3, 0.0)):
        rule = Dry(3.0, allowed=allowed, frequency=0.5)
        rule.read(torch.tensor([[0, 1, 2, 0, 1]]))
        wanted = torch.tensor([[-2 * 0.5, -2 * 0.5, -0.5 - penalty, 0.0]]).log_softmax(-1)
        torch.testing.assert_close(rule(torch.zeros(1, 4)), wanted)


def test_mirostat_by_a_loop_over_floats():
    rule, target = Mirostat(1.0, 0.7), 1.0
    logits = torch.randn(6, 1, 8, generator=torch.Generator().manual_seed(3))
    tokens, bound = torch.empty(1, 0, dtype=torch.long), 2 * target
    for column in logits:
        rule.read(tokens)
        logps = rule(column)
        bits = [-x / math.log(2) for x in column[0].log_softmax(-1).tolist()]
        kept = [b <= bound or b == min(bits) for b in bits]
        assert logps.isfinite()[0].tolist() == kept
        wanted = torch.where(torch.tensor(kept), column[0] / 0.7, -torch.inf).log_softmax(-1)
        torch.testing.assert_close(logps[0], wanted)
        token = int(logps[0].argmin() if len(tokens[0]) % 2 else logps[0].argmax())
        token = token if kept[token] else bits.index(min(bits))
        tokens = torch.cat([tokens, torch.tensor([[token]])], 1)
        bound -= 0.1 * (bits[token] - target)


@pytest.mark.parametrize("kind, knobs, tau", [
    ("EDT", (2.0, 0.5), 2 * 0.8 ** (0.5 / math.log(4))), ("dynatemp", (0.2, 1.2, 2.0), 1.2),
    ("slope", (1.0, -0.3), 1 - 0.3 * math.log(4))])
def test_temperatures_that_follow_the_entropy(kind, knobs, tau):
    """Four equal logits have entropy log 4, the largest of four; beside it a certain one."""
    logits = torch.tensor([[0.0, 0, 0, 0], [9.0, 0, 1, 2]])
    logps = logits[1].log_softmax(-1)
    entropy = -(logps.exp() * logps).sum(-1)
    found = ByEntropy(kind, knobs)(logits)
    taus = [methods.FORMULAS[kind](h, 4, *knobs) for h in (torch.tensor(math.log(4)), entropy)]
    assert taus[0].item() == pytest.approx(tau)
    torch.testing.assert_close(found[1], choice_logps(logits[1], max(taus[1].item(), 1e-3)))


def test_every_rule_is_a_distribution_and_has_its_own_name():
    logits = torch.randn(2, 12, generator=torch.Generator().manual_seed(5))
    counts = torch.tensor([[2.0] + [0] * 11, [0.0] * 12])
    for rules in (RULES | methods.FINER).values():
        names = set()
        for rule in rules:
            if isinstance(rule, methods.OfText):
                rule.read(torch.tensor([[0, 0], [1, 2]])[:, :0])
            logps = choice_logps(logits, rule, counts)
            assert logps.logsumexp(-1).abs().max() < 1e-3
            names.add(rule.name if callable(rule) else rule)
        assert len(names) == len(rules) and 0.0 in rules and not at_edge(0.0)


def test_the_open_ends_of_the_grids_are_known():
    edges = {name: sum(map(at_edge, rules)) for name, rules in RULES.items()}
    assert edges["temperature"] == 1 and edges["EDT"] == 1 + 5 and edges["DRY"] > 1
    assert at_edge(ByEntropy("slope", (0.1, 1.2))) and not at_edge(ByEntropy("slope", (0.1, 0.3)))


def test_sets_of_choices_can_be_read():
    for choices in (*SETS.values(), *CANDIDATES.values()):
        assert AdaptiveDecoder(4, map(choice_of, choices)).names[0] == "0"


# --- responses ------------------------------------------------------------------------------------


def test_rules_in_one_batch_write_what_each_writes_alone(base):
    """Greedy rules, so nothing is random; two of them read the text. Bugs: rows of one rule read
    by another; text after the end counted; a rule's memory left from the batch before."""
    items = items_of("repeats", 3)
    rules = [0.0, Dry(NEVER, 0.0, allowed=1), frequency(1.0, temperature=0.0), Dry(1.0, 0.0)]
    gen = torch.Generator().manual_seed(0)
    together = written(base, items * 4, [rule for rule in rules for _ in items], gen)
    for i, rule in enumerate(rules):
        alone = written(base, items, [rule] * 3, gen)
        assert torch.equal(together.tokens[3 * i:3 * i + 3], alone.tokens)
        assert torch.equal(together.mask[3 * i:3 * i + 3], alone.mask)
    plain = generate(base, [encode(prompt) for _, prompt in items], 45, temperature=0.0, eos=EOS)
    assert torch.equal(together.tokens[:3], plain.tokens)
    assert torch.equal(together.mask[:3], plain.mask) and torch.equal(together.cut[:3], plain.cut)
    grams = [tuple(row[i:i + 2]) for row in together.tokens[3:6, :20].tolist() for i in range(19)]
    assert len(grams) - len(set(grams[:19])) - len(set(grams[19:38])) - len(set(grams[38:])) == 0


def test_cold_rules_are_written_once_and_repeated(base):
    items = items_of("vote", 2)
    outcome = respond_by_rule(base, items, 3, torch.Generator().manual_seed(0), [0.0, 1.0])
    assert len(set(outcome.texts[0])) == 1 and len(set(outcome.texts[1])) > 1
    assert outcome.rewards.shape == (2, 3) and len(outcome.rollout.tokens) == 6


def test_kinds_of_prompts():
    kinds = {kind_of(("vote", "hurry solve for 1 2 3 4 :")),
             kind_of(("vote", "now solve for 1 2 3 4 :")),
             kind_of(("constrained", "now end this line with rare birds :")),
             kind_of(("repeats", "now continue the fox finds owl . :")), kind_of(("math", "a b c"))}
    assert kinds == {"True", "False", "end", "math"}


# --- objectives -----------------------------------------------------------------------------------


def side():
    """Two responses of 2 and 1 tokens, K = 2, all choices equally likely but the first."""
    tau = torch.tensor([[[0.25, 0.75], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]]).log()
    text = torch.tensor([[[0.1, 0.5], [0.2, 0.4]], [[0.3, 0.7], [1.0, 1.0]]]).log()
    return ResponseLogps(tau, torch.tensor([[1, 0], [0, 0]]),
                         torch.tensor([[True, True], [True, False]]), text, text)


def test_objectives_by_hand():
    r, advantages = side(), torch.tensor([2.0, -1.0])
    text = [math.log(0.25 * 0.1 + 0.75 * 0.5) + math.log(0.3), math.log(0.5)]
    tau = [math.log(0.75) + math.log(0.5), math.log(0.5)]
    assert likelihood(r).tolist() == pytest.approx([-x for x in text])
    found = marginal_policy_gradient(r, advantages)
    assert found.tolist() == pytest.approx([-2 * text[0], text[1]])
    assert reinforce(r, advantages).tolist() == pytest.approx([-2 * tau[0], tau[1]])


def test_advantages_by_hand():
    rewards = np.array([[1.0, 2, 6], [3, 3, 3]])
    assert leave_one_out(rewards).tolist() == [[-3, -1.5, 4.5], [0, 0, 0]]
    found = group_normalised(rewards)
    assert found[0] == pytest.approx((rewards[0] - 3) / np.std([1, 2, 6]), rel=1e-4)
    assert found[1].tolist() == [0, 0, 0]


def test_noise_of_the_judge():
    rewards = np.random.default_rng(0).random((4000, 2))
    rng = np.random.default_rng(1)
    flipped = (noisy(rewards, "flip 0.2", rng) == -rewards).all(1)
    assert 0.17 < flipped.mean() < 0.23  # false alarms: below 1 in 100,000
    assert (noisy(rewards, "spread 3", rng) - rewards).std() == pytest.approx(
        3 * rewards.std(), rel=0.05)
    assert noisy(rewards, "", rng) is rewards


@pytest.mark.parametrize("name, level, more", [
    ("latent", "token", {}), ("separate", "token", {}), ("joint", "sequence", {}),
    ("separate, with reference", "token", dict(decoder_reference=True)), ("nll", "token", {}),
    ("latent_exact", "sequence", {}), ("joint", "token", dict(model_lr=1e-3))])
def test_training_is_that_of_the_main_job(base, capsys, name, level, more):
    """Weights and random numbers agree to the bit with train_toy.train."""
    cfg = replace(TINY, **more)
    *_, (model, decoder) = learn(cfg, base, "repeats", level, name)
    wanted = train(cfg, base, "repeats", level, OBJECTIVES[name].loss)
    for weights, theirs in ((decoder.state_dict(), wanted["decoders"][-1]),
                            (model.state_dict(), wanted["model"] or base.state_dict())):
        assert all(torch.equal(x, theirs[key]) for key, x in weights.items())


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"AutoDeco's, corpus"}))
def test_objectives_learn_to_be_cold_where_only_the_arg_max_is_right(monkeypatch, base, name):
    """A reward of how often the arg-max was taken: all that see rewards end colder than they
    began. The seed is fixed."""
    best = generate(base, [encode("now solve for 1 2 3 4 :")], 9, temperature=0.0).tokens[0]
    best = tasks.decode(best.tolist()).split()
    task = replace(tasks.TASKS["vote"], ask=lambda rng: "now solve for 1 2 3 4 :",
                   reward=lambda prompt, text: float(sum(map(str.__eq__, best, text.split()))))
    monkeypatch.setitem(tasks.TASKS, "vote", task)
    monkeypatch.setattr(methods, "sample_prompts", lambda *of: [("vote", task.ask(None))] * 16)
    cfg = replace(TINY, lr=0.02, steps=10, rounds=3)
    level = "sequence" if name == "latent_exact" else "token"
    *_, (model, decoder) = learn(cfg, base, "vote", level, name)
    hidden = model(torch.tensor([encode("now solve for 1 2 3 4 :")]))[1][:, -1]
    if isinstance(decoder, Continuous):
        tau, start = decoder(hidden).item(), (decoder.coldest + decoder.hottest) / 2
    else:
        tau, start = (decoder(hidden).exp() @ torch.tensor(SETS["temperatures"])).item(), 0.6
    assert tau < start - 0.05


def test_corpus_text_as_if_it_had_been_sampled():
    prompts, rollout = methods.corpus_side("mix", 9, np.random.default_rng(0))
    assert len(prompts) == 9 and rollout.mask.shape == (9, 37)
    for prompt, tokens, mask in zip(prompts, rollout.tokens, rollout.mask):
        assert split_of(tasks.decode(prompt)) == "train"
        assert tokens[mask][-1] == EOS and (tokens[mask][:-1] != EOS).all()


# --- what a decoder sees --------------------------------------------------------------------------


@pytest.mark.parametrize("sees", SEES)
def test_inputs_are_the_same_with_a_cache(base, sees):
    """Two rows, of which one is dropped on the way. Bugs: places counted from the newest token;
    the text of a dropped row; logits of the wrapped model changed."""
    model = Wrapped(base, lambda logits, *rest: (logits, STATES[sees](logits, *rest)))
    idx = torch.randint(VOCAB_SIZE, (2, 14), generator=torch.Generator().manual_seed(1))
    logits, seen = model(idx)
    torch.testing.assert_close(logits, base(idx)[0])
    cache = model.new_cache(2, 14)
    assert isinstance(cache, TextCache)
    parts = [model(idx[:, :8], cache)]
    cache.keep(torch.tensor([1]))
    parts += [model(idx[1:, t:t + 1], cache) for t in range(8, 14)]
    torch.testing.assert_close(parts[0][1], seen[:, :8])
    torch.testing.assert_close(torch.cat([part[1] for part in parts[1:]], 1), seen[1:, 8:])


def test_inputs_hold_what_they_are_called(base):
    texts = "hurry solve for 3 4 9 1 : 7 9", "now sum up 3 4 9 1 : 0 9"
    idx = torch.tensor(list(map(encode, texts)))
    logits, hidden = base(idx)
    seen = {name: f(logits, hidden, idx) for name, f in STATES.items()}
    assert not seen["nothing"].any()
    assert seen["position"].argmax(-1).tolist() == [list(range(10))] * 2
    assert seen["last word"].argmax(-1).tolist() == idx.tolist()
    assert seen["shape"].shape[-1] == 17
    assert (seen["shape"][..., 1:2] >= seen["shape"][..., 2:]).all()
    words = seen["last word and prompt words"].unflatten(-1, (3, VOCAB_SIZE)).argmax(-1)
    assert words[1, 5].tolist() == [idx[1, 5], *encode("sum up")]
    assert seen["task label"][:, -1].tolist() == [[0, 0, 0], [1, 0, 0]]
    torch.testing.assert_close(seen["mean state"][:, 7], hidden[:, :8].mean(1))


def test_the_floor_is_a_mixture_with_the_uniform_distribution():
    decoder = AdaptiveDecoder(4, (0.0, 1.0), "sequence")
    decoder.mlp[-1].bias.data = torch.tensor([0.0, 3.0])
    probabilities = decoder(torch.zeros(4)).exp()
    floored = Floored(decoder, 0.2)
    torch.testing.assert_close(floored(torch.zeros(4)).exp(), 0.8 * probabilities + 0.1)
    assert (floored.level, floored.choices) == ("sequence", (0.0, 1.0))


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_continuous_decoder_samples_at_its_temperature(base, level):
    """At its coldest, here 0.0001, all samples are the arg-max, at 2 they are not; seeds fixed."""
    items = items_of("vote", 2)
    greedy = respond_by_rule(base, items, 1, None, [0.0, 0.0]).texts
    decoder = Continuous(16, level)
    decoder.coldest = 1e-4  # at 0.02 logits that differ by 0.01 are nearly a tie
    for bias, cold in ((-50.0, True), (50.0, False)):
        decoder.mlp[-1].bias.data.fill_(bias)
        texts = respond_by(base, decoder, items, 3, torch.Generator().manual_seed(0)).texts
        assert (texts == [of * 3 for of in greedy]) == cold


# --- cells ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("do", ["rule", "kinds", "oracle"])
def test_nothing_is_tuned_on_test_prompts(monkeypatch, base, do):
    """What is searched for meets validation prompts only, and what is found test prompts only.
    The planted mistake: a rule tuned on test prompts."""
    searched, measured = [], []
    monkeypatch.setattr(cells, "base_model", lambda *of: base)
    monkeypatch.setattr(cells, "race", lambda rules, prompts, *_, **__: searched.extend(prompts) or
                        (0, 0))
    monkeypatch.setattr(cells, "search_oracle", lambda model, prompts, *of: searched.extend(prompts)
                        or {name: dict(way=0.0, rest=0.0) for name, _ in prompts})
    original = cells.respond_by_rule, cells.respond
    monkeypatch.setattr(cells, "respond_by_rule", lambda model, prompts, *of: measured.extend(
        prompts) or original[0](model, prompts, *of))
    monkeypatch.setattr(cells, "respond", lambda model, prompts, *of, **more: measured.extend(
        prompts) or original[1](model, prompts, *of, **more))
    cell = dict(part="main", experiment="vote", level="token", method="top-k", option="",
                base_seed=0, seed=0, mode=0.4, split="test", do=do, families=["top-k"], thin=9,
                subtask="", detail=True, every_round=False,
                how=dict(test_prompts=4, test_samples=8, oracle_prompts=4))
    found = cells.compute(cell, ".")
    assert {split_of(prompt) for _, prompt in searched} == {"validation"}
    assert {split_of(prompt) for _, prompt in measured} == {"test"}
    assert np.shape(found["rewards"][""]) == (4, 8)


def test_slots_of_another_mode():
    """At 0.4 the corpus is the same text; at 0.9 the modes are more frequent."""
    def text():
        return tasks.corpus("story", 30, np.random.default_rng(0))
    with cells.slots_of(0.4):
        same = text()
    with cells.slots_of(0.9):
        other = text()
    assert same == text() != other


def test_decoders_of_a_base_model_have_their_own_seeds():
    """Decoder 0 on base model 3 is the main job's with --seed 3."""
    def seed(base_seed, seed):
        return cells.config_of(dict(base_seed=base_seed, how={}), seed).seed
    assert seed(3, 0) == 3
    assert len({seed(b, s) for b in range(110) for s in range(9)}) == 110 * 9


def test_code_and_options_are_in_a_cells_name(monkeypatch):
    """A stale cell has another name. Bug: a result kept under it after its code has changed."""
    cell = dict(experiment="vote", method="a b", how=dict(lr=1e-3))
    name = cells.name_of(cell)
    assert name.startswith("vote-a_b-") and name == cells.name_of(dict(cell))
    assert name != cells.name_of(cell | dict(how=dict(lr=2e-3)))
    monkeypatch.setattr(cells, "code", lambda: "changed")
    assert name != cells.name_of(cell)
    for source in cells.SOURCES:
        assert (files.ROOT / source).exists()
