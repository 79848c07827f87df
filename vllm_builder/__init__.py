"""vllm-builder: from a vLLM release to an installable, cached wheel."""

__version__ = "0.1.0"
