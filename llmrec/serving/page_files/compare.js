// Two versions side by side. Until the person has voted, only the server knows which is which.

import { ask } from "./api.js";
import { byId, element } from "./dom.js";

const CHOICES = {
  left: "You prefer the left list.",
  right: "You prefer the right list.",
  tie: "You see no difference.",
};
const SELECTS = ["first-version", "second-version"];

let waiting = null; // id of the comparison that waits for a vote

/**
 * Sets up the section.
 * @param page what the rest of the page does: `begin` starts a request and returns `{body, signal}`, or null if nobody
 * is chosen; `other` chooses another person; `say`, `refuse` and `guarded` report.
 */
export function setUpComparison(page) {
  const start = (focus) => compare(page, focus);
  byId("compare").addEventListener("click", page.guarded(() => start(false)));
  byId("compare-these").addEventListener("click", page.guarded(() => start(true)));
  byId("next-person").addEventListener("click", page.guarded(async () => {
    await page.other();
    return start(true);
  }));
  for (const button of voteButtons()) {
    button.addEventListener("click", page.guarded(() => vote(page, button.dataset.verdict)));
  }
  onOpening("versions", () => !byId(SELECTS[0]).options.length, page.guarded(fillVersions));
  onOpening("tally", () => !byId("tally-list").children.length, page.guarded(fillTally));
}

const voteButtons = () => document.querySelectorAll("[data-verdict]");

function onOpening(id, needed, fill) {
  byId(id).addEventListener("toggle", () => byId(id).open && needed() && fill());
}

// --- lists ---

async function compare(page, focus) {
  const started = page.begin();
  if (!started) return;
  const { body, signal } = started;
  clear();
  if (byId(SELECTS[0]).options.length) body.versions = SELECTS.map((id) => Number(byId(id).value));
  byId("next-person").hidden = Boolean(body.history);
  byId("sides").setAttribute("aria-busy", "true");
  try {
    show(await ask("comparisons", { body, signal }), body.history ? "your history" : body.user, page);
    if (focus) byId("comparison-title").focus();
  } catch (error) {
    if (error.name === "AbortError") return;
    page.refuse(error);
  } finally {
    if (!signal.aborted) byId("sides").removeAttribute("aria-busy");
  }
}

/** Takes away the lists and all that names a version, except what the person has chosen. */
function clear() {
  waiting = null;
  allowVotes(false);
  byId("tally").open = false;
  for (const id of ["left", "right", "tally-list"]) byId(id).replaceChildren();
  for (const id of ["comparison-note", "verdict"]) byId(id).textContent = "";
}

function show(answer, who, page) {
  waiting = answer.comparison_id;
  for (const side of ["left", "right"]) byId(side).replaceChildren(...answer[side].map(row));
  const equal = JSON.stringify(answer.left) === JSON.stringify(answer.right);
  byId("comparison-note").textContent = `For ${who}, best first.${equal ? " The two lists are equal." : ""}`;
  allowVotes(true);
  page.say(equal ? "Two equal lists." : "Two lists. Which one is better?");
}

function row({ title }, index) {
  return element("li", {}, element("span", { class: "place" }, `${index + 1}.`), " ", title);
}

// --- votes ---

const allowVotes = (allowed) => voteButtons().forEach((button) => (button.disabled = !allowed));

async function vote(page, verdict) {
  const voted = waiting;
  allowVotes(false);
  let answer;
  try {
    answer = await ask(`comparisons/${voted}/vote`, { body: { verdict } });
  } catch (error) {
    if (voted === waiting) allowVotes(true);
    throw error;
  }
  if (voted !== waiting) return; // the person went on meanwhile
  const names = `Left was ${answer.left}, right was ${answer.right}.`;
  byId("verdict").textContent = `${CHOICES[verdict]} ${names}`;
  page.say(byId("verdict").textContent);
  byId(byId("next-person").hidden ? "comparison-title" : "next-person").focus();
  await fillTally();
  if (voted === waiting) byId("tally").open = true;
  else byId("tally-list").replaceChildren();
}

async function fillTally() {
  const { pairs } = await ask("comparisons");
  const rows = pairs.map((pair) => element("li", {}, sentence(pair)));
  byId("tally-list").replaceChildren(...(rows.length ? rows : [element("li", {}, "There are no votes yet.")]));
}

function sentence(pair) {
  const { first, second, share, low, high } = pair;
  const votes = `${first}: ${pair.first_better}, ${second}: ${pair.second_better}, no difference: ${pair.ties}.`;
  if (share === null) return votes;
  const interval = `95 % interval ${percent(low)} to ${percent(high)}`;
  return `${votes} Of the votes for either, ${percent(share)} are for ${first} (${interval}).`;
}

const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

// --- versions ---

async function fillVersions() {
  const found = await ask("versions");
  const few = !found.default.length;
  byId("versions-note").textContent = few
    ? "The server has one version only."
    : "You know the two, but not which is on which side.";
  byId("versions-form").hidden = few;
  if (few) return;
  SELECTS.forEach((id, place) => {
    byId(id).replaceChildren(
      ...found.versions.map(({ version, policy, state }) => {
        const chosen = version === found.default[place] ? { selected: "" } : {};
        return element("option", { value: version, ...chosen }, `${version} (${state}, ${policy})`);
      }),
    );
  });
}
