// Shows the view that the URL's fragment names. It does not depend on the content of views.
import {say} from "/ui/parts.js";
import {experiments} from "/ui/experiments.js";
import {bundles} from "/ui/bundles.js";
import {improve} from "/ui/improve.js";
import {live} from "/ui/live.js";
import {playground} from "/ui/playground.js";

const VIEWS = {playground, experiments, improve, bundles, live};
const place = document.getElementById("view");
const SCHEME = "drpo-scheme"; // where the browser keeps the choice between light and dark
let leave = () => {};

async function show() {
  const [name, ...rest] = location.hash.slice(1).split("/");
  const view = VIEWS[name] ? name : "playground";
  leave();
  const left = new AbortController();
  leave = () => left.abort();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const title = `${view[0].toUpperCase()}${view.slice(1)}`;
  document.title = `${title} · drpo`;
  say(title);
  place.replaceChildren();
  place.className = view;
  try {
    await VIEWS[view](place, left.signal, rest.map(decodeURIComponent));
  } catch (error) {
    if (!left.signal.aborted) place.append(trouble(error));
  }
}

function trouble(error) {
  const box = document.createElement("p");
  box.className = "trouble";
  box.setAttribute("role", "alert");
  box.textContent = error.message;
  return box;
}

// Without a choice, the page has the scheme of the system.
const root = document.documentElement;
if (localStorage.getItem(SCHEME)) root.dataset.scheme = localStorage.getItem(SCHEME);
document.getElementById("scheme").addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = root.dataset.scheme ?? (dark ? "dark" : "light");
  root.dataset.scheme = now === "dark" ? "light" : "dark";
  localStorage.setItem(SCHEME, root.dataset.scheme);
});
// The fragment of the URL names a view, so the link to the content moves the focus without a new fragment.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  place.focus();
});
addEventListener("hashchange", show);
show();
