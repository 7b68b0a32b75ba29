// A text field with a list of suggestions, after the combobox pattern of the ARIA Authoring Practices Guide.

import { element } from "./dom.js";

const PATIENCE = 150; // milliseconds without a key before suggestions are looked up

/**
 * Adds suggestions to a field.
 * @param input the field; its `aria-controls` names the list.
 * @param find maps a text to the promise of suggestions, `{value, label}`.
 * @param choose is called with the suggestion that the person takes.
 */
export function combobox(input, find, choose) {
  const list = document.getElementById(input.getAttribute("aria-controls"));
  let options = [];
  let active = -1;
  let timer = 0;
  let round = 0; // of the newest look-up; older ones are ignored

  function close() {
    clearTimeout(timer);
    round += 1;
    list.hidden = true;
    activate(-1);
    input.setAttribute("aria-expanded", "false");
  }

  function activate(index) {
    active = index;
    [...list.children].forEach((option, place) => option.setAttribute("aria-selected", String(place === index)));
    list.children[index]?.scrollIntoView({ block: "nearest" });
    if (index < 0) input.removeAttribute("aria-activedescendant");
    else input.setAttribute("aria-activedescendant", list.children[index].id);
  }

  function take(index) {
    const taken = options[index];
    close();
    choose(taken);
  }

  async function lookUp() {
    const mine = ++round;
    const found = await find(input.value.trim()).catch(() => []); // the field works without suggestions
    if (mine !== round) return;
    const kept = options[active]?.value; // stays chosen if the new suggestions hold it too
    options = found;
    list.replaceChildren(
      ...options.map((option, index) => {
        const shown = element("li", { role: "option", id: `${list.id}-${index}` }, option.label);
        shown.onpointerdown = (event) => event.preventDefault(); // the field keeps the focus
        shown.onclick = () => take(index);
        return shown;
      }),
    );
    list.hidden = options.length === 0;
    input.setAttribute("aria-expanded", String(options.length > 0));
    activate(options.findIndex(({ value }) => value === kept));
  }

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(lookUp, PATIENCE);
  });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) lookUp();
      else activate((active + (event.key === "ArrowDown" ? 1 : active < 0 ? 0 : -1) + options.length) % options.length);
    } else if (event.key === "Enter" && active >= 0) {
      event.preventDefault();
      take(active);
    } else if (event.key === "Escape" && !list.hidden) {
      event.preventDefault();
      close();
    }
  });
}
