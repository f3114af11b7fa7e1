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
  if (node.id) return `#${node.id}`;
  return node.getAttribute?.("aria-labelledby") ?? "";
}

async function look() {
  timer = 0;
  if (document.hidden) return;
  const asked = location.href;
  try {
    const answer = await fetch(asked, {
      headers: { Accept: "text/html" },
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (answer.redirected) return location.reload(); // the session has ended
    const text = await answer.text();
    if (location.href !== asked) return; // somebody has moved on meanwhile
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

function lookNow() {
  clearTimeout(timer);
  look();
}

document.addEventListener("visibilitychange", () => document.hidden || lookNow());
addEventListener("popstate", lookNow);

// Links that only change how the page shows its things: without a reload, nothing else moves.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-stay]");
  const plain = !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);
  if (!link || event.button || !plain) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  lookNow();
});

// A chart's numbers at the pointer, and a line there.
document.addEventListener("pointermove", (event) => {
  const plot = event.target.closest?.("figure[data-points] .plot");
  if (!plot) return;
  const points = JSON.parse(plot.parentElement.dataset.points);
  const { left, width } = plot.getBoundingClientRect();
  const share = Math.min(1, Math.max(0, (event.clientX - left) / width));
  const [first, last] = [points[0][0], points.at(-1)[0]];
  const wanted = first + share * (last - first);
  const far = ([at]) => Math.abs(at - wanted);
  const [at, leased, available, others] = points.reduce((a, b) => (far(b) < far(a) ? b : a));
  const line = plot.querySelector(".pointer");
  const x = last > first ? ((at - first) / (last - first)) * 600 : 0;
  line.setAttribute("x1", x);
  line.setAttribute("x2", x);
  const when = new Date(at * 1000).toISOString().slice(0, 16).replace("T", " ");
  plot.querySelector(".reading").textContent =
    `${when} UTC: ${leased} leased, ${available} can be leased, ${others} others`;
});

const keys = document.getElementById("keys");
const showKeys = document.getElementById("show-keys");
showKeys.hidden = false;
showKeys.addEventListener("click", () => keys.showModal());

const ROWS = "main tbody th a:not(.fold, .place), main .problem .what a";

// Moves the focus to the next row, or to the one before.
function step(by) {
  const rows = [...document.querySelectorAll(ROWS)].filter((row) => row.checkVisibility());
  const row = rows[rows.indexOf(document.activeElement) + by];
  row?.focus();
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const does = {
    "/": () => document.querySelector("input[type=search]")?.select(),
    "?": () => keys.showModal(),
    j: () => step(1),
    k: () => step(-1),
  }[event.key];
  if (!does) return;
  event.preventDefault();
  does();
});

again();
