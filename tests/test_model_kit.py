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

import check_model
import gpt2
import oracle
import runner
import sampling
from test_conformance import planted, planted_module

FOLDER = Path(check_model.__file__).resolve().parent
KIT, KINDS = check_model.KIT, check_model.KINDS
FOLDERS = sorted(path.parent for path in KIT.rglob("config.json"))
PROGRAM = FOLDER / "check_model.py"
by_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: f"{p.parent.name}-{p.name}")


# ---- files and key -----------------------------------------------------------------------------

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
    odds = [gpt2.enumerated(policy, p, 1, "sample")[0][0][0].sum(-1)
            for p in KINDS["token"]["prompts"]]
    assert folder.name == "reference" or np.min(odds) > 0.05


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


def test_a_sum_over_prompts_is_judged_by_a_binomial_with_heavier_tails():
    """All prompts together: their odds differ, the p-value is of the mean of the odds."""
    n, every = 40, (0.01, 0.2, 0.07)
    total = [1.0]
    for odds in every:
        total = np.convolve(total, [math.comb(n, k) * odds ** k * (1 - odds) ** (n - k)
                                    for k in range(n + 1)])
    values = np.array([sampling.Trial("", k, 3 * n, sum(every) / 3).p_value()
                       for k in range(3 * n + 1)])
    for value in values[values < 0.5]:
        assert total[values <= value].sum() <= value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("floor", (0.0, 0.18))
def test_a_floor_under_the_odds_of_choices_is_found_by_all_prompts_together(floor, kind):
    """As training may leave one on; no test of one prompt sees it. Counts are the expected ones."""
    policy = gpt2.load(KIT / kind / "policy")
    places = [gpt2.enumerated(policy, p, 1, "sample") for p in KINDS[kind]["prompts"]]
    codes = np.zeros((len(places), 4000, 1), int)
    for of_prompt, [(joint, given)] in zip(codes, places):
        tau = (1 - floor) * joint.sum((0, 2)) + floor / len(policy.choices)
        odds = (tau[:, None] * given[0]).ravel()
        of_prompt[:, 0] = np.searchsorted(odds.cumsum(), (np.arange(4000) + 0.5) / 4000)
    budget = check_model.FALSE_ALARM / 18
    sampling.judged(sampling.frequencies(policy, codes, places), budget)
    if not floor:
        assert "4 tests" in sampling.judged(sampling.choices(policy, codes, places), budget)
    else:
        with pytest.raises(runner.Miss, match="all prompts, token 0, the choice of rank"):
            sampling.judged(sampling.choices(policy, codes, places), budget)


# ---- from the command line ---------------------------------------------------------------------

def script(*arguments, **environment):
    return subprocess.run([sys.executable, str(PROGRAM), *map(str, arguments)], text=True,
                          capture_output=True, env={**os.environ, **environment})


@pytest.mark.parametrize("name, dtype, passed", (
    ("ours", "float64", 63), ("transformers", "bfloat16", 7), ("jax", "float32", 7)))
def test_adapters_pass(name, dtype, passed):
    if name != "ours":
        pytest.importorskip(name)
    done = script(FOLDER / "adapters" / f"model_{name}.py", "--n", 800, "--dtype", dtype,
                  *["--only", "score token", "train token latent"] * (name != "ours"))
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


# ---- samplers that are wrong in what they sample -----------------------------------------------

def test_a_right_sampler_passes_at_the_default_number_of_responses(tmp_path):
    """The other way round: "top_k of 50" of planted_in_adapters.txt is always tried."""
    came, line, _ = runner.verdict(lambda theirs: check_model.check_generate(
        theirs, "token", "sample", check_model.N, "float64"),
        planted_module(["model_ours.py"], (), tmp_path))
    assert came == "pass", line


def test_choices_with_a_memory_have_causes_too(tmp_path):
    """Some known mistakes, as to sort the choices, cannot be made with dictionaries."""
    uncounted = ('samplers.frequency(x["frequency_penalty"],', "samplers.frequency(1e-9,")
    came, line, cause = runner.verdict(lambda theirs: check_model.check_generate(
        theirs, "memory", "sample", 1000, "float64"),
        planted_module(["model_ours.py"], [uncounted], tmp_path))
    assert came == "MISS", line
    (words, _), = check_model.explain([cause], "float64")
    assert words == "what was written is not counted: the penalty has no effect"


def test_a_failing_search_for_causes_leaves_the_report(tmp_path, capsys):
    """The marks, the status and the file of --json are there all the same."""
    def judge(theirs):
        raise runner.Miss("wrong", "evidence")

    def explain(evidence):
        raise TypeError("no order of dictionaries")
    given = runner.parser("", check_model.TOLERANCES).parse_args(
        ["m.py", "--json", str(tmp_path / "x.json")])
    questions = [("generate memory sample", [("generate", judge)])]
    theirs = runner.Here(type("Theirs", (), dict(generate=len)))
    assert runner.run(theirs, questions, check_model.LOOK_AT, explain, given) == 1
    report = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert report["marks"]["generate"] == {"MISS": 1} and report["causes"] == []
    said = capsys.readouterr().out
    assert "no cause: the search for one raised TypeError: no order" in said
    assert "pairs: not asked" in said and "generate: 0 right, 1 wrong" in said


# --- planted mistakes -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name, files, question, words, changes", planted(False),
                         ids=lambda x: x if isinstance(x, str) else "")
def test_a_planted_mistake_is_missed_and_named(name, files, question, words, changes, tmp_path):
    pytest.importorskip("jax" if "jax" in files[0] else "transformers")
    theirs = planted_module(files, changes, tmp_path)
    (_, judge, arguments), = [row for row in check_model.questions(4000) if row[0] == question]
    status, line, evidence = runner.verdict(lambda theirs: judge(theirs, *arguments, "float64"),
                                            theirs)
    assert status == "MISS" and "raised" not in line, line
    causes = check_model.explain([evidence], "float64") if evidence is not None else []
    assert words in causes[0][0] if words != "not named" and causes else words == "not named", line


PAIRS = [  # (name, function of rewards and how, question, words of the cause)
    ("ties make pairs", "[(p, int(x.argmax()), int(x.argmin())) for p, x in enumerate(r)]",
     "best-worst ties", "a tie makes a pair"),
    ("order by minus unsigned", "[(p, int(o[0]), int(o[-1])) for p, o in enumerate(np.argsort(-r, "
     "axis=1, kind='stable')) if r[p, o[0]] != r[p, o[-1]]]", "best-worst uint8", "wraps around"),
    ("best and worst swapped", "[(p, j, i) for p, i, j in right(r, how)]", "all distinct",
     "swapped"),
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
    ("two criteria added up", "right(r.astype(float).sum(0), 'best-worst')", "top-2 distinct",
     None),
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
