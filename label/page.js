"use strict";
// Every text is set as textContent, so that none is read as HTML. All state is the server's.
let state = null, typed = "", busy = false, showSuggestion = true, dialog = null, message = "", failed = false;
const $ = (id) => document.getElementById(id);

function element(tag, text, attributes) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  return made;
}

function button(key, text, action) {
  const made = element("button", undefined, {type: "button"});
  made.append(element("kbd", key), " " + text);
  made.addEventListener("click", () => { made.blur(); action(); });
  return made;
}

function content(row) {
  return row.image ? element("img", undefined, {src: row.image, alt: row.text}) : element("span", row.text, {dir: "auto"});
}

async function send(path, body) {
  if (busy) return null;
  busy = true;
  typed = "";
  try {
    const options = body && {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)};
    const response = await fetch(path, options || {});
    if (!response.ok) throw new Error(await response.text());
    return await response.json();
  } catch (error) {
    failed = true;
    message = error instanceof TypeError
      ? "The command has ended. Every answer is in the file; start the command again to go on." : error.message;
    return null;
  } finally {
    busy = false;
  }
}

async function act(path, body, note) {
  failed = false;
  message = "";
  const found = await send(path, body);
  if (found) {
    state = found;
    dialog = null;
    message = note || "";
  } else if (!message) return;
  show();
}

function shorten(text) { return text.length > 60 ? text.slice(0, 57) + "..." : text; }

function answer(kind, label) {
  const item = state.item;
  if (!item) return;
  const word = kind === "label" ? label : kind === "skip" ? "skipped" : "unsure";
  act("answer", {id: item.id, answer: kind, label: label || ""}, word + ": " + shorten(item.text));
}

function choose(label) {
  if (dialog && dialog.kind === "cluster") { dialog.label = label; show(); } else if (!dialog) answer("label", label);
}

function undo() { act("undo", {}, "taken back"); }

async function openCluster() {
  if (!state.item || state.item.cluster < 2) return;
  const found = await send("cluster/" + state.item.id);
  if (found) dialog = {kind: "cluster", ...found, label: null};
  show();
}

function confirmCluster() {
  if (!dialog.label) return;
  const count = dialog.count, label = dialog.label;
  act("cluster", {id: state.item.id, label: label, count: count}, count + " rows: " + label);
}

function openName() { dialog = {kind: "name", then: dialog && dialog.kind === "cluster" ? dialog : null}; show(); }

function acceptName(name) {
  const then = dialog.then;
  dialog = then;
  const known = state.classes.find((each) => each.name.toLowerCase() === name.trim().toLowerCase());
  if (name.trim()) choose(known ? known.name : name.trim()); else show();
}

function finish() {
  act("finish", {}, "").then(() => {
    $("text").textContent = "Finished. You can close this page.";
    for (const id of ["classes", "keys", "nearest", "dialog"]) $(id).replaceChildren();
    $("dialog").hidden = true;
    $("note").textContent = "";
    state = null;
  });
}

function width() { return String(state.classes.length).length; }
function keyOf(index) { return String(index + 1).padStart(width(), "0"); }

function type(digit) {
  typed += digit;
  const size = width();
  if (typed.length === size) {
    const found = state.classes[Number(typed) - 1];
    const wrong = typed;
    typed = "";
    if (found) return choose(found.name);
    message = "no class has the key " + wrong;
  }
  show();
}

function showProgress() {
  const p = state.progress, parts = [];
  parts.push(p.asked === null ? p.answered + " answers" : p.answered + " of " + p.asked + " answers");
  if (p.seconds !== null) parts.push(p.seconds.toFixed(1) + " s each");
  if (p.seconds !== null && p.asked !== null && p.asked > p.answered) {
    parts.push("about " + Math.max(1, Math.round((p.asked - p.answered) * p.seconds / 60)) + " min left");
  }
  parts.push(p.labeled + " rows in " + state.file + ", " + p.measure + " of them to measure by");
  $("progress").textContent = parts.join(" · ");
  $("bar").firstElementChild.style.width = p.asked ? 100 * Math.min(1, p.answered / p.asked) + "%" : "0";
}

function showClasses() {
  const counts = state.progress.by_class;
  $("classes").replaceChildren(...state.classes.map((each, index) => {
    const made = button(keyOf(index), each.name, () => choose(each.name));
    made.prepend(element("i", counts[index] || ""));
    if (each.description) made.append(element("small", each.description));
    made.classList.toggle("typed", typed !== "" && keyOf(index).startsWith(typed));
    return made;
  }));
}

function hasSuggestion() { return showSuggestion && state.item && state.item.suggestion; }

function showKeys() {
  const item = state.item, keys = [];
  if (item) {
    if (hasSuggestion()) {
      const p = item.probability, share = p === null ? "" : " (" + Math.round(100 * p) + "%)";
      keys.push(button("Enter", "take the suggestion: " + item.suggestion + share, () => choose(item.suggestion)));
    }
    keys.push(button("n", "class by its name, also a new one", openName), button("u", "unsure", () => answer("unsure")));
    keys.push(button("x", "skip", () => answer("skip")));
    if (item.cluster > 1) keys.push(button("c", "all " + item.cluster + " rows of this cluster", openCluster));
    if (item.suggestion) {
      keys.push(button("s", showSuggestion ? "hide suggestions" : "show suggestions", toggle));
    }
  }
  keys.push(button("z", "take back the last answer", undo), button("q", "finish", finish));
  $("keys").replaceChildren(...keys);
}

function toggle() { showSuggestion = !showSuggestion; show(); }

function showNearest() {
  const rows = state.item ? state.item.nearest : [];
  if (!rows.length) return $("nearest").replaceChildren();
  const table = element("table");
  for (const row of rows) {
    const line = element("tr"), cell = element("td");
    cell.append(content(row));
    line.append(element("td", row.label), cell);
    table.append(line);
  }
  $("nearest").replaceChildren(element("h2", "The nearest labeled rows"), table);
}

function showDialog() {
  const box = $("dialog");
  box.hidden = !dialog;
  box.replaceChildren();
  if (!dialog) return;
  if (dialog.kind === "name") {
    const input = element("input", undefined, {list: "names", placeholder: "name of the class", maxlength: 100});
    const names = element("datalist", undefined, {id: "names"});
    names.append(...state.classes.map((each) => element("option", undefined, {value: each.name})));
    box.append(input, names, " Enter takes it, Escape closes");
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") { event.preventDefault(); acceptName(input.value); }
      if (event.key === "Escape") { dialog = dialog.then; show(); }
    });
    input.focus();
    return;
  }
  const question = dialog.label === null ? "Which class have all " + dialog.count + " rows? Press its key, or n; Escape closes."
    : "Label " + dialog.count + " rows as " + dialog.label + "? Enter confirms, Escape closes.";
  const list = element("ul");
  for (const row of dialog.items) {
    const line = element("li");
    line.append(content(row));
    list.append(line);
  }
  box.append(element("b", question), list);
  if (dialog.count > dialog.items.length) box.append("and " + (dialog.count - dialog.items.length) + " more");
}

function show() {
  if (!state) return;
  const item = state.item;
  showProgress();
  showClasses();
  showKeys();
  showNearest();
  showDialog();
  if (item) $("text").replaceChildren(content(item));
  else $("text").textContent = (state.is_full ? "All answers are given." : "No row is left.") + " Enter finishes, z takes back.";
  const measured = item && item.role === "measure" ? "drawn at random to measure by, so without a suggestion" : "";
  const again = item && item.before ? "labeled as " + item.before + ", is that right?" : "";
  const empty = item && !state.classes.length ? "No classes yet: press n and type the first one." : "";
  $("note").textContent = typed || [message, again, empty, measured].filter(Boolean).join(" · ");
  $("note").classList.toggle("error", failed);
}

document.addEventListener("keydown", (event) => {
  if (!state || event.repeat || event.ctrlKey || event.metaKey || event.altKey || busy) return;
  const key = event.key, cluster = dialog && dialog.kind === "cluster";
  const actions = {n: openName, z: undo, q: finish, u: () => answer("unsure"), x: () => answer("skip"), c: openCluster, s: toggle};
  if (key === "Escape") { dialog = null; typed = ""; message = ""; show(); }
  else if (key === "Backspace") { typed = typed.slice(0, -1); show(); }
  else if (/^[0-9]$/.test(key)) type(key);
  else if (key === "Enter" && cluster) confirmCluster();
  else if (key === "Enter" && !state.item) finish();
  else if (key === "Enter" && hasSuggestion() && !dialog) choose(state.item.suggestion);
  else if (key in actions && (!dialog || cluster && key === "n")) actions[key]();
  else return;
  event.preventDefault();
});

fetch("state").then((response) => response.json()).then((found) => { state = found; show(); });
