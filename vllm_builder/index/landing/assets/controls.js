// Making parts of the page. All text is put in as text: nothing that a wheel or a publisher says is ever read as HTML.

const byId = (id) => document.getElementById(id);

/** make("p", {class: "hint"}, "text", child...) */
function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

const filled = new Map();

/** Options: {value, text, off, group}. What is as it was is left alone, so that a list in use does not jump. */
function setSelect(select, options, value) {
  const state = JSON.stringify(options);
  if (filled.get(select.id) !== state) {
    filled.set(select.id, state);
    const groups = new Map();
    const whole = document.createDocumentFragment();
    for (const option of options) {
      const element = make("option", { value: option.value, disabled: option.off }, option.text);
      if (!option.group) whole.append(element);
      else {
        if (!groups.has(option.group)) {
          groups.set(option.group, make("optgroup", { label: option.group }));
          whole.append(groups.get(option.group));
        }
        groups.get(option.group).append(element);
      }
    }
    select.replaceChildren(whole);
  }
  select.value = value;
}

/** Radio buttons that look like chips. Those that stay keep their place and their focus. */
function setChips(fieldset, options, value) {
  const box = fieldset.querySelector(".chips");
  const there = new Map([...box.children].map((label) => [label.dataset.value, label]));
  let last = null;
  for (const option of options) {
    let label = there.get(option.value);
    there.delete(option.value);
    if (!label) {
      const input = make("input", { type: "radio", name: fieldset.id, value: option.value });
      label = make("label", { class: "chip" }, input, make("span", null));
      label.dataset.value = option.value;
    }
    const input = label.querySelector("input");
    input.disabled = Boolean(option.off);
    input.checked = option.value === value;
    label.querySelector("span").textContent = option.text;
    const next = last ? last.nextSibling : box.firstChild;
    if (label !== next) box.insertBefore(label, next);
    last = label;
  }
  for (const label of there.values()) label.remove();
}

/** A block of text to copy. */
function codeBlock(block) {
  const lines = block.text.split("\n");
  const code = make("code", null, ...lines.map((line, at) => make("span", { class: "code-line" }, line + (at < lines.length - 1 ? "\n" : ""))));
  const said = make("span", { class: "copied", role: "status" });
  const button = make("button", { type: "button", class: "copy", "aria-label": `Copy: ${block.title}` }, "Copy");
  button.addEventListener("click", async () => {
    const done = await copy(block.text, code);
    said.textContent = done ? "Copied" : "Selected: copy it with your keyboard";
  });
  return make("div", { class: "block" },
    make("div", { class: "block-head" }, make("h3", null, block.title), said, button),
    make("pre", null, code));
}

/** Where the clipboard is not to be had (plain http), the old way; and if that fails, the text is selected. */
async function copy(text, element) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const range = document.createRange();
    range.selectNodeContents(element);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    return document.execCommand("copy");
  }
}

function trouble(text) {
  byId("trouble").textContent = text;
  byId("trouble").hidden = false;
}

function bytes(size) {
  const units = ["bytes", "kB", "MB", "GB"];
  let at = 0;
  while (size >= 1000 && at < units.length - 1) [size, at] = [size / 1000, at + 1];
  return `${at && size < 100 ? size.toFixed(1) : Math.round(size)} ${units[at]}`;
}

function day(time) {
  return new Date(time).toISOString().slice(0, 10);
}

function moment(time) {
  return new Date(time).toISOString().slice(0, 16).replace("T", " ") + " UTC";
}

/** "3 days ago"; a clock that is behind the publisher's says "just now". */
function ago(time) {
  const minutes = Math.floor((Date.now() - time) / 60000);
  const many = (count, unit) => `${count} ${unit}${count === 1 ? "" : "s"} ago`;
  if (minutes < 1) return "just now";
  if (minutes < 60) return many(minutes, "minute");
  if (minutes < 48 * 60) return many(Math.floor(minutes / 60), "hour");
  const days = Math.floor(minutes / 1440);
  return days < 60 ? many(days, "day") : days < 730 ? many(Math.floor(days / 30.44), "month") : many(Math.floor(days / 365.25), "year");
}

function count(number, unit) {
  return `${number} ${unit}${number === 1 ? "" : "s"}`;
}
