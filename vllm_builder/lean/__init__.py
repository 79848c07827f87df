"""Lean headers: the proof that they leave a release's code as it is (`vllm-builder prove-lean`)."""
