"""The model kit itself: is the key right, does check_model.py pass what is right and miss nothing?

The numpy GPT-2 stands against transformers', its gradients against central differences, its
enumeration against plain sums. Mistakes are planted in our own adapter, and a few in the one for
transformers; every one must be missed by a question about it.
    pytest tests/test_model_kit.py
"""
import json
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


# ---- the kit's files --------------------------------------------------------------------------------

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
    w = {"a": torch.randn(3, 2).to(kind), "b": torch.randn(5).to(kind), "c": torch.ones(()).to(kind)}
    package.save_file(w, tmp_path / "x.safetensors", metadata=dict(format="pt"))
    read = gpt2.read_safetensors(tmp_path / "x.safetensors")
    assert {name: x.tolist() for name, x in read.items()} == {n: x.tolist() for n, x in w.items()}
    read = {name: gpt2.bfloat16(x) for name, x in read.items()}
    gpt2.write_safetensors(tmp_path / "y.safetensors", read)
    again = package.load_file(tmp_path / "y.safetensors")
    assert all(x.dtype == torch.bfloat16 for x in again.values())
    assert {name: x.tolist() for name, x in again.items()} == {n: x.tolist()
                                                               for n, x in read.items()}


# ---- the key ----------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("level", make_model_kit.LEVELS)
@pytest.mark.parametrize("variant", check_model.VARIANTS)
def test_training_follows_the_central_difference_of_the_loss(level, variant):
    folder, pairs = make_model_kit.KIT / level, CASES[level]["pairs"]
    policy, reference = gpt2.load(folder / "policy"), gpt2.load(folder / "reference")

    def loss(head):
        total = 0
        for pair in pairs:
            scores = []
            for side in ("chosen", "rejected"):
                r, h = gpt2.oracle_response(policy, reference, pair["prompt"], *pair[side])
                r.tau_logits = gpt2.head_logits(head, h).tolist()
                scores.append(oracle.SCORES[variant][0](r))
            total += oracle.preference_loss(scores[0] - scores[1], 0.5)
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
    for variant in check_model.VARIANTS:
        for role in check_model.REFERENCES.values():
            reference = role and gpt2.load(folder / role)
            heads.append(gpt2.trained(policy, reference, pairs, variant, check_model.BETA,
                                      check_model.LR, check_model.STEPS))
    heads.append(policy.head)
    flat = np.array([np.concatenate([w.ravel() for w in head.values()]) for head in heads])
    apart = abs(flat[:, None] - flat).max(-1) + np.eye(len(flat))
    close = {(int(i), int(j)) for i, j in np.argwhere(apart < 1e-4) if i < j}
    # at the start of a round, with the model frozen, joint is separate
    assert close == {(0, 3), (1, 4)}


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


# ---- the statistics ---------------------------------------------------------------------------------

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


# ---- from the command line --------------------------------------------------------------------------

@pytest.mark.parametrize("name, skipped", (("ours", 0), ("transformers", 1)))
def test_adapters_pass(name, skipped):
    if name == "transformers":
        pytest.importorskip("transformers")
    done = script(FOLDER / "adapters" / f"model_{name}.py")
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
    ("def score(policy, prompts, responses): return [{}] * len(prompts)", 1, "MISS|skip"),
    ("import time\ndef pairs(rewards, how): time.sleep(9)", 1, "no answer within 1 s")))
def test_whatever_a_module_does_there_is_a_verdict(text, status, said, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(text + "\n", encoding="utf-8")
    done = script(path, "--timeout", 1)
    if said == "MISS|skip":  # nothing scored, and only the empty response was answered
        assert done.returncode == 0 and "skip  score  token policy" in done.stdout
        return
    assert done.returncode == status and said in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stdout
