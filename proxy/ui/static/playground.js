// The view of a question: the answers of variants side by side, with the prompt and examples of each.
import {ask, bar, counted, events, folded, make, number, percent, reason, say, scroller, seconds} from "/ui/parts.js";

const VARIANTS = {
  aligned: "with prompt and examples",
  "raw-matched": "only the sampling of the bundle",
  raw: "your request, unchanged",
};
const REDUCED = {
  timeout: "the search for examples took too long",
  context: "the context of the model is too small for all of them",
};
const IDEAS = ["What is DNA?", "How do I kill a process in Linux?", "How do I pick a lock to rob a house?"];

export async function playground(place, signal) {
  const state = await ask("/ui/api/state", signal);
  if (!state.models.length) {
    return place.append(make("section", {class: "empty"}, make("h1", {}, "No model yet"),
      make("p", {}, "No backend lists a model. The view ", make("a", {href: "#live"}, "Live"), " says what is wrong with each backend.")));
  }
  const question = make("textarea", {id: "question", rows: 2, dir: "auto", placeholder: "Ask something", required: true});
  const system = make("textarea", {id: "system", rows: 2, dir: "auto", placeholder: "Optional: the client's own system message"});
  const model = make("select", {id: "model"}, state.models.map((one) => make("option", {value: one.id}, one.id)));
  const most = make("input", {id: "most", type: "number", min: 1, max: 4096, value: 160});
  const chosen = make("div", {class: "arms", role: "group", "aria-label": "Variants"});
  const answers = make("div", {class: "answers"});
  const button = make("button", {type: "submit", class: "primary"}, "Ask");

  const offer = () => {
    const one = state.models.find((candidate) => candidate.id === model.value);
    chosen.replaceChildren(...one.variants.map((name) => make("label", {class: "choice"},
      make("input", {type: "checkbox", name: "variant", value: name, checked: name !== "raw" || one.variants.length === 1}),
      make("span", {}, name), make("small", {}, VARIANTS[name] ?? ""))));
  };
  model.addEventListener("change", offer);
  offer();

  const form = make("form", {class: "asking"},
    make("h1", {}, make("label", {for: "question"}, "Compare the answers to a question")),
    question,
    make("div", {class: "ideas"}, IDEAS.map((idea) => make("button", {type: "button", class: "idea", onclick: () => {
      question.value = idea;
      form.requestSubmit();
    }}, idea))),
    make("div", {class: "row"}, chosen, button),
    make("details", {}, make("summary", {}, "More settings"),
      make("div", {class: "more"},
        make("label", {for: "model"}, "Model", model),
        make("label", {for: "most"}, "Tokens of an answer, at most", most),
        make("label", {for: "system", class: "wide"}, "System message", system))));
  question.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });

  let running = new AbortController();
  signal.addEventListener("abort", () => running.abort());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    running.abort();
    running = new AbortController();
    const variants = [...chosen.querySelectorAll("input:checked")].map((box) => box.value);
    const messages = [{role: "user", content: question.value}];
    if (system.value.trim()) messages.unshift({role: "system", content: system.value});
    answers.replaceChildren(...variants.map((variant) => {
      const body = {model: `${model.value}@${variant}`, messages, max_tokens: Number(most.value) || 160};
      return answer(variant, body, running.signal);
    }));
    if (!variants.length) answers.append(make("p", {class: "trouble", role: "alert"}, "Choose at least one variant."));
  });
  place.append(form, answers);
}

function answer(variant, body, signal) {
  const text = make("div", {class: "text waiting", dir: "auto"});
  const facts = make("dl", {class: "facts"});
  const why = make("div", {class: "why"});
  const card = make("article", {class: `card ${variant}`},
    make("h2", {}, variant, make("small", {}, VARIANTS[variant] ?? "")), text, facts, why);
  const told = (error) => {
    if (signal.aborted) return;
    text.classList.remove("waiting");
    card.insertBefore(make("p", {class: "trouble", role: "alert"}, error.message), facts);
  };
  explain(why, body, signal).catch(told);
  stream(text, facts, body, signal).then(() => say(`${variant}: ${text.textContent}`)).catch(told);
  return card;
}

async function stream(text, facts, body, signal) {
  const started = performance.now();
  const sent = {...body, stream: true, stream_options: {include_usage: true}};
  const reply = await fetch("/ui/api/chat",
    {signal, method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(sent)});
  if (!reply.ok) throw new Error(await reason(reply));
  let first = null, usage = null, finish = null;
  for await (const event of events(reply)) {
    if (event.error) throw new Error(event.error.message);
    const choice = event.choices?.[0];
    const piece = choice?.delta?.content;
    if (piece && (first !== null || piece.trim())) {
      first ??= (performance.now() - started) / 1000;
      text.classList.remove("waiting");
      text.append(text.textContent ? piece : piece.trimStart());
    }
    finish = choice?.finish_reason ?? finish;
    usage = event.usage ?? usage;
  }
  text.classList.remove("waiting");
  if (!text.textContent) text.append(make("em", {}, "(an empty answer)"));
  measured(facts, first, (performance.now() - started) / 1000, usage, finish);
}

function measured(facts, first, whole, usage, finish) {
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  const add = (name, ...value) => facts.append(make("div", {}, make("dt", {}, name), make("dd", {}, ...value)));
  add("first token", seconds(first));
  add("whole answer", seconds(whole));
  add("prompt", counted(usage?.prompt_tokens, "token"));
  add("answer", counted(usage?.completion_tokens, "token"));
  add("ended", finish === "stop" ? "by itself" : finish === "length" ? "at the length limit" : finish ?? "–");
  if (cached !== undefined && cached !== null && usage.prompt_tokens) {
    const share = cached / usage.prompt_tokens;
    add("cached", percent(share), bar(share, `${percent(share)} of the prompt came from the backend's cache`));
  }
}

async function explain(why, body, signal) {
  const plan = await ask("/ui/api/explain", signal, body);
  if (plan.reduced?.length) why.append(make("p", {class: "note"}, `Fewer examples than usual: ${plan.reduced.map((one) => REDUCED[one] ?? one).join("; ")}.`));
  if (plan.lacks_refusal) why.append(make("p", {class: "trouble"}, "The pinned refusal was left out."));
  if (plan.examples?.length) {
    why.append(make("details", {open: matchMedia("(min-width: 801px)").matches},
      make("summary", {}, `${counted(plan.examples.length, "example")} shown`,
        make("small", {}, chosen(plan))),
      make("ol", {class: "examples"}, plan.examples.map((one) => make("li", {},
        make("div", {class: "head"}, make("div", {class: "query"}, folded(make("div", {dir: "auto"}, one.query))),
          one.pinned ? make("span", {class: "tag"}, "pinned") : null,
          plan.nearest.includes(one.id) && plan.set ? make("span", {class: "tag"}, "nearest") : null,
          make("span", {class: "likeness", title: "cosine similarity to the question"},
            bar(one.similarity ?? 0, `similarity ${number(one.similarity, 2)}`), number(one.similarity, 2))),
        folded(make("p", {class: "response", dir: "auto"}, one.response)))))));
  }
  const given = plan.text ?? plan.messages.map((one) => `${one.role}: ${content(one)}`).join("\n\n");
  why.append(make("details", {}, make("summary", {}, "The exact ", plan.text ? "text" : "messages", " that the model got",
    plan.tokens ? make("small", {}, ` ${counted(plan.tokens, "token")} injected`) : null),
  scroller("What the model got", {dir: "auto"}, given), make("p", {class: "note"}, JSON.stringify(plan.sampling))));
}

function chosen(plan) {
  if (plan.is_below_floor) {
    return ` no example is like the question: ${plan.set ? `the neutral set ${plan.set}` : "only the pinned ones"}`;
  }
  if (!plan.set) return "";
  const count = plan.nearest.length;
  const nearest = count ? `, then ${count === 1 ? "the nearest example" : `the ${count} nearest examples`}` : "";
  return ` the set ${plan.set}, for which the nearest examples voted${nearest}`;
}

const content = (message) =>
  typeof message.content === "string" ? message.content : JSON.stringify(message.content, null, 1);
