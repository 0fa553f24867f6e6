"""Make scores of one student comparable, without training: with other images, or with captions.

1. `calibration` identifies what a calibration depends on (`identify_calibration`), and finds or makes its artifact
   (`make_calibration`): `query-bank` from the captions that the student was distilled from, `mixed` from those and a
   sample of the training's images, of whose features the head makes embeddings where there are any.
2. `fit` computes it: the bank, or the mean and the nearest of the cosines among both samples.
3. `extended_vectors` writes it into one more number of each vector, after which the inner product of any index is the
   calibrated score. Text vectors keep their other numbers, bit for bit.
"""
