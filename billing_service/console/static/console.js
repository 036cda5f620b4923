// The pages work without this. It searches while one types, copies text, and shows what changes.
"use strict";
(() => {
  let latest = 0;
  let copied;
  // Show the buttons that copy: without a script, or where the browser lets none copy, they would do nothing. What was
  // copied a moment ago says so, also when its part of the page is fetched again meanwhile.
  function reveal(shown) {
    shown.querySelectorAll("button[data-copy]").forEach((button) => {
      button.hidden = !navigator.clipboard;
      button.dataset.label ??= button.textContent;
      button.textContent = copied === button.dataset.copy ? "Copied" : button.dataset.label;
    });
  }
  // Fetch an address of the console, and put its parts that have these ids in the place of those shown.
  async function refresh(address, ids) {
    const mine = ++latest;
    const response = await fetch(address, { cache: "reload" });
    if (!response.ok || response.redirected || mine !== latest) return;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const id of ids) {
      const [old, next] = [document.getElementById(id), page.getElementById(id)];
      if (next) reveal(next);
      if (old && next && old.innerHTML !== next.innerHTML) {
        const open = [...old.querySelectorAll("details")].map((each) => each.open);
        const reachable = (part) => [...part.querySelectorAll("a[href], button, input, summary, [tabindex]")];
        const focused = reachable(old).indexOf(document.activeElement);
        next.querySelectorAll("details").forEach((each, n) => { each.open = open[n] || each.open; });
        old.replaceWith(next);
        if (focused >= 0) reachable(next)[focused]?.focus({ preventScroll: true });
      }
    }
  }
  const search = document.querySelector("form[data-search]");
  if (search) {
    let timer;
    search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        const fields = new URLSearchParams([...new FormData(search)].filter(([, value]) => value));
        const address = `${search.getAttribute("action")}?${fields}`;
        history.replaceState(null, "", address);
        refresh(address, [search.dataset.search]);
      }, 150);
    });
  }
  // What is issued part by part goes on by itself, once somebody has begun it in this window. A link cannot begin it.
  const part = document.querySelector("form[data-part]");
  const isBegun = part?.elements.after && sessionStorage.getItem("part") === part.dataset.part;
  sessionStorage.removeItem("part");
  part?.addEventListener("submit", () => sessionStorage.setItem("part", part.dataset.part));
  if (isBegun && !document.querySelector("[role=alert]")) part.requestSubmit();
  const { events, live } = document.body.dataset;
  const followed = document.getElementById("followed");
  let source, isDue = false, isBusy = false;
  // Fetch again: what changes meanwhile is fetched afterwards, after a pause as long as that took.
  async function change() {
    isDue = true;
    if (isBusy) return;
    isBusy = true;
    while (isDue) {
      isDue = false;
      const began = performance.now();
      await refresh(location.href, live.split(" ")).catch(() => {});
      await new Promise((done) => { setTimeout(done, Math.max(300, performance.now() - began)); });
    }
    isBusy = false;
    again();
  }
  // A page of which a part is still being read says after how many milliseconds to fetch again.
  function again() {
    const due = document.querySelector("[data-again]");
    if (due && source?.readyState === EventSource.OPEN) setTimeout(change, Number(due.dataset.again));
  }
  // Only the page that is looked at listens: a browser has few connections to one host.
  function listen() {
    source?.close();
    if (followed) followed.textContent = "";
    if (document.hidden) return;
    source = new EventSource(events);
    source.onopen = () => { followed.textContent = "The page follows what changes."; };
    source.onerror = () => { followed.textContent = ""; };
    ["reset", "totals", "refusals", "statements"].forEach((name) => source.addEventListener(name, change));
  }
  if (events) {
    document.addEventListener("visibilitychange", listen);
    addEventListener("pageshow", (event) => { if (event.persisted) listen(); });
    listen();
  }
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    const from = document.getElementById(button.dataset.copy);
    await navigator.clipboard.writeText(from.href ?? from.textContent);
    copied = button.dataset.copy;
    reveal(document);
    setTimeout(() => { copied = undefined; reveal(document); }, 1500);
  });
  reveal(document);
})();
