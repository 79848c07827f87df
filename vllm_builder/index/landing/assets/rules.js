// Which code runs on which GPU, and which version is the newer one. The same rules as in vllm_builder/architectures.py
// and in PEP 440; tests hold them against each other.

const ARCH = /^(\d+)(?:\.(\d+))?([af]?)(\+PTX)?$/;

function parseArch(text) {
  const match = ARCH.exec(text);
  return match && { major: +match[1], minor: +(match[2] || 0), suffix: match[3], ptx: Boolean(match[4]) };
}

function runsBinary(own, gpu) {
  if (own.suffix === "a") return own.major === gpu.major && own.minor === gpu.minor;
  return own.major === gpu.major && own.minor <= gpu.minor;
}

function compilesTo(own, gpu) {
  if (own.suffix) return runsBinary(own, gpu);
  return own.major < gpu.major || (own.major === gpu.major && own.minor <= gpu.minor);
}

/** "native", "jit" (compiled from PTX at first use), "dead", or "unknown" where the architectures are not recorded. */
function answer(archs, capability) {
  const gpu = parseArch(capability);
  const codes = archs.map(parseArch).filter(Boolean);
  if (!codes.length || !gpu) return "unknown";
  if (codes.some((code) => runsBinary(code, gpu))) return "native";
  return codes.some((code) => code.ptx && compilesTo(code, gpu)) ? "jit" : "dead";
}

function sm(capability) {
  return "sm_" + capability.replace(".", "");
}

/** 8.0, 9.0a -> "sm_80, sm_90a"; what is not spelt like that as it is. */
function codes(archs) {
  return archs.map((arch) => arch.replace(/^\d+\.\d+(?=[af]?(\+PTX)?$)/, sm)).join(", ");
}

const VERSION = /^(?:(\d+)!)?(\d+(?:\.\d+)*)(?:(a|b|rc)(\d+))?(?:\.post(\d+))?(?:\.dev(\d+))?(?:\+(.*))?$/;
const sortKeys = new Map();

/** A text that sorts, by its code units, as the version does (PEP 440, in its normal form). */
function sortKey(version) {
  let key = sortKeys.get(version);
  if (key === undefined) sortKeys.set(version, (key = makeSortKey(version)));
  return key;
}

function makeSortKey(version) {
  const match = VERSION.exec(version);
  if (!match) return "";
  const [, epoch, release, pre, preNumber, post, dev, local] = match;
  const number = (digits) => String(digits.length).padStart(3, "0") + digits;
  const parts = release.split(".");
  while (parts.length > 1 && parts[parts.length - 1] === "0") parts.pop();
  let phase = "2";
  if (pre) phase = "1" + pre[0] + number(preNumber);
  else if (post === undefined && dev !== undefined) phase = "0";
  const segments = (local || "").split(".").filter(Boolean);
  return [
    number(epoch || "0"),
    ...parts.map((part) => "." + number(part)),
    "!", // lower than the dot: 1.2 comes before 1.2.1
    phase,
    post === undefined ? "0" : "1" + number(post),
    dev === undefined ? "1" : "0" + number(dev),
    ...segments.map((part) => (/^\d+$/.test(part) ? "2" + number(part) : "1" + part + "\0")),
  ].join("");
}

function newestFirst(a, b) {
  const [left, right] = [sortKey(a), sortKey(b)];
  return left < right ? 1 : left > right ? -1 : 0;
}

/** The version without the part that only tells the variant: what is the same release for all of them. */
function labelOf(version, variant) {
  const [shown, local] = version.split("+");
  const rest = (local || "").split(".").filter((part) => part && part !== variant);
  return rest.length ? shown + "+" + rest.join(".") : shown;
}

/** cu130, cu129, ..., then cpu, then the others by name. */
function byVariant(a, b) {
  const rank = (name) => (/^cu\d+$/.test(name) ? 1000000 - +name.slice(2) : name === "cpu" ? 1000001 : 1000002);
  return rank(a) - rank(b) || (a < b ? -1 : a > b ? 1 : 0);
}
