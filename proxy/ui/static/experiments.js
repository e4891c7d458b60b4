// The view of an experiment: its verdict, its arms, its metrics, and the primary metric over time.
import {ask, bar, counted, draw, fitted, make, number, percent} from "/ui/parts.js";

const HEIGHT = 220, LEFT = 64, RIGHT = 12, TOP = 14, BOTTOM = 28, LINE = 15;
const NAMES = {
  ended_by_itself: "ended by itself", time_to_first_token: "time to first token", latency: "whole answer",
  completion_tokens: "tokens of an answer", truncated: "broken off", error: "errors", regenerated: "asked again",
  judged_better: "judged better", thumbs_up: "thumbs up",
};
const named = (metric) => NAMES[metric] ?? metric.replaceAll("_", " ");

export async function experiments(place, signal, [wanted]) {
  const cards = await ask("/experiments", signal);
  if (!cards.length) {
    return place.append(make("section", {class: "empty"},
      make("h1", {}, "No experiment runs here"),
      make("p", {}, "An experiment gives each user one of several arms, and says which is better. Describe one in a file, and start the server with it:"),
      make("pre", {}, "# tone.toml\nname = \"tone\"\nmetrics = [\"thumbs_up\", \"ended_by_itself\"]\n\n[[arms]]\nname = \"raw\"\nvariant = \"raw-matched\"\nweight = 50\n\n[[arms]]\nname = \"aligned\"\nvariant = \"aligned\"\nweight = 50\n\n$ drpo-proxy --backend … --bundle … --experiment tone.toml")));
  }
  const name = cards.some((card) => card.name === wanted) ? wanted : cards[0].name;
  const report = make("div", {class: "report"}, make("p", {class: "note"}, "Counting…"));
  place.append(
    cards.length > 1 ? make("nav", {class: "list", "aria-label": "Experiments"}, cards.map((card) =>
      make("a", {href: `#experiments/${encodeURIComponent(card.name)}`, "aria-current": card.name === name ? "page" : null},
        card.name, make("small", {}, card.state)))) : "",
    report);
  let whole;
  try {
    whole = await ask(`/experiments/${encodeURIComponent(name)}`, signal);
  } catch (error) {
    const card = cards.find((one) => one.name === name);
    return report.replaceChildren(heading(card), make("p", {class: "trouble", role: "alert"}, error.message), arms(card));
  }
  const state = await ask("/ui/api/state", signal);
  report.replaceChildren(heading(whole), ...mismatches(whole, state.mismatches[name] ?? []), verdict(whole), arms(whole), ...overTime(whole), metrics(whole), checks(whole));
}

const heading = (card) => make("div", {class: "heading"}, make("h1", {}, card.name),
  make("span", {class: `state ${card.state.replace(" ", "-")}`}, card.state),
  card.stopped ? make("span", {class: "note"}, card.stopped) : null);

// An experiment that ended as planned has no effect any more, which is no trouble.
const mismatches = (whole, sentences) => sentences.map((sentence) =>
  whole.state === "ended" ? make("p", {class: "note"}, sentence) : make("p", {class: "trouble", role: "alert"}, `No effect: ${sentence}`));

const verdict = (whole) => make("div", {class: `conclusion ${whole.verdict.decision}`},
  make("p", {class: "verdict"}, whole.verdict.sentence),
  make("p", {class: "advice"}, make("strong", {}, "What to do: "), whole.verdict.advice.sentence));

function arms(whole) {
  const total = Object.values(whole.exposed).reduce((sum, count) => sum + count, 0);
  const weights = whole.arms.reduce((sum, arm) => sum + (whole.weights?.[arm.name] ?? arm.weight), 0);
  return make("section", {}, make("h2", {}, "Arms"),
    make("ul", {class: "shares"}, whole.arms.map((arm) => {
      const units = whole.exposed[arm.name] ?? 0;
      const share = total ? units / total : 0;
      const wanted = (whole.weights?.[arm.name] ?? arm.weight) / weights;
      return make("li", {}, make("strong", {}, arm.name),
        arm.name === whole.control ? make("span", {class: "tag"}, "control") : null,
        make("span", {class: "note"}, [arm.variant, arm.bundle, arm.model].filter(Boolean).join(" · ")),
        bar(share, `${percent(share)} of the units`),
        make("span", {class: "count"}, `${counted(units, "unit")}, ${percent(share, 1)} (weight ${percent(wanted, 1)})`));
    })));
}

function overTime(whole) {
  const primary = whole.comparisons.find((one) => one.primary);
  return whole.series.filter((one) => one.points.some((point) => point.anytime || point.fixed)).map((one) =>
    make("section", {}, make("h2", {}, `${named(primary?.metric ?? "")}: ${one.arm} minus ${whole.control}, over time`),
      fitted((width) => curve(one.points, width, primary?.unit === "share")), key()));
}

const KEY = {anytime: "right however often you look", fixed: "right for one look, chosen beforehand", zero: "no difference"};
const key = () => make("p", {class: "key"}, Object.entries(KEY).map(([name, text]) =>
  make("span", {}, make("span", {class: `swatch ${name}`}), text)));

function curve(points, width, isShare) {
  const known = points.filter((point) => point.difference !== null);
  const from = known[0].units, to = Math.max(known.at(-1).units, from + 1);
  // The vertical scale fits the last interval. The first intervals are much wider and are cut off at the edges.
  const last = known.at(-1).anytime ?? known.at(-1).fixed;
  const wide = Math.max(last.high - last.low, 1e-9);
  const top = Math.max(0, last.high) + wide, bottom = Math.min(0, last.low) - wide / 2;
  const x = (units) => LEFT + ((units - from) / (to - from)) * (width - LEFT - RIGHT);
  const y = (value) => TOP + ((top - Math.max(bottom, Math.min(top, value))) / (top - bottom)) * (HEIGHT - TOP - BOTTOM);
  const band = (name) => {
    const some = known.filter((point) => point[name]);
    if (some.length < 2) return [];
    const edge = [...some.map((p) => [x(p.units), y(p[name].high)]), ...some.toReversed().map((p) => [x(p.units), y(p[name].low)])];
    return [draw("path", {class: `band ${name}`, d: `M${edge.map((at) => at.map((n) => n.toFixed(1)).join(",")).join("L")}Z`})];
  };
  const line = known.map((p) => `${x(p.units).toFixed(1)},${y(p.difference).toFixed(1)}`).join("L");
  return draw("svg", {viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", class: "curve",
    "aria-label": `The difference and its intervals from ${number(from)} to ${counted(to, "unit")}`},
  ...band("anytime"), ...band("fixed"),
  draw("line", {class: "zero", x1: LEFT, x2: width - RIGHT, y1: y(0), y2: y(0)}),
  draw("path", {class: "line", d: `M${line}`}),
  ...apart([0, last.low, last.high], y).map((tick) => draw("text", {x: LEFT - 8, y: y(tick) + 4, "text-anchor": "end"}, tickText(tick, isShare))),
  draw("text", {x: LEFT, y: HEIGHT - 8}, number(from)),
  draw("text", {x: width - RIGHT, y: HEIGHT - 8, "text-anchor": "end"}, counted(to, "unit")));
}

// Returns those of the values whose labels do not touch the label of a value before them.
const apart = (values, y) => values.reduce((kept, value) =>
  kept.every((other) => Math.abs(y(value) - y(other)) >= LINE) ? [...kept, value] : kept, []);

const TICK = new Intl.NumberFormat("en", {maximumSignificantDigits: 2, notation: "compact", signDisplay: "exceptZero"});
const tickText = (value, isShare) => (isShare ? `${TICK.format(value * 100)} pt` : TICK.format(value));

function metrics(whole) {
  const heads = ["metric", "arm", "arm against control", "difference", "interval", "reading"];
  const cell = (n, ...content) => make("td", {"data-head": heads[n]}, ...content);
  return make("section", {}, make("h2", {}, "Metrics"), key(),
    make("div", {class: "scroll"}, make("table", {class: "metrics"},
      make("thead", {}, make("tr", {}, heads.map((head) => make("th", {scope: "col"}, head)))),
      make("tbody", {}, whole.comparisons.map((one) => make("tr", {class: one.primary ? "primary" : ""},
        make("th", {scope: "row"}, named(one.metric), one.primary ? make("span", {class: "tag"}, "decides") : null),
        cell(1, one.arm),
        cell(2, means(one).replaceAll(" %", "\u00a0%"), make("small", {}, ` ${number(one.arm_mean.units)} and ${counted(one.control_mean.units, "unit")}`)),
        cell(3, one.headline?.short ?? "–"),
        cell(4, forest(one)),
        cell(5, one.ready ? reading(one) : one.missing || "not yet")))))));
}

const means = (one) => one.headline?.means ||
  (one.arm_mean.units || one.control_mean.units ? `${short(one.arm_mean.mean)} against ${short(one.control_mean.mean)}` : "no values yet");

const short = (value) => value === null ? "–" : number(value, Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 3);

function reading(one) {
  const sure = one.anytime && (one.anytime.low > 0 || one.anytime.high < 0);
  if (!sure) return "not certain";
  const good = (one.anytime.low > 0) === (one.better === "higher");
  return good ? "better" : "worse";
}

// Returns the intervals as a picture, and below it the interval in words. The picture itself has no labels that could collide.
function forest(one) {
  const wide = 220, high = 24;
  const isDifference = one.headline?.scale === "difference";
  const [any, fixed, middle] = isDifference
    ? [one.anytime, one.fixed, one.difference] : [one.lift_anytime, one.lift_fixed, one.lift];
  if (!any && !fixed) return "–";
  const ends = [any, fixed].filter(Boolean).flatMap((interval) => [interval.low, interval.high]);
  const reach = Math.max(1e-12, ...ends.map(Math.abs)) * 1.1;
  const x = (value) => ((value + reach) / (2 * reach)) * wide;
  const span = (interval, name, thick) => interval ? [draw("rect", {class: `span ${name}`, x: x(interval.low), y: 12 - thick / 2, width: Math.max(1, x(interval.high) - x(interval.low)), height: thick, rx: thick / 2})] : [];
  const told = one.headline.short_between || one.headline.short_one_look;
  return make("div", {class: "interval"},
    draw("svg", {viewBox: `0 0 ${wide} ${high}`, class: "forest", role: "img", "aria-label": told},
      ...span(any, "anytime", 10), ...span(fixed, "fixed", 4),
      draw("line", {class: "zero", x1: x(0), x2: x(0), y1: 1, y2: 23}),
      draw("circle", {class: "dot", cx: x(middle ?? 0), cy: 12, r: 3.5})),
    make("small", {}, told));
}

function checks(whole) {
  const ratio = whole.sample_ratio;
  const guards = whole.guardrail_results.map((one) => make("li", {class: one.breached ? "bad" : "good"},
    `Guardrail ${named(one.metric)}, ${one.arm}: ${one.breached ? "breached" : "not breached"}; ` +
    `${one.words}${one.stops ? "; a breach stops the experiment" : ""}.`));
  return make("section", {}, make("h2", {}, "Checks"), make("ul", {class: "checks"},
    make("li", {class: ratio.blocks ? "bad" : "good"}, ratio.blocks
      ? "The arms do not have the sizes that the assignment gives. Find out why before you trust any difference."
      : "The arms have the sizes that the assignment gives."),
    ...guards,
    ...Object.entries(whole.left_out).map(([name, count]) => make("li", {class: "bad"},
      `${counted(count, "stored value")} of ${named(name)} left out: not a number, or out of range.`)),
    make("li", {}, `${counted(whole.units, "unit")} in all${whole.units_per_day ? `, ${number(whole.units_per_day)} a day` : ""}; planned ${number(whole.planned_units)}.`)));
}
