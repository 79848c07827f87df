"""What ``benchmarks/suite.py`` is made of: what is measured, in which order, how it is kept and shown."""
