"""Find, identify and load the frozen text teacher, and embed captions with it.

`teacher` gives what the model's own `encode` gives, but for rounding. It looks at the model's modules and takes the
quickest way that is exact:

- A transformer with a fast tokenizer, and modules behind it that padding does not touch: captions are tokenized once,
  by the tokenizers library alone where that gives the same tokens (`tokenizing`); batches of near-equal length are
  padded from the token ids.
- A mean of word vectors: a whole shard is split by arrow, each distinct word is seen by the library's tokenizer once,
  and `embedding_bag` takes the means (`word_averages`).
- Static embeddings: thousands of captions at a time.
- Anything else: the library's features, batch by batch, as `encode` makes them.

While a shard is embedded, a thread tokenizes the next, and another writes and hashes the one before. A GPU is handed
the batches of the next shard before the one at hand is waited for (`network`). Several devices have a process each,
which take batches from one list (`processes`); batches do not depend on the devices. No more than three shards are
held.

A prompt that the model registers is found by its name without torch (`prompts`); from there on it is its text, which is
what requests, records and students hold.

The precision of a teacher is hashed, for it changes embeddings by more than rounding (`encoding_options`). Its ``auto``
is settled before that, by what the store holds of the teacher, else by the device.
"""
