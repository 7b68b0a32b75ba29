// The list of recommendations: items at once, a reason in each as it arrives.

import { byId, element, listed, spoken } from "./dom.js";

const ACTIONS = [
  ["click", "Click", "clicked"],
  ["purchase", "Buy", "bought"],
  ["skip", "Not interested", "not interested in"],
];

/**
 * Shows the items of a list.
 * @param items of the server's answer.
 * @param before ids of the items of the list before; empty if it was for somebody else.
 * @param act is called with an item, the type of an event and its words for people.
 */
export function showItems(items, before, act) {
  byId("list").replaceChildren(...items.map((item) => row(item, before.size > 0 && !before.has(item.item), act)));
}

function row(item, isNew, act) {
  const title = element("h3", { tabindex: "-1" }, item.title);
  const head = element("div", { class: "head" }, element("span", { class: "place" }, `${item.position}.`), title);
  head.append(element("span", { class: "share" }, `${percent(item.score)} probability`));
  if (isNew) head.append(element("span", { class: "badge" }, "new"));
  if (item.satisfies !== undefined) {
    const [kind, text] = item.satisfies ? ["good", "fits the request"] : ["bad", "does not fit the request"];
    head.append(element("span", { class: `badge ${kind}` }, text));
  }
  const buttons = ACTIONS.map(([type, label, past]) => {
    const button = element("button", { type: "button" }, label, spoken(` ${item.title}`));
    button.onclick = () => act(item, type, past);
    return button;
  });
  const reason = element("div", { class: "reason" }, element("p", { class: "note" }, "The reason is being written."));
  return element("li", {}, head, reason, element("div", { class: "actions" }, ...buttons));
}

/** Marks the statements of a reason, and says which of them is true of what. `titles` maps ids of items to titles. */
export function showReason(reason, titles) {
  const text = element("p", {});
  const claims = [];
  for (const one of reason.statements) {
    if (typeof one.true !== "boolean") {
      text.append(one.text);
      continue;
    }
    const verdict = one.true ? "true" : "false";
    const words = one.text.trimStart();
    text.append(one.text.slice(0, -words.length), element("mark", { class: verdict }, words, spoken(` (${verdict})`)));
    claims.push(element("li", {}, claim(one, titles)));
  }
  const place = byId("list").children[reason.position - 1].querySelector(".reason");
  place.replaceChildren(text);
  if (!reason.grounded) {
    place.append(element("p", {}, element("span", { class: "badge bad" }, "not grounded: incomplete, or something is false")));
  }
  if (claims.length) {
    place.append(element("details", {}, element("summary", {}, "What is true of what"), element("ul", {}, ...claims)));
  }
}

function claim(statement, titles) {
  const text = statement.text.trim();
  const names = statement.about.map((item) => titles.get(item) ?? item);
  if (statement.about.length === 1 && text === `"${names[0]}"`) {
    return statement.true ? `✓ ${text} is in the history` : `✗ ${text} is not in the history`;
  }
  if (!names.length) return `✗ “${text}” cannot be checked`;
  return `${statement.true ? "✓" : "✗"} “${text}” is ${statement.true ? "" : "not "}true of ${listed(names)}`;
}

/** Takes back that reasons are being written, where none arrived. */
export function endReasons() {
  byId("list").querySelectorAll(".reason > .note").forEach((note) => note.remove());
}

/** Moves the focus to the item at a position, or to the last one. */
export function focusPosition(position) {
  const rows = byId("list").children;
  rows[Math.min(position, rows.length) - 1]?.querySelector("h3").focus();
}

/** Allows or forbids the buttons of the list, while an action is being stored. */
export function setBusy(busy) {
  byId("list").querySelectorAll("button").forEach((button) => (button.disabled = busy));
}

function percent(share) {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}
