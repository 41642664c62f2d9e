"""The model kit itself: is the key right, does check_model.py pass what is right and miss nothing?

The numpy GPT-2 stands against transformers', its gradients against central differences, its
enumeration against plain sums. Mistakes are planted in our own adapter, and a few in the one for
transformers; every one must be missed by a question about it.
    pytest tests/test_model_kit.py
"""
import ast
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F

FOLDER = Path(__file__).resolve().parents[1] / "conformance"
sys.path.append(str(FOLDER))
import check  # noqa: E402
import check_model  # noqa: E402
import gpt2  # noqa: E402
import make_model_kit  # noqa: E402

import decoder as decoding  # noqa: E402
import lpo  # noqa: E402
import model  # noqa: E402
import oracle  # noqa: E402

FOLDERS = [make_model_kit.KIT / level / role for level in make_model_kit.LEVELS
           for role in ("policy", "reference")]
CASES = check_model.load_cases()
OURS = check.load_module(str(FOLDER / "adapters" / "model_ours.py"))


def theirs():
    """The adapter for transformers."""
    pytest.importorskip("transformers")
    return check.load_module(str(FOLDER / "adapters" / "model_transformers.py"))


def script(*arguments):
    return subprocess.run([sys.executable, str(FOLDER / "check_model.py"), *map(str, arguments)],
                          capture_output=True, text=True)


def answers(module, function, part="", n=2000, dtype="float64"):
    """[(status, line)] of the questions of a function whose names hold `part`, up to a miss."""
    here, found = check_model.Here(module), []
    for of, name, ask in check_model.questions(dtype, n):
        if of == function and part in name:
            found.append(check_model.verdict(here, ask))
            if found[-1][0] == "MISS":
                break
    return found


# ---- the kit's files ---------------------------------------------------------------------------

def test_the_kit_is_what_its_command_makes(tmp_path):
    make_model_kit.write(tmp_path)
    made = {path.relative_to(tmp_path): path.read_bytes()
            for path in tmp_path.rglob("*") if path.is_file()}
    kit = {path.relative_to(make_model_kit.KIT): path.read_bytes()
           for path in make_model_kit.KIT.rglob("*") if path.is_file()}
    assert made == kit
    assert sum(map(len, kit.values())) < 200_000


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_weights_are_exact_in_bfloat16_and_none_is_zero(folder):
    policy = gpt2.load(folder)
    for name, w in {**policy.weights, **policy.head}.items():
        assert (gpt2.bfloat16(w) == w).all() and (w != 0).all(), name
        assert ".ln_" not in name or not name.endswith("weight") or (w != 1).any(), name


def test_bfloat16_rounds_as_torch_does():
    x = np.random.default_rng(0).standard_normal((100, 3))
    assert (gpt2.bfloat16(x) == torch.tensor(x).float().bfloat16().double().numpy()).all()
    with pytest.raises(ValueError, match="w is not exact in bfloat16"):
        gpt2.write_safetensors("nowhere", dict(w=np.array([1 / 3])))


@pytest.mark.parametrize("kind", (torch.float64, torch.float32, torch.float16, torch.bfloat16))
def test_files_are_those_of_the_safetensors_package(kind, tmp_path):
    package = pytest.importorskip("safetensors.torch")
    w = {"a": torch.randn(3, 2).to(kind), "b": torch.randn(5).to(kind),
         "c": torch.ones(()).to(kind)}
    package.save_file(w, tmp_path / "x.safetensors", metadata=dict(format="pt"))
    read = gpt2.read_safetensors(tmp_path / "x.safetensors")
    assert {name: x.tolist() for name, x in read.items()} == {n: x.tolist() for n, x in w.items()}
    read = {name: gpt2.bfloat16(x) for name, x in read.items()}
    gpt2.write_safetensors(tmp_path / "y.safetensors", read)
    again = package.load_file(tmp_path / "y.safetensors")
    assert all(x.dtype == torch.bfloat16 for x in again.values())
    assert {name: x.tolist() for name, x in again.items()} == {n: x.tolist()
                                                               for n, x in read.items()}


# ---- the key -----------------------------------------------------------------------------------

@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_forward_is_transformers(folder):
    GPT2LMHeadModel = pytest.importorskip("transformers").GPT2LMHeadModel
    theirs = GPT2LMHeadModel.from_pretrained(folder).double()
    idx = np.random.default_rng(1).integers(0, 16, (3, 16))
    with torch.no_grad():
        out = theirs(torch.tensor(idx), output_hidden_states=True)
    logits, hidden = gpt2.forward(gpt2.load(folder), idx)
    assert abs(out.logits.numpy() - logits).max() < 1e-12
    assert abs(out.hidden_states[-1].numpy() - hidden).max() < 1e-12


def test_head_gradient_is_the_central_difference():
    policy, rng = gpt2.load(FOLDERS[0]), np.random.default_rng(2)
    hidden, slopes = rng.standard_normal((3, 32)), rng.standard_normal((3, 4))
    gradient = gpt2.head_gradient(policy.head, hidden, slopes)
    for name, w in policy.head.items():
        for index in list(np.ndindex(w.shape))[::7]:
            step = np.zeros_like(w)
            step[index] = 1e-5
            up, down = ((gpt2.head_logits({**policy.head, name: w + s}, hidden) * slopes).sum()
                        for s in (step, -step))
            assert abs((up - down) / 2e-5 - gradient[name][index]) < 1e-8, (name, index)


@pytest.mark.parametrize("level, variant", [
    (level, variant) for level, of in check_model.VARIANTS.items() for variant in of])
def test_training_follows_the_central_difference_of_the_loss(level, variant):
    folder, pairs = make_model_kit.KIT / level, CASES[level]["pairs"]
    policy, reference = gpt2.load(folder / "policy"), gpt2.load(folder / "reference")
    score_of = {"nll": oracle.nll_loss, "exact_sequence": oracle.exact_sequence_score,
                "separate": oracle.separate_score, "joint": oracle.joint_score,
                "latent": oracle.latent_score}[variant]

    def loss(head):
        total = 0
        for pair in pairs:
            scores = []
            for side in ("chosen", "rejected"):
                r, h = gpt2.oracle_response(policy, reference, pair["prompt"], *pair[side])
                r.tau_logits = gpt2.head_logits(head, h).tolist()
                scores.append(score_of(r))
            total += (scores[0] if variant == "nll" else
                      oracle.preference_loss(scores[0] - scores[1], 0.5))
        return total / len(pairs)

    head = gpt2.trained(policy, reference, pairs, variant, 0.5, lr=1.0, steps=1)
    for name, index in (("mlp.0.weight", (3, 5)), ("mlp.2.bias", (4,)), ("mlp.4.bias", (0,))):
        w = policy.head[name]
        step = np.zeros_like(w)
        step[index] = 1e-5
        up, down = (loss({**policy.head, name: w + s}) for s in (step, -step))
        assert abs((up - down) / 2e-5 - (w - head[name])[index]) < 1e-8, (name, index)


@pytest.mark.parametrize("level", make_model_kit.LEVELS)
def test_a_wrong_gradient_would_show_in_the_weights(level):
    """Each question's answer is far from the untrained head and from every other's answer."""
    folder, pairs, heads = make_model_kit.KIT / level, CASES[level]["pairs"], []
    policy = gpt2.load(folder / "policy")
    for variant in check_model.VARIANTS[level]:
        for role in check_model.REFERENCES.values():
            reference = role and gpt2.load(folder / role)
            heads.append(gpt2.trained(policy, reference, pairs, variant, check_model.BETA,
                                      check_model.LR, check_model.STEPS))
    heads.append(policy.head)
    flat = np.array([np.concatenate([w.ravel() for w in head.values()]) for head in heads])
    apart = abs(flat[:, None] - flat).max(-1) + np.eye(len(flat))
    close = {(int(i), int(j)) for i, j in np.argwhere(apart < 1e-4) if i < j}
    # at the start of a round, with the model frozen, joint is separate; nll has no reference
    assert close == {(0, 3), (1, 4), (9, 10), (9, 11), (10, 11)}


@pytest.mark.parametrize("level", make_model_kit.LEVELS)
@pytest.mark.parametrize("select", ("sample", "greedy"))
def test_enumeration_agrees_with_the_chain_rule_of_each_response(level, select):
    """Of responses of two tokens: every (choice, word, choice, word), one product each."""
    policy, prompt = gpt2.load(make_model_kit.KIT / level / "policy"), [3, 7, 1]
    want = np.zeros((2, 4, 16))
    for a in range(16):
        scored = gpt2.score(policy, prompt, [a, 5])
        logits = gpt2.aligned(policy, prompt, [a, 5])[0][1]
        taus = np.exp(scored["tau_logps"])
        if select == "greedy":
            taus = np.eye(4)[taus.argmax(-1)]
        for k in range(4):
            odds = taus[0, k] * math.exp(scored["text_logps"][0, k])
            want[0, k, a] += odds
            for j in range(4) if level == "token" else [k]:
                of_choice = odds * (taus[1, j] if level == "token" else 1)
                if a != make_model_kit.EOS:
                    words = np.exp(gpt2.word_logps(logits, policy.choices[j]))
                    want[1, j] += of_choice * words
    assert np.abs(gpt2.event_odds(policy, prompt, 2, select) - want).max() < 1e-14


def test_every_choice_is_drawn_and_some_greedy_response_is_certain():
    for level, cases in CASES.items():
        policy = gpt2.load(make_model_kit.KIT / level / "policy")
        assert any(gpt2.event_odds(policy, p, 1, "greedy").max() == 1 for p in cases["prompts"])
        odds = [gpt2.event_odds(policy, p, 1, "sample")[0].sum(-1).min() for p in cases["prompts"]]
        assert min(odds) > 0.05
    assert any(policy.choices != sorted(policy.choices) for policy in map(gpt2.load, FOLDERS))


@pytest.mark.parametrize("name", ("gpt2", "make_model_kit", "check_model"))
def test_the_key_shares_nothing_with_what_it_checks(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for alias in node.names}
    found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {"check", "gpt2", "make_model_kit", "oracle"}
    assert {x.split(".")[0] for x in found} - sys.stdlib_module_names <= {"numpy", *ours}


# ---- the statistics ----------------------------------------------------------------------------

@pytest.mark.parametrize("n, odds", ((7, 0.3), (20, 0.02), (1, 0.5)))
def test_p_values_are_binomial_tails(n, odds):
    log_factorials = np.array([math.lgamma(k + 1) for k in range(n + 1)])
    mass = [math.comb(n, k) * odds ** k * (1 - odds) ** (n - k) for k in range(n + 1)]
    values = [check_model.p_value(k, n, odds, log_factorials) for k in range(n + 1)]
    for k, value in enumerate(values):
        tail = sum(mass[:k + 1]) if k < n * odds else sum(mass[k:])
        assert math.isclose(value, min(1, 2 * tail), rel_tol=1e-12)
    for limit in values:  # what makes the odds of a false alarm hold
        assert sum(m for m, value in zip(mass, values) if value <= limit) <= limit + 1e-12
    for certain in (0, 1):
        assert check_model.p_value(n * certain, n, certain, log_factorials) == 1
        assert check_model.p_value(n - n * certain, n, certain, log_factorials) == 0


@pytest.mark.parametrize("level", make_model_kit.LEVELS)
def test_tails_count_what_a_loop_over_all_responses_counts(level, monkeypatch):
    """Of two tokens: each response once as a hit or not, and the sum of the odds of the hits."""
    monkeypatch.setattr(check_model, "T", 2)
    policy, prompt, share = gpt2.load(make_model_kit.KIT / level / "policy"), [12], 0.1
    rows, hits, odds = [], 0, 0.0

    def place(history, k):
        """P(tau), the words' odds at choice k, and which of them are unlikely."""
        logits, hidden = (x[0, -1] for x in gpt2.forward(policy, np.array([prompt + history])))
        taus = np.exp(gpt2.log_softmax(gpt2.head_logits(policy.head, hidden)))
        words = np.exp(gpt2.word_logps(logits, policy.choices[k]))
        ahead = [sum(sorted(words, reverse=True)[:sorted(-words).index(-w)]) for w in words]
        return taus, words, np.array(ahead) >= 1 - share

    for a in range(16):
        for k in range(4):
            taus, words, cut = place([], k)
            first, bad = taus[k] * words[a], cut[a]
            if a == make_model_kit.EOS:
                rows.append([k * 16 + a, -1])
                hits, odds = hits + bad, odds + first * bad
                continue
            for j in range(4) if level == "token" else [k]:
                taus, words, cut = place([a], j)
                second = words * (taus[j] if level == "token" else 1)
                rows += [[k * 16 + a, j * 16 + b] for b in range(16)]
                hits += (cut | bad)[words > 0].sum() + (16 - (words > 0).sum())
                odds += first * second[cut | bad].sum()
    found = {trial[0]: trial[1:] for trial in check_model.tails(
        policy, [prompt], np.array([rows]), "sample")}
    got_hits, n, got_odds = found[f"prompt 0, responses with a word of the unlikeliest {share:.0%}"]
    assert n == len(rows) and got_hits == hits
    assert math.isclose(got_odds, odds, rel_tol=1e-12)


def test_the_number_of_tests_is_fixed_before_the_draw():
    policy = gpt2.load(FOLDERS[0])
    odds = np.stack([gpt2.event_odds(policy, p, 3, "sample") for p in make_model_kit.PROMPTS])
    counts = set()
    for seed in range(2):
        codes, again = (np.random.default_rng(seed).integers(0, 64, (4, n, 3)) for n in (80, 10))
        trials = [*check_model.frequencies(policy, codes, odds),
                  *check_model.joints(codes, again, odds)]
        counts.add(len(trials))
        assert all(0 <= hits <= n and -1e-12 < share < 1 + 1e-12 for _, hits, n, share in trials)
    assert len(counts) == 1


# ---- from the command line ---------------------------------------------------------------------

@pytest.mark.parametrize("name", [*check.OUR_MODULES, "check", "gpt2", "make_model_kit"])
def test_their_own_module_of_our_name(name, tmp_path):
    """Bug: a page of ours stands in for theirs."""
    (tmp_path / f"{name}.py").write_text("THEIRS = True\n", encoding="utf-8")
    (tmp_path / "mine.py").write_text(f"from {name} import THEIRS\ndef pairs(rewards, how):\n"
                                      "    raise NotImplementedError\n", encoding="utf-8")
    done = script(tmp_path / "mine.py")
    assert "nothing ran" in done.stdout and "cannot import" not in done.stdout, done.stdout


@pytest.mark.parametrize("name, skipped", (
    ("ours", 0), ("transformers", 1), ("jax", 0)))
def test_adapters_pass(name, skipped):
    if name != "ours":
        pytest.importorskip(name)
    done = script(FOLDER / "adapters" / f"model_{name}.py", "--n", 1000)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f" 0 missed, {skipped} skipped, in float64" in done.stdout
    assert "at most 1e-06" in done.stdout


@pytest.mark.parametrize("text, status, said", (
    ("", 2, "nothing ran"),
    ("def pairs(rewards, how): raise NotImplementedError", 2, "nothing ran"),
    ("def pairs(rewards, how): raise RuntimeError('no\\nwords')", 1, "raised RuntimeError: no"),
    ("def pairs(rewards, how): return 3", 1, "the answer does not fit: TypeError"),
    ("def pairs(rewards, how): return {1, 2}", 1, "the answer holds set"),
    ("import os\ndef pairs(rewards, how): os._exit(0)", 1, "pairs ended the process"),
    ("import sys\nsys.exit(0)", 2, "cannot import"),
    ("print('pass')\ndef pairs(rewards, how): print('pass'); return []", 1, "MISS  pairs"),
    ("def score(policy, prompts, responses): return [{}] * len(prompts)", 2,
     "nothing ran"),
    ("import time\ndef pairs(rewards, how): time.sleep(9)", 1, "no answer within 1 s")))
def test_whatever_a_module_does_there_is_a_verdict(text, status, said, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(text + "\n", encoding="utf-8")
    done = script(path, "--timeout", 1)
    assert done.returncode == status and said in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stdout


# ---- planted mistakes --------------------------------------------------------------------------

class Mistake(NamedTuple):
    """plant(patch) makes it, patch(object, name, new) as monkeypatch.setattr. It gives the module
    to be asked, or None: ours."""
    name: str
    function: str
    part: str  # of the names of the questions that must notice
    plant: Callable


def altered(**functions):
    """Our adapter with other functions."""
    return SimpleNamespace(**{**{name: getattr(OURS, name) for name in check_model.FUNCTIONS},
                              **functions})


MISTAKES = []


def mistake(name, function, part=""):
    """Decorates `plant`."""
    def note(plant):
        MISTAKES.append(Mistake(name, function, part, plant))
        return plant
    return note


def words(name, rule, where=lpo, function="score", part=""):
    """Another rule (logits, choice) -> log-probabilities, in the scorer or in the sampler."""
    MISTAKES.append(Mistake(name, function, part,
                            lambda patch: patch(where, "word_logps", rule)))


right_words = lpo.word_logps


def divided(logits, tau):
    return F.log_softmax(logits / tau, -1)


def twice(logits, tau):
    return right_words(logits / tau if tau else logits, tau)


def top(keep):
    def rule(logits, tau):
        logps = right_words(logits, tau)
        return logps.masked_fill(logps < logps.topk(keep).values[..., -1:], -math.inf)
    return rule


def nucleus(share):
    def rule(logits, tau):
        ordered, order = right_words(logits, tau).sort(descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()
        return torch.empty_like(ordered).scatter(
            -1, order, ordered.masked_fill(before > share, -math.inf)).log_softmax(-1)
    return rule


# --- score

words("temperature twice", twice)
words("temperature forgotten", lambda logits, tau: F.log_softmax(logits, -1))
words("temperature multiplied", lambda logits, tau: F.log_softmax(logits * tau, -1))
words("temperature 0 as 0.01", lambda logits, tau: divided(logits, max(tau, 0.01)))
words("softmax plus epsilon", lambda logits, tau: (right_words(logits, tau).exp() + 1e-8).log())


def shifted(logits_by, hidden_by):
    right = decoding.aligned

    def aligned(*given):
        logits, hidden = right(*given)
        return logits.roll(logits_by, 1), hidden.roll(hidden_by, 1)
    return lambda patch: patch(decoding, "aligned", aligned)


MISTAKES += [Mistake("shifted by one", "score", "", shifted(-1, -1)),
             Mistake("head reads one token late", "score", "", shifted(0, -1)),
             Mistake("head reads one token early", "score", "", shifted(0, 1))]


@mistake("decided at the last token", "score", "sequence")
def _(patch):
    patch(decoding.AdaptiveDecoder, "response", lambda self, hidden: self(hidden[:, -1:]))


@mistake("token level decided once", "score", "token")
def _(patch):
    patch(decoding.AdaptiveDecoder, "response",
          lambda self, hidden: self(hidden[:, :1]).expand(*hidden.shape[:2], -1))


@mistake("head reads the state before the final norm", "score")
def _(patch):
    right = model.GPT.forward

    def forward(self, idx):
        before = []
        hook = self.norm.register_forward_pre_hook(lambda _, given: before.append(given[0]))
        logits, _ = right(self, idx)
        hook.remove()
        return logits, before[0]
    patch(model.GPT, "forward", forward)


@mistake("mixture takes the most likely choice", "score")
def _(patch):
    patch(lpo, "marginal", lambda text, tau: (text + tau).max(-1).values)


@mistake("mixture of logarithms", "score")
def _(patch):
    patch(lpo, "marginal", lambda text, tau: (text * tau.exp()).nansum(-1))


@mistake("temperatures sorted", "score", "sequence")
def _(patch):
    right = OURS.load_decoder

    def load(*given):
        head = right(*given)
        head.choices = tuple(sorted(head.choices))
        return head
    patch(OURS, "load_decoder", load)


@mistake("another activation in the head", "score")
def _(patch):
    patch(torch.nn.SiLU, "forward", lambda self, x: F.gelu(x))


@mistake("another GELU", "score")
def _(patch):
    right = F.gelu
    patch(F, "gelu", lambda x, approximate="none": right(x))


@mistake("single precision", "score")
def _(patch):
    patch(OURS, "DTYPE", "float32")


@mistake("padded on the left without a word", "score")
def _(patch):
    def score(policy, prompts, responses):
        longest = max(map(len, prompts))
        prompts = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
        return OURS.score(policy, [p[-8:] for p in prompts], responses)
    return altered(score=score)


@mistake("rows in order of length", "score")
def _(patch):
    def score(policy, prompts, responses):
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        return OURS.score(policy, *([rows[i] for i in order] for rows in (prompts, responses)))
    return altered(score=score)


@mistake("positions not made from the padding", "score")
def _(patch):
    module = theirs()
    module.positions = lambda mask: torch.arange(mask.shape[1]).expand(mask.shape)
    return module


@mistake("padding is looked at", "score")
def _(patch):
    module = theirs()
    right, unmasked = module.left_padded, lambda ids, mask: (ids, torch.ones_like(mask))
    module.left_padded = lambda rows, pad: unmasked(*right(rows, pad))
    return module


@mistake("padding is wherever the end of text stands", "score")
def _(patch):
    module = theirs()
    right = module.left_padded

    def left_padded(rows, pad):
        ids, _ = right(rows, pad)
        return ids, (ids != pad).long()
    module.left_padded = left_padded
    return module


@mistake("dropout stays on", "score")
def _(patch):
    module = theirs()
    module.load_model(str(FOLDERS[0]), "float64").train()
    return module


@mistake("end of text left out", "score")
def _(patch):
    right = OURS.score

    def score(policy, prompts, responses):
        answer = right(policy, prompts, responses)
        return [{name: x[:-1] if len(x) > 1 and ids[-1] == 0 else x for name, x in row.items()}
                for row, ids in zip(answer, responses)]
    return altered(score=score)


# --- generate

def sampler(name, rule, part="token sample"):
    words(name, rule, decoding, "generate", part)


sampler("sampled at the temperature twice", twice)
sampler("sampled without temperature", lambda logits, tau: F.log_softmax(logits, -1))
sampler("temperature 0 as 1", lambda logits, tau: right_words(logits, tau or 1.0))
sampler("temperature 0 divided by", divided, "token greedy")
sampler("temperature at least 0.3", lambda logits, tau: divided(logits, max(tau, 0.3)))
sampler("cut to the 12 likeliest words", top(12))
sampler("cut to 98 percent", nucleus(0.98))
sampler("sequence level cut to 98 percent", nucleus(0.98), "sequence sample")


def noise(name, uniform_like, part="token sample"):
    """Another source of uniform numbers for both draws."""
    def draw(logps, generator=None):
        uniform = uniform_like(logps, generator).to(logps.dtype).clamp(1e-300)
        return (logps - (-uniform.log()).log()).argmax(-1)
    MISTAKES.append(Mistake(name, "generate", part,
                            lambda patch: patch(decoding, "draw", draw)))


def shared(rows):
    """Noise of so many rows, repeated below."""
    def uniform(logps, generator):
        B, N = logps.shape
        some = torch.rand(min(rows, B), N, dtype=logps.dtype, generator=generator)
        return some.repeat(-(-B // rows), 1)[:B]
    return uniform


noise("noise shared by all rows", shared(1))
noise("noise repeated every 100 rows", shared(100))
noise("noise repeated for each prompt", shared(2000))
noise("noise repeated every 256 rows", shared(256), "sequence sample")
noise("choice and word share their noise", lambda logps, generator: torch.rand(
    logps.shape, generator=torch.Generator().manual_seed(len(logps))))


def antithetic(logps, generator):
    """The second half of the rows mirrors the first."""
    half = torch.rand(-(-len(logps) // 2), logps.shape[1], dtype=logps.dtype, generator=generator)
    return torch.cat([half, 1 - half])[:len(logps)].clamp(max=1 - 1e-12)


def same_at_each_token(logps, generator):
    """Words have new noise in a call of `generate` only with its seed."""
    own = torch.Generator().manual_seed(generator.initial_seed() + logps.shape[1])
    return torch.rand(logps.shape, dtype=logps.dtype, generator=own)


noise("half of the rows mirror the other half", antithetic)
noise("the same noise at each token", same_at_each_token)
noise("noise of choices shared by all rows", lambda logps, generator: shared(
    1 if logps.shape[1] == 4 else len(logps))(logps, generator), "sequence sample")
noise("noise of words repeated every two rows", lambda logps, generator: shared(
    2 if logps.shape[1] == 16 else len(logps))(logps, generator))


def without_end(logits, tau):
    """A least length of one word more, as generation settings may ask for."""
    logits = logits.clone()
    logits[..., 0] = -1e9
    return right_words(logits, tau)


sampler("end of text suppressed", without_end)
sampler("temperatures rounded down", lambda logits, tau: right_words(logits, float(int(tau))))
sampler("words less likely than 1 percent of the best cut", lambda logits, tau: right_words(
    logits.masked_fill(logits.log_softmax(-1) < logits.log_softmax(-1).amax(-1, True) - 4.6, -1e9),
    tau))


@mistake("one choice for the whole batch", "generate", "sequence sample")
def _(patch):
    right = decoding.draw

    def draw(logps, generator=None):
        drawn = right(logps, generator)
        return drawn[:1].expand_as(drawn) if logps.shape[1] == 4 else drawn
    patch(decoding, "draw", draw)


def decided_as(level, report):
    """Decides at the other level, and reports as is expected."""
    def plant(patch):
        right = OURS.load_decoder

        def load(*given):
            head = right(*given)
            head.level = level
            return head

        def generate(policy, *given):
            patch(OURS, "load_decoder", load)
            answer = OURS.generate(policy, *given)
            return [[(ids, report(ids, taus)) for ids, taus in rows] for rows in answer]
        return altered(generate=generate)
    return plant


MISTAKES += [Mistake("sequence level decided again at each token", "generate", "sequence sample",
                     decided_as("token", lambda ids, taus: taus[:1])),
             Mistake("token level decided once in sampling", "generate", "token sample",
                     decided_as("sequence", lambda ids, taus: taus * len(ids)))]


def asked_otherwise(name, function, part, change):
    """change(arguments by position) -> those that are passed on."""
    def plant(patch):
        return altered(**{function: lambda *given: getattr(OURS, function)(*change(*given))})
    MISTAKES.append(Mistake(name, function, part, plant))


asked_otherwise("seed ignored", "generate", "token sample",
                lambda policy, prompts, T, n, seed, select: (policy, prompts, T, n, 0, select))
asked_otherwise("greedy is sampled", "generate", "token greedy",
                lambda policy, prompts, T, n, seed, select: (policy, prompts, T, n, seed, "sample"))
asked_otherwise("sampling is greedy", "generate", "sequence sample",
                lambda policy, prompts, T, n, seed, select: (policy, prompts, T, n, seed, "greedy"))
asked_otherwise("one token too few", "generate", "token sample",
                lambda policy, prompts, T, n, seed, select:
                (policy, prompts, T - 1, n, seed, select))
asked_otherwise("prompts padded on the left without a word", "generate", "token sample",
                lambda policy, prompts, *rest:
                (policy, [[0] * (7 - len(prompt)) + prompt for prompt in prompts], *rest))
asked_otherwise("prompts cut to the shortest", "generate", "token sample",
                lambda policy, prompts, *rest: (policy, [p[-1:] for p in prompts], *rest))
asked_otherwise("answers in order of length", "generate", "sequence greedy",
                lambda policy, prompts, *rest: (policy, sorted(prompts, key=len), *rest))


@mistake("answers interleaved", "generate", "token sample")
def _(patch):
    def generate(policy, prompts, *given):
        flat = sum(OURS.generate(policy, prompts, *given), [])
        return [flat[p::len(prompts)] for p in range(len(prompts))]
    return altered(generate=generate)


def reworked(name, change):
    def plant(patch):
        return altered(generate=lambda *given: [[change(*of) for of in rows]
                                                for rows in OURS.generate(*given)])
    MISTAKES.append(Mistake(name, "generate", "token sample", plant))


reworked("end of text dropped", lambda ids, taus: (
    (ids[:-1], taus[:-1]) if 0 in ids else (ids, taus)))
reworked("choices one token late", lambda ids, taus: (ids, taus[-1:] + taus[:-1]))


@mistake("end of text 0 taken for none", "generate", "token sample")
def _(patch):
    right = decoding.generate
    patch(decoding, "generate", lambda *given, eos, **more: right(*given, eos=eos or None, **more))


@mistake("greedy words too", "generate", "sequence greedy")
def _(patch):
    def generate(*given):
        if given[-1] == "greedy":
            patch(decoding, "word_logps", lambda logits, tau: right_words(logits, 0.0))
        return OURS.generate(*given)
    return altered(generate=generate)


@mistake("positions of the prompts not made from the padding", "generate", "token sample")
def _(patch):
    module = theirs()
    module.positions = lambda mask: torch.arange(mask.shape[1]).expand(mask.shape)
    return module


# --- pairs

def pairing(name, pairs, part=""):
    MISTAKES.append(Mistake(name, "pairs", part, lambda patch: altered(pairs=pairs)))


def best_worst(rewards, how):
    """Without a word about ties."""
    return [(p, int(np.argmax(row)), int(np.argmin(row))) for p, row in enumerate(rewards)]


def by_minus(rewards, how):
    order = np.argsort(-rewards, axis=1)
    return [(p, int(row[0]), int(row[-1])) for p, row in enumerate(order)
            if rewards[p, row[0]] != rewards[p, row[-1]]]


def swapped(rewards, how):
    return [(p, j, i) for p, i, j in OURS.pairs(rewards, how)]


pairing("ties make pairs", best_worst)
pairing("order by minus unsigned", by_minus, "best-worst unsigned")
pairing("NaN is left aside", lambda rewards, how: OURS.pairs(np.nan_to_num(rewards), how))
pairing("best and worst swapped", swapped)
pairing("indices across prompts", lambda rewards, how: [
    (p, p * rewards.shape[1] + i, p * rewards.shape[1] + j)
    for p, i, j in OURS.pairs(rewards, how)])
pairing("all is best against worst", lambda rewards, how: OURS.pairs(rewards, "best-worst"), "all")
pairing("each pair twice", lambda rewards, how: OURS.pairs(rewards, how) * 2)


def ranked_twice(choose):
    """choose(first, second, top, bottom) -> chosen, rejected, of a prompt; k is 2."""
    def pairs(rewards, how):
        found = []
        for p, (first, second) in enumerate(zip(*rewards.astype(float))):
            order = np.argsort(-first, kind="stable")
            i, j = choose(first, second, order[:2], order[-2:])
            if first[i] > first[j]:
                found.append((p, int(i), int(j)))
        return found
    return pairs


def best_by(second, some):
    return some[second[some].argmax()]


def worst_by(second, some):
    return some[second[some].argmin()]


def test_the_pairs_by_two_criteria_that_the_next_mistakes_are_made_from_are_right():
    right = ranked_twice(lambda first, second, top, bottom: (
        best_by(second, top), worst_by(second, bottom)))
    found = answers(altered(pairs=right), "pairs", "top-2")
    assert [status for status, _ in found] == ["pass"] * 3 + ["MISS"]  # it takes NaN


pairing("the second criterion ignored", ranked_twice(
    lambda first, second, top, bottom: (top[0], bottom[-1])), "top-2")
pairing("the first criterion ignored", ranked_twice(
    lambda first, second, top, bottom: (second.argmax(), second.argmin())), "top-2")
pairing("criteria swapped", lambda rewards, how: OURS.pairs(rewards[::-1], how), "top-2")
pairing("top 3 for top 2", lambda rewards, how: [
    (p, i, j) for p, i, j in ranked_twice(lambda first, second, top, bottom: (
        best_by(second, np.argsort(-first, kind="stable")[:3]), worst_by(second, bottom)))(
            rewards, how)], "top-2 distinct")
pairing("best of the bottom", ranked_twice(lambda first, second, top, bottom: (
    best_by(second, top), best_by(second, bottom))), "top-2")
pairing("bottom by the first alone", ranked_twice(lambda first, second, top, bottom: (
    best_by(second, top), bottom[-1])), "top-2")
pairing("two criteria added up", lambda rewards, how: OURS.pairs(
    rewards.astype(float).sum(0), "best-worst"), "top-2")
pairing("two criteria ordered by minus unsigned", lambda rewards, how: [
    (p, i, j) for p, (first, second) in enumerate(zip(*rewards))
    for top in [np.argsort(-first)[:2]] for bottom in [np.argsort(-first)[-2:]]
    for i, j in [(int(best_by(second, top)), int(worst_by(second, bottom)))]
    if first[i] > first[j]], "top-2 unsigned")
pairing("NaN in the second criterion is the worst", lambda rewards, how: OURS.pairs(
    np.nan_to_num(rewards, nan=-9.0), how), "top-2 nan")


# --- train

def scored(name, change, part=""):
    """Another score: change(right score, response) -> (B,)"""
    def plant(patch):
        right = lpo.score
        patch(lpo, "score", lambda response, variant, exact, check: change(
            lambda r, of=variant: right(r, of, exact, check), response))
    MISTAKES.append(Mistake(name, "train", part, plant))


def a_decision_a_token(r):
    """What a sequence-level side would be at the token level."""
    B, n, _ = r.text_logps.shape
    return replace(r, tau_logps=r.tau_logps.expand(B, n, -1), tau_idx=r.tau_idx.expand(B, n),
                   ref_tau_logps=None if r.ref_tau_logps is None else
                   r.ref_tau_logps.expand(B, n, -1))


scored("mean over tokens", lambda score, r: score(r) / r.mask.sum(-1), "token separate")
scored("mean over tokens of the mixture", lambda score, r: score(r) / r.mask.sum(-1),
       "sequence latent")
scored("sequence level counted per token", lambda score, r: score(a_decision_a_token(r)),
       "sequence separate")
scored("padding counted", lambda score, r: score(replace(r, mask=torch.ones_like(r.mask))),
       "token separate")
scored("text forgotten in joint", lambda score, r: score(r, "separate"), "token joint kept")
scored("joint for latent", lambda score, r: score(r, "joint"), "token latent none")
scored("first token left out", lambda score, r: score(replace(
    r, mask=r.mask & ((torch.arange(r.mask.shape[1]) > 0) | (r.mask.sum(1, True) == 1)))),
       "token separate")
scored("last token left out", lambda score, r: score(replace(
    r, mask=r.mask & ((torch.arange(r.mask.shape[1]) < r.mask.sum(1, True) - 1)
                      | (r.mask.sum(1, True) == 1)))), "token separate")
scored("reference head ignored", lambda score, r: score(replace(r, ref_tau_logps=None)),
       "token separate policy")
scored("reference head ignored in latent", lambda score, r: score(replace(r, ref_tau_logps=None)),
       "token latent kept")
scored("reference model ignored", lambda score, r: score(replace(r, ref_text_logps=r.text_logps)),
       "token joint kept")
scored("reference model ignored in latent", lambda score, r: score(
    replace(r, ref_text_logps=r.text_logps)), "sequence latent kept")
scored("likeliest choice for the one drawn", lambda score, r: score(
    replace(r, tau_idx=r.tau_logps.argmax(-1))), "token separate none")
scored("reference follows the head", lambda score, r: score(
    replace(r, ref_tau_logps=r.tau_logps.detach())), "token separate policy")
scored("the live head is its own reference", lambda score, r: 0 * score(r),
       "token separate policy")


scored("exact_sequence is the sum over tokens", lambda score, r: lpo.latent_score(lpo.prepared(r)),
       "sequence exact_sequence")
scored("latent is the exact marginal", lambda score, r: lpo.exact_latent_score(lpo.prepared(r)),
       "sequence latent")
scored("exact_sequence without the reference's text", lambda score, r: score(
    replace(r, ref_text_logps=torch.zeros_like(r.ref_text_logps))), "sequence exact_sequence")
scored("mean over tokens of the exact marginal", lambda score, r: score(r) / r.mask.sum(-1),
       "sequence exact_sequence")


def likelihood(name, change, part="nll none"):
    """Another nll: change(right loss, chosen, rejected, beta) -> (B,)"""
    def plant(patch):
        right = OURS.loss_of

        def loss_of(chosen, rejected, variant, beta):
            if variant == "nll":
                return change(lpo.nll_loss, chosen, rejected, beta)
            return right(chosen, rejected, variant, beta)
        patch(OURS, "loss_of", loss_of)
    MISTAKES.append(Mistake(name, "train", part, plant))


likelihood("nll with beta", lambda nll, a, b, beta: beta * nll(a))
likelihood("nll as a mean", lambda nll, a, b, beta: nll(a) / a.mask.sum(-1), "token nll")
likelihood("nll of the rejected too", lambda nll, a, b, beta: nll(a) - nll(b))
likelihood("nll of the rejected alone", lambda nll, a, b, beta: nll(b))
likelihood("nll of the mixture", lambda nll, a, b, beta: -lpo.latent_score(lpo.prepared(a)))
likelihood("nll as log sigmoid", lambda nll, a, b, beta: -F.logsigmoid(-nll(a)))
likelihood("nll upside down", lambda nll, a, b, beta: -nll(a))

words("temperature 0 as 0.01 in training", lambda logits, tau: divided(logits, max(tau, 0.01)),
      function="train", part="sequence joint kept")
words("temperature forgotten in training", lambda logits, tau: F.log_softmax(logits, -1),
      function="train", part="token latent kept")


@mistake("impossible minus impossible", "train", "joint kept")
def _(patch):
    patch(lpo, "log_ratio", lambda logps, ref_logps: logps - ref_logps)


def losses(name, change, part="token separate none"):
    """Another loss: change(right loss, chosen, rejected, variant, beta) -> (B,)"""
    def plant(patch):
        right = lpo.lpo_loss
        patch(lpo, "lpo_loss", lambda a, b, variant, beta, exact: change(
            right, a, b, variant, beta))
    MISTAKES.append(Mistake(name, "train", part, plant))


losses("chosen and rejected swapped", lambda loss, a, b, variant, beta: loss(b, a, variant, beta))
losses("beta forgotten", lambda loss, a, b, variant, beta: loss(a, b, variant, 1.0))
losses("sum over pairs", lambda loss, a, b, variant, beta: 5 * loss(a, b, variant, beta))
losses("no gradient through the rejected", lambda loss, a, b, variant, beta:
       loss(a, replace(b, tau_logps=b.tau_logps.detach()), variant, beta))


@mistake("micro-batches averaged each for itself", "train", "token separate none")
def _(patch):
    right = lpo.lpo_loss

    def train(*given):
        sizes = given[-1]
        patch(lpo, "lpo_loss", lambda a, *more: right(a, *more) * (
            sum(sizes) / len(a.mask) / len(sizes)))
        return OURS.train(*given)
    return altered(train=train)


@mistake("a step after each micro-batch", "train", "sequence joint kept")
def _(patch):
    begin, score, sides = torch.optim.SGD.zero_grad, decoding.response_logps, []

    def zero_grad(self):
        begin(self)
        sides[:] = [self]

    def response_logps(*given):
        optimizer = sides[0]
        sides.append(given)
        if len(sides) > 2 and len(sides) % 2 == 0:  # the first side of the next micro-batch
            optimizer.step()
            begin(optimizer)
        return score(*given)
    patch(torch.optim.SGD, "zero_grad", zero_grad)
    patch(decoding, "response_logps", response_logps)


@mistake("gradients pile up over steps", "train", "token separate none")
def _(patch):
    patch(torch.optim.SGD, "zero_grad", lambda self: None)


@mistake("another optimizer", "train", "token separate none")
def _(patch):
    patch(torch.optim, "SGD", torch.optim.AdamW)


@mistake("weight decay", "train", "token separate none")
def _(patch):
    right = torch.optim.SGD
    patch(torch.optim, "SGD", lambda weights, lr: right(weights, lr, weight_decay=1e-3))


@mistake("gradients clipped", "train", "sequence latent kept")
def _(patch):
    right = torch.optim.SGD.step

    def step(self):
        torch.nn.utils.clip_grad_norm_(self.param_groups[0]["params"], 0.01)
        right(self)
    patch(torch.optim.SGD, "step", step)


@mistake("the last micro-batch is dropped", "train", "token separate none")
def _(patch):
    return altered(train=lambda *given: OURS.train(*given[:-1], given[-1][:-1] or given[-1]))


asked_otherwise("reference replaced by the policy", "train", "token joint kept",
                lambda policy, reference, *rest: (policy, reference and policy, *rest))
asked_otherwise("policy and reference swapped", "train", "token latent kept",
                lambda policy, reference, *rest: (reference or policy, policy, *rest))
asked_otherwise("no reference at all", "train", "sequence separate kept",
                lambda policy, reference, *rest: (policy, None, *rest))
asked_otherwise("one step too few", "train", "sequence separate none",
                lambda *given: (*given[:7], given[7] - 1, given[8]))
asked_otherwise("learning rate divided by the cuts", "train", "token latent policy",
                lambda *given: (*given[:6], given[6] / len(given[8]), *given[7:]))


@mistake("end of text masked away with the padding", "train", "token separate none")
def _(patch):
    right = OURS.rollout

    def rollout(responses, level):
        drawn = right(responses, level)
        drawn.mask[:] = drawn.tokens != 0  # the end of text is masked away with the padding
        drawn.mask[:, 0] = True
        return drawn
    patch(OURS, "rollout", rollout)


@pytest.mark.parametrize("planted", MISTAKES, ids=lambda m: f"{m.function}: {m.name}")
def test_every_planted_mistake_is_missed(planted, monkeypatch):
    module = planted.plant(monkeypatch.setattr) or OURS
    found = answers(module, planted.function, planted.part)
    assert found and found[-1][0] == "MISS", found
    assert "\n" not in found[-1][1] and "raised" not in found[-1][1], found[-1][1]
    print(f"{planted.function}: {planted.name}: {found[-1][1]}")


def test_enough_mistakes_are_planted():
    count = {function: sum(m.function == function for m in MISTAKES)
             for function in check_model.FUNCTIONS}
    assert len(MISTAKES) >= 20 and min(count.values()) >= 7, count
    assert len({m.name for m in MISTAKES}) == len(MISTAKES)


# ---- the known optimum -------------------------------------------------------------------------

@pytest.mark.parametrize("beta", (1.0, 0.5, 0.25))
def test_the_optimum_is_where_the_gradient_of_the_population_loss_is_zero(beta):
    """Success rates from the kit's own policy, by enumeration; best against worst of two."""
    policy = gpt2.load(make_model_kit.KIT / "sequence" / "policy")
    prompt = CASES["sequence"]["prompts"][1]
    warm = {**policy.description, "choices": [1.0, 0.3, 1.5, 0.5]}  # at 0 there is no chance
    policy = replace(policy, description=warm)
    odds = gpt2.event_odds(policy, prompt, 1, "sample")[0]  # (K,V)
    drawn_from = odds.sum(1)
    succeeded = [6, 11]
    a = odds[:, succeeded].sum(1) / drawn_from
    assert 0.02 < a.min() and a.max() < 0.98 and np.ptp(a) > 0.1
    weights = torch.tensor(np.outer(drawn_from * a, drawn_from * (1 - a)).ravel())
    K = len(a)
    pairs = torch.cartesian_prod(torch.arange(K), torch.arange(K))  # (K*K,2)

    def gradient(odds):
        logits = torch.tensor(np.log(odds), requires_grad=True)
        sides = [lpo.ResponseLogps(
            tau_logps=F.log_softmax(logits, -1).expand(K * K, 1, K), tau_idx=pairs[:, side, None],
            mask=torch.ones(K * K, 1, dtype=torch.bool)) for side in (0, 1)]
        (lpo.lpo_loss(*sides, "separate", beta) * weights).sum().backward()
        return logits.grad.abs().max().item()

    best = check_model.optimum(a, 1 - a, beta)
    assert gradient(best) < 1e-15 < 1e-4 < gradient(np.roll(best, 1))
    assert gradient(check_model.optimum(a, np.ones(K), beta)) > 1e-4  # not a_k alone
