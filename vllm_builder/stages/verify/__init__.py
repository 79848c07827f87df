"""Is a wheel what was asked for? Found out on any machine, without a GPU.

inspection = inspect("vllm-0.9.2-...whl")       # what is in it
report = verify(path, expectations)             # findings, each with severity and cure
comparison = compare(path_a, path_b)
"""
