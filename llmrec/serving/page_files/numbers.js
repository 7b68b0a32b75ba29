// Live numbers from `/metrics`, each as a plot of the last five minutes.

import { send } from "./api.js";
import { byId, drawing, element } from "./dom.js";

const SECONDS = 5; // between two readings
const POINTS = 60; // intervals in a plot
const OWN_ROUTES = ["/metrics", "/", "/page/{name}"]; // only the page itself asks for these
const LISTS = "/recommend";

// `read` maps the metrics now, those at the reading before, and the seconds between to a value of each line.
const PLOTS = [
  {
    name: "Requests per second",
    lines: [""],
    read: (now, then, seconds) => {
      const asked = growth(now, then, "llmrec_requests_total", (one) => !OWN_ROUTES.includes(one.route));
      return [asked / seconds];
    },
  },
  {
    name: "Seconds until a list is complete",
    lines: ["half within", "95 % within"],
    read: (now, then) => [quantile(now, then, 0.5), quantile(now, then, 0.95)],
  },
  {
    name: "Feedback events per second",
    lines: [""],
    read: (now, then, seconds) => {
      const stored = growth(now, then, "llmrec_feedback_events_total", (one) => one.outcome === "accepted");
      return [stored / seconds];
    },
  },
  {
    name: "Share of rankings kept from before",
    lines: [""],
    read: (now, then) => {
      const all = growth(now, then, "llmrec_rankings_total", () => true);
      return [all ? growth(now, then, "llmrec_rankings_total", (one) => one.source === "cache") / all : null];
    },
  },
];

/** Reads the text format of Prometheus: a list of `{name, labels, value}`. */
export function parseMetrics(text) {
  return [...text.matchAll(/^([a-z_]+)(?:\{(.*)\})? (\S+)$/gm)].map(([, name, labels = "", value]) => ({
    name,
    labels: Object.fromEntries([...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, text]) => [key, text])),
    value: Number(value),
  }));
}

function total(metrics, name, fits) {
  return metrics.filter((one) => one.name === name && fits(one.labels)).reduce((sum, one) => sum + one.value, 0);
}

/** How much a counter grew between two readings; a server that was started again counts from 0. */
export function growth(now, then, name, fits) {
  return Math.max(0, total(now, name, fits) - total(then, name, fits));
}

/** A quantile of the seconds of lists between two readings, linear within a bucket; null without any list. */
export function quantile(now, then, level) {
  const bucket = "llmrec_request_seconds_bucket";
  const bounds = now.filter((one) => one.name === bucket && one.labels.route === LISTS).map((one) => one.labels.le);
  const counts = bounds.map((le) => growth(now, then, bucket, (one) => one.route === LISTS && one.le === le));
  const wanted = level * (counts.at(-1) ?? 0);
  if (!wanted) return null;
  const place = counts.findIndex((count) => count >= wanted);
  const low = place ? Number(bounds[place - 1]) : 0;
  if (bounds[place] === "+Inf") return low;
  const before = place ? counts[place - 1] : 0;
  return low + ((Number(bounds[place]) - low) * (wanted - before)) / (counts[place] - before);
}

/** Shows the plots and reads the metrics again and again, while the box is checked and the page is visible. */
export function watchNumbers() {
  const history = PLOTS.map(({ lines }) => lines.map(() => []));
  let last = null;
  let timer = 0;

  async function read() {
    clearTimeout(timer);
    try {
      const reading = { at: performance.now() / 1000, metrics: parseMetrics(await (await send("metrics")).text()) };
      if (last) note(reading);
      last = reading;
      byId("numbers-note").textContent = "";
    } catch (error) {
      byId("numbers-note").textContent = error.message;
      last = null;
      byId("live").checked = error.code !== "unauthorized" && byId("live").checked;
    }
    clearTimeout(timer);
    if (byId("live").checked && !document.hidden) timer = setTimeout(read, 1000 * SECONDS);
  }

  function note(reading) {
    PLOTS.forEach((plot, index) => {
      plot.read(reading.metrics, last.metrics, reading.at - last.at).forEach((value, line) => {
        history[index][line] = [...history[index][line], value].slice(-POINTS);
      });
    });
    draw();
  }

  const draw = () => byId("plots").replaceChildren(...PLOTS.map((plot, index) => figure(plot, history[index])));
  byId("live").addEventListener("change", () => byId("live").checked && read());
  document.addEventListener("visibilitychange", () => !document.hidden && byId("live").checked && read());
  draw();
  read();
}

function figure({ name, lines }, values) {
  const now = values.map((line) => line.at(-1) ?? null);
  const known = now.some((value) => value !== null);
  const newest = known ? lines.map((line, index) => `${line} ${shown(now[index])}`.trim()).join(", ") : "–";
  const highest = Math.max(0, ...values.flat().filter((value) => value !== null));
  const label = `${name} over the last ${(POINTS * SECONDS) / 60} minutes. Now ${newest}; highest ${shown(highest)}.`;
  const box = { viewBox: `0 0 ${POINTS - 1} 20`, preserveAspectRatio: "none" };
  const plot = drawing("svg", { role: "img", "aria-label": label, ...box });
  plot.append(drawing("line", { x1: 0, x2: POINTS - 1, y1: 19, y2: 19 }));
  values.forEach((line, index) => {
    plot.append(drawing("path", { class: index ? "second" : "first", d: path(line, highest) }));
  });
  return element("figure", {}, element("figcaption", {}, name, element("strong", {}, newest)), plot);
}

/** The path of a line; it is broken where a value is missing. */
function path(values, highest) {
  const start = POINTS - values.length;
  return values
    .map((value, index) => {
      if (value === null) return "";
      const joined = index > 0 && values[index - 1] !== null;
      const point = `${start + index} ${(19 - (18 * value) / (highest || 1)).toFixed(2)}`;
      return joined ? `L${point}` : `M${point}h.01`;
    })
    .join("");
}

function shown(value) {
  if (value === null) return "–";
  return value >= 10 ? value.toFixed(0) : value.toFixed(value >= 1 ? 1 : 2);
}
