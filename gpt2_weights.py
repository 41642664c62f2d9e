"""GPT-2 weights into model.GPT: the names and the transposes of Hugging Face's checkpoints."""
import torch

HF_NAMES = {"token_embedding": "wte", "position_embedding": "wpe", "blocks.": "h.",
            "norm1": "ln_1", "norm2": "ln_2", "qkv": "attn.c_attn", "out": "attn.c_proj",
            "up": "mlp.c_fc", "down": "mlp.c_proj", "norm.": "ln_f."}


def load(model, state_dict):
    """Take the weights; ValueError if names or shapes differ.  -> the model"""
    state = {name.removeprefix("transformer."): w for name, w in state_dict.items()
             if not name.endswith((".attn.bias", ".attn.masked_bias"))}  # causal-mask buffers
    head = state.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, state.get("wte.weight", head[:0])):
        raise ValueError("lm_head.weight differs from wte.weight; give tied weights")
    ours = {}
    for name, weight in model.state_dict().items():
        theirs = name
        for old, new in HF_NAMES.items():
            theirs = theirs.replace(old, new)
        if theirs not in state:
            raise ValueError(f"{theirs} is missing; is this a GPT-2 of {model.config}?")
        w = state.pop(theirs)
        if name.endswith(("qkv.weight", "out.weight", "up.weight", "down.weight")):
            w = w.T  # theirs are (in, out), torch's linear layers (out, in)
        if w.shape != weight.shape:
            raise ValueError(f"{theirs} is {tuple(w.shape)}; {model.config} asks for {name} of "
                             f"{tuple(weight.shape)}")
        ours[name] = w
    if state:
        raise ValueError(f"weights without a place here: {sorted(state)[:4]}; is this a GPT-2?")
    model.load_state_dict(ours)
    return model


def pretrained(name_or_folder):
    """A GPT-2 of the transformers library, and the options of GPTConfig.  -> model, dict"""
    from transformers import GPT2LMHeadModel  # only here: nothing else needs transformers
    theirs = GPT2LMHeadModel.from_pretrained(name_or_folder, torch_dtype="auto")
    c = theirs.config
    plain = dict(activation_function="gelu_new", scale_attn_weights=True, n_inner=None,
                 scale_attn_by_inverse_layer_idx=False, layer_norm_epsilon=1e-5)
    odd = {k: getattr(c, k) for k, v in plain.items() if getattr(c, k) not in (v, 4 * c.n_embd)}
    if odd:
        raise ValueError(f"{name_or_folder} has settings that are not GPT-2's own: {odd}")
    return theirs, dict(vocab_size=c.vocab_size, block_size=c.n_positions, n_layer=c.n_layer,
                        n_head=c.n_head, n_embd=c.n_embd)
