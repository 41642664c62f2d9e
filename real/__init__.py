"""A real language model of transformers, and a decoder that picks its temperatures.

    hf.py       generate and response_logps for any causal model that transformers loads
    models.py   small models from packages; GGUF files, folders, names of the hub
    tasks.py    what the model is asked, with exact rules as rewards; the lists are in prompts.json
    train.py    LPO beside tuned rules (choices.json): sample, reward, pair, update, measure
    figures.py  two figures of a run
"""
