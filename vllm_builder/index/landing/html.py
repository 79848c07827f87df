"""The page itself, and what a browser without JavaScript gets."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Final

from vllm_builder.index import layout
from vllm_builder.index.landing import data
from vllm_builder.index.model import File, Root, Shard

_FOLDER: Final = Path(__file__).parent / "assets"
_SCRIPTS: Final = ("rules.js", "choosing.js", "lines.js", "controls.js", "result.js", "main.js")
"""In one file, in this order: modules cannot be loaded by a page that was opened as a file."""
_VERSIONS_SHOWN: Final = 50


@dataclass(frozen=True, slots=True)
class Asset:
    key: str
    content: bytes


@cache
def assets() -> tuple[Asset, Asset]:
    """The script and the style sheet."""
    gpus = json.dumps(data.gpus(), separators=(",", ":"))
    parts = [(_FOLDER / name).read_text("utf-8") for name in _SCRIPTS]
    body = "\n".join(parts)
    script = f'"use strict";\n(() => {{\nconst GPUS = {gpus};\nconst FORMAT = {data.FORMAT};\n{body}}})();\n'
    return _asset("page", "js", script), _asset("page", "css", (_FOLDER / "page.css").read_text("utf-8"))


def page(root: Root) -> bytes:
    """``index.html``."""
    script, style = assets()
    plain = "".join(
        f'<li><a href="{layout.LANDING}{escape(ref.project)}/{escape(ref.variant)}/index.html">'
        f"{escape(ref.project)} for {escape(ref.variant)}</a>: {_count(ref.files)}</li>\n"
        for ref in root.shards
        if ref.files
    )
    text = (_FOLDER / "index.html").read_text("utf-8")
    for name, value in {
        "REVISION": str(root.revision),
        "STYLE": style.key,
        "SCRIPT": script.key,
        "DATA": f"{layout.LANDING}index.js?r={root.revision}",
        "PLAIN": f"<ul>\n{plain}</ul>" if plain else "<p>Nothing has been published yet.</p>",
    }.items():
        text = text.replace(f"@{name}@", value)
    return text.encode()


def variant(shard: Shard, revision: int) -> bytes:
    """``landing/PROJECT/VARIANT/index.html``: links to the pages of its channels."""
    channels: dict[str, list[File]] = {}
    for file in shard.files:
        for channel in data.named_channels(file):
            channels.setdefault(channel, []).append(file)
    own: dict[str, list[File]] = {}
    for file in shard.files:
        public = file.version.partition("+")[0].replace("!", "-")
        if public in file.channels:
            own.setdefault(public, []).append(file)
    newest = sorted(own, key=lambda name: data.sortable(name.replace("-", "!")), reverse=True)
    text = (_FOLDER / "variant.html").read_text("utf-8")
    for name, value in {
        "REVISION": str(revision),
        "STYLE": "../../../" + assets()[1].key,
        "TITLE": f"{escape(shard.project)} for {escape(shard.variant)}",
        "PROJECT": escape(shard.project),
        "VARIANT": escape(shard.variant),
        "CHANNELS": _links(shard, channels, sorted(channels)),
        "VERSIONS": _links(shard, own, newest[:_VERSIONS_SHOWN]),
    }.items():
        text = text.replace(f"@{name}@", value)
    return text.encode()


def _links(shard: Shard, channels: dict[str, list[File]], names: list[str]) -> str:
    lines = []
    for name in names:
        files = channels[name]
        latest = max(file.uploaded for file in files)
        target = layout.relative(layout.folder_of(name, shard.variant, shard.project) + layout.HTML, "a/b/c/")
        lines.append(
            f'<li><a href="{escape(target)}">{escape(name)}</a>: {_count(len(files))}, '
            f"the newest of {latest:%Y-%m-%d %H:%M} UTC</li>\n"
        )
    return f"<ul>\n{''.join(lines)}</ul>" if lines else "<p>None.</p>"


def _count(files: int) -> str:
    return "1 wheel" if files == 1 else f"{files} wheels"


def _asset(stem: str, ending: str, text: str) -> Asset:
    # It is marked as what a program wrote, of no revision: one of an older program is known as such, and cleared away.
    content = ('/* "_revision": 0 */\n' + text).encode()
    digest = hashlib.sha256(content).hexdigest()[:16]
    return Asset(f"{layout.LANDING}{stem}-{digest}.{ending}", content)
