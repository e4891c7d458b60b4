// The view of live metrics. It requests the metrics every two seconds. A rate is the increase per second between two replies.
import {ask, draw, make, number, percent, seconds} from "/ui/parts.js";

const EVERY = 2000, KEPT = 90, WIDTH = 220, HEIGHT = 44;

export async function live(place, signal) {
  const tiles = make("div", {class: "tiles"});
  const backends = make("section", {}, make("h2", {}, "Backends"), make("ul", {class: "backends"}));
  const since = make("section", {}, make("h2", {}, "Since the start"), make("dl", {class: "facts"}));
  const trouble = make("div", {role: "alert"});
  place.append(make("div", {class: "heading"}, make("h1", {}, "Live"),
    make("span", {class: "note"}, "New numbers every two seconds; “–” means that no request came in the last minute")), trouble, tiles, backends, since);
  const history = [];
  const read = async () => {
    const told = await ask("/ui/api/live", signal);
    history.push({time: performance.now() / 1000, ...summed(told.samples)});
    if (history.length > KEPT) history.shift();
    tiles.replaceChildren(...pictured(history));
    backends.lastChild.replaceChildren(...told.backends.map(backend));
    since.lastChild.replaceChildren(...totals(history.at(-1)));
  };
  while (!signal.aborted) {
    const problem = await read().then(() => "", (error) => error.message);
    if (signal.aborted) return;
    // The same text is not set again, because a screen reader would say it again.
    if (trouble.textContent !== problem) trouble.replaceChildren(...(problem ? [make("p", {class: "trouble"}, problem)] : []));
    place.classList.toggle("stale", Boolean(problem));
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, EVERY);
      signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, {once: true});
    });
  }
}

function summed(samples) {
  const sum = (name, is = () => true) =>
    samples.filter((one) => one.name === name && is(one.labels)).reduce((total, one) => total + one.value, 0);
  const buckets = new Map();
  for (const one of samples) {
    if (one.name !== "drpo_first_byte_seconds_bucket") continue;
    const edge = Number(one.labels.le.replace("+Inf", "Infinity"));
    buckets.set(edge, (buckets.get(edge) ?? 0) + one.value);
  }
  return {
    requests: sum("drpo_requests_total"),
    errors: sum("drpo_requests_total", (labels) => Number(labels.status) >= 500),
    flying: sum("drpo_requests_in_flight"),
    queued: sum("drpo_requests_queued"),
    hits: sum("drpo_retrieval_seconds_count", (labels) => labels.cache === "hit"),
    misses: sum("drpo_retrieval_seconds_count", (labels) => labels.cache === "miss"),
    reduced: sum("drpo_injection_reduced_total"),
    prompt: sum("drpo_tokens_total", (labels) => labels.type === "prompt"),
    completion: sum("drpo_tokens_total", (labels) => labels.type === "completion"),
    cached: sum("drpo_tokens_total", (labels) => labels.type === "cached"),
    buckets,
  };
}

const rate = (history, name) => history.slice(1).map((now, n) =>
  Math.max(0, now[name] - history[n][name]) / (now.time - history[n].time));

function share(history, part, wholes) {
  const from = history.at(-Math.min(history.length, 31)), now = history.at(-1);
  const whole = wholes.reduce((total, name) => total + now[name] - from[name], 0);
  return whole > 0 ? (now[part] - from[part]) / whole : null;
}

function median(history) {
  const from = history.at(-Math.min(history.length, 31)), now = history.at(-1);
  const edges = [...now.buckets.keys()].sort((a, b) => a - b);
  const counts = edges.map((edge) => now.buckets.get(edge) - (history.length > 1 ? from.buckets.get(edge) ?? 0 : 0));
  const all = counts.at(-1) ?? 0;
  if (!all) return null;
  const at = counts.findIndex((count) => count >= all / 2);
  const low = at ? edges[at - 1] : 0, below = at ? counts[at - 1] : 0;
  const high = Number.isFinite(edges[at]) ? edges[at] : low;
  return low + ((all / 2 - below) / Math.max(counts[at] - below, 1e-9)) * (high - low);
}

function pictured(history) {
  const now = history.at(-1);
  const requests = rate(history, "requests"), tokens = rate(history, "completion");
  return [
    tile("requests a second", number(requests.at(-1) ?? 0, 1), requests),
    tile("in flight", `${number(now.flying)}${now.queued ? ` + ${number(now.queued)} waiting` : ""}`, history.map((one) => one.flying)),
    tile("answer tokens a second", number(tokens.at(-1) ?? 0), tokens),
    tile("first byte, median of a minute", seconds(median(history))),
    tile("prompt tokens from the cache", percent(share(history, "cached", ["prompt"]))),
    tile("queries seen before", percent(share(history, "hits", ["hits", "misses"]))),
  ];
}

function tile(name, value, line) {
  return make("div", {class: "tile"}, make("span", {class: "name"}, name), make("strong", {}, value), line ? sparkline(line) : null);
}

function sparkline(values) {
  const top = Math.max(...values, 1e-9);
  const at = values.map((value, n) => `${((n + KEPT - values.length) / (KEPT - 1) * WIDTH).toFixed(1)},${(HEIGHT - 3 - value / top * (HEIGHT - 6)).toFixed(1)}`);
  return draw("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "spark", "aria-hidden": "true", preserveAspectRatio: "none"},
    ...(at.length > 1 ? [draw("path", {d: `M${at.join("L")}`})] : []));
}

const backend = (one) => make("li", {class: one.trouble ? "bad" : "good"}, make("strong", {}, one.url),
  make("span", {class: "note"}, one.trouble ?? (one.models.join(", ") || "no model")));

const totals = (now) => [["requests", now.requests], ["errors of the server", now.errors], ["prompt tokens", now.prompt],
  ["answer tokens", now.completion], ["requests with fewer examples", now.reduced]].map(([name, value]) =>
  make("div", {}, make("dt", {}, name), make("dd", {}, number(value))));
