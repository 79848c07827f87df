"""The pipeline, stage by stage: plan -> source -> patch -> toolkit -> environment -> compile -> store.

``vendor`` stands between source and patch once builds place external sources by themselves.

Each folder is one stage with typed inputs and outputs, usable alone. ``plan`` decides everything and
changes nothing; the others obey it.
"""
