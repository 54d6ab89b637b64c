// The page: what a visitor gives goes to the workers, and what they answer is shown. Nothing is sent anywhere.

import * as words from "./words.js";
import {asCsv, asJson, byUrgency} from "./tables.js";

const $ = selector => document.querySelector(selector);
const ROWS = 50; // of a batch that are shown at once
const SMALL = 160; // pixels of a thumbnail's side
const PATIENCE = 1000; // ms, for the service worker to take the page over

// An element of a tag, with its attributes and what lies in it.
function el(tag, attributes = {}, ...content) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(name, value);
  made.append(...content);
  return made;
}

let about;

// Workers, each with a model of its own; a job goes to the one that is free.
class Pool {
  constructor() {
    this.free = [];
    this.waiting = [];
    this.size = 0;
  }

  async add() {
    this.size++;
    // A worker at an address of its own would have no policy: on a static host only that of this page says what it may.
    const main = JSON.stringify(new URL("worker.js", import.meta.url).href);
    const address = URL.createObjectURL(new Blob([`import ${main};`], {type: "text/javascript"}));
    const worker = new Worker(address, {type: "module"});
    const said = await new Promise(resolve => {
      worker.onmessage = ({data}) => resolve(data);
      worker.onerror = () => resolve({refused: about.texts.damaged.replace("{error}", "its program does not run")});
      worker.postMessage({about});
    });
    URL.revokeObjectURL(address);
    if (said.ready) this.release(worker);
    else worker.terminate();
    return said;
  }

  release(worker) {
    const next = this.waiting.shift();
    if (next) next(worker);
    else this.free.push(worker);
  }

  // What becomes of a file: {state, prediction} or {state, problem}.
  async assess(file) {
    const worker = this.free.pop() ?? (await new Promise(resolve => this.waiting.push(resolve)));
    const answer = await new Promise(resolve => {
      worker.onmessage = ({data}) => resolve(data);
      worker.onerror = () => resolve({problem: about.texts.no_memory});
      worker.postMessage({file});
    });
    this.release(worker);
    if (answer.problem) return {state: "unreadable", prediction: null, problem: answer.problem};
    const prediction = words.predict(about, answer.probabilities, answer.abstained);
    return {state: prediction.state, prediction, problem: null};
  }
}

const pool = new Pool();

// What is said of one image

function sentence(text, state = "", graded = "", aloud = true) {
  const marks = state in about.icons ? {"data-state": state, "data-icon": words.icon(about, state, graded)} : {};
  return el("p", {class: `sentence ${state} ${graded}`.trim(), ...marks, role: aloud ? "status" : null}, text);
}

function answer({state, prediction, problem}, aloud = true) {
  if (problem) return [sentence(`Not read: ${problem}`, state, "", aloud)];
  const said = sentence(prediction.sentence, state, words.grade(about, prediction), aloud);
  if (prediction.abstained)
    return [said, el("p", {class: "next"}, about.texts.next), el("p", {class: "second"}, about.texts.for_dermoscopy)];
  const second = words.secondLine(about, prediction);
  return [
    said,
    ...words.frequencies(about, prediction).flatMap(({before, rate, after, note}) => [
      el("p", {class: "frequency"}, before, el("strong", {}, ...interval(rate)), after), el("p", {class: "fine"}, note),
    ]),
    ...(second ? [el("p", {class: "second"}, second)] : []),
    shares(prediction),
  ];
}

// A figure whose interval is not torn where the line ends.
function interval(text) {
  const at = text.indexOf("[");
  return at < 0 ? [text] : [text.slice(0, at), el("span", {class: "interval"}, text.slice(at))];
}

// Each diagnosis with its probability: by clinical group, the likeliest first in each.
function shares({probabilities}) {
  const {threshold} = about.alert, names = Object.keys(probabilities);
  const mark = threshold === null ? "" : `; the mark is the alert threshold, ${words.thresholdShare(threshold)}`;
  const table = el("table", {class: "shares"}, el("caption", {}, `Calibrated probability of each diagnosis${mark}`));
  const line = name => shareLine(name, probabilities[name]);
  if (!Object.keys(about.groups).length) table.append(el("tbody", {}, ...names.map(line)));
  for (const [key, title] of Object.entries(about.group_names)) {
    const those = names.filter(name => about.groups[key]?.includes(name));
    if (!those.length) continue;
    const total = words.share(those.reduce((sum, name) => sum + probabilities[name], 0));
    const head = el("tr", {class: "group"}, el("th", {colspan: 2, scope: "rowgroup"}, title), el("td", {class: "share"}, total));
    table.append(el("tbody", {}, head, ...those.map(line)));
  }
  return table;
}

function shareLine(name, probability) {
  const watched = name === about.alert.label, bar = el("div"), track = el("div", {class: "track"}, bar);
  bar.style.width = `${100 * probability}%`;
  if (watched && about.alert.threshold !== null) {
    const tick = el("i", {class: "tick"});
    tick.style.left = `${100 * about.alert.threshold}%`;
    track.append(tick);
  }
  return el("tr", {class: watched ? "watched" : ""}, el("th", {scope: "row"}, name), el("td", {class: "bar"}, track),
    el("td", {class: "share"}, words.share(probability)));
}

// One image

let turn = 0;

async function showOne(file, name) {
  const mine = ++turn, picture = $("#picture img");
  if (picture.src) URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(file);
  picture.hidden = false;
  picture.onerror = () => { picture.hidden = true; };
  $("#picture").classList.add("given");
  $("#take").hidden = true;
  $("#copy").textContent = "Copy text";
  $("#result").replaceChildren(el("p", {}, "The image is being assessed."));
  $("#result").scrollIntoView({block: "nearest"});
  const row = await pool.assess(file);
  if (mine !== turn) return; // another image has come since
  const when = `${new Date().toISOString().slice(0, 16).replace("T", " ")} UTC`;
  const record = el("p", {class: "fine record"}, `${name}, assessed ${when}. ${about.texts.source}`);
  $("#result").replaceChildren(...answer(row), ...(row.prediction ? [record] : []));
  $("#take").hidden = !row.prediction;
}

async function copy() {
  const cells = row => [...row.querySelectorAll("th, .share")].map(each => each.innerText).join(": ");
  const parts = document.querySelectorAll("#result p, #result caption, #result tr, #notice p");
  const text = [...parts].map(each => (each.matches("tr") ? cells(each) : each.innerText)).join("\n");
  try {
    await navigator.clipboard.writeText(text);
  } catch { // none without https, nor in every frame: what is selected can be copied all the same
    const field = document.body.appendChild(el("textarea"));
    field.value = text;
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  $("#copy").textContent = "Copied";
}

// Many images

const batch = {rows: [], page: 0, running: false};
const LEFT_OUT = /^(\..*|__MACOSX|Thumbs\.db|desktop\.ini)$/;

async function assessAll(files) {
  const kept = files.filter(({name}) => !name.split("/").some(part => LEFT_OUT.test(part)));
  if (!kept.length) {
    $("#rows").replaceChildren(sentence("Not read: there is no file. Choose files first."));
    return;
  }
  Object.assign(batch, {rows: [], page: 0, running: true});
  $("#stop").hidden = false;
  $("#filters").hidden = true;
  $('#kind input[value="all"]').checked = true;
  $("#text").value = "";
  const more = Math.min(4, navigator.hardwareConcurrency || 1, kept.length);
  while (pool.size < more) pool.add();
  const begun = performance.now(), next = kept.values();
  const one = async () => {
    for (const {file, name} of next) {
      if (!batch.running) return;
      batch.rows.push({file: name, source: file, ...(await pool.assess(file))});
    }
  };
  const bar = el("progress", {value: 0, max: kept.length, "aria-label": "Files assessed"}), text = el("span");
  $("#rows").replaceChildren(el("p", {role: "status"}, text, bar));
  const tell = () => {
    text.textContent = `Assessed ${batch.rows.length} of ${kept.length} files. `;
    bar.value = batch.rows.length;
  };
  tell();
  const telling = setInterval(tell, 500);
  await Promise.all(Array.from({length: more}, one));
  clearInterval(telling);
  batch.seconds = (performance.now() - begun) / 1000;
  batch.stopped = !batch.running && batch.rows.length < kept.length ? kept.length : 0;
  batch.running = false;
  batch.rows = byUrgency(batch.rows);
  $("#stop").hidden = true;
  $("#filters").hidden = false;
  list();
}

// The rows that are chosen; each choice says how many it would show.
function chosen() {
  const part = $("#text").value.toLowerCase(), named = batch.rows.filter(({file}) => file.toLowerCase().includes(part));
  const of = kind => named.filter(({state}) => kind === "all" || state === kind);
  for (const label of document.querySelectorAll("#kind label"))
    label.dataset.count = of(label.querySelector("input").value).length;
  return of($("#kind input:checked").value);
}

const left = shown =>
  `Shown: ${shown} of ${batch.rows.length}; opened: ${batch.rows.filter(({seen}) => seen).length}.`;

function list() {
  const rows = chosen(), pages = Math.max(1, Math.ceil(rows.length / ROWS));
  batch.page = Math.max(0, Math.min(batch.page, pages - 1));
  const shown = rows.slice(batch.page * ROWS, (batch.page + 1) * ROWS);
  const read = shown.filter(row => row.prediction), others = shown.filter(row => !row.prediction);
  const failed = batch.rows.filter(row => !row.prediction).length;
  const heading = failed === 1 ? "1 file could not be read as an image" : `${failed} files could not be read as images`;
  $("#rows").replaceChildren(
    total(),
    el("p", {}, download("triage.csv", "text/csv", asCsv), download("triage.json", "application/json", asJson),
      el("span", {class: "left", "aria-live": "polite"}, left(rows.length))),
    ...read.map(rowOf),
    ...(others.length ? [el("section", {}, el("h3", {}, heading), ...others.map(rowOf))] : []),
    ...(pages > 1 ? [paging(pages)] : []),
    el("p", {class: "fine"}, about.texts.order),
  );
  thumbnails(shown);
}

function total() {
  const counts = Object.keys(about.states).map(state => [state, batch.rows.filter(row => row.state === state).length]);
  const parts = counts.filter(([, n]) => n).flatMap(([state, n], i) => [i ? ", " : "", el("span",
    {class: `count ${state}`, "data-state": state, "data-icon": about.icons[state]}, `${n} ${words.stateWord(state, about)}`)]);
  const head = batch.stopped ? `Stopped after ${batch.rows.length} of ${batch.stopped} files` : `${batch.rows.length} files`;
  return el("p", {class: "sentence total", role: "status"}, `${head}: `, ...parts, ".");
}

function download(name, type, content) {
  const link = el("a", {class: "download", download: name, href: "#"}, `Download ${name}`);
  link.onclick = () => { // made when it is asked for: of a large batch it has megabytes
    if (link.href.startsWith("blob:")) URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([content(batch.rows, about)], {type: `${type};charset=utf-8`}));
  };
  return link;
}

function rowOf(row) {
  const graded = row.prediction ? words.grade(about, row.prediction) : "";
  const marks = {"data-state": row.state, "data-icon": words.icon(about, row.state, graded)};
  const texts = el("span", {class: "texts"}, el("span", {class: "file", "data-opened": "opened"}, row.file),
    el("span", {class: `verdict ${row.state} ${graded}`, ...marks}, words.verdict(about, row.prediction, row.state)));
  row.canvas = el("canvas", {class: "thumbnail", width: SMALL, height: SMALL, "aria-hidden": "true"});
  const details = el("details", {"data-state": row.state, class: row.seen ? "seen" : null}, el("summary", {}, row.canvas, texts));
  details.ontoggle = () => {
    if (!details.open) return;
    row.seen = true;
    details.classList.add("seen");
    $("#rows .left").textContent = left(chosen().length);
    if (details.children.length === 1) details.append(el("div", {class: "detail"}, ...answer(row, false)));
  };
  return details;
}

// One after another, and only of the rows that are shown: each is decoded once more.
async function thumbnails(rows) {
  for (const {canvas, source, prediction} of rows) {
    if (!canvas.isConnected) return;
    if (!prediction) continue;
    const small = await createImageBitmap(source, {resizeHeight: SMALL, colorSpaceConversion: "none"}).catch(() => null);
    if (!small) continue;
    canvas.getContext("2d").drawImage(small, (SMALL - small.width) / 2, 0);
    small.close();
  }
}

function paging(pages) {
  const button = (text, step, off) => {
    const made = el("button", {type: "button"}, text);
    made.disabled = off;
    made.onclick = () => { batch.page += step; list(); $("#rows").scrollIntoView(); };
    return made;
  };
  return el("p", {class: "paging"}, button("Previous", -1, !batch.page), ` Page ${batch.page + 1} of ${pages} `,
    button("Next", 1, batch.page === pages - 1));
}

// What is dropped: files, and folders with all that lies in them.

async function dropped(transfer) {
  const entries = [...transfer.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return named(transfer.files);
  return (await Promise.all(entries.map(below))).flat();
}

async function below(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject)).catch(() => null);
    return file ? [{file, name: entry.fullPath.slice(1)}] : [];
  }
  const reader = entry.createReader(), inside = [];
  for (;;) { // a browser gives a hundred at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)).catch(() => []);
    if (!some.length) return (await Promise.all(inside.map(below))).flat();
    inside.push(...some);
  }
}

const named = files => [...files].map(file => ({file, name: file.webkitRelativePath || file.name}));

// Tabs, by mouse and by arrow keys.

function showTab(tab, focus = false) {
  for (const each of document.querySelectorAll("[role=tab]")) {
    const selected = each === tab;
    each.setAttribute("aria-selected", selected);
    each.tabIndex = selected ? 0 : -1;
    document.getElementById(each.getAttribute("aria-controls")).hidden = !selected;
  }
  if (focus) tab.focus();
}

function listen() {
  const tabs = [...document.querySelectorAll("[role=tab]")], steps = {ArrowRight: 1, ArrowLeft: -1};
  tabs.forEach((tab, i) => {
    tab.onclick = () => showTab(tab);
    tab.onkeydown = ({key}) => steps[key] && showTab(tabs.at((i + steps[key]) % tabs.length), true);
  });
  const give = (files, name) => {
    if (!files.length) return;
    showTab($("#tab-single"));
    showOne(files[0], name ?? files[0].name ?? "An image");
  };
  for (const [button, input] of [["#choose", "#file"], ["#choose-files", "#files"], ["#choose-folder", "#folder"]]) {
    $(button).onclick = () => $(input).click();
    $(input).onchange = ({target}) => {
      if (input === "#file") give(target.files);
      else assessAll(named(target.files));
      target.value = ""; // so that the same one may be chosen again
    };
  }
  document.onpaste = ({clipboardData}) => give([...clipboardData.files].filter(file => file.type.startsWith("image/")));
  document.ondragover = event => event.preventDefault();
  document.ondrop = async event => {
    event.preventDefault();
    const single = $("#tab-single").getAttribute("aria-selected") === "true";
    const files = await dropped(event.dataTransfer);
    if (single && files.length === 1) return give([files[0].file]);
    showTab($("#tab-batch"));
    return assessAll(files);
  };
  for (const button of document.querySelectorAll("#examples button"))
    button.onclick = async () => {
      const {file} = button.dataset;
      give([await (await fetch(file)).blob()], decodeURIComponent(file.split("/").at(-1)));
    };
  $("#copy").onclick = copy;
  $("#report").onclick = () => print();
  $("#stop").onclick = () => { batch.running = false; };
  $("#kind").onchange = $("#text").oninput = () => { batch.page = 0; list(); };
}

function followColours() {
  const dark = matchMedia("screen and (prefers-color-scheme: dark)");
  const follow = () => document.documentElement.classList.toggle("dark", dark.matches);
  dark.onchange = follow;
  follow();
}

// The page is kept for use without a network; where a browser cannot do so, it works with one.
async function keep() {
  const {serviceWorker} = navigator;
  if (!serviceWorker) return;
  try {
    const taken = new Promise(resolve => serviceWorker.addEventListener("controllerchange", resolve, {once: true}));
    await serviceWorker.register("service_worker.js");
    await serviceWorker.ready;
    if (!serviceWorker.controller) await Promise.race([taken, new Promise(resolve => setTimeout(resolve, PATIENCE))]);
    $("#kept").hidden = false;
  } catch (error) {
    console.warn(error);
  }
}

async function start() {
  followColours();
  await keep(); // before the model is loaded, which then comes once, for both
  about = await (await fetch("about.json")).json();
  const said = await pool.add();
  if (said.refused) {
    $("#loading").replaceWith(sentence(said.refused, "refused"));
    return;
  }
  $("#loading").remove();
  $("#result").replaceChildren(sentence(about.texts.hint));
  for (const each of document.querySelectorAll("[disabled]")) each.disabled = false;
  listen();
  document.body.dataset.ready = "true";
}

start().catch(error => {
  console.error(error);
  $("#loading").textContent = "The page could not be loaded. Load it anew.";
  $("#loading").className = "sentence refused";
});
