// What is live on a page. Every page is whole without it. Text of entries is only ever put into
// textContent, never into markup.
"use strict";

// Entries on top of the list, at most.
const ROWS_MAX = 200;
// Milliseconds between two looks at the server's figures, and how many are drawn.
const LOOK_MS = 2000;
const LOOKS_MAX = 60;

const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

// ---- Entries as they become durable.

// As the server does it: the first text of an entry's output, or else of its input.
const firstLeaf = (value, depth) => {
  if (value === null || value === undefined || depth > 4) return undefined;
  if (typeof value === "string") return value.trim() ? value : undefined;
  if (typeof value !== "object") return String(value);
  for (const inner of Object.values(value)) {
    const found = firstLeaf(inner, depth + 1);
    if (found !== undefined) return found;
  }
  return undefined;
};

const rowOf = (entry, path) => {
  const row = element("li", "new");
  const link = element("a");
  link.href = path + encodeURIComponent(entry.logId);
  const time = element("time", "", entry.receivedAt.slice(0, 19).replace("T", " "));
  time.title = entry.logId;
  link.append(time, " ", element("bdi", "key", entry.variantKey));
  const leaves = [entry.output, entry.input, entry.metrics].map((part) => firstLeaf(part, 0));
  const text = leaves.find((leaf) => leaf !== undefined) ?? "";
  row.append(link, element("bdi", "excerpt", text.slice(0, 240).replace(/\s+/g, " ")));
  const metrics = element("span", "metrics");
  const numbers = Object.entries(entry.metrics ?? {}).filter(([, value]) => typeof value !== "object");
  for (const [name, value] of numbers.filter(([, value]) => typeof value !== "string").slice(0, 4)) {
    const metric = element("span");
    const shown = typeof value === "number" ? Number(value.toPrecision(6)) : value;
    metric.append(element("bdi", "", name.slice(0, 40)), ` ${String(shown).slice(0, 24)}`);
    metrics.append(metric, " ");
  }
  if (metrics.childNodes.length > 0) row.append(metrics);
  return row;
};

const tail = (place) => {
  const list = document.getElementById("entries");
  const [state, button] = [place.querySelector(".state"), place.querySelector("button")];
  let waiting = [];
  let isPaused = false;
  const say = () => {
    state.textContent = isPaused ? `paused, ${waiting.length} waiting` : "live";
    place.classList.toggle("on", !isPaused);
  };
  const show = (entries) => {
    document.getElementById("no-entries")?.remove();
    for (const entry of entries) list.prepend(rowOf(entry, place.dataset.entry));
    while (list.childElementCount > ROWS_MAX) list.lastElementChild.remove();
  };
  const source = new EventSource(place.dataset.tail);
  source.onopen = say;
  source.onmessage = (event) => {
    const entry = JSON.parse(event.data);
    if (isPaused) {
      waiting.push(entry);
      if (waiting.length > ROWS_MAX) waiting.shift();
      say();
    } else {
      show([entry]);
    }
  };
  source.addEventListener("end", (event) => {
    const code = JSON.parse(event.data).error?.code;
    // A server that comes back is asked again; whoever may not look any more isn't.
    if (code !== "shutting_down") {
      source.close();
      place.classList.remove("on");
      state.textContent = "ended: reload the page";
    }
  });
  source.onerror = () => {
    place.classList.remove("on");
    state.textContent = source.readyState === EventSource.CLOSED ? "ended: reload the page" : "waiting for the server";
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    isPaused = !isPaused;
    button.textContent = isPaused ? "Go on" : "Pause";
    button.setAttribute("aria-pressed", String(isPaused));
    if (!isPaused) {
      show(waiting);
      waiting = [];
    }
    say();
  });
};

// ---- The server's figures.

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const bytes = (size) => {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (size >= 1024 && unit + 1 < units.length) [size, unit] = [size / 1024, unit + 1];
  return `${unit > 0 && size < 10 ? size.toFixed(1) : whole.format(size)} ${units[unit]}`;
};

// What was counted between two looks.
const between = (now, before) => ({
  count: now.count - before.count,
  upTo: now.upTo.map(([bound, count], at) => [bound, count - before.upTo[at][1]]),
});

const quantile = (buckets, q) => {
  const rank = q * buckets.count;
  let [lastBound, lastCount] = [0, 0];
  for (const [bound, count] of buckets.upTo) {
    if (count >= rank && count > lastCount) {
      return lastBound + ((rank - lastCount) / (count - lastCount)) * (bound - lastBound);
    }
    [lastBound, lastCount] = [bound, count];
  }
  return buckets.count > 0 ? lastBound : undefined;
};

const ms = (us) => (us === undefined ? "–" : `${(us / 1000).toFixed(2)} ms`);

const tilesOf = (now, before) => {
  const seconds = Math.max(0.001, (now.uptimeMs - before.uptimeMs) / 1000);
  const rate = (now.entryCount - before.entryCount) / seconds;
  const [append, sync] = [between(now.appendUs, before.appendUs), between(now.syncUs, before.syncUs)];
  const processors = ((now.cpuSeconds - before.cpuSeconds) / seconds) * 100;
  return {
    throughput: [rate, `${number.format(rate)} entries/s`, `${whole.format(now.entryCount)} entries in all`],
    latency: [quantile(append, 0.5), ms(quantile(append, 0.5)), `99 %: ${ms(quantile(append, 0.99))}`],
    sync: [quantile(sync, 0.5), ms(quantile(sync, 0.5)), `99 %: ${ms(quantile(sync, 0.99))}`],
    queue: [
      now.waitingCount,
      `${whole.format(now.waitingCount)} requests`,
      `${whole.format(now.inFlightCount)} worked on, ${bytes(now.inFlightBytes)}`,
    ],
    memory: [
      now.residentBytes,
      bytes(now.residentBytes),
      `${whole.format(now.inUseCount)} of ${whole.format(now.experimentCount)} experiments in use`,
    ],
    disk: [now.freeBytes, now.freeBytes === null ? "–" : bytes(now.freeBytes), ""],
    processor: [processors, `${whole.format(processors)} %`, "100 % is one of them"],
    connections: [now.connectionCount, whole.format(now.connectionCount), `${whole.format(now.tailCount)} readers of tails`],
    failures: [now.failedCount, whole.format(now.failedCount), "answers of 500 and above"],
  };
};

const trace = (svg, values) => {
  const known = values.filter((value) => value !== undefined && value !== null);
  const most = Math.max(...known, 1e-9);
  const points = values.map((value, at) => {
    const x = LOOKS_MAX - values.length + at;
    return value === undefined || value === null ? "" : `${x},${(23 - (value / most) * 21).toFixed(1)}`;
  });
  let line = svg.firstElementChild;
  if (!line) {
    line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    svg.append(line);
  }
  line.setAttribute("points", points.filter(Boolean).join(" "));
};

const operation = (place) => {
  const [state, button] = [place.querySelector(".state"), place.querySelector("button")];
  const traces = new Map();
  let before;
  let isPaused = false;
  const look = async () => {
    if (isPaused || document.hidden) return;
    try {
      const answer = await fetch(place.dataset.figures, { redirect: "error" });
      if (!answer.ok) throw new Error(String(answer.status));
      const now = await answer.json();
      if (before) {
        for (const [name, [value, text, more]] of Object.entries(tilesOf(now, before))) {
          const tile = document.querySelector(`[data-tile="${name}"]`);
          tile.querySelector(".value").textContent = text;
          if (more) tile.querySelector(".more").textContent = more;
          const values = traces.get(name) ?? [];
          values.push(value);
          if (values.length > LOOKS_MAX) values.shift();
          traces.set(name, values);
          trace(tile.querySelector("svg"), values);
        }
        state.textContent = "live";
        place.classList.add("on");
      }
      before = now;
    } catch {
      place.classList.remove("on");
      state.textContent = "no answer: is the server there, and are you signed in?";
    }
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    isPaused = !isPaused;
    button.textContent = isPaused ? "Go on" : "Pause";
    button.setAttribute("aria-pressed", String(isPaused));
    state.textContent = isPaused ? "paused" : "live";
    place.classList.toggle("on", !isPaused);
  });
  look();
  setInterval(look, LOOK_MS);
};

// ---- Small things.

// A part of the page that takes long: the server's own markup.
const part = async (place) => {
  const wait = place.querySelector("[data-wait]");
  try {
    const answer = await fetch(place.dataset.part, { redirect: "error", headers: { accept: "text/html" } });
    if (!answer.ok) throw new Error(String(answer.status));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    place.replaceWith(...page.querySelector("main").childNodes);
  } catch {
    wait.append(" (it didn't come)");
  }
};

const copy = (button) => {
  if (!navigator.clipboard) return;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });
};

const more = (button) => {
  button.hidden = false;
  button.addEventListener("click", () => {
    const lines = button.parentElement.querySelectorAll(`.${button.dataset.more}`);
    const line = lines[lines.length - 1].cloneNode(true);
    const n = lines.length + 1;
    for (const input of line.querySelectorAll("input")) {
      input.setAttribute("aria-label", input.getAttribute("aria-label").replace(/\d+/, String(n)));
      if (input.type === "radio") {
        input.value = String(n - 1);
        input.checked = false;
      } else {
        input.value = "";
      }
    }
    button.before(line);
    line.querySelector("input").focus();
  });
};

document.querySelectorAll("[data-tail]").forEach(tail);
document.querySelectorAll("[data-figures]").forEach(operation);
document.querySelectorAll("[data-part]").forEach(part);
document.querySelectorAll("[data-copy]").forEach(copy);
document.querySelectorAll("[data-more]").forEach(more);
