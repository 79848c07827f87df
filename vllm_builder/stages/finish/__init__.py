"""From the wheel that setup.py wrote to the one that is handed on.

It gets its build record and SBOM, the torch that it was compiled against among its requirements, tags that are
true in name and WHEEL alike, and the same bytes each time.
"""
