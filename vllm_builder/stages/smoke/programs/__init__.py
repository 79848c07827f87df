"""Programs that run in the environment of the wheel under test, started by path.

They know torch and the standard library alone: nothing of vllm_builder is installed there. What they find out they write
as JSON lines into a file, since an extension may print what it likes.
"""
