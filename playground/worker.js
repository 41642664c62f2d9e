// What takes longer than a moment runs beside the page, in a Web Worker made of these same scripts:
// draws by the hundred, and the training. A worker is stopped by ending it.
"use strict";

// A policy as a message: {decoder: {labels, level, weights}}, {temperature} or {by_role: {key:
// tau}}, whose keys are roles, or tasks where a task has no roles.  -> what `generate` takes
function policy_of({ decoder, temperature, by_role }, asked, samples) {
  if (decoder) {
    return { decoder: new AdaptiveDecoder(decoder.labels, decoder.level, decoder.weights) };
  }
  if (by_role) return { temperature_of: following_roles(by_role, asked, samples) };
  return { temperature };
}

// The temperature of a role's next word, as evaluate.ByRole has it
function following_roles(by_role, asked, samples) {
  const walks = asked.flatMap(([name, prompt]) => (
    Array.from({ length: samples }, () => TASKS[name].walk(prompt))));
  return (number, tokens) => {
    const [name] = asked[Math.floor(number / samples)];
    const place = walks[number].next(WORDS[tokens.at(-1)]).value;
    return by_role[name] ?? by_role[role_of(name, place)];
  };
}

const in_worker = typeof document === "undefined";
let model = null;

if (in_worker) {
  onmessage = ({ data: message }) => {
    if (message.kind === "model") model = new GPT(message.config, message.weights);
    if (message.kind === "draws") {
      const { number, asked, samples, policy, seed } = message;
      const responses = respond(model, asked, samples, policy_of(policy, asked, samples), seed);
      postMessage({ number, rewards: responses.map(({ reward }) => reward) });
    }
    if (message.kind === "train") {
      train(message.cfg, model, postMessage);
      postMessage({ kind: "end" });
    }
  };
}
