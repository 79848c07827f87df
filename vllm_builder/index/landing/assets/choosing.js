// What there is, and what fits a choice.

const known = { index: null, rows: [], details: new Map(), lists: new Map() };
const waiting = new Map();

/** Data files call this. */
function take(data) {
  if (data.format !== FORMAT) {
    trouble("This page and its data were made by different versions of vllm-builder. `vllm-builder index rebuild` makes both anew.");
    return;
  }
  if (data.kind === "index") known.index = data;
  if (data.kind === "variant") known.lists.set(data.project + " " + data.variant, data);
  if (data.kind === "version") known.details.set([data.project, data.variant, data.version].join(" "), data.files);
}

/** Loads a data file; resolves to whether it came. Scripts work where reading a file is forbidden: on file://. */
function load(path, revision) {
  const address = path.split("/").map(encodeURIComponent).join("/") + "?r=" + revision;
  if (!waiting.has(address)) {
    waiting.set(address, new Promise((done) => {
      const script = document.createElement("script");
      script.src = address;
      script.onload = () => { script.remove(); done(true); };
      script.onerror = () => { script.remove(); waiting.delete(address); done(false); };
      document.head.append(script);
    }));
  }
  return waiting.get(address);
}

/** One object per wheel, of what a choice is made by. */
function rowsOf(list) {
  // 0.9.2 and 0.9.2+cu130 in one variant are two things: then each goes by its whole version.
  const versions = new Map();
  for (const [version] of list.rows) {
    const label = labelOf(version, list.variant);
    versions.set(label, (versions.get(label) || new Set()).add(version));
  }
  const shown = (version) => {
    const label = labelOf(version, list.variant);
    return versions.get(label).size > 1 ? version : label;
  };
  return list.rows.map(([version, minutes, channels, archs, tags, yanked, own]) => ({
    project: list.project,
    variant: list.variant,
    device: list.device,
    version,
    label: shown(version),
    uploaded: minutes * 60000,
    channels: list.channels[channels],
    own: own || "",
    archs: list.archs[archs],
    pythons: list.tags[tags][0],
    machines: list.tags[tags][1],
    yanked: Boolean(yanked),
  }));
}

/** Why a wheel is not for what somebody has: a reason in words, or "" where it fits. */
function misfit(wheel, have) {
  if (have.gpu === "none") {
    if (wheel.device === "cuda") return "it needs a GPU";
  } else if (have.gpu) {
    if (wheel.device === "cpu") return "it is for CPUs and does not use a GPU";
    if (wheel.device === "cuda" && answer(wheel.archs, have.capability) === "dead") {
      return `it has no code for ${sm(have.capability)}, only for ${codes(wheel.archs)}`;
    }
    if (wheel.device !== "cuda" && wheel.device !== "any") return `it is for ${wheel.device}`;
  }
  if (have.python && !wheel.pythons.includes(have.python)) {
    return wheel.pythons.length ? `it is for Python ${spans(wheel.pythons)}` : "it is for another Python";
  }
  if (have.machine && wheel.machines.length && !wheel.machines.includes(have.machine)) {
    return `it is for ${wheel.machines.join(", ")}`;
  }
  return "";
}

/** The machine that most have first. */
function byMachine(a, b) {
  const rank = (machines) => (machines.includes("x86_64") ? 0 : 1) + machines.join();
  return rank(a) < rank(b) ? -1 : rank(a) > rank(b) ? 1 : 0;
}

/** 3.10, 3.11, 3.12 -> "3.10 to 3.12". */
function spans(pythons) {
  return pythons.length > 1 ? `${pythons[0]} to ${pythons[pythons.length - 1]}` : pythons[0];
}

function inChannel(row, channel) {
  return channel === OTHERS ? !row.channels.length : row.channels.includes(channel);
}

const OTHERS = "~";
const FIRST_CHANNELS = ["release", "nightly"];

/** Channels of a project; release and nightly first. */
function channelsOf(rows) {
  const names = new Set(rows.flatMap((row) => row.channels));
  const first = FIRST_CHANNELS.filter((name) => names.delete(name));
  const others = rows.some((row) => !row.channels.length) ? [OTHERS] : [];
  return [...first, ...[...names].sort(), ...others];
}

/**
 * From what somebody wishes to what there is. A wish that was spoken (version, variant) is kept even where nothing fits;
 * what was left open goes to the newest that fits.
 */
function choose(rows, wish) {
  const channels = channelsOf(rows);
  // A version that was promoted since its address was shared is where it is now.
  const having = channelsOf(rows.filter((row) => row.label === wish.version));
  const channel = [wish.channel, ...having].find((name) => having.includes(name))
    || (channels.includes(wish.channel) ? wish.channel : channels[0]);
  const here = rows.filter((row) => inChannel(row, channel));
  const byLabel = new Map();
  for (const row of here) {
    if (!byLabel.has(row.label)) byLabel.set(row.label, []);
    byLabel.get(row.label).push(row);
  }
  const versions = [...byLabel.keys()].sort(newestFirst);
  const wanted = (row) => !wish.variant || row.variant === wish.variant;
  const good = (test) => versions.find((label) => byLabel.get(label).some((row) => !row.yanked && test(row)));
  const version = byLabel.has(wish.version) ? wish.version
    : good((row) => wanted(row) && !misfit(row, wish)) || good((row) => !misfit(row, wish)) || good(wanted) || versions[0];
  const ofVersion = byLabel.get(version) || [];
  const variants = [...new Set(ofVersion.map((row) => row.variant))].sort(byVariant);
  const variant = variants.includes(wish.variant) ? wish.variant
    : variants.find((name) => ofVersion.some((row) => row.variant === name && !misfit(row, wish))) || variants[0];
  const ofVariant = ofVersion.filter((row) => row.variant === variant);
  return {
    channels, channel, versions, byLabel, version, variants, variant, ofVersion, ofVariant,
    fitting: ofVariant.filter((row) => !misfit(row, wish)),
  };
}

/** The wheel that fits and is nearest to a choice: the same version, then the same channel, then a neighbouring version. */
function nearest(rows, wish, chosen) {
  const order = [...new Set(rows.map((row) => row.label))].sort(newestFirst);
  const place = new Map(order.map((label, at) => [label, at]));
  const own = place.get(chosen.version) || 0;
  let best = null;
  let least = Infinity;
  for (const row of rows) {
    if (row.yanked || misfit(row, wish)) continue;
    const steps = place.get(row.label) - own;
    // A newer version is nearer than an older one at the same distance.
    const far = (steps ? 1e6 : 0) + (inChannel(row, chosen.channel) ? 0 : 1e5) + Math.abs(steps) * 2 + (steps > 0 ? 1 : 0)
      + (row.variant === chosen.variant ? 0 : 0.5);
    if (far < least) [least, best] = [far, row];
  }
  return best;
}
