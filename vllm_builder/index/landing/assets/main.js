// The state of the page: what is wished for, kept in the address, and what follows from it.

const STALE_HOURS = 48;
const WISHES = ["project", "gpu", "python", "machine", "channel", "version", "variant", "installer"];
const LONGEST = 200;

let wishes = {};
let current = null;

function readAddress() {
  const found = {};
  let given;
  try {
    given = new URLSearchParams(location.hash.slice(1));
  } catch {
    return found;
  }
  for (const name of WISHES) {
    const value = given.get(name);
    if (value && value.length <= LONGEST) found[name] = value;
  }
  return found;
}

function addressOf(values) {
  const written = new URLSearchParams();
  for (const name of WISHES) if (values[name]) written.set(name, values[name]);
  const text = written.toString();
  return location.href.split("#")[0] + (text ? "#" + text : "");
}

/** Changes what is wished for, and all that follows. */
function wishFor(change) {
  wishes = { ...wishes, ...change };
  history.replaceState(null, "", addressOf(wishes));
  refresh();
}

/** The address that installers are given; ends in a slash. Empty where the one that was typed cannot be one. */
function baseAddress() {
  const own = new URL(".", location.href);
  own.hash = own.search = own.username = own.password = "";
  const typed = byId("address").value.trim();
  if (byId("address-field").hidden || !typed) return own.href;
  try {
    const url = new URL(typed);
    if (!["http:", "https:", "file:"].includes(url.protocol)) return "";
    url.hash = url.search = url.username = url.password = "";
    return url.href.replace(/(index\.html)?$/, "").replace(/\/*$/, "/");
  } catch {
    return "";
  }
}

/** What an address asked for and is not there: said, not passed over. */
function missing(effective) {
  return WISHES.filter((name) => wishes[name] && wishes[name] !== effective[name])
    .map((name) => `${name} ${wishes[name].slice(0, 60)}`);
}

function gpuNamed(name) {
  const found = GPUS.find((one) => one.names.includes(name));
  return found ? found.capability : "";
}

async function refresh() {
  const projects = [...new Set(known.index.shards.filter((one) => one[2]).map((one) => one[0]))];
  byId("empty").hidden = projects.length > 0;
  byId("work").hidden = !projects.length;
  if (!projects.length) return;
  const project = projects.includes(wishes.project) ? wishes.project : projects.includes("vllm") ? "vllm" : projects[0];
  const shards = known.index.shards.filter((one) => one[0] === project && one[2]);
  if (!current || current.project !== project) {
    const came = await Promise.all(shards.map(([, variant, , revision]) => load(`landing/${project}/${variant}/index.js`, revision)));
    const missing = shards.filter((_, at) => !came[at]).map(([, variant]) => `landing/${project}/${variant}/index.js`);
    if (missing.length) trouble(`${missing.join(", ")} cannot be loaded, so what it lists is missing here. Reload the page in a moment; if it stays so, \`vllm-builder index rebuild\` makes it anew.`);
    current = {
      project,
      rows: shards.flatMap(([, variant]) => { const list = known.lists.get(project + " " + variant); return list ? rowsOf(list) : []; }),
      revisions: new Map(shards.map(([, variant, , revision]) => [variant, revision])),
    };
    showChannels(project, current.rows);
  }
  const rows = current.rows;
  if (!rows.length) return;
  const machines = [...new Set(rows.flatMap((row) => row.machines))].sort();
  const wish = {
    ...wishes,
    project,
    capability: gpuNamed(wishes.gpu),
    gpu: wishes.gpu === "none" || gpuNamed(wishes.gpu) ? wishes.gpu : "",
    python: rows.some((row) => row.pythons.includes(wishes.python)) ? wishes.python : "",
    machine: machines.includes(wishes.machine) ? wishes.machine : "",
  };
  const chosen = choose(rows, wish);
  const installer = INSTALLERS.some(([name]) => name === wishes.installer) ? wishes.installer : "pip";
  showForm(projects, machines, rows, wish, chosen, installer);
  current.whole = { ...wish, channel: chosen.channel, version: chosen.version, variant: chosen.variant, installer };
  byId("missing").textContent = missing(current.whole).length ? `Not to be had here: ${missing(current.whole).join(", ")}. This is what comes nearest.` : "";
  byId("missing").hidden = !byId("missing").textContent;
  showResult({ rows, wish, chosen, installer, base: baseAddress(), revisions: current.revisions });
}

function showForm(projects, machines, rows, wish, chosen, installer) {
  byId("project-field").hidden = projects.length < 2;
  setSelect(byId("project"), projects.map((name) => ({ value: name, text: name })), wish.project);
  setSelect(byId("gpu"), [
    { value: "", text: "any, or not known" },
    { value: "none", text: "no GPU" },
    ...GPUS.flatMap((one) => one.names.map((name) => ({ value: name, text: name, group: `${one.family}, ${sm(one.capability)}` }))),
  ], wish.gpu);
  const pythons = [...new Set(rows.flatMap((row) => row.pythons))].sort((a, b) => +b.slice(2) - +a.slice(2));
  setSelect(byId("python"), [{ value: "", text: "any" }, ...pythons.map((one) => ({ value: one, text: one }))], wish.python);
  byId("machine-field").hidden = machines.length < 2;
  setSelect(byId("machine"), [{ value: "", text: "any" }, ...machines.map((one) => ({ value: one, text: one }))], wish.machine);
  setChips(byId("channel"), chosen.channels.map((name) => ({ value: name, text: name === OTHERS ? "by version" : name })), chosen.channel);
  setSelect(byId("version"), chosen.versions.map((label) => versionOption(label, wish, chosen)), chosen.version);
  const unfit = chosen.versions.filter((label) => chosen.byLabel.get(label).every((row) => misfit(row, wish))).length;
  byId("version-hint").textContent = unfit ? `${unfit} of ${chosen.versions.length} do not fit what you have.` : "";
  const variants = [...new Set(rows.map((row) => row.variant))].sort(byVariant);
  const reasons = new Map();
  setChips(byId("variant"), variants.map((name) => {
    const there = chosen.ofVersion.filter((row) => row.variant === name);
    const why = there.length ? (there.some((row) => !misfit(row, wish)) ? "" : misfit(there[0], wish)) : `there is none of ${chosen.version}`;
    if (why) reasons.set(why, [...(reasons.get(why) || []), name]);
    return { value: name, text: name, off: Boolean(why) && name !== chosen.variant };
  }), chosen.variant);
  byId("variant-hint").textContent = [...reasons].map(([why, names]) => `${names.join(", ")}: ${why}.`).join(" ");
  setChips(byId("installer"), INSTALLERS.map(([value, text]) => ({ value, text })), installer);
}

function versionOption(label, wish, chosen) {
  const rows = chosen.byLabel.get(label);
  const fits = rows.some((row) => !misfit(row, wish));
  const yanked = rows.every((row) => row.yanked);
  const marks = [yanked && "withdrawn", !fits && "does not fit"].filter(Boolean);
  return {
    value: label,
    text: `${label} · ${day(Math.max(...rows.map((row) => row.uploaded)))}${marks.length ? ` (${marks.join(", ")})` : ""}`,
    off: !fits && label !== chosen.version,
  };
}

/** Age and number of what each channel has, variant by variant; a nightly that stopped is marked. */
function showChannels(project, rows) {
  byId("title").textContent = `${project} wheels`;
  document.title = `${project} wheels`;
  const lines = [];
  for (const channel of channelsOf(rows).filter((name) => name !== OTHERS)) {
    const here = rows.filter((row) => inChannel(row, channel) && !row.yanked);
    for (const variant of [...new Set(here.map((row) => row.variant))].sort(byVariant)) {
      const own = here.filter((row) => row.variant === variant);
      const newest = own.reduce((best, row) => (row.uploaded > best.uploaded ? row : best));
      const stale = channel === "nightly" && Date.now() - newest.uploaded > STALE_HOURS * 3600000;
      const target = [channel, variant, project].map(encodeURIComponent).join("/") + "/index.html";
      lines.push(make("tr", { class: stale && "stale" },
        make("th", { scope: "row" }, make("a", { href: target }, `${channel} / ${variant}`)),
        make("td", null, make("span", { class: "version" }, newest.label), " ",
          make("span", { class: "age" }, make("time", { datetime: new Date(newest.uploaded).toISOString() }, ago(newest.uploaded))),
          " ", stale ? make("strong", { class: "badge" }, "stale") : ""),
        make("td", { class: "number" }, String(own.length))));
    }
  }
  byId("channels-body").replaceChildren(...lines);
  byId("channels").hidden = !lines.length;
  byId("channels-note").textContent = rows.some((row) => row.channels.includes("nightly"))
    ? `A nightly counts as stale after ${STALE_HOURS} hours. Withdrawn wheels are not counted.` : "Withdrawn wheels are not counted.";
}

function start() {
  if (!known.index) {
    return trouble("landing/index.js cannot be loaded. `vllm-builder index rebuild` makes it anew.");
  }
  byId("updated").textContent = `${count(known.index.shards.reduce((sum, one) => sum + one[2], 0), "wheel")}. Last change ${moment(known.index.updated * 60000)}.`;
  if (location.protocol === "file:") {
    byId("address-field").hidden = false;
    byId("address").placeholder = baseAddress();
    byId("address-hint").textContent = "This page was opened as a file. Left empty, the lines name this folder and work on this computer only.";
  }
  for (const name of ["project", "gpu", "python", "machine", "version"]) {
    byId(name).addEventListener("change", (event) => {
      wishFor(name === "project" ? { project: event.target.value, channel: "", version: "", variant: "" } : { [name]: event.target.value });
    });
  }
  for (const name of ["channel", "variant", "installer"]) {
    byId(name).addEventListener("change", (event) => {
      // Another channel has other versions: the newest there.
      wishFor({ [name]: event.target.value, ...(name === "channel" ? { version: "" } : {}) });
    });
  }
  byId("address").addEventListener("input", refresh);
  byId("choose").addEventListener("submit", (event) => event.preventDefault());
  byId("share").addEventListener("click", async () => {
    const link = addressOf(current.whole);
    wishes = { ...current.whole };
    history.replaceState(null, "", link);
    byId("shared").textContent = (await copy(link, byId("shared"))) ? "Copied" : "The link is in the address line";
  });
  addEventListener("hashchange", () => { wishes = readAddress(); refresh(); });
  byId("result-title").tabIndex = -1;
  wishes = readAddress();
  return refresh();
}

globalThis.vllmIndex = { take, rules: { answer, sortKey, labelOf, misfit } };
if (document.readyState === "complete") start();
else document.addEventListener("DOMContentLoaded", start);
