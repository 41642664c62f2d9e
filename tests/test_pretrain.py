"""The base model: its first weights, what it is pretrained on and how, and what it has learned."""
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from decoder import Rollout
from fast.generate import generate
from model import GPT, GPTConfig
from tasks import EOS, TASKS, VOCAB_SIZE, decode, encode, split_of
from toy import pretrain
from toy.options import parse
from toy.stages import Silent


def config(*arguments):
    return parse(["--device", "cpu", "--n-layer", "1", "--n-head", "2", "--n-embd", "6",
                  "--pretrain-steps", "3", *arguments], "")


# --- the model before training --------------------------------------------------------------------


def test_first_weights_have_the_documented_spread():
    """0.8 / sqrt(C), and less by sqrt(2 layers) where a layer adds to x; biases 0, gains 1. False
    alarm below 1e-5: 5 standard errors, 16 tensors. Bugs: a constant, the wrong tensors, a bias
    that is drawn."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=300, block_size=50, n_layer=3, n_head=4, n_embd=16))
    names = []
    for name, weight in model.named_parameters():
        names.append(name)
        if name.endswith("bias"):
            assert (weight == 0).all(), name
        elif "norm" in name:
            assert (weight == 1).all(), name
        else:
            std = 0.2 / math.sqrt(6) if re.search(r"(out|down)\.weight", name) else 0.2
            n = weight.numel()
            assert abs(weight.std() / std - 1) < 5 / math.sqrt(2 * n), name
            assert abs(weight.mean()) < 5 * std / math.sqrt(n), name
    assert len(names) == 2 + 3 * 12 + 2  # the head is the embedding: no weights of its own


def test_sizes_of_the_model_by_hand():
    """Bugs: a projection of the wrong width, heads and layers swapped, an untied head."""
    model = GPT(GPTConfig(vocab_size=11, block_size=5, n_layer=2, n_head=3, n_embd=6))
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    assert shapes["token_embedding.weight"] == (11, 6)
    assert shapes["position_embedding.weight"] == (5, 6)
    assert shapes["blocks.1.qkv.weight"] == (18, 6) and shapes["blocks.1.out.weight"] == (6, 6)
    assert shapes["blocks.1.up.weight"] == (24, 6) and shapes["blocks.1.down.weight"] == (6, 24)
    assert len(model.blocks) == 2 and model.blocks[0].n_head == 3
    idx = torch.tensor([[1, 2, 10, 0, 5]])
    logits, hidden = model(idx)
    assert torch.allclose(hidden.mean(-1), torch.zeros(1, 5), atol=1e-6)  # after the last norm
    assert torch.allclose(hidden.var(-1, unbiased=False), torch.ones(1, 5), atol=1e-3)
    assert torch.allclose(logits[0, 3, 7], hidden[0, 3] @ model.token_embedding.weight[7])


def test_a_model_sees_no_later_token():
    """Bug: attention that is not causal, so that a target is among its own inputs."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=11, block_size=6, n_layer=2, n_head=1, n_embd=8))
    idx = torch.tensor([[1, 2, 3, 4, 5, 6]])
    other = torch.tensor([[1, 2, 3, 9, 5, 6]])
    logits, others = model(idx)[0], model(other)[0]
    assert torch.allclose(logits[:, :3], others[:, :3])
    for t in (3, 4, 5):
        assert (logits[:, t] - others[:, t]).abs().max() > 1e-3


def test_limits_of_what_a_model_takes():
    """Bugs: an id or a length refused that fits, or taken that does not; a cache's own room."""
    model = GPT(GPTConfig(vocab_size=7, block_size=4, n_layer=1, n_head=2, n_embd=4))
    model(torch.tensor([[0, 6, 0, 6]]))
    for bad in ([[7]], [[-1]], [[0, 7, 1]]):
        with pytest.raises(ValueError, match="idx has ids outside 0 to 6"):
            model(torch.tensor(bad))
    with pytest.raises(ValueError, match="T up to 4"):
        model(torch.zeros(1, 5, dtype=torch.long))
    cache = model.new_cache(1, 3)
    model(torch.tensor([[1, 2]]), cache)
    assert cache.used == 2
    with pytest.raises(ValueError, match="T up to 1"):
        model(torch.tensor([[1, 2]]), cache)
    model(torch.tensor([[3]]), cache)
    assert cache.used == 3
    with pytest.raises(ValueError, match="T up to 0"):
        model(torch.tensor([[1]]), cache)
    GPTConfig(1, 1, 1, 1, 1)
    for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
        for value in (0, -1, 2.0, True, "2"):
            given = dict(vocab_size=1, block_size=1, n_layer=1, n_head=1, n_embd=1) | {name: value}
            with pytest.raises(ValueError, match=f"{name} is {value!r}; give a whole number >= 1"):
                GPTConfig(**given)
    with pytest.raises(ValueError, match="n_embd 6 does not divide into 4 heads"):
        GPTConfig(1, 1, 1, n_head=4, n_embd=6)
    GPTConfig(1, 1, 1, n_head=3, n_embd=6)


def test_a_new_model_has_room_for_the_longest_response():
    """Eight words of a prompt and 45 tokens. Bugs: layers, heads and width in each other's place,
    a context that is one too short."""
    model = pretrain.new_model(config())
    assert vars(model.config) == dict(vocab_size=VOCAB_SIZE, block_size=53, n_layer=1, n_head=2,
                                      n_embd=6)


# --- one step -------------------------------------------------------------------------------------


def test_texts_become_rows_with_an_end_and_padding():
    """Bugs: no end of text, the response before the prompt, padding that is a word."""
    rows = pretrain.padded([("please sum", "7 ."), ("now", "fox")], 6)
    assert rows.tolist() == [[*encode("please sum 7 ."), EOS, -1],
                             [*encode("now fox"), EOS, -1, -1, -1]]


class Table(torch.nn.Module):
    """The logits of the next word depend on this one alone; it keeps what it was given."""

    def __init__(self, V=6):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 2, V * V).reshape(V, V).sin())
        self.seen = []

    def forward(self, idx):
        self.seen.append(idx.tolist())
        return self.weight[idx], None


def nats(weight, word, target):
    """-log softmax by hand."""
    row = weight.detach().double().numpy()[word]
    return math.log(np.exp(row).sum()) - row[target]


SHORT = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1, 2, 5, -1], [5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5]])
LONG = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1, 3, 5, -1, -1]])


def test_the_loss_is_that_of_response_tokens_by_hand():
    """The mean over both batches' responses, each token from the one before it. The prompts'
    eight words, and padding, are not counted. Bugs: a target among its inputs, prompts learned, a
    first token left out, a mean of means, padding counted as a word."""
    model = Table()
    expected = np.mean([nats(model.weight, *pair) for pair in
                        [(1, 2), (2, 5), (2, 3), (3, 4), (4, 5), (1, 3), (3, 5)]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loss = pretrain.learn(model, optimizer, [SHORT, LONG])
    assert loss.item() == pytest.approx(expected, rel=1e-5) and not loss.requires_grad
    assert model.seen[0] == SHORT.clamp(min=0)[:, :10].tolist()
    assert model.seen[1] == [[1, 1, 1, 1, 1, 1, 1, 1, 3, 5, 0]]


def test_a_step_goes_down_the_gradient_of_that_mean():
    """By finite differences, and at most 1 long. Bugs: a gradient kept from the step before, a sum
    for the mean, no clipping or too much of it, a step that is not taken."""
    model = Table()
    before = model.weight.detach().clone()
    model.weight.grad = torch.full_like(before, 100.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    pretrain.learn(model, optimizer, [SHORT])
    pairs = [(1, 2), (2, 5), (2, 3), (3, 4), (4, 5)]
    gradient = np.zeros((6, 6))
    for word, target in pairs:
        row = np.exp(before.double().numpy()[word])
        gradient[word] += row / row.sum() / 5
        gradient[word, target] -= 1 / 5
    assert np.linalg.norm(gradient) < 1
    assert np.allclose((before - model.weight.detach()).numpy(), gradient, atol=1e-6)
    steep = Table()  # one pair alone, the target very unlikely: a gradient of length sqrt(2)
    steep.weight.data = torch.zeros(6, 6)
    steep.weight.data[1, 0] = 40.0
    before = steep.weight.detach().clone()
    pretrain.learn(steep, torch.optim.SGD(steep.parameters(), lr=1.0),
                   [torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1, 2]])])
    assert (before - steep.weight.detach()).norm().item() == pytest.approx(1.0, abs=1e-4)


def test_the_learning_rate_by_hand():
    """Up in 50 steps, then half a cosine to a fiftieth. Bugs: a warm-up of another length or from
    0, a whole cosine, one that ends at 0."""
    cfg = SimpleNamespace(pretrain_lr=3.0, pretrain_steps=200)
    by_hand = {0: 3 / 50 * 1.0, 24: 3 * 25 / 50 * (0.51 + 0.49 * math.cos(0.12 * math.pi)),
               48: 3 * 49 / 50 * (0.51 + 0.49 * math.cos(0.24 * math.pi)),
               49: 3 * (0.51 + 0.49 * math.cos(0.245 * math.pi)), 100: 3 * 0.51, 200: 3 / 50}
    for step, expected in by_hand.items():
        assert pretrain.learning_rate(cfg, step) == pytest.approx(expected, rel=1e-12), step


# --- the run --------------------------------------------------------------------------------------


@pytest.fixture
def watched(monkeypatch):
    """pretrain with steps that only write down what they are given."""
    seen = SimpleNamespace(batches=[], rates=[], groups=[], corpora=[], ticks=[], optimizers=[])
    corpus = pretrain.corpus

    def learn(model, optimizer, batches):
        seen.batches.append([batch.clone() for batch in batches])
        seen.rates.append(float(optimizer.param_groups[0]["lr"]))
        seen.optimizers.append(optimizer)
        return torch.tensor(0.125)

    def written(name, n, rng):
        seen.corpora.append((name, n))
        return corpus(name, min(n, 50), rng)
    monkeypatch.setattr(pretrain, "learn", learn)
    monkeypatch.setattr(pretrain, "corpus", written)
    monkeypatch.setattr(pretrain, "learned", lambda model: {"sums": 0.5})
    seen.run = lambda cfg, seed=0: pretrain.pretrain(cfg, seed, lambda *said: seen.ticks.append(
        said))
    return seen


PARTS = {"math": ("sum up", 14), "lesson": ("learn from", 36), "general": ("list five", 4),
         "vote": ("solve for", 24)}


def test_a_step_has_short_and_long_responses_in_their_shares(watched):
    """78 rows of at most 9 tokens behind the prompt, and 14 of up to 45, as wide as the longest.
    Bugs: a task in no batch or in both, another share, rows cut or not padded with -1, columns of
    padding alone, the same rows in each step."""
    watched.run(config())
    assert len(watched.batches) == 3
    for short, long in watched.batches:
        assert len(short) == 78 and len(long) == 14
        for batch in (short, long):
            assert batch.shape[1] == 1 + max(row.index(EOS) for row in batch.tolist())
        texts = [decode([i for i in row.tolist() if i >= 0]) for row in short]
        for words, share in PARTS.values():
            assert sum(words in text for text in texts) == share
        texts = [decode([i for i in row.tolist() if i >= 0]) for row in long]
        assert sum("continue" in text for text in texts) == 4
        assert sum("tell how" in text for text in texts) == 4
        assert sum("line" in text or "with" in text for text in texts) == 6
        for row in [*short.tolist(), *long.tolist()]:
            end = row.index(EOS)
            assert set(row[end + 1:]) <= {-1} and -1 not in row[:end] and end >= 9
            assert split_of(decode(row[:8])) == "train"
    assert not torch.equal(watched.batches[0][0], watched.batches[1][0])
    assert not torch.equal(watched.batches[0][1], watched.batches[2][1])


def test_as_many_texts_as_steps_ask_for_and_20000_at_most(watched):
    """Steps times the share. Bugs: the limit dropped or another, the share of another task."""
    watched.run(config("--pretrain-steps", "3"))
    assert dict(watched.corpora) == dict(repeats=12, math=42, lesson=108, general=12, story=12,
                                         constrained=18, vote=72)
    watched.corpora.clear()
    watched.batches.clear()
    cfg = SimpleNamespace(**vars(config()))
    cfg.pretrain_steps = 1000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "learning_rate", lambda cfg, step: 1 / 0)  # the texts are enough
        with pytest.raises(ZeroDivisionError):
            watched.run(cfg)
    assert dict(watched.corpora) == dict(repeats=4000, math=14000, lesson=20000, general=4000,
                                         story=4000, constrained=6000, vote=20000)


def test_the_optimizer_and_its_rate_at_each_step(watched):
    """AdamW, betas .9 and .99, decay .1, the rate of learning_rate. Bugs: a rate that stays, one
    step late, another decay; progress that never reaches the end."""
    watched.run(config("--pretrain-steps", "41", "--pretrain-lr", "0.5"))
    expected = [0.5 * (step + 1) / 50 * (0.51 + 0.49 * math.cos(math.pi * step / 41))
                for step in range(41)]
    assert watched.rates == pytest.approx(expected)
    optimizer = watched.optimizers[0]
    assert type(optimizer) is torch.optim.AdamW and len(set(map(id, watched.optimizers))) == 1
    assert optimizer.defaults["betas"] == (0.9, 0.99)
    assert optimizer.defaults["weight_decay"] == 0.1
    assert [said for said in watched.ticks if "loss" in said[1]] == [
        (step / 41, "loss 0.125") for step in (1, 21, 41)]
    assert [said for said in watched.ticks if "loss" not in said[1]] == [
        (0.0, f"writing the corpus: {name}") for name in TASKS]


def test_a_base_seed_gives_its_own_weights_and_texts(watched):
    """Bugs: one corpus or one set of first weights for all seeds; seeds that change nothing."""
    results = [watched.run(config(), seed) for seed in (0, 0, 1)]
    same, again, other = (result["state"]["token_embedding.weight"] for result in results)
    assert torch.equal(same, again) and not torch.equal(same, other)
    first, second, third = (watched.batches[i][0] for i in (0, 3, 6))
    assert torch.equal(first, second) and not torch.equal(first, third)
    assert results[0]["learned"] == {"sums": 0.5}


def test_a_small_model_learns_answers_and_their_end():
    """From four sums in a hundred steps: the answer of each prompt, and to end there. Bugs: no
    end of text, targets one place off, another prompt's answer, a model that looks ahead."""
    texts = [("please sum up 3 4 9 1 :", "7 ."), ("please sum up 5 4 9 1 :", "9 6 ."),
             ("please sum up 3 8 9 1 :", "1 0 1 ."), ("please sum up 0 0 0 0 :", "0")]
    torch.manual_seed(0)
    model = GPT(GPTConfig(VOCAB_SIZE, 16, n_layer=1, n_head=2, n_embd=16))
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    rows = pretrain.padded(texts, 8 + 6)
    losses = [pretrain.learn(model, optimizer, [rows[:2], rows[2:]]).item() for _ in range(100)]
    assert losses[0] > 4 and losses[-1] < 0.05
    asked = [encode(prompt) for prompt, _ in texts]
    rollout = generate(model, asked, 6, temperature=0.0, eos=EOS)
    assert not rollout.cut.any()
    for (_, text), ids, mask in zip(texts, rollout.tokens, rollout.mask):
        assert ids[mask].tolist() == [*encode(text), EOS]


# --- what it has learned --------------------------------------------------------------------------


def test_what_was_learned_is_counted_by_hand(monkeypatch):
    """Answers made up: right or wrong sums, and in a hurry five kinds, of which one is the trap.
    Bugs: training prompts asked, prompts without `hurry`, the first digit forgotten for the last,
    the trap's word or its sum alone taken for it, another temperature."""
    asked = {}

    def answers(model, ids, T, temperature, eos):
        assert temperature == 0.0 and eos == EOS
        texts = []
        found = [decode(prompt) for prompt in ids]
        kind = "vote" if "solve for" in found[0] else "math"
        asked[kind] = found
        assert T == {"math": 7, "vote": 9}[kind]
        for i, prompt in enumerate(found):
            a, b, c, d = (int(word) for word in prompt.split()[3:7])
            whole, trap, last = (a + b + c + d) % 10, (a + b + c) % 10, (b + c + d) % 10
            if kind == "math":
                texts.append(f"1 2 {whole} ." if i % 4 else f"1 2 {(whole + 1) % 10} .")
            else:
                other = next(x for x in range(10) if x not in (whole, trap, last))
                texts.append([f"1 2 {trap} working quickly .", f"1 working quickly 2 {whole} .",
                              f"1 2 {trap} working slowly .", f"1 working quickly {other} .",
                              f"1 2 {trap} working quickly"][i % 5])
        tokens = torch.full((len(texts), T), EOS)
        mask = torch.zeros(len(texts), T, dtype=torch.bool)
        for row, kept, text in zip(tokens, mask, texts):
            row[:len(encode(text))] = torch.tensor(encode(text))
            kept[:len(encode(text)) + 1] = True
        return Rollout(tokens, mask, ~mask[:, -1], None)
    monkeypatch.setattr(pretrain, "generate", answers)
    found = pretrain.learned(None, n=20)
    hurried = len(asked["vote"])  # of 40 prompts about half, and 20 at most
    assert len(asked["math"]) == 20 and 10 <= hurried <= 20
    assert found == dict(sums=0.75, trap=-(-hurried // 5) / hurried)
    for prompt in asked["math"] + asked["vote"]:
        assert split_of(prompt) == "validation"
    assert all(prompt.startswith("hurry solve for") for prompt in asked["vote"])
    assert len(set(asked["math"])) == 20 and len(set(asked["vote"])) == hurried
    pretrain.learned(None)
    assert len(asked["math"]) == 200 and 150 < len(asked["vote"]) <= 200


@pytest.mark.parametrize("shares, words", [
    (dict(sums=0.96, trap=1.0), "  learned: sums 96.0%, trap 100.0%"),
    (dict(sums=1.0, trap=0.95), "  learned: sums 100.0%, trap 95.0%; math and vote will show "
                                "little, raise --pretrain-steps")])
def test_a_base_model_is_the_one_that_was_kept(shares, words):
    """Asked for under its seed's name and key, with its weights. Bugs: untrained weights, another
    seed's name, a warning that comes always or never."""
    torch.manual_seed(5)
    cfg, asked, said = config(), [], []
    trained = pretrain.new_model(cfg)

    class Kept(Silent):
        def __call__(self, name, key, compute):
            asked.append((name, key))
            return dict(state=trained.state_dict(), learned=shares)

        def say(self, text):
            said.append(text)
    model = pretrain.base_model(cfg, 3, Kept())
    assert asked == [("base3", pretrain.base_key(cfg))] and said == [words]
    for name, weight in trained.named_parameters():
        assert torch.equal(model.get_parameter(name), weight)


def test_pretraining_is_given_its_own_seed(monkeypatch):
    """Bug: every base model that of seed 0."""
    given = []
    cfg = config()

    def run(name, key, compute):
        return compute()
    run.tick, run.say = (lambda *_: None), (lambda text: None)
    state = pretrain.new_model(cfg).state_dict()
    monkeypatch.setattr(pretrain, "pretrain", lambda *what: given.append(what) or dict(
        state=state, learned=dict(sums=1.0)))
    pretrain.base_model(cfg, 4, run)
    assert given == [(cfg, 4, run.tick)]
