"""A real language model: any causal one of Hugging Face's, decoded at temperatures that it chooses.

    hf.py               a transformers model as the module that `generate` takes
    models.py           small models from packages, without a download of their own; any GGUF file
    custom_generate.py  the decoder in transformers' own `generate`
    tasks.py            what it is asked, with exact rules as rewards; the lists are in prompts.json
    train.py            LPO around it: sample, score, pair, update, measure
"""
