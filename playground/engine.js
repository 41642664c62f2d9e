// The language model, the AdaptiveDecoder and the sampler: model.py, decoder.py and toy/samplers.py
// once more, with their names. Numbers are doubles; a matrix is one Float64Array, row after row.
//
// R responses, P prompts, S tokens of a prompt, T response tokens, K choices, V words, C hidden
// width, H heads of D = C / H.
"use strict";

// --- one matrix product, in which nearly all the time goes ---------------------------------------

// a times b transposed: (n,k), (m,k) -> (n,m). To learn the method, read only the last loop, which
// is the whole product. The first one does the same in tiles of 4 x 2, three times as fast: each
// number that is fetched serves several sums.
function product(a, b, n, m, k) {
  const c = new Float64Array(n * m);
  const whole_n = n - n % 4, whole_m = m - m % 2;
  for (let i = 0; i < whole_n; i += 4) {
    const a0 = i * k, a1 = a0 + k, a2 = a1 + k, a3 = a2 + k;
    for (let j = 0; j < whole_m; j += 2) {
      const b0 = j * k, b1 = b0 + k;
      let c00 = 0, c01 = 0, c10 = 0, c11 = 0, c20 = 0, c21 = 0, c30 = 0, c31 = 0;
      for (let l = 0; l < k; l++) {
        const u = b[b0 + l], v = b[b1 + l];
        let x = a[a0 + l];
        c00 += x * u;
        c01 += x * v;
        x = a[a1 + l];
        c10 += x * u;
        c11 += x * v;
        x = a[a2 + l];
        c20 += x * u;
        c21 += x * v;
        x = a[a3 + l];
        c30 += x * u;
        c31 += x * v;
      }
      let start = i * m + j;
      c[start] = c00;
      c[start + 1] = c01;
      start += m;
      c[start] = c10;
      c[start + 1] = c11;
      start += m;
      c[start] = c20;
      c[start + 1] = c21;
      start += m;
      c[start] = c30;
      c[start + 1] = c31;
    }
  }
  for (let i = 0; i < n; i++) {  // what the tiles left over
    for (let j = i < whole_n ? whole_m : 0; j < m; j++) {
      let sum = 0;
      for (let l = 0; l < k; l++) sum += a[i * k + l] * b[j * k + l];
      c[i * m + j] = sum;
    }
  }
  return c;
}

// x W' + bias, as torch.nn.Linear: weight (out,in), bias (out,).  (n,in) -> (n,out)
function linear(x, n, weight, bias) {
  const m = bias.length;
  const y = product(x, weight, n, m, weight.length / m);
  for (let i = 0; i < n; i++) for (let j = 0; j < m; j++) y[i * m + j] += bias[j];
  return y;
}

function add_to(x, y) {
  for (let i = 0; i < x.length; i++) x[i] += y[i];
}

// --- weights: half precision in the page, doubles in use -----------------------------------------

// base64 of what zlib compressed -> bytes
async function inflated(base64) {
  const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// IEEE half precision, first all low bytes, then all high bytes (they compress better so)
function from_halves(bytes) {
  const n = bytes.length / 2;
  return Float64Array.from({ length: n }, (_, i) => {
    const low = bytes[i], high = bytes[n + i];
    const sign = high & 128 ? -1 : 1, exponent = high >> 2 & 31, fraction = (high & 3) << 8 | low;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
}

// consecutive arrays of such shapes.  -> {name: Float64Array}
function named(numbers, shapes) {
  const arrays = {};
  let start = 0;
  for (const [name, shape] of shapes) {
    const end = start + shape.reduce((a, b) => a * b);
    arrays[name] = numbers.slice(start, end);
    start = end;
  }
  return arrays;
}

// --- GPT-2's architecture (model.py) -------------------------------------------------------------

function layer_norm(x, weight, bias) {
  const C = weight.length, y = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += C) {
    let mean = 0, square = 0;
    for (let c = 0; c < C; c++) mean += x[row + c];
    mean /= C;
    for (let c = 0; c < C; c++) square += (x[row + c] - mean) * (x[row + c] - mean);
    const scale = 1 / Math.sqrt(square / C + 1e-5);
    for (let c = 0; c < C; c++) y[row + c] = (x[row + c] - mean) * scale * weight[c] + bias[c];
  }
  return y;
}

function gelu(x) {
  const a = Math.sqrt(2 / Math.PI), y = new Float64Array(x.length);
  for (let i = 0; i < x.length; i++) {
    const v = x[i];
    y[i] = 0.5 * v * (1 + Math.tanh(a * (v + 0.044715 * v * v * v)));
  }
  return y;
}

// One query against the keys that it may see, in spans {keys, values, row, n} of consecutive rows:
// the prompt's, shared by all its responses, and the response's own.
function attend(qkv, query_row, spans, out, H, C) {
  const D = C / H, query = query_row * 3 * C;
  const weights = new Float64Array(spans.reduce((n, span) => n + span.n, 0));
  for (let head = 0; head < H; head++) {
    let i = 0, best = -Infinity, total = 0;
    for (const { keys, row, n } of spans) {
      for (let s = 0; s < n; s++, i++) {
        const key = (row + s) * C + head * D;
        let score = 0;
        for (let d = 0; d < D; d++) score += qkv[query + head * D + d] * keys[key + d];
        weights[i] = score / Math.sqrt(D);
        if (weights[i] > best) best = weights[i];
      }
    }
    for (i = 0; i < weights.length; i++) total += weights[i] = Math.exp(weights[i] - best);
    i = 0;
    for (const { values, row, n } of spans) {
      for (let s = 0; s < n; s++, i++) {
        const value = (row + s) * C + head * D, share = weights[i] / total;
        for (let d = 0; d < D; d++) out[query_row * C + head * D + d] += share * values[value + d];
      }
    }
  }
}

class GPT {
  constructor(config, weights) {
    this.config = config;
    this.weights = weights;
  }

  // n tokens at their places -> (n,C)
  embedded(tokens, places) {
    const C = this.config.n_embd, x = new Float64Array(tokens.length * C);
    const words = this.weights["token_embedding.weight"];
    const positions = this.weights["position_embedding.weight"];
    tokens.forEach((token, i) => {
      const word = token * C, position = places[i] * C;
      for (let c = 0; c < C; c++) x[i * C + c] = words[word + c] + positions[position + c];
    });
    return x;
  }

  // All blocks.  (n,C) -> hidden (n,C). keep(layer, qkv) stores the new keys and values,
  // seen(layer, i) gives the spans that row i sees.
  through_blocks(x, n, keep, seen) {
    const { n_layer, n_head, n_embd: C } = this.config, w = this.weights;
    for (let layer = 0; layer < n_layer; layer++) {
      const of = name => [w[`blocks.${layer}.${name}.weight`], w[`blocks.${layer}.${name}.bias`]];
      const qkv = linear(layer_norm(x, ...of("norm1")), n, ...of("qkv"));
      keep(layer, qkv);
      const y = new Float64Array(n * C);
      for (let i = 0; i < n; i++) attend(qkv, i, seen(layer, i), y, n_head, C);
      add_to(x, linear(y, n, ...of("out")));
      const up = linear(layer_norm(x, ...of("norm2")), n, ...of("up"));
      add_to(x, linear(gelu(up), n, ...of("down")));
    }
    return layer_norm(x, w["norm.weight"], w["norm.bias"]);
  }

  // (n,C) -> (n,V)
  logits(hidden) {
    const { n_embd: C, vocab_size: V } = this.config;
    return product(hidden, this.weights["token_embedding.weight"], hidden.length / C, V, C);
  }

  // P token lists of equal length S.  -> hidden (P*S,C) and, of each layer, keys and values (P*S,C)
  prefill(prompts) {
    const C = this.config.n_embd, S = prompts[0].length;
    const tokens = prompts.flat(), caches = [];
    const keep = (layer, qkv) => {
      const cache = new_cache(tokens.length, C);
      tokens.forEach((_, i) => store(cache, i, qkv, i, C));
      caches.push(cache);
    };
    const seen = (layer, i) => [{ ...caches[layer], row: i - i % S, n: i % S + 1 }];
    const x = this.embedded(tokens, tokens.map((_, i) => i % S));
    return { hidden: this.through_blocks(x, tokens.length, keep, seen), caches };
  }
}

function new_cache(rows, C) {
  return { keys: new Float64Array(rows * C), values: new Float64Array(rows * C) };
}

function store(cache, row, qkv, from, C) {
  const start = from * 3 * C;
  cache.keys.set(qkv.subarray(start + C, start + 2 * C), row * C);
  cache.values.set(qkv.subarray(start + 2 * C, start + 3 * C), row * C);
}

// --- what a choice does to logits (decoder.py, toy/samplers.py) ----------------------------------

const sum = numbers => numbers.reduce((a, b) => a + b, 0);
const largest = numbers => numbers.reduce((a, b) => (b > a ? b : a), -Infinity);

function argmax(numbers) {  // the lowest index on a tie
  let best = 0;
  for (let i = 1; i < numbers.length; i++) if (numbers[i] > numbers[best]) best = i;
  return best;
}

function log_softmax(logits, tau = 1) {
  const best = largest(logits);
  const total = Math.log(logits.reduce((sum, x) => sum + Math.exp((x - best) / tau), 0));
  return logits.map(x => (x - best) / tau - total);
}

const PENALTIES = {  // a logit, how often its token has been written, a number -> a logit
  frequency: (logit, count, a) => logit - a * count,
  presence: (logit, count, a) => logit - (count ? a : 0),
  repetition: (logit, count, a) => (!count ? logit : logit > 0 ? logit / a : logit * a),
};

// Tokens at least `share` times as likely as the most likely one; the others at -infinity
function min_p(logits, share) {
  const least = largest(logits) + Math.log(share);
  return logits.map(x => (x >= least ? x : -Infinity));
}

// log P(token | choice): cut the model's own distribution, penalise, temper. counts: how often the
// response has each token so far; only penalties, which have a memory, look at it.  (V,) -> (V,)
function choice_logps(logits, { cut, penalty, value, temperature }, counts) {
  let changed = cut ? min_p(logits, cut) : logits;
  if (penalty) changed = changed.map((x, i) => PENALTIES[penalty](x, counts[i], value));
  if (temperature > 0) return log_softmax(changed, temperature);
  const best = argmax(changed);  // exactly; never a division by a small number
  return changed.map((_, i) => (i === best ? 0 : -Infinity));
}

// From its label: 0.6, "min_p=.05@3" (cut, then temper), "frequency=1@0|min_p=.05" (cut, penalise,
// then temper). build.py refuses others.
function choice_of(label) {
  const [setting, cut] = String(label).split("|"), [first, tau = "1"] = setting.split("@");
  if (!first.includes("=")) return { temperature: Number(first) };
  const [kind, value] = first.split("="), choice = { temperature: Number(tau) };
  if (kind === "min_p") return { ...choice, cut: Number(value) };
  return { ...choice, penalty: kind, value: Number(value), cut: Number(cut?.split("=")[1] ?? 0) };
}

// --- the AdaptiveDecoder (decoder.py) ------------------------------------------------------------

const silu = x => x / (1 + Math.exp(-x));

class AdaptiveDecoder {
  // labels: K choices. weights: of the three layers, each followed by its bias.
  constructor(labels, level, weights) {
    this.labels = labels;
    this.choices = labels.map(choice_of);
    this.level = level;
    this.weights = weights;
  }

  // The MLP and what its backward pass needs.  (n,C) -> tau_logps (n,K) and the layers' inputs
  layers(hidden) {
    const [W1, b1, W2, b2, W3, b3] = this.weights, n = hidden.length / (W1.length / b1.length);
    const z1 = linear(hidden, n, W1, b1), a1 = z1.map(silu);
    const z2 = linear(a1, n, W2, b2), a2 = z2.map(silu);
    const tau_logps = linear(a2, n, W3, b3), K = b3.length;
    for (let i = 0; i < tau_logps.length; i += K) {
      tau_logps.set(log_softmax(tau_logps.subarray(i, i + K)), i);
    }
    return { tau_logps, z1, a1, z2, a2 };
  }

  // log P(tau_k | h).  (n,C) -> (n,K)
  forward(hidden) {
    return this.layers(hidden).tau_logps;
  }

  copy() {
    return new AdaptiveDecoder(this.labels, this.level, this.weights.map(w => w.slice()));
  }
}

// --- generation: hidden state, choice, token -----------------------------------------------------

// Uniform numbers from 0 to 1, a stream of their own for each list of whole numbers (sfc32)
function stream(...seeds) {
  let a = 0x9e3779b9, b = 0x243f6a88, c = 0xb7e15162, counter = 1;
  function next() {
    const t = (a + b | 0) + counter | 0;
    counter = counter + 1 | 0;
    a = b ^ b >>> 9;
    b = c + (c << 3) | 0;
    c = (c << 21 | c >>> 11) + t | 0;
    return (t >>> 0) / 2 ** 32;
  }
  for (const seed of seeds) {
    a ^= seed;
    for (let i = 0; i < 12; i++) next();
  }
  return next;
}

// The index in which a uniform number falls. What has log p = -inf is never sampled.
function sample(logps, uniform) {
  let last = 0, left = uniform;
  for (let i = 0; i < logps.length; i++) {
    if (logps[i] === -Infinity) continue;
    left -= Math.exp(logps[i]);
    last = i;
    if (left < 0) break;
  }
  return last;
}

// Responses to P prompts of equal length, `samples` of each.
//   policy: {decoder}, {fixed: a label} or {plan: a function of a response's number and its tokens
//     so far, to a label}.
//   seed: response i of prompt p takes two numbers per token from stream(...seed, p, i), one for
//     the choice and one for the token, whatever else is sampled.
// -> R of {prompt: its number, tokens: [T], tau_idx: [T] or [1] or [], labels of the T choices,
//    hidden: (T,C)}; the last token is the end of text unless the limit T came first
function generate(model, prompts, samples, T, policy, seed, tick = () => {}) {
  const { n_layer, n_embd: C, vocab_size: V } = model.config, S = prompts[0].length;
  const { hidden: of_prompts, caches: prompt_caches } = model.prefill(prompts);
  const responses = Array.from({ length: prompts.length * samples }, (_, number) => {
    const prompt = Math.floor(number / samples);
    return { number, prompt, tokens: [], tau_idx: [], labels: [], hidden: new Float64Array(T * C),
             counts: new Float64Array(V), next: stream(...seed, prompt, number % samples),
             caches: Array.from({ length: n_layer }, () => new_cache(T, C)) };
  });
  const { decoder, plan, fixed } = policy;
  let unfinished = responses;
  let hidden = new Float64Array(responses.length * C);  // the state that decides the next column
  responses.forEach(({ prompt }, row) => {
    const last = ((prompt + 1) * S - 1) * C;
    hidden.set(of_prompts.subarray(last, last + C), row * C);
  });
  for (let t = 0; t < T; t++) {
    const logits = model.logits(hidden);
    const decides = decoder && (t === 0 || decoder.level === "token");
    const tau_logps = decides && decoder.forward(hidden);
    unfinished.forEach((response, row) => {
      const { number, tokens, tau_idx, labels, counts, next } = response;
      const uniforms = [next(), next()];  // both in any case: policies share their noise
      if (decides) {
        const K = decoder.choices.length;
        tau_idx.push(sample(tau_logps.subarray(row * K, row * K + K), uniforms[0]));
      }
      labels.push(decoder ? decoder.labels[tau_idx.at(-1)] : plan ? plan(number, tokens) : fixed);
      response.hidden.set(hidden.subarray(row * C, row * C + C), t * C);
      const of_row = logits.subarray(row * V, row * V + V);
      const token = sample(choice_logps(of_row, choice_of(labels[t]), counts), uniforms[1]);
      tokens.push(token);
      counts[token]++;  // of the response alone, and not before its token is sampled
    });
    tick(t + 1, T);
    unfinished = unfinished.filter(({ tokens }) => tokens[t] !== EOS);
    if (!unfinished.length || t === T - 1) break;
    const x = model.embedded(unfinished.map(({ tokens }) => tokens[t]),
                             unfinished.map(() => S + t));
    const keep = (layer, qkv) => unfinished.forEach(({ caches }, row) => {
      store(caches[layer], t, qkv, row, C);
    });
    const seen = (layer, row) => [
      { ...prompt_caches[layer], row: unfinished[row].prompt * S, n: S },
      { ...unfinished[row].caches[layer], row: 0, n: t + 1 }];
    hidden = model.through_blocks(x, unfinished.length, keep, seen);
  }
  return responses.map(({ prompt, tokens, tau_idx, labels, hidden: states }) => (
    { prompt, tokens, tau_idx, labels, hidden: states.subarray(0, tokens.length * C) }));
}
