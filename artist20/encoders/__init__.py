"""Frozen pretrained encoders behind one interface, one file each: waveforms -> embeddings.

To add one: a file here whose ``load(weights, seed, device, precision)`` returns an
:class:`~artist20.encoders.base.Encoder`, its weights in
:mod:`artist20.fetch`, and its ``load`` in task2_train.py and task2_inference.py.
"""
