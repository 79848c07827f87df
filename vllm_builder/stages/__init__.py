"""The pipeline, stage by stage: plan -> source -> patch -> environment -> compile -> store.

Each folder is one stage with typed inputs and outputs, usable alone. ``plan`` decides everything and
changes nothing; the others obey it.
"""
