"""What the page for people costs: to publish one more wheel, and to use it, against the number of wheels.

    python benchmarks/landing_page.py                     # 100, 1000 and 5000 wheels
    python benchmarks/landing_page.py --wheels 20000

The index is made of entries without wheels: only what is written for the page is measured, and the whole change beside it.
The page is opened in Chromium without a window, from files. Times are medians in milliseconds; on a busy machine look at
the ratios between the columns. Needs playwright and a Chromium in PATH.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from vllm_builder.index import landing
from vllm_builder.index.manifest import Draft, commit, load
from vllm_builder.index.model import Facts, File
from vllm_builder.index.storage.folder import Folder
from vllm_builder.index.transaction import change

VARIANTS = {
    "cu126": ("7.0", "7.5", "8.0", "8.6", "8.9", "9.0a"),
    "cu129": ("8.0", "8.6", "8.9", "9.0a", "10.0a"),
    "cu130": ("8.0", "8.6", "8.9", "9.0a", "10.0f", "12.0f"),
    "cpu": (),
}


def entry(number: int, variant: str, at: datetime) -> File:
    sha1 = hashlib.sha1(str(number).encode()).hexdigest()
    if number % 50:
        version, channels = (
            f"0.{number // 50}.0.dev{number % 50}+g{sha1[:9]}.{variant}",
            ("nightly", sha1),
        )
    else:
        version, channels = f"0.{number // 50}.0+{variant}", ("release", f"0.{number // 50}.0")
    return File(
        filename=f"vllm-{version}-cp38-abi3-manylinux_2_28_x86_64.whl",
        project="vllm",
        version=version,
        sha256=hashlib.sha256(version.encode()).hexdigest(),
        size=400_000_000,
        uploaded=at,
        metadata_sha256=hashlib.sha256(sha1.encode()).hexdigest(),
        requires_python=">=3.10,<3.14",
        channels=tuple(sorted(channels)),
        facts=Facts(
            archs=VARIANTS[variant], torch=f"2.11.0+{variant}", commit=sha1, summary="An engine " * 8
        ),
    )


def build(folder: Path, wheels: int) -> Folder:
    storage = Folder(folder)
    begun = datetime.now(UTC) - timedelta(days=400)

    def fill(draft: Draft) -> None:
        for at in range(wheels):
            variant = list(VARIANTS)[at % len(VARIANTS)]
            one = entry(at // len(VARIANTS), variant, begun + timedelta(minutes=at))
            draft.files("vllm", variant)[one.filename] = one

    # Pages of every version and commit are not what is measured: the manifest and the landing page are enough.
    commit(storage, fill)
    snapshot = load(storage)
    assert snapshot is not None
    for key, content, _ in landing.objects(storage, snapshot):
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    shutil.rmtree(folder / "journal")
    return storage


def publish_one(storage: Folder, wheels: int, times: int = 5) -> tuple[float, float]:
    """Milliseconds of the whole change, and of the landing page in it."""
    whole, page = [], []
    real = landing.write

    def timed(*arguments: object) -> int:
        begun = time.perf_counter()
        done = real(*arguments)  # type: ignore[arg-type]
        page.append((time.perf_counter() - begun) * 1000)
        return done

    landing.write = timed
    try:
        for at in range(times):
            one = entry(wheels + at, "cu130", datetime.now(UTC))

            def add(draft: Draft, one: File = one) -> None:
                draft.files("vllm", "cu130")[one.filename] = one

            begun = time.perf_counter()
            change(storage, add)
            whole.append((time.perf_counter() - begun) * 1000)
    finally:
        landing.write = real
    return statistics.median(whole), statistics.median(page)


def use(page: Page, address: str) -> dict[str, float]:
    """Milliseconds until the page is there, and until a choice is answered: what the main thread was busy with."""
    loads, picks = [], {"gpu": "V100", "python": "3.12", "version": ""}
    for _ in range(5):
        page.goto("about:blank")
        begun = time.perf_counter()
        page.goto(address)
        page.locator("#answer pre").first.wait_for()
        loads.append((time.perf_counter() - begun) * 1000)
    found = {"open": statistics.median(loads)}
    for name, value in picks.items():
        spent = []
        for turn in range(5):
            # In one task of the page, so that the way there and back is not measured; with style and layout.
            spent.append(
                page.evaluate(
                    """([name, value, turn]) => {
                        const select = document.getElementById(name);
                        const fit = [...select.options].filter((one) => !one.disabled && one.value);
                        select.value = turn % 2 ? (fit[turn] || fit[0]).value : value || fit[0].value;
                        const begun = performance.now();
                        select.dispatchEvent(new Event('change'));
                        document.body.getBoundingClientRect();
                        return performance.now() - begun;
                    }""",
                    [name, value, turn],
                )
            )
            page.wait_for_timeout(100)
        found[f"choose {name}"] = statistics.median(spent)
    return found


def kilobytes(folder: Path, *patterns: str) -> float:
    return sum(path.stat().st_size for pattern in patterns for path in folder.glob(pattern)) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--wheels", type=int, action="append")
    counts: list[int] = parser.parse_args().wheels or [100, 1000, 5000]
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    columns: list[dict[str, float]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for count in counts:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                storage = build(folder, count)
                whole, page = publish_one(storage, count)
                columns.append(
                    {
                        "publish one: all": whole,
                        "publish one: page": page,
                        **use(browser.new_page(), (folder / "index.html").as_uri()),
                        "kB loaded": kilobytes(folder, "landing/*.*", "landing/*/*/index.js"),
                    }
                )
        browser.close()
    print(f"{'wheels':<20}" + "".join(f"{count:>10}" for count in counts))
    for row in columns[0]:
        print(f"{row:<20}" + "".join(f"{column[row]:>10.1f}" for column in columns))


if __name__ == "__main__":
    main()
