// The page: who asks, what is recommended, and what the person does with it.

import { ApiError, ask, stream, withQuery } from "./api.js";
import { combobox } from "./combobox.js";
import { setUpComparison } from "./compare.js";
import { byId, element, randomId, spoken } from "./dom.js";
import { endReasons, focusPosition, setBusy, showItems, showReason } from "./list.js";
import { watchNumbers } from "./numbers.js";

const VISITOR = "llmrec-visitor"; // the random id of somebody with a history of their own
const HISTORY = "llmrec-history"; // their history, [{item, title}], oldest first
const SUGGESTIONS = 8;
const SHOWN_HISTORY = 20;
const DRAWN_PEOPLE = 1000; // of the log, out of which the next person is drawn
const ABOUT_WORDS = ["requests_not_read", "unreadable_request", "no_item_satisfies"]; // codes of errors

const titles = new Map(); // title of each item that the page has met
let list = { owner: null, requestId: null, items: new Set() }; // what is shown at present
let running = new AbortController(); // the newest request for a list

// --- who asks ---

const ofLog = () => document.querySelector("input[name=mode]:checked").value === "user";

function visitor() {
  if (!sessionStorage.getItem(VISITOR)) sessionStorage.setItem(VISITOR, `page-${randomId()}`);
  return sessionStorage.getItem(VISITOR);
}

const person = () => (ofLog() ? byId("user").value.trim() : visitor());
const ownHistory = () => JSON.parse(sessionStorage.getItem(HISTORY) ?? "[]");

function setOwnHistory(items) {
  sessionStorage.setItem(HISTORY, JSON.stringify(items));
  showHistory();
}

function addToHistory(item, title) {
  if (!ownHistory().some((one) => one.item === item)) setOwnHistory([...ownHistory(), { item, title }]);
}

function showMode() {
  byId("user-field").hidden = !ofLog();
  byId("history-field").hidden = ofLog();
  showHistory();
}

async function showHistory() {
  const who = person();
  if (!ofLog()) return fillHistory(ownHistory(), "Nothing yet. Add what you have seen, or click an item of the list.");
  if (!who) return fillHistory([], "");
  const known = await ask(`users/${encodeURIComponent(who)}`).catch((error) => {
    if (error.code === "unknown_user") return { history: [], profile: "" };
    throw error;
  });
  if (who !== person()) return; // the person was changed meanwhile
  fillHistory(known.history, "Nothing is known of this person yet.", known.profile);
}

const refreshHistory = () => showHistory().catch(() => {}); // the list that follows says what is wrong

function fillHistory(items, ifEmpty, profile = "") {
  items.forEach(({ item, title }) => titles.set(item, title));
  const newest = items.toReversed().slice(0, SHOWN_HISTORY);
  const count = items.length > newest.length ? `, the newest ${newest.length}` : "";
  const known = profile && ` Profile: ${profile}.`;
  byId("history-note").textContent = items.length ? `Items: ${items.length}${count}.${known}` : ifEmpty;
  const rows = newest.map((one) => element("li", {}, one.title, ...(ofLog() ? [] : [removeButton(one)])));
  byId("history").replaceChildren(...rows);
}

function removeButton(one) {
  const button = element("button", { type: "button" }, "Remove", spoken(` ${one.title}`));
  button.onclick = () => {
    setOwnHistory(ownHistory().filter(({ item }) => item !== one.item));
    say(`Removed ${one.title}.`);
    byId("item").focus();
  };
  return button;
}

// --- recommendations ---

/** Ends the request before and starts another; null if nobody is chosen. */
function begin(comparing) {
  running.abort();
  running = new AbortController();
  const user = person();
  if (!user) {
    byId("user").focus();
    complain("Give the id of a person.");
    return null;
  }
  complain("");
  byId("recommendations").hidden = comparing;
  byId("comparison").hidden = !comparing;
  const words = byId("words").value.trim();
  const body = { user, k: Number(byId("count").value) };
  if (!ofLog()) body.history = ownHistory().map(({ item }) => item);
  if (words) body.request = words;
  return { body, signal: running.signal };
}

async function recommend(focus = null) {
  const started = begin(false);
  if (!started) return;
  const { body, signal } = started;
  const owner = body.user;
  byId("list").setAttribute("aria-busy", "true");
  try {
    for await (const [name, value] of stream("recommend", { body: { ...body, reasons: "stream" }, signal })) {
      if (name === "items") showList(owner, value, focus);
      else if (name === "reason") showReason(value, titles);
      else if (name === "error") complain(value.error.message);
    }
    say(`${list.items.size} recommendations with reasons.`);
  } catch (error) {
    if (error.name === "AbortError") return;
    empty();
    if (focus) byId("list-title").focus();
    refuse(error);
  } finally {
    if (!signal.aborted) {
      endReasons();
      byId("list").removeAttribute("aria-busy");
    }
  }
}

function showList(owner, answer, focus) {
  const before = owner === list.owner ? list.items : new Set();
  list = { owner, requestId: answer.request_id, items: new Set(answer.items.map(({ item }) => item)) };
  answer.items.forEach(({ item, title }) => titles.set(item, title));
  showItems(answer.items, before, guarded(act));
  byId("policy").textContent = `policy ${answer.policy}`;
  const notes = [`For ${ofLog() ? owner : "your history"}, best first.`];
  if (answer.sampled) notes.push("This list was drawn at random, as a share of all lists is.");
  if (!answer.recorded) notes.push("The store fails at present, so this list was not recorded.");
  byId("list-note").textContent = notes.join(" ");
  if (focus) focusPosition(focus);
}

/** Starts a comparison. The list of one version, and its name, leave the page. */
function beginComparison() {
  const started = begin(true);
  if (!started) return null;
  empty();
  byId("list").removeAttribute("aria-busy");
  byId("policy").textContent = "";
  return started;
}

/** Chooses another person of the log at random. */
async function otherPerson() {
  const { users } = await ask(withQuery("users", { limit: DRAWN_PEOPLE }));
  const others = users.filter((id) => id !== person());
  if (others.length) byId("user").value = others[Math.floor(Math.random() * others.length)];
  refreshHistory();
}

function empty() {
  list = { owner: null, requestId: null, items: new Set() };
  byId("list").replaceChildren();
  byId("list-note").textContent = "";
}

/** Stores what the person did with an item, then asks for the next list. */
async function act(item, type, past) {
  const { owner, requestId } = list;
  setBusy(true);
  const event = { event_id: randomId(), user: owner, item: item.item, type, request_id: requestId };
  try {
    await ask("feedback", { body: { events: [event] } });
  } catch (error) {
    setBusy(false);
    return complain(`Not stored: ${error.message}`);
  }
  say(`Stored: ${past} ${item.title}.`);
  if (owner !== person()) return empty();
  if (!ofLog() && type !== "skip") addToHistory(item.item, item.title);
  else await refreshHistory();
  await recommend(item.position);
}

// --- what the page says ---

const say = (text) => (byId("status").textContent = text);
const complain = (text) => (byId("problem").textContent = text);

function refuse(error) {
  complain(error.message);
  if (ABOUT_WORDS.includes(error.code)) byId("words").focus();
}

function guarded(action) {
  return (...values) =>
    Promise.resolve(action(...values)).catch((error) => {
      complain(error instanceof ApiError ? error.message : `The page failed: ${error.message}`);
      if (!(error instanceof ApiError)) throw error;
    });
}

// --- start ---

combobox(
  byId("user"),
  async (text) => {
    const found = await ask(withQuery("users", { query: text, limit: SUGGESTIONS }));
    return found.users.map((id) => ({ value: id, label: id }));
  },
  guarded(({ value }) => {
    byId("user").value = value;
    return showHistory();
  }),
);
combobox(
  byId("item"),
  async (text) => {
    const found = await ask(withQuery("items", { query: text, limit: SUGGESTIONS }));
    return found.items.map(({ item, title }) => ({ value: item, label: title }));
  },
  ({ value, label }) => {
    byId("item").value = "";
    addToHistory(value, label);
    say(`Added ${label}.`);
  },
);
document.querySelectorAll("input[name=mode]").forEach((choice) => choice.addEventListener("change", guarded(showMode)));
byId("user").addEventListener("change", guarded(showHistory));
byId("start-over").addEventListener("click", () => {
  sessionStorage.removeItem(VISITOR);
  setOwnHistory([]);
  empty();
  say("The history is empty.");
});
byId("form").addEventListener("submit", guarded((event) => {
  event.preventDefault();
  refreshHistory();
  return recommend();
}));
setUpComparison({ begin: beginComparison, other: otherPerson, say, refuse, guarded });

guarded(async () => {
  const { total, users } = await ask(withQuery("users", { limit: 1 }));
  if (total) byId("user").value = users[0];
  else {
    const [log, own] = document.querySelectorAll("input[name=mode]");
    log.disabled = true;
    own.checked = true;
  }
  await showMode();
  watchNumbers();
})();
