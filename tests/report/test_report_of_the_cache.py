"""What ccache said of each file."""

from __future__ import annotations

from pathlib import Path

from vllm_builder.stages.compile.compilercache import ccache_by_file


def test_answers_file_by_file(tmp_path: Path) -> None:
    log = tmp_path / "stats"
    log.write_text(
        "# ../../csrc/a.cpp\ncache_miss\ndirect_cache_miss\nlocal_storage_miss\nlocal_storage_write\n"
        "# ../../csrc/b.cpp\ndirect_cache_hit\nlocal_storage_hit\nlocal_storage_read_hit\n"
        "# ../../csrc/c.cpp\nlocal_storage_miss\npreprocessed_cache_hit\n"
        "# conftest.c\ncalled_for_link\n"
        "# ../../csrc/d.cpp\nrecache\n"
        "# ../../csrc/e.cpp\ncompile_failed\n# ../../csrc/e.cpp\ncache_miss\n"
    )
    assert ccache_by_file(log) == {
        "../../csrc/a.cpp": "miss",
        "../../csrc/b.cpp": "hit",
        "../../csrc/c.cpp": "hit",
        "conftest.c": "uncacheable",
        "../../csrc/d.cpp": "miss",
        "../../csrc/e.cpp": "miss",
    }
    assert ccache_by_file(tmp_path / "none") == {}
