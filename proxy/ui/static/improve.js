// The view Improve: what users say, which questions fail, what a new bundle changes, and how its experiment stands.
import {ask, bar, counted, folded, make, number, percent, scroller} from "/ui/parts.js";

const LISTED = 20;
const APART = "~none"; // no experiment can have this name

export async function improve(place, signal, [wanted]) {
  const [cards, apart] = await Promise.all([ask("/experiments", signal), ask("/feedback", signal)]);
  if (!cards.length && !apart.requests) return place.append(nothing());
  if (!cards.length || (wanted === APART && apart.requests)) return place.append(links(cards, apart, APART), ...withoutExperiment(apart));
  const name = cards.some((card) => card.name === wanted) ? wanted : cards[0].name;
  const card = cards.find((one) => one.name === name);
  const [state, sets, worst, changes] = ["standing", "sets", "worst", "changes"].map((kind) => make("div", {class: kind}));
  place.append(
    links(cards, apart, name),
    make("div", {class: "heading"}, make("h1", {}, name), make("span", {class: `state ${card.state.replace(" ", "-")}`}, card.state)),
    state, sets, worst, changes, next(name));
  const path = `/experiments/${encodeURIComponent(name)}`;
  await Promise.all([
    fill(state, signal, ask(path, signal), (whole) => conclusion(whole)),
    fill(sets, signal, ask(`${path}/feedback`, signal), (told) => {
      worst.replaceChildren(questions(told));
      return bySet(told);
    }),
    fill(changes, signal, ask(`/ui/api/changes?experiment=${encodeURIComponent(name)}`, signal), (found) => differences(found)),
  ]);
}

function links(cards, apart, shown) {
  const names = [...cards.map((one) => one.name), ...(apart.requests ? [APART] : [])];
  return names.length < 2 ? "" : make("nav", {class: "list", "aria-label": "Experiments"}, names.map((one) =>
    make("a", {href: `#improve/${encodeURIComponent(one)}`, "aria-current": one === shown ? "page" : null}, one === APART ? "no experiment" : one)));
}

const withoutExperiment = (told) => [
  make("div", {class: "heading"}, make("h1", {}, "Requests in no experiment")),
  make("div", {class: "sets"}, bySet(told)), make("div", {class: "worst"}, questions(told)), next("")];

async function fill(place, signal, asked, shown) {
  place.replaceChildren(make("p", {class: "note"}, "Reading…"));
  try {
    place.replaceChildren(shown(await asked));
  } catch (error) {
    if (!signal.aborted) place.replaceChildren(make("p", {class: "trouble", role: "alert"}, error.message));
  }
}

const nothing = () => make("section", {class: "empty"},
  make("h1", {}, "There is no feedback yet"),
  make("p", {}, "Feedback improves a bundle in three steps: drpo-proxy records requests, your application sends the ratings of users, and drpo makes the next bundle and an experiment of them. This page then shows the experiment."),
  make("pre", {}, "$ drpo-proxy --backend … --bundle … --store sqlite:store.sqlite3 --store-content\n\n# your application, for each rating:\nPOST /v1/feedback  {\"request_id\": \"…\", \"metric\": \"thumbs_up\", \"value\": true}\n\n$ drpo-optimizer improve --store sqlite:store.sqlite3 --bundle … --base-url … --out improve-1"),
  make("p", {class: "note"}, "--store-content keeps the texts of requests and answers, and is needed to learn from them. Tell your users."));

const conclusion = (whole) => make("div", {class: `conclusion ${whole.verdict.decision}`},
  make("p", {class: "verdict"}, whole.verdict.sentence),
  make("p", {class: "advice"}, make("strong", {}, "What to do: "), whole.verdict.advice.sentence, " ",
    make("a", {href: `#experiments/${encodeURIComponent(whole.name)}`}, "The whole report")));

const section = (title, ...content) => make("section", {}, make("h2", {}, title), ...content);
const note = (...text) => make("p", {class: "note"}, ...text);

function bySet(told) {
  const title = "Feedback by example set";
  if (!told.requests) return section(title, note("No request has taken part yet. ", make("code", {}, "drpo-proxy experiment check FILE"), " says which requests do."));
  if (!told.rated) {
    return section(title, note(`${told.metric} has no value for ${counted(told.requests, "request")}. Send one with `,
      make("code", {}, `POST /v1/feedback {"request_id": "…", "metric": "${told.metric}", "value": true}`), ". The request id is in the reply header x-request-id."));
  }
  const isShare = told.groups.every((one) => one.mean === null || (one.mean >= 0 && one.mean <= 1));
  const heads = ["example set", "arm", "requests", "rated", `mean of ${told.metric}`];
  const cell = (n, ...content) => make("td", {"data-head": heads[n]}, ...content);
  return section(title,
    make("div", {class: "scroll"}, make("table", {class: "metrics"},
      make("thead", {}, make("tr", {}, heads.map((head) => make("th", {scope: "col"}, head)))),
      make("tbody", {}, told.groups.map((one) => make("tr", {},
        make("th", {scope: "row"}, one.example_set ?? "no set"), cell(1, one.arm || "–"), cell(2, number(one.requests)), cell(3, number(one.rated)),
        cell(4, one.mean === null ? "–" : number(one.mean, 2), isShare && one.mean !== null ? bar(one.mean, percent(one.mean)) : null)))))),
    note(`${told.is_cut ? "The latest " : ""}${counted(told.requests, "request")}; ${told.better} is better. A mean of few ratings says little.`));
}

function questions(told) {
  const title = "Questions with the worst feedback";
  if (!told.rated) return section(title, note("Questions are listed here as soon as users rate answers."));
  if (!told.logged) {
    return section(title, note("The texts of the rated requests were not kept. Start the server with ", make("code", {}, "--store-content"), " to see them, and tell your users."));
  }
  if (!told.worst.length) return section(title, note("No answer whose text was kept is rated worse than the mean."));
  return section(title, make("ol", {class: "asked"}, told.worst.slice(0, LISTED).map((one) => make("li", {},
    folded(make("p", {class: "question", dir: "auto"}, one.question)),
    one.answer ? make("details", {}, make("summary", {}, "Answer"), make("p", {class: "response", dir: "auto"}, one.answer)) : null,
    one.comments.map((comment) => make("blockquote", {}, folded(make("div", {dir: "auto"}, comment)))),
    note([`${told.metric} ${number(one.value, 2)}`, one.arm && `arm ${one.arm}`, one.example_set ? `set ${one.example_set}` : "no set",
      one.count > 1 ? `${number(one.count)} times` : "", new Date(one.time * 1000).toISOString().slice(0, 10)].filter(Boolean).join(" · "))))));
}

function differences(found) {
  const title = "What the new bundle changes";
  if (!found.length) {
    return section(title, note("No arm has another bundle than the control. Give an arm ", make("code", {}, 'bundle = "DIR"'), " in the experiment's file, and reload."));
  }
  return section(title, ...found.map((one) => make("div", {class: "change"},
    make("p", {}, make("strong", {}, one.arm), " (", make("bdi", {}, one.after), ") instead of ", make("strong", {}, one.control),
      " (", make("bdi", {}, one.before ?? "no bundle"), ")"),
    one.before === null ? note("The control has no bundle: all of the prompt and the examples is new. The view Bundles shows them.")
      : !one.lines.length ? note("The prompts, the examples and the settings are the same.")
      : scroller(`What the bundle of ${one.arm} changes`, {class: "lines"}, one.lines.map((line) => make("span", {class: kindOf(line), dir: "auto"}, line))))));
}

const kindOf = (line) => ({"+": "added", "-": "removed", "~": "altered"}[line.trimStart()[0]] ?? (line.startsWith(" ") ? "" : "part"));

const next = (name) => section("The next bundle",
  note("Make a better bundle of this feedback, and an experiment that tests it on users:"),
  make("pre", {}, `$ drpo-optimizer improve --store PLACE ${name && `--experiment ${name} `}--bundle NOW --base-url URL --out improve-1`));
