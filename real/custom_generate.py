"""The decoder inside transformers' own `generate`: batches, stopping, streaming stay theirs.

    lm.generate(**inputs, max_new_tokens=64, custom_generate=Adaptive(decoder))

Their sampling loop makes logits, lets processors change them and draws a word. A processor sees no
hidden state; so one is caught on its way from body to head, and the last processor makes the
distribution of the choice that the decoder takes. It is fast.generate's job done by their loop.

B rows, C hidden width, V words, K choices.
"""
import torch

from decoder import draw
from lpo import require, word_logps


class Adaptive:
    """A function for `custom_generate=`. tau_idx (B,t): the choices that the last call took.

    tau_select: "sample" draws the choice, "greedy" takes the likeliest. Processors (a penalty, a
    minimal length) come before the choice. Whatever is named a warper (temperature, top_k, top_p
    ...) is left out: the choice stands in its place, do_sample or not. Words are drawn with torch's
    global generator, choices with the one given. Beams are refused. One call at a time. A streamer
    belongs here: transformers 5.24 does not hand its own on to a function.
    """

    def __init__(self, decoder, tau_select="sample", generator=None, streamer=None):
        require(tau_select in ("sample", "greedy"),
                f"unknown tau_select {tau_select!r}; choose 'sample' or 'greedy'")
        self.decoder = decoder
        self.greedy = tau_select == "greedy"
        self.generator = generator
        self.streamer = streamer

    @torch.no_grad()
    def __call__(self, model, input_ids, logits_processor, stopping_criteria, generation_config,
                 **others):
        require(generation_config.num_beams == 1,
                f"num_beams is {generation_config.num_beams}; a decoder's choices need 1")
        generation_config.do_sample = True  # of the call's own copy; what it draws is up to `warp`
        processors = [p for p in logits_processor if not type(p).__name__.endswith("Warper")]
        self.columns = []
        if self.streamer is not None:
            self.streamer.put(input_ids.cpu())  # the prompts come first, as theirs does it
            others["streamer"] = self.streamer
        hook = model.base_model.register_forward_hook(self.catch)
        try:
            return model._sample(
                input_ids, type(logits_processor)([*processors, self.warp]), stopping_criteria,
                generation_config=generation_config, **others)
        finally:
            hook.remove()

    def catch(self, body, inputs, output):
        """The newest hidden state of each row, as it leaves the body."""
        self.hidden = output.last_hidden_state[:, -1]  # (B,C): padding is on the left

    def warp(self, input_ids, logits):
        """The log-probabilities of the rows' choices.  (B,t), (B,V) -> (B,V)"""
        if self.decoder.level == "token" or not self.columns:
            tau_logps = self.decoder(self.hidden)  # (B,K)
            k = tau_logps.argmax(-1) if self.greedy else draw(tau_logps, self.generator)
            self.columns.append(k)
        every = torch.stack([word_logps(logits, choice) for choice in self.decoder.choices], 1)
        return every[torch.arange(len(logits), device=logits.device), self.columns[-1]]

    @property
    def tau_idx(self):
        return torch.stack(self.columns, 1)
