"""A synthesised data set in artist20's layout: ``python -m artist20.demo data/demo``."""
