// The view of a bundle: its prompt, its policy, and its examples as a map and as a list that can be searched.
import {ask, bar, counted, draw, folded, make, number, say} from "/ui/parts.js";

const SIZE = 480, EDGE = 18, LISTED = 60, NEAREST = 12;

export async function bundles(place, signal, [wanted]) {
  const state = await ask("/ui/api/state", signal);
  const models = state.models.filter((one) => one.bundled);
  if (!models.length) {
    return place.append(make("section", {class: "empty"}, make("h1", {}, "No bundle is served"),
      make("p", {}, "Start the server with ", make("code", {}, "--bundle DIR"), ", or with ", make("code", {}, "--bundle default"), ".")));
  }
  const name = models.some((one) => one.id === wanted) ? wanted : models[0].id;
  const bundle = await ask(`/ui/api/bundle?model=${encodeURIComponent(name)}`, signal);
  const shown = make("div", {class: "found"});
  const map = chart(bundle, (example) => {
    map.light(null);
    shown.replaceChildren(back(), make("h2", {}, "Chosen on the map"), list([example]));
  });
  const query = make("input", {type: "search", id: "query", dir: "auto", placeholder: "A user's question"});
  const form = make("form", {class: "search"}, make("label", {for: "query"}, "Which examples does a question find?"),
    make("div", {class: "row"}, query, make("button", {type: "submit", class: "primary"}, "Search")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!query.value.trim()) return all();
    shown.setAttribute("aria-busy", "true");
    try {
      const found = await ask("/ui/api/search", signal, {model: name, query: query.value});
      const by = new Map(bundle.examples.map((one) => [one.id, one]));
      const likeness = Object.fromEntries(found.nearest.map((one) => [one.id, one.similarity]));
      map.light(found);
      const group = (title, ids) => [make("h2", {}, title),
        list(ids.map((id) => by.get(id)).filter(Boolean), likeness, new Set(found.shown))];
      const near = found.nearest.map((one) => one.id).slice(0, NEAREST);
      shown.replaceChildren(
        back(),
        ...group(shownHeading(found), found.shown),
        ...group(bundle.sets.length ? "Nearest examples, which vote for a set" : "Nearest examples", near));
      say(`${shownHeading(found)}: ${counted(found.shown.length, "example")}`);
    } catch (error) {
      if (!signal.aborted) shown.replaceChildren(make("p", {class: "trouble", role: "alert"}, error.message));
    }
    shown.removeAttribute("aria-busy");
  });
  query.addEventListener("input", () => query.value || all());
  const back = () => make("button", {type: "button", class: "idea", onclick: () => {
    query.value = "";
    query.focus();
    all();
  }}, "List all examples");
  const all = () => {
    map.light(null);
    shown.replaceChildren(...pages(bundle));
  };
  place.append(
    models.length > 1 ? make("nav", {class: "list", "aria-label": "Bundles"}, models.map((one) =>
      make("a", {href: `#bundles/${encodeURIComponent(one.id)}`, "aria-current": one.id === name ? "page" : null}, one.id))) : "",
    make("div", {class: "heading"}, make("h1", {dir: "auto"}, bundle.name), make("span", {class: "note"}, `made for ${bundle.model} · id ${bundle.id.slice(0, 12)}`)),
    make("p", {class: "note"}, `${name} has this bundle, because ${bundle.reason}.`),
    make("details", {class: "prompt", open: true}, make("summary", {}, "Prompt"), make("blockquote", {dir: "auto"}, bundle.prompt)),
    ...setPrompts(bundle),
    facts(bundle),
    make("div", {class: "split"}, make("figure", {class: "map"}, map.picture, map.caption), make("div", {}, form, shown)));
  all();
}

// Returns a list of the first examples, and a button that lists more of them.
function pages(bundle) {
  const listed = list(bundle.examples.slice(0, LISTED));
  const rest = make("p", {class: "note"});
  const button = make("button", {type: "button", class: "idea", onclick: () => {
    const from = listed.childElementCount;
    listed.append(...list(bundle.examples.slice(from, from + LISTED)).children);
    count();
  }}, `List ${LISTED} more`);
  const count = () => {
    const missing = bundle.total - listed.childElementCount;
    const isAll = listed.childElementCount === bundle.examples.length;
    rest.textContent = isAll ? `${number(missing)} more examples are not listed: search for them.` : `${number(missing)} more examples. `;
    rest.hidden = !missing;
    if (!isAll) rest.append(button);
  };
  count();
  return [listed, rest];
}

// Returns an element for each prompt that sets have instead of the bundle's prompt.
function setPrompts(bundle) {
  const prompts = [...new Set(bundle.sets.map((one) => one.prompt).filter(Boolean))];
  return prompts.map((prompt) => {
    const names = bundle.sets.filter((one) => one.prompt === prompt).map((one) => one.name);
    return make("details", {class: "prompt"}, make("summary", {}, `Prompt of the ${names.length === 1 ? "set" : "sets"} ${names.join(", ")}`), make("blockquote", {dir: "auto"}, prompt));
  });
}

function facts(bundle) {
  const policy = bundle.retrieval;
  const add = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));
  return make("dl", {class: "facts"},
    add("examples", number(bundle.total)),
    add("pinned", number(bundle.examples.filter((one) => one.pinned).length)),
    add("shown", howRetrieved(bundle, policy)),
    add("at most", counted(policy.max_injected_tokens, "token")),
    add("layout", bundle.layout),
    add("embedder", bundle.embedder),
    ...Object.entries(bundle.sampling).map(([name, value]) => add(name.replaceAll("_", " "), JSON.stringify(value))));
}

function chart(bundle, choose) {
  const at = (value) => EDGE + ((value + 1) / 2) * (SIZE - 2 * EDGE);
  const kinds = [...new Set(bundle.examples.map((one) => kindOf(bundle, one)))].sort();
  const caption = make("figcaption", {class: "note"}, "Each dot is an example; near dots are alike (two principal components of the vectors). The colour shows the kind of its example set, or its first tag. ",
    make("span", {class: "legend"}, kinds.map((kind, n) => make("span", {}, make("span", {class: `swatch kind${n % 8}`}), kind))));
  const dots = new Map();
  const points = bundle.map.map(([x, y], n) => {
    const example = bundle.examples[n];
    const dot = draw("circle", {class: `dot kind${kinds.indexOf(kindOf(bundle, example)) % 8}${example.pinned ? " pinned" : ""}`,
      cx: at(x).toFixed(1), cy: at(-y).toFixed(1), r: example.pinned ? 6 : 4,
      onclick: () => choose(example)}, draw("title", {}, example.query));
    dots.set(example.id, dot);
    return dot;
  });
  const picture = draw("svg", {viewBox: `0 0 ${SIZE} ${SIZE}`, role: "img", "aria-label": `A map of ${counted(bundle.map.length, "example")}`}, ...points);
  const light = (found) => {
    picture.classList.toggle("searched", Boolean(found));
    for (const dot of dots.values()) dot.classList.remove("near", "shown");
    for (const one of found?.nearest ?? []) dots.get(one.id)?.classList.add("near");
    for (const id of found?.shown ?? []) {
      dots.get(id)?.classList.add("shown");
      if (dots.has(id)) picture.append(dots.get(id));
    }
  };
  return {picture, caption, light};
}

// Returns the kind of the set that the example votes for. Without such a set: "pinned", the first tag, or "example".
const kindOf = (bundle, example) => bundle.sets.find((one) => one.name === example.votes_for)?.kind ?? (example.pinned ? "pinned" : example.tags[0] ?? "example");

function shownHeading(found) {
  if (found.is_below_floor) return "What the model would get: the neutral set, because no example is like the query";
  return found.set ? `What the model would get: the set ${found.set}` : "What the model would get";
}

function howRetrieved(bundle, policy) {
  const sets = policy.policy === "nearest" ? [] : bundle.sets.length === 1 ? ["the example set"]
    : [`one of ${bundle.sets.length} example sets, for which the ${policy.voters} nearest examples vote`];
  const nearest = policy.policy === "set" ? [] : [`the ${policy.k} nearest examples, ${policy.order.replace("_", " ")}`];
  const floor = policy.similarity_floor === null ? [] : [`the neutral set below a similarity of ${policy.similarity_floor}`];
  return [...sets, ...nearest, ...floor].join("; ");
}

function list(examples, likeness = {}, shown = new Set()) {
  return make("ol", {class: "examples"}, examples.map((one) => make("li", {class: shown.has(one.id) ? "shown" : ""},
    make("div", {class: "head"}, make("div", {class: "query"}, folded(make("div", {dir: "auto"}, one.query))),
      one.pinned ? make("span", {class: "tag"}, "pinned") : null,
      shown.has(one.id) ? make("span", {class: "tag strong"}, "shown") : null,
      one.id in likeness ? make("span", {class: "likeness"}, bar(likeness[one.id], `similarity ${number(likeness[one.id], 2)}`), number(likeness[one.id], 2)) : null),
    folded(make("p", {class: "response", dir: "auto"}, one.response)),
    make("p", {class: "note"}, [one.id, ...one.tags, one.votes_for ? `votes for ${one.votes_for}` : ""].filter(Boolean).join(" · ")))));
}
