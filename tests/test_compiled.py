"""fast/compiled.py without a compiler and without a GPU: the arithmetic; tests/test_cuda.py has the
rest."""
import pytest
import torch

from decoder import checked_request, generate
from fast.compiled import any_size, attend, next_column
from fast.generate import Writing
from fast.generate import generate as fast_generate
from test_lpo import PROMPTS, rough_decoder, rough_model

T = 12


def started(model, greedy=False, decoder=None, temperature=None, prompts=PROMPTS):
    """Responses whose first column is written; as `generate` begins them."""
    idx, lengths, _, plan, _ = checked_request(model, prompts, T, decoder, temperature, "sample",
                                               None, None)
    writing = Writing(model, prompts, idx, lengths, T, decoder, greedy, None)
    with torch.no_grad():
        if plan is not None:
            writing.plan_all(plan)
        writing.from_start(idx.shape[1] - T, check=False)
    return writing, lengths


def expected(model, decoder, prompt, so_far, noise, greedy, chosen):
    """A choice and a token from the whole text by model.GPT's own forward pass, in the reader's
    own arithmetic: argmax(log p - log(-log u)), and the arg-max of the words at temperature 0."""
    with torch.no_grad():
        logits, hidden = model(torch.tensor([prompt + so_far]))
        logits, K = logits[0, -1], len(decoder.choices)
        gumbel = -(-noise.log()).log()
        if decoder.level == "token":
            logps = torch.log_softmax(decoder.mlp(hidden[0, -1]), -1)
            chosen = int((logps if greedy else logps + gumbel[:K]).argmax())
        tau = decoder.choices[chosen]
        scores = logits if tau == 0 else logits / tau + gumbel[K:]
    return chosen, int(scores.argmax())


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]], ids=["rows", "one row"])
@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_column_is_drawn_from_its_own_state_with_its_own_noise(level, greedy, prompts):
    """Bugs: noise of another draw or row, its sign, a place off by one, another row's keys, a
    temperature for another row, a sequence's choice drawn again, another GELU."""
    model, decoder = rough_model(block_size=32), rough_decoder(level)
    writing, lengths = started(model, greedy, decoder, prompts=prompts)
    width = len(decoder.choices) + model.config.vocab_size
    noise_of = torch.Generator().manual_seed(5)
    seen = set()
    for column in range(1, T):
        noise = torch.rand(len(prompts), width, dtype=torch.float64, generator=noise_of)
        before, first = writing.idx.clone(), writing.chosen.clone()
        with torch.no_grad():
            next_column(writing, noise)
        assert torch.equal(writing.pos, lengths + column)
        for row, prompt in enumerate(prompts):
            so_far = before[row, len(prompt):len(prompt) + column].tolist()
            k, token = expected(model, decoder, prompt, so_far, noise[row], greedy, int(first[row]))
            at = len(prompt) + column
            assert (int(writing.tau_idx[row, at]), int(writing.idx[row, at])) == (k, token)
            assert int(writing.newest[row]) == token
            seen.add((k, token))
            before[row, at] = token
        assert torch.equal(writing.idx, before)  # and nothing else
    assert len(seen) > 5 or len(prompts) == 1
    for row, prompt in enumerate(prompts):  # what the cache keeps is what a whole pass makes
        text = writing.idx[row:row + 1, :len(prompt) + T - 1]
        whole = model.new_cache(1, text.shape[1])
        with torch.no_grad():
            model(text, whole)
        for ours, theirs in zip(writing.cache.kv, whole.kv):
            n = text.shape[1]
            assert torch.allclose(ours[row, :, :n], theirs[0, :, :n], rtol=0, atol=1e-12)


def test_given_temperatures_are_those_of_their_places():
    """A table: temperature 0 in some columns must give the arg-max there, whatever the noise."""
    model = rough_model(block_size=32)
    table = torch.tensor([[0.0, 5.0] * (T // 2)]).double()
    writing, lengths = started(model, temperature=table)
    noise_of = torch.Generator().manual_seed(6)
    for _ in range(1, T):
        noise = torch.rand(len(PROMPTS), len(writing.taus) + 11, dtype=torch.float64,
                           generator=noise_of)
        with torch.no_grad():
            next_column(writing, noise)
    with torch.no_grad():
        cold, hot = [], []
        for row, prompt in enumerate(PROMPTS):
            logits, _ = model(writing.idx[row:row + 1, :len(prompt) + T])
            best = logits[0].argmax(-1)[len(prompt) - 1:-1]
            same = best == writing.idx[row, len(prompt):len(prompt) + T]
            cold += same[0::2].tolist()
            hot += same[1::2].tolist()
    assert all(cold) and not all(hot)


def test_attention_sees_what_is_written_and_nothing_behind():
    """Against a loop over rows and heads; slots behind the newest hold garbage."""
    gen = torch.Generator().manual_seed(7)
    R, H, slots, D = 3, 2, 9, 4
    heads = torch.randn(R, H, 3, D, dtype=torch.float64, generator=gen)
    kv = 100 * torch.randn(R, H, slots, 2, D, dtype=torch.float64, generator=gen)
    old, pos = kv.clone(), torch.tensor([0, 4, 8])
    y = attend(heads, kv, pos).view(R, H, D)
    for r in range(R):
        for h in range(H):
            q, k, v = heads[r, h]
            old[r, h, pos[r]] = torch.stack([k, v])
            keys, values = old[r, h, :pos[r] + 1].unbind(1)
            weights = torch.softmax(keys @ q / 2, 0)
            assert torch.allclose(y[r, h], weights @ values)
    assert torch.equal(kv, old)


def test_what_cannot_be_compiled_is_refused():
    with pytest.raises(ValueError, match="CUDA GPU"):
        fast_generate(rough_model(block_size=32), PROMPTS, 4, temperature=1.0, compiled=True)
    with pytest.raises(ValueError, match="follows the text"):
        fast_generate(rough_model(block_size=32), PROMPTS, 4, temperature=lambda tokens: [1.0] * 4,
                      compiled=True)


def test_the_whole_step_is_traced_in_one_piece():
    """torch.compile with fullgraph, without its compiler: no break, no value from the host, and
    one graph for all rows but a single one. Greedy text equals the plain loop's."""
    import torch._dynamo.testing
    counter = torch._dynamo.testing.CompileCounter()
    step = torch.compile(next_column, backend=counter, fullgraph=True)
    model, decoder = rough_model(block_size=32), rough_decoder("token")
    for prompts, T in ((PROMPTS, 12), (PROMPTS[:3], 12), (PROMPTS, 23)):
        plain = generate(model, prompts, T, temperature=0.0)
        idx, lengths, _, plan, _ = checked_request(model, prompts, T, None, 0.0, "sample", None,
                                                   None)
        writing = Writing(model, prompts, idx, lengths, T, None, False, None)
        with torch.no_grad():
            writing.plan_all(plan)
            writing.from_start(idx.shape[1] - T, check=False)
            for column in range(1, T):
                noise = torch.rand(len(prompts), 12, dtype=torch.float64)
                any_size(writing, noise)
                step(writing, noise)
        assert torch.equal(writing.idx.gather(1, writing.places), plain.tokens)
    assert counter.frame_count == 1
    writing, _ = started(model, decoder=decoder)
    with torch.no_grad():
        step(writing, torch.rand(len(PROMPTS), 11 + len(decoder.choices), dtype=torch.float64))
    assert counter.frame_count == 2
