// Elements. Text is only ever set as text, so that no title or reason can become markup.

/** The element with an id. */
export const byId = (id) => document.getElementById(id);

/** Makes an element with attributes and children, which are elements or texts. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** Makes an element of SVG. */
export function drawing(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Text for screen readers alone. */
export const spoken = (text) => element("span", { class: "hidden" }, text);

/** Names as in a sentence: "A", "A and B", "A, B and C". */
export function listed(names) {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

/** An id that nobody guesses. `crypto.randomUUID` is missing on pages that come over plain HTTP. */
export function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
