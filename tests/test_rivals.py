"""Rules, other objectives, and what rivals.py makes of them, against values worked out by hand,
enumeration, and the main job's own loop."""
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import train_toy
from conftest import calls_of
from decoder import AdaptiveDecoder, Rollout, aligned, response_logps
from lpo import ResponseLogps, lpo_loss
from results import objectives, rivals, rules, tables
from results.objectives import OBJECTIVES, ContinuousHead, Recipe, Wrapped
from results.rivals import FIXED, HIDDEN, LATENT, ORACLE, Table, Training, Tuning
from results.rules import Mirostat
from tasks import EOS, PROMPT_LENGTH, VOCAB_SIZE, corpus, encode, split_of
from toy import rows
from toy.evaluate import Outcome, draw_prompts, respond
from toy.options import Config
from toy.pretrain import new_model
from toy.stages import Job, Silent

LN = math.log
TINY = replace(Config(), device="cpu", rounds=2, prompts=6, responses=4, steps=3,
               choices=(0.0, 0.5, 1.0))
calls_to = calls_of(rivals)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return new_model(TINY)


@pytest.fixture
def asked():
    return draw_prompts("mix", "train", 6, np.random.default_rng(0))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule,tau", [
    (rules.edt(1.5, 0.5), 1.5 * 0.8 ** (0.5 / LN(4))),  # arXiv 2403.14541, T0 0.8^(theta / H)
    (rules.edt(2.0, 3.0), 2.0 * 0.8 ** (3.0 / LN(4))),
    (rules.dynatemp(0.2, 1.4, 2.0), 0.2 + 1.2 * (LN(4) / LN(8)) ** 2),  # H of 4 of 8 words
    (rules.entropy_slope(0.5, -0.1), 0.5 - 0.1 * LN(4))])
def test_temperatures_by_entropy(rule, tau):
    """Four equal words of eight have the entropy log 4; a fifth at half their logit shows tau."""
    logits = torch.tensor([0.0] * 4 + [-math.inf] * 4)
    assert rules.entropy(logits).item() == pytest.approx(LN(4))
    assert rule.temperature(rules.entropy(logits), 8).item() == pytest.approx(tau)
    # what the rule makes of logits is a softmax at that temperature of *their* entropy
    logits = torch.tensor([[2.0, 1.0, 0.5, -1.0], [0.0, 3.0, 0.1, 0.2]])
    p = logits.softmax(-1)
    taus = rule.temperature(-(p * p.log()).sum(-1, keepdim=True), 4)
    assert torch.allclose(rule(logits), (logits / taus).log_softmax(-1), atol=1e-5)


def test_a_temperature_by_entropy_is_never_zero_or_negative():
    logits = torch.tensor([1.0, 0.0, -3.0])
    for rule in (rules.edt(1.0, 1e9), rules.entropy_slope(0.1, -5.0)):
        assert rule(logits).exp().tolist() == pytest.approx([1, 0, 0])


def test_mirostat_by_hand():
    """Probabilities 1/2, 1/4, 1/8, 1/8: 1, 2, 3 and 3 bits. Target 1: the bound starts at 2 bits
    and keeps two words; after a word of b bits it is lower by (b - 1) / 10."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log().expand(2000, 4)
    rule = Mirostat(1.0, generator=generator())
    logps = rule(logits)
    words = logps.argmax(-1)
    assert (logps.exp().sum(-1) == 1).all() and (logps.max(-1).values == 0).all()
    assert words.max() == 1  # those beyond the bound are cut
    assert (words == 0).double().mean() == pytest.approx(2 / 3, abs=0.04)  # 1/2 : 1/4; 3.8 sigma
    assert torch.allclose(rule.bound[:, 0], torch.where(words == 0, 2.0, 1.9))
    before = rule.bound[:, 0].clone()
    words = rule(logits).argmax(-1)  # where the bound fell below 2 bits the second word is cut
    assert (words[before < 2] == 0).all() and (words[before == 2] == 1).any()


def test_mirostat_keeps_the_best_word_and_tempers_as_it_is_told():
    """At target 0.1 the bound of 0.2 bits is below all; the best word stays."""
    logits = torch.tensor([[0.4, 0.3, 0.3]]).log()
    assert Mirostat(0.1, generator=generator())(logits).tolist() == [[0.0, -math.inf, -math.inf]]
    # at temperature 1/2 the shares are squared: 16 : 9 : 9, so the first has log2(34/16) bits
    for order, shares in (("temper, cut", (16 / 34, 9 / 34)), ("cut, temper", (0.4, 0.3))):
        rule = Mirostat(3.0, 0.5, order, generator=generator())
        words = rule(logits.expand(4000, 3)).argmax(-1)
        bits = -torch.tensor(shares).log2()[(words > 0).long()]
        assert torch.allclose(rule.bound[:, 0], 6 - 0.1 * (bits - 3), atol=1e-5)
        assert (words == 0).double().mean() == pytest.approx(16 / 34, abs=0.04)  # 5 sigma


def test_mirostat_remembers_each_row_until_its_end(model, asked):
    """Rows that ended keep their place in the memory, and nothing behind an end counts."""
    outcome = rules.respond_by_rule(model, asked, 3, generator(), Mirostat(9.0))
    tokens, mask = outcome.rollout.tokens, outcome.rollout.mask
    assert len(tokens) == 18 and outcome.rewards.shape == (6, 3)
    assert 0 < (tokens == EOS).any(1).sum() < 18
    for row, kept, cut in zip(tokens, mask, outcome.rollout.cut):
        ends = (row == EOS).nonzero()
        n = len(row) if len(ends) == 0 else ends[0].item() + 1
        assert kept.sum() == n and kept[:n].all() and cut == (len(ends) == 0)
    used = Mirostat(9.0, generator=generator(1))
    used(torch.randn(18, VOCAB_SIZE))
    used.bound = torch.zeros(18, 1)
    again = rules.respond_by_rule(model, asked, 3, generator(), used)
    assert torch.equal(again.rollout.tokens, tokens)  # a rule starts anew for each batch


def test_a_rule_without_memory_is_a_choice(model, asked):
    rule = rules.min_p(0.1, temperature=2.0)
    ours = rules.respond_by_rule(model, asked, 2, generator(), rule)
    assert torch.equal(ours.rollout.tokens,
                       respond(model, asked, 2, generator(), temperature=rule).rollout.tokens)


def test_every_rule_of_the_grids_has_a_name_of_its_own():
    for name, grid in rules.RULES.items():
        labels = [rules.rule_name(rule) for rule in grid]
        assert len(set(labels)) == len(labels) >= 12, name


# --- objectives -----------------------------------------------------------------------------------


def side(tau, text, idx, ref=None):
    """One response of two tokens, two choices, from probabilities."""
    as_logs = [None if x is None else torch.tensor([x]).log() for x in (tau, text, ref)]
    return ResponseLogps(as_logs[0], torch.tensor([idx]), torch.tensor([[True, True]]), as_logs[1],
                         as_logs[1], as_logs[2])


RESPONSE = side(tau=[[0.25, 0.75], [0.5, 0.5]], text=[[0.8, 0.4], [0.2, 0.6]], idx=[1, 0],
                ref=[[0.5, 0.5], [0.4, 0.6]])
ADVANTAGE = torch.tensor([2.0])


def test_losses_by_hand():
    """P(text) is (.25 x .8 + .75 x .4) (.5 x .2 + .5 x .6) = .5 x .4; the draws have .75 x .5."""
    assert objectives.chosen_likelihood(RESPONSE).item() == pytest.approx(-LN(0.2))
    assert objectives.marginal_policy_gradient(RESPONSE, ADVANTAGE).item() == pytest.approx(
        -2 * LN(0.2))
    assert objectives.reinforce(RESPONSE, ADVANTAGE).item() == pytest.approx(-2 * LN(0.375))
    # ratios .75 / .5 and .5 / .4 to the round's first decoder, both beyond 1.2
    assert objectives.clipped(RESPONSE, ADVANTAGE).item() == pytest.approx(-2 * 2.4)
    assert objectives.clipped(RESPONSE, -ADVANTAGE).item() == pytest.approx(2 * 2.75)
    other = replace(RESPONSE, tau_idx=torch.tensor([[0, 1]]))  # .25 x .5, with ratios .5, 5/6
    assert objectives.without_reference(RESPONSE, other, 0.5).item() == pytest.approx(
        LN(1 + 3 ** -0.5))
    for variant in ("latent", "separate"):
        ours = objectives.preference(variant, False, RESPONSE, other, 0.3)
        assert torch.equal(ours, lpo_loss(RESPONSE, other, variant, 0.3))


def test_a_clipped_ratio_has_no_gradient():
    raw = torch.tensor([[[0.25, 0.75], [0.5, 0.5]]]).log().requires_grad_()
    r = replace(RESPONSE, tau_logps=raw)
    assert torch.autograd.grad(objectives.clipped(r, ADVANTAGE).sum(), raw)[0].eq(0).all()
    assert torch.autograd.grad(objectives.clipped(r, -ADVANTAGE).sum(), raw)[0].ne(0).any()


def test_padding_does_not_count():
    padded = ResponseLogps(*(
        None if x is None else F.pad(x, (0, 0, 0, 2), value=math.nan) if x.dim() == 3 else
        F.pad(x, (0, 2)) for x in vars(RESPONSE).values()))
    for loss in (objectives.reinforce, objectives.clipped, objectives.marginal_policy_gradient):
        assert loss(padded, ADVANTAGE).item() == pytest.approx(loss(RESPONSE, ADVANTAGE).item())
    assert objectives.chosen_likelihood(padded).item() == pytest.approx(-LN(0.2))


def test_advantages_by_hand():
    rewards = np.array([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    assert objectives.leave_one_out(rewards) == pytest.approx(np.array(
        [[2 / 3, -2 / 3, -2 / 3, 2 / 3], [0] * 4]))
    assert objectives.group_normalised(rewards) == pytest.approx(np.array(
        [[1, -1, -1, 1], [0] * 4]), abs=1e-5)


@pytest.mark.parametrize("loss", [objectives.reinforce, objectives.marginal_policy_gradient])
def test_policy_gradients_are_of_the_expected_reward(loss):
    """By enumeration of every choice and word of a two-token response: the mean of the loss's
    gradient, with the reward as advantage, is minus that of the expected reward."""
    gen = generator()
    raw = torch.randn(2, 2, generator=gen, dtype=torch.float64, requires_grad=True)  # (T,K)
    text = torch.randn(2, 2, 3, generator=gen, dtype=torch.float64).log_softmax(-1)  # (T,K,V)
    rewards = torch.randn(3, 3, generator=gen, dtype=torch.float64)
    tau = raw.log_softmax(-1)
    words = (tau.exp()[..., None] * text.exp()).sum(1)  # (T,V)
    expected = (words[0][:, None] * words[1] * rewards).sum()
    right = torch.autograd.grad(expected, raw, retain_graph=True)[0]
    found = torch.zeros_like(right)
    for k, y in itertools.product(itertools.product(range(2), repeat=2),
                                  itertools.product(range(3), repeat=2)):
        p = math.prod(tau[t, k[t]].exp().item() * text[t, k[t], y[t]].exp().item()
                      for t in range(2))
        of_text = torch.stack([text[t, :, y[t]] for t in range(2)])[None]
        r = ResponseLogps(tau[None], torch.tensor([k]), torch.ones(1, 2, dtype=torch.bool),
                          of_text, of_text)
        given = loss(r, rewards[y][None]).sum()
        found -= p * torch.autograd.grad(given, raw, retain_graph=True)[0]
    assert torch.allclose(found, right)


def test_noisy_rewards():
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(4000, 4))
    assert objectives.noisy(rewards, "", rng) is rewards
    flipped = objectives.noisy(rewards, "flip 0.2", rng)
    reversed_ = (flipped == -rewards).all(1)
    assert ((flipped == rewards).all(1) | reversed_).all()  # whole prompts
    assert reversed_.mean() == pytest.approx(0.2, abs=0.03)  # 4.7 sigma
    noise = objectives.noisy(5 * rewards, "spread 3", rng) - 5 * rewards
    assert noise.std() == pytest.approx(15, rel=0.05) and abs(noise.mean()) < 0.6


@pytest.mark.parametrize("name,scored", [("latent", 2), ("NLL", 1), ("REINFORCE", 1),
                                         ("continuous, corpus", 1)])
def test_data_of_an_objective(name, scored, asked):
    """Rewards 0, 1, 2, 3 of each prompt: the last is chosen, the first rejected."""
    tokens = torch.arange(24)[:, None]
    rollout = Rollout(tokens, tokens >= 0, torch.zeros(24, dtype=torch.bool), tokens * 0)
    outcome = Outcome(asked, None, {"reward": np.tile(np.arange(4.0), (6, 1))}, rollout)
    sides, more = objectives.data_of(OBJECTIVES[name], outcome, 0.5, "mix", 6,
                                     np.random.default_rng(0))
    assert len(sides) == scored
    prompts, found = sides[0]
    if name == "continuous, corpus":
        assert more == () and len(prompts) == len(found.tokens) == 6
        assert (found.tokens[found.mask] == EOS).sum() == 6  # whole texts, end included
        assert all(len(prompt) == PROMPT_LENGTH for prompt in prompts)
    elif name == "REINFORCE":
        assert found.tokens[:, 0].tolist() == list(range(24))
        assert more[0].tolist() == pytest.approx([-2, -2 / 3, 2 / 3, 2] * 6)
        assert prompts == [encode(prompt) for _, prompt in asked for _ in range(4)]
    else:
        assert found.tokens[:, 0].tolist() == [3, 7, 11, 15, 19, 23]
        assert prompts == [encode(prompt) for _, prompt in asked]
        assert more == ((0.5,) if name == "latent" else ())
    if scored == 2:
        assert sides[1][1].tokens[:, 0].tolist() == [0, 4, 8, 12, 16, 20]


@pytest.mark.parametrize("experiment,level,name,variant", [
    ("mix", "sequence", "latent", "latent"), ("mix", "token", "NLL", "nll"),
    ("mix", "sequence", "separate", "separate"),
    ("mix", "token", "separate, decoder reference", "separate")])
def test_the_loop_is_the_main_jobs(experiment, level, name, variant, model, monkeypatch):
    """With the same prompts and seeds both end at the same weights."""
    given = draw_prompts(experiment, "train", TINY.prompts, np.random.default_rng(5))
    monkeypatch.setattr(objectives, "draw_prompts", lambda *of: given)
    cfg = replace(TINY, beta=0.3, decoder_reference=name.endswith("reference"))
    job = Job(0, experiment, level, variant, 1)
    _, theirs, _ = train_toy.train(cfg, model, job, Silent(), lambda *of: given)
    recipe = Recipe(name, cfg.choices)
    knob = cfg.steps if variant == "nll" else cfg.beta
    _, ours, curve, seconds = objectives.train_head(cfg, model, experiment, level, recipe, cfg.lr,
                                                    knob, job.seeds("train"))
    assert len(curve) == cfg.rounds and min(seconds) > 0
    start = AdaptiveDecoder(cfg.n_embd, cfg.choices, level).mlp[-1].weight
    assert not torch.equal(ours.mlp[-1].weight, start)
    for x, y in zip(ours.parameters(), theirs.parameters()):
        assert torch.allclose(x, y, atol=1e-6)


def test_the_corpus_as_if_it_had_been_sampled():
    """Response tokens alone, the end included."""
    prompts, rollout = objectives.corpus_side("constrained", 5, np.random.default_rng(0))
    texts = corpus("constrained", 5, np.random.default_rng(0))
    assert prompts == [encode(prompt) for prompt, _ in texts]
    for ids, mask, (_, text) in zip(rollout.tokens, rollout.mask, texts):
        assert ids[mask].tolist() == encode(text) + [EOS]


def test_the_judge_is_noisy_in_training_and_the_curve_is_not(model, monkeypatch):
    """Rewards that a judge makes all equal leave nothing to learn. Bugs: the noise forgotten; a
    curve of noisy rewards."""
    learned, noises = [], []

    def noisy(rewards, noise, rng):
        noises.append(noise)
        return np.full_like(rewards, 1000.0)
    monkeypatch.setattr(objectives, "noisy", noisy)
    monkeypatch.setattr(objectives, "learn", lambda *of: learned.append(of))
    _, _, curve, _ = objectives.train_head(
        TINY, model, "mix", "token", Recipe("latent", TINY.choices, noise="flip 0.1"), 0.1, 0.2,
        ("x",))
    assert noises == ["flip 0.1"] * TINY.rounds and not learned and max(curve) < 10


def test_objectives_are_what_they_are_called():
    made = {name: (of.data, getattr(of.loss, "func", of.loss), of.advantage)
            for name, of in OBJECTIVES.items()}
    policy = "all", objectives.reinforce
    assert made["REINFORCE"] == (*policy, objectives.leave_one_out)
    assert made["GRPO-normalised"] == (*policy, objectives.group_normalised)
    assert made["REINFORCE, clipped"] == ("all", objectives.clipped, objectives.leave_one_out)
    assert made["marginal policy gradient"] == (
        "all", objectives.marginal_policy_gradient, objectives.leave_one_out)
    assert made["NLL"][:2] == ("chosen", train_toy.nll_loss)
    for name, variant, exact in (("latent", "latent", False), ("continuous, DPO", "latent", False),
                                 ("latent, exact sequence", "latent", True),
                                 ("separate, decoder reference", "separate", False)):
        assert made[name][:2] == ("pairs", objectives.preference)
        assert OBJECTIVES[name].loss.args == (variant, exact)
    assert made["separate"][:2] == ("pairs", objectives.without_reference)


def test_steps_are_a_knob_where_there_is_no_beta(model, monkeypatch):
    counts = []
    monkeypatch.setattr(objectives, "learn", lambda *of: counts.append(of[-2:]))
    for name, knob in (("NLL", 7), ("latent", 0.2)):
        objectives.train_head(TINY, model, "mix", "token", Recipe(name, TINY.choices), 0.1, knob,
                              ("x",))
    assert counts == [(0.1, 7), (0.05, 7), (0.1, TINY.steps), (0.05, TINY.steps)]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_the_head_and_nothing_else(name, model):
    level = "sequence" if "sequence" in name else "token"
    before = {key: x.clone() for key, x in model.state_dict().items()}
    _, head, _, _ = objectives.train_head(replace(TINY, rounds=1), model, "mix", level,
                                          Recipe(name, TINY.choices), 0.01, 2, ("x",))
    assert head.mlp[-1].weight.ne(0).any()
    assert all(torch.equal(x, before[key]) for key, x in model.state_dict().items())
    assert isinstance(head, ContinuousHead) == name.startswith("continuous")


# --- heads that see less, continuous heads --------------------------------------------------------


def test_a_continuous_head_starts_in_the_middle_and_stays_in_range():
    head = ContinuousHead(3, "token")
    assert head(torch.randn(4, 3)).tolist() == pytest.approx(np.full((4, 1), 0.81))
    for bias, end in ((-50, 0.02), (50, 1.6)):
        torch.nn.init.constant_(head.mlp[-1].bias, bias)
        assert head(torch.zeros(3)).item() == pytest.approx(end)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_continuous_head_draws_at_its_temperature(level, model, asked):
    """A head that always says 0.81 draws what the fixed temperature draws."""
    head = ContinuousHead(TINY.n_embd, level)
    ours = objectives.respond_by(model, head, asked, 2, generator())
    theirs = respond(model, asked, 2, generator(), temperature=head(torch.zeros(1, 64)).item())
    assert torch.equal(ours.rollout.tokens, theirs.rollout.tokens)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_continuous_head_scores_what_it_draws(level, model, asked):
    """Text log-probabilities are those at the temperature of the deciding hidden state."""
    torch.manual_seed(0)
    head = ContinuousHead(TINY.n_embd, level)
    torch.nn.init.normal_(head.mlp[-1].weight, std=2.0)
    outcome = objectives.respond_by(model, head, asked, 1, generator())
    prompts, tokens = [encode(prompt) for _, prompt in asked], outcome.rollout.tokens
    scorer = objectives.Scorer(model, head, prompts, outcome.rollout)
    logits, hidden = aligned(model, prompts, tokens)
    taus = torch.stack([head(h[0] if level == "sequence" else h[t]) for h in hidden
                        for t in range(tokens.shape[1])]).view(*tokens.shape, 1)
    right = (logits / taus).log_softmax(-1).gather(-1, tokens[..., None])
    found = scorer(head)
    assert torch.allclose(found.text_logps, right, atol=1e-5) and found.text_logps.requires_grad
    assert taus.std() > 0.05
    # DPO's score of the text: log P - log Pref, summed; at the round's start 0, with a gradient
    other = ContinuousHead(TINY.n_embd, level)
    at_middle = (logits / 0.81).log_softmax(-1).gather(-1, tokens[..., None])
    mask = outcome.rollout.mask
    right = ((at_middle - right)[..., 0] * mask).sum(-1)
    loss = objectives.preference("latent", False, scorer(other), scorer(head), 0.7)
    assert torch.allclose(loss, -F.logsigmoid(0.7 * right), atol=1e-4)


def test_the_sequence_level_decides_once(model, asked):
    """A temperature that follows the prompt's last hidden state, the same for every word."""
    torch.manual_seed(0)
    head = ContinuousHead(TINY.n_embd, "sequence")
    torch.nn.init.normal_(head.mlp[-1].weight, std=3.0)
    ours = objectives.respond_by(model, head, asked, 2, generator())
    idx = torch.tensor([encode(prompt) for _, prompt in asked])
    taus = head(model(idx)[1][:, -1])[:, 0].repeat_interleave(2)
    theirs = objectives.generate(model, [p for p in idx.tolist() for _ in range(2)], 37,
                                 temperature=[[tau] for tau in taus.tolist()], eos=EOS,
                                 generator=generator())
    assert torch.equal(ours.rollout.tokens, theirs.tokens)


def test_what_a_head_sees():
    idx = torch.tensor([encode("please sum up 3 4 9 1 :"),
                        encode("now list five rare hats for us :")])
    places = torch.arange(8).expand(2, 8)
    logits, hidden = torch.randn(2, 8, VOCAB_SIZE), torch.randn(2, 8, 64)

    def seen(name):
        see, width = objectives.SEEN[name]
        found = see(logits, hidden, idx, places)
        assert found.shape == (2, 8, width)
        return found
    assert seen("nothing").eq(0).all()
    assert seen("position").argmax(-1).tolist() == [list(range(8))] * 2
    assert seen("last word").argmax(-1).equal(idx)
    assert seen("task label")[:, -1].tolist() == [[1, 0, 0], [0, 1, 0]]
    p = logits[1, 5].softmax(-1)
    assert seen("shape")[1, 5, 0].item() == pytest.approx(-(p * p.log()).sum().item(), rel=1e-5)
    assert seen("shape")[1, 5, 1:].exp().tolist() == pytest.approx(
        sorted(p.tolist(), reverse=True)[:16], rel=1e-4)


@pytest.mark.parametrize("name", [*objectives.SEEN, "tempered"])
def test_a_wrapped_model_says_the_same_with_its_cache(name, model):
    def change(logits, hidden, *rest):
        if name == "tempered":
            return logits / (1 + hidden[..., :1].abs()), hidden
        return logits, objectives.SEEN[name][0](logits, hidden, *rest)
    wrapped = Wrapped(model, change)
    idx = torch.tensor([encode("hurry solve for 3 4 9 1 :"), encode("now solve for 5 5 2 1 :")])
    with torch.no_grad():
        whole = wrapped(idx)
        cache = wrapped.new_cache(2, 12)
        first = wrapped(idx[:, :6], cache)
        assert torch.allclose(first[0], whole[0][:, :6], atol=1e-5)
        for place in (6, 7):
            logits, seen = cache.step(idx[:, place], torch.full((2,), place))
            assert torch.allclose(logits, whole[0][:, place], atol=1e-4)
            if name != "task label":  # which only whole prompts show
                assert torch.allclose(seen, whole[1][:, place], atol=1e-4)


def test_a_head_that_sees_nothing_is_a_vector(model, asked):
    wrapped, head, _, _ = objectives.train_head(
        TINY, model, "mix", "token", Recipe("latent", TINY.choices, "nothing"), 0.05, 0.5, ("x",))
    outcome = objectives.respond_by(wrapped, head, asked, 2, generator())
    logps = response_logps(wrapped, head, [encode(p) for _, p in asked for _ in range(2)],
                           outcome.rollout).tau_logps.exp()
    assert torch.allclose(logps, logps[:1, :1].expand_as(logps), atol=1e-6)
    assert (logps[0, 0] - 1 / 3).abs().max() > 0.01  # and it has learned something


# --- rivals.py ------------------------------------------------------------------------------------


def test_best_of_k_by_all_subsets():
    rewards = np.array([[0.3, 0.1, 0.9, 0.5, 0.5], [1, 0, 0, 1, 0]], dtype=float)
    for k in range(1, 6):
        right = [np.mean([max(some) for some in itertools.combinations(row, k)])
                 for row in rewards]
        assert rivals.best_of(rewards, k) == pytest.approx(right)


def outcome_of(asked, rewards):
    return Outcome(asked, None, {"reward": np.asarray(rewards, dtype=float)}, None)


def test_a_rule_is_picked_on_validation_and_measured_on_test(model, monkeypatch):
    """Rewards by rule: on validation prompts the second is best, on test prompts the third."""
    grid = {0.1: (1.0, 5.0), 0.2: (3.0, 6.0), 0.3: (2.0, 9.0)}
    monkeypatch.setattr(rivals, "RULES", {"some": list(grid)})
    cfg, sizes = replace(TINY, test_prompts=12, test_samples=4, oracle_prompts=6), []

    def answer(base, asked, samples, gen, rule):
        sizes.append((len(asked), samples))
        test = asked == rivals.prompts_of(cfg, "mix", "test")
        assert test or asked == rivals.prompts_of(cfg, "mix", "validation")
        return outcome_of(asked, np.full((len(asked), samples), grid[rule][test]))
    calls_to(monkeypatch, "respond_by_rule", answer)
    found = rivals.tuning(cfg, model, Tuning("mix", "some", 0))
    assert found["picked"] == {"reward": dict(rule="0.2", value=3.0)}
    assert found["values"]["reward"].tolist() == [6.0] * 12
    assert sizes == [(6, 4)] * 3 + [(12, 4)]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_training_is_measured_on_the_prompts_of_its_split(split, model, monkeypatch):
    """With randomness of its own, the same for all recipes of a seed."""
    cfg, seen = replace(TINY, test_prompts=12, test_samples=4, oracle_prompts=6), []
    monkeypatch.setattr(rivals, "train_head", lambda cfg, base, experiment, level, recipe, lr, knob,
                        seeds: seen.append((level, lr, knob, seeds)) or ("m", "h", [0.5], [1, 2]))

    def answer(model, head, asked, samples, gen):
        assert (model, head) == ("m", "h") and asked == rivals.prompts_of(cfg, "mix", split)
        seen.append((samples, gen.initial_seed()))
        rollout = Rollout(*[torch.zeros(len(asked) * samples, 1).bool()] * 3, None)
        return Outcome(asked, None, {"reward": np.arange(len(asked))[:, None].repeat(samples, 1)},
                       rollout)
    monkeypatch.setattr(rivals, "respond_by", answer)
    work = Training("mix", Recipe("latent", (0.0,)), 0.3, 0.7, 1, 2, split)
    found = rivals.training(cfg, model, work)
    seeds = "rivals", "mix", 1, 2
    assert seen[0] == ("sequence", 0.3, 0.7, seeds)
    assert seen[1] == (4, rivals.randomness("cpu", "measure", *seeds)[0].initial_seed())
    assert found["values"]["reward"].tolist() == list(range(6 if split == "validation" else 12))
    assert (found["curve"], found["seconds"], found["shares"]) == ([0.5], [1, 2], [])


def test_votes_are_of_eight():
    """Of sixteen answers the first eight are right, of the rest three: a half by eights, one by
    sixteen, and no majority of single answers."""
    prompt, right, wrong = "please solve for 3 4 9 1 :", "7 .", "3 ."
    texts = [right] * 8 + [right] * 3 + [wrong] * 5
    rewards = np.array([[text == right for text in texts]], dtype=float)
    outcome = Outcome([("vote", prompt)], [texts], {"reward": rewards}, None)
    found = rivals.measured(outcome)
    assert found["majority of 8"].tolist() == [0.5] and found["reward"].tolist() == [11 / 16]
    assert set(found) == {"reward", "majority of 8"}


def test_a_rule_has_one_setting_for_rewards_and_one_for_votes(model, monkeypatch):
    """0.1 is best by reward on validation prompts, 0.2 by votes: each reports its own metric."""
    grid = {0.1: (3.0, 1.0, 30.0, 10.0), 0.2: (2.0, 2.0, 20.0, 20.0)}
    monkeypatch.setattr(rivals, "RULES", {"some": list(grid)})
    cfg = replace(TINY, test_prompts=12, test_samples=4, oracle_prompts=6)

    def answer(base, asked, samples, gen, rule):
        return 2 * (asked == rivals.prompts_of(cfg, "vote", "test")), rule

    def measured(outcome):
        at, rule = outcome
        reward, votes = grid[rule][at:at + 2]
        return {"reward": torch.tensor([reward]), "majority of 8": torch.tensor([votes])} | (
            {"best of 2": torch.tensor([reward + 1])} if at else {})
    monkeypatch.setattr(rivals, "respond_by_rule", answer)
    monkeypatch.setattr(rivals, "measured", measured)
    found = rivals.tuning(cfg, model, Tuning("vote", "some", 0))["values"]
    assert {name: x.item() for name, x in found.items()} == {
        "reward": 30.0, "best of 2": 31.0, "majority of 8": 20.0}


def test_samples_of_a_prompt():
    """32 where best of k is asked for."""
    cfg = replace(TINY, test_samples=4)
    assert [rivals.samples_of(cfg, e, "test") for e in ("mix", "vote", "constrained", "repeats")
            ] == [4, 32, 32, 4]
    assert rivals.samples_of(cfg, "vote", "validation") == 4


def test_fixed_temperatures_keep_their_own_numbers(monkeypatch):
    """Means by prompt; the majority of eight from its own scores."""
    def scores(add):
        return {"reward": torch.tensor([[0.0, 1.0], [1.0, 1.0]]) + add,
                "vote_accuracy@8": torch.tensor([[0.25], [0.75]]) + add}
    monkeypatch.setattr(rivals, "measure_fixed", lambda cfg, base, job, run: dict(
        fixed={0.0: scores(0), 1.0: scores(1)}, oracle=scores(2)))
    found = rivals.fixed(TINY, None, Job(0, "vote"))
    assert [of["reward"].tolist() for of in found["fixed"]] == [[0.5, 1], [1.5, 2]]
    assert [of["majority of 8"].tolist() for of in found["fixed"]] == [[0.25, 0.75], [1.25, 1.75]]
    assert found["oracle"]["majority of 8"].tolist() == [2.25, 2.75]


def test_rows_of_runs_by_hand():
    """Two runs: a choice that one of them never drew counts as 0 there."""
    plan = {("settings", "mix", "a"): [["w1"], ["w2"]], ("objectives", "mix", "b"): [["w1", "w2"]]}
    share = dict(subtask="math", role=None)
    found = {"w1": dict(curve=[0.1, 0.5], seconds=[1.0, 5.0], shares=[
                dict(share, tau="x", value=0.8), dict(share, tau="y", value=0.2)]),
             "w2": dict(curve=[0.3, 0.9], seconds=[2.0, 7.0],
                        shares=[dict(share, tau="x", value=1.0)])}
    rows_ = list(rivals.run_rows(plan, found))
    shares = {row["choice"]: row["value"] for row in rows_ if row["metric"] == "choice share"}
    assert shares == pytest.approx({"x": 0.9, "y": 0.1})
    assert [(row["round"], row["value"], row["deviation"]) for row in rows_
            if row["metric"] == "round reward"] == [(1, pytest.approx(0.2), pytest.approx(0.1)),
                                                    (2, pytest.approx(0.7), pytest.approx(0.2))]
    seconds = {row["metric"]: row["value"] for row in rows_ if "seconds" in row["metric"]}
    assert seconds == {"seconds of sampling": 1.5, "seconds of learning": 6.0}


def test_settings_are_searched_on_validation_and_measured_on_test(model, monkeypatch):
    """The second setting is the best on validation prompts, the first on test prompts."""
    cfg = replace(TINY, test_prompts=12, test_samples=4, oracle_prompts=6)
    validation, test = (rivals.prompts_of(cfg, "mix", split) for split in ("validation", "test"))
    earned = {0.5: (1.0, 9.0), 1.0: (2.0, 7.0)}
    names = {name for name, _ in test}

    def oracle(base, asked, choices, samples, gen):
        assert asked == validation and choices == [0.5, 1.0]
        return {name: f"table of {name}" for name in names}

    def answer(base, asked, samples, gen, temperature):
        if isinstance(temperature, list):
            assert asked == test and temperature == [f"table of {name}" for name, _ in asked]
            return outcome_of(asked, np.full((len(asked), samples), 5.0))
        return outcome_of(asked, np.full((len(asked), samples), earned[temperature][asked == test]))
    monkeypatch.setattr(rivals, "search_oracle", oracle)
    monkeypatch.setattr(rivals, "respond", answer)
    found = rivals.search(cfg, model, rivals.Search("mix", (0.5, 1.0), 0))
    assert found["single"]["reward"].tolist() == [7.0] * 12
    assert found["oracle"]["reward"].tolist() == [5.0] * 12


def test_the_best_fixed_temperature_is_one_for_all_prompts():
    """Per metric; the best of each prompt would be 1 everywhere."""
    numbers = [dict(a=torch.tensor([1.0, 0.0, 0.0]), b=torch.tensor([0.0, 0.0, 1.0])),
               dict(a=torch.tensor([0.0, 1.0, 1.0]), b=torch.tensor([0.0, 0.0, 0.5]))]
    best = rivals.best_fixed(numbers)
    assert best["a"].tolist() == [0, 1, 1] and best["b"].tolist() == [0, 0, 1]


def test_rows_by_hand():
    """Two base models, two heads, three prompts; the method is .2 above the fixed one everywhere
    and the oracle .4: a difference without a spread, a share of a half."""
    fixed = np.array([[[0.1, 0.5, 0.3]], [[0.2, 0.2, 0.8]]])  # (D,1,P)
    numbers = {("mix", FIXED): {"reward": fixed}, ("mix", ORACLE): {"reward": fixed + 0.4},
               ("mix", "ours"): {"reward": np.repeat(fixed, 2, 1) + 0.2}}
    table = Table(replace(TINY, base_seeds=2, seeds=2), numbers)
    table.add("s", "mix", "ours", "reward")
    table.add("s", "mix", "ours", "reward", minus=FIXED)
    table.add("s", "mix", "ours", "reward", share=True)
    table.add("s", "mix", "ours", "reward", minus=FIXED, share=True)
    value, difference, share, same = table.rows
    assert value["value"] == pytest.approx(0.35 + 0.2) and value["low"] < 0.5 < value["high"]
    for row, right in ((difference, 0.2), (share, 0.5), (same, 0.5)):
        assert [row[end] for end in ("value", "low", "high")] == pytest.approx([right] * 3)
    numbers["mix", ORACLE] = {"reward": fixed - 0.1}
    table.add("s", "mix", "ours", "reward", share=True)
    assert len(table.rows) == 4  # a share of nothing is left out


def test_the_interval_of_a_mean_against_theory():
    """One base model and head: the deviation of a mean over 400 prompts."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1, 1, 400))
    table = Table(replace(TINY, base_seeds=1, seeds=1), {("mix", "x"): {"reward": values}})
    table.add("s", "mix", "x", "reward")
    row, = table.rows
    half = 1.96 * values.std() / 20
    assert (row["high"] - row["low"]) / 2 == pytest.approx(half, rel=0.12)


def tried(value, **changes):
    work = replace(Training("mix", Recipe("latent", (0.0,)), 1e-3, 0.1), **changes)
    return work, dict(values=dict(reward=torch.full((4,), value)))


def test_the_best_try_of_each_objective_and_experiment():
    found = dict([tried(1.0), tried(3.0, lr=4e-3), tried(2.0, knob=0.5),
                  tried(9.0, experiment="vote"), tried(8.0, recipe=Recipe("NLL", (0.0,))),
                  tried(1.5, lr=2e-3, recipe=Recipe("latent", (0.0,), "nothing"))])
    best = rivals.best_tries(found)
    assert {name: (value, work.lr) for name, (value, work) in best.items()} == {
        ("mix", "latent", HIDDEN): (3.0, 4e-3), ("vote", "latent", HIDDEN): (9.0, 1e-3),
        ("mix", "NLL", HIDDEN): (8.0, 1e-3), ("mix", "latent", "nothing"): (1.5, 2e-3)}


def test_two_sets_of_the_highest_mean():
    found = dict(tried(value, experiment=experiment, recipe=Recipe(choices=choices))
                 for choices, values in zip(rivals.SETS.values(), [(0, 1), (5, 0), (1, 2), (2, 2)])
                 for experiment, value in zip(("mix", "vote"), map(float, values)))
    names, means = rivals.picked_sets(found)
    assert names == [list(rivals.SETS)[1], list(rivals.SETS)[3]]
    assert list(means.values()) == [0.5, 2.5, 1.5, 2.0]


def test_everything_is_searched_equally_and_reported_on_test_prompts():
    cfg = replace(TINY, base_seeds=3, seeds=5, choices=Config().choices)
    experiments = ("repeats", "mix", "constrained", "vote")
    works = list(rivals.tries(cfg, experiments, quick=False))
    counts = {}
    for work in works:
        assert work.split == "validation" and work.seed == 100 and work.base_seed == 0
        counts.setdefault((work.experiment, work.recipe.objective), set()).add((work.lr, work.knob))
    assert {len(tries) for tries in counts.values()} == {6}
    assert len(counts) == 4 * 12 + 1  # the exact sequence is for one experiment
    best = {(*name, HIDDEN): (0.0, Training(name[0], Recipe(name[1]), 0.5, 7.0))
            for name in counts}
    again = list(rivals.control_tries(cfg, experiments, best))
    assert len(again) == 3 * (4 * 5 + 1)  # three rates; five inputs or objectives, the label once
    assert {work.knob for work in again} == {7.0} and HIDDEN not in {w.recipe.sees for w in again}
    assert {work.lr for work in again} == set(rivals.RATES)
    assert {work.split for work in again} == {"validation"}
    best |= {(w.experiment, w.recipe.objective, w.recipe.sees): (0.0, replace(w, lr=0.5))
             for w in again}
    plan = rivals.final(cfg, experiments, ["min-p"], best)
    assert {(w.split, w.lr, w.knob) for works in plan.values() for seeds in works
            for w in seeds} == {("test", 0.5, 7.0)}
    for works in plan.values():
        assert [[(w.base_seed, w.seed) for w in seeds] for seeds in works] == [
            [(b, s) for s in range(5)] for b in range(3)]
    latent = plan["settings", "vote", LATENT]
    for same in (("objectives", "vote", "latent"), ("controls", "vote", "hidden state"),
                 ("noise", "vote", "latent; "), ("grid", "vote", "K = 7")):
        assert plan[same] == latent  # trained once
    assert plan["grid", "mix", "K = 25"][0][0].recipe.choices[-1] == 1.2
    assert plan["grid", "mix", "K = 13"][0][0].recipe.choices[:3] == (0.0, 0.1, 0.2)
    assert ("noise", "mix", "latent; spread 3") not in plan
    assert ("controls", "vote", "task label") not in plan
    assert plan["controls", "mix", "task label"][0][0].recipe.sees == "task label"


def test_prompts_are_those_of_the_main_job_and_of_their_split():
    cfg = replace(TINY, test_prompts=24, oracle_prompts=12)
    assert rivals.prompts_of(cfg, "mix", "test") == rivals.test_set(cfg, "mix")[0]
    of_validation = rivals.prompts_of(cfg, "mix", "validation")
    assert len(of_validation) == 12
    assert {split_of(prompt) for _, prompt in of_validation} == {"validation"}


def test_the_saved_rivals_are_those_of_the_code():
    """Bug: a rule, an objective or a grid changed since the page was made."""
    saved = rows.load(tables.DATA / "rivals.json")

    def methods(section):
        return set(rows.known(saved, "method", section=section))
    assert methods("rules") == {FIXED, ORACLE, *rules.RULES}
    assert methods("objectives") == set(OBJECTIVES)
    assert methods("noise") == {f"{name}; {noise}" for name in rivals.NOISY_OBJECTIVES
                                for noise in rivals.NOISES}
    assert methods("grid") == {"K infinite", *(f"K = {K}" for K in (2, 4, 7, 13, 25))}
    assert {*objectives.SEEN, "hidden state", "nothing, REINFORCE"} == methods("controls")
    assert saved["config"]["sets"] == {name: list(rivals.SETS[name])
                                       for name in saved["config"]["sets"]}
    for name, grid in rules.RULES.items():
        picked = set(rows.known(saved, "choice", section="picked", method=name,
                                metric=("reward", "majority of 8")))
        assert picked <= {rules.rule_name(rule) for rule in grid} and picked
    for name, objective in OBJECTIVES.items():
        assert set(rows.known(saved, "lr", section="picked", method=name)) <= set(rivals.RATES)
        assert set(rows.known(saved, "knob", section="picked", method=name)) <= set(
            objective.knob[1])
