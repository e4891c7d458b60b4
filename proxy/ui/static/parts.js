// Functions that create elements and send requests. A text becomes a text node, never markup.

export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function draw(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value);
  }
  element.append(...children.flat());
  return element;
}

// Returns a bar. Its length is set through the DOM, because the content security policy allows no style attributes.
export function bar(share, label = "") {
  const fill = make("span", {class: "fill"});
  fill.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return make("span", {class: "bar", role: "img", "aria-label": label}, fill);
}

// Returns an element whose picture is drawn again for each width that the element gets, so that its texts keep their size.
export function fitted(picture, widest = 900) {
  const frame = make("div", {class: "fitted"});
  let drawn = 0;
  new ResizeObserver(() => {
    const width = Math.min(widest, Math.floor(frame.clientWidth));
    if (width === drawn || !width) return;
    drawn = width;
    frame.replaceChildren(picture(width));
  }).observe(frame);
  return frame;
}

// Returns a text of people or of a model, and a button for the rest of it where it has more than a few lines.
export function folded(element) {
  element.classList.add("folded");
  const button = make("button", {type: "button", class: "unfold", hidden: true, "aria-expanded": "false", onclick: () => {
    const isFolded = element.classList.toggle("folded");
    button.setAttribute("aria-expanded", String(!isFolded));
    button.textContent = isFolded ? "Show all" : "Show less";
  }}, "Show all");
  new ResizeObserver(() => {
    if (element.classList.contains("folded")) button.hidden = element.scrollHeight <= element.clientHeight + 1;
  }).observe(element);
  return [element, button];
}

// Returns a long text with a scroll bar. It can have the focus, so that people without a mouse can scroll it.
export const scroller = (label, attributes, ...children) =>
  make("pre", {...attributes, tabindex: 0, role: "group", "aria-label": label}, ...children);

// Lets a screen reader say a text that others see elsewhere on the page.
export const say = (text) => document.getElementById("said").replaceChildren(text);

export async function ask(path, signal, body) {
  const sent = body === undefined
    ? {signal}
    : {signal, method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)};
  let reply;
  try {
    reply = await fetch(path, sent);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  if (!reply.ok) throw new Error(await reason(reply));
  return reply.json();
}

export async function reason(reply) {
  try {
    return (await reply.json()).error.message;
  } catch {
    return `The server answered ${reply.status}.`;
  }
}

// Yields the parsed data of each server-sent event of a reply, until [DONE] or the end of the stream.
export async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const {done, value} = await reader.read();
    held += value ?? "";
    const whole = held.split(/\r?\n\r?\n/);
    held = whole.pop();
    for (const event of whole) {
      const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim());
      if (data.join("\n") === "[DONE]") return;
      if (data.length) yield JSON.parse(data.join("\n"));
    }
    if (done) return;
  }
}

export const number = (value, digits = 0) =>
  value === null || value === undefined
    ? "–"
    : value.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits, signDisplay: "negative"}); // no -0

/** A count with its noun, such as "1 row" and "2 rows". */
export const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

export const seconds = (value) =>
  value === null || value === undefined ? "–" : value < 1 ? `${number(value * 1000)} ms` : `${number(value, 2)} s`;

export const percent = (value, digits = 0) =>
  value === null || value === undefined ? "–" : `${number(value * 100, digits)} %`;
