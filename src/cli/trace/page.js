// Draws the page of a trace. Text from outside goes into the page by textContent alone.
"use strict";

const root = document.documentElement;
window.addEventListener("error", event => {
  root.dataset.trace = "failed: " + event.message;
  const problem = byId("problem");
  problem.textContent = "This page could not be drawn: " + event.message;
  problem.hidden = false;
});

const data = JSON.parse(byId("data").textContent);
const end = Math.max(data.end, 1);
const down = expand(data.down), up = expand(data.up), connected = expand(data.connected);
for (const peer of data.peers) peer.rates = expand(peer.rates);
const uploads = data.uploaded > 0;

// ---- words -------------------------------------------------------------------------------------------------------

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit++; }
  return (unit === 0 ? String(Math.round(bytes)) : bytes.toFixed(bytes < 9.995 ? 2 : bytes < 99.95 ? 1 : 0)) + " " + units[unit];
}
const rate = bytes => size(bytes) + "/s";
const number = n => n.toLocaleString("en-US");
const plural = (n, one, more) => number(n) + " " + (n === 1 ? one : more);
const percent = (part, whole) => {
  const value = whole > 0 ? part / whole * 100 : 0;
  return (value === 0 ? "0" : value < 0.1 ? "<0.1" : value < 10 ? value.toFixed(1) : Math.floor(value)) + " %";
};
const pad = n => String(n).padStart(2, "0");
function time(ms) {
  const seconds = ms / 1000, whole = Math.floor(seconds);
  if (seconds < 1 && ms > 0) return Math.round(ms) + " ms";
  if (seconds < 10) return seconds.toFixed(2) + " s";
  if (seconds < 60) return seconds.toFixed(1) + " s";
  if (seconds < 3600) return Math.floor(whole / 60) + " min " + pad(whole % 60) + " s";
  if (seconds < 86400) return Math.floor(whole / 3600) + " h " + pad(Math.floor(whole / 60) % 60) + " min";
  return Math.floor(whole / 86400) + " d " + Math.floor(whole / 3600) % 24 + " h";
}
// A moment of the timeline, as exact as the timeline is.
function moment(ms) {
  const seconds = ms / 1000;
  if (end < 120000) return seconds.toFixed(data.width < 1000 ? 2 : 1) + " s";
  const whole = Math.floor(seconds), hours = Math.floor(whole / 3600);
  const minutes = pad(Math.floor(whole / 60) % 60) + ":" + pad(whole % 60);
  return hours > 0 || end >= 7200000 ? hours + ":" + minutes + " h" : minutes.replace(/^0/, "") + " min";
}

// ---- the page's parts --------------------------------------------------------------------------------------------

function byId(id) { return document.getElementById(id); }
function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}
function expand(runs) {
  const out = [];
  for (const n of runs) if (n < 0) for (let i = 0; i > n; i--) out.push(0); else out.push(n);
  return out;
}
let colours;
function readColours() {
  const style = getComputedStyle(root);
  const get = name => style.getPropertyValue("--" + name).trim();
  colours = { peers: [] };
  for (const name of ["line", "text", "soft", "faint", "rate", "sent", "limit", "bad", "choke", "good", "none", "plot"]) colours[name] = get(name);
  for (let i = 0; i < 8; i++) colours.peers.push(get("p" + i));
}
const colourName = peer => peer >= 0 && peer < 8 && data.peers[peer].down > 0 ? "p" + peer : "none";
const colourOf = peer => colourName(peer) === "none" ? colours.none : colours.peers[peer];
const rgb = hex => [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16));

// A canvas of the size that it has on the page, in its pixels.
function prepare(canvas) {
  const box = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(box.width * ratio));
  canvas.height = Math.max(1, Math.round(box.height * ratio));
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { context, width: box.width, height: box.height };
}

// ---- columns: bins, or several where a bin would be too narrow to see -----------------------------------------------

let group = 1, columns = 1, plotWidth = 1;
const LEAST = 3;
function arrange() {
  plotWidth = byId("axis").getBoundingClientRect().width;
  group = Math.max(1, Math.ceil(LEAST / (data.width / end * plotWidth)));
  columns = Math.ceil(data.bins / group);
}
const x = ms => ms / end * plotWidth;
const columnStart = column => Math.min(end, column * group * data.width);
const columnTime = column => {
  const whole = group * data.width, left = end - column * whole;
  return left < whole && left > 0.4 * whole ? left : whole;
};
function sum(bins, column) {
  let sum = 0;
  for (let bin = column * group; bin < Math.min(bins.length, (column + 1) * group); bin++) sum += bins[bin];
  return sum;
}
const rateIn = (bins, column) => sum(bins, column) * 1000 / columnTime(column);
function edges(column) {
  const from = Math.round(x(columnStart(column)));
  return [from, Math.max(from + 1, Math.round(x(columnStart(column + 1))))];
}
const columnAt = ms => Math.max(0, Math.min(columns - 1, Math.floor(ms / data.width / group)));
// The state of most weight among a column's bins: one stall is not hidden by its neighbours.
function stateIn(states, column) {
  const part = states.slice(column * group, (column + 1) * group);
  if (part.includes("s")) return "s";
  let best = ".", most = 0;
  for (const state of "aci") {
    const count = part.split(state).length - 1;
    if (count > most) [best, most] = [state, count];
  }
  return best;
}

// ---- head --------------------------------------------------------------------------------------------------------

const downloading = [...data.phases].filter(phase => phase === "d" || phase === "w").length * data.width;
const begun = [...data.phases].findIndex(phase => phase === "d" || phase === "w");
const took = begun < 0 ? 0 : data.finished !== null ? Math.max(1, data.finished - begun * data.width) : Math.min(downloading, end);
const senders = data.peers.filter(peer => peer.down > 0).length;
const stalls = data.marks.stall.seen, failures = data.marks.failed.seen;

function head() {
  const done = data.finished !== null || data.result === "done";
  const words = { done: "complete", stopped: "stopped", "no-peers": "no peers", disk: "disk error" };
  let text = done ? "complete" : words[data.result] || "failed";
  if (!done && data.wanted > 0) text += (data.result === "no-peers" ? ", complete to " : " at ") + Math.floor(data.done / data.wanted * 100) + " %";
  const about = byId("about");
  about.append(make("span", "badge " + (done ? "good" : data.result === "stopped" ? "mild" : "bad"), text));
  const facts = [size(data.size) + " in " + plural(data.files, "file", "files"), plural(data.pieces, "piece", "pieces") + " of " + size(data.pieceLength),
    new Date(data.started).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" }), data.hash];
  about.append(facts.join("  ·  "));
  if (data.why) { byId("problem").textContent = data.why; byId("problem").hidden = false; }

  const average = took > 0 ? data.downloaded / took * 1000 : 0;
  const tile = (name, value, more, kind) => {
    const box = make("div", kind);
    const dd = make("dd", "", value);
    if (more) dd.append(make("small", "", more));
    box.append(make("dt", "", name), dd);
    byId("tiles").append(box);
  };
  const trouble = n => n > 0 ? "bad" : "none";
  tile("Received", size(data.downloaded), data.wanted !== data.downloaded ? "of " + size(data.wanted) + " wanted" : "all that was wanted");
  tile("Time", took > 0 ? time(took) : "–", end - took > Math.max(500, took * .05) ? "of " + time(end) + " shown" : "from start to end");
  tile("Average rate", rate(average), data.limit ? percent(average, data.limit) + " of the limit" : "while downloading");
  if (uploads) tile("Sent", size(data.uploaded), "ratio " + (data.uploaded / Math.max(1, data.wanted)).toFixed(2));
  tile("Peers", number(data.peersEver), number(senders) + " sent data");
  tile("Wasted", size(data.wasted), percent(data.wasted, data.downloaded) + " of received", data.wasted > data.downloaded * .01 ? "bad" : data.wasted > 0 ? "" : "none");
  tile("Hash failures", number(failures), plural(data.marks.banned.seen, "peer banned", "peers banned"), trouble(failures));
  tile("Stalls", number(stalls), plural(data.peers.filter(peer => peer.stalls > 0).length, "peer", "peers"), trouble(stalls));
  byId("foot").textContent = "Recorded by ropewalk " + data.version + " in steps of " + time(data.width) +
    ". Hover for values; click a peer to see its pieces alone.";
}

// ---- axis --------------------------------------------------------------------------------------------------------

function timeTicks() {
  const s = 1000, m = 60 * s, h = 60 * m, d = 24 * h;
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, s, 2 * s, 5 * s, 10 * s, 20 * s, 30 * s, m, 2 * m, 5 * m, 10 * m, 20 * m, 30 * m, h, 2 * h, 3 * h, 6 * h, 12 * h, d, 2 * d, 7 * d, 28 * d];
  const step = steps.find(step => x(step) >= 76) || steps[steps.length - 1];
  const digits = step < 10 ? 3 : step < 100 ? 2 : step < s ? 1 : 0;
  const label = ms => {
    if (end <= 2 * m) return (ms / s).toFixed(digits) + " s";
    if (end <= 2 * h) return step < m ? Math.floor(ms / m) + ":" + pad(ms / s % 60) : ms / m + " min";
    if (end <= 3 * d) return step < h ? Math.floor(ms / h) + ":" + pad(ms / m % 60) + " h" : ms / h + " h";
    return +(ms / d).toFixed(2) + " d";
  };
  const ticks = [];
  for (let ms = 0; ms <= end; ms += step) ticks.push([ms, label(ms)]);
  return ticks;
}
function drawAxis() {
  const { context, width, height } = prepare(byId("axis"));
  context.font = getComputedStyle(document.body).font.replace(/14px/, "12px");
  context.textBaseline = "middle";
  const flag = data.finished !== null && data.finished < end * .98 ? x(data.finished) : null;
  let clear = -1;
  if (flag !== null) {
    const text = "complete", wide = context.measureText(text).width;
    context.fillStyle = colours.good;
    const left = Math.min(flag - 0.5, width - wide);
    context.fillRect(flag - 0.5, height - 8, 1, 8);
    context.fillText(text, left + 5 + wide > width ? flag - wide - 6 : left + 5, height / 2 - 1);
    clear = left;
  }
  for (const [ms, label] of timeTicks()) {
    const at = x(ms), wide = context.measureText(label).width;
    context.fillStyle = colours.line;
    context.fillRect(Math.round(at), height - 5, 1, 5);
    if (at + wide > width || (clear >= 0 && at + wide > clear - 8 && at < clear + 64)) continue;
    context.fillStyle = colours.soft;
    context.fillText(label, ms === 0 ? 0 : at - wide / 2, height / 2 - 1);
  }
}
function grid(context, height) {
  context.fillStyle = colours.line;
  for (const [ms] of timeTicks()) if (ms > 0) context.fillRect(Math.round(x(ms)), 0, 1, height);
}
// What holds everything up, and when all was there.
function bands(context, height) {
  for (let column = 0; column < columns; column++) {
    const phases = data.phases.slice(column * group, (column + 1) * group);
    if (!phases.includes("w")) continue;
    const [from, to] = edges(column);
    context.globalAlpha = .16;
    context.fillStyle = colours.bad;
    context.fillRect(from, 0, to - from, height);
    context.globalAlpha = 1;
  }
  if (data.finished !== null && data.finished < end * .98) {
    context.fillStyle = colours.good;
    context.fillRect(Math.round(x(data.finished)), 0, 1, height);
  }
}
function label(ticks, at, height, text) {
  const span = make("span", at < 6 ? "first" : at > height - 6 ? "last" : "", text);
  span.style.top = Math.max(0, Math.min(height, at)) + "px";
  ticks.append(span);
}

// ---- rate --------------------------------------------------------------------------------------------------------

function rateTicks(top) {
  let unit = 1;
  while (top / unit >= 1024) unit *= 1024;
  const most = top / unit;
  let step = 10 ** Math.floor(Math.log10(most));
  for (const part of [.2, .5, 1, 2]) if (most / (step * part) <= 4) { step *= part; break; }
  const ticks = [];
  for (let n = 0; n <= most * 1.0001; n += step) ticks.push(n * unit);
  return ticks;
}
function drawRate() {
  const section = byId("rate"), { context, height } = prepare(section.querySelector("canvas"));
  const values = [], sent = [];
  for (let column = 0; column < columns; column++) { values.push(rateIn(down, column)); sent.push(rateIn(up, column)); }
  const top = Math.max(...values, ...(uploads ? sent : []), data.limit || 0, 1024) * 1.08;
  const y = value => height - value / top * height;
  const ticks = section.querySelector(".ticks");
  ticks.textContent = "";
  grid(context, height);
  for (const value of rateTicks(top)) {
    context.fillStyle = colours.line;
    context.fillRect(0, Math.round(y(value)), plotWidth, 1);
    label(ticks, y(value), height, value === 0 ? "0" : rate(value).replace(/\.0+(?= )/, ""));
  }
  bands(context, height);
  const trace = (values, close) => {
    context.beginPath();
    if (close) context.moveTo(0, height);
    values.forEach((value, column) => {
      const [from, to] = edges(column);
      context.lineTo(from, y(value));
      context.lineTo(to, y(value));
    });
    if (close) context.lineTo(edges(columns - 1)[1], height);
  };
  context.globalAlpha = .22;
  context.fillStyle = colours.rate;
  trace(values, true);
  context.fill();
  context.globalAlpha = 1;
  context.strokeStyle = colours.rate;
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  trace(values, false);
  context.stroke();
  if (uploads) { context.strokeStyle = colours.sent; trace(sent, false); context.stroke(); }
  if (data.limit) {
    context.strokeStyle = colours.limit;
    context.lineWidth = 1;
    context.setLineDash([5, 4]);
    context.beginPath();
    context.moveTo(0, Math.round(y(data.limit)) + .5);
    context.lineTo(plotWidth, Math.round(y(data.limit)) + .5);
    context.stroke();
    context.setLineDash([]);
  }
  const key = byId("rate-key");
  key.textContent = "";
  const entry = (className, colour, text) => {
    const p = make("p"), i = make("i", className);
    i.style.borderColor = i.style.background = "var(--" + colour + ")";
    p.append(i, text);
    key.append(p);
  };
  entry("line", "rate", "received, at most " + rate(Math.max(...values)));
  if (uploads) entry("line", "sent", "sent, at most " + rate(Math.max(...sent)));
  if (data.limit) entry("line dash", "limit", "limit, " + rate(data.limit));
}

// ---- pieces ------------------------------------------------------------------------------------------------------

const rows = data.arrivals.length;
const firstOf = row => Math.ceil(row * data.pieces / rows);
let held = -1, hovered = -1;
// What a row of pieces has at the end of each column, and who brought what came in it.
let cells = [], crowd = 0, most = 1;
function countCells() {
  cells = data.arrivals.map(arrivals => {
    const row = new Map();
    for (let i = 0; i < arrivals.length; i += 3) {
      const column = Math.min(columns - 1, Math.floor(arrivals[i] / group));
      const cell = row.get(column) || { count: 0, peers: new Map() };
      cell.count += arrivals[i + 1];
      cell.peers.set(arrivals[i + 2], (cell.peers.get(arrivals[i + 2]) || 0) + arrivals[i + 1]);
      row.set(column, cell);
    }
    return [...row].sort((a, b) => a[0] - b[0]).map(([column, cell]) => {
      const [peer] = [...cell.peers].reduce((best, next) => next[1] > best[1] ? next : best);
      return { column, count: cell.count, peer };
    });
  });
  // Where something arrives nearly everywhere all the time, arrivals step back, so that what is there can be seen.
  const counts = cells.flat().map(cell => cell.count).sort((a, b) => a - b);
  crowd = Math.max(0, Math.min(1, (counts.length / Math.max(1, rows * columns) - .15) / .35));
  most = counts[Math.floor(counts.length * .98)] || 1;
}
function drawMap() {
  const section = byId("map"), { context, height } = prepare(section.querySelector("canvas"));
  const alone = hovered >= 0 ? hovered : held;
  grid(context, height);
  const right = edges(columns - 1)[1], none = rgb(colours.none);
  const palette = colours.peers.map(rgb);
  for (let row = 0; row < rows; row++) {
    const top = Math.round(row / rows * height), tall = Math.max(1, Math.round((row + 1) / rows * height) - top - (height / rows >= 6 ? 1 : 0));
    const capacity = firstOf(row + 1) - firstOf(row);
    let have = data.had[row], mix = none.map(part => part * have), weight = have;
    let since = 0;
    // What is there is pale, in the mean colour of those who brought it.
    const tail = until => {
      if (have > 0 && until > since) {
        context.globalAlpha = (alone >= 0 ? .1 : .42) * have / capacity;
        context.fillStyle = "rgb(" + mix.map(part => Math.round(part / weight)).join() + ")";
        context.fillRect(since, top, until - since, tall);
      }
      since = until;
    };
    for (const cell of cells[row]) {
      const [from, to] = edges(cell.column);
      tail(from);
      const named = colourName(cell.peer) !== "none";
      const colour = named ? palette[cell.peer] : none;
      have += cell.count;
      weight += cell.count;
      mix = mix.map((part, i) => part + colour[i] * cell.count);
      // What arrives is bright, the more of the row the brighter.
      const few = Math.min(1, .5 + .5 * Math.sqrt(cell.count / capacity * Math.min(columns, 12)));
      const many = .06 + .5 * Math.min(1, cell.count / most);
      const wide = Math.max(2, to - from);
      if (crowd > 0) tail(from + wide);
      context.globalAlpha = alone >= 0 && alone !== cell.peer ? .06 : alone >= 0 ? 1 : few + (many - few) * crowd;
      context.fillStyle = "rgb(" + colour.join() + ")";
      context.fillRect(from, top, wide, tall);
      since = Math.max(since, from + wide);
    }
    tail(right);
  }
  context.globalAlpha = 1;
  bands(context, height);
  context.strokeStyle = colours.bad;
  context.lineWidth = 2;
  for (const [at, , piece] of data.marks.failed.list) {
    const [cx, cy] = [x(at), (piece + .5) / data.pieces * height];
    context.beginPath();
    for (const side of [-4, 4]) { context.moveTo(cx - 4, cy - side); context.lineTo(cx + 4, cy + side); }
    context.stroke();
  }
  const ticks = section.querySelector(".ticks");
  ticks.textContent = "";
  const marks = data.pieces > 4 ? [0, .25, .5, .75] : [0];
  for (const part of marks) label(ticks, part * height, height, (part === 0 ? "piece " : "") + number(Math.floor(part * data.pieces)));
  if (data.pieces > 1) label(ticks, height, height, number(data.pieces - 1));

  const key = byId("map-key");
  key.textContent = "";
  const had = data.had.reduce((sum, n) => sum + n, 0);
  const came = cells.reduce((sum, row) => sum + row.reduce((sum, cell) => sum + cell.count, 0), 0);
  key.append(make("p", "", number(came) + " of " + number(data.pieces) + " arrived" + (had > 0 ? ", " + number(had) + " were there" : "")));
  key.append(make("p", "", "bright: arrives; pale: is there"));
  const brought = data.peers.map((peer, at) => [peer, at]).filter(([peer]) => peer.pieces > 0);
  const entry = (colour, text) => {
    const p = make("p"), i = make("i");
    i.style.background = "var(--" + colour + ")";
    p.append(i, text);
    key.append(p);
  };
  const named = brought.filter(([, at]) => colourName(at) !== "none");
  for (const [peer, at] of named) entry(colourName(at), peer.addr + "  " + percent(peer.pieces, data.pieces));
  if (came > named.reduce((sum, [peer]) => sum + peer.pieces, 0)) entry("none", named.length > 0 ? "other peers" : "unknown");
  if (failures > 0) key.append(make("p", "", "× failed its hash"));
}

// ---- lanes -------------------------------------------------------------------------------------------------------

const LANES = [
  ["tracker", "Trackers", "rate"], ["file", "Files complete", "good"], ["trouble", "Disk and other trouble", "bad", true],
  ["failed", "Hash failures", "bad", true], ["banned", "Peers banned", "bad", true], ["stall", "Stalls", "bad", true],
  ["left", "Peers left", "none"], ["unreachable", "Not reached", "none"]];
const PHASES = { o: ["opening", "faint"], c: ["checking", "choke"], d: ["downloading", "rate"], w: ["waiting", "bad"], s: ["seeding", "good"] };
const lanes = [];
function addLanes() {
  const add = (name, count, className, draw, tell) => {
    const row = make("div", "row " + className), canvas = make("canvas");
    row.append(make("div", "label", name), canvas, make("div", "count", count));
    byId("lanes").append(row);
    lanes.push({ canvas, draw });
    watch(row, canvas, tell);
  };
  add("Phase", "", "", drawPhases, ms => [["", (PHASES[data.phases[Math.min(data.bins - 1, Math.floor(ms / data.width))]] || ["", ""])[0]]]);
  for (const [kind, name, colour, trouble] of LANES) {
    const { seen, list } = data.marks[kind];
    if (seen === 0) continue;
    const nearest = ms => list.filter(([at]) => Math.abs(x(at) - x(ms)) < 5).slice(0, 8).map(([at, text]) => [moment(at), text]);
    const draw = (context, height) => {
      context.fillStyle = colours[colour];
      context.globalAlpha = list.length > 60 ? .6 : .9;
      for (const [at] of list) context.fillRect(Math.min(plotWidth - 2, Math.round(x(at)) - 1), 5, 2, height - 10);
      context.globalAlpha = 1;
    };
    add(name, number(seen), trouble ? "trouble" : "", draw, nearest);
  }
}
function drawPhases(context, height) {
  context.font = getComputedStyle(document.body).font.replace(/14px/, "12px");
  context.textBaseline = "middle";
  for (let bin = 0; bin < data.bins;) {
    const phase = data.phases[bin];
    let next = bin;
    while (next < data.bins && data.phases[next] === phase) next++;
    const from = Math.round(x(bin * data.width)), to = Math.round(x(Math.min(end, next * data.width)));
    if (PHASES[phase]) {
      const [name, colour] = PHASES[phase];
      context.fillStyle = colours[colour];
      context.globalAlpha = .28;
      context.fillRect(from, 4, Math.max(1, to - from - 1), height - 8);
      context.globalAlpha = 1;
      context.fillStyle = colours.text;
      if (context.measureText(name).width + 12 < to - from) context.fillText(name, from + 6, height / 2 + .5);
    }
    bin = next;
  }
}
function drawLanes() {
  for (const { canvas, draw } of lanes) {
    const { context, height } = prepare(canvas);
    draw(context, height);
  }
}

// ---- peers -------------------------------------------------------------------------------------------------------

const FIRST = 40;
// How a connection looks to who looks on: beside the address, and under the pointer.
const protections = {
  none: ["plaintext", "plaintext"],
  handshake: ["MSE", "encrypted handshake (MSE), then plaintext"],
  rc4: ["RC4", "all of it encrypted (MSE, RC4)"],
};
let shown = 0, heat = 1;
function addPeers(until) {
  const strips = byId("strips");
  for (; shown < Math.min(until, data.peers.length); shown++) {
    const at = shown, peer = data.peers[at];
    const row = make("div", "row"), canvas = make("canvas"), label = make("div", "label"), swatch = make("i"), numbers = make("div", "numbers");
    swatch.style.background = "var(--" + colourName(at) + ")";
    label.append(swatch, make("span", "addr", peer.addr), make("span", "client", protections[peer.protection][0] + " · " + peer.client));
    numbers.append(make("span", peer.down > 0 ? "" : "nil", size(peer.down)), make("span", peer.down > 0 ? "" : "nil", percent(peer.down, data.downloaded)),
      make("span", peer.stalls > 0 ? "bad" : "nil", number(peer.stalls)));
    row.append(label, canvas, numbers);
    const facts = peerFacts(peer);
    label.title = peer.addr + "  " + peer.client + "\n" + facts.map(([name, value]) => name + ": " + value).join("\n");
    row.setAttribute("aria-label", label.title);
    strips.append(row);
    peer.canvas = canvas;
    row.addEventListener("mouseenter", () => highlight(at));
    row.addEventListener("mouseleave", () => highlight(-1));
    row.addEventListener("click", () => hold(at, row));
    watch(row, canvas, ms => {
      const column = columnAt(ms), state = stateIn(peer.states, column);
      const words = { s: "stalled: asked, and nothing came in time", c: "chokes us: it has what we want and does not answer", a: "asked", i: "not asked for anything", ".": "not connected" };
      return [["at " + moment(ms), rate(rateIn(peer.rates, column))], ["", words[state]], ...facts];
    }, peer.addr + "  " + peer.client);
  }
  const left = data.peers.length - shown, more = byId("more");
  more.hidden = left === 0;
  more.textContent = "Show " + plural(left, "peer more", "peers more");
}
function peerFacts(peer) {
  const facts = [["received", size(peer.down) + ", " + percent(peer.down, data.downloaded)], ["pieces", number(peer.pieces)], ["seen", moment(peer.first) + " to " + moment(peer.last)]];
  if (peer.up > 0) facts.push(["sent to it", size(peer.up)]);
  if (peer.wasted > 0) facts.push(["wasted", size(peer.wasted)]);
  if (peer.stalls > 0) facts.push(["stalls", number(peer.stalls)]);
  if (peer.incoming) facts.push(["connection", "it called us"]);
  facts.push(["protection", protections[peer.protection][1]]);
  if (peer.gone) facts.push(["gone", peer.gone]);
  return facts;
}
function highlight(peer) {
  if (peer === hovered) return;
  hovered = peer;
  drawMap();
}
function hold(peer, row) {
  for (const other of document.querySelectorAll("#strips .held")) other.classList.remove("held");
  held = held === peer ? -1 : peer;
  if (held >= 0) row.classList.add("held");
  drawMap();
}
// The rate at full colour: not the highest of all, which may be one lucky moment.
function measureHeat() {
  const values = [];
  for (const peer of data.peers) for (let column = 0; column < columns; column++) {
    const value = rateIn(peer.rates, column);
    if (value > 0) values.push(value);
  }
  values.sort((a, b) => a - b);
  heat = values.length > 0 ? values[Math.min(values.length - 1, Math.floor(values.length * .98))] : 1;
}
function hatch(context) {
  const tile = make("canvas");
  tile.width = tile.height = 6;
  const on = tile.getContext("2d");
  on.strokeStyle = colours.choke;
  on.lineWidth = 1.5;
  for (const shift of [-6, 0, 6]) { on.beginPath(); on.moveTo(shift - 1, 7); on.lineTo(shift + 7, -1); on.stroke(); }
  return context.createPattern(tile, "repeat");
}
function drawStrips() {
  data.peers.slice(0, shown).forEach((peer, at) => {
    const { context, height } = prepare(peer.canvas);
    const pattern = hatch(context), top = 3, tall = height - 6;
    for (let column = 0; column < columns; column++) {
      const state = stateIn(peer.states, column), value = rateIn(peer.rates, column);
      if (state === "." && value === 0) continue;
      const [from, to] = edges(column), wide = to - from;
      context.globalAlpha = 1;
      if (value === 0 && state === "c") {
        context.fillStyle = pattern;
        context.fillRect(from, top, wide, tall);
      } else if (value === 0) {
        context.fillStyle = state === "a" ? colours.soft : colours.line;
        context.fillRect(from, height / 2 - 1, wide, 2);
      }
      if (value > 0) {
        context.globalAlpha = Math.min(1, .12 + .88 * Math.sqrt(value / heat));
        context.fillStyle = colourOf(at);
        context.fillRect(from, top, wide, tall);
      }
      if (state === "s") {
        context.globalAlpha = 1;
        context.fillStyle = colours.bad;
        context.fillRect(from, value > 0 ? top + tall - 4 : top, wide, value > 0 ? 4 : tall);
      }
    }
    context.globalAlpha = 1;
  });
  const key = byId("peer-key");
  key.textContent = data.peers.length > 0 ? "" : "nobody was connected";
  if (data.peers.length === 0) return;
  const entry = (text, style, className) => {
    const span = make("span"), i = make("i", className);
    Object.assign(i.style, style);
    span.append(i, text);
    key.append(span);
  };
  entry("0 to " + rate(heat), { background: "linear-gradient(90deg, color-mix(in srgb, var(--p0) 12%, transparent), var(--p0))" }, "heat");
  entry("asked, nothing came", { height: "2px", background: "var(--soft)", verticalAlign: "4px" });
  entry("not asked", { height: "2px", background: "var(--line)", verticalAlign: "4px" });
  entry("chokes us", { background: "repeating-linear-gradient(135deg, var(--choke) 0 1.5px, transparent 1.5px 4px)" });
  entry("stalls", { background: "var(--bad)" });
}

// ---- values under the pointer ---------------------------------------------------------------------------------------

function watch(area, canvas, tell, title) {
  area.addEventListener("mousemove", event => {
    const box = canvas.getBoundingClientRect();
    const inside = event.clientX >= box.left && event.clientX <= box.right;
    byId("cursor").hidden = byId("tip").hidden = !inside;
    if (!inside) return;
    byId("cursor").style.left = event.clientX - byId("board").getBoundingClientRect().left + "px";
    const ms = Math.min(end, (event.clientX - box.left) / box.width * end);
    const lines = tell(ms, (event.clientY - box.top) / box.height);
    const tip = byId("tip");
    tip.textContent = "";
    tip.hidden = lines.length === 0;
    tip.append(make("b", "", title || moment(ms)));
    const table = make("table");
    for (const [name, value] of lines) {
      const tr = make("tr");
      tr.append(make("td", "", name), make("td", "", value));
      table.append(tr);
    }
    tip.append(table);
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = (event.clientX + 16 + width > innerWidth ? event.clientX - 16 - width : event.clientX + 16) + "px";
    tip.style.top = Math.max(4, Math.min(innerHeight - height - 4, event.clientY + 16)) + "px";
  });
  area.addEventListener("mouseleave", () => { byId("cursor").hidden = byId("tip").hidden = true; });
}
function tellRate(ms) {
  const column = columnAt(ms);
  let so = 0;
  for (let bin = 0; bin < Math.min(down.length, (column + 1) * group); bin++) so += down[bin];
  const lines = [["receiving", rate(rateIn(down, column))]];
  if (uploads) lines.push(["sending", rate(rateIn(up, column))]);
  lines.push(["received so far", size(so)], ["peers", number(Math.max(0, ...connected.slice(column * group, (column + 1) * group)))]);
  return lines;
}
function tellMap(ms, down) {
  if (rows === 0) return [];
  const row = Math.max(0, Math.min(rows - 1, Math.floor(down * rows))), column = columnAt(ms);
  const [first, last] = [firstOf(row), firstOf(row + 1) - 1];
  const have = cells[row].filter(cell => cell.column <= column).reduce((sum, cell) => sum + cell.count, data.had[row]);
  const cell = cells[row].find(cell => cell.column === column);
  const lines = [[first === last ? "piece" : "pieces", first === last ? number(first) : number(first) + " to " + number(last)]];
  lines.push(["there", have + " of " + (last - first + 1)]);
  if (cell) lines.push(["arrived now", cell.count + ", " + (data.peers[cell.peer] ? (cell.count > 1 ? "most from " : "from ") + data.peers[cell.peer].addr : "from other peers")]);
  else if (first === last && have > 0) {
    const came = cells[row][0];
    lines.push(["arrived", came ? moment(columnStart(came.column)) + (data.peers[came.peer] ? " from " + data.peers[came.peer].addr : "") : "was there before"]);
  }
  return lines;
}

// ---- all of it ---------------------------------------------------------------------------------------------------

function draw() {
  readColours();
  arrange();
  countCells();
  measureHeat();
  drawAxis();
  drawRate();
  drawMap();
  drawLanes();
  drawStrips();
}

readColours();
head();
addLanes();
addPeers(FIRST);
watch(byId("rate"), byId("rate").querySelector("canvas"), tellRate);
watch(byId("map"), byId("map").querySelector("canvas"), tellMap);
byId("more").addEventListener("click", () => { addPeers(Infinity); drawStrips(); });
let waiting = 0;
window.addEventListener("resize", () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(draw); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
root.dataset.trace = "drawn";
