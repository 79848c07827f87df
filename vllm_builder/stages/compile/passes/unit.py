"""One call of nvcc, pass by pass."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vllm_builder.stages.compile.passes.kept import Kept, Names, digest
from vllm_builder.stages.compile.passes.reading import Failed, Passes, Unfamiliar

_QUADS = re.compile(rb'(?:"\.quad [0-9a-fx, ]*\\n"\n)+')
_ARRAY = re.compile(rb"fatbinData\[(\d+)\]")
_ARCH = re.compile(r"-D__CUDA_ARCH(_LIST)?__=.*")
_FILE = re.compile(rb'^\t\.file\t".*"$', re.MULTILINE)
_INCBIN = b'.incbin "device.fatbin"'
_ELSEWHERE = re.compile(r"-(I|f(file|macro|debug)-prefix-map=).*")
"""Options of the host's compiler that say where text is found and how places are named: its text is compared itself."""
_NVIDIAS = ("NVVM", "PTXAS", "CICC", "CUDAFE")
"""Variables of such names may speak to the passes."""


class Unit:
    """One call of nvcc."""

    def __init__(self, passes: Passes, kept: Kept, room: Path, tree: str) -> None:
        self.passes, self.kept, self.room, self.tree = passes, kept, room, tree
        self.names = Names(passes.host_text)
        self.files: dict[str, bytes] = {}
        """Content of intermediate files, by the names that nvcc gives them."""

    # -- programs -----------------------------------------------------------------------------
    def run(self, words: Sequence[str], cwd: Path | None = None) -> bytes:
        """Run one program; returns what it said."""
        done = subprocess.run(
            words, cwd=cwd, env=self.passes.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode:
            name = os.path.basename(words[0])  # noqa: PTH119
            ended = re.search(rb"terminated program|signal (\d+)", done.stdout)
            raise Failed(
                name, -done.returncode if done.returncode < 0 else signal.SIGKILL if ended else 0, done.stdout
            )
        return done.stdout

    def identity(self, program: str) -> str:
        """A digest of a program's content, remembered as long as the file is untouched."""
        found = shutil.which(program, path=self.passes.env.get("PATH"))
        if found is None:
            raise Unfamiliar(f"no {program}")
        path = Path(found).resolve()
        stat = path.stat()
        key = digest(
            "program", str(path), *map(str, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))
        )
        known = self.kept.get(key)
        if known is None:
            known = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest().encode()}
            self.kept.put(key, known)
        return known["sha256"].decode()

    def _ids(self, *programs: str) -> list[str]:
        said = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(_NVIDIAS)]
        return [*map(self.identity, programs), *said]

    def _parts_of(self, compiler: str) -> list[str]:
        """The programs that a host compiler runs."""
        parts = [
            self.run([compiler, f"-print-prog-name={name}"]).decode().strip() for name in ("cc1plus", "as")
        ]
        return self._ids(compiler, *parts)

    # -- passes -------------------------------------------------------------------------------
    def preprocess(self, at: int, words: list[str], kind: str) -> None:
        output = words.index("-o") + 1
        own = list(words)
        own[output] = str(self.room / f"{at}.ii")
        if kind:
            own += [kind, "-MF", str(self.room / f"{at}.d"), "-MT", "x"]
        sys.stderr.buffer.write(self.run(own))
        self.files[words[output]] = (self.room / f"{at}.ii").read_bytes()

    def _prepared(self, words: list[str], names: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        """Options with names of our own for intermediate files, and the source's name below the tree.

        ``names``: option -> name. Returns the words, and which of nvcc's names each of ours stands for.
        """
        own, stands = list(words), {}
        for at, word in enumerate(words[:-1]):
            if word in names:
                stands[names[word]] = words[at + 1]
                own[at + 1] = names[word]
            elif word == "--orig_src_path_name" and self.tree and words[at + 1].startswith(self.tree + "/"):
                own[at + 1] = "/tree" + words[at + 1][len(self.tree) :]
            elif word.endswith("_file_name") and word != "--orig_src_file_name":
                raise Unfamiliar(word)
        return own, stands

    def _folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.room))

    def cudafe(self) -> tuple[str, str, Callable[[], bytes], bool]:
        """Returns the digest of its output, the stub's name, the output itself, and whether it depends on an
        architecture."""
        words, stands = self._prepared(
            self.passes.cudafe,
            {
                "--gen_c_file_name": "host.cpp",
                "--stub_file_name": "stub.c",
                "--module_id_file_name": "module_id",
            },
        )
        source, words[-1] = self.files[words[-1]], "host.ii"
        key = digest("cudafe++", self._ids(words[0]), words, self.names.taken_out(source))
        text: list[bytes] = []

        def make() -> dict[str, bytes]:
            folder = self._folder()
            (folder / "host.ii").write_bytes(source)
            said = self.run(words, folder)
            text.append((folder / "host.cpp").read_bytes())
            named = b"yes" if b"__CUDA_ARCH" in text[0] else b""
            return {"said": said, "module_id": (folder / "module_id").read_bytes(), "named": named}

        kept, key = self.kept.answer("cudafe++", key, make, self.names)
        self.files[stands["module_id"]] = kept["module_id"]

        def output() -> bytes:
            if not text:
                make()
            return text[0]

        return key, stands["stub.c"], output, bool(kept["named"])

    def cicc(self, words: list[str]) -> None:
        own, stands = self._prepared(
            words,
            {
                "--include_file_name": "fatbin.c",
                "--module_id_file_name": "module_id",
                "-o": "device.ptx",
                "--gen_c_file_name": "device.c",
                "--stub_file_name": "stub.c",
                "--gen_device_file_name": "device.gpu",
            },
        )
        if own[-2] != "-o":
            raise Unfamiliar("cicc")
        text, own[-3] = self.files[own[-3]], "device.ii"
        library = Path(self.passes.env.get("NVVMIR_LIBRARY_DIR", "")) / "libdevice.10.bc"
        module_id = self.files[stands["module_id"]]
        ids = [*self._ids(own[0]), hashlib.sha256(library.read_bytes()).hexdigest()]
        key = digest(
            "cicc", ids, [*map(os.path.basename, own[:1]), *own[1:]], module_id, self.names.taken_out(text)
        )

        def make() -> dict[str, bytes]:
            folder = self._folder()
            (folder / "device.ii").write_bytes(text)
            (folder / "module_id").write_bytes(module_id)
            said = self.run(own, folder)
            return {"said": said, **{n: (folder / n).read_bytes() for n in ("device.ptx", "stub.c")}}

        kept, _ = self.kept.answer("cicc", key, make, self.names)
        self.files[stands["device.ptx"]] = kept["device.ptx"]
        # The host's text names it without its folder.
        self.files[os.path.basename(stands["stub.c"])] = kept["stub.c"]  # noqa: PTH119

    def ptxas(self, words: list[str]) -> None:
        own, stands = self._prepared(words, {"-o": "device.cubin"})
        inputs = [at for at, word in enumerate(own) if word in self.files]
        if len(inputs) != 1:
            raise Unfamiliar("ptxas")
        text, own[inputs[0]] = self.files[own[inputs[0]]], "device.ptx"
        key = digest("ptxas", self._ids(own[0]), own, text)

        def make() -> dict[str, bytes]:
            folder = self._folder()
            (folder / "device.ptx").write_bytes(text)
            return {"said": self.run(own, folder), "cubin": (folder / "device.cubin").read_bytes()}

        self.files[stands["device.cubin"]] = self.kept.answer("ptxas", key, make, self.names)[0]["cubin"]

    def fatbinary(self) -> tuple[bytes, bytes]:
        """The device code of all architectures, and the host's text about it with the code taken out."""
        own = []
        for number, word in enumerate(self.passes.fatbinary):
            option, _, value = word.rpartition("=")
            if value in self.files:
                name = self.room / f"image-{number}"
                name.write_bytes(self.files[value])
                own.append(f"{option}={name}")
            elif option in {"--create", "--embedded-fatbin"}:
                own.append(
                    f"{option}={self.room / ('device.fatbin' if option == '--create' else 'fatbin.c')}"
                )
            else:
                own.append(word)
        self.run(own)
        code, text = (self.room / "device.fatbin").read_bytes(), (self.room / "fatbin.c").read_bytes()
        length = _ARRAY.search(text)
        if length is None or len(_QUADS.findall(text)) != 1 or int(length[1]) * 8 != len(code):
            raise Unfamiliar("fatbin.c")
        short = _QUADS.sub(
            b'"' + _INCBIN.replace(b'"', rb"\"").replace(b"\\", rb"\\") + rb'\\n"' + b"\n", text
        )
        if b".quad" in short:
            raise Unfamiliar("fatbin.c")
        return code, _ARRAY.sub(b"fatbinData[1]", short)

    def host(self, cudafe: tuple[str, str, Callable[[], bytes], bool], output: str) -> None:
        made_of, stub_name, text, named = cudafe
        code, fatbin_c = self.fatbinary()
        stub = self.files[stub_name]
        words = self.passes.host[:-3]
        folder = self._folder()
        (folder / "stub.c").write_bytes(stub)
        (folder / "fatbin.c").write_bytes(fatbin_c)
        key = self._host_key(words, made_of, stub, fatbin_c, folder, named)

        def make() -> dict[str, bytes]:
            (folder / "host.cpp").write_bytes(text())
            said = self.run([*("-S" if w == "-c" else w for w in words), "host.cpp", "-o", "host.s"], folder)
            assembly = _FILE.sub(b'\t.file\t"host.cpp"', (folder / "host.s").read_bytes(), count=1)
            if assembly.count(_INCBIN) != 1:
                raise Unfamiliar("host.s")
            return {"said": said, "host.s": assembly}

        kept, _ = self.kept.answer("host", key, make, self.names)
        (folder / "host.s").write_bytes(kept["host.s"])
        (folder / "device.fatbin").write_bytes(code)
        assemble = [w for w in words if w not in {"-x", "c++"}]
        self.run([*assemble, "-x", "assembler", "host.s", "-o", "host.o"], folder)
        shutil.copyfile(folder / "host.o", output)

    def _host_key(
        self, words: list[str], made_of: str, stub: bytes, fatbin_c: bytes, folder: Path, named: bool
    ) -> str:
        # What the stub includes of the toolkit, and every macro that counts there.
        directives = b"\n".join(x for x in stub.splitlines() if re.match(rb"#(?! \d)", x)) + b"\n"
        (folder / "headers.cpp").write_bytes(directives)
        headers = self.run([*(w for w in words if w != "-c"), "-E", "-P", "-dD", "headers.cpp"], folder)
        # Macros of the command line have done their work in the preprocessed text.
        done = {word for word in self.passes.host_text if word.startswith("-D")}
        if not named and b"__CUDA_ARCH" not in stub:
            done |= {word for word in words if _ARCH.fullmatch(word)}
        macros = {re.split(r"[=(]", word[2:])[0].encode() for word in done}
        rest = [x for x in headers.splitlines() if not (x.startswith(b"#define ") and x.split()[1] in macros)]
        options = [
            word
            for before, word in zip(["", *words], words, strict=False)
            if word not in done and not _ELSEWHERE.fullmatch(word) and "-isystem" not in {word, before}
        ]
        shared = self.names.taken_out_of({"stub.c": stub})
        stub = shared["stub.c"] if shared else stub
        return digest("host", self._parts_of(words[0]), options, made_of, b"\n".join(rest), stub, fatbin_c)

    def dependencies(self, target: str, count: int) -> None:
        """As nvcc writes them: what any of the passes has read."""
        found: dict[str, None] = {}
        for at in range(count):
            rule = (self.room / f"{at}.d").read_text().replace("\\\n", " ").partition(":")[2]
            found.update(dict.fromkeys(re.findall(r"(?:\\.|\S)+", rule)))
        Path(self.passes.dependencies).write_text(f"{target} : " + " \\\n    ".join(found) + "\n")

    def compile(self, arguments: Sequence[str], threads: int) -> None:
        kind = next((word for word in arguments if word in {"-MD", "-MMD"}), "")
        target = arguments[arguments.index("-MT") + 1] if "-MT" in arguments else self.passes.host[-1]
        texts = [self.passes.host_text, *self.passes.device_texts]
        if bool(kind) != bool(self.passes.dependencies):
            raise Unfamiliar("dependencies")
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(self.preprocess, range(len(texts)), texts, [kind] * len(texts)))
            cudafe = self.cudafe()
            list(pool.map(self.cicc, self.passes.cicc))
            list(pool.map(self.ptxas, self.passes.ptxas))
        self.host(cudafe, self.passes.host[-1])
        if kind:
            self.dependencies(target, len(texts))
