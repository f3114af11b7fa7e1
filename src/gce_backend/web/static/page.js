"use strict";

// Keeps the page as it would be after a reload, without one: asks for the same address every few
// seconds while somebody looks, and changes only what has changed. What is not touched keeps its
// focus, its selection, its scroll position, and what was opened or typed.

const EVERY_MS = 5000;
const PATIENCE_MS = 10000;

const freshness = document.getElementById("freshness");
let lost = null; // since when the daemon has not answered
let timer = 0;

// Makes `present` like `wanted`, a node of the same kind.
function follow(present, wanted) {
  if (present.isEqualNode(wanted)) return;
  if (present.nodeType !== Node.ELEMENT_NODE) {
    present.nodeValue = wanted.nodeValue;
    return;
  }
  for (const { name } of [...present.attributes]) {
    const opened = name === "open" && present.localName === "details";
    if (!wanted.hasAttribute(name) && !opened) present.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    const opened = name === "open" && present.localName === "details";
    if (present.getAttribute(name) !== value && !opened) present.setAttribute(name, value);
  }
  followChildren(present, wanted);
}

// Elements with a name are the same wherever they stand; others are matched by their place.
function followChildren(present, wanted) {
  const known = new Map();
  for (const child of present.children) if (nameOf(child)) known.set(nameOf(child), child);
  let place = present.firstChild;
  for (const child of [...wanted.childNodes]) {
    const same = known.get(nameOf(child)) ?? (isLike(place, child) ? place : null);
    if (same === null || !isLike(same, child)) {
      present.insertBefore(child, place);
      continue;
    }
    known.delete(nameOf(child));
    if (same === place) place = place.nextSibling;
    else present.insertBefore(same, place);
    follow(same, child);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function isLike(one, other) {
  return one !== null && one.nodeName === other.nodeName && nameOf(one) === nameOf(other);
}

function nameOf(node) {
  return node.id || node.getAttribute?.("aria-labelledby") || "";
}

async function look() {
  timer = 0;
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, {
      headers: { Accept: "text/html" },
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (answer.redirected) return location.reload(); // the session has ended
    const text = await answer.text();
    const page = new DOMParser().parseFromString(text, "text/html");
    if (!page.getElementById("main")) throw new Error("no page of ours");
    lost = null;
    document.title = page.title;
    follow(document.getElementById("main"), page.getElementById("main"));
    follow(freshness, page.getElementById("freshness"));
    document.documentElement.classList.remove("lost");
  } catch {
    lost ??= new Date();
    freshness.textContent =
      `Not reachable since ${lost.toLocaleTimeString()}: this is what was known then.`;
    document.documentElement.classList.add("lost");
  }
  again();
}

function again() {
  if (!timer) timer = setTimeout(look, EVERY_MS);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  clearTimeout(timer);
  look();
});
again();
