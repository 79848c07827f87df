"""nvcc with a cache for each of its passes: what is compiled for one architecture serves every list that has it.

It stands between ccache and nvcc, is started by path, with the standard library alone, as

    python -I -S -B passes.py NVCC ARGUMENT...

and does what ``nvcc --dryrun`` says that nvcc would do, pass by pass. Preprocessing is done each time, once for the host
and once for each architecture. What the other passes make depends on their preprocessed text, their options
and their programs, and is kept under a digest of these: so an edit that only one architecture sees compiles that one,
and an architecture that is added costs its own passes.

Two things make passes of different lists and folders the same:

- The host's object holds the device code, as numbers in a text that the host's compiler only hands on to the
  assembler. Here it is told to include a file instead (``.incbin``), so its assembly text is the same for any device code.
- nvcc derives names of internal symbols from the source's absolute path. Here it is the path below the tree.

CCCL's headers (thrust, cub; torch includes them) put their names into a namespace that is called after all
architectures: THRUST_300001_SM_1000_1200_NS. What is kept of one list is taken for another if the text differs in
nothing but this name, and only what does not hold it in any form that can be read. A unit that does hold it is compiled again.

Whatever does not look as it is known to look (another order of passes, debug information, relocatable device
code) is left to nvcc, and so is what fails: nvcc then says why.

Set for it: VLLM_BUILDER_PASSES, a folder for what is kept; VLLM_BUILDER_PASSES_TREE, VLLM_BUILDER_PASSES_LOG.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

VERSION = "1"
"""Part of every digest: change it with whatever changes what is kept."""

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)")
_PLAIN = re.compile(
    r"-(rdc|dc|dw|dlto|G|g|ggdb.*|g[0-9]|lineinfo|M|MM|keep|ptx|cubin|fatbin|cuda|E|run|link|lib|gen-opt-lto)(=.*)?|"
    r"--(relocatable-device-code|device-c|device-w|device-debug|debug|generate-line-info|keep|dryrun|.*dependencies)(=.*)?"
)
_QUADS = re.compile(rb'(?:"\.quad [0-9a-fx,]*\\n"\n)+')
_ARRAY = re.compile(rb"fatbinData\[(\d+)\]")
_ARCH = re.compile(r"-D__CUDA_ARCH(_LIST)?__=.*")
_FILE = re.compile(rb'^\t\.file\t".*"$', re.MULTILINE)
_INCBIN = b'.incbin "device.fatbin"'
_CCCL = re.compile(rb"\b(?:THRUST|CUB)_\d+$")
_ELSEWHERE = re.compile(r"-(I|f(file|macro|debug)-prefix-map=).*")
"""Options of the host's compiler that say where text is found and how places are named: its text is compared itself."""
_NVIDIAS = ("NVVM", "PTXAS", "CICC", "CUDAFE")
"""Variables of such names may speak to the passes."""


class Unfamiliar(Exception):
    """nvcc has to do this itself."""


class Failed(Exception):
    """A pass failed; ``number`` is the signal that ended it, or 0."""

    def __init__(self, program: str, number: int = 0) -> None:
        super().__init__(program)
        self.number = number


@dataclass
class Passes:
    """What nvcc would run, by kind."""

    env: dict[str, str] = field(default_factory=dict)
    device_texts: list[list[str]] = field(default_factory=list)
    host_text: list[str] = field(default_factory=list)
    cudafe: list[str] = field(default_factory=list)
    cicc: list[list[str]] = field(default_factory=list)
    ptxas: list[list[str]] = field(default_factory=list)
    fatbinary: list[str] = field(default_factory=list)
    host: list[str] = field(default_factory=list)
    dependencies: str = ""


def read(said: str, environ: Mapping[str, str]) -> Passes:
    """Understand what ``nvcc --dryrun`` prints.

    Raises:
        Unfamiliar: it holds something else, or several of what there is one of.
    """
    found = Passes(env=dict(environ))
    for line in said.splitlines():
        if not line.startswith("#$ "):
            raise Unfamiliar(line)
        text = line[3:].strip()
        if assigned := _ASSIGNMENT.fullmatch(text):
            if not assigned[1].startswith("_") or assigned[1] == "_NVVM_BRANCH_":
                found.env[assigned[1]] = assigned[2]
        elif text.startswith("-- Filter Dependencies -- > "):
            found.dependencies = text.split(" > ", 1)[1].strip('"')
        elif not text.startswith(("rm ", "erase ")) and text:
            _sort(text.replace("$CICC_PATH", found.env.get("CICC_PATH", "")), found)
    if not (found.host_text and found.cudafe and found.cicc and found.fatbinary and found.host):
        raise Unfamiliar("a pass is missing")
    return found


def _sort(text: str, found: Passes) -> None:
    if set(text) & set("$`|<>;&"):
        raise Unfamiliar(text)
    words = shlex.split(text)
    name = os.path.basename(words[0])  # noqa: PTH119 (this has to start quickly)
    single: str | None = None
    if name in {"cicc", "ptxas"}:
        getattr(found, name).append(words)
    elif name in {"fatbinary", "cudafe++"}:
        single = name.removesuffix("++")
    elif "-E" in words and "-o" in words:
        if any(word.startswith("-D__CUDA_ARCH__=") for word in words):
            found.device_texts.append(words)
        else:
            single = "host_text"
    elif "-c" in words and "-o" in words and words[-3].endswith(".cudafe1.cpp"):
        single = "host"
    else:
        raise Unfamiliar(text)
    if single is not None:
        if getattr(found, single):
            raise Unfamiliar(f"{name} twice")
        setattr(found, single, words)


class Kept:
    """A folder of results under digests. An entry is whole or is not there; a damaged one is not there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hits = 0
        self.misses = 0
        self.made: list[str] = []

    def get(self, key: str) -> dict[str, bytes] | None:
        try:
            path = self._path(key)
            raw = path.read_bytes()
            os.utime(path)
            sizes, _, packed = raw.partition(b"\n")
            data = zlib.decompress(packed)
            out, at = {}, 0
            for name, size in json.loads(sizes).items():
                out[name], at = data[at : at + size], at + size
        except (OSError, ValueError, AttributeError, zlib.error):
            return None
        return out

    def put(self, key: str, files: Mapping[str, bytes]) -> None:
        path = self._path(key)
        head = json.dumps({name: len(data) for name, data in files.items()}).encode()
        # A full disk keeps nothing; the compilation goes on.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, half = tempfile.mkstemp(dir=path.parent, prefix="half-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(head + b"\n" + zlib.compress(b"".join(files.values()), 1))
                os.replace(half, path)  # noqa: PTH105
            except OSError:
                os.unlink(half)  # noqa: PTH108
                raise

    def answer(
        self, kind: str, key: str, make: Callable[[], dict[str, bytes]], names: Names
    ) -> tuple[dict[str, bytes], str]:
        """What is kept under a digest, else what ``make`` makes; what its program said is said again.

        Args:
            key: the digest of all that it is made of, but for ``names``.

        Returns:
            It, and the digest that it has: another one where it holds one of the names.
        """
        found, exact = self.get(key), digest(key, names.archs)
        if found is not None and "exact" in found:
            found, key = self.get(exact), exact
        if found is None:
            self.misses += 1
            self.made.append(kind)
            found = make()
            if key != exact and names.held(found):
                self.put(key, {"exact": b"yes"})
                key = exact
            self.put(key, found)
        else:
            self.hits += 1
        sys.stderr.buffer.write(found.get("said", b""))
        return found, key

    def _path(self, key: str) -> Path:
        return self.root / key[:2] / key[2:]


class Names:
    """The names of namespaces that hold the list of architectures."""

    def __init__(self, words: Sequence[str]) -> None:
        lists = [word.partition("=")[2] for word in words if word.startswith("-D__CUDA_ARCH_LIST__=")]
        self.archs = "_SM_" + "_".join(lists).replace(",", "_")
        self._found = re.compile(re.escape(self.archs.encode()) + rb"(?=(?:_NS)?(?!\w))")

    def taken_out(self, text: bytes) -> bytes:
        """``text`` with each such name as it would be for any list."""
        return self._found.sub(
            lambda m: b"_SM_@" if _CCCL.search(text, max(0, m.start() - 24), m.start()) else m[0], text
        )

    def held(self, files: Mapping[str, bytes]) -> bool:
        """Whether one is in the files in any way, as part of a symbol too."""
        return any(self.archs.encode() in data for data in files.values())


def digest(*parts: bytes | str | Sequence[str]) -> str:
    total = hashlib.sha256(VERSION.encode())
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part).encode()
        total.update(b"%d:" % len(data) + data)
    return total.hexdigest()


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
            raise Failed(name, -done.returncode if done.returncode < 0 else signal.SIGKILL if ended else 0)
        return done.stdout

    def identity(self, program: str) -> str:
        """A digest of a program's content, remembered as long as the file is untouched."""
        found = shutil.which(program, path=self.passes.env.get("PATH"))
        if found is None:
            raise Unfamiliar(f"no {program}")
        path = Path(found).resolve()
        stat = path.stat()
        key = digest("program", str(path), *map(str, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)))
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
        parts = [self.run([compiler, f"-print-prog-name={name}"]).decode().strip() for name in ("cc1plus", "as")]
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
            {"--gen_c_file_name": "host.cpp", "--stub_file_name": "stub.c", "--module_id_file_name": "module_id"},
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
                **{"--include_file_name": "fatbin.c", "--module_id_file_name": "module_id", "-o": "device.ptx"},
                **{"--gen_c_file_name": "device.c", "--stub_file_name": "stub.c"},
                "--gen_device_file_name": "device.gpu",
            },
        )
        if own[-2] != "-o":
            raise Unfamiliar("cicc")
        text, own[-3] = self.files[own[-3]], "device.ii"
        library = Path(self.passes.env.get("NVVMIR_LIBRARY_DIR", "")) / "libdevice.10.bc"
        module_id = self.files[stands["module_id"]]
        ids = [*self._ids(own[0]), hashlib.sha256(library.read_bytes()).hexdigest()]
        key = digest("cicc", ids, [*map(os.path.basename, own[:1]), *own[1:]], module_id, self.names.taken_out(text))

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
                own.append(f"{option}={self.room / ('device.fatbin' if option == '--create' else 'fatbin.c')}")
            else:
                own.append(word)
        self.run(own)
        code, text = (self.room / "device.fatbin").read_bytes(), (self.room / "fatbin.c").read_bytes()
        length = _ARRAY.search(text)
        if length is None or len(_QUADS.findall(text)) != 1 or int(length[1]) * 8 != len(code):
            raise Unfamiliar("fatbin.c")
        short = _QUADS.sub(b'"' + _INCBIN.replace(b'"', rb"\"").replace(b"\\", rb"\\") + rb'\\n"' + b"\n", text)
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
        options = [word for word in words if word not in done and not _ELSEWHERE.fullmatch(word)]
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


def _threads(arguments: Sequence[str]) -> int:
    for at, word in enumerate(arguments):
        name, _, value = word.partition("=")
        if name in {"-t", "--threads", "-threads"}:
            value = value or "".join(arguments[at + 1 : at + 2])
            return max(1, int(value)) if value.isdigit() and int(value) else os.cpu_count() or 1
    return 1


def compile_unit(command: list[str], kept: Kept, tree: str) -> None:
    """Compile as ``command``, nvcc with arguments, would.

    Raises:
        Unfamiliar, Failed: it is to be left to nvcc, or failed.
    """
    if "-c" not in command or any(map(_PLAIN.fullmatch, command)):
        raise Unfamiliar("not a plain compilation")
    dry = subprocess.run([*command, "--dryrun"], capture_output=True, text=True, check=False)
    if dry.returncode:
        raise Failed("nvcc")
    passes = read(dry.stderr, os.environ)
    if any(re.match(r"-g(?!nu|cc|c)", word) for word in passes.host):
        raise Unfamiliar("debug information")
    with tempfile.TemporaryDirectory(prefix="passes-") as room:
        Unit(passes, kept, Path(room), tree).compile(command, _threads(command))


def main(command: list[str]) -> int:
    folder, log = os.environ.get("VLLM_BUILDER_PASSES"), os.environ.get("VLLM_BUILDER_PASSES_LOG")
    if not folder or os.path.basename(command[0]) != "nvcc":  # noqa: PTH119
        os.execvp(command[0], command)
    kept = Kept(Path(folder))
    left, number = "", 0
    try:
        compile_unit(command, kept, os.environ.get("VLLM_BUILDER_PASSES_TREE", ""))
    except Failed as failed:
        left, number = f"failed: {failed}", failed.number
    except (Unfamiliar, OSError, ValueError, IndexError, KeyError) as error:
        left = f"{type(error).__name__}: {error}"
    if log:
        line = {"left": left, "hits": kept.hits, "misses": kept.misses, "made": kept.made}
        with contextlib.suppress(OSError), open(log, "a") as file:  # noqa: PTH123
            file.write(json.dumps(line) + "\n")
    if number:
        # In nvcc's words. It would only be killed once more.
        print(f"nvcc error   : '{left[8:]}' died due to signal {number}", file=sys.stderr)
        return number
    if left:
        os.execvp(command[0], command)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
