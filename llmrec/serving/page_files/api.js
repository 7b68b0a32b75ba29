// The routes of the server, and the API key if it asks for one.

import { byId } from "./dom.js";

const KEY = "llmrec-key";
let asking = null; // the promise of a key while the dialog is open

/** An answer that is an error, with its code and its message for people. */
export class ApiError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** Sends a request and returns the response. Asks for a key as often as the server refuses one. */
export async function send(path, { body, signal } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...(body && { "Content-Type": "application/json" }), ...(key && { "X-API-Key": key }) };
    const options = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal };
    const response = await fetch(path, options).catch((error) => {
      throw error.name === "AbortError" ? error : new ApiError("unreachable", "The server does not answer.");
    });
    if (response.ok) return response;
    if (response.status !== 401) throw await errorOf(response);
    if (key === sessionStorage.getItem(KEY)) await askForKey(key !== null);
  }
}

/** Sends a request and returns the JSON of its answer. */
export const ask = async (path, options) => (await send(path, options)).json();

/** A path with a query. */
export const withQuery = (path, values) => `${path}?${new URLSearchParams(values)}`;

/** Sends a request and yields the server-sent events of its answer, as pairs of a name and a value. */
export async function* stream(path, options) {
  const response = await send(path, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const [name, data] = part.split("\n").map((line) => line.slice(line.indexOf(": ") + 2));
      yield [name, JSON.parse(data)];
    }
  }
}

async function errorOf(response) {
  const answer = await response.json().catch(() => null);
  const { code = "unknown", message = `The server answers ${response.status}.` } = answer?.error ?? {};
  return new ApiError(code, message);
}

function askForKey(refused) {
  asking ??= new Promise((resolve, reject) => {
    const dialog = byId("key-dialog");
    byId("key-note").textContent = refused
      ? "The server does not know this key. Give another one."
      : "This server asks for a key. It stays in this tab until you close it.";
    byId("key").value = "";
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEY, byId("key").value.trim());
      dialog.onclose = null;
      dialog.close();
      resolve();
    };
    byId("key-cancel").onclick = () => dialog.close();
    dialog.onclose = () => reject(new ApiError("unauthorized", "Without a key the server answers nothing."));
    dialog.showModal();
  }).finally(() => {
    asking = null;
  });
  return asking;
}
