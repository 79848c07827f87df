"""``python -m vllm_builder``."""

from vllm_builder.cli import main

if __name__ == "__main__":
    main()
