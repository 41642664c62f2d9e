// Latent Preference Optimization of a decoder on a frozen model: pairs, the latent loss of lpo.py
// with its gradient by hand, AdamW, and the rounds of train_toy.py.
//
// B pairs, M response tokens of one side of all pairs together, K choices, C hidden width.
"use strict";

const TIE = 1e-6;  // of the larger reward
const HELD_OUT = 24, SAMPLES = 4;  // prompts that show what was learned, and responses to each

// Best and worst of each prompt's responses, ties left out.  -> two lists of responses
function make_pairs(responses, samples) {
  const chosen = [], rejected = [];
  for (let p = 0; p < responses.length; p += samples) {
    const ranked = responses.slice(p, p + samples).sort((a, b) => b.reward - a.reward);
    const better = ranked[0], worse = ranked.at(-1);
    const size = Math.max(Math.abs(better.reward), Math.abs(worse.reward));
    if (better.reward - worse.reward > TIE * size) {
      chosen.push(better);
      rejected.push(worse);
    }
  }
  return [chosen, rejected];
}

// --- the loss ------------------------------------------------------------------------------------
//
//   loss = mean over pairs of -log sigmoid(beta (score(chosen) - score(rejected)))
//   score = sum_t [log sum_k P(tau_k | h_t) P(y_t | tau_k) - the same under the reference]
//
// and its derivative by the decoder's last layer, before its softmax, is
//
//   d loss / d score(chosen) = -beta sigmoid(-margin) / B     margin = beta (difference of scores)
//   d score / d logit_k = sum_t [P(tau_k | y_t, h_t) - P(tau_k | h_t)]
//
// where P(tau_k | y_t, h_t) is the share of tau_k in the mixture once the token is known.

// What the loss needs of one side, made once per round since the model is frozen. Decisions are
// tokens at the token level, responses at the sequence level.
function side_of(model, decoder, reference, responses) {
  const C = model.config.n_embd, V = model.config.vocab_size, K = decoder.choices.length;
  const at_tokens = decoder.level === "token";
  const pair = responses.flatMap((response, b) => response.tokens.map(() => b)), M = pair.length;
  const decision = at_tokens ? pair.map((_, i) => i) : pair;  // of a token
  const owner = at_tokens ? pair : responses.map((_, b) => b);  // the pair of a decision
  const hidden = new Float64Array(M * C);  // that predict the tokens
  let start = 0;
  for (const response of responses) {
    hidden.set(response.hidden, start);
    start += response.hidden.length;
  }
  const text_logps = new Float64Array(M * K);  // log P(y_t | tau_k)
  const logits = model.logits(hidden);
  let i = 0;
  for (const { tokens } of responses) {
    const counts = new Float64Array(V);  // of the response before each token
    for (const token of tokens) {
      const of_token = logits.subarray(i * V, i * V + V);
      decoder.choices.forEach((choice, k) => {
        text_logps[i * K + k] = choice_logps(of_token, choice, counts)[token];
      });
      counts[token]++;
      i++;
    }
  }
  const deciding = at_tokens ? hidden : new Float64Array(responses.length * C);
  if (!at_tokens) responses.forEach((r, b) => deciding.set(r.hidden.subarray(0, C), b * C));
  const ref_tau_logps = reference.forward(deciding);
  const ref_marginal = pair.map((_, i) => marginal(text_logps, i, ref_tau_logps, decision[i], K));
  return { pair, decision, owner, hidden: deciding, text_logps, ref_marginal };
}

// log sum_k P(tau_k) P(y | tau_k), of token i and its decision j
function marginal(text_logps, i, tau_logps, j, K) {
  let total = 0;
  for (let k = 0; k < K; k++) total += Math.exp(text_logps[i * K + k] + tau_logps[j * K + k]);
  return Math.log(total);
}

// One side's scores (B,), and their derivatives by the decoder's logits, (decisions,K). A token
// that is impossible under policy or reference counts 0.
function latent(side, tau_logps, B, K) {
  const scores = new Float64Array(B), slopes = new Float64Array(tau_logps.length);
  side.pair.forEach((b, i) => {
    const j = side.decision[i], policy = marginal(side.text_logps, i, tau_logps, j, K);
    const ratio = policy - side.ref_marginal[i];
    if (!Number.isFinite(ratio)) return;
    scores[b] += ratio;
    for (let k = 0; k < K; k++) {
      const prior = tau_logps[j * K + k], posterior = side.text_logps[i * K + k] + prior - policy;
      slopes[j * K + k] += Math.exp(posterior) - Math.exp(prior);
    }
  });
  return { scores, slopes };
}

function transposed(x, n, m) {  // (n,m) -> (m,n)
  const y = new Float64Array(x.length);
  for (let i = 0; i < n; i++) for (let j = 0; j < m; j++) y[j * n + i] = x[i * m + j];
  return y;
}

// Back through y = x W' + b: (n,out), (n,in) -> gradients of W and b, and of x if it is asked for
function back_linear(dy, x, weight, n, wants_dx = true) {
  const out = dy.length / n, inner = x.length / n;
  const dW = product(transposed(dy, n, out), transposed(x, n, inner), out, inner, n);
  const db = new Float64Array(out);
  for (let i = 0; i < dy.length; i++) db[i % out] += dy[i];
  return [dW, db, wants_dx ? product(dy, transposed(weight, out, inner), n, inner, out) : null];
}

// Back through silu(z) = z sigmoid(z)
function back_silu(dy, z) {
  return dy.map((d, i) => {
    const gate = 1 / (1 + Math.exp(-z[i]));
    return d * gate * (1 + z[i] * (1 - gate));
  });
}

// Back through the decoder's three layers.  (n,K) -> gradients in the order of its weights
function back_decoder(decoder, { z1, a1, z2, a2 }, hidden, d_last) {
  const [W1, b1, W2, , W3] = decoder.weights, n = z1.length / b1.length;
  const [dW3, db3, da2] = back_linear(d_last, a2, W3, n);
  const [dW2, db2, da1] = back_linear(back_silu(da2, z2), a1, W2, n);
  const [dW1, db1] = back_linear(back_silu(da1, z1), hidden, W1, n, false);
  return [dW1, db1, dW2, db2, dW3, db3];
}

// log(1 + exp(-x)) without overflow
const minus_log_sigmoid = x => Math.log1p(Math.exp(-Math.abs(x))) + Math.max(-x, 0);

// The mean loss of B pairs and its gradient. sides: chosen and rejected, each from side_of.
// -> {loss, gradient}
function lpo_loss(decoder, sides, B, beta) {
  const K = decoder.choices.length;
  const layers = sides.map(side => decoder.layers(side.hidden));
  const [chosen, rejected] = sides.map((side, i) => latent(side, layers[i].tau_logps, B, K));
  const margins = chosen.scores.map((score, b) => beta * (score - rejected.scores[b]));
  const pulls = margins.map(x => -beta / (1 + Math.exp(x)) / B);  // d loss / d score(chosen)
  const [gradient, of_rejected] = [chosen, rejected].map(({ slopes }, i) => {
    const side = sides[i], sign = i === 0 ? 1 : -1;
    const d_last = slopes.map((slope, n) => sign * slope * pulls[side.owner[Math.floor(n / K)]]);
    return back_decoder(decoder, layers[i], side.hidden, d_last);
  });
  gradient.forEach((array, i) => add_to(array, of_rejected[i]));
  return { loss: sum(margins.map(minus_log_sigmoid)) / B, gradient };
}

// --- AdamW, as torch.optim.AdamW without weight decay --------------------------------------------

class AdamW {
  constructor(weights, lr) {
    Object.assign(this, { weights, lr, steps: 0 });
    this.means = weights.map(w => new Float64Array(w.length));
    this.squares = weights.map(w => new Float64Array(w.length));
  }

  step(gradient) {
    this.steps++;
    const unbias1 = 1 - 0.9 ** this.steps, unbias2 = 1 - 0.999 ** this.steps;
    this.weights.forEach((w, i) => {
      const mean = this.means[i], square = this.squares[i], g = gradient[i];
      for (let j = 0; j < w.length; j++) {
        mean[j] += 0.1 * (g[j] - mean[j]);
        square[j] += 0.001 * (g[j] * g[j] - square[j]);
        w[j] -= this.lr / unbias1 * mean[j] / (Math.sqrt(square[j] / unbias2) + 1e-8);
      }
    });
  }
}

// --- the rounds (train_toy.py) -------------------------------------------------------------------

// A decoder before training: torch's initial weights of a linear layer, uniform up to 1 / sqrt(in);
// the last layer starts at zero, so that every choice starts equally likely
function new_decoder(labels, level, C, random) {
  const K = labels.length, bound = 1 / Math.sqrt(C);
  const weights = [C * C, C, C * C, C].map(size => (
    Float64Array.from({ length: size }, () => bound * (2 * random() - 1))));
  return new AdaptiveDecoder(labels, level,
                             [...weights, new Float64Array(K * C), new Float64Array(K)]);
}

// One round's updates, each on all pairs.  -> losses
function update(decoder, sides, B, { beta, lr, steps }, tick = () => {}) {
  const optimizer = new AdamW(decoder.weights, lr), losses = [];
  for (let step = 0; step < steps; step++) {
    const { loss, gradient } = lpo_loss(decoder, sides, B, beta);
    optimizer.step(gradient);
    losses.push(loss);
    tick(step + 1, steps);
  }
  return losses;
}

// In place, in an order that chance decides
function shuffle(list, random) {
  for (let i = list.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [list[i], list[j]] = [list[j], list[i]];
  }
}

// The control: each prompt's rewards, dealt out anew to its responses
function shuffle_rewards(responses, samples, random) {
  for (let p = 0; p < responses.length; p += samples) {
    const rewards = responses.slice(p, p + samples).map(response => response.reward);
    shuffle(rewards, random);
    rewards.forEach((reward, i) => { responses[p + i].reward = reward; });
  }
}

const mean_reward = responses => sum(responses.map(({ reward }) => reward)) / responses.length;

// The LPO loop. cfg: experiment, level, choices, rounds, prompts, responses, steps, beta, lr, seed,
// shuffled. say(message) hears which fraction is done, of each round's weights and reward, and of
// the mean reward on the same held-out prompts before and after.
function train(cfg, model, say) {
  const decoder = new_decoder(cfg.choices, cfg.level, model.config.n_embd, stream(cfg.seed, 1));
  const random = stream(cfg.seed, 2);
  const held_out = sample_prompts(cfg.experiment, "test", HELD_OUT, stream(4));
  const tell_held_out = when => say({
    kind: "held_out", when,
    reward: mean_reward(respond(model, held_out, SAMPLES, { decoder }, [cfg.seed, 5])) });
  const tell_weights = () => say({ kind: "weights", weights: decoder.copy().weights });
  tell_weights();
  tell_held_out("before");
  for (let rnd = 0; rnd < cfg.rounds; rnd++) {
    const reference = decoder.copy();  // what samples the round's pairs

    // sample, and reward
    const asked = sample_prompts(cfg.experiment, "train", cfg.prompts, random);
    const tick = half => (done, of) => (
      say({ kind: "tick", fraction: (rnd + (half + done / of) / 2) / cfg.rounds }));
    const noise = [cfg.seed, 3, rnd];
    const responses = respond(model, asked, cfg.responses, { decoder }, noise, tick(0));
    const reward = mean_reward(responses);
    if (cfg.shuffled) shuffle_rewards(responses, cfg.responses, random);

    // pair, and update
    const pairs = make_pairs(responses, cfg.responses), B = pairs[0].length;
    if (B) {  // a policy that has learned can get to where all rewards are equal
      const sides = pairs.map(side => side_of(model, decoder, reference, side));
      const lr = cfg.lr * (1 - rnd / cfg.rounds);
      update(decoder, sides, B, { ...cfg, lr }, tick(1));
    }
    tell_weights();
    say({ kind: "round", reward });
  }
  tell_held_out("after");
}
