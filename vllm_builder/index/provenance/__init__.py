"""Where a wheel comes from, said so that others can check it: in-toto statements with SLSA provenance.

``statement`` makes one of a wheel's build record, ``signing`` puts it into a DSSE envelope, ``checking`` reads it back.
"""
