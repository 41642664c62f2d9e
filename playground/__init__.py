"""One self-contained web page with the trained toy model inside: open index.html in a browser.

    build.py    makes index.html, from the files that train_toy.py keeps and the sources below
    page.html   the page's parts, in their order
    style.css   how it looks
    texts.json  what it says of each task
    engine.js   the language model, the AdaptiveDecoder and the sampler
    tasks.js    the tasks: prompts, grammar, rewards
    lpo.js      the loss, its gradient, AdamW, the rounds
    worker.js   a hundred responses, and the training, beside the page
    view.js     the pieces that the page shows
    trainer.js  "Train it here"
    app.js      what else the page does
    screenshot.png, README.md   for readers
"""
