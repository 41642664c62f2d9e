"""The model kit itself: is the key right, does check_model.py pass what is right, is each planted
mistake missed by a question about it, and named?

The numpy GPT-2 stands against transformers', its gradients against central differences, its
enumeration against plain sums. Mistakes are planted in our own adapter or beside it.
    pytest tests/test_model_kit.py
"""
import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "conformance"
sys.path.append(str(FOLDER))
sys.path.append(str(Path(__file__).parent))
import check_model  # noqa: E402
import gpt2  # noqa: E402
import make_model_kit  # noqa: E402
import mistakes  # noqa: E402
import oracle  # noqa: E402
import runner  # noqa: E402
import sampling  # noqa: E402

KIT, KINDS = check_model.KIT, check_model.KINDS
FOLDERS = sorted(path.parent for path in KIT.rglob("config.json"))
PROGRAM = FOLDER / "check_model.py"
by_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: f"{p.parent.name}-{p.name}")


# ---- files and key -----------------------------------------------------------------------------

def test_the_kit_is_what_its_command_makes(tmp_path):
    make_model_kit.write(tmp_path)
    made, kit = ({path.relative_to(top): path.read_bytes() for path in top.rglob("*")
                  if path.is_file()} for top in (tmp_path, KIT))
    assert made == kit and sum(map(len, kit.values())) < 300_000


@by_folder
def test_files_and_forward_are_transformers(folder):
    """Weights are exact in bfloat16, none is zero, no gain is one; choices are all sampled, with
    one clear arg-max somewhere at temperature 0."""
    GPT2LMHeadModel = pytest.importorskip("transformers").GPT2LMHeadModel
    from safetensors.torch import load_file
    theirs, policy = GPT2LMHeadModel.from_pretrained(folder).double(), gpt2.load(folder)
    idx = np.random.default_rng(1).integers(0, policy.config["vocab_size"], (3, 16))
    with torch.no_grad():
        out = theirs(torch.tensor(idx), output_hidden_states=True)
    logits, hidden = gpt2.forward(policy, idx)
    assert abs(out.logits.numpy() - logits).max() < 1e-12
    assert abs(out.hidden_states[-1].numpy() - hidden).max() < 1e-12
    package = load_file(folder / "decoder.safetensors")
    assert all((package[name].double().numpy() == w).all() for name, w in policy.decoder.items())
    for name, w in {**policy.weights, **policy.decoder}.items():
        assert (w != 0).all() and (".ln_" not in name or "bias" in name or (w != 1).any()), name
    odds = [gpt2.enumerated(policy, p, 1, "sample")[0][0][0].sum(-1) for p in make_model_kit.PROMPTS]
    assert folder.name == "reference" or np.min(odds) > 0.05


def test_a_top_k_of_50_shows_in_the_vocabulary_of_64():
    policy = gpt2.load(KIT / "token" / "policy")
    _, given = gpt2.enumerated(policy, [3, 7, 1], 1, "sample")[0]
    assert np.sort(given[0, -1])[:14].sum() > 0.01


@pytest.mark.parametrize("kind", ("token", "sequence"))
@pytest.mark.parametrize("variant", (*check_model.VARIANTS, "latent_exact"))
def test_training_follows_the_central_difference_of_the_loss(kind, variant):
    """One step of learning rate 1 is the gradient; the weights of a layer and a bias."""
    if kind == "token" and variant == "latent_exact":
        return
    pairs = KINDS[kind]["pairs"]
    policy, reference = (gpt2.load(KIT / kind / role) for role in ("policy", "reference"))

    def loss(decoder):
        total = 0.0
        for pair in pairs:
            case, states = gpt2.case_of(policy, reference, pair, variant, 0.5)
            for side, hidden in states.items():
                case[side]["decoder_logits"] = gpt2.decoder_logits(decoder, hidden)[None]
            total += oracle.loss(case)[0]
        return total / len(pairs)
    decoder = gpt2.trained(policy, reference, pairs, variant, 0.5, 1.0, 1, [2, 2, 1])
    for name, index in (("mlp.0.weight", (3, 5)), ("mlp.2.bias", (4,)), ("mlp.4.bias", (0,))):
        w = policy.decoder[name]
        step = np.zeros_like(w)
        step[index] = 1e-5
        up, down = (loss({**policy.decoder, name: w + s}) for s in (step, -step))
        assert abs((up - down) / 2e-5 - (w - decoder[name])[index]) < 1e-8, (name, index)


@pytest.mark.parametrize("kind", ("token", "sequence"))
def test_a_wrong_gradient_would_show_in_the_weights(kind):
    """Each question's answer is far from the untrained decoder and from every other's answer."""
    policy, pairs, every = gpt2.load(KIT / kind / "policy"), KINDS[kind]["pairs"], {}
    for variant, role in itertools.product(check_model.VARIANTS, check_model.REFERENCES.values()):
        reference = role and gpt2.load(KIT / kind / role)
        decoder = gpt2.trained(policy, reference, pairs, variant, 0.5, 0.4, 3, [5])
        every[variant, role] = np.concatenate([w.ravel() for w in decoder.values()])
    every["untrained"] = np.concatenate([w.ravel() for w in policy.decoder.values()])
    close = {(a, b) for a, b in itertools.combinations(every, 2)
             if abs(every[a] - every[b]).max() < 1e-4}
    same = {(("separate", role), ("joint", role)) for role in (None, "policy")}  # a frozen model
    nll = [("nll", role) for role in check_model.REFERENCES.values()]  # no reference
    assert close == same | set(itertools.combinations(nll, 2))


def plain_choice(logits, choice, counts):
    """By the words of FORMAT.md, with a loop over the vocabulary."""
    if not isinstance(choice, dict):
        choice = {"temperature": choice}
    best, z = max(logits), []
    for logit, count in zip(logits, counts):
        if logit < best + math.log(choice.get("min_p") or 1e-300):
            z.append(-math.inf)
        else:
            z.append(logit - choice.get("frequency_penalty", 0.0) * count)
    if choice["temperature"] == 0:
        return [1.0 if v == z.index(max(z)) else 0.0 for v in range(len(z))]
    odds = [math.exp((x - max(z)) / choice["temperature"]) for x in z]
    return [x / sum(odds) for x in odds]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("select", ("sample", "greedy"))
def test_enumeration_agrees_with_the_chain_rule_of_each_response(kind, select):
    """Of responses of two tokens: every (choice, token, choice, token), one product each; choices
    with a memory by plain loops."""
    policy, prompt = gpt2.load(KIT / kind / "policy"), [3, 7, 1]
    V, K = policy.config["vocab_size"], len(policy.choices)
    want = np.zeros((2, K, V))
    for a in range(V):
        logits, hidden = gpt2.aligned(policy, prompt, [a, 5])
        taus = np.exp(oracle.log_softmax(gpt2.decoder_logits(policy.decoder, hidden)))
        if select == "greedy":
            taus = np.eye(K)[taus.argmax(-1)]
        written = np.arange(V) == a
        for k in range(K):
            odds = taus[0, k] * plain_choice(logits[0], policy.choices[k], 0 * written)[a]
            want[0, k, a] += odds
            for j in range(K) if policy.level == "token" else [k]:
                second = odds * (taus[1, j] if policy.level == "token" else 1)
                if a != policy.eos:
                    want[1, j] += second * np.array(plain_choice(logits[1], policy.choices[j],
                                                                 1 * written))
    places = gpt2.enumerated(policy, prompt, 2, select)
    assert np.abs(np.array([joint.sum(0) for joint, _ in places]) - want).max() < 1e-14


# ---- the statistics ----------------------------------------------------------------------------

@pytest.mark.parametrize("n, odds", ((7, 0.3), (20, 0.02), (1, 0.5)))
def test_p_values_are_binomial_tails(n, odds):
    mass = [math.comb(n, k) * odds ** k * (1 - odds) ** (n - k) for k in range(n + 1)]
    values = [sampling.Trial("", k, n, odds).p_value() for k in range(n + 1)]
    for k, value in enumerate(values):
        tail = sum(mass[:k + 1]) if k < n * odds else sum(mass[k:])
        assert math.isclose(value, min(1, 2 * tail), rel_tol=1e-12)
        # what makes the odds of a false alarm hold
        assert sum(m for m, v in zip(mass, values) if v <= value) <= value + 1e-12
    for certain in (0, 1):
        assert sampling.Trial("", n * certain, n, certain).p_value() == 1
        assert sampling.Trial("", n - n * certain, n, certain).p_value() == 0


def test_the_number_of_tests_is_fixed_before_sampling():
    policy = gpt2.load(KIT / "sequence" / "policy")
    places = [gpt2.enumerated(policy, p, 3, "sample") for p in make_model_kit.PROMPTS]
    counts = set()
    for seed in range(2):
        codes, again = (np.random.default_rng(seed).integers(1, 16, (4, n, 3)) for n in (80, 10))
        trials = [*sampling.frequencies(policy, codes, places),
                  *sampling.independence(policy, codes, again, places)]
        counts.add(len(trials))
        assert all(0 <= t.hits <= t.n and -1e-12 < t.odds < 1 + 1e-12 for t in trials)
    assert len(counts) == 1


# ---- from the command line ---------------------------------------------------------------------

def script(*arguments, **environment):
    return subprocess.run([sys.executable, str(PROGRAM), *map(str, arguments)], text=True,
                          capture_output=True, env={**os.environ, **environment})


@pytest.mark.parametrize("name, dtype, passed", (
    ("ours", "float64", 58), ("ours", "bfloat16", 54), ("transformers", "float64", 43),
    ("transformers", "bfloat16", 39), ("jax", "float64", 47)))
def test_adapters_pass(name, dtype, passed):
    if name != "ours":
        pytest.importorskip(name)
    done = script(FOLDER / "adapters" / f"model_{name}.py", "--n", 800, "--dtype", dtype)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{passed} passed, 0 missed" in done.stdout


@pytest.mark.parametrize("text, status, said", (
    ("", 2, "nothing ran"),
    ("def pairs(rewards, how): raise NotImplementedError", 2, "nothing ran"),
    ("def pairs(rewards, how): raise RuntimeError('no\\nwords')", 1, "raised RuntimeError: no"),
    ("def pairs(rewards, how): return 3", 1, "the answer does not fit: TypeError"),
    ("def pairs(rewards, how): return {1, 2}", 1, "the answer holds set"),
    ("import os\ndef pairs(rewards, how): os._exit(0)", 1, "pairs ended the process"),
    ("print('pass')\ndef pairs(rewards, how): print('pass'); return []", 1, "MISS  pairs"),
    ("def score(policy, prompts, responses): return [{}] * len(prompts)", 2, "nothing ran")))
def test_whatever_a_module_does_there_is_a_verdict(text, status, said, tmp_path):
    (tmp_path / "module.py").write_text(text + "\n", encoding="utf-8")
    done = script(tmp_path / "module.py", "--timeout", 5, "--only", "pairs", "score")
    assert done.returncode == status and said in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stdout


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """An engine's responses and log-probabilities, as FORMAT.md asks for them."""
    path = tmp_path_factory.mktemp("logs") / "responses.jsonl"
    theirs = runner.Here(runner.load_module(str(FOLDER / "adapters/model_ours.py")))
    lines, prompts = [], KINDS["sequence"]["prompts"]
    policy = gpt2.load(KIT / "sequence" / "policy")
    for select, seed, n in (("sample", 1, 800), ("sample", 2, 100), ("greedy", 1, 200),
                            ("greedy", 2, 25)):
        answer = theirs.ask("generate", str(KIT / "sequence" / "policy"), prompts, 3, n, seed,
                            select)[1]
        for prompt, rows in zip(prompts, answer):
            for ids, taus in rows:
                logps = gpt2.score(policy, prompt, ids)["text_logps"][:, taus[0]]
                lines.append(dict(policy="sequence", select=select, seed=seed, prompt=prompt,
                                  ids=ids, tau_idx=taus, logps=logps.tolist()))
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("off, status", ((0.0, 0), (1e-3, 1)))
def test_an_engine_is_checked_from_its_logs(off, status, logs, tmp_path):
    """A logged log-probability that is off is a miss; kinds that were not logged are skipped."""
    lines = [json.loads(line) for line in logs.read_text(encoding="utf-8").splitlines()]
    lines[77]["logps"][0] += off
    moved = tmp_path / "x.jsonl"
    moved.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    done = script(FOLDER / "adapters" / "logs.py", "--n", 800, "--dtype", "float32",
                  LPO_LOGS=str(moved))
    assert done.returncode == status, done.stdout + done.stderr
    assert ("logps[77, 0]" if off else "2 passed, 0 missed, 5 skipped") in done.stdout


# ---- planted mistakes --------------------------------------------------------------------------
# In the adapters for transformers and JAX: (name, part of the question's name, {text: what is
# planted}, words of the cause). None: no cause may be named.

TRANSFORMERS, JAX = ("trl_style.py", "model_transformers.py"), ("model_jax.py",)
WARM = "warm = (logits[..., None, :] / torch.where(taus > 0, taus, 1)).log_softmax(-1)"
TAUS = "taus = logits.new_tensor(temperatures)[:, None]  # (K,1)"
POSITIONS = "return (mask.cumsum(-1) - 1).clamp(min=0)"
MASK = 'mask = batch["attention_mask"]\n'
SAMPLED = "words.append(odds.multinomial(1, generator=generator)[:, 0])"
CHOSEN = "odds.multinomial(1, generator=generator)[:, 0]\n        every"
ANSWER = "    return [answer[i:i + n] for i in range(0, len(answer), n)]"
SEEDED = "torch.Generator().manual_seed(seed)"
LATENT = "ratios = log_ratio(safe_logsumexp(text + tau), safe_logsumexp(ref_text + ref_tau))"
STEP = ("        with torch.no_grad():\n            for w in model.head.values():\n"
        "                w -= lr * w.grad\n                w.grad = None\n")
MIXTURE = "mixture, answer = (text + tau).logsumexp(-1), []"
MARGIN = "return -F.logsigmoid(self.beta * (chosen - rejected))"
MEAN = "(trainer.compute(model, ref_model, batch).sum() / len(pairs)).backward()"


def gumbel(rows):
    """Noise that is shared by so many rows, in place of multinomial."""
    return ("u = torch.rand(len(odds), odds.shape[1], generator=generator, dtype=odds.dtype)\n"
            f"        u = u[:{rows}].repeat(-(-len(u) // {rows}), 1)[:len(u)].clamp(1e-300)\n"
            "        words.append((odds.log() - (-u.log()).log()).argmax(-1))")


def kept(rule):
    """What is left of the odds before a token is sampled."""
    return {SAMPLED: f"odds = odds * ({rule})\n        {SAMPLED}"}


PLANTED = [(TRANSFORMERS, *row) for row in (
    # --- score
    ("temperature twice", "score token policy", {WARM: WARM.replace("taus, 1)", "taus ** 2, 1)")},
     "applied twice"),
    ("temperature forgotten", "score token policy", {WARM: WARM.replace("taus, 1)", "1., 1)")},
     "not applied"),
    ("0 as 0.01", "score sequence policy", {TAUS: TAUS.replace("  #", ".clamp(min=0.01)  #")},
     "division by 0.01"),
    ("softmax + 1e-8", "score token policy",
     {WARM: WARM.replace("log_softmax(-1)", "softmax(-1).add(1e-8).log()")}, "softmax + 1e-08"),
    ("logits of the token itself", "score token policy",
     {"outputs.logits[:, :-1]": "outputs.logits[:, 1:]"}, "off by one: logits of the token itself"),
    ("head of the token itself", "score token policy", {"head = head[:, :-1]": "head = head[:, 1:]"},
     "state of the response token itself"),
    ("both of the token itself", "score token policy",
     {"outputs.logits[:, :-1]": "outputs.logits[:, 1:]", "head = head[:, :-1]": "head = head[:, 1:]"},
     "logits and states of the token itself"),
    ("first response state", "score sequence policy",
     {'batch["prompt_ends"]]': 'batch["prompt_ends"] + 1]'}, "state of the response token itself"),
    ("decided at the last token", "score sequence policy",
     {'torch.arange(len(head)), batch["prompt_ends"]': ":, -1"}, "last token's state"),
    ("token level decided once", "score token policy",
     {"head = head[:, :-1]": 'head = head[torch.arange(len(head)), batch["prompt_ends"]][:, None]'
                             ".expand(-1, head.shape[1] - 1, -1)"}, "one choice per response"),
    ("mixture of the largest", "score token policy",
     {MIXTURE: MIXTURE.replace("logsumexp(-1)", "amax(-1)")}, "takes the largest term"),
    ("mixture of logarithms", "score token policy",
     {MIXTURE: MIXTURE.replace("(text + tau).logsumexp(-1)", "(text * tau.exp()).nansum(-1)")},
     "averages logarithms"),
    ("choices sorted", "score sequence policy",
     {'= d["choices"], d["level"]': '= sorted(d["choices"]), d["level"]'}, "temperatures sorted"),
    ("GELU in the head", "score token policy", {"F.silu": "F.gelu"}, "GELU in the decoder"),
    ("single precision", "score token policy",
     {"(folder).to(getattr(torch, dtype))": "(folder).float()"}, "something computes in float32"),
    ("positions from the padding", "score token policy",
     {POSITIONS: "return torch.arange(mask.shape[1]).expand(mask.shape)"}, "position ids counted"),
    ("padding is read", "score token policy",
     {MASK: "mask = torch.ones_like(batch['input_ids'])\n"}, "padding on the left is read"),
    ("end of text as padding", "score token policy",
     {MASK: "mask = (batch['input_ids'] != 0).long()\n"}, "end of text is taken for padding"),
    ("dropout on", "score token policy", {".requires_grad_(False)\n\n": ".requires_grad_(False)"
                                          ".train()\n\n"}, "changes from call to call"),
    ("rows by length", "score token policy", {"    model = Headed(policy)\n    batch":
     "    rows = sorted(zip(prompts, responses), key=lambda x: len(x[1]))\n"
     "    prompts, responses = zip(*rows)\n    model = Headed(policy)\n    batch"}, None),
    ("one row squeezed", "score token one row", {"    return answer\n\n\n@torch":
     "    return answer if len(answer) > 1 else answer[0]\n\n\n@torch"}, None),
    ("first row only", "score token policy", {"    return answer\n\n\n@torch":
     "    return answer[:1] + [{} for _ in answer[1:]]\n\n\n@torch"}, None),
    # --- generate
    ("sampled at the temperature twice", "generate token sample",
     {WARM: WARM.replace("taus, 1)", "taus ** 2, 1)")}, "applied twice"),
    ("sampled without temperature", "generate sequence sample",
     {WARM: WARM.replace("taus, 1)", "1., 1)")}, "not applied"),
    ("0 sampled as 1", "generate token greedy", {TAUS: TAUS + "\n    taus = taus + (taus == 0)"},
     "0 taken as 1"),
    ("top_k of 50", "generate token sample",
     kept("odds >= odds.topk(min(50, odds.shape[1])).values[:, -1:]"), "50 likeliest"),
    ("top_k of 12", "generate sequence sample", kept("odds >= odds.topk(12).values[:, -1:]"),
     "12 likeliest"),
    ("top_p of 0.98", "generate token sample", kept(
        "(odds[:, None] * (odds[:, None] > odds[..., None])).sum(-1) < 0.98"), "nucleus of 0.98"),
    ("min_p of 0.01", "generate token sample", kept("odds >= 0.01 * odds.amax(-1, True)"),
     "below 0.01 times the likeliest"),
    ("end of text suppressed", "generate token sample",
     {SAMPLED: "odds[:, 0] = 1e-30\n        " + SAMPLED}, "end of text is suppressed"),
    ("tokens likeliest", "generate sequence sample", {SAMPLED: "words.append(odds.argmax(-1))"},
     "the likeliest token at every temperature"),
    ("noise shared by all rows", "generate token sample", {SAMPLED: gumbel(1)}, None),
    ("noise repeated every 100 rows", "generate token sample", {SAMPLED: gumbel(100)}, None),
    ("noise repeated for each prompt", "generate sequence sample", {SAMPLED: gumbel(800)},
     "depend on each other"),
    ("one choice for the batch", "generate sequence sample",
     {CHOSEN: CHOSEN.replace("[:, 0]\n", "[:1, 0].expand(len(odds))\n")}, "are the same"),
    ("seed ignored", "generate token sample", {SEEDED: "torch.Generator().manual_seed(0)"},
     "is the seed used"),
    ("a global generator", "generate token seed", {SEEDED: "None"}, None),
    ("seeded by seed + t", "generate token sample",
     {SAMPLED: "generator.manual_seed(seed + t)\n        " + SAMPLED}, "seed + token"),
    ("greedy is sampled", "generate token greedy", {'select == "greedy"': "False"},
     "other value of `select`"),
    ("sampling is greedy", "generate sequence sample", {'select == "greedy"': "True"},
     "other value of `select`"),
    ("token level chosen once", "generate token sample",
     {"if t == 0 or not model.sequence_level": "if t == 0"}, "one choice per response"),
    ("padding is read in sampling", "generate token sample",
     {MASK: "mask = torch.ones_like(batch['input_ids'])\n"}, "padding on the left is read"),
    ("positions from the padding in sampling", "generate token sample",
     {POSITIONS: "return torch.arange(mask.shape[1]).expand(mask.shape)"}, "position ids counted"),
    ("only the last prompt token", "generate token sample",
     {"rows = [prompt for": "rows = [prompt[-1:] for"}, "only the last prompt token"),
    ("answers by length", "generate sequence greedy",
     {"rows = [prompt for prompt in prompts": "rows = [prompt for prompt in sorted(prompts, "
                                              "key=len)"}, "not in the order of the prompts"),
    ("answers interleaved", "generate token sample",
     {ANSWER: "    return [answer[p::len(prompts)] for p in range(len(prompts))]"}, None),
    ("end of text dropped", "generate token sample",
     {"ids = ids[:ids.index(eos) + 1]": "ids = ids[:ids.index(eos) or 1]"}, None),
    ("end of text 0 taken for none", "generate token sample",
     {"if eos in ids else ids": "if eos and eos in ids else ids"}, None),
    ("choices one token late", "generate token sample",
     {"taus[:1 if": "(taus[1:] + taus[:1])[:1 if"}, None),
    # --- train
    ("sum over pairs", "train token separate none", {" / len(pairs)).backward": ").backward"},
     "the sum over pairs"),
    ("mean of the micro-batches' means", "train token separate none",
     {MEAN: MEAN.replace("sum() / len(pairs)", "mean() / len(micro_batches)")},
     "mean of the micro-batches' means"),
    ("a step per micro-batch", "train token joint kept",
     {STEP: "".join("    " + line + "\n" for line in STEP.splitlines())}, "a step after each"),
    ("gradients pile up", "train token separate none", {"                w.grad = None\n": ""},
     "not set to zero"),
    ("Adam", "train token separate none", {STEP: STEP.replace("w.grad\n", "w.grad.sign()\n", 1)},
     "Adam"),
    ("weight decay", "train token separate none",
     {STEP: STEP.replace("lr * w.grad", "lr * (w.grad + 0.01 * w)")}, "weight decay of 0.01"),
    ("clipped at 0.01", "train token latent kept", {STEP:
     "        torch.nn.utils.clip_grad_norm_(model.head.values(), 0.01)\n" + STEP}, "norm of 0.01"),
    ("clipped at 5", "train token separate steep", {STEP:
     "        torch.nn.utils.clip_grad_norm_(model.head.values(), 5.0)\n" + STEP}, "norm of 5"),
    ("last micro-batch dropped", "train token separate none",
     {"for size in micro_batches:": "for size in micro_batches[:-1] or micro_batches:"},
     "last micro-batch"),
    ("one step too few", "train sequence separate none", {"range(steps)": "range(steps - 1)"},
     "do not move"),
    ("learning rate divided by the cuts", "train token latent policy",
     {"lr * w.grad": "lr / len(micro_batches) * w.grad"}, "divided by the number of micro"),
    ("mean over tokens", "train token separate none",
     {"return total\n": "return total / response.sum(1)\n"}, "mean over response tokens"),
    ("last token left out", "train token separate none",
     {'"completion_mask"][:, 1:] == 1': '"completion_mask"][:, 1:] == 1\n        '
      "response[:, -1] &= response.sum(1) == 1"}, None),
    ("sequence choice once per token", "train sequence separate kept",
     {"total = tau[:, 0].gather(-1, sampled.max(1).values)[:, 0]": "total = response.sum(1) * "
      "tau[:, 0].gather(-1, sampled.max(1).values)[:, 0]"}, "once per token"),
    ("decoder reference ignored", "train token separate policy",
     {"if ref_model.has_head and": "if False and"}, "reference"),
    ("the reference moves", "train token separate policy",
     {"model, ref_model = Headed(policy), Headed(reference or policy)":
      "model = Headed(policy)\n    ref_model = Headed(reference or policy)\n"
      "    ref_model.head = {name: w.detach() for name, w in model.head.items()}"},
     "reference moves"),
    ("policy as reference", "train token joint kept", {"Headed(reference or policy)":
                                                       "Headed(policy)"}, "its own reference"),
    ("text forgotten in joint", "train token joint kept",
     {'if self.loss_type == "joint":': "if False:"}, "computes `separate`"),
    ("latent is the exact marginal", "train sequence latent none",
     {'if self.loss_type == "latent_exact":': "if True:"}, "exact marginal confused"),
    ("latent averages logarithms", "train token latent none",
     {LATENT: "ratios = log_ratio((text * tau.exp()).sum(-1), (ref_text * ref_tau.exp()).sum(-1))"},
     None),
    ("sides swapped", "train token separate none",
     {"chosen, rejected = self.scores": "rejected, chosen = self.scores"}, "swapped"),
    ("beta missing", "train token separate none", {MARGIN: MARGIN.replace("self.beta * ", "")},
     "beta missing"),
    ("beta squared", "train token latent kept", {MARGIN: MARGIN.replace("self.beta", "self.beta ** 2")},
     "beta applied twice"),
    ("no gradient of the rejected", "train token separate none",
     {MARGIN: MARGIN.replace("rejected)", "rejected.detach())")}, "no gradient reaches the rejected"),
    ("nll with beta", "train token nll none", {"return -chosen": "return -self.beta * chosen"},
     "nll multiplied by beta"),
    ("nll of both", "train token nll none", {"return -chosen": "return rejected - chosen"},
     "nll of chosen minus rejected"),
    ("0 as 0.01 in training", "train sequence joint kept",
     {TAUS: TAUS.replace("  #", ".clamp(min=0.01)  #")}, "division by 0.01"))]
PLANTED += [(JAX, *row) for row in (
    ("state before the final norm", "score token policy",
     {"return hidden @ embedding.T, hidden": "return hidden @ embedding.T, x"}, "before the final"),
    ("another GELU", "score token policy", {"approximate=True": "approximate=False"}, "exact GELU"),
    ("a penalty that is not counted", "score memory policy", {"- penalty * counts": ""},
     "not counted"),
    ("a penalty once per token", "score memory policy", {"penalty * counts": "penalty * (counts > 0)"},
     "not for how often"),
    ("prompts counted too", "score memory policy", {"(jnp.arange(len(ids)) > last)[:, None]": "1"},
     None),
    ("temperature before the penalty", "generate memory sample",
     {"- penalty * counts": "- (tau or 1) * penalty * counts"}, "before the penalty"),
    ("cut after the penalty", "score memory policy", {"jnp.where(kept, logits, -INF) - penalty * "
     "counts": "jnp.where((logits - penalty * counts) >= (logits - penalty * counts).max(-1, "
     "keepdims=True) + (math.log(min_p) if min_p else -INF), logits, -INF) - penalty * counts"},
     "after the penalty"))]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("files, name, part, changes, words", PLANTED,
                         ids=[f"{row[2].split()[0]}: {row[1]}" for row in PLANTED])
def test_a_planted_mistake_is_missed_and_named(files, name, part, changes, words, tmp_path):
    pytest.importorskip("jax" if files is JAX else "transformers")
    left = dict(changes)
    for file in files:
        text = (FOLDER / "adapters" / file).read_text(encoding="utf-8")
        for right, wrong in changes.items():
            if right in text:
                text = text.replace(right, wrong)
                left.pop(right, None)
        text = text.replace("Path(__file__).parents[1]", repr(str(FOLDER)))
        (tmp_path / file).write_text(text, encoding="utf-8")
    assert not left, f"{left} is no longer there"
    sys.modules.pop("trl_style", None)
    theirs = runner.Here(runner.load_module(str(tmp_path / files[-1])))
    given = runner.parser("", check_model.TOLERANCES).parse_args(["m"])
    given.n = 800
    (_, judge, arguments), = [row for row in check_model.questions(given) if row[0] == part]
    status, line, evidence = runner.verdict(lambda theirs: judge(theirs, *arguments, "float64"),
                                            theirs)
    assert status == "MISS" and "raised" not in line, line
    causes = check_model.explain([evidence], "float64") if evidence is not None else []
    assert words in causes[0][0] if words and causes else not words, (line, causes)


PAIRS = [  # (name, function of rewards and how, question, words of the cause)
    ("ties make pairs", "[(p, int(x.argmax()), int(x.argmin())) for p, x in enumerate(r)]",
     "best-worst ties", "a tie makes a pair"),
    ("order by minus unsigned", "[(p, int(o[0]), int(o[-1])) for p, o in enumerate(np.argsort(-r, "
     "axis=1, kind='stable')) if r[p, o[0]] != r[p, o[-1]]]", "best-worst uint8", "wraps around"),
    ("best and worst swapped", "[(p, j, i) for p, i, j in right(r, how)]", "all distinct", "swapped"),
    ("all is best against worst", "right(r, 'best-worst')", "all distinct", "one pair per prompt"),
    ("each pair twice", "right(r, how) * 2", "all distinct", "comes twice"),
    ("indices across prompts", "[(p, p * 4 + i, p * 4 + j) for p, i, j in right(r, how)]",
     "all distinct", None),
    ("rewards in float16", "right(r.astype(np.float16), how)", "best-worst close", None),
    ("rewards with two decimals", "right(r.round(2), how)", "all close", None),
    ("NaN is left aside", "right(np.nan_to_num(r), how)", "all NaN", None),
    ("the second criterion ignored", "right(r[0], 'best-worst')", "top-2 distinct",
     "second criterion is ignored"),
    ("the first criterion ignored", "right(r[1], 'best-worst')", "top-2 distinct",
     "first criterion is ignored"),
    ("two criteria added up", "right(r.astype(float).sum(0), 'best-worst')", "top-2 distinct", None),
    ("criteria swapped", "right(r[::-1], how)", "top-2 distinct", "criteria are swapped"),
    ("NaN in the second criterion", "right(np.nan_to_num(r, nan=-9.0), how)", "top-2 NaN", None)]


def right_pairs(rewards, how):
    """The first admissible set of each prompt."""
    criteria = np.asarray(rewards) if how == "top-2" else np.asarray(rewards)[None]
    return [(p, i, j) for p in range(criteria.shape[1])
            for i, j in sorted(check_model.admissible(how, *criteria[:, p].tolist())[0])]


@pytest.mark.parametrize("name, expression, part, words", PAIRS, ids=[row[0] for row in PAIRS])
def test_planted_pairs_are_missed_and_named(name, expression, part, words):
    def pairs(r, how):
        return eval(expression, dict(r=r, how=how, np=np, right=right_pairs))
    how, case = part.rsplit(" ", 1)
    status, line, cause = runner.verdict(
        lambda theirs: check_model.check_pairs(theirs, how, case, "float64"),
        runner.Here(type("Theirs", (), dict(pairs=staticmethod(pairs)))))
    assert status == "MISS" and "raised" not in line, line
    assert (words is None and cause is None) or words in cause
    assert re.search("expected|raise an exception|comes twice|is no ", line)
