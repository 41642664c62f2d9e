// What takes longer than a moment runs beside the page, in a Web Worker made of these same scripts:
// responses by the hundred, and the training. A worker is stopped by ending it.
"use strict";

// A policy as it comes in a message: {decoder: its fields}, {fixed: label} or {by_role: {key:
// temperature}}, whose keys are roles, or tasks where a task has no roles.  -> for `generate`
function policy_of({ decoder, fixed, by_role }, asked, samples) {
  if (decoder) {
    return { decoder: new AdaptiveDecoder(decoder.labels, decoder.level, decoder.weights) };
  }
  return by_role ? { plan: following_roles(by_role, asked, samples) } : { fixed };
}

// The temperature of a role's next word, as evaluate.by_role has it
function following_roles(by_role, asked, samples) {
  const walks = asked.flatMap(([name, prompt]) => (
    Array.from({ length: samples }, () => TASKS[name].walk(prompt))));
  return (number, tokens) => {
    const [name] = asked[Math.floor(number / samples)];
    const place = walks[number].next(WORDS[tokens.at(-1)]).value;
    return by_role[name] ?? by_role[TASKS[name].roles[place] ?? "rest"];
  };
}

if (typeof document === "undefined") {  // this is the worker
  let model = null;
  onmessage = ({ data: message }) => {
    if (message.kind === "model") model = new GPT(message.config, message.weights);
    if (message.kind === "rewards") {
      const { asked, samples, policy, seed, port } = message;
      const responses = respond(model, asked, samples, policy_of(policy, asked, samples), seed);
      port.postMessage(responses.map(({ reward }) => reward));
    }
    if (message.kind === "train") {
      train(message.cfg, model, postMessage);
      postMessage({ kind: "end" });
    }
  };
}
