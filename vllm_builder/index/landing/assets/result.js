// The answer: what to type, why, and what the wheel is; or why there is none, and what is nearest.

/** Where the data of the chosen version lies; the text is known only when it came. */
function showResult(state) {
  const { chosen, wish } = state;
  const box = byId("answer");
  if (!chosen.ofVersion.length) {
    box.replaceChildren(make("p", null, "There is no wheel in this channel."));
    return say("There is no wheel in this channel.");
  }
  if (!chosen.fitting.length) return showMisfit(box, state);
  const version = chosen.fitting.map((row) => row.version).sort(newestFirst)[0];
  const files = known.details.get([wish.project, chosen.variant, version].join(" "));
  if (!files) {
    const path = `landing/${wish.project}/${chosen.variant}/${version}.js`;
    box.replaceChildren(make("p", { class: "hint" }, "Loading …"));
    load(path, state.revisions.get(chosen.variant)).then((came) => {
      if (came && known.details.has([wish.project, chosen.variant, version].join(" "))) return refresh();
      const text = `${path} cannot be loaded. Reload the page; if it stays so, \`vllm-builder index rebuild\` makes it anew.`;
      box.replaceChildren(make("p", { class: "notice" }, text));
      return say(text);
    });
    return undefined;
  }
  const fitting = [...files].sort((a, b) => byMachine(a.machines, b.machines))
    .map((file) => ({ ...file, device: chosen.fitting[0].device }))
    .filter((file) => !misfit(file, wish));
  if (!fitting.length) {
    box.replaceChildren(make("p", { class: "notice" }, "The index changed while you were reading. Reload the page."));
    return say("The index changed while you were reading. Reload the page.");
  }
  const { blocks, notes } = state.base
    ? linesFor({ project: wish.project, version, channel: folderOf(chosen), variant: chosen.variant,
        installer: state.installer, python: wish.python, base: state.base, pages: known.index.pages || "", files: fitting })
    : { blocks: [], notes: ["Type the address of this index above to get the line."] };
  const head = make("p", { class: "subject" }, `${wish.project} ${version}`);
  const warnings = [...new Set(fitting.flatMap((file) => warningsOf(file, state)))];
  box.replaceChildren(
    head,
    ...warnings.map((text) => make("p", { class: "notice" }, text)),
    ...blocks.map(codeBlock),
    make("ul", { class: "notes" }, ...[...notes, ...channelNotes(chosen.channel), ...torchNotes(fitting[0], state.installer), ...gpuNotes(fitting[0], wish)]
      .map((note) => make("li", null, note))),
    ...fitting.map((file, at) => factsOf(file, fitting.length > 1, at)));
  return say(`${warnings.join(" ")} Line for ${wish.project} ${version}, variant ${chosen.variant}${blocks.length ? ": " + blocks[0].text : ""}`);
}

/** The channel's folder; a wheel that nobody put into one has that of its version. */
function folderOf(chosen) {
  return chosen.channel === OTHERS ? chosen.fitting[0].own : chosen.channel;
}

function warningsOf(file, state) {
  const found = [];
  if (file.yanked !== null) {
    found.push(`This wheel was withdrawn${file.yanked ? `: “${file.yanked}”.` : "."} An exact pin still installs it; new installations should take another.`);
  }
  if (file.checked.result === "not verified") {
    found.push(`This wheel was published without being verified${file.checked.reason ? `: “${file.checked.reason}”.` : "."}`);
  }
  if (!state.base) found.push("The page does not know its address.");
  return found;
}

function channelNotes(channel) {
  return channel === "nightly" ? ["Nightlies are deleted after a while. What has to install for long should take a release."] : [];
}

function torchNotes(file, installer) {
  if (!file.torch) return [];
  const [version, build] = file.torch.split("+");
  const built = `It was compiled against torch ${file.torch} and works with that version of torch only.`;
  if (!build) return [built];
  const publicly = `${built} The public index has one build of torch ${version}; where that is not +${build},`;
  if (installer === "project") return [`${publicly} give torch an index of its own in the same way: PyTorch's for ${build}.`];
  const itself = installer === "uv" && /^(cu\d+|cpu)$/.test(build) ? ` uv finds it by itself with --torch-backend=${build}.` : "";
  return [`${publicly} install torch ${file.torch} first, from PyTorch's own index for ${build}.${itself}`];
}

function gpuNotes(file, wish) {
  if (!wish.gpu || wish.gpu === "none" || file.device !== "cuda") return [];
  const how = answer(file.archs, wish.capability);
  if (how === "native") return [`It has binary code for ${wish.gpu} (${sm(wish.capability)}).`];
  if (how === "jit") return [`It has no binary code for ${wish.gpu} (${sm(wish.capability)}): the driver compiles it at first use, which takes minutes.`];
  return ["For which GPUs it was compiled is not recorded."];
}

const RESULTS = {
  good: () => "Verified before it was published",
  warnings: (checked) => `Verified before it was published, ${count(checked.warnings, "warning")}`,
  "not verified": (checked) => `Not verified${checked.reason ? ": " + checked.reason : ""}`,
};

function factsOf(file, several, at) {
  const where = encodedPath(file.key);
  const provenance = {
    none: "none",
    unsigned: make("span", null, make("a", { href: where + ".intoto.jsonl" }, "statement"), ", not signed"),
    signed: make("span", null, make("a", { href: where + ".intoto.jsonl" }, "statement"),
      ", signed (", make("code", null, "vllm-builder index check ", make("span", { class: "whole" }, "--provenance")), " verifies it)"),
  }[file.provenance];
  const checked = (RESULTS[file.checked.result] || (() => file.checked.result))(file.checked);
  const rows = [
    ["File", make("a", { href: where, class: "file" }, file.filename)],
    ["Size", bytes(file.size)],
    ["Published", `${moment(file.uploaded * 60000)}, ${ago(file.uploaded * 60000)}`],
    ["About", file.summary],
    ["GPU architectures", codes(file.archs)
      || (file.device === "cuda" ? "not recorded" : "")],
    ["CUDA", file.cuda],
    ["torch", file.torch],
    ["Python", `${file.pythons.length ? spans(file.pythons) : "other"}${file.requires_python ? ` (Requires-Python ${file.requires_python})` : ""}`],
    ["Machine", file.machines.join(", ") || "any"],
    ["Commit", file.commit && make("code", null, file.commit)],
    ["Verification", checked],
    ["Provenance", provenance],
    ["sha256", make("code", { class: "digest" }, file.sha256)],
  ].filter(([, value]) => value);
  const list = make("dl", { class: "facts" }, ...rows.flatMap(([name, value]) => [make("dt", null, name), make("dd", null, value)]));
  if (!several) return list;
  return make("details", { class: "file-facts", open: at === 0 }, make("summary", null, file.filename), list);
}

function showMisfit(box, state) {
  const { chosen, wish, rows } = state;
  const have = [wish.gpu && (wish.gpu === "none" ? "a machine without GPU" : `${wish.gpu} (${sm(wish.capability)})`),
    wish.python && `Python ${wish.python}`, wish.machine].filter(Boolean).join(", ");
  // Of a variant that was asked for, why it does not fit; otherwise of each.
  const one = wish.variant === chosen.variant || chosen.variants.length === 1;
  const what = `No wheel of ${wish.project} ${chosen.version}${one ? ` for ${chosen.variant}` : ""} fits ${have}`;
  const reasons = new Map();
  for (const row of one ? chosen.ofVariant : [...chosen.ofVersion].sort((a, b) => byVariant(a.variant, b.variant))) {
    const reason = misfit(row, wish);
    reasons.set(reason, (reasons.get(reason) || new Set()).add(row.variant));
  }
  const why = [...reasons].map(([reason, variants]) => (one ? reason : `${[...variants].sort(byVariant).join(", ")}: ${reason}`)).join("; ");
  const near = nearest(rows, wish, chosen);
  const parts = [make("p", { class: "notice" }, `${what}: ${why}.`)];
  let then = "";
  if (near) {
    then = `Nearest: ${near.label} for ${near.variant}, of ${day(near.uploaded)}`;
    const button = make("button", { type: "button", class: "primary" }, "Choose it");
    button.addEventListener("click", () => {
      const channel = inChannel(near, chosen.channel) ? chosen.channel : near.channels[0] || OTHERS;
      wishFor({ channel, version: near.label, variant: near.variant });
      byId("result-title").focus();
    });
    parts.push(make("p", null, then + "."), button);
  } else {
    then = `No wheel of ${wish.project} in this index fits.`;
    parts.push(make("p", null, then));
  }
  box.replaceChildren(...parts);
  say(`${what}: ${why}. ${then}`);
}

let spoken = "";
/** For those who hear the page; said once the choice rests. */
function say(text) {
  spoken = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { byId("said").textContent = spoken; }, 150);
}
