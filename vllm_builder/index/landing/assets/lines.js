// What to type. An exact version with a local part is found nowhere but here: public indexes take none. Dependencies come
// from the public index.

const INSTALLERS = [
  ["pip", "pip"],
  ["uv", "uv pip"],
  ["project", "uv project"],
  ["requirements", "requirements.txt"],
];

/** As shlex.quote: what a shell takes for one word. */
function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : "'" + word.replaceAll("'", "'\"'\"'") + "'";
}

/** pip passes over plain http, but for this very computer. */
function untrusted(base) {
  const url = new URL(base);
  const own = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(url.hostname);
  return url.protocol === "http:" && !own ? url.host : "";
}

function encodedPath(key) {
  return key.split("/").map(encodeURIComponent).join("/");
}

/**
 * Blocks ({title, text, copy}) and notes for the files of one version and variant.
 *
 * @param choice project, version (with its local part), channel, variant, installer, python, base and pages (end in a slash, or empty), files
 */
function linesFor(choice) {
  const { project, version, base, files } = choice;
  const address = base + choice.pages + choice.channel + "/" + choice.variant + "/";
  const pin = project + "==" + version;
  const host = untrusted(base);
  const trust = host ? " --trusted-host " + host : "";
  const local = version.includes("+");
  const only = files.length === 1 ? files[0] : null;
  const direct = only && `${project} @ ${base}${encodedPath(only.key)}#sha256=${only.sha256}`;
  const more = "Several files of this version fit. Choose your Python and machine: the line names one file.";
  const notes = [];
  const blocks = [];
  if (host && ["pip", "requirements"].includes(choice.installer)) {
    notes.push("The address is plain http, which pip only takes with --trusted-host: whoever stands in between can change what arrives.");
  }
  if (choice.installer === "pip") {
    if (local) {
      blocks.push({ title: "pip", text: `pip install ${quoted(pin)} --extra-index-url ${quoted(address)}${trust}` });
      notes.push(`Dependencies come from the public index. ${pin} can only come from here: no public index takes a version with “+”.`);
    } else if (direct) {
      blocks.push({ title: "pip", text: `pip install ${quoted(direct)}` });
      notes.push("The version has no local part, so the public index may have one of the same name. The line names the file itself, and pip checks its sha256.");
    } else {
      notes.push(more);
    }
  } else if (choice.installer === "uv") {
    blocks.push({ title: "uv", text: `uv pip install ${quoted(pin)} --index ${quoted(address)}` });
    notes.push(`uv takes ${project} from this index, and what this index does not have from the public one.`);
  } else if (choice.installer === "project") {
    blocks.push({ title: "pyproject.toml", text: projectFile(choice, address, pin, only) });
    blocks.push({ title: "Then", text: "uv sync" });
    notes.push(`“explicit” keeps this index to ${project} alone. In a project that exists, add these lines to what is there.`);
  } else {
    if (direct) {
      blocks.push({ title: "The file itself, checked by its sha256", text: direct });
      notes.push("Works in any requirements.txt, with pip and uv; dependencies come from the public index.");
    } else {
      notes.push(more);
    }
    const hashes = files.map((file) => ` \\\n    --hash=sha256:${file.sha256}`).join("");
    blocks.push({
      title: "Where every requirement has its hash (--require-hashes)",
      text: `--extra-index-url ${address}\n${host ? "--trusted-host " + host + "\n" : ""}${pin}${hashes}`,
    });
  }
  return { blocks, notes };
}

function projectFile(choice, address, pin, only) {
  const name = `${choice.project}-${choice.channel}-${choice.variant}`.replace(/[^a-z0-9-]+/g, "-");
  const python = choice.python ? `==${choice.python}.*` : (only || choice.files[0]).requires_python;
  const text = JSON.stringify; // a TOML string, for what stands in an address, a version or a specifier
  return [
    "[project]",
    'name = "my-project"',
    'version = "0.1.0"',
    ...(python ? [`requires-python = ${text(python)}`] : []),
    `dependencies = [${text(pin)}]`,
    "",
    "[[tool.uv.index]]",
    `name = ${text(name)}`,
    `url = ${text(address)}`,
    "explicit = true",
    "",
    "[tool.uv.sources]",
    `${choice.project} = { index = ${text(name)} }`,
  ].join("\n");
}
