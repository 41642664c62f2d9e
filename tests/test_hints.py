"""Does check.py name a mistake by its name? Realistic ones are planted in three implementations
that share no code with conformance/mistakes.py: a trainer in TRL's layout, lpo.py's adapter, and,
for those that only large cases show, numpy's whole arrays.
    pytest tests/test_hints.py
    python tests/test_hints.py     prints the table
"""
import contextlib
import functools
import io
import re
import sys
import tempfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "conformance"
sys.path.append(str(FOLDER))
import check  # noqa: E402
import large  # noqa: E402
import make_golden  # noqa: E402

TRL, OURS, LARGE = "adapters/trl_style.py", "adapters/ours.py", "large.py"
MASK = 'mask=torch.tensor(x["mask"])'
TAUS = "taus = logits.new_tensor(temperatures)[:, None]"
RESPONSE = 'response = batch["completion_mask"][:, 1:] == 1'
MARGIN = "return -F.logsigmoid(self.beta * (chosen - rejected))"
SMOOTH = """x = self.beta * (chosen - rejected)
        return -0.9 * F.logsigmoid(x) - 0.1 * F.logsigmoid(-x)"""
WARM = "warm = (logits[:, :, None] / torch.where(taus > 0, taus, 1)).log_softmax(-1)"
LATENT = """ratios = log_ratio(safe_logsumexp(text + tau), safe_logsumexp(ref_text + ref_tau))"""
JENSEN = """ratios = log_ratio((text * tau.exp()).sum(-1), (ref_text * ref_tau.exp()).sum(-1))"""
FIRST_8 = """    x = {**case[side], "tau_idx": np.minimum(case[side]["tau_idx"], 7)}
    for name in ("decoder_logits", "ref_decoder_logits"):
        x[name] = x[name] if x[name] is None else x[name][..., :8]
    case = {**case, "temperatures": case["temperatures"][:8], side: x}
"""

# name: (implementation, its text, what is planted, words that the likely cause must have)
MISTAKES = {
    "padding counted": (OURS, MASK, 'mask=torch.ones(x["mask"].shape, dtype=torch.bool)',
                        "mask ignored"),
    "end of text dropped": (
        OURS, MASK, 'mask=torch.tensor(x["mask"]) & (torch.tensor(x["mask"]).flip(1).cumsum(1)'
        '.flip(1) > 1)', "last response token"),
    "prompt counted": (
        TRL, RESPONSE, RESPONSE + '\n'
        '        S = torch.arange(response.shape[1])\n'
        '        response = response | (S < batch["prompt_ends"][:, None])',
        "the prompt"),
    "columns from 0 on counted": (
        OURS, MASK, 'mask=torch.tensor(x["mask"]).flip(1).cumsum(1).flip(1) > 0',
        "of the prompt, and the mask's holes"),
    "mean over tokens": (TRL, "return total\n", "return total / response.sum(1)\n", "mean over"),
    "logits one late": (TRL, "outputs.logits[:, :-1]", "outputs.logits.roll(1, 1)[:, :-1]",
                        "one position late"),
    "tau labels one late": (
        OURS, 'tau_idx=torch.tensor(x["tau_idx"])', 'tau_idx=torch.tensor(x["tau_idx"]).roll(1, 1)',
        "tau_idx one position late"),
    "temperatures sorted": (TRL, TAUS, TAUS.replace("temperatures)", "sorted(temperatures))"),
                            "temperatures sorted"),
    "vocabulary padded": (
        TRL, "    " + TAUS, "    logits = F.pad(logits, (0, -logits.shape[-1] % 64))\n    " + TAUS,
        "vocabulary padded to a multiple of"),
    "label smoothing": (TRL, MARGIN, SMOOTH, "label smoothing of 0.1"),
    "pairs shuffled": (TRL, MARGIN, MARGIN.replace("rejected)", "rejected.roll(1))"),
                       "different pairs"),
    "tau in float16": (TRL, TAUS, TAUS.replace("logits.new_tensor(temperatures)", "torch.tensor("
                       "temperatures, dtype=torch.float16).to(logits)"), "in float16"),
    "tau in bfloat16": (TRL, TAUS, TAUS.replace("logits.new_tensor(temperatures)", "torch.tensor("
                        "temperatures, dtype=torch.bfloat16).to(logits)"), "in bfloat16"),
    "softmax + epsilon": (TRL, WARM, WARM.replace("log_softmax(-1)", "softmax(-1).add(1e-8).log()"),
                          "softmax + 1e-08) of the words"),
    "temperature twice": (TRL, WARM, WARM.replace("taus, 1)", "taus ** 2, 1)"), "applied twice"),
    "0 as 1e-5": (TRL, TAUS, TAUS + ".clamp(min=1e-5)", "division by 1e-05"),
    "-inf as -1e9": (TRL, "torch.where(top, 0.0, -torch.inf)", "torch.where(top, 0.0, -1e9)",
                     "-inf expected"),
    "sides swapped": (TRL, "chosen, rejected = self.scores", "rejected, chosen = self.scores",
                      "swapped"),
    "beta missing": (TRL, "self.beta * (chosen", "(chosen", "beta missing"),
    "reference model missing": (
        TRL, "return torch.where(usable, policy, 0) - torch.where(usable, reference, 0)",
        "return torch.where(usable, policy, 0)", "reference"),
    "decoder reference missing": (TRL, "if not ref_model.has_head:", "if True:",
                                  "decoder reference missing"),
    "sequence temperature a token": (
        TRL, "total = tau[:, 0].gather(-1, drawn.max(1).values)[:, 0]",
        "total = response.sum(1) * tau[:, 0].gather(-1, drawn.max(1).values)[:, 0]",
        "once a token"),
    "log K missing": (TRL, "(torch.ones_like(tau) / tau.shape[-1]).log()", "torch.zeros_like(tau)",
                      "log K missing"),
    "exact marginal forgotten": (TRL, "if self.exact:", "if False:", "exact marginal confused"),
    "joint without its text": (TRL, 'if self.loss_type == "joint":', "if False:",
                               "computes `separate`"),
    "mean of logs": (TRL, LATENT, JENSEN, "log of the mean"),
    "no gradient of the text": (TRL, "return text, head", "return text.detach(), head",
                                "no gradient reaches lm_logits"),
    "mean of the batch": (TRL, MARGIN, MARGIN + ".mean().expand(len(chosen))", "over the batch"),
    "gradient of the mean": (TRL, "trainer.compute(*inputs).sum()",
                             "trainer.compute(*inputs).mean()", "0.5 times"),
    "IPO": (TRL, MARGIN, "return (chosen - rejected - 0.5 / self.beta) ** 2", "the loss of IPO"),
    "decoder without log-softmax": (TRL, "head.to(text.dtype).log_softmax(-1)",
                                    "head.to(text.dtype)", "without log-softmax"),
    "last of a tie": (
        TRL, "logits.argmax(-1), logits", "logits.shape[-1] - 1 - logits.flip(-1).argmax(-1), "
        "logits", "lowest index"),
    "NaN": (TRL, "usable = policy.isfinite() & reference.isfinite()",
            "usable = torch.ones_like(policy, dtype=torch.bool)", "NaN"),
    "vocabulary in chunks": (
        LARGE, "columns.append(of_token / tau - log_sum_exp(logits / tau))",
        "n = max(logits.shape[-1] // 8192 * 8192, 61)\n"
        "            columns.append(of_token / tau - log_sum_exp(logits[..., :n] / tau))",
        "first 49152 words"),
    "K > 8": (LARGE, '    """-> score (B,), its', FIRST_8 + '    """-> score (B,), its',
              "first 8 temperatures"),
    "T > 128": (LARGE, 'scored(case, side)[0]', 'scored({**case, side: {**case[side], "mask": '
                'case[side]["mask"] & (np.arange(case[side]["mask"].shape[1]) < 128)}}, side)[0]',
                "first 128 tokens"),
    "merged ties": (
        LARGE, "np.where(tokens == logits.argmax(-1), 0.0, -np.inf)",
        "np.where(tokens == np.round(logits * 32).argmax(-1), 0.0, -np.inf)", "another arg-max"),
    "bfloat16 logits": (
        LARGE, "    of_token = np.take", "    logits = np.round(logits * 32) / 32\n"
        "    of_token = np.take", "rounded to bfloat16"),
    # not in the list: no cause may be named
    "a target margin": (TRL, MARGIN, MARGIN.replace("rejected)", "rejected) - 0.3"), None),
    "a KL penalty": (TRL, MARGIN, MARGIN + " + 0.01 * chosen ** 2", None),
    "text counted twice": (  # named where the models are equal: there only its gradient is wrong
        TRL, "total + torch.where(response", "total + 2 * torch.where(response", "2 times"),
    "a cut of the words": (
        TRL, WARM, WARM.replace(" / torch.where", ".clamp(min=-1) / torch.where"), None),
}


@functools.lru_cache
def cases(implementation, step):
    """Every step-th golden one, or of the large ones one of each kind."""
    if implementation != LARGE:
        return make_golden.load()[::step]
    names = ("large-tokens-joint-token", "large-tokens-latent-token", "large-words-joint-token",
             "large-merged-joint-token")
    return [case for case in large.large_cases() if case["name"] in names]


def planted(name, folder, step=1):
    """-> what check.py prints about the mistake"""
    implementation, old, new, _ = MISTAKES[name]
    source = (FOLDER / implementation).read_text(encoding="utf-8")
    assert old in source, name
    source = source.replace("Path(__file__).resolve().parents[2]", repr(str(FOLDER.parent)))
    path = Path(folder) / f"planted_{re.sub(r'[^a-z0-9]', '_', name.lower())}.py"
    path.write_text(source.replace(old, new), encoding="utf-8")
    module = check.load_module(str(path))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert check.run(check.Here(module), cases(implementation, step), "float64") == 1
    return out.getvalue()


def outcome(name, out):
    """-> as expected, misses, likely causes, verdict"""
    lines, words = out.splitlines(), MISTAKES[name][3]
    causes = [line.removeprefix("likely cause of ") for line in lines
              if line.startswith("likely cause of ")]
    good = words in causes[0] if words and causes else not words and not causes
    return (good, sum(line.startswith("MISS") for line in lines), causes,
            next(line for line in lines if line.startswith("verdict")))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name, tmp_path, monkeypatch):
    """The first likely cause is the one planted; of a mistake not in the list none is named."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    if MISTAKES[name][0] != LARGE:
        pytest.importorskip("torch").set_num_threads(1)
    if MISTAKES[name][0] == TRL:
        pytest.importorskip("transformers")
    good, misses, causes, _ = outcome(name, planted(name, tmp_path, step=3))
    assert good and misses, causes


if __name__ == "__main__":
    for name in sys.argv[1:] or MISTAKES:
        with tempfile.TemporaryDirectory() as folder:
            good, misses, causes, words = outcome(name, planted(name, folder))
        print(f"{'ok' if good else '??'} | {name} | {misses} | {'; '.join(causes)} | {words}")
